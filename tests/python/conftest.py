"""Runs that many tests look at, made once; no test is timed; long ones begin first, failures are named at once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts jobs in the background so; their children too
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from trajmill.experiments.settings import TrainConfig

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

Make = Callable[["TrainConfig[Any]"], Path]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Gives the finished run of a config, trained in one piece; it is everyone's, to be read only."""
    from trajmill.experiments.train import train

    runs: dict[str, Path] = {}

    def made(config: TrainConfig[Any]) -> Path:
        key = repr(config)
        if key not in runs:
            runs[key] = train(config, tmp_path_factory.mktemp("whole") / "run")
        return runs[key]

    return made


@pytest.fixture(scope="session")
def _killed_runs() -> dict[tuple[str, int], Path]:
    return {}


@pytest.fixture
def broken(
    _killed_runs: dict[tuple[str, int], Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> Callable[..., Path]:
    """Gives a copy, in this test's directory, of the run of a config that was killed after some updates."""
    from tiny_runs import killed

    def made(config: TrainConfig[Any], at: int = 20) -> Path:
        key = (repr(config), at)
        if key not in _killed_runs:
            _killed_runs[key] = killed(config, tmp_path_factory.mktemp("killed") / "run", at)
        return Path(shutil.copytree(_killed_runs[key], tmp_path / "run"))

    return made


# --- the order and the voice of the suite ---


def pytest_configure(config: pytest.Config) -> None:
    """Tests that take minutes are handed out one by one, so that no process sits on a queue of them."""
    if config.option.markexpr != "not slow":
        config.option.maxschedchunk = 1
    config.pluginmanager.register(_Failures(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What learns takes longest and begins first; every other test, since each process is given two at a time."""
    if "ASAN_OPTIONS" in os.environ:
        for item in items:
            if item.get_closest_marker("unsanitized"):
                item.add_marker(pytest.mark.skip(reason="not under AddressSanitizer"))
    learning = [item for item in items if "test_learning" in item.nodeid]
    others = [item for item in items if "test_learning" not in item.nodeid]
    pairs = [item for pair in zip(learning, others, strict=False) for item in pair]
    items[:] = pairs + learning[len(others) :] + others[len(learning) :]


class _Failures:
    """Names a test that failed at once, not only in the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called in the process that the user sees, also for tests of others."""
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            when = f" ({report.when})" if report.when != "call" else ""
            terminal.write(f"\nFAILED {report.nodeid}{when}\n")
