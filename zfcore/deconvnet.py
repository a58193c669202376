r"""The deconvnet of §2.1: from one activation back to the picture that caused it.

The picture goes forward; all activations of the layer but one are set to zero; then the layers are
undone one by one:

- *unpool*: a pooled value returns to the place it came from, which the forward pass noted (the
  switches). Windows may overlap, so values that return to the same place add up;
- *rectify*: :math:`\max(R, 0)` of the reconstruction :math:`R`, whatever the forward pass did there;
- *filter*: the transposed filters, each flipped vertically and horizontally; no biases.

This is back-propagation with another rule at the ReLU. With :math:`A` the ReLU's output,

============= ======================================= ===========================================
rule          passes the ReLU                         passes the contrast normalisation
============= ======================================= ===========================================
``deconvnet`` :math:`\max(R, 0)`                      unchanged, or as its derivative (``norm``)
``gradient``  :math:`R\,[A > 0]`                      as its derivative
``guided``    :math:`\max(R, 0)\,[A > 0]`             as its derivative
============= ======================================= ===========================================

Sources: Zeiler & Fergus, §2.1 and Fig. 1, doi:10.1007/978-3-319-10590-1_53; for the gradient Simonyan
et al. (2014), arXiv:1312.6034; for guided back-propagation Springenberg et al. (2015), arXiv:1412.6806.

Example::

    import torch
    from zfcore.deconvnet import Deconvnet
    from zfcore.model import build
    net = Deconvnet(build("zfnet"))
    images = torch.randn(2, 3, 224, 224)
    net.project(images, "features.9", channel=7)                        # its strongest unit, per image
    net.project(images, "features.9", channel=7, position=(6, 6))       # (2, 3, 224, 224), signed
    net.project(images, "features.9", [7, 40], position=[(6, 6), (0, 12)])  # one unit of each image
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from zfcore.trace import Geometry, Pair, full_precision, function_name, sharing, sliding_window, trace

RULES = ("deconvnet", "gradient", "guided")
NORMS = ("identity", "derivative")


# ------------------------------------------------------------------------------ the three operations
def pool_with_switches(
    x: Tensor,
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
    dilation: int | tuple[int, int] = 1,
) -> tuple[Tensor, Tensor]:
    """Max-pool, and note where each maximum was: the switches of §2.1.

    Parameters
    ----------
    x
        (N, C, H, W), any float dtype.
    size, stride, padding, dilation
        Of the window, in cells, as for ``torch.nn.MaxPool2d``.
    ceil_mode
        Whether a window that reaches beyond the map's far edge counts.

    Returns
    -------
    pooled, switches
        Both (N, C, H', W'). A switch is the flat index ``y * W + x`` (int64) of the maximum in its
        (H, W) map; of equal maxima, the first in row-major order.
    """
    if x.device.type == "cpu":  # where PyTorch pools this format 20 times as fast
        x = x.contiguous(memory_format=torch.channels_last)
    pooled, switches = F.max_pool2d(x, size, stride, padding, dilation, ceil_mode, return_indices=True)
    return pooled.contiguous(), switches.contiguous()


def unpool(pooled: Tensor, switches: Tensor, height: int, width: int) -> Tensor:
    """Send every pooled value back to its switch, (N, C, H', W') → (N, C, height, width).

    Overlapping windows may share a switch: their values add up (``torch.nn.functional.max_unpool2d``
    would keep one of them).
    """
    places = pooled.new_zeros(*pooled.shape[:2], height * width)  # (N, C, H·W)
    return places.scatter_add_(2, switches.flatten(2), pooled.flatten(2)).unflatten(2, (height, width))


def rectify(r: Tensor) -> Tensor:
    """``max(r, 0)``: feature maps are never negative, so their reconstructions are not either (§2.1)."""
    return r.clamp(min=0)


def filter_transposed(r: Tensor, conv: nn.Conv2d, height: int, width: int) -> Tensor:
    """Apply a convolution's transposed filters, without its bias.

    Parameters
    ----------
    r
        (N, C_out, H', W'), a reconstruction of the convolution's output.
    conv
        The convolution, padded with zeros; groups, dilation and stride as it has them.
    height, width
        Of its input, in cells. Not every input cell need be under a filter: with stride 2 an even
        and an odd height can give the same H'.

    Returns
    -------
    Tensor
        (N, C_in, height, width): the exact adjoint of the convolution.

    Raises
    ------
    ValueError
        The convolution pads with something other than zeros.
    """
    window = sliding_window(conv)
    if window is None:
        raise ValueError(f"{conv} pads with {conv.padding_mode!r}; its transpose is known for zeros only")
    (_, _, top), (_, _, left) = window
    # Over the padded input, as far as the filters reach; then the padding goes, and what no filter
    # reached is zero (the job of conv_transpose2d's output_padding, for any padding).
    spread = F.conv_transpose2d(r, conv.weight, None, conv.stride, groups=conv.groups, dilation=conv.dilation)
    below, right = height + top - spread.shape[2], width + left - spread.shape[3]
    return F.pad(spread, (-left, right, -top, below))


# ------------------------------------------------------------------------------ what can be undone
# Linear (or affine) operations, which go back by their adjoint.
_LINEAR_MODULES = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten, nn.Identity,
    nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
_LINEAR_FUNCTIONS = {
    "add", "iadd", "sub", "isub", "neg", "cat", "concat", "mean", "sum", "clone", "contiguous", "pad",
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "getitem",
}  # fmt: skip
_SCALINGS = {"mul", "imul", "truediv", "itruediv", "div"}
# Linear in the first argument, where only that one depends on the images.
_LAYER_FUNCTIONS = {"conv2d", "linear", "avg_pool2d"}


class Deconvnet:
    """Projects units of a network back to the picture, by deconvnet, gradient or guided back-propagation.

    The model may be any convolutional network that :func:`zfcore.trace.trace` follows, made of
    convolutions, ReLUs, max and average pools, contrast norms, fully connected layers, dropout,
    additions, concatenations and reshapes, as modules or as functions, in place or not, and of batch norms
    as modules. It is not changed; its parameters are shared, so that projections follow a training.
    Dropout and batch norm act as in evaluation.

    Parameters
    ----------
    model
        The network.
    norm
        How the deconvnet passes the contrast normalisation: ``"identity"`` leaves the reconstruction
        as it is, ``"derivative"`` multiplies by the transposed Jacobian at the forward activations. The
        rules ``gradient`` and ``guided`` are back-propagations and always take the derivative.

    Raises
    ------
    ValueError
        The model cannot be traced, or ``norm`` is neither of the two.
    """

    def __init__(self, model: nn.Module, norm: str = "identity"):
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
        self.norm = norm
        self.trace = trace(model)

    @property
    def layers(self) -> list[str]:
        """Names of the layers in the order of the computation, as :class:`zfcore.trace.Trace` has them."""
        return self.trace.layers

    @property
    def geometry(self) -> dict[str, Geometry]:
        """Receptive field, stride and offset of every layer of maps, in pixels."""
        return self.trace.geometry

    def activations(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The values of some layers; see :meth:`zfcore.trace.Trace.activations`."""
        return self.trace.activations(images, layers)

    def project(
        self,
        images: Tensor,
        layer: str,
        channel: int | Sequence[int] | Tensor,
        position: tuple[int, int] | str | Sequence[tuple[int, int]] | Tensor | None = None,
        rule: str = "deconvnet",
    ) -> Tensor:
        """Project one unit, or one whole feature map, of each image into pixel space.

        Parameters
        ----------
        images
            (N, C, H, W), of the network's dtype and on its device, as the network takes them.
        layer
            One of ``layers``. A convolution is taken before its ReLU.
        channel
            The feature map (or, after a flattening, the unit): an int, or one for each image.
        position
            ``(y, x)`` of the unit in its map, or one such pair for each image; None for the map's
            strongest unit in each image (of equals, the first in row-major order); ``"map"`` for
            the whole map, every other map set to zero. Fully connected layers have no positions:
            not used there.
        rule
            ``"deconvnet"``, ``"gradient"`` or ``"guided"``. Gradient starts from 1, the others from the
            activation's value.

        Returns
        -------
        Tensor
            (N, C, H, W), signed, in units of the input. Without gradient.

        Raises
        ------
        ValueError
            Unknown layer, channel, position or rule, images that do not fit (the message says what
            there is), or an operation on the way that cannot be undone (the message names it).
        """
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
        node = self.trace.node(layer)
        self.trace.check_images(images)
        for step in self.trace.needed([node]):
            self._check_can_go_back(step)
        channels = _one_per_image(channel, len(images), "channel").to(images.device)
        if isinstance(position, str):
            if position != "map":
                raise ValueError(f"position is (y, x), None or 'map'; got {position!r}")
        elif position is not None:
            position = _one_per_image(position, len(images), "position").to(images.device)
        # Inference tensors cannot enter an adjoint taken by autograd.
        with torch.inference_mode(False), torch.no_grad(), full_precision(images.device):
            images = images.clone() if images.is_inference() else images
            chain = self._chain(node)
            if chain is None or position == "map" or not chain.pays(images):
                return self._project_whole(images, node, channels, position, rule)
            return self._project_window(images, layer, chain, channels, position, rule)

    # -------------------------------------------------------------------------- the whole picture
    def _project_whole(self, images, node, channels, position, rule) -> Tensor:
        """Forward and back over whole maps, through branches of any kind."""
        steps = [step for step in self.trace.needed([node]) if step is not self.trace.input]
        values, switches = {self.trace.input: images}, {}
        for step in steps:
            pool = self.trace.operations[step]
            if isinstance(pool, nn.MaxPool2d):
                with self.trace.naming(step, values):
                    values[step], switches[step] = _pool(pool, values[step.args[0]])
            else:
                values[step] = self.trace.compute(step, values)
            self._check_hooks(step, values)
        arrived = {node: _seed(values[node], self.trace.names[node], channels, position, rule)}
        for step in reversed(steps):
            if step not in arrived:  # a constant, or a tensor's size
                continue
            sources = self.trace.sources(step)

            def again(*inputs, step=step, sources=sources):
                return self.trace.compute(step, values | dict(zip(sources, inputs, strict=True)))

            inputs, output = [values[source] for source in sources], values[step]
            operation = self.trace.operations[step]
            back = self._undo(operation, again, inputs, output, switches.get(step), arrived.pop(step), rule)
            for source, r in zip(sources, back, strict=True):
                arrived[source] = arrived[source] + r if source in arrived else r
        return arrived[self.trace.input]

    def _undo(self, operation, again, inputs, output, switches, r, rule) -> list[Tensor]:
        """One layer backward: from ``r`` at its output to what comes back to each of its inputs.

        ``again(*inputs)`` computes the layer once more.
        """
        match operation:
            case nn.Conv2d():
                return [filter_transposed(r, operation, *inputs[0].shape[2:])]
            case nn.MaxPool2d():
                return [unpool(r, switches, *inputs[0].shape[2:])]
            case nn.ReLU():
                return [_through_relu(r, output, rule)]
            case nn.Linear():
                return [r @ operation.weight]
            case nn.LocalResponseNorm() if not self._differentiates(rule):
                return [r]
        return _adjoint(again, inputs, r)

    def _differentiates(self, rule: str) -> bool:
        """Whether the contrast norm goes back by its derivative."""
        return rule != "deconvnet" or self.norm == "derivative"

    # -------------------------------------------------------------------------- the unit's window
    def _chain(self, node: fx.Node) -> _Chain | None:
        """The operations from the picture to a layer, where they are a plain sequence; else None."""
        operations = []
        while node is not self.trace.input:
            operation = self.trace.operations[node]
            # A hook may do anything, also look at the whole map.
            hooked = isinstance(operation, nn.Module) and (
                operation._forward_hooks or operation._forward_pre_hooks
            )
            if not isinstance(operation, _CARRIED) or hooked or len(node.all_input_nodes) != 1:
                return None
            operations.append(operation)
            node = node.all_input_nodes[0]
        return _Chain(operations[::-1])

    def _project_window(self, images, layer, chain, channels, position, rule) -> Tensor:
        """The same over the cells that the unit depends on, and no others.

        A window may reach outside its map. There a convolution must see its zeros and a pooling its
        -inf, though the operations before have computed something else; and nothing may come back.
        """
        sizes = chain.map_sizes(images)
        _check_channels(channels, chain.channels(images), layer)
        if position is None:
            maps = self.activations(images, [layer])[layer]
            position = _strongest(maps[torch.arange(len(maps)), channels])
        _check_positions(position, sizes[-1], layer)
        frames = chain.frames(position, sizes)
        operations, channels = chain.narrowed(channels)
        x, kept = frames[0].cut(images), []  # and what the way back needs
        for operation, before, after in zip(operations, frames[:-1], frames[1:], strict=True):
            needed = None
            match operation:
                case nn.Conv2d():
                    x = _filter(before.blank(x), operation)
                case nn.MaxPool2d():
                    x, needed = _pool(operation, before.blank(x, -torch.inf))
                    x = after.blank(x)
                case nn.ReLU():
                    x = x.relu_()
                    needed = x if rule != "deconvnet" else None
                case _:
                    x, needed = operation(x), x
            kept.append(needed)
        r = _seed(x, layer, channels, torch.zeros_like(position), rule)
        for operation, before in zip(operations[::-1], frames[-2::-1], strict=True):
            needed = kept.pop()
            match operation:
                case nn.Conv2d():
                    r = before.blank(_spread(r, operation))
                case nn.MaxPool2d():
                    r = unpool(r, needed, *before.size)  # no switch points to -inf outside the map
                case nn.ReLU():
                    r = r.clamp_(min=0) if rule == "deconvnet" else _through_relu(r, needed, rule)
                case nn.LocalResponseNorm() if not self._differentiates(rule):
                    pass
                case _:
                    (r,) = _adjoint(operation, [needed], r)
        return frames[0].paste(r, images)

    # -------------------------------------------------------------------------- what can be undone
    def _check_can_go_back(self, step: fx.Node) -> None:
        if not self.trace.is_layer(step) or self._can_go_back(step):
            return
        operation = self.trace.operations[step]
        if not isinstance(operation, nn.Module):
            operation = operation if isinstance(operation, str) else getattr(operation, "__name__", operation)
        raise ValueError(
            f"no way back through {self.trace.names[step]!r}: {operation}. A deconvnet undoes convolutions "
            "padded with zeros, ReLUs, max and average pools, contrast norms, batch norms with running "
            "statistics, linear layers, dropout, sums, concatenations and reshapes; "
            "project a layer before it, or replace it"
        )

    def _check_hooks(self, step: fx.Node, values: dict[fx.Node, object]) -> None:
        """Insist that a module's hooks look on, as those that set its weights: there is no way back through
        what they change."""
        module = self.trace.operations[step]
        if not (isinstance(module, nn.Module) and (module._forward_hooks or module._forward_pre_hooks)):
            return
        pooled = isinstance(module, nn.MaxPool2d)  # and not called, but for its switches
        hooked = self.trace.compute(step, values) if pooled else values[step]
        args, kwargs = fx.node.map_arg((step.args, step.kwargs), values.__getitem__)
        plain = sharing(module, _forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict())(
            *args, **kwargs
        )
        if not torch.equal(hooked, plain):
            raise ValueError(
                f"no way back through {self.trace.names[step]!r}: a hook changes what it takes or gives; "
                "remove the hook, or project a layer before it"
            )

    def _can_go_back(self, step: fx.Node) -> bool:
        operation, sources = self.trace.operations[step], self.trace.sources(step)
        match operation:
            case nn.Conv2d():
                return sliding_window(operation) is not None
            case nn.MaxPool2d():
                return not operation.return_indices
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                return operation.running_mean is not None
            case nn.Module():
                return isinstance(operation, (nn.ReLU, nn.Linear, nn.LocalResponseNorm, *_LINEAR_MODULES))
        name, given = function_name(step), []
        if name in _SCALINGS:  # by a constant; not x * x, nor 1 / x
            fx.node.map_arg((step.args, step.kwargs), given.append)
            factors = [source for source in given if source in sources]
            linear = len(factors) == 1 and "rounding_mode" not in step.kwargs
            return linear and (name in ("mul", "imul") or step.args[0] in sources)
        if name in _LAYER_FUNCTIONS:
            return sources == [step.args[0]]
        return name in _LINEAR_FUNCTIONS


# ------------------------------------------------------------------------------ the window
_CARRIED = (
    nn.Conv2d, nn.MaxPool2d, nn.ReLU, nn.LocalResponseNorm, nn.BatchNorm2d, nn.Identity,
    nn.Dropout, nn.Dropout2d,
)  # fmt: skip


@dataclass(frozen=True)
class _Frame:
    """The windows of one map, one in each image, that the units at ``positions`` (N, 2) depend on.

    Along y and x: a window starts at ``stride`` · position + ``offset``, has ``size`` cells, and the
    map has ``map_size``. ``extremes`` are the least and the largest position, as Python ints.
    """

    positions: Tensor
    extremes: tuple[list[int], list[int]]
    stride: Pair
    offset: Pair
    size: Pair
    map_size: Pair

    def before(self, operation: nn.Module, map_size: Pair) -> _Frame:
        """What these windows need of the map before an operation."""
        window = sliding_window(operation)
        if window is None:
            return self
        extent, step, padding = zip(*window, strict=True)
        return replace(
            self,
            stride=tuple(a * s for a, s in zip(self.stride, step, strict=True)),
            offset=tuple(o * s - p for o, s, p in zip(self.offset, step, padding, strict=True)),
            size=tuple((n - 1) * s + e for n, s, e in zip(self.size, step, extent, strict=True)),
            map_size=map_size,
        )

    @cached_property
    def start(self) -> Tensor:
        """(N, 2): first row and column of each window."""
        return self.positions * torch.tensor(self.stride) + torch.tensor(self.offset)

    @cached_property
    def _outside(self) -> Tensor | None:
        """(N, 1, h, w): which cells are outside the map; None where every window lies inside."""
        bounds = zip(*self.extremes, self.stride, self.offset, self.size, self.map_size, strict=True)
        if all(low * s + o >= 0 and high * s + o + w <= n for low, high, s, o, w, n in bounds):
            return None
        rows, columns = (
            (cells < 0) | (cells >= self.map_size[axis])
            for axis in (0, 1)
            for cells in [self.start[:, axis, None] + torch.arange(self.size[axis])]
        )
        return rows[:, None, :, None] | columns[:, None, None, :]

    def blank(self, x: Tensor, value: float = 0.0) -> Tensor:
        """``x`` (N, C, h, w) with ``value`` in the cells outside the map."""
        return x if self._outside is None else x.masked_fill(self._outside.to(x.device), value)

    def _overlaps(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For each image, the slices of the map and those of the window where the two overlap."""
        for start in self.start.tolist():
            cells = zip(start, self.size, self.map_size, strict=True)
            spans = [(s, min(max(s, 0), n), max(min(s + w, n), 0)) for s, w, n in cells]
            of_map = tuple(slice(first, max(first, last)) for _, first, last in spans)
            yield of_map, tuple(slice(first - s, max(first, last) - s) for s, first, last in spans)

    def cut(self, maps: Tensor) -> Tensor:
        """The windows of ``maps`` (N, C, H, W) as (N, C, h, w), zero outside the maps."""
        windows = maps.new_zeros(*maps.shape[:2], *self.size)
        if windows.device.type == "cpu":  # the format in which the first pool will want its maps
            windows = windows.to(memory_format=torch.channels_last)
        for image, (of_map, of_window) in enumerate(self._overlaps()):
            windows[(image, slice(None), *of_window)] = maps[(image, slice(None), *of_map)]
        return windows

    def paste(self, windows: Tensor, maps: Tensor) -> Tensor:
        """Zeros like ``maps`` with the windows in their places."""
        pasted = torch.zeros_like(maps)
        for image, (of_map, of_window) in enumerate(self._overlaps()):
            pasted[(image, slice(None), *of_map)] = windows[(image, slice(None), *of_window)]
        return pasted


class _Chain:
    """A plain sequence of operations, the first of which takes the picture."""

    def __init__(self, operations: list[nn.Module]):
        self.operations = operations
        self.unpadded = [
            sharing(operation, padding=(0, 0)) if sliding_window(operation) else operation
            for operation in operations
        ]

    def channels(self, images: Tensor) -> int:
        """How many maps the last operation has."""
        return next(
            (o.out_channels for o in self.operations[::-1] if isinstance(o, nn.Conv2d)), images.shape[1]
        )

    def narrowed(self, channels: Tensor) -> tuple[list[nn.Module], Tensor]:
        """The unpadded operations with no more than the wanted filter of the last convolution.

        That is possible if one filter serves all images and nothing after it mixes maps; the wanted
        map is then number 0.
        """
        last = len(self.unpadded) - 1
        while last >= 0 and isinstance(self.unpadded[last], nn.ReLU | nn.Identity | nn.Dropout):
            last -= 1
        conv = self.unpadded[last] if last >= 0 else None
        if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or (channels != channels[0]).any():
            return self.unpadded, channels
        if conv._parameters.keys() != {"weight", "bias"}:  # made of others, as by weight_norm
            return self.unpadded, channels
        wanted = slice(int(channels[0]), int(channels[0]) + 1)
        bias = None if conv.bias is None else conv.bias[wanted]
        one = sharing(conv, out_channels=1, _parameters={"weight": conv.weight[wanted], "bias": bias})
        return [*self.unpadded[:last], one, *self.unpadded[last + 1 :]], torch.zeros_like(channels)

    def map_sizes(self, images: Tensor) -> list[Pair]:
        """Height and width of the picture and of every map after it."""
        sizes = [tuple(images.shape[2:])]
        for operation in self.operations:
            sizes.append(_map_size(operation, sizes[-1]))
        return sizes

    def frames(self, positions: Tensor, sizes: list[Pair]) -> list[_Frame]:
        """The windows in every map, from the picture to the units at ``positions`` (N, 2)."""
        positions = positions.cpu()
        extremes = (positions.amin(0).tolist(), positions.amax(0).tolist())
        frames = [_Frame(positions, extremes, (1, 1), (0, 0), (1, 1), sizes[-1])]
        for operation, size in zip(self.operations[::-1], sizes[-2::-1], strict=True):
            frames.append(frames[-1].before(operation, size))
        return frames[::-1]

    def pays(self, images: Tensor) -> bool:
        """Whether a window is smaller than the picture, if the picture is large enough for a unit."""
        sizes = self.map_sizes(images)
        height, width = self.frames(torch.zeros(1, 2, dtype=torch.int64), sizes)[0].size
        fits = len(images) > 0 and min(map(min, sizes)) > 0
        return fits and height * width < images.shape[2] * images.shape[3]


def _filter(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution of the windows, unpadded.

    Over a handful of cells PyTorch spends most of its time on laying out the filters anew; a matrix
    product takes them as they are. It is 2 to 8 times as fast there.
    """
    size = [n - (k - 1) * d for n, k, d in zip(x.shape[2:], conv.kernel_size, conv.dilation, strict=True)]
    if not _by_matrix(x, conv) or size[0] * size[1] > 128 * conv.stride[0] * conv.stride[1]:
        return conv(x)
    patches = F.unfold(x, conv.kernel_size, conv.dilation, 0, conv.stride)  # (N, C·k·k, h·w)
    y = F.linear(patches.transpose(1, 2), conv.weight.flatten(1), conv.bias)  # (N, h·w, C_out)
    rows = (size[0] - 1) // conv.stride[0] + 1
    return y.transpose(1, 2).unflatten(2, (rows, -1))


def _spread(r: Tensor, conv: nn.Conv2d) -> Tensor:
    """The transposed filters over the windows, unpadded; on a CPU again as a matrix product."""
    if not _by_matrix(r, conv):
        return _spread_by_torch(r, conv)
    # Detached, for `@` lays its operands out anew where one of them could want a gradient.
    cells, filters = r.flatten(2), conv.weight.detach().flatten(1)  # (N, C_out, h·w), (C_out, C·k·k)
    if cells.shape[2] <= 64:
        patches = (cells.transpose(1, 2) @ filters).transpose(1, 2)  # (N, C·k·k, h·w)
    elif filters.shape[1] < cells.shape[2]:
        patches = filters.t() @ cells
    else:
        return _spread_by_torch(r, conv)
    size = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(r.shape[2:], conv.stride, conv.kernel_size, conv.dilation, strict=True)
    ]
    wide = patches.to(torch.promote_types(patches.dtype, torch.float32))  # many are added at each pixel
    return F.fold(wide, size, conv.kernel_size, conv.dilation, 0, conv.stride).to(patches.dtype)


def _spread_by_torch(r: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.conv_transpose2d(r, conv.weight, None, conv.stride, groups=conv.groups, dilation=conv.dilation)


def _by_matrix(x: Tensor, conv: nn.Conv2d) -> bool:
    return x.device.type == "cpu" and conv.groups == 1


def _map_size(operation: nn.Module, size: Pair) -> Pair:
    """Height and width of the output of an operation whose input has ``size``."""
    window = sliding_window(operation)
    if window is None:
        return size
    found = []
    for n, (extent, stride, padding) in zip(size, window, strict=True):
        both = extent - 1 if operation.padding == "same" else 2 * padding
        room = n + both - extent
        count = room // stride + 1
        # ceil_mode: one more window for a rest, if it begins inside the map or the padding before it
        if getattr(operation, "ceil_mode", False) and room % stride and count * stride < n + padding:
            count += 1
        found.append(count)
    return tuple(found)


# ------------------------------------------------------------------------------ steps
def _pool(pool: nn.MaxPool2d, x: Tensor) -> tuple[Tensor, Tensor]:
    return pool_with_switches(x, pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.dilation)


def _through_relu(r: Tensor, activation: Tensor | None, rule: str) -> Tensor:
    """The rules' one difference: by the sign of the reconstruction, of the activation, or of both."""
    if rule != "gradient":
        r = rectify(r)
    return r if rule == "deconvnet" else r.masked_fill(activation <= 0, 0)


def _adjoint(function: Callable[..., Tensor], inputs: list[Tensor], r: Tensor) -> list[Tensor]:
    """The transposed Jacobian at ``inputs`` times ``r``: the adjoint where the function is linear.

    All in one memory format: the gradient of a batch norm is wrong on the CPU (torch 2.15) where its
    input is laid out channels last and ``r`` is not.
    """
    inputs, r = [x.detach().contiguous().requires_grad_() for x in inputs], r.contiguous()
    with torch.enable_grad():
        output = function(*inputs)
    return list(torch.autograd.grad(output, inputs, r))


def _seed(value: Tensor, layer: str, channels: Tensor, position: Tensor | str | None, rule: str) -> Tensor:
    """A layer's value with everything but the chosen unit, or map, of each image set to zero."""
    if value.ndim not in (2, 4):
        raise ValueError(
            f"layer {layer!r} is {tuple(value.shape)}, neither maps (N, C, H, W) nor units (N, D)"
        )
    _check_channels(channels, value.shape[1], layer)
    chosen = (torch.arange(len(value), device=value.device), channels)
    if value.ndim == 4 and not isinstance(position, str):
        position = _strongest(value[chosen]) if position is None else position
        _check_positions(position, value.shape[2:], layer)
        chosen += position.unbind(1)
    seed = torch.zeros_like(value)
    seed[chosen] = torch.ones_like(value[chosen]) if rule == "gradient" else value[chosen]
    return seed


def _strongest(maps: Tensor) -> Tensor:
    """(N, H, W) → (N, 2): y, x of each map's maximum, the first in row-major order."""
    flat = maps.flatten(1).argmax(1)
    return torch.stack((flat // maps.shape[2], flat % maps.shape[2]), 1)


def _one_per_image(value: object, images: int, what: str) -> Tensor:
    """Channels (N,) or positions (N, 2) as int64, from one for all images or one for each."""
    form, own = ("an int", ()) if what == "channel" else ("a pair (y, x)", (2,))
    given = torch.as_tensor(value)
    if given.is_floating_point() or given.dtype == torch.bool or given.shape not in (own, (images, *own)):
        raise ValueError(f"{what} is {form}, or one for each of the {images} images; got {value!r}")
    return given.long().expand(images, *own)


def _check_channels(channels: Tensor, count: int, layer: str) -> None:
    wrong = channels[(channels < 0) | (channels >= count)]
    if len(wrong):
        raise ValueError(f"layer {layer!r} has channels 0 to {count - 1}; got {wrong[0].item()}")


def _check_positions(positions: Tensor, shape: Sequence[int], layer: str) -> None:
    wrong = positions[((positions < 0) | (positions >= positions.new_tensor(shape))).any(1)]
    if len(wrong):
        raise ValueError(
            f"layer {layer!r} has rows 0 to {shape[0] - 1} and columns 0 to {shape[1] - 1}; "
            f"got position {tuple(wrong[0].tolist())}"
        )
