"""TD3: the battery, a plain loop of the published rule, starting from TD3+BC, and what it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of
from numpy.typing import NDArray
from plain_loops import from_values
from small_data import recording, transitions
from test_td3_bc import PlainLoop as PlainLoopThatClones
from torch import Tensor, nn

from trajmill.algorithms import td3, td3_bc
from trajmill.models.mlp import export_network
from trajmill.replay.tables import TransitionRows

CPU = torch.device("cpu")


class PlainLoop(PlainLoopThatClones):
    """TD3 in the manner of its authors."""

    def policy_loss(self, s: Tensor, a: Tensor) -> Tensor:
        return -self.critics[0](torch.cat([s, self.actor(s)], 1)).mean()


def plain_loop(columns: Mapping[str, NDArray[Any]], config: td3.Config, seed: int) -> PlainLoop:
    """A plain loop of one seed on prepared columns, for comparisons."""
    return PlainLoop(columns, config, seed)


SMALLER = replace(td3.SMALL, batch_size=16, hidden_sizes=(24, 16))
OFFLINE = td3_bc.Config(batch_size=16, hidden_sizes=(24, 16))


def offline(seeds: list[int], **changes: Any) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """A run of TD3+BC after a few updates: its rows, and its checkpoint's tensors and metadata."""
    case = Case(method=td3_bc, config=replace(OFFLINE, **changes))
    state = case.create(seeds)
    case.train(state, 5)
    tensors, known = checkpoint_of(td3_bc, state, seeds)
    return case.rows, tensors, known


CASES = {
    "delayed": Case(method=td3, config=SMALLER, sensitivity=5.0),
    "every third": Case(method=td3, config=replace(SMALLER, policy_delay=3), sensitivity=5.0),
    "own settings": Case(
        method=td3,
        config=lambda seeds: replace(SMALLER, discount=tuple(0.9 + s % 5 / 100 for s in seeds), carry_moments=True),
        rows=offline([0])[0],
        start=lambda: offline([0])[1:],
        sensitivity=5.0,
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_updates_equal_the_plain_loop(delay: int) -> None:
    config = td3.Config(batch_size=16, policy_delay=delay, hidden_sizes=(32, 24, 16))
    rows = TransitionRows(transitions=transitions())
    table = rows.table(CPU, torch.float64)
    state = td3.create(config, table, [3, 2**40 + 1])
    loops = []
    for k in range(2):
        loop = PlainLoop(rows.columns, config, k)
        policy = export_network(state.policy.parameters, k)
        critics = [export_network(state.critic.parameters, 2 * k + member) for member in range(2)]
        loop.start(from_values(policy, "output", nn.Tanh()), [from_values(values, "value") for values in critics])
        loops.append(loop)
    for number in range(24):
        words = state.draws.words(state.step, 1)
        batch = table.draw(words["batch"])[0]
        noise = td3.shaped_normals(words["noise"], (16, 2), torch.float64)[0]
        td3.step(state, 1, number % state.period)
        ours = state.metrics.mean_of_last(number, number + 1)
        for k, loop in enumerate(loops):
            columns = [getattr(batch, name)[k] for name in ("observation", "action", "reward", "terminal")]
            logged = loop.update([*columns, batch.next_observation[k]], noise[k])
            assert ours["q_loss"][k] == pytest.approx(logged["q_loss"], rel=1e-5)
            if "policy_loss" in logged:
                assert ours["value_loss"][k] == pytest.approx(logged["policy_loss"], rel=1e-4, abs=1e-5)
    for k, loop in enumerate(loops):
        pairs = [
            (state.policy, k, "output", loop.actor),
            (state.policy_target, k, "output", loop.actor_target),
            (state.critic, 2 * k, "value", loop.critics[0]),
            (state.critic, 2 * k + 1, "value", loop.critics[1]),
            (state.critic_target, 2 * k + 1, "value", loop.critic_targets[1]),
        ]
        for stack, row, head, network in pairs:
            output = nn.Tanh() if head == "output" else None
            found = from_values(export_network(stack.parameters, row), head, output)
            for ours, theirs in zip(found.parameters(), network.parameters(), strict=True):
                assert (ours - theirs).abs().max() < 1e-9


def test_it_explores_around_its_policy_with_the_spread_of_each_seed() -> None:
    table = TransitionRows(transitions=transitions()).table(CPU, torch.float64)
    state = td3.create(replace(SMALLER, exploration_noise=(0.1, 0.0)), table, [3, 4])
    seen, noise = torch.randn(2, 4000, 5, dtype=torch.float64), torch.randn(2, 4000, 2, dtype=torch.float64)
    taken = td3.explore(state, seen, noise)
    calm = td3.policy(state).act(state.policy.detached(), seen)
    inside = calm[0].abs() < 0.5
    torch.testing.assert_close((taken - calm)[0][inside], 0.1 * noise[0][inside], rtol=0, atol=1e-12)
    assert torch.equal(taken[1], calm[1])


@pytest.mark.parametrize("carried", [False, True])
def test_it_starts_from_the_networks_of_a_cloning_run(carried: bool) -> None:
    """Seed by seed, in any order, targets as they are, which are not the networks; Adam afresh or carried over."""
    rows, tensors, known = offline([7, 8, 9])
    state = td3.create(replace(SMALLER, carry_moments=carried), rows.table(CPU, torch.float32), [9, 7])
    assert td3.start_from(state, tensors, known) is state
    found = state.moving()
    for name in ("policy", "policy_target", "critic", "critic_target"):
        assert torch.equal(found[name].view(2, -1), tensors[name].view(3, -1)[[2, 0]]), name
    assert not torch.equal(found["critic"], found["critic_target"]), "targets follow behind"
    for name in ("policy_adam/first_moment.0", "critic_adam/second_moment.0"):
        wanted = tensors[name].view(3, -1)[[2, 0]]
        assert torch.equal(found[name].view(2, -1), wanted if carried else torch.zeros_like(wanted)), name
    counts = [int(found[f"{name}_adam/update_count"]) for name in ("critic", "policy")]
    assert counts == ([5, 2] if carried else [0, 0]) and int(state.step) == 0
    acted = td3.policy(state)(np.ones((2, 1, 5), np.float32))
    former = td3_bc.restore(tensors, known)(np.ones((3, 1, 5), np.float32))
    np.testing.assert_array_equal(acted, former[[2, 0]])


def test_all_seeds_may_start_from_one() -> None:
    rows, tensors, known = offline([7])
    state = td3.start_from(td3.create(SMALLER, rows.table(CPU, torch.float32), [1, 2, 3]), tensors, known)
    assert torch.equal(state.critic.flat, tensors["critic"].repeat(3, 1))
    assert torch.equal(state.first_critic["value.weight"], state.critic.parameters["value.weight"][::2])


def test_what_does_not_fit_is_refused() -> None:
    rows, tensors, known = offline([7, 8])
    table = rows.table(CPU, torch.float32)
    raw = TransitionRows(transitions=rows.transitions).table(CPU, torch.float32)
    larger = td3_bc.prepare(OFFLINE, recording(observation_dim=6)).table(CPU, torch.float32)
    for wrong, config, there, seeds, changes in (
        ("td3_bc .* not from one of cql", SMALLER, table, [7], {"kind": "cql"}),
        ("6 observation .* for 5 and 2", SMALLER, larger, [7], {}),
        ("hidden_sizes must be", replace(SMALLER, hidden_sizes=(24, 24)), table, [7], {}),
        ("standardized", SMALLER, raw, [7], {}),
        ("standardized", SMALLER, table, [7], {"normalizer": None}),
        (r"\[7, 8\].* got seeds \[7, 9\]", SMALLER, table, [7, 9], {}),
    ):
        state = td3.create(config, there, seeds)
        before = state.critic.flat.clone()
        with pytest.raises(ValueError, match=wrong):
            td3.start_from(state, tensors, known | changes)
        assert torch.equal(state.critic.flat, before)
    sick = tensors | {"critic": tensors["critic"].clone()}
    sick["critic"][3, 5] = torch.nan  # of seed 8
    state = td3.create(SMALLER, table, [7, 8])
    before = state.policy.flat.clone()
    with pytest.raises(ValueError, match=r"critic of seed 8 .* not finite"):
        td3.start_from(state, sick, known)
    assert torch.equal(state.policy.flat, before)
    td3.start_from(td3.create(SMALLER, table, [7]), sick, known)
    no_scaling = offline([7], normalize=False)
    state = td3.create(SMALLER, raw, [1])
    td3.start_from(state, *no_scaling[1:])


def test_it_prefers_what_pays() -> None:
    """One state; the data's actions are uniform, the reward is highest at 0.5."""
    random = np.random.default_rng(0)
    action = random.uniform(-1.0, 1.0, (512, 1)).astype(np.float32)
    zeros = np.zeros((512, 2), np.float32)
    made = replace(
        transitions(512),
        observation=zeros,
        action=action,
        reward=(1.0 - (action[:, 0] - 0.5) ** 2).astype(np.float32),
        next_observation=zeros,
        terminal=np.ones(512, np.bool_),
    )
    config = td3.Config(learning_rate=3e-3, batch_size=64, hidden_sizes=(32, 32))
    state = td3.create(config, TransitionRows(transitions=made).table(CPU, torch.float32), [0, 1])
    td3.step(state, 600)
    chosen = td3.policy(state)(np.zeros((2, 1, 2), np.float32))[:, 0, 0]
    assert np.abs(chosen - 0.5).max() < 0.15


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 0), ("discount", 1.0), ("polyak", 0.0), ("policy_delay", 0), ("exploration_noise", -1.0)],
)
def test_settings_out_of_range_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        td3.Config(**{setting: value})
