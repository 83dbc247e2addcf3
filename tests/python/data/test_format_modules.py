"""A format is one module: the example of docs/add-a-dataset-format.md, dropped into the package, works everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trajmill.data import DatasetError, formats, load_dataset
from trajmill.experiments.datasets import convert

PAGE = Path(__file__).parents[3] / "docs/add-a-dataset-format.md"
NAME = "hopper-sac-replay-10k"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the package is tested without its documentation")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the package takes its modules from too, with the example's."""
    folder = tmp_path / "more"
    folder.mkdir()
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "jsonl.py").write_text(code)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    yield folder
    sys.modules.pop("trajmill.data.formats.jsonl", None)


def test_a_module_is_found_by_its_being_there(folder: Path, tmp_path: Path) -> None:
    assert formats.format_names() == ("d4rl", "minari", "npz", "replay", "jsonl")
    whole = load_dataset(NAME)
    _, name = convert(NAME, tmp_path / "steps.jsonl")
    assert name == "jsonl"
    again = load_dataset(tmp_path / "steps.jsonl")
    for column in ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations"):
        np.testing.assert_array_equal(getattr(again, column), getattr(whole, column))
    convert(tmp_path / "steps.jsonl", tmp_path / "back", to="d4rl")
    assert len(load_dataset(tmp_path / "back")) == len(whole)
    (tmp_path / "broken.jsonl").write_text("{\n")
    with pytest.raises(DatasetError, match=r"broken\.jsonl: .*JSON"):
        load_dataset(tmp_path / "broken.jsonl")
    with pytest.raises(DatasetError, match="exists"):
        convert(NAME, tmp_path / "steps.jsonl")


def test_the_command_line_offers_it(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from trajmill.data import formats; formats.__path__.append(sys.argv.pop(1)); "
        "from trajmill.cli import main; sys.exit(main())"
    )
    words = [sys.executable, "-c", script, folder, "dataset", "convert", NAME, tmp_path / "out", "--to"]
    done = subprocess.run([*words, "jsonl", "--subset", "first:5"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}: 5 rows in jsonl format\n"), done.stderr
    assert len((tmp_path / "out").read_text().splitlines()) == 5
    assert subprocess.run([*words, "csv"], capture_output=True).returncode == 2


@pytest.mark.parametrize("name", formats.format_names())
def test_every_module_keeps_the_contract(name: str) -> None:
    module = formats.format_named(name)
    assert module.__doc__ and module.read.__doc__
    assert (name in formats.format_names(written=True)) == hasattr(module, "write")
    assert not hasattr(module, "write") or module.write.__doc__
    assert all(suffix == "" or suffix.startswith(".") for suffix in module.SUFFIXES)
    assert isinstance(module.ORDERED, bool)
    assert isinstance(module.recognizes(Path("absent")), bool)
    with pytest.raises(DatasetError, match="absent: "):
        module.read(Path("absent"), fix_timeouts=True, memory_budget=1)
