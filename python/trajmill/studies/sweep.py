"""A sweep: one method with every combination of some settings, on every dataset, and one table of what came out.

Each combination on each dataset is a run of all seeds, ``runs/METHOD-SETTING=VALUE/DATASET``, made by the same engines
as those of a study (`trajmill.runs.engines`). The name says what differs, so a larger grid of the same settings finds
the runs of a smaller one, and a finished run is never made again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trajmill.algorithms import method_named, name_of
from trajmill.core.files import check_writable, replaceable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data.environments import task_of
from trajmill.evaluation.statistics import bootstrap_interval
from trajmill.experiments.settings import DatasetTrainConfig, OnlineTrainConfig, TrainConfig
from trajmill.report import Section, score, write_report
from trajmill.report.comparison import Entry
from trajmill.runs.engines import EngineConfig, RunJob, opened
from trajmill.runs.reading import RunRecord, read_run
from trajmill.studies.cells import finished_run, labels, path_name, place_name
from trajmill.studies.records import Place
from trajmill.studies.work import update_cost
from trajmill.training.settings import of_python, plain

LONGEST_NAME = 120
"""characters of a directory's name, after which some that tell its content from others' stand for the rest"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCell:
    """A run of a sweep."""

    label: str
    """the method and what differs from the other runs on the same place, such as ``CQL cql-weight=0.1``"""
    values: Mapping[str, str]
    """what differs alone, as text by the name of the setting"""
    place: Place | None
    """what it is trained on or in; None of a method that needs neither"""
    config: TrainConfig[Any]
    path: Path

    @property
    def cost(self) -> float:
        """Rough seconds of its updates on a core."""
        return self.config.schedule.updates * update_cost(self.config.method) * len(self.config.seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResults:
    """What a sweep left behind."""

    output: Path
    cells: tuple[SweepCell, ...]
    records: Mapping[Path, RunRecord]
    """finished runs by their directory"""
    failed: Mapping[Path, str]
    """why a run has failed"""
    entries: Mapping[Path, Entry]
    """the number of each run, mean over seeds; one that has none says why"""
    measured: str
    """what the numbers are"""
    left_to_others: int = 0
    """runs that other shards have still to make; until then no table is written"""

    @property
    def report(self) -> Path:
        """The page."""
        return self.output / "sweep.html"

    @property
    def markdown(self) -> Path:
        """The table in Markdown."""
        return self.output / "sweep.md"

    def facts(self) -> dict[str, Any]:
        """For machines."""
        return {
            "out": str(self.output),
            "measured": self.measured,
            "runs": [
                {
                    "run": str(cell.path.relative_to(self.output)),
                    "place": _place(cell),
                    "values": dict(cell.values),
                    "failed": self.failed.get(cell.path),
                    **asdict(self.entries[cell.path]),
                }
                for cell in self.cells
            ],
            "faults": self.faults,
            "left_to_others": self.left_to_others,
        }

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """A line for each run, below one of headings: where, with which values, what came out."""
        place = place_setting(self.cells[0].config)
        heads = (*filter(None, [place]), *self.cells[0].values, self.measured)
        lines = [
            (*([] if place is None else [_place(cell)]), *cell.values.values(), self.entries[cell.path].our_text)
            for cell in self.cells
        ]
        return (heads, *lines)

    @property
    def faults(self) -> list[str]:
        """A line for each run that failed, and for each with seeds that diverged."""
        lines = []
        for cell in self.cells:
            name, record = _name(cell), self.records.get(cell.path)
            if cell.path in self.failed:
                lines.append(f"{name}: {self.failed[cell.path]}")
            elif record is not None and record.result and (diverged := record.result.get("diverged")):
                lines.append(f"{name}: seed {', '.join(diverged)} diverged")
        return lines


def sweep_cells(base: TrainConfig[Any], grid: Mapping[str, Sequence[Any]], output: Path) -> tuple[SweepCell, ...]:
    """The runs of a grid: values by the name of a setting, such as ``method.cql_weight`` or ``dataset``.

    Raises ValueError if there is no such setting, if values repeat, or if a combination of them is refused.
    """
    for name, values in grid.items():
        if not values or len(set(map(_text, values))) < len(values):
            given = ", ".join(map(_text, values)) or "none"
            raise ValueError(f"the grid needs different values of {name}, at least one, got {given}")
    cells, rows = list[SweepCell](), place_setting(base)
    label = base.variant or method_named(name_of(base.method)).LABEL
    for values in itertools.product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        shown = {_short(name): _text(value) for name, value in changes.items() if name != rows}
        variant = " ".join([label, *(f"{name}={value}" for name, value in shown.items())])
        config = replace(_changed(base, changes), variant=variant)
        place: Place | None = None if rows is None else getattr(config, rows)
        place = task_of(place) if isinstance(config, OnlineTrainConfig) and isinstance(place, str) else place
        path = output / "runs" / _folder(variant) / ("" if place is None else place_name(place))
        cells.append(SweepCell(label=variant, values=shown, place=place, config=config, path=path))
    twins = {cell.path: cell for cell in cells}
    if len(twins) < len(cells):
        first = next(cell for cell in cells if twins[cell.path] is not cell)
        raise ValueError(
            f"{first.label!r} and {twins[first.path].label!r} would have one directory, {first.path}; sweep them apart"
        )
    return tuple(cells)


def sweep(
    base: TrainConfig[Any],
    grid: Mapping[str, Sequence[Any]],
    output: AnyPath,
    progress: Progress = silent,
    *,
    engine: EngineConfig | None = None,
    processes: int | None = None,
) -> SweepResults:
    """Train every combination that is not finished, and write ``sweep.md``, ``sweep.html`` and ``sweep.json``.

    `base` has the settings that all runs share, `grid` the values of the others (`sweep_cells`). `engine` says who
    makes the runs and which of them, `processes` how many at once. A run that fails is named in
    `SweepResults.failed`, and the others go on. A shard that is not the last to end writes no table.

    Raises ValueError before the work for a grid that cannot be, and where all runs fail, what the first one raised.
    """
    output = replaceable(local_path(output))
    cells = sweep_cells(of_python(base), {name: [*map(of_python, values)] for name, values in grid.items()}, output)
    check_writable(output)

    def make(some: Sequence[SweepCell]) -> list[Path]:
        jobs = [
            RunJob(
                name=f"{number}/{len(some)} {_name(cell)}",
                work=finished_run,
                arguments=(cell.config, cell.path),
                makes=cell.path,
            )
            for number, cell in enumerate(some, start=1)
        ]
        maker.make("training", jobs, progress)
        return maker.without_failed([cell.path for cell in some])

    with opened(engine or EngineConfig(), base.compute, output, processes) as maker:
        paths, costs = [cell.path for cell in cells], [cell.cost for cell in cells]
        made, left = maker.make_part(cells, paths, costs, make)
    failed = {path: failure.why for path, failure in maker.failed.items()}
    records = {path: read_run(path) for path in made}
    measures = {path: _measured(record) for path, record in records.items()}
    why_empty = {cell.path: Entry(why_empty="failed" if cell.path in failed else "not run") for cell in cells}
    results = SweepResults(
        output=output,
        cells=cells,
        records=records,
        failed=failed,
        entries=why_empty | {path: entry for path, (_, entry) in measures.items()},
        measured=next((what for what, _ in measures.values()), "nothing"),
        left_to_others=left,
    )
    if not left:
        _write(results)
    return results


def setting(config: Any, name: str) -> Any:
    """The value of a setting by its dotted name; ValueError if there is none, with those that there are."""
    value = config
    for part in name.split("."):
        known = [each.name for each in fields(value)] if is_dataclass(value) else []
        if part not in known:
            raise ValueError(f"there is no setting {name}: {part} is none of {', '.join(known) or 'its parts'}")
        value = getattr(value, part)
    return value


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """The same settings but for those with these dotted names, all changed at once."""
    own, inside = dict[str, Any](), dict[str, dict[str, Any]]()
    for name, value in changes.items():
        setting(config, name)
        first, _, rest = name.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = value
        else:
            own[first] = value
    return replace(config, **own, **{name: _changed(getattr(config, name), each) for name, each in inside.items()})


def _short(name: str) -> str:
    return name.removeprefix("method.").replace("_", "-")


def _text(value: Any) -> str:
    shown = plain(value)
    return ",".join(map(str, shown)) if isinstance(shown, list) else str(shown)


def _folder(label: str) -> str:
    name = path_name(label)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def place_setting(config: TrainConfig[Any]) -> Literal["dataset", "environment"] | None:
    """The setting that says what a run is trained on or in: its values are the rows of the table."""
    if isinstance(config, OnlineTrainConfig):
        return "environment"
    return "dataset" if isinstance(config, DatasetTrainConfig) else None


def _place(cell: SweepCell) -> str:
    return "" if cell.place is None else labels([cell.place])[cell.place]


def _name(cell: SweepCell) -> str:
    return f"{cell.label} on {_place(cell)}" if cell.place else cell.label


def _measured(record: RunRecord) -> tuple[str, Entry]:
    """What a run is compared by: its final score, or where it has none, the last of what it measured first."""
    scored = score(record)
    if scored.evaluation_count:
        what = f"{record.score[1]}, last {scored.evaluation_count} evaluations"
        what = what.replace("last 1 evaluations", "last evaluation")
        if scored.final is None:
            why = f"no finite score: {len(scored.failed_seeds)} of {len(record.seeds)} seeds"
            return what, Entry(why_empty=why)
        return what, Entry(ours=scored.final, seed_count=len(record.seeds))
    for phase in ("evaluation", "train"):
        for name, series in record.series.get(phase, {}).items():
            what, last = f"{name.replace('_', ' ')} at the end", series.values[-1]
            if not np.isfinite(last).all():
                return what, Entry(why_empty=f"not finite: {int((~np.isfinite(last)).sum())} of {len(last)} seeds")
            return what, Entry(ours=bootstrap_interval(last), seed_count=len(last), digits=4)
    return "nothing", Entry(why_empty="nothing measured")


def _write(results: SweepResults) -> None:
    results.output.mkdir(parents=True, exist_ok=True)
    (heads, *rows), text = results.table, "Numbers are means over seeds, with their 95 % bootstrap intervals."
    table = [heads, ["---"] * (len(heads) - 1) + ["---:"], *rows]
    lines = ["# Sweep\n", f"{text}\n", *(f"| {' | '.join(row)} |" for row in table), ""]
    lines += [*(f"- {fault}" for fault in results.faults), ""]
    write_whole(results.markdown, "\n".join(lines).encode(errors="replace"))
    write_whole(
        results.output / "sweep.json", (json.dumps(results.facts(), indent=2, ensure_ascii=False) + "\n").encode()
    )
    section = Section(name="sweep", title="All runs", text=text, table=results.table, leading=True)
    summary = "\n".join(results.faults)
    write_report([*results.records], results.report, title="Sweep", summary=summary, extra_sections=[section])
