r"""How much of a projection was learned? The network is destroyed layer by layer, and the pictures compared.

A picture that explains what a network has learned must change when that is taken away. So weights are drawn
anew, a layer at a time, and after each step the same unit is projected again:

- *from the top down* (the cascade of Adebayo et al. 2018): first the layer of the unit itself, then the one
  below, until nothing learned is left;
- *from the bottom up*, its mirror: the unit keeps its own weights, and loses what it stands on.

Two more ways of taking something away: :func:`without_switches` forgets where the maxima were, and
:func:`mixed` asks for a random mixture of all maps in the place of one. :func:`likeness` compares two
projections by structural similarity within the unit's receptive field.

The unit is the same through all of this, map and position, whether it is active or not: it is given a
positive value (a bias has no part in a projection), which scales the projection and changes nothing else.

Sources: Adebayo et al. (2018), arXiv:1810.03292, who tested the gradient and guided back-propagation, not the
deconvnet of Zeiler & Fergus, doi:10.1007/978-3-319-10590-1_53; structural similarity: Wang et al. (2004),
doi:10.1109/TIP.2003.819861.

Example::

    from zfcore.data import photographs, to_input
    from zfcore.model import load, until
    from zfcore.randomization import cascade, likeness, project_units
    network, card = load("zfnet-64")
    layers, x = until(network, "conv5"), to_input([photographs()["chelsea"]], card)
    unit = {"layer": "features.12", "channels": [7], "positions": [(6, 6)]}
    trained = project_units(layers, x, **unit)
    {name: likeness(trained, project_units(changed, x, **unit)) for name, changed in cascade(layers)}
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from zfcore.deconvnet import Deconvnet
from zfcore.trace import pair, trace


# ------------------------------------------------------------------------------ taking away
def randomized(model: nn.Module, layers: Sequence[str], seed: int = 0) -> nn.Module:
    """A copy in which these convolutions and linear layers have He's random weights, and no biases.

    A layer's weights follow from ``seed`` and its place among the model's layers, whichever others are drawn.
    The global generator is left as it was.

    Raises ``ValueError`` for a name that is no such layer (the message lists them), and for a layer whose
    weight is made of others, as a pruned one's.
    """
    known = weighted(model)
    if unknown := [name for name in layers if name not in known]:
        raise ValueError(
            f"no convolution or linear layer {', '.join(unknown)}; there are: {', '.join(known)}"
        )
    for name in layers:
        layer = model.get_submodule(name)
        if not ("weight" in layer._parameters or is_parametrized(layer, "weight")):
            raise ValueError(
                f"the weight of {name!r} is made of others, as by pruning or weight norm: first call "
                "torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm"
            )
    changed = copy.deepcopy(model)
    for name in layers:
        layer = changed.get_submodule(name)
        draw = torch.Generator().manual_seed(1000 * seed + known.index(name))
        fan_in = layer.weight[0].numel()
        noise = torch.randn(layer.weight.shape, generator=draw) * (2 / fan_in) ** 0.5
        with torch.no_grad():
            if is_parametrized(layer, "weight"):  # what it is made of follows
                layer.weight = noise.to(layer.weight)
            else:
                layer.weight.copy_(noise)
        if layer.bias is not None:
            layer.bias.data.zero_()
    return changed


def weighted(model: nn.Module) -> list[str]:
    """The names of a model's convolutions and linear layers, in their order."""
    return [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def cascade(
    model: nn.Module, order: str = "down", keep: Sequence[str] = (), seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Lose one layer after another: yields the layer lost last, and the model without all lost so far.

    Parameters
    ----------
    model
        Any module; its convolutions and linear layers are taken in their order of registration.
    order
        ``"down"``: the last one first. ``"up"``: the first one first.
    keep
        Layers that are never lost.
    seed
        Of the random weights, see :func:`randomized`.

    Raises
    ------
    ValueError
        Another order.
    """
    if order not in ("down", "up"):
        raise ValueError(f"unknown order {order!r}; known: down, up")
    names = [name for name in weighted(model) if name not in keep]
    names = names[::-1] if order == "down" else names
    return ((name, randomized(model, names[:n], seed)) for n, name in enumerate(names, 1))


def without_switches(model: nn.Module) -> nn.Module:
    """A copy that pools by the mean: what comes down is spread over the window, for no one knows the place.

    The deconvnet looks at the picture through its switches alone (with the contrast norm as identity), so
    what this copy projects by that rule is the same for every picture, but for its scale.

    Raises ``ValueError`` for a max-pooling with a dilation, of which no mean is at hand, and for one that is
    a function.
    """
    changed = copy.deepcopy(model)
    for name, pool in list(changed.named_modules(remove_duplicate=False)):
        if isinstance(pool, nn.MaxPool2d):
            if pair(pool.dilation) != (1, 1):
                raise ValueError(f"no mean takes the place of {name!r}: its windows have holes")
            mean = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
            changed.set_submodule(name, mean.train(pool.training))
    followed = trace(changed)
    for layer, operation in ((layer, followed.operations[followed.node(layer)]) for layer in followed.layers):
        if isinstance(operation, nn.MaxPool2d):
            raise ValueError(f"{layer!r} pools by a function, which has switches; make it an nn.MaxPool2d")
    return changed


def mixed(model: nn.Module, maps: int, seed: int = 0) -> nn.Module:
    """A copy of the model with one more layer, ``mixture``: a random mixture of its ``maps`` maps at each
    position.

    Weights are N(0, 1): no direction among the maps is preferred. The global generator is left as it was.
    """
    like = next(model.parameters())
    mixture = skip_init(nn.Conv2d, maps, 1, 1, device=like.device, dtype=like.dtype)
    draw = torch.Generator().manual_seed(seed)
    mixture.weight.data.copy_(torch.randn(mixture.weight.shape, generator=draw))
    mixture.bias.data.zero_()
    return nn.Sequential(OrderedDict(model=copy.deepcopy(model), mixture=mixture)).eval()


# ------------------------------------------------------------------------------ comparing
def project_units(
    model: nn.Module,
    images: Tensor,
    layer: str,
    channels: Sequence[int] | Tensor,
    positions: Sequence[tuple[int, int]] | Tensor | None = None,
    rule: str = "deconvnet",
    norm: str = "identity",
) -> Tensor:
    """Project one unit of each image, active or not: it is lifted to a positive value first.

    Parameters
    ----------
    model
        A network as :class:`zfcore.deconvnet.Deconvnet` takes it; not changed.
    images
        (N, C, H, W).
    layer
        Name of a convolution or linear layer, which is taken before its ReLU.
    channels, positions
        N maps and N pairs y, x; linear layers have no positions.
    rule, norm
        As of :class:`zfcore.deconvnet.Deconvnet`.

    Returns
    -------
    Tensor
        (N, C, H, W), signed, each divided by its largest absolute value; a projection of zeros stays zero.

    Raises
    ------
    ValueError
        The layer has no weights and bias, or as :meth:`zfcore.deconvnet.Deconvnet.project`.
    """
    lifted = copy.deepcopy(model)
    unit = dict(lifted.named_modules()).get(layer)
    if layer not in weighted(model) or unit.bias is None:
        raise ValueError(f"{layer!r} has no weights and bias; there are: {', '.join(weighted(model))}")
    net = Deconvnet(lifted, norm)
    lowest = net.activations(images, [layer])[layer].amin()
    unit.bias.data += 1 - lowest
    positions = None if positions is None else torch.as_tensor(positions)
    found = net.project(images, layer, torch.as_tensor(channels), positions, rule)
    largest = found.abs().amax((1, 2, 3), keepdim=True)
    return found / torch.where(largest > 0, largest, 1)


def likeness(a: Tensor, b: Tensor, boxes: Sequence[tuple[int, int, int, int]] | None = None) -> np.ndarray:
    """The structural similarity of projections, (N, C, H, W) and (N, C, H, W) in [-1, 1] → (N,).

    1 for the same picture, 0 for no structure in common. Windows are Wang's Gaussians of σ = 1.5 pixels; the
    mean is over ``boxes`` (top, left, bottom, right, the last two not included), cut to the picture, for the
    zeros around a receptive field are alike in any two projections. Default: the whole picture.
    """
    options = {"data_range": 2.0, "gaussian_weights": True, "use_sample_covariance": False, "channel_axis": 0}
    found = []
    for n, (x, y) in enumerate(zip(a.cpu().double().numpy(), b.cpu().double().numpy(), strict=True)):
        _, local = structural_similarity(x, y, full=True, **options)  # (C, H, W)
        top, left, bottom, right = (0, 0, *x.shape[1:]) if boxes is None else boxes[n]
        found.append(local[:, max(0, top) : bottom, max(0, left) : right].mean())
    return np.array(found)
