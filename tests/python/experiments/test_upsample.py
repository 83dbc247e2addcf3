"""Upsampling: shards and exports are the model's blocks, interruptions leave no trace, what cannot be is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import recording, transitions
from tiny_runs import tiny, train
from upsampling import BLOCK_ROWS, HOPPER, SCHEDULE, SHARD_BLOCKS, config, contents, make

from trajmill.algorithms import method_named, method_names, synthesizing_methods
from trajmill.cli import main
from trajmill.cli.upsample import parse_count
from trajmill.data import Dataset, DatasetError, Transitions, load_dataset, write_d4rl
from trajmill.experiments.upsample import Job, shards
from trajmill.experiments.upsample.real import with_vector_actions
from trajmill.replay.replay_buffer import ReplayBuffer
from trajmill.runs.reading import checkpoints, read_state

pytestmark = pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
HERE = Path(__file__).parent
ROWS = BLOCK_ROWS * SHARD_BLOCKS
DEFAULT = synthesizing_methods()[0]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_ROWS", BLOCK_ROWS)
    monkeypatch.setattr(shards, "SHARD_BLOCKS", SHARD_BLOCKS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 transitions: four shards of two blocks, and one of 6 rows of a block."""
    output = tmp_path_factory.mktemp("upsampled") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BLOCK_ROWS", BLOCK_ROWS)
        patch.setattr(shards, "SHARD_BLOCKS", SHARD_BLOCKS)
        make(output)
    return output


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def dataset(**changes: Any) -> Dataset:
    """Some episodes of no environment that is known here."""
    made = replace(recording((20, 30, 25)), ordered=False)
    return replace(made, **changes)


def blocks(output: Path, count: int = 70) -> Transitions:
    """What the model makes, block by block, asked of the method itself."""
    tensors, known = read_state(checkpoints(output / "model")[0])
    sampling = config().sampling
    maker = method_named(DEFAULT).synthesize(
        tensors, known, sampling, device=torch.device("cpu"), block_size=BLOCK_ROWS
    )
    made = [maker.block(0, number) for number in range(-(-count // BLOCK_ROWS))]
    columns = {name: [getattr(block, name) for block in made] for name in Transitions.__slots__}
    return Transitions(**{name: np.concatenate(parts)[:count] for name, parts in columns.items()})


@pytest.mark.parametrize("name", ["upsampled.hdf5", "upsampled.npz", "upsampled-v0"])
def test_an_export_is_what_the_model_makes(name: str, whole: Path) -> None:
    made, wanted = load_dataset(whole / name), blocks(whole)
    assert not made.ordered and not made.timeouts.any() and len(made) == 70
    np.testing.assert_array_equal(made.observations, wanted.observation)
    np.testing.assert_array_equal(made.actions, wanted.action)
    np.testing.assert_array_equal(made.rewards, wanted.reward)
    np.testing.assert_array_equal(made.next_observations, wanted.next_observation)
    np.testing.assert_array_equal(made.terminals, wanted.terminal)
    assert wanted.terminal.any() and not wanted.terminal.all()
    if name != "upsampled.npz":  # which has no metadata
        assert made.metadata["environment"] == "Hopper-v4" and "model_sha256" in str(made.metadata["upsampling"])


def test_synther_reads_its_five_arrays(whole: Path) -> None:
    with np.load(whole / "upsampled.npz") as arrays:
        shapes = {key: (arrays[key].dtype.name, arrays[key].shape) for key in arrays}
    assert shapes == {
        "observations": ("float32", (70, 11)),
        "actions": ("float32", (70, 3)),
        "rewards": ("float32", (70,)),
        "next_observations": ("float32", (70, 11)),
        "terminals": ("float32", (70,)),
    }


# --- interruptions ----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for whatever ends a program."""


@pytest.mark.parametrize(
    "moment", [("train", 4), ("sample", 0), ("sample", 24), ("sample", 70), ("export synther", 32)]
)
def test_stopped_and_given_again_it_leaves_the_same_bytes(moment: tuple[str, int], whole: Path, tmp_path: Path) -> None:
    def progress(task: str, done: int, total: int, unit: str) -> None:
        if (task, done) == moment:
            raise Stopped

    with pytest.raises(Stopped):
        make(tmp_path / "o", progress=progress)
    make(tmp_path / "o")
    ours, theirs = contents(tmp_path / "o"), contents(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("kills", [40])
def test_killed_at_random_moments(kills: int, tmp_path: Path) -> None:
    words = [sys.executable, HERE / "upsample_driver.py", tmp_path, str(kills)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stdout) == (0, f"{kills}\n"), done.stderr


def test_what_is_there_is_not_made_again(whole: Path, copy: Path) -> None:
    before = (copy / "shards/00001.npy").stat().st_mtime_ns
    assert make(copy).made == 0
    assert (copy / "shards/00001.npy").stat().st_mtime_ns == before and contents(copy) == contents(whole)


@pytest.mark.parametrize(
    "name", ["shards/00001.npy", "upsampled.hdf5", "upsampled.npz", "upsampled-v0/data/metadata.json"]
)
@pytest.mark.parametrize("harm", ["changed", "gone"])
@pytest.mark.filterwarnings("ignore:.*made again")
def test_a_file_that_is_not_as_it_was_written_is_made_again(name: str, harm: str, whole: Path, copy: Path) -> None:
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content) if harm == "changed" else path.unlink()
    make(copy)
    assert contents(copy) == contents(whole)


def test_a_damaged_shard_is_reported(copy: Path) -> None:
    (copy / "shards/00002.npy").write_bytes(b"\0" * 2000)
    with pytest.warns(RuntimeWarning, match=r"00002\.npy is missing or damaged; it is made again"):
        assert make(copy).made == ROWS


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 71}, "count is 70 there and 71 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"sampling": {"churn": 0.0}}, "holds other transitions: sampling.churn is 80.0 there and 0.0 here; choose"),
        ({"precision": "bf16"}, "precision is 'fp32' there"),
        ({"schedule": replace(SCHEDULE, updates=9)}, "training.schedule.updates is 8 there and 9 here"),
    ],
)
def test_another_job_in_the_same_directory(changes: dict[str, Any], words: str, copy: Path) -> None:
    before = contents(copy)
    with pytest.raises(ValueError, match=words):
        make(copy, **changes)
    assert contents(copy) == before


def test_other_data_in_the_same_directory(copy: Path) -> None:
    with pytest.raises(ValueError, match="dataset is 'hopper-sac-replay-10k' there and 'recording' here"):
        make(copy, dataset())


def test_a_place_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file is a file; choose another"):
        make(tmp_path / "file")
    with pytest.raises(ValueError, match="not empty and holds no upsampling \\(it holds file\\)"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"shards and d4rl of 5,000,000 transitions take up to 1\.\d GB .* has 1 MB"):
        make(tmp_path / "new", count=5_000_000, export=("d4rl",))
    assert not (tmp_path / "new").exists()


def test_a_damaged_manifest(copy: Path) -> None:
    (copy / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        make(copy)


def test_minari_takes_no_millions(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"each of 5,000,000 single transitions as an episode.*export d4rl"):
        make(tmp_path / "o", count=5_000_000)
    assert not (tmp_path / "o").exists()


def test_models_that_do_not_fit(whole: Path, copy: Path, tmp_path: Path) -> None:
    model = copy / "model"
    with pytest.raises(ValueError, match=r"trained on other data \(hopper-sac-replay-10k\).*of recording; give that"):
        make(tmp_path / "o", dataset(), model=model)
    other = train(
        tiny(next(name for name in method_names() if not hasattr(method_named(name), "synthesize"))), tmp_path / "r"
    )
    with pytest.raises(ValueError, match=f"which makes no transitions; give a run of .*{DEFAULT}"):
        make(tmp_path / "o", model=other)
    another = next(name for name in synthesizing_methods() if name != DEFAULT)
    with pytest.raises(ValueError, match=f"is of {another}; give --method {another}"):
        make(tmp_path / "o", model=train(tiny(another), tmp_path / "a"))
    for part, wanted in (("method", {"width": 24}), ("schedule", {"updates": 9})):
        (name, value), now = *wanted.items(), getattr(config(), part)
        words = f"with {name} {getattr(now, name)}, not {value}; leave out --{part}.{name}, or --model"
        with pytest.raises(ValueError, match=words):
            make(tmp_path / "o", model=model, **{part: replace(now, **wanted)})
    (model / "result.json").unlink()
    with pytest.raises(ValueError, match="is not finished; train it"):
        make(tmp_path / "o", model=model)
    (model / "result.json").write_text("{}")
    path = checkpoints(model)[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="does not have the hash"):
        make(tmp_path / "o", model=model)
    shutil.rmtree(model / "checkpoints")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        make(tmp_path / "o", model=model)
    assert not (tmp_path / "o").exists()


def test_a_model_that_is_there_makes_the_same(whole: Path, tmp_path: Path) -> None:
    make(tmp_path / "o", model=whole / "model")
    assert not (tmp_path / "o/model").exists()
    for name in ("shards/00004.npy", "upsampled.npz"):
        assert (tmp_path / "o" / name).read_bytes() == (whole / name).read_bytes()


def test_a_method_that_makes_nothing(tmp_path: Path) -> None:
    name = next(name for name in method_names() if not hasattr(method_named(name), "synthesize"))
    with pytest.raises(ValueError, match=f"{name} makes no transitions; methods that do: .*{DEFAULT}"):
        make(tmp_path / "o", method=method_named(name).SMALL)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"rewards": np.full(75, np.nan, np.float32)}, "recording holds NaN or infinity; clean it first"),
        (
            {name: np.zeros((75, 2), np.float32) for name in ("observations", "actions", "next_observations")}
            | {"rewards": np.zeros(75, np.float32), "terminals": np.zeros(75, bool)},
            "every column of recording is constant",
        ),
    ],
)
def test_data_that_teach_nothing(columns: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        make(tmp_path / "o", dataset(**columns))
    one = dataset().rows(slice(1))
    with pytest.raises(ValueError, match="at least 2 transitions, recording has 1"):
        make(tmp_path / "o", one)


def test_images_are_refused(tmp_path: Path) -> None:
    images = np.zeros((9, 4, 4, 3), np.uint8)
    steps = {"actions": np.zeros((9, 1), np.float32), "rewards": np.zeros(9, np.float32), "terminals": np.zeros(9)}
    np.savez(tmp_path / "pixels.npz", observations=images, next_observations=images, **steps)
    with pytest.raises(DatasetError, match=r"\(9, 4, 4, 3\).*encode images into vectors first"):
        make(tmp_path / "o", tmp_path / "pixels.npz")
    buffer = ReplayBuffer(
        4,
        {"observation": ((4, 4), "u1"), "next_observation": ((4, 4), "u1"), "action": (1, "f4")}
        | {"reward": "f4", "terminal": "?"},
    )
    buffer.add(**{name: np.zeros((3, *shape), dtype) for name, shape, dtype in buffer.batch_columns})
    with pytest.raises(ValueError, match="encode images into vectors first"):
        make(tmp_path / "o", buffer)


# --- what goes in -----------------------------------------------------------------------------------------------------


def test_a_dataset_in_memory_of_no_known_environment(tmp_path: Path) -> None:
    data = dataset()
    data.observations[:, 1] = data.next_observations[:, 1] = 4.0  # type: ignore[index]
    made = make(tmp_path / "o", data, export=("d4rl",))
    assert made.constant_columns == ("observation 1", "next observation 1")
    found = load_dataset(made.files["d4rl"])
    assert (found.observations[:, 1] == 4.0).all() and "environment" not in found.metadata
    assert make(tmp_path / "o", data, export=("d4rl",)).made == 0
    named = tmp_path / "unknown.hdf5"
    write_d4rl(named, **data.to_write())
    make(tmp_path / "named", named, export=("d4rl",))
    assert (tmp_path / "named/shards/00003.npy").read_bytes() == (tmp_path / "o/shards/00003.npy").read_bytes()


def test_a_live_buffer(tmp_path: Path) -> None:
    buffer = ReplayBuffer.from_transitions(transitions(60), capacity=80)
    buffer.add(**{name: getattr(transitions(30), name) for name in Transitions.__slots__})  # the ring is full
    found = load_dataset(make(tmp_path / "o", buffer, export=("d4rl",)).files["d4rl"])
    assert found.observation_dim == 5 and len(found) == 70


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
def test_discrete_actions_come_back_as_numbers(shape: tuple[int, ...], tmp_path: Path) -> None:
    numbers = np.arange(75) % 4
    path = tmp_path / "discrete.npz"
    columns = {name: getattr(dataset(), name) for name in ("observations", "rewards", "next_observations", "terminals")}
    np.savez(path, actions=numbers.reshape(shape), **columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make(tmp_path / "o", path, export=("d4rl", "synther"))
        found = load_dataset(made.files["d4rl"])
    assert made.category_count == 4 and found.action_dim == 1
    np.testing.assert_array_equal(found.actions[:, 0], blocks(tmp_path / "o").action.argmax(1))
    assert len(np.unique(found.actions)) > 1
    assert read_state(checkpoints(made.model)[0])[1]["action_dim"] == 4


def test_discrete_actions_are_not_to_be_clipped(tmp_path: Path) -> None:
    """Which data of other actions beyond 1 are warned to need."""
    steps = dataset().to_write()
    for number, (actions, warned) in enumerate(((np.arange(75) % 4, False), (np.arange(75) % 4 - 2.5, True))):
        steps["actions"] = np.asarray(actions, np.float32)[:, None]
        write_d4rl(tmp_path / f"{number}.hdf5", **steps)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_dataset(tmp_path / f"{number}.hdf5")
        assert any("clip them" in str(each.message) for each in caught) == warned


def test_one_hot() -> None:
    data = dataset(actions=np.array([[2], [0], [1]] * 25, np.float32))
    vectors, count = with_vector_actions(data)
    assert count == 3 and vectors.actions[:3].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    for column in ([0.5, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 256.0]):
        plain = dataset(actions=np.array([[number] for number in column] * 25, np.float32))
        assert with_vector_actions(plain) == (plain, 0)


# --- memory and time --------------------------------------------------------------------------------------------------


class Fake:
    """Makes transitions without a network."""

    block_size, evaluations = BLOCK_ROWS, 1

    def block(self, seed: int, number: int) -> Transitions:
        return transitions(shards.BLOCK_ROWS, observation_dim=11, action_dim=3, seed=number)


def test_memory_does_not_grow_with_the_count(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "_maker", lambda *_: Fake())
    monkeypatch.setattr(shards, "BLOCK_ROWS", 1024)
    peaks = {}
    for shard_count in (2, 2, 10):  # the first one imports and allocates what stays
        count = shard_count * 2048
        job = Job.of(
            HOPPER,
            tmp_path / f"{shard_count} {len(peaks)}",
            config(count, model=whole / "model", export=("d4rl", "synther")),
        )
        tracemalloc.start()
        job.run()
        peaks[shard_count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(load_dataset(job.output / "upsampled.npz")) == count
    assert peaks[10] < 1.2 * peaks[2], peaks


def test_what_the_model_cannot_be_asked_is_refused_before_it_is_trained(tmp_path: Path, whole: Path) -> None:
    for model in (None, whole / "model"):
        with pytest.raises(ValueError, match="this model has none"):
            make(tmp_path / "o", sampling={"guidance": 2.0}, model=model)
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_writes_nothing(tmp_path: Path) -> None:
    for source in (HOPPER, dataset()):
        estimate = Job.of(source, tmp_path / "o", config(1000)).estimate()
        assert estimate.training_seconds > 0 and estimate.sampling_seconds > 0
        assert estimate.disk_bytes > 1000 * 4 and estimate.memory_bytes > 10**7
    assert list(tmp_path.iterdir()) == []


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"), [("5M", 5_000_000), ("250k", 250_000), ("1_000_000", 10**6), ("1.5M", 1_500_000), ("7", 7)]
)
def test_counts(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "1.5", "-3", "5 T", "1e6", "0.0001k"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match="a count is a whole number such as 5M"):
        parse_count(text)


def test_the_command_from_a_dataset_to_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "more"
    words = f"upsample {HOPPER} --count 0.1k --out {out} --sampler fast --levels 3 --method.width 16 --method.depth 1"
    words += " --schedule.updates 4 --compute.device cpu --export d4rl synther"
    assert main([*words.split(), "--estimate"]) == 0
    assert "to train the model" in capsys.readouterr().out and not out.exists()
    assert main(words.split()) == 0
    streams = capsys.readouterr()
    assert "of memory" in streams.err and "export synther: 100 / 100 transitions" in streams.err
    assert f"{out}: 100 transitions, 100 of them new" in streams.out
    assert f"--dataset {HOPPER} --mix {out}/upsampled.hdf5=0.5" in streams.out
    assert f"quality: {out}/quality.html" in streams.out and "<svg" in (out / "quality.html").read_text()
    assert json.loads((out / "quality.json").read_text())["row_count"] == 100
    assert main([*words.split(), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 0
    for method in ("td3_bc", "iql"):
        run = f"train {method} --dataset {HOPPER} --mix {out}/upsampled.hdf5=0.5 --out {tmp_path / method} --quiet"
        run += " --method.hidden-sizes 16 16 --schedule.updates 3 --evaluation-episode-count 1 --compute.device cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main(run.split()) == 0, capsys.readouterr().err
    assert main([*words.split(), "--count", "200"]) == 1
    assert "count is 100 there and 200 here" in capsys.readouterr().err
    assert main([*words.split(), "--out", str(tmp_path / "again"), "--model", str(out / "model"), "--estimate"]) == 0
    assert "train the model" not in capsys.readouterr().out


def test_help_has_the_settings_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upsample", "--method", "no_such", HOPPER, "--count", "5", "--out", "o"]) == 2
    assert main(["upsample", "--method", DEFAULT, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "--noise-level" in text and "--method.width" in text
