"""Instruction sets: what the doctor says when kernels disagree, and what TRAJMILL_SIMD does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import trajmill as tm
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


# --- TRAJMILL_SIMD ---

DRAW = """
import hashlib
import trajmill as tm
from trajmill import _core
chain = tm.MarkovChain(state_count=100, seed=3)
print(hashlib.sha256(chain.sample(200, 70)).hexdigest(), _core.simd_level())
"""


def run(level: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TRAJMILL_SIMD": level}
    return subprocess.run(
        [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("level", ["", *_core.available_simd_levels()])
def test_the_variable_chooses_the_level_and_bytes_stay(level: str) -> None:
    expected = hashlib.sha256(tm.MarkovChain(state_count=100, seed=3).sample(200, 70)).hexdigest()
    assert run(level).stdout.split() == [expected, level or _core.available_simd_levels()[-1]]


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("sse9", "TRAJMILL_SIMD must be scalar, sse4, avx2, avx512 or neon, got 'sse9'"),
        ("AVX2", "TRAJMILL_SIMD must be scalar, sse4, avx2, avx512 or neon, got 'AVX2'"),
        *(
            (level, f"SIMD level '{level}' is not available on this machine; available: {available}")
            for available in [", ".join(_core.available_simd_levels())]
            for level in ("sse4", "avx2", "avx512", "neon")
            if level not in _core.available_simd_levels()
        ),
    ],
)
def test_a_level_that_cannot_be_had_is_refused_at_the_first_draw(level: str, message: str) -> None:
    done = run(level)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ValueError: {message}"
    assert done.stderr.count(", in sample") == 1  # not at the import, and not when tables are made
    with pytest.raises(ValueError, match="SIMD level"):
        _core.set_simd_level(level)
