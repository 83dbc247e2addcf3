"""Records the rows of new examples, from the twins: ``python tests/python/laws/write_golden.py``.

What is on record is never changed: a stream that has been released stays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import xxhash

sys.path.insert(0, str(Path(__file__).parents[2] / "reference"))
sys.path.insert(0, str(Path(__file__).parent))

from test_battery import EXAMPLES, GOLDEN, length_of, twin_rows

from trajmill import laws

CASE_ROWS = 19

recorded = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
for kind, number in EXAMPLES:
    law, name = laws.find(kind).examples()[number], f"{kind}-{number}"
    if name in recorded:
        continue
    digest = xxhash.xxh3_128()
    for column, values in twin_rows(law, 0, 16, length_of(law)).items():
        digest.update(column.encode())
        digest.update(np.ascontiguousarray(values, "<u4"))
    recorded[name] = {"spec": law.spec(), "rows": digest.hexdigest()}
GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")

# what the C++ tests draw with every instruction set, also in an emulator: kind, numbers, tables, length, digest of rows
LARGEST_TABLES = 600  # words
cases = []
for kind, number in EXAMPLES:
    law = laws.find(kind).examples()[number]
    if not law.has_kernel:
        continue
    length = length_of(law, 40)
    numbers, tables = law.core(length)
    if sum(np.asarray(table).size for table in tables) > LARGEST_TABLES or length > 2000:
        continue
    names = [name for name in ("loss_mask", "states") if name in law.kernel_columns]
    rows = law.sample(CASE_ROWS, length, first_sequence=5, columns=names)
    digest = 0xCBF29CE484222325  # FNV-1a of 32-bit numbers, tokens first
    for name in ("tokens", *names):
        for value in rows[name].ravel().tolist():
            digest = ((digest ^ value) * 0x100000001B3) % 2**64
    words = ", ".join(
        "{" + ", ".join(f"{word}u" for word in np.asarray(table, np.uint32).ravel().tolist()) + "}" for table in tables
    )
    marks = int("loss_mask" in names) + 2 * int("states" in names)
    values = ", ".join(f"{int(value) % 2**64}u" for value in numbers)
    cases.append(f'{{"{kind}-{number}", "{kind}", {{{values}}}, {{{words}}}, {length}, {marks}, {digest}u}},')
text = "// Made by tests/python/laws/write_golden.py: laws, and a digest of rows 5 to 23 of each.\n"
(Path(__file__).parents[2] / "cpp/law_cases.inc").write_text(text + "\n".join(cases) + "\n")
