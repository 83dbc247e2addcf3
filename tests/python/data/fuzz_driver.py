"""Damages valid data files at random and reads them: python fuzz_driver.py DIRECTORY SEED FIRST COUNT SECONDS.

Prints one JSON line of counts. Every read must end in a dataset or a DatasetError; anything else is printed with the
number of the case, which alone names it, and ends the run with exit code 1. It runs in a process of its own, under
limits of memory and time, because the HDF5 library may crash.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from d4rl_files import valid_columns, write

from trajmill.data import (
    DatasetError,
    read_d4rl,
    read_minari,
    read_npz,
    read_policy_weights,
    read_token_csv,
    write_d4rl,
    write_minari,
    write_npz,
)

MEMORY = 2 * 2**30  # a text that claims to be longer fails to be allocated
SECONDS_A_CASE = 30
BUDGET = 2**27


def make_sources(directory: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """One valid file of each kind, and how to read it."""
    columns = valid_columns()
    policy = {"metadata/policy/fc0/weight": np.ones((4, 4), np.float32), "metadata/algorithm": np.array(b"SAC")}
    qpos = {"infos/qpos": np.ones((60, 3))}
    plain = write(directory / "plain.hdf5", columns | policy | qpos, environment="Pendulum-v1")
    latest = directory / "latest.hdf5"
    with h5py.File(latest, "w", libver="latest") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=(7, *values.shape[1:]), maxshape=(None, *values.shape[1:]))
        file.attrs["text"] = "words"
    packed = write_d4rl(directory / "packed.hdf5", **columns, metadata={"seed": 1, "text": "words"})
    minari = write_minari(directory / "toy-v0", **columns) / "data"
    archive = directory / "set.npz"
    write_npz(archive, **columns)
    stored = directory / "stored.npz"
    np.savez(stored, **columns)
    tokens = directory / "tokens.csv"
    tokens.write_bytes(b"\r\n".join(b",".join(str(i * j % 17).encode() for i in range(30)) for j in range(9)) + b"\r\n")

    def read_hdf5(path: Path) -> None:
        read_d4rl(path, memory_budget=BUDGET)
        read_policy_weights(path, memory_budget=BUDGET)

    def read_set(path: Path) -> None:
        read_minari(path, memory_budget=BUDGET)

    def read_archive(path: Path) -> None:
        read_npz(path, memory_budget=BUDGET)

    return {
        "plain": (plain, read_hdf5),
        "latest": (latest, read_hdf5),
        "packed": (packed, read_hdf5),
        "minari": (minari / "main_data.hdf5", read_set),
        "metadata": (minari / "metadata.json", read_set),
        "archive": (archive, read_archive),
        "stored": (stored, read_archive),
        "tokens": (tokens, lambda path: read_token_csv(path, memory_budget=BUDGET)),
    }


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Change a few bytes, mostly where structure is: near the start, and in runs that are not numbers."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        if not data:
            break
        near = generator.random() < 0.5
        at = int(generator.integers(0, min(len(data), 2048) if near else len(data)))
        length = int(generator.choice([1, 1, 1, 2, 4, 8, 64]))
        kind = generator.integers(0, 8)
        if kind == 0:
            data[at] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:
            data[at : at + length] = generator.bytes(length)
        elif kind == 2:
            data[at : at + length] = b"\xff" * length
        elif kind == 3:
            data[at : at + length] = bytes(length)
        elif kind == 4:
            other = int(generator.integers(0, len(data)))
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            data[at : at + 8] = int(generator.integers(0, len(data))).to_bytes(8, "little")
        elif kind == 6:
            del data[at : at + length]
        elif generator.random() < 0.2:
            del data[at:]
        else:
            data[at:at] = generator.bytes(length)
    return bytes(data)


def main(directory: Path, seed: int, first: int, count: int, seconds: float) -> int:
    warnings.simplefilter("ignore")
    if "ASAN_OPTIONS" not in os.environ:  # which has a limit of its own, and takes terabytes of addresses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sources = make_sources(directory)
    originals = {name: path.read_bytes() for name, (path, _) in sources.items()}
    for path, read in sources.values():
        read(path)
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    case = directory / "case"
    for number in range(first, first + count):
        if time.monotonic() - started > seconds:
            break
        generator = np.random.default_rng([seed, number])
        name = list(sources)[int(generator.integers(0, len(sources)))]
        path, read = sources[name]
        case.write_text(f"{seed} {number} {name}")  # what to look at if the process dies
        path.write_bytes(damage(originals[name], generator))
        signal.alarm(SECONDS_A_CASE)
        try:
            read(path)
            outcomes[f"{name} read"] += 1
        except DatasetError as error:
            outcomes[f"{name} refused"] += 1
            if str(path.name.rsplit(".")[0]) not in str(error) and "toy-v0" not in str(error):
                print(f"case {seed} {number} {name}: the message names no file: {error}")
                return 1
        except BaseException as error:
            print(f"case {seed} {number} {name}: {type(error).__name__}: {error}")
            shutil.copy(path, directory / "crash")
            raise
        finally:
            signal.alarm(0)
            path.write_bytes(originals[name])
    print(json.dumps(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), float(sys.argv[5])))
