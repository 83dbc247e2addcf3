"""Exports of corpora too large for a test to write: index arithmetic beyond 2^31, and memory that does not grow."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trajmill.corpus.export import FORMATS
from trajmill.corpus.export.tokens import write_megatron_index


def test_megatron_offsets_are_64_bit():
    """Five sequences of the greatest length: byte offsets beyond 2^32."""
    length = 2**31 - 1
    file = io.BytesIO()
    write_megatron_index(file, np.dtype("int32"), 5, length)
    assert np.frombuffer(file.getvalue(), "<i4", 5, 34).tolist() == [length] * 5
    assert np.frombuffer(file.getvalue(), "<i8", 5, 54).tolist() == [4 * length * i for i in range(5)]


class SampledFile:
    """A file of any size that keeps its length and a few eight-byte words."""

    def __init__(self, *offsets: int) -> None:
        self.size = 0
        self.words = dict.fromkeys(offsets, b"")

    def write(self, data) -> None:
        view = memoryview(data).cast("B")
        for offset in self.words:
            first, end = max(offset - self.size, 0), min(offset + 8 - self.size, len(view))
            if first < end:  # a word may come in two parts
                self.words[offset] += bytes(view[first:end])
        self.size += len(view)


@pytest.mark.slow
@pytest.mark.parametrize("sequence_count", [2**31 - 1, 2**31, 2**31 + 1])
def test_megatron_index_around_two_to_the_31_sequences(sequence_count):
    """A whole index of 43 GB goes by; its words around the limit are kept."""
    count, length = sequence_count, 2048
    lengths, pointers, ends = 34, 34 + 4 * count, 34 + 12 * count
    around = [pointers + 8 * i for i in (0, 1, count - 2, count - 1)] + [ends + 8 * i for i in (0, count - 1, count)]
    file = SampledFile(18, 26, lengths, lengths + 4 * (count - 2), *around)
    write_megatron_index(file, np.dtype("uint16"), count, length)
    assert file.size == 34 + 20 * count + 8
    words = [struct.unpack("<q", word)[0] for word in file.words.values()]
    pair = length << 32 | length  # two int32 lengths
    pointer = [i * length * 2 for i in (0, 1, count - 2, count - 1)]
    assert words == [count, count + 1, pair, pair, *pointer, 0, count - 1, count]


MEASURE = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from export_corpora import raw_corpus
from trajmill.corpus.export import FORMATS, export_corpus

def resident():
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

name, directory = sys.argv[2], Path(sys.argv[3])
if name == "d4rl":
    arrays = {"states": np.zeros((4000, 1001), "uint8"), "actions": np.zeros((4000, 1000), "uint8")}
    format = FORMATS[name](observation_dim=17, action_dim=6)
else:
    arrays = {"tokens": np.zeros((2**17, 2048), "uint8")}
    format = FORMATS[name]()
row_count = len(next(iter(arrays.values())))
corpus = raw_corpus(directory / "corpus", arrays, [0, 2000, row_count], state_count=3, action_count=3)
arrays.clear()
start, most = resident(), 0

def look(*_):
    global most
    most = max(most, resident() - start)

export_corpus(format, corpus, directory / "out", progress=look)
print(most)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_memory_does_not_grow_with_the_corpus(tmp_path, name):
    """256 MiB of tokens (for D4RL 640 MB of vectors) pass through less than 100 MiB of memory."""
    words = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), name, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 2**20
