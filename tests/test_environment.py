"""The three lists of packages agree, and none of them names a place to load from."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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


#: What only the book and the tests may need, by the names that are imported.
NOT_OF_THE_PACKAGE = (
    "jupyter_book", "jupyterlab", "ipywidgets", "IPython", "papermill", "nbformat", "mathjax", "yaml",
    "captum", "hypothesis", "onnxruntime", "playwright", "pytest", "pytorchcv",
)  # fmt: skip
WITHOUT_THEM = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_OF_THE_PACKAGE}:
            raise ModuleNotFoundError(f"{{name}} belongs to the book", name=name)

sys.meta_path.insert(0, Absent())
"""
SAVE = """
from zfcore.data import photographs
from zfcore.model import load
from zfcore.page import save_page

model, card = load("zfnet-64")
save_page(model, {"coffee": photographs()["coffee"]}, "page.html", card=card)
import zfcore
print(zfcore.__file__)
"""
SHELL = """
import ast
from pathlib import Path

from zfcore import cli

for file in Path(cli.__file__).parent.glob("*.py"):
    for part in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(part, ast.FunctionDef) and part.name != "book":  # which is for the book's readers
            for node in ast.walk(part):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    exec(ast.unparse(node))
sys.argv = ["zfcore", "project", "--help"]
cli.main()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a wheel was installed that was built from a source archive of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    shutil.copytree(ROOT / "zfcore", source / "zfcore", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    return site


def test_who_has_no_make_types_what_make_does():
    [block] = re.findall(r"Without make.*?```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    typed = [line for line in block.splitlines() if not line.startswith(".")]  # which enters .venv
    rules = (ROOT / "Makefile").read_text("utf-8")
    made = (
        re.search(r"^\$\(READY\):\n((?:\t.*\n)+)", rules, re.M)[1]
        + re.search(r"^book:.*\n(\t.*\n)", rules, re.M)[1]
    )
    for given, plain in {
        "$(PYTHON)": "python3",
        "$(BIN)/": "",
        "$(WITH_NODE) ": "",
        "--silent ": "",
        " --scale $(SCALE)": "",
    }.items():
        made = made.replace(given, plain)
    made = [line.strip() for line in made.splitlines() if not line.strip().startswith(("@", "rm", "touch"))]
    assert typed == made


def test_the_citation_is_one_and_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    for work in (cited, *cited["references"]):
        assert work["title"]
        assert all(person.keys() <= {"name", "family-names", "given-names"} for person in work["authors"])
        assert work["authors"]
    assert cited["message"]
    assert cited["type"] in ("software", "dataset")
    [paper] = cited["references"]
    assert re.fullmatch(r"10\.\d{4,9}/\S+", paper["doi"])


def run(script, site, folder):
    environment = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_THEM + script],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_wheel_saves_a_page_without_what_the_book_needs(installed, tmp_path):
    done = run(SAVE, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parents[1] == installed
    assert 1e6 < (tmp_path / "page.html").stat().st_size < 60e6


@pytest.mark.slow
def test_the_shell_of_a_wheel_needs_nothing_of_the_books(installed, tmp_path):
    done = run(SHELL, installed, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
