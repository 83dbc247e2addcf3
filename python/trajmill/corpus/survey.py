"""What a corpus directory or object store holds: its manifest, its receipts, what is missing and what is damaged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from trajmill.core import checks
from trajmill.core.column import Column
from trajmill.core.direct_io import aligned_buffer
from trajmill.core.paths import AnyPath
from trajmill.core.progress import Progress, silent
from trajmill.corpus.errors import CorpusError, NewerFormatError
from trajmill.corpus.layout import Layout
from trajmill.corpus.records import MANIFEST, Manifest, Receipt, content_hash, receipt_name
from trajmill.corpus.storage import WAITING_THREADS, Store, in_order, open_store

_MOST_NAMED = 10


@dataclass(slots=True)
class Survey:
    """The records of a store that can be read, and what is wrong with the others."""

    where: str
    manifest: Manifest | None = None
    receipts: dict[int, Receipt] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """bytes of every file by its name"""

    @property
    def record(self) -> Manifest | Receipt | None:
        """A record that says what the corpus should be; None if there is none."""
        return self.manifest or next(iter(self.receipts.values()), None)

    @property
    def layout(self) -> Layout:
        """How the corpus is divided; CorpusError if no record says so."""
        if self.record is None:
            damage = "".join(f"; {problem}" for problem in self.problems)
            raise CorpusError(f"{self.where} holds no manifest.json and no receipt: not a corpus{damage}")
        return self.record.layout

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
        """The manifest that follows from the receipts; CorpusError if some are missing."""
        if missing := self.missing_shards():
            raise CorpusError(f"{self.where} is unfinished: {missing}; give the command that makes it again")
        hashes = (content_hash(self.receipts[shard].to_bytes()) for shard in range(self.layout.shard_count))
        return Manifest(spec=self.receipts[0].spec, layout=self.layout, receipts=tuple(hashes))


def survey(store: Store) -> Survey:
    """Read every record of `store`; NewerFormatError if a newer version has written one."""
    found = Survey(where=str(store))
    listed = [name for name in store.sizes() if _is_record(name)]  # sorted, so the manifest is first
    for name in listed:
        try:
            data = store.read(name)
            if name == MANIFEST:
                found.manifest = Manifest.parse(data, name)
                continue
            receipt, record = Receipt.parse(data, name), found.record
            if name != receipt_name(receipt.shard):
                raise CorpusError(f"{name} is the receipt of shard {receipt.shard}")
            if record is not None and receipt.spec != record.spec:
                raise CorpusError(f"{name} belongs to another corpus: {difference(record.spec, receipt.spec)}")
            if record is not None and receipt.layout != record.layout:
                raise CorpusError(f"{name} is damaged (its columns are not those of the others)")
            found.receipts[receipt.shard] = receipt
        except NewerFormatError:
            raise
        except CorpusError as error:
            found.problems.append(str(error))
        except OSError as error:
            found.problems.append(f"{name} cannot be read ({error.strerror or error})")
    found.sizes = store.sizes()  # asked for last: another job may write, and a receipt appears after its files
    if found.record is None and any(_is_record(name) and name not in listed for name in found.sizes):
        return survey(store)  # another job has written the first record meanwhile
    return found


def _is_record(name: str) -> bool:
    return name == MANIFEST or re.fullmatch(r"receipt-(\d{5}|[1-9]\d{5,})\.json", name, re.ASCII) is not None


def size_problems(sizes: dict[str, int], layout: Layout, shards: Iterable[int]) -> list[str]:
    """Files of `shards` that are missing or have another size than `layout` says."""
    problems = []
    for shard in shards:
        for column in layout.columns:
            name, expected = column.file_name(shard), layout.file_bytes(column, shard)
            if name not in sizes:
                problems.append(f"{name} is missing")
            elif sizes[name] != expected:
                problems.append(f"{name} has {sizes[name]} bytes, not {expected}")
    return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What `verify` found: whole if there are no problems."""

    problems: tuple[str, ...]
    byte_count: int
    """bytes that were read"""


def verify(location: AnyPath, progress: Progress = silent, *, threads: int | None = None) -> Verification:
    """Read all of a corpus and compare it with its hashes: finds any flipped bit and anything cut off or missing.

    Damage is not raised but reported; CorpusError only if there is no corpus, or a newer version has written it.
    """
    store = open_store(location)
    found = survey(store)
    layout, manifest = found.layout, found.manifest
    problems = list(found.problems)
    if manifest is None and not any(problem.startswith(MANIFEST) for problem in problems):
        problems.append(f"{MANIFEST} is missing")
    if missing := found.missing_shards():
        problems.append(missing)
    readable = []
    for shard, receipt in sorted(found.receipts.items()):
        if manifest is not None and content_hash(receipt.to_bytes()) != manifest.receipts[shard]:
            problems.append(f"{receipt_name(shard)} is not the one that {MANIFEST} names")
        wrong_sizes = size_problems(found.sizes, layout, [shard])
        problems += wrong_sizes
        if not wrong_sizes:
            readable.append(receipt)
    problems += [problem for _, problem in damaged_blocks(store, readable, progress, threads=threads)]
    byte_count = sum(layout.shard_bytes(receipt.shard) for receipt in readable)
    return Verification(problems=tuple(problems), byte_count=byte_count)


def damaged_blocks(
    store: Store, receipts: list[Receipt], progress: Progress = silent, *, threads: int | None = None
) -> list[tuple[int, str]]:
    """Read the shards of `receipts`; a shard's number and a line for each block that is not what its receipt says."""
    if not receipts:
        return []
    layout = receipts[0].layout
    workers = checks.thread_count(threads) + WAITING_THREADS
    largest = min(layout.block_rows, layout.row_count) * max(column.row_bytes for column in layout.columns)
    buffers = [aligned_buffer(largest) for _ in range(workers)]

    def check(block: tuple[Receipt, Column, range]) -> tuple[int, int, str | None]:
        """The shard, the bytes of the block, and what is wrong with it."""
        receipt, column, rows = block
        name, size = column.file_name(receipt.shard), len(rows) * column.row_bytes
        problem = None
        data = buffers.pop()  # there is one for each thread
        try:
            store.read_into(name, data, size, rows.start * column.row_bytes)
            if content_hash(data[:size].data) != receipt.blocks[column.name][rows.start // layout.block_rows]:
                problem = f"{name} is damaged in rows {rows.start} to {rows.stop - 1} of the shard"
        except OSError as error:
            problem = f"{name} cannot be read ({error.strerror or error})"
        finally:
            buffers.append(data)
        return receipt.shard, size, problem

    blocks = (
        (receipt, column, rows)
        for receipt in receipts
        for column in layout.columns
        for rows in layout.blocks(receipt.shard)
    )
    total = sum(layout.shard_bytes(receipt.shard) for receipt in receipts)
    done = 0
    problems = []
    with closing(in_order(check, blocks, workers)) as checked:
        for shard, size, problem in checked:
            done += size
            progress("reading", done, total, "bytes")
            if problem is not None:
                problems.append((shard, problem))
    return problems


def merge(location: AnyPath) -> Manifest:
    """Write the manifest that follows from the receipts: of shards made by several jobs, or of a corpus that lost it.

    CorpusError if a receipt is missing or damaged, or a shard's file has the wrong size.
    """
    store = open_store(location)
    found = survey(store)
    manifest = found.rebuilt_manifest()
    problems = [problem for problem in found.problems if not problem.startswith(MANIFEST)]
    problems += size_problems(found.sizes, found.layout, found.receipts)
    if problems:
        raise CorpusError(f"{store} cannot be merged: {summary(problems)}; give the command that makes it again")
    store.put(MANIFEST, manifest.to_bytes())
    return manifest


def difference(spec: dict[str, Any], other: dict[str, Any]) -> str:
    """Where two specs differ: ``seed is 43, not 42``."""
    names = [name for name in sorted(spec.keys() | other.keys()) if spec.get(name) != other.get(name)]
    return ", ".join(f"{name} is {other.get(name)}, not {spec.get(name)}" for name in names)


def summary(problems: Sequence[str]) -> str:
    """The first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
    return "; ".join(problems[:_MOST_NAMED]) + more
