"""D4RL's two ways to cut a data set: into transitions for Q-learning, into episodes for sequence models."""

from __future__ import annotations

from typing import Literal

import numpy as np

from trajmill.data.episodes import SHARE_OF_DISORDER, broken_rows
from trajmill.data.errors import refuse
from trajmill.data.records import Dataset, Episode, Transitions

NextObservation = Literal["stored", "d4rl"]
"""Which observation follows a step: the one the file stores, or the next row's as D4RL's own function takes it."""


def qlearning_transitions(dataset: Dataset, next_observation: NextObservation = "stored") -> Transitions:
    """Cut a data set into transitions for Q-learning.

    Parameters
    ----------
    dataset
        N consecutive steps.
    next_observation
        ``"stored"`` takes the file's next observations and keeps **every** row: those cut by a limit, because what
        came next is known (they are ``truncated``, never ``terminal``), and the file's last row. A file that stores
        none falls back to ``"d4rl"``.

        ``"d4rl"`` is the rule of D4RL's `qlearning_dataset` exactly: the next row's observation follows; rows cut by a
        limit are dropped, and so is the last row. On a terminal row the next observation then is the first of another
        episode: harmless where the target stops at terminals, wrong for models of the dynamics.

    Returns
    -------
    Transitions
        In the order of the file: N of them, or by D4RL's rule N - 1 less the limits in the first N - 1 rows.
        ``"stored"`` shares memory with `dataset`.

    Raises
    ------
    ValueError
        If `next_observation` is neither.
    DatasetError
        If next observations have to be the next row's and the rows are in no order.
    """
    if next_observation not in ("stored", "d4rl"):
        raise ValueError(f"next_observation must be 'stored' or 'd4rl', got {next_observation!r}")
    if next_observation == "stored" and dataset.next_observations is not None:
        return Transitions(
            observation=dataset.observations,
            action=dataset.actions,
            reward=dataset.rewards,
            next_observation=dataset.next_observations,
            terminal=dataset.terminals,
            truncated=dataset.timeouts,
        )
    if not dataset.ordered:
        fault = "its rows are single transitions in no order, so the next row's observation does not follow"
        raise refuse(dataset.path, fault, "take the stored next observations")
    rows = (~dataset.timeouts[:-1]).nonzero()[0]
    return Transitions(
        observation=dataset.observations[rows],
        action=dataset.actions[rows],
        reward=dataset.rewards[rows],
        next_observation=dataset.observations[rows + 1],
        terminal=dataset.terminals[rows],
        truncated=dataset.timeouts[rows],
    )


def split_episodes(dataset: Dataset) -> tuple[Episode, ...]:
    """Cut a data set into episodes at every terminal or limit; an unfinished tail is dropped.

    Returns
    -------
    tuple of Episode
        In the order of the file; their arrays are views.

    Raises
    ------
    DatasetError
        If no episode is finished, or the rows do not follow each other: shuffled, repeated, or single transitions.
    """
    _check_order(dataset)
    ends = dataset.episode_ends.nonzero()[0] + 1
    if len(ends) == 0:
        fault = "no row ends an episode in 'terminals' or 'timeouts'"
        raise refuse(dataset.path, fault, "sequence methods need the flags to be set")
    starts = np.concatenate(([0], ends[:-1]))
    return tuple(_episode(dataset, int(start), int(end)) for start, end in zip(starts, ends, strict=True))


def _episode(dataset: Dataset, start: int, end: int) -> Episode:
    """View rows `start` to `end` (exclusive) as one episode."""
    return Episode(
        start=start,
        observation=dataset.observations[start:end],
        action=dataset.actions[start:end],
        reward=dataset.rewards[start:end],
        terminal=bool(dataset.terminals[end - 1]),
    )


def _check_order(dataset: Dataset) -> None:
    """Refuse rows that are no steps one after another."""
    remedy = "sequence methods need whole episodes in order; use the data set for single transitions only"
    if not dataset.ordered:
        raise refuse(dataset.path, "its rows are single transitions in no order", remedy)
    inside = ~dataset.episode_ends[:-1]
    repeated = inside & np.all(dataset.observations[1:] == dataset.observations[:-1], axis=1)
    repeated &= np.all(dataset.actions[1:] == dataset.actions[:-1], axis=1)
    if repeated.sum() > SHARE_OF_DISORDER * inside.sum():
        fault = f"{int(repeated.sum())} rows of 'observations' and 'actions' repeat the row before"
        raise refuse(dataset.path, f"{fault}, first row {int(repeated.argmax()) + 1}", remedy)
    broken = broken_rows(dataset)
    if broken.sum() > SHARE_OF_DISORDER * inside.sum():
        fault = f"'next_observations' leads elsewhere than to the next row in {int(broken.sum())} rows inside episodes"
        raise refuse(dataset.path, f"{fault}, first in row {int(broken.argmax())}: the rows look shuffled", remedy)
