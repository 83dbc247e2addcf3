"""Replay: buffers, mixtures and windows in the compiled core, and feeding their batches to a GPU."""
