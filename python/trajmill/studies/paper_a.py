"""Tables and figures of arXiv 2310.00771, "Pre-training with Synthetic Data Helps Offline Reinforcement Learning".

Everything a study does not say is a default of the settings, which are the paper's. What the figures show by number,
and lines and shares of figures 10, 11, 16 and 17, follow the authors' repository
(github.com/Victor-wang-902/rl_pretrain, plot_utils).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.studies.records import Column, Pretraining, Statistic, Study, Variant, printed_columns

SEEDS = (*range(15), 42, 666, 1042, 2048, 4069)
"""the paper's twenty fine-tuning seeds"""
DATASETS = tuple(
    f"{environment}-{kind}-v2"
    for kind in ("medium-expert", "medium-replay", "medium")
    for environment in ("halfcheetah", "hopper", "walker2d", "ant")
)
"""the twelve, in the order of the paper's tables"""
DT_UPDATES, CQL_UPDATES = 100_000, 1_000_000
STATE_COUNTS = (10, 100, 1000, 10_000, 100_000)
TEMPERATURES = (0.01, 0.1, 1.0, 10.0, 100.0)
DT_PRETRAINING_UPDATES = {"1K": 1000, "10K": 10_000, "20K": 20_000, "40K": 40_000, "60K": 60_000, "80K": 80_000}
CQL_PRETRAINING_UPDATES = {
    "1K": 1000,
    "10K": 10_000,
    "40K": 40_000,
    "100K": 100_000,
    "500K": 500_000,
    "1M": 1_000_000,
}
RATIOS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


# --- variants ---


def _dt(name: str = "", updates: int = 20_000, *, needs_text: bool = False, **settings: Any) -> Variant:
    """Decision Transformer, from scratch without a name, else pre-trained with these settings."""
    if not name:
        method = decision_transformer.Config()
        return Variant(name="DT", method=method, updates=DT_UPDATES, subset="trajectories")
    pretrained = language_model.Config(**settings)
    return Variant(
        name=name,
        method=decision_transformer.Config(extend_positions=True, shared_projection=True),
        updates=DT_UPDATES,
        start=Pretraining(name=name, method=pretrained, updates=updates, needs_text=needs_text),
        subset="trajectories",
    )


def _cql(name: str = "", updates: int = 100_000, **settings: Any) -> Variant:
    """CQL, from scratch without a name, else pre-trained with these settings."""
    start = None
    if name:
        method = forward_dynamics.Config(**settings)
        sized_by = ("observation_dim", "action_dim")
        start = Pretraining(name=name, method=method, updates=updates, sized_by=sized_by)
    return Variant(name=name or "CQL", method=cql.Config(), updates=CQL_UPDATES, start=start)


DT, CQL = _dt(), _cql()
SYNTHETIC, MDP = _dt("DT+Synthetic"), _cql("CQL+MDP")
WIKI = _dt("DT+Wiki", 80_000, needs_text=True)
DT_IID = _dt("DT+IID", law="iid")
DT_IDENTITY = _dt("DT+Identity", law="iid", target="identity")
DT_MAPPING = _dt("DT+Mapping", law="iid", target="mapping")
CQL_IID = _cql("CQL+IID", policy_temperature=math.inf, transition_temperature=math.inf)
CQL_IDENTITY, CQL_MAPPING = _cql("CQL+Identity", target="identity"), _cql("CQL+Mapping", target="mapping")


def _longer(variant: Variant, more: int) -> Variant:
    """The same with more fine-tuning updates."""
    return replace(variant, name=f"{variant.name}, {more // 1000:+d}K updates", updates=variant.updates + more)


def _columns(table: str, variants: dict[str, Variant], **changes: Any) -> tuple[Column, ...]:
    """One column a variant, printed in `table` under its label; or under the key after `` = `` in it."""
    columns = []
    for name, variant in variants.items():
        label, _, key = name.partition(" = ")
        columns.append(Column(label=label, variant=variant, printed=key or f"{table}/{label}"))
    return tuple(replace(column, **changes) for column in columns)


def _state_counts(table: str, *, dt: bool, default: str) -> dict[str, Variant]:
    return {
        f"S={count:,}" + (f" = {default}" if count == 100 else ""): (
            (SYNTHETIC if dt else MDP)
            if count == 100
            else _dt(f"DT+Synthetic, S={count:,}", state_count=count)
            if dt
            else _cql(f"CQL+MDP, S={count:,}", state_count=count, action_count=count)
        )
        for count in STATE_COUNTS
    }


def _temperatures(*, dt: bool, default: str) -> dict[str, Variant]:
    def one(temperature: float) -> Variant:
        if temperature == 1.0:
            return SYNTHETIC if dt else MDP
        if dt:
            return _dt(f"DT+Synthetic, τ={temperature:g}", temperature=temperature)
        return _cql(f"CQL+MDP, τ={temperature:g}", policy_temperature=temperature, transition_temperature=temperature)

    named = {f"τ={t:g}" + (f" = {default}" if t == 1.0 else ""): one(t) for t in TEMPERATURES}
    return named | {"IID": DT_IID if dt else CQL_IID}


def _pretraining_updates(*, dt: bool, default: str) -> dict[str, Variant]:
    counts, usual = (DT_PRETRAINING_UPDATES, "20K") if dt else (CQL_PRETRAINING_UPDATES, "100K")

    def one(label: str, updates: int) -> Variant:
        if label == usual:
            return SYNTHETIC if dt else MDP
        make, base = (_dt, "DT+Synthetic") if dt else (_cql, "CQL+MDP")
        return make(f"{base}, {label} pre-training updates", updates)

    return {name + (f" = {default}" if name == usual else ""): one(name, count) for name, count in counts.items()}


# --- studies ---

PRINTED = printed_columns("paper_a.json")
MARGIN_NOTE = (
    "Evaluated in Gymnasium's -v4 environments with repaired contact margins; the paper used Gym's -v2 and mujoco-py."
)
SUBSET_NOTES = {
    "dt": "Shares are of whole trajectories, drawn once for all seeds, as in the authors' code, but other ones.",
    "cql": "Shares are of single transitions, as in the authors' code, but drawn once and not anew for each seed.",
}
POSITIONS_NOTE = (
    "Pre-trained variants take position embeddings as the table of timesteps and predict with the transposed action "
    "embedding, DT does neither: so say the settings kept with the authors' runs of DT, DT+Synthetic and DT+IID "
    "(github.com/Victor-wang-902/rl_pretrain, code/checkpoints)."
)


def _study(
    name: str, title: str, columns: tuple[Column, ...], *notes: str, statistic: Statistic | None = None, **more: Any
) -> Study:
    if statistic is not None:
        columns = tuple(replace(column, statistic=statistic) for column in columns)
    return Study(
        name=name,
        title=title,
        columns=columns,
        datasets=DATASETS,
        seeds=SEEDS,
        printed=PRINTED,
        notes=(*notes, MARGIN_NOTE),
        **more,
    )


SIMILARITIES: dict[str, dict[str, Statistic]] = {
    "weights": {"RI": "weight cosine with random start", "PT": "weight cosine with pre-trained start"},
    "features": {"RI": "feature cosine with random start", "PT": "feature cosine with pre-trained start"},
}


def _grouped(group: str, columns: Sequence[Column]) -> tuple[Column, ...]:
    return tuple(replace(column, group=group) for column in columns)


def _tables() -> Iterator[Study]:
    synthetic, mdp = "table-1/DT+Synthetic", "table-6/S=100"
    main = _columns("table-1", {"DT": DT, "DT+Wiki": WIKI, "DT+Synthetic": SYNTHETIC})
    orders = _columns(
        "table-2",
        {f"1-MC = {synthetic}": SYNTHETIC} | {f"{n}-MC": _dt(f"DT+Synthetic, order {n}", order=n) for n in (2, 5)},
    )
    dt_states = _columns("table-3", _state_counts("table-3", dt=True, default=synthetic))
    dt_temperatures = _columns("table-4", _temperatures(dt=True, default=synthetic))
    dt_updates = _columns("table-5", _pretraining_updates(dt=True, default=synthetic))
    cql_states = _columns("table-6", {"CQL": CQL} | _state_counts("table-6", dt=False, default=mdp))
    cql_temperatures = _columns("table-7", _temperatures(dt=False, default=mdp))
    cql_updates = _columns("table-8", _pretraining_updates(dt=False, default=mdp))
    dt_tables = {
        1: ("Decision Transformer from scratch, pre-trained on text, on a Markov chain", main),
        2: ("DT+Synthetic by the order of the chain", orders),
        3: ("DT+Synthetic by the number of states", dt_states),
        4: ("DT+Synthetic by temperature", dt_temperatures),
        5: ("DT+Synthetic by pre-training updates", dt_updates),
    }
    cql_tables = {
        6: ("CQL from scratch and pre-trained on random MDPs, by the number of states", cql_states),
        7: ("CQL+MDP by temperature", cql_temperatures),
        8: ("CQL+MDP by pre-training updates", cql_updates),
    }
    for number, (title, columns) in dt_tables.items():
        yield _study(f"a-table-{number}", f"{title}: average of the last four evaluations", columns, POSITIONS_NOTE)
    for number, (title, columns) in cql_tables.items():
        yield _study(f"a-table-{number}", f"{title}: average of the last four evaluations", columns)

    # --- best scores: the same runs, measured otherwise ---
    for shift, tables in ((17, dt_tables), (17, cql_tables)):
        for number, (title, columns) in tables.items():
            table = f"table-{number + shift}"
            again = tuple(replace(c, printed=_best_key(table, c), statistic="best") for c in columns)
            note = "The paper's means per data set are not on record here, its averages are."
            yield _study(f"a-table-{number + shift}", f"{title}: best score of each seed", again, note)

    # --- speed ---
    never = "A seed that never gets there leaves the cell without a number."
    yield _study(
        "a-table-11",
        "Thousands of fine-tuning updates to 90 % of DT's final score",
        tuple(replace(c, printed=f"table-11/{c.label}") for c in main),
        never,
        statistic="updates to 90 %",
    )
    yield _study(
        "a-table-13",
        "Thousands of fine-tuning updates to 90 % of CQL's final score",
        _columns("table-13", {"CQL": CQL, "CQL+MDP": MDP, "CQL+IID": CQL_IID}),
        never,
        "The authors' script counts evaluations from 0, so the same curve is 5 less there, and a seed that never gets "
        "there is 0.",
        statistic="updates to 90 %",
    )
    hardware = (
        "Theirs on a Quadro RTX 8000, one seed at a time; ours is wall time over seeds, on the machine named below."
    )
    for name, title, columns in (
        (
            "a-table-12",
            "Hours of fine-tuning DT",
            tuple(replace(c, printed=f"table-12/{c.label}", statistic="fine-tuning hours") for c in main),
        ),
        (
            "a-table-14",
            "Time of CQL+MDP: minutes of pre-training, hours of fine-tuning",
            (
                Column(
                    label="pre-training, min",
                    variant=MDP,
                    printed="table-14/pre-training",
                    statistic="pre-training minutes",
                ),
                Column(
                    label="fine-tuning, h", variant=MDP, printed="table-14/fine-tuning", statistic="fine-tuning hours"
                ),
            ),
        ),
    ):
        yield replace(_study(name, title, columns, hardware), datasets=DATASETS[:4])

    # --- equal updates and controls ---
    other_runs = "The paper's baseline here is another set of runs than in Tables 1 and 6, seemingly of fewer seeds."
    more_dt = {"DT": DT, "DT+20K": _longer(DT, 20_000), "DT+80K": _longer(DT, 80_000)}
    yield _study(
        "a-table-26", "DT with as many updates more as pre-training makes", _columns("table-26", more_dt), other_runs
    )
    yield _study(
        "a-table-27",
        "DT pre-trained to repeat tokens or to map them one to one",
        (
            *main,
            *_columns(
                "table-27",
                {
                    "Identity": DT_IDENTITY,
                    "Mapping": DT_MAPPING,
                },
            ),
        ),
        "The vocabulary of the paper's controls is not on record; ours is 100 tokens drawn uniformly.",
    )
    yield _study(
        "a-table-28",
        "CQL with as many updates more as pre-training makes",
        _columns("table-28", {"CQL": CQL, "CQL+100K": _longer(CQL, 100_000), "CQL+MDP": MDP, "CQL+IID": CQL_IID}),
        other_runs,
    )
    yield _study(
        "a-table-29",
        "CQL pre-trained to repeat state and action or to map them one to one",
        (
            *_columns("table-28", {"CQL": CQL, "CQL+MDP": MDP}),
            *_columns(
                "table-29",
                {
                    "Identity": CQL_IDENTITY,
                    "Mapping": CQL_MAPPING,
                },
            ),
        ),
        other_runs,
    )

    # --- figures ---
    cql_main = _columns(
        "table-28", {"CQL = table-6/CQL": CQL, "CQL+MDP = table-6/S=100": MDP, "CQL+IID = table-7/IID": CQL_IID}
    )
    first = "Losses leave out the first update, which has a line of metrics of its own."
    later = "As in the paper, the curve of {} is moved right by its pre-training updates."
    both: dict[str, Any] = {"quantities": ("scores", "losses")}
    losses: dict[str, Any] = {"quantities": ("losses",)}
    each: dict[str, Any] = {"per_dataset": True}
    of_dt: dict[str, Any] = {"log_loss": True}
    of_cql: dict[str, Any] = {"loss": "q_loss"}
    dt_shifted = (*main[:2], replace(main[2], shifted=True))
    cql_shifted = (cql_main[0], *(replace(column, shifted=True) for column in cql_main[1:]))
    dt_later, cql_later = later.format("DT+Synthetic"), later.format("CQL+MDP and of CQL+IID")
    dt, ours = "DT, DT+Wiki, DT+Synthetic", "CQL, CQL+MDP, CQL+IID"
    combined = "Bellman and conservative loss together"
    yield _study("a-curves-dt", f"Learning curves of {dt}", main)
    yield _study("a-curves-cql", f"Learning curves of {ours}", cql_main)
    yield _study("a-losses-dt", f"Training loss of {dt}", main, first, **losses, **of_dt)
    yield _study("a-losses-cql", f"Training loss of {ours}: {combined}", cql_main, first, **losses, **of_cql)
    title = f"Scores and losses of {dt}"
    yield _study("a-figure-1", f"{title}, averaged over the datasets", dt_shifted, dt_later, first, **both, **of_dt)
    yield _study("a-figure-3", f"Scores of {dt} on each dataset", dt_shifted, dt_later, **each)
    yield _study(
        "a-figure-4", f"Losses of {dt} on each dataset", dt_shifted, dt_later, first, **each, **losses, **of_dt
    )
    title = f"Scores and losses ({combined}) of {ours}"
    yield _study("a-figure-2", f"{title}, averaged over the datasets", cql_shifted, cql_later, first, **both, **of_cql)
    yield _study("a-figure-5", f"Scores of {ours} on each dataset", cql_shifted, cql_later, **each)
    yield _study(
        "a-figure-6", f"{combined} of {ours} on each dataset", cql_shifted, cql_later, first, **each, **losses, **of_cql
    )
    shifted = "Curves of pre-trained variants are moved right by their pre-training updates."
    equal_dt = (
        *_columns("table-26", {"DT+80K": _longer(DT, 80_000)}),
        *_shifted(
            Column(label="DT+Wiki", variant=WIKI), Column(label="DT+Synthetic", variant=_longer(SYNTHETIC, 60_000))
        ),
    )
    equal_cql = (
        *_columns("table-28", {"CQL+100K": _longer(CQL, 100_000)}),
        *_shifted(*cql_main[1:]),
    )
    totals = "DT is fine-tuned for 180,000 updates, DT+Wiki for 100,000 and DT+Synthetic for 160,000: equal totals."
    for number, of, columns, note, more in (
        (8, dt, equal_dt, totals, of_dt),
        (13, ours, equal_cql, "CQL is fine-tuned for 1,100,000 updates, the others for 1,000,000.", of_cql),
    ):
        title = f"Scores and losses of {of} at equal updates in all, averaged over the datasets"
        yield _study(f"a-figure-{number}", title, columns, shifted, note, first, **both, **more)
        title = f"Scores of {of} at equal updates in all, on each dataset"
        yield _study(f"a-figure-{number + 1}", title, columns, shifted, note, **each)
    yield _study(
        "a-equal-updates-dt",
        "DT at equal updates in all, pre-training counted",
        (*_columns("table-26", {"DT": DT, "DT+80K": _longer(DT, 80_000)}), *_shifted(*main[1:])),
        shifted,
    )
    yield _study("a-equal-updates-cql", "CQL at equal updates in all, pre-training counted", equal_cql, shifted)
    yield Study(
        name="a-figure-7",
        title="Next-state probabilities of one state, in ascending order, by temperature",
        columns=tuple(Column(label=f"τ = {t:g}", variant=None, temperature=t) for t in (0.001, 0.01, 0.1, 1.0, 10.0)),
        datasets=(),
        figure="transition rows",
        notes=("Exact rows of the chain of 100 states, seed 42, state 0; nothing is trained.",),
    )
    controls = (DT, WIKI, SYNTHETIC, DT_IID, DT_IDENTITY, DT_MAPPING)
    similarities = {
        name: tuple(
            Column(label=f"{variant.name}, {short}", variant=variant, statistic=statistic)
            for variant in controls
            for short, statistic in statistics.items()
        )
        for name, statistics in SIMILARITIES.items()
    }
    flattened = "Each backbone is one vector; how the paper flattens is not on record."
    averaged = (
        "Features are what enters the action head, one vector a window, mean over 64 windows spread over the data, "
        "nothing dropped; how the paper averages is not on record."
    )
    same = "RI: compared with the random start, PT: with the pre-trained one; from scratch both are the same."
    theirs = {
        "weights": "The paper's orderings of weights: RI lower for every pre-trained variant than for DT; PT higher, "
        "Synthetic least similar of them and Wiki most.",
        "features": "The paper's features: RI about a thousand times smaller for pre-trained variants than for DT; PT "
        "about 0.33 for Wiki, higher for synthetic variants.",
    }
    for name, note in (("weights", flattened), ("features", averaged)):
        title = f"Cosine of DT's fine-tuned {name} with those of its random (RI) and its pre-trained (PT) start"
        yield _study(f"a-{name}-dt", title, similarities[name], note, same, theirs[name], figure="bars")
    yield _study(
        "a-figure-12",
        "Cosines of DT's fine-tuned weights and features with those of its random (RI) and its pre-trained (PT) start",
        _grouped("weights", similarities["weights"]) + _grouped("features", similarities["features"]),
        flattened,
        averaged,
        same,
        *theirs.values(),
        figure="bars",
    )
    ablations = "Read a panel at any number of fine-tuning updates."
    yield _study(
        "a-figure-10",
        "Ablations of DT+Synthetic at different numbers of fine-tuning updates",
        _grouped("order", main[:2] + orders)
        + _grouped("states", main[:2] + dt_states)
        + _grouped("temperature", main[:2] + dt_temperatures)
        + _grouped("pre-training updates", main[:2] + dt_updates),
        ablations,
        "The panel of pre-training updates is ours.",
    )
    yield _study(
        "a-figure-16",
        "Ablations of CQL+MDP at different numbers of fine-tuning updates",
        _grouped("states", cql_states)
        + _grouped("temperature", cql_states[:1] + cql_temperatures)
        + _grouped("pre-training updates", cql_states[:1] + cql_updates),
        ablations,
    )
    shared = {"order": main[:2] + orders, "states": main[:2] + dt_states, "temperature": main[:2] + dt_temperatures}
    yield _study(
        "a-figure-11",
        "Ablations of DT+Synthetic on a share of the data",
        _shares({group: [c for c in columns if c.label in DT_SHARES] for group, columns in shared.items()}),
        SUBSET_NOTES["dt"],
        figure="data ratios",
    )
    shared = {
        "states": cql_states,
        "temperature": cql_states[:1] + cql_temperatures,
        "pre-training updates": cql_states[:1] + cql_updates,
    }
    yield _study(
        "a-figure-17",
        "Ablations of CQL+MDP on a share of the data",
        _shares({group: [c for c in columns if c.label in CQL_SHARES] for group, columns in shared.items()}),
        SUBSET_NOTES["cql"],
        figure="data ratios",
    )
    shorter = {variant.name: _longer(variant, -100_000) for variant in (MDP, CQL_IDENTITY, CQL_MAPPING)}
    columns = tuple(Column(label=label, variant=variant) for label, variant in shorter.items())
    yield _study(
        "a-figure-15",
        "CQL and its pre-trained variants at a million updates in all",
        (Column(label="CQL", variant=CQL), *_shifted(*columns)),
        shifted,
    )


DT_SHARES = (
    "DT",
    "DT+Wiki",
    "1-MC",
    "2-MC",
    "5-MC",
    "S=10",
    "S=100",
    "S=1,000",
    "S=10,000",
    "τ=0.1",
    "τ=1",
    "τ=10",
    "IID",
)
CQL_SHARES = (
    "CQL",
    "S=10",
    "S=100",
    "S=1,000",
    "S=10,000",
    "τ=0.1",
    "τ=1",
    "τ=10",
    "IID",
    "10K",
    "40K",
    "100K",
    "500K",
)
"""lines of the authors' figures over shares of the data"""


def _shares(panels: dict[str, list[Column]]) -> tuple[Column, ...]:
    """Every line of every panel at every share of the data."""

    def part(variant: Variant, ratio: float) -> Variant:
        return (
            variant if ratio == 1.0 else replace(variant, name=f"{variant.name}, {ratio:.0%} of the data", ratio=ratio)
        )

    return tuple(
        Column(
            label=f"{column.label}, {ratio:.0%}", variant=part(column.variant, ratio), group=group, line=column.label
        )
        for group, columns in panels.items()
        for column in columns
        if column.variant is not None
        for ratio in RATIOS
    )


def _shifted(*columns: Column) -> tuple[Column, ...]:
    """The same, moved right by the updates of pre-training."""
    return tuple(replace(column, shifted=True) for column in columns)


def _best_key(table: str, column: Column) -> str:
    """The same label in the table of best scores; for the default variant of tables 2 to 8, that of table 18 or 23."""
    if table == "table-19" and column.label == "1-MC":
        return "table-18/DT+Synthetic"
    return f"{table}/{column.label}"


STUDIES = tuple(_tables())
