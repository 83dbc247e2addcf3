"""``trajmill doctor``: what this installation can do, and what is missing; needs nothing but the core."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

HELP = """\
usage: trajmill doctor [--json]

Says what this installation can do: versions, the instruction sets that the compiled core found, threads, the optional
parts and how to install the missing ones. Exit code 0: the core works; 1: it does not.
"""


def run(words: Sequence[str], *, as_json: bool) -> int:
    """Print the diagnosis; returns the exit code."""
    if words:
        asked = words[0] in ("-h", "--help")
        print(HELP, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    from trajmill.core.diagnosis import diagnose

    rows = diagnose()
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            print(f"{'ok' if row.ok else '--'}  {row.name:<{width}}  {row.value}")
    return int(any(not row.ok and not row.optional for row in rows))
