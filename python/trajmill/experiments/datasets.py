"""Checking datasets from end to end, and writing them again in another format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

from trajmill.core import checks
from trajmill.core.files import check_writable
from trajmill.core.paths import AnyPath, local_path
from trajmill.data import Dataset, DatasetError, DatasetSummary, DatasetWarning, load_dataset, split_episodes, summarize
from trajmill.data.errors import refuse, refusing, warn_about
from trajmill.data.formats import format_for, format_named, format_names
from trajmill.data.official import recognize
from trajmill.evaluation.dynamics import DynamicsReport, check_dynamics

SHARE_LIMIT = 0.1  # of rows that may be off: simulators of neighboring versions differ in some contacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A dataset that passed every check, and what was warned about."""

    summary: DatasetSummary
    warnings: tuple[str, ...]
    dynamics: DynamicsReport | None


def validate(
    name_or_path: AnyPath,
    *,
    fix_timeouts: bool = False,
    limit: int | None = None,
    dynamics: bool = False,
    environment_id: str | None = None,
) -> Validation:
    """Check a dataset: file, keys, shapes, dtypes, memory, finiteness, ranges, episodes, statistics, dynamics.

    `dynamics` repeats single steps in the simulator too (`check_dynamics`), in the dataset's own environment if
    `environment_id` names no other. The first check that fails is a `DatasetError`.
    """
    dataset, caught = load_with_warnings(name_or_path, fix_timeouts=fix_timeouts, limit=limit)
    summary = summarize(dataset)
    with refusing(dataset.path):
        try:
            split_episodes(dataset)
        except DatasetError as error:
            caught.append(f"not for sequence models: {error}")
        if summary.action_share_at_limit:
            share = f"{summary.action_share_at_limit:.2%} of the entries of 'actions' are exactly -1 or 1"
            caught.append(f"{dataset.path}: {share}; pass action_limit=0.999999 where a log-density is taken")
        report = check_dynamics(dataset, environment_id=environment_id) if dynamics else None
        if report is not None and report.share_off > SHARE_LIMIT:
            fault = (
                f"{report.share_off:.0%} of {report.row_count} rows of 'next_observations' or 'rewards' are not what "
                f"{report.environment_id} does (median error {report.observation_error_quantiles[0.5]:.2g})"
            )
            if recognize(dataset.path) is None:
                raise refuse(fault, "the data is from another environment or version, or made up; do not train on it")
            caught.append(f"{dataset.path}: {fault}; the file is D4RL's, recorded with an older simulator")
    return Validation(summary=summary, warnings=tuple(caught), dynamics=report)


def load_with_warnings(name_or_path: AnyPath, **options: Any) -> tuple[Dataset, list[str]]:
    """`load_dataset`, and the text of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        dataset = load_dataset(name_or_path, **options)
    return dataset, [str(warning.message) for warning in caught]


def convert(
    name_or_path: AnyPath, destination: AnyPath, *, to: str | None = None, overwrite: bool = False, **options: Any
) -> tuple[Dataset, str]:
    """Read a dataset and write it in another format, or a part of it; returns what was written and the format's name.

    `to` is a name of `trajmill.data.formats`; None goes by the destination's suffix: ``.npz``, or ``.hdf5`` for D4RL's
    schema; a name without a suffix becomes Minari's directory. `overwrite` replaces a file. `options` are
    `load_dataset`'s.
    """
    destination = local_path(destination)
    name = format_for(destination) if to is None else checks.choice("to", to, format_names(written=True))
    writer = format_named(name)
    check_writable(destination, as_file="" not in writer.SUFFIXES)
    dataset = load_dataset(name_or_path, **options)
    dataset = replace(dataset, metadata={"source": dataset.name, **dataset.metadata})
    writer.write(destination, overwrite=overwrite, **dataset.to_write())
    if not writer.ORDERED and dataset.ordered:
        with refusing(destination):
            warn_about("its rows become single transitions in no order: the format stores no ends of episodes")
    if writer.ORDERED and not dataset.ordered:
        with refusing(destination):
            warn_about(
                "its rows are single transitions in no order; loaders that take the next row for what follows, as "
                "D4RL's qlearning_dataset does, misread the file"
            )
    return dataset, name
