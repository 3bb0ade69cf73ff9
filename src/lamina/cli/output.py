"""Results that are one thing, such as an archive: into a file that is whole or not there, or into a pipe."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.cli.session import Refused
from lamina.cli.terminal import is_terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

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
    from pathlib import Path

    from lamina.content.wholefile import whole_file

    path = Path(output)
    try:
        with whole_file(path) as stream:
            yield stream
    except OSError as error:
        if error.filename not in (str(path), os.path.realpath(path.parent)):
            raise
        raise Refused(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None
