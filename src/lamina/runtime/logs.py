"""A container's log: one JSON object a line, as docker's json-file driver writes it.

``{"log": "text\\n", "stream": "stdout", "time": "2026-11-25T10:00:00.123456789Z"}``. A line of the
container's is one of the log's, cut at 16 KiB as docker cuts it. With ``max-size`` the file is turned over:
``log``, ``log.1``, and so on up to ``max-file``.
"""

from __future__ import annotations

import errno
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamina.errors import InvalidInput, Unsupported
from lamina.values import dataclass

_LINE = 16 << 10
DRIVERS = ("json-file", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    """``max_size`` is bytes, 0 for no limit."""

    is_kept: bool = True
    max_size: int = 0
    max_files: int = 1


def log_policy(driver: str, options: Sequence[str]) -> LogPolicy:
    if driver not in DRIVERS:
        raise Unsupported(f"--log-driver {driver}: there are {' and '.join(DRIVERS)}; without a daemon, "
                          "a container's output can also go through a pipe")
    size, files = 0, 1
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or name not in ("max-size", "max-file"):
            raise InvalidInput(f"--log-opt: expected max-size=10m or max-file=3, got {text!r}")
        if name == "max-size":
            size = _size(value)
        elif value.isascii() and value.isdigit() and len(value) < 5 and 0 < int(value) <= 1000:
            files = int(value)
        else:
            raise InvalidInput(f"--log-opt max-file: expected a number from 1 to 1000, got {value!r}")
    if files > 1 and not size:
        raise InvalidInput("--log-opt max-file: it needs max-size as well")
    return LogPolicy(is_kept=driver != "none", max_size=size, max_files=files)


def _size(text: str) -> int:
    """Docker counts these in 1,024s."""
    factors = {"k": 10, "m": 20, "g": 30}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in factors else (text, "")
    if not number.isascii() or not number.isdigit() or len(number) > 15 or not int(number):
        raise InvalidInput(f"--log-opt max-size: expected a size such as 10m, got {text!r}")
    return int(number) << factors.get(unit, 0)


class LogWriter:
    """For the monitor. ``end`` writes what has no line's end yet."""

    def __init__(self, path: Path, policy: LogPolicy) -> None:
        self._path = path
        self._policy = policy
        self._descriptor = -1
        self._size = 0
        self._held: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        if policy.is_kept:
            self._open()

    def write(self, stream: str, data: bytes) -> None:
        if not self._policy.is_kept:
            return
        held = self._held[stream]
        held += data
        lines = []
        while True:
            end = held.find(b"\n", 0, _LINE)
            if end < 0 and len(held) <= _LINE:
                break
            count = end + 1 if end >= 0 else _whole(held, _LINE)
            lines.append(bytes(held[:count]))
            del held[:count]
        if lines:
            self._append(stream, lines)

    def end(self) -> None:
        if not self._policy.is_kept:
            return
        for stream, held in self._held.items():
            if held:
                self._append(stream, [bytes(held)])
                held.clear()
        os.close(self._descriptor)
        self._policy = LogPolicy(is_kept=False)

    def _append(self, stream: str, lines: Sequence[bytes]) -> None:
        stamp = _now()
        pending = bytearray()
        for line in lines:
            document = {"log": line.decode("utf-8", "replace"), "stream": stream, "time": stamp}
            spelled = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
            text = f"{spelled}\n".encode("utf-8", "replace")
            size = self._size + len(pending)
            if self._policy.max_size and size + len(text) > self._policy.max_size and size:
                self._put(pending)
                self._turn_over()
                pending.clear()
            pending += text
        self._put(pending)

    def _put(self, text: bytearray) -> None:
        """All of it or, where the disk is full, nothing: a container does not end for want of a log."""
        view = memoryview(bytes(text))
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            os.ftruncate(self._descriptor, self._size)  # half a line would spoil the next one
            return
        self._size += len(text)

    def _open(self) -> None:
        # Never through a symlink: the directory is ours, and a log that is somebody else's file is an attack.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _turn_over(self) -> None:
        os.close(self._descriptor)
        for number in range(self._policy.max_files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                os.replace(newer, older)
        if self._policy.max_files == 1:
            self._path.unlink(missing_ok=True)
        self._open()


def _whole(data: bytearray, count: int) -> int:
    """``count``, or a little less, so that no character of UTF-8 is cut in two."""
    return next((end for end in range(count, count - 4, -1) if data[end] & 0xC0 != 0x80), count)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """``text`` has its line's end, if the container wrote one. ``time`` is RFC 3339 with nanoseconds."""

    stream: str
    text: str
    time: str


def read_log(path: Path, end: int = -1) -> Iterator[LogLine]:
    """All that is kept, oldest first, up to the position ``end`` of the newest file.

    Lines that a power cut has torn are left out.
    """
    older = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda each: -int(each.suffix[1:]))
    for each in (*older, path):
        try:
            descriptor = os.open(each, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with open(descriptor, "rb") as file:
            lines = file if each != path or end < 0 else io.BytesIO(file.read(end))
            yield from filter(None, map(parse_line, lines))


def parse_line(line: bytes) -> LogLine | None:
    try:
        document = json.loads(line)
        return LogLine(stream=document["stream"], text=document["log"], time=document["time"])
    except (ValueError, KeyError, TypeError):
        return None


class LogFollower:
    """The lines that are added, through turnings over; ``read`` gives what is new since it was asked last."""

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._descriptor = -1
        self._held = b""
        self._open()
        if self._descriptor >= 0 and not from_start:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def position(self) -> int:
        """Where in the newest file :meth:`read` goes on."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR) if self._descriptor >= 0 else 0

    def read(self) -> list[LogLine]:
        if self._descriptor < 0:
            self._open()
        found = self._read_rest()
        if self._is_turned_over():
            found += self._read_rest()
            self.close()
            self._open()
            found += self._read_rest()
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self._descriptor = -1

    def _read_rest(self) -> list[LogLine]:
        found = []
        while self._descriptor >= 0:
            chunk = os.read(self._descriptor, 1 << 20)
            if not chunk:
                break
            *lines, self._held = (self._held + chunk).split(b"\n")
            found += [line for each in lines if (line := parse_line(each)) is not None]
        return found

    def _is_turned_over(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            current = os.stat(self._path)
        except FileNotFoundError:
            return False
        return current.st_ino != os.fstat(self._descriptor).st_ino


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
