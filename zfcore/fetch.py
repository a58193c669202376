"""Brings data sets onto this machine, and looks whether what is there is whole.

A download goes on where it was interrupted, is checked against the publisher's checksum, and needs
to know before it starts that the disk has room. What is unpacked appears under its name only when
it is complete. Data sets lie in :func:`zfcore.data.data_root`, in the folders torchvision reads;
addresses and checksums are torchvision's, those of Tiny-ImageNet are its makers'.

Source: Zeiler & Fergus, §3 and §5, doi:10.1007/978-3-319-10590-1_53, for the data sets.

Example::

    from zfcore.fetch import check, get_data
    get_data("tiny-imagenet")              # 248 MB, once
    print(check("tiny-imagenet"))          # counts, damaged files by name, a verdict
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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tqdm import tqdm

from zfcore.data import cores, data_root, decode, places_of
from zfcore.model import alone_in


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


def known(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry ``name`` of a table of ``what``; raises ``ValueError`` that lists what there is."""
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
    wanted: DataSet = known(DATASETS, name, "data set")
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
    wanted: DataSet = known(DATASETS, name, "data set")
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
