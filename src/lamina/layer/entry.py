"""One line of a layer: its values, the one spelling of its path, and the names that remove things.

Paths inside layers are ``str`` with ``surrogateescape`` (names are bytes), relative, without ``.``,
``..``, or double slashes. The root itself is ``""``. See :func:`normalise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import BinaryIO

from lamina.errors import Denied, InvalidInput
from lamina.values import dataclass, field

WHITEOUT_PREFIX = ".wh."
OPAQUE_NAME = ".wh..wh..opq"
# Names with this prefix belong to AUFS; only the opaque marker means anything to others.
AUFS_PREFIX = ".wh..wh."
# An xattr in one of these namespaces steers overlayfs, or fuse-overlayfs; a tar must not (LAYER-CASES 91).
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")


class InvalidLayer(InvalidInput):
    """The tar, or an entry of it, is not what a layer may hold."""


class PathEscapes(Denied):
    """A name or a link of a layer points outside the root."""


class Kind(IntEnum):
    """Values are stored in the layer index: never renumber."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    HARDLINK = 3
    CHAR = 4
    BLOCK = 5
    FIFO = 6


NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(slots=True)
class Entry:
    """The one hot value, and so not frozen: nobody mutates one that they did not make.

    ``path`` is normalised. ``mtime`` is nanoseconds since the epoch. ``size`` is 0 for anything but a
    file. ``linkname`` is a symlink's text as it stands, or a hard link's normalised target path.
    ``header_offset`` and ``data_offset`` count from the start of the tar, -1 where there is none.
    ``open`` gives the content of a file; for an entry that came from a stream it works only until
    the next entry is asked for.
    """

    path: str
    kind: Kind = Kind.FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    linkname: str = ""
    # A factory, since before Python 3.12 a mappingproxy has no hash and dataclasses refuse it as a default.
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: NO_XATTRS)
    major: int = 0
    minor: int = 0
    header_offset: int = -1
    data_offset: int = -1
    open: Callable[[], BinaryIO] | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def is_opaque(self) -> bool:
        """An opaque marker: everything below its directory in lower layers is hidden."""
        return self.name == OPAQUE_NAME

    @property
    def hides(self) -> str | None:
        """The path that a whiteout removes from lower layers; ``None`` for all other entries.

        Raises :class:`InvalidLayer` for a whiteout of ``.``, ``..`` or nothing, which would remove the
        directory itself or its parent.
        """
        parent, _, name = self.path.rpartition("/")
        if not name.startswith(WHITEOUT_PREFIX) or name.startswith(AUFS_PREFIX):
            return None
        hidden = name[len(WHITEOUT_PREFIX):]
        if hidden in ("", ".", ".."):
            raise InvalidLayer(f"{self.path!r}: a whiteout must name what it hides")
        return f"{parent}/{hidden}" if parent else hidden


def normalise(path: str) -> str:
    """The one spelling of a path inside a layer; ``..`` is resolved by text and may not leave the root.

    A NUL is refused, since no filesystem can hold it. Raises :class:`PathEscapes`.
    """
    if "//" not in path and "/." not in path and path[:1] not in ("/", ".") and path[-1:] != "/":
        if "\0" in path:
            raise InvalidLayer(f"{path!r}: a name cannot hold a NUL")
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                raise PathEscapes(f"{path!r}: leads out of the layer")
            parts.pop()
        else:
            parts.append(part)
    if "\0" in path:
        raise InvalidLayer(f"{path!r}: a name cannot hold a NUL")
    return "/".join(parts)


def ancestors(path: str) -> list[str]:
    """Every directory above a path, the outermost first, without the root: ``a``, ``a/b`` for ``a/b/c``."""
    found = []
    slash = path.find("/")
    while slash != -1:
        found.append(path[:slash])
        slash = path.find("/", slash + 1)
    return found
