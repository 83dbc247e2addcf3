"""`trajmill generate`, `trajmill corpus` and `trajmill doctor` as a user meets them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import trajmill as tm
from trajmill.cli import main

MARKOV = ["generate", "markov", "--state-count", "50", "--sequence-count", "40", "--length", "16", "--shard-rows", "16"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture
def corpus(tmp_path, capsys):
    assert main([*MARKOV, "--out", str(tmp_path / "c"), "--quiet"]) == 0
    capsys.readouterr()
    return tmp_path / "c"


@pytest.mark.parametrize(
    ("words", "law"),
    [
        (
            ["markov", "--order", "2", "--temperature", "0.5", "--initial", "uniform"],
            {"order": 2, "temperature": 0.5, "initial": "uniform"},
        ),
        (["markov", "--temperature", "inf", "--backend", "implicit"], {"temperature": np.inf, "backend": "implicit"}),
        (["iid"], {"order": 0, "temperature": np.inf}),
    ],
)
def test_generate_tokens(words, law, tmp_path, capsys):
    out = tmp_path / "c"
    sizes = ["--state-count", "20", "--seed", "3", "--sequence-count", "30", "--length", "9", "--out", str(out)]
    assert main(["generate", *words, *sizes, "--json"]) == 0
    streams = capsys.readouterr()
    told = json.loads(streams.out)
    assert told["directory"] == str(out) and told["made"] == told["shard_count"] == 1 and told["whole"]
    assert told["byte_count"] == 30 * 9
    expected = tm.MarkovChain(state_count=20, seed=3, **law).sample(30, 9)
    assert np.array_equal(tm.open_corpus(out)[:], expected)


def test_generate_trajectories(tmp_path, capsys):
    words = [
        "--state-count",
        "300",
        "--action-count",
        "5",
        "--transition-temperature",
        "0.5",
        "--start",
        "fixed",
        "--seed",
        "9",
    ]
    assert main(["generate", "mdp", *words, "--trajectory-count", "7", "--length", "11", "--out", str(tmp_path)]) == 0
    assert "1 of 1 shards made, 245 bytes in" in capsys.readouterr().out
    data = tm.MDP(state_count=300, action_count=5, transition_temperature=0.5, start="fixed", seed=9).sample(7, 11)
    rows = tm.open_corpus(tmp_path)[:]
    assert np.array_equal(rows["states"], data.states) and np.array_equal(rows["actions"], data.actions)


def test_generate_shows_both_rates_and_goes_on(corpus, capsys):
    (corpus / "receipt-00001.json").unlink()
    assert main([*MARKOV, "--out", str(corpus)]) == 0
    streams = capsys.readouterr()
    assert "milling: 640 / 640 tokens" in streams.err and "writing: 640 / 640 bytes" in streams.err
    assert "tokens/s" in streams.err and "bytes/s" in streams.err
    assert "1 of 3 shards made" in streams.out
    assert main([*MARKOV, "--out", str(corpus), "--quiet"]) == 0
    streams = capsys.readouterr()
    assert streams.out == f"{corpus}: 0 of 3 shards made\n" and not streams.err


def test_generate_in_parts(corpus, tmp_path, capsys):
    out = tmp_path / "parts"
    for part in ("1/2", "0/2"):
        assert main([*MARKOV, "--out", str(out), "--shard", part, "--threads", "1"]) == 0
        assert ("the last writes the manifest" in capsys.readouterr().out) == (part == "1/2")
    assert contents(out) == contents(corpus)


def test_generate_into_an_object_store(corpus, tmp_path):
    pytest.importorskip("fsspec")
    assert main([*MARKOV, "--out", f"file://{tmp_path}/url", "--quiet"]) == 0
    assert contents(tmp_path / "url") == contents(corpus)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "8"], "holds another corpus: seed is 42, not 8; choose another directory or remove it"),
        (["--shard", "3/2"], "a part must be k/N with 0 <= k < N, such as 0/8, got '3/2'"),
        (["--shard-rows", "12"], "shard_rows must be a power of two, got 12"),
        (["--sequence-count", "0"], "sequence_count must be between 1"),
        (["--threads", "0"], "threads must be between 1"),
        (["--temperature", "-1"], "temperature must be in"),
    ],
)
def test_what_cannot_be_generated_is_told_in_one_line(change, message, corpus, capsys):
    before = contents(corpus)
    assert main([*MARKOV, "--out", str(corpus), "--quiet", *change]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert contents(corpus) == before


def test_ctrl_c_says_how_to_go_on_and_leaves_whole_shards(tmp_path):
    words = ["generate", "markov", "--sequence-count", "4000000", "--shard-rows", "4096", "--out", str(tmp_path / "c")]
    process = subprocess.Popen([sys.executable, "-m", "trajmill", *words], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "c").glob("receipt-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted; finished shards are kept: give the same command again to continue from them" in error
    assert "Traceback" not in error
    names = list(contents(tmp_path / "c"))
    assert not [name for name in names if name.startswith(".")]
    assert len([name for name in names if name.startswith("tokens")]) == len(
        [n for n in names if n.startswith("receipt")]
    )


def test_info(corpus, capsys):
    assert main(["corpus", "info", str(corpus)]) == 0
    text = capsys.readouterr().out
    assert "columns: tokens uint8 (40, 16)" in text and "finished shards: 3" in text and "problems: none" in text
    (corpus / "receipt-00002.json").write_bytes(b"{}")
    (corpus / "manifest.json").unlink()
    assert main(["corpus", "info", str(corpus), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["finished_shards"] == 2 and told["shards"] == 3 and not told["manifest"]
    assert told["problems"] == ["receipt-00002.json is damaged (not a trajmill-receipt)"]
    assert told["spec"]["state_count"] == 50


def test_head(corpus, capsys):
    assert main(["corpus", "head", str(corpus), "--rows", "2", "--first", "15", "--values", "3"]) == 0
    rows = tm.open_corpus(corpus)[15:17]
    lines = [f"{15 + i} tokens: {' '.join(map(str, rows[i, :3]))} ..." for i in range(2)]
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["corpus", "head", str(corpus), "--rows", "9", "--first", "38", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tokens": tm.open_corpus(corpus)[38:].tolist()}


def test_verify(corpus, capsys):
    assert main(["corpus", "verify", str(corpus)]) == 0
    streams = capsys.readouterr()
    assert "every bit of 640 bytes is right" in streams.out and "reading: 640 / 640 bytes" in streams.err
    data = bytearray((corpus / "tokens-00001.bin").read_bytes())
    data[5] ^= 1
    (corpus / "tokens-00001.bin").write_bytes(data)
    (corpus / "manifest.json").unlink()
    assert main(["corpus", "verify", str(corpus), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2 problems: manifest.json is missing; tokens-00001.bin is damaged in rows 0 to 15 of the shard" in error
    assert "--rehash" in error and "trajmill corpus merge" in error
    assert main([*MARKOV, "--out", str(corpus), "--rehash", "--quiet"]) == 0
    assert main(["corpus", "verify", str(corpus)]) == 0


def test_merge(corpus, capsys):
    before = contents(corpus)
    (corpus / "manifest.json").unlink()
    assert main(["corpus", "merge", str(corpus)]) == 0
    assert capsys.readouterr().out == f"{corpus}: whole, 3 shards\n"
    assert contents(corpus) == before
    (corpus / "receipt-00000.json").unlink()
    assert main(["corpus", "merge", str(corpus)]) == 1
    assert "1 of 3 shards are missing (0)" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["info", "head", "verify", "merge"])
def test_what_is_no_corpus(verb, tmp_path, capsys):
    assert main(["corpus", verb, str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "holds no manifest.json and no receipt: not a corpus" in error and error.count("\n") == 1


def test_help_of_both(capsys):
    assert main(["generate", "markov", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("--shard-rows", "a power of two", "--engine", "--ray-address", "k/N with 0 <= k < N", "--rehash"):
        assert words in text
    assert main(["corpus", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"trajmill corpus {verb}" in text for verb in ("info", "head", "verify", "merge"))


def test_doctor_knows_the_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (
        rows["disk"]["ok"] and f"GB/s into {tmp_path}" in rows["disk"]["value"] and "GB free" in rows["disk"]["value"]
    )
    assert rows["known answers"]["ok"] and rows["extra [corpus]"]["ok"]
    assert not list(tmp_path.iterdir())


def test_doctor_on_a_disk_that_is_slow_or_full(tmp_path, monkeypatch, capsys):
    from trajmill.core import direct_io

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(direct_io, "write_rate", lambda directory: 0.1e9)
    assert main(["doctor"]) == 0
    assert "0.10 GB/s into" in (text := capsys.readouterr().out) and "use tm.VirtualCorpus, which needs none" in text

    def full(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(direct_io, "write_rate", full)
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "cannot be written" in line)
    assert line.split(maxsplit=2)[:2] == ["--", "disk"]
    assert f"{tmp_path} cannot be written (No space left on device); choose" in line


def test_doctor_tells_what_training_may_use(tmp_path, monkeypatch, capsys):
    from trajmill.core import diagnosis

    def rows():
        return {row.name: row for row in diagnosis.diagnose()}

    monkeypatch.setattr(diagnosis, "_tokens_per_second", lambda: 1e9)  # not measured five times
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(diagnosis.shutil, "which", {"clang++": "/usr/bin/clang++"}.get)
    monkeypatch.setattr(diagnosis.sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "Python.h").touch()
    assert rows()["torch.compile"].value == "clang++ and Python's headers are there"
    (tmp_path / "Python.h").unlink()
    monkeypatch.setattr(diagnosis.shutil, "which", lambda _: None)
    row = rows()["torch.compile"]
    assert not row.ok and row.optional
    assert row.value == f"missing a C++ compiler (g++, clang++, or CXX) and {tmp_path / 'Python.h'}"

    monkeypatch.setattr(diagnosis.Path, "read_text", lambda *_, **__: "flags : fma avx512_bf16 amx_bf16 sse4_1")
    assert rows()["bfloat16"].value == "amx_bf16, avx512_bf16" and rows()["bfloat16"].ok
    monkeypatch.setattr(diagnosis.Path, "read_text", lambda *_, **__: "flags : fma sse4_1")
    assert not rows()["bfloat16"].ok and rows()["bfloat16"].optional
    monkeypatch.setattr(diagnosis.os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert rows()["cores"].value.startswith("3 for this process")
    monkeypatch.setattr(diagnosis.importlib.util, "find_spec", lambda name: None if name == "tokenizers" else name)
    text = rows()["extra [text]"]
    assert text.value == "missing tokenizers: pip install 'trajmill[text]' (training on text, --method.text)"
    assert not text.ok
    assert rows()["extra [data]"].ok


def test_doctor_fails_when_the_core_is_wrong(monkeypatch, capsys):
    from trajmill.core import diagnosis

    monkeypatch.setattr(diagnosis, "_KNOWN_ANSWER", [0, 0, 0, 0])
    assert main(["doctor"]) == 1
    assert "WRONG: Philox4x32-10" in capsys.readouterr().out


def test_doctor_takes_no_words(capsys):
    assert main(["doctor", "please"]) == 2
    assert "usage: trajmill doctor" in capsys.readouterr().err
