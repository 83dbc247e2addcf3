"""What CI and cibuildwheel are told agrees with what the package says of itself; the sdist has every licence."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
if not (ROOT / ".github").exists():
    pytest.skip("the package is installed; its workflows are not here", allow_module_level=True)

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
VERSIONS = [match[1] for line in PROJECT["classifiers"] if (match := re.search(r":: Python :: (3\.\d+)$", line))]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}


def steps() -> list[dict[str, Any]]:
    """Of all jobs of all workflows."""
    return [step for flow in WORKFLOWS.values() for job in flow["jobs"].values() for step in job["steps"]]


def test_wheels_are_built_for_every_python_of_the_classifiers() -> None:
    built = SETTINGS["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp{version.replace('.', '')}-*" for version in VERSIONS]
    assert PROJECT["requires-python"] == f">={VERSIONS[0]}"
    assert len(VERSIONS) == int(VERSIONS[-1][2:]) - int(VERSIONS[0][2:]) + 1, "a version is left out"


def test_tests_run_on_every_python_that_the_pins_are_for() -> None:
    pinned = re.search(
        r"wheels for Python 3\.(\d+) to 3\.(\d+)", (ROOT / "constraints.txt").read_text(encoding="utf-8")
    )
    assert pinned
    wanted = [f"3.{minor}" for minor in range(int(pinned[1]), int(pinned[2]) + 1)]
    assert WORKFLOWS["tests.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == wanted
    assert set(wanted) <= set(VERSIONS)


def test_workflows_run_what_is_there() -> None:
    """Targets of the Makefile, checks of tools/check.py, files."""
    commands = "\n".join(step["run"] for step in steps() if "run" in step)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    usage = subprocess.run([sys.executable, ROOT / "tools/check.py"], capture_output=True, text=True).stderr
    checks = set(usage.split()[-1].split("|"))
    made, checked = set(re.findall(r"\bmake (\S+)", commands)), set(re.findall(r"tools/check\.py (\S+)", commands))
    assert made >= {"test", "demo"} and made <= targets
    assert checked >= {"wheel", "lower-bounds", "hashes", "compilers"} and checked <= checks
    tested = SETTINGS["tool"]["cibuildwheel"]["test-command"]
    files = re.findall(r"--requirement (\S+)", commands) + re.findall(r"\{project\}/(\S+)", tested)
    assert len(files) == 2 and all((ROOT / name).is_file() for name in files)


def test_actions_are_pinned() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", name) for name in used)


def test_hashes_are_for_the_versions_of_the_constraints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import pins

    wanted = pins.pins(ROOT / "constraints.txt")
    assert len(wanted) > 70
    assert pins.pins(pins.HASHES) == {name: version for name, version in wanted.items() if name not in pins.UNHASHED}


def test_lower_bounds_are_read_from_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import pins

    bounds = dict(line.split("==") for line in pins.lowest_versions("train"))
    assert bounds["numpy"] == "2.0" and "torch" in bounds and "gymnasium[mujoco]" in bounds
    assert {"h5py", "xxhash", "tyro"} <= set(bounds), "of the extras that train asks for"


def test_the_sdist_has_the_licence_of_everything_that_others_wrote(tmp_path: Path) -> None:
    """Beside the file in a folder third_party; of what is compiled into the module, in licenses/."""
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    folders = {name.rpartition("/")[0] for name in names if "/third_party/" in name}
    assert folders and all(f"{folder}/LICENSE.txt" in names for folder in folders)
    assert {"LICENSE", "licenses/pybind11.txt"} <= set(names)
    assert not any(name.startswith((".ci", "build/", ".venv")) for name in names)
