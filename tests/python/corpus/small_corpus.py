"""Corpora small enough for a test, cut as finely as large ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trajmill.corpus.sources import make_spec


def token_spec(*, row_count: int = 21, length: int = 4096, seed: int = 7) -> dict[str, Any]:
    """Three shards of up to eight rows, blocks of four rows that direct I/O can write."""
    law = {"state_count": 300, "order": 1, "temperature": 1.0, "seed": seed, "initial": "softmax", "backend": "dense"}
    return make_spec("markov", law, row_count=row_count, length=length, shard_rows=8) | {"block_rows": 4}


def mdp_spec(*, row_count: int = 21, length: int = 5) -> dict[str, Any]:
    """Two columns in blocks that direct I/O cannot write."""
    law = {
        "state_count": 300,
        "action_count": 7,
        "policy_temperature": 1.0,
        "transition_temperature": float("inf"),
        "seed": 7,
        "start": "random",
        "backend": "implicit",
    }
    return make_spec("mdp", law, row_count=row_count, length=length, shard_rows=8) | {"block_rows": 4}


SPECS = {"tokens": token_spec(), "mdp": mdp_spec()}


def files(directory: Path) -> dict[str, bytes]:
    """Every file and its content, hidden ones included."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
