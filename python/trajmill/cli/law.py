"""Look at a law of token sequences: rows, vocabulary, what is exact about it, and how fast it is drawn.

`trajmill generate KIND` writes a corpus of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from trajmill import laws
from trajmill.cli.law_options import command_of_law, length_of, summaries
from trajmill.cli.session import Outcome
from trajmill.core.law import Law
from trajmill.core.progress import Progress
from trajmill.experiments.law import Seen, look, tokens_per_second

EXAMPLES = """
  trajmill law dyck
  trajmill law dyck --pairs 3 --max-depth 4 --length 32 --sequence-count 4
  trajmill law dyck --json
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowLaw:
    """What is asked for beside the fields of the law."""

    VERB: ClassVar[str] = "law"
    MORE: ClassVar[str] = ""
    NONE_IS_A_VALUE: ClassVar[bool] = True

    length: int | None = None
    """tokens of a row, >= 1; by default 64, or what the law fixes"""
    sequence_count: int = 2
    """rows to show, >= 1"""
    first_sequence: int = 0
    """number of the first of them"""

    def run(self, progress: Progress) -> Outcome:
        law: Law = self.law()  # type: ignore[attr-defined]
        length = length_of(law, self.length, 64)
        seen = look(law, length, rows=self.sequence_count, first_sequence=self.first_sequence)
        rate = tokens_per_second(law, length)
        return Outcome(seen.data() | {"tokens_per_second": rate}, "\n".join(_lines(law, seen, rate)))


def _lines(law: Law, seen: Seen, rate: float) -> list[str]:
    exact = [f"{name} {value:.4f} nats" for name, value in seen.exact.items()]
    facts = {
        "vocabulary": f"{law.vocabulary_size:,} tokens",
        "columns": ", ".join(("tokens", *law.extra_columns)),
        "prefix": "a longer row begins with the shorter one" if law.prefix_stable else "rows depend on their length",
        "best loss": "; ".join(exact) or "not in closed form",
        "rate": f"{rate / 1e6:,.0f} million tokens a second, one thread",
    }
    lines = [repr(law), "", *(f"{name:<11} {fact}" for name, fact in facts.items())]
    for number, columns in enumerate(seen.rows):
        lines += ["", f"row {seen.first_sequence + number}"]
        lines += [f"  {name:<9} {' '.join(map(str, values))}" for name, values in columns.items()]
    return lines


COMMANDS: dict[str, Any] = {kind: partial(command_of_law, ShowLaw, kind) for kind in laws.names()}
SUMMARIES = summaries
