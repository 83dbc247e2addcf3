"""Clusters of directions: found where they are, no vector nearer to another center, seeded, named when impossible."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trajmill.models.spherical_kmeans import spherical_kmeans


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bundles_of_directions_are_found_whatever_the_lengths() -> None:
    axes = torch.eye(4)[:3]
    vectors = (axes.repeat_interleave(50, 0) + 0.05 * torch.randn(150, 4, generator=seeded())) * torch.linspace(
        0.1, 9.0, 150
    )[torch.randperm(150, generator=seeded())][:, None]
    best = max(  # a bad draw may split one bundle and join two
        (spherical_kmeans(vectors, 3, seeded(seed)) for seed in range(5)),
        key=lambda centers: float((F.normalize(vectors, dim=-1) @ centers.T).amax(1).sum()),
    )
    assert torch.allclose(best.norm(dim=-1), torch.ones(3))
    order = (axes @ best.T).argmax(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    for axis, center in zip(range(3), best[order], strict=True):
        mine = F.normalize(vectors[axis * 50 : axis * 50 + 50], dim=-1)
        assert torch.allclose(center, F.normalize(mine.sum(0), dim=-1), atol=1e-6)


def test_centers_stay_where_they_end_and_follow_the_seed() -> None:
    vectors = torch.randn(200, 6, generator=seeded(3))
    centers = spherical_kmeans(vectors, 9, seeded(1))
    directions = F.normalize(vectors, dim=-1)
    nearest = (directions @ centers.T).argmax(1)
    for cluster in range(9):
        expected = F.normalize(directions[nearest == cluster].sum(0), dim=-1)
        assert torch.allclose(centers[cluster], expected, atol=1e-5)
    assert torch.equal(centers, spherical_kmeans(vectors, 9, seeded(1)))
    assert not torch.equal(centers, spherical_kmeans(vectors, 9, seeded(2)))


def test_as_many_clusters_as_vectors_are_the_vectors_and_more_are_refused() -> None:
    vectors = torch.randn(5, 3, generator=seeded())
    centers = spherical_kmeans(vectors, 5, seeded())
    assert torch.allclose((centers @ F.normalize(vectors, dim=-1).T).amax(0), torch.ones(5))
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"count .* 1 to 5.* got {count}"):
            spherical_kmeans(vectors, count, seeded())
