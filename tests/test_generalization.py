"""Tables 3 to 6 and Fig. 7, rehearsed on patches and small trees of made pictures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zfcore import generalization
from zfcore.cli import app
from zfcore.data import VOC_CLASSES, caltech, patches, to_input, voc
from zfcore.generalization import LAYERS, Transfer, reproduce, rows_of, strongest_maps
from zfcore.ledger import LedgerError, provenance, read, record
from zfcore.model import build, initialize_, load, save, untrained
from zfcore.protocols import average_precision, draw_split
from zfcore.train import Run
from zfcore.transfer import Head, Span, extract_features, fit_softmax, fit_svm
from zfcore.transfer_tables import mean_curves

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------ data
def draw(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (90, 70), colour).save(path)


def test_caltech_is_read_class_by_class(tmp_path):
    for n, name in enumerate(("BACKGROUND_Google", "ant", "zebra")):
        for i in range(2):
            draw(tmp_path / "101_ObjectCategories" / name / f"image_{i + 1:04d}.jpg", (80 * n, 10, 10))
    found = caltech("caltech101", 32, tmp_path)
    assert found.classes == ("BACKGROUND_Google", "ant", "zebra")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.pixels.shape == (6, 3, 32, 32)
    assert found.files[2] == "ant/image_0001.jpg"
    with pytest.raises(FileNotFoundError, match="zfcore data get caltech256"):
        caltech("caltech256", 32, tmp_path)
    with pytest.raises(ValueError, match="known: caltech101, caltech256"):
        caltech("caltech", 32, tmp_path)


def annotate(path, *things):
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = (f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in things)
    path.write_text(f"<annotation>{''.join(objects)}</annotation>")


@pytest.fixture
def devkit(tmp_path):
    """VOC 2007 with 24 pictures in trainval and 24 in test, of three classes in turn."""
    base = tmp_path / "VOCdevkit" / "VOC2007"
    for split, first in (("trainval", 0), ("test", 24)):
        names = [f"{n:06d}" for n in range(first, first + 24)]
        (base / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for n, name in enumerate(names):
            draw(base / "JPEGImages" / f"{name}.jpg", (20 * (n % 12), 250 - 20 * (n % 12), 100))
            shown = [VOC_CLASSES[c] for c in range(20) if (n + c) % 12 < 2]
            annotate(base / "Annotations" / f"{name}.xml", *((thing, 0) for thing in shown))
    return tmp_path


def test_difficult_objects_alone_leave_a_class_out_of_account(devkit):
    file = devkit / "VOCdevkit/VOC2007/Annotations/000000.xml"
    annotate(file, ("cat", 1), ("dog", 1), ("dog", 0), ("car", 0), ("car", 1))
    truth = dict(zip(VOC_CLASSES, voc(2007, "trainval", 32, devkit).truth[0].tolist(), strict=True))
    assert (truth["cat"], truth["dog"], truth["car"], truth["sofa"]) == (0, 1, 1, -1)
    annotate(file, ("unicorn", 0))
    with pytest.raises(ValueError, match=r"000000\.xml cannot be read"):
        voc(2007, "trainval", 32, devkit)
    with pytest.raises(FileNotFoundError, match=r"no part 'val'.*it has: test, trainval"):
        voc(2007, "val", 32, devkit)


# ------------------------------------------------------------------------------ the tables


def test_unknown_rows_are_told_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown target 'table9'"):
        rows_of("table9")
    with pytest.raises(ValueError, match="fig7 has no row scratch; it has: pretrained, layer 7"):
        rows_of("fig7", ["scratch"])


@pytest.mark.parametrize(
    ("target", "data"),
    [("table5", "caltech101"), ("table6", "voc2007"), ("table3", "caltech256"), ("table4", "caltech101")],
)
def test_a_table_of_other_data_is_refused(target, data):
    with pytest.raises(ValueError, match=f"{target} is not of {data}; Table 3 is of caltech101"):
        reproduce(target, Transfer(data))


def test_no_duplicates_are_known_of_voc():
    with pytest.raises(ValueError, match="Table 5 is run with every picture; leave --drop-duplicates away"):
        reproduce("table5", Transfer("voc2007", duplicates="dropped"))


def write_source(path, architecture="zfnet-64", **options):
    """Weights of a network that is small enough to rehearse with."""
    torch.manual_seed(7)  # the control's is 0
    options = {"width": 0.1} | options
    network = build(architecture, num_classes=5, **options)
    initialize_(network, "he")
    card = {"architecture": architecture, "num_classes": 5, "input_size": 56, "resize": 64, "scale": 64.0}
    save(path, network, torch.full((3, 64, 64), 120.0), card | options)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("w") / "w.safetensors")


@pytest.fixture
def transfer(tmp_path, source):
    made = Transfer("patches", str(source), epochs=1, out=tmp_path / "runs", results=tmp_path / "results")
    made.__dict__["pictures"] = patches("train").shard(0, 10)  # 40 of each class
    return made


def test_a_row_is_recorded_once_and_skipped_then(transfer):
    said = []
    reproduce("table6", transfer, ["svm(5)", "softmax(7)"], (0, 1), said.append)
    entries = read("table6", transfer.results)["entries"]
    assert {(e["row"], e["seed"]) for e in entries} == {
        (r, s) for r in ("svm(5)", "softmax(7)") for s in (0, 1)
    }
    assert all(
        e["values"]["accuracy"] == pytest.approx(np.mean(e["values"]["each"]), abs=0.1) for e in entries
    )
    assert all(e["n"] == 100 for e in entries)
    assert (
        len(next(e for e in entries if e["row"] == "svm(5)" and e["seed"] == 0)["values"]["strongest"]) == 10
    )
    again = []
    reproduce("table6", transfer, ["svm(5)", "softmax(7)"], (0, 1), again.append)
    assert all("is in the ledger" in line for line in again)
    assert entries == read("table6", transfer.results)["entries"]


@pytest.mark.parametrize(
    ("target", "row", "kind", "layer", "fit"),
    [
        ("table3", "pretrained, layer 7", "pretrained", 7, fit_softmax),
        ("table6", "svm(5)", "pretrained", 5, fit_svm),
        ("fig7", "random, layer 7", "random", 7, fit_softmax),
    ],
)
def test_a_row_is_a_head_on_the_pictures_of_its_split(transfer, target, row, kind, layer, fit):
    reproduce(target, transfer, [row], (1,), lambda line: None)
    found = {}
    for entry in read(target, transfer.results)["entries"]:
        sizes = entry["values"].get("per class") or [entry["config"].get("per class")]
        found |= dict(zip(sizes, np.atleast_2d(entry["values"]["each"]), strict=True))
    pictures = transfer.pictures
    x = extract_features(transfer.network(kind), transfer.inputs(pictures.pixels), f"layer {layer}")
    split, labels = draw_split(pictures.labels, 1), pictures.labels
    assert set(found) >= ({30} if target == "table6" else {15, 30})
    for k, each in found.items():
        mine = [n for n, rank in zip(split.train.tolist(), split.rank.tolist(), strict=True) if rank < k]
        right = fit(x[mine], labels[mine], seed=1).predict(x[split.test]) == labels[split.test]
        wanted = [100 * float(right[labels[split.test] == c].double().mean()) for c in range(10)]
        assert each.tolist() == pytest.approx(wanted, abs=0.051)


def test_the_control_is_the_same_network_with_nothing_learned(transfer):
    learned, random = transfer.network("pretrained"), transfer.network("random")
    wanted = untrained(transfer.source[1])
    for (name, own), other, fresh in zip(
        learned.named_parameters(), random.parameters(), wanted.parameters(), strict=True
    ):
        assert torch.equal(other, fresh), name
        if own.ndim > 1:
            alike = torch.corrcoef(torch.stack([own.detach().flatten(), other.detach().flatten()]))[0, 1]
            assert abs(alike) < 0.5, name


@pytest.mark.parametrize(
    ("data", "background", "target", "sizes", "shards"),
    [
        ("caltech101", "BACKGROUND_Google", "table3", (15, 30), 10),
        ("caltech256", "257.clutter", "table4", (15, 30, 45, 60), 5),
    ],
)
def test_the_background_counts_in_the_second_line_alone(transfer, data, background, target, sizes, shards):
    some = patches("train").shard(0, shards)
    classes = (background, *some.classes[1:])
    made = replace(transfer, data=data)
    made.__dict__["pictures"] = replace(some, classes=classes, names=classes)
    reproduce(target, made, ["random, layer 7"], (0,), lambda line: None)
    found = {
        (entry["config"]["background"], entry["config"]["per class"], len(entry["values"]["each"]))
        for entry in read(target, made.results)["entries"]
    }
    assert found == {(line, k, 9 + line) for line in (False, True) for k in sizes}


def test_voc_2012_is_judged_on_val_and_its_closed_test_goes_to_the_server(tmp_path, source, monkeypatch):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    parts = {"train": range(24), "val": range(24, 48), "trainval": range(48), "test": range(48, 60)}
    (base / "ImageSets" / "Main").mkdir(parents=True)
    for split, numbers in parts.items():
        names = "\n".join(f"2008_{n:06d}" for n in numbers)
        (base / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    for n in range(60):
        draw(base / "JPEGImages" / f"2008_{n:06d}.jpg", (20 * (n % 12), 250 - 20 * (n % 12), 100))
        if n < 48:  # nobody but the server knows what the last ones show
            shown = [VOC_CLASSES[c] for c in range(20) if (n + c) % 12 < 2]
            annotate(base / "Annotations" / f"2008_{n:06d}.xml", *((thing, 0) for thing in shown))
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path))
    made = Transfer("voc2012", str(source), out=tmp_path / "runs", results=tmp_path / "results")
    reproduce("table5", made, ["pretrained, layer 5"], say=lambda line: None)
    [entry] = read("table5", tmp_path / "results")["entries"]
    told = {key: entry["config"][key] for key in ("rule", "train", "test")}
    assert (entry["data"], told) == ("voc2012", {"rule": "area", "train": "train", "test": "val"})
    network, card = load(source)
    learned, val, both, test = (voc(2012, split, 64) for split in ("train", "val", "trainval", "test"))

    def scores(known, asked):
        x, y = (
            extract_features(network, [to_input(p.pixels.permute(0, 2, 3, 1), card)], "layer 5")
            for p in (known, asked)
        )
        rows, classes = (known.truth == 1).nonzero(as_tuple=True)
        return fit_softmax(x[rows], classes, groups=rows).decision(y).softmax(1)

    columns = zip(scores(learned, val).T, val.truth.T, strict=True)
    wanted = [100 * average_precision(s, t, "area") for s, t in columns]
    assert list(entry["values"]["average precision"].values()) == pytest.approx(wanted, abs=0.01)
    [file] = (tmp_path / "runs").rglob("comp2_cls_test_cat.txt")
    names, numbers = zip(*(line.split() for line in file.read_text().splitlines()), strict=True)
    assert names == test.files
    expected = scores(both, test)[:, VOC_CLASSES.index("cat")].tolist()
    assert list(map(float, numbers)) == pytest.approx(expected, rel=1e-3)


def test_other_pictures_are_another_entry(transfer):
    reproduce("table6", transfer, ["softmax(7)"], (0,), lambda line: None)
    transfer.__dict__["pictures"] = patches("train").shard(1, 10)
    said = []
    reproduce("table6", transfer, ["softmax(7)"], (0,), said.append)
    [entry] = read("table6", transfer.results)["entries"]
    assert entry["data_sha256"] == transfer.pictures.sha256
    assert not any("is in the ledger" in line for line in said)


def test_no_test_picture_is_seen_by_a_training_from_scratch(transfer, monkeypatch):
    seen, split = [], transfer.split(0)

    class SeenError(Exception):
        pass

    def watch(network, pictures, validation, *arguments, **options):
        seen.extend((pictures, validation))
        raise SeenError

    monkeypatch.setattr(generalization, "train", watch)
    with pytest.raises(SeenError):
        reproduce("table3", transfer, ["scratch"], (0,), lambda line: None)
    tests = {picture.numpy().tobytes() for picture in transfer.pictures.take(split.test).pixels}
    for pictures in seen:
        assert not tests & {picture.numpy().tobytes() for picture in pictures.pixels}


def test_features_of_other_weights_are_made_again(transfer):
    reproduce("table6", transfer, ["softmax(7)"], (0,), lambda line: None)
    path = transfer.results / "table6.json"
    stale = "0" * 64
    path.write_text(path.read_text().replace(transfer.source[1]["sha256"], stale))
    reproduce("table6", transfer, ["softmax(7)"], (0,), lambda line: None)
    [entry] = read("table6", transfer.results)["entries"]
    assert entry["weights_sha256"] == transfer.source[1]["sha256"]


def test_all_of_a_curve_is_one_entry(transfer):
    reproduce("fig7", transfer, ["random, layer 7"], (0, 1), lambda line: None)
    entries = read("fig7", transfer.results)["entries"]
    assert [e["values"]["per class"] for e in entries] == [[1, 2, 3, 5, 6, 7, 10, 15, 20, 25, 30]] * 2
    assert {e["weights_sha256"] for e in entries} == {None}
    [(name, points)] = mean_curves(entries).items()
    assert (name, len(points), points[0][0]) == ("random, layer 7", 11, 1.0)


def test_a_network_is_trained_from_scratch_and_judged(transfer):
    said = []
    reproduce("table3", transfer, ["scratch"], (0,), said.append)
    entries = read("table3", transfer.results)["entries"]
    assert sorted(e["config"]["per class"] for e in entries) == [15, 30]
    assert all(len(e["values"]["each"]) == 10 and len(e["weights_sha256"]) == 64 for e in entries)
    reproduce("table3", transfer, ["scratch"], (0,), said.append)
    assert said[-2:] == [f"table3, scratch, split 0, {k} per class: is in the ledger" for k in (15, 30)]


def test_a_network_from_scratch_learns_from_so_many_pictures_of_each_class(transfer, monkeypatch):
    seen = []

    def note(network, mine, *others, **options):
        seen.append(mine.labels.bincount().tolist())
        return Run(network.eval(), mine.mean(), [{"loss": 1.0, "seconds": 1.0}])

    monkeypatch.setattr(generalization, "train", note)
    reproduce("table3", transfer, ["scratch"], (0,), lambda line: None)
    assert seen == [[15] * 10, [30] * 10]
    assert Transfer("patches").epochs == 100


def rehearsal(transfer, path, architecture="zfnet-64", **options):
    """The same in the same folders from another source."""
    made = replace(transfer, weights=str(write_source(path, architecture, **options)))
    made.__dict__["pictures"] = transfer.pictures
    return made


@pytest.mark.parametrize("kind", ["pretrained", "random"])
def test_features_are_each_sources_own(transfer, tmp_path, kind):
    other = rehearsal(transfer, tmp_path / "other.safetensors", width=0.05)
    for one in (transfer, other, transfer):
        pixels, sha256 = one.pictures.pixels[:20], one.pictures.sha256
        found = one.features(kind, (7,), pixels, sha256)[7]
        assert torch.equal(found, extract_features(one.network(kind), one.inputs(pixels), "layer 7"))


def test_a_network_from_scratch_is_the_one_that_its_sources_card_describes(transfer, tmp_path):
    options = {"width": 0.05, "groups": 1, "alpha": 0.5}
    other = rehearsal(transfer, tmp_path / "other.safetensors", "alexnet-64", **options)
    for one in (transfer, other):
        reproduce("table3", one, ["scratch"], (0,), lambda line: None)
    trained = [load(path) for path in (transfer.out / "scratch").rglob("weights.safetensors")]
    described = [
        (network.architecture, {key: card[key] for key in options if key in card})
        for network, card in trained
    ]
    # The contrast norm's α is the recipe's, whose inputs it has to fit.
    mine = build("zfnet-64", 10, width=0.1).architecture, {"width": 0.1, "alpha": 1e-2}
    options["alpha"] = transfer.recipe.alpha
    theirs = build("alexnet-64", 10, **options).architecture, options
    assert [described.count(each) for each in (mine, theirs)] == [2, 2]


@pytest.fixture
def clock(monkeypatch):
    """The time of the protocols, in seconds, which stands still unless a test moves it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(generalization, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_the_seconds_of_a_curve_are_those_of_all_its_points(transfer, clock, monkeypatch):
    def slow(features):
        clock.now += 10
        return Span(features)

    monkeypatch.setattr(generalization, "Span", slow)
    reproduce("fig7", transfer, ["random, layer 7"], (0,), lambda line: None)
    [entry] = read("fig7", transfer.results)["entries"]
    assert entry["seconds"] == 10 * len(entry["values"]["per class"])


def test_the_seconds_of_a_training_count_once(transfer, clock, monkeypatch):
    def slow(network, pictures, *others, **options):
        clock.now += 1000
        return Run(network.eval(), pictures.mean(), [{"loss": 1.0, "seconds": 1000.0}])

    monkeypatch.setattr(generalization, "train", slow)
    reproduce("table3", transfer, ["scratch"], (0,), lambda line: None)
    assert [entry["seconds"] for entry in read("table3", transfer.results)["entries"]] == [1000, 1000]


def test_average_precision_of_voc_is_recorded_by_class(tmp_path, source, devkit, monkeypatch):
    monkeypatch.setenv("ZFCORE_DATA", str(devkit))
    command = [
        "reproduce",
        "table5",
        "--data",
        "voc2007",
        "--weights",
        str(source),
        "--row",
        "pretrained, layer 5",
    ]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "runs"), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    [entry] = read("table5", tmp_path)["entries"]
    assert list(entry["values"]["average precision"]) == list(VOC_CLASSES)
    assert entry["config"]["rule"] == "11-point"
    # The same once more: a softmax on what the end of layer 5 says, a picture once for every class it shows.
    network, card = load(source)
    (x, shown), (tests, truth) = (
        (extract_features(network, [to_input(part.pixels.permute(0, 2, 3, 1), card)], "layer 5"), part.truth)
        for part in (voc(2007, split, 64, devkit) for split in ("trainval", "test"))
    )
    pairs = [(n, c) for n in range(24) for c in range(20) if shown[n, c] == 1]
    pictures, classes = torch.tensor(pairs).T
    scores = fit_softmax(x[pictures], classes, groups=pictures).decision(tests).softmax(1)
    expected = [100 * average_precision(scores[:, c], truth[:, c], "11-point") for c in range(20)]
    found = list(entry["values"]["average precision"].values())
    assert found == pytest.approx(expected, abs=0.01)
    assert entry["values"]["mean"] == pytest.approx(np.mean(expected), abs=0.01)
    assert entry["values"]["interval"][0] <= entry["values"]["mean"] <= entry["values"]["interval"][1]


def test_dropped_duplicates_want_a_ledger_of_duplicates(transfer):
    dropped = Transfer("caltech101", transfer.weights, "dropped", results=transfer.results)
    with pytest.raises(FileNotFoundError, match="zfcore duplicates tiny-imagenet caltech101 --record"):
        _ = dropped.left_out


def search(*files):
    """The entry of a search that found these files of the patches among the source's pictures."""
    pairs = [["mine.png", file, 0.99] for file in files]
    entry = {"row": "tiny-imagenet", "seed": None, "values": {"pairs": pairs}, "n": 9, "data": "patches"}
    unknown = {"data_sha256": None, "config": {}, "weights_sha256": None}
    return entry | unknown | provenance(command="zfcore duplicates")


def test_dropped_duplicates_take_no_part(transfer):
    files, labels = transfer.pictures.files, transfer.pictures.labels
    kept = draw_split(labels, 1)
    learned, tested = int(kept.train[0]), int(kept.test[-1])
    record("duplicates", search(files[learned], files[tested]), transfer.results)
    dropped = replace(transfer, duplicates="dropped")
    dropped.__dict__["pictures"] = transfer.pictures
    reproduce("table6", dropped, ["svm(5)"], (1,), lambda line: None)
    [entry] = read("table6", transfer.results)["entries"]
    assert (entry["config"]["duplicates"], entry["n"]) == ("dropped", len(kept.test) - 2)
    without = torch.ones(len(labels), dtype=torch.bool).index_fill(0, torch.tensor([learned, tested]), False)
    split = draw_split(labels, 1, leave_out=~without)
    assert not {learned, tested} & {*split.train.tolist(), *split.test.tolist()}
    x = extract_features(transfer.network("pretrained"), transfer.inputs(transfer.pictures.pixels), "layer 5")
    right = fit_svm(x[split.train], labels[split.train], seed=1).predict(x[split.test]) == labels[split.test]
    each = [100 * float(right[labels[split.test] == c].double().mean()) for c in range(10)]
    assert entry["values"]["each"] == pytest.approx(each, abs=0.051)


def test_duplicates_that_are_not_among_the_pictures_are_told(transfer):
    entry = search(transfer.pictures.files[3])
    record("duplicates", entry, transfer.results)
    record("duplicates", entry | {"row": "imagenet"}, transfer.results)  # not what this source has seen
    dropped = replace(transfer, duplicates="dropped")
    dropped.__dict__["pictures"] = transfer.pictures
    assert dropped.left_out.nonzero().flatten().tolist() == [3]
    record("duplicates", entry | {"config": {"threshold": 0.8}}, transfer.results)
    dropped = replace(dropped)
    dropped.__dict__["pictures"] = transfer.pictures
    with pytest.raises(ValueError, match="several searches of tiny-imagenet and patches"):
        _ = dropped.left_out
    (transfer.results / "duplicates.json").unlink()
    entry["values"]["pairs"].append(["mine.png", "elsewhere/7.png", 0.98])
    record("duplicates", entry, transfer.results)
    dropped = replace(dropped)
    dropped.__dict__["pictures"] = transfer.pictures
    with pytest.raises(ValueError, match=r"names 1 pictures that patches has not \(elsewhere/7\.png, "):
        _ = dropped.left_out


def test_an_entry_that_may_not_be_written_is_not_worked_for(transfer, monkeypatch):
    reproduce("table6", transfer, ["softmax(7)"], (0,), lambda line: None)
    [entry] = read("table6", transfer.results)["entries"]
    monkeypatch.setattr("zfcore.ledger.ships", lambda sha256: sha256 == "1" * 64)
    record("table6", entry | {"weights_sha256": "1" * 64}, transfer.results)
    monkeypatch.setattr(generalization, "fit_softmax", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(LedgerError, match="is of the weights that ship with zfcore"):
        reproduce("table6", transfer, ["softmax(7)"], (0,), lambda line: None)


# ------------------------------------------------------------------------------ what is told


def test_the_strongest_maps_are_those_whose_parts_are_largest():
    features = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])  # two maps of two cells
    head = Head(
        "svm", torch.tensor([[2.0, 0], [1, 0], [0, 1], [0, 5]]), torch.zeros(2), torch.arange(2), 1.0, {}
    )
    found = strongest_maps(head, features, torch.arange(2), ("x", "y"), maps=2, k=1)
    assert found == {"x": [(0, 1.5)], "y": [(1, 3.0)]}


# ------------------------------------------------------------------------------ the shell
def test_the_shell_learns_classes_of_ones_own(tmp_path, source):
    for n, name in enumerate(("dark", "light")):
        for i in range(6):
            draw(tmp_path / "mine" / name / f"{i}.png", (60 + 120 * n + i, 90, 100))
    options = ["--weights", str(source), "--head", "svm", "--out", str(tmp_path / "p.csv")]
    result = CliRunner().invoke(app, ["transfer", str(tmp_path / "mine"), *options])
    assert result.exit_code == 0, result.output
    assert "100.0 %  mean of the classes; 8 pictures to learn from, 4 to test" in result.output
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 5


def test_layers_of_table6_are_the_papers():
    assert LAYERS == (1, 2, 3, 4, 5, 7)
