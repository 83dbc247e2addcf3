"""Real datasets: reading, checking, normalizing, reference scores, bundled files."""

from trajmill.data.catalog import bundled_datasets, environment_of, load_dataset
from trajmill.data.d4rl import qlearning_transitions, read_d4rl, split_episodes
from trajmill.data.errors import DatasetError, DatasetWarning
from trajmill.data.normalizer import Normalizer
from trajmill.data.records import Dataset, Episode, Transitions
from trajmill.data.reference_scores import (
    REFERENCE_SCORES,
    ReferenceScore,
    has_reference_score,
    normalized_score,
    reference_score,
)

__all__ = [
    "REFERENCE_SCORES",
    "Dataset",
    "DatasetError",
    "DatasetWarning",
    "Episode",
    "Normalizer",
    "ReferenceScore",
    "Transitions",
    "bundled_datasets",
    "environment_of",
    "has_reference_score",
    "load_dataset",
    "normalized_score",
    "qlearning_transitions",
    "read_d4rl",
    "reference_score",
    "split_episodes",
]
