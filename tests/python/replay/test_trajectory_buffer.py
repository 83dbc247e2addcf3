"""Windows of the Decision Transformer against the slow twin, at every boundary; the law and addresses of draws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import windows_twin as twin
from corpus_order import derived_key
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import trajmill as tm
from trajmill import _core
from trajmill.data import Normalizer, load_dataset, split_episodes
from trajmill.replay import TrajectoryBuffer

COLUMNS = ("observation", "action", "reward", "return_to_go", "terminal", "truncated")
REPLAY_WINDOWS = 16  # the domain's number


def steps(lengths, tail=0, seed=0):
    """Random columns of episodes of the given lengths, every third cut by a limit, and rows of an unfinished one."""
    rng = np.random.default_rng(seed)
    count = sum(lengths) + tail
    ends = np.cumsum(lengths) - 1
    terminal, truncated = np.zeros(count, bool), np.zeros(count, bool)
    terminal[ends], truncated[ends[::3]] = True, True
    terminal[ends[::3]] = False
    return {
        "observation": rng.normal(3.0, 2.0, (count, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminal": terminal,
        "truncated": truncated,
    }


def assert_equal_batches(got, expected):
    assert set(got) == set(expected)
    for name, values in expected.items():
        assert got[name].dtype == values.dtype, name
        assert np.array_equal(got[name], values), name


def choices_of(buffer, lengths, starts):
    """Pairs of (trajectory, start) of step numbers, where the buffer keeps all trajectories."""
    ends = np.cumsum(lengths)
    numbers = np.searchsorted(ends, starts, side="right")
    return [(int(k), int(s - (ends[k] - lengths[k]))) for k, s in zip(numbers, starts, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    context_length=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    tail=st.integers(0, 3),
    keep_tail=st.booleans(),
    pad_before=st.booleans(),
    action_padding=st.sampled_from([-10.0, 0.0]),
    discount=st.sampled_from([1.0, 0.9, 0.0]),
    timestep_limit=st.integers(1, 9),
    return_scale=st.sampled_from([1.0, 1000.0]),
)
def test_every_window_equals_the_twin(
    context_length, lengths, tail, keep_tail, pad_before, action_padding, discount, timestep_limit, return_scale
):
    data = steps(lengths, tail)
    buffer = TrajectoryBuffer(
        **data,
        context_length=context_length,
        columns=COLUMNS,
        observation_padding="before" if pad_before else "after",
        action_padding=action_padding,
        discount=discount,
        return_scale=return_scale,
        timestep_limit=timestep_limit,
        keep_tail=keep_tail,
    )
    if keep_tail and tail:
        lengths = [*lengths, tail]
    assert buffer.step_count == sum(lengths)
    starts = np.arange(buffer.step_count)
    trajectories = twin.split(data, keep_tail)
    expected = twin.windows(
        trajectories,
        choices_of(buffer, lengths, starts),
        context_length,
        *twin.mean_and_deviation(trajectories),
        discount=discount,
        return_scale=return_scale,
        timestep_limit=timestep_limit,
        action_padding=action_padding,
        pad_before=pad_before,
    )
    assert_equal_batches(buffer.windows(starts), expected)


@pytest.mark.parametrize("length", [1, 19, 20, 21, 1001])
def test_lengths_around_the_window(length):
    lengths = [20, length, 20]
    data = steps(lengths)
    buffer = TrajectoryBuffer(**data, columns=COLUMNS)
    starts = np.arange(sum(lengths))
    trajectories = twin.split(data)
    expected = twin.windows(
        trajectories, choices_of(buffer, lengths, starts), 20, *twin.mean_and_deviation(trajectories)
    )
    assert_equal_batches(buffer.windows(starts), expected)
    assert buffer.windows(starts)["timestep"].max() == min(max(lengths), 1000) - 1


def test_padding_of_a_window_at_the_end():
    data = steps([3])
    window = TrajectoryBuffer(**data, columns=COLUMNS, context_length=4).windows([2])
    mean, scale = twin.mean_and_deviation(twin.split(data))
    padding = (-mean.astype(np.float64) / scale).astype(np.float32)
    assert (window["observation"][0, :3] == padding).all()
    assert (window["action"][0, :3] == -10).all() and (window["reward"][0, :3] == 0).all()
    assert (window["terminal"][0, :3] == 2).all() and (window["truncated"][0] == [2, 2, 2, 1]).all()
    assert (window["return_to_go"][0, :3] == 0).all() and window["return_to_go"][0, 3] == data["reward"][2] / 1000
    assert window["timestep"].tolist() == [[0, 0, 0, 2]] and window["mask"].tolist() == [[False, False, False, True]]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    top_fraction=st.sampled_from([1.0, 0.5, 0.1, 0.75]),
    strict=st.booleans(),
    ties=st.booleans(),
)
def test_selection_equals_the_twin(lengths, top_fraction, strict, ties):
    data = steps(lengths)
    if ties:
        data["reward"][:] = 0
    buffer = TrajectoryBuffer(**data, top_fraction=top_fraction, strict_budget=strict)
    chosen = sorted(twin.select(twin.split(data), top_fraction, strict))
    assert buffer.episodes[:, 1].tolist() == [lengths[k] for k in chosen]
    assert buffer.episodes[:, 0].tolist() == [sum(lengths[:k]) for k in chosen]
    assert buffer.step_count == sum(lengths[k] for k in chosen)
    everyone = TrajectoryBuffer(**data)
    assert np.array_equal(buffer.normalizer.mean, everyone.normalizer.mean)  # measured before the selection


def test_strict_budget_never_samples_the_lowest_return():
    data = steps([5, 5, 5])
    data["reward"][:] = np.repeat([1.0, -1.0, 2.0], 5)
    assert TrajectoryBuffer(**data).episodes[:, 0].tolist() == [0, 5, 10]
    assert TrajectoryBuffer(**data, strict_budget=True).episodes[:, 0].tolist() == [0, 10]


def test_sample_draws_windows_at_uniform_steps():
    lengths = [1, 2, 30, 7, 40, 20]
    data = steps(lengths)
    data["observation"][:, 0] = np.arange(100)
    buffer = TrajectoryBuffer(**data, normalizer=None, context_length=3, seed=5)
    batch = buffer.sample(200_000)
    first = batch["mask"].argmax(axis=1)
    rows = batch["observation"][np.arange(200_000), first, 0].astype(int)
    assert stats.chisquare(np.bincount(rows, minlength=100)).pvalue > 1e-3  # fixed seed
    assert_equal_batches(buffer.windows(rows), batch)


def test_draws_have_addresses():
    """Row r of draw n is the step floor(u N / 2^64), u = words 2 (r % 2) and 2 (r % 2) + 1 of Philox block r / 2."""
    data = steps([100])
    data["observation"][:, 0] = np.arange(100)
    options = {"normalizer": None, "context_length": 1, "seed": 11}
    buffer = TrajectoryBuffer(**data, **options)
    draws = [buffer.sample(64)["observation"][:, 0, 0].astype(int).tolist() for _ in range(3)]
    key = derived_key(11, REPLAY_WINDOWS)
    for number, rows in enumerate(draws):
        blocks = [_core.philox4x32([r // 2, number, 0, 0], key) for r in range(64)]
        words = [block[2 * (r % 2) :] for r, block in enumerate(blocks)]
        assert rows == [((word[0] << 32 | word[1]) * 100) >> 64 for word in words]
    assert draws[0][:6] == [93, 18, 58, 94, 4, 46]
    assert buffer.draw_count == 3 and draws[0] != draws[1]
    again = TrajectoryBuffer(**data, **options)
    again.draw_count = 2
    assert again.sample(100)["observation"][:64, 0, 0].tolist() == draws[2]
    other = TrajectoryBuffer(**data, **(options | {"seed": 12}))
    assert other.sample(64)["observation"][:, 0, 0].tolist() != draws[0]


def test_state_resumes_draws():
    data = steps([9, 30])
    buffer = TrajectoryBuffer(**data, seed=3)
    buffer.sample(8)
    state = json.loads(json.dumps(buffer.state_dict()))
    expected = [buffer.sample(5) for _ in range(3)]
    resumed = TrajectoryBuffer(**data, seed=3)
    resumed.load_state_dict(state)
    for batch in expected:
        assert_equal_batches(resumed.sample(5), batch)
    with pytest.raises(ValueError, match="belongs to seed 3, this source has seed 4"):
        TrajectoryBuffer(**data, seed=4).load_state_dict(state)


def test_threads_change_nothing():
    data = steps([50, 3, 1000])
    batches = []
    for threads in (1, 2, 3):
        buffer = TrajectoryBuffer(**data, seed=1, columns=COLUMNS)
        batches.append(buffer.sample(3000, threads=threads))
    for batch in batches[1:]:
        assert_equal_batches(batch, batches[0])


def test_out_is_filled_and_returned():
    buffer = TrajectoryBuffer(**steps([9]), context_length=2)
    out = buffer.sample(4)
    arrays = dict(out)
    assert buffer.sample(4, out) is out and all(out[name] is arrays[name] for name in arrays)
    with pytest.raises(ValueError, match="out\\['observation'\\] must be"):
        buffer.sample(5, out)


def test_from_dataset():
    dataset = load_dataset("hopper-sac-replay-10k")
    buffer = TrajectoryBuffer.from_dataset(dataset, columns=COLUMNS, context_length=20, seed=7)
    episodes = split_episodes(dataset)
    assert buffer.episodes.tolist() == [[episode.start, len(episode)] for episode in episodes]
    data = {
        "observation": dataset.observations,
        "action": dataset.actions,
        "reward": dataset.rewards,
        "terminal": dataset.terminals,
        "truncated": dataset.timeouts,
    }
    trajectories = twin.split(data)
    choices = twin.draw(trajectories, range(len(trajectories)), 300, np.random.default_rng(1))
    starts = [episodes[number].start + start for number, start in choices]
    expected = twin.windows(trajectories, choices, 20, *twin.mean_and_deviation(trajectories))
    assert_equal_batches(buffer.windows(starts), expected)


def test_a_given_normalizer_and_none():
    data = steps([5])
    normalizer = Normalizer(mean=np.ones(3, np.float32), scale=np.full(3, 2, np.float32), epsilon=0.1)
    buffer = TrajectoryBuffer(**data, normalizer=normalizer, context_length=5)
    assert np.array_equal(buffer.windows([0])["observation"][0], (data["observation"] - 1) / 2)
    assert (buffer.windows([4])["observation"][0, 0] == -0.5).all()
    raw = TrajectoryBuffer(**data, normalizer=None, context_length=5)
    assert raw.normalizer is None and np.array_equal(raw.windows([0])["observation"][0], data["observation"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"action": np.zeros((4, 2))}, ValueError, "action must have one row a step like observation, 5, got 4"),
        ({"action": np.zeros(5)}, ValueError, r"action must have shape \(N, dimension >= 1\), got \(5,\)"),
        ({"observation": np.zeros((5, 0))}, ValueError, r"observation must have shape"),
        ({"reward": np.array([0, 0, np.nan, 0, 0])}, ValueError, "reward must be finite in float32, got nan in row 2"),
        ({"observation": np.full((5, 3), 1e300)}, ValueError, "observation must hold numbers that float32 can keep"),
        ({"terminal": np.zeros(5, bool), "truncated": np.zeros(5, bool)}, ValueError, "none of the 5 rows ends"),
        ({"terminal": np.zeros(5)}, TypeError, "terminal must be bool .*got float64"),
        ({"terminal": np.zeros(4, bool)}, ValueError, "terminal must have one row a step"),
        ({"context_length": 0}, ValueError, "context_length must be between 1 and"),
        ({"timestep_limit": 0}, ValueError, "timestep_limit must be between 1 and"),
        ({"discount": 1.5}, ValueError, "discount must be in"),
        ({"return_scale": 0.0}, ValueError, "return_scale must be in"),
        ({"top_fraction": 0.0}, ValueError, "top_fraction must be in"),
        ({"top_fraction": "all"}, TypeError, "top_fraction must be a number, got 'all'"),
        ({"observation_padding": "zero"}, ValueError, "observation_padding must be one of 'before', 'after'"),
        ({"normalizer": "minmax"}, ValueError, "normalizer must be one of 'fit', got 'minmax'"),
        (
            {"normalizer": Normalizer(mean=np.zeros(2, "f4"), scale=np.ones(2, "f4"), epsilon=0.1)},
            ValueError,
            "as a row",
        ),
        ({"columns": ("obs",)}, ValueError, "columns must be one of 'observation', "),
        ({"columns": ("reward", "reward")}, ValueError, "columns must be different"),
        ({"seed": -1}, ValueError, "seed must be between 0 and"),
    ],
)
def test_what_cannot_be_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        TrajectoryBuffer(**(steps([2, 3]) | change))


def test_steps_that_are_not_there():
    buffer = TrajectoryBuffer(**steps([2, 3]))
    with pytest.raises(IndexError, match="steps must be below 5, got 5"):
        buffer.windows([0, 5])
    with pytest.raises(ValueError, match="'reward' has 3 rows, an episode of 2 begins at row 2"):
        _core.returns_to_go(np.zeros(3, np.float32), [[0, 2], [2, 2]], 1.0, 1.0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0,), "batch_size must be between 1 and 2\\^33, got 0"),
        ((2**33 + 1,), "batch_size must be between"),
        ((4, None, 0), "threads must be at least 1, got 0"),
    ],
)
def test_impossible_draws_are_refused_and_do_not_count(sizes, message):
    mdp = tm.MDP(state_count=5, action_count=2)
    source = tm.MDPTransitions(mdp, observation_dim=3, action_dim=2, trajectory_count=2, length=5)
    for each in (source, tm.MixedReplay({"one": (source, 1.0)})):
        with pytest.raises(ValueError, match=message):
            each.sample(*sizes)
    assert source.draw_count == 0
