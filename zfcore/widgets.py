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

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

import ipywidgets
from torch import nn

from zfcore import page
from zfcore.data import Picture, decode
from zfcore.view import Frame, Seen, Viewer, as_png, contact_sheet


class PhotoExplorer(ipywidgets.VBox):
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
    weights
        The name under which :func:`zfcore.model.load` finds this network, for the Python that makes
        a picture again and for the book's build. Default: the card's ``architecture``.

    Raises
    ------
    ValueError
        The model is in training mode, has no such layer, or ``photographs`` is empty.
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
        self._frame: Frame | None = None
        self._busy = False
        super().__init__(self._build())
        self.add_class("zf-live")
        self._offer_features()

    # -------------------------------------------------------------------------- what it shows
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

    def to_html(self) -> str:
        """The twin: one piece of HTML that explores these photographs with no kernel.

        It opens with what the widgets show now; the reader's own uploads are not in it. Where the book's
        build finds the network by its name, the twin refers to it; any other network it carries inside.
        A network too large for a page goes there without its classifier.
        """
        viewer = self._viewer
        if not page.fits(viewer.model):
            viewer = Viewer(viewer.model, viewer.card, viewer.layers, classifier=False)
        name = self.frame.seen.subject.name
        name = name if name in self._shipped else next(iter(self._shipped))
        seen = viewer.look(name, self._shipped[name])
        start = viewer.first(seen)
        if name == self.frame.seen.subject.name:
            start = viewer.frame(seen, self.frame.path, self.frame.feature, self.frame.unit)
        source = page.source(viewer, self._weights)
        return page.explorer_html(viewer, self._shipped, start, page.snippet(self._weights), source)

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        if "JPY_SESSION_NAME" not in os.environ:  # no server is there to keep the widgets alive
            bundle["text/html"] = self.to_html()
        return bundle

    def _look(self, name: str) -> Seen:
        """One forward pass over a photograph; kept, for its maps serve every choice."""
        if name not in self._seen:
            self._seen[name] = self._viewer.look(name, self._pictures[name])
        return self._seen[name]

    # -------------------------------------------------------------------------- the widgets
    def _build(self) -> list[ipywidgets.Widget]:
        titles = [(getattr(picture, "title", name), name) for name, picture in self._pictures.items()]
        layers = list(self._viewer.layers)
        self.photograph = _labelled(ipywidgets.Dropdown(options=titles), "Photograph")
        self.layer = _labelled(ipywidgets.Dropdown(options=layers, value=layers[len(layers) // 2]), "Layer")
        self.strongest = _labelled(ipywidgets.Dropdown(), "Strongest here")
        self.feature = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Feature")
        self.row = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Row")
        self.column = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Column")
        self.strongest_unit = ipywidgets.Button(
            description="Strongest unit", tooltip="The unit of this map that answers most"
        )
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

        self.photograph.observe(lambda _: self._offer_features(), "value")
        self.layer.observe(lambda _: self._offer_features(), "value")
        self.strongest.observe(self._take_strongest, "value")
        self.feature.observe(lambda _: self._offer_units(), "value")
        self.row.observe(lambda _: self._show(), "value")
        self.column.observe(lambda _: self._show(), "value")
        self.upload.observe(self._take_upload, "value")
        self.strongest_unit.on_click(lambda _: self._offer_units())
        self.save.on_click(lambda _: self._save())
        for button in (self.strongest_unit, self.upload, self.save):
            button.layout.width = "auto"
        python = ipywidgets.Accordion([self.python], titles=["The Python that makes it"])
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        return [
            ipywidgets.Box([self.photograph, self.layer, self.strongest], layout=row),
            ipywidgets.Box([self.feature, self.row, self.column, self.strongest_unit], layout=row),
            ipywidgets.HTML(page.style_html()),
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

    def _offer_features(self) -> None:
        """Another photograph or layer: list its strongest features and show the first."""
        if self._busy:
            return
        seen, path = self._look(self.photograph.value), self._viewer.layers[self.layer.value]
        best = seen.strongest(path, page.STRONGEST)
        peaks = seen.maps[path].max((1, 2))
        with self._quietly():
            self.feature.max = len(peaks) - 1
            self.feature.value = best[0]
            self.strongest.options = [(f"feature {n}, answers {peaks[n]:.3g}", n) for n in best]
        self._offer_units()

    def _offer_units(self) -> None:
        """Another feature: show its strongest unit."""
        if self._busy:
            return
        seen, path = self._look(self.photograph.value), self._viewer.layers[self.layer.value]
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
        if self._busy:
            return
        seen, unit = self._look(self.photograph.value), (self.row.value, self.column.value)
        self._frame = self._viewer.frame(seen, self.layer.value, self.feature.value, unit)
        listed = [number for _, number in self.strongest.options]
        with self._quietly():
            self.strongest.value = self.feature.value if self.feature.value in listed else None
        self.picture.value = page.picture_html(self._viewer, self._frame)
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
        name = file["name"]
        self._pictures[name] = picture
        self._seen.pop(name, None)
        titles = [option for option in self.photograph.options if option[1] != name]
        with self._quietly():
            self.photograph.options = [*titles, (name, name)]
            self.photograph.value = name
        self._offer_features()

    def _save(self) -> None:
        frame = self.frame
        try:
            Path(frame.file_name()).write_bytes(as_png(contact_sheet(frame)))
        except OSError as problem:
            self._tell(f"The picture could not be saved: {problem}")
            return
        name = escape(frame.file_name())
        self.message.value = f'<p role="status">Saved as {name} in this notebook’s folder.</p>'


def _labelled(widget: ipywidgets.DOMWidget, label: str) -> ipywidgets.DOMWidget:
    """Put a readable label on a control and let it take the width it needs."""
    widget.description = label
    widget.style.description_width = "initial"
    widget.layout.width = "12em" if isinstance(widget, ipywidgets.BoundedIntText) else "auto"
    widget.layout.margin = "2px 12px 2px 0"
    return widget
