r"""The layers of any convolutional network: their names, their activations, and what each unit sees.

``trace`` follows a network symbolically (``torch.fx``), in evaluation mode, and leaves the caller's
module as it was. A unit of a map at row :math:`y` depends on the picture's rows from
:math:`o + s\,y` to :math:`o + s\,y + r - 1` and on no others, where offset :math:`o`, stride
:math:`s` and receptive field :math:`r` start from :math:`(0, 1, 1)` and grow with every window of
:math:`k` cells, stride :math:`t` and padding :math:`p`:

.. math:: o \leftarrow o - p\,s, \qquad r \leftarrow r + (k - 1)\,s, \qquad s \leftarrow s\,t .

The patches of Fig. 2 and the crops around projections are cut with it (Zeiler & Fergus, §2 and §4,
doi:10.1007/978-3-319-10590-1_53).

Example::

    from zfcore.model import build
    from zfcore.trace import trace
    network = trace(build("zfnet"))
    network.layers[:3]                          # ['features.0', 'features.1', 'features.2']
    network.geometry["features.1"]              # Geometry(receptive_field=7, stride=2, offset=-1)
    network.geometry["features.1"].box(10, 20)  # (19, 39, 26, 46): top, left, bottom, right
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

Pair = tuple[int, int]


# ------------------------------------------------------------------------------ what a unit sees
@dataclass(frozen=True)
class Geometry:
    """Where the units of a map look in the picture, in pixels.

    ``receptive_field`` is the side of the field, ``stride`` the distance between the fields of
    neighbouring units, ``offset`` the first pixel of the first unit's field (negative where padding
    lets it begin outside the picture). Each is an int, or a pair (y, x) where the axes differ.
    Where branches meet, the field is the smallest interval that holds the fields of all of them.
    """

    receptive_field: int | Pair
    stride: int | Pair
    offset: int | Pair

    def box(self, y: int, x: int) -> tuple[int, int, int, int]:
        """``(top, left, bottom, right)`` of the field of unit (y, x); may reach outside the picture.

        ``bottom`` and ``right`` are the first row and column after it, as in slices.
        """
        (field_y, field_x), (stride_y, stride_x), (offset_y, offset_x) = map(
            pair, (self.receptive_field, self.stride, self.offset)
        )
        top, left = offset_y + stride_y * y, offset_x + stride_x * x
        return top, left, top + field_y, left + field_x


@dataclass(frozen=True)
class _Axis:
    """The geometry along one axis, and how it grows; ``lost`` pixels of the picture have no unit."""

    field: int = 1
    stride: int = 1
    offset: int = 0
    lost: int = 0

    def through(self, extent: int, stride: int, padding: int, lost: int) -> _Axis:
        return _Axis(
            self.field + (extent - 1) * self.stride,
            self.stride * stride,
            self.offset - padding * self.stride,
            self.lost + lost * self.stride,
        )

    def meets(self, other: _Axis) -> bool:
        """Whether maps of the two can lie cell on cell; a sum of others spreads the smaller over the larger.

        Strides leave a rest, so that maps of equal sizes may have lost a little more or less.
        """
        return self.stride == other.stride and abs(self.lost - other.lost) <= 2 * (self.stride - 1)

    def joined(self, other: _Axis) -> _Axis:
        first = min(self.offset, other.offset)
        last = max(self.offset + self.field, other.offset + other.field)
        return _Axis(last - first, self.stride, first, max(self.lost, other.lost))


def pair(value: int | Pair) -> Pair:
    """``(value, value)`` for an int: along y and x."""
    return (int(value),) * 2 if isinstance(value, numbers.Integral) else tuple(value)


def sliding_window(operation: object) -> tuple[tuple[int, int, int], ...] | None:
    """``(extent, stride, padding)`` in cells, along y and x, of a convolution or a pooling.

    The extent counts the holes of a dilation; the padding is that before the first cell. None for
    any other operation, and for a convolution padded with anything but zeros.
    """
    if isinstance(operation, nn.Conv2d):
        if operation.padding_mode != "zeros":
            return None
    elif not isinstance(operation, nn.MaxPool2d | nn.AvgPool2d):
        return None
    dilation = pair(getattr(operation, "dilation", 1))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, pair(operation.kernel_size), strict=True)]
    if operation.padding == "same":
        padding = [(e - 1) // 2 for e in extent]
    else:
        padding = pair(0 if operation.padding == "valid" else operation.padding)
    return tuple(zip(extent, pair(operation.stride), padding, strict=True))


# ------------------------------------------------------------------------------ what a node does
# Functions that are a module's twin, with the names of their arguments after the input; the rest of
# this package then knows one form of each operation. Every activation is out of place here.
_TWINS: dict[object, tuple[type[nn.Module], tuple[str, ...]]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), (nn.ReLU, ())),
    **dict.fromkeys((F.dropout, F.dropout2d, F.alpha_dropout), (nn.Identity, ())),
    F.max_pool2d: (
        nn.MaxPool2d,
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    torch.max_pool2d: (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    F.avg_pool2d: (
        nn.AvgPool2d,
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
    F.local_response_norm: (nn.LocalResponseNorm, ("size", "alpha", "beta", "k")),
}

# What asks a tensor for its shape or kind gives no layer.
_QUESTIONS = {"size", "dim", "numel", "ndimension"}
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda"}

# What leaves every value in its cell of the map, or joins maps cell by cell.
CELLWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Identity, nn.Dropout, nn.Dropout2d,
    nn.AlphaDropout, nn.BatchNorm2d, nn.LocalResponseNorm,
)  # fmt: skip
_CELLWISE_FUNCTIONS = {
    "add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "neg", "cat", "concat", "clone",
    "contiguous", "relu6", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "hardtanh", "hardswish",
}  # fmt: skip

# What may hand on the memory of its input instead of a copy.
_VIEWS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Flatten, nn.Unflatten)
_VIEW_FUNCTIONS = {
    "view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "getitem",
    "detach", "expand", "chunk", "split", "float", "double", "half", "bfloat16", "to", "type", "type_as",
    "cpu", "cuda", "narrow", "select", "unbind", "unflatten", "movedim", "moveaxis", "swapaxes", "swapdims",
    "t", "ravel", "expand_as", "view_as", "broadcast_to", "diagonal", "unfold", "as_strided", "tensor_split",
}  # fmt: skip
_VIEW_ATTRIBUTES = {"data", "T", "mT", "H", "mH"}


def function_name(node: fx.Node) -> str | None:
    """``"add"`` for ``torch.add``, ``operator.add``, ``x.add`` and ``x.add_``; None where not PyTorch's."""
    target = node.target
    if node.op == "call_function":
        name = getattr(target, "__name__", "")
        if not any(getattr(room, name, None) is target for room in (torch, F, operator)):
            return None
    elif node.op == "call_method":
        name = target
    else:
        return None
    return name.removesuffix("_")


class _Tracer(fx.Tracer):
    """Stops at every module whose ``forward`` is PyTorch's own, and at every contrast norm."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, nn.LocalResponseNorm):
            return True
        parts = [getattr(module, part) for part in ("forward", "_conv_forward") if hasattr(module, part)]
        # By name: a file that was run to make the network is no module that could be looked up.
        native = all((getattr(part, "__module__", None) or "").startswith("torch.nn") for part in parts)
        return native and not isinstance(module, nn.Sequential)

    def call_module(self, module, forward, args, kwargs):
        if self.is_leaf_module(module, ""):
            return super().call_module(module, forward, args, kwargs)
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                raise ValueError(
                    f"{self.path_of_module(module)!r} has a forward of its own, and a hook before it, "
                    f"{type(hook).__name__}, makes its weights; first call torch.nn.utils.prune.remove or "
                    "torch.nn.utils.remove_weight_norm"
                )
        return module.forward(*args, **kwargs)  # without the container's hooks, which would see symbols


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module's own flag again."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """The caller's autocast held off inside the block, where the device has one."""
    with contextlib.ExitStack() as stack:
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def listed(layers: str | Iterable[str]) -> list[str]:
    """The names of layers; one name alone is not taken apart letter by letter."""
    return [layers] if isinstance(layers, str) else list(layers)


def sharing(module: nn.Module, **settings: object) -> nn.Module:
    """A module with other ``settings`` that shares the parameters, now and later, of the one given."""
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__ | settings)
    return twin


def _evaluated(module: nn.Module) -> nn.Module:
    """A module that shares parameters, in evaluation mode and out of place."""
    children = {name: child and _evaluated(child) for name, child in module._modules.items()}
    inplace = {"inplace": False} if hasattr(module, "inplace") else {}
    return sharing(module, training=False, _modules=children, **inplace)


# ------------------------------------------------------------------------------ the trace
class Trace:
    """The layers of a traced network, as :func:`trace` returns it.

    ``layers`` lists their names in the order of the computation. ``geometry`` maps the name of every
    layer made of maps to its :class:`Geometry`; a layer whose units see the whole picture (after a
    flattening or a global pooling), or whose fields this module cannot tell, is not in it.
    """

    def __init__(self, model: nn.Module):
        self._model = model = getattr(model, "_orig_mod", model)  # what torch.compile was given
        if any(isinstance(m, nn.DataParallel | nn.parallel.DistributedDataParallel) for m in model.modules()):
            raise ValueError(
                f"{type(model).__name__} is wrapped, or has a part that is, to run in parallel; "
                "give the network inside, model.module"
            )
        own = set(vars(model))
        # A flag is what its default says: a branch on it is one on a constant.
        others = list(inspect.signature(model.forward).parameters.values())[1:]
        flags = {p.name: p.default for p in others if isinstance(p.default, bool | int | float | str | None)}
        try:
            with evaluating(model):
                graph = _Tracer().trace(model, concrete_args=flags or None)
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} cannot be traced: {str(error).rstrip('.')}.\n"
                "torch.fx follows no Python branch or loop that depends on a tensor's values; make it depend "
                "on constants, or give the part of the network that has none (say, model.features)"
            ) from error
        finally:  # torch.fx leaves the tensors that a forward makes on the module
            self._constants = {name: vars(model).pop(name) for name in set(vars(model)) - own}
        _by_position(graph)
        self.input, *others = [node for node in graph.nodes if node.op == "placeholder"]
        for node in others:
            if not node.args:
                raise ValueError(
                    f"{type(model).__name__} takes a second input, {node.name!r}; "
                    "wrap it in a module that takes the images alone"
                )
        copies = {
            n.target: _evaluated(model.get_submodule(n.target)) for n in graph.nodes if n.op == "call_module"
        }
        self.operations: dict[fx.Node, nn.Module | Callable | str] = {
            node: copies[node.target] if node.op == "call_module" else _twin(node) for node in graph.nodes
        }
        self._overwriting = {node for node in graph.nodes if _in_place(node, model)}
        _out_of_place(graph, self.operations, self._overwriting)
        self._of_image = self._depend_on_image(graph)
        self.names: dict[fx.Node, str] = _names([node for node in graph.nodes if self.is_layer(node)])
        self._nodes = {name: node for node, name in self.names.items()}
        self.layers: list[str] = list(self._nodes)
        axes = self._axes()
        self.geometry: dict[str, Geometry] = {
            name: _geometry(*axes[node]) for name, node in self._nodes.items() if axes[node]
        }

    # -------------------------------------------------------------------------- the graph
    def is_layer(self, node: fx.Node) -> bool:
        """Whether a node gives a tensor that depends on the images."""
        return node in self._of_image and node is not self.input

    def node(self, layer: str) -> fx.Node:
        """The graph's node of a layer; ``ValueError`` with the list of layers where there is none."""
        if layer not in self._nodes:
            raise ValueError(f"no layer {layer!r}; this network has: {', '.join(self.layers)}")
        return self._nodes[layer]

    @property
    def result(self) -> str:
        """The layer that the network returns, seldom another than the last one of ``layers``.

        ``ValueError`` where it returns something else: several tensors, or one that is no layer.
        """
        (returned,) = next(node for node in self.operations if node.op == "output").args
        if returned not in self.names:
            raise ValueError(
                f"{type(self._model).__name__} returns {returned}; one tensor that depends on the images is "
                "wanted: wrap it in a module that returns its logits alone"
            )
        return self.names[returned]

    def insist_on_logits(self) -> None:
        """Raise ``ValueError`` where the network returns probabilities: one softmax would follow another."""
        node = self._nodes[self.result]
        if isinstance(self.operations[node], nn.Softmax) or function_name(node) == "softmax":
            raise ValueError("the network ends in a softmax, and another would follow; give the logits")

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The nodes (the input, or layers) whose tensors a layer takes, each once."""
        return [source for source in node.all_input_nodes if source in self._of_image]

    def needed(self, nodes: Iterable[fx.Node]) -> list[fx.Node]:
        """Every node that must be computed to have ``nodes``, in order, themselves included."""
        wanted = set()
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if node not in wanted:
                wanted.add(node)
                stack.extend(node.all_input_nodes)
        return [node for node in self.operations if node in wanted]

    def compute(self, node: fx.Node, values: dict[fx.Node, object]) -> object:
        """The value of one node from those of its inputs; nothing is overwritten."""
        if node.op == "get_attr":
            if node.target in self._constants:
                return self._constants[node.target]
            return operator.attrgetter(node.target)(self._model)
        if node.op == "placeholder":
            return node.args[0]
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        operation = self.operations[node]
        with self.naming(node, values):
            if isinstance(operation, nn.Module):
                return operation(*args, **kwargs) if node.op == "call_module" else operation(args[0])
            if node in self._overwriting:
                args = (args[0].clone(), *args[1:])
            if isinstance(operation, str):
                return getattr(args[0], operation)(*args[1:], **kwargs)
            return operation(*args, **kwargs)

    @contextlib.contextmanager
    def naming(self, node: fx.Node, values: dict[fx.Node, object]) -> Iterator[None]:
        """Turn PyTorch's complaint about a shape into one that names the layer."""
        try:
            yield
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # memory or device, which are not the images' fault
                raise
            given = [tuple(getattr(values[source], "shape", ())) for source in self.sources(node)]
            raise ValueError(
                f"the images do not pass {self.names.get(node, node.name)!r}, which got {given}: {error}"
            ) from error

    def check_images(self, images: Tensor) -> None:
        """``ValueError`` unless ``images`` are (N, C, H, W) of the network's channels, dtype and device."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            given = type(images).__name__
            if isinstance(images, Tensor):
                given = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be a float tensor (N, C, H, W); got {given}")
        for user in self.input.users:
            first = self.operations.get(user)
            if isinstance(first, nn.Conv2d):
                # The weight itself may be made of others in a hook, and stay behind when the module is moved.
                weight = next(first.parameters(), first.weight)
                if images.shape[1] != first.in_channels:
                    raise ValueError(
                        f"images have {images.shape[1]} channels, (N, C, H, W) = {tuple(images.shape)}; "
                        f"{self.names[user]!r} takes {first.in_channels}"
                    )
                if (images.dtype, images.device) != (weight.dtype, weight.device):
                    raise ValueError(
                        f"images are {images.dtype} on {images.device}, the network is {weight.dtype} on "
                        f"{weight.device}; bring both to one"
                    )

    def activations(self, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """The values of some layers, from one forward pass that ends at the last of them.

        Parameters
        ----------
        images
            (N, C, H, W), floating point, as the network takes them.
        layers
            Names out of ``layers``. A layer before a ReLU is given as it was before it, also where
            the ReLU works in place.

        Returns
        -------
        dict
            ``{layer: tensor}``: (N, C, H, W) for maps, (N, D) for fully connected layers. Gradients
            flow unless the caller switched them off.

        Raises
        ------
        ValueError
            Unknown layer (the message lists them), or images that the network does not take.
        """
        layers = listed(layers)
        found = dict(self.stream(images, layers))
        return {layer: found[layer] for layer in layers}

    def stream(self, images: Tensor, layers: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The pairs (layer, tensor) of :meth:`activations` one by one, as the pass reaches them.

        A tensor that neither the caller nor a later layer holds is free again: what is taken from each
        layer on the way needs the memory of a plain pass. Order, arguments and errors are those of the
        computation and of :meth:`activations`.
        """
        wanted = {self.node(layer): layer for layer in listed(layers)}
        self.check_images(images)
        steps = self.needed(wanted)
        last_use = {used: step for step in steps for used in (step, *step.all_input_nodes)}
        values: dict[fx.Node, object] = {self.input: images}
        for step in steps:
            if step is not self.input:
                values[step] = self.compute(step, values)
            if step in wanted:
                yield wanted[step], values[step]
            for used in (step, *step.all_input_nodes):
                if last_use[used] is step:
                    values.pop(used, None)

    # -------------------------------------------------------------------------- analysis
    def _depend_on_image(self, graph: fx.Graph) -> set[fx.Node]:
        found = {self.input}
        for node in graph.nodes:
            asks = (node.op == "call_method" and node.target in _QUESTIONS) or (
                node.target is getattr and node.args[1] in _ATTRIBUTES
            )
            if not asks and node.op != "output" and any(source in found for source in node.all_input_nodes):
                found.add(node)
        return found

    def _axes(self) -> dict[fx.Node, tuple[_Axis, _Axis] | None]:
        known: dict[fx.Node, tuple[_Axis, _Axis] | None] = {self.input: (_Axis(), _Axis())}
        for node in self._nodes.values():
            known[node] = None
            branches = [known[source] for source in self.sources(node)]
            if None in branches:
                continue
            if not all(a.meets(b) for axes in branches for a, b in zip(branches[0], axes, strict=True)):
                continue
            joined = tuple(functools.reduce(_Axis.joined, axes) for axes in zip(*branches, strict=True))
            operation = self.operations[node]
            if window := sliding_window(operation):
                whole = operation.padding == "same"  # on both sides together
                known[node] = tuple(
                    axis.through(*step, 0 if whole else step[0] - 1 - 2 * step[2])
                    for axis, step in zip(joined, window, strict=True)
                )
            elif is_cellwise(operation) or _joins_cells(node):
                known[node] = joined
        return known


def trace(model: nn.Module) -> Trace:
    """Trace a network: its layers, what their units see, and taps at them.

    A layer's name is the path of its module (``"features.3"``); a module called more than once
    gives ``"relu"``, ``"relu_1"``, …; a function or method has the name torch.fx gives it
    (``"cat"``, ``"add_1"``). The network is followed as in evaluation mode (dropout hands on its
    input, batch norm uses its running statistics). The model is not changed, and its parameters
    are shared, so that the trace follows a training. Hooks of layers act as always; those of
    containers, the network itself among them, take no part.

    Parameters
    ----------
    model
        Any ``nn.Module`` from images (N, C, H, W) to a tensor, without Python branches on values. Further
        arguments of its ``forward`` that are numbers, words or None keep their defaults, also where it
        branches on them.

    Returns
    -------
    Trace
        With ``.layers``, ``.geometry`` and ``.activations(images, layers)``.

    Raises
    ------
    ValueError
        The model cannot be traced, or takes more than the images; the message says what to do.
    """
    return Trace(model)


# ------------------------------------------------------------------------------ steps of the trace
def _by_position(graph: fx.Graph) -> None:
    """Let every operation take its input as its first argument, also where it was given as ``input=x``."""
    for node in graph.nodes:
        if not node.args and next(iter(node.kwargs), None) == "input":
            _, *others = node.kwargs.items()
            node.args, node.kwargs = (node.kwargs["input"],), dict(others)


def _twin(node: fx.Node) -> nn.Module | Callable | str:
    """A function's twin among the modules where it has one, else the function itself."""
    called = node.op in ("call_function", "call_method")
    if not called or node.target not in _TWINS or any(n is not node.args[0] for n in node.all_input_nodes):
        return node.target
    module, names = _TWINS[node.target]
    settings = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return module(**{name: settings[name] for name in names if name in settings})


def _in_place(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node, as written in the model, overwrites its first input."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(node.target), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    if node.op == "call_function" and getattr(operator, name, None) is node.target:
        return name in ("iadd", "isub", "imul", "itruediv")
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    with contextlib.suppress(TypeError, ValueError):  # builtin functions have no signature
        return bool(inspect.signature(node.target).bind(*node.args).arguments.get("inplace", False))
    return False


def _out_of_place(graph: fx.Graph, operations: dict, overwriting: set[fx.Node]) -> None:
    """Let whoever read a tensor after it was overwritten read the new value by name.

    Every node then computes a new tensor, and a tap before an in-place ReLU shows what went in.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # node -> the node whose memory it looks into
    for node in graph.nodes:
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        overwrites = source is not None and node in overwriting
        views = isinstance(operations[node], _VIEWS) or function_name(node) in _VIEW_FUNCTIONS
        views = views or (node.target is getattr and node.args[1] in _VIEW_ATTRIBUTES)
        memory[node] = memory[source] if source is not None and (overwrites or views) else node
        if not overwrites:
            continue
        for other in [m for m in memory if memory[m] is memory[source] and m is not node]:
            for reader in [user for user in other.users if order[user] > order[node]]:
                if other is not source:
                    raise ValueError(
                        f"{node.name!r} overwrites what {reader.name!r} reads later through {other.name!r}; "
                        "make this operation out of place (inplace=False)"
                    )
                reader.replace_input_with(source, node)


def _names(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """Modules' paths first; what would take a name twice gets the next free number."""
    names: dict[fx.Node, str] = {}
    taken = set()
    for node in nodes:
        if node.op == "call_module" and node.target not in taken:
            names[node] = node.target
            taken.add(node.target)
    for function in (True, False):  # functions keep the tracer's name before calls are counted
        for node in nodes:
            if node in names or (node.op != "call_module") is not function:
                continue
            stem, number = (node.name, 0) if function else (node.target, 1)
            name = stem if function else f"{stem}_1"
            while name in taken:
                number += 1
                name = f"{stem}_{number}"
            names[node] = name
            taken.add(name)
    return {node: names[node] for node in nodes}


def is_cellwise(operation: object) -> bool:
    """Whether a module leaves every value in its cell of the map, and asks no other cell or picture."""
    of_batch = isinstance(operation, nn.BatchNorm2d) and operation.running_mean is None
    return isinstance(operation, CELLWISE_MODULES) and not of_batch


def _joins_cells(node: fx.Node) -> bool:
    name = function_name(node)
    if name in ("cat", "concat"):
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        return dim in (1, -3)
    return name in _CELLWISE_FUNCTIONS


def _geometry(y: _Axis, x: _Axis) -> Geometry:
    def both(name: str) -> int | Pair:
        a, b = getattr(y, name), getattr(x, name)
        return a if a == b else (a, b)

    return Geometry(both("field"), both("stride"), both("offset"))
