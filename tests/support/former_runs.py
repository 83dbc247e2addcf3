"""Runs as version 0.1 wrote them, built from small records and tensors made anew under the names of then."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trajmill.algorithms import method_named
from trajmill.data import load_dataset
from trajmill.experiments.settings import DatasetTrainConfig, TrainConfig
from trajmill.replay.tables import table_of
from trajmill.runs.reading import read_config, read_start
from trajmill.training.device import ComputeConfig
from trajmill.training.settings import Schedule, configured

RECORDS = Path(__file__).parents[1] / "golden" / "runs_0_1"
NAMES = ("cql-scratch-1", "fd-identity", "lm-mapping", "lm-torchrun", "dt-init", "dt-terms")
RENAMED = {"embeddings": "outer", "backbone": "inner"}
"""tensors of a Decision Transformer: now -> then"""


def recorded(name: str, file: str = "checkpoint.json") -> Any:
    """What a file of a record says."""
    return json.loads((RECORDS / name / file).read_text())


def settings_of(name: str, **changes: Any) -> TrainConfig[Any]:
    """The command that was given then, in today's settings."""
    config = read_config(RECORDS / name)
    method, known = method_named(config["kind"]), config["config"]
    settings: dict[str, Any] = {
        "init": None if known.get("init") is None else Path(known["init"]),
        "seeds": tuple(known["seeds"]),
        "method": configured(method.Config, known["method"]),
        "schedule": configured(Schedule, known["schedule"]),
        "compute": configured(ComputeConfig, known["compute"]),
        "variant": known["variant"],
    } | changes
    if hasattr(method, "prepare"):
        more = {"dataset": known["dataset"], "evaluation_episode_count": known["evaluation_episode_count"]}
        return DatasetTrainConfig(**more | settings)
    return TrainConfig(**settings)


def state_of(name: str, **changes: Any) -> Any:
    """A fresh state of a run of then."""
    config = settings_of(name, **changes)
    method = method_named(read_config(RECORDS / name)["kind"])
    settings, dataset = config.method, None
    if isinstance(config, DatasetTrainConfig):
        dataset = load_dataset(config.dataset)
    if hasattr(method, "adapt"):
        settings = method.adapt(settings, dataset, "Hopper-v4")
    rows = method.generate(settings) if dataset is None else method.prepare(settings, dataset)
    table = table_of(rows, "device", seeds=config.seeds, batch_size=settings.batch_size, device=torch.device("cpu"))
    state = method.create(settings, table, config.seeds, metric_capacity=config.schedule.log_interval)
    return state if config.init is None else method.start_from(state, *read_start(config.init))


def tensors_of(state: Any) -> dict[str, Tensor]:
    """All that moves, by the names of then."""
    return {RENAMED.get(name, name): tensor.detach().clone() for name, tensor in state.moving().items()}


def write_run(
    run: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    update: int = 24,
    seeds: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run directory of then; one of fewer than all 24 updates was killed while it wrote.

    With `seeds` it is the part of a process that had some of the seeds; `settings` change what ``config.json`` says.
    """
    record = RECORDS / name
    (run / "checkpoints").mkdir(parents=True)
    config = json.loads((record / "config.json").read_text())
    positions = range(len(config["seeds"]))
    metadata = recorded(name)["metadata"] | {"gradient_step": update}
    if seeds is not None:
        positions = [config["seeds"].index(seed) for seed in seeds]
        config |= {"seeds": list(seeds), "config": config["config"] | {"seeds": list(seeds)}}
        metadata |= {"seeds": list(seeds)}
    config["config"] |= dict(settings or {})
    (run / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["metrics"] = {key: [values[p] for p in positions] for key, values in line["metrics"].items()}
    text = "".join(json.dumps(line) + "\n" for line in lines if line["gradient_step"] <= update)
    if update < 24:
        text += '{"phase": "finetune", "gradi'
    else:
        shutil.copy(record / "result.json", run)
    (run / "metrics.jsonl").write_text(text)
    write_checkpoint(run / "checkpoints" / f"step_{update:09d}.safetensors", tensors, metadata)
    return run


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """As version 0.1 did, with the hash that it wrote."""
    described = json.dumps(dict(metadata), sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    header = {"format": "trajmill-checkpoint-2", "trajmill": described, "sha256": digest.hexdigest()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=header)
