"""The shell: commands explain themselves, and what is given wrongly is told in a line."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from zfcore.cli import app


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from zfcore.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "", "COLUMNS": "100", **environment},
    )


@pytest.mark.parametrize("command", [command.callback.__name__ for command in app.registered_commands])
def test_every_command_shows_an_example(command):
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"zfcore {command}" in result.output


def test_missing_data_are_named_with_what_to_do_next(tmp_path):
    result = shell("train", "zfnet-64", "--out", str(tmp_path / "run"), ZFCORE_DATA=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("zfcore: Tiny-ImageNet is not at")
    assert "ZFCORE_DATA" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_recipe_lists_the_known_ones(tmp_path):
    result = shell("train", "zfnet-64", "--out", str(tmp_path / "run"), "--recipe", "mine")
    assert result.returncode == 2
    assert "paper, small" in result.stderr
