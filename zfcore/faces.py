r"""Faces seen from the front, eyes and noses marked: what the correspondence analysis is run on.

The paper took five dogs. Here are 22 cougars, 20 dalmatians and 24 people of Caltech-101, and three faces
that ship with the packages. We looked at each and marked the centres of eyes and nose once; the marks lie in
``book/results/marks/faces.json``, the pictures where the data sets are. Left and right are the beholder's.

Sources: the arXiv version of Zeiler & Fergus, arXiv:1311.2901; Caltech-101: Fei-Fei et al. (2004),
doi:10.1109/CVPR.2004.383.

Example::

    from zfcore.correspondence import correspondence
    from zfcore.data import to_input
    from zfcore.faces import faces
    from zfcore.model import load
    network, card = load("zfnet-64")
    few = faces("photographs")
    parts, within = few.boxes(card), few.around(card)
    found = correspondence(network, to_input(few.pixels, card), parts, ["features.13"], within=within)
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcore.correspondence import PLACES, Comparison, Correspondence, correspondence, jackknife
from zfcore.data import decode, folder_of, photographs, to_input
from zfcore.ledger import RESULTS, provenance
from zfcore.model import load, untrained


@dataclass(frozen=True)
class Faces:
    """Faces seen from the front, cut out as squares, with the places of eyes and nose.

    ``pixels`` N arrays (S, S, 3) uint8, S as it comes; ``centres`` {part: (N, 2)} y and x as shares of the
    side; ``eyes`` (N,) the distance of the eyes as a share of the side; ``files`` their names.
    """

    name: str
    pixels: list[np.ndarray]
    centres: dict[str, np.ndarray]
    eyes: np.ndarray
    files: tuple[str, ...]
    sha256: str

    def boxes(self, card: Mapping[str, Any], share: float = 0.55) -> dict[str, Tensor]:
        """{part: int64 (N, 4)}: top, left, height, width in pixels of the input, for ``correspondence``.

        Squares around the centres, their side the ``share`` of the eyes' distance, 3 pixels at least; moved
        inward where they would reach outside the input.
        """
        resize, size = card["resize"], card["input_size"]
        sides = np.maximum(3, np.rint(share * self.eyes * resize)).astype(int)[:, None]  # (N, 1)
        found = {}
        for part, centres in self.centres.items():
            corners = np.rint(centres * resize - (resize - size) // 2 - sides / 2).astype(int)
            corners = np.clip(corners, 0, size - sides)
            found[part] = torch.from_numpy(np.hstack((corners, sides, sides)))
        return found

    def around(self, card: Mapping[str, Any]) -> Tensor:
        """int64 (N, 4): the face, on which the random places lie, as :meth:`boxes` gives the parts.

        The smallest rectangle that holds the three centres, half an eye distance wider on every side, inside
        the input; never smaller than what the parts' squares need.
        """
        resize, size = card["resize"], card["input_size"]
        centres = np.stack(list(self.centres.values()))  # (P, N, 2)
        margin = self.eyes[:, None] / 2
        ends = np.array([centres.min(0) - margin, centres.max(0) + margin]) * resize - (resize - size) // 2
        parts = torch.stack(list(self.boxes(card).values())).numpy()  # (P, N, 4)
        first = np.minimum(np.rint(ends[0]), parts[..., :2].min(0)).clip(0, size)
        last = np.maximum(np.rint(ends[1]), (parts[..., :2] + parts[..., 2:]).max(0)).clip(0, size)
        return torch.from_numpy(np.hstack((first, last - first)).astype(np.int64))


def faces(name: str, root: str | os.PathLike | None = None, results: str | os.PathLike = RESULTS) -> Faces:
    """One of the sets whose eyes and noses are marked in ``book/results/marks/faces.json``.

    ``"photographs"`` are the three that ship here; ``"cougar_face"``, ``"dalmatian"`` and ``"Faces_easy"``
    are of Caltech-101, found under ``root`` by :func:`zfcore.data.folder_of`. Each face is cut out as a
    square around the middle of the marks, of four eye distances or the picture's smaller side, whichever is
    less.

    Raises
    ------
    ValueError
        Unknown set; the message lists them.
    FileNotFoundError
        The pictures are not on this machine.
    """
    marks = json.loads((Path(results) / "marks" / "faces.json").read_text(encoding="utf-8"))
    if name not in marks["sets"]:
        raise ValueError(f"no marked faces {name!r}; known: {', '.join(marks['sets'])}")
    pictures = photographs()
    if name != "photographs":
        folder = folder_of("caltech101", root, name) / name
        pictures = {file: folder / file for file in marks["sets"][name]}
    pixels, centres, eyes = [], [], []
    digest = hashlib.sha256(json.dumps(marks["sets"][name]).encode())
    for file, shares in marks["sets"][name].items():
        picture = decode(pictures[file])
        square, places, distance = _cut(picture, np.array(shares))
        pixels.append(square)
        centres.append(places)
        eyes.append(distance)
        digest.update(np.ascontiguousarray(picture))
    by_part = dict(zip(marks["parts"], np.stack(centres, 1), strict=True))  # {part: (N, 2)}
    return Faces(name, pixels, by_part, np.array(eyes), tuple(marks["sets"][name]), digest.hexdigest())


def _cut(picture: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The square around a face; the marks in it, (3, 2) y and x, and the eyes' distance, as shares of it."""
    height, width = picture.shape[:2]
    places = (shares * [width, height])[:, ::-1]  # y and x, in pixels
    distance = float(np.hypot(*(places[0] - places[1])))
    side = min(height, width, round(4 * distance))
    corner = np.rint(places.mean(0) - side / 2).astype(int)
    top, left = np.clip(corner, 0, [height - side, width - side])
    return picture[top : top + side, left : left + side], (places - [top, left]) / side, distance / side


#: The layers that are asked, by the book's and by the network's names.
LAYERS = {f"layer {n}": f"relu{n}" for n in (5, 6, 7)}
#: The marked sets of Caltech-101.
SETS = ("cougar_face", "dalmatian", "Faces_easy")


def correspondence_entries(
    weights: str = "zfnet-64",
    draws: int = 50,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[dict[str, Any]]:
    """Cover eyes and noses of the marked sets of Caltech-101, with trained weights and with random ones.

    Yields an entry of the ledger ``correspondence`` for each network and set; ``values`` are those of
    :func:`summary` for every layer, and how much layer 5 gains over layer 7.

    Raises
    ------
    FileNotFoundError
        Weights or pictures are not on this machine.
    """
    network, card = load(weights)
    random = untrained(card, seed)
    named = network.architecture.named_layers()
    paths = {title: named[name] for title, name in LAYERS.items()}
    command = (
        f"zfcore sensitivity correspondence --weights {Path(weights).name} --draws {draws} --seed {seed}"
    )
    for name in SETS:
        marked = faces(name)
        images = to_input(marked.pixels, card).to(device)
        boxes, within = marked.boxes(card), marked.around(card)
        for row, model in (
            (card["architecture"], network),
            (f"{card['architecture']}, random weights", random),
        ):
            start = time.monotonic()
            options = {"within": within, "draws": draws, "seed": seed, "progress": progress}
            found = correspondence(model.to(device), images, boxes, list(paths.values()), **options)
            yield {
                "row": f"{row}, {name}",
                "seed": seed,
                "values": summary({title: found[path] for title, path in paths.items()}),
                "n": len(images),
                "data": "caltech101",
                "data_sha256": marked.sha256,
                "config": {
                    "set": name,
                    "trained": model is network,
                    "draws": draws,
                    "places": "on the face",
                    "layers": paths,
                },
                "weights_sha256": card["sha256"] if model is network else None,
                **provenance(device, time.monotonic() - start, command),
            }


def summary(found: Mapping[str, Correspondence]) -> dict[str, Any]:
    """What a ledger or a chapter says of a correspondence analysis, {layer: Correspondence} → plain numbers.

    For each layer and kind of units: each part's ``delta`` with its jackknife error; of ``random`` and
    ``shared`` places mean, standard deviation over the draws and p-value, as for ``mixed`` names; and the
    ``gain`` over both with its error. Where layers 5 and 7 are there, ``"layer 5 minus layer 7"`` is the
    difference of their gains.
    """
    values: dict[str, Any] = {}
    for layer, kinds in found.items():
        values[layer] = {units: _numbers(comparison) for units, comparison in kinds._asdict().items()}
    if {"layer 5", "layer 7"} <= set(found):
        values["layer 5 minus layer 7"] = {
            units: {
                where: _with_error(*(a - b for a, b in zip(five.gain(where), seven.gain(where), strict=True)))
                for where in PLACES
            }
            for units, five, seven in zip(
                Correspondence._fields, found["layer 5"], found["layer 7"], strict=True
            )
        }
    return values


def _numbers(c: Comparison) -> dict[str, Any]:
    drawn = {
        where: {
            part: [*_mean_and_spread(values), round(c.p_value(where, part), 5)]
            for part, values in getattr(c, where).items()
        }
        for where in PLACES
    }
    return {
        "delta": {part: _with_error(delta, c.without[part]) for part, delta in c.delta.items()},
        **drawn,
        "mixed": [*_mean_and_spread(c.mixed), c.p_value("mixed")],
        "gain": {where: _with_error(*c.gain(where)) for where in PLACES},
    }


def _mean_and_spread(values: Tensor) -> list[float]:
    return [round(float(values.mean()), 5), round(float(values.std()), 5)]


def _with_error(value: float, without: Tensor) -> list[float]:
    return [round(value, 5), round(jackknife(without), 5)]
