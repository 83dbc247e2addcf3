"""Where episodes end: exactly where the next observation is not the next row's, else as the caller says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from d4rl_files import walk_columns, write
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import trajmill as tm
from trajmill.algorithms import diffusion, iql, world_model
from trajmill.data import (
    Dataset,
    DatasetError,
    Subset,
    load_dataset,
    qlearning_transitions,
    read_d4rl,
    split_episodes,
    write_minari,
)
from trajmill.data import official as official_files
from trajmill.data.episodes import followed, leads_on, settle_episodes
from trajmill.data.formats import checked_dataset
from trajmill.evaluation.prediction import histories
from trajmill.experiments.prediction import TrainedModel, predicted_rows
from trajmill.replay.tables import TransitionRows, WindowRows

Columns = dict[str, NDArray[Any]]
pytestmark = pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")

STATES: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = {
    "walk": lambda rng, count: rng.standard_normal((count, 3)).cumsum(0),
    "tiny": lambda rng, count: rng.standard_normal((count, 3)).cumsum(0) * 1e-30,
    "far away": lambda rng, count: 1e6 + rng.standard_normal((count, 3)).cumsum(0),
    "fast": lambda rng, count: rng.standard_normal((count, 3)) * 1e6,
    "one-hot": lambda rng, count: np.eye(5)[(rng.integers(5) + np.arange(count)) % 5],
    "repeated": lambda rng, count: rng.standard_normal((count // 3 + 1, 3)).repeat(3, axis=0)[:count],
    "constant": lambda rng, count: np.zeros((count, 3)),
    "with zeros of both signs": lambda rng, count: rng.choice([-0.0, 0.0, 1.0], (count, 3)),
}
DTYPES = ["f2", "f4", "f8", ">f4", "i8", "u1"]


def recorded(rng: np.random.Generator, states: str, lengths: list[int], dtype: str) -> Columns:
    """Episodes of these lengths, one after another, without timeouts; terminals where the last digit is 0."""
    kind = np.dtype(dtype)
    walks = [STATES[states](rng, length + 1) for length in lengths]
    if kind.kind in "iu":
        walks = [np.abs(walk).clip(0, 200) for walk in walks]
    count = sum(lengths)
    ends = np.cumsum(lengths) - 1
    terminals = np.zeros(count, np.bool_)
    terminals[ends[ends % 10 == 0]] = True
    if kind == np.float16:
        walks = [walk.clip(-6e4, 6e4) for walk in walks]
    with np.errstate(over="ignore", under="ignore"):
        observations, following = (
            np.concatenate(parts).astype(kind)
            for parts in ([walk[:-1] for walk in walks], [walk[1:] for walk in walks])
        )
    return {
        "observations": observations,
        "next_observations": following,
        "actions": rng.uniform(-1, 1, (count, 1)).astype(np.float32),
        "rewards": rng.standard_normal(count).astype(np.float32),
        "terminals": terminals,
    }


def load(columns: Columns, *, fix_timeouts: bool = False, limit: int | None = None, **fields: Any) -> Dataset:
    fields = {"name": "set"} | fields
    return checked_dataset(Path("set"), dict(columns), fix_timeouts=fix_timeouts, limit=limit, **fields)


def slow_ends(columns: Columns) -> list[int]:
    """Rows whose next observation is not the next row's, one by one."""
    rows = range(len(columns["rewards"]) - 1)
    following, observations = columns["next_observations"], columns["observations"]
    return [
        i
        for i in rows
        if not columns["terminals"][i] and list(following[i].tolist()) != list(observations[i + 1].tolist())
    ]


@settings(deadline=None, max_examples=150)
@given(
    states=st.sampled_from(sorted(STATES)),
    dtype=st.sampled_from(DTYPES),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=30),
    seed=st.integers(0, 2**32),
)
def test_ends_are_where_next_observations_differ_and_nowhere_else(
    states: str, dtype: str, lengths: list[int], seed: int
) -> None:
    """Whatever the states look like, in every dtype, for episodes of any length, also of one row."""
    columns = recorded(np.random.default_rng(seed), states, lengths, dtype)
    right = slow_ends(columns)
    if columns["terminals"].all():
        return
    dataset = load(columns)
    if len(right) + columns["terminals"][:-1].sum() == len(columns["rewards"]) - 1 and right:
        assert not dataset.ordered, "no row is followed by the next one"
        return
    assert dataset.timeouts.nonzero()[0].tolist() == right
    # and no other part of the program sees other ends
    following = followed(qlearning_transitions(dataset))
    assert (~following).nonzero()[0].tolist() == sorted({*right, *columns["terminals"].nonzero()[0], len(dataset) - 1})


@pytest.mark.parametrize("pair", [("f8", "f4"), ("f4", "f8"), ("f4", "f2"), ("f2", "f4"), ("i8", "f4"), (">f4", "f4")])
def test_two_precisions_are_compared_in_the_coarser_one(pair: tuple[str, str]) -> None:
    columns = walk_columns(timeout_rows=slice(200, 201))
    wide = max(map(np.dtype, pair), key=lambda dtype: (dtype.itemsize, dtype.kind))
    for name, dtype in zip(("observations", "next_observations"), pair, strict=True):
        exact = np.round(columns[name] * 1000) if "i8" in pair else columns[name].astype("f8") * 1.1
        columns[name] = exact.astype(wide).astype(dtype)
    dataset = load({name: values for name, values in columns.items() if name != "timeouts"})
    assert dataset.timeouts.nonzero()[0].tolist() == [200]
    assert len(split_episodes(dataset)) == 2


def test_doubles_that_are_equal_in_float32_differ() -> None:
    columns = walk_columns(12, 1)
    columns["observations"] = (1.0 + np.arange(12)[:, None] * 1e-12) * np.ones((12, 1))
    columns["next_observations"] = 1.0 + (np.arange(12)[:, None] + 1) * 1e-12
    columns["next_observations"][:-1] = columns["observations"][1:]
    columns["next_observations"][5] += 1e-13 * 5
    columns["terminals"][:] = False
    del columns["timeouts"]
    assert columns["next_observations"][5] != columns["observations"][6]
    assert np.float32(columns["next_observations"][5]) == np.float32(columns["observations"][6])
    assert load(columns).timeouts.nonzero()[0].tolist() == [5]


def test_nan_equals_nan_in_its_place() -> None:
    observations = np.array([[0.0, np.nan], [np.nan, 1.0], [np.nan, 1.0]])
    following = np.array([[np.nan, 1.0], [1.0, np.nan], [0.0, 0.0]])
    assert leads_on(observations, following).tolist() == [True, False]


# --- what the caller says ---


def without(columns: Columns, *names: str) -> Columns:
    return {name: values for name, values in columns.items() if name not in names}


@given(
    terminals=st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda flags: not all(flags)),
    limit=st.integers(1, 20),
)
@settings(deadline=None)
def test_a_limit_counts_the_steps_since_the_last_end(terminals: list[bool], limit: int) -> None:
    """Beside a count row by row, as D4RL's own loop does without timeouts."""
    columns = without(walk_columns(len(terminals)), "timeouts", "next_observations")
    columns["terminals"] = np.array(terminals)
    right, steps = [], 0
    for row, terminal in enumerate(terminals):
        steps += 1
        if not terminal and steps % limit == 0:
            right.append(row)
        if terminal or steps == limit:
            steps = 0
    assert load(columns, limit=limit).timeouts.nonzero()[0].tolist() == right


def test_what_no_column_says_is_refused_until_the_caller_says_it(tmp_path: Path) -> None:
    columns = without(walk_columns(), "timeouts", "next_observations")
    path = write(tmp_path / "kitchen_complete-v0.hdf5", columns)
    with pytest.raises(DatasetError, match=r"neither 'timeouts' nor 'next_observations'.*pass limit \(--limit\)"):
        load_dataset(path)
    assert load_dataset(path, limit=280).timeouts.nonzero()[0].tolist() == []
    assert load_dataset(path, limit=70).timeouts.nonzero()[0].tolist() == [69, 170, 240]
    for wrong in (0, -5, 2.5, True):
        with pytest.raises((TypeError, ValueError), match="limit"):
            load_dataset(path, limit=wrong)  # type: ignore[arg-type]


def test_the_limit_of_a_known_environment_is_no_guess(tmp_path: Path) -> None:
    columns = without(walk_columns(2500, terminal_rows=slice(0, 0)), "timeouts", "next_observations")
    path = write(tmp_path / "hopper-medium-v0.hdf5", columns)
    with pytest.warns(tm.data.DatasetWarning, match="after 1000 steps, the limit of Hopper-v4"):
        assert load_dataset(path).timeouts.nonzero()[0].tolist() == [999, 1999]
    assert load_dataset(path, limit=2000).timeouts.nonzero()[0].tolist() == [1999]


def test_a_limit_is_heard_whatever_the_file_stores() -> None:
    """States that are all equal show no end; flags that are all unset say nothing."""
    columns = walk_columns(300, terminal_rows=slice(0, 0), timeout_rows=slice(0, 0))
    columns |= {name: np.zeros_like(columns[name]) for name in ("observations", "next_observations")}
    for missing in (["timeouts"], ["next_observations"], []):
        assert load(without(columns, *missing), limit=100).timeouts.nonzero()[0].tolist() == [99, 199, 299], missing
    jumps = walk_columns(300, terminal_rows=slice(0, 0), timeout_rows=slice(100, 201, 100))
    unmarked = jumps | {"timeouts": np.zeros(300, np.bool_)}
    assert load(without(unmarked, "timeouts"), limit=150).timeouts.nonzero()[0].tolist() == [100, 200]
    with pytest.raises(DatasetError, match=r"in 2 rows inside episodes, first in row 100.*--fix-timeouts"):
        load(unmarked, limit=150)
    assert load(unmarked, limit=150, fix_timeouts=True).timeouts.nonzero()[0].tolist() == [100, 200]


# --- D4RL's own files ---


@pytest.mark.parametrize("environment", ["Hopper-v4", "HalfCheetah-v4", "Walker2d-v4"])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_no_rule_changes_what_d4rl_marks(
    environment: str, stored: bool, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column 'timeouts' is D4RL's rule: files as its collector writes them are read with exactly these flags.

    The collector casts the simulator's doubles to float32, both observations of a step from one array.
    """
    task = next(task for task in tm.data.TASKS.values() if task.environment_id == environment)
    terminals = slice(0, 0) if task.name == "halfcheetah" else slice(700, 4000, 613)
    columns = walk_columns(
        5200, task.observation_dim, task.action_dim, terminal_rows=terminals, timeout_rows=slice(999, 5000, 1000)
    )
    if not stored:
        columns = without(columns, "next_observations")
    path = write(tmp_path / f"{task.name}-medium-v2.hdf5", columns)
    if known:
        monkeypatch.setattr("trajmill.data.formats.d4rl.recognize", lambda _: official_files.CURRENT)
    dataset = read_d4rl(path)
    np.testing.assert_array_equal(dataset.timeouts, columns["timeouts"])
    np.testing.assert_array_equal(dataset.terminals, columns["terminals"])
    rows = (~columns["timeouts"][:-1]).nonzero()[0]  # of qlearning_dataset
    transitions = qlearning_transitions(dataset, "d4rl")
    np.testing.assert_array_equal(transitions.observation, columns["observations"][rows])
    np.testing.assert_array_equal(transitions.next_observation, columns["observations"][rows + 1])
    np.testing.assert_array_equal(transitions.terminal, columns["terminals"][rows])


@pytest.mark.parametrize("name", tm.data.bundled_datasets())
def test_recorded_data_shows_the_ends_that_it_marks(name: str) -> None:
    whole = load_dataset(name)
    columns = {
        key: getattr(whole, key) for key in ("observations", "next_observations", "actions", "rewards", "terminals")
    }
    found = load(columns)
    np.testing.assert_array_equal(found.timeouts[:-1], whole.timeouts[:-1])


# --- one gate ---


def single_transitions() -> Dataset:
    """A one-hot walk whose rows are shuffled: by accident many look as if the next one followed."""
    columns = recorded(np.random.default_rng(0), "one-hot", [20] * 10, "f4")
    order = np.random.default_rng(1).permutation(200)
    columns = {name: values[order] for name, values in columns.items()} | {"terminals": np.zeros(200, np.bool_)}
    dataset = load(columns, ordered=False)
    assert leads_on(dataset.observations, columns["next_observations"]).any()
    return dataset


class Still:
    """A model by which nothing changes."""

    def __call__(self, observation: NDArray[Any], action: NDArray[Any], draw: int = 0) -> NDArray[Any]:
        return observation


CONSUMERS: dict[str, Callable[[Dataset, Path], Any]] = {
    "split_episodes": lambda dataset, place: split_episodes(dataset),
    "windows": lambda dataset, place: tm.TrajectoryBuffer.from_dataset(dataset, keep_tail=True),
    "window rows": lambda dataset, place: WindowRows(dataset, {"keep_tail": True}),
    "trajectories": lambda dataset, place: Subset("trajectories", 1).take(dataset),
    "top": lambda dataset, place: Subset("top", 1).take(dataset),
    "Minari": lambda dataset, place: write_minari(place / "set-v0", **dataset.to_write()),
    "returns to go": lambda dataset, place: diffusion.returns_in_order(qlearning_transitions(dataset)),
    "n-step returns": lambda dataset, place: tm.ReplayBuffer.from_transitions(qlearning_transitions(dataset), n_step=3),
    "horizon": lambda dataset, place: predicted_rows(
        TransitionRows(transitions=qlearning_transitions(dataset)), TrainedModel(Still(), {}), 2
    ),
    "next rows": lambda dataset, place: qlearning_transitions(replace(dataset, next_observations=None)),
    "world model": lambda dataset, place: world_model.prepare(
        world_model.SMALL, replace(dataset, next_observations=None)
    ),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_rows_in_no_order_are_no_episodes(consumer: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"order|follow"):
        CONSUMERS[consumer](single_transitions(), tmp_path)
    assert not any(tmp_path.iterdir())


SHUFFLED = np.random.default_rng(2).permutation(200)
DISORDERED: dict[str, Any] = {
    "shuffled": SHUFFLED,
    "backwards": slice(None, None, -1),
    "every other": slice(0, 200, 2),
    "repeated": np.repeat(np.arange(200), 2),
    "one row less": np.arange(200) != 33,
    "an episode without its end": np.arange(200) != 39,
}
ORDERED: dict[str, Any] = {
    "all": slice(None),
    "the first": slice(57),
    "from the middle": slice(33, None),
    "episodes in another order": np.concatenate([np.arange(20 * e, 20 * e + 20) for e in (3, 0, 9)]),
    "without the first episode": np.arange(200) >= 20,
    "none": np.zeros(0, np.int64),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("stored", [True, False], ids=["next", "no next"])
@pytest.mark.parametrize("picked", DISORDERED)
def test_rows_that_were_picked_out_of_order_are_no_episodes(
    picked: str, stored: bool, consumer: str, tmp_path: Path
) -> None:
    dataset = load(recorded(np.random.default_rng(0), "walk", [20] * 10, "f4"))
    part = (dataset if stored else replace(dataset, next_observations=None)).rows(DISORDERED[picked])
    assert not part.ordered
    with pytest.raises(ValueError, match=r"order|follow|next_observations"):
        CONSUMERS[consumer](part, tmp_path)


@pytest.mark.parametrize("picked", ORDERED)
def test_rows_that_follow_each_other_stay_in_order(picked: str) -> None:
    dataset = load(recorded(np.random.default_rng(0), "walk", [20] * 10, "f4"))
    assert dataset.rows(ORDERED[picked]).ordered
    assert not replace(dataset, ordered=False).rows(ORDERED[picked]).ordered


@pytest.mark.parametrize("consumer", ["split_episodes", "windows", "window rows", "trajectories", "top", "Minari"])
def test_a_dataset_that_contradicts_itself_is_no_episodes(consumer: str, tmp_path: Path) -> None:
    """Made in memory, past the readers: one next observation inside an episode is another one."""
    dataset = load(recorded(np.random.default_rng(0), "walk", [20] * 10, "f4"))
    assert dataset.next_observations is not None
    following = dataset.next_observations.copy()
    following[33] += 1e-3
    with pytest.raises(DatasetError, match="first in row 33"):
        CONSUMERS[consumer](replace(dataset, next_observations=following), tmp_path)


def test_nothing_follows_in_transitions_in_no_order() -> None:
    made = qlearning_transitions(single_transitions(), "d4rl")
    assert not followed(made).any() and not histories(made, 4).any()
    assert not followed(replace(made, reward=made.reward * 2)).any()
    assert len(predicted_rows(TransitionRows(transitions=made), TrainedModel(Still(), {}), 1)) == len(made)


def test_rows_of_which_none_leads_on_are_in_no_order() -> None:
    columns = recorded(np.random.default_rng(0), "walk", [50] * 4, "f4")
    order = np.arange(200)[::-1]  # backwards
    backwards = {name: values[order] for name, values in columns.items()}
    dataset = load(backwards)
    assert not dataset.ordered
    assert len(qlearning_transitions(dataset, "d4rl")) == 200
    dataset = load(backwards | {"timeouts": np.arange(200) % 50 == 49})  # flags that were set stand
    assert len(qlearning_transitions(dataset, "d4rl")) == 196
    with pytest.raises(DatasetError, match=r"follow|order"):
        split_episodes(dataset)


@pytest.mark.parametrize("stored", [True, False])
def test_a_dropped_row_is_never_skipped(stored: bool) -> None:
    """D4RL's rule drops the rows at limits; of equal states the row before it and the one after look consecutive."""
    columns = recorded(np.random.default_rng(0), "constant", [10] * 5, "f4")
    columns |= {"timeouts": np.arange(50) % 10 == 9, "terminals": np.arange(50) == 24}
    dataset = load(columns if stored else without(columns, "next_observations"))
    following = followed(qlearning_transitions(dataset, "d4rl"))
    kept = [row for row in range(49) if row % 10 != 9]
    right = [a + 1 == b and a != 24 for a, b in zip(kept, [*kept[1:], -1], strict=True)]
    assert following.tolist() == right
    windows = iql.return_range(qlearning_transitions(dataset, "d4rl"), windows=False)
    assert windows > 0


def test_settling_twice_changes_nothing() -> None:
    dataset = load(recorded(np.random.default_rng(0), "walk", [7] * 9, "f4"), limit=5)
    assert dataset.next_observations is not None
    leads = leads_on(dataset.observations, dataset.next_observations)
    again = settle_episodes(dataset, leads, has_timeouts=True, fix_timeouts=False, limit=5)
    np.testing.assert_array_equal(again.timeouts, dataset.timeouts)
