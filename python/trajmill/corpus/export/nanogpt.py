"""nanoGPT's and its forks' ``train.bin`` and ``val.bin``: tokens back to back as uint16, nothing else.

The loader cuts windows anywhere, also across sequences. Source: ``data/*/prepare.py`` and ``train.py`` of nanoGPT.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

from trajmill.core import checks
from trajmill.corpus.errors import CorpusError
from trajmill.corpus.export.reading import CorpusRows


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoGPT:
    """``train.bin``, ``val.bin`` and ``meta.pkl`` with the vocabulary size; tokens become uint16."""

    validation_fraction: float = 0.1
    """share of the sequences, the last ones, that become val.bin, in [0, 1); 0 writes no val.bin (0.1 is nanoGPT's)"""
    copy: bool = False
    """copy what would otherwise be a hard link to a shard of equal bytes"""

    def __post_init__(self) -> None:
        checks.number("validation_fraction", self.validation_fraction, "[0, 1)")

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        (tokens,) = rows.only(["tokens"], "nanoGPT reads tokens")
        rows.check_values(tokens, "u2", "nanoGPT")
        validation_rows = round(rows.count * self.validation_fraction)
        if self.validation_fraction > 0 and not 0 < validation_rows < rows.count:
            raise CorpusError(
                f"{rows.directory} holds {rows.count} sequences, too few to keep a fraction of "
                f"{self.validation_fraction} apart; change the fraction, 0 writes no val.bin"
            )
        target.mkdir()
        cut = rows.count - validation_rows
        rows.write_values(tokens, "u2", 0, cut, target / "train.bin", link=not self.copy)
        if validation_rows:
            rows.write_values(tokens, "u2", cut, rows.count, target / "val.bin", link=not self.copy)
        (target / "meta.pkl").write_bytes(_meta(rows.value_count("state_count", "tokens")))


def _meta(vocabulary_size: int) -> bytes:
    """What ``train.py`` and ``sample.py`` of nanoGPT look up; a token is spelled as its number."""
    names = {token: str(token) for token in range(vocabulary_size)}
    meta = {"vocab_size": vocabulary_size, "itos": names, "stoi": {name: token for token, name in names.items()}}
    return pickle.dumps(meta, protocol=4)
