"""The table of claims: whole without scripts, filtered where they run, readable on a phone."""

import re
from dataclasses import replace
from html import escape

import pytest
from browser import Reader, fits_a_phone_and_breaks_no_rule, written

from zfcore.board import MARKS, claims_html
from zfcore.claims import count, read_claims, sections
from zfcore.evidence import VERDICTS
from zfcore.ledger import RESULTS


@pytest.fixture(scope="module")
def claims():
    return read_claims()


@pytest.fixture
def reader(browser):
    reader = Reader(browser)
    yield reader
    reader.close()


@pytest.fixture
def page(reader, claims, tmp_path):
    """The table in a page of its own, as the book's page lies beside its chapters."""
    links = "<style>a {color: inherit}</style>"  # the book's theme colours them for light and dark
    return reader(written(tmp_path / "claims.html", links + claims_html(claims, sections()), scripts=""))


def shown(page):
    rows = page.locator("tbody tr:visible").all()
    return [int(row.get_attribute("id").removeprefix("claim-")) for row in rows]


# ------------------------------------------------------------------------------ as HTML
def test_every_claim_is_a_row_with_its_words_numbers_and_verdict(claims):
    html = claims_html(claims, sections())
    rows = re.findall(r'<tr role="row" id="claim-(\d+)" data-verdict="([^"]+)"(.*?)</tr>', html, re.DOTALL)
    assert [row[:2] for row in rows] == [(str(claim.number), claim.verdict) for claim in claims]
    for claim, (*_, row) in zip(claims, rows, strict=True):
        numbers = [": ".join(filter(None, (n.label, n.text))) for n in claim.numbers]
        words = (claim.claim, claim.paper, claim.test, claim.why, claim.command, *claim.notes, *numbers)
        assert all(escape(each) in row for each in words)
    assert any(claim.notes for claim in claims)
    assert set(MARKS) == set(VERDICTS)


def test_a_row_leads_to_its_chapter_in_the_page_and_in_lab(claims, monkeypatch):
    here = ("04_visualization", "04_2_occlusion")
    for ending in (".html", ".ipynb"):
        if ending == ".ipynb":
            monkeypatch.setenv("JPY_SESSION_NAME", "book/06_discussion.ipynb")
        else:
            monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        links = set(re.findall(r'<a href="([^"#]+)', claims_html(claims, sections())))
        assert {f"{name}{ending}" for name in here} <= links
        assert all(link.endswith(ending) for link in links)
        assert all((RESULTS.parent / link).with_suffix(".ipynb").exists() for link in links)


def test_words_with_signs_of_html_stay_words(claims):
    marked = {
        "claim": "a < b & c",
        "aside": "x > y",
        "command": "zfcore <x>",
        "why": "p & q",
        "notes": ("<z>",),
    }
    html = claims_html([replace(claims[0], **marked)], sections())
    for words in ("a &lt; b &amp; c", "x &gt; y", "zfcore &lt;x&gt;", "p &amp; q", "&lt;z&gt;"):
        assert words in html


# ------------------------------------------------------------------------------ in a browser
def test_a_reader_without_scripts_sees_every_claim(claims, browser, tmp_path):
    file = tmp_path / "table.html"
    file.write_text(claims_html(claims, sections()), encoding="utf-8")
    reader = Reader(browser)
    page = reader(file, java_script_enabled=False)
    assert len(shown(page)) == len(claims)
    assert not page.locator("form").is_visible()
    reader.close()


def test_the_table_is_filtered_by_verdict_section_and_words(page, claims):
    assert page.locator('[role="status"]').text_content() == "35 of 35 claims"
    for verdict in VERDICTS[1:]:
        page.get_by_label(verdict).uncheck()
    assert shown(page) == [claim.number for claim in claims if claim.verdict == VERDICTS[0]]
    assert page.locator('[role="status"]').text_content() == f"{count(claims)[VERDICTS[0]]} of 35 claims"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelector('[role=status]').textContent === '35 of 35 claims'")
    page.get_by_label("Section").select_option("§4.2")
    assert shown(page) == [claim.number for claim in claims if claim.section == "§4.2"]
    page.get_by_label("Words").fill("LABEL goes")
    assert shown(page) == [22]


def test_the_filter_answers_to_the_keyboard_alone(page, claims):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == VERDICTS[0]
    page.keyboard.press("Space")
    assert shown(page) == [claim.number for claim in claims if claim.verdict != VERDICTS[0]]


def test_a_link_to_a_claim_shows_it_whatever_is_filtered(page):
    page.get_by_label("Words").fill("rotation")
    assert 3 not in shown(page)
    page.evaluate("location.hash = '#claim-3'")
    page.wait_for_function("!document.getElementById('claim-3').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table_fits_a_phone_and_breaks_no_rule(page, scheme):
    page.evaluate(
        "scheme => { document.documentElement.dataset.theme = scheme; }", scheme
    )  # as the book does
    fits_a_phone_and_breaks_no_rule(page, scheme)


def test_the_table_keeps_its_roles_as_cards(page):
    page.set_viewport_size({"width": 390, "height": 844})
    roles = page.evaluate("[...document.querySelectorAll('#claim-1 > *')].map(part => part.role)")
    assert roles == ["rowheader", "cell", "cell", "cell"]
