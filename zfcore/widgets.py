r"""Explorers that live in JupyterLab, against the network in the kernel; the one room that knows ipywidgets.

An explorer is one object with two renderings. In Lab it is a box of widgets. Executed without a
server (papermill, the book's build) its output also carries its twin, a piece of HTML that
:mod:`zfcore.page` makes of the same frames, so that the published page explores with no kernel.

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
from dataclasses import dataclass
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from torch import Tensor, nn

from zfcore import figures, page
from zfcore.data import Picture, decode, squares, to_input
from zfcore.deconvnet import Deconvnet

SNIPPET = """\
from zfcore.data import photographs, to_input
from zfcore.deconvnet import Deconvnet
{load}
picture = to_input([{{pixels}}], card)
projection = Deconvnet(network).project(picture, "{{path}}", {{feature}}, rule="{{rule}}")
"""
LOAD = 'from zfcore.model import load\nnetwork, card = load("{weights}")'
LOAD_YOURS = "from my_project import network, card  # your own network, and how it wants its pictures"


@dataclass(frozen=True)
class _Seen:
    """A photograph after its forward pass: how it looks and what every layer answered."""

    subject: page.Subject
    square: np.ndarray  # (S, S, 3) uint8
    input: Tensor  # (1, 3, S, S)
    maps: dict[str, np.ndarray]  # module path -> (C, h, w)


class PhotoExplorer(ipywidgets.VBox):
    """Choose a photograph, a layer and a feature: see where the feature answers, and to what.

    Shown are the photograph as the network sees it with the receptive field of the feature's
    strongest unit framed, that unit's projection to pixel space, the feature's map, both inside
    the frame enlarged, and the network's five best labels. In Lab the reader's own photograph
    can be dropped in. The widgets are attributes (``photograph``, ``layer``, ``feature``,
    ``strongest``, ``rule``, ``upload``): setting their ``value`` moves the explorer.

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
        Module paths to choose from, or reader's name → path. Default: the output of every ReLU
        that has feature maps; ``layer 1`` … for the networks of :mod:`zfcore.model`.
    weights
        The name under which :func:`zfcore.model.load` finds this network, for the Python that makes
        a picture again. Default: the card's ``architecture``.
    page_photographs, page_features
        How many photographs, and how many of each layer's strongest features, the twin carries.

    Raises
    ------
    ValueError
        The model is in training mode, has no such layer, or ``photographs`` is empty.
    """

    STRONGEST = 8  # features in the list

    def __init__(
        self,
        model: nn.Module,
        card: Mapping,
        photographs: Mapping[str, Picture],
        layers: Mapping[str, str] | Sequence[str] | None = None,
        *,
        weights: str | None = None,
        page_photographs: int = 6,
        page_features: int = 6,
    ):
        if model.training:
            raise ValueError(
                "the model is in training mode, where dropout is random; call model.eval() first"
            )
        if not photographs:
            raise ValueError("there are no photographs to explore; give, say, zfcore.data.photographs()")
        self._model, self._card, self._net = model, dict(card), Deconvnet(model)
        self._pictures = dict(photographs)
        self._shipped = list(photographs)[:page_photographs]
        self._page_features = page_features
        self._seen: dict[str, _Seen] = {}
        self._frames: dict[tuple, page.Frame] = {}
        weights = weights or card.get("architecture")
        self._snippet = SNIPPET.format(load=LOAD.format(weights=weights) if weights else LOAD_YOURS)
        self._layers = self._named_layers(layers)
        self._busy = False
        super().__init__(self._build())
        self.add_class("zf-live")
        self._offer_features()

    # -------------------------------------------------------------------------- what it shows
    def frame(self, photograph: str, layer: str, feature: int, rule: str = "deconvnet") -> page.Frame:
        """The pictures of one choice, as both renderings show them.

        ``layer`` is the reader's name (``layer 3``) or a module path; ``feature`` counts from 0.
        """
        name = {path: n for n, path in self._layers.items()}.get(layer, layer)
        if name not in self._layers:
            raise ValueError(f"no layer {layer!r} here; there are: {', '.join(self._layers)}")
        key = photograph, name, feature, rule
        if key not in self._frames:
            self._frames[key] = self._draw_frame(*key)
        return self._frames[key]

    def strongest_features(self, photograph: str, layer: str, k: int) -> list[int]:
        """The ``k`` features of a layer (reader's name) that answer most to a photograph.

        By the feature's strongest unit; the lower number first among equals.
        """
        peaks = self._look(photograph).maps[self._layers[layer]].max((1, 2))  # (C,)
        return np.argsort(-peaks, kind="stable")[:k].tolist()

    def snippet(self) -> str:
        """Six lines of Python that make the shown projection again."""
        shown = self._shown()
        pixels = self._look(shown.photograph).subject.python
        return self._snippet.format(pixels=pixels, path=shown.path, feature=shown.feature, rule=shown.rule)

    def to_html(self) -> str:
        """The twin: one piece of HTML that explores these photographs with no kernel.

        It opens with what the widgets show now. The reader's own uploads are not in it.
        """
        shown = self._shown()
        frames = {}
        for name in self._shipped:
            for layer in self._layers:
                features = self.strongest_features(name, layer, self._page_features)
                if (name, layer) == (shown.photograph, shown.layer) and shown.feature not in features:
                    features.append(shown.feature)
                for rule in page.RULES:
                    frames[name, layer, rule] = [self.frame(name, layer, f, rule) for f in features]
        subjects = [self._look(name).subject for name in self._shipped]
        start = shown if shown.photograph in self._shipped else None
        return page.photo_explorer_html(frames, subjects, self._snippet, start)

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        if "JPY_SESSION_NAME" not in os.environ:  # no server is there to keep the widgets alive
            bundle["text/html"] = self.to_html()
        return bundle

    # -------------------------------------------------------------------------- the network's side
    def _named_layers(self, layers: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
        """Reader's name → module path of the layers to choose from, all of which have feature maps."""
        named = self._relu_layers() if layers is None else layers
        named = dict(named) if isinstance(named, Mapping) else {path: path for path in named}
        x = self._input(next(iter(self._pictures.values())))
        answers = self._net.activations(x, list(named.values()))
        flat = [path for path in named.values() if answers[path].ndim != 4]
        if flat and layers is not None:
            raise ValueError(f"these layers have no feature maps (N, C, H, W) to look at: {', '.join(flat)}")
        named = {name: path for name, path in named.items() if path not in flat}
        if not named:
            raise ValueError(f"no ReLU here has feature maps; give layers, of {', '.join(self._net.layers)}")
        return named

    def _relu_layers(self) -> dict[str, str]:
        """The output of every ReLU, by the paper's number where the model knows it, else its trace name."""
        if hasattr(self._model, "architecture"):
            paths = self._model.architecture.named_layers().items()
            return {f"layer {n[len('relu') :]}": path for n, path in paths if n.startswith("relu")}
        modules = dict(self._model.named_modules())
        return {n: n for n in self._net.layers if isinstance(modules.get(n), nn.ReLU) or n.startswith("relu")}

    def _input(self, picture: Picture) -> Tensor:
        weight = next(self._model.parameters())
        return to_input([picture], self._card).to(weight.device, weight.dtype)

    def _look(self, name: str) -> _Seen:
        """One forward pass over a photograph; kept, for its maps serve every choice of layer and feature."""
        if name not in self._seen:
            picture = self._pictures[name]
            x = self._input(picture)
            answers = self._net.activations(x, list(self._layers.values()))
            with torch.no_grad():
                logits = self._model(x)
            self._seen[name] = _Seen(
                self._subject(name, picture, logits),
                squares([picture], self._card)[0],
                x,
                {path: a[0].detach().float().cpu().numpy() for path, a in answers.items()},
            )
        return self._seen[name]

    def _subject(self, name: str, picture: Picture, logits: Tensor) -> page.Subject:
        title = getattr(picture, "title", name)
        shipped = hasattr(picture, "credit")
        return page.Subject(
            name=name,
            title=title,
            alt=getattr(picture, "alt", title),
            credit=f"{title}: {picture.credit}, {picture.licence}." if shipped else "",
            python=f'photographs()["{name}"]' if shipped else repr(name),
            guesses=self._guesses(logits, getattr(picture, "wnid", None)),
        )

    def _guesses(self, logits: Tensor, wnid: str | None) -> tuple[tuple[str, float, bool], ...]:
        """The five best labels: words, probability, and whether it is the photograph's own label."""
        if logits.ndim != 2:
            return ()
        best = logits[0].float().softmax(0).topk(min(5, logits.shape[1]))
        words, classes = self._card.get("labels"), self._card.get("classes")
        return tuple(
            (words[i] if words else f"class {i}", p, bool(wnid and classes and classes[i] == wnid))
            for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )

    def _draw_frame(self, photograph: str, layer: str, feature: int, rule: str) -> page.Frame:
        seen, path = self._look(photograph), self._layers[layer]
        features = len(seen.maps[path])
        if not 0 <= feature < features:
            raise ValueError(f"{layer} has the features 0 to {features - 1}, but {feature} was asked for")
        activation = seen.maps[path][feature]  # (h, w)
        # The first of equals in row-major order, as everywhere in this package.
        y, x = (int(u) for u in np.unravel_index(activation.argmax(), activation.shape))
        projection = self._net.project(seen.input, path, feature, position=(y, x), rule=rule)
        return page.Frame(
            photograph=photograph,
            title=seen.subject.title,
            layer=layer,
            path=path,
            feature=feature,
            rule=rule,
            value=float(activation[y, x]),
            unit=(y, x),
            field=page.Field.of(self._net.geometry[path], (y, x), seen.square.shape[0]),
            square=seen.square,
            map=page.colour_map(activation),
            projection=figures.stretch(projection[0]),
        )

    # -------------------------------------------------------------------------- the widgets' side
    def _build(self) -> list[ipywidgets.Widget]:
        titles = [(getattr(picture, "title", name), name) for name, picture in self._pictures.items()]
        self.photograph = _labelled(ipywidgets.Dropdown(options=titles), "Photograph")
        # The middle layers show most at first sight: more than edges, and still local.
        middle = list(self._layers)[len(self._layers) // 2]
        self.layer = _labelled(ipywidgets.Dropdown(options=list(self._layers), value=middle), "Layer")
        self.strongest = _labelled(ipywidgets.Dropdown(), "Strongest here")
        self.feature = _labelled(ipywidgets.BoundedIntText(min=0, max=0), "Feature number")
        self.previous = ipywidgets.Button(description="Previous", tooltip="The feature before this one")
        self.next = ipywidgets.Button(description="Next", tooltip="The feature after this one")
        rules = [(words, rule) for rule, words in page.RULES.items()]
        self.rule = _labelled(ipywidgets.Dropdown(options=rules), "Rule")
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
        self.feature.observe(lambda _: self._show(), "value")
        self.rule.observe(lambda _: self._show(), "value")
        self.upload.observe(self._take_upload, "value")
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(1))
        self.save.on_click(lambda _: self._save())
        for button in (self.previous, self.next, self.upload, self.save):
            button.layout.width = "auto"
        python = ipywidgets.Accordion([self.python], titles=["The Python that makes it"])
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        return [
            ipywidgets.Box([self.photograph, self.layer, self.strongest], layout=row),
            ipywidgets.Box([self.feature, self.previous, self.next, self.rule], layout=row),
            ipywidgets.HTML(page.style_html()),
            self.message,
            self.picture,
            ipywidgets.Box([self.upload, self.save], layout=row),
            python,
        ]

    def _shown(self) -> page.Frame:
        return self.frame(self.photograph.value, self.layer.value, self.feature.value, self.rule.value)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Several controls change together: none of them redraws on its own."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _offer_features(self) -> None:
        """Another photograph or layer: list its strongest features and show the first."""
        if self._busy:
            return
        photograph, layer = self.photograph.value, self.layer.value
        maps = self._look(photograph).maps[self._layers[layer]]
        best = self.strongest_features(photograph, layer, self.STRONGEST)
        with self._quietly():
            self.feature.max = len(maps) - 1
            self.feature.value = best[0]
            self.strongest.options = [(page.feature_words(n, float(maps[n].max())), n) for n in best]
        self._show()

    def _take_strongest(self, change) -> None:
        if change.new is not None and not self._busy:
            self.feature.value = change.new

    def _step(self, by: int) -> None:
        self.feature.value = (self.feature.value + by) % (self.feature.max + 1)

    def _show(self) -> None:
        """Make the picture, the list and the Python follow the choice."""
        if self._busy:
            return
        frame = self._shown()
        listed = [number for _, number in self.strongest.options]
        self.strongest.value = frame.feature if frame.feature in listed else None
        self.picture.value = page.picture_html(frame, self._look(frame.photograph).subject)
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
        self._frames = {key: frame for key, frame in self._frames.items() if key[0] != name}
        titles = [option for option in self.photograph.options if option[1] != name]
        with self._quietly():
            self.photograph.options = [*titles, (name, name)]
            self.photograph.value = name
        self._offer_features()

    def _save(self) -> None:
        frame = self._shown()
        try:
            Path(frame.file_name()).write_bytes(page.as_png(page.contact_sheet(frame)))
        except OSError as problem:
            self._tell(f"The picture could not be saved: {problem}")
            return
        name = escape(frame.file_name())
        self.message.value = f'<p role="status">Saved as {name} in this notebook’s folder.</p>'


def _labelled(widget: ipywidgets.DOMWidget, label: str) -> ipywidgets.DOMWidget:
    """Put a readable label on a control and let it take the width it needs."""
    widget.description = label
    widget.style.description_width = "initial"
    widget.layout.width = "auto"
    widget.layout.margin = "2px 12px 2px 0"
    return widget
