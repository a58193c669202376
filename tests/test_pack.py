"""Packs: squares in tar shards, read back in any order, resumed after a kill, refused by name."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zfcore.pack
from zfcore.cli import app
from zfcore.data import PackedPictures, batches, data_set, squares
from zfcore.model import alone_in
from zfcore.pack import PackError, pack

SIDE = 16
CARD = {"resize": SIDE, "input_size": SIDE}
CLASSES = ("n01440764", "n02085620", "n07565083")


def make_imagenet(root, each=5, val=2):
    """A tree in the layout torchvision makes of ImageNet's archives; smooth pictures of many shapes."""
    draw = np.random.default_rng(0)
    for split, count in (("train", each), ("val", val)):
        for wnid in CLASSES:
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for n in range(count):
                width, height = draw.integers(18, 60, 2)
                colours = Image.fromarray(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8))
                picture = colours.resize((width, height), Image.Resampling.BICUBIC)
                picture.save(folder / f"{wnid}_{n}.JPEG", quality=97)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return packing(source, tmp_path_factory.mktemp("pack"))


def packing(source, out, split="train", **options):
    return pack(source, out, split, side=SIDE, per_shard=4, progress=False, **options)


def files_of(source, split="train"):
    return sorted((source / split).rglob("*.JPEG"))


def test_a_pack_has_every_picture_with_its_label(source, packed):
    assert packed.files == tuple(path.relative_to(source / "train").as_posix() for path in files_of(source))
    assert packed.classes == CLASSES
    assert packed.names == ("tench", "Chihuahua", "menu")
    assert packed.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert (len(packed), packed.side, len(packed.shards)) == (15, SIDE, 4)


def test_a_class_of_imagenet_has_its_word_and_another_its_folders_name(source, tmp_path):
    for folder, name in (("n01440764", "n02124075"), ("n02085620", "my cats")):
        shutil.copytree(source / "val" / folder, tmp_path / "val" / name)
    packed = packing(tmp_path, tmp_path / "out", "val")
    assert packed.classes == ("my cats", "n02124075")
    assert packed.names == ("my cats", "Egyptian cat")


def test_the_pictures_are_the_squares_of_the_preprocessing_up_to_jpeg(source, packed):
    expected = torch.from_numpy(squares(files_of(source), CARD)).permute(0, 3, 1, 2)
    difference = packed[torch.arange(15)].double() - expected.double()
    assert difference.square().mean().sqrt() < 2
    assert difference.abs().max() < 16


def test_the_mean_is_that_of_the_pictures_as_they_are_read(packed):
    pixels = packed[torch.arange(15)]
    assert torch.equal(packed.mean(), (pixels.double().sum(0) / 15).float())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_asked_for(packed, workers):
    every = packed[torch.arange(15)]
    order = [torch.tensor(chosen, dtype=torch.int64) for chosen in ([14, 0, 14], [], [3], list(range(15)))]
    before = torch.random.get_rng_state()
    for pixels, chosen in zip(batches(packed, iter(order), workers=workers), order, strict=True):
        assert torch.equal(pixels, every[chosen])
        assert pixels.shape == (len(chosen), 3, SIDE, SIDE)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's generator was drawn from"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_shows_every_picture_exactly_once(packed, workers):
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1)).split(4)
    seen = torch.cat(list(batches(packed, order, workers=workers)))
    every = packed[torch.arange(15)]
    found = [n for picture in seen for n in range(15) if torch.equal(every[n], picture)]
    assert sorted(found) == list(range(15))


def test_a_part_of_a_pack_is_read_from_the_same_shards(packed):
    part = packed.shard(1, 4)
    assert part.files == packed.files[1::4]
    assert torch.equal(part[torch.arange(len(part))], packed[torch.arange(1, 15, 4)])
    assert torch.equal(part.mean(), packed.mean())
    assert len({packed.sha256, part.sha256, packed.shard(0, 4).sha256}) == 3


def test_others_can_read_a_shard_as_a_plain_tar(packed):
    names = []
    for shard in packed.shards:
        with tarfile.open(shard) as tar:
            for picture, label in zip(tar.getmembers()[::2], tar.getmembers()[1::2], strict=True):
                position = int(picture.name.removesuffix(".jpg"))
                assert label.name == f"{position:07d}.cls"
                assert int(tar.extractfile(label).read()) == packed.labels[position]
                pixels = torch.from_numpy(np.array(Image.open(tar.extractfile(picture)))).permute(2, 0, 1)
                assert torch.equal(pixels, packed[torch.tensor([position])][0])
                names.append(position)
    assert sorted(names) == list(range(15))


def test_a_picture_that_is_no_jpeg_is_not_left_out_in_silence(tmp_path):
    root = make_imagenet(tmp_path / "source")
    folder = root / "train" / CLASSES[0]
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"of a Mac")
    assert len(packing(root, tmp_path / "out")) == 15
    Image.new("RGB", (30, 30)).save(folder / "b.png")
    with pytest.raises(PackError, match=r"1 pictures are no JPEG files \(.*b.png, …\)"):
        packing(root, tmp_path / "other")


def test_every_shard_has_all_classes(packed):
    for shard in range(len(packed.shards)):
        assert set(packed.labels[packed.places[:, 0] == shard].tolist()) == {0, 1, 2}


def test_validation_labels_follow_the_classes_of_training(source, tmp_path):
    few = tmp_path / "few"
    (few / "val").mkdir(parents=True)
    for folder, target in (("train", source / "train"), ("val/n07565083", source / "val" / "n07565083")):
        (few / folder).symlink_to(target)
    assert packing(few, tmp_path / "pack", "val").labels.tolist() == [2, 2]


def test_the_same_pictures_give_the_same_files(source, packed, tmp_path):
    again = packing(source, tmp_path, workers=1)
    assert [shard.read_bytes() for shard in again.shards] == [shard.read_bytes() for shard in packed.shards]
    assert again.sha256 == packed.sha256


def test_a_finished_pack_is_opened_and_not_written_again(source, tmp_path):
    packing(source, tmp_path)
    dates = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    packing(source, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == dates


# ------------------------------------------------------------------------------ interrupted
KILLED = """
import os, signal, sys
import zfcore.pack
from zfcore.pack import pack
steps, write = [0], zfcore.pack._member
def member(*arguments):
    steps[0] += 1
    if steps[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
zfcore.pack._member = member
pack(sys.argv[1], sys.argv[2], side=16, per_shard=4, progress=False)
"""


@pytest.mark.parametrize("member", [3, 21])
def test_a_killed_packing_goes_on_with_the_next_shard(source, packed, tmp_path, member, monkeypatch):
    command = [sys.executable, "-c", KILLED, source, tmp_path, str(member)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "train.npz").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("train-*.tar")}
    assert len(kept) == (member - 1) // 8
    again = packing(source, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again.sha256 == packed.sha256
    assert torch.equal(again.mean(), packed.mean())
    assert torch.equal(again[torch.arange(15)], packed[torch.arange(15)])


def test_a_shard_that_was_damaged_since_is_packed_again(source, packed, tmp_path):
    first = packing(source, tmp_path)
    (tmp_path / "train.npz").unlink()
    os.truncate(first.shards[2], 1000)
    assert packing(source, tmp_path).sha256 == packed.sha256


def test_a_folder_of_another_pack_is_refused(source, tmp_path):
    packing(source, tmp_path)
    with pytest.raises(PackError, match=r"train\.npz is a pack of other pictures; give another folder"):
        pack(source, tmp_path, side=SIDE, per_shard=5, progress=False)
    (tmp_path / "train.npz").unlink()
    with pytest.raises(PackError, match=r"train-000000\.tar belongs to a pack of other pictures"):
        pack(source, tmp_path, side=SIDE, per_shard=5, progress=False)


def test_a_disk_without_room_is_told_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(zfcore.pack.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"0\.0 GB left, but 15 pictures need 0\.0 GB; make room"):
        packing(source, tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ corrupt
@pytest.fixture
def damaged(tmp_path):
    root = make_imagenet(tmp_path / "damaged")
    whole = (root / "train/n01440764/n01440764_1.JPEG").read_bytes()
    (root / "train/n01440764/n01440764_1.JPEG").write_bytes(whole[:200])
    (root / "train/n07565083/n07565083_4.JPEG").write_bytes(b"no picture")
    return root


def test_all_corrupt_pictures_are_named_and_refused(damaged, tmp_path):
    with pytest.raises(
        PackError, match=r"2 pictures cannot be packed(?s:.)*n01440764_1\.(?s:.)*n07565083_4\."
    ):
        packing(damaged, tmp_path / "pack")
    assert len(list((tmp_path / "pack").glob("*.tar"))) == 2, "whole shards are kept"
    assert not list((tmp_path / "pack").glob(".*")), "and nothing else"


def test_corrupt_pictures_are_left_out_on_demand(damaged, tmp_path, packed, capsys):
    with pytest.raises(PackError):
        packing(damaged, tmp_path / "pack")
    few = packing(damaged, tmp_path / "pack", skip_corrupt=True)
    assert len(few) == 13
    assert set(packed.files) - set(few.files) == {"n01440764/n01440764_1.JPEG", "n07565083/n07565083_4.JPEG"}
    others = torch.tensor([n for n, file in enumerate(packed.files) if file in few.files])
    assert torch.equal(few[torch.arange(13)], packed[others])
    assert torch.equal(few.labels, packed.labels[others])
    assert "n07565083_4.JPEG" in capsys.readouterr().out


def test_shards_that_left_pictures_out_make_no_whole_pack(damaged, tmp_path):
    packing(damaged, tmp_path / "pack", skip_corrupt=True)
    (tmp_path / "pack/train.npz").unlink()  # as if the run had been ended before the index
    with pytest.raises(PackError, match=r"n01440764_1\.JPEG: left out when .* was begun(?s:.)*n07565083_4\."):
        packing(damaged, tmp_path / "pack")


def test_a_picture_that_was_brought_again_is_packed(source, damaged, tmp_path, packed):
    few = packing(damaged, tmp_path / "pack", skip_corrupt=True)
    assert packing(damaged, tmp_path / "pack").sha256 == few.sha256, "nothing was mended"
    shutil.copytree(source, damaged, dirs_exist_ok=True)
    assert packing(damaged, tmp_path / "pack").sha256 == packed.sha256


def test_what_is_not_the_layout_is_refused_with_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"give the folder that holds train/ and val/"):
        packing(tmp_path, tmp_path / "pack")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, val"):
        packing(tmp_path, tmp_path / "pack", "test")


def test_a_class_that_training_does_not_have_is_refused(source, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "n01440764").symlink_to(source / "train" / "n01440764")
    (tmp_path / "val").symlink_to(source / "val")
    with pytest.raises(PackError, match="classes that train has not: n02085620, n07565083"):
        packing(tmp_path, tmp_path / "pack", "val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: os.truncate(folder / "train-000001.tar", 5000),
            r"train-000001\.tar has 5,000 bytes, not",
        ),
        (lambda folder: (folder / "train-000003.tar").unlink(), r"train-000003\.tar is missing"),
        (lambda folder: os.truncate(folder / "train.npz", 700), r"train\.npz is not a whole index"),
        (lambda folder: (folder / "train.npz").write_bytes(b""), r"train\.npz is not a whole index"),
    ],
)
def test_a_damaged_pack_is_refused_by_name(source, tmp_path, damage, message):
    packing(source, tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        PackedPictures.open(tmp_path, "train")


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no pack .*val\.npz; `zfcore data pack` writes one"
    ):
        PackedPictures.open(tmp_path, "val")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named_with_its_shard(source, tmp_path, workers):
    pictures = packing(source, tmp_path)
    shard, first, _ = pictures.places[7].tolist()
    with pictures.shards[shard].open("rb+") as file:
        file.seek(first)
        file.write(b"\0" * 40)
    with pytest.raises(ValueError, match=rf"n02085620_2\.JPEG\) cannot be read .*train-00000{shard}\.tar"):
        list(batches(pictures, [torch.tensor([7])], workers=workers))


def test_no_worker_outlives_an_error_or_a_reader_who_leaves(packed):
    def fails():
        yield torch.tensor([0])
        raise LookupError

    with pytest.raises(LookupError):
        list(batches(packed, fails(), workers=1))
    assert not multiprocessing.active_children()
    left = batches(packed, iter(torch.arange(15).split(2)), workers=1)
    next(left)
    assert multiprocessing.active_children()
    left.close()
    assert not multiprocessing.active_children()


def test_a_position_that_is_not_there_is_an_error(packed):
    with pytest.raises(IndexError, match="there is no picture 15; the pack has 15"):
        list(batches(packed, [torch.tensor([15])]))


def test_the_shell_packs_and_the_set_is_had_by_its_name(source, tmp_path, monkeypatch):
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["data", "pack", "imagenet", "--source", str(source)])
    assert result.exit_code == 0, result.output
    assert "train: 15 pictures of 3 classes in 1 shards" in result.output
    assert data_set("imagenet", "val").side == 256
    foreign = tmp_path / "flowers"
    for split in ("train", "val"):
        (foreign / split / "tulip").mkdir(parents=True)
    refused = CliRunner().invoke(app, ["data", "pack", "imagenet", "--source", str(foreign)])
    assert refused.exit_code == 2
    assert "it has the class tulip; give --out FOLDER" in " ".join(refused.output.replace("│", " ").split())
    refused = CliRunner().invoke(app, ["data", "pack", "voc2012"])
    assert refused.exit_code == 2
    assert "accepted: imagenet, imagenette" in refused.output


def test_a_folder_into_which_another_process_packs_is_left_to_it(source, tmp_path, monkeypatch):
    monkeypatch.setattr("zfcore.model.PATIENCE", 0)
    with alone_in(tmp_path), pytest.raises(OSError, match="another process works in"):
        packing(source, tmp_path)
    assert len(packing(source, tmp_path)) == 15
