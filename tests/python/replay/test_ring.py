"""The ring that online agents fill: order, rows, truncation, failures, and going on after a stop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu import NEEDS_GPU
from numpy.typing import NDArray
from torch import Tensor
from walks import BATCH, CPU, Walks, batches, equal, explore, ring

from trajmill.algorithms import td3
from trajmill.data import DatasetError, DatasetWarning, Normalizer, load_dataset, split_episodes
from trajmill.data.formats import replay
from trajmill.experiments.online import OnlineState
from trajmill.replay.ring import Ring, Turns
from trajmill.training.checkpoint import CheckpointError, save_tensors
from trajmill.training.draws import Draws, indexes
from trajmill.training.runner import Runner
from trajmill.training.settings import Interaction


def rows_by_hand(seed: int, environments: int, steps: int, limit: int, random_steps: int) -> list[dict[str, Any]]:
    """The transitions of one seed, one environment at a time, in the order of the ring."""
    draws = Draws.of([seed], {"action": 2 * environments}, CPU, first_site=1 << 16)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for environment in range(environments):
        walk, episode, length = Walks(1), 0, 0

        def begin(walk: Walks, episode: int, environment: int = environment) -> NDArray[np.float32]:
            key = (0x6F6E6C69, environment, episode)
            word = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
            return walk.reset([int(word) >> 1])[0].astype(np.float32)

        now = begin(walk, 0)
        for step in range(steps):
            words = draws.words(torch.tensor(step), 1)["action"][0, 0].reshape(environments, 2)
            if step * environments <= random_steps:
                action = (((words[environment] >> 9).float() + 0.5) * 2.0**-23) * 2 - 1
            else:
                u = ((words[environment] >> 9).float() + 0.5) * 2.0**-23
                radius = (-2.0 * u[0].log()).sqrt()
                angle = u[1] * (2.0 * np.pi)
                noise = torch.stack([radius * angle.cos(), radius * angle.sin()])
                action = torch.tanh(torch.from_numpy(now)[1:] * 0.1 + noise)
            result = walk.step(action.numpy()[None] * np.float32(2.0))
            then = result.observation[0].astype(np.float32)
            length += 1
            terminal = bool(result.terminal[0])
            found[step, environment] = {
                "observation": now,
                "action": action.numpy(),
                "reward": np.float32(result.reward[0]),
                "terminal": float(terminal),
                "next_observation": then,
            }
            now = then
            if terminal or length == limit:
                episode, length = episode + 1, 0
                now = begin(walk, episode)
    return [found[place] for place in sorted(found)]


@pytest.mark.parametrize("environments", [1, 2, 3])
@pytest.mark.parametrize("limit", [1, 4, 1000])
@pytest.mark.parametrize("capacity", [30, 1000])
def test_batches_are_of_the_rows_that_each_environment_makes(environments: int, limit: int, capacity: int) -> None:
    """Truncation is no termination, whatever the limit, the number of environments and the ratio."""
    seeds, count = (3, 2**63 + 5), 25
    made = ring(seeds, environments, updates_per_step=1 / environments / 2, limit=limit, capacity=capacity)
    found = batches(made, count)
    draws = Draws.of(seeds, {"batch": BATCH}, CPU)
    for position, seed in enumerate(seeds):
        rows = rows_by_hand(seed, environments, made.steps, limit, 7)
        for update, batch in enumerate(found):
            end = made.steps_before(update) * environments
            kept = rows[:end][-(-(-capacity // environments) * environments) :]
            chosen = indexes(draws.words(torch.tensor(update), 1)["batch"][0, position], len(kept))
            for place, index in enumerate(chosen.tolist()):
                for name, value in kept[index].items():
                    np.testing.assert_allclose(batch[name][position, place], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "environments", "expected"),
    [
        (1, 1, [8, 9, 10, 11]),
        (20, 1, [8] * 4),
        (2, 1, [8, 8, 9, 9]),
        (0.5, 1, [8, 10, 12, 14]),
        (0.5, 4, [2, 2, 3, 3]),
        (0.1, 2, [4, 9, 14, 19]),
        (1, 3, [3, 3, 3, 4]),
    ],
)
def test_updates_and_steps_alternate_as_the_ratio_says(ratio: float, environments: int, expected: list[int]) -> None:
    """The first update comes when there are more rows than steps of chance: 8 rows here."""
    made = ring(environments=environments, updates_per_step=ratio)
    assert [made.steps_before(update) for update in range(4)] == expected
    batches(made, 4)
    assert made.steps == expected[-1]


@pytest.mark.parametrize("ratio", [0.75, 1e-7])
def test_a_ratio_that_steps_and_updates_cannot_keep_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"whole number, .*got 2 \* .*; change environments or interaction"):
        ring(updates_per_step=ratio)
    ring(environments=4, updates_per_step=0.75)


@pytest.mark.parametrize("environments", [1, 2, 5])
@pytest.mark.parametrize("ratio", [0.1, 1, 3])
def test_how_many_updates_there_are_in_so_many_steps(ratio: float, environments: int) -> None:
    turns = Turns.of(Interaction(random_steps=7, updates_per_step=ratio), environments, 4)
    for steps in range(40):
        assert turns.updates_in(steps) == sum(turns.before(update) <= steps for update in range(600))


def test_updates_with_steps_between_them_are_not_fed_together() -> None:
    made = ring(environments=1, updates_per_step=2)
    made.reserve(2)
    assert made.period == 2
    made.feed(0, 2)
    with pytest.raises(RuntimeError, match="steps between them"):
        made.feed(3, 2)


def test_an_agent_that_was_trained_before_acts_from_the_first_step() -> None:
    seen = []
    made = ring(random_steps=0)
    made.begin(lambda observation, noise: (seen.append(made.steps), explore(observation, noise))[1])
    batches(made, 3)
    assert seen == list(range(made.steps))
    assert made.steps_before(0) == BATCH // 2  # as many rows as a batch has


def test_steps_of_warm_up_are_the_agents() -> None:
    seen = []
    made = ring(environments=1, warmup_steps=5)
    made.begin(lambda observation, noise: (seen.append(made.steps), explore(observation, noise))[1])
    batches(made, 1)
    assert made.steps_before(0) == 7 + 5 + 1
    assert seen == list(range(8, 13))


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 3), (0.9, 5), (0.1, 0)])
def test_every_batch_has_its_share_of_other_rows(ratio: float, count: int) -> None:
    """After the ring's own, exactly so many, standardized as these; the ring's stay as they are, too."""
    columns = {"observation": 3, "action": 2, "reward": 0, "terminal": 0, "next_observation": 3}
    offline = {
        name: 1000.0 + np.arange(40 * max(size, 1), dtype="f4").reshape((40, size) if size else (40,))
        for name, size in columns.items()
    }
    normalizer = Normalizer(mean=np.full(3, 0.5, "f4"), scale=np.full(3, 2.0, "f4"), epsilon=0.0)
    options = {"normalizer": normalizer, "random_steps": 1000}
    alone, mixed = ring(**options), ring(**options, offline=offline, offline_ratio=ratio)
    row = indexes(Draws.of((3, 2**63 + 5), {"batch": BATCH}, CPU).words(torch.tensor(0), 5)["batch"], 40)
    for update, (own, both) in enumerate(zip(batches(alone, 5), batches(mixed, 5), strict=True)):
        for name, column in offline.items():
            wanted = normalizer.normalize(column) if "observation" in name else column
            assert torch.equal(both[name][:, : BATCH - count], own[name][:, : BATCH - count])
            np.testing.assert_array_equal(both[name][:, BATCH - count :], wanted[row[update, :, BATCH - count :]])


def test_seeds_do_not_depend_on_those_beside_them() -> None:
    both = batches(ring((3, 8)), 12)
    assert equal(both, batches(ring((8,)), 12), slice(1, 2))
    assert not equal(both, batches(ring((8,)), 12), slice(0, 1))


def test_the_agent_sees_standardized_observations_and_rows_are_kept_as_they_come() -> None:
    normalizer = Normalizer(mean=np.array([0.5, 2.0, 0.0], "f4"), scale=np.array([2.0, 4.0, 1.0], "f4"), epsilon=0.0)
    raw, standardized = ring(random_steps=1000), ring(random_steps=1000, normalizer=normalizer)
    for one, other in zip(batches(raw, 5), batches(standardized, 5), strict=True):
        for name in ("observation", "next_observation"):
            np.testing.assert_array_equal(other[name], normalizer.normalize(one[name].numpy()))
        for name in ("action", "reward", "terminal"):
            assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("capacity", [24, 1000])
@pytest.mark.parametrize("stops", [(5,), (1, 4, 30)])
def test_a_ring_that_goes_on_makes_the_same_batches(tmp_path: Path, capacity: int, stops: tuple[int, ...]) -> None:
    whole = batches(ring(capacity=capacity), 40)
    parts, done = [], 0
    moving: dict[str, Tensor] = {}
    for stop in (*stops, 40):
        made = ring(capacity=capacity)
        if done:
            for name, tensor in made.moving().items():
                tensor.copy_(moving[name])
            made.load(tmp_path)
        parts += batches(made, stop - done, done)
        moving = {name: tensor.clone() for name, tensor in made.moving().items()}
        made.store(tmp_path)
        batches(made, 3, stop)  # a killed run has done more than its checkpoint says
        if stop == stops[-1]:
            made.store(tmp_path)
        done = stop
    assert equal(whole, parts)


def test_files_that_are_missing_or_damaged_are_refused(tmp_path: Path) -> None:
    made = ring()
    batches(made, 4)
    made.store(tmp_path)
    batches(made, 4, 4)
    made.store(tmp_path)
    moving = {name: tensor.clone() for name, tensor in made.moving().items()}
    files = sorted(tmp_path.glob("3/*"))
    assert len(files) == 2

    def load() -> None:
        other = ring()
        for name, tensor in other.moving().items():
            tensor.copy_(moving[name])
        other.load(tmp_path)

    load()
    content = bytearray(files[0].read_bytes())
    content[-5] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged|not as"):
        load()
    for path in files:
        path.unlink()
        with pytest.raises(CheckpointError, match=r"lacks rows|damaged|not as"):
            load()
        path.write_bytes(content)


def test_files_of_rows_that_were_overwritten_are_not_read_again(tmp_path: Path) -> None:
    """However long the run was; they are kept, since they are a dataset."""
    made = ring(capacity=24)
    for first in range(0, 40, 10):
        batches(made, 10, first)
        made.store(tmp_path)
    files = sorted(tmp_path.glob("3/*"))
    for path in files[:2]:
        path.write_bytes(b"damaged")
    other = ring(capacity=24)
    for name, tensor in other.moving().items():
        tensor.copy_(made.moving()[name])
    other.load(tmp_path)
    assert equal(batches(made, 5, 40), batches(other, 5, 40)) and files == sorted(tmp_path.glob("3/*"))


def test_a_seed_whose_environment_breaks_is_named_and_the_others_go_on() -> None:
    sound = batches(ring(), 12)
    with pytest.warns(
        RuntimeWarning, match=r"seed 3 has failed at step .*environment gave NaN.*the others go on"
    ) as told:
        broken = batches(ring(broken=1), 12)
    assert len(told) == 1
    assert equal(sound, [{name: column[1:] for name, column in batch.items()} for batch in broken], slice(1, 2))
    assert all(batch["reward"][0].isnan().all() for batch in broken)
    assert all(batch[name].isfinite().all() for batch in broken for name in batch if name != "reward")


def test_an_agent_that_acts_by_nan_fails_alone() -> None:
    """Whoever watches its metrics names it, since its rewards are NaN."""
    sound, made = batches(ring(), 12), ring()
    made.begin(lambda observation, noise: explore(observation, noise) * torch.tensor([torch.nan, 1.0])[:, None, None])
    found = batches(made, 12)
    assert found[-1]["reward"][0].isnan().all()
    assert equal(sound, [{name: column[1:] for name, column in batch.items()} for batch in found], slice(1, 2))


def test_what_is_reported() -> None:
    made = ring(limit=3)
    assert np.isnan(made.report()["training_return"]).all()
    batches(made, 30)
    assert made.report()["environment_steps"] == [made.steps * 2] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(made.report()["training_return"]).all()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("updates_per_step", [0.5, 1.0, 4.0])
def test_on_a_gpu_every_phase_of_delayed_updates_has_its_graph(device: str, updates_per_step: float) -> None:
    """Periods of updates are those between two steps, whatever the method's own; numbers are a CPU's, but rounded."""
    found = []
    for place in (torch.device(device), CPU):
        made = ring(environments=1, updates_per_step=updates_per_step, device=place)
        agent = td3.create(td3.Config(batch_size=BATCH, hidden_sizes=(8,)), made, [3, 2**63 + 5])
        state = OnlineState.of(td3, agent)
        with Runner(state.step, state, 8) as runner:
            for count in (1, 7, 12):
                runner.run(count)
        assert runner.unroll == made.period
        found.append(agent.metrics.mean_of_last(0, 20))
    for name, values in found[1].items():
        assert found[0][name] == pytest.approx(values, rel=1e-2, abs=1e-3)


# --- what is stored is a dataset ---


def stored(directory: Path, stops: Sequence[int] = (3, 4, 8, 12), **settings: Any) -> Ring:
    """A ring that has stored its rows after some updates."""
    made, done = ring(**settings), 0
    for stop in stops:
        batches(made, stop - done, done)
        made.store(directory)
        done = stop
    return made


@pytest.mark.filterwarnings("ignore:.*(unfinished|not over|lie outside)")
@pytest.mark.parametrize("environments", [1, 2, 3])
@pytest.mark.parametrize("limit", [3, 1000])
@pytest.mark.parametrize("capacity", [30, 1000])
def test_what_is_stored_is_read_environment_by_environment(
    tmp_path: Path, environments: int, limit: int, capacity: int
) -> None:
    """Also the rows that the ring has forgotten; an episode that is over has one flag, the right one."""
    ratio = 1 / environments / 2
    made = stored(tmp_path, environments=environments, limit=limit, capacity=capacity, updates_per_step=ratio)
    for seed in (3, 2**63 + 5):
        rows = rows_by_hand(seed, environments, made.steps, limit, 7)
        rows = [row for first in range(environments) for row in rows[first::environments]]
        dataset = load_dataset(tmp_path / str(seed))
        assert len(dataset) == len(rows) == made.steps * environments
        for name, column in (("observation", dataset.observations), ("next_observation", dataset.next_observations)):
            np.testing.assert_allclose(column, [row[name] for row in rows], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(dataset.actions, [2 * row["action"] for row in rows], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(dataset.rewards, [row["reward"] for row in rows], rtol=1e-6, atol=1e-7)
        terminal = np.array([row["terminal"] for row in rows]) == 1.0
        over = terminal | np.array([row["next_observation"][1] == limit for row in rows])
        recorded = np.arange(1, len(rows)) % made.steps == 0  # the end of an environment, but for the last one
        np.testing.assert_array_equal(dataset.terminals, terminal)
        np.testing.assert_array_equal(dataset.timeouts[:-1], (over & ~terminal)[:-1] | (recorded & ~over[:-1]))
        assert dataset.episode_ends[-1] == over[-1]
        lengths = [len(episode) for episode in split_episodes(dataset)]
        assert sum(lengths) == len(rows) if over[-1] else sum(lengths) < len(rows)
        some = replay.read(tmp_path / str(seed), row_count=10 * environments)
        assert len(some) == 10 * environments
        np.testing.assert_array_equal(some.rewards[:10], dataset.rewards[:10])
        np.testing.assert_array_equal(some.observations[-10:], dataset.observations[-made.steps :][:10])


@pytest.mark.filterwarnings("ignore:.*(unfinished|not over|lie outside)")
def test_a_replay_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """Whichever of its files is missing, cut short, changed in any place, or another run's."""
    made = stored(tmp_path / "replay")
    tensors = {f"ring/{name}": tensor for name, tensor in made.moving().items()}
    (tmp_path / "checkpoints").mkdir()
    checkpoint = tmp_path / "checkpoints/step_000000012.safetensors"
    save_tensors(checkpoint, tensors, {})
    place = tmp_path / "replay/3"
    files = sorted(place.iterdir())
    assert len(files) == 4 and len(load_dataset(place)) == made.steps * 2
    generator = np.random.default_rng(0)
    for file in files:
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(DatasetError, match=r"missing|should follow"):
            replay.read(place)
        bad = [content[:-1], content[: len(content) // 2], b""]
        for at in generator.integers(0, len(content), 40).tolist():
            bad.append(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        for damaged in bad:
            file.write_bytes(damaged)
            with pytest.raises(DatasetError, match=r"damaged|does not hold"):
                load_dataset(place)
        file.write_bytes(content)
    files[1].write_bytes((place.parent / str(2**63 + 5) / files[1].name).read_bytes())
    with pytest.raises(DatasetError, match="of another run"):
        load_dataset(place)
    with pytest.raises(DatasetError, match="give the directory of all"):
        load_dataset(files[1])
    with pytest.raises(DatasetError, match="RUN/replay/SEED"):
        load_dataset(place.parent)
    with pytest.raises(DatasetError, match="memory"):
        load_dataset(place.parent / str(2**63 + 5), memory_budget=100)


def test_rows_that_were_overwritten_before_they_were_stored_are_missed(tmp_path: Path) -> None:
    stored(tmp_path, stops=(3, 30), capacity=20, environments=1)
    with pytest.raises(DatasetError, match=r"should follow.*capacity"):
        load_dataset(tmp_path / "3")


def test_what_an_environment_failed_to_give_is_no_row(tmp_path: Path) -> None:
    """Steps before it end in a truncation, and later episodes are the environment's own."""
    with pytest.warns(RuntimeWarning, match="seed 3 has failed"):
        made = stored(tmp_path, broken=1)
    with pytest.warns(DatasetWarning) as told:
        dataset = load_dataset(tmp_path / "3")
    assert any("the environment failed in" in str(each.message) for each in told)
    second = dataset.observations[:, 1][made.steps :]
    assert len(dataset) < 2 * made.steps and len(second) > 5
    assert not second.any(), "an episode of this environment has one step, and then none"
    assert dataset.timeouts[made.steps : -1].all() and not dataset.terminals[made.steps :].any()
    inside = ~dataset.episode_ends[:-1]
    np.testing.assert_array_equal(dataset.next_observations[:-1][inside], dataset.observations[1:][inside])
