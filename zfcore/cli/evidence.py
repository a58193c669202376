"""The commands that fill the ledger of results, and read it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from zfcore.cli.options import (
    DataOption,
    DeviceOption,
    ResultsOption,
    WeightsOption,
    WorkersOption,
    album_of,
    as_typed,
    device_or_best,
    viewer_of,
    workers_or_all,
)

#: The options of `reproduce` that have a meaning for targets of transfer alone, and for the others alone.
OF_TRANSFER = ("weights", "drop_duplicates")
OF_TRAININGS = ("shard", "width", "workers", "low_precision", "overview")
#: What else single targets, of whichever command, would leave idle.
IDLE = {
    "occlusion": ("draws",),
    "correspondence": ("pictures", "size", "stride"),
    "fig2": ("pictures", "classes", "judge"),
    "invariance": ("classes", "judge"),
    "maximization": ("data", "pictures"),
    "table5": ("seeds", "recipe", "epochs"),
    "table6": ("recipe", "epochs"),
    "fig7": ("recipe", "epochs"),
    "fig4": ("recipe",),  # its rows have their own
    "fig5": ("recipe",),
}


def _refuse(context: typer.Context, target: str, idle: Collection[str]) -> None:
    """Refuse the given ones of the options that ``target`` would leave idle, and say which it takes."""
    options = {p.name: p.opts[0] for p in context.command.params if p.opts[0].startswith("--")}
    given = [options[name] for name in idle if context.get_parameter_source(name).name == "COMMANDLINE"]
    if given:
        takes = ", ".join(option for name, option in options.items() if name not in idle)
        raise typer.BadParameter(f"{target} does not take {', '.join(given)}; it takes {takes}")


def reproduce(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(help="table1, table2, fig4, fig5; of transfer: table3 to table6, fig7."),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="tiny-imagenet, imagenet (packed), or patches, to rehearse; of transfer: caltech101, "
            "caltech256, voc2007, voc2012, patches."
        ),
    ],
    row: Annotated[list[str] | None, typer.Option(help="Only this row; more than once for more.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="One training of each row per seed, default 0; of transfer the splits, 0,1,2,3,4.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="KofN", help="0of4: training pictures 0, 4, 8, … when sorted.")
    ] = None,
    width: Annotated[
        float, typer.Option(help="Multiplies maps and hidden units; 2 gives the -64 family the paper's.")
    ] = 1.0,
    epochs: Annotated[
        int | None, typer.Option(help="Default: the recipe's; of transfer 100, from scratch.", min=1)
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="`small` (unit inputs, He, cosine), `brief` (smaller batches) or `paper` (§3). Figs. 4, 5 "
            "have their own; of transfer only the row `scratch` is trained."
        ),
    ] = "small",
    device: DeviceOption = None,
    workers: WorkersOption = None,
    low_precision: Annotated[bool, typer.Option("--low-precision", help="Judge in bfloat16.")] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the trainings, which go on there.", file_okay=False, writable=True)
    ] = Path("runs"),
    results: ResultsOption = None,
    overview: Annotated[bool, typer.Option("--list", help="Only say what is done and what remains.")] = False,
    weights: Annotated[
        str, typer.Option(help="Of transfer: the pretrained network, a name or a .safetensors file.")
    ] = "zfnet-64",
    drop_duplicates: Annotated[
        bool,
        typer.Option("--drop-duplicates", help="Of transfer: without what the ledger `duplicates` names."),
    ] = False,
) -> None:
    """Train and judge every row that the ledger lacks of a table or figure; a killed run goes on.

    Example: `zfcore reproduce table2 --data tiny-imagenet --seeds 0,1,2 --device cuda`

    Features on another data set: `zfcore reproduce table3 --data caltech101 --row "pretrained, layer 7"`
    """
    from zfcore import generalization, ledger
    from zfcore import reproduce as reproducing
    from zfcore.train import RECIPES

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise typer.BadParameter(
            "reproduce runs in one process; for several GPUs start one for each, with its own --device, "
            "--row and --results"
        )
    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    device = device_or_best(device)
    try:
        numbers = sorted({int(seed) for seed in seeds.split(",")}) if seeds else None
    except ValueError:
        raise typer.BadParameter(f"{seeds!r} is not a list of seeds like 0,1,2") from None
    of_transfer = target in generalization.TARGETS
    if not of_transfer and target not in reproducing.TARGETS:
        known = ", ".join(sorted({*reproducing.TARGETS, *generalization.TARGETS}))
        raise typer.BadParameter(f"unknown target {target!r}; known: {known}")
    idle = (*(OF_TRAININGS if of_transfer else OF_TRANSFER), *IDLE.get(target, ()))
    _refuse(context, target, idle)
    if of_transfer and row and "scratch" not in row:
        _refuse(context, f"{target} without its row scratch", (*idle, "recipe", "epochs"))
    if of_transfer:
        kept = "dropped" if drop_duplicates else "kept"
        transferred = generalization.Transfer(
            data, weights, kept, RECIPES[recipe], epochs or 100, device, out, results or ledger.RESULTS, True
        )
        generalization.reproduce(target, transferred, row, numbers or range(5), say=typer.echo)
        return
    numbers = numbers or [0]
    experiment = reproducing.Experiment(
        data, RECIPES[recipe], epochs, width, shard, device, workers_or_all(workers), low_precision, out,
        results or ledger.RESULTS,
    )  # fmt: skip
    if not overview:
        reproducing.reproduce(target, experiment, row, numbers, say=typer.echo)
        return
    states = reproducing.overview(target, experiment, row, numbers)
    for name, seed, state, seconds in states:
        estimate = f"about {seconds / 60:.0f} min" if seconds else ""
        typer.echo(f"{name:24} {'' if seed is None else f'seed {seed}':8} {state}  {estimate}")
    if all(seconds is not None for *_, seconds in states):
        typer.echo(f"about {sum(seconds for *_, seconds in states) / 3600:.1f} h remain")
    else:
        typer.echo("no estimate before one row is done on this device")


def sensitivity(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(help="occlusion (Tiny-ImageNet's boxes) or correspondence (faces of Caltech-101)."),
    ],
    weights: WeightsOption = "zfnet-64",
    pictures: Annotated[int, typer.Option(help="occlusion: how many that the network knows.", min=20)] = 500,
    size: Annotated[int, typer.Option(help="occlusion: side of the square in pixels.", min=1)] = 14,
    stride: Annotated[int, typer.Option(help="occlusion: pixels between its positions.", min=1)] = 4,
    draws: Annotated[int, typer.Option(help="correspondence: drawings of random places.", min=2)] = 50,
    seed: Annotated[int, typer.Option(help="Of places, resamplings, and of the untrained network.")] = 0,
    device: DeviceOption = None,
    results: ResultsOption = None,
) -> None:
    """Test the claims of §4.2 over many pictures, and write what comes out into the ledger.

    Example: `ZFCORE_DATA=~/data zfcore sensitivity occlusion --pictures 500`
    """
    from zfcore import ledger
    from zfcore.faces import correspondence_entries
    from zfcore.model import load
    from zfcore.sensitivity import occlusion_entries

    _refuse(context, what, IDLE.get(what, ()))
    if what not in ("occlusion", "correspondence"):
        raise typer.BadParameter(f"unknown analysis {what!r}; known: occlusion, correspondence")
    device, sha256 = device_or_best(device), load(weights)[1]["sha256"]
    if what == "occlusion":
        _insist_on_room(what, sha256, pictures, results, size=size, stride=stride)
        entries = occlusion_entries(weights, pictures, size, stride, seed, device)
    else:
        _insist_on_room(what, sha256, None, results)
        entries = correspondence_entries(weights, draws, seed, device)
    for entry in entries:
        ledger.record(what, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']} pictures in {entry['seconds']:.0f} s")


def _insist_on_room(
    name: str, sha256: str, n: int | None, results: Path | None, judged: bool = False, **config: int
) -> None:
    """Ask before long work whether the ledger will hold what comes of it, and lose nothing by it."""
    from zfcore import ledger
    from zfcore.model import ships

    folder, elsewhere = results or ledger.RESULTS, "give another folder of the ledger (--results)"
    if results is None and not ships(sha256):
        raise typer.BadParameter(f"{folder} is the ledger of weights that ship with zfcore; {elsewhere}")
    there = [entry for entry in ledger.find(name, folder, **config) if entry["weights_sha256"] == sha256]
    most = max((entry["n"] for entry in there), default=0)
    if n is not None and n < most:
        raise typer.BadParameter(f"{folder} has {name} over {most}, and {n} are fewer; {elsewhere}")
    if name == "maximization" and not judged and any("judge" in e["values"]["trap"] for e in there):
        raise typer.BadParameter(
            f"in {folder} a judge has looked at the climbs; give --judge, or {elsewhere}"
        )


def measure(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="fig2, invariance, or maximization, which needs no data.")],
    weights: WeightsOption = "zfnet-64",
    data: Annotated[str, typer.Option(help="tiny-imagenet or imagenet (packed).")] = "tiny-imagenet",
    pictures: Annotated[int, typer.Option(help="invariance: how many are transformed.", min=20)] = 500,
    classes: Annotated[int, typer.Option(help="maximization: how many are climbed to.", min=2)] = 100,
    judge: Annotated[
        str | None,
        typer.Option(help="maximization: weights of another network that looks at what was climbed to."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of pictures, places, noise, and the untrained network.")] = 0,
    device: DeviceOption = None,
    results: ResultsOption = None,
) -> None:
    """Measure what is claimed of Fig. 2, invariance or activation maximisation, for the ledger.

    Example: `ZFCORE_DATA=~/data zfcore measure fig2`
    """
    from zfcore import ledger
    from zfcore.data import data_set
    from zfcore.gallery import pass_file
    from zfcore.preference import maximization_entry
    from zfcore.selectivity import fig2_entries
    from zfcore.stability import invariance_entries

    if target not in ("fig2", "invariance", "maximization"):
        raise typer.BadParameter(f"unknown target {target!r}; known: fig2, invariance, maximization")
    _refuse(context, target, IDLE[target])
    viewer, _ = viewer_of(weights, device)
    asked = {"invariance": pictures, "maximization": classes}.get(target)
    _insist_on_room(target, viewer.card["sha256"], asked, results, judged=judge is not None)
    if target == "maximization":
        other = viewer_of(judge, device)[0] if judge else None
        entry = maximization_entry(viewer, classes, seed=seed, progress=True, judge=other)
        entry |= {"command": as_typed()}
        ledger.record(target, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']} classes in {entry['seconds']:.0f} s")
        return
    shown = data_set(data, "val")
    if target == "fig2":
        entries = fig2_entries(viewer, shown, lambda *of: pass_file(*of, 9), seed, progress=True)
    else:
        entries = invariance_entries(viewer, shown, pictures, seed, progress=True)
    for entry in entries:
        entry |= {"data": data, "data_sha256": shown.sha256, "command": as_typed()}
        ledger.record(target, entry, results or ledger.RESULTS)
        typer.echo(f"{entry['row']}: {entry['n']:,} pictures in {entry['seconds']:.0f} s")


def features(
    weights: Annotated[str, typer.Argument(help="Weights that ship, or a .safetensors file.")] = "zfnet-64",
    data: DataOption = "tiny-imagenet",
    split: Annotated[str, typer.Option(help="Of a data set: train or val.")] = "val",
    maps: Annotated[
        int | None, typer.Option(help="At most so many maps of a layer, drawn with the seed.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the maps.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the galleries; default: book/results/top9.", file_okay=False, writable=True
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Store Fig. 2 for every feature map: the projections of its nine strongest pictures, and their names.

    The pictures themselves are not stored. An interrupted run goes on.

    Example: `ZFCORE_DATA=~/data zfcore features zfnet-64 --data tiny-imagenet`
    """
    from zfcore.gallery import GALLERIES, Gallery, pass_file
    from zfcore.model import ships

    viewer, _ = viewer_of(weights, device)
    if out is None and not ships(viewer.card["sha256"]):
        raise typer.BadParameter(
            f"{weights} does not ship with zfcore, and {GALLERIES} holds the galleries of what does; "
            "give --out FOLDER"
        )
    album = album_of(data, split)
    gallery = Gallery.of(viewer, album, file=pass_file(viewer, album, 9), progress=True)
    about = {"data": Path(data).name, "split": split, "data_sha256": album.sha256, "command": as_typed()}
    path = gallery.save(out or GALLERIES, Path(weights).stem, maps=maps, seed=seed, progress=True, **about)
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}[-.]*"))
    typer.echo(f"{path}: {size / 1e6:.1f} MB with its sprites")


def claims(
    verdict: Annotated[
        str | None, typer.Option(help="Only those whose verdict begins so: reproduced, contradicted, not …")
    ] = None,
    section: Annotated[str | None, typer.Option(help="Only those of this section: §4.2, arXiv.")] = None,
    results: ResultsOption = None,
) -> None:
    """List the paper's claims with the verdict of the ledger on each, in a checkout of the book.

    Example: `zfcore claims --verdict contradicted`
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from zfcore import ledger
    from zfcore.claims import count, read_claims
    from zfcore.evidence import VERDICTS

    folder = results or ledger.RESULTS
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder} of a ledger (--results)")
    every = read_claims(folder)
    sections = list(dict.fromkeys(claim.section for claim in every))
    if not any(known.startswith(verdict or "") for known in VERDICTS) or section not in (None, *sections):
        raise typer.BadParameter(
            f"no claim is so; verdicts: {', '.join(VERDICTS)}; sections: {', '.join(sections)}"
        )
    shown = [
        claim
        for claim in every
        if claim.verdict.startswith(verdict or "") and section in (None, claim.section)
    ]
    table = Table("", "", "claim", "here", "verdict", box=box.SIMPLE, show_lines=True, pad_edge=False)
    for claim in shown:
        numbers = "\n".join(": ".join(filter(None, (n.label, n.text))) for n in claim.numbers)
        why = f"{claim.verdict}: {claim.why}" + f"\n{claim.command}" * bool(claim.command)
        table.add_row(str(claim.number), claim.section, claim.claim, numbers, why)
    Console(highlight=False, markup=False).print(table)
    counts = ", ".join(f"{n} {name}" for name, n in count(every).items())
    typer.echo(f"{len(shown)} of {len(every)} claims; in all {counts}")
