"""Pre-training on text end to end at toy size: stored once, resumed, transferred; what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import checkpoint, killed, lines, tensors, tiny, train

from trajmill.algorithms import language_model
from trajmill.corpus import text
from trajmill.data.catalog import cache_directory
from trajmill.experiments.evaluate import read_policy
from trajmill.replay.token_table import TokenTable
from trajmill.runs.reading import RunError, read_start
from trajmill.training.checkpoint import read_checkpoint
from trajmill.training.settings import Schedule

pytest.importorskip("tokenizers")
SHORT = Schedule(updates=12, log_interval=4, evaluation_interval=6, checkpoint_interval=6, unroll=4)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["the", "hopper", "lands", "on", "one", "leg", "and", "jumps"]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(rng.choice(words, 9)) + " .\n" for _ in range(60)))
    method = {"text": (tmp_path / "text.txt",), "vocabulary_size": 270, "decay_updates": 50}
    return tiny("language_model", method=method, schedule=SHORT, seeds=(3,))


def test_text_is_stored_once_and_learned_and_transferred(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(config, tmp_path / "run")
    (stored,) = (tmp_path / "cache").iterdir()
    assert json.loads((run / "config.json").read_text())["dataset"] == stored.name
    _, metadata = read_checkpoint(checkpoint(run))
    assert (metadata["vocabulary_size"], metadata["target_count"]) == (270, 0)
    losses = [line["metrics"]["loss"][0] for line in lines(run, "train")]
    assert losses[-1] < losses[0] - 0.01 and losses[0] == pytest.approx(np.log(270), abs=0.1)
    monkeypatch.setattr(language_model, "store_text", None)  # nothing is tokenized again
    assert lines(train(config, tmp_path / "again")) == lines(run)
    slow = {"warmup_updates": 5000}
    one = tiny("decision_transformer", init=run, method=slow, schedule=Schedule(updates=1))
    policy: Any = read_policy(checkpoint(train(one, tmp_path / "transformer"))).act
    _, learned = language_model.learned(*read_start(run))
    for name, value in policy._backbone.detached().items():  # moved by one update at a fraction of the step size
        assert torch.allclose(value[1], learned[name], atol=1e-7), name


def test_sequences_are_those_of_the_text_in_order_and_again(config: Any) -> None:
    rows = language_model.generate(config.method)
    (stored,) = cache_directory().iterdir()
    stream = text.open_text(stored, 12).tokens
    wanted = stream[: len(stream) // 12 * 12].reshape(-1, 12)
    count = len(wanted) - config.method.held_out_count
    table = TokenTable(rows, 1, 8, torch.device("cpu"), torch.float32)
    for update in (0, 1, count // 8, count):
        table.feed(update, 1)
        assert np.array_equal(table.tokens[0, 0].numpy(), wanted[(update * 8 + np.arange(8)) % count])
    ((held_out, targets),) = table.held_out()
    assert np.array_equal(held_out[0].numpy(), wanted[count : count + 8]) and targets is None


def test_released_lines_are_shuffled_by_the_authors_seed_and_keep_their_breaks(config: Any) -> None:
    released = replace(config.method, text_lines="released")
    for method in (released, replace(released, data_seed=666)):
        language_model.generate(method)
    (stored,) = cache_directory().iterdir()
    tokenizer, _ = text._tokenizer(stored)
    words = tokenizer.decode(text.open_text(stored, 12).tokens.tolist(), skip_special_tokens=False)
    lines = [line for line in config.method.text[0].read_text().split("\n") if line.strip()]
    assert sorted(words.split("\n" + text.END)[:-1]) == sorted(lines)
    assert words.split("\n" + text.END)[:-1] != lines
    with pytest.raises(ValueError, match="text_lines released is for text"):
        replace(released, text=())


def test_a_killed_run_resumes_to_the_same_numbers(config: Any, tmp_path: Path) -> None:
    whole = train(config, tmp_path / "whole")
    killed(config, tmp_path / "run", 7)
    train(config, tmp_path / "run", resume=True)
    assert lines(tmp_path / "run") == lines(whole)
    assert tensors(tmp_path / "run")["model"].equal(tensors(whole)["model"])


def test_other_text_is_not_resumed_and_damage_is_repaired(config: Any, tmp_path: Path) -> None:
    whole = train(config, tmp_path / "whole")
    (stored,) = (tmp_path / "cache").iterdir()
    (stored / "tokens.bin").write_bytes(b"xx" * 3000)
    assert lines(train(config, tmp_path / "again")) == lines(whole)
    (tmp_path / "again" / "result.json").unlink()
    source = config.method.text[0]
    source.write_text(source.read_text() + "more\n")
    with pytest.raises(RunError, match=r"other settings: dataset was 'text-\w+', now 'text-\w+'"):
        train(config, tmp_path / "again", resume=True)


def test_too_little_text_is_refused(config: Any, tmp_path: Path) -> None:
    config.method.text[0].write_text("short\n")
    with pytest.raises(ValueError, match=r"0 sequences of 12 tokens, 17 are needed"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="vocabulary gpt2 is for text"):
        replace(config.method, text=(), vocabulary=Path("gpt2"))
