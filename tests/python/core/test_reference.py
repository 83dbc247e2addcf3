"""The authors' streams against golden values and against slow twins on NumPy's own generators, token by token."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import reference_twin as twin

import trajmill as tm
from trajmill.core.reference import ReferenceChain

# One iteration of the authors' default run; its first worker and the whole file are known from their repository.
DEFAULT: dict[str, int] = {"seed": 666, "worker_count": 8, "batch_size": 256, "length": 1024, "iteration": 0}


def cases(*names: str, values: list[tuple[float, ...]]) -> list[dict[str, float]]:
    return [dict(zip(names, row, strict=True)) for row in values]


def test_a_whole_iteration_is_the_authors_file():
    tokens = tm.reference.markov_tokens(order=1, state_count=100, temperature=1.0, **DEFAULT)
    assert tokens.dtype == np.int64 and tokens.shape == (256, 1024)
    file = "".join(",".join(map(str, row)) + "\r\n" for row in tokens.tolist()).encode()
    assert len(file) == 760_278
    assert hashlib.sha256(file).hexdigest() == "6188d93c5d985ebcaa53abffcd7f6b5520e163d2a6d9a113478cfb5fd71faedf"


@pytest.mark.parametrize(
    ("order", "state_count", "temperature", "first_row"),
    [
        (1, 10, 1.0, [7, 7, 3, 0, 1, 4, 7, 1, 8, 3, 7, 2]),
        (1, 1000, 1.0, [763, 454, 77, 471, 207, 774, 594, 795, 843, 785, 206, 995]),
        (2, 100, 1.0, [78, 35, 41, 75, 51, 13, 27, 79, 70, 73, 19, 71]),
        (5, 100, 1.0, [78, 35, 41, 75, 51, 13, 27, 79, 49, 71, 24, 84]),
        (1, 100, 0.01, [82, 96, 21, 63, 72, 54, 8, 8, 8, 8, 8, 8]),
        (1, 100, 0.1, [86, 89, 36, 84, 40, 13, 79, 34, 40, 67, 76, 96]),
        (1, 100, 10.0, [76, 68, 41, 75, 51, 13, 27, 79, 70, 15, 19, 71]),
    ],
)
def test_golden_chains(order: int, state_count: int, temperature: float, first_row: list[int]):
    settings = DEFAULT | {"length": 12}
    tokens = tm.reference.markov_tokens(order, state_count, temperature, **settings)
    assert tokens[0].tolist() == first_row


def test_golden_iid_tokens():
    tokens = tm.reference.iid_tokens(100, 666, worker_count=1, batch_size=32, length=1024, iteration=0)
    assert tokens[0, :12].tolist() == [82, 67, 41, 26, 15, 58, 91, 92, 54, 50, 0, 33]
    assert tokens[31, -4:].tolist() == [7, 84, 64, 10]


def test_golden_transitions():
    data = tm.reference.mdp_transitions(1000, 1000, 100, 100, 1.0, 1.0)
    assert [column.sum() for column in data.values()] == [49_537_091, 49_594_184, 49_535_557]
    digests = [hashlib.sha256(column.tobytes()).hexdigest()[:16] for column in data.values()]
    assert digests == ["26d88681fd98dde2", "4ecb5693092f3901", "1df2430c06d62904"]
    assert np.stack(list(data.values()))[:, -3:].T.tolist() == [[93, 4, 60], [60, 63, 49], [49, 16, 60]]


def test_golden_small_transitions():
    data = tm.reference.mdp_transitions(2, 5, 10, 10, 1.0, 1.0, random_start=False)
    assert list(data) == ["observations", "actions", "next_observations"]
    assert all(column.dtype == np.int64 and column.shape == (10,) for column in data.values())
    assert data["observations"].tolist() == [8, 7, 7, 6, 2, 8, 8, 8, 4, 9]
    assert data["actions"].tolist() == [2, 2, 0, 0, 3, 2, 3, 8, 9, 5]
    assert data["next_observations"].tolist() == [7, 7, 6, 2, 6, 8, 8, 4, 9, 9]


@pytest.mark.parametrize(
    "settings",
    cases(
        "order",
        "state_count",
        "temperature",
        "seed",
        "worker_count",
        "batch_size",
        "length",
        "iteration",
        values=[
            (1, 1, 1.0, 0, 1, 2, 4, 0),  # one state: no draw is spent
            (1, 2, 1.0, 5, 1, 4, 30, 3),
            (1, 3, 0.3, 2**33, 2, 6, 20, 1),  # seeds of two words
            (1, 8, 1.0, 0, 4, 8, 20, 2),
            (1, 9, 1.0, 1, 1, 8, 20, 2),
            (2, 7, 1.0, 666, 3, 9, 15, 0),
            (3, 5, 0.1, 1, 2, 4, 20, 7),
            (5, 100, 1.0, 666, 2, 8, 12, 0),  # contexts that are not kept
            (32, 3, 1.0, 4, 1, 2, 40, 0),  # more words than SeedSequence's pool holds
            (1, 100, 0.01, 666, 2, 8, 40, 2),  # tokens that take more than half of what is left
            (1, 100, 0.001, 666, 2, 8, 40, 2),  # some probabilities are exactly zero
            (1, 50, 0.0005, 3, 1, 10, 40, 0),
            (1, 130, np.inf, 9, 1, 6, 20, 0),
            (1, 300, 100.0, 2**63, 1, 3, 12, 10**6),
            (1, 1000, 1.0, 666, 2, 6, 12, 5),
            (1, 6000, 1.0, 666, 1, 2, 5, 0),  # more draws a token than are made ahead
        ],
    ),
)
def test_chain_equals_its_twin(settings: dict[str, float]):
    tokens = tm.reference.markov_tokens(**settings)
    np.testing.assert_array_equal(tokens, twin.markov_tokens(**settings))


@pytest.mark.parametrize(
    "settings",
    cases(
        "state_count",
        "seed",
        "worker_count",
        "batch_size",
        "length",
        "iteration",
        values=[
            (1, 0, 1, 2, 3, 0),
            (2, 1, 2, 4, 100, 1),
            (3, 1, 2, 4, 50, 1),
            (100, 666, 3, 6, 60, 4),
            (1000, 2**40, 1, 3, 20, 0),
        ],
    ),
)
def test_iid_tokens_equal_their_twin(settings: dict[str, float]):
    np.testing.assert_array_equal(tm.reference.iid_tokens(**settings), twin.iid_tokens(**settings))


@pytest.mark.parametrize(
    "settings",
    cases(
        "trajectory_count",
        "length",
        "state_count",
        "action_count",
        "policy_temperature",
        "transition_temperature",
        values=[
            (70, 6, 10, 7, 0.3, 1.0),
            (3, 30, 1, 1, 1.0, 1.0),
            (5, 20, 33, 100, np.inf, 0.5),
            (5, 20, 100, 9, 0.01, np.inf),
            (4, 10, 200, 300, 10.0, 0.001),
            (0, 3, 3, 3, 1.0, 1.0),
            (3, 0, 3, 3, 1.0, 1.0),
        ],
    ),
)
@pytest.mark.parametrize("random_start", [False, True])
def test_transitions_equal_their_twin(random_start: bool, settings: dict[str, float]):
    data = tm.reference.mdp_transitions(random_start=random_start, **settings)
    expected = twin.mdp_transitions(random_start=random_start, **settings)
    assert list(data) == list(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(data[name], column)


@pytest.mark.slow
def test_streams_equal_their_twins_over_many_parameters():
    choose = np.random.default_rng(0)
    for _ in range(300):
        workers, block = (int(n) for n in choose.integers(1, 5, 2))
        settings = {
            "state_count": int(choose.integers(1, 400)),
            "seed": int(choose.integers(0, 2 ** int(choose.integers(1, 63)))),
            "worker_count": workers,
            "batch_size": workers * block,
            "length": int(choose.integers(1, 30)),
            "iteration": int(choose.integers(0, 10**6)),
        }
        np.testing.assert_array_equal(tm.reference.iid_tokens(**settings), twin.iid_tokens(**settings))
        settings |= {"order": int(choose.integers(1, 8)), "temperature": float(10 ** choose.uniform(-3.5, 2))}
        np.testing.assert_array_equal(tm.reference.markov_tokens(**settings), twin.markov_tokens(**settings))
        temperatures = (float(t) for t in 10 ** choose.uniform(-3, 2, 2))
        law = (int(choose.integers(1, 9)), 10, *map(int, choose.integers(1, 300, 2)), *temperatures, block % 2 == 0)
        data, expected = tm.reference.mdp_transitions(*law), twin.mdp_transitions(*law)
        for name, column in expected.items():
            np.testing.assert_array_equal(data[name], column)


def test_blocks_stand_in_worker_order():
    tokens = tm.reference.markov_tokens(1, 100, 1.0, **(DEFAULT | {"length": 3}))
    firsts = [[78, 35, 41], [1, 8, 22], [47, 94, 49], [6, 74, 95], [20, 4, 16], [45, 37, 32], [61, 83, 77], [99, 9, 4]]
    assert tokens[::32].tolist() == firsts


def test_some_workers_and_trajectories_can_be_made_alone():
    chain = {"order": 1, "state_count": 50, "temperature": 1.0, "seed": 1, "worker_count": 4, "batch_size": 12}
    chain |= {"length": 5, "iteration": 2}
    some = tm.reference.markov_tokens(**chain, workers=range(1, 3))
    np.testing.assert_array_equal(some, tm.reference.markov_tokens(**chain)[3:9])
    iid = {name: chain[name] for name in ("state_count", "seed", "worker_count", "batch_size", "length", "iteration")}
    some = tm.reference.iid_tokens(**iid, workers=range(3, 4))
    np.testing.assert_array_equal(some, tm.reference.iid_tokens(**iid)[9:])
    for random_start in (False, True):
        law = (200, 3, 20, 20, 1.0, 1.0, random_start)
        some, whole = (tm.reference.mdp_transitions(*law, trajectories=r) for r in (range(150, 180), None))
        for name, column in some.items():
            np.testing.assert_array_equal(column, whole[name][450:540])


def test_a_chain_keeps_its_rows_and_fills_what_it_is_given():
    chain = ReferenceChain(1, 100, 1.0, 666)
    for iteration in (0, 3):
        out = np.full((4, 9), 255, np.uint8)
        assert chain.tokens(2, 4, 9, iteration, out=out, threads=2) is out
        expected = twin.markov_tokens(
            order=1,
            state_count=100,
            temperature=1.0,
            seed=666,
            worker_count=2,
            batch_size=4,
            length=9,
            iteration=iteration,
        )
        np.testing.assert_array_equal(out, expected)


MARKOV = {"order": 1, "state_count": 10, "temperature": 1.0, "worker_count": 2, "batch_size": 4, "length": 3}
MARKOV |= {"seed": 0, "iteration": 0}
MDP = {"trajectory_count": 2, "length": 3, "state_count": 5, "action_count": 4}
MDP |= {"policy_temperature": 1.0, "transition_temperature": 1.0}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"order": 0}, ValueError, "order must be between 1 and 32, got 0"),
        ({"batch_size": 5}, ValueError, "must be a multiple of worker_count = 2, got 5; the authors' program drops"),
        ({"worker_count": 0}, ValueError, "worker_count must be between 1 and"),
        ({"temperature": 0}, ValueError, "temperature must be in"),
        ({"temperature": 1e-310}, ValueError, "temperature is too small"),
        ({"seed": 2**64 - 5}, ValueError, "seeds run past 64 bits"),
        ({"iteration": 2**63 - 1}, ValueError, "seeds run past 64 bits"),
        ({"workers": range(1, 3)}, ValueError, "workers must be a range of step 1 within range\\(2\\)"),
        ({"workers": range(1, 1)}, ValueError, "workers must hold at least one worker"),
        ({"length": 2.5}, TypeError, "length must be an integer"),
        ({"out": np.zeros((4, 4), np.uint8)}, ValueError, "out must have shape"),
        ({"out": np.zeros((4, 3), np.uint8), "state_count": 300}, ValueError, "dtype uint8 holds values up to 255"),
    ],
)
def test_bad_chains_are_refused_in_words(change: dict[str, object], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        tm.reference.markov_tokens(**(MARKOV | change))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"policy_temperature": np.inf, "transition_temperature": np.inf}, ValueError, "without a seed"),
        ({"policy_temperature": 1e-40}, ValueError, "too small for logits in single precision"),
        ({"transition_temperature": -1.0}, ValueError, "transition_temperature must be in"),
        ({"trajectory_count": 5_000_000}, ValueError, "must stay below 2\\^32"),
        ({"state_count": 5_000_000}, ValueError, "must stay below 2\\^32"),
        ({"trajectories": range(0, 2, 2)}, ValueError, "trajectories must be a range of step 1 within range\\(2\\)"),
        ({"random_start": 1}, TypeError, "random_start must be True or False"),
    ],
)
def test_bad_mdps_are_refused_in_words(change: dict[str, object], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        tm.reference.mdp_transitions(**(MDP | change))


def test_the_face_is_there_and_light():
    code = "import sys, trajmill; assert trajmill.reference.iid_tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
