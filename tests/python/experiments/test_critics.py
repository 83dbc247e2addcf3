"""What CQL's critics are pre-trained on: real MDPs of every law, their published floors, and the way into CQL."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms.cql import CQLConfig
from trajmill.algorithms.forward_dynamics import ForwardDynamicsConfig, IndexedTransitions
from trajmill.core.mapping import OneToOneMap
from trajmill.pipelines import cql as pipeline
from trajmill.pipelines.cql import (
    ENVIRONMENT_DIMENSIONS,
    LABELS,
    ComputeConfig,
    PretrainCQLConfig,
    TrainCQLConfig,
    pretrain_cql,
    synthetic_transitions,
    train_cql,
)
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import Schedule

CPU = torch.device("cpu")


def config(**changes: object) -> PretrainCQLConfig:
    sizes = {"observation_dim": 11, "action_dim": 3, "trajectory_count": 20, "length": 50}
    return PretrainCQLConfig(**sizes | {"compute": ComputeConfig(device="cpu")} | changes)


def centroid_floor(transitions: IndexedTransitions) -> float:
    """Mean squared error of the best function of (s, a): the mean of the vectors that followed it."""
    s, a, s2 = transitions.rows.long().unbind(1)
    pair = s * len(transitions.action_vectors) + a
    vectors = transitions.state_vectors.double()[s2]
    count = torch.bincount(pair).double()
    sums = torch.zeros(len(count), vectors.shape[1], dtype=torch.float64).index_add_(0, pair, vectors)
    squares = vectors.square().sum() - (sums.square().sum(1) / count.clamp(min=1.0)).sum()
    return float(squares / vectors.numel())


@pytest.mark.parametrize(
    ("environment", "floor", "constant"),
    [("hopper", 0.335841, 0.339427), ("halfcheetah", 0.338789, 0.342468), ("ant", 0.327318, 0.330901)],
)
def test_the_authors_transitions_have_the_published_floor(environment: str, floor: float, constant: float) -> None:
    """Of the best function of (s, a) on these very 1,000,000 transitions, and of the best constant under IID data."""
    dims = dict(zip(("observation_dim", "action_dim"), ENVIRONMENT_DIMENSIONS[environment], strict=True))
    settings = PretrainCQLConfig(**dims, stream="reference")
    transitions = synthetic_transitions(settings, CPU)
    assert transitions.rows.shape == (1_000_000, 3)
    assert transitions.rows[:2].tolist() == [[51, 36, 71], [71, 19, 81]]
    assert centroid_floor(transitions) == pytest.approx(floor, abs=1e-6)
    variance = transitions.state_vectors.double().var(0, correction=0).mean()
    assert float(variance) == pytest.approx(constant, abs=1e-6)


@pytest.mark.parametrize("stream", ["v1", "reference"])
@pytest.mark.parametrize("law", ["mdp", "identity", "mapping"])
def test_every_law_shares_the_pairs_and_has_its_own_target(stream: str, law: str) -> None:
    settings = config(law=law, stream=stream, state_count=12, action_count=7)
    rows = synthetic_transitions(settings, CPU).rows.numpy()
    plain = synthetic_transitions(config(stream=stream, state_count=12, action_count=7), CPU).rows.numpy()
    assert len(rows) == 20 * 50
    assert (rows[:, :2] == plain[:, :2]).all()
    inside = np.arange(1000) % 50 < 49
    assert (plain[inside, 2] == plain[1:, 0][inside[:-1]]).all(), "the next state is where the next row begins"
    if law == "identity":
        assert (rows[:, 2:] == rows[:, :2]).all()
    elif law == "mapping":
        number = OneToOneMap(12 * 7, 42)(rows[:, 0] * 7 + rows[:, 1])
        assert (rows[:, 2] * 7 + rows[:, 3] == number).all()
        assert len(np.unique(rows, axis=0)) == len(np.unique(rows[:, :2], axis=0)), "one target for each pair"
        assert len(np.unique(rows[:, 2:], axis=0)) == len(np.unique(rows[:, :2], axis=0)), "no target twice"


def test_iid_is_an_mdp_of_infinite_temperatures() -> None:
    inf = math.inf
    iid = synthetic_transitions(config(law="iid"), CPU)
    mdp = synthetic_transitions(config(policy_temperature=inf, transition_temperature=inf), CPU)
    assert torch.equal(iid.rows, mdp.rows)
    assert not torch.equal(iid.rows, synthetic_transitions(config(), CPU).rows)
    for changes in ({"law": "iid"}, {"policy_temperature": inf, "transition_temperature": inf}):
        with pytest.raises(ValueError, match="stream reference has no IID data"):
            config(stream="reference", **changes)


@pytest.mark.parametrize("law", ["mdp", "iid", "identity", "mapping"])
@pytest.mark.parametrize("count", [10, 100_000])
def test_any_number_of_states_and_actions(law: str, count: int) -> None:
    """10^10 pairs are no table: 1,000 transitions are made in no time."""
    transitions = synthetic_transitions(config(law=law, state_count=count, action_count=count), CPU)
    assert 0.9 * count <= int(transitions.rows.max()) < count
    state = forward_dynamics.create(ForwardDynamicsConfig(batch_size=8), transitions, [0])
    forward_dynamics.step(state)
    assert all(math.isfinite(loss[0]) for loss in state.metrics.mean_of_last(0, 1).values())


@pytest.mark.parametrize("law", LABELS)
def test_every_law_is_a_start_for_cql(law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ForwardDynamicsConfig(batch_size=16)
    start = pretrain_cql(config(law=law, method=method, schedule=Schedule(updates=5)), tmp_path / "start")
    settings = RunDirectory(start).described()
    assert (settings["variant"], settings["dataset"]) == (LABELS[law], f"synthetic-{law}")
    states = []

    def stop(run: object, step: object, state: cql.CQLState, *_: object, **__: object) -> float:
        states.append(state)
        raise InterruptedError

    monkeypatch.setattr(pipeline, "run_schedule", stop)
    train = TrainCQLConfig(
        dataset="hopper-sac-replay-10k",
        init=start,
        seeds=(0, 1),
        method=CQLConfig(batch_size=8),
        compute=ComputeConfig(device="cpu"),
    )
    with pytest.raises(InterruptedError):
        train_cql(train, tmp_path / "run")
    critic = pipeline.pretrained_checkpoint(start, "pretrain_cql")[0]["critic"]
    loaded = states[0].critic.flat
    hidden_size = 14 * 256 + 256 + 256 * 256 + 256
    assert torch.equal(loaded[:, :hidden_size], critic[:, :hidden_size].repeat(2, 1))
    assert not torch.equal(critic[0], critic[1])
    cql.step(states[0], 2)


def mean_losses(transitions: IndexedTransitions, updates: int) -> float:
    """Of both critics, over the last tenth of the updates."""
    state = forward_dynamics.create(ForwardDynamicsConfig(), transitions, [42], metric_capacity=updates)
    forward_dynamics.step(state, updates)
    means = state.metrics.mean_of_last(updates - updates // 10, updates)
    return float(np.mean([loss[0] for loss in means.values()]))


@pytest.mark.slow
@pytest.mark.parametrize("law", LABELS)
def test_pretraining_comes_to_its_floor(law: str) -> None:
    """Hopper sizes, S = A = 100. A loss over 300 batches of 256 has a standard error of 0.0002.

    The floor of both controls is zero; a map is learned by heart, pair by pair, so it only begins to.
    """
    transitions = synthetic_transitions(PretrainCQLConfig(observation_dim=11, action_dim=3, law=law), CPU)
    loss = mean_losses(transitions, 3000)
    pairs = torch.cat([transitions.state_vectors, transitions.action_vectors], 1).var(0, correction=0).mean()
    if law == "identity":
        assert loss < 0.001
    elif law == "mapping":
        assert 0.25 < loss < float(pairs) - 0.01
    else:
        assert loss == pytest.approx({"mdp": 0.3391, "iid": 0.3394}[law], abs=0.001)
