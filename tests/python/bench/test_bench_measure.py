"""How `trajmill.bench` measures: turns, medians, disturbances, records, comparisons; with a clock of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from trajmill.bench import machine, measure, run
from trajmill.bench.compare import compare
from trajmill.bench.group import Group, Options
from trajmill.bench.measure import Contender, Spread, calling, in_turns
from trajmill.bench.record import FORMAT, Missing, Rate, Result, keep, read


class Clock:
    """Passes when somebody works, and only then."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """A call that takes these times, one after another, the last one for ever."""
        left = list(seconds)

        def work() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure, "perf_counter", clock)
    monkeypatch.setattr(run, "perf_counter", clock)
    return clock


def rate(**changes: object) -> Rate:
    known = {"group": "chains", "role": "ours", "name": "trajmill", "unit": "G tokens/s", "blocks": 9}
    return Rate(**(known | {"value": 2.0, "low": 1.9, "high": 2.1} | changes))  # type: ignore[arg-type]


def result(*rows: Rate, **changes: object) -> Result:
    known: dict[str, object] = {
        "subject": "sampler",
        "options": {"threads": 1, "folder": "."},
        "seconds": 3.0,
        "busy": False,
        "warnings": [],
        "missing": [Missing(group="chains", peer="numba", reason="not installed: pip install numba")],
        "environment": {
            "machine": {"cpu": "a", "simd": "avx2", "cores": 2},
            "versions": {"numpy": "2.0"},
            "commit": "1",
            "command": "trajmill bench sampler",
        },
    }
    return Result(**(known | {"rows": list(rows)} | changes))  # type: ignore[arg-type]


def test_median_and_quartiles() -> None:
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    assert Spread.of([9.0, 1.0, 3.0, 2.0, 100.0]) == Spread(3.0, 2.0, 9.0)


def test_blocks_have_as_many_calls_as_fit(clock: Clock) -> None:
    quick, slow = Contender(calling(clock.work(0.001)), amount=7.0), Contender(calling(clock.work(3.0)), amount=1.0)
    for contender in (quick, slow):
        contender.calibrate(0.05)
        contender.block()
    assert (quick.calls, slow.calls) == (50, 1)
    assert quick.rate().value == pytest.approx(7000) and slow.rate().value == pytest.approx(1 / 3)


def test_calls_come_in_multiples_of_the_period(clock: Clock) -> None:
    counts: list[int] = []
    contender = Contender(lambda count: (counts.append(count), clock.work(0.001 * count)()), period=8)
    contender.calibrate(0.05)
    assert contender.calls == 48 and all(count % 8 == 0 for count in counts)


def test_what_comes_before_a_block_does_not_count(clock: Clock) -> None:
    contender = Contender(calling(clock.work(0.01)), before=clock.work(5.0))
    contender.calibrate(0.02)
    contender.block()
    assert contender.rate().value == pytest.approx(100)


def test_contenders_take_turns_until_the_time_is_over(clock: Clock) -> None:
    order: list[str] = []

    def noting(name: str) -> Contender:
        work = clock.work(0.02)
        return Contender(calling(lambda: (order.append(name), work())), name=name)

    contenders = [noting("a"), noting("b")]
    began = clock.now
    in_turns(contenders, 4.0)
    assert 3.5 < clock.now - began <= 4.0
    blocks = "".join(order)
    a, b = (contender.calls for contender in contenders)
    assert blocks.endswith(("a" * a + "b" * b) * 5), "blocks of one must not follow each other"
    assert len(contenders[0].seconds) == len(contenders[1].seconds) > measure.ROUNDS


def test_slow_calls_are_made_three_times_whatever_the_time(clock: Clock) -> None:
    contender = Contender(calling(clock.work(60.0)))
    in_turns([contender], 1.0)
    assert len(contender.seconds) == measure.LEAST_ROUNDS == 3


def test_a_slow_phase_hits_all_and_the_median_ignores_it(clock: Clock) -> None:
    """Both are ten times as slow for a while; neither the rates nor their ratio show it."""
    began = clock.now

    def work(seconds: float) -> Callable[[], None]:
        def work() -> None:
            clock.now += seconds * (10 if 1.0 < clock.now - began < 2.5 else 1)

        return work

    contenders = [Contender(calling(work(0.01))), Contender(calling(work(0.02)))]
    in_turns(contenders, 10.0)
    assert [each.rate().value for each in contenders] == pytest.approx([100, 50])


def tiny_group(clock: Clock, *, ours: tuple[float, ...] = (0.01,)) -> Group:
    group = Group("things", "k things/s", 1e-3)
    group.ours("trajmill", clock.work(*ours), 100, limits=("memory", "words"))
    group.peer("slow", lambda: clock.work(0.1), 100)
    group.peer("quick", lambda: clock.work(0.02), 100)
    group.peer("absent", lambda: clock.work(0.1), 100, needs=("no-such-package",))
    group.peer("broken", lambda: 1 / 0, 100)  # type: ignore[arg-type, return-value]
    group.limit("memory", clock.work(0.005), 100)
    group.limit("words", clock.work(0.008), 100)
    return group


def test_a_group_beside_its_fastest_peer_and_its_lowest_limit(clock: Clock) -> None:
    group = tiny_group(clock)
    in_turns([entry.contender for entry in group.entries], 3.0)
    rows = {each.name: each for each in group.rates()}
    assert [each.role for each in rows.values()] == ["ours", "peer", "peer", "limit", "limit"]
    ours = rows["trajmill"]
    assert (ours.value, ours.unit) == (pytest.approx(10.0), "k things/s")
    assert (ours.against, ours.ratio) == ("quick", pytest.approx(2.0))
    assert (ours.limit, ours.limit_value, ours.limit_share) == ("words", pytest.approx(12.5), pytest.approx(0.8))
    assert rows["slow"].ratio is None and rows["memory"].limit is None
    reasons = {each.peer: each.reason for each in group.missing}
    assert reasons["absent"] == "not installed: pip install no-such-package"
    assert "ZeroDivisionError" in reasons["broken"] and set(reasons) == {"absent", "broken"}


# --- disturbances ---


def still(monkeypatch: pytest.MonkeyPatch, *loads: machine.Load) -> None:
    """Let the machine look so, one moment after another."""
    moments = iter(loads)
    monkeypatch.setattr(run.Load, "now", lambda: next(moments))


QUIET = machine.Load(seconds=0.0, own=0.0, busy=0.0, stolen=0.0, cores=2, hertz=(3e9, 3e9))


def measured(clock: Clock, **options: tuple[float, ...]) -> Result:
    def build(_: Options, stack: ExitStack) -> Group:
        return tiny_group(clock, **options)

    return run.measured("things", [build], Options(threads=1), 3.0)


def test_a_quiet_machine_gives_no_warning(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, QUIET, replace(QUIET, seconds=10.0, own=10.0, busy=10.5))
    found = measured(clock)
    assert not found.busy and found.warnings == [] and 2.5 < found.seconds <= 3.0


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"own": 5.0, "busy": 15.0}, "other processes used 1.0 of 2 cores"),
        ({"own": 10.0, "busy": 10.0, "stolen": 1.0}, "gave 5% of this machine's time to others"),
    ],
)
def test_a_busy_machine_gives_a_warning(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, after: dict[str, float], words: str
) -> None:
    still(monkeypatch, QUIET, replace(QUIET, seconds=10.0, **after))  # type: ignore[arg-type]
    found = measured(clock)
    assert found.busy and len(found.warnings) == 1 and words in found.warnings[0]
    assert found.to_json()["busy"] is True


def test_rates_that_scatter_give_a_warning(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, QUIET, QUIET)
    times = [0.1, 0.05] * 500
    found = measured(clock, ours=(0.1, *times))
    assert found.busy and "1 of 1 rates of trajmill scatter, most of all 'trajmill' (things)" in found.warnings[0]


def test_a_rate_above_its_limit_gives_a_warning(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    still(monkeypatch, QUIET, QUIET)
    found = measured(clock, ours=(0.004,))
    assert found.busy and found.warnings == ["'trajmill' (things) is at 200% of words, so one of both was disturbed"]


def test_a_core_that_changes_its_frequency_is_noticed() -> None:
    slower = replace(QUIET, hertz=(2e9, 2.5e9))
    assert list(machine.clock_complaints([QUIET, slower])) == ["the fastest core ran at 2.5 to 3.0 GHz"]
    assert list(machine.clock_complaints([QUIET, replace(QUIET, hertz=(1e9, 2.9e9))])) == []
    assert list(machine.clock_complaints([replace(QUIET, hertz=())])) == []


def test_the_load_is_read_from_what_linux_shows(tmp_path: Path) -> None:
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("cpu  100 10 50 900 5 3 2 7 0 0\ncpu0 1 1\ncpu1 1 1\nintr 5\n")
    frequency = tmp_path / "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    frequency.parent.mkdir(parents=True)
    frequency.write_text("2400000\n")
    found = machine.Load.now(tmp_path)
    assert (found.busy, found.stolen, found.cores) == (pytest.approx(1.65), pytest.approx(0.07), 2)
    assert found.hertz == (2.4e9,)
    nothing = machine.Load.now(tmp_path / "no such system")
    assert nothing.busy is None and list(nothing.complaints_since(nothing)) == []


# --- records ---


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    before = result(rate(), rate(role="limit", name="Philox"), busy=True, warnings=["busy"])
    keep(tmp_path / "a.json", before.to_json())
    assert read(tmp_path / "a.json") == before
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["format"] == FORMAT and record["machine"]["cpu"] == "a" and record["busy"] is True
    assert set(record["rows"][0]) == {
        *("group", "name", "role", "value", "low", "high", "unit", "blocks"),
        *("against", "ratio", "limit", "limit_value", "limit_share"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file"),
        ("{", "is not valid JSON"),
        ('{"rows": []}', "its format is None"),
        ("[]", "its format is None"),
        (json.dumps({"format": FORMAT, "rows": []}), "is not a whole result"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read(tmp_path / "a.json")
    assert "write one with: trajmill bench SUBJECT --out FILE.json" in str(error.value)


# --- comparisons ---


def test_a_change_beyond_the_spread() -> None:
    before = result(rate(), rate(name="same"), rate(name="gone"))
    after = result(rate(value=4.0, low=3.8, high=4.2), rate(name="same", value=1.95, low=1.85, high=2.0))
    found = compare(before, after)
    faster, same = found.changes
    assert (faster.ratio, faster.exceeds_spread) == (2.0, True)
    assert (faster.low, faster.high) == pytest.approx((3.8 / 2.1, 4.2 / 1.9))
    assert (same.ratio, same.exceeds_spread) == (0.975, False)
    assert found.only_before == ["chains: gone"] and found.only_after == [] and found.differences == []
    slower, _ = compare(after, before).changes
    assert slower.ratio == 0.5 and slower.exceeds_spread


def test_rows_of_another_group_are_not_matched() -> None:
    found = compare(result(rate()), result(rate(group="larger chains")))
    assert found.changes == [] and found.only_after == ["larger chains: trajmill"]


def test_what_else_differs_is_said() -> None:
    before = result(rate())
    environment = dict(before.environment)
    environment |= {"machine": {"cpu": "b", "simd": "avx2", "cores": 2}, "versions": {"numpy": "2.1", "torch": "2.13"}}
    environment |= {"commit": "2"}
    options = {"threads": 4, "folder": "/elsewhere"}
    after = result(rate(), environment=environment, options=options, busy=True, warnings=["others worked"])
    assert compare(before, after).differences == [
        "cpu: a, then b",
        "numpy: 2.0, then 2.1",
        "torch: none, then 2.13",
        "commit: 1, then 2",
        "threads: 1, then 4",
        "the second was measured on a busy machine: others worked",
    ]


def test_results_of_two_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="one subject, got sampler and replay"):
        compare(result(rate()), result(rate(), subject="replay"))
