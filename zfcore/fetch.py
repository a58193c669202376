"""Brings data sets and public weights onto this machine, and looks whether what is there is whole.

A download goes on where it was interrupted, is checked against the publisher's checksum, and needs
to know before it starts that the disk has room. What is unpacked appears under its name only when
it is complete. Data sets lie in :func:`zfcore.data.data_root`, in the folders torchvision reads;
addresses and checksums are torchvision's, those of Tiny-ImageNet are its makers'.

Public weights were trained on ImageNet by others. They expect pixels p of colour c as
(p/255 − m_c)/d_c; a card of ours has one scale for all colours. So the deviation goes into the
filters of the first layer, W'_c = W_c/d_c, and the network sees (p − 255·m_c)/255: the same numbers
reach its first ReLU, and the padding's zero still means the mean colour.

Source: Zeiler & Fergus, §3 and §5, doi:10.1007/978-3-319-10590-1_53, for the data sets; pytorchcv
(O. Sémery, MIT) and torchvision (BSD-3-Clause) for the weights.

Example::

    from zfcore.fetch import check, get_data, get_weights, public
    get_data("tiny-imagenet")              # 248 MB, once
    print(check("tiny-imagenet"))          # counts, damaged files by name, a verdict
    get_weights("zfnet")                   # 230 MB, once
    network, card = public("zfnet")        # as zfcore.model.load gives them
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.data import cores, data_root, decode, places_of
from zfcore.model import ARCHITECTURES, alone_in, load, network_of, save, untrained


class FetchError(RuntimeError):
    """Something could not be brought here; the message says what, why, and what to do next."""


# ------------------------------------------------------------------------------ downloads
def _request(url: str, start: int = 0) -> Any:
    """The only way to the network: the answer to a GET of ``url`` from byte ``start`` on."""
    headers = {"User-Agent": "zfcore"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)


def download(url: str, path: str | os.PathLike, checksum: str = "", room: int = 0) -> Path:
    """Bring one file, or the rest of it; a file that is already there is only checked.

    Parameters
    ----------
    url, path
        Where the file is, and where it shall lie. Until it is whole it is called ``<path>.part``,
        and a later call goes on with that.
    checksum
        ``"<algorithm>:<hexadecimal digits>"`` with an algorithm of ``hashlib``; the first digits
        suffice. Empty: only the length is checked.
    room
        Bytes that must remain on the disk for what follows, such as unpacking.

    Raises
    ------
    FetchError
        The server cannot be reached or the connection ends early (what came is kept); the disk is
        too small (nothing is brought); the checksum is another (the file is removed).
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists():
        verify(path, checksum, url)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    try:
        _bring(url, part, have, room)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:  # 416: there is nothing beyond what lies here
            raise FetchError(f"{url} answered {error.code} {error.reason}{_by_hand(path)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(
            f"{url} could not be brought: {error}; run the same command again to go on{_by_hand(path)}"
        ) from error
    verify(part, checksum, url)
    os.replace(part, path)
    return path


def _bring(url: str, part: Path, have: int, room: int) -> None:
    """Write what ``part`` lacks beyond the ``have`` bytes that it holds."""
    with _request(url, have) as answer:
        if answer.status != 206:  # a server that cannot start in the middle starts from the beginning
            have = 0
        length = answer.headers["Content-Length"]
        total = have + int(length) if length else None
        _require_room(part.parent, (total or have) - have, room)
        bar = {"desc": part.stem, "unit": "B", "unit_scale": True, "initial": have, "total": total}
        with part.open("ab" if have else "wb") as file, tqdm(**bar) as progress:
            while block := answer.read(2**18):
                file.write(block)
                progress.update(len(block))
                have += len(block)
    if total is not None and have < total:
        raise FetchError(
            f"the connection to {url} ended after {_size(have)} of {_size(total)}; "
            "run the same command again to go on"
        )


def _by_hand(path: Path) -> str:
    return f"; a copy from elsewhere is taken as it is when it lies at {path}"


def _require_room(folder: Path, coming: int, room: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < coming + room:
        raise FetchError(
            f"{folder} has {_size(free)} left, but {_size(coming + room)} are needed ({_size(coming)} to "
            f"download, {_size(room)} for what comes out of it); make room, or set ZFCORE_DATA to a folder "
            "on a larger disk"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def verify(path: Path, checksum: str, url: str) -> None:
    """Remove ``path`` and raise :class:`FetchError` unless its checksum begins as given."""
    if not checksum:
        return
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if not digest.startswith(expected):
        path.unlink()
        raise FetchError(
            f"{path.name} is not the file that {url} should give: its {algorithm} is {digest}, not "
            f"{expected}; it was removed, so run the same command again to bring it from the beginning"
        )


# ------------------------------------------------------------------------------ data sets as values
@dataclass(frozen=True)
class Archive:
    """One file to download: its address, checksum (see :func:`download`), and name here."""

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """The name that the publisher gave it."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Split:
    """What a part of a data set should hold; ``each`` is the number per class where all have the same.

    ``classes`` is 0 where pictures have no label. An ``optional`` part may be missing altogether.
    """

    pictures: int
    classes: int
    each: int | None = None
    optional: bool = False


@dataclass(frozen=True)
class Item:
    """One picture that should be there: its part of the data set, its file, the classes it shows."""

    split: str
    path: Path
    classes: tuple[str, ...] = ()


# A layout lists the pictures of a folder, and what is wrong with the folder's own lists.
Layout = Callable[[Path], tuple[list[Item], list[str]]]


@dataclass(frozen=True)
class DataSet:
    """A data set: where it comes from, where it lies, what it should hold.

    ``folders`` are the places under the data root where it may lie, the first one that in which
    :func:`get_data` puts ``inside``, a folder of the unpacked archives (of ``nested``, where that
    is an archive within them); ``unpacked`` is its size on a disk of 4 kB blocks, in bytes, rounded up.
    """

    title: str
    folders: tuple[str, ...]
    splits: Mapping[str, Split]
    layout: Layout
    terms: str
    archives: tuple[Archive, ...] = ()
    inside: str = ""
    nested: str = ""
    unpacked: int = 0
    by_hand: str = ""

    def folder(self, root: Path) -> Path:
        """Where it lies under ``root``, or where it would."""
        places = [root / folder for folder in self.folders]
        return next((place for place in places if place.exists()), places[0])


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _lines(file: Path, faults: list[str]) -> list[str]:
    if not file.exists():
        faults.append(f"{file} is missing")
        return []
    return file.read_text(encoding="utf-8").splitlines()


def _tiny_imagenet(base: Path) -> tuple[list[Item], list[str]]:
    """``train/<wnid>/images``, ``val/images`` with ``val/val_annotations.txt``, ``test/images``."""
    items, faults = [], []
    _lines(base / "words.txt", faults)
    for wnid in sorted(_lines(base / "wnids.txt", faults)):
        items += [Item("train", path, (wnid,)) for path in _pictures(base / "train" / wnid / "images")]
    annotations = base / "val" / "val_annotations.txt"
    for number, line in enumerate(_lines(annotations, faults), 1):
        file, *rest = line.split("\t")
        if rest:
            items.append(Item("val", base / "val" / "images" / file, (rest[0],)))
        else:
            faults.append(f"{annotations}, line {number}, names no class: {line!r}")
    items += [Item("test", path) for path in _pictures(base / "test" / "images")]
    return items, faults


def _numbered(base: Path) -> tuple[list[Item], list[str]]:
    """Caltech's layout: ``<class>/<prefix>_0001.jpg`` and on; a number that is left out is a lost file."""
    items, faults = [], []
    for folder in _subfolders(base):
        paths = _pictures(folder)
        items += [Item("all", path, (folder.name,)) for path in paths]
        numbers = {int(path.stem[-4:]): path for path in paths if path.stem[-4:].isdigit()}
        lost = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
        prefix = next(iter(numbers.values())).stem[:-4] if numbers else ""
        faults += [f"{folder / f'{prefix}{number:04d}.jpg'} is missing" for number in lost]
    return items, faults


def _by_split(base: Path) -> tuple[list[Item], list[str]]:
    """ImageNet's layout in torchvision: ``<split>/<class>/<picture>``."""
    folders = [(split, folder) for split in ("train", "val") for folder in _subfolders(base / split)]
    return [Item(split, p, (folder.name,)) for split, folder in folders for p in _pictures(folder)], []


def _voc(*splits: str) -> Layout:
    """VOC's layout: names in ``ImageSets/Main``, pictures in ``JPEGImages``, objects in ``Annotations``."""

    def layout(base: Path) -> tuple[list[Item], list[str]]:
        items, faults = [], []
        for split in splits:
            for name in " ".join(_lines(base / "ImageSets" / "Main" / f"{split}.txt", faults)).split():
                annotation, classes = base / "Annotations" / f"{name}.xml", set()
                try:
                    objects = ElementTree.parse(annotation).iterfind("object/name")
                    classes = {element.text or "" for element in objects}
                except FileNotFoundError:
                    faults.append(f"{annotation} is missing")
                except ElementTree.ParseError as error:
                    faults.append(f"{annotation} cannot be read ({error})")
                items.append(Item(split, base / "JPEGImages" / f"{name}.jpg", tuple(sorted(classes))))
        return items, faults

    return layout


_VOC_TERMS = "flickr's terms of use; research. The photographs remain their owners'"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/"

#: The data sets that can be brought here or checked, by name.
DATASETS: dict[str, DataSet] = {
    "tiny-imagenet": DataSet(
        "Tiny-ImageNet-200",
        places_of("tiny-imagenet"),
        {
            "train": Split(100_000, 200, each=500),
            "val": Split(10_000, 200, each=50),
            "test": Split(10_000, 0, optional=True),  # without labels: no chapter reads it
        },
        _tiny_imagenet,
        "non-commercial research and education; the photographs remain their owners'",
        (
            Archive(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip", "md5:90528d7ca1a48142e341f4ef8d21d0de"
            ),
        ),
        inside="tiny-imagenet-200",
        unpacked=600_000_000,
    ),
    "caltech101": DataSet(
        "Caltech-101",
        places_of("caltech101"),
        {"all": Split(9_144, 102)},  # 101 and the background
        _numbered,
        "those of its record, https://data.caltech.edu/records/mzrjq-6wc02",
        (
            Archive(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "md5:3138e1922a9193bfa496528edbbc45d0",
            ),
        ),
        inside="101_ObjectCategories",
        nested="caltech-101/101_ObjectCategories.tar.gz",
        unpacked=400_000_000,
    ),
    "caltech256": DataSet(
        "Caltech-256",
        places_of("caltech256"),
        {"all": Split(30_607, 257)},  # 256 and the clutter
        _numbered,
        "those of its record, https://data.caltech.edu/records/nyy15-4j048",
        (
            Archive(
                "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
                "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
            ),
        ),
        inside="256_ObjectCategories",
        unpacked=1_400_000_000,
    ),
    "voc2012": DataSet(
        "PASCAL VOC 2012",
        places_of("voc2012"),
        {"trainval": Split(11_540, 20)},  # the test pictures are kept by the evaluation server
        _voc("trainval"),
        _VOC_TERMS,
        (Archive(f"{_VOC}voc2012/VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd"),),
        inside="VOCdevkit/VOC2012",
        unpacked=2_300_000_000,
    ),
    "voc2007": DataSet(
        "PASCAL VOC 2007",
        places_of("voc2007"),
        {"trainval": Split(5_011, 20), "test": Split(4_952, 20)},
        _voc("trainval", "test"),
        _VOC_TERMS,
        (
            Archive(f"{_VOC}voc2007/VOCtrainval_06-Nov-2007.tar", "md5:c52e279531787c972589f7e41ab4ae64"),
            Archive(f"{_VOC}voc2007/VOCtest_06-Nov-2007.tar", "md5:b6e924de25625d8de591ea690078ad9f"),
        ),
        inside="VOCdevkit/VOC2007",
        unpacked=1_500_000_000,
    ),
    "imagenette": DataSet(
        "Imagenette",
        ("imagenette2",),
        {"train": Split(9_469, 10), "val": Split(3_925, 10)},
        _by_split,
        "ImageNet's: non-commercial research and education; the photographs remain their owners'",
        (
            Archive(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
                "md5:fe2fc210e6bb7c5664d602c3cd71e612",
            ),
        ),
        inside="imagenette2",
        unpacked=1_800_000_000,
    ),
    "imagenet": DataSet(
        "ImageNet-2012",
        ("imagenet",),
        {"train": Split(1_281_167, 1000), "val": Split(50_000, 1000, each=50)},
        _by_split,
        "non-commercial research and education; the photographs remain their owners'",
        by_hand=(
            "ImageNet-2012 is given to registered researchers only, so it cannot be downloaded for you. Ask "
            "for access at https://image-net.org/download-images, take ILSVRC2012_img_train.tar (138 GB), "
            "ILSVRC2012_img_val.tar (6 GB) and ILSVRC2012_devkit_t12.tar.gz, put all three into {folder}, "
            "and let torchvision unpack them there: torchvision.datasets.ImageNet({folder!r}, split) with "
            "split 'train', then 'val'. It gives {folder}/train/<wnid>/ and {folder}/val/<wnid>/. A link to "
            "a copy in that layout will do as well. Then run `zfcore data check imagenet`, and for training "
            "`zfcore data pack imagenet`"
        ),
    ),
}


def _known(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]


def get_data(name: str, root: str | os.PathLike | None = None) -> Path:
    """Bring a data set, unless its folder is already there.

    The archives are downloaded (see :func:`download`), unpacked beside the place where the data set
    shall lie, moved there when that is complete, and removed.

    Parameters
    ----------
    name
        A key of :data:`DATASETS`.
    root
        The folder that holds the data sets; default :func:`zfcore.data.data_root`.

    Returns
    -------
    Path
        The data set's folder.

    Raises
    ------
    ValueError
        Unknown name.
    FetchError
        As :func:`download`; and for ImageNet, which must be asked for: the message says how.
    OSError
        Another process is bringing it.
    """
    wanted: DataSet = _known(DATASETS, name, "data set")
    root = Path(root or data_root()).absolute()
    folder = wanted.folder(root)
    if folder.exists():
        return folder
    if not wanted.archives:
        raise FetchError(wanted.by_hand.format(folder=str(folder)))
    with alone_in(root / name):
        return folder if folder.exists() else _bring_data(name, wanted, root)


def _bring_data(name: str, wanted: DataSet, root: Path) -> Path:
    folder = wanted.folder(root)
    archives = [download(a.url, root / a.file, a.checksum, wanted.unpacked) for a in wanted.archives]
    _require_room(root, 0, wanted.unpacked)  # they may have lain there, brought by hand
    scratch = root / f".{name}.unpacking"
    shutil.rmtree(scratch, ignore_errors=True)  # what an interrupted run left
    try:
        for archive in archives:
            _unpack(archive, scratch)
        if wanted.nested:
            _unpack(scratch / wanted.nested, scratch)
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / wanted.inside, folder)
    except OSError as error:
        raise FetchError(
            f"{wanted.title} could not be unpacked in {root}: {error}; its archives are still there, so run "
            "the same command again when that is mended"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for archive in archives:
        archive.unlink()
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as pack:
            for member in tqdm(pack.infolist(), f"unpacking {archive.name}", unit="file"):
                pack.extract(member, folder)
        return
    with tarfile.open(archive) as pack:
        for member in tqdm(pack, f"unpacking {archive.name}", unit="file"):
            pack.extract(member, folder, filter="data")


# ------------------------------------------------------------------------------ what is there
@dataclass(frozen=True)
class Report:
    """What :func:`check` found; ``print`` it for the counts, the faults and a verdict.

    ``counts[split][class]`` is the number of files, damaged ones included; a picture of VOC counts
    in every class it shows. ``pictures[split]`` is their number, ``faults`` are sentences that name
    a file or a class.
    """

    name: str
    folder: Path
    pictures: Mapping[str, int]
    counts: Mapping[str, Mapping[str, int]] = field(repr=False)
    faults: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Nothing is missing and every file can be decoded."""
        return not self.faults

    def __str__(self) -> str:
        wanted = DATASETS[self.name]
        lines = [f"{wanted.title} at {self.folder}"]
        for split, should in wanted.splits.items():
            if should.optional and not self.pictures[split]:
                lines.append(f"  {split}: not here; zfcore does without")
                continue
            of = f", {len(self.counts[split])} of {should.classes} classes" if should.classes else ""
            lines.append(f"  {split}: {self.pictures[split]:,} of {should.pictures:,} pictures{of}")
        lines += [f"  fault: {fault}" for fault in self.faults]
        if self.whole:
            lines.append("Verdict: whole.")
        else:
            remedy = "" if wanted.by_hand else f"; move the folder away and run `zfcore data get {self.name}`"
            lines.append(f"Verdict: {len(self.faults)} fault{'s' * (len(self.faults) > 1)}{remedy}.")
        return "\n".join(lines)


def check(name: str, root: str | os.PathLike | None = None) -> Report:
    """Count a data set's pictures against what it should have, and decode every one of them.

    Parameters as for :func:`get_data`; only the parts that zfcore uses are looked at.

    Raises
    ------
    ValueError
        Unknown name.
    FileNotFoundError
        The data set is not there at all; the message says how to get it.
    """
    wanted: DataSet = _known(DATASETS, name, "data set")
    folder = wanted.folder(Path(root or data_root()).absolute())
    if not folder.exists():
        raise FileNotFoundError(
            f"{wanted.title} is not at {folder}; run `zfcore data get {name}`, "
            "or set ZFCORE_DATA to the folder that holds it"
        )
    items, faults = wanted.layout(folder)
    pictures = dict.fromkeys(wanted.splits, 0)
    counts: dict[str, Counter[str]] = {split: Counter() for split in wanted.splits}
    for item, fault in zip(items, _faults([item.path for item in items]), strict=True):
        if fault:
            faults.append(fault)
        if item.path.exists():
            pictures[item.split] += 1
            counts[item.split].update(item.classes)
    for split, should in wanted.splits.items():
        faults += _miscounts(split, should, pictures[split], counts[split])
    return Report(name, folder, pictures, counts, tuple(faults))


def _miscounts(split: str, should: Split, pictures: int, counts: Mapping[str, int]) -> Iterator[str]:
    if should.optional and not pictures:
        return
    if pictures != should.pictures:
        yield f"{split} has {pictures:,} pictures, not {should.pictures:,}"
    if len(counts) != should.classes:
        yield f"{split} has {len(counts)} classes, not {should.classes}"
    for name in sorted(counts):
        if should.each is not None and counts[name] != should.each:
            yield f"{split} has {counts[name]} pictures of {name}, not {should.each}"


def _faults(paths: list[Path]) -> Iterator[str]:
    """For each file, in order: what is wrong with it, or nothing."""
    with (
        ThreadPoolExecutor(max_workers=cores()) as pool,
        tqdm(total=len(paths), unit="picture") as bar,
    ):
        for start in range(
            0, len(paths), 4096
        ):  # a future for each picture of ImageNet would fill the memory
            for fault in pool.map(_fault, paths[start : start + 4096]):
                bar.update()
                yield fault


def _fault(path: Path) -> str:
    try:
        decode(path)
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, ValueError) as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return ""


# ------------------------------------------------------------------------------ public weights
# What torchvision and pytorchcv subtract from pixels in [0, 1], and divide by, for red, green, blue.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

_PYTORCHCV = "https://github.com/osmr/imgclsmob/releases/download"
_VARIANT = (
    "trained by the authors of pytorchcv: {} with pools that stick out instead of padding, and Krizhevsky's "
    "order of contrast norm and pool, with an α five times smaller; not the weights of the paper"
)


@dataclass(frozen=True)
class PublicWeights:
    """Weights that others trained on ImageNet-2012: what they fit, where they are, how good they are.

    ``architecture`` as in a card (see :func:`zfcore.model.load`); ``checksum`` is that of the file
    of tensors, inside the archive where ``url`` is one; ``errors`` are top-1 and top-5 validation
    errors in percent, one crop, as their publisher states them.
    """

    architecture: str
    url: str
    checksum: str
    errors: tuple[float, float]
    parameters: int
    source: str
    note: str


def public_weights() -> dict[str, PublicWeights]:
    """The public weights by name; addresses, checksums and errors of torchvision's are its own."""
    from torchvision.models import get_weight  # takes a second, and only this room needs it

    known = {
        "zfnet": PublicWeights(
            "zfnet-public",
            f"{_PYTORCHCV}/v0.0.395/zfnet-1727-d010ddca.pth.zip",
            "sha1:d010ddca1eb32a50a8cceb475c792f53e769b631",
            (39.79, 17.27),
            62_357_608,
            "pytorchcv, MIT licence",
            _VARIANT.format("Fig. 3"),
        ),
        "zfnetb": PublicWeights(
            "zfnet-wide-public",
            f"{_PYTORCHCV}/v0.0.400/zfnetb-1490-f6bec24e.pth.zip",
            "sha1:f6bec24eba037c8e4956704ed5bafaed29966601",
            (36.37, 14.90),
            107_627_624,
            "pytorchcv, MIT licence",
            _VARIANT.format("the network with 512, 1024, 512 maps"),
        ),
    }
    for name, network, entry in (
        ("vgg16", "vgg16", "VGG16_Weights"),
        ("alexnet", "alexnet", "AlexNet_Weights"),
        ("squeezenet", "squeezenet1_1", "SqueezeNet1_1_Weights"),
        ("resnet18", "resnet18", "ResNet18_Weights"),
    ):
        weights = get_weight(f"{entry}.IMAGENET1K_V1")
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]
        known[name] = PublicWeights(
            f"torchvision.{network}",
            weights.url,
            "sha256:" + weights.url.removesuffix(".pth").rpartition("-")[2],
            tuple(round(100 - accuracy[key], 3) for key in ("acc@1", "acc@5")),
            weights.meta["num_params"],
            "torchvision, BSD-3-Clause licence",
            "trained by the authors of torchvision",
        )
    return known


def weights_file(name: str, root: str | os.PathLike | None = None) -> Path:
    """Where :func:`get_weights` puts the weights ``name``: ``weights/`` under the data root."""
    return Path(root or data_root()).absolute() / "weights" / f"{name}.safetensors"


def get_weights(name: str, root: str | os.PathLike | None = None) -> Path:
    """Bring public weights and write them as ours: a safetensors file (float32) with its card.

    Nothing is fetched when both are already there. The card has the 1000 words (``labels``) and the
    WordNet ids (``classes``).

    Parameters
    ----------
    name
        ``"zfnet"``, ``"zfnetb"`` (pytorchcv), ``"vgg16"``, ``"alexnet"``, ``"squeezenet"``,
        ``"resnet18"`` (torchvision).
    root
        The folder in which ``weights/`` lies or shall lie; default :func:`zfcore.data.data_root`.

    Returns
    -------
    Path
        The ``.safetensors`` file; :func:`zfcore.model.load` reads it.

    Raises
    ------
    ValueError
        Unknown name, or tensors that do not fit the network.
    FetchError
        As :func:`download`.
    OSError
        Another process is bringing them.
    """
    wanted: PublicWeights = _known(public_weights(), name, "public weights")
    path = weights_file(name, root)
    if _are_whole(path):
        return path
    with alone_in(path):
        return path if _are_whole(path) else _bring_weights(name, wanted, path)


def _are_whole(weights: Path) -> bool:
    return weights.exists() and weights.with_suffix(".json").exists()


def _bring_weights(name: str, wanted: PublicWeights, path: Path) -> Path:
    archive = file = path.with_name(wanted.url.rpartition("/")[2])
    zipped = archive.suffix == ".zip"
    # What is written is as large as what comes; an archive is unpacked besides.
    download(
        wanted.url, archive, "" if zipped else wanted.checksum, room=4 * wanted.parameters * (1 + zipped)
    )
    if zipped:
        file = _only_member(archive, wanted)
    network, mean, card = adapt(name, torch.load(file, map_location="cpu", weights_only=True))
    save(path, network, mean, card, dtype=torch.float32)
    for brought in {archive, file}:
        brought.unlink()
    return path


def _only_member(archive: Path, wanted: PublicWeights) -> Path:
    """The file of tensors in pytorchcv's archive, whose checksum is that of the file."""
    file = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as pack, pack.open(file.name) as packed, file.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        verify(file, wanted.checksum, wanted.url)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        archive.unlink()
        file.unlink(missing_ok=True)
        raise FetchError(
            f"{wanted.url} did not give an archive of {file.name} ({error}); it was removed, so run the "
            "same command again to bring it from the beginning"
        ) from error
    except FetchError:
        archive.unlink()
        raise
    return file


def public(name: str, root: str | os.PathLike | None = None) -> tuple[nn.Module, dict]:
    """Public weights that :func:`get_weights` has brought, as :func:`zfcore.model.load` gives them.

    Raises
    ------
    ValueError
        Unknown name, or damaged files.
    FileNotFoundError
        They are not on this machine; the message says how to get them.
    """
    _known(public_weights(), name, "public weights")
    path = weights_file(name, root)
    if not path.exists():
        raise FileNotFoundError(f"the weights {name} are not at {path}; run `zfcore weights get {name}`")
    return load(path)


def network(
    name: str, weights: str = "random", seed: int = 0, root: str | os.PathLike | None = None
) -> tuple[nn.Module, dict]:
    """A network that others have published: with their weights, or with random ones in the same shape.

    Parameters
    ----------
    name
        As for :func:`get_weights`.
    weights
        ``"public"``: as :func:`public`, which needs them on this machine. ``"random"``: He's, which
        needs nothing; the card then knows how the network wants its pictures, and of no error.
    seed
        Of the random weights; the global generator is left as it was.
    root
        As for :func:`get_weights`; random weights need none.

    Raises
    ------
    ValueError
        Unknown name or ``weights``.
    FileNotFoundError
        The public weights are not on this machine; the message says how to get them.
    """
    if weights not in ("random", "public"):
        raise ValueError(f"unknown weights {weights!r}; known: random, public")
    if weights == "public":
        return public(name, root)
    wanted: PublicWeights = _known(public_weights(), name, "public weights")
    card = _how_it_wants_pictures(wanted.architecture)
    return untrained(card, seed), card | {"mean": _mean_picture(card), "note": "random weights"}


def _how_it_wants_pictures(architecture: str) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "num_classes": len(imagenet_words()),
        "input_size": 224,
        "resize": 256,
        "scale": 255.0,
        "classes": imagenet_classes(),
        "labels": imagenet_words(),
    }


def _mean_picture(card: Mapping[str, Any]) -> Tensor:
    """The mean of ImageNet's colours at every pixel, (3, resize, resize) in [0, 255]."""
    return torch.tensor(MEAN).mul(255)[:, None, None].expand(3, card["resize"], card["resize"])


def adapt(name: str, state: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor, dict]:
    """Turn tensors as their publisher names them into a network of ours with its mean and card.

    Parameters
    ----------
    name
        As for :func:`get_weights`.
    state
        What ``torch.load`` gives, or the ``state_dict`` of the publisher's module.

    Returns
    -------
    network, mean, card
        In eval mode, float32; the mean of ImageNet's colours as (3, 256, 256), pixels in [0, 255].

    Raises
    ------
    ValueError
        Unknown name, or tensors that do not fit.
    """
    wanted: PublicWeights = _known(public_weights(), name, "public weights")
    card = _how_it_wants_pictures(wanted.architecture) | {
        "error": {"one crop": dict(zip(("top1", "top5"), wanted.errors, strict=True))},
        "data": "imagenet",
        "source": wanted.source,
        "url": wanted.url,
        "note": wanted.note,
        "command": f"zfcore weights get {name}",
    }
    if wanted.architecture in ARCHITECTURES:
        state = from_pytorchcv(state, wanted.architecture)
    adapted = network_of(card)
    try:
        adapted.load_state_dict(fold_deviation(state))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"these tensors do not fit {wanted.architecture}: {error}") from error
    return adapted.eval(), _mean_picture(card), card


def imagenet_classes() -> list[str]:
    """The WordNet ids of ImageNet-2012's 1000 classes, sorted: the order of public networks' outputs."""
    return Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="ascii").split()


def imagenet_words() -> list[str]:
    """The words of ImageNet's 1000 classes, in the order of their WordNet ids."""
    from torchvision.models import get_weight

    return list(get_weight("AlexNet_Weights.IMAGENET1K_V1").meta["categories"])


def from_pytorchcv(state: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """pytorchcv's names for the tensors of its ZFNets → ours; tensors it has besides are left out.

    Raises ``ValueError`` when one is missing.
    """
    paths = ARCHITECTURES[architecture].named_layers()
    theirs = {"conv1": "features.stage1.unit1.conv", "conv2": "features.stage2.unit1.conv"}
    theirs |= {f"conv{n}": f"features.stage3.unit{n - 2}.conv" for n in (3, 4, 5)}
    theirs |= {"fc6": "output.fc1.fc", "fc7": "output.fc2.fc", "fc8": "output.fc3"}
    names = {f"{paths[o]}.{kind}": f"{t}.{kind}" for o, t in theirs.items() for kind in ("weight", "bias")}
    missing = [name for name in names.values() if name not in state]
    if missing:
        raise ValueError(f"these are not the tensors of pytorchcv's network: {', '.join(missing)} missing")
    return {ours: state[name] for ours, name in names.items()}


def fold_deviation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors for inputs (p − 255·m_c)/255, from those for (p/255 − m_c)/d_c: W'_c = W_c/d_c in layer 1.

    The first layer, of weights (C, 3, h, w), is ``conv1`` in a ResNet and ``features.0`` in the others here.
    """
    name = "conv1.weight" if "conv1.weight" in state else "features.0.weight"
    deviation = state[name].new_tensor(DEVIATION)[:, None, None]
    return {**state, name: state[name] / deviation}
