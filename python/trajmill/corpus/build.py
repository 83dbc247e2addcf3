"""Building a corpus: which shards are missing, who makes them, and the manifest once they are all there."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

from trajmill.core import checks
from trajmill.core.direct_io import aligned_buffer
from trajmill.core.paths import AnyPath
from trajmill.core.progress import Progress, silent
from trajmill.core.threads import Threads
from trajmill.corpus.errors import CorpusError, library
from trajmill.corpus.layout import Layout
from trajmill.corpus.records import MANIFEST, Receipt, content_hash, receipt_name
from trajmill.corpus.sources import layout_of, source_of
from trajmill.corpus.storage import WAITING_THREADS, NewFile, Store, in_order, open_store
from trajmill.corpus.survey import Survey, damaged_blocks, difference, size_problems, summary, survey

_RAY_RETRIES = 4
_RAY_TASKS_PER_NODE = 4

Files = dict[str, NewFile]
"""the files of a shard that is being written, under their columns' names"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Part `number` of `count` of the work: the shards k with ``k % count == number``."""

    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, words: str) -> Part:
        """``"k/N"`` with 0 <= k < N."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", words)
        if match is None or not int(match[1]) < int(match[2]):
            raise CorpusError(f"a part must be k/N with 0 <= k < N, such as 0/8, got {words!r}")
        return cls(number=int(match[1]), count=int(match[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What `build` did: `made` of `shard_count` shards were not there before and have `byte_count` bytes."""

    shard_count: int
    made: int
    whole: bool
    """whether the manifest is written: every shard is there"""
    byte_count: int


def build(
    spec: dict[str, Any],
    out: AnyPath,
    progress: Progress = silent,
    *,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    part: Part = Part(),
    threads: int | None = None,
    rehash: bool = False,
) -> Built:
    """Make the shards of `spec` that the directory or object store `out` lacks, then the manifest if all are there.

    After an interruption the same call ends with the same bytes. Several jobs may each make a `part` at the same time;
    the last one writes the manifest. With `rehash` the shards that are there are read and damaged ones are made again;
    otherwise only their sizes are checked. Engine ``"ray"`` makes the shards as tasks of the cluster at `ray_address`,
    or of one that is started on this machine. `threads` draw in this process, by default on every core, or in each
    task, by default one. CorpusError if `out` holds something else, cannot be written, or another process writes it.
    """
    store = open_store(out)
    layout = layout_of(spec)
    thread_count = 1 if threads is None and engine == "ray" else checks.thread_count(threads)
    mine = range(part.number, layout.shard_count, part.count)
    try:
        with store.lock(shared=part.count > 1):
            store.sweep()
            found = survey(store)
            _refuse_other(spec, layout, found)
            todo = _unfinished(store, layout, found, mine, rehash, progress)
            report = _reporter(layout, mine, todo, spec["length"], progress)
            if engine == "ray":
                _make_with_ray(spec, layout, todo, str(store), thread_count, ray_address, report)
            else:
                Mill(spec, thread_count).make(todo, store, report)
            store.sweep()  # what workers of a cluster left that died
            found = survey(store)
            whole = len(found.receipts) == layout.shard_count
            if whole:
                manifest = found.rebuilt_manifest()
                if found.manifest != manifest:
                    store.put(MANIFEST, manifest.to_bytes())
            elif part.count == 1:
                raise CorpusError(f"{store} is not whole: {summary(found.problems)}; give the same command again")
    except OSError as error:
        remedy = "finished shards are kept, so fix this and give the same command again"
        raise CorpusError(f"{store} cannot be written: {error.strerror or error}; {remedy}") from error
    byte_count = sum(layout.shard_bytes(shard) for shard in todo)
    return Built(shard_count=layout.shard_count, made=len(todo), whole=whole, byte_count=byte_count)


def _refuse_other(spec: dict[str, Any], layout: Layout, found: Survey) -> None:
    """CorpusError if the store holds anything but a part of this corpus."""
    fault = None
    if found.record is None:
        ours = re.compile(rf"\.lock|\.tmp-.*|({'|'.join(column.name for column in layout.columns)})-\d{{5,}}\.bin")
        foreign = [name for name in found.sizes if not ours.fullmatch(name)]
        if foreign:
            fault = f"is not empty and not a corpus (it holds {foreign[0]})"
    elif found.record.spec != spec:
        fault = f"holds another corpus: {difference(spec, found.record.spec)}"
    if fault:
        raise CorpusError(f"{found.where} {fault}; choose another directory or remove it")


def _unfinished(
    store: Store, layout: Layout, found: Survey, mine: range, rehash: bool, progress: Progress
) -> list[int]:
    """The shards that have no receipt, files of the wrong size or, with `rehash`, damaged blocks."""
    done = [shard for shard in mine if shard in found.receipts and not size_problems(found.sizes, layout, [shard])]
    if rehash:
        damaged = {shard for shard, _ in damaged_blocks(store, [found.receipts[shard] for shard in done], progress)}
        done = [shard for shard in done if shard not in damaged]
    return sorted(set(mine) - set(done))


def _reporter(layout: Layout, mine: range, todo: list[int], length: int, progress: Progress) -> Callable[[int], None]:
    """A function that gets the number of rows of each block that was written, and reports values and bytes."""
    unit = "tokens" if layout.columns[0].name == "tokens" else "transitions"
    row_bytes = sum(column.row_bytes for column in layout.columns)
    total = sum(len(layout.rows(shard)) for shard in mine)
    done = total - sum(len(layout.rows(shard)) for shard in todo)

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress("milling", done * length, total * length, unit)
        progress("writing", done * row_bytes, total * row_bytes, "bytes")

    report(0)
    return report


def _make_with_ray(
    spec: dict[str, Any],
    layout: Layout,
    shards: list[int],
    out: str,
    threads: int,
    address: str | None,
    block_done: Callable[[int], None],
) -> None:
    """Make `shards` as Ray tasks of `threads` CPUs each; every node must be able to reach `out`.

    Tasks of lost nodes and failing disks are tried again: a shard made twice leaves the same files.
    """
    ray = library("ray", "engine ray", "ray")
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, include_dashboard=False if address is None else None, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=threads, max_retries=_RAY_RETRIES, retry_exceptions=[OSError])(make_shard)
        ahead = _RAY_TASKS_PER_NODE * max(1, len(ray.nodes()))
        waiting, running = list(reversed(shards)), dict[Any, int]()
        while waiting or running:
            while waiting and len(running) < ahead:
                shard = waiting.pop()
                running[task.remote(spec, shard, out, threads)] = shard
            done, _ = ray.wait(list(running), num_returns=1)
            ray.get(done)
            for reference in done:
                block_done(len(layout.rows(running.pop(reference))))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # what went wrong on the node, without its traceback
    except ray.exceptions.RayError as error:
        died = f"a Ray task died {_RAY_RETRIES + 1} times ({type(error).__name__})"
        raise CorpusError(f"{died}; look at the node") from error
    finally:
        if ours:
            ray.shutdown()


def make_shard(spec: Mapping[str, Any], shard: int, out: AnyPath, threads: int | None = None) -> None:
    """Make one shard and its receipt in the directory or object store `out`; the bytes depend on `spec` alone.

    Tables and buffers are kept for the next call with the same spec. CorpusError for a spec that this version cannot
    make; OSError if `out` cannot be written, where nothing half-done is left.
    """
    mill = _kept_mill(json.dumps(spec, sort_keys=True), checks.thread_count(threads))
    if not 0 <= shard < mill.layout.shard_count:
        raise IndexError(f"shard must be between 0 and {mill.layout.shard_count - 1}, got {shard}")
    mill.make([shard], open_store(out))


@lru_cache(maxsize=1)
def _kept_mill(spec: str, threads: int) -> Mill:
    return Mill(json.loads(spec), threads)


class Mill:
    """The tables and buffers that make the shards of one spec: the same threads draw, hash and write a block at a time.

    There are more of them than may draw at once, so while some wait for the disk the others keep the cores busy.
    """

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
        """Make `shards` and their receipts, and tell `block_done` the number of rows of every block that was written.

        After an error the shards that have receipts are whole.
        """
        begun: dict[int, Files] = {}
        hashes: dict[str, list[str]] = defaultdict(list)  # of the first shard's blocks so far
        # files are begun and finished on a thread that runs already, since Ctrl-C may come anywhere in the main one
        helper = Threads(1)
        helper.submit(int).result()

        def begin(shard: int) -> None:
            for column in self.layout.columns:
                file = store.create(column.file_name(shard), self.layout.file_bytes(column, shard))
                begun[shard][column.name] = file

        def finish(shard: int) -> None:
            for file in begun[shard].values():
                file.commit()
            blocks = {name: tuple(values) for name, values in hashes.items()}
            receipt = Receipt(spec=self.spec, layout=self.layout, shard=shard, blocks=blocks)
            store.put(receipt_name(shard), receipt.to_bytes())

        def blocks() -> Iterator[tuple[int, Files, range]]:
            for shard in shards:
                begun[shard] = {}
                helper.submit(partial(begin, shard)).result()
                for rows in self.layout.blocks(shard):
                    yield shard, begun[shard], rows

        made = in_order(self._make_block, blocks(), self._threads)
        try:
            with helper, closing(made):
                for shard, rows, block_hashes in made:
                    for name, value in block_hashes.items():
                        hashes[name].append(value)
                    if rows.stop == len(self.layout.rows(shard)):
                        helper.submit(partial(finish, shard)).result()
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
                c.name: buffers[c.name][: len(rows) * c.row_bytes].view(c.dtype).reshape(len(rows), c.row_length)
                for c in self.layout.columns
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
