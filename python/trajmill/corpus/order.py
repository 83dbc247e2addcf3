"""Orders of rows: a keyed bijection instead of a stored permutation, and batches that hold every row once an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks


class Permutation:
    """An order of `size` rows that is a pure function of `seed` and `epoch` and takes no memory.

    A Feistel network whose round function is Philox, with cycle walking (docs/corpus-format.md).
    """

    def __init__(self, size: int, *, seed: int, epoch: int = 0) -> None:
        self.size = checks.integer("size", size, 1, 2**63 - 1)
        self.seed = checks.seed(seed)
        self.epoch = checks.integer("epoch", epoch, 0, 2**64 - 1)

    def __call__(self, positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """The rows at `positions` (n,), each in [0, size), as int64 (n,); IndexError outside."""
        unsigned = np.asarray(positions).astype(np.uint64)  # a negative number becomes too large
        return _core.permute(unsigned, size=self.size, seed=self.seed, epoch=self.epoch).view(np.int64)


class CorpusSampler:
    """Batches of row numbers for one of several consumers that together read every row once an epoch.

    A batch sampler for ``torch.utils.data.DataLoader(corpus, batch_sampler=...)``, or for any loop. A step gives every
    consumer the next `batch_size` positions of one global order, so one integer says what has been consumed: after a
    restart, any number of consumers continues from it. Every iterator has an epoch of its own: the next one begins the
    next epoch, also if this one was left early, however far a loader's workers had asked ahead. At the end of an epoch
    the consumers share what is left as evenly as possible, so a last batch may be short or, with fewer rows than
    consumers, empty; with `drop_last` that step is left out.

    A `seed` shuffles every epoch by a keyed bijection; None keeps the order of the corpus. `rank` is the number of this
    consumer of `world_size`. If each of R processes reads with W workers of its own, worker w of process r is
    ``rank=r * W + w, world_size=R * W``; a DataLoader's own workers need no such care.
    """

    def __init__(
        self,
        row_count: int,
        *,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        self.row_count = checks.integer("row_count", row_count, 1, 2**63 - 1)
        self.batch_size = checks.integer("batch_size", batch_size, 1, 2**63 - 1)
        self.seed = None if seed is None else checks.seed(seed)
        self.world_size = checks.integer("world_size", world_size, 1, 2**31)
        self.rank = checks.integer("rank", rank, 0, self.world_size - 1)
        self.drop_last = drop_last
        self._cursor = self._began = self._next = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        step = self.batch_size * self.world_size
        return self.row_count // step if self.drop_last else -(-self.row_count // step)

    def __iter__(self) -> Iterator[npt.NDArray[np.int64]]:
        self._cursor = self._began = self._next
        epoch, first = divmod(self._began, self.row_count)
        self._next = (epoch + 1) * self.row_count
        permutation = None if self.seed is None else Permutation(self.row_count, seed=self.seed, epoch=epoch)
        step = self.batch_size * self.world_size
        for begin in range(first, self.row_count, step):
            count = min(step, self.row_count - begin)
            if count < step and self.drop_last:
                break
            share = [begin + count * rank // self.world_size for rank in (self.rank, self.rank + 1)]
            self._cursor = epoch * self.row_count + begin + count
            positions = np.arange(*share)
            yield positions if permutation is None else permutation(positions)
        self._cursor = (epoch + 1) * self.row_count

    def __repr__(self) -> str:
        parts = f"{self.row_count}, batch_size={self.batch_size}, seed={self.seed}"
        if self.world_size > 1:
            parts += f", rank={self.rank}, world_size={self.world_size}"
        return f"CorpusSampler({parts}{', drop_last=True' * self.drop_last})"

    def state_dict(self, *, batch_count: int | None = None) -> dict[str, int]:
        """The cursor: how many rows all consumers together have been given since the first epoch began.

        A loader with workers asks for batches early: then pass `batch_count`, how many training has had of the present
        iterator, and the cursor counts only these.
        """
        if batch_count is None:
            return {"cursor": self._cursor}
        epoch_end = (self._began // self.row_count + 1) * self.row_count
        return {"cursor": min(self._began + batch_count * self.batch_size * self.world_size, epoch_end)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a cursor, whatever the number of consumers was then."""
        self._cursor = self._began = self._next = checks.integer("cursor", state["cursor"], 0, 2**127)
