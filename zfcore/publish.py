"""Chapters → book: execute every notebook, keep what came out, build the pages.

What a reader sees is what was executed here: papermill runs each chapter of ``_toc.yml``, the tree
with the executed notebooks is staged, and Jupyter Book builds the stage without executing anything.
A chapter is executed again only when something that it depends on has changed: its cells, tags and
parameters, the package with its weights, the pinned and the installed versions, the data.

Example::

    from zfcore.publish import publish
    publish(".", {"scale": "embedded"})        # -> _build/html/index.html
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from traitlets.config import Config

PACKAGE = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"
# What tqdm writes: "12%|███ | …" with a known total, "3it [00:01, …" without.
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+\w+ \[\d+:\d\d")
TIMES = "seconds"  # a chapter with this parameter is executed last, and told how long each of the others took
KEPT_RUNS = 4  # executed versions of one chapter: going back to another scale costs nothing


class BookError(Exception):
    """The book was not built; the message says which chapter and cell, and why."""


@dataclass(frozen=True)
class Execution:
    """One chapter after papermill: where the executed notebook lies, and what went wrong, if anything."""

    chapter: str
    notebook: Path
    seconds: float = 0.0
    failure: str = ""


def pages(root: str | os.PathLike) -> list[Path]:
    """The files that ``_toc.yml`` under ``root`` names, in reading order.

    Raises
    ------
    BookError
        There is no ``_toc.yml``, or it names a page that is not on disk.
    """
    root = Path(root)
    if not (root / "_toc.yml").exists():
        raise BookError(f"there is no _toc.yml at {root.resolve()}; run this from the repository's folder")
    found = []
    for entry in _entries(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        files = [root / f"{entry}{suffix}" for suffix in (".ipynb", ".md")]
        page = next((file for file in files if file.exists()), None)
        if page is None:
            raise BookError(f"_toc.yml names {entry}, of which there is no .ipynb and no .md")
        found.append(page)
    return found


def _entries(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _entries(item)
    elif isinstance(node, dict):
        yield from (node[key] for key in ("root", "file") if key in node)
        for key in ("parts", "chapters", "sections"):
            yield from _entries(node.get(key, []))


def publish(
    root: str | os.PathLike = ".",
    parameters: Mapping[str, Any] | None = None,
    out: str | os.PathLike | None = None,
    jobs: int = 2,
) -> Path:
    """Execute the chapters, stage them, and build ``_build/html``; return the path of its ``index.html``.

    Parameters
    ----------
    root
        The folder that holds ``_toc.yml`` and ``_config.yml``.
    parameters
        Values for the chapters' ``parameters`` cells. Each chapter takes those it knows.
    out
        Folder for the figures and numbers that the chapters keep. Chapters then always run.
    jobs
        Chapters executed at the same time.

    Raises
    ------
    BookError
        A parameter that no chapter knows, chapters that fail (all of them are named, with the
        cell), an explorer that a page could not show, or warnings from Jupyter Book.
    """
    root = Path(root).resolve()
    sources = pages(root)
    notebooks = [page for page in sources if page.suffix == ".ipynb"]
    given = dict(parameters or {}) | ({} if out is None else {"out": str(Path(out).resolve())})
    chosen = _parameters_of_each(notebooks, given)
    last = {notebook for notebook in notebooks if TIMES in known_parameters(notebook)}
    runs: dict[Path, Execution] = {}
    for together in filter(
        None, ([n for n in notebooks if n not in last], [n for n in notebooks if n in last])
    ):
        times = {n.stem: round(runs[n].seconds, 1) for n in notebooks if n in runs}
        wanted = {n: chosen[n] | ({TIMES: times} if n in last else {}) for n in together}
        runs |= _execute_all(root, wanted, jobs, use_cache=out is None)
        failed = [run for run in runs.values() if run.failure]
        if failed:
            raise BookError("\n\n".join(run.failure for run in failed))
    stage = _stage(root, runs)
    return _build(root, stage)


# ------------------------------------------------------------------------------ parameters
def known_parameters(notebook: Path) -> dict[str, Any]:
    """The names in a chapter's ``parameters`` cell, with their default values."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def _parameters_of_each(notebooks: list[Path], given: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each chapter the given values that it knows and that are not its defaults anyway."""
    known = {notebook: known_parameters(notebook) for notebook in notebooks}
    everything = sorted({name for names in known.values() for name in names})
    unknown = sorted(set(given) - set(everything))
    if unknown:
        raise BookError(f"no chapter has a parameter {', '.join(unknown)}; known: {', '.join(everything)}")
    return {
        notebook: {name: value for name, value in given.items() if name in names and names[name] != value}
        for notebook, names in known.items()
    }


# ------------------------------------------------------------------------------ execution
def _execute_all(
    root: Path, chosen: dict[Path, dict[str, Any]], jobs: int, use_cache: bool
) -> dict[Path, Execution]:
    """Execute, in a pool of processes, every chapter whose result is not at hand."""
    surroundings = _surroundings(root)
    runs: dict[Path, Execution] = {}
    waiting = []
    for notebook, parameters in chosen.items():
        key = _key(notebook, known_parameters(notebook) | parameters, surroundings)
        target = root / "_build" / "executed" / notebook.stem / f"{key}.ipynb"
        if use_cache and target.exists():
            os.utime(target)
            runs[notebook] = Execution(notebook.stem, target, _seconds(target))
        else:
            waiting.append((notebook, parameters, target))
    print(f"{len(chosen)} chapter{'s' * (len(chosen) != 1)}, {len(runs)} unchanged", flush=True)
    if not waiting:
        return runs
    jobs = max(1, min(jobs, len(waiting)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_quiet_worker, initargs=(jobs,)) as pool:
        futures = {pool.submit(_execute, *task): task[0] for task in waiting}
        for count, future in enumerate(as_completed(futures), 1):
            run = runs[futures[future]] = future.result()
            state = "FAILED after" if run.failure else "executed in"
            print(f"  {run.chapter}: {state} {run.seconds:.1f} s ({count} of {len(waiting)})", flush=True)
    return runs


def _quiet_worker(jobs: int) -> None:
    """Give the kernels of this worker their share of the cores, and nothing of the caller's session."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    os.environ["PYTHONHASHSEED"] = "0"
    # A figure belongs in the notebook, and an explorer shall write its page form: see zfcore.widgets.
    for name in ("MPLBACKEND", "JPY_SESSION_NAME"):
        os.environ.pop(name, None)


def _execute(source: Path, parameters: dict[str, Any], target: Path) -> Execution:
    """Run one chapter in its own folder; a failure becomes text, and its partial notebook is kept."""
    partial = target.parents[2] / "failed" / source.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    failure = ""
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters,
            cwd=str(source.parent),
            progress_bar=False,
            autosave_cell_every=0,
            coalesce_streams=True,
            kernel_name="python3",
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except papermill.PapermillExecutionError as error:
        failure = _describe(source, error, bool(parameters), partial)
    except Exception as error:  # a kernel that dies or never starts: whatever it is, name the chapter
        failure = f"{source.stem}: {type(error).__name__}: {error}"
    seconds = _seconds(partial) if partial.exists() else 0.0
    if failure:
        return Execution(source.stem, partial, seconds, failure)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)
    newest_first = sorted(target.parent.glob("*.ipynb"), key=lambda file: -file.stat().st_mtime)
    for old in newest_first[KEPT_RUNS:]:
        old.unlink()
    return Execution(source.stem, target, seconds)


def _seconds(notebook: Path) -> float:
    """How long an executed notebook took, as papermill wrote into it."""
    return nbformat.read(notebook, as_version=4).metadata.get("papermill", {}).get("duration") or 0.0


def _describe(source: Path, error: papermill.PapermillExecutionError, injected: bool, partial: Path) -> str:
    """Chapter, cell number, error and cell source, as one text."""
    # papermill puts the given parameters into a cell of their own, right after the tagged one.
    cells = nbformat.read(source, as_version=4).cells
    tagged = next((n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])), -1)
    number = error.cell_index + 1 - (injected and error.cell_index > tagged)
    code = "\n".join(f"    {line}" for line in error.source.splitlines())
    return (
        f"{source.stem}, cell {number} (In [{error.exec_count}]): {error.ename}: {error.evalue}\n\n{code}\n\n"
        f"the notebook as far as it came, with the traceback: {partial}"
    )


# ------------------------------------------------------------------------------ what a result depends on
def _key(notebook: Path, parameters: dict[str, Any], surroundings: str) -> str:
    cells = [
        (cell.cell_type, cell.source, cell.metadata) for cell in nbformat.read(notebook, as_version=4).cells
    ]
    data = "" if parameters.get("scale", "embedded") == "embedded" else _data_state()
    text = json.dumps([cells, parameters, surroundings, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _surroundings(root: Path) -> str:
    """A digest of what every chapter depends on: package, weights, stored results, claims, versions."""
    results = (root / "book" / "results").rglob("*")
    alone = [root / "requirements.lock", root / "book" / "claims.json"]
    files = [*alone, *sorted(results), *sorted(PACKAGE.rglob("*"))]
    kept = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return _digest(kept) + _versions()


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        blob = file.read_bytes()
        digest.update(f"{file.name} {len(blob)}\n".encode())
        digest.update(blob)
    return digest.hexdigest()


def _versions() -> str:
    installed = sorted(f"{d.name}=={d.version}" for d in importlib.metadata.distributions())
    return "\n".join([sys.version, *installed])


def _data_state() -> str:
    """Names, sizes and times of the data sets' files (their contents may be many gigabytes)."""
    from zfcore.data import data_root  # torch is slow to import, and the embedded scale has no data on disk

    root = data_root()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(root)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------------------ staging
def _stage(root: Path, runs: dict[Path, Execution]) -> Path:
    """Write the tree that Jupyter Book builds: executed notebooks in place of their sources."""
    stage = root / "_build" / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    sources = shutil.ignore_patterns("*.ipynb", ".*", "__pycache__")
    shutil.copytree(root / "book", stage / "book", ignore=sources)
    for source, run in runs.items():
        notebook = clean(nbformat.read(run.notebook, as_version=4), run.chapter)
        target = stage / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    for page in pages(root):
        target = stage / page.relative_to(root)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, target)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("execute", {})["execute_notebooks"] = "off"
    (stage / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.copy(root / "_toc.yml", stage)
    return stage


def clean(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Prepare an executed notebook for readers, in place: no bookkeeping, no progress bars, no dead widget.

    Raises
    ------
    BookError
        A widget without a page form: it would be a blank in the page.
    """
    for key in ("widgets", "papermill"):
        notebook.metadata.pop(key, None)
    shown = []
    for number, cell in enumerate(notebook.cells, 1):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            shown = [tag for tag in tags if tag != "parameters"]
        if "injected-parameters" in tags:  # shown or hidden as the cell that it overrides
            cell.metadata["tags"] = [*tags, *shown]
            cell.id = "injected-parameters"
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_progress, cell.outputs) if output]
            for output in cell.outputs:
                _keep_page_form(output, f"{name}, cell {number}")
    return notebook


def _without_progress(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type != "stream" or output.name != "stderr":
        return output
    # A bar rewrites its line with carriage returns; the last state of each line is what was on screen.
    lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in output.text.split("\n")]
    output.text = "\n".join(line for line in lines if line.strip() and not PROGRESS_BAR.search(line))
    return output if output.text else None


def _keep_page_form(output: nbformat.NotebookNode, where: str) -> None:
    if WIDGET not in output.get("data", {}):
        return
    if not output.data.get("text/html"):
        raise BookError(
            f"{where}: this widget has no text/html form, so the page would show nothing; "
            "use an explorer of zfcore.widgets, and plain tqdm for progress"
        )
    del output.data[WIDGET]


# ------------------------------------------------------------------------------ pages
def _build(root: Path, stage: Path) -> Path:
    """Build the stage unless the pages at hand were built from the very same; return ``index.html``."""
    html, record = root / "_build" / "html", root / "_build" / "html.sha256"
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    names = "\n".join(str(path.relative_to(stage)) for path in files)
    # The package counts too: the reference page is made from its docstrings.
    state = hashlib.sha256((_digest(files) + names + _surroundings(root)).encode()).hexdigest()
    index = html / "index.html"
    if record.exists() and record.read_text() == f"{state} {_written(html)}":
        print("pages unchanged", flush=True)
        return index
    print("building the pages", flush=True)
    start = time.perf_counter()
    program = shutil.which("jupyter-book", path=sysconfig.get_path("scripts")) or "jupyter-book"
    command = [program, "build", str(stage), "-W", "-n", "--keep-going"]
    # A fresh folder each time: Sphinx repeats no warning for a page that it does not read again.
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    log = root / "_build" / "jupyter-book.log"
    log.write_text(result.stdout, encoding="utf-8")
    if result.returncode:
        complaints = [
            line for line in result.stdout.splitlines() if re.search("WARNING|ERROR|exception: ", line)
        ]
        raise BookError("\n".join(["Jupyter Book refuses the pages:", *complaints, f"all it said: {log}"]))
    record.unlink(missing_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    os.replace(stage / "_build" / "html", html)
    record.write_text(f"{state} {_written(html)}")
    print(f"  built in {time.perf_counter() - start:.1f} s", flush=True)
    return index


def _written(html: Path) -> int | None:
    """When the pages were written: a plain `jupyter-book build .` writes to the same place."""
    search_index = html / "searchindex.js"
    return search_index.stat().st_mtime_ns if search_index.exists() else None
