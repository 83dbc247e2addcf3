"""The checks that people and CI run: ``python tools/check.py NAME``.

``lint``, ``test-cpp``, ``docs`` and ``test-python`` are ``make test``; ``all`` adds sanitizers, the installed wheel,
64-bit Arm and the slow tests, runs each also when another fails, and says in the end which did. ``stubs`` rewrites the
stub.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STUB = ROOT / "python/trajmill/_core.pyi"
PYTEST = ("-m", "pytest", "-q", "-n", "2", "--dist", "loadfile")
"""two processes; tests of a file share what takes long to make"""
SITE = ROOT / "build/site"
ASKS = re.compile(
    r"<(?:script|img|iframe|link|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>|url\((?:https?:)?//[^)]*\)"
)
"""what a browser loads by itself from elsewhere; a link that a reader may follow is none"""
SANITIZERS = ("address,undefined", "thread")
WITHOUT_PYTHON = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}", "-DTRAJMILL_BUILD_PYTHON=OFF")


def run(*command: str | Path, **variables: str) -> None:
    """Run a command in the root, with these environment variables; a failure ends the check."""
    print("+", *command, flush=True)
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | variables, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name} ended with exit status {done.returncode}")


def run_every(checks: dict[str, Callable[[], object]]) -> None:
    """Run all checks, also after one that fails, and name in the end those that did."""
    failed = []
    for name, check in checks.items():
        try:
            check()
        except (SystemExit, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", flush=True)
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def lint() -> None:
    """Style, types, imports, C++ format, and the committed stub against the compiled module."""
    sources = sorted(
        p for folder in ("cpp", "tests/cpp") for p in (ROOT / folder).rglob("*.[ch]pp") if "third_party" not in p.parts
    )
    commands: dict[str, tuple[str | Path, ...]] = {
        "style": (BIN / "ruff", "check", "."),
        "format": (BIN / "ruff", "format", "--check", "."),
        "types": (BIN / "mypy",),
        "imports": (BIN / "lint-imports",),
        "C++ format": (BIN / "clang-format", "--dry-run", "--Werror", *sources),
    }
    run_every({name: lambda words=words: run(*words) for name, words in commands.items()} | {"stub": compare_stub})


def compare_stub() -> None:
    """The committed stub is that of the compiled module."""
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


def test_cpp() -> None:
    """Build and run the C++ tests, with the core that Python imports if `make setup` compiled it here."""
    interpreter = sys.implementation.cache_tag.replace("cpython-", "cp")
    for cache in (ROOT / "build").glob(f"{interpreter}-*/CMakeCache.txt"):
        if "pip-build-env" not in cache.read_text():  # not of a build whose tools are gone
            return build_and_test(cache.parent.name)
    return build_and_test("cpp-release", *WITHOUT_PYTHON)


def sanitize(sanitizers: str) -> None:
    """Build and run the C++ tests under sanitizers."""
    build_and_test("cpp-" + sanitizers.replace(",", "-"), *WITHOUT_PYTHON, f"-DTRAJMILL_SANITIZE={sanitizers}")


def neon() -> None:
    """Build the C++ tests for 64-bit Arm and run them in an emulator."""
    tools = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
    missing = [package for program, package in tools.items() if shutil.which(program) is None]
    if missing:
        print(f"NEON kernels not tested: install {' and '.join(missing)} (Debian's names)")
        return
    build_and_test(
        "cpp-neon",
        *WITHOUT_PYTHON,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
        "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu",
    )


def build_and_test(folder: str, *options: str) -> None:
    """Configure, build and run the C++ tests in build/`folder`."""
    build = ROOT / "build" / folder
    run(BIN / "cmake", "-S", ".", "-B", build, "-DTRAJMILL_BUILD_TESTS=ON", *options)
    run(BIN / "cmake", "--build", build, "--target", "trajmill_tests")
    run(BIN / "ctest", "--test-dir", build, "--output-on-failure")


def docs() -> None:
    """Build the documentation as a site in build/site; a warning is a failure, and so is what asks another server."""
    run(BIN / "mkdocs", "build", "--strict", "--quiet", NO_MKDOCS_2_WARNING="1")
    asked = [
        f"{page.relative_to(SITE)}: {resource}"
        for page in sorted(SITE.rglob("*.html"))
        for resource in ASKS.findall(page.read_text(encoding="utf-8"))
    ]
    if asked:
        raise SystemExit("pages that ask another server for something:\n" + "\n".join(asked))


def test_python(*options: str) -> None:
    """Run the Python tests."""
    run(BIN / "python", *PYTEST, *options, OMP_NUM_THREADS="1")


def test_wheel() -> None:
    """Build an sdist, from it a wheel, and test the installed wheel far from this tree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(BIN / "python", "-m", "build", "--no-isolation", "--outdir", folder)  # the wheel is made from the sdist
        (wheel,) = folder.glob("*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        test_installed(folder, wheel)


def test_sanitized_module() -> None:
    """Test a build of the module with sanitizers of memory and of undefined behaviour, hostile arguments included."""
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    variables = {
        "LD_PRELOAD": ":".join(libraries),
        # Python leaves memory behind, and torch; what asks for too much is refused
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=512",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    build = (
        "-C",
        f"build-dir={ROOT / 'build/module-sanitized'}",
        "-C",
        f"cmake.define.TRAJMILL_SANITIZE={SANITIZERS[0]}",
    )
    with tempfile.TemporaryDirectory() as name:
        test_installed(Path(name), ROOT, *build, "-C", "install.strip=false", slow="hostile or moment", **variables)


def test_installed(folder: Path, package: Path, *options: str, slow: str = "", **variables: str) -> None:
    """Install a wheel or a tree in an environment in `folder`, and test it there with these environment variables.

    Of the slow tests those are run whose names have the words of `slow`.
    """
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # those of this environment
    words = ("--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall", *options)
    run(BIN / "python", "-m", "pip", "--python", python, "install", *words, package)
    shutil.copytree(ROOT / "tests", folder / "tree/tests")
    shutil.copy(ROOT / "pyproject.toml", folder / "tree")
    where = (python, "-c", "import trajmill; print(trajmill.__file__)")
    home = subprocess.check_output(where, text=True, env=os.environ | variables).strip()
    if not home.startswith(str(site)):
        raise SystemExit(f"tested {home}, not what was installed in {site}")
    tree = folder / "tree"
    words = ("--rootdir", tree, "-c", tree / "pyproject.toml", tree / "tests/python")
    run(python, *PYTEST, *words, OMP_NUM_THREADS="1", **variables)
    if slow:
        run(python, *PYTEST, *words, "-m", "slow", "-k", slow, OMP_NUM_THREADS="1", **variables)


def main() -> None:
    """Run the check that the first argument names."""
    checks: dict[str, Callable[[], object]] = {
        "lint": lint,
        "test-cpp": test_cpp,
        "docs": docs,
        "test-python": test_python,
        "sanitize": lambda: run_every({name: lambda name=name: sanitize(name) for name in SANITIZERS}),
        "wheel": test_wheel,
        "sanitize-module": test_sanitized_module,
        "neon": neon,
        "stubs": lambda: STUB.write_text(make_stub()),
    }
    every = {
        name: checks[name] for name in ("lint", "test-cpp", "docs", "sanitize", "sanitize-module", "wheel", "neon")
    }
    every["slow tests"] = lambda: test_python("-m", "slow or not slow", "--durations", "25")
    checks["all"] = lambda: run_every(every)
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        raise SystemExit(f"usage: python tools/check.py {'|'.join(checks)}")
    checks[sys.argv[1]]()


if __name__ == "__main__":
    main()
