"""The page about synthetic transitions."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from small_data import transitions

from trajmill.evaluation.quality import DynamicsQuality, ErrorCurve, Measured, NoiseQuality, Quality, measure_quality
from trajmill.report.quality import SHOWN_COLUMNS, findings_table, write_quality_report


@pytest.fixture(scope="module")
def quality() -> Quality:
    """Made-up rows with one constant column, and made-up numbers of a simulator."""
    real, made = (transitions(300, seed=seed) for seed in (1, 2))
    real.observation[:, 4] = 1.0
    noise = NoiseQuality(
        kind="additive",
        strength=0.1,
        distance=2.0,
        observation_error=3.0,
        reward_error=0.5,
        curve=ErrorCurve(distance=(0.5, 1.0, 2.0, 3.0, 4.0), error=(0.2, 0.7, 3.0, 8.0, 11.0)),
    )
    dynamics = DynamicsQuality(
        environment_id="Hopper-v4",
        row_count=280,
        observation_error=Measured(value=1.5, floor=2e-11),
        observation_error_median=Measured(value=0.5, floor=1e-13),
        reward_error=Measured(value=0.7, floor=1e-12),
        terminal_mismatch=Measured(value=0.25, floor=0.0),
        curve=ErrorCurve(distance=(1.0, 2.0, 3.0), error=(0.5, 1.0, 3.0)),
        noise=noise,
    )
    return replace(measure_quality(real, made), dynamics=dynamics)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.marked: dict[str, dict[str, str | None]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if name := dict(attrs).get("data-test"):
            self.marked[name] = dict(attrs)


def test_the_page_stands_alone_and_shows_everything(quality: Quality, tmp_path: Path) -> None:
    path = write_quality_report(quality, tmp_path / "new" / "quality.html", title="Mine <3")
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    figures = [name for name in page.marked if name.startswith("figure-")]
    columns = [f"figure-quality-column-{number}" for number in range(SHOWN_COLUMNS)]
    others = ["figure-quality-marginals", "figure-quality-distances", "figure-quality-correlations"]
    assert sorted(figures) == sorted([*columns, *others, "figure-quality-dynamics"])
    assert all(page.marked[name]["role"] == "img" and page.marked[name]["aria-label"] for name in figures)
    assert not {"script", "link", "img", "iframe"} & set(page.tags) and "#0101" not in text and "#0202" not in text
    assert not re.search(r"""(src|href)=["'](?!#)|url\((?!#)|@import""", text)
    assert "Mine &lt;3" in text and "1 columns, observation 4." in text and "provenance" not in page.marked
    for cells in findings_table(quality):
        assert all(f">{cell}</t" in text for cell in cells if cell)
    assert write_quality_report(quality, tmp_path / "again.html", title="Mine <3").read_text(encoding="utf-8") == text


def test_the_table_says_value_floor_and_verdict(quality: Quality) -> None:
    rows = {name: cells for name, *cells in findings_table(quality)}
    assert rows["dynamics error"] == ["1.5000", "2e-11", "better than noise at this distance, 3"]
    assert rows["reward error"] == ["0.7000", "1e-12", "no better than noise at this distance, 0.5"]
    assert rows["share of wrong terminals"] == ["0.2500", "0.0000", "much more"]
    assert rows["share out of range, states"][2] == "much more"  # the constant column


def test_without_a_simulator_and_correlations_there_are_fewer_pictures(quality: Quality, tmp_path: Path) -> None:
    less = replace(quality, dynamics=None, correlation=None, correlation_change=())
    page = _Page(write_quality_report(less, tmp_path / "quality.html").read_text(encoding="utf-8"))
    assert {"figure-quality-distances"} <= set(page.marked)
    assert not {"figure-quality-dynamics", "figure-quality-correlations", "quality-dynamics"} & set(page.marked)


def test_the_worst_columns_are_drawn(quality: Quality, tmp_path: Path) -> None:
    text = write_quality_report(quality, tmp_path / "quality.html").read_text(encoding="utf-8")
    losses = [column.marginal.floor - column.marginal.value for column in quality.columns]
    order = np.argsort(losses)[::-1]
    for place, number in enumerate(order[:SHOWN_COLUMNS]):
        assert f'aria-label="Distribution of {quality.columns[number].name} in' in text, place
    assert f'aria-label="Distribution of {quality.columns[order[-1]].name} in' not in text


def test_perfect_copies_can_be_drawn(tmp_path: Path) -> None:
    rows = transitions(60)
    quality = measure_quality(rows, rows)
    still = replace(quality, correlation_change=tuple((0.0,) * 13 for _ in range(13)))
    assert write_quality_report(still, tmp_path / "quality.html").exists()
