"""Every writer on a real file system that becomes full: an error, nothing half-written, and never a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from trajmill.core.hdf5_writing import create_hdf5

SUPPORT = Path(__file__).parents[1] / "support"


def tried(driver: str, tmp_path: Path, size: str, *arguments: str) -> dict[str, str]:
    """What a driver prints by name, run with a file system of a size."""
    disk, sources = tmp_path / "disk", tmp_path / "sources"
    disk.mkdir()
    sources.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        words = [sys.executable, SUPPORT / driver, disk, sources, *arguments]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_command_on_a_disk_that_is_too_small(part: int, tmp_path: Path) -> None:
    """An eighth of the commands each."""
    assert len(tried("full_disk_commands.py", tmp_path, "12m", f"{part}/8")) >= 3


@pytest.mark.slow
def test_every_writer_on_a_disk_that_becomes_full(tmp_path: Path) -> None:
    counts = tried("full_disk.py", tmp_path, "500k", "500")
    assert len(counts) >= 18 and all(0 < int(count) < 6 for count in counts.values()), counts


def test_what_the_disk_did_not_take_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 sees none of the errors, at whatever write they begin."""
    rows, write, left = np.arange(3000.0), os.pwrite, [0]

    def fails(descriptor: int, data: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        return write(descriptor, data[: 1 + len(data) // 2], offset)  # and a part only, as the system may

    monkeypatch.setattr(os, "pwrite", fails)
    for number in (*range(40), 10_000):
        left[0] = number
        path = tmp_path / f"{number}.hdf5"
        try:
            with create_hdf5(h5py, path) as (file, _):
                for name in "abc":
                    file.create_dataset(name, data=rows, chunks=(100,), compression="gzip")
                    file.flush()
                    assert (file[name][:] == rows).all()
        except OSError as error:
            assert number < 10_000 and str(error) == f"[Errno 5] Input/output error: '{path}'"
        else:
            assert number == 10_000
            with h5py.File(path) as file:
                assert (file["c"][:] == rows).all() and path.stat().st_size == file.id.get_filesize()


@pytest.mark.parametrize("raising", [True, False])
def test_a_signal_waits_until_hdf5_has_returned(raising: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, came = os.pwrite, []

    def interrupted(*arguments: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)  # type: ignore[arg-type]

    def handler(number: int, _: object) -> None:
        came.append(number)
        if raising:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        monkeypatch.setattr(os, "pwrite", interrupted)
        with create_hdf5(h5py, tmp_path / "x.hdf5") as (file, check):
            file["x"] = np.ones(1000)
            file.flush()
            assert not came
            check()
            assert not raising
        assert not raising
    except KeyboardInterrupt:
        assert raising
    finally:
        assert signal.getsignal(signal.SIGINT) is handler and came
        signal.signal(signal.SIGINT, before)
    if not raising:
        with h5py.File(tmp_path / "x.hdf5") as file:
            assert (file["x"][:] == 1).all()
