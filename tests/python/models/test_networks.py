"""Networks: sizes, initial values, and agreement with plain torch modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trajmill.models.critics import critics, join, predictions, values_and_slopes, values_of
from trajmill.models.mlp import export_network, linear, mlp, orthogonal, seeded_generator, small_linear
from trajmill.models.policies import (
    action_density,
    deterministic,
    gaussian,
    outputs,
    policies,
    squashed_sample,
    tanh_gaussian,
    tanh_gaussian_action,
)
from trajmill.models.stack import ALIGNMENT, Stack


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "value", "dynamics", "policy"),
    [(11, 3, 69_889, 2_827, 70_408), (17, 6, 72_193, 4_369, 73_486), (111, 8, 96_769, 28_527, 98_578)],
    ids=["hopper", "halfcheetah", "ant"],
)
def test_parameter_counts_are_the_papers(
    observation_dim: int, action_dim: int, value: int, dynamics: int, policy: int
) -> None:
    both = observation_dim + action_dim
    assert critics(both, [0]).parameter_count() == value
    assert critics(both, [0], predicted_dim=observation_dim).parameter_count() == value + dynamics
    assert tanh_gaussian(observation_dim, action_dim, [0]).parameter_count() == policy
    assert policies(observation_dim, 2 * action_dim, [0]).parameter_count() == policy - 2


def plain_mlp(input_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, output_dim)
    )


def load_plain(module: nn.Sequential, values: dict[str, torch.Tensor], head: str) -> nn.Sequential:
    layers = dict(zip(("hidden.0", "hidden.1", head), module[::2], strict=True))
    for name, layer in layers.items():
        layer.load_state_dict({"weight": values[f"{name}.weight"], "bias": values[f"{name}.bias"]})
    return module


def test_exported_networks_compute_the_same_in_plain_torch() -> None:
    seeds = [3, 1, 2]
    critic = critics(7, seeds, predicted_dim=5)
    policy = tanh_gaussian(5, 2, seeds)
    other = policies(5, 4, seeds)
    observation, action = torch.randn(3, 9, 5), torch.rand(3, 9, 2)
    values = values_of(critic.parameters, join(observation, action))
    predicted = predictions(critic.parameters, join(observation, action))
    squashed = tanh_gaussian_action(policy.parameters, observation)
    acted = deterministic(other.parameters, observation)
    assert values.shape == (3, 2, 9)
    assert predicted.shape == (3, 2, 9, 5)
    for k in range(3):
        inputs = torch.cat([observation[k], action[k]], 1)
        for member in range(2):
            plain = export_network(critic.parameters, 2 * k + member)
            torch.testing.assert_close(load_plain(plain_mlp(7, 1), plain, "value")(inputs)[:, 0], values[k, member])
            torch.testing.assert_close(
                load_plain(plain_mlp(7, 5), plain, "dynamics")(inputs), predicted[k, member], atol=1e-6, rtol=1e-4
            )
        plain = load_plain(plain_mlp(5, 4), export_network(policy.parameters, k), "output")
        torch.testing.assert_close(plain(observation[k])[:, :2].tanh(), squashed[k])
        plain = load_plain(plain_mlp(5, 4), export_network(other.parameters, k), "output")
        torch.testing.assert_close(plain(observation[k]), outputs(other.parameters, observation)[k])
        torch.testing.assert_close(plain(observation[k]).tanh(), acted[k])


def test_an_exported_network_is_a_copy_of_its_row() -> None:
    stack = critics(7, [1, 2])
    network = export_network(stack.parameters, 3)
    assert network["hidden.0.weight"].shape == (256, 7)
    assert torch.equal(network["hidden.1.weight"], stack.parameters["hidden.1.weight"][3].T)
    network["value.bias"].fill_(5.0)
    assert not stack.parameters["value.bias"].eq(5.0).any()


@pytest.mark.parametrize("members", [1, 3])
def test_every_member_values_the_same_inputs(members: int) -> None:
    """In their order, whatever the number of seeds, members and rows."""
    stack = critics(4, [5, 6], ensemble_size=members, predicted_dim=3, hidden_sizes=(8,))
    inputs = torch.randn(2, 9, 4)
    values, predicted = values_of(stack.parameters, inputs), predictions(stack.parameters, inputs)
    assert values.shape == (2, members, 9) and predicted.shape == (2, members, 9, 3)
    for seed in range(2):
        for member in range(members):
            plain = export_network(stack.parameters, members * seed + member)
            hidden = nn.functional.linear(inputs[seed], plain["hidden.0.weight"], plain["hidden.0.bias"]).relu()
            for head, found in (("value", values[..., None]), ("dynamics", predicted)):
                expected = nn.functional.linear(hidden, plain[f"{head}.weight"], plain[f"{head}.bias"])
                torch.testing.assert_close(found[seed, member], expected, atol=1e-6, rtol=1e-4)


def test_values_of_states_are_those_of_inputs_without_actions() -> None:
    observation = torch.randn(2, 9, 5)
    assert values_of(critics(5, [0, 1], ensemble_size=1, stream="value").parameters, observation).shape == (2, 1, 9)


def test_an_observation_is_joined_to_every_action() -> None:
    observation, action = torch.randn(2, 1, 4, 5), torch.randn(2, 3, 4, 2)
    joined = join(observation, action)
    assert joined.shape == (2, 3, 4, 7)
    assert torch.equal(joined[:, 2, :, :5], observation[:, 0]) and torch.equal(joined[..., 5:], action)


def test_initial_values_belong_to_the_seed_alone() -> None:
    one, many = critics(7, [7]), critics(7, [1, 7, 2**64 - 1])
    assert torch.equal(many.flat[2:4], one.flat)
    assert not torch.equal(one.flat[0], one.flat[1])
    assert torch.equal(critics(7, [7], ensemble_size=1).flat, one.flat[:1])
    assert not torch.equal(critics(7, [7], stream="other").flat, one.flat)
    for made in (tanh_gaussian, policies):
        assert torch.equal(made(5, 2, [1, 7]).flat[1], made(5, 2, [7]).flat[0])


def test_initial_values_follow_torchs_and_the_papers_laws() -> None:
    parameters = critics(23, [0], layers=(linear, small_linear)).detached()
    for layer, fan_in in (("hidden.0", 23), ("hidden.1", 256)):
        weight, bound = parameters[f"{layer}.weight"], 1.0 / math.sqrt(fan_in)
        assert bound * 0.999 < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
        assert 0.0 < float(parameters[f"{layer}.bias"].abs().max()) <= bound
    bound = 0.01 * math.sqrt(6.0 / 257.0)
    assert bound * 0.95 < float(parameters["value.weight"].abs().max()) <= bound
    assert not parameters["value.bias"].any()


def test_torchs_layers_are_taken_where_nobody_asks_for_others() -> None:
    for stack, head in ((critics(23, [0]), "value"), (policies(17, 6, [0]), "output")):
        weight = stack.detached()[f"{head}.weight"]
        assert 0.95 / 16 < float(weight.abs().max()) <= 1.0 / 16


def test_orthogonal_initial_values_are_orthogonal() -> None:
    layers = (orthogonal(math.sqrt(2.0)), orthogonal(0.01))
    parameters = tanh_gaussian(17, 6, [0], layers=layers).detached()
    first, last = parameters["hidden.0.weight"][0], parameters["output.weight"][0]
    torch.testing.assert_close(first @ first.T, 2.0 * torch.eye(17), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.T @ last, 1e-4 * torch.eye(12), atol=1e-9, rtol=0)
    assert not parameters["hidden.1.bias"].any()


@pytest.mark.parametrize("sizes", [(), (8,), (8, 16, 4)])
def test_hidden_layers_are_as_many_and_as_wide_as_asked_for(sizes: tuple[int, ...]) -> None:
    values = mlp(5, {"output": 2, "more": 3}, seeded_generator(0, "test"), hidden_sizes=sizes)
    widths = [5, *sizes]
    for index, size in enumerate(sizes):
        assert values[f"hidden.{index}.weight"].shape == (widths[index], size)
    assert values["output.weight"].shape == (widths[-1], 2) and values["more.bias"].shape == (1, 3)
    assert len(values) == 2 * (len(sizes) + 2)
    found = outputs(Stack.of([values]).parameters, torch.ones(1, 4, 5))
    assert found.shape == (1, 4, 2)


def test_squashed_sample_has_torchs_log_density() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(2, 4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    action, log_probability = squashed_sample(mean, log_std, noise)
    law = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(log_probability, law.log_prob(action).sum(-1), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(action_density(mean, log_std, action), log_probability, rtol=1e-7, atol=1e-7)
    far, density = squashed_sample(torch.full((1, 1, 1), 20.0), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    assert float(far) == 1.0
    assert math.isfinite(float(density))


def test_log_std_is_scaled_shifted_and_clamped() -> None:
    policy = tanh_gaussian(5, 2, [0])
    observation = torch.randn(1, 6, 5)
    _, log_std = gaussian(policy.detached(), observation)
    assert float(log_std.mean()) == pytest.approx(-1.0, abs=0.1)
    policy.parameters["log_std_offset"].data.fill_(50.0)
    assert gaussian(policy.detached(), observation)[1].eq(2.0).all()


def test_a_stack_is_one_flat_row_per_network_with_aligned_leaves() -> None:
    stack = Stack.of([{"a": torch.full((3,), float(row)), "b": torch.full((2, 2), 10.0 + row)} for row in range(2)])
    gap_a, gap_b = [0] * (ALIGNMENT - 3), [0] * (ALIGNMENT - 4)
    assert stack.flat.tolist() == [[0, 0, 0, *gap_a, *[10] * 4, *gap_b], [1, 1, 1, *gap_a, *[11] * 4, *gap_b]]
    assert stack.parameter_count() == 7
    assert all(parameter.storage_offset() % ALIGNMENT == 0 for parameter in stack.parameters.values())
    stack.flat.mul_(2.0)
    assert stack.parameters["b"][1, 0, 0] == 22.0
    copy = stack.copy()
    stack.flat.zero_()
    assert copy.parameters["b"][1, 0, 0] == 22.0
    assert not copy.parameters["b"].requires_grad and stack.parameters["b"].requires_grad
    detached = stack.detached()["b"]
    assert not detached.requires_grad and detached.data_ptr() == stack.parameters["b"].data_ptr()
    moved = stack.to(torch.device("cpu"), torch.float64)
    assert moved.flat.dtype == torch.float64 and moved.parameters["a"].requires_grad
    assert moved.flat.data_ptr() != stack.flat.data_ptr()
    with pytest.raises(ValueError, match="at least one"):
        Stack.of([])


@pytest.mark.parametrize("hidden_sizes", [(), (8,), (16, 8, 12)])
def test_slopes_are_what_differentiating_twice_gives(hidden_sizes: tuple[int, ...]) -> None:
    """Values, their gradients at the inputs, and the parameters' gradients of a function of both."""
    stack = critics(5, [3, 1], ensemble_size=3, hidden_sizes=hidden_sizes).to(torch.device("cpu"), torch.float64)
    inputs = torch.randn(2, 7, 5, dtype=torch.float64)
    leaf = inputs.clone().requires_grad_()
    expected_values = values_of(stack.parameters, leaf)
    expected_slopes = torch.stack(
        [
            torch.autograd.grad(expected_values[:, member].sum(), leaf, create_graph=True)[0]
            for member in range(expected_values.shape[1])
        ],
        1,
    )
    values, slopes = values_and_slopes(stack.parameters, inputs)
    torch.testing.assert_close(values, expected_values)
    torch.testing.assert_close(slopes, expected_slopes)
    parameters = list(stack.parameters.values())
    gradients, expected = (
        torch.autograd.grad((v.square() + 3.0 * s.norm(dim=-1)).sum(), parameters, materialize_grads=True)
        for v, s in ((values, slopes), (expected_values, expected_slopes))
    )
    for name, found, wanted in zip(stack.parameters, gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, msg=name)
