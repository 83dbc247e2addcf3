"""One file per method: config, state, losses, step, act."""
