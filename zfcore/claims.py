r"""The paper's claims, each judged by code: reproduced, contradicted, or not testable at this scale.

A claim has a test. The test takes numbers with their 95 % intervals from the results ledger and says of each
what it would have to be; :func:`zfcore.evidence.judge` makes the verdict of these. Nothing but the ledger's
files decides, and an entry that is not there yet leaves the claim *not run yet* until it is. The words of the
claims, of the paper's numbers and of the tests are no code: they lie in ``book/claims.json``.

A rank correlation gets Fisher's interval (Bonett & Wright 2000, doi:10.1007/BF02294183).

Source: Zeiler & Fergus, all sections, doi:10.1007/978-3-319-10590-1_53; four claims are of its
arXiv version, arXiv:1311.2901.

Example::

    from zfcore.claims import count, read_claims
    claims = read_claims()
    count(claims)                          # {'reproduced': …, 'contradicted': …, …}
    claims[3].verdict, claims[3].why, claims[3].numbers[0].text
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from zfcore.comparison import as_in_print, paired_contrast, paired_difference
from zfcore.data import patches, to_input
from zfcore.deconvnet import Deconvnet
from zfcore.evidence import (
    NOT_RUN,
    UNTESTABLE,
    VERDICTS,
    Entry,
    Evidence,
    NotRunError,
    Number,
    UntestableError,
    contrast,
    drawn,
    judge,
    measured,
    minus,
)
from zfcore.evolution import EPOCHS as SNAPSHOTS
from zfcore.evolution import convergence, jumps
from zfcore.generalization import LAYERS
from zfcore.ledger import RESULTS, LedgerError, outcomes
from zfcore.model import untrained
from zfcore.protocols import paired
from zfcore.reproduce import Experiment, first_layers
from zfcore.sensitivity import METHODS
from zfcore.spectra import band_shares, flat, grid_imprint, strongest_projections
from zfcore.tables import Table, read_table
from zfcore.train import PAPER, RECIPES
from zfcore.transfer_tables import accuracies, of_row, tests_per_training

#: The words of the claims, in a checkout.
WORDS = RESULTS.parent / "claims.json"

#: The epochs that Fig. 4 follows, of which a run may not have fewer.
EPOCHS = max(SNAPSHOTS)
#: A map whose answers correlate so much with its final ones has settled.
SETTLED = 0.9
#: Two projections of a map with a cosine below this are different pictures, and the map has jumped.
JUMP = 0.5
#: The few pictures per class that shall suffice (Fig. 7).
FEW = 3
#: The points from which a lead is one "by far"; the paper's own over training from scratch are 40 and 61.
FAR = 10.0
#: R² from which a curve is called quasi-linear.
STRAIGHT = 0.9
#: What the paper calls little (Table 2, layers 6 and 7) and alike (Table 6), its own largest, in points.
LITTLE, ALIKE = 1.8, 3.3


# ------------------------------------------------------------------------------ claims
@dataclass(frozen=True)
class Claim:
    """A claim of the paper, how it was tested, and what came out.

    The words are those of ``book/claims.json``. ``numbers`` are ours, ``notes`` what else has to be said;
    ``entries`` are the ledger's that were read, ``command`` makes what is missing. ``link`` is the file of
    the chapter without its ending, empty while there is none, and ``anchor`` a figure in it, perhaps.
    """

    number: int
    section: str
    claim: str
    paper: str
    test: str
    measure: str
    chapter: str
    aside: str
    counted: str
    verdict: str
    why: str
    numbers: tuple[Number, ...] = ()
    notes: tuple[str, ...] = ()
    entries: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    command: str = ""
    link: str = ""
    anchor: str = ""

    @property
    def n(self) -> str:
        """On how many pictures, ``"10,000"``, or ``"20 to 24"`` where entries differ; or ``"48 filters"``."""
        drawn = {size for number in self.numbers for size in number.sizes}
        counts = sorted(drawn or {entry["n"] for entry in self.entries})
        words = " to ".join(f"{n:,}" for n in dict.fromkeys(counts[:1] + counts[-1:]))
        return f"{words} {self.counted}".strip()

    @property
    def scale(self) -> str:
        """Data and networks of the entries, as ``"tiny-imagenet; zfnet-64"``."""
        data = dict.fromkeys(entry["data"] for entry in self.entries if entry["data"])
        networks = dict.fromkeys(
            name for entry in self.entries if (name := entry["config"].get("architecture", entry["row"]))
        )
        named = [name.split(",")[0] for name in networks]
        return "; ".join(", ".join(dict.fromkeys(part)) for part in (data, named) if part)


def read_claims(
    results: str | os.PathLike = RESULTS, words: str | os.PathLike = WORDS, only: int | None = None
) -> list[Claim]:
    """Every claim with its verdict, from the ledger in ``results`` alone.

    Parameters
    ----------
    results
        Folder of the ledger.
    words
        The file with the claims' words.
    only
        The number of one claim, where the others are of no interest.

    Raises
    ------
    FileNotFoundError
        The words are not there: they come with a checkout, not with the installed package.
    zfcore.ledger.LedgerError
        An entry is not as it should be; claim, entry and fault are named.
    """
    path = Path(words)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; the claims come with a checkout of the book")
    written = json.loads(path.read_text(encoding="utf-8"))
    return [
        _judged(said, written["chapters"][said["chapter"]], Path(results), path.parent)
        for said in written["claims"]
        if only in (None, said["number"])
    ]


def sections(words: str | os.PathLike = WORDS) -> dict[str, str]:
    """The sections that claims are of, in the paper's order, and what each is about."""
    return json.loads(Path(words).read_text(encoding="utf-8"))["sections"]


def count(claims: Sequence[Claim]) -> dict[str, int]:
    """How many claims have each verdict, zeros included."""
    found = Counter(claim.verdict for claim in claims)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _judged(said: dict[str, Any], chapter: str, results: Path, book: Path) -> Claim:
    evidence, numbers, notes = Evidence(results), [], []
    verdict, why, command = "", "", ""
    try:
        for found in TESTS[said["number"]](evidence):
            if isinstance(found, Number):
                numbers.append(found)
            else:
                key, values = found
                notes.append(as_in_print(said["notes"][key].format(**values)))
        verdict, why = judge(numbers)
    except NotRunError as missing:
        verdict, why, command = NOT_RUN, f"missing: {missing.what}", missing.command
    except UntestableError as reason:
        verdict, why = UNTESTABLE, said["why"][reason.key].format(**reason.values)
    except (LedgerError, ValueError, KeyError, TypeError, OSError) as error:
        read = ", ".join(f"{e['ledger']}: {e['row']}" for e in evidence.entries) or "no entry"
        raise LedgerError(f"claim {said['number']} cannot be judged (read: {read}): {error}") from error
    there = (book / f"{said['chapter']}.ipynb").exists()
    words = ("number", "section", "claim", "paper", "test", "measure", "aside", "counted")
    return Claim(
        **{key: said.get(key, "") for key in words},
        chapter=chapter,
        verdict=verdict,
        why=why,
        numbers=tuple(replace(n, text=_text(n, said["format"], said["unit"])) for n in numbers),
        notes=tuple(notes),
        entries=tuple(evidence.entries),
        command=command,
        link=said["chapter"] if there else "",
        anchor=said.get("figure", "") if there else "",
    )


def _text(number: Number, form: str, unit: str) -> str:
    """``"+0.01 (+0.01 to +0.02)"``, with a true minus sign."""
    mean, low, high = (format(x, form) for x in (number.mean, number.low, number.high))
    return as_in_print(f"{mean}{unit}" if number.low == number.high else f"{mean}{unit} ({low} to {high})")


# ------------------------------------------------------------------------------ the tests
#: The test of each claim by its number, from evidence to numbers and notes (key, values), one by one.
TESTS: dict[int, Callable[[Evidence], Iterator[Number | tuple[str, dict[str, Any]]]]] = {}


def _tests(number: int):
    def keep(test):
        TESTS[number] = test
        return test

    return keep


FIVE = [f"layer {n}" for n in range(1, 6)]
SEVEN = [f"layer {n}" for n in range(1, 8)]
MOVES = {"translate": "shift", "scale": "scale", "rotate": "turn"}
FIG5 = "zfcore reproduce fig5 --data tiny-imagenet"
FIG2 = "zfcore measure fig2"
INVARIANCE = "zfcore measure invariance"
OCCLUSION = "zfcore sensitivity occlusion"
SQUARE = {"size": 14, "stride": 4, "fill": 0}  # of that command, unless another is asked for


# ------------------------------------------------------------------------------ §3 and §4.1: the first layers
def _first_layers(e: Evidence, *rows: str) -> list[tuple[Any, dict]]:
    """Layers 1 and 2 of the networks of Fig. 5, whose entries have to be there as well."""
    found = []
    for row in rows:
        command = f"{FIG5} --row {row}"
        e.entry("fig5", row, command)
        try:
            found.append(first_layers(row, e.folder))
        except FileNotFoundError as error:
            raise NotRunError(f"the first layers of {row}", command) from error
    return found


def _filters(network: Any, conv: str = "features.0") -> Tensor:
    return network.get_submodule(conv).weight.detach().float()


def _spread_over(power: np.ndarray, axis: int = -1) -> np.ndarray:
    """Over how many of F filters power (…, F) is spread, as a share: 1/F if one has it all."""
    return power.sum(axis) ** 2 / (power**2).sum(axis) / power.shape[axis]


@_tests(1)
def _few_filters_dominate(e: Evidence):
    # Dominance is concentration: the participation ratio counts the filters among which the weight is shared,
    # and the bound must spread it wider. The filters stand for a sample: one or two that stick out of equal
    # ones would be a tie; a whole order of sizes is none.
    (free, _), (held, _) = _first_layers(e, "free", "renormalized")
    power = [_filters(network).square().sum((1, 2, 3)).numpy() for network in (free, held)]
    yield drawn("", power, lambda a, b, axis: _spread_over(a, axis) - _spread_over(b, axis), wanted=-1)
    shares = (float(np.sort(p)[-3:].sum() / p.sum()) for p in power)
    yield "top", dict(zip(("free", "held"), shares, strict=True))


@_tests(2)
def _first_layer_needs_it(e: Evidence):
    # A filter beyond the radius is one that the renormalisation would have scaled back: where most of them
    # are, it matters most.
    [(free, _)] = _first_layers(e, "free")
    convs = [name for name, m in free.named_modules() if isinstance(m, torch.nn.Conv2d)]
    beyond = [
        (_filters(free, conv).square().mean((1, 2, 3)).sqrt() > PAPER.radius).double().numpy()
        for conv in convs[:2]
    ]
    yield contrast("", beyond, times=100, wanted=1)
    yield "upper", {}


@_tests(15)
def _little_between(e: Evidence):
    # "Little between" compares two first layers, so the middle band of the one is set against the other's.
    weights = [_filters(network) for network, _ in _first_layers(e, "fig5-11x11-2", "fig5-7x7-1")]
    bands = [band_shares(w)[:, 1].numpy() for w in weights]
    bands = [band[np.isfinite(band)] for band in bands]
    yield contrast("", bands, times=100, wanted=-1)


@_tests(16)
def _aliasing(e: Evidence):
    # The paper blames the stride, so stride 2 is set against stride 1 at both filter sizes. A transposed
    # convolution leaves its grid whatever the filters are: a difference that random ones have as well shows
    # nothing of what was learned. Projections are of patches of the photographs that ship here.
    rows = ("fig5-7x7-2", "fig5-11x11-2", "fig5-7x7-1", "fig5-11x11-1")
    found = _first_layers(e, *rows)
    imprints = [_imprint(network, card) for network, card in found]
    blank = [_imprint(untrained(card), card) for _, card in found]
    of_stride = (0.5, 0.5, -0.5, -0.5)
    here = contrast("of the stride", imprints, of_stride, wanted=1)
    beyond = contrast(
        "beyond random filters", imprints + blank, [*of_stride, *(-w for w in of_stride)], wanted=1
    )
    yield from (here, beyond)
    by_itself = here.mean - beyond.mean
    yield "random", {"random": by_itself}
    if here.stands > -1 and beyond.stands < 1:
        raise UntestableError("by itself", random=by_itself)


def _imprint(network: Any, card: dict, maps: str = "features.5") -> np.ndarray:
    """The imprint of a grid of two pixels on the maps of layer 2, each from its strongest patch."""
    pictures = patches("val").pixels[::4].permute(0, 2, 3, 1).numpy()
    projections = strongest_projections(Deconvnet(network), to_input(pictures, card), maps)
    found = grid_imprint(projections, 2).numpy()
    return found[np.isfinite(found)]


@_tests(17)
def _fewer_dead(e: Evidence):
    weights = [_filters(network) for network, _ in _first_layers(e, "fig5-7x7-1", "fig5-11x11-2")]
    dead = [flat(w).double().numpy() for w in weights]
    yield contrast("", dead, times=100, wanted=-1)


@_tests(18)
def _better_classification(e: Evidence):
    # The paper changed both at once, so the claim stands or falls with both; each alone is told beside it.
    rows = ("fig5-7x7-1", "fig5-7x7-2", "fig5-11x11-1", "fig5-11x11-2")
    found = {row: e.seeds("fig5", row, f"{FIG5} --row {row}") for row in rows}
    wrong = [
        torch.stack([outcomes(each.entry, "one crop top1") for each in trainings])
        for trainings in found.values()
    ]
    yield _points("", paired_difference(wrong[0], wrong[-1]), wanted=-1)
    halves = {"filters": (0.5, 0.5, -0.5, -0.5), "stride": (0.5, -0.5, 0.5, -0.5)}
    yield (
        "apart",
        {change: paired_contrast(*zip(half, wrong, strict=True)) for change, half in halves.items()},
    )
    yield from _once(found)


def _once(trainings: dict[str, Sequence[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The note on the rows that were trained once: their interval knows nothing of chance in training."""
    once = [row for row, each in trainings.items() if len(each) == 1]
    if once:
        yield "once", {"rows": "Every network" if len(once) == len(trainings) else ", ".join(once)}


def _points(label: str, difference: Any, **asked: Any) -> Number:
    return measured(label, difference.points, *difference.interval, **asked)


# ------------------------------------------------------------------------------ §4: what features look for
@_tests(3)
def _grouped(e: Evidence):
    # Nine pictures that have nothing to do with each other still share labels by chance: only the excess
    # counts. The claim is about the figure's five layers, so it takes all five.
    found = e.entry("fig2", "purity", FIG2)
    for name in FIVE:
        own, chance = (found.number(name, name, key) for key in ("share", "share by chance"))
        yield minus(name, own, chance, wanted=1)


@_tests(4)
def _specific(e: Evidence):
    # A trend is asked for, as for claim 8; of claim 31 the paper says that it is steady.
    found = e.entry("fig2", "purity", FIG2)
    yield found.number("", "rise of share per layer", wanted=1)
    yield "each", {"values": ", ".join(f"{found.number('', name, 'share').mean:.2f}" for name in FIVE)}
    random = e.entry("fig2", "purity, random weights", FIG2).number("", "rise of share per layer")
    yield "random", {"mean": random.mean, "low": random.low, "high": random.high}


@_tests(5)
def _described(e: Evidence):
    raise UntestableError("eye")
    yield  # pragma: no cover


@_tests(6)
def _patches_vary(e: Evidence):
    found = e.entry("fig2", "diversity", FIG2)
    for name in FIVE:
        yield found.number(name, name, "difference", wanted=-1)
    yield "first", {}
    blank = e.entry("fig2", "diversity, random weights", FIG2)
    values = (f"{blank.number('', name, 'difference').mean:+.2f}" for name in FIVE)
    yield "random", {"values": ", ".join(values)}


@_tests(9)
def _not_random(e: Evidence):
    # "Random" is taken at its word: the same architecture with random weights, on the same pictures.
    purity, blank = (e.entry("fig2", f"purity{words}", FIG2) for words in ("", ", random weights"))
    for name in FIVE:
        yield minus(name, *(found.number(name, name, "share") for found in (purity, blank)), wanted=1)
    label = (e.entry("fig2", f"decoding{words}", FIG2) for words in ("", ", random weights"))
    yield minus("labels", *(found.number("", "layer 7", "label") for found in label), wanted=1)


@_tests(35)
def _place_and_meaning(e: Evidence):
    # "The shallower, the more": every step is shown.
    found = e.entry("fig2", "decoding", FIG2)
    for what, wanted in (("label", 1), ("place", -1)):
        values = [found.number(what, name, what) for name in SEVEN]
        for n, (below, above) in enumerate(pairwise(values), 1):
            yield minus(f"{what}, {n + 1} minus {n}", above, below, wanted=wanted)
        ends = minus(what, values[-1], values[0])
        yield what, {"mean": ends.mean, "low": ends.low, "high": ends.high}


# ------------------------------------------------------------------------------ §4: evolution
def _evolution(e: Evidence) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of Fig. 4, which have to be those of the entry, and the epochs of the run."""
    command = "zfcore reproduce fig4 --data tiny-imagenet"
    found = e.entry("fig4", "zfnet", command)
    path = e.folder / "fig4.npz"
    if not path.exists():
        raise NotRunError("fig4.npz", command)
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != found.at("fig4.npz"):
        raise LedgerError("fig4.npz is not the file that the entry of fig4, zfnet, was written with")
    arrays = np.load(io.BytesIO(blob))
    return {name: arrays[name] for name in arrays.files}, int(max(arrays["epochs"]))


@_tests(10)
def _slow_upper_layers(e: Evidence):
    # "Converged" needs a final state, and a shorter run would call its own end final: hence the 64 epochs.
    # Three things have to hold: layer 1 is there early, layer 5 is not there at epoch 30, and 1 leads on the
    # way.
    arrays, epochs = _evolution(e)
    near = {name: r[:, np.isfinite(r).all(0)] for name, r in convergence(arrays).items()}  # (E, M)
    at = arrays["epochs"].tolist()
    first, last = near["layer 1"], near["layer 5"]
    ahead = contrast("layer 1 minus layer 5", [first[:-1].mean(0), last[:-1].mean(0)], wanted=1)
    yield ahead if epochs >= EPOCHS else replace(ahead, wanted=None)
    if epochs < EPOCHS:
        raise UntestableError("short", epochs=epochs)
    for label, r, epoch, wanted in (("layer 1, epoch 5", first, 5, 1), ("layer 5, epoch 30", last, 30, -1)):
        yield contrast(label, [r[at.index(epoch)]], [1.0], wanted=wanted, null=SETTLED)


@_tests(11)
def _jumps(e: Evidence):
    # A jump is a picture unlike the one before: more jumps than other steps have to come with a change of
    # image. Images stay mostly in the lower layers, whose projections are alike anyway, so both this and how
    # alike they are is told within each layer. Maps are drawn, not single transitions: the transitions of
    # one map are not independent.
    arrays, _ = _evolution(e)
    layers, leaps = [], []
    for changed, likeness in jumps(arrays).values():  # (E - 1, M) each
        known = np.isfinite(likeness)
        value = np.where(known, likeness, 0)
        layers.append(
            [part.sum(0) for here in (~changed & known, changed & known) for part in (value * here, here)]
        )
        jumped = known & (likeness < JUMP)
        leaps.append([(jumped & changed).sum(0), jumped.sum(0), (known & changed).sum(0), known.sum(0)])
    sums = np.array(layers, float)  # (L, 4, M): likenesses and count where the image stayed, where it changed
    steps = np.array(leaps, float)  # (L, 4, M): jumps with another image, jumps, steps with another, steps
    if not _weights(sums.sum(-1)).any():
        raise UntestableError("still")
    if not steps[:, 1].any():
        raise UntestableError("smooth", below=JUMP)
    maps = [np.arange(sums.shape[-1])]
    yield drawn("", maps, lambda m, axis: _beyond_all(steps[:, :, m].sum(axis)), 100, wanted=1)
    stays, moves = sums[:, 1].sum(1), sums[:, 3].sum(1)
    with_another, leapt, _, _ = steps.sum((0, 2))
    share = moves.sum() / (stays + moves).sum()
    counts = {"jumps": int(leapt), "all": int((stays + moves).sum())}
    yield "jumps", {**counts, "share": share, "leapt": with_another / leapt}
    held = drawn("", maps, lambda m, axis: _within(sums[:, :, m].sum(axis)))
    yield "within", {"mean": held.mean, "low": held.low, "high": held.high}
    yield "cases", {"stays": ", ".join(f"{n:.0f}" for n in stays), "all": f"{(stays + moves).max():.0f}"}


def _beyond_all(steps: np.ndarray) -> np.ndarray:
    """Of all jumps, (L, 4, …), the share with another image, minus that of all steps of the same layers."""
    with_another, jumps, changes, all_steps = steps.swapaxes(0, 1)
    expected = jumps * changes / all_steps.clip(1)
    return (with_another - expected).sum(0) / jumps.sum(0).clip(1)


def _weights(sums: np.ndarray) -> np.ndarray:
    """How much each layer tells of a difference between cases that stayed and changed, (L, …)."""
    stays, moves = sums[:, 1], sums[:, 3]
    return stays * moves / (stays + moves).clip(1)


def _within(sums: np.ndarray) -> np.ndarray:
    """The mean likeness where the image stayed minus that where it changed, layer by layer, then averaged."""
    stayed, stays, moved, moves = sums.swapaxes(0, 1)
    weights = _weights(sums)
    difference = stayed / stays.clip(1) - moved / moves.clip(1)
    return (weights * difference).sum(0) / weights.sum(0).clip(1e-12)


# ------------------------------------------------------------------------------ §4: invariance
@_tests(8)
def _invariance_grows(e: Evidence):
    # A rank correlation asks all seven layers at once and no particular curve; that single steps may go the
    # other way is told in the note.
    found = e.entry("invariance", "many", INVARIANCE)
    random = e.entry("invariance", "many, random weights", INVARIANCE)
    against, steps, both = 0, 0, []
    for move, words in MOVES.items():
        for size in ("small", "large"):
            own, control = (
                entry.number(f"{size} {words}", move, size, "rank correlation with depth", wanted=-1)
                for entry in (found, random)
            )
            yield own
            both.append((own, control))
            each = found.at(move, size, "steps")
            against += sum(step["low"] > 0 for step in each)
            steps += len(each)
    if against:
        yield "steps", {"against": against, "all": steps}
    yield from _told(both)


def _told(both: Iterable[tuple[Number, Number]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The notes with every number of the network with random weights, by whether ours goes clearly beyond."""
    told: dict[str, list[str]] = {"as much": [], "less": []}
    for own, control in both:
        beyond = minus(own.label, own, control, wanted=own.wanted).stands == 1
        told["less" if beyond else "as much"].append(f"{control.mean:+.2f} ({control.label})")
    for key, values in told.items():
        if values:
            yield key, {"values": ", ".join(values)}


@_tests(12)
def _dramatic_and_little(e: Evidence):
    found, random = (e.entry("invariance", f"many{words}", INVARIANCE) for words in ("", ", random weights"))
    both = [
        tuple(entry.number(words, move, "small", "first minus last", wanted=1) for entry in (found, random))
        for move, words in MOVES.items()
    ]
    yield from (own for own, _ in both)
    yield from _told(both)


@_tests(13)
def _quasi_linear(e: Evidence):
    # A square root, too, is nearly a line over a short piece of its way: so the paper's whole range counts.
    found, random = (e.entry("invariance", f"many{words}", INVARIANCE) for words in ("", ", random weights"))
    for move in ("translate", "scale"):
        yield found.number(MOVES[move], move, "linearity", "layers", "layer 7", wanted=1, null=STRAIGHT)
    for key, entry, part in (("exponent", found, "exponents"), ("random", random, "layers")):
        shift, scale = (
            entry.number("", move, "linearity", part, "layer 7").mean for move in ("translate", "scale")
        )
        yield key, {"shift": shift, "scale": scale}


@_tests(14)
def _rotation(e: Evidence):
    # Invariance would leave all of the probability; less than half, and the claim's "not" is beyond doubt.
    # The exception needs what is left to grow with symmetry, and the most symmetric to keep more than that.
    found = e.entry("invariance", "many", INVARIANCE)
    yield found.number("kept by ordinary pictures", "rotate", "ordinary", "kept", wanted=-1, null=0.5)
    yield found.number("kept by symmetric ones", "rotate", "symmetric", "kept", wanted=1, null=0.5)
    known = sum(found.at("rotate", kind, "pictures") for kind in ("symmetric", "ordinary"))
    rho = float(found.at("rotate", "rank correlation", "rho"))
    if not -1 < rho < 1 or known < 4:
        raise LedgerError(
            f"invariance, many: a rank correlation of {rho} over {known} pictures has no interval"
        )
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (known - 3))
    low, high = (math.tanh(math.atanh(rho) + end) for end in (-half, half))
    yield measured("with symmetry", rho, low, high, wanted=1)
    yield "corners", {}


# ------------------------------------------------------------------------------ §4.2: occlusion
def _occlusion(e: Evidence, row: str = "zfnet-64") -> Entry:
    return e.entry("occlusion", row, OCCLUSION, **SQUARE)


@_tests(7)
def _exaggerated(e: Evidence):
    # If a projection marks what tells the class, the class must suffer there: more than elsewhere, and more
    # than where another picture's projection, or plain contrast, would have said.
    found, there = _occlusion(e), "drop there minus elsewhere"
    for label, name in (
        ("beyond elsewhere", there),
        ("beyond another's projection", f"{there} minus another picture's projection"),
        ("beyond contrast", f"{there} minus contrast's quarter"),
    ):
        yield found.number(label, "projection's quarter", name, times=100, wanted=1)


@_tests(19)
def _class_falls(e: Evidence):
    # Another picture's box stands for being near the middle, where squares hurt more whatever is there.
    found = _occlusion(e)
    yield found.number("on minus beside", "drop", "inside minus outside", times=100, wanted=1)
    beyond = "inside minus outside minus another picture's box"
    yield found.number("beyond another's box", "drop", beyond, times=100, wanted=1)


@_tests(20)
def _map_falls(e: Evidence):
    # The map itself, laid on the picture, knows the place and no structure. Where it tells the fall as well,
    # the projection's correlation is no evidence of structure, nor against it.
    found = _occlusion(e)
    numbers = [found.number("its projection", "map", "projection", wanted=1)]
    for rival in ("another picture's projection", "contrast"):
        numbers.append(found.number(f"beyond {rival}", "map", f"projection minus {rival}", wanted=1))
    yield from numbers
    beyond = found.number("beyond the map's own place", "map", "projection minus activity")
    yield beyond
    random = _occlusion(e, "zfnet-64, random weights")
    yield "random", {"mean": random.number("", "map", "projection").mean}
    if min(number.stands for number in numbers) == 1 and beyond.low <= 0:
        raise UntestableError("place", rho=found.number("", "map", "activity").mean)


@_tests(21)
def _map_is_not_the_class(e: Evidence):
    found = _occlusion(e)
    # What starts from the class itself sets the ceiling: where that stays below the null as well, noise
    # alone would have put the map there.
    own = found.number("", "class", "map", wanted=-1, null=0.5)
    yield own
    best = max((found.number(method, "class", method) for method in METHODS), key=lambda number: number.mean)
    if own.stands == 1 and best.low <= own.null:
        raise UntestableError("ceiling", method=best.label, rho=best.mean)
    yield "ceiling", {"method": best.label, "rho": best.mean}


@_tests(22)
def _label_goes_elsewhere(e: Evidence):
    found = _occlusion(e)
    yield found.number("some square changes it", "label", "pictures where one changes it", times=100)
    yield found.number("of these, to the second guess", "label", "changes to the second guess", times=100)
    raise UntestableError("labels")


@_tests(23)
def _correspondence(e: Evidence):
    # The measure is the paper's (every unit, places drawn for each picture); the sets are repetitions of one
    # experiment, so they have to agree before anything is said.
    sides = []
    for name, people in {"cougar_face": "cougars", "dalmatian": "dalmatians", "Faces_easy": "people"}.items():
        found = e.entry("correspondence", f"zfnet-64, {name}", "zfcore sensitivity correspondence")
        parts = [
            _with_error(f"{people}, {words}", found, *path)
            for words, path in (
                ("layer 5", ("layer 5", "every", "gain", "random")),
                ("5 minus 7", ("layer 5 minus layer 7", "every", "random")),
            )
        ]
        yield from parts
        sides.append(min(part.stands for part in parts))
    if {-1, 1} <= set(sides) or {-1, 0} == set(sides):
        raise UntestableError("disagree")


def _with_error(label: str, found: Entry, *path: str) -> Number:
    """A value with its jackknife error, [value, error], over the entry's n pictures."""
    try:
        value, error = map(float, found.at(*path))
    except (TypeError, ValueError) as fault:
        raise LedgerError(
            f"{found.ledger}, {found.entry['row']}, {' / '.join(path)}: no value and error"
        ) from fault
    half = float(stats.t.ppf(0.975, found.entry["n"] - 1)) * error
    return measured(label, value, value - half, value + half, wanted=1)


# ------------------------------------------------------------------------------ §5.1: Tables 1 and 2
def _table(e: Evidence, target: str, *rows: str) -> Table:
    """A table that has these rows."""
    table = read_table(target, e.folder, data="tiny-imagenet")
    for row in rows:
        if not table.has(row):
            [known] = [each for each in table.rows if each.name == row]
            seeds = (0, 1, 2, 3, 4) if known.members else (0,)
            raise NotRunError(f"{target}, {row}", _experiment(table).command(target, known, seeds))
        e.read(target, *table.entries[row])
    return table


def _experiment(table: Table) -> Experiment:
    """The experiment that a table is of; before there is one, the usual."""
    shared = table.shared
    if not shared:
        return Experiment("tiny-imagenet")
    recipe = RECIPES.get(shared["recipe"], RECIPES["small"])
    options = {key: shared[key] for key in ("epochs", "width", "shard")}
    return Experiment(shared["data"], recipe, **options, low_precision=shared["judged in"] == "bfloat16")


@_tests(24)
def _beats_the_replication(e: Evidence):
    # Table 2 shares both networks, and is as good where Table 1 was not run.
    in_1 = read_table("table1", e.folder, data="tiny-imagenet").has("zfnet", "alexnet")
    in_2 = read_table("table2", e.folder, data="tiny-imagenet").has("zfnet", "alexnet")
    table = _table(e, "table2" if in_2 and not in_1 else "table1", "alexnet", "zfnet")
    yield _points("", table.difference("zfnet", "alexnet", "ten crops top1"), wanted=-1)
    yield from _once({row: table.entries[row] for row in ("zfnet", "alexnet")})


@_tests(25)
def _ensembles(e: Evidence):
    for row, base in (("zfnet-ensemble", "zfnet"), ("zfnet-and-wide-ensemble", "zfnet-ensemble")):
        table = _table(e, "table1", base, row)
        [ensemble] = table.entries[row]
        label = f"{ensemble['values']['members']} minus one" if base == "zfnet" else "(a) & (b) minus (a)"
        yield _points(label, table.difference(row, base, "ten crops top1"), wanted=-1)


@_tests(26)
def _depth(e: Evidence):
    # "Little" and "very much" have no common measure but each other. All four have to cost something, each
    # part less than half of it; and were the costs merely additive, depth would not matter beyond its parts:
    # so (all four) − (3, 4) − (6, 7) + (none), picture by picture. A whole network can represent what one
    # without some of its layers does; if it knows its training pictures less well, something in the training
    # held it back, and the rows decide nothing about depth. Asked of those without layers 3 and 4, which in
    # the paper know them less well; its number without 6 and 7 stands twice and may be a slip.
    names = ("alexnet", "alexnet-no3467", "alexnet-no34", "alexnet-no67")
    table = _table(e, "table2", *names)
    whole, none, no34, no67 = map(table.outcomes, names)
    sums = paired_contrast((1.0, none), (1.0, whole), (-1.0, no34), (-1.0, no67))
    yield _points("beyond the sum", sums, wanted=1)
    cost = _points("all four", paired_difference(none, whole), wanted=1)
    yield cost
    if cost.mean > 0:  # half of a gain is no bound on a cost
        for label, part in (("layers 3, 4 less half", no34), ("layers 6, 7 less half", no67)):
            yield _points(label, paired_contrast((1.0, part), (-0.5, none), (-0.5, whole)), wanted=-1)
    yield (
        "parts",
        {row.removeprefix("alexnet-"): table.difference(row, "alexnet").points for row in names[1:]},
    )
    yield from _once({row: table.entries[row] for row in names})
    whole, *parts = (table.error(row, "train top1") for row in names[:3])
    if whole > min(parts):
        raise UntestableError("unfinished", whole=whole, part=min(parts))


@_tests(27)
def _size_matters_little(e: Evidence):
    trained = {}
    for base in ("alexnet", "zfnet"):
        for units in (2048, 8192):
            table = _table(e, "table2", base, f"{base}-fc{units}")
            difference = table.difference(f"{base}-fc{units}", base)
            yield _points(f"{base}, {units}", difference, wanted=0, margin=LITTLE)
            trained |= {row: table.entries[row] for row in (base, f"{base}-fc{units}")}
    yield from _once(trained)


@_tests(28)
def _more_maps(e: Evidence):
    table = _table(e, "table2", "zfnet", "zfnet-wide")
    yield _points("more maps", table.difference("zfnet-wide", "zfnet"), wanted=-1)
    # Overfitting is the gap between validation and training error; the latter is taken as it stands, for the
    # ledger does not keep its outcomes. The note says what that leaves out.
    table = _table(e, "table2", "zfnet-wide-fc8192")
    difference = table.difference("zfnet-wide-fc8192", "zfnet-wide")
    training = [table.error(row, "train top1") for row in ("zfnet-wide-fc8192", "zfnet-wide")]
    shift = training[0] - training[1]
    low, high = difference.interval
    yield measured("growth of the gap", difference.points - shift, low - shift, high - shift, wanted=1)
    yield "training", {}
    yield from _once({row: table.entries[row] for row in ("zfnet", "zfnet-wide", "zfnet-wide-fc8192")})


# ------------------------------------------------------------------------------ §5.2, §5.3: other data
def _splits(e: Evidence, ledger: str, row: str, **config: Any) -> tuple[dict[int, float], float]:
    """The accuracy of every split of a row, two at least, and how many test pictures come on a training one.

    With the pictures that the source has as well.
    """
    found = of_row(e.find(ledger, row, duplicates="kept", **config), row)
    each = accuracies(found, row)
    if len(each) < 2:
        command = ["zfcore", "reproduce", ledger, "--data", "caltech101", "--row", row]
        what = f"{ledger}, {row}, of which there is one split" if each else f"{ledger}, {row}"
        raise NotRunError(what, shlex.join(command))
    e.read(ledger, *found)
    return each, tests_per_training(found[0], config["per class"])


def _gap(label: str, a: dict[int, float], b: dict[int, float], ratio: float, **asked: Any) -> Number:
    """a − b over the splits that both have; the interval is Nadeau and Bengio's."""
    difference = paired(a, b, ratio)
    return measured(label, difference.mean, *difference.interval, **asked)


@_tests(29)
def _pretrained_beats_scratch(e: Evidence):
    for size in (15, 30):
        config = {"background": False, "per class": size}
        own, ratio = _splits(e, "table3", "pretrained, layer 7", **config)
        scratch, _ = _splits(e, "table3", "scratch", **config)
        yield _gap(f"{size} per class", own, scratch, ratio, wanted=1, null=FAR)
    yield "small", {}


@_tests(30)
def _few_suffice(e: Evidence):
    # "Suffice" is a comparison with features that were not learned from other pictures and have ten times as
    # many of these, the paper's factor. The interval is as wide as the smaller of the two training sets asks.
    best = {}
    for kind, size in (("pretrained", FEW), ("random", 10 * FEW)):
        rows = []
        for layer in (5, 7):
            row = f"{kind}, layer {layer}"
            found = of_row(e.find("fig7", row, duplicates="kept"), row)
            if len(found) < 2:
                command = shlex.join(["zfcore", "reproduce", "fig7", "--data", "caltech101", "--row", row])
                raise NotRunError(f"fig7, {row}", command)
            e.read("fig7", *found)
            rows.append({entry["seed"]: _on_curve(entry, size) for entry in found})
        best[kind] = max(rows, key=lambda each: sum(each.values()) / len(each))
    ratio = tests_per_training(found[0], FEW)
    yield _gap("", best["pretrained"], best["random"], ratio, wanted=1)
    yield "rival", {}
    yield "wide", {"few": FEW}


def _on_curve(entry: dict[str, Any], size: int) -> float:
    """The accuracy at so many pictures per class."""
    found = Entry("fig7", entry)
    sizes, values = found.at("per class"), found.at("accuracy")
    if size not in sizes or len(sizes) != len(values):
        raise LedgerError(f"fig7, {entry['row']}, seed {entry['seed']}: no accuracy at {size} per class")
    return values[sizes.index(size)]


@_tests(31)
def _rises_with_layer(e: Evidence):
    # Every step has to be a rise: "steady", and best at the last.
    config = {"background": False, "per class": 30}
    missing, found = None, {}
    for layer in LAYERS:
        try:
            found[layer] = _splits(e, "table6", f"svm({layer})", **config)
        except NotRunError as lacking:
            missing = missing or lacking
    for below, above in pairwise(LAYERS):
        if below in found and above in found:
            (a, ratio), (b, _) = found[above], found[below]
            yield _gap(f"{above} minus {below}", a, b, ratio, wanted=1)
    if missing:
        raise missing


@_tests(32)
def _heads_alike(e: Evidence):
    config = {"background": False, "per class": 30}
    for layer in (5, 7):
        svm, ratio = _splits(e, "table6", f"svm({layer})", **config)
        softmax, _ = _splits(e, "table6", f"softmax({layer})", **config)
        yield _gap(f"layer {layer}", svm, softmax, ratio, wanted=0, margin=ALIKE)


@_tests(33)
def _less_on_pascal(e: Evidence):
    command = 'zfcore reproduce table5 --data voc2007 --row "pretrained, layer 7"'
    found = [
        entry for data in ("voc2007", "voc2012") for entry in e.find("table5", "pretrained, layer 7", data)
    ]
    if not found:
        raise NotRunError("table5, pretrained, layer 7", command)
    for entry in found:
        e.read("table5", entry)
        yield Entry("table5", entry).number(entry["data"])
    raise UntestableError("rivals")


# ------------------------------------------------------------------------------ beside the paper
@_tests(34)
def _logit_not_probability(e: Evidence):
    # Both climbs want the class, but the logit is what the one climbs and the other does not: that it raises
    # the class more is said by a judge that neither has climbed.
    command = "zfcore measure maximization --judge WEIGHTS"
    found = e.entry("maximization", "zfnet-64", command)
    if "judge" not in found.at("trap"):
        raise NotRunError("a judge of the climbed pictures", command)
    yield found.number("", "trap", "judge", "difference", wanted=1)
    own = found.number("", "trap", "difference")
    yield "own", {"mean": own.mean, "low": own.low, "high": own.high}
    firsts = {
        objective: found.at("trap", "judge", objective, "first") for objective in ("logit", "probability")
    }
    yield "first", firsts
