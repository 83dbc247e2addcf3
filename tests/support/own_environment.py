"""Virtual environments for libraries that cannot, or need not, be installed beside the package under test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

NO_NETWORK = re.compile("No matching distribution|NewConnectionError|name resolution|unreachable|timed out", re.I)


@dataclass(frozen=True)
class OwnEnvironment:
    """A virtual environment whose python runs what needs other packages."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, *, sees: Path) -> OwnEnvironment:
        """A fresh one in which the packages of `sees`, a site-packages directory, are to be had too."""
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        (packages,) = (directory / "lib").glob("python*/site-packages")
        (packages / "seen.pth").write_text(f"import site; site.addsitedir({str(sees)!r})\n")
        return cls(directory)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin/python"

    def install(self, *requirements: str) -> None:
        """Install with pip; without a network the test is skipped."""
        done = self.run("-m", "pip", "install", "--quiet", *requirements)
        if done.returncode and NO_NETWORK.search(done.stderr):
            pytest.skip(f"pip has no network to fetch {requirements[-1]} from")
        assert done.returncode == 0, done.stderr

    def run(self, *words: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """What its python does with these words."""
        here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        here |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.directory / "huggingface")}
        command = [self.python, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=here, timeout=timeout)

    def read(self, script: str, *arguments: object) -> list[np.ndarray]:
        """What `script` saves with ``save(*arrays)``; its arguments are in ``sys.argv``."""
        head = f"import sys\nimport numpy as np\nsave = lambda *a: np.savez({str(self.directory / 'read')!r}, *a)\n"
        done = self.run("-c", head + script, *arguments)
        assert done.returncode == 0, done.stderr
        with np.load(self.directory / "read.npz") as arrays:
            return [arrays[name] for name in arrays.files]
