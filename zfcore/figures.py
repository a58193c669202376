"""Arrays in, matplotlib figures out: the book's drawings, with no torch and no mathematics.

Every function returns a new :class:`matplotlib.figure.Figure` of the book's width; sizes are in
inches, pixels are uint8 (H, W, 3) or float (H, W) maps. Colours are safe for colour-blind readers.

Example::

    from zfcore.data import photographs
    from zfcore.figures import pictures
    pictures([[p.pixels for p in list(photographs().values())[:4]]])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

WIDTH = 7.2
MAPS = "viridis"
FRAME = "#e69f00"  # Okabe & Ito's orange: seen on dark and on light pictures
CONVNET, DECONVNET = "#0072b2", "#d55e00"


def stretch(projection, percentile: float = 99.5, limit: float | None = None) -> np.ndarray:
    """Show a signed picture around mid-grey, its contrast stretched by its own values.

    Zero becomes mid-grey (128); ± the ``percentile`` of the absolute values that are not zero
    becomes white and black, and what lies beyond is clipped. A picture of zeros is all grey.

    Parameters
    ----------
    projection
        (3, H, W) tensor or array, signed, any unit.
    percentile
        In (0, 100]; 100 clips nothing.
    limit
        The value that becomes white, instead of the percentile: for pictures that share one contrast.

    Returns
    -------
    ndarray
        (H, W, 3) uint8.

    Raises
    ------
    ValueError
        The array is not (3, H, W), holds a value that is not finite, the percentile is outside (0, 100],
        or the limit is not positive.
    """
    values = np.asarray(
        projection.detach().cpu().double() if hasattr(projection, "detach") else projection, np.float64
    )
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"a projection has shape (3, H, W), but this has {values.shape}; give one at a time")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}; give one above 0 and at most 100")
    if not np.isfinite(values).all():
        raise ValueError("the projection holds values that are not finite; check the network's weights")
    if limit is not None and not limit > 0:
        raise ValueError(f"limit is {limit}; give a positive value, the one that shall be white")
    strengths = np.abs(values[values != 0])
    scale = limit or (np.percentile(strengths, percentile) if strengths.size else 1.0)
    shown = np.clip(values / scale, -1, 1) * 127.5 + 127.5
    return np.rint(shown).astype(np.uint8).transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)


def mosaic(cells: np.ndarray, columns: int = 3, gap: int = 1) -> np.ndarray:
    """Lay equal pictures (N, H, W, 3) uint8 out row by row, with white lines of ``gap`` pixels between.

    The N of Fig. 2 is nine; the last row may be shorter than the others, and is white where nothing is.
    """
    n, height, width, _ = cells.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def pictures(
    rows: Sequence[Sequence[np.ndarray | None]],
    row_titles: Sequence[str] | None = None,
    column_titles: Sequence[str] | None = None,
    frames: Mapping[tuple[int, int], tuple[float, float, float, float]] | None = None,
    captions: Mapping[tuple[int, int], str] | None = None,
    width: float = WIDTH,
    colours: str = MAPS,
) -> Figure:
    """A grid of pictures and maps, all cells square; ``None`` leaves a cell empty.

    ``frames`` puts a rectangle (top, left, height, width) in pixels around a part of the cell
    (row, column); ``captions`` puts small text below a cell.
    """
    columns = max(map(len, rows))
    left = 0.3 if row_titles else 0.02
    cell = (width - left) / columns
    top, below = (0.3 if column_titles else 0.04), (0.2 if captions else 0.0)
    height = len(rows) * (cell + below) + top
    figure = Figure(figsize=(width, height), layout="none")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y = 1 - (top + (r + 1) * cell + r * below) / height
            box = ((left + c * cell) / width + 0.004, y, cell / width - 0.008, cell / height * 0.975)
            axes = figure.add_axes(box)
            axes.axis("off")
            if column_titles and r == 0:
                axes.set_title(column_titles[c], fontsize=9, pad=4)
            if row_titles and c == 0:
                beside = {"transform": axes.transAxes, "rotation": 90, "ha": "right", "va": "center"}
                axes.text(-0.08, 0.5, row_titles[r], fontsize=9, **beside)
            if image is None:
                continue
            axes.imshow(image, cmap=colours, interpolation="nearest")
            if frames and (r, c) in frames:
                _frame(axes, frames[r, c])
            if captions and (r, c) in captions:
                below_it = {"transform": axes.transAxes, "ha": "center", "va": "top"}
                axes.text(0.5, -0.04, captions[r, c], fontsize=7, **below_it)
    return figure


def filters(layers: Mapping[str, np.ndarray], columns: int, shared: bool = False) -> Figure:
    """First layers of filters (F, 3, k, k), one block of rows below the other, the largest filter first.

    Layers are arrays or tensors. A block has the contrast of its own largest weight, or, if ``shared``, all
    blocks have that of the largest of all.
    """
    rows, titles, limits = [], [], {words: float(abs(w).max()) for words, w in layers.items()}
    for words, w in layers.items():
        limit = max(limits.values()) if shared else limits[words]
        sizes = (np.asarray(w, np.float64) ** 2).mean((1, 2, 3))
        shown = [stretch(w[n], limit=limit) for n in np.argsort(-sizes, kind="stable").tolist()]
        rows += [shown[start : start + columns] for start in range(0, len(shown), columns)]
        titles += [words] + [""] * (len(rows) - len(titles) - 1)
    return pictures(rows, titles)


def _frame(axes: Axes, box: tuple[float, float, float, float]) -> None:
    top, left, height, width = box
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=FRAME, linewidth=1.6)
    )


def architecture(stages: Sequence[tuple[str, int, int, str]], width: float = WIDTH) -> Figure:
    """Draw a network as a row of blocks: Fig. 3 from the sizes of the real thing.

    ``stages`` holds (label, maps, side, operation); side 1 is a fully connected layer. A block's
    face grows with the square root of its side, its depth with the logarithm of its maps.
    """
    faces = [0.30 * np.sqrt(side) if side > 1 else 0.16 for _, _, side, _ in stages]
    depths = [0.16 * np.log2(maps) if side > 1 else 0.0 for _, maps, side, _ in stages]
    heights = [
        f if side > 1 else 0.2 * np.log2(maps) for f, (_, maps, side, _) in zip(faces, stages, strict=True)
    ]
    gap, column, top = 0.85, 0.0, max(heights)
    figure = Figure(figsize=(width, 2.6), layout="none")
    axes = figure.subplots()
    for (label, maps, side, operation), face, depth, high in zip(stages, faces, depths, heights, strict=True):
        y, dx, dy = (top - high) / 2, 0.5 * depth, 0.32 * depth
        room = max(face + dx, 1.5)  # the labels of the thin blocks need as much
        x = column + (room - face - dx) / 2
        colour = CONVNET if side > 1 else DECONVNET
        corners = {
            "front": [(x, y), (x + face, y), (x + face, y + high), (x, y + high)],
            "top": [
                (x, y + high),
                (x + face, y + high),
                (x + face + dx, y + high + dy),
                (x + dx, y + high + dy),
            ],
            "side": [
                (x + face, y),
                (x + face + dx, y + dy),
                (x + face + dx, y + high + dy),
                (x + face, y + high),
            ],
        }
        for part, shade in (("side", 0.55), ("top", 0.4), ("front", 0.22)):
            if part == "front" or depth:
                axes.add_patch(Polygon(corners[part], facecolor=colour, alpha=shade, edgecolor="none"))
                axes.add_patch(Polygon(corners[part], fill=False, edgecolor=colour, linewidth=0.8))
        size = f"{side}×{side}\n×{maps}" if side > 1 else f"{maps}"
        axes.text(x + (face + dx) / 2, -0.35, f"{label}\n{size}", ha="center", va="top", fontsize=7.5)
        if operation:
            axes.text(
                column - 0.4 * gap,
                top + 0.4,
                operation,
                ha="center",
                va="bottom",
                fontsize=6.5,
                linespacing=1.15,
            )
            arrow = FancyArrowPatch(
                (x - 0.6, top / 2), (x - 0.05, top / 2), arrowstyle="-|>", mutation_scale=7, color="0.35"
            )
            axes.add_patch(arrow)
        column += room + gap
    axes.set(xlim=(-0.4, column - gap + 0.3), ylim=(-1.9, top + 1.9), aspect="equal")
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure


def deconvnet_layer(width: float = WIDTH) -> Figure:
    """The paper's Fig. 1 as a diagram: one layer of the convnet and of the deconvnet that inverts it."""
    figure = Figure(figsize=(width, 3.7), layout="none")
    axes = figure.subplots()
    up = ["Maps of the layer below", "Filter: convolve with $F$", "Rectify: ReLU", "Max pool", "Pooled maps"]
    down = [
        "Reconstruction below",
        "Filter: transpose $F^{\\top}$",
        "Rectify: ReLU",
        "Unpool",
        "Reconstruction above",
    ]
    for x, labels, colour, upward in ((0.0, down, DECONVNET, False), (5.4, up, CONVNET, True)):
        for level, label in enumerate(labels):
            data = level in (0, len(labels) - 1)
            box = FancyBboxPatch(
                (x, level * 1.25), 3.6, 0.72, boxstyle="round,pad=0.02,rounding_size=0.12",
                facecolor=colour, alpha=0.12 if data else 0.32, edgecolor=colour, linewidth=1,
            )  # fmt: skip
            axes.add_patch(box)
            axes.text(x + 1.8, level * 1.25 + 0.36, label, ha="center", va="center", fontsize=9)
        for level in range(len(labels) - 1):
            ends = [(x + 1.8, level * 1.25 + 0.76), (x + 1.8, level * 1.25 + 1.21)]
            start, stop = ends if upward else ends[::-1]
            axes.add_patch(FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=11, color=colour))
    axes.add_patch(
        FancyArrowPatch(
            (5.36, 4.11), (3.66, 4.11), arrowstyle="-|>", mutation_scale=11, color="0.25", linestyle="--"
        )
    )
    axes.text(4.5, 4.26, "switches", ha="center", va="bottom", fontsize=9, style="italic")
    axes.text(1.8, 6.0, "Deconvnet, downward", ha="center", fontsize=10, color=DECONVNET, weight="bold")
    axes.text(7.2, 6.0, "Convnet, upward", ha="center", fontsize=10, color=CONVNET, weight="bold")
    axes.set(xlim=(-0.2, 9.2), ylim=(-0.2, 6.5), aspect="equal")
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure


def switches(
    feature_map: np.ndarray,
    chosen: np.ndarray,
    corners: Sequence[tuple[int, int]],
    size: int,
    width: float = 4.2,
) -> Figure:
    """A feature map with its pooling windows and the cell each window chose.

    ``feature_map`` is (H, W); ``chosen`` (windows, 2) holds rows and columns; ``corners`` the top
    left cell of each window. The number on a cell tells how many windows chose it.
    """
    figure = Figure(figsize=(width, width * feature_map.shape[0] / feature_map.shape[1]), layout="none")
    axes = figure.subplots()
    axes.imshow(feature_map, cmap=MAPS, interpolation="nearest")
    for n, (top, left) in enumerate(corners):
        nudge = 0.09 * (n % 3 - 1)  # neighbouring windows overlap; keep their outlines apart
        axes.add_patch(
            Rectangle(
                (left - 0.5 + nudge, top - 0.5 + nudge), size, size, fill=False, edgecolor="w", linewidth=0.9
            )
        )
    cells, counts = np.unique(chosen, axis=0, return_counts=True)
    for (row, column), count in zip(cells, counts, strict=True):
        axes.plot(
            column, row, "o", color=FRAME, markersize=9 + 2 * count, markeredgecolor="k", markeredgewidth=0.6
        )
        axes.text(column, row, str(count), ha="center", va="center", fontsize=7.5, color="k")
    axes.set(xlim=(-0.6, feature_map.shape[1] - 0.4), ylim=(feature_map.shape[0] - 0.4, -0.6))
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure


def bars(values: Mapping[str, float], ylabel: str, chance: float | None = None, width: float = 4.6) -> Figure:
    """One bar per name with its value on top; ``chance`` draws the level of guessing."""
    figure = Figure(figsize=(width, 0.5 * width), layout="constrained")
    axes = figure.subplots()
    drawn = axes.bar(list(values), list(values.values()), color=CONVNET, alpha=0.85)
    written = [f"{value:.0f}" if value >= 10 else f"{value:.2g}" for value in values.values()]
    axes.bar_label(drawn, written, fontsize=8, padding=2)
    if chance is not None:
        axes.axhline(chance, color=DECONVNET, linestyle="--", linewidth=1)
        beside = axes.get_yaxis_transform()  # the label stands to the right of the bars, not on them
        axes.text(
            1.01, chance, "guessing", transform=beside, color=DECONVNET, fontsize=8, va="center", ha="left"
        )
    axes.set_ylabel(ylabel)
    return figure


def curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str | Mapping[str, str],
    levels: Mapping[str, tuple[str, float]] | None = None,
    x: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    bands: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Curves side by side: ``{y label: {name: values for x = 1, 2, …}}``, or for the ``x`` given.

    ``xlabel`` is one for all panels, or one for each, ``{y label: x label}``, and so is ``x``. ``levels``
    draws a dashed line in a panel, ``{y label: (words, height)}``; ``bands`` a band around a curve,
    ``{y label: {name: (low, high)}}``. Names that all panels share are explained once, above them; the
    others in their panel, if there are several.
    """
    figure = Figure(figsize=(width, 0.36 * width), layout="constrained")
    shared = len({tuple(lines) for lines in panels.values()}) == 1
    for axes, (ylabel, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, values in lines.items():
            style = {"marker": "o" if len(values) <= 30 else None, "markersize": 3}
            places = x[ylabel] if isinstance(x, Mapping) else x or range(1, len(values) + 1)
            [line] = axes.plot(places, values, label=name, **style)
            if bands and name in bands.get(ylabel, {}):
                axes.fill_between(places, *bands[ylabel][name], color=line.get_color(), alpha=0.2, lw=0)
        if levels and ylabel in levels:
            words, height = levels[ylabel]
            axes.axhline(height, color="#666666", linestyle="--", linewidth=1)
            axes.annotate(
                words, (1, height), (-2, 2), axes.get_yaxis_transform(), "offset points",
                ha="right", va="bottom", fontsize=8, color="#444444",
            )  # fmt: skip
        if x is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(xlabel if isinstance(xlabel, str) else xlabel[ylabel])
        axes.set_ylabel(ylabel)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0] if min(map(min, lines.values())) < 0 else 0.0))
        if len(lines) > 1 and not shared:
            axes.legend()
    if len(lines) > 1 and shared:
        in_one_line = sum(map(len, lines)) + 6 * len(lines) < 14 * width
        columns = len(lines) if in_one_line else -(-len(lines) // 2)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns)
    return figure


def histograms(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    level: tuple[str, float],
    bins: int = 24,
    width: float = WIDTH,
) -> Figure:
    """How values are spread, in panels side by side that share their bins: ``{title: {name: values}}``.

    Heights are shares in % of a panel's filters by that name. Every panel has the same two names, which are
    explained once, above them. ``level`` draws a dashed line in each, ``(words, value)``; it is an edge of
    the bins, and what lies on it counts below.
    """
    words, value = level
    every = np.concatenate([np.asarray(values) for names in panels.values() for values in names.values()])
    reach = max(1, round(value * bins / max(every.max(), value)))  # bins below the level
    edges = (1 + 1e-5) * value / reach * np.arange(int(every.max() * reach / value) + 2)
    figure = Figure(figsize=(width, 0.3 * width), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, names) in zip(row, panels.items(), strict=True):
        for (name, values), colour in zip(names.items(), (CONVNET, DECONVNET), strict=True):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, label=name, color=colour, fill=True, alpha=0.25)
            axes.stairs(shares, edges, color=colour)
        axes.axvline(value, color="#666666", linestyle="--", linewidth=1)
        axes.set_title(title)
    row[0].annotate(
        words, (value, 1), (3, -2), row[0].get_xaxis_transform(), "offset points",
        va="top", fontsize=8, color="#444444",
    )  # fmt: skip
    row[0].set_ylabel("filters, %")
    figure.supxlabel(xlabel, fontsize=10)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def verdicts(rows: Mapping[str, Sequence[tuple[int, str]]], width: float = 5.6) -> Figure:
    """Numbered squares, each in the colour of its verdict: ``{row title: [(number, verdict), …]}``.

    The verdicts, explained below the squares, are those of :func:`zfcore.claims.count`.
    """
    looks = {
        "reproduced": (CONVNET, CONVNET, "white", "-"),
        "contradicted": (DECONVNET, DECONVNET, "white", "-"),
        "not testable at this scale": ("#e4e4e4", "#777777", "#222222", "-"),
        "not run yet": ("white", "#777777", "#222222", "--"),
    }
    figure = Figure(figsize=(width, 0.3 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots()
    for y, squares in enumerate(rows.values()):
        for x, (number, verdict) in enumerate(squares):
            face, edge, ink, line = looks[verdict]
            box = FancyBboxPatch(
                (x + 0.12, y + 0.12), 0.76, 0.76, "round,pad=0,rounding_size=0.14",
                facecolor=face, edgecolor=edge, linestyle=line, label=verdict,
            )  # fmt: skip
            axes.add_patch(box)
            axes.text(x + 0.5, y + 0.53, str(number), color=ink, ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, max(map(len, rows.values()))), ylim=(len(rows), 0), aspect="equal", frame_on=False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    named = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    handles = [named[verdict] for verdict in looks if verdict in named]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def intervals(
    rows: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    xlabel: str,
    width: float = WIDTH,
) -> Figure:
    """One line for each row, and on it a point (value, low, high) of every series; ``None`` leaves it out.

    A point without an interval has low = high = value. Where an interval holds zero the point is
    hollow: the difference it stands for is none.
    """
    figure = Figure(figsize=(width, 0.6 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(series.items()):
        colour, shift = f"C{number}", 0.16 * (2 * number - len(series) + 1)
        for place, point in enumerate(points):
            if point is None:
                continue
            value, low, high = point
            hollow = low <= 0 <= high and low < high
            axes.errorbar(
                value, place + shift, xerr=[[value - low], [high - value]], color=colour, capsize=2,
                marker="os^D"[number % 4], markersize=4.5, markerfacecolor="white" if hollow else colour,
            )  # fmt: skip
        axes.plot([], [], color=colour, marker="os^D"[number % 4], linestyle="none", label=name)
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=len(series))
    return figure


@dataclass(frozen=True)
class OcclusionRow:
    """One photograph of Fig. 6, as :func:`occlusion` draws it.

    ``picture`` (S, S, 3) uint8 is what the network sees. The maps (R, C) belong to the square's
    positions: ``activation`` and ``probability``, and ``labels``, which are keys of ``names``; ``target`` is
    the label whose probability it is. ``projection`` (S, S, 3) uint8 is the map's, ``others`` its strongest
    in other pictures, of any size; None and nothing leave the column out.
    """

    picture: np.ndarray
    activation: np.ndarray
    probability: np.ndarray
    labels: np.ndarray
    names: Mapping[int, str]
    target: int
    projection: np.ndarray | None = None
    others: Sequence[np.ndarray] = ()
    title: str = ""
    feature: str = ""


# Of Okabe & Ito's colours the first is the photograph's own class; what has no colour left is grey.
LABEL_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442")
OTHER_LABELS = "#999999"


def occlusion(rows: Sequence[OcclusionRow], size: int, stride: int, width: float = WIDTH) -> Figure:
    """Fig. 6, a row per photograph: itself, a map's sum, projections, the probability, the labels.

    ``size`` and ``stride`` are the square's, in pixels of the picture. A value is drawn where the middle of
    its square was, so that all columns can be compared place by place; the margin is what no middle reaches.
    The map's own projection is framed in black.
    """
    projected = any(row.projection is not None for row in rows)
    titles = ["(a) photograph", "(b) strongest map", "(c) projections", "(d) probability", "(e) label"]
    columns = [0, 1, 2, 3, 4] if projected else [0, 1, 3, 4]
    left, legend, gap, top, below = 0.26, 1.3, 0.06, 0.24, 0.2
    cell = (width - left - legend) / len(columns)
    height = top + len(rows) * (cell + below)
    figure = Figure(figsize=(width, height), layout="none")
    for r, row in enumerate(rows):
        for place, column in enumerate(columns):
            bottom = height - top - (r + 1) * cell - r * below + gap
            box = (left + place * cell, bottom, cell - gap, cell - gap)
            axes = figure.add_axes([b / (width, height)[n % 2] for n, b in enumerate(box)])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if r == 0:
                axes.set_title("abcde"[place].join("()") + titles[column][3:], fontsize=8, pad=4)
            if column == 0:
                axes.imshow(row.picture, interpolation="nearest")
                axes.set_ylabel(row.title, fontsize=8, labelpad=4)
            elif column == 2:
                _projections(axes, row)
            else:
                _map_of_positions(axes, row, column, size, stride)
            words = {1: row.feature, 3: _range(row.probability)}.get(column, "")
            axes.text(0.5, -0.04, words, transform=axes.transAxes, fontsize=6.5, ha="center", va="top")
        _label_legend(axes, row)
    return figure


def _range(values: np.ndarray) -> str:
    return f"{np.min(values):.2f} to {np.max(values):.2f}"


def _map_of_positions(axes: Axes, row: OcclusionRow, column: int, size: int, stride: int) -> None:
    """A map over the square's positions in the picture's own coordinates."""
    values = {1: row.activation, 3: row.probability, 4: row.labels}[column]
    high, wide = (stride * n for n in np.shape(values))
    first = (size - stride) / 2
    axes.set(xlim=(0, row.picture.shape[1]), ylim=(row.picture.shape[0], 0), facecolor="#eeeeee")
    shown = _label_colours(row)[1] if column == 4 else values
    extent = (first, first + wide, first + high, first)
    axes.imshow(shown, cmap=MAPS, interpolation="nearest", extent=extent)
    axes.set(xlim=(0, row.picture.shape[1]), ylim=(row.picture.shape[0], 0))


def _projections(axes: Axes, row: OcclusionRow) -> None:
    """The projection in this picture framed, and up to three others, two by two."""
    for n, image in enumerate([row.projection, *row.others][:4]):
        if image is None:
            continue
        alone = len(row.others) == 0
        inset = axes.inset_axes([0, 0, 1, 1] if alone else [0.51 * (n % 2), 0.51 * (1 - n // 2), 0.49, 0.49])
        inset.imshow(image, interpolation="nearest")
        inset.set(xticks=[], yticks=[])
        inset.spines[:].set_visible(n == 0)
        inset.spines[:].set(color="black", linewidth=1.6)


def _label_colours(row: OcclusionRow) -> tuple[dict[int, str], np.ndarray]:
    """The colour of each label that has one, the target's and then the commonest; and the map in colours."""
    labels = np.asarray(row.labels)
    counts = Counter(labels.flatten().tolist())
    ranked = [row.target, *(label for label, _ in counts.most_common() if label != row.target)]
    colours = dict(zip((label for label in ranked if label in counts), LABEL_COLOURS, strict=False))
    if row.target not in counts:  # its colour stays its own
        colours = dict(zip(ranked[1:], LABEL_COLOURS[1:], strict=False))
    codes = [[int(colours.get(label, OTHER_LABELS)[i : i + 2], 16) for i in (1, 3, 5)] for label in counts]
    by_label = dict(zip(counts, codes, strict=True))
    return colours, np.array([[by_label[label] for label in line] for line in labels.tolist()], np.uint8)


def _label_legend(axes: Axes, row: OcclusionRow) -> None:
    """Beside the label map: what its colours mean, in the order of their areas."""
    colours, _ = _label_colours(row)
    entries = [(colour, row.names[label]) for label, colour in colours.items()]
    rest = len(np.unique(row.labels)) - len(colours)
    entries += [(OTHER_LABELS, f"{rest} other{'s' * (rest > 1)}")] if rest else []
    marks = [Rectangle((0, 0), 1, 1, facecolor=colour) for colour, _ in entries]
    words = [name if len(name) < 20 else name[:18] + "…" for _, name in entries]
    axes.legend(
        marks, words, loc="upper left", bbox_to_anchor=(1.02, 1.03), fontsize=6.5, handlelength=0.9,
        handleheight=0.9, handletextpad=0.5, borderaxespad=0, borderpad=0, labelspacing=0.35,
    )  # fmt: skip


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float | None]]]],
    xlabel: str,
    ylabel: str,
    levels: Mapping[str, tuple[str, float]] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Means over an axis of their own, with a band of one standard deviation: ``{title: {name: points}}``.

    A point is (x, mean, deviation); a series whose deviations are all None has points and no line, for
    nothing is known between them. ``levels`` draws a dashed line in a panel, ``{title: (words, height)}``.
    """
    figure = Figure(figsize=(width, 0.42 * width), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, series) in zip(drawn, panels.items(), strict=True):
        for name, points in series.items():
            x, mean, deviation = zip(*points, strict=True)
            if set(deviation) == {None}:
                axes.plot(x, mean, "s", label=name, markersize=4)
                continue
            [line] = axes.plot(x, mean, marker="o", markersize=3, label=name)
            low, high = (np.add(mean, np.multiply(sign, deviation)) for sign in (-1, 1))
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        if levels and title in levels:
            words, height = levels[title]
            axes.axhline(height, color="#666666", linestyle="--", linewidth=1)
            axes.annotate(
                words, (0, height), (3, 2), axes.get_yaxis_transform(), "offset points",
                ha="left", va="bottom", fontsize=8, color="#444444",
            )  # fmt: skip
        axes.set(title=title, xlabel=xlabel)
        axes.set_xlim(left=0)
        axes.legend(loc="lower right")
    drawn[0].set_ylabel(ylabel)
    drawn[0].set_ylim(bottom=0)
    return figure
