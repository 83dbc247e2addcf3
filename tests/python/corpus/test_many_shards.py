"""What a corpus takes of the system does not grow with the number of its shards."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_corpus import token_spec

import trajmill as tm
from trajmill.corpus.build import build
from trajmill.corpus.export import FORMATS, export_corpus
from trajmill.corpus.survey import verify

SHARDS = 300
TOKENS = [name for name in FORMATS if name not in ("d4rl",)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many") / "corpus"
    build(token_spec(row_count=SHARDS, length=8) | {"shard_rows": 1, "block_rows": 1}, directory)
    return directory


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_every_way_to_read_takes_few_descriptors(corpus: Path, few_descriptors: None) -> None:
    stored = tm.open_corpus(corpus)
    order = np.random.default_rng(0).permutation(SHARDS)
    rows = stored[order]
    assert np.array_equal(rows, np.stack([stored[int(row)] for row in order]))
    assert np.array_equal(rows, np.concatenate([shard.copy() for shard in stored.shards()])[order])
    assert np.array_equal(np.concatenate(stored.shards()[5:8]), stored[5:8])
    assert len(stored.shards()) == SHARDS and np.array_equal(stored.shards()[-1][0], stored[SHARDS - 1])
    with pytest.raises(IndexError):
        stored.shards()[SHARDS]
    kept = stored.shards()[0]
    stored[order]
    assert np.array_equal(kept[0], stored[0])  # a map in use is not taken away
    verify(corpus, threads=2)


@pytest.mark.parametrize("name", TOKENS)
def test_every_format_takes_few_descriptors(name: str, corpus: Path, tmp_path: Path, few_descriptors: None) -> None:
    export_corpus(FORMATS[name](), tm.open_corpus(corpus), tmp_path / "out")
    assert list((tmp_path / "out").iterdir())
