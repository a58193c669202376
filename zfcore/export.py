r"""A network and its deconvnet as ONNX graphs, so that both can live in a page without Python.

``export_onnx`` writes one graph of the forward pass, with every listed layer as an output, and for
each of these layers one graph that projects a unit or a map back to the picture: the explicit inverse
network of §2.1 (unpool to the switches, rectify, filter with the transposed filters) behind the forward
pass that notes the switches. Nothing in it is traced from the running projection: each operation of the
network is written down twice, forward and back, so that a graph holds plain operators and a few constants.

With :math:`A` a ReLU's output and :math:`R` what comes back to it, the three rules are one expression,

.. math:: \max(R, b)\,[A > a], \qquad
   (a, b) = (-\infty, 0),\ (0, -\infty),\ (0, 0) \text{ for deconvnet, gradient, guided},

so one graph serves them all, and all channels and positions of its layer.

Sources: Zeiler & Fergus, §2.1, doi:10.1007/978-3-319-10590-1_53; the rules as in :mod:`zfcore.deconvnet`;
the operators' definitions in ONNX, operator set 18.

Example::

    import numpy as np
    import onnxruntime
    from zfcore.export import export_onnx
    from zfcore.model import load
    network, card = load("zfnet-64")
    export_onnx(network, card["input_size"], ["features.1", "features.10"], "graphs")
    session = onnxruntime.InferenceSession("graphs/project_features.10.onnx")
    (projection,) = session.run(None, {
        "picture": np.zeros((1, 3, 56, 56), np.float32),
        "channel": np.array(7), "position": np.array([6, 6]), "rule": np.array(0),
    })  # (1, 3, 56, 56)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from torch import Tensor, fx, nn

from zfcore.deconvnet import RULES
from zfcore.model import write_atomically
from zfcore.trace import Trace, function_name, listed, pair, sliding_window, trace

OPSET = 18
WEIGHTS = "weights.bin"
_IR_VERSION = 8  # the file format that came with operator set 18; older runtimes refuse newer ones


def export_onnx(
    model: nn.Module,
    input_size: int,
    layers: Iterable[str],
    folder: str | os.PathLike,
    half: bool = False,
    *,
    logits: bool = True,
) -> dict:
    """Write a network, and the projection from each of some layers, as ONNX graphs that share their weights.

    The folder gets

    - ``forward.onnx``: input ``pictures`` (N, 3, S, S), N free; one output per layer, under its name,
      and ``logits`` (N, classes);
    - ``project_<layer>.onnx`` for each layer and for the logits: inputs ``picture`` (1, 3, S, S),
      ``channel`` (int64), ``position`` (int64, (2,): y and x; -1, -1 for the whole map; not used for a
      fully connected layer) and ``rule`` (int64: 0 deconvnet, 1 gradient, 2 guided); output ``projection``
      (1, 3, S, S), what ``Deconvnet.project`` gives;
    - ``weights.bin``: the weights of all these graphs, each once (ONNX external data);
    - ``manifest.json``, written last: what is returned.

    All computation is in float32; the same network gives the same bytes.

    Parameters
    ----------
    model
        A network that :class:`zfcore.deconvnet.Deconvnet` can undo. It is not changed.
    input_size
        S, the side of the square pictures, in pixels.
    layers
        Names as in ``Deconvnet(model).layers``.
    folder
        Made if it is missing; files of these names are replaced, others stay.
    half
        Store the weights in half precision, and let the graphs cast them. Nothing is lost for weights
        that are half precision already; what others lose is the manifest's ``rounding``.
    logits
        False leaves out what follows the last of ``layers``.

    Returns
    -------
    dict
        ``opset``, ``input_size``, ``half``, ``rounding`` (largest change of a weight by half precision,
        as a share of its tensor's largest), ``rules`` (index = the graphs' number), ``weights`` and
        ``forward`` (each ``file`` and ``bytes``), and ``layers``, a list in the order of the computation:
        ``name``, ``kind`` (``"map"`` or ``"linear"``), ``shape`` ([C, H, W] or [D]), ``geometry``
        (``receptive_field``, ``stride`` and ``offset`` as [y, x] in pixels, or None), ``file``, ``bytes``.

    Raises
    ------
    ValueError
        Unknown layer; pictures of this size do not pass; an operation that has no inverse, or no
        counterpart in ONNX (the message names it); weights beyond the range of half precision.
    """
    network = trace(model)
    named = {layer: network.node(layer) for layer in listed(layers)}
    named = {layer: node for layer in network.layers if (node := named.get(layer))}
    if logits:
        named = _with_logits(network, named)
    values = _values(network, model, input_size, named.values())
    if logits and values[named["logits"]].ndim != 2:
        raise ValueError("the network's result is no (N, classes) tensor of logits; export with logits=False")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)

    with open(folder / WEIGHTS, "wb") as file:
        weights = _Weights(file, half)
        graph, shape = _Graph(weights), (3, input_size, input_size)
        graph.input("pictures", "N", *shape)
        found, _ = _forward(graph, network, values, named.values(), "pictures")
        for layer, node in named.items():
            graph.output(layer, found[node], "N", *values[node].shape[1:])
        forward = graph.save(folder / "forward.onnx")
        projections = [
            _project(_Graph(weights), network, values, node, shape).save(folder / f"project_{layer}.onnx")
            for layer, node in named.items()
        ]
        manifest = {
            "opset": OPSET,
            "input_size": input_size,
            "half": half,
            "rounding": weights.rounding,
            "rules": list(RULES),
            "weights": {"file": WEIGHTS, "bytes": file.tell()},
            "forward": forward,
            "layers": [
                _described(network, layer, values[node]) | saved
                for (layer, node), saved in zip(named.items(), projections, strict=True)
            ],
        }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "manifest.json", text.encode())
    return manifest


# ------------------------------------------------------------------------------ the network
def _with_logits(network: Trace, named: dict[str, fx.Node]) -> dict[str, fx.Node]:
    result = network.node(network.result)
    if named.get("logits", result) is not result:
        raise ValueError(
            "the network's layer 'logits' is not its result, which takes this name; rename the layer, or "
            "export with logits=False"
        )
    return named | {"logits": result}


def _values(network: Trace, model: nn.Module, side: int, nodes: Iterable[fx.Node]) -> dict[fx.Node, object]:
    """What every node gives for two blank pictures: the shape of each layer, and the constants."""
    weight = next(model.parameters(), torch.zeros(()))
    values = {network.input: weight.new_zeros(2, 3, side, side)}
    network.check_images(values[network.input])
    with torch.no_grad():
        for node in network.needed(nodes):
            if node is not network.input:
                values[node] = network.compute(node, values)
            if not network.is_layer(node):
                continue
            if not isinstance(values[node], Tensor):
                raise ValueError(
                    f"layer {network.names[node]!r} gives {type(values[node]).__name__}, no tensor"
                )
            if len(values[node]) != 2:
                raise ValueError(f"layer {network.names[node]!r} does not keep the pictures of a batch apart")
    for node in nodes:
        if values[node].ndim not in (2, 4):
            shape = tuple(values[node].shape)
            raise ValueError(
                f"layer {network.names[node]!r} is {shape}, neither maps (N, C, H, W) nor units (N, D)"
            )
    return values


def _described(network: Trace, layer: str, value: Tensor) -> dict:
    geometry = network.geometry.get(layer)
    return {
        "name": layer,
        "kind": "map" if value.ndim == 4 else "linear",
        "shape": list(value.shape[1:]),
        "geometry": geometry and {name: list(pair(v)) for name, v in vars(geometry).items()},
    }


# ------------------------------------------------------------------------------ the graphs
class _Weights:
    """The one file that all graphs take their weights from; every tensor is written once."""

    def __init__(self, file, half: bool):
        self.file, self.half = file, half
        self.rounding = 0.0
        self._written: dict[str, TensorProto] = {}

    def parameter(self, name: str, tensor: Tensor) -> TensorProto:
        """A trained tensor; in half precision if so asked."""
        if name not in self._written:
            array = tensor.detach().cpu().float().numpy()
            if self.half:
                array = self._halved(name, array)
            self._write(name, array)
        return self._written[name]

    def constant(self, name: str, array: np.ndarray) -> TensorProto:
        """An array that the export worked out, as it is."""
        if name not in self._written:
            self._write(name, array)
        return self._written[name]

    def _halved(self, name: str, array: np.ndarray) -> np.ndarray:
        largest = np.abs(array).max(initial=0)
        if not largest <= np.finfo(np.float16).max:
            raise ValueError(
                f"{name!r} has a weight of {largest:.3g}, beyond half precision; export with half=False"
            )
        halved = array.astype(np.float16)
        if largest:
            self.rounding = max(self.rounding, float(np.abs(array - halved).max() / largest))
        return halved

    def _write(self, name: str, array: np.ndarray) -> None:
        self.file.write(b"\0" * (-self.file.tell() % 64))  # aligned, so that a runtime may map the file
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = TensorProto(name=name, dims=array.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        where = {"location": WEIGHTS, "offset": self.file.tell(), "length": array.nbytes}
        for key, value in where.items():
            proto.external_data.add(key=key, value=str(value))
        self.file.write(np.ascontiguousarray(array))
        self._written[name] = proto


@dataclass(frozen=True)
class _Rule:
    """Names of scalars: which rule it is, and what it lets pass a ReLU, max(R, least)·[A > open_above]."""

    is_deconvnet: str
    is_gradient: str
    least: str
    open_above: str


class _Graph:
    """One ONNX graph being written. Calling it adds an operator and gives the name of its output.

    An operator's inputs are names of values, or numbers, lists and arrays, which become constants:
    whole numbers as int64, others as float32.
    """

    def __init__(self, weights: _Weights):
        self.layer = ""  # for the operators' names, so that a runtime's error can be understood
        self.rule: _Rule | None = None  # of a graph that goes back
        self.nodes: list[onnx.NodeProto] = []
        self._weights = weights
        self._tensors: dict[str, TensorProto] = {}
        self._cast: dict[str, str] = {}
        self._inputs, self._outputs = [], []

    def __call__(self, operator: str, *inputs: object, **attributes: object) -> str:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = f"{self.layer}/{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def input(self, name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def output(self, name: str, value: str, *shape: int | str) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def parameter(self, name: str, tensor: Tensor) -> str:
        """A trained tensor, as float32."""
        proto = self._tensors[name] = self._weights.parameter(name, tensor)
        if proto.data_type == TensorProto.FLOAT:
            return name
        if name not in self._cast:
            self._cast[name] = self("Cast", name, to=TensorProto.FLOAT)
        return self._cast[name]

    def _constant(self, value: object) -> str:
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
        name = f"constant {hashlib.sha256(content).hexdigest()[:16]}"
        if name not in self._tensors:
            large = array.size > 256
            self._tensors[name] = self._weights.constant(name, array) if large else from_array(array, name)
        return name

    def save(self, path: Path) -> dict:
        tensors = list(self._tensors.values())
        graph = helper.make_graph(self.nodes, path.stem, self._inputs, self._outputs, tensors)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="zfcore")
        blob = model.SerializeToString(deterministic=True)
        path.write_bytes(blob)
        return {"file": path.name, "bytes": len(blob)}


def _forward(graph: _Graph, network: Trace, values: dict, nodes: Iterable[fx.Node], pictures: str):
    """Write the forward pass: ``(name of each node's value, way back through each node)``."""
    found, ways = {network.input: pictures}, {}
    for node in network.needed(nodes):
        if network.is_layer(node):
            graph.layer = network.names[node]
            found[node], ways[node] = _lower(graph, _Step(network, node, values, found))
    return found, ways


def _project(graph: _Graph, network: Trace, values: dict, node: fx.Node, shape: tuple[int, ...]) -> _Graph:
    """Write a projection: forward to a layer, the seed there, and back."""
    graph.input("picture", 1, *shape)
    for name, *form in (("channel",), ("position", 2), ("rule",)):
        graph.input(name, *form, kind=TensorProto.INT64)
    found, ways = _forward(graph, network, values, [node], "picture")
    graph.layer = "rule"
    deconvnet, gradient = (graph("Equal", "rule", RULES.index(name)) for name in ("deconvnet", "gradient"))
    least, open_above = (graph("Where", rule, -math.inf, 0.0) for rule in (gradient, deconvnet))
    graph.rule = _Rule(deconvnet, gradient, least, open_above)
    graph.layer = "seed"
    arrived = {node: _seed(graph, found[node], values[node].shape[1:])}
    for step in reversed(ways):
        if step not in arrived:  # only its size is wanted
            continue
        graph.layer = f"{network.names[step]}/back"
        for source, r in ways[step](arrived.pop(step)):
            arrived[source] = graph("Add", arrived[source], r) if source in arrived else r
    graph.output("projection", arrived[network.input], 1, *shape)
    return graph


def _seed(graph: _Graph, value: str, shape: tuple[int, ...]) -> str:
    """The layer's value (for the gradient: 1) at the chosen unit or over the chosen map, elsewhere 0."""
    chosen = graph("Equal", graph("Range", 0, shape[0], 1), "channel")  # (C,)
    if len(shape) == 3:
        chosen = graph("Unsqueeze", chosen, [1, 2])  # (C, 1, 1)
        for axis in (0, 1):  # (H, 1), then (W,)
            place = graph("Gather", "position", axis)
            here = graph("Equal", graph("Range", 0, shape[1 + axis], 1), place)
            here = graph("Or", here, graph("Less", place, 0))
            chosen = graph("And", chosen, graph("Unsqueeze", here, [1]) if axis == 0 else here)
    return graph("Where", chosen, graph("Where", graph.rule.is_gradient, 1.0, value), 0.0)


# ------------------------------------------------------------------------------ the operations
Back = Callable[[str], list[tuple[fx.Node, str]]]

# What only moves cells: every cell of the output is one of the input's, or zero.
_MOVING_MODULES = (
    nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.ZeroPad2d,
    nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
_MOVING_FUNCTIONS = {
    "clone", "contiguous", "pad", "view", "reshape", "flatten", "unflatten", "permute", "transpose",
    "squeeze", "unsqueeze", "getitem",
}  # fmt: skip


class _Step:
    """One operation of the network, with all that is needed to write it down."""

    def __init__(self, network: Trace, node: fx.Node, values: dict, found: dict[fx.Node, str]):
        self.network, self.node, self.values = network, node, values
        self.operation, self.function = network.operations[node], function_name(node)
        self.operands: list[fx.Node] = []  # the layers it takes, in the order of the arguments
        fx.node.map_arg((node.args, node.kwargs), lambda n: self.operands.append(n) if n in found else None)
        self.inputs = [found[source] for source in self.operands]
        self.shapes = [tuple(values[source].shape[1:]) for source in self.operands]
        self.shape = tuple(values[node].shape[1:])

    def argument(self, place: int, name: str, default: object = None) -> object:
        """An argument of a function, by its place or name; what is computed for it is a constant."""
        given = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)
        return fx.node.map_arg(given, lambda n: n if n in self.operands else self.values[n])

    def parameter(self, graph: _Graph, name: str) -> list[str]:
        """The module's parameter, if it has it."""
        tensor = getattr(self.operation, name)
        return [] if tensor is None else [graph.parameter(f"{self.node.target}.{name}", tensor)]

    def refusal(self) -> ValueError:
        operation = self.operation
        if not isinstance(operation, nn.Module | str):
            operation = getattr(operation, "__name__", operation)
        return ValueError(
            f"no ONNX graph there and back for {self.network.names[self.node]!r}: {operation}. There is one "
            "for convolutions padded with zeros, ReLUs, max and average pools, contrast norms, batch norms "
            "with running statistics, linear layers, dropout, sums, scalings, concatenations and reshapes, "
            "all without hooks; export layers before it, or replace it"
        )


def _lower(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """Write one operation down: the name of its value, and the function that writes its way back."""
    operation = step.operation
    if isinstance(operation, nn.Module) and (operation._forward_hooks or operation._forward_pre_hooks):
        raise step.refusal()
    match operation:
        case nn.Conv2d() if sliding_window(operation):
            lower = _convolution
        case nn.ReLU():
            lower = _relu
        case nn.MaxPool2d() if not operation.return_indices:
            lower = _max_pool
        case nn.LocalResponseNorm():
            lower = _contrast_norm
        case nn.Linear() if len(step.shape) == 1:
            lower = _linear
        case nn.BatchNorm1d() | nn.BatchNorm2d() if operation.running_mean is not None:
            lower = _batch_norm
        case nn.AdaptiveAvgPool2d():
            lower = _average_pool
        case nn.AvgPool2d() if operation.divisor_override is None:
            lower = _average_pool
        case nn.Module():
            lower = _moved if isinstance(operation, _MOVING_MODULES) else None
        case _:
            lower = _FUNCTIONS.get(step.function)
    if lower is None or (len(step.operands) > 1 and lower not in (_joined, _arithmetic)):
        raise step.refusal()
    return lower(graph, step)


def _single(step: _Step, back: Callable[[str], str]) -> Back:
    """The way back to the only layer that an operation takes."""
    (source,) = step.operands
    return lambda r: [(source, back(r))]


def _ends(step: _Step) -> tuple[list[int], list[int]]:
    """How a window's cells meet the map's ends: ``(pads, spare)``.

    ``pads`` are [top, left, bottom, right], as far as the windows reach; ``spare`` counts the rows and
    columns at the far ends, padding not included, that no window reaches.
    """
    begin, end = [], []
    window = sliding_window(step.operation)
    for (extent, stride, padding), before, after in zip(
        window, step.shapes[0][1:], step.shape[1:], strict=True
    ):
        begin.append(padding)
        end.append((after - 1) * stride + extent - padding - before)
    return begin + [max(0, e) for e in end], [max(0, -e) for e in end]


def _convolution(graph: _Graph, step: _Step) -> tuple[str, Back]:
    conv, (pads, spare) = step.operation, _ends(step)
    settings = {"strides": conv.stride, "dilations": conv.dilation, "group": conv.groups, "pads": pads}
    weight, bias = step.parameter(graph, "weight"), step.parameter(graph, "bias")

    def back(r):
        return graph("ConvTranspose", r, *weight, output_padding=spare, **settings)

    return graph("Conv", *step.inputs, *weight, *bias, **settings), _single(step, back)


def _relu(graph: _Graph, step: _Step) -> tuple[str, Back]:
    y = graph("Relu", *step.inputs)

    def back(r):
        return graph(
            "Where", graph("Greater", y, graph.rule.open_above), graph("Max", r, graph.rule.least), 0.0
        )

    return y, _single(step, back)


def _max_pool(graph: _Graph, step: _Step) -> tuple[str, Back]:
    pool, (pads, _) = step.operation, _ends(step)
    size, stride, dilation = (pair(v) for v in (pool.kernel_size, pool.stride, pool.dilation))
    y = graph("MaxPool", *step.inputs, kernel_shape=size, strides=stride, dilations=dilation, pads=pads)
    node = graph.nodes[-1]

    def back(r):
        node.output.append(f"{y}/switches")  # flat places in the whole input; of equal maxima the first
        places = graph("ConstantOfShape", [math.prod(step.shapes[0])])
        switches, r = (graph("Reshape", value, [-1]) for value in (node.output[1], r))
        spread = graph("ScatterElements", places, switches, r, axis=0, reduction="add")
        return graph("Reshape", spread, [1, *step.shapes[0]])

    return y, _single(step, back)


def _linear(graph: _Graph, step: _Step) -> tuple[str, Back]:
    weight, bias = step.parameter(graph, "weight"), step.parameter(graph, "bias")
    y = graph("Gemm", *step.inputs, *weight, *bias, transB=1)
    return y, _single(step, lambda r: graph("MatMul", r, *weight))


def _contrast_norm(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """y = x·t with t = s^−β, s = k + α Σ x²; its derivative g·t − 2αβ·x·Σ(g·x·t/s)."""
    norm, (x,), (maps, *_) = step.operation, step.inputs, step.shapes[0]
    alpha = getattr(norm, "alpha_per_map", norm.alpha / norm.size)
    if type(norm).forward is not nn.LocalResponseNorm.forward and not hasattr(norm, "alpha_per_map"):
        raise step.refusal()
    before, after = norm.size // 2, (norm.size - 1) // 2

    def neighbours(value, before, after):
        """The sum over the maps from ``before`` below to ``after`` above, divided by their number."""
        value = graph("Reshape", value, [0, 1, maps, -1])
        window = {"kernel_shape": [norm.size, 1], "pads": [before, 0, after, 0], "count_include_pad": 1}
        return graph("Reshape", graph("AveragePool", value, **window), [0, *step.shape])

    scale = alpha * norm.size
    s = graph("Add", graph("Mul", neighbours(graph("Mul", x, x), before, after), scale), float(norm.k))
    if norm.beta == 0.75:  # two roots are several times faster than a power
        t = graph("Reciprocal", graph("Sqrt", graph("Mul", s, graph("Sqrt", s))))
    else:
        t = graph("Pow", s, -float(norm.beta))

    def back(r):
        rt = graph("Mul", r, t)
        spread = neighbours(graph("Div", graph("Mul", rt, x), s), after, before)
        derivative = graph("Sub", rt, graph("Mul", graph("Mul", x, spread), 2 * norm.beta * scale))
        return graph("Where", graph.rule.is_deconvnet, r, derivative)

    return graph("Mul", x, t), _single(step, back)


def _batch_norm(graph: _Graph, step: _Step) -> tuple[str, Back]:
    norm = step.operation
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        shift = shift if norm.bias is None else shift + norm.bias
    form = (-1,) + (1,) * (len(step.shape) - 1)
    scale, shift = (value.cpu().numpy().reshape(form) for value in (scale, shift))
    y = graph("Add", graph("Mul", *step.inputs, scale), shift)
    return y, _single(step, lambda r: graph("Mul", r, scale))


def _average_pool(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """An average over a rectangle is one along rows and one along columns: a matrix for each."""
    pool, matrices = step.operation, []
    if step.shape == step.shapes[0] and isinstance(pool, nn.AdaptiveAvgPool2d):
        return step.inputs[0], _single(step, lambda r: r)
    for axis in (0, 1):
        cells = torch.eye(step.shapes[0][1 + axis])[None]  # (1, H, H)
        if isinstance(pool, nn.AdaptiveAvgPool2d):
            averaged = F.adaptive_avg_pool1d(cells, step.shape[1 + axis])
        else:
            size, stride, padding = (pair(v)[axis] for v in (pool.kernel_size, pool.stride, pool.padding))
            averaged = F.avg_pool1d(cells, size, stride, padding, pool.ceil_mode, pool.count_include_pad)
        matrices.append(averaged[0].numpy())  # (H, H')
    rows, columns = matrices
    y = graph("MatMul", rows.T, graph("MatMul", *step.inputs, columns))
    return y, _single(step, lambda r: graph("MatMul", rows, graph("MatMul", r, columns.T)))


def _moved(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """Send the cells' numbers, from 1, through the operation, and gather by what comes out; 0 is no cell."""
    (x,), (source,), (shape,) = step.inputs, step.operands, step.shapes
    count = math.prod(shape)
    numbers = torch.arange(1.0, count + 1, dtype=torch.float64).reshape(1, *shape).expand(2, *shape)
    moved, nothing = (
        step.network.compute(step.node, step.values | {source: cells.contiguous()})
        for cells in (numbers, torch.zeros_like(numbers))
    )
    if nothing.any() or not torch.equal(moved[0], moved[1]):  # padded with a value, or across pictures
        raise step.refusal()
    if torch.equal(moved[0].flatten(), numbers[0].flatten()):
        if step.shape == shape:
            return x, _single(step, lambda r: r)
        return graph("Reshape", x, [0, *step.shape]), _single(
            step, lambda r: graph("Reshape", r, [0, *shape])
        )
    places = moved[0].flatten().long().numpy()
    cells = graph("Pad", graph("Reshape", x, [0, count]), [0, 1, 0, 0])  # (N, 1 + cells)

    def back(r):
        nowhere = graph("ConstantOfShape", [count + 1])
        spread = graph("ScatterElements", nowhere, places, graph("Reshape", r, [-1]), axis=0, reduction="add")
        return graph("Reshape", graph("Slice", spread, [1], [count + 1]), [1, *shape])

    return graph("Reshape", graph("Gather", cells, places, axis=1), [0, *step.shape]), _single(step, back)


def _joined(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """A concatenation; back, each layer gets its slice."""
    if len(step.operands) != len(step.argument(0, "tensors")):  # a constant among them
        raise step.refusal()
    axis = step.argument(1, "dim", step.node.kwargs.get("axis", 0)) % (len(step.shape) + 1)
    ends = np.cumsum([0, *(shape[axis - 1] for shape in step.shapes)]).tolist()

    def back(r):
        pieces = zip(step.operands, ends[:-1], ends[1:], strict=True)
        return [(source, graph("Slice", r, [start], [end], [axis])) for source, start, end in pieces]

    return graph("Concat", *step.inputs, axis=axis), back


def _reduced(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """A sum or a mean over axes of the maps."""
    (shape,), dims = step.shapes, step.argument(1, "dim")
    if dims is None or step.node.kwargs.keys() - {"dim", "keepdim"}:
        raise step.refusal()
    axes = sorted(d % (len(shape) + 1) for d in ([dims] if isinstance(dims, int) else dims))
    kept = [1 if axis in axes else n for axis, n in enumerate((1, *shape))]
    share = 1 / math.prod(shape[axis - 1] for axis in axes) if step.function == "mean" else 1.0

    def back(r):
        return graph("Mul", graph("Expand", graph("Reshape", r, kept), [1, *shape]), share)

    y = graph("Mul", graph("ReduceSum", *step.inputs, axes, keepdims=0), share)
    return graph("Reshape", y, [0, *step.shape]), _single(step, back)


def _arithmetic(graph: _Graph, step: _Step) -> tuple[str, Back]:
    """Sums and differences, of layers or with constants; products with and quotients by constants."""
    operator = _ARITHMETIC[step.function]
    terms = [step.argument(place, "other") for place in (0, 1)]
    scaling = operator in ("Mul", "Div")
    if step.node.kwargs.keys() - {"other"} or any(shape != step.shape for shape in step.shapes):
        raise step.refusal()
    if scaling and (len(step.operands) > 1 or (operator == "Div" and terms[0] not in step.operands)):
        raise step.refusal()
    inputs = iter(step.inputs)
    given = [
        next(inputs) if isinstance(term, fx.Node) else torch.as_tensor(term).detach().cpu().float().numpy()
        for term in terms
    ]

    def back(r):
        if scaling:
            (constant,) = (value for value in given if not isinstance(value, str))
            return [(step.operands[0], graph(operator, r, constant))]
        signed = [r, graph("Neg", r) if operator == "Sub" else r]
        return [(term, r) for term, r in zip(terms, signed, strict=True) if isinstance(term, fx.Node)]

    return graph(operator, *given), back


def _negated(graph: _Graph, step: _Step) -> tuple[str, Back]:
    return graph("Neg", *step.inputs), _single(step, lambda r: graph("Neg", r))


_ARITHMETIC = {
    "add": "Add", "iadd": "Add", "sub": "Sub", "isub": "Sub", "mul": "Mul", "imul": "Mul", "div": "Div",
    "truediv": "Div", "itruediv": "Div",
}  # fmt: skip
_FUNCTIONS = {
    **dict.fromkeys(_MOVING_FUNCTIONS, _moved),
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(("cat", "concat"), _joined),
    **dict.fromkeys(("mean", "sum"), _reduced),
    "neg": _negated,
}
