"""Mixtures: exact shares, columns and their sources, transforms that leave real data alone, resuming."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from fractions import Fraction

import numpy as np
import pytest
from corpus_order import derived_key
from hypothesis import given, settings
from hypothesis import strategies as st

import trajmill as tm
from trajmill import _core
from trajmill.replay import MDPTransitions, MixedReplay, ReplayBuffer, TrajectoryBuffer, linear

REPLAY_MDP = 17  # the domain's number
SCHEMA = {"observation": ((3,), "f4"), "action": ((2,), "f4"), "reward": ((), "f4"), "terminal": ((), "?")}


def buffer(value, count=50, seed=0, **options):
    """A buffer whose every number is `value`, but for rewards 0, 1, 2, ..."""
    rows = ReplayBuffer(count, SCHEMA, seed=seed, **options)
    rows.add(
        observation=np.full((count, 3), value, np.float32),
        action=np.full((count, 2), value, np.float32),
        reward=np.arange(count, dtype=np.float32),
        terminal=np.zeros(count, bool),
    )
    return rows


def three(seed=0):
    return {name: buffer(k, seed=seed + k) for k, name in enumerate(("real", "model", "diffusion"))}


def counts_of(batch, source_count):
    return np.bincount(batch["source"], minlength=source_count)


def assert_equal_batches(got, expected):
    assert list(got) == list(expected)
    for name in got:
        assert np.array_equal(got[name], expected[name]), name


# --- shares ---


def tiny_sources(count):
    """Sources that cost little to draw from."""
    rows = ReplayBuffer(1, {"reward": ((), "f4")})
    rows.add(reward=np.zeros(1, np.float32))
    return [rows] * count


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    batch_sizes=st.lists(st.integers(1, 40), min_size=1, max_size=40),
)
def test_constant_weights_are_never_off_by_a_row(weights, batch_sizes):
    """After every batch, against exact fractions."""
    sources = tiny_sources(len(weights))
    mixed = MixedReplay({str(k): (s, w) for k, (s, w) in enumerate(zip(sources, weights, strict=True))})
    got, total = np.zeros(len(weights), int), 0
    for batch_size in batch_sizes * 3:
        batch = mixed.sample(batch_size)
        assert len(batch["source"]) == batch_size and (np.diff(batch["source"].astype(int)) >= 0).all()
        got += counts_of(batch, len(weights))
        total += batch_size
        assert got.sum() == total
        for count, weight in zip(got.tolist(), weights, strict=True):
            assert abs(count - Fraction(total * weight, sum(weights))) < 1


@settings(max_examples=40, deadline=None)
@given(
    table=st.integers(2, 6).flatmap(
        lambda count: st.lists(
            st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0, 7.0]), min_size=count, max_size=count).filter(any),
            min_size=1,
            max_size=30,
        )
    ),
    batch_size=st.integers(1, 20),
)
def test_changing_weights_keep_batches_whole(table, batch_size):
    """Exactly the batch size, nothing of a source of weight 0, and never far from what was owed."""
    count = len(table[0])
    mixed = MixedReplay(
        {str(k): (source, lambda draw, k=k: table[draw][k]) for k, source in enumerate(tiny_sources(count))}
    )
    owed, got = np.zeros(count), np.zeros(count)
    for weights in np.array(table):
        counts = counts_of(mixed.sample(batch_size), count)
        assert counts.sum() == batch_size and (counts[weights == 0] == 0).all()
        got += counts
        owed += batch_size * weights / weights.sum()
        assert np.abs(got - owed).max() < count


def test_halves_of_an_even_batch_are_equal():
    mixed = MixedReplay({"real": (buffer(0), 0.5), "synthetic": (buffer(1), 0.5)})
    for _ in range(5):
        assert mixed.sample(256)["source"].tolist() == [0] * 128 + [1] * 128


def test_a_schedule():
    sources = three()
    mixed = MixedReplay({"real": (sources["real"], 1.0), "model": (sources["model"], linear(0.0, 1.0, 4))})
    shares = [int(counts_of(mixed.sample(60), 2)[1]) for _ in range(6)]
    assert shares == [0, 12, 20, 26, 30, 30]  # 60 * 3 / 7 = 25.7, and so on from 57.7 owed
    ramp = linear(2.0, 0.0, 3)
    assert [ramp(draw) for draw in range(5)] == pytest.approx([2.0, 4 / 3, 2 / 3, 0.0, 0.0])


def test_an_empty_buffer_of_weight_zero_is_not_asked():
    empty = ReplayBuffer(10, SCHEMA)
    mixed = MixedReplay({"real": (buffer(0), 1.0), "synthetic": (empty, lambda _: 0.5 if len(empty) else 0.0)})
    assert (mixed.sample(8)["source"] == 0).all()
    empty.add(observation=np.ones(3, "f4"), action=np.ones(2, "f4"), reward=np.float32(1), terminal=np.bool_(False))
    assert counts_of(mixed.sample(9), 2).tolist() == [6, 3]


# --- rows and columns ---


def test_rows_are_those_the_sources_would_have_drawn():
    sources, alone = three(), three()
    mixed = MixedReplay({name: (source, 1 + k) for k, (name, source) in enumerate(sources.items())})
    assert mixed.names == ("real", "model", "diffusion")
    for _ in range(3):
        batch = mixed.sample(60)
        start = 0
        for number, (source, count) in enumerate(zip(alone.values(), (10, 20, 30), strict=True)):
            expected = source.sample(count)
            for name in SCHEMA:
                assert np.array_equal(batch[name][start : start + count], expected[name])
            assert (batch["source"][start : start + count] == number).all()
            start += count


def test_out_threads_and_fresh_arrays_agree():
    batches = []
    for threads, reuse in ((1, False), (3, True)):
        mixed = MixedReplay({"real": (buffer(0, seed=1), 0.3), "model": (buffer(1, seed=2), 0.7)})
        out = mixed.sample(1000) if reuse else None
        mixed.load_state_dict(
            {
                **mixed.state_dict(),
                "draw_count": 0,
                "credit": {"real": 0.0, "model": 0.0},
                "sources": {"real": 0, "model": 0},
            }
        )
        batch = mixed.sample(1000, out, threads)
        assert out is None or batch is out
        batches.append(batch)
    assert_equal_batches(*batches)


def test_priorities_pass_through():
    prioritized, plain = buffer(0, prioritized=True, seed=3), buffer(1)
    mixed = MixedReplay({"real": (prioritized, 1), "synthetic": (plain, 1)})
    batch = mixed.sample(20)
    real = batch["source"] == 0
    assert (batch["indexes"][~real] == -1).all() and (batch["weights"][~real] == 1).all()
    assert np.array_equal(batch["reward"][real], batch["indexes"][real].astype(np.float32))
    prioritized.update_priorities(batch["indexes"][real], np.zeros(10))
    later = mixed.sample(200)
    assert not np.isin(later["indexes"], batch["indexes"][real]).any()


def test_columns_and_fill():
    mdp = tm.MDP(state_count=20, action_count=5)
    synthetic = MDPTransitions(mdp, observation_dim=3, action_dim=2, trajectory_count=5, length=6)
    sources = {"real": (buffer(7), 1), "synthetic": (synthetic, 1)}
    with pytest.raises(
        ValueError,
        match=r"source 'synthetic' lacks the column 'reward', float32 \(\); give it a value with fill= or leave it out",
    ):
        MixedReplay(sources, columns=tuple(SCHEMA))
    with pytest.raises(ValueError, match=r"source 'real' lacks the column 'next_observation', float32 \(3\)"):
        MixedReplay(sources, fill={"reward": 0, "terminal": False})
    mixed = MixedReplay(sources, fill={"reward": -2.5, "terminal": True}, columns=("action", "reward", "terminal"))
    batch = mixed.sample(4)
    assert list(batch) == ["action", "reward", "terminal", "source"]
    assert batch["reward"][2:].tolist() == [-2.5, -2.5] and batch["terminal"].tolist() == [False, False, True, True]
    assert (batch["action"][:2] == 7).all()
    shared = MixedReplay(sources, columns=("observation", "action"))
    assert (shared.sample(2)["observation"][0] == 7).all()


def test_mixtures_of_mixtures():
    inner = MixedReplay({"a": (buffer(0), 1), "b": (buffer(1), 1)})
    with pytest.raises(ValueError, match="the column 'source' is the mixture's own"):
        MixedReplay({"inner": (inner, 1)})
    outer = MixedReplay({"inner": (inner, 2), "c": (buffer(2), 1)}, columns=list(SCHEMA))
    batch = outer.sample(6)
    assert batch["observation"][:, 0].tolist() == [0, 0, 1, 1, 2, 2] and batch["source"].tolist() == [0] * 4 + [1] * 2


def test_windows_can_be_mixed():
    data = {
        "observation": np.ones((9, 3)),
        "action": np.ones((9, 2)),
        "reward": np.ones(9),
        "terminal": np.arange(9) == 8,
        "truncated": np.zeros(9, bool),
    }
    mixed = MixedReplay({str(k): (TrajectoryBuffer(**data, context_length=4, seed=k), 1) for k in range(2)})
    batch = mixed.sample(5)
    assert batch["observation"].shape == (5, 4, 3) and batch["mask"].dtype == np.bool_


def test_functions_and_samplers_as_sources():
    class Generator:
        made = 0

        def sample(self, batch_size):
            self.made += batch_size
            return {
                "observation": np.full((batch_size, 3), 5.0), "action": np.zeros((batch_size, 2), np.float32),
                "reward": np.arange(batch_size), "terminal": np.zeros(batch_size, bool), "beyond": None,
            }  # fmt: skip

    generator = Generator()
    mixed = MixedReplay(
        {"real": (buffer(1, prioritized=True), 1), "made": (generator, 1), "bare": (generator.sample, 1)}
    )
    batch = mixed.sample(9)
    assert generator.made == 6 and batch["reward"][3:].tolist() == [0, 1, 2, 0, 1, 2]
    assert (batch["observation"][3:] == 5).all() and (batch["indexes"][3:] == -1).all()


# --- transforms ---


def test_a_transform_touches_its_rows_and_columns_only():
    real = buffer(1, seed=4)
    stored = real[:]
    kept = []

    def predict(rows):
        kept.append(rows)
        assert set(rows) == set(SCHEMA)
        prediction = rows["observation"] + rows["reward"][:, None]
        for values in rows.values():
            values[:] = 99  # copies: reaches nothing
        return {"observation": prediction.astype(np.float64)}

    mixed = MixedReplay({"real": (real, 1), "model": (real, 1)}, transform={"model": predict})
    twin = buffer(1, seed=4)
    for _ in range(3):
        batch = mixed.sample(40)
        untouched, original = twin.sample(20), twin.sample(20)
        for name in SCHEMA:
            assert np.array_equal(batch[name][:20], untouched[name])
            if name != "observation":
                assert np.array_equal(batch[name][20:], original[name])
        assert np.array_equal(batch["observation"][20:], original["observation"] + original["reward"][:, None])
    for values in kept[0].values():
        values[:] = 55
    assert_equal_batches(real[:], stored)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, "the transform of 'model' must return a dict of arrays, got"),
        ({"obs": 1}, ValueError, "the transform of 'model' returned 'obs', which the batch does not have"),
        ({"source": 1}, ValueError, "returned 'source'"),
        ({"reward": np.zeros(3)}, ValueError, r"column 'reward' needs shape \(2,\), got \(3,\)"),
        ({"reward": np.zeros((2, 1))}, ValueError, r"shape \(2,\), got \(2, 1\)"),
        ({"reward": 0.0}, ValueError, r"shape \(2,\), got \(\)"),
        ({"terminal": np.zeros(2)}, TypeError, "column 'terminal' needs bool, got float64"),
        ({"reward": np.array(["a", "b"])}, TypeError, "column 'reward' needs float32, got <U1"),
    ],
)
def test_what_a_transform_returns_is_checked(returned, error, message):
    mixed = MixedReplay({"real": (buffer(1), 1), "model": (buffer(1), 1)}, transform={"model": lambda _: returned})
    with pytest.raises(error, match=message):
        mixed.sample(4)
    assert mixed.draw_count == 0


def test_errors_of_functions_arrive():
    def fail(_):
        raise RuntimeError("out of order")

    for sources, transform in (
        ({"real": (buffer(1), 1), "bad": (fail, 1)}, None),
        ({"real": (buffer(1), fail)}, None),
        ({"real": (buffer(1), 1)}, {"real": fail}),
    ):
        mixed = MixedReplay(sources, transform=transform)
        with pytest.raises(RuntimeError, match="out of order"):
            mixed.sample(3)
        assert mixed.state_dict()["credit"] == dict.fromkeys(sources, 0.0)


def test_a_function_cannot_draw_from_its_own_mixture():
    mixed = MixedReplay({"real": (buffer(1), 1)}, transform={"real": lambda _: mixed.sample(1)})
    with pytest.raises(RuntimeError, match="a function of a mixture must neither draw from that mixture nor change it"):
        mixed.sample(4)
    with pytest.raises(RuntimeError, match="must neither draw"):
        mixed.sample(4)
    assert mixed.draw_count == 0


def test_sources_live_as_long_as_their_mixture():
    source = buffer(1)
    alive = weakref.ref(source)
    mixed = MixedReplay({"real": (source, 1)})
    del source
    gc.collect()
    assert (mixed.sample(3)["observation"] == 1).all()
    del mixed
    gc.collect()
    assert alive() is None


# --- resuming ---


def test_resumed_mixtures_continue():
    def make():
        mdp = tm.MDP(state_count=20, action_count=5)
        made = MDPTransitions(mdp, observation_dim=3, action_dim=2, trajectory_count=5, length=6, seed=9)
        inner = MixedReplay(
            {"x": (buffer(5, seed=5), 1 / 3), "y": (buffer(6, seed=6), 2 / 3)}, columns=list(SCHEMA)[:2]
        )
        return MixedReplay(
            {
                "real": (buffer(1, seed=1), linear(1.0, 0.2, 10)),
                "inner": (inner, 1 / 7),
                "made": (made, lambda d: d % 3),
            },
            columns=list(SCHEMA)[:2],
        )

    unbroken = make()
    for _ in range(4):
        unbroken.sample(7)
    state = json.loads(json.dumps(unbroken.state_dict()))
    expected = [unbroken.sample(11) for _ in range(12)]
    resumed = make()
    resumed.load_state_dict(state)
    for batch in expected:
        assert_equal_batches(resumed.sample(11), batch)
    assert resumed.state_dict() == unbroken.state_dict()
    with pytest.raises(ValueError, match=r"the state is of sources \['real', 'inner', 'made'\], this mixture has"):
        MixedReplay({"real": (buffer(1), 1)}).load_state_dict(state)


def test_threads_draw_one_after_another():
    mixed = MixedReplay(
        {"real": (buffer(0), 1), "model": (buffer(1), 2)}, transform={"model": lambda rows: {"action": rows["action"]}}
    )
    got = []

    def work():
        got.extend(counts_of(mixed.sample(10), 2) for _ in range(100))
        mixed.state_dict()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert len(got) == 400 and abs(np.sum(got, axis=0)[0] - 4000 / 3) < 1 and mixed.draw_count == 400


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sources": {}}, ValueError, "at least one source must be compiled"),
        ({"sources": {"f": (lambda n: {}, 1)}}, ValueError, "at least one source must be compiled"),
        ({"sources": {"real": (buffer(0), -1)}}, ValueError, "the weight of source 'real' must be in"),
        ({"sources": {"real": (buffer(0), "half")}}, TypeError, "the weight of source 'real' must be a number"),
        ({"sources": {"real": (buffer(0), 1), "x": (3, 1)}}, TypeError, "source 'x' must be a buffer, have a method"),
        ({"sources": {"real": buffer(0)}}, TypeError, r"source 'real' must be given as \(source, weight\), got"),
        ({"transform": {"model": print}}, ValueError, "transform must be one of 'real', got 'model'"),
        ({"columns": ["obs"]}, ValueError, "columns must be one of 'observation', "),
        (
            {"sources": {"real": (buffer(0), 1), "b": (ReplayBuffer(2, SCHEMA | {"reward": ((), "f8")}), 1)}},
            ValueError,
            r"source 'b' must have the column 'reward' as float32 \(\) a row, got float64 \(\)",
        ),
        (
            {"sources": {"real": (buffer(0), 1), "b": (ReplayBuffer(2, SCHEMA | {"action": ((3,), "f4")}), 1)}},
            ValueError,
            r"source 'b' must have the column 'action' as float32 \(2\) a row, got float32 \(3\)",
        ),
    ],
)
def test_what_cannot_be_mixed(arguments, error, message):
    with pytest.raises(error, match=message):
        MixedReplay(**({"sources": {"real": (buffer(0), 1)}} | arguments))


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (0.0, ValueError, "weights must have a finite sum > 0, which is 0 at draw 0"),
        (lambda _: -1.0, ValueError, "the weight of source 'real' must be finite and >= 0, got -1 at draw 0"),
        (lambda _: float("nan"), ValueError, "must be finite and >= 0, got nan"),
        (lambda _: "much", TypeError, "the weight of source 'real' must be a number, got 'much' at draw 0"),
    ],
)
def test_weights_that_make_no_sense(weight, error, message):
    mixed = MixedReplay({"real": (buffer(0), weight)})
    with pytest.raises(error, match=message):
        mixed.sample(4)


def test_functions_must_give_what_is_needed():
    good = {"observation": np.zeros((4, 3)), "action": np.zeros((4, 2)), "reward": np.zeros(4)}
    mixed = MixedReplay({"real": (buffer(0), 0), "made": (lambda n: good, 1)})
    with pytest.raises(ValueError, match="source 'made' must give 'terminal'"):
        mixed.sample(4)


# --- transitions of an MDP ---


def test_mdp_transitions_are_drawn_by_address():
    mdp = tm.MDP(state_count=300, action_count=5, seed=2)
    source = MDPTransitions(
        mdp, observation_dim=4, action_dim=3, trajectory_count=7, length=9, seed=8, first_trajectory=3
    )
    assert len(source) == 63
    sample = mdp.sample(7, 9, first_trajectory=3)
    states, actions = tm.reference.codebooks(300, 5, 4, 3)
    key = derived_key(8, REPLAY_MDP)
    for draw in range(3):
        batch = source.sample(71)
        for row in range(71):
            block = _core.philox4x32([row // 2, draw, 0, 0], key)[2 * (row % 2) :]
            trajectory, step = divmod(((block[0] << 32 | block[1]) * 63) >> 64, 9)
            assert np.array_equal(batch["observation"][row], states[sample.states[trajectory, step]])
            assert np.array_equal(batch["action"][row], actions[sample.actions[trajectory, step]])
            assert np.array_equal(batch["next_observation"][row], states[sample.states[trajectory, step + 1]])


def test_mdp_transitions_of_a_corpus():
    mdp = tm.MDP(state_count=30, action_count=5, seed=2)
    rows = tm.VirtualCorpus(mdp, sequence_count=7, length=9)[:]
    vectors = dict(zip(("state_vectors", "action_vectors"), tm.reference.codebooks(30, 5, 4, 3), strict=True))
    stored = MDPTransitions.from_arrays(rows["states"][:, :-1], rows["actions"], rows["states"][:, 1:], **vectors)
    made = MDPTransitions(mdp, observation_dim=4, action_dim=3, trajectory_count=7, length=9)
    assert_equal_batches(stored.sample(100), made.sample(100))


def test_mdp_transitions_of_the_authors_data():
    data = tm.reference.mdp_transitions(4, 5, 10, 10, 1.0, 1.0)
    states, actions = tm.reference.codebooks(10, 10, 3, 2)
    source = MDPTransitions.from_arrays(
        data["observations"], data["actions"], data["next_observations"], state_vectors=states, action_vectors=actions
    )
    batch = source.sample(500)
    rows = {tuple(np.concatenate(row)) for row in zip(*batch.values(), strict=True)}
    stored = zip(*(data[n] for n in ("observations", "actions", "next_observations")), strict=True)
    assert rows == {(*states[s], *actions[a], *states[following]) for s, a, following in stored}


def test_targets_with_vectors_of_their_own():
    """A model that learns to predict the pair of state and action instead of the next state."""
    rng = np.random.default_rng(4)
    states, actions = rng.integers(0, 30, (2, 40)), rng.integers(0, 10, (2, 40))
    vectors = {"state_vectors": rng.random((30, 4)), "action_vectors": rng.random((10, 3))}
    pairs = rng.random((300, 5)).astype(np.float32)
    source = MDPTransitions.from_arrays(states, actions, states * 10 + actions, **vectors, target_vectors=pairs, seed=8)
    assert [(name, shape) for name, shape, _ in source.batch_columns] == [
        ("observation", (4,)), ("action", (3,)), ("next_observation", (5,))
    ]  # fmt: skip
    next_states = rng.integers(0, 30, states.shape)
    twin = MDPTransitions.from_arrays(states, actions, next_states, **vectors, seed=8)
    batch, same_draw = source.sample(500), twin.sample(500)
    assert np.array_equal(batch["observation"], same_draw["observation"])
    assert np.array_equal(batch["action"], same_draw["action"])
    rows = {(*vectors["state_vectors"][s].astype("f4"), *pairs[s * 10 + a]) for s, a in
            zip(states.flat, actions.flat, strict=True)}  # fmt: skip
    assert {(*o, *n) for o, n in zip(batch["observation"], batch["next_observation"], strict=True)} <= rows


@pytest.mark.parametrize(("largest", "dtype"), [(200, np.uint8), (300, np.uint16), (70_000, np.uint32)])
def test_rows_and_codebooks_can_be_read(largest, dtype):
    states, actions, targets = np.array([0, 2]), np.array([1, 0]), np.array([largest, 1])
    books = {
        "state_vectors": np.arange(6, dtype=np.float32).reshape(3, 2),
        "action_vectors": np.arange(2, dtype=np.float32).reshape(2, 1),
        "target_vectors": np.arange(largest + 1, dtype=np.float32).reshape(-1, 1),
    }
    source = MDPTransitions.from_arrays(states, actions, targets, **books)
    rows = source.rows
    assert rows.dtype == dtype and rows.tolist() == [[0, 1, largest], [2, 0, 1]]
    for name, book in books.items():
        assert np.array_equal(getattr(source, name), book) and getattr(source, name).dtype == np.float32
    for array in (rows, source.state_vectors, source.action_vectors, source.target_vectors):
        assert not array.flags.writeable
    books["state_vectors"][:] = 7  # the caller's own array, which was copied
    kept = source.state_vectors
    del source
    gc.collect()
    assert rows.tolist() == [[0, 1, largest], [2, 0, 1]] and kept[2].tolist() == [4, 5]
    of_states = MDPTransitions.from_arrays(states, actions, np.array([2, 1]), **dict(list(books.items())[:2]))
    assert np.array_equal(of_states.target_vectors, of_states.state_vectors)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"states": np.array([0, 9])}, ValueError, "state 9 of transition 1 has no vector, there are 3"),
        ({"actions": np.array([2, 0])}, ValueError, "action 2 of transition 0 has no vector, there are 2"),
        ({"next_states": np.array([2, 3])}, ValueError, "next state 3 of transition 1 has no vector, there are 3"),
        ({"target_vectors": np.zeros((2, 1))}, ValueError, "target 2 of transition 0 has no vector, there are 2"),
        ({"target_vectors": np.zeros(3)}, ValueError, r"target_vectors must have shape \(count, dimension\)"),
        ({"next_states": np.array([0, -1])}, ValueError, "next_states must hold at least one number, all in"),
        ({"states": np.array([0.0, 1.0])}, TypeError, "states must hold integers, got float64"),
        ({"states": np.array([0])}, ValueError, r"must have equal shapes, got \(1,\), \(2,\) and \(2,\)"),
        ({"state_vectors": np.zeros(3)}, ValueError, r"state_vectors must have shape \(count, dimension\)"),
    ],
)
def test_mdp_transitions_refuse(change, error, message):
    arguments = {
        "states": np.array([0, 1]), "actions": np.array([1, 0]), "next_states": np.array([2, 2]),
        "state_vectors": np.zeros((3, 2)), "action_vectors": np.zeros((2, 1)),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        MDPTransitions.from_arrays(**(arguments | change))
