"""What the README says is what happens."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not here")


def test_the_first_snippet_does_what_its_comments_say() -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1].replace("1_000_000", "1_000"), names)
    tokens, row, data, states = (names[name] for name in ("tokens", "row", "data", "states"))
    assert isinstance(tokens, np.ndarray) and tokens.dtype == np.uint8 and tokens.shape == (1000, 1024)
    assert isinstance(row, np.ndarray) and row.sum() == pytest.approx(1)
    assert data.states.shape == (1000, 1001) and data.actions.shape == (1000, 1000)  # type: ignore[attr-defined]
    assert isinstance(states, np.ndarray) and states.dtype == np.float32 and states.shape == (100, 17)


def test_the_number_is_the_measured_one() -> None:
    specification = importlib.util.spec_from_file_location("readme", ROOT / "tools/readme.py")
    assert specification is not None and specification.loader is not None
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    assert maker.number(maker.results("sampler")) in README.read_text()
