"""Marks in an upper directory that make a name a note of where its content is. None of ours has them.

Our mounts say ``metacopy=off`` and ``redirect_dir=nofollow``, so they come from somebody who mounted the
directory in other ways. What such a directory holds is no layer: files would be full of zeros in it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from lamina.errors import InvalidInput
from lamina.snapshot import trees


class ForeignMark(InvalidInput):
    pass


def insist_whole(upper: Path, namespace: str) -> None:
    """Raises :class:`ForeignMark`. ``namespace`` is that of overlayfs' xattrs."""
    for directory, name, status in trees._walk(upper):  # noqa: SLF001 - the one walk of this room
        mark = _mark_of(status, namespace)
        if mark and _has(f"/proc/self/fd/{directory}/{name}", mark):
            raise ForeignMark(
                f"{name!r}: its content is elsewhere ({mark}): somebody mounted {upper} with metacopy or "
                "redirect_dir on; copy the file anew, or remove it"
            )


def _mark_of(status: os.stat_result, namespace: str) -> str:
    if stat.S_ISDIR(status.st_mode):
        return f"{namespace}.overlay.redirect"
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return f"{namespace}.overlay.metacopy"
    return ""


def _has(path: str, xattr: str) -> bool:
    try:
        os.getxattr(path, xattr, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT, errno.EPERM, errno.EACCES):
            return False
        raise
    return True
