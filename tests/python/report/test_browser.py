"""What a reader sees: pages in headless Chromium, narrow and wide, light, dark and printed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PROGRAM, Browser, browser, ink_share, page_count
from fabricate import fabricate_run

from trajmill.evaluation.statistics import Interval
from trajmill.report import Rate, Section, rates_section, write_report
from trajmill.report.comparison import Comparison, Entry
from trajmill.report.figures import PALETTE

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (Debian: apt install chromium)")
WIDTHS = (390, 768, 1280)
VARIANTS = ("from scratch", "MDP & co", "a variant whose name is not short at all")

OVERFLOWING = (
    "[...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth)"
)
"""regions with something to scroll to"""
CONTRASTS = """(() => {
  const parse = text => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return {rgb: found.slice(0, 3), alpha: found.length > 3 ? found[3] : 1};
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    for (let at = element; at; at = at.parentElement) {
      const {rgb, alpha} = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), isDrawn = element instanceof SVGElement;
    const [a, b] = [luminance(parse(isDrawn ? style.fill : style.color).rgb), luminance(ground(element))].sort();
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text]);
  }
  return found;
})()"""
"""contrast of every visible text with what is behind it (WCAG 2)"""
NAMELESS = """[...document.querySelectorAll('svg')].filter(e =>
  e.getAttribute('aria-hidden') !== 'true' && !(e.getAttribute('role') === 'img' && e.getAttribute('aria-label'))
).length"""
UNNAMED_TABLES = """[...document.querySelectorAll('table')].filter(e =>
  !e.caption || !e.caption.textContent.trim() || !e.querySelector('th[scope=col]')
  || [...e.querySelectorAll('th')].some(head => !head.scope)
  || [...e.tBodies].some(body => [...body.rows].some(row => !row.querySelector('th')))
).length"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a page can have, and a table of six variants as wide as the paper's widest."""
    folder = tmp_path_factory.mktemp("page")
    runs = [
        fabricate_run(folder / f"{variant} {dataset}", variant=variant, dataset=dataset, level=40 + 9 * number)
        for number, variant in enumerate(VARIANTS)
        for dataset in ("hopper-sac-replay-10k", "halfcheetah-sac-replay-10k")
    ]
    start = fabricate_run(folder / "start", kind="forward_dynamics", variant="pre-training", dataset=None)
    entry = Entry(printed=49.5, printed_deviation=9.9, ours=Interval(estimate=81.2, low=79.1, high=83.4), seed_count=20)
    columns = tuple(f"S={10**power:,}" for power in range(6))
    rows = {f"halfcheetah-medium-expert-v{number}": (entry,) * 6 for number in range(14)}
    wide = Section(name="wide", title="Wide", comparison=Comparison(columns=columns, rows=rows), leading=True)
    rates = [
        Rate(label="ours", value=2.0, text="2.0", ours=True),
        Rate(label="NumPy", value=1.0, text="1.0", ours=False),
    ]
    return write_report(
        [*runs, start],
        folder / "page.html",
        title="A page",
        extra_sections=[wide, rates_section("mill", "Mill", [rates])],
    )


@pytest.fixture
def shown(chromium: Browser, page: Path) -> Browser:
    chromium.open_file(page)
    return chromium


def test_the_page_asks_for_nothing_and_says_nothing(shown: Browser, page: Path) -> None:
    for width in WIDTHS:
        shown.show(width)
    assert shown.requests == [page.as_uri()]
    assert shown.messages == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_what_scrolls_says_so(shown: Browser, width: int) -> None:
    shown.show(width)
    shown.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    shown.show(width)
    assert shown.run("document.scrollingElement.scrollWidth") <= width
    assert shown.run(
        "[...document.querySelectorAll('figure > svg')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    for state, regions in (("block", OVERFLOWING), ("none", OVERFLOWING.replace(" > e", " <= e"))):
        hints = f"{regions}.map(e => getComputedStyle(e.querySelector('.hint')).display)"
        assert set(shown.run(hints)) <= {state}, "a hint is there if and only if there is something to scroll to"
    if width == WIDTHS[-1]:
        assert shown.run(f"{OVERFLOWING}.length") == 0, "all of a table with six variants is seen"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDTHS[0], WIDTHS[-1]])
def test_every_figure_shows_something(shown: Browser, scheme: str, width: int) -> None:
    shown.show(width, scheme)
    pixels = shown.picture()
    boxes = shown.run(
        "[...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())"
        ".map(r => [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY].map(Math.round))"
    )
    seen = [(left, top, right, bottom) for left, top, right, bottom in boxes if left >= 0 and right <= width]
    assert len(seen) > 20
    for left, top, right, bottom in seen:
        assert ink_share(pixels[top:bottom, left:right]) > 0.005, (left, top, right, bottom)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(shown: Browser, scheme: str) -> None:
    shown.show(1280, scheme)
    found = shown.run(CONTRASTS)
    assert len(found) > 300
    assert [text for contrast, text in found if contrast < 4.5] == []


def test_lines_stand_out_from_a_white_page() -> None:
    for color in PALETTE:
        channels = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3.0, color


def test_print_is_short_and_whole(shown: Browser) -> None:
    assert 1 <= page_count(shown.printed()) < 8
    shown.show(703, "light", "print")  # what A4 has between its margins
    wide = "[...document.querySelectorAll('table, figure > svg')].filter(e => e.checkVisibility())"
    assert shown.run(f"{wide}.every(e => e.getBoundingClientRect().right <= innerWidth + 1)")


def test_a_screen_reader_finds_its_way(shown: Browser) -> None:
    assert shown.run("document.documentElement.lang") == "en" and shown.run("document.title") == "A page"
    levels = shown.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(next_level <= level + 1 for level, next_level in pairwise(levels))
    assert shown.run("document.querySelectorAll('main').length") == 1
    assert shown.run(NAMELESS) == 0
    assert shown.run(UNNAMED_TABLES) == 0
    tree: list[dict[str, Any]] = shown.call("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in tree if not node["ignored"]]
    assert roles.count("image") == shown.run("[...document.querySelectorAll('svg[role=img]')].length")
    named = {"image", "region", "heading", "table"}
    unnamed = [
        node for node in tree if not node["ignored"] and node["role"]["value"] in named and not node["name"]["value"]
    ]
    assert unnamed == []


def test_the_keyboard_reaches_what_scrolls_and_what_opens(shown: Browser) -> None:
    shown.show(WIDTHS[0])
    wanted = shown.run("[...document.querySelectorAll('.scroll, summary')].filter(e => e.checkVisibility()).length")
    reached = []
    for _ in range(wanted):
        shown.press_tab()
        reached.append(
            shown.run(
                "[document.activeElement.className || document.activeElement.tagName,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    assert {kind for kind, _ in reached} == {"scroll", "SUMMARY"}
    assert shown.run("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)"), "in any browser"
    assert {outline for _, outline in reached} == {"solid"}, "the focus is seen"
    assert shown.run(
        "document.activeElement === [...document.querySelectorAll('.scroll, summary')]"
        ".filter(e => e.checkVisibility()).at(-1)"
    ), "one stop each, in the order of the page"


@pytest.mark.skipif(
    find_spec("axe_playwright_python") is None,
    reason="needs axe-core: pip install --no-deps axe-playwright-python, of which only its axe.min.js is used",
)
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_axe_finds_nothing(shown: Browser, width: int, scheme: str) -> None:
    spec = find_spec("axe_playwright_python")
    assert spec is not None and spec.origin is not None
    shown.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    shown.show(width, scheme)
    shown.run(Path(spec.origin).with_name("axe.min.js").read_text(encoding="utf-8") + "; 0")
    found = shown.run(
        "axe.run().then(({violations, passes}) => [passes.length,"
        " violations.map(rule => [rule.id, rule.help, rule.nodes.slice(0, 3).map(node => node.html.slice(0, 200))])])"
    )
    assert found[0] > 20 and found[1] == []
