"""How fast a corpus reaches the disk and is verified, beside ``dd`` with direct I/O on the same disk in the same run.

Run alone on the machine: ``python benchmarks/bench_corpus.py [DIRECTORY]``; the directory's disk is measured (4 GiB of
it are used), by default the current one. Rounds alternate, since disks of virtual machines change their minds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from record import Row, write

import trajmill as tm
from trajmill.core import checks
from trajmill.corpus.build import build
from trajmill.corpus.sources import make_spec
from trajmill.corpus.survey import verify

ROUNDS = 5
LENGTH = 1024
ROWS = 2**32 // LENGTH
LAW = {"state_count": 100, "order": 1, "temperature": 1.0, "seed": 42, "initial": "softmax"}


def timed(work) -> float:
    started = perf_counter()
    work()
    return ROWS * LENGTH / (perf_counter() - started) / 1e9


def dd(*words: str) -> None:
    subprocess.run(["dd", "bs=16M", *words], check=True, capture_output=True)


def main() -> None:
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    spec = make_spec("markov", LAW, row_count=ROWS, length=LENGTH)
    chain = tm.MarkovChain(**LAW)
    out = np.zeros((65_536, LENGTH), np.uint8)
    rates: dict[str, list[float]] = {name: [] for name in ("sampler", "dd write", "corpus", "dd read", "verify")}
    with tempfile.TemporaryDirectory(dir=place, prefix="bench-corpus-") as folder:
        file, corpus = Path(folder) / "dd", Path(folder) / "corpus"
        for _ in range(ROUNDS):
            rates["sampler"].append(
                timed(lambda: [chain.sample(*out.shape, first_sequence=i, out=out) for i in range(0, ROWS, len(out))])
            )
            shutil.rmtree(corpus, ignore_errors=True)
            file.unlink(missing_ok=True)
            rates["dd write"].append(
                timed(lambda: dd("if=/dev/zero", f"of={file}", "count=256", "oflag=direct", "conv=fsync"))
            )
            rates["corpus"].append(timed(lambda: build(spec, corpus)))
            rates["dd read"].append(timed(lambda: dd(f"if={file}", "of=/dev/null", "iflag=direct")))
            rates["verify"].append(timed(lambda: verify(corpus)))
    rate = {name: median(values) for name, values in rates.items()}
    bound = min("sampler", "dd write", key=rate.__getitem__)
    unit = "GB/s"
    write(
        "corpus",
        [
            Row(
                name=f"corpus to disk, {checks.thread_count(None)} threads",
                value=rate["corpus"],
                unit=unit,
                against="dd oflag=direct",
                ratio=rate["corpus"] / rate["dd write"],
                limit=f"the slower of dd and the sampler ({bound})",
                limit_share=rate["corpus"] / rate[bound],
            ),
            Row(
                name="verify",
                value=rate["verify"],
                unit=unit,
                against="dd iflag=direct",
                ratio=rate["verify"] / rate["dd read"],
                limit="dd iflag=direct",
                limit_share=rate["verify"] / rate["dd read"],
            ),
            *(Row(name=name, value=rate[name], unit=unit) for name in ("sampler", "dd write", "dd read")),
        ],
    )


if __name__ == "__main__":
    main()
