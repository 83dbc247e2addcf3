"""Synthetic transitions for agents that learn online (Synthetic Experience Replay, arXiv 2303.06614).

After so many environment steps of each seed, and the updates that belong to them, a new model learns all transitions of
that seed that are in the ring, and makes transitions that take the place of those before: an upsampling of its own
(`trajmill.experiments.upsample`), which goes on where it was stopped. Which model is in use depends on the number of
steps alone, and what it makes on the seed, its number and the rows in the ring. The environments, what agents see of
them and the ring's own rows are not touched.

``replay/synthetic-SEED/MODEL.safetensors`` of a run keeps what a model has made while a checkpoint needs it; models are
numbered from 1 on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import method_named, name_of
from trajmill.core.files import remove
from trajmill.core.progress import Progress
from trajmill.core.seeds import hashed_seed
from trajmill.data import Dataset, DatasetWarning
from trajmill.data.environments import task_of
from trajmill.experiments.prediction import identity_of
from trajmill.experiments.settings import OnlineTrainConfig, SynthesisConfig
from trajmill.experiments.upsample import Job, NotFiniteError, UpsampleConfig
from trajmill.replay.ring import Ring, write_rows
from trajmill.runs.reading import REPLAY
from trajmill.runs.schedule import DivergenceError, DivergenceWarning
from trajmill.runs.signals import Interrupted, stop_signals
from trajmill.training.checkpoint import CheckpointError, read_checkpoint
from trajmill.training.device import ComputeConfig

Columns = dict[str, NDArray[Any]]

WORK = "synthesis"
"""first part of the name of a folder of a run with the upsampling for a seed that is under way"""
COLUMNS = ("observation", "action", "reward", "next_observation", "terminal")
"""of a batch; those of a dataset are called so in the plural"""
_MODELS = 0x7379_6E74
"""first word of what the seeds of models are made of (ASCII "synt")"""


class Synthesis:
    """Keeps synthetic transitions in the batches of a ring, and grows with it (`Growing`); `run` is its run's path."""

    def __init__(
        self,
        config: SynthesisConfig[Any, Any],
        ring: Ring,
        seeds: Sequence[int],
        compute: ComputeConfig,
        run: Path,
        progress: Progress,
    ) -> None:
        self._config, self._ring, self._seeds, self._compute = config, ring, list(seeds), compute
        self._run, self._progress = run, progress
        self._model = 0  # the number of the one whose rows are in use
        self._stored = 0  # the same at the last checkpoint

    def before_step(self) -> None:
        """Make new rows if it is time to."""
        model = self._config.due(self._ring.steps * self._ring.environment_count)
        if model > self._model:
            self._use(model, [self._rows(position, model) for position in range(len(self._seeds))])

    def store(self, directory: Path) -> None:
        """See `Growing`: rows are written as they are made; the last two checkpoints may need them."""
        for path in directory.glob("synthetic-*/*.safetensors"):
            if int(path.stem) < self._stored:
                remove(path)
        self._stored = self._model

    def load(self, directory: Path) -> None:
        """See `Growing`: have the rows that were in use as the last step was made."""
        model = self._config.due((self._ring.steps - 1) * self._ring.environment_count)
        if model:
            self._use(model, [self._read(position, model) for position in range(len(self._seeds))])
        self._stored = model

    def report(self) -> dict[str, list[float]]:
        """See `Growing`: which model has made the synthetic transitions, 0 if there are none yet."""
        return {"synthetic_model": [float(self._model)] * len(self._seeds)}

    def _use(self, model: int, rows: Sequence[Columns | None]) -> None:
        """Have these rows in the batches; a seed that has failed has zeros."""
        some = next((columns for columns in rows if columns is not None), {})
        parts = [{name: np.zeros_like(some[name]) for name in some} if each is None else each for each in rows]
        if some:
            columns = {name: np.stack([part[name] for part in parts]) for name in some}
            self._ring.mix("synthetic", columns, self._config.share)
        self._model = model

    def _path(self, seed: int, model: int) -> Path:
        """Where the rows are that a model has made."""
        return self._run / REPLAY / f"synthetic-{seed}" / f"{model:06d}.safetensors"

    def _read(self, position: int, model: int) -> Columns | None:
        """The rows that a model has made; CheckpointError if they are not there."""
        if self._ring.has_failed(position):
            return None
        tensors, _ = read_checkpoint(self._path(self._seeds[position], model))
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def _rows(self, position: int, model: int) -> Columns | None:
        """The rows that a new model makes; None if the seed has failed, or its model does."""
        if self._ring.has_failed(position):
            return None
        seed, dataset = self._seeds[position], _dataset(self._ring.rows(position))
        known = {"kind": "synthetic", "seed": seed, "model": model, **identity_of(dataset)}
        path, work = self._path(seed, model), self._run / f"{WORK}-{seed}"
        with suppress(CheckpointError):  # made before the run was killed
            if read_checkpoint(path)[1] == known:
                return self._read(position, model)
        try:
            columns: Columns | None = self._make(dataset, seed, model, work)
        except (DivergenceError, NotFiniteError):
            columns = None
            self._ring.fail(position, f"model {model} of its transitions has diverged (give it a smaller step size)")
        if columns is not None:
            write_rows(path, columns, known)
        remove(work)
        return columns

    def _make(self, dataset: Dataset, seed: int, model: int, work: Path) -> Columns:
        """Train a model, and make rows, in the folder `work`; go on if this was begun."""
        content = "-".join(digest[:8] for digest in identity_of(dataset).values())  # on another device it is another

        def report(task: str, completed: int, total: int, unit: str) -> None:
            self._progress(f"model of seed {seed}, {task}", completed, total, unit)
            if (number := received()) is not None:
                raise Interrupted(f"stopped at model {model} of seed {seed}, with what it has made in {work}", number)

        with _quiet(), stop_signals() as received:
            job = Job.of(dataset, work / content, upsampling(self._config, self._compute, model_seed(seed, model)))
            job.run(report)
        pieces = list(job.pieces())
        return {name: np.concatenate([piece[f"{name}s"] for piece in pieces]) for name in COLUMNS}


def model_seed(seed: int, model: int) -> int:
    """The seed of a model of an agent's seed, a 64-bit hash of both."""
    return hashed_seed(seed, _MODELS, model)


def check(config: OnlineTrainConfig[Any], run: Path) -> None:
    """ValueError if a model cannot be made as `config` asks, which a run would find out after many steps."""
    with _quiet():
        _trial(config, run).probe(0.0)


def cost(config: OnlineTrainConfig[Any], run: Path) -> str:
    """In words, what the models of a run will cost."""
    count = config.synthesis.due_within(config.turns, config.schedule.updates, config.environments)
    with _quiet():
        return f"{count} models of each of {len(config.seeds)} seeds, each {_trial(config, run).estimate()}"


def _trial(config: OnlineTrainConfig[Any], run: Path) -> Job:
    """An upsampling as in a run, of numbers at random."""
    task, generator = task_of(config.environment), np.random.default_rng(0)
    observations = generator.normal(size=(65, task.observation_dim)).astype(np.float32)
    columns = {
        "observation": observations[:-1],
        "action": generator.uniform(-1.0, 1.0, (64, task.action_dim)).astype(np.float32),
        "reward": generator.normal(size=64).astype(np.float32),
        "next_observation": observations[1:],
        "terminal": np.zeros(64, np.bool_),
        "truncated": np.arange(64) == 63,
    }
    return Job.of(_dataset(columns), run / f"{WORK}-trial", upsampling(config.synthesis, config.compute, 0))


def upsampling(config: SynthesisConfig[Any, Any], compute: ComputeConfig, seed: int) -> UpsampleConfig[Any]:
    """What a model is asked for."""
    return UpsampleConfig(
        count=config.count,
        method=config.method,
        sampling=config.sampling,
        schedule=replace(method_named(name_of(config.method)).SCHEDULE, updates=config.updates),
        compute=compute,
        precision=config.precision,
        seed=seed,
        export=(),
        quality=False,
    )


def _dataset(columns: Mapping[str, NDArray[Any]]) -> Dataset:
    """Rows of a ring as a dataset."""
    ends = columns["terminal"] | columns["truncated"]
    return Dataset(
        name="ring",
        path=Path("ring"),
        observations=columns["observation"],
        actions=columns["action"],
        rewards=columns["reward"],
        next_observations=columns["next_observation"],
        terminals=columns["terminal"],
        timeouts=columns["truncated"],
        ordered=not ends.all(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No words about data that nobody has given, or about seeds of models."""
    with warnings.catch_warnings():
        for kind in (DatasetWarning, DivergenceWarning):
            warnings.simplefilter("ignore", kind)
        yield
