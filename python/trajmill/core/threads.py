"""Threads that a signal handler may interrupt, and use others of: ``concurrent.futures`` has one lock for all pools."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

ResultT = TypeVar("ResultT")


class Task(Generic[ResultT]):
    """A call that one of the threads makes."""

    def __init__(self, call: Callable[[], ResultT]) -> None:
        self._call = call
        self._outcome: SimpleQueue[tuple[ResultT] | BaseException] = SimpleQueue()

    def run(self) -> None:
        """Make the call."""
        try:
            self._outcome.put((self._call(),))
        except BaseException as error:  # whoever asks for the result gets it
            self._outcome.put(error)

    def result(self) -> ResultT:
        """What the call gave, or raise what it raised; waits for it. To be asked once."""
        outcome = self._outcome.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome[0]


class Threads:
    """Up to `count` threads, which make calls in the order in which they are given.

    Leaving the block waits for all of them; after an exception for those under way, and the others are dropped.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._begun = 0
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()

    def submit(self, call: Callable[[], ResultT]) -> Task[ResultT]:
        """Have one of the threads make the call; RuntimeError if the system gives no thread at all."""
        task = Task(call)
        if self._begun < self._count:
            try:
                _thread.start_new_thread(self._work, ())
                self._begun += 1
            except RuntimeError:
                if not self._begun:
                    raise
                self._count = self._begun
        self._tasks.put(task.run)
        return task

    def _work(self) -> None:
        while (run := self._tasks.get()) is not None:
            run()
            del run  # and what it holds
        self._ended.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            with suppress(Empty):
                while True:
                    self._tasks.get_nowait()
        for _ in range(self._begun):
            self._tasks.put(None)
        for _ in range(self._begun):
            self._ended.get()
