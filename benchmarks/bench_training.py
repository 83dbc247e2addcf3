"""Updates a second of every method beside its peers, on a CPU or a GPU: ``python benchmarks/bench_training.py``.

What each peer is, and what is measured: docs/performance.md. The record is written after every round of blocks, so that
a run that is stopped keeps what it had.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from record import RESULTS, Row, environment, keep, row
from throughput.contenders import DESCRIPTIONS, build, reason_against, trains_several
from throughput.goals import GOALS, PAPER_RATES, ROOFLINES
from throughput.measure import Contender, ceilings, counted, prepared, trace
from throughput.workload import Workload

from trajmill.algorithms import method_names
from trajmill.bench.measure import in_blocks
from trajmill.bench.training import EPISODES, Eager
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import plain

TOLERANCES = {"fp32": (1e-4, 0.01), "tf32": (2e-2, 0.1), "bf16": (1e-1, 0.3)}
"""of losses on the same weights and batch; of what Adam's first update changes, where the signs of the smallest
gradients count, since all changes are of one size"""
REFERENCES = ("R0", "plain loop")
"""what the others are compared with: the first one that there is"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(Row):
    """A rate of one contender and what it is held against.

    `value` counts the updates of every seed; `low` and `high` are quartiles over the blocks. At the paper's sizes
    `model` is predicted for one H200, and `gb_per_s` counts the bytes of that model.
    """

    method: str
    contender: str
    seeds: int
    precision: str
    low: float
    high: float
    blocks: int
    prepared_seconds: float
    memory_mb: float | None
    model: float | None
    goals: dict[str, float]
    gflop_per_s: float | None
    gb_per_s: float | None


def main() -> None:
    options = arguments()
    try:
        device = ComputeConfig(device=options.device).apply()
    except ValueError as error:
        raise SystemExit(str(error)) from error
    options.seeds = options.seeds or ([1, 5, 20] if device.type == "cuda" else [1])
    size = options.size or ("paper" if device.type == "cuda" else "small")
    out = options.out or RESULTS / f"training_{device.type}.json"
    record: dict[str, Any] = {
        "size": size,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "contenders": DESCRIPTIONS,
        "published": {name: rate for name, rate in PAPER_RATES.items() if name in options.methods},
        **{name: {} for name in ("ceilings", "settings", "counts", "distances", "profile")},
        **{name: [] for name in ("skipped", "failed", "finished", "rows")},
    }
    run, deadline = Run(options, device, size, out, record), perf_counter() + options.budget
    with suppress(AttributeError, OSError, ValueError, KeyError):
        record["ceilings"] = json.loads(options.ceilings_from.read_text())["ceilings"]
    record["ceilings"] = record["ceilings"] or ceilings(device, tiny=size == "tiny")
    run.keep()
    todo = [(name, precision) for precision in options.precision for name in options.methods]
    for place, (name, precision) in enumerate(todo):
        # what is left of the time is shared by what is left to do
        run.measure(name, precision, perf_counter() + (deadline - perf_counter()) / (len(todo) - place))
    print_table([Rate(**one) for one in record["rows"]])
    for name in ("skipped", "failed"):
        for one in record[name] if name == "failed" or options.contenders else ():
            print(f"{name}: {one['contender']}: {one['reason']}")
    print(f"written to {out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--methods", nargs="*", choices=method_names(), default=method_names(), metavar="METHOD")
    parser.add_argument("--contenders", nargs="+", choices=list(DESCRIPTIONS), help="default: all that make sense")
    parser.add_argument("--seeds", nargs="+", type=int, help="how many train together; default 1 5 20, on a CPU 1")
    parser.add_argument("--precision", nargs="+", default=["fp32"], help="fp32 tf32 bf16")
    parser.add_argument("--size", choices=list(EPISODES), help="default: paper on a GPU, small on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each contender")
    parser.add_argument("--block-seconds", type=float, default=2.0)
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds, shared by the methods")
    parser.add_argument("--quick", action="store_true", help="three rounds of short blocks")
    parser.add_argument("--ceilings-from", type=Path, help="record that holds the ceilings; else they are measured")
    parser.add_argument("--profile", type=Path, help="folder for a trace of ours, most seeds of each method")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/training_DEVICE.json")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.block_seconds = 3, 0.25
    return options


@dataclass(slots=True)
class Run:
    """One run of this program."""

    options: argparse.Namespace
    device: torch.device
    size: str
    out: Path
    record: dict[str, Any]

    def keep(self) -> None:
        """Write the record as it is."""
        keep(self.out, self.record | environment())

    def note(self, where: str, contender: str, reason: str) -> None:
        """Write down who was skipped or failed, and why."""
        self.record[where].append({"contender": contender, "reason": reason[:2000]})

    @contextmanager
    def surviving(self, what: str) -> Iterator[None]:
        """An error is written down; the rates are worth having without this part."""
        try:
            yield
        except Exception as error:
            self.note("failed", what, repr(error))

    def measure(self, name: str, precision: str, deadline: float) -> None:
        """All contenders of one method at one precision."""
        key = f"{name} {precision}"
        try:
            ComputeConfig(device=self.device.type, precision=precision).apply()
        except ValueError as error:
            self.note("skipped", key, str(error))
            self.keep()
            return
        print(f"{key}, {self.size} size", flush=True)
        with self.surviving(key):
            workload = Workload(name, self.size)
            self.record["settings"][name] = plain(workload.config)
            with self.surviving(f"{key}, comparison"):
                self._compare(workload, key, precision)
            with self.surviving(f"{key}, counts"):
                state = workload.ours(1, self.device)
                eager, period = Eager(workload.method, state), state.period
                self.record["counts"][key] = counted(lambda: eager.run(period), self.device, updates=period)
            self.keep()
            self._time(workload, key, precision, deadline)
            if self.options.profile is not None:
                with self.surviving(f"{key}, profile"):
                    self._profile(workload, key)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.keep()

    def _compare(self, workload: Workload, key: str, precision: str) -> None:
        """Do the peers compute what ours computes."""
        distance = workload.offered("distance")
        if distance is None:
            return
        self.record["distances"][key] = distances = distance(workload, self.device)
        for what, found in distances.items():
            bound = TOLERANCES[precision]["change" in what]
            if not found <= bound:
                reason = f"{what} is {found:.2g} from ours, more than {bound:.2g}"
                self.note("failed", f"{key}, comparison", reason)

    def _profile(self, workload: Workload, key: str) -> None:
        """A trace of ours."""
        self.options.profile.mkdir(parents=True, exist_ok=True)
        path = self.options.profile / f"trace_{key.replace(' ', '_')}.json"
        seeds = 1 if workload.offered("ONE_SEED") else max(self.options.seeds)
        eager = Eager(workload.method, workload.ours(seeds, self.device))
        self.record["profile"][key] = trace(lambda: eager.run(2), str(path), self.device)

    def _time(self, workload: Workload, key: str, precision: str, deadline: float) -> None:
        """Blocks in turns of all contenders."""
        contenders = self._prepare(workload, key, precision, deadline)
        # calibrating takes about a block and a half
        share = (deadline - perf_counter()) / max(1, len(contenders)) / (self.options.rounds + 1.5)
        before = self.record["rows"]

        def after_round() -> None:
            rates = [asdict(self._rate(workload, precision, contender)) for contender in contenders]
            self.record["rows"] = before + compared(rates)
            self.keep()

        with self.surviving(f"{key}, blocks"):
            in_blocks(
                contenders,
                rounds=self.options.rounds,
                block_seconds=max(0.02, min(self.options.block_seconds, share)),
                after_round=after_round,
                deadline=deadline,
            )
            self.record["finished"].append(key)

    def _prepare(self, workload: Workload, key: str, precision: str, deadline: float) -> list[Contender]:
        """Those that make sense and work; half of the time at most goes into making them ready."""
        ready, began = [], perf_counter()
        for name in self.options.contenders or DESCRIPTIONS:
            for seeds in self.options.seeds if trains_several(name) else [1]:
                label = f"{key}, {name}, {seeds} seed{'s' * (seeds > 1)}"
                reason = reason_against(workload, name, seeds, self.device)
                if reason is None and perf_counter() - began > 0.5 * (deadline - began):
                    reason = "no time left"
                if reason is not None:
                    self.note("skipped", label, reason)
                    continue
                try:
                    ready.append(prepared(partial(build, workload, name, seeds, self.device, precision), self.device))
                    ready[-1].name, ready[-1].amount = name, seeds
                except Exception as error:
                    is_absent = isinstance(error, ModuleNotFoundError) and not name.startswith("ours")
                    self.note("skipped" if is_absent else "failed", label, f"{type(error).__name__}: {error}")
                    gc.collect()
        self.keep()
        return ready

    def _rate(self, workload: Workload, precision: str, contender: Contender) -> Rate:
        spread = contender.rate()
        model = ROOFLINES.get(workload.name) if self.size == "paper" else None
        gflop = self.record["counts"].get(f"{workload.name} {precision}", {}).get("gflop")
        ceiling = self.record["ceilings"].get(f"{precision}_gflop_per_s")
        limit = ("matrix products alone", ceiling / gflop) if gflop and ceiling else None
        name = f"{workload.name} {precision} {contender.name}, S = {contender.seeds}"
        return Rate(
            **asdict(row(name, spread.value, "updates/s", limit=limit)),
            method=workload.name,
            contender=contender.name,
            seeds=contender.seeds,
            precision=precision,
            low=spread.low,
            high=spread.high,
            blocks=len(contender.seconds),
            prepared_seconds=contender.prepared_seconds,
            memory_mb=None if contender.memory_bytes is None else contender.memory_bytes / 1e6,
            model=None if model is None else model.rate(contender.seeds, precision),
            goals={} if model is None else GOALS[workload.name].get(contender.seeds, {}),
            gflop_per_s=gflop and gflop * spread.value,
            gb_per_s=None if model is None else model.bytes(precision) * spread.value / 1e9,
        )


def print_table(rates: Sequence[Rate]) -> None:
    """Each rate with its quartiles, over the paper's style, beside its prediction and its goals."""
    heads = f"{'':<46}{'updates/s':>10} {'quartiles':>17} {'over':>16} {'model':>8} {'GFLOP/s':>8} {'peak':>5}  goals"
    print(heads if rates else "no rates")
    for rate in rates:
        over = f"{rate.ratio:.2f} {rate.against}" if rate.ratio is not None else ""
        model = f"{rate.model:,.0f}" if rate.model is not None else "-"
        done = f"{rate.gflop_per_s:,.0f}" if rate.gflop_per_s is not None else "-"
        share = f"{rate.limit_share:.0%}" if rate.limit_share is not None else "-"
        goals = ", ".join(
            f"{name} {goal:,.0f} {'met' if rate.value >= goal else 'missed'}" for name, goal in rate.goals.items()
        )
        print(
            f"{rate.name:<46}{rate.value:>10,.1f} {rate.low:>8,.1f}-{rate.high:<8,.1f} {over:>16} {model:>8} "
            f"{done:>8} {share:>5}  {goals}"
        )


def compared(rates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rates of one method, each over that of R0, or over that of its plain loop if it has no R0."""
    values = {rate["contender"]: rate["value"] for rate in rates if rate["seeds"] == 1}
    against = next((name for name in REFERENCES if name in values), None)
    if against is None:
        return list(rates)
    return [
        rate | ({"against": against, "ratio": rate["value"] / values[against]} if rate["contender"] != against else {})
        for rate in rates
    ]


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the GPU's memory
    main()
