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
