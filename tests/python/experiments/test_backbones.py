"""Language models and the Decision Transformers that start from them: tokens, transfer, terms, acting, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import Killed, checkpoint, killing, lines, result, tensors, tiny, train

from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms import language_model
from trajmill.core import MarkovChain, reference
from trajmill.core.sealing import unsealed
from trajmill.data import Normalizer
from trajmill.experiments.evaluate import EvaluateConfig, evaluate_run, read_policy
from trajmill.models.decision_transformer import Windows, predicted_actions
from trajmill.models.gpt import GPTConfig
from trajmill.replay.tables import WindowFacts, WindowTable
from trajmill.replay.token_table import TokenRows, TokenTable
from trajmill.runs.reading import read_start
from trajmill.training.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from trajmill.training.settings import Schedule

SHORT = Schedule(updates=12, log_interval=4, evaluation_interval=6, checkpoint_interval=6, unroll=4)
ONE = replace(SHORT, updates=1)


def language(**method: Any) -> language_model.Config:
    config: language_model.Config = tiny("language_model", method=method).method
    return config


def start(**method: Any) -> Any:
    return tiny("language_model", method={"decay_updates": 50} | method, schedule=SHORT)


def transformer(**changes: Any) -> Any:
    return tiny("decision_transformer", **{"schedule": SHORT} | changes)


@pytest.fixture
def pretrained(whole: Callable[..., Path]) -> Path:
    return whole(start())


# --- tokens ---


def batch(rows: TokenRows, update: int) -> np.ndarray:
    """What one seed reads in an update."""
    table = TokenTable(rows, 2, 8, torch.device("cpu"), torch.float32)
    table.reserve(3)
    table.feed(update - 1 if update else 0, 2)
    read = table.tokens[1 if update else 0].numpy()
    assert np.array_equal(read[0], read[1])
    return read[0]


def held_out(rows: TokenRows) -> np.ndarray:
    table = TokenTable(rows, 1, 8, torch.device("cpu"), torch.float32)
    return np.concatenate([tokens[0].numpy() for tokens, _ in table.held_out()])


def test_pretraining_reads_the_sequences_of_the_law_in_order_and_again() -> None:
    found = language_model.generate(language())
    rows = MarkovChain(state_count=7, seed=42).sample(40, 12)
    for update in range(10):
        wanted = (update * 8 + np.arange(8)) % 31
        assert np.array_equal(batch(found, update), rows[wanted])
    assert np.array_equal(held_out(found), rows[31:39])


@pytest.mark.parametrize(("law", "state_count", "workers"), [("markov", 7, 8), ("markov", 1001, 32), ("iid", 7, 32)])
def test_pretraining_reads_the_authors_tokens_in_worker_order(law: str, state_count: int, workers: int) -> None:
    config = language(law=law, state_count=state_count, stream="reference", sequence_count=2 * 32 * workers)
    sizes = {"worker_count": workers, "batch_size": 32 * workers, "length": 12}
    if law == "iid":
        rounds = [reference.iid_tokens(state_count, 666, **sizes, iteration=i) for i in range(2)]
    else:
        rounds = [reference.markov_tokens(1, state_count, 1.0, 666, **sizes, iteration=i) for i in range(2)]
    rows = np.concatenate(rounds)
    found = language_model.generate(config)
    for update in (0, 1, 5, 32 * workers // 8, len(rows) // 8):
        wanted = (update * 8 + np.arange(8)) % (len(rows) - 9)
        assert np.array_equal(batch(found, update), rows[wanted])
    assert np.array_equal(held_out(found), rows[-9:-1])
    other = language_model.generate(replace(config, data_seed=42))
    assert not np.array_equal(batch(other, 0), rows[:8])


def test_the_evaluation_holds_the_floor_of_the_loss(tmp_path: Path) -> None:
    """The published entropy rate of the authors' chain of 100 states, and none where it would be dear."""
    config = tiny("language_model", method={"state_count": 100, "stream": "reference"}, schedule=ONE)
    run = train(config, tmp_path / "run")
    assert result(run)["last_metrics"]["entropy_rate"] == [pytest.approx(4.564843, abs=1e-6)] * 2
    assert json.loads((run / "config.json").read_text())["config"]["method"]["data_seed"] == 666

    def floor(**method: Any) -> float | None:
        return language_model.generate(language(**method)).entropy_rate

    assert floor(law="iid") == pytest.approx(np.log(7))
    assert floor(order=2) is None and floor(state_count=1001) is None
    assert floor() != pytest.approx(floor(data_seed=666))


def test_the_reference_stream_has_no_controls_and_no_text() -> None:
    for target in ("identity", "mapping"):
        with pytest.raises(ValueError, match=f"target {target}; use v1"):
            language(stream="reference", law="iid", target=target)
        with pytest.raises(ValueError, match=f"target {target} is for law iid"):
            language(target=target)
    with pytest.raises(ValueError, match="not of text"):
        language(stream="reference", text=(Path("a.txt"),))


@pytest.mark.parametrize(
    ("law", "target"), [("iid", "next"), ("iid", "identity"), ("iid", "mapping"), ("markov", "next")]
)
def test_controls_are_pretrained_too(law: str, target: str, tmp_path: Path) -> None:
    run = train(replace(start(law=law, target=target), seeds=(3,)), tmp_path / "run")
    loss = result(run)["last_metrics"]["held_out_loss"][0]
    assert 1.5 < loss < 2.1  # ln 7 = 1.95; a token's own embedding already points at it
    moving, metadata = read_checkpoint(checkpoint(run))
    assert metadata["target_count"] == (7 if target == "mapping" else 0)
    _, learned = language_model.learned(*read_start(run))
    assert learned["wpe.weight"].shape == (1024, 16) and "h.0.mlp.c_proj.weight" in learned
    assert moving["model"].shape[0] == 1


def test_too_few_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="held_out_count must be at least 8, got 5"):
        language(held_out_count=5)
    with pytest.raises(ValueError, match="sequence_count must be at least 17, got 10"):
        language(sequence_count=10)


# --- runs of an earlier version ---


def test_a_run_of_an_older_version_lacks_settings_and_has_their_defaults(broken: Callable[..., Path]) -> None:
    run = broken(start(), 7)
    path = run / "config.json"
    described = unsealed(json.loads(path.read_text()))  # older versions wrote no checksums
    del described["config"]["method"]["stream"], described["config"]["method"]["dropout"]
    path.write_text(json.dumps(described))
    changed = start(stream="reference", data_seed=42, dropout=False)
    with pytest.raises(ValueError, match=r"method\.dropout was True, now False, .*method\.stream was 'v1', now"):
        train(changed, run, resume=True)
    train(start(), run, resume=True)
    assert (run / "result.json").exists()


def test_a_checkpoint_of_an_older_version_lacks_settings_too(broken: Callable[..., Path]) -> None:
    run = broken(transformer(), 9)
    newest = checkpoint(run)
    moving, metadata = read_checkpoint(newest)
    stored: Any = SimpleNamespace(moving=lambda: moving)
    method = {name: value for name, value in metadata["method"].items() if not name.startswith("cluster")}
    for other, message in (
        (method | {"return_scale": 1.0}, r"its return_scale is 1\.0, here it is 1000\.0"),
        (method | {"backbone": method["backbone"] | {"width": 7}}, "its width is 7"),
    ):
        save_checkpoint(newest, stored, metadata | {"method": other})
        with pytest.raises(CheckpointError, match=f"belongs to another run: {message}"):
            train(transformer(), run, resume=True)
    save_checkpoint(newest, stored, metadata | {"method": method})
    train(transformer(), run, resume=True)
    assert (run / "result.json").exists()


# --- terms of Reid et al. ---


def test_language_terms_read_what_was_learned_and_resume_to_the_same_numbers(pretrained: Path, tmp_path: Path) -> None:
    terms = {"cluster_weight": 0.1, "cluster_count": 4, "language_weight": 1.0}
    config = transformer(init=pretrained, method=terms | {"shared_projection": True, "extend_positions": True})
    fed: list[np.ndarray] = []
    working = TokenRows.training

    def noting(self: TokenRows, first: int, count: int) -> dict[str, np.ndarray]:
        found = working(self, first, count)
        fed.append(found["tokens"])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenRows, "training", noting)
        run = train(config, tmp_path / "run")
    rows = MarkovChain(state_count=7, seed=42).sample(31, 12)
    for update, tokens in enumerate(fed):
        assert np.array_equal(tokens, rows[(update * 2 + np.arange(2)) % 31])
    assert len(fed) == 12
    first = lines(run)[0]["metrics"]
    assert 1.5 < first["language_loss"][0] < 2.5 and 0.0 < first["cluster_cosine"][0] < 1.0
    assert tensors(run)["language"].shape == (2, 7 * 16)  # wte alone: timesteps are the positions
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", killing(9))
    train(config, tmp_path / "killed", resume=True)
    assert lines(tmp_path / "killed") == lines(run)


def test_language_terms_read_the_authors_tokens_again(tmp_path: Path) -> None:
    init = train(tiny("language_model", method={"stream": "reference"}, schedule=ONE), tmp_path / "init")
    state: Any = SimpleNamespace(
        config=SimpleNamespace(language_batch_size=2),
        draws=SimpleNamespace(seed_count=1),
        table=SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32),
    )
    again = dt._tokens_learned(state, read_start(init)[1])
    learned = language_model.generate(language(stream="reference"))
    again.feed(0, 1)
    assert np.array_equal(again.tokens[0][0].numpy(), batch(learned, 0)[:2])


def test_language_terms_without_what_they_need_are_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cluster_count must be at most 7.*, got 100$"):
        train(transformer(init=pretrained, method={"cluster_weight": 0.1}), tmp_path / "run")
    mapped = train(
        tiny("language_model", method={"law": "iid", "target": "mapping"}, schedule=ONE), tmp_path / "mapped"
    )
    joint = transformer(init=mapped, method={"language_weight": 1.0})
    with pytest.raises(ValueError, match=r"language_weight .*target mapping"):
        train(joint, tmp_path / "run")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(checkpoint(pretrained).read_bytes())
    moving, metadata = read_checkpoint(alone)
    del metadata["method"]
    save_checkpoint(alone, SimpleNamespace(moving=lambda: moving), metadata)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the settings of the pre-training run"):
        train(transformer(init=alone, method={"language_weight": 1.0}), tmp_path / "run")


@pytest.mark.parametrize("term", ["cluster_weight", "language_weight"])
def test_language_terms_without_a_start_are_refused(term: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{term} .*--init"):
        train(transformer(method={term: 0.1}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- from one to the other ---


def test_training_starts_from_the_pretrained_backbone_and_is_scored(pretrained: Path, tmp_path: Path) -> None:
    slow = {"extend_positions": True, "warmup_updates": 5000}
    run = train(transformer(init=pretrained, method=slow, schedule=ONE, evaluation_episode_count=2), tmp_path / "run")
    _, learned = language_model.learned(*read_start(pretrained))
    policy: Any = read_policy(checkpoint(run)).act
    moved = policy._backbone.detached()  # by one update at a five-thousandth of the step size
    for name, value in moved.items():
        assert torch.allclose(value[1], learned[name], atol=1e-7), name
    positions = policy._embeddings.detached()["embed_timestep.weight"]
    assert torch.allclose(positions[1], learned["wpe.weight"], atol=1e-7)
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["method"]["target_return"] == 3600 and len(result(run)["average_last_four"]) == 2
    evaluated = evaluate_run(run, EvaluateConfig(episode_count=2, episode_seed=1)).result
    logged = lines(run)[-1]["metrics"]["return_mean"]
    assert evaluated.returns.mean(1).tolist() == pytest.approx(logged)


def test_a_target_return_is_the_paper_s_or_must_be_given(tmp_path: Path) -> None:
    run = train(transformer(method={"target_return": 1234.5}, schedule=ONE), tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["config"]["method"]["target_return"] == 1234.5
    with pytest.raises(ValueError, match=r"no target return for .*--method\.target-return"):
        dt.adapt(dt.Config(), None, "InvertedPendulum-v4")  # type: ignore[arg-type]


def test_acting_step_by_step_is_the_network_on_windows() -> None:
    """Actions of an episode played one step at a time equal those of the network on the padded windows of its data."""
    rng = np.random.default_rng(0)
    steps, episodes, length = 7, 3, 4
    backbone = GPTConfig(layer_count=1, head_count=2, width=16)
    config = dt.Config(context_length=length, backbone=backbone, target_return=50.0, return_scale=10.0)
    observations = rng.normal(size=(2, episodes, steps, 5)).astype(np.float32)
    rewards = rng.normal(size=(2, episodes, steps)).astype(np.float32)
    normalizer = Normalizer(mean=np.full(5, 0.3, np.float32), scale=np.full(5, 2.0, np.float32), epsilon=1e-6)
    table = WindowTable(
        rows=torch.zeros(2, 5 + 2 + 1),
        timestep=torch.zeros(2, dtype=torch.int64),
        end=torch.ones(1, dtype=torch.int64),
        length=length,
        facts=WindowFacts(observation_dim=5, action_dim=2, greatest_timestep=0, normalizer=normalizer),
    )
    state = dt.create(config, table, [5, 6])
    policy = dt.policy(state)
    policy.start(2, episodes)
    actions = np.zeros((2, episodes, steps, 2), np.float32)
    for t in range(steps):
        actions[:, :, t] = policy(observations[:, :, t])
        policy.observe(rewards[:, :, t], np.ones((2, episodes), bool))
    left = (50.0 - np.concatenate([np.zeros((2, episodes, 1)), rewards.cumsum(-1)[..., :-1]], -1)) / 10.0
    for t in range(steps):
        first = max(0, t - length + 1)
        window = slice(first, t + 1)
        past = torch.from_numpy(actions[:, :, window]).clone()
        past[:, :, -1] = 0.0
        windows = Windows(
            observation=torch.from_numpy(normalizer.normalize(observations[:, :, window])),
            action=past,
            return_to_go=torch.from_numpy(left[:, :, window]).float(),
            timestep=torch.arange(first, t + 1).expand(2, episodes, -1),
            mask=torch.ones(2, episodes, t + 1 - first, dtype=torch.bool),
        )
        expected = predicted_actions(state.embeddings.detached(), state.backbone.detached(), state.network, windows)
        np.testing.assert_allclose(actions[:, :, t], expected[:, :, -1].numpy(), atol=1e-5)


def test_a_backbone_of_another_shape_is_refused(pretrained: Path, tmp_path: Path) -> None:
    wide = {"backbone": GPTConfig(layer_count=1, width=32)}
    with pytest.raises(ValueError, match=r"head_count 2, --method\.backbone asks for 1"):
        train(transformer(init=pretrained, method=wide), tmp_path / "run")
    assert not (tmp_path / "run").exists()
