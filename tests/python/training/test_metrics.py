"""The ring of metrics, also of those that only some updates have, and lines of metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from capture_lint import OperationRecorder

from trajmill.core.sealing import unsealed
from trajmill.training.metrics import MetricRing, append_line, metrics_line

CPU = torch.device("cpu")


def test_means_of_the_last_updates() -> None:
    ring = MetricRing.of(["loss", "value"], 2, 3, CPU)
    for step in range(5):
        ring.write(
            torch.tensor(step), {"loss": torch.tensor([step, math.nan]), "value": torch.tensor([0.0, 10.0 * step])}
        )
    means = ring.mean_of_last(2, 5)
    assert means["loss"][0] == 3.0 and math.isnan(means["loss"][1])
    assert means["value"] == [0.0, 30.0]
    for first, end in ((1, 5), (2, 2)):
        with pytest.raises(ValueError, match=f"holds 3 updates, .*{first} to {end}"):
            ring.mean_of_last(first, end)


def delayed(updates: int, capacity: int) -> MetricRing:
    """``loss`` at every update, ``actor`` of two seeds at every third from the second on, ``never`` not at all."""
    ring = MetricRing.of(["loss", "actor", "never"], 2, capacity, CPU)
    for update in range(updates):
        metrics = {"loss": torch.full((2,), float(update))}
        if update % 3 == 2:
            metrics["actor"] = torch.tensor([100.0 + update, -update])
        ring.write(torch.tensor(update), metrics)
    return ring


def test_a_metric_keeps_its_last_value_until_an_update_has_another() -> None:
    """Also around the end of the ring, and over a mean that begins between two values."""
    for capacity in (12, 4):
        ring = delayed(11, capacity)
        assert ring.mean_of_last(10, 11)["actor"] == [108.0, -8.0]
        assert ring.mean_of_last(7, 11)["actor"] == [(105 + 3 * 108) / 4, -(5 + 3 * 8) / 4]
        assert ring.mean_of_last(7, 11)["loss"] == [8.5, 8.5]


def test_a_metric_without_a_value_is_nan_and_no_divergence() -> None:
    ring = delayed(2, 4)
    means = ring.mean_of_last(0, 2)
    assert means["loss"] == [0.5, 0.5]
    assert all(math.isnan(value) for name in ("actor", "never") for value in means[name])
    assert ring.first_not_finite(0, 2) == [None, None]
    later = delayed(4, 4).mean_of_last(0, 4)
    assert later["actor"] == [102.0, -2.0], "the mean of those that have one"
    assert math.isnan(later["never"][0])


def test_the_first_value_that_is_not_finite_is_found_with_its_name() -> None:
    ring = delayed(6, 8)
    ring.write(torch.tensor(6), {"loss": torch.tensor([1.0, math.inf])})
    ring.write(torch.tensor(7), {"loss": torch.tensor([1.0, 2.0]), "actor": torch.tensor([math.nan, 1.0])})
    (first, second) = ring.first_not_finite(0, 8)
    assert first is not None and first[:2] == (7, "actor") and math.isnan(first[2])
    assert second == (6, "loss", math.inf)
    assert ring.first_not_finite(0, 6) == [None, None]
    assert math.isnan(ring.mean_of_last(4, 8)["actor"][0]), "a NaN is not left out of a mean"


def test_writing_needs_no_host() -> None:
    ring = delayed(3, 4)
    with OperationRecorder():
        ring.write(torch.zeros((), dtype=torch.int64), {"loss": torch.zeros(2)})


def test_a_line_is_json_without_nan(tmp_path: Path) -> None:
    line = metrics_line("train", 5, 1.23456, {"loss": [1.5, math.nan, math.inf]})
    append_line(tmp_path / "metrics.jsonl", line)
    append_line(tmp_path / "metrics.jsonl", line)
    lines = [unsealed(json.loads(line)) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {"phase": "train", "update": 5, "wall_seconds": 1.235, "metrics": {"loss": [1.5, None, None]}}
    assert lines == [expected, expected]
