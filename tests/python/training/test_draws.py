"""Training's random numbers: known answers, laws, and independence of everything but their address."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gpu import NEEDS_GPU
from hypothesis import given, settings
from hypothesis import strategies as st

from trajmill.training.draws import Draws, even, indexes, normals, philox, shaped_normals, uniforms
from trajmill.training.dropout import dropout_factors, dropout_sizes

WORD = st.integers(0, 2**32 - 1)
CPU = torch.device("cpu")


def words_of(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    return [int(word) for word in philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, ...], expected: str) -> None:
    assert words_of(counter, key) == [int(word, 16) for word in expected.split()]


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """The algorithm in Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
@settings(max_examples=50, deadline=None)
def test_philox_equals_python_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> None:
    assert words_of(counter, key) == plain_philox(list(counter), list(key))


@given(WORD, st.integers(1, 2**31))
@settings(max_examples=50, deadline=None)
def test_words_become_numbers_in_range(word: int, count: int) -> None:
    words = torch.tensor([word, word])
    for dtype in (torch.float32, torch.float64):
        assert (uniforms(words, dtype) > 0.0).all() and (uniforms(words, dtype) < 1.0).all()
        assert normals(words, dtype).isfinite().all()
    assert uniforms(words, torch.float32).double().equal(uniforms(words, torch.float64))
    assert 0 <= int(indexes(words, count)[0]) < count


@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6, unique=True),
    step=st.integers(0, 2**31),
    count=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_draw_depends_on_its_address_alone(seeds: list[int], step: int, count: int) -> None:
    sizes = {"batch": 5, "noise": 8}
    together = Draws.of(seeds, sizes, CPU).words(torch.tensor(step), count)
    for position, seed in enumerate(seeds):
        for update in range(count):
            alone = Draws.of([seed], sizes, CPU).words(torch.tensor(step + update), 1)
            for site, size in sizes.items():
                assert together[site].shape == (count, len(seeds), size)
                assert together[site][update, position].equal(alone[site][0, 0])


@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4, unique=True),
    step=st.integers(0, 2**31),
    count=st.integers(1, 3),
    sizes=st.dictionaries(st.sampled_from("abc"), st.integers(0, 70), min_size=1),
)
@settings(max_examples=50, deadline=None)
def test_the_core_makes_the_words_that_torch_operations_do(
    seeds: list[int], step: int, count: int, sizes: dict[str, int]
) -> None:
    draws, first = Draws.of(seeds, sizes, CPU, first_site=3), torch.tensor(step)
    by_torch = draws.words_by_torch(first, count)
    assert by_torch.shape == (count, len(seeds), len(draws.lane), 4)
    assert by_torch.equal(draws._compiled(first, count))


def test_address_is_lane_step_site_domain() -> None:
    words = Draws.of([2**40 + 5], {"a": 4, "b": 6}, CPU).words(torch.tensor(9), 1)
    assert words["b"][0, 0, 4:].tolist() == plain_philox([1, 9, 1, 0x74726169], [5, 2**8])[:2]


def test_sites_are_numbered_from_the_first_site_on() -> None:
    """So that an algorithm may have two sets of draws of one seed."""
    both = Draws.of([5, 2**63], {"a": 4, "b": 6, "c": 3}, CPU).words(torch.tensor(9), 2)
    later = Draws.of([5, 2**63], {"b": 6, "c": 3}, CPU, first_site=1).words(torch.tensor(9), 2)
    assert later["b"].equal(both["b"]) and later["c"].equal(both["c"])


def test_draws_know_their_seeds() -> None:
    draws = Draws.of([5, 2**64 - 1, 2**32], {"a": 4}, CPU)
    assert draws.seeds == [5, 2**64 - 1, 2**32] and draws.seed_count == 3


def test_normals_come_in_pairs_and_in_shape() -> None:
    assert [even(count) for count in (1, 2, 3, 4)] == [2, 2, 4, 4]
    words = Draws.of([3, 4], {"a": even(15)}, CPU).words(torch.tensor(0), 2)["a"]
    found = shaped_normals(words, (5, 3), torch.float64)
    assert found.shape == (2, 2, 5, 3)
    assert found.flatten(-2).equal(normals(words, torch.float64)[..., :15])


def test_sites_steps_and_seeds_do_not_share_words() -> None:
    words = Draws.of([0, 1], {"a": 1000, "b": 1000}, CPU).words(torch.tensor(0), 3)
    flat = torch.cat([words["a"].flatten(), words["b"].flatten()])
    assert len(flat.unique()) > 11_990  # 12,000 draws of 2^32: 0.02 collisions expected


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_gpu_draws_the_same_integers(device: str) -> None:
    sizes = {"a": 100_000, "b": 3}
    for step in (7, 2**32 - 2):
        ours = Draws.of([5, 2**50, 2**64 - 1], sizes, CPU).words(torch.tensor(step), 3)
        there = Draws.of([5, 2**50, 2**64 - 1], sizes, torch.device(device))
        theirs = there.words(torch.tensor(step, device=device), 3)
        for site, words in ours.items():
            assert words.equal(theirs[site].cpu())
            assert indexes(words, 12_345).equal(indexes(theirs[site], 12_345).cpu())
            assert uniforms(words, torch.float32).equal(uniforms(theirs[site], torch.float32).cpu())
        torch.testing.assert_close(normals(ours["a"], torch.float32), normals(theirs["a"], torch.float32).cpu())


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gpu_drops_the_same_numbers(device: str, dtype: torch.dtype) -> None:
    sites = {"embedding": (0.1, (64, 60, 16)), "weights": (0.25, (3, 1, 7, 7))}
    here = Draws.of([5, 6], dropout_sizes(sites), CPU).words(torch.tensor(3), 1)
    there = Draws.of([5, 6], dropout_sizes(sites), torch.device(device)).words(torch.tensor(3, device=device), 1)
    ours = dropout_factors(sites, {site: words[0] for site, words in here.items()}, dtype)
    theirs = dropout_factors(sites, {site: words[0] for site, words in there.items()}, dtype)
    for site, factors in ours.items():
        assert 0 < int((factors == 0).sum()) < factors.numel()
        assert factors.equal(theirs[site].cpu()), site


def test_laws_of_uniforms_normals_and_indexes() -> None:
    """200,000 draws, bounds at about 5 standard errors."""
    count = 200_000
    words = Draws.of([3], {"a": count}, CPU).words(torch.tensor(0), 1)["a"][0, 0]
    uniform, normal = uniforms(words, torch.float64).numpy(), normals(words, torch.float64).numpy()
    assert abs(uniform.mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)
    assert abs(normal.mean()) < 5 / math.sqrt(count)
    assert abs(normal.var() - 1.0) < 5 * math.sqrt(2 / count)
    assert abs((normal**4).mean() - 3.0) < 5 * math.sqrt(96 / count)
    frequency = np.bincount(indexes(words, 10).numpy(), minlength=10)
    assert ((frequency - count / 10) ** 2 / (count / 10)).sum() < 34  # chi-square, 9 degrees of freedom, p = 1e-4
