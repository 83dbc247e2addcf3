"""Studies of arXiv 2303.06614, "Synthetic Experience Replay": agents on transitions of a diffusion model.

The paper's tables are not in the text at hand, so tables have our numbers alone. What the summary and the released code
say: agents train on 5 million synthetic transitions in place of the data, larger networks gain 12.2 % with them,
datasets ten times as small keep their scores, and a model of width 1,024 is 12.9 times as small as the data it learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from trajmill.algorithms import (
    diffusion,
    edac,
    iql,
    method_named,
    name_of,
    redq,
    sac,
    td3_bc,
    transition_gan,
    transition_vae,
)
from trajmill.experiments.settings import SynthesisConfig
from trajmill.studies.records import Column, Model, Noise, Study, Synthetic, Variant
from trajmill.training.settings import Interaction

SEEDS = (0, 1, 2, 3, 4)
DATASETS = tuple(
    f"{environment}-{kind}-v2"
    for environment in ("halfcheetah", "walker2d", "hopper")
    for kind in ("random", "medium-replay", "medium", "medium-expert")
)
UPDATES = 1_000_000
COUNT = 5_000_000
LARGER = (512, 512, 512)
"""ours: the paper's size is not in the text at hand"""
SHARES = (0.03, 0.1, 0.15, 0.3)
ONLINE = (
    "Numbers are updates for each step. SAC, 20, synthetic is what the paper calls SynthER: now and then a new model "
    "learns all transitions of a seed, and half of each batch is synthetic from the first model on."
)
PAPER_ONLINE = (
    "100,000 steps of the environment, 5,000 of them at random, and a model after every 10,000. Length and seeds are "
    "ours: the paper's are not in the text at hand."
)

DIFFUSION = Model(name="diffusion", method=diffusion.Config(), updates=100_000)
AGENTS = {
    "TD3+BC": Variant(name="TD3+BC", method=td3_bc.Config(), updates=UPDATES),
    "IQL": Variant(name="IQL", method=iql.Config(), updates=UPDATES),
    "EDAC": Variant(name="EDAC", method=edac.Config(), updates=3_000_000),
}
SMALL_DATASETS = ("hopper-sac-replay-10k", "halfcheetah-sac-replay-10k")
SMALL_UPDATES = 10_000
SMALL_COUNT = 100_000
SMALL_DIFFUSION = Model(name="diffusion 256", method=diffusion.Config(width=256), updates=20_000)
SMALL_NOTE = (
    "Small enough for two cores: bundled real data, a model of width 256 that 20,000 updates train, 100,000 "
    "transitions of the paper's sampler, 10,000 updates of the agents."
)
ALONE = (
    "Synthetic only: every row of a batch was made by the model, scaled as the data would be (SynthER's way). The "
    "model has width 1,024; the paper has 2,048 for most datasets, and which have 1,024 is not in the text at hand."
)


ENVIRONMENTS = ("hopper", "halfcheetah", "walker2d")
"""the paper's tasks of Gym; those of DeepMind Control are not simulated here"""
ONLINE_SYNTHESIS: SynthesisConfig[diffusion.Config, diffusion.Sampling] = SynthesisConfig(every=10_000)
SMALL_ONLINE: dict[str, Any] = {
    "steps": 4_000,
    "random_steps": 500,
    "synthesis": SynthesisConfig(
        every=1_000,
        updates=5_000,
        count=50_000,
        method=diffusion.Config(batch_size=256, width=128),
        sampling=diffusion.Sampling(sampler="fast"),
    ),
    "batch_size": 128,
    "hidden_sizes": (128, 128),
}
"""what `online_agents` takes for a study of less than an hour of one core"""
SMALL_ONLINE_NOTE = (
    "Small enough for one core: 4,000 steps, of which 500 at random; batches of 128 and hidden layers 128 128 in place "
    "of 256; a model of width 128 after every 1,000 steps, which 5,000 updates train, and 50,000 transitions of the "
    "fast sampler."
)


def online_agents(
    steps: int = 100_000,
    random_steps: int = 5_000,
    synthesis: SynthesisConfig[diffusion.Config, diffusion.Sampling] = ONLINE_SYNTHESIS,
    name: str = "",
    **changes: Any,
) -> dict[str, Variant]:
    """The agents of the online curves, by label; all make `steps` steps of an environment, the first ones at random.

    `name` ends the variants' names, `changes` are to the settings of their methods.
    """
    delayed = sac.Config(policy_value="mean", policy_delay=20, **changes)

    def agent(label: str, method: Any, updates_per_step: int = 20, **more: Any) -> Variant:
        interaction = Interaction(random_steps=random_steps, updates_per_step=updates_per_step)
        updates = (steps - random_steps) * updates_per_step
        return Variant(name=label + name, method=method, updates=updates, interaction=interaction, **more)

    return {
        "SAC, 1 update a step": agent("SAC online", sac.Config(policy_value="mean", **changes), 1),
        "SAC, 20": agent("SAC online, 20 updates a step", delayed),
        "SAC, 20, synthetic": agent("SAC online, 20 updates a step, synthetic", delayed, synthesis=synthesis),
        "REDQ, 20": agent("REDQ online", redq.Config(**changes)),
    }


def with_synthetic(agent: Variant, model: Model = DIFFUSION, share: float = 1.0, count: int = COUNT) -> Variant:
    """The agent on what a model of the data has made, alone or with the data."""
    sampling = method_named(name_of(model.method)).Sampling()
    synthetic = Synthetic(model=model, sampling=sampling, count=count, share=share)
    what = "synthetic" if share == 1.0 else f"{share:.0%} synthetic"
    return replace(agent, name=f"{agent.name}, {what} of {model.name}", synthetic=synthetic)


def _study(name: str, title: str, columns: tuple[Column, ...], *notes: str, **options: Any) -> Study:
    base: dict[str, Any] = {"datasets": DATASETS, "seeds": SEEDS, "per_dataset": True}
    return Study(name=f"c-{name}", title=title, columns=columns, notes=notes, **base | options)


def _studies() -> Iterator[Study]:
    columns = tuple(
        Column(label=f"{name}, {label}", variant=variant)
        for name, agent in AGENTS.items()
        for label, variant in (
            ("data", agent),
            ("data and synthetic", with_synthetic(agent, share=0.5)),
            ("synthetic only", with_synthetic(agent)),
        )
    )
    yield _study("offline", "Offline agents on the data, on both, on synthetic transitions only", columns, ALONE)

    small = {name: replace(AGENTS[name], name=f"{name}, 10K rows", updates=SMALL_UPDATES) for name in ("TD3+BC", "IQL")}
    columns = tuple(
        Column(label=f"{name}, {label}", variant=variant)
        for name, agent in small.items()
        for label, variant in (
            ("data", agent),
            ("data and synthetic", with_synthetic(agent, SMALL_DIFFUSION, 0.5, SMALL_COUNT)),
            ("synthetic only", with_synthetic(agent, SMALL_DIFFUSION, count=SMALL_COUNT)),
        )
    )
    yield _study(
        "offline-10k",
        "TD3+BC and IQL on 10,000 real rows, on both, on synthetic transitions only",
        columns,
        SMALL_NOTE,
        datasets=SMALL_DATASETS,
    )

    agents = [AGENTS[name] for name in ("TD3+BC", "IQL")]
    larger = [
        replace(agent, name=f"{agent.name}, larger", method=replace(agent.method, hidden_sizes=LARGER))
        for agent in agents
    ]
    columns = tuple(
        Column(label=variant.name, variant=variant)
        for pair in zip(agents, larger, strict=True)
        for agent in pair
        for variant in (agent, with_synthetic(agent))
    )
    note = f"Larger: hidden layers {' '.join(map(str, LARGER))} in place of 256 256."
    yield _study("larger-networks", "Larger networks on the data and on synthetic transitions", columns, note, ALONE)

    columns = tuple(
        Column(label=f"{agent.name}, {share:.0%}, {label}", variant=variant, group=agent.name)
        for agent in agents
        for share in SHARES
        for part in [replace(agent, name=f"{agent.name}, {share:.0%}", ratio=share, subset="transitions")]
        for label, variant in (("data", part), ("synthetic only", with_synthetic(part)))
    )
    note = (
        "A share is made of single transitions, drawn once for all seeds; the paper's draw is not known. IQL has its "
        "common settings on all shares: SynthER's own for hopper-medium-replay scale rewards by returns, which single "
        "transitions do not have."
    )
    datasets = tuple(f"{environment}-medium-replay-v2" for environment in ("walker2d", "halfcheetah", "hopper"))
    yield _study(
        "small-data", "Agents on shares of the data, without and with a model", columns, note, datasets=datasets
    )

    widths = {
        width: Model(name=f"diffusion {width}", method=diffusion.Config(width=width), updates=100_000)
        for width in (128, 256, 512, 1024)
    }
    columns = (
        Column(label="data", variant=AGENTS["TD3+BC"]),
        *(
            Column(label=f"width {width}", variant=with_synthetic(AGENTS["TD3+BC"], model))
            for width, model in widths.items()
        ),
    )
    note = (
        "The model replaces the data: it holds 6.5 million numbers at width 1,024 and 0.5 at 256, and a dataset 42 a "
        "row (halfcheetah, walker2d)."
    )
    yield _study("compression", "TD3+BC on what models of several sizes have made", columns, note, ALONE)

    models = {
        "diffusion": DIFFUSION,
        "VAE": Model(name="VAE", method=transition_vae.Config(), updates=100_000),
        "GAN": Model(name="GAN", method=transition_gan.Config(), updates=100_000),
    }
    columns = (
        Column(label="data", variant=AGENTS["TD3+BC"]),
        *(Column(label=name, variant=with_synthetic(AGENTS["TD3+BC"], model)) for name, model in models.items()),
    )
    yield _study("models", "TD3+BC on what diffusion, a VAE and a GAN have made", columns, ALONE)

    noises = {
        "additive noise 0.1": Noise(kind="additive", strength=0.1),
        "additive noise 0.3": Noise(kind="additive", strength=0.3),
        "multiplicative noise 0.1": Noise(kind="multiplicative", strength=0.1),
    }
    columns = (
        Column(label="data", variant=AGENTS["TD3+BC"]),
        Column(label="diffusion", variant=with_synthetic(AGENTS["TD3+BC"])),
        *(
            Column(label=name, variant=replace(AGENTS["TD3+BC"], name=f"TD3+BC, {name}", noise=noise))
            for name, noise in noises.items()
        ),
    )
    note = "Noise: ten copies of the data, each number of s and s' with noise of its own; kinds and strengths are ours."
    yield _study(
        "augmentation", "TD3+BC on synthetic transitions and on noisy copies of the data", columns, note, ALONE
    )


def _online() -> Iterator[Study]:
    title = "Agents that learn online, without and with models of what they met"
    agents, small = online_agents(), online_agents(name=", small", **SMALL_ONLINE)
    for name, variants, note, environments, seeds in (
        ("online", agents, PAPER_ONLINE, ENVIRONMENTS, SEEDS),
        ("online-small", small, SMALL_ONLINE_NOTE, ("halfcheetah",), SEEDS[:4]),
    ):
        columns = tuple(Column(label=label, variant=variant) for label, variant in variants.items())
        yield _study(name, title, columns, ONLINE, note, datasets=(), environments=environments, seeds=seeds)


STUDIES = (*_studies(), *_online())
