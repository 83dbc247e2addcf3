"""How fast a corpus reaches the disk and is verified, beside ``dd`` with direct I/O on the same disk in the same run.

Run alone on the machine: ``python benchmarks/bench_corpus.py [DIRECTORY]``; the directory's disk is measured (4 GiB of
it are used), by default the current one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from record import dd_read, dd_write, disk, disk_rates, row, write

import trajmill as tm
from trajmill.core import checks
from trajmill.corpus.build import build
from trajmill.corpus.sources import make_spec
from trajmill.corpus.survey import verify

LENGTH = 1024
ROWS = 2**32 // LENGTH
LAW = {"state_count": 100, "order": 1, "temperature": 1.0, "seed": 42, "initial": "softmax"}


def main() -> None:
    spec = make_spec("markov", LAW, row_count=ROWS, length=LENGTH)
    chain = tm.MarkovChain(**LAW)
    out = np.zeros((65_536, LENGTH), np.uint8)

    def sample() -> None:
        for first in range(0, ROWS, len(out)):
            chain.sample(*out.shape, first_sequence=first, out=out)

    with tempfile.TemporaryDirectory(dir=disk(), prefix="bench-corpus-") as folder:
        file, corpus = Path(folder) / "dd", Path(folder) / "corpus"
        works = {
            "sampler": sample,
            "dd write": dd_write(file, ROWS * LENGTH),
            "corpus": lambda: build(spec, corpus),
            "dd read": dd_read(file),
            "verify": lambda: verify(corpus),
        }
        before = {"dd write": lambda: (file.unlink(missing_ok=True), shutil.rmtree(corpus, ignore_errors=True))}
        rate = disk_rates(works, ROWS * LENGTH, before)
    bound = min("sampler", "dd write", key=rate.__getitem__)
    to_disk, unit = f"corpus to disk, {checks.thread_count(None)} threads", "GB/s"
    slower = (f"the slower of dd and the sampler ({bound})", rate[bound])
    read = ("dd iflag=direct", rate["dd read"])
    rows = [
        row(to_disk, rate["corpus"], unit, over=("dd oflag=direct", rate["dd write"]), limit=slower),
        row("verify", rate["verify"], unit, over=read, limit=read),
        *(row(name, rate[name], unit) for name in ("sampler", "dd write", "dd read")),
    ]
    write("corpus", rows)


if __name__ == "__main__":
    main()
