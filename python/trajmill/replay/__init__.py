"""Batches for training loops: a replay buffer, and the sources that are mixed with it."""

from trajmill.replay.replay_buffer import ReplayBuffer

__all__ = ["ReplayBuffer"]
