"""The command line as a user meets it: words in, text and exit code out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest
from fabricate import fabricate_run

import trajmill.cli
from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.cli import COMMANDS, main


def trajmill_command(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trajmill", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


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
    told = capsys.readouterr().err
    assert "'trian'" in told and all(name in told for name in COMMANDS)


def test_quiet_and_json_stand_anywhere(capsys):
    told = []
    for words in (
        ["--json", "dataset", "list"],
        ["dataset", "--json", "list"],
        ["dataset", "list", "--json", "--quiet"],
    ):
        assert main(words) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2]


def test_help_teaches(capsys):
    assert main(["report", "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "--title" in text


def test_unknown_option(capsys):
    assert main(["report", "--titel", "x", "run"]) == 2
    streams = capsys.readouterr()
    assert "--title" in streams.out + streams.err


def test_failure_is_one_line(tmp_path, capsys, monkeypatch):
    done = trajmill_command("report", str(tmp_path / "missing"))
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert "is not a directory" in done.stderr
    monkeypatch.setenv("TRAJMILL_DEBUG", "1")
    assert main(["report", str(tmp_path / "missing")]) == 1
    assert "Traceback" in capsys.readouterr().err


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
    told = capsys.readouterr().err
    assert "`trajmill train` needs torch" in told and "pip install 'trajmill[train]'" in told


@pytest.mark.parametrize(("words", "advice"), [(["train", "cql"], "--resume"), (["report", "x"], "again")])
def test_ctrl_c_says_how_to_go_on(words, advice, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("trajmill.cli.session.run_command", interrupted)
    assert main(words) == 130
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["train", "sql"], ["train", "--quiet"], ["train", "__init__"]])
def test_a_missing_second_word_is_a_usage_error(words, capsys):
    assert main(words) == 2
    streams = capsys.readouterr()
    assert f"usage: trajmill train {'|'.join(method_names())} [OPTIONS]" in streams.err and not streams.out


def test_help_of_a_family_of_commands(capsys):
    """Every method with the first line of its file, which is not imported for it."""
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for name in method_names():
        assert re.search(rf"trajmill train {name} +{re.escape(method_named(name).__doc__.splitlines()[0])}", text), name


def test_the_family_is_told_without_importing_it():
    code = (
        "import sys; from trajmill.cli import main\n"
        "main(['train', '--help'])\n"
        "sys.exit('imported torch' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("method", method_names())
def test_help_of_a_method_is_its_file_s(method, capsys):
    """Docstring, examples, every setting with its default; those of the run, --dataset only where there is one."""
    module = method_named(method)
    assert main(["train", method, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert module.__doc__.splitlines()[0] in text and module.EXAMPLES.strip().splitlines()[0].strip() in text
    for setting in fields(module.Config):
        name = setting.name.replace("_", "-")
        assert f"--method.{name}" in text or f"--method.no-{name}" in text, name
    assert ("--dataset" in text) == (hasattr(module, "prepare") or learns_online(module))
    assert ("--mix" in text) == hasattr(module, "prepare")
    assert ("--interaction.random-steps" in text) == learns_online(module)
    assert "--processes" in text and "--schedule.updates" in text and f"(default: {module.SCHEDULE.updates})" in text


def test_help_tells_defaults_ranges_and_sources(capsys):
    assert main(["train", "cql", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "per-step factor, [0, 1) (Table 16) (default: 0.99)" in text


def test_a_bug_is_named(capsys, monkeypatch):
    def broken(name):
        raise KeyError("width")

    monkeypatch.setattr(trajmill.cli.importlib, "import_module", broken)
    assert main(["train", "cql"]) == 1
    assert "KeyError: 'width' (set TRAJMILL_DEBUG=1 for the traceback)" in capsys.readouterr().err
