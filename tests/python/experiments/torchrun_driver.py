"""One of the processes of a pre-training run: ``torchrun_driver.py RUN KILL_AT``, started by torchrun.

DEAD_RANK names a process that is killed after the seventh update.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from tiny_runs import killing, train
from torchrun_config import PRETRAIN

from trajmill.algorithms import language_model

real = language_model.step


def step(state: language_model.State, count: int = 1, first: int = 0) -> None:
    real(state, count, first)
    if int(state.step) > 7 and os.environ.get("DEAD_RANK") == os.environ["RANK"]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    language_model.step = step
    train(PRETRAIN, Path(sys.argv[1]), killing(int(sys.argv[2])), resume=True)
