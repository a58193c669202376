"""Activation maximisation of the same units: ours and torch-lucent's, by the time to one activation.

    OMP_NUM_THREADS=1 python benchmarks/maximization.py

torch-lucent pins packages of 2020, so it is in no list of ours: the first run puts it into `runs/lucent`
(ignored by git), without what it pins, and it runs on this environment's torch. Both climb to the same maps
of `zfnet-64` at 56 px, 64 steps, one thread, weights frozen for both; lucent's picture, in [0, 1], is brought
to the network's units. *Plain*: no moves by chance, lucent's Fourier coefficients and Adam against our
frequency space and steps of one length. *Regularised*: the defaults of both. The goal is 90 % of the smaller
of the two best answers; the time is the process's until the answer first reaches it. An answer may be bought
by a picture of more contrast, so its root mean square stands beside it: lucent's cannot leave [0, 1], ours
has no bounds.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import table

from zfcore.maximization import PLAIN, REGULARISED, Answer, ascend, noise
from zfcore.model import load
from zfcore.trace import trace

PEER = Path(__file__).parents[1] / "runs" / "lucent"
PACKAGES = ["torch-lucent==0.1.8", "kornia==0.4.1", "decorator==5.2.1"]
UNITS = [("features.5", 40), ("features.9", 3), ("features.13", 29), ("classifier.6", 0)]
STEPS, ROUNDS, SHARE = 64, 3, 0.9
OURS = {"plain": {"recipe": PLAIN, "frequency": 1.0}, "regularised": {"recipe": REGULARISED}}


def bring_the_peer() -> None:
    if not PEER.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEER)]
        subprocess.run([*install, *PACKAGES], check=True)
    sys.path.append(str(PEER))


def ours(network, side: int, layer: str, channel: int, kind: str):
    """The answers and the times of every step, and the picture's size."""
    changes = dict(OURS[kind], iterations=STEPS, wake=True)
    recipe = replace(changes.pop("recipe"), **changes)
    begun, times, values = time.process_time(), [], []
    answer = Answer(trace(network), layer, [channel], wake=True)
    for step in ascend(answer, noise(side, [0], recipe.contrast, recipe.frequency).float(), recipe, [0]):
        values.append(step.values.item())
        times.append(time.process_time() - begun)
    return values, times, step.pictures.square().mean().sqrt().item()


def lucents(network, card: dict, layer: str, channel: int, kind: str):
    """The same by torch-lucent."""
    from lucent.optvis import objectives, param, render, transform

    side = card["input_size"]
    edge = (card["resize"] - side) // 2
    mean = card["mean"][:, edge : edge + side, edge : edge + side]
    moves = [] if kind == "plain" else list(transform.standard_transforms)

    def to_units(picture):  # lucent's moves pad, and it brings the size back too late
        picture = F.interpolate(picture, side, mode="bilinear", align_corners=True)
        return (255 * picture - mean) / card["scale"]

    goal = objectives.channel(layer.replace(".", "_"), channel)
    values, times, sizes = [], [], []
    begun = time.process_time()

    def watched(tap):
        loss = goal(tap)
        values.append(-loss.item())
        times.append(time.process_time() - begun)
        sizes.append(tap("input").sub(mean / 255).mul(255 / card["scale"]).square().mean().sqrt().item())
        return loss

    render.render_vis(
        network, objectives.Objective(watched), lambda: param.image(side), transforms=[*moves, to_units],
        thresholds=(STEPS,), preprocess=False, progress=False, show_image=False, fixed_image_size=side,
    )  # fmt: skip
    return values, times, sizes[-1]


def main() -> int:
    bring_the_peer()
    warnings.filterwarnings("ignore")  # those of the peer, whose torch was another
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, card = load("zfnet-64")
    network.requires_grad_(False)
    rows, missed = [], []
    for kind in OURS:
        for layer, channel in UNITS:
            runs = {"ours": [], "lucent": []}
            for _ in range(ROUNDS):
                runs["ours"].append(ours(network, card["input_size"], layer, channel, kind))
                runs["lucent"].append(lucents(network, card, layer, channel, kind))
            goal = SHARE * min(statistics.median(max(v) for v, _, _ in found) for found in runs.values())
            spent = {
                name: statistics.median(
                    next((t for v, t in zip(values, times, strict=True) if v >= goal), float("inf"))
                    for values, times, _ in found
                )
                for name, found in runs.items()
            }
            answered = goal > 0  # a silent map has no gradient, and who does not wake it never starts
            ratio = spent["lucent"] / spent["ours"] if answered else float("inf")
            missed += [f"{layer}, {kind}"] * (ratio < 1)
            row = [f"{layer}, {channel}, {kind}"]
            for found in runs.values():
                row.append(f"{statistics.median(max(v) for v, _, _ in found):.3g}")
                row.append(f"{statistics.median(size for _, _, size in found):.2f}")
                row.append(f"{1e3 * statistics.median(t[-1] for _, t, _ in found) / STEPS:.0f}")
            seconds = [f"{s:.2f}" for s in spent.values()] if answered else ["–", "silent"]
            rows.append([*row, f"{goal:.3g}", *seconds, f"{ratio:.1f}×" if answered else "–"])
    head = [
        "",
        "ours best",
        "size",
        "ms a step",
        "lucent best",
        "size",
        "ms a step",
        "goal",
        "ours s",
        "lucent s",
    ]
    print(table([*head, "lucent/ours"], rows))
    if missed:
        print(f"slower than torch-lucent: {'; '.join(missed)}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
