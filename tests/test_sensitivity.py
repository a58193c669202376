"""Measures over many scans: each against slow lines or a case that can be worked out by hand."""

import copy
import json
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from typer.testing import CliRunner

from zfcore import sensitivity
from zfcore.cli import app
from zfcore.data import LabelledPictures, photographs, squares, ten_crops, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.ledger import read
from zfcore.model import build, initialize_, load, untrained
from zfcore.occlusion import occlusion_maps
from zfcore.sensitivity import (
    METHODS,
    Scans,
    centres_inside,
    commonest_changes,
    difference_inside,
    eligible,
    measures,
    most_covered,
    over_pictures,
    rank_correlation,
    recognised,
    scan,
    tiny_imagenet_boxes,
    under_square,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------ under the square
def test_under_the_square_lies_what_a_loop_adds_up():
    mass = torch.randn(3, 11, 9).double()
    found = under_square(mass, size=4, stride=2)
    assert found.shape == (3, 4, 3)
    for n in range(3):
        for r in range(4):
            for c in range(3):
                expected = mass[n, 2 * r : 2 * r + 4, 2 * c : 2 * c + 4].sum()
                assert float(found[n, r, c]) == pytest.approx(float(expected))


def test_a_centre_on_the_first_edge_is_inside_and_on_the_last_outside():
    # A square of 2 px in steps of 1 over 4 px: centres at 1, 2, 3.
    inside = centres_inside(torch.tensor([[1, 2, 3, 4], [-5, 0, 1, 9]]), side=4, size=2, stride=1)
    assert inside[0].tolist() == [[False, True, True], [False, True, True], [False, False, False]]
    assert not inside[1].any()


# ------------------------------------------------------------------------------ measures
def test_rank_correlation_is_spearmans_of_each_picture():
    a, b = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    a[1].round_()  # ties
    expected = [stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected)


def test_a_flat_map_correlates_with_nothing():
    assert rank_correlation(torch.ones(1, 2, 2), torch.randn(1, 2, 2)).tolist() == [0]


def test_a_difference_is_of_the_means_inside_and_outside():
    values = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    inside = torch.tensor([[[True, False], [False, True]]])
    assert difference_inside(values, inside).tolist() == [3.5 - 2.5]
    assert np.isnan(difference_inside(values, torch.ones_like(inside))).all()


def test_the_most_covered_quarter_takes_the_first_of_equals():
    covered = torch.tensor([[[1.0, 5.0], [5.0, 5.0]]])
    assert most_covered(covered).tolist() == [[[False, True], [False, False]]]


def scans_by_hand():
    """Two pictures, 2 × 2 positions. Hiding the first one costs picture 0 its class, and helps picture 1."""
    drop = torch.tensor([[[0.6, 0.1], [0.0, -0.2]], [[-0.05, 0.3], [0.2, 0.1]]])
    labels = torch.tensor([[[4, 7], [7, 7]], [[2, 2], [2, 2]]])
    covered = {name: drop.clone() for name in ("projection", "activity", *METHODS)}
    covered["contrast"] = -drop
    return Scans(
        target=torch.tensor([7, 1]),
        channel=torch.tensor([0, 3]),
        label=torch.tensor([7, 2]),  # picture 1 is taken for another class
        runner_up=torch.tensor([4, 1]),
        before=torch.tensor([0.7, 0.3]),
        drop=drop,
        fall=drop,
        labels=labels,
        covered=covered,
    )


def test_measures_of_two_pictures_worked_out_by_hand():
    inside = torch.tensor([[[True, False], [False, False]], [[False, False], [True, True]]])
    found = measures(scans_by_hand(), inside)
    game, drop, label, rise = (found[q] for q in ("pointing game", "drop", "label", "rise"))
    assert game["deepest drop"].tolist() == [1, 0]
    assert game["random position"].tolist() == [0.25, 0.5]
    assert game["another picture's box"].tolist() == [0, 0]
    assert game["deepest drop minus random position"].tolist() == [0.75, -0.5]
    np.testing.assert_allclose(drop["inside the box"], [0.6, 0.15], rtol=1e-6)
    np.testing.assert_allclose(drop["outside"], [-0.1 / 3, 0.125], rtol=1e-5)
    np.testing.assert_allclose(drop["inside minus outside"], [0.6 + 0.1 / 3, 0.025], rtol=1e-5)
    np.testing.assert_allclose(found["map"]["projection"], [1, 1])
    np.testing.assert_allclose(found["map"]["contrast"], [-1, -1])
    np.testing.assert_allclose(found["map"]["projection minus contrast"], [2, 2])
    np.testing.assert_allclose(found["map"]["projection minus activity"], [0, 0])
    np.testing.assert_allclose(found["class"]["map"], [1, 1])
    np.testing.assert_allclose(found["class"]["another picture's map"], [-0.2, -0.2])
    quarter = found["projection's quarter"]["drop there minus elsewhere"]
    np.testing.assert_allclose(quarter, [0.6 + 0.1 / 3, 0.3 - 0.25 / 3], rtol=1e-5)
    assert label["positions that change it"][0] == 0.25
    assert np.isnan(label["positions that change it"][1])  # its label was wrong before anything was hidden
    assert label["changes to the second guess"][0] == 1
    assert rise["positions that raise the class"].tolist() == [0.25, 0.25]
    assert rise["pictures where one raises it by 0.1"].tolist() == [1, 0]


def test_the_commonest_changes_are_counted_once_a_picture():
    assert commonest_changes(scans_by_hand()) == [(4, 1)]  # picture 1 was wrong from the start


def test_an_interval_leaves_out_what_is_not_there_and_covers_the_mean():
    values = np.append(np.random.default_rng(1).normal(3, 1, 400), np.nan)
    found = over_pictures(values)
    assert found["n"] == 400
    assert found["low"] < found["mean"] < found["high"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert found == over_pictures(values)  # the same seed
    with pytest.raises(ValueError, match="1 values have no interval"):
        over_pictures(values[:1])


# ------------------------------------------------------------------------------ a scan
@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = build("zfnet-64", num_classes=5, width=0.1)
    initialize_(model, "he")
    return model.eval()


def contrast_slowly(image):
    """(H, W): from each pixel to the one below and to the one on the right, summed over the colours."""
    (height, width), found = image.shape[1:], torch.zeros(image.shape[1:], dtype=image.dtype)
    for y in range(height):
        for x in range(width):
            if y + 1 < height:
                found[y, x] += (image[:, y + 1, x] - image[:, y, x]).abs().sum()
            if x + 1 < width:
                found[y, x] += (image[:, y, x + 1] - image[:, y, x]).abs().sum()
    return found


def stretched_slowly(own, side):
    """(side, side): between the centres of four cells of (h, w), each weighted by how near it is."""
    found = torch.zeros(side, side, dtype=own.dtype)
    for y in range(side):
        for x in range(side):
            for corner in product((0, 1), repeat=2):
                weight, cell = 1.0, []
                for n, place, further in zip(own.shape, (y, x), corner, strict=True):
                    at = max((place + 0.5) * n / side - 0.5, 0)
                    weight *= at % 1 if further else 1 - at % 1
                    cell.append(min(int(at) + further, n - 1))
                found[y, x] += weight * own[tuple(cell)]
    return found


def test_a_scan_holds_what_each_call_gives(small):
    small = copy.deepcopy(small).double()
    images, targets = torch.randn(3, 3, 56, 56).double(), [4, 0, 2]
    scans = scan(small, images, targets, "features.13", size=20, stride=12, batch_size=2)
    net, lifted = Deconvnet(small), copy.deepcopy(small)
    with torch.no_grad():
        logits = small(images)
    lifts = [1 - batch.min().clamp(max=0) for batch in logits.split(2) for _ in batch]
    expected = {name: torch.empty(3, 56, 56).double() for name in scans.covered}
    for n, target in enumerate(targets):
        image = images[n : n + 1]
        maps = occlusion_maps(small, images[n], target, 20, 12, "features.13")
        assert scans.channel[n] == maps.channel
        assert torch.equal(scans.labels[n], maps.label)
        assert [scans.label[n], scans.runner_up[n]] == logits[n].topk(2).indices.tolist()
        torch.testing.assert_close(scans.before[n], logits[n].softmax(0)[target])
        torch.testing.assert_close(scans.drop[n], maps.unoccluded.probability - maps.probability)
        torch.testing.assert_close(scans.fall[n], maps.unoccluded.activation - maps.activation)
        asked = image.clone().requires_grad_()
        [gradient] = torch.autograd.grad(small(asked)[0, target], asked)
        expected["gradient"][n] = gradient[0].abs().sum(0)
        expected["gradient × input"][n] = (gradient[0] * images[n]).sum(0)
        lifted.classifier[6].bias.data = small.classifier[6].bias + lifts[n]  # no logit is negative
        for rule in ("guided", "deconvnet"):
            expected[rule][n] = (
                Deconvnet(lifted).project(image, "classifier.6", target, rule=rule)[0].abs().sum(0)
            )
        expected["projection"][n] = net.project(image, "features.13", maps.channel, "map")[0].abs().sum(0)
        own = net.activations(image, ["features.13"])["features.13"][0, maps.channel]
        expected["activity"][n] = stretched_slowly(own, 56)
        expected["contrast"][n] = contrast_slowly(images[n])
    for name, mass in expected.items():
        torch.testing.assert_close(scans.covered[name], under_square(mass, 20, 12), msg=name)


def test_a_negative_logit_is_projected_as_a_positive_one(small):
    """Deconvnet and guided start from the logit's value: its sign must not turn the picture over."""
    images = torch.randn(2, 3, 56, 56)
    one = scan(small, images, [1, 1], "features.13", 20, 12)
    with torch.no_grad():
        small.classifier[-1].bias -= 1000  # softmax does not notice
    try:
        other = scan(small, images, [1, 1], "features.13", 20, 12)
    finally:
        with torch.no_grad():
            small.classifier[-1].bias += 1000
    for name in ("guided", "deconvnet"):
        assert rank_correlation(one.covered[name], other.covered[name]).min() > 0.999


def test_a_scan_leaves_the_model_as_it_was(small):
    before = {name: p.clone() for name, p in small.state_dict().items()}
    scan(small, torch.randn(1, 3, 56, 56), [1], "features.13", 28, 14)
    assert all(torch.equal(p, before[name]) for name, p in small.state_dict().items())


def test_a_scan_asks_the_model_as_in_evaluation_and_leaves_it_in_training():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 5, 4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * 49, 5),
    ]
    model, images = nn.Sequential(*layers), torch.randn(4, 3, 32, 32)
    exact = scan(model.eval(), images, [1, 2, 3, 4], "2", 16, 8)
    before = copy.deepcopy(model.state_dict())
    found = scan(model.train(), images, [1, 2, 3, 4], "2", 16, 8)
    assert torch.equal(found.label, exact.label)
    assert all(torch.equal(found.covered[name], exact.covered[name]) for name in exact.covered)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_the_gradient_times_the_input_is_the_first_order_of_hiding():
    """On a linear network it is the drop of the logit itself."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    images = torch.randn(1, 3, 8, 8)
    scans = scan(model, images, [2], "0", size=4, stride=2)
    maps = occlusion_maps(model, images[0], 2, 4, 2, "2", channel=2)
    torch.testing.assert_close(
        scans.covered["gradient × input"][0].float(),
        maps.unoccluded.activation - maps.activation,
        rtol=1e-4,
        atol=1e-5,
    )


# ------------------------------------------------------------------------------ the rule, and the data
def test_the_rule_wants_the_class_among_five_and_a_box_neither_empty_nor_large():
    class Knows(nn.Module):  # class 0 is the best where the picture is bright, the worst where it is dark
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)) * c for c in (10, 1, 2, 3, 4, 5)], 1)

    pixels = torch.full((4, 3, 8, 8), 255, dtype=torch.uint8)
    pixels[1] = 0
    pictures = LabelledPictures(
        pixels, torch.zeros(4, dtype=torch.int64), tuple("abcdef"), tuple("abcdef"), ("",) * 4
    )
    card = {"input_size": 6, "resize": 8, "scale": 128.0, "mean": torch.full((3, 8, 8), 128.0)}
    inside = torch.zeros(4, 2, 2, dtype=torch.bool)
    inside[0, 0, 0] = inside[1, 0, 0] = True  # one position of four
    inside[2] = True  # all of them
    inside[3, 0] = True  # half: still taken
    assert eligible(Knows(), card, pictures, inside, 10).tolist() == [0, 3]
    assert eligible(Knows(), card, pictures, inside, 1).tolist() == [0]


def test_a_picture_is_recognised_when_its_class_is_among_five_of_the_ten_crops():
    network, card = load("zfnet-64")
    given = {p.name: (p, p.wnid or "none") for p in photographs().values()}
    found = recognised(network, card, given)
    for name, (picture, wnid) in given.items():
        if wnid not in card["classes"]:
            assert name not in found
            continue
        pixels = torch.from_numpy(square(picture, card)).permute(2, 0, 1)[None]
        crops = (ten_crops(pixels.float() - card["mean"], card["input_size"]) / card["scale"])[:, 0]
        with torch.no_grad():
            best = network(crops).softmax(1).mean(0).topk(5).indices.tolist()
        assert (card["classes"].index(wnid) in best) == (name in found)
    assert recognised(network, card, {"x": (photographs()["china"], "n00000000")}) == {}


def test_boxes_are_read_with_their_last_pixel(tmp_path):
    folder = tmp_path / "tiny-imagenet-200" / "val"
    folder.mkdir(parents=True)
    (folder / "val_annotations.txt").write_text("a.JPEG\tn1\t0\t32\t44\t62\nb.JPEG\tn2\t5\t6\t7\t8\n")
    boxes, digest = tiny_imagenet_boxes(tmp_path)
    assert boxes.tolist() == [[32, 0, 63, 45], [6, 5, 9, 8]]  # top, left, bottom, right
    assert len(digest) == 64
    with pytest.raises(FileNotFoundError, match=r"zfcore data get tiny-imagenet.*ZFCORE_DATA"):
        tiny_imagenet_boxes(tmp_path / "nowhere")


def square(photograph, card):
    """The photograph at the size of a data set's pictures."""
    return squares([photograph], {**card, "input_size": card["resize"]})[0]


def test_the_shell_writes_an_entry_for_trained_and_for_random_weights(tmp_path, monkeypatch):
    network, card = load("zfnet-64")
    names = ["chelsea", "coffee", "rocket", "grace_hopper"] * 6
    known = [photographs()[name] for name in names]
    pixels = torch.stack([torch.from_numpy(square(p, card)) for p in known]).permute(0, 3, 1, 2)
    labels = torch.tensor([card["classes"].index(p.wnid) for p in known])
    pictures = LabelledPictures(pixels, labels, tuple(card["classes"]), tuple(card["labels"]), tuple(names))
    boxes = torch.tensor([[16, 16, 32, 32], [16, 30, 32, 46]] * 12)
    monkeypatch.setattr(sensitivity, "tiny_imagenet", lambda split: pictures)
    monkeypatch.setattr(sensitivity, "tiny_imagenet_boxes", lambda: (boxes, "0" * 64))
    every = torch.arange(len(known))
    monkeypatch.setattr(sensitivity, "eligible", lambda *given, **options: every[:20])
    options = ["--pictures", "20", "--size", "28", "--stride", "14", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, ["sensitivity", "occlusion", *options])
    assert result.exit_code == 0, result.output
    entries = {entry["row"]: entry for entry in read("occlusion", tmp_path)["entries"]}
    assert set(entries) == {"zfnet-64", "zfnet-64, random weights"}
    assert entries["zfnet-64"]["weights_sha256"] == card["sha256"]
    assert entries["zfnet-64, random weights"]["weights_sha256"] is None
    assert entries["zfnet-64"]["command"].startswith(
        "zfcore sensitivity occlusion --weights zfnet-64 --pictures 20"
    )
    assert str(tmp_path) not in json.dumps(entries)
    # The network sees the middle 56 of 64 pixels: what is at 4 there is at 0 here.
    inside = centres_inside(boxes - 4, side=56, size=28, stride=14)[:20]
    images = to_input(pixels[:20].permute(0, 2, 3, 1), card)
    found = measures(scan(network, images, labels[:20], "features.13", 28, 14), inside)
    blank = measures(scan(untrained(card, 0), images, labels[:20], "features.13", 28, 14), inside)
    for row, asked in (("zfnet-64", found), ("zfnet-64, random weights", blank)):
        for question in ("drop", "pointing game"):
            assert entries[row]["values"][question] == {
                name: over_pictures(values)
                for name, values in asked[question].items()
                if np.isfinite(values).sum() > 1
            }


def test_too_few_pictures_that_meet_the_rule_are_refused(monkeypatch):
    pixels, labels = torch.zeros(30, 3, 64, 64, dtype=torch.uint8), torch.zeros(30, dtype=torch.int64)
    pictures = LabelledPictures(pixels, labels, ("a",), ("a",), ("",) * 30)
    monkeypatch.setattr(sensitivity, "tiny_imagenet", lambda split: pictures)
    monkeypatch.setattr(sensitivity, "tiny_imagenet_boxes", lambda: (torch.tensor([[0, 0, 9, 9]] * 30), ""))
    monkeypatch.setattr(sensitivity, "eligible", lambda *given, **options: torch.arange(19))
    with pytest.raises(ValueError, match="only 19 pictures meet the rule; ask for more"):
        next(sensitivity.occlusion_entries())


def test_an_unknown_analysis_is_told_with_the_known_ones():
    result = CliRunner().invoke(app, ["sensitivity", "colours"])
    assert result.exit_code == 2
    assert "occlusion, correspondence" in result.output
