"""What the tests of pages rest on: what is needed is insisted on, and a broken rule is seen."""

import browser as browsers
import pytest
from browser import Reader, broken_rules, need, written


@pytest.mark.parametrize(
    ("required", "told"),
    [("1", pytest.fail.Exception), ("0", pytest.skip.Exception), ("", pytest.skip.Exception)],
)
def test_what_is_needed_and_not_here_is_told_and_fails_where_it_is_required(monkeypatch, required, told):
    monkeypatch.setenv("ZFCORE_REQUIRE_BROWSER", required)
    assert need("here", "") == "here"
    with pytest.raises(told, match="no axe"):
        need(None, "no axe")


def test_no_page_passes_for_want_of_axe(monkeypatch, tmp_path):
    monkeypatch.setenv("ZFCORE_REQUIRE_BROWSER", "1")
    monkeypatch.setattr(browsers, "AXE", tmp_path / "axe.min.js")
    with pytest.raises(pytest.fail.Exception, match="no axe-core"):
        broken_rules(None)


def test_a_picture_without_words_breaks_a_rule(browser, tmp_path):
    reader = Reader(browser)
    page = reader(written(tmp_path / "silent.html", '<img src="data:,">', scripts=""))
    assert [(impact, rule) for impact, rule, _ in broken_rules(page)] == [("critical", "image-alt")]
    reader.close()
