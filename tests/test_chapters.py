"""What every chapter keeps to, as it stands in git. Each fault is told with its chapter and cell."""

import ast
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from zfcore.publish import known_parameters, pages

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
TEXTS = [*CHAPTERS, *sorted((ROOT / "book").glob("*.md"))]
KNOWN_TAGS = {"parameters", "hide-input", "remove-input", "hide-output", "hide-cell", "full-width", "margin"}
EVERY_CHAPTER_TAKES = {"scale", "device", "seed", "out"}


def read(path):
    """The chapter as a notebook; a Markdown page as one cell."""
    if path.suffix == ".md":
        return nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell(path.read_text(encoding="utf-8"))]
        )
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def code(notebook):
    """(number, cell, syntax tree) of every code cell; the number counts all cells, from 1."""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            yield number, cell, ast.parse(cell.source)


# ------------------------------------------------------------------------------ one chapter
def stored_outputs(notebook):
    for number, cell, _ in code(notebook):
        if cell.outputs or cell.execution_count is not None:
            yield f"cell {number}: has an output or a count; run `nbstripout --keep-id`"


def parameters_cells(notebook):
    tagged = [(number, tree) for number, cell, tree in code(notebook) if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged `parameters`, not one"
        return
    number, tree = tagged[0]
    missing = EVERY_CHAPTER_TAKES - bound_names(tree)
    if missing:
        yield f"cell {number}: the parameters {sorted(missing)} are missing"


def bound_names(tree):
    """Names that a cell binds for the cells after it: not those that live inside a comprehension."""
    loops = [node.target for node in ast.walk(tree) if isinstance(node, ast.comprehension)]
    inside = {id(name) for target in loops for name in ast.walk(target)}
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in inside
    }


def reassigned_parameters(notebook):
    parameters = set()
    for number, cell, tree in code(notebook):
        if "parameters" in tags(cell):
            parameters = bound_names(tree)
        else:
            for name in sorted(parameters & bound_names(tree)):
                yield f"cell {number}: assigns to the parameter {name}, so that papermill's value is lost"


def definitions(notebook):
    for number, _, tree in code(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield f"cell {number}: defines {node.name}; code with a name belongs in zfcore"
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                yield f"cell {number}: gives a lambda a name; code with a name belongs in zfcore"


def unknown_tags(notebook):
    for number, cell in enumerate(notebook.cells, 1):
        for tag in sorted(set(tags(cell)) - KNOWN_TAGS):
            yield f"cell {number}: unknown tag {tag}; known: {', '.join(sorted(KNOWN_TAGS))}"


def figure_of(cell):
    return cell.metadata.get("mystnb", {}).get("figure", {})


def incomplete_figures(notebook):
    for number, cell in enumerate(notebook.cells, 1):
        mystnb = cell.metadata.get("mystnb", {})
        if not mystnb:
            continue
        if not re.fullmatch(r"fig-[a-z0-9-]+", figure_of(cell).get("name", "")):
            yield f"cell {number}: the figure has no name of the form fig-…"
        if len(figure_of(cell).get("caption", "").split()) < 4:
            yield f"cell {number}: the figure has no caption to speak of"
        if len(mystnb.get("image", {}).get("alt", "").split()) < 4:
            yield f"cell {number}: the figure has no alt text to speak of"


def pictures_without_alt(notebook):
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown" and re.search(r"!\[\s*\]\(", cell.source):
            yield f"cell {number}: a picture has no alt text"


CHECKS = [
    stored_outputs,
    parameters_cells,
    reassigned_parameters,
    definitions,
    unknown_tags,
    incomplete_figures,
    pictures_without_alt,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_to_the_rules(path, check):
    faults = [f"{path.stem}, {fault}" for fault in check(read(path))]
    assert not faults, "\n".join(["", *faults])


FAULTY = {
    stored_outputs: [("1 + 1", {}, [nbformat.v4.new_output("stream", text="2")])],
    parameters_cells: [("scale = 'tiny'", {"tags": ["parameters"]}, [])],
    reassigned_parameters: [
        ("seed = 0", {"tags": ["parameters"]}, []),
        ("for seed in range(2): pass", {}, []),
    ],
    definitions: [("def f(): pass", {}, []), ("g = lambda: 0", {}, []), ("class C: pass", {}, [])],
    unknown_tags: [("1", {"tags": ["hide_input"]}, [])],
    incomplete_figures: [
        ("1", {"mystnb": {"figure": {"name": "fig-a", "caption": "A caption of words."}}}, [])
    ],
}


@pytest.mark.parametrize("check", FAULTY, ids=lambda check: check.__name__)
def test_each_rule_can_fail(check):
    cells = [
        nbformat.v4.new_code_cell(source, metadata=metadata, outputs=outputs)
        for source, metadata, outputs in FAULTY[check]
    ]
    assert list(check(nbformat.v4.new_notebook(cells=cells)))


def test_a_comprehension_may_use_the_name_of_a_parameter():
    cells = [
        nbformat.v4.new_code_cell("layer = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("names = [layer for layer in 'ab']"),
    ]
    assert not list(reassigned_parameters(nbformat.v4.new_notebook(cells=cells)))


# ------------------------------------------------------------------------------ all chapters
def test_the_table_of_contents_is_what_lies_on_disk():
    assert sorted(pages(ROOT)) == sorted(TEXTS)


def test_a_figure_has_a_name_of_its_own():
    names = Counter(
        figure_of(cell)["name"] for path in CHAPTERS for cell in read(path).cells if figure_of(cell)
    )
    assert not [name for name, count in names.items() if count > 1]


def test_every_figure_is_referred_to():
    text = "\n".join(cell.source for path in TEXTS for cell in read(path).cells)
    faults = [
        f"{path.stem}, cell {number}: no text refers to {figure_of(cell)['name']}"
        for path in CHAPTERS
        for number, cell in enumerate(read(path).cells, 1)
        if figure_of(cell) and not re.search(rf"`(?:[^`]*<)?{re.escape(figure_of(cell)['name'])}>?`", text)
    ]
    assert not faults, "\n".join(["", *faults])


def test_every_citation_is_in_the_bibliography():
    entries = re.findall(
        r"^@\w+\{([^,\s]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M
    )
    faults = [
        f"{path.stem}, cell {number}: {key} is not in references.bib"
        for path in TEXTS
        for number, cell in enumerate(read(path).cells, 1)
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", cell.source)
        for key in (key.strip() for key in keys.split(","))
        if key not in entries
    ]
    assert not faults, "\n".join(["", *faults])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_readme_lists_the_parameters_of_a_chapter(path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in known_parameters(path) if f"`{name}`" not in readme]
