"""An environment of a package of one's own, which importing this module registers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Valve(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Three numbers that a valve in [0, 1] and a rudder in [-2, 1] push; cuts its episodes by itself at step 12.

    It ends before that where the first number is above 0.5. `chance` says where randomness comes from.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gymnasium.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([1.0, 1.0], np.float32))

    def __init__(self, chance: str = "seed") -> None:
        self.chance = chance

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.generator = self.np_random if self.chance == "seed" else np.random.default_rng()
        self.place, self.made = self.generator.normal(size=3), 0
        return self.place.copy(), {}

    def step(self, action: NDArray[np.float32]) -> Any:
        if not self.action_space.contains(action):
            raise ValueError(f"outside of the limits: {action}")
        self.made += 1
        self.place = 0.9 * self.place + 0.1 * np.array([*action, self.generator.normal()])
        ended = bool(self.made > 3 and self.place[0] > 0.5)
        return self.place.copy(), -float(np.sum(self.place**2)), ended, self.made >= 12, {}


gymnasium.register("Valve-v0", entry_point=Valve, max_episode_steps=20)
gymnasium.register("Chancy-v0", entry_point=Valve, kwargs={"chance": "none"}, max_episode_steps=20)
