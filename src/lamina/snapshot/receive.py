"""One layer, from its compressed blob to what a driver wants of it, in one pass.

Inflate, hash, read the tar, write the index, and on the way keep the tar or unpack it: each byte is
touched once. Nothing has a name before the diff id matched and everything is synced.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from lamina.content.durable import Writeback
from lamina.layer.compress import Inflated, inflate
from lamina.layer.entry import Entry, InvalidLayer, Kind
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.tarstream import TarReader
from lamina.oci.digest import Digest, Digester
from lamina.snapshot import trees
from lamina.snapshot.layerdirectory import LayerDirectory, stage_usage
from lamina.snapshot.layers import DiffIDMismatch, Facts, LayerStore, Wanted, facts_document
from lamina.snapshot.look import look_of, ownership, whiteout_style
from lamina.snapshot.snapshotter import Form, Usage

_BLOCK = 4096
_CHUNK = 1 << 20


def receive_job(stream: BinaryIO, *, root: str, wanted: dict[str, Any]) -> None:
    """What a worker does; see :func:`receive_layer`."""
    receive_layer(LayerStore(Path(root)), stream, Wanted.from_json(wanted))


def receive_layer(layers: LayerStore, stream: BinaryIO, wanted: Wanted) -> None:
    """Reads a blob to its end and leaves the layer in the wanted form. Idempotent.

    Blocks while another process receives the same layer, and then finds it done. Raises
    :class:`DiffIDMismatch`, and whatever reading, inflating or unpacking raises; then nothing is left.
    """
    claimed = layers.claim(wanted.diff_id)
    assert claimed is not None
    with claimed:
        if layers.has(wanted.diff_id, wanted.reception.form, wanted.reception.key):
            return
        if not _is_made_of_tar(layers, claimed, wanted):
            with claimed.staging() as staging:
                _receive(claimed, staging, stream, wanted)
            if wanted.reception.form is Form.TREE:
                layers.tar(wanted.diff_id).unlink(missing_ok=True)


def adopt_layer(layers: LayerStore, diff_id: Digest, index: BinaryIO, blob: Path | None) -> Facts:
    """Files a layer whose index was made while its tar was written: nothing of it is read again. Idempotent.

    ``blob`` is where the tar lies, if it lies there as it is. Forms that a driver wants besides are made
    when somebody mounts it.
    """
    claimed = layers.claim(diff_id)
    assert claimed is not None
    with claimed, claimed.staging() as staging:
        if not layers.has_index(diff_id):
            index.seek(0)
            with (staging / "index").open("wb") as file:
                while chunk := index.read(_CHUNK):
                    file.write(chunk)
            loaded = LayerIndex.load(staging / "index")
            account = _Account()
            account.content_size = sum(loaded.sizes)
            (staging / "facts.json").write_bytes(facts_document(_facts(loaded, account, loaded.tar_size)))
        if blob is not None and not _is_one_file(blob, layers.tar(diff_id)):
            with contextlib.suppress(OSError):  # another filesystem: the blob itself serves
                os.link(blob, staging / "tar", follow_symlinks=False)
        claimed.publish(staging)
    return layers.facts(diff_id)


def _is_one_file(blob: Path, tar: Path) -> bool:
    """Not where the blob was written once more since the tar was its second name."""
    try:
        return os.path.samefile(blob, tar)
    except FileNotFoundError:
        return False


def _is_made_of_tar(layers: LayerStore, claimed: LayerDirectory, wanted: Wanted) -> bool:
    """A tar that was kept for another driver needs no inflating.

    A damaged one stays until there is something better: where the blob was dropped, it may be all there is.
    """
    try:
        tar = open(layers.tar(wanted.diff_id), "rb", buffering=0)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return False
    try:
        with tar, claimed.staging() as staging:
            _receive(claimed, staging, tar, wanted)
    except (InvalidLayer, DiffIDMismatch):
        return False
    return True


def _receive(claimed: LayerDirectory, staging: Path, stream: BinaryIO, wanted: Wanted) -> None:
    account = _Account()
    with open(staging / "index", "wb") as index_file:
        builder = IndexBuilder(index_file)
        is_linked = _link_blob(staging, wanted)
        keeper = None if is_linked else _keeper(staging, wanted)
        with inflate(stream) as inflated, _Passing(inflated, keeper, is_hashed=not is_linked) as passing:
            reader = TarReader(passing, skeleton=builder.skeleton)

            def on_entry(entry: Entry) -> None:
                builder.add(entry)
                account.add(entry)

            if wanted.reception.form is Form.TREE:
                _unpack(reader, staging / "trees" / wanted.reception.key, wanted, on_entry)
            else:
                for entry in reader:
                    on_entry(entry)
            if not is_linked:
                _insist(wanted.diff_id, passing.digester)
            builder.finish(wanted.diff_id, passing.size)
    index = LayerIndex.load(staging / "index")
    facts = _facts(index, account, passing.size)
    (staging / "facts.json").write_bytes(facts_document(facts))
    if wanted.reception.form is Form.TREE:
        stage_usage(staging / "trees" / wanted.reception.key, account.usage)
    if wanted.reception.form is Form.EROFS and facts.is_self_contained:
        from lamina.snapshot.erofs import ALONE, stage_image  # noqa: PLC0415 - one driver only

        stage_image(staging, ALONE, index, None)
    claimed.publish(staging)


def _insist(diff_id: Digest, found: Digester) -> None:
    digest = found.digest()
    if digest != diff_id:
        raise DiffIDMismatch(f"{diff_id}: the layer's tar has the digest {digest}")


def _unpack(reader: TarReader, path: Path, wanted: Wanted, on_entry: Callable[[Entry], None]) -> None:
    from lamina.layer.extract import extract  # noqa: PLC0415 - trees only
    from lamina.layer.root import DirectoryRoot  # noqa: PLC0415 - as above

    path.parent.mkdir(mode=0o700)
    trees.make_root(path)
    owner = ownership(wanted.reception.keeps_owners)
    with DirectoryRoot(path, owner=owner, whiteouts=whiteout_style(wanted.reception)) as root:
        extract(reader, root, on_entry)


def _facts(index: LayerIndex, account: _Account, tar_size: int) -> Facts:
    root = index.find("")
    return Facts(
        tar_size=tar_size,
        content_size=account.content_size,
        entries=len(index),
        has_marks=bool(index.whiteouts or index.opaques),
        has_deep_whiteouts=any("/" in hidden for hidden in index.whiteouts.values()),
        cuts_stack=index.is_root_opaque,
        is_self_contained=not index.implied_parents and not index.foreign_links,
        has_duplicates=index.has_duplicates,
        root=None if root is None else look_of(index.entry(root)),
    )


class _Account:
    """What a layer amounts to, counted while it passes."""

    def __init__(self) -> None:
        self.content_size = 0
        self._blocks = 0
        self._inodes = 1

    def add(self, entry: Entry) -> None:
        self.content_size += entry.size
        if entry.kind is not Kind.HARDLINK:
            self._inodes += 1
            self._blocks += 1 if entry.kind is Kind.DIRECTORY else -(-entry.size // _BLOCK)

    @property
    def usage(self) -> Usage:
        """An estimate in blocks of 4 KiB, as nearly every filesystem has them: nobody walks a tree for it."""
        return Usage(self._blocks * _BLOCK, self._inodes)


class _Passing(io.RawIOBase):
    """The inflated tar as it passes: hashed, and kept in a file where there is one."""

    def __init__(self, inflated: Inflated, keeper: int | None, *, is_hashed: bool) -> None:
        super().__init__()
        self._inflated = inflated
        self._keeper = keeper
        self._writeback = None if keeper is None else Writeback(keeper)
        self._is_hashed = is_hashed
        self.digester = Digester()
        self.size = 0
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._inflated.read(size)
        self.size += len(chunk)
        if self._is_hashed:
            self.digester.update(chunk)
        if self._keeper is not None:
            self._keep(self._keeper, memoryview(chunk))
        return chunk

    def _keep(self, keeper: int, view: memoryview) -> None:
        while view:
            view = view[os.write(keeper, view):]
        if self._writeback is not None:
            self._writeback.advance(self.size)

    def close(self) -> None:
        if not self.closed and self._keeper is not None:
            os.close(self._keeper)
        super().close()


def _link_blob(staging: Path, wanted: Wanted) -> bool:
    """Keeps the tar by a second name of its blob, where the blob is that tar and was verified as such.

    Both are never written again, and the bytes are on disk once. Not on every filesystem, nor across two.
    """
    if wanted.reception.form is Form.TREE or not wanted.is_blob:
        return False
    try:
        os.link(wanted.blob, staging / "tar", follow_symlinks=False)
    except OSError:
        return False
    return True


def _keeper(staging: Path, wanted: Wanted) -> int | None:
    if wanted.reception.form is Form.TREE:
        return None
    return os.open(staging / "tar", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_in_blob(blob: Path, offset: int, size: int) -> BinaryIO:
    """One file's content out of a compressed layer, by inflating what comes before it."""
    inflated = inflate(open(blob, "rb", buffering=0))  # noqa: SIM115 - the answer's owner closes it
    try:
        _skip(inflated, offset)
    except BaseException:
        inflated.close()
        raise
    return io.BufferedReader(_Part(inflated, size), _CHUNK)


class InflatingTar(io.RawIOBase):
    """A layer's tar out of its compressed blob, front to back.

    Inflated in large pieces, whatever is asked for: a decompressor that is asked for a little at a time moves
    the rest of its input each time.
    """

    def __init__(self, blob: Path) -> None:
        super().__init__()
        self._inflated = inflate(open(blob, "rb", buffering=0))  # noqa: SIM115 - closed with this
        self._chunk = b""
        self._at = 0  # in the chunk
        self._position = 0  # of the chunk in the tar

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET or offset < self._position + self._at:
            raise io.UnsupportedOperation("an inflating tar goes forward only")
        while offset > self._position + len(self._chunk):
            if not self._next_chunk():
                raise InvalidLayer(f"layer: ends {offset - self._position} bytes before what was asked for")
        self._at = offset - self._position
        return offset

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if self._at >= len(self._chunk) and size and not self._next_chunk():
            return b""
        part = self._chunk[self._at : self._at + size]
        self._at += len(part)
        return part

    def _next_chunk(self) -> bool:
        self._position += len(self._chunk)
        self._at = 0
        self._chunk = self._inflated.read(_CHUNK)
        return bool(self._chunk)

    def close(self) -> None:
        if not self.closed:
            self._inflated.close()
        super().close()


def _skip(inflated: Inflated, left: int) -> None:
    while left:
        chunk = inflated.read(min(left, _CHUNK))
        if not chunk:
            raise InvalidLayer(f"layer: ends {left} bytes before the file that was asked for")
        left -= len(chunk)


class _Part(io.RawIOBase):
    """The next ``size`` bytes of an inflating stream."""

    def __init__(self, inflated: Inflated, size: int) -> None:
        super().__init__()
        self._inflated = inflated
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stubs say Buffer
        chunk = self._inflated.read(min(len(buffer), self._left)) if self._left else b""
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._inflated.close()
        super().close()
