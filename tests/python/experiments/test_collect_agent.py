"""Sets of an agent that learns online: which policy plays, what it did before, going on after a kill, refusals."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_collect import content
from tiny_runs import ONLINE, Killed, assert_equal_runs, killing, lines, tiny, train

from trajmill.algorithms import method_named
from trajmill.cli import main
from trajmill.data import Dataset, DatasetWarning, environment_of, load_dataset, split_episodes
from trajmill.evaluation import check_dynamics
from trajmill.experiments import levels
from trajmill.experiments.collect import REACHED, CollectConfig, collect
from trajmill.experiments.levels import Explorer
from trajmill.replay.ring import _SITE
from trajmill.runs.directory import RunDirectory
from trajmill.training.draws import Draws, even, shaped_normals
from trajmill.training.settings import Interaction, Schedule, plain

AGENT = ONLINE[-1]
MARKS = {"log_interval": 5, "evaluation_interval": 10, "checkpoint_interval": 7}
unfinished = pytest.mark.filterwarnings("ignore:.*(unfinished|not over|lie outside)")


SEEDS = tuple(range(6))


def tiny_run(path: Path, updates: int) -> Path:
    """A run of six seeds, of which some get better by chance."""
    settings = {"environment": "hopper", "environments": 1, "seeds": SEEDS, "interaction": Interaction(random_steps=30)}
    return train(tiny(AGENT, capacity=1000, schedule=Schedule(updates=updates, **MARKS), **settings), path)


def wanted(kind: str, run: Path, target: float, **changes: Any) -> CollectConfig:
    rows = None if kind == "medium-replay" else 300
    settings = {"agent": AGENT, "rows": rows, "target_return": target, "training_steps": 400, "threads": 1}
    return CollectConfig(kind=kind, run=run, **settings | changes)


@dataclass
class Better:
    """A run that was never stopped, and a seed of it that becomes better at an evaluation that is not the first."""

    run: Path
    seed: int
    number: int

    @property
    def returns(self) -> list[float]:
        return returns(self.run, self.seed)

    def target(self, kind: str) -> float:
        target = self.returns[self.number]
        return target if "expert" in kind else target * REACHED["medium"] / REACHED["expert"]


def returns(run: Path, seed: int) -> list[float]:
    return [line["metrics"]["return_mean"][seed] for line in lines(run, "evaluation")]


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Better:
    run = tiny_run(tmp_path_factory.mktemp("better") / "run", 60)
    for seed in SEEDS:
        means = returns(run, seed)
        for number in range(1, 6):
            if means[number] > max(means[:number]) and means[0] > means[number] / 2:
                return Better(run, seed, number)
    raise AssertionError("no seed becomes better; train for longer")


@pytest.fixture(scope="module")
def made(better: Better, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """A set of each kind, all of one run that has just begun."""
    folder = tmp_path_factory.mktemp("made")
    tiny_run(folder / "run", 1)
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*unfinished")
        for kind in ("medium-expert", "medium", "medium-replay", "expert"):
            config = wanted(kind, folder / "run", better.target(kind), seed=better.seed)
            collect("hopper", folder / f"{kind}.hdf5", config)
            found[kind] = load_dataset(folder / f"{kind}.hdf5")
    return found


def policies(dataset: Dataset) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(dataset.metadata["policies"])
    return found


def test_policies_are_those_of_the_first_evaluations_that_are_good_enough(
    made: dict[str, Dataset], better: Better
) -> None:
    """The run stops there, and has the numbers of one that was never stopped."""
    ours, means, number = made["expert"].path.parent / "run", better.returns, better.number
    assert returns(ours, better.seed)[-(number + 1) :] == means[: number + 1]
    wanted_lines = [line for line in lines(better.run) if line["update"] <= 10 * (number + 1)]
    assert [line for line in lines(ours) if line["update"] > 1] == [line for line in wanted_lines if line["update"] > 1]
    (expert,), (medium,) = policies(made["expert"]), policies(made["medium"])
    assert (expert["return_mean"], expert["updates"]) == (means[number], 10 * (number + 1))
    assert medium["return_mean"] >= better.target("medium") and medium["updates"] < expert["updates"]
    assert expert["environment_steps"] == 30 + expert["updates"]
    assert policies(made["medium-expert"]) == [medium, expert]
    assert policies(made["medium-replay"]) == [medium]


@pytest.mark.parametrize("kind", ["medium", "medium-replay", "medium-expert", "expert"])
def test_sets_are_sound(made: dict[str, Dataset], kind: str) -> None:
    dataset = made[kind]
    assert environment_of(dataset) == "Hopper-v4" and dataset.metadata["dataset"] == f"hopper-{AGENT}-{kind}"
    report = check_dynamics(dataset)
    assert (report.share_off, report.terminal_mismatch_count) == (0, 0)
    assert set(dataset.infos) == {"qpos", "qvel"}
    np.testing.assert_array_equal(dataset.infos["qpos"][:, 1:], dataset.observations[:, :5])
    np.testing.assert_array_equal(np.clip(dataset.infos["qvel"], -10, 10), dataset.observations[:, 5:])
    assert dataset.metadata["episode_count"] == len(split_episodes(dataset))
    mean = np.mean([episode.undiscounted_return for episode in split_episodes(dataset)])
    assert dataset.metadata["return_mean"] == pytest.approx(mean, rel=1e-5)


@unfinished
def test_the_replay_is_all_that_the_medium_policy_came_from(made: dict[str, Dataset]) -> None:
    dataset = made["medium-replay"]
    run = dataset.path.parent / "run"
    whole = load_dataset(run / "replay" / str(dataset.metadata["seed"]))
    assert len(dataset) == policies(dataset)[0]["environment_steps"] < len(whole)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(whole, name)[: len(dataset)])
    x = dataset.infos["qpos"][:, 0]
    inside = ~dataset.episode_ends[:-1]
    assert (np.abs(np.diff(x)[inside]) < 0.1).all() and np.abs(x).max() > 0.01, "the place, which nothing else shows"


def test_medium_expert_is_half_of_each(made: dict[str, Dataset]) -> None:
    both, medium = made["medium-expert"], made["medium"]
    count = next(end for end in both.episode_ends.nonzero()[0] + 1 if end >= 150)
    np.testing.assert_allclose(both.observations[0], medium.observations[0])
    np.testing.assert_allclose(both.actions[:20], medium.actions[:20], atol=1e-4)
    assert 150 <= count <= len(both) - 100


@pytest.mark.parametrize(
    ("kind", "at"),
    [("expert", 14), ("medium-replay", 6)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("expert", 6), ("expert", 10), ("medium-replay", 10))],
)
@unfinished
def test_killed_and_called_again_is_never_stopped(
    better: Better, made: dict[str, Dataset], tmp_path: Path, kind: str, at: int
) -> None:
    config = wanted(kind, tiny_run(tmp_path / "run", 1), better.target(kind), seed=better.seed)
    if kind == "expert" or at <= policies(made[kind])[0]["updates"]:
        with pytest.raises(Killed):
            collect("hopper", tmp_path / "set.hdf5", config, killing(at))
    assert not (tmp_path / "set.hdf5").exists()
    collect("hopper", tmp_path / "set.hdf5", config)
    ours, theirs = content(tmp_path / "set.hdf5"), content(made[kind].path)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values)
    if kind == "expert":
        assert_equal_runs(tmp_path / "run", made["expert"].path.parent / "run")


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] * (name != AGENT)) for name in ONLINE])
def test_policies_act_as_while_they_learned(method: str, tmp_path: Path) -> None:
    """A checkpoint's policy, given the run's own chance, makes the next step that the run made."""
    config = tiny(method, environment="invertedpendulum", environments=1, capacity=1000)
    run = train(replace(config, schedule=replace(config.schedule, updates=20)), tmp_path / "run")
    done = int(lines(run, "train")[-1]["metrics"]["environment_steps"][0])
    checkpoint = shutil.copy(RunDirectory(run).checkpoints()[0], tmp_path / "checkpoint")
    train(replace(config, schedule=replace(config.schedule, updates=40)), run, resume=True)
    for seed in (5, 3):
        row = load_replay(run / f"replay/{seed}").rows(slice(done, done + 2))
        words = Draws.of([seed], {"action": even(1)}, torch.device("cpu"), first_site=_SITE).words(
            torch.tensor(done), 1
        )
        noise = shaped_normals(words["action"][0], (1, 1), torch.float32).numpy()
        explorer = Explorer(checkpoint, seed)
        np.testing.assert_allclose(explorer(row.observations[None, :1], noise)[0, 0], row.actions[0], atol=1e-5)


def load_replay(path: Path) -> Dataset:
    with pytest.warns(DatasetWarning, match="unfinished|lie outside"):
        return load_dataset(path)


# --- runs of others, refusals ---


@pytest.fixture
def given(whole: Callable[..., Path], tmp_path: Path) -> Path:
    """Somebody's finished run of two seeds with two environments each, in the pendulum."""
    run = whole(tiny(AGENT, environment="invertedpendulum", capacity=1000))
    return Path(shutil.copytree(run, tmp_path / "given"))


@unfinished
def test_a_run_that_is_there_is_used_and_made_longer(given: Path, tmp_path: Path) -> None:
    made = collect("invertedpendulum", tmp_path / "set.hdf5", wanted("medium-replay", given, 0.1, seed=3))
    dataset = load_dataset(made.path)
    assert made.row_count == len(dataset) == 32, "of both environments, until the first evaluation"
    assert check_dynamics(dataset).share_off == 0 and set(dataset.infos) == {"qpos", "qvel"}
    with pytest.raises(ValueError, match=r"kept no checkpoint.*medium-replay"):
        collect("invertedpendulum", tmp_path / "none.hdf5", wanted("medium", given, 0.1, seed=3))
    with pytest.raises(ValueError, match=r"does not reach the return 10,000 in 80 .*best is \d+: .*--target-return"):
        collect("invertedpendulum", tmp_path / "none.hdf5", wanted("medium", given, 1e4, seed=3, training_steps=80))
    assert RunDirectory(given).update == 68, "more steps were allowed than it had"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "set.hdf5"]


@unfinished
def test_a_replay_ends_at_its_level_whenever_the_run_logs(tmp_path: Path) -> None:
    """And not with its last line of metrics before the evaluation."""
    schedule = Schedule(updates=14, log_interval=7, evaluation_interval=10)
    run = train(tiny(AGENT, environment="invertedpendulum", capacity=1000, schedule=schedule), tmp_path / "run")
    made = collect("invertedpendulum", tmp_path / "set.hdf5", wanted("medium-replay", run, 0.1, seed=3))
    assert made.row_count == 22, "2 environments, 7 steps before the first update, then one for every second"


def test_what_cannot_be_collected_is_refused_first(given: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    shared = Path(shutil.copytree(given, tmp_path / "shared"))
    (shared / "processes/0").mkdir(parents=True)
    (shared / "result.json").unlink()
    refusals = [
        ("invertedpendulum", shared, {"seed": 3}, r"in several processes; finish it first"),
        ("hopper", given, {}, r"InvertedPendulum"),
        ("invertedpendulum", given, {"agent": ONLINE[0]}, rf"must be a run of {ONLINE[0]} .*got one of {AGENT}"),
        ("invertedpendulum", given, {"seed": 4}, r"no seed 4; its seeds are 5, 3"),
        ("invertedpendulum", tmp_path / "new", {"target_return": None}, r"no reference return.*--target-return"),
        ("hopper", tmp_path / "full", {}, r"not a run directory"),
    ]
    for environment, run, changes, message in refusals:
        config = replace(wanted("medium", run, 1.0), **changes)
        with pytest.raises(ValueError, match=message):
            collect(environment, tmp_path / "new.hdf5", config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "given", "shared"]
    for changes, message in [
        ({"agent": "nobody"}, rf"agent must be one of .*'{AGENT}'"),
        ({"agent": "cql"}, rf"agent must be one of .*'{AGENT}'"),
        ({"agent": None}, "give --agent"),
        ({"train": True}, "of linear policies"),
        ({"noise": 0.2}, "of linear policies"),
        ({"kind": "medium-replay"}, "leave out rows and cut"),
        ({"kind": "medium-replay", "rows": None, "cut": True}, "leave out rows and cut"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(wanted("medium", given, 1.0), **changes)


@unfinished
def test_states_that_do_not_repeat_are_left_out(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "episode_seed", lambda *place: sum(place))
    with pytest.warns(DatasetWarning, match="qpos"):
        collect("invertedpendulum", tmp_path / "set.hdf5", wanted("medium-replay", given, 0.1, seed=3))
    assert not load_dataset(tmp_path / "set.hdf5").infos


def test_random_needs_no_agent(tmp_path: Path) -> None:
    for name, settings in (("one", {"agent": AGENT, "run": tmp_path / "run"}), ("two", {})):
        collect("hopper", tmp_path / f"{name}.hdf5", CollectConfig(kind="random", rows=100, **settings))
    one, two = (content(tmp_path / f"{name}.hdf5") for name in ("one", "two"))
    for name, values in two.items():
        np.testing.assert_array_equal(one[name], values)
    assert not (tmp_path / "run").exists()


@unfinished
def test_the_command_begins_a_run_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the method's own settings, whose lengths are others here; a second call goes on."""
    method = method_named(AGENT)
    monkeypatch.setattr(method, "SCHEDULE", Schedule(updates=10**6, **MARKS | {"evaluation_interval": 2}))
    monkeypatch.setattr(method, "INTERACTION", Interaction(random_steps=300))
    words = ["collect", "hopper", "--agent", AGENT, "--quiet", "--json", "--rows", "50", "--out"]
    words += [str(tmp_path / "set.hdf5"), "--training-steps", "302"]
    assert main([*words, "--target-return", "10000"]) == 1
    assert "--training-steps" in capsys.readouterr().err
    assert main([*words, "--target-return", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] == f"hopper-{AGENT}-medium"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.hdf5", "set.run"]
    assert RunDirectory(tmp_path / "set.run").described()["config"]["method"] == plain(method.Config())
    assert main(["collect", "--help"]) == 0
    assert "--agent" in capsys.readouterr().out
