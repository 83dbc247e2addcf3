"""What the machine can do at best, measured in the same turns as what is held against it.

Each function gives a call and what one call makes: words, look-ups or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core.direct_io import DirectFile, aligned_buffer, read_into

Call = Callable[[], object]
Limit = tuple[Call, float]
SEQUENCES, BLOCKS = 1024, 1024
LOOKUPS = 2**22
IO_BYTES = 2**24
"""of one write or read of a disk"""


def on_threads(stack: ExitStack, threads: int, parts: Sequence[Call]) -> Call:
    """A call that makes all parts, each on a thread; compiled parts release Python's lock."""
    if threads == 1 and len(parts) == 1:
        return parts[0]
    pool = stack.enter_context(ThreadPoolExecutor(threads))

    def work() -> None:
        for done in [pool.submit(part) for part in parts]:
            done.result()

    return work


def philox(stack: ExitStack, threads: int = 1) -> Limit:
    """32-bit words of Philox4x32-10 by the instruction set in use, kept in registers."""
    parts = [partial(_core.philox_checksum, key, SEQUENCES, BLOCKS) for key in range(threads)]
    return on_threads(stack, threads, parts), 4.0 * SEQUENCES * BLOCKS * threads


def lookups(byte_count: int) -> Limit:
    """Look-ups of 32-bit words in a table of this size, at places that depend on nothing, on one thread."""
    table = np.random.default_rng(0).integers(2**32, size=max(1, byte_count // 4), dtype=np.uint32)
    return partial(_core.lookup_checksum, table, LOOKUPS), float(LOOKUPS)


def memory_writes(stack: ExitStack, out: NDArray[Any], threads: int = 1) -> Limit:
    """Bytes written into memory that was used before."""
    parts: list[Call] = [partial(np.copyto, part, 7) for part in np.array_split(out.reshape(-1), threads)]
    return on_threads(stack, threads, parts), float(out.nbytes)


def memory_reads(byte_count: int) -> Limit:
    """Bytes of an array of this size read in order, to find its largest number, on one thread."""
    array = np.ones(max(1, byte_count // 4), np.float32)
    return array.max, float(array.nbytes)


def disk_writes(path: Path, mebibytes: int) -> Limit:
    """Bytes that reach the disk: a new file by direct I/O, then fsync."""
    data, size = aligned_buffer(IO_BYTES), mebibytes * 2**20
    data[:] = np.random.default_rng(0).integers(256, size=data.size, dtype=np.uint8)

    def work() -> None:
        path.unlink(missing_ok=True)
        file = DirectFile(path, size)
        try:
            for offset in range(0, size, data.size):
                file.write(data, min(data.size, size - offset), offset)
            file.sync()
        finally:
            file.close()

    return work, float(size)


def disk_reads(path: Path) -> Limit:
    """Bytes read from a file by direct I/O, past the system's memory where the file system can."""
    data, size = aligned_buffer(IO_BYTES), path.stat().st_size

    def work() -> None:
        for offset in range(0, size, data.size):
            read_into(path, data, min(data.size, size - offset), offset)

    return work, float(size)
