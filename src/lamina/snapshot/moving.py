"""What an active snapshot of one driver changed, done once more in one of another driver.

The way leads through the tar of a layer, which every driver can write (``changes``) and which is applied to
what the other driver mounts: so neither knows how the other keeps deletions, replaced directories or owners.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.errors import Unsupported
from lamina.layer.apply import apply
from lamina.layer.root import DirectoryRoot, write_all
from lamina.layer.tarstream import TarReader
from lamina.snapshot import syscalls
from lamina.snapshot.look import ownership
from lamina.snapshot.mounting import mounted, open_mount
from lamina.snapshot.namespace import Ownership
from lamina.snapshot.snapshotter import Mount, Snapshotter
from lamina.values import asdict

if TYPE_CHECKING:
    from lamina.layer.entry import Entry
    from lamina.snapshot.hands import Hands

_BLOCK = 4096


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
        written = write_layer(driver, key, _WithHoles(spool.fileno()), IndexBuilder(index))
    os.ftruncate(spool.fileno(), written.tar_size)


class _WithHoles:
    """A new file in which zeros take no room. Its writer sets its size in the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, chunk: bytes | memoryview) -> int:
        if len(chunk) >= _BLOCK and chunk == bytes(len(chunk)):
            os.lseek(self._descriptor, len(chunk), os.SEEK_CUR)
        else:
            write_all(self._descriptor, chunk)
        return len(chunk)


class _SparseRoot(DirectoryRoot):
    """A file with holes takes no more than it did: 1 TB of disk image may well be 1 GB of disk."""

    def _write(self, descriptor: int, chunk: bytes | memoryview) -> None:
        _WithHoles(descriptor).write(chunk)

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
        with open(os.dup(tar), "rb", buffering=0) as stream:
            apply_job(stream, **arguments)
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


def apply_job(stream: BinaryIO, *, mounts: Sequence[Mapping[str, Any]], keeps_owners: bool) -> None:
    with ExitStack() as stack:
        path = stack.enter_context(_directory([Mount.from_json(each) for each in mounts]))
        root = stack.enter_context(_SparseRoot(path, owner=ownership(keeps_owners)))
        apply(TarReader(stream), root)
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
    with _directory([Mount.from_json(each) for each in mounts]) as path:
        Path(f"{path}/{name}").write_bytes(bytes(size))


@contextlib.contextmanager
def _directory(mounts: Sequence[Mount]) -> Iterator[str]:
    """Where the files are, attached nowhere if that can be: nothing stays mounted, whatever happens."""
    with ExitStack() as stack:
        if len(mounts) == 1 and not mounts[0].target:
            if mounts[0].type == "bind" and stat.S_ISDIR(os.stat(mounts[0].source).st_mode):
                yield mounts[0].source
                return
            descriptor = open_mount(mounts[0], stack)
            if descriptor >= 0:
                yield f"/proc/self/fd/{descriptor}/."  # with the dot, since the link itself is not followed
                return
        place = tempfile.mkdtemp(prefix="lamina-moving-")
        stack.callback(os.rmdir, place)
        yield str(stack.enter_context(mounted(mounts, Path(place))))
