r"""Occlusion sensitivity (§4.2, Fig. 6): a square slides over the picture, and the network is asked again.

For every position of the square three answers are kept: the probability of one class, the most probable
class, and the sum of one feature map. They are maps over the positions of the square, as in the paper,
not averages per pixel.

The pictures of a scan differ from the unoccluded one only where the square reaches. Along one axis, what a
unit can see of the square is told by the part of its receptive field that is covered; call (unit, covered
part) its *state*. A unit's value then depends on its row state and its column state alone, so that one
table, changed row states × changed column states, holds a layer for all positions together: small in the
first layers, where positions share their states, and never larger than what the square reaches. Between
the tables (``_Tables``) every operation on maps is exact, one of three kinds:

- a cell-wise operation works on the entries of the table;
- a window operation has the windows of its changed states laid side by side, and runs once, its stride
  as large as its window;
- a convolution of stride 1 is linear, so that the difference from the unoccluded picture goes through
  it alone; in tiles, as a product of polynomials (``_TileConv``), which takes a quarter to a half
  of the multiplications.

After the last operation on maps, each position's maps are put together and go on as a batch. This
``"incremental"`` method takes networks whose maps come one from another in sequence (ZFNet, AlexNet, VGG);
any other network gets the ``"plain"`` one, batch after batch of whole pictures.

Sources: Zeiler & Fergus, §4.2 and Fig. 6, doi:10.1007/978-3-319-10590-1_53; recomputing only what the square
reaches: Nakandala, Kumar & Papakonstantinou (2019), doi:10.1145/3299869.3319874; convolution by
polynomials at a few points: Lavin & Gray (2016), doi:10.1109/CVPR.2016.435.

Example::

    import torch
    from zfcore.model import build
    from zfcore.occlusion import occlusion_maps
    maps = occlusion_maps(build("zfnet"), torch.randn(3, 224, 224), 7, size=50, stride=8, layer="features.13")
    maps.probability                # (22, 22): of class 7 with the square's corner at (8·row, 8·column)
    maps.label, maps.activation     # (22, 22) each: the most probable class; the sum of map maps.channel
    maps.method                     # "incremental"
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from tqdm import tqdm

from zfcore.trace import (
    Geometry,
    Pair,
    Trace,
    full_precision,
    function_name,
    is_cellwise,
    pair,
    sharing,
    sliding_window,
    trace,
)

FILLS = ("mean", "blur", "noise")


# ------------------------------------------------------------------------------ question and answer
class Answers(NamedTuple):
    """Of a network, for some pictures: tensors of one shape.

    ``probability`` of the target in [0, 1], ``label`` the most probable class (int64; of equals, the
    first), ``activation`` the sum of one feature map, or None without a layer.
    """

    probability: Tensor
    label: Tensor
    activation: Tensor | None


@dataclass(frozen=True)
class OcclusionMaps:
    """What :func:`occlusion_maps` returns: :class:`Answers` for every position of the square.

    ``probability``, ``label`` and ``activation`` have shape (rows, columns); entry (r, c) belongs to the
    square whose corner is at pixel (r · stride, c · stride). ``method`` is ``"incremental"`` or ``"plain"``,
    ``channel`` the feature map that was summed (None without a layer), ``unoccluded`` the answers to the
    whole picture, 0-d.
    """

    probability: Tensor
    label: Tensor
    activation: Tensor | None
    method: str
    channel: int | None
    unoccluded: Answers


@torch.no_grad()
def occlusion_maps(
    model: nn.Module,
    image: Tensor,
    target: int,
    size: int | Pair,
    stride: int,
    layer: str | None = None,
    fill: float | str | Tensor = 0.0,
    channel: int | None = None,
    *,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
) -> OcclusionMaps:
    """Hide a square of the picture at every position in turn, and ask the network again.

    Parameters
    ----------
    model
        From pictures (N, C, H, W) to logits (N, classes); any network that
        :func:`zfcore.trace.trace` follows. It is not changed, and asked as in evaluation mode.
    image
        (C, H, W), of the network's dtype and on its device, as the network takes it.
    target
        The class whose probability is wanted, an index of the logits.
    size
        Of the square in pixels; (height, width) for a rectangle.
    stride
        Pixels from one position to the next, down and across. The square is always whole: it stays
        inside the picture, and a rest smaller than the stride is not visited.
    layer
        Whose feature map is summed, a name out of ``trace(model).layers``; None for no activation.
    fill
        What stands in the square: a value in units of the input (0 is the paper's grey where the mean has
        been subtracted), ``"mean"`` (the picture's, per channel), ``"blur"`` (the picture through a
        Gaussian of half the square's mean side), ``"noise"`` (Gaussian, with the picture's mean and
        deviation per channel), or a picture (C, H, W) that shows through the square.
    channel
        The feature map to sum. Default: the one with the largest sum on the unoccluded picture, the
        paper's "strongest response" (of equals, the first).
    seed
        Of the noise; the same seed gives the same noise on any device.
    memory
        Bytes for what the positions need beside the network and the unoccluded picture's own maps; at
        least one position is always computed at a time. Default: 128 MB on a CPU, which is
        also fastest there, else 2 GB.
    progress
        Whether a bar shows the positions done and an estimate of the time left.

    Returns
    -------
    OcclusionMaps
        On the picture's device, without gradient; ``probability`` in single precision at least.

    Raises
    ------
    ValueError
        A square larger than the picture, sizes that are not positive, an unknown layer (the message
        lists them), class, channel or fill, or a picture the network does not take.
    """
    if not isinstance(image, Tensor) or image.ndim != 3:
        given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image is {given}; give one picture as a tensor (C, H, W)")
    network = trace(model)
    network.check_images(image[None])
    size = _checked_size(size, stride, image)
    memory = (2**27 if image.device.type == "cpu" else 2**31) if memory is None else memory
    if memory <= 0:
        raise ValueError(f"memory is {memory}; give a positive number of bytes, or None for the default")
    filled = fill_picture(image, fill, size, seed)
    with full_precision(image.device):
        ask = _Question(network, layer)
        values = ask.complete({network.input: image[None]})
        ask.settle(values, target, channel)
        corners = tuple(
            torch.arange(0, n - s + 1, stride) for n, s in zip(image.shape[1:], size, strict=True)
        )
        # Tiles would cost half precision its digits.
        chain = _chain(ask) if image.dtype in (torch.float32, torch.float64) else []
        if chain:
            method, run = "incremental", _Tables(ask, chain, values, filled, size, corners, memory).run()
        else:
            method, run = "plain", _plain(ask, image, filled, size, corners, _batch(ask, values, memory))
        answers = []
        with tqdm(total=math.prod(map(len, corners)), unit="position", disable=not progress) as bar:
            for logits, activation in run:
                answers.append(ask.answers(logits, activation))
                bar.update(len(logits))
        shape = [len(c) for c in corners]
        maps = [
            None if part[0] is None else torch.cat(part).view(shape) for part in zip(*answers, strict=True)
        ]
        whole = ask.answers(values[ask.output], ask.activation(values))
        unoccluded = Answers(*(None if part is None else part[0] for part in whole))
        return OcclusionMaps(*maps, method, ask.channel, unoccluded)


class _Question:
    """What is asked of every picture: the logits, and the sum of one map of one layer."""

    def __init__(self, network: Trace, layer: str | None):
        self.network, self.layer = network, None if layer is None else network.node(layer)
        self.output = network.node(network.result)
        network.insist_on_logits()
        self.wanted = [self.output] + ([] if self.layer is None else [self.layer])
        self.target, self.channel = 0, None

    def settle(self, values: dict[fx.Node, Tensor], target: int, channel: int | None) -> None:
        """Fix class and channel, once the unoccluded picture tells which there are."""
        logits = values[self.output]
        if logits.ndim != 2:
            raise ValueError(
                f"the network returns {tuple(logits.shape)}; occlusion needs logits (N, classes)"
            )
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"the network has classes 0 to {logits.shape[1] - 1}; got target {target}")
        self.target = target
        if self.layer is None:
            if channel is not None:
                raise ValueError(f"channel {channel} of which layer? Give layer as well")
            return
        maps = values[self.layer][0]
        if channel is None:
            channel = int(_sums(maps).argmax())
        if not 0 <= channel < len(maps):
            name = self.network.names[self.layer]
            raise ValueError(f"layer {name!r} has channels 0 to {len(maps) - 1}; got {channel}")
        self.channel = channel

    def complete(self, values: dict[fx.Node, Tensor]) -> dict[fx.Node, Tensor]:
        """From the values of some nodes, those of all that are wanted."""
        done = self.network.needed(values)
        for step in self.network.needed(self.wanted):
            if step not in done:
                values[step] = self.network.compute(step, values)
        return values

    def activation(self, values: dict[fx.Node, Tensor]) -> Tensor | None:
        """(N,): the sum of the chosen map, from the layer's value (N, C, …)."""
        if self.layer is None:
            return None
        maps = values[self.layer][:, self.channel]
        return _sums(maps)

    def answers(self, logits: Tensor, activation: Tensor | None) -> Answers:
        wide = torch.promote_types(logits.dtype, torch.float32)
        return Answers(logits.softmax(1, wide)[:, self.target], logits.argmax(1), activation)


def _checked_size(size: int | Pair, stride: int, image: Tensor) -> Pair:
    height, width = size = (size, size) if isinstance(size, Real) else tuple(size)
    if not all(isinstance(n, Integral) and n > 0 for n in (*size, stride)):
        raise ValueError(f"size is {size} and stride {stride}; give positive whole numbers of pixels")
    if height > image.shape[1] or width > image.shape[2]:
        raise ValueError(
            f"a square of {height}×{width} px is larger than the picture, {image.shape[1]}×{image.shape[2]}; "
            "give a smaller size"
        )
    return size


def fill_picture(image: Tensor, fill: float | str | Tensor, size: Pair, seed: int = 0) -> Tensor:
    """(C, H, W): what shows through a square of (height, width) = ``size``, wherever it is.

    ``image``, ``fill`` and ``seed`` as in :func:`occlusion_maps`, which tells of the fills.
    """
    if isinstance(fill, Tensor):
        if fill.shape != image.shape:
            raise ValueError(
                f"fill is {tuple(fill.shape)}, the picture {tuple(image.shape)}; give a picture of its size"
            )
        return fill.to(image)
    mean = image.mean((1, 2), keepdim=True)
    match fill:
        case "mean":
            return mean.expand_as(image)
        case "noise":  # drawn on the CPU, so that it is the same everywhere
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
            return mean + image.std((1, 2), keepdim=True) * noise
        case "blur":
            sigma = sum(size) / 4
            rows, columns = (_gaussian(n, sigma).to(image) for n in image.shape[1:])
            return rows @ image @ columns.t()
        case str():
            raise ValueError(f"unknown fill {fill!r}; known: {', '.join(FILLS)}, a number, or a picture")
    if not isinstance(fill, Real) or not math.isfinite(fill):
        raise ValueError(
            f"a square is filled with {', '.join(FILLS)}, a tensor, or a finite number; got {fill!r}"
        )
    return torch.full_like(image, fill)


def _gaussian(n: int, sigma: float) -> Tensor:
    """(n, n): each row averages a line of n pixels around one of them, weights cut off at the ends."""
    cells = torch.arange(n, dtype=torch.float64)
    return ((cells - cells[:, None]) ** 2 / (-2 * sigma**2)).softmax(1)


# ------------------------------------------------------------------------------ whole pictures
def _plain(
    ask: _Question, image: Tensor, filled: Tensor, size: Pair, corners: tuple[Tensor, Tensor], batch: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Logits and activations of the positions in row-major order, from whole pictures in batches."""
    names = [ask.network.names[node] for node in ask.wanted]
    for run in torch.cartesian_prod(*corners).split(batch):
        pictures = image.repeat(len(run), 1, 1, 1)
        for picture, (top, left) in zip(pictures, run.tolist(), strict=True):
            square = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
            picture[square] = filled[square]
        values = ask.network.activations(pictures, names)
        values = {node: values[name] for node, name in zip(ask.wanted, names, strict=True)}
        yield values[ask.output], ask.activation(values)


def _sums(maps: Tensor) -> Tensor:
    """(N, H, W) → (N,), added up in no less than single precision, for half would overflow."""
    return maps.reshape(len(maps), -1).sum(1, dtype=torch.promote_types(maps.dtype, torch.float32))


def _batch(ask: _Question, values: dict[fx.Node, Tensor], memory: int) -> int:
    """How many pictures go through the network together."""
    if _mixes(ask.network):
        return 1
    kept = sum(values[node].nbytes for node in (ask.network.input, *ask.wanted))
    return max(1, memory // (kept + _most_bytes(ask.network, values, ask.network.needed(ask.wanted))))


def _mixes(network: Trace) -> bool:
    """Whether a batch norm takes its statistics from the batch, so that its pictures are not independent."""
    norms = (o for o in network.operations.values() if isinstance(o, nn.BatchNorm1d | nn.BatchNorm2d))
    return any(norm.running_mean is None for norm in norms)


def _most_bytes(network: Trace, values: dict[fx.Node, Tensor], steps: list[fx.Node]) -> int:
    """Per picture, what the most demanding of some steps reads and writes."""
    return max(
        sum(
            values[node].nbytes for node in (step, *network.sources(step)) if isinstance(values[node], Tensor)
        )
        for step in steps
    )


# ------------------------------------------------------------------------------ states and tiles
class _States:
    """What the units of a layer can be, along one axis, over a run of positions of the square.

    A changed state, 0 to ``count`` - 1, is a unit with the part of its receptive field that the square
    covers. Then come the n units unchanged, and last the border outside the map, as unit n. ``units``
    has the unit of every state, ``at`` (P, n + 1) the state of every unit at every position,
    ``position`` a position at which a changed state occurs.
    """

    def __init__(self, field: int, stride: int, offset: int, n: int, corners: Tensor, side: int):
        unit = torch.arange(n)
        begin, end = (  # (P, n)
            (edge[:, None] - offset - stride * unit).clamp(0, field) for edge in (corners, corners + side)
        )
        covered = end > begin
        key = (unit * (field + 1) + begin) * (field + 1) + end
        keys, states = torch.unique(key[covered], return_inverse=True)
        self.n, self.count = n, len(keys)
        self.units = torch.cat((keys // (field + 1) ** 2, torch.arange(n + 1)))
        self.at = (self.count + torch.arange(n + 1)).repeat(len(corners), 1)
        self.at[:, :n][covered] = states
        self.position = torch.empty_like(keys)
        self.position[states] = covered.nonzero()[:, 0]

    @property
    def changed(self) -> Tensor:
        """The unit of every changed state."""
        return self.units[: self.count]

    def windows(self, after: _States, k: int, stride: int, padding: int, dilation: int) -> Tensor:
        """The states under the windows of the changed states of the layer after, k for each."""
        cells = after.changed[:, None] * stride - padding + dilation * torch.arange(k)
        cells = cells.where((cells >= 0) & (cells < self.n), self.n)
        return self.at[after.position[:, None], cells].flatten()


class _Tiles:
    """Runs of m neighbouring units that hold the changed ones of every position, along one axis.

    Position p has ``count[p]`` tiles from unit ``start[p]`` on; ``first[p]`` is the number of the first.
    """

    def __init__(self, states: _States, m: int):
        changed, unit = states.at < states.count, torch.arange(states.n + 1)
        self.states, self.m = states, m
        self.start = unit.where(changed, states.n).amin(1)
        length = (unit + 1).where(changed, 0).amax(1) - self.start
        self.count = (length.clamp(min=0) + m - 1) // m
        self.first = self.count.cumsum(0) - self.count
        self.total = int(self.count.sum())

    def inputs(self) -> Tensor:
        """(m, tiles): the changed state in every cell; ``states.count`` in the others."""
        position = torch.arange(len(self.count)).repeat_interleave(self.count)
        unit = self.start[position] + (torch.arange(self.total) - self.first[position]) * self.m
        unit = (unit + torch.arange(self.m)[:, None]).clamp(max=self.states.n)
        return self.states.at[position, unit].clamp(max=self.states.count)

    def outputs(self, after: _States, k: int, padding: int) -> tuple[Tensor, Tensor]:
        """The coefficients of which products make a changed state of the layer after, and the tiles.

        The product with a filter of k taps has m + k - 1 coefficients, so that neighbours overlap: both
        are (changed after, overlap), the coefficient far too large where there is no product.
        """
        cell = after.changed - self.start[after.position] + k - 1 - padding
        tile = cell[:, None] // self.m - torch.arange((self.m + k - 2) // self.m + 1)
        coefficient = cell[:, None] - tile * self.m
        known = (tile >= 0) & (tile < self.count[after.position, None]) & (coefficient < self.m + k - 1)
        return coefficient.where(known, 2**20), tile + self.first[after.position, None]


class _TileConv:
    """A convolution of stride 1 for the differences, m × m cells at a time (Toom & Cook; Winograd).

    Along an axis, m cells and k taps are the coefficients of two polynomials, and what the cells add to
    the map is the product, of m + k - 1 coefficients. As many points fix it: evaluate both there,
    multiply, interpolate. Almost all the work is then m + k - 1 multiplications instead of m · k.
    """

    POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and infinity; with more of them single precision suffers

    def __init__(self, conv: nn.Conv2d, m: Pair):
        self.m, self.k, self.padding = m, conv.kernel_size, [w[2] for w in sliding_window(conv)]
        self.points = [a + k - 1 for a, k in zip(m, self.k, strict=True)]
        # (k, k, groups, C_in / groups, C_out / groups); flipped, for a convolution is a correlation
        taps = conv.weight.unflatten(0, (conv.groups, -1)).flip(3, 4).permute(3, 4, 0, 2, 1)
        values = self._at_points(self.k).to(taps) @ taps.flatten(0, 1).flatten(1)
        self.taps = values.unflatten(1, taps.shape[2:])
        self.evaluate = self._at_points(m).to(taps)
        self.interpolate = torch.linalg.inv(self._at_points(self.points)).to(taps)

    def _at_points(self, sizes: Sequence[int]) -> Tensor:
        """From h × w coefficients to the values at all pairs of points, the last of each axis infinity."""
        axes = []
        for points, n in zip(self.points, sizes, strict=True):
            finite = torch.tensor(self.POINTS[: points - 1], dtype=torch.float64)[:, None] ** torch.arange(n)
            axes.append(torch.cat((finite, torch.eye(n, dtype=torch.float64)[-1:])))
        return torch.kron(*axes)

    def __call__(self, delta: Tensor, tiles: tuple[_Tiles, _Tiles], after: tuple[_States, _States]) -> Tensor:
        """From the changed states' differences, with a border of zeros, to those of the layer after."""
        (rows, columns), (down, across) = (t.inputs() for t in tiles), (t.total for t in tiles)
        points, groups, channels, filters = self.taps.shape
        cells = rows[:, None, :, None] * delta.shape[1] + columns[:, None, :]  # (m, m, down, across)
        x = delta.flatten(0, 1).index_select(0, cells.flatten().to(delta.device))
        x = self.evaluate @ x.view(self.evaluate.shape[1], down * across * delta.shape[2])
        x = x.view(points, down * across, groups, channels).transpose(1, 2) @ self.taps
        x = x.transpose(1, 2).reshape(points, down * across * groups * filters)
        products = x.new_zeros(points * down * across + 1, groups * filters)  # the last one stays zero
        torch.mm(self.interpolate, x, out=products[:-1].view(x.shape))
        (row, tile_down), (column, tile_across) = (
            t.outputs(s, k, p) for t, s, k, p in zip(tiles, after, self.k, self.padding, strict=True)
        )
        down_part = (row * self.points[1] * down + tile_down) * across
        terms = down_part[:, None, :, None] + (column * down * across + tile_across)[:, None, :]
        terms = terms.clamp(max=len(products) - 1).flatten(2).flatten(0, 1)  # (ny · nx, overlap²)
        return F.embedding_bag(terms.to(x.device), products, mode="sum").view(len(row), len(column), -1)


# ------------------------------------------------------------------------------ tables of states
def _chain(ask: _Question) -> list[fx.Node]:
    """The operations on maps with which a network begins, where tables can carry them; else none.

    Nothing that follows them may convolve, or join branches: that would be most of the work.
    """
    network, chain, node = ask.network, [], ask.network.input
    while len(readers := node.users.keys() - _questions(network, node)) == 1:
        (node,) = readers
        if len(node.all_input_nodes) != 1 or not _is_carried(network.operations[node]):
            break
        chain.append(node)
    rest = [step for step in network.needed(ask.wanted) if step not in chain and network.is_layer(step)]
    convolves = any(isinstance(network.operations[step], nn.modules.conv._ConvNd) for step in rest)
    convolves |= any((function_name(step) or "").startswith("conv") for step in rest)
    joins = any(len(network.sources(step)) > 1 for step in rest)
    begins = any(isinstance(network.operations[step], nn.Conv2d) for step in chain)
    return chain if begins and not convolves and not joins and not _mixes(network) else []


def _questions(network: Trace, node: fx.Node) -> list[fx.Node]:
    """What asks a tensor for its shape or type alone: ``x.shape``, ``x.size(0)``."""
    return [user for user in node.users if user.op != "output" and not network.is_layer(user)]


def _is_carried(operation: object) -> bool:
    match operation:
        case nn.Module() if operation._forward_hooks or operation._forward_pre_hooks:
            return False  # a hook may do anything, also look at the whole map
        case nn.Conv2d():
            return sliding_window(operation) is not None
        case nn.MaxPool2d():
            return not operation.return_indices
        case nn.AvgPool2d():  # every window over as many cells
            padded = pair(operation.padding) != (0, 0)
            return not operation.ceil_mode and (operation.count_include_pad or not padded)
    return is_cellwise(operation)


class _Tables:
    """The positions of a scan, block by block: layers as tables (changed rows, changed columns, C)."""

    def __init__(
        self,
        ask: _Question,
        chain: list[fx.Node],
        values: dict[fx.Node, Tensor],
        filled: Tensor,
        size: Pair,
        corners: tuple[Tensor, Tensor],
        memory: int,
    ):
        self.ask, self.chain, self.size, self.corners = ask, chain, size, corners
        self.operations, self.last = ask.network.operations, chain[-1]
        self.filled = filled.permute(1, 2, 0)  # (H, W, C), as every table
        self.before = dict(zip(chain, (ask.network.input, *chain), strict=False))
        self.maps = {}  # of the whole picture (H + 1, W + 1, C), with a border as the next operation sees it
        for node, following in zip((ask.network.input, *chain), (*chain, None), strict=True):
            outside = -torch.inf if isinstance(self.operations.get(following), nn.MaxPool2d) else 0.0
            bordered = F.pad(values[node][0], (0, 1, 0, 1), value=outside)
            self.maps[node] = bordered.permute(1, 2, 0).contiguous()
        self.asked = {node: values[node] for node in self.maps if _questions(ask.network, node)}
        tail = [step for step in ask.network.needed(ask.wanted) if step not in self.maps]
        self.bytes_behind = values[self.last].nbytes + _most_bytes(ask.network, values, tail)
        pieces, longest = 1, max(map(len, corners))
        while True:
            self.runs = tuple(self._states(axis, min(pieces, len(corners[axis]))) for axis in (0, 1))
            tiles = {node: self._tile(node) for node in chain if sliding_window(self.operations[node])}
            if pieces >= longest or self._bytes(tiles) <= memory:
                break
            pieces += max(1, pieces // 2)
        self.tile_convs = {n: _TileConv(self.operations[n], m) for n, m in tiles.items() if m}

    def _states(self, axis: int, pieces: int) -> list[dict[fx.Node, _States]]:
        """For each run of positions along an axis, the states of every layer."""
        network, runs = self.ask.network, []
        for corners in self.corners[axis].tensor_split(pieces):
            states: dict[fx.Node, _States] = {}
            for node, maps in self.maps.items():
                if node is not network.input and not sliding_window(self.operations[node]):
                    states[node] = states[self.before[node]]
                    continue
                seen = Geometry(1, 1, 0) if node is network.input else network.geometry[network.names[node]]
                sees = (pair(v)[axis] for v in (seen.receptive_field, seen.stride, seen.offset))
                states[node] = _States(*sees, maps.shape[axis] - 1, corners, self.size[axis])
            runs.append(states)
        return runs

    def _tile(self, node: fx.Node) -> Pair | None:
        """The tile for a convolution, or None where its windows side by side cost less."""
        conv = self.operations[node]
        if not isinstance(conv, nn.Conv2d) or pair(conv.stride) != (1, 1) or pair(conv.dilation) != (1, 1):
            return None
        tile, tiled, side_by_side = [], 1.0, 1.0
        for runs, k in zip(self.runs, conv.kernel_size, strict=True):
            cost = {
                m: (m + k - 1) * sum(_Tiles(run[self.before[node]], m).total for run in runs)
                for m in range(1, len(_TileConv.POINTS) + 3 - k)
            }
            if not cost:  # the filter alone takes more points than there are
                return None
            tile.append(min(cost, key=cost.get))
            tiled *= cost[tile[-1]]
            side_by_side *= k * sum(run[node].count for run in runs)
        return tuple(tile) if 1.5 * tiled < side_by_side else None  # its products run less fast

    def _bytes(self, tiles: dict[fx.Node, Pair | None]) -> int:
        """What the largest block needs at most at once, and its row of blocks behind the last table."""
        most = 0
        for node, tile in tiles.items():
            before, operation = self.before[node], self.operations[node]
            old = new = work = 1
            for axis, runs in enumerate(self.runs):
                old *= max(run[before].count for run in runs) + 1
                new *= max(run[node].count for run in runs)
                k = pair(operation.kernel_size)[axis]
                if tile:
                    work *= max(_Tiles(run[before], tile[axis]).total for run in runs) * (tile[axis] + k - 1)
                else:
                    work *= max(run[node].count for run in runs) * k
            channels, filters = self.maps[before].shape[2], self.maps[node].shape[2]
            numbers = 2 * old * channels + 3 * new * filters + self.maps[before].numel()
            numbers += work * (filters + max(channels, filters) if tile else channels)
            most = max(most, numbers * self.filled.element_size() + 16 * work)  # and the indices
        row = max(len(run[self.last].at) for run in self.runs[0]) * len(self.corners[1])
        return most + row * self.bytes_behind

    def run(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Logits and activations of the positions in row-major order, a row of blocks at a time."""
        for rows in self.runs[0]:
            maps, sums = zip(*(self._block(rows, columns) for columns in self.runs[1]), strict=True)
            last = torch.cat(maps, 1).flatten(0, 1)
            asked = {node: one.expand(len(last), *one.shape[1:]) for node, one in self.asked.items()}
            values = self.ask.complete({**asked, self.last: last})
            in_tables = self.ask.layer in self.chain
            activation = torch.cat(sums, 1).flatten() if in_tables else self.ask.activation(values)
            yield values[self.ask.output], activation

    def _block(self, rows: dict, columns: dict) -> tuple[Tensor, Tensor | None]:
        """Of rows × columns positions: the last layer's maps (P, Q, C, H, W), and the sums (P, Q)."""
        y, x = rows[self.ask.network.input], columns[self.ask.network.input]
        table, sums = _pick(self.filled, y.changed, x.changed), None
        for node in self.chain:
            table = self._step(node, table, rows, columns)
            if node is self.ask.layer:
                sums = self._difference(node, table, rows[node], columns[node])[..., self.ask.channel]
                for states in (rows[node], columns[node]):  # along y, then along x
                    at = states.at.clamp(max=states.count).to(sums.device)
                    sums = F.embedding_bag(at, sums, mode="sum").t().contiguous()
                sums += self.maps[node][:-1, :-1, self.ask.channel].sum()
        y, x = rows[self.last], columns[self.last]
        maps = self._look_up(self.last, table, y, x, y.at[:, None, :-1, None], x.at[:, None, :-1])
        return maps.permute(0, 1, 4, 2, 3), sums

    def _step(self, node: fx.Node, table: Tensor, rows: dict, columns: dict) -> Tensor:
        """From the table before an operation to the one after it."""
        operation, before, after = self.operations[node], self.before[node], (rows[node], columns[node])
        if not table.numel() or not all(states.count for states in after):  # nothing changed, or sees it
            return _pick(self.maps[node], *(states.changed for states in after))
        if (window := sliding_window(operation)) is None:
            return operation(table.flatten(0, 1)[:, :, None, None]).view(table.shape)
        y, x = rows[before], columns[before]
        if conv := self.tile_convs.get(node):
            tiles = tuple(_Tiles(states, m) for states, m in zip((y, x), conv.m, strict=True))
            difference = conv(self._difference(before, table, y, x), tiles, after)
            return difference.add_(_pick(self.maps[node], *(states.changed for states in after)))
        kernel, dilation = pair(operation.kernel_size), pair(getattr(operation, "dilation", 1))
        wy, wx = (
            s.windows(a, k, step, padding, d)
            for s, a, k, (_, step, padding), d in zip((y, x), after, kernel, window, dilation, strict=True)
        )
        laid = self._look_up(before, table, y, x, wy[:, None], wx)  # (ny · k, nx · k, C)
        apart = sharing(operation, stride=kernel, padding=(0, 0), dilation=(1, 1), ceil_mode=False)
        return apart(laid[None].permute(0, 3, 1, 2))[0].permute(1, 2, 0).contiguous()

    def _look_up(self, node, table: Tensor, y: _States, x: _States, rows: Tensor, columns: Tensor) -> Tensor:
        """(…, C) for row states and column states that broadcast: out of the table where both are changed."""
        places = y.count * x.count + y.units[rows] * (x.n + 1) + x.units[columns]
        places = (rows * x.count + columns).where((rows < y.count) & (columns < x.count), places)
        every = torch.cat((table.flatten(0, 1), self.maps[node].flatten(0, 1)))
        return every.index_select(0, places.flatten().to(every.device)).view(*places.shape, every.shape[1])

    def _difference(self, node: fx.Node, table: Tensor, y: _States, x: _States) -> Tensor:
        """(ny + 1, nx + 1, C): what the square changes, and a border of zeros for what it does not."""
        return F.pad(table - _pick(self.maps[node], y.changed, x.changed), (0, 0, 0, 1, 0, 1))


def _pick(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows × columns of (H, W, C)."""
    return maps.index_select(0, rows.to(maps.device)).index_select(1, columns.to(maps.device))
