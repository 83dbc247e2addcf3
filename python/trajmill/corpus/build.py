"""Building a corpus: which shards are missing, who makes them, and the manifest once they are all there."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trajmill.core import checks
from trajmill.core.progress import Progress, silent
from trajmill.corpus.engines import local_engine, ray_engine
from trajmill.corpus.layout import CorpusError, Layout
from trajmill.corpus.records import MANIFEST
from trajmill.corpus.sources import layout_of
from trajmill.corpus.storage import Store, open_store
from trajmill.corpus.survey import Survey, damaged_blocks, difference, size_problems, summary, survey


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
    """What `build` did."""

    shard_count: int
    made: int
    """shards that were not there before"""
    whole: bool
    """whether the manifest is written: every shard is there"""
    byte_count: int
    """bytes of the shards that were made"""


def build(
    spec: dict[str, Any],
    out: str | Path,
    progress: Progress = silent,
    *,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    part: Part = Part(),
    threads: int | None = None,
    rehash: bool = False,
) -> Built:
    """Make the shards of `spec` that `out` does not hold yet, then the manifest if all are there.

    Whatever ended an earlier run, the same call goes on from its last finished shard and ends with the same bytes.

    Parameters
    ----------
    out
        A directory, or the URL of an object store.
    part
        Which of several jobs this is; they may run at the same time, and the last one writes the manifest.
    threads
        Threads that draw (with Ray: of each task); default every core (with Ray: one).
    rehash
        Read the shards that are there and make those anew that are damaged; otherwise their sizes are compared.

    Raises
    ------
    CorpusError
        If `out` holds something else, another process writes it, or it cannot be written; the message says what to do.
    """
    store = open_store(out)
    layout = layout_of(spec)
    mine = range(part.number, layout.shard_count, part.count)
    try:
        with store.lock(shared=part.count > 1):
            store.sweep()
            found = survey(store)
            _refuse_other(store, layout, spec, found)
            todo = _unfinished(store, layout, found, mine, rehash, progress)
            work: Callable[..., None] = local_engine
            if engine == "ray":
                work, threads = partial(ray_engine, address=ray_address), threads or 1
            work(
                spec, todo, _absolute(out), checks.thread_count(threads), _reporter(layout, mine, todo, spec, progress)
            )
            store.sweep()  # what the dead workers of a cluster left
            whole = _finish(store, layout, alone=part.count == 1)
    except OSError as error:
        raise CorpusError(
            f"{store} cannot be written: {error.strerror or error}; what is finished is kept, "
            "so give the same command again once this is mended"
        ) from error
    return Built(
        shard_count=layout.shard_count,
        made=len(todo),
        whole=whole,
        byte_count=sum(layout.shard_bytes(shard) for shard in todo),
    )


def _refuse_other(store: Store, layout: Layout, spec: dict[str, Any], found: Survey) -> None:
    """CorpusError if the place holds anything but a part of this corpus."""
    if found.spec is not None:
        if found.spec != spec:
            raise CorpusError(
                f"{store} holds another corpus: {difference(spec, found.spec)}; choose another directory or remove it"
            )
        return
    ours = re.compile(rf"\.lock|\.tmp-.*|({'|'.join(column.name for column in layout.columns)})-\d{{5,}}\.bin")
    foreign = [name for name in store.names() if not ours.fullmatch(name)]
    if foreign:
        raise CorpusError(
            f"{store} is not empty and not a corpus (it holds {foreign[0]}); choose another directory or remove it"
        )


def _unfinished(
    store: Store, layout: Layout, found: Survey, mine: Iterable[int], rehash: bool, progress: Progress
) -> list[int]:
    done = [shard for shard in mine if shard in found.receipts and not size_problems(store, layout, shard)]
    if rehash:
        damaged = {shard for shard, _ in damaged_blocks(store, [found.receipts[k] for k in done], progress)}
        done = [shard for shard in done if shard not in damaged]
    return sorted(set(mine) - set(done))


def _reporter(
    layout: Layout, mine: Iterable[int], todo: list[int], spec: dict[str, Any], progress: Progress
) -> Callable[[int], None]:
    """Receives the rows of each block written, from any thread; tells of values and of bytes."""
    unit = "tokens" if layout.columns[0].name == "tokens" else "transitions"
    row_bytes = sum(column.row_bytes for column in layout.columns)
    total = sum(len(layout.rows(shard)) for shard in mine)
    done = total - sum(len(layout.rows(shard)) for shard in todo)
    lock = threading.Lock()

    def report(rows: int) -> None:
        nonlocal done
        with lock:
            done += rows
            progress("milling", done * spec["length"], total * spec["length"], unit)
            progress("writing", done * row_bytes, total * row_bytes, "bytes")

    report(0)
    return report


def _finish(store: Store, layout: Layout, *, alone: bool) -> bool:
    """Write the manifest if every shard is there; says whether it is. Whoever works `alone` leaves none to others."""
    found = survey(store)
    if len(found.receipts) < layout.shard_count:
        if alone:
            raise CorpusError(f"{store} is not whole: {summary(found.problems)}; give the same command again")
        return False
    manifest = found.rebuilt_manifest()
    if found.manifest != manifest:
        store.put(MANIFEST, manifest.to_bytes())
    return True


def _absolute(out: str | Path) -> str:
    """`out` as other processes find it."""
    return str(out) if "://" in str(out) else str(Path(out).absolute())
