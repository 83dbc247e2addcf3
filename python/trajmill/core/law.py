"""What every law of token sequences is: the fields that fix it, its rows, and what the best predictor would say.

A law is a file of `trajmill.laws` with one dataclass, whose fields are the spec, the options of the command line and
the documentation, and a kernel of the same name (cpp/src/laws). The base class does everything that does not differ.
"""

from __future__ import annotations

import hashlib
import math
import struct
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Protocol, Self, overload, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trajmill import _core
from trajmill.core import checks, pictures
from trajmill.core.column import Column
from trajmill.core.json_input import parse_json

Array = NDArray[Any]
Arrays = Mapping[str, Array]
"""(rows, row_length) arrays under their columns' names"""
Floats = NDArray[np.float64]

EXTRA_COLUMNS = ("loss_mask", "task", "states")
"""columns beside ``tokens`` that a law may be asked for, in the order in which rows have them"""


class Domain(IntEnum):
    """What a draw of a law is for (docs/streams.md). Two purposes never share numbers; the values never change."""

    ROWS = 32
    TOKENS = 33
    PROPOSALS = 34
    URN = 35
    TASKS = 36
    STARTS = 37
    HIDDEN_STATES = 38
    EMISSIONS = 39
    NESTED_DYCK = 40
    CROSSING_DYCK = 41
    WEIGHTS = 42
    CELLS = 43
    SEQUENCE_TASKS = 44
    RECALL = 45
    GAMMA = 46
    GRAMMARS = 47
    BURSTS = 48
    ZIPF_IDS = 49


def derive_key(seed: int, *values: int) -> int:
    """The 64-bit key of one purpose: the seed with values below 2**64 absorbed one after another (docs/streams.md)."""
    key = seed
    for position, value in enumerate(values):
        words = _core.philox4x32([value & 0xFFFFFFFF, value >> 32, position, 0], key)
        key = words[0] | words[1] << 32
    return key


@runtime_checkable
class RowLaw(Protocol):
    """What corpora ask of a law, whatever its rows are: a `Law`, a `MarkovChain`, an `MDP`."""

    @property
    def vocabulary_size(self) -> int:
        """Tokens, or states, are below it."""

    def columns(self, length: int, extra: Sequence[str] = ()) -> tuple[Column, ...]:
        """The columns of rows of `length`, with those of `extra`; ValueError for a column that the law has not."""

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """Fill the columns with the sequences from `first_sequence` on."""

    def pick(self, indexes: Sequence[int] | Array, arrays: Arrays, threads: int | None = None) -> None:
        """Fill the columns with the sequences of the given numbers (n,), in that order."""


def no_extra(law: object, extra: Sequence[str]) -> None:
    """ValueError if columns are asked for that `law` has not."""
    if extra:
        raise ValueError(f"a {type(law).__name__} has no column {extra[0]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A law of token sequences: sequence i is a pure function of the law and i.

    Two laws are equal if their fields are. A law is pickled and printed by its fields.
    """

    extra_columns: ClassVar[tuple[str, ...]] = ("loss_mask", "task")
    """what rows may have beside their tokens: loss_mask uint8, 1 where the token is a target; task uint32, the number
    of the sequence's task from 0 on; states, what is hidden behind each token"""
    presets: ClassVar[tuple[str, ...]] = ()
    """names of class methods that make published laws"""
    kernel_columns: ClassVar[tuple[str, ...]] = ()
    """those of them that the kernel writes; of the others every mask is 1 and every task 0"""

    has_kernel: ClassVar[bool] = True
    """False for laws made of others, which also have seeds of their own"""

    seed: int = 42
    """64-bit seed of all draws"""
    _kernels: dict[int | None, _core.Law] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._set(seed=checks.seed(self.seed))
        self.check()

    # --- what a family says of itself -------------------------------------------------------------------------------

    def check(self) -> None:
        """Check every field, and keep it in its plain form with `_set`; TypeError or ValueError in words."""

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Tokens are below it."""

    @abstractmethod
    def core(self, length: int) -> tuple[list[int], list[Array]]:
        """The numbers (64 bits each) and tables (uint32) of the kernel, for rows of `length` tokens."""

    @classmethod
    @abstractmethod
    def examples(cls) -> list[Self]:
        """Laws that show the family: every kind of parameter, and its edges."""

    @property
    def prefix_stable(self) -> bool:
        """Whether a longer sequence begins with the shorter one of the same number."""
        return True

    @property
    def fixed_length(self) -> int | None:
        """The length that every row has, or None where it is free."""
        return None

    def check_length(self, length: int) -> None:
        """ValueError for a length that no sequence of this law has."""
        if self.fixed_length not in (None, length):
            raise ValueError(f"length must be {self.fixed_length}, which rows of this law have, got {length}")

    def usual_length(self, wanted: int) -> int:
        """`wanted`, or the next length that rows may have; the one that the law fixes."""
        if self.fixed_length is not None:
            return self.fixed_length
        for length in range(wanted, 4 * wanted + 2):
            try:
                self.check_length(length)
            except ValueError as error:
                reason = error
            else:
                return length
        raise reason

    def states_bound(self, length: int) -> int:
        """The numbers in the column ``states`` are below it, in rows of `length`."""
        raise NotImplementedError(f"a {type(self).__name__} has no states")

    # --- what the best predictor would say ----------------------------------------------------------------------------

    def predictions(self, tokens: Array, task: Array | None = None) -> Iterator[Floats]:
        """The exact law of every token before it is seen: item t, (n, vocabulary_size), of `tokens` (n, T).

        Item t depends on ``tokens[:, :t]`` alone, on the length T if the law is not prefix-stable, and on `task` (n,),
        numbers as in the column of that name, if it is given. NotImplementedError where there is no exact law, with the
        reason.
        """
        raise NotImplementedError(f"{type(self).__name__} has no exact predictor")

    def expected_loss(self, length: int) -> float | None:
        """The mean loss in nats a token of the best predictor over rows of `length`, or None where it is not closed."""
        return None

    def entropy_rate(self) -> float | None:
        """The limit of `expected_loss` for long rows, or None where it is not closed."""
        return None

    def predictive(self, prefix: Sequence[int] | Array, task: int | None = None) -> Floats:
        """The exact law (vocabulary_size,) of the token after `prefix`, for one who knows the law and the `task`.

        Of a law that is not prefix-stable, take `predictions`, which knows the length.
        """
        known = np.asarray(checks.indexes("prefix", prefix), np.int64)
        if known.size and not (known.min() >= 0 and known.max() < self.vocabulary_size):
            raise ValueError(f"prefix must hold tokens below {self.vocabulary_size}, got {list(prefix)}")
        tokens = np.append(known, 0)[None]  # the last one is not looked at
        laws = self.predictions(tokens, None if task is None else np.array([task]))
        last: Floats = next(islice(laws, known.size, None))[0]
        return last

    def losses(self, tokens: Array, task: Array | None = None) -> Floats:
        """How surprising each token of `tokens` (n, T) is, (n, T): minus the log of its exact probability, in nats.

        Of all tokens, also those with a loss_mask of 0.
        """
        chances = np.empty(tokens.shape)
        for t, law in enumerate(self.predictions(tokens, task)):
            chances[:, t] = law[np.arange(len(tokens)), tokens[:, t].astype(np.int64)]
        with np.errstate(divide="ignore"):
            losses: Floats = -np.log(chances)
        return losses

    # --- rows ---------------------------------------------------------------------------------------------------------

    def columns(self, length: int, extra: Sequence[str] = ()) -> tuple[Column, ...]:
        """The columns of rows of `length` tokens: ``tokens``, then those of `extra` (see `extra_columns`)."""
        return tuple(
            Column(name=name, dtype=dtype, row_length=1 if name == "task" else length)
            for name, dtype in self._dtypes(length, extra).items()
        )

    def _dtypes(self, length: int, extra: Sequence[str]) -> dict[str, str]:
        """The columns' dtypes by name, once `length` and `extra` are known to be good."""
        self.check_length(checks.integer("length", length, 0, 2**32))
        checks.instance("columns", extra, Iterable, f"names, such as {list(self.extra_columns)}")
        for name in extra:
            checks.choice(f"a column of a {type(self).__name__}", name, self.extra_columns)
        dtypes = {"tokens": checks.smallest_dtype(self.vocabulary_size).name, "loss_mask": "uint8", "task": "uint32"}
        if "states" in extra:
            dtypes["states"] = checks.smallest_dtype(self.states_bound(length)).name
        return {name: dtypes[name] for name in ("tokens", *EXTRA_COLUMNS) if name == "tokens" or name in extra}

    def fill(self, first_sequence: int, arrays: Arrays, threads: int | None = None) -> None:
        """Fill the columns with the sequences from `first_sequence` on."""
        self._draw(arrays, threads, self._kernel(arrays).fill, first_sequence=first_sequence)

    def pick(self, indexes: Sequence[int] | Array, arrays: Arrays, threads: int | None = None) -> None:
        """Fill the columns with the sequences of the given numbers (n,), in that order."""
        self._draw(arrays, threads, self._kernel(arrays).pick, indexes=checks.indexes("indexes", indexes))

    def _kernel(self, arrays: Arrays) -> _core.Law:
        length = arrays["tokens"].shape[1]
        self.check_length(length)
        kernel = self._kernels.get(length)
        if kernel is None:
            numbers, tables = self.core(length)
            kernel = _core.Law(self.kind(), numbers=numbers, tables=tables)
            self._kernels.clear()  # the last length alone: tables may be large
            self._kernels[length] = kernel
        return kernel

    def _draw(self, arrays: Arrays, threads: int | None, draw: Any, **which: Any) -> None:
        written = {name: array for name, array in arrays.items() if name in ("tokens", *self.kernel_columns)}
        draw(**which, **written, threads=checks.thread_count(threads))
        for name in set(arrays) - set(written):
            arrays[name].fill(1 if name == "loss_mask" else 0)

    @overload
    def sample(
        self,
        sequence_count: int,
        length: int | None = None,
        *,
        first_sequence: int = 0,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> Array: ...
    @overload
    def sample(
        self,
        sequence_count: int,
        length: int | None = None,
        *,
        first_sequence: int = 0,
        columns: Sequence[str],
        threads: int | None = None,
    ) -> dict[str, Array]: ...
    def sample(
        self,
        sequence_count: int,
        length: int | None = None,
        *,
        first_sequence: int = 0,
        columns: Sequence[str] | None = None,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> Array | dict[str, Array]:
        """Sequences `first_sequence` to `first_sequence` + `sequence_count` - 1, (sequence_count, length).

        `length` may be left out where the law fixes it. The array is `out` if given, else of `dtype`, or of the
        smallest unsigned dtype that fits. With `columns`, names of `extra_columns`, a dictionary: ``tokens`` and these.
        Token t of sequence i depends on the law, i and t alone (and on the length, if the law is not prefix-stable):
        not on the call, the threads or the machine.
        """
        count = checks.integer("sequence_count", sequence_count, 0, 2**63 - 1)
        first = checks.integer("first_sequence", first_sequence, 0, 2**64 - 1)
        arrays = self._arrays(count, length, columns, out, dtype)
        self.fill(first, arrays, threads)
        return arrays["tokens"] if columns is None else arrays

    def sample_sequences(
        self,
        indexes: Sequence[int] | Array,
        length: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        out: Array | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> Array | dict[str, Array]:
        """The sequences of the given numbers (n,), in that order: row k is sequence ``indexes[k]`` of `sample`."""
        numbers = checks.indexes("indexes", indexes)
        arrays = self._arrays(len(numbers), length, columns, out, dtype)
        self.pick(numbers, arrays, threads)
        return arrays["tokens"] if columns is None else arrays

    def _arrays(
        self, count: int, length: int | None, columns: Sequence[str] | None, out: Array | None, dtype: DTypeLike | None
    ) -> dict[str, Array]:
        steps = self.fixed_length if length is None else length
        if steps is None:
            raise TypeError("length must be given: it is not fixed by this law")
        dtypes = self._dtypes(steps, columns or ())
        del dtypes["tokens"]
        tokens = checks.output("out", out, (count, steps), dtype, self.vocabulary_size)
        return {"tokens": tokens} | {
            name: np.empty((count, 1 if name == "task" else steps), dtype) for name, dtype in dtypes.items()
        }

    # --- what fixes it ------------------------------------------------------------------------------------------------

    @classmethod
    def kind(cls) -> str:
        """Its name in specs, on the command line and in the core: that of its file."""
        return cls.__module__.rpartition(".")[2]

    def settings(self) -> dict[str, Any]:
        """The fields, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    def spec(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {name: _json(value) for name, value in self.settings().items()}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """The law whose `spec` this is; other keys are left alone, and missing fields have their defaults."""
        known = {field.name for field in fields(cls) if field.init}
        values: dict[str, Any] = {name: value for name, value in spec.items() if name in known}
        values = {name: math.inf if value == "inf" else value for name, value in values.items()}
        return cls(**values)

    @classmethod
    def parse(cls, words: Sequence[str]) -> dict[str, Any]:
        """Fields from words NAME=VALUE, where a value is JSON or else a text; ValueError for a name of no field."""
        known = {field.name for field in fields(cls) if field.init}
        values: dict[str, Any] = {}
        for word in words:
            name, separator, text = word.partition("=")
            name = name.replace("-", "_")
            if not separator or name not in known:
                names = ", ".join(sorted(known))
                raise ValueError(f"a field of {cls.kind()} is given as NAME=VALUE, got {word!r}; names are {names}")
            try:
                values[name] = parse_json(text)
            except ValueError:
                values[name] = text
        return values

    def key(self, domain: Domain) -> int:
        """The key of draws that belong to a sequence: laws that differ in any field share no draws."""
        values = (value for name, value in self.settings().items() if name != "seed")
        return derive_key(self.seed, domain, *map(_absorbed, values))

    def task_key(self, domain: Domain) -> int:
        """The key of draws that belong to a task: laws that differ in other fields share them."""
        return derive_key(self.seed, domain)

    def _set(self, **values: Any) -> None:
        """Keep fields in another form; for `check` alone."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _repr_html_(self) -> str:
        length = self.usual_length(pictures.COLUMNS)
        drawn = pictures.token_cells(self.sample(pictures.ROWS, length)) if length <= pictures.MOST_TOKENS else ""
        return pictures.html(repr(self), drawn)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.settings()), ()


def _json(value: Any) -> Any:
    """A field as a JSON value."""
    if isinstance(value, Law):
        return {"kind": value.kind(), **value.spec()}
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return "inf" if value == math.inf else value


def _absorbed(value: Any) -> int:
    """A field as the number that keys absorb (docs/streams.md)."""
    if value is None:
        return 2**64 - 1
    if isinstance(value, int):  # True is 1
        return value % 2**64
    if isinstance(value, float):
        return int.from_bytes(struct.pack("<d", value), "little")
    if isinstance(value, str):
        data = value.encode()
    else:
        data = b"".join(_absorbed(item).to_bytes(8, "little") for item in value)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
