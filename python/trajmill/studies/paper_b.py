"""Studies of arXiv 2312.09844, "Small Dataset, Big Gains": TD3+BC on next states of which a world model predicts some.

Only the abstract and a summary of the paper could be read. They say: datasets of 10,000 transitions of MuJoCo tasks,
rates of 0 to 100 %, of which 50 % is best, critics that over-estimate less. Everything else is ours, and no number of
the paper is on record, so tables have ours alone. The paper's open questions are studies too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trajmill.algorithms import sac, td3, td3_bc, world_model
from trajmill.studies.records import Column, Model, Prediction, Study, Variant

SEEDS = (0, 1, 2, 3, 4)
ROWS = 10_000
DATASETS = tuple(f"{environment}-medium-replay-v2" for environment in ("hopper", "halfcheetah", "walker2d", "ant"))
"""the one level of quality that the summary names, of the tasks that it names"""
UPDATES = 100_000
"""of TD3+BC: its million would go over 10,000 rows 25,600 times"""
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = 100_000
"""of an environment: the interactions within which the paper finds what otherwise takes a million"""

MODEL = Model(name="world model", method=world_model.Config(), updates=20_000)
PLAIN = Variant(name="TD3+BC, 10K rows", method=td3_bc.Config(), updates=UPDATES, rows=ROWS)
NOTES = (
    "A dataset is whole trajectories of about 10,000 rows, drawn once for all seeds; a bundled one is taken as it is.",
    "Sizes, weights, rates of learning and numbers of updates are ours: the paper's could not be read.",
)


def augmented(rate: float, horizon: int = 1, **changes: Any) -> Variant:
    """TD3+BC with predicted next states in this share of each batch; rate 0 is TD3+BC."""
    if rate == 0.0:
        return replace(PLAIN, **changes)
    name = f"TD3+BC, {rate:.0%} predicted" + (f" {horizon} steps ahead" if horizon > 1 else "") + ", 10K rows"
    prediction = Prediction(model=MODEL, rate=rate, horizon=horizon)
    variant = replace(PLAIN, name=name, prediction=prediction)
    return replace(variant, **changes)


def _study(name: str, title: str, columns: tuple[Column, ...], *notes: str, **options: Any) -> Study:
    base: dict[str, Any] = {"datasets": DATASETS, "seeds": SEEDS, "per_dataset": True}
    return Study(name=f"b-{name}", title=title, columns=columns, notes=(*notes, *NOTES), **base | options)


def _studies() -> Iterator[Study]:
    rates = tuple(Column(label=f"{rate:.0%}", variant=augmented(rate)) for rate in RATES)
    yield _study("rates", "TD3+BC by the rate of predicted next states: scores", rates)
    yield _study(
        "values",
        "TD3+BC by the rate of predicted next states: value of the data",
        tuple(replace(rate, statistic="mean value of the data") for rate in rates),
        "The paper compares the values of the critics by rate: it expects over-estimation to be less with predictions.",
        quantities=("losses", "value distributions"),
        loss="data_value",
    )
    horizons = tuple(
        Column(label=f"{horizon} step{'s' * (horizon > 1)} ahead", variant=augmented(0.5, horizon))
        for horizon in range(1, 6)
    )
    yield _study("horizons", "TD3+BC, 50 % predicted one to five steps ahead", (rates[0], *horizons))
    sizes = tuple(
        Column(
            label=f"{rows:,} rows, {rate:.0%}",
            variant=augmented(rate, rows=rows, name=f"TD3+BC, {rate:.0%} predicted, {rows} rows"),
        )
        for rows in (2500, 5000, 20_000)
        for rate in (0.0, 0.5)
    )
    yield _study("sizes", "TD3+BC without and with 50 % predicted, by the size of the dataset", sizes)
    online = {
        "augmented pre-training": Variant(
            name="TD3 after TD3+BC, 50% predicted", method=td3.Config(), updates=STEPS, after=augmented(0.5)
        ),
        "plain pre-training": Variant(name="TD3 after TD3+BC", method=td3.Config(), updates=STEPS, after=PLAIN),
        "TD3": Variant(name="TD3 from scratch", method=td3.Config(), updates=STEPS),
        "SAC": Variant(name="SAC from scratch", method=sac.Config(), updates=STEPS),
    }
    yield _study(
        "online",
        "learning online after TD3+BC with and without predicted next states, and from scratch",
        tuple(Column(label=label, variant=variant) for label, variant in online.items()),
        "Agents from scratch act at random at first, TD3 for 25,000 steps and SAC for 5,000; those that were trained "
        "before act from the first step.",
    )


STUDIES = tuple(_studies())
