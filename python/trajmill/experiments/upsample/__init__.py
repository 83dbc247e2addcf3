"""Many more transitions like those of a dataset: a model learns them, and its samples are kept in shards and exported.

A directory holds ``manifest.json`` (what was asked for, and SHA-256 of all files), ``model/`` (the run that trained the
model), ``shards/`` and the exports. Shard k is an array (rows, W) float32 in NumPy's format; a row is [observation,
action, reward, next observation, terminal]. Every file appears whole or not at all, and a shard depends on the model,
the seed and its number alone: killed at any point and called again, `upsample` ends with the same bytes.

Any method that has ``synthesize`` (`trajmill.algorithms`) can make the transitions.
"""

from trajmill.experiments.upsample.estimate import Estimate
from trajmill.experiments.upsample.job import Job, NotFiniteError, UpsampleConfig, Upsampled, upsample

__all__ = ["Estimate", "Job", "NotFiniteError", "UpsampleConfig", "Upsampled", "upsample"]
