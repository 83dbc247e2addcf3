"""Replay: buffers, mixtures and windows in the compiled core, and feeding their batches to a GPU."""

from trajmill.replay.trajectory_buffer import TrajectoryBuffer, WindowOptions

__all__ = ["TrajectoryBuffer", "WindowOptions"]
