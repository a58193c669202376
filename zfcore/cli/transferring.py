"""The commands for pictures of another data set: learn its classes, find what two sets share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zfcore.cli.options import (
    DeviceOption,
    ResultsOption,
    WeightsOption,
    as_csv,
    as_typed,
    device_or_best,
    insist_on_folder_of,
    within,
)

if TYPE_CHECKING:
    from torch import Tensor


def transfer(
    train: Annotated[Path, typer.Argument(help="Folder with a folder of pictures for each class.")],
    test: Annotated[
        Path | None,
        typer.Option(help="The same of other pictures. Default: of each class a fifth, rounded up."),
    ] = None,
    weights: WeightsOption = "zfnet-64",
    layer: Annotated[str, typer.Option(help="`layer n`, or the name of a module.")] = "layer 5",
    head: Annotated[str, typer.Option(help="softmax or svm (§5.3).")] = "softmax",
    out: Annotated[
        Path | None,
        typer.Option(help="CSV file for the test pictures' predictions.", dir_okay=False, writable=True),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Learn classes of your own on the features of a network, and say how well (§5.2).

    Example: `zfcore transfer pictures/train --test pictures/test --layer "layer 5" --head svm`
    """
    import torch

    from zfcore.data import to_input
    from zfcore.model import load, write_atomically
    from zfcore.protocols import per_class_accuracy
    from zfcore.transfer import extract_features, fit_softmax, fit_svm

    insist_on_folder_of(out)
    heads = {"softmax": fit_softmax, "svm": fit_svm}
    if head not in heads:
        raise typer.BadParameter(f"unknown head {head!r}; known: {', '.join(heads)}")
    device = device_or_best(device)
    network, card = load(weights)
    network.to(device)
    parts = [_pictures_by_class(folder) for folder in (train, test) if folder]
    names = sorted({name for part in parts for _, name in part})
    if len(names) < 2:
        raise ValueError(f"{train} has one class, {names[0]}; give two folders with pictures at least")
    files = [file for part in parts for file, _ in part]
    labels = torch.tensor([names.index(name) for part in parts for _, name in part])
    if test:
        unknown = sorted({name for _, name in parts[1]} - {name for _, name in parts[0]})
        if unknown:
            raise ValueError(f"{test} has classes that {train} has not: {', '.join(unknown)}")
        rows, tests = torch.arange(len(files)).split([len(part) for part in parts])
    else:
        rows, tests = _held_out(labels, names)
    inputs = (to_input(files[start : start + 64], card) for start in range(0, len(files), 64))
    features = extract_features(network, inputs, layer, progress=True)
    fitted = heads[head](features[rows], labels[rows])
    predicted = fitted.predict(features[tests])
    each = per_class_accuracy(predicted, labels[tests])
    for c, accuracy in zip(labels[tests].unique().tolist(), each.tolist(), strict=True):
        typer.echo(f"{accuracy:6.1f} %  {names[c]}")
    typer.echo(
        f"{each.mean():6.1f} %  mean of the classes; {len(rows)} pictures to learn from, {len(tests)} to test"
    )
    if out:
        lines = [
            (files[i], names[labels[i]], names[p])
            for i, p in zip(tests.tolist(), predicted.tolist(), strict=True)
        ]
        write_atomically(out, as_csv([("picture", "class", "predicted"), *lines]))


def _held_out(labels: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The pictures to learn from, and of every class a fifth, rounded up, to test with."""
    import torch

    from zfcore.protocols import draw_split

    splits = []
    for c, count in enumerate(labels.bincount().tolist()):
        if count < 2:
            raise ValueError(f"{names[c]} has one picture, and none is left to test; add one, or give --test")
        splits.append(draw_split(labels.masked_fill(labels != c, -1), 0, most=count * 4 // 5, tests=count))
    return torch.cat([split.train for split in splits]), torch.cat([split.test for split in splits])


def _pictures_by_class(folder: Path) -> list[tuple[Path, str]]:
    """Every picture of the folders in ``folder``, with the name of its folder."""
    found = [(file, file.parent.name) for file in within(folder, "*/*")]
    if not found:
        raise ValueError(f"{folder} has no folders with pictures; put each class's pictures into one")
    return found


def duplicates(
    a: Annotated[str, typer.Argument(help="A folder, searched with all its folders, or tiny-imagenet, …")],
    b: Annotated[str, typer.Argument(help="The same: caltech101, …")],
    threshold: Annotated[
        float, typer.Option(help="Least correlation, above 0 and at most 1.", min=1e-6, max=1)
    ] = 0.95,
    out: Annotated[
        Path | None, typer.Option(help="CSV file for the pairs.", dir_okay=False, writable=True)
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write them into the ledger `duplicates`.")
    ] = False,
    results: ResultsOption = None,
) -> None:
    """Find the pictures that two sets share, mirrored or slightly cropped perhaps (§5.2).

    Example: `zfcore duplicates tiny-imagenet caltech101 --out pairs.csv`
    """
    import hashlib
    import time

    from zfcore import ledger
    from zfcore.data import thumbnails
    from zfcore.duplicates import matches
    from zfcore.fetch import DATASETS
    from zfcore.model import write_atomically

    insist_on_folder_of(out)
    if record:
        ledger.find("duplicates", results or ledger.RESULTS)  # a damaged one is told now
    names = [given if given in DATASETS else Path(given).resolve().name for given in (a, b)]
    start = time.monotonic()
    (root_a, files_a), (root_b, files_b) = _files_of(a), _files_of(b)
    thumbs = [thumbnails(files, progress=True) for files in (files_a, files_b)]
    pairs = [
        (files_a[i].relative_to(root_a).as_posix(), files_b[j].relative_to(root_b).as_posix(), round(r, 4))
        for i, j, r in matches(*thumbs, threshold)
    ]
    for pair in pairs:
        typer.echo("{2:.4f}  {0}  {1}".format(*pair))
    counts = f"{len(files_a):,} and {len(files_b):,} pictures"
    typer.echo(
        f"{len(pairs)} pairs, {len({second for _, second, _ in pairs})} pictures of {b}, among {counts}"
    )
    if out:
        write_atomically(out, as_csv([(*names, "correlation"), *pairs]))
    if record:
        digest = hashlib.sha256()
        for part in thumbs:
            digest.update(part.pixels.numpy())
        entry = {
            "row": names[0],
            "seed": None,
            "values": {"pairs": pairs, "pictures": len({second for _, second, _ in pairs})},
            "n": len(files_b),
            "data": names[1],
            "data_sha256": digest.hexdigest(),
            "config": {"threshold": threshold, "pictures": [len(files_a), len(files_b)]},
            "weights_sha256": None,
        }
        entry |= ledger.provenance("cpu", time.monotonic() - start, as_typed())
        ledger.record("duplicates", entry, results or ledger.RESULTS)


def _files_of(given: str) -> tuple[Path, list[Path]]:
    """The pictures of a folder, or of a data set (for Tiny-ImageNet and ImageNet those to train on)."""
    from zfcore.data import data_root
    from zfcore.fetch import DATASETS

    folder = Path(given)
    if given in DATASETS:
        folder = DATASETS[given].folder(data_root())
        if not folder.exists():
            raise FileNotFoundError(f"{given} is not at {folder}; run `zfcore data get {given}`")
        items, _ = DATASETS[given].layout(folder)
        return folder, [item.path for item in items if item.split in ("train", "trainval", "all")]
    files = within(folder, "**/*") if folder.is_dir() else []
    if not files:
        raise ValueError(f"{given} is neither a data set ({', '.join(DATASETS)}) nor a folder with pictures")
    return folder, files
