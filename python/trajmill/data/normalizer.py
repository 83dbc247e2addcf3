"""Standardizing observations by the mean and spread of named data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from trajmill.core import checks
from trajmill.data.records import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalizer:
    """Subtract `mean`, divide by `scale`; both float32 (O,). Stored with every policy that was trained on its output.

    ``scale`` is the population standard deviation plus `epsilon`, so a constant column gives 0, not infinity.
    """

    mean: FloatArray  # (O,)
    scale: FloatArray  # (O,), > 0
    epsilon: float

    @classmethod
    def fit(cls, observations: FloatArray, epsilon: float) -> Self:
        """Measure the columns of observations (N, O), N >= 1, finite; sums run in double precision.

        `epsilon`, > 0, is added to the standard deviation. The Decision Transformer's code uses 1e-6, TD3+BC's 1e-3.
        """
        if observations.ndim != 2 or len(observations) == 0:
            raise ValueError(f"observations must have shape (N, O) with N >= 1, got {observations.shape}")
        checks.number("epsilon", epsilon, "(0, inf)")
        mean = observations.mean(axis=0, dtype=np.float64)
        deviation = observations.std(axis=0, dtype=np.float64)
        return cls(mean=mean.astype(np.float32), scale=(deviation + epsilon).astype(np.float32), epsilon=epsilon)

    def normalize(self, observations: FloatArray) -> FloatArray:
        """Standardize observations (..., O); float32 in, float32 out."""
        return (observations - self.mean) / self.scale

    def denormalize(self, standardized: FloatArray) -> FloatArray:
        """What `normalize` made (..., O) of, up to rounding; float32 in, float32 out."""
        return standardized * self.scale + self.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON; float32 values survive the round trip exactly."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist(), "epsilon": self.epsilon}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any]) -> Self | None:
        """The normalizer that a checkpoint's metadata has, None if it has none: earlier versions had none to write."""
        known = metadata.get("normalizer")
        return None if known is None else cls.from_dict(known)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote."""
        mean, scale = (np.asarray(values[key], np.float32) for key in ("mean", "scale"))
        return cls(mean=mean, scale=scale, epsilon=float(values["epsilon"]))
