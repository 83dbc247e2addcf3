"""D4RL's normalized score: 0 is a random policy, 100 is D4RL's expert.

The four pairs of numbers are facts published with D4RL (`d4rl/infos.py`, tables REF_MIN_SCORE and REF_MAX_SCORE, equal
for versions v0, v1 and v2): the minimum is the mean return of 100 episodes of a uniformly random policy, the maximum
that of a soft actor-critic policy trained to convergence, both in the MuJoCo 2.0 environments of the time. They belong
to the environment, not to a data set. Hopper's minimum of -20.27 is not what a random policy gets in today's
environment (about 18 is), and stays as published so that scores compare with published scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class ReferenceScore:
    """Undiscounted returns at normalized score 0 and 100."""

    minimum: float
    maximum: float


REFERENCE_SCORES = {
    "halfcheetah": ReferenceScore(-280.178953, 12135.0),
    "hopper": ReferenceScore(-20.272305, 3234.3),
    "walker2d": ReferenceScore(1.629008, 4592.3),
    "ant": ReferenceScore(-325.6, 3879.7),
}


def reference_score(environment: str) -> ReferenceScore:
    """Return the reference returns of an environment named ``"hopper"``, ``"Hopper-v4"`` or ``"hopper-medium-v2"``.

    Raises
    ------
    ValueError
        If the part before the first hyphen, in any case, names no environment with reference scores.
    """
    if not has_reference_score(environment):
        known = ", ".join(REFERENCE_SCORES)
        raise ValueError(f"no reference scores for environment {environment!r}; known: {known}")
    return REFERENCE_SCORES[_key(environment)]


def has_reference_score(environment: str) -> bool:
    """Whether `reference_score` knows the environment."""
    return _key(environment) in REFERENCE_SCORES


def _key(environment: str) -> str:
    return environment.split("-", 1)[0].lower()


def normalized_score(environment: str, returns: ArrayLike) -> NDArray[np.float64]:
    """Turn undiscounted returns into normalized scores, times 100.

    Parameters
    ----------
    environment
        An environment or data set name, as `reference_score` takes it.
    returns
        Any shape; one return or the mean of many.

    Returns
    -------
    NDArray[np.float64]
        ``100 * (returns - minimum) / (maximum - minimum)``, of the shape of `returns`; NaN stays NaN.
    """
    reference = reference_score(environment)
    share = (np.asarray(returns, np.float64) - reference.minimum) / (reference.maximum - reference.minimum)
    return np.asarray(100.0 * share)
