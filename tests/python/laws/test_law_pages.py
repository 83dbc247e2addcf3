"""docs/laws: a page for every law, as its class says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trajmill import laws

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tools"))

page = pytest.importorskip("law_pages").page


@pytest.mark.parametrize("kind", laws.names())
def test_pages_say_what_the_classes_say(kind: str) -> None:
    """Otherwise run ``python tools/law_pages.py``."""
    assert (ROOT / f"docs/laws/{kind}.md").read_text(encoding="utf-8") == page(kind)


def test_the_overview_links_every_page() -> None:
    overview = (ROOT / "docs/laws.md").read_text(encoding="utf-8")
    assert [kind for kind in laws.names() if f"(laws/{kind}.md)" not in overview] == []
