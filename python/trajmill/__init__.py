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
    from trajmill.data import Subset, load_dataset

__version__: str = _core.version

__all__ = [
    "MDP",
    "CorpusSampler",
    "MDPSample",
    "MarkovChain",
    "Subset",
    "VirtualCorpus",
    "__version__",
    "load_dataset",
    "open_corpus",
    "reference",
]

# Where each public name lives; it is loaded, and NumPy with it, when it is first asked for.
_HOMES = {
    "MDP": "trajmill.core",
    "MDPSample": "trajmill.core",
    "MarkovChain": "trajmill.core",
    "reference": "trajmill.core",
    "CorpusSampler": "trajmill.corpus",
    "VirtualCorpus": "trajmill.corpus",
    "open_corpus": "trajmill.corpus",
    "Subset": "trajmill.data",
    "load_dataset": "trajmill.data",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'trajmill' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
