"""How a build goes: what is said of its steps, how much is done at once, and how it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lamina.build.report import Stage as Progress
from lamina.build.report import StepEvent, StepReport
from lamina.errors import LaminaError


class Cancelled(Exception):
    """Another stage failed, or somebody pressed Ctrl-C: this one stops where it is."""


class Course:
    """Safe for the threads of all stages, and of all platforms. ``steps`` counts those that began."""

    def __init__(self, report: StepReport, workers: int) -> None:
        self.steps = 0
        self._report = report
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}
        self._cancelled = threading.Event()
        self._killers: list[Callable[[], None]] = []
        self._titles: dict[int, tuple[str, float]] = {}
        self._slots = threading.Semaphore(workers)

    def begin(self) -> int:
        with self._lock:
            self.steps += 1
            return self.steps

    def say(self, step: int, stage: Progress, title: str, **more: Any) -> None:
        with self._lock:
            self._report(StepEvent(number=step, stage=stage, title=title, **more))

    def say_output(self, step: int, data: bytes, *, is_error: bool) -> None:
        title, began = self._titles[step]
        self.say(step, Progress.OUTPUT, title, data=data, is_error=is_error, seconds=time.monotonic() - began)

    def note(self, text: str) -> None:
        self.say(0, Progress.NOTE, "", text=text)

    @contextmanager
    def working(self, step: int, title: str, reason: str) -> Iterator[None]:
        with self._slots:
            self.insist_going()
            began = time.monotonic()
            self._titles[step] = title, began
            self.say(step, Progress.BEGUN, title, reason=reason)
            try:
                yield
            except BaseException as error:
                # It may have failed because of that.
                is_stopped = self._cancelled.is_set() or isinstance(error, KeyboardInterrupt)
                how, text = (Progress.CANCELLED, "") if is_stopped else (Progress.FAILED, str(error))
                self.say(step, how, title, text=text, seconds=time.monotonic() - began)
                self.insist_going()
                raise
            self.say(step, Progress.DONE, title, seconds=time.monotonic() - began)

    @contextmanager
    def watch(self, kill: Callable[[], None]) -> Iterator[None]:
        with self._lock:
            self._killers.append(kill)
        try:
            self.insist_going()
            yield
        finally:
            with self._lock:
                self._killers.remove(kill)

    def cancel(self) -> None:
        self._cancelled.set()
        with self._lock:
            killers = list(self._killers)
        for kill in killers:
            try:
                kill()
            except (LaminaError, OSError):
                continue

    def insist_going(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def together(self, works: Sequence[Callable[[], None]]) -> None:
        """A thread each. The first that fails ends the others; raised is what it raised."""
        failures: list[BaseException] = []

        def safely(work: Callable[[], None]) -> None:
            try:
                work()
            except Cancelled:
                pass
            except BaseException as error:
                failures.append(error)
                self.cancel()

        threads = [threading.Thread(target=safely, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self.cancel()
            for thread in threads:
                thread.join()
            raise
        if failures:
            raise failures[0]
        self.insist_going()

    @contextmanager
    def alone_with(self, key: str) -> Iterator[None]:
        """Two stages, or two platforms, that do the same do it once."""
        with self._lock:
            lock = self._busy.setdefault(key, threading.Lock())
        with lock:
            yield
