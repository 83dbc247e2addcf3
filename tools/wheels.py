"""What a wheel must be: small, whole, licensed, with an SBOM, for old systems, and at work beside NumPy alone."""

from __future__ import annotations

import json
import re
import subprocess
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy

SIZE_LIMIT = 12_000_000
"""bytes of a wheel; most of them are the bundled datasets"""
MODULE_LIMIT = 3_000_000
"""bytes that the compiled module takes in a wheel"""
NEWEST_GLIBC = (2, 34)
"""of a wheel that claims no manylinux tag: what a build on Debian 12 cannot do without"""
WANTED = (
    "trajmill/_core.*.so",
    "trajmill/_core.pyi",
    "trajmill/py.typed",
    "trajmill/data/bundled/*.hdf5",
    "trajmill/report/templates/*",
    "trajmill-*.dist-info/licenses/LICENSE",
    "trajmill-*.dist-info/licenses/licenses/pybind11.txt",
    "trajmill-*.dist-info/sboms/sbom.cdx.json",
)
WORKS = """
import sys, trajmill as tm
assert tm.MarkovChain(state_count=100, seed=42).sample(1, 8)[0].tolist() == [63, 16, 15, 72, 60, 23, 6, 1]
print(f"{tm.__version__} samples; of other packages only {sorted({'numpy', 'torch', 'h5py'} & set(sys.modules))} came")
"""


def check_wheel(wheel: Path, folder: Path) -> None:
    """Look at a wheel, and install and use it in an environment in `folder`; raises SystemExit for the first fault."""
    size = wheel.stat().st_size
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for pattern in WANTED:
            if not any(fnmatch(name, pattern) for name in names):
                raise SystemExit(f"{wheel.name} lacks {pattern}")
        foreign = [name for name in names if not name.startswith(("trajmill/", "trajmill-")) or "__pycache__" in name]
        if foreign:
            raise SystemExit(f"{wheel.name} has files that are no part of the package: {', '.join(foreign)}")
        (module,) = (name for name in names if fnmatch(name, WANTED[0]))
        archive.extract(module, folder)
        module_size = archive.getinfo(module).compress_size
        (bill,) = (name for name in names if fnmatch(name, WANTED[-1]))
        components = json.loads(archive.read(bill))["components"]
    for what, found, limit in ((wheel.name, size, SIZE_LIMIT), (module, module_size, MODULE_LIMIT)):
        if found > limit:
            raise SystemExit(f"{what} takes {found:,} bytes; the limit is {limit:,}")
    glibc, claimed = newest_glibc(folder / module), glibc_of_tag(wheel.name)
    if glibc > claimed:
        raise SystemExit(f"{wheel.name} needs {text(glibc)}; for its tag it may need {text(claimed)}")
    sizes = f"{size / 1e6:.2f} MB, {module_size / 1e6:.2f} of them the module"
    print(f"{wheel.name}: {sizes}; {len(names)} files; needs {text(glibc)} (may need {text(claimed)})")
    print("compiled from", ", ".join(f"{part['name']} {part['version']}" for part in components))
    environment = folder / "only-numpy"
    venv.create(environment, symlinks=True, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for path in Path(numpy.__file__).parents[1].glob("numpy*"):
        (site / path.name).symlink_to(path)
    print(subprocess.check_output([environment / "bin/python", "-c", WORKS], text=True, cwd=folder).strip(), flush=True)


def newest_glibc(module: Path) -> tuple[int, ...]:
    """The newest version of glibc that a shared library asks for."""
    symbols = subprocess.check_output(["objdump", "-T", module], text=True)
    versions = re.findall(r"\bGLIBC_(\d+)\.(\d+)", symbols)
    return max(tuple(map(int, version)) for version in versions)


def glibc_of_tag(name: str) -> tuple[int, ...]:
    """What a wheel of this name may ask for at most."""
    claimed = re.findall(r"manylinux_(\d+)_(\d+)_", name)
    return min((tuple(map(int, version)) for version in claimed), default=NEWEST_GLIBC)


def text(version: tuple[int, ...]) -> str:
    """A version of glibc, for messages."""
    return "glibc " + ".".join(map(str, version))
