"""Everything that needs a GPU, in one call: ``python benchmarks/gpu.py --budget 540``.

Stages in order of value, each a process of its own that is killed at its deadline, so that none can cost the others
more than its time. The record is whole after every stage, also when this program is killed; what was not reached is
listed as such. Nothing here imports torch: a broken GPU breaks stages, not the record.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from record import RESULTS, environment, keep

from trajmill.algorithms import method_names

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LEAST_SECONDS = 10.0
"""no stage is begun with less left"""
STARTING_SECONDS = 15.0
"""of a stage's time, what imports and made-up data may take; it plans to be done this long before its deadline"""
MEANWHILE_SECONDS = 5.0
"""between two writings of the record while a stage runs"""
TAIL = 4000
"""characters of a stage's output that are kept"""


@dataclass(slots=True, kw_only=True)
class Stage:
    """One process."""

    name: str
    what: str
    command: list[str]
    seconds: float
    """deadline, from its start"""
    record: Path | None = None
    """what it writes, and is read even if it was killed"""
    status: str = "waiting"
    """then running; at last finished, failed, killed at its deadline, or not reached"""
    took: float | None = None
    return_code: int | None = None
    output: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this program itself")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="a trace is put beside it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    with tempfile.TemporaryDirectory() as parts:
        stages = planned(options.device, options.budget, options.out.parent, Path(parts), tiny=options.tiny)
        run_stages(stages, options.out, options.budget, Path(parts))
    for stage in stages:
        print(f"{stage.name:<20} {stage.status:<24} {stage.took or 0.0:6.1f} s of {stage.seconds:.0f}   {stage.what}")
    print(f"written to {options.out}")


def planned(device: str, budget: float, folder: Path, parts: Path, *, tiny: bool) -> list[Stage]:
    """The stages, with deadlines for a budget of 540 seconds, shorter or longer for another.

    `folder` gets a trace, `parts` what each stage writes.
    """
    scale, every = budget / 540.0, method_names()[: 2 if tiny else None]
    with_peers = [name for name in every if (HERE / f"baselines/{name}.py").exists()]

    def bench(name: str, what: str, seconds: float, options: str, methods: Sequence[str]) -> Stage:
        record, seconds = parts / f"{name}.json", max(LEAST_SECONDS, seconds * scale)
        command = [sys.executable, str(HERE / "bench_training.py"), "--device", device, "--out", str(record)]
        command += ["--budget", f"{max(0.4 * seconds, seconds - STARTING_SECONDS):.0f}"]
        if tiny:
            command += ["--size", "tiny", "--rounds", "2", "--block-seconds", "0.05"]
            methods, options = methods[:1], options.replace("1 5 20", "1 2").replace("1 20", "1 2")
        command += ["--ceilings-from", str(parts / "ceilings.json"), *shlex.split(options), "--methods", *methods]
        return Stage(name=name, what=what, command=command, seconds=seconds, record=record)

    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]
    tests += ["--continue-on-collection-errors", "-rfEs", *gpu_tests()]
    record = parts / "products.json"
    command = [sys.executable, str(HERE / "bench_products.py"), device, str(record)]
    products = Stage(
        name="products",
        what="generative models beside their products",
        command=command,
        seconds=60 * scale,
        record=record,
    )
    usual = "--precision tf32 --seeds 1 5 20 --contenders R0 R2 R3 'ours eager' ours"
    profile = f"--precision tf32 --seeds 1 20 --contenders ours --profile {shlex.quote(str(folder))}"
    return [
        bench("ceilings", "copies, matrix products, graph nodes", 25, "", ()),
        Stage(name="tests", what="pytest -m gpu", command=tests, seconds=max(LEAST_SECONDS, 80 * scale)),
        # a process for each: an error of the GPU spoils the process that meets it
        *(bench(name, "R0, R2, R3 and ours, tf32", 210 / len(every), usual, [name]) for name in every),
        *([] if tiny else [products]),
        bench("bf16", "R3 and ours, bf16", 70, "--precision bf16 --seeds 1 20 --contenders R3 ours", every),
        bench(
            *("fp32", "R0, R1, R3 and ours, fp32 as the papers ran", 35),
            *("--precision fp32 --seeds 1 20 --contenders R0 R1 R3 ours", with_peers),
        ),
        bench("jax", "R4 and ours, tf32", 50, "--precision tf32 --seeds 1 20 --contenders ours R4", with_peers),
        bench(
            *("compiled", "R3 and ours compiled first, tf32", 50),
            *("--precision tf32 --seeds 1 20 --contenders ours 'ours compiled' 'R3 compiled'", with_peers),
        ),
        bench("profile", "a trace of ours, eager", 25, profile, with_peers[:1]),
    ]


def gpu_tests() -> list[str]:
    """Test modules with tests marked gpu; others may need packages that a GPU machine lacks."""
    marked = re.compile("from gpu import|battery_of_a_gpu|mark.gpu")
    return [str(path) for path in sorted((ROOT / "tests/python").rglob("test_*.py")) if marked.search(path.read_text())]


def run_stages(stages: Sequence[Stage], out: Path, budget: float, parts: Path) -> None:
    """Run one after another within the budget; writes `out` before and after each, and now and then meanwhile."""
    end = perf_counter() + budget

    def write() -> None:
        found = [asdict(stage) | {"record": str(stage.record), "result": _result(stage)} for stage in stages]
        keep(out, {"budget": budget, "stages": found} | environment())

    for stage in stages:
        left = end - perf_counter()
        if left < min(LEAST_SECONDS, stage.seconds):
            stage.status = "not reached"
            continue
        stage.status = "running"
        if stage.record is not None:
            stage.record.unlink(missing_ok=True)
        write()
        try:
            _run(stage, min(stage.seconds, left), parts, write)
        except SystemExit:
            stage.status = "stopped with this program"
            write()
            raise
        print(f"{stage.name}: {stage.status} after {stage.took:.1f} s\n{stage.output}", flush=True)
        write()
    write()


def _result(stage: Stage) -> Any:
    """What the stage has written so far."""
    if stage.record is not None and stage.status not in ("waiting", "not reached"):
        with suppress(OSError, ValueError):
            return json.loads(stage.record.read_text())
    return None


def _run(stage: Stage, seconds: float, parts: Path, meanwhile: Callable[[], None]) -> None:
    """Run one stage; its output goes to a file, since a pipe would be held open by what a killed process left."""
    started = perf_counter()
    log = parts / f"{stage.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            stage.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={"PYTHONUNBUFFERED": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ},
            start_new_session=True,
        )
        try:
            while (left := started + seconds - perf_counter()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, MEANWHILE_SECONDS))
                    stage.status = "finished" if process.returncode == 0 else "failed"
                    break
                meanwhile()
            else:
                stage.status = "killed at its deadline"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the children it may have left
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
    stage.return_code, stage.took = process.returncode, perf_counter() - started
    stage.output = log.read_text(errors="replace")[-TAIL:]


if __name__ == "__main__":
    main()
