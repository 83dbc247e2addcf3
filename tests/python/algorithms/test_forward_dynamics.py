"""Forward-dynamics pre-training: its loss, what it leaves alone, how far it gets, and the battery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of

from trajmill.algorithms import forward_dynamics
from trajmill.algorithms.forward_dynamics import METRICS, Config
from trajmill.core.mapping import OneToOneMap
from trajmill.core.mdp import MDP
from trajmill.core.reference import codebooks
from trajmill.models.critics import join, predictions
from trajmill.models.mlp import export_network
from trajmill.replay import MDPTransitions
from trajmill.replay.tables import CodedTable

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = Config(
    observation_dim=4,
    action_dim=2,
    state_count=7,
    action_count=5,
    trajectory_count=6,
    length=20,
    batch_size=16,
    hidden_sizes=(32, 48),
)
TARGETS = ("next_state", "identity", "mapping")


def table(config: Config, dtype: torch.dtype = torch.float32) -> CodedTable:
    return forward_dynamics.generate(config).table(CPU, dtype)


CASES = {
    "next state": Case(method=forward_dynamics, config=replace(SMALL, hidden_sizes=(256, 256))),
    "mapping": Case(method=forward_dynamics, config=replace(SMALL, target="mapping")),
    "settings of each seed": Case(
        method=forward_dynamics,
        config=lambda seeds: replace(SMALL, learning_rate=tuple(1e-3 * (1 + seed % 3) for seed in seeds)),
    ),
}
IDENTITY = {"identity": Case(method=forward_dynamics, config=replace(SMALL, target="identity"))}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES | IDENTITY)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("updates", "tolerance"), [(1, 1e-9), (60, 1e-6)])
def test_update_equals_plain_torch(target: str, updates: int, tolerance: float) -> None:
    """Two critics of the second of two seeds as torch modules with torch's Adam in float64."""
    config = replace(SMALL, target=target)
    states, actions, following = forward_dynamics._trajectories(config)
    books = [torch.from_numpy(book).double() for book in forward_dynamics.codebooks(7, 5, 4, 2)]
    state = forward_dynamics.create(config, table(config, torch.float64), [3, 4])
    plain = [
        {name: value.requires_grad_() for name, value in export_network(state.critic.parameters, row).items()}
        for row in (2, 3)
    ]
    optimizer = torch.optim.Adam([value for one in plain for value in one.values()], lr=3e-4)
    for _ in range(updates):
        words = state.draws.words(state.step, 1)["batch"]
        index = (words[0, 1] * len(states) >> 32).numpy()
        forward_dynamics.update(state, state.table.draw(words)[0])
        s, a = states[index].astype(np.int64), actions[index].astype(np.int64)
        inputs = torch.cat([books[0][s], books[1][a]], 1)
        if target == "next_state":
            wanted = books[0][following[index].astype(np.int64)]
        elif target == "identity":
            wanted = inputs
        else:
            pairs = OneToOneMap(35, 42)(s * 5 + a).astype(np.int64)
            goals = pairs // 5, pairs % 5
            wanted = torch.cat([books[0][goals[0]], books[1][goals[1]]], 1)
        losses = []
        for one in plain:
            x = inputs
            for layer in ("hidden.0", "hidden.1"):
                x = torch.relu(torch.nn.functional.linear(x, one[f"{layer}.weight"], one[f"{layer}.bias"]))
            x = torch.nn.functional.linear(x, one["dynamics.weight"], one["dynamics.bias"])
            losses.append(torch.nn.functional.mse_loss(x, wanted))
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    for member in range(2):
        for name, value in export_network(state.critic.parameters, 2 + member).items():
            torch.testing.assert_close(value, plain[member][name].detach(), rtol=tolerance, atol=tolerance / 100)
    logged = state.metrics.mean_of_last(updates - 1, updates)
    assert [logged[name][1] for name in METRICS] == pytest.approx([float(x.detach()) for x in losses])


def test_its_transitions_are_those_of_the_replay_engine() -> None:
    """One source for all, with the paper's vectors in place of the chain's own."""
    rows = forward_dynamics.generate(SMALL).transitions
    mdp = MDP(state_count=7, action_count=5, seed=SMALL.data_seed)
    own = MDPTransitions(mdp, observation_dim=4, action_dim=2, trajectory_count=6, length=20)
    assert isinstance(rows, MDPTransitions) and np.array_equal(rows.rows, own.rows)
    for ours, theirs in zip((rows.state_vectors, rows.action_vectors), codebooks(7, 5, 4, 2), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(rows.target_vectors, rows.state_vectors)


def test_value_layer_keeps_its_initial_values() -> None:
    state = forward_dynamics.create(SMALL, table(SMALL), [0])
    before = {name: parameter.clone() for name, parameter in state.critic.detached().items()}
    forward_dynamics.step(state, 5)
    for name, parameter in state.critic.detached().items():
        assert torch.equal(parameter, before[name]) == name.startswith("value."), name


@pytest.mark.parametrize(("environment", "zero"), [("hopper", 0.342476), ("halfcheetah", 0.346675), ("ant", 0.334758)])
def test_first_loss_is_that_of_predicting_zero(environment: str, zero: float) -> None:
    """The dynamics head starts near zero; the tolerance is five standard errors of one batch of 8,192."""
    config = Config(environment=environment, trajectory_count=100, length=100, batch_size=8192)
    state = forward_dynamics.create(config, table(config), [42])
    forward_dynamics.step(state)
    for losses in state.metrics.mean_of_last(0, 1).values():
        assert losses[0] == pytest.approx(zero, abs=0.006)


def expected_losses(state: forward_dynamics.State) -> list[float]:
    """Mean squared error of each critic over all transitions, not a sample of them."""
    every = torch.arange(len(state.table.rows))
    total = torch.zeros(2, dtype=torch.float64)
    for index in every.split(50_000):
        batch = state.table.gather(index[None])
        predicted = predictions(state.critic.detached(), join(batch.observation, batch.action))
        total += (predicted - batch.next_observation[:, None]).square().mean(-1).double().sum((0, 2))
    return (total / len(every)).tolist()


@pytest.mark.slow
def test_pretraining_reaches_the_law_of_the_mdp() -> None:
    """Hopper sizes, S = A = 100: zero costs 0.3425, the best constant 0.3394, the true law 0.3391.

    3,000 updates bring the loss over all 1,000,000 transitions to the best constant; 8,000 begin to go below it.
    """
    state = forward_dynamics.create(Config(), table(Config()), [42])
    assert expected_losses(state) == pytest.approx([0.3424, 0.3424], abs=0.0006)
    forward_dynamics.step(state, 3000)
    for loss in expected_losses(state):
        assert loss == pytest.approx(0.3391, rel=0.0015)


def test_a_short_pretraining_already_predicts_the_mean() -> None:
    config = Config(trajectory_count=20, length=200, learning_rate=1e-3, hidden_sizes=(64, 64))
    state = forward_dynamics.create(config, table(config), [42])
    before = expected_losses(state)
    forward_dynamics.step(state, 400)
    for loss, start in zip(expected_losses(state), before, strict=True):
        assert loss < start - 0.0015


def test_a_checkpoint_says_how_many_numbers_critics_take_and_predict() -> None:
    config = replace(SMALL, target="identity")
    _, known = checkpoint_of(forward_dynamics, forward_dynamics.create(config, table(config), [0]), [0])
    sizes = ("observation_dim", "action_dim", "predicted_dim")
    assert [known[name] for name in sizes] == [4, 2, 6]


def test_dimensions_are_those_of_the_environments_files() -> None:
    assert [Config(environment=name).dimensions for name in ("hopper", "ant")] == [(11, 3), (111, 8)]
    assert Config(environment="ant", observation_dim=27).dimensions == (27, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "moon"}, "moon"),
        ({"observation_dim": 0}, "observation_dim .* got 0"),
        ({"state_count": 0}, "state_count"),
        ({"length": 0}, "length"),
        ({"hidden_sizes": (0,)}, r"hidden_sizes\[0\]"),
        ({"policy_temperature": 0.0}, "policy_temperature"),
        ({"learning_rate": (1e-3, -1.0)}, "learning_rate"),
        ({"stream": "reference", "law": "iid"}, "reference .* use v1"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)
