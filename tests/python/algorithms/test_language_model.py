"""Language-model pre-training: equality with a slow twin, schedule, sizes, what it can learn, and the battery."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from battery import CHECKS, GPU_CHECKS, Case, run_check
from dt_twin import gpt2
from gpu import NEEDS_GPU

import trajmill as tm
from trajmill.algorithms import language_model as lm
from trajmill.algorithms.language_model import LMConfig
from trajmill.models import language_model
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import token_logits

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = GPTConfig(layer_count=2, head_count=2, width=8)
CONFIG = LMConfig(
    batch_size=3, length=7, position_count=9, warmup_updates=4, decay_updates=30, dropout=False, backbone=SMALL
)


def filled(config: LMConfig, seeds: list[int], dtype: torch.dtype, device: str = "cpu", targets: int = 0) -> lm.LMState:
    state = lm.create(
        config, 5, seeds, device=torch.device(device), dtype=dtype, target_count=targets, slots=32, metric_capacity=8
    )
    for position, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed % 2**63)
        state.tokens[:, position] = torch.randint(5, state.tokens[:, 0].shape, generator=generator)
        if state.targets is not None:
            state.targets[:, position] = torch.randint(targets, state.tokens[:, 0].shape, generator=generator)
    return state


def fed_step(state: lm.LMState, count: int = 1) -> None:
    """Always the first slot: what is fed does not depend on how many updates are made at once."""
    for _ in range(count):
        lm.update(state, state.tokens[0], None)


def poison(state: lm.LMState, position: int) -> None:
    state.model.flat[position, 0] = math.nan


CASE = Case(
    create=lambda seeds, dtype, device="cpu": filled(CONFIG, seeds, dtype, device), step=fed_step, poison=poison
)


@pytest.mark.parametrize("check", CHECKS)
def test_battery(check: str, tmp_path: Path) -> None:
    run_check(CASE, check, tmp_path)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("check", GPU_CHECKS)
def test_battery_of_a_gpu(check: str, device: str) -> None:
    GPU_CHECKS[check](CASE, device)


class HuggingFaceAdamW:
    """The algorithm of transformers' own AdamW, one number after the other."""

    def __init__(self, weights: dict[str, torch.Tensor], decay: float) -> None:
        self.weights, self.decay, self.count = weights, decay, 0
        self.first = {name: torch.zeros_like(value) for name, value in weights.items()}
        self.second = {name: torch.zeros_like(value) for name, value in weights.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        self.count += 1
        for name, value in self.weights.items():
            gradient = value.grad
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient**2
            size = rate * math.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
            value.sub_(size * self.first[name] / (self.second[name].sqrt() + 1e-6))
            value.sub_(rate * self.decay * value)
            value.grad = None


@pytest.mark.parametrize("objective", ["next", "given"])
def test_updates_equal_the_twin(objective: str) -> None:
    """20 updates of the second of two seeds in float64; the schedule is at its peak and beyond."""
    config = replace(CONFIG, objective=objective)
    state = filled(config, [3, 4], torch.float64, targets=6 if objective == "given" else 0)
    plain = {name: parameter[1].clone().requires_grad_() for name, parameter in state.model.detached().items()}
    optimizer = HuggingFaceAdamW(plain, 1e-2)
    nothing_dropped = {site: torch.ones(shape[1:]).double() for site, (_, shape) in SMALL.dropout_shapes(1, 7).items()}
    for update in range(20):
        losses = []
        for row in range(3):
            tokens = state.tokens[update, 1, row].long()
            embedded = plain["wte.weight"][tokens] + plain["wpe.weight"][:7]
            out = gpt2(plain, embedded, layers=2, heads=2, factors=nothing_dropped)
            for place in range(7 if objective == "given" else 6):
                table = plain["target.weight"] if objective == "given" else plain["wte.weight"]
                goal = state.targets[update, 1, row, place] if objective == "given" else tokens[place + 1]
                losses.append(-torch.log_softmax(table @ out[place], 0)[goal])
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step(3e-4 * (update / 4 if update < 4 else (30 - update) / 26))
        lm.update(state, state.tokens[update], None if state.targets is None else state.targets[update])
    for name, parameter in state.model.detached().items():
        torch.testing.assert_close(parameter[1], plain[name].detach(), rtol=1e-9, atol=1e-11, msg=name)
    assert state.metrics.mean_of_last(19, 20)["loss"][1] == pytest.approx(float(loss.detach()))


def test_schedule_is_the_released_one() -> None:
    places = torch.tensor([5000, 10_000, 20_000, 40_000, 60_000, 80_000, 90_000])
    rates = 3e-4 * lm.schedule(LMConfig(), places)
    assert rates.tolist() == pytest.approx([1.5e-4, 3e-4, 2.571429e-4, 1.714286e-4, 8.571e-5, 0, 0], rel=1e-4)
    two = 3e-4 * lm.schedule(LMConfig(schedule_stride=2), places)
    assert two.tolist() == pytest.approx([3e-4, 2.571429e-4, 1.714286e-4, 0, 0, 0, 0], rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 11, 70, 1 << 25])
@pytest.mark.parametrize("targets", [0, 6])
def test_losses_in_chunks_equal_those_at_once(chunk: int, targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of three seeds in float64; the seeds weigh differently."""
    config = replace(CONFIG, objective="given" if targets else "next")
    state = filled(config, [3, 4, 5], torch.float64, targets=targets)
    tokens = state.tokens[0].long()
    goals = tokens[..., 1:] if state.targets is None else state.targets[0].long()
    logits = token_logits(state.model.parameters, SMALL, tokens)[:, :, : goals.shape[-1]]
    wanted = F.cross_entropy(logits.flatten(0, 2), goals.flatten(), reduction="none").view(3, -1).mean(1)
    monkeypatch.setattr(language_model, "CHUNK", chunk)
    losses = language_model.token_losses(state.model.parameters, SMALL, tokens, goals if targets else None)
    torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=0)
    weights, parameters = torch.tensor([1.0, 2.0, -3.0]).double(), list(state.model.parameters.values())
    for got, expected in zip(
        torch.autograd.grad(losses @ weights, parameters, materialize_grads=True),
        torch.autograd.grad(wanted @ weights, parameters, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_gpt2s_vocabulary_needs_no_room_for_all_scores() -> None:
    """Scores of 4,096 tokens at 50,257 words are 823 MB, and as much for their gradient; the whole update is less."""
    program = """
import resource, torch
from trajmill.models.gpt import GPTConfig as Shape
from trajmill.models.language_model import language_model, token_losses
torch.set_num_threads(1)
shape = Shape(layer_count=1, width=8)
values = language_model(shape, 50257, torch.Generator())
parameters = {name: value[None].requires_grad_() for name, value in values.items()}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
token_losses(parameters, shape, torch.randint(50257, (1, 32, 128))).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600


@pytest.mark.parametrize(("states", "count"), [(10, 727_424), (100, 738_944), (1000, 854_144), (10_000, 2_006_144)])
def test_parameter_counts_are_the_papers(states: int, count: int) -> None:
    assert lm.create(LMConfig(batch_size=1), states, [0], device=CPU).model.parameter_count() == count


def test_a_position_sees_its_past_alone() -> None:
    state = filled(CONFIG, [1, 2], torch.float64)
    tokens = state.tokens[0].long()
    changed = tokens.clone()
    changed[..., 4:] = (changed[..., 4:] + 1) % 5
    one, other = (token_logits(state.model.detached(), SMALL, some) for some in (tokens, changed))
    torch.testing.assert_close(one[:, :, :4], other[:, :, :4], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(one[:, :, 4], other[:, :, 4])


def test_dropout_is_active_while_training_only() -> None:
    dropping = filled(replace(CONFIG, dropout=True), [1], torch.float32)
    still = filled(CONFIG, [1], torch.float32)
    torch.manual_seed(0)
    lm.step(dropping)
    lm.step(still)
    assert dropping.metrics.values[0] != still.metrics.values[0]
    assert torch.equal(dropping.model.flat, filled(CONFIG, [1], torch.float32).model.flat)  # the first rate is zero


@pytest.mark.slow
def test_learns_a_chain_to_its_entropy_and_not_below() -> None:
    """A chain of 10 states at temperature 0.1; the loss on fresh sequences ends within 0.02 of the entropy rate."""
    chain = tm.MarkovChain(state_count=10, temperature=0.1, seed=3)
    transition = torch.stack([torch.from_numpy(chain.probabilities([state])) for state in range(10)])
    stationary = torch.linalg.matrix_power(transition, 200)[0]
    entropy = float(-(stationary[:, None] * transition * transition.log()).sum())
    config = LMConfig(
        batch_size=32,
        length=64,
        position_count=64,
        learning_rate=3e-3,
        warmup_updates=50,
        decay_updates=600,
        dropout=False,
        backbone=GPTConfig(layer_count=1, width=32),
    )
    state = lm.create(config, 10, [0], device=CPU)
    for update in range(600):
        state.tokens[0, 0] = torch.from_numpy(chain.sample(32, 64, first_sequence=32 * update).astype("int32"))
        lm.step(state)
    loss = state.metrics.mean_of_last(550, 600)["loss"][0]
    assert entropy - 0.01 < loss < entropy + 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"length": 10}, r"length must be at most position_count \(9\), got 10"),
        ({"decay_updates": 4}, "decay_updates must be at least 5, got 4"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
