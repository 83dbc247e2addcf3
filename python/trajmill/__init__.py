"""Compiled sampler and replay engine for synthetic reinforcement-learning data.

>>> import trajmill as tm
>>> chain = tm.MarkovChain(state_count=100, order=1, temperature=1.0, seed=42)
>>> chain.sample(sequence_count=2, length=5).shape
(2, 5)
"""

from importlib import import_module
from typing import TYPE_CHECKING

try:
    from trajmill import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"the compiled module trajmill._core cannot be loaded ({error}); "
        "run `pip install .` in the source tree, and import trajmill from outside of python/"
    ) from error

if TYPE_CHECKING:
    from trajmill.core import MDP, MarkovChain, MDPSample, reference
    from trajmill.corpus import CorpusSampler, VirtualCorpus, open_corpus
    from trajmill.data import Subset, load_dataset, write_dataset
    from trajmill.experiments.policy import load_policy
    from trajmill.experiments.run import load_run, train
    from trajmill.replay import MDPTransitions, MixedReplay, ReplayBuffer, TrajectoryBuffer
    from trajmill.replay.feed import feed

__version__: str = _core.version

__all__ = [
    "MDP",
    "CorpusSampler",
    "MDPSample",
    "MDPTransitions",
    "MarkovChain",
    "MixedReplay",
    "ReplayBuffer",
    "Subset",
    "TrajectoryBuffer",
    "VirtualCorpus",
    "__version__",
    "feed",
    "load_dataset",
    "load_policy",
    "load_run",
    "open_corpus",
    "reference",
    "train",
    "write_dataset",
]

# Where the public names live; a module is loaded, and NumPy with it, when one of its names is first asked for.
_NAMES = {
    "trajmill.core": ("MDP", "MDPSample", "MarkovChain", "reference"),
    "trajmill.corpus": ("CorpusSampler", "VirtualCorpus", "open_corpus"),
    "trajmill.data": ("Subset", "load_dataset", "write_dataset"),
    "trajmill.experiments.policy": ("load_policy",),
    "trajmill.experiments.run": ("load_run", "train"),
    "trajmill.replay": ("MDPTransitions", "MixedReplay", "ReplayBuffer", "TrajectoryBuffer"),
    "trajmill.replay.feed": ("feed",),
}


def __getattr__(name: str) -> object:
    for module, names in _NAMES.items():
        if name in names:
            try:
                value = globals()[name] = getattr(import_module(module), name)
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("trajmill"):
                    raise
                told = f"trajmill.{name} needs {error.name}, which is not installed: pip install 'trajmill[train]'"
                raise ModuleNotFoundError(told, name=error.name) from error
            return value
    if name[:1].isupper():  # a law: tm.HiddenMarkovModel is in trajmill.laws.hidden_markov_model
        laws = import_module("trajmill.laws")
        kind = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
        if kind in laws.names():
            value = globals()[name] = laws.find(kind)
            return value
    raise AttributeError(f"module 'trajmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    laws = ("".join(word.capitalize() for word in kind.split("_")) for kind in import_module("trajmill.laws").names())
    return sorted({*__all__, *laws})
