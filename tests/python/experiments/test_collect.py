"""Collected files: their content, their address, and what they say of themselves."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import trajmill.data
from trajmill.cli import main
from trajmill.data import Dataset, environment_of, load_dataset, split_episodes
from trajmill.evaluation import check_dynamics, environment_definition, episode_seeds, make_gymnasium
from trajmill.experiments import collect as collecting
from trajmill.experiments.collect import CollectConfig, collect, train_linear_policies
from trajmill.experiments.linear_policies import bundled_policies, read_policies, write_policies

SMALL = {"rows": 1500, "threads": 1}
KINDS = ["random", "medium", "medium-replay", "medium-expert", "expert"]
HOPPER = environment_definition("hopper")


def content(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """A small Hopper set of each kind."""
    directory = tmp_path_factory.mktemp("sets")
    for kind in KINDS:
        collect("hopper", directory / f"{kind}.hdf5", CollectConfig(kind=kind, **SMALL))
    return {kind: load_dataset(directory / f"{kind}.hdf5") for kind in KINDS}  # a warning would be an error


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_sound(sets: dict[str, Dataset], kind: str) -> None:
    dataset = sets[kind]
    episodes = split_episodes(dataset)
    assert sum(len(episode) for episode in episodes) == len(dataset) >= 1500  # whole episodes, and no more than needed
    assert len(dataset) - len(episodes[-1]) < 1500
    assert not (dataset.terminals & dataset.timeouts).any()
    assert np.abs(dataset.actions).max() <= 1
    report = check_dynamics(dataset)
    assert (report.share_off, report.terminal_mismatch_count) == (0, 0)
    assert report.observation_error_quantiles[1.0] < 1e-4


def test_kinds_are_of_rising_skill(sets: dict[str, Dataset]) -> None:
    means = [np.mean([e.undiscounted_return for e in split_episodes(sets[kind])]) for kind in KINDS]
    random, medium, replay, both, expert = means
    assert 10 < random < 30
    assert random < replay < medium < both < expert
    assert medium > 500 and expert > 1500


def test_files_say_where_they_come_from(sets: dict[str, Dataset]) -> None:
    for kind, dataset in sets.items():
        said = dataset.metadata
        assert said["dataset"] == ("hopper-random" if kind == "random" else f"hopper-ars-{kind}")
        assert environment_of(dataset) == "Hopper-v4"
        assert (said["kind"], said["seed"], said["margin_fix"]) == (kind, 0, True)
        assert said["episode_count"] == len(split_episodes(dataset))
        assert {"gymnasium", "mujoco", "numpy", "trajmill"} == set(json.loads(said["versions"]))
        mean = np.mean([e.undiscounted_return for e in split_episodes(dataset)])
        assert said["return_mean"] == pytest.approx(mean, rel=1e-5)
    assert "N(0, 0.1^2)" in sets["medium"].metadata["policy_mode"]
    assert len(json.loads(sets["medium-replay"].metadata["policies"])) == collecting.REPLAY_POLICY_COUNT


@pytest.mark.parametrize("kind", ["random", "medium-replay"])
def test_threads_and_blocks_do_not_matter(
    sets: dict[str, Dataset], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_LARGEST_BLOCK", 7)
    collect("Hopper-v4", tmp_path / "again.hdf5", CollectConfig(kind=kind, rows=1500, threads=2))
    first, again = content(sets[kind].path), content(tmp_path / "again.hdf5")
    assert first.keys() == again.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)


def test_other_seeds_are_other_data(sets: dict[str, Dataset], tmp_path: Path) -> None:
    collect("hopper", tmp_path / "other.hdf5", CollectConfig(kind="medium", seed=1, **SMALL))
    other = load_dataset(tmp_path / "other.hdf5")
    assert not np.isin(other.observations[:, 0], sets["medium"].observations[:, 0]).any()


def test_an_episode_can_be_played_again_in_gymnasium(sets: dict[str, Dataset]) -> None:
    dataset, seed = sets["random"], episode_seeds(0, 1)[0]
    episode = split_episodes(dataset)[0]
    gymnasium = make_gymnasium("Hopper-v4")
    observation, _ = gymnasium.reset(seed=seed)
    for timestep, action in enumerate(episode.action):
        np.testing.assert_array_equal(episode.observation[timestep], observation.astype(np.float32))
        observation, reward, terminal, _, _ = gymnasium.step(action)
        assert episode.reward[timestep] == np.float32(reward)
    assert terminal
    gymnasium.close()


@pytest.mark.filterwarnings("ignore:.*last episode.*", "ignore:.*unfinished.*")
def test_a_file_can_be_cut_as_d4rl_cuts(sets: dict[str, Dataset], tmp_path: Path) -> None:
    made = collect("hopper", tmp_path / "cut.hdf5", CollectConfig(kind="random", cut=True, **SMALL))
    assert made.row_count == 1500
    whole, cut = content(sets["random"].path), content(tmp_path / "cut.hdf5")
    for name, values in cut.items():
        np.testing.assert_array_equal(values, whole[name][:1500])
    assert not (cut["terminals"][-1] or cut["timeouts"][-1])


def test_long_episodes_end_in_timeouts(tmp_path: Path) -> None:
    made = collect("halfcheetah", tmp_path / "set.hdf5", CollectConfig(kind="medium", rows=1001))
    dataset = load_dataset(tmp_path / "set.hdf5")
    assert (made.row_count, made.episode_count) == (2000, 2)
    assert dataset.timeouts.nonzero()[0].tolist() == [999, 1999] and not dataset.terminals.any()
    assert check_dynamics(dataset).share_off == 0


@pytest.mark.filterwarnings("ignore:.*lie outside.*")  # the pendulum's actions reach to 3
@pytest.mark.parametrize("name", ["walker2d", "ant", "invertedpendulum"])
def test_every_environment_can_be_played_at_random(tmp_path: Path, name: str) -> None:
    collect(name, tmp_path / "set.hdf5", CollectConfig(kind="random", rows=300))
    dataset = load_dataset(tmp_path / "set.hdf5")
    limit = environment_definition(name).action_limit
    assert 0.95 * limit < np.abs(dataset.actions).max() <= limit
    assert check_dynamics(dataset).share_off == 0


# --- training ---


def pendulum(tmp_path: Path, **changes: object) -> CollectConfig:
    settings = {"rows": 1000, "train": True, "target_return": 900.0, "policies": tmp_path / "policies.safetensors"}
    return CollectConfig(**settings | changes)


def test_policies_are_trained_kept_and_used_again(tmp_path: Path) -> None:
    config = pendulum(tmp_path)
    made = collect("invertedpendulum", tmp_path / "first.hdf5", config)
    assert made.return_mean > 500 and made.normalized_score is None
    collect("invertedpendulum", tmp_path / "second.hdf5", replace(config, train=False))
    first, second = content(tmp_path / "first.hdf5"), content(tmp_path / "second.hdf5")
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)
    trail = read_policies(config.policies, "InvertedPendulum-v4")
    steps = [checkpoint.environment_steps for checkpoint in trail]
    assert steps == sorted(set(steps)) and steps[0] == 0 and not trail[0].matrix.any()
    assert trail[-1].return_mean >= 900 > max(checkpoint.return_mean for checkpoint in trail[:-1])


def test_training_has_an_address(tmp_path: Path) -> None:
    config = CollectConfig(training_steps=300, threads=1, target_return=1e9)
    trails = [train_linear_policies(HOPPER, c) for c in (config, replace(config, threads=2), replace(config, seed=1))]
    np.testing.assert_array_equal(trails[0][-1].matrix, trails[1][-1].matrix)
    assert trails[0][-1].environment_steps == trails[1][-1].environment_steps >= 300
    assert (trails[0][-1].matrix != trails[2][-1].matrix).any()


def test_a_long_training_is_thinned() -> None:
    first = bundled_policies("Hopper-v4")[0]
    trail = [replace(first, return_mean=float(i), environment_steps=i) for i in range(100)]
    kept = [checkpoint.environment_steps for checkpoint in collecting._thinned(trail, 50.0)]
    assert kept == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 99]
    assert [c.environment_steps for c in collecting._thinned(trail[:3], 50.0)] == [0, 1, 2]


@pytest.mark.parametrize("environment_id", ["Hopper-v4", "HalfCheetah-v4"])
def test_bundled_policies_lead_to_the_medium_one(environment_id: str) -> None:
    trail = bundled_policies(environment_id)
    target = collecting._target(environment_definition(environment_id), CollectConfig(), "medium")
    reached = [checkpoint.return_mean >= target for checkpoint in trail]
    assert reached.index(True) == collecting.REPLAY_POLICY_COUNT - 1
    assert trail[reached.index(True)].return_mean < 1.2 * target


@pytest.mark.parametrize("name", ["hopper-ars.safetensors", "halfcheetah-ars.safetensors"])
def test_bundled_policies_are_small_and_have_their_hash_on_record(name: str) -> None:
    bundled = Path(trajmill.data.__file__).parent / "bundled"
    file = (bundled / name).read_bytes()
    assert len(file) < 20_000
    assert f"{hashlib.sha256(file).hexdigest()}  {name}" in (bundled / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hopper", "halfcheetah"])
def test_bundled_policies_play_as_they_say(tmp_path: Path, name: str) -> None:
    """The mean return of 60 episodes lies within four standard errors of that of the training's ten."""
    collect(name, tmp_path / "set.hdf5", CollectConfig(rows=60_000, seed=99))
    dataset = load_dataset(tmp_path / "set.hdf5")
    returns = np.array([episode.undiscounted_return for episode in split_episodes(dataset)])
    said = json.loads(dataset.metadata["policies"])[0]["return_mean"]
    assert abs(returns.mean() - said) < 4 * returns.std() * np.sqrt(1 / 10 + 1 / len(returns))


@pytest.mark.slow
def test_training_finds_a_medium_hopper(tmp_path: Path) -> None:
    made = collect("hopper", tmp_path / "set.hdf5", CollectConfig(train=True, rows=20_000))
    assert made.return_mean > 600


# --- refusals ---


def test_what_cannot_be_collected_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "old.hdf5").write_bytes(b"mine")
    refusals = [
        ("hopper", "old.hdf5", CollectConfig(), "old.hdf5 exists"),
        ("hopper", "no/new.hdf5", CollectConfig(), "no directory .*new.hdf5"),
        ("swimmer", "new.hdf5", CollectConfig(), r"'swimmer'; did you mean Swimmer-v5\?"),
        ("ant", "new.hdf5", CollectConfig(), "Ant-v4 .*--train"),
        ("halfcheetah", "new.hdf5", CollectConfig(kind="expert"), "no HalfCheetah-v4 policy reaches .*expert"),
        ("invertedpendulum", "new.hdf5", CollectConfig(train=True), "no reference return.*--target-return"),
    ]
    for environment, name, config, message in refusals:
        with pytest.raises(ValueError, match=message):
            collect(environment, tmp_path / name, config)
    assert [path.name for path in tmp_path.iterdir()] == ["old.hdf5"]
    assert (tmp_path / "old.hdf5").read_bytes() == b"mine"


def test_settings_are_checked() -> None:
    for settings, message in [
        ({"kind": "mediocre"}, "kind must be one of 'random', .*mediocre"),
        ({"rows": 1}, "rows must be at least 2"),
        ({"noise": -0.1}, "noise must be .*-0.1"),
        ({"noise": float("nan")}, "noise must be .*nan"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"kind": "random", "train": True}, "random plays no policy"),
    ]:
        with pytest.raises(ValueError, match=message):
            CollectConfig(**settings)


def test_equal_policies_make_equal_files(tmp_path: Path) -> None:
    trail = bundled_policies("Hopper-v4")
    contents = set()
    for _ in range(5):
        write_policies(tmp_path / "policies", "Hopper-v4", trail, {"b": 1, "a": [2, 3]})
        contents.add((tmp_path / "policies").read_bytes())
    assert len(contents) == 1
    again = read_policies(tmp_path / "policies", "Hopper-v4")
    for one, other in zip(trail, again, strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
        assert one.described() == other.described()


def test_files_that_hold_no_policies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policies.safetensors"
    with pytest.raises(ValueError, match="no file of policies"):
        read_policies(path, "Hopper-v4")
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="damaged"):
        read_policies(path, "Hopper-v4")
    write_policies(path, "Hopper-v4", bundled_policies("Hopper-v4"), {})
    with pytest.raises(ValueError, match=r"for Ant-v4.*got Hopper-v4"):
        read_policies(path, "Ant-v4")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        read_policies(path, "Hopper-v4")


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(task: str, completed: int, total: int, unit: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect("hopper", tmp_path / "set.hdf5", CollectConfig(kind="random", **SMALL), interrupt)
    assert list(tmp_path.iterdir()) == []


# --- the command ---


def test_the_command_tells_people_and_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "hopper", "--kind", "random", "--rows", "300", "--quiet", "--out"]
    assert main([*words, str(tmp_path / "one.hdf5")]) == 0
    assert "hopper-random, 3" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "two.hdf5"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["environment"] == "Hopper-v4" and told["row_count"] >= 300
    assert main([*words, str(tmp_path / "one.hdf5")]) == 1
    assert "exists" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("medium-replay", "--train", "augmented random search", "--rows", "trajmill collect hopper"):
        assert words in text
