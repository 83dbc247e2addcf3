"""Torch modules and their [seeds, ...] layers; no losses, no loops."""
