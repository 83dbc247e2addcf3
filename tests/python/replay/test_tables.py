"""Tables: resident ones equal slow twins, and those on the host, and mixtures, equal the resident ones row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import windows_twin
from small_data import LENGTHS, recording, transitions

import trajmill as tm
from trajmill.core.column import Column
from trajmill.data import Normalizer, Transitions
from trajmill.replay import MDPTransitions, Shares, TrajectoryBuffer

torch = pytest.importorskip("torch")
from gpu import DEVICES  # noqa: E402

from trajmill.replay import token_table  # noqa: E402
from trajmill.replay.tables import (  # noqa: E402
    CodedRows,
    CodedTable,
    HostTable,
    Mixture,
    ResidentMixture,
    TransitionRows,
    TransitionTable,
    WindowRows,
    WindowTable,
    table_of,
)
from trajmill.replay.token_table import TokenRows, TokenTable  # noqa: E402
from trajmill.training.distributed import Ranks  # noqa: E402
from trajmill.training.draws import Draws  # noqa: E402

CPU = torch.device("cpu")
SEEDS = [4, 2**63 + 9, 7]
Columns = dict[str, np.ndarray]


# --- slow twins: every row of a kind of rows, as a batch shows it -----------------------------------------------------

NORMALIZER = Normalizer(
    mean=np.arange(5, dtype=np.float32) / 4, scale=np.linspace(0.5, 3.0, 5, dtype=np.float32), epsilon=1e-3
)


def plain_rows(seed: int = 3, count: int = 61) -> TransitionRows:
    return TransitionRows(transitions=transitions(count, seed=seed))


def prepared_rows(seed: int = 3, count: int = 61) -> TransitionRows:
    rows = plain_rows(seed, count)
    return replace(rows, normalizer=NORMALIZER, reward_factor=0.5, reward_shift=-1.0, action_limit=0.6)


def twin_of_transitions(rows: TransitionRows) -> Columns:
    found: dict[str, list[Any]] = {
        name: [] for name in ("observation", "action", "reward", "terminal", "next_observation")
    }
    given = rows.transitions
    for row in range(len(given.reward)):
        for name in ("observation", "next_observation"):
            value = getattr(given, name)[row]
            found[name].append(value if rows.normalizer is None else (value - NORMALIZER.mean) / NORMALIZER.scale)
        limit = np.float32(np.inf if rows.action_limit is None else rows.action_limit)
        found["action"].append([min(max(number, -limit), limit) for number in given.action[row]])
        found["reward"].append(given.reward[row] * np.float32(rows.reward_factor) + np.float32(rows.reward_shift))
        found["terminal"].append(1.0 if given.terminal[row] else 0.0)
    return {name: np.array(values, np.float32) for name, values in found.items()}


WINDOWS: dict[str, Any] = {"context_length": 4, "return_scale": 10.0}


def window_rows(seed: int = 0, lengths: Sequence[int] = LENGTHS, **options: Any) -> WindowRows:
    return WindowRows(recording(lengths, seed=seed), WINDOWS | options)


def twin_of_windows(rows: WindowRows) -> Columns:
    data, options = rows._dataset, dict(rows._options)
    trajectories = windows_twin.split(
        {
            "observation": data.observations,
            "action": data.actions,
            "reward": data.rewards,
            "terminal": data.terminals,
            "truncated": data.timeouts,
        }
    )
    chosen = windows_twin.select(trajectories, options.pop("top_fraction", 1.0), options.pop("strict_budget", False))
    choices = [(number, start) for number in sorted(chosen) for start in range(len(trajectories[number]["reward"]))]
    given = options.pop("normalizer", None)
    moments = windows_twin.mean_and_deviation(trajectories) if given is None else (given.mean, given.scale)
    if "observation_padding" in options:
        options["pad_before"] = options.pop("observation_padding") == "before"
    found = windows_twin.windows(trajectories, choices, options.pop("context_length"), *moments, **options)
    return {name: found[name] for name in ("observation", "action", "return_to_go", "timestep", "mask")}


BOOKS = [np.random.default_rng(8).random(shape, np.float32) for shape in ((9, 3), (4, 2), (6, 5))]


def coded_rows(seed: int = 0, count: int = 50, *, targets: bool = False) -> CodedRows:
    rng = np.random.default_rng(seed)
    given = MDPTransitions.from_arrays(
        rng.integers(0, 9, count),
        rng.integers(0, 4, count),
        rng.integers(0, 6, count),
        state_vectors=BOOKS[0],
        action_vectors=BOOKS[1],
        target_vectors=BOOKS[2] if targets else None,
    )
    return CodedRows(name=f"coded {seed}", transitions=given)


def twin_of_coded(rows: CodedRows) -> Columns:
    given = rows.transitions
    books = (given.state_vectors, given.action_vectors, given.target_vectors)
    names = ("observation", "action", "next_observation")
    return {
        name: np.array([book[row[place]] for row in given.rows])
        for place, (name, book) in enumerate(zip(names, books, strict=True))
    }


@dataclass(frozen=True)
class Kind:
    """Three sources of one kind of rows, and the twin that knows every row of one."""

    parts: tuple[Any, ...]
    twin: Any

    def mixture(self, weights: Sequence[float]) -> Any:
        """The first of the sources, or a mixture of as many as there are weights."""
        return self.parts[0] if len(weights) == 1 else Mixture.of(self.parts[: len(weights)], weights)

    def batch(self, rows: Any, counts: Sequence[int], words: np.ndarray) -> Columns:
        """What the words (S, B) of an update stand for, row by row."""
        parts = getattr(rows, "parts", (rows,))
        columns = [self.twin(part) for part in parts]
        sources = np.repeat(np.arange(len(parts)), counts)
        found = {}
        for name in columns[0]:
            made = [
                [
                    columns[source][name][int(word) * len(part_of(parts, source)) >> 32]
                    for word, source in zip(of_seed, sources, strict=True)
                ]
                for of_seed in words
            ]
            found[name] = np.array(made)
        if len(parts) > 1 and "reward" in columns[0]:
            found["source"] = np.broadcast_to(sources.astype(np.uint8), words.shape)
        return found


def part_of(parts: Sequence[Any], source: int) -> Any:
    return parts[source]


KINDS = {
    "transitions": Kind((plain_rows(), plain_rows(4, 17), plain_rows(5, 200)), twin_of_transitions),
    "prepared transitions": Kind((prepared_rows(), plain_rows(4, 17), plain_rows(5, 1)), twin_of_transitions),
    "windows": Kind((window_rows(), window_rows(1, (12, 2)), window_rows(2, (1, 1, 6))), twin_of_windows),
    "windows of the best": Kind(
        (
            window_rows(top_fraction=0.6, observation_padding="after", action_padding=0.0, timestep_limit=3),
            window_rows(1, (12, 2)),
            window_rows(2, (3, 3, 3, 3)),
        ),
        twin_of_windows,
    ),
    "coded": Kind((coded_rows(), coded_rows(1, 7), coded_rows(2, 300)), twin_of_coded),
    "coded with targets": Kind(
        (coded_rows(targets=True), coded_rows(1, 7, targets=True), coded_rows(2, 300, targets=True)), twin_of_coded
    ),
}
WEIGHTS = {"alone": (1.0,), "two": (0.7, 0.3), "three": (5.0, 0.5, 3.3)}


def batches_of(
    table: Any, seeds: Sequence[int], batch_size: int, pieces: Sequence[int], *, done: int = 0
) -> list[Columns]:
    """Update by update, drawn so many at once; columns on the host."""
    draws = Draws.of(seeds, {"batch": batch_size}, table.device)
    fed = hasattr(table, "feed")
    if fed:
        table.reserve(max(pieces))
    found = []
    for count in pieces:
        if fed:
            table.feed(done, count)
        batch = table.draw(draws.words(torch.tensor(done, device=table.device), count)["batch"])
        for update in range(count):
            one = batch[update]
            columns = {field.name: getattr(one, field.name) for field in fields(one)}
            found.append({name: column.cpu().numpy().copy() for name, column in columns.items() if column is not None})
        done += count
    if fed:
        table.close()
    return found


def assert_equal(one: Sequence[Columns], other: Sequence[Columns]) -> None:
    """Bit for bit, dtypes included."""
    assert len(one) == len(other)
    for update, (ours, theirs) in enumerate(zip(one, other, strict=True)):
        assert ours.keys() == theirs.keys()
        for name, column in ours.items():
            assert column.dtype == theirs[name].dtype, name
            np.testing.assert_array_equal(column, theirs[name], err_msg=f"{name} of update {update}")


# --- tables on the training device ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resident_table_equals_its_twin(kind: str, weights: str, dtype: torch.dtype) -> None:
    """Three updates, two of them drawn at once."""
    one, shares = KINDS[kind], Shares(len(WEIGHTS[weights]))
    rows = one.mixture(WEIGHTS[weights])
    table = table_of(rows, "device", seeds=SEEDS, batch_size=11, device=CPU, dtype=dtype)
    words = Draws.of(SEEDS, {"batch": 11}, CPU).words(torch.tensor(0), 3)["batch"].numpy()
    for update, batch in enumerate(batches_of(table, SEEDS, 11, (2, 1))):
        expected = one.batch(rows, shares.split(11, WEIGHTS[weights]), words[update])
        assert batch.keys() == expected.keys()
        for name, column in expected.items():
            assert batch[name].shape == column.shape
            if column.dtype == np.float32:
                assert batch[name].dtype == (np.float32 if dtype == torch.float32 else np.float64)
                np.testing.assert_allclose(batch[name], column, rtol=1e-6, atol=1e-6, err_msg=name)
            else:
                assert batch[name].dtype == column.dtype, name
                np.testing.assert_array_equal(batch[name], column, err_msg=name)


@pytest.mark.parametrize(
    "options",
    [{}, {"observation_padding": "after", "action_padding": 0.0, "timestep_limit": 3}, {"normalizer": NORMALIZER}],
    ids=["plain", "padding", "normalizer"],
)
@pytest.mark.parametrize("length", [1, 2, 4, 12])
def test_windows_are_those_of_the_trajectory_buffer(length: int, options: dict[str, Any]) -> None:
    """To the last bit, of every length from the same steps."""
    options = options | {"context_length": length}
    rows = WindowRows(recording(), options)
    expected = TrajectoryBuffer.from_dataset(recording(), **options).windows(range(len(rows)))
    batch = rows.table(CPU, torch.float32).gather(torch.arange(len(rows))[None])
    for name in ("observation", "action", "return_to_go", "timestep", "mask"):
        assert torch.equal(getattr(batch, name)[0], torch.from_numpy(expected[name])), name


def test_a_batch_of_transitions_is_gathered_in_any_shape() -> None:
    table = plain_rows().table(CPU, torch.float32)
    index = torch.tensor([[[1, 2]], [[60, 1]]])
    batch = table.gather(index)
    given = plain_rows().transitions
    assert torch.equal(batch.observation, torch.from_numpy(given.observation[index.numpy()]))
    assert torch.equal(batch.next_observation, torch.from_numpy(given.next_observation[index.numpy()]))
    assert batch.reward.tolist() == given.reward[index.numpy()].tolist()
    assert batch.terminal.dtype == torch.float32 and batch.source is None
    assert all(getattr(batch, name).is_contiguous() for name in ("observation", "action", "next_observation"))


def test_facts_of_transitions_are_those_of_the_prepared_ones() -> None:
    rows = prepared_rows()
    facts, reward = rows.facts, twin_of_transitions(rows)["reward"]
    assert (facts.observation_dim, facts.action_dim, facts.normalizer) == (5, 2, NORMALIZER)
    assert (facts.lowest_reward, facts.greatest_reward) == (float(reward.min()), float(reward.max()))
    assert rows.table(CPU, torch.float32).facts == facts


def test_facts_of_a_mixture_are_those_of_the_first_part_with_the_ends_of_all() -> None:
    """Safe Q's bound and the table of timesteps have to hold for every row."""
    other = plain_rows(4)
    other.transitions.reward[2:4] = [-77.0, 99.0]
    facts = Mixture.of([prepared_rows(), other], [1, 1]).facts
    assert facts == replace(prepared_rows().facts, lowest_reward=-77.0 / 2 - 1, greatest_reward=99.0 / 2 - 1)
    for lengths, greatest in (((12, 2), 11), ((1, 1), 8)):
        facts = Mixture.of([window_rows(), window_rows(1, lengths)], [1, 1]).facts
        assert (facts.greatest_timestep, facts.normalizer.to_dict()) == (
            greatest,
            window_rows().facts.normalizer.to_dict(),
        )
    coded = Mixture.of([coded_rows(), coded_rows(1)], [1, 1])
    assert coded.facts == coded_rows().facts


def test_facts_of_windows_and_codes() -> None:
    facts = window_rows().facts
    assert (facts.observation_dim, facts.action_dim, facts.greatest_timestep) == (5, 2, max(LENGTHS) - 1)
    np.testing.assert_allclose(facts.normalizer.mean, recording().observations.mean(0), rtol=1e-5)
    assert len(window_rows()) == sum(LENGTHS)
    assert coded_rows(targets=True).facts.predicted_dim == 5
    assert coded_rows().facts.predicted_dim == coded_rows().facts.observation_dim == 3


def test_rows_that_nothing_can_be_learned_from_are_refused() -> None:
    bad = transitions(5)
    bad.reward[3] = np.nan
    for place in ("device", "host"):
        with pytest.raises(ValueError, match=r"reward .* 3 .* clean"):
            table_of(TransitionRows(transitions=bad), place, seeds=[0], batch_size=2, device=CPU)
        with pytest.raises(ValueError, match="at least one transition"):
            table_of(plain_rows(count=0), place, seeds=[0], batch_size=2, device=CPU)
        with pytest.raises(ValueError, match="at least one transition"):
            mixture = Mixture.of([plain_rows(), plain_rows(count=0)], [1, 1])
            table_of(mixture, place, seeds=[0], batch_size=2, device=CPU)


def test_data_that_may_not_be_written_is_read() -> None:
    """Arrays of a mapped file, say."""
    given = transitions(9)
    for field in fields(Transitions):
        getattr(given, field.name).setflags(write=False)
    table = TransitionRows(transitions=given).table(CPU, torch.float32)
    table.rows.zero_()
    assert given.observation.any(), "a table has memory of its own"


def test_rows_are_put_where_they_are_asked_for() -> None:
    where = {"seeds": [0], "batch_size": 2, "device": CPU}
    mixture = Mixture.of([plain_rows(), plain_rows(4)], [1, 1])
    for rows, kind in (
        (plain_rows(), TransitionTable),
        (window_rows(), WindowTable),
        (coded_rows(), CodedTable),
        (mixture, ResidentMixture),
    ):
        found = table_of(rows, "device", **where)
        assert type(found) is kind and found.dtype == torch.float32 and found.device == CPU
        assert type(table_of(rows, "host", **where)) is HostTable
    for place in ("device", "host"):
        assert type(table_of(token_rows(), place, **where)) is TokenTable


# --- tables on the host, and mixtures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_draws_what_the_device_does(kind: str, weights: str, device: str) -> None:
    """From the start and from the middle, as a resumed run does; many seeds and one; float32 and float64."""
    rows, where = KINDS[kind].mixture(WEIGHTS[weights]), torch.device(device)
    for seeds, dtype, pieces, done in (
        (SEEDS, torch.float32, (4, 4, 2), 0),
        (SEEDS, torch.float32, (1, 3, 1), 5),
        ([2**64 - 1], torch.float64, (2, 2), 100_003),
    ):
        resident, host = (
            table_of(rows, place, seeds=seeds, batch_size=11, device=where, dtype=dtype) for place in ("device", "host")
        )
        expected = batches_of(resident, seeds, 11, pieces, done=done)
        assert_equal(batches_of(host, seeds, 11, pieces, done=done), expected)
        if done == 0:
            middle = table_of(rows, "host", seeds=seeds, batch_size=11, device=where, dtype=dtype)
            assert_equal(batches_of(middle, seeds, 11, (3, 4), done=3), expected[3:])
            middle = table_of(rows, "device", seeds=seeds, batch_size=11, device=where, dtype=dtype)
            assert_equal(batches_of(middle, seeds, 11, (3, 4), done=3), expected[3:])


@pytest.mark.parametrize("place", ["device", "host"])
def test_a_table_may_be_fed_again_from_anywhere(place: str) -> None:
    """Forwards, on, backwards, and after it was closed."""
    rows = KINDS["transitions"].mixture(WEIGHTS["three"])
    straight = batches_of(table_of(rows, place, seeds=SEEDS, batch_size=7, device=CPU), SEEDS, 7, (1,) * 12)
    table = table_of(rows, place, seeds=SEEDS, batch_size=7, device=CPU)
    for first, pieces in ((4, (2, 3)), (9, (3,)), (0, (1, 1)), (2, (2,)), (6, (1,)), (5, (1,))):
        found = batches_of(table, SEEDS, 7, pieces, done=first)
        assert_equal(found, straight[first : first + sum(pieces)])


def test_what_a_seed_gets_does_not_depend_on_the_others() -> None:
    for place in ("device", "host"):
        rows = KINDS["transitions"].mixture(WEIGHTS["two"])
        many = batches_of(table_of(rows, place, seeds=SEEDS, batch_size=7, device=CPU), SEEDS, 7, (2,))
        alone = batches_of(table_of(rows, place, seeds=SEEDS[1:2], batch_size=7, device=CPU), SEEDS[1:2], 7, (2,))
        assert_equal([{name: column[1:2] for name, column in batch.items()} for batch in many], alone)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (5.0, 0.5, 3.3), (1.0, 1e-3), (1.0, 0.0), (1, 1, 1)], ids=str)
def test_every_batch_has_exactly_the_rows_that_a_source_is_owed(weights: tuple[float, ...], place: str) -> None:
    """Never off by a row at the end of any batch, in the order of the sources, for every seed alike."""
    rows = KINDS["transitions"].mixture(weights)
    table = table_of(rows, place, seeds=SEEDS, batch_size=13, device=CPU)
    got, owed = np.zeros(len(weights)), np.zeros(len(weights))
    for batch in batches_of(table, SEEDS, 13, (10,) * 12):
        source = batch["source"]
        assert source.dtype == np.uint8 and source.shape == (3, 13)
        assert (source == source[0]).all() and (np.diff(source[0].astype(int)) >= 0).all()
        got += np.bincount(source[0], minlength=len(weights))
        owed += 13 * np.array(weights) / sum(weights)
        assert np.abs(got - owed).max() < 1


@pytest.mark.parametrize("place", ["device", "host"])
def test_real_rows_are_unaltered_and_others_are_prepared_like_them(place: str) -> None:
    """Synthetic rows are clipped, scaled and normalized as the real ones are; each row is whole."""
    real, made = prepared_rows(), plain_rows(4, 17)
    parts = [twin_of_transitions(real), twin_of_transitions(replace(real, transitions=made.transitions))]
    known = [
        {
            tuple(np.concatenate([np.ravel(column[row]) for column in part.values()]))
            for row in range(len(part["reward"]))
        }
        for part in parts
    ]
    table = table_of(Mixture.of([real, made], [0.6, 0.4]), place, seeds=SEEDS, batch_size=16, device=CPU)
    met: list[set[Any]] = [set(), set()]
    for batch in batches_of(table, SEEDS, 16, (8,) * 4):
        names = list(parts[0])
        for place_of_row in np.ndindex(batch["source"].shape):
            row = tuple(np.concatenate([np.ravel(batch[name][place_of_row]) for name in names]))
            met[batch["source"][place_of_row]].add(row)
    assert met[0] == known[0] and met[1] == known[1], "every row comes, and no other"
    alone = batches_of(table_of(real, place, seeds=SEEDS, batch_size=16, device=CPU), SEEDS, 16, (1,))
    assert "source" not in alone[0]


def test_other_windows_are_seen_as_the_first_are() -> None:
    first, other = window_rows(top_fraction=0.6), window_rows(1, (12, 2))
    mixture = Mixture.of([first, other], [1, 1])
    assert mixture.parts[1]._options == first._options | {"normalizer": first.facts.normalizer}
    assert mixture.parts[1].facts.normalizer is first.facts.normalizer


def test_numbers_that_stand_for_other_vectors_are_not_mixed() -> None:
    with pytest.raises(ValueError, match=r"coded 1 and coded 0 .* target_vectors"):
        Mixture.of([coded_rows(), coded_rows(1, targets=True)], [1, 1])


def test_a_host_table_keeps_only_the_batches_of_a_period_on_the_device() -> None:
    """In place: what was reserved is where a captured graph reads."""
    table = HostTable(plain_rows(), SEEDS, 7, CPU, torch.float64)
    table.reserve(4)
    words = torch.zeros(4, 3, 7, dtype=torch.int64)
    places = [table.draw(words).observation.data_ptr()]
    for first, count in ((0, 4), (4, 2), (6, 4)):
        table.feed(first, count)
        batch = table.draw(words[:count])
        places.append(batch.observation.data_ptr())
        assert batch.observation.shape == (count, 3, 7, 5) and batch.observation.dtype == torch.float64
    assert len(set(places)) == 1
    table.close()
    table.close()


# --- tokens -----------------------------------------------------------------------------------------------------------


class CountedRows:
    """Row n holds 10 n, 10 n + 1, ...; targets are 5,000 more, if there are any."""

    def __init__(self, length: int = 5, *, targets: bool = False) -> None:
        names = ("tokens", "targets") if targets else ("tokens",)
        self.columns = tuple(Column(name=name, dtype="uint16", row_length=length) for name in names)

    def fill(self, first_row: int, arrays: dict[str, np.ndarray], threads: int | None) -> None:
        count, length = arrays["tokens"].shape
        arrays["tokens"][:] = 10 * np.arange(first_row, first_row + count)[:, None] + np.arange(length)
        if "targets" in arrays:
            arrays["targets"][:] = 5000 + arrays["tokens"]


def token_rows(**options: Any) -> TokenRows:
    """Twelve sequences of five tokens, of which the last five are held out."""
    rows = CountedRows(**options)
    return TokenRows(name="counted", vocabulary_size=200, rows=rows, row_count=12, held_out_count=5)


def first_tokens(tokens: torch.Tensor) -> list[int]:
    """Numbers of the sequences in a batch, which is whole and the same for every seed."""
    assert torch.equal(tokens, tokens[:1].expand_as(tokens))
    numbers = tokens[0, :, 0] // 10
    assert torch.equal(tokens[0], (10 * numbers[:, None] + torch.arange(tokens.shape[-1])).int())
    return numbers.tolist()


def test_tokens_come_in_order_and_then_again_from_the_first() -> None:
    table = TokenTable(token_rows(), 2, 3, CPU, torch.float32)
    table.reserve(4)
    place = table.tokens.data_ptr()
    table.feed(1, 4)
    assert [first_tokens(table.tokens[slot]) for slot in range(4)] == [[3, 4, 5], [6, 0, 1], [2, 3, 4], [5, 6, 0]]
    table.feed(7, 1)
    assert first_tokens(table.tokens[0]) == [0, 1, 2] and first_tokens(table.tokens[1]) == [6, 0, 1]
    assert table.tokens.dtype == torch.int32 and table.tokens.data_ptr() == place and table.targets is None
    assert (table.rows.length, table.rows.has_targets) == (5, False)


def test_targets_come_with_their_tokens() -> None:
    table = TokenTable(token_rows(targets=True), 2, 3, CPU, torch.float32)
    table.feed(2, 1)
    assert torch.equal(table.targets, table.tokens + 5000) and first_tokens(table.tokens[0]) == [6, 0, 1]
    assert table.rows.has_targets
    for tokens, targets in table.held_out():
        assert torch.equal(targets, tokens + 5000)


def test_what_is_held_out_comes_in_whole_batches() -> None:
    table = TokenTable(token_rows(), 2, 2, CPU, torch.float32)
    assert [first_tokens(tokens) for tokens, _ in table.held_out()] == [[7, 8], [9, 10]]
    assert all(targets is None for _, targets in table.held_out())


def test_processes_share_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they read what one process does, while training and of what is held out."""
    whole = TokenTable(token_rows(), 1, 4, CPU, torch.float32)
    whole.reserve(3)
    whole.feed(1, 3)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(token_table, "current_ranks", lambda rank=rank: Ranks(rank=rank, count=2))
        table = TokenTable(token_rows(), 1, 4, CPU, torch.float32)
        table.reserve(3)
        table.feed(1, 3)
        parts.append(table)
    joined = torch.cat([table.tokens for table in parts], 2)
    assert torch.equal(joined, whole.tokens)
    held_out = zip(*(table.held_out() for table in parts), strict=True)
    assert [first_tokens(one[0]) + first_tokens(two[0]) for one, two in held_out] == [[7, 8, 9, 10]]
    with pytest.raises(ValueError, match=r"batch_size .* 2 processes, got 3"):
        TokenTable(token_rows(), 1, 3, CPU, torch.float32)


def test_rows_of_a_chain_are_those_that_the_chain_samples() -> None:
    from trajmill.algorithms import language_model

    config = language_model.SMALL
    rows = language_model.generate(config)
    chain = tm.MarkovChain(state_count=100, seed=42)
    sampled = chain.sample(5, config.length, first_sequence=3)
    assert np.array_equal(rows.read(3, 5)["tokens"], sampled)


def test_a_row_that_is_not_finite_is_named_also_where_it_spoils_the_scaling_of_all() -> None:
    bad = transitions(20)
    bad.observation[7, 1] = np.nan
    with np.errstate(invalid="ignore"):
        rows = TransitionRows(transitions=bad, normalizer=Normalizer.fit(bad.observation, 1e-3))
    with pytest.raises(ValueError, match="observation of transition 7 is NaN"):
        rows.columns  # noqa: B018
