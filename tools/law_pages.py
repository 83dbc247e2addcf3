"""Write a page for every law from its class: ``python tools/law_pages.py``.

docs/laws/KIND.md holds what the docstrings, the fields, the presets and the examples of a law say.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from trajmill import laws
from trajmill.cli.law_options import field_docs
from trajmill.core.law import Law

FOLDER = Path(__file__).resolve().parents[1] / "docs/laws"


def page(kind: str) -> str:
    """The page of a law."""
    law = laws.find(kind)
    head, _, text = inspect.cleandoc(law.__doc__ or "").replace("``", "`").partition("\n\n")
    example = law.examples()[0]
    parts = [
        f"# {law.__name__}",
        " ".join(head.split()),
        *(" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph),
        _table(["field", "default", "what it is"], _fields(law)),
    ]
    if law.presets:
        parts += ["**Presets**", _table(["preset", "what differs from the defaults"], _presets(law))]
    parts += ["**What is exact**", _table(["", ""], _exact(example)), "**An example**", _example(law, example)]
    parts.append(f"This page is made by `tools/law_pages.py` from `python/trajmill/laws/{kind}.py`.")
    return "\n\n".join(parts) + "\n"


def _fields(law: type[Law]) -> list[list[str]]:
    about = field_docs(law)
    return [[f"`{each.name}`", _default(each), about[each.name]] for each in fields(law) if each.init]


def _default(each: Any) -> str:
    return "needed" if each.default is MISSING else f"`{each.default!r}`"


def _presets(law: type[Law]) -> list[list[str]]:
    rows = []
    for name in law.presets:
        settings = getattr(law, name)().settings()
        plain = {each.name: each.default for each in fields(law) if each.init}
        differs = [f"{field}={_short(value)}" for field, value in settings.items() if value != plain[field]]
        rows.append([f"`{law.__name__}.{name}()`", f"`{', '.join(differs)}`" if differs else "nothing"])
    return rows


def _short(value: Any) -> str:
    """A value in a few words: matrices have many."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."


def _exact(law: Law) -> list[list[str]]:
    """Of the example below."""
    length = law.usual_length(512)
    try:
        next(iter(law.predictions(law.sample(1, length))))
        said = "the law of every token given those before it (`predictions`)"
    except NotImplementedError as reason:
        said = f"for those who know the task alone: {reason}" if _knows_tasks(law, length) else str(reason)
    loss, rate = law.expected_loss(length), law.entropy_rate()
    return [
        ["vocabulary", f"{law.vocabulary_size:,} tokens"],
        ["columns", ", ".join(f"`{name}`" for name in ("tokens", *law.extra_columns))],
        ["prefix", "a longer row begins with the shorter one" if law.prefix_stable else "rows depend on their length"],
        ["predictions", said],
        [f"mean loss, rows of {length}", "not closed" if loss is None else f"{loss:.4f} nats a token"],
        ["entropy rate", "not closed" if rate is None else f"{rate:.4f} nats a token"],
    ]


def _knows_tasks(law: Law, length: int) -> bool:
    rows = law.sample(1, length, columns=["task"])
    try:
        next(iter(law.predictions(rows["tokens"], rows["task"][:, 0])))
    except NotImplementedError:
        return False
    return True


def _example(law: type[Law], example: Law) -> str:
    length = example.usual_length(24)
    rows = example.sample(2, length)
    shown = "\n".join("  " + " ".join(map(str, row[:32])) + (" ..." if length > 32 else "") for row in rows.tolist())
    call = "sample(2)" if example.fixed_length else f"sample(2, {length})"
    return f"```text\ntm.{_short_repr(example)}.{call}\n{shown}\n```"


def _short_repr(law: Law) -> str:
    """With the fields that differ from their defaults."""
    plain = {each.name: each.default for each in fields(law) if each.init}
    differs = [f"{name}={_short(value)}" for name, value in law.settings().items() if value != plain[name]]
    return f"{type(law).__name__}({', '.join(differs)})"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for kind in laws.names():
        (FOLDER / f"{kind}.md").write_text(page(kind), encoding="utf-8")
