"""CQL against its slow twin, its published check values, and the battery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of, distance
from cql_twin import Twin
from small_data import recording, transitions

from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms.cql import Config
from trajmill.data import split_episodes
from trajmill.experiments.prediction import TrainedModel, predicted_rows
from trajmill.models.critics import critics, join, values_of
from trajmill.models.mlp import export_network
from trajmill.models.policies import action_density, gaussian
from trajmill.replay.tables import Mixture, TransitionBatch, TransitionRows, TransitionTable

torch.set_num_threads(1)
CPU = torch.device("cpu")
NARROW = (32, 48)
ROWS = TransitionRows(transitions=transitions(), action_limit=0.999)
RETURNS = np.random.default_rng(0).normal(0.0, 0.5, 400).astype(np.float32)
CALIBRATED = replace(ROWS, return_to_go=RETURNS)


def table(dtype: torch.dtype = torch.float64, rows: TransitionRows = ROWS) -> TransitionTable:
    return rows.table(CPU, dtype)


def settings_of_the_seed(seeds: Sequence[int]) -> Config:
    """Every number that may differ from seed to seed does, and depends on the seed alone."""
    return Config(
        batch_size=16,
        hidden_sizes=NARROW,
        learning_rate=tuple(3e-4 * (1 + seed % 3) for seed in seeds),
        discount=tuple(0.9 + 0.01 * (seed % 5) for seed in seeds),
        polyak=tuple(0.005 * (1 + seed % 4) for seed in seeds),
        cql_weight=tuple(1.0 + seed % 6 for seed in seeds),
        cql_temperature=tuple(0.5 + seed % 2 for seed in seeds),
        action_gap=tuple(1.0 + seed % 7 for seed in seeds),
        lagrange=True,
    )


def case(**options: Any) -> Case:
    return Case(method=cql, config=Config(batch_size=16, hidden_sizes=NARROW, **options), rows=ROWS)


ALL_AT_ONCE = {
    "lagrange": True,
    "max_target_backup": True,
    "backup_entropy": True,
    "bc_updates": 3,
    "difference_range": (-1.0, 2.0),
}
CASES = {
    "paper": Case(method=cql, config=Config(batch_size=16)),
    "no importance sampling": case(importance_sampling=False, safe_q=False),
    "all at once": case(**ALL_AT_ONCE),
    "settings of each seed": Case(method=cql, config=settings_of_the_seed, rows=ROWS),
    "mixture": Case(
        method=cql,
        config=Config(batch_size=16, hidden_sizes=NARROW),
        rows=Mixture.of([ROWS, TransitionRows(transitions=transitions(70, seed=5))], [0.7, 0.3]),
    ),
    "ten actions": case(sampled_action_count=10),
    "calibrated": Case(
        method=cql,
        config=Config(batch_size=16, hidden_sizes=NARROW, calibrated=True),
        rows=Mixture.of(
            [CALIBRATED, TransitionRows(transitions=transitions(70), return_to_go=RETURNS[:70])], [0.7, 0.3]
        ),
    ),
    **{name: case(**{name: value}) for name, value in ALL_AT_ONCE.items()},
}
FAST_CASES = ("paper", "all at once", "settings of each seed", "mixture", "calibrated")

test_battery = battery(CASES, fast=("all at once", "calibrated"))
test_battery_of_a_gpu = battery_of_a_gpu({name: CASES[name] for name in FAST_CASES})


def twin_of(state: cql.State, position: int) -> Twin:
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
        greatest_reward=state.table.facts.greatest_reward,
        lr=own("learning_rate"),
        discount=own("discount"),
        weight=own("cql_weight"),
        temperature=own("cql_temperature"),
        polyak=own("polyak"),
        action_gap=own("action_gap"),
        importance_sampling=config.importance_sampling,
        safe_q=config.safe_q,
        safe_q_bound=config.safe_q_bound,
        difference_range=config.difference_range,
        max_target_backup=config.max_target_backup,
        backup_entropy=config.backup_entropy,
        bc_updates=config.bc_updates,
        calibrated=config.calibrated,
    )


def assert_close(network: dict, twin: dict, tolerance: float) -> None:
    assert network.keys() == twin.keys()
    for name, value in network.items():
        gap = float((value - twin[name]).abs().max() / twin[name].abs().max().clamp(min=1e-12))
        assert gap <= tolerance, (name, gap)


OPTIONS = {
    "paper": Config(batch_size=32),
    "no importance sampling": Config(
        batch_size=16, importance_sampling=False, safe_q=False, cql_temperature=2.0, sampled_action_count=2
    ),
    "settings of each seed": Config(
        batch_size=7,
        sampled_action_count=1,
        learning_rate=(3e-4, 1e-3),
        discount=(0.99, 0.9),
        polyak=(0.005, 0.1),
        cql_weight=(5.0, 0.5),
        cql_temperature=(1.0, 3.0),
    ),
    "ten actions": Config(batch_size=8, sampled_action_count=10),
    "lagrange": Config(batch_size=8, lagrange=True, action_gap=(1.0, 20.0)),
    "cloning first": Config(batch_size=8, bc_updates=50),
    "max-target backup": Config(batch_size=8, max_target_backup=True),
    "entropy in the backup": Config(batch_size=8, backup_entropy=True),
    "all at once": Config(batch_size=8, cql_weight=(5.0, 1.0), **ALL_AT_ONCE),
    "calibrated": Config(batch_size=32, calibrated=True),
    "calibrated, no importance sampling": Config(
        batch_size=8, calibrated=True, importance_sampling=False, **ALL_AT_ONCE
    ),
}


COLUMNS = ("observation", "action", "reward", "terminal", "next_observation")


def drawn(state: cql.State) -> tuple[TransitionBatch, cql.Chance]:
    """The batch and the random numbers of the next update."""
    words = state.draws.words(state.step, 1)
    return state.table.draw(words["batch"])[0], cql.chance_of(state, words)[0]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("updates", "tolerance"), [(1, 1e-9), pytest.param(100, 1e-6, marks=pytest.mark.slow)], ids=["once", "100 times"]
)
def test_update_equals_the_slow_twin(name: str, updates: int, tolerance: float) -> None:
    config = OPTIONS[name]
    state = cql.create(config, table(torch.float64, CALIBRATED if config.calibrated else ROWS), [3, 2**40 + 1])
    # move away from the tiny output layers, so that every gradient matters
    generator = torch.Generator().manual_seed(0)
    for stack in (state.policy, state.critic, state.target, state.log_alpha, state.log_multiplier or state.log_alpha):
        stack.flat.add_(torch.randn(stack.flat.shape, generator=generator, dtype=torch.float64), alpha=0.05)
    twins = [twin_of(state, position) for position in range(2)]
    for _ in range(updates):
        batch, chance = drawn(state)
        cql.update(state, batch, chance)
        losses = [
            twin.update(
                *(getattr(batch, name)[position] for name in COLUMNS),
                chance.noise[position],
                chance.next_noise[position],
                chance.random_action[position],
                batch.return_to_go[position] if config.calibrated else None,
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
            binds = metric != "replaced_share" or 0.2 < value < 0.8
            assert binds or updates > 1, "it should bind, not everywhere, until values have risen"


@pytest.mark.parametrize(("bound", "above"), [("target", 1.0), ("released", 0.15)])
def test_an_update_where_safe_q_binds_equals_the_slow_twin(bound: str, above: float) -> None:
    """It binds in some rows of both seeds, one of which has another discount, and not in all."""
    config = Config(batch_size=32, safe_q_bound=bound, backup_entropy=True, discount=(0.99, 0.9))
    state = cql.create(config, table(torch.float64), [3, 2**40 + 1])
    noise = torch.randn(state.target.flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state.target.flat.add_(noise, alpha=0.05)
    bounds = state.table.facts.greatest_reward * torch.tensor([100.0, 100.0, 10.0, 10.0]).add(above)
    state.target.parameters["value.bias"].flatten().add_(bounds)
    twins = [twin_of(state, position) for position in range(2)]
    batch, chance = drawn(state)
    targets = target_of(state, batch, chance)
    free = target_of(replace(state, config=replace(config, safe_q=False)), batch, chance)
    bound_rows = (free != targets).sum(1)
    assert (bound_rows > 3).all() and (bound_rows < 22).any()
    cql.update(state, batch, chance)
    for position, twin in enumerate(twins):
        losses = twin.update(
            *(getattr(batch, name)[position] for name in COLUMNS),
            chance.noise[position],
            chance.next_noise[position],
            chance.random_action[position],
        )
        for member in range(2):
            found = export_network(state.critic.parameters, 2 * position + member)
            assert_close(found, twin.critics[member], 1e-9)
        logged = state.metrics.mean_of_last(0, 1)["bellman_loss"][position]
        assert logged == pytest.approx(losses["bellman_loss"], rel=1e-5)


def target_of(state: cql.State, batch: TransitionBatch, chance: cql.Chance) -> torch.Tensor:
    """The Bellman targets (S, B) of an update."""
    mean, log_std = gaussian(state.policy.detached(), batch.observation)
    return cql.sample_actions(state, batch, mean, log_std, chance).target


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


@pytest.mark.parametrize(("shift", "refused"), [(0.0, True), (1.0, False), (2.0, False)])
def test_safe_q_refuses_rewards_that_are_all_below_zero(shift: float, refused: bool) -> None:
    """Their sum is greatest where an episode ends at once, far above the bound."""
    made = transitions()
    rows = TransitionRows(transitions=replace(made, reward=(made.reward * 0.0 - 1.0 + shift).astype(np.float32)))
    below = rows.table(torch.device("cpu"), torch.float32)
    cql.create(replace(Config(), safe_q=False), below, [0])
    with pytest.raises(ValueError, match="no-safe-q") if refused else nullcontext():
        cql.create(Config(), below, [0])


def test_safe_q_bounds_the_target() -> None:
    targets = {}
    for safe_q in (True, False):
        state = cql.create(Config(batch_size=64, safe_q=safe_q, discount=(0.99, 0.9)), table(), [0, 1])
        state.target.parameters["value.bias"].fill_(1e6)
        targets[safe_q] = target_of(state, *drawn(state)).amax(1)
    bounds = [horizon * state.table.facts.greatest_reward for horizon in (100.0, 10.0)]
    assert targets[True].tolist() == pytest.approx(bounds)
    assert (targets[False] > max(bounds)).all()


def test_calibrated_critics_are_not_pushed_below_the_return() -> None:
    """Where every value of the policy's actions is below the return, only the uniform ones are pushed down."""
    values = torch.tensor([[[4.0, 1.0, -2.0, 7.0, 0.5, 2.0, -9.0]]], dtype=torch.float64)[..., None]  # N = 2
    found, share = cql.calibrated_values(values.expand(1, 2, 7, 1), torch.ones(1, 1, dtype=torch.float64))
    assert found[0, :, :, 0].tolist() == [[4.0, 1.0, -2.0, 7.0, 1.0, 2.0, 1.0]] * 2 and share.tolist() == [0.5]
    high = replace(ROWS, return_to_go=np.full(400, 1e3, np.float32))
    config = Config(batch_size=64, calibrated=True, hidden_sizes=NARROW, learning_rate=3e-3)
    bound, free = cql.create(config, table(rows=high), [0]), cql.create(replace(config, calibrated=False), table(), [0])
    for state in (bound, free):
        cql.step(state, 100)
    assert bound.metrics.mean_of_last(0, 100)["replaced_share"] == [1.0]
    assert "replaced_share" not in free.metrics.names
    batch = bound.table.gather(torch.arange(400)[None])
    of_policy = [
        q_of(state, batch.observation, gaussian(bound.policy.detached(), batch.observation)[0].tanh())
        for state in (bound, free)
    ]
    assert of_policy[0] > of_policy[1] + 0.5


def q_of(state: cql.State, observation: torch.Tensor, action: torch.Tensor) -> float:
    return float(values_of(state.critic.detached(), join(observation, action)).mean())


@pytest.mark.parametrize("rule", ["stored", "d4rl"])
def test_every_row_has_the_return_of_its_episode(rule: str) -> None:
    """Of the rows that are learned from: D4RL's rule drops those at limits, and the file's last one."""
    config, dataset = Config(calibrated=True, discount=0.9, next_observation=rule), recording()
    rewards = [episode.reward.tolist() for episode in split_episodes(dataset)]
    if rule == "d4rl":
        rewards = [found if at not in (2, 4) else found[:-1] for at, found in enumerate(rewards)]
    wanted = [
        sum(0.9**k * reward for k, reward in enumerate(found[step:])) for found in rewards for step in range(len(found))
    ]
    rows = cql.prepare(config, dataset)
    assert rows.columns["return_to_go"].tolist() == pytest.approx(wanted, rel=1e-5)
    batch = rows.table(CPU, torch.float64).gather(torch.arange(len(wanted))[None])
    assert batch.return_to_go is not None and batch.return_to_go[0].tolist() == pytest.approx(wanted, rel=1e-5)
    assert cql.prepare(replace(config, calibrated=False), dataset).columns.keys() == set(COLUMNS)


def test_returns_are_real_where_next_observations_are_predicted() -> None:
    rows = cql.prepare(Config(calibrated=True), recording())
    predicted = predicted_rows(rows, TrainedModel(lambda states, actions, draw=0: states + 1.0, {}), 1).like(rows)
    assert not np.array_equal(predicted.columns["next_observation"], rows.columns["next_observation"])
    np.testing.assert_array_equal(predicted.columns["return_to_go"], rows.columns["return_to_go"])


def test_returns_of_rows_that_do_not_follow_each_other_are_refused() -> None:
    shuffled = recording()
    shuffled.next_observations[4] += 1.0
    for dataset in (replace(recording(), ordered=False), shuffled):
        cql.prepare(Config(), dataset)
        with pytest.raises(ValueError, match=r"calibrated needs .*recording.hdf5: .*.*--method.no-calibrated"):
            cql.prepare(Config(calibrated=True), dataset)


def test_learned_multiplier_starts_at_e_and_holds_the_gap() -> None:
    """It grows while the conservative term is above the gap, and shrinks while it is below."""
    config = Config(batch_size=64, lagrange=True, action_gap=(-50.0, 50.0), hidden_sizes=NARROW)
    state = cql.create(config, table(), [0, 1])
    cql.step(state, 20)
    first, later = state.metrics.mean_of_last(0, 1), state.metrics.mean_of_last(19, 20)
    assert first["conservative_weight"] == pytest.approx([5.0 * math.e] * 2)
    assert later["conservative_weight"][0] > 5.0 * math.e > later["conservative_weight"][1]


def test_a_warm_start_clones_the_data_and_then_stops() -> None:
    """Cloning raises the density of the data's actions; the update after it is that of plain CQL."""
    config = Config(batch_size=64, learning_rate=3e-3, bc_updates=200, hidden_sizes=NARROW)
    state = cql.create(config, table(torch.float32), [0])

    def density() -> float:
        batch = state.table.gather(torch.arange(400)[None])
        mean, log_std = gaussian(state.policy.detached(), batch.observation)
        return float(action_density(mean, log_std, batch.action).mean())

    before = density()
    cql.step(state, 200)
    assert density() > before + 1.0
    plain = cql.create(replace(config, bc_updates=0), table(torch.float32), [0])
    for name, tensor in plain.moving().items():
        tensor.copy_(state.moving()[name])
    cql.step(state)
    cql.step(plain)
    assert torch.equal(state.policy.flat, plain.policy.flat)


def test_an_odd_number_of_normals_is_drawn() -> None:
    data = TransitionRows(transitions=transitions(action_dim=3)).table(CPU, torch.float32)
    state = cql.create(Config(batch_size=5, sampled_action_count=2), data, [0])
    words = state.draws.words(state.step, 2)
    assert cql.chance_of(state, words).noise.shape == (2, 1, 3, 5, 3)
    cql.step(state)


def test_settings_of_a_seed_are_those_of_a_run_of_its_own() -> None:
    names = ("learning_rate", "discount", "polyak", "cql_weight", "cql_temperature")
    values = {0: (3e-4, 0.99, 0.005, 5.0, 1.0), 8: (1e-3, 0.9, 0.02, 1.0, 3.0)}
    together = Config(
        batch_size=16, hidden_sizes=NARROW, **{name: (values[0][i], values[8][i]) for i, name in enumerate(names)}
    )
    many = cql.create(together, table(), [0, 8])
    cql.step(many, 30)
    for position, (seed, own) in enumerate(values.items()):
        config = Config(batch_size=16, hidden_sizes=NARROW, **dict(zip(names, own, strict=True)))
        alone = cql.create(config, table(), [seed])
        cql.step(alone, 30)
        assert distance(many.policy.flat[position], alone.policy.flat[0]) < 1e-12
        for member in range(2):
            assert distance(many.target.flat[2 * position + member], alone.target.flat[member]) < 1e-12


def test_the_policy_acts_by_the_tanh_of_the_mean() -> None:
    state = cql.create(Config(), table(torch.float32), [0, 1])
    observation = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    action = cql.policy(state)(observation.numpy())
    mean, _ = gaussian(state.policy.detached(), observation)
    assert action.shape == (2, 7, 2)
    assert action.dtype == "float32"
    torch.testing.assert_close(torch.as_tensor(action), mean.tanh())


def test_hidden_layers_have_the_sizes_asked_for() -> None:
    state = cql.create(Config(batch_size=16, hidden_sizes=(8, 16, 4)), table(torch.float32), [0, 1])
    assert state.policy.parameters["hidden.2.weight"].shape == (2, 16, 4)
    assert state.critic.parameters["hidden.1.weight"].shape == (4, 8, 16)
    cql.step(state, 2)
    tensors, known = checkpoint_of(cql, state, [0, 1])
    observation = torch.randn(2, 3, 5).numpy()
    assert (cql.restore(tensors, known)(observation) == cql.policy(state)(observation)).all()


DYNAMICS = forward_dynamics.Config(
    observation_dim=5, action_dim=2, state_count=7, action_count=5, trajectory_count=6, length=20, batch_size=16
)


def pretrained(seeds: Sequence[int] = (42, 43), **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A checkpoint of critics that learned a little of a random MDP."""
    config = replace(DYNAMICS, **changes)
    state = forward_dynamics.create(config, forward_dynamics.generate(config).table(CPU, torch.float32), seeds)
    forward_dynamics.step(state, 2)
    return checkpoint_of(forward_dynamics, state, seeds)


@pytest.mark.parametrize("load_value_layer", [True, False])
def test_every_seed_starts_from_the_first_seeds_critics(load_value_layer: bool) -> None:
    tensors, known = pretrained()
    donors = critics(7, [0, 0], predicted_dim=5).like(tensors["critic"]).parameters
    state = cql.create(Config(load_value_layer=load_value_layer), table(torch.float32), [0, 1, 2])
    fresh = state.critic.parameters["value.weight"].detach().clone()
    policy = state.policy.flat.detach().clone()
    started = cql.start_from(state, tensors, known)
    for row in range(6):
        for name in ("hidden.0.weight", "hidden.1.weight", "hidden.1.bias"):
            assert torch.equal(started.critic.parameters[name][row], donors[name][row % 2]), name
    expected = donors["value.weight"][:2].repeat(3, 1, 1) if load_value_layer else fresh
    assert torch.equal(started.critic.parameters["value.weight"], expected)
    assert torch.equal(started.target.flat, started.critic.flat)
    assert torch.equal(started.policy.flat, policy)
    assert started.critic.flat.requires_grad is False and started.critic.parameters["value.weight"].requires_grad
    cql.step(started)


@pytest.mark.parametrize(
    ("changes", "said", "words"),
    [
        ({"observation_dim": 4}, {}, ("5 observation and 2 action", "4 and 2")),
        ({}, {"kind": "language_model"}, ("forward_dynamics", "language_model")),
        ({"hidden_sizes": (8, 8)}, {}, ("hidden_sizes", "(8, 8)", "(256, 256)")),
    ],
)
def test_critics_that_do_not_fit_are_refused(
    changes: dict[str, Any], said: dict[str, Any], words: tuple[str, ...]
) -> None:
    tensors, known = pretrained(**changes)
    state = cql.create(Config(), table(torch.float32), [0])
    with pytest.raises(ValueError) as refusal:
        cql.start_from(state, tensors, known | said)
    assert all(word in str(refusal.value) for word in words)


def test_bounds_are_ten_times_what_rewards_can_add_up_to() -> None:
    state = cql.create(Config(discount=(0.99, 0.9)), table(), [0, 1])
    greatest = float(abs(ROWS.columns["reward"]).max())
    bounds = cql.bounds(state)
    assert bounds.keys() == {"data_value", "target_value"}
    for bound in bounds.values():
        assert list(bound.limits) == pytest.approx([1000.0 * greatest, 100.0 * greatest])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"discount": 1.0}, "discount"),
        ({"polyak": 0.0}, "polyak"),
        ({"learning_rate": (3e-4, 0.0)}, "learning_rate"),
        ({"cql_weight": math.nan}, "cql_weight"),
        ({"sampled_action_count": 0}, "sampled_action_count"),
        ({"discount": (0.99, 1.0)}, "discount"),
        ({"polyak": (0.005, 1.5)}, "polyak"),
        ({"cql_temperature": (1.0, 0.0)}, "cql_temperature"),
        ({"action_gap": math.inf}, "action_gap"),
        ({"action_limit": 1.5}, "action_limit"),
        ({"hidden_sizes": (256, 0)}, r"hidden_sizes\[1\] .* got 0"),
        ({"bc_updates": -1}, "bc_updates"),
        ({"bc_updates": 5, "action_limit": 1.0}, "action_limit < 1"),
        ({"difference_range": (1.0, 1.0)}, "low < high"),
        ({"calibrated": True, "discount": (0.99, 0.9)}, r"one discount .* got \(0.99, 0.9\): make a run for each"),
        ({"safe_q_bound": "released", "max_target_backup": True}, "bounds nothing in the max-target backup"),
    ],
)
def test_config_refuses_what_it_cannot_mean(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**change)


def test_seeds_are_checked() -> None:
    for seeds, message in (([], "at least one"), ([1, 1], "differ"), ([-1], "-1")):
        with pytest.raises(ValueError, match=message):
            cql.create(Config(), table(), seeds)
    with pytest.raises(ValueError, match=r"cql_weight .* got 3"):
        cql.create(Config(cql_weight=(1.0, 2.0, 3.0)), table(), [0, 1])
