"""Train any method of `trajmill.algorithms`, all seeds in one program, and score it as it learns.

The type of the settings says which method it is, so there is no list of methods.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajmill.algorithms import learns_online, method_named, name_of
from trajmill.core import checks
from trajmill.core.files import check_writable
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import (
    Dataset,
    Normalizer,
    environment_of,
    has_reference_score,
    load_dataset,
    qlearning_transitions,
    reference_score,
)
from trajmill.data.environments import EPISODE_LIMIT, action_limit_of, check_environment, find_environment, task_of
from trajmill.data.errors import warn_about
from trajmill.data.subsets import divide_actions
from trajmill.evaluation.environments import environment_definition
from trajmill.evaluation.rollout import Policy, evaluate_policy
from trajmill.evaluation.statistics import average_last_four, best
from trajmill.experiments.online import OnlineState, SynthesisConfig, ring_of, values_at_start
from trajmill.experiments.prediction import (
    GREATEST_HORIZON,
    TrainedModel,
    check_model,
    identity_of,
    identity_of_run,
    load_model,
    predicted_rows,
)
from trajmill.replay.ring import Ring
from trajmill.replay.tables import Mixture, TransitionRows, table_of
from trajmill.runs.beside import Beside
from trajmill.runs.directory import RunDirectory
from trajmill.runs.processes import finish, is_one_of_several, process_count, seed_groups, train_in_processes
from trajmill.runs.reading import read_able, read_start
from trajmill.runs.schedule import Evaluate, Trained, run_schedule
from trajmill.training.device import ComputeConfig, torch_as_it_was
from trajmill.training.distributed import ALONE, Ranks, joined
from trajmill.training.metrics import finite_or_none
from trajmill.training.runner import Runner
from trajmill.training.settings import (
    Interaction,
    Schedule,
    at_least,
    check_seeds,
    decaying,
    defaults,
    for_seeds,
    in_range,
    of_python,
    per_seed,
    places,
    plain,
)
from trajmill.training.state import TrainingState

if TYPE_CHECKING:
    from trajmill.experiments.synthesis import Synthesis

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Generic[ConfigT]):
    """A run of a method that needs no dataset; defaults are the paper's."""

    init: Path | None = None
    """run directory or checkpoint of another method to start from; None starts from scratch"""
    seeds: tuple[int, ...] = (0,)
    """all trained in one program"""
    method: ConfigT
    schedule: Schedule
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    variant: str = ""
    """label in reports; by default the method's"""

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        per_seed(self.method, len(self.seeds), torch.device("cpu"), torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTrainConfig(TrainConfig[ConfigT]):
    """A run of a method on a dataset; defaults are the paper's."""

    dataset: str
    """name of a bundled dataset, or path of a file"""
    mix: tuple[str, ...] = ()
    """more datasets as NAME_OR_PATH=SHARE, exactly this share of each batch; --dataset has the rest, which may be
    nothing, and normalizes all"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where files do not mark it; also for --mix"""
    environment: str | None = None
    """Gymnasium id to evaluate in; None takes the dataset's own"""
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1"""
    predict: Path | None = None
    """run directory or checkpoint of a model that predicts next observations of --dataset (arXiv 2312.09844)"""
    prediction_rate: float = 0.5
    """share of --dataset's rows in every batch whose next observations are predicted, [0, 1]"""
    prediction_horizon: int = 1
    """steps, 1 to 5, that predictions are ahead of the last real state, where the episode has so many"""
    prediction_seed: int | None = None
    """names the draw of predictions from a stochastic model, one a row, at least 0; None takes its mean"""
    predict_other_data: bool = False
    """accept a model that has learned from other data than --dataset"""
    relevance: Path | None = None
    """run that says how relevant each row is, for methods with a condition: errors of critics, or of a model"""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        at_least(1, evaluation_episode_count=self.evaluation_episode_count)
        in_range("[0, 1]", prediction_rate=self.prediction_rate)
        checks.integer("prediction_horizon", self.prediction_horizon, 1, GREATEST_HORIZON)
        at_least(0, prediction_seed=self.prediction_seed or 0)
        rest = (self.prediction_rate, self.prediction_horizon, self.prediction_seed, self.predict_other_data)
        if self.predict is None and rest != (0.5, 1, None, False):
            raise ValueError("options of predictions need a model: give --predict RUN too, or leave them out")
        shares = list(self.shares.values())
        if len(self.shares) < len(self.mix) or sum(shares) > 1.0 + 1e-9:
            raise ValueError(f"mix must name different datasets with shares that sum to at most 1, got {self.mix}")

    @property
    def shares(self) -> dict[str, float]:
        """Share of a batch by dataset of `mix`."""
        found = {}
        for text in self.mix:
            name, equals, share = text.rpartition("=")
            try:
                found[name] = checks.number("share", float(share), "(0, 1]")
            except ValueError:
                equals = ""
            if not equals or not name:
                raise ValueError(
                    f"mix takes NAME_OR_PATH=SHARE with a share above 0, at most 1, such as B=0.5, got {text!r}"
                )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTrainConfig(TrainConfig[ConfigT]):
    """A run of a method whose agents learn while they act; defaults are the paper's.

    One update is one of each seed; `interaction` says how many steps of the environment lie between two.
    """

    environment: str
    """Gymnasium id or short name of the environment, such as hopper"""
    interaction: Interaction
    environments: int = 1
    """environments of each seed that are stepped together, at least 1"""
    dataset: str | None = None
    """name of a bundled dataset, or path of a file, of which every batch has a share (arXiv 2302.02948)"""
    offline_ratio: float = 0.5
    """that share, rounded down, (0, 1)"""
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes of --dataset, where the file does not mark it"""
    capacity: int = 1_000_000
    """transitions of each seed that are kept, the newest, at least 1"""
    synthesis: SynthesisConfig[Any, Any] = field(default_factory=SynthesisConfig)
    evaluation_episode_count: int = 10
    """episodes per evaluation and seed, at least 1"""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        at_least(1, environments=self.environments, capacity=self.capacity)
        at_least(1, evaluation_episode_count=self.evaluation_episode_count)
        in_range("(0, 1)", offline_ratio=self.offline_ratio)
        if self.dataset is None and (self.offline_ratio, self.limit) != (0.5, None):
            raise ValueError(
                "offline_ratio and limit are of a dataset: give --dataset too, or leave them out; the environment "
                f"itself always cuts episodes after {EPISODE_LIMIT:,} steps"
            )
        if self.synthesis.every is None and self.synthesis != SynthesisConfig():
            raise ValueError("settings of synthesis need models: give --synthesis.every too, or leave them out")
        if None not in (self.dataset, self.synthesis.every) and self.offline_ratio + self.synthesis.share >= 1.0:
            raise ValueError(
                f"offline_ratio {self.offline_ratio:g} and synthesis.share {self.synthesis.share:g} leave no "
                "rows of the agent's own in a batch; let them be less than 1 together"
            )


@torch_as_it_was()
def train(
    config: TrainConfig[Any],
    output: AnyPath,
    progress: Progress = silent,
    *,
    resume: bool = False,
    processes: int | None = 1,
    of_larger_run: bool = False,
) -> Path:
    """Train every seed and score it; gives the run directory.

    `processes` share the seeds, with the same result (docs/training-faults.md); None is one per CPU core. Each makes a
    run `of_larger_run`, which keeps running where every seed of it has diverged. Processes that torchrun
    started share the batches instead.
    """
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
            return output
        with run.locked() if ranks.is_first else nullcontext():
            if count == 1:
                trained = task.train_in_process(run, progress, of_larger_run=of_larger_run)
            else:
                groups = seed_groups(len(config.seeds), count)
                parts = [_of_seeds(config, positions) for positions in groups]
                trained = train_in_processes(run, _train_part, parts, progress)
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


@torch_as_it_was()
def probe(config: TrainConfig[Any], seconds: float = 1.0) -> Probe:
    """Make updates for some seconds, at least one, to see what they cost; nothing is written."""
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
    return Probe(update_seconds=passed / made, tensors=task.state.moving(), known=task.metadata)


def _train_part(config: TrainConfig[Any], output: Path, progress: Progress) -> None:
    """Body of a process that trains some seeds of a run."""
    train(config, output, progress, resume=any(output.iterdir()), of_larger_run=True)


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
            if is_online and _differ(recorded := find_environment(dataset), environment):
                warn_about(f"dataset {dataset.name} was recorded in {recorded}, agents act in {environment}; as asked")
        settings = method.adapt(config.method, dataset, environment) if hasattr(method, "adapt") else config.method
        settings = decaying(settings, config.schedule)
        config = replace(config, method=settings, variant=config.variant or method.LABEL)
        start = None if config.init is None else _start(config.init, method)
        if start is not None and is_online and _differ(trained := start[1].get("environment"), environment):
            warn_about(f"init {config.init} was trained for {trained}, agents act in {environment}; as asked")
        part = _of_seeds(config, range(seed_count))
        model = _model(config, method, dataset)
        action_limit = action_limit_of(environment) if hasattr(method, "policy") else 1.0
        more = dict[str, Any]()
        if isinstance(config, OnlineTrainConfig):
            table: Any = _ring(config, part.seeds, device, start, dataset)
            data_name = environment or ""
        else:
            rows = _rows(config, method, dataset, model, action_limit, progress, more)
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

    def train_in_process(self, run: RunDirectory, progress: Progress, *, of_larger_run: bool) -> Trained:
        """Train all seeds in this process, or in those of torchrun."""
        step, state, total, at_start = self.method.step, self.state, 0, None
        if isinstance(self.config, OnlineTrainConfig):
            if self.config.init is not None and hasattr(self.method, "action_values"):
                offline = None if self.dataset is None else _offline(self.dataset, self.config.environment)
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

    @contextmanager
    def evaluation(self) -> Iterator[Evaluate | None]:
        """How the state is scored or measured as it learns, until the end of the block.

        Where training runs on a GPU, and in a process beside it, scores are those of a copy on the CPU.
        """
        if not hasattr(self.method, "policy"):
            yield (lambda update: self.method.measure(self.state)) if hasattr(self.method, "measure") else None
            return
        assert isinstance(self.config, DatasetTrainConfig | OnlineTrainConfig) and self.environment is not None
        scorer = Scorer(
            method=name_of(self.config.method),
            known=self.metadata,
            environment=self.environment,
            episode_count=self.config.evaluation_episode_count,
            compute=replace(self.config.compute, device="cpu"),
        )
        place, is_part = self.config.compute.evaluation, is_one_of_several()
        on_gpu = self.state.step.is_cuda
        if (place == "beside" or (place == "auto" and on_gpu)) and not is_part and self.ranks.count == 1:
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
        offline=None if dataset is None else _offline(dataset, config.environment),
        offline_ratio=config.offline_ratio,
        algorithm=name_of(config.method),
    )


def _offline(dataset: Dataset, environment: str) -> dict[str, NDArray[np.float32]]:
    """The columns of a dataset as batches of agents that learn online have them: raw, actions within ±1."""
    transitions = qlearning_transitions(divide_actions(dataset, action_limit_of(environment)), "d4rl")
    shown = task_of(environment).observation_dim  # D4RL's files of Ant have zeros after these
    columns = TransitionRows(transitions=transitions).columns
    return {name: rows[:, :shown] if "observation" in name else rows for name, rows in columns.items()}


def _start(init: Path, method: ModuleType) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the run starts from."""
    if not hasattr(method, "start_from"):
        raise ValueError(f"{name_of(method.SMALL)} cannot start from another run; leave out --init")
    return read_start(init)


def _model(config: TrainConfig[Any], method: ModuleType, dataset: Dataset | None) -> TrainedModel | None:
    """What predicts next observations; ValueError for a method that learns to predict them itself."""
    if not isinstance(config, DatasetTrainConfig) or dataset is None or config.predict is None:
        return None
    if hasattr(method, "predict"):
        raise ValueError(
            f"{name_of(config.method)} learns to predict next observations, and with predicted ones in place of real "
            f"ones it would learn another model's errors and be measured on them; leave out --predict"
        )
    model = load_model(config.predict, config.prediction_seed)
    check_model(model, dataset, other_data=config.predict_other_data)
    return model


def _rows(
    config: TrainConfig[Any],
    method: ModuleType,
    dataset: Dataset | None,
    model: TrainedModel | None,
    action_limit: float,
    progress: Progress,
    known: dict[str, Any],
) -> Any:
    """What the method learns from: made from its settings, or of a dataset, of predictions, of more datasets.

    Actions are in units of `action_limit`, which a model that predicts does not know.
    `known` receives what tells the content of the latter from that of others.
    """
    if not isinstance(config, DatasetTrainConfig) or dataset is None:
        return method.generate(config.method, progress)
    first = method.prepare(config.method, divide_actions(dataset, action_limit))
    if config.relevance is not None:
        first, known["relevance"] = _with_relevance(first, config.method, config.relevance)
    share = max(0.0, 1.0 - sum(config.shares.values()))
    sources = [(first, share)]
    if model is not None:
        rate = config.prediction_rate
        predicted = predicted_rows(first, model.with_actions_in(action_limit), config.prediction_horizon)
        sources = [(first, share * (1.0 - rate)), (predicted, share * rate)]
    others = {name: load_dataset(name, limit=config.limit) for name in config.shares}
    if others:
        known["mix"] = [identity_of(other) | {"share": config.shares[name]} for name, other in others.items()]
    for name, other in others.items():
        sizes = (other.observation_dim, other.action_dim)
        if sizes != (dataset.observation_dim, dataset.action_dim):
            raise ValueError(
                f"mix {name} has {sizes[0]} observation and {sizes[1]} action numbers, dataset {dataset.name} has "
                f"{dataset.observation_dim} and {dataset.action_dim}"
            )
        tasks = [find_environment(each) for each in (other, dataset)]
        if _differ(*tasks):
            warn_about(f"mix {name} was recorded in {tasks[0]}, dataset {dataset.name} in {tasks[1]}; mixed as asked")
        rows = method.prepare(config.method, divide_actions(other, action_limit))
        if config.relevance is not None:
            rows, _ = _with_relevance(rows, config.method, config.relevance)
        sources.append((rows.like(first), config.shares[name]))
    parts, weights = zip(*((rows, weight) for rows, weight in sources if weight > 1e-9), strict=True)
    return parts[0] if len(parts) == 1 else Mixture.of(parts, weights)


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two environments are known and not versions of the same one."""
    return None not in (one, other) and len({str(each).lower().partition("-v")[0] for each in (one, other)}) > 1


def _with_relevance(rows: Any, settings: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The rows with how relevant a run finds each, and what tells that run; ValueError if there is no condition."""
    if not (hasattr(rows, "with_relevance") and hasattr(settings, "condition")):
        raise ValueError("relevance is for methods that learn with a condition, which this one does not; leave it out")
    relevance, tensors, known = read_able(path, "relevance", "relevance", "finds nothing relevant")
    real = rows.transitions
    sizes, wanted = (real.observation.shape[1], real.action.shape[1]), (known["observation_dim"], known["action_dim"])
    if sizes != wanted:
        raise ValueError(f"{path} takes {wanted[0]} observation and {wanted[1]} action numbers, the data has {sizes}")
    return rows.with_relevance(relevance(tensors, known, real)), identity_of_run(known)


def snapshot(state: TrainingState) -> dict[str, Tensor]:
    """Copies on the CPU of what a policy may be made of: all that moves but optimizers and metrics."""
    moving = {name: tensor for name, tensor in state.moving().items() if "_adam/" not in name and name != "metrics"}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in moving.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Scores policies: mean return and score of every seed; the update names the series of episodes."""

    method: str
    known: Mapping[str, Any]
    """what checkpoints say beside their tensors"""
    environment: str
    episode_count: int
    compute: ComputeConfig

    def __call__(self, tensors: Mapping[str, Tensor], update: int) -> dict[str, list[float]]:
        """`scores`, in a process that nothing has set up yet."""
        self.compute.apply()
        return self.scores(tensors, update)

    def scores(self, tensors: Mapping[str, Tensor], update: int) -> dict[str, list[float]]:
        """The scores of a `snapshot`."""
        return self.scores_of(method_named(self.method).restore(tensors, self.known), update)

    def scores_of(self, act: Policy, update: int) -> dict[str, list[float]]:
        """The scores of policies."""
        result = evaluate_policy(
            act,
            self.environment,
            seed_count=len(self.known["seeds"]),
            episode_count=self.episode_count,
            episode_seed=update,
            observation_dim=self.known["observation_dim"],
            action_scale=self.known.get("action_limit", 1.0),
        )
        returns = result.returns.mean(axis=1)
        return {"return_mean": returns.tolist(), "normalized_score": result.normalized_scores.tolist()}


def final_scores(run: RunDirectory, environment: str) -> dict[str, Any]:
    """Average of the last four evaluations and the best one, per seed, None for a seed that diverged; and whence."""
    evaluations = [line["metrics"] for line in run.lines("evaluation")]
    curve, returns = (  # None becomes NaN
        np.array([metrics[name] for metrics in evaluations], np.float64) for name in ("normalized_score", "return_mean")
    )
    return {
        "average_return": [finite_or_none(value) for value in average_last_four(returns).tolist()],
        "average_last_four": [finite_or_none(value) for value in average_last_four(curve).tolist()],
        "best": [finite_or_none(value) for value in best(curve).tolist()],
        "environment": environment,
        "reference_score": asdict(reference_score(environment)) if has_reference_score(environment) else None,
        "margin_fix": environment_definition(environment).margin_fix,
    }
