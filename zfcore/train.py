r"""The trainer: a loop that knows no model, and two recipes as values with their reasons.

``PAPER`` is §3 to the letter. ``SMALL`` is what trains the ``-64`` family in an hour or two on a
laptop. Everything random is a function of (seed, epoch, picture) or (seed, step), so a run that
was killed goes on exactly where its last checkpoint stands.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import patches
    from zfcore.model import build
    from zfcore.train import SMALL, train
    run = train(build("zfnet-64", num_classes=8), patches("train"), patches("val"), SMALL, epochs=2)
    print(run.history[-1]["top1"])
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from zfcore.data import LabelledPictures, centre_crop, crop_flip, mean_picture
from zfcore.model import initialize_, renormalize_filters_, write_atomically


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's; each comment says why it is as it is."""

    name: str = "paper"
    batch_size: int = 128  # §3
    rate: float = 1e-2  # §3
    momentum: float = 0.9  # §3
    nesterov: bool = False
    weight_decay: float = 5e-4  # not in §3; Krizhevsky's value, on weights only
    schedule: str = "plateau"  # §3: lowered by hand when the validation error stops falling
    patience: int = 4  # epochs without a better validation error before the rate falls tenfold
    warmup_steps: int = 0
    scale: float = 1.0  # inputs are (pixel - mean) / scale: 1 keeps the paper's [-128, 128]
    initialization: str = "paper"  # N(0, 0.01^2), §3
    radius: float | None = 0.1  # filter renormalisation, §3: inputs of this range need it
    clip: float | None = None  # largest gradient norm
    average: float | None = None  # decay of the weights' running mean, every 10 steps
    epochs: int = 70  # §3


PAPER = Recipe()
SMALL = Recipe(
    name="small",
    rate=0.03,  # the largest that trained without a stall after the warm-up
    nesterov=True,
    weight_decay=1e-3,  # 100,000 pictures for 7 M weights: twice Krizhevsky's
    schedule="cosine",  # no validation set to watch, and no plateau to wait for
    warmup_steps=1000,  # a plain net of this depth hardly moves, or diverges, in its first thousand steps
    scale=64.0,  # inputs of about unit scale, which is what the He initialisation assumes
    initialization="he",
    radius=None,  # at unit input scale only a few filters of layer 1 would reach 0.1
    clip=5.0,
    average=0.98,  # the mean of about the last 500 steps: two points better than the last step
    epochs=20,
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, SMALL)}


@dataclass
class Run:
    """What :func:`train` leaves: the trained module (averaged weights), the mean picture, the history.

    ``history`` has one dict per epoch: ``epoch``, ``rate``, ``loss`` (training), ``top1`` and
    ``top5`` (validation errors in %, one centre crop), ``seconds``.
    """

    model: nn.Module
    mean: Tensor
    history: list[dict[str, float]]


class CheckpointError(ValueError):
    """A checkpoint is corrupt, truncated, or belongs to another run."""


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


def learning_rate(recipe: Recipe, step: int, steps: int, history: list[dict[str, float]]) -> float:
    """The rate at ``step`` of ``steps``; on a plateau it is a function of the validation errors so far."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "cosine":
        start = min(recipe.warmup_steps, steps // 5)
        warm = min(1.0, (step + 1) / start) if start else 1.0
        progress = max(0.0, (step - start) / max(1, steps - start))
        return recipe.rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
    drops, best, waited = 0, math.inf, 0
    for row in history:
        waited = 0 if row["top1"] < best else waited + 1
        best = min(best, row["top1"])
        if waited >= recipe.patience:
            drops, waited = drops + 1, 0
    return recipe.rate * warm * 0.1**drops


def train(
    model: nn.Module,
    pictures: LabelledPictures,
    validation: LabelledPictures,
    recipe: Recipe = SMALL,
    *,
    input_size: int = 56,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike | None = None,
    checkpoint_seconds: float = 300,
    progress: bool = True,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Run:
    """Train ``model`` in place and return it with its running-mean weights.

    Parameters
    ----------
    model
        Any module (N, 3, input_size, input_size) → (N, classes) logits.
    pictures, validation
        Data in memory; they move to ``device`` once, as uint8.
    recipe, epochs, seed
        ``epochs`` overrides the recipe's. Order, crops, flips and dropout follow from ``seed``.
    folder
        Where ``checkpoint.safetensors`` and ``history.csv`` go; a run found there goes on.
    on_epoch
        Called with the number of finished epochs and the network that would be kept.

    Raises
    ------
    DivergedError
        NaN or infinite loss; says the step, the rate and where the last good checkpoint is.
    CheckpointError
        ``folder`` holds a checkpoint that is damaged or belongs to other settings.
    ValueError
        Pictures smaller than ``input_size``.
    """
    device = torch.device(device)
    side = min(pictures.pixels.shape[-2:])
    if side < input_size:
        raise ValueError(f"the pictures are {side} px but the network wants {input_size} px crops of them")
    epochs = recipe.epochs if epochs is None else epochs
    steps_per_epoch = math.ceil(len(pictures) / recipe.batch_size)
    settings = {"recipe": asdict(recipe), "epochs": epochs, "seed": seed, "pictures": len(pictures), "size": input_size}

    torch.manual_seed(seed)
    initialize_(model, recipe.initialization)
    model.to(device, memory_format=torch.channels_last)
    mean = mean_picture(pictures.pixels).to(device)
    pixels, labels = pictures.pixels.to(device), pictures.labels.to(device)
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )
    state = _State(model, optimizer, settings)
    checkpoint = None if folder is None else Path(folder) / "checkpoint.safetensors"
    if checkpoint is not None and checkpoint.exists():
        state.read(checkpoint)

    low_precision = torch.autocast(device.type, torch.bfloat16) if _has_bf16(device) else nullcontext()
    saved = time.monotonic()
    with tqdm(
        total=epochs * steps_per_epoch * recipe.batch_size,
        initial=state.step * recipe.batch_size,
        unit="img",
        unit_scale=True,
        disable=not progress,
        mininterval=1,
    ) as bar:
        while state.step < epochs * steps_per_epoch:
            epoch, position = divmod(state.step, steps_per_epoch)
            if position == 0:
                state.epoch_loss.zero_()
                state.epoch_seconds = 0.0
            began = time.monotonic()
            order = torch.randperm(len(labels), generator=_generator(seed, epoch)).to(device)
            model.train()
            for chosen in order.split(recipe.batch_size)[position:]:
                rate = learning_rate(recipe, state.step, epochs * steps_per_epoch, state.history)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x = augment(pixels, mean, chosen, seed, epoch, input_size, recipe.scale)
                torch.manual_seed(_mix(seed, state.step))  # dropout is a function of the step, so it can be resumed
                with low_precision:
                    loss = F.cross_entropy(model(x).float(), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip:
                    nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimizer.step()
                if recipe.radius:
                    renormalize_filters_(model, recipe.radius)
                state.step += 1
                loss = loss.detach()
                state.epoch_loss += loss * len(chosen)
                if recipe.average and state.step % 10 == 0:
                    torch._foreach_lerp_(state.average, parameters, 1 - recipe.average)
                if state.step % 50 == 0 or state.step % steps_per_epoch == 0:
                    if not math.isfinite(float(state.epoch_loss)):
                        where = f"the last good checkpoint is {checkpoint}" if checkpoint else "no folder was given"
                        raise DivergedError(f"the loss is not finite at step {state.step}, rate {rate:.2g}; {where}")
                    bar.set_postfix(epoch=epoch + 1, loss=f"{float(loss):.3f}", rate=f"{rate:.2g}", refresh=False)
                bar.update(len(chosen))
                due = time.monotonic() - saved > checkpoint_seconds and state.step % steps_per_epoch
                if checkpoint is not None and due:
                    state.epoch_seconds += time.monotonic() - began
                    began = saved = time.monotonic()
                    state.write(checkpoint)
            kept = state.kept(recipe.average is not None)
            top1, top5 = _validate(kept, mean, validation, input_size, recipe.scale, low_precision)
            state.epoch_seconds += time.monotonic() - began
            row = {
                "epoch": epoch + 1,
                "rate": rate,
                "loss": float(state.epoch_loss) / len(labels),
                "top1": top1,
                "top5": top5,
                "seconds": round(state.epoch_seconds, 1),
            }
            state.history.append(row)
            if checkpoint is not None:
                state.write(checkpoint)
                write_atomically(checkpoint.with_name("history.csv"), _as_csv(state.history))
                saved = time.monotonic()
            if on_epoch is not None:
                on_epoch(epoch + 1, kept)
    kept = state.kept(recipe.average is not None)
    model.load_state_dict(kept.state_dict())
    return Run(model.eval(), mean.cpu(), state.history)


def augment(pixels: Tensor, mean: Tensor, chosen: Tensor, seed: int, epoch: int, size: int, scale: float) -> Tensor:
    """Random crops and mirror images of the ``chosen`` pictures, minus the mean, over ``scale``.

    The draw is a function of (seed, epoch, picture): neither batch nor order matters.
    (P, 3, H, W) uint8 and (N,) indices → (N, 3, size, size) float32, channels last.
    """
    height, width = pixels.shape[-2:]
    tops = _hash(chosen, seed, epoch, 0) % (height - size + 1)
    lefts = _hash(chosen, seed, epoch, 1) % (width - size + 1)
    mirrored = _hash(chosen, seed, epoch, 2) % 2 == 1
    x = crop_flip(pixels[chosen], tops, lefts, mirrored, size).float()
    x = (x - crop_flip(mean[None], tops, lefts, mirrored, size)) / scale
    return x.contiguous(memory_format=torch.channels_last)


def _hash(index: Tensor, seed: int, epoch: int, stream: int) -> Tensor:
    """A non-negative pseudo-random int64 for each index (splitmix64, Steele et al. 2014)."""
    z = index * -7046029254386353131 + _mix(_mix(seed, epoch), stream)
    z = (z ^ (z >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ (z >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return z >> 33 & 0x7FFFFFFF


def _mix(a: int, b: int) -> int:
    """Two whole numbers into one of 63 bits, so that neighbours give unrelated streams."""
    z = (a * 0x9E3779B97F4A7C15 + b + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) >> 1


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(seed, epoch))


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: on a CPU it is without the instructions, but slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@torch.no_grad()
def _validate(model, mean, data: LabelledPictures, size: int, scale: float, low_precision) -> tuple[float, float]:
    """Top-1 and top-5 error in % on centre crops."""
    model.eval()
    device = mean.device
    wrong = torch.zeros(2, device=device)
    for pixels, labels in zip(data.pixels.split(256), data.labels.split(256), strict=True):
        x = (centre_crop(pixels.to(device).float(), size) - centre_crop(mean, size)) / scale
        with low_precision:
            logits = model(x.contiguous(memory_format=torch.channels_last)).float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.to(device)[:, None]
        wrong += torch.stack([(~hits[:, 0]).sum(), (~hits.any(1)).sum()])
    return tuple((100 * wrong / len(data)).tolist())


class _State:
    """All that a checkpoint holds: weights, momentum, running mean, step, history, and the settings."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.SGD, settings: dict):
        self.model, self.optimizer, self.settings = model, optimizer, settings
        self.average = [p.detach().clone() for p in model.parameters()]
        self.step = 0
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.average[0].device)
        self.epoch_seconds = 0.0
        self.history: list[dict[str, float]] = []

    def kept(self, averaged: bool) -> nn.Module:
        """A copy of the module that carries the running mean of the weights, where there is one."""
        kept = copy.deepcopy(self.model)
        if averaged:
            with torch.no_grad():
                for p, mean in zip(kept.parameters(), self.average, strict=True):
                    p.copy_(mean)
        return kept.eval()

    def _tensors(self) -> dict[str, Tensor]:
        names = [name for name, _ in self.model.named_parameters()]
        momentum = {n: self.optimizer.state[p].get("momentum_buffer") for n, p in self.model.named_parameters()}
        tensors = {f"weight/{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average/{n}": t for n, t in zip(names, self.average, strict=True)}
        tensors |= {f"momentum/{n}": t for n, t in momentum.items() if t is not None}
        return tensors | {"epoch_loss": self.epoch_loss}

    def write(self, path: Path) -> None:
        tensors = {n: t.detach().cpu().contiguous() for n, t in self._tensors().items()}
        progress = {"step": self.step, "seconds": self.epoch_seconds, "history": self.history}
        state = json.dumps({"settings": self.settings, **progress})
        write_atomically(path, safetensors.torch.save(tensors, metadata={"state": state}))

    def read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path} is not a whole checkpoint of this trainer ({error}); move it away") from error
        if state["settings"] != json.loads(json.dumps(self.settings)):
            differing = [k for k, v in json.loads(json.dumps(self.settings)).items() if state["settings"].get(k) != v]
            raise CheckpointError(
                f"{path} belongs to another run (it differs in {', '.join(differing)}); give another folder"
            )
        weights = {n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")}
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{path} belongs to another network: {error}") from error
        for (name, p), mean in zip(self.model.named_parameters(), self.average, strict=True):
            mean.copy_(tensors[f"average/{name}"])
            if f"momentum/{name}" in tensors:
                buffer = torch.empty_like(p).copy_(tensors[f"momentum/{name}"])  # keeps channels_last
                self.optimizer.state[p]["momentum_buffer"] = buffer
        self.epoch_loss.copy_(tensors["epoch_loss"])
        self.step, self.history, self.epoch_seconds = state["step"], state["history"], state["seconds"]


def _as_csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
