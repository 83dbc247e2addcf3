"""datatrove's tokenized files, which nanotron trains on: ``NAME.ds``, its ``.index`` and its ``.metadata``.

Its loader cuts windows of ``seq_len + 1`` tokens, so ``seq_len`` one below a row's length gives the rows. Source:
``datatrove/pipeline/tokens/tokenizer.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trajmill.corpus.export.reading import CorpusRows, write_ramp


@dataclass(frozen=True, slots=True, kw_only=True)
class Datatrove:
    """``tokens-00000.ds`` with index and metadata for each shard; uint16 tokens, uint32 where the corpus has them."""

    copy: bool = False
    """copy what would otherwise be a hard link to a shard of equal bytes"""

    def write(self, rows: CorpusRows, target: Path) -> None:
        """Fill the new directory `target`."""
        (tokens,) = rows.only(["tokens"], "datatrove reads tokens")
        dtype = np.dtype("u2" if np.can_cast(tokens.dtype, "u2") else "u4")
        rows.check_values(tokens, dtype, "datatrove")
        target.mkdir()
        for number, (first, end) in enumerate(rows.shard_ranges):
            path = target / f"tokens-{number:05d}.ds"
            rows.write_values(tokens, dtype, first, end, path, link=not self.copy)
            with path.with_name(f"{path.name}.index").open("xb") as file:  # tokens up to the end of each row
                write_ramp(file, "<u8", end - first, start=tokens.row_length, step=tokens.row_length)
            count = (end - first) * tokens.row_length
            text = f"trajmill|{dtype.itemsize}\n{count}\n{_metric(count)}"
            path.with_name(f"{path.name}.metadata").write_text(text, encoding="utf-8")


def _metric(count: int) -> str:
    """Count for people, three digits, as ``1.05 MT``."""
    for size, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}T"
    return f"{count} T"
