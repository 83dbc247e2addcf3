"""The lint that finds on a CPU what a CUDA graph could not hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from capture_lint import CaptureError, capture_lint
from torch import Tensor


@dataclass
class Counter:
    """The smallest state."""

    value: Tensor = field(default_factory=lambda: torch.arange(1.0, 4.0))
    step: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    def moving(self) -> dict[str, Tensor]:
        return {"value": self.value, "step": self.step}


def double(state: Counter) -> None:
    state.value.mul_(2.0)
    state.step.add_(1)


def test_lint_passes_and_counts_what_launches() -> None:
    state = Counter()
    assert capture_lint(lambda: double(state), state).launch_count() == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda s: float(s.value.sum()), "reads a value on the host"),
        (lambda s: s.value.nonzero(), "depends on data"),
        (lambda s: s.value[s.value > 2.0], "boolean mask"),
        (lambda s: s.value.masked_select(s.value > 2.0), "depends on data"),
        (lambda s: s.value.unique(), "depends on data"),
        (lambda s: s.value.add_(torch.tensor([1.0, 2.0, 3.0])), "copies a host value"),
        (lambda s: torch.empty(3).normal_(), "own generator"),
        (lambda s: torch.nn.functional.dropout(s.value), "own generator"),
        (lambda s: setattr(s, "value", s.value * 2.0), "rebound value"),
        (lambda s: setattr(s, "value", s.value.repeat(2)), "changed between two steps"),
        (lambda s: s.step.add_(1) if s.__dict__.setdefault("n", []).append(1) or len(s.n) > 1 else None, "operations"),
    ],
)
def test_lint_catches(body: object, message: str) -> None:
    state = Counter()
    with pytest.raises(CaptureError, match=message):
        capture_lint(lambda: body(state), state)
