"""The book's Sphinx extension: its pages stand alone, are light, and can be read aloud.

It puts beside the pages MathJax, which ships inside a wheel, and what the explorers run on, each network
once, exported from its weights; so neither ``zfcore book`` nor a plain ``jupyter-book build .`` asks another
host for anything. It takes from a page what need not come at once, and mends what the theme does amiss.

Example, in ``_config.yml``::

    sphinx:
      config:
        extensions: [myst_nb, jupyter_book, sphinx_book_theme, zfcore.extension]
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent / "web"
EXPLORERS = "zfcore"  # the folder under _static that holds what explorers run on; load.js knows it too
# What the theme leaves without a name, or names otherwise than it looks, and what it becomes.
MENDED = {
    ' aria-label="Toggle hidden content"': "",  # the text says it
    '<summary><span class="toctree-toggle"': '<summary aria-label="sections"><span class="toctree-toggle"',
    'search-button__button pst-js-only" title="Search" aria-label="Search"': (
        'search-button__button pst-js-only" title="Search"'
    ),
    ' data-mode="light" title="Light"': ' data-mode="light"',  # the button that holds the icon has a name
    ' data-mode="dark"  title="Dark"': ' data-mode="dark"',
    ' data-mode="auto"  title="System Settings"': ' data-mode="auto"',
    'role="doc-biblioentry"': 'role="listitem"',  # the other is out of use, and no child of a list
}
# An icon in the theme's script, which has 1.5 MB of them: "name":[width,height,[aliases],"unicode",path],
ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
# The same in its sheet of styles: .fa-name:before, .fa-alias:before { content: "unicode" }
ICON_RULE = re.compile(r'((?:\.fa-[\w-]+::?before,?)+)\{content:"[^"]*"\}')
FA = re.compile(r"\bfa-([a-z0-9-]+)")  # how pages, the theme's script and the sheet name them
# A piece of an asset that a chapter's explorer brought along, as `zfcore.assets.scripts_html` writes it.
PIECE = re.compile(r'<script>(zfcore\.parts\["([^"]+)"\]="[^"]*";\n)</script>\n?')
MATHJAX = re.compile(r'<script defer="defer" src="([^"]*/mathjax/[^"]*)"></script>')


def setup(app: Any) -> dict[str, bool]:
    """Sphinx's hook: bring MathJax and what explorers run on, and mend what the theme does amiss."""
    app.connect("builder-inited", bring_mathjax)
    app.connect("html-page-context", bring_explorers)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def finish(app: Any, failure: Exception | None) -> None:
    """Mend and lighten the pages that were written, and bring beside them the networks they name."""
    if failure is None and app.builder.format == "html":
        html = Path(app.outdir)
        lighten(html, html / "_static" / Path(app.config.mathjax_path).parent)
        bring_networks(html)


def lighten(html: Path, mathjax: Path) -> None:
    """Give what the theme draws the names that it lacks; the test with axe-core says what is amiss. Let
    pictures and MathJax come when the reader comes near, and leave out icons that no page has."""
    scripts, styles = html / "_static" / "scripts", html / "_static" / "styles"
    used = set(FA.findall((scripts / "pydata-sphinx-theme.js").read_text(encoding="utf-8")))
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        used |= set(FA.findall(text))
        for amiss, mended in MENDED.items():
            text = text.replace(amiss, mended)
        text = re.sub(r"<img (?![^>]*\bloading=)", '<img loading="lazy" ', text)
        page.write_text(MATHJAX.sub(_on_approach, text), encoding="utf-8")
    for file, icon in ((scripts / "fontawesome.js", ICON), (styles / "pydata-sphinx-theme.css", ICON_RULE)):
        text = icon.sub(lambda found: _if_used(found, used), file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    shutil.copy(WEB / "approach.js", mathjax)


def _if_used(icon: re.Match[str], used: set[str]) -> str:
    names = FA.findall(icon[0]) or [icon[1]]
    return icon[0] if used.intersection(names) else ""


def _on_approach(script: re.Match[str]) -> str:
    folder = script[1].rpartition("/")[0]
    return f'<script defer src="{folder}/approach.js" data-brings="{script[1]}"></script>'


def bring_mathjax(app: Any) -> None:
    """Copy the parts of MathJax that ``mathjax3_config`` asks for, out of their wheel."""
    # Found without importing it: the package that carries MathJax belongs to Django.
    package = importlib.util.find_spec("mathjax")
    source = Path(next(iter(package.submodule_search_locations))) / "static" / "mathjax" / "es5"
    folder = (Path(app.outdir) / "_static" / app.config.mathjax_path).parent
    for part in ("startup", "core", "output/svg/fonts/tex", *app.config.mathjax3_config["loader"]["load"]):
        target = folder / f"{part}.js"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / f"{part}.js", target)


def bring_explorers(app: Any, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Give a page with explorers their scripts; the others stay as light as they are."""
    if 'class="zf-explorer"' in context.get("body", ""):
        for script in ("assets.js", "explorer.js"):
            app.add_js_file(f"{EXPLORERS}/{script}", loading_method="defer")


def bring_networks(html: Path) -> None:
    """Write once what the explorers of all pages run on: scripts, runtime, and the networks they name.

    What explorers brought along stays from one build to the next, for pages that Sphinx does not write again;
    what no page names any more goes.
    """
    # torch is slow to import, and a book without explorers needs none of it
    from zfcore import assets

    states = [
        state
        for file in sorted(html.rglob("*.html"))
        for state in assets.states(file.read_text(encoding="utf-8"))
    ]
    if not states:
        return
    wanted = {assets.RUNTIME: assets.asset(assets.RUNTIME, assets.runtime_pack())}
    for source in (state["source"] for state in states):
        if source and source["network"] and source["network"] not in wanted:
            wanted[source["network"]] = _network_asset(source)
    galleries = (state.get("gallery") for state in states)
    for source in (gallery["source"] for gallery in galleries if gallery):
        if source:
            packs = assets.stored_gallery(source)
            wanted |= {name: assets.asset(name, packed) for name, packed in packs.items()}
    folder = html / "_static" / EXPLORERS
    folder.mkdir(parents=True, exist_ok=True)
    files = {"assets.js": assets.assets_script(wanted), "explorer.js": assets.script()}
    for pieces in wanted.values():
        files |= pieces
    licence = "runtime-licence.txt"
    files[licence] = (assets.WEB / licence).read_text(encoding="utf-8")
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    named = set(files)
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        named |= assets.listed(text)
        for piece, file in PIECE.findall(text):
            (folder / file).write_text(piece, encoding="utf-8")
        page.write_text(PIECE.sub("", text), encoding="utf-8")
    for file in folder.iterdir():
        if file.name not in named:
            file.unlink()


def _network_asset(source: Mapping[str, Any]) -> dict[str, str]:
    """The network that an explorer names, as scripts named by their content."""
    from zfcore.assets import asset, network_pack
    from zfcore.model import load
    from zfcore.view import Viewer

    name = source["weights"]
    model, card = load(name)
    if card["sha256"] != source["sha256"]:
        raise ValueError(
            f"an explorer was made with weights {name!r} of sha256 {source['sha256'][:12]}, but those here "
            f"have {card['sha256'][:12]}; build the book again"
        )
    packed, _ = network_pack(Viewer(model, card, source["layers"], source["classifier"]))
    return asset(f"{name}-{hashlib.sha256(packed).hexdigest()[:12]}", packed)
