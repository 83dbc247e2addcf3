"""Bring the README up to date: ``python tools/readme.py``.

The number and the picture come from results/sampler.json, the table of methods from what the methods say of themselves.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from trajmill.cli.train import summaries

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs/images/sampler.svg"

HEADLINE = "dense chain S=100, 1 thread, reused out"
BARS = {  # row of the results -> name in the picture
    "the authors' way": "the authors' way (NumPy)",
    "numba alias loop": "numba loop over alias tables",
    "  scalar, 1 thread": "trajmill without SIMD",
    "  sse4, 1 thread": "trajmill, SSE4.1",
    "  avx2, 1 thread": "trajmill, AVX2",
    "  avx512, 1 thread": "trajmill, AVX-512",
    "  2 threads": "trajmill, AVX-512, 2 threads",
}


def results(name: str) -> dict[str, Any]:
    """One benchmark's record, its rows by name (the first of a name counts)."""
    record = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    return record | {"rows": {row["name"]: row for row in reversed(record["rows"])}}


def per_second(billions: float) -> str:
    """A rate in words: 53 thousand, 72 million, 1.06 billion."""
    for size, word in ((1.0, "billion"), (1e-3, "million"), (1e-6, "thousand")):
        if billions >= size:
            return f"{billions / size:.3g} {word}"
    return f"{billions * 1e9:.3g}"


def number(record: dict[str, Any]) -> str:
    """The sentence that the README begins with."""
    rows, machine = record["rows"], record["machine"]
    rate = rows[HEADLINE]["value"]
    authors, numba = (rate / rows[name]["value"] for name in ("the authors' way", "numba alias loop"))
    return (
        f"One core ({machine['cpu']}, {machine['simd'].upper().replace('AVX512', 'AVX-512')}) draws "
        f"**{per_second(rate)}** Markov-chain tokens a second:\n"
        f"{authors:,.0f} times the rate of the published generator, {numba:.0f} times that of a numba loop,\n"
        "with bytes that are the same on every machine, at any number of threads."
    )


def methods() -> str:
    """The table of methods: a name and the first line of its file."""
    rows = (f"| `{name}` | {summary.replace(': ', ' | ', 1)} |" for name, summary in summaries().items())
    return "\n".join(["| `trajmill train ...` | method | what it does |", "| --- | --- | --- |", *rows])


def picture(record: dict[str, Any]) -> None:
    """Rates as bars on a logarithmic scale, readable on a light and on a dark page."""
    bars = [(label, record["rows"][name]["value"]) for name, label in BARS.items() if name in record["rows"]]
    plt.rcParams.update({"svg.hashsalt": "trajmill", "svg.fonttype": "none", "font.family": "sans-serif"})
    grey = "#808890"
    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    colors = ["#2a9d8f" if label.startswith("trajmill") else grey for label, _ in bars]
    axes.barh([label for label, _ in bars], [rate * 1e9 for _, rate in bars], color=colors, height=0.7)
    for position, (_, rate) in enumerate(bars):
        axes.text(rate * 1e9 * 1.15, position, per_second(rate), va="center", color=grey)
    axes.set(xscale="log", xlim=(1e4, 4e10), xlabel="Markov-chain tokens a second (100 states, logarithmic scale)")
    axes.invert_yaxis()
    axes.tick_params(colors=grey, length=0)
    axes.xaxis.label.set_color(grey)
    for spine in axes.spines.values():
        spine.set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None})


def main() -> None:
    """Write all of it."""
    record = results("sampler")
    text = README.read_text()
    for name, content in (("number", number(record)), ("methods", methods())):
        parts = re.split(rf"(<!-- /?{name} -->\n)", text)
        if len(parts) != 5:
            raise SystemExit(f"README.md needs one <!-- {name} --> ... <!-- /{name} -->")
        text = "".join([*parts[:2], content + "\n", *parts[3:]])
    README.write_text(text)
    picture(record)


if __name__ == "__main__":
    main()
