"""Checks of settings where they are born, and settings that may differ from seed to seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_least(name: str, value: int, low: int) -> None:
    """Raise unless the whole number `value` is at least `low`."""
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def in_range(
    name: str,
    value: float | tuple[float, ...],
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raise unless every value lies between `low` and `high`; NaN never does."""
    interval = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
    for one in value if isinstance(value, tuple) else (value,):
        if not low <= one <= high or (open_low and one == low) or (open_high and one == high):
            raise ValueError(f"{name} must be in {interval}, got {one}")


def per_seed(name: str, value: float | tuple[float, ...], seed_count: int, device: torch.device) -> Tensor:
    """One number per seed, (S,) float64, from one for all or one each."""
    values = value if isinstance(value, tuple) else (value,) * seed_count
    if len(values) != seed_count:
        raise ValueError(f"{name} needs one value or one per seed ({seed_count}), got {len(values)}")
    return torch.tensor(values, dtype=torch.float64, device=device)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of one program: at least one, all different, each a 64-bit number."""
    if not seeds:
        raise ValueError("seeds must name at least one seed, got none")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must differ, got {list(seeds)}")
    for seed in seeds:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in [0, 2**64), got {seed}")
    return tuple(seeds)
