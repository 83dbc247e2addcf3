"""What is made of other things is as those are now: pictures, tables, navigation. `make docs` builds the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the package is tested without its documentation")
sys.path.insert(0, str(ROOT / "tools"))


def test_results_are_those_of_the_records() -> None:
    """Otherwise run ``python tools/results_page.py``."""
    import results_page

    for page in results_page.PAGES:
        text = page.read_text(encoding="utf-8")
        assert results_page.filled(text) == text
        assert any(f"<!-- {name} -->\n" in text for name in results_page.FILLINGS)
        assert results_page.filled(text.replace(" x ", " y ")) == text


def test_the_picture_shows_the_imports() -> None:
    """Otherwise run ``python tools/architecture.py``."""
    import architecture

    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture()
    needs = architecture.imports()
    drawn = architecture.arrows(needs)
    assert ("core", "_core") in drawn and ("cli", "core") not in drawn
    for name, others in needs.items():  # every import is an arrow, or a way of several
        reached, todo = set(), [name]
        while todo:
            new = {other for start, other in drawn if start in todo} - reached
            reached |= new
            todo = list(new)
        assert others <= reached, name


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages == {page for page in listed if not page.startswith("source/")}


def test_a_page_that_asks_another_server_is_noticed() -> None:
    import check

    for asks in (
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href=//fonts.example/css>",
        "@import url(https://fonts.example/css)",
        '<img alt="x" src="http://images.example/x.png">',
    ):
        assert check.ASKS.search(asks), asks
    assert not check.ASKS.search('<a href="https://example.org">a link</a> <script src="assets/x.js"></script>')
