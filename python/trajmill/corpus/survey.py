"""What a place holds: its manifest, its receipts, what is missing and what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from xxhash import xxh3_128_hexdigest

from trajmill.core import checks
from trajmill.core.progress import Progress, silent
from trajmill.corpus.layout import Column, CorpusError, Layout, NewerFormatError, file_name
from trajmill.corpus.records import MANIFEST, Manifest, Receipt, content_hash, receipt_name
from trajmill.corpus.storage import Bytes, Store, aligned_buffer, open_store

_MOST_NAMED = 10
_WAITING_THREADS = 2  # reads that are under way while every core hashes

RecordT = TypeVar("RecordT", Manifest, Receipt)


@dataclass(slots=True)
class Survey:
    """The records of a store that can be read, and what is wrong with the others."""

    where: str
    manifest: Manifest | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)
    hashes: dict[int, str] = field(default_factory=dict)
    """hash of each receipt's file"""
    problems: list[str] = field(default_factory=list)

    @property
    def spec(self) -> dict[str, Any] | None:
        """What the corpus was asked to be; None if no record says so."""
        record = self.manifest or next(iter(self.receipts.values()), None)
        return None if record is None else record.spec

    @property
    def layout(self) -> Layout:
        """How the corpus is cut; CorpusError if no record says so."""
        record = self.manifest or next(iter(self.receipts.values()), None)
        if record is None:
            damage = "".join(f"; {problem}" for problem in self.problems)
            raise CorpusError(f"{self.where} holds no manifest.json and no receipt: not a corpus{damage}")
        return record.layout

    def missing_shards(self) -> str | None:
        """How many shards have no receipt, and which are the first; None if all have."""
        count = self.layout.shard_count
        missing = count - len(self.receipts)
        if missing == 0:
            return None
        first = islice((shard for shard in range(count) if shard not in self.receipts), _MOST_NAMED)
        more = ", ..." if missing > _MOST_NAMED else ""
        return f"{missing} of {count} shards are missing ({', '.join(map(str, first))}{more})"

    def rebuilt_manifest(self) -> Manifest:
        """The manifest that the receipts add up to; CorpusError if some are missing."""
        missing = self.missing_shards()
        if missing:
            raise CorpusError(f"{self.where} is unfinished: {missing}; give the command that makes it again")
        assert self.spec is not None
        hashes = tuple(self.hashes[shard] for shard in range(self.layout.shard_count))
        return Manifest(spec=self.spec, layout=self.layout, receipts=hashes)


def survey(store: Store) -> Survey:
    """Read every record of `store`; NewerFormatError if a newer version has written one."""
    found = Survey(where=str(store))
    names = store.names()
    if MANIFEST in names:
        manifest = _parsed(store, MANIFEST, Manifest.parse, found)
        found.manifest = manifest
    for name in names:
        number = name.removeprefix("receipt-").removesuffix(".json")
        if number.isascii() and number.isdigit() and name == receipt_name(int(number)):
            _add_receipt(store, int(number), found)
    return found


def size_problems(store: Store, layout: Layout, shard: int) -> list[str]:
    """What a look at the sizes of a shard's files tells."""
    problems = []
    for column in layout.columns:
        name, expected = file_name(column, shard), layout.file_bytes(column, shard)
        size = store.size(name)
        if size != expected:
            problems.append(f"{name} is missing" if size is None else f"{name} has {size} bytes, not {expected}")
    return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found: whole if there are no problems."""

    problems: tuple[str, ...]
    byte_count: int
    """bytes that were read"""


def verify(location: str | Path, progress: Progress = silent, *, threads: int | None = None) -> Verification:
    """Read all of a corpus and compare it with its hashes: finds any flipped bit and anything cut off or missing.

    Raises
    ------
    CorpusError
        If there is no corpus, or a newer version has written it. Damage is not raised but reported.
    """
    store = open_store(location)
    found = survey(store)
    layout = found.layout
    problems = list(found.problems)
    if found.manifest is None and not any(problem.startswith(MANIFEST) for problem in problems):
        problems.append(f"{MANIFEST} is missing")
    known = set(found.receipts)
    missing = found.missing_shards()
    if missing:
        problems.append(missing)
    if found.manifest is not None:
        problems += [
            f"{receipt_name(shard)} is not the one that {MANIFEST} names"
            for shard in sorted(known)
            if found.hashes[shard] != found.manifest.receipts[shard]
        ]
    bad_sizes = {shard: size_problems(store, layout, shard) for shard in sorted(known)}
    problems += [problem for shard in sorted(known) for problem in bad_sizes[shard]]
    readable = [found.receipts[shard] for shard in sorted(known) if not bad_sizes[shard]]
    problems += [problem for _, problem in damaged_blocks(store, readable, progress, threads=threads)]
    return Verification(
        problems=tuple(problems), byte_count=sum(receipt.layout.shard_bytes(receipt.shard) for receipt in readable)
    )


def damaged_blocks(
    store: Store, receipts: Iterable[Receipt], progress: Progress = silent, *, threads: int | None = None
) -> list[tuple[int, str]]:
    """Read the shards of `receipts`; the shard and a line for each block that is not what its receipt says."""
    receipts = list(receipts)
    if not receipts:
        return []
    layout = receipts[0].layout
    total = sum(layout.shard_bytes(receipt.shard) for receipt in receipts)
    done = 0
    problems: list[tuple[int, str]] = []
    buffers: list[Bytes] = []
    largest = min(layout.block_rows, layout.row_count) * max(column.row_bytes for column in layout.columns)

    def check(task: tuple[Receipt, Column, range]) -> tuple[int, int, str | None]:
        receipt, column, rows = task
        try:
            data = buffers.pop()
        except IndexError:
            data = aligned_buffer(largest)
        size = len(rows) * column.row_bytes
        name = file_name(column, receipt.shard)
        try:
            with store.open(name) as file:
                file.read(data, size, rows.start * column.row_bytes)
            right = xxh3_128_hexdigest(data[:size].data) == receipt.blocks[column.name][rows.start // layout.block_rows]
            problem = None if right else f"{name} is damaged in rows {rows.start} to {rows.stop - 1} of the shard"
        except OSError as error:
            problem = f"{name} cannot be read ({error.strerror or error})"
        finally:
            buffers.append(data)
        return receipt.shard, size, problem

    tasks = (
        (receipt, column, rows)
        for receipt in receipts
        for column in layout.columns
        for rows in layout.blocks(receipt.shard)
    )
    for shard, size, problem in _in_order(check, tasks, checks.thread_count(threads) + _WAITING_THREADS):
        done += size
        progress("reading", done, total, "bytes")
        if problem is not None:
            problems.append((shard, problem))
    return problems


def merge(location: str | Path) -> Manifest:
    """Write the manifest that the receipts add up to: for shards made by several jobs, or a manifest that was lost.

    Raises
    ------
    CorpusError
        If a receipt is missing or damaged, or a shard's file has the wrong size.
    """
    store = open_store(location)
    found = survey(store)
    manifest = found.rebuilt_manifest()
    problems = [problem for problem in found.problems if not problem.startswith(MANIFEST)]
    problems += [problem for shard in found.receipts for problem in size_problems(store, found.layout, shard)]
    if problems:
        raise CorpusError(f"{store} cannot be merged: {summary(problems)}; give the command that makes it again")
    store.put(MANIFEST, manifest.to_bytes())
    return manifest


def difference(spec: dict[str, Any], other: dict[str, Any]) -> str:
    """Where two specs differ: ``seed is 43, not 42``."""
    names = [name for name in sorted(spec.keys() | other.keys()) if spec.get(name) != other.get(name)]
    return ", ".join(f"{name} is {other.get(name)}, not {spec.get(name)}" for name in names)


def summary(problems: Iterable[str]) -> str:
    """The first problems in one line, and how many there are."""
    problems = list(problems)
    more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    return "; ".join(problems[:_MOST_NAMED]) + more


def _add_receipt(store: Store, shard: int, found: Survey) -> None:
    name = receipt_name(shard)
    receipt = _parsed(store, name, Receipt.parse, found)
    if receipt is None:
        return
    if receipt.shard != shard:
        found.problems.append(f"{name} is the receipt of shard {receipt.shard}")
    elif found.spec is not None and receipt.spec != found.spec:
        found.problems.append(f"{name} belongs to another corpus: {difference(found.spec, receipt.spec)}")
    elif found.spec is not None and receipt.layout != found.layout:
        found.problems.append(f"{name} is damaged (its columns are not those of the others)")
    else:
        found.receipts[shard] = receipt
        found.hashes[shard] = content_hash(receipt.to_bytes())


def _parsed(store: Store, name: str, parse: Callable[[bytes, str], RecordT], found: Survey) -> RecordT | None:
    try:
        return parse(store.read(name), name)
    except NewerFormatError:
        raise
    except CorpusError as error:
        found.problems.append(str(error))
    except OSError as error:
        found.problems.append(f"{name} cannot be read ({error.strerror or error})")
    return None


TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def _in_order(work: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], threads: int) -> Iterator[ResultT]:
    """Results of `work` on `threads` threads, in the order of `tasks`, with few of them under way at any time."""
    waiting = []
    with ThreadPoolExecutor(threads) as pool:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > 2 * threads:
                yield waiting.pop(0).result()
        for done in waiting:
            yield done.result()
