"""Planted duplicates are found, and pictures that merely resemble each other are not."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from samples import Peak
from scipy import ndimage
from typer.testing import CliRunner

from zfcore.cli import app
from zfcore.data import find_duplicates, patches, thumbnails
from zfcore.duplicates import DETAIL, SIDE, Thumbnails, _cropping, matches
from zfcore.ledger import read

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes():
    """120 patches that overlap in nothing much, as PIL pictures of 96 px."""
    chosen = patches("train", 96).pixels[::33][:120]
    return [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in chosen]


def encoded(image, quality=75):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


PLANTED = {
    "encoded again": lambda image: encoded(image, 40),
    "resized": lambda image: encoded(image.resize((64, 64))),
    "cropped by 5 % at every edge": lambda image: encoded(image.crop((5, 5, 91, 91)).resize((96, 96))),
    "cropped at a corner": lambda image: encoded(image.crop((0, 0, 91, 91)).resize((96, 96))),
    "mirrored": lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.25)),
}


@pytest.mark.parametrize("how", PLANTED)
def test_planted_duplicates_are_found_and_nothing_else(scenes, how):
    copies = [PLANTED[how](image) for image in scenes[:40]]
    others = {(i, j) for i, j, _ in find_duplicates(scenes, scenes) if i != j}  # patches that overlap
    found = [(i, j) for i, j, _ in find_duplicates(scenes, copies)]
    right = [pair for pair in found if pair[0] == pair[1]]
    wrong = [pair for pair in found if pair[0] != pair[1] and pair not in others]
    assert len(right) >= 0.9 * len(copies), f"recall {len(right)} of {len(copies)}"
    assert len(wrong) <= 0.05 * len(found), f"precision: {len(wrong)} of {len(found)} are wrong"


def unit(x):
    """A thumbnail minus its mean, of norm 1."""
    x = x.ravel() - x.mean()
    return x / np.linalg.norm(x)


def every_crop(x):
    """A thumbnail without 0, 2.5 or 5 % at each of its four edges, stretched again: 81 of them."""
    side = len(x)
    axes = [
        low * side + (np.arange(side) + 0.5) * (1 - low - high) - 0.5
        for low, high in itertools.product((0, 0.025, 0.05), repeat=2)
    ]
    return [
        ndimage.map_coordinates(x, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")
        for rows, columns in itertools.product(axes, axes)
    ]


def detail(x):
    return x - ndimage.uniform_filter(x, 5, mode="mirror")


def plain_match(a, b):
    """The best correlation over all crops of either thumbnail, and that of the details of this crop."""
    found = [(unit(a) @ unit(crop), unit(detail(a)) @ unit(detail(crop))) for crop in every_crop(b)]
    found += [(unit(b) @ unit(crop), unit(detail(b)) @ unit(detail(crop))) for crop in every_crop(a)]
    return max(found)


def test_the_matches_are_those_of_every_pair_and_every_crop(scenes):
    """The three bars that pairs have to pass before they are compared lose none, and change no number."""
    copies = [how(image) for how, image in zip(PLANTED.values(), scenes[:6], strict=True)]
    a, b = thumbnails(scenes[:8]), thumbnails(copies)
    expected = {}
    for i, mine in zip(a.owner.tolist(), a.pixels.double().numpy(), strict=True):
        for j, theirs in zip(b.owner.tolist(), b.pixels.double().numpy(), strict=True):
            for other in (theirs, theirs[:, ::-1]):
                whole, fine = plain_match(mine, other)
                if whole >= 0.9 and fine >= 0.9 - DETAIL:
                    expected[i, j] = max(whole, expected.get((i, j), -1))
    assert {(i, i) for i in range(6)} <= set(expected)
    assert {(i, j): r for i, j, r in matches(a, b, 0.9)} == pytest.approx(expected, abs=1e-5)


def test_no_pair_is_lost_between_blocks(scenes):
    a = thumbnails(scenes[:30])
    small, large = ({(i, j): r for i, j, r in matches(a, a, block=size)} for size in (1, 1000))
    assert small == pytest.approx(large)
    assert {(i, i) for i in range(30)} <= {(i, j) for i, j, _ in matches(a, a)}


def test_memory_follows_the_block_and_not_the_sets(scenes):
    a = thumbnails(scenes[:60])
    with Peak() as little:
        matches(a, a, block=2)
    with Peak() as much:
        matches(a, a, block=1000)
    assert little.most < much.most / 2


def test_results_come_with_the_largest_correlation_first(scenes):
    found = find_duplicates(scenes[:20], [encoded(image, 20) for image in scenes[:20]], threshold=0.9)
    assert [r for *_, r in found] == sorted((r for *_, r in found), reverse=True)


def test_a_wide_picture_matches_its_middle_and_its_squeezed_self():
    wide = Image.fromarray(patches("train", 96).pixels[7].permute(1, 2, 0).numpy()).resize((160, 96))
    for other in (wide.resize((64, 64)), wide.crop((32, 0, 128, 96))):
        assert [(i, j) for i, j, _ in find_duplicates([wide], [other])] == [(0, 0)]


def test_pictures_without_contrast_match_nothing():
    grey = np.full((40, 40, 3), 90, np.uint8)
    assert find_duplicates([grey, grey], [grey]) == []


def test_nothing_has_no_duplicates():
    assert find_duplicates([], []) == []
    assert len(thumbnails([]).pixels) == 0


def test_sequences_may_be_lazy(scenes):
    class Lazy:
        asked = 0

        def __len__(self):
            return 12

        def __getitem__(self, i):
            Lazy.asked += 1
            return scenes[i]

    assert len(find_duplicates(Lazy(), scenes[:12])) >= 12
    assert Lazy.asked == 12


def test_a_threshold_that_means_nothing_is_refused():
    empty = Thumbnails(torch.empty(0, SIDE, SIDE, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    for threshold in (0, 1.5):
        with pytest.raises(ValueError, match="accepted is above 0 and at most 1"):
            matches(empty, empty, threshold)


def test_a_crop_matrix_samples_inside_the_picture():
    crops = _cropping(SIDE)
    assert torch.allclose(crops.sum(2), torch.ones(9, SIDE))
    assert torch.allclose(crops[0], torch.eye(SIDE))


def test_the_shell_writes_pairs_and_the_ledger(scenes, tmp_path):
    for name, pictures in (("a", scenes[:6]), ("b", [encoded(image) for image in scenes[3:8]])):
        (tmp_path / name / "inner").mkdir(parents=True)
        for n, picture in enumerate(pictures):
            picture.save(tmp_path / name / "inner" / f"{n}.png")
    options = ["--out", str(tmp_path / "pairs.csv"), "--record", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, ["duplicates", str(tmp_path / "a"), str(tmp_path / "b"), *options])
    assert result.exit_code == 0, result.output
    [entry] = read("duplicates", tmp_path)["entries"]
    assert entry["values"]["pictures"] == 3
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    assert lines[0] == "a,b,correlation"
    assert {line.rsplit(",", 1)[0] for line in lines[1:]} == {
        f"inner/{n + 3}.png,inner/{n}.png" for n in range(3)
    }
