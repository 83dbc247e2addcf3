"""Scoring the policies of many training seeds at once, each on a fixed number of whole episodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.core.seeds import hashed_seed
from trajmill.data import has_reference_score, normalized_score
from trajmill.data.actions import ActionLimit, to_environment
from trajmill.data.environments import is_ours, task_of
from trajmill.evaluation import simulators
from trajmill.evaluation.environments import IndexArray


class Policy(Protocol):
    """S policies, one per training seed, that act on E episodes each."""

    def __call__(self, observations: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Map observations (S, E, O) to actions (S, E, A); seed k's actions may depend on ``observations[k]`` alone.

        Episodes that are over keep their last observation; actions for them are ignored.
        """


@runtime_checkable
class EpisodicPolicy(Policy, Protocol):
    """Policies that remember: their actions depend on the episode so far, as a Decision Transformer's do.

    All S × E episodes start together and no slot is ever reset alone, so a policy may keep plain arrays (S, E, T, ...).
    Calls come in this order: `start`, then for each environment step the policy itself and `observe`.
    """

    def start(self, seed_count: int, episode_count: int) -> None:
        """Forget everything: S × E new episodes begin."""

    def observe(self, rewards: NDArray[np.float32], playing: NDArray[np.bool_]) -> None:
        """Take the rewards (S, E) of the step just made, zero in finished episodes, and which episodes go on (S, E)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Returns of S seeds in the same E episodes, and how they were computed."""

    environment_id: str
    returns: NDArray[np.float64]  # (S, E) undiscounted; NaN in the row of a seed that gave an action that is not finite
    lengths: NDArray[np.int64]  # (S, E) steps taken
    episode_seed: int
    maximum_steps: int
    exact: bool  # Gymnasium itself was stepped
    margin_fix: bool
    versions: dict[str, str]

    @property
    def normalized_scores(self) -> NDArray[np.float64]:
        """Score of each seed's mean return, (S,); NaN for a failed seed, or without reference returns of D4RL's."""
        means = self.returns.mean(axis=1)
        if not has_reference_score(self.environment_id):
            return np.full_like(means, np.nan)
        return normalized_score(self.environment_id, means)

    @property
    def environment_steps(self) -> int:
        """Steps taken in all episodes together."""
        return int(self.lengths.sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; NaN becomes None."""
        values = asdict(self)
        values |= {"normalized_scores": self.normalized_scores, "environment_steps": self.environment_steps}
        return {name: _plain(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _plain(numbers: NDArray[Any]) -> Any:
    values = numbers.astype(object)
    values[~np.isfinite(numbers)] = None
    return values.tolist()


def episode_seeds(episode_seed: int, episode_count: int, *, first: int = 0) -> list[int]:
    """Return the reset seeds of `episode_count` episodes, from number `first` on, of the series `episode_seed` (>= 0).

    Each is a 63-bit hash of its address (episode_seed, episode number), so a longer series begins with the shorter one
    and two series share no episode. Gymnasium's ``reset(seed=...)`` takes them as they are.
    """
    return [hashed_seed(episode_seed, episode) >> 1 for episode in range(first, first + episode_count)]


def evaluate_policy(
    act: Policy,
    environment_id: str,
    *,
    seed_count: int,
    episode_count: int = 10,
    episode_seed: int = 0,
    maximum_steps: int | None = None,
    observation_dim: int | None = None,
    action_limit: ActionLimit = 1.0,
    exact: bool = False,
    threads: int | None = None,
) -> EvaluationResult:
    """Play `episode_count` (E) episodes with each of `seed_count` (S) policies, all at once; the default E is D4RL's.

    Every seed plays the same episodes, from the same initial states, whatever the number of seeds; `episode_seed` >= 0
    names their series. They are cut after `maximum_steps` >= 1, None: the environment's limit. Each slot plays exactly
    one episode, so short episodes do not count more often than long ones. A seed that gives an action with NaN or
    infinity gets NaN returns and stops; the others play on untouched.

    `act` is called once per step with all S × E observations. `environment_id` is one of `ENVIRONMENTS`, or any other
    of Gymnasium's registry (`trajmill.data.registry`). If the policy takes observations of more numbers than one of
    ours shows (`observation_dim`; Ant shows 27, D4RL's files have 111), zeros follow. What the policy gives within ±1
    reaches the environment within `action_limit`. `exact` steps Gymnasium itself, one environment after another:
    slower, and equal to the last bit; otherwise `threads` >= 1 simulate, None: every core, with equal results. There is
    no other way than `exact` for environments that are not ours. ValueError or ImportError if a number is out of range,
    the environment unknown, an action of the wrong shape, or Gymnasium or MuJoCo absent.
    """
    checks.integer("seed_count", seed_count, 1)
    checks.integer("episode_count", episode_count, 1)
    limit = task_of(environment_id).episode_limit if maximum_steps is None else maximum_steps
    checks.integer("maximum_steps", limit, 1)
    seeds = episode_seeds(episode_seed, episode_count) * seed_count
    simulator = simulators.open_environments(environment_id, len(seeds), threads=threads, exact=exact)
    with simulator:
        steps = play(
            act, simulator, seeds, seed_count, limit, observation_dim=observation_dim, action_limit=action_limit
        )
        returns, lengths = add_up(steps, (seed_count, episode_count))
    return EvaluationResult(
        environment_id=simulator.definition.environment_id,
        returns=returns,
        lengths=lengths,
        episode_seed=episode_seed,
        maximum_steps=limit,
        exact=isinstance(simulator, simulators.GymnasiumEnvironments),
        margin_fix=simulator.margin_fix,
        versions=simulators.versions_of(environment_id),
    )


def add_up(steps: Iterable[PlayedStep], shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Undiscounted returns and lengths, both (S, E), of the episodes that `play` plays; NaN for failed seeds."""
    returns, lengths = np.zeros(shape), np.zeros(shape, np.int64)
    failed = np.zeros(shape[0], np.bool_)
    for step in steps:
        returns.flat[step.slots] += step.result.reward
        lengths.flat[step.slots] += 1
        failed[step.failed_seeds] = True
    returns[failed] = np.nan
    return returns, lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """One environment step of the B slots that still played. Slot of (seed k, episode e): ``k * E + e``."""

    slots: IndexArray  # (B,) ascending
    observation: NDArray[np.float32]  # (B, O) before the step
    action: NDArray[np.float32]  # (B, A) as the policy gave it, scaled but not clipped yet
    result: simulators.StepResult
    failed_seeds: IndexArray  # seeds that just gave an action that is not finite, and whose episodes stop here


def play(
    act: Policy,
    simulator: simulators.Simulator,
    seeds: Sequence[int],
    seed_count: int,
    maximum_steps: int,
    *,
    observation_dim: int | None = None,
    action_limit: ActionLimit = 1.0,
) -> Iterator[PlayedStep]:
    """Start an episode from each of `seeds` (S * E,), in a slot each, and yield each step once it is made.

    Other arguments are those of `evaluate_policy`. Between two steps the simulator rests in the state before the next.
    """
    definition, shape = simulator.definition, (seed_count, len(seeds) // seed_count)
    name = definition.environment_id
    width = definition.observation_dim if observation_dim is None else observation_dim
    if width < definition.observation_dim or (width > definition.observation_dim and not is_ours(name)):
        least = "at least " if is_ours(name) else ""
        raise ValueError(f"observation_dim must be {least}the {definition.observation_dim} of {name}, got {width}")
    observations = np.zeros((len(seeds), width), np.float32)
    shown = observations[:, : definition.observation_dim]
    shown[:] = simulator.reset(seeds)
    memory = act if isinstance(act, EpisodicPolicy) else None
    if memory is not None:
        memory.start(*shape)
    active = np.arange(len(seeds))
    for _ in range(maximum_steps):
        given = np.asarray(act(observations.reshape(*shape, width).copy()), np.float32)
        if given.shape != (needed := (*shape, definition.action_dim)):
            raise ValueError(f"the policy must return actions of shape (S, E, A) = {needed}, got {given.shape}")
        actions = to_environment(given.reshape(len(seeds), -1)[active], action_limit)
        seed_of = active // shape[1]
        failed_seeds = seed_of[~np.isfinite(actions).all(axis=1)]
        if len(failed_seeds):
            playing = ~np.isin(seed_of, failed_seeds)
            actions, active = actions[playing], active[playing]
        before = shown[active]
        result = simulator.step(actions, active)
        shown[active] = result.observation
        yield PlayedStep(slots=active, observation=before, action=actions, result=result, failed_seeds=failed_seeds)
        rewards, goes_on = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        rewards.flat[active] = result.reward
        active = active[~(result.terminal | result.truncated)]
        goes_on.flat[active] = True
        if memory is not None:
            memory.observe(rewards, goes_on)
        if len(active) == 0:
            return
