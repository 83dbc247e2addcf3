"""A resident copy draws what the buffer would draw: on the CPU device here, on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

import trajmill as tm

torch = pytest.importorskip("torch")
from gpu import DEVICES  # noqa: E402

SCHEMA = {
    "observation": ((3,), "f4"),
    "image": ((2, 2), "u1"),
    "half": ((3,), "f2"),
    "reward": ((), "f8"),
    "next_observation": ((3,), "f4"),
    "terminal": ((), "?"),
    "truncated": ((), "?"),
}


def filled(count: int, *, capacity: int = 500, **options: object) -> tm.ReplayBuffer:
    rng = np.random.default_rng(0)
    following = {"next_observation": "observation"}
    buffer = tm.ReplayBuffer(capacity, SCHEMA, seed=2**63 + 5, following=following, **options)
    observations = rng.normal(size=(count + 1, 3)).astype(np.float32)
    for begin in range(0, count, capacity):
        rows = slice(begin, min(begin + capacity, count))
        size = rows.stop - rows.start
        buffer.add(
            observation=observations[rows],
            image=rng.integers(255, size=(size, 2, 2), dtype=np.uint8),
            half=rng.normal(size=(size, 3)).astype(np.float16),
            reward=rng.normal(size=size),
            next_observation=observations[rows.start + 1 : rows.stop + 1],
            terminal=rng.random(size) < 0.1,
            truncated=np.zeros(size, bool),
        )
    return buffer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [{}, {"n_step": 3, "discount": 0.9}, {"shared": {"next_observation": "observation"}}, {"environment_count": 2}],
)
@pytest.mark.parametrize("count", [1 * 2, 77 * 2, 500, 640])
def test_equal_draws(device: str, options: dict[str, object], count: int) -> None:
    buffer = filled(count, **options)
    buffer.draw_count = 2**32 - 3  # the upper half of the counter comes into play
    resident = buffer.to(device)
    assert len(resident) == len(buffer)
    for batch_size in (1, 7, 64, 64, 3, *[33] * 40):
        expected, batch = buffer.sample(batch_size), resident.sample(batch_size)
        assert list(batch) == list(expected)
        for name, array in expected.items():
            found = batch[name].cpu().numpy()
            assert found.dtype == array.dtype and found.shape == array.shape
            assert np.array_equal(found, array), name
    assert resident.draw_count == buffer.draw_count


def test_many_draws_at_once_are_the_draws_one_after_another() -> None:
    buffer = filled(300)
    resident = buffer.to("cpu")
    batches = resident.gather(resident.indexes(torch.tensor(buffer.draw_count), 5, 9))
    assert batches["image"].shape == (5, 9, 2, 2)
    for draw in range(5):
        assert np.array_equal(batches["image"][draw].numpy(), buffer.sample(9)["image"])


def test_a_copy_does_not_follow_its_buffer() -> None:
    buffer = filled(300)
    resident = buffer.to("cpu")
    before = resident.gather(torch.arange(300))["reward"].clone()
    buffer.clear()
    assert torch.equal(resident.gather(torch.arange(300))["reward"], before)


def test_what_cannot_be_copied_is_said() -> None:
    with pytest.raises(ValueError, match="a prioritised buffer cannot be copied to a device"):
        filled(10, prioritized=True).to("cpu")
    with pytest.raises(ValueError, match=r"needs 1 to 2\*\*31 - 1 transitions, got 0"):
        tm.ReplayBuffer(10, SCHEMA).to("cpu")
