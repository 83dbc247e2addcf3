"""The batched simulator against Gymnasium, and both against recorded data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajmill.data import TASKS, Dataset, DatasetError, load_dataset
from trajmill.data.environments import EPISODE_LIMIT
from trajmill.evaluation import (
    ENVIRONMENTS,
    BatchedEnvironment,
    GymnasiumEnvironments,
    check_dynamics,
    environment_definition,
    make_gymnasium,
    record_episodes,
)
from trajmill.experiments import random_search

NAMES = sorted(ENVIRONMENTS)
SEEDS = [3, 2**62 + 11, 0]


def random_actions(environment_id: str, step_count: int, slot_count: int) -> np.ndarray:
    """Float32 (T, B, A) uniform in 1.5 times the limits: a third of them must be clipped."""
    shape = (step_count, slot_count, ENVIRONMENTS[environment_id].action_dim)
    size = 1.5 * ENVIRONMENTS[environment_id].action_limit
    return np.random.default_rng(5).uniform(-size, size, shape).astype(np.float32)


def test_every_task_has_physics_and_settings_of_the_search() -> None:
    assert {task.environment_id for task in TASKS.values()} == set(ENVIRONMENTS) == set(random_search.CONFIGS)


@pytest.mark.parametrize("name", TASKS)
def test_the_facts_of_a_task_are_gymnasiums(name: str) -> None:
    import gymnasium

    task = TASKS[name]
    environment = make_gymnasium(task.environment_id)
    assert environment.observation_space.shape == (task.observation_dim,)
    assert environment.unwrapped.action_space.shape == (task.action_dim,)
    assert (abs(environment.unwrapped.action_space.low) == task.action_limit).all()
    assert (abs(environment.unwrapped.action_space.high) == task.action_limit).all()
    registered = gymnasium.spec(task.environment_id)
    assert (registered.entry_point, registered.max_episode_steps) == (task.entry_point, EPISODE_LIMIT)
    assert environment_definition(task.name) is environment_definition(task.environment_id)


@pytest.mark.parametrize("environment_id", NAMES)
@pytest.mark.parametrize("threads", [1, 2])
def test_batched_steps_equal_gymnasium_to_the_last_bit(environment_id: str, threads: int) -> None:
    """Three hundred steps, going on after terminations, through every kind of contact."""
    gymnasium = GymnasiumEnvironments(environment_id, len(SEEDS))
    with BatchedEnvironment(environment_id, len(SEEDS), threads=threads) as batched:
        np.testing.assert_array_equal(batched.reset(SEEDS), gymnasium.reset(SEEDS))
        for actions in random_actions(environment_id, 300, len(SEEDS)):
            ours, theirs = batched.step(actions), gymnasium.step(actions)
            np.testing.assert_array_equal(ours.observation, theirs.observation)
            np.testing.assert_array_equal(ours.reward, theirs.reward)
            np.testing.assert_array_equal(ours.terminal, theirs.terminal)
    gymnasium.close()


@pytest.mark.slow
@pytest.mark.parametrize("environment_id", NAMES)
def test_thousands_of_batched_steps_equal_gymnasium(environment_id: str) -> None:
    """Sixteen slots, a thousand steps each, most of them after the task has ended."""
    seeds = list(range(16))
    gymnasium = GymnasiumEnvironments(environment_id, 16)
    with BatchedEnvironment(environment_id, 16, threads=2) as batched:
        np.testing.assert_array_equal(batched.reset(seeds), gymnasium.reset(seeds))
        for actions in random_actions(environment_id, 1000, 16):
            ours, theirs = batched.step(actions), gymnasium.step(actions)
            np.testing.assert_array_equal(ours.observation, theirs.observation)
            np.testing.assert_array_equal(ours.reward, theirs.reward)
    gymnasium.close()


@pytest.mark.parametrize("environment_id", ["Hopper-v4", "Walker2d-v4", "Ant-v4"])
def test_tasks_end_where_gymnasiums_end(environment_id: str) -> None:
    """A thousand states on both sides of every bound, and on some of them."""
    generator = np.random.default_rng(0)
    nq, nv = SIZES[environment_id]
    qpos, qvel = generator.normal(0, 0.3, (1000, nq)), generator.normal(0, 30, (1000, nv))
    height = 2 if environment_id == "Ant-v4" else 1
    qpos[:, height] = generator.uniform(0, 2.5, 1000)
    qpos[:6, height] = [0.2, 1.0, 0.7, 0.8, 2.0, 1.2]
    qvel[:500] /= 30
    qvel[7, 3] = np.inf
    task = make_gymnasium(environment_id).unwrapped
    expected = []
    for position, velocity in zip(qpos, qvel, strict=True):
        task.data.qpos[:], task.data.qvel[:] = position, velocity
        expected.append(task.terminated)
    assert 0.2 < np.mean(expected) < 0.98
    np.testing.assert_array_equal(ENVIRONMENTS[environment_id].is_terminal(qpos, qvel), expected)


def test_terminations_were_among_them() -> None:
    shares = {}
    for name in NAMES:
        with BatchedEnvironment(name, 3) as batched:
            batched.reset(SEEDS)
            shares[name] = np.mean([batched.step(actions).terminal for actions in random_actions(name, 300, 3)])
    assert shares.pop("HalfCheetah-v4") == 0
    assert all(0 < share < 1 for share in shares.values()), shares


@pytest.mark.parametrize("environment_id", NAMES)
def test_gymnasium_is_what_a_user_gets_from_make(environment_id: str) -> None:
    """With the repair taken back, `make_gymnasium` is `gymnasium.make` with clipped actions."""
    import gymnasium

    limit = ENVIRONMENTS[environment_id].action_limit
    ours = make_gymnasium(environment_id, margin_fix=False)
    with pytest.warns(DeprecationWarning, match="out of date"):
        theirs = gymnasium.make(environment_id)
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    for actions in random_actions(environment_id, 20, 1):
        mine, other = ours.step(actions[0]), theirs.step(np.clip(actions[0], -limit, limit))
        np.testing.assert_array_equal(mine[0], other[0])
        assert mine[1:3] == other[1:3]
    ours.close()
    theirs.close()


@pytest.mark.parametrize("environment_id", NAMES)
def test_stepping_some_slots_leaves_the_others_alone(environment_id: str) -> None:
    actions = random_actions(environment_id, 8, 3)
    with BatchedEnvironment(environment_id, 3) as whole, BatchedEnvironment(environment_id, 3) as part:
        whole.reset(SEEDS)
        part.reset(SEEDS)
        for step in range(4):
            expected = whole.step(actions[step])
        for step in range(8):  # slot 1 rests in every second step
            slots = np.array([0, 1, 2] if step % 2 == 0 else [0, 2])
            result = part.step(actions[step // 2 if step % 2 == 0 else step, slots], slots)
            if step == 6:
                np.testing.assert_array_equal(result.observation[1], expected.observation[1])
                assert result.reward[1] == expected.reward[1]


@pytest.mark.parametrize("environment_id", NAMES)
def test_nothing_of_the_last_episode_survives_a_reset(environment_id: str) -> None:
    actions = random_actions(environment_id, 40, 3)
    with BatchedEnvironment(environment_id, 3) as environment:
        runs = []
        for _ in range(2):
            environment.reset(SEEDS)
            runs.append([environment.step(action).observation for action in actions])
    np.testing.assert_array_equal(runs[0], runs[1])


def test_fewer_seeds_than_slots_start_the_first_slots() -> None:
    with BatchedEnvironment("Hopper-v4", 3) as some, BatchedEnvironment("Hopper-v4", 3) as fresh:
        whole = some.reset(SEEDS)
        some.step(random_actions("Hopper-v4", 1, 3)[0])
        resting = some.state(np.array([2]))[0]
        np.testing.assert_array_equal(some.reset(SEEDS[:2]), whole[:2])
        np.testing.assert_array_equal(some.state(np.array([2]))[0], resting)
        fresh.reset(SEEDS)
        assert (fresh.state(np.array([2]))[0] != resting).any()


def test_short_names() -> None:
    assert [environment_definition(name).environment_id for name in ("hopper", "HALFCHEETAH", "ant-v4")] == [
        "Hopper-v4",
        "HalfCheetah-v4",
        "Ant-v4",
    ]


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Hopper-v5 is Gymnasium's: .*Hopper-v4"):
        environment_definition("Hopper-v5")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        BatchedEnvironment("Hopper-v4", 0)
    with BatchedEnvironment("Hopper-v4", 2) as environment:
        with pytest.raises(ValueError, match="1 to 2 entries, at most one per slot, got 3"):
            environment.reset([1, 2, 3])
        with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(2, 4\)"):
            environment.step(np.zeros((2, 4), np.float32))


SIZES = {"Hopper-v4": (6, 6), "HalfCheetah-v4": (9, 9), "Walker2d-v4": (9, 9), "Ant-v4": (15, 14)}
SIZES["InvertedPendulum-v4"] = (2, 2)
HIDDEN = {"InvertedPendulum-v4": 0, "Ant-v4": 2}
"""Positions that no observation shows; one elsewhere."""


@given(seed=st.integers(0, 2**32 - 1), environment_id=st.sampled_from(NAMES))
@settings(max_examples=25)
def test_states_return_from_their_observations(seed: int, environment_id: str) -> None:
    definition = ENVIRONMENTS[environment_id]
    nq, nv = SIZES[environment_id]
    generator = np.random.default_rng(seed)
    qpos, qvel = generator.normal(size=(20, nq)), 6 * generator.normal(size=(20, nv))
    observation = definition.observe(qpos, qvel)
    assert observation.shape == (20, definition.observation_dim)
    shown = definition.shows_state(observation)
    found_qpos, found_qvel = definition.state_from_observation(observation)
    hidden = HIDDEN.get(environment_id, 1)
    np.testing.assert_array_equal(found_qpos[:, hidden:], qpos[:, hidden:])
    assert (found_qpos[:, :hidden] == 0).all()
    np.testing.assert_array_equal(found_qvel[shown], qvel[shown])
    clipped = environment_id in ("Hopper-v4", "Walker2d-v4")
    assert shown.all() == (not clipped or bool((np.abs(qvel) < 10).all()))


# --- the margin repair, seen in recorded data ---


@pytest.fixture(scope="module")
def hopper() -> Dataset:
    return load_dataset("hopper-sac-replay-10k")


def test_recorded_hopper_steps_repeat_with_the_repair(hopper: Dataset) -> None:
    report = check_dynamics(hopper)
    assert report.margin_fix
    assert (report.row_count, report.share_off, report.terminal_mismatch_count) == (600, 0.0, 0)
    assert report.observation_error_quantiles[1.0] < 1e-5
    assert report.reward_error_quantiles[1.0] < 1e-5


def test_recorded_hopper_steps_fail_without_the_repair(hopper: Dataset) -> None:
    report = check_dynamics(hopper, margin_fix=False)
    assert not report.margin_fix
    assert 0.3 < report.share_off < 0.7


def test_recorded_half_cheetah_steps_repeat() -> None:
    report = check_dynamics(load_dataset("halfcheetah-sac-replay-10k"))
    assert not report.margin_fix
    assert (report.share_off, report.terminal_mismatch_count) == (0.0, 0)
    assert report.observation_error_quantiles[0.5] < 1e-5
    assert report.observation_error_quantiles[1.0] < 1e-3


def changed(dataset: Dataset, **fields: object) -> Dataset:
    values = {name: getattr(dataset, name) for name in Dataset.__slots__} | fields
    return Dataset(**values)


def test_clipped_velocities_would_be_wrong_and_are_left_out(hopper: Dataset) -> None:
    clipped = np.abs(hopper.observations[:, 5:]).max(axis=1) >= 10
    assert clipped.mean() > 0.02
    assert check_dynamics(hopper, row_count=10**6).row_count == len(hopper) - int(clipped.sum())
    zeros = np.zeros((len(hopper), 6), np.float32)
    everything = {
        "qpos": np.concatenate((zeros[:, :1], hopper.observations[:, :5]), axis=1),
        "qvel": hopper.observations[:, 5:],
    }
    assert check_dynamics(changed(hopper, infos=everything)).share_off > 0.02


def test_counterfeit_dynamics_are_seen(hopper: Dataset) -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(scale=0.1, size=hopper.observations.shape), axis=0)
    fake = changed(hopper, observations=walk.astype(np.float32), next_observations=None)
    report = check_dynamics(fake)
    assert report.share_off > 0.99
    wrong_reward = changed(hopper, rewards=hopper.rewards + np.float32(0.01))
    assert check_dynamics(wrong_reward).share_off == 1.0


def test_without_next_observations_rows_inside_episodes_are_compared(hopper: Dataset) -> None:
    report = check_dynamics(changed(hopper, next_observations=None))
    assert (report.row_count, report.share_off) == (600, 0.0)


def test_terminations_are_compared_save_where_a_limit_hides_them(hopper: Dataset) -> None:
    none = np.zeros(len(hopper), np.bool_)
    denied = changed(hopper, terminals=none)
    hidden = changed(hopper, terminals=none, timeouts=hopper.episode_ends)
    mismatches = [check_dynamics(data, row_count=10**6).terminal_mismatch_count for data in (denied, hidden)]
    shown = np.abs(hopper.observations[:, 5:]).max(axis=1) < 10
    assert mismatches == [int((hopper.terminals & shown).sum()), 0]


def test_data_of_another_environment_is_refused(hopper: Dataset) -> None:
    with pytest.raises(DatasetError, match="'observations' has 11 columns, HalfCheetah-v4 has 17"):
        check_dynamics(hopper, environment_id="HalfCheetah-v4")


def ant_steps() -> dict[str, np.ndarray]:
    """Columns of an Ant dataset as D4RL has it: 84 zeros after each observation, no states."""
    with BatchedEnvironment("Ant-v4", 4) as environment:
        uniform = np.random.default_rng(0).uniform(-1, 1, (30, 1, 4, 8)).astype(np.float32)
        recording = record_episodes(lambda observations: uniform[0], environment, [1, 2, 3, 4], maximum_steps=30)
    columns = {name: getattr(recording, name) for name in ("actions", "rewards", "terminals", "timeouts")}
    padding = np.zeros((len(recording.rewards), 84), np.float32)
    for name in ("observations", "next_observations"):
        columns[name] = np.concatenate((getattr(recording, name), padding), axis=1)
    return columns


def test_ants_padded_observations_are_compared_without_their_zeros() -> None:
    columns = ant_steps()
    dataset = Dataset(name="ant-random", path=Path("ant-random"), **columns)
    report = check_dynamics(dataset)
    assert report.row_count == len(dataset) == 120
    assert report.observation_error_quantiles[1.0] < 1e-5
    assert report.share_off == 0
    assert 1e-3 < report.reward_error_quantiles[1.0] < 0.2  # the torso of the middle of the step before
    wrong = changed(dataset, next_observations=dataset.observations)
    assert check_dynamics(wrong).share_off > 0.3  # the others came to rest
    columns["observations"] = columns["observations"].copy()
    columns["observations"][3, 40] = 0.5
    with pytest.raises(DatasetError, match="not zero past column 27"):
        check_dynamics(changed(dataset, observations=columns["observations"]))


# --- manners ---


def test_nothing_is_printed_and_no_file_is_left(tmp_path: Path) -> None:
    code = (
        "from trajmill.evaluation import make_gymnasium, BatchedEnvironment\n"
        "make_gymnasium('HalfCheetah-v4').close(); BatchedEnvironment('HalfCheetah-v4', 2).close()\n"
        "from trajmill.evaluation.simulators import open_environments; open_environments('HalfCheetah-v5', 2).close()"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (ran.stdout, ran.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["mujoco", "gymnasium"])
def test_without_simulators_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'trajmill\[train\]'"):
        BatchedEnvironment("Hopper-v4", 1)


def test_the_evaluation_room_imports_neither_torch_nor_mujoco() -> None:
    code = "import sys, trajmill.evaluation; print([n for n in ('torch', 'mujoco', 'gymnasium') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
