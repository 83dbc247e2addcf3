"""One of the processes of a pre-training run: ``workers_driver.py RUN KILL_AT``, started by torchrun.

DEAD_RANK names a process that is killed after the seventh update.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from test_dt_pipeline import PRETRAIN, killing

from trajmill.algorithms import language_model
from trajmill.pipelines.language_model import pretrain_dt

real = language_model.step


def step(state: language_model.LMState, count: int = 1) -> None:
    real(state, count)
    if int(state.step) > 7 and os.environ.get("DEAD_RANK") == os.environ["RANK"]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    language_model.step = step
    pretrain_dt(PRETRAIN, Path(sys.argv[1]), killing(int(sys.argv[2])), resume=True)
