"""``trajmill doctor``: what this installation can do, and what is missing; needs nothing but the core."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trajmill.core.diagnosis import DiagnosisRow, diagnose

SLOW_DISK = 0.5e9
"""bytes a second below which one core draws faster than the disk writes"""

HELP = """\
usage: trajmill doctor [--json]

Says what this installation can do: versions, the instruction sets that the compiled core found, threads, the optional
parts and how to install the missing ones, and how fast the disk of the current directory takes a corpus. Exit code 0:
the core works; 1: it does not.
"""


def run(words: Sequence[str], *, as_json: bool) -> int:
    """Print the diagnosis; returns the exit code."""
    if words:
        asked = words[0] in ("-h", "--help")
        print(HELP, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2

    rows = [*diagnose(), _disk(Path.cwd())]
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        width = max(len(row.name) for row in rows)
        for row in rows:
            print(f"{'ok' if row.ok else '--'}  {row.name:<{width}}  {row.value}")
    return int(any(not row.ok and not row.optional for row in rows))


def _disk(directory: Path) -> DiagnosisRow:
    """How fast `directory` takes a corpus, and how large it may be."""
    from trajmill.core.direct_io import write_rate

    try:
        rate, free = write_rate(directory), shutil.disk_usage(directory).free
    except OSError as error:
        value = f"{directory} cannot be written ({error.strerror or error}); choose another place for --out"
        return DiagnosisRow(name="disk", value=value, ok=False, optional=True)
    value = f"{rate / 1e9:.2f} GB/s into {directory}, {free / 1e9:,.0f} GB free"
    if rate < SLOW_DISK:
        value += "; slower than the sampler: write to another disk, or use tm.VirtualCorpus, which needs none"
    return DiagnosisRow(name="disk", value=value, optional=True)
