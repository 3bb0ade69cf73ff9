"""Where the files of a snapshot are, for who looks at them or writes them without showing them to anybody."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from lamina.snapshot.snapshotter import Mount


@contextlib.contextmanager
def reached(mounts: Sequence[Mount]) -> Iterator[str]:
    """A directory: where they lie anyway, or a mount that ends with the block.

    Such a mount is attached nowhere if that can be: then nothing stays mounted, whatever happens.
    """
    with ExitStack() as stack:
        if len(mounts) == 1 and not mounts[0].target:
            if mounts[0].type == "bind" and stat.S_ISDIR(os.stat(mounts[0].source).st_mode):
                yield mounts[0].source
                return
            from lamina.snapshot import mounting  # noqa: PLC0415 - ctypes, for those who mount

            descriptor = mounting.open_mount(mounts[0], stack)
            if descriptor >= 0:
                yield f"/proc/self/fd/{descriptor}/."  # with the dot, since the link itself is not followed
                return
        import tempfile  # noqa: PLC0415 - old kernels

        from lamina.snapshot.mounting import mounted  # noqa: PLC0415 - as above

        place = tempfile.mkdtemp(prefix="lamina-below-")
        stack.callback(_leave, place)
        yield str(stack.enter_context(mounted(mounts, Path(place))))


def _leave(place: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(place)
