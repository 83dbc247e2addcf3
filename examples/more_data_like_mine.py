"""Transitions like those of a dataset, made by a small diffusion model."""

from dataclasses import replace
from pathlib import Path

import trajmill as tm
from trajmill.algorithms import diffusion
from trajmill.experiments.upsample import UpsampleConfig, upsample
from trajmill.training.settings import Schedule

config = UpsampleConfig(
    count=2_000,
    method=replace(diffusion.SMALL, batch_size=64),  # the paper's size: diffusion.Config()
    sampling=diffusion.Sampling(levels=8),
    schedule=Schedule(updates=200),  # the paper: 100,000
    quality=False,
)
made = upsample("hopper-sac-replay-10k", Path("run-upsampled"), config)
print(tm.load_dataset(made.directory / "upsampled.hdf5"))
