"""The two forms of a study, as its authors' code was released and as its paper states it, and what differs in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from trajmill.studies.records import Form, Study, Variant


def with_released(study: Study, released: Callable[[Variant], Variant], **changes: Any) -> Study:
    """The study as stated, with its released form: each variant as `released` makes it, under other names."""

    def renamed(variant: Variant | None) -> Variant | None:
        if variant is None:
            return None
        made, start = released(variant), None
        if made.start is not None:
            start = replace(made.start, name=_released_name(made.start.name))
        return replace(made, name=_released_name(variant.name), family=variant.name, start=start)

    columns = (replace(each, variant=renamed(each.variant), minus=renamed(each.minus)) for each in study.columns)
    theirs = replace(study, name=f"{study.name}-released", columns=tuple(columns), **changes)
    return replace(study, released=theirs)


def _released_name(name: str) -> str:
    return f"{name}, as released"


def in_form(study: Study, form: Form | None) -> Study:
    """The study in a form, None for the released one if there are two; its notes then say what differs in the other.

    Raises ValueError if a form is asked for, but the study has one alone.
    """
    if study.released is None:
        if form is not None:
            raise ValueError(f"study {study.name} has one form alone, got --as {form}; leave out --as")
        return study
    stated = form == "stated"
    differing = "; ".join(
        f"{each.setting} {each.stated if stated else each.released} ({each.released if stated else each.stated}) "
        f"of {', '.join(each.families)}"
        for each in differences([study])
    )
    about = (
        f"As the paper states it; in brackets what its authors' code has: {differing}."
        if stated
        else f"As its authors' code was released; in brackets what the paper states: {differing}."
    )
    chosen = study if stated else study.released
    return replace(chosen, notes=(about, *chosen.notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting that is not the same in both forms."""

    setting: str
    stated: Any
    released: Any
    families: tuple[str, ...]
    """variants that have it, without what follows a comma in their names"""


def differences(studies: Iterable[Study]) -> list[Difference]:
    """Every setting in which the two forms of these studies differ, with the variants that it is of."""
    found: dict[tuple[str, Any, Any], dict[str, None]] = {}
    for study in studies:
        if study.released is None:
            continue
        for column, theirs in zip(study.columns, study.released.columns, strict=True):
            ours, others = _settings(column.trained), _settings(theirs.trained)
            if "cosine" in column.statistic:
                ours["cosines"], others["cosines"] = study.cosines, study.released.cosines
            for setting in ours:
                if ours[setting] != others[setting]:
                    families = found.setdefault((setting, ours[setting], others[setting]), {})
                    families[column.trained.name.partition(",")[0]] = None
    return [
        Difference(setting=setting, stated=stated, released=released, families=tuple(families))
        for (setting, stated, released), families in found.items()
    ]


def _settings(variant: Variant) -> dict[str, Any]:
    """All that a variant's runs depend on and that the two forms may have otherwise, by name."""
    parts: dict[str, Any] = {"": variant, "fine-tuning ": variant.method}
    if variant.start is not None:
        parts["pre-training "] = variant.start.method
    known = {f"{part}{each.name}": getattr(value, each.name) for part, value in parts.items() for each in fields(value)}
    return {
        name: value for name, value in known.items() if name.split()[-1] not in ("name", "family", "method", "start")
    }
