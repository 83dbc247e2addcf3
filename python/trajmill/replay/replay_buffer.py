"""A replay buffer whose draws have addresses."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields
from os.path import samestat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from trajmill import _core
from trajmill.core import checks, files, pictures
from trajmill.core.paths import AnyPath, input_path, local_path
from trajmill.data.episodes import qlearning_transitions
from trajmill.data.records import Dataset, Transitions
from trajmill.replay import replay_file
from trajmill.replay.batches import Batches
from trajmill.replay.replay_file import ReplayFileError

if TYPE_CHECKING:
    import torch

    from trajmill.replay.feed import ResidentReplay

Batch = dict[str, npt.NDArray[Any]]

ColumnSpec = npt.DTypeLike | tuple[tuple[int, ...] | int, npt.DTypeLike]
"""a dtype for a number, or the shape (or length) of a row and its dtype"""

_EXPONENTS = "[0, 10]"  # of priorities and of weights
_SUMMED = {"reward", "terminal", "truncated"}


class ReplayBuffer(Batches, _core.ReplayBuffer):
    """A ring of transitions of any columns, one packed row each.

    ``add(**columns)`` appends one row, given without a leading axis, or many, with one; once `capacity` rows are there,
    the oldest are overwritten. It returns the slot in [0, capacity) of the first new row; the others follow it around
    the ring. Integers and booleans are converted to a column's dtype if every value survives, floats to another float
    are rounded, unless that makes a finite number infinite; everything else is a TypeError, and so are masked values.
    Values are stored as they come, NaN included. If an `add` fails, nothing has changed. ``add(environments=[0, 1, 3],
    **columns)`` says whose rows they are: see `environment_count`.

    ``sample(batch_size, out=None, threads=1, *, replace=True, beta=None)`` makes the next draw: a dict of arrays
    (batch_size, ...) under the names of the columns. `out`, a batch that an earlier call gave, is filled and returned.
    Draw d of `seed` over so many rows is the same on every machine and for any number of threads; ``draw_count`` is the
    number of the next draw and may be set. ``replace=False`` gives distinct rows.

    ``update_priorities(indexes, priorities)`` sets priorities of rows by slot: finite numbers >= 0, or nothing is
    changed. If a slot comes twice, the last priority holds. If a slot was overwritten since the batch was drawn, the
    priority is that of the row that is there now.

    Safe to use from several threads: draws run side by side, changes alone, in the order of asking.

    Forks: a child has the buffer as it was, and makes the draws that its parent would make; a RuntimeError says if
    another thread was changing it at that moment. ``share(worker, worker_count)`` gives every worker draws of its own,
    which is done by itself in the workers of a torch ``DataLoader`` (docs/streams.md).

    Parameters
    ----------
    capacity
        The most rows there can be, a multiple of `environment_count`.
    schema
        What each column holds: ``{"observation": ((17,), "f4"), "reward": ((), "f4"), ...}``, shape of a row and dtype
        (bool, integer or float); ``(17, "f4")`` and ``"f4"`` are short for ``((17,), "f4")`` and ``((), "f4")``. Names
        are free; the project's own are observation, action, reward, next_observation, terminal and truncated.
    seed
        64-bit seed of the draws.
    shared
        Columns that repeat another one in the next row of their environment: ``{"next_observation": "observation"}``.
        They are stored only where they differ from it, byte by byte, or where there is no next row yet. So what is
        drawn is always what was added, whatever the flags say.
    environment_count
        Of how many environments E rows come, which what follows what depends on: `n_step` and `shared`. Without
        `environments`, `add` takes rows of all of them together, E or a multiple of E: row i belongs to environment
        i % E. With ``environments``, integers (rows,) in [0, E), or one for a row without a leading axis, row i belongs
        to ``environments[i]``, and any may be left out: those whose row is no transition, as after a reset, or that
        have not answered yet. Their order is free; several rows of one environment are in the order of its steps. What
        follows a row is the next row of its environment, whenever it comes. Once rows of some environments were added,
        8 bytes of memory a row say what follows what.
    n_step, discount, following
        With ``n_step`` n > 1 a drawn row looks ahead over m rows of its environment, m <= n. Which columns say where a
        row led to, `following` says: ``{"next_obs": "obs", "next_goal": "goal"}``; shared columns need no mention. By
        default that is ``{"next_observation": "observation"}``, if the schema has both, and a ValueError if it has
        columns beside those, the shared ones and action, reward, terminal and truncated: say ``{}`` if none of them
        belongs to the next row. Both columns of a pair have one shape and dtype. A row's look-ahead stops after a row
        that is terminal or truncated, before a row that was not added yet, and where a following column is not byte by
        byte the other one of the next row; such breaks are counted by ``break_count``, and the first one is a
        RuntimeWarning. Then ``reward`` is
        ``r_0 + discount r_1 + ... + discount^(m-1) r_(m-1)``, added in float64; following and shared columns,
        ``terminal`` and ``truncated`` are those of the last row; the batch has a column ``discount``, float32
        ``discount^m``, by which the value of ``next_observation`` counts; other columns are those of the first row.
        `rows` gives the rows as they were added.
    prioritized, alpha, beta
        Draw row i with probability ``P(i) = priority_i^alpha / sum_j priority_j^alpha`` (Schaul et al. 2016): the sum
        is cut into `batch_size` equal parts and one row is drawn from each. New rows get the largest priority ever set,
        which starts at 1. A row of priority zero is never drawn. A batch has the columns ``indexes``, int64 slots, and
        ``weights``, float32 ``(N P(i))^-beta`` divided by the largest of the batch. `beta` holds where `sample` is not
        given one; schedules may set the attribute.
    path
        A file to keep the rows in, for data larger than memory: made if there is none, else opened, which needs equal
        settings; only one buffer at a time may have it open. After a restart everything is there again, ``draw_count``
        and priorities included. If the process crashed, an ``add`` is complete or has not happened; only a machine that
        loses power may lose what came after the last `flush`. Everything is checked when the file is opened: a
        ReplayFileError says what was changed by something else, or did not reach the disk. A forked child does not have
        the buffer: it is closed there.
    verify
        Read the rows at `path` and compare them with their checks, as `verify()` does at any time. False opens a large
        file at once, or one of which some rows are damaged; which rows there are and the priorities are always checked.
    """

    _path: Path | None = None  # of storage
    _descriptor = -1  # of the file there, which is locked while it or the mapping is open

    def __init__(
        self,
        capacity: int,
        schema: Mapping[str, ColumnSpec],
        *,
        seed: int = 0,
        shared: Mapping[str, str] | None = None,
        environment_count: int = 1,
        n_step: int = 1,
        discount: float = 0.99,
        following: Mapping[str, str] | None = None,
        prioritized: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        path: AnyPath | None = None,
        verify: bool = True,
    ) -> None:
        settings: dict[str, Any] = {
            "capacity": checks.integer("capacity", capacity, 1, 2**62),
            "columns": _columns_of(schema),
            "shared": list(dict(shared or {}).items()),
            "following": None if following is None else list(dict(following).items()),
            "seed": checks.seed(seed),
            "environment_count": checks.integer("environment_count", environment_count, 1, 2**31),
            "n_step": checks.integer("n_step", n_step, 1, 2**31),
            "discount": checks.number("discount", discount, "[0, 1]"),
            "alpha": checks.number("alpha", alpha, _EXPONENTS) if prioritized else None,
        }
        _check_roles(settings)
        columns = [[name, shape, dtype.str] for name, shape, dtype in settings["columns"]]
        self._settings = settings | {"columns": columns}  # as files have them
        beta = checks.number("beta", beta, _EXPONENTS)
        core_settings = _core.ReplaySettings(**settings, is_checked=path is not None)
        memory = None
        if path is not None:
            self._path = input_path(path)
            memory, self._descriptor = replay_file.open_storage(self._path, self._settings, core_settings.byte_count)
        try:
            self._begin(core_settings, memory)
            self.beta = beta
            if path is not None and verify:
                self.verify()
        except BaseException:
            del memory  # the mapping has the file open too
            self._release()
            raise
        if path is not None:
            _storages.add(self)

    def _begin(self, settings: _core.ReplaySettings, memory: npt.NDArray[np.uint8] | None) -> None:
        try:
            super().__init__(settings, memory)
        except MemoryError:
            rows = self._settings["capacity"]
            fault = f"a buffer of {rows:,} rows needs more memory than there is; use a smaller capacity"
            raise MemoryError(fault) from None
        except ValueError as error:
            if self._path is None:
                raise
            raise ReplayFileError(f"{self._path} is damaged: {error}; restore it from a copy") from error

    def verify(self) -> None:
        """Read every row at `path`; ReplayFileError if one is not what was added, ValueError for a buffer in memory."""
        if self._path is None:
            raise ValueError("only rows in a file, at path=, have checks that can be verified")
        last, step = self.row_count, 2**16  # rows at a time, so that Ctrl-C is heard
        parts = [self._changed_slots(first, first + step) for first in range(last - len(self), last, step)]
        changed = np.concatenate(parts) if parts else np.empty(0, np.int64)
        if changed.size:
            slots = ", ".join(map(str, changed[:10])) + (", ..." if changed.size > 10 else "")
            raise ReplayFileError(
                f"{self._path} is damaged: {changed.size} of {len(self)} rows are not what was added, in slots {slots}"
                "; restore it from a copy, or open it with verify=False to read the others"
            )

    @classmethod
    def load(cls, path: AnyPath) -> Self:
        """The buffer that `save` wrote, with the same next draws; ReplayFileError if the file was changed."""
        source = input_path(path)
        header = replay_file.read_header(source)
        if header.checksum is None:
            raise ReplayFileError(f"{source} is the storage of a buffer; open it with ReplayBuffer(path=...)")
        try:
            options = dict(header.settings)
            schema = {name: (tuple(shape), dtype) for name, shape, dtype in options.pop("columns")}
            alpha = options.pop("alpha")
            if alpha is not None:
                options |= {"prioritized": True, "alpha": alpha}
            following = None if options.get("following") is None else dict(options["following"])
            options |= {"shared": dict(options["shared"]), "following": following}
            buffer = cls(options.pop("capacity"), schema, **options)
        except (KeyError, TypeError, ValueError) as error:
            raise ReplayFileError(f"{source} is damaged: its settings make no buffer: {error}") from error
        replay_file.load(source, header, buffer._memory, buffer._parts)
        try:
            buffer._restore(version=header.version)
            return buffer
        except ValueError as error:
            raise ReplayFileError(f"{source} is damaged: {error}") from error

    def save(self, path: AnyPath) -> None:
        """Write a copy with everything that draws depend on, whole or not at all, and in next to no memory.

        Draws continue meanwhile; changes wait, and so do draws that are asked for after a change. ValueError for the
        `path` that the buffer works in. A signal handler in the same thread may draw and save, but a change is a
        RuntimeError there, since it would wait for ever.
        """
        target = local_path(path)
        if self._descriptor >= 0 and target.exists() and samestat(target.stat(), os.fstat(self._descriptor)):
            raise ValueError(f"{target} is where this buffer works; save to another path, or flush it")
        settings = self._settings | {"beta": self.beta}
        self._reading(lambda: replay_file.save(target, settings, self._memory, self._used_extents()))

    def flush(self) -> None:
        """Wait until what is kept at `path` has reached the disk."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Give up the memory, and the file at `path`; rows asked for later are a ValueError."""
        self._end("the buffer is closed")

    def _end(self, reason: str) -> None:
        self._close(reason)
        self._release()

    def _release(self, *, unlocks: bool = True) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if unlocks:  # closing is not enough while a child is alive that was forked meanwhile
            files.unlock(descriptor)
        os.close(descriptor)

    def __del__(self) -> None:
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_transitions(cls, transitions: Transitions, *, capacity: int | None = None, **options: Any) -> Self:
        """A buffer that holds a dataset's transitions, in order; `options` are those of the class.

        ValueError for several steps (`n_step`) of transitions in no order.
        """
        if options.get("n_step", 1) != 1 and not transitions.ordered:
            raise ValueError("n_step must be 1 for transitions in no order, of which none follows another")
        arrays = {field.name: getattr(transitions, field.name) for field in fields(transitions)}
        schema: dict[str, ColumnSpec] = {name: (array.shape[1:], array.dtype) for name, array in arrays.items()}
        buffer = cls(len(transitions) if capacity is None else capacity, schema, **options)
        buffer.add(**arrays)
        return buffer

    @classmethod
    def from_dataset(cls, dataset: Dataset, *, capacity: int | None = None, **options: Any) -> Self:
        """A buffer that holds the transitions of a dataset, in order (`qlearning_transitions`)."""
        return cls.from_transitions(qlearning_transitions(dataset), capacity=capacity, **options)

    def to_dataset(self, name: str = "buffer") -> Dataset:
        """The rows as a dataset, in the order in which they were added: what `write_dataset` writes.

        ValueError without the columns observation, action, reward, next_observation and terminal, or with rows of
        several environments, which do not follow each other; without ``truncated`` no row is a timeout.
        """
        wanted = ("observation", "action", "reward", "next_observation", "terminal")
        rows = self.rows(slice(None))
        if missing := [column for column in wanted if column not in rows]:
            raise ValueError(f"a dataset needs the columns {', '.join(wanted)}; the buffer lacks {', '.join(missing)}")
        if self._settings["environment_count"] != 1:
            raise ValueError("rows of several environments are in no order of one: write a dataset for each of them")
        terminals = rows["terminal"].astype(bool)
        timeouts = rows["truncated"].astype(bool) if "truncated" in rows else np.zeros_like(terminals)
        return Dataset(
            name=name,
            path=Path(name),
            observations=rows["observation"],
            actions=rows["action"],
            rewards=rows["reward"],
            terminals=terminals,
            timeouts=timeouts & ~terminals,
            next_observations=rows["next_observation"],
        )

    def to(self, device: str | torch.device) -> ResidentReplay:
        """A copy of the rows on a device, which makes the draws this buffer would make; ValueError if prioritised."""
        from trajmill.replay.feed import ResidentReplay

        if self._settings["alpha"] is not None:
            raise ValueError("a prioritised buffer cannot be copied to a device; use tm.feed")
        return ResidentReplay(self[self._slots()], key=self._draw_key, draw_count=self.draw_count, device=device)

    def __getitem__(self, indexes: slice | npt.ArrayLike) -> Batch:
        """The rows in slots, integers (n,) or a slice, as a batch of the columns; IndexError if a slot is empty."""
        if isinstance(indexes, slice):
            indexes = np.arange(*indexes.indices(len(self)))
        return self._gather(checks.unmasked("indexes", indexes))

    def rows(self, indexes: slice | npt.ArrayLike) -> Batch:
        """The rows in slots as they were added, whatever `n_step` is: the columns of the schema; else as indexing."""
        slots = self._slots()[indexes] if isinstance(indexes, slice) else checks.unmasked("indexes", indexes)
        return self._gather(slots, as_added=True)

    def update_priorities(self, indexes: npt.ArrayLike, priorities: npt.ArrayLike) -> None:
        """Set priorities (n,), finite numbers >= 0, of the rows in slots (n,); see the class."""
        super().update_priorities(checks.unmasked("indexes", indexes), checks.unmasked("priorities", priorities))

    def epoch(self, batch_size: int, *, epoch: int = 0, first_row: int = 0) -> Iterator[Batch]:
        """Batches that together hold every row once, in an order that `epoch` and the seed decide.

        The last one may be short. To continue, `first_row` is the number of rows already read. RuntimeError if rows are
        added meanwhile.
        """
        step = checks.integer("batch_size", batch_size, 1, 2**62)
        row_count, size = self.row_count, len(self)
        for begin in range(checks.integer("first_row", first_row, 0, size), size, step):
            if self.row_count != row_count:
                raise RuntimeError("rows were added during an epoch; begin a new one")
            yield self._gather(self._epoch_slots(epoch, begin, min(step, size - begin)))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ReplayBuffer is not pickled; save() it, and ReplayBuffer.load() it in the other process")

    def __repr__(self) -> str:
        columns = ", ".join(name for name, _, _ in self.batch_columns)
        try:
            return f"ReplayBuffer({len(self)} of {self.capacity} rows: {columns})"
        except ValueError:
            return f"ReplayBuffer(closed: {columns})"

    def _repr_html_(self) -> str:
        try:
            return pictures.html(repr(self), pictures.filled(len(self), self.capacity))
        except ValueError:  # it is closed
            return pictures.html(repr(self))


def _check_roles(settings: Mapping[str, Any]) -> None:
    """What n steps need of columns that lead to the next row; the core checks what is declared."""
    if settings["n_step"] == 1:
        return
    columns = {name: (shape, dtype) for name, shape, dtype in settings["columns"]}
    shared, following = dict(settings["shared"]), settings["following"]
    for name in _SUMMED & (shared.keys() | dict(following or ()).keys()):
        raise ValueError(f"n_step > 1 makes {name!r} itself, so it can be neither shared nor following; leave it out")
    pair = columns.get("next_observation"), columns.get("observation")
    if following is None and "next_observation" not in shared and None not in pair and pair[0] != pair[1]:
        fault = "'next_observation' and 'observation' differ in shape or dtype, so n_step > 1 cannot see where"
        raise ValueError(f"{fault} steps follow each other; make them equal, or say following={{}} if they never do")


_storages: weakref.WeakSet[ReplayBuffer] = weakref.WeakSet()


def _leave_storages() -> None:
    """In a forked child: storage stays with the parent, which would lose what two processes write into it."""
    for buffer in _storages:
        buffer._release(unlocks=False)  # the lock is the parent's
        buffer._end(
            "the buffer is closed in this process, since its storage belongs to the one that this was forked from; "
            "there save() a copy, and load() it here"
        )


os.register_at_fork(after_in_child=_leave_storages)


def _columns_of(schema: Mapping[str, ColumnSpec]) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Name, row shape and dtype of each column of a schema; TypeError or ValueError that names the column."""
    if not isinstance(schema, Mapping):
        raise TypeError(
            "schema must map names to (shape, dtype), such as {'observation': ((17,), 'f4'), 'reward': ((), 'f4')}, "
            f"got {type(schema).__name__}"
        )
    columns = []
    for name, spec in schema.items():
        if not isinstance(name, str) or not name or "\0" in name:
            raise TypeError(f"the names of columns must be non-empty strings, got {name!r}")
        given: Any = spec if isinstance(spec, tuple) and len(spec) == 2 else ((), spec)
        shape, dtype = given
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise TypeError(f"column {name!r} must be given as (shape, dtype) or dtype, got {spec!r}") from None
        sizes = shape if isinstance(shape, tuple | list) else (shape,)
        sizes = tuple(checks.integer(f"the shape of column {name!r}", size, 1, 2**31) for size in sizes)
        columns.append((name, sizes, dtype))
    return columns
