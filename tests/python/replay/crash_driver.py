"""Adds numbered rows to a buffer in a file until it is killed; prints how many are there after each call."""

from __future__ import annotations

import sys

from replay_rows import SCHEMA, rows

import trajmill as tm

CAPACITY, BATCH = 3000, 1000


def open_buffer(path: str) -> tm.ReplayBuffer:
    return tm.ReplayBuffer(
        CAPACITY, SCHEMA, path=path, shared={"next_observation": "observation"}, prioritized=True, seed=5
    )


if __name__ == "__main__":
    buffer = open_buffer(sys.argv[1])
    while True:
        buffer.add(**rows(buffer.row_count, BATCH))
        buffer.update_priorities([0], [buffer.row_count])
        sys.stdout.write(f"{buffer.row_count}\n")
        sys.stdout.flush()
