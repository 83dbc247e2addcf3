"""Products in bfloat16: gradients close to those of float64, the rest exact, and the battery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import test_decision_transformer as dt_tests
import test_forward_dynamics as forward_dynamics_tests
import test_language_model as lm_tests
import torch
import torch.nn.functional as F
from battery import CHECKS, Case, distance, run_check
from offline_data import table

from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model as lm
from trajmill.models.critic import action_values, critic, predictions
from trajmill.models.mlp import hidden
from trajmill.models.precision import to_product_dtype
from trajmill.models.tanh_gaussian import gaussian, tanh_gaussian
from trajmill.training.device import ComputeConfig

torch.set_num_threads(1)


@pytest.fixture
def bf16() -> Iterator[None]:
    ComputeConfig(device="cpu", precision="bf16").apply()
    yield
    ComputeConfig(device="cpu").apply()


SEEDS = [3, 4]


def cql_state(dtype: torch.dtype) -> cql.CQLState:
    return cql.create(cql.CQLConfig(), table(dtype), SEEDS)


def forward_dynamics_state(dtype: torch.dtype) -> forward_dynamics.ForwardDynamicsState:
    vectors = forward_dynamics_tests.codebooks(100, 100, 17, 6)
    mdp = forward_dynamics_tests.random_mdp(trajectory_count=5, length=100)
    data = forward_dynamics.IndexedTransitions.of(*mdp, *vectors, device=torch.device("cpu"), dtype=dtype)
    return forward_dynamics.create(forward_dynamics.ForwardDynamicsConfig(), data, SEEDS)


def dt_state(dtype: torch.dtype) -> dt.DTState:
    return dt.create(dt.DTConfig(), dt_tests.table(dtype), SEEDS)


def lm_state(dtype: torch.dtype) -> lm.LMState:
    config = lm.LMConfig(batch_size=4, length=64, dropout=False)
    return lm_tests.filled(config, SEEDS, dtype)


ALGORITHMS: dict[str, tuple[Callable[[torch.dtype], Any], Callable[[Any], None]]] = {
    "cql": (cql_state, cql.step),
    "forward dynamics": (forward_dynamics_state, forward_dynamics.step),
    "decision transformer": (dt_state, dt.step),
    "language model": (lm_state, lm_tests.fed_step),
}


@pytest.mark.parametrize("activation", ["smooth", "relu"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_are_close_to_those_of_float64(
    name: str, activation: str, bf16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2e-2 per parameter tensor where the activation is smooth.

    A ReLU adds the units whose sign the rounding flips, 2^-9 of them or so: a few percent, more where a gradient
    cancels, as that of CQL's conservative term does.
    """
    if activation == "smooth":
        monkeypatch.setattr(torch.Tensor, "relu_", F.silu)
        monkeypatch.setattr(F, "relu", F.silu)
    create, step = ALGORITHMS[name]
    low, double = create(torch.float32), create(torch.float64)
    step(low)
    step(double)
    farthest = 0.0
    for ours, exact in zip(low.optimizer.gradients, double.optimizer.gradients, strict=True):
        for parameter in ours.parameters:
            if exact.parameters[parameter].any():
                error = distance(ours.parameters[parameter], exact.parameters[parameter])
                assert error <= (2e-2 if activation == "smooth" else 0.15), (parameter, error)
                farthest = max(farthest, error)
    assert farthest > 1e-3, "nothing was reduced"
    floats = [tensor for tensor in low.moving().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} <= {torch.float32, torch.float64}


def test_output_layers_are_not_reduced(bf16: None) -> None:
    """Hidden numbers are bfloat16, outputs have digits that bfloat16 does not."""
    observation, both = torch.randn(1, 50, 5), torch.randn(1, 50, 7)
    policy, critics = tanh_gaussian(5, 2, [0]).detached(), critic(5, 2, [0], predicted_dim=5).detached()
    assert hidden(policy, observation).dtype == torch.bfloat16
    outputs = [*gaussian(policy, observation), action_values(critics, both), predictions(critics, both)]
    state = dt_state(torch.float32)
    batch = state.table.gather(torch.arange(20).view(2, 10), 4)
    outputs.append(dt.loss(state, batch).detach())
    for output in outputs:
        assert output.dtype == torch.float32
        assert not output.equal(output.bfloat16().float())


CASES = {
    "cql": Case(
        create=lambda seeds, dtype, device="cpu": cql.create(
            cql.CQLConfig(batch_size=16), table(dtype, device), seeds, metric_capacity=8
        ),
        step=cql.step,
        poison=lambda state, position: state.policy.flat[position, 0].fill_(torch.nan),
    ),
    "decision transformer": dt_tests.CASE,
    "language model": lm_tests.CASE,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_battery(name: str, check: str, tmp_path: Path, bf16: None) -> None:
    run_check(CASES[name], check, tmp_path)


def test_precision_is_a_setting_of_the_process() -> None:
    numbers = torch.ones(2)
    for precision, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        ComputeConfig(device="cpu", precision=precision).apply()
        assert to_product_dtype(numbers).dtype == dtype
        assert to_product_dtype(numbers.double()).dtype == torch.float64
    with pytest.raises(ValueError, match="precision must be fp32, tf32 or bf16, got 'fp16'"):
        ComputeConfig(precision="fp16")
