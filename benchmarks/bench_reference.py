"""How fast the authors' own streams are reproduced, beside the authors' way measured in the same run.

Run alone on the machine: ``python benchmarks/bench_reference.py``. Rates are in 10^6 tokens or transitions a second.
"""

from __future__ import annotations

import numpy as np
from baselines.authors import authors_transitions
from record import Row, row, seconds, write

import trajmill as tm
from trajmill import _core
from trajmill.bench.sampler import authors_tokens
from trajmill.core.reference import ReferenceChain

AUTHORS = "the authors' way"


def chain_rows() -> list[Row]:
    count, length, unit = 32, 256, "M tokens/s"
    authors = count * length / seconds(lambda: authors_tokens(100, 1.0, 666, count, length), rounds=3) / 1e6
    np.testing.assert_array_equal(
        authors_tokens(100, 1.0, 666, 4, 50), tm.reference.markov_tokens(1, 100, 1.0, 666, 1, 4, 50, 0)
    )
    rows = [row("authors' way: chain S=100", authors, unit)]
    for states, order, iterations in ((100, 1, 8), (10, 1, 16), (1000, 1, 2), (100, 2, 4), (100, 5, 1)):
        chain = ReferenceChain(order, states, 1.0, 666)
        out = np.zeros((256, 1024), np.uint16)

        def rate(threads: int = 1, chain: ReferenceChain = chain, out=out, iterations: int = iterations) -> float:
            def make() -> None:
                for iteration in range(iterations):
                    chain.tokens(8, 256, 1024, iteration, out=out, threads=threads)

            return iterations * out.size / seconds(make, rounds=3) / 1e6

        is_theirs, one = states == 100 and order == 1, rate()
        over = (AUTHORS, authors) if is_theirs else None
        rows.append(row(f"chain S={states}, order {order}, 1 thread", one, unit, over=over))
        if is_theirs:
            rows.append(row("  2 threads", rate(2), unit, over=("1 thread", one)))
            best = _core.simd_level()
            _core.set_simd_level("scalar")
            rows.append(row("  scalar", rate(), unit, over=(AUTHORS, authors)))
            _core.set_simd_level(best)
    out = np.zeros((256, 1024), np.uint8)
    spent = seconds(lambda: tm.reference.iid_tokens(100, 666, 8, 256, 1024, 0, out=out, threads=1))
    return [*rows, row("independent tokens S=100, 1 thread", out.size / spent / 1e6, unit)]


def corpus_row() -> Row:
    """The authors' whole corpus: 500 iterations of 256 sequences of 1024 tokens."""
    chain = ReferenceChain(1, 100, 1.0, 666)
    out = np.zeros((256, 1024), np.uint8)

    def make() -> None:
        for iteration in range(500):
            chain.tokens(8, 256, 1024, iteration, out=out)

    return row("the authors' 131,072,000 tokens, all cores", seconds(make, rounds=1), "s")


def mdp_rows() -> list[Row]:
    count, length = 20, 100
    authors = count * length / seconds(lambda: authors_transitions(count, length, 100, 100, 1.0), rounds=3) / 1e6
    expected = list(tm.reference.mdp_transitions(count, length, 100, 100, 1.0, 1.0).values())
    np.testing.assert_array_equal(authors_transitions(count, length, 100, 100, 1.0), expected)
    unit = "M transitions/s"
    rows = [row("authors' way: transitions S=A=100", authors, unit)]
    for states, threads in ((100, 1), (100, 2), (1000, 1)):
        spent = seconds(
            lambda n=states, k=threads: tm.reference.mdp_transitions(1000, 1000, n, n, 1.0, 1.0, threads=k), rounds=3
        )
        name = f"transitions S=A={states}, {threads} thread{'s' * (threads > 1)}"
        rows.append(row(name, 1 / spent, unit, over=(AUTHORS, authors) if states == 100 else None))
    return rows


if __name__ == "__main__":
    write("reference", [*chain_rows(), corpus_row(), *mdp_rows()])
