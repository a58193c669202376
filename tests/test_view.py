"""What one unit looks like: pixels, fields, frames, and the sheet that a reader saves."""

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from zfcore import figures, view
from zfcore.data import photographs, squares, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.invariance import warp
from zfcore.model import build, initialize_
from zfcore.trace import Geometry

SIDE = 24


# ------------------------------------------------------------------------------ arrays to pixels
def test_a_silent_map_is_dark_and_the_peak_of_another_is_its_brightest():
    silent = view.colour_map(torch.zeros(4, 5))
    assert silent.shape == (4, 5, 3)
    assert len(np.unique(silent.reshape(-1, 3), axis=0)) == 1
    busy = view.colour_map(np.arange(20.0).reshape(4, 5)).astype(int).sum(2)
    assert busy.argmax() == 19
    assert (busy[0, 0] == silent[0, 0].astype(int).sum()).all()


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_webp_gives_every_pixel_back(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blob = base64.b64decode(view.data_url(view.as_webp(pixels)).partition("base64,")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(blob)).convert("RGB")), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(view.as_png(pixels)))), pixels)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(-9, 4), st.integers(0, 7), st.integers(0, 7))
def test_a_field_holds_exactly_the_pixels_its_unit_sees(reach, stride, offset, y, x):
    geometry = Geometry((reach, 3), (stride, 2), (offset, 1))
    field = view.Field.of(geometry, (y, x), SIDE)
    rows = [p for p in range(SIDE) if offset + y * stride <= p < offset + y * stride + reach]
    rows = rows or [0 if offset + y * stride < 0 else SIDE - 1]  # of padding alone: the nearest
    columns = [p for p in range(SIDE) if 1 + 2 * x <= p < 4 + 2 * x]
    assert list(range(field.top, field.bottom)) == rows
    assert list(range(field.left, field.right)) == columns


@pytest.mark.parametrize("shape", [(80, 120), (120, 80), (64, 64), (30, 90)])
def test_the_view_shows_the_part_that_the_network_sees(shape):
    """The middle 56 of 64 parts of the smaller side, as Pillow enlarges them: not a pixel more or less."""
    card, height, width = {"resize": 64, "input_size": 56}, *shape
    extent = 56 * min(shape) / 64
    box = [(width - extent) / 2, (height - extent) / 2, (width + extent) / 2, (height + extent) / 2]
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    enlarged = Image.fromarray(noise).resize((view.SIDE, view.SIDE), Image.Resampling.BICUBIC, box)
    np.testing.assert_array_equal(view.close_view(noise, card), np.asarray(enlarged))
    slope = np.stack([*np.mgrid[:height, :width] * 2, np.zeros(shape)], -1).astype(np.uint8)
    shown = Image.fromarray(view.close_view(slope, card)).resize((56, 56), Image.Resampling.BOX)
    assert abs(np.asarray(shown).astype(int) - squares([slope], card)[0])[1:-1, 1:-1].max() <= 2


# ------------------------------------------------------------------------------ a network's units
@pytest.fixture(scope="module")
def viewer():
    torch.manual_seed(0)
    model = build("zfnet-64", num_classes=5, width=0.25).eval()
    initialize_(model, "he")
    card = {
        "input_size": 56, "resize": 64, "scale": 64.0, "mean": [118.0, 117.0, 116.0],
        "classes": ["n02124075", "a", "b", "c", "d"], "labels": ["cat", "one", "two", "three", "four"],
    }  # fmt: skip
    return view.Viewer(model, card)


@pytest.fixture(scope="module")
def seen(viewer):
    return viewer.look("chelsea", photographs()["chelsea"])


def test_layers_are_named_as_the_paper_numbers_them(viewer):
    assert list(viewer.layers) == ["layer 1", "layer 2", "layer 3", "layer 4", "layer 5"]


def test_a_frame_holds_what_the_deconvnet_gives_for_its_unit(viewer, seen):
    frame = viewer.frame(seen, "layer 3", 7, (4, 9))
    x = to_input([photographs()["chelsea"]], viewer.card)
    for rule, shown in frame.projections.items():
        projection = Deconvnet(viewer.model).project(x, "features.9", 7, (4, 9), rule)[0]
        np.testing.assert_array_equal(shown, figures.stretch(projection))
        outside = projection.clone()
        outside[:, frame.field.top : frame.field.bottom, frame.field.left : frame.field.right] = 0
        assert not outside.any()
    panels = frame.panels()
    assert list(panels) == ["photograph", "map", "patch", *view.RULES] == list(frame.captions())
    np.testing.assert_array_equal(panels["patch"], frame.field.cut(seen.square))
    with torch.no_grad():
        assert frame.value == pytest.approx(
            viewer.net.activations(x, ["features.9"])["features.9"][0, 7, 4, 9].item()
        )


def test_without_a_unit_it_is_the_strongest(viewer, seen):
    frame = viewer.frame(seen, "features.13", 3)
    assert frame.layer == "layer 5"
    assert frame.value == seen.maps["features.13"][3].max()
    assert frame.feature == 3


def test_the_strongest_features_come_first_and_of_equals_the_lower_number(seen):
    peaks = seen.maps["features.5"].max((1, 2))
    assert seen.strongest("features.5", 6) == sorted(range(len(peaks)), key=lambda n: (-peaks[n], n))[:6]


def test_the_network_tells_its_best_labels_and_marks_the_true_one(viewer, seen):
    with torch.no_grad():
        p = viewer.model(seen.input).softmax(1)[0]
    assert [words for words, _, _ in seen.guesses] == [
        viewer.card["labels"][i] for i in p.argsort(descending=True)
    ]
    assert seen.guesses[0][1] == pytest.approx(p.max().item())
    assert [words for words, _, own in seen.guesses if own] == ["cat"]


def test_a_silent_unit_is_told_as_such(viewer, seen):
    activation = seen.maps["features.13"]
    c, y, x = (int(n) for n in np.argwhere(activation == 0)[0])
    frame = viewer.frame(seen, "layer 5", c, (y, x))
    assert "silent" in frame.says()
    assert (frame.projections["deconvnet"] == view.MID_GREY).all()


def test_a_unit_before_its_relu_answers_also_below_zero(viewer, seen):
    before = view.Viewer(viewer.model, viewer.card, ["features.12"])
    looked = before.look("chelsea", seen.square)
    c, y, x = (int(n) for n in np.argwhere(looked.maps["features.12"] < 0)[0])
    frame = before.frame(looked, "features.12", c, (y, x))
    assert "answers -" in frame.says()
    assert (frame.projections["gradient"] != view.MID_GREY).any()


def test_the_frame_of_a_field_of_a_few_pixels_is_a_dot():
    picture = Image.new("RGB", (16, 16), "white")
    view._outline(picture, (4, 4, 8, 6))
    assert (np.asarray(picture)[4:6, 4:8] != 255).any(-1).all()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("layer 9", 0), "there are: layer 1"),
        (("layer 1", 12), "0 to 11"),
        (("layer 1", 0, (56, 0)), "56×56 units"),
    ],
)
def test_a_choice_that_does_not_exist_is_told_with_what_does(viewer, seen, choice, words):
    with pytest.raises(ValueError, match=words):
        viewer.frame(seen, *choice)


def test_the_saved_sheet_has_six_squares_and_a_frame_where_the_field_is(viewer, seen):
    frame = viewer.frame(seen, "layer 2", 3, (14, 14))
    sheet = view.contact_sheet(frame, side=112, gap=4)
    assert sheet.shape == (112, 6 * 112 + 5 * 4, 3)
    assert sheet[2 * frame.field.top, 2 * frame.field.left].tolist() == [0, 0, 0]
    assert frame.file_name() == "chelsea-layer-2-feature-3-unit-14-14.png"


# ------------------------------------------------------------------------------ hidden and moved
@pytest.mark.parametrize("fill", list(view.FILLS))
def test_a_hidden_square_is_what_a_scan_finds_at_its_place(viewer, seen, fill):
    covered = viewer.cover(seen, (12, 20), 16, fill)
    maps = viewer.scan(covered, 4)
    assert maps.probability[3, 5].item() == pytest.approx(covered.now[0][covered.target], abs=1e-5)
    assert maps.label[3, 5].item() == covered.now[0].argmax()
    assert maps.activation[3, 5].item() == pytest.approx(covered.now[1], rel=1e-4)
    assert maps.unoccluded.activation.item() == pytest.approx(covered.whole[1], rel=1e-4)
    assert maps.channel == covered.channel


def test_what_shows_through_the_square_is_shown(viewer, seen):
    scale = view.SIDE / 56
    inside = slice(round(12 * scale) + 1, round(28 * scale) - 1)
    for fill, level in (("black", 0), ("white", 255), ("grey", [118, 117, 116])):
        covered = viewer.cover(seen, (12, 12), 16, fill)
        assert (covered.view[inside, inside] == level).all()
        assert (covered.view[:10] == seen.view[:10]).all()


def test_the_class_is_the_photographs_own_where_the_network_knows_it(viewer, seen):
    assert viewer.cover(seen).target == 0
    unknown = viewer.look("coffee", photographs()["coffee"])
    covered = viewer.cover(unknown)
    assert covered.target == covered.whole[0].argmax()


@pytest.mark.parametrize(
    ("square", "words"),
    [
        ({"corner": (50, 0)}, "not inside 56×56"),
        ({"size": 57}, "not inside"),
        ({"fill": "red"}, "known: grey, black, white, blur, noise"),
    ],
)
def test_a_square_that_cannot_be_is_told(viewer, seen, square, words):
    with pytest.raises(ValueError, match=words):
        viewer.cover(seen, **square)


def test_classes_are_coloured_by_how_frequent_they_are():
    pixels, legend = view.label_map(np.array([[4, 4, 1], [4, 2, 1]]))
    assert [(label, colour) for label, _, colour in legend] == list(
        zip((4, 1, 2), view.COLOURS, strict=False)
    )
    assert [share for _, share, _ in legend] == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert bytes(pixels[0, 0].tolist()).hex() == view.COLOURS[0][1:]
    many, legend = view.label_map(np.arange(9)[None])
    assert len(legend) == len(view.COLOURS)
    assert (many[0, -1] == view.MID_GREY).all()


def test_a_moved_photograph_is_turned_then_enlarged_then_shifted(viewer, seen):
    moved = viewer.move(seen, -5, 1.3, 30)
    x = warp(warp(warp(seen.input, "rotate", 30), "scale", 1.3), "translate", -5)
    with torch.no_grad():
        np.testing.assert_allclose(moved.after, viewer.model(x).softmax(1)[0], rtol=1e-4, atol=1e-6)
    (first, path, near), (deepest, last, _) = moved.distances
    assert (first, path, deepest, last) == ("layer 1", "features.1", "layer 7", "classifier.4")
    before, after = (viewer.net.activations(pictures, [path])[path].detach() for pictures in (seen.input, x))
    assert near == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
    np.testing.assert_array_equal(viewer.shown(seen.input[0]), seen.square)


# ------------------------------------------------------------------------------ other people's networks
class Functional(nn.Module):
    """Convolutions with functional ReLUs, and no classifier."""

    def __init__(self, depth):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(depth))

    def forward(self, x):
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return x


CARD = {"input_size": 16, "resize": 20, "scale": [50.0, 60.0, 70.0], "mean": [1.0, 2.0, 3.0]}


def test_another_network_has_its_trace_names_and_no_labels():
    viewer = view.Viewer(Functional(2).eval(), CARD)
    assert viewer.layers == {"relu": "relu", "relu_1": "relu_1"}
    assert viewer.look("mine", np.full((40, 30, 3), 90, np.uint8)).guesses == ()


def test_every_call_of_a_relu_is_offered_and_nothing_else_that_clips():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, x):
            return nn.functional.relu6(self.relu(self.two(self.relu(self.one(x))) + x))

    viewer = view.Viewer(Block().eval(), CARD)
    assert list(viewer.layers) == ["relu", "relu_1"]
    assert viewer.deepest == ("relu_1", "relu_1")


def test_where_the_field_is_unknown_the_whole_picture_is_framed():
    model = nn.Sequential(nn.ReflectionPad2d((0, 1, 0, 1)), nn.Conv2d(3, 2, 3, stride=2), nn.ReLU()).eval()
    viewer = view.Viewer(model, CARD)
    frame = viewer.first(viewer.look("mine", np.full((40, 30, 3), 90, np.uint8)))
    assert frame.field == view.Field(0, 0, 16, 16)


def test_an_architecture_of_another_kind_is_no_matter():
    model = Functional(1).eval()
    model.architecture = "mine"
    assert view.Viewer(model, CARD).layers == {"relu": "relu"}


def test_a_network_in_half_precision_can_be_looked_at():
    viewer = view.Viewer(Functional(2).eval().bfloat16(), CARD)
    frame = viewer.first(viewer.look("mine", np.full((40, 30, 3), 90, np.uint8)))
    assert frame.panels()["deconvnet"].dtype == np.uint8


def test_of_many_layers_six_are_taken_evenly():
    assert list(view.Viewer(Functional(11).eval(), CARD).layers) == [
        "relu", "relu_2", "relu_4", "relu_6", "relu_8", "relu_10"
    ]  # fmt: skip


def test_a_mean_and_a_scale_of_three_numbers_are_taken_by_colour():
    pixels = np.full((20, 20, 3), 100, np.uint8)
    x = view.Viewer(Functional(1).eval(), CARD).look("grey", pixels).input
    assert x[0, :, 3, 3].tolist() == pytest.approx([99 / 50, 98 / 60, 97 / 70])


def test_layers_are_chosen_by_path_or_by_a_name_of_ones_own():
    model = Functional(3).eval()
    assert view.Viewer(model, CARD, ["relu_1"]).layers == {"relu_1": "relu_1"}
    assert view.Viewer(model, CARD, {"early": "relu"}).layers == {"early": "relu"}


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_three_numbers_may_be_an_array_or_a_tensor(kind):
    pixels = np.full((20, 20, 3), 100, np.uint8)
    card = CARD | {key: kind(CARD[key]) for key in ("mean", "scale")}
    x = view.Viewer(Functional(1).eval(), card).look("grey", pixels).input
    assert x[0, :, 3, 3].tolist() == pytest.approx([99 / 50, 98 / 60, 97 / 70])


def test_a_unit_that_sees_nothing_but_padding_has_a_frame_of_one_pixel():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, padding=1), nn.ReLU()).eval()
    viewer = view.Viewer(model, CARD)
    frame = viewer.frame(viewer.look("mine", np.full((40, 30, 3), 90, np.uint8)), "1", 0, (0, 17))
    assert frame.field == view.Field(0, 15, 1, 16)
    assert view.contact_sheet(frame).ndim == 3


def test_a_classifier_without_a_relu_is_looked_at_by_its_last_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 5))
    viewer = view.Viewer(model.eval(), CARD, ["0", "1"])
    assert viewer.deepest == ("1", "1")


def test_a_photographs_python_names_it_as_the_package_does():
    assert view.Subject.of("my cat", photographs()["chelsea"]).python == 'photographs()["chelsea"]'


def test_a_picture_given_as_a_path_is_called_by_its_name():
    assert view.Subject.of("cup", "pictures/cup.png").title == "cup"


def test_a_part_in_training_mode_is_refused_as_the_whole_is():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Dropout()).eval()
    model[2].train()
    with pytest.raises(ValueError, match="a part of it is in training mode"):
        view.Viewer(model, CARD)


def test_a_network_that_ends_in_a_softmax_is_asked_for_its_logits():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 3)).eval()
    both = nn.Sequential(model, nn.Softmax(1)).eval()
    with pytest.raises(ValueError, match="ends in a softmax"):
        view.Viewer(both, CARD)
    assert not view.Viewer(both, CARD, classifier=False).classifier


def test_what_cannot_be_looked_at_is_told():
    for entry in CARD:
        with pytest.raises(ValueError, match=f"the card has no '{entry}'; it has "):
            view.Viewer(Functional(1).eval(), {key: CARD[key] for key in CARD if key != entry})
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        view.Viewer(Functional(1), CARD)
    flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 14 * 14, 3)).eval()
    with pytest.raises(ValueError, match=r"no feature maps .* to look at: 3"):
        view.Viewer(flat, CARD, ["1", "3"])
    with pytest.raises(ValueError, match="no ReLU here has feature maps; give layers, of 0, 1"):
        view.Viewer(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sigmoid()).eval(), CARD)
    with pytest.raises(ValueError, match="3 classes, but 2 labels"):
        view.Viewer(flat, CARD | {"labels": ["a", "b"]}).look("x", np.zeros((20, 20, 3), np.uint8))
