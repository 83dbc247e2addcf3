"""Language-model pre-training: equality with a slow twin, schedule, sizes, what it can learn, and the battery."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from battery import Case, assert_same, battery, battery_of_a_gpu, checkpoint_of, poison
from dt_twin import gpt2
from torch.utils._python_dispatch import TorchDispatchMode

import trajmill as tm
from trajmill.algorithms import language_model as lm
from trajmill.algorithms.language_model import Config
from trajmill.core.column import Column
from trajmill.corpus.build import build
from trajmill.corpus.sources import make_spec
from trajmill.laws.chain_population import add_alpha_losses
from trajmill.models import language_model
from trajmill.models.gpt import GPTConfig
from trajmill.models.language_model import token_logits
from trajmill.replay.token_table import TokenRows, TokenTable
from trajmill.training.checkpoint import restore_tensors
from trajmill.training.distributed import Ranks
from trajmill.training.runner import Runner

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = GPTConfig(layer_count=2, head_count=2, width=8)
CONFIG = Config(
    state_count=5,
    batch_size=3,
    length=7,
    position_count=9,
    sequence_count=40,
    held_out_count=4,
    warmup_updates=4,
    decay_updates=30,
    dropout=False,
    backbone=SMALL,
)
TARGETS = {
    "next": CONFIG,
    "identity": replace(CONFIG, law="iid", target="identity"),
    "mapping": replace(CONFIG, law="iid", target="mapping"),
}

CASES = {
    "next": Case(method=lm, config=CONFIG),
    "mapping": Case(method=lm, config=TARGETS["mapping"]),
    "settings of each seed": Case(
        method=lm, config=lambda seeds: replace(CONFIG, learning_rate=tuple(1e-3 * (1 + seed % 3) for seed in seeds))
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


def created(config: Config, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> lm.State:
    table = TokenTable(lm.generate(config), len(seeds), config.batch_size, CPU, dtype)
    return lm.create(config, table, seeds, metric_capacity=8)


def filled(config: Config, seeds: Sequence[int], dtype: torch.dtype, slots: int = 8) -> lm.State:
    """Every slot of every seed has tokens, and targets, of its own."""
    state = created(config, seeds, dtype)
    state.table.reserve(slots)
    for position, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for slot in (state.table.tokens, state.table.targets):
            if slot is not None:
                slot[:, position] = torch.randint(5, slot[:, 0].shape, generator=generator)
    return state


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


@pytest.mark.parametrize("target", TARGETS)
def test_updates_equal_the_twin(target: str) -> None:
    """Twenty updates of the second of two seeds in float64; the schedule is at its peak and beyond."""
    state = filled(TARGETS[target], [3, 4], torch.float64, slots=20)
    table, given = state.table, target != "next"
    plain = {name: parameter[1].clone().requires_grad_() for name, parameter in state.model.detached().items()}
    assert ("target.weight" in plain) == (target == "mapping")
    optimizer = HuggingFaceAdamW(plain, 1e-2)
    nothing_dropped = {site: torch.ones(shape[1:]).double() for site, (_, shape) in SMALL.dropout_shapes(1, 7).items()}
    for update in range(20):
        losses = []
        for row in range(3):
            tokens = table.tokens[update, 1, row].long()
            embedded = plain["wte.weight"][tokens] + plain["wpe.weight"][:7]
            out = gpt2(plain, embedded, layers=2, heads=2, factors=nothing_dropped)
            for place in range(7 if given else 6):
                outputs = plain["target.weight" if target == "mapping" else "wte.weight"]
                goal = table.targets[update, 1, row, place] if given else tokens[place + 1]
                losses.append(-torch.log_softmax(outputs @ out[place], 0)[goal])
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step(3e-4 * (update / 4 if update < 4 else (30 - update) / 26))
        lm.update(state, table.tokens[update], None if table.targets is None else table.targets[update])
    for name, parameter in state.model.detached().items():
        torch.testing.assert_close(parameter[1], plain[name].detach(), rtol=1e-9, atol=1e-11, msg=name)
    assert state.metrics.mean_of_last(19, 20)["loss"][1] == pytest.approx(float(loss.detach()))


def test_schedule_is_the_released_one() -> None:
    places = torch.tensor([5000, 10_000, 20_000, 40_000, 60_000, 80_000, 90_000])
    assert lm.schedule(Config(), places).tolist() == pytest.approx([1 / 2, 1, 6 / 7, 4 / 7, 2 / 7, 0, 0], abs=1e-12)
    two = lm.schedule(Config(schedule_stride=2), places)
    assert two.tolist() == pytest.approx([1, 6 / 7, 4 / 7, 0, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 11, 70, 1 << 25])
@pytest.mark.parametrize("target", ["next", "mapping"])
def test_losses_in_chunks_equal_those_at_once(chunk: int, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of three seeds in float64; the seeds weigh differently."""
    state = filled(TARGETS[target], [3, 4, 5], torch.float64)
    tokens = state.table.tokens[0].long()
    goals = tokens[..., 1:] if state.table.targets is None else state.table.targets[0].long()
    logits = token_logits(state.model.parameters, SMALL, tokens)[:, :, : goals.shape[-1]]
    wanted = F.cross_entropy(logits.flatten(0, 2), goals.flatten(), reduction="none").view(3, -1).mean(1)
    monkeypatch.setattr(language_model, "CHUNK", chunk)
    given = None if target == "next" else goals
    losses = language_model.token_losses(state.model.parameters, SMALL, tokens, given)
    torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=0)
    weights, parameters = torch.tensor([1.0, 2.0, -3.0]).double(), list(state.model.parameters.values())
    for got, expected in zip(
        torch.autograd.grad(losses @ weights, parameters, materialize_grads=True),
        torch.autograd.grad(wanted @ weights, parameters, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 11, 70, 1 << 25])
def test_losses_of_some_positions_equal_those_with_an_ignored_index(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses and gradients in float64; each seed has targets of its own at about half of the positions."""
    state = filled(TARGETS["identity"], [3, 4, 5], torch.float64)
    tokens, goals = state.table.tokens[0].long(), state.table.targets[0].long().clone()
    goals[torch.rand(goals.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = -1
    logits = token_logits(state.model.parameters, SMALL, tokens)
    wanted = torch.stack(
        [
            F.cross_entropy(scores.flatten(0, 1), some.flatten(), ignore_index=-1)
            for scores, some in zip(logits, goals, strict=True)
        ]
    )
    monkeypatch.setattr(language_model, "CHUNK", chunk)
    counts = (goals >= 0).sum((1, 2)).double()
    losses = language_model.token_losses(state.model.parameters, SMALL, tokens, goals, None, counts)
    torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=0)
    weights, parameters = torch.tensor([1.0, 2.0, -3.0]).double(), list(state.model.parameters.values())
    for got, expected in zip(
        torch.autograd.grad(losses @ weights, parameters, materialize_grads=True),
        torch.autograd.grad(wanted @ weights, parameters, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


class PeakMemory(TorchDispatchMode):
    """Follows the bytes of all tensors made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._places: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see capture_lint

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                if place not in self._places:
                    self._places.add(place)
                    self.bytes += size
                    self.peak = max(self.peak, self.bytes)
                    weakref.finalize(storage, self._freed, place, size)
        return made

    def _freed(self, place: int, size: int) -> None:
        self._places.discard(place)
        self.bytes -= size


def test_a_large_vocabulary_needs_no_room_for_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of 512 tokens at 5,000 words are 10 MB, and as much for their gradient; four chunks are 2 MB.

    With GPT-2's 50,257 words, 65,536 tokens and `CHUNK` as it is, it is 26 GB against 540 MB.
    """
    monkeypatch.setattr(language_model, "CHUNK", 1 << 17)
    shape = GPTConfig(layer_count=1, width=8)
    values = language_model.language_model(shape, 5000, torch.Generator())
    parameters = {name: value[None].requires_grad_() for name, value in values.items()}
    tokens = torch.randint(5000, (1, 16, 32))
    with PeakMemory() as memory:
        language_model.token_losses(parameters, shape, tokens).sum().backward()
    assert 1e6 < memory.peak < 3e6


@pytest.mark.parametrize(("states", "count"), [(10, 727_424), (100, 738_944), (1000, 854_144), (10_000, 2_006_144)])
def test_parameter_counts_are_the_papers(states: int, count: int) -> None:
    config = Config(batch_size=1, law="iid", state_count=states)
    assert created(config, [0]).model.parameter_count() == count


def test_a_position_sees_its_past_alone() -> None:
    state = filled(CONFIG, [1, 2], torch.float64)
    tokens = state.table.tokens[0].long()
    changed = tokens.clone()
    changed[..., 4:] = (changed[..., 4:] + 1) % 5
    one, other = (token_logits(state.model.detached(), SMALL, some) for some in (tokens, changed))
    torch.testing.assert_close(one[:, :, :4], other[:, :, :4], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(one[:, :, 4], other[:, :, 4])


def test_dropout_is_active_while_training_only() -> None:
    dropping = filled(replace(CONFIG, dropout=True), [1], torch.float32)
    still = filled(CONFIG, [1], torch.float32)
    measured = lm.measure(dropping), lm.measure(still)
    assert measured[0] == measured[1]
    torch.manual_seed(0)
    lm.step(dropping)
    lm.step(still)
    assert dropping.metrics.values[0] != still.metrics.values[0]
    assert torch.equal(dropping.model.flat, created(CONFIG, [1]).model.flat)  # the first rate is zero


@pytest.mark.parametrize("stops", [(8, 12), (1, 12), (3, 4, 11, 12)])
@pytest.mark.parametrize("unroll", [1, 4, 5])
def test_what_is_dropped_depends_on_the_update_alone(unroll: int, stops: tuple[int, ...]) -> None:
    """Not on how many updates are made at once, on where a run stops or is resumed, or on what others draw."""
    config = replace(CONFIG, dropout=True)
    unbroken = created(config, [1, 2])
    with Runner(lm.step, unbroken, 4) as runner:
        runner.run(12)
    done, state = 0, created(config, [1, 2])
    for stop in stops:
        torch.rand(100)
        resumed = created(config, [1, 2])
        restore_tensors(resumed.moving(), state.moving(), "the other state")
        with Runner(lm.step, resumed, unroll, done=done) as runner:
            runner.run(stop - done)
        done, state = stop, resumed
    assert_same(state.moving(), unbroken.moving())


def test_every_process_and_every_run_drops_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: int, rank: int, first: int) -> float:
        monkeypatch.setattr(lm, "current_ranks", lambda: Ranks(rank=rank, count=2))
        lm.DropoutSeed(seed).feed(first, 1)
        return float(torch.rand(()))

    addresses = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 8), (2**64 - 1, 0, 0)]
    numbers = [drawn(*address) for address in addresses]
    assert len(set(numbers)) == len(addresses)
    assert numbers == [drawn(*address) for address in addresses]


def test_seeds_that_share_dropout_say_so() -> None:
    assert lm.shares_chance(Config()) and not lm.shares_chance(CONFIG)


def test_measured_are_the_sequences_held_out_and_the_entropy_rate() -> None:
    """Four are held out; a batch has three, so that one is left over."""
    state = created(CONFIG, [1, 2], torch.float64)
    state.model.flat.add_(torch.randn(state.model.flat.shape, generator=torch.Generator().manual_seed(0)), alpha=0.3)
    tokens = torch.from_numpy(lm.generate(CONFIG).read(36, 3)["tokens"].astype(np.int64)).expand(2, 3, 7)
    logits = token_logits(state.model.detached(), SMALL, tokens)[:, :, :-1]
    wanted = F.cross_entropy(logits.flatten(0, 2), tokens[..., 1:].flatten(), reduction="none").view(2, -1).mean(1)
    found = lm.measure(state)
    assert found["held_out_loss"] == pytest.approx(wanted.tolist())
    assert found["entropy_rate"] == [lm.generate(CONFIG).entropy_rate] * 2
    assert lm.generate(replace(CONFIG, law="iid")).entropy_rate == pytest.approx(math.log(5))
    assert "entropy_rate" not in lm.measure(created(TARGETS["mapping"], [0]))


@pytest.mark.slow
def test_learns_a_chain_to_its_entropy_and_not_below() -> None:
    """A chain of 10 states at temperature 0.1; the loss on fresh sequences ends within 0.02 of the entropy rate."""
    chain = tm.MarkovChain(state_count=10, temperature=0.1, seed=3)
    transition = torch.stack([torch.from_numpy(chain.probabilities([state])) for state in range(10)])
    stationary = torch.linalg.matrix_power(transition, 200)[0]
    entropy = float(-(stationary[:, None] * transition * transition.log()).sum())
    config = Config(
        state_count=10,
        temperature=0.1,
        data_seed=3,
        batch_size=32,
        length=64,
        position_count=64,
        learning_rate=3e-3,
        warmup_updates=50,
        decay_updates=600,
        dropout=False,
        backbone=GPTConfig(layer_count=1, width=32),
    )
    table = TokenTable(lm.generate(config), 1, 32, CPU, torch.float32)
    state = lm.create(config, table, [0])
    with Runner(lm.step, state) as runner:
        runner.run(600)
    loss = state.metrics.mean_of_last(550, 600)["loss"][0]
    assert entropy - 0.01 < loss < entropy + 0.02
    assert table.rows.entropy_rate == pytest.approx(entropy)


LAW = replace(CONFIG, law="dyck", law_fields=("pairs=2", "max_depth=3"))


def test_the_optimum_is_that_of_the_predicted_tokens() -> None:
    """Beside the held-out loss, over the same sequences, without the first token, which nothing predicts."""
    law = tm.Dyck(pairs=2, max_depth=3)
    assert lm.law_of(LAW) == law
    wanted = law.losses(law.sample(4, 7, first_sequence=36))[:, 1:].mean()
    assert lm.generate(LAW).optimal_loss == pytest.approx(wanted)
    measured = lm.measure(created(LAW, [1, 2]))
    assert measured["optimal_loss"] == [pytest.approx(wanted)] * 2 and "entropy_rate" not in measured


def test_a_stored_corpus_trains_as_its_law_does(tmp_path: Path) -> None:
    """The same tokens, vocabulary and optimum; a mask makes targets of some tokens alone."""
    law = lm.law_of(LAW)
    build(make_spec("dyck", law.spec(), row_count=40, length=7, shard_rows=16), tmp_path / "plain", threads=1)
    ours, theirs = lm.generate(replace(CONFIG, corpus=tmp_path / "plain")), lm.generate(LAW)
    assert (ours.vocabulary_size, ours.optimal_loss) == (theirs.vocabulary_size, pytest.approx(theirs.optimal_loss))
    np.testing.assert_array_equal(ours.read(13, 20)["tokens"], theirs.read(13, 20)["tokens"])
    spec = make_spec("dyck", law.spec(), row_count=40, length=7, columns=["loss_mask"], shard_rows=16)
    build(spec, tmp_path / "masked", threads=1)
    masked = lm.generate(replace(CONFIG, corpus=tmp_path / "masked"))
    assert masked.has_mask and masked.optimal_loss == pytest.approx(theirs.optimal_loss)
    with pytest.raises(ValueError, match=r"rows of .*plain have 7 tokens, got length 8; give --method.length"):
        lm.generate(replace(CONFIG, corpus=tmp_path / "plain", length=8))
    with pytest.raises(ValueError, match="holds 40 sequences, 45 are needed"):
        lm.generate(replace(CONFIG, corpus=tmp_path / "plain", held_out_count=42, sequence_count=100))


def test_masks_become_targets() -> None:
    """Half of the tokens count; losses equal those of the positions that predict them."""

    class Rows:
        columns = (
            Column(name="tokens", dtype="uint8", row_length=7),
            Column(name="loss_mask", dtype="uint8", row_length=7),
        )

        def fill(self, first_row: int, arrays: dict[str, np.ndarray], threads: int | None) -> None:
            count = len(arrays["tokens"])
            generator = np.random.default_rng(first_row)
            arrays["tokens"][:] = generator.integers(0, 5, (count, 7))
            arrays["loss_mask"][:] = generator.integers(0, 2, (count, 7))

    rows = TokenRows(name="masked", vocabulary_size=5, rows=Rows(), row_count=40, held_out_count=4)
    table = TokenTable(rows, 2, 3, CPU, torch.float64)
    state = lm.create(replace(CONFIG, weight_decay=0.0), table, [1, 2], metric_capacity=8)
    table.feed(0, 1)
    batch = rows.read(0, 3)
    targets = table.targets[0, 0].numpy()
    assert (targets[:, -1] == -1).all()
    np.testing.assert_array_equal(
        targets[:, :-1], np.where(batch["loss_mask"][:, 1:] == 1, batch["tokens"][:, 1:].astype(int), -1)
    )
    logits = token_logits(state.model.detached(), SMALL, table.tokens[0].long())
    wanted = [
        F.cross_entropy(each.flatten(0, 1), table.targets[0, 0].long().flatten(), ignore_index=-1) for each in logits
    ]
    lm.step(state)
    assert state.metrics.mean_of_last(0, 1)["loss"] == pytest.approx([float(each) for each in wanted])
    held, weights = 0.0, 0.0
    for tokens, goals in table.held_out():
        logits = token_logits(state.model.detached(), SMALL, tokens.long())[0]
        held += float(
            F.cross_entropy(logits.flatten(0, 1), goals[0].long().flatten(), ignore_index=-1, reduction="sum")
        )
        weights += float((goals[0] >= 0).sum())
    assert lm.measure(state)["held_out_loss"][0] == pytest.approx(held / weights)


@pytest.mark.slow
def test_learns_brackets_to_the_optimum_and_not_below() -> None:
    """Two kinds of brackets to depth 3: the held-out loss ends within 0.02 nats of the best predictor's."""
    config = replace(
        LAW,
        sequence_count=40_000,
        held_out_count=512,
        batch_size=64,
        length=32,
        position_count=32,
        learning_rate=3e-3,
        warmup_updates=50,
        decay_updates=1500,
        backbone=GPTConfig(layer_count=2, head_count=2, width=64),
    )
    table = TokenTable(lm.generate(config), 1, 64, CPU, torch.float32)
    state = lm.create(config, table, [0])
    with Runner(lm.step, state) as runner:
        runner.run(1500)
    found = lm.measure(state)
    assert found["optimal_loss"][0] - 1e-3 < found["held_out_loss"][0] < found["optimal_loss"][0] + 0.02


@pytest.mark.slow
def test_learns_chains_in_context_to_the_optimum_and_not_below() -> None:
    """Fresh Dirichlet chains: the held-out loss ends within 0.02 nats of Bayes', and beats counts of single tokens.

    Both losses are of the same sequences, so a model is below Bayes by chance alone, at any time: by less than four
    standard errors of their difference.
    """
    config = replace(
        CONFIG,
        law="chain_population",
        law_fields=("state_count=2", "rows=dirichlet"),
        sequence_count=64 * 800 + 4096,
        held_out_count=4096,
        batch_size=64,
        length=32,
        position_count=32,
        learning_rate=3e-3,
        warmup_updates=50,
        decay_updates=800,
        backbone=GPTConfig(layer_count=2, head_count=1, width=32),
    )
    table = TokenTable(lm.generate(config), 1, 64, CPU, torch.float32)
    state, law = lm.create(config, table, [0]), lm.law_of(config)
    tokens = table.rows.read(64 * 800, 4096)["tokens"].astype(np.int64)
    best, alone = (each[:, 1:].mean(1) for each in (law.losses(tokens), add_alpha_losses(tokens, 0, 1.0, 2)))
    over = np.zeros(len(tokens))
    with Runner(lm.step, state) as runner:
        for _ in range(4):
            runner.run(200)
            with torch.no_grad():
                scores = token_logits(state.model.detached(), config.backbone, torch.from_numpy(tokens)[None])
            found = F.cross_entropy(scores[0, :, :-1].mT, torch.from_numpy(tokens[:, 1:]), reduction="none").mean(1)
            over = found.double().numpy() - best
            assert over.mean() > -4 * over.std() / len(over) ** 0.5
    assert lm.measure(state)["held_out_loss"][0] == pytest.approx(float(found.mean()), rel=1e-4)
    assert over.mean() < 0.02 < 0.05 < (alone - best).mean()


def donated(config: Config, seeds: Sequence[int]) -> tuple[dict[str, torch.Tensor], dict[str, Any], lm.State]:
    """A checkpoint of models that are no longer what they began as, and their state."""
    state = created(config, seeds)
    state.model.flat.add_(torch.randn(state.model.flat.shape, generator=torch.Generator().manual_seed(0)))
    return *checkpoint_of(lm, state, list(seeds)), state


def test_a_model_starts_from_another_seed_by_seed() -> None:
    """With its blocks and positions; with token embeddings, a table of other tokens, of its own."""
    tensors, known, donor = donated(replace(LAW, position_count=12), [4, 5, 6])
    fresh, state = created(CONFIG, [6, 4]), created(CONFIG, [6, 4])
    started = lm.start_from(state, tensors, known)
    assert started is state and started.step == 0
    for name, value in started.model.detached().items():
        theirs = donor.model.detached()[name]
        if name == "wte.weight":
            assert torch.equal(value, fresh.model.detached()[name])
        else:
            assert torch.equal(value, (theirs[:, :9] if name == "wpe.weight" else theirs)[[2, 0]]), name
    assert any(name.startswith("h.") for name in started.model.detached())


def test_all_seeds_may_start_from_one_model() -> None:
    tensors, known, donor = donated(LAW, [7])
    state = lm.start_from(created(CONFIG, [1, 2]), tensors, known)
    assert torch.equal(state.model.detached()["ln_f.weight"], donor.model.detached()["ln_f.weight"].expand(2, -1))


@pytest.mark.parametrize(
    ("seeds", "donor", "said", "message"),
    [
        ([1], {}, {"kind": "cql"}, "starts from one, not from a run of cql"),
        ([1], {"backbone": replace(SMALL, width=16)}, {}, "backbone has width 16, --method.backbone asks for 8"),
        ([1], {"position_count": 8}, {}, "position_count must be at most 8, as pre-trained, got 9"),
        ([3], {}, {}, r"each seed starts from its own of \[1, 2\], or all from one; got seeds \[3\]"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    seeds: list[int], donor: dict[str, Any], said: dict[str, Any], message: str
) -> None:
    tensors, known, _ = donated(replace(CONFIG, **donor), [1, 2])
    state = created(CONFIG, seeds)
    with pytest.raises(ValueError, match=message):
        lm.start_from(state, tensors, {**known, **said})


def test_a_start_from_a_seed_that_diverged_is_refused() -> None:
    tensors, known, _ = donated(CONFIG, [1, 2])
    tensors["model"][1] = math.nan
    lm.start_from(created(CONFIG, [1]), tensors, known)
    with pytest.raises(ValueError, match="of seed 2 has numbers that are not finite"):
        lm.start_from(created(CONFIG, [2]), tensors, known)


def test_an_exported_model_comes_back(tmp_path: Path) -> None:
    """The first seed's, as it was and as it began."""
    state = created(CONFIG, [7, 8])
    fresh = {name: parameter[0].clone() for name, parameter in state.model.detached().items()}
    with Runner(lm.step, state) as runner:
        runner.run(3)
    tensors, known = checkpoint_of(lm, state, [7, 8])
    lm.export(tensors, known, tmp_path)
    again, described = lm.read_exported(tmp_path)
    backbone, parameters = lm.learned(again, described)
    assert backbone == SMALL
    assert parameters.keys() == fresh.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, state.model.detached()[name][0]), name
        assert torch.equal(lm.before(known)[name], fresh[name]), name
    assert not torch.equal(parameters["wte.weight"], fresh["wte.weight"])


def test_a_nan_in_one_model_shows_in_what_is_measured() -> None:
    state = created(CONFIG, [1, 2, 3])
    poison(state, 3, 1)
    losses = lm.measure(state)["held_out_loss"]
    assert np.isnan(losses).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "wiki"}, r"law must be one of markov, iid, .*dyck.*, got 'wiki'"),
        ({"law_fields": ("pairs=2",)}, "law_fields and law_preset are for the other laws, not for markov"),
        ({"corpus": Path("x"), "law": "dyck"}, "corpus x is learned instead of a law or a text; give no"),
        ({"length": 1}, "length .* got 1"),
        ({"length": 10}, r"length .* position_count \(9\), got 10"),
        ({"decay_updates": 4}, "decay_updates .* at least 5, got 4"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"held_out_count": 2}, "held_out_count .* at least 3, got 2"),
        ({"sequence_count": 6}, "sequence_count .* at least 7, got 6"),
        ({"temperature": 0.0}, "temperature"),
        ({"vocabulary": Path("here")}, "vocabulary here .* text"),
        ({"target": "identity"}, "target identity .* --method.law iid"),
        ({"law": "iid", "target": "mapping", "text": (Path("a.txt"),)}, "target mapping .* text"),
        ({"law": "iid", "target": "mapping", "stream": "reference"}, "stream reference .* use v1"),
        ({"text": (Path("a.txt"),), "stream": "reference"}, "stream reference .* text"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
