"""Making shards: rows are drawn, hashed and written by the same threads, a block at a time.

There are more threads than cores may draw at once, so while some wait for the disk the others keep the cores busy.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from trajmill.core import checks
from trajmill.corpus.layout import Column, Layout, file_name
from trajmill.corpus.records import Receipt, receipt_name
from trajmill.corpus.sources import layout_of, source_of
from trajmill.corpus.storage import ALIGNMENT, Bytes, NewFile, Store, aligned_buffer, open_store

_WAITING_THREADS = 2  # enough for one block on its way to the disk and one behind it

BlockDone = Callable[[int], None]
"""told the number of rows of every block that was written"""


def make_shard(spec: Mapping[str, Any], shard: int, out: str | Path, threads: int | None = None) -> dict[str, Any]:
    """Make one shard and its receipt in the directory or object store `out`; the bytes depend on `spec` alone.

    Every engine comes down to this. Making a shard twice, at once or after a failure, leaves the same files. Tables and
    buffers are kept for the next call with the same spec.

    Returns
    -------
    The receipt's record.

    Raises
    ------
    CorpusError
        For a spec that this version cannot make.
    OSError
        If `out` cannot be written; nothing half-done is left.
    """
    store = open_store(out)
    layout = layout_of(spec)
    if not 0 <= shard < layout.shard_count:
        raise IndexError(f"shard must be between 0 and {layout.shard_count - 1}, got {shard}")
    mill = _kept_mill(json.dumps(spec, sort_keys=True), checks.thread_count(threads))
    mill.make([shard], store)
    record: dict[str, Any] = json.loads(store.read(receipt_name(shard)))
    return record


@lru_cache(maxsize=1)
def _kept_mill(spec: str, threads: int) -> Mill:
    return Mill(json.loads(spec), threads)


class Mill:
    """The tables and buffers that make the shards of one spec."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self.spec = spec
        self.layout = layout_of(spec)
        self._source = source_of(spec)
        self._workers = threads + _WAITING_THREADS
        self._cores = threading.Semaphore(threads)
        self._buffers: list[dict[str, Bytes]] = []

    def make(self, shards: Iterable[int], store: Store, block_done: BlockDone = lambda _: None) -> None:
        """Make `shards` and their receipts; after an error the shards that have receipts are whole."""
        tasks = _Tasks(self.spec, self.layout, store, shards)
        try:
            with ThreadPoolExecutor(self._workers) as pool:
                work = [pool.submit(self._work, tasks, block_done) for _ in range(self._workers)]
                try:
                    for done in as_completed(work):
                        done.result()
                finally:
                    tasks.stop()
        finally:
            tasks.discard()

    def _work(self, tasks: _Tasks, block_done: BlockDone) -> None:
        try:
            buffers = self._buffers.pop()
        except IndexError:
            buffers = self._new_buffers()
        try:
            for shard, rows in tasks:
                arrays = {
                    column.name: buffers[column.name][: len(rows) * column.row_bytes]
                    .view(column.dtype)
                    .reshape(len(rows), column.row_length)
                    for column in self.layout.columns
                }
                with self._cores:
                    self._source.fill(shard.first_row + rows.start, arrays, threads=1)
                    hashes = {name: xxh3_128_hexdigest(array.data) for name, array in arrays.items()}
                shard.write(rows, buffers, hashes)
                block_done(len(rows))
        finally:
            self._buffers.append(buffers)

    def _new_buffers(self) -> dict[str, Bytes]:
        rows = min(self.layout.block_rows, self.layout.row_count)
        return {column.name: aligned_buffer(rows * column.row_bytes) for column in self.layout.columns}


class _Tasks:
    """Hands out the blocks of all shards, one after another, to whoever asks."""

    def __init__(self, spec: dict[str, Any], layout: Layout, store: Store, shards: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._begun: list[_Shard] = []
        self._blocks = self._all_blocks(spec, layout, store, shards)

    def __iter__(self) -> Iterator[tuple[_Shard, range]]:
        return self

    def __next__(self) -> tuple[_Shard, range]:
        with self._lock:
            if self._stopped:
                raise StopIteration
            return next(self._blocks)

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    def discard(self) -> None:
        """Remove what was begun and not finished."""
        for shard in self._begun:
            shard.discard()

    def _all_blocks(
        self, spec: dict[str, Any], layout: Layout, store: Store, shards: Iterable[int]
    ) -> Iterator[tuple[_Shard, range]]:
        for number in shards:
            shard = _Shard(spec, layout, store, number)
            self._begun = [other for other in self._begun if not other.finished] + [shard]
            shard.open()
            for rows in layout.blocks(number):
                yield shard, rows


class _Shard:
    """A shard in the making: its files, the hashes so far, and how many blocks are missing."""

    def __init__(self, spec: dict[str, Any], layout: Layout, store: Store, number: int) -> None:
        self._spec, self._layout, self._store, self._number = spec, layout, store, number
        self._lock = threading.Lock()
        self._missing = layout.block_count(number)
        self._hashes = {column.name: [""] * self._missing for column in layout.columns}
        self._files: dict[str, NewFile] = {}
        self.first_row = layout.rows(number).start
        self.finished = False

    def open(self) -> None:
        """Begin a file for each column."""
        for column in self._layout.columns:
            size = self._layout.file_bytes(column, self._number)
            direct = self._missing == 1 or self._layout.block_rows * column.row_bytes % ALIGNMENT == 0
            self._files[column.name] = self._store.create(file_name(column, self._number), size, direct=direct)

    def write(self, rows: range, buffers: Mapping[str, Bytes], hashes: Mapping[str, str]) -> None:
        """Write one block of every column; whoever writes the last one finishes the shard."""
        for column in self._layout.columns:
            self._write(column, rows, buffers[column.name])
        with self._lock:
            for name, value in hashes.items():
                self._hashes[name][rows.start // self._layout.block_rows] = value
            self._missing -= 1
            last = self._missing == 0
        if last:
            self._finish()

    def discard(self) -> None:
        """Remove the files that have not been committed."""
        for file in self._files.values():
            file.discard()

    def _write(self, column: Column, rows: range, data: Bytes) -> None:
        size, offset = len(rows) * column.row_bytes, rows.start * column.row_bytes
        self._files[column.name].write(data, size, offset)

    def _finish(self) -> None:
        for file in self._files.values():
            file.commit()
        blocks = {name: tuple(hashes) for name, hashes in self._hashes.items()}
        receipt = Receipt(spec=self._spec, layout=self._layout, shard=self._number, blocks=blocks)
        self._store.put(receipt_name(self._number), receipt.to_bytes())
        self.finished = True
