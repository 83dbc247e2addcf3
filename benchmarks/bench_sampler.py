"""How fast chains and MDPs are sampled, beside what a user would write, and how far from the machine's limits.

Run alone on the machine: ``python benchmarks/bench_sampler.py``. All rates are in 10^9 tokens or transitions a second.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from record import row, seconds, write

import trajmill as tm
from trajmill import _core
from trajmill.bench import limits
from trajmill.bench.sampler import authors_tokens, numba_chain

ROWS, LENGTH = 65_536, 1024


def chain_rate(chain: tm.MarkovChain, sequence_count: int = 8192) -> float:
    """10^9 tokens a second on one thread, into memory that was used before."""
    out = chain.sample(sequence_count, LENGTH)
    return out.size / seconds(lambda: chain.sample(sequence_count, LENGTH, out=out, threads=1)) / 1e9


def alone(work: limits.Call, amount: float) -> float:
    """10^9 words or look-ups a second."""
    return amount / seconds(work) / 1e9


def main() -> None:
    chain = tm.MarkovChain(state_count=100, seed=42)
    out = np.zeros((ROWS, LENGTH), np.uint8)

    def rate(threads: int, target: np.ndarray | None = out) -> float:
        return ROWS * LENGTH / seconds(lambda: chain.sample(ROWS, LENGTH, out=target, threads=threads), rounds=25) / 1e9

    small = np.zeros((8192, LENGTH), np.uint8)
    loop_of_numba = numba_chain(np.array([chain.probabilities([s]) for s in range(100)]), small)
    numba = small.size / seconds(loop_of_numba) / 1e9
    authors = 32 * 256 / seconds(lambda: authors_tokens(100, 1.0, 666, 32, 256), rounds=3) / 1e9
    memset = out.size / seconds(lambda: out.fill(7)) / 1e9
    wide_authors = 32 * 4 / seconds(lambda: authors_tokens(100_000, 1.0, 666, 32, 4), rounds=3) / 1e9

    one, two, fresh = rate(1), rate(2), rate(1, None)
    unit, loop, theirs = "G tokens/s", ("numba alias loop", numba), ("the authors' way", authors)
    rows = [
        row("dense chain S=100, 1 thread, reused out", one, unit, over=loop, limit=("memset", memset)),
        row("  the same", one, unit, over=theirs),
        row("  2 threads", two, unit, over=("1 thread", one)),
        row("  1 thread, fresh memory", fresh, unit, over=loop),
        row("numba alias loop", numba, unit),
        row("the authors' way", authors, unit),
        row("limit: memset", memset, "GB/s"),
        row("limit: Philox alone, one word a token", alone(*limits.philox(ExitStack())), unit),
        row("limit: look-ups alone, one a token", alone(*limits.lookups(4 * 100 * 100)), unit),
    ]
    best = _core.simd_level()
    for level in _core.available_simd_levels():
        _core.set_simd_level(level)
        rows.append(row(f"  {level}, 1 thread", rate(1), unit, over=loop))
    _core.set_simd_level(best)

    for states, order in ((1000, 1), (100, 2), (10, 5)):
        value = chain_rate(tm.MarkovChain(state_count=states, order=order, backend="dense"))
        rows.append(row(f"dense chain S={states}, order {order}, 1 thread", value, unit))
    for states, order, temperature in ((100_000, 1, 1.0), (100, 5, 1.0), (100_000, 1, 0.01), (100_000, 1, 0.001)):
        implicit = tm.MarkovChain(state_count=states, order=order, temperature=temperature, backend="implicit")
        value = chain_rate(implicit, sequence_count=4096 if temperature == 1.0 else 64)
        over = ("the authors' way at that S", wide_authors) if states == 100_000 else None
        name = f"implicit chain S={states:,}, order {order}, T={temperature:g}, 1 thread"
        rows.append(row(name, value, unit, over=over))
    rows.append(row("the authors' way, S=100,000", wide_authors, unit))
    for size, backend in ((100, "dense"), (100_000, "implicit")):
        mdp = tm.MDP(state_count=size, action_count=size, seed=42, backend=backend)
        data = mdp.sample(4096, 1000)
        value = data.actions.size / seconds(lambda m=mdp, d=data: m.sample(4096, 1000, out=d, threads=1)) / 1e9
        rows.append(row(f"{backend} MDP S=A={size:,}, 1 thread", value, "G transitions/s"))
    write("sampler", rows)


if __name__ == "__main__":
    main()
