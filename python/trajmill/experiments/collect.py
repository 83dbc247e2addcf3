"""Make a dataset: random, medium, medium-replay or expert episodes of a MuJoCo environment, in D4RL's schema.

D4RL's sets come from soft actor-critic. Here the policies are linear and found by augmented random search, which takes
seconds; their data is less diverse, so the sets are named ``hopper-ars-medium``, never like D4RL's, and scores
published for D4RL's are not to be expected on them.

``random``
    Uniform actions.
``medium``
    The first policy of the training that reached a third of the reference return, sampled with Gaussian action noise.
``medium-replay``
    Policies met on the way to the medium one, in the order of training, an equal share of the rows each, sampled with
    the same noise.
``expert``
    The first policy that reached nine tenths of the reference return, sampled with the same noise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.core.files import check_writable
from trajmill.core.limits import usable_cores
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import has_reference_score, normalized_score, reference_score, write_d4rl
from trajmill.data.environments import EPISODE_LIMIT
from trajmill.evaluation.environments import EnvironmentDefinition, environment_definition
from trajmill.evaluation.record import Recording, record_episodes
from trajmill.evaluation.rollout import Policy, add_up, episode_seeds, play
from trajmill.evaluation.simulators import BatchedEnvironment, simulator_versions
from trajmill.experiments import random_search
from trajmill.experiments.linear_policies import LinearCheckpoint, bundled_policies, read_policies, write_policies
from trajmill.training.settings import at_least

Kind = Literal["random", "medium", "medium-replay", "expert"]

REACHED = {"medium": 1 / 3, "expert": 0.9}
"""Shares of the reference return at which a policy is called so."""
REPLAY_POLICY_COUNT = 11
_EVALUATION_EPISODES = 10
_LARGEST_BLOCK = 256  # episodes played at once


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectConfig:
    """What to collect; equal settings give equal data, whatever the threads."""

    kind: Kind = "medium"
    """random, medium, medium-replay or expert"""
    rows: int = 200_000
    """steps to collect, at least 2; the last episode is finished beyond them"""
    cut: bool = False
    """end the file at exactly --rows, as D4RL does; its last episode then has no end"""
    seed: int = 0
    """names the initial states, the action noise and, with --train, the training; at least 0"""
    noise: float = 0.1
    """deviation of the Gaussian noise on a policy's actions, in units of the action limit, at least 0"""
    train: bool = False
    """train policies anew instead of taking the bundled ones"""
    policies: Path | None = None
    """file of policies to take instead of the bundled ones; with --train, where to keep the new ones"""
    target_return: float | None = None
    """return at which training stops; None takes a share of D4RL's reference return: medium 1/3, expert 0.9"""
    training_steps: int = 5_000_000
    """most environment steps of the training, at least 1"""
    threads: int | None = None
    """threads to simulate on, at least 1; None takes every core"""

    def __post_init__(self) -> None:
        checks.choice("kind", self.kind, get_args(Kind))
        at_least(2, rows=self.rows)
        at_least(0, seed=self.seed)
        at_least(1, training_steps=self.training_steps, threads=1 if self.threads is None else self.threads)
        if self.kind == "random" and (self.train or self.policies is not None):
            raise ValueError("kind random plays no policy: leave out train and policies")
        checks.number("noise", self.noise, "[0, inf)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a file made by `collect` holds."""

    path: Path
    dataset: str
    """such as ``hopper-ars-medium``"""
    environment: str
    row_count: int
    episode_count: int
    return_mean: float
    return_deviation: float
    normalized_score: float | None
    """None where D4RL has no reference returns"""


def collect(
    environment_id: str, out: AnyPath, config: CollectConfig | None = None, progress: Progress = silent
) -> Collected:
    """Play episodes and write them to `out`, a new HDF5 file in D4RL's schema with ``infos/qpos`` and ``infos/qvel``.

    ValueError if the environment is unknown, `out` exists, or there is no policy of that kind.
    """
    config = config or CollectConfig()
    definition = environment_definition(environment_id)
    out = local_path(out)
    if os.path.lexists(out):
        raise ValueError(f"{out} exists; name a new file")
    if not out.parent.is_dir():
        raise ValueError(f"there is no directory {out.parent} to write {out.name} into")
    for path in (out, config.policies) if config.train and config.policies is not None else (out,):
        check_writable(local_path(path), as_file=True)
    short = definition.name
    label = f"{short}-random" if config.kind == "random" else f"{short}-ars-{config.kind}"
    checkpoints = [] if config.kind == "random" else _policies(definition, config, progress)
    with BatchedEnvironment(definition.environment_id, _LARGEST_BLOCK, threads=_threads(config)) as environment:
        blocks = list(_record(environment, checkpoints, config, progress))
        margin_fix = environment.margin_fix
    lengths, returns = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("lengths", "returns"))
    row_count = config.rows if config.cut else int(lengths.sum())
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(block, name) for block in blocks])[:row_count] for name in _STEPS + _INFOS
    }
    score = None
    if has_reference_score(definition.environment_id):
        score = float(normalized_score(definition.environment_id, returns.mean()))
    collected = Collected(
        path=out,
        dataset=label,
        environment=definition.environment_id,
        row_count=row_count,
        episode_count=len(lengths),
        return_mean=float(returns.mean()),
        return_deviation=float(returns.std()),
        normalized_score=score,
    )
    metadata = {
        "dataset": label,
        "environment": definition.environment_id,
        "kind": config.kind,
        "algorithm": "uniform random actions" if config.kind == "random" else "ARS V2-t (arXiv:1803.07055), linear",
        "policy_mode": "uniform" if config.kind == "random" else f"linear policy plus N(0, {config.noise}^2), clipped",
        "policies": [checkpoint.described() for checkpoint in checkpoints],
        "seed": config.seed,
        "margin_fix": margin_fix,
        **{name: getattr(collected, name) for name in ("episode_count", "return_mean", "return_deviation")},
        "normalized_score": np.nan if score is None else score,
        "versions": {"trajmill": version("trajmill"), **simulator_versions()},
    }
    infos = {name: columns.pop(name) for name in _INFOS}
    write_d4rl(out, **columns, infos=infos, metadata=metadata)
    return collected


_STEPS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
_INFOS = ("qpos", "qvel")


def _threads(config: CollectConfig) -> int:
    return usable_cores() if config.threads is None else config.threads


# --- playing ---


def _record(
    environment: BatchedEnvironment, checkpoints: list[LinearCheckpoint], config: CollectConfig, progress: Progress
) -> Iterator[Recording]:
    """Episodes 0, 1, 2, ... until there are enough rows; each policy plays until its share is full.

    Episodes are numbered as they are kept, and everything random in one follows from its number, so how many are played
    at once does not matter.
    """
    row_count = episode = 0
    policies: list[random_search.LinearPolicies | None] = [checkpoint.policies() for checkpoint in checkpoints]
    if config.kind == "random":
        policies = [None]
    for index, policy in enumerate(policies):
        share = -(-config.rows * (index + 1) // len(policies))
        expected_length = float(EPISODE_LIMIT)  # of an episode; what is played beyond the share is thrown away
        while row_count < share:
            count = min(math.ceil((share - row_count) / expected_length), environment.count)
            seeds = episode_seeds(config.seed, count, first=episode)
            act = _Noisy(policy, _action_noise(environment.definition, config, range(episode, episode + count)))
            block = record_episodes(act, environment, seeds)
            expected_length = float(block.lengths.mean())
            totals = row_count + np.cumsum(block.lengths)
            kept = min(int(np.searchsorted(totals, share)) + 1, count)
            yield _first_episodes(block, kept)
            row_count, episode = int(totals[kept - 1]), episode + kept
            progress("collect", min(row_count, config.rows), config.rows, "rows")


def _first_episodes(block: Recording, count: int) -> Recording:
    row_count = int(block.lengths[:count].sum())
    columns = {name: getattr(block, name)[:row_count] for name in _STEPS + _INFOS}
    return Recording(**columns, lengths=block.lengths[:count], returns=block.returns[:count])


def _action_noise(definition: EnvironmentDefinition, config: CollectConfig, episodes: range) -> NDArray[np.float32]:
    """Noise (1, E, T, A) of whole episodes, each from a stream of its own; for kind random it is all of the action."""
    limit, shape = definition.action_limit, (EPISODE_LIMIT, definition.action_dim)
    noise = np.empty((1, len(episodes), *shape), np.float32)
    for index, episode in enumerate(episodes):
        generator = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(episode, 1)))
        if config.kind == "random":
            noise[0, index] = generator.uniform(-limit, limit, shape)
        else:
            noise[0, index] = config.noise * limit * generator.standard_normal(shape)
    return noise


class _Noisy:
    """Actions of a policy (None: zeros) plus given noise (S or 1, E, T, A); plays once."""

    def __init__(self, policy: Policy | None, noise: NDArray[np.float32]) -> None:
        self._policy = policy
        self._noise = iter(np.moveaxis(noise, 2, 0))

    def __call__(self, observations: NDArray[np.float32], /) -> NDArray[np.float32]:
        noise: NDArray[np.float32] = next(self._noise)
        return noise if self._policy is None else self._policy(observations) + noise


# --- policies ---


def _policies(definition: EnvironmentDefinition, config: CollectConfig, progress: Progress) -> list[LinearCheckpoint]:
    """The policies that play: one, or for medium-replay those on the way to the medium one."""
    if config.train:
        trail = train_linear_policies(definition, config, progress)
        if config.policies is not None:
            write_policies(config.policies, definition.environment_id, trail, _provenance(definition, config))
    elif config.policies is not None:
        trail = read_policies(config.policies, definition.environment_id)
    else:
        trail = bundled_policies(definition.environment_id)
    wanted = "expert" if config.kind == "expert" else "medium"
    target = _target(definition, config, wanted)
    reached = next((index for index, checkpoint in enumerate(trail) if checkpoint.return_mean >= target), None)
    if reached is None:
        best = max(checkpoint.return_mean for checkpoint in trail)
        raise ValueError(
            f"no {definition.environment_id} policy reaches the return {target:,.0f} of {wanted!r}; the best has "
            f"{best:,.0f}: give --train, more --training-steps or a lower --target-return"
        )
    return trail[: reached + 1] if config.kind == "medium-replay" else [trail[reached]]


def _target(definition: EnvironmentDefinition, config: CollectConfig, kind: str) -> float:
    """Return at which a policy is called medium or expert."""
    if config.target_return is not None:
        return config.target_return
    if not has_reference_score(definition.environment_id):
        raise ValueError(f"{definition.environment_id} has no reference return; give --target-return")
    return REACHED[kind] * reference_score(definition.environment_id).maximum


def _provenance(definition: EnvironmentDefinition, config: CollectConfig) -> dict[str, Any]:
    return {
        "algorithm": "ARS V2-t (arXiv:1803.07055)",
        "config": asdict(random_search.CONFIGS[definition.environment_id]),
        "seed": config.seed,
        "noise": config.noise,
        "kind": config.kind,
        "evaluation_episode_count": _EVALUATION_EPISODES,
        "versions": {"trajmill": version("trajmill"), **simulator_versions()},
    }


def train_linear_policies(
    definition: EnvironmentDefinition, config: CollectConfig, progress: Progress = silent
) -> list[LinearCheckpoint]:
    """Search until the target is reached or the steps are spent; returns policies in the order of training.

    They are thinned to `REPLAY_POLICY_COUNT` up to the medium one, evenly over the training, plus the last.
    """
    settings = random_search.CONFIGS[definition.environment_id]
    target = _target(definition, config, "expert" if config.kind == "expert" else "medium")
    state = random_search.create(definition.observation_dim, definition.action_dim)
    slot_count = max(2 * settings.direction_count, _EVALUATION_EPISODES)
    trail: list[LinearCheckpoint] = []
    with BatchedEnvironment(definition.environment_id, slot_count, threads=_threads(config)) as environment:
        while True:
            trail.append(_evaluated(state, environment, config))
            reached = max(checkpoint.return_mean for checkpoint in trail)
            progress("train", int(np.clip(reached, 0, target)), int(target), "points of return")
            if reached >= target or state.environment_steps >= config.training_steps:
                break
            state = _iterate(state, settings, environment, config)
    return _thinned(trail, _target(definition, config, "medium"))


def _iterate(
    state: random_search.ARSState,
    settings: random_search.ARSConfig,
    environment: BatchedEnvironment,
    config: CollectConfig,
) -> random_search.ARSState:
    """One iteration of the search: all its policies from the same initial state, under the same action noise."""
    directions = random_search.draw_directions(state, settings, config.seed)
    noise = _action_noise(environment.definition, config, range(state.iteration, state.iteration + 1))
    act = random_search.ObservationMoments(
        _Noisy(random_search.perturbed_policies(state, settings, directions), noise), state.moments
    )
    slot_count = 2 * settings.direction_count
    seeds = episode_seeds(config.seed, 1, first=state.iteration) * slot_count
    steps = play(act, environment, seeds, slot_count, settings.episode_length)
    returns, lengths = add_up(steps, (slot_count, 1))
    return random_search.update(state, settings, directions, returns[:, 0], lengths[:, 0], act.moments)


def _evaluated(
    state: random_search.ARSState, environment: BatchedEnvironment, config: CollectConfig
) -> LinearCheckpoint:
    """The policy found so far, with the mean return of whole episodes played as the data's are, with noise."""
    act = _Noisy(state.policies(), _action_noise(environment.definition, config, range(_EVALUATION_EPISODES)))
    seeds = episode_seeds(config.seed, _EVALUATION_EPISODES)
    returns, _ = add_up(play(act, environment, seeds, 1, EPISODE_LIMIT), (1, _EVALUATION_EPISODES))
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
