"""What ours is timed beside: the peers of a method in the module of its name, and the plain loop of its test.

A method without a module here has no peers. A module offers what it can:

``learner(peer, workload, device)``
    Fresh networks and optimizers of one seed for the peers R0, R1, R2 and R3: an object with ``parameters()``, and
    ``update(*batch)``, which gives metrics on the device. A batch has the columns of our batches, in order.
``released_batch(workload)``
    A call that makes a batch in NumPy as the released code does, for R0.
``in_jax(workload)``
    The first arguments of `baselines.in_jax.scanned` and its settings, for R4.
``distance(workload, device)``
    How far peers are from ours on the same weights, batch and chance: quantity -> relative distance.
``WITHOUT``, ``ONE_SEED``
    Peer -> why there is none; why several seeds of ours are not timed together.
``COMPILED``
    Names of functions of the method that change nothing, which "ours compiled" compiles.
``SMALL_SIZE``
    Settings that make the paper's size small enough for a CPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path[:0] = [str(TESTS / folder) for folder in ("support", "reference", "python/algorithms")]


def peers_of(method: str) -> ModuleType | None:
    """The module of a method's peers, if there is one."""
    name = f"{__name__}.{method}"
    return None if importlib.util.find_spec(name) is None else importlib.import_module(name)


def has_plain_loop(method: str) -> bool:
    """Does the method's test have a plain loop."""
    test = TESTS / f"python/algorithms/test_{method}.py"
    return test.exists() and "\ndef plain_loop(" in test.read_text()


def plain_loop_of(method: str) -> Callable[..., Any]:
    """``plain_loop(columns, config, seed)`` of the method's test."""
    return importlib.import_module(f"test_{method}").plain_loop
