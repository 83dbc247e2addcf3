"""Settings may be NumPy's numbers, as loops over arrays give them; what is written down is JSON's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import assert_equal_runs, tiny

from trajmill.algorithms import diffusion, method_names
from trajmill.experiments.train import train
from trajmill.experiments.upsample import UpsampleConfig, upsample
from trajmill.training.settings import Schedule, of_python


def of_numpy(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return np.asarray(value)[()]
    if isinstance(value, tuple):
        return tuple(of_numpy(one) for one in value)
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{name: of_numpy(getattr(value, name)) for name in value.__dataclass_fields__})
    return value


@pytest.mark.parametrize("method", method_names())
def test_settings_of_numpy_are_settings_of_python(method: str) -> None:
    config = tiny(method)
    assert "np." in repr(of_numpy(config)) and repr(of_python(of_numpy(config))) == repr(config)
    assert of_python(config) == config


def test_a_run_of_numpys_numbers_is_the_same_run(tmp_path: Path) -> None:
    config = tiny("td3_bc", schedule=Schedule(updates=4, evaluation_interval=2, log_interval=2))
    one, other = train(of_numpy(config), tmp_path / "one"), train(config, tmp_path / "other")
    assert_equal_runs(one, other)
    train(config, one, resume=True)  # finished, with the same settings


def test_an_upsampling_of_numpys_numbers(tmp_path: Path) -> None:
    config = UpsampleConfig(
        count=20,
        method=tiny("diffusion").method,
        sampling=diffusion.Sampling(),
        schedule=Schedule(updates=2),
        quality=False,
    )
    upsample("hopper-sac-replay-10k", tmp_path / "more", of_numpy(config))
    upsample("hopper-sac-replay-10k", tmp_path / "more", config)
