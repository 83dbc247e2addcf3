"""Data-parallel pre-training: two gloo processes against one, shares of batches, dropout, who writes, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_dt_pipeline import PRETRAIN, checkpoint, without_times

from trajmill.pipelines import language_model as pipeline
from trajmill.pipelines.language_model import TokenBatches, pretrain_dt
from trajmill.training.distributed import Ranks, joined

DRIVER = Path(__file__).with_name("workers_driver.py")
WORDS = """
    --state-count 7 --sequence-count 40 --held-out-count 9 --seeds 3 4 --compute.device cpu
    --method.batch-size 8 --method.length 12 --method.warmup-updates 2 --method.decay-updates 50 --method.no-dropout
    --method.backbone.layer-count 2 --method.backbone.head-count 2 --method.backbone.width 16
    --schedule.updates 12 --schedule.log-interval 4 --schedule.evaluation-interval 6 --schedule.checkpoint-interval 6
    --schedule.unroll 4"""


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """The command of the help text, without dropout: the same curve and weights up to rounding, told once."""
    done = torchrun("-m", "trajmill", "pretrain", "dt", *WORDS.split(), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 updates of 2 seeds") == 1
    config = replace(PRETRAIN, method=replace(PRETRAIN.method, dropout=False))
    one = pretrain_dt(config, tmp_path / "one")
    assert (one / "config.json").read_text() == (tmp_path / "two" / "config.json").read_text()
    lines = without_times(one), without_times(tmp_path / "two")
    assert len(lines[0]) == len(lines[1]) == 6
    for alone, together in zip(*lines, strict=True):
        assert (alone["phase"], alone["gradient_step"]) == (together["phase"], together["gradient_step"])
        for name, values in alone["metrics"].items():
            assert together["metrics"][name] == pytest.approx(values, rel=1e-6), alone
    before, after = checkpoint(one)["model"], checkpoint(tmp_path / "two")["model"]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_two_killed_processes_resume_to_the_same_numbers(tmp_path: Path) -> None:
    """With dropout: bit for bit, and not what one process drops."""
    assert torchrun(str(DRIVER), str(tmp_path / "unbroken"), "99").returncode == 0
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "7").returncode == 1
    assert not (tmp_path / "run" / "result.json").exists()
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "99").returncode == 0
    assert without_times(tmp_path / "run") == without_times(tmp_path / "unbroken")
    assert torch.equal(checkpoint(tmp_path / "run")["model"], checkpoint(tmp_path / "unbroken")["model"])
    assert without_times(pretrain_dt(PRETRAIN, tmp_path / "one")) != without_times(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_dead_process_ends_the_other(rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchrun(str(DRIVER), str(tmp_path / "unbroken"), "99").returncode == 0
    monkeypatch.setenv("DEAD_RANK", rank)
    started = time.monotonic()
    done = torchrun(str(DRIVER), str(tmp_path / "run"), "99")
    assert done.returncode == 1 and "Signal 9 (SIGKILL)" in done.stderr
    assert time.monotonic() - started < 60.0
    monkeypatch.delenv("DEAD_RANK")
    assert torchrun(str(DRIVER), str(tmp_path / "run"), "99").returncode == 0
    assert without_times(tmp_path / "run") == without_times(tmp_path / "unbroken")


@pytest.mark.parametrize("count", [2, 4])
def test_shares_in_order_are_the_whole_batch(count: int) -> None:
    whole = TokenBatches.of_law(PRETRAIN)
    shares = [TokenBatches.of_law(PRETRAIN, Ranks(rank, count)) for rank in range(count)]
    for update in range(9):  # 31 sequences: some batches and some shares run over the end
        parts = [share.training(update)["tokens"] for share in shares]
        assert {len(part) for part in parts} == {8 // count}
        assert np.array_equal(np.concatenate(parts), whole.training(update)["tokens"])
    (held_out,) = whole.held_out()
    parts = [batch["tokens"] for share in shares for batch in share.held_out()]
    assert np.array_equal(np.concatenate(parts), held_out["tokens"])


def test_followers_write_nothing_and_drop_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[int, list[int]] = {}
    for rank in (0, 1):

        @contextmanager
        def as_if(device: torch.device, rank: int = rank) -> Iterator[Ranks]:
            yield Ranks(rank, 1, device)

        drawn: list[int] = []
        monkeypatch.setattr(pipeline, "joined", as_if)
        monkeypatch.setattr(torch, "manual_seed", drawn.append)
        pretrain_dt(replace(PRETRAIN, seeds=(2**64 - 1,)), tmp_path / str(rank))
        seeds[rank] = drawn
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    assert len(seeds[0]) == len(seeds[1]) > 3 and len({*seeds[0], *seeds[1]}) == 2 * len(seeds[0])


def test_what_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, got 8"):
        Ranks(1, 3).share(8)

    @contextmanager
    def three(device: torch.device) -> Iterator[Ranks]:
        yield Ranks(0, 3, device)

    monkeypatch.setattr(pipeline, "joined", three)
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        pretrain_dt(PRETRAIN, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--nproc-per-node 2 or --compute\.device cpu"), joined(torch.device("cuda")):
        pass


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(torch.device("cpu")) as workers:
        value = torch.tensor([1.0, 3.0])
        workers.all_reduce(value)
        assert value.tolist() == [1.0, 3.0] and workers.is_first and workers.maximum(7) == 7
