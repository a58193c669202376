"""The photographs that ship inside wheels, and their patches: a set that needs no download."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from zfcore.data.decoding import Photograph
from zfcore.data.pictures import LabelledPictures
from zfcore.data.preprocessing import resized

_PHOTOGRAPHS = (
    Photograph(
        "chelsea", "Chelsea the cat",
        "The face of a tabby cat, filling the picture and turned slightly to the right: two green eyes, "
        "a pink nose below the middle, white whiskers, a dark striped forehead; the background is blurred.",
        "Stéfan van der Walt, in scikit-image", "CC0", "skimage", "data/chelsea.png", "n02124075",
    ),
    Photograph(
        "coffee", "A cup of espresso",
        "A brown cup with a white inside, full of espresso with pale foam, on a reddish-brown saucer with a "
        "small metal spoon, seen from above on a wooden table.",
        "Rachel Michetti, courtesy of Pikolo Espresso Bar, in scikit-image", "CC0",
        "skimage", "data/coffee.png", "n07920052",
    ),
    Photograph(
        "rocket", "A rocket before its launch",
        "A slim white rocket stands upright on its pad in the middle of the picture at dusk, between four "
        "lattice towers; the sky is dark blue and a row of lamps shines along the ground.",
        "SpaceX, the DSCOVR launch, in scikit-image", "public domain",
        "skimage", "data/rocket.jpg", "n04008634",
    ),
    Photograph(
        "grace_hopper", "Grace Hopper in uniform",
        "Portrait of an elderly woman in a dark naval uniform with ribbons on her chest, glasses and an "
        "officer's white cap, in front of a flag of the United States and a blue wall.",
        "James S. Davis, US Navy, in matplotlib", "public domain",
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "n03763968",
    ),
    Photograph(
        "astronaut", "Eileen Collins",
        "A smiling woman with short fair hair in an orange space suit, her helmet at the lower right; behind "
        "her a flag of the United States at the left and a model of the space shuttle at the right.",
        "NASA, in scikit-image", "public domain", "skimage", "data/astronaut.png",
    ),
    Photograph(
        "china", "A pagoda above a lake",
        "An eight-sided Chinese tower of several storeys with curved tiled roofs stands left of the middle "
        "among trees, above a wide lake under a pale sky.",
        "Daniel Buechele, in scikit-learn", "CC BY 2.0", "sklearn", "datasets/images/china.jpg",
    ),
    Photograph(
        "flower", "A dahlia",
        "A round orange dahlia with many rows of small petals, in sharp focus against dark green leaves; a "
        "second one is cut off by the lower edge.",
        "vultilion, in scikit-learn", "CC BY 2.0", "sklearn", "datasets/images/flower.jpg",
    ),
    Photograph(
        "retina", "The back of an eye",
        "An orange-red disc on black, the inside of a human eye: thin dark blood vessels branch from a "
        "bright yellow spot at the left, and a darker spot lies in the middle.",
        "Mikael Häggström, in scikit-image", "CC0", "skimage", "data/retina.jpg",
    ),
    Photograph(
        "hubble", "Hubble's extreme deep field",
        "Hundreds of galaxies, small spots and spirals in white, yellow, orange and blue, scattered over a "
        "black sky.",
        "NASA, in scikit-image", "public domain", "skimage", "data/hubble_deep_field.jpg",
    ),
    Photograph(
        "tissue", "Glands under the microscope",
        "A stained section of colon: brown, folded glands with pale gaps between them and many small blue "
        "cell nuclei on a light ground.",
        "Center for Microscopy and Molecular Imaging, in scikit-image", "no known restrictions",
        "skimage", "data/ihc.png",
    ),
)  # fmt: skip


def photographs() -> dict[str, Photograph]:
    """The ten photographs by name; the first four show something that Tiny-ImageNet has a class for."""
    return {photograph.name: photograph for photograph in _PHOTOGRAPHS}


def patches(split: str, size: int = 64) -> LabelledPictures:
    """Patches of the photographs, labelled by the photograph they come from; 4,000 ``train``, 1,000 ``val``.

    It is a data set with which to exercise the machinery, and nothing else: no claim of the paper
    can be judged on it. ``val`` patches lie within the middle 30 % of a photograph's longer side,
    ``train`` patches within the rest, so that no pixel belongs to both. Photographs are taken at
    512 px of their smaller side at most; windows of 1, 1.5 and 2 times ``size`` (smaller ones
    where the region ends) are spread evenly over each region and resized to ``size``.

    Parameters
    ----------
    split
        ``"train"`` or ``"val"``.
    size
        Side of the patches in pixels.

    Raises
    ------
    ValueError
        Unknown split, or a ``size`` for which the regions have no room.
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r}; known: train, val")
    every, labels, files = [], [], []
    names = sorted(photographs())
    for label, name in enumerate(names):
        pixels = photographs()[name].pixels
        image = Image.fromarray(resized(pixels, min(512, *pixels.shape[:2])))
        for left, top, window in _windows(image.size, split, size):
            patch = image.crop((left, top, left + window, top + window))
            every.append(np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR)))
            labels.append(label)
            files.append(f"{name} ({left}, {top}) + {window}")
    return LabelledPictures(
        torch.from_numpy(np.stack(every)).permute(0, 3, 1, 2).contiguous(),  # (N, S, S, 3) -> (N, 3, S, S)
        torch.tensor(labels),
        tuple(names),
        tuple(photographs()[name].title for name in names),
        tuple(files),
    )


def _windows(picture: tuple[int, int], split: str, size: int) -> list[tuple[int, int, int]]:
    """Square windows (left, top, side) within the regions of ``split`` in a (width, height) picture."""
    width, height = picture
    longer = max(picture)
    first, last = round(0.35 * longer), round(0.65 * longer)
    bands = [(first, last)] if split == "val" else [(0, first), (last, longer)]
    windows = []
    for n in range(100 if split == "val" else 400):
        start, stop = bands[n % len(bands)]
        side = min(round(size * (1, 1.5, 2)[n % 3]), stop - start, *picture)
        if side < size:
            raise ValueError(f"patches of {size} px do not fit; the narrowest region has {stop - start} px")
        # Multiples of the plastic number's inverse powers fill a rectangle evenly, with no random draw.
        along = start + int((n * 0.7548776662466927) % 1 * (stop - start - side + 1))
        across = int((n * 0.5698402909980532) % 1 * (min(picture) - side + 1))
        windows.append((along, across, side) if width >= height else (across, along, side))
    return windows
