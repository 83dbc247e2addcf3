"""REDQ: SAC with many critics, of which targets take the least of two at random, and many updates for each step.

Chen et al., "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", arXiv 2101.05982. It is the update
of `trajmill.algorithms.sac`, where the equations are, with other settings:

    ten critics; the target takes the least of two of them, drawn anew at each update        sac.bellman_target
    the policy values its actions by the mean of all critics                                 sac.policy_loss
    policy and entropy coefficient move at every 20th update, of 20 for each step            Config, INTERACTION

Deviation: the authors' target entropies are those of MBPO (see ``--method.target-entropy``), here they are minus the
number of action numbers, as in Synthetic Experience Replay (arXiv 2303.06614) for all of its agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trajmill.algorithms import sac
from trajmill.training.settings import Interaction, Schedule

LABEL = "REDQ"
SCHEDULE = Schedule(
    updates=2_500_000, log_interval=20_000, evaluation_interval=100_000, checkpoint_interval=200_000, unroll=20
)
"""125,000 environment steps, as the authors' in Hopper, and all marks where SAC has them in environment steps"""
INTERACTION = Interaction(random_steps=5000, updates_per_step=20)
SECONDS = (0.018, 1 / 6000)
EXAMPLES = """
  trajmill train redq --environment hopper --seeds 0 1 2 3 --out runs/hopper
  trajmill train redq --environment hopper --method.target-entropy -1 --out runs/hopper-as-the-authors
  trajmill train redq --environment hopper --method.layer-norm --out runs/hopper-layer-norm
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(sac.Config):
    """What one update computes.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    critic_count: int = 10
    """N: critics of each seed, at least 1"""
    policy_value: Literal["minimum", "mean"] = "mean"
    """how the policy values its actions: by the mean of all critics (the authors') or by the least of them"""
    policy_delay: int = 20
    """updates of the critics per update of policy and entropy coefficient, at least 1"""


SMALL = Config(batch_size=64, critic_count=4, policy_delay=3, hidden_sizes=(64, 64))

create, step, explore = sac.create, sac.step, sac.explore
policy, restore, data_values, relevance = sac.policy, sac.restore, sac.data_values, sac.relevance
