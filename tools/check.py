"""The checks that people and CI run: ``python tools/check.py lint | test-cpp | sanitize | neon | wheel | stubs``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STUB = ROOT / "python/trajmill/_core.pyi"


def run(*command: str | Path) -> None:
    """Run a command in the root; a failure ends the program with its exit code."""
    print("+", *command, flush=True)
    result = subprocess.run([str(word) for word in command], cwd=ROOT, check=False)
    if result.returncode:
        raise SystemExit(result.returncode)


def lint() -> None:
    """Style, types, imports, C++ format, and the committed stub against the compiled module."""
    sources = sorted(
        p for folder in ("cpp", "tests/cpp") for p in (ROOT / folder).rglob("*.[ch]pp") if "third_party" not in p.parts
    )
    run(BIN / "ruff", "check", ".")
    run(BIN / "ruff", "format", "--check", ".")
    run(BIN / "mypy")
    run(BIN / "lint-imports")
    run(BIN / "clang-format", "--dry-run", "--Werror", *sources)
    if make_stub() != STUB.read_text():
        raise SystemExit(f"{STUB.name} differs from the compiled module; run `python tools/check.py stubs`")


def make_stub() -> str:
    """The stub of the compiled module, as pybind11-stubgen and ruff write it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([BIN / "pybind11-stubgen", "trajmill._core", "-o", folder], check=True, capture_output=True)
        path = Path(folder) / "trajmill/_core.pyi"
        path.write_text(_plainer(path.read_text()))
        config = ROOT / "pyproject.toml"
        for verb in (["check", "--fix", "--quiet", "--exit-zero"], ["format", "--quiet"]):
            subprocess.run([BIN / "ruff", *verb, "--config", config, path], check=True, capture_output=True)
        return path.read_text()


def _plainer(stub: str) -> str:
    """The stub with short names of numbers, docstrings of one line on one, and without values of one build."""
    names = {"Int": "typing.SupportsInt | typing.SupportsIndex", "Float": "typing.SupportsFloat | typing.SupportsIndex"}
    for name, union in names.items():
        stub = stub.replace(union, name)
    aliases = "".join(f"{name}: typing.TypeAlias = {union}\n" for name, union in names.items())
    stub = re.sub(r"^(__all__)", aliases + r"\1", stub, count=1, flags=re.MULTILINE)
    stub = re.sub(r'"""\n\s*([^\n"]+)\n\s*"""', r'"""\1"""', stub)
    return re.sub(r"^(\w+: str) = .*$", r"\1", stub, flags=re.MULTILINE)


def test_cpp(sanitizers: str = "") -> None:
    """Build and run the C++ tests, under sanitizers if named."""
    build_and_test("cpp-" + (sanitizers.replace(",", "-") or "release"), f"-DTRAJMILL_SANITIZE={sanitizers}")


def neon() -> None:
    """Build the C++ tests for 64-bit Arm and run them in an emulator."""
    tools = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
    missing = [package for program, package in tools.items() if shutil.which(program) is None]
    if missing:
        print(f"NEON kernels not tested: install {' and '.join(missing)} (Debian's names)")
        return
    build_and_test(
        "cpp-neon",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu",
    )


def build_and_test(folder: str, *options: str) -> None:
    """Configure, build and run the C++ tests in build/`folder`."""
    build = ROOT / "build" / folder
    run(
        BIN / "cmake",
        "-S",
        ".",
        "-B",
        build,
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}",
        "-DTRAJMILL_BUILD_PYTHON=OFF",
        "-DTRAJMILL_BUILD_TESTS=ON",
        *options,
    )
    run(BIN / "cmake", "--build", build)
    run(BIN / "ctest", "--test-dir", build, "--output-on-failure")


def test_wheel() -> None:
    """Build an sdist, from it a wheel, and test the installed wheel far from this tree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(BIN / "python", "-m", "build", "--no-isolation", "--outdir", folder)  # the wheel is made from the sdist
        (wheel,) = folder.glob("*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        venv.create(folder / "venv", symlinks=True)
        python = folder / "venv/bin/python"
        site = Path(
            subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
        )
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # those of this environment
        run(
            BIN / "python",
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-deps",
            "--force-reinstall",
            wheel,
        )
        shutil.copytree(ROOT / "tests", folder / "tree/tests")
        shutil.copy(ROOT / "pyproject.toml", folder / "tree")
        home = subprocess.check_output([python, "-c", "import trajmill; print(trajmill.__file__)"], text=True).strip()
        if not home.startswith(str(site)):
            raise SystemExit(f"tested {home}, not the wheel in {site}")
        run(
            python,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--rootdir",
            folder / "tree",
            "-c",
            folder / "tree/pyproject.toml",
            folder / "tree/tests/python",
        )


def main() -> None:
    """Run the check that the first argument names."""
    checks = {
        "lint": lint,
        "test-cpp": test_cpp,
        "sanitize": lambda: (test_cpp("address,undefined"), test_cpp("thread")),
        "wheel": test_wheel,
        "neon": neon,
        "stubs": lambda: STUB.write_text(make_stub()),
    }
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        raise SystemExit(__doc__)
    checks[sys.argv[1]]()


if __name__ == "__main__":
    main()
