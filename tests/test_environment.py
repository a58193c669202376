"""The three lists of packages agree, and none of them names a place to load from."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
THE_BOOK_STANDS_ON = {
    "jupyter-book", "jupyterlab", "torch", "torchvision", "ipywidgets", "matplotlib", "numpy", "papermill",
}  # fmt: skip


def wanted():
    extras = PROJECT["optional-dependencies"]
    return {r.name: r for r in map(Requirement, PROJECT["dependencies"] + extras["book"] + extras["test"])}


def test_the_packages_that_the_book_stands_on_are_explicit():
    assert set(wanted()) >= THE_BOOK_STANDS_ON


def test_conda_gets_the_packages_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    plain = [item for item in environment if isinstance(item, str)]
    by_pip = next(item["pip"] for item in environment if isinstance(item, dict))
    assert plain[0].startswith("python" + PROJECT["requires-python"])
    assert "pip" in plain
    assert {Requirement(item) for item in by_pip} == set(wanted().values())


def test_the_lock_pins_one_version_that_pyproject_allows():
    pinned = {}
    for line in LOCK.splitlines():
        requirement = Requirement(line)
        assert [s.operator for s in requirement.specifier] == ["=="], line
        pinned.setdefault(requirement.name, []).append(next(iter(requirement.specifier)).version)
    for name, requirement in wanted().items():
        assert name in pinned, f"{name} is not in requirements.lock"
        assert all(requirement.specifier.contains(version) for version in pinned[name]), name
    # The package itself is built without isolation, so its build system is pinned too.
    assert "setuptools" in pinned


def test_the_lock_names_no_host():
    assert not re.search(r"://|@ |--\w", LOCK)
