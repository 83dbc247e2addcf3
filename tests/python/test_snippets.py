"""What stands in the fences of README.md and of the pages of docs/ works: every page is followed in an empty directory.

Python runs as printed, but for the sizes of `SMALLER`; a page's fences share their names, as if typed one after
another. Commands that train, collect or upsample run among the slow tests, with small sizes and few updates added to
what is printed; so do those that use what such a command leaves. All others run as they are. Test_readme.py parses
every command of every page with the real parser, whether it runs here or not.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import OWN_COMMAND, PAGES, PLACEHOLDERS, SCHEMATIC, VARIABLES, Fence, command_lines, fences
from tiny_runs import SIZES

import trajmill as tm
from trajmill._core import available_simd_levels
from trajmill.algorithms import learns_online, method_named, method_names
from trajmill.cli import main

PAGES_TO_FOLLOW = [name for name in PAGES if name == "README.md" or name.startswith("docs/")]
pytestmark = pytest.mark.skipif(not PAGES_TO_FOLLOW, reason="the package is tested without its documentation")

SMALLER: dict[str, dict[str, str]] = {
    "README.md": {"1_000_000": "1_000"},
    "docs/start.md": {"1_000_000": "1_000", "999_999": "999"},
    "docs/upsample.md": {
        "100_000": "300",
        "diffusion.Config(width=256)": "diffusion.SMALL",
        "diffusion.SCHEDULE": "type(diffusion.SCHEDULE)(updates=4)",
    },
}
"""page -> text of its Python that is replaced by a smaller size"""

WORKS = ("train", "upsample", "collect")
"""commands that take long; those that come after them on a page may use what they leave"""
NOT_RUN = {
    r"^reproduce (?!--list|--check)": "hours; tests/python/studies runs studies at a small size",
    r"^demo|^dataset download": "minutes; needs a network",
    r"^collect .*--agent": "hours: an agent learns first",
    r"--method\.text .*(wiki|gpt2)": "needs the text of WikiText-103, which is not part of this package",
    r"--init runs/(wiki|chain)": "continues such a run",
}
"""commands that are parsed alone, and why"""
FOREIGN = re.compile(
    r"^(make|pip|apt-get|zcat|torchrun|git|cd|python3? (-m pip|-m venv|-m pytest|benchmarks/|tools/)|\.venv/bin/)"
)
"""programs that are not run here: they install, test, measure, or read what this package has not"""

SMALL = {
    "generate": ("--sequence-count", "64"),
    "collect": ("--rows", "500"),
    "upsample": ("--count", "300", "--schedule.updates", "4", "--no-quality"),
}
NAMES_OF_RUNS = {"cal-ql": "cql", "model": "world_model", "mdp": "forward_dynamics", "backbone": "language_model"}
"""methods of runs that a page takes over from another one; others are called by their method"""
ENVIRONMENTS = {"hopper": "hopper-sac", "halfcheetah": "halfcheetah-sac", "walker": "walker2d-sac", "": "hopper-sac"}


def run_as_written(page: str, fence: Fence, names: dict[str, Any]) -> None:
    """Execute the Python of a fence; a traceback names the page and its line."""
    code = fence.body
    for text, smaller in SMALLER.get(page, {}).items():
        code = code.replace(text, smaller)
    for path in re.findall(r'"([^"\s]+\.(?:hdf5|npz))"', code):
        if f'write_dataset("{path}"' not in code:
            stand_in(path)
    exec(compile("\n" * (fence.line - 1) + code, page, "exec"), names)


def stand_in(path: str) -> None:
    """Where a page reads a dataset of its reader's, a small one of the same environment."""
    if Path(path).exists():
        return
    name = next(bundled for environment, bundled in ENVIRONMENTS.items() if environment in Path(path).name)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tm.write_dataset(path, tm.load_dataset(f"{name}-replay-10k", subset=tm.Subset("trajectories", 0.2)))


def sizes(words: Sequence[str]) -> list[str]:
    """Options that make a command of `WORKS` small."""
    if words[0] != "train":
        method = words[words.index("--method") + 1] if "--method" in words else "diffusion"
        return [*SMALL.get(words[0], ()), *(settings(method, words) if words[0] == "upsample" else ())]
    module = method_named(words[1])
    more = ["--schedule.updates", "4", "--schedule.evaluation-interval", "4", "--processes", "1"]
    if hasattr(module, "policy"):
        more += ["--evaluation-episode-count", "1"]
    if learns_online(module):
        more += ["--interaction.random-steps", "20", "--interaction.warmup-steps", "20"]
    return more + settings(words[1], words)


def settings(method: str, words: Sequence[str]) -> list[str]:
    """Options with the sizes of tiny runs, where a command has not its own."""
    found = []
    for each in fields(method_named(method).Config):
        option = f"--method.{each.name.replace('_', '-')}"
        size = SIZES.get(each.name)
        if size is None or option in words:
            continue
        if each.name == "backbone":
            found += [f"{option}.layer-count", "1", f"{option}.head-count", "2", f"{option}.width", "16"]
        else:
            found += [option, *map(str, size if isinstance(size, tuple) else (size,))]
    return found


def left_by_another_page(words: Sequence[str]) -> None:
    """Where a page continues a run of another page, a small one with the same seeds."""
    for option, run in itertools.pairwise(words):
        if option not in ("--init", "--predict", "--relevance", "--run") or Path(run).exists():
            continue
        name = NAMES_OF_RUNS.get(Path(run).name, Path(run).name)
        if name in method_names():
            module = method_named(name)
            data = ["--dataset", "hopper-sac-replay-10k"] if hasattr(module, "prepare") else []
            data = ["--environment", "hopper"] if learns_online(module) else data
            after = words[words.index("--seeds") + 1 :] if "--seeds" in words else ["0"]
            seeds = itertools.takewhile(str.isdecimal, after)
            command = ["train", name, *data, "--seeds", *seeds, "--out", run]
            assert main(["--quiet", *command, *sizes(command)]) == 0


def run_command(page: str, line: str, slowly: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a line of a fence, or leave it to the slow tests, or for one of the reasons above."""
    variables = dict(word.split("=") for word in (VARIABLES.match(line) or [""])[0].split())
    line = VARIABLES.sub("", line)
    for placeholder, instead in PLACEHOLDERS.items():
        line = line.replace(placeholder, instead)
    if not line or FOREIGN.match(line) or SCHEMATIC.search(line):
        return
    found = OWN_COMMAND.search(line)
    assert found, f"{page}: {line!r} is no command of trajmill, nor one of FOREIGN"
    words = shlex.split(line[found.end() :])
    if any(re.search(pattern, " ".join(words)) for pattern in NOT_RUN):
        return
    if not slowly and (words[0] in WORKS or any(word.startswith("runs/") for word in words)):
        return
    for before, word in itertools.pairwise(words):
        if re.fullmatch(r"[\w/.-]+\.(hdf5|npz)(=[\d.]+)?", word) and before != "--out" and "convert" not in words:
            stand_in(word.partition("=")[0])
    if words[0] == "train":
        left_by_another_page(words)
    small = sizes(words) if words[0] in WORKS else list(SMALL.get(words[0], ()))
    if variables:
        if variables.get("TRAJMILL_SIMD") not in available_simd_levels():
            return
        program = [sys.executable, "-m", "trajmill", *words, *small]
        done = subprocess.run(program, env=os.environ | variables, capture_output=True, text=True)
        code, said = done.returncode, done.stderr
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            code = main([*words, *small])
        said = capfd.readouterr().err
    assert code == 0, f"{page}: trajmill {' '.join([*words, *small])}\n{said}"


def available(need: str, slowly: bool) -> bool:
    """Whether what a fence needs is here: a GPU, what the page's commands have trained, or a module."""
    if need in ("cuda", "training"):
        return torch.cuda.is_available() if need == "cuda" else slowly
    return importlib.util.find_spec(need) is not None


def follow(page: str, slowly: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the fences of a page in order; `slowly` also those that train, and what comes after them."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for fence in fences(PAGES[page]):
        if fence.not_run or not all(available(need, slowly) for need in fence.needs):
            continue
        if fence.language == "python":
            run_as_written(page, fence, names)
        elif fence.language in ("", "sh", "bash"):
            for line in command_lines(fence.body):
                run_command(page, line, slowly, capfd)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAJMILL_DATASETS", str(tmp_path))


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("page", PAGES_TO_FOLLOW)
def test_snippets_and_short_commands_run(page: str, capfd: pytest.CaptureFixture[str]) -> None:
    follow(page, False, capfd)


@pytest.mark.slow
@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("page", PAGES_TO_FOLLOW)
def test_every_command_runs(page: str, capfd: pytest.CaptureFixture[str]) -> None:
    follow(page, True, capfd)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```python\nimport trajmill as tm\n```\ntext\n```python\ntm.no_such_name\n```\n", "no_such_name"),
        ("```\ntrajmill law dyck --no-such-option 3\n```\n", "no-such-option"),
        ("```\ntrajmill corpus info no-such-corpus\n```\n", "no-such-corpus"),
        ("```\nsome-other-program\n```\n", "FOREIGN"),
    ],
)
def test_a_page_that_does_not_work_is_noticed(
    text: str, says: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAGES, "a page", text)
    with pytest.raises((AssertionError, AttributeError), match=says):
        follow("a page", False, capfd)


def test_remarks_before_fences_are_read() -> None:
    page = "<!-- needs cuda, datasets -->\n```python\nx = 1\n```\n\n<!-- not run: why -->\n```\nx\n```\n```\ny\n```\n"
    first, second, third = fences(page)
    assert (first.needs, first.line, first.not_run) == (("cuda", "datasets"), 3, "")
    assert (second.needs, second.not_run, third.not_run) == ((), "why", "")
