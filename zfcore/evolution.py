"""Feature evolution, Fig. 4: what the maps of a network answer to, epoch after epoch of its training.

For some maps of every layer a snapshot holds the picture of the training set that excites them most,
where in it, how strongly, the projection of that unit by the deconvnet, cropped to its receptive field,
and how strongly each map answers to a fixed set of pictures: the first tells of jumps (another picture
has become the strongest), the last of convergence (the answers stop changing).

Snapshots are files, each written whole or not at all, one per epoch: a training that was killed and
repeats an epoch writes the same one again, and none is lost or there twice.

Source: Zeiler & Fergus, §4 and Fig. 4, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.evolution import Evolution
    evolution = Evolution("runs/fig4/snapshots", pictures, layers={"layer 1": "features.1"}, scale=64.0)
    train(network, pictures, validation, recipe, epochs=64, on_epoch=evolution)
    evolution.collect("fig4.npz")
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from zfcore.data import Pictures, batches, centre_crop
from zfcore.deconvnet import Deconvnet
from zfcore.model import write_atomically

if TYPE_CHECKING:
    from zfcore.train import Run

#: The epochs of Fig. 4.
EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)


class Evolution:
    """Writes a snapshot after each of ``epochs``; given to :func:`zfcore.train.train` as ``on_epoch``.

    Parameters
    ----------
    folder
        Where the snapshots go, ``epoch-001.npz`` and on.
    pictures
        The training pictures, in memory or packed; their centre crops are looked at.
    layers
        Paths of modules by the names they shall have, such as ``{"layer 1": "features.1"}``.
    size, scale
        Side of the network's input in pixels, and what pixels minus mean are divided by.
    maps, fixed, seed
        How many maps of each layer are followed, and to how many pictures their answers are kept;
        both are drawn with ``seed``, and a network with fewer maps shows all.
    device, workers, batch_size
        Where and how the pictures are looked at.
    progress
        Whether a bar is shown.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        pictures: Pictures,
        layers: Mapping[str, str],
        *,
        size: int = 56,
        scale: float = 64.0,
        epochs: tuple[int, ...] = EPOCHS,
        maps: int = 16,
        fixed: int = 256,
        seed: int = 0,
        device: str | torch.device = "cpu",
        workers: int = 0,
        batch_size: int = 256,
        progress: bool = True,
    ):
        self.folder, self.pictures, self.layers = Path(folder), pictures, dict(layers)
        self.size, self.scale, self.epochs = size, scale, tuple(sorted(epochs))
        self.maps, self.seed, self.progress = maps, seed, progress
        self.device, self.workers, self.batch_size = torch.device(device), workers, batch_size
        draw = torch.Generator().manual_seed(seed)
        self.fixed = torch.randperm(len(pictures), generator=draw)[:fixed].sort().values

    def __call__(self, run: Run) -> None:
        """Write the snapshot of this epoch, if it is one of those asked for."""
        epoch = len(run.history)
        if epoch in self.epochs:
            _save(self._file(epoch), self.snapshot(run))

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.npz"

    def channels(self, maps: int, layer: int) -> Tensor:
        """The maps that are followed among so many of the layer of that number, sorted, int64."""
        draw = torch.Generator().manual_seed(self.seed + 1 + layer)
        return torch.randperm(maps, generator=draw)[: self.maps].sort().values

    @torch.no_grad()
    def snapshot(self, run: Run) -> dict[str, np.ndarray]:
        """What the maps of L layers, M of each, see now; R is the side of a layer's receptive field.

        Returns
        -------
        dict
            For each layer l, by its name: ``<l> channels`` (M,), ``<l> images`` (M,) positions in the
            training pictures, -1 for a map that answers to none, ``<l> values`` (M,) float32, ``<l>
            corners`` (M, 2) y, x of the field's first pixel in the centre crop, ``<l> projections``
            (M, 3, R, R) int8 of ``<l> scales`` (M,) float32 each: the projection, in units of the
            input, is the product; ``<l> answers`` (M, F) float16 to the F pictures ``fixed``.
        """
        net = Deconvnet(run.model.to(self.device))
        mean = centre_crop(run.mean.to(self.device), self.size)
        best: dict[str, tuple[Tensor, Tensor]] = {}
        followed: dict[str, Tensor] = {}
        order = torch.arange(len(self.pictures)).split(self.batch_size)
        for chosen, x in zip(order, self._inputs(order, mean), strict=True):
            maps = net.activations(x, self.layers.values())
            for number, (name, path) in enumerate(self.layers.items()):
                if name not in followed:
                    followed[name] = self.channels(maps[path].shape[1], number).to(self.device)
                value, place = maps[path][:, followed[name]].amax((2, 3)).max(0)  # of equals, the first
                image = chosen.to(self.device)[place]
                if name in best:
                    value, image = (
                        torch.where(value > best[name][0], new, old)
                        for new, old in zip((value, image), best[name], strict=True)
                    )
                best[name] = value, image
        arrays = {}
        for name, path in self.layers.items():
            found = self._winners(net, mean, path, followed[name], *best[name])
            arrays |= {f"{name} {what}": array for what, array in found.items()}
        order = self.fixed.split(self.batch_size)
        answers = [net.activations(x, self.layers.values()) for x in self._inputs(order, mean)]
        for name, path in self.layers.items():
            kept = torch.cat([maps[path][:, followed[name]].amax((2, 3)) for maps in answers])  # (F, M)
            arrays[f"{name} answers"] = kept.T.cpu().numpy().astype(np.float16)
        return arrays

    def _inputs(self, order, mean: Tensor):
        """The centre crops of a few pictures at a time as the network takes them, (B, 3, S, S)."""
        every = batches(self.pictures, order, self.device, self.workers)
        for pixels in tqdm(every, "snapshot", len(order), leave=False, disable=not self.progress):
            x = (centre_crop(pixels, self.size).float() - mean) / self.scale
            yield x.contiguous(memory_format=torch.channels_last)

    def _winners(
        self, net: Deconvnet, mean: Tensor, path: str, channels: Tensor, values: Tensor, images: Tensor
    ) -> dict[str, np.ndarray]:
        """The strongest unit of each map: where it is, and what it is made of in the picture."""
        x = torch.cat(list(self._inputs([images.cpu()], mean)))  # (M, 3, S, S)
        maps = net.activations(x, [path])[path][torch.arange(len(x)), channels]  # (M, h, w)
        places = [divmod(unit, maps.shape[2]) for unit in maps.flatten(1).max(1).indices.tolist()]
        projections = net.project(x, path, channels, places)
        geometry = net.geometry[path]
        side = min(self.size, geometry.receptive_field)
        boxes = [geometry.box(*place)[:2] if side < self.size else (0, 0) for place in places]
        cropped = torch.stack([_cut(p, *box, side) for p, box in zip(projections, boxes, strict=True)])
        dead = values <= 0
        cropped[dead] = 0
        scales = cropped.abs().amax((1, 2, 3)) / 127
        levels = (cropped / scales.clamp_min(1e-30)[:, None, None, None]).round()
        arrays = {
            "channels": channels.short(),
            "images": images.masked_fill(dead, -1).int(),
            "values": values.masked_fill(dead, 0).float(),
            "corners": torch.tensor(boxes).short(),
            "projections": levels.to(torch.int8),
            "scales": scales.float(),
        }
        return {what: tensor.cpu().numpy() for what, tensor in arrays.items()}

    def collect(self, path: str | os.PathLike) -> dict[str, np.ndarray]:
        """Join the snapshots in one compressed file; every array gets a first axis of epochs.

        Beside the arrays of :meth:`snapshot` it holds ``epochs`` (E,), ``layers`` and ``fixed`` (F,).

        Raises ``FileNotFoundError`` that names the epochs whose snapshot is missing.
        """
        missing = [epoch for epoch in self.epochs if not self._file(epoch).exists()]
        if missing:
            raise FileNotFoundError(f"{self.folder} lacks the snapshots of epochs {missing}; train on")
        every = [np.load(io.BytesIO(self._file(epoch).read_bytes())) for epoch in self.epochs]
        arrays = {name: np.stack([snapshot[name] for snapshot in every]) for name in every[0].files}
        arrays |= {
            "epochs": np.array(self.epochs),
            "layers": np.array(list(self.layers)),
            "fixed": self.fixed.numpy(),
        }
        _save(Path(path), arrays)
        return arrays


def convergence(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How near each map's answers are to its final ones: Pearson's r, for every layer (E, M) in [-1, 1].

    ``arrays`` is what :meth:`Evolution.collect` gives, or its file. The answers are to the F fixed
    pictures; where a map answers all alike, then or in the end, there is no r, and the entry is NaN.
    """
    found = {}
    for name in arrays["layers"].tolist():
        answers = arrays[f"{name} answers"].astype(np.float64)  # (E, M, F)
        centred = answers - answers.mean(2, keepdims=True)
        length = np.sqrt((centred**2).sum(2))  # (E, M)
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is promised
            found[name] = (centred * centred[-1]).sum(2) / (length * length[-1])
    return found


def jumps(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What happens from one snapshot to the next: for every layer (changed, likeness), both (E-1, M).

    ``changed`` bool: another picture has become the strongest. ``likeness`` in [-1, 1] is the cosine of
    the two projections, value by value; NaN where a map answers to nothing in one of the two. A jump of
    Fig. 4 is a low likeness.
    """
    found = {}
    for name in arrays["layers"].tolist():
        images, flat = arrays[f"{name} images"], arrays[f"{name} projections"].astype(np.float64)
        flat = flat.reshape(*flat.shape[:2], -1)  # (E, M, 3RR); scales do not turn a cosine
        length = np.sqrt((flat**2).sum(2))
        with np.errstate(invalid="ignore"):
            likeness = (flat[1:] * flat[:-1]).sum(2) / (length[1:] * length[:-1])
        found[name] = images[1:] != images[:-1], likeness
    return found


def _cut(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    """The square of (C, H, W) at that corner; what lies outside the picture is 0."""
    padded = F.pad(picture, (side, side, side, side))
    return padded[:, top + side : top + 2 * side, left + side : left + 2 * side]


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomically(path, file.getvalue())
