"""The streams under dieharder: alone, and interleaved over sequences, seeds, chains and domains.

With 256 states at temperature inf a token is eight bits of its draw, so the tokens are the stream itself. Needs the
program ``dieharder`` (Debian's package of that name). Its p-values lean high at 20 samples, for NumPy's PCG64 too, so
only small ones count.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import trajmill as tm

# birthdays, 32x32 ranks, bitstream, count-1s twice, parking lot, 3d spheres, runs, craps, monobit, STS runs, KS
TESTS = (0, 2, 4, 8, 9, 10, 12, 15, 16, 100, 101, 204)
SAMPLES = 20
BLOCK = 1 << 22


@functools.cache
def uniform_chain(seed: int = 0, order: int = 0) -> tm.MarkovChain:
    return tm.MarkovChain(state_count=256, order=order, temperature=np.inf, seed=seed)


@functools.cache
def uniform_mdp() -> tm.MDP:
    return tm.MDP(state_count=256, action_count=256, policy_temperature=np.inf, transition_temperature=np.inf)


def one_sequence_after_another(block: int) -> np.ndarray:
    return uniform_chain().sample(1, BLOCK, first_sequence=block)


def interleaved_sequences(block: int) -> np.ndarray:
    """The first 64 tokens of each of very many sequences."""
    return uniform_chain().sample(BLOCK // 64, 64, first_sequence=block * BLOCK // 64)


def interleaved_seeds(block: int) -> np.ndarray:
    """Token t of neighbouring seeds, side by side."""
    return np.stack([uniform_chain(seed=s).sample(1, BLOCK // 64, first_sequence=block)[0] for s in range(64)], -1)


def interleaved_chains(block: int) -> np.ndarray:
    """Chains of one seed that differ in order alone."""
    return np.stack([uniform_chain(order=o).sample(1, BLOCK // 2, first_sequence=block)[0] for o in (0, 1)], -1)


def interleaved_domains(block: int) -> np.ndarray:
    """States and actions of one MDP, and tokens of the chain with the same seed."""
    length = BLOCK // 4
    data = uniform_mdp().sample(1, length, first_trajectory=block)
    tokens = uniform_chain().sample(2, length, first_sequence=2 * block)
    return np.stack([data.states[0, 1:], data.actions[0], *tokens], -1)


def p_values(stream: Callable[[int], np.ndarray], test: int) -> tuple[list[float], str]:
    command = ["dieharder", "-g", "200", "-d", str(test), "-p", str(SAMPLES), "-c", ",", "-D", "pvalues"]
    command += ["-D", "assessment"]
    blocks: Iterator[np.ndarray] = (stream(block) for block in itertools.count())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # dieharder has read enough
            for block in blocks:
                process.stdin.write(np.ascontiguousarray(block).data)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        text = process.stdout.read().decode()
    lines = [line.split(",") for line in text.splitlines() if line.strip()]
    return [float(line[0]) for line in lines], text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dieharder") is None, reason="needs the program dieharder")
@pytest.mark.parametrize(
    "stream",
    [one_sequence_after_another, interleaved_sequences, interleaved_seeds, interleaved_chains, interleaved_domains],
)
def test_dieharder(stream: Callable[[int], np.ndarray]) -> None:
    for test in TESTS:
        values, text = p_values(stream, test)
        assert values and min(values) > 1e-6 and "FAILED" not in text, f"test {test}: {text}"
