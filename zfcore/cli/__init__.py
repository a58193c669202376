"""The shell: ``zfcore train``, ``zfcore book`` and the rest, each with ``--help`` and an example."""

from __future__ import annotations

import typer

from zfcore.cli.evidence import claims, features, measure, reproduce, sensitivity
from zfcore.cli.files import data_app, weights_app
from zfcore.cli.looking import maximize, occlude, project, top
from zfcore.cli.publishing import book, page
from zfcore.cli.training import evaluate, train
from zfcore.cli.transferring import duplicates, transfer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)


@app.callback()
def zfcore() -> None:
    """Visualizing and Understanding Convolutional Networks (Zeiler & Fergus 2013), executable.

    `zfcore COMMAND --help` explains a command and shows an example.

    Example, which needs nothing but a photograph: `zfcore occlude cat.jpg --out occlusion`
    """


PANELS = {
    "Look into a network": (project, top, occlude, maximize, page),
    "Train, judge, transfer": (train, evaluate, transfer, duplicates),
    "The book and its evidence": (book, reproduce, features, measure, sensitivity, claims),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(data_app, name="data", rich_help_panel="Data and weights")
app.add_typer(weights_app, name="weights", rich_help_panel="Data and weights")


def main() -> None:
    """Entry point of the ``zfcore`` command: what was given wrongly is told in a line, not a traceback."""
    try:
        app()
    except Exception as error:
        known = isinstance(error, ValueError | OSError) or type(error).__module__.startswith("zfcore.")
        if not known:  # a bug, whose traceback is wanted
            raise
        raise SystemExit(f"zfcore: {error}") from error
