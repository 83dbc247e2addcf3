"""Real datasets: reading, checking, writing, downloading, subsets, normalizing, reference scores, bundled files."""

from trajmill.data.catalog import bundled_datasets, load_dataset
from trajmill.data.download import download_dataset
from trajmill.data.environments import (
    REFERENCE_SCORES,
    TASKS,
    ReferenceScore,
    Task,
    environment_of,
    has_reference_score,
    normalized_score,
    reference_score,
)
from trajmill.data.episodes import qlearning_transitions, split_episodes
from trajmill.data.errors import DatasetError, DatasetWarning
from trajmill.data.formats import d4rl, minari, npz
from trajmill.data.normalizer import Normalizer
from trajmill.data.official import OFFICIAL_FILES
from trajmill.data.records import Dataset, Episode, Transitions
from trajmill.data.subsets import Subset, clip_actions, keep_observations
from trajmill.data.summary import DatasetSummary, summarize
from trajmill.data.tokens import read_token_csv

read_d4rl, read_policy_weights, write_d4rl = d4rl.read, d4rl.read_policy_weights, d4rl.write
read_minari, write_minari = minari.read, minari.write
read_npz, write_npz = npz.read, npz.write

__all__ = [
    "OFFICIAL_FILES",
    "REFERENCE_SCORES",
    "TASKS",
    "Dataset",
    "DatasetError",
    "DatasetSummary",
    "DatasetWarning",
    "Episode",
    "Normalizer",
    "ReferenceScore",
    "Subset",
    "Task",
    "Transitions",
    "bundled_datasets",
    "clip_actions",
    "download_dataset",
    "environment_of",
    "has_reference_score",
    "keep_observations",
    "load_dataset",
    "normalized_score",
    "qlearning_transitions",
    "read_d4rl",
    "read_minari",
    "read_npz",
    "read_policy_weights",
    "read_token_csv",
    "reference_score",
    "split_episodes",
    "summarize",
    "write_d4rl",
    "write_minari",
    "write_npz",
]
