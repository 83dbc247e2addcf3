"""Every path of every command and function: what it means, where it goes, and what is refused before the work."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import stat
import subprocess
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill.cli import COMMANDS, main
from trajmill.core import files
from trajmill.core.paths import given_path, input_path, local_path
from trajmill.corpus import survey
from trajmill.corpus.export import Safetensors, export_corpus
from trajmill.data import download_dataset, load_dataset, write_d4rl
from trajmill.data.formats import d4rl, format_named, format_names
from trajmill.data.tokens import read_token_csv
from trajmill.evaluation.quality import measure_quality
from trajmill.experiments.collect import CollectConfig, collect
from trajmill.experiments.datasets import convert
from trajmill.experiments.demo import run_demo
from trajmill.experiments.evaluate import evaluate_run, export_run, read_policy
from trajmill.experiments.export import export_policy
from trajmill.experiments.generate import GenerateMarkovConfig, MillConfig, generate
from trajmill.experiments.linear_policies import read_policies
from trajmill.experiments.prediction import load_model, measure_predictions
from trajmill.report import write_report
from trajmill.runs.reading import read_run, read_start
from trajmill.studies.run import reproduce

DATA = "hopper-sac-replay-10k"
TRAIN = ["train", "td3_bc", "--dataset", DATA, "--schedule.updates", "1", "--evaluation-episode-count", "1"]
TRAIN += ["--method.hidden-sizes", "8", "8", "--quiet", "--out"]
UPSAMPLE = ["upsample", DATA, "--method", "transition_vae", "--count", "100", "--no-quality", "--schedule.updates", "1"]
UPSAMPLE += ["--quiet", "--out"]
URLS = ("s3://bucket/x", "gs://bucket/x", "http://host/x.hdf5", "memory://x", "host:/x", Path("s3://bucket/x"))


def _small_buffer() -> tm.ReplayBuffer:
    buffer = tm.ReplayBuffer(4, {"x": ((), "f4")})
    buffer.add(x=np.zeros(1, np.float32))
    return buffer


def test_what_a_path_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert given_path("a/b") == Path("a/b") and local_path("a/b") == tmp_path / "a/b"
    assert given_path("~/a") == local_path(Path("~/a")) == tmp_path / "home/a"
    assert given_path("file:///a%20b/c") == given_path("file://localhost/a b/c") == Path("/a b/c")
    assert given_path("~nobody-of-this-name") == Path("~nobody-of-this-name")
    assert given_path("odd:name") == Path("odd:name") and given_path("a=b") == Path("a=b")
    for text in (*URLS, "file://host/x", "", "a\0b"):
        with pytest.raises(ValueError, match="a path"):
            given_path(text)


@pytest.mark.parametrize("wrong", [b"x", 3, None, ["x"]])
def test_a_path_is_text(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must be text|os\.PathLike"):
        local_path(wrong)


@pytest.mark.parametrize("name", ["ReplayBuffer.save", "storage", "replacing", "write_whole"])
def test_errors_name_the_place_that_was_given(name: str, tmp_path: Path) -> None:
    def replace(path: Path) -> None:
        with files.replacing(path) as part:
            part.write_text("x")

    writes = WRITES | {
        "storage": lambda path: tm.ReplayBuffer(4, {"x": "f4"}, path=path),
        "replacing": replace,
        "write_whole": lambda path: files.write_whole(path, b"x"),
    }
    with pytest.raises(FileNotFoundError) as caught:
        writes[name](tmp_path / "missing/x")
    assert caught.value.filename == str(tmp_path / "missing/x")


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert local_path("/a") == Path("/a")
    with pytest.raises(FileNotFoundError, match="x is in the working directory, which was removed"):
        local_path("x")


def test_no_home_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    for variable in ("TRAJMILL_DATASETS", "XDG_CACHE_HOME", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match="set HOME"):
        given_path("~/x")
    with pytest.raises(ValueError, match=r"hopper_medium-v2\.hdf5 .*is in none of"):
        load_dataset("hopper-medium-v2")
    with pytest.raises(ValueError, match="TRAJMILL_DATASETS"):
        download_dataset("hopper-medium-v2", say=print)


# --- every entrance of a path ---------------------------------------------------------------------------------------

READS: dict[str, Callable[[Any], Any]] = {
    "open_corpus": tm.open_corpus,
    "load_dataset": load_dataset,
    "convert from": lambda path: convert(path, "new.hdf5"),
    "read_policy_weights": d4rl.read_policy_weights,
    "read_token_csv": read_token_csv,
    "read_policies": lambda path: read_policies(path, "Hopper-v4"),
    "ReplayBuffer": lambda path: tm.ReplayBuffer(4, {"x": ((), "f4")}, path=path),
    "ReplayBuffer.load": tm.ReplayBuffer.load,
    "read_run": read_run,
    "read_start": read_start,
    "load_model": load_model,
    "read_policy": read_policy,
    "load_policy": tm.load_policy,
    "load_run": tm.load_run,
    "train from": lambda path: tm.train("td3", out="run", environment="hopper", init=path),
    "evaluate_run": evaluate_run,
    "measure_predictions": measure_predictions,
    **{f"{name}.read": format_named(name).read for name in format_names()},
}
WRITES: dict[str, Callable[[Any], Any]] = {
    "convert to": lambda path: convert(DATA, path, to="d4rl", overwrite=True),
    "collect": lambda path: collect("hopper", path, CollectConfig(kind="random", rows=20)),
    "ReplayBuffer.save": lambda path: _small_buffer().save(path),
    "export_corpus": lambda path: export_corpus(Safetensors(), _corpus("corpus"), path, overwrite=True),
    "export_run": lambda path: export_run("run", path),
    "export_policy": lambda path: export_policy(None, 0, path, "torchscript"),  # type: ignore[arg-type]
    "train to": lambda path: tm.train("td3_bc", out=path, dataset=DATA),
    "report": lambda path: write_report([], path, extra_sections=[_section()]),
    "reproduce": lambda path: reproduce("quick", path),
    "demo": run_demo,
}


def _corpus(directory: str) -> tm.StoredCorpus:
    generate(GenerateMarkovConfig(sequence_count=8, length=4, state_count=5), directory, mill=MillConfig(shard_rows=2))
    return tm.open_corpus(directory)


def _section() -> Any:
    from trajmill.report.page import Section

    return Section(name="x", title="x", text="x")


@pytest.mark.parametrize("url", URLS, ids=str)
@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_no_function_makes_a_folder_of_a_url(
    name: str, url: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=r"not a path on this machine"):
        ({**READS, **WRITES})[name](url)
    assert {path.name for path in tmp_path.iterdir()} <= {"corpus"}


class Place:
    """A path that is neither text nor a `Path`, such as that of another library, or a run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


@pytest.mark.parametrize("name", [*READS, *WRITES])
def test_a_path_may_be_text_a_path_or_have_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function refuses a place that is not there, or where nothing can be, in the same way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    told = set()
    for kind in (str, Path, Place):
        with pytest.raises((ValueError, OSError)) as caught:
            ({**READS, **WRITES})[name](kind(tmp_path / "file/x.hdf5"))
        assert "object at" not in str(caught.value)
        told.add(type(caught.value))
    assert len(told) == 1


def test_no_public_function_asks_for_a_path_object() -> None:
    asked = set()
    for name in tm.__all__:
        value: Any = getattr(tm, name)
        methods = [each for each in vars(value).values() if callable(each)] if inspect.isclass(value) else [value]
        for function in filter(inspect.isfunction, methods):
            parameters = inspect.signature(function).parameters.values()
            asked |= {str(each.annotation) for each in parameters if "Path" in str(each.annotation)}
    assert asked and not {each for each in asked if re.search(r"(?<![A-Za-z])Path", each)}


def _commands() -> Iterator[tuple[list[str], Any]]:
    """Words of every command, and the type of what is parsed after them."""
    for name in COMMANDS:
        if name in ("doctor", "demo"):
            continue
        for word, kind in importlib.import_module(f"trajmill.cli.{name}").COMMANDS.items():
            words = [name, word] if word else [name]
            if name == "train" and word not in ("td3_bc", "language_model"):
                continue  # as these: options are the same
            yield words, kind if isinstance(kind, type) else kind(["--help"])  # else a law asks for what it needs


def _paths(kind: Any, prefix: str = "") -> Iterator[str]:
    """Options of a command that take a path, also in the settings it holds."""
    hints = typing.get_type_hints(kind, include_extras=False)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and inspect.isclass(hint):
            nested = "" if field.name in ("config", "sampling") else f"{prefix}{field.name}."
            yield from _paths(hint, nested.replace("settings.", "method."))
        elif "Path" in str(hint):
            yield f"--{prefix}{field.name}".replace("_", "-")


def test_no_option_takes_a_url_for_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tried = set()
    for words, kind in _commands():
        for option in _paths(kind):
            if " ".join((*words, option)) in tried or words[0] == "corpus":
                continue
            tried.add(" ".join((*words, option)))
            assert main([*words, option, "s3://bucket/x", "--quiet"]) != 0
            capsys.readouterr()
    assert {"train td3_bc --out", "train td3_bc --init", "train td3_bc --predict", "upsample --model"} <= tried
    assert {"collect --policies", "quality --out", "reproduce --out", "report --out"} <= tried
    for words in (
        ["dataset", "convert", DATA, "s3://b/x.hdf5"],
        ["dataset", "info", "s3://b/x.hdf5"],
        ["quality", "s3://b/x", DATA],
        [*TRAIN, "run", "--mix", "s3://b/x=0.5"],
        ["corpus", "export", "safetensors", "s3://b/c", "out"],
        ["corpus", "head", "s3:/b/c"],
        ["generate", "iid", "--sequence-count", "4", "--length", "4", "--out", "s3:/b/c"],
        ["collect", "hopper", "--kind", "random", "--rows", "20", "--out", "s3:/b/c.hdf5"],
    ):
        assert main([*words, "--quiet"]) in (1, 2), words
        assert "not a path on this machine" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_home_and_file_urls_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert main(["collect", "hopper", "--kind", "random", "--rows", "20", "--out=~/x.hdf5", "--quiet"]) == 0
    assert main(["dataset", "convert", "~/x.hdf5", f"file://{tmp_path}/y.hdf5", "--quiet"]) == 0
    assert main(["generate", "iid", "--sequence-count", "4", "--length", "4", "--out=~/c", "--quiet"]) == 0
    assert main(["corpus", "head", f"file://{tmp_path}/c", "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "x.hdf5", "y.hdf5"]


def test_the_working_directory_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = _corpus("c")
    buffer = tm.ReplayBuffer(4, {"x": ((), "f4")}, path="b")
    dataset, _ = convert(DATA, "d.hdf5")
    dataset = load_dataset("d.hdf5")

    def elsewhere(*_: object) -> None:
        os.chdir("/")

    monkeypatch.chdir("/")
    assert corpus[7].shape == (4,) and repr(corpus) == f"StoredCorpus({str(tmp_path / 'c')!r})"
    assert dataset.path.is_file() and load_dataset(dataset.path)
    buffer.flush()
    with pytest.raises(ValueError, match="where this buffer works"):
        buffer.save(tmp_path / "b")
    os.chdir(tmp_path)
    generate(GenerateMarkovConfig(sequence_count=8, length=4), "c2", elsewhere, MillConfig(shard_rows=2))
    assert survey.verify(tmp_path / "c2", elsewhere).problems == ()
    os.chdir(tmp_path)
    assert collect("hopper", "x.hdf5", CollectConfig(kind="random", rows=20), elsewhere).path.is_file()


# --- where outputs go -----------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes directories of all kinds that exist and hold nothing of ours."""
    mounted = []

    def make(kind: str) -> Path:
        place = tmp_path / "place-v0"
        if kind == "link":
            (tmp_path / "real").mkdir()
            place.symlink_to(tmp_path / "real")
            return place
        place.mkdir()
        if kind == "mount":
            if subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True).returncode:
                pytest.skip("mounting needs root")
            mounted.append(place)
        elif kind == "working":
            os.chdir(place)
            return Path()
        elif kind == "volume":
            (place / "lost+found").mkdir()
            (place / ".DS_Store").touch()
        return place

    before = Path.cwd()
    yield make
    os.chdir(before)
    for place in mounted:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("kind", ["link", "mount", "working", "volume"])
@pytest.mark.parametrize("command", ["train", "generate", "export", "minari", "upsample"])
def test_directories_that_exist_are_filled_and_stay(
    command: str, kind: str, places: Callable[[str], Path], tmp_path: Path
) -> None:
    generate(GenerateMarkovConfig(sequence_count=8, length=4), tmp_path / "corpus")
    place = places(kind)
    identity = place.stat().st_ino
    words = {
        "train": [*TRAIN, place],
        "generate": ["generate", "iid", "--sequence-count", "4", "--length", "4", "--out", place],
        "export": ["corpus", "export", "safetensors", tmp_path / "corpus", place, "--overwrite"],
        "minari": ["dataset", "convert", DATA, place, "--to", "minari", "--subset", "first:100"],
        "upsample": [*UPSAMPLE, place],
    }[command]
    assert main([str(word) for word in words]) == 0
    assert place.stat().st_ino == identity and len(files.contents(place)) > 0
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    if command in ("export", "generate"):
        assert main([str(word) for word in words]) == 0  # again over what is there


SPECIAL = ("fifo", "socket", "device", "loop")


def special(path: Path, kind: str) -> Path:
    """Something that is neither a file nor a directory."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # another /dev/null
        except PermissionError:
            pytest.skip("making a device needs root")
    return path


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by link"])
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", WRITES)
def test_only_files_are_ever_replaced(
    name: str, kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = special(tmp_path / "place.hdf5", kind)
    if linked:
        place = tmp_path / "link.hdf5"
        place.symlink_to("place.hdf5")
    before = os.lstat(tmp_path / "place.hdf5")
    with pytest.raises((ValueError, OSError)):
        WRITES[name](place)
    after = os.lstat(tmp_path / "place.hdf5")
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert place.is_symlink() == (linked or kind == "loop")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by link"])
@pytest.mark.parametrize("name", ["convert to", "collect", "ReplayBuffer.save", "report", "write_d4rl", "npz"])
def test_no_file_takes_the_place_of_a_directory(
    name: str, linked: bool, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place").mkdir()
    if full:
        (tmp_path / "place/mine").write_text("mine")
    (tmp_path / "link").symlink_to("place")
    steps = load_dataset(DATA).to_write() | {"infos": None}
    writes = WRITES | {
        "write_d4rl": lambda path: write_d4rl(path, overwrite=True, **steps),
        "npz": lambda path: format_named("npz").write(path, overwrite=True, **steps),
    }
    if name == "convert to":
        monkeypatch.setattr("trajmill.experiments.datasets.load_dataset", _never)
    if name == "report":
        monkeypatch.setattr("trajmill.report.page.read_run", _never)
    with pytest.raises((ValueError, OSError), match=r"is a directory, and a file|exists|not empty"):
        writes[name](Path("link" if linked else "place"))
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["mine"] * full
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["export_corpus", "minari"])
def test_no_directory_takes_the_place_of_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place-v0").write_text("mine")
    writes = WRITES | {"minari": lambda path: convert(DATA, path, to="minari", overwrite=True)}
    with pytest.raises((ValueError, OSError), match=r"is a file|file exists"):
        writes[name](Path("place-v0"))
    assert (tmp_path / "place-v0").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} <= {"corpus", "place-v0"}


@pytest.mark.parametrize("name", ["convert to", "ReplayBuffer.save", "report"])
def test_what_a_link_leads_to_is_replaced(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text("old")
    (tmp_path / "link").symlink_to("deep/file")
    WRITES[name](Path("link"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "deep/file").read_bytes() != b"old"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", READS)
def test_nothing_waits_for_input_that_is_no_file(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    special(tmp_path / "in", kind)
    with pytest.raises((ValueError, OSError)):
        READS[name]("in")


def test_text_and_vocabulary_that_are_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "text")
    words = ["train", "language_model", "--method.text", str(tmp_path / "text"), "--out", str(tmp_path / "run")]
    assert main(words) == 1 and "is a FIFO" in capsys.readouterr().err


@pytest.mark.parametrize("name", WRITES)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    if name != "demo":  # which has its marker written first
        for module in ("experiments.collect", "experiments.datasets", "studies.run"):
            for work in ("BatchedEnvironment", "load_dataset", "run_cells"):
                monkeypatch.setattr(f"trajmill.{module}.{work}", _never, raising=False)
    for place in ("file/x", "/proc/x", "/proc/x/y"):
        with pytest.raises((ValueError, OSError)):
            WRITES[name](Path(place))
    assert (tmp_path / "file").read_text() == "mine"


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the work began")


def test_quality_refuses_its_page_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure_quality is not None
    monkeypatch.setattr("trajmill.cli.quality.load_dataset", _never)
    assert main(["quality", DATA, DATA, "--out", "/proc/x.html"]) == 1
    assert "/proc/x.html cannot be written" in capsys.readouterr().err


def test_inputs_stay_regular(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert input_path(tmp_path / "f") == tmp_path / "f" and input_path(tmp_path / "absent") and input_path(tmp_path)
    write = write_d4rl  # a public writer takes the same
    with pytest.raises(ValueError, match="not a path"):
        write("s3://b/x.hdf5", observations=np.zeros((2, 1), np.float32))  # type: ignore[call-arg]
