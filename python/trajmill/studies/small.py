"""The question of arXiv 2310.00771 at a size that converges on one core: docs/paper-a-study.md, written before it ran.

Networks, batches, lengths and step sizes are ours; everything else is as the paper states it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.models.gpt import GPTConfig
from trajmill.studies.records import Column, Pretraining, Study, Variant

DT_UPDATES, CQL_UPDATES = 3000, 10_000
TOKEN_UPDATES, DYNAMICS_UPDATES = 4000, 20_000
HIDDEN_SIZES = (64, 64)


def _dt(name: str, tokens: language_model.Config | None = None, *, needs_text: bool = False) -> Variant:
    """Decision Transformer, from scratch or on a backbone pre-trained on tokens."""
    start = None
    if tokens is not None:
        start = Pretraining(name=f"{name}, small", method=tokens, updates=TOKEN_UPDATES, needs_text=needs_text)
    method = decision_transformer.Config(
        batch_size=16,
        context_length=5,
        learning_rate=1e-3,
        warmup_updates=100,
        backbone=GPTConfig(layer_count=2, width=64, residual_dropout=0.2),
    )
    return Variant(name=f"{name}, small", method=method, updates=DT_UPDATES, start=start)


TOKENS = language_model.Config(
    batch_size=16,
    length=128,
    held_out_count=500,
    learning_rate=3e-3,
    warmup_updates=100,
    decay_updates=TOKEN_UPDATES,
    backbone=GPTConfig(layer_count=2, width=64),
)
"""a language model of the same backbone"""


def _cql(name: str, temperature: float | None = None) -> Variant:
    """CQL, from scratch or on critics pre-trained on transitions of an MDP with both temperatures."""
    start = None
    if temperature is not None:
        dynamics = forward_dynamics.Config(
            policy_temperature=temperature, transition_temperature=temperature, hidden_sizes=HIDDEN_SIZES
        )
        sized_by = ("observation_dim", "action_dim")
        start = Pretraining(name=f"{name}, small", method=dynamics, updates=DYNAMICS_UPDATES, sized_by=sized_by)
    method = cql.Config(batch_size=64, hidden_sizes=HIDDEN_SIZES)
    return Variant(name=f"{name}, small", method=method, updates=CQL_UPDATES, start=start)


DT = {
    "DT": _dt("DT"),
    "DT+Synthetic": _dt("DT+Synthetic", TOKENS),
    "DT+IID": _dt("DT+IID", replace(TOKENS, law="iid")),
    "DT+Text": _dt("DT+Text", replace(TOKENS, text=(Path("text"),), vocabulary_size=1024), needs_text=True),
}
CQL = {"CQL": _cql("CQL"), "CQL+MDP": _cql("CQL+MDP", 1.0), "CQL+IID": _cql("CQL+IID", math.inf)}


def _columns(arms: Mapping[str, Variant]) -> tuple[Column, ...]:
    """The primary measure of each arm, its difference from the first one, and what is secondary."""
    (scratch, baseline), *others = arms.items()
    return (
        *(Column(label=arm, variant=variant) for arm, variant in arms.items()),
        *(Column(label=f"{arm} - {scratch}", variant=variant, minus=baseline) for arm, variant in others),
        *(Column(label=f"{arm}, all", variant=variant, statistic="average of all") for arm, variant in arms.items()),
        *(
            Column(label=f"{arm} - {scratch}, all", variant=variant, minus=baseline, statistic="average of all")
            for arm, variant in others
        ),
        *(
            Column(label=f"{arm}, 1,000 updates to 90 %", variant=variant, statistic="updates to 90 %")
            for arm, variant in arms.items()
        ),
    )


STUDIES = tuple(
    Study(
        name=f"a-small-{method}",
        title=f"{', '.join(arms)} at a size that converges on one core",
        columns=_columns(arms),
        datasets=datasets,
        seeds=seeds,
        quantities=("scores", "losses"),
        loss=loss,
        log_loss=loss == "loss",
        per_dataset=True,
        notes=(
            "Average of the last four evaluations, the difference of its means from that from scratch, and the same "
            "for the average of all evaluations; last the thousands of updates to 90 % of the final score from "
            "scratch. Settings, measure and test were written down before the runs: docs/paper-a-study.md.",
            "halfcheetah-ars-medium.hdf5 is what `trajmill collect halfcheetah --kind medium --rows 50000 --out "
            "halfcheetah-ars-medium.hdf5` makes.",
        )[: len(datasets)],
    )
    for method, arms, datasets, seeds, loss in (
        ("dt", DT, ("hopper-ars-noisy-20k", "halfcheetah-ars-medium.hdf5"), tuple(range(10)), "loss"),
        ("cql", CQL, ("hopper-ars-noisy-20k",), tuple(range(20)), "q_loss"),
    )
)
