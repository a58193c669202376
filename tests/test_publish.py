"""The way from chapters to pages, on a book of two chapters that need no network."""

import json
import os
import shutil

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from zfcore import publish as room
from zfcore.cli import app
from zfcore.publish import BookError, clean, known_parameters, pages, publish

EXPLORER = """
from IPython.display import display
display({"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/html": "<b>twin</b>"}, raw=True)
"""


def chapter(path, *cells, **parameters):
    """Write a chapter: a title, a parameters cell, and the code cells."""
    defaults = "\n".join(f"{name} = {value!r}" for name, value in {"scale": "embedded", **parameters}.items())
    notebook = new_notebook(
        cells=[
            new_markdown_cell(f"# {path.stem}\n\nSome $x^2$."),
            new_code_cell(defaults, metadata={"tags": ["parameters", "hide-input"]}),
            *(new_code_cell(cell) for cell in cells),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    nbformat.write(notebook, path)


@pytest.fixture
def small_book(tmp_path, pytestconfig):
    """A book of two chapters, configured as the real one."""
    (tmp_path / "book" / "static").mkdir(parents=True)
    shutil.copy(pytestconfig.rootpath / "_config.yml", tmp_path)
    shutil.copytree(
        pytestconfig.rootpath / "book" / "static", tmp_path / "book" / "static", dirs_exist_ok=True
    )
    (tmp_path / "book" / "references.bib").write_text("")
    (tmp_path / "requirements.lock").write_text("one==1\n")
    toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": "book/01_first"}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    chapter(tmp_path / "book" / "index.ipynb", "print(scale)", EXPLORER)
    chapter(tmp_path / "book" / "01_first.ipynb", "print(feature)", feature=7)
    return tmp_path


@pytest.fixture
def no_pages(monkeypatch):
    """Leave out Jupyter Book; what would be built is returned by ``publish``."""
    monkeypatch.setattr(room, "_build", lambda root, stage: stage)


def printed(stage, name):
    cells = nbformat.read(stage / "book" / f"{name}.ipynb", as_version=4).cells
    return "".join(o.text for cell in cells for o in cell.get("outputs", []) if o.output_type == "stream")


# ------------------------------------------------------------------------------ table of contents
def test_pages_come_in_reading_order(tmp_path):
    for name in ("start", "a", "a1", "z"):
        (tmp_path / f"{name}.md").touch()
    toc = {
        "root": "start",
        "parts": [{"chapters": [{"file": "a", "sections": [{"file": "a1"}]}, {"file": "z"}]}],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert [page.stem for page in pages(tmp_path)] == ["start", "a", "a1", "z"]


def test_a_page_that_is_not_there_is_named(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: nowhere")
    with pytest.raises(BookError, match="nowhere"):
        pages(tmp_path)


def test_a_folder_without_a_book_is_refused(tmp_path):
    with pytest.raises(BookError, match="run this from the repository"):
        pages(tmp_path)


# ------------------------------------------------------------------------------ parameters
def test_defaults_are_read_from_the_tagged_cell(small_book):
    assert known_parameters(small_book / "book" / "01_first.ipynb") == {"scale": "embedded", "feature": 7}


def test_an_unknown_parameter_is_refused_before_anything_runs(small_book):
    with pytest.raises(BookError, match="no chapter has a parameter featur; known: feature, scale"):
        publish(small_book, {"featur": 3})
    assert not (small_book / "_build").exists()


def test_each_chapter_takes_the_parameters_it_knows(small_book, no_pages):
    stage = publish(small_book, {"scale": "tiny", "feature": 3})
    assert printed(stage, "index") == "tiny\n"
    assert printed(stage, "01_first") == "3\n"
    injected = nbformat.read(stage / "book" / "01_first.ipynb", as_version=4).cells[2]
    assert injected.metadata.tags == ["injected-parameters", "hide-input"]


def test_a_value_that_is_the_default_leaves_the_chapter_as_written(small_book):
    notebooks = pages(small_book)
    chosen = room._parameters_of_each(notebooks, {"scale": "embedded", "feature": 8})
    assert chosen == {notebooks[0]: {}, notebooks[1]: {"feature": 8}}


def test_a_chapter_that_asks_is_told_how_long_the_others_took(small_book, no_pages):
    chapter(
        small_book / "book" / "01_first.ipynb", "print(sorted(seconds), seconds['index'] > 0)", seconds={}
    )
    told = printed(publish(small_book), "01_first")
    assert told == "['index'] True\n"
    assert printed(publish(small_book), "01_first") == told  # from the cache too, without running again


# ------------------------------------------------------------------------------ the cache
def unchanged(capsys):
    """How many chapters the last call found unchanged."""
    line = next(line for line in capsys.readouterr().out.splitlines() if "chapters" in line)
    return int(line.split(",")[1].split()[0])


def test_nothing_changed_runs_nothing(small_book, no_pages, capsys):
    publish(small_book)
    assert unchanged(capsys) == 0
    publish(small_book)
    assert unchanged(capsys) == 2


def key(root, parameters=None):
    path = root / "book" / "01_first.ipynb"
    return room._key(path, known_parameters(path) | (parameters or {}), room._surroundings(root))


def edit(path, change):
    notebook = nbformat.read(path, as_version=4)
    change(notebook.cells)
    nbformat.write(notebook, path)


@pytest.fixture
def small_package(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("package")
    (folder / "model.py").write_text("a = 1")
    (folder / "weights").mkdir()
    (folder / "weights" / "net.safetensors").write_bytes(b"1")
    monkeypatch.setattr(room, "PACKAGE", folder)
    return folder


def test_whatever_a_chapter_depends_on_changes_its_key(small_book, small_package, monkeypatch):
    seen = [key(small_book)]

    def differs(parameters=None):
        seen.append(key(small_book, parameters))
        return len(set(seen)) == len(seen)

    assert key(small_book) == seen[0]
    path = small_book / "book" / "01_first.ipynb"
    edit(path, lambda cells: cells[2].update(source="print(1)"))
    assert differs(), "cells"
    edit(path, lambda cells: cells[2].metadata.update(tags=["hide-cell"]))
    assert differs(), "tags"
    assert differs({"feature": 9}), "parameters"
    (small_package / "model.py").write_text("a = 2")
    assert differs(), "package"
    (small_package / "weights" / "net.safetensors").write_bytes(b"2")
    assert differs(), "weights"
    (small_book / "requirements.lock").write_text("one==2\n")
    assert differs(), "lock"
    (small_book / "book" / "results").mkdir()
    (small_book / "book" / "results" / "table1.json").write_text("{}")
    assert differs(), "stored results"
    monkeypatch.setattr(room, "_versions", lambda: "another torch")
    assert differs(), "installed versions"


def test_a_changed_data_set_changes_the_key_of_the_scale_that_reads_it(small_book, tmp_path, monkeypatch):
    monkeypatch.setenv("ZFCORE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    before = key(small_book), key(small_book, {"scale": "tiny"})
    (tmp_path / "data" / "picture.jpg").write_bytes(b"1")
    after = key(small_book), key(small_book, {"scale": "tiny"})
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_with_a_folder_to_fill_chapters_always_run(small_book, no_pages):
    chapter(small_book / "book" / "index.ipynb", "open(out + '/kept', 'w').close()", out=None)
    (small_book / "_toc.yml").write_text("{format: jb-book, root: book/index}")
    (small_book / "results").mkdir()
    for _ in range(2):
        publish(small_book, out=small_book / "results")
        (small_book / "results" / "kept").unlink()


# ------------------------------------------------------------------------------ failures
def execute(root, **parameters):
    target = root / "_build" / "executed" / "01_first" / "key.ipynb"
    return room._execute(root / "book" / "01_first.ipynb", parameters, target)


@pytest.mark.parametrize("parameters", [{}, {"feature": 3}], ids=["as written", "with a cell injected"])
def test_a_failing_chapter_is_told_with_its_cell(small_book, parameters):
    chapter(small_book / "book" / "01_first.ipynb", "print('so far')", "value = feature / 0", feature=7)
    run = execute(small_book, **parameters)
    assert run.failure.startswith("01_first, cell 4 (In [")
    assert "ZeroDivisionError: division by zero" in run.failure
    assert "    value = feature / 0" in run.failure
    assert run.notebook == small_book / "_build" / "failed" / "01_first.ipynb"
    assert str(run.notebook) in run.failure
    assert "so far" in run.notebook.read_text()


def test_a_kernel_that_dies_is_a_failure_of_its_chapter(small_book):
    chapter(small_book / "book" / "01_first.ipynb", "import os; os._exit(1)")
    assert execute(small_book).failure.startswith("01_first: DeadKernelError")


def test_every_failing_chapter_is_told_and_the_shell_sees_it(small_book, monkeypatch):
    for name in ("index", "01_first"):
        chapter(small_book / "book" / f"{name}.ipynb", "raise RuntimeError('no')", device="cpu", seed=0)
    monkeypatch.chdir(small_book)
    result = CliRunner().invoke(app, ["book"])
    assert result.exit_code == 1
    assert "index, cell 3" in result.output
    assert "01_first, cell 3" in result.output
    assert not (small_book / "_build" / "stage").exists()


# ------------------------------------------------------------------------------ staging
def test_a_progress_bar_leaves_nothing():
    bar = (
        "reading:   0%|          | 0/5 [00:00<?, ?it/s]\rreading: 100%|##########| 5/5 [00:00<00:00, 9it/s]\n"
    )
    open_ended = "3it [00:01,  2.91it/s]\r                  \r"
    cell = new_code_cell("", outputs=[new_output("stream", name="stderr", text=bar + open_ended)])
    assert clean(new_notebook(cells=[cell]), "x").cells[0].outputs == []


def test_a_warning_beside_a_progress_bar_stays():
    text = "UserWarning: look\n 40%|####      | 2/5 [00:00<?, ?it/s]\n"
    cell = new_code_cell("", outputs=[new_output("stream", name="stderr", text=text)])
    assert clean(new_notebook(cells=[cell]), "x").cells[0].outputs[0].text == "UserWarning: look"


def test_a_printed_percentage_is_no_progress_bar():
    cell = new_code_cell("", outputs=[new_output("stream", name="stdout", text="100%| of it |")])
    assert clean(new_notebook(cells=[cell]), "x").cells[0].outputs[0].text == "100%| of it |"


def widget(**data):
    return new_output("display_data", data={room.WIDGET: {"model_id": "0"}, **data})


def test_an_explorer_keeps_its_page_form_only():
    cell = new_code_cell("", outputs=[widget(**{"text/html": "<b>twin</b>"})])
    notebook = new_notebook(cells=[cell], metadata={"widgets": {}, "papermill": {}})
    assert dict(clean(notebook, "x").cells[0].outputs[0].data) == {"text/html": "<b>twin</b>"}
    assert not notebook.metadata


def test_an_explorer_without_a_page_form_is_refused_by_name():
    cells = [new_markdown_cell("# x"), new_code_cell("", outputs=[widget(**{"text/plain": "VBox()"})])]
    with pytest.raises(BookError, match="02_approach, cell 2: this widget has no text/html form"):
        clean(new_notebook(cells=cells), "02_approach")


# ------------------------------------------------------------------------------ pages
def test_the_pages_are_built_once_and_stand_alone(small_book, capsys):
    (small_book / ".venv").mkdir()
    (small_book / ".venv" / "notes.md").write_text("not a page")
    index = publish(small_book)
    assert index == small_book / "_build" / "html" / "index.html"
    assert "url=book/index.html" in index.read_text()
    page = (index.parent / "book" / "index.html").read_text()
    assert "<b>twin</b>" in page
    assert (index.parent / "_static" / "mathjax" / "startup.js").exists()
    assert not list(index.parent.rglob("notes*"))
    made = os.stat(index).st_mtime_ns
    publish(small_book)
    assert os.stat(index).st_mtime_ns == made
    assert "pages unchanged" in capsys.readouterr().out
    # Pages that someone else wrote over ours are not ours.
    (index.parent / "searchindex.js").write_text("")
    publish(small_book)
    assert os.stat(index).st_mtime_ns != made
    made = os.stat(index).st_mtime_ns
    # A warning of Sphinx fails the build and leaves the pages as they were.
    (small_book / "book" / "index.ipynb").unlink()
    (small_book / "book" / "index.md").write_text("# T\n\n[gone](gone.md)")
    with pytest.raises(BookError, match=r"(?s)Jupyter Book refuses.*gone"):
        publish(small_book)
    assert os.stat(index).st_mtime_ns == made


def test_a_key_is_a_plain_file_name(small_book):
    assert json.dumps(key(small_book)).strip('"').isalnum()


# ------------------------------------------------------------------------------ the book itself
@pytest.mark.slow
def test_two_cold_builds_give_the_same_figures_and_numbers(tmp_path, pytestconfig, monkeypatch):
    root, out = tmp_path / "book", tmp_path / "out"  # the same folders both times: pages name them
    made = []
    for build in ("first", "second"):
        for name in ("book", "_config.yml", "_toc.yml", "requirements.lock"):
            copy = shutil.copytree if (pytestconfig.rootpath / name).is_dir() else shutil.copy
            (root / name).parent.mkdir(exist_ok=True)
            copy(pytestconfig.rootpath / name, root / name)
        monkeypatch.setenv("ZFCORE_CACHE", str(tmp_path / "cache" / build))
        publish(root, {"scale": "embedded"}, out=out)
        chapters = root / "_build" / "stage" / "book"  # as executed
        files = [path for folder in (chapters, out) for path in folder.rglob("*") if path.is_file()]
        made.append({path.relative_to(tmp_path): path.read_bytes() for path in files})
        shutil.rmtree(root)
        shutil.rmtree(out)
    first, second = made
    assert set(first) == set(second)
    assert sum(path.suffix in (".svg", ".png") for path in first) > 30
    # the colophon is there to say how long things took
    assert [path for path in first if first[path] != second[path]] == [
        path for path in first if path.name == "colophon.ipynb"
    ]
