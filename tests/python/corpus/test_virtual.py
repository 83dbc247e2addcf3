"""Virtual corpora and orders: any row alone, every row once, whatever the number of readers."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from corpus_order import row_at
from scipy import stats

import trajmill as tm
from trajmill.corpus.order import Permutation


@pytest.fixture
def chain():
    return tm.MarkovChain(state_count=50, order=2, seed=3)


@pytest.fixture
def mdp():
    return tm.MDP(state_count=300, action_count=4, seed=3)


def test_rows_of_a_chain(chain):
    corpus = tm.VirtualCorpus(chain, sequence_count=100, length=33)
    rows = chain.sample(100, 33)
    assert len(corpus) == 100
    assert np.array_equal(corpus[7], rows[7]) and np.array_equal(corpus[-1], rows[-1])
    assert np.array_equal(corpus[10:20], rows[10:20]) and np.array_equal(corpus[::-7], rows[::-7])
    picks = [5, 6, 7, 3, 99, 0, 1, 1, 0]
    assert np.array_equal(corpus.__getitems__(picks), rows[picks])
    assert corpus[3:3].shape == (0, 33) and corpus.__getitems__([]).shape == (0, 33)


def test_rows_of_an_mdp(mdp):
    corpus = tm.VirtualCorpus(mdp, sequence_count=100, length=9)
    data = mdp.sample(100, 9)
    assert {column.name: column.row_length for column in corpus.columns} == {"states": 10, "actions": 9}
    assert np.array_equal(corpus[7]["states"], data.states[7])
    assert np.array_equal(corpus[90:]["actions"], data.actions[90:])
    batch = corpus.__getitems__(np.array([4, 2]))
    assert [row["states"].tolist() for row in batch] == data.states[[4, 2]].tolist()
    assert [row["actions"].tolist() for row in batch] == data.actions[[4, 2]].tolist()


def test_random_access_far_out(chain):
    corpus = tm.VirtualCorpus(chain, sequence_count=10**12, length=17)
    rng = random.Random(5)
    for first in [0, 2**31 - 2, 2**32 - 2, 10**12 - 4, *(rng.randrange(10**12 - 4) for _ in range(50))]:
        expected = chain.sample(4, 17, first_sequence=first)
        assert np.array_equal(corpus[first : first + 4], expected)
        assert np.array_equal(corpus.__getitems__([first + 2, first]), expected[[2, 0]])
    largest = tm.VirtualCorpus(chain, sequence_count=2**63 - 1, length=17)
    assert np.array_equal(largest[-1], chain.sample(1, 17, first_sequence=2**63 - 2)[0])


@pytest.mark.parametrize("wrong", [100, -101, 10**30])
def test_rows_that_do_not_exist(chain, wrong):
    corpus = tm.VirtualCorpus(chain, sequence_count=100, length=3)
    for rows in (corpus, corpus.shuffled(1)):
        with pytest.raises(IndexError, match="row must be between -100 and 99"):
            rows[wrong]
        with pytest.raises((IndexError, ValueError), match="rows must be between 0 and"):
            rows.__getitems__([wrong])
    with pytest.raises(TypeError):
        corpus["tokens"]


def test_a_corpus_of_one_column_looks_like_an_array(chain):
    corpus = tm.VirtualCorpus(chain, sequence_count=100, length=3)
    assert (corpus.shape, corpus.ndim, corpus.dtype, corpus.nbytes) == ((100, 3), 2, np.uint8, 300)
    np.testing.assert_array_equal(np.asarray(corpus), chain.sample(100, 3))
    assert np.asarray(corpus, dtype="int64").dtype == np.int64
    mask = np.arange(100) % 7 == 0
    np.testing.assert_array_equal(corpus[mask], chain.sample(100, 3)[mask])
    with pytest.raises(IndexError, match=r"a mask must have the shape \(100,\), got \(3,\)"):
        corpus[np.array([True, False, True])]
    with pytest.raises(ValueError, match="copy=False cannot be had"):
        np.asarray(corpus, copy=False)


def test_rows_that_fit_into_no_memory_are_refused_at_once(chain):
    corpus = tm.VirtualCorpus(chain, sequence_count=10**12, length=1024)
    with pytest.raises(
        ValueError, match=r"1,000,000,000,000 rows as an array would need .* allowed here; .*corpus\[:1000\]"
    ):
        np.asarray(corpus)
    with pytest.raises(ValueError, match="rows would need"):
        corpus[:]
    assert corpus[:3].shape == (3, 1024)


def test_a_corpus_of_several_columns_says_why_it_is_no_array():
    corpus = tm.VirtualCorpus(tm.MDP(state_count=5, action_count=2), sequence_count=10, length=6)
    with pytest.raises(TypeError, match="several columns is no array"):
        np.asarray(corpus)
    for name in ("shape", "dtype", "ndim"):
        with pytest.raises(AttributeError, match=r"several columns \(states, actions\)"):
            getattr(corpus, name)


def test_arguments(chain):
    with pytest.raises(TypeError, match="law must be a law such as a MarkovChain, an MDP or a Dyck, got 3"):
        tm.VirtualCorpus(3, sequence_count=1, length=1)
    with pytest.raises(ValueError, match="sequence_count must be between 1"):
        tm.VirtualCorpus(chain, sequence_count=0, length=1)
    with pytest.raises(ValueError, match="length must be between 1"):
        tm.VirtualCorpus(chain, sequence_count=1, length=0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 257, 4096, 5000])
def test_an_order_has_every_row_once_and_equals_its_twin(size):
    for seed, epoch in ((0, 0), (2**64 - 1, 0), (9, 1)):
        rows = Permutation(size, seed=seed, epoch=epoch)(np.arange(size))
        assert sorted(rows.tolist()) == list(range(size))
        picks = range(0, size, max(1, size // 20))
        assert [row_at(p, size=size, seed=seed, epoch=epoch) for p in picks] == rows[list(picks)].tolist()


@pytest.mark.parametrize("size", [2**31 - 1, 2**31 + 1, 2**32 - 1, 2**32 + 1, 10**12, 2**63 - 1])
def test_a_large_order_equals_its_twin(size):
    positions = [0, 1, size // 2, size - 2, size - 1]
    rows = Permutation(size, seed=42)(np.array(positions)).tolist()
    assert rows == [row_at(p, size=size, seed=42, epoch=0) for p in positions]
    assert len(set(rows)) == 5


def test_an_order_is_frozen():
    """Values of v1; added to, never edited."""
    assert Permutation(10**12, seed=42)(np.arange(3)).tolist() == [815856305684, 526118100472, 29750965099]
    assert Permutation(10, seed=42, epoch=3)(np.arange(10)).tolist() == [3, 1, 7, 0, 6, 5, 4, 8, 2, 9]


@pytest.mark.parametrize("size", [5, 16, 24])
def test_orders_are_as_good_as_random(size):
    """Over seeds, where rows 0 and 1 go together is uniform over all pairs of places."""
    pairs = np.array([Permutation(size, seed=seed)(np.arange(2)) for seed in range(200 * size)])
    counts = np.bincount(pairs[:, 0] * size + pairs[:, 1], minlength=size * size).reshape(size, size)
    assert not np.diag(counts).any()
    # fixed seeds: one in 10^4 right networks would fail
    assert stats.chisquare(counts[~np.eye(size, dtype=bool)]).pvalue > 1e-4


def test_large_orders_have_no_trend():
    rows = Permutation(10**12, seed=1)(np.arange(200_000)) / 1e12
    assert stats.kstest(rows, "uniform").pvalue > 1e-4
    assert stats.kstest(np.diff(rows) % 1, "uniform").pvalue > 1e-4


def test_shuffled_rows(chain):
    corpus = tm.VirtualCorpus(chain, sequence_count=40, length=20)
    shuffled = corpus.shuffled(seed=7)
    order = Permutation(40, seed=7)(np.arange(40))
    assert np.array_equal(shuffled[:], corpus.__getitems__(order))
    assert np.array_equal(shuffled[5], corpus[int(order[5])])
    assert not np.array_equal(shuffled[:], corpus.shuffled(seed=7, epoch=1)[:])
    assert len(shuffled) == 40 and shuffled.columns == corpus.columns


def consumed(row_count, world_size, *, state=None, steps=None, **how):
    """What each consumer gets in one epoch, or in so many steps, and the cursor after it."""
    samplers = [tm.CorpusSampler(row_count, rank=rank, world_size=world_size, **how) for rank in range(world_size)]
    for sampler in samplers:
        if state is not None:
            sampler.load_state_dict(state)
    iterators = [iter(sampler) for sampler in samplers]
    batches, step = [], 0
    while steps is None or step < steps:
        step_batches = [next(iterator, None) for iterator in iterators]
        if step_batches[0] is None:
            assert all(batch is None for batch in step_batches)
            break
        batches.append(step_batches)
        step += 1
    states = [sampler.state_dict() for sampler in samplers]
    assert all(state == states[0] for state in states)
    return batches, states[0]


def flat(batches):
    return [int(row) for step in batches for batch in step for row in batch]


@pytest.mark.parametrize("row_count", [1, 7, 64, 100, 101])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", [None, 5])
def test_every_row_once_an_epoch(row_count, world_size, seed):
    batches, _ = consumed(row_count, world_size, batch_size=4, seed=seed)
    order = list(range(row_count)) if seed is None else Permutation(row_count, seed=seed)(np.arange(row_count)).tolist()
    assert flat(batches) == order
    sizes = [[len(batch) for batch in step] for step in batches]
    assert all(step == [4] * world_size for step in sizes[:-1]) and max(sizes[-1]) - min(sizes[-1]) <= 1
    sampler = tm.CorpusSampler(row_count, batch_size=4, world_size=world_size)
    assert len(sampler) == len(batches)
    kept, _ = consumed(row_count, world_size, batch_size=4, seed=seed, drop_last=True)
    assert flat(kept) == order[: row_count // (4 * world_size) * 4 * world_size]
    assert len(tm.CorpusSampler(row_count, batch_size=4, world_size=world_size, drop_last=True)) == len(kept)


def test_consumers_come_and_go_in_the_middle_of_an_epoch():
    """1, then 8, then 3 consumers: each row once, in the one global order."""
    order = Permutation(1000, seed=9)(np.arange(1000)).tolist()
    rows, state = [], None
    for world_size, steps in ((1, 10), (8, 7), (3, None)):
        batches, state = consumed(1000, world_size, batch_size=5, seed=9, state=state, steps=steps)
        rows += flat(batches)
    assert rows == order
    batches, _ = consumed(1000, 2, batch_size=5, seed=9, state=state)
    assert flat(batches) == Permutation(1000, seed=9, epoch=1)(np.arange(1000)).tolist()


def test_an_epoch_whose_end_is_dropped_is_over():
    sampler = tm.CorpusSampler(10, batch_size=4, seed=3, drop_last=True)
    epochs = [np.concatenate(list(sampler)).tolist() for _ in range(2)]
    assert epochs == [Permutation(10, seed=3, epoch=epoch)(np.arange(8)).tolist() for epoch in range(2)]
    assert sampler.state_dict() == {"cursor": 20}


def test_a_cursor_of_what_training_has_had():
    """A loader that has fetched ahead: the cursor counts the batches that were used."""
    sampler = tm.CorpusSampler(100, batch_size=4, seed=1, rank=1, world_size=2)
    ahead = iter(sampler)
    batches = [next(ahead).tolist() for _ in range(9)]
    state = sampler.state_dict(batch_count=5)
    assert state == {"cursor": 40} and sampler.state_dict() == {"cursor": 72}
    again = tm.CorpusSampler(100, batch_size=4, seed=1, rank=1, world_size=2)
    again.load_state_dict(state)
    rest = iter(again)
    assert [next(rest).tolist() for _ in range(4)] == batches[5:]
    assert again.state_dict(batch_count=2) == {"cursor": 56}
    assert again.state_dict(batch_count=1000) == {"cursor": 100}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_count": 0}, "row_count must be between 1"),
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"rank": 2, "world_size": 2}, "rank must be between 0 and 1, got 2"),
        ({"seed": -1}, "seed must be between 0"),
    ],
)
def test_a_sampler_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        tm.CorpusSampler(**{"row_count": 10, "batch_size": 2, **change})


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with fewer cores
@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)]
)
def test_a_torch_loader_meets_every_row_once(workers, start, chain):
    torch = pytest.importorskip("torch")
    corpus = tm.VirtualCorpus(chain, sequence_count=50, length=8)
    loader = torch.utils.data.DataLoader(
        corpus,
        batch_sampler=tm.CorpusSampler(50, batch_size=8, seed=2),
        collate_fn=torch.from_numpy,
        num_workers=workers,
        multiprocessing_context=start,
    )
    rows = torch.cat(list(loader))
    assert np.array_equal(rows.numpy(), corpus.shuffled(2)[:])


def test_a_loader_that_would_list_all_rows_says_what_to_do_instead(chain):
    """`shuffle=True` lists every number of a row before the first batch; our orders take no memory."""
    data = pytest.importorskip("torch").utils.data
    corpus = tm.VirtualCorpus(chain, sequence_count=10**12, length=8)
    for many in (corpus, corpus.shuffled(3)):
        with pytest.raises(
            ValueError, match=r"shuffle=True.*trajmill.CorpusSampler\(1000000000000, .*shuffled\(seed\)"
        ):
            data.DataLoader(many, batch_size=4, shuffle=True)
    assert len(corpus) == 10**12
    sampler = tm.CorpusSampler(10**12, batch_size=4, seed=3)
    batches = [next(iter(data.DataLoader(corpus, batch_sampler=sampler)))]
    batches += [next(iter(data.DataLoader(corpus.shuffled(3), batch_size=4)))]
    some = data.RandomSampler(corpus, replacement=True, num_samples=10)
    assert all(np.array_equal(batch, corpus.shuffled(3)[:4]) for batch in batches)
    assert len(next(iter(data.DataLoader(corpus, batch_size=10, sampler=some)))) == 10
    few = tm.VirtualCorpus(chain, sequence_count=20, length=8)
    assert len(next(iter(data.DataLoader(few, batch_size=20, shuffle=True)))) == 20


def test_a_torch_loader_collates_trajectories(mdp):
    torch = pytest.importorskip("torch")
    corpus = tm.VirtualCorpus(mdp, sequence_count=10, length=6)
    batch = next(iter(torch.utils.data.DataLoader(corpus, batch_size=10)))
    data = mdp.sample(10, 6)
    assert np.array_equal(batch["states"].numpy(), data.states) and np.array_equal(
        batch["actions"].numpy(), data.actions
    )


def test_corpora_can_be_pickled(chain, mdp):
    half = np.full((2, 2), 0.5)
    explicit = [
        tm.MarkovChain.from_probabilities(np.eye(3)[[1, 2, 0]] * 0.5 + np.eye(3) * 0.5, initial=[0, 0, 1], seed=8),
        tm.MDP.from_probabilities(half, [half, half], seed=8, start="fixed"),
        tm.MarkovChain(state_count=9, temperature=0.3, initial="uniform", seed=8, backend="implicit"),
    ]
    for law in (chain, mdp, *explicit):
        corpus = tm.VirtualCorpus(law, sequence_count=10, length=6).shuffled(4)
        again = pickle.loads(pickle.dumps(corpus))
        assert str(again.__getitems__([3, 4])) == str(corpus.__getitems__([3, 4]))


def test_importing_trajmill_costs_neither_torch_nor_xxhash():
    code = (
        "import sys, trajmill as tm\n"
        "early = {'trajmill.corpus', 'xxhash', 'torch', 'fsspec'} & set(sys.modules)\n"
        "tm.VirtualCorpus(tm.MarkovChain(state_count=2), sequence_count=2, length=2)[0]\n"
        "late = {'xxhash', 'torch', 'fsspec'} & set(sys.modules)\n"
        "sys.exit(f'imported {early | late}' if early | late else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'trajmill' has no attribute 'nothing'"):
        tm.nothing  # noqa: B018


def test_rows_by_list_and_by_array():
    corpus = tm.VirtualCorpus(tm.MarkovChain(state_count=10), sequence_count=100, length=8)
    for rows in ([1, 2], np.array([1, 2]), np.array([1, 2], np.uint8)):
        assert (corpus[rows] == np.stack([corpus[1], corpus[2]])).all()
    assert corpus[[]].shape == (0, 8)
    with pytest.raises(IndexError, match="rows must be between 0 and 99, got 100"):
        corpus[[1, 100]]


@pytest.mark.parametrize("kind", ["list", "range", "array", "uint8", "tensor"])
def test_many_rows_by_whatever_holds_numbers(chain, kind):
    torch = pytest.importorskip("torch")
    corpus = tm.VirtualCorpus(chain, sequence_count=10, length=3)
    make = {"list": list, "range": lambda r: r, "array": np.array, "uint8": lambda r: np.array(r, "u1")}
    numbers = make.get(kind, lambda r: torch.tensor(list(r)))(range(2, 5))
    for rows in (corpus, corpus.shuffled(1)):
        assert np.array_equal(rows[numbers], rows[2:5])
        assert np.array_equal(rows.__getitems__(numbers), rows[2:5])


@pytest.mark.parametrize("wrong", [True, np.True_, 1.0, "1", None, (1, 2), [True], [1.0], np.array([1.0]), [[1]]])
def test_what_is_no_number_of_a_row(chain, wrong):
    corpus = tm.VirtualCorpus(chain, sequence_count=10, length=3)
    for rows in (corpus, corpus.shuffled(1)):
        with pytest.raises(TypeError, match=r"^rows? must be"):
            rows[wrong]
