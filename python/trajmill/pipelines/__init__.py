"""One file per experiment: data, algorithm, checkpoint, evaluation."""
