"""Chains and MDPs against their laws, their contracts and their errors."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import trajmill as tm
from trajmill import _core
from trajmill.core.reference import codebooks


def chi_square_p(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """P-value of counts [rows, columns] against rows of probabilities."""
    expected = counts.sum(-1, keepdims=True) * probabilities
    assert not counts[expected == 0].any(), "something impossible was drawn"
    keep = expected > 0
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    freedom = keep.sum() - (counts.sum(-1) > 0).sum()
    return float(stats.chi2.sf(statistic, freedom))


def context_counts(tokens: np.ndarray, states: int, order: int) -> np.ndarray:
    """How often each state followed each full context, [states**order, states]."""
    number = np.zeros_like(tokens[:, order:], dtype=np.int64)
    for k in range(order):
        number = number * states + tokens[:, k : tokens.shape[1] - order + k]
    flat = np.bincount((number * states + tokens[:, order:]).ravel(), minlength=states ** (order + 1))
    return flat.reshape(-1, states)


def contexts(states: int, order: int) -> list[tuple[int, ...]]:
    return list(np.ndindex(*(states,) * order))


@pytest.mark.parametrize(
    ("states", "order", "temperature"), [(100, 1, 1.0), (7, 2, 0.3), (5, 3, 1.0), (300, 1, 0.2), (6, 0, 0.5)]
)
def test_chain_p_values_are_uniform_over_seeds(states: int, order: int, temperature: float) -> None:
    p_values = []
    for seed in range(30):
        chain = tm.MarkovChain(state_count=states, order=order, temperature=temperature, seed=seed)
        tokens = chain.sample(2000, 200 + order)
        law = np.array([chain.probabilities(c) for c in contexts(states, order)])
        p_values.append(chi_square_p(context_counts(tokens, states, order), law))
    # Fixed seeds, so this passes or fails for good: one in 10^4 laws that are right would fail.
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("initial", ["softmax", "uniform"])
def test_start_and_young_contexts_follow_their_rows(initial: str) -> None:
    p_values: dict[int, list[float]] = {0: [], 1: [], 2: []}  # by the number of states that stand before
    for seed in range(20):
        chain = tm.MarkovChain(state_count=10, order=3, temperature=0.3, seed=seed, initial=initial)
        tokens = chain.sample(30_000, 3)
        for length, values in p_values.items():
            law = np.array([chain.probabilities(c) for c in contexts(10, length)])
            values.append(chi_square_p(context_counts(tokens[:, : length + 1], 10, length), law))
    for values in p_values.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-4
    if initial == "uniform":
        np.testing.assert_allclose(chain.probabilities(), 0.1)


def test_temperature_limits() -> None:
    np.testing.assert_array_equal(tm.MarkovChain(state_count=8, temperature=math.inf).probabilities([3]), 1 / 8)
    cold = tm.MarkovChain(state_count=50, temperature=1e-7, seed=1)
    rows = np.array([cold.probabilities([s]) for s in range(50)])
    tokens = cold.sample(100, 100)
    np.testing.assert_array_equal(tokens[:, 1:], rows.argmax(1)[tokens[:, :-1]])


@pytest.mark.parametrize(("states", "actions"), [(12, 9), (300, 4), (5, 300)])
def test_mdp_p_values_are_uniform_over_seeds(states: int, actions: int) -> None:
    p_values: dict[str, list[float]] = {"start": [], "policy": [], "transition": []}
    for seed in range(20):
        mdp = tm.MDP(
            state_count=states, action_count=actions, policy_temperature=0.4, transition_temperature=0.7, seed=seed
        )
        data = mdp.sample(3000, 250)
        now, then = data.states[:, :-1].astype(np.int64), data.states[:, 1:]
        pair = now * actions + data.actions
        policy = np.array([mdp.policy_probabilities(s) for s in range(states)])
        transition = np.array([mdp.transition_probabilities(s, a) for s in range(states) for a in range(actions)])
        assert len(np.unique(transition, axis=0)) == states * actions
        p_values["start"].append(
            chi_square_p(np.bincount(now[:, 0], minlength=states)[None], np.full((1, states), 1 / states))
        )
        drawn = np.bincount(pair.ravel(), minlength=states * actions)
        p_values["policy"].append(chi_square_p(drawn.reshape(states, actions), policy))
        drawn = np.bincount((pair * states + then).ravel(), minlength=states * actions * states)
        p_values["transition"].append(chi_square_p(drawn.reshape(-1, states), transition))
    for values in p_values.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-4
    assert np.ptp(tm.MDP(state_count=states, action_count=actions, start="fixed").sample(50, 2).states[:, 0]) == 0


def test_golden_bytes_never_change() -> None:
    """Stream v1: a change here is a new stream, not a new golden value."""
    digest = lambda array: hashlib.sha256(array.tobytes()).hexdigest()[:16]  # noqa: E731
    tokens = tm.MarkovChain(state_count=100, seed=42).sample(100, 100)
    assert tokens[0, :8].tolist() == [63, 16, 6, 72, 60, 23, 6, 5]
    assert digest(tokens) == "371a0a8585aae490"
    assert digest(tm.MarkovChain(state_count=1000, temperature=0.1, seed=1).sample(100, 100)) == "9fce4116d017fa89"
    assert digest(tm.MarkovChain(state_count=10, order=3, seed=2**64 - 1).sample(100, 100)) == "540446e280489dfa"
    data = tm.MDP(state_count=100, action_count=100, seed=42).sample(100, 100)
    assert digest(data.states) == "4530b37a388de287"
    assert digest(data.actions) == "a2f0dc0f297be636"
    assert digest(tm.MDP(state_count=10, action_count=10).state_vectors(17)) == "c8cbf10972250c1f"


@pytest.mark.parametrize("level", _core.available_simd_levels())
def test_bytes_do_not_depend_on_machine_threads_or_split(level: str) -> None:
    chain = tm.MarkovChain(state_count=100, order=1, seed=9)
    expected = chain.sample(300, 77, threads=1)
    before = _core.simd_level()
    try:
        _core.set_simd_level(level)
        for threads in (1, 2, 3, 7):
            np.testing.assert_array_equal(chain.sample(300, 77, threads=threads), expected)
        parts = [chain.sample(n, 77, first_sequence=f) for f, n in ((0, 1), (1, 99), (100, 200))]
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        np.testing.assert_array_equal(chain.sample(300, 20), expected[:, :20])
        np.testing.assert_array_equal(chain.sample(300, 77, dtype="int64"), expected)
    finally:
        _core.set_simd_level(before)


def test_chains_that_differ_share_no_draws() -> None:
    first = tm.MarkovChain(state_count=100, temperature=10.0, seed=1).sample(1000, 100)
    for other in (
        tm.MarkovChain(state_count=100, temperature=100.0, seed=1),
        tm.MarkovChain(state_count=100, temperature=10.0, seed=2),
        tm.MarkovChain(state_count=100, temperature=10.0, seed=1, initial="uniform"),
    ):
        assert (other.sample(1000, 100) == first).mean() == pytest.approx(0.01, abs=0.002)


def test_explicit_laws() -> None:
    transition = np.array([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.25, 0.25, 0.5]])
    chain = tm.MarkovChain.from_probabilities(transition, initial=[0, 0, 1], seed=4)
    tokens = chain.sample(1000, 100)
    assert (tokens[:, 0] == 2).all()
    assert chi_square_p(context_counts(tokens, 3, 1), transition) > 1e-4
    np.testing.assert_array_equal(chain.probabilities([1]), transition[1])
    policy = np.array([[1.0, 0.0], [0.5, 0.5]])
    kernel = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [1.0, 0.0]]])
    data = tm.MDP.from_probabilities(policy, kernel).sample(500, 50)
    assert not data.actions[data.states[:, :-1] == 0].any()
    with pytest.raises(ValueError, match="sum to 1"):
        tm.MarkovChain.from_probabilities([[0.5, 0.4], [1, 0]])
    with pytest.raises(ValueError, match=r">= 0, got -0\.5"):
        tm.MarkovChain.from_probabilities([[1.5, -0.5], [1, 0]])
    with pytest.raises(ValueError, match="square"):
        tm.MarkovChain.from_probabilities([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"state_count": 0}, ValueError, "state_count must be between 1"),
        ({"state_count": -3}, ValueError, "got -3"),
        ({"state_count": "ten"}, TypeError, "must be an integer, got 'ten'"),
        ({"state_count": 10, "temperature": math.nan}, ValueError, "temperature must be > 0"),
        ({"state_count": 10, "temperature": 0}, ValueError, "temperature must be > 0"),
        ({"state_count": 10, "temperature": "hot"}, TypeError, "must be a number"),
        ({"state_count": 10, "order": -1}, ValueError, "order must be between 0 and 32"),
        ({"state_count": 10, "seed": -1}, ValueError, "seed must be"),
        ({"state_count": 10, "initial": "zero"}, ValueError, "'softmax', 'uniform'"),
        ({"state_count": 10**6, "order": 2}, ValueError, "GiB"),
    ],
)
def test_bad_chains_are_refused(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tm.MarkovChain(**arguments)  # type: ignore[arg-type]


def test_bad_outputs_are_refused() -> None:
    chain = tm.MarkovChain(state_count=300)
    with pytest.raises(ValueError, match="uint16 or wider"):
        chain.sample(2, 3, dtype="uint8")
    with pytest.raises(TypeError, match="integer type"):
        chain.sample(2, 3, dtype="float32")
    with pytest.raises(ValueError, match="shape"):
        chain.sample(2, 3, out=np.zeros((3, 2), np.uint16))
    with pytest.raises(ValueError, match="C-contiguous"):
        chain.sample(2, 3, out=np.zeros((3, 2), np.uint16).T)
    frozen = np.zeros((2, 3), np.uint16)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        chain.sample(2, 3, out=frozen)
    with pytest.raises(TypeError, match="NumPy array"):
        chain.sample(2, 3, out=[[0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sequence_count"):
        chain.sample(-1, 3)


def test_import_is_light() -> None:
    """Less than 50 ms, the best of five, and nothing heavy; every public name is there all the same."""
    code = (
        "import sys, time; started = time.perf_counter(); import trajmill; taken = time.perf_counter() - started\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
        "assert all(hasattr(trajmill, name) for name in dir(trajmill)) and not hasattr(trajmill, 'Markov')\n"
        "assert 'torch' not in sys.modules\n"
        "print(taken)"
    )
    command = [sys.executable, "-c", code]
    times = [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    assert min(times) < 0.05


def test_sampling_survives_fork_and_answers_ctrl_c() -> None:
    code = """
import os, signal, threading, time, numpy as np, trajmill as tm
chain = tm.MarkovChain(state_count=100)
expected = chain.sample(200, 200, threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if (chain.sample(200, 200, threads=2) == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
out = np.zeros((1 << 20, 1024), np.uint8)
delays = []
for _ in range(3):  # the best of three, for the machine may be busy
    sent = []
    threading.Timer(0.2, lambda: (sent.append(time.perf_counter()), os.kill(os.getpid(), signal.SIGINT))).start()
    try:
        while True:
            chain.sample(*out.shape, out=out)
    except KeyboardInterrupt:
        delays.append(time.perf_counter() - sent[0])
print(min(delays) < 0.1, (chain.sample(200, 200) == expected).all())
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "True True\n", done.stderr


def test_codebooks() -> None:
    states, actions = codebooks(100, 100, 11, 3)  # values of the authors' code
    np.testing.assert_allclose(states[0, :3], [0.09762701, 0.43037874, 0.20552675], rtol=1e-6)
    np.testing.assert_allclose(actions[0], [-0.40810034, 0.85858333, -0.46818873], rtol=1e-6)
    own = tm.MDP(state_count=500, action_count=3).state_vectors(17)
    assert own.shape == (500, 17)
    assert np.abs(own).max() < 1
    assert abs(own.mean()) < 0.02
    assert own.var() == pytest.approx(1 / 3, rel=0.03)
    np.testing.assert_array_equal(tm.MDP(state_count=9, action_count=3).state_vectors(5), own[:9, :5])
