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


def values_not_shown(notebook):
    for number, _, tree in code(notebook):
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and node not in tree.body[-1:]:
                called = re.match(r"book\.(table|say)\(", ast.unparse(node))
                if called:
                    yield f"cell {number}: {called[0]}…) is not the last line: nobody sees its value"


CHECKS = [
    stored_outputs,
    parameters_cells,
    reassigned_parameters,
    definitions,
    unknown_tags,
    incomplete_figures,
    pictures_without_alt,
    values_not_shown,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_to_the_rules(path, check):
    faults = [f"{path.stem}, {fault}" for fault in check(read(path))]
    assert not faults, "\n".join(["", *faults])


def cell(source, kind="code", **metadata):
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[kind]
    return make(source, metadata=metadata)


def counted(source):
    return nbformat.v4.new_code_cell(source, execution_count=1)


def put_out(source):
    return nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", text="2")])


PARAMETERS = cell("scale = device = seed = out = None", tags=["parameters"])
WORDS = "four words or more"


def figure(name="fig-a", caption=WORDS, alt=WORDS):
    return cell("1", mystnb={"figure": {"name": name, "caption": caption}, "image": {"alt": alt}})


#: (rule, cells, what it says of them): one fault each.
FAULTY = [
    (stored_outputs, [cell("1"), put_out("1 + 1")], "cell 2: has an output"),
    (stored_outputs, [counted("1")], "cell 1: has an output or a count"),
    (parameters_cells, [cell("1")], "0 cells are tagged `parameters`, not one"),
    (
        parameters_cells, [PARAMETERS, cell("scale = 1", tags=["parameters"])],
        "2 cells are tagged `parameters`, not one",
    ),
    (
        parameters_cells, [cell("scale = seed = 0", tags=["parameters"])],
        "cell 1: the parameters ['device', 'out'] are missing",
    ),
    (reassigned_parameters, [PARAMETERS, cell("seed = 1")], "cell 2: assigns to the parameter seed"),
    (
        reassigned_parameters, [PARAMETERS, cell("for seed in range(2): pass")],
        "cell 2: assigns to the parameter seed",
    ),
    (definitions, [cell("def f(): pass")], "cell 1: defines f"),
    (definitions, [cell("async def f(): pass")], "cell 1: defines f"),
    (definitions, [cell("class C: pass")], "cell 1: defines C"),
    (definitions, [cell("g = lambda: 0")], "cell 1: gives a lambda a name"),
    (unknown_tags, [cell("1", tags=["hide_input", "hide-input"])], "cell 1: unknown tag hide_input"),
    (incomplete_figures, [figure(name="a")], "cell 1: the figure has no name of the form fig-…"),
    (incomplete_figures, [figure(caption="Two words")], "cell 1: the figure has no caption to speak of"),
    (incomplete_figures, [figure(alt="")], "cell 1: the figure has no alt text to speak of"),
    (pictures_without_alt, [cell("See\n\n![ ](x.png)", "markdown")], "cell 1: a picture has no alt text"),
    (values_not_shown, [cell("book.table([], [])\nbook.say('')")], "cell 1: book.table(…) is not the last"),
    (values_not_shown, [cell("if scale:\n    book.say('')")], "cell 1: book.say(…) is not the last line"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "cells", "told"),
    FAULTY,
    ids=[f"{check.__name__} {n}" for n, (check, _, _) in enumerate(FAULTY)],
)
def test_each_rule_tells_each_fault(check, cells, told):
    (fault,) = check(nbformat.v4.new_notebook(cells=cells))
    assert fault.startswith(told)


def test_every_rule_is_seen_to_fail():
    assert {check for check, _, _ in FAULTY} == set(CHECKS)


def test_a_sound_chapter_has_no_fault():
    sound = nbformat.v4.new_notebook(cells=[PARAMETERS, figure(), cell("![words](x.png)", "markdown")])
    assert not [fault for check in CHECKS for fault in check(sound)]


def test_a_comprehension_may_use_the_name_of_a_parameter():
    cells = [
        nbformat.v4.new_code_cell("layer = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("names = [layer for layer in 'ab']"),
    ]
    assert not list(reassigned_parameters(nbformat.v4.new_notebook(cells=cells)))


# ------------------------------------------------------------------------------ all chapters
def shared_names(chapters):
    names = Counter(
        figure_of(cell)["name"] for chapter in chapters.values() for cell in chapter.cells if figure_of(cell)
    )
    for name, count in names.items():
        if count > 1:
            yield f"{count} figures are called {name}"


def unreferred_figures(chapters):
    text = "\n".join(cell.source for chapter in chapters.values() for cell in chapter.cells)
    for stem, chapter in chapters.items():
        for number, cell in enumerate(chapter.cells, 1):
            name = figure_of(cell).get("name")
            if name and not re.search(rf"`(?:[^`]*<)?{re.escape(name)}>?`", text):
                yield f"{stem}, cell {number}: no text refers to {name}"


def unknown_citations(chapters, bibliography):
    entries = re.findall(r"^@\w+\{([^,\s]+),", bibliography, re.M)
    for stem, chapter in chapters.items():
        for number, cell in enumerate(chapter.cells, 1):
            for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", cell.source):
                for key in (key.strip() for key in keys.split(",")):
                    if key not in entries:
                        yield f"{stem}, cell {number}: {key} is not in references.bib"


@pytest.fixture(scope="module")
def texts():
    return {path.stem: read(path) for path in TEXTS}


def test_the_table_of_contents_is_what_lies_on_disk():
    assert sorted(pages(ROOT)) == sorted(TEXTS)


def test_a_figure_has_a_name_of_its_own(texts):
    faults = list(shared_names(texts))
    assert not faults, "\n".join(["", *faults])


def test_every_figure_is_referred_to(texts):
    faults = list(unreferred_figures(texts))
    assert not faults, "\n".join(["", *faults])


def test_every_citation_is_in_the_bibliography(texts):
    faults = list(unknown_citations(texts, (ROOT / "book" / "references.bib").read_text(encoding="utf-8")))
    assert not faults, "\n".join(["", *faults])


def test_the_rules_across_chapters_can_fail():
    cells = {
        "one": [
            figure("fig-a"),
            cell("As {numref}`the picture <fig-a>` shows {cite:t}`known, gone`.", "markdown"),
        ],
        "two": [figure("fig-a"), figure("fig-ab"), cell("Not {numref}`fig-abc`.", "markdown")],
    }
    chapters = {stem: nbformat.v4.new_notebook(cells=some) for stem, some in cells.items()}
    assert list(shared_names(chapters)) == ["2 figures are called fig-a"]
    assert list(unreferred_figures(chapters)) == ["two, cell 2: no text refers to fig-ab"]
    assert list(unknown_citations(chapters, "@article{known,\n}")) == [
        "one, cell 2: gone is not in references.bib"
    ]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_readme_lists_the_parameters_of_a_chapter(path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in known_parameters(path) if f"`{name}`" not in readme]
