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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from trajmill import studies
from trajmill.algorithms import method_named, name_of
from trajmill.core.files import check_writable, replaceable, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.data import DatasetError
from trajmill.data.catalog import find_dataset
from trajmill.data.official import official_file
from trajmill.replay.ring import Turns
from trajmill.report import Section, write_report
from trajmill.report.figures import standalone
from trajmill.studies.cells import (
    QUICK_DATASETS,
    QUICK_LABEL,
    QUICK_SEEDS,
    ReproduceConfig,
    labels,
    missing_requirement,
    run_cells,
    short_name,
)
from trajmill.studies.check import CheckedNumber, checked_numbers
from trajmill.studies.drawings import drawn_figures
from trajmill.studies.forms import in_form
from trajmill.studies.laws import LawResults, LawStudy, run_laws
from trajmill.studies.measures import Results
from trajmill.studies.records import Form, Study
from trajmill.training.settings import of_python, plain

SIDES = {
    "paper": "Paper: mean over its seeds, with its standard deviation where on record.",
    "authors": "Authors: their own runs by our statistics, mean over seeds with its 95 % bootstrap interval.",
    "ours": "Ours: mean over seeds, with its 95 % bootstrap interval. An empty cell says why it is empty.",
}
"""what is shown of a column"""


@cache
def all_studies() -> Mapping[str, Study]:
    """By name: those of every module of this package that has ``STUDIES``."""
    modules = [
        importlib.import_module(f"{studies.__name__}.{found.name}") for found in pkgutil.iter_modules(studies.__path__)
    ]
    return {study.name: study for module in modules for study in getattr(module, "STUDIES", ())}


def check(name: str = "") -> Mapping[str, list[CheckedNumber]]:
    """Recompute the printed numbers of a table, or of all tables, from the runs of their authors; trains nothing.

    Raises ValueError if there is no such study, or if no runs of its authors give numbers of it.
    """
    studies = [study_named(name)] if name else all_studies().values()
    found = {study.name: numbers for study in studies if (numbers := checked_numbers(study))}
    if not found:
        raise ValueError(f"no number of {name} can be checked; those of {', '.join(check())} can")
    return found


def study_named(name: str) -> Study:
    """A study; ValueError if there is none of this name."""
    if name not in all_studies():
        raise ValueError(f"there is no study {name!r}; studies are {', '.join(all_studies())}")
    return all_studies()[name]


def reproduce(
    name: str,
    output: AnyPath,
    config: ReproduceConfig | None = None,
    progress: Progress = silent,
    form: Form | None = None,
) -> Results:
    """Run what is missing of a study and write ``NAME.md``, ``NAME.html``, ``NAME.json`` and figures into `output`.

    A study of two forms has the one that its authors released unless `form` says otherwise; its files, runs and
    variants have names of their own, which end in ``released``.

    Raises ValueError if there is no such study, if it has one form alone and `form` is given, or if runs in `output`
    were started with other settings; DatasetError if none of the datasets was found.
    """
    study, config = in_form(study_named(name), form), of_python(config or ReproduceConfig())
    quick = config.quick or name == "quick"
    config = replace(config, quick=quick, seeds=config.seeds or (QUICK_SEEDS if quick else study.seeds))
    if isinstance(study, LawStudy):
        if config.datasets or config.environments:
            raise ValueError(f"study {name} learns sequences of a law: leave out --datasets and --environments")
        output = replaceable(local_path(output))
        check_writable(output)
        learned = run_laws(study, output, config, progress)
        _write(learned)
        return learned
    other = "datasets" if study.kind == "environments" else "environments"
    if getattr(config, other):
        raise ValueError(f"study {name} has {study.kind}: give --{study.kind} in place of --{other}, or leave it out")
    if study.environments:
        study = replace(study, environments=config.environments or study.environments)
    elif study.datasets:
        study = replace(study, datasets=config.datasets or (QUICK_DATASETS if quick else study.datasets))
    output = replaceable(local_path(output))
    check_writable(output)
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
    cells = [
        (variant, place)
        for place in study.places
        for variant in study.variants.values()
        if place not in missing and variant.name not in not_yet
    ]
    results = Results(study, output, config, run_cells(cells, output, config, progress), missing, not_yet)
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
    notes = [*study.notes, *(f"{name}: {why}." for name, why in results.not_yet.items())]
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
    runs, names = results.runs.items(), labels(study.places)
    facts = {
        "study": study.name,
        "title": study.title,
        "quick": config.quick,
        "config": plain(config),
        "columns": comparison.columns,
        "rows": {label: [asdict(entry) for entry in row] for label, row in comparison.rows.items()},
        "missing": dict(results.missing),
        "not_yet": dict(results.not_yet),
        "runs": {f"{variant} on {names[place]}": os.path.relpath(path, output) for (variant, place), path in runs},
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How much work a study is on a machine that has none of its runs."""

    cells: int
    pretrainings: int
    cpu_core_hours: float
    gpu_hours: float


def estimate(study: Study) -> Estimate:
    """Rough work of a whole study, from the methods' `SECONDS` of an update; evaluation in MuJoCo comes on top.

    Models of datasets, and of what agents meet, count with what they make.
    """
    sizes = len({short_name(place).split("-")[0] for place in study.places})
    starts = [(start, sizes if start.sized_by else 1) for start in study.pretrainings.values()]
    earlier = {each.after.name: each.after for each in study.variants.values() if each.after}
    variants = (study.variants | earlier).values()
    seeds = {variant.name: len(study.seeds[: variant.seed_count]) * len(study.places) for variant in variants}
    work: list[tuple[Any, float]] = [(variant.method, variant.updates * seeds[variant.name]) for variant in variants]
    work += [(start.method, start.updates * count) for start, count in starts]
    models: dict[Any, tuple[Any, float]] = {}
    for variant in variants:
        of_data = variant.ratio, variant.rows
        if variant.prediction is not None and variant.prediction.rate > 0.0:
            model = variant.prediction.model
            models[model.name, of_data] = model.method, model.updates
        if variant.synthetic is not None:
            model, made = variant.synthetic.model, variant.synthetic
            updates = model.updates + _updates_for(model.method, made.sampling, made.count)
            models[model.name, of_data] = model.method, updates
        if variant.meets is not None and variant.synthesis.every is not None:
            own, turns = variant.synthesis, Turns.of(variant.meets, 1, variant.method.batch_size)
            count = own.due_within(turns, variant.updates)
            updates = own.updates + _updates_for(own.method, own.sampling, own.count)
            work.append((own.method, updates * count * seeds[variant.name]))
    work += [(method, updates * len(study.places)) for method, updates in models.values()]
    cpu, gpu = (sum(updates * _seconds(method)[machine] for method, updates in work) / 3600 for machine in (0, 1))
    pretrainings = sum(count for _, count in starts)
    cells = len(study.variants) * len(study.places)
    return Estimate(cells=cells, pretrainings=pretrainings, cpu_core_hours=cpu, gpu_hours=gpu)


def _seconds(method: Any) -> tuple[float, float]:
    """Of an update, on a core and on a GPU; with other sizes than by default, in proportion to its matrix products."""
    cpu, gpu = getattr(method_named(name_of(method)), "SECONDS", (0.01, 0.0001))
    size = _products(method) / _products(type(method)())
    return cpu * size, gpu * size


def _products(method: Any) -> float:
    """What the matrix products of an update are in proportion to: rows, and the square of the widest layer."""
    if hasattr(method, "length") and hasattr(method, "backbone"):  # every token of a row passes through all blocks
        blocks = method.backbone
        return _rows(method) * float(method.length * blocks.layer_count * blocks.width**2)
    width: int = getattr(method, "width", None) or max(getattr(method, "hidden_sizes", (1,)))
    return _rows(method) * width**2


def _rows(method: Any) -> int:
    """Of a batch."""
    rows: int = getattr(method, "batch_size", None) or 256
    return rows


def _updates_for(method: Any, sampling: Any, count: int) -> float:
    """How many updates of a model take as long as making transitions: each row of a batch costs three evaluations."""
    return count * getattr(sampling, "evaluations", 1) / (3 * _rows(method))
