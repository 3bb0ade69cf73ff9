"""Results that are one thing, such as an archive: into a file that is whole or not there, or into a pipe."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lamina.cli.session import Refused
from lamina.cli.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, BinaryIO

    from lamina.cli.session import Session

STREAM = "-"
OUTPUT_HELP = "write there instead of to standard output"


@contextmanager
def written(output: str, session: Session, verb: str, *, what: str = "an archive") -> Iterator[BinaryIO]:
    """Where the bytes go. A file appears under its name when it is whole, and not at all after a failure."""
    if output in ("", STREAM):
        if is_terminal(session.stdout):
            raise Refused(f"{verb}: {what} is not for a terminal; use -o FILE, or redirect the output")
        out = session.output_bytes()
        yield out
        out.flush()
        return
    with _whole_file(output) as stream:
        yield stream


@contextmanager
def _whole_file(output: str) -> Iterator[BinaryIO]:
    if os.path.exists(output) and not os.path.isfile(output):  # /dev/null, a named pipe
        with _naming(output):
            device = open(output, "wb")  # noqa: SIM115 - closed below
        with _closed(device):
            yield from _flushed(device, output)
        return
    import tempfile

    directory, name = os.path.split(os.path.abspath(output))
    mode = 0o666 & ~_umask()
    with _naming(directory):
        temporary = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below
            dir=directory, prefix=f".{name[:64]}.", delete=False
        )
    with _closed(temporary):
        try:
            yield from _flushed(temporary, output)
            os.fchmod(temporary.fileno(), mode)
            with _naming(output):
                os.replace(temporary.name, output)
        except BaseException:
            os.unlink(temporary.name)
            raise


def _flushed(stream: IO[bytes], output: str) -> Iterator[BinaryIO]:
    out = _NamedOutput(stream, output)
    yield out  # type: ignore[misc]  # what archives need of a file
    out.flush()


@contextmanager
def _closed(stream: IO[bytes]) -> Iterator[None]:
    """Closing writes once more what could not be written, and would complain again."""
    try:
        yield
    finally:
        with suppress(OSError):
            stream.close()


class _NamedOutput:
    """A file given with ``-o``, whose failures cannot be taken for the state directory's."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, chunk: bytes | memoryview) -> int:
        with _naming(self._name):
            return self._stream.write(chunk)

    def flush(self) -> None:
        with _naming(self._name):
            self._stream.flush()

    def writable(self) -> bool:
        return True


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
