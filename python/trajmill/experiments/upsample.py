"""Many more transitions like those of a dataset: a model learns them, and its samples are kept in shards and exported.

A directory holds ``manifest.json`` (what was asked for, and SHA-256 of all files), ``model/`` (the run that trained the
model), ``shards/`` and the exports. Shard k is an array (rows, W) float32 in NumPy's format; a row is [observation,
action, reward, next observation, terminal]. Every file appears whole or not at all, and a shard depends on the model,
the seed and its number alone: killed at any point and called again, `upsample` ends with the same bytes.

Any method that has ``synthesize`` (`trajmill.algorithms`) can make the transitions.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from trajmill.algorithms import method_named, method_names, method_of_kind, name_of
from trajmill.core import checks
from trajmill.core.files import check_writable, contents, leftovers, remove, replacing, sha256_of, write_whole
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, duration, silent
from trajmill.corpus.storage import Directory
from trajmill.data import Dataset, Transitions, load_dataset, qlearning_transitions, write_d4rl
from trajmill.data.environments import find_environment, simulated_environment
from trajmill.data.formats import format_named, minari
from trajmill.data.records import Columns
from trajmill.evaluation.quality import measure_quality
from trajmill.experiments.prediction import digest_of
from trajmill.experiments.train import DatasetTrainConfig, probe, train
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.replay.vectors import matrix
from trajmill.report.quality import write_quality_report
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import checkpoints, not_finite, read_config, read_state
from trajmill.training.checkpoint import digest
from trajmill.training.device import ComputeConfig, torch_as_it_was
from trajmill.training.settings import Schedule, plain

FORMAT = "trajmill-upsample-1"
MANIFEST, MODEL, SHARDS, INPUT = "manifest.json", "model", "shards", "input.hdf5"
Export = Literal["d4rl", "minari", "synther"]
EXPORTS = {
    "d4rl": ("d4rl", "upsampled.hdf5"),
    "minari": ("minari", "upsampled-v0"),
    "synther": ("npz", "upsampled.npz"),
}
"""name of an export -> its format, and the name of its file or directory"""
BLOCK_ROWS = 1024
SHARD_BLOCKS = 96
"""blocks of a shard, 98,304 rows"""
SHARD_BYTES = 2**26
"""most bytes of a shard, so that memory stays bounded also where rows are long; a shard has at least one block"""
MOST_CATEGORIES = 256
"""different discrete actions that become one number each"""
QUALITY_ROWS = 50_000
"""transitions that are measured"""
PROBE_SHARE = 128
"""the first block that is timed is this part of a whole one; each further one is four times as large"""

Source = AnyPath | Dataset | ReplayBuffer
ConfigT = TypeVar("ConfigT")
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsampleConfig(Generic[ConfigT]):
    """What to make, and how; defaults of the model and of its samples are the method's."""

    count: int
    """transitions to make, at least 1"""
    method: ConfigT
    """settings of the method that learns the transitions"""
    sampling: Any
    """its `Sampling`"""
    schedule: Schedule
    """of training it"""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """where to compute, and how precisely to train"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """of making transitions; bf16 takes half the time on CPUs with AVX512_BF16 or AMX, and on GPUs"""
    seed: int = 0
    """names the model and the transitions, [0, 2^64)"""
    model: Path | None = None
    """run directory of a model that is trained already, on the same dataset; None trains one"""
    export: tuple[Export, ...] = ("d4rl",)
    """one file of all transitions: d4rl is OUT/upsampled.hdf5, synther OUT/upsampled.npz, minari OUT/upsampled-v0"""

    quality: bool = True
    """measure the transitions beside the real ones, in OUT/quality.html"""

    def __post_init__(self) -> None:
        checks.integer("count", self.count, 1, 2**40)
        checks.seed(self.seed)
        checks.choice("precision", self.precision, ("fp32", "bf16"))
        for name in self.export:
            checks.choice("export", name, tuple(EXPORTS))


def synthesizing_methods() -> list[str]:
    """Methods that can make transitions, the default one first."""
    found = [name for name in method_names() if hasattr(method_named(name), "synthesize")]
    return sorted(found, key=lambda name: not getattr(method_named(name), "UPSAMPLES", False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a job costs, from a probe of about two seconds."""

    training_seconds: float
    """0 if there is a model"""
    sampling_seconds: float
    disk_bytes: int
    """at most"""
    memory_bytes: int

    def __str__(self) -> str:
        return (
            f"about {duration(self.training_seconds)} to train the model, {duration(self.sampling_seconds)} to make "
            f"the transitions; at most {_size(self.disk_bytes)} on disk and about {_size(self.memory_bytes)} of memory"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsampled:
    """What was made."""

    directory: Path
    model: Path
    count: int
    made: int
    """transitions that were not there before"""
    files: Mapping[str, Path]
    """by export"""
    report: Path | None
    """page about the quality, if it was asked for"""
    seconds: float
    terminal_count: int
    real_terminal_share: float
    """of the dataset"""
    constant_columns: tuple[str, ...]
    """columns of the dataset that never change"""
    category_count: int
    """of discrete actions; 0 where actions are vectors"""
    outside: Mapping[str, float]
    """share of the observations, actions and rewards that lie outside the dataset's range"""


def upsample(dataset: Source, output: AnyPath, config: UpsampleConfig[Any], progress: Progress = silent) -> Upsampled:
    """Make transitions like those of a dataset's name or path, a `Dataset`, or a live `ReplayBuffer`.

    The directory `output` is made, or continued if it holds the same job. A dataset in memory, and one with discrete
    actions, which become one-hot vectors for the model, is first written to ``output/input.hdf5``: training reads it
    from there, also after an interruption. ValueError or `DatasetError` for what cannot be done, before anything is
    written wherever that can be known.
    """
    return Job.of(dataset, output, config).run(progress)


@dataclass(frozen=True, kw_only=True)
class Job:
    """An upsampling that was checked."""

    config: UpsampleConfig[Any]
    output: Path
    method: ModuleType
    data: Dataset
    """as the model sees it"""
    name: str | None
    """by which training finds it; None: it is written to ``input.hdf5``"""
    category_count: int
    spec: Mapping[str, Any]
    low: FloatArray
    """(W,)"""
    high: FloatArray
    """(W,)"""

    @classmethod
    def of(cls, source: Source, output: AnyPath, config: UpsampleConfig[Any]) -> Job:
        """Read the data and check everything that can be checked before the work."""
        method = method_named(name_of(config.method))
        if not hasattr(method, "synthesize"):
            able = ", ".join(synthesizing_methods())
            raise ValueError(f"{name_of(config.method)} makes no transitions; methods that do: {able}")
        original = _dataset_of(source)
        low, high = _ranges(original)
        data, category_count = with_vector_actions(original)
        spec = {
            "count": config.count,
            "seed": config.seed,
            "dataset": original.name,
            "dataset_sha256": digest_of(data),
            "method": name_of(config.method),
            "sampling": plain(config.sampling),
            "precision": config.precision,
            "category_count": category_count,
            "shard_rows": _shard_rows(len(low)),
            "block_rows": BLOCK_ROWS,
        }
        if config.model is None:
            training = {"method": plain(config.method), "schedule": plain(config.schedule)}
            spec |= {"training": training | {"precision": config.compute.precision}}
        name = str(source) if isinstance(source, str | os.PathLike) and not category_count else None
        job = cls(
            config=config,
            output=local_path(output),
            method=method,
            data=data,
            name=name,
            category_count=category_count,
            spec=json.loads(json.dumps(spec)),
            low=low,
            high=high,
        )
        job._check_place()
        if config.model is not None:
            job._check_model(job.model)
        return job

    @property
    def row_bytes(self) -> int:
        """Of one transition in a shard."""
        return 4 * len(self.low)

    @property
    def shard_rows(self) -> int:
        """Rows of a shard but the last."""
        return int(self.spec["shard_rows"])

    @property
    def shard_count(self) -> int:
        """Shards in all."""
        return -(-self.config.count // self.shard_rows)

    @property
    def model(self) -> Path:
        """Run directory of the model."""
        return self.output / MODEL if self.config.model is None else local_path(self.config.model)

    @property
    def finished(self) -> bool:
        """Whether all is recorded as done; `run` looks at every byte all the same."""
        manifest = self._manifest()
        shards, exports = manifest["shards"], manifest["exports"]
        return len(shards) == self.shard_count and set(self.config.export) <= exports.keys()

    # --- before the work ----------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Refuse a directory of something else, another job's, and a disk that is too small."""
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"{self.output} is a file; choose another directory")
        check_writable(self.output)
        self._manifest()
        if "minari" in self.config.export:
            minari.check_transitions(self.config.count)
        place = next(path for path in (self.output, *self.output.absolute().parents) if path.exists())
        kept = [*self.output.glob(f"{SHARDS}/*"), *self.output.glob("upsampled*")]
        there = sum(path.stat().st_size for path in kept if path.is_file())
        needed, free = self._disk_bytes() - there, shutil.disk_usage(place).free
        if needed > free:
            raise ValueError(
                f"{self.config.count:,} transitions and {len(self.config.export)} exports take up to {_size(needed)} "
                f"more, and the disk of {self.output} has {_size(free)}; make room, or ask for fewer"
            )

    def _disk_bytes(self) -> int:
        """Of shards and exports, at most: what is random does not pack."""
        sizes = {name: self.row_bytes + minari.EPISODE_BYTES * (name == "minari") for name in self.config.export}
        return self.config.count * (self.row_bytes + sum(sizes.values()))

    def _manifest(self) -> dict[str, Any]:
        """What the directory holds: an empty record if it is new; ValueError for what is not this job's, and damage."""
        path = self.output / MANIFEST
        if not path.is_file():
            foreign = [each.name for each in contents(self.output) if not each.name.startswith(".")]
            if foreign:
                raise ValueError(
                    f"{self.output} is not empty and holds no upsampling (it holds {min(foreign)}); choose another "
                    "directory or empty it"
                )
            return {"format": FORMAT, "spec": dict(self.spec), "model_sha256": None, "shards": [], "exports": {}}
        try:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict) or not isinstance(found.get("spec"), dict) or found["format"] != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            manifest = {key: found[key] for key in ("format", "spec", "model_sha256", "shards", "exports")}
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); remove {self.output} and start again") from None
        theirs = manifest["spec"]
        if theirs != self.spec:
            key = next(key for key in {**theirs, **self.spec} if theirs.get(key) != self.spec.get(key))
            raise ValueError(
                f"{self.output} holds other transitions: {key} is {theirs.get(key)!r} there and {self.spec.get(key)!r} "
                "here; choose another directory or remove it"
            )
        return manifest

    def _check_model(self, run: Path) -> tuple[dict[str, Tensor], dict[str, Any], Path]:
        """Tensors, metadata and path of the newest checkpoint; ValueError if it is not a model of this dataset."""
        read_config(run)
        if not RunDirectory(run).finished:
            raise ValueError(f"{run} is not finished; train it to its end first")
        path = checkpoints(run)[0] if checkpoints(run) else None
        if path is None:
            raise ValueError(f"{run} has no checkpoint; restore it or train it again")
        tensors, known = read_state(path)
        if method_of_kind(known.get("kind", "")) is not self.method:
            raise ValueError(f"{run} is of {known.get('kind')}; give --method {known.get('kind')}")
        if known.get("dataset_sha256") != self.spec["dataset_sha256"]:
            raise ValueError(
                f"{run} was trained on other data ({known.get('dataset')}), whose rows have another SHA-256 than those "
                f"of {self.data.name}; give that dataset, or train a model on this one (leave out --model)"
            )
        if 0 in not_finite(tensors, len(known["seeds"])):
            raise ValueError(f"{path} has numbers that are not finite: training diverged; use a smaller learning rate")
        return tensors, known, path

    def estimate(self) -> Estimate:
        """Try a few updates and some rows, in about two seconds; a very wide network takes a little longer."""
        training = 0.0
        if self.config.model is None and not RunDirectory(self.model).finished:
            with tempfile.TemporaryDirectory() as folder:
                name = self.name or str(self._written_input(Path(folder)))
                tried = probe(replace(self._training(), dataset=name))
            training = tried.update_seconds * self.config.schedule.updates
            tensors, known = tried.tensors, tried.known
        else:
            tensors, known, _ = self._check_model(self.model)
        missing = self.config.count - min(self.config.count, len(self._manifest()["shards"]) * self.shard_rows)
        block_count = -(-missing // BLOCK_ROWS)
        model_bytes = 3 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        sampling = block_count * self._block_seconds(tensors, known) if block_count else 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Estimate(
            training_seconds=training,
            sampling_seconds=sampling,
            disk_bytes=self._disk_bytes() + model_bytes,
            memory_bytes=peak + 3 * self.shard_rows * self.row_bytes,
        )

    def _block_seconds(self, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> float:
        """Of a block, as a straight line through the times of two smaller ones says, or the time of one of as many."""
        points: list[tuple[int, float]] = []
        rows = max(1, BLOCK_ROWS // PROBE_SHARE)
        while rows < BLOCK_ROWS and (len(points) < 2 or sum(seconds for _, seconds in points) < 1.0):
            maker = self._maker(tensors, known, rows)
            if not points:
                maker.block(self.config.seed, 0)  # what is made once is not counted
            began = time.monotonic()
            maker.block(self.config.seed, 0)
            points.append((rows, time.monotonic() - began))
            rows *= 4
        (few, short), (many, long) = points[-2:]
        return max(long, long + (BLOCK_ROWS - many) * (long - short) / (many - few))

    # --- the work -----------------------------------------------------------------------------------------------------

    @torch_as_it_was()
    def run(self, progress: Progress = silent) -> Upsampled:
        """Train, make shards, export: whatever is not there yet."""
        began = time.monotonic()
        with Directory(self.output).lock(shared=False):
            manifest = self._manifest()
            self._write(manifest)
            (self.output / SHARDS).mkdir(exist_ok=True)
            for leftover in [*leftovers(self.output), *leftovers(self.output / SHARDS)]:
                remove(leftover)
            if self.config.model is None:
                name = self.name or str(self._written_input(self.output))
                train(replace(self._training(), dataset=name), self.model, progress, resume=True)
            tensors, known, checkpoint = self._check_model(self.model)
            described = {key: value for key, value in known.items() if key != "wall_seconds"}
            model_hash = digest(tensors, json.dumps(described, sort_keys=True))
            if manifest["model_sha256"] not in (None, model_hash):
                raise ValueError(
                    f"{checkpoint} is not the model that {self.output} was begun with; restore it, or choose another "
                    "directory"
                )
            manifest["model_sha256"] = model_hash
            self._write(manifest)
            made = self._make(manifest, tensors, known, progress)
            files = self._export(manifest, progress)
            report = self._report(manifest, progress) if self.config.quality else None
            terminal_count, outside = self._measure()
        return Upsampled(
            directory=self.output,
            model=self.model,
            count=self.config.count,
            made=made,
            files=files,
            report=report,
            seconds=time.monotonic() - began,
            terminal_count=terminal_count,
            real_terminal_share=float(self.data.terminals.mean()),
            constant_columns=self._names(self.low == self.high),
            category_count=self.category_count,
            outside=outside,
        )

    def _write(self, manifest: Mapping[str, Any]) -> None:
        write_whole(self.output / MANIFEST, json.dumps(manifest, indent=1).encode())

    def _training(self) -> DatasetTrainConfig[Any]:
        """The run that trains the model."""
        config = self.config
        return DatasetTrainConfig(
            dataset=self.name or "",
            seeds=(config.seed,),
            method=config.method,
            schedule=config.schedule,
            compute=config.compute,
        )

    def _written_input(self, folder: Path) -> Path:
        """``input.hdf5`` with the data, written if it is not there."""
        path = (folder / INPUT).absolute()
        if not path.is_file():
            environment = find_environment(self.data)
            steps = self.data.to_write()
            named = {} if environment is None else {"environment": environment}
            steps["metadata"] = {**(steps.get("metadata") or {}), **named}
            write_d4rl(path, **steps)
        return path

    def _maker(self, tensors: Mapping[str, Tensor], known: Mapping[str, Any], block_rows: int) -> Any:
        """What makes transitions."""
        device = replace(self.config.compute, precision="fp32").apply()
        bfloat16 = self.config.precision == "bf16"
        options = {"device": device, "block_size": block_rows, "bfloat16": bfloat16}
        return self.method.synthesize(tensors, known, self.config.sampling, data=self._transitions, **options)

    @cached_property
    def _transitions(self) -> Transitions:
        """The real ones."""
        return qlearning_transitions(self.data)

    def _path(self, shard: int) -> Path:
        return self.output / SHARDS / f"{shard:05d}.npy"

    def _make(
        self, manifest: dict[str, Any], tensors: Mapping[str, Tensor], known: Mapping[str, Any], progress: Progress
    ) -> int:
        """Make the shards that are missing or not as they were written; gives the number of transitions made."""
        hashes, maker, made = manifest["shards"], None, 0
        for shard in range(self.shard_count):
            path, first = self._path(shard), shard * self.shard_rows
            rows = min(self.shard_rows, self.config.count - first)
            progress("sample", first, self.config.count, "transitions")
            if shard < len(hashes):
                if path.is_file() and sha256_of(path) == hashes[shard]:
                    continue
                warnings.warn(f"{path} is missing or damaged; it is made again", RuntimeWarning, stacklevel=2)
            maker = maker or self._maker(tensors, known, BLOCK_ROWS)
            array = np.empty((rows, len(self.low)), np.float32)
            for start in range(0, rows, BLOCK_ROWS):
                block = matrix(self._checked(maker.block(self.config.seed, (first + start) // BLOCK_ROWS)))
                array[start : start + BLOCK_ROWS] = block[: rows - start]
                progress("sample", first + min(start + BLOCK_ROWS, rows), self.config.count, "transitions")
            with replacing(path) as part, part.open("xb") as file:
                npy.write_array(file, array, allow_pickle=False)
            hashes[shard : shard + 1] = [sha256_of(path)]
            manifest["exports"] = {}
            self._write(manifest)
            made += rows
        progress("sample", self.config.count, self.config.count, "transitions")
        return made

    def _checked(self, block: Transitions) -> Transitions:
        """With discrete actions as numbers again; ValueError for numbers that are not finite."""
        if self.category_count:
            numbers = block.action.argmax(1).astype(np.float32)
            block = replace(block, action=numbers[:, None])
        if not all(np.isfinite(column).all() for column in (block.observation, block.action, block.reward)):
            raise ValueError(f"{self.model} makes transitions that are not finite; train it longer or more slowly")
        return block

    def _export(self, manifest: dict[str, Any], progress: Progress) -> dict[str, Path]:
        """Write the exports that are missing or not as they were written."""
        files: dict[str, Path] = {}
        for name in self.config.export:
            format_name, file_name = EXPORTS[name]
            path = files[name] = self.output / file_name
            if path.exists() and manifest["exports"].get(name) == _hash(path):
                continue
            remove(path)
            pieces = _Pieces(self, progress, f"export {name}")
            writer = cast(Any, format_named(format_name))
            writer.write_pieces(path, pieces, self.config.count, metadata=self._metadata(manifest))
            progress(f"export {name}", self.config.count, self.config.count, "transitions")
            manifest["exports"][name] = _hash(path)
            self._write(manifest)
        return files

    def _report(self, manifest: dict[str, Any], progress: Progress) -> Path | None:
        """Write what the first rows are like beside the real ones, if it is not there; None for too few rows."""
        page, numbers = self.output / "quality.html", self.output / "quality.json"
        count, real = min(self.config.count, QUALITY_ROWS), self._transitions
        if count < 2 or len(real) < 4:
            return None
        if not (page.exists() and manifest["exports"].get("quality") == _hash(numbers)):
            pieces, kept = [], 0
            for piece in self.pieces():
                pieces.append({name: column[: count - kept] for name, column in piece.items()})
                kept += len(pieces[-1]["rewards"])
                if kept == count:
                    break
            columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
            synthetic = Transitions(
                observation=columns["observations"],
                action=columns["actions"],
                reward=columns["rewards"],
                next_observation=columns["next_observations"],
                terminal=columns["terminals"],
                truncated=np.zeros(count, np.bool_),
            )
            environment = None if self.category_count else simulated_environment(self.data)
            if self.category_count:
                real = replace(real, action=real.action.argmax(1)[:, None].astype(np.float32))
            quality = measure_quality(real, synthetic, environment_id=environment, progress=progress)
            write_whole(numbers, json.dumps(asdict(quality), indent=1).encode())
            write_quality_report(quality, page, title=f"{self.data.name}, upsampled by {self.method.LABEL}")
            manifest["exports"]["quality"] = _hash(numbers)
            self._write(manifest)
        return page

    def _metadata(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """What an export says of itself."""
        environment = find_environment(self.data)
        named = {} if environment is None else {"environment": environment}
        told = ("seed", "dataset", "dataset_sha256", "sampling", "precision")
        return named | {
            "algorithm": f"upsampled by {self.method.LABEL}",
            "upsampling": {key: self.spec[key] for key in told} | {"model_sha256": manifest["model_sha256"]},
        }

    def pieces(self) -> Iterator[Columns]:
        """The columns of the shards, one after another."""
        observation, action = self.data.observation_dim, 1 if self.category_count else self.data.action_dim
        ends = np.cumsum([observation, action, 1, observation])
        for shard in range(self.shard_count):
            rows = np.load(self._path(shard), allow_pickle=False)
            parts = np.split(rows, ends, axis=1)
            yield {
                "observations": np.ascontiguousarray(parts[0]),
                "actions": np.ascontiguousarray(parts[1]),
                "rewards": parts[2][:, 0].copy(),
                "next_observations": np.ascontiguousarray(parts[3]),
                "terminals": parts[4][:, 0] > 0.5,
            }

    def _measure(self) -> tuple[int, dict[str, float]]:
        """Number of terminals, and the share of the numbers outside the range of the data."""
        terminals, counts = 0, dict.fromkeys(("observations", "actions", "rewards"), 0)
        ends = np.cumsum([0, self.data.observation_dim, 1 if self.category_count else self.data.action_dim, 1]).tolist()
        limits = {key: slice(*ends[i : i + 2]) for i, key in enumerate(counts)}
        for piece in self.pieces():
            terminals += int(piece["terminals"].sum())
            for key, columns in limits.items():
                values = piece[key].reshape(len(piece[key]), -1)
                counts[key] += int(((values < self.low[columns]) | (values > self.high[columns])).sum())
        sizes = {key: self.config.count * (limits[key].stop - limits[key].start) for key in counts}
        return terminals, {key: counts[key] / sizes[key] for key in counts}

    def _names(self, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        """Names of columns of a row."""
        observation, action = self.data.observation_dim, 1 if self.category_count else self.data.action_dim
        names = [f"observation {i}" for i in range(observation)] + [f"action {i}" for i in range(action)]
        names += ["reward", *(f"next observation {i}" for i in range(observation)), "terminal"]
        return tuple(name for name, wanted in zip(names, chosen, strict=True) if wanted)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The shards of a job, as often as they are read."""

    job: Job
    progress: Progress
    task: str

    def __iter__(self) -> Iterator[Columns]:
        done = 0
        for piece in self.job.pieces():
            self.progress(self.task, done, self.job.config.count, "transitions")
            yield piece
            done += len(piece["rewards"])


def with_vector_actions(dataset: Dataset) -> tuple[Dataset, int]:
    """The dataset with one-hot actions if they are discrete, and how many there are; else as it is, and 0.

    Discrete is one column of at least two different whole numbers from 0 to 255.
    """
    actions = dataset.actions
    discrete = dataset.action_dim == 1 and (actions == np.floor(actions)).all() and actions.min() >= 0
    if not discrete or not 0 < actions.max() < MOST_CATEGORIES:
        return dataset, 0
    count = int(actions.max()) + 1
    return replace(dataset, actions=np.eye(count, dtype=np.float32)[actions[:, 0].astype(np.intp)]), count


def _dataset_of(source: Source) -> Dataset:
    """The data that is meant."""
    if isinstance(source, str | os.PathLike):
        return load_dataset(source)
    if isinstance(source, Dataset):
        return source
    batch = source[source._slots()]
    missing = {"observation", "action", "reward", "next_observation", "terminal"} - batch.keys()
    if missing or "discount" in batch:
        fault = f"has no column {min(missing)}" if missing else "adds up several steps (n_step)"
        raise ValueError(f"the buffer {fault}; upsampling needs single steps with all columns of a transition")
    if len(batch["reward"]) < 2:
        raise ValueError(f"upsampling needs at least 2 transitions, the buffer has {len(batch['reward'])}")
    if batch["observation"].ndim != 2:
        shape = batch["observation"].shape[1:]
        raise ValueError(f"observations must be vectors, got shape {shape}; encode images into vectors first")
    terminal = batch["terminal"].astype(np.bool_)
    return Dataset(
        name="buffer",
        path=Path("buffer"),
        observations=batch["observation"].astype(np.float32),
        actions=batch["action"].reshape(len(terminal), -1).astype(np.float32),
        rewards=batch["reward"].astype(np.float32),
        next_observations=batch["next_observation"].astype(np.float32),
        terminals=terminal,
        timeouts=np.zeros_like(terminal),
        ordered=False,
    )


def _ranges(dataset: Dataset) -> tuple[FloatArray, FloatArray]:
    """Least and greatest number of each column (W,); ValueError if one is not finite, or nothing varies."""
    found = qlearning_transitions(dataset)
    if len(found) < 2:
        raise ValueError(f"upsampling needs at least 2 transitions, {dataset.name} has {len(found)}")
    columns = (found.observation, found.action, found.reward[:, None], found.next_observation, found.terminal[:, None])
    low, high = (
        np.concatenate([getattr(column, end)(0) for column in columns], dtype=np.float32) for end in ("min", "max")
    )
    if not np.isfinite(low + high).all():
        raise ValueError(f"{dataset.name} holds NaN or infinity; clean it first")
    if (low == high).all():
        raise ValueError(f"every column of {dataset.name} is constant, so there is nothing to learn")
    return low, high


def _shard_rows(width: int) -> int:
    """Rows of a shard of so many columns."""
    return BLOCK_ROWS * max(1, min(SHARD_BLOCKS, SHARD_BYTES // (4 * width * BLOCK_ROWS)))


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of the hashes of those in a directory."""
    if path.is_file():
        return sha256_of(path)
    return " ".join(sha256_of(each) for each in sorted(path.rglob("*")) if each.is_file())


def _size(byte_count: int) -> str:
    """Bytes for people."""
    return f"{byte_count / 1e9:.1f} GB" if byte_count >= 1e9 else f"{math.ceil(byte_count / 1e6)} MB"
