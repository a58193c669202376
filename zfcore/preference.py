r"""What activation maximisation finds, as numbers: the trap of the probability, and what regularisers buy.

*The trap.* For classes drawn by a seed, the same noise is climbed twice, by as many steps of the same length:
towards the logit :math:`z_c` and towards the probability
:math:`p_c = e^{z_c} / \sum_k e^{z_k}`, whose gradient

.. math:: \nabla p_c = p_c \Bigl( \nabla z_c - \sum_k p_k \nabla z_k \Bigr)

also grows where the other classes are pushed down, those first that are the most probable. Measured are the
rise of the class's own logit, the change of the mean of the others and of the largest among them, and the
probability at the end; the difference in the first, paired by class, has an interval (bootstrap over classes,
percentiles, 95 %). The logit is what the one ascent climbs and the other does not, so it favours the one. A
*judge* is another network, which neither has climbed: measured is by how much the logarithm of its own
:math:`p_c` rises, and whether the class is its first guess.

*The regularisers.* For units drawn by a seed, each the middle one of its map and taken before its ReLU, and
for classes: what each regulariser alone, and all together, leave of the activation that the plain ascent
reaches in as many steps; how much of the picture's energy is in high frequencies (over a third of a cycle per
pixel); and how alike two pictures of one unit from two seeds are (correlation within its receptive field).

Sources: the logit instead of the probability: Simonyan, Vedaldi & Zisserman, arXiv:1312.6034, §2; the
regularisers as in :mod:`zfcore.maximization`.

Example::

    from zfcore.model import load
    from zfcore.preference import trap
    from zfcore.view import Viewer
    trap(Viewer(*load("zfnet-64")), classes=4)["difference"]
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from zfcore.comparison import interval
from zfcore.ledger import provenance
from zfcore.maximization import PLAIN, REGULARISED, Recipe, maximize, noise
from zfcore.spectra import band_shares
from zfcore.view import Viewer

#: The plain ascent by steps of one length, since what is compared is where they lead.
STEPS = replace(PLAIN, iterations=40, epsilon=1e-12)
#: The same, with each regulariser of :data:`zfcore.maximization.REGULARISED` alone, and with all.
VARIANTS: dict[str, Recipe] = {
    "plain": STEPS,
    "L2": replace(STEPS, l2=REGULARISED.l2),
    "total variation": replace(STEPS, tv=REGULARISED.tv),
    "jitter": replace(STEPS, jitter=REGULARISED.jitter),
    "scale and rotation": replace(STEPS, scale=REGULARISED.scale, rotation=REGULARISED.rotation),
    "frequency space": replace(STEPS, frequency=REGULARISED.frequency),
    "all": replace(REGULARISED, iterations=STEPS.iterations, epsilon=STEPS.epsilon),
}


def trap(
    viewer: Viewer,
    classes: int = 100,
    seed: int = 0,
    progress: bool = False,
    judge: Viewer | None = None,
) -> dict[str, Any]:
    """Climb logits and probabilities of ``classes`` classes drawn with ``seed`` from the same noise.

    ``judge`` looks at what was found; it is a network of the same classes, on pictures as large.

    Returns
    -------
    dict
        ``n``; for ``logit`` and ``probability`` the mean rise of the ``target`` logit, the mean change of the
        mean of the ``others``, the mean ``probability`` at the end, and the mean change of the largest of the
        others, the ``rival``; ``difference``: ``mean`` and ``interval`` [low, high] of the target's rise by
        the logit minus that by the probability. With a judge also ``judge``: for each of the two the mean
        ``rise`` of the log-probability and the share of classes that are its ``first`` guess, and their
        ``difference``.

    Raises
    ------
    ValueError
        The judge is the climbed network, has other classes or names none, or takes pictures of another size.
    """
    layer = viewer.net.trace.result
    if judge:
        _insist_on_another(viewer, judge)
    logits = _answers(viewer, layer, noise(viewer.side, [seed]))
    drawn = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))[:classes]
    climbed: dict[str, list[Tensor]] = {"logit": [], "probability": []}
    seen: dict[str, list[Tensor]] = {"logit": [], "probability": []}
    for some in tqdm(drawn.split(10), "classes", disable=not progress, leave=False):
        seeds = [seed * logits.shape[1] + c for c in some.tolist()]
        start = noise(viewer.side, seeds, STEPS.contrast)
        before = _answers(viewer, layer, start)
        for objective, found in climbed.items():
            aim = {"objective": objective, "recipe": STEPS, "seed": seeds}
            pictures = maximize(viewer.model, layer, some, viewer.side, **aim).image
            if judge:
                seen[objective].append(_judged(viewer, judge, some, start, pictures))
            after = _answers(viewer, layer, pictures)
            own = torch.zeros_like(after, dtype=torch.bool).scatter_(1, some[:, None], True)
            rises = after[own] - before[own]
            others, others_before = (z[~own].unflatten(0, (len(some), -1)) for z in (after, before))
            fell = others.mean(1) - others_before.mean(1), others.amax(1) - others_before.amax(1)
            found.append(torch.stack([rises, fell[0], after.softmax(1)[own], fell[1]]))
    of = {objective: torch.cat(found, 1) for objective, found in climbed.items()}  # (4, n) each
    words = ("target", "others", "probability", "rival")
    told = {
        objective: dict(zip(words, found.mean(1).tolist(), strict=True)) for objective, found in of.items()
    }
    found = {"n": len(drawn), **told, "difference": _difference(of["logit"][0], of["probability"][0], seed)}
    if judge:
        by = {objective: torch.cat(some, 1) for objective, some in seen.items()}  # (2, n) each
        found["judge"] = {
            "architecture": judge.card.get("architecture"),
            "sha256": judge.card.get("sha256"),
            **{o: dict(zip(("rise", "first"), rows.mean(1).tolist(), strict=True)) for o, rows in by.items()},
            "difference": _difference(by["logit"][0], by["probability"][0], seed),
        }
    return found


def _insist_on_another(viewer: Viewer, judge: Viewer) -> None:
    """Raise ``ValueError`` unless the judge is another network of the same classes and the same pictures."""
    if judge.side != viewer.side:
        raise ValueError(f"a judge takes pictures of {viewer.side} pixels; this one takes {judge.side}")
    if not judge.card.get("classes") or judge.card["classes"] != viewer.card.get("classes"):
        raise ValueError(
            "a judge knows the same classes in the same order, by the names in its card; give a network "
            "that `zfcore train` or `zfcore reproduce` has trained on the pictures of the climbed one"
        )
    own = judge.card.get("sha256")
    if judge.model is viewer.model or (own and own == viewer.card.get("sha256")):
        raise ValueError("a judge is another network than the climbed one; these are the same weights")


def _difference(a: Tensor, b: Tensor, seed: int) -> dict[str, Any]:
    found = interval((a - b).numpy(), seed)
    return {"mean": found["mean"], "interval": [found["low"], found["high"]]}


def _judged(viewer: Viewer, judge: Viewer, classes: Tensor, start: Tensor, pictures: Tensor) -> Tensor:
    """What the judge makes of ``pictures`` (B, 3, S, S), climbed from ``start``: (2, B).

    The rise of the logarithm of the class's probability, and whether (1 or 0) the class is its first guess.
    """
    layer, own = judge.net.trace.result, classes[:, None]
    before, after = (
        _answers(judge, layer, judge.taken(viewer.pixels(x))).log_softmax(1) for x in (start, pictures)
    )
    rise = (after.gather(1, own) - before.gather(1, own))[:, 0]
    return torch.stack([rise, (after.argmax(1) == classes).double()])


def regularisers(
    viewer: Viewer, units: int = 4, seed: int = 0, progress: bool = False
) -> dict[str, dict[str, dict[str, float]]]:
    """Climb ``units`` units of each layer, and as many classes, drawn with ``seed``, by each of the variants.

    Returns
    -------
    dict
        Variant → ``kept`` (activation reached as a share of the plain one's), ``high`` (share of high
        frequencies), ``agreement`` (correlation of two seeds) and ``size`` (root mean square of the picture),
        each with ``mean``, ``low`` and ``high`` over the units, of which each stands for its two seeds.
    """
    befores = [viewer.before(path) for path in viewer.layers.values()]
    befores += [viewer.net.trace.result] if viewer.classifier else []
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, list[Tensor]]] = {}
    for layer in tqdm(befores, "layers", disable=not progress, leave=False):
        value = _answers(viewer, layer, noise(viewer.side, [seed]))
        chosen = torch.randperm(value.shape[1], generator=draw)[:units].tolist()
        seeds = [2 * seed] * len(chosen) + [2 * seed + 1] * len(chosen)
        see = (..., slice(None), slice(None))
        if value.ndim == 4:
            top, left, bottom, right = viewer.net.geometry[layer].box(*(n // 2 for n in value.shape[2:]))
            see = (..., slice(max(0, top), bottom), slice(max(0, left), right))
        for name, recipe in VARIANTS.items():
            aim = {"position": "middle", "recipe": recipe, "seed": seeds}
            r = maximize(viewer.model, layer, chosen * 2, viewer.side, **aim)
            reached = torch.tensor([history[-1] for history in r.history], dtype=torch.float64)
            plain = found["plain"]["reached"][-1] if name != "plain" else reached
            pictures = r.image[see].cpu().double()
            first, second = pictures.flatten(1).split(len(chosen))
            measured = {
                "reached": reached,
                "kept": _by_unit(reached / plain),
                "high": _by_unit(band_shares(pictures)[:, 2]),
                "size": _by_unit(pictures.square().mean((1, 2, 3)).sqrt()),
                "agreement": torch.stack(
                    [torch.corrcoef(torch.stack(two))[0, 1] for two in zip(first, second, strict=True)]
                ),
            }
            for what, values in measured.items():
                found.setdefault(name, {}).setdefault(what, []).append(values)
    return {
        name: {
            what: interval(torch.cat(values).numpy(), seed)
            for what, values in of.items()
            if what != "reached"
        }
        for name, of in found.items()
    }


def _by_unit(values: Tensor) -> Tensor:
    """The means over the two seeds of each unit, whose pictures are not independent of each other."""
    return values.unflatten(0, (2, -1)).mean(0)


def maximization_entry(
    viewer: Viewer,
    classes: int = 100,
    units: int = 4,
    seed: int = 0,
    progress: bool = False,
    judge: Viewer | None = None,
) -> dict[str, Any]:
    """The entry of the ledger ``maximization``, but for the command: the trap and the regularisers."""
    started = time.perf_counter()
    values = {
        "trap": trap(viewer, classes, seed, progress, judge),
        "regularisers": regularisers(viewer, units, seed, progress),
    }
    card = viewer.card
    return {
        "row": card["architecture"],
        "seed": seed,
        "values": values,
        "n": values["trap"]["n"],
        "data": None,
        "data_sha256": None,
        "config": {
            "units": units,
            "layers": viewer.layers,
            "recipes": {name: asdict(recipe) for name, recipe in VARIANTS.items()},
        },
        "weights_sha256": card["sha256"],
        **provenance(next(viewer.model.parameters()).device, time.perf_counter() - started),
    }


def _answers(viewer: Viewer, layer: str, pictures: Tensor) -> Tensor:
    weight = next(viewer.model.parameters())
    with torch.no_grad():
        return (
            viewer.net.activations(pictures.to(weight.dtype).to(weight.device), [layer])[layer].cpu().double()
        )
