"""zfnet-64 in the page beside ONNX Runtime and PyTorch: forward, projections, a scan of 64 occluded pictures.

Then the explorers themselves: the time from a reader's choice to the picture that answers it.

    OMP_NUM_THREADS=1 python benchmarks/page.py

One thread each, wall time, medians; the rivals take turns, so that a busy machine slows all alike. The page
is the file that ``save_page`` writes, opened from disk in Chromium; its time includes the way to the worker
and back. ONNX Runtime runs the same exported graphs in Python. PyTorch runs what the explorers run in Lab:
the network, ``Deconvnet.project``, and one batch of occluded pictures. For one unit ``Deconvnet.project``
computes only the cells that the unit depends on; the graphs compute whole maps, as it does for a whole map.
The bar, at most 3 times PyTorch, is held against the same work; what the window saves has its own column.
A choice has to be answered within 200 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from timing import table

from zfcore import assets
from zfcore.data import photographs
from zfcore.deconvnet import Deconvnet
from zfcore.export import export_onnx
from zfcore.gallery import Crops, Gallery
from zfcore.model import load
from zfcore.page import save_page
from zfcore.view import Viewer
from zfcore.widgets import FeatureExplorer, InvarianceExplorer, OcclusionExplorer, PhotoExplorer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from browser import PATIENCE, drawn, open_browser

BAR = 3.0
ANSWER = 200.0  # ms
RIVALS = ("page", "ONNX Runtime", "PyTorch", "its window")
OCCLUDER, STRIDE = 14, 6  # 8 × 8 places
START = """async given => {
    const state = JSON.parse(document.querySelector('.zf-state').text);
    window.network = await zfcore.Network.load(state.network);
    window.picture = Float32Array.from(given);
}"""
# From a choice to the answer, as the reader sees it: the explorer is busy in between.
CHOOSE = """async ([kind, choice, values, n]) => {
    const root = document.querySelector(`[data-explorer="${kind}"]`);
    const control = root.querySelector(`[data-choice="${choice}"]`);
    const start = performance.now();
    control.value = values[n % values.length];
    control.dispatchEvent(new Event('input', {bubbles: true}));
    while (root.getAttribute('aria-busy') !== 'false') await new Promise(resume => setTimeout(resume, 1));
    return performance.now() - start;
}"""
CHOICES = {  # explorer, control, values in turn
    "photograph explorer, another feature": ("photo", "feature", [3, 60, 17, 90, 41]),
    "photograph explorer, another unit": ("photo", "row", [1, 8, 4, 11]),
    "feature explorer, another feature": ("feature", "feature", [3, 60, 17, 90, 41]),
    "occlusion explorer, another size": ("occlusion", "size", [10, 20, 14, 26]),
    "invariance explorer, another rotation": ("invariance", "rotation", [10, 200, 95, 310]),
}
RUN = """async ([call, argument]) => {
    const start = performance.now();
    await network[call]({picture, pictures: picture, ...argument});
    return (performance.now() - start) / 1000;
}"""


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def answer_times(browser, file: Path, rounds: int) -> list[tuple[str, float, float]]:
    """Every choice with the median and the slowest answer, in ms, all explorers in one page from disk."""
    model, card = load("zfnet-64")
    pictures = {"coffee": photographs()["coffee"]}
    gallery = Gallery.of(Viewer(model, card), Crops(pictures, (1.0, 0.5)))
    explorers = (
        PhotoExplorer(model, card, pictures, gallery=gallery, weights="own"),
        FeatureExplorer(model, card, gallery, pictures, crops=gallery, weights="own"),
        OcclusionExplorer(model, card, pictures, weights="own"),
        InvarianceExplorer(model, card, pictures, weights="own"),
    )
    twins = "".join(explorer.to_html() for explorer in explorers)
    runtime = assets.scripts_html({assets.RUNTIME: assets.asset(assets.RUNTIME, assets.runtime_pack())})
    file.write_text(f"<!doctype html><meta charset=utf-8>{twins}{runtime}<script>{assets.script()}</script>")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    for explorer in page.locator(".zf-explorer").all():
        drawn(explorer)
    found = []
    for name, choice in CHOICES.items():
        times = [page.evaluate(CHOOSE, [*choice, n]) for n in range(rounds + 1)][1:]  # the first one warms up
        found.append((name, statistics.median(times), max(times)))
    return found


def main(rounds: int = 7) -> int:
    torch.set_num_threads(1)
    model, card = load("zfnet-64")
    net, viewer = Deconvnet(model), Viewer(model, card)
    x = viewer.look("coffee", photographs()["coffee"]).input
    side = card["input_size"]
    corners = range(0, side - OCCLUDER + 1, STRIDE)

    def occluded() -> torch.Tensor:
        pictures = x.repeat(len(corners) ** 2, 1, 1, 1)
        for n, (top, left) in enumerate((top, left) for top in corners for left in corners):
            pictures[n, :, top : top + OCCLUDER, left : left + OCCLUDER] = 0
        return pictures

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser, torch.inference_mode():
        export_onnx(model, side, viewer.layers.values(), folder)
        sessions = {
            file.stem: onnxruntime.InferenceSession(file, options) for file in Path(folder).glob("*.onnx")
        }
        report = save_page(
            model, {"coffee": photographs()["coffee"]}, Path(folder) / "report.html", card=card
        )
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(report.as_uri())
        drawn(page.locator(".zf-explorer"))
        page.evaluate(START, x.flatten().tolist())

        def in_page(call: str, **argument):
            return lambda: page.evaluate(RUN, [call, argument])

        def by_runtime(graph: str, outputs: list[str], **feeds):
            return lambda: seconds(lambda: sessions[graph].run(outputs, feeds))

        def by_torch(run):
            return lambda: seconds(run)

        def projection(layer: str):
            unit = {"channel": 7, "position": [3, 3], "rule": 0}
            feeds = {name: np.array(value) for name, value in unit.items()} | {"picture": x.numpy()}
            return (
                in_page("project", layer=layer, **unit),
                by_runtime(f"project_{layer}", ["projection"], **feeds),
                by_torch(lambda: net.project(x, layer, 7, "map")),
                by_torch(lambda: net.project(x, layer, 7, (3, 3))),
            )

        work = {
            "forward": (
                in_page("forward", outputs=["logits"]),
                by_runtime("forward", ["logits"], pictures=x.numpy()),
                *[by_torch(lambda: model(x))] * 2,
            ),
            **{f"projection, {name}": projection(path) for name, path in viewer.layers.items()},
            "64 occluded": (
                in_page("occlude", size=[OCCLUDER] * 2, stride=STRIDE, fill=0),
                by_runtime("forward", ["logits"], pictures=occluded().numpy()),
                *[by_torch(lambda: model(occluded()))] * 2,
            ),
        }
        rows, missed = [], []
        for name, rivals in work.items():
            turns = [[run() for run in rivals] for _ in range(rounds + 1)][1:]  # the first one warms up
            spent = [statistics.median(times) for times in zip(*turns, strict=True)]
            ratios = [spent[0] / other for other in spent[1:]]
            if ratios[1] > BAR:
                missed.append(name)
            rows.append(
                [name, *(f"{1e3 * time:.1f}" for time in spent), *(f"{ratio:.1f}×" for ratio in ratios)]
            )
        version = browser.version
        page.close()
        answers = answer_times(browser, Path(folder) / "explorers.html", rounds)
    print(f"zfnet-64, {side} px, one thread, ms; medians of {rounds} turns; torch {torch.__version__}, "
          f"ONNX Runtime {onnxruntime.__version__}, Chromium {version}")  # fmt: skip
    print(table(["", *RIVALS, *(f"page/{name}" for name in RIVALS[1:])], rows))
    print("from a choice to its answer, ms; median and slowest of", rounds)
    print(table(["", "median", "slowest"], [[name, f"{m:.0f}", f"{s:.0f}"] for name, m, s in answers]))
    missed += [name for name, median, _ in answers if median > ANSWER]
    if missed:
        print(f"above {BAR:g} times PyTorch, or {ANSWER:g} ms: {', '.join(missed)}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
