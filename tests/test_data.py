"""Decoding, the preprocessing of §3, the photographs and their patches, Tiny-ImageNet's layout."""

import contextlib
import io
import math
import os
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zfcore.data import (
    LabelledPictures,
    batches,
    caltech,
    centre_crop,
    cores,
    crop_flip,
    data_root,
    data_set,
    decode,
    folder_of,
    imagenet,
    mean_picture,
    patches,
    photographs,
    squares,
    ten_crops,
    tiny_imagenet,
    to_input,
)
from zfcore.fetch import DATASETS

PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def card(resize=64, input_size=56, scale=64.0, mean=None):
    mean = torch.zeros(3, resize, resize) if mean is None else mean
    return {"resize": resize, "input_size": input_size, "scale": scale, "mean": mean}


# ------------------------------------------------------------------------------ decoding
def test_a_lossless_file_is_decoded_to_its_pixels(tmp_path):
    pixels = noise(5, 7)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        pixels,
        torch.tensor(pixels),
    ):
        decoded = decode(source)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, pixels)


def test_an_open_file_is_decoded(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(noise(5, 7)).save(stream, "PNG")
    stream.seek(0)
    np.testing.assert_array_equal(decode(stream), noise(5, 7))


def test_grey_becomes_three_equal_planes(tmp_path):
    grey = noise(4, 6)[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode(tmp_path / "grey.png"), np.repeat(grey[:, :, None], 3, 2))


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert decode(tmp_path / "bits.png").tolist() == [[[255] * 3, [0] * 3]]


def test_a_palette_gives_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([1, 0])
    image.save(tmp_path / "palette.gif")
    assert decode(tmp_path / "palette.gif").tolist() == [[[200, 100, 0], [10, 20, 30]]]


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "PA", "RGB with a transparent colour", "P with a transparent entry"]
)
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    path = tmp_path / "alpha.png"
    if mode == "RGBA":
        image, options = Image.new(mode, (1, 1), (200, 0, 0, 0)), {}
    elif mode == "LA":
        image, options = Image.new(mode, (1, 1), (0, 0)), {}
    elif mode == "PA":
        image, options = Image.new("RGBA", (1, 1), (200, 0, 0, 0)).convert("PA"), {}
        assert decode(image).tolist() == [[[255, 255, 255]]]
        return
    elif mode.startswith("RGB with"):
        image, options = Image.new("RGB", (1, 1), (1, 2, 3)), {"transparency": (1, 2, 3)}
    else:
        image, options = Image.new("P", (1, 1), 0), {"transparency": 0}
        image.putpalette([9, 9, 9])
    image.save(path, **options)
    assert decode(path).tolist() == [[[255, 255, 255]]]


def test_half_transparent_red_is_pink():
    assert decode(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).tolist() == [[[255, 127, 127]]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red, green, blue = decode(tmp_path / "cmyk.jpg")[4, 4].tolist()
    assert red > 250
    assert green < 5
    assert blue < 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_in_exif_is_carried_out(tmp_path, orientation):
    upright = np.kron([[250, 10], [90, 170], [20, 220]], np.ones((16, 16))).astype(np.uint8)
    stored = {  # what a camera held that way stores
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).convert("RGB").save(
        tmp_path / "a.jpg", exif=exif, quality=100
    )
    decoded = decode(tmp_path / "a.jpg")
    assert decoded.shape == (48, 32, 3)
    assert np.abs(decoded[:, :, 0].astype(int) - upright).max() < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert decode(tmp_path / f"deep.{suffix}")[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_16_bit_values_in_a_wider_type_are_scaled_too(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535 " + np.array([257, 65535], ">u2").tobytes())
    assert decode(tmp_path / "deep.pgm")[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize(
    "values", [np.array([[70000]], np.int32), np.array([[-1]], np.int32), np.ones((1, 1), np.float32)]
)
def test_pixels_without_a_fixed_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "science.tif")
    with pytest.raises(ValueError, match=r"science\.tif.*scale them to 8 bits"):
        decode(tmp_path / "science.tif")


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "moving.gif")[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix} cannot be decoded .*accepted are"):
        decode(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"just text", b"\xff\xd8\xff", bytes(1000)])
def test_what_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "letter.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"letter\.jpg cannot be decoded .*JPEG, PNG"):
        decode(tmp_path / "letter.jpg")


@given(
    st.integers(0, 10_000), st.integers(0, 7), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
)
@settings(deadline=None, max_examples=150, derandomize=True)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it can pass over
def test_a_damaged_byte_gives_pixels_or_a_value_error(place, bit, kind):
    stream = io.BytesIO()
    Image.fromarray(noise(12, 9)).save(stream, kind)
    blob = bytearray(stream.getvalue())
    blob[place % len(blob)] ^= 1 << bit
    with contextlib.suppress(ValueError):
        assert decode(io.BytesIO(blob)).dtype == np.uint8


def test_a_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(tmp_path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg"):
        decode(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("pixels", [450, 900])  # Pillow warns above its limit and raises above twice that
def test_a_huge_picture_is_refused_by_name_with_its_size(tmp_path, monkeypatch, pixels):
    Image.new("L", (30, pixels // 30)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(
        ValueError, match=rf"huge\.png is too large.*{pixels}|huge\.png is too large.*30 × 15"
    ):
        decode(tmp_path / "huge.png")
    with pytest.raises(ValueError, match=rf"30 × {pixels // 30} px"):
        decode(Image.new("L", (30, pixels // 30)))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused_with_its_shape(array):
    with pytest.raises(ValueError, match=re.escape(str(array.shape))):
        decode(array)


# ------------------------------------------------------------------------------ preprocessing
def resize_naively(pixels, side):
    """The triangle filter as :func:`zfcore.data.squares` writes it down, in float64, two passes."""
    height, width = pixels.shape[:2]
    short = min(height, width)

    def weights(old, new):
        step = old / new
        table = np.zeros((new, old))
        for i in range(new):
            for j in range(old):
                table[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * step) / max(step, 1.0))
        return table / table.sum(1, keepdims=True)

    new_height, new_width = (math.floor(length * side / short + 0.5) for length in (height, width))
    rows = np.floor(np.einsum("hwc,vw->hvc", pixels.astype(float), weights(width, new_width)) + 0.5)
    return np.floor(np.einsum("hvc,uh->uvc", rows, weights(height, new_height)) + 0.5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24))
@PROPERTY
def test_resizing_is_the_filter_that_is_written_down(height, width, side):
    pixels = noise(height, width, seed=height * 41 + width)
    ours = squares([pixels], card(side, side))[0].astype(int)
    naive = resize_naively(pixels, side)
    top, left = ((length - side) // 2 for length in naive.shape[:2])
    naive = naive[top : top + side, left : left + side]
    assert np.abs(ours - naive).max() <= 1  # a tie in rounding, after fixed-point weights
    assert (ours == naive).mean() > 0.9


def test_a_picture_of_that_size_is_not_resampled():
    wide = noise(64, 90)
    np.testing.assert_array_equal(squares([wide], card(64, 64))[0], wide[:, 13:77])


def test_the_crop_is_the_centre_of_the_square():
    pixels = noise(64, 64)
    np.testing.assert_array_equal(squares([pixels], card())[0], pixels[4:60, 4:60])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (300, 2), (57, 1000)])
def test_any_shape_becomes_the_input_square(height, width):
    assert to_input([noise(height, width)], card()).shape == (1, 3, 56, 56)


def test_input_is_pixels_minus_mean_over_scale():
    mean = torch.rand(3, 64, 64) * 255
    pixels = noise(64, 64)
    x = to_input([pixels], card(mean=mean, scale=50.0))
    expected = (torch.tensor(pixels).permute(2, 0, 1).float() - mean)[:, 4:60, 4:60] / 50
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0], expected)


def test_a_list_and_a_batch_give_the_same_input():
    batch = np.stack([noise(70, 80, seed) for seed in range(3)])
    torch.testing.assert_close(to_input(list(batch), card()), to_input(batch, card()), rtol=0, atol=0)
    torch.testing.assert_close(to_input(batch, card()), to_input(torch.tensor(batch), card()), rtol=0, atol=0)


def test_no_pictures_give_an_empty_batch():
    assert to_input([], card()).shape == (0, 3, 56, 56)


@pytest.mark.parametrize("single", ["a.png", Image.new("RGB", (4, 4)), noise(4, 4), photographs()["china"]])
def test_one_picture_instead_of_a_list_is_an_error(single):
    with pytest.raises(TypeError, match="put it in a list"):
        to_input(single, card())


@pytest.mark.parametrize("missing", ["resize", "input_size", "scale", "mean"])
def test_a_card_that_lacks_an_entry_is_refused_by_its_name(missing):
    incomplete = {key: value for key, value in card().items() if key != missing}
    with pytest.raises(ValueError, match=f"card has no '{missing}'"):
        to_input([noise(64, 64)], incomplete)


@pytest.mark.parametrize("mean", [[0.0, 0.0, 0.0], torch.zeros(3), torch.zeros(3, 32, 32)])
def test_a_mean_that_does_not_fit_is_refused(mean):
    with pytest.raises(ValueError, match=re.escape("tensor (3, 64, 64)")):
        to_input([noise(64, 64)], card(mean=mean))


def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="input_size ≤ resize"):
        squares([noise(64, 64)], card(resize=48))


def test_a_picture_of_extreme_shape_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match="1 × 1000 px is too long and narrow"):
        squares([noise(1000, 1)], card())


def test_a_file_of_extreme_shape_is_named(monkeypatch, tmp_path):
    file = tmp_path / "101_ObjectCategories" / "ant" / "image_0001.jpg"
    file.parent.mkdir(parents=True)
    Image.fromarray(noise(1000, 1)).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    for read in (lambda: squares([file], card()), lambda: caltech("caltech101", 64, tmp_path)):
        with pytest.raises(ValueError, match=rf"{file} of 1 × 1000 px is too long and narrow"):
            read()


def test_the_ten_crops_are_corners_centre_and_their_mirror_images():
    pixels = torch.arange(6 * 7).reshape(1, 1, 6, 7)
    crops = ten_crops(pixels, 4)
    corners = [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)]
    for n, (top, left) in enumerate(corners):
        expected = pixels[..., top : top + 4, left : left + 4]
        torch.testing.assert_close(crops[n], expected)
        torch.testing.assert_close(crops[n + 5], expected.flip(-1))


def test_the_fifth_crop_is_the_centre_crop():
    pixels = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ten_crops(pixels, 56)[4], centre_crop(pixels, 56))


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans())
@PROPERTY
def test_cropping_and_mirroring_equal_a_loop(size, seed, shared):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (1 if shared else 4, 3, 9, 11), generator=draw, dtype=torch.uint8)
    tops = torch.randint(9 - size + 1, (4,), generator=draw)
    lefts = torch.randint(11 - size + 1, (4,), generator=draw)
    mirrored = torch.randint(2, (4,), generator=draw).bool()
    crops = crop_flip(pixels, tops, lefts, mirrored, size)
    for n in range(4):
        picture = pixels[0 if shared else n]
        expected = picture[:, tops[n] : tops[n] + size, lefts[n] : lefts[n] + size]
        torch.testing.assert_close(crops[n], expected.flip(-1) if mirrored[n] else expected)


def test_the_mean_picture_is_the_mean_whatever_the_batches():
    pixels = torch.randint(256, (10, 3, 5, 5), dtype=torch.uint8)
    torch.testing.assert_close(mean_picture(pixels, batch=3), pixels.float().mean(0))


# ------------------------------------------------------------------------------ photographs
@pytest.mark.parametrize("name", photographs())
def test_a_photograph_is_in_colour_and_says_what_it_is(name):
    photograph = photographs()[name]
    assert photograph.name == name
    assert photograph.pixels.dtype == np.uint8
    assert min(photograph.pixels.shape[:2]) >= 300
    assert photograph.pixels.shape[2] == 3
    assert photograph.pixels.std(axis=2).max() > 10
    assert photograph.alt.endswith(".")
    assert len(photograph.alt) > 60
    assert photograph.title
    assert photograph.credit
    assert photograph.licence


def test_a_photograph_is_decoded_once_and_cannot_be_changed():
    chelsea = photographs()["chelsea"]
    assert photographs()["chelsea"].pixels is chelsea.pixels
    assert decode(chelsea) is chelsea.pixels
    with pytest.raises(ValueError, match="read-only"):
        chelsea.pixels[0, 0, 0] = 0
    with pytest.raises(FrozenInstanceError):
        chelsea.title = "a dog"


def test_four_photographs_have_a_class_that_tiny_imagenet_knows(tiny_imagenet_root):
    folder = tiny_imagenet_root / "tiny-imagenet-200"
    known = set((folder / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text().splitlines())
    labelled = {p.name: words[p.wnid] for p in photographs().values() if p.wnid in known}
    assert labelled == {
        "chelsea": "Egyptian cat",
        "coffee": "espresso",
        "rocket": "projectile, missile",
        "grace_hopper": "military uniform",
    }


# ------------------------------------------------------------------------------ patches
@pytest.fixture(scope="module")
def patch_sets():
    return patches("train"), patches("val")


def test_there_are_as_many_patches_of_every_photograph(patch_sets):
    for split, each in zip(patch_sets, (400, 100), strict=True):
        assert split.pixels.shape == (10 * each, 3, 64, 64)
        assert split.pixels.dtype == torch.uint8
        assert split.labels.bincount().tolist() == [each] * 10
        assert split.classes == tuple(sorted(photographs()))
        assert len(split.files) == len(set(split.files)) == len(split)


def test_no_pixel_belongs_to_both_splits(patch_sets):
    covered = {}
    for number, split in enumerate(patch_sets):
        for name in split.files:
            photograph, left, top, side = re.fullmatch(r"(\w+) \((\d+), (\d+)\) \+ (\d+)", name).groups()
            left, top, side = int(left), int(top), int(side)
            grid = covered.setdefault(photograph, np.zeros((2, 1000, 1000), bool))
            grid[number, top : top + side, left : left + side] = True
    for photograph, (train, val) in covered.items():
        assert not (train & val).any(), photograph
        assert train.any()
        assert val.any()


def test_patches_come_at_three_scales(patch_sets):
    for split in patch_sets:
        assert {name.rsplit("+ ")[1] for name in split.files} == {"64", "96", "128"}


def test_a_patch_is_cut_from_its_photograph(patch_sets):
    train, _ = patch_sets
    n = next(n for n, name in enumerate(train.files) if name.startswith("china") and name.endswith("+ 64"))
    left, top = map(int, re.search(r"\((\d+), (\d+)\)", train.files[n]).groups())
    expected = photographs()["china"].pixels[top : top + 64, left : left + 64]
    np.testing.assert_array_equal(train.pixels[n].permute(1, 2, 0), expected)


def test_the_same_patches_come_every_time(patch_sets):
    torch.testing.assert_close(patches("val").pixels, patch_sets[1].pixels, rtol=0, atol=0)


def test_an_unknown_split_or_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="known: train, val"):
        patches("test")
    with pytest.raises(ValueError, match="narrowest region has"):
        patches("val", size=256)


# ------------------------------------------------------------------------------ Tiny-ImageNet
def make_tiny_imagenet(root, side=64):
    """Two classes in the original layout, listed in another order than the sorted one."""
    base = root / "tiny-imagenet-200"
    (base / "val" / "images").mkdir(parents=True)
    (base / "wnids.txt").write_text("n02\nn01\n")
    (base / "words.txt").write_text("n01\tcat, house cat\nn02\tdog\nn03\tnot here\n")
    rows = []
    for level, (wnid, n) in enumerate((w, n) for w in ("n01", "n02") for n in range(3)):
        (base / "train" / wnid / "images").mkdir(parents=True, exist_ok=True)
        Image.new("L", (side, side), 40 * level).save(base / "train" / wnid / "images" / f"{wnid}_{n}.JPEG")
    for n, wnid in enumerate(("n02", "n01")):
        Image.new("RGB", (side, side), (200, 100, n)).save(
            base / "val" / "images" / f"val_{n}.JPEG", quality=100
        )
        rows.append(f"val_{n}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (base / "val" / "val_annotations.txt").write_text("".join(rows))
    return root


def test_classes_are_sorted_by_their_id_and_the_position_is_the_label(tmp_path):
    train = tiny_imagenet("train", make_tiny_imagenet(tmp_path))
    assert isinstance(train, LabelledPictures)
    assert len(train) == 6
    assert train.classes == ("n01", "n02")
    assert train.names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.files[0] == "n01_0.JPEG"
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]


def test_a_class_without_pictures_is_told(tmp_path):
    root = make_tiny_imagenet(tmp_path)
    for file in (root / "tiny-imagenet-200" / "train" / "n02" / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"n02 has no pictures; see `zfcore data check tiny-imagenet`"):
        tiny_imagenet("train", root)


def test_a_class_without_words_goes_by_its_id(tmp_path):
    root = make_tiny_imagenet(tmp_path)
    (root / "tiny-imagenet-200" / "words.txt").write_text("n01\tcat\nno tab here\n")
    assert tiny_imagenet("train", root).names == ("cat", "n02")


def test_validation_labels_come_from_the_annotations(tmp_path):
    val = tiny_imagenet("val", make_tiny_imagenet(tmp_path))
    assert val.labels.tolist() == [1, 0]
    assert val.files == ("val_0.JPEG", "val_1.JPEG")
    assert val.pixels.shape == (2, 3, 64, 64)


def test_the_root_is_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("ZFCORE_DATA", str(make_tiny_imagenet(tmp_path)))
    assert data_root() == tmp_path
    assert len(tiny_imagenet("val")) == 2


def test_the_root_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows' name for it
    monkeypatch.setenv("ZFCORE_DATA", "~/data")
    assert data_root() == tmp_path / "data"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are given to processes on Linux only")
def test_cores_are_those_that_the_process_may_use():
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert cores() == len(mine)


@pytest.mark.parametrize("name", ["tiny-imagenet", "caltech101", "caltech256", "voc2007", "voc2012"])
def test_a_data_set_is_looked_for_where_it_is_put(tmp_path, name):
    for place in reversed(DATASETS[name].folders):  # the first comes last and goes before the others
        (tmp_path / place).mkdir(parents=True)
        assert folder_of(name, tmp_path) == tmp_path / place


def test_a_place_without_the_part_that_is_wanted_is_passed_over(tmp_path):
    (tmp_path / "caltech101" / "101_ObjectCategories" / "ant").mkdir(parents=True)
    (tmp_path / "101_ObjectCategories" / "bee").mkdir(parents=True)
    assert folder_of("caltech101", tmp_path, "bee") == tmp_path / "101_ObjectCategories"
    with pytest.raises(FileNotFoundError, match=r"no .*wasp; run `zfcore data get caltech101`.*ZFCORE_DATA"):
        folder_of("caltech101", tmp_path, "wasp")


def test_missing_data_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zfcore data get tiny-imagenet.*ZFCORE_DATA"):
        tiny_imagenet("train", tmp_path)
    root = make_tiny_imagenet(tmp_path)
    for path in root.rglob("n0*.JPEG"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no train pictures"):
        tiny_imagenet("train", root)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="known: train, val"):
        tiny_imagenet("test", tmp_path)


def test_a_damaged_or_foreign_picture_is_named(tmp_path):
    root = make_tiny_imagenet(tmp_path / "cut")
    path = root / "tiny-imagenet-200" / "val" / "images" / "val_1.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"val_1\.JPEG cannot be decoded"):
        tiny_imagenet("val", root)
    with pytest.raises(ValueError, match=r"n01_0\.JPEG is 32 × 32 px"):
        tiny_imagenet("train", make_tiny_imagenet(tmp_path / "small", side=32))


def test_the_real_validation_set_is_read_whole(tiny_imagenet_root):
    val = tiny_imagenet("val", tiny_imagenet_root)
    assert val.pixels.shape == (10_000, 3, 64, 64)
    assert len(val.classes) == 200
    assert val.labels.bincount().tolist() == [50] * 200
    assert val.names[val.classes.index("n02124075")] == "Egyptian cat"


# ------------------------------------------------------------------------------ sets, shards, batches
def small_set(n=11, side=6):
    draw = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (n, 3, side, side), generator=draw, dtype=torch.uint8)
    files = tuple(f"picture {i}" for i in range(n))
    return LabelledPictures(pixels, torch.arange(n) % 3, ("a", "b", "c"), ("A", "B", "C"), files)


@PROPERTY
@given(st.lists(st.lists(st.integers(0, 10), max_size=5), max_size=5))
def test_batches_are_the_pictures_of_the_order_one_by_one(order):
    pictures = small_set()
    tensors = [torch.tensor(chosen, dtype=torch.int64) for chosen in order]
    result = list(batches(pictures, tensors))
    assert len(result) == len(order)
    for pixels, chosen in zip(result, order, strict=True):
        assert pixels.shape == (len(chosen), 3, 6, 6)
        assert pixels.dtype == torch.uint8
        for picture, position in zip(pixels, chosen, strict=True):
            assert torch.equal(picture, pictures.pixels[position])


def test_pictures_move_to_a_device_once():
    pictures = small_set()
    assert pictures.on("meta") is pictures.on(torch.device("meta"))
    assert pictures.on("cpu").data_ptr() == pictures.pixels.data_ptr()


def test_a_part_of_a_set_keeps_what_its_labels_mean():
    whole = small_set()
    part = whole.take(torch.tensor([7, 2]))
    assert torch.equal(part.pixels, whole.pixels[[7, 2]])
    assert part.labels.tolist() == [1, 2]
    assert part.files == ("picture 7", "picture 2")
    assert (part.classes, part.names, part.side) == (whole.classes, whole.names, 6)
    assert torch.equal(part.mean(), mean_picture(part.pixels))


def test_the_shards_of_a_set_hold_every_picture_once():
    whole = small_set()
    shards = [whole.shard(k, 4) for k in range(4)]
    assert [len(shard) for shard in shards] == [3, 3, 3, 2]
    assert shards[1].files == ("picture 1", "picture 5", "picture 9")
    assert sorted(file for shard in shards for file in shard.files) == sorted(whole.files)
    with pytest.raises(ValueError, match="no shard 4 of 4; they are counted from 0 to 3"):
        whole.shard(4, 4)
    with pytest.raises(ValueError, match="11 pictures are too few for 12 shards"):
        whole.shard(0, 12)


def test_pixels_move_to_a_device_once_whatever_it_is_called():
    whole = small_set()
    assert torch.equal(whole.on("cpu"), whole.on("cpu:0"))
    assert len(whole._copies) == 1


def test_the_hash_knows_pixels_labels_names_and_order():
    whole = small_set()
    assert whole.sha256 == small_set().sha256
    changed = whole.pixels.clone()
    changed[5, 1, 2, 3] ^= 1
    others = [
        replace(whole, pixels=changed),
        replace(whole, labels=whole.labels.flip(0)),
        replace(whole, files=(*whole.files[:-1], "another")),
        whole.take(torch.arange(11).flip(0)),
        whole.shard(0, 2),
    ]
    assert len({whole.sha256, *(other.sha256 for other in others)}) == 6


def test_a_set_is_had_by_its_name_and_shard():
    part = data_set("patches", "val", shard="1of100")
    assert len(part) == 10
    assert part.files[:2] == tuple(patches("val").files[i] for i in (1, 101))


@pytest.mark.parametrize(
    ("name", "shard", "message"),
    [
        ("mnist", None, "unknown data set 'mnist'; known: tiny-imagenet, imagenet, patches"),
        ("patches", "1/4", "'1/4' is not a shard; give k and n as in 0of4"),
        ("patches", "0of0", "no shard 0 of 0"),
    ],
)
def test_an_unknown_set_or_shard_is_refused(name, shard, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data_set(name, "val", shard)


def test_imagenet_that_was_not_packed_says_how_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `zfcore data pack imagenet --split val`"):
        imagenet("val", tmp_path)
    with pytest.raises(ValueError, match="unknown split 'test'; known: train, val"):
        imagenet("test", tmp_path)
