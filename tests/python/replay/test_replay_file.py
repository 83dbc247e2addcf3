"""Replay buffers in files: copies, storage, what is refused, and what a crash parameters behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_driver import BATCH, CAPACITY, open_buffer
from replay_rows import SCHEMA, assert_equal, rows

import trajmill as tm
from trajmill.replay.replay_file import ReplayFileError

EVERYTHING: dict[str, Any] = {
    "seed": 9,
    "shared": {"next_observation": "observation"},
    "n_step": 3,
    "discount": 0.9,
    "prioritized": True,
    "alpha": 0.7,
    "beta": 0.8,
}


def used_buffer(**options: Any) -> tm.ReplayBuffer:
    """Overwritten once, drawn from, with priorities."""
    buffer = tm.ReplayBuffer(500, SCHEMA, **options)
    for begin in range(0, 800, 100):
        buffer.add(**rows(begin, 100))
    buffer.sample(10)
    if options.get("prioritized"):
        buffer.update_priorities(np.arange(500), np.arange(500) / 7)
    return buffer


def rewritten(path: Path, change: Any) -> None:
    """Change the header's fields, and make it whole again."""
    data = path.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    fields = json.loads(data[24 : 24 + length])
    change(fields)
    text = json.dumps(fields).encode()
    header = data[:8] + len(text).to_bytes(8, "little") + zlib.crc32(text).to_bytes(8, "little") + text
    path.write_bytes(header.ljust(4096, b"\0") + data[4096:])


@pytest.mark.parametrize("options", [{}, EVERYTHING, {"environment_count": 5}])
def test_a_copy_makes_the_same_draws(tmp_path: Path, options: dict[str, Any]) -> None:
    buffer = used_buffer(**options)
    buffer.save(tmp_path / "copy")
    copies = [tm.ReplayBuffer.load(tmp_path / "copy")]
    copies[0].save(tmp_path / "copy")  # over the first
    copies[0].save(tmp_path / "again")
    copies += [tm.ReplayBuffer.load(tmp_path / "again"), tm.ReplayBuffer.load(str(tmp_path / "copy"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "copy"]
    for step in range(3):
        wanted = buffer.sample(200)
        for copy in copies:
            assert_equal(copy.sample(200), wanted)
        for each in (buffer, *copies):
            each.add(**rows(800 + 50 * step, 50))
            if options.get("prioritized"):
                each.update_priorities(wanted["indexes"], wanted["weights"])


def test_a_small_buffer_of_large_capacity_is_a_small_file(tmp_path: Path) -> None:
    buffer = tm.ReplayBuffer(10**9, SCHEMA, prioritized=False, shared={"next_observation": "observation"})
    buffer.add(**rows(0, 100))
    buffer.save(tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size < 40_000
    assert_equal(tm.ReplayBuffer.load(tmp_path / "copy")[:], rows(0, 100))


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "copy"
    used_buffer(**EVERYTHING).save(path)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    header = int.from_bytes(data[8:16], "little") + 24
    bits = [*range(0, 8 * header, 61), *random.integers(8 * 4096, 8 * len(data), 100).tolist()]
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ReplayFileError, match=r"damaged|is not a replay buffer"):
            tm.ReplayBuffer.load(path)
    for size in (0, 5, 24, 100, 4096, 5000, len(data) - 1, len(data) + 1):
        path.write_bytes((data + b"x")[:size])
        with pytest.raises(ReplayFileError):
            tm.ReplayBuffer.load(path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda fields: fields.update(version=4), "has format version 4, this trajmill reads up to 3"),
        (lambda fields: fields["extents"].pop(1), "is cut short or was added to"),
        (lambda fields: fields["extents"][0].__setitem__(0, 4096), "its extents are not those of its settings"),
        (
            lambda fields: fields["settings"].update(capacity=600),
            "its extents are not those|does not hold a replay buffer",
        ),
        (lambda fields: fields["settings"].update(capacity=10), "its extents are not those of its settings"),
        (lambda fields: fields["settings"].update(capacity="many"), "its settings make no buffer: capacity must be"),
        (lambda fields: fields["settings"].pop("columns"), "its settings make no buffer"),
        (lambda fields: fields["settings"].update(color="red"), "its settings make no buffer"),
        (lambda fields: fields.pop("settings"), "its header lacks"),
        (lambda fields: fields.update(extents=[[0, "x"]]), "its header lacks"),
    ],
)
def test_a_header_that_lies(tmp_path: Path, change: Any, error: str) -> None:
    path = tmp_path / "copy"
    used_buffer().save(path)
    rewritten(path, change)
    with pytest.raises(ReplayFileError, match=error):
        tm.ReplayBuffer.load(path)


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    with pytest.raises(ReplayFileError, match=r"file.npz is not a replay buffer of trajmill"):
        tm.ReplayBuffer.load(path.with_suffix(".npz"))
    with pytest.raises(FileNotFoundError):
        tm.ReplayBuffer.load(path)
    used_buffer().save(path)
    with pytest.raises(ReplayFileError, match=r"is a copy that save\(\) wrote; read it with ReplayBuffer.load"):
        tm.ReplayBuffer(500, SCHEMA, path=path)
    tm.ReplayBuffer(500, SCHEMA, path=tmp_path / "storage").close()
    with pytest.raises(ReplayFileError, match="is the storage of a buffer; open it with ReplayBuffer"):
        tm.ReplayBuffer.load(tmp_path / "storage")


def test_a_failed_save_leaves_the_old_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "copy"
    buffer = used_buffer()
    buffer.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        buffer.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["copy"]
    buffer.add(**rows(0, 1))  # the lock is free


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_storage_is_there_again_and_draws_as_memory_does(tmp_path: Path, options: dict[str, Any]) -> None:
    in_memory = used_buffer(**options)
    path = tmp_path / "storage"
    with used_buffer(**options, path=path) as stored:
        stored.flush()
        assert_equal(stored.sample(300), in_memory.sample(300))
        with pytest.raises(ReplayFileError, match="is in use by another buffer"):
            tm.ReplayBuffer(500, SCHEMA, path=path, **options)
    for step in range(3):
        with tm.ReplayBuffer(500, SCHEMA, path=path, **options) as stored:
            assert (len(stored), stored.row_count) == (500, in_memory.row_count)
            assert_equal(stored.sample(300), in_memory.sample(300))
            for buffer in (stored, in_memory):
                buffer.add(**rows(900 + 90 * step, 90))
    with tm.ReplayBuffer(500, SCHEMA, path=path, **options) as stored:
        stored.save(tmp_path / "copy")
    assert_equal(tm.ReplayBuffer.load(tmp_path / "copy").sample(50), in_memory.sample(50))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"capacity": 400}, "capacity=500, asked for 400"),
        ({"seed": 1}, "seed=0, asked for 1"),
        ({"schema": SCHEMA | {"reward": "f8"}}, "columns=.*f4.*asked for .*f8"),
        ({"schema": dict(reversed(SCHEMA.items()))}, "columns="),
        ({"prioritized": True}, "alpha=None, asked for 0.6"),
        ({"shared": {"next_observation": "observation"}}, "shared=.* asked for .*next_observation"),
    ],
)
def test_storage_of_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    path = tmp_path / "storage"
    used_buffer(path=path).close()
    with pytest.raises(ReplayFileError, match=f"{path} holds a buffer with {error}"):
        tm.ReplayBuffer(**{"capacity": 500, "schema": SCHEMA, "path": path} | changes)
    tm.ReplayBuffer(500, SCHEMA, path=path).close()  # still whole, and free


def test_storage_with_an_impossible_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    used_buffer(path=path, shared={"next_observation": "observation"}).close()
    whole = path.read_bytes()
    data = bytearray(whole)
    data[4096:4104] = (5).to_bytes(8, "little")  # the oldest row's number
    path.write_bytes(data)
    with pytest.raises(ValueError, match="does not hold a replay buffer of these settings") as refusal:
        tm.ReplayBuffer(500, SCHEMA, path=path, shared={"next_observation": "observation"})
    path.write_bytes(whole)
    tm.ReplayBuffer(500, SCHEMA, path=path, shared={"next_observation": "observation"}).close()
    assert refusal.tb is not None  # what it refers to had no hold on the file
    path.write_bytes(data[:-1])
    with pytest.raises(ReplayFileError, match="is cut short"):
        tm.ReplayBuffer(500, SCHEMA, path=path, shared={"next_observation": "observation"})


EVERYWHERE: list[dict[str, Any]] = [
    {},
    EVERYTHING,
    {"environment_count": 5, "n_step": 2, "shared": {"next_observation": "observation"}},
    {"prioritized": True, "schema": {"image": ((7, 5), "u1"), "reward": "f8"}},
]


def small_storage(path: Path, capacity: int = 30, **options: Any) -> tm.ReplayBuffer:
    return tm.ReplayBuffer(capacity, options.pop("schema", SCHEMA), path=path, **options)


def fill(buffer: tm.ReplayBuffer, count: int, **options: Any) -> None:
    """Rows of a few calls, with priorities and, if there are several environments, of some of them."""
    names = {name for name, _, _ in buffer.batch_columns} & SCHEMA.keys()
    for first in range(0, count, 3):
        columns = {name: values for name, values in rows(first, 3).items() if name in names}
        if "image" in options.get("schema", {}):
            columns["image"] = np.arange(first, first + 105, dtype="u1").reshape(3, 7, 5)
        given = {"environments": [4, 1, 0]} if "environment_count" in options else {}
        buffer.add(**columns, **given)
        if options.get("prioritized"):
            buffer.update_priorities([0, 1, 0], [first, 2.5, first + 0.125])


def contents(buffer: tm.ReplayBuffer) -> list[Any]:
    slots = buffer._slots()
    batches = [buffer[slots], buffer.rows(slots), buffer.sample(50)]
    return [[values.tobytes() for values in batch.values()] for batch in batches] + [slots.tolist(), buffer.draw_count]


@pytest.mark.filterwarnings("ignore:n_step")
@pytest.mark.parametrize("count", [12, 45])
@pytest.mark.parametrize("options", EVERYWHERE)
def test_every_flipped_bit_of_storage_is_noticed_or_nothing_depends_on_it(
    tmp_path: Path, options: dict[str, Any], count: int
) -> None:
    path = tmp_path / "storage"
    with small_storage(path, **options) as buffer:
        fill(buffer, count, **options)
        parts, used = buffer._parts, buffer._used_extents()
    whole = path.read_bytes()
    with small_storage(path, **options) as buffer:
        wanted = contents(buffer)
    random = np.random.default_rng(count)
    header = 4096
    places = [*range(0, 120)]  # of the state
    for begin, size in [*used[1:], (parts[-1], 8 * min(count, 30))]:
        places += range(begin, begin + size, max(1, size // 60))
    noticed = 0
    for place in places:
        changed = bytearray(whole)
        changed[header + place] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        try:
            buffer = small_storage(path, **options)
        except ReplayFileError as error:
            assert str(path) in str(error)
            noticed += 1
            continue
        with buffer:
            assert contents(buffer) == wanted, place
    assert noticed > 0.6 * len(places)


def test_the_other_rows_of_damaged_storage_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    with used_buffer(path=path) as buffer:
        wanted = buffer[:]
        buffer.verify()
        buffer._memory[buffer._parts[1] + 7 * buffer._row_stride] ^= 1
        with pytest.raises(
            ReplayFileError, match=r"damaged: 1 of 500 rows are not what was added, in slots 7; restore"
        ):
            buffer.verify()
    with pytest.raises(ReplayFileError, match=r"in slots 7; .* or open it with verify=False"):
        tm.ReplayBuffer(500, SCHEMA, path=path)
    with tm.ReplayBuffer(500, SCHEMA, path=path, verify=False) as buffer:
        others = np.delete(np.arange(500), 7)
        assert_equal(buffer[others], {name: values[others] for name, values in wanted.items()})
        buffer.add(**rows(800, 210))  # over the damaged one
        buffer.verify()
    with pytest.raises(ValueError, match="only rows in a file"):
        tm.ReplayBuffer(5, SCHEMA).verify()
    with pytest.raises(ValueError, match="the buffer is closed"):
        buffer.verify()


@pytest.mark.parametrize("kill_count", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_a_killed_process_leaves_whole_rows(tmp_path: Path, kill_count: int) -> None:
    path = str(tmp_path / "storage")
    random = np.random.default_rng(0)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(kill_count):
        process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "crash_driver.py", path],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        printed = process.stdout.readline()
        time.sleep(random.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.read()
        process.wait()
        process.stdout.close()
        done = int(printed.split("\n")[-2])
        with open_buffer(path) as buffer:
            count = buffer.row_count
            assert count in (done, done + BATCH)
            assert len(buffer) in (min(count, CAPACITY), min(count, CAPACITY - BATCH))
            first = count - len(buffer)
            slots = np.arange(first, count) % CAPACITY
            assert_equal(buffer[slots], rows(first, len(buffer)))
            batch = buffer.sample(512)
            numbers = batch["reward"].astype(int)
            assert ((first <= numbers) & (numbers < count)).all()
            assert buffer.largest_priority <= count


def test_storage_leaves_no_descriptors_behind(tmp_path: Path) -> None:
    def open_files() -> int:
        gc.collect()  # what earlier tests have left to be collected
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    path = tmp_path / "storage"
    before = open_files()
    for _ in range(100):
        used_buffer(path=path).close()
        path.unlink()
    with pytest.raises(ReplayFileError):
        used_buffer().save(path)
        tm.ReplayBuffer(500, SCHEMA, path=path)
    assert open_files() == before


def test_draws_go_on_while_a_copy_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = used_buffer()
    drawn_before, pwrite = buffer.draw_count, os.pwrite

    def slow_pwrite(*arguments: Any) -> int:
        time.sleep(0.01)  # until the piece is in the checksum
        buffer.sample(1)
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", slow_pwrite)
    buffer.save(tmp_path / "copy")
    assert buffer.draw_count > drawn_before
    copy = tm.ReplayBuffer.load(tmp_path / "copy")
    assert copy.draw_count == drawn_before
    assert_equal(copy[:], buffer[:])


def test_settings_may_be_numpy_numbers(tmp_path: Path) -> None:
    used_buffer(discount=np.float32(0.5), prioritized=True, alpha=np.float32(0.25)).save(tmp_path / "copy")
    assert len(tm.ReplayBuffer.load(tmp_path / "copy")) == 500


def test_a_copy_does_not_take_the_place_of_the_storage(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    with used_buffer(path=path) as stored:
        (tmp_path / "link").symlink_to(path)
        for name in ("storage", "link"):
            with pytest.raises(ValueError, match=f"{name} is where this buffer works; save to another path, or flush"):
                stored.save(tmp_path / name)
        stored.save(tmp_path / "copy")
    tm.ReplayBuffer(500, SCHEMA, path=path).close()


def test_a_dropped_buffer_leaves_its_storage_free(tmp_path: Path) -> None:
    path = tmp_path / "storage"
    used_buffer(path=path)
    gc.collect()
    with tm.ReplayBuffer(500, SCHEMA, path=path) as stored:
        assert len(stored) == 500


def test_a_forked_child_does_not_unlock_storage(tmp_path: Path) -> None:
    script = """
import os, sys
import trajmill as tm
buffer = tm.ReplayBuffer(4, {"reward": "f4"}, path=sys.argv[1])
if (child := os.fork()) == 0:
    buffer.close()
    os._exit(0)
os.waitpid(child, 0)
try:
    tm.ReplayBuffer(4, {"reward": "f4"}, path=sys.argv[1])
except ValueError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "storage")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "is in use by another buffer" in done.stdout


def test_storage_that_finds_no_room_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        tm.ReplayBuffer(500, SCHEMA, path=tmp_path / "storage")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_saving_and_loading_take_no_memory_of_their_own(tmp_path: Path) -> None:
    """Less than 5 % of a buffer of 768 MB, by the peak that the system counts for a process of their own."""
    code = """
import resource, sys, numpy as np, trajmill as tm
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
path, count = sys.argv[1], 4_000_000
if sys.argv[2] == "save":
    buffer = tm.ReplayBuffer(count, {"row": ((48,), "f4")})
    for _ in range(count // 100_000):
        buffer.add(row=np.ones((100_000, 48), np.float32))
    before = peak()
    buffer.save(path)
    print(peak() - before)
else:
    import xxhash, trajmill.corpus
    small = tm.ReplayBuffer(1, {"row": ((48,), "f4")})
    before = peak()
    buffer = tm.ReplayBuffer.load(path)
    assert len(buffer) == count
    print(peak() - before - 192 * count)
"""
    for verb in ("save", "load"):
        command = [sys.executable, "-c", code, str(tmp_path / "copy"), verb]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 0.05 * 192 * 4_000_000, verb


def test_two_programs_that_make_the_same_storage_at_once_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one finds the file there when it wants to put its own in place, and the lock taken."""
    path, link = tmp_path / "storage", os.link
    first = []

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        first.append(used_buffer(path=path))
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ReplayFileError, match="is in use by another buffer"):
        used_buffer(path=path)
    first[0].close()
    assert [each.name for each in tmp_path.iterdir()] == ["storage"]
    assert len(tm.ReplayBuffer(500, SCHEMA, path=path)) == 500


@pytest.mark.filterwarnings("ignore:n_step")
@pytest.mark.parametrize("environments", [1, 5])
@pytest.mark.parametrize("version", [1, 2])
def test_copies_of_earlier_versions_are_read(tmp_path: Path, version: int, environments: int) -> None:
    xxhash = pytest.importorskip("xxhash")
    buffer = used_buffer(environment_count=environments, n_step=1 if version == 1 else 3)
    buffer.save(tmp_path / "copy")
    data = bytearray((tmp_path / "copy").read_bytes())
    if environments > 1:
        del data[-4096:]  # whose the rows are
    if version == 1:
        data[4096:8192] = struct.pack("<QQQd", 300, 800, 1, 0.0).ljust(4096, b"\0")
    (tmp_path / "copy").write_bytes(data)

    def change(fields: dict[str, Any]) -> None:
        if version == 1:
            del fields["settings"]["following"]
        fields["extents"].pop()
        fields["version"], fields["checksum"] = version, xxhash.xxh3_128(data[4096:]).hexdigest()

    rewritten(tmp_path / "copy", change)
    copy = tm.ReplayBuffer.load(tmp_path / "copy")
    for step in range(3):
        assert_equal(copy.sample(100), buffer.sample(100))
        for each in (copy, buffer):
            each.add(**rows(1000 + 3 * step, 3), environments=[environments - 1, 0, 0])


@pytest.mark.parametrize("version", [1, 2])
def test_storage_of_earlier_versions_is_refused_with_the_way_out(tmp_path: Path, version: int) -> None:
    used_buffer(path=tmp_path / "storage").close()
    rewritten(tmp_path / "storage", lambda fields: fields.update(version=version))
    with pytest.raises(ReplayFileError, match=rf"format version {version}, .* save\(\) a copy with that one, and load"):
        tm.ReplayBuffer(500, SCHEMA, path=tmp_path / "storage")
