"""What is written in one format is read back, and means the same to the loaders that people use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from d4rl_files import valid_columns, walk_columns, write
from numpy.typing import NDArray

from trajmill.core import reference
from trajmill.data import (
    Dataset,
    DatasetError,
    DatasetWarning,
    environment_of,
    load_dataset,
    qlearning_transitions,
    read_d4rl,
    read_minari,
    read_npz,
    read_token_csv,
    split_episodes,
    write_d4rl,
    write_minari,
    write_npz,
)

STEPS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")


def assert_same_steps(dataset: Dataset, columns: dict[str, NDArray[Any]], *names: str) -> None:
    for name in names or STEPS:
        np.testing.assert_array_equal(getattr(dataset, name), columns[name])


# --- Minari ---


def many_episodes() -> dict[str, NDArray[Any]]:
    """Twelve episodes, so that the name order of their groups (0, 1, 10, 11, 2) is not theirs."""
    return walk_columns(240, terminal_rows=slice(19, None, 40), timeout_rows=slice(39, None, 40))


def test_minari_round_trip(tmp_path: Path) -> None:
    columns, qpos = many_episodes(), np.arange(480.0).reshape(240, 2)
    metadata = {"environment": "Pendulum-v1", "algorithm": "none", "seed": 3}
    directory = write_minari(tmp_path / "toy-v0", **columns, infos={"qpos": qpos, "other": qpos}, metadata=metadata)
    dataset = read_minari(directory)
    assert_same_steps(dataset, columns)
    np.testing.assert_array_equal(dataset.infos["qpos"], qpos)
    np.testing.assert_array_equal(dataset.infos["other"], qpos)
    assert dataset.name == "toy-v0"
    assert metadata.items() <= dataset.metadata.items()
    assert [len(episode) for episode in split_episodes(dataset)] == [20] * 12
    assert not [entry for entry in tmp_path.iterdir() if entry != directory]


def test_minari_layout(tmp_path: Path) -> None:
    """The keys and types that Minari 0.5.4 writes."""
    columns = many_episodes()
    directory = write_minari(
        tmp_path / "toy-v0", **columns, metadata={"environment": "Hopper-v4"}, dataset_id="a/toy-v0"
    )
    with h5py.File(directory / "data/main_data.hdf5") as file:
        group = file["episode_11"]
        assert {name: (array.shape, array.dtype.str) for name, array in group.items() if name != "infos"} == {
            "observations": ((21, 11), "<f4"),
            "actions": ((20, 3), "<f4"),
            "rewards": ((20,), "<f4"),
            "terminations": ((20,), "|b1"),
            "truncations": ((20,), "|b1"),
        }
        assert dict(group.attrs) == {"id": 11, "total_steps": 20}
    metadata = json.loads((directory / "data/metadata.json").read_text())
    assert (metadata["total_episodes"], metadata["total_steps"], metadata["data_format"]) == (12, 240, "hdf5")
    assert json.loads(metadata["action_space"]) == {
        "type": "Box",
        "dtype": "float32",
        "shape": [3],
        "low": [-1.0] * 3,
        "high": [1.0] * 3,
    }
    assert json.loads(metadata["env_spec"])["id"] == "Hopper-v4"
    assert (metadata["dataset_id"], metadata["minari_version"]) == ("a/toy-v0", "0.5.0")


def test_minari_infos_count_the_observations_or_the_steps(tmp_path: Path) -> None:
    directory = write_minari(tmp_path / "toy-v0", **many_episodes())
    with h5py.File(directory / "data/main_data.hdf5", "a") as file:
        for i in range(12):
            file[f"episode_{i}/infos/qpos"] = np.arange(21.0)[:, None] + 100 * i
            file[f"episode_{i}/infos/success"] = np.arange(21.0) + 100 * i
            file[f"episode_{i}/infos/words"] = ["text"] * 21
            file[f"episode_{i}/infos/part/of"] = np.zeros(21)
            file[f"episode_{i}/infos/qvel"] = np.zeros((20, 2))
            if i:
                file[f"episode_{i}/infos/later"] = np.zeros(21)
    path = directory / "data/metadata.json"
    described = json.loads(path.read_text())
    del described["trajmill"]  # of another program
    path.write_text(json.dumps(described))
    with pytest.warns(DatasetWarning) as told:
        dataset = read_minari(directory)
    (message,) = [str(warning.message) for warning in told]
    assert sorted(dataset.infos) == ["qpos", "success"]
    np.testing.assert_array_equal(dataset.infos["qpos"][18:22, 0], [18, 19, 100, 101])  # before each step
    np.testing.assert_array_equal(dataset.infos["success"][18:22], [19, 20, 101, 102])  # what the step returned
    for left_out in ("'infos/words' has dtype", "'infos/part' is a group", "'infos/qvel' has as many", "'infos/later'"):
        assert left_out in message


def test_minari_names_environments_itself(tmp_path: Path) -> None:
    directory = write_minari(tmp_path / "toy-v0", **many_episodes())
    path = directory / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"env_spec": '{"id": "Hopper-v5"}'}))
    assert environment_of(read_minari(directory)) == "Hopper-v5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_id": "toy"}, "'toy' .*name"),
        ({"timeouts": np.zeros(240, np.bool_)}, "'next_observations' is not the next row's observation in 5 rows"),
        ({"rewards": np.zeros(3)}, "'rewards' has 3 rows"),
    ],
)
def test_what_minari_cannot_hold_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        write_minari(tmp_path / "toy-v0", **(many_episodes() | change))
    assert not list(tmp_path.iterdir())


def test_a_minari_directory_is_never_replaced(tmp_path: Path) -> None:
    write_minari(tmp_path / "toy-v0", **many_episodes())
    with pytest.raises(DatasetError, match="exists and is not empty"):
        write_minari(tmp_path / "toy-v0", **many_episodes())


# --- SynthER ---


def test_npz_round_trip(tmp_path: Path) -> None:
    columns = valid_columns()
    path = write_npz(tmp_path / "samples.npz", **columns)
    with np.load(path) as arrays:
        assert {name: arrays[name].dtype for name in arrays} == dict.fromkeys(
            ("observations", "actions", "rewards", "next_observations", "terminals"), np.dtype(np.float32)
        )
        assert arrays["rewards"].shape == arrays["terminals"].shape == (60,)
    dataset = read_npz(path)
    assert_same_steps(dataset, columns, "observations", "actions", "rewards", "terminals", "next_observations")
    assert not dataset.timeouts.any() and not dataset.ordered
    with pytest.raises(DatasetError, match="exists"):
        write_npz(path, **columns)
    assert write_npz(path, **columns, overwrite=True) == path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_numpy_writes_it(tmp_path: Path, save: Any) -> None:
    columns = valid_columns()
    columns["observations"] = np.asfortranarray(columns["observations"])
    columns["rewards"] = columns["rewards"].astype(">f4")
    save(tmp_path / "set.npz", **columns, extra=np.zeros(3))
    with pytest.warns(DatasetWarning, match="not read: 'extra'"):
        assert_same_steps(read_npz(tmp_path / "set.npz"), columns)


def test_terminals_of_a_model_count_from_a_half_on(tmp_path: Path) -> None:
    columns = valid_columns()
    noise = np.linspace(-0.4, 0.4, 60, dtype=np.float32)
    np.savez(tmp_path / "set.npz", **(columns | {"terminals": columns["terminals"] + noise}))
    with pytest.warns(DatasetWarning, match="'terminals' is neither 0 nor 1 in 60 rows, first in row 0; read as > 0.5"):
        dataset = read_npz(tmp_path / "set.npz")
    assert_same_steps(dataset, columns, "terminals")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": np.full(60, np.nan)}, "'terminals' holds nan in row 0"),
        ({"rewards": np.full(60, np.inf)}, "'rewards' holds NaN or infinity in 60 rows"),
        ({"rewards": np.zeros(59)}, "'rewards' has 59 rows"),
        ({"next_observations": None}, "'next_observations' is missing"),
        ({"actions": None}, "'actions' is missing"),
    ],
)
@pytest.mark.filterwarnings("ignore::trajmill.data.DatasetWarning")
def test_npz_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **{name: values for name, values in (valid_columns() | change).items() if values is not None})
    with pytest.raises(DatasetError, match=message) as error:
        read_npz(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", None])
def test_npz_impostors(tmp_path: Path, content: bytes | None) -> None:
    path = write_npz(tmp_path / "set.npz", **valid_columns())
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(DatasetError, match="not a NumPy archive, or one cut short"):
        read_npz(path)


def test_npz_flipped_bytes(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz", **valid_columns())
    content = bytearray(path.read_bytes())
    content[500] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="the archive is damaged"):
        read_npz(path)


# --- tokens ---


def test_token_files(tmp_path: Path) -> None:
    """As Python's csv module writes them; `reference` makes the authors' own."""
    tokens = reference.markov_tokens(1, 100, 1.0, 666, 8, 16, 64, 0)
    path = tmp_path / "data_ngram_1_nvocab_100_temperature_1.0.csv"
    path.write_text("".join(",".join(map(str, row)) + "\r\n" for row in tokens.tolist()))
    read = read_token_csv(path)
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, tokens)
    path.write_text("5\n4294967295\n")
    assert read_token_csv(path).tolist() == [[5], [4294967295]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a,b\r\n1,2\r\n", "line 1 holds b'a' where a digit or a comma belongs"),
        (b"1,2\r\n3,-4\r\n", "line 2 holds b'-'"),
        (b"1,2\r\n3\r\n", "line 2 has 1 tokens, line 1 has 2"),
        (b"1,2\r\n3,\r\n", "line 2 has an empty field"),
        (b"1,2\r\n\r\n", "line 2 has 1 tokens"),
        (b"1,4294967296\r\n", "line 1 has an empty field or a number above 4,294,967,295"),
        (b"\r\n", "line 1 has an empty field"),
    ],
)
def test_token_files_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokens.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as error:
        read_token_csv(path)
    assert str(error.value).startswith(f"{path}: ")
    with pytest.raises(DatasetError, match="no such file"):
        read_token_csv(tmp_path / "absent.csv")


# --- what other loaders make of D4RL files ---


def flat_dictionary(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays under their full names, as `get_dataset` of D4RL's environments returns them."""
    arrays: dict[str, NDArray[Any]] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, entry: arrays.update({name: entry[()]}) if isinstance(entry, h5py.Dataset) else None
        )
    return arrays


def d4rl_style(data: dict[str, NDArray[Any]]) -> list[tuple[Any, ...]]:
    """The documented rule of `qlearning_dataset`, a row at a time, cast as it casts."""
    found, episode_step = [], 0
    for i in range(len(data["rewards"]) - 1):
        final = bool(data["timeouts"][i]) if "timeouts" in data else episode_step == 1000 - 1
        if final:
            episode_step = 0
            continue
        done = bool(data["terminals"][i])
        episode_step = 0 if done else episode_step + 1
        row = (data["observations"][i], data["actions"][i], data["rewards"][i], data["observations"][i + 1])
        found.append((*(np.asarray(part).astype(np.float32) for part in row), done))
    return found


@pytest.mark.parametrize("source", ["float32", "float64", "bundled"])
def test_d4rl_loaders_find_the_same_transitions(tmp_path: Path, source: str) -> None:
    """Equal to D4RL's function bit for bit, also where the file holds double precision."""
    if source == "bundled":
        path = tmp_path / "set.hdf5"
        write_d4rl(path, **load_dataset("hopper-sac-replay-10k").rows(slice(3000)).to_write())
    elif source == "float32":
        path = write_d4rl(tmp_path / "set.hdf5", **valid_columns())
    else:
        generator = np.random.default_rng(1)
        doubles = {
            key: v + 1e-9 * generator.normal(size=v.shape) for key, v in valid_columns().items() if v.dtype == "f4"
        }
        path = write(tmp_path / "set.hdf5", valid_columns() | doubles)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        ours = qlearning_transitions(read_d4rl(path), "d4rl")
    theirs = d4rl_style(flat_dictionary(path))
    assert len(ours) == len(theirs)
    columns = (ours.observation, ours.action, ours.reward, ours.next_observation, ours.terminal)
    for column, expected in zip(columns, zip(*theirs, strict=True), strict=True):
        assert column.tobytes() == np.array(expected, column.dtype).tobytes()


def test_without_timeouts_the_rule_is_d4rls_step_count(tmp_path: Path) -> None:
    """An episode of 1,000 steps is cut, whose last row is then dropped."""
    columns = walk_columns(3500)
    columns["terminals"][:] = False
    columns["terminals"][[699, 2000]] = True
    for name in ("timeouts", "next_observations"):
        del columns[name]
    path = write(tmp_path / "hopper-mine.hdf5", columns)
    with pytest.warns(DatasetWarning) as told:
        ours = qlearning_transitions(read_d4rl(path))
    assert "no key 'timeouts'" in str(told[0].message)
    theirs = d4rl_style(flat_dictionary(path))
    assert ours.observation.tobytes() == np.array([row[0] for row in theirs]).tobytes()
    assert ours.terminal.tolist() == [row[4] for row in theirs]


def test_d3rlpy_style_episodes(tmp_path: Path) -> None:
    """Cut after every terminal or timeout, as d3rlpy's `MDPDataset` does with the two columns."""
    columns = walk_columns()
    data = flat_dictionary(write_d4rl(tmp_path / "set.hdf5", **columns))
    ends = np.flatnonzero(np.logical_or(data["terminals"], data["timeouts"])) + 1
    pieces = np.split(np.arange(300), ends)
    assert [len(piece) for piece in pieces] == [101, 100, 99]
    with pytest.warns(DatasetWarning, match="last 99 rows"):
        episodes = split_episodes(read_d4rl(tmp_path / "set.hdf5"))
    assert [len(episode) for episode in episodes] == [101, 100]


# --- the libraries themselves ---


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that has Minari and D4RL; without a network the tests are skipped."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin/python"
    for words in (["minari==0.5.4", "h5py", "pillow"], ["--no-deps", "d4rl==1.1", "gym==0.24.1", "termcolor", "tqdm"]):
        done = subprocess.run([python, "-m", "pip", "install", "-q", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot fetch {words[0]}: {done.stderr[-200:]}")
    return python


def run(python: Path, script: str, *arguments: object, **variables: str) -> str:
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [python, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=here | variables, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


MINARI_READS = """
import sys, minari, numpy as np
data = minari.load_dataset("toy/mine-v0")
episodes = list(data.iterate_episodes())
print(data.total_episodes, data.total_steps, data.observation_space.shape, data.action_space.high[0], data.env_spec.id)
np.savez(sys.argv[1], observations=np.concatenate([e.observations[:-1] for e in episodes]),
    next_observations=np.concatenate([e.observations[1:] for e in episodes]),
    actions=np.concatenate([e.actions for e in episodes]), rewards=np.concatenate([e.rewards for e in episodes]),
    terminals=np.concatenate([e.terminations for e in episodes]),
    timeouts=np.concatenate([e.truncations for e in episodes]))
"""
MINARI_WRITES = """
import gymnasium, minari, numpy as np
from minari.data_collector import EpisodeBuffer
generator, episodes = np.random.default_rng(0), []
for i in range(12):
    flags = np.arange(5 + i) == 4 + i
    episodes.append(EpisodeBuffer(id=i, observations=np.full((6 + i, 4), i) + np.arange(6 + i)[:, None],
        actions=generator.uniform(-1, 1, (5 + i, 2)), rewards=np.arange(5.0 + i), terminations=flags & bool(i % 2),
        truncations=flags & (not i % 2), infos={"qpos": np.zeros((6 + i, 2))}))
box = gymnasium.spaces.Box
minari.create_dataset_from_buffers("toy/theirs-v0", buffer=episodes, observation_space=box(-np.inf, np.inf, (4,)),
    action_space=box(-1, 1, (2,)))
"""


@pytest.mark.slow
def test_minari_reads_ours_and_we_read_minaris(environment: Path, tmp_path: Path) -> None:
    columns = many_episodes()
    metadata = {"environment": "Hopper-v4"}
    write_minari(tmp_path / "toy/mine-v0", **columns, metadata=metadata, dataset_id="toy/mine-v0")
    told = run(environment, MINARI_READS, tmp_path / "read.npz", MINARI_DATASETS_PATH=str(tmp_path))
    assert told.split() == ["12", "240", "(11,)", "1.0", "Hopper-v4"]
    with np.load(tmp_path / "read.npz") as read:
        for name, values in columns.items():
            np.testing.assert_array_equal(read[name], values)

    run(environment, MINARI_WRITES, MINARI_DATASETS_PATH=str(tmp_path))
    with pytest.warns(DatasetWarning, match="cast to float32: observations from int64, actions from float64"):
        dataset = read_minari(tmp_path / "toy/theirs-v0")
    assert dataset.name == "toy/theirs-v0"
    assert [len(episode) for episode in split_episodes(dataset)] == list(range(5, 17))
    assert [episode.terminal for episode in split_episodes(dataset)] == [False, True] * 6
    assert [int(episode.observation[0, 0]) for episode in split_episodes(dataset)] == list(range(12))


D4RL_READS = """
import sys, h5py, numpy as np, d4rl
arrays = {}
with h5py.File(sys.argv[1]) as file:
    file.visititems(lambda name, entry: arrays.update({name: entry[()]}) if isinstance(entry, h5py.Dataset) else None)
class Environment:
    _max_episode_steps = 1000
np.savez(sys.argv[2], **d4rl.qlearning_dataset(Environment(), dataset=arrays))
"""


@pytest.mark.slow
def test_d4rls_own_function_finds_the_same_bytes(environment: Path, tmp_path: Path) -> None:
    dataset = load_dataset("hopper-sac-replay-10k")
    path = write_d4rl(tmp_path / "set.hdf5", **dataset.to_write())
    run(environment, D4RL_READS, path, tmp_path / "read.npz")
    ours = qlearning_transitions(read_d4rl(path), "d4rl")
    names = {"observations": "observation", "actions": "action", "rewards": "reward", "terminals": "terminal"}
    with np.load(tmp_path / "read.npz") as theirs:
        for name, field in (names | {"next_observations": "next_observation"}).items():
            column = getattr(ours, field)
            assert theirs[name].dtype == column.dtype
            assert theirs[name].tobytes() == column.tobytes()
