"""Where episodes end, and which row follows which: decided here and nowhere else.

A row is followed by the next one exactly where its next observation is the next row's observation, number for number,
and it ends no episode. No distance is measured, so scale, speed and kind of the observations do not matter. Numbers are
compared as the file stores them, two precisions in the coarser one; NaN equals NaN, and 0 equals -0. What a file does
not store the caller says (`limit`), or the file is refused: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.data.environments import EPISODE_LIMIT, simulated_environment
from trajmill.data.errors import refuse, refusing, warn_about, where
from trajmill.data.records import BoolArray, Columns, Dataset, Episode, Transitions, UnorderedTransitions

SHARE_OF_REPEATS = 0.1
"""Rows are refused if more than this share of them repeat the row before and nothing says that they follow it."""

NextObservation = Literal["stored", "d4rl"]
"""Which observation follows a step: the one that the file stores, or the next row's, as in D4RL's own function."""
_REPAIR = "load it with fix_timeouts=True, or use `trajmill dataset convert OLD NEW --fix-timeouts`,"  # for any command


def leads_on(observations: NDArray[Any], next_observations: NDArray[Any]) -> BoolArray:
    """Whether the next observation of each row but the last (N - 1,) is the next row's observation; both are (N, O)."""
    here, there = next_observations[:-1], observations[1:]
    equal: BoolArray = ((here == there) | ((here != here) & (there != there))).all(axis=1)
    return equal


def in_one_precision(columns: Columns) -> Columns:
    """The columns with observations and next observations of one dtype: of two float dtypes the narrower one."""
    names = ("observations", "next_observations")
    kinds = [columns[name].dtype for name in names if name in columns]
    if len(set(kinds)) < 2:
        return columns
    floats = all(kind.kind == "f" for kind in kinds)
    common = min(kinds, key=lambda kind: kind.itemsize) if floats else np.dtype(np.float32)
    with np.errstate(over="ignore"):  # what overflows is refused later
        return columns | {name: columns[name].astype(common) for name in names}


def followed(transitions: Transitions) -> BoolArray:
    """Whether each row (N,) is followed by the next one; the last is not, nor is any row of transitions in no order."""
    found = ~(transitions.terminal | transitions.truncated) & transitions.ordered
    found[:-1] &= leads_on(transitions.observation, transitions.next_observation)
    found[-1:] = False
    return found


def returns_to_go(transitions: Transitions, discount: float = 1.0) -> NDArray[np.float64]:
    """Discounted sum of the rewards from each row on to the last one of its episode: (N,).

    Nothing is added for what would have come after that row, where a limit cut the episode or the file ends. Rows must
    follow each other (`check_order`).
    """
    found, so_far = [], 0.0
    rows = zip(transitions.reward[::-1].tolist(), followed(transitions)[::-1].tolist(), strict=True)
    for reward, goes_on in rows:
        so_far = reward + (discount * so_far if goes_on else 0.0)
        found.append(so_far)
    return np.array(found[::-1], np.float64)


def settle_episodes(
    dataset: Dataset, leads: BoolArray | None, *, has_timeouts: bool, fix_timeouts: bool, limit: int | None
) -> Dataset:
    """The dataset with every end of an episode marked, in one of the two flags.

    `leads` (N - 1,) is what `leads_on` says of the file's columns, None if it stores no next observations;
    `has_timeouts` says whether it stores timeouts. See `load_dataset` for `fix_timeouts` and `limit`.
    """
    if limit is not None:
        checks.integer("limit", limit, 1, 2**63 - 1)
    terminals, timeouts = dataset.terminals, dataset.timeouts
    both = terminals & timeouts
    if both.any():
        warn_about(f"'terminals' and 'timeouts' are both set {where(both)}; read as timeouts, as D4RL does")
        dataset = replace(dataset, terminals=terminals & ~timeouts)
    if not dataset.ordered:
        return dataset
    if leads is None and not has_timeouts and limit is None:
        limit = _known_limit(dataset)
    marks = not has_timeouts or fix_timeouts
    if leads is not None and marks:
        dataset = _settle_by_observations(dataset, leads, has_timeouts=has_timeouts, fix_timeouts=fix_timeouts)
    if limit is not None and dataset.ordered:
        dataset = _cut(dataset, limit)
    if leads is not None and not marks:  # what `limit` has marked is no fault
        dataset = _settle_by_observations(dataset, leads, has_timeouts=has_timeouts, fix_timeouts=fix_timeouts)
    if dataset.ordered:
        dataset = _settle_limits_as_terminals(dataset, limit or EPISODE_LIMIT, fix_timeouts=fix_timeouts)
        ends = dataset.episode_ends
        if not ends[-1]:
            first = int(ends.nonzero()[0][-1]) + 1 if ends.any() else 0
            warn_about(
                f"the last {len(ends) - first} rows, from row {first} on, are an unfinished episode (no flag set)"
            )
    return dataset


def _settle_by_observations(dataset: Dataset, leads: BoolArray, *, has_timeouts: bool, fix_timeouts: bool) -> Dataset:
    """Mark the ends that next observations show, where timeouts are not stored or to be fixed."""
    inside = ~dataset.episode_ends[:-1]
    jumps = np.append(inside & ~leads, False)
    if not jumps.any():
        return dataset
    fault = f"the stored next observation is not the next row's {where(jumps, 'rows inside episodes')}"
    if not (inside & leads).any():  # they say nothing about the order
        if has_timeouts:
            warn_about(f"{fault}, and in none it is: they describe two different tasks, or the rows are in no order")
            return dataset
        warn_about(f"no key 'timeouts'; {fault}, and in none it is: read as single transitions in no order")
        return replace(dataset, ordered=False)
    if not has_timeouts:
        warn_about(f"no key 'timeouts'; {fault}: marked as timeouts")
    elif fix_timeouts:
        warn_about(f"{fault}: 'timeouts' leaves ends unmarked; marked as timeouts")
    else:
        remedy = f"{_REPAIR} to mark these ends as timeouts, or write"
        remedy += " the file without 'next_observations' if 'timeouts' is right, or with the attribute 'ordered' false"
        raise refuse(f"{fault}: 'timeouts' leaves ends unmarked", f"{remedy} if its rows do not follow each other")
    return replace(dataset, timeouts=dataset.timeouts | jumps)


def _known_limit(dataset: Dataset) -> int:
    """The limit of the environment that a file without timeouts and next observations is from; refuse another."""
    environment = simulated_environment(dataset)
    if environment is None:
        fault = "neither 'timeouts' nor 'next_observations' say where a limit cut episodes"
        remedy = "pass limit (--limit), the steps after which the environment cuts them"
        raise refuse(fault, f"{remedy}; a number above {len(dataset)} if it never does")
    warn_about(f"no key 'timeouts'; episodes are cut after {EPISODE_LIMIT} steps, the limit of {environment}")
    return EPISODE_LIMIT


def _cut(dataset: Dataset, limit: int) -> Dataset:
    """Mark as timeouts every `limit` steps since the last end."""
    ends, rows = dataset.episode_ends, np.arange(len(dataset))
    last_end = np.maximum.accumulate(np.where(ends, rows, -1))
    steps_since = rows - np.concatenate(([-1], last_end[:-1]))
    return replace(dataset, timeouts=dataset.timeouts | ((steps_since % limit == 0) & ~ends))


def _settle_limits_as_terminals(dataset: Dataset, limit: int, *, fix_timeouts: bool) -> Dataset:
    """Warn if every terminal is at the limit, as where limits are stored as terminals, or read them as timeouts."""
    ends = dataset.episode_ends
    lengths = np.diff(ends.nonzero()[0], prepend=-1)[dataset.terminals[ends]]
    if not len(lengths) or not (lengths == limit).all():
        return dataset
    first = int(dataset.terminals.argmax())
    oddity = f"all {len(lengths)} 'terminals', first in row {first}, end episodes of exactly {limit} steps"
    if fix_timeouts:
        warn_about(f"{oddity}; read as timeouts")
        return replace(dataset, terminals=np.zeros_like(ends), timeouts=ends)
    warn_about(f"{oddity}, as limits do; {_REPAIR} to read them as timeouts")
    return dataset


def qlearning_transitions(dataset: Dataset, next_observation: NextObservation = "stored") -> Transitions:
    """Cut a dataset into transitions for Q-learning, in the order of the file.

    ``"stored"`` takes the file's next observations and keeps **every** row: those cut by a limit, because what came
    next is known (they are ``truncated``, never ``terminal``), and the file's last row. A file that stores no next
    observations falls back to ``"d4rl"``.

    ``"d4rl"`` is the rule of D4RL's `qlearning_dataset` exactly: the next row's observation follows; rows cut by a
    limit are dropped, and so is the last row. On a terminal row the next observation is then the first of another
    episode: harmless where the target stops at terminals, wrong for models of the dynamics. Where the dataset
    says that its rows are in no order (`Dataset.ordered` is False, as in synthetic data) no row follows another, so
    every row keeps its stored next observation, and the result is `UnorderedTransitions`; without any it is refused.
    """
    checks.choice("next_observation", next_observation, ("stored", "d4rl"))
    if dataset.next_observations is None or (next_observation == "d4rl" and dataset.ordered):
        dataset = with_next_rows(dataset)
    assert dataset.next_observations is not None
    kind = Transitions if dataset.ordered else UnorderedTransitions
    return kind(
        observation=dataset.observations,
        action=dataset.actions,
        reward=dataset.rewards,
        next_observation=dataset.next_observations,
        terminal=dataset.terminals,
        truncated=dataset.timeouts,
    )


def with_next_rows(dataset: Dataset, *, keep_terminals: bool = True) -> Dataset:
    """The rows that the next row continues, with its observation as the next one: D4RL's rule.

    That also keeps terminal rows, which another episode's row follows. A row whose successor is dropped is a timeout.
    """
    with refusing(dataset.path):
        if not dataset.ordered:
            fault = "its rows are single transitions in no order, so the next row's observation does not follow"
            raise refuse(fault, "record 'next_observations'")
    dropped = dataset.timeouts if keep_terminals else dataset.episode_ends
    rows = (~dropped[:-1]).nonzero()[0]
    part = dataset.rows(rows)
    cut = ~part.terminals & dropped[rows + 1]
    return replace(part, timeouts=cut, next_observations=dataset.observations[rows + 1], ordered=True)


def check_order(dataset: Dataset) -> None:
    """Refuse rows that do not follow each other: shuffled, repeated, or single transitions.

    Everything that takes the next row for the next step begins with this.
    """
    inside = ~dataset.episode_ends[:-1]
    remedy = "sequence methods need whole episodes in order; use the dataset for single transitions only"
    with refusing(dataset.path):
        if not dataset.ordered:
            raise refuse("its rows are single transitions in no order", remedy)
        if dataset.next_observations is not None:
            broken = inside & ~leads_on(dataset.observations, dataset.next_observations)
            if broken.any():
                fault = f"'next_observations' is not the next row's {where(broken, 'rows inside episodes')}"
                raise refuse(fault, f"mark the ends there; otherwise {remedy}")
            return
        columns = (dataset.observations, dataset.actions, dataset.rewards[:, None])
        repeated = np.logical_and.reduce([inside, *((values[1:] == values[:-1]).all(1) for values in columns)])
        if repeated.sum() > SHARE_OF_REPEATS * inside.sum():
            fault = f"{int(repeated.sum())} rows repeat observation, action and reward of the row before"
            fault += f", first row {int(repeated.argmax()) + 1}, and no 'next_observations' say that they follow it"
            raise refuse(fault, remedy)


def split_episodes(dataset: Dataset) -> tuple[Episode, ...]:
    """Cut a dataset into episodes at every terminal or limit, as views in the order of the file.

    An unfinished last episode is dropped. A dataset without a finished episode is refused, and so is one whose rows do
    not follow each other (`check_order`).
    """
    check_order(dataset)
    ends = (dataset.episode_ends.nonzero()[0] + 1).tolist()
    if not ends:
        with refusing(dataset.path):
            fault = "no row ends an episode in 'terminals' or 'timeouts'"
            raise refuse(fault, "set the flags, or pass limit (--limit), the steps after which episodes were cut")
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
