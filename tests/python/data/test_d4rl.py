from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import ROW_COUNT, valid_columns, walk_columns, write
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trajmill.data import Dataset, DatasetError, DatasetWarning, qlearning_transitions, read_d4rl, split_episodes

Columns = dict[str, NDArray[Any]]


def toy(terminals: list[int], timeouts: list[int], *, stored: bool = True) -> Dataset:
    """Rows whose observation is their number; the stored next observation is the next number, at an end a half more."""
    count = len(terminals)
    rows = np.arange(count, dtype=np.float32)[:, None]
    ends = np.array(terminals, np.bool_) | np.array(timeouts, np.bool_)
    return Dataset(
        name="toy",
        path=Path("toy.hdf5"),
        observations=rows,
        actions=rows / count,
        rewards=rows[:, 0] * 2,
        terminals=np.array(terminals, np.bool_),
        timeouts=np.array(timeouts, np.bool_),
        next_observations=rows + np.where(ends[:, None], 0.5, 1.0).astype(np.float32) if stored else None,
    )


def qlearning_reference(dataset: Dataset) -> list[tuple[float, float, float, float, bool]]:
    """D4RL's `qlearning_dataset`, row by row: the slow twin."""
    rows = []
    for i in range(len(dataset) - 1):
        if dataset.timeouts[i]:
            continue
        rows.append(
            (
                float(dataset.observations[i, 0]),
                float(dataset.actions[i, 0]),
                float(dataset.rewards[i]),
                float(dataset.observations[i + 1, 0]),
                bool(dataset.terminals[i]),
            )
        )
    return rows


def test_a_valid_file_is_read_without_a_warning(tmp_path: Path) -> None:
    columns = valid_columns()
    qpos = np.arange(ROW_COUNT * 3, dtype=np.float64).reshape(ROW_COUNT, 3)
    path = write(
        tmp_path / "toy-v2.hdf5",
        columns | {"infos/qpos": qpos, "metadata/algorithm": np.array(b"SAC"), "metadata/policy/fc0/weight": qpos},
        environment="Pendulum-v1",
        margin_fix=np.True_,
    )
    dataset = read_d4rl(path)
    for name, values in columns.items():
        read = getattr(dataset, name)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)
    assert dataset.name == "toy-v2"
    assert dataset.metadata == {"algorithm": "SAC", "environment": "Pendulum-v1", "margin_fix": True}
    assert list(dataset.infos) == ["qpos"]
    np.testing.assert_array_equal(dataset.infos["qpos"], qpos)
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (ROW_COUNT, 4, 2)


# --- refused ---


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_d4rl(tmp_path / "absent.hdf5")
    with pytest.raises(DatasetError, match="not a regular file"):
        read_d4rl(tmp_path)


def test_a_user_block_before_the_signature_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in valid_columns().items():
            file[name] = values
    assert len(read_d4rl(path)) == ROW_COUNT


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "set.hdf5", valid_columns())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'trajmill\[data\]'"):
        read_d4rl(path)


# --- repaired or warned about ---


def read_with_one_warning(path: Path, expected: str) -> Dataset:
    with pytest.warns(DatasetWarning, match=expected) as caught:
        dataset = read_d4rl(path)
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    return dataset


def test_byte_order_becomes_native_without_a_warning(tmp_path: Path) -> None:
    columns = valid_columns()
    infos = np.arange(ROW_COUNT, dtype=">f8")
    stored = columns | {"rewards": columns["rewards"].astype(">f4"), "infos/qpos": infos}
    dataset = read_d4rl(write(tmp_path / "set.hdf5", stored))
    assert dataset.rewards.dtype.isnative
    assert dataset.infos["qpos"].dtype.isnative
    np.testing.assert_array_equal(dataset.rewards, columns["rewards"])
    np.testing.assert_array_equal(dataset.infos["qpos"], infos)


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_flags_of_any_type_become_bool_silently(tmp_path: Path, dtype: str) -> None:
    columns = valid_columns()
    stored = columns | {"terminals": columns["terminals"].astype(dtype)}
    np.testing.assert_array_equal(read_d4rl(write(tmp_path / "set.hdf5", stored)).terminals, columns["terminals"])


def test_missing_timeouts_are_inferred_from_the_limit(tmp_path: Path) -> None:
    columns = walk_columns(4001)
    columns["terminals"][:] = False
    columns["terminals"][[499, 2499, 4000]] = True  # ends after 500, 1000 + 1000 (at the limit itself), 1000 + 501
    del columns["next_observations"], columns["timeouts"]
    path = write(tmp_path / "hopper-mine.hdf5", columns)
    dataset = read_with_one_warning(path, "no key 'timeouts'")
    assert dataset.timeouts.nonzero()[0].tolist() == [1499, 3499]
    assert [len(episode) for episode in split_episodes(dataset)] == [500, 1000, 1000, 1000, 501]


def test_missing_timeouts_are_seen_in_the_next_observations(tmp_path: Path) -> None:
    columns = walk_columns()
    del columns["timeouts"]
    path = write(tmp_path / "set.hdf5", columns)
    with pytest.warns(DatasetWarning) as told:
        dataset = read_d4rl(path)
    assert "no key 'timeouts'; the stored next observation is not the next row's" in str(told[0].message)
    assert "in 1 rows inside episodes, first in row 200: marked as timeouts" in str(told[0].message)
    assert dataset.timeouts.nonzero()[0].tolist() == [200]


def test_next_observations_of_another_mdp_are_warned_about(tmp_path: Path) -> None:
    columns = valid_columns()
    columns["next_observations"] += 0.5
    path = write(tmp_path / "set.hdf5", columns)
    read_with_one_warning(path, r"first in row 0, and in none it is: they describe two different tasks")
    columns["next_observations"][:-1] = columns["observations"][1:]
    columns["next_observations"][[8, 9]] += 1e-6
    with pytest.raises(DatasetError, match="in 2 rows inside episodes, first in row 8: 'timeouts' leaves ends"):
        read_d4rl(write(tmp_path / "other.hdf5", columns))


# --- D4RL's two rules ---


def test_the_toy_file_of_d4rl() -> None:
    """Limits in row 2, a terminal in row 4: transitions 0, 1, 3, 4; episodes of 3 and 2 rows, tail dropped."""
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0])
    transitions = qlearning_transitions(dataset, "d4rl")
    assert transitions.observation[:, 0].tolist() == [0, 1, 3, 4]
    assert transitions.next_observation[:, 0].tolist() == [1, 2, 4, 5]
    assert transitions.terminal.tolist() == [False, False, False, True]
    assert transitions.truncated.tolist() == [False, True, False, False], "what followed row 1 was dropped"
    episodes = split_episodes(dataset)
    assert [(episode.start, len(episode), episode.terminal) for episode in episodes] == [(0, 3, False), (3, 2, True)]
    assert [episode.undiscounted_return for episode in episodes] == [6.0, 14.0]


def test_stored_next_observations_keep_every_row() -> None:
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0])
    transitions = qlearning_transitions(dataset)
    assert transitions.observation[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert transitions.next_observation[:, 0].tolist() == [1, 2, 2.5, 4, 4.5, 6]
    assert transitions.terminal.nonzero()[0].tolist() == [4]
    assert transitions.truncated.nonzero()[0].tolist() == [2]


def test_without_stored_next_observations_the_rule_is_d4rls() -> None:
    dataset = toy([0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0], stored=False)
    assert qlearning_transitions(dataset, "stored").observation[:, 0].tolist() == [0, 1, 3, 4]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'stored'.*'d4rl', got 'other'"):
        qlearning_transitions(toy([0, 1], [0, 0]), "other")  # type: ignore[arg-type]


def test_without_a_finished_episode_there_is_nothing_to_split() -> None:
    with pytest.raises(DatasetError, match="no row ends an episode"):
        split_episodes(toy([0, 0], [0, 0]))


@given(st.lists(st.sampled_from(["", "terminal", "timeout"]), min_size=2, max_size=60))
def test_rules_equal_their_slow_twins(ends: list[str]) -> None:
    dataset = toy([end == "terminal" for end in ends], [end == "timeout" for end in ends])
    transitions = qlearning_transitions(dataset, "d4rl")
    columns = (
        transitions.observation[:, 0],
        transitions.action[:, 0],
        transitions.reward,
        transitions.next_observation[:, 0],
        transitions.terminal,
    )
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == qlearning_reference(dataset)
    assert len(transitions) == len(ends) - 1 - ends[:-1].count("timeout")
    if any(ends):
        episodes = split_episodes(dataset)
        assert [ends[episode.start + len(episode) - 1] for episode in episodes] == [end for end in ends if end]
        kept = np.concatenate([episode.observation[:, 0] for episode in episodes])
        assert kept.tolist() == list(range(len(kept)))
        assert not any(ends[len(kept) :])


def test_a_million_rows_take_no_loop() -> None:
    """D4RL's own takes 5.6 s for them; here Python makes no more steps than for a few rows."""

    def steps(count: int) -> int:
        made = 0

        def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
            nonlocal made
            frame.f_trace_opcodes = True
            made += event == "opcode"
            return trace

        dataset = toy([0] * count, [0] * count)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            transitions = qlearning_transitions(dataset, "d4rl")
        finally:
            sys.settrace(before)
        assert len(transitions) == count - 1
        return made

    few = steps(100)
    assert few > 50
    assert steps(1_000_000) == few
