"""Every module in the folder keeps the contract of a method, and its tiny instance trains."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from battery import CHECKS, Case, checkpoint_of
from capture_lint import OperationRecorder

from trajmill import algorithms
from trajmill.algorithms import learns_online, method_named, method_names, method_of_kind, name_of
from trajmill.cli.upsample import Upsample
from trajmill.training.checkpoint import Former
from trajmill.training.metrics import MetricRing
from trajmill.training.settings import Schedule

torch.set_num_threads(1)
METHODS = {name: method_named(name) for name in method_names()}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> ModuleType:
    return METHODS[request.param]


def arguments(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_what_a_method_never_lacks(method: ModuleType) -> None:
    name = method.__name__.rpartition(".")[2]
    assert method.__doc__ and "arXiv" in method.__doc__
    assert is_dataclass(method.Config) and isinstance(method.SMALL, method.Config)
    assert method.Config().batch_size is None or method.Config().batch_size >= method.SMALL.batch_size >= 1
    assert isinstance(method.SCHEDULE, Schedule) and isinstance(method.LABEL, str)
    assert all(
        line.startswith(("  trajmill train ", "  torchrun ")) for line in method.EXAMPLES.strip("\n").split("\n")
    )
    assert f"train {name} " in method.EXAMPLES
    sources = (hasattr(method, "prepare"), hasattr(method, "generate"), learns_online(method))
    assert sum(sources) == 1, "data comes from a dataset, from settings, or from an environment"
    assert arguments(method.create)[:3] == ["config", "table", "seeds"]
    assert arguments(method.step) == ["state", "count", "first"]
    cpu, gpu = method.SECONDS
    assert 0 < gpu < cpu


def test_what_belongs_together(method: ModuleType) -> None:
    """A policy can be restored; who has none has no scores, and may be measured instead."""
    assert hasattr(method, "policy") == hasattr(method, "restore")
    assert not (hasattr(method, "policy") and hasattr(method, "measure"))
    acts = hasattr(method, "prepare") or learns_online(method)
    assert hasattr(method, "policy") <= acts, "scores need an environment, the dataset's or its own"
    assert hasattr(method, "explore") == hasattr(method, "INTERACTION") <= hasattr(method, "policy")
    if learns_online(method):
        assert hasattr(method, "start_from") == hasattr(method, "action_values"), (
            "who starts from a run says what it has"
        )
    assert hasattr(method, "predict") <= hasattr(method, "prepare"), "predictions are made for a dataset's rows"
    assert hasattr(method, "export") == hasattr(method, "read_exported")
    assert hasattr(method, "synthesize") == hasattr(method, "Sampling") >= hasattr(method, "UPSAMPLES")
    assert hasattr(method, "UPSAMPLES") == isinstance(getattr(method, "RETRAINED", None), method.Config)
    assert isinstance(getattr(method, "FORMER", Former(kind="")), Former)


OF_THE_COMMAND = {field.name for field in fields(Upsample)} | {"method", "schedule", "compute"}
"""options of upsampling, beside which the settings of a method's samples stand"""


def test_what_makes_transitions(method: ModuleType) -> None:
    if not hasattr(method, "synthesize"):
        pytest.skip("it makes none")
    case = Case(method=method, config=method.SMALL)
    state = case.create([1])
    case.run(state, 1)
    assert not {field.name for field in fields(method.Sampling)} & OF_THE_COMMAND
    tensors, known = checkpoint_of(method, state, [1])
    data = case.rows.transitions
    options = {"device": torch.device("cpu"), "data": data, "block_size": 4, "bfloat16": False}
    one, other = (method.synthesize(tensors, known, method.Sampling(), **options) for _ in range(2))
    later, first = one.block(7, 1), one.block(7, 0)
    assert one.block_size == len(first) == 4 and one.evaluations >= 1
    for name in ("observation", "action", "reward", "next_observation", "terminal", "truncated"):
        made, again = getattr(first, name), getattr(other.block(7, 0), name)
        np.testing.assert_array_equal(made, again)
        assert made.shape[1:] == getattr(data, name).shape[1:] and made.dtype == getattr(data, name).dtype
    assert not np.array_equal(first.observation, later.observation)


def test_one_method_is_the_default_of_upsampling() -> None:
    assert sum(getattr(method, "UPSAMPLES", False) for method in METHODS.values()) == 1


@pytest.mark.parametrize("seed_count", [1, 3])
def test_exploring_acts_within_bounds_and_has_chance_from_its_noise_alone(method: ModuleType, seed_count: int) -> None:
    """Each seed by its own network, each environment alone, whatever the observation; nothing to differentiate."""
    if not hasattr(method, "explore"):
        pytest.skip("it does not learn online")
    state = Case(method=method, config=method.SMALL).create(list(range(seed_count)), torch.float64)
    seen = 5.0 * torch.randn(seed_count, 4, 5, dtype=torch.float64)
    seen[:, 1] *= 1e6
    noise = 3.0 * torch.randn(seed_count, 4, 2, dtype=torch.float64)
    with OperationRecorder():  # refuses host reads
        actions = method.explore(state, seen, noise)
    assert actions.shape == noise.shape and actions.abs().max() <= 1.0 and not actions.requires_grad
    torch.testing.assert_close(method.explore(state, seen, noise), actions, rtol=0, atol=0)
    greedy = method.policy(state)
    network, one = greedy.network.detached(), torch.zeros_like(noise[:, :1])
    for place in range(4):
        alone = method.explore(state, seen[:, place : place + 1], noise[:, place : place + 1])
        torch.testing.assert_close(alone, actions[:, place : place + 1], rtol=0, atol=1e-12)
        calm = method.explore(state, seen[:, place : place + 1], one)
        torch.testing.assert_close(calm, greedy.act(network, seen[:, place : place + 1]), rtol=0, atol=1e-12)
    assert not torch.equal(actions, method.explore(state, seen, -noise))


def test_settings_say_what_they_are(method: ModuleType) -> None:
    """A docstring under every field: it is the help of the command line."""
    classes = [one for one in method.Config.__mro__ if is_dataclass(one)]
    source = "\n".join(map(inspect.getsource, classes)).replace("\n    ", "\n")
    for field in fields(method.Config):
        _, _, after = source.partition(f"\n{field.name}: ")
        assert after.split("\n")[1].startswith('"""') or is_dataclass(getattr(method.SMALL, field.name)), field.name


def test_the_tiny_instance_trains(method: ModuleType) -> None:
    case = Case(method=method, config=method.SMALL)
    state = case.create([1, 2])
    assert is_dataclass(state) and isinstance(state.metrics, MetricRing) and state.period >= 1
    case.run(state, 2 * state.period)
    means = state.metrics.mean_of_last(0, 2 * state.period)
    assert means and np.isfinite(list(means.values())).all()
    measured = method.measure(state).keys() if hasattr(method, "measure") else set()
    assert getattr(method, "SCALES", {}).keys() <= means.keys() | measured
    CHECKS["metrics_and_their_bounds"](case)
    if not (hasattr(method, "shares_chance") and method.shares_chance(method.SMALL)):  # torch's own cannot be repeated
        CHECKS["the_runner_keeps_the_phase"](case)


def test_methods_are_found_by_name_and_by_what_they_were_called() -> None:
    assert {"cql", "decision_transformer", "forward_dynamics", "language_model"} <= METHODS.keys()
    for name, method in METHODS.items():
        assert name_of(method.SMALL) == name and method_of_kind(name) is method
        if hasattr(method, "FORMER"):
            assert method_of_kind(method.FORMER.kind) is method
    former = {"train_cql": "cql", "train_dt": "decision_transformer", "pretrain_cql": "forward_dynamics"}
    for kind, name in (former | {"pretrain_dt": "language_model"}).items():
        assert method_of_kind(kind) is METHODS[name]
    assert method_of_kind("collect") is None
    with pytest.raises(ValueError, match=r"'dqn'.* cql, "):
        method_named("dqn")


def test_settings_of_earlier_versions_become_those_of_today() -> None:
    """Identity and mapping were laws."""
    dynamics, language = METHODS["forward_dynamics"].FORMER.settings, METHODS["language_model"].FORMER.settings
    assert dynamics({"law": "mapping"}) == {"law": "mdp", "target": "mapping"}
    assert dynamics({"law": "iid"}) == {"law": "iid"} and dynamics({}) == {}
    assert language({"law": "identity", "objective": "given"}) == {"law": "iid", "target": "identity"}
    assert language({"law": "markov", "objective": "next"}) == {"law": "markov"}
    assert language({"law": "mapping", "text": ["a.txt"]}) == {"law": "markov", "text": ["a.txt"]}


def test_a_module_in_the_folder_is_a_method(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else has to be changed to add one."""
    (tmp_path / "throwaway.py").write_text("LABEL = 'thrown away'\n")
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    assert "throwaway" in method_names()
    assert method_named("throwaway").LABEL == "thrown away"
    del sys.modules["trajmill.algorithms.throwaway"]
