"""What the README and the pages of docs/ say is what there is: numbers, commands, names, files and links."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pages import FENCED, PAGES, ROOT, commands

import trajmill
from trajmill.algorithms import method_names
from trajmill.cli import COMMANDS, session
from trajmill.studies.forms import differences
from trajmill.studies.run import all_studies

README = ROOT / "README.md"
PACKAGE = Path(trajmill.__file__).parent

pytestmark = pytest.mark.skipif(not README.exists(), reason="the package is tested without its documentation")


def pages(*, but: tuple[str, ...] = ()) -> list[Any]:
    return [pytest.param(name, text, id=name) for name, text in PAGES.items() if name not in but]


# --- both forms of studies ---


def test_the_page_lists_what_the_two_forms_of_the_studies_differ_in() -> None:
    rows = ["| setting | as stated | as released | of |", "| --- | --- | --- | --- |"]
    for each in differences(all_studies().values()):
        rows.append(f"| {each.setting} | {each.stated} | {each.released} | {', '.join(each.families)} |")
    (listed,) = re.findall(r"<!-- differences -->\n(.*?)\n<!-- /differences -->", PAGES["docs/reproduce.md"], re.DOTALL)
    assert listed.splitlines() == rows


# --- the README ---


def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("readme", ROOT / "tools/readme.py")
    assert specification is not None and specification.loader is not None
    maker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(maker)
    return maker


def test_the_first_snippet_does_what_its_comments_say() -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1].replace("1_000_000", "1_000"), names)
    tokens, row, data, states = (names[name] for name in ("tokens", "row", "data", "states"))
    assert isinstance(tokens, np.ndarray) and tokens.dtype == np.uint8 and tokens.shape == (1000, 1024)
    assert isinstance(row, np.ndarray) and row.sum() == pytest.approx(1)
    assert data.states.shape == (1000, 1001) and data.actions.shape == (1000, 1000)  # type: ignore[attr-defined]
    assert isinstance(states, np.ndarray) and states.dtype == np.float32 and states.shape == (100, 17)


def test_the_number_is_the_measured_one() -> None:
    maker = tool()
    assert maker.number(maker.results("sampler")) in README.read_text()


def test_methods_are_described_as_their_files_do() -> None:
    """A new method need not be in the table; `python tools/readme.py` adds it."""
    listed = re.search(r"<!-- methods -->\n(.*?)\n<!-- /methods -->", README.read_text(), re.DOTALL)
    assert listed is not None
    assert set(listed[1].splitlines()) <= set(tool().methods().splitlines())


# --- commands ---


class Parsed(Exception):
    """The command line has understood all words."""


def mentions(text: str) -> Iterator[list[str]]:
    """The first two words of every command that a sentence mentions, the second one if the first asks for one."""
    for words in re.findall(r"`trajmill ([^`]+)`", FENCED.sub("", text)):
        yield words.split()[:2]


STUDIES = re.compile(r'\bname="([\w-]+)"')


@pytest.mark.parametrize(("name", "text"), pages())
def test_commands_are_understood(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed() -> None:
        raise Parsed

    monkeypatch.setattr(session, "_plain_warnings", parsed)  # what comes right after the arguments
    for command in dict.fromkeys(commands(text)):
        words = [word for word in shlex.split(command) if word not in ("--quiet", "--json")]
        assert words[0] in COMMANDS or words[0].startswith("-"), f"{name}: trajmill {command}"
        if words[0] not in COMMANDS or words == ["doctor"]:
            continue
        module = importlib.import_module(f"trajmill.cli.{words[0]}")
        try:
            with pytest.raises(Parsed):
                session.run_command(module, words, quiet=True, as_json=False)
        except SystemExit as stop:
            assert stop.code == 0 and "--help" in words, f"{name}: trajmill {command}"
        if words[0] == "reproduce":
            from trajmill.studies.run import names_in

            own = STUDIES.findall(text)
            for study in takewhile(lambda word: not word.startswith("-"), words[1:]):
                assert study in own or names_in(study), f"{name}: trajmill {command}"


FORMER = ("CHANGELOG.md", "tests/golden/runs_0_1/README.md")
"""pages that tell of what is gone"""


@pytest.mark.parametrize(("name", "text"), pages(but=FORMER))
def test_commands_that_are_mentioned_exist(name: str, text: str) -> None:
    for first, *second in mentions(text):
        assert first in COMMANDS or first.startswith("-"), f"{name}: trajmill {first}"
        if first in COMMANDS and first != "doctor" and second:
            known = importlib.import_module(f"trajmill.cli.{first}").COMMANDS
            schematic = {"METHOD", "NAME", "KIND", "...", "--help"}
            words = second[0].split("|")
            assert "" in known or schematic.union(known).issuperset(words), f"{name}: trajmill {first} {second[0]}"


def test_a_wrong_command_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("train dt --out runs", "train cql --out a --dataset b --no-such-option", "collect hopper"):
        with pytest.raises(BaseException) as error:
            test_commands_are_understood("a page", f"```\ntrajmill {wrong}\n```", monkeypatch)
        assert not isinstance(error.value, Parsed)
    page = "`trajmill a b`\n```\nX=1 trajmill c \\\n  d    what it does\ntrajmill e FORMAT\n```"
    assert list(commands(page)) == ["c d"] and list(mentions(page)) == [["a", "b"]]


# --- names, files, links ---


def exists(name: str) -> bool:
    """Whether a dotted name of the package is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


NAMES = re.compile(r"\b(trajmill(?:\.[A-Za-z_]\w*)+)|\btm((?:\.[A-Za-z_]\w*)+)")


@pytest.mark.parametrize(("name", "text"), pages(but=FORMER))
def test_names_of_the_package_exist(name: str, text: str) -> None:
    own = "".join(code for _, _, code in FENCED.findall(text)) + " ".join(re.findall(r"`[^`]+`", text))
    found = {whole or f"trajmill{part}" for whole, part in NAMES.findall(own)}
    assert sorted(found) == sorted(each for each in found if exists(each)), name


FILES = re.compile(
    r"(?<![\w/.~-])((?:[\w-]+/)+[\w-]*\.(?:py|hpp|cpp)|(?:benchmarks|tests|tools|docs|cpp)/[\w./-]*\w)\b"
)
EXAMPLES = {"python/trajmill/data/formats/jsonl.py"}
"""files that a page tells its reader to write"""


@pytest.mark.parametrize(("name", "text"), pages(but=FORMER))
def test_files_exist(name: str, text: str) -> None:
    for path in dict.fromkeys(FILES.findall(text)):
        if "NAME" in path or "METHOD" in path or path in EXAMPLES:
            continue
        places = (ROOT, PACKAGE, PACKAGE.parent, ROOT / "benchmarks", ROOT / "cpp")
        assert any((place / path).exists() for place in places), f"{name}: {path}"


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("name", "text"), pages())
def test_links_lead_somewhere(name: str, text: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(place.read_text(encoding="utf-8")), f"{name}: {target}"


def test_the_index_has_every_page_and_every_method() -> None:
    """docs/README.md: a line for each page, and for each method its page or its file."""
    index = PAGES["docs/README.md"]
    linked = {Path(target.partition("#")[0]).name for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    assert {Path(name).name for name in PAGES if name.startswith("docs/")} - {"README.md"} <= linked
    for method in method_names():
        assert method in index, f"docs/README.md has no line about {method}"
