"""From a fresh clone to a scored policy: mill synthetic data, pre-train, fine-tune on real data, score, report.

A small comparison in the manner of arXiv 2310.00771 (section 4): CQL on a bundled Hopper dataset, its critics fresh or
pre-trained on the transitions of a random MDP. It shows that every part works; at these few updates it settles nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import trajmill as tm
from trajmill.core.progress import Progress, silent
from trajmill.core.reference import codebooks
from trajmill.data import load_dataset
from trajmill.report import Rate, Section, rates_section, write_report

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

PAPER_UPDATES = 1_000_000
"""fine-tuning updates of arXiv 2310.00771, section 4"""
SCRATCH, PRETRAINED, PRETRAINING = "from scratch", "MDP pre-trained", "MDP pre-training"
NUMPY_TOKENS = 20_000_000
"""tokens milled with each NumPy method: enough to time it, few enough to wait for"""
MARKER = "demo.json"
"""written first and last: it tells our own directory from anyone else's"""
_DIRECTORIES = {SCRATCH: "from_scratch", PRETRAINED: "pretrained", PRETRAINING: "pretraining"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Sizes of the demonstration; the defaults take five to eight minutes on two cores."""

    dataset: str = "hopper-sac-replay-10k"
    """a bundled dataset or a D4RL file"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """training seeds of both variants"""
    token_count: int = 1_000_000_000
    """Markov-chain tokens to mill, in sequences of 1,000; a multiple of 1,000"""
    transition_count: int = 1_000_000
    """MDP transitions to mill and pre-train on, in trajectories of 1,000 (the paper's number); a multiple of 1,000"""
    pretrain_updates: int = 3_000
    """pre-training updates, at least 1 (the paper: 100,000)"""
    finetune_updates: int = 2_400
    """CQL updates of each variant, at least 1 (the paper: 1,000,000)"""
    evaluation_period: int = 300
    """updates between evaluations, at least 1"""
    evaluation_episode_count: int = 10
    """MuJoCo episodes per evaluation and seed, at least 1 (the paper: 10)"""

    def __post_init__(self) -> None:
        for name in ("token_count", "transition_count"):
            if getattr(self, name) < 1000 or getattr(self, name) % 1000:
                raise ValueError(f"{name} must be a multiple of 1,000, at least 1,000, got {getattr(self, name)}")
        for name in ("pretrain_updates", "finetune_updates", "evaluation_period", "evaluation_episode_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MilledRate:
    """What one sampler made, and how fast."""

    name: str
    """such as ``"Markov chain, NumPy"``"""
    count: int
    seconds: float
    unit: str
    byte_count: int
    """bytes written"""

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
    runs: Mapping[str, Path]
    """run directories by variant"""
    rates: Sequence[MilledRate]
    seconds: float


def run_demo(output: Path, progress: Progress = silent, config: DemoConfig | None = None) -> DemoResult:
    """Run the whole demonstration into `output`, replacing an earlier one there.

    Raises
    ------
    FileExistsError
        If `output` holds anything that a demonstration did not make.
    RuntimeError
        If one of the two training processes fails; both are stopped and the message is the first failure's.
    """
    config = config or DemoConfig()
    started = time.perf_counter()
    _claim(output)
    rates = mill(config, progress)
    runs = {variant: output / name for variant, name in _DIRECTORIES.items()}
    run_jobs({SCRATCH: train_from_scratch, PRETRAINED: pretrain_then_train}, config, output, progress)
    floor = loss_floor(config, load_dataset(config.dataset).observation_dim)
    report = write_report(
        [runs[SCRATCH], runs[PRETRAINED], runs[PRETRAINING]],
        output / "report.html",
        title="From a fresh clone to a scored policy",
        summary=_summary(config),
        extra_sections=[_sampler_section(rates)],
        loss_floors={runs[PRETRAINING]: floor},
    )
    result = DemoResult(report=report, runs=runs, rates=rates, seconds=time.perf_counter() - started)
    _mark(output, finished=True, seconds=result.seconds, config=asdict(config), rates=[asdict(rate) for rate in rates])
    return result


def _claim(output: Path) -> None:
    """Make `output` an empty demonstration; only what an earlier one made is removed."""
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise FileExistsError(f"{output} holds something else than a demonstration; choose another directory")
        for name in _DIRECTORIES.values():
            shutil.rmtree(output / name, ignore_errors=True)
        (output / "report.html").unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    _mark(output, finished=False)


def _mark(output: Path, **facts: Any) -> None:
    (output / MARKER).write_text(json.dumps({"kind": "demo", **facts}, indent=2) + "\n", encoding="utf-8")


# --- milling ----------------------------------------------------------------------------------------------------------


def mill(config: DemoConfig, progress: Progress) -> list[MilledRate]:
    """Mill tokens and transitions, then a share of the tokens and all transitions with NumPy from the same laws."""
    chain = tm.MarkovChain(state_count=100, order=1, temperature=1.0, seed=42)
    mdp = _mdp()
    share = min(config.token_count, NUMPY_TOKENS)
    return [
        mill_tokens(chain, config.token_count, progress),
        mill_tokens_with_numpy(chain, share, AliasTables),
        mill_tokens_with_numpy(chain, share, InverseCDF),
        mill_transitions(mdp, config.transition_count),
        mill_transitions_with_numpy(mdp, config.transition_count, AliasTables),
        mill_transitions_with_numpy(mdp, config.transition_count, InverseCDF),
    ]


def _mdp() -> tm.MDP:
    """The paper's MDP, on whose transitions `PretrainCQLConfig` trains by default too."""
    return tm.MDP(state_count=100, action_count=100, policy_temperature=1.0, transition_temperature=1.0, seed=42)


def loss_floor(config: DemoConfig, observation_dim: int) -> float:
    """Mean squared error per element of the predictor that knows the MDP's law, on the transitions of `config`.

    It predicts the mean of the successor's state vector given (state, action) (0.3391 in Hopper's 11 numbers). A
    predictor that memorised these very transitions could go about 1 % lower.
    """
    mdp = _mdp()
    sample = mdp.sample(trajectory_count=config.transition_count // 1000, length=1000)
    pairs = (sample.states[:, :-1].astype(np.int64) * mdp.action_count + sample.actions).ravel()
    visits = np.bincount(pairs, minlength=mdp.state_count * mdp.action_count) / len(pairs)
    rows = np.array(
        [mdp.transition_probabilities(s, a) for s in range(mdp.state_count) for a in range(mdp.action_count)]
    )
    vectors = codebooks(mdp.state_count, mdp.action_count, observation_dim, 1)[0].astype(np.float64)
    variances = (rows @ vectors**2 - (rows @ vectors) ** 2).mean(axis=1)
    return float(visits @ variances)


def mill_tokens(chain: tm.MarkovChain, token_count: int, progress: Progress) -> MilledRate:
    """Sample sequences of 1,000 tokens, block by block into one buffer, as a training loop would."""
    length, sequence_count = 1000, token_count // 1000
    buffer = np.zeros((min(sequence_count, 50_000), length), dtype=np.uint8)
    buffer.fill(1)  # the pages exist before the clock starts: a reused buffer is the common case
    started = time.perf_counter()
    for first in range(0, sequence_count, len(buffer)):
        count = min(len(buffer), sequence_count - first)
        chain.sample(sequence_count=count, length=length, first_sequence=first, out=buffer[:count])
        progress("mill Markov-chain tokens", (first + count) * length, token_count, "tokens")
    seconds = time.perf_counter() - started
    return MilledRate(
        name="Markov chain, trajmill", count=token_count, seconds=seconds, unit="tokens", byte_count=token_count
    )


def mill_transitions(mdp: tm.MDP, transition_count: int) -> MilledRate:
    """Sample trajectories of 1,000 steps."""
    started = time.perf_counter()
    sample = mdp.sample(trajectory_count=transition_count // 1000, length=1000)
    seconds = time.perf_counter() - started
    return MilledRate(
        name="MDP, trajmill",
        count=transition_count,
        seconds=seconds,
        unit="transitions",
        byte_count=sample.states.nbytes + sample.actions.nbytes,
    )


def mill_tokens_with_numpy(chain: tm.MarkovChain, token_count: int, method: type[StackedRows]) -> MilledRate:
    """The same law with NumPy alone, vectorised over sequences."""
    sequence_count, length = token_count // 1000, 1000
    first = method(chain.probabilities([])[None])
    rows = method(np.stack([chain.probabilities([state]) for state in range(100)]))
    generator = np.random.default_rng(42)
    tokens = np.ones((length, sequence_count), dtype=np.uint8)
    started = time.perf_counter()
    state = first.draw(np.zeros(sequence_count, dtype=np.int64), generator)
    tokens[0] = state
    for position in range(1, length):
        state = rows.draw(state, generator)
        tokens[position] = state
    seconds = time.perf_counter() - started
    return MilledRate(
        name=f"Markov chain, {method.name}",
        count=token_count,
        seconds=seconds,
        unit="tokens",
        byte_count=token_count,
    )


def mill_transitions_with_numpy(mdp: tm.MDP, transition_count: int, method: type[StackedRows]) -> MilledRate:
    """The same law with NumPy alone, vectorised over trajectories."""
    trajectory_count, length = transition_count // 1000, 1000
    policy = method(np.stack([mdp.policy_probabilities(state) for state in range(100)]))
    pairs = [(state, action) for state in range(100) for action in range(100)]
    transition = method(np.stack([mdp.transition_probabilities(*pair) for pair in pairs]))
    generator = np.random.default_rng(42)
    states = np.ones((length + 1, trajectory_count), dtype=np.uint8)
    actions = np.ones((length, trajectory_count), dtype=np.uint8)
    started = time.perf_counter()
    state = generator.integers(100, size=trajectory_count)
    states[0] = state
    for step in range(length):
        action = policy.draw(state, generator)
        state = transition.draw(state * 100 + action, generator)
        actions[step], states[step + 1] = action, state
    seconds = time.perf_counter() - started
    return MilledRate(
        name=f"MDP, {method.name}",
        count=transition_count,
        seconds=seconds,
        unit="transitions",
        byte_count=states.nbytes + actions.nbytes,
    )


class StackedRows(Protocol):
    """Draws from rows of probabilities (row_count, size), many at once."""

    name: str

    def __init__(self, probabilities: NDArray[np.float64]) -> None: ...

    def draw(self, row: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """One draw from each named row."""


class InverseCDF:
    """One binary search for all draws: row i's cumulative law is laid out on [i, i + 1). What one writes first."""

    name = "NumPy inverse CDF"

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        row_count, self._size = probabilities.shape
        cumulative = np.cumsum(probabilities, axis=1)
        cumulative[:, -1] = 1.0
        self._cumulative = (cumulative + np.arange(row_count)[:, None]).ravel()

    def draw(self, row: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """One draw from each named row."""
        place = np.searchsorted(self._cumulative, row + generator.random(row.size), side="right")
        return np.asarray(np.minimum(place - row * self._size, self._size - 1))


class AliasTables:
    """Walker's alias method, two look-ups a draw: the fastest we know to write with NumPy."""

    name = "NumPy alias"

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


def _sampler_section(rates: Sequence[MilledRate]) -> Section:
    tokens, transitions = (next(rate for rate in rates if rate.unit == unit) for unit in ("tokens", "transitions"))
    share = next(rate.count for rate in rates if rate.unit == "tokens" and rate is not tokens)
    return rates_section(
        "sampler",
        "The mill",
        [
            [
                Rate(label=rate.name, value=rate.per_second, text=str(rate), ours=rate is ours)
                for rate in rates
                if rate.unit == ours.unit
            ]
            for ours in (tokens, transitions)
        ],
        text=(
            f"{tokens.count:,} Markov-chain tokens (100 states, τ = 1) in {tokens.seconds:.2f} s, "
            f"{tokens.byte_count / tokens.seconds / 1e9:.2f} GB/s into a reused buffer, and {transitions.count:,} "
            f"transitions of an MDP with 100 states and 100 actions in {transitions.seconds * 1000:.0f} ms."
        ),
        caption=(
            "Timed on this machine just before the training above, trajmill on all cores, NumPy on one as it does. "
            "NumPy draws from the same laws, vectorised over sequences, its tables built beforehand; it was timed on "
            f"{share:,} tokens and {transitions.count:,} transitions."
        ),
    )


def _summary(config: DemoConfig) -> str:
    return (
        f"CQL on {config.dataset}, with critics that start fresh or pre-trained on the transitions of a random MDP.\n"
        f"This is a short demonstration: {config.finetune_updates:,} gradient updates on {len(config.seeds)} seeds, "
        f"where the paper makes {PAPER_UPDATES:,} on 20. It shows that every part works, from the sampler to a scored "
        "policy; which variant is ahead after so few updates and seeds says little."
    )


# --- training ---------------------------------------------------------------------------------------------------------


def train_from_scratch(config: DemoConfig, output: Path, progress: Progress) -> None:
    """The baseline: CQL with fresh critics."""
    _finetune(config, output, progress, variant=SCRATCH, init=None)


def pretrain_then_train(config: DemoConfig, output: Path, progress: Progress) -> None:
    """Pre-train the critics on MDP transitions, then train the same CQL from them."""
    from trajmill.pipelines.cql import PretrainCQLConfig, pretrain_cql
    from trajmill.pipelines.schedule import Schedule

    dataset = load_dataset(config.dataset)
    init = pretrain_cql(
        PretrainCQLConfig(
            observation_dim=dataset.observation_dim,
            action_dim=dataset.action_dim,
            trajectory_count=config.transition_count // 1000,
            length=1000,
            schedule=Schedule(updates=config.pretrain_updates, log_interval=max(1, config.pretrain_updates // 50)),
            variant=PRETRAINING,
        ),
        output / _DIRECTORIES[PRETRAINING],
        progress,
    )
    _finetune(config, output, progress, variant=PRETRAINED, init=init)


def _finetune(config: DemoConfig, output: Path, progress: Progress, *, variant: str, init: Path | None) -> None:
    from trajmill.pipelines.cql import TrainCQLConfig, train_cql  # torch stays out of the parent process
    from trajmill.pipelines.schedule import Schedule

    settings = TrainCQLConfig(
        dataset=config.dataset,
        init=init,
        seeds=config.seeds,
        evaluation_episode_count=config.evaluation_episode_count,
        schedule=Schedule(
            updates=config.finetune_updates,
            log_interval=max(1, config.finetune_updates // 50),
            evaluation_interval=config.evaluation_period,
        ),
        variant=variant,
    )
    train_cql(settings, output / _DIRECTORIES[variant], progress)


Job = Callable[[DemoConfig, Path, Progress], None]


def run_jobs(jobs: Mapping[str, Job], config: DemoConfig, output: Path, progress: Progress) -> None:
    """Run named jobs at once, a process and a thread each: two threads of one process would be slower.

    Raises
    ------
    RuntimeError
        As soon as one fails; the others are stopped.
    """
    context = multiprocessing.get_context("spawn")
    messages: Queue[Message] = context.Queue()
    workers = {
        name: context.Process(target=_work, args=(name, job, config, output, messages), daemon=True)
        for name, job in jobs.items()
    }
    try:
        with _single_threaded_children():
            for worker in workers.values():
                worker.start()
        _follow(workers, messages, progress)
    finally:
        for worker in workers.values():
            if worker.is_alive():
                worker.terminate()
            worker.join()


@dataclass(frozen=True, slots=True)
class Message:
    """From a training process: progress, or its end, or its failure."""

    sender: str
    progress: tuple[str, int, int, str] | None = None
    failure: str | None = None


def _follow(workers: Mapping[str, Any], messages: Queue[Message], progress: Progress) -> None:
    """Pass on progress until all workers have ended; raises as soon as one fails."""
    running = set(workers)
    while running:
        try:
            message = messages.get(timeout=0.5)
        except queue.Empty:
            for name in running:
                if workers[name].exitcode is not None:  # nothing left to read, and it never said that it had ended
                    raise RuntimeError(f"training {name!r} died with exit code {workers[name].exitcode}") from None
            continue
        if message.failure is not None:
            raise RuntimeError(f"training {message.sender!r} failed: {message.failure}")
        if message.progress is not None:
            progress(*message.progress)
        else:
            running.discard(message.sender)


def _work(name: str, job: Job, config: DemoConfig, output: Path, messages: Queue[Message]) -> None:
    """Body of a training process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    parent = multiprocessing.parent_process()
    last_sent = 0.0

    def forward(task: str, completed: int, total: int, unit: str) -> None:
        nonlocal last_sent
        now = time.monotonic()
        if completed < total and now - last_sent < 0.1:
            return
        last_sent = now
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)
        messages.put(Message(name, progress=(f"{name}: {task}", completed, total, unit)))

    try:
        job(config, output, forward)
    except KeyboardInterrupt:  # ended by the parent while it trained, which is no news to anyone
        raise SystemExit(1) from None
    except Exception as error:
        if os.environ.get("TRAJMILL_DEBUG") == "1":
            traceback.print_exc()
        messages.put(Message(name, failure=str(error) or type(error).__name__))
    else:
        messages.put(Message(name))


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Let processes started inside use one thread each: OpenMP reads its setting when the process starts."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
