"""No flipped bit of what a run has written is read as another number."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import tiny

from trajmill.core.sealing import SEAL, sealed, unsealed
from trajmill.experiments.train import train
from trajmill.runs.reading import RunError, read_run
from trajmill.training.settings import Schedule


def content(run: Path) -> str:
    """All that is read of a run, as text."""
    record: dict[str, Any] = asdict(read_run(run))
    series = record.pop("series")
    numbers = {
        (phase, name): (each["updates"].tolist(), each["values"].tolist())
        for phase, metrics in series.items()
        for name, each in metrics.items()
    }
    return repr((record, numbers))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    schedule = Schedule(updates=4, evaluation_interval=2, log_interval=2)
    return train(tiny("td3_bc", schedule=schedule), tmp_path_factory.mktemp("sealed") / "run")


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl", "environment.json"])
def test_no_flipped_bit_changes_a_value(name: str, run: Path) -> None:
    expected, whole = content(run), (run / name).read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    try:
        for place in random.choice(len(whole), min(len(whole), 150), replace=False).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(random.integers(8))
            (run / name).write_bytes(damaged)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = content(run)
            except RunError:
                refused += 1
            else:  # a letter's case in a checksum, a space, or the name of the checksum itself
                assert found.replace(SEAL, "") == expected or SEAL not in damaged.decode(errors="replace")
    finally:
        (run / name).write_bytes(whole)
    assert refused > 100 or refused > 0.8 * len(whole)


def test_a_record_without_a_checksum_is_read() -> None:
    assert unsealed({"a": 1}) == {"a": 1} == unsealed(sealed({"a": 1}))
    with pytest.raises(ValueError, match="checksum"):
        unsealed(sealed({"a": 1}) | {"a": 2})
