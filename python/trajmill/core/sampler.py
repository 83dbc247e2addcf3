"""What `MarkovChain` and `MDP` have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from trajmill import _core
from trajmill.core import checks, pictures

ExplicitStream = Literal["v1", "v2"]
"""of draws from an explicit law: v2 depends on its probabilities; in v1 laws of one size and seed share their draws"""


def explicit_seed(seed: int, stream: ExplicitStream, *probabilities: NDArray[np.float64]) -> int:
    """What the core takes for the seed of an explicit law: in v2 a hash of the seed and of all probabilities."""
    if checks.choice("stream", stream, ("v1", "v2")) == "v1":
        return seed
    digest = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8)
    for numbers in probabilities:
        digest.update((np.ascontiguousarray(numbers, "<f8") + 0.0).data)  # minus zero is zero
    return int.from_bytes(digest.digest(), "little")


class Sampler:
    """A law and the backend that draws from it; printed, and pickled for the workers of a data loader, by its settings.

    An explicit law is pickled as the call of `from_probabilities` that makes it again, kept in `_explicit`.
    """

    _SETTINGS: ClassVar[str]  # names of attributes and of arguments alike, separated by spaces
    _core: _core.MarkovChain | _core.MDP
    _explicit: Callable[[], Self] | None = None

    @property
    def backend(self) -> str:
        """``"dense"`` or ``"implicit"``: where draws come from."""
        return self._core.backend

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._SETTINGS.split()}

    def __reduce__(self) -> tuple[Any, ...]:
        return self._explicit or partial(type(self), **self._settings()), ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._settings().items())})"

    def _repr_html_(self) -> str:
        sample = self.sample(pictures.ROWS, pictures.COLUMNS)  # type: ignore[attr-defined]
        return pictures.html(repr(self), pictures.token_cells(getattr(sample, "states", sample)))
