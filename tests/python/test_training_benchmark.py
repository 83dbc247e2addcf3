"""The benchmarks of training: their peers, their records, and stages that hang, crash or are stopped."""

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

from trajmill.algorithms import method_names
from trajmill.bench.measure import in_blocks

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("there is no folder benchmarks/ beside these tests", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

from baselines import has_plain_loop, peers_of  # noqa: E402
from bench_training import compared  # noqa: E402
from throughput.contenders import DESCRIPTIONS, build, reason_against  # noqa: E402
from throughput.goals import GOALS, PAPER_RATES, ROOFLINES  # noqa: E402
from throughput.measure import Contender, all_finite, prepared  # noqa: E402
from throughput.workload import Workload  # noqa: E402

CPU = torch.device("cpu")
WITH_PEERS = [name for name in method_names() if hasattr(peers_of(name), "learner")]
TINY = ("--device", "cpu", "--size", "tiny", "--rounds", "2", "--block-seconds", "0.02")


@pytest.mark.parametrize(
    ("name", "seeds", "precision", "expected"),
    [
        ("cql", 1, "tf32", 5000),
        ("cql", 20, "fp32", 11_000),
        ("cql", 20, "tf32", 16_600),
        ("cql", 20, "bf16", 30_000),
        ("forward_dynamics", 1, "tf32", 19_000),
        ("forward_dynamics", 20, "tf32", 148_000),
        ("forward_dynamics", 20, "bf16", 219_000),
        ("decision_transformer", 1, "bf16", 4100),
        ("decision_transformer", 20, "bf16", 9600),
        ("decision_transformer", 20, "fp32", 2200),
        ("language_model", 1, "bf16", 390),
        ("language_model", 1, "fp32", 80),
    ],
)
def test_the_model_gives_the_rows_of_the_plan(name: str, seeds: int, precision: str, expected: float) -> None:
    assert ROOFLINES[name].rate(seeds, precision) == pytest.approx(expected, rel=0.025)


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_timed_beside_another_program(name: str) -> None:
    """A plain loop in ``test_NAME.py``, or peers; the loop trains a network that is seen to stay finite."""
    torch.set_num_threads(1)
    workload = Workload(name, "tiny")
    assert has_plain_loop(name) or workload.offered("learner"), (
        f"give tests/python/algorithms/test_{name}.py a plain_loop"
    )
    if has_plain_loop(name):
        contender = build(workload, "plain loop", 1, CPU, "fp32")
        contender.run(1)
        assert contender.is_finite()


def test_goals_are_those_of_methods() -> None:
    assert set(GOALS) == set(ROOFLINES) == set(PAPER_RATES) <= set(method_names())


@pytest.mark.parametrize("name", WITH_PEERS)
def test_peers_compute_what_ours_computes(name: str) -> None:
    torch.set_num_threads(1)
    distances = peers_of(name).distance(Workload(name, "tiny"), CPU)
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


@pytest.mark.parametrize("name", WITH_PEERS)
def test_what_goes_on_a_graph_never_makes_the_host_wait(name: str) -> None:
    """Of R3 the update, of R2 the batches; the paper's style waits for every metric."""
    torch.set_num_threads(1)
    workload = Workload(name, "tiny")
    learner, batch = workload.peers.learner("R3", workload, CPU), workload.device_batch(CPU)
    learner.update(*batch())
    with HostReads() as graph:
        learner.update(*batch())
    released = build(workload, "R0", 1, CPU, "fp32")
    with HostReads() as eager:
        released.run(1)
    assert graph.count == 0
    assert eager.count >= 1


def test_who_makes_no_sense_is_said() -> None:
    with_peers, without = Workload("cql", "tiny"), Workload("td3_bc", "tiny")
    gpu = torch.device("cuda")
    assert all(reason_against(with_peers, name, 1, gpu) is None for name in DESCRIPTIONS if name != "plain loop")
    assert "one seed" in reason_against(with_peers, "R0", 5, CPU)
    assert has_plain_loop("td3_bc") and reason_against(without, "plain loop", 1, CPU) is None
    assert "on a CPU" in reason_against(without, "plain loop", 1, gpu)
    assert reason_against(without, "ours", 5, CPU) is None and reason_against(without, "ours compiled", 5, CPU)
    for name in ("R0", "R1", "R2", "R3", "R3 compiled", "R4"):
        assert "none for this method" in reason_against(without, name, 1, CPU)


def test_ratios_are_over_the_papers_style_or_else_the_plain_loop() -> None:
    rates = [{"contender": name, "seeds": 1, "value": value} for name, value in (("plain loop", 2.0), ("ours", 6.0))]
    assert [one.get("ratio") for one in compared(rates)] == [None, 3.0]
    with_paper = compared([*rates, {"contender": "R0", "seeds": 1, "value": 1.0}])
    assert [(one.get("against"), one.get("ratio")) for one in with_paper] == [("R0", 2.0), ("R0", 6.0), (None, None)]
    assert compared(rates[1:]) == rates[1:]


def test_blocks_are_timed_in_turns() -> None:
    order, rounds = [], []

    def made(name: str) -> Contender:
        def run(count: int) -> None:
            order.append((name, count))
            time.sleep(0.001 * count)

        return Contender(run, name=name, amount=2, period=4)

    with pytest.raises(ArithmeticError, match="not finite"):
        prepared(lambda: Contender(lambda _: None, is_finite=lambda: all_finite([torch.tensor([1.0, torch.nan])])), CPU)
    contenders = [prepared(lambda name=name: made(name), CPU) for name in "ab"]
    in_blocks(contenders, rounds=3, block_seconds=0.02, after_round=lambda: rounds.append(len(order)))
    assert [name for name, _ in order[-6:]] == list("ababab") and len(rounds) == 3
    assert all(count % 4 == 0 for _, count in order)
    rate = contenders[0].rate()
    assert 0 < rate.low <= rate.value <= rate.high < 2001  # two seeds at no more than 1,000 updates a second
    in_blocks(contenders, rounds=9, block_seconds=0.02, after_round=lambda: rounds.append(0), deadline=0.0)
    assert len(rounds) == 4, "a deadline that is over ends it after one round"


def bench(out: Path, *words: str) -> dict:
    """What `bench_training.py` writes."""
    command = [sys.executable, BENCHMARKS / "bench_training.py", *TINY, *words, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_it_writes_a_whole_record(tmp_path: Path) -> None:
    methods = ("--methods", "forward_dynamics", "td3_bc", "--seeds", "1", "2")
    words = ("--contenders", "plain loop", "R0", "R2", "ours", "--precision", "fp32", "fp8")
    record = bench(tmp_path / "training.json", *methods, *words)
    assert [(row["method"], row["contender"], row["seeds"], row["against"]) for row in record["rows"]] == [
        ("forward_dynamics", "R0", 1, None),
        ("forward_dynamics", "R2", 1, "R0"),
        ("forward_dynamics", "ours", 1, "R0"),
        ("forward_dynamics", "ours", 2, "R0"),
        ("td3_bc", "plain loop", 1, None),
        ("td3_bc", "ours", 1, "plain loop"),
        ("td3_bc", "ours", 2, "plain loop"),
    ]
    assert all(row["low"] <= row["value"] <= row["high"] and row["blocks"] == 2 for row in record["rows"])
    assert record["counts"]["forward_dynamics fp32"]["gflop"] == pytest.approx(
        # two networks: forward, weight gradients, input gradients but for the first layer; 2 operations each
        2e-9 * 256 * 2 * (2 * 14 * 256 + 3 * 256 * 256 + 3 * 256 * 11),
        rel=1e-6,
    )
    assert record["finished"] == ["forward_dynamics fp32", "td3_bc fp32"] and not record["failed"]
    assert list(record["distances"]) == ["forward_dynamics fp32"]
    skipped = {one["contender"]: one["reason"] for one in record["skipped"]}
    assert "fp8" in skipped["td3_bc fp8"] and "no plain loop" in skipped["forward_dynamics fp32, plain loop, 1 seed"]
    assert record["ceilings"]["copy_gb_per_s"] > 0 and record["versions"]["torch"] == torch.__version__


def stages_of(tmp_path: Path, body: str) -> subprocess.Popen[bytes]:
    """A program that runs made-up stages by benchmarks/gpu.py; one that asks for hours is not begun."""
    program = f"""
import signal, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from pathlib import Path
import gpu
gpu.LEAST_SECONDS = 3600.0
folder = Path({str(tmp_path)!r})
def stage(name, code, seconds):
    record = folder / (name + ".json")
    code = "import json, os, sys, time\\nrecord = " + repr(str(record)) + "\\n" + code
    return gpu.Stage(name=name, what="", command=[sys.executable, "-c", code], seconds=seconds, record=record)
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
gpu.run_stages({body}, folder / "gpu.json", 1800.0, folder)
"""
    return subprocess.Popen([sys.executable, "-c", program])


def recorded(tmp_path: Path) -> dict[str, dict]:
    return {stage["name"]: stage for stage in json.loads((tmp_path / "gpu.json").read_text())["stages"]}


def test_a_stage_that_hangs_or_crashes_costs_only_itself(tmp_path: Path) -> None:
    write = "open(record, 'w').write(json.dumps({'rows': [1]}))\\n"
    hours = f"987.{os.getpid()}"
    hang = f"import subprocess; subprocess.Popen(['sleep', '{hours}']); time.sleep(987)"
    body = f"""[
        stage("hangs", "{write}print('so far', flush=True)\\n{hang}", 4.0),
        stage("crashes", "print('oh no', flush=True)\\nos.abort()", 300.0),
        stage("garbles", "open(record, 'w').write('[1, ')", 300.0),
        stage("is late", "", 7200.0),
        stage("works", "{write}", 300.0),
    ]"""
    assert stages_of(tmp_path, body).wait() == 0
    found = recorded(tmp_path)
    assert {name: stage["status"] for name, stage in found.items()} == {
        "hangs": "killed at its deadline",
        "crashes": "failed",
        "garbles": "finished",
        "is late": "not reached",
        "works": "finished",
    }
    assert found["hangs"]["result"] == found["works"]["result"] == {"rows": [1]}
    assert "so far" in found["hangs"]["output"] and "oh no" in found["crashes"]["output"]
    assert found["crashes"]["return_code"] == -signal.SIGABRT and found["garbles"]["result"] is None
    assert found["hangs"]["took"] >= 4.0
    left = subprocess.run(["pgrep", "-f", f"^sleep {hours}$"], capture_output=True, text=True).stdout
    assert left == "", "what a killed stage started lives on"


def test_a_stopped_program_keeps_its_record_and_stops_its_stage(tmp_path: Path) -> None:
    body = """[stage("works", "", 300.0), stage("lasts", "print(os.getpid(), flush=True)\\ntime.sleep(999)", 1000.0)]"""
    program = stages_of(tmp_path, body)
    log = tmp_path / "lasts.log"
    while not (log.exists() and log.read_text().endswith("\n")):
        assert program.poll() is None
        time.sleep(0.05)
    assert recorded(tmp_path)["lasts"]["status"] == "running"
    program.terminate()
    assert program.wait() != 0
    found = recorded(tmp_path)
    assert found["works"]["status"] == "finished" and found["lasts"]["status"] == "stopped with this program"
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.slow
def test_all_stages_run_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--budget", "1200", "--tiny"]
    done = subprocess.run([*command, "--out", tmp_path / "gpu.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = recorded(tmp_path)
    assert list(found) == ["ceilings", "tests", *method_names()[:2], "bf16", "fp32", "jax", "compiled", "profile"]
    for name in found:
        assert found[name]["status"] == "finished", (name, found[name]["output"])
    assert "skipped" in found["tests"]["output"] and "failed" not in found["tests"]["output"]
    assert [row["contender"] for row in found["cql"]["result"]["rows"]] == ["R0", "R2", "R3", "ours", "ours"]
    assert (tmp_path / "trace_cql_tf32.json").stat().st_size > 1000
