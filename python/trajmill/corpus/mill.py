"""Making shards: rows are drawn, hashed and written by the same threads, a block at a time.

There are more threads than may draw at once, so while some wait for the disk the others keep the cores busy.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from trajmill.core import checks
from trajmill.core.direct_io import aligned_buffer
from trajmill.corpus.records import Receipt, content_hash, receipt_name
from trajmill.corpus.sources import layout_of, source_of
from trajmill.corpus.storage import WAITING_THREADS, NewFile, Store, in_order, open_store

Files = dict[str, NewFile]
"""the files of a shard that is being written, under their columns' names"""


def make_shard(spec: Mapping[str, Any], shard: int, out: str | Path, threads: int | None = None) -> None:
    """Make one shard and its receipt in the directory or object store `out`; the bytes depend on `spec` alone.

    Making a shard twice, at once or after a failure, leaves the same files. Tables and buffers are kept for the next
    call with the same spec. CorpusError for a spec that this version cannot make; OSError if `out` cannot be written,
    where nothing half-done is left.
    """
    mill = _kept_mill(json.dumps(spec, sort_keys=True), checks.thread_count(threads))
    if not 0 <= shard < mill.layout.shard_count:
        raise IndexError(f"shard must be between 0 and {mill.layout.shard_count - 1}, got {shard}")
    mill.make([shard], open_store(out))


@lru_cache(maxsize=1)
def _kept_mill(spec: str, threads: int) -> Mill:
    return Mill(json.loads(spec), threads)


class Mill:
    """The tables and buffers that make the shards of one spec."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self.spec = spec
        self.layout = layout_of(spec)
        self._source = source_of(spec)
        self._cores = threading.Semaphore(threads)
        self._threads = threads + WAITING_THREADS
        rows = min(self.layout.block_rows, self.layout.row_count)
        self._buffers = [
            {column.name: aligned_buffer(rows * column.row_bytes) for column in self.layout.columns}
            for _ in range(self._threads)
        ]

    def make(self, shards: Iterable[int], store: Store, block_done: Callable[[int], None] = lambda _: None) -> None:
        """Make `shards` and their receipts; after an error the shards that have receipts are whole.

        `block_done` receives the number of rows of every block that was written.
        """
        begun: dict[int, Files] = {}
        hashes: dict[str, list[str]] = defaultdict(list)  # of the first shard's blocks so far
        # files are begun and finished on a thread that runs already, since Ctrl-C may come anywhere in the main one
        helper = ThreadPoolExecutor(1)
        helper.submit(int).result()

        def begin(shard: int) -> None:
            for column in self.layout.columns:
                size = self.layout.file_bytes(column, shard)
                begun[shard][column.name] = store.create(column.file_name(shard), size)

        def finish(shard: int) -> None:
            for file in begun[shard].values():
                file.commit()
            blocks = {name: tuple(values) for name, values in hashes.items()}
            receipt = Receipt(spec=self.spec, layout=self.layout, shard=shard, blocks=blocks)
            store.put(receipt_name(shard), receipt.to_bytes())

        def blocks() -> Iterator[tuple[int, Files, range]]:
            for shard in shards:
                begun[shard] = {}
                helper.submit(begin, shard).result()
                for rows in self.layout.blocks(shard):
                    yield shard, begun[shard], rows

        made = in_order(self._make_block, blocks(), self._threads)
        try:
            with helper, closing(made):
                for shard, rows, block_hashes in made:
                    for name, value in block_hashes.items():
                        hashes[name].append(value)
                    if rows.stop == len(self.layout.rows(shard)):
                        helper.submit(finish, shard).result()
                        del begun[shard]
                        hashes.clear()
                    block_done(len(rows))
        finally:
            for files in begun.values():
                for file in files.values():
                    file.discard()

    def _make_block(self, block: tuple[int, Files, range]) -> tuple[int, range, dict[str, str]]:
        """Draw and write a block of every column; the hashes go into the shard's receipt."""
        shard, files, rows = block
        buffers = self._buffers.pop()  # there is one for each thread
        try:
            arrays = {
                column.name: buffers[column.name][: len(rows) * column.row_bytes]
                .view(column.dtype)
                .reshape(len(rows), column.row_length)
                for column in self.layout.columns
            }
            with self._cores:
                self._source.fill(self.layout.rows(shard).start + rows.start, arrays, 1)
                hashes = {name: content_hash(array.data) for name, array in arrays.items()}
            for column in self.layout.columns:
                size, offset = len(rows) * column.row_bytes, rows.start * column.row_bytes
                files[column.name].write(buffers[column.name], size, offset)
            return shard, rows, hashes
        finally:
            self._buffers.append(buffers)
