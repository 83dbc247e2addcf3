"""Thin NumPy face of the compiled sampler."""
