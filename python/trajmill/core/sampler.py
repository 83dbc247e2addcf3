"""What `MarkovChain` and `MDP` have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

from trajmill import _core


class Sampler:
    """A law and the backend that draws from it; printed, and pickled for the workers of a data loader, by its settings.

    An explicit law is pickled as the call of `from_probabilities` that makes it again, kept in `_explicit`.
    """

    _SETTINGS: ClassVar[tuple[str, ...]]
    _core: _core.MarkovChain | _core.MDP
    _explicit: Callable[[], Self] | None = None

    @property
    def backend(self) -> str:
        """``"dense"`` or ``"implicit"``: where draws come from."""
        return self._core.backend

    def __reduce__(self) -> tuple[Any, ...]:
        return self._explicit or partial(type(self), **{name: getattr(self, name) for name in self._SETTINGS}), ()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._SETTINGS)
        return f"{type(self).__name__}({values})"
