"""How fast laws of token sequences are drawn, beside how published programs draw them.

Run alone on the machine: ``python benchmarks/bench_laws.py [KIND ...]``. Rates are 10^9 tokens (or cells) a second of
processor time on one core, rows of 512 tokens in the smallest dtype, written into the same memory again; those on two
cores are by the clock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import numpy as np
from baselines import laws as theirs
from record import Row, row, write

import trajmill as tm
from trajmill.core.law import Law

LENGTH, TOKENS, ROUNDS = 512, 2**23, 9
UNIT = "G tokens/s"


def best(work: Callable[[], object], *, rounds: int = ROUNDS, clock: Callable[[], float] = process_time) -> float:
    """Seconds of the fastest call, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def rate(law: Law, length: int = LENGTH) -> float:
    """10^9 tokens a second of processor time."""
    length = law.usual_length(length)
    out = law.sample(max(256, TOKENS // length), length)
    return out.size / best(lambda: law.sample(len(out), length, out=out, threads=1)) / 1e9


def yardstick(name: str, draw: Callable[[], np.ndarray[Any, Any]]) -> tuple[str, float]:
    """How fast the published way makes what `draw` makes."""
    return name, draw().size / best(draw, rounds=3) / 1e9


def grammar_rules(law: tm.ContextFreeGrammar) -> tuple[dict[int, list[list[int]]], int]:  # type: ignore[name-defined]
    """Rules by number, as a recursion takes them."""
    names = [symbol for symbol, _ in law.rules]
    number = {name: 100 + place for place, name in enumerate(names)}
    rules = {
        number[symbol]: [[number.get(part, int(part) if part.isdigit() else 0) for part in parts] for parts, _ in sides]
        for symbol, sides in law.rules
    }
    return rules, number[names[0]]


def cases() -> dict[str, tuple[str, Any, float | None, Callable[[], tuple[str, float]] | None]]:
    """Name -> kind, law, what is to be reached, and the published way."""
    population, dyck, task = tm.ChainPopulation, tm.Dyck, tm.SequenceTask
    cfg, hmm, automaton = tm.ContextFreeGrammar.cfg3b(), tm.HiddenMarkovModel.ginc(), tm.CellularAutomaton
    numpy_chains, loops = "NumPy over 4,096 chains", "a NumPy loop a chain"
    rules, start = grammar_rules(cfg)
    return {
        "fresh chains S=2, table": (
            "chain_population",
            population.edelman2024(),
            None,
            lambda: yardstick(loops, lambda: theirs.fresh_chains(20, LENGTH, 2)),
        ),
        "fresh chains S=10, table": (
            "chain_population",
            population(state_count=10, rows="dirichlet", alpha=1.0),
            0.6,
            lambda: yardstick(numpy_chains, lambda: theirs.many_fresh_chains(4096, LENGTH, 10)),
        ),
        "fresh chains S=10, softmax table": (
            "chain_population",
            population(state_count=10, rows="softmax", temperature=1.0),
            0.6,
            None,
        ),
        "fresh chains S=100, urn": (
            "chain_population",
            population(state_count=100, rows="dirichlet", alpha=1.0),
            0.3,
            lambda: yardstick(numpy_chains, lambda: theirs.many_fresh_chains(1024, LENGTH, 100)),
        ),
        "fresh chains S=100, softmax proposals": (
            "chain_population",
            population(state_count=100, rows="softmax", temperature=1.0),
            0.22,
            None,
        ),
        "fresh chains S=4,096, urn": (
            "chain_population",
            population(state_count=4096, rows="dirichlet", alpha=1.0),
            0.22,
            None,
        ),
        "nested brackets k=64": (
            "dyck",
            dyck.hu2025_nested(),
            0.65,
            lambda: yardstick("a Python loop", lambda: theirs.nested_brackets(20, LENGTH)),
        ),
        "crossing brackets k=64": (
            "dyck",
            dyck.hu2025(),
            0.16,
            lambda: yardstick("a NumPy loop", lambda: theirs.crossing_brackets(8, LENGTH)),
        ),
        **{
            f"{name} L=64": (
                "sequence_task",
                task(task=name),
                goal,
                lambda name=name: yardstick("Python lists", lambda: theirs.sequence_task(200, name)),
            )
            for name, goal in (("copy", 1.6), ("reverse", 1.6), ("sort", 0.6), ("set", 0.6))
        },
        "recall, 64 pairs": (
            "associative_recall",
            tm.AssociativeRecall(pairs=64),
            0.5,
            lambda: yardstick("NumPy row by row", lambda: theirs.recall(100, LENGTH, 64)),
        ),
        "hidden Markov model of GINC's size": (
            "hidden_markov_model",
            hmm,
            0.3,
            lambda: yardstick("a NumPy loop", lambda: theirs.hidden_markov(10, LENGTH)),
        ),
        "elementary automaton W=1,000": (
            "cellular_automaton",
            automaton(cells=1000),
            10.0,
            lambda: yardstick("NumPy row by row", lambda: theirs.automaton(20, 1000, 60)),
        ),
        "elementary automaton W=100": (
            "cellular_automaton",
            automaton(),
            10.0,
            lambda: yardstick("NumPy row by row", lambda: theirs.automaton(20, 100, 60)),
        ),
        "grammar cfg3b": (
            "context_free_grammar",
            cfg,
            0.12,
            lambda: yardstick("Python recursion", lambda: theirs.grammar(20, LENGTH, rules, start)),
        ),
        "Zipf, 256 tokens": (
            "zipf_tokens",
            tm.ZipfTokens(),
            1.0,
            lambda: yardstick("NumPy's choice", lambda: theirs.zipf(200, LENGTH, 256)),
        ),
        "bursts": (
            "bursty_sequences",
            tm.BurstySequences.chan(),
            0.3,
            lambda: yardstick("NumPy row by row", lambda: theirs.bursty(200)),
        ),
        "triggers": (
            "trigger_chain",
            tm.TriggerChain(probabilities=np.random.default_rng(0).dirichlet(np.ones(65), 65).tolist(), triggers=5),
            0.6,
            None,
        ),
        "neural automaton": ("neural_cellular_automaton", tm.NeuralCellularAutomaton(), 0.017, None),
    }


def main(kinds: list[str]) -> None:
    rows: list[Row] = []
    known = cases()
    for name, (kind, law, goal, published) in known.items():
        if kinds and kind not in kinds:
            continue
        length = 6000 if kind == "cellular_automaton" else 1024 if kind == "neural_cellular_automaton" else LENGTH
        ours = rate(law, length)
        over = published() if published else None
        unit = "G cells/s" if kind == "cellular_automaton" else UNIT
        rows.append(row(name, ours, unit, over=over))
        aim = "" if goal is None else f", {ours / goal:.2f} of the {goal} to reach"
        than = "" if over is None else f", {ours / over[1]:,.0f} times {over[0]}"
        print(f"{name}: {ours:.3f} {unit}{than}{aim}", flush=True)
    for name in ("nested brackets k=64", "fresh chains S=10, table", "fresh chains S=100, urn", "copy L=64"):
        kind, law, *_ = known[name]
        if not kinds or kind in kinds:
            one, two = (rate_by_clock(law, threads) for threads in (1, 2))
            rows.append(row(f"  {name}, 2 threads", two, UNIT, over=("1 thread", one)))
            print(f"{name}, 2 threads: {two / one:.2f} times 1 thread", flush=True)
    if not kinds:
        write("laws", rows)


def rate_by_clock(law: Law, threads: int) -> float:
    """10^9 tokens a second by the clock."""
    length = law.usual_length(LENGTH)
    out = law.sample(4 * TOKENS // length, length)
    return out.size / best(lambda: law.sample(len(out), length, out=out, threads=threads), clock=perf_counter) / 1e9


if __name__ == "__main__":
    main(sys.argv[1:])
