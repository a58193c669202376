r"""The trainer: a loop that knows no model, and two recipes as values with their reasons.

``PAPER`` is §3 to the letter. ``SMALL`` is what trains the ``-64`` family in an hour or two on a
laptop. Everything random is a function of (seed, epoch, picture) or (seed, step), so a run that
was killed goes on from its last checkpoint as if nothing had happened: on a CPU, to the last bit.

Measured: ``zfnet-64`` by ``SMALL`` for 10 epochs of Tiny-ImageNet's 100,000 pictures on 2 CPU cores
(bfloat16, torch 2.15) runs at 190 pictures a second, an hour and a half; its card states the error.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import patches
    from zfcore.model import build
    from zfcore.train import SMALL, train
    pictures = patches("train")
    network = build("zfnet-64", num_classes=len(pictures.classes), width=0.25)
    run = train(network, pictures, patches("val"), SMALL, epochs=2)
    print(run.history[-1]["top1"])
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
import signal
import threading
import time
import zlib
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
    average: float | None = None  # decay of the weights' running mean, every 10 steps; less at the start
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
    """The rate at ``step`` (from 0) of ``steps``, after a linear warm-up.

    ``"cosine"`` falls to 0 at the last step. ``"plateau"`` is a function of the validation errors
    in ``history``: tenfold down whenever ``patience`` epochs in a row brought no better one (§3).

    Raises
    ------
    ValueError
        The recipe names another schedule.
    """
    if recipe.schedule == "cosine":
        warmup = min(recipe.warmup_steps, steps // 5)  # a short run still has something to fall from
        factor = 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup)))
    elif recipe.schedule == "plateau":
        warmup, drops, best, waited = recipe.warmup_steps, 0, math.inf, 0
        for row in history:
            waited = 0 if row["top1"] < best else waited + 1
            best = min(best, row["top1"])
            if waited == recipe.patience:
                drops, waited = drops + 1, 0
        factor = 0.1**drops
    else:
        raise ValueError(f"unknown schedule {recipe.schedule!r}; known: cosine, plateau")
    return recipe.rate * factor * min(1.0, (step + 1) / max(1, warmup))


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
    """Train ``model`` from scratch, in place, and leave it with its running-mean weights in eval mode.

    Ctrl-C and SIGTERM wait for the end of the step, write a checkpoint, and then act as usual.
    The caller's random generators are left as they were.

    Parameters
    ----------
    model
        Any module (N, 3, input_size, input_size) → (N, classes) logits; its weights are drawn anew.
    pictures, validation
        Data in memory; the training pictures move to ``device`` once, as uint8.
    recipe, epochs, seed
        ``epochs`` overrides the recipe's. Weights, order, crops, mirroring and dropout follow
        from ``seed``.
    input_size
        Side of the crops in pixels, at most the pictures'.
    folder
        Where ``checkpoint.safetensors`` and ``history.csv`` go; a run found there goes on. Without
        it nothing is written.
    checkpoint_seconds
        A checkpoint is written after every epoch, and within one after so many seconds.
    on_epoch
        Called with the number of finished epochs and the network that would be kept; called again
        for the same epoch if the run was killed before that epoch's checkpoint was whole.

    Raises
    ------
    DivergedError
        NaN or infinite loss; says the step, the rate and where the last good checkpoint is.
    CheckpointError
        ``folder`` holds a checkpoint that is damaged or belongs to other settings.
    ValueError
        Pictures smaller than ``input_size``, or an unknown name in the recipe.
    OSError
        The checkpoint cannot be written (a full disk); the one before it stays whole.
    """
    device = torch.device(device)
    side = min(*pictures.pixels.shape[-2:], *validation.pixels.shape[-2:])
    if side < input_size:
        raise ValueError(f"the pictures are {side} px but the network wants {input_size} px crops of them")
    epochs = recipe.epochs if epochs is None else epochs
    steps_per_epoch = math.ceil(len(pictures) / recipe.batch_size)
    steps = epochs * steps_per_epoch
    settings = {"recipe": asdict(recipe), "epochs": epochs, "seed": seed}
    settings |= {"pictures": len(pictures), "size": input_size}
    checkpoint = None if folder is None else Path(folder) / "checkpoint.safetensors"
    low_precision = torch.autocast(device.type, torch.bfloat16) if _has_bf16(device) else nullcontext()

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        initialize_(model, recipe.initialization)
        model.to(device, memory_format=torch.channels_last)
        mean = mean_picture(pictures.pixels).to(device)
        pixels, labels = pictures.pixels.to(device), pictures.labels.to(device)
        state = _State(model, recipe, settings)
        if checkpoint is not None and checkpoint.exists():
            state.read(checkpoint)
        first, position = divmod(state.step, steps_per_epoch)
        seen = first * len(labels) + position * recipe.batch_size
        bar = tqdm(
            total=epochs * len(labels), initial=seen, unit="img", unit_scale=True, disable=not progress
        )
        with bar, _Interruption() as interruption:
            for epoch in range(first, epochs):
                if position == 0:
                    state.begin_epoch()
                model.train()
                order = torch.randperm(len(labels), generator=_generator(seed, epoch)).to(device)
                for chosen in order.split(recipe.batch_size)[position:]:
                    rate = learning_rate(recipe, state.step, steps, state.history)
                    x = augment(pixels, mean, chosen, seed, epoch, input_size, recipe.scale)
                    torch.manual_seed(_mix(seed, state.step))  # so that dropout, too, can be resumed
                    with low_precision:
                        loss = F.cross_entropy(model(x).float(), labels[chosen])
                    state.update(loss, rate, len(chosen))
                    bar.update(len(chosen))

                    ends = state.step % steps_per_epoch == 0
                    save = not ends and (interruption.signal or state.age() > checkpoint_seconds)
                    if ends or save or state.step % 50 == 0:  # seldom, for it makes a GPU wait
                        state.insist_on_finite(rate, checkpoint)
                        bar.set_postfix_str(
                            f"epoch {epoch + 1}, loss {loss.item():.3f}, rate {rate:.2g}", False
                        )
                    if save:
                        state.write(checkpoint)
                        interruption.act()

                position, kept = 0, state.kept()
                top1, top5 = _validate(kept, mean, validation, input_size, recipe.scale, low_precision)
                state.end_epoch(epoch + 1, rate, float(state.epoch_loss) / len(labels), top1, top5)
                if on_epoch is not None:
                    on_epoch(epoch + 1, kept)
                state.write(checkpoint)
                interruption.act()
    model.load_state_dict(state.kept().state_dict())
    return Run(model.eval(), mean.cpu(), state.history)


def augment(
    pixels: Tensor, mean: Tensor, chosen: Tensor, seed: int, epoch: int, size: int, scale: float
) -> Tensor:
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
    """Whether bfloat16 is fast there; a CPU without the instructions has it too, but slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch we support
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16"))


@torch.no_grad()
def _validate(
    model, mean, data: LabelledPictures, size: int, scale: float, low_precision
) -> tuple[float, float]:
    """Top-1 and top-5 error in % on centre crops."""
    model.eval()
    device = mean.device
    wrong = torch.zeros(2, dtype=torch.float64, device=device)
    for pixels, labels in zip(data.pixels.split(256), data.labels.split(256), strict=True):
        x = (centre_crop(pixels.to(device).float(), size) - centre_crop(mean, size)) / scale
        with low_precision:
            logits = model(x.contiguous(memory_format=torch.channels_last)).float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.to(device)[:, None]
        wrong += torch.stack([(~hits[:, 0]).sum(), (~hits.any(1)).sum()])
    return tuple((100 * wrong / len(data)).tolist())


class _Interruption:
    """Turns Ctrl-C and SIGTERM into a flag, so that no step is cut in two; a second one acts at once."""

    def __enter__(self):
        self.signal, self._handlers = None, {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self.signal = number
        self._restore()

    def _restore(self):
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def act(self):
        """Let a noted signal do what it would have done without us."""
        if self.signal is not None:
            signal.raise_signal(self.signal)
            raise KeyboardInterrupt  # the caller's handler let us live, but asked us to stop

    def __exit__(self, error, *_):
        self._restore()
        if error is None:
            self.act()


class _State:
    """All that changes while training, and that a checkpoint holds; beside it the settings, to compare."""

    def __init__(self, model: nn.Module, recipe: Recipe, settings: dict):
        self.model, self.recipe, self.settings = model, recipe, settings
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.SGD(
            [
                {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
                {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            fused=True,
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.average[0].device)
        self.epoch_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self._clock = self._saved = time.monotonic()

    # ---- the steps
    def update(self, loss: Tensor, rate: float, pictures: int) -> None:
        """One step of SGD down the gradient of ``loss``, the mean over so many pictures."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.recipe.radius is not None:
            renormalize_filters_(self.model, self.recipe.radius)
        self.step += 1
        self.epoch_loss += loss.detach() * pictures
        if self.recipe.average is not None and self.step % 10 == 0:
            before = self.step // 10 - 1
            decay = min(
                self.recipe.average, (1 + before) / (10 + before)
            )  # a short run forgets its random start
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @torch.no_grad()
    def insist_on_finite(self, rate: float, checkpoint: Path | None) -> None:
        """Raise :class:`DivergedError` if the loss or a weight is not a number any more."""
        if not math.isfinite(
            float(self.epoch_loss + nn.utils.get_total_norm(self.average + self.parameters))
        ):
            known = checkpoint is not None and checkpoint.exists()
            where = f"the last good checkpoint is {checkpoint}" if known else "there is no checkpoint yet"
            raise DivergedError(
                f"the loss is not finite by step {self.step}, at a rate of {rate:.2g}; {where}; "
                "try a lower rate, a longer warm-up, or clipped gradients"
            )

    def begin_epoch(self) -> None:
        self.epoch_loss.zero_()
        self.epoch_seconds = 0.0

    def end_epoch(self, epoch: int, rate: float, loss: float, top1: float, top5: float) -> None:
        self._tick()
        row = {"epoch": epoch, "rate": rate, "loss": loss, "top1": top1, "top5": top5}
        self.history.append(row | {"seconds": round(self.epoch_seconds, 1)})

    def kept(self) -> nn.Module:
        """A copy of the module that carries the running mean of the weights, where there is one."""
        kept = copy.deepcopy(self.model)
        if self.recipe.average is not None:
            with torch.no_grad():
                for p, mean in zip(kept.parameters(), self.average, strict=True):
                    p.copy_(mean)
        return kept.eval()

    # ---- the checkpoint
    def age(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def _tick(self) -> None:
        now = time.monotonic()
        self.epoch_seconds += now - self._clock
        self._clock = now

    def write(self, path: Path | None) -> None:
        self._tick()
        self._saved = self._clock
        if path is None:
            return
        tensors = {f"weight/{name}": t for name, t in self.model.state_dict().items()}
        for (name, p), mean in zip(self.model.named_parameters(), self.average, strict=True):
            tensors[f"average/{name}"] = mean
            if (buffer := self.optimizer.state[p].get("momentum_buffer")) is not None:
                tensors[f"momentum/{name}"] = buffer
        tensors["epoch_loss"] = self.epoch_loss
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        progress = {"step": self.step, "seconds": self.epoch_seconds, "history": self.history}
        metadata = {
            "state": json.dumps({"settings": self.settings, **progress}),
            "checksum": _checksum(tensors),
        }
        write_atomically(path, safetensors.torch.save(tensors, metadata=metadata))
        if self.history:
            write_atomically(path.with_name("history.csv"), _as_csv(self.history))

    def read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                state = json.loads(metadata["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                progress = state["step"], state["seconds"], state["history"], state["settings"]
            if metadata.get("checksum", _checksum(tensors)) != _checksum(tensors):
                raise ValueError("its checksum differs")
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a whole checkpoint of this trainer ({error}); move it away"
            ) from error
        settings = json.loads(json.dumps(self.settings))
        if state["settings"] != settings:
            differing = ", ".join(
                key for key, value in settings.items() if state["settings"].get(key) != value
            )
            raise CheckpointError(
                f"{path} belongs to another run (it differs in {differing}); give another folder"
            )
        try:
            self.model.load_state_dict(_part(tensors, "weight"))
            averages, momentum = _part(tensors, "average"), _part(tensors, "momentum")
            for (name, p), mean in zip(self.model.named_parameters(), self.average, strict=True):
                mean.copy_(averages[name])
                if name in momentum:
                    buffer = torch.empty_like(p).copy_(momentum[name])  # keeps channels_last
                    self.optimizer.state[p]["momentum_buffer"] = buffer
            self.epoch_loss.copy_(tensors["epoch_loss"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{path} belongs to another network: {error}; give another folder"
            ) from error
        self.step, self.epoch_seconds, self.history, _ = progress


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")
    }


def _checksum(tensors: dict[str, Tensor]) -> str:
    """CRC-32 over the bytes of all tensors: safetensors itself does not notice a flipped bit."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"


def _as_csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
