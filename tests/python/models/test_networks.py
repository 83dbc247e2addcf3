"""Networks: sizes, initial values, and agreement with plain torch modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trajmill.models.critic import action_values, critic, join, predictions
from trajmill.models.mlp import export_network, import_network
from trajmill.models.stack import ALIGNMENT, Stack
from trajmill.models.tanh_gaussian import deterministic_action, gaussian, squashed_sample, tanh_gaussian


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "value", "dynamics", "policy"),
    [(11, 3, 69_889, 2_827, 70_408), (17, 6, 72_193, 4_369, 73_486), (111, 8, 96_769, 28_527, 98_578)],
    ids=["hopper", "halfcheetah", "ant"],
)
def test_parameter_counts_are_the_papers(
    observation_dim: int, action_dim: int, value: int, dynamics: int, policy: int
) -> None:
    assert critic(observation_dim, action_dim, [0]).parameter_count() == value
    assert critic(observation_dim, action_dim, [0], predicted_dim=observation_dim).parameter_count() == value + dynamics
    assert tanh_gaussian(observation_dim, action_dim, [0]).parameter_count() == policy


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
    critics = critic(5, 2, seeds, predicted_dim=5)
    policies = tanh_gaussian(5, 2, seeds)
    observation, action = torch.randn(3, 9, 5), torch.rand(3, 9, 2)
    values = action_values(critics.parameters, join(observation, action))
    predicted = predictions(critics.parameters, join(observation, action))
    deterministic = deterministic_action(policies.parameters, observation)
    assert values.shape == (3, 2, 9)
    assert predicted.shape == (3, 2, 9, 5)
    for k in range(3):
        inputs = torch.cat([observation[k], action[k]], 1)
        for member in range(2):
            plain = export_network(critics.parameters, 2 * k + member)
            torch.testing.assert_close(load_plain(plain_mlp(7, 1), plain, "value")(inputs)[:, 0], values[k, member])
            torch.testing.assert_close(
                load_plain(plain_mlp(7, 5), plain, "dynamics")(inputs), predicted[k, member], atol=1e-6, rtol=1e-4
            )
        policy = load_plain(plain_mlp(5, 4), export_network(policies.parameters, k), "output")
        torch.testing.assert_close(policy(observation[k])[:, :2].tanh(), deterministic[k])


def test_import_undoes_export_and_checks_what_it_gets() -> None:
    source, target = critic(5, 2, [1]), critic(5, 2, [2, 3])
    import_network(target.parameters, 3, export_network(source.parameters, 1))
    assert torch.equal(target.flat[3], source.flat[1])
    assert not torch.equal(target.flat[2], source.flat[0])
    with pytest.raises(ValueError, match="needs tensors"):
        import_network(target.parameters, 0, {"hidden.0.weight": torch.zeros(256, 7)})
    wrong = export_network(source.parameters, 0) | {"value.weight": torch.zeros(2, 256)}
    with pytest.raises(ValueError, match=r"value.weight must have shape \(256, 1\)"):
        import_network(target.parameters, 0, wrong)


def test_initial_values_belong_to_the_seed_alone() -> None:
    one, many = critic(5, 2, [7]), critic(5, 2, [1, 7, 2**64 - 1])
    assert torch.equal(many.flat[2:4], one.flat)
    assert not torch.equal(one.flat[0], one.flat[1])
    assert torch.equal(tanh_gaussian(5, 2, [1, 7]).flat[1], tanh_gaussian(5, 2, [7]).flat[0])


def test_initial_values_follow_torchs_and_the_papers_laws() -> None:
    parameters = critic(17, 6, [0]).detached()
    for layer, fan_in in (("hidden.0", 23), ("hidden.1", 256)):
        weight, bound = parameters[f"{layer}.weight"], 1.0 / math.sqrt(fan_in)
        assert bound * 0.999 < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
        assert 0.0 < float(parameters[f"{layer}.bias"].abs().max()) <= bound
    bound = 0.01 * math.sqrt(6.0 / 257.0)
    assert bound * 0.95 < float(parameters["value.weight"].abs().max()) <= bound
    assert not parameters["value.bias"].any()


def test_orthogonal_initial_values_are_orthogonal() -> None:
    parameters = tanh_gaussian(17, 6, [0], orthogonal=True).detached()
    first, last = parameters["hidden.0.weight"][0], parameters["output.weight"][0]
    torch.testing.assert_close(first @ first.T, 2.0 * torch.eye(17), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.T @ last, 1e-4 * torch.eye(12), atol=1e-9, rtol=0)
    assert not parameters["hidden.1.bias"].any()


def test_squashed_sample_has_torchs_log_density() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(2, 4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    action, log_probability = squashed_sample(mean, log_std, noise)
    law = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(log_probability, law.log_prob(action).sum(-1), rtol=1e-7, atol=1e-7)
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
    assert not copy.parameters["b"].requires_grad
    with pytest.raises(ValueError, match="at least one network"):
        Stack.of([])
