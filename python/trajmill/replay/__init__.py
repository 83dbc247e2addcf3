"""Replay: buffers, mixtures and windows in the compiled core, and feeding their batches to a GPU."""

from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.trajectory_buffer import TrajectoryBuffer, WindowOptions

__all__ = ["ReplayBuffer", "TrajectoryBuffer", "WindowOptions"]
