"""Clusters of directions: k-means with cosine similarity (Dhillon & Modha 2001), for token embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def spherical_kmeans(vectors: Tensor, count: int, generator: Generator, *, round_limit: int = 100) -> Tensor:
    """Directions that stand for the vectors, on the unit sphere.

    Begins with `count` of the vectors, drawn without replacement, and ends when no vector changes its cluster. A
    cluster that loses its last vector keeps its center.

    Parameters
    ----------
    vectors
        (N, width), on the CPU; their lengths do not matter.
    count
        Clusters, from 1 to N.

    Returns
    -------
    (count, width) unit vectors.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be from 1 to {len(vectors)}, the number of vectors, got {count}")
    directions = F.normalize(vectors, dim=-1)
    centers = directions[torch.randperm(len(directions), generator=generator)[:count]]
    nearest = torch.full((len(directions),), -1)
    for _ in range(round_limit):
        before, nearest = nearest, (directions @ centers.T).argmax(1)
        if torch.equal(before, nearest):
            break
        sums = torch.zeros_like(centers).index_add_(0, nearest, directions)
        kept = torch.bincount(nearest, minlength=count) > 0
        centers = torch.where(kept[:, None], F.normalize(sums, dim=-1), centers)
    return centers
