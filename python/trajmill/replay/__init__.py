"""Replay: buffers, mixtures and windows in the compiled core, and feeding their batches to a GPU."""

from trajmill._core import SeededBatches, Shares
from trajmill.replay.mdp_transitions import MDPTransitions
from trajmill.replay.mixed_replay import MixedReplay, linear
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.trajectory_buffer import TrajectoryBuffer

__all__ = ["MDPTransitions", "MixedReplay", "ReplayBuffer", "SeededBatches", "Shares", "TrajectoryBuffer", "linear"]
