"""Work beside the training: a process of its own, which does one piece after another while updates go on."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from trajmill.runs.processes import ProcessError, end_with_parent, without_script
from trajmill.runs.signals import STOPPING

Work = Callable[..., Any]


class Task:
    """A piece of work that has been given away."""

    def __init__(self, owner: Beside) -> None:
        self._owner = owner
        self._found: tuple[Any] | None = None

    def is_done(self) -> bool:
        """Whether `result` does not wait."""
        self._owner.receive(wait=False)
        return self._found is not None

    def result(self) -> Any:
        """What the work gave; waits for it. ProcessError if it failed, or its process has ended."""
        while self._found is None:
            self._owner.receive(wait=True)
        return self._found[0]

    def settle(self, found: Any) -> None:
        """Take the result."""
        self._found = (found,)


class Beside:
    """A process that calls `work`, which can be pickled, with what `give` is given; it ends with the block.

    It starts with the first piece of work. Signals that stop a run often reach all of its processes, and do not end
    this one: the checkpoint that the run then writes waits for its results.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._pipe: Connection | None = None
        self._process: Any = None
        self._waiting: list[Task] = []

    def give(self, *arguments: Any) -> Task:
        """Have `work` called with these arguments after all that was given before."""
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._work), daemon=True)
            resource_tracker.ensure_running()  # which `start` would do, and then unblock signals
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # so they are blocked there from its start on
            try:
                with without_script():
                    self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        try:
            self._pipe.send(arguments)
        except OSError:
            self._fail()
        self._waiting.append(Task(self))
        return self._waiting[-1]

    def receive(self, *, wait: bool) -> None:
        """Take the results that have come, at least one with `wait`."""
        assert self._pipe is not None
        while self._waiting and (wait or self._pipe.poll()):
            try:
                found, error = self._pipe.recv()
            except (EOFError, OSError):
                self._fail()
            if error is not None:
                raise ProcessError(f"what was done beside the training failed: {error}")
            self._waiting.pop(0).settle(found)
            wait = False

    def _fail(self) -> None:
        self._process.join()
        raise ProcessError(
            f"the process beside the training ended with exit code {self._process.exitcode}; if memory ran out, go on "
            f"with --resume --compute.evaluation in_place"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, work: Work) -> None:
    """Body of the process."""
    end_with_parent()
    try:
        while True:
            arguments = pipe.recv()
            try:
                pipe.send((work(*arguments), None))
            except Exception as error:
                pipe.send((None, f"{type(error).__name__}: {error}"))
    except (EOFError, OSError):
        return
