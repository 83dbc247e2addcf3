"""Where episodes end: what the flags say, what they leave out, and what the observations themselves show.

A step whose stored next observation is not the next row's observation has led elsewhere. If it is nearer to where the
step began than to the next row, the next row is another episode's: the episode's end is not marked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from trajmill.data.environments import EPISODE_LIMIT
from trajmill.data.errors import refuse, remark
from trajmill.data.records import BoolArray, Dataset, FloatArray

CONTINUITY = 1e-3
"""Largest difference of what should be the same observation: far above float32 rounding, far below a reset."""
SHARE_OF_DISORDER = 0.1
"""Share of the steps from which on ends are not just unmarked: the rows follow no order at all."""
_BLOCK = 2**14


def settle_flags(
    path: Path, terminals: BoolArray, timeouts: BoolArray | None, *, visible: bool = False
) -> tuple[BoolArray, BoolArray]:
    """Return flags that never hold together, the limit winning as in D4RL.

    Without timeouts they are left to `settle_episodes` if stored next observations make the ends `visible`; else the
    usual limit is assumed.
    """
    if timeouts is None and visible:
        remark(path, "no key 'timeouts'; episodes are cut where the stored next observation is not the next row's")
        return terminals, np.zeros_like(terminals)
    if timeouts is None:
        remark(path, f"no key 'timeouts'; episodes are cut after {EPISODE_LIMIT} steps without a terminal")
        return terminals, _at_limit(terminals) & ~terminals
    both = terminals & timeouts
    if both.any():
        where = f"in {int(both.sum())} rows, first in row {int(both.argmax())}"
        remark(path, f"'terminals' and 'timeouts' are both set {where}; read as timeouts, as D4RL does")
    return terminals & ~timeouts, timeouts


def _at_limit(terminals: BoolArray) -> BoolArray:
    """Every EPISODE_LIMIT-th row since the last terminal."""
    rows = np.arange(len(terminals))
    last_terminal = np.maximum.accumulate(np.where(terminals, rows, -1))
    last_terminal_before = np.concatenate(([-1], last_terminal[:-1]))
    limit: BoolArray = (rows - last_terminal_before) % EPISODE_LIMIT == 0
    return limit


def settle_episodes(dataset: Dataset, *, fix_timeouts: bool) -> Dataset:
    """Look for episode ends that are marked wrongly or not at all; mark them right if `fix_timeouts`.

    Raises
    ------
    DatasetError
        If ends are unmarked and not to be fixed.
    """
    if not dataset.ordered:
        return dataset
    difference = _disagreement(dataset)
    dataset = _settle_unmarked_ends(dataset, difference, fix=fix_timeouts)
    dataset = _settle_terminal_limits(dataset, fix=fix_timeouts)
    _remark_disagreement(dataset, difference)
    _remark_tail(dataset)
    return dataset


def _settle_unmarked_ends(dataset: Dataset, difference: FloatArray, *, fix: bool) -> Dataset:
    broken = _broken(dataset, difference)
    count = int(broken.sum())
    if count == 0 or (difference > CONTINUITY).mean() > SHARE_OF_DISORDER:
        return dataset
    where = f"in {count} rows inside episodes, first in row {int(broken.argmax())}"
    fault = f"the stored next observation is far from the next row's {where}: 'timeouts' leaves ends unmarked"
    if not fix:
        raise refuse(dataset.path, fault, "pass fix_timeouts (--fix-timeouts) to mark these ends as timeouts")
    remark(dataset.path, f"{fault}; marked as timeouts")
    return replace(dataset, timeouts=dataset.timeouts | np.append(broken, False))


def _settle_terminal_limits(dataset: Dataset, *, fix: bool) -> Dataset:
    """A file all of whose terminals stand at the limit has stored limits as terminals."""
    rows = dataset.terminals.nonzero()[0]
    if len(rows) == 0:
        return dataset
    ends = dataset.episode_ends.nonzero()[0]
    lengths = np.diff(ends, prepend=-1)
    if not (lengths[dataset.terminals[ends]] == EPISODE_LIMIT).all():
        return dataset
    oddity = f"all {len(rows)} 'terminals', first in row {int(rows[0])}, end episodes of exactly {EPISODE_LIMIT} steps"
    if not fix:
        remark(dataset.path, f"{oddity}, as limits do; pass fix_timeouts (--fix-timeouts) to read them as timeouts")
        return dataset
    remark(dataset.path, f"{oddity}; read as timeouts")
    return replace(dataset, terminals=np.zeros_like(dataset.terminals), timeouts=dataset.episode_ends)


def _remark_disagreement(dataset: Dataset, difference: FloatArray) -> None:
    jumps = (difference > CONTINUITY) & ~dataset.episode_ends[:-1]
    if jumps.any():
        count, row, largest = int(jumps.sum()), int(jumps.argmax()), float(difference[jumps].max())
        oddity = (
            f"'next_observations' is not the next row's observation in {count} rows inside episodes, "
            f"first in row {row}, by up to {largest:.3g}: they tell of two different tasks"
        )
        remark(dataset.path, oddity)


def _remark_tail(dataset: Dataset) -> None:
    ends = dataset.episode_ends
    if not ends[-1]:
        first = int(ends.nonzero()[0][-1]) + 1 if ends.any() else 0
        oddity = f"the last {len(ends) - first} rows, from row {first} on, are an unfinished episode (no flag set)"
        remark(dataset.path, oddity)


def _disagreement(dataset: Dataset) -> FloatArray:
    """(N - 1,): largest difference of the stored next observation from the next row's; 0 where an episode ends."""
    if dataset.next_observations is None:
        return np.zeros(len(dataset) - 1, np.float32)
    difference = _distance(dataset.next_observations[:-1], dataset.observations[1:])
    difference[dataset.episode_ends[:-1]] = 0.0
    return difference


def broken_rows(dataset: Dataset) -> BoolArray:
    """Bool (N - 1,): rows inside an episode after which the next row is another episode's."""
    return _broken(dataset, _disagreement(dataset))


def _broken(dataset: Dataset, difference: FloatArray) -> BoolArray:
    broken: BoolArray = difference > CONTINUITY
    if dataset.next_observations is not None and broken.any():
        broken &= difference > _distance(dataset.next_observations[:-1], dataset.observations[:-1])
    return broken


def _distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Largest difference of each row of two matrices, some rows at a time to save memory."""
    largest = np.empty(len(a), np.float32)
    for first in range(0, len(a), _BLOCK):
        rows = slice(first, first + _BLOCK)
        np.abs(a[rows] - b[rows]).max(axis=1, out=largest[rows])
    return largest
