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
