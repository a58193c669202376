r"""The claims as a table that readers can filter: by verdict, by section, by words.

Every row is there without scripts; ``web/claims.js`` only hides what was not asked for. On a phone the rows
become cards. Page and Lab show the same.

Source: Zeiler & Fergus, doi:10.1007/978-3-319-10590-1_53.

Example::

    from IPython.display import HTML
    from zfcore.board import claims_html
    from zfcore.claims import read_claims, sections
    HTML(claims_html(read_claims(), sections()))
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from zfcore.assets import WEB
from zfcore.claims import Claim

MARKS = {"reproduced": "✓", "contradicted": "✗", "not testable at this scale": "–", "not run yet": "…"}
COLUMNS = ("The claim", "Verdict", "The paper", "Here")


def claims_html(claims: Sequence[Claim], sections: Mapping[str, str], ending: str | None = None) -> str:
    """The table of the claims, with a filter by verdict, section and words where scripts run.

    Parameters
    ----------
    claims
        As :func:`zfcore.claims.read_claims` gives them.
    sections
        What each section is about, in the order in which they are offered.
    ending
        Of the chapters' files that rows lead to. Default: ``".ipynb"`` in a server's kernel, or ``".html"``.

    Returns
    -------
    str
        A ``<div class="zf-claims">`` with its style and script, once in a page: rows have ids, ``claim-1``.
    """
    if ending is None:
        ending = ".ipynb" if "JPY_SESSION_NAME" in os.environ else ".html"
    counts = Counter(claim.verdict for claim in claims)
    verdicts = "".join(
        f'<label><input type="checkbox" name="verdict" value="{verdict}" checked>{mark} {verdict} '
        f"({counts[verdict]})</label>"
        for verdict, mark in MARKS.items()
    )
    held = {claim.section for claim in claims}
    options = "".join(
        f'<option value="{name}">{escape(f"{name} {about}")}</option>'
        for name, about in sections.items()
        if name in held
    )
    head = "".join(f'<th role="columnheader" scope="col">{column}</th>' for column in COLUMNS)
    rows = "".join(_claim_html(claim, ending) for claim in claims)
    style, work = ((WEB / f"claims.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        f'<div class="zf-claims"><style>{style}</style><form hidden aria-label="Which claims are shown">'
        f"<fieldset><legend>Verdict</legend>{verdicts}</fieldset>"
        f'<label>Section <select name="section"><option value="">all</option>{options}</select></label>'
        '<label>Words <input type="search" name="words"></label><button type="reset">Show all</button>'
        '<p role="status"></p></form>'
        '<table role="table" aria-label="The claims of the paper"><thead role="rowgroup"><tr role="row">'
        f'{head}</tr></thead><tbody role="rowgroup">{rows}</tbody></table><script>{work}</script></div>'
    )


def _claim_html(claim: Claim, ending: str) -> str:
    aside = f'<p class="zf-small zf-aside">The paper disagrees with itself: {escape(claim.aside)}</p>'
    lines = [escape(": ".join(filter(None, (number.label, number.text)))) for number in claim.numbers]
    measured = f"<p>{escape(claim.measure)}</p>" if lines and claim.measure else ""
    listed = f"{measured}<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else ""
    notes = "".join(f'<p class="zf-small">{escape(note)}</p>' for note in claim.notes)
    scale = f'<p class="zf-small">n = {claim.n}; {escape(claim.scale)}</p>' if claim.entries else ""
    command = f"<p><code>{escape(claim.command)}</code></p>" if claim.command else ""
    target = f"{claim.link}{ending}{'#' * bool(claim.anchor)}{claim.anchor}"
    where = f'<a href="{target}">{escape(claim.chapter)}</a>' if claim.link else escape(claim.chapter)
    cells = (
        f'<p><span class="zf-number">{claim.number}</span> <span class="zf-small">{claim.section}</span></p>'
        f"<p>{escape(claim.claim)}</p>{aside if claim.aside else ''}",
        f'<p><span class="zf-verdict"><span aria-hidden="true">{MARKS[claim.verdict]}</span> {claim.verdict}'
        f'</span></p><p class="zf-small">{escape(claim.why)}</p>{command}'
        f"<p>{where}{'' if claim.link else ' (to come)'}</p>",
        escape(claim.paper),
        f'<p class="zf-small">{escape(claim.test)}</p>{listed}{notes}{scale}',
    )
    first, *others = (f"{part}</" for part in cells)
    parts = "".join(
        f'<td role="cell" data-part="{column}">{part}td>'
        for column, part in zip(COLUMNS[1:], others, strict=True)
    )
    return (
        f'<tr role="row" id="claim-{claim.number}" data-verdict="{claim.verdict}" '
        f'data-section="{claim.section}"><th role="rowheader" scope="row">{first}th>{parts}</tr>'
    )
