"""Runs as tasks of a Ray cluster (Ray Core): one task a run, on whatever node has room for it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajmill import __version__
from trajmill.core.progress import silent
from trajmill.corpus.errors import library
from trajmill.runs.claims import Owner
from trajmill.runs.engines import EngineConfig, RunJob, attempt_in_words, pass_on
from trajmill.runs.processes import Ended
from trajmill.runs.signals import Interrupted
from trajmill.training.device import ComputeConfig

STOP_SECONDS = 60.0
"""that tasks have to write a checkpoint when the driver is interrupted"""
_VARIABLES = ("TRAJMILL_", "D4RL_DATASET_DIR", "MINARI_DATASETS_PATH")


@dataclass(frozen=True, slots=True)
class _Place:
    """What a node must see as the driver does."""

    token: Path
    content: str
    folder: Path
    """the driver's working directory, where relative paths of data begin"""
    version: str
    variables: Mapping[str, str]

    def fault(self) -> str:
        """Why the node that this runs on cannot work; empty if it can."""
        if self.version != __version__:
            return f"has trajmill {__version__} and the driver {self.version}: install the same one"
        try:
            if self.token.read_text(encoding="ascii") != self.content:
                return f"sees another directory at {self.token.parent} than the driver"
        except OSError as error:
            return f"does not see {self.token.parent} ({error.strerror}): --out must be on a file system that all share"
        if not self.folder.is_dir():
            return f"does not see the driver's working directory {self.folder}: start from one that all nodes share"
        return ""


def _fault_here(place: _Place) -> tuple[str, str]:
    """A node's name, and why it cannot work."""
    return socket.gethostname(), place.fault()


@dataclass(frozen=True, slots=True)
class _Done:
    """What a task sends back."""

    result: Owner | str | None
    warnings: tuple[str, ...] = ()
    lost: str | None = None


def _do(job: RunJob, place: _Place) -> _Done:
    """Body of a task."""
    if fault := place.fault():  # of a node that came after the driver looked
        return _Done(f"{socket.gethostname()} {fault}")
    os.chdir(place.folder)
    os.environ.update(place.variables)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            result = attempt_in_words(job, silent)
        except Interrupted as stop:  # the node is asked to end, and a checkpoint is written
            return _Done(None, lost=f"was stopped ({stop})")
    lines = tuple(str(each.message) for each in told if issubclass(each.category, RuntimeWarning))
    return _Done(result, lines)


class RayTasks:
    """A connection to a cluster, and the runs that are being made there, until the end of the block."""

    def __init__(self, config: EngineConfig, compute: ComputeConfig, output: Path, most: int | None) -> None:
        self._ray = library("ray", "engine ray", "ray")
        self._config, self._compute, self._output, self._most = config, compute, output, most
        self._running: dict[Any, str] = {}
        self._ours = False

    def __enter__(self) -> RayTasks:
        self._connect()
        try:
            token = f".ray-{secrets.token_hex(8)}"
            self._output.mkdir(parents=True, exist_ok=True)
            needed = self._needed()
            variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
            if not needed["GPU"]:  # newer versions of Ray hide GPUs from no task
                variables["CUDA_VISIBLE_DEVICES"] = ""
            self._place = _Place(self._output / token, secrets.token_hex(16), Path.cwd(), __version__, variables)
            self._place.token.write_text(self._place.content, encoding="ascii")
            self._check_nodes(needed)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._running:  # as Ctrl-C there: a checkpoint is written
            self._ray.cancel(reference)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_SECONDS)
        self._running.clear()
        if hasattr(self, "_place"):
            self._place.token.unlink(missing_ok=True)
        if self._ours:
            self._ray.shutdown()

    def _connect(self) -> None:
        """Join the cluster, or start one; Ctrl-C and SIGTERM stay what they were."""
        self._ours = not self._ray.is_initialized()
        if not self._ours:
            return
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        address = self._config.ray_address
        try:
            self._ray.init(
                address=address,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level="ERROR",
            )
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {address}: {error}; start one with `ray start`") from error
        if in_main:
            signal.signal(signal.SIGTERM, before)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _needed(self) -> dict[str, float]:
        """What Ray keeps for a run."""
        cpus, gpus = self._config.cpus_per_cell, self._config.gpus_per_cell
        if gpus is None:
            has_gpus = any(node["Resources"].get("GPU", 0.0) > 0.0 for node in self._nodes())
            gpus = 1.0 if has_gpus and self._compute.device != "cpu" else 0.0
        return {"CPU": float(self._compute.threads) if cpus is None else cpus, "GPU": gpus}

    def _check_nodes(self, needed: Mapping[str, float]) -> None:
        """ValueError unless some node has room for a run, and all that have see what the driver sees."""
        nodes = self._nodes()
        able = [node for node in nodes if all(node["Resources"].get(name, 0.0) >= needed[name] for name in needed)]
        if not able:
            have = ", ".join(f"{n['Resources'].get('CPU', 0):g} and {n['Resources'].get('GPU', 0):g}" for n in nodes)
            raise ValueError(
                f"a run needs {needed['CPU']:g} CPUs and {needed['GPU']:g} GPUs of one node, but the nodes of the "
                f"cluster have {have}; ask for less with --cpus-per-cell and --gpus-per-cell"
            )
        near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = [
            self._ray.remote(_fault_here)
            .options(num_cpus=0, scheduling_strategy=near(node["NodeID"], soft=False))
            .remote(self._place)
            for node in able
        ]
        try:
            answers = self._ray.get(asked)
        except self._ray.exceptions.RayError as error:
            first = str(error).strip().splitlines()[-1]
            raise ValueError(f"a node of the cluster cannot run trajmill: {first}; install it on all nodes") from error
        if faults := [f"{host} {fault}" for host, fault in answers if fault]:
            raise ValueError("; ".join(dict.fromkeys(faults)))
        # a task that dies is begun again by the engine, on any node, in its own time
        self._task = self._ray.remote(_do).options(num_cpus=needed["CPU"], num_gpus=needed["GPU"], max_retries=0)

    @property
    def has_room(self) -> bool:
        """Whether another job can be started: Ray lets those wait that no node has room for."""
        return self._most is None or len(self._running) < self._most

    def start(self, job: RunJob) -> None:
        """Begin a job on some node."""
        self._running[self._task.remote(job, self._place)] = job.name

    def ended(self, seconds: float | None = None) -> list[Ended]:
        """Jobs that have ended; waits until one does, or for `seconds`."""
        if not self._running:
            threading.Event().wait(seconds or 0.0)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in ready]

    def _outcome(self, reference: Any) -> Ended:
        name = self._running.pop(reference)
        try:
            done: _Done = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # nothing that a run raises
            return Ended(name=name, error=str(error.cause))
        except self._ray.exceptions.RayError as error:
            return Ended(name=name, lost=f"died ({type(error).__name__})")
        pass_on(done.warnings)
        return Ended(name=name, result=done.result, lost=done.lost)
