r"""The strongest activations of every feature map, in one pass over the pictures (§4, Fig. 2).

Fig. 2 shows for a feature map the nine pictures of a large set in which it answers most. Here all maps of
all layers are followed at once while the pictures stream by: of each batch only a map's maximum per picture
is compared with the ``k`` best so far, and where in the picture it lies is looked up for those alone that
enter. What is kept is ``maps × k`` numbers, however many pictures there are.

A picture counts once for a map, with its strongest unit. The order is that of a plain loop over pictures
and cells which replaces only by something larger: by value, of equals the picture that came first,
and in it the first cell in row-major order. An activation of 0 or less is no answer.

Source: Zeiler & Fergus, §4 and Fig. 2, doi:10.1007/978-3-319-10590-1_53.

Example::

    import torch
    from zfcore.model import build
    from zfcore.topk import top_activations
    network, loader = build("zfnet"), torch.randn(6, 3, 224, 224).split(2)
    top = top_activations(network, loader, ["features.1", "features.13"])
    top["features.13"].values       # (256, 9), the largest first
    top["features.13"].images       # (256, 9), pictures in the loader's order, -1 where none is left
    top["features.13"].positions    # (256, 9, 2): y, x in the map
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.trace import listed, trace


@dataclass(frozen=True)
class TopActivations:
    """The ``k`` strongest activations of each of C maps, at most one per picture, the strongest first.

    ``values`` (C, k), of the activations' dtype; ``images`` (C, k) int64, a picture's number; ``positions``
    (C, k, 2) int64, y and x of the unit in its map, 0 for fully connected layers. Of equal values the lower
    image comes first. Where fewer than ``k`` pictures excite a map, the rest is value 0, image -1,
    position (-1, -1).
    """

    values: Tensor
    images: Tensor
    positions: Tensor

    @classmethod
    def empty(cls, maps: int, k: int, like: Tensor) -> TopActivations:
        """No hit yet; dtype and device as ``like``."""
        number = {"dtype": torch.int64, "device": like.device}
        return cls(
            like.new_zeros(maps, k),
            torch.full((maps, k), -1, **number),
            torch.full((maps, k, 2), -1, **number),
        )

    def ranked(self, order: Tensor) -> TopActivations:
        """The hits in the ``order`` (C, m), numbers of columns."""
        return TopActivations(
            self.values.gather(1, order),
            self.images.gather(1, order),
            self.positions.gather(1, order[..., None].expand(-1, -1, 2)),
        )

    def to(self, device: str | torch.device) -> TopActivations:
        """The same on ``device``."""
        return TopActivations(self.values.to(device), self.images.to(device), self.positions.to(device))

    def apart(self, overlapping: Tensor, k: int = 9) -> TopActivations:
        """The ``k`` strongest of these hits no two of which come from overlapping pictures.

        A hit is left out where a stronger one that stays overlaps it: crops of one photograph then show
        ``k`` places instead of one place ``k`` times.

        Parameters
        ----------
        overlapping
            (N, N) bool: whether pictures i and j overlap; a picture overlaps itself.
        k
            How many hits of a map stay; where there are fewer, the rest is as in :class:`TopActivations`.
        """
        overlapping = overlapping.cpu().numpy()
        columns = torch.full((len(self.images), k), -1)
        for row, images in enumerate(self.images.tolist()):
            kept: list[int] = []
            for column, image in enumerate(images):
                if image < 0 or len(kept) == k:
                    break
                if not overlapping[image, [images[other] for other in kept]].any():
                    kept.append(column)
            columns[row, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        columns = columns.to(self.images.device)
        none = columns < 0
        chosen = self.ranked(columns.clamp_min(0))
        return TopActivations(
            chosen.values.masked_fill(none, 0),
            chosen.images.masked_fill(none, -1),
            chosen.positions.masked_fill(none[..., None], -1),
        )


@torch.no_grad()
def top_activations(
    model: nn.Module,
    loader: Iterable[Tensor | Sequence],
    layers: Iterable[str],
    k: int = 9,
    *,
    progress: bool = False,
) -> dict[str, TopActivations]:
    """Find the ``k`` pictures that excite each feature map most, for every map of the layers, in one pass.

    Parameters
    ----------
    model
        Any network that :func:`zfcore.trace.trace` follows; asked as in evaluation mode, not changed.
    loader
        Yields pictures (B, C, H, W), of the network's dtype and as it takes them, or a tuple whose first
        item they are; they are brought to the network's device.
    layers
        Names out of ``trace(model).layers``: maps (N, C, H, W) or units (N, C).
    k
        How many; a picture counts once for a map.
    progress
        Whether a bar shows the batches done.

    Returns
    -------
    dict
        ``{layer: TopActivations}``, on the CPU. Pictures are numbered from 0 in the loader's order.

    Raises
    ------
    ValueError
        Unknown layer (the message lists them), one that is neither maps nor units, pictures that do not
        fit, activations that are not numbers (NaN), ``k`` below 1, or a loader that yields nothing.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 activation can be asked for")
    followed, layers = trace(model), listed(layers)
    device = next((parameter.device for parameter in model.parameters()), None)
    top: dict[str, TopActivations] = {}
    seen = 0
    for batch in tqdm(loader, "strongest activations", disable=not progress, leave=False):
        images = (batch if isinstance(batch, Tensor) else batch[0]).to(device, non_blocking=True)
        for layer, maps in followed.stream(images, layers):
            if maps.ndim not in (2, 4):
                raise ValueError(
                    f"layer {layer!r} is {tuple(maps.shape)}, neither maps (N, C, H, W) nor units (N, C)"
                )
            best = top.get(layer) or TopActivations.empty(maps.shape[1], k, like=maps)
            top[layer] = _with_batch(best, maps, seen, layer)
            del maps  # before the next layer is computed
        seen += len(images)
    if not seen:
        raise ValueError("the loader yields no pictures; a generator that has run out yields none again")
    return {layer: top[layer].to("cpu") for layer in layers}


def merge(
    parts: Sequence[Mapping[str, TopActivations]], images: Sequence[Sequence[int] | Tensor] | None = None
) -> dict[str, TopActivations]:
    """Join what :func:`top_activations` found in parts of a set, on several machines or one after another.

    Parameters
    ----------
    parts
        Results for the same layers with the same ``k``; no picture is in two of them.
    images
        For each part the numbers that its pictures 0, 1, … have in the whole set: for shard r of n that
        is ``range(r, N, n)``. None: they are the whole set's already.

    Returns
    -------
    dict
        The same as one pass over the whole set gives.

    Raises
    ------
    ValueError
        No parts, parts of different layers or of another k, or not as many ``images`` as parts.
    """
    if not parts or any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError(f"parts of one set have the same layers; got {[list(part) for part in parts]}")
    if len(ks := {top.values.shape[1] for part in parts for top in part.values()}) > 1:
        raise ValueError(f"parts of one set have the same k; got {', '.join(map(str, sorted(ks)))}")
    if images is not None and len(images) != len(parts):
        raise ValueError(f"{len(parts)} parts need the numbers of their pictures, got {len(images)}")
    merged = {}
    for layer in parts[0]:
        tops = [part[layer] for part in parts]
        k = tops[0].values.shape[1]
        numbers = [top.images for top in tops]
        if images is not None:
            whole = [own if isinstance(own, Tensor) else torch.tensor([*own]).long() for own in images]
            numbers = [
                torch.where(local < 0, local, own[local.clamp_min(0)]) if len(own) else local
                for local, own in zip(numbers, whole, strict=True)
            ]
        together = TopActivations(
            torch.cat([top.values for top in tops], 1),
            torch.cat(numbers, 1),
            torch.cat([top.positions for top in tops], 1),
        )
        # Two stable sorts, the lesser key first; missing hits have the least value, 0.
        together = together.ranked(together.images.argsort(dim=1, stable=True))
        merged[layer] = together.ranked(_descending(together.values)[:, :k])
    return merged


def _with_batch(best: TopActivations, maps: Tensor, seen: int, layer: str) -> TopActivations:
    """The best so far and one more batch, (B, C, H, W) or (B, C), whose first picture is number ``seen``."""
    peaks, cells = _peaks(maps) if maps.ndim == 4 else (maps, None)  # (B, C)
    if peaks.isnan().any():
        raise ValueError(f"layer {layer!r} has activations that are not numbers; check weights and pictures")
    k = best.values.shape[1]
    # What came first stands first, so that it stays before its equals; so do empty places before zeros.
    values = torch.cat([best.values, peaks.t()], 1)  # (C, k + B)
    order = _descending(values)[:, :k]
    entered = order >= k  # (C, k)
    channels = entered.nonzero()[:, 0]
    pictures = order[entered] - k
    kept = best.ranked(order.clamp_max(k - 1))
    kept.values[entered] = peaks[pictures, channels]
    kept.images[entered] = seen + pictures
    if maps.ndim == 4:
        if cells is None:
            entering = maps[pictures, channels].flatten(1).argmax(1)  # of equals the first
        else:
            entering = cells[pictures, channels]
        kept.positions[entered] = torch.stack((entering // maps.shape[3], entering % maps.shape[3]), 1)
    else:
        kept.positions[entered] = 0
    return kept


def _peaks(maps: Tensor) -> tuple[Tensor, Tensor | None]:
    """The maximum of each map, (B, C, H, W) → (B, C), and its cell where that costs nothing more.

    Where channels are last on a CPU, pooling over the whole map is several times as fast as ``amax``, and
    it counts the cells anyway; of equals it gives the first.
    """
    if maps.device.type == "cpu" and not maps.is_contiguous():
        peaks, cells = F.max_pool2d(maps, maps.shape[2:], return_indices=True)
        return peaks.flatten(1), cells.flatten(1)
    return maps.amax((2, 3)), None


def _descending(values: Tensor) -> Tensor:
    """The order that sorts each row, the largest first, equals as they stood."""
    return values.sort(dim=1, descending=True, stable=True).indices
