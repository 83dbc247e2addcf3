"""MuJoCo environments, rollouts, normalized scores, statistics."""
