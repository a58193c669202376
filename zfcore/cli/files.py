"""The commands that bring data sets and public weights here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    no_args_is_help=True,
    help="Data sets: bring them here, look whether they are whole, pack what is too large for memory.\n\n"
    "Example: `zfcore data get tiny-imagenet`, then `zfcore data check tiny-imagenet`",
)
weights_app = typer.Typer(
    no_args_is_help=True,
    help="Public ImageNet weights: list them, bring them here.\n\nExample: `zfcore weights get zfnet`",
)
DataName = Annotated[
    str,
    typer.Argument(help="tiny-imagenet, caltech101, caltech256, voc2012, voc2007, imagenette or imagenet."),
]


@data_app.command("get")
def data_get(name: DataName) -> None:
    """Download and unpack a data set into `ZFCORE_DATA`; an interrupted download goes on.

    Example: `ZFCORE_DATA=~/data zfcore data get tiny-imagenet`
    """
    from zfcore.fetch import DATASETS, get_data

    typer.echo(f"{get_data(name)}\nTerms: {DATASETS[name].terms}.")


@data_app.command("check")
def data_check(
    name: DataName,
    classes: Annotated[bool, typer.Option("--classes", help="Print the count of every class too.")] = False,
) -> None:
    """Count a data set's pictures and decode each; faults are told by name and end in exit code 1.

    Example: `zfcore data check tiny-imagenet`
    """
    from zfcore.fetch import check

    report = check(name)
    if classes:
        for split, counts in report.counts.items():
            for label, count in sorted(counts.items()):
                typer.echo(f"{split}\t{label}\t{count}")
    typer.echo(report)
    if not report.whole:
        raise typer.Exit(1)


@data_app.command("pack")
def data_pack(
    name: Annotated[
        str,
        typer.Argument(help="imagenet, imagenette; with --source and --out any of train/CLASS/, val/CLASS/."),
    ],
    source: Annotated[
        Path | None, typer.Option(help="Folder that holds train/ and val/; default: where the set lies.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the shards; default: NAME-256 in `ZFCORE_DATA`.", file_okay=False, writable=True
        ),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="train or val; default: both.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads; default: one per core.", min=1)] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out pictures that cannot be decoded.")
    ] = False,
) -> None:
    """Write the 256×256 centre squares of a data set into tar shards for training; a killed run goes on.

    Example: `zfcore data pack imagenet --source ~/imagenet --split val`
    """
    from zfcore.data import data_root
    from zfcore.fetch import DATASETS
    from zfcore.pack import PACKABLE, pack
    from zfcore.public import imagenet_classes

    if name not in PACKABLE:
        raise typer.BadParameter(f"{name!r} is not packed; accepted: {', '.join(PACKABLE)}")
    if source and not out and name == "imagenet":
        there = {folder.name for part in ("train", "val") for folder in (source / part).glob("*/")}
        if strange := sorted(there.difference(imagenet_classes())):
            raise typer.BadParameter(
                f"{source} is not ImageNet-2012: it has the class {strange[0]}; give --out FOLDER, and train "
                "with --data FOLDER"
            )
    source = source or DATASETS[name].folder(data_root())
    for part in split or ["train", "val"]:
        packed = pack(
            source, out or data_root() / f"{name}-256", part, workers=workers, skip_corrupt=skip_corrupt
        )
        counts = f"{len(packed):,} pictures of {len(packed.classes)} classes"
        typer.echo(f"{part}: {counts} in {len(packed.shards)} shards")


@weights_app.command("list")
def weights_list() -> None:
    """List the public weights, their published error, and which of them are here.

    Example: `zfcore weights list`
    """
    from zfcore.public import public_weights, weights_file

    for name, known in public_weights().items():
        here = weights_file(name) if weights_file(name).exists() else "not here"
        top1, top5 = known.errors
        typer.echo(f"{name}: {top1:.2f} % top-1, {top5:.2f} % top-5 error; {known.source}; {here}")


@weights_app.command("get")
def weights_get(
    name: Annotated[str, typer.Argument(help="zfnet, zfnetb, vgg16, alexnet, squeezenet or resnet18.")],
) -> None:
    """Download public ImageNet weights and write them as `zfcore.model.load` reads them.

    Example: `zfcore weights get zfnet`
    """
    from zfcore.public import get_weights

    typer.echo(get_weights(name))
