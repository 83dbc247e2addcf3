"""Feeding a device: the batches of the source, in order, drawn ahead; on a GPU too where there is one."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import trajmill as tm

torch = pytest.importorskip("torch")
from gpu import DEVICES, NEEDS_GPU  # noqa: E402


def source(seed: int = 0, count: int = 1000) -> tm.TrajectoryBuffer:
    rng = np.random.default_rng(1)
    return tm.TrajectoryBuffer(
        observation=rng.normal(size=(count, 3)).astype(np.float32),
        action=rng.normal(size=(count, 2)).astype(np.float32),
        reward=rng.normal(size=count).astype(np.float32),
        terminal=np.arange(count) % 50 == 49,
        truncated=np.zeros(count, bool),
        context_length=5,
        columns=("observation", "action", "terminal"),
        seed=seed,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("ahead", "threads"), [(2, 1), (5, 2)])
def test_a_feed_gives_the_batches_of_its_source_in_order(device: str, ahead: int, threads: int) -> None:
    direct = source()
    with tm.feed(source(), device, batch_size=33, ahead=ahead, threads=threads) as feed:
        for _ in range(40):
            batch, expected = next(feed), direct.sample(33)
            assert list(batch) == list(expected)
            for name, array in expected.items():
                assert batch[name].device.type == device
                assert batch[name].dtype == torch.from_numpy(array).dtype
                assert batch[name].shape == array.shape
                assert torch.equal(batch[name].cpu(), torch.from_numpy(array)), name


def test_batches_are_drawn_while_the_caller_is_busy_and_no_further_than_asked() -> None:
    buffer = source()
    with tm.feed(buffer, "cpu", batch_size=7, ahead=3) as feed:
        next(feed)
        deadline = time.monotonic() + 10
        while buffer.draw_count < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert buffer.draw_count == 3


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_on_a_gpu_batches_outlive_the_ring(device: str) -> None:
    direct = source()
    with tm.feed(source(), device, batch_size=64, ahead=2) as feed:
        kept = [next(feed) for _ in range(20)]
    for batch in kept:
        assert np.array_equal(batch["observation"].cpu().numpy(), direct.sample(64)["observation"])


def test_a_closed_feed_says_so_and_leaves_no_thread() -> None:
    before = set(os.listdir("/proc/self/task"))  # noqa: PTH208
    feed = tm.feed(source(), "cpu", batch_size=7)
    next(feed)
    (own,) = set(os.listdir("/proc/self/task")) - before  # noqa: PTH208
    feed.close()
    feed.close()
    end = time.monotonic() + 60
    while Path(f"/proc/self/task/{own}").exists():  # it has ended; the system takes it away a moment later
        assert time.monotonic() < end
        time.sleep(0.001)
    with pytest.raises(ValueError, match=r"this feed is closed; open a new one with tm\.feed"):
        next(feed)


@pytest.mark.parametrize("device", DEVICES)
def test_closing_gives_back_what_was_not_handed_out(device: str) -> None:
    """Also by a mixture, its sources and its shares; a feed in pieces gives what an unbroken run of draws gives."""

    def mixture() -> tm.MixedReplay:
        return tm.MixedReplay({"one": (source(1), 1), "two": (source(2), 2)})

    direct, fed = mixture(), mixture()
    for batches in (1, 5, 2, 9):
        with tm.feed(fed, device, batch_size=7, ahead=4) as feed:
            for _ in range(batches):
                batch, expected = next(feed), direct.sample(7)
                for name, array in expected.items():
                    assert torch.equal(batch[name].cpu(), torch.from_numpy(array)), name
        assert fed.state_dict() == direct.state_dict()


def test_what_a_source_raises_comes_out_of_the_feed_after_the_batches_before() -> None:
    calls = []

    def failing(batch_size: int) -> dict[str, np.ndarray]:
        calls.append(batch_size)
        if len(calls) == 3:
            raise RuntimeError("the generator is dry")
        return source().sample(batch_size)

    mixed = tm.MixedReplay({"buffer": (source(), 0), "function": (failing, 1)})
    with tm.feed(mixed, "cpu", batch_size=5, ahead=4) as feed:
        next(feed)
        next(feed)
        with pytest.raises(RuntimeError, match="the generator is dry"):
            next(feed)
        with pytest.raises(RuntimeError, match="the source failed before; open a new feed"):
            next(feed)


@pytest.mark.unsanitized
def test_a_dropped_feed_leaves_no_thread_and_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def use() -> None:
        feed = tm.feed(source(), "cpu", batch_size=4096)
        for _ in range(3):
            next(feed)

    use()
    gc.collect()
    threads, memory = threading.active_count(), resident()
    for _ in range(100):
        use()
    gc.collect()
    assert threading.active_count() == threads
    # the allocator keeps up to 9 MB for threads that come and go, however many; a ring that stays is 100 times its size
    assert resident() < memory + 2**24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be between .*, got 0"),
        ({"ahead": 1}, "ahead must be between .*, got 1"),
        ({"threads": 0}, "threads must be between .*, got 0"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tm.feed(source(), "cpu", **({"batch_size": 4} | change))


def test_functions_are_fed_through_a_mixture() -> None:
    with pytest.raises(TypeError, match=r"a feed needs a compiled source, .* put it into a tm\.MixedReplay"):
        tm.feed(source().sample, "cpu", batch_size=4)


@pytest.mark.parametrize("device", ["meta", "mps"])
def test_devices_that_cannot_be_fed_are_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"a feed needs a device 'cpu' or 'cuda', got '{device}'"):
        tm.feed(source(), device, batch_size=4)


def test_a_feed_may_outlive_the_rows_of_its_source() -> None:
    def open_feed() -> tm.Feed:
        buffer = tm.ReplayBuffer(4, {"reward": "f4"})
        buffer.add(reward=[1.0, 2.0])
        feed = tm.feed(buffer, "cpu", batch_size=2, ahead=2)
        next(feed)
        while buffer.draw_count < 2:
            time.sleep(0.001)
        buffer.close()
        return feed

    feed = open_feed()
    with pytest.raises(ValueError, match="the buffer is closed"):
        feed.close()
    feed.close()
    feed = open_feed()
    del feed
    gc.collect()


def test_importing_the_buffers_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, trajmill as tm; tm.TrajectoryBuffer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("device", ["nowhere", "", "cuda:x", "cuda:99"])
def test_devices_that_are_not_here_are_refused(device: str) -> None:
    buffer = tm.ReplayBuffer(4, {"x": "f4"})
    buffer.add(x=[1.0])
    with pytest.raises(ValueError, match="device"):
        tm.feed(buffer, device, batch_size=1)
    with pytest.raises(ValueError, match="device"):
        buffer.to(device)
    assert buffer.draw_count == 0
