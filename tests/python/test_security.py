"""What no part of trajmill does with what others made: unpickle it, run it, or let it steer a terminal.

Files that are made to do harm are in data/test_hostile.py; requests in cli/test_explore.py.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajmill as tm
from trajmill import laws
from trajmill.cli import main, session
from trajmill.core.display import PlainProgress
from trajmill.core.json_input import DEEPEST, parse_json, read_json
from trajmill.core.plain_text import plain_text
from trajmill.corpus.export.tokens import CorpusError

PACKAGE = Path(tm.__file__).parent
ROOT = Path(__file__).parents[2]
SOURCES = {
    path.relative_to(above).as_posix(): path
    for above, folders in ((PACKAGE.parent, ("trajmill",)), (ROOT, ("benchmarks", "tools", "examples")))
    for folder in folders
    for path in sorted((above / folder).rglob("*.py"))
}
"""name -> file, of the package and of what lies beside it in the source tree"""

# --- nothing that others made is run ---

MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"),  # run code
    *("yaml", "ruamel", "xml", "lxml"),  # may run code, or grow without bound
    *("tarfile", "shutil.unpack_archive"),  # may write anywhere
    *("code", "codeop", "commands", "pty"),
}
CALLS = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "tempfile.mktemp", "shutil.unpack_archive"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "extractall", "extract"),
}
ALLOWED = {
    ("trajmill/corpus/export/tokens.py", "import pickle"): "nanoGPT reads meta.pkl, which is written here",
    ("trajmill/corpus/export/tokens.py", "pickle.dumps"): "the same: nothing is loaded",
    ("tools/wheels.py", "archive.extract"): "the wheel that was built just before",
    ("tools/wheels.py", "archive.extractall"): "the same",
}


def dotted(node: ast.expr) -> str:
    """``np.load`` of a call's function; ``?.load`` if what it belongs to is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangers(tree: ast.Module) -> Iterator[str]:
    """Everything in a file that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or alias.name for alias in node.names]
            yield from (f"import {name}" for name in names if name in MODULES or name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called, last = dotted(node.func), dotted(node.func).rpartition(".")[2]
        given = {word.arg: word.value for word in node.keywords}
        value: Callable[[str], Any] = lambda name, given=given: getattr(given.get(name), "value", None)  # noqa: E731
        if called in CALLS or (last in ("extractall", "extract", "unpack_archive")) or called.startswith("pickle."):
            yield called
        if called == "torch.load" and value("weights_only") is not True:
            yield "torch.load without weights_only=True"
        if last in ("load", "read_array", "memmap", "open_memmap", "fromfile") and value("allow_pickle") not in (
            None,
            False,
        ):
            yield f"{called} with allow_pickle"
        if called == "npy.read_array" and value("allow_pickle") is not False:
            yield f"{called} without allow_pickle=False"
        if value("shell") not in (None, False):
            yield f"{called} with shell"
        if value("trust_remote_code") not in (None, False):
            yield f"{called} with trust_remote_code"


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(name: str) -> None:
    found = set(dangers(ast.parse(SOURCES[name].read_text(encoding="utf-8"))))
    assert found == {what for place, what in ALLOWED if place == name}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", {"import pickle"}),
        ("from pickle import loads", {"import pickle"}),
        ("import xml.etree.ElementTree", {"import xml.etree.ElementTree"}),
        ("pickle.loads(x)", {"pickle.loads"}),
        ("eval(x)", {"eval"}),
        ("model.eval()", set()),
        ("Model().eval()", set()),
        ("re.compile(x)", set()),
        ("torch.load(path)", {"torch.load without weights_only=True"}),
        ("torch.load(path, weights_only=False)", {"torch.load without weights_only=True"}),
        ("torch.load(path, weights_only=True)", set()),
        ("np.load(path)", set()),
        ("np.load(path, allow_pickle=True)", {"np.load with allow_pickle"}),
        ("npy.read_array(file)", {"npy.read_array without allow_pickle=False"}),
        ("subprocess.run(x, shell=True)", {"subprocess.run with shell"}),
        ("zipfile.ZipFile(x).extractall()", {"?.extractall"}),
    ],
)
def test_each_danger_is_seen(code: str, found: set[str]) -> None:
    assert set(dangers(ast.parse(code))) == found


def asks_only_for_its_name(path: Path) -> bool:
    """Whether a file needs nothing of ``socket`` but the name of this machine."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    used = {dotted(node) for node in nodes if isinstance(node, ast.Attribute)}
    return {each for each in used if each.startswith("socket.")} == {"socket.gethostname"}


SOCKETS = {
    "trajmill/cli/explorer/server.py": "trajmill explore, on 127.0.0.1 alone",
    "trajmill/data/download.py": "trajmill dataset download",
}


def test_few_files_can_open_a_connection_and_the_policy_names_their_commands() -> None:
    """Beside fsspec and Ray, which are asked for by a URL or by --engine."""
    nets = ("socket", "http.server", "http.client", "urllib.request", "requests", "aiohttp", "websockets", "ftplib")
    found = set()
    for name, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or alias.name for alias in node.names]
                found |= {name for each in names if each in nets and not asks_only_for_its_name(path)}
    assert found == set(SOCKETS)
    policy = ROOT / "SECURITY.md"
    if policy.exists():
        text = policy.read_text(encoding="utf-8")
        assert all(f"`{command.partition(',')[0]}`" in text for command in SOCKETS.values())


# --- JSON ---

OWN_JSON = {
    "trajmill/core/json_input.py": "the one place",
    "trajmill/corpus/build.py": "a spec from this program's other processes",
    "trajmill/studies/records.py": "a file of the package",
    "trajmill/cli/explorer/worker.py": "between two processes of this program",
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("trajmill/")])
def test_json_of_others_is_read_at_one_place(name: str) -> None:
    """Where size and depth are limited; ``json.loads(json.dumps(...))`` makes plain values."""
    calls = [
        node for node in ast.walk(ast.parse(SOURCES[name].read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]
    read = [call for call in calls if dotted(call.func) in ("json.loads", "json.load")]
    foreign = [
        call.lineno
        for call in read
        if not (isinstance(call.args[0], ast.Call) and dotted(call.args[0].func) == "json.dumps")
    ]
    assert bool(foreign) == (name in OWN_JSON), f"{name}: lines {foreign}"


def test_json_has_limits_of_size_and_depth(tmp_path: Path) -> None:
    fits = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(fits) == parse_json(fits.encode()) == json.loads(fits)
    flat = json.dumps([[1]] * 1000)
    assert parse_json(flat) == [[1]] * 1000
    for text in (f"[{fits}]", "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500):
        for given in (text, text.encode()):
            with pytest.raises(ValueError, match=f"nested more than {DEEPEST} deep"):
                parse_json(given)
    with pytest.raises(ValueError, match="12 bytes, more than the 11 allowed"):
        parse_json('"0123456789"', largest=11)
    path = tmp_path / "x.json"
    path.write_text('"0123456789"')
    assert read_json(path, largest=12) == "0123456789"
    with pytest.raises(ValueError, match="more than the 11 bytes"):
        read_json(path, largest=11)


DEEP = "[" * 100_000


def safetensors(path: Path, **metadata: str) -> Path:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def of_a_corpus(path: Path) -> object:
    (path / "manifest.json").write_text(DEEP)
    return tm.open_corpus(path)


def of_a_run(path: Path) -> object:
    from trajmill.runs.reading import read_object

    (path / "config.json").write_text(DEEP)
    return read_object(path / "config.json")


def of_a_text(path: Path) -> object:
    from trajmill.corpus.text import open_text

    (path / "text.json").write_text(DEEP)
    return open_text(path, 8)


def of_a_checkpoint(path: Path) -> object:
    from trajmill.training.checkpoint import FORMAT, digest, read_checkpoint

    file = safetensors(path / "x.safetensors", format=FORMAT, trajmill=DEEP, sha256=digest({}, DEEP))
    return read_checkpoint(file)


def of_a_gpt2(path: Path) -> object:
    from trajmill.models.gpt2_files import _json

    (path / "config.json").write_text(DEEP)
    return _json(path / "config.json")


def of_linear_policies(path: Path) -> object:
    from trajmill.experiments.linear_policies import read_policies

    return read_policies(safetensors(path / "x.safetensors", trajmill=DEEP), "Hopper-v4")


def of_a_minari_dataset(path: Path) -> object:
    from trajmill.data import read_minari

    (path / "data").mkdir()
    (path / "data/metadata.json").write_text(DEEP)
    (path / "data/main_data.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return read_minari(path)


def of_a_law(path: Path) -> object:
    return laws.find("dyck").from_spec(laws.find("dyck").parse([f"pairs={DEEP}"]))


@pytest.mark.parametrize(
    "read",
    [of_a_corpus, of_a_run, of_a_text, of_a_checkpoint, of_a_gpt2, of_linear_policies, of_a_minari_dataset, of_a_law],
)
def test_deep_json_is_refused_in_words_wherever_it_is(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError, CorpusError)) as told:
        read(tmp_path)
    assert not isinstance(told.value, RecursionError)
    assert "deep" in str(told.value) or "integer" in str(told.value)


def test_deep_json_of_fields_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep.json").write_text(DEEP)
    assert main(["law", "dyck", "--fields", str(tmp_path / "deep.json")]) == 2
    assert "cannot be read: it is nested more than 64 deep" in capsys.readouterr().err


# --- names that would steer a terminal ---

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\r\x00[/bold][red]"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\r\x00[/bold][red]"


def steers(text: str) -> bool:
    return any(not each.isprintable() and each not in "\n\t" for each in text)


def test_what_is_not_printable_is_shown_as_an_escape() -> None:
    assert plain_text(HOSTILE) == SHOWN and not steers(SHOWN)
    assert plain_text("Größe ≤ 3\n\tπ") == "Größe ≤ 3\n\tπ"
    assert plain_text("a\nb", keep="") == r"a\nb"
    assert plain_text("\udc80") == r"\udc80"


def test_messages_do_not_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("\x00", "").replace("/", "")
    for words in (["dataset", "info", name], ["corpus", "info", name], ["report", name], [name], ["law", name]):
        monkeypatch.chdir(tmp_path)
        assert main(words) in (1, 2)
        err = capsys.readouterr().err
        assert r"\x1b[2J" in err and not steers(err), words


def test_a_dataset_of_a_hostile_name_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x\x1b[2J[red].hdf5"
    with h5py.File(path, "w") as file:
        for name, width in (("observations", 3), ("actions", 2)):
            file[name] = np.linspace(-0.5, 0.5, 60 * width, dtype=np.float32).reshape(60, width)
        file["rewards"] = np.linspace(0, 1, 60, dtype=np.float32)
        file["terminals"], file["timeouts"] = np.zeros(60, bool), np.arange(60) % 20 == 19
        file["infos/\x1b[2J[/bold]\u202e"] = file["rewards"][:]
        file["not-read\x1b[2J[/bold]"] = file["rewards"][:]
    assert main(["dataset", "info", str(path), "--quiet"]) == 0
    told = capsys.readouterr()
    assert not steers(told.out + told.err)
    assert r"\x1b[2J[/bold]" in (told.out + told.err).replace("\n", "")


def test_warnings_and_progress_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    with session._plain_warnings():
        warnings.simplefilter("always")
        warnings.warn(HOSTILE, stacklevel=1)
    assert SHOWN in capsys.readouterr().err
    stream = io.StringIO()
    PlainProgress(stream)(f"{HOSTILE}\n", 1, 1, "rows")
    assert SHOWN + r"\n: 1 / 1 rows" in stream.getvalue() and not steers(stream.getvalue())


def test_progress_on_a_terminal_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from trajmill.core.display import RichProgress

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with RichProgress() as progress:
        progress(HOSTILE, 1, 1, "rows")
        (task,) = progress.tasks
        assert task.description == SHOWN
        drawn = progress.columns[0].render(task)
    assert str(drawn) == SHOWN
