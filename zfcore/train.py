r"""The trainer: a loop that knows no model, and three recipes as values with their reasons.

``PAPER`` is §3, what it leaves open filled in. ``SMALL`` is what trains the ``-64`` family in hours on a
laptop, ``BRIEF`` what trains many of them on a part of the pictures. Everything random (order, crops,
mirroring, dropout) is a function of (seed, epoch, picture). So a run that was killed goes on from its last
checkpoint as if nothing had happened, on a CPU to the last bit; and several processes, each with its share
of every batch, train the network of one.

Measured: ``zfnet-64`` by ``SMALL`` for 10 epochs of Tiny-ImageNet's 100,000 pictures on 2 CPU cores
(bfloat16, torch 2.15) ran at 130 pictures a second, two hours; the ledger ``training`` has its errors.

Source: Zeiler & Fergus, §3, doi:10.1007/978-3-319-10590-1_53.

Example::

    from zfcore.data import patches
    from zfcore.model import build
    from zfcore.train import SMALL, train
    pictures = patches("train")
    network = build("zfnet-64", num_classes=len(pictures.classes), width=0.25)
    run = train(network, pictures, patches("val"), SMALL, epochs=2)
    print(run.history[-1]["top1"])

The same from the shell, and on four GPUs::

    zfcore train zfnet-64 --data patches --width 0.25 --epochs 2 --out runs/patches
    torchrun --nproc-per-node 4 -m zfcore train zfnet --data imagenet --recipe paper --out runs/zfnet
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import math
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from zfcore.data import Pictures, batches, centre_crop, crop_flip
from zfcore.model import alone_in, initialize_, remove_partial, renormalize_filters_, write_atomically

_POSITIVE = (lambda value: 0 < value < math.inf, "a number above 0")
_SHARE = (lambda value: 0 <= value < 1, "from 0 to less than 1")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("patience", "epochs"), (lambda value: value >= 1, "1 or more")),
    **dict.fromkeys(("batch_size", "scale", "radius", "clip"), _POSITIVE),
    **dict.fromkeys(("momentum", "average"), _SHARE),
    **dict.fromkeys(
        ("rate", "weight_decay"), (lambda value: 0 <= value < math.inf, "0 or a number above it")
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's; each comment says why it is as it is."""

    name: str = "paper"
    batch_size: int = 128  # §3; of all processes together
    rate: float = 1e-2  # §3
    momentum: float = 0.9  # §3
    nesterov: bool = False
    weight_decay: float = 5e-4  # not in §3; Krizhevsky's value, on weights only
    schedule: str = "plateau"  # §3: lowered by hand when the validation error stops falling
    patience: int = 4  # epochs without a better validation error before the rate falls tenfold
    warmup_steps: int = 0
    scale: float = 1.0  # inputs are (pixel - mean) / scale: 1 keeps the paper's [-128, 128]
    initialization: str = "paper"  # N(0, 0.01^2), §3; "keep": the weights as they come
    dropout: float | None = None  # None: as the network was built, 0.5 (§3)
    radius: float | None = 0.1  # filter renormalisation, §3: inputs of this range need it
    clip: float | None = None  # largest gradient norm
    average: float | None = None  # decay of the weights' running mean, every 10 steps; less at the start
    epochs: int = 70  # §3

    def __post_init__(self) -> None:
        for name, (holds, words) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise ValueError(f"a recipe's {name} is {words}; got {value}")

    @property
    def alpha(self) -> float:
        """The contrast norm's α that fits the inputs, Krizhevsky's for his, larger where they are divided."""
        return 1e-4 if self.scale == 1 else 1e-2


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
    radius=None,  # that of §3 belongs to its inputs: for these it would be 6.4, which no filter reaches
    clip=5.0,
    average=0.98,  # the mean of about the last 500 steps: two points better than the last step
    epochs=20,
)
# For few pictures and little time: networks of this family leave their start in half as many epochs.
BRIEF = replace(
    SMALL,
    name="brief",
    batch_size=32,  # four steps of 32 pictures cost a CPU what one of 128 does
    rate=0.01,  # SMALL's for a batch of this size, rounded up
    warmup_steps=500,
    dropout=0.0,  # in so few epochs it holds a network at its start longer than it helps
    epochs=15,
)
RECIPES = {recipe.name: recipe for recipe in (PAPER, SMALL, BRIEF)}


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


def epochs_done(folder: str | os.PathLike) -> int:
    """How many whole epochs the run in a folder has behind it, by its history."""
    history = Path(folder) / "history.csv"
    return len(history.read_text(encoding="utf-8").splitlines()) - 1 if history.exists() else 0  # and a head


def learning_rate(
    recipe: Recipe, step: int, steps: int, history: list[dict[str, float]], chance: float = 0.0
) -> float:
    """The rate at ``step`` (from 0) of ``steps``, after a linear warm-up.

    ``"cosine"`` falls towards 0, which it would reach one step after the last; its warm-up takes a fifth of
    the steps at most. ``"plateau"`` is a function of the validation errors
    in ``history``: tenfold down whenever ``patience`` epochs in a row brought no better one (§3). From
    the paper's small weights a network may not move for epochs; that is no plateau, so the count
    begins when the error has once been a point below the first epoch's. Where the first epoch's is below
    ``chance`` by more than a point, the network has begun, and the count begins at once. ``chance`` is the
    error in % of who does not look; 0: not known.

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
        begun = bool(history) and history[0]["top1"] < chance - 1
        for row in history:
            waited = 0 if row["top1"] < best else waited + 1
            best = min(best, row["top1"])
            waited = waited if begun or best < history[0]["top1"] - 1 else 0
            if waited == recipe.patience:
                drops, waited = drops + 1, 0
        factor = 0.1**drops
    else:
        raise ValueError(f"unknown schedule {recipe.schedule!r}; known: cosine, plateau")
    return recipe.rate * factor * min(1.0, (step + 1) / max(1, warmup))


def train(
    model: nn.Module,
    pictures: Pictures,
    validation: Pictures,
    recipe: Recipe = SMALL,
    *,
    input_size: int = 56,
    epochs: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    compile: bool = False,
    workers: int = 0,
    folder: str | os.PathLike | None = None,
    checkpoint_seconds: float = 300,
    progress: bool = True,
    on_epoch: Callable[[Run], None] | None = None,
) -> Run:
    """Train ``model`` in place, and leave it with its running-mean weights in eval mode.

    Ctrl-C and SIGTERM wait for the end of the step, write a checkpoint, and then act as usual.
    The caller's random generators are left as they were.

    Where ``torch.distributed`` is initialised, every process calls this with the same arguments, but for
    ``device``, and takes its share of each batch and of the validation pictures. The first one writes,
    shows the bar and calls ``on_epoch``. The number of processes may change from one start of a run to the
    next.

    Parameters
    ----------
    model
        Any module (N, 3, input_size, input_size) → (N, classes) logits. With several processes N
        may be 0: a last batch need not have a picture for each. What it draws at random outside
        ``nn.Dropout`` is not repeated by a run that goes on.
    pictures, validation
        Data in memory, which move to ``device`` once, as uint8; or packed.
    recipe, epochs, seed
        ``epochs`` overrides the recipe's. Weights, order, crops, mirroring and dropout follow
        from ``seed``.
    input_size
        Side of the crops in pixels, at most the pictures'.
    device
        Where the module is trained, and stays.
    precision
        ``"bf16"`` (autocast: the weights keep their type), ``"float32"`` (no autocast), or
        ``"auto"``: bf16 where the device is fast at it and the weights are float32.
    compile
        Let ``torch.compile`` fuse the module's operations; the first step then takes a minute.
    workers
        Processes that decode packed pictures.
    folder
        Where ``checkpoint.safetensors``, ``history.csv`` and ``tensorboard/`` go; a run found there
        goes on. Without it nothing is written. Every process must see it.
    checkpoint_seconds
        A checkpoint is written after every epoch, and within one after so many seconds.
    progress
        Whether a bar shows the pictures done, the loss and the rate.
    on_epoch
        Called after every epoch with the run so far, whose model is a copy of what would be kept;
        called again for the same epoch if the run was killed before that epoch's checkpoint was
        whole.

    Raises
    ------
    DivergedError
        NaN or infinite loss; says at which step, the rate and where the last good checkpoint is.
    CheckpointError
        ``folder`` holds a checkpoint that is damaged or belongs to other settings.
    ValueError
        Pictures smaller than ``input_size``, validation pictures of other classes, an unknown name in
        the recipe, an unknown precision, or a module with a kind of layer that cannot be trained this
        way (named).
    OSError
        The checkpoint cannot be written (a full disk); the one before it stays whole. Or another process
        works in ``folder``.
    """
    device, (rank, world) = torch.device(device), _processes()
    side = min(pictures.side, validation.side)
    if side < input_size:
        raise ValueError(f"the pictures are {side} px but the network wants {input_size} px crops of them")
    if pictures.classes != validation.classes:
        strange = sorted(set(pictures.classes) ^ set(validation.classes))
        fault = f"only one of them has {', '.join(strange)}" if strange else "their order differs"
        raise ValueError(f"the training and the validation pictures have other classes: {fault}")
    epochs = recipe.epochs if epochs is None else epochs
    steps_per_epoch = math.ceil(len(pictures) / recipe.batch_size)
    steps = epochs * steps_per_epoch
    precision = precision_of(precision, device, next(model.parameters()).dtype)
    settings = {"recipe": asdict(recipe), "epochs": epochs, "seed": seed, "precision": precision}
    settings |= {"pictures": pictures.sha256, "validation": validation.sha256}
    settings |= {"size": input_size, "start": None}
    settings["network"] = hashlib.sha256(repr(model).encode()).hexdigest()  # equal shapes are not the same
    checkpoint = None if folder is None else Path(folder) / "checkpoint.safetensors"

    mine = nullcontext() if folder is None or rank > 0 else alone_in(folder)
    with mine, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # not those of GPUs that this run does not use
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if recipe.initialization == "keep":
            settings["start"] = _checksum(model.state_dict())
        else:
            initialize_(model, recipe.initialization)
        model.to(device, memory_format=torch.channels_last)
        state = _State(model, recipe, settings)
        low_precision = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        mean, labels = pictures.mean().to(device, state.dtype), pictures.labels.to(device)
        if checkpoint is not None and rank == 0:
            remove_partial(checkpoint)
        if checkpoint is not None and checkpoint.exists():
            state.read(checkpoint)
        if _largest(device, state.step, -state.step) != [state.step, -state.step]:
            raise CheckpointError(
                f"not every process sees {checkpoint}; give a folder that all of them share"
            )
        forward = model if world == 1 else _distributed(model)
        forward = torch.compile(forward, dynamic=False) if compile else forward

        chance = 100 * (1 - int(validation.labels.bincount().max()) / len(validation))

        def rate_at(step: int) -> float:  # of which the first is 1
            return learning_rate(recipe, step - 1, steps, state.history, chance)

        first, position = divmod(state.step, steps_per_epoch)
        bar = tqdm(
            total=epochs * len(labels),
            initial=first * len(labels) + position * recipe.batch_size,
            unit="img",
            unit_scale=True,
            disable=not progress or rank > 0,
        )
        log = _EventLog(None if rank > 0 else folder)
        with bar, log, _dropout_by_picture(model, recipe.dropout) as masks, _Interruption() as interruption:
            for epoch in range(first, epochs):
                if position == 0:
                    state.begin_epoch()
                model.train()
                order = torch.randperm(len(labels), generator=_generator(seed, epoch))
                todo = order.split(recipe.batch_size)[position:]
                shares = [batch[rank::world] for batch in todo]
                decoded = batches(pictures, shares, device, workers)
                for batch, share, pixels in zip(todo, shares, decoded, strict=True):
                    rate = rate_at(state.step + 1)
                    chosen = share.to(device, non_blocking=True)
                    x = augment(pixels, mean, chosen, seed, epoch, input_size, recipe.scale)
                    masks.begin(_hash(chosen, seed, epoch, 3))
                    with low_precision:
                        logits = forward(x)
                    loss = F.cross_entropy(logits.to(state.dtype), labels[chosen], reduction="sum")
                    state.update(loss, rate, len(batch))
                    bar.update(len(batch))

                    position += 1
                    ends, save = position == steps_per_epoch, False
                    if not ends and (world == 1 or state.step % 10 == 0):  # seldom: processes wait for it
                        save = interruption.agreed(device, state.age() > checkpoint_seconds)
                    if ends or save or state.step % 50 == 0:  # seldom, for it makes a GPU wait
                        state.insist_on_finite(rate_at, checkpoint)
                        loss = float(state.epoch_loss) / min(len(labels), position * recipe.batch_size)
                        bar.set_postfix_str(f"epoch {epoch + 1}, loss {loss:.3f}, rate {rate:.2g}", False)
                    if save:
                        state.write(checkpoint)
                        interruption.act()

                position, kept = 0, state.kept()
                errors = _validate(kept, mean, validation, input_size, recipe.scale, low_precision, workers)
                state.end_epoch(epoch + 1, rate, float(state.epoch_loss) / len(labels), *errors)
                log.write(state.history[-1], len(labels))
                if on_epoch is not None and rank == 0:
                    on_epoch(Run(kept, mean.float().cpu(), list(state.history)))
                state.write(checkpoint)
                interruption.agreed(device)
                interruption.act()
    model.load_state_dict(state.kept().state_dict())
    return Run(model.eval(), mean.float().cpu(), state.history)


# ------------------------------------------------------------------------------ what is drawn at random
def augment(
    pixels: Tensor, mean: Tensor, chosen: Tensor, seed: int, epoch: int, size: int, scale: float
) -> Tensor:
    """Random crops and mirror images of pictures, minus the mean, over ``scale``.

    The draw is a function of (seed, epoch, picture): neither batch nor order matters.
    ``pixels`` (N, 3, H, W) uint8, their indices ``chosen`` (N,) and the mean (3, H, W) →
    (N, 3, size, size) of the mean's type, channels last.
    """
    height, width = pixels.shape[-2:]
    tops = _hash(chosen, seed, epoch, 0) % (height - size + 1)
    lefts = _hash(chosen, seed, epoch, 1) % (width - size + 1)
    mirrored = _hash(chosen, seed, epoch, 2) % 2 == 1
    x = crop_flip(pixels, tops, lefts, mirrored, size).to(mean.dtype)
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


class _Masks:
    """Where one batch's dropout comes from: a random number for each picture, and a count of the calls."""

    def begin(self, pictures: Tensor) -> None:
        """A batch begins; ``pictures`` (N,) holds 31 random bits for each of its pictures."""
        self.pictures, self.calls = pictures, 0

    def keep(self, shape: torch.Size, p: float) -> Tensor:
        """Which of the (N, …) units of the next call are kept, each with probability 1 - ``p``: bool."""
        units = torch.arange(shape[1:].numel(), device=self.pictures.device)
        draw = _hash((self.pictures[:, None] << 31) + units, self.calls, 0, 0)  # (N, units)
        self.calls += 1
        return (draw >= round(p * 2**31)).view(shape)


class _Dropout(nn.Dropout):
    """Dropout that asks its ``masks``, so that neither the batch nor the number of processes matters."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.masks.keep(x.shape, self.p) / (1 - self.p) if self.training else x


@contextmanager
def _dropout_by_picture(model: nn.Module, p: float | None) -> Iterator[_Masks]:
    """Every ``nn.Dropout`` of ``model`` is a :class:`_Dropout` for a while, of probability ``p`` if given."""
    every = {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd)}
    for name, module in every.items():
        if type(module) is not nn.Dropout:
            kind = type(module).__name__
            raise ValueError(f"{name} is {kind}, whose masks are not drawn by picture; use nn.Dropout")
    before = [(module, module.p) for module in every.values()]
    for share in [p] if p is not None else [built for _, built in before]:
        if not 0 <= share < 1:
            raise ValueError(f"a dropout of {share}; accepted is 0 ≤ p < 1, the share that is dropped")
    masks = _Masks()
    try:
        for module, built in before:
            module.__class__, module.masks, module.p = _Dropout, masks, built if p is None else p
        yield masks
    finally:
        for module, built in before:
            module.__class__, module.p = nn.Dropout, built
            del module.masks


# ------------------------------------------------------------------------------ devices and processes
def precision_of(precision: str, device: str | torch.device, dtype: torch.dtype = torch.float32) -> str:
    """``"bf16"`` or ``"float32"``: what ``"auto"`` stands for there with weights of that type, or as given.

    Raises ``ValueError`` for another name.
    """
    if precision not in ("auto", "bf16", "float32"):
        raise ValueError(f"unknown precision {precision!r}; known: auto, bf16, float32")
    if precision != "auto":
        return precision
    return "bf16" if dtype == torch.float32 and _has_bf16(torch.device(device)) else "float32"


def _has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there; a CPU without the instructions has it too, but slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch we support
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16"))


def _processes() -> tuple[int, int]:
    """This process's number, and how many there are."""
    here = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if here else (0, 1)


def _distributed(model: nn.Module) -> nn.Module:
    """The model behind PyTorch's DDP, which takes the mean of the processes' gradients."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name} is {type(module).__name__}, which would see only one process's share of a batch; "
                "train it in one process"
            )
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def _largest(device: torch.device, *numbers: int) -> list[int]:
    """The largest of each over all processes, which wait for each other; a GPU is waited for, too."""
    if _processes()[1] == 1:
        return list(numbers)
    together = torch.tensor(numbers, device=device)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return together.tolist()


@torch.no_grad()
def _validate(
    model, mean, data: Pictures, size: int, scale: float, low_precision, workers: int
) -> tuple[float, float]:
    """Top-1 and top-5 error in % on centre crops, each process judging its share."""
    model.eval()
    (rank, world), device = _processes(), mean.device
    shares = torch.arange(len(data))[rank::world].split(256)
    wrong = torch.zeros(2, dtype=torch.float64, device=device)
    for share, pixels in zip(shares, batches(data, shares, device, workers), strict=True):
        x = (centre_crop(pixels, size).to(mean.dtype) - centre_crop(mean, size)) / scale
        with low_precision:
            logits = model(x.contiguous(memory_format=torch.channels_last)).to(mean.dtype)
        labels = data.labels[share].to(device)
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        wrong += torch.stack([(~hits[:, 0]).sum(), (~hits.any(1)).sum()])
    if world > 1:
        dist.all_reduce(wrong)
    return tuple((100 * wrong / len(data)).tolist())


class _Interruption:
    """Turns Ctrl-C and SIGTERM into a flag, so that no step is cut in two; a second one acts at once."""

    def __enter__(self):
        self._noted, self._agreed, self._handlers = 0, 0, {}
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        self._noted = number
        self._restore()

    def _restore(self):
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def agreed(self, device: torch.device, save: bool = False) -> bool:
        """Whether any process wants to save, or noted a signal, on which then all of them will act."""
        self._agreed, save = _largest(device, self._noted, save)
        return bool(save or self._agreed)

    def act(self):
        """Let a signal that was agreed on do what it would have done without us."""
        if self._agreed:
            self._restore()
            signal.raise_signal(self._agreed)
            raise KeyboardInterrupt  # the caller's handler let us live, but asked us to stop

    def __exit__(self, error, *_):
        self._restore()
        if error is None:
            self._agreed = self._noted
            self.act()


class _State:
    """All that changes while training, and that a checkpoint holds; beside it the settings, to compare."""

    def __init__(self, model: nn.Module, recipe: Recipe, settings: dict):
        self.model, self.recipe, self.settings = model, recipe, settings
        self.parameters = list(model.parameters())
        self.dtype = self.parameters[0].dtype
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
        self._kept = copy.deepcopy(model).eval()
        self.average = list(self._kept.parameters())
        self.step = 0
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.average[0].device)
        self.diverged_at = torch.zeros_like(self.epoch_loss)  # the first step whose loss is not finite
        self.epoch_seconds = 0.0
        self.history: list[dict[str, float]] = []
        self._clock = self._saved = time.monotonic()

    # ---- the steps
    def update(self, loss: Tensor, rate: float, pictures: int) -> None:
        """One step of SGD; ``loss`` is the sum over this process's share of a batch of so many pictures."""
        world = _processes()[1]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (world / pictures)).backward()  # DDP then takes the mean over the processes
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.recipe.radius is not None:
            renormalize_filters_(self.model, self.recipe.radius)
        self.step += 1
        total = loss.detach().to(torch.float64, copy=True)
        if world > 1:
            dist.all_reduce(total)
        self.epoch_loss += total
        first = (self.diverged_at == 0) & ~total.isfinite()
        self.diverged_at = torch.where(first, self.step, self.diverged_at)
        if self.recipe.average is not None and self.step % 10 == 0:
            before = self.step // 10 - 1
            decay = min(
                self.recipe.average, (1 + before) / (10 + before)
            )  # a start at random is soon forgotten
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @torch.no_grad()
    def insist_on_finite(self, rate_at: Callable[[int], float], checkpoint: Path | None) -> None:
        """Raise :class:`DivergedError` if the loss or a weight is not a number any more.

        ``rate_at`` tells the rate of a step, of which the first is 1.
        """
        if math.isfinite(float(self.epoch_loss + nn.utils.get_total_norm(self.average + self.parameters))):
            return
        step = int(self.diverged_at)  # 0 where a weight is not finite, and the loss has not met it yet
        what = (
            f"the loss is not finite at step {step}"
            if step
            else f"a weight is not finite by step {self.step}"
        )
        known = checkpoint is not None and checkpoint.exists()
        where = f"the last good checkpoint is {checkpoint}" if known else "there is no checkpoint yet"
        raise DivergedError(
            f"{what}, at a rate of {rate_at(step or self.step):.2g}; {where}; "
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
        kept = copy.deepcopy(self._kept)
        averaged = self.recipe.average is not None
        last = dict(self.model.named_buffers()) if averaged else self.model.state_dict()
        kept.load_state_dict(last, strict=False)
        return kept

    # ---- the checkpoint
    def age(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._saved

    def _tick(self) -> None:
        now = time.monotonic()
        self.epoch_seconds += now - self._clock
        self._clock = now

    def write(self, path: Path | None) -> None:
        """Write checkpoint and history, in the first process; the others wait until they are there."""
        self._tick()
        self._saved = self._clock
        rank, world = _processes()
        if path is not None and rank == 0:
            self._write(path)
        if world > 1:
            dist.barrier()

    def _write(self, path: Path) -> None:
        tensors = {f"weight/{name}": t for name, t in self.model.state_dict().items()}
        for (name, p), mean in zip(self.model.named_parameters(), self.average, strict=True):
            if self.recipe.average is not None:
                tensors[f"average/{name}"] = mean
            if (buffer := self.optimizer.state[p].get("momentum_buffer")) is not None:
                tensors[f"momentum/{name}"] = buffer
        tensors["epoch_loss"] = self.epoch_loss
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        progress = {"step": self.step, "seconds": self.epoch_seconds, "history": self.history}
        state = json.dumps({"settings": self.settings, **progress})
        metadata = {"state": state, "checksum": _checksum(tensors, state)}
        write_atomically(path, safetensors.torch.save(tensors, metadata=metadata))
        self._write_history(path)

    def read(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                state = json.loads(metadata["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                progress = state["step"], state["seconds"], state["history"], state["settings"]
            if metadata["checksum"] != _checksum(tensors, metadata["state"]):
                raise ValueError("its checksum differs")
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a whole checkpoint of this trainer ({error}); move it away"
            ) from error
        settings, there = json.loads(json.dumps(self.settings)), state["settings"]
        if there != settings:
            differing = ", ".join(key for key in settings | there if there.get(key) != settings.get(key))
            raise CheckpointError(
                f"{path} belongs to another run (it differs in {differing}); give another folder"
            )
        try:
            self.model.load_state_dict(_part(tensors, "weight"))
            averages, momentum = _part(tensors, "average"), _part(tensors, "momentum")
            for (name, p), mean in zip(self.model.named_parameters(), self.average, strict=True):
                if self.recipe.average is not None:
                    mean.data.copy_(averages[name])
                if name in momentum:
                    buffer = torch.empty_like(p).copy_(momentum[name])  # keeps channels_last
                    self.optimizer.state[p]["momentum_buffer"] = buffer
            self.epoch_loss.copy_(tensors["epoch_loss"])
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"{path} belongs to another network: {error}; give another folder"
            ) from error
        self.step, self.epoch_seconds, self.history, _ = progress
        if _processes()[0] == 0:
            self._write_history(path)  # killed between checkpoint and history, it lags behind

    def _write_history(self, checkpoint: Path) -> None:
        if self.history:
            write_atomically(checkpoint.with_name("history.csv"), _as_csv(self.history))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")
    }


def _checksum(tensors: dict[str, Tensor], state: str = "") -> str:
    """CRC-32 over a text and all tensors, with their names and shapes: safetensors notices no flipped bit."""
    total = zlib.crc32(state.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu()
        total = zlib.crc32(f"{name} {values.dtype} {list(values.shape)}".encode(), total)
        total = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"


class _EventLog:
    """The history for TensorBoard, in ``folder/tensorboard``; it makes no file before there is an epoch."""

    def __init__(self, folder: str | os.PathLike | None):
        self._folder, self._writer = folder, None

    def write(self, row: dict[str, float], pictures: int) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # half a second that only a folder costs

            # What a killed run logged after its last checkpoint is purged.
            self._writer = SummaryWriter(Path(self._folder) / "tensorboard", purge_step=row["epoch"])
        shown = row | {"images per second": pictures / max(row["seconds"], 0.1)}
        for name in shown.keys() - {"epoch"}:
            self._writer.add_scalar(name, shown[name], row["epoch"])
        self._writer.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer is not None:
            self._writer.close()


def _as_csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
