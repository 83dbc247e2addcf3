"""`trajmill generate` and `trajmill doctor`, as a user meets them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import trajmill as tm
from trajmill import _core
from trajmill.cli import main
from trajmill.corpus.native import open_shards


def test_what_generate_writes_is_what_sample_gives(tmp_path, capsys):
    words = ["generate", "markov", "--state-count", "300", "--sequence-count", "50", "--length", "20", "--seed", "7"]
    assert main([*words, "--out", str(tmp_path / "corpus"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "corpus")
    tokens = np.concatenate(open_shards(tmp_path / "corpus", "tokens"))
    np.testing.assert_array_equal(tokens, tm.MarkovChain(state_count=300, seed=7).sample(50, 20))
    assert main([*words, "--out", str(tmp_path / "again")]) == 0
    first, again = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("corpus", "again")
    ]
    assert first == again


def test_generate_mdp_and_iid(tmp_path):
    words = ["--state-count", "9", "--length", "20", "--quiet"]
    mdp = ["generate", "mdp", "--action-count", "4", "--trajectory-count", "30", "--out", str(tmp_path / "mdp")]
    assert main([*mdp, *words]) == 0
    data = tm.MDP(state_count=9, action_count=4, seed=42).sample(30, 20)
    np.testing.assert_array_equal(np.concatenate(open_shards(tmp_path / "mdp", "states")), data.states)
    np.testing.assert_array_equal(np.concatenate(open_shards(tmp_path / "mdp", "actions")), data.actions)
    assert main(["generate", "iid", "--sequence-count", "500", "--out", str(tmp_path / "iid"), *words]) == 0
    counts = np.bincount(np.concatenate(open_shards(tmp_path / "iid", "tokens")).ravel(), minlength=9)
    assert counts.sum() == 10_000
    assert np.abs(counts - 10_000 / 9).max() < 5 * (10_000 / 9) ** 0.5


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--state-count", "0", "state_count must be between 1"),
        ("--temperature", "nan", "temperature must be > 0"),
        ("--length", "-4", "length"),
        ("--order", "40", "order must be between 0 and 32"),
    ],
)
def test_a_bad_setting_leaves_nothing_behind(option, value, words, tmp_path, capsys):
    assert main(["generate", "markov", option, value, "--out", str(tmp_path / "corpus")]) != 0
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "corpus" / "manifest.json").exists()


def test_a_directory_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["generate", "iid", "--out", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_doctor(capsys, monkeypatch):
    assert main(["doctor", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["known answers"]["ok"] and "G tokens/s" in rows["speed"]["value"]
    monkeypatch.setattr(_core, "philox4x32", lambda *_: [0, 0, 0, 0])
    assert main(["doctor"]) == 1
    assert "WRONG: Philox4x32-10" in capsys.readouterr().out
