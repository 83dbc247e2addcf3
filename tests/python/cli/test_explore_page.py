"""`trajmill explore` in a browser: every law, at every width, with nothing asked of anyone else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import chromium
import pytest
from chromium import Browser
from serving import serving

from trajmill.cli.explorer import subjects
from trajmill.cli.explorer.server import Server
from trajmill.cli.explorer.worker import Worker

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium (Debian: apt install chromium)")

SHOWN = "document.body?.dataset.shown"
TIMED = "document.body?.dataset.timed"
FAULT = "document.querySelector('[aria-invalid]') !== null"
COLOURS = """
    Array.from(document.querySelectorAll('canvas'), canvas => {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return new Set(new Uint32Array(data.buffer)).size;
    })"""
WITHOUT_LABEL = """
    Array.from(document.querySelectorAll('input, select, textarea')).filter(each =>
      !each.labels.length || each.getAttribute('aria-describedby')?.split(' ').some(id => !document.getElementById(id))
    ).map(each => each.id)"""
WITHOUT_NAME = """
    Array.from(document.querySelectorAll('canvas, svg, [role=region], pre')).filter(each =>
      !each.getAttribute('aria-label') && !each.getAttribute('aria-labelledby')).length"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(worker=Worker(seconds=60))) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def text(browser: Browser, element: str) -> str:
    return str(browser.run(f"document.getElementById('{element}').textContent"))


def fill(browser: Browser, element: str, value: str, event: str = "input") -> None:
    """Set a control, as if a person had."""
    browser.run(
        f"{{ const control = document.getElementById('{element}'); control.value = '{value}';"
        f" control.dispatchEvent(new Event('{event}', {{ bubbles: true }})); }}"
    )


@pytest.mark.parametrize("kind", subjects.subjects())
def test_every_law_is_shown(kind: str, browser: Browser, server: Server) -> None:
    browser.show(1280)
    browser.open(f"{server.address}#kind={kind}")
    browser.wait(TIMED)
    start = next(iter(subjects.subjects()[kind].starts))
    seen = subjects.see({"kind": kind, "start": start})
    assert text(browser, "command") == seen["command"] and text(browser, "python") == seen["python"]
    for number, row in enumerate(seen["rows"]):
        for name, values in row.items():
            lines = f"document.querySelectorAll('#rows table')[{number}].querySelectorAll('tr')"
            cells = f"[...{lines}].find(each => each.firstChild.textContent === '{name}').querySelectorAll('td')"
            assert browser.run(f"Array.from({cells}, each => Number(each.textContent))") == values
    assert " tokens a second" in text(browser, "rate")
    figures = len(seen["pictures"]) + len(seen["predicted"].get("columns", {}))
    colours = browser.run(COLOURS)
    assert len(colours) == figures and all(count > 1 for count in colours)
    assert browser.run("document.querySelectorAll('svg polyline').length") == len(seen["predicted"].get("columns", {}))
    assert browser.run(WITHOUT_LABEL) == [] and browser.run(WITHOUT_NAME) == 0
    for width in (390, 768, 1280):
        browser.show(width)
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, width
    assert browser.messages == []
    asked = browser.requests
    assert len(asked) >= 5 and all(address.startswith(server.address) for address in asked)


def test_a_changed_parameter_changes_page_and_address(browser: Browser, server: Server) -> None:
    browser.open(f"{server.address}#kind=dyck")
    browser.wait(TIMED)
    fill(browser, "field-pairs", "3")
    browser.wait("document.getElementById('command').textContent.includes('--pairs 3')")
    assert "vocabulary 6 tokens" in browser.wait("document.getElementById('status').textContent")
    assert browser.run("location.hash") == "#kind=dyck&.pairs=3"
    fill(browser, "field-pairs", "0")
    browser.wait(FAULT)
    assert text(browser, "field-pairs-error") == "pairs must be between 1 and 32768, got 0"
    assert browser.run("document.activeElement !== null && document.querySelectorAll('[aria-invalid]').length") == 1
    fill(browser, "field-pairs", "4")
    browser.wait("document.getElementById('command').textContent.includes('--pairs 4')")
    assert not browser.run(FAULT) and text(browser, "field-pairs-error") == ""
    fill(browser, "kind", "zipf_tokens", "change")
    browser.wait("document.getElementById('command').textContent.includes('zipf_tokens')")
    assert browser.messages == []


def test_an_address_repeats_a_choice(browser: Browser, server: Server) -> None:
    choice: dict[str, Any] = {"start": "shinnick", "length": "32", "first": "5", "count": "99"}
    said = "&".join(f"{name}={value}" for name, value in choice.items())
    browser.open(f"{server.address}#kind=dyck&{said}&.seed=18446744073709551615&.crossing=true")
    browser.wait(SHOWN)
    fields = {"seed": "18446744073709551615", "crossing": "true"}
    seen = subjects.see({"kind": "dyck", **choice, "fields": fields})
    assert text(browser, "command") == seen["command"]
    assert "Sequence 5" in text(browser, "rows")
    browser.run("location.hash = '#kind=markov&.state_count=7'")
    browser.wait("document.getElementById('command').textContent.includes('--state-count 7')")


def test_hostile_addresses_are_shown_as_text(browser: Browser, server: Server) -> None:
    script = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    browser.open(f"{server.address}#kind=dyck&.types={script}&length={script}&.max_depth={script}")
    browser.wait(FAULT)
    assert "<img src=x" in text(browser, "status")
    assert browser.run("document.images.length") == 0
    browser.open(f"{server.address}#kind={script}&start={script}")
    browser.wait(SHOWN)
    assert browser.messages == []


def test_a_server_that_has_ended_is_told(browser: Browser) -> None:
    with serving(Server(worker=Worker(seconds=60))) as server:
        browser.open(f"{server.address}#kind=dyck")
        browser.wait(TIMED)
    fill(browser, "field-pairs", "5")
    browser.wait("document.getElementById('status').textContent.includes('does not answer')")


def test_dark_and_light_have_enough_contrast(browser: Browser, server: Server) -> None:
    """WCAG's ratio of 4.5 for every text, on the ground that it has."""
    contrast = """
      (() => {
        const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const light = colour => {
          paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
          const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const [r, g, b] = paint.getImageData(0, 0, 1, 1).data;
          return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
        };
        const ground = each => {
          for (; each; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour;
          }
        };
        const found = [];
        for (const each of document.querySelectorAll('p, label, dt, dd, h1, h2, h3, th, td, code, button')) {
          if (!each.textContent.trim() || !each.offsetParent) continue;
          const [one, two] = [light(getComputedStyle(each).color), light(ground(each))].sort((a, b) => b - a);
          if ((one + 0.05) / (two + 0.05) < 4.5) found.push(each.tagName + ' ' + each.textContent.slice(0, 30));
        }
        return found;
      })()"""
    for scheme in ("light", "dark"):
        browser.show(1280, scheme)
        browser.open(f"{server.address}#kind=dyck&.pairs=3")
        browser.wait(TIMED)
        assert browser.run(contrast) == []
        fill(browser, "field-pairs", "0")
        browser.wait(FAULT)
        browser.run("document.getElementById('results').hidden = true")
        assert browser.run(contrast) == []
