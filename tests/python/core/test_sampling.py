"""Chains and MDPs against their laws, their contracts and their errors."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import subprocess
import sys
from typing import Any

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


@pytest.mark.parametrize("backend", ["dense", "implicit"])
@pytest.mark.parametrize(
    ("states", "order", "temperature"), [(100, 1, 1.0), (7, 2, 0.3), (5, 3, 1.0), (300, 1, 0.2), (6, 0, 0.5)]
)
def test_chain_p_values_are_uniform_over_seeds(states: int, order: int, temperature: float, backend: Any) -> None:
    p_values = []
    for seed in range(30):
        chain = tm.MarkovChain(state_count=states, order=order, temperature=temperature, seed=seed, backend=backend)
        assert chain.backend == backend
        tokens = chain.sample(2000, 200 + order)
        law = np.array([chain.probabilities(c) for c in contexts(states, order)])
        p_values.append(chi_square_p(context_counts(tokens, states, order), law))
    # Fixed seeds, so this passes or fails for good: one in 10^4 laws that are right would fail.
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("backend", ["dense", "implicit"])
@pytest.mark.parametrize("initial", ["softmax", "uniform"])
def test_start_and_young_contexts_follow_their_rows(initial: Any, backend: Any) -> None:
    p_values: dict[int, list[float]] = {0: [], 1: [], 2: []}  # by the number of states that stand before
    for seed in range(20):
        chain = tm.MarkovChain(state_count=10, order=3, temperature=0.3, seed=seed, initial=initial, backend=backend)
        tokens = chain.sample(30_000, 3)
        for length, values in p_values.items():
            law = np.array([chain.probabilities(c) for c in contexts(10, length)])
            values.append(chi_square_p(context_counts(tokens[:, : length + 1], 10, length), law))
    for values in p_values.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-4
    if initial == "uniform":
        np.testing.assert_allclose(chain.probabilities(), 0.1)


@pytest.mark.parametrize("backend", ["dense", "implicit"])
def test_temperature_limits(backend: Any) -> None:
    uniform = tm.MarkovChain(state_count=8, temperature=math.inf, backend=backend)
    np.testing.assert_array_equal(uniform.probabilities([3]), 1 / 8)
    assert chi_square_p(context_counts(uniform.sample(1000, 100), 8, 1), np.full((8, 8), 1 / 8)) > 1e-4
    cold = tm.MarkovChain(state_count=50, temperature=1e-7, seed=1, backend=backend)
    rows = np.array([cold.probabilities([s]) for s in range(50)])
    tokens = cold.sample(100, 100)
    np.testing.assert_array_equal(tokens[:, 1:], rows.argmax(1)[tokens[:, :-1]])


@pytest.mark.parametrize("backend", ["dense", "implicit"])
@pytest.mark.parametrize(("states", "actions"), [(12, 9), (300, 4), (5, 300)])
def test_mdp_p_values_are_uniform_over_seeds(states: int, actions: int, backend: Any) -> None:
    p_values: dict[str, list[float]] = {"start": [], "policy": [], "transition": []}
    for seed in range(20):
        mdp = tm.MDP(
            state_count=states,
            action_count=actions,
            policy_temperature=0.4,
            transition_temperature=0.7,
            seed=seed,
            backend=backend,
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
    assert (
        np.ptp(
            tm.MDP(state_count=states, action_count=actions, start="fixed", backend=backend).sample(50, 2).states[:, 0]
        )
        == 0
    )


@pytest.mark.parametrize("temperature", [0.001, 0.01, 0.05])
def test_cold_implicit_chains_follow_their_rows(temperature: float) -> None:
    """Rows whose logits are all small refuse most proposals, and are scanned in the end."""
    chain = tm.MarkovChain(state_count=60, temperature=temperature, seed=8, backend="implicit")
    tokens = chain.sample(500, 400)
    law = np.array([chain.probabilities([s]) for s in range(60)])
    counts = context_counts(tokens, 60, 1)
    expected = counts.sum(1, keepdims=True) * law
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert stats.chi2.sf(statistic, common.sum()) > 1e-4
    assert abs(counts[~common].sum() - expected[~common].sum()) < 5 * math.sqrt(expected[~common].sum()) + 1
    assert not counts[expected < 1e-9].any()


def test_large_implicit_chains_follow_their_rows() -> None:
    """From one state of 100,000, into bins of columns of like probability; and from deep contexts."""
    wide = tm.MarkovChain(state_count=100_000, temperature=0.1, seed=2, backend="implicit")
    law = wide.probabilities()
    bins = np.argsort(law).argsort() // 1000
    counts = np.bincount(bins[wide.sample(200_000, 1)[:, 0]], minlength=100)
    assert chi_square_p(counts[None], np.bincount(bins, law)[None]) > 1e-4
    deep = tm.MarkovChain(state_count=3, order=32, temperature=0.05, seed=2, backend="implicit")
    tokens = deep.sample(1, 100_000)[0]
    expected = np.zeros(3)
    for t in range(32, 2032):
        expected += deep.probabilities(tokens[t - 32 : t])
    assert chi_square_p(np.bincount(tokens[32:2032], minlength=3)[None], expected[None] / 2000) > 1e-4
    favorite = [deep.probabilities(tokens[t - 32 : t]).argmax() for t in range(32, 532)]
    assert (tokens[32:532] == favorite).mean() > 0.8


def test_as_many_states_as_there_are_words() -> None:
    chain = tm.MarkovChain(state_count=2**32 - 1, order=2, backend="implicit")
    tokens = chain.sample(3000, 40)
    assert tokens.dtype == np.uint32
    assert stats.kstest(tokens.ravel() / 2**32, "uniform").pvalue > 1e-4
    assert len(np.unique(tokens[:, 0])) == 3000


def test_all_rows_of_the_papers_mdp_differ() -> None:
    mdp = tm.MDP(state_count=100, action_count=100, seed=42)
    rows = np.array([mdp.transition_probabilities(s, a) for s in range(100) for a in range(100)])
    assert len(np.unique(rows, axis=0)) == 10_000
    assert len(np.unique([mdp.policy_probabilities(s) for s in range(100)], axis=0)) == 100


@pytest.mark.slow
def test_very_many_samples_leave_nothing_behind() -> None:
    """10^5 calls on two threads: memory within 2 MB, no descriptor more."""
    code = """
import os, trajmill as tm
chains = [tm.MarkovChain(state_count=100, backend=backend) for backend in ("dense", "implicit")]
def burden():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))
for round in range(2):
    for i in range(50_000 if round else 1_000):
        for chain in chains:
            chain.sample(130, 20, first_sequence=i, threads=2)
    if round == 0:
        before = burden()
after = burden()
print(after[0] - before[0] < 2e6, after[1] == before[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "True True\n", done.stderr + done.stdout


def test_golden_bytes_never_change() -> None:
    """Stream v1: a change here is a new stream, not a new golden value."""
    digest = lambda array: hashlib.sha256(array.tobytes()).hexdigest()[:16]  # noqa: E731
    tokens = tm.MarkovChain(state_count=100, seed=42).sample(100, 100)
    assert tokens[0, :8].tolist() == [63, 16, 15, 72, 60, 23, 6, 1]
    assert digest(tokens) == "89a617154fddb225"
    assert digest(tm.MarkovChain(state_count=1000, temperature=0.1, seed=1).sample(100, 100)) == "ee37ae47cd0de61b"
    assert digest(tm.MarkovChain(state_count=10, order=3, seed=2**64 - 1).sample(100, 100)) == "918cb0fe7b526d09"
    data = tm.MDP(state_count=100, action_count=100, seed=42).sample(100, 100)
    assert digest(data.states) == "5431369f2ec7c753"
    assert digest(data.actions) == "6c5dbfafffdbc4a5"
    assert digest(tm.MDP(state_count=10, action_count=10, seed=0).state_vectors(17)) == "c8cbf10972250c1f"
    implicit = tm.MarkovChain(state_count=100_000, seed=42, backend="implicit").sample(100, 100)
    assert implicit[0, :4].tolist() == [55782, 85636, 43992, 73488]
    assert digest(implicit) == "deab356fe88d2703"
    cold = tm.MarkovChain(state_count=50, order=2, temperature=0.002, initial="uniform", backend="implicit", seed=0)
    assert digest(cold.sample(100, 100)) == "2883e5c4655c4c6c"
    assert (
        digest(tm.MarkovChain(state_count=1000, order=32, seed=5, backend="implicit").sample(100, 100))
        == "849b785ace0a286e"
    )
    data = tm.MDP(state_count=100_000, action_count=300, seed=42, backend="implicit").sample(100, 100)
    assert digest(data.states) == "e10c6ce85fe8e73e"
    assert digest(data.actions) == "47a6e65a2d54dbc6"


@pytest.mark.parametrize("backend", ["dense", "implicit"])
@pytest.mark.parametrize("level", _core.available_simd_levels())
def test_bytes_do_not_depend_on_machine_threads_or_split(level: str, backend: Any) -> None:
    chain = tm.MarkovChain(state_count=100, order=1, seed=9, backend=backend)
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
        indexes = np.random.default_rng(1).integers(0, 300, 200)
        np.testing.assert_array_equal(chain.sample_sequences(indexes, 77, threads=2), expected[indexes])
    finally:
        _core.set_simd_level(before)


def test_any_list_of_sequences() -> None:
    chain = tm.MarkovChain(state_count=10, seed=1)
    far = 2**64 - 1
    tokens = chain.sample_sequences([far, 0, far], 9)
    np.testing.assert_array_equal(tokens[[0]], tokens[[2]])
    np.testing.assert_array_equal(tokens[[1]], chain.sample(1, 9))
    assert chain.sample_sequences([], 9).shape == (0, 9)
    out = np.zeros((2, 9), np.int32)
    assert chain.sample_sequences(np.array([5, 3], np.int32), 9, out=out) is out
    np.testing.assert_array_equal(out, chain.sample(6, 9)[[5, 3]])
    mdp = tm.MDP(state_count=10, action_count=7, seed=1)
    data, some = mdp.sample(50, 9), mdp.sample_trajectories([40, 2], 9)
    np.testing.assert_array_equal(some.states, data.states[[40, 2]])
    np.testing.assert_array_equal(some.actions, data.actions[[40, 2]])
    with pytest.raises(ValueError, match="indexes must be >= 0, got -1"):
        chain.sample_sequences(np.array([3, -1]), 9)
    with pytest.raises(ValueError, match=r"indexes must be between 0 and .*, got -1"):
        chain.sample_sequences([3, -1], 9)
    with pytest.raises(TypeError, match="must be an integer"):
        chain.sample_sequences([0.5], 9)
    with pytest.raises(TypeError, match="one-dimensional"):
        mdp.sample_trajectories(np.array([[1, 2]]), 9)
    with pytest.raises(ValueError, match="shape"):
        chain.sample_sequences([1, 2, 3], 9, out=out)


def test_backends() -> None:
    assert tm.MarkovChain(state_count=100).backend == "dense"
    assert tm.MarkovChain(state_count=100_000).backend == "implicit"
    assert tm.MDP(state_count=100, action_count=100).backend == "dense"
    assert tm.MDP(state_count=100_000, action_count=100_000).backend == "implicit"
    assert tm.MarkovChain(state_count=2000).backend == "implicit"
    assert tm.MarkovChain(state_count=2000, temperature=0.1).backend == "dense"
    assert tm.MarkovChain.from_probabilities([[1.0]]).backend == "dense"
    for name in ("dense", "implicit"):
        assert f"backend='{name}'" in repr(tm.MarkovChain(state_count=3, backend=name))
    laws = [
        tm.MarkovChain(state_count=7, order=2, seed=3, backend=b).probabilities([1, 2]) for b in ("dense", "implicit")
    ]
    np.testing.assert_array_equal(*laws)


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


def test_explicit_laws_that_differ_share_no_draws() -> None:
    """Nor does a chain that differs in one number by its last bit, but for what two laws have in common by chance."""
    rows = np.full((10, 10), 0.1)
    other = rows.copy()
    other[3, :2] = np.nextafter(0.1, 1.0), np.nextafter(0.1, 0.0)
    chains = [tm.MarkovChain.from_probabilities(law, seed=5) for law in (rows, other)]
    chains += [tm.MarkovChain.from_probabilities(rows, seed=6), tm.MarkovChain(state_count=10, temperature=1e9, seed=5)]
    sampled = [chain.sample(500, 100) for chain in chains]
    for one, two in itertools.combinations(sampled, 2):
        assert (one == two).mean() == pytest.approx(0.1, abs=0.01)
    old = [tm.MarkovChain.from_probabilities(law, seed=5, stream="v1").sample(500, 100) for law in (rows, other)]
    assert (old[0] == old[1]).mean() > 0.999
    policy, kernel = np.full((4, 2), 0.5), np.full((4, 2, 4), 0.25)
    skewed = np.stack([policy[:, 0] + 0.01, policy[:, 1] - 0.01], 1)
    states = [tm.MDP.from_probabilities(law, kernel, seed=5).sample(500, 100).states for law in (policy, skewed)]
    assert (states[0] == states[1]).mean() == pytest.approx(0.25, abs=0.02)


def test_the_stream_of_explicit_laws_is_as_written_down() -> None:
    """docs/streams.md, v2; a pickled law keeps its stream."""
    first, rows = np.array([0.25, 0.75]), np.array([[0.0, 1.0], [0.5, 0.5]])
    content = (7).to_bytes(8, "little") + first.astype("<f8").tobytes() + rows.astype("<f8").tobytes()
    hashed = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    negative = np.where(rows == 0.0, -0.0, rows)
    chain = tm.MarkovChain.from_probabilities(negative, initial=first, seed=7)
    expected = tm.MarkovChain.from_probabilities(rows, initial=first, seed=hashed, stream="v1").sample(9, 20)
    old = tm.MarkovChain.from_probabilities(rows, initial=first, seed=7, stream="v1")
    assert np.array_equal(chain.sample(9, 20), expected) and chain.seed == 7
    for law in (chain, old):
        assert np.array_equal(pickle.loads(pickle.dumps(law)).sample(9, 20), law.sample(9, 20))
    assert not np.array_equal(old.sample(9, 20), expected)
    with pytest.raises(ValueError, match="stream must be"):
        tm.MarkovChain.from_probabilities(rows, stream="v3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"state_count": 0}, ValueError, "state_count must be between 1"),
        ({"state_count": -3}, ValueError, "got -3"),
        ({"state_count": "ten"}, TypeError, "must be an integer, got 'ten'"),
        ({"state_count": 10, "temperature": math.nan}, ValueError, "temperature must be in"),
        ({"state_count": 10, "temperature": 0}, ValueError, "temperature must be in"),
        ({"state_count": 10, "temperature": "hot"}, TypeError, "must be a number"),
        ({"state_count": 10, "order": -1}, ValueError, "order must be between 0 and 32"),
        ({"state_count": 10, "seed": -1}, ValueError, "seed must be"),
        ({"state_count": 10, "initial": "zero"}, ValueError, "'softmax', 'uniform'"),
        ({"state_count": 10**6, "order": 2, "backend": "dense"}, ValueError, 'GiB.*or backend="implicit"'),
        ({"state_count": 10, "backend": "sparse"}, ValueError, "'auto', 'dense', 'implicit'"),
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
    """`import trajmill` loads the core alone, and every public name is there all the same; some of them need torch."""
    code = """
import sys, trajmill
assert not {'numpy', 'torch', 'h5py', 'xxhash', 'tyro', 'rich'} & set(sys.modules)
assert all(hasattr(trajmill, name) for name in set(dir(trajmill)) - {'feed', 'load_policy', 'load_run', 'train'})
assert 'torch' not in sys.modules
sys.modules['torch'] = None
try:
    trajmill.train
except ModuleNotFoundError as error:
    assert str(error).startswith("trajmill.train needs torch") and "'trajmill[train]'" in str(error)
del sys.modules['torch']
assert hasattr(trajmill, 'feed') and not hasattr(trajmill, 'Markov')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sampling_survives_fork_and_answers_ctrl_c() -> None:
    code = """
import os, signal, threading, time, numpy as np, trajmill as tm
chain = tm.MarkovChain(state_count=100)
expected = chain.sample(200, 200, threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if (chain.sample(200, 200, threads=2) == expected).all() else 1)
assert os.waitpid(child, 0)[1] == 0
out = np.empty((1 << 18, 1024), np.uint8)
def interrupt(again):
    while out[1000, -1] == 255 and not again.is_set():  # until rows are being drawn
        time.sleep(0.0001)
    os.kill(os.getpid(), signal.SIGINT)
left = 0
for _ in range(20):  # of which one, for a busy machine may look late
    out[:] = 255
    over = threading.Event()
    watcher = threading.Thread(target=interrupt, args=(over,))
    watcher.start()
    try:
        try:
            chain.sample(*out.shape, out=out)
        finally:
            over.set()
        time.sleep(60)  # for what comes after the last row
    except KeyboardInterrupt:
        left = int((out[:, -1] == 255).sum())
    watcher.join()
    if left:
        break
print(left > 0, (chain.sample(200, 200) == expected).all())
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
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
