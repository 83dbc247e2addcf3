from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from d4rl_files import walk_columns, write
from hypothesis import given
from hypothesis import strategies as st

from trajmill.data import Dataset, DatasetError, Subset, load_dataset, qlearning_transitions, split_episodes, write_d4rl
from trajmill.data.subsets import draw

LENGTHS = (5, 9, 2, 7, 4)
FROZEN = [533, 623, 125, 952, 751, 158]


def episodes(*, stored: bool = True) -> Dataset:
    """Five episodes and an unfinished one; observations number the rows, rewards the episodes."""
    count = sum(LENGTHS) + 3
    numbers = np.arange(count, dtype=np.float32)
    terminals, timeouts = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    ends = np.cumsum(LENGTHS) - 1
    terminals[ends[::2]], timeouts[ends[1::2]] = True, True
    return Dataset(
        name="toy",
        path=Path("toy.hdf5"),
        observations=numbers[:, None],
        actions=np.zeros((count, 1), np.float32) + numbers[:, None] / count,
        rewards=np.repeat(np.array([1, -1, 9, 1, 2, 50], np.float32), (*LENGTHS, 3)),
        terminals=terminals,
        timeouts=timeouts,
        next_observations=numbers[:, None] + 1 if stored else None,
        infos={"qpos": numbers[:, None] * 2},
    )


def rows_of(dataset: Dataset) -> list[int]:
    return [int(number) for number in dataset.observations[:, 0]]


def test_first_rows() -> None:
    part = Subset("first", 6).take(episodes())
    assert rows_of(part) == [0, 1, 2, 3, 4, 5]
    assert part.infos["qpos"][:, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert part.metadata["subset"] == {"kind": "first", "amount": 6, "seed": 0, "row_count": 6, "row_count_before": 30}
    assert rows_of(Subset("first", 0.1).take(episodes())) == [0, 1, 2]


def test_top_trajectories() -> None:
    """Returns are 5, -9, 18, 7, 8; the unfinished episode's 150 does not count."""
    assert rows_of(Subset("top", 2).take(episodes())) == [14, 15, 23, 24, 25, 26]
    assert rows_of(Subset("top", 0.2).take(episodes())) == [14, 15]


@pytest.mark.parametrize("amount", [1, 3, 5, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_whole_trajectories(amount: float, seed: int) -> None:
    whole = episodes()
    part = Subset("trajectories", amount, seed).take(whole)
    kept = split_episodes(part)
    count = amount if isinstance(amount, int) else round(5 * amount)
    assert len(kept) == count and sum(map(len, kept)) == len(part)
    starts = {episode.start: len(episode) for episode in split_episodes(whole)}
    assert {int(e.observation[0, 0]): len(e) for e in kept}.items() <= starts.items()
    assert rows_of(part) == sorted(rows_of(part))


def test_draws_are_frozen() -> None:
    """The same seed names the same draw on every machine, for ever; a smaller one is the beginning of a larger."""
    assert draw(6, 1000, 3).tolist() == FROZEN
    assert draw(3, 1000, 3).tolist() == FROZEN[:3]
    assert sorted(draw(1000, 1000, 4).tolist()) == list(range(1000))


@given(st.integers(1, 30), st.integers(0, 2**64 - 1))
def test_single_transitions(count: int, seed: int) -> None:
    part = Subset("transitions", count, seed).take(episodes())
    rows = rows_of(part)
    assert len(set(rows)) == count and rows == sorted(rows)
    assert part.next_observations is not None
    np.testing.assert_array_equal(part.next_observations, part.observations + 1)
    assert not part.ordered
    assert len(qlearning_transitions(part)) == count


def test_single_transitions_without_stored_next_observations() -> None:
    """Rows that a limit cut, and the last row, show no next observation."""
    part = Subset("transitions", 1.0).take(episodes(stored=False))
    assert sorted(set(range(30)) - set(rows_of(part))) == [13, 22, 29]
    assert part.next_observations is not None
    np.testing.assert_array_equal(part.next_observations, part.observations + 1)


@pytest.mark.parametrize(("share", "seed"), [(0.1, 0), (0.29, 0), (0.5, 7), (1.0, 0)])
def test_released_transitions_are_the_authors(share: float, seed: int) -> None:
    """D4RL's qlearning_dataset and their draw from it, written out; stored next observations are not looked at."""
    whole = episodes()
    rows = [row for row in range(len(whole) - 1) if not whole.timeouts[row]]
    use_size = int(len(rows) * share)
    chosen = sorted(rows[place] for place in np.random.RandomState(seed).choice(len(rows), use_size, replace=False))
    shifted = replace(whole, next_observations=whole.observations + 100)
    part = qlearning_transitions(Subset("released-transitions", share, seed).take(shifted), "stored")
    np.testing.assert_array_equal(part.observation, whole.observations[chosen])
    np.testing.assert_array_equal(part.next_observation, whole.observations[np.array(chosen) + 1])
    np.testing.assert_array_equal(part.terminal, whole.terminals[chosen])
    assert len(part) == use_size


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_released_trajectories_are_the_authors_and_rounded_down(share: float) -> None:
    """A share of 0.3 of five is one, where ours is two."""
    whole = episodes()
    chosen = np.random.RandomState(0).choice(np.arange(5, dtype=int), size=int(5 * share), replace=False)
    starts = [episode.start for episode in split_episodes(whole)]
    part = split_episodes(Subset("released-trajectories", share).take(whole))
    assert [int(episode.observation[0, 0]) for episode in part] == [starts[number] for number in sorted(chosen)]


def test_released_kinds_refuse_nothing_and_seeds_that_numpy_does_not_take() -> None:
    with pytest.raises(DatasetError, match=r"share of 0.1 of 5 trajectories is less than one"):
        Subset("released-trajectories", 0.1).take(episodes())
    with pytest.raises(ValueError, match="seed of a released kind"):
        Subset("released-transitions", 0.1, seed=2**32)


def test_draws_are_uniform() -> None:
    counts = np.bincount(np.concatenate([draw(3, 10, seed) for seed in range(2000)]), minlength=10)
    chi_square = float(((counts - 600) ** 2 / 600).sum())
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_unordered_sets_have_no_episodes() -> None:
    part = Subset("transitions", 5).take(episodes())
    with pytest.raises(DatasetError, match="single transitions in no order"):
        split_episodes(part)
    for rule in ("stored", "d4rl"):  # no row follows another, so both take what is stored
        np.testing.assert_array_equal(qlearning_transitions(part, rule).next_observation, part.next_observations)
    with pytest.raises(DatasetError, match="single transitions in no order"):
        qlearning_transitions(replace(part, next_observations=None), "d4rl")
    with pytest.raises(DatasetError, match="single transitions in no order"):
        Subset("trajectories", 1).take(part)


def test_a_subset_is_recorded_in_the_file(tmp_path: Path) -> None:
    part = Subset("transitions", 9, seed=5).take(Subset("first", 20).take(episodes()))
    path = write_d4rl(tmp_path / "set.hdf5", **part.to_write())
    again = load_dataset(path)  # without a warning: the file says that its rows are in no order
    assert not again.ordered
    record = json.loads(again.metadata["subset"])
    assert record == part.metadata["subset"]
    assert (record["kind"], record["seed"], record["row_count"], record["of"]["kind"]) == ("transitions", 5, 9, "first")


def test_loading_a_subset(tmp_path: Path) -> None:
    columns = walk_columns()
    columns["timeouts"][-1] = True
    path = write(tmp_path / "set.hdf5", columns)
    assert len(load_dataset(path, subset=Subset("first", 0.5))) == 150


@pytest.mark.parametrize(
    ("text", "subset"),
    [
        ("first:100", Subset("first", 100)),
        ("trajectories:0.1", Subset("trajectories", 0.1)),
        ("top:1.0", Subset("top", 1.0)),
        ("transitions:1", Subset("transitions", 1)),
    ],
)
def test_subsets_as_words(text: str, subset: Subset) -> None:
    assert Subset.parse(text) == subset


@pytest.mark.parametrize(
    "text", ["", "first", "first:", "first:x", "last:5", "first:0", "first:-1", "top:1.5", "top:0.0"]
)
def test_words_that_are_no_subset(text: str) -> None:
    with pytest.raises(ValueError, match=r"subset is|must be"):
        Subset.parse(text)


@pytest.mark.parametrize(
    ("kind", "amount", "things"),
    [("first", 31, "rows"), ("trajectories", 6, "trajectories"), ("transitions", 31, "transitions")],
)
def test_more_than_there_is(kind: str, amount: int, things: str) -> None:
    with pytest.raises(DatasetError, match=f"{amount} {things} were asked for"):
        Subset(kind, amount).take(episodes())  # type: ignore[arg-type]
