"""Compiled sampler and replay engine for synthetic reinforcement-learning data.

>>> import trajmill as tm
>>> chain = tm.MarkovChain(state_count=100, order=1, temperature=1.0, seed=42)
>>> chain.sample(sequence_count=2, length=5).shape
(2, 5)
"""

try:
    from trajmill import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        f"the compiled module trajmill._core cannot be loaded ({error}); "
        "run `pip install .` in the source tree, and import trajmill from outside of python/"
    ) from error

from typing import TYPE_CHECKING, Any

from trajmill.core import MDP, MarkovChain, MDPSample, reference

if TYPE_CHECKING:
    from trajmill.corpus import CorpusSampler, VirtualCorpus, open_corpus

__version__: str = _core.version

__all__ = [
    "MDP",
    "CorpusSampler",
    "MDPSample",
    "MarkovChain",
    "VirtualCorpus",
    "__version__",
    "open_corpus",
    "reference",
]


def __getattr__(name: str) -> Any:
    """What costs time to import, when it is first asked for."""
    if name in ("CorpusSampler", "VirtualCorpus", "open_corpus"):
        from trajmill import corpus

        return getattr(corpus, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
