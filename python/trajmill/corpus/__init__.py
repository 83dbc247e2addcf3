"""Corpora, virtual and stored: the format is on one page, docs/corpus-format.md."""

from typing import TYPE_CHECKING, Any

from trajmill.corpus.layout import Column, CorpusError
from trajmill.corpus.order import CorpusSampler
from trajmill.corpus.virtual import VirtualCorpus

if TYPE_CHECKING:
    from trajmill.corpus.stored import StoredCorpus, open_corpus

__all__ = ["Column", "CorpusError", "CorpusSampler", "StoredCorpus", "VirtualCorpus", "open_corpus"]


def __getattr__(name: str) -> Any:
    """What needs xxhash, when it is first asked for: virtual corpora do without."""
    if name in ("StoredCorpus", "open_corpus"):
        from trajmill.corpus import stored

        return getattr(stored, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
