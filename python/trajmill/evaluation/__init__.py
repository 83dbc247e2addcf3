"""MuJoCo environments, rollouts, normalized scores, statistics."""

from trajmill.evaluation.dynamics import DynamicsReport, check_dynamics
from trajmill.evaluation.environments import ENVIRONMENTS, EnvironmentDefinition, environment_definition
from trajmill.evaluation.record import Recording, record_episodes
from trajmill.evaluation.rollout import EpisodicPolicy, EvaluationResult, Policy, episode_seeds, evaluate_policy
from trajmill.evaluation.simulators import BatchedEnvironment, GymnasiumEnvironments, make_gymnasium

__all__ = [
    "ENVIRONMENTS",
    "BatchedEnvironment",
    "DynamicsReport",
    "EnvironmentDefinition",
    "EpisodicPolicy",
    "EvaluationResult",
    "GymnasiumEnvironments",
    "Policy",
    "Recording",
    "check_dynamics",
    "environment_definition",
    "episode_seeds",
    "evaluate_policy",
    "make_gymnasium",
    "record_episodes",
]
