from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trajmill.data
from trajmill.data import (
    Dataset,
    DatasetError,
    bundled_datasets,
    environment_of,
    load_dataset,
    normalized_score,
    qlearning_transitions,
    split_episodes,
)

BUNDLED = Path(trajmill.data.__file__).parent / "bundled"

GOLDEN = {
    # environment, rows, episodes, terminals, observation size, action size, sum of rewards, score of the mean return
    "hopper-sac-replay-10k": ("Hopper-v4", 9930, 70, 69, 11, 3, 27897.149, 12.9),
    "halfcheetah-sac-replay-10k": ("HalfCheetah-v4", 10000, 10, 0, 17, 6, 25071.641, 22.5),
    "walker2d-sac-replay-10k": ("Walker2d-v4", 10074, 68, 68, 17, 6, 13592.457, 4.3),
    "ant-sac-replay-9k": ("Ant-v4", 9428, 13, 4, 27, 8, 3412.951, 14.0),
    "hopper-ars-noisy-20k": ("Hopper-v4", 20221, 36, 31, 11, 3, 54967.170, 47.5),
}


def test_the_catalog_lists_the_bundled_files() -> None:
    assert bundled_datasets() == tuple(sorted(GOLDEN))


@pytest.mark.parametrize("name", GOLDEN)
def test_bundled_sets_are_what_their_readme_says(name: str) -> None:
    environment, rows, episode_count, terminals, observation_dim, action_dim, reward_sum, score = GOLDEN[name]
    dataset = load_dataset(name)  # without a warning: they are errors here
    assert dataset.name == name
    assert environment_of(dataset) == environment
    assert (len(dataset), dataset.observation_dim, dataset.action_dim) == (rows, observation_dim, action_dim)
    assert int(dataset.terminals.sum()) == terminals
    assert float(dataset.rewards.sum(dtype=np.float64)) == pytest.approx(reward_sum, abs=1e-3)
    episodes = split_episodes(dataset)
    assert len(episodes) == episode_count
    assert sum(len(episode) for episode in episodes) == rows
    mean_return = np.mean([episode.undiscounted_return for episode in episodes])
    assert float(normalized_score(environment, mean_return)) == pytest.approx(score, abs=0.05)
    assert dataset.metadata["margin_fix"] is (environment in ("Hopper-v4", "Ant-v4"))
    assert len(qlearning_transitions(dataset, "stored")) == rows
    assert len(qlearning_transitions(dataset, "d4rl")) == rows - 1 - int(dataset.timeouts[:-1].sum())


@pytest.mark.parametrize("name", GOLDEN)
def test_bundled_files_are_small_and_have_their_hash_on_record(name: str) -> None:
    content = (BUNDLED / f"{name}.hdf5").read_bytes()
    assert len(content) < 2_000_000
    assert f"{hashlib.sha256(content).hexdigest()}  {name}.hdf5" in (BUNDLED / "README.md").read_text()


def test_a_path_is_as_good_as_a_name(tmp_path: Path) -> None:
    path = tmp_path / "hopper-mine.hdf5"
    path.write_bytes((BUNDLED / "hopper-sac-replay-10k.hdf5").read_bytes())
    dataset = load_dataset(path)
    assert (dataset.name, dataset.path) == ("hopper-mine", path)


@pytest.mark.parametrize("name", ["hopper-medium-v2", "absent/file.hdf5", "../bundled/hopper-sac-replay-10k"])
def test_unknown_names_list_the_known(name: str) -> None:
    with pytest.raises(DatasetError, match="bundled are: ant-sac-replay-9k, halfcheetah-sac-replay-10k, hopper"):
        load_dataset(name)


def named(name: str, **metadata: object) -> Dataset:
    rows, flags = np.zeros((2, 1), np.float32), np.zeros(2, np.bool_)
    return Dataset(
        name=name,
        path=Path(f"{name}.hdf5"),
        observations=rows,
        actions=rows,
        rewards=rows[:, 0],
        terminals=flags,
        timeouts=flags,
        next_observations=None,
        metadata=metadata,
    )


@pytest.mark.parametrize(
    ("dataset", "environment"),
    [
        (named("hopper_medium_replay-v2"), "Hopper-v4"),
        (named("halfcheetah-expert-v2"), "HalfCheetah-v4"),
        (named("Walker2d-medium-v2"), "Walker2d-v4"),
        (named("anything", environment="Ant-v4"), "Ant-v4"),
        (named("hopper-like", environment="HalfCheetah-v4"), "HalfCheetah-v4"),
    ],
)
def test_the_environment_follows_from_attribute_then_name(dataset: Dataset, environment: str) -> None:
    assert environment_of(dataset) == environment


def test_a_set_of_nowhere_is_refused() -> None:
    with pytest.raises(DatasetError, match="nor the name 'mine'"):
        environment_of(named("mine"))


def test_the_data_room_imports_neither_torch_nor_h5py() -> None:
    code = "import sys, trajmill.data; print([name for name in ('torch', 'h5py', 'mujoco') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
