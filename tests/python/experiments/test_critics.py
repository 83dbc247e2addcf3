"""What CQL's critics are pre-trained on: real MDPs of every law, their published floors, and the way into CQL."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Killed, tensors, tiny, train

from trajmill.algorithms import cql, forward_dynamics
from trajmill.algorithms.forward_dynamics import Config, generate
from trajmill.core.mapping import OneToOneMap
from trajmill.replay import MDPTransitions
from trajmill.replay.tables import CodedRows
from trajmill.runs.directory import RunDirectory
from trajmill.training.settings import Schedule

CPU = torch.device("cpu")
LAWS = ("mdp", "iid", "identity", "mapping")


def of_law(law: str, **settings: Any) -> dict[str, Any]:
    """Settings of one of the paper's ways: a law that the next state follows, or another target."""
    return ({"law": law} if law in ("mdp", "iid") else {"target": law}) | settings


def small(law: str = "mdp", **settings: Any) -> Config:
    return Config(**of_law(law, trajectory_count=20, length=50, **settings))


def numbers(rows: CodedRows) -> np.ndarray:
    """State, action and target of every transition."""
    found: np.ndarray = rows.transitions.rows
    return found


def centroid_floor(transitions: MDPTransitions) -> float:
    """Mean squared error of the best function of (s, a): the mean of the vectors that followed it."""
    s, a, s2 = torch.from_numpy(transitions.rows.astype(np.int64)).unbind(1)
    pair = s * len(transitions.action_vectors) + a
    vectors = torch.tensor(transitions.target_vectors, dtype=torch.float64)
    pairs = len(transitions.state_vectors) * len(transitions.action_vectors)
    counts = torch.bincount(pair * len(vectors) + s2, minlength=pairs * len(vectors)).view(pairs, -1).double()
    count, sums = counts.sum(1), counts @ vectors
    squares = counts.sum(0) @ vectors.square().sum(1) - (sums.square().sum(1) / count.clamp(min=1.0)).sum()
    return float(squares / (len(s) * vectors.shape[1]))


@pytest.fixture(scope="module")
def authors() -> np.ndarray:
    """The authors' transitions, which are the same for every environment."""
    return numbers(generate(Config(environment="hopper", stream="reference")))


@pytest.mark.parametrize(
    ("environment", "floor", "constant"),
    [("hopper", 0.335841, 0.339427), ("halfcheetah", 0.338789, 0.342468), ("ant", 0.327318, 0.330901)],
)
def test_the_authors_transitions_have_the_published_floor(
    environment: str, floor: float, constant: float, authors: np.ndarray
) -> None:
    """Of the best function of (s, a) on these very 1,000,000 transitions, and of the best constant under IID data."""
    vectors = generate(Config(environment=environment, stream="reference", trajectory_count=1, length=2)).transitions
    columns = np.ascontiguousarray(authors.T)
    transitions = MDPTransitions.from_arrays(
        *columns, state_vectors=vectors.state_vectors, action_vectors=vectors.action_vectors
    )
    assert authors.shape == (1_000_000, 3)
    assert authors[:2].tolist() == [[51, 36, 71], [71, 19, 81]]
    assert centroid_floor(transitions) == pytest.approx(floor, abs=1e-6)
    variance = vectors.state_vectors.astype(np.float64).var(0).mean()
    assert float(variance) == pytest.approx(constant, abs=1e-6)


@pytest.mark.parametrize("stream", ["v1", "reference"])
@pytest.mark.parametrize("law", ["mdp", "identity", "mapping"])
def test_every_law_shares_the_pairs_and_has_its_own_target(stream: str, law: str) -> None:
    sizes: dict[str, Any] = {"stream": stream, "state_count": 12, "action_count": 7}
    made = generate(small(law, **sizes))
    plain = numbers(generate(small(**sizes)))
    rows, found = numbers(made), made.transitions
    assert len(rows) == 20 * 50 and made.name == f"synthetic-{law}"
    assert (rows[:, :2] == plain[:, :2]).all()
    inside = np.arange(1000) % 50 < 49
    assert (plain[inside, 2] == plain[1:, 0][inside[:-1]]).all(), "the next state is where the next row begins"
    if law == "mdp":
        return
    targets = found.target_vectors[rows[:, 2]]
    state, action = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    if law == "mapping":
        state, action = np.divmod(OneToOneMap(12 * 7, 42)(state * 7 + action).astype(np.int64), 7)
    assert (targets == np.concatenate([found.state_vectors[state], found.action_vectors[action]], 1)).all()
    assert len(np.unique(rows, axis=0)) == len(np.unique(rows[:, :2], axis=0)), "one target for each pair"
    assert len(np.unique(rows[:, 2])) == len(np.unique(rows[:, :2], axis=0)), "no target twice"


def test_iid_is_an_mdp_of_infinite_temperatures() -> None:
    inf = math.inf
    iid = numbers(generate(small("iid")))
    assert np.array_equal(iid, numbers(generate(small(policy_temperature=inf, transition_temperature=inf))))
    assert not np.array_equal(iid, numbers(generate(small())))
    for changes in ({"law": "iid"}, {"policy_temperature": inf, "transition_temperature": inf}):
        with pytest.raises(ValueError, match="reference has no IID data"):
            Config(stream="reference", **changes)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [10, 100_000])
def test_any_number_of_states_and_actions(law: str, count: int) -> None:
    """10^10 pairs are no table: 1,000 transitions are made in no time."""
    config = small(law, state_count=count, action_count=count, batch_size=8, hidden_sizes=(16, 16))
    rows = generate(config)
    assert 0.9 * count <= int(numbers(rows)[:, :2].max()) < count
    state = forward_dynamics.create(config, rows.table(CPU, torch.float32), [0])
    forward_dynamics.step(state)
    assert all(math.isfinite(loss[0]) for loss in state.metrics.mean_of_last(0, 1).values())


@pytest.mark.parametrize("law", LAWS)
def test_every_law_is_a_start_for_cql(
    law: str, tmp_path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = whole(tiny("forward_dynamics", method=of_law(law), schedule=Schedule(updates=5)))
    described = RunDirectory(start).described()
    assert (described["variant"], described["dataset"]) == (forward_dynamics.LABEL, f"synthetic-{law}")
    states: list[cql.State] = []

    def stop(run: object, step: object, state: cql.State, *_: object, **__: object) -> None:
        states.append(state)
        raise Killed

    monkeypatch.setattr("trajmill.experiments.train.run_schedule", stop)
    with pytest.raises(Killed):
        train(tiny("cql", init=start, seeds=(0, 1)), tmp_path / "run")
    critic, loaded = tensors(start)["critic"], states[0].critic.flat
    hidden_size = 14 * 16 + 16 + 16 * 16 + 16
    assert torch.equal(loaded[:, :hidden_size], critic[:2, :hidden_size].repeat(2, 1))
    assert not torch.equal(critic[0], critic[1])
    cql.step(states[0], 2)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_pretraining_comes_to_its_floor(law: str) -> None:
    """Hopper sizes, S = A = 100. A loss over 300 batches of 256 has a standard error of 0.0002.

    The floor of both controls is zero; a map is learned by heart, pair by pair, so it only begins to.
    """
    updates = 3000
    config = Config(**of_law(law))
    rows = generate(config)
    state = forward_dynamics.create(config, rows.table(CPU, torch.float32), [42], metric_capacity=updates)
    forward_dynamics.step(state, updates)
    means = state.metrics.mean_of_last(updates - updates // 10, updates)
    loss = float(np.mean([of_critic[0] for of_critic in means.values()]))
    columns = (rows.transitions.state_vectors, rows.transitions.action_vectors)
    pairs = np.concatenate(columns, 1).astype(np.float64).var(0).mean()
    if law == "identity":
        assert loss < 0.001
    elif law == "mapping":
        assert 0.25 < loss < float(pairs) - 0.01
    else:
        assert loss == pytest.approx({"mdp": 0.3391, "iid": 0.3394}[law], abs=0.001)
