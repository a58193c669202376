"""Public weights from a server of our own, by adapter; no test asks another host for anything."""

import hashlib
import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytorchcv.models.zfnet import zfnet as their_zfnet
from pytorchcv.models.zfnet import zfnetb as their_zfnetb
from samples import visible
from torchvision.transforms._presets import ImageClassification
from typer.testing import CliRunner

from zfcore import fetch
from zfcore import public as room
from zfcore.cli import app
from zfcore.data import to_input
from zfcore.fetch import FetchError
from zfcore.model import ARCHITECTURES, alone_in, build, network_of
from zfcore.public import (
    adapt,
    fold_deviation,
    from_pytorchcv,
    get_weights,
    network,
    public,
    public_weights,
    weights_file,
)

NETWORKS = {their_zfnet: "zfnet-public", their_zfnetb: "zfnet-wide-public"}


@pytest.mark.parametrize("make", NETWORKS, ids=NETWORKS.values())
def test_our_network_with_pytorchcvs_tensors_answers_as_theirs_does(make):
    torch.manual_seed(0)
    theirs = make(num_classes=10).eval()
    state = theirs.state_dict()
    with torch.device("meta"):
        ours = build(NETWORKS[make], num_classes=10)
    ours.load_state_dict(fold_deviation(from_pytorchcv(state, NETWORKS[make])), assign=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    _, mean, card = adapt("squeezenet", torchvision.models.squeezenet1_1().state_dict())
    with torch.inference_mode():
        expected = theirs(ImageClassification(crop_size=224)(image)[None])
        answer = ours.eval()(to_input([image], card | {"mean": mean}))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_every_tensor_of_both_networks_finds_its_place():
    for theirs, name in NETWORKS.items():
        with torch.device("meta"):
            state, ours = theirs().state_dict(), build(name).state_dict()
        adapted = from_pytorchcv(state, name)
        assert {key: t.shape for key, t in adapted.items()} == {key: t.shape for key, t in ours.items()}
        assert len({id(t) for t in adapted.values()}) == len(state)
        count = sum(t.numel() for t in ours.values())
        assert count == {w.architecture: w.parameters for w in public_weights().values()}[name]


def test_foreign_tensors_are_refused():
    with pytest.raises(ValueError, match=r"not the tensors of pytorchcv's network: features\.stage1\.unit1"):
        from_pytorchcv({}, "zfnet-public")
    with pytest.raises(ValueError, match=r"these tensors do not fit torchvision\.alexnet"):
        adapt("alexnet", torchvision.models.squeezenet1_1().state_dict())
    with pytest.raises(ValueError, match=r"unknown public weights 'resnet'; known: zfnet, zfnetb, vgg16"):
        adapt("resnet", {})


@pytest.fixture
def narrow(monkeypatch):
    """``zfnet-public`` with a hundredth of its width, and its random tensors under pytorchcv's names."""
    monkeypatch.setitem(ARCHITECTURES, "zfnet-public", ARCHITECTURES["zfnet-public"].widened(0.01))
    torch.manual_seed(0)
    network = build("zfnet-public")
    state = network.state_dict()
    labels = {
        "stage1.unit1": 1, "stage2.unit1": 2, "stage3.unit1": 3, "stage3.unit2": 4, "stage3.unit3": 5,
    }  # fmt: skip
    paths = network.architecture.named_layers()
    named = {f"features.{t}.conv": paths[f"conv{n}"] for t, n in labels.items()}
    named |= {"output.fc1.fc": paths["fc6"], "output.fc2.fc": paths["fc7"], "output.fc3": paths["fc8"]}
    kinds = ("weight", "bias")
    return network.eval(), {f"{t}.{kind}": state[f"{o}.{kind}"] for t, o in named.items() for kind in kinds}


def torch_file(state):
    blob = io.BytesIO()
    torch.save(state, blob)
    return blob.getvalue()


def with_checksum(monkeypatch, name, blob):
    """Let the public weights ``name`` be those in ``blob``."""
    algorithm = public_weights()[name].checksum.partition(":")[0]
    entry = replace(
        public_weights()[name],
        checksum=f"{algorithm}:{hashlib.new(algorithm, blob).hexdigest()}",
        parameters=1,
    )
    known = {**public_weights(), name: entry}
    monkeypatch.setattr(room, "public_weights", lambda: known)
    return entry.url.rpartition("/")[2]


def zipped(name, blob, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as pack:
        pack.writestr(name, blob)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_archive_of_weights_is_removed_and_brought_again(
    server, narrow, monkeypatch, tmp_path, method
):
    blob = torch_file(narrow[1])
    archive = with_checksum(monkeypatch, "zfnet", blob)
    whole = zipped(archive.removesuffix(".zip"), blob, method)
    middle = len(whole) // 2
    server.files[archive] = whole[:middle] + b"\xff" * 200 + whole[middle + 200 :]
    with pytest.raises(FetchError, match="it was removed, so run the same command again"):
        get_weights("zfnet", tmp_path)
    server.files[archive] = whole
    assert get_weights("zfnet", tmp_path).exists()


def test_pytorchcvs_weights_come_out_of_their_archive(server, narrow, monkeypatch, tmp_path):
    network, state = narrow
    blob = torch_file(state)
    archive = with_checksum(monkeypatch, "zfnet", blob)
    server.files[archive] = zipped(archive.removesuffix(".zip"), blob)
    path = get_weights("zfnet", tmp_path)
    assert path == weights_file("zfnet", tmp_path)
    assert visible(path.parent) == ["zfnet.json", "zfnet.safetensors"]
    again, card = public("zfnet", tmp_path)
    assert card["architecture"] == "zfnet-public"
    assert (card["resize"], card["input_size"], card["num_classes"], len(card["labels"])) == (
        256,
        224,
        1000,
        1000,
    )
    x = torch.rand(1, 3, 224, 224) * 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (room.MEAN, room.DEVIATION))
    with torch.inference_mode():
        expected = network((x / 255 - mean) / deviation)
        answer = again((x - card["mean"][:, :224, :224]) / card["scale"])
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    get_weights("zfnet", tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("damage", ["no zip", "another member", "another checksum"])
def test_a_damaged_archive_of_weights_is_told_and_removed(server, narrow, monkeypatch, tmp_path, damage):
    blob = torch_file(narrow[1])
    archive = with_checksum(monkeypatch, "zfnet", blob)
    server.files[archive] = {
        "no zip": blob[:100],
        "another member": zipped("readme", blob),
        "another checksum": zipped(archive.removesuffix(".zip"), blob + b"!"),
    }[damage]
    with pytest.raises(FetchError, match="it was removed"):
        get_weights("zfnet", tmp_path)
    assert visible(tmp_path / "weights") == []


@pytest.mark.parametrize(
    ("name", "architecture"), [("squeezenet", "squeezenet1_1"), ("resnet18", "resnet18")]
)
def test_torchvisions_weights_are_theirs_with_our_inputs(server, monkeypatch, tmp_path, name, architecture):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(architecture).eval()
    blob = torch_file(theirs.state_dict())
    server.files[with_checksum(monkeypatch, name, blob)] = blob
    get_weights(name, tmp_path)
    ours, card = network(name, "public", root=tmp_path)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 256, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = theirs(ImageClassification(crop_size=224)(image)[None])
        answer = ours(to_input([image], card))
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_the_first_layer_of_torchvisions_networks_takes_our_inputs(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name)
    first = theirs.get_submodule("features.0")
    assert isinstance(first, torch.nn.Conv2d)
    assert fold_deviation(theirs.state_dict())["features.0.weight"].shape == first.weight.shape


def test_a_card_that_names_a_network_of_torchvisions_draws_no_numbers():
    before = torch.get_rng_state()
    network = network_of({"architecture": "torchvision.squeezenet1_1", "num_classes": 7})
    assert network.classifier[1].out_channels == 7
    assert torch.equal(torch.get_rng_state(), before)


def test_what_another_process_brings_is_left_to_it(server, monkeypatch, tmp_path):
    monkeypatch.setattr("zfcore.model.PATIENCE", 0)
    with (
        alone_in(weights_file("zfnet", tmp_path)),
        pytest.raises(OSError, match=r"another process works in .*zfnet\.safetensors"),
    ):
        get_weights("zfnet", tmp_path)
    assert not server.requests


def test_torchvisions_addresses_carry_their_checksums():
    for name in ("vgg16", "alexnet", "squeezenet", "resnet18"):
        known = public_weights()[name]
        assert re.fullmatch(r"sha256:[0-9a-f]{8}", known.checksum)
        assert known.url.endswith(f"-{known.checksum[7:]}.pth")


def test_weights_that_are_not_here_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zfnet are not at .*run `zfcore weights get zfnet`"):
        public("zfnet", tmp_path)


@pytest.mark.parametrize("name", ["squeezenet", "resnet18", "zfnet"])
def test_random_weights_need_nothing_and_follow_from_the_seed(name, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "_request", lambda *_: pytest.fail("something was asked for"))
    before = torch.get_rng_state()
    (ours, card), (again, _), (other, _) = (network(name, seed=seed, root=tmp_path) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    x = to_input([np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)], card)
    with torch.inference_mode():
        answers = [model(x) for model in (ours, again, other)]
    assert answers[0].isfinite().all()
    assert answers[0].std() > 0
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert "error" not in card


def test_weights_that_are_neither_random_nor_public_are_told(tmp_path):
    with pytest.raises(ValueError, match="unknown weights 'trained'; known: random, public"):
        network("alexnet", "trained")
    with pytest.raises(FileNotFoundError, match=r"run `zfcore weights get resnet18`"):
        network("resnet18", "public", root=tmp_path)


def test_the_shell_lists_what_is_here(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path))
    weights_file("alexnet").parent.mkdir(parents=True)
    weights_file("alexnet").touch()
    lines = CliRunner().invoke(app, ["weights", "list"]).output.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "zfnet", "zfnetb", "vgg16", "alexnet", "squeezenet", "resnet18",
    ]  # fmt: skip
    assert "39.79 % top-1, 17.27 % top-5 error; pytorchcv, MIT licence; not here" in lines[0]
    assert lines[3].endswith(str(weights_file("alexnet")))
