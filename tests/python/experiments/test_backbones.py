"""The Decision Transformer pipelines end to end at toy size: feeding, resume, transfer, acting, scores, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trajmill.algorithms import decision_transformer as dt
from trajmill.algorithms.decision_transformer import DTConfig
from trajmill.algorithms.language_model import LMConfig
from trajmill.core import MarkovChain, reference
from trajmill.core.progress import silent
from trajmill.data import Normalizer
from trajmill.models.decision_transformer import predicted_actions
from trajmill.models.gpt import GPTConfig
from trajmill.pipelines.decision_transformer import ComputeConfig, TrainDTConfig, pretrained_backbone, train_dt
from trajmill.pipelines.evaluate import EvaluateConfig, evaluate_run, load_policy
from trajmill.pipelines.language_model import PretrainDTConfig, TokenBatches, pretrain_dt, tokens_learned
from trajmill.pipelines.run_directory import RunDirectory
from trajmill.pipelines.schedule import Schedule
from trajmill.training.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from trajmill.training.windows import WindowTable

SMALL = GPTConfig(layer_count=2, head_count=2, width=16)
CPU = ComputeConfig(device="cpu")
PRETRAIN = PretrainDTConfig(
    state_count=7,
    sequence_count=40,
    held_out_count=9,
    seeds=(3, 4),
    method=LMConfig(batch_size=8, length=12, position_count=1024, warmup_updates=2, decay_updates=50, backbone=SMALL),
    schedule=Schedule(updates=12, log_interval=4, evaluation_interval=6, checkpoint_interval=6, unroll=4),
    compute=CPU,
)
TRAIN = TrainDTConfig(
    dataset="hopper-sac-replay-10k",
    seeds=(0, 1),
    evaluation_episode_count=2,
    method=DTConfig(batch_size=8, context_length=4, backbone=SMALL),
    schedule=Schedule(updates=12, log_interval=4, evaluation_interval=6, checkpoint_interval=6, unroll=4),
    compute=CPU,
)


class Killed(Exception):
    """Stands for a run that is killed."""


def killing(at: int):
    def progress(phase: str, done: int, total: int, unit: str) -> None:
        if done >= at:
            raise Killed

    return progress


def without_times(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "wall_seconds"} for line in lines]


def checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(next((run / "checkpoints").glob("*.safetensors")))[0]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return pretrain_dt(PRETRAIN, tmp_path_factory.mktemp("runs") / "pretrained")


def test_pretraining_reads_the_sequences_of_the_law_in_order_and_again() -> None:
    tokens = TokenBatches.of_law(PRETRAIN)
    rows = MarkovChain(state_count=7, seed=42).sample(40, 12)
    for update in range(10):
        wanted = (update * 8 + np.arange(8)) % 31
        assert np.array_equal(tokens.training(update)["tokens"], rows[wanted])
    (held_out,) = tokens.held_out()
    assert np.array_equal(held_out["tokens"], rows[31:39])


@pytest.mark.parametrize(("law", "state_count", "workers"), [("markov", 7, 8), ("markov", 1001, 32), ("iid", 7, 32)])
def test_pretraining_reads_the_authors_tokens_in_worker_order(law: str, state_count: int, workers: int) -> None:
    config = replace(PRETRAIN, law=law, state_count=state_count, stream="reference", sequence_count=2 * 32 * workers)
    sizes = {"worker_count": workers, "batch_size": 32 * workers, "length": 12}
    if law == "iid":
        rounds = [reference.iid_tokens(state_count, 666, **sizes, iteration=i) for i in range(2)]
    else:
        rounds = [reference.markov_tokens(1, state_count, 1.0, 666, **sizes, iteration=i) for i in range(2)]
    rows = np.concatenate(rounds)
    tokens = TokenBatches.of_law(config)
    for update in (0, 1, 5, 32 * workers // 8, len(rows) // 8):
        wanted = (update * 8 + np.arange(8)) % (len(rows) - 9)
        assert np.array_equal(tokens.training(update)["tokens"], rows[wanted])
    assert np.array_equal(tokens.held_out()[0]["tokens"], rows[-9:-1])
    other = TokenBatches.of_law(replace(config, data_seed=42)).training(0)["tokens"]
    assert not np.array_equal(other, rows[:8])


def test_the_evaluation_holds_the_floor_of_the_loss(tmp_path: Path) -> None:
    """The published entropy rate of the authors' chain of 100 states, and none where it would be dear."""
    config = replace(PRETRAIN, state_count=100, stream="reference", schedule=replace(PRETRAIN.schedule, updates=1))
    run = pretrain_dt(config, tmp_path / "run")
    last = json.loads((run / "result.json").read_text())["last_metrics"]
    assert last["entropy_rate"] == [pytest.approx(4.564843, abs=1e-6)] * 2
    assert json.loads((run / "config.json").read_text())["config"]["data_seed"] == 666
    assert TokenBatches.of_law(replace(PRETRAIN, law="iid")).entropy_rate == pytest.approx(np.log(7))
    assert TokenBatches.of_law(replace(PRETRAIN, order=2)).entropy_rate is None
    assert TokenBatches.of_law(replace(PRETRAIN, state_count=1001)).entropy_rate is None
    ours = TokenBatches.of_law(PRETRAIN).entropy_rate
    assert ours != pytest.approx(TokenBatches.of_law(replace(PRETRAIN, data_seed=666)).entropy_rate)


def test_the_reference_stream_has_no_controls_and_no_text() -> None:
    for law in ("identity", "mapping"):
        with pytest.raises(ValueError, match=f"markov and iid alone, not of law {law}; use v1"):
            replace(PRETRAIN, stream="reference", law=law)
    with pytest.raises(ValueError, match="not of text"):
        replace(PRETRAIN, stream="reference", text=(Path("a.txt"),))


@pytest.mark.parametrize("law", ["iid", "identity", "mapping"])
def test_controls_are_pretrained_too(law: str, tmp_path: Path) -> None:
    run = pretrain_dt(replace(PRETRAIN, law=law, seeds=(3,)), tmp_path / law)
    loss = json.loads((run / "result.json").read_text())["last_metrics"]["held_out_loss"][0]
    assert 1.5 < loss < 2.1  # ln 7 = 1.95; a token's own embedding already points at it
    tensors, metadata = read_checkpoint(next((run / "checkpoints").glob("*.safetensors")))
    assert metadata["target_count"] == (7 if law == "mapping" else 0)
    backbone, positions = pretrained_backbone(run, TRAIN.method)
    assert positions.shape == (1024, 16) and "h.1.mlp.c_proj.weight" in backbone
    assert tensors["model"].shape[0] == 1


@pytest.mark.parametrize("at", [7, 9])
def test_a_killed_pretraining_resumes_to_the_same_numbers(at: int, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        pretrain_dt(PRETRAIN, tmp_path / "run", killing(at))
    pretrain_dt(PRETRAIN, tmp_path / "run", resume=True)
    assert without_times(tmp_path / "run") == without_times(pretrained)
    for name, tensor in checkpoint(pretrained).items():
        if name != "metrics":
            assert torch.equal(checkpoint(tmp_path / "run")[name], tensor), name


def test_a_run_of_an_older_version_lacks_settings_and_has_their_defaults(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        pretrain_dt(PRETRAIN, tmp_path / "run", killing(7))
    path = tmp_path / "run" / "config.json"
    described = json.loads(path.read_text())
    del described["config"]["stream"], described["config"]["method"]["dropout"]
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"config.method.dropout was True, now False, config.stream was 'v1', now"):
        changed = replace(PRETRAIN, stream="reference", data_seed=42, method=replace(PRETRAIN.method, dropout=False))
        pretrain_dt(changed, tmp_path / "run", resume=True)
    pretrain_dt(PRETRAIN, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_checkpoint_of_an_older_version_lacks_settings_too(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_dt(TRAIN, tmp_path / "run", killing(9))
    newest = RunDirectory(tmp_path / "run").newest_checkpoint()
    tensors, metadata = read_checkpoint(newest)
    older = metadata | {"method": {k: v for k, v in metadata["method"].items() if not k.startswith("cluster")}}
    save_checkpoint(newest, SimpleNamespace(moving=lambda: tensors), older | {"return_scale": 1.0})
    with pytest.raises(CheckpointError, match=r"belongs to another run: its return_scale is 1\.0, here it is 1000\.0"):
        train_dt(TRAIN, tmp_path / "run", resume=True)
    backbone = older["method"]["backbone"] | {"width": 7}
    foreign = older | {"method": older["method"] | {"backbone": backbone}}
    save_checkpoint(newest, SimpleNamespace(moving=lambda: tensors), foreign)
    with pytest.raises(CheckpointError, match="belongs to another run: its width is 7"):
        train_dt(TRAIN, tmp_path / "run", resume=True)
    save_checkpoint(newest, SimpleNamespace(moving=lambda: tensors), older)
    train_dt(TRAIN, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "result.json").exists()


def test_a_killed_training_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    train_dt(TRAIN, tmp_path / "unbroken")
    with pytest.raises(Killed):
        train_dt(TRAIN, tmp_path / "run", killing(9))
    train_dt(TRAIN, tmp_path / "run", resume=True)
    assert without_times(tmp_path / "run") == without_times(tmp_path / "unbroken")


def test_language_terms_read_what_was_learned_and_resume_to_the_same_numbers(pretrained: Path, tmp_path: Path) -> None:
    method = replace(TRAIN.method, cluster_weight=0.1, cluster_count=4, language_weight=1.0, shared_projection=True)
    config = replace(TRAIN, init=pretrained, extend_positions=True, method=method)
    fed: list[np.ndarray] = []
    working = TokenBatches.training

    def noting(self: TokenBatches, update: int) -> dict[str, np.ndarray]:
        fed.append(working(self, update)["tokens"])
        return working(self, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenBatches, "training", noting)
        run = train_dt(config, tmp_path / "run")
    rows = MarkovChain(state_count=7, seed=42).sample(31, 12)
    for update, tokens in enumerate(fed):
        assert np.array_equal(tokens, rows[(update * 2 + np.arange(2)) % 31])
    assert len(fed) == 12
    first = without_times(run)[0]["metrics"]
    assert 1.5 < first["language_loss"][0] < 2.5 and 0.0 < first["cluster_cosine"][0] < 1.0
    assert checkpoint(run)["language"].shape == (2, 7 * 16)  # wte alone: timesteps are the positions
    with pytest.raises(Killed):
        train_dt(config, tmp_path / "killed", killing(9))
    train_dt(config, tmp_path / "killed", resume=True)
    assert without_times(tmp_path / "killed") == without_times(run)


def test_language_terms_read_the_authors_tokens_again(tmp_path: Path) -> None:
    init = pretrain_dt(replace(PRETRAIN, stream="reference", schedule=Schedule(updates=1)), tmp_path / "init")
    learned, again = TokenBatches.of_law(replace(PRETRAIN, stream="reference")), tokens_learned(init, 2, silent)
    assert np.array_equal(again.training(0)["tokens"], learned.training(0)["tokens"][:2])


def test_language_terms_without_what_they_need_are_refused(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are for a pre-trained backbone; give init too"):
        replace(TRAIN, method=replace(TRAIN.method, cluster_weight=0.1))
    many = replace(TRAIN, init=pretrained, method=replace(TRAIN.method, cluster_weight=0.1))
    with pytest.raises(ValueError, match=r"cluster_count must be at most 7, the tokens of .*, got 1000"):
        train_dt(many, tmp_path / "run")
    mapped = pretrain_dt(replace(PRETRAIN, law="mapping", schedule=Schedule(updates=1)), tmp_path / "mapped")
    joint = replace(TRAIN, init=mapped, method=replace(TRAIN.method, language_weight=1.0))
    with pytest.raises(ValueError, match=r"language_weight is for next-token pre-training; .* learned law mapping"):
        train_dt(joint, tmp_path / "run")


def test_training_starts_from_the_pretrained_backbone_and_is_scored(pretrained: Path, tmp_path: Path) -> None:
    config = replace(TRAIN, init=pretrained, extend_positions=True, schedule=replace(TRAIN.schedule, updates=1))
    run = train_dt(config, tmp_path / "run")
    backbone, _ = pretrained_backbone(pretrained, TRAIN.method)
    policy = load_policy(next((run / "checkpoints").glob("*.safetensors")))
    moved = policy.act._inner.detached()  # by one update at a five-thousandth of the step size
    for name, value in backbone.items():
        assert torch.allclose(moved[name][1], value, atol=1e-7), name
    result = json.loads((run / "result.json").read_text())
    assert result["target_return"] == 3600 and len(result["average_last_four"]) == 2
    evaluated = evaluate_run(run, EvaluateConfig(episode_count=2, episode_seed=1)).result
    logged = without_times(run)[-1]["metrics"]["return_mean"]
    assert evaluated.returns.mean(1).tolist() == pytest.approx(logged)


def test_acting_step_by_step_is_the_network_on_windows() -> None:
    """Actions of an episode played one step at a time equal those of the network on the padded windows of its data."""
    rng = np.random.default_rng(0)
    steps, episodes, length = 7, 3, 4
    config = DTConfig(context_length=length, backbone=SMALL)
    observations = rng.normal(size=(2, episodes, steps, 5)).astype(np.float32)
    rewards = rng.normal(size=(2, episodes, steps))
    normalizer = Normalizer(mean=np.full(5, 0.3, np.float32), scale=np.full(5, 2.0, np.float32), epsilon=1e-6)
    pairs = {
        "observation": np.zeros((1, 2, 5), np.float32),
        "action": np.zeros((1, 2, 2), np.float32),
        "return_to_go": np.zeros((1, 2), np.float32),
        "timestep": np.zeros((1, 2), np.int64),
        "mask": np.array([[False, True]]),
    }
    table = WindowTable.of(pairs, device=torch.device("cpu"), dtype=torch.float32)
    state = dt.create(config, table, [5, 6])
    policy = dt.Policy(
        state.network,
        state.outer,
        state.inner,
        context_length=length,
        normalizer=normalizer,
        target_return=50.0,
        return_scale=10.0,
    )
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
        expected = predicted_actions(
            state.outer.detached(),
            state.inner.detached(),
            state.network,
            return_to_go=torch.from_numpy(left[:, :, window]).float(),
            observation=torch.from_numpy(normalizer.normalize(observations[:, :, window])),
            action=past,
            timestep=torch.arange(first, t + 1).expand(2, episodes, -1),
            mask=torch.ones(2, episodes, t + 1 - first, dtype=torch.bool),
        )
        np.testing.assert_allclose(actions[:, :, t], expected[:, :, -1].numpy(), atol=1e-5)


def test_a_backbone_of_another_shape_is_refused(pretrained: Path, tmp_path: Path) -> None:
    wide = replace(TRAIN, init=pretrained, method=replace(TRAIN.method, backbone=GPTConfig(layer_count=2, width=32)))
    with pytest.raises(ValueError, match=r"head_count 2, the Decision Transformer wants 1"):
        train_dt(wide, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    train_dt(replace(TRAIN, schedule=replace(TRAIN.schedule, updates=1)), tmp_path / "run")
    with pytest.raises(ValueError, match="must be a checkpoint of pretrain_dt, got one of train_dt"):
        train_dt(replace(TRAIN, init=tmp_path / "run"), tmp_path / "other")


def test_too_few_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="held_out_count must be at least 8, got 5"):
        replace(PRETRAIN, held_out_count=5)
    with pytest.raises(ValueError, match="sequence_count must be at least 17, got 10"):
        replace(PRETRAIN, sequence_count=10)
