"""The command line: parses, calls one function, prints.

This file decides which command is meant and what the exit code is; it imports neither tyro nor rich nor torch, so that
``trajmill --version`` and ``trajmill doctor`` answer even where those are missing.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from types import FrameType
from typing import Any, TextIO

from trajmill import __version__
from trajmill.core.plain_text import plain_text

LEAST_COLUMNS = 40
"""narrower terminals get lines of this width: help for one word a line would take gigabytes and minutes"""
DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


_RESUME = "the last checkpoint is kept: give the same command with --resume to continue from it"
_AGAIN = "nothing half-done is left: give the same command again"
_AGENT = "an agent's last checkpoint is kept: give the same command again to continue from it"
_SHARDS = "finished shards are kept: give the same command again to continue from them"
_RUNS = "finished runs and the last checkpoint are kept: give the same command again to continue from them"
_BYTES = "bytes already downloaded are kept: give the same command again to continue from them"
COMMANDS: dict[str, tuple[str, str, str]] = {
    "generate": ("generate mdp|markov|iid|...", "generate synthetic data into a directory", _SHARDS),
    "law": ("law dyck|...", "look at a law of tokens: rows, best loss, rate", _AGAIN),
    "explore": ("explore", "choose a law in the browser: rows, best loss, its command", _AGAIN),
    "corpus": ("corpus info|verify|export|...", "look at a corpus, check every bit, export it", _AGAIN),
    "collect": ("collect ENV", "make a dataset in MuJoCo: random, medium, replay, expert", _AGENT),
    "dataset": ("dataset list|info|...", "look at a dataset, check, convert, download it", _BYTES),
    "quality": ("quality REAL SYNTHETIC", "how good synthetic transitions are, beside real ones", _AGAIN),
    "upsample": ("upsample DATASET --count N", "make many more transitions like those of a dataset", _SHARDS),
    "train": ("train METHOD", "train a method, many seeds at once, and score its policies", _RESUME),
    "sweep": ("sweep METHOD --grid ...", "train a method with every combination of some settings", _RUNS),
    "evaluate": ("evaluate RUN", "score a trained policy in MuJoCo", _AGAIN),
    "predict": ("predict RUN", "measure a trained model of the dynamics", _AGAIN),
    "export": ("export RUN DEST", "write what a run has learned in another program's format", _AGAIN),
    "reproduce": ("reproduce NAME|--list", "repeat tables and figures of a paper, beside its numbers", _RUNS),
    "report": ("report RUN...", "write one self-contained HTML page about runs", _AGAIN),
    "demo": ("demo", "a policy that beats its data, in minutes", "the same command starts afresh"),
    "bench": ("bench sampler|corpus|...", "measure throughput, beside this machine's limits", _AGAIN),
    "doctor": ("doctor", "what this installation can do, and what is missing", _AGAIN),
}
"""words and summary in the overview, and what to do after Ctrl-C; a command lives in the module of its name"""
OVERVIEW = """\
usage: trajmill COMMAND [OPTIONS]

Generate synthetic data for reinforcement learning at machine speed, and repeat the papers that train on it.

commands
{commands}
options of every command
  --quiet               no progress, only the result
  --json                the result as one JSON object on stdout
  -h, --help            what a command does: its defaults, ranges and sources

trajmill --version prints the version, and nothing else.

examples
  trajmill demo --out runs/demo
  trajmill generate markov --out corpus --state-count 100 --sequence-count 1000000
  trajmill generate mdp --out transitions
  trajmill corpus verify corpus
  trajmill collect hopper --kind medium-replay --out hopper-ars-medium-replay.hdf5
  trajmill dataset info hopper-sac-replay-10k
  trajmill upsample hopper-sac-replay-10k --count 1M --out runs/more
  trajmill train METHOD --dataset hopper-sac-replay-10k --out runs/hopper
  trajmill sweep METHOD --datasets hopper-sac-replay-10k --grid method.discount 0.9 0.99 --out runs/sweep
  trajmill evaluate runs/hopper --episode-count 100
  trajmill reproduce a-table-6 --quick
  trajmill report runs/hopper runs/baseline --out report.html
  trajmill bench sampler

Exit codes: 0 done, 1 failure with one message, 2 wrong usage, 130 interrupted (Ctrl-C), 143 terminated.
TRAJMILL_DEBUG=1 shows the traceback behind a message.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _settle_streams()
    own = sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper)
    with redirect_stderr(_forgiving(sys.stderr)) if own else nullcontext():
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        with _terminable():
            code = _dispatch(words)
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # from the parser, which has said why
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        try:
            sys.stdout.flush()
        except OSError:  # the result cannot be printed: what is left of it would fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if os.environ.get("TRAJMILL_DEBUG") == "1":
            traceback.print_exc()
        _say(_message(error))
        return FAILED


def _settle_streams() -> None:
    """Make closed streams, characters that a terminal does not know and widths of nothing harmless."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would be taken for it
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.errors == "strict" or codecs.lookup(stream.encoding).name == "ascii":  # as of LC_ALL=C
            stream.reconfigure(errors="replace")
    columns = shutil.get_terminal_size().columns
    if columns < LEAST_COLUMNS or os.environ.get("COLUMNS") == "0":
        os.environ["COLUMNS"] = str(max(LEAST_COLUMNS, columns))


class _Forgiving(io.FileIO):
    """Standard error, whose loss (a closed pipe, a full disk, a terminal that is gone) ends no work."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def _forgiving(stream: TextIO) -> TextIO:
    raw = io.BufferedWriter(_Forgiving(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """End at SIGTERM, and where the terminal is lost, as at Ctrl-C: with a message, and with the processes started.

    Only a main thread can do so. A SIGHUP that is ignored, as under nohup, stays so.
    """

    def end(number: int, _: FrameType | None) -> None:
        stop = KeyboardInterrupt()
        stop.signal = number  # type: ignore[attr-defined]
        raise stop

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _dispatch(words: list[str]) -> int:
    quiet, as_json = "--quiet" in words, "--json" in words  # before the command, after it, among its words
    words = [word for word in words if word not in ("--quiet", "--json")]
    if not words or words[0] in ("-h", "--help", "help"):
        lines = (f"  {usage:<31}{summary}\n" for usage, summary, _ in COMMANDS.values())
        print(OVERVIEW.format(commands="".join(lines)), end="")
        return DONE if words else USAGE
    if words[0] == "--version":
        print(__version__)
        return DONE
    if words[0] not in COMMANDS:
        _say(f"there is no command {words[0]!r}; commands are {', '.join(COMMANDS)}; see trajmill --help")
        return USAGE
    if words[0] == "doctor":
        from trajmill.cli import doctor

        return doctor.run(words[1:], as_json=as_json)
    try:
        from trajmill.cli.session import UsageError, run_command

        module = importlib.import_module(f"trajmill.cli.{words[0]}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trajmill"):
            raise
        extra = "cli" if error.name in ("tyro", "rich") else "train"
        _say(f"`trajmill {words[0]}` needs {error.name}, which is not installed: pip install 'trajmill[{extra}]'")
        return FAILED
    try:
        run_command(module, words, quiet=quiet, as_json=as_json)
    except UsageError as error:
        print(plain_text(str(error)), file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as stop:
        _say(f"{str(stop) or 'interrupted'}; {COMMANDS[words[0]][2]}")
        return 128 + getattr(stop, "signal", signal.SIGINT)
    return DONE


def _message(error: Exception) -> str:
    """One line for people; a bug's class is named, for the report it deserves."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError | OSError | RuntimeError):
        return text
    return f"{type(error).__name__}: {text} (set TRAJMILL_DEBUG=1 for the traceback)"


def _say(message: str) -> None:
    print(plain_text(f"trajmill: {message}"), file=sys.stderr)
