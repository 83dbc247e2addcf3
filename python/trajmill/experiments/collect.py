"""Make a dataset of an environment, in D4RL's schema: random, medium, medium-replay, medium-expert or expert.

Policies are linear and found by augmented random search, which takes seconds, or those of an agent that learns online,
which takes hours and is D4RL's protocol. The sets are named ``hopper-ars-medium`` or after the agent, never like
D4RL's, and scores published for D4RL's are not to be expected on them.

``random``
    Uniform actions.
``medium``
    The first policy of the training that reached a third of the reference return, as it explores: a linear one with
    Gaussian action noise, an agent as it acts while it learns.
``medium-replay``
    Policies met on the way to the medium linear one, in the order of training, an equal share of the rows each, sampled
    with the same noise; of an agent, all that it had done when it was medium, random steps at the beginning included.
``medium-expert``
    The medium and then the expert policy, half of the rows each.
``expert``
    The first policy that reached nine tenths of the reference return, as it explores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.core import checks
from trajmill.core.files import check_writable
from trajmill.core.limits import usable_cores
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import Dataset, has_reference_score, normalized_score, reference_score, write_d4rl
from trajmill.data.actions import bounds_of
from trajmill.data.environments import Task, is_ours, task_of
from trajmill.data.errors import refusing, warn_about
from trajmill.evaluation.record import Recording, record_episodes
from trajmill.evaluation.rollout import Policy, add_up, episode_seeds, play
from trajmill.evaluation.simulators import BatchedEnvironment, Simulator, open_environments, versions_of
from trajmill.experiments import random_search
from trajmill.experiments.levels import AgentRun, Explorer, states_of
from trajmill.experiments.linear_policies import LinearCheckpoint, bundled_policies, read_policies, write_policies
from trajmill.training.device import torch_as_it_was
from trajmill.training.settings import at_least, plain

Kind = Literal["random", "medium", "medium-replay", "medium-expert", "expert"]

REACHED = {"medium": 1 / 3, "expert": 0.9}
"""Shares of the reference return at which a policy is called so."""
REPLAY_POLICY_COUNT = 11
_EVALUATION_EPISODES = 10
_LARGEST_BLOCK = 256  # episodes played at once
_LARGEST_BLOCK_OF_GYMNASIUM = 16  # which plays them one after another, so that more cost memory alone


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """What to collect; equal settings give equal data, whatever the threads."""

    kind: Kind = "medium"
    """random, medium, medium-replay, medium-expert or expert"""
    agent: str | None = None
    """method that learns online and whose policies play, such as sac; None plays linear policies. Kind random has
    neither"""
    run: Path | None = None
    """with --agent: its run directory, made if there is none, else made longer until the policy is as good as the kind
    asks; None is beside --out, with the ending .run"""
    rows: int | None = None
    """steps to collect, at least 2; the last episode is finished beyond them. None is 200,000, and all steps of an
    agent's medium-replay, which takes no other number"""
    cut: bool = False
    """end the file at exactly --rows, as D4RL does; its last episode then has no end"""
    seed: int = 0
    """names the initial states, the action noise and, with --train, the training; at least 0"""
    noise: float = 0.1
    """deviation of the Gaussian noise on a linear policy's actions, in units of the action limit, at least 0"""
    train: bool = False
    """train linear policies anew instead of taking the bundled ones"""
    policies: Path | None = None
    """file of linear policies to take instead of the bundled ones; with --train, where to keep the new ones"""
    target_return: float | None = None
    """return at which training stops; None takes a share of D4RL's reference return: medium 1/3, expert 0.9. Where
    both are needed it is the expert's, and medium is the same part of it"""
    training_steps: int | None = None
    """most environment steps of the training, at least 1; None is 5,000,000, and 1,000,000 of an agent"""
    threads: int | None = None
    """threads to simulate on, at least 1; None takes every core"""

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, get_args(Kind))
        at_least(2, rows=self.row_count)
        at_least(0, seed=self.seed)
        at_least(1, training_steps=self.most_steps, threads=1 if self.threads is None else self.threads)
        if self.kind == "random" and (self.train or self.policies is not None):
            raise ValueError("kind random plays no policy: leave out train and policies")
        checks.number("noise", self.noise, "[0, inf)")
        if self.agent is None:
            if self.run is not None:
                raise ValueError("run is the run of an agent: give --agent too, or leave it out")
            return
        checks.choice("agent", self.agent, tuple(filter(_learns_online, method_names())))
        if self.train or self.policies is not None or self.noise != 0.1:
            raise ValueError("train, policies and noise are of linear policies: leave them out, or leave out agent")
        if self.is_replay and (self.cut or self.rows is not None):
            raise ValueError("an agent's medium-replay has all that it did until it was medium: leave out rows and cut")

    @property
    def is_replay(self) -> bool:
        """Whether the steps are those that an agent made while it learned."""
        return self.agent is not None and self.kind == "medium-replay"

    @property
    def row_count(self) -> int:
        """`rows`, where it does not depend on a training."""
        return 200_000 if self.rows is None else self.rows

    @property
    def most_steps(self) -> int:
        """`training_steps`, also where it is None."""
        default = 5_000_000 if self.agent is None else 1_000_000
        return default if self.training_steps is None else self.training_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a file made by `collect` holds."""

    path: Path
    dataset: str
    """such as ``hopper-ars-medium``, named after its agent or the search"""
    environment: str
    row_count: int
    episode_count: int
    return_mean: float
    return_deviation: float
    normalized_score: float | None
    """None where D4RL has no reference returns"""


def _learns_online(name: str) -> bool:
    return learns_online(method_named(name))


@torch_as_it_was()
def collect(
    environment_id: str, out: AnyPath, config: CollectConfig | None = None, progress: Progress = silent
) -> Collected:
    """Play episodes and write them to `out`, a new HDF5 file in D4RL's schema with ``infos/qpos`` and ``infos/qvel``.

    What an interrupted call has trained of an agent stays in its run; call it again to go on. ValueError if the
    environment is unknown, `out` exists, or there is no policy of that kind.
    """
    config = config or CollectConfig()
    definition = task_of(environment_id)
    out = local_path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name a new file")
    if not out.parent.is_dir():
        raise ValueError(f"there is no directory {out.parent} to write {out.name} into")
    for path in (out, config.policies) if config.train and config.policies is not None else (out,):
        check_writable(local_path(path), as_file=True)
    if config.kind == "random":
        source = _Source(acts=[_uniform], said={"algorithm": "uniform random actions", "policy_mode": "uniform"})
    elif config.agent is None:
        source = _linear(definition, config, progress)
    else:
        source = _agent(definition, config, local_path(config.run or out.with_suffix(".run")), progress)
    label = "-".join(part for part in (definition.name, source.said.pop("by", None), config.kind) if part)
    block_size = _LARGEST_BLOCK if is_ours(definition.environment_id) else _LARGEST_BLOCK_OF_GYMNASIUM
    with open_environments(definition.environment_id, block_size, threads=_threads(config)) as environment:
        margin_fix = environment.margin_fix
        if source.rows is not None and source.run is not None:
            columns: dict[str, Any]
            columns, lengths, returns = _replayed(source.rows, environment, source.run, progress)
        else:
            blocks = list(_record(environment, source.acts, config, progress))
            names = ("lengths", "returns")
            lengths, returns = (np.concatenate([getattr(block, name) for block in blocks]) for name in names)
            columns = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in _STEPS + _INFOS}
    if config.cut:
        columns = {name: column[: config.row_count] for name, column in columns.items()}
    score = None
    if has_reference_score(definition.environment_id):
        score = float(normalized_score(definition.environment_id, returns.mean()))
    collected = Collected(
        path=out,
        dataset=label,
        environment=definition.environment_id,
        row_count=len(columns["rewards"]),
        episode_count=len(lengths),
        return_mean=float(returns.mean()),
        return_deviation=float(returns.std()),
        normalized_score=score,
    )
    metadata = {
        "dataset": label,
        "environment": definition.environment_id,
        "kind": config.kind,
        "policies": [],
        **source.said,
        "seed": config.seed,
        "margin_fix": margin_fix,
        **{name: getattr(collected, name) for name in ("episode_count", "return_mean", "return_deviation")},
        "normalized_score": np.nan if score is None else score,
        "versions": {"trajmill": version("trajmill"), **versions_of(definition.environment_id)},
    }
    if not is_ours(definition.environment_id):
        metadata["action_limit"] = definition.action_limit
    infos = {name: column for name in _INFOS if (column := columns.pop(name, None)) is not None and column.size}
    write_d4rl(out, **columns, infos=infos, metadata=metadata)
    return collected


_STEPS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
_INFOS = ("qpos", "qvel")


def _threads(config: CollectConfig) -> int:
    return usable_cores() if config.threads is None else config.threads


# --- playing ---


def _record(
    environment: Simulator, acts: Sequence[Act], config: CollectConfig, progress: Progress
) -> Iterator[Recording]:
    """Episodes 0, 1, 2, ... until there are enough rows; each policy plays until its share is full.

    Episodes are numbered as they are kept, and everything random in one follows from its number, so how many are played
    at once does not matter, but for rounding in an agent's networks.
    """
    row_count = episode = 0
    for index, policy in enumerate(acts):
        share = -(-config.row_count * (index + 1) // len(acts))
        expected_length = float(environment.definition.episode_limit)  # what is played beyond the share is thrown away
        while row_count < share:
            count = min(math.ceil((share - row_count) / expected_length), environment.count)
            seeds = episode_seeds(config.seed, count, first=episode)
            act = _Playing(policy, _action_noise(environment.definition, config, range(episode, episode + count)))
            block = record_episodes(act, environment, seeds)
            expected_length = float(block.lengths.mean())
            totals = row_count + np.cumsum(block.lengths)
            kept = min(int(np.searchsorted(totals, share)) + 1, count)
            yield _first_episodes(block, kept)
            row_count, episode = int(totals[kept - 1]), episode + kept
            progress("collect", min(row_count, config.row_count), config.row_count, "rows")


def _replayed(
    dataset: Dataset, environment: Simulator, run: AgentRun, progress: Progress
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.float64]]:
    """Columns of what an agent did, and the lengths and returns of the episodes that are over."""
    columns = {name: getattr(dataset, name) for name in _STEPS}
    states = states_of(dataset, environment, run, progress) if isinstance(environment, BatchedEnvironment) else None
    if states is None and isinstance(environment, BatchedEnvironment):
        with refusing(dataset.path):
            warn_about(
                "played again, its episodes are not the same in this simulator or on this machine, so positions and "
                "velocities (qpos, qvel) are not known; left out"
            )
    ends = dataset.episode_ends.nonzero()[0] + 1
    totals = np.concatenate(([0.0], np.cumsum(dataset.rewards, dtype=np.float64)))[ends]
    return columns | (states or {}), np.diff(ends, prepend=0), np.diff(totals, prepend=0.0)


def _first_episodes(block: Recording, count: int) -> Recording:
    row_count = int(block.lengths[:count].sum())
    columns = {name: getattr(block, name)[:row_count] for name in _STEPS + _INFOS}
    return Recording(**columns, lengths=block.lengths[:count], returns=block.returns[:count])


def _action_noise(definition: Task, config: CollectConfig, episodes: range) -> NDArray[np.float32]:
    """Noise (1, E, T, A) of whole episodes, each from a stream of its own; for kind random it is all of the action."""
    low, high = (limit.astype(np.float64) for limit in bounds_of(definition.action_limit))
    shape = definition.episode_limit, definition.action_dim
    noise = np.empty((1, len(episodes), *shape), np.float32)
    for index, episode in enumerate(episodes):
        generator = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(episode, 1)))
        if config.kind == "random":
            noise[0, index] = generator.uniform(low, high, shape)
        else:
            deviation = config.noise * (high - low) / 2 if config.agent is None else 1.0
            noise[0, index] = deviation * generator.standard_normal(shape)
    return noise


Act = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""observations (S, E, O) and noise (S or 1, E, A) -> actions (S, E, A)"""


def _uniform(observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Noise alone."""
    return noise


def _noisy(policy: Policy) -> Act:
    """Noise is added to what a policy does."""
    return lambda observations, noise: policy(observations) + noise


class _Playing:
    """Acts with given noise (S or 1, E, T, A); plays once."""

    def __init__(self, act: Act, noise: NDArray[np.float32]) -> None:
        self._act = act
        self._noise = iter(np.moveaxis(noise, 2, 0))

    def __call__(self, observations: NDArray[np.float32], /) -> NDArray[np.float32]:
        return self._act(observations, next(self._noise))


# --- policies ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where steps come from: policies that play, each an equal share, or what an agent did while it learned."""

    acts: Sequence[Act] = ()
    rows: Dataset | None = None
    run: AgentRun | None = None
    said: dict[str, Any]
    """for the file's attributes; and ``by``, what the dataset is named after"""


def _linear(definition: Task, config: CollectConfig, progress: Progress) -> _Source:
    """Linear policies."""
    checkpoints = _policies(definition, config, progress)
    said = {
        "by": "ars",
        "algorithm": "ARS V2-t (arXiv:1803.07055), linear",
        "policy_mode": f"linear policy plus N(0, {config.noise}^2), clipped",
        "policies": [checkpoint.described() for checkpoint in checkpoints],
    }
    return _Source(acts=[_noisy(checkpoint.policies()) for checkpoint in checkpoints], said=said)


def _agent(definition: Task, config: CollectConfig, path: Path, progress: Progress) -> _Source:
    """Policies of an agent, or what it did; it is trained until it is good enough."""
    assert config.agent is not None
    wanted = ("medium", "expert")[: 1 + (_last_level(config) == "expert")]
    targets = [_target(definition, config, level) for level in wanted]
    run = AgentRun.of(path, config.agent, definition.environment_id, config.seed, config.most_steps)
    check_writable(path)
    levels = run.reach(targets, config.most_steps, progress)[-1 if config.kind == "expert" else 0 :]
    replace(run.config.compute, device="cpu").apply()
    said = {
        "by": config.agent,
        "algorithm": method_named(config.agent).LABEL,
        "policy_mode": "the replay of the training" if config.is_replay else "as it explores while it learns",
        "policies": [level.described() for level in levels],
        "settings": plain(run.config.method),
        "interaction": plain(run.config.interaction),
    }
    if config.is_replay:
        return _Source(rows=run.rows(levels[0]), run=run, said=said)
    return _Source(acts=[Explorer(run.checkpoint(level), config.seed) for level in levels], said=said)


def _policies(definition: Task, config: CollectConfig, progress: Progress) -> list[LinearCheckpoint]:
    """The policies that play: one; for medium-expert two; for medium-replay those on the way to the medium one."""
    if config.train:
        trail = train_linear_policies(definition, config, progress)
        if config.policies is not None:
            write_policies(config.policies, definition.environment_id, trail, _provenance(definition, config))
    elif config.policies is not None:
        trail = read_policies(config.policies, definition.environment_id)
    else:
        trail = bundled_policies(definition.environment_id)
    found = []
    for wanted in ("medium", "expert") if config.kind == "medium-expert" else (_last_level(config),):
        target = _target(definition, config, wanted)
        reached = next((index for index, checkpoint in enumerate(trail) if checkpoint.return_mean >= target), None)
        if reached is None:
            best = max(checkpoint.return_mean for checkpoint in trail)
            raise ValueError(
                f"no {definition.environment_id} policy reaches the return {target:,.0f} of {wanted!r}; the best has "
                f"{best:,.0f}: give --train, more --training-steps or a lower --target-return"
            )
        found += trail[: reached + 1] if config.kind == "medium-replay" else [trail[reached]]
    return found


def _last_level(config: CollectConfig) -> str:
    """The level at which a training stops."""
    return "expert" if config.kind in ("expert", "medium-expert") else "medium"


def _target(definition: Task, config: CollectConfig, kind: str) -> float:
    """Return at which a policy is called medium or expert."""
    if config.target_return is not None:
        share = REACHED[kind] / REACHED[_last_level(config)]
        if share != 1.0 and config.target_return <= 0:
            raise ValueError(
                f"medium-expert takes a share of --target-return as medium, which a return of {config.target_return:g} "
                "has not; collect medium and expert by a --target-return each"
            )
        return config.target_return * share
    if not has_reference_score(definition.environment_id):
        raise ValueError(f"{definition.environment_id} has no reference return; give --target-return")
    return REACHED[kind] * reference_score(definition.environment_id).maximum


def _provenance(definition: Task, config: CollectConfig) -> dict[str, Any]:
    return {
        "algorithm": "ARS V2-t (arXiv:1803.07055)",
        "config": asdict(random_search.config_of(definition)),
        "seed": config.seed,
        "noise": config.noise,
        "kind": config.kind,
        "evaluation_episode_count": _EVALUATION_EPISODES,
        "versions": {"trajmill": version("trajmill"), **versions_of(definition.environment_id)},
    }


def train_linear_policies(
    definition: Task, config: CollectConfig, progress: Progress = silent
) -> list[LinearCheckpoint]:
    """Search until the target is reached or the steps are spent; returns policies in the order of training.

    They are thinned to `REPLAY_POLICY_COUNT` up to the medium one, evenly over the training, plus the last.
    """
    settings = random_search.config_of(definition)
    target = _target(definition, config, _last_level(config))
    state = random_search.create(definition.observation_dim, definition.action_dim)
    slot_count = max(2 * settings.direction_count, _EVALUATION_EPISODES)
    trail: list[LinearCheckpoint] = []
    with open_environments(definition.environment_id, slot_count, threads=_threads(config)) as environment:
        while True:
            trail.append(_evaluated(state, environment, config))
            reached = max(checkpoint.return_mean for checkpoint in trail)
            if target > 0:
                progress("train", int(np.clip(reached, 0, target)), int(target), "points of return")
            else:
                progress("train", min(state.environment_steps, config.most_steps), config.most_steps, "steps")
            if reached >= target or state.environment_steps >= config.most_steps:
                break
            state = _iterate(state, settings, environment, config)
    medium = target if target <= 0 else _target(definition, config, "medium")
    return _thinned(trail, medium)


def _iterate(
    state: random_search.ARSState, settings: random_search.ARSConfig, environment: Simulator, config: CollectConfig
) -> random_search.ARSState:
    """One iteration of the search: all its policies from the same initial state, under the same action noise."""
    directions = random_search.draw_directions(state, settings, config.seed)
    noise = _action_noise(environment.definition, config, range(state.iteration, state.iteration + 1))
    act = random_search.ObservationMoments(
        _Playing(_noisy(random_search.perturbed_policies(state, settings, directions)), noise), state.moments
    )
    slot_count = 2 * settings.direction_count
    seeds = episode_seeds(config.seed, 1, first=state.iteration) * slot_count
    steps = play(act, environment, seeds, slot_count, settings.episode_length)
    returns, lengths = add_up(steps, (slot_count, 1))
    return random_search.update(state, settings, directions, returns[:, 0], lengths[:, 0], act.moments)


def _evaluated(state: random_search.ARSState, environment: Simulator, config: CollectConfig) -> LinearCheckpoint:
    """The policy found so far, with the mean return of whole episodes played as the data's are, with noise."""
    act = _Playing(_noisy(state.policies()), _action_noise(environment.definition, config, range(_EVALUATION_EPISODES)))
    seeds = episode_seeds(config.seed, _EVALUATION_EPISODES)
    steps = play(act, environment, seeds, 1, environment.definition.episode_limit)
    returns, _ = add_up(steps, (1, _EVALUATION_EPISODES))
    return LinearCheckpoint(
        matrix=state.matrix,
        mean=state.moments.mean,
        deviation=state.moments.deviation(),
        return_mean=float(returns.mean()),
        environment_steps=state.environment_steps,
    )


def _thinned(trail: list[LinearCheckpoint], medium: float) -> list[LinearCheckpoint]:
    """At most `REPLAY_POLICY_COUNT` policies up to the first that is medium, and the last one."""
    reached = next((index for index, checkpoint in enumerate(trail) if checkpoint.return_mean >= medium), None)
    end = len(trail) - 1 if reached is None else reached
    kept = set(np.linspace(0, end, REPLAY_POLICY_COUNT).round().astype(int).tolist()) | {len(trail) - 1}
    return [trail[index] for index in sorted(kept)]
