"""The compiled core of trajmill: seeded chains and MDPs, replay."""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

Int: typing.TypeAlias = typing.SupportsInt | typing.SupportsIndex
Float: typing.TypeAlias = typing.SupportsFloat | typing.SupportsIndex
__all__: list[str] = [
    "MDP",
    "BatchFeed",
    "BatchSource",
    "CallableSource",
    "ChainLaw",
    "Law",
    "LinearWeight",
    "MDPLaw",
    "MDPTransitions",
    "MarkovChain",
    "MixedReplay",
    "ReferenceChain",
    "ReferenceRound",
    "ReplayBuffer",
    "ReplaySettings",
    "SeededBatches",
    "Shares",
    "TrajectoryBuffer",
    "action_codebook",
    "alias_cells",
    "available_simd_levels",
    "compiler",
    "law_kinds",
    "lookup_checksum",
    "normalize_rows",
    "permute",
    "philox4x32",
    "philox_checksum",
    "philox_words",
    "reference_iid_tokens",
    "reference_mdp_transitions",
    "returns_to_go",
    "set_simd_level",
    "simd_level",
    "state_codebook",
    "version",
]

class BatchSource:
    """What batches are drawn from."""
    def __reduce__(self) -> typing.Any: ...
    def sample(
        self, batch_size: typing.SupportsIndex, out: typing.Any = None, threads: typing.SupportsIndex = 1
    ) -> dict[str, numpy.ndarray]:
        """The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned."""
    def share(self, worker: typing.SupportsIndex, worker_count: typing.SupportsIndex) -> None:
        """From now on make the draws of worker `worker` of `worker_count`: of those to come number `worker`, and then every worker_count-th. In the workers of a torch DataLoader this is done at the first draw."""
    @property
    def batch_columns(self) -> list[tuple[str, tuple[int, ...], numpy.dtype[typing.Any]]]:
        """Name, row shape and dtype of each column of a batch."""

class BatchFeed:
    """Draws batches ahead into a ring of slots, on a thread of its own."""
    def __init__(
        self, source: typing.Any, batch_size: Int, slots: list[dict[str, numpy.ndarray]], threads: Int
    ) -> None:
        """`slots` are batches, dicts of arrays, which are filled for as long as the feed lives."""
    def __reduce__(self) -> typing.Any: ...
    def next(self) -> int:
        """The slot of the next batch, once it is filled."""
    def ready(self) -> bool:
        """Is the next batch drawn already?"""
    def release(self) -> None:
        """Give the oldest slot in use back to be filled again."""
    def stop(self, unused: Int = 0) -> None:
        """End the drawing; the source's next draw is the one after the last batch handed out and used."""

class Law:
    """A law of token sequences as its kernel sees it: numbers and tables of words."""
    def __init__(
        self,
        kind: str,
        *,
        numbers: collections.abc.Sequence[Int],
        tables: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.uint32]],
    ) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def fill(
        self,
        *,
        first_sequence: Int,
        tokens: numpy.ndarray,
        loss_mask: typing.Any = None,
        task: typing.Any = None,
        states: typing.Any = None,
        threads: Int,
    ) -> None:
        """Fill the columns [sequences, length], task [sequences, 1], with the sequences from first_sequence on."""
    def pick(
        self,
        *,
        indexes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
        tokens: numpy.ndarray,
        loss_mask: typing.Any = None,
        task: typing.Any = None,
        states: typing.Any = None,
        threads: Int,
    ) -> None:
        """Fill row k of the columns with the sequence of number indexes[k]."""

class ChainLaw:
    """The law of a random chain."""
    def __init__(
        self, *, state_count: Int, order: Int, temperature: Float, uniform_initial: bool, seed: Int
    ) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def probabilities(self, context: collections.abc.Sequence[Int]) -> numpy.typing.NDArray[numpy.float64]:
        """The exact law of what follows a context, float64 [state_count]."""

class MarkovChain:
    """Alias tables of a Markov chain and the stream that draws from them."""
    @staticmethod
    def from_probabilities(
        *,
        initial: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        transition: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        seed: Int,
        memory_limit: Int,
        threads: Int,
    ) -> MarkovChain: ...
    def __init__(self, law: ChainLaw, *, backend: str, memory_limit: Int, threads: Int) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def sample(self, *, first_sequence: Int, out: numpy.ndarray, threads: Int) -> None:
        """Fill out [sequences, length] with the sequences from first_sequence on."""
    def sample_sequences(
        self, *, indexes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64], out: numpy.ndarray, threads: Int
    ) -> None:
        """Fill row k of out [sequences, length] with the sequence of number indexes[k]."""
    @property
    def backend(self) -> str:
        """'dense' or 'implicit'."""
    @property
    def byte_count(self) -> int:
        """Size of the tables in bytes."""

class MDPLaw:
    """The law of a random MDP."""
    def __init__(
        self,
        *,
        state_count: Int,
        action_count: Int,
        policy_temperature: Float,
        transition_temperature: Float,
        fixed_start: bool,
        seed: Int,
    ) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def policy_probabilities(self, state: Int) -> numpy.typing.NDArray[numpy.float64]:
        """The exact law of the action in a state, float64 [action_count]."""
    def transition_probabilities(self, state: Int, action: Int) -> numpy.typing.NDArray[numpy.float64]:
        """The exact law of the next state after an action in a state, float64 [state_count]."""

class MDP:
    """Alias tables of an MDP and the streams that draw from them."""
    @staticmethod
    def from_probabilities(
        *,
        policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        transition: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
        fixed_start: bool,
        seed: Int,
        memory_limit: Int,
        threads: Int,
    ) -> MDP: ...
    def __init__(self, law: MDPLaw, *, backend: str, memory_limit: Int, threads: Int) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def sample(self, *, first_trajectory: Int, states: numpy.ndarray, actions: numpy.ndarray, threads: Int) -> None:
        """Fill states [N, L + 1] and actions [N, L] with the trajectories from first_trajectory on."""
    def sample_trajectories(
        self,
        *,
        indexes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
        states: numpy.ndarray,
        actions: numpy.ndarray,
        threads: Int,
    ) -> None:
        """Fill row k of states [N, L + 1] and actions [N, L] with the trajectory of number indexes[k]."""
    @property
    def backend(self) -> str:
        """'dense' or 'implicit'."""

class MDPTransitions(BatchSource):
    """Transitions of a discrete MDP as vectors."""
    def __init__(
        self,
        *,
        rows: numpy.ndarray,
        state_vectors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        action_vectors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        target_vectors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None,
        seed: Int,
    ) -> None:
        """From unsigned integers [M, 3] and float32 codebooks; without target_vectors, targets are states."""
    def __len__(self) -> int: ...
    @property
    def action_vectors(self) -> numpy.typing.NDArray[numpy.float32]:
        """Float32 [actions, dimension], read-only."""
    @property
    def draw_count(self) -> int:
        """Draws made so far; also the number of the next."""
    @draw_count.setter
    def draw_count(self, arg1: typing.SupportsIndex) -> None: ...
    @property
    def rows(self) -> numpy.ndarray:
        """State, action and target of every transition, [M, 3], read-only."""
    @property
    def seed(self) -> int: ...
    @property
    def state_vectors(self) -> numpy.typing.NDArray[numpy.float32]:
        """Float32 [states, dimension], read-only."""
    @property
    def target_vectors(self) -> numpy.typing.NDArray[numpy.float32]:
        """Float32 [targets, dimension], read-only; those of the states unless others were given."""

class LinearWeight:
    """A weight that goes from one value to another in a straight line."""
    def __call__(self, draw: Int) -> float: ...
    def __init__(self, start: Float, end: Float, step_count: Int) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[float, float, int]]: ...

class CallableSource(BatchSource):
    """Rows that a Python function makes."""
    def __init__(
        self,
        name: str,
        function: collections.abc.Callable[[int], dict[str, typing.Any]],
        columns: collections.abc.Sequence[tuple[str, collections.abc.Sequence[Int], numpy.dtype[typing.Any]]],
    ) -> None:
        """function(row_count) must return a dict of arrays with these columns: (name, row shape, dtype)."""

class Shares:
    """How many rows of each batch every source gets; what is rounded is carried over."""
    def __init__(self, source_count: Int) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def split(self, batch_size: Int, weights: collections.abc.Sequence[Float]) -> list[int]:
        """Rows of each source in the next batch, by relative weights."""
    @property
    def credit(self) -> list[float]:
        """Rows that each source was owed so far less those it got."""
    @credit.setter
    def credit(self, arg1: collections.abc.Sequence[Float]) -> None: ...

class MixedReplay(BatchSource):
    """Batches whose rows come from several sources."""
    def __init__(
        self,
        *,
        sources: tuple[tuple[str, BatchSource, typing.Any, typing.Any], ...],
        columns: collections.abc.Sequence[
            tuple[str, collections.abc.Sequence[Int], numpy.dtype[typing.Any], numpy.ndarray | None]
        ],
    ) -> None:
        """From tuples of (name, source, weight, transform) and of (name, row shape, dtype, fill)."""
    @property
    def state(self) -> tuple[int, list[float]]:
        """Draws made so far, and for each source the rows it was owed less those it got."""
    @state.setter
    def state(self, arg1: tuple[Int, collections.abc.Sequence[Float]]) -> None: ...

class ReferenceRound:
    """Blocks of one iteration of the authors' program."""
    def __init__(self, *, reference_worker_count: Int, iteration: Int, first_worker: Int, made_count: Int) -> None:
        """Those of made_count of the authors' worker processes, of which there are reference_worker_count."""
    def __reduce__(self) -> typing.Any: ...

class ReferenceChain:
    """The authors' own n-step Markov chain and its streams."""
    def __init__(self, *, state_count: Int, order: Int, temperature: Float, seed: Int, memory_limit: Int) -> None: ...
    def __reduce__(self) -> typing.Any: ...
    def sample(self, round: ReferenceRound, *, out: numpy.ndarray, threads: Int) -> None:
        """Fill out [sequences, length] with the blocks of the round in worker order."""

class SeededBatches(BatchSource):
    """The batches of training: at every update `batch_size` rows of the source for each seed, one seed after another."""
    def __init__(
        self, source: BatchSource, *, seeds: collections.abc.Sequence[Int], batch_size: Int, site: Int = 0
    ) -> None:
        """Row r of a seed at update n is row word[r] * row_count >> 32 of the source, by the words of the site."""
    def set_update(self, update: Int) -> None:
        """Make this update the next one, with the shares that a mixture has after so many updates from the start."""
    @property
    def row_count(self) -> int:
        """Rows of one update, of all seeds together."""
    @property
    def update(self) -> int:
        """Number of the next update."""

class TrajectoryBuffer(BatchSource):
    """Windows of steps; arrays are kept, not copied."""
    def __init__(
        self,
        *,
        episodes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
        arrays: tuple[tuple[str, numpy.ndarray, numpy.ndarray], ...],
        context_length: Int,
        timestep_limit: Int,
        seed: Int,
    ) -> None:
        """From rows of (first row, length) and tuples of (name, steps, padding of one step)."""
    def windows(
        self, starts: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64], out: typing.Any = None, threads: Int = 1
    ) -> dict[str, numpy.ndarray]:
        """The windows that start at these steps, numbered through all episodes: a batch as `sample` gives it."""
    @property
    def draw_count(self) -> int:
        """Draws made so far; also the number of the next."""
    @draw_count.setter
    def draw_count(self, arg1: typing.SupportsIndex) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def step_count(self) -> int:
        """Steps that a window may start at."""

class ReplaySettings:
    """What a ReplayBuffer is made for."""
    def __init__(
        self,
        *,
        capacity: Int,
        columns: collections.abc.Sequence[tuple[str, collections.abc.Sequence[Int], numpy.dtype[typing.Any]]],
        shared: collections.abc.Sequence[tuple[str, str]],
        following: collections.abc.Sequence[tuple[str, str]] | None,
        seed: Int,
        environment_count: Int,
        n_step: Int,
        discount: Float,
        alpha: Float | None,
        is_checked: bool = False,
    ) -> None:
        """Columns are (name, row shape, dtype); shared and following ones (name, the column it repeats or follows)."""
    def __reduce__(self) -> typing.Any: ...
    @property
    def byte_count(self) -> int:
        """Bytes of memory that a buffer of these settings needs."""

class ReplayBuffer(BatchSource):
    """A ring of packed transitions."""
    def __init__(self, settings: ReplaySettings, memory: typing.Any = None) -> None:
        """In memory of its own, or in that of a uint8 array, which is kept."""
    def __len__(self) -> int: ...
    def _changed_slots(self, first: Int, last: Int) -> numpy.typing.NDArray[numpy.int64]:
        """Slots of rows number first to last - 1 that are not what was added."""
    def _close(self, reason: str) -> None:
        """Give the memory up."""
    def _epoch_slots(self, epoch: Int, first: Int, count: Int) -> numpy.typing.NDArray[numpy.int64]:
        """Slots in an epoch's order, from position first on."""
    def _gather(
        self, indexes: typing.Any, out: typing.Any = None, threads: Int = 1, as_added: bool = False
    ) -> dict[str, numpy.ndarray]:
        """The rows in the given slots, as draws have them or as they were added."""
    def _reading(self, work: collections.abc.Callable[[], None]) -> None:
        """Call work() with changes kept out."""
    def _restore(self, version: Int = 3) -> None:
        """Take over what was put into memory, of a file of that version."""
    def _slots(self) -> numpy.typing.NDArray[numpy.int64]:
        """Slots of all rows, in the order in which draws count them."""
    def _used_extents(self) -> list[tuple[int, int]]:
        """Begin and size of what is in use of state, rows, weights, entries and environments."""
    def _weights(self, indexes: typing.Any) -> numpy.typing.NDArray[numpy.float64]:
        """priority^alpha of the rows in the given slots."""
    def add(self, *args: typing.Any, **kwargs: typing.Any) -> int:
        """Append one row, given without a leading axis, or many, of all environments or of `environments`; the first one's slot."""
    def clear(self) -> None:
        """Forget every row."""
    def sample(
        self,
        batch_size: typing.SupportsIndex,
        out: typing.Any = None,
        threads: typing.SupportsIndex = 1,
        *,
        replace: bool = True,
        beta: typing.SupportsFloat | None = None,
    ) -> dict[str, numpy.ndarray]:
        """The next draw as a dict of arrays; `out`, one that an earlier call gave, is filled and returned."""
    def update_priorities(self, indexes: typing.Any, priorities: typing.Any) -> None:
        """Set the priorities of the rows in the given slots."""
    @property
    def _draw_key(self) -> int:
        """Key of the words behind the draws."""
    @property
    def _memory(self) -> numpy.typing.NDArray[numpy.uint8]:
        """All of the buffer's memory."""
    @property
    def _parts(self) -> list[int]:
        """Where state, rows, weights, entries and environments begin in memory, and where they end."""
    @property
    def _row_stride(self) -> int:
        """Bytes from one row to the next."""
    @property
    def beta(self) -> float:
        """Exponent of `weights` where sample() is not given one."""
    @beta.setter
    def beta(self, arg1: typing.SupportsFloat) -> None: ...
    @property
    def break_count(self) -> int:
        """With n_step > 1: rows added that end nothing, though the row after them does not begin where they led to."""
    @property
    def capacity(self) -> int:
        """The most rows there can be."""
    @property
    def draw_count(self) -> int:
        """Draws made so far, which is the number of the next one."""
    @draw_count.setter
    def draw_count(self, arg1: typing.SupportsIndex) -> None: ...
    @property
    def largest_priority(self) -> float:
        """What new rows get."""
    @property
    def row_count(self) -> int:
        """Number of the next row: rows ever added, and slots that clear() skipped."""

def action_codebook(row_count: Int, dimension: Int) -> numpy.typing.NDArray[numpy.float32]:
    """Fixed Uniform(-1, 1) vectors, float32 [row_count, dimension]."""

def alias_cells(
    rows: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], *, memory_limit: Int
) -> numpy.typing.NDArray[numpy.uint32]:
    """Alias tables of rows of probabilities: a word a column up to 256 columns, else two."""

def available_simd_levels() -> list[str]:
    """The instruction sets that this build holds and this machine runs, slowest first."""

def law_kinds() -> list[str]:
    """Kinds of laws that have a kernel."""

def lookup_checksum(table: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], lookup_count: Int) -> int:
    """The sum of about `lookup_count` look-ups in a table: what look-ups alone cost."""

def normalize_rows(
    rows: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    mean: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    scale: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
) -> numpy.typing.NDArray[numpy.float32]:
    """(row - mean) / scale in double precision, rounded once, float32 [N, O]."""

def permute(
    positions: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64], *, size: Int, seed: Int, epoch: Int
) -> numpy.typing.NDArray[numpy.uint64]:
    """Where a keyed bijection of [0, size) sends each position, uint64."""

def philox4x32(
    counter: typing.Annotated[collections.abc.Sequence[Int], "FixedSize(4)"], key: Int
) -> typing.Annotated[list[int], "FixedSize(4)"]:
    """The Philox4x32-10 block at a counter of four words under a 64-bit key."""

def philox_checksum(key: Int, sequence_count: Int, block_count: Int) -> int:
    """The exclusive or of the words of each sequence's first Philox blocks: what the generator alone costs."""

def philox_words(
    seeds: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    lanes: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    sites: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    first_step: Int,
    step_count: Int,
    domain: Int,
) -> numpy.typing.NDArray[numpy.int64]:
    """Words of the blocks at (lane, step, site, domain) under each seed: (steps, seeds, lanes, 4)."""

def reference_iid_tokens(
    *, state_count: Int, seed: Int, round: ReferenceRound, out: numpy.ndarray, memory_limit: Int, threads: Int
) -> None:
    """The same for independent tokens."""

def reference_mdp_transitions(
    *,
    first_trajectory: Int,
    count: Int,
    trajectory_count: Int,
    length: Int,
    state_count: Int,
    action_count: Int,
    policy_temperature: Float,
    transition_temperature: Float,
    random_start: bool,
    memory_limit: Int,
    threads: Int,
) -> numpy.typing.NDArray[numpy.int64]:
    """States, actions and next states of `count` of the trajectories, int64 [3, count * length]."""

def returns_to_go(
    reward: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    episodes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64],
    discount: Float,
    scale: Float,
) -> numpy.typing.NDArray[numpy.float32]:
    """Discounted suffix sums of each episode, divided by `scale`, float32 [N]."""

def set_simd_level(level: str) -> None:
    """Choose the instruction set; the bytes made do not depend on it."""

def simd_level() -> str:
    """The instruction set in use."""

def state_codebook(row_count: Int, dimension: Int) -> numpy.typing.NDArray[numpy.float32]:
    """Fixed Uniform(-1, 1) vectors, float32 [row_count, dimension]."""

compiler: str
version: str
