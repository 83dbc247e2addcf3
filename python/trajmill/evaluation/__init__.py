"""MuJoCo environments, playing and recording episodes, scores, and checks of recorded dynamics."""

from trajmill.evaluation.dynamics import DynamicsReport, check_dynamics
from trajmill.evaluation.environments import ENVIRONMENTS, EnvironmentDefinition, environment_definition
from trajmill.evaluation.record import Recording, record_episodes
from trajmill.evaluation.rollout import EpisodicPolicy, EvaluationResult, Policy, episode_seeds, evaluate_policy
from trajmill.evaluation.simulators import BatchedEnvironment, GymnasiumEnvironments, make_gymnasium

__all__ = ["ENVIRONMENTS", "EnvironmentDefinition", "environment_definition"]
__all__ += ["BatchedEnvironment", "GymnasiumEnvironments", "make_gymnasium"]
__all__ += ["EpisodicPolicy", "EvaluationResult", "Policy", "episode_seeds", "evaluate_policy"]
__all__ += ["DynamicsReport", "Recording", "check_dynamics", "record_episodes"]
