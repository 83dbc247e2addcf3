"""Corpora, virtual and stored: the format is on one page, docs/corpus-format.md."""

from trajmill.core.column import Column
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.order import CorpusSampler
from trajmill.corpus.rows import StoredCorpus, VirtualCorpus, open_corpus

__all__ = ["Column", "CorpusError", "CorpusSampler", "StoredCorpus", "VirtualCorpus", "open_corpus"]
