"""From a fresh clone to a policy that beats its data: mill synthetic data, learn from real data, score, report.

TD3+BC learns from twenty thousand recorded steps of a Hopper policy that noise keeps from playing well, and is scored
in MuJoCo beside it. How dataset, method and length were chosen is told in docs/demo.md.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import trajmill as tm
from trajmill.core.files import contents, write_whole
from trajmill.core.limits import usable_cores
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import load_dataset, summarize
from trajmill.evaluation.statistics import Interval
from trajmill.report import Rate, Section, rates_section, read_run, score, write_report

if TYPE_CHECKING:
    from trajmill.experiments.settings import DatasetTrainConfig

NUMPY_TOKENS = 20_000_000
"""tokens milled with NumPy: enough to time it, few enough to wait for"""
MARKER = "demo.json"
"""written first and last: it distinguishes our own directory from anyone else's"""
VALUE_WEIGHT = 0.5
"""of TD3+BC; the default of 2.5 falls back to its data after 4,000 updates here (docs/demo.md)"""
EVALUATIONS = 6
START_SECONDS = 15.0
"""what milling, starting processes and writing the report take"""
EVALUATION_UPDATES = 120
"""updates that take as long as an evaluation does"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Sizes of the demonstration; the defaults take about a minute on two idle cores."""

    dataset: str = "hopper-ars-noisy-20k"
    """a bundled dataset or a D4RL file"""
    seeds: tuple[int, ...] = (0, 1, 2)
    token_count: int = 1_000_000_000
    """Markov-chain tokens to mill, in sequences of 1,000; a multiple of 1,000"""
    transition_count: int = 1_000_000
    """MDP transitions to mill, in trajectories of 1,000; a multiple of 1,000"""
    updates: int = 3_000
    """updates of every seed, at least 6; fewer where they would take more than `seconds`"""
    seconds: float = 240.0
    """about how long the demonstration may take, > 15"""
    evaluation_episode_count: int = 10
    """MuJoCo episodes per evaluation and seed, at least 1"""

    def __post_init__(self) -> None:
        for name in ("token_count", "transition_count"):
            if getattr(self, name) < 1000 or getattr(self, name) % 1000:
                raise ValueError(f"{name} must be a multiple of 1,000, at least 1,000, got {getattr(self, name)}")
        for name, least in (("updates", EVALUATIONS), ("evaluation_episode_count", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.seconds > START_SECONDS:
            raise ValueError(f"seconds must be more than {START_SECONDS:.0f}, got {self.seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What the demonstration is about to do."""

    updates: int
    wanted_updates: int
    seconds: float
    """expected for all of it"""

    @classmethod
    def of(cls, config: DemoConfig, update_seconds: float) -> DemoPlan:
        """As many of the wanted updates as fit into the time, if an update of all seeds takes `update_seconds`."""
        scoring = EVALUATIONS * EVALUATION_UPDATES
        affordable = int((config.seconds - START_SECONDS) / update_seconds) - scoring
        updates = min(config.updates, max(affordable, EVALUATIONS)) // EVALUATIONS * EVALUATIONS
        seconds = START_SECONDS + (updates + scoring) * update_seconds
        return cls(updates=updates, wanted_updates=config.updates, seconds=seconds)

    def __str__(self) -> str:
        fewer = self.updates + EVALUATIONS <= self.wanted_updates
        shortened = f", shortened from {self.wanted_updates:,} for this machine" if fewer else ""
        return f"this will take about {self.seconds / 60:.1f} min: {self.updates:,} updates of every seed{shortened}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MilledRate:
    """What one sampler made, and how fast."""

    name: str
    """such as ``"Markov chain, NumPy"``"""
    count: int
    seconds: float
    unit: str

    @property
    def per_second(self) -> float:
        """Tokens or transitions a second."""
        return self.count / self.seconds

    def __str__(self) -> str:
        size, prefix = (1e9, "G") if self.per_second >= 5e8 else (1e6, "M")
        return f"{self.per_second / size:.3g} {prefix} {self.unit}/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration left behind."""

    report: Path
    run: Path
    plan: DemoPlan
    rates: Sequence[MilledRate]
    data_score: float
    """normalized score of the mean return in the dataset"""
    policy_score: Interval
    """of the learned policies: average of the last four evaluations, 95 % interval over seeds"""
    seconds: float

    @property
    def verdict(self) -> str:
        """What came out, in one sentence."""
        policy, data = self.policy_score, self.data_score
        found = f"The learned policy scores {policy.estimate:.1f} [{policy.low:.1f}, {policy.high:.1f}]"
        if policy.low > data:
            return f"{found}; the policy that recorded its data scored {data:.1f}."
        return f"{found}, which does not beat the {data:.1f} of the policy that recorded its data."


def run_demo(
    output: AnyPath,
    progress: Progress = silent,
    config: DemoConfig | None = None,
    *,
    announce: Callable[[DemoPlan], None] = lambda plan: None,
) -> DemoResult:
    """Run the whole demonstration into `output`, replacing an earlier one there; `announce` receives the plan first.

    FileExistsError if `output` holds anything that a demonstration did not make.
    """
    from trajmill.algorithms import td3_bc
    from trajmill.experiments.settings import DatasetTrainConfig
    from trajmill.experiments.train import train

    config = config or DemoConfig()
    started = time.perf_counter()
    output = local_path(output)
    _claim(output)
    training = DatasetTrainConfig(
        dataset=config.dataset,
        seeds=config.seeds,
        method=td3_bc.Config(value_weight=VALUE_WEIGHT),
        schedule=td3_bc.SCHEDULE,
        evaluation_episode_count=config.evaluation_episode_count,
    )
    plan = DemoPlan.of(config, probe(training))
    announce(plan)
    rates = mill(config, progress)
    interval = plan.updates // EVALUATIONS
    schedule = replace(
        td3_bc.SCHEDULE, updates=plan.updates, evaluation_interval=interval, log_interval=max(1, interval // 10)
    )
    run = train(replace(training, schedule=schedule), output / "training", progress, processes=None)
    final = score(read_run(run)).final
    data = summarize(load_dataset(config.dataset)).normalized_score
    if final is None or data is None:
        raise ValueError(f"no score came out of {config.dataset}; choose a dataset of an environment with D4RL scores")
    result = DemoResult(
        report=output / "report.html",
        run=run,
        plan=plan,
        rates=rates,
        data_score=data,
        policy_score=final,
        seconds=time.perf_counter() - started,
    )
    write_report(
        [run],
        result.report,
        title="From a fresh clone to a policy that beats its data",
        summary=_summary(config, result),
        extra_sections=[_comparison(config, result), _rates(rates)],
    )
    facts = {"plan": asdict(plan), "verdict": result.verdict, "rates": [asdict(rate) for rate in rates]}
    _mark(output, finished=True, seconds=result.seconds, config=asdict(config), **facts)
    return result


def _claim(output: Path) -> None:
    """Make `output` an empty demonstration; only what an earlier one made is removed."""
    if contents(output):
        if not (output / MARKER).exists():
            raise FileExistsError(f"{output} holds something else than a demonstration; choose another directory")
        shutil.rmtree(output / "training", ignore_errors=True)
        (output / "report.html").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    _mark(output, finished=False)


def _mark(output: Path, **facts: Any) -> None:
    write_whole(output / MARKER, (json.dumps({"kind": "demo", **facts}, indent=2) + "\n").encode())


def probe(config: DatasetTrainConfig[Any], seconds: float = 2.0) -> float:
    """Seconds of an update of all seeds, shared by one process per core, from `seconds` of updates."""
    import torch

    from trajmill.algorithms import td3_bc
    from trajmill.runs.processes import seed_groups

    threads = torch.get_num_threads()
    seeds = config.seeds[: max(map(len, seed_groups(len(config.seeds), min(usable_cores(), len(config.seeds)))))]
    rows = td3_bc.prepare(config.method, load_dataset(config.dataset))
    torch.set_num_threads(1)  # as in each of the processes
    state = td3_bc.create(config.method, rows.table(torch.device("cpu"), torch.float32), seeds)
    td3_bc.step(state, 2)
    done, passed, started = 0, 0.0, time.perf_counter()
    while passed < seconds:
        td3_bc.step(state, 2)
        done, passed = done + 2, time.perf_counter() - started
    torch.set_num_threads(threads)
    return passed / done


# --- milling ----------------------------------------------------------------------------------------------------------


def mill(config: DemoConfig, progress: Progress) -> list[MilledRate]:
    """Mill tokens, a share of them with NumPy from the same law, fill the same memory, and mill transitions."""
    chain = tm.MarkovChain(state_count=100, order=1, temperature=1.0, seed=42)
    mdp = tm.MDP(state_count=100, action_count=100, policy_temperature=1.0, transition_temperature=1.0, seed=42)
    trajectories = config.transition_count // 1000
    return [
        mill_tokens(chain, config.token_count // 1000, progress),
        mill_tokens_with_numpy(chain, min(config.token_count, NUMPY_TOKENS) // 1000),
        fill_memory(config.token_count // 1000),
        _timed("MDP, trajmill", trajectories, "transitions", lambda: mdp.sample(trajectories, 1000)),
    ]


def _timed(name: str, sequence_count: int, unit: str, work: Callable[[], object]) -> MilledRate:
    """Rate of `work`, which makes sequences of 1,000."""
    started = time.perf_counter()
    work()
    return MilledRate(name=name, count=sequence_count * 1000, seconds=time.perf_counter() - started, unit=unit)


def mill_tokens(chain: tm.MarkovChain, sequence_count: int, progress: Progress) -> MilledRate:
    """Sample sequences of 1,000 tokens, block by block into one buffer, as a training loop would."""
    buffer = np.ones((min(sequence_count, 50_000), 1000), dtype=np.uint8)  # its pages exist before the clock starts

    def work() -> None:
        for first in range(0, sequence_count, len(buffer)):
            count = min(len(buffer), sequence_count - first)
            chain.sample(count, 1000, first_sequence=first, out=buffer[:count])
            progress("mill Markov-chain tokens", (first + count) * 1000, sequence_count * 1000, "tokens")

    return _timed("Markov chain, trajmill", sequence_count, "tokens", work)


def fill_memory(sequence_count: int) -> MilledRate:
    """Write zeros into as much memory: what a core needs for the bytes alone, the limit of one that draws them too."""
    buffer = np.ones((min(sequence_count, 50_000), 1000), dtype=np.uint8)

    def work() -> None:
        for first in range(0, sequence_count, len(buffer)):
            buffer[: sequence_count - first].fill(0)

    return _timed("limit: zeros, one core", sequence_count, "tokens", work)


def mill_tokens_with_numpy(chain: tm.MarkovChain, sequence_count: int) -> MilledRate:
    """The same law with NumPy alone, vectorized over sequences."""
    start = AliasTables(chain.probabilities([])[None])
    rows = AliasTables(np.stack([chain.probabilities([state]) for state in range(100)]))
    generator = np.random.default_rng(42)
    tokens = np.ones((1000, sequence_count), dtype=np.uint8)

    def work() -> None:
        state = start.draw(np.zeros(sequence_count, dtype=np.int64), generator)
        tokens[0] = state
        for position in range(1, 1000):
            state = rows.draw(state, generator)
            tokens[position] = state

    return _timed("Markov chain, NumPy", sequence_count, "tokens", work)


class AliasTables:
    """Walker's alias method for rows of probabilities, two look-ups a draw: the fastest we know to write with NumPy."""

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        row_count, self._size = probabilities.shape
        share = probabilities * self._size
        threshold, alias = np.ones_like(share), np.tile(np.arange(self._size), (row_count, 1))
        every = np.arange(row_count)
        for _ in range(self._size - 1):  # in all rows at once, the richest column tops up the poorest
            poor, rich = share.argmin(axis=1), share.argmax(axis=1)
            threshold[every, poor], alias[every, poor] = share[every, poor], rich
            share[every, rich] -= 1.0 - share[every, poor]
            share[every, poor] = 1.0
        self._threshold, self._alias = threshold.ravel(), alias.ravel()

    def draw(self, row: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """One draw from each named row."""
        place = generator.random(row.size) * self._size
        column = place.astype(np.int64)
        cell = row * self._size + column
        return np.asarray(np.where(place - column < self._threshold[cell], column, self._alias[cell]))


# --- telling ----------------------------------------------------------------------------------------------------------


def _summary(config: DemoConfig, result: DemoResult) -> str:
    return (
        f"{result.verdict}\nTD3+BC learned from {config.dataset} alone, {result.plan.updates:,} updates of "
        f"{len(config.seeds)} seeds; everything on this page took {result.seconds / 60:.1f} minutes."
    )


def _comparison(config: DemoConfig, result: DemoResult) -> Section:
    score, data = result.policy_score, result.data_score
    text = f"{score.estimate:.1f} [{score.low:.1f}, {score.high:.1f}]"
    bars = [
        Rate(label="learned policy", value=score.estimate, text=text, ours=True, style=0),
        Rate(label="policy in the data", value=data, text=f"{data:.1f}", ours=False),
    ]
    caption = (
        f"Normalized score: 0 is a random policy, 100 D4RL's expert. The learned policy: mean over {len(config.seeds)} "
        f"seeds of the last four evaluations of {config.evaluation_episode_count} episodes, with its 95 % interval."
    )
    return replace(rates_section("comparison", "Against its data", [bars], caption=caption), leading=True)


def _rates(rates: Sequence[MilledRate]) -> Section:
    tokens, by_numpy, limit, transitions = rates
    shown = (limit, tokens, by_numpy)
    bars = [Rate(label=rate.name, value=rate.per_second, text=str(rate), ours=rate is tokens) for rate in shown]
    text = (
        f"{tokens.count:,} Markov-chain tokens (100 states, τ = 1) in {tokens.seconds:.2f} s and {transitions.count:,} "
        f"transitions of an MDP with 100 states and 100 actions in {transitions.seconds * 1000:.0f} ms."
    )
    caption = (
        "Timed on this machine just before the training, trajmill on all cores, NumPy on one as it does: the same law, "
        f"vectorized over sequences, its tables built beforehand, {by_numpy.count:,} tokens. The limit is how fast one "
        "core writes zeros into the same memory."
    )
    return rates_section("sampler", "The mill", [bars], text=text, caption=caption)
