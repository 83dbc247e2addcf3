"""Versions of what trajmill needs: the lowest that pyproject.toml allows; those of constraints.txt with hashes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HASHES = ROOT / "requirements-hashed.txt"
UNHASHED = ("torch",)
"""its wheels differ from index to index (CPU, CUDA), each with a hash of its own"""
HEADER = """\
# constraints.txt with the SHA-256 of every file that PyPI has of these versions; torch is left out, because its wheels
# differ from index to index. docs/wheels.md says how to install from it. To renew: .venv/bin/python tools/pins.py
"""


def lowest_versions(*extras: str) -> list[str]:
    """``name==version``, the lowest allowed, of what the package and its extras need; of trajmill's own extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = dict.fromkeys(_lowest(line) for line in project["dependencies"])
    for extra in extras:
        for line in project["optional-dependencies"][extra]:
            own = re.match(r"trajmill\[(.*)\]", line)
            found |= dict.fromkeys(lowest_versions(*own[1].split(",")) if own else [_lowest(line)])
    return list(found)


def _lowest(line: str) -> str:
    name, bound = re.fullmatch(r"([\w.-]+(?:\[[\w,]+\])?)[>=]=([\w.]+)", line).groups()  # type: ignore[union-attr]
    return f"{name}=={bound}"


def pins(path: Path) -> dict[str, str]:
    """Name (as PyPI writes it in addresses) -> exact version, of a file for pip."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def write_hashes() -> None:
    """Ask the index for the hashes of all pinned versions (uv does) and write them beside the pins."""
    wanted = [f"{name}=={version}" for name, version in pins(ROOT / "constraints.txt").items() if name not in UNHASHED]
    words = (
        "--no-deps",
        "--generate-hashes",
        "--universal",
        "--python-version",
        "3.11",
        "--no-header",
        "--no-annotate",
    )
    command = [Path(sys.executable).parent / "uv", "pip", "compile", "--quiet", *words, "-"]
    made = subprocess.run(command, input="\n".join(wanted), text=True, stdout=subprocess.PIPE, check=True)
    HASHES.write_text(HEADER + made.stdout)


if __name__ == "__main__":
    write_hashes()
