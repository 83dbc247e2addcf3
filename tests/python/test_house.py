"""The house: methods are named in their own files alone, imports go down and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import trajmill
from trajmill.algorithms import method_named, method_names

PACKAGE = Path(trajmill.__file__).parent
ROOT = Path(__file__).parents[2]
MODULES = {
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""name -> file"""

# --- no method is named by what is for all of them ---

MAY_NAME = ("algorithms/", "models/", "studies/", "experiments/demo.py", "cli/demo.py")
"""methods themselves, the networks they are made of, what papers did with them, and the demonstration of some"""
OF_A_NETWORK = re.compile(r"^trajmill\.models(\.|$)")
"""Networks are imported from here by tables that make their inputs; one is called as the method it was made for."""
OLDER = ("dt", "cql", "lm")
"""what methods were called"""
EVERYDAY = ("MDP", "Synthetic")
"""labels of a paper's figures that are also words of the house"""
LABELS = [label for label in (method_named(name).LABEL for name in method_names()) if label not in EVERYDAY]
# a dataset may be called by what recorded it: hopper-sac-replay
NAMES = re.compile(
    "|".join(
        rf"(?<![a-z]){re.sub('[ _-]', '[ _-]', re.escape(name).replace(chr(92) + ' ', ' '))}(?![a-z]|-replay)"
        for name in sorted({*method_names(), *LABELS, *OLDER})
    ),
    re.IGNORECASE,
)
TOOLS = [path for folder in ("benchmarks", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
MAY_NAME_OF_TOOLS = (
    "benchmarks/baselines/",
    "benchmarks/throughput/goals.py",
    "benchmarks/bench_online.py",
    "tools/make_authors_runs.py",
)
"""other people's programs, what ours have to reach, one method beside such a program, and other people's runs"""
SCRIPTS = [path for path in (ROOT / "Makefile", *sorted((ROOT / ".ci").rglob("*"))) if path.is_file()]


def words(name: str) -> str:
    """An identifier with its words apart: ``CQLConfig`` and ``train_cql`` are about CQL, ``width`` not about DT."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)


def named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of everything in a file that names something; docstrings and comments do not count."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield line, node.value
        elif isinstance(node, ast.ImportFrom) and OF_A_NETWORK.match(node.module or ""):
            yield from ((line, words(alias.asname)) for alias in node.names if alias.asname)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield line, getattr(node, "module", None) or ""
            for alias in node.names:
                yield line, words(alias.name)
                yield line, words(alias.asname or "")
        else:
            for field in ("id", "attr", "arg", "name"):
                if isinstance(value := getattr(node, field, None), str):
                    yield line, words(value)


def common(paths: Iterable[Path], above: Path, exceptions: tuple[str, ...]) -> list[Path]:
    """Files that are for every method."""
    return [path for path in paths if not path.relative_to(above).as_posix().startswith(exceptions)]


@pytest.mark.parametrize(
    "path", common(MODULES.values(), PACKAGE, MAY_NAME) + common(TOOLS, ROOT, MAY_NAME_OF_TOOLS), ids=str
)
def test_only_their_own_files_name_methods(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {f"{path}:{line}: {text!r}" for line, text in named(tree) if NAMES.search(text)}
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("path", SCRIPTS, ids=str)
def test_no_script_names_a_method(path: Path) -> None:
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if NAMES.search(line)]
    assert not found, "\n".join(found)


def test_files_of_every_kind_are_looked_at() -> None:
    looked_at = {path.relative_to(PACKAGE).parts[0] for path in common(MODULES.values(), PACKAGE, MAY_NAME)}
    assert looked_at >= {"cli", "core", "corpus", "data", "evaluation", "experiments", "replay", "report", "runs"}
    assert "training" in looked_at and not looked_at & {"algorithms", "models", "studies"}
    if TOOLS:  # not beside an installed package
        assert {"benchmarks", "tools"} == {path.relative_to(ROOT).parts[0] for path in TOOLS}
        assert {"Makefile", "run"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import trajmill.algorithms.cql", True),
        ("from trajmill.algorithms import decision_transformer as one", True),
        ("from trajmill.models.decision_transformer import Windows", False),
        ("from trajmill.models.decision_transformer import Windows as DTWindows", True),
        ("def train_cql(): ...", True),
        ("class CQLConfig: ...", True),
        ("x.dt", True),
        ("f(lm=1)", True),
        ("x = 'pretrain dt --text'", True),
        ("x = f'a Decision Transformer of {y}'", True),
        ("x = 'td3_bc'", True),
        ("x = {'TD3+BC': 3}", True),
        ("x = 'hopper-sac-replay-10k'", False),
        ("x = 'train sac --out hopper'", True),
        ("x = 'td3-bc'", True),
        ("tm.MDP('synthetic')", False),
        ("width = adept(film)", False),
        ('"""CQL and all."""\nx = 1\n"""a decision_transformer"""', False),
    ],
)
def test_a_name_is_seen_wherever_it_stands(code: str, names: bool) -> None:
    assert any(NAMES.search(text) for _, text in named(ast.parse(code))) == names


# --- what is gone, and what imports what ---


def test_pipelines_are_gone() -> None:
    assert not (PACKAGE / "pipelines").exists()
    users = [name for name, path in MODULES.items() if "trajmill.pipelines" in path.read_text(encoding="utf-8")]
    assert users == []


def imports(name: str) -> Iterator[str]:
    """Modules of the package that a module needs as it is imported, not only for types or later in a function."""
    todo: list[ast.AST] = [ast.parse(MODULES[name].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in MODULES:
            for alias in node.names:  # a name of the module, or a module in it
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += node.decorator_list if not isinstance(node, ast.Lambda) else []
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def test_nothing_is_imported_in_a_circle() -> None:
    needs = {name: sorted(set(imports(name)) - {name}) for name in MODULES}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in needs[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in needs:
        visit(name, ())
    assert len(done) == len(MODULES) > 100


FLOORS = ("cli", "bench", "studies", "experiments", "report", "runs", "evaluation | algorithms", "replay", "training")
FLOORS += ("models", "data | corpus", "laws", "core")


def test_the_floors_are_those_that_import_linter_checks() -> None:
    """House, section 2; `make lint` looks at every import."""
    configuration = PACKAGE.parents[1] / "pyproject.toml"
    if not configuration.exists():
        pytest.skip("the package is installed; its configuration is not here")
    import tomllib

    layers, *_ = tomllib.loads(configuration.read_text())["tool"]["importlinter"]["contracts"]
    assert layers["layers"][: len(FLOORS)] == list(FLOORS)
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == {name for floor in FLOORS for name in floor.split(" | ")}


def test_imports_go_down() -> None:
    """The same in short, also where import-linter is not at hand."""
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor.split(" | ")}
    for name in MODULES:
        ours = name.split(".")[1:2]
        for other in imports(name):
            theirs = other.split(".")[1:2]
            if ours and theirs and ours != theirs and ours[0] in level and theirs[0] in level:
                assert level[ours[0]] < level[theirs[0]], f"{name} imports {other}"


# --- one place for each thing that was once in several ---


def calls(tree: ast.Module, *names: str) -> bool:
    """Whether a file calls ``x.name(one_argument)``: strings are replaced with two, files with one."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
        and len(node.args) == 1
        and not node.keywords
        for node in ast.walk(tree)
    )


def imports_any(tree: ast.Module, *modules: str) -> bool:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [getattr(node, "module", None) or alias.name for node in nodes for alias in node.names]
    return any(name == module or name.startswith(f"{module}.") for name in found for module in modules)


def says(tree: ast.Module, *texts: str) -> bool:
    """Whether one of the texts is a string of a file."""
    return any(isinstance(node, ast.Constant) and node.value in texts for node in ast.walk(tree))


def is_keyed_by_tasks(tree: ast.Module) -> bool:
    """Whether a file has a table of what holds for single tasks."""
    name = re.compile(r"(hopper|halfcheetah|walker2d|ant)(-v\d)?", re.IGNORECASE)
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    return any(isinstance(key, ast.Constant) and name.fullmatch(str(key.value)) for key in keys)


ONE_PLACE: dict[str, tuple[Callable[[ast.Module], bool], set[str]]] = {
    "processes": (
        lambda tree: imports_any(tree, "multiprocessing", "concurrent.futures.process") or says(tree, "spawn", "fork"),
        {"runs/processes.py", "runs/beside.py"},
    ),
    "files of a run": (
        lambda tree: says(tree, "result.json", "metrics.jsonl", "environment.json"),
        {"runs/reading.py"},
    ),
    "facts of tasks": (  # beside their physics, and what a search takes to solve them
        is_keyed_by_tasks,
        {"data/environments.py", "evaluation/environments.py", "experiments/random_search.py"},
    ),
    "whole files": (  # beside the writers that lock, and a directory with another name in earlier versions
        lambda tree: calls(tree, "replace", "rename"),
        {"core/files.py", "corpus/storage.py", "data/download.py", "replay/replay_file.py", "runs/processes.py"},
    ),
    "hashes of files": (lambda tree: "file_digest" in ast.dump(tree), {"core/files.py"}),
    "counts of cores": (  # one of them before anything is installed
        lambda tree: "sched_getaffinity" in ast.dump(tree),
        {"core/limits.py", "core/diagnosis.py"},
    ),
    "codebooks": (  # a chain's own; an exporter writes either
        lambda tree: "state_codebook" in ast.dump(tree),
        {"core/mdp.py", "corpus/export/d4rl.py"},
    ),
}


@cache
def syntax_trees() -> dict[str, ast.Module]:
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in MODULES.values()}


@pytest.mark.parametrize("what", ONE_PLACE)
def test_there_is_one_place_for(what: str) -> None:
    has, places = ONE_PLACE[what]
    trees = syntax_trees()
    assert {name for name, tree in trees.items() if has(tree)} <= places
    assert any(has(trees[place]) for place in places)


def test_files_of_tests_have_names_of_their_own() -> None:
    """Pytest takes two of one name for one file, whichever folders they are in."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
