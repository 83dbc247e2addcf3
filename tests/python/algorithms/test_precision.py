"""Products in bfloat16: gradients close to those of float64, the rest exact, and the battery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import test_decision_transformer as dt_tests
import test_forward_dynamics as forward_dynamics_tests
import test_language_model as lm_tests
import torch
import torch.nn.functional as F
from battery import Case, battery, distance
from small_data import transitions

from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model as lm
from trajmill.models.critics import critics, predictions, values_of
from trajmill.models.mlp import hidden
from trajmill.models.policies import deterministic, gaussian, policies, tanh_gaussian
from trajmill.models.precision import to_product_dtype
from trajmill.replay.tables import TransitionRows
from trajmill.training.device import ComputeConfig

torch.set_num_threads(1)


@pytest.fixture
def bf16() -> Iterator[None]:
    ComputeConfig(device="cpu", precision="bf16").apply()
    yield
    ComputeConfig(device="cpu").apply()


ROWS = TransitionRows(transitions=transitions(), action_limit=0.999)
METHODS = {
    "cql": Case(method=cql, config=cql.Config(), rows=ROWS),
    "forward dynamics": Case(
        method=forward_dynamics,
        config=forward_dynamics.Config(environment="halfcheetah", trajectory_count=5, length=100),
    ),
    "decision transformer": Case(method=dt, config=dt.Config(batch_size=32), rows=dt_tests.rows(dt.Config())),
    "language model": Case(
        method=lm, config=lm.Config(batch_size=4, length=64, held_out_count=4, state_count=5, dropout=False)
    ),
}


@pytest.mark.parametrize("activation", ["smooth", "relu"])
@pytest.mark.parametrize("name", METHODS)
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
    case = METHODS[name]
    low, double = case.create([3, 4], torch.float32), case.create([3, 4], torch.float64)
    case.train(low, 1)
    case.train(double, 1)
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
    squashed, plain = tanh_gaussian(5, 2, [0]).detached(), policies(5, 2, [0]).detached()
    critic = critics(7, [0], predicted_dim=5).detached()
    assert hidden(squashed, observation).dtype == torch.bfloat16
    outputs = [*gaussian(squashed, observation), deterministic(plain, observation)]
    outputs += [values_of(critic, both), predictions(critic, both)]
    state = METHODS["decision transformer"].create([0, 1])
    outputs.append(dt.loss(state, state.table.gather(torch.arange(20).view(2, 10))).detach())
    for output in outputs:
        assert output.dtype == torch.float32
        assert not output.equal(output.bfloat16().float())


CASES = {
    "cql": Case(method=cql, config=cql.Config(batch_size=16), rows=ROWS),
    "forward dynamics": Case(method=forward_dynamics, config=forward_dynamics_tests.SMALL),
    "decision transformer": dt_tests.CASES["plain"],
    "language model": Case(method=lm, config=replace(lm_tests.CONFIG, sequence_count=20)),
}
test_battery = pytest.mark.usefixtures("bf16")(battery(CASES, fast=("forward dynamics", "language model")))


def test_precision_is_a_setting_of_the_process() -> None:
    numbers = torch.ones(2)
    for precision, dtype in (("bf16", torch.bfloat16), ("tf32", torch.float32), ("fp32", torch.float32)):
        ComputeConfig(device="cpu", precision=precision).apply()
        assert to_product_dtype(numbers).dtype == dtype
        assert to_product_dtype(numbers.double()).dtype == torch.float64
    with pytest.raises(ValueError, match=r"precision .* 'fp16'"):
        ComputeConfig(precision="fp16")
