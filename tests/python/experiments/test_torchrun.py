"""Data-parallel pre-training: two gloo processes against one, shares of batches, dropout, who writes, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import lines, tensors, tiny, train
from torchrun_config import PRETRAIN

from trajmill.algorithms import language_model
from trajmill.replay import token_table
from trajmill.replay.token_table import TokenTable
from trajmill.training.distributed import Ranks, joined

DRIVER = Path(__file__).with_name("torchrun_driver.py")
WORDS = """
    --method.state-count 7 --method.sequence-count 40 --method.held-out-count 9 --seeds 3 4 --compute.device cpu
    --method.batch-size 8 --method.length 12 --method.warmup-updates 2 --method.decay-updates 50 --method.no-dropout
    --method.backbone.layer-count 1 --method.backbone.head-count 2 --method.backbone.width 16
    --schedule.updates 12 --schedule.log-interval 4 --schedule.evaluation-interval 6 --schedule.checkpoint-interval 6
    --schedule.unroll 4"""


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    """Ends, or fails: what a dead process leaves behind must not hang."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def test_two_processes_learn_what_one_does(tmp_path: Path, whole: Callable[..., Path]) -> None:
    """The command of the help text, without dropout: the same curve and weights up to rounding, told once."""
    done = torchrun("-m", "trajmill", "train", "language_model", *WORDS.split(), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 updates of 2 seeds") == 1
    one, two = whole(replace(PRETRAIN, method=replace(PRETRAIN.method, dropout=False))), tmp_path / "two"
    assert (one / "config.json").read_text() == (two / "config.json").read_text()
    assert len(lines(one)) == len(lines(two)) == 6
    for alone, together in zip(lines(one), lines(two), strict=True):
        assert (alone["phase"], alone["update"]) == (together["phase"], together["update"])
        for name, values in alone["metrics"].items():
            assert together["metrics"][name] == pytest.approx(values, rel=1e-6), alone
    torch.testing.assert_close(tensors(two)["model"], tensors(one)["model"], rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, with dropout."""
    run = tmp_path_factory.mktemp("torchrun") / "unbroken"
    done = torchrun(str(DRIVER), str(run), "99")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_same_numbers(
    unbroken: Path, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    """Bit for bit, and not what one process drops."""
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "7").returncode == 1
    assert not (tmp_path / "run" / "result.json").exists()
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "99").returncode == 0
    assert lines(tmp_path / "run") == lines(unbroken)
    assert torch.equal(tensors(tmp_path / "run")["model"], tensors(unbroken)["model"])
    assert lines(whole(PRETRAIN)) != lines(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_dead_process_ends_the_other(
    rank: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAD_RANK", rank)
    done = torchrun(str(DRIVER), str(tmp_path / "run"), "99")
    assert done.returncode == 1 and "Signal 9 (SIGKILL)" in done.stderr
    monkeypatch.delenv("DEAD_RANK")
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "99").returncode == 0
    assert lines(tmp_path / "run") == lines(unbroken)


@pytest.mark.parametrize("count", [2, 4])
def test_shares_in_order_are_the_whole_batch(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = language_model.generate(PRETRAIN.method)

    def table(ranks: Ranks) -> TokenTable:
        monkeypatch.setattr(token_table, "current_ranks", lambda: ranks)
        return TokenTable(rows, 1, 8, torch.device("cpu"), torch.float32)

    undivided = table(Ranks())
    shares = [table(Ranks(rank, count)) for rank in range(count)]
    for update in range(9):  # 31 sequences: some batches and some shares run over the end
        for each in (undivided, *shares):
            each.feed(update, 1)
        parts = [share.tokens[0, 0].numpy() for share in shares]
        assert {len(part) for part in parts} == {8 // count}
        assert np.array_equal(np.concatenate(parts), undivided.tokens[0, 0].numpy())
    ((held_out, _),) = undivided.held_out()
    parts = [tokens[0].numpy() for share in shares for tokens, _ in share.held_out()]
    assert np.array_equal(np.concatenate(parts), held_out[0].numpy())


def as_one_of(monkeypatch: pytest.MonkeyPatch, ranks: Ranks) -> None:
    """Let this process believe that it is one of several."""

    @contextmanager
    def pretended(device: torch.device) -> Iterator[Ranks]:
        yield ranks

    monkeypatch.setattr("trajmill.experiments.train.joined", pretended)
    for module in (token_table, language_model):
        monkeypatch.setattr(module, "current_ranks", lambda: ranks)


def test_followers_write_nothing_and_drop_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[int, list[int]] = {}
    for rank in (0, 1):
        drawn: list[int] = []
        as_one_of(monkeypatch, Ranks(rank, 1))
        monkeypatch.setattr(torch, "manual_seed", drawn.append)
        train(replace(PRETRAIN, seeds=(2**64 - 1,)), tmp_path / str(rank))
        seeds[rank] = drawn
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert len(seeds[0]) == len(seeds[1]) > 3 and len({*seeds[0], *seeds[1]}) == 2 * len(seeds[0])


def test_what_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of the 3 processes, got 8"):
        Ranks(1, 3).share(8)
    as_one_of(monkeypatch, Ranks(0, 3))
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        train(PRETRAIN, tmp_path / "run")
    with pytest.raises(ValueError, match="must be 1, got 2: torchrun"):
        train(PRETRAIN, tmp_path / "run", processes=2)
    with pytest.raises(ValueError, match=r"cql .*--processes"):
        train(tiny("cql"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--nproc-per-node 2 or --compute\.device cpu"), joined(torch.device("cuda")):
        pass


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(torch.device("cpu")) as ranks:
        value = torch.tensor([1.0, 3.0])
        ranks.all_reduce(value)
        assert value.tolist() == [1.0, 3.0] and ranks.is_first and ranks.maximum(7) == 7
