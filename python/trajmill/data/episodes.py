"""Where episodes end, by the flags and by what the observations show; and cutting datasets there.

Inside an episode the stored next observation is the next row's observation. If it is not, and is nearer to the row's
own observation than to the next row's, the next row belongs to another episode: the flags leave an end unmarked.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from trajmill.core import checks
from trajmill.data.environments import EPISODE_LIMIT
from trajmill.data.errors import refuse, refusing, warn_about, where
from trajmill.data.records import BoolArray, Columns, Dataset, Episode, FloatArray, Transitions

CONTINUITY = 1e-3
"""Largest difference between equal observations: far above float32 rounding, far below that of a reset."""
SHARE_OF_DISORDER = 0.1
"""If more than this share of the steps do not lead to the next row, the rows are in no order."""
_BLOCK = 2**14

NextObservation = Literal["stored", "d4rl"]
"""Which observation follows a step: the one that the file stores, or the next row's, as in D4RL's own function."""
_REPAIR = "load it with fix_timeouts=True, or use `trajmill dataset convert OLD NEW --fix-timeouts`,"  # for any command


def settle_flags(columns: Columns) -> Columns:
    """The columns with two flags that are never both set in a row; the limit wins, as in D4RL."""
    terminals = columns["terminals"]
    if "timeouts" in columns:
        timeouts = columns["timeouts"]
        both = terminals & timeouts
        if both.any():
            warn_about(f"'terminals' and 'timeouts' are both set {where(both)}; read as timeouts, as D4RL does")
    elif "next_observations" in columns:
        warn_about("no key 'timeouts'; episodes are cut where the stored next observation is not the next row's")
        timeouts = np.zeros_like(terminals)
    else:
        warn_about(f"no key 'timeouts'; episodes are cut after {EPISODE_LIMIT} steps without a terminal")
        rows = np.arange(len(terminals))
        last_terminal = np.maximum.accumulate(np.where(terminals, rows, -1))
        steps_since = rows - np.concatenate(([-1], last_terminal[:-1]))
        timeouts = (steps_since % EPISODE_LIMIT == 0) & ~terminals
    return columns | {"terminals": terminals & ~timeouts, "timeouts": timeouts}


def settle_episodes(dataset: Dataset, *, fix_timeouts: bool) -> Dataset:
    """Look for ends of episodes that are marked wrongly or not at all: mark them, or without `fix_timeouts` refuse."""
    if not dataset.ordered:
        return dataset
    difference, broken = _continuity(dataset)
    # Ends that the flags leave out.
    if broken.any() and (difference > CONTINUITY).mean() <= SHARE_OF_DISORDER:
        fault = f"the stored next observation is far from the next row's {where(broken, 'rows inside episodes')}"
        fault += ": 'timeouts' leaves ends unmarked"
        if not fix_timeouts:
            raise refuse(fault, f"{_REPAIR} to mark these ends as timeouts")
        warn_about(f"{fault}; marked as timeouts")
        dataset = replace(dataset, timeouts=dataset.timeouts | np.append(broken, False))
    # Limits stored as terminals: every terminal is at the limit.
    ends = dataset.episode_ends
    lengths = np.diff(ends.nonzero()[0], prepend=-1)[dataset.terminals[ends]]
    if len(lengths) and (lengths == EPISODE_LIMIT).all():
        first = int(dataset.terminals.argmax())
        oddity = f"all {len(lengths)} 'terminals', first in row {first}, end episodes of exactly {EPISODE_LIMIT} steps"
        if fix_timeouts:
            warn_about(f"{oddity}; read as timeouts")
            dataset = replace(dataset, terminals=np.zeros_like(ends), timeouts=ends)
        else:
            warn_about(f"{oddity}, as limits do; {_REPAIR} to read them as timeouts")
    jumps = (difference > CONTINUITY) & ~ends[:-1]
    if jumps.any():
        oddity = f"'next_observations' is not the next row's observation {where(jumps, 'rows inside episodes')}"
        warn_about(f"{oddity}, by up to {float(difference[jumps].max()):.3g}: they describe two different tasks")
    if not ends[-1]:
        first = int(ends.nonzero()[0][-1]) + 1 if ends.any() else 0
        warn_about(f"the last {len(ends) - first} rows, from row {first} on, are an unfinished episode (no flag set)")
    return dataset


def _continuity(dataset: Dataset) -> tuple[FloatArray, BoolArray]:
    """Of every row but the last: how far its stored next observation is from the next row (0 where an episode ends).

    And whether that is so far that the next row is another episode's.
    """
    if dataset.next_observations is None:
        return np.zeros(len(dataset) - 1, np.float32), np.zeros(len(dataset) - 1, np.bool_)
    following = dataset.next_observations[:-1]
    difference = _distance(following, dataset.observations[1:])
    difference[dataset.episode_ends[:-1]] = 0.0
    broken: BoolArray = difference > CONTINUITY
    if broken.any():
        broken &= difference > _distance(following, dataset.observations[:-1])
    return difference, broken


def _distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Largest difference of each row of two matrices, some rows at a time to save memory."""
    largest = np.empty(len(a), np.float32)
    for first in range(0, len(a), _BLOCK):
        rows = slice(first, first + _BLOCK)
        np.abs(a[rows] - b[rows]).max(axis=1, out=largest[rows])
    return largest


def qlearning_transitions(dataset: Dataset, next_observation: NextObservation = "stored") -> Transitions:
    """Cut a dataset into transitions for Q-learning, in the order of the file.

    ``"stored"`` takes the file's next observations and keeps **every** row: those cut by a limit, because what came
    next is known (they are ``truncated``, never ``terminal``), and the file's last row. A file that stores no next
    observations falls back to ``"d4rl"``.

    ``"d4rl"`` is the rule of D4RL's `qlearning_dataset` exactly: the next row's observation follows; rows cut by a
    limit are dropped, and so is the last row. On a terminal row the next observation is then the first of another
    episode: harmless where the target stops at terminals, wrong for models of the dynamics. Where the dataset
    says that its rows are in no order (`Dataset.ordered` is False, as in synthetic data) no row follows another, so
    every row keeps its stored next observation; without any it is refused.
    """
    checks.choice("next_observation", next_observation, ("stored", "d4rl"))
    if dataset.next_observations is None or (next_observation == "d4rl" and dataset.ordered):
        dataset = with_next_rows(dataset)
    assert dataset.next_observations is not None
    return Transitions(
        observation=dataset.observations,
        action=dataset.actions,
        reward=dataset.rewards,
        next_observation=dataset.next_observations,
        terminal=dataset.terminals,
        truncated=dataset.timeouts,
    )


def with_next_rows(dataset: Dataset) -> Dataset:
    """The rows that the next row continues, with its observation as the next one: D4RL's rule."""
    if not dataset.ordered:
        fault = "its rows are single transitions in no order, so the next row's observation does not follow"
        with refusing(dataset.path):
            raise refuse(fault, "record 'next_observations'")
    rows = (~dataset.timeouts[:-1]).nonzero()[0]
    return replace(dataset.rows(rows), next_observations=dataset.observations[rows + 1])


def split_episodes(dataset: Dataset) -> tuple[Episode, ...]:
    """Cut a dataset into episodes at every terminal or limit, as views in the order of the file.

    An unfinished last episode is dropped. A dataset without a finished episode is refused, and so are rows that do not
    follow each other: shuffled, repeated, or single transitions.
    """
    ends = (dataset.episode_ends.nonzero()[0] + 1).tolist()
    inside = ~dataset.episode_ends[:-1]
    remedy = "sequence methods need whole episodes in order; use the dataset for single transitions only"
    with refusing(dataset.path):
        if not dataset.ordered:
            raise refuse("its rows are single transitions in no order", remedy)
        repeated = inside & np.all(dataset.observations[1:] == dataset.observations[:-1], axis=1)
        repeated &= np.all(dataset.actions[1:] == dataset.actions[:-1], axis=1)
        if repeated.sum() > SHARE_OF_DISORDER * inside.sum():
            fault = f"{int(repeated.sum())} rows of 'observations' and 'actions' repeat the row before"
            raise refuse(f"{fault}, first row {int(repeated.argmax()) + 1}", remedy)
        broken = _continuity(dataset)[1]
        if broken.sum() > SHARE_OF_DISORDER * inside.sum():
            fault = f"'next_observations' does not lead to the next row {where(broken, 'rows inside episodes')}"
            raise refuse(f"{fault}: the rows look shuffled", remedy)
        if not ends:
            fault = "no row ends an episode in 'terminals' or 'timeouts'"
            raise refuse(fault, "sequence methods need the flags to be set")
    return tuple(
        Episode(
            start=start,
            observation=dataset.observations[start:end],
            action=dataset.actions[start:end],
            reward=dataset.rewards[start:end],
            terminal=bool(dataset.terminals[end - 1]),
        )
        for start, end in pairwise([0, *ends])
    )
