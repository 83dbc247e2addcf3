"""The command line as a user meets it: words in, text and exit code out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import trajmill.cli
from report.fabricate import fabricate_run
from trajmill.cli import COMMANDS, main


def trajmill_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trajmill", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=60,
    )


def test_version():
    done = trajmill_command("--version")
    assert done.returncode == 0
    assert done.stdout.strip() and not done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["doctor"]])
def test_first_aid_needs_no_parser_and_no_torch(words):
    code = (
        "import sys; from trajmill.cli import main\n"
        f"main({words!r})\n"
        "heavy = {'tyro', 'rich', 'torch', 'matplotlib', 'mujoco'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name}" in text


def test_nothing_to_do_is_a_usage_error(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage:")


def test_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; commands are generate, corpus, collect, dataset," in capsys.readouterr().err


def test_help_teaches(capsys):
    assert main(["report", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "--title" in text


def test_unknown_option(capsys):
    assert main(["report", "--titel", "x", "run"]) == 2
    streams = capsys.readouterr()
    assert "--title" in streams.out + streams.err


def test_failure_is_one_line(tmp_path):
    done = trajmill_command("report", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "is not a directory" in done.stderr
    assert "Traceback" in trajmill_command("report", str(tmp_path / "missing"), TRAJMILL_DEBUG="1").stderr


def test_report_for_people_and_for_machines(tmp_path, capsys):
    run = fabricate_run(tmp_path / "run")
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"report: {page}\n"
    assert main(["report", str(run), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page)}
    assert page.exists()


def test_a_missing_extra_names_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(trajmill.cli.importlib, "import_module", missing)
    assert main(["train", "cql"]) == 1
    assert capsys.readouterr().err == (
        "trajmill: `trajmill train` needs torch, which is not installed: pip install 'trajmill[train]'\n"
    )


@pytest.mark.parametrize(("words", "advice"), [(["train", "cql"], "--resume"), (["report", "x"], "again")])
def test_ctrl_c_says_how_to_go_on(words, advice, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trajmill.cli.session.run_command", interrupted)
    assert main(words) == 130
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["train", "sql"], ["train", "--quiet"]])
def test_a_missing_second_word_is_a_usage_error(words, capsys):
    assert main(words) == 2
    streams = capsys.readouterr()
    assert "usage: trajmill train cql|dt [OPTIONS]" in streams.err and not streams.out


def test_help_of_a_family_of_commands(capsys):
    assert main(["train", "--help"]) == 0
    assert "trajmill train cql" in capsys.readouterr().out


def test_help_tells_defaults_ranges_and_sources(capsys):
    assert main(["train", "cql", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "per-step factor, [0, 1); one for all seeds or one each (Table 16) (default: 0.99)" in text


def test_a_bug_is_named(capsys, monkeypatch):
    def broken(name):
        raise KeyError("width")

    monkeypatch.setattr(trajmill.cli.importlib, "import_module", broken)
    assert main(["train", "cql"]) == 1
    assert "KeyError: 'width' (set TRAJMILL_DEBUG=1 for the traceback)" in capsys.readouterr().err
