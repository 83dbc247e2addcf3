"""Two small studies of laws: learning Markov chains in context, and brackets before looking things up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from trajmill.algorithms import language_model
from trajmill.laws.chain_population import add_alpha_losses
from trajmill.models.gpt import GPTConfig
from trajmill.studies.laws import LawStudy, Predictor
from trajmill.studies.records import Column, Variant

SEEDS = (0, 1, 2, 3)
CHAIN_UPDATES = 2000

CHAINS = language_model.Config(
    law="chain_population",
    law_fields=("state_count=3", "rows=dirichlet"),
    sequence_count=64 * CHAIN_UPDATES + 1024,
    held_out_count=1024,
    batch_size=64,
    length=100,
    position_count=100,
    learning_rate=1e-3,
    warmup_updates=100,
    decay_updates=CHAIN_UPDATES,
    dropout=False,
    backbone=GPTConfig(layer_count=2, head_count=1, width=32),
)
_LAYERS = {"two layers": CHAINS, "one layer": replace(CHAINS, backbone=replace(CHAINS.backbone, layer_count=1))}

STUDIES = (
    LawStudy(
        name="laws-chains",
        title="Small: a transformer learns Markov chains in context (arXiv 2402.11004)",
        columns=tuple(
            Column(label=label, variant=Variant(name=f"chains, {label}", method=method, updates=CHAIN_UPDATES))
            for label, method in _LAYERS.items()
        ),
        seeds=SEEDS,
        predictors=(
            Predictor(label="in-context bigram (Bayes)", losses=lambda law, tokens: law.losses(tokens)),
            Predictor(
                label="in-context unigram",
                losses=lambda law, tokens: add_alpha_losses(tokens, 0, 1.0, law.vocabulary_size),
            ),
            Predictor(label="uniform", losses=lambda law, tokens: np.full(tokens.shape, math.log(law.vocabulary_size))),
        ),
    ),
)
