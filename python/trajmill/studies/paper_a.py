"""Tables and figures of arXiv 2310.00771, "Pre-training with Synthetic Data Helps Offline Reinforcement Learning".

What a study does not say is a default of the settings, and these defaults are the paper's. The lines and shares of
figures 10, 11, 16 and 17 follow the authors' repository (github.com/Victor-wang-902/rl_pretrain, plot_utils). Variants
are written down as the paper states them; `_released` makes of each what the authors' code has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from trajmill.algorithms import cql, decision_transformer, forward_dynamics, language_model
from trajmill.data.subsets import SubsetKind
from trajmill.studies.forms import with_released
from trajmill.studies.records import Column, Drawing, Pretraining, Quantity, Statistic, Study, Variant, printed_columns

SEEDS = (*range(15), 42, 666, 1042, 2048, 4069)
"""the paper's twenty fine-tuning seeds (Table 16)"""
RELEASED_DT_SEEDS = (
    *(42, 666, 1024, 6049, 6331),
    *(684, 2901, 3406, 3785, 4493, 4598, 5575, 5599, 6183, 7127, 7282, 7929, 8958, 9051, 9329),
)
"""those of the authors' Decision Transformers; where they made five runs, these are of the first five"""
RELEASED_CQL_SEEDS = tuple(1024 if seed == 1042 else seed for seed in SEEDS)
"""those of the grids of the authors' CQL"""
DATASETS = tuple(
    f"{environment}-{kind}-v2"
    for kind in ("medium-expert", "medium-replay", "medium")
    for environment in ("halfcheetah", "hopper", "walker2d", "ant")
)
"""the twelve, in the order of the paper's tables"""
STATE_COUNTS = (10, 100, 1000, 10_000, 100_000)
TEMPERATURES = (0.01, 0.1, 1.0, 10.0, 100.0)
DT_UPDATES = {"1K": 1000, "10K": 10_000, "20K": 20_000, "40K": 40_000, "60K": 60_000, "80K": 80_000}
CQL_UPDATES = {"1K": 1000, "10K": 10_000, "40K": 40_000, "100K": 100_000, "500K": 500_000, "1M": 1_000_000}
"""numbers of pre-training updates"""
RATIOS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)

Columns = tuple[Column, ...]


# --- variants ---

Tokens, Dynamics = language_model.Config, forward_dynamics.Config
DT = Variant(name="DT", method=decision_transformer.Config(), updates=100_000, subset="trajectories")
CQL = Variant(name="CQL", method=cql.Config(), updates=1_000_000)


def _dt(name: str, tokens: language_model.Config, updates: int = 20_000, *, needs_text: bool = False) -> Variant:
    """Decision Transformer, pre-trained on tokens."""
    method = decision_transformer.Config(extend_positions=True, shared_projection=True)
    start = Pretraining(name=name, method=tokens, updates=updates, needs_text=needs_text)
    return replace(DT, name=name, method=method, start=start)


def _cql(name: str, dynamics: forward_dynamics.Config, updates: int = 100_000) -> Variant:
    """CQL, its critics pre-trained on synthetic transitions."""
    sized_by = ("observation_dim", "action_dim")
    return replace(CQL, name=name, start=Pretraining(name=name, method=dynamics, updates=updates, sized_by=sized_by))


def _longer(variant: Variant, more: int) -> Variant:
    """The same with more fine-tuning updates."""
    return replace(variant, name=f"{variant.name}, {more // 1000:+d}K updates", updates=variant.updates + more)


WIKI = _dt("DT+Wiki", Tokens(text=(Path("wiki.train.raw"),)), 80_000, needs_text=True)
SYNTHETIC = _dt("DT+Synthetic", Tokens())
DT_IID = _dt("DT+IID", Tokens(law="iid"))
DT_IDENTITY = _dt("DT+Identity", Tokens(law="iid", target="identity"))
DT_MAPPING = _dt("DT+Mapping", Tokens(law="iid", target="mapping"))
MDP = _cql("CQL+MDP", Dynamics())
CQL_IID = _cql("CQL+IID", Dynamics(policy_temperature=math.inf, transition_temperature=math.inf))
CQL_IDENTITY = _cql("CQL+Identity", Dynamics(target="identity"))
CQL_MAPPING = _cql("CQL+Mapping", Dynamics(target="mapping"))


def _released(variant: Variant) -> Variant:
    """The variant as the authors' code has it."""
    if variant.ratio < 1.0:
        variant = replace(variant, subset=RELEASED_SUBSETS[variant.subset])
    method, start = variant.method, variant.start
    if isinstance(method, cql.Config):
        start = start and replace(start, method=_released_dynamics(start.method))
        return replace(variant, method=replace(method, safe_q_bound="released"), start=start)
    method = replace(method, strict_budget=True)
    if start is None:
        return replace(variant, method=method)
    method = replace(method, adam_epsilon=1e-6, positions_twice=True)
    if start.needs_text:
        method = replace(method, cluster_weight=0.1, cluster_term="released")
    seed_count = None if start.method.target == "next" else 5
    start = replace(start, method=_released_tokens(start.method))
    return replace(variant, method=method, start=start, seed_count=seed_count)


RELEASED_SUBSETS: Mapping[SubsetKind, SubsetKind] = {
    "trajectories": "released-trajectories",
    "transitions": "released-transitions",
}


def _released_tokens(tokens: language_model.Config) -> language_model.Config:
    """Two processes, and the authors' own tokens where these are on record."""
    if tokens.text:
        tokens = replace(tokens, text_lines="released")
    elif tokens.target == "next":
        tokens = replace(tokens, stream="reference")
    else:
        tokens = replace(tokens, state_count=3500)
    return replace(tokens, schedule_stride=2)


def _released_dynamics(dynamics: forward_dynamics.Config) -> forward_dynamics.Config:
    """The authors' own transitions where these are on record."""
    known = dynamics.target == "next_state" and dynamics.temperatures != (math.inf, math.inf)
    return replace(dynamics, stream="reference") if known else dynamics


COMPARED: Mapping[int, Mapping[str, Variant]] = {
    1: {"DT": DT, "DT+Wiki": WIKI, "DT+Synthetic": SYNTHETIC},
    2: {"1-MC": SYNTHETIC} | {f"{n}-MC": _dt(f"DT+Synthetic, order {n}", Tokens(order=n)) for n in (2, 5)},
    3: {f"S={n:,}": _dt(f"DT+Synthetic, S={n:,}", Tokens(state_count=n)) for n in STATE_COUNTS} | {"S=100": SYNTHETIC},
    4: {f"τ={t:g}": _dt(f"DT+Synthetic, τ={t:g}", Tokens(temperature=t)) for t in TEMPERATURES}
    | {"τ=1": SYNTHETIC, "IID": DT_IID},
    5: {k: _dt(f"DT+Synthetic, {k} pre-training updates", Tokens(), count) for k, count in DT_UPDATES.items()}
    | {"20K": SYNTHETIC},
    6: {"CQL": CQL}
    | {f"S={n:,}": _cql(f"CQL+MDP, S={n:,}", Dynamics(state_count=n, action_count=n)) for n in STATE_COUNTS}
    | {"S=100": MDP},
    7: {
        f"τ={t:g}": _cql(f"CQL+MDP, τ={t:g}", Dynamics(policy_temperature=t, transition_temperature=t))
        for t in TEMPERATURES
    }
    | {"τ=1": MDP, "IID": CQL_IID},
    8: {k: _cql(f"CQL+MDP, {k} pre-training updates", Dynamics(), count) for k, count in CQL_UPDATES.items()}
    | {"100K": MDP},
}
"""columns of the tables of average scores, by number; 17 tables later are their best scores"""
TITLES = {
    1: "Decision Transformer from scratch, pre-trained on text, and pre-trained on a Markov chain",
    2: "DT+Synthetic by the order of the chain",
    3: "DT+Synthetic by the number of states",
    4: "DT+Synthetic by temperature",
    5: "DT+Synthetic by pre-training updates",
    6: "CQL from scratch and pre-trained on random MDPs, by the number of states",
    7: "CQL+MDP by temperature",
    8: "CQL+MDP by pre-training updates",
}


# --- studies ---

PRINTED = printed_columns("paper_a.json")
RUNS = "paper_a_runs.npz"
MARGINS = (
    "Evaluated in Gymnasium's -v4 environments with repaired contact margins; the paper used Gym's -v2 and mujoco-py."
)
POSITIONS = (
    "Pre-trained variants use their position embeddings as the table of timesteps and predict with the transposed "
    "action embedding; DT does neither. The settings kept with the authors' runs of DT, DT+Synthetic and DT+IID say so "
    "(github.com/Victor-wang-902/rl_pretrain, code/checkpoints)."
)
OTHER_RUNS = "The paper's baseline here comes from other runs than in Tables 1 and 6, apparently with fewer seeds."
HARDWARE = (
    "The paper's times are of a Quadro RTX 8000, one seed at a time; ours are wall time divided by the number of "
    "seeds, on the machine named below."
)
SHIFTED = "Curves of pre-trained variants are moved right by their pre-training updates."
FIRST_UPDATE = "The first update is logged on its own: the open circle in curves of losses."
CONTROLS = (
    "Pre-trained on 100 tokens drawn uniformly, and fine-tuned with all seeds. The paper names no number of tokens, "
    "only 'a similar vocabulary size as in He et al. (2023)'; the authors' runs have 3,500 and five seeds."
)
SEEDS_OF = {
    True: "The seeds are those of the authors' Decision Transformers; the paper names only CQL's (Table 16).",
    False: "The seeds are those of the authors' grids, which have 1024 where Table 16 has 1042.",
}
"""what the released form says of them, for DT and for CQL"""
SHARES = {
    kind: f"A share is made of {things}, drawn once for all seeds, as in the authors' code; the draw differs."
    for kind, things in (("trajectories", "whole trajectories"), ("transitions", "single transitions"))
}
WEIGHTS = "Each backbone is compared as one vector; the paper does not say how it flattens them."
FEATURES = (
    "Features are what enters the action head. A window is one vector, and the cosine is the mean over 64 "
    "windows spread over the data, without dropout; the paper does not say how it averages."
)
IN_RELEASED = {
    CONTROLS: (
        "Pre-trained on 3,500 tokens, and fine-tuned with the first five seeds, as in the authors' runs. Their program "
        "that made these tokens is not on record; ours are drawn uniformly."
    ),
    SHARES["trajectories"]: "A share is made of whole trajectories, drawn once for all seeds, by the authors' draw.",
    SHARES["transitions"]: "A share is made of single transitions, drawn once for all seeds, by the authors' draw.",
    WEIGHTS: "Each backbone is compared as one vector of its weights, without biases.",
    FEATURES: (
        "Features are what enters the action head. A step is one vector, and one of padding has the cosine 0; the mean "
        "is over windows that follow each other in a tenth of the episodes, without dropout. It cannot be had where "
        "these are less than a batch."
    ),
}
"""what the released form says in place of notes of the stated one"""
LOSSES = {
    "loss": (FIRST_UPDATE,),
    "q_loss": (FIRST_UPDATE, "CQL's loss is the Bellman and the conservative loss together."),
}


def _study(
    name: str,
    title: str,
    columns: Columns,
    *notes: str,
    datasets: tuple[str, ...] = DATASETS,
    figure: Drawing = "curves",
    quantities: tuple[Quantity, ...] = ("scores",),
    per_dataset: bool = False,
) -> Study:
    """A study with the paper's twenty seeds, of variants of DT or of CQL."""
    of_dt = isinstance(columns[0].trained.method, decision_transformer.Config)
    loss = "loss" if of_dt else "q_loss"
    about_losses = LOSSES[loss] if "losses" in quantities else ()
    stated = Study(
        name=f"a-{name}",
        title=title,
        columns=columns,
        datasets=datasets,
        seeds=SEEDS,
        figure=figure,
        quantities=quantities,
        per_dataset=per_dataset,
        loss=loss,
        log_loss=of_dt,
        printed=PRINTED,
        authors=RUNS if of_dt else "",
        notes=(*notes, *about_losses, MARGINS),
    )
    of_theirs = (*(IN_RELEASED.get(note, note) for note in stated.notes), SEEDS_OF[of_dt])
    seeds = RELEASED_DT_SEEDS if of_dt else RELEASED_CQL_SEEDS
    return with_released(stated, _released, cosines="released", seeds=seeds, notes=of_theirs)


def _columns(variants: Mapping[str, Variant], table: str = "", statistic: Statistic = "average last four") -> Columns:
    """One column for each variant, with the numbers that a table of the paper prints under its label."""
    return tuple(
        Column(label=label, variant=variant, printed=f"{table}/{label}" if table else "", statistic=statistic)
        for label, variant in variants.items()
    )


def _panels(panels: Mapping[str, Columns]) -> Columns:
    """Columns of a figure with several panels."""
    return tuple(replace(column, group=group) for group, columns in panels.items() for column in columns)


def _shifted(columns: Columns) -> Columns:
    """The same, moved right by the updates of pre-training."""
    return tuple(replace(column, shifted=True) for column in columns)


AVERAGES = {number: _columns(variants, f"table-{number}") for number, variants in COMPARED.items()}
DT_MAIN = AVERAGES[1]
CQL_MAIN = (
    Column(label="CQL", variant=CQL, printed="table-6/CQL"),
    Column(label="CQL+MDP", variant=MDP, printed="table-6/S=100"),
    Column(label="CQL+IID", variant=CQL_IID, printed="table-7/IID"),
)
DT_LONGER = _columns({"DT": DT, "DT+20K": _longer(DT, 20_000), "DT+80K": _longer(DT, 80_000)}, "table-26")
CQL_LONGER = _columns({"CQL": CQL, "CQL+100K": _longer(CQL, 100_000), "CQL+MDP": MDP, "CQL+IID": CQL_IID}, "table-28")


def _score_tables(after: int, statistic: Statistic, what: str) -> Iterator[Study]:
    """Tables of scores, as many numbers `after` the first ones; like the paper's, each begins with the baseline."""
    for number, variants in COMPARED.items():
        baseline, notes = (DT, (POSITIONS,)) if number <= 5 else (CQL, ())
        name, beside = f"table-{number + after}", {baseline.name: baseline} | dict(variants)
        yield _study(name, f"{TITLES[number]}: {what}", _columns(beside, name, statistic), *notes)


def _tables() -> Iterator[Study]:
    yield from _score_tables(0, "average last four", "average of the last four evaluations")

    updates = "Thousands of fine-tuning updates to 90 % of {}'s final score"
    never = "If a seed never gets there, the cell has no number."
    dt, cql = COMPARED[1], {"CQL": CQL, "CQL+MDP": MDP, "CQL+IID": CQL_IID}
    final = (
        "The authors' target is 0.9 of the return at DT's last evaluation; ours is 0.9 of its score, average of the "
        "last four. So their runs give other numbers here than the paper printed; by their rule they give the same."
    )
    yield _study("table-11", updates.format("DT"), _columns(dt, "table-11", "updates to 90 %"), never, final)
    hours = _columns(dt, "table-12", "fine-tuning hours")
    yield _study("table-12", "Hours of fine-tuning DT", hours, HARDWARE, datasets=DATASETS[:4])
    counted = (
        "The authors' script counts evaluations from 0: for the same curve it gives 5 less, and 0 for a seed that "
        "never gets there."
    )
    yield _study("table-13", updates.format("CQL"), _columns(cql, "table-13", "updates to 90 %"), never, counted)
    minutes = _columns({"pre-training, min": MDP}, "table-14", "pre-training minutes")
    hours = _columns({"fine-tuning, h": MDP}, "table-14", "fine-tuning hours")
    title = "Time of CQL+MDP: minutes of pre-training, hours of fine-tuning"
    yield _study("table-14", title, minutes + hours, HARDWARE, datasets=DATASETS[:4])

    yield from _score_tables(17, "best", "best score of each seed")
    longer = "with as many additional updates as pre-training makes"
    main = {"DT+Wiki": WIKI, "DT+Synthetic": SYNTHETIC}
    yield _study("table-26", f"DT {longer}", DT_LONGER + _columns(main, "table-26"), OTHER_RUNS)
    controls = {"DT": DT, **main, "Identity": DT_IDENTITY, "Mapping": DT_MAPPING}
    title = "DT pre-trained to repeat tokens or to map them one to one"
    yield _study("table-27", title, _columns(controls, "table-27"), CONTROLS)
    yield _study("table-28", f"CQL {longer}", CQL_LONGER, OTHER_RUNS)
    controls = {"CQL": CQL, "CQL+MDP": MDP, "Identity": CQL_IDENTITY, "Mapping": CQL_MAPPING}
    title = "CQL pre-trained to repeat state and action or to map them one to one"
    yield _study("table-29", title, _columns(controls, "table-29"), OTHER_RUNS)


def _curves(method: str, main: Columns, moved: Columns, figures: tuple[int, int, int]) -> Iterator[Study]:
    """Scores and losses over updates; in the paper's figures, some of the curves are `moved` right by pre-training."""
    names = ", ".join(column.label for column in main)
    note = "As in the paper, curves of synthetic pre-training are moved right by their pre-training updates."
    both, scores, losses = (f"figure-{number}" for number in figures)
    average = f"Scores and losses of {names}, averaged over the datasets"
    yield _study(f"curves-{method}", f"Learning curves of {names}", main)
    yield _study(f"losses-{method}", f"Training loss of {names}", main, quantities=("losses",))
    yield _study(both, average, moved, note, quantities=("scores", "losses"))
    yield _study(scores, f"Scores of {names} on each dataset", moved, note, per_dataset=True)
    title = f"Losses of {names} on each dataset"
    yield _study(losses, title, moved, note, quantities=("losses",), per_dataset=True)


def _equal_totals(number: int, names: str, columns: Columns, totals: str) -> Iterator[Study]:
    """Two figures, from `number` on, in which all variants make the same number of updates in all."""
    names = f"{names} at equal total updates"
    title = f"Scores and losses of {names}, averaged over the datasets"
    yield _study(f"figure-{number}", title, columns, SHIFTED, totals, quantities=("scores", "losses"))
    title = f"Scores of {names}, on each dataset"
    yield _study(f"figure-{number + 1}", title, columns, SHIFTED, totals, per_dataset=True)


def _curve_figures() -> Iterator[Study]:
    yield from _curves("dt", DT_MAIN, (*DT_MAIN[:2], *_shifted(DT_MAIN[2:])), (1, 3, 4))
    yield from _curves("cql", CQL_MAIN, (*CQL_MAIN[:1], *_shifted(CQL_MAIN[1:])), (2, 5, 6))
    yield Study(
        name="a-figure-7",
        title="Next-state probabilities of one state, in ascending order, by temperature",
        columns=tuple(Column(label=f"τ = {t:g}", variant=None, temperature=t) for t in (0.001, 0.01, 0.1, 1.0, 10.0)),
        datasets=(),
        figure="transition rows",
        notes=("These are exact rows of the chain with 100 states and seed 42, for state 0; nothing is trained.",),
    )
    dt = (DT_LONGER[2], *_shifted(_columns({"DT+Wiki": WIKI, "DT+Synthetic": _longer(SYNTHETIC, 60_000)})))
    cql = (CQL_LONGER[1], *_shifted(CQL_MAIN[1:]))
    totals = (
        "DT is fine-tuned for 180,000 updates, DT+Wiki for 100,000 and DT+Synthetic for 160,000, so totals are equal."
    )
    yield from _equal_totals(8, "DT, DT+Wiki, DT+Synthetic", dt, totals)
    totals = "CQL is fine-tuned for 1,100,000 updates, the others for 1,000,000."
    yield from _equal_totals(13, "CQL, CQL+MDP, CQL+IID", cql, totals)
    title = "at equal total updates, pre-training included"
    yield _study("equal-updates-dt", f"DT {title}", (DT_LONGER[0], DT_LONGER[2], *_shifted(DT_MAIN[1:])), SHIFTED)
    yield _study("equal-updates-cql", f"CQL {title}", cql, SHIFTED)
    shorter = {variant.name: _longer(variant, -100_000) for variant in (MDP, CQL_IDENTITY, CQL_MAPPING)}
    title = "CQL and its pre-trained variants at a million updates in all"
    yield _study("figure-15", title, (*_columns({"CQL": CQL}), *_shifted(_columns(shorter))), SHIFTED)


def _similarities() -> Iterator[Study]:
    """How far fine-tuning moves DT from its starts."""
    statistics: Mapping[str, Mapping[str, Statistic]] = {
        "weights": {"RI": "weight cosine with random start", "PT": "weight cosine with pre-trained start"},
        "features": {"RI": "feature cosine with random start", "PT": "feature cosine with pre-trained start"},
    }
    panels = {
        group: tuple(
            Column(
                label=f"{variant.name}, {start}",
                variant=variant,
                statistic=statistic,
                printed=f"figure-12/{variant.name} {group}" if start == "PT" else "",
            )
            for variant in (DT, WIKI, SYNTHETIC, DT_IID, DT_IDENTITY, DT_MAPPING)
            for start, statistic in of_group.items()
        )
        for group, of_group in statistics.items()
    }
    starts = "RI compares with the random start, PT with the pre-trained one; without pre-training both are the same."
    notes = {
        "weights": (
            WEIGHTS,
            "In the paper, the RI of weights is lower for every pre-trained variant than for DT; PT is higher, lowest "
            "among them for Synthetic and highest for Wiki.",
        ),
        "features": (
            FEATURES,
            "In the paper, the RI of features is about a thousand times smaller for pre-trained variants than for DT; "
            "PT is about 0.33 for Wiki and higher for synthetic variants.",
        ),
    }
    title = "DT's fine-tuned {} with those of its random (RI) and its pre-trained (PT) start"
    for name, columns in panels.items():
        yield _study(
            f"{name}-dt", f"Cosine of {title.format(name)}", columns, starts, CONTROLS, *notes[name], figure="bars"
        )
    both = f"Cosines of {title.format('weights and features')}"
    yield _study(
        "figure-12", both, _panels(panels), starts, CONTROLS, *notes["weights"], *notes["features"], figure="bars"
    )


def _ablations() -> Iterator[Study]:
    dt, scratch = DT_MAIN[:2], AVERAGES[6][:1]
    dt_panels = {"order": dt + AVERAGES[2], "states": dt + AVERAGES[3], "temperature": dt + AVERAGES[4]}
    cql_panels = {"states": AVERAGES[6], "temperature": scratch + AVERAGES[7]}
    cql_panels |= {"pre-training updates": scratch + AVERAGES[8]}
    all_dt_panels = dt_panels | {"pre-training updates": dt + AVERAGES[5]}
    at_any = "at different numbers of fine-tuning updates"
    read = "A panel can be read at any number of fine-tuning updates."
    ours = "The panel of pre-training updates is ours."
    yield _study("figure-10", f"Ablations of DT+Synthetic {at_any}", _panels(all_dt_panels), read, ours)
    yield _study("figure-16", f"Ablations of CQL+MDP {at_any}", _panels(cql_panels), read)
    columns = _shares(_panels(dt_panels))
    yield _study(
        "figure-11",
        "Ablations of DT+Synthetic on a share of the data",
        columns,
        SHARES["trajectories"],
        figure="data ratios",
    )
    columns = _shares(_panels(cql_panels))
    yield _study(
        "figure-17", "Ablations of CQL+MDP on a share of the data", columns, SHARES["transitions"], figure="data ratios"
    )


def _shares(lines: Columns) -> Columns:
    """Every line at every share of the data; the authors' figures leave some of the lines out."""

    def part(variant: Variant, ratio: float) -> Variant:
        name = f"{variant.name}, {ratio:.0%} of the data"
        return variant if ratio == 1.0 else replace(variant, name=name, ratio=ratio)

    return tuple(
        Column(label=f"{line.label}, {ratio:.0%}", variant=part(line.trained, ratio), group=line.group, line=line.label)
        for line in lines
        if line.label not in ("S=100,000", "τ=0.01", "τ=100", "1K", "1M")
        for ratio in RATIOS
    )


STUDIES = (*_tables(), *_curve_figures(), *_similarities(), *_ablations())
