"""An upsampling from its settings to its files."""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from torch import Tensor

from trajmill.algorithms import method_named, name_of, synthesizing_methods
from trajmill.core import checks
from trajmill.core.files import check_writable, leftovers, remove, sha256_of
from trajmill.core.paths import AnyPath, local_path
from trajmill.core.progress import Progress, silent
from trajmill.corpus.storage import Directory
from trajmill.data import Transitions
from trajmill.data.records import Columns
from trajmill.experiments.prediction import identity_of, learned_from
from trajmill.experiments.settings import DatasetTrainConfig
from trajmill.experiments.train import Probe, probe, train
from trajmill.experiments.upsample.estimate import Estimate, block_seconds, size
from trajmill.experiments.upsample.exports import EXPORTS, Export, check_exports, export_bytes, write_export
from trajmill.experiments.upsample.manifest import Manifest, hash_of
from trajmill.experiments.upsample.measures import count_outside, measurable, write_quality
from trajmill.experiments.upsample.real import FloatArray, RealData, Source
from trajmill.experiments.upsample.shards import Shards
from trajmill.replay.vectors import matrix
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import read_able, read_config
from trajmill.training.checkpoint import digest
from trajmill.training.device import ComputeConfig, torch_as_it_was
from trajmill.training.settings import Schedule, of_python, plain

MODEL, SHARDS = "model", "shards"
ConfigT = TypeVar("ConfigT")


class NotFiniteError(ValueError):
    """A model makes transitions with numbers that are not finite."""


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
    limit: int | None = None
    """steps, at least 1, after which the environment cut episodes, where the file does not mark it"""
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


def upsample(source: Source, output: AnyPath, config: UpsampleConfig[Any], progress: Progress = silent) -> Upsampled:
    """Make transitions like those of a dataset's name or path, a `Dataset`, or a live `ReplayBuffer`.

    The directory `output` is made, or continued if it holds the same job. A dataset in memory, and one with discrete
    actions, which become one-hot vectors for the model, is first written to ``output/input.hdf5``: training reads it
    from there, also after an interruption. ValueError or `DatasetError` for what cannot be done, before anything is
    written wherever that can be known.
    """
    return Job.of(source, output, config).run(progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An upsampling that was checked."""

    config: UpsampleConfig[Any]
    output: Path
    method: ModuleType
    real: RealData
    shards: Shards
    spec: Mapping[str, Any]

    @classmethod
    def of(cls, source: Source, output: AnyPath, config: UpsampleConfig[Any]) -> Job:
        """Read the data and check everything that can be checked before the work."""
        method = method_named(name_of(config.method))
        if not hasattr(method, "synthesize"):
            able = ", ".join(synthesizing_methods())
            raise ValueError(f"{name_of(config.method)} makes no transitions; methods that do: {able}")
        config, output = of_python(config), local_path(output)
        real = RealData.of(source, config.limit)
        shards = Shards.of(output / SHARDS, sum(real.widths), config.count)
        spec = {
            "count": config.count,
            "seed": config.seed,
            "dataset": real.dataset.name,
            **identity_of(real.dataset),
            "method": name_of(config.method),
            "sampling": plain(config.sampling),
            "precision": config.precision,
            "category_count": real.category_count,
            "shard_rows": shards.shard_rows,
            "block_rows": shards.block_rows,
        }
        if config.model is None:
            training = {"method": plain(config.method), "schedule": plain(config.schedule)}
            spec |= {"training": training | {"precision": config.compute.precision}}
        spec = json.loads(json.dumps(spec))
        job = cls(config=config, output=output, method=method, real=real, shards=shards, spec=spec)
        job._check_place()
        known = {"method": plain(config.method)}
        if config.model is not None:
            known = job._check_model(job.model)[1]
            job._check_settings(job.model)
        if hasattr(method, "check_sampling"):
            method.check_sampling(known["method"], config.sampling)
        return job

    @property
    def model(self) -> Path:
        """Run directory of the model."""
        return self.output / MODEL if self.config.model is None else local_path(self.config.model)

    @property
    def finished(self) -> bool:
        """Whether all is recorded as done; `run` looks at every byte all the same."""
        manifest = self._manifest()
        return len(manifest.shards) == len(self.shards) and set(self.config.export) <= manifest.exports.keys()

    # --- before the work ----------------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Refuse a directory of something else, another job's, and a disk that is too small."""
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"{self.output} is a file; choose another directory")
        check_writable(self.output)
        self._manifest()
        check_exports(self.config.export, self.config.count)
        place = next(path for path in (self.output, *self.output.absolute().parents) if path.exists())
        kept = [*self.output.glob(f"{SHARDS}/*"), *self.output.glob("upsampled*")]
        there = sum(path.stat().st_size for path in kept if path.is_file())
        needed, free = self._disk_bytes() - there, shutil.disk_usage(place).free
        if needed > free:
            raise ValueError(
                f"{' and '.join(['shards', *self.config.export])} of {self.config.count:,} transitions take up to "
                f"{size(needed)} more, and the disk of {self.output} has {size(free)}; make room, or ask for fewer"
            )

    def _disk_bytes(self) -> int:
        """Of shards and exports, at most."""
        row_bytes = self.shards.row_bytes
        return self.config.count * (row_bytes + export_bytes(self.config.export, row_bytes))

    def _manifest(self) -> Manifest:
        return Manifest.of(self.output, self.spec)

    def _check_model(self, run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of the newest checkpoint; ValueError if it is not a model of this dataset."""
        read_config(run)
        if not RunDirectory(run).finished:
            raise ValueError(f"{run} is not finished; train it to its end first")
        synthesize, tensors, known = read_able(run, "model", "synthesize", "makes no transitions")
        if synthesize is not self.method.synthesize:
            raise ValueError(f"{run} is of {known['kind']}; give --method {known['kind']}")
        if not learned_from(known, self.real.dataset):
            raise ValueError(
                f"{run} was trained on other data ({known.get('dataset')}), whose rows have another SHA-256 than those "
                f"of {self.real.dataset.name}; give that dataset, or train a model on this one (leave out --model)"
            )
        return tensors, known

    def _check_settings(self, run: Path) -> None:
        """Refuse settings of training that a finished model does not have and that are not the defaults either."""
        trained = read_config(run)["config"]
        default = {"method": plain(type(self.config.method)()), "schedule": plain(self.method.SCHEDULE)}
        for part, asked in (("method", plain(self.config.method)), ("schedule", plain(self.config.schedule))):
            for name, value in asked.items():
                theirs = trained[part].get(name)
                if value not in (theirs, default[part][name]):
                    option = f"--{part}.{name.replace('_', '-')}"
                    raise ValueError(
                        f"{run} was trained with {name} {theirs}, not {value}; leave out {option}, or --model"
                    )

    def probe(self, seconds: float = 1.0) -> Probe:
        """Train the model that is asked for as long, at least two updates, to see what it costs, or that it can be."""
        with tempfile.TemporaryDirectory() as folder:
            return probe(self._training(Path(folder)), seconds)

    def estimate(self) -> Estimate:
        """Try a few updates and some rows, in about two seconds; a very wide network takes a little longer."""
        training = 0.0
        if self.config.model is None and not RunDirectory(self.model).finished:
            tried = self.probe()
            training = tried.update_seconds * self.config.schedule.updates
            tensors, known = tried.tensors, tried.known
        else:
            tensors, known = self._check_model(self.model)
        shards, block_rows = self.shards, self.shards.block_rows
        missing = shards.count - min(shards.count, len(self._manifest().shards) * shards.shard_rows)
        sampling = 0.0
        if missing:
            seconds = block_seconds(lambda rows: self._maker(tensors, known, rows), self.config.seed, block_rows)
            sampling = -(-missing // block_rows) * seconds
        model_bytes = 3 * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Estimate(
            training_seconds=training,
            sampling_seconds=sampling,
            disk_bytes=self._disk_bytes() + model_bytes,
            memory_bytes=peak + 3 * shards.shard_rows * shards.row_bytes,
        )

    # --- the work -----------------------------------------------------------------------------------------------------

    @torch_as_it_was()
    def run(self, progress: Progress = silent) -> Upsampled:
        """Train, make shards, export: whatever is not there yet."""
        began = time.monotonic()
        with Directory(self.output).lock(shared=False):
            manifest = self._manifest()
            manifest.write(self.output)
            self.shards.folder.mkdir(exist_ok=True)
            for leftover in [*leftovers(self.output), *leftovers(self.shards.folder)]:
                remove(leftover)
            if self.config.model is None:
                train(self._training(self.output), self.model, progress, resume=True)
            tensors, known = self._check_model(self.model)
            described = {key: value for key, value in known.items() if key != "wall_seconds"}
            model_hash = digest(tensors, json.dumps(described, sort_keys=True))
            if manifest.model_sha256 not in (None, model_hash):
                raise ValueError(
                    f"{self.model} is not the model that {self.output} was begun with; restore it, or choose another "
                    "directory"
                )
            manifest.model_sha256 = model_hash
            manifest.write(self.output)
            made = self._make(manifest, tensors, known, progress)
            files = self._export(manifest, progress)
            report = self._report(manifest, progress) if self.config.quality else None
            terminal_count, outside = count_outside(self.real, self.pieces(), self.config.count)
        return Upsampled(
            directory=self.output,
            model=self.model,
            count=self.config.count,
            made=made,
            files=files,
            report=report,
            seconds=time.monotonic() - began,
            terminal_count=terminal_count,
            real_terminal_share=float(self.real.dataset.terminals.mean()),
            constant_columns=self.real.constant_columns,
            category_count=self.real.category_count,
            outside=outside,
        )

    def _training(self, folder: Path) -> DatasetTrainConfig[Any]:
        """The run that trains the model; data that training cannot find by a name is written to the folder."""
        config = self.config
        return DatasetTrainConfig(
            dataset=self.real.name or str(self.real.written(folder)),
            limit=config.limit if self.real.name else None,
            seeds=(config.seed,),
            method=config.method,
            schedule=config.schedule,
            compute=config.compute,
        )

    def _maker(self, tensors: Mapping[str, Tensor], known: Mapping[str, Any], block_rows: int) -> Any:
        """What makes transitions."""
        device = replace(self.config.compute, precision="fp32").apply()
        bfloat16 = self.config.precision == "bf16"
        options = {"device": device, "block_size": block_rows, "bfloat16": bfloat16}
        return self.method.synthesize(tensors, known, self.config.sampling, data=self.real.transitions, **options)

    def _make(
        self, manifest: Manifest, tensors: Mapping[str, Tensor], known: Mapping[str, Any], progress: Progress
    ) -> int:
        """Make the shards that are missing or not as they were written; gives the number of transitions made."""
        maker, made = None, 0

        def block(number: int) -> FloatArray:
            nonlocal maker
            maker = maker or self._maker(tensors, known, self.shards.block_rows)
            return self._rows(maker.block(self.config.seed, number))

        def report(done: int) -> None:
            progress("sample", done, self.config.count, "transitions")

        for shard in range(len(self.shards)):
            path, span = self.shards.path(shard), self.shards.span(shard)
            report(span.start)
            if shard < len(manifest.shards):
                if path.is_file() and sha256_of(path) == manifest.shards[shard]:
                    continue
                warnings.warn(f"{path} is missing or damaged; it is made again", RuntimeWarning, stacklevel=2)
            manifest.shards[shard : shard + 1] = [self.shards.write(shard, block, report)]
            manifest.exports = {}
            manifest.write(self.output)
            made += len(span)
        report(self.config.count)
        return made

    def _rows(self, block: Transitions) -> FloatArray:
        """A block as rows (N, W); NotFiniteError if a number is not finite."""
        rows = matrix(self.real.with_numbers(block))
        if not np.isfinite(rows).all():
            raise NotFiniteError(f"{self.model} makes transitions that are not finite; train it longer or more slowly")
        return rows

    def pieces(self) -> Iterator[Columns]:
        """The columns of the shards, one after another."""
        return map(self.real.columns, self.shards.read())

    def _export(self, manifest: Manifest, progress: Progress) -> dict[str, Path]:
        """Write the exports that are missing or not as they were written."""
        files: dict[str, Path] = {name: self.output / EXPORTS[name][1] for name in self.config.export}
        for name, path in files.items():
            if not manifest.has(name, path):
                remove(path)
                write_export(name, path, self.pieces, self.config.count, self._metadata(manifest), progress)
                manifest.exports[name] = hash_of(path)
                manifest.write(self.output)
        return files

    def _metadata(self, manifest: Manifest) -> dict[str, Any]:
        """What an export says of itself."""
        told = ("seed", "dataset", "dataset_sha256", "following_sha256", "sampling", "precision")
        return self.real.environment | {
            "algorithm": f"upsampled by {self.method.LABEL}",
            "upsampling": {key: manifest.spec[key] for key in told} | {"model_sha256": manifest.model_sha256},
        }

    def _report(self, manifest: Manifest, progress: Progress) -> Path | None:
        """Write what the first rows are like beside the real ones, if it is not there; None for too few rows."""
        page, numbers = self.output / "quality.html", self.output / "quality.json"
        if not measurable(self.real, self.config.count):
            return None
        if not (page.exists() and manifest.has("quality", numbers)):
            title = f"{self.real.dataset.name}, upsampled by {self.method.LABEL}"
            write_quality(self.real, self.pieces(), self.config.count, page, numbers, title, progress)
            manifest.exports["quality"] = hash_of(numbers)
            manifest.write(self.output)
        return page
