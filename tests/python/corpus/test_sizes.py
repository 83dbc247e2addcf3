"""Arithmetic where 32 bits end and at 2^40 tokens, on sparse files."""

from __future__ import annotations

import numpy as np
import pytest

import trajmill as tm
from trajmill.core.column import Column
from trajmill.corpus.layout import Layout
from trajmill.corpus.records import MANIFEST, Manifest


def sparse_corpus(directory, row_count, row_length, shard_rows, marks):
    """A corpus of zeros whose rows at `marks` end with 1, without the disk space."""
    column = Column(name="tokens", dtype="uint16", row_length=row_length)
    spec = {"row_count": row_count, "shard_rows": shard_rows, "block_rows": 1}
    layout = Layout.of(spec, [column])
    for shard in range(layout.shard_count):
        with (directory / column.file_name(shard)).open("wb") as file:
            file.truncate(layout.file_bytes(column, shard))
            for row in marks:
                if row in layout.rows(shard):
                    file.seek((row - layout.rows(shard).start + 1) * column.row_bytes - 2)
                    file.write(b"\1\0")
    manifest = Manifest(spec=spec, layout=layout, receipts=("0" * 32,) * layout.shard_count)
    (directory / MANIFEST).write_bytes(manifest.to_bytes())


@pytest.mark.parametrize("row_count", [2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32 + 1])
def test_more_rows_than_32_bits_count(row_count, tmp_path):
    marks = {0, 2**31 - 2, row_count - 1}
    sparse_corpus(tmp_path, row_count, 1, 2**30, marks)
    corpus = tm.open_corpus(tmp_path)
    assert len(corpus) == row_count
    around = sorted(
        {max(0, mark + step) for mark in marks for step in (-1, 0, 1)} & set(range(row_count - 5, row_count)) | marks
    )
    assert [int(corpus[row][-1]) for row in around] == [int(row in marks) for row in around]
    assert corpus.__getitems__(np.array(sorted(marks))).tolist() == [[1]] * len(marks)
    with pytest.raises(IndexError):
        corpus[row_count]


@pytest.mark.parametrize("shard_rows", [2**22, 2**30])  # 256 shards of 8 GB, or one of 2 TB
def test_2_to_the_40_tokens(shard_rows, tmp_path):
    row_count, length = 2**30, 2**10
    marks = {0, 2**21 - 1, 2**21, 2**22, row_count - 1}  # 2^31 - 1 and 2^32 tokens lie between these
    sparse_corpus(tmp_path, row_count, length, shard_rows, marks)
    corpus = tm.open_corpus(tmp_path)
    rows = sorted(marks | {2**21 + 1, 2**22 - 1})
    assert corpus.__getitems__(np.array(rows))[:, -1].tolist() == [int(row in marks) for row in rows]
    assert sum(shard.size for shard in corpus.shards()) == 2**40


def test_the_largest_layout():
    column = Column(name="tokens", dtype="uint32", row_length=2**20)
    layout = Layout(columns=(column,), row_count=2**63 - 1, shard_rows=2**20, block_rows=4)
    assert layout.shard_count == 2**43
    assert layout.rows(2**43 - 1) == range(2**63 - 2**20, 2**63 - 1)
    assert layout.byte_count == (2**63 - 1) * 2**22
