"""What tells one model from another, and settings that mean one thing wherever they are given."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import HOPPER, METHODS, checkpoint, tiny, train

from trajmill.algorithms import method_named, synthesizing_methods
from trajmill.data import load_dataset
from trajmill.data.environments import TASKS, action_limit_of
from trajmill.evaluation.environments import environment_definition
from trajmill.experiments.prediction import identity_of, identity_of_run, learned_from
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.experiments.upsample import UpsampleConfig
from trajmill.runs.directory import RunDirectory
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.settings import Schedule, decaying

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
BRIEF = Schedule(updates=2, log_interval=1, evaluation_interval=2, checkpoint_interval=2)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_model_is_told_by_every_number_that_it_learned_from(name: str) -> None:
    """Next observations too, so that neither --model nor --predict takes two such files for one."""
    data = load_dataset(HOPPER)
    known = identity_of(data)
    column = getattr(data, name).copy()
    column[-1] = ~column[-1] if column.dtype == np.bool_ else column[-1] + 1
    assert learned_from(known, data)
    assert not learned_from(known, replace(data, **{name: column}))
    assert not learned_from(known, replace(data, ordered=False))


def test_a_model_of_a_mixture_is_not_that_of_its_first_dataset(tmp_path: Path) -> None:
    alone = tiny("world_model", schedule=BRIEF, seeds=(1,))
    identities = []
    for number, mix in enumerate([(), (f"{HOPPER}=0.5",)]):
        run = train(replace(alone, mix=mix), tmp_path / str(number))
        identities.append(identity_of_run(read_checkpoint(checkpoint(run))[1]))
    assert identities[0] != identities[1] and identities[0].keys() ^ identities[1].keys() == {"mix"}


def test_step_sizes_fall_as_long_as_the_schedule_lasts(tmp_path: Path) -> None:
    """And in the default run as long as the paper's."""
    papers = {"diffusion": ("decay_updates", 100_000), "iql": ("policy_decay_updates", 1_000_000)}
    for method in METHODS:
        module = method_named(method)
        settings = module.Config()
        names = [field.name for field in fields(settings) if field.name.endswith("decay_updates")]
        left_open = [name for name in names if getattr(settings, name) is None]
        assert left_open == ([papers[method][0]] if method in papers else []), method
        whole = decaying(settings, module.SCHEDULE)
        for name in left_open:
            assert getattr(whole, name) == papers[method][1]
            assert getattr(decaying(replace(settings, **{name: 7}), module.SCHEDULE), name) == 7
            run = train(tiny(method, method={name: None}, schedule=BRIEF), tmp_path / method)
            assert RunDirectory(run).described()["config"]["method"][name] == BRIEF.updates


def test_an_option_means_one_thing_in_every_command() -> None:
    """What a `Sampling` asks of upsample is no option of training, of which --relevance was one."""
    others = {field.name for kind in (DatasetTrainConfig, UpsampleConfig) for field in fields(kind)}
    for method in synthesizing_methods():
        assert not others & {field.name for field in fields(method_named(method).Sampling)}, method


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_limit_of_actions_is_the_environments(task: Any) -> None:
    for name in (task.name, task.environment_id, task.environment_id.replace("-v4", "-v2")):
        assert action_limit_of(name) == environment_definition(task.environment_id).action_limit
    assert action_limit_of(None) == action_limit_of("Other-v4") == 1.0
