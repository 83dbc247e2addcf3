"""What a run may change when it goes on: where its data lies, its label, its schedule; and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import upsampling
from tiny_runs import HOPPER, METHODS, killed, lines, tensors, tiny, train

from trajmill.corpus.build import build
from trajmill.corpus.sources import make_spec
from trajmill.data import load_dataset, write_d4rl
from trajmill.experiments.prediction import identity_of_run
from trajmill.runs.directory import RunDirectory
from trajmill.runs.reading import RunError, read_config, read_start
from trajmill.training.checkpoint import CheckpointError
from trajmill.training.metrics import MetricRing, resized
from trajmill.training.settings import Schedule, places

NEVER = 10**6
SHORT = Schedule(updates=12, log_interval=4, evaluation_interval=NEVER, checkpoint_interval=6)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a copy of it."""
    first = write_d4rl(tmp_path / "hopper.hdf5", **load_dataset(HOPPER).to_write())
    (tmp_path / "elsewhere").mkdir()
    return first, Path(shutil.copy(first, tmp_path / "elsewhere/hopper-renamed.hdf5"))


def config_of(dataset: Path | str, **changes: Any) -> Any:
    return replace(tiny("td3_bc", dataset=str(dataset), environment="Hopper-v4"), schedule=SHORT, **changes)


def test_the_same_data_under_another_path(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another directory, by another name, with another label: the bytes are the same."""
    run = tmp_path / "run"
    killed(config_of(files[0]), run, 8)
    monkeypatch.chdir(files[1].parent)
    moved = config_of(files[1].name, variant="again")
    train(moved, run, resume=True)
    assert RunDirectory(run).finished and RunDirectory(run).update == 12
    assert read_config(run)["config"]["dataset"] == files[1].name
    assert (read_config(run)["dataset"], read_config(run)["variant"]) == ("hopper-renamed", "again")
    whole = train(config_of(files[0]), tmp_path / "whole")
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(run)[name]), name


SMALL = Schedule(updates=12, log_interval=4, evaluation_interval=12, checkpoint_interval=6)
BRIEF = replace(SMALL, updates=2)
PLACES = {"init": "decision_transformer", "predict": "td3_bc", "relevance": "diffusion"}
PLACES |= {"method.corpus": "language_model", "method.text": "language_model", "method.vocabulary": "language_model"}
"""every setting that is a path, and a method that takes it"""


def text_in(folder: Path) -> Path:
    """A text of some lines."""
    folder.mkdir(exist_ok=True)
    words = ["the", "hopper", "lands", "on", "one", "leg", "and", "jumps"]
    rows = np.random.default_rng(0).choice(words, (60, 9))
    (folder / "text.txt").write_text("\n".join(" ".join(row) + " ." for row in rows))
    return folder / "text.txt"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def placed(setting: str, method: str, folder: Path, cache: Path) -> tuple[Any, Path]:
    """A run that learns from what lies at a path, and that path."""
    options: dict[str, Any] = {}
    if setting == "init":
        place = train(tiny("language_model", schedule=BRIEF, seeds=(1,)), folder / "run")
    elif setting == "predict":
        place = train(tiny("world_model", schedule=BRIEF, seeds=(1,)), folder / "run")
    elif setting == "relevance":
        place = train(tiny("td3_bc", schedule=BRIEF, seeds=(1,)), folder / "run")
        options["condition"] = "run"
    elif setting == "method.corpus":
        spec = make_spec("dyck", {"pairs": 3}, row_count=40, length=12)
        build(spec, place := folder / "corpus", threads=1)
    else:
        pytest.importorskip("tokenizers")
        options |= {"text": (text_in(folder),), "vocabulary_size": 270, "decay_updates": 50}
        place = options["text"][0]
    if setting == "method.vocabulary":
        train(tiny(method, method=options, schedule=BRIEF), folder / "run")
        place = options["vocabulary"] = next(cache.glob("text-*"))
    return tiny(method, method=options, schedule=SMALL, seeds=(3,)), place


def at(config: Any, setting: str, place: Path) -> Any:
    """The run with this path."""
    if not setting.startswith("method."):
        return replace(config, **{setting: place})
    name = setting.removeprefix("method.")
    return replace(config, method=replace(config.method, **{name: (place,) if name == "text" else place}))


def test_every_setting_that_is_a_path_is_tried() -> None:
    assert {setting for method in METHODS for setting in places(tiny(method))} == PLACES.keys()


@pytest.mark.parametrize(
    ("setting", "method"),
    [pytest.param(*each, marks=pytest.mark.slow if each[0] != "method.text" else ()) for each in PLACES.items()],
)
def test_whatever_a_run_learns_from_may_lie_elsewhere(setting: str, method: str, tmp_path: Path, cache: Path) -> None:
    config, place = placed(setting, method, tmp_path / "first", cache)
    config = at(config, setting, place)
    whole = train(config, tmp_path / "whole")
    run = killed(config, tmp_path / "again", 8)
    moved = tmp_path / "elsewhere"
    (shutil.copytree if place.is_dir() else shutil.copyfile)(place, moved)
    if place.is_relative_to(tmp_path / "first"):
        shutil.rmtree(tmp_path / "first")
    train(at(config, setting, moved), run, resume=True)
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor.nan_to_num(), tensors(run)[name].nan_to_num()), name
    assert str(moved) in json.dumps(read_config(run)["config"])


def test_another_text_at_the_same_path_is_another_run(tmp_path: Path, cache: Path) -> None:
    """Also for what began with a model of it."""
    config, place = placed("method.text", "language_model", tmp_path / "first", cache)
    model = train(config, tmp_path / "model")
    method = {"language_weight": 0.5, "warmup_updates": 2}
    agent = tiny("decision_transformer", init=model, method=method, schedule=SMALL, seeds=(3,))
    killed(agent, tmp_path / "agent", 8)
    identities = [read_start(model)[1]]
    place.write_text(place.read_text().replace("hopper", "walker"))
    with pytest.raises(
        ValueError, match=r"needs the text that the language model learned, text-\w+, but its files hold"
    ):
        train(agent, tmp_path / "agent", resume=True)
    identities.append(read_start(train(config, tmp_path / "other"))[1])
    assert identity_of_run(identities[0]) != identity_of_run(identities[1])


def test_another_corpus_at_the_same_path_is_another_run(tmp_path: Path, cache: Path) -> None:
    config, place = placed("method.corpus", "language_model", tmp_path / "first", cache)
    config = at(config, "method.corpus", place)
    run = killed(config, tmp_path / "run", 8)
    shutil.rmtree(place)
    build(make_spec("dyck", {"pairs": 3, "seed": 7}, row_count=40, length=12), place, threads=1)
    with pytest.raises(ValueError, match="corpus-"):
        train(config, run, resume=True)


def test_an_upsampling_goes_on_with_the_same_data_elsewhere(files: tuple[Path, Path], tmp_path: Path) -> None:
    whole = upsampling.make(tmp_path / "whole", str(files[0])).directory
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    (again / "upsampled.hdf5").unlink()
    files[0].unlink()
    upsampling.make(again, str(files[1]))
    ours, theirs = upsampling.contents(again), upsampling.contents(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_other_data_is_no_other_path(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Also if only what follows differs, which no earlier version looked at; and so in a mixture."""
    changed = load_dataset(files[1])
    assert changed.next_observations is not None
    changed.next_observations[-1] += 1.0
    other = write_d4rl(tmp_path / "hopper-other.hdf5", **changed.to_write())
    killed(config_of(files[0]), tmp_path / "run", 8)
    with pytest.raises(CheckpointError, match="another run: its following_sha256"):
        train(config_of(other), tmp_path / "run", resume=True)
    killed(config_of(HOPPER, mix=(f"{files[0]}=0.5",)), tmp_path / "mixed", 8)
    with pytest.raises(CheckpointError, match="another run: its mix"):
        train(config_of(HOPPER, mix=(f"{other}=0.5",)), tmp_path / "mixed", resume=True)
    train(config_of(HOPPER, mix=(f"{files[1]}=0.5",)), tmp_path / "mixed", resume=True)


@pytest.mark.parametrize("done", [8, 12])
@pytest.mark.parametrize("interval", [1, 3, 4, 100])
def test_a_longer_schedule_with_other_intervals_ends_as_one_run(done: int, interval: int, tmp_path: Path) -> None:
    """Killed or finished; a line of metrics is the mean since the one before, but of no more than an interval."""
    longer = Schedule(updates=20, log_interval=interval, evaluation_interval=NEVER, checkpoint_interval=5)
    run, config = tmp_path / "run", config_of(HOPPER)
    if done == 12:
        train(config, run)
    else:
        killed(config, run, done)
    train(replace(config, schedule=longer), run, resume=True)
    assert RunDirectory(run).finished and RunDirectory(run).update == 20
    whole = train(replace(config, schedule=replace(SHORT, updates=20, log_interval=1)), tmp_path / "whole")
    for name, tensor in tensors(whole).items():
        assert name == "metrics" or torch.equal(tensor, tensors(run)[name]), name
    single = {line["update"]: line["metrics"] for line in lines(whole, "train")}
    before, resumed = 0, 6 if done == 8 else 12
    for line in lines(run, "train"):
        if line["update"] > resumed:
            before = max(before, resumed - resumed % interval)
        for name, values in line["metrics"].items():
            for seed, value in enumerate(values):
                made = [single[update][name][seed] for update in range(before + 1, line["update"] + 1)]
                known = [number for number in made if number is not None]
                assert value is None or value == pytest.approx(sum(known) / len(known), rel=1e-5), (
                    line["update"],
                    name,
                )
        before = line["update"]


def test_fewer_updates_than_were_made_and_other_settings_are_refused(tmp_path: Path) -> None:
    config = config_of(HOPPER)
    run = train(config, tmp_path / "run")
    before = (run / "config.json").read_bytes(), (run / "result.json").read_bytes()
    with pytest.raises(RunError, match="has made 12 updates, 9 were asked for"):
        train(replace(config, schedule=replace(SHORT, updates=9)), run, resume=True)
    for changes in ({"seeds": (7,)}, {"evaluation_episode_count": 9}, {"mix": (f"{HOPPER}=0.5",)}):
        with pytest.raises(RunError, match="other settings"):
            train(replace(config, **changes), run, resume=True)
    train(replace(config, variant="another"), run, resume=True)  # nothing is left to do
    assert before == ((run / "config.json").read_bytes(), (run / "result.json").read_bytes())


def test_a_run_may_go_on_with_its_scores_made_elsewhere(
    tmp_path: Path, whole, recwarn: pytest.WarningsRecorder
) -> None:
    """Which is what the message says to do when the process that made them ends. Numbers are the same: no warning."""
    config = config_of(HOPPER)
    run = killed(replace(config, compute=replace(config.compute, evaluation="beside")), tmp_path / "run", 2)
    train(replace(config, compute=replace(config.compute, evaluation="in_place")), run, resume=True)
    assert RunDirectory(run).described()["config"]["compute"]["evaluation"] == "in_place"
    assert not [each for each in recwarn if "another device" in str(each.message)]
    assert lines(run) == lines(whole(config))


@pytest.mark.parametrize(("was", "now"), [(4, 9), (9, 4), (5, 5), (1, 7)])
@pytest.mark.parametrize("end", [1, 3, 4, 11, 20])
def test_a_ring_of_another_size_holds_the_same_last_updates(was: int, now: int, end: int) -> None:
    ring = MetricRing.of(("a",), 2, was, torch.device("cpu"))
    for update in range(end):
        ring.write(torch.tensor(update), {"a": torch.full((2,), float(update))})
    larger = MetricRing(("a",), resized(ring.values, now, end))
    kept = min(was, now, end)
    assert larger.mean_of_last(end - kept, end) == ring.mean_of_last(end - kept, end)
    larger.write(torch.tensor(end), {"a": torch.full((2,), float(end))})
    assert larger.mean_of_last(end, end + 1) == {"a": [end, end]}
