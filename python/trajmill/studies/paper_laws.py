"""Two small studies of laws: learning Markov chains in context, and brackets before looking things up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from trajmill.algorithms import language_model
from trajmill.core.law import Array, Floats, Law
from trajmill.laws.chain_population import add_alpha_losses
from trajmill.models.gpt import GPTConfig
from trajmill.studies.laws import LawStudy, Predictor
from trajmill.studies.records import Column, Pretraining, Variant

SEEDS = (0, 1, 2)
CHAIN_UPDATES = 1500

CHAINS = language_model.Config(
    law="chain_population",
    law_fields=("state_count=3", "rows=dirichlet"),
    sequence_count=32 * CHAIN_UPDATES + 512,
    held_out_count=512,
    batch_size=32,
    length=100,
    position_count=100,
    learning_rate=2e-3,
    warmup_updates=100,
    decay_updates=CHAIN_UPDATES,
    dropout=False,
    backbone=GPTConfig(layer_count=2, head_count=1, width=32),
)
_LAYERS = {"two layers": CHAINS, "one layer": replace(CHAINS, backbone=replace(CHAINS.backbone, layer_count=1))}

RECALL_UPDATES, BRACKET_UPDATES, PAIRS = 1500, 1000, 8
RECALL = replace(
    CHAINS,
    law="associative_recall",
    law_fields=(f"pairs={PAIRS}", "vocabulary=64", "power=1"),
    sequence_count=64 * RECALL_UPDATES + 512,
    batch_size=64,
    length=4 * PAIRS,
    position_count=4 * PAIRS,
    learning_rate=1e-3,
    decay_updates=RECALL_UPDATES,
    backbone=GPTConfig(layer_count=2, head_count=4, width=64),
)
BRACKETS = replace(
    RECALL,
    law="dyck",
    law_fields=("pairs=16",),
    sequence_count=64 * BRACKET_UPDATES + 512,
    decay_updates=BRACKET_UPDATES,
)
GUESSED = 100 * sum(1 / left for left in range(1, PAIRS + 1)) / PAIRS
"""percent that someone guesses who knows which values of a row are left"""


def _unasked_losses(law: Law, tokens: Array) -> Floats:
    """Of a guess among the values of a row that were not asked for yet."""
    losses = np.zeros(tokens.shape)
    losses[:, 2 * PAIRS + 1 :: 2] = np.log(np.arange(PAIRS, 0, -1))
    return losses


_STARTS = {
    "from scratch": None,
    "after brackets": Pretraining(name="brackets", method=BRACKETS, updates=BRACKET_UPDATES),
}

_SEEDS_NOTE = "All seeds learn the same sequences in the same order: intervals are over initial values alone."

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
        notes=(
            "A small version, not the paper's experiment: a GPT-2 of width 32, with perceptrons and a table of "
            "positions, learns 48,000 rows of 100 tokens, each of a fresh chain of 3 states with Dirichlet(1) rows.",
            "Rows begin with a draw from a row of its own, not from the chain's stationary law, of which Bayes' "
            "predictor would have to make use: so counts of pairs plus one are exactly Bayes.",
            "In-context unigram: counts of the row's tokens so far, plus one.",
            _SEEDS_NOTE,
        ),
    ),
    LawStudy(
        name="laws-recall",
        title="Small: brackets before looking things up (arXiv 2601.21725)",
        columns=tuple(
            Column(
                label=label,
                variant=Variant(name=f"recall, {label}", method=RECALL, updates=RECALL_UPDATES, start=start),
            )
            for label, start in _STARTS.items()
        ),
        seeds=SEEDS,
        predictors=(
            Predictor(label="the key's value (Bayes)", losses=lambda law, tokens: law.losses(tokens)),
            Predictor(label="a value not asked for yet", losses=_unasked_losses),
            Predictor(label="any value of the row", losses=lambda law, tokens: np.full(tokens.shape, math.log(PAIRS))),
        ),
        accuracy=True,
        notes=(
            f"A small version, not the paper's experiment: rows have {PAIRS} keys with their values, all different, "
            "and ask for every key once. The paper's have up to 30, values that may repeat, and ask for one.",
            f"Brackets are nested, of 16 kinds, in rows of {4 * PAIRS} tokens; the paper's are of 64 kinds, in rows of "
            "2,048.",
            "Blocks and positions of the model of brackets carry over, for each seed those of its own; token "
            "embeddings, which are the output layer too, begin anew. The paper's program begins all of them with the "
            "pre-trained mean.",
            "Two guesses look nothing up: any value of the row, and any one that was not asked for yet, which "
            f"becomes easier along the row. Their accuracies are {100 / PAIRS:.1f} and {GUESSED:.1f} %.",
            _SEEDS_NOTE,
        ),
    ),
)
