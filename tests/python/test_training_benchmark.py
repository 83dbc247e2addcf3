"""The benchmarks of training: their goals, their peers, and stages that hang, crash or are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from throughput.contenders import DESCRIPTIONS, build, reason_against  # noqa: E402
from throughput.goals import GOALS, WORKLOADS, goals_at  # noqa: E402
from throughput.measure import Contender, in_blocks, prepared  # noqa: E402
from throughput.pipelines import PIPELINES  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "seeds", "precision", "expected"),
    [
        ("cql", 1, "tf32", 5000),
        ("cql", 20, "fp32", 11_000),
        ("cql", 20, "tf32", 16_600),
        ("cql", 20, "bf16", 30_000),
        ("dynamics", 1, "tf32", 19_000),
        ("dynamics", 20, "tf32", 148_000),
        ("dynamics", 20, "bf16", 219_000),
        ("dt", 1, "bf16", 4100),
        ("dt", 20, "bf16", 9600),
        ("dt", 20, "fp32", 2200),
        ("lm", 1, "bf16", 390),
        ("lm", 1, "fp32", 80),
    ],
)
def test_the_model_gives_the_rows_of_the_plan(name: str, seeds: int, precision: str, expected: float) -> None:
    assert WORKLOADS[name].rate(seeds, precision) == pytest.approx(expected, rel=0.025)


def test_goals_belong_to_a_number_of_seeds() -> None:
    assert set(GOALS) == set(WORKLOADS) == set(PIPELINES)
    assert goals_at("cql", 20) == {"must": 10_000, "target": 20_000, "stretch": 40_000}
    assert goals_at("cql", 1) == {"must": 3500}
    assert goals_at("cql", 5) == {}
    assert goals_at("lm", 1) == {"must": 250, "target": 350, "stretch": 450}


@pytest.mark.parametrize("name", PIPELINES)
def test_peers_compute_what_ours_computes(name: str) -> None:
    torch.set_num_threads(1)
    distances = PIPELINES[name]("tiny").distance(CPU)
    assert len(distances) >= 2
    for what, distance in distances.items():
        assert distance <= (1e-3 if "change" in what else 1e-5), what


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.lift_fresh")
        masked = str(func).startswith("aten.index.") and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += str(func).rpartition(".")[0] in waits or masked
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PIPELINES)
def test_what_goes_on_a_graph_never_makes_the_host_wait(name: str) -> None:
    """Of R3 the update, of R2 the batches; the paper's style waits for every metric."""
    torch.set_num_threads(1)
    pipeline = PIPELINES[name]("tiny")
    learner, batch = pipeline.learner("R3", CPU), pipeline.device_batch(CPU)
    learner.update(*batch())
    with HostReads() as graph:
        learner.update(*batch())
    eager = build(pipeline, "R0", 1, CPU, "fp32")
    with HostReads() as released:
        eager.run(1)
    assert graph.count == 0
    assert released.count >= 1


def test_who_makes_no_sense_is_said() -> None:
    lm, cql = PIPELINES["lm"]("tiny"), PIPELINES["cql"]("tiny")
    assert "CORL" in reason_against(lm, "R1", 1, CPU)
    assert reason_against(cql, "R1", 1, CPU) is None
    assert "one seed" in reason_against(cql, "R0", 5, CPU)
    assert "fills a GPU" in reason_against(lm, "ours", 5, CPU)
    assert all(reason_against(cql, name, 1, torch.device("cuda")) is None for name in DESCRIPTIONS)


def test_blocks_are_timed_in_turns_and_a_failure_costs_nobody_else() -> None:
    order, failures = [], []

    def made(name: str, seconds: float) -> Contender:
        def run(count: int) -> None:
            order.append((name, count))
            time.sleep(seconds * count)

        return Contender(name=name, seeds=2, run=run, finish=lambda: None, period=4)

    def broken() -> Contender:
        raise RuntimeError("no such kernel")

    assert prepared("broken", 1, CPU, broken, failures) is None
    assert failures == [{"contender": "broken", "reason": "RuntimeError: no such kernel"}]
    endless = prepared(
        "nan", 1, CPU, lambda: Contender("nan", 1, lambda _: None, lambda: None, lambda: False), failures
    )
    assert endless is None and "not finite" in failures[1]["reason"]

    contenders = [prepared(name, 2, CPU, lambda n=name: made(n, 0.001), []) for name in "ab"]
    rounds = []
    after = time.perf_counter() + 100
    in_blocks(
        contenders, CPU, rounds=3, block_seconds=0.02, after_round=lambda: rounds.append(len(order)), deadline=after
    )
    assert [name for name, _ in order[-6:]] == list("ababab") and len(rounds) == 3
    assert all(count % 4 == 0 for _, count in order)
    median, low, high = contenders[0].rates()
    assert low <= median <= high and 500 < median < 2001  # two seeds at up to 1,000 updates a second
    in_blocks(contenders, CPU, rounds=9, block_seconds=0.02, after_round=lambda: rounds.append(0), deadline=0.0)
    assert len(rounds) == 4, "a deadline that is over ends it after one round"


def stages_of(tmp_path: Path, body: str, budget: float) -> subprocess.Popen[bytes]:
    """A program that runs made-up stages by benchmarks/gpu.py."""
    program = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from pathlib import Path
from gpu import Stage, run_stages
folder = Path({str(tmp_path)!r})
def stage(name, code, seconds):
    record = folder / (name + ".json")
    code = "import json, os, sys, time\\nrecord = " + repr(str(record)) + "\\n" + code
    return Stage(name=name, what="", command=[sys.executable, "-c", code], seconds=seconds, record=record)
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
run_stages({body}, folder / "gpu.json", {budget}, folder)
"""
    return subprocess.Popen([sys.executable, "-c", program])


def recorded(tmp_path: Path) -> dict[str, dict]:
    return {stage["name"]: stage for stage in json.loads((tmp_path / "gpu.json").read_text())["stages"]}


def test_a_stage_that_hangs_or_crashes_costs_only_itself(tmp_path: Path) -> None:
    write = "open(record, 'w').write(json.dumps({'rows': [1]}))\\n"
    hang = "import subprocess; subprocess.Popen(['sleep', '987']); time.sleep(987)"
    body = f"""[
        stage("hangs", "{write}print('so far', flush=True)\\n{hang}", 2.0),
        stage("crashes", "print('oh no', flush=True)\\nos.abort()", 5.0),
        stage("garbles", "open(record, 'w').write('[1, ')", 5.0),
        stage("works", "{write}", 5.0),
        stage("is late", "", 5.0),
    ]"""
    body = body.replace(
        'stage("is late"', 'Stage(name="is late", what="", command=["true"], seconds=99.0) or stage("x"'
    )
    assert stages_of(tmp_path, body, 11.0).wait(30) == 0
    found = recorded(tmp_path)
    assert {name: stage["status"] for name, stage in found.items()} == {
        "hangs": "killed at its deadline",
        "crashes": "failed",
        "garbles": "finished",
        "works": "finished",
        "is late": "not reached",
    }
    assert found["hangs"]["result"] == found["works"]["result"] == {"rows": [1]}
    assert "so far" in found["hangs"]["output"] and "oh no" in found["crashes"]["output"]
    assert found["crashes"]["return_code"] == -signal.SIGABRT and found["garbles"]["result"] is None
    assert 2.0 <= found["hangs"]["took"] < 4.0
    left = subprocess.run(["pgrep", "-f", "^sleep 987$"], capture_output=True, text=True).stdout
    assert left == "", "what a killed stage started lives on"


def test_a_stopped_program_keeps_its_record_and_stops_its_stage(tmp_path: Path) -> None:
    body = """[stage("works", "", 5.0), stage("lasts", "print(os.getpid(), flush=True)\\ntime.sleep(99)", 90.0)]"""
    program = stages_of(tmp_path, body, 100.0)
    log = tmp_path / "lasts.log"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert recorded(tmp_path)["lasts"]["status"] == "running"
    program.terminate()
    assert program.wait(20) != 0
    found = recorded(tmp_path)
    assert found["works"]["status"] == "finished" and found["lasts"]["status"] == "stopped with this program"
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_the_benchmark_of_training_writes_a_whole_record(tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    command = [sys.executable, BENCHMARKS / "bench_training.py", "--device", "cpu", "--size", "tiny"]
    command += ["--pipelines", "dynamics", "--seeds", "1", "2", "--rounds", "2", "--block-seconds", "0.02"]
    command += ["--contenders", "R0", "R2", "ours", "--precision", "fp32", "fp8", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert [(row["contender"], row["seeds"]) for row in record["rows"]] == [
        ("R0", 1),
        ("R2", 1),
        ("ours", 1),
        ("ours", 2),
    ]
    assert all(row["low"] <= row["value"] <= row["high"] and row["blocks"] == 2 for row in record["rows"])
    assert record["counts"]["dynamics fp32"]["gflop"] == pytest.approx(
        # two networks: forward, weight gradients, input gradients but for the first layer; 2 operations each
        2e-9 * 16 * 2 * (2 * 23 * 256 + 3 * 256 * 256 + 3 * 256 * 17),
        rel=1e-6,
    )
    assert record["finished"] == ["dynamics fp32"] and not record["failed"]
    assert any(one["contender"] == "dynamics fp8" and "fp8" in one["reason"] for one in record["skipped"])
    assert record["ceilings"]["copy_gb_per_s"] > 0.1 and record["versions"]["torch"] == torch.__version__


@pytest.mark.slow
def test_all_stages_run_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--budget", "120", "--tiny"]
    done = subprocess.run([*command, "--out", tmp_path / "gpu.json"], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    found = recorded(tmp_path)
    assert list(found)[:3] == ["ceilings", "tests", "cql"]
    for name in ("ceilings", "tests", "cql", "dt", "dynamics", "lm", "fp32", "profile"):
        assert found[name]["status"] == "finished", (name, found[name]["output"])
    assert "skipped" in found["tests"]["output"] and "failed" not in found["tests"]["output"]
    assert [row["contender"] for row in found["cql"]["result"]["rows"]] == ["R0", "R2", "R3", "ours", "ours"]
    assert (tmp_path / "trace_cql_tf32.json").stat().st_size > 1000
