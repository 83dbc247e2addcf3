"""How good made-up transitions are: every number stands beside the same number of real rows, its floor.

A score means little alone. Two samples of the same distribution differ too; neighbours in forty dimensions are far away
for real rows too; and a simulator repeats a real step only up to rounding. So real rows that are held out take the
place of the synthetic ones, equally many, and whatever they get is what a perfect model would get.

- *Marginal score* of a column: 1 − KS, the largest distance between two distribution functions (`kolmogorov_smirnov`).
- *Correlation score*: mean over pairs of columns of 1 − abs(ρ_real − ρ_synthetic) / 2, ρ after Pearson.
- *Error of the dynamics*: put the simulator into s, apply a, compare what follows with s' and r (`simulator_errors`).
- *Distance* to the nearest real row, Euclidean over s, a, r, s', each divided by its deviation (`nearest_rows`).
- *Memorized* is a row whose nearest real row is less than a third as far as its second nearest, or not far at all [2]_.
- *Noise at matched distance* (`matched_noise`): real rows with Gaussian noise on s and s', so strong that they are on
  average as far from the real rows as the synthetic rows are. A model is worth its time if its error is smaller.

.. [1] C. Lu, P. J. Ball, Y. W. Teh, J. Parker-Holder, "Synthetic Experience Replay", NeurIPS 2023, arXiv:2303.06614:
   scores of marginals and correlations, dynamics error over the distance to the data, explicit augmentation. Its
   formulas are not printed; those above are ours, and so is noise on both of s and s'.
.. [2] T. Yoon, J. Y. Choi, S. Kwon, E. K. Ryu, "Diffusion probabilistic models generalize when they fail to memorize",
   2023: the ratio of a third.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajmill.core import checks
from trajmill.core.progress import Progress, silent
from trajmill.data.environments import action_limit_of
from trajmill.data.errors import where
from trajmill.data.records import BoolArray, FloatArray, Transitions
from trajmill.data.registry import without_warnings
from trajmill.evaluation.environments import EnvironmentDefinition, Float64Array, IndexArray, environment_definition
from trajmill.evaluation.simulators import BatchedEnvironment

QUANTILES = tuple(step / 100 for step in range(101))
"""at which distances are kept"""
MEMORIZED_RATIO = 1 / 3
"""of the nearest distance to the second nearest, below which a row counts as memorized"""
NOISE_ROWS = 2_000
"""most rows that noise is added to"""
NOISE_STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""multiples of the matched strength, 1 among them, for the curve of error over distance"""
_BINS = 40  # of a histogram
_POINTS = 10  # of the curve of error over distance
_QUERIES, _NEIGHBORS = 256, 2048  # rows of a block of distances; it should fit in a core's cache
_SLOTS = 64

NoiseKind = Literal["additive", "multiplicative"]
"""x + strength · deviation of the column · normal, or x · (1 + strength · normal)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A number of the synthetic rows beside that of held-out real rows."""

    value: float
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnQuality:
    """One number of a transition."""

    name: str  # "observation 3", "action 0", "reward", "next observation 3"
    group: str  # "states", "actions" or "reward"
    marginal: Measured  # 1 − KS, in [0, 1]
    outside: Measured  # share of rows beyond the range of the reference, in [0, 1]
    edges: tuple[float, float]  # of the histograms, whose bins are equally wide
    real: tuple[float, ...]  # share of reference rows in each bin
    synthetic: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCurve:
    """Mean squared error of the dynamics over the mean distance to the nearest real row, at a few points."""

    distance: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseQuality:
    """Real rows with noise, at the mean distance of the synthetic rows."""

    kind: NoiseKind
    strength: float  # in deviations of a column (additive) or as a share (multiplicative)
    distance: float  # mean, which should be that of the synthetic rows
    observation_error: float  # means of squared errors
    reward_error: float
    curve: ErrorCurve  # at `NOISE_STRENGTHS`


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicsQuality:
    """What the simulator says. Errors are in the units of the environment, squared."""

    environment_id: str
    row_count: int  # synthetic rows compared; the others' observations hide the velocity
    observation_error: Measured  # mean over rows and numbers of the squared error of s'
    observation_error_median: Measured  # median over rows; few rows can make most of a mean
    reward_error: Measured  # mean over rows
    terminal_mismatch: Measured  # share of rows whose terminal is not the simulator's
    curve: ErrorCurve  # synthetic rows by distance
    noise: NoiseQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line for people."""

    name: str
    value: float
    floor: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Synthetic transitions beside real ones; `dataclasses.asdict` makes it ready for JSON."""

    real_count: int  # rows among which neighbours were looked for
    synthetic_count: int  # rows that there are
    row_count: int  # synthetic rows used, and as many held-out real rows for the floors
    reference_count: int  # real rows that marginals, correlations and ranges were compared with
    held_out: bool  # whether the caller held rows out; else floors come from halves of the real rows
    columns: tuple[ColumnQuality, ...]
    constant_columns: tuple[str, ...]  # of the real rows; left out of correlations and distances
    marginal: dict[str, Measured]  # mean over the columns of "states", "actions" and "reward"
    correlation: Measured | None  # None: fewer than two columns vary
    correlation_change: tuple[tuple[float, ...], ...]  # ρ_synthetic − ρ_real of the columns that vary
    outside: dict[str, Measured]  # mean over columns of the share beyond the reference's range
    actions_beyond_limit: Measured  # share of components beyond the environment's limit, else ±1
    terminal: Measured  # share of terminal rows
    distance: Measured  # mean to the nearest real row
    distance_quantiles: tuple[float, ...]  # at QUANTILES
    distance_quantiles_floor: tuple[float, ...]
    memorized: Measured  # share of rows
    copied: Measured  # share of rows that equal a real row in every number that varies
    dynamics: DynamicsQuality | None  # None: no simulator

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The numbers with a verdict each: what to look at first."""
        lines = [_score(f"marginal score, {group}", score) for group, score in self.marginal.items()]
        if self.correlation is not None:
            lines.append(_score("correlation score", self.correlation))
        lines += [
            _share(f"share out of range, {group}", share, self.row_count) for group, share in self.outside.items()
        ]
        lines.append(_share("share of actions beyond the limit", self.actions_beyond_limit, self.row_count))
        lines.append(_share("share of terminal rows", self.terminal, self.row_count, less="fewer"))
        ratio = self.distance.value / self.distance.floor if self.distance.floor > 0 else np.inf
        verdict = "nearer than real rows" if ratio < 0.9 else "as far as real rows" if ratio <= 1.1 else "farther"
        lines.append(_finding("distance to the nearest real row", self.distance, verdict))
        lines.append(_share("share memorized", self.memorized, self.row_count))
        lines.append(_share("share copied exactly", self.copied, self.row_count))
        if (found := self.dynamics) is not None:
            for name, error, noise in (
                ("dynamics error", found.observation_error, found.noise.observation_error),
                ("reward error", found.reward_error, found.noise.reward_error),
            ):
                better = f"{'better' if error.value < noise else 'no better'} than noise at this distance, {noise:.3g}"
                lines.append(_finding(name, error, "like real rows" if error.value <= 10 * error.floor else better))
            lines.append(_finding("dynamics error, median", found.observation_error_median, ""))
            lines.append(_share("share of wrong terminals", found.terminal_mismatch, found.row_count))
        return tuple(lines)


def _finding(name: str, found: Measured, verdict: str) -> Finding:
    return Finding(name=name, value=found.value, floor=found.floor, verdict=verdict)


def _score(name: str, score: Measured) -> Finding:
    lost = score.floor - score.value
    chance = max(0.01, (1.0 - score.floor) / 2)  # of few rows a floor is itself uncertain
    return _finding(name, score, "like real rows" if lost <= chance else "near" if lost <= 0.05 else "off")


def _share(name: str, share: Measured, count: int, *, less: str = "like real rows") -> Finding:
    """A share of `count` rows; `less` is the verdict where it is smaller than the floor by more than chance."""
    more, deviation = share.value - share.floor, np.sqrt(2.0 * share.floor * (1.0 - share.floor) / count)
    chance = max(0.005, 3.0 * deviation)
    verdict = "like real rows" if abs(more) <= chance else less if more < 0 else "more" if more <= 0.05 else "much more"
    return _finding(name, share, verdict)


def measure_quality(
    real: Transitions,
    synthetic: Transitions,
    *,
    held_out: Transitions | None = None,
    environment_id: str | None = None,
    row_count: int = 50_000,
    noise: NoiseKind = "additive",
    seed: int = 0,
    progress: Progress = silent,
) -> Quality:
    """Measure synthetic transitions against real ones.

    `real` are the rows that the model learned from: memorized rows are looked for among all of them, and the others
    compare with at most `row_count`, >= 2, drawn by `seed`. `held_out` are real rows that it did not learn from, best
    whole episodes, since the rows of an episode are near to each other. The floors come from them. As many synthetic as
    held-out rows are used, at most `row_count`: scores depend on the number of rows. Without `held_out` half of the
    real rows are the reference and the other half takes its place; its distances leave out the row itself.

    `environment_id`, such as ``"HalfCheetah-v4"``, adds what the simulator says; `noise` is the kind to compare with.
    Memory: a few copies of the rows in float32. 50,000 rows of 42 numbers against 50,000 take 4 s on one free core.

    ValueError if rows are too few (4 real, 2 synthetic, 2 held out), sizes differ from each other or from the
    environment's, or a number is not finite.
    """
    checks.integer("row_count", row_count, 2)
    checks.choice("noise", noise, ("additive", "multiplicative"))
    for name, rows, least in (("real", real, 4), ("synthetic", synthetic, 2), ("held_out", held_out, 2)):
        if rows is not None:
            _check(name, rows, real, least)
    definition = None if environment_id is None else environment_definition(environment_id)
    if definition is not None and (
        real.observation.shape[1] not in definition.observation_dims or real.action.shape[1] != definition.action_dim
    ):
        raise ValueError(
            f"{definition.environment_id} has {definition.observation_dims[0]} observation and {definition.action_dim} "
            f"action numbers, the rows have {real.observation.shape[1]} and {real.action.shape[1]}; name the "
            f"environment that the real rows were recorded in"
        )

    rng = np.random.default_rng(checks.seed(seed))
    order = rng.permutation(len(real))
    if held_out is None:
        held_out_given, held_out = False, real
        reference_rows, other_rows = np.split(order, [len(real) // 2])
    else:
        held_out_given, reference_rows, other_rows = True, order, rng.permutation(len(held_out))
    count = min(row_count, len(synthetic), len(other_rows))
    reference = _take(real, reference_rows[:row_count])
    other = _take(held_out, other_rows[:count])
    made = _take(synthetic, rng.permutation(len(synthetic))[:count])
    matrices = [_matrix(rows) for rows in (reference, other, made)]

    names, groups = _names(real)
    numbers = zip(names, groups, *(matrix.T for matrix in matrices), strict=True)
    scores = [_column(*each) for each in numbers]
    space = _Space.of(real)
    rho = [correlations(matrix[:, space.varies]) for matrix in matrices]
    made_distances, other_distances = (
        nearest_rows(space.place(rows), space.rows, own=own, progress=_named(progress, f"{name} rows' neighbors"))
        for name, rows, own in (
            ("synthetic", made, None),
            ("real", other, None if held_out_given else other_rows[:count]),
        )
    )

    def measured(of: Callable[[Float64Array], float]) -> Measured:
        return Measured(value=of(made_distances), floor=of(other_distances))

    distance = measured(lambda distances: float(distances[:, 0].mean()))
    dynamics = None
    if definition is not None:
        made_errors, other_errors = (
            simulator_errors(definition, rows, progress=_named(progress, f"{name} rows in the simulator"))
            for name, rows in (("synthetic", made), ("real", other))
        )
        source = _take(reference, np.arange(min(NOISE_ROWS, len(reference))))
        noisy = _noise_quality(definition, space, source, distance.value, noise, rng, progress)
        dynamics = _dynamics_quality(definition, made_errors, other_errors, made_distances[:, 0], noisy)
    limit = action_limit_of(environment_id)
    return Quality(
        real_count=len(real),
        synthetic_count=len(synthetic),
        row_count=count,
        reference_count=len(reference),
        held_out=held_out_given,
        columns=tuple(scores),
        constant_columns=tuple(name for name, varying in zip(names, space.varies, strict=True) if not varying),
        marginal=_by_group(scores, "marginal"),
        correlation=None
        if len(rho[0]) < 2
        else Measured(value=correlation_score(rho[0], rho[2]), floor=correlation_score(rho[0], rho[1])),
        correlation_change=tuple(tuple(row) for row in (rho[2] - rho[0]).tolist()),
        outside=_by_group(scores, "outside"),
        actions_beyond_limit=Measured(
            value=float(np.mean(np.abs(made.action) > limit)), floor=float(np.mean(np.abs(other.action) > limit))
        ),
        terminal=Measured(value=float(made.terminal.mean()), floor=float(other.terminal.mean())),
        distance=distance,
        distance_quantiles=tuple(np.quantile(made_distances[:, 0], QUANTILES).tolist()),
        distance_quantiles_floor=tuple(np.quantile(other_distances[:, 0], QUANTILES).tolist()),
        memorized=measured(memorized_share),
        copied=measured(lambda distances: float((distances[:, 0] == 0).mean())),
        dynamics=dynamics,
    )


# --- the rows ---


def _check(name: str, rows: Transitions, real: Transitions, least: int) -> None:
    if len(rows) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(rows)}")
    for field in fields(Transitions):
        values = getattr(rows, field.name)
        if len(values) != len(rows) or values.shape[1:] != getattr(real, field.name).shape[1:]:
            wanted = (len(rows), *getattr(real, field.name).shape[1:])
            raise ValueError(f"{name}.{field.name} must have shape {wanted} as in real, got {values.shape}")
        wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if wrong.any():
            raise ValueError(f"{name}.{field.name} is not finite {where(wrong)}; leave these rows out")


def _take(transitions: Transitions, rows: IndexArray) -> Transitions:
    return Transitions(**{field.name: getattr(transitions, field.name)[rows] for field in fields(Transitions)})


def _matrix(transitions: Transitions) -> FloatArray:
    """All numbers of a transition but its flags, (N, 2 O + A + 1): s, a, r, s'."""
    parts = (transitions.observation, transitions.action, transitions.reward[:, None], transitions.next_observation)
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _names(transitions: Transitions) -> tuple[list[str], list[str]]:
    """Name and group of each column of `_matrix`."""
    sizes = {"observation": transitions.observation.shape[1], "action": transitions.action.shape[1]}
    states, actions = ([f"{name} {number}" for number in range(size)] for name, size in sizes.items())
    names = [*states, *actions, "reward", *(f"next {name}" for name in states)]
    groups = ["states"] * len(states) + ["actions"] * len(actions) + ["reward"] + ["states"] * len(states)
    return names, groups


def _named(progress: Progress, task: str) -> Progress:
    return lambda _, completed, total, unit: progress(task, completed, total, unit)


# --- marginals and correlations ---


def kolmogorov_smirnov(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest distance between the empirical distribution functions of (N,) and (M,) numbers, in [0, 1]."""
    a, b = np.sort(a), np.sort(b)
    places = np.concatenate((a, b))
    shares = (np.searchsorted(numbers, places, side="right") / len(numbers) for numbers in (a, b))
    return float(np.abs(next(shares) - next(shares)).max())


def correlations(rows: NDArray[Any]) -> Float64Array:
    """Pearson's ρ of each pair of columns of (N, D) numbers, (D, D); 0 where a column is constant."""
    rows = rows - rows.mean(axis=0, dtype=np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=0))
    rows /= np.where(lengths > 0, lengths, 1.0)
    return np.asarray(rows.T @ rows)


def correlation_score(real: Float64Array, synthetic: Float64Array) -> float:
    """Mean over pairs of columns of 1 − abs(ρ_real − ρ_synthetic) / 2, in [0, 1]; both ρ (D, D), D >= 2."""
    pairs = np.triu_indices(len(real), k=1)
    return float(1.0 - np.abs(real - synthetic)[pairs].mean() / 2.0)


def _column(name: str, group: str, reference: FloatArray, other: FloatArray, made: FloatArray) -> ColumnQuality:
    low, high = float(reference.min()), float(reference.max())
    margin = 0.1 * (high - low) or 0.5 * max(1.0, abs(low))
    edges = (low - margin, high + margin)
    exact = (numbers.astype(np.float64) for numbers in (reference, made))  # in float32 narrow bins have equal edges
    real, synthetic = (np.histogram(numbers, _BINS, edges)[0] / len(numbers) for numbers in exact)
    score, floor = (1.0 - kolmogorov_smirnov(reference, numbers) for numbers in (made, other))
    outside, outside_floor = (float(np.mean((numbers < low) | (numbers > high))) for numbers in (made, other))
    return ColumnQuality(
        name=name,
        group=group,
        marginal=Measured(value=score, floor=floor),
        outside=Measured(value=outside, floor=outside_floor),
        edges=edges,
        real=tuple(real.tolist()),
        synthetic=tuple(synthetic.tolist()),
    )


def _by_group(columns: Sequence[ColumnQuality], what: str) -> dict[str, Measured]:
    """Means over the columns of each group."""
    groups = {
        column.group: [getattr(each, what) for each in columns if each.group == column.group] for column in columns
    }
    return {
        group: Measured(
            value=float(np.mean([each.value for each in found])), floor=float(np.mean([each.floor for each in found]))
        )
        for group, found in groups.items()
    }


# --- distances ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Space:
    """The real rows with columns of deviation 1, and the way there; constant columns are left out."""

    mean: Float64Array
    deviation: Float64Array
    varies: BoolArray
    rows: FloatArray

    @classmethod
    def of(cls, real: Transitions) -> _Space:
        matrix = _matrix(real)
        varies = np.ptp(matrix, axis=0) > 0
        matrix = matrix[:, varies]
        mean, deviation = (measure(axis=0, dtype=np.float64) for measure in (matrix.mean, matrix.std))
        space = cls(mean=mean, deviation=deviation, varies=varies, rows=matrix)
        return replace(space, rows=space.place(real))

    def place(self, transitions: Transitions) -> FloatArray:
        """Standardized rows (N, columns that vary)."""
        return ((_matrix(transitions)[:, self.varies] - self.mean) / self.deviation).astype(np.float32)


def nearest_rows(
    queries: FloatArray, rows: FloatArray, *, own: IndexArray | None = None, progress: Progress = silent
) -> Float64Array:
    """Euclidean distances of queries (N, D) to their nearest and second nearest of rows (M, D), (N, 2).

    A second nearest that does not exist is infinitely far. `own`, (N,), names the row that each
    query itself is and that does not count. Candidates are found by blocked float32 matrix products, their distances
    computed again from differences; so a copy is at distance 0 exactly.
    """
    extended = np.concatenate((rows, np.square(rows).sum(axis=1, keepdims=True)), axis=1)
    found = np.empty((len(queries), 2), np.float64)
    block = np.empty((_QUERIES, min(_NEIGHBORS, len(rows))), np.float32)
    for first in range(0, len(queries), _QUERIES):
        some = queries[first : first + _QUERIES]
        folded = np.concatenate((-2.0 * some, np.ones((len(some), 1), np.float32)), axis=1)
        each = np.arange(len(some))
        best, place = np.full((len(some), 2), np.inf, np.float32), np.zeros((len(some), 2), np.int64)
        for start in range(0, len(rows), _NEIGHBORS):
            part = extended[start : start + _NEIGHBORS]
            squares = np.matmul(folded, part.T, out=block[: len(some), : len(part)])  # |row|² − 2 row·query
            if own is not None:
                column = own[first : first + len(some)] - start
                inside = (column >= 0) & (column < len(part))
                squares[inside, column[inside]] = np.inf
            new_best, new_place = np.empty_like(best), np.empty_like(place)
            for rank in range(2):
                new_place[:, rank] = squares.argmin(axis=1)
                new_best[:, rank] = squares[each, new_place[:, rank]]
                squares[each, new_place[:, rank]] = np.inf
            both, places = np.hstack((best, new_best)), np.hstack((place, new_place + start))
            kept = np.argsort(both, axis=1, kind="stable")[:, :2]
            best, place = np.take_along_axis(both, kept, axis=1), np.take_along_axis(places, kept, axis=1)
        exact = np.linalg.norm(rows[place].astype(np.float64) - some[:, None], axis=2)
        exact[np.isinf(best)] = np.inf
        found[first : first + len(some)] = np.sort(exact, axis=1)
        progress("nearest rows", first + len(some), len(queries), "rows")
    return found


def memorized_share(distances: Float64Array) -> float:
    """Share of rows, in [0, 1], whose distances (N, 2) are those of a row learned by heart (module docstring)."""
    nearest, second = distances.T
    return float(np.mean((nearest == 0) | (nearest < MEMORIZED_RATIO * second)))


# --- noise ---


def with_noise(
    rows: Transitions, strength: float, kind: NoiseKind, normal: FloatArray, deviation: FloatArray
) -> Transitions:
    """Rows (N) with noise on s and s': `normal` (N, 2 O) standard normal, `deviation` (2 O,) of the columns of both."""
    states = np.concatenate((rows.observation, rows.next_observation), axis=1)
    states = states + strength * normal * (deviation if kind == "additive" else states)
    observation, next_observation = np.split(states.astype(np.float32), 2, axis=1)
    return replace(rows, observation=observation, next_observation=next_observation)


def matched_strength(distance_at: Callable[[float], float], distance: float) -> float:
    """The strength of noise, >= 0, at which the mean distance is `distance`, but for a thousandth of it.

    Distance grows in proportion to strength while a noisy row is still nearest to the row that it was made of, and more
    slowly after that; so each step is in proportion to what is missing. 0 where no noise changes the distance.
    """
    strength = 0.1
    for _ in range(50):
        reached = distance_at(strength) if distance > 0 else 0.0
        if reached == 0:
            return 0.0
        if abs(reached / distance - 1.0) <= 1e-3:
            break
        strength *= distance / reached
    return strength


def _noise_quality(
    definition: EnvironmentDefinition,
    space: _Space,
    source: Transitions,
    distance: float,
    kind: NoiseKind,
    rng: np.random.Generator,
    progress: Progress,
) -> NoiseQuality:
    states = np.concatenate((source.observation, source.next_observation), axis=1)
    deviation, normal = states.std(axis=0), rng.standard_normal(states.shape, np.float32)
    search, simulate = (_named(progress, f"noisy rows{what}") for what in ("' neighbors", " in the simulator"))

    def noisy(strength: float) -> Transitions:
        return with_noise(source, strength, kind, normal, deviation)

    def distance_at(strength: float) -> float:
        return float(nearest_rows(space.place(noisy(strength)), space.rows, progress=search)[:, 0].mean())

    strength = matched_strength(distance_at, distance)
    others = [strength * factor for factor in NOISE_STRENGTHS]
    distances = [distance_at(other) for other in others]
    errors = [simulator_errors(definition, noisy(other), progress=simulate) for other in others]
    matched = NOISE_STRENGTHS.index(1.0)
    return NoiseQuality(
        kind=kind,
        strength=strength,
        distance=distances[matched],
        observation_error=float(errors[matched].observation.mean()),
        reward_error=float(errors[matched].reward.mean()),
        curve=ErrorCurve(distance=tuple(distances), error=tuple(float(each.observation.mean()) for each in errors)),
    )


# --- the simulator ---


class SimulatorErrors(NamedTuple):
    """Of the N rows whose observation shows the state."""

    rows: IndexArray  # (N,) which these are
    observation: Float64Array  # (N,) mean over numbers of the squared error of s'
    reward: Float64Array  # (N,) squared error of r
    terminal: BoolArray  # (N,) whether the terminal is wrong


def simulator_errors(
    definition: EnvironmentDefinition, transitions: Transitions, *, progress: Progress = silent
) -> SimulatorErrors:
    """Put the simulator into each s, apply a, and compare what follows with s' and r.

    Rows whose observation hides the velocity are left out (`EnvironmentDefinition.shows_state`). Actions beyond the
    limits are clipped, as the environment does; zeros that D4RL's files add to observations are ignored. No terminal is
    wrong in a row that a limit cut. What MuJoCo cannot step it resets, which is an error like any other. ValueError if
    no row shows its state.
    """
    observation, following = (
        values[:, : definition.observation_dim].astype(np.float64)
        for values in (transitions.observation, transitions.next_observation)
    )
    rows = definition.shows_state(observation).nonzero()[0]
    if not len(rows):
        raise ValueError(
            f"no observation shows a state of {definition.environment_id}: every row has a velocity at the limit of "
            f"±{definition.velocity_limit:g}; measure without an environment"
        )
    errors, wrong = np.empty((2, len(rows))), np.empty(len(rows), np.bool_)
    with BatchedEnvironment(definition.environment_id, min(_SLOTS, len(rows))) as environment, without_warnings():
        for first in range(0, len(rows), _SLOTS):
            block = slice(first, first + _SLOTS)
            some = rows[block]
            environment.set_state(*definition.state_from_observation(observation[some]))
            result = environment.step(transitions.action[some], np.arange(len(some)))
            errors[0, block] = np.square(result.observation - following[some]).mean(axis=1)
            errors[1, block] = np.square(result.reward - transitions.reward[some])
            wrong[block] = (result.terminal != transitions.terminal[some]) & ~transitions.truncated[some]
            progress("simulator", first + len(some), len(rows), "rows")
    return SimulatorErrors(rows=rows, observation=errors[0], reward=errors[1], terminal=wrong)


def _dynamics_quality(
    definition: EnvironmentDefinition,
    made: SimulatorErrors,
    other: SimulatorErrors,
    distances: Float64Array,
    noise: NoiseQuality,
) -> DynamicsQuality:
    """Of the synthetic rows, which are at these distances (N,) from the real ones."""

    def measured(of: Callable[[SimulatorErrors], Any]) -> Measured:
        return Measured(value=float(of(made)), floor=float(of(other)))

    at = distances[made.rows]
    bins = np.array_split(np.argsort(at), min(_POINTS, len(at)))
    return DynamicsQuality(
        environment_id=definition.environment_id,
        row_count=len(made.rows),
        observation_error=measured(lambda errors: errors.observation.mean()),
        observation_error_median=measured(lambda errors: np.median(errors.observation)),
        reward_error=measured(lambda errors: errors.reward.mean()),
        terminal_mismatch=measured(lambda errors: errors.terminal.mean()),
        curve=ErrorCurve(
            distance=tuple(float(at[rows].mean()) for rows in bins),
            error=tuple(float(made.observation[rows].mean()) for rows in bins),
        ),
        noise=noise,
    )
