"""Nine hits of every feature against a loop over pictures, and from the disk as from memory."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import zfcore
from zfcore import gallery as room
from zfcore import model
from zfcore.cli import app
from zfcore.data import LabelledPictures, photographs, to_input
from zfcore.figures import stretch
from zfcore.gallery import Album, Crops, Gallery, GalleryError, sheet, strongest
from zfcore.ledger import read
from zfcore.model import build, initialize_, load
from zfcore.topk import TopActivations
from zfcore.view import MID_GREY, Viewer

STORED = Path(__file__).parents[1] / "book" / "results" / "top9"
SIZE, SIDE = 20, 24
LAYERS = {"layer 1": "0.1", "layer 2": "1.1"}

pytestmark = pytest.mark.usefixtures("one_thread")


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).eval()


CARD = {
    "input_size": SIZE,
    "resize": SIDE,
    "scale": 64.0,
    "mean": torch.full((3, SIDE, SIDE), 118.0),
    "sha256": "0" * 64,
}


def pictures(n=30):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    names = ("cat", "cup")
    return LabelledPictures(pixels, torch.arange(n) % 2, names, names, tuple(f"{i}.png" for i in range(n)))


@pytest.fixture(scope="module")
def viewer():
    return Viewer(network(), CARD, LAYERS)


@pytest.fixture(scope="module")
def gallery(viewer):
    return Gallery.of(viewer, pictures())


@pytest.fixture
def stored(gallery, tmp_path):
    data = pictures()
    about = {"data": "noise", "data_sha256": data.sha256, "command": "zfcore features"}
    gallery.save(tmp_path, "net", **about)
    return tmp_path


@torch.no_grad()
def naive(viewer, data, path, feature):
    """(value, picture, (y, x), patch, projection) of every picture that excites a feature, the best first."""
    found = []
    side = viewer.net.geometry[path].receptive_field
    for number, pixels in enumerate(data.pixels):
        square = pixels[:, 2:22, 2:22]
        x = ((square.float() - 118) / 64)[None]
        answer = viewer.net.activations(x, [path])[path][0, feature]
        y, x_ = divmod(int(answer.argmax()), answer.shape[1])
        if answer[y, x_] <= 0:
            continue
        top, left, *_ = viewer.net.geometry[path].box(y, x_)
        grey = np.full((SIZE + 2 * side, SIZE + 2 * side, 3), MID_GREY, np.uint8)
        cells = []
        for shown in (square.permute(1, 2, 0).numpy(), stretch(viewer.net.project(x, path, feature)[0])):
            around = grey.copy()
            around[side : side + SIZE, side : side + SIZE] = shown
            cells.append(around[side + top : 2 * side + top, side + left : 2 * side + left])
        found.append((float(answer[y, x_]), data.files[number], (y, x_), *cells))
    return sorted(found, key=lambda hit: -hit[0])[:9]


@pytest.mark.parametrize(("layer", "feature"), [("layer 1", 0), ("layer 1", 4), ("layer 2", 1)])
def test_hits_patches_and_projections_are_those_of_a_loop(viewer, gallery, layer, feature):
    expected = naive(viewer, pictures(), LAYERS[layer], feature)
    hits = gallery.hits(layer, feature)
    assert [(hit.picture, hit.position) for hit in hits if hit] == [hit[1:3] for hit in expected]
    assert [hit.value for hit in hits if hit] == pytest.approx([hit[0] for hit in expected])
    assert [hit.label for hit in hits if hit] == [("cat", "cup")[int(h[1][:-4]) % 2] for h in expected]
    for n, (_, _, _, patch, projection) in enumerate(expected):
        np.testing.assert_array_equal(gallery.patches(layer, feature)[n], patch)
        np.testing.assert_allclose(gallery.projections(layer, feature)[n], projection, atol=1)


def test_a_picture_given_as_a_path_has_no_label(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "cup.png")
    assert Album({"cup": str(tmp_path / "cup.png")}).labels == [""]


def test_a_box_is_the_field_clipped_to_the_picture(viewer, gallery):
    wall = gallery.layers["layer 2"]
    for feature in wall.features:
        for hit, there in zip(wall.hits[feature], wall.inside(feature), strict=True):
            if hit is None:
                assert not there.any()
                continue
            top, left, height, width = hit.box
            assert 0 <= top <= top + height <= SIZE
            assert 0 <= left <= left + width <= SIZE
            assert there.sum() == height * width
            first = [edge.start for edge in wall.place(hit)]
            corner = viewer.net.geometry["1.1"].box(*hit.position)[:2]
            assert first == [top - corner[0], left - corner[1]]


def test_a_silent_feature_has_no_hits_and_grey_cells(viewer):
    silent = network()
    with torch.no_grad():
        silent[0][0].bias.fill_(-1e6)
    found = Gallery.of(Viewer(silent, CARD, LAYERS), pictures())
    assert found.hits("layer 1", 0) == (None,) * 9
    assert (found.projections("layer 1", 0) == MID_GREY).all()
    assert (found.patches("layer 1", 0) == MID_GREY).all()


def test_a_field_larger_than_the_picture_shows_the_picture():
    wide = nn.Sequential(nn.Conv2d(3, 2, 21, padding=10), nn.ReLU(), nn.Flatten(), nn.Linear(800, 2)).eval()
    found = Gallery.of(Viewer(wide, CARD, ["1"]), pictures(3))
    assert found.layers["1"].side == SIZE
    hit = next(hit for hit in found.hits("1", 0) if hit)
    assert hit.box == (0, 0, SIZE, SIZE)
    shown = pictures(3).pixels[int(hit.picture[:-4]), :, 2:22, 2:22].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found.patches("1", 0)[0], shown)


def test_a_layer_is_known_by_both_names(gallery):
    assert gallery.hits("layer 2", 1) == gallery.hits("1.1", 1)
    with pytest.raises(ValueError, match="no layer 'layer 9' in this gallery; it has: layer 1, layer 2"):
        gallery.hits("layer 9", 0)
    with pytest.raises(ValueError, match="layer 2 shows no feature 4; it shows 0 to 3"):
        gallery.projections("layer 2", 4)


# ------------------------------------------------------------------------------ stored
def test_what_is_stored_is_read_as_it_was_found(gallery, stored):
    again = Gallery.load(stored, "net", "0" * 64)
    for name, wall in gallery.layers.items():
        assert again.layers[name].side == wall.side
        assert again.layers[name].features == wall.features
        for feature in wall.features:
            np.testing.assert_array_equal(
                again.projections(name, feature), gallery.projections(name, feature)
            )
            for one, other in zip(again.hits(name, feature), wall.hits[feature], strict=True):
                assert (one and (one.picture, one.label, one.position, one.box)) == (
                    other and (other.picture, other.label, other.position, other.box)
                )
                assert one is None or one.value == pytest.approx(other.value, rel=1e-4)


def test_patches_come_back_with_the_pictures(viewer, gallery, stored):
    again = Gallery.load(stored, "net", "0" * 64)
    assert not again.has_patches
    with pytest.raises(GalleryError, match="the pictures of noise are not stored"):
        again.patches("layer 1", 0)
    beside = again.beside(viewer, pictures())
    np.testing.assert_array_equal(beside.patches("layer 2", 1), gallery.patches("layer 2", 1))
    with pytest.raises(GalleryError, match="was found among noise"):
        again.beside(viewer, pictures(29))


def test_a_gallery_of_other_weights_is_refused(stored):
    with pytest.raises(GalleryError, match="shows the weights 000000000000, not net 111111111111; make it"):
        Gallery.load(stored, "net", "1" * 64)


def test_a_damaged_gallery_is_refused(stored):
    Image.new("RGB", (9, 9)).save(stored / "net-layer-1.webp")
    with pytest.raises(GalleryError, match=r"net-layer-1.webp is not the sprite that net.json tells of"):
        Gallery.load(stored, "net", "0" * 64).projections("layer 1", 0)
    (stored / "net.json").write_text("{}")
    with pytest.raises(GalleryError, match="is not a gallery"):
        Gallery.load(stored, "net", "0" * 64)
    with pytest.raises(FileNotFoundError, match="there are: net"):
        Gallery.load(stored, "other")


def test_a_gallery_of_ones_own_network_belongs_to_any_weights_unless_some_are_asked_for(viewer, tmp_path):
    own = Viewer(viewer.model, {key: value for key, value in CARD.items() if key != "sha256"}, LAYERS)
    Gallery.of(own, pictures(6), 2).save(tmp_path, "mine", data="noise")
    assert Gallery.load(tmp_path, "mine").projections("layer 1", 0).any()
    with pytest.raises(GalleryError, match="shows the weights None, not mine 0000"):
        Gallery.load(tmp_path, "mine", "0" * 64)


def test_no_pictures_have_no_gallery(viewer):
    with pytest.raises(ValueError, match="there are no pictures"):
        Gallery.of(viewer, {})


def test_some_maps_can_be_stored(gallery, tmp_path):
    gallery.save(tmp_path, "net", maps=2, seed=3, data="noise")
    again = Gallery.load(tmp_path, "net", "0" * 64)
    assert [len(wall.features) for wall in again.layers.values()] == [2, 2]
    feature = again.layers["layer 1"].features[1]
    np.testing.assert_array_equal(
        again.projections("layer 1", feature), gallery.projections("layer 1", feature)
    )


def test_a_sprite_larger_than_webp_is_refused_with_what_fits(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "LARGEST", 14)
    with pytest.raises(ValueError, match=r"5 features of layer 1, 3 px each.* store at most 4 maps"):
        gallery.save(tmp_path, "net")


def test_a_refused_gallery_leaves_the_one_before_as_it_was(viewer, stored, monkeypatch):
    others = Gallery.of(viewer, {"chelsea": photographs()["chelsea"]})
    before = {file.name: file.read_bytes() for file in stored.iterdir()}
    monkeypatch.setattr(room, "LARGEST", 20)  # layer 1 fits, and layer 2 does not
    with pytest.raises(ValueError, match="features of layer 2"):
        others.save(stored, "net")
    assert {file.name: file.read_bytes() for file in stored.iterdir()} == before
    assert Gallery.load(stored, "net", "0" * 64).projections("layer 1", 0).any()


# ------------------------------------------------------------------------------ a pass that goes on
def test_an_interrupted_pass_goes_on(viewer, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "PART", 8)
    album, file, looked = Album(pictures()), tmp_path / "pass.safetensors", []
    whole = strongest(viewer, album)
    real = room.inputs

    def counting(viewer, album, numbers, batch_size=32):
        if len(looked) == 2:
            looked.append(None)
            raise KeyboardInterrupt
        looked.append(numbers)
        return real(viewer, album, numbers, batch_size)

    monkeypatch.setattr(room, "inputs", counting)
    with pytest.raises(KeyboardInterrupt):
        strongest(viewer, album, file=file)
    found = strongest(viewer, album, file=file)
    assert looked == [range(8), range(8, 16), None, range(16, 24), range(24, 30)]
    kept = strongest(viewer, album, file=file)
    assert len(looked) == 5
    for path in LAYERS.values():
        for result in (found[path], kept[path]):
            assert isinstance(result, TopActivations)
            torch.testing.assert_close(result.values, whole[path].values)
            assert torch.equal(result.images, whole[path].images)
            assert torch.equal(result.positions, whole[path].positions)
    file.write_bytes(b"cut off")
    assert torch.equal(strongest(viewer, album, file=file)["0.1"].images, whole["0.1"].images)


def test_a_cached_result_is_found_under_weights_data_code_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache"))
    given = {"weights": "a" * 64, "data": "b" * 64, "k": 9}
    first = room.cache("top", ["topk"], **given)
    assert first.parent == tmp_path / "cache"
    assert first == room.cache("top", ["topk"], **given)
    others = [room.cache("top", ["topk"], **given | {name: "c"}) for name in given]
    others.append(room.cache("top", ["topk", "trace"], **given))
    (tmp_path / "zfcore").mkdir()
    (tmp_path / "zfcore" / "topk.py").write_text("another code")
    monkeypatch.setattr(zfcore, "__file__", str(tmp_path / "zfcore" / "__init__.py"))
    others.append(room.cache("top", ["topk"], **given))
    (tmp_path / "zfcore" / "topk").mkdir()
    for code in ("a folder of code", "another folder"):
        (tmp_path / "zfcore" / "topk" / "corner.py").write_text(code)
        others.append(room.cache("top", ["topk"], **given))
    assert len({first, *others}) == 8


# ------------------------------------------------------------------------------ crops
def test_crops_lie_inside_their_photographs_at_every_scale():
    crops = Crops({"chelsea": photographs()["chelsea"]}, scales=(1.0, 0.5))
    height, width = photographs()["chelsea"].pixels.shape[:2]
    assert {side for *_, side in crops.boxes} == {height, height // 2}
    for number, (name, top, left, side) in enumerate(crops.boxes):
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
        assert crops[number].shape == (side, side, 3)
        assert crops.names[number] == f"{name} ({top}, {left}) + {side}"


def test_crops_stand_half_a_side_apart_and_cover_the_photograph():
    class Wide:
        pixels, title = np.zeros((300, 451, 3), np.uint8), ""

    crops, seen = Crops({"x": Wide()}, scales=(1.0, 0.6)), np.zeros((2, 300, 451), bool)
    corners = {300: [(0, 0), (0, 151)], 180: [(t, le) for t in (0, 120) for le in (0, 90, 181, 271)]}
    for side, expected in corners.items():
        assert [(top, left) for _, top, left, of in crops.boxes if of == side] == expected
    for _, top, left, side in crops.boxes:
        seen[int(side == 180), top : top + side, left : left + side] = True
    assert seen.all()


def test_overlap_is_a_common_pixel_of_one_photograph():
    crops = Crops({name: photographs()[name] for name in ("chelsea", "coffee")}, scales=(0.5, 0.3))
    found = crops.overlapping()
    masks = {name: np.zeros(photographs()[name].pixels.shape[:2], int) for name in crops.photographs}
    for i in range(0, len(crops), 7):
        name, top, left, side = crops.boxes[i]
        mask = masks[name] * 0
        mask[top : top + side, left : left + side] = 1
        for j, (other, top, left, side) in enumerate(crops.boxes):
            common = other == name and mask[top : top + side, left : left + side].any()
            assert bool(found[i, j]) == common


def test_no_two_hits_of_a_feature_come_from_overlapping_crops(viewer):
    crops = Crops({name: photographs()[name] for name in ("chelsea", "rocket")}, scales=(0.6, 0.36))
    found, overlapping = Gallery.of(viewer, crops), crops.overlapping()
    number = {name: n for n, name in enumerate(crops.names)}
    for feature in range(5):
        hits = [number[hit.picture] for hit in found.hits("layer 1", feature) if hit]
        assert len(hits) > 1
        assert overlapping[hits][:, hits].sum() == len(hits)
    assert found.patches("layer 1", 0).shape == (9, 3, 3, 3)


def test_an_album_of_files_is_named_by_its_content(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (30, 26), colour).save(tmp_path / name)
    one, other = (
        Album({name: tmp_path / name for name in names}) for names in (("a.png", "b.png"), ("b.png", "a.png"))
    )
    assert one.sha256 != other.sha256
    assert one[1].tolist() == other[0].tolist()


def test_a_sheet_sets_the_cells_in_rows():
    cells = np.stack([np.full((3, 3, 3), value, np.uint8) for value in range(5)])
    shown = sheet(cells, columns=3, side=6, gap=1)
    assert shown.shape == (13, 20, 3)
    assert shown[0, 0, 0] == 0
    assert shown[8, 8, 0] == 4
    assert shown[8, 15, 0] == 255


# ------------------------------------------------------------------------------ the shell
@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A small network in the place of the one that ships, its cache, and a folder of pictures."""
    monkeypatch.setattr(model, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    small = build("zfnet-64", 10, width=0.1)
    initialize_(small, "he")
    card = {"architecture": "zfnet-64", "width": 0.1, "num_classes": 10, "input_size": 56, "resize": 64}
    card |= {"scale": 64.0, "classes": list("abcdefghij"), "labels": list("abcdefghij")}
    model.save(tmp_path / "weights" / "zfnet-64.safetensors", small, torch.full((3, 64, 64), 118.0), card)
    (tmp_path / "photos").mkdir()
    for name in ("chelsea", "coffee", "rocket"):
        Image.fromarray(photographs()[name].pixels).resize((96, 80)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def shell(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_shell_projects_a_unit_into_a_photograph(shipped):
    photo, out = shipped / "photos" / "chelsea.png", shipped / "out"
    asked = ("project", photo, "--layer", "layer 3", "--feature", 2, "--rule", "guided", "--out", out)
    assert shell(*asked).exit_code == 0
    said = json.loads((out / "project.json").read_text())
    assert (said["path"], said["feature"], said["rule"]) == ("features.9", 2, "guided")
    viewer = Viewer(*load("zfnet-64"))
    x = to_input([photo], viewer.card)
    expected = stretch(viewer.net.project(x, "features.9", 2, rule="guided")[0])
    np.testing.assert_array_equal(np.asarray(Image.open(out / "projection.png")), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "projection.webp").convert("RGB")), expected)
    assert shell(*asked, "--unit", 5, 6).exit_code == 0
    assert json.loads((out / "project.json").read_text())["unit"] == [5, 6]


def test_the_shell_finds_the_strongest_pictures_of_a_folder(shipped):
    out = shipped / "out"
    asked = ("top", "--data", shipped / "photos", "--layer", "features.5", "--feature", 1, "--out", out)
    assert shell(*asked, "--k", 2).exit_code == 0
    said = json.loads((out / "top.json").read_text())
    found = Gallery.of(
        Viewer(*load("zfnet-64")), {f.name: f for f in sorted((shipped / "photos").iterdir())}, 2
    )
    hits = found.hits("layer 2", 1)
    assert [hit["picture"] for hit in said["hits"]] == [hit.picture for hit in hits]
    assert said["n"] == 3
    shown = np.asarray(Image.open(out / "patches.png"))
    np.testing.assert_array_equal(shown, sheet(found.patches("layer 2", 1)))
    assert len(list((shipped / "cache").iterdir())) == 1
    assert shell(*asked, "--k", 2).exit_code == 0


def test_the_shell_stores_a_gallery(shipped):
    result = shell("features", "--data", shipped / "photos", "--out", shipped / "top9", "--maps", 3)
    assert result.exit_code == 0, result.exception
    stored = Gallery.load(shipped / "top9", "zfnet-64")
    assert [len(wall.features) for wall in stored.layers.values()] == [3] * 5
    assert stored.about["n"] == 3
    assert stored.about["data"] == "photos"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", "layer 9", "--feature", 0), "no layer 'layer 9'; layer 1 .features.1., .*classifier.6"),
        (("--layer", "layer 1", "--feature", 99), "layer 1 has the features 0 to 3, but 99 was asked for"),
        (("--layer", "classifier.1", "--feature", 0), "have no feature maps"),
    ],
)
def test_what_cannot_be_projected_is_told_in_a_line(shipped, arguments, message):
    result = shell("project", shipped / "photos" / "coffee.png", *arguments, "--out", shipped)
    assert isinstance(result.exception, ValueError)
    assert re.search(message, str(result.exception))


def test_an_unknown_rule_or_target_lists_the_known_ones(shipped):
    photo = shipped / "photos" / "coffee.png"
    result = shell("project", photo, "--layer", "layer 1", "--feature", 0, "--rule", "x", "--out", shipped)
    assert (result.exit_code, "deconvnet, gradient, guided" in result.output) == (2, True)
    result = shell("measure", "fig3")
    assert (result.exit_code, "fig2, invariance" in result.output) == (2, True)


def test_measures_go_into_the_ledger_with_all_that_makes_them_again(shipped):
    asked = ("measure", "invariance", "--data", "patches", "--pictures", 20, "--results", shipped / "results")
    result = shell(*asked)
    assert result.exit_code == 0, result.exception
    entries = read("invariance", shipped / "results")["entries"]
    assert [entry["row"] for entry in entries] == ["five", "many", "many, random weights"]
    assert all(entry["data"] == "patches" and entry["weights_sha256"] for entry in entries)


# ------------------------------------------------------------------------------ the book's own
def test_the_books_sprites_belong_to_the_weights_that_ship():
    found = Gallery.load(STORED, "zfnet-64")
    card = load("zfnet-64")[1]
    assert found.about["weights_sha256"] == card["sha256"]
    assert found.about["n"] == 10_000
    assert [len(wall.features) for wall in found.layers.values()][:2] == [48, 128]
    assert all(len(found.layers[f"layer {n}"].features) >= 64 for n in (3, 4, 5))
    for name, wall in found.layers.items():
        assert found.projections(name, wall.features[-1]).shape == (9, wall.side, wall.side, 3)
    sizes = [file.stat().st_size for file in STORED.glob("zfnet-64*")]
    assert sum(sizes) <= 8e6


def test_a_sample_of_the_books_sprites_comes_out_again(tiny_imagenet_root):
    found = Gallery.load(STORED, "zfnet-64")
    viewer = Viewer(*load("zfnet-64"))
    for name in found.layers:
        wall = found.layers[name]
        feature = wall.features[len(wall.features) // 2]
        there = [(n, hit) for n, hit in enumerate(wall.hits[feature]) if hit]
        files = [tiny_imagenet_root / "tiny-imagenet-200/val/images" / hit.picture for _, hit in there]
        x = to_input(files, viewer.card)
        answers = viewer.net.activations(x, [wall.path])[wall.path][:, feature].detach()
        projected = viewer.net.project(x, wall.path, feature, [hit.position for _, hit in there])
        for (n, hit), answer, projection in zip(there, answers, projected, strict=True):
            assert float(answer.max()) == pytest.approx(hit.value, rel=1e-3)
            assert float(answer[hit.position]) == pytest.approx(hit.value, rel=1e-3)
            top, left, height, width = hit.box
            fresh = stretch(projection)[top : top + height, left : left + width].astype(int)
            stored = found.projections(name, feature)[n][wall.place(hit)].astype(int)
            assert np.abs(fresh - stored).mean() < 6  # what the lossy form costs is below 4


def test_the_stored_gallery_says_how_it_was_made():
    stored = json.loads((STORED / "zfnet-64.json").read_text(encoding="utf-8"))
    assert stored["command"].startswith("zfcore features")
    assert (stored["data"], stored["split"]) == ("tiny-imagenet", "val")
    assert len(stored["data_sha256"]) == 64


def test_a_network_of_ours_gets_a_gallery_too():
    torch.manual_seed(0)
    ours = build("zfnet-64", 3, width=0.1)
    initialize_(ours, "he")
    card = {"input_size": 56, "resize": 64, "scale": 64.0, "mean": torch.full((3, 64, 64), 118.0)}
    found = Gallery.of(Viewer(ours.eval(), card), {"chelsea": photographs()["chelsea"]})
    assert list(found.layers) == [f"layer {n}" for n in range(1, 6)]
    assert found.hits("layer 5", 0)[1:] == (None,) * 8
