"""Weights that others trained on ImageNet, brought here and adapted to our modules.

Public weights expect pixels p of colour c as (p/255 − m_c)/d_c; a card of ours has one scale for all
colours. So the deviation goes into the filters of the first layer, W'_c = W_c/d_c, and the network
sees (p − 255·m_c)/255: the same numbers reach its first ReLU, and the padding's zero still means the
mean colour.

Source: pytorchcv (O. Sémery, MIT) and torchvision (BSD-3-Clause).

Example::

    from zfcore.public import get_weights, public
    get_weights("zfnet")                   # 230 MB, once
    network, card = public("zfnet")        # as zfcore.model.load gives them
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zfcore.data import data_root
from zfcore.fetch import FetchError, download, known, verify
from zfcore.model import ARCHITECTURES, alone_in, load, network_of, save, untrained

# What torchvision and pytorchcv subtract from pixels in [0, 1], and divide by, for red, green, blue.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

_PYTORCHCV = "https://github.com/osmr/imgclsmob/releases/download"
_VARIANT = (
    "trained by the authors of pytorchcv: {} with pools that stick out instead of padding, and Krizhevsky's "
    "order of contrast norm and pool, with an α five times smaller; not the weights of the paper"
)


@dataclass(frozen=True)
class PublicWeights:
    """Weights that others trained on ImageNet-2012: what they fit, where they are, how good they are.

    ``architecture`` as in a card (see :func:`zfcore.model.load`); ``checksum`` is that of the file
    of tensors, inside the archive where ``url`` is one; ``errors`` are top-1 and top-5 validation
    errors in percent, one crop, as their publisher states them.
    """

    architecture: str
    url: str
    checksum: str
    errors: tuple[float, float]
    parameters: int
    source: str
    note: str


def public_weights() -> dict[str, PublicWeights]:
    """The public weights by name; addresses, checksums and errors of torchvision's are its own."""
    from torchvision.models import get_weight  # takes a second, and only this room needs it

    table = {
        "zfnet": PublicWeights(
            "zfnet-public",
            f"{_PYTORCHCV}/v0.0.395/zfnet-1727-d010ddca.pth.zip",
            "sha1:d010ddca1eb32a50a8cceb475c792f53e769b631",
            (39.79, 17.27),
            62_357_608,
            "pytorchcv, MIT licence",
            _VARIANT.format("Fig. 3"),
        ),
        "zfnetb": PublicWeights(
            "zfnet-wide-public",
            f"{_PYTORCHCV}/v0.0.400/zfnetb-1490-f6bec24e.pth.zip",
            "sha1:f6bec24eba037c8e4956704ed5bafaed29966601",
            (36.37, 14.90),
            107_627_624,
            "pytorchcv, MIT licence",
            _VARIANT.format("the network with 512, 1024, 512 maps"),
        ),
    }
    for name, network, entry in (
        ("vgg16", "vgg16", "VGG16_Weights"),
        ("alexnet", "alexnet", "AlexNet_Weights"),
        ("squeezenet", "squeezenet1_1", "SqueezeNet1_1_Weights"),
        ("resnet18", "resnet18", "ResNet18_Weights"),
    ):
        weights = get_weight(f"{entry}.IMAGENET1K_V1")
        accuracy = weights.meta["_metrics"]["ImageNet-1K"]
        table[name] = PublicWeights(
            f"torchvision.{network}",
            weights.url,
            "sha256:" + weights.url.removesuffix(".pth").rpartition("-")[2],
            tuple(round(100 - accuracy[key], 3) for key in ("acc@1", "acc@5")),
            weights.meta["num_params"],
            "torchvision, BSD-3-Clause licence",
            "trained by the authors of torchvision",
        )
    return table


def weights_file(name: str, root: str | os.PathLike | None = None) -> Path:
    """Where :func:`get_weights` puts the weights ``name``: ``weights/`` under the data root."""
    return Path(root or data_root()).absolute() / "weights" / f"{name}.safetensors"


def get_weights(name: str, root: str | os.PathLike | None = None) -> Path:
    """Bring public weights and write them as ours: a safetensors file (float32) with its card.

    Nothing is fetched when both are already there. The card has the 1000 words (``labels``) and the
    WordNet ids (``classes``).

    Parameters
    ----------
    name
        ``"zfnet"``, ``"zfnetb"`` (pytorchcv), ``"vgg16"``, ``"alexnet"``, ``"squeezenet"``,
        ``"resnet18"`` (torchvision).
    root
        The folder in which ``weights/`` lies or shall lie; default :func:`zfcore.data.data_root`.

    Returns
    -------
    Path
        The ``.safetensors`` file; :func:`zfcore.model.load` reads it.

    Raises
    ------
    ValueError
        Unknown name, or tensors that do not fit the network.
    FetchError
        As :func:`zfcore.fetch.download`.
    OSError
        Another process is bringing them.
    """
    wanted: PublicWeights = known(public_weights(), name, "public weights")
    path = weights_file(name, root)
    if _are_whole(path):
        return path
    with alone_in(path):
        return path if _are_whole(path) else _bring_weights(name, wanted, path)


def _are_whole(weights: Path) -> bool:
    return weights.exists() and weights.with_suffix(".json").exists()


def _bring_weights(name: str, wanted: PublicWeights, path: Path) -> Path:
    archive = file = path.with_name(wanted.url.rpartition("/")[2])
    zipped = archive.suffix == ".zip"
    # What is written is as large as what comes; an archive is unpacked besides.
    download(
        wanted.url, archive, "" if zipped else wanted.checksum, room=4 * wanted.parameters * (1 + zipped)
    )
    if zipped:
        file = _only_member(archive, wanted)
    network, mean, card = adapt(name, torch.load(file, map_location="cpu", weights_only=True))
    save(path, network, mean, card, dtype=torch.float32)
    for brought in {archive, file}:
        brought.unlink()
    return path


def _only_member(archive: Path, wanted: PublicWeights) -> Path:
    """The file of tensors in pytorchcv's archive, whose checksum is that of the file."""
    file = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as pack, pack.open(file.name) as packed, file.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        verify(file, wanted.checksum, wanted.url)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        archive.unlink()
        file.unlink(missing_ok=True)
        raise FetchError(
            f"{wanted.url} did not give an archive of {file.name} ({error}); it was removed, so run the "
            "same command again to bring it from the beginning"
        ) from error
    except FetchError:
        archive.unlink()
        raise
    return file


def public(name: str, root: str | os.PathLike | None = None) -> tuple[nn.Module, dict]:
    """Public weights that :func:`get_weights` has brought, as :func:`zfcore.model.load` gives them.

    Raises
    ------
    ValueError
        Unknown name, or damaged files.
    FileNotFoundError
        They are not on this machine; the message says how to get them.
    """
    known(public_weights(), name, "public weights")
    path = weights_file(name, root)
    if not path.exists():
        raise FileNotFoundError(f"the weights {name} are not at {path}; run `zfcore weights get {name}`")
    return load(path)


def network(
    name: str, weights: str = "random", seed: int = 0, root: str | os.PathLike | None = None
) -> tuple[nn.Module, dict]:
    """A network that others have published: with their weights, or with random ones in the same shape.

    Parameters
    ----------
    name
        As for :func:`get_weights`.
    weights
        ``"public"``: as :func:`public`, which needs them on this machine. ``"random"``: He's, which
        needs nothing; the card then knows how the network wants its pictures, and of no error.
    seed
        Of the random weights; the global generator is left as it was.
    root
        As for :func:`get_weights`; random weights need none.

    Raises
    ------
    ValueError
        Unknown name or ``weights``.
    FileNotFoundError
        The public weights are not on this machine; the message says how to get them.
    """
    if weights not in ("random", "public"):
        raise ValueError(f"unknown weights {weights!r}; known: random, public")
    if weights == "public":
        return public(name, root)
    wanted: PublicWeights = known(public_weights(), name, "public weights")
    card = _how_it_wants_pictures(wanted.architecture)
    return untrained(card, seed), card | {"mean": _mean_picture(card), "note": "random weights"}


def _how_it_wants_pictures(architecture: str) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "num_classes": len(imagenet_words()),
        "input_size": 224,
        "resize": 256,
        "scale": 255.0,
        "classes": imagenet_classes(),
        "labels": imagenet_words(),
    }


def _mean_picture(card: Mapping[str, Any]) -> Tensor:
    """The mean of ImageNet's colours at every pixel, (3, resize, resize) in [0, 255]."""
    return torch.tensor(MEAN).mul(255)[:, None, None].expand(3, card["resize"], card["resize"])


def adapt(name: str, state: Mapping[str, Tensor]) -> tuple[nn.Module, Tensor, dict]:
    """Turn tensors as their publisher names them into a network of ours with its mean and card.

    Parameters
    ----------
    name
        As for :func:`get_weights`.
    state
        What ``torch.load`` gives, or the ``state_dict`` of the publisher's module.

    Returns
    -------
    network, mean, card
        In eval mode, float32; the mean of ImageNet's colours as (3, 256, 256), pixels in [0, 255].

    Raises
    ------
    ValueError
        Unknown name, or tensors that do not fit.
    """
    wanted: PublicWeights = known(public_weights(), name, "public weights")
    card = _how_it_wants_pictures(wanted.architecture) | {
        "error": {"one crop": dict(zip(("top1", "top5"), wanted.errors, strict=True))},
        "data": "imagenet",
        "source": wanted.source,
        "url": wanted.url,
        "note": wanted.note,
        "command": f"zfcore weights get {name}",
    }
    if wanted.architecture in ARCHITECTURES:
        state = from_pytorchcv(state, wanted.architecture)
    adapted = network_of(card)
    try:
        adapted.load_state_dict(fold_deviation(state))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"these tensors do not fit {wanted.architecture}: {error}") from error
    return adapted.eval(), _mean_picture(card), card


def imagenet_classes() -> list[str]:
    """The WordNet ids of ImageNet-2012's 1000 classes, sorted: the order of public networks' outputs."""
    return Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="ascii").split()


def imagenet_words() -> list[str]:
    """The words of ImageNet's 1000 classes, in the order of their WordNet ids."""
    from torchvision.models import get_weight

    return list(get_weight("AlexNet_Weights.IMAGENET1K_V1").meta["categories"])


def from_pytorchcv(state: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """pytorchcv's names for the tensors of its ZFNets → ours; tensors it has besides are left out.

    Raises ``ValueError`` when one is missing.
    """
    paths = ARCHITECTURES[architecture].named_layers()
    theirs = {"conv1": "features.stage1.unit1.conv", "conv2": "features.stage2.unit1.conv"}
    theirs |= {f"conv{n}": f"features.stage3.unit{n - 2}.conv" for n in (3, 4, 5)}
    theirs |= {"fc6": "output.fc1.fc", "fc7": "output.fc2.fc", "fc8": "output.fc3"}
    names = {f"{paths[o]}.{kind}": f"{t}.{kind}" for o, t in theirs.items() for kind in ("weight", "bias")}
    missing = [name for name in names.values() if name not in state]
    if missing:
        raise ValueError(f"these are not the tensors of pytorchcv's network: {', '.join(missing)} missing")
    return {ours: state[name] for ours, name in names.items()}


def fold_deviation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors for inputs (p − 255·m_c)/255, from those for (p/255 − m_c)/d_c: W'_c = W_c/d_c in layer 1.

    The first layer, of weights (C, 3, h, w), is ``conv1`` in a ResNet and ``features.0`` in the others here.
    """
    name = "conv1.weight" if "conv1.weight" in state else "features.0.weight"
    deviation = state[name].new_tensor(DEVIATION)[:, None, None]
    return {**state, name: state[name] / deviation}
