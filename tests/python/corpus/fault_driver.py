"""Run under faulty_calls: fails every call of a function in turn while a corpus is built, and says what came of it.

``fault_driver.py DIRECTORY SPEC FUNCTION KIND STICKY`` prints how many calls there were; an assertion ends it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from small_corpus import SPECS, files

from trajmill.corpus import CorpusError
from trajmill.corpus.build import build
from trajmill.corpus.survey import verify

shim = ctypes.CDLL(None)


def attempt(work, function: str, number: int, kind: int, sticky: bool, directory: Path) -> tuple[Exception | None, int]:
    """The error that `work` ended with, and how many calls there were."""
    shim.arm(function.encode(), number, kind, int(sticky), os.fsencode(directory))
    try:
        work()
        return None, shim.disarm()
    except CorpusError as error:
        return error, shim.disarm()


def writing(directory: Path, spec: dict, function: str, kind: int, sticky: bool) -> int:
    """Fail each call while writing; then the same call again must end with the same bytes."""
    build(spec, directory / "whole")
    whole = files(directory / "whole")
    out = directory / "out"
    number = 0
    while True:
        number += 1
        shutil.rmtree(out, ignore_errors=True)
        error, count = attempt(lambda: build(spec, out, threads=2), function, number, kind, sticky, out)
        if count < number:
            assert error is None and files(out) == whole
            return number - 1
        if error is None:
            assert kind in (-1, errno.EINTR, errno.EINVAL) or function == "open", (number, "it was not noticed")
            assert files(out) == whole, (number, "a failure that was overcome changed the bytes")
        else:
            assert "\n" not in str(error) and "give the same command again" in str(error), error
            assert os.strerror(kind) in str(error), error
            for path in out.glob("receipt-*"):  # a shard with a receipt is whole
                shard = path.name.removeprefix("receipt-").removesuffix(".json")
                assert all(whole[file.name] == file.read_bytes() for file in out.glob(f"*-{shard}.bin")), (
                    number,
                    shard,
                )
        build(spec, out, threads=2)
        assert files(out) == whole, (number, files(out).keys() ^ whole.keys())


def reading(directory: Path, spec: dict, kind: int) -> int:
    """Fail each read of `verify`: it must be told as a problem, or overcome."""
    out = directory / "out"
    build(spec, out)
    number = 0
    while True:
        number += 1
        problems: list[str] = []
        work = partial(lambda found: found.extend(verify(out, threads=2).problems), problems)
        error, count = attempt(work, "preadv", number, kind, False, out)
        assert error is None, error
        if count < number:
            return number - 1
        expected = [] if kind in (-1, errno.EINTR) else [os.strerror(kind)]
        assert len(problems) == len(expected) and all(word in problems[0] for word in expected), problems


def main() -> None:
    directory, spec, function, kind, sticky = Path(sys.argv[1]), SPECS[sys.argv[2]], *sys.argv[3:]
    number = {"SHORT": -1}.get(kind) or getattr(errno, kind)
    if function == "preadv":
        print(reading(directory, spec, number))
    else:
        print(writing(directory, spec, function, number, sticky == "sticky"))


if __name__ == "__main__":
    main()
