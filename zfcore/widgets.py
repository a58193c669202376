r"""Explorers that live in JupyterLab, against the network in the kernel; the one room that knows ipywidgets.

An explorer is one object with two renderings. In Lab it is a box of widgets. Executed without a
server (papermill, the book's build) its output also carries its twin, a piece of HTML in which the
exported network does in the page what the kernel does in Lab (:mod:`zfcore.page`).

Example, in a notebook::

    from zfcore.data import photographs
    from zfcore.model import load
    from zfcore.widgets import PhotoExplorer
    PhotoExplorer(*load("zfnet-64"), photographs())
"""

from __future__ import annotations

import asyncio
import io
import os
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from torch import Tensor, nn

from zfcore import assets, markup, page
from zfcore.data import Picture, decode, title_of
from zfcore.gallery import Gallery
from zfcore.maximization import REGULARISED, Answer, Recipe, Step, ascend, noise
from zfcore.occlusion import OcclusionMaps
from zfcore.view import FILLS, Covered, Frame, Moved, Seen, Viewer, as_png, beside, contact_sheet, file_name

#: So many photographs' maps are kept.
KEPT = 12


class _Explorer(ipywidgets.VBox):
    """What all explorers share: photographs and the reader's own, the message, the picture, what to keep.

    A kind makes its controls (``_controls``), says what happens when another photograph was chosen
    (``_looked``), what its Python is (``snippet``), what is saved (``_sheet``), and its twin (``_twin``).
    """

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        photographs: Mapping[str, Picture],
        layers: Mapping[str, str] | Sequence[str] | None = None,
        *,
        weights: str | None = None,
    ):
        if not photographs:
            raise ValueError("there are no photographs to explore; give, say, zfcore.data.photographs()")
        self._viewer = Viewer(model, card, layers)
        self._pictures = dict(photographs)
        self._shipped = dict(photographs)
        self._seen: dict[str, Seen] = {}
        self._weights = weights or card.get("architecture")
        self._busy = False
        super().__init__(self._build())
        self._looked()

    names_things = False  # whether an explorer of this kind is nothing without the network's classifier

    # -------------------------------------------------------------------------- what each kind does
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        raise NotImplementedError

    def _looked(self) -> None:
        raise NotImplementedError

    def snippet(self) -> str:
        """Python that makes what is shown again."""
        raise NotImplementedError

    def _sheet(self) -> tuple[np.ndarray, str]:
        raise NotImplementedError

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        raise NotImplementedError

    # -------------------------------------------------------------------------- its twin
    def to_html(self) -> str:
        """The twin: one piece of HTML that explores these photographs with no kernel.

        It opens with what the widgets show now; the reader's own uploads are not in it. Where the book's
        build finds the network by its name, the twin refers to it; any other network it carries inside.
        A network too large for a page goes there without its classifier, or stays out.
        """
        viewer, source = self._viewer, assets.ABSENT
        if not (assets.fits(viewer) or self.names_things):
            viewer = Viewer(viewer.model, viewer.card, viewer.layers, classifier=False)
        if assets.fits(viewer):
            source = assets.source(viewer, self._weights)
        name = self.photograph.value
        shown = name if name in self._shipped else next(iter(self._shipped))
        return self._twin(viewer, shown, source)

    def _repr_mimebundle_(self, **options):
        return _with_twin(self, super()._repr_mimebundle_(**options))

    # -------------------------------------------------------------------------- the widgets
    def _look(self) -> Seen:
        """One forward pass over the chosen photograph; kept, for its maps serve every choice."""
        name = self.photograph.value
        if name not in self._seen:
            self._seen[name] = self._viewer.look(name, self._pictures[name])
        if len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]
        return self._seen[name]

    def _build(self) -> list[ipywidgets.Widget]:
        titles = [(title_of(picture, name), name) for name, picture in self._pictures.items()]
        self.photograph = _labelled(ipywidgets.Dropdown(options=titles), "Photograph")
        self.upload = ipywidgets.FileUpload(
            accept="image/*",
            description="Your photograph",
            tooltip="Show the network a photograph of your own",
        )
        self.save = ipywidgets.Button(
            description="Save the picture", tooltip="Write it as PNG into this notebook's folder"
        )
        self.message = ipywidgets.HTML()
        self.picture = ipywidgets.HTML()
        self.python = ipywidgets.HTML()
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        rows = [ipywidgets.Box(controls, layout=row) for controls in self._controls()]
        self.photograph.observe(lambda _: self._unless_busy(self._looked), "value")
        self.upload.observe(self._take_upload, "value")
        self.save.on_click(lambda _: self._save())
        for button in (self.upload, self.save):
            button.layout.width = "auto"
        python = ipywidgets.Accordion([self.python], titles=["The Python that makes it"])
        return [
            *rows,
            ipywidgets.HTML(markup.style_html()),
            self.message,
            self.picture,
            ipywidgets.Box([self.upload, self.save], layout=row),
            python,
        ]

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Several controls change together: none of them redraws on its own."""
        was, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = was

    def _unless_busy(self, act) -> None:
        if not self._busy:
            act()

    def _draw(self, html: str) -> None:
        """Show a picture, with the Python that makes it."""
        self.picture.value = html
        self.python.value = f"<pre class='zf-python'>{escape(self.snippet())}</pre>"
        self.message.value = ""

    def _tell(self, words: str) -> None:
        self.message.value = f'<p class="zf-problem" role="alert">{escape(words)}</p>'

    def _take_upload(self, change) -> None:
        """Show the reader's photograph, or say in words why it cannot be shown."""
        if not change.new:
            return
        file = change.new[-1]
        stream = io.BytesIO(bytes(file["content"]))
        stream.name = file["name"]
        try:
            picture = decode(stream)
        except ValueError as problem:
            self._tell(f"This file cannot be shown to the network: {problem}")
            return
        name = file["name"] if file["name"] not in self._shipped else f"{file['name']} (2)"
        self._pictures = self._shipped | {name: picture}  # of the reader's own the last one alone
        self._seen = {known: seen for known, seen in self._seen.items() if known in self._shipped}
        titles = [option for option in self.photograph.options if option[1] in self._shipped]
        with self._quietly():
            self.photograph.options = [*titles, (name, name)]
            self.photograph.value = name
        self._looked()

    def _save(self) -> None:
        pixels, name = self._sheet()
        try:
            Path(name).write_bytes(as_png(pixels))
        except OSError as problem:
            self._tell(f"The picture could not be saved: {problem}")
            return
        self.message.value = f'<p role="status">Saved as {escape(name)} in this notebook’s folder.</p>'


class PhotoExplorer(_Explorer):
    """Choose a photograph, a layer, a feature and a unit: see where it answers, and to what.

    Shown are the photograph with the unit's receptive field framed, the network's five best labels, the
    strongest maps of every layer, the chosen map, and inside the frame what the network sees there and the
    unit's projections by the three rules. The reader's own photograph can be dropped in. The widgets are
    attributes (``photograph``, ``layer``, ``strongest``, ``feature``, ``row``, ``column``,
    ``strongest_unit``, ``upload``, ``save``): setting their ``value`` moves the explorer.

    Parameters
    ----------
    model
        Any traceable ``nn.Module`` in eval mode, (N, 3, S, S) → (N, classes) logits.
    card
        How it wants its pictures: ``input_size``, ``resize``, ``mean``, ``scale`` (see
        :func:`zfcore.data.to_input`); ``classes`` and ``labels``, where it has them, name its logits.
    photographs
        Name → a :class:`zfcore.data.Photograph`, or anything :func:`zfcore.data.decode` takes.
    layers
        Module paths to choose from, or reader's name → path; see :class:`zfcore.view.Viewer`.
    gallery
        What the features look for (:class:`zfcore.gallery.Gallery`), to be shown beside what they saw here.
    weights
        The name under which :func:`zfcore.model.load` finds this network, for the Python that makes
        a picture again and for the book's build. Default: the card's ``architecture``.

    Raises
    ------
    ValueError
        The model is in training mode, has no such layer, or ``photographs`` is empty; the gallery
        lacks a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        photographs: Mapping[str, Picture],
        layers: Mapping[str, str] | Sequence[str] | None = None,
        *,
        gallery: Gallery | None = None,
        weights: str | None = None,
    ):
        self._gallery = gallery
        self._frame: Frame | None = None
        super().__init__(model, card, photographs, layers, weights=weights)

    @property
    def frame(self) -> Frame:
        """What is shown now."""
        return self._frame

    def snippet(self) -> str:
        """Python that makes the shown projection again."""
        frame = self.frame
        row, column = frame.unit
        chosen = {"path": frame.path, "feature": frame.feature, "row": row, "column": column}
        return page.snippet(self._weights).format(pixels=frame.seen.subject.python, **chosen)

    def _sheet(self) -> tuple[np.ndarray, str]:
        return contact_sheet(self.frame), self.frame.file_name()

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        seen, frame = viewer.look(shown, self._shipped[shown]), self.frame
        start = viewer.first(seen)
        if shown == frame.seen.subject.name:
            start = viewer.frame(seen, frame.path, frame.feature, frame.unit)
        snippet, gallery = page.snippet(self._weights), (self._gallery, self._weights)
        return page.explorer_html(viewer, self._shipped, start, snippet, source, *gallery)

    # -------------------------------------------------------------------------- the widgets
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        layers = list(self._viewer.layers)
        self.layer = _labelled(ipywidgets.Dropdown(options=layers, value=layers[len(layers) // 2]), "Layer")
        self.strongest = _labelled(ipywidgets.Dropdown(), "Strongest here")
        self.feature = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Feature")
        self.row = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Row")
        self.column = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Column")
        self.strongest_unit = ipywidgets.Button(
            description="Strongest unit", tooltip="The unit of this map that answers most"
        )
        self.strongest_unit.layout.width = "auto"
        self.layer.observe(lambda _: self._unless_busy(self._looked), "value")
        self.strongest.observe(self._take_strongest, "value")
        self.feature.observe(lambda _: self._unless_busy(self._offer_units), "value")
        self.row.observe(lambda _: self._unless_busy(self._show), "value")
        self.column.observe(lambda _: self._unless_busy(self._show), "value")
        self.strongest_unit.on_click(lambda _: self._offer_units())
        return [
            [self.photograph, self.layer, self.strongest],
            [self.feature, self.row, self.column, self.strongest_unit],
        ]

    def _looked(self) -> None:
        """Another photograph or layer: list its strongest features and show the first."""
        seen, path = self._look(), self._viewer.layers[self.layer.value]
        best = seen.strongest(path, markup.STRONGEST)
        peaks = seen.maps[path].max((1, 2))
        with self._quietly():
            self.feature.max = len(peaks) - 1
            self.feature.value = best[0]
            self.strongest.options = [(f"feature {n}, answers {peaks[n]:.3g}", n) for n in best]
        self._offer_units()

    def _offer_units(self) -> None:
        """Another feature: show its strongest unit."""
        seen, path = self._look(), self._viewer.layers[self.layer.value]
        with self._quietly():
            _, rows, columns = seen.maps[path].shape
            self.row.max, self.column.max = rows - 1, columns - 1
            self.row.value, self.column.value = seen.strongest_unit(path, self.feature.value)
        self._show()

    def _take_strongest(self, change) -> None:
        if change.new is not None and not self._busy:
            self.feature.value = change.new

    def _show(self) -> None:
        """Make the picture, the list and the Python follow the choice."""
        unit = (self.row.value, self.column.value)
        self._frame = self._viewer.frame(self._look(), self.layer.value, self.feature.value, unit)
        listed = [number for _, number in self.strongest.options]
        with self._quietly():
            self.strongest.value = self.feature.value if self.feature.value in listed else None
        self._draw(markup.picture_html(self._viewer, self._frame, gallery=self._gallery))


class OcclusionExplorer(_Explorer):
    """Move a square over a photograph: see what the network makes of the rest (§4.2).

    Shown are the photograph with its square, the probability of the chosen class, the five best labels, and
    how much is left of the feature map that is strongest on the whole picture. ``scan`` takes the square to
    every place, coarsely first, and shows the paper's three maps. The widgets are attributes
    (``photograph``, ``target``, ``fill``, ``size``, ``row``, ``column``, ``scan``, ``upload``, ``save``):
    setting their ``value`` moves the explorer.

    Parameters
    ----------
    model, card, photographs, layers, weights
        As of :class:`PhotoExplorer`; the network needs a classifier. The feature map is one of the last
        of ``layers``.

    Raises
    ------
    ValueError
        As :class:`PhotoExplorer`, and for a network without a classifier.
    """

    names_things = True

    _covered: Covered | None = None
    _maps: tuple[OcclusionMaps, int] | None = None  # with their stride

    @property
    def covered(self) -> Covered:
        """What is shown now."""
        return self._covered

    @property
    def maps(self) -> OcclusionMaps | None:
        """The last scan of this square over this photograph, if there was one."""
        return self._maps and self._maps[0]

    @property
    def stride(self) -> int:
        """Pixels from one place of a scan to the next, so many that 28 steps would cross the picture."""
        return max(1, round(self._viewer.side / 28))

    def snippet(self) -> str:
        """Python that makes the maps of a scan again."""
        covered = self.covered
        return page.snippet(self._weights, page.OCCLUSION_SNIPPET).format(
            pixels=covered.seen.subject.python,
            path=covered.path,
            size=covered.size,
            stride=self.stride,
            target=covered.target,
            fill=markup.WORDS[f"python_{covered.fill}"],
        )

    def _sheet(self) -> tuple[np.ndarray, str]:
        covered = self.covered
        name = f"{covered.seen.subject.name} occluded at {covered.top} {covered.left} size {covered.size}"
        cells = [(covered.view, (covered.square, self._viewer.side))]
        if self._maps:
            cells += [(pixels, None) for pixels in markup.occlusion_panels(self.maps).values()]
        return beside(cells), file_name(name)

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        covered, maps = self.covered, self._maps
        if shown != covered.seen.subject.name:
            corner = (covered.top, covered.left)
            seen = viewer.look(shown, self._shipped[shown])
            covered, maps = viewer.cover(seen, corner, covered.size, covered.fill), None
        scan = maps or (viewer.scan(covered, self.stride), self.stride)
        snippet = page.snippet(self._weights, page.OCCLUSION_SNIPPET)
        return page.occlusion_html(viewer, self._shipped, covered, scan, self.stride, snippet, source)

    # -------------------------------------------------------------------------- the widgets
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        viewer, side = self._viewer, self._viewer.side
        start = viewer.cover(self._look())
        classes = sorted((viewer.label(n), n) for n in range(len(start.whole[0])))
        fills = [(words, name) for name, words in FILLS.items()]
        self.target = _labelled(ipywidgets.Dropdown(options=classes, value=start.target), "Class")
        self.fill = _labelled(ipywidgets.Dropdown(options=fills), "Square filled with")
        self.size = _labelled(
            ipywidgets.IntSlider(start.size, min=2, max=side - 2, step=2), "Size of the square"
        )
        self.row = _labelled(ipywidgets.IntSlider(start.top, max=side - start.size), "Row")
        self.column = _labelled(ipywidgets.IntSlider(start.left, max=side - start.size), "Column")
        self.scan = ipywidgets.Button(
            description=markup.WORDS["scan"], tooltip="Take the square to every place, coarsely first"
        )
        self.scan.layout.width = "auto"
        for control in (self.target, self.fill):
            control.observe(lambda _: self._unless_busy(self._forget), "value")
        self.size.observe(lambda change: self._unless_busy(lambda: self._resize(change.old)), "value")
        for control in (self.row, self.column):
            control.observe(lambda _: self._unless_busy(self._show), "value")
        words = (markup.WORDS[name] for name in ("scan", "stop"))
        self._scanning = _Work(
            self.scan, *words, self._scan, alone=lambda: asyncio.run(self._scan()), tell=self._tell
        )
        return [[self.photograph, self.target, self.fill], [self.row, self.column, self.size, self.scan]]

    def _looked(self) -> None:
        """Another photograph: its own class, and no maps yet."""
        with self._quietly():
            self.target.value = self._viewer.cover(self._look()).target
        self._forget()

    def _resize(self, old: int) -> None:
        """The square grows around its centre."""
        most, shift = self._viewer.side - self.size.value, (old - self.size.value) // 2
        with self._quietly():
            for control in (self.row, self.column):
                at = min(max(control.value + shift, 0), most)
                control.max, control.value = max(most, 0), at
        self._forget()

    def _forget(self) -> None:
        """The maps are not of this square, class or photograph."""
        self._scanning.stop()
        self._maps = None
        self._show()

    def _show(self) -> None:
        corner = (self.row.value, self.column.value)
        choice = (corner, self.size.value, self.fill.value, self.target.value)
        self._covered = self._viewer.cover(self._look(), *choice)
        maps, stride = self._maps or (None, self.stride)
        self._draw(markup.covered_html(self._viewer, self._covered, maps, stride))

    async def _scan(self) -> None:
        for finer in (4, 2, 1):
            stride = finer * self.stride
            self._maps = (self._viewer.scan(self.covered, stride), stride)
            self._show()
            await asyncio.sleep(0.05)  # let the reader's hand in


class FeatureExplorer(_Explorer):
    """Choose a layer and a feature: see the nine pictures that excite it most, projected (Fig. 2).

    Beside the projections stand the patches of the pictures, where they are at hand; below them the
    strongest crops of photographs, and the features that answer most to a photograph. The widgets are
    attributes (``layer``, ``feature``, ``previous``, ``following``, ``random``, ``photograph``,
    ``strongest``, ``upload``, ``save``): setting their ``value`` moves the explorer. In a page,
    ``#feature=layer-5/17`` leads to a feature.

    Parameters
    ----------
    model, card, photographs, weights
        As of :class:`PhotoExplorer`.
    gallery
        What the features look for: :meth:`zfcore.gallery.Gallery.load` or, for any network and
        any pictures, :meth:`zfcore.gallery.Gallery.of`. Its layers are those to choose from.
    crops
        A gallery among :class:`zfcore.gallery.Crops` of the photographs, of the same layers, to show below.
    layer, feature
        To begin with. Default: the last layer, and the feature that answers most to the first photograph.

    Raises
    ------
    ValueError
        As :class:`PhotoExplorer`; the gallery has no such layer or feature.
    """

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        gallery: Gallery,
        photographs: Mapping[str, Picture],
        *,
        crops: Gallery | None = None,
        layer: str | None = None,
        feature: int | None = None,
        weights: str | None = None,
    ):
        self._gallery, self._crops = gallery, crops
        self._first = layer or list(gallery.layers)[-1]
        self._nine: markup.Nine | None = None
        gallery.wall(self._first, feature)  # or an error, before anything is built
        layers = {wall.name: wall.path for wall in gallery.layers.values()}
        super().__init__(model, card, photographs, layers, weights=weights)
        if feature is not None:
            self.feature.value = feature

    @property
    def nine(self) -> markup.Nine:
        """What is shown now."""
        return self._nine

    def snippet(self) -> str:
        """Python that finds the shown hits again."""
        return self._template().format(layer=self.nine.layer, feature=self.nine.feature, pixels="")

    def _template(self) -> str:
        stored = assets.gallery_source(self._gallery, self._weights)
        return page.snippet(self._weights, page.STORED_SNIPPET if stored else page.GALLERY_SNIPPET)

    def _sheet(self) -> tuple[np.ndarray, str]:
        nine = self.nine
        return nine.sheet(), file_name(f"{nine.layer} feature {nine.feature} nine strongest")

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        seen = viewer.look(shown, self._shipped[shown])
        return page.feature_html(
            viewer,
            self._gallery,
            self._shipped,
            self.nine,
            seen,
            self._crops,
            self._template(),
            source,
            self._weights,
        )

    # -------------------------------------------------------------------------- the widgets
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        names = list(self._gallery.layers)
        first = self._gallery.wall(self._first).name
        self.layer = _labelled(ipywidgets.Dropdown(options=names, value=first), "Layer")
        self.feature = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Feature")
        self.previous, self.following, self.random = (
            ipywidgets.Button(description=words, layout={"width": "auto"})
            for words in ("Previous", "Next", "Any")
        )
        self.strongest = _labelled(ipywidgets.Dropdown(), "Strongest there")
        self.layer.observe(lambda _: self._unless_busy(self._looked), "value")
        self.feature.observe(lambda _: self._unless_busy(self._show), "value")
        self.strongest.observe(self._take_strongest, "value")
        self.previous.on_click(lambda _: self._step(-1))
        self.following.on_click(lambda _: self._step(1))
        self.random.on_click(lambda _: setattr(self.feature, "value", random.choice(self._features())))
        return [
            [self.layer, self.feature, self.previous, self.following, self.random],
            [self.photograph, self.strongest],
        ]

    def _features(self) -> list[int]:
        return self._gallery.wall(self.layer.value).features

    def _looked(self) -> None:
        """Another photograph or layer: list its strongest features and show the first."""
        seen, path = self._look(), self._viewer.layers[self.layer.value]
        best = seen.strongest_of(path, self._features(), markup.STRONGEST)
        peaks = seen.maps[path].max((1, 2))
        with self._quietly():
            self.feature.max = max(self._features())
            self.feature.value = best[0]
            self.strongest.options = [(f"feature {n}, answers {peaks[n]:.3g}", n) for n in best]
        self._show()

    def _step(self, by: int) -> None:
        features = self._features()
        self.feature.value = features[(features.index(self.feature.value) + by) % len(features)]

    def _take_strongest(self, change) -> None:
        if change.new is not None and not self._busy:
            self.feature.value = change.new

    def _show(self) -> None:
        """Make the pictures follow the choice; of features that are not shown the nearest."""
        wanted, features = self.feature.value, self._features()
        nearest = min(features, key=lambda n: abs(n - wanted))
        listed = [number for _, number in self.strongest.options]
        with self._quietly():
            self.feature.value = nearest
            self.strongest.value = nearest if nearest in listed else None
        self._nine = markup.Nine.of(self._gallery, self.layer.value, nearest)
        crops = self._crops and markup.Nine.of(self._crops, self._nine.path, nearest)
        self._draw(markup.features_html(self._nine, crops, self._look(), listed))
        if nearest != wanted:
            given = {"layer": self.layer.value, "wanted": wanted, "count": len(features), "feature": nearest}
            self._tell(markup.WORDS["nearest"].format(**given))


class InvarianceExplorer(_Explorer):
    """Shift, enlarge and turn a photograph: see how far its features move, and what the network says.

    Shown are the photograph, what the network sees of it now, how far the features of the first and of the
    deepest layer have moved (as a share of their length), and the five best labels. The widgets are
    attributes (``photograph``, ``target``, ``shift``, ``scale``, ``rotation``, ``back``, ``upload``,
    ``save``): setting their ``value`` moves the explorer.

    Parameters
    ----------
    model, card, photographs, layers, weights
        As of :class:`PhotoExplorer`; the network needs a classifier. The deepest layer is its last ReLU.

    Raises
    ------
    ValueError
        As :class:`PhotoExplorer`, and for a network without a classifier.
    """

    names_things = True

    _moved: Moved | None = None

    @property
    def moved(self) -> Moved:
        """What is shown now."""
        return self._moved

    def snippet(self) -> str:
        """Python that measures the shown distances again."""
        moved = self.moved
        (_, first, _), (_, deepest, _) = moved.distances
        return page.snippet(self._weights, page.INVARIANCE_SNIPPET).format(
            pixels=moved.seen.subject.python,
            first=first,
            deepest=deepest,
            shift=f"{moved.shift:g}",
            scale=f"{moved.scale:g}",
            rotation=f"{moved.rotation:g}",
        )

    def _sheet(self) -> tuple[np.ndarray, str]:
        moved = self.moved
        name = f"{moved.seen.subject.name} shifted {moved.shift:g} scaled {moved.scale:g}"
        name += f" turned {moved.rotation:g}"
        return beside([(moved.seen.view, None), (moved.picture, None)]), file_name(name)

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        moved = self.moved
        if shown != moved.seen.subject.name:
            amounts = (moved.shift, moved.scale, moved.rotation)
            moved = viewer.move(viewer.look(shown, self._shipped[shown]), *amounts)
        snippet = page.snippet(self._weights, page.INVARIANCE_SNIPPET)
        return page.invariance_html(viewer, self._shipped, moved, snippet, source)

    # -------------------------------------------------------------------------- the widgets
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        viewer, start = self._viewer, self._viewer.move(self._look())
        classes = sorted((viewer.label(n), n) for n in range(len(start.before)))
        self.target = _labelled(ipywidgets.Dropdown(options=classes, value=start.target), "Class")
        self.shift, self.scale, self.rotation = (
            _labelled(_slider(getattr(start, name), least, most, step), words)
            for name, (words, least, most, step, _) in markup.sliders(viewer.side).items()
        )
        self.back = ipywidgets.Button(description="Back to the start", layout={"width": "auto"})
        for control in (self.target, self.shift, self.scale, self.rotation):
            control.observe(lambda _: self._unless_busy(self._show), "value")
        self.back.on_click(lambda _: self._reset())
        return [[self.photograph, self.target], [self.shift, self.scale, self.rotation, self.back]]

    def _looked(self) -> None:
        """Another photograph: its own class."""
        with self._quietly():
            self.target.value = self._viewer.move(self._look()).target
        self._show()

    def _reset(self) -> None:
        with self._quietly():
            self.shift.value, self.scale.value, self.rotation.value = 0, 1, 0
        self._show()

    def _show(self) -> None:
        amounts = (self.shift.value, self.scale.value, self.rotation.value)
        self._moved = self._viewer.move(self._look(), *amounts, self.target.value)
        self._draw(markup.moved_html(self._viewer, self._moved))


class ClassExplorer(ipywidgets.VBox):
    """Choose another data set's class: see its accuracy, and what the features look for that carry it (§5).

    Shown are the class's accuracy by the number of training pictures, row by row with a band of one deviation
    over the splits, and for each of the features that a classifier's decision rests on most the projections
    of its nine strongest pictures. The classes are offered by their accuracy, the best first. The widgets are
    attributes (``chosen``, ``previous``, ``following``): setting ``chosen.value`` to a class's name moves
    the explorer. In a page, ``#class=accordion`` leads to a class.

    Parameters
    ----------
    gallery
        What the features look for; see :class:`FeatureExplorer`.
    curves
        Class → row → points (training pictures, mean, deviation; accuracies in percent), as
        :func:`zfcore.transfer_tables.class_curves` gives them. The first row's last point ranks the classes.
    carriers
        Class → (feature, its part in the decision), the strongest first, as
        :func:`zfcore.generalization.strongest_maps` gives them; four at most are shown.
    layer
        Of the features, by either name.
    weights
        The name under which the book stores the gallery, if it does.

    Raises
    ------
    ValueError
        There are no curves; a class has no features; the gallery has no such layer.
    """

    def __init__(
        self,
        gallery: Gallery,
        curves: Mapping[str, Mapping[str, markup.Curve]],
        carriers: Mapping[str, Sequence[tuple[int, float]]],
        layer: str = "layer 5",
        *,
        weights: str | None = None,
    ):
        self._gallery, self._weights = gallery, weights
        self._lessons = markup.Lesson.every(gallery.wall(layer).name, curves, carriers)
        classes = [(lesson.title, lesson.name) for lesson in self._lessons]
        self.chosen = _labelled(ipywidgets.Dropdown(options=classes), "Class, the best first")
        self.previous, self.following = (
            ipywidgets.Button(description=words, layout={"width": "auto"}) for words in ("Previous", "Next")
        )
        self.picture = ipywidgets.HTML()
        self.chosen.observe(lambda _: self._show(), "value")
        self.previous.on_click(lambda _: self._step(-1))
        self.following.on_click(lambda _: self._step(1))
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        controls = ipywidgets.Box([self.chosen, self.previous, self.following], layout=row)
        super().__init__([controls, ipywidgets.HTML(markup.style_html()), self.picture])
        self._show()

    @property
    def lesson(self) -> markup.Lesson:
        """What is shown now."""
        return self._lessons[self.chosen.index]

    def to_html(self) -> str:
        """The twin: the same in a page without a kernel; it opens with the class that is shown now."""
        return page.class_html(self._lessons, self.chosen.index, self._gallery, self._weights)

    def _repr_mimebundle_(self, **options):
        return _with_twin(self, super()._repr_mimebundle_(**options))

    def _step(self, by: int) -> None:
        self.chosen.index = (self.chosen.index + by) % len(self._lessons)

    def _show(self) -> None:
        self.picture.value = markup.lesson_html(self.lesson, self._gallery)


def _with_twin(explorer: _Explorer | ClassExplorer, bundle: dict) -> dict:
    """What a notebook stores of an explorer: with its page form, where no server keeps the widgets alive."""
    if "JPY_SESSION_NAME" not in os.environ:
        bundle["text/html"] = explorer.to_html()
    return bundle


class MaximizationExplorer(_Explorer):
    """Climb from noise to the picture that a feature or a class answers to most, step by step.

    Shown are the picture at the start, the picture now, and the curve of the answers. Regularisers take part
    from the next step on; another layer or feature starts again from noise, another photograph starts there.
    The widgets are attributes (``photograph``, ``layer``, ``feature``, ``target``, ``position``, ``l2``,
    ``tv``, ``jitter``, ``turn``, ``frequency``, ``climb``, ``noise``, ``from_photograph``, ``upload``,
    ``save``).

    Parameters
    ----------
    model, card, photographs, layers, weights
        As of :class:`PhotoExplorer`.
    layer, channel
        To begin with: a reader's name, or ``"class"``; a feature or a class. Default: the last layer's first.
    steps
        So many are climbed before it is shown.
    seed
        Of the noise.

    Raises
    ------
    ValueError
        As :class:`PhotoExplorer`; there is no such layer or feature.
    """

    most = page.MOST_STEPS

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        photographs: Mapping[str, Picture],
        layers: Mapping[str, str] | Sequence[str] | None = None,
        *,
        layer: str | None = None,
        channel: int = 0,
        steps: int = 0,
        seed: int = 0,
        weights: str | None = None,
    ):
        self._first, self._seed = (layer, channel), seed
        self._steps: Iterator[Step] | None = None
        self._begun = False
        super().__init__(model, card, photographs, layers, weights=weights)
        self.run(steps)

    @property
    def climbed(self) -> markup.Climbed:
        """What is shown now."""
        shown = (self._viewer.shown(picture) for picture in (self._start, self._picture))
        return markup.Climbed(
            self._path(), self._channel(), self._part(), *shown, tuple(self._history), self._subject
        )

    def run(self, steps: int) -> None:
        """Climb so many steps at once, and show the picture."""
        for _ in range(steps):
            self._step()
        self._show()

    def snippet(self) -> str:
        """Python that climbs from the same start as far, by the regularisers that are on."""
        recipe, start = self._recipe(), "None"
        if self._subject:
            start = markup.WORDS["python_photograph"].format(pixels=self._subject.python)
        names = ("l2", "tv", "jitter", "scale", "rotation", "frequency")
        return page.snippet(self._weights, page.MAXIMIZATION_SNIPPET).format(
            path=self._climbs(),
            channel=self._channel(),
            position=self._part(),
            seed=self._seed,
            start=start,
            steps=max(1, len(self._history)),
            **{name: getattr(recipe, name) for name in names},
        )

    def _sheet(self) -> tuple[np.ndarray, str]:
        climbed = self.climbed
        name = f"{climbed.words(self._viewer)['goal']} maximised"
        return beside([(climbed.start, None), (climbed.picture, None)]), file_name(name)

    def _twin(self, viewer: Viewer, shown: str, source: Mapping | None) -> str:
        snippet = page.snippet(self._weights, page.MAXIMIZATION_SNIPPET)
        return page.maximization_html(viewer, self._shipped, self.climbed, shown, snippet, self._seed, source)

    # -------------------------------------------------------------------------- the widgets
    def _controls(self) -> list[list[ipywidgets.Widget]]:
        viewer, (first, channel) = self._viewer, self._first
        names = [*viewer.layers, *(["class"] if viewer.classifier and viewer.card.get("labels") else [])]
        first = first or list(viewer.layers)[-1]
        if first not in names:
            raise ValueError(f"no layer {first!r} here; there are: {', '.join(names)}")
        self.layer = _labelled(ipywidgets.Dropdown(options=names, value=first), "Layer")
        self.feature = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Feature")
        classes = sorted((label, n) for n, label in enumerate(viewer.card.get("labels") or ["none"]))
        self.target = _labelled(ipywidgets.Dropdown(options=classes, value=0), "Class")
        parts = list(markup.POSITIONS.items())
        self.position = _labelled(ipywidgets.Dropdown(options=parts), "Which part")
        chosen = self.target if first == "class" else self.feature
        self._offer_features()
        most = len(classes) if first == "class" else self.feature.max + 1
        if not 0 <= channel < most:
            raise ValueError(f"{first} has the features 0 to {most - 1}, but {channel} was asked for")
        chosen.value = channel
        self.climb, self.noise, self.from_photograph = (
            ipywidgets.Button(description=markup.WORDS[words], layout={"width": "auto"})
            for words in ("climb", "otherNoise", "fromPhotograph")
        )
        for name, words in markup.SWITCHES.items():
            switch = ipywidgets.Checkbox(True, description=words, indent=False, layout={"width": "auto"})
            switch.observe(lambda _: self._prepare(), "value")
            setattr(self, name, switch)
        self.layer.observe(lambda _: self._unless_busy(self._other_layer), "value")
        for control in (self.feature, self.target, self.position):
            control.observe(lambda _: self._unless_busy(self._from_noise), "value")
        words = (markup.WORDS[name] for name in ("climb", "pause"))
        self._climbing = _Work(
            self.climb, *words, self._climb, alone=lambda: self.run(self.most), tell=self._tell
        )
        self.noise.on_click(lambda _: self._other_noise())
        self.from_photograph.on_click(lambda _: self._looked())
        return [
            [self.layer, self.feature, self.target, self.position],
            [getattr(self, name) for name in markup.SWITCHES],
            [self.climb, self.noise, self.photograph, self.from_photograph],
        ]

    def _path(self) -> str:
        return self._viewer.layers.get(self.layer.value, markup.CLASSES)

    def _climbs(self) -> str:
        """The layer as a trace calls it, the classes' too."""
        return self._viewer.net.trace.result if self._path() == markup.CLASSES else self._path()

    def _channel(self) -> int:
        return self.target.value if self._path() == markup.CLASSES else self.feature.value

    def _part(self) -> str:
        return "map" if self._path() == markup.CLASSES else self.position.value

    def _offer_features(self) -> None:
        """The controls that the chosen layer wants."""
        of_class, viewer = self._path() == markup.CLASSES, self._viewer
        for control, shown in (
            (self.feature, not of_class),
            (self.position, not of_class),
            (self.target, of_class),
        ):
            control.layout.display = "" if shown else "none"
        if not of_class:
            blank = next(viewer.model.parameters()).new_zeros(1, 3, viewer.side, viewer.side)
            with torch.no_grad():
                self.feature.max = viewer.net.activations(blank, [self._path()])[self._path()].shape[1] - 1

    # -------------------------------------------------------------------------- the ascent
    def _recipe(self) -> Recipe:
        """What the reader's switches leave of the book's recipe."""
        off = {"l2": {"l2": 0.0}, "tv": {"tv": 0.0}, "jitter": {"jitter": 0}, "frequency": {"frequency": 0.0}}
        off["turn"] = {"scale": 1.0, "rotation": 0.0}
        changes = {
            key: value for name in off if not getattr(self, name).value for key, value in off[name].items()
        }
        return replace(REGULARISED, iterations=self.most, **changes)

    def _looked(self) -> None:
        """Another photograph: the ascent starts there; at first, from noise."""
        if self._begun:
            self._subject = self._look().subject
            self._from(self._look().input)
        else:
            self._begun = True
            self._from_noise()

    def _other_layer(self) -> None:
        with self._quietly():
            self._offer_features()
        self._from_noise()

    def _other_noise(self) -> None:
        self._seed += 1
        self._from_noise()

    def _from_noise(self) -> None:
        self._subject = None
        recipe, weight = self._recipe(), next(self._viewer.model.parameters())
        drawn = noise(self._viewer.side, [self._seed], recipe.contrast, recipe.frequency)
        self._from(drawn.to(weight.dtype).to(weight.device))

    def _from(self, pictures: Tensor) -> None:
        self._climbing.stop()
        self._start = self._picture = pictures[0]
        self._history: list[float] = []
        self._prepare()
        self._show()

    def _prepare(self) -> None:
        """Climb on from here by the recipe as it is now."""
        aim = (self._climbs(), [self._channel()], self._part(), "logit", REGULARISED.wake)
        answer = Answer(self._viewer.net.trace, *aim)
        seed = self._seed + len(self._history)  # other moves than those so far
        self._steps = ascend(answer, self._picture[None], self._recipe(), [seed])

    def _step(self) -> None:
        step = next(self._steps, None)
        if step is None:
            self._prepare()
            step = next(self._steps)
        self._picture = step.pictures[0]
        self._history.append(step.values.item())

    def _show(self) -> None:
        self._draw(markup.climbed_html(self._viewer, self.climbed))

    async def _climb(self) -> None:
        for _ in range(self.most):
            self._step()
            self._show()
            await asyncio.sleep(0.02)  # let the reader's hand in


class _Work:
    """Long work that a button begins and ends, and whose name says which; it lets the reader's hand in.

    Where no event loop runs nobody is there to stop it, and ``alone`` does it at once. Work that fails ends
    itself, and its reader is told.
    """

    def __init__(
        self,
        button: ipywidgets.Button,
        begin: str,
        end: str,
        work: Callable[[], Coroutine],
        alone: Callable[[], None],
        tell: Callable[[str], None],
    ):
        self._button, self._begin, self._end, self._work, self._alone = button, begin, end, work, alone
        self._tell = tell
        self._task: asyncio.Task | None = None
        button.on_click(lambda _: self._begin_or_end())

    def _begin_or_end(self) -> None:
        if self._task:
            self.stop()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._alone()
            return
        self._task = loop.create_task(self._to_the_end())
        self._button.description = self._end

    async def _to_the_end(self) -> None:
        try:
            await self._work()
        except Exception as problem:  # a task's own would reach nobody
            self._tell(f"This could not be done to the end: {type(problem).__name__}: {problem}")
        finally:
            if self._task is asyncio.current_task():  # else it was stopped, and another may run
                self._task = None
                self._button.description = self._begin

    def stop(self) -> None:
        """End it, if it runs."""
        if self._task:
            self._task.cancel()
        self._task = None
        self._button.description = self._begin


def _slider(value: float, least: float, most: float, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(value, min=least, max=most, step=step, readout_format="g")


def _labelled(widget: ipywidgets.DOMWidget, label: str) -> ipywidgets.DOMWidget:
    """Put a readable label on a control and let it take the width it needs."""
    widget.description = label
    widget.style.description_width = "initial"
    widget.layout.width = "12em" if isinstance(widget, ipywidgets.BoundedIntText) else "auto"
    widget.layout.margin = "2px 12px 2px 0"
    return widget
