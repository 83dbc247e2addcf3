"""Settings of a method: checked where they are made, and some of them of each seed its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from trajmill.core import checks

PerSeed = float | tuple[float, ...]
"""type of a setting that is one number for all seeds or one each, so that a whole ablation is one run"""

ConfigT = TypeVar("ConfigT")
ValueT = TypeVar("ValueT")


def at_least(low: int, **settings: int) -> None:
    """Raise unless each of the settings, given by name, is a whole number of at least `low`."""
    for name, value in settings.items():
        checks.integer(name, value, low)


def all_at_least(low: int, **settings: Sequence[int]) -> None:
    """`at_least` for every number of the settings, which are sequences."""
    for name, values in settings.items():
        at_least(low, **{f"{name}[{index}]": value for index, value in enumerate(values)})


def in_range(interval: str, **settings: PerSeed) -> None:
    """Raise unless every number of the settings, given by name, lies in `interval`, such as ``"[0, 1)"``."""
    for name, value in settings.items():
        for number in value if isinstance(value, tuple) else (value,):
            checks.number(name, number, interval)


def per_seed_names(config: Any) -> list[str]:
    """Settings of type `PerSeed`."""
    return [field.name for field in fields(config) if str(field.type).startswith("PerSeed")]


def per_seed(config: Any, seed_count: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every `PerSeed` setting of `config` that has a value, by name: (seed_count,) on `device`."""
    found = {}
    for name in per_seed_names(config):
        value = getattr(config, name)
        if value is None:
            continue
        values = value if isinstance(value, tuple) else (value,) * seed_count
        if len(values) != seed_count:
            raise ValueError(f"{name} needs one value or one per seed ({seed_count}), got {len(values)}")
        found[name] = torch.tensor(values, dtype=torch.float64, device=device).to(dtype)
    return found


def for_seeds(config: ConfigT, positions: Sequence[int]) -> ConfigT:
    """The same settings for the seeds at these positions."""
    values = {name: getattr(config, name) for name in per_seed_names(config)}
    chosen = {
        name: tuple(value[position] for position in positions)
        for name, value in values.items()
        if isinstance(value, tuple)
    }
    return replace(config, **chosen)  # type: ignore[type-var]


def plain(value: Any) -> Any:
    """Settings as JSON values: records become objects, paths strings, infinite numbers ``"inf"``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def of_python(value: ValueT) -> ValueT:
    """Settings in which every NumPy number is Python's and every array a tuple: JSON knows no others."""
    found: Any = value
    if is_dataclass(value) and not isinstance(value, type):
        found = replace(
            value, **{each.name: of_python(getattr(value, each.name)) for each in fields(value) if each.init}
        )
    elif isinstance(value, tuple):
        found = tuple(of_python(one) for one in value)
    elif isinstance(value, np.ndarray):
        found = tuple(value.tolist())
    elif isinstance(value, np.generic):
        found = value.item()
    return found  # type: ignore[no-any-return]


def defaults(config: Any) -> dict[str, Any]:
    """What the settings of a record and of the records in it are if nothing is said, as JSON values.

    Of a setting that is open unless somebody says so (None), it is the value that it has.
    """
    found = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found[field.name] = defaults(value)
        elif field.default is None:
            found[field.name] = plain(value)
        elif field.default is not MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = plain(field.default_factory())
    return found


def decaying(config: ConfigT, schedule: Schedule) -> ConfigT:
    """Settings whose ``..._decay_updates`` are those of the schedule where they are open (None)."""
    names = [field.name for field in fields(config) if field.name.endswith("decay_updates")]  # type: ignore[arg-type]
    still_open = {name: schedule.updates for name in names if getattr(config, name) is None}
    return replace(config, **still_open)  # type: ignore[type-var]


def places(config: Any) -> list[str]:
    """Names of the settings that are paths, which say where something lies but not what it is; ``method.text``."""
    hints, found = get_type_hints(type(config)), list[str]()
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found += [f"{field.name}.{name}" for name in places(value)]
        elif "Path" in str(hints[field.name]):
            found.append(field.name)
    return found


def configured(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The settings that `plain` made `values` of; what is missing in them has its default, what is unknown is left.

    A generic `kind` says which settings it has inside: ``TrainConfig[Config]``. Where it says Any, they are of the type
    that they have by default.
    """
    origin: Any = get_origin(kind) or kind
    inside = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=True))
    hints = {name: inside.get(hint, hint) for name, hint in get_type_hints(origin).items()}
    for field in fields(origin):
        if hints[field.name] is Any and field.default_factory is not MISSING:
            hints[field.name] = type(field.default_factory())
    made: ConfigT = origin(**{name: _typed(hint, values[name]) for name, hint in hints.items() if name in values})
    return made


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type that a setting has."""
    if is_dataclass(get_origin(hint) or hint):
        return configured(hint, value)
    if isinstance(value, list):
        return tuple(_typed(hint, one) for one in value)
    if isinstance(value, str):
        return Path(value) if "Path" in str(hint) else float(value) if value in ("inf", "-inf", "nan") else value
    return value


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of one program: at least one, all different, each a 64-bit number."""
    if not seeds:
        raise ValueError("seeds must name at least one seed, got none")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must differ, got {list(seeds)}")
    return tuple(checks.integer("seed", seed, 0, 2**64 - 1) for seed in seeds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to do what, counted in updates; the last update is always a mark of every kind."""

    updates: int
    """updates in all, at least 1"""
    log_interval: int = 1000
    """updates per line of metrics, at least 1; the very first update has a line of its own"""
    evaluation_interval: int = 5000
    """updates between evaluations, at least 1 (5,000 in arXiv 2310.00771, as its Table 13 suggests)"""
    checkpoint_interval: int = 10_000
    """updates between checkpoints, at least 1"""
    unroll: int = 8
    """updates per CUDA graph, at least 1; changes no result"""

    def __post_init__(self) -> None:
        at_least(1, **{field.name: getattr(self, field.name) for field in fields(self)})

    def is_mark(self, interval: int, update: int) -> bool:
        """Whether what happens every `interval` updates happens after `update` of them."""
        return update % interval == 0 or update == self.updates

    def next_stop(self, update: int) -> int:
        """Where to stop next: at a mark, or after a few periods so that progress can be shown."""
        intervals = (self.log_interval, self.evaluation_interval, self.checkpoint_interval)
        marks = [(update // interval + 1) * interval for interval in intervals]
        return 1 if update == 0 else min(*marks, self.updates, update + 8 * self.unroll)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """How an agent meets its environment while it learns."""

    random_steps: int = 5000
    """environment steps of uniform actions before the first update, at least 0; none with --init"""
    warmup_steps: int = 0
    """environment steps after these that the agent makes as it is, before the first update (arXiv 2412.07762)"""
    updates_per_step: float = 1.0
    """updates for each environment step after them, > 0: the update-to-data ratio"""

    def __post_init__(self) -> None:
        at_least(0, random_steps=self.random_steps, warmup_steps=self.warmup_steps)
        in_range("(0, inf)", updates_per_step=self.updates_per_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the mean of a metric does not pass while all is well."""

    limits: Sequence[float]
    """of its absolute value, one a seed"""
    advice: str
    """where the limits come from, and what to do"""
