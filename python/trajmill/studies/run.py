"""Runs a study of a paper: every cell that this machine has data for, then the paper's numbers beside ours.

A cell is one variant on one dataset, all seeds at once. It is a run directory of its own under ``runs/``, a
pre-training one under ``pretraining/``; studies share both, and what is finished is never run again. Nothing is
invented: a cell that was not run stays empty and says why.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from trajmill import studies
from trajmill.algorithms import method_named, name_of
from trajmill.core.files import write_whole
from trajmill.core.progress import Progress, silent
from trajmill.data import DatasetError
from trajmill.data.catalog import bundled_datasets, find_dataset
from trajmill.data.official import official_file
from trajmill.report import Section, figures, write_report
from trajmill.report.comparison import Comparison
from trajmill.runs.reading import read_run
from trajmill.studies.cells import QUICK_LABEL, QUICK_SEEDS, ReproduceConfig, missing_requirement, run_cells
from trajmill.studies.drawings import drawn_figures
from trajmill.studies.measures import Results, comparison_of
from trajmill.studies.records import Study
from trajmill.training.settings import plain


@cache
def all_studies() -> Mapping[str, Study]:
    """By name: those of every module of this package that has ``STUDIES``."""
    modules = [
        importlib.import_module(f"{studies.__name__}.{found.name}") for found in pkgutil.iter_modules(studies.__path__)
    ]
    return {study.name: study for module in modules for study in getattr(module, "STUDIES", ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduced:
    """What a study left behind."""

    study: Study
    comparison: Comparison
    missing: Mapping[str, str]
    """datasets that are not here, with the reason"""
    not_yet: Mapping[str, str]
    """variants that could not be run, with the reason"""
    report: Path
    markdown: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        return self.comparison.columns


def reproduce(
    name: str, output: Path, config: ReproduceConfig | None = None, progress: Progress = silent
) -> Reproduced:
    """Run what is missing of a study and write ``NAME.md``, ``NAME.html``, ``NAME.json`` and figures into `output`.

    Raises
    ------
    ValueError
        If there is no such study, or runs in `output` were started with other settings.
    DatasetError
        If none of the datasets is here.
    """
    known = all_studies()
    if name not in known:
        raise ValueError(f"there is no study {name!r}; there are {', '.join(known)}")
    study = known[name]
    config = config or ReproduceConfig()
    if config.quick or name == "quick":
        config = replace(config, quick=True, seeds=config.seeds or QUICK_SEEDS)
        study = replace(study, datasets=bundled_datasets() if study.datasets else ())
    config = replace(config, seeds=config.seeds or study.seeds)
    study = replace(study, datasets=config.datasets or study.datasets) if study.datasets else study
    missing = _missing(study)
    if study.datasets and len(missing) == len(study.datasets):
        raise DatasetError(
            f"{name} needs {', '.join(missing)}, but none was found. Download them with: {' '.join(advice(missing))}"
        )
    not_yet = {name: why for name, variant in study.variants.items() if (why := missing_requirement(variant, config))}
    results = Results(study, output.resolve(), config)
    cells = [
        (variant, dataset)
        for dataset in study.datasets
        for variant in study.variants.values()
        if dataset not in missing and variant.name not in not_yet
    ]
    results.runs.update(run_cells(cells, results.output, config, progress))
    return _write(results, missing, not_yet)


def _missing(study: Study) -> dict[str, str]:
    missing = {}
    for dataset in study.datasets:
        try:
            find_dataset(dataset)
        except DatasetError as error:
            missing[dataset] = str(error)
    return missing


def advice(missing: Mapping[str, str]) -> list[str]:
    """How to get what is not here: a command each, or why there is none."""
    return [
        f"`trajmill dataset download {official_file(name).name}`"  # type: ignore[union-attr]
        if official_file(name)
        else reason
        for name, reason in missing.items()
    ]


def _write(results: Results, missing: Mapping[str, str], not_yet: Mapping[str, str]) -> Reproduced:
    study, config, output = results.study, results.config, results.output
    output.mkdir(parents=True, exist_ok=True)
    comparison = comparison_of(results, missing, not_yet)
    drawings = drawn_figures(results)
    warnings = _warnings(study, config) if study.columns[0].variant is not None else []
    lines = [*warnings, *study.notes, *[f"{name}: {why}." for name, why in not_yet.items()]]
    if missing:
        lines.append(f"Datasets that are not here leave their cells empty. {' '.join(advice(missing))}")
    for number, drawing in enumerate(drawings, start=1):
        write_whole(output / f"{study.name}-{number}.svg", figures.standalone(drawing).encode())
    markdown = "\n".join(
        [
            f"# {study.name}: {study.title}\n",
            *[f"**{line}**\n" for line in warnings],
            *([comparison.markdown(), ""] if comparison.rows else []),
            *[f"![{study.title}]({study.name}-{number}.svg)\n" for number in range(1, len(drawings) + 1)],
            *[f"- {line}" for line in lines[len(warnings) :]],
            "",
        ]
    )
    write_whole(output / f"{study.name}.md", markdown.encode())
    facts = {
        "study": study.name,
        "title": study.title,
        "quick": config.quick,
        "config": plain(config),
        "columns": comparison.columns,
        "rows": {label: [asdict(entry) for entry in row] for label, row in comparison.rows.items()},
        "missing": dict(missing),
        "not_yet": dict(not_yet),
        "runs": {
            f"{variant} on {dataset}": os.path.relpath(p, output) for (variant, dataset), p in results.runs.items()
        },
    }
    write_whole(output / f"{study.name}.json", (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
    report = write_report(
        [*results.runs.values(), *dict.fromkeys(_pretraining_paths(results))],
        output / f"{study.name}.html",
        title=f"{study.name}: {study.title}",
        summary="\n".join(lines),
        extra_sections=[
            Section(
                name="comparison",
                title=HEADINGS[len(comparison.sides) if comparison.rows else 0],
                text=(PAPER_CAPTION if "paper" in comparison.sides else "") + CAPTION if comparison.rows else "",
                comparison=comparison if comparison.rows else None,
                figures=tuple(drawings),
                leading=True,
            )
        ],
    )
    return Reproduced(
        study=study,
        comparison=comparison,
        missing=missing,
        not_yet=not_yet,
        report=report,
        markdown=output / f"{study.name}.md",
    )


HEADINGS = ("Figure", "Our numbers", "The paper's numbers and ours")
PAPER_CAPTION = "Paper: mean over twenty seeds, with its standard deviation where on record. "
CAPTION = "Ours: mean over seeds, with its 95 % bootstrap interval. An empty cell says why it is empty."


def _warnings(study: Study, config: ReproduceConfig) -> list[str]:
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


def _pretraining_paths(results: Results) -> list[Path]:
    inits = (read_run(path).settings["init"] for path in results.runs.values())
    return [Path(init) for init in inits if init is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a study asks of a machine when nothing of it is there yet."""

    cells: int
    pretrainings: int
    cpu_core_hours: float
    gpu_hours: float


def estimate(study: Study) -> Estimate:
    """Rough work of a whole study, from the methods' `SECONDS`; evaluation in MuJoCo comes on top."""
    sizes = len({dataset.split("-")[0] for dataset in study.datasets})
    starts = [(start, sizes if start.sized_by else 1) for start in study.pretrainings.values()]

    def seconds(machine: int) -> float:
        training = sum(
            variant.updates * _seconds(variant.method)[machine] * len(study.seeds) * len(study.datasets)
            for variant in study.variants.values()
        )
        return training + sum(start.updates * _seconds(start.method)[machine] * count for start, count in starts)

    return Estimate(
        cells=len(study.variants) * len(study.datasets),
        pretrainings=sum(count for _, count in starts),
        cpu_core_hours=seconds(0) / 3600,
        gpu_hours=seconds(1) / 3600,
    )


def _seconds(method: object) -> tuple[float, float]:
    """Of one update of one seed, on a core of a small server and on one H200 with twenty seeds at once."""
    found: tuple[float, float] = getattr(method_named(name_of(method)), "SECONDS", (0.01, 0.0001))
    return found
