"""What a batch source must remember so that a resumed run draws what an uninterrupted one would have drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trajmill.core import checks


class Resumable:
    """A source whose draws depend on its seed and on how many draws came before."""

    seed: int
    draw_count: int

    def state_dict(self) -> dict[str, Any]:
        """Seed and number of draws made, ready for JSON."""
        return {"seed": self.seed, "draw_count": self.draw_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; ValueError if that was a source with another seed."""
        if state.get("seed") != self.seed:
            raise ValueError(f"the state belongs to seed {state.get('seed')}, this source has seed {self.seed}")
        self.draw_count = checks.integer("draw_count", state.get("draw_count"), 0, 2**64 - 1)
