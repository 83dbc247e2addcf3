"""Processes that train together, seen from one that is alone; `torchrun` itself is tested with whole runs."""

from __future__ import annotations

import pytest
import torch

from trajmill.training.distributed import ALONE, Ranks, current_ranks, is_first, joined


def test_alone_nothing_is_sent_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks is ALONE is current_ranks() and ranks.is_first
        tensor = torch.tensor([1.0, 2.0])
        ranks.all_reduce(tensor)
        ranks.broadcast(tensor)
        assert tensor.tolist() == [1.0, 2.0]
        assert ranks.maximum(7) == 7 and ranks.share(10) == 10


def test_every_process_takes_the_same_share_of_a_batch() -> None:
    assert Ranks(rank=1, count=3).share(12) == 4
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 10"):
        Ranks(rank=1, count=3).share(10)


def test_the_first_process_is_known_before_all_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, first in (("0", True), ("3", False)):
        monkeypatch.setenv("RANK", rank)
        assert is_first() is first
    monkeypatch.delenv("RANK")
    assert is_first()
    assert Ranks(rank=0, count=2).is_first and not Ranks(rank=1, count=2).is_first
