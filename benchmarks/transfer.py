"""Heads on features: ours against scikit-learn and against a plain PyTorch loop, on the same numbers.

    OMP_NUM_THREADS=1 python benchmarks/transfer.py                 # drawn features, 101 classes of 40
    OMP_NUM_THREADS=1 python benchmarks/transfer.py "layer 5.npy" labels.npy

Timed is all of it: choosing λ among the nine on held-out pictures, and the last fit; one thread. For a single
λ scikit-learn is as fast; what is gained comes from one basis for all of them. Accuracy on what was not
learned from must agree within two points. *Loop* is what one would write without thinking: features in
memory, SGD with momentum, 100 epochs of batches of 128.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from timing import table
from torch import nn

from zfcore.protocols import draw_split
from zfcore.transfer import STRENGTHS, fit_softmax

BARS = {"scikit-learn": 2.0, "loop": 2.0}


def drawn(classes: int = 101, each: int = 40, d: int = 4608) -> tuple[np.ndarray, np.ndarray]:
    """Rectified features with many weak directions, as a layer's are."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    mixing = draw.normal(size=(300, d)) / np.sqrt(300)
    inner = 0.2 * draw.normal(size=(classes, 300))[labels] + draw.normal(size=(len(labels), 300))
    noise = 0.5 * draw.normal(size=(len(labels), d))
    return np.maximum(0, inner @ mixing + noise).astype(np.float32), labels


def by_loop(x: np.ndarray, y: np.ndarray, tests: np.ndarray, strength: float) -> np.ndarray:
    torch.manual_seed(0)
    mean, scale = x.mean(0), np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    x, tests = (torch.from_numpy((part - mean) / scale) for part in (x, tests))
    labels, head = torch.from_numpy(y), nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.SGD(head.parameters(), 2.0, momentum=0.9, weight_decay=strength)
    for _ in range(100):
        for chosen in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(head(x[chosen]), labels[chosen]).backward()
            optimizer.step()
    return head(tests).argmax(1).numpy()


def by_scikit(x: np.ndarray, y: np.ndarray, tests: np.ndarray, strength: float) -> np.ndarray:
    square = ((x - x.mean(0)) ** 2).sum(1).mean()
    fitted = LogisticRegression(C=1 / (len(x) * strength * square), max_iter=1000).fit(x, y)
    return fitted.predict(tests)


def choosing(fit: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The same with λ chosen on every fifth picture, as a rival would choose it: one fit after the other."""

    def run(x: np.ndarray, y: np.ndarray, tests: np.ndarray) -> np.ndarray:
        held = np.arange(len(x)) % 5 == 0
        right = {s: (fit(x[~held], y[~held], x[held], s) == y[held]).mean() for s in STRENGTHS}
        return fit(x, y, tests, max(right, key=right.get))

    return run


def by_us(x: np.ndarray, y: np.ndarray, tests: np.ndarray) -> np.ndarray:
    return fit_softmax(x, y).predict(tests)


def main() -> int:
    torch.set_num_threads(1)
    features, labels = (np.load(path, mmap_mode="r") for path in sys.argv[1:3]) if sys.argv[1:] else drawn()
    split = draw_split(torch.from_numpy(np.array(labels)), 0)
    x, y = features[split.train.numpy()], labels[split.train.numpy()]
    tests, truth = features[split.test.numpy()], labels[split.test.numpy()]
    seconds, right, missed = {}, {}, []
    for name, fit in {"ours": by_us, "scikit-learn": choosing(by_scikit), "loop": choosing(by_loop)}.items():
        start = time.process_time()
        predicted = fit(x, y, tests)
        seconds[name], right[name] = time.process_time() - start, 100 * float((predicted == truth).mean())
    rows = []
    for name, spent in seconds.items():
        ratio, bar = spent / seconds["ours"], BARS.get(name)
        rows.append([name, f"{spent:.1f}", f"{ratio:.1f}", bar or "", f"{right[name]:.1f}"])
        if (bar and ratio < bar) or abs(right[name] - right["ours"]) > 2:
            missed.append(name)
    print(f"{len(x):,} pictures of {len(np.unique(y))} classes, {x.shape[1]:,} features")
    print(table(["", "seconds", "over ours", "bar", "accuracy, %"], rows))
    if missed:
        print("below the bar:", ", ".join(missed))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
