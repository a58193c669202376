"""Downloads from a server of our own, small trees in the original layouts.

No test asks another host for anything.
"""

import hashlib
import inspect
import io
import re
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from samples import visible
from torchvision.datasets import Caltech101, Caltech256, Imagenette, voc
from typer.testing import CliRunner

from zfcore import fetch as room
from zfcore.cli import app
from zfcore.fetch import (
    DATASETS,
    Archive,
    FetchError,
    Split,
    check,
    download,
    get_data,
)
from zfcore.model import alone_in

URL = "https://example.org/sets/file.bin"
BLOB = bytes(range(256)) * 4000


def md5(blob):
    return "md5:" + hashlib.md5(blob).hexdigest()


# ------------------------------------------------------------------------------ downloads
def test_a_file_is_brought_once(server, tmp_path):
    server.files["file.bin"] = BLOB
    for _ in range(2):
        path = download(URL, tmp_path / "new" / "file.bin", md5(BLOB))
        assert path.read_bytes() == BLOB
    assert server.requests == [("file.bin", None)]
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["file.bin"], server.hang_up_at = BLOB, 600_000
    with pytest.raises(FetchError, match=r"ended after 0\.6 MB of 1\.0 MB; run the same command again"):
        download(URL, tmp_path / "file.bin", md5(BLOB))
    assert not (tmp_path / "file.bin").exists()
    server.hang_up_at = None
    assert download(URL, tmp_path / "file.bin", md5(BLOB)).read_bytes() == BLOB
    assert server.requests == [("file.bin", None), ("file.bin", "bytes=600000-")]


def test_a_server_without_ranges_starts_from_the_beginning(server, tmp_path):
    server.files["file.bin"], server.ranges = BLOB, False
    (tmp_path / "file.bin.part").write_bytes(b"of another day")
    assert download(URL, tmp_path / "file.bin", md5(BLOB)).read_bytes() == BLOB


def test_a_part_that_is_already_whole_is_only_checked(server, tmp_path):
    server.files["file.bin"] = BLOB
    (tmp_path / "file.bin.part").write_bytes(BLOB)
    assert download(URL, tmp_path / "file.bin", md5(BLOB)).read_bytes() == BLOB


@pytest.mark.parametrize("lies_as", ["nothing", "file.bin.part", "file.bin"])
def test_another_checksum_is_told_and_nothing_is_kept(server, tmp_path, lies_as):
    server.files["file.bin"] = BLOB
    if lies_as != "nothing":
        (tmp_path / lies_as).write_bytes(b"damaged")
    with pytest.raises(FetchError, match=r"file\.bin.* is not the file that .*its md5 is .* it was removed"):
        download(URL, tmp_path / "file.bin", md5(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_the_first_digits_of_a_checksum_suffice(server, tmp_path):
    server.files["file.bin"] = BLOB
    digits = hashlib.sha256(BLOB).hexdigest()[:8]
    assert download(URL, tmp_path / "file.bin", f"sha256:{digits}").exists()


def test_a_full_disk_is_known_before_the_first_byte(server, tmp_path, monkeypatch):
    server.files["file.bin"] = BLOB
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1_500_000, 1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = r"has 1\.5 MB left, but 1\.6 MB are needed \(1\.0 MB to download, 0\.6 MB.*set ZFCORE_DATA"
    with pytest.raises(FetchError, match=message):
        download(URL, tmp_path / "file.bin", md5(BLOB), room=600_000)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file.bin.part").write_bytes(BLOB[:500_000])  # only the rest has to find room
    assert download(URL, tmp_path / "file.bin", md5(BLOB), room=600_000).exists()


def test_a_missing_file_and_a_missing_server_are_told(server, tmp_path, monkeypatch):
    with pytest.raises(FetchError, match=r"file\.bin answered 404.*a copy from elsewhere is taken as it is"):
        download(URL, tmp_path / "file.bin")

    def refuse(url, start=0):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(room, "_request", refuse)
    with pytest.raises(FetchError, match=r"could not be brought: .*Connection refused.*again to go on"):
        download(URL, tmp_path / "file.bin")


# ------------------------------------------------------------------------------ small data sets
def picture(path, side=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def tiny_imagenet_tree(base, test=True):
    (base / "val").mkdir(parents=True)
    wnids = ["n01", "n02"]
    (base / "wnids.txt").write_text("\n".join(reversed(wnids)))
    (base / "words.txt").write_text("n01\tone\nn02\ttwo")
    for wnid in wnids:
        for n in range(3):
            picture(base / "train" / wnid / "images" / f"{wnid}_{n}.JPEG")
    rows = [f"val_{n}.JPEG\t{wnids[n % 2]}\t0\t0\t62\t62" for n in range(4)]
    (base / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    for n in range(4):
        picture(base / "val" / "images" / f"val_{n}.JPEG")
    for n in range(5 * test):
        picture(base / "test" / "images" / f"test_{n}.JPEG")


def caltech_tree(base, name="image_{:04d}.jpg"):
    for label, count in (("BACKGROUND_Google", 2), ("bass", 3)):
        for n in range(count):
            picture(base / label / name.format(n + 1))
    (base / "BACKGROUND_Google" / "tmp").write_text("no picture, but the original has it")


def voc_tree(base, splits):
    lists = base / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (base / "Annotations").mkdir(exist_ok=True)
    for split, names in splits.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for n, name in enumerate(names):
            picture(base / "JPEGImages" / f"{name}.jpg")
            shown = ("cat", "dog", "dog") if n else ("cat",)
            objects = "".join(f"<object><name>{label}</name></object>" for label in shown)
            (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def by_split_tree(base):
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            for n in range(count):
                picture(base / split / wnid / f"{wnid}_{n}.JPEG")


VOC_2007 = {"trainval": ("000005", "000007"), "test": ("000001",)}
TREES = {
    "tiny-imagenet": lambda root: tiny_imagenet_tree(root / "tiny-imagenet-200"),
    "caltech101": lambda root: caltech_tree(root / "caltech101" / "101_ObjectCategories"),
    "caltech256": lambda root: caltech_tree(root / "caltech256" / "256_ObjectCategories", "001_{:04d}.jpg"),
    "voc2012": lambda root: voc_tree(root / "VOCdevkit" / "VOC2012", {"trainval": ("2008_000002", "2008_3")}),
    "voc2007": lambda root: voc_tree(root / "VOCdevkit" / "VOC2007", VOC_2007),
    "imagenette": lambda root: by_split_tree(root / "imagenette2"),
    "imagenet": lambda root: by_split_tree(root / "imagenet"),
}
SMALL = {
    "tiny-imagenet": {
        "train": Split(6, 2, each=3),
        "val": Split(4, 2, each=2),
        "test": Split(5, 0, optional=True),
    },
    "caltech101": {"all": Split(5, 2)},
    "caltech256": {"all": Split(5, 2)},
    "voc2012": {"trainval": Split(2, 2)},
    "voc2007": {"trainval": Split(2, 2), "test": Split(1, 1)},
    "imagenette": {"train": Split(6, 2), "val": Split(4, 2)},
    "imagenet": {"train": Split(6, 2), "val": Split(4, 2, each=2)},
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Every data set expects what the small trees hold; the data root is an empty folder."""
    for name, splits in SMALL.items():
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], splits=splits, unpacked=0))
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


# ------------------------------------------------------------------------------ check
@pytest.mark.parametrize("name", TREES)
def test_a_whole_data_set_is_found_whole(small, name):
    TREES[name](small)
    report = check(name)
    assert report.whole, report
    assert str(report).endswith("Verdict: whole.")
    assert report.pictures == {split: should.pictures for split, should in SMALL[name].items()}


@pytest.mark.parametrize("name", TREES)
def test_damaged_and_lost_pictures_are_told_by_name(small, name):
    TREES[name](small)
    pictures = sorted(p for p in small.rglob("*") if p.suffix in (".jpg", ".JPEG") and "test_" not in p.name)
    damaged, lost = pictures[0], pictures[1]
    if name.startswith("caltech"):  # the last number of a class leaves no gap
        damaged, lost = pictures[1], pictures[0]
    damaged.write_bytes(damaged.read_bytes()[:-80])
    lost.unlink()
    report = check(name)
    assert not report.whole
    assert any(damaged.name in fault and "cannot be decoded" in fault for fault in report.faults)
    assert any(re.search(r"has \d pictures, not \d", fault) for fault in report.faults)
    if name not in ("imagenette", "imagenet", "tiny-imagenet"):  # there no list tells what should be there
        assert f"{lost} is missing" in report.faults
    assert f"fault: {damaged}" in str(report)


def test_each_class_of_another_count_is_named(small):
    TREES["tiny-imagenet"](small)
    base = small / "tiny-imagenet-200"
    (base / "train" / "n02" / "images" / "n02_1.JPEG").unlink()
    (base / "val" / "images" / "val_3.JPEG").unlink()
    assert check("tiny-imagenet").faults == (
        f"{base / 'val' / 'images' / 'val_3.JPEG'} is missing",
        "train has 5 pictures, not 6",
        "train has 2 pictures of n02, not 3",
        "val has 3 pictures, not 4",
        "val has 1 pictures of n02, not 2",
    )


def test_a_class_that_is_gone_is_missed(small):
    TREES["imagenette"](small)
    shutil.rmtree(small / "imagenette2" / "val" / "n01440764")
    assert "val has 1 classes, not 2" in check("imagenette").faults


def test_missing_lists_and_broken_annotations_are_faults(small):
    TREES["tiny-imagenet"](small)
    (small / "tiny-imagenet-200" / "wnids.txt").unlink()
    assert f"{small / 'tiny-imagenet-200' / 'wnids.txt'} is missing" in check("tiny-imagenet").faults
    annotations = small / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\n" + annotations.read_text())
    faults = check("tiny-imagenet").faults
    assert f"{annotations}, line 1, names no class: 'val_0.JPEG'" in faults
    TREES["voc2007"](small)
    notes = small / "VOCdevkit" / "VOC2007" / "Annotations"
    (notes / "000005.xml").write_text("<annotation><object>")
    (notes / "000001.xml").unlink()
    faults = check("voc2007").faults
    assert any(f"{notes / '000005.xml'} cannot be read" in fault for fault in faults)
    assert f"{notes / '000001.xml'} is missing" in faults


def test_an_optional_part_may_be_missing(small):
    tiny_imagenet_tree(small / "tiny-imagenet-200", test=False)
    report = check("tiny-imagenet")
    assert report.whole
    assert "test: not here; zfcore does without" in str(report)


def test_a_picture_counts_in_every_class_it_shows(small):
    TREES["voc2007"](small)
    assert check("voc2007").counts == {"trainval": {"cat": 2, "dog": 1}, "test": {"cat": 1}}


def test_caltechs_own_folder_may_lie_at_the_root_as_it_does_in_its_archive(small):
    caltech_tree(small / "101_ObjectCategories")
    assert check("caltech101").folder == small / "101_ObjectCategories"


def test_many_pictures_are_checked_in_order(tmp_path):
    paths = [tmp_path / f"{n}.jpg" for n in range(5000)]  # more than are in flight at a time
    faults = list(room._faults(paths))
    assert faults == [f"{path} is missing" for path in paths]


def test_a_data_set_that_is_not_there_says_how_to_get_it(small):
    with pytest.raises(FileNotFoundError, match=r"VOC 2012 is not at .*zfcore data get voc2012.*ZFCORE_DATA"):
        check("voc2012")


def test_unknown_names_list_the_known_ones(small):
    for ask in (check, get_data):
        with pytest.raises(ValueError, match=r"unknown data set 'mnist'; known: tiny-imagenet, caltech101"):
            ask("mnist")


# ------------------------------------------------------------------------------ get
def packed(folder, name):
    """The content of ``folder`` as an archive of the kind that ``name`` ends in."""
    blob = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(blob, "w") as pack:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                pack.write(path, path.relative_to(folder))
    else:
        with tarfile.open(fileobj=blob, mode="w:gz" if name.endswith("gz") else "w") as pack:
            for path in folder.iterdir():
                pack.add(path, path.name)
    return blob.getvalue()


@pytest.fixture
def served(server, small, monkeypatch, tmp_path):
    """A function that lets the server give a small tree in the archives of the data set ``name``."""

    def serve(name):
        wanted, folder = DATASETS[name], tmp_path / "published" / name
        if name == "voc2007":
            trees = []
            for split, names in VOC_2007.items():
                trees.append(folder / split)
                voc_tree(trees[-1] / wanted.inside, {split: names})
        elif name == "caltech101":
            inner = tmp_path / "inner"
            caltech_tree(inner / "101_ObjectCategories")
            (folder / "caltech-101").mkdir(parents=True)
            (folder / wanted.nested).write_bytes(packed(inner, wanted.nested))
            trees = [folder]
        else:
            TREES[name](folder)
            trees = [folder / "caltech256" if name == "caltech256" else folder]
        archives = []
        for archive, tree in zip(wanted.archives, trees, strict=True):
            server.files[archive.file] = packed(tree, archive.file)
            archives.append(Archive(archive.url, md5(server.files[archive.file])))
        monkeypatch.setitem(DATASETS, name, replace(wanted, archives=tuple(archives)))

    return serve


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "imagenet"])
def test_a_data_set_is_brought_unpacked_and_whole(served, server, small, name):
    served(name)
    folder = get_data(name)
    assert folder == small / DATASETS[name].folders[0]
    assert check(name).whole
    assert visible(small) == [DATASETS[name].folders[0].split("/")[0]]
    asked = len(server.requests)
    assert get_data(name) == folder
    assert len(server.requests) == asked  # what is there is not fetched again


def test_what_another_process_brings_is_left_to_it(served, server, small, monkeypatch):
    served("imagenette")
    monkeypatch.setattr("zfcore.model.PATIENCE", 0)
    with (
        alone_in(small / "imagenette"),
        pytest.raises(OSError, match=r"another process works in .*imagenette"),
    ):
        get_data("imagenette")
    assert not server.requests


def test_two_years_of_voc_share_a_folder(served, small):
    for name in ("voc2012", "voc2007"):
        served(name)
        get_data(name)
    assert visible(small / "VOCdevkit") == ["VOC2007", "VOC2012"]


def test_an_unpacking_that_fails_leaves_nothing_half_made_and_the_archive(served, server, small, monkeypatch):
    served("imagenette")

    def no_space(self, *arguments, **options):
        (small / ".imagenette.unpacking" / "imagenette2").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", no_space)
        with pytest.raises(FetchError, match=r"Imagenette could not be unpacked in .*No space left"):
            get_data("imagenette")
    assert visible(small) == ["imagenette2.tgz"]
    (small / ".imagenette.unpacking" / "left by a run that was killed").mkdir(parents=True)
    get_data("imagenette")
    assert check("imagenette").whole
    assert len(server.requests) == 1


def test_a_disk_too_small_for_what_an_archive_holds_is_known_before_unpacking(
    served, server, small, monkeypatch
):
    served("imagenette")
    monkeypatch.setitem(DATASETS, "imagenette", replace(DATASETS["imagenette"], unpacked=2_000_000))
    (archive,) = DATASETS["imagenette"].archives
    small.mkdir(parents=True, exist_ok=True)
    (small / archive.file).write_bytes(server.files[archive.file])  # brought by hand
    few = shutil._ntuple_diskusage(10**9, 10**9 - 1_500_000, 1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: few)
    with pytest.raises(FetchError, match=r"has 1\.5 MB left, but .* are needed \(0\.0 MB to download"):
        get_data("imagenette")
    assert visible(small) == [archive.file]


def test_an_archive_with_another_checksum_leaves_nothing(served, server, small):
    served("caltech256")
    server.files["256_ObjectCategories.tar"] += b"!"
    with pytest.raises(FetchError, match="it was removed"):
        get_data("caltech256")
    assert visible(small) == []


def test_imagenet_is_asked_for_with_instructions(small):
    with pytest.raises(
        FetchError, match=r"Ask for access at .*image-net\.org.*ILSVRC2012_img_train\.tar"
    ) as e:
        get_data("imagenet")
    assert str(small / "imagenet") in str(e.value)


def test_addresses_and_checksums_are_those_of_torchvision():
    for name, keys in (("voc2012", ["2012"]), ("voc2007", ["2007", "2007-test"])):
        theirs = [voc.DATASET_YEAR_DICT[key] for key in keys]
        assert [(a.url, a.checksum, a.file) for a in DATASETS[name].archives] == [
            (entry["url"], "md5:" + entry["md5"], entry["filename"]) for entry in theirs
        ]
    (archive,) = DATASETS["imagenette"].archives
    assert (archive.url, archive.checksum) == (
        Imagenette._ARCHIVES["full"][0],
        "md5:" + Imagenette._ARCHIVES["full"][1],
    )
    for name, theirs in (("caltech101", Caltech101), ("caltech256", Caltech256)):
        (archive,) = DATASETS[name].archives
        source = inspect.getsource(theirs.download)
        assert archive.url in source
        assert archive.checksum.removeprefix("md5:") in source


def test_torchvision_reads_what_lies_there(small):
    for name in ("caltech101", "caltech256", "voc2012", "voc2007", "imagenette"):
        TREES[name](small)
    assert len(Caltech101(small)) == 3  # the background is no class
    assert len(Caltech256(small)) == 5
    assert len(Imagenette(small, "val")) == 4
    assert len(voc.VOCDetection(small, "2012", "trainval")) == 2
    assert len(voc.VOCDetection(small, "2007", "test")) == 1


# ------------------------------------------------------------------------------ the shell
def test_the_shell_gets_checks_and_ends_in_one_on_faults(served, small):
    served("tiny-imagenet")
    shell = CliRunner()
    got = shell.invoke(app, ["data", "get", "tiny-imagenet"])
    assert got.exit_code == 0
    assert str(small / "tiny-imagenet-200") in got.output
    assert "Terms: " in got.output
    checked = shell.invoke(app, ["data", "check", "tiny-imagenet", "--classes"])
    assert checked.exit_code == 0
    assert "train\tn01\t3" in checked.output
    assert "train: 6 of 6 pictures, 2 of 2 classes" in checked.output
    (small / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG").write_bytes(b"no picture")
    checked = shell.invoke(app, ["data", "check", "tiny-imagenet"])
    assert checked.exit_code == 1
    assert "val_0.JPEG cannot be decoded" in checked.output
    assert "Verdict: 1 fault; move the folder away and run `zfcore data get tiny-imagenet`." in checked.output
