"""Write the numbers of docs/results.md and docs/peers.md from benchmarks/results: ``python tools/results_page.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = (ROOT / "docs/results.md", ROOT / "docs/peers.md")

SECTIONS = {
    "sampler": "Sampling chains and MDPs",
    "laws": "Sampling laws",
    "reference": "The published program's streams",
    "corpus": "Corpora on disk",
    "replay": "Replay",
    "evaluation": "Episodes in MuJoCo",
    "training_cpu": "Training on a CPU",
    "mixtures": "Mixed batches in training",
    "products": "Generative models beside their matrix products",
    "samplers": "Samplers of generative models",
}
"""a heading for each kind of record, in this order; records called NAME_MORE follow NAME"""
REPLAY = (
    "uniform, batch 256",
    "half real, half synthetic, batch 256",
    "prioritized, batch 256, sample and update",
    "windows of 20 steps, batch 64",
    "add 1,000 transitions",
)
"""rows of the record of replay that are compared with peers"""


def records() -> dict[str, dict[str, Any]]:
    """Every record that says on which machine it was made, by its name."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return {name: record for name, record in found.items() if "machine" in record}


def short(value: float) -> str:
    """Three digits, and all digits of thousands."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, without columns that are empty."""
    lines = [["what", "measured", "over", "of a limit"], ["---"] * 4]
    for row in rows:
        name = re.sub(r"^ +", "→ ", row["name"])
        over = "" if row["ratio"] is None else f"{short(row['ratio'])} x {row['against']}"
        limit = "" if row["limit_share"] is None else f"{row['limit_share']:.0%} of {row['limit']}"
        over = over.replace("x ours over it", "x slower than ours")
        lines.append([name, f"{short(row['value'])} {row['unit']}".strip(), over, limit])
    kept = [number for number in range(4) if any(line[number] for line in lines[2:])]
    return "\n".join(f"| {' | '.join(line[number] for number in kept)} |" for line in lines)


def sections() -> str:
    """All records, each with its machine, versions, commit and command."""
    parts, left = [], records()
    for kind, heading in SECTIONS.items():
        parts.append(f"## {heading}")
        for name in [name for name in left if name == kind or name.startswith(f"{kind}_")]:
            record = left.pop(name)
            command = record["command"].replace("plain loop", '"plain loop"')
            command = re.sub(r" --out \S+|/\S+/(?=\S+\.hdf5)", "", command)  # places on the machine
            versions = ", ".join(f"{each} {version}" for each, version in sorted(record["versions"].items()))
            machine = f"{record['machine']['cpu']} ({record['machine']['simd']})"
            source = f"commit {record['commit'][:8]}: `benchmarks/results/{name}.json`"
            parts += [f"`{command}`, {machine}, {versions}, {source}", table(record["rows"])]
    if left:
        raise SystemExit(f"SECTIONS has no heading for {', '.join(left)}")
    return "\n\n".join(parts)


def replay() -> str:
    """Microseconds of ours and of peers."""
    rows = records()["replay"]["rows"]
    lines = ["| what | trajmill | peers, and how many times slower |", "| --- | ---: | --- |"]
    for name in REPLAY:
        place = [row["name"] for row in rows].index(name)
        peers = []
        for row in rows[place + 1 :]:
            if not row["name"].startswith(" "):
                break
            if row["unit"] == "us":
                peers.append(f"{row['name'].strip()} {short(row['value'])} ({short(row['ratio'])} x)")
        lines.append(f"| {name} | {short(rows[place]['value'])} | {', '.join(peers)} |")
    return "\n".join(lines)


def sampler() -> str:
    """The published program's rate, beside ours."""
    rows = {row["name"]: row["value"] for row in records()["sampler"]["rows"]}
    ours, theirs = rows["dense chain S=100, 1 thread, reused out"], rows["the authors' way"]
    return (
        f"On one core it makes {theirs * 1e6:,.0f} thousand tokens a second of a chain of 100 states, "
        f"trajmill {ours:.2f} billion: {ours / theirs:,.0f} times as many."
    )


FILLINGS: dict[str, Callable[[], str]] = {"records": sections, "replay": replay, "sampler": sampler}


def filled(text: str) -> str:
    """A page with the numbers of now, between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    for name, filling in FILLINGS.items():
        begin, found, rest = text.partition(f"<!-- {name} -->\n")
        if found:
            text = f"{begin}{found}{filling()}\n<!-- /{name} -->{rest.partition(f'<!-- /{name} -->')[2]}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
