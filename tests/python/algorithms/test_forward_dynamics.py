"""Forward-dynamics pre-training: its loss, what it parameters alone, how far it gets, and the battery."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from battery import CHECKS, GPU_CHECKS, Case, run_check
from gpu import NEEDS_GPU

from trajmill.algorithms import forward_dynamics
from trajmill.algorithms.forward_dynamics import ForwardDynamicsConfig, IndexedTransitions, PairMap
from trajmill.models.mlp import export_network

torch.set_num_threads(1)
CPU = torch.device("cpu")


def softmax_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    weights = np.exp(rng.random(shape))
    return weights / weights.sum(-1, keepdims=True)


def random_mdp(
    state_count: int = 100, action_count: int = 100, trajectory_count: int = 1000, length: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """States (n, L + 1) and actions (n, L) of an MDP with softmax rows at temperature 1."""
    rng = np.random.default_rng(0)
    policy = softmax_rows(rng, state_count, action_count).cumsum(-1)
    law = softmax_rows(rng, state_count, action_count, state_count).cumsum(-1)
    states = np.zeros((trajectory_count, length + 1), np.uint8)
    actions = np.zeros((trajectory_count, length), np.uint8)
    states[:, 0] = rng.integers(state_count, size=trajectory_count)
    for t in range(length):
        s = states[:, t]
        actions[:, t] = (policy[s, :-1] < rng.random((trajectory_count, 1))).sum(1)
        states[:, t + 1] = (law[s, actions[:, t], :-1] < rng.random((trajectory_count, 1))).sum(1)
    return states, actions


def codebooks(
    state_count: int, action_count: int, observation_dim: int, action_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    states = 2 * rng.rand(state_count, observation_dim) - 1
    return states.astype(np.float32), (2 * rng.rand(action_count, action_dim) - 1).astype(np.float32)


def identity(states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return states, actions


def turned(states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A one-to-one map of 7 x 5 pairs."""
    number = (5 * states.astype(np.int64) + actions + 3) % 35
    return number // 5, number % 5


TARGETS = {"next state": None, "identity": identity, "mapping": turned}


def small(dtype: torch.dtype, device: str = "cpu", target: PairMap | None = None) -> IndexedTransitions:
    states, actions = random_mdp(7, 5, 6, 20)
    vectors = codebooks(7, 5, 4, 2)
    return IndexedTransitions.of(states, actions, *vectors, target=target, device=torch.device(device), dtype=dtype)


def poison(state: forward_dynamics.ForwardDynamicsState, position: int) -> None:
    state.critic.flat[2 * position, 0] = math.nan


def case(target: PairMap | None) -> Case:
    return Case(
        create=lambda seeds, dtype, device="cpu": forward_dynamics.create(
            ForwardDynamicsConfig(batch_size=16), small(dtype, device, target), seeds, metric_capacity=8
        ),
        step=forward_dynamics.step,
        poison=poison,
    )


@pytest.mark.parametrize("target", ["next state", "mapping"])
@pytest.mark.parametrize("check", CHECKS)
def test_battery(target: str, check: str, tmp_path: Path) -> None:
    run_check(case(TARGETS[target]), check, tmp_path)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("check", GPU_CHECKS)
@pytest.mark.parametrize("target", TARGETS)
def test_battery_of_a_gpu(target: str, check: str, device: str) -> None:
    GPU_CHECKS[check](case(TARGETS[target]), device)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("updates", "tolerance"), [(1, 1e-9), (100, 1e-6)])
def test_update_equals_plain_torch(target: str, updates: int, tolerance: float) -> None:
    """Two critics of one seed as torch modules with torch's Adam in float64."""
    transitions = small(torch.float64, target=TARGETS[target])
    state = forward_dynamics.create(ForwardDynamicsConfig(batch_size=16), transitions, [3, 4])
    plain = [
        {name: value.requires_grad_() for name, value in export_network(state.critic.parameters, row).items()}
        for row in (2, 3)
    ]
    optimizer = torch.optim.Adam([value for one in plain for value in one.values()], lr=3e-4)
    for _ in range(updates):
        words = state.draws.words(state.step, 1)["batch"][0]
        index = forward_dynamics.indexes(words, len(transitions.rows))
        forward_dynamics.update(state, index)
        s, a = transitions.rows[index[1], :2].long().unbind(1)
        inputs = torch.cat([transitions.state_vectors[s], transitions.action_vectors[a]], 1)
        if target == "next state":
            wanted = transitions.state_vectors[transitions.rows[index[1], 2].long()]
        else:
            goal_s, goal_a = (torch.as_tensor(one) for one in TARGETS[target](s.numpy(), a.numpy()))
            wanted = torch.cat([transitions.state_vectors[goal_s], transitions.action_vectors[goal_a]], 1)
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
    assert [logged[name][1] for name in forward_dynamics.METRICS] == pytest.approx([float(x.detach()) for x in losses])


def test_value_layer_keeps_its_initial_values() -> None:
    state = forward_dynamics.create(ForwardDynamicsConfig(batch_size=16), small(torch.float32), [0])
    before = {name: parameter.clone() for name, parameter in state.critic.detached().items()}
    forward_dynamics.step(state, 5)
    for name, parameter in state.critic.detached().items():
        assert torch.equal(parameter, before[name]) == name.startswith("value."), name


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "zero"), [(11, 3, 0.342476), (17, 6, 0.346675), (111, 8, 0.334758)]
)
def test_first_loss_is_that_of_predicting_zero(observation_dim: int, action_dim: int, zero: float) -> None:
    """The dynamics head starts near zero; the tolerance is five standard errors of one batch of 8,192."""
    states, actions = random_mdp(trajectory_count=100, length=100)
    vectors = codebooks(100, 100, observation_dim, action_dim)
    transitions = IndexedTransitions.of(states, actions, *vectors, device=CPU, dtype=torch.float32)
    state = forward_dynamics.create(ForwardDynamicsConfig(batch_size=8192), transitions, [42])
    forward_dynamics.step(state)
    for losses in state.metrics.mean_of_last(0, 1).values():
        assert losses[0] == pytest.approx(zero, abs=0.006)


def expected_losses(state: forward_dynamics.ForwardDynamicsState) -> list[float]:
    """Mean squared error of each critic over all transitions, not a sample of them."""
    every = torch.arange(len(state.transitions.rows))
    total = torch.zeros(2, dtype=torch.float64)
    for index in every.split(50_000):
        inputs, target = state.transitions.gather(index[None])
        predicted = forward_dynamics.predictions(state.critic.detached(), inputs)
        total += (predicted - target[:, None]).square().mean(-1).double().sum((0, 2))
    return (total / len(every)).tolist()


@pytest.mark.slow
def test_pretraining_reaches_the_law_of_the_mdp() -> None:
    """Hopper sizes, S = A = 100: zero costs 0.3425, the best constant 0.3394, the true law 0.3391.

    3,000 updates bring the loss over all 1,000,000 transitions to the best constant; 8,000 begin to go below it.
    """
    states, actions = random_mdp()
    transitions = IndexedTransitions.of(states, actions, *codebooks(100, 100, 11, 3), device=CPU, dtype=torch.float32)
    state = forward_dynamics.create(ForwardDynamicsConfig(), transitions, [42])
    assert expected_losses(state) == pytest.approx([0.3424, 0.3424], abs=0.0006)
    forward_dynamics.step(state, 3000)
    for loss in expected_losses(state):
        assert loss == pytest.approx(0.3391, rel=0.0015)


def test_a_short_pretraining_already_predicts_the_mean() -> None:
    states, actions = random_mdp(trajectory_count=100, length=200)
    transitions = IndexedTransitions.of(states, actions, *codebooks(100, 100, 11, 3), device=CPU, dtype=torch.float32)
    state = forward_dynamics.create(ForwardDynamicsConfig(learning_rate=1e-3), transitions, [42])
    before = expected_losses(state)
    forward_dynamics.step(state, 400)
    for loss, start in zip(expected_losses(state), before, strict=True):
        assert loss < start - 0.0015


def test_transitions_are_checked() -> None:
    states, actions = random_mdp(7, 5, 6, 20)
    vectors = codebooks(7, 5, 4, 2)
    with pytest.raises(ValueError, match=r"states must be \(n, L \+ 1\)"):
        IndexedTransitions.of(states[:, :-1], actions, *vectors, device=CPU, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"actions must be in \[0, 3\)"):
        IndexedTransitions.of(states, actions, vectors[0], vectors[1][:3], device=CPU, dtype=torch.float32)


def test_pretrained_critics_are_those_of_the_seed() -> None:
    state = forward_dynamics.create(ForwardDynamicsConfig(), small(torch.float32), [0, 1])
    both = forward_dynamics.pretrained_critics(state.critic.flat, 4, 2, 4, position=1)
    assert torch.equal(both[1]["dynamics.weight"], state.critic.parameters["dynamics.weight"][3])
    with pytest.raises(ValueError, match="5 observation and 2 action numbers that predict 5 must"):
        forward_dynamics.pretrained_critics(state.critic.flat, 5, 2, 5)
