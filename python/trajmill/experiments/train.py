"""Train any method of `trajmill.algorithms`, all seeds in one program, and score it as it learns.

The type of the settings says which method it is, so there is no list of methods.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trajmill.algorithms import learns_online, method_named, name_of
from trajmill.core.files import check_writable
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import Dataset, Normalizer, environment_of, load_dataset
from trajmill.data.actions import ActionLimit
from trajmill.data.environments import check_environment, find_environment, task_of
from trajmill.data.errors import warn_about
from trajmill.experiments.online import OnlineState, ring_of, values_at_start
from trajmill.experiments.prediction import identity_of, identity_of_run
from trajmill.experiments.rows import differ, model_of, offline_columns, rows_of
from trajmill.experiments.scoring import Scorer, final_scores, snapshot
from trajmill.experiments.settings import DatasetTrainConfig, OnlineTrainConfig, TrainConfig
from trajmill.replay.ring import Ring
from trajmill.replay.tables import table_of
from trajmill.runs.beside import Beside
from trajmill.runs.directory import RunDirectory
from trajmill.runs.processes import finish, is_one_of_several, process_count, seed_groups, train_in_processes
from trajmill.runs.reading import read_start
from trajmill.runs.schedule import Evaluate, Trained, run_schedule
from trajmill.runs.watching import Callback, Logger, Record, Stopped, Watch
from trajmill.training.device import torch_as_it_was
from trajmill.training.distributed import ALONE, Ranks, joined
from trajmill.training.runner import Runner
from trajmill.training.settings import decaying, defaults, for_seeds, of_python, places, plain

if TYPE_CHECKING:
    from trajmill.experiments.synthesis import Synthesis


@torch_as_it_was()
def train(
    config: TrainConfig[Any],
    output: AnyPath,
    progress: Progress = silent,
    *,
    resume: bool = False,
    processes: int | None = 1,
    of_larger_run: bool = False,
    callback: Callback | None = None,
    loggers: Sequence[Logger] = (),
) -> Path:
    """Train every seed and score it; gives the run directory.

    `processes` share the seeds, with the same result (docs/training-faults.md); None is one per CPU core. Each makes a
    run `of_larger_run`, which keeps running where every seed of it has diverged. Processes that torchrun
    started share the batches instead.

    `callback` gets each `Record` as it is made; what it raises ends the run with a checkpoint, and so does True, after
    which the run is not finished. `loggers` get those that they have not had (`Watch`).
    """
    watch = Watch(callback, loggers)
    config, output = of_python(config), local_path(output)
    if not RunDirectory(output).finished:
        check_writable(output)
    method = method_named(name_of(config.method))
    device = config.compute.apply()
    with joined(device) as ranks:
        count = _process_count(config, method, ranks, processes, output)
        progress = progress if ranks.is_first else silent
        task = _Task.of(config, method, device, ranks, progress, seed_count=1 if count > 1 else len(config.seeds))
        run = RunDirectory(output)
        if isinstance(task.config, OnlineTrainConfig) and task.config.synthesis.every is not None and not run.finished:
            from trajmill.experiments import synthesis  # which trains models

            synthesis.check(task.config, output)
        if ranks.is_first:
            run = RunDirectory.open(
                output, task.record(), resume=resume, defaults=defaults(task.config), places=places(config)
            )
        if ranks.maximum(int(ranks.is_first and run.finished)):
            progress("train", config.schedule.updates, config.schedule.updates, "updates")
            if loggers and ranks.is_first:
                with run.locked(), watch.of(output, task.record()):
                    watch.known(Record.of_line(line, config.seeds) for line in run.lines())
            return output
        with ExitStack() as while_training, suppress(Stopped):
            if ranks.is_first:
                while_training.enter_context(run.locked())
                while_training.enter_context(watch.of(output, task.record()))
            if count == 1:
                trained = task.train_in_process(run, progress, watch, of_larger_run=of_larger_run)
            else:
                groups = seed_groups(len(config.seeds), count)
                parts = [_of_seeds(config, positions) for positions in groups]
                trained = train_in_processes(run, _train_part, parts, progress, watch)
            if ranks.is_first:
                finish(run, trained, task.results(run) | {"updates": config.schedule.updates, "processes": count})
    return output


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A method after a few updates that are not kept."""

    update_seconds: float
    """of one update"""
    tensors: Mapping[str, Tensor]
    """what a checkpoint would hold"""
    known: Mapping[str, Any]
    """its metadata"""
    scoring_seconds: float
    """of scoring all seeds once, where all episodes are as long as they can be; 0 if that was not asked for"""


@torch_as_it_was()
def probe(config: TrainConfig[Any], seconds: float = 1.0, *, scored: bool = False) -> Probe:
    """Make updates for some seconds, at least one, to see what they cost; nothing is written.

    With `scored`, play a few steps too, to see what scoring costs if the method has a policy.
    """
    method, device = method_named(name_of(config.method)), config.compute.apply()
    task = _Task.of(config, method, device, ALONE, silent, seed_count=len(config.seeds))
    with Runner(method.step, task.state, config.schedule.unroll) as runner:
        runner.run(1)  # what is made once is not counted
        count = runner.unroll if device.type == "cuda" else 1
        began, made = time.monotonic(), 0
        while made == 0 or time.monotonic() - began < seconds:
            runner.run(count)
            made += count
            if device.type == "cuda":
                torch.cuda.synchronize()
        passed = time.monotonic() - began
    scoring = task.scorer().seconds(snapshot(task.state)) if scored and hasattr(method, "policy") else 0.0
    return Probe(
        update_seconds=passed / made, tensors=task.state.moving(), known=task.metadata, scoring_seconds=scoring
    )


def _train_part(config: TrainConfig[Any], output: Path, progress: Progress, tell: Callback | None = None) -> None:
    """Body of a process that trains some seeds of a run."""
    train(config, output, progress, resume=any(output.iterdir()), of_larger_run=True, callback=tell)


def _of_seeds(config: TrainConfig[Any], positions: range) -> TrainConfig[Any]:
    """The same run with the seeds at these positions."""
    seeds = tuple(config.seeds[position] for position in positions)
    return replace(config, seeds=seeds, method=for_seeds(config.method, positions))


def _process_count(config: TrainConfig[Any], method: ModuleType, ranks: Ranks, wanted: int | None, output: Path) -> int:
    """How many processes share the seeds; ValueError if they cannot, or torchrun's processes cannot share batches."""
    if ranks.count > 1 and not getattr(method, "DATA_PARALLEL", False):
        raise ValueError(
            f"{name_of(config.method)} cannot share its batches among torchrun's processes; give --processes"
        )
    joint = hasattr(method, "shares_chance") and method.shares_chance(config.method) and len(config.seeds) > 1
    if ranks.count == 1 and not joint:
        return process_count(wanted, config.compute, len(config.seeds), output)
    if (wanted or 1) > 1:
        why = (
            "torchrun's processes share" if ranks.count > 1 else "with dropout, which all seeds draw together, one has"
        )
        raise ValueError(f"processes must be 1, got {wanted}: {why} all seeds; torchrun or --method.no-dropout helps")
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A run with everything that it needs, read and checked before anything is written."""

    config: TrainConfig[Any]
    method: ModuleType
    state: Any
    dataset: Dataset | None
    data_name: str
    environment: str | None
    metadata: Mapping[str, Any]
    ranks: Ranks

    @classmethod
    def of(
        cls,
        config: TrainConfig[Any],
        method: ModuleType,
        device: torch.device,
        ranks: Ranks,
        progress: Progress,
        *,
        seed_count: int,
    ) -> _Task:
        """Read the data, make the state of the first `seed_count` seeds, and start it from ``init``."""
        dataset = environment = None
        is_online = isinstance(config, OnlineTrainConfig)
        if is_online != learns_online(method):
            kind = OnlineTrainConfig if not is_online else DatasetTrainConfig
            raise ValueError(f"{name_of(config.method)} needs a {kind.__name__}, got a {type(config).__name__}")
        if isinstance(config, OnlineTrainConfig):
            environment = task_of(config.environment).environment_id
            if config.init is not None:
                config = replace(config, interaction=replace(config.interaction, random_steps=0))
        if isinstance(config, DatasetTrainConfig | OnlineTrainConfig) and config.dataset is not None:
            dataset = load_dataset(config.dataset, limit=config.limit)
            environment = config.environment
            if environment is None and hasattr(method, "policy"):
                environment = environment_of(dataset)
            if environment is not None:
                environment = check_environment(dataset, environment)
            if is_online and differ(recorded := find_environment(dataset), environment):
                warn_about(f"dataset {dataset.name} was recorded in {recorded}, agents act in {environment}; as asked")
        settings = method.adapt(config.method, dataset, environment) if hasattr(method, "adapt") else config.method
        settings = decaying(settings, config.schedule)
        config = replace(config, method=settings, variant=config.variant or method.LABEL)
        start = None if config.init is None else _start(config.init, method)
        if start is not None and is_online and differ(trained := start[1].get("environment"), environment):
            warn_about(f"init {config.init} was trained for {trained}, agents act in {environment}; as asked")
        part = _of_seeds(config, range(seed_count))
        model = model_of(config, method, dataset)
        action_limit: ActionLimit = 1.0
        if environment is not None and hasattr(method, "policy"):
            action_limit = task_of(environment).action_limit
        more = dict[str, Any]()
        if isinstance(config, OnlineTrainConfig):
            table: Any = _ring(config, part.seeds, device, start, dataset)
            data_name = environment or ""
        else:
            rows = rows_of(config, method, dataset, model, action_limit, progress, more)
            table = table_of(rows, config.compute.rows, seeds=part.seeds, batch_size=settings.batch_size, device=device)
            data_name = rows.name if dataset is None else dataset.name
        state = method.create(part.method, table, part.seeds, metric_capacity=config.schedule.log_interval)
        if start is not None:
            try:
                state = method.start_from(state, *start)
            except ValueError as error:
                raise ValueError(f"cannot start from {config.init}: {error}") from error
        metadata = {"kind": name_of(settings), "seeds": list(config.seeds), "method": plain(settings)}
        if dataset is not None or is_online:
            sizes = table.facts if dataset is None or is_online else dataset
            metadata |= {"observation_dim": sizes.observation_dim, "action_dim": sizes.action_dim}
            metadata |= {"environment": environment, "dataset": data_name}
            metadata |= method.policy(state).metadata() if hasattr(method, "policy") else {}
        if dataset is not None:
            metadata |= {**identity_of(dataset), **more}
        elif not is_online:
            metadata |= {"data": data_name, "places": places(settings)}
        if action_limit != 1.0:
            metadata |= {"action_limit": action_limit}
        if start is not None and "seeds" in start[1]:
            metadata |= {"start": identity_of_run(start[1])}
        if model is not None:
            metadata |= {"model": model.identity()}
        if hasattr(method, "describe"):
            metadata |= method.describe(state)
        return cls(
            config=config,
            method=method,
            state=state,
            dataset=dataset,
            data_name=data_name,
            environment=environment,
            metadata=metadata,
            ranks=ranks,
        )

    def record(self) -> dict[str, Any]:
        """What ``config.json`` says of the run."""
        return {
            "kind": name_of(self.config.method),
            "seeds": list(self.config.seeds),
            "dataset": self.data_name,
            "environment": self.environment,
            "variant": self.config.variant,
            "config": plain(self.config),
        }

    def train_in_process(self, run: RunDirectory, progress: Progress, watch: Watch, *, of_larger_run: bool) -> Trained:
        """Train all seeds in this process, or in those of torchrun."""
        step, state, total, at_start = self.method.step, self.state, 0, None
        if isinstance(self.config, OnlineTrainConfig):
            if self.config.init is not None and hasattr(self.method, "action_values"):
                offline = None if self.dataset is None else offline_columns(self.dataset, self.config.environment)
                at_start = partial(values_at_start, self.method, state, offline)
            total = state.table.steps_before(self.config.schedule.updates - 1) * self.config.environments
            synthesis = self.synthesis(run, progress)
            state = OnlineState.of(
                self.method, state, synthesis, lambda steps: progress("environment", steps, total, "steps")
            )
            step = state.step
        with self.evaluation() as evaluate:
            trained = run_schedule(
                run,
                step,
                state,
                self.config.schedule,
                seeds=self.config.seeds,
                metadata=self.metadata,
                progress=progress,
                evaluate=evaluate,
                at_start=at_start,
                ranks=self.ranks,
                bounds=self.method.bounds(self.state) if hasattr(self.method, "bounds") else None,
                of_larger_run=of_larger_run,
                watch=watch,
            )
        if total:
            progress("environment", total, total, "steps")  # the ring tells of every hundredth
        return trained

    def synthesis(self, run: RunDirectory, progress: Progress) -> Synthesis | None:
        """What makes synthetic transitions for the agents, if anything does."""
        config = self.config
        if not isinstance(config, OnlineTrainConfig) or config.synthesis.every is None:
            return None
        from trajmill.experiments.synthesis import Synthesis

        return Synthesis(config.synthesis, self.state.table, config.seeds, config.compute, run.path, progress)

    def scorer(self) -> Scorer:
        """What scores the policies, on the CPU."""
        assert isinstance(self.config, DatasetTrainConfig | OnlineTrainConfig) and self.environment is not None
        return Scorer(
            method=name_of(self.config.method),
            known=self.metadata,
            environment=self.environment,
            episode_count=self.config.evaluation_episode_count,
            compute=replace(self.config.compute, device="cpu"),
        )

    @contextmanager
    def evaluation(self) -> Iterator[Evaluate | None]:
        """How the state is scored or measured as it learns, until the end of the block.

        Where training runs on a GPU, and in a process beside it, scores are those of a copy on the CPU.
        """
        if not hasattr(self.method, "policy"):
            yield (lambda update: self.method.measure(self.state)) if hasattr(self.method, "measure") else None
            return
        scorer, on_gpu = self.scorer(), self.state.step.is_cuda
        wanted = self.config.compute.scores_beside(on_gpu=on_gpu)
        if wanted and not is_one_of_several() and self.ranks.count == 1:
            with Beside(scorer) as beside:
                yield lambda update: beside.give(snapshot(self.state), update)
        elif on_gpu:
            yield lambda update: scorer.scores(snapshot(self.state), update)
        else:
            policy = self.method.policy(self.state)
            yield lambda update: scorer.scores_of(policy, update)

    def results(self, run: RunDirectory) -> dict[str, Any]:
        """What ``result.json`` says of a finished run, beside how long it took."""
        if hasattr(self.method, "policy") and self.environment is not None:
            starts = [line["metrics"] for line in run.lines("start")]
            return final_scores(run, self.environment) | ({"values_at_start": starts[0]} if starts else {})
        lines = run.lines("evaluation") or run.lines("train")
        return {"last_metrics": lines[-1]["metrics"]}


def _ring(
    config: OnlineTrainConfig[Any],
    seeds: Sequence[int],
    device: torch.device,
    start: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None,
    dataset: Dataset | None,
) -> Ring:
    """What the agents fill; observations are standardized as in the run that they start from."""
    return ring_of(
        config.environment,
        seeds,
        config.interaction,
        environment_count=config.environments,
        batch_size=config.method.batch_size,
        capacity=config.capacity,
        normalizer=None if start is None else Normalizer.of_metadata(start[1]),
        device=device,
        threads=None if device.type == "cuda" else config.compute.threads,
        offline=None if dataset is None else offline_columns(dataset, config.environment),
        offline_ratio=config.offline_ratio,
        algorithm=name_of(config.method),
    )


def _start(init: Path, method: ModuleType) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the run starts from."""
    if not hasattr(method, "start_from"):
        raise ValueError(f"{name_of(method.SMALL)} cannot start from another run; leave out --init")
    return read_start(init)
