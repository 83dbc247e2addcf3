"""Quality of synthetic transitions: exact on tiny data, and what each measure must and must not notice."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from small_data import transitions

from trajmill.data import Transitions, load_dataset, qlearning_transitions
from trajmill.evaluation import quality
from trajmill.evaluation.environments import environment_definition
from trajmill.evaluation.quality import (
    correlation_score,
    correlations,
    kolmogorov_smirnov,
    matched_strength,
    measure_quality,
    memorized_share,
    nearest_rows,
    simulator_errors,
    with_noise,
)


def taken(rows: Transitions, where: Any) -> Transitions:
    return Transitions(**{field.name: getattr(rows, field.name)[where] for field in fields(Transitions)})


def joined(*parts: Transitions) -> Transitions:
    return Transitions(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Transitions)}
    )


def bundled(name: str, count: int = 2_000) -> Transitions:
    rows = qlearning_transitions(load_dataset(name))
    return taken(rows, np.random.default_rng(0).permutation(len(rows))[:count])


# --- by hand ---


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2, 3, 4], [5, 6], 1.0),
        ([1, 2, 3, 4], [3, 4, 5, 6], 0.5),
        ([0, 0, 0, 1], [0, 1, 1, 1], 0.5),  # ties
        ([0, 1, 2, 3], [1.5], 0.5),
        ([0, 1, 2, 3], [10, 0.5, 11], 0.75 + 0.25 - 1 / 3),  # after 3 all of the first, a third of the second
    ],
)
def test_the_distance_of_distributions(a: list[float], b: list[float], distance: float) -> None:
    assert kolmogorov_smirnov(np.array(a), np.array(b)) == pytest.approx(distance)
    assert kolmogorov_smirnov(np.array(b), np.array(a)) == pytest.approx(distance)


@pytest.mark.slow  # importing it takes longer than all the rest
def test_it_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=300).round(1), rng.normal(0.2, size=170).round(1)
    assert kolmogorov_smirnov(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic)


def test_correlations() -> None:
    rows = np.array([[1.0, 2, -1, 7], [2, 4, -2, 7], [3, 6, -3, 7]])
    rho = correlations(rows)
    np.testing.assert_allclose(rho[:3, :3], [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])
    assert not rho[3].any()  # a constant column
    turned = rho[:3, :3] * [[1, -1, 1], [-1, 1, 1], [1, 1, 1]]  # one pair of three from 1 to −1
    assert correlation_score(rho[:3, :3], turned) == pytest.approx(1 - 1 / 3)
    many = np.random.default_rng(0).normal(size=(50, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    np.testing.assert_allclose(correlations(many), np.corrcoef(many.T), atol=1e-12)


def test_nearest_rows_by_hand() -> None:
    rows = np.array([[0, 0], [3, 4], [6, 8]], np.float32)
    np.testing.assert_array_equal(nearest_rows(np.array([[3, 4], [0, 1]], np.float32), rows)[0], [0, 5])
    own = nearest_rows(rows, rows, own=np.array([0, 1, 2]))
    np.testing.assert_array_equal(own, [[5, 10], [5, 5], [5, 10]])
    assert nearest_rows(rows, rows[:1]).tolist() == [[0, np.inf], [5, np.inf], [10, np.inf]]


@pytest.mark.parametrize("own", [False, True])
def test_blocks_find_what_a_plain_search_finds(own: bool) -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(quality._NEIGHBORS + 300, 5)).astype(np.float32)
    queries = rows[-quality._QUERIES - 44 :] if own else rng.normal(size=(300, 5)).astype(np.float32)
    numbers = np.arange(len(rows) - len(queries), len(rows))
    plain = np.linalg.norm(queries[:, None].astype(np.float64) - rows, axis=2)
    if own:
        plain[np.arange(len(queries)), numbers] = np.inf
    expected = np.sort(plain, axis=1)[:, :2]
    np.testing.assert_allclose(nearest_rows(queries, rows, own=numbers if own else None), expected, rtol=1e-12)


def test_what_is_memorized() -> None:
    distances = np.array([[0.0, 0.0], [0.0, 1.0], [0.3, 1.0], [0.34, 1.0], [1.0, np.inf]])
    assert memorized_share(distances) == 0.8


def test_noise_by_hand() -> None:
    rows = transitions(2, observation_dim=1, action_dim=1)
    rows = replace(
        rows, observation=np.array([[1], [2]], np.float32), next_observation=np.array([[3], [4]], np.float32)
    )
    normal, deviation = np.array([[1, 2], [-1, 0]], np.float32), np.array([10, 100], np.float32)
    added = with_noise(rows, 0.5, "additive", normal, deviation)
    assert (added.observation.tolist(), added.next_observation.tolist()) == ([[6], [-3]], [[103], [4]])
    scaled = with_noise(rows, 0.5, "multiplicative", normal, deviation)
    assert (scaled.observation.tolist(), scaled.next_observation.tolist()) == ([[1.5], [1]], [[6], [4]])
    assert added.action is rows.action and added.reward is rows.reward


@pytest.mark.parametrize("power", [1.0, 0.5, 0.3])
def test_the_strength_is_found(power: float) -> None:
    assert matched_strength(lambda strength: 7 * strength**power, 2.0) == pytest.approx(
        (2 / 7) ** (1 / power), rel=5e-3
    )
    assert matched_strength(lambda strength: 0.0, 2.0) == 0.0
    assert matched_strength(lambda strength: strength, 0.0) == 0.0


# --- what the measures notice ---


def test_other_real_rows_get_the_floor() -> None:
    rows = transitions(9_000)
    found = measure_quality(taken(rows, slice(6_000)), taken(rows, slice(6_000, None)))
    assert (found.row_count, found.reference_count, found.real_count) == (3_000, 3_000, 6_000)
    for score in (*found.marginal.values(), found.correlation):
        assert score.value == pytest.approx(score.floor, abs=0.01) and score.value > 0.95
    assert found.distance.value == pytest.approx(found.distance.floor, rel=0.02)
    assert found.memorized.value < 0.001 and found.copied == quality.Measured(value=0.0, floor=0.0)
    assert {finding.verdict for finding in found.findings} == {"like real rows", "as far as real rows"}
    assert found.dynamics is None and json.loads(json.dumps(asdict(found), allow_nan=False))["row_count"] == 3_000


def test_the_held_out_rows_themselves_get_exactly_the_floor() -> None:
    rows = transitions(900)
    held_out = taken(rows, slice(600, None))
    found = measure_quality(taken(rows, slice(600)), held_out, held_out=held_out)
    pairs = [*found.marginal.values(), *found.outside.values(), found.correlation, found.distance, found.memorized]
    assert all(pair.value == pytest.approx(pair.floor, abs=1e-12) for pair in pairs)
    assert found.held_out and found.distance_quantiles == pytest.approx(found.distance_quantiles_floor)


def correlated(count: int) -> Transitions:
    rows = transitions(count)
    return replace(rows, next_observation=rows.observation + 0.1 * rows.next_observation)


def test_permuted_columns_cost_the_correlation_and_no_marginal() -> None:
    rows = correlated(4_000)
    made = taken(rows, slice(2_000, None))
    permuted = replace(made, next_observation=np.random.default_rng(0).permutation(made.next_observation))
    found, before = (measure_quality(taken(rows, slice(2_000)), each, row_count=1_000) for each in (permuted, made))
    assert found.marginal["states"].value == pytest.approx(before.marginal["states"].value, abs=0.02)
    # Of 12 * 13 / 2 pairs of other numbers, O = 5 pairs (s, s') fall from about 1 to 0.
    pairs = 13 * 12 / 2
    assert before.correlation.value - found.correlation.value == pytest.approx(5 / 2 / pairs, abs=0.01)
    assert min(map(min, found.correlation_change)) == pytest.approx(-1, abs=0.1)
    assert found.distance.value > 1.2 * found.distance.floor


def test_a_shifted_column_is_named() -> None:
    rows = transitions(2_000)
    action = rows.action.copy()
    action[:, 1] += 0.5
    found = measure_quality(taken(rows, slice(1_000)), taken(replace(rows, action=action), slice(1_000, None)))
    worst = min(found.columns, key=lambda column: column.marginal.value)
    assert (worst.name, worst.group) == ("action 1", "actions")
    assert worst.marginal.value == pytest.approx(0.75, abs=0.06)  # of uniform numbers of width 2, moved by 0.5
    assert worst.outside.value == pytest.approx(0.25, abs=0.05) and worst.outside.floor < 0.02
    assert found.actions_beyond_limit.value == pytest.approx(0.125, abs=0.03)
    assert found.actions_beyond_limit.floor == 0 and found.outside["states"].value < 0.01
    assert sum(worst.real) == pytest.approx(1) and sum(worst.synthetic) < 0.95  # the rest is outside the picture


def test_a_copied_row_is_memorized() -> None:
    rows = transitions(1_200)
    real, held_out, fresh = taken(rows, slice(600)), taken(rows, slice(600, 900)), taken(rows, slice(900, None))
    near = replace(taken(real, slice(20)), reward=taken(real, slice(20)).reward + np.float32(0.01))
    made = joined(taken(fresh, slice(270)), taken(real, slice(30, 40)), near)
    found = measure_quality(real, made, held_out=held_out)
    assert found.copied == quality.Measured(value=pytest.approx(10 / 300), floor=0.0)
    assert found.memorized.value == pytest.approx(30 / 300, abs=2 / 300) and found.memorized.floor <= 2 / 300
    without = measure_quality(real, made)  # all of the real rows are searched, also without held-out rows
    assert without.copied.value == pytest.approx(10 / 300) and without.copied.floor == 0


def test_constant_columns_are_left_out_and_named() -> None:
    rows = transitions(800)
    observation = rows.observation.copy()
    observation[:, 2] = 0.5
    rows = replace(rows, observation=observation)
    real, made = taken(rows, slice(400)), taken(rows, slice(400, None))
    found = measure_quality(real, made)
    assert found.constant_columns == ("observation 2",) and len(found.correlation_change) == 12
    observation = made.observation.copy()
    observation[:, 2] += 1e-5
    moved = measure_quality(real, replace(made, observation=observation))
    assert moved.distance == found.distance and moved.columns[2].marginal.value == 0
    assert moved.columns[2].outside.value == 1
    collapsed = replace(made, reward=np.zeros_like(made.reward))  # constant, but only in the synthetic rows
    assert measure_quality(real, collapsed).constant_columns == ("observation 2",)


def test_the_seed_names_the_rows() -> None:
    rows, made = transitions(600), transitions(300, seed=9)
    first, again, other = (measure_quality(rows, made, row_count=50, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.row_count == 50 and first.synthetic_count == 300 and first.real_count == 600


# --- the simulator ---


@pytest.mark.parametrize(("name", "environment"), [("hopper", "Hopper-v4"), ("halfcheetah", "HalfCheetah-v4")])
def test_real_rows_differ_from_the_simulator_by_rounding(name: str, environment: str) -> None:
    pytest.importorskip("mujoco")
    definition = environment_definition(environment)
    rows = bundled(f"{name}-sac-replay-10k")
    errors = simulator_errors(definition, rows)
    assert np.median(errors.observation) < 1e-10 and errors.observation.max() < 1e-5
    assert np.median(errors.reward) < 1e-10 and not errors.terminal.any()
    shown = definition.shows_state(rows.observation.astype(np.float64))
    np.testing.assert_array_equal(errors.rows, shown.nonzero()[0])
    assert shown.all() == (definition.velocity_limit == np.inf)
    off = replace(rows, next_observation=rows.next_observation + np.float32(0.5), reward=rows.reward - np.float32(2))
    errors = simulator_errors(definition, replace(off, terminal=~rows.terminal))
    assert np.median(errors.observation) == pytest.approx(0.25, rel=1e-3)
    assert np.median(errors.reward) == pytest.approx(4, rel=1e-3)
    np.testing.assert_array_equal(errors.terminal, ~rows.truncated[errors.rows])


def test_noise_matches_the_distance_and_breaks_the_dynamics() -> None:
    pytest.importorskip("mujoco")
    rows = bundled("halfcheetah-sac-replay-10k", 1_500)
    real, other = taken(rows, slice(1_000)), taken(rows, slice(1_000, None))
    for kind in ("additive", "multiplicative"):
        found = measure_quality(real, other, environment_id="HalfCheetah-v4", noise=kind)
        dynamics = found.dynamics
        assert dynamics.noise.kind == kind and dynamics.noise.strength > 0
        assert dynamics.noise.distance == pytest.approx(found.distance.value, rel=2e-3)
        assert dynamics.noise.distance == dynamics.noise.curve.distance[2]
        assert list(dynamics.noise.curve.distance) == sorted(dynamics.noise.curve.distance)
        assert dynamics.noise.observation_error > 1e4 * dynamics.observation_error.value
        assert dynamics.observation_error.value < 1e-6 and dynamics.terminal_mismatch.value == 0
        assert list(dynamics.curve.distance) == sorted(dynamics.curve.distance) and len(dynamics.curve.distance) == 10
    verdicts = {finding.name: finding.verdict for finding in found.findings}
    assert verdicts["dynamics error"].startswith(("like real rows", "better than noise"))


def test_states_that_cannot_be_stepped_are_errors_and_nothing_is_printed(tmp_path, capfd, monkeypatch) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    rows = bundled("halfcheetah-sac-replay-10k", 70)
    wild = replace(rows, observation=rows.observation * np.float32(1e9))
    errors = simulator_errors(environment_definition("halfcheetah"), wild)
    assert np.isfinite(errors.observation).all() and errors.observation.min() > 1e-3
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


# --- refusals ---


def spoiled(rows: Transitions, field: str, value: float = np.nan) -> Transitions:
    values = getattr(rows, field).copy()
    values[3:5] = value
    return replace(rows, **{field: values})


ROWS = transitions(50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic": taken(ROWS, slice(0))}, "synthetic must have at least 2 rows, got 0"),
        ({"synthetic": taken(ROWS, slice(1))}, "synthetic must have at least 2 rows, got 1"),
        ({"real": taken(ROWS, slice(3))}, "real must have at least 4 rows, got 3"),
        ({"held_out": taken(ROWS, slice(1))}, "held_out must have at least 2 rows, got 1"),
        ({"synthetic": spoiled(ROWS, "next_observation")}, "synthetic.next_observation .* in 2 rows, first in row 3"),
        ({"real": spoiled(ROWS, "reward", np.inf)}, "real.reward is not finite"),
        ({"held_out": spoiled(ROWS, "action")}, "held_out.action is not finite"),
        ({"synthetic": transitions(50, observation_dim=4)}, "synthetic.observation must have shape .50, 5. .*50, 4"),
        ({"synthetic": transitions(50, action_dim=1)}, "synthetic.action must have shape"),
        ({"synthetic": replace(ROWS, reward=ROWS.reward[:, None])}, "synthetic.reward must have shape"),
        ({"synthetic": replace(ROWS, action=ROWS.action[:9])}, "synthetic.action must have shape"),
        ({"environment_id": "Hopper-v4"}, "Hopper-v4 has 11 observation and 3 action numbers, the rows have 5 and 2"),
        ({"environment_id": "Chess-v0"}, "unknown environment"),
        ({"row_count": 1}, "row_count must be at least 2"),
        ({"noise": "pink"}, "noise must be one of"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    arguments = {"real": ROWS, "synthetic": ROWS, **options}
    with pytest.raises(ValueError, match=message):
        measure_quality(arguments.pop("real"), arguments.pop("synthetic"), **arguments)


def test_rows_that_all_hide_their_velocity_are_refused() -> None:
    pytest.importorskip("mujoco")
    rows = bundled("hopper-sac-replay-10k", 20)
    hidden = replace(rows, observation=np.full_like(rows.observation, 10.0))
    with pytest.raises(ValueError, match="velocity at the limit of ±10"):
        measure_quality(rows, hidden, environment_id="hopper")


def test_two_columns_are_needed_for_a_correlation() -> None:
    rows = transitions(60)
    flat = {field: np.zeros_like(getattr(rows, field)) for field in ("observation", "action", "next_observation")}
    found = measure_quality(replace(rows, **flat), rows)
    assert found.correlation is None and len(found.constant_columns) == 12
    assert "correlation score" not in [finding.name for finding in found.findings]


@pytest.mark.parametrize("value", [0.1, 1.0, 1e6, 1e20])
@pytest.mark.parametrize("varies", [False, True])
def test_columns_of_any_size_that_vary_little_or_not_have_histograms(value: float, varies: bool) -> None:
    """By one step of float32, or not at all."""
    rows = transitions(200)
    column = np.full(200, value, np.float32)
    if varies:
        column[::2] = np.nextafter(np.float32(value), np.float32(np.inf))
    rows.observation[:, 1] = column
    found = quality.measure_quality(rows, rows)
    assert found.constant_columns == (() if varies else ("observation 1",))
    assert sum(found.columns[1].real) == pytest.approx(1.0) == sum(found.columns[1].synthetic)
    assert found.columns[1].marginal.value > 0.9
