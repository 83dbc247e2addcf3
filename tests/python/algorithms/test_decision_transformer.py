"""Decision Transformer: equality with a slow twin, sizes, padding, warm-up, what it starts from, and the battery."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from battery import Case, battery, battery_of_a_gpu, checkpoint_of, feed
from dt_twin import Window, cluster_cosine, cluster_product, language_loss, mean_squared_error
from small_data import LENGTHS, recording

from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model as lm
from trajmill.algorithms.decision_transformer import Config, Start
from trajmill.models.decision_transformer import Windows, predicted_actions
from trajmill.models.gpt import GPTConfig
from trajmill.replay.tables import Mixture, WindowRows, WindowTable
from trajmill.replay.token_table import TokenTable
from trajmill.training.draws import indexes
from trajmill.training.dropout import dropout_factors

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = GPTConfig(layer_count=2, head_count=2, width=8, residual_dropout=0.2)
CONFIG = Config(batch_size=6, context_length=4, warmup_updates=4, backbone=SMALL)
TERMS = replace(
    CONFIG, cluster_weight=0.3, cluster_count=3, cluster_updates=20, language_weight=0.7, backbone_weight_decay=1e-3
)
LANGUAGE = lm.Config(
    state_count=5, length=7, position_count=12, batch_size=3, held_out_count=4, sequence_count=50, backbone=SMALL
)


def rows(config: Config = CONFIG, observation_dim: int = 3, action_dim: int = 2) -> WindowRows:
    return dt.prepare(config, recording(observation_dim=observation_dim, action_dim=action_dim))


def table(dtype: torch.dtype, observation_dim: int = 3, action_dim: int = 2) -> WindowTable:
    return rows(CONFIG, observation_dim, action_dim).table(CPU, dtype)


def pretrained(config: lm.Config = LANGUAGE) -> Start:
    """A checkpoint of a language model with five tokens, far from its initial values; sequences have seven."""
    state = lm.create(config, TokenTable(lm.generate(config), 2, 3, CPU, torch.float32), [8, 9])
    state.model.flat.add_(torch.randn(state.model.flat.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return checkpoint_of(lm, state, [8, 9])


CASES = {
    "plain": Case(method=dt, config=CONFIG, rows=rows()),
    "terms": Case(method=dt, config=TERMS, rows=rows(), start=pretrained, sensitivity=2.0),
    "mixture": Case(
        method=dt,
        config=CONFIG,
        rows=Mixture.of([rows(), dt.prepare(CONFIG, recording((2, 8, 3), observation_dim=3, seed=4))], [1.0, 2.0]),
    ),
}
test_battery, test_battery_of_a_gpu = battery(CASES), battery_of_a_gpu(CASES)


@pytest.mark.parametrize(
    ("observation_dim", "action_dim", "count"), [(11, 3, 726_019), (17, 6, 727_558), (111, 8, 740_104)]
)
def test_parameter_counts_are_the_papers(observation_dim: int, action_dim: int, count: int) -> None:
    state = dt.create(Config(), table(torch.float32, observation_dim, action_dim), [0])
    assert state.backbone.parameter_count() == 595_072
    assert state.backbone.parameter_count() + state.embeddings.parameter_count() == count


def test_initial_deviations() -> None:
    state = dt.create(Config(), table(torch.float32), [0])
    for name, parameter in state.backbone.detached().items():
        if name.endswith("weight") and "ln" not in name:
            expected = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert float(parameter.std()) == pytest.approx(expected, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name


@pytest.mark.parametrize("order", ["normalize-first", "timestep-first"])
@pytest.mark.parametrize("shared", [False, True])
def test_updates_equal_the_twin(order: str, shared: bool) -> None:
    """Twenty updates of the second of two seeds in float64, dropout, clipping, decay and warm-up included."""
    config = replace(CONFIG, embedding_order=order, shared_projection=shared)
    compare_with_twin(dt.create(config, table(torch.float64), [3, 4]))


@pytest.mark.parametrize(
    "terms", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("cluster", "language", "released")), "both"]
)
@pytest.mark.parametrize("extended", [False, True])
def test_updates_with_terms_equal_the_twin(terms: str, extended: bool) -> None:
    """The same with the terms of Reid et al.; with extended positions one table is positions and timesteps at once."""
    changes = {
        "cluster": {"language_weight": 0.0},
        "language": {"cluster_weight": 0.0},
        "both": {},
        "released": {"language_weight": 0.0, "cluster_term": "released", "cluster_weight": 30.0},
    }
    config = replace(TERMS, extend_positions=extended, clip_norm=1.0, **changes[terms])
    state = dt.create(config, table(torch.float64), [3, 4])
    compare_with_twin(dt.start_from(state, *pretrained()), atol=1e-9)


def compare_with_twin(state: dt.State, atol: float = 1e-11) -> None:
    """Twenty updates of the second of two seeds, some of them while the step size still rises."""
    config, data = state.config, state.table
    order, shared = config.embedding_order, config.shared_projection
    stacks = [stack for stack in (state.embeddings, state.backbone, state.language) if stack is not None]
    plain = {
        name: parameter[1].clone().requires_grad_() for stack in stacks for name, parameter in stack.detached().items()
    }
    positions = "wpe.weight" if "wpe.weight" in plain else "embed_timestep.weight"
    decays = (config.weight_decay, config.backbone_weight_decay, config.backbone_weight_decay)
    groups = [
        {"params": [plain[name] for name in stack.parameters], "weight_decay": decay}
        for stack, decay in zip(stacks, decays, strict=False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 4, 1))
    sites = state.dropout_sites
    lengths = np.repeat(LENGTHS, LENGTHS)
    place = np.concatenate([np.arange(length) for length in LENGTHS])
    for update in range(20):
        starts = indexes(state.draws.words(state.step, 1)["window"][0], len(data.end))
        words = {site: drawn[0] for site, drawn in state.dropout_draws.words(state.step, 1).items()}
        factors = dropout_factors(sites, words, torch.float64)
        feed(state, update, 1)
        tokens = None if state.tokens is None else state.tokens.tokens[0]
        dt.update(state, data.gather(starts), factors, tokens)
        windows = []
        for start in starts[1].tolist():
            taken = data.rows[start : start + min(4, lengths[start] - place[start])]
            time = torch.from_numpy(place[start : start + len(taken)])
            windows.append(Window(taken[:, :3], taken[:, 3:5], taken[:, 5], time))
        mine = {site: values[1] for site, values in factors.items() if not site.startswith("language.")}
        error = mean_squared_error(plain, windows, mine, order=order, shared=shared, layers=2, heads=2)
        loss, terms = error, {}
        if state.centers is not None and config.cluster_term == "cosine":
            terms["cluster_cosine"] = cluster_cosine(plain, windows, state.centers)
            left = 1 / (1 + math.exp(-((20 - update) / 2 - 5)))
            loss = loss - 0.3 * left * terms["cluster_cosine"]
        elif state.centers is not None:
            padding = Window(data.rows[-1:, :3], data.rows[-1:, 3:5], data.rows[-1:, 5], torch.zeros(1))
            terms["cluster_product"] = cluster_product(plain, windows, state.centers, padding, 4)
            left = 1 / (1 + math.exp(-((20 - (update + 1)) / 2 - 5)))
            loss = loss - 30.0 * left * terms["cluster_product"]
        if tokens is not None:
            theirs = {site[9:]: values[1] for site, values in factors.items() if site.startswith("language.")}
            terms["language_loss"] = language_loss(plain, tokens[1].long(), theirs, positions, layers=2, heads=2)
            loss = loss + 0.7 * terms["language_loss"]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.values(), config.clip_norm)
        optimizer.step()
        warmup.step()
    for stack in stacks:
        for name, parameter in stack.detached().items():
            torch.testing.assert_close(parameter[1], plain[name].detach(), rtol=1e-9, atol=atol, msg=name)
    logged = {name: values[1] for name, values in state.metrics.mean_of_last(19, 20).items()}
    expected = {"loss": error, "gradient_norm": norm} | terms
    assert logged == pytest.approx({name: float(value.detach()) for name, value in expected.items()})


def test_terms_fade_and_padded_steps_change_none_of_them() -> None:
    left = dt.fading(Config(), torch.tensor([0, 2500, 5000]))
    assert left.tolist() == pytest.approx([0.9933, 0.5, 0.0067], abs=1e-4)
    state = dt.start_from(dt.create(TERMS, table(torch.float64), [0]), *pretrained())
    batch = state.table.gather(torch.tensor([[0, 3, 7, 21, 12, 5]]))
    other = replace(batch, observation=torch.where(batch.mask[..., None], batch.observation, 77.0))
    assert torch.equal(dt.cluster_cosine(state, batch), dt.cluster_cosine(state, other))


def test_the_released_cluster_term_equals_the_twin() -> None:
    """Value and gradient in float64, on windows of one to four steps; observations are padded with zeros before they
    are normalized, actions with -10. Updates are counted from 1."""
    config = replace(TERMS, cluster_term="released", language_weight=0.0)
    state = dt.start_from(dt.create(config, table(torch.float64), [3, 4]), *pretrained())
    data, starts = state.table, [0, 3, 7, 21, 12, 5]
    observations, padding = recording(observation_dim=3, action_dim=2).observations, data.rows[-1:]
    zero = -observations.mean(0) / (observations.std(0) + 1e-6)
    assert padding[0].tolist() == pytest.approx([*zero, -10.0, -10.0, 0.0], rel=1e-5)
    batch = data.gather(torch.tensor([starts, starts]))
    plain = {name: value[1].clone().requires_grad_() for name, value in state.embeddings.detached().items()}
    cuts = [data.rows[start : start + count] for start, count in zip(starts, batch.mask[1].sum(1), strict=True)]
    one, *windows = [Window(rows[:, :3], rows[:, 3:5], rows[:, 5], torch.zeros(len(rows))) for rows in (padding, *cuts)]
    wanted = cluster_product(plain, windows, state.centers, one, 4)
    found = dt.cluster_product(state, batch)
    torch.testing.assert_close(found[1], wanted, rtol=1e-9, atol=0)
    assert abs(float(wanted.detach())) < 0.5 * float(dt.cluster_cosine(state, batch)[1].detach())
    found[1].backward()
    wanted.backward()
    for name in ("embed_return.weight", "embed_state.weight", "embed_action.bias", "embed_ln.weight"):
        gradient = state.embeddings.parameters[name].grad
        torch.testing.assert_close(gradient[1], plain[name].grad, rtol=1e-9, atol=1e-12, msg=name)
    left = dt.fading(config, torch.tensor([0, 19]))
    assert left.tolist() == pytest.approx([1 / (1 + math.exp(-4.5)), 1 / (1 + math.exp(5))], rel=1e-12)


def test_the_table_of_positions_moves_twice_where_it_was_pretrained() -> None:
    once = replace(CONFIG, extend_positions=True, adam_epsilon=1e-6)
    tables = []
    for twice in (False, True):
        state = dt.create(replace(once, positions_twice=twice), table(torch.float64), [3, 4])
        assert state.optimizer.twice is None  # from scratch there is no table to take over
        state = dt.start_from(state, *pretrained())
        before = state.embeddings.flat.clone()
        dt.step(state)
        tables.append((state.embeddings.flat - before, state.embeddings.columns("embed_timestep.weight")))
    (moved, columns), (further, _) = tables
    others = torch.ones_like(moved[0], dtype=torch.bool)
    others[columns] = False
    assert torch.equal(moved[:, others], further[:, others])
    reached = moved[:, columns].abs() > 1e-6
    ratio = (further / moved)[:, columns][reached]
    assert reached.any() and ((ratio > 1.99) & (ratio < 2.01)).all()
    with pytest.raises(ValueError, match="positions_twice is for the table that extend_positions takes over"):
        replace(CONFIG, positions_twice=True)


@pytest.mark.parametrize("term", ["cluster_weight", "language_weight"])
def test_terms_without_a_pretrained_backbone_are_refused(term: str) -> None:
    """A fresh state may be started from one, so it is refused when it describes itself, before anything is written."""
    state = dt.create(replace(CONFIG, **{term: 0.1}), table(torch.float32), [0])
    with pytest.raises(ValueError, match=f"{term} .*--init"):
        dt.describe(state)
    assert dt.describe(dt.start_from(dt.create(TERMS, table(torch.float32), [0]), *pretrained()))


def test_cluster_weight_acts_on_what_is_normalized_first() -> None:
    with pytest.raises(ValueError, match=r"cluster_weight .* normalize-first"):
        replace(CONFIG, cluster_weight=0.1, embedding_order="timestep-first")


def test_padded_steps_change_nothing() -> None:
    data = table(torch.float64)
    state = dt.create(CONFIG, data, [0])
    batch = data.gather(torch.tensor([[0, 3, 7, 21, 12, 5]]))
    assert not batch.mask.all() and (batch.mask.sum(-1) == 1).any()
    other = replace(
        batch,
        observation=torch.where(batch.mask[..., None], batch.observation, 77.0),
        action=torch.where(batch.mask[..., None], batch.action, -55.0),
        return_to_go=torch.where(batch.mask, batch.return_to_go, 9e5),
        timestep=torch.where(batch.mask, batch.timestep, 999),
    )
    found = [
        torch.autograd.grad(dt.loss(state, one).sum(), [*state.backbone.parameters.values()]) for one in (batch, other)
    ]
    assert torch.equal(dt.loss(state, batch), dt.loss(state, other))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_rate_of_dropping_and_expectation_are_exact() -> None:
    state = dt.create(replace(CONFIG, batch_size=64), table(torch.float32), [0])
    sites = SMALL.dropout_shapes(64, 12)
    words = {site: drawn[0] for site, drawn in state.dropout_draws.words(state.step, 1).items()}
    for site, factors in dropout_factors(sites, words, torch.float64).items():
        probability = sites[site][0]
        assert factors.max() == pytest.approx(1 / (1 - probability), rel=1e-4)
        error = math.sqrt(probability * (1 - probability) / factors.numel())
        assert abs(float((factors == 0).double().mean()) - probability) < 5 * error, site


@pytest.mark.parametrize("extended", [False, True])
def test_pretrained_backbone_and_positions_start_every_seed(extended: bool) -> None:
    tensors, known = pretrained()
    _, learned = lm.learned(tensors, known)
    fresh = dt.create(replace(CONFIG, extend_positions=extended), table(torch.float32), [1, 2], metric_capacity=5)
    state = dt.start_from(fresh, tensors, known)
    for name, parameter in state.backbone.detached().items():
        assert torch.equal(parameter[0], learned[name]) and torch.equal(parameter[1], learned[name])
    for name, parameter in state.embeddings.detached().items():
        if extended and name == "embed_timestep.weight":
            assert torch.equal(parameter[1], learned["wpe.weight"])
        elif name.startswith("embed"):  # what is drawn after the table of timesteps depends on its size
            assert torch.equal(parameter, fresh.embeddings.detached()[name]), name
    assert not torch.equal(*state.embeddings.detached()["embed_state.weight"].unbind(0))
    assert state.draws.seeds == [1, 2] and len(state.metrics.values) == 5
    assert state.network.timestep_count == (12 if extended else 1000)


def test_the_language_term_reads_the_sequences_that_were_learned() -> None:
    config = replace(TERMS, language_batch_size=4)
    state = dt.start_from(dt.create(config, table(torch.float32), [1, 2]), *pretrained())
    learned = lm.generate(LANGUAGE).read(0, 46)["tokens"]  # the last four are held out
    for update in (0, 3, 12):
        feed(state, update, 1)
        expected = learned[np.arange(4 * update, 4 * update + 4) % 46]
        assert np.array_equal(state.tokens.tokens[0].numpy(), np.broadcast_to(expected, (2, 4, 7)))


@pytest.mark.parametrize(
    ("config", "said", "words"),
    [
        (CONFIG, {"kind": "cql"}, ("language_model", "cql")),
        (replace(CONFIG, backbone=replace(SMALL, layer_count=1)), {}, ("layer_count 2", "asks for 1")),
        (replace(CONFIG, backbone=replace(SMALL, activation="gelu")), {}, ("activation relu", "gelu")),
        (replace(TERMS, cluster_count=6), {}, ("cluster_count", "at most 5", "got 6")),
        (replace(CONFIG, language_weight=1.0), {"method": {"law": "iid", "target": "identity"}}, ("identity",)),
    ],
)
def test_what_does_not_fit_is_refused(config: Config, said: dict[str, Any], words: tuple[str, ...]) -> None:
    tensors, known = pretrained()
    state = dt.create(config, table(torch.float32), [0])
    with pytest.raises(ValueError) as refusal:
        dt.start_from(state, tensors, known | said)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_the_language_term_needs_the_settings_of_the_pretraining() -> None:
    tensors, known = pretrained()
    del known["method"]
    with pytest.raises(ValueError, match=r"language_weight .* config\.json"):
        dt.start_from(dt.create(TERMS, table(torch.float32), [0]), tensors, known)


def test_timesteps_must_be_in_the_table_of_positions() -> None:
    long = dt.prepare(CONFIG, recording((14,), observation_dim=3)).table(CPU, torch.float32)
    state = dt.create(replace(CONFIG, extend_positions=True), long, [0])
    with pytest.raises(ValueError, match="below 12, got 13"):
        dt.start_from(state, *pretrained())


def test_the_target_return_is_the_papers_unless_another_is_given() -> None:
    assert dt.adapt(CONFIG, recording(), "Hopper-v4").target_return == 3600.0
    assert dt.adapt(replace(CONFIG, target_return=5.0), recording(), "Hopper-v4").target_return == 5.0
    with pytest.raises(ValueError, match=r"InvertedPendulum-v4.*--method\.target-return"):
        dt.adapt(CONFIG, recording(), "InvertedPendulum-v4")


def test_acting_step_by_step_is_the_network_on_windows() -> None:
    """Actions of an episode played one step at a time equal those of the network on the padded windows of its data."""
    rng = np.random.default_rng(0)
    steps, episodes, length = 7, 3, CONFIG.context_length
    observations = rng.normal(size=(2, episodes, steps, 3)).astype(np.float32)
    rewards = rng.normal(size=(2, episodes, steps)).astype(np.float32)
    config = replace(CONFIG, target_return=50.0, return_scale=10.0)
    state = dt.create(config, table(torch.float32), [5, 6])
    for stack in (state.embeddings, state.backbone):
        stack.flat.add_(torch.randn(stack.flat.shape, generator=torch.Generator().manual_seed(2)), alpha=0.2)
    policy, normalizer = dt.policy(state), state.table.facts.normalizer
    actions = np.zeros((2, episodes, steps, 2), np.float32)
    for _ in range(2):  # the second time everything has been forgotten
        policy.start(2, episodes)
        for t in range(steps):
            actions[:, :, t] = policy(observations[:, :, t])
            policy.observe(rewards[:, :, t], np.ones((2, episodes), bool))
    left = (50.0 - np.concatenate([np.zeros((2, episodes, 1)), rewards.cumsum(-1)[..., :-1]], -1)) / 10.0
    for t in range(steps):
        first = max(0, t - length + 1)
        window = slice(first, t + 1)
        past = torch.from_numpy(actions[:, :, window]).clone()
        past[:, :, -1] = 0.0
        expected = predicted_actions(
            state.embeddings.detached(),
            state.backbone.detached(),
            state.network,
            Windows(
                observation=torch.from_numpy(normalizer.normalize(observations[:, :, window])),
                action=past,
                return_to_go=torch.from_numpy(left[:, :, window]).float(),
                timestep=torch.arange(first, t + 1).expand(2, episodes, -1),
                mask=torch.ones(2, episodes, t + 1 - first, dtype=torch.bool),
            ),
        )
        np.testing.assert_allclose(actions[:, :, t], expected[:, :, -1].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clip_norm": math.nan}, "clip_norm"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"top_fraction": 0.0}, "top_fraction"),
        ({"return_scale": -1.0}, "return_scale"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)
