"""Runs a study of a paper: every cell that this machine has data for, then the paper's numbers beside ours.

A cell is one variant on one dataset, all seeds at once. It has a run directory of its own under ``runs/``, a
pre-training run one under ``pretraining/``; studies share both, and what is finished is never run again. Nothing is
invented: a cell that was not run stays empty and says why.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from trajmill import studies
from trajmill.core.files import check_writable, replaceable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import DatasetError
from trajmill.data.catalog import find_dataset
from trajmill.data.official import official_file
from trajmill.report import Section, write_report
from trajmill.report.figures import standalone
from trajmill.runs.engines import EngineConfig, opened
from trajmill.studies.cells import (
    QUICK_DATASETS,
    QUICK_LABEL,
    QUICK_SEEDS,
    Cell,
    ReproduceConfig,
    labels,
    missing_requirement,
    run_cells,
    run_path,
)
from trajmill.studies.check import CheckedNumber, checked_numbers
from trajmill.studies.drawings import drawn_figures
from trajmill.studies.forms import in_form
from trajmill.studies.laws import LawResults, LawStudy, law_path, run_laws
from trajmill.studies.measures import Results
from trajmill.studies.records import Form, Place, Study
from trajmill.studies.work import cost
from trajmill.training.settings import of_python, plain

SIDES = {
    "paper": "Paper: mean over its seeds, with its standard deviation where on record.",
    "authors": "Authors: their own runs by our statistics, mean over seeds with its 95 % bootstrap interval.",
    "ours": "Ours: mean over seeds, with its 95 % bootstrap interval. An empty cell says why it is empty.",
}
"""what is shown of a column"""


@cache
def _modules() -> Mapping[str, tuple[Study, ...]]:
    """Studies of every module of this package that has ``STUDIES``, by its name."""
    names = [found.name for found in pkgutil.iter_modules(studies.__path__)]
    modules = {name: importlib.import_module(f"{studies.__name__}.{name}") for name in names}
    return {name: module.STUDIES for name, module in modules.items() if hasattr(module, "STUDIES")}


@cache
def all_studies() -> Mapping[str, Study]:
    """By name."""
    return {study.name: study for found in _modules().values() for study in found}


def names_in(name: str) -> list[str]:
    """The studies that a name stands for: the one of that name, or all of a paper, by its letter."""
    of_paper = [study.name for study in _modules().get(f"paper_{name}", ())]
    return of_paper or [study_named(name).name]


def check(*names: str) -> Mapping[str, list[CheckedNumber]]:
    """Recompute the printed numbers of tables, by default of all, from the runs of their authors; trains nothing.

    Raises ValueError if there is no such study, or if no runs of its authors give numbers of it.
    """
    asked = [each for name in names for each in names_in(name)] or list(all_studies())
    found = {name: numbers for name in asked if (numbers := checked_numbers(all_studies()[name]))}
    if not found:
        raise ValueError(f"no number of {', '.join(names)} can be checked; those of {', '.join(check())} can")
    return found


def study_named(name: str) -> Study:
    """A study; ValueError if there is none of this name."""
    if name not in all_studies():
        raise ValueError(f"there is no study {name!r}; studies are {', '.join(all_studies())}")
    return all_studies()[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A study, and which of its cells can be run."""

    study: Study
    config: ReproduceConfig
    cells: tuple[Cell, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    """datasets that were not found, with the reason"""
    not_yet: Mapping[str, str] = field(default_factory=dict)
    """variants that cannot be run, with the reason"""


def plan(name: str, config: ReproduceConfig | None = None, form: Form | None = None) -> Planned:
    """What `reproduce` would run; ValueError and DatasetError as there."""
    study, config = in_form(study_named(name), form), of_python(config or ReproduceConfig())
    quick = config.quick or name == "quick"
    config = replace(config, quick=quick, seeds=config.seeds or (QUICK_SEEDS if quick else study.seeds))
    if isinstance(study, LawStudy) and (config.datasets or config.environments):
        raise ValueError(f"study {name} learns sequences of a law: leave out --datasets and --environments")
    other = "datasets" if study.kind == "environments" else "environments"
    if getattr(config, other):
        raise ValueError(f"study {name} has {study.kind}: give --{study.kind} in place of --{other}, or leave it out")
    if study.environments:
        study = replace(study, environments=config.environments or study.environments)
    elif study.datasets:
        study = replace(study, datasets=config.datasets or (QUICK_DATASETS if quick else study.datasets))
    missing = {}
    for dataset in study.datasets:
        try:
            find_dataset(dataset)
        except DatasetError as error:
            missing[dataset] = str(error)
    if study.datasets and len(missing) == len(study.datasets):
        raise DatasetError(
            f"{name} needs {', '.join(missing)}, but none was found. Download them with: {' '.join(advice(missing))}"
        )
    not_yet = {name: why for name, variant in study.variants.items() if (why := missing_requirement(variant, config))}
    cells = tuple(
        (variant, place)
        for place in study.places
        for variant in study.variants.values()
        if place not in missing and variant.name not in not_yet
    )
    return Planned(study=study, config=config, cells=cells, missing=missing, not_yet=not_yet)


def reproduce(
    name: str,
    output: AnyPath,
    config: ReproduceConfig | None = None,
    progress: Progress = silent,
    form: Form | None = None,
    engine: EngineConfig | None = None,
) -> Results:
    """Run what is missing of a study and write ``NAME.md``, ``NAME.html``, ``NAME.json`` and figures into `output`.

    A study of two forms has the one that its authors released unless `form` says otherwise; its files, runs and
    variants have names of their own, which end in ``released``.

    `engine` says who makes the runs, and which of them. A run that fails is in `Results.failed`, the others go on, and
    its cells say so. A shard that is not the last to end writes no table (`Results.left_to_others`).

    Raises ValueError if there is no such study, if it has one form alone and `form` is given, or if runs in `output`
    were started with other settings; DatasetError if none of the datasets was found; where all runs fail, what the
    first one raised, or ProcessError that says so.
    """
    planned = plan(name, config, form)
    output = replaceable(local_path(output))
    check_writable(output)
    is_of_laws = isinstance(planned.study, LawStudy)

    def make(cells: Sequence[Cell]) -> dict[tuple[str, Place], Path]:
        if is_of_laws:
            return run_laws([variant for variant, _ in cells], output, planned.config, progress, maker)
        return run_cells(list(cells), output, planned.config, progress, maker)

    costs = [cost(variant, len(planned.config.seeds)) for variant, _ in planned.cells]
    paths = [
        law_path(variant, output) if is_of_laws else run_path(variant, place, output)
        for variant, place in planned.cells
    ]
    with opened(engine or EngineConfig(), planned.config.compute, output, planned.config.processes) as maker:
        runs, left = maker.make_part(planned.cells, paths, costs, make)
    failed = {
        (variant.name, place): maker.failed[path].why
        for (variant, place), path in zip(planned.cells, paths, strict=True)
        if path in maker.failed
    }
    kind = LawResults if is_of_laws else Results
    results = kind(planned.study, output, planned.config, runs, planned.missing, planned.not_yet, failed, left)
    if not left:
        _write(results)
    return results


def advice(missing: Mapping[str, str]) -> list[str]:
    """How to get each missing dataset: a command, or why there is none."""
    return [
        f"`trajmill dataset download {official.name}`" if (official := official_file(name)) else reason
        for name, reason in missing.items()
    ]


def _write(results: Results) -> None:
    study, config, output, comparison = results.study, results.config, results.output, results.comparison
    output.mkdir(parents=True, exist_ok=True)
    title, drawings = f"{study.name}: {study.title}", _drawings(results)
    warnings = _warnings(study, config) if study.variants else []
    names = labels(study.places)
    notes = [*study.notes, *(f"{name}: {why}." for name, why in results.not_yet.items())]
    notes += [f"{variant} on {names[place]} failed: {why}" for (variant, place), why in results.failed.items()]
    if results.missing:
        notes.append(f"Cells of datasets that were not found stay empty. {' '.join(advice(results.missing))}")
    images = [f"{study.name}-{number}.svg" for number in range(1, len(drawings) + 1)]
    for image, drawing in zip(images, drawings, strict=True):
        write_whole(output / image, standalone(drawing).encode())
    lines = [
        f"# {title}\n",
        *(f"**{line}**\n" for line in warnings),
        *([comparison.markdown(), ""] if comparison.rows else []),
        *(f"![{study.title}]({image})\n" for image in images),
        *(f"- {line}" for line in notes),
        "",
    ]
    write_whole(results.markdown, "\n".join(lines).encode(errors="replace"))
    runs = results.runs.items()
    facts = {
        "study": study.name,
        "title": study.title,
        "quick": config.quick,
        "config": plain(config),
        "columns": comparison.columns,
        "rows": {label: [asdict(entry) for entry in row] for label, row in comparison.rows.items()},
        "missing": dict(results.missing),
        "not_yet": dict(results.not_yet),
        "failed": {f"{variant} on {names[place]}": why for (variant, place), why in results.failed.items()},
        "runs": {f"{name} on {names[place]}": os.path.relpath(path, output) for (name, place), path in runs},
    }
    write_whole(
        output / f"{study.name}.json", (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")
    )
    section = Section(name="comparison", title="Figure", figures=tuple(drawings), leading=True)
    if comparison.rows:
        heading = "Our numbers" if comparison.sides == ("ours",) else "The paper's numbers and ours"
        text = " ".join(SIDES[side] for side in comparison.sides)
        section = replace(section, title=heading, text=text, comparison=comparison)
    summary = "\n".join([*warnings, *notes])
    write_report(results.run_paths, results.report, title=title, summary=summary, extra_sections=[section])


def _drawings(results: Results) -> list[str]:
    return results.drawings() if isinstance(results, LawResults) else drawn_figures(results)


def _warnings(study: Study, config: ReproduceConfig) -> list[str]:
    """What differs from the paper."""
    lines = [QUICK_LABEL] if config.quick else []
    shares = {
        "updates, warm-ups included": config.update_share,
        "pre-training updates": config.update_share if config.pretraining_share is None else config.pretraining_share,
        "batches": config.batch_share,
    }
    lines += [f"Not the paper's experiment: {share:.3g} of its {of}." for of, share in shares.items() if share != 1.0]
    if not config.quick and config.seeds != study.seeds:
        lines.append(f"{len(config.seeds)} seed{'s' * (len(config.seeds) > 1)} where the paper has {len(study.seeds)}.")
    if config.compute.precision != "fp32":
        lines.append(f"Matrix products in {config.compute.precision} where the paper has fp32.")
    return lines
