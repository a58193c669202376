"""The drawings: what a reader must be able to tell from them is in the figure's own data."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zfcore import figures


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_a_projected_zero_is_mid_grey_and_its_extremes_are_white_and_black():
    p = np.zeros((3, 2, 2))
    p[:, 0, 0], p[:, 1, 1] = 4.0, -4.0
    pixels = figures.stretch(p, percentile=100)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (2, 2, 3)
    assert pixels[0, 1].tolist() == [128] * 3
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[1, 1].tolist() == [0] * 3


def test_zeros_around_a_small_field_do_not_change_its_contrast():
    small = np.random.default_rng(0).normal(size=(3, 7, 7))
    large = np.zeros((3, 56, 56))
    large[:, 20:27, 30:37] = small
    np.testing.assert_array_equal(figures.stretch(large)[20:27, 30:37], figures.stretch(small))


def test_a_projection_of_nothing_is_plain_grey():
    assert (figures.stretch(torch.zeros(3, 5, 5)) == 128).all()


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 999), st.floats(1e-6, 1e6), st.floats(50, 100))
def test_the_stretch_does_not_know_the_unit_of_its_values(seed, unit, percentile):
    p = np.random.default_rng(seed).normal(size=(3, 6, 5))
    shown = figures.stretch(p, percentile).astype(int)
    assert abs(figures.stretch(p * unit, percentile).astype(int) - shown).max() <= 1
    naive = np.zeros((6, 5, 3))
    scale = np.percentile([abs(v) for v in p.ravel() if v != 0], percentile)
    for c, y, x in np.ndindex(p.shape):
        naive[y, x, c] = 127.5 + 127.5 * min(1, max(-1, p[c, y, x] / scale))
    assert abs(naive - shown).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("projection", "percentile", "words"),
    [
        (np.zeros((1, 3, 4, 4)), 99, "one at a time"),
        (np.zeros((3, 4, 4)), 0, "above 0"),
        (np.full((3, 4, 4), np.nan), 99, "not finite"),
    ],
)
def test_what_cannot_be_stretched_is_told_in_words(projection, percentile, words):
    with pytest.raises(ValueError, match=words):
        figures.stretch(projection, percentile)


def test_a_row_of_pictures_shows_each_in_its_place_and_leaves_gaps():
    a, b = np.zeros((4, 4)), np.ones((4, 4))
    figure = figures.pictures(
        [[a, None], [None, b]], column_titles=["left", "right"], row_titles=["up", "down"]
    )
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 0, 1]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), b)


def test_a_frame_encloses_the_pixels_it_names():
    figure = figures.pictures([[np.zeros((10, 10))]], frames={(0, 0): (2, 3, 4, 5)})
    (frame,) = figure.axes[0].patches
    assert (frame.get_y(), frame.get_x(), frame.get_height(), frame.get_width()) == (1.5, 2.5, 4, 5)


def test_the_number_on_a_cell_counts_the_windows_that_chose_it():
    chosen = np.array([[1, 1], [1, 1], [0, 2]])
    figure = figures.switches(np.zeros((3, 4)), chosen, [(0, 0), (0, 1), (0, 2)], size=2)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "2"]


def test_an_architecture_is_labelled_with_its_sizes():
    figure = figures.architecture(
        [("picture", 3, 224, ""), ("layer 1", 96, 110, "7×7, /2"), ("layer 6", 4096, 1, "full")]
    )
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "110×110" in words
    assert "×96" in words
    assert "4096" in words


def test_bars_carry_their_values_and_the_level_of_guessing():
    figure = figures.bars({"a": 12.0, "b": 34.0}, "correct, %", chance=10)
    assert {text.get_text() for text in figure.axes[0].texts} == {"12", "34", "guessing"}
    assert figure.axes[0].lines[0].get_ydata()[0] == 10


def test_pictures_of_one_limit_share_their_contrast():
    faint, strong = np.full((3, 2, 2), 0.5), np.full((3, 2, 2), 1.0)
    assert figures.stretch(faint).max() == figures.stretch(strong).max() == 255
    assert figures.stretch(faint, limit=1.0).max() == 191
    assert figures.stretch(strong, limit=1.0).max() == 255
    with pytest.raises(ValueError, match="limit is 0"):
        figures.stretch(faint, limit=0)


@pytest.mark.parametrize("shared", [False, True])
def test_filters_are_drawn_largest_first_in_blocks_of_one_contrast(shared):
    draw = torch.Generator().manual_seed(0)
    layers = {words: torch.randn(5, 3, 4, 4, generator=draw) * (1 + n) for n, words in enumerate("ab")}
    layers["a"] *= torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0])[:, None, None, None]
    figure = figures.filters(layers, 3, shared)
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    limit = {words: float(w.abs().max()) for words, w in layers.items()}
    expected = []
    for words, w in layers.items():
        order = sorted(range(5), key=lambda n, w=w: -float(w[n].square().sum()))
        top = max(limit.values()) if shared else limit[words]
        expected += [figures.stretch(w[n], limit=top) for n in order]
    assert len(drawn) == 10
    for found, wanted in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert [t.get_text() for axes in figure.axes for t in axes.texts] == ["a", "", "b", ""]


def test_curves_run_from_one_and_explain_their_names_once():
    both = {"a": [3.0, 2.0, 1.0], "b": [1.0, 1.0, 1.0]}
    figure = figures.curves({"loss": both, "error": both}, "epoch", levels={"error": ("guessing", 90)})
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1, 2, 3]] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.axes[1].texts[0].get_text() == "guessing"
    apart = figures.curves({"loss": {"l": [1.0]}, "error": both}, {"loss": "step", "error": "epoch"})
    assert not apart.legends
    assert apart.axes[0].get_legend() is None
    assert [axes.get_xlabel() for axes in apart.axes] == ["step", "epoch"]


def test_a_band_lies_around_its_curve_and_x_is_as_given():
    figure = figures.curves(
        {"distance": {"near": [0.0, 1.0]}},
        "shift",
        x=[-3, 3],
        bands={"distance": {"near": ([0, 0.5], [0, 2])}},
    )
    [axes] = figure.axes
    assert list(axes.lines[0].get_xdata()) == [-3, 3]
    [band] = axes.collections
    assert band.get_datalim(axes.transData).y1 == 2
    each = figures.curves({"a": {"": [1, 2]}, "b": {"": [1, 2, 3]}}, "x", x={"a": [0, 9], "b": [5, 6, 7]})
    assert [list(axes.lines[0].get_xdata()) for axes in each.axes] == [[0, 9], [5, 6, 7]]


def test_histograms_count_in_common_bins_of_which_the_level_is_an_edge():
    upper = {"free": [0.005, 0.095, 0.105, 0.29], "held": [0.005, 0.005, 0.095, 0.1 + 1e-8]}
    figure = figures.histograms(
        {"layer 1": upper, "layer 2": {name: values[:2] for name, values in upper.items()}}, "RMS", ("r", 0.1)
    )
    assert [axes.get_title() for axes in figure.axes] == ["layer 1", "layer 2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["free", "held"]
    for axes, whole in zip(figure.axes, (upper, {"free": [0.005, 0.095], "held": [0.005] * 2}), strict=True):
        assert axes.lines[0].get_xdata()[0] == 0.1
        for (shares, edges, _), values in zip(
            (p.get_data() for p in axes.patches[::2]), whole.values(), strict=True
        ):
            assert np.isclose(edges, 0.1, rtol=1e-4).any()
            assert np.isclose(shares.sum(), 100), "no filter is lost at an end"
            below = 100 * np.mean(np.array(values) < 0.1 + 1e-7)
            assert np.isclose(shares[edges[1:] < 0.1 + 1e-5].sum(), below)


def test_an_interval_that_holds_zero_has_a_hollow_point():
    points = {
        "paper": [(2.0, 2.0, 2.0), (0.0, 0.0, 0.0), None],
        "here": [(1.5, -0.5, 3.5), (-4.0, -5.0, -3.0), (1.0, 0.0, 2.0)],
    }
    figure = figures.intervals(["a", "b", "c"], points, "difference")
    [axes] = figure.axes
    filled = [
        line.get_markerfacecolor()
        for line in axes.lines
        if line.get_marker() in "os" and len(line.get_xdata())
    ]
    assert filled == ["C0", "C0", "white", "C1", "white"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]


def test_every_claim_has_its_square_and_only_verdicts_that_occur_are_explained():
    rows = {"§3": [(1, "reproduced"), (2, "not run yet")], "§4": [(3, "reproduced")]}
    figure = figures.verdicts(rows)
    [axes], [legend] = figure.axes, figure.legends
    assert [text.get_text() for text in axes.texts] == ["1", "2", "3"]
    first, waiting, third = (patch.get_facecolor() for patch in axes.patches)
    assert first == third != waiting
    assert [text.get_text() for text in legend.get_texts()] == ["reproduced", "not run yet"]


def test_a_mosaic_has_its_cells_row_by_row_between_white_lines():
    cells = np.stack([np.full((2, 2, 3), n, np.uint8) for n in range(4)])
    sheet = figures.mosaic(cells)
    assert sheet.shape == (5, 8, 3)
    np.testing.assert_array_equal(sheet[0, :, 0], [0, 0, 255, 1, 1, 255, 2, 2])
    assert (sheet[2] == 255).all()
    np.testing.assert_array_equal(sheet[4, :, 0], [3, 3, 255, 255, 255, 255, 255, 255])


# ------------------------------------------------------------------------------ Fig. 6
def occlusion_row(labels, **parts):
    values = np.arange(6.0).reshape(2, 3)
    names = {label: f"class {label}" for label in {7, *np.unique(labels).tolist()}}
    return figures.OcclusionRow(
        np.zeros((20, 20, 3), np.uint8), values, values / 10, np.asarray(labels), names, 7, **parts
    )


def legend_of(figure):
    return [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts]


def test_a_value_is_drawn_where_the_middle_of_its_square_was():
    drawing = figures.occlusion([occlusion_row([[7, 7, 7]] * 2)], size=8, stride=6)
    photograph, strongest, *_ = drawing.axes
    # Middles at 4, 10 and 16 across and 4 and 10 down, each drawn as a cell of one stride.
    assert strongest.images[0].get_extent() == [1, 19, 13, 1]
    assert strongest.get_xlim() == (0, 20)
    assert strongest.get_ylim() == (20, 0)
    assert photograph.images[0].get_array().shape == (20, 20, 3)


def test_the_own_class_is_blue_and_the_others_come_by_how_often():
    colours, shown = figures._label_colours(occlusion_row([[7, 3, 3], [5, 3, 7]]))
    assert list(colours) == [7, 3, 5]
    assert colours[7] == figures.LABEL_COLOURS[0]
    assert (shown[0, 1] == shown[1, 1]).all()
    assert (shown[0, 0] != shown[0, 1]).any()


def test_blue_stays_the_own_class_where_it_is_never_the_label():
    colours, _ = figures._label_colours(occlusion_row([[3, 3, 3], [5, 3, 3]]))
    assert list(colours) == [3, 5]
    assert figures.LABEL_COLOURS[0] not in colours.values()


def test_the_legend_names_what_has_a_colour_and_counts_the_others():
    row = occlusion_row(np.arange(6).reshape(2, 3) + 7)
    assert legend_of(figures.occlusion([row], 8, 6)) == [f"class {n}" for n in range(7, 13)]
    many = occlusion_row([[7, 1, 2], [3, 4, 5]])
    many.names.update(dict.fromkeys(many.names, "a name as long as a sentence"))
    assert legend_of(figures.occlusion([many], 8, 6))[0].endswith("…")
    eight = figures.OcclusionRow(
        many.picture,
        np.zeros((2, 4)),
        np.zeros((2, 4)),
        np.arange(8).reshape(2, 4),
        dict.fromkeys(range(8), "x"),
        0,
    )
    assert legend_of(figures.occlusion([eight], 8, 6))[-1] == "2 others"


def test_projections_make_a_column_and_the_own_one_is_framed():
    grey = np.full((20, 20, 3), 128, np.uint8)
    without = figures.occlusion([occlusion_row([[7, 7, 7]] * 2)], 8, 6)
    drawn = figures.occlusion([occlusion_row([[7, 7, 7]] * 2, projection=grey, others=[grey] * 5)], 8, 6)
    assert len(drawn.axes) == len(without.axes) + 1
    insets = drawn.axes[2].child_axes
    assert [inset.spines["top"].get_visible() for inset in insets] == [True, False, False, False]
