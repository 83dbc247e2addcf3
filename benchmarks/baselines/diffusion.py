"""Sizes at which diffusion is measured, and its layers."""

from __future__ import annotations

from dataclasses import replace

from trajmill.algorithms import diffusion

Layers = list[tuple[int, int, int]]

SIZES = {
    f"width {width}": replace(diffusion.Config(batch_size=256, decay_updates=100_000), width=width)
    for width in (256, 1024)
}
SAMPLINGS = {
    "paper": diffusion.Sampling(),
    "fast": diffusion.Sampling(sampler="fast"),
    "fast, no fresh noise": diffusion.Sampling(sampler="fast", freshness=0.0),
}


def layers(config: diffusion.Config, columns: int, rows: int, level_rows: int) -> Layers:
    """Rows, inputs and outputs of each layer; the first and the third have inputs from outside."""
    embedding, width = config.embedding_dim, config.width
    first = [(level_rows, 17, embedding), (level_rows, embedding, embedding)]
    blocks = [(rows, width, width)] * config.depth
    return [*first, (rows, columns, embedding), (rows, embedding, width), *blocks, (rows, width, columns)]


FROM_OUTSIDE = (0, 2)
"""layers whose inputs have no gradient"""
