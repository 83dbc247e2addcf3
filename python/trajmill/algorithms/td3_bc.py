"""TD3+BC: TD3 on a fixed dataset, with a term that clones it.

Fujimoto & Gu, "A Minimalist Approach to Offline Reinforcement Learning", arXiv 2106.06860, as in sfujim/TD3_BC; TD3 is
arXiv 1802.09477. Every tensor leads with the seed axis S; losses are sums over seeds of per-seed means. No deviations.
All but the policy's loss is TD3's (`trajmill.algorithms.td3`).

    y   = r + γ(1−d)·min_i Q'_i(s', clip(π'(s') + ε, ±1)),  ε = clip(σ·N(0, 1), ±c)          td3.bellman_target
    L_Q = Σ_i mean (Q_i(s, a) − y)²                                                          td3.critic_loss
    L_π = −λ·mean Q_1(s, π(s)) + mean (π(s) − a)²,  λ = α / mean |Q_1(s, π(s))|              policy_loss

Policy and targets move at every second update only (`Rule.policy_delay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trajmill.algorithms import td3
from trajmill.data import Dataset, Normalizer, qlearning_transitions
from trajmill.models.critics import join, values_of
from trajmill.models.policies import deterministic
from trajmill.replay.tables import Table, TransitionBatch, TransitionFacts, TransitionRows
from trajmill.training.settings import PerSeed, Schedule, in_range

LABEL = "TD3+BC"
SCHEDULE = Schedule(updates=1_000_000)
SECONDS = (0.006, 1 / 15_000)
EXAMPLES = """
  trajmill train td3_bc --dataset hopper-sac-replay-10k --out runs/hopper --schedule.updates 20000
  trajmill train td3_bc --dataset hopper_medium-v2.hdf5 --seeds 0 1 2 3 --out runs/hopper-medium
  trajmill train td3_bc --dataset A.hdf5 --mix B.hdf5=0.5 --out runs/mixture
  trajmill train td3_bc --dataset A.hdf5 --seeds 0 1 2 --method.value-weight 0.5 2.5 10 --out runs/weights
  trajmill train td3_bc --dataset A.hdf5 --method.hidden-sizes 512 512 512 --out runs/larger
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(td3.Rule):
    """What one update computes; defaults are those of sfujim/TD3_BC.

    Numbers of the type `PerSeed` are one for all seeds or one each, so that a whole ablation is one run.
    """

    value_weight: PerSeed = 2.5
    """alpha: weight of the value against cloning, at least 0; 0 clones"""
    normalize: bool = True
    """standardize observations: less their mean, divided by their deviation + 1e-3"""

    def __post_init__(self) -> None:
        td3.Rule.__post_init__(self)
        in_range("[0, inf)", value_weight=self.value_weight)


SMALL = Config(batch_size=64)


def prepare(config: Config, dataset: Dataset) -> TransitionRows:
    """D4RL's transitions, observations standardized."""
    transitions = qlearning_transitions(dataset, "d4rl")
    normalizer = Normalizer.fit(transitions.observation, 1e-3) if config.normalize else None
    return TransitionRows(transitions=transitions, normalizer=normalizer)


def create(
    config: Config, table: Table[TransitionBatch, TransitionFacts], seeds: Sequence[int], *, metric_capacity: int = 1000
) -> td3.State:
    """Fresh networks, targets equal to them; on the table's device, in its precision."""
    names = ("value_loss", "cloning_loss")
    return td3.create(config, table, seeds, metric_capacity=metric_capacity, policy_metrics=names)


def policy_losses(state: td3.State, batch: TransitionBatch) -> dict[str, Tensor]:
    """The two terms of L_π, reaching the policy only: (S,) each."""
    chosen = deterministic(state.policy.parameters, batch.observation)
    value = values_of(state.first_critic, join(batch.observation, chosen))[:, 0]
    weight = state.settings["value_weight"] / value.detach().abs().mean(-1)
    cloning = (chosen - batch.action).square().mean((1, 2))
    return {"value_loss": -weight * value.mean(-1), "cloning_loss": cloning}


def step(state: td3.State, count: int = 1, first: int = 0) -> None:
    """Make `count` updates of every seed, in place; `first` is the number of the first one, modulo the period."""
    td3.updates(state, count, first, policy_losses)


policy, restore, data_values, relevance = td3.policy, td3.restore, td3.data_values, td3.relevance
