"""Small corpora for the export tests: raw shards on disk, and no more of a corpus than exporters may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajmill.core.column import Column


@dataclass
class RawCorpus:
    """What exports need of a `StoredCorpus`, and the rows that were put in."""

    directory: Path
    spec: dict[str, Any]
    columns: tuple[Column, ...]
    row_count: int
    arrays: dict[str, np.ndarray]
    bounds: list[int]

    def shards(self, column: str = "tokens") -> list[np.ndarray]:
        found = next(c for c in self.columns if c.name == column)
        shape = (-1, found.row_length)
        return [np.memmap(path, found.stored_dtype, "r").reshape(shape) for path in self.shard_paths(column)]

    def shard_paths(self, column: str = "tokens") -> list[Path]:
        return [self.directory / f"{column}-{i:05d}.bin" for i in range(len(self.bounds) - 1)]


def raw_corpus(directory: Path, arrays: dict[str, np.ndarray], bounds: list[int], **spec: Any) -> RawCorpus:
    """Write `arrays`, cut at the rows `bounds`."""
    directory.mkdir(parents=True)
    columns = tuple(Column(name=n, dtype=a.dtype.name, row_length=a.shape[1]) for n, a in arrays.items())
    corpus = RawCorpus(directory, spec, columns, bounds[-1], arrays, bounds)
    for column in columns:
        for path, first, end in zip(corpus.shard_paths(column.name), bounds[:-1], bounds[1:], strict=True):
            arrays[column.name][first:end].tofile(path)
    return corpus


def token_corpus(
    directory: Path, dtype: str = "uint8", bounds: tuple[int, ...] = (0, 8, 16, 21), largest: int = 250
) -> RawCorpus:
    """Random tokens up to `largest`, which is among them."""
    tokens = np.random.default_rng(5).integers(0, largest, (bounds[-1], 13), dtype=dtype, endpoint=True)
    tokens[bounds[-1] // 2, 7] = largest
    return raw_corpus(directory, {"tokens": tokens}, list(bounds), kind="markov", state_count=largest + 1)


def trajectory_corpus(directory: Path, bounds: tuple[int, ...] = (0, 8, 16, 21)) -> RawCorpus:
    """Random states up to 299 (uint16) and actions up to 6 (uint8), 9 steps a trajectory."""
    generator = np.random.default_rng(6)
    arrays = {
        "states": generator.integers(0, 300, (bounds[-1], 10), dtype="uint16"),
        "actions": generator.integers(0, 7, (bounds[-1], 9), dtype="uint8"),
    }
    return raw_corpus(directory, arrays, list(bounds), kind="mdp", state_count=300, action_count=7)
