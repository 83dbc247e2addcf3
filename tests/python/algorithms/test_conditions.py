"""Conditions of a diffusion model do what they say, on real data: asked for more of something, it makes more of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from battery import checkpoint_of
from numpy.typing import NDArray

from trajmill.algorithms import diffusion, td3_bc, world_model
from trajmill.data import Dataset, Transitions, load_dataset
from trajmill.replay.tables import table_of

CPU = torch.device("cpu")
COUNT = 2048
"""transitions that are made of each kind"""
NEIGHBORS = 5
CONFIG = replace(
    diffusion.SMALL, width=128, depth=3, batch_size=256, learning_rate=1e-3, decay_updates=3000, condition="run"
)
Relevance = Callable[[Transitions], NDArray[Any]]


@cache
def data() -> Dataset:
    return load_dataset("hopper-sac-replay-10k")


def transitions() -> Transitions:
    return diffusion.prepare(replace(CONFIG, condition="none"), data()).transitions


def trained(method: Any, config: Any, rows: Any, updates: int) -> tuple[Any, Any]:
    table = table_of(rows, "device", seeds=[5], batch_size=config.batch_size, device=CPU)
    state = method.create(config, table, [5])
    for _ in range(updates // 10):
        method.step(state, 10)
    if hasattr(method, "measure"):
        method.measure(state)
    tensors, known = checkpoint_of(method, state, [5])
    return tensors, known | {"observation_dim": data().observation_dim, "action_dim": data().action_dim}


def of_a_run(method: Any, updates: int) -> Relevance:
    """What a run finds relevant, of any transitions."""
    config = replace(method.SMALL, hidden_sizes=(64, 64))
    tensors, known = trained(method, config, method.prepare(config, data()), updates)
    return lambda transitions: method.relevance(tensors, known, transitions)


def of_near_rows(values: NDArray[Any]) -> Relevance:
    """The mean of the values of the nearest real rows, where a transition that was made shows none of its own."""
    real = transitions()
    scale = real.observation.std(0)

    def place(rows: Transitions) -> torch.Tensor:
        return torch.from_numpy(np.hstack([rows.observation / scale, rows.next_observation / scale, rows.action]))

    def relevance(rows: Transitions) -> NDArray[Any]:
        nearest = torch.cdist(place(rows), place(real)).topk(NEIGHBORS, largest=False).indices
        found: NDArray[Any] = values[nearest.numpy()].mean(1)
        return found

    return relevance


def returns() -> tuple[NDArray[Any], Relevance]:
    values = diffusion.returns_in_order(transitions())
    return values, of_near_rows(values)


def errors_of_critics() -> tuple[NDArray[Any], Relevance]:
    """Young ones, whose errors follow from the reward."""
    relevance = of_a_run(td3_bc, 100)
    return relevance(transitions()), relevance


def errors_of_a_model() -> tuple[NDArray[Any], Relevance]:
    """Of near rows, since the model also errs on what was made badly."""
    values = of_a_run(world_model, 1000)(transitions())
    return values, of_near_rows(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("relevance", "margins"),
    [  # shares of the real rows that lie between what is made for little and for much, of guidance 1 and 3
        (returns, (0.1, 0.2)),
        (errors_of_critics, (0.3, 0.5)),
        (errors_of_a_model, (0.02, 0.08)),
    ],
)
def test_more_is_made_of_what_is_asked_for(
    relevance: Callable[[], tuple[NDArray[Any], Relevance]], margins: tuple[float, float]
) -> None:
    """By the 10th and the 90th percentile; the difference of ranks among the real rows, less four standard errors."""
    values, of = relevance()
    rows = diffusion.prepare(replace(CONFIG, condition="none"), data()).with_relevance(values)
    tensors, known = trained(diffusion, CONFIG, rows, 3000)
    real = np.sort(of(transitions()))

    def made(percentile: int, guidance: float) -> NDArray[Any]:
        asked = known | {"relevance": known["relevance"][percentile : percentile + 1] * 101}
        sampling = diffusion.Sampling(sampler="fast", guidance=guidance)
        maker = diffusion.synthesize(tensors, asked, sampling, device=CPU, block_size=COUNT)
        return np.searchsorted(real, of(maker.block(0, 0))) / len(real)

    assert np.array_equal(made(10, 0.0), made(90, 0.0)), "without guidance nothing is asked for"
    differences = []
    for guidance, margin in zip((1.0, 3.0), margins, strict=True):
        difference = made(90, guidance) - made(10, guidance)  # of the same noise
        assert difference.mean() - 4.0 * difference.std() / np.sqrt(COUNT) > margin, guidance
        differences.append(difference.mean())
    assert differences[1] > differences[0], "more guidance asks for more"
