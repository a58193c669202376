"""What the tests of pages and explorers show: a small network, two photographs, and a look at markup."""

import re
import weakref
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from zfcore.data import photographs
from zfcore.model import ContrastNorm, initialize_

PICTURES = {name: photographs()[name] for name in ("chelsea", "coffee")}
LAYERS = {"layer 1": "1", "layer 2": "5", "layer 3": "8"}  # of small()
CARD = {
    "input_size": 28, "resize": 32, "scale": 64.0, "mean": [118.0, 117.0, 116.0],
    "labels": ["tabby <cat>", "plate", "rocket", "hat"], "classes": ["n02124075", "a", "b", "c"],
}  # fmt: skip
# Of a class explorer: (training pictures, mean, deviation); the features that carry each class.
RANDOM = [(1.0, 1.0, 0.0), (30.0, 9.0, 1.0)]
CURVES = {
    "ant": {"pretrained": [(1.0, 10.0, 2.0), (5.0, 40.0, 3.0), (30.0, 62.0, 1.0)], "random": RANDOM},
    "b<e>e": {"pretrained": [(1.0, 30.0, 2.0), (5.0, 80.0, 3.0), (30.0, 99.0, 2.0)], "random": RANDOM},
    "cat": {"pretrained": [(1.0, 5.0, 2.0), (5.0, 6.0, 3.0), (30.0, 20.0, 1.0)], "random": RANDOM},
}
CARRIERS = {"ant": [(3, 0.5), (7, 0.25)], "b<e>e": [(7, 0.4), (3, 0.1)], "cat": [(99, 0.02), (3, 0.01)]}


def small(seed=0):
    """Every operation of a ZFNet, in no time: 28 px, two pools, a contrast norm, a classifier."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), ContrastNorm(alpha=1e-2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(10 * 6 * 6, 4),
    ).eval()  # fmt: skip
    initialize_(model, "he")
    return model.half().float()


class Aside(nn.Module):
    """A network with a layer after its logits that it does not return."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        logits.exp()
        return logits


class Elements(HTMLParser):
    """Every start tag with its attributes, which controls stand without a label in words, and which ones a
    browser may set again on reload, behind the script's back."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.unlabelled, self.restored = [], [], []
        self._label, self._words, self._button = 0, "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "label":
            self._label, self._words = self._label + 1, ""
        if tag in ("select", "input", "textarea") and not (self._label and self._words.strip()):
            self.unlabelled.append(tag)
        choice = tag in ("select", "input") and ("type", "file") not in attributes
        if choice and ("autocomplete", "off") not in attributes:
            self.restored.append(tag)
        if tag == "button":
            self._button = ""
        if tag == "img" and self._button is not None:
            self._button += dict(attributes)["alt"]

    def handle_endtag(self, tag):
        if tag == "label":
            self._label -= 1
        if tag == "button":
            if not self._button.strip():
                self.unlabelled.append(tag)
            self._button = None

    def handle_data(self, data):
        self._words += data if self._label else ""
        if self._button is not None:
            self._button += data


def sound(html):
    """Insist that markup asks for nothing, has no ids, and labels every control; give its elements."""
    elements = Elements(html)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    assert not {tag for tag, _ in elements.tags} & {"link", "iframe", "object"}
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in elements.tags)
    assert not any("id" in attributes for _, attributes in elements.tags), "no two would share a page"
    assert not elements.unlabelled
    assert not elements.restored
    return elements


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside the block ever held together."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self._enter(storage)
        return result

    def _enter(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def leave():
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, leave)


def grain(width, height, seed=0):
    """A grey picture of noise, the same for a seed."""
    noise = np.random.default_rng(seed).normal(128, 60, (height, width)).clip(0, 255)
    return Image.fromarray(noise.astype(np.uint8))


def visible(folder):
    """The names in a folder, but for the lock of who works there."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
