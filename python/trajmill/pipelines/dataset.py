"""Checking real data sets from end to end, and writing them again in another format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajmill.data import Dataset, DatasetError, DatasetWarning, Subset, load_dataset
from trajmill.data.catalog import DataFormat
from trajmill.data.cuts import split_episodes
from trajmill.data.d4rl import write_d4rl
from trajmill.data.errors import refuse, remark
from trajmill.data.minari import write_minari
from trajmill.data.npz import write_npz
from trajmill.data.official import recognize
from trajmill.data.summary import DatasetSummary, summarize

if TYPE_CHECKING:
    from trajmill.evaluation.dynamics import DynamicsReport

SHARE_LIMIT = 0.1
"""largest share of rows that may be off: simulators of neighboring versions differ in some contacts"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A data set that passed every check, and what was remarked on."""

    summary: DatasetSummary
    remarks: tuple[str, ...]
    dynamics: DynamicsReport | None


def validate_dataset(
    name_or_path: str | Path, *, fix_timeouts: bool = False, dynamics: bool = False, environment_id: str | None = None
) -> Validation:
    """Check a data set: file, keys, shapes, memory, dtypes, finiteness, ranges, episodes, statistics, dynamics.

    Parameters
    ----------
    name_or_path, fix_timeouts
        As `load_dataset` takes them.
    dynamics
        Repeat single steps in the simulator too (`check_dynamics`).
    environment_id
        The environment for it; None means the data set's own.

    Raises
    ------
    DatasetError
        At the first check that fails.
    """
    dataset, remarks = read_remarked(name_or_path, fix_timeouts=fix_timeouts)
    try:
        split_episodes(dataset)
    except DatasetError as error:
        remarks.append(f"not for sequence models: {error}")
    summary = summarize(dataset)
    if summary.action_share_at_limit:
        share = f"{summary.action_share_at_limit:.2%} of the entries of 'actions' are exactly -1 or 1"
        remarks.append(f"{dataset.path}: {share}; pass action_limit=0.999999 where a log-density is taken")
    report = None
    if dynamics:
        from trajmill.evaluation.dynamics import check_dynamics

        report = check_dynamics(dataset, environment_id=environment_id)
        remarks += _judge(dataset.path, report)
    return Validation(summary=summary, remarks=tuple(remarks), dynamics=report)


def read_remarked(name_or_path: str | Path, **options: Any) -> tuple[Dataset, list[str]]:
    """`load_dataset`, with its remarks as a list."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        dataset = load_dataset(name_or_path, **options)
    return dataset, [str(warning.message) for warning in caught]


def _judge(path: Path, report: DynamicsReport) -> list[str]:
    """Refuse recordings that the simulator does not repeat; D4RL's own, from an older one, are remarked on."""
    if report.share_off <= SHARE_LIMIT:
        return []
    fault = (
        f"{report.share_off:.0%} of {report.row_count} rows of 'next_observations' or 'rewards' are not what "
        f"{report.environment_id} does (median error {report.observation_error_quantiles[0.5]:.2g})"
    )
    if recognize(path) is not None:
        return [f"{path}: {fault}; the file is D4RL's, recorded with an older simulator"]
    raise refuse(path, fault, "the data are from another environment or version, or made up; do not train on them")


def convert_dataset(
    name_or_path: str | Path,
    destination: str | Path,
    *,
    to: DataFormat | None = None,
    subset: Subset | None = None,
    observation_dim: int | None = None,
    action_limit: float | None = None,
    fix_timeouts: bool = False,
    overwrite: bool = False,
) -> tuple[Dataset, DataFormat]:
    """Read a data set and write it in another format, or a part of it in the same.

    Parameters
    ----------
    name_or_path, subset, observation_dim, action_limit, fix_timeouts
        As `load_dataset` takes them.
    destination
        The file or, for Minari, the directory to create.
    to
        None means by the name: ``.npz``, or ``.hdf5`` for D4RL's; a name without a suffix is Minari's.
    overwrite
        Replace a file.

    Returns
    -------
    tuple of Dataset and str
        What was written, and the format.

    Raises
    ------
    DatasetError
        If the source is refused, or the format cannot hold it.
    """
    destination = Path(destination)
    kind = _format_by_name(destination) if to is None else to
    dataset = load_dataset(
        name_or_path,
        subset=subset,
        observation_dim=observation_dim,
        action_limit=action_limit,
        fix_timeouts=fix_timeouts,
    )
    dataset = replace(dataset, metadata={"source": dataset.name, **dataset.metadata})
    columns = dataset.to_write()
    if kind == "d4rl":
        if not dataset.ordered:
            caution = (
                "loaders that take the next row for what follows, as D4RL's qlearning_dataset does, misread the file"
            )
            remark(destination, f"its rows are single transitions in no order; {caution}")
        write_d4rl(destination, **columns, overwrite=overwrite)
        return dataset, kind
    if dataset.next_observations is None:
        fault = "key 'next_observations' is missing"
        raise refuse(
            dataset.path, fault, f"the format {kind} needs it; write D4RL's schema, or take single transitions"
        )
    if kind == "npz":
        write_npz(
            destination,
            **{key: columns[key] for key in columns if key not in ("infos", "metadata")},
            overwrite=overwrite,
        )
    elif not dataset.ordered:
        raise refuse(dataset.path, "its rows are single transitions in no order", "Minari's layout needs episodes")
    else:
        write_minari(destination, **columns)
    return dataset, kind


def _format_by_name(destination: Path) -> DataFormat:
    formats: dict[str, DataFormat] = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl", "": "minari"}
    if destination.suffix not in formats:
        raise refuse(
            destination, "its ending names no format", "end it in .hdf5 or .npz, or say which format with --to"
        )
    return formats[destination.suffix]
