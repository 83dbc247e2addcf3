"""Real datasets: reading, checking, normalizing, reference scores, bundled files."""

from trajmill.data.catalog import bundled_datasets, load_dataset
from trajmill.data.cuts import qlearning_transitions, split_episodes
from trajmill.data.d4rl import read_d4rl, read_policy_weights, write_d4rl
from trajmill.data.errors import DatasetError, DatasetWarning
from trajmill.data.minari import read_minari, write_minari
from trajmill.data.normalizer import Normalizer
from trajmill.data.origin import environment_of
from trajmill.data.records import Dataset, Episode, Transitions
from trajmill.data.reference_scores import REFERENCE_SCORES, ReferenceScore, normalized_score, reference_score

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
    "load_dataset",
    "normalized_score",
    "qlearning_transitions",
    "read_d4rl",
    "read_minari",
    "read_policy_weights",
    "reference_score",
    "split_episodes",
    "write_d4rl",
    "write_minari",
]
