"""The commands that look into a network: what excites a feature, where a class is lost."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from zfcore.cli.options import (
    DataOption,
    DeviceOption,
    LayerName,
    WeightsOption,
    album_of,
    as_typed,
    viewer_of,
)

FeatureOption = Annotated[
    int, typer.Option("--feature", "--channel", help="Number of the feature map.", min=0)
]


def project(
    photo: Annotated[Path, typer.Argument(help="A picture file.")],
    layer: LayerName,
    feature: FeatureOption,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for projection.png, .webp, project.png and .json.", file_okay=False, writable=True
        ),
    ],
    rule: Annotated[str, typer.Option(help="deconvnet, gradient or guided.")] = "deconvnet",
    unit: Annotated[
        tuple[int, int] | None, typer.Option(metavar="Y X", help="Default: the map's strongest.")
    ] = None,
    weights: WeightsOption = "zfnet-64",
    device: DeviceOption = None,
) -> None:
    """Project one unit of a feature map into a photograph: what made it answer? (§2.1, Fig. 2)

    Example: `zfcore project cat.jpg --layer "layer 5" --feature 17 --out projection`
    """
    from dataclasses import asdict, replace

    from zfcore.model import write_atomically
    from zfcore.view import RULES, as_png, as_webp, contact_sheet

    if rule not in RULES:
        raise typer.BadParameter(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    viewer, name = viewer_of(weights, device, layer)
    frame = viewer.frame(viewer.look(photo.name, photo), name, feature, unit)
    frame = replace(frame, projections={rule: frame.projections[rule]})
    said = {
        "photograph": photo.name,
        "weights": {"architecture": viewer.card["architecture"], "sha256": viewer.card["sha256"]},
        "layer": name,
        "path": frame.path,
        "feature": feature,
        "unit": frame.unit,
        "value": frame.value,
        "field": asdict(frame.field),
        "rule": rule,
        "guesses": [{"label": label, "probability": p} for label, p, _ in frame.seen.guesses],
        "command": as_typed(),
    }
    pictures = {
        "projection.png": as_png(frame.projections[rule]),
        "projection.webp": as_webp(frame.projections[rule]),
        "project.png": as_png(contact_sheet(frame)),
        "project.json": (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode(),
    }
    for file, blob in pictures.items():
        write_atomically(out / file, blob)
    typer.echo(f"{frame.says()} {out}")


def top(
    data: DataOption,
    layer: LayerName,
    feature: FeatureOption,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for top.json, projections and patches (.png, .webp).", file_okay=False, writable=True
        ),
    ],
    k: Annotated[int, typer.Option("--k", help="How many pictures.", min=1)] = 9,
    split: Annotated[str, typer.Option(help="Of a data set: train or val.")] = "val",
    weights: WeightsOption = "zfnet-64",
    device: DeviceOption = None,
) -> None:
    """Find the pictures that excite a feature map most, and project what excites it (§4, Fig. 2).

    The pass over the pictures is kept: another feature is answered at once, an interrupted pass goes on.

    Example: `zfcore top --data photographs --layer "layer 3" --feature 7 --out top`
    """
    from dataclasses import asdict

    from zfcore.gallery import Gallery, pass_file, sheet
    from zfcore.model import write_atomically
    from zfcore.view import as_png, as_webp

    viewer, name = viewer_of(weights, device, layer)
    album = album_of(data, split)
    gallery = Gallery.of(viewer, album, k, file=pass_file(viewer, album, k), progress=True)
    hits = gallery.hits(name, feature)
    said = {
        "weights": {"architecture": viewer.card["architecture"], "sha256": viewer.card["sha256"]},
        "data": Path(data).name,
        "data_sha256": album.sha256,
        "n": len(album),
        "layer": name,
        "path": viewer.layers[name],
        "feature": feature,
        "hits": [hit and asdict(hit) for hit in hits],
        "command": as_typed(),
    }
    for kind, cells in (
        ("projections", gallery.projections(name, feature)),
        ("patches", gallery.patches(name, feature)),
    ):
        write_atomically(out / f"{kind}.png", as_png(sheet(cells)))
        write_atomically(out / f"{kind}.webp", as_webp(sheet(cells)))
    write_atomically(out / "top.json", (json.dumps(said, ensure_ascii=False, indent=1) + "\n").encode())
    for hit in filter(None, hits):
        typer.echo(f"{hit.value:9.3f}  {hit.picture}  {hit.label}")
    if not any(hits):
        typer.echo(f"nothing here excites feature {feature} of {name}")


def occlude(
    photo: Annotated[Path, typer.Argument(help="A picture file.")],
    out: Annotated[
        Path, typer.Option(help="Folder for occlusion.png, .svg and .json.", file_okay=False, writable=True)
    ],
    weights: WeightsOption = "zfnet-64",
    target: Annotated[
        str | None, typer.Option(help="Label, class id or index. Default: the most probable class.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the square in pixels of the input.", min=1)] = 14,
    stride: Annotated[int, typer.Option(help="Pixels from one position to the next.", min=1)] = 2,
    layer: Annotated[
        str | None,
        typer.Option(
            help="`layer 5` or a module's path (`features.12`), whose strongest map is summed. Default: the "
            "last ReLU's of maps."
        ),
    ] = None,
    channel: Annotated[
        int | None, typer.Option("--feature", "--channel", help="Another map than the strongest.")
    ] = None,
    fill: Annotated[str, typer.Option(help="A number in units of the input, mean, blur or noise.")] = "0",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Slide a square over a photograph: where does the network lose the class? (§4.2, Fig. 6)

    Example: `zfcore occlude cat.jpg --target "Egyptian cat" --size 14 --out occlusion`
    """
    from zfcore import figures
    from zfcore.data import squares, to_input
    from zfcore.model import write_atomically
    from zfcore.occlusion import occlusion_maps

    viewer, name = viewer_of(weights, device, layer)
    network, card = viewer.model, viewer.card
    name = name or list(viewer.layers)[-1]
    layer = viewer.layers[name]
    labels = _labels(card)
    image = to_input([photo], card)[0].to(device)
    chosen = int(network(image[None]).argmax()) if target is None else _class_index(target, card)
    with suppress(ValueError):  # a word, then, and occlusion_maps knows which there are
        fill = float(fill)
    options = {"layer": layer, "fill": fill, "channel": channel, "seed": seed}
    maps = occlusion_maps(network, image, chosen, size, stride, **options, progress=True)
    found = {part: getattr(maps, part).tolist() for part in ("probability", "label", "activation")}
    said = {
        "photograph": photo.name,
        "weights": {"architecture": card["architecture"], "sha256": card["sha256"]},
        "target": {"index": chosen, "label": labels[chosen]},
        "size": size,
        "stride": stride,
        **options,
        "channel": maps.channel,
        "method": maps.method,
        "unoccluded": {part: value.item() for part, value in maps.unoccluded._asdict().items()},
        **found,
        "labels": {n: labels[n] for n in sorted({n for row in found["label"] for n in row})},
        "command": as_typed(),
    }
    row = figures.OcclusionRow(
        squares([photo], card)[0], **{part: found[part] for part in ("activation", "probability")},
        labels=found["label"], names=said["labels"], target=chosen, feature=f"map {maps.channel} of {name}",
    )  # fmt: skip
    drawing = figures.occlusion([row], size, stride)
    write_atomically(out / "occlusion.json", (json.dumps(said, ensure_ascii=False) + "\n").encode())
    for suffix in ("png", "svg"):
        drawing.savefig(blob := io.BytesIO(), format=suffix, dpi=200)
        write_atomically(out / f"occlusion.{suffix}", blob.getvalue())
    typer.echo(
        f"{labels[chosen]}: {maps.unoccluded.probability:.3f} on the whole photograph, "
        f"{maps.probability.min():.3f} to {maps.probability.max():.3f} with the square; {out}"
    )


def maximize(
    layer: Annotated[str, typer.Argument(help="`layer 5`, a module's path (`features.12`), or `logits`.")],
    channel: Annotated[
        list[str], typer.Argument(help="Numbers of feature maps or units; of the last layer also labels.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for maximize.png and .json.", file_okay=False, writable=True)
    ],
    recipe: Annotated[str, typer.Option(help="regularised, or plain: the algorithm alone.")] = "regularised",
    position: Annotated[
        str, typer.Option(metavar="map|middle|Y,X", help="The whole map's mean, or one unit.")
    ] = "map",
    objective: Annotated[str, typer.Option(help="logit, or probability, which is a trap.")] = "logit",
    size: Annotated[int | None, typer.Option(help="Pixels a side. Default: the network's.", min=1)] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps. Default: the recipe's.", min=1)] = None,
    step: Annotated[float | None, typer.Option(help="Their size. Default: the recipe's.", min=0)] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Stop when the answer grows by a smaller share. Default: the recipe's.", min=0),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise and of the moves by chance.")] = 0,
    weights: WeightsOption = "zfnet-64",
    device: DeviceOption = None,
) -> None:
    """Climb from noise to the picture that a feature or a class answers to most (activation maximisation).

    Example: `zfcore maximize "layer 5" 7 29 --out climbed`

    A class: `zfcore maximize logits goldfish --out fish`
    """
    from dataclasses import asdict, replace

    from zfcore.figures import stretch
    from zfcore.maximization import RECIPES, maximize
    from zfcore.model import write_atomically
    from zfcore.view import as_png, beside

    if recipe not in RECIPES:
        raise typer.BadParameter(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    place = position
    if position not in ("map", "middle"):
        y, _, x = position.partition(",")
        if not (y.isdecimal() and x.isdecimal()):
            raise typer.BadParameter(f"a position is map, middle or Y,X, as 3,4; got {position!r}")
        place = int(y), int(x)
    viewer, _ = viewer_of(weights, device)
    card = viewer.card
    paths = viewer.layers | {"logits": viewer.net.trace.result}
    path = paths.get(layer, layer)
    of_classes = path == paths["logits"]
    if not of_classes and (strange := [c for c in channel if not c.isdecimal()]):
        raise typer.BadParameter(f"channels of {layer} are numbers; got {', '.join(strange)}")
    chosen = [_class_index(c, card) if of_classes else int(c) for c in channel]
    changes = {"iterations": iterations, "step": step, "tolerance": tolerance}
    how = replace(RECIPES[recipe], **{name: value for name, value in changes.items() if value is not None})
    aim = {"position": place, "objective": objective, "recipe": how, "seed": seed}
    r = maximize(viewer.model, path, chosen, size or viewer.side, **aim, progress=True)
    said = {
        "weights": {"architecture": card["architecture"], "sha256": card["sha256"]},
        "layer": path,
        "channels": chosen,
        "labels": [_labels(card)[n] for n in chosen] if of_classes else None,
        "position": place,
        "objective": objective,
        "recipe": asdict(how),
        "seed": seed,
        "history": r.history,
        "command": as_typed(),
    }
    sheet = beside([(stretch(picture), None) for picture in r.image])
    write_atomically(out / "maximize.png", as_png(sheet))
    write_atomically(out / "maximize.json", (json.dumps(said, ensure_ascii=False) + "\n").encode())
    for n, history in zip(chosen, r.history, strict=True):
        typer.echo(
            f"{layer}, {n}: {history[0]:.3g} on noise, {history[-1]:.3g} after {len(history) - 1} steps"
        )
    typer.echo(out)


def _class_index(given: str, card: dict) -> int:
    """The index of a class, from its label, its id or the index itself."""
    labels = _labels(card)
    for known in (labels, card.get("classes") or [], list(map(str, range(card["num_classes"])))):
        if given in known:
            return known.index(given)
    near = get_close_matches(given, labels, 3) or labels[:3]
    raise ValueError(
        f"no class {given!r}; give a label (say, {', '.join(near)}), an id, or 0 to {len(labels) - 1}"
    )


def _labels(card: dict) -> Sequence[str]:
    """What the classes of a network are called, ``class 0`` and on where its card does not say."""
    return card.get("labels") or [f"class {n}" for n in range(card["num_classes"])]
