"""What --json prints is JSON, whatever a command returns."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from trajmill.cli.session import json_value


def test_every_value_is_plain_json() -> None:
    given = {
        1: math.nan,
        "a": (math.inf, np.float32(2), np.int64(3), np.bool_(True)),
        "b": [np.array([1.0, np.nan]), None, True, "x", Path("p")],
    }
    text = json.dumps(json_value(given), allow_nan=False)
    assert json.loads(text) == {"1": None, "a": [None, 2.0, 3, True], "b": [[1.0, None], None, True, "x", "p"]}
