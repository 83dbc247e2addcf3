"""The core use in one page: dataset to buffer to mixture to batches, and back to a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import trajmill as tm
from trajmill.data import qlearning_transitions

HOPPER = "hopper-sac-replay-10k"


def test_a_dataset_becomes_a_buffer_and_a_dataset_again(tmp_path: Path) -> None:
    dataset = tm.load_dataset(HOPPER)
    buffer = tm.ReplayBuffer.from_dataset(dataset, seed=3)
    transitions = qlearning_transitions(dataset)
    np.testing.assert_array_equal(buffer.rows(slice(None))["observation"], transitions.observation)
    for name in ("again.hdf5", "again.npz"):
        tm.write_dataset(tmp_path / name, buffer.to_dataset())
        again = tm.load_dataset(str(tmp_path / name))
        for column in ("observations", "actions", "rewards", "terminals", "next_observations"):
            np.testing.assert_array_equal(getattr(again, column), getattr(dataset, column), err_msg=column)
    np.testing.assert_array_equal(buffer.to_dataset().timeouts, dataset.timeouts)
    with pytest.raises(ValueError, match="ending names no format"):
        tm.write_dataset(tmp_path / "again.txt", dataset)
    with pytest.raises(ValueError, match="exists"):
        tm.write_dataset(tmp_path / "again.npz", dataset)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[3] / "docs/replay.md"
    if not page.exists():
        pytest.skip("the package is tested without its documentation")
    _, shown, *_ = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(shown, names := {"tm": tm})
    assert float(names["loss"]) > 0 and len(tm.load_dataset("copy.hdf5")) == len(names["dataset"])


def test_what_is_no_dataset_says_so() -> None:
    buffer = tm.ReplayBuffer(4, {"observation": (3, "f4"), "reward": "f4"})
    with pytest.raises(ValueError, match="the buffer lacks action, next_observation, terminal"):
        buffer.to_dataset()
    columns = {"observation": (3, "f4"), "action": (1, "f4"), "reward": "f4", "next_observation": (3, "f4")}
    several = tm.ReplayBuffer(4, columns | {"terminal": "?"}, environment_count=2)
    with pytest.raises(ValueError, match="rows of several environments"):
        several.to_dataset()


def test_batches_are_those_of_sample_as_arrays_and_as_tensors() -> None:
    dataset = tm.load_dataset(HOPPER)

    def sources() -> list[tm.ReplayBuffer | tm.MixedReplay]:
        real = tm.ReplayBuffer.from_dataset(dataset, seed=1)
        made = tm.ReplayBuffer.from_dataset(dataset, seed=2)
        return [
            tm.ReplayBuffer.from_dataset(dataset, seed=1),
            tm.MixedReplay({"real": (real, 0.5), "made": (made, 0.5)}),
        ]

    for ours, theirs in zip(sources(), sources(), strict=True):
        wanted = [theirs.sample(64) for _ in range(3)]
        first = list(ours.batches(64, count=2))
        third = next(ours.batches(64, device="cpu"))
        assert len(first) == 2 and isinstance(third["reward"], torch.Tensor)
        for batch, expected in zip([*first, third], wanted, strict=True):
            for name, values in expected.items():
                np.testing.assert_array_equal(np.asarray(batch[name]), values)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        tm.ReplayBuffer.from_dataset(dataset).batches(0)
