"""What every algorithm needs to train: runner, random numbers, optimizer, checkpoints, metrics."""
