"""How fast corpora are written, verified and read, beside the disk alone and readers that others use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajmill.bench import limits
from trajmill.bench.group import Builder, Group, Options
from trajmill.core import files
from trajmill.core.markov_chain import MarkovChain
from trajmill.corpus import StoredCorpus, VirtualCorpus, open_corpus
from trajmill.corpus.build import build
from trajmill.corpus.sources import make_spec
from trajmill.corpus.survey import verify

LENGTH = 1024
LAW: dict[str, Any] = {"state_count": 100, "order": 1, "temperature": 1.0, "seed": 42, "initial": "softmax"}
BATCH = 64
COPIES = 4
"""how much room is asked for, in sizes of the corpus"""
SAMPLER, WRITES, READS = "sampler", "disk writes", "disk reads"


def groups(options: Options) -> list[Builder]:
    """Writing, verifying, reading in random order."""
    return [writing, verifying, reading]


def folder_of(options: Options, stack: ExitStack) -> Path:
    """A directory on the disk that is measured; ValueError if the disk has no room."""
    needed, free = COPIES * options.mebibytes * 2**20, shutil.disk_usage(options.folder).free
    if needed > free:
        raise ValueError(
            f"{options.folder} needs {needed / 1e9:.1f} GB of free space for this benchmark, and has {free / 1e9:.1f}; "
            "name a folder on another disk with --folder, or a smaller corpus with --mebibytes"
        )
    return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder, prefix="trajmill-bench-")))


def spec_of(options: Options) -> dict[str, Any]:
    """A corpus of so many mebibytes, one byte a token."""
    return make_spec("markov", LAW, row_count=options.mebibytes * 2**20 // LENGTH, length=LENGTH)


def writing(options: Options, stack: ExitStack) -> Group:
    """A corpus drawn, hashed and on the disk, not only in the system's memory."""
    folder, spec = folder_of(options, stack), spec_of(options)
    size, threads = options.mebibytes * 2**20, options.threads
    group = Group(f"corpus of {options.mebibytes} MiB to disk, {threads} thread{'s' * (threads > 1)}", "GB/s")
    numbers, chain = count(), MarkovChain(**LAW)
    block = np.zeros((min(65_536, size // LENGTH), LENGTH), np.uint8)
    draw = partial(chain.sample, *block.shape, out=block, threads=threads)
    draw()

    def clear() -> None:
        for path in folder.iterdir():
            files.remove(path)

    def fresh(work: Callable[[Path], object]) -> Callable[[], object]:
        """Each call writes a place of its own; `clear` removes them before the next block."""
        return lambda: work(folder / f"{next(numbers)}")

    def to_file(path: Path) -> None:
        random = np.random.default_rng(0)
        with path.open("wb") as file:
            for first in range(0, size, block.nbytes):
                random.integers(100, size=min(block.nbytes, size - first), dtype=np.uint8).tofile(file)
            files.sync(path)

    ours = fresh(lambda path: build(spec, path, threads=threads))
    group.ours("trajmill", ours, size, limits=(SAMPLER, WRITES), before=clear)
    peer = fresh(to_file)
    group.peer("NumPy, uniform tokens, tofile, fsync", lambda: peer, size, limits=(WRITES,), before=clear)
    group.limit(SAMPLER, draw, block.size)
    group.limit(WRITES, *limits.disk_writes(folder / "alone", options.mebibytes), before=clear)
    return group


def verifying(options: Options, stack: ExitStack) -> Group:
    """Every bit of a corpus read and compared with its hashes."""
    folder, threads = folder_of(options, stack), options.threads
    corpus, size = folder / "corpus", options.mebibytes * 2**20
    build(spec_of(options), corpus, threads=threads)
    shard = max((path for path in corpus.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    group = Group(f"verifying {options.mebibytes} MiB, {threads} thread{'s' * (threads > 1)}", "GB/s")
    group.ours("trajmill", lambda: verify(corpus, threads=threads), size, limits=(READS,))
    group.peer("SHA-256 (hashlib)", lambda: partial(files.sha256_of, shard), shard.stat().st_size, limits=(READS,))
    group.limit(READS, *limits.disk_reads(shard))
    return group


def reading(options: Options, stack: ExitStack) -> Group:
    """Batches of rows at random, int64 as a language model wants them, of a corpus that the system has in memory."""
    folder, rows = folder_of(options, stack), options.mebibytes * 2**20 // LENGTH
    build(spec_of(options), folder / "corpus", threads=options.threads)
    corpus = open_corpus(folder / "corpus")
    virtual = VirtualCorpus(MarkovChain(**LAW), sequence_count=rows, length=LENGTH)
    flat = folder / "flat.bin"
    np.asarray(corpus[:]).tofile(flat)
    data = np.fromfile(flat, np.uint8).reshape(rows, LENGTH)
    random, amount = np.random.default_rng(0), BATCH * LENGTH
    group = Group(f"batches of {BATCH} x {LENGTH:,} tokens of {options.mebibytes} MiB, 1 thread", "M tokens/s", 1e-6)

    def batch_of(source: StoredCorpus | VirtualCorpus) -> Callable[[], object]:
        return lambda: np.asarray(source[random.integers(rows, size=BATCH)]).astype(np.int64)

    copies = "copying rows"
    group.ours("trajmill, a stored corpus", batch_of(corpus), amount, limits=(copies,))
    group.ours("trajmill, a virtual corpus (drawn)", batch_of(virtual), amount)
    group.peer("nanoGPT's way (np.memmap)", lambda: crops(flat, random), amount, limits=(copies,))
    group.peer("Megatron's way (index, one buffer)", lambda: indexed(flat, random), amount, limits=(copies,))
    group.peer("torch DataLoader over rows", lambda: loader(data), amount, needs=("torch",), limits=(copies,))
    known, out = random.integers(rows, size=BATCH), np.empty((BATCH, LENGTH), np.uint8)
    group.limit(copies, lambda: data.take(known, 0, out, "clip").astype(np.int64), amount)
    return group


# --- readers as others write them -------------------------------------------------------------------------------------


def crops(path: Path, random: np.random.Generator) -> limits.Call:
    """A crop of a memory-mapped file of tokens at each random place, converted one by one, then stacked."""

    def work() -> NDArray[np.int64]:
        data = np.memmap(path, np.uint8, "r")  # anew for each batch, lest memory grow
        places = random.integers(len(data) - LENGTH, size=BATCH)
        return np.stack([data[place : place + LENGTH].astype(np.int64) for place in places])

    return work


def indexed(path: Path, random: np.random.Generator) -> limits.Call:
    """Documents of a mapped buffer by an index of their places and lengths."""
    buffer = memoryview(np.memmap(path, np.uint8, "r"))  # type: ignore[arg-type]
    lengths = np.full(len(buffer) // LENGTH, LENGTH, np.int32)
    places = np.cumsum(lengths, dtype=np.int64) - lengths

    def work() -> NDArray[np.int64]:
        chosen = random.integers(len(lengths), size=BATCH)
        rows = [np.frombuffer(buffer, np.uint8, int(lengths[one]), int(places[one])) for one in chosen]
        return np.stack(rows).astype(np.int64)

    return work


def loader(data: NDArray[np.uint8]) -> limits.Call:
    """Torch's DataLoader in this process, a row at a time."""
    import torch
    from torch.utils.data import DataLoader

    def endless() -> Any:
        while True:
            yield from DataLoader(torch.from_numpy(data), batch_size=BATCH, shuffle=True)  # type: ignore[arg-type]

    batches = endless()
    return lambda: next(batches).long()
