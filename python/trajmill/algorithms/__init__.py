"""Methods: one file each. A method is a module with the names below; the type of its settings says which.

docstring
    Help line, paper, the equations with the functions that compute them, deviations.
``Config``, ``SMALL``
    Settings with ranges and sources; a tiny instance for tests, ``--quick`` and benchmarks.
``SCHEDULE``, ``LABEL``, ``EXAMPLES``
    The paper's `Schedule`; the name in reports; lines of ``--help``.
``prepare(config, dataset)``, or ``generate(config, progress)``, or ``explore``
    The `Rows` it learns from: of a dataset, or made from its settings alone. A method that has neither learns online,
    from what it does in an environment (`learns_online`); see below.
``create(config, table, seeds)``
    A fresh `TrainingState`: a dataclass with ``moving()``, ``metrics`` and ``period``.
``step(state, count, first)``
    `count` updates, in place; `first` is the number of the first one, modulo the period.

An online method learns from a table of `TransitionBatch` es, actions within ±1, whose facts are observation_dim,
action_dim and normalizer. It has:

``explore(state, observation, noise)``
    The actions that it takes while it learns: of observations (S, E, O), standardized if the table's are, and standard
    normals (S, E, A), actions (S, E, A) within ±1, for E environments a seed. Without gradients and host reads.
``INTERACTION``
    How it meets its environment if nobody says otherwise (`Interaction`).
``action_values(state, observation, action)``
    What its critics say now of actions (S, n, A) at observations (S, n, O), standardized if the table's are: (S, n).
    With it a run that starts from another one says what it starts with.

The rest is there if the method has it:

``policy(state)``, ``restore(tensors, known)``
    The policies being trained, as they are at each call; those of a checkpoint. Without them there are no scores.
``measure(state)``
    What is measured in place of scores: metric -> one number a seed. It is called at evaluations, outside of a step,
    and may note in the state what is best so far.
``predict(tensors, known, *, seed=None)``
    The model of the dynamics in a checkpoint, its first seed's: a function of raw float32 observations (N, O), actions
    (N, A) and the number of a draw (0 if left out) that gives the next observations (N, O). With a seed, predictions
    are drawn, each draw anew, if the method can do so. Without it a run cannot predict (``--predict``).
``relevance(tensors, known, transitions)``
    How relevant a checkpoint's first seed finds each of N transitions, (N,) float32, such as the errors of its critics:
    what making transitions can be conditioned on (``--relevance``).
``data_values(tensors, known, transitions)``
    What a checkpoint's critics say the states and actions of N transitions are worth, (S, N) float32.
``start_from(state, tensors, known)``
    The state that starts from another method's checkpoint, or a refusal in words. Without it there is no ``--init``.
``adapt(config, dataset, environment)``
    Settings that were left open get the values that belong to the data. A setting ``..._decay_updates`` that is open
    gets the updates of the schedule.
``describe(state)``
    What ``restore`` and ``start_from`` have to know beyond settings.
``Sampling``, ``synthesize(tensors, known, sampling, *, device, data=None, block_size=1024, bfloat16=False)``
    Settings of making transitions, with names that are not options of ``trajmill upsample``; and what makes them from a
    checkpoint: an object with ``block_size``, ``evaluations`` (of the network, for one block) and ``block(seed,
    number)``, host `Transitions` that depend on seed and number alone. `data` are the real `Transitions`. Without them
    there is no ``trajmill upsample --method NAME``.
``check_sampling(settings, sampling)``
    ValueError in words if a model with these settings, as a dict, cannot be asked what a `Sampling` asks.
``UPSAMPLES``, ``RETRAINED``
    True in the method that ``trajmill upsample`` takes by default, and that makes transitions for agents that learn
    online (``--synthesis.every``); and its settings for the latter, where it is trained again and again.
``export(tensors, known, directory)``, ``read_exported(directory)``
    Files of another program.
``bounds(state)``
    Metric -> `Bound` that its mean does not pass while all is well.
``SCALES``
    Metric -> label of its axis in reports.
``SECONDS``
    Rough time of an update of one seed: on a core of a small server, on one H200.
``products(config)``
    What an update multiplies for one seed, up to a factor, by which the time of other settings is predicted; if absent,
    rows of a batch times the square of the widest layer.
``shares_chance(config)``
    Whether the seeds of one process share random numbers, so that processes cannot share the seeds.
``DATA_PARALLEL``
    Whether torchrun's processes may share the batches.
``FORMER``
    How an earlier version wrote its runs (`Former`).

There is no registry: whatever module lies in this folder is a method.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def method_names() -> list[str]:
    """Modules in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def method_named(name: str) -> ModuleType:
    """The module of a method; ValueError if there is none."""
    if name not in method_names():
        raise ValueError(f"there is no method {name!r}; methods are {', '.join(method_names())}")
    return importlib.import_module(f"{__name__}.{name}")


def learns_online(method: ModuleType) -> bool:
    """Whether a method learns from what it does in an environment, and needs no data."""
    return hasattr(method, "explore") and not hasattr(method, "prepare")


def synthesizing_methods() -> list[str]:
    """Methods that can make transitions, the default one first."""
    found = [name for name in method_names() if hasattr(method_named(name), "synthesize")]
    return sorted(found, key=lambda name: not getattr(method_named(name), "UPSAMPLES", False))


def name_of(config: Any) -> str:
    """The method that settings are of, such as ``"td3_bc"``."""
    return type(config).__module__.rpartition(".")[2]


def method_of_kind(kind: str) -> ModuleType | None:
    """The method that wrote a run or a checkpoint of this kind, also in an earlier version; None if none did."""
    if kind in method_names():
        return method_named(kind)
    methods = (method_named(name) for name in method_names())
    return next(
        (method for method in methods if (former := getattr(method, "FORMER", None)) and former.kind == kind), None
    )
