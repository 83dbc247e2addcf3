"""Pre-training on text end to end at toy size: stored once, resumed, transferred; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dt_pipeline import PRETRAIN, TRAIN, Killed, checkpoint, killing, without_times

from trajmill.corpus import text
from trajmill.pipelines import language_model as pipeline
from trajmill.pipelines.decision_transformer import pretrained_backbone, train_dt
from trajmill.pipelines.evaluate import load_policy
from trajmill.pipelines.language_model import PretrainDTConfig, TokenBatches, pretrain_dt
from trajmill.pipelines.run_directory import RunDirectoryError
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.distributed import ALONE

pytest.importorskip("tokenizers")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainDTConfig:
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["the", "hopper", "lands", "on", "one", "leg", "and", "jumps"]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(rng.choice(words, 9)) + " .\n" for _ in range(60)))
    return replace(PRETRAIN, text=(tmp_path / "text.txt",), vocabulary_size=270, seeds=(3,), law="mapping")


def test_text_is_stored_once_and_learned_and_transferred(config: PretrainDTConfig, tmp_path: Path, monkeypatch) -> None:
    run = pretrain_dt(config, tmp_path / "run")
    (stored,) = (tmp_path / "cache").iterdir()
    assert json.loads((run / "config.json").read_text())["dataset"] == stored.name
    _, metadata = read_checkpoint(next((run / "checkpoints").glob("*.safetensors")))
    assert (metadata["vocabulary_size"], metadata["target_count"]) == (270, 0)
    first, last = (line["metrics"]["loss"][0] for line in without_times(run)[:: len(without_times(run)) - 2])
    assert last < first - 0.01 and first == pytest.approx(np.log(270), abs=0.1)
    monkeypatch.setattr(pipeline, "store_text", None)  # nothing is tokenized again
    assert without_times(pretrain_dt(config, tmp_path / "again")) == without_times(run)
    one = replace(TRAIN, init=run, schedule=replace(TRAIN.schedule, updates=1))
    policy = load_policy(next((train_dt(one, tmp_path / "dt") / "checkpoints").glob("*.safetensors")))
    moved = policy.act._inner.detached()  # by one update at a five-thousandth of the step size
    for name, value in pretrained_backbone(run, TRAIN.method)[0].items():
        assert torch.allclose(moved[name][1], value, atol=1e-7), name


def test_sequences_are_those_of_the_text_in_order_and_again(config: PretrainDTConfig) -> None:
    tokens = TokenBatches.of_text(config, ALONE, lambda *_: None)
    (stored,) = pipeline.cache_directory().iterdir()
    stream = text.open_text(stored, 12).tokens
    rows = stream[: len(stream) // 12 * 12].reshape(-1, 12)
    count = len(rows) - config.held_out_count
    for update in (0, 1, count // 8, count):
        wanted = (update * 8 + np.arange(8)) % count
        assert np.array_equal(tokens.training(update)["tokens"], rows[wanted])
    assert np.array_equal(tokens.held_out()[0]["tokens"], rows[count : count + 8])


def test_a_killed_run_resumes_to_the_same_numbers(config: PretrainDTConfig, tmp_path: Path) -> None:
    whole = pretrain_dt(config, tmp_path / "whole")
    with pytest.raises(Killed):
        pretrain_dt(config, tmp_path / "run", lambda *words: words[3] == "updates" and killing(7)(*words))
    pretrain_dt(config, tmp_path / "run", resume=True)
    assert without_times(tmp_path / "run") == without_times(whole)
    assert checkpoint(tmp_path / "run")["model"].equal(checkpoint(whole)["model"])


def test_other_text_is_not_resumed_and_damage_is_repaired(config: PretrainDTConfig, tmp_path: Path) -> None:
    whole = pretrain_dt(config, tmp_path / "whole")
    (stored,) = (tmp_path / "cache").iterdir()
    (stored / "tokens.bin").write_bytes(b"xx" * 3000)
    assert without_times(pretrain_dt(config, tmp_path / "again")) == without_times(whole)
    (tmp_path / "again" / "result.json").unlink()
    config.text[0].write_text(config.text[0].read_text() + "more\n")
    with pytest.raises(RunDirectoryError, match=r"other settings: dataset was 'text-\w+', now 'text-\w+'"):
        pretrain_dt(config, tmp_path / "again", resume=True)


def test_too_little_text_is_refused(config: PretrainDTConfig, tmp_path: Path) -> None:
    config.text[0].write_text("short\n")
    with pytest.raises(ValueError, match=r"makes 0 sequences of 12 tokens, 17 are needed \(9 held out and a batch\)"):
        pretrain_dt(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="vocabulary gpt2 is for text; give text files too"):
        replace(PRETRAIN, vocabulary=Path("gpt2"))
