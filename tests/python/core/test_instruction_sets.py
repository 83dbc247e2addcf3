"""Instruction sets: what the doctor says when kernels disagree, and what TRAJMILL_SIMD does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trajmill import _core
from trajmill.core import diagnosis


def known_answers() -> diagnosis.DiagnosisRow:
    return next(row for row in diagnosis.diagnose() if row.name == "known answers")


def test_the_doctor_compares_what_chains_draw_at_every_level() -> None:
    level = _core.simd_level()
    row = known_answers()
    assert row.ok and all(name in row.value for name in _core.available_simd_levels())
    assert _core.simd_level() == level


@pytest.mark.skipif(len(_core.available_simd_levels()) < 2, reason="this machine has one instruction set")
def test_the_doctor_names_a_level_that_draws_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    level, bad = _core.simd_level(), _core.available_simd_levels()[1]

    class Chain(diagnosis.MarkovChain):
        def sample(self, *args: Any, **options: Any) -> np.ndarray[Any, Any]:
            tokens = super().sample(*args, **options)
            if self.backend == "implicit" and _core.simd_level() == bad:
                tokens[-1, -1] ^= 1
            return tokens

    monkeypatch.setattr(diagnosis, "MarkovChain", Chain)
    row = known_answers()
    assert not row.ok and row.value.startswith(f"WRONG: {bad}. Reinstall")
    assert _core.simd_level() == level
