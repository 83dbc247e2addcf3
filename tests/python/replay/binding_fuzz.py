"""Calls every binding of the compiled module with hostile arguments: ``python binding_fuzz.py SEED CALLS``.

Writes each call to a file before it is made, so that the last line names the one that ended the process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import inspect
import os
import random
import resource
import signal
import sys
import warnings
from typing import Any

import numpy as np

from trajmill import _core, laws

CALL_LIMIT = 5  # seconds, of a call that hears signals
DEAF_LIMIT = 900  # seconds for 200 calls: one that hears none ends the process
MEMORY = 1 << 29  # bytes beyond what the imports take
SKIPPED = {"set_simd_level"}  # may choose a slower level for the rest


class Hostile:
    """Raises, or changes what it is given to, wherever Python asks it for something."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def _answer(self, *_: object) -> Any:
        if self.chance.random() < 0.5:
            raise RuntimeError("hostile")
        return self.chance.choice([0, -1, 2**64, None, np.zeros(3), {}])

    __index__ = __len__ = __call__ = __array__ = __getitem__ = __float__ = __iter__ = __int__ = _answer  # noqa: RUF100


def small_array(chance: random.Random) -> np.ndarray:
    shape = tuple(chance.choice([0, 1, 2, 3, 5, 8]) for _ in range(chance.choice([0, 1, 1, 2, 2, 3])))
    dtype = chance.choice(["u1", "u2", "u4", "u8", "i1", "i8", "f2", "f4", "f8", "?", ">i4", ">f8", "c8", "O", "M8[s]"])
    array = np.zeros(shape, dtype)
    if dtype not in ("O", "M8[s]") and array.size:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            array[...] = np.array(chance.choice([0, 1, 0.5, 200, 2**40, float("nan"), float("inf")])).astype(dtype)
    kind = chance.random()
    if kind < 0.1:
        array.flags.writeable = False
    elif kind < 0.2:
        array = array[::-1] if array.ndim else array
    elif kind < 0.25:
        array = np.ma.array(array, mask=True)
    return array


def settings(chance: random.Random) -> Any:
    columns = [("x", chance.choice([(), (2,), (2**31, 2**31, 4)]), np.dtype("f4")), ("reward", (), np.dtype("f4"))]
    columns += [("terminal", (), np.dtype("?")), ("y", chance.choice([(), (2,)]), np.dtype("f4"))]
    return _core.ReplaySettings(
        capacity=chance.choice([1, 8, 64, 2**40, 2**62]),
        columns=columns,
        shared=chance.choice([[], [("y", "x")]]),
        following=chance.choice([None, [], [("y", "x")]]),
        seed=1,
        environment_count=chance.choice([1, 2, 8]),
        n_step=chance.choice([1, 3, 2**31]),
        discount=0.9,
        alpha=chance.choice([None, 0.5]),
    )


def source(chance: random.Random) -> Any:
    made = _core.ReplayBuffer(
        _core.ReplaySettings(
            capacity=64, columns=[("x", (2,), np.dtype("f4"))], shared=[], following=None, seed=1, environment_count=1,
            n_step=1, discount=0.9, alpha=chance.choice([None, 0.5]),
        )
    )  # fmt: skip
    made.add(x=np.ones((64, 2), "f4"))
    return made


def mixture(chance: random.Random) -> Any:
    pick = chance.choice
    named = (
        (1, source(chance), pick([_core.LinearWeight(1, pick([0, 1e308, float("nan")]), 3), Hostile(chance)]), None),
    )
    named += (("b", source(chance), Hostile(chance), pick([None, Hostile(chance)])),)
    named = tuple((str(name), *rest) for name, *rest in named)
    return _core.MixedReplay(sources=named, columns=[("x", (2,), np.dtype("f4"), None)])


LAWS = [
    (law.kind(), *law.core(law.usual_length(24)))
    for kind in laws.names()
    for law in laws.find(kind).examples()
    if law.has_kernel
]
"""kind, numbers and tables of laws that there are"""


def law_arguments(chance: random.Random) -> dict[str, Any]:
    """Those of a law, of which a number, a table or a word of one may be another."""
    kind, numbers, tables = chance.choice(LAWS)
    numbers, tables = list(numbers), [np.array(table, np.uint32) for table in tables]
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        if numbers and chance.random() < 0.6:
            place = chance.randrange(len(numbers))
            wanted = [number for number in NUMBERS if isinstance(number, int)]
            numbers[place] = chance.choice([*wanted, numbers[place] + 1, numbers[place] - 1, chance.getrandbits(64)])
        elif tables:
            table = chance.randrange(len(tables))
            if chance.random() < 0.3:
                tables[table] = tables[table][: chance.randrange(1 + len(tables[table]))]
            elif tables[table].size:
                tables[table].flat[chance.randrange(tables[table].size)] = chance.getrandbits(32)
    return {"kind": kind, "numbers": numbers, "tables": tables}


def law(chance: random.Random) -> Any:
    """A law that its kernel accepts."""
    while True:
        try:
            return _core.Law(**law_arguments(chance))
        except (ValueError, TypeError, MemoryError):
            continue


def known_good(chance: random.Random) -> dict[str, Any]:
    chain = _core.ChainLaw(state_count=5, order=1, temperature=1.0, uniform_initial=True, seed=1)
    mdp = _core.MDPLaw(
        state_count=4, action_count=3, policy_temperature=1.0, transition_temperature=1.0, fixed_start=False, seed=1
    )
    first = source(chance)
    return {
        "ReplayBuffer": first,
        "MixedReplay": mixture(chance),
        "SeededBatches": _core.SeededBatches(first, seeds=[1], batch_size=8),
        "Shares": _core.Shares(2),
        "ChainLaw": chain,
        "MDPLaw": mdp,
        "MarkovChain": _core.MarkovChain(chain, backend="auto", memory_limit=1 << 20, threads=1),
        "MDP": _core.MDP(mdp, backend="auto", memory_limit=1 << 20, threads=1),
        "ReferenceChain": _core.ReferenceChain(state_count=5, order=2, temperature=1.0, seed=1, memory_limit=1 << 20),
        "ReferenceRound": _core.ReferenceRound(reference_worker_count=2, iteration=0, first_worker=0, made_count=2),
        "BatchFeed": _core.BatchFeed(first, 4, [first.sample(4) for _ in range(2)], 1),
        "MDPTransitions": _core.MDPTransitions(
            rows=np.zeros((9, 3), "u1"), state_vectors=np.ones((1, 2), "f4"), action_vectors=np.ones((1, 2), "f4"),
            target_vectors=None, seed=1,
        ),
        "TrajectoryBuffer": _core.TrajectoryBuffer(
            episodes=np.array([[0, 9]], "u8"), arrays=(("x", np.ones(9, "f4"), np.zeros((), "f4")),), context_length=3,
            timestep_limit=9, seed=1,
        ),
        "LinearWeight": _core.LinearWeight(1.0, 0.0, 10),
        "Law": law(chance),
    }  # fmt: skip


NUMBERS = [0, 1, 2, 3, 7, 64, 255, 256, 2**16, 2**31, 2**32 - 1, 2**33, 2**63, 2**64 - 1, 2**64, -1, True, None]
NUMBERS += [0.5, -1.0, 1e308, 1e-308, float("nan"), float("inf")]
WORDS = ["x", "", "auto", "dense", "implicit", "f4", "reward", "a" * 1000, "\0", "\ud800"]


def argument(chance: random.Random, good: dict[str, Any]) -> Any:
    kind = chance.random()
    if kind < 0.35:
        return chance.choice(NUMBERS)
    if kind < 0.55:
        return small_array(chance)
    if kind < 0.70:
        return good[chance.choice(list(good))]
    if kind < 0.75:
        return chance.choice(WORDS)
    if kind < 0.80:
        return Hostile(chance)
    if kind < 0.85:
        return good["ReplayBuffer"].sample(4)
    if kind < 0.90:
        return {chance.choice(WORDS[:3]): small_array(chance) for _ in range(2)}
    if kind < 0.95:
        return [argument(chance, good) for _ in range(chance.choice([0, 1, 2, 3]))]
    return tuple(argument(chance, good) for _ in range(chance.choice([0, 1, 2, 4])))


def keywords_of(function: Any) -> list[str]:
    """Names of the arguments, from the signature that pybind11 writes into the docstring."""
    line = (inspect.getdoc(function) or "").split("\n")[0]
    inner = line[line.find("(") + 1 : line.rfind(")")]
    depth, names, word = 0, [], ""
    for letter in inner + ",":
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            names.append(word.split(":", maxsplit=1)[0].strip())
            word = ""
        else:
            word += letter
    return [name for name in names if name.isidentifier() and name not in ("self", "kwargs")]


def law_columns(chance: random.Random, name: str) -> dict[str, Any]:
    """Arguments of `fill` or `pick` with columns that fit together, but for one now and then."""
    rows, length = chance.choice([0, 1, 3, 70, 200]), chance.choice([0, 1, 2, 5, 24, 65, 130])
    dtypes = ["u1", "u2", "u4", "u8", "i8"]
    columns: dict[str, Any] = {"tokens": np.zeros((rows, length), chance.choice(dtypes))}
    for column in ("loss_mask", "task", "states"):
        if chance.random() < 0.5:
            columns[column] = np.zeros((rows, 1 if column == "task" else length), chance.choice(dtypes))
    if chance.random() < 0.1:
        columns[chance.choice(list(columns))] = small_array(chance)
    columns["threads"] = chance.choice([1, 2])
    if name == "fill":
        return columns | {"first_sequence": chance.choice([0, 5, 2**32 - 1, 2**63, 2**64 - 1 - rows])}
    return columns | {"indexes": np.array([chance.getrandbits(64) for _ in range(rows)], np.uint64)}


def bindings() -> list[tuple[str | None, str]]:
    found: list[tuple[str | None, str]] = []
    for name, value in vars(_core).items():
        if inspect.isclass(value):
            found += [(name, "__init__")]
            found += [(name, method) for method in vars(value) if not method.startswith("__")]
            found += [(name, method) for method in ("__len__", "__call__", "share", "sample") if hasattr(value, method)]
        elif callable(value) and name not in SKIPPED:
            found.append((None, name))
    return found


def call(chance: random.Random, good: dict[str, Any], owner: str | None, name: str, log: Any) -> None:
    holder = _core if owner is None else good.get(owner) if name != "__init__" else None
    target = getattr(_core, owner) if name == "__init__" and owner else None
    names = keywords_of(
        target.__init__ if target is not None else getattr(type(holder), name, None) or getattr(holder, name)
    )
    chosen = [word for word in names if chance.random() < 0.95]
    values = {word: argument(chance, good) for word in chosen}
    if owner == "ReplayBuffer" and name == "__init__" and chance.random() < 0.9:
        values["settings"] = settings(chance)
    if owner == "Law" and chance.random() < 0.9:
        values |= law_arguments(chance) if name == "__init__" else law_columns(chance, name)
    shown = {word: "Hostile" if isinstance(value, Hostile) else repr(value)[:200] for word, value in values.items()}
    log.seek(0)
    log.truncate()
    log.write(f"{owner}.{name}({shown})\n")
    log.flush()
    if target is not None:
        made = target(**values)
        if owner in good and owner is not None:
            good[owner] = made
        return
    attribute = getattr(holder, name)
    if callable(attribute):
        result = attribute(**values)
        if isinstance(result, dict):
            repr(result)
    elif chance.random() < 0.5:
        setattr(holder, name, argument(chance, good))


def main() -> None:
    seed, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    chance = random.Random(seed)
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
    if not os.environ.get("ASAN_OPTIONS"):
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: every thread that allocates would take 64 MB of addresses
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("ignore")

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    every = bindings()
    of_laws = [binding for binding in every if binding[0] == "Law"]
    good = known_good(chance)
    fresh = known_good(chance)
    with open(path, "w", errors="replace") as log:  # noqa: PTH123
        for number in range(count):
            if number % 200 == 0:
                good = known_good(chance)
                faulthandler.dump_traceback_later(DEAF_LIMIT, exit=True)
            if chance.random() < 0.02:
                name = chance.choice(list(good))
                good[name] = fresh[name]
            owner, name = chance.choice(of_laws if chance.random() < 0.2 else every)  # there are many laws in one class
            try:
                signal.setitimer(signal.ITIMER_REAL, CALL_LIMIT)
                call(chance, good, owner, name, log)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Exception:
                signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"made {count} calls of {len(every)} bindings")


if __name__ == "__main__":
    main()
