"""Several processes train the network of one: gloo on the CPU, a share of every batch each."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import test_train as alone
import torch
import torch.distributed as dist
from torch import nn

from zfcore import train as room
from zfcore.train import SMALL, DivergedError, augment, train

pytestmark = [
    pytest.mark.skipif(not dist.is_gloo_available(), reason="this build of PyTorch has no gloo"),
    pytest.mark.usefixtures("one_thread"),
]

# All at once: momentum, weight decay, clipping, renormalisation, averaging, and dropout in the network.
RECIPE = replace(SMALL, name="test", batch_size=6, warmup_steps=2, clip=0.5, radius=0.2, average=0.9)
EPOCHS = 5  # of 4 steps
LONG = 60


def run(pictures=22, recipe=RECIPE, epochs=EPOCHS, **options):
    data = alone.pictures(pictures), alone.pictures(9, seed=1)
    model = options.pop("model", None) or alone.network().double()
    return train(model, *data, recipe, input_size=8, epochs=epochs, progress=False, **options)


# ------------------------------------------------------------------------------ in each process
def several_runs(folder, rank):
    """What a process does for the tests of this file; everything it finds goes into ``found-<rank>.pt``."""
    found, seen = {}, []
    room.augment = lambda *given: seen.append(given[2].tolist()) or augment(*given)
    for pictures in (22, 19):  # last batches of 4 and of 1: some processes have none of it
        seen.clear()
        result = run(pictures)
        found[pictures] = {
            "weights": result.model.state_dict(),
            "history": [{**row, "seconds": 0} for row in result.history],
            "seen": list(seen),
        }
    for name, options in {
        "wild": {"recipe": replace(RECIPE, rate=1e300, clip=None, radius=None)},
        "norm": {"model": nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))},
        "apart": {"folder": f"{folder}/apart-{rank}", "epochs": 1},
    }.items():
        if name == "apart" and rank == 0:
            dist_free_run(options)
        try:
            run(**options)
        except (ValueError, DivergedError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    torch.save(found, f"{folder}/found-{rank}.pt")


def dist_free_run(options):
    """The run as a process without company would do it."""
    processes, room._processes = room._processes, lambda: (0, 1)
    run(**options)
    room._processes = processes


def long_run(folder, rank):
    if not os.path.exists(f"{folder}/undisturbed"):  # who is going to be killed is still at work then
        room.augment = lambda *given: time.sleep(0.02) or augment(*given)
    result = run(epochs=LONG, folder=folder, checkpoint_seconds=0)
    torch.save(result.model.state_dict(), f"{folder}/weights-{rank}.pt")


def process(work, folder, meeting, rank, world):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    work(folder, rank)
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def context():
    """A server that has imported all and forks: a process then costs a moment instead of seconds."""
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
    # The last two are what the first step of an optimizer and the first epoch would import.
    context.set_forkserver_preload([__name__, "torch._dynamo", "torch.utils.tensorboard"])
    return context


def start(context, work, folder, world):
    meeting = (folder / f"meeting-{time.monotonic_ns()}").as_uri()
    arguments = [(work, folder, meeting, rank, world) for rank in range(world)]
    processes = [context.Process(target=process, args=given, daemon=True) for given in arguments]
    for each in processes:
        each.start()
    return processes


def end(processes):
    for each in processes:
        each.join(120)
    return [each.exitcode for each in processes]


# ------------------------------------------------------------------------------ and what comes of it
@pytest.fixture(scope="module", params=[2, 3])
def found(request, context, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"world-{request.param}")
    assert not any(end(start(context, several_runs, folder, request.param)))
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("pictures", [22, 19])
def test_processes_train_the_network_that_one_would(found, pictures):
    result = run(pictures)
    expected, history = result.model.state_dict(), [{**row, "seconds": 0} for row in result.history]
    for mine in (process[pictures] for process in found):
        for name, weight in mine["weights"].items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-10)
        for ours, alone_row in zip(mine["history"], history, strict=True):
            assert ours == pytest.approx(alone_row, abs=1e-10)


def test_processes_agree_to_the_last_bit(found):
    for pictures in (22, 19):
        first, *others = (process[pictures] for process in found)
        for other in others:
            assert all(torch.equal(w, other["weights"][name]) for name, w in first["weights"].items())
            assert other["history"] == first["history"]


@pytest.mark.parametrize("pictures", [22, 19])
def test_every_picture_is_seen_by_one_process_once_per_epoch(found, pictures):
    steps = list(zip(*(process[pictures]["seen"] for process in found), strict=True))
    assert len(steps) == 4 * EPOCHS
    for epoch in range(EPOCHS):
        shares = [share for step in steps[4 * epoch : 4 * epoch + 4] for share in step]
        assert sorted(index for share in shares for index in share) == list(range(pictures))
        assert max(map(len, shares)) == 6 // len(found)  # even shares


def test_a_divergence_stops_every_process_with_the_same_words(found):
    assert len({process["wild"] for process in found}) == 1
    assert found[0]["wild"].startswith("DivergedError: the loss is not finite at step")


def test_a_batch_norm_is_refused_by_name(found):
    assert found[0]["norm"].startswith("ValueError: 1 is BatchNorm2d, which would see only")


def test_a_folder_that_only_one_process_sees_is_refused(found):
    for process in found:
        assert process["apart"].startswith("CheckpointError: not every process sees")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_processes_that_were_stopped_and_killed_go_on_exactly(context, tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    reached = 0
    for number, victims in ((signal.SIGTERM, [1]), (signal.SIGKILL, [0, 1])):
        processes = start(context, long_run, tmp_path, 2)
        while all(p.is_alive() for p in processes) and not (
            checkpoint.exists() and alone.progress(checkpoint)["step"] > reached
        ):
            time.sleep(0.03)
        for rank in victims:
            os.kill(processes[rank].pid, number)
        assert end(processes) == [-number, -number]  # both, though only one was told to terminate
        reached = alone.progress(checkpoint)["step"]
        assert 0 < reached < 4 * LONG
    (tmp_path / "undisturbed").touch()
    assert end(start(context, long_run, tmp_path, 2)) == [0, 0]
    expected = run(epochs=LONG).model.state_dict()
    for rank in (0, 1):
        for name, weight in torch.load(tmp_path / f"weights-{rank}.pt").items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-10)
