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
from trajmill.data.formats import d4rl, minari, npz, write_dataset
from trajmill.data.normalizer import Normalizer
from trajmill.data.official import OFFICIAL_FILES
from trajmill.data.records import Dataset, Episode, Transitions
from trajmill.data.subsets import Subset, clip_actions, keep_observations
from trajmill.data.summary import DatasetSummary, summarize
from trajmill.data.tokens import read_token_csv

read_d4rl, read_policy_weights, write_d4rl = d4rl.read, d4rl.read_policy_weights, d4rl.write
read_minari, write_minari = minari.read, minari.write
read_npz, write_npz = npz.read, npz.write

__all__ = ["Dataset", "DatasetError", "DatasetWarning", "Episode", "Transitions"]
__all__ += ["bundled_datasets", "load_dataset", "read_d4rl", "read_minari", "read_npz", "read_policy_weights"]
__all__ += ["read_token_csv", "write_d4rl", "write_dataset", "write_minari", "write_npz"]
__all__ += ["Normalizer", "Subset", "clip_actions", "keep_observations", "qlearning_transitions", "split_episodes"]
__all__ += ["DatasetSummary", "summarize"]
__all__ += ["OFFICIAL_FILES", "download_dataset"]
__all__ += ["REFERENCE_SCORES", "TASKS", "ReferenceScore", "Task"]
__all__ += ["environment_of", "has_reference_score", "normalized_score", "reference_score"]
