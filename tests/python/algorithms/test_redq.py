"""REDQ: it is SAC's update with its own settings, under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
from battery import Case, battery, battery_of_a_gpu
from numpy.typing import NDArray
from test_sac import PlainLoop, agree

from trajmill.algorithms import name_of, redq, sac


def plain_loop(columns: Mapping[str, NDArray[Any]], config: redq.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(redq.SMALL, batch_size=16, hidden_sizes=(24, 16))
CASES = {"delayed": Case(method=redq, config=SMALLER, sensitivity=5.0)}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


def test_updates_equal_the_plain_loop() -> None:
    """Two updates of the policy."""
    agree(redq, redq.Config(batch_size=16, polyak=0.05, learning_rate=1e-3, hidden_sizes=(24, 16)), 41)


def test_what_differs_from_sac_is_the_authors() -> None:
    ours, theirs = redq.Config(), sac.Config()
    differing = {one.name for one in fields(ours) if getattr(ours, one.name) != getattr(theirs, one.name)}
    assert differing == {"critic_count", "policy_value", "policy_delay"}
    assert (ours.critic_count, ours.subset_size, ours.policy_value, ours.policy_delay) == (10, 2, "mean", 20)
    assert (redq.INTERACTION.random_steps, redq.INTERACTION.updates_per_step) == (5000, 20)


@pytest.mark.parametrize("config", [redq.Config(), redq.SMALL, replace(redq.SMALL, critic_count=2)])
def test_its_settings_are_its_own(config: redq.Config) -> None:
    """Whatever they are: a run of SAC with ten critics stays one of SAC."""
    assert name_of(config) == "redq" and name_of(sac.Config(critic_count=10)) == "sac"
