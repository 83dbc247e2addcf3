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

from trajmill.core import MDP, MarkovChain, MDPSample, reference

__version__: str = _core.version

__all__ = ["MDP", "MDPSample", "MarkovChain", "__version__", "reference"]
