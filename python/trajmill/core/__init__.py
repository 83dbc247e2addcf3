"""The compiled sampler with NumPy arrays: chains, MDPs, and the authors' own streams."""

from trajmill.core import reference
from trajmill.core.markov_chain import MarkovChain
from trajmill.core.mdp import MDP, MDPSample

__all__ = ["MDP", "MDPSample", "MarkovChain", "reference"]
