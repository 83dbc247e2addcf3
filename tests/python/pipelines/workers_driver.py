"""One of the processes of a pre-training run: ``workers_driver.py RUN KILL_AT``, started by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from test_dt_pipeline import PRETRAIN, killing

from trajmill.pipelines.decision_transformer import pretrain_dt

if __name__ == "__main__":
    pretrain_dt(PRETRAIN, Path(sys.argv[1]), killing(int(sys.argv[2])), resume=True)
