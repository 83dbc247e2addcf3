"""The pages of the documentation, and what stands in their fences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/*.md",
        ".github/**/*.md",
        "tests/golden/**/*.md",
        "python/trajmill/data/bundled/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
}
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
REMARK = re.compile(r"<!-- (needs|not run:) ([^>]+) -->\n *$")
"""before a fence: modules (or cuda) that it needs, or why no test runs it"""


@dataclass(frozen=True, slots=True)
class Fence:
    """What stands between two fences of a page."""

    language: str
    body: str
    line: int
    """of its first line, from 1"""
    needs: tuple[str, ...] = ()
    not_run: str = ""


def fences(text: str) -> Iterator[Fence]:
    """All of a page, in order."""
    for found in FENCED.finditer(text):
        indent, language, body = found.groups()
        line = text.count("\n", 0, found.start(3)) + 1
        remark = REMARK.search(text, 0, found.start())
        kind, words = remark.groups() if remark and remark.end() == found.start() else ("", "")
        needs = tuple(words.split(", ")) if kind == "needs" else ()
        body = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
        yield Fence(language, body, line, needs, words if kind == "not run:" else "")


PLACEHOLDERS = {"train METHOD": "train cql", "train NAME": "train cql", "methods NAME": "methods cql"}
SCHEMATIC = re.compile(r"\.\.\.|[|\[\]]|\bFORMAT\b|\breproduce NAME\b")
"""what shows the form of a command instead of one"""
OWN_COMMAND = re.compile(r"(?:^|-m )(?:\.venv/bin/)?trajmill(?= )")
VARIABLES = re.compile(r"^(\w+=\S+ )+")


def command_lines(block: str) -> Iterator[str]:
    """The lines of a block of commands, whole ones, without the words that explain them."""
    for line in re.sub(r" *\\\n *", " ", block).splitlines():
        yield re.split(r" {3,}(?=[a-z])|\s#", line.strip())[0].strip()


def commands(text: str) -> Iterator[str]:
    """Every command of trajmill in the blocks of a page, without its variables."""
    for fence in fences(text):
        if fence.language not in ("", "sh", "bash"):
            continue
        for line in command_lines(fence.body):
            command = VARIABLES.sub("", line)
            for placeholder, instead in PLACEHOLDERS.items():
                command = command.replace(placeholder, instead)
            if (found := OWN_COMMAND.search(command)) and not SCHEMATIC.search(command):
                yield command[found.end() :].strip()
