"""All rows as one file of a known format, written piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from trajmill.core.progress import Progress
from trajmill.data.formats import format_named, minari
from trajmill.data.records import Columns

Export = Literal["d4rl", "minari", "synther"]
EXPORTS = {
    "d4rl": ("d4rl", "upsampled.hdf5"),
    "minari": ("minari", "upsampled-v0"),
    "synther": ("npz", "upsampled.npz"),
}
"""name of an export -> its format, and the name of its file or directory"""


def check_exports(exports: Sequence[str], count: int) -> None:
    """`DatasetError` if a format cannot take so many transitions."""
    if "minari" in exports:
        minari.check_transitions(count)


def export_bytes(exports: Sequence[str], row_bytes: int) -> int:
    """Bytes of one row in all exports, at most: what is random does not pack."""
    return sum(row_bytes + minari.EPISODE_BYTES * (name == "minari") for name in exports)


def write_export(
    name: str,
    path: Path,
    pieces: Callable[[], Iterator[Columns]],
    count: int,
    metadata: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write `count` rows, which `pieces` gives as often as it is called."""
    task, writer = f"export {name}", cast(Any, format_named(EXPORTS[name][0]))
    writer.write_pieces(path, _Reported(pieces, count, task, progress), count, metadata=metadata)
    progress(task, count, count, "transitions")


@dataclass(frozen=True, slots=True)
class _Reported(Iterable[Columns]):
    """The pieces, and a report at each."""

    pieces: Callable[[], Iterator[Columns]]
    count: int
    task: str
    progress: Progress

    def __iter__(self) -> Iterator[Columns]:
        done = 0
        for piece in self.pieces():
            self.progress(self.task, done, self.count, "transitions")
            yield piece
            done += len(piece["rewards"])
