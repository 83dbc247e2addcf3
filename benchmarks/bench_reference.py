"""How fast the authors' own streams are reproduced, beside the authors' way measured in the same run.

Run alone on the machine: ``python benchmarks/bench_reference.py``. Rates are in 10^6 tokens or transitions a second.
"""

from __future__ import annotations

import numpy as np
from baselines.authors import authors_tokens, authors_transitions
from record import Row, seconds, write

import trajmill as tm
from trajmill import _core
from trajmill.core.reference import ReferenceChain

AGAINST = "the authors' way"


def chain_rows() -> list[Row]:
    rows, length = 32, 256
    authors = rows * length / seconds(lambda: authors_tokens(100, 1.0, 666, rows, length), rounds=3) / 1e6
    np.testing.assert_array_equal(
        authors_tokens(100, 1.0, 666, 4, 50), tm.reference.markov_tokens(1, 100, 1.0, 666, 1, 4, 50, 0)
    )
    table = [Row(name="authors' way: chain S=100", value=authors, unit="M tokens/s")]
    for states, order, iterations in ((100, 1, 8), (10, 1, 16), (1000, 1, 2), (100, 2, 4), (100, 5, 1)):
        chain = ReferenceChain(order, states, 1.0, 666)
        out = np.zeros((256, 1024), np.uint16)

        def make(threads: int = 1, chain: ReferenceChain = chain, out=out, iterations: int = iterations) -> None:
            for iteration in range(iterations):
                chain.tokens(8, 256, 1024, iteration, out=out, threads=threads)

        name = f"chain S={states}, order {order}"
        rate = iterations * out.size / seconds(make, rounds=3) / 1e6
        against = {"against": AGAINST, "ratio": rate / authors} if states == 100 and order == 1 else {}
        table.append(Row(name=f"{name}, 1 thread", value=rate, unit="M tokens/s", **against))
        if against:
            both = iterations * out.size / seconds(lambda make=make: make(threads=2), rounds=3) / 1e6
            table.append(Row(name="  2 threads", value=both, unit="M tokens/s", against="1 thread", ratio=both / rate))
            best = _core.simd_level()
            _core.set_simd_level("scalar")
            scalar = iterations * out.size / seconds(make, rounds=3) / 1e6
            _core.set_simd_level(best)
            row = Row(name="  scalar", value=scalar, unit="M tokens/s", against=AGAINST, ratio=scalar / authors)
            table.append(row)
    out = np.zeros((256, 1024), np.uint8)
    rate = out.size / seconds(lambda: tm.reference.iid_tokens(100, 666, 8, 256, 1024, 0, out=out, threads=1)) / 1e6
    table.append(Row(name="independent tokens S=100, 1 thread", value=rate, unit="M tokens/s"))
    return table


def corpus_row() -> Row:
    """The authors' whole corpus: 500 iterations of 256 sequences of 1024 tokens."""
    chain = ReferenceChain(1, 100, 1.0, 666)
    out = np.zeros((256, 1024), np.uint8)

    def make() -> None:
        for iteration in range(500):
            chain.tokens(8, 256, 1024, iteration, out=out)

    return Row(name="the authors' 131,072,000 tokens, all cores", value=seconds(make, rounds=1), unit="s")


def mdp_rows() -> list[Row]:
    count, length = 20, 100
    authors = count * length / seconds(lambda: authors_transitions(count, length, 100, 100, 1.0), rounds=3) / 1e6
    expected = list(tm.reference.mdp_transitions(count, length, 100, 100, 1.0, 1.0).values())
    np.testing.assert_array_equal(authors_transitions(count, length, 100, 100, 1.0), expected)
    table = [Row(name="authors' way: transitions S=A=100", value=authors, unit="M transitions/s")]
    for states, threads in ((100, 1), (100, 2), (1000, 1)):
        spent = seconds(
            lambda n=states, k=threads: tm.reference.mdp_transitions(1000, 1000, n, n, 1.0, 1.0, threads=k), rounds=3
        )
        against = {"against": AGAINST, "ratio": 1 / spent / authors} if states == 100 else {}
        name = f"transitions S=A={states}, {threads} thread{'s' * (threads > 1)}"
        table.append(Row(name=name, value=1 / spent, unit="M transitions/s", **against))
    return table


if __name__ == "__main__":
    write("reference", [*chain_rows(), corpus_row(), *mdp_rows()])
