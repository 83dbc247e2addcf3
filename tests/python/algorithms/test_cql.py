"""CQL against its slow twin, its published check values, and the battery."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "reference"))

from battery import CHECKS, GPU_CHECKS, Case, distance, run_check
from cql_twin import Twin
from gpu import NEEDS_GPU
from offline_data import table, transitions

from trajmill.algorithms import cql
from trajmill.algorithms.cql import CQLConfig
from trajmill.models.mlp import export_network
from trajmill.training.transitions import TransitionTable

torch.set_num_threads(1)


def poison(state: cql.CQLState, position: int) -> None:
    state.policy.flat[position, 0] = math.nan


def case(**options: object) -> Case:
    return Case(
        create=lambda seeds, dtype, device="cpu": cql.create(
            CQLConfig(batch_size=16, **options), table(dtype, device), seeds, metric_capacity=8
        ),
        step=cql.step,
        poison=poison,
    )


def create_with_settings_of_the_seed(seeds: list[int], dtype: torch.dtype, device: str = "cpu") -> cql.CQLState:
    """Every number that may differ from seed to seed does, and depends on the seed alone."""
    config = CQLConfig(
        batch_size=16,
        learning_rate=tuple(3e-4 * (1 + seed % 3) for seed in seeds),
        discount=tuple(0.9 + 0.01 * (seed % 5) for seed in seeds),
        polyak=tuple(0.005 * (1 + seed % 4) for seed in seeds),
        cql_weight=tuple(1.0 + seed % 6 for seed in seeds),
        cql_temperature=tuple(0.5 + seed % 2 for seed in seeds),
        action_gap=tuple(1.0 + seed % 7 for seed in seeds),
        lagrange=True,
    )
    return cql.create(config, table(dtype, device), seeds, metric_capacity=8)


ALL_AT_ONCE = {
    "lagrange": True,
    "max_target_backup": True,
    "backup_entropy": True,
    "bc_updates": 3,
    "difference_range": (-1.0, 2.0),
}
CASES = {
    "paper": case(),
    "no importance sampling": case(importance_sampling=False, safe_q=False),
    "all at once": case(**ALL_AT_ONCE),
    "settings of each seed": Case(create=create_with_settings_of_the_seed, step=cql.step, poison=poison),
    "ten actions": case(sampled_action_count=10),
    **{name: case(**{name: value}) for name, value in ALL_AT_ONCE.items()},
}
FAST_CASES = ("paper", "all at once", "settings of each seed")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST_CASES else pytest.mark.slow) for name in CASES]
)
@pytest.mark.parametrize("check", CHECKS)
def test_battery(name: str, check: str, tmp_path: Path) -> None:
    run_check(CASES[name], check, tmp_path)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("check", GPU_CHECKS)
@pytest.mark.parametrize("name", FAST_CASES)
def test_battery_of_a_gpu(name: str, check: str, device: str) -> None:
    GPU_CHECKS[check](CASES[name], device)


def twin_of(state: cql.CQLState, position: int) -> Twin:
    config = state.config

    def own(name: str) -> float:
        value = getattr(config, name)
        return value[position] if isinstance(value, tuple) else value

    return Twin(
        policy=export_network(state.policy.parameters, position),
        critics=[export_network(state.critic.parameters, 2 * position + member) for member in range(2)],
        targets=[export_network(state.target.parameters, 2 * position + member) for member in range(2)],
        log_alpha=export_network(state.log_alpha.parameters, position),
        log_multiplier=export_network(state.log_multiplier.parameters, position) if state.log_multiplier else None,
        greatest_reward=state.table.greatest_reward,
        lr=own("learning_rate"),
        discount=own("discount"),
        weight=own("cql_weight"),
        temperature=own("cql_temperature"),
        polyak=own("polyak"),
        action_gap=own("action_gap"),
        importance_sampling=config.importance_sampling,
        safe_q=config.safe_q,
        difference_range=config.difference_range,
        max_target_backup=config.max_target_backup,
        backup_entropy=config.backup_entropy,
        bc_updates=config.bc_updates,
    )


def assert_close(network: dict, twin: dict, tolerance: float) -> None:
    assert network.keys() == twin.keys()
    for name, value in network.items():
        gap = float((value - twin[name]).abs().max() / twin[name].abs().max().clamp(min=1e-12))
        assert gap <= tolerance, (name, gap)


OPTIONS = {
    "paper": CQLConfig(batch_size=32),
    "no importance sampling": CQLConfig(
        batch_size=16, importance_sampling=False, safe_q=False, cql_temperature=2.0, sampled_action_count=2
    ),
    "settings of each seed": CQLConfig(
        batch_size=7,
        sampled_action_count=1,
        learning_rate=(3e-4, 1e-3),
        discount=(0.99, 0.9),
        polyak=(0.005, 0.1),
        cql_weight=(5.0, 0.5),
        cql_temperature=(1.0, 3.0),
    ),
    "ten actions": CQLConfig(batch_size=8, sampled_action_count=10),
    "lagrange": CQLConfig(batch_size=8, lagrange=True, action_gap=(1.0, 20.0)),
    "cloning first": CQLConfig(batch_size=8, bc_updates=50),
    "max-target backup": CQLConfig(batch_size=8, max_target_backup=True),
    "entropy in the backup": CQLConfig(batch_size=8, backup_entropy=True),
    "all at once": CQLConfig(batch_size=8, cql_weight=(5.0, 1.0), **ALL_AT_ONCE),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("updates", "tolerance"), [(1, 1e-9), pytest.param(100, 1e-6, marks=pytest.mark.slow)], ids=["once", "100 times"]
)
def test_update_equals_the_slow_twin(name: str, updates: int, tolerance: float) -> None:
    config = OPTIONS[name]
    state = cql.create(config, table(torch.float64), [3, 2**40 + 1])
    # move away from the tiny output layers, so that every gradient matters
    generator = torch.Generator().manual_seed(0)
    for stack in (state.policy, state.critic, state.target, state.log_alpha, state.log_multiplier or state.log_alpha):
        stack.flat.add_(torch.randn(stack.flat.shape, generator=generator, dtype=torch.float64), alpha=0.05)
    twins = [twin_of(state, position) for position in range(2)]
    for _ in range(updates):
        draws = cql.draw(state, 1).of_update(0)
        cql.update(state, draws)
        losses = [
            twin.update(
                *(column[position] for column in columns(state, draws.index)),
                draws.noise[position],
                draws.next_noise[position],
                draws.random_action[position],
            )
            for position, twin in enumerate(twins)
        ]
    logged = state.metrics.mean_of_last(updates - 1, updates)
    for position, twin in enumerate(twins):
        expected = twin_state(twin)
        found = {
            "policy": export_network(state.policy.parameters, position),
            "log_alpha": export_network(state.log_alpha.parameters, position),
            "critic 0": export_network(state.critic.parameters, 2 * position),
            "critic 1": export_network(state.critic.parameters, 2 * position + 1),
            "target 0": export_network(state.target.parameters, 2 * position),
            "target 1": export_network(state.target.parameters, 2 * position + 1),
        }
        if state.log_multiplier is not None:
            found["log_multiplier"] = export_network(state.log_multiplier.parameters, position)
        for part, network in found.items():
            assert_close(network, expected[part], tolerance)
        for metric, value in losses[position].items():
            # the ring holds float32
            assert logged[metric][position] == pytest.approx(value, rel=1e-5, abs=1e-5), metric


def columns(state: cql.CQLState, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch = state.table.gather(index)
    return batch.observation, batch.action, batch.reward, batch.terminal, batch.next_observation


def twin_state(twin: Twin) -> dict:
    return {
        "policy": twin.policy,
        "log_alpha": twin.log_alpha,
        "critic 0": twin.critics[0],
        "critic 1": twin.critics[1],
        "target 0": twin.targets[0],
        "target 1": twin.targets[1],
        "log_multiplier": twin.log_multiplier,
    }


@pytest.mark.parametrize(("action_dim", "expected"), [(3, 3.178054), (6, 5.257495), (8, 6.643790)])
def test_log_sum_exp_of_zero_values_and_uniform_actions(action_dim: int, expected: float) -> None:
    """ln 3 + a·ln 2, for three uniform actions and Q = 0 (hopper, halfcheetah, ant)."""
    values = torch.zeros(1, 2, 1 + 3, 4, dtype=torch.float64)
    log_density = torch.full((1, 3, 4), action_dim * math.log(0.5), dtype=torch.float64)
    found = cql.log_sum_exp(values, log_density, torch.ones(1, dtype=torch.float64), importance_sampling=True)
    assert found.shape == (1, 2, 4)
    assert found.flatten().tolist() == pytest.approx([expected] * 8, abs=1e-6)


def test_safe_q_bounds_the_target() -> None:
    targets = {}
    for safe_q in (True, False):
        state = cql.create(CQLConfig(batch_size=64, safe_q=safe_q, discount=(0.99, 0.9)), table(), [0, 1])
        state.target.parameters["value.bias"].fill_(1e6)
        draws = cql.draw(state, 1).of_update(0)
        batch = state.table.gather(draws.index)
        mean, log_std = cql.gaussian(state.policy.detached(), batch.observation)
        targets[safe_q] = cql.sample_actions(state, batch, mean, log_std, draws).target.amax(1)
    bounds = [horizon * state.table.greatest_reward for horizon in (100.0, 10.0)]
    assert targets[True].tolist() == pytest.approx(bounds)
    assert (targets[False] > max(bounds)).all()


def test_learned_multiplier_starts_at_e_and_holds_the_gap() -> None:
    """It grows while the conservative term is above the gap, and shrinks while it is below."""
    config = CQLConfig(batch_size=64, lagrange=True, action_gap=(-50.0, 50.0))
    state = cql.create(config, table(), [0, 1])
    cql.step(state, 20)
    first, later = state.metrics.mean_of_last(0, 1), state.metrics.mean_of_last(19, 20)
    assert first["conservative_weight"] == pytest.approx([5.0 * math.e] * 2)
    assert later["conservative_weight"][0] > 5.0 * math.e > later["conservative_weight"][1]


def test_a_warm_start_clones_the_data_and_then_stops() -> None:
    """Cloning raises the density of the data's actions; the update after it is that of plain CQL."""
    state = cql.create(CQLConfig(batch_size=64, learning_rate=3e-3, bc_updates=200), table(torch.float32), [0])

    def density() -> float:
        batch = state.table.gather(torch.arange(400)[None])
        mean, log_std = cql.gaussian(state.policy.detached(), batch.observation)
        return float(cql.action_density(mean, log_std, batch.action).mean())

    before = density()
    cql.step(state, 200)
    assert density() > before + 1.0
    plain = cql.create(CQLConfig(batch_size=64, learning_rate=3e-3), table(torch.float32), [0])
    for name, tensor in plain.moving().items():
        tensor.copy_(state.moving()[name])
    cql.step(state)
    cql.step(plain)
    assert torch.equal(state.policy.flat, plain.policy.flat)


def test_an_odd_number_of_normals_is_drawn() -> None:
    data = TransitionTable.of(
        transitions(action_dim=3), action_limit=0.999, device=torch.device("cpu"), dtype=torch.float32
    )
    state = cql.create(CQLConfig(batch_size=5, sampled_action_count=2), data, [0])
    assert cql.draw(state, 2).noise.shape == (2, 1, 3, 5, 3)
    cql.step(state)


def test_settings_of_a_seed_are_those_of_a_run_of_its_own() -> None:
    names = ("learning_rate", "discount", "polyak", "cql_weight", "cql_temperature")
    values = {0: (3e-4, 0.99, 0.005, 5.0, 1.0), 8: (1e-3, 0.9, 0.02, 1.0, 3.0)}
    together = CQLConfig(batch_size=16, **{name: (values[0][i], values[8][i]) for i, name in enumerate(names)})
    many = cql.create(together, table(), [0, 8])
    cql.step(many, 30)
    for position, (seed, own) in enumerate(values.items()):
        alone = cql.create(CQLConfig(batch_size=16, **dict(zip(names, own, strict=True))), table(), [seed])
        cql.step(alone, 30)
        assert distance(many.policy.flat[position], alone.policy.flat[0]) < 1e-12
        for member in range(2):
            assert distance(many.target.flat[2 * position + member], alone.target.flat[member]) < 1e-12


def test_act_is_the_tanh_of_the_mean() -> None:
    state = cql.create(CQLConfig(), table(torch.float32), [0, 1])
    observation = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    action = cql.act(state, observation.numpy())
    mean, _ = cql.gaussian(state.policy.detached(), observation)
    assert action.shape == (2, 7, 2)
    assert action.dtype == "float32"
    torch.testing.assert_close(torch.as_tensor(action), mean.tanh())


def test_transfer_loads_or_keeps_the_value_layer() -> None:
    donor = cql.create(CQLConfig(), table(), [42])
    networks = [{name: parameter[member] for name, parameter in donor.critic.detached().items()} for member in range(2)]
    networks = [network | {"dynamics.bias": torch.zeros(5)} for network in networks]
    for load_value_layer in (True, False):
        state = cql.create(CQLConfig(), table(), [0, 1, 2])
        fresh = state.critic.parameters["value.weight"].detach().clone()
        cql.load_critic(state, networks, load_value_layer=load_value_layer)
        for row in range(6):
            member = donor.critic.parameters["hidden.1.weight"][row % 2]
            assert torch.equal(state.critic.parameters["hidden.1.weight"][row], member)
        expected = donor.critic.parameters["value.weight"].repeat(3, 1, 1) if load_value_layer else fresh
        assert torch.equal(state.critic.parameters["value.weight"], expected)
        assert torch.equal(state.target.flat, state.critic.flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"discount": 1.0}, "discount must be in"),
        ({"polyak": 0.0}, "polyak must be in"),
        ({"learning_rate": (3e-4, 0.0)}, "learning_rate must be in"),
        ({"cql_weight": math.nan}, "cql_weight must be in"),
        ({"sampled_action_count": 0}, "sampled_action_count must be at least 1"),
        ({"discount": (0.99, 1.0)}, "discount must be in"),
        ({"polyak": (0.005, 1.5)}, "polyak must be in"),
        ({"cql_temperature": (1.0, 0.0)}, "cql_temperature must be in"),
        ({"action_gap": math.inf}, "action_gap must be in"),
        ({"bc_updates": -1}, "bc_updates must be at least 0"),
        ({"bc_updates": 5, "action_limit": 1.0}, "bc_updates needs action_limit < 1"),
        ({"difference_range": (1.0, 1.0)}, "difference_range must be low < high"),
    ],
)
def test_config_refuses_what_it_cannot_mean(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CQLConfig(**change)


def test_seeds_are_checked() -> None:
    for seeds, message in (([], "at least one seed"), ([1, 1], "must differ"), ([-1], "in \\[0")):
        with pytest.raises(ValueError, match=message):
            cql.create(CQLConfig(), table(), seeds)
    with pytest.raises(ValueError, match="one value or one per seed"):
        cql.create(CQLConfig(cql_weight=(1.0, 2.0, 3.0)), table(), [0, 1])
