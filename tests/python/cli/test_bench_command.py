"""`trajmill bench` as a user meets it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

from trajmill.bench import run
from trajmill.bench.record import read
from trajmill.cli import bench, main


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler of few sequences, so that all of it takes a second."""

    def options(self: bench.Sampler) -> bench.Options:
        return bench.Options(threads=1, sequences=16)

    monkeypatch.setattr(bench.Sampler, "options", options)


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["bench", *map(str, words)])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_lines_for_people_and_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code, out, err = called(capsys, "sampler", "--seconds", 0.1, "--out", path, "--quiet")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written")), out
    assert "chain, 100 states, 16 x 1,024 tokens, 1 thread\n" in out and f"written to {path}" in out
    found = read(path)
    ours = next(rate for rate in found.rows if rate.role == "ours")
    assert re.search(rf"  {ours.name} +[\d.]+ ±\d+% +\d+% of {ours.limit}\n", out)
    assert re.search(r"  NumPy, all sequences together +\S+ ±\d+% +trajmill: [\d.,]+ x\n", out)
    assert "  limit: Philox " in out and "measured in " in out


def test_json_and_a_comparison(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    code, out, _ = called(capsys, "sampler", "--seconds", 0.1, "--json", "--quiet")
    assert code == 0
    record = json.loads(out)
    path.write_text(out)
    for row in record["rows"]:
        row |= {name: 2 * row[name] for name in ("value", "low", "high")}
    record["machine"]["cpu"] = "another processor"
    (tmp_path / "b.json").write_text(json.dumps(record))
    code, out, _ = called(capsys, "compare", path, tmp_path / "b.json")
    assert code == 0 and "differs: cpu: " in out and ", then another processor" in out
    assert "peers and limits, which are no part of trajmill: 2.00 to 2.00 x" in out
    assert re.search(r"  trajmill, memory used again +2.00 x \([\d.]+-[\d.]+\)", out)
    code, out, _ = called(capsys, "compare", path, path, "--json")
    assert code == 0 and {change["ratio"] for change in json.loads(out)["changes"]} == {1.0}
    assert not any(change["exceeds_spread"] for change in json.loads(out)["changes"])


def test_a_warning_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Load, "complaints_since", lambda *_: iter(["other processes used all cores"]))
    code, out, _ = called(capsys, "sampler", "--seconds", 0.1)
    assert code == 0 and "\nWARNING: other processes used all cores\n" in out
    assert "Measure again when nothing else runs." in out


def test_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.svg"
    assert called(capsys, "sampler", "--seconds", 0.1, "--picture", path)[0] == 0
    text = path.read_text()
    for part in ("trajmill, memory used again", "limit: Philox", "NumPy, all sequences together", "G tokens/s"):
        assert part in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sampler", "--seconds", "0"), "seconds must be in (0, inf), got 0.0"),
        (("sampler", "--picture", "a.png"), "its name must end in .svg"),
        (("corpus", "--folder", "no such folder"), "--folder must name a directory that exists"),
        (("corpus", "--mebibytes", "0"), "mebibytes must be"),
        (("replay", "--rows", "10"), "rows must be"),
        (("feed", "--rows", "10"), "rows must be"),
        (("training", "--methods", "alchemy"), "there is no method 'alchemy'"),
        (("feed", "--device", "cuda", "--rows", "2000"), "torch sees 0 GPUs"),
        (("training", "--device", "cuda"), "torch sees 0 GPUs"),
        (("compare", "a.json", "b.json"), "there is no file"),
    ],
)
def test_wrong_words_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    if "GPU" in message and importlib.import_module("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    code, out, err = called(capsys, *words, "--quiet")
    assert (code, out) == (1, "") and message in err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    code, _, err = called(capsys, "sampler", "--picture", "a.svg", "--quiet")
    assert code == 1 and "--picture needs matplotlib, which is not installed: pip install matplotlib" in err

    def absent(name: str) -> object:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(run.importlib, "import_module", absent)
    code, _, err = called(capsys, "feed", "--quiet")
    assert code == 1 and "needs torch, which is not installed: pip install 'trajmill[train]'" in err


def test_the_overview_names_every_subject(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys)[0] == 2
    code, out, _ = called(capsys, "--help")
    assert code == 0 and all(f"trajmill bench {subject} " in out for subject in run.SUBJECTS)
    assert set(bench.COMMANDS) == {*run.SUBJECTS, "compare"}
