"""Pictures: decoding, the preprocessing of §3, and the data sets the book stands on.

Every picture enters as 8-bit RGB. §3 resizes the smaller side, takes the centre square, subtracts
the per-pixel mean over the training pictures, and cuts ten crops (four corners and the centre,
each with its mirror image); training may instead cut at random, as Krizhevsky did.

The embedded scale stands on :func:`photographs`, ten real pictures that ship inside the wheels of
scikit-image, scikit-learn and matplotlib, so that nothing has to be downloaded.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import photographs, to_input
    from zfcore.model import load
    network, card = load("zfnet-64")
    x = to_input([photographs()["chelsea"], "my-cat.jpg"], card)      # (2, 3, 56, 56)
    network(x).softmax(1)                                             # (2, 200)

What trains and is judged comes in batches, from memory or from a pack on the disk alike::

    from zfcore.data import batches, data_set
    pictures = data_set("patches", "train", shard="0of4")             # every fourth of 4,000 patches
    for pixels in batches(pictures, torch.arange(len(pictures)).split(128)):
        ...                                                           # (128, 3, 64, 64) uint8
"""

from __future__ import annotations

from zfcore.data.decoding import Photograph, Picture, decode, title_of
from zfcore.data.machine import cores, devices_here
from zfcore.data.pictures import LabelledPictures, PackedPictures, Pictures, batches
from zfcore.data.preprocessing import (
    centre_crop,
    crop_flip,
    mean_picture,
    of_card,
    squares,
    ten_crops,
    to_input,
)
from zfcore.data.sets import (
    DATA_SETS,
    VOC_CLASSES,
    VocPictures,
    caltech,
    data_root,
    data_set,
    folder_of,
    imagenet,
    places_of,
    tiny_imagenet,
    voc,
)
from zfcore.data.shipped import patches, photographs
from zfcore.data.similar import find_duplicates, thumbnails

__all__ = [
    "DATA_SETS",
    "VOC_CLASSES",
    "LabelledPictures",
    "PackedPictures",
    "Photograph",
    "Picture",
    "Pictures",
    "VocPictures",
    "batches",
    "caltech",
    "centre_crop",
    "cores",
    "crop_flip",
    "data_root",
    "data_set",
    "decode",
    "devices_here",
    "find_duplicates",
    "folder_of",
    "imagenet",
    "mean_picture",
    "of_card",
    "patches",
    "photographs",
    "places_of",
    "squares",
    "ten_crops",
    "thumbnails",
    "tiny_imagenet",
    "title_of",
    "to_input",
    "voc",
]
