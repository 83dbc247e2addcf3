"""What people see while they wait."""

from __future__ import annotations

import io

import pytest

from trajmill.core.display import PlainProgress, RichProgress, amount, duration, rate


def test_plain_lines_come_every_five_seconds_and_at_the_end():
    now = 0.0
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now)
    for second in range(13):
        now = float(second)
        progress("train", second * 100, 1200, "updates")
    progress("train", 1200, 1200, "updates")
    assert stream.getvalue().splitlines() == [
        "train: 500 / 1,200 updates  100 updates/s  7.0 s left",
        "train: 1,000 / 1,200 updates  100 updates/s  2.0 s left",
        "train: 1,200 / 1,200 updates  100 updates/s  12 s in all",
    ]


def test_a_slow_beginning_is_forgotten():
    """As of an agent that acts at random before its first update."""
    now = 0.0
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now)
    progress("train", 0, 20_000, "updates")
    for second in range(1000, 1100):
        now = float(second)
        progress("train", (second - 999) * 100, 20_000, "updates")
    assert stream.getvalue().splitlines()[-1] == "train: 9,600 / 20,000 updates  100 updates/s  1 min 44 s left"
    now = 1200.0
    progress("train", 20_000, 20_000, "updates")
    assert stream.getvalue().splitlines()[-1] == "train: 20,000 / 20,000 updates  16.7 updates/s  20 min 00 s in all"


def test_a_resumed_task_does_not_count_what_was_done_before():
    now = 0.0
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now)
    progress("train", 90_000, 100_000, "updates")
    now = 10.0
    progress("train", 91_000, 100_000, "updates")
    assert "100 updates/s" in stream.getvalue()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12_000, "12,000"), (9_999_999, "9,999,999"), (250_000_000, "250 M"), (1e9, "1.00 G")]
)
def test_amount(value, text):
    assert amount(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.14, "3.1 tokens/s"),
        (407.4, "407 tokens/s"),
        (9_999, "9,999 tokens/s"),
        (25_400, "25.4 k tokens/s"),
        (37.2e6, "37.2 M tokens/s"),
        (0.94e9, "0.94 G tokens/s"),
    ],
)
def test_rate(value, text):
    assert rate(value, "tokens") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (48, "48 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_bar_of_a_task_that_begins_again_moves_again(monkeypatch):
    monkeypatch.setattr("trajmill.core.display.REDRAW_SECONDS", 1e-9)
    progress = RichProgress()
    for done in (0, 4, 1):
        progress("train", done, 4, "updates")
    (task,) = progress.tasks
    assert not task.finished
