"""What an active snapshot of one driver changed, done once more in one of another driver.

The way leads through the tar of a layer, which every driver can write (``changes``) and which is applied to
what the other driver mounts: so neither knows how the other keeps deletions, replaced directories or owners.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.errors import Unsupported
from lamina.layer.apply import apply
from lamina.layer.entry import Entry, Kind
from lamina.layer.exactly import FLAGS, SOCKET, set_flags, without_unsayable
from lamina.layer.root import Content, DirectoryRoot
from lamina.layer.tarstream import TarReader
from lamina.snapshot import syscalls
from lamina.snapshot.holes import PastHoles, WithHoles
from lamina.snapshot.look import ownership
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.reaching import reached
from lamina.snapshot.snapshotter import Mount, Snapshotter
from lamina.values import asdict

if TYPE_CHECKING:
    from lamina.layer import root as roots
    from lamina.layer.tarstream import Readable
    from lamina.snapshot.hands import Hands


class NotKept(Unsupported):
    """Something of a file that the other driver, or the filesystem that it lies on, has no place for."""


def copy_changes(source: Snapshotter, target: Snapshotter, key: str, scratch: Path) -> int:
    """Both have an active snapshot ``key`` on the same stack; that of ``target`` is as it was prepared.

    Gives the bytes of the tar, which lies without a name in ``scratch`` meanwhile. Durable when this returns.
    Raises :class:`NotKept`, and ``InvalidLayer`` for what no layer can say: what was done in ``target`` by
    then is of no use.
    """
    with tempfile.TemporaryFile(dir=scratch, buffering=0) as spool:
        _write(source, key, spool)
        apply_tar(target, key, spool.fileno())
        return os.fstat(spool.fileno()).st_size


def _write(driver: Snapshotter, key: str, spool: BinaryIO) -> None:
    """Without leaving out what was made to mount on: the container is to find all as it was."""
    from lamina.layer.index import IndexBuilder  # noqa: PLC0415 - workers only apply
    from lamina.snapshot.changes import write_layer  # noqa: PLC0415 - as above

    with open(os.devnull, "wb") as index:  # nobody will look into this layer
        out = WithHoles(spool.fileno())
        written = write_layer(driver, key, out, IndexBuilder(index), is_exact=True)
    os.ftruncate(spool.fileno(), written.tar_size)


class _ExactRoot(DirectoryRoot):
    """With sockets and flags. A file with holes takes no more than it did: 1 TB may well be 1 GB of disk."""

    def __init__(self, path: str, *, owner: roots.Ownership) -> None:
        super().__init__(path, owner=owner)
        self._flagged: dict[str, Mapping[str, bytes]] = {}

    def make(self, path: str, entry: Entry, content: Content) -> None:
        plain = self._noted(path, entry)
        if SOCKET not in entry.xattrs:
            super().make(path, plain, content)
            return
        parent, name = self._parent(path)
        os.mknod(name, stat.S_IFSOCK | plain.mode & 0o777, dir_fd=parent)
        self._finish_name(name, parent, plain)

    def kind_of(self, path: str, status: os.stat_result) -> Kind:
        return Kind.FIFO if stat.S_ISSOCK(status.st_mode) else super().kind_of(path, status)

    def describe(self, path: str, entry: Entry) -> None:
        super().describe(path, self._noted(path, entry))

    def _noted(self, path: str, entry: Entry) -> Entry:
        if FLAGS in entry.xattrs:
            self._flagged[path] = entry.xattrs
        return without_unsayable(entry)

    def finish(self) -> None:
        """Flags come last: nothing can be done to what has them."""
        for path, xattrs in self._flagged.items():
            parent, name = self._parent(path) if path else (self.directories.top, ".")
            if not set_flags(parent, name, xattrs):
                self.refused_xattrs.add(f"chattr +{xattrs[FLAGS].decode()}")

    def _write(self, descriptor: int, chunk: bytes | memoryview) -> None:
        WithHoles(descriptor).write(chunk)

    def finish_file(self, descriptor: int, entry: Entry) -> None:
        os.ftruncate(descriptor, entry.size)
        super().finish_file(descriptor, entry)


def apply_tar(driver: Snapshotter, key: str, tar: int) -> None:
    """The tar in an open file onto an active snapshot that nothing else mounts. Durable when this returns."""
    os.lseek(tar, 0, os.SEEK_SET)
    identity = driver.identity
    arguments: dict[str, Any] = {
        "mounts": [asdict(mount) for mount in driver.mounts(key)],
        "keeps_owners": identity.ownership is not Ownership.SINGLE,
    }
    if identity.is_entered:
        apply_job(PastHoles(tar), **arguments)
        return
    from lamina.content.arrival import Arrival  # noqa: PLC0415 - for who must enter a namespace
    from lamina.oci.descriptor import OCI_LAYER, Descriptor  # noqa: PLC0415 - as above
    from lamina.oci.digest import Digest  # noqa: PLC0415 - as above
    from lamina.snapshot.hands import Worker  # noqa: PLC0415 - as above

    size = os.fstat(tar).st_size
    # Nobody asks for the digest of what is only carried from one process to the other.
    arrival = Arrival(Descriptor(media_type=OCI_LAYER, digest=Digest.of(b""), size=size), tar, size)
    arrival.finish()
    worker = Worker(identity)
    try:
        worker.run("apply", arguments, source=arrival)
    finally:
        worker.close()


def apply_job(stream: Readable, *, mounts: Sequence[Mapping[str, Any]], keeps_owners: bool) -> None:
    with ExitStack() as stack:
        path = stack.enter_context(reached([Mount.from_json(each) for each in mounts]))
        root = stack.enter_context(_ExactRoot(path, owner=ownership(keeps_owners)))
        apply(TarReader(stream), root)
        root.finish()
        if root.refused_xattrs:
            names = ", ".join(sorted(root.refused_xattrs))
            raise NotKept(f"{names}: attributes of files that cannot be set where this driver keeps them")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        syscalls.syncfs(descriptor)


def put_file(driver: Snapshotter, hands: Hands, key: str, name: str, size: int) -> None:
    """A file of zeros into an active snapshot, through its mounts, as a process of a container makes one."""
    mounts = [asdict(mount) for mount in driver.mounts(key)]
    hands.run("put", mounts=mounts, name=name, size=size)


def put_job(*, mounts: Sequence[Mapping[str, Any]], name: str, size: int) -> None:
    with reached([Mount.from_json(each) for each in mounts]) as path:
        Path(f"{path}/{name}").write_bytes(bytes(size))
