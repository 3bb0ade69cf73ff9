"""COPY, ADD and WORKDIR: what goes in, the key that stands for it, and the layer that comes of it.

A layer is written straight from where its files are: nothing is unpacked or mounted for it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from lamina.build.checksum import Digested, digest_selection
from lamina.build.context import Files, Node
from lamina.build.failure import printable
from lamina.build.instruction import Add, Copy, Heredoc
from lamina.build.mode import parse_mode
from lamina.build.pattern import escaped, has_wildcards, unescaped
from lamina.build.placing import Nothing, Placing, Source, Writing
from lamina.build.selection import NeedsDirectory, Place, Selected, Selection, names_directory, select
from lamina.engine.building.unpacking import Unpacking
from lamina.errors import InvalidInput, LaminaError
from lamina.layer.entry import Entry, Kind
from lamina.runtime.users import find_user
from lamina.values import dataclass, replace

if TYPE_CHECKING:
    from lamina.build.checksum import DigestCache
    from lamina.build.layered import Layered
    from lamina.engine.building.remote import RemoteSource
    from lamina.layer.index import IndexBuilder
    from lamina.layer.tarstream import Writable

_HEREDOC_MODE = 0o644
_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One group of sources: a selection of files, an archive to unpack, or a single downloaded file."""

    selection: Selection
    files: Files
    digested: Digested
    is_archive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """Everything that an instruction names, looked at but not read beyond its digests."""

    parts: tuple[Part, ...]
    heredocs: tuple[Heredoc, ...]
    remote: tuple[RemoteSource, ...] = ()

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """Ingredients of the key."""
        links = [(f"what {one.url} holds", one.ingredient) for one in self.remote]
        digests = [f"{'archive ' if part.is_archive else ''}{part.digested.digest}" for part in self.parts]
        texts = [(f"the heredoc {one.name}", one.content) for one in self.heredocs]
        return [("the files", " ".join(digests)), *links, *texts]

    @property
    def manifest(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in self.parts:
            found.update(part.digested.manifest)
        return found


def gather(
    copy: Copy | Add, files: Files, cache: DigestCache, *, place: Place,
    remote: Sequence[RemoteSource] = (),
) -> Gathered:
    """``remote`` are the sources that lie elsewhere. Raises ``SourceNotFound``, ``NeedsDirectory``."""
    elsewhere = {one.url for one in remote}
    own = tuple(source for source in copy.sources if source not in elsewhere)
    if not own:
        insist_directory(len(remote) + len(copy.heredocs), copy.destination, place)
        return Gathered(parts=(), heredocs=copy.heredocs, remote=tuple(remote))
    if isinstance(copy, Add) and copy.checksum:
        raise InvalidInput(f"ADD --checksum: {printable(own[0])} is no URL, and has none")
    total = len(copy.sources)
    copy = replace(copy, sources=own)
    groups = _groups(copy, files, place)
    parts = []
    for sources, is_archive in groups:
        further = total - len(sources) + len(copy.heredocs)
        selection = select(
            files, sources, copy.destination, keeps_parents=isinstance(copy, Copy) and copy.keeps_parents,
            exclude=copy.excludes, further=0 if is_archive else further, place=place,
        )
        parts.append(Part(
            selection=selection, files=files, digested=digest_selection(files, selection, cache),
            is_archive=is_archive,
        ))
    return Gathered(parts=tuple(parts), heredocs=copy.heredocs, remote=tuple(remote))


def insist_directory(count: int, destination: str, place: Place) -> None:
    if count > 1 and not names_directory(destination):
        raise NeedsDirectory(
            f"{place.instruction} {printable(destination)}: more than one source needs a directory as "
            "destination, which ends in '/'"
        )


def _groups(copy: Copy | Add, files: Files, place: Place) -> list[tuple[list[str], bool]]:
    """ADD unpacks each archive of the context; what stands between two of them is copied together."""
    if not isinstance(copy, Add) or copy.unpacks is False:
        return [(list(copy.sources), False)]
    sources = [each for source in copy.sources for each in _matched(source, files, place)]
    groups: list[tuple[list[str], bool]] = []
    for source in sources:
        is_archive = _is_archive(source, files)
        if groups and not is_archive and not groups[-1][1]:
            groups[-1][0].append(source)
        else:
            groups.append(([source], is_archive))
    return groups


def _matched(source: str, files: Files, place: Place) -> list[str]:
    """A wildcard that stands for files alone is each of them: some may be archives."""
    if not has_wildcards(source):
        return [source]
    entries = select(files, [source], "/", place=place).entries
    if any(each.node.kind is not Kind.FILE for each in entries):
        return [source]
    return [escaped(each.node.path) for each in entries]


def _is_archive(source: str, files: Files) -> bool:
    """What holds a tar: docker copies whatever else is compressed, and a tar of nothing."""
    from lamina.build.streamed import is_archive, is_tar
    from lamina.runtime.incoming import plain

    found = files.resolve(unescaped(source).lstrip("/"))
    node = None if found is None else files.look(found)
    if node is None or node.kind is not Kind.FILE:
        return False
    with files.open_file(node) as file:
        if not is_archive(file.read(_BLOCK)):
            return False
        file.seek(0)
        head, stream = b"", plain(file)
        try:
            while len(head) < _BLOCK and (more := stream.read(_BLOCK - len(head))):
                head += more
        except LaminaError:
            return False
        return is_tar(head)


# -- writing


def write_copy(
    copy: Copy | Add, gathered: Gathered, below: Layered | None, directory: str, now: int,
    latest: int | None = None,
) -> Callable[[Writable, IndexBuilder], int]:
    """What fills the layer. ``directory`` is the WORKDIR; ``below`` is ``None`` for ``--link``."""
    destination = f"{copy.destination}/" if names_directory(copy.destination) else copy.destination
    if not destination.startswith("/"):
        destination = f"{directory.rstrip('/')}/{destination}"
    writing = Writing(
        owner=_owner(copy, below), mode=parse_mode(copy.chmod) if copy.chmod else None, now=now,
        keeps_directories=isinstance(copy, Copy) and copy.keeps_parents,
    )
    with ExitStack() as stack:
        # What is read when the layer is written stays open until then.
        parts = [*gathered.parts, *(one.fetch(stack) for one in gathered.remote)]
        entries: Callable[[], Iterable[Entry]]
        if parts and all(part.is_archive for part in parts) and not gathered.heredocs:
            spools = [_spooled(part, stack) for part in parts]
            entries = Unpacking(_Below(below), destination, writing, spools).entries
        else:
            placing = Placing(_Below(below), destination, writing)
            _place(placing, parts, gathered.heredocs, destination, now, stack)
            entries = placing.entries
        kept = stack.pop_all()

    def fill(out: Writable, builder: IndexBuilder) -> int:
        with kept:
            return write_entries(entries(), out, builder, latest)

    return fill


def _place(
    placing: Placing, parts: Sequence[Part], heredocs: Sequence[Heredoc], destination: str, now: int,
    stack: ExitStack,
) -> None:
    total = sum(not part.is_archive for part in parts) + len(heredocs)
    for number, part in enumerate(parts):
        if part.is_archive:
            sources = _unpacked(_spooled(part, stack), number)
            placing.add(sources, is_single=False, is_kept=True)
        else:
            sources = (_source(part.files, each, number) for each in part.selection.entries)
            placing.add(sources, is_single=part.selection.is_single and total == 1)
    for number, heredoc in enumerate(heredocs):
        is_single = total == 1 and not names_directory(destination)
        placing.add([_inline(heredoc, number, now)], is_single=is_single)


def write_directories(
    path: str, below: Layered | None, owner: tuple[int, int], now: int
) -> Callable[[Writable, IndexBuilder], int]:
    """``WORKDIR``: what is missing of it."""
    placing = Placing(_Below(below), path, Writing(owner=owner, now=now))
    placing.make_directories(placing.place)
    return lambda out, builder: write_entries(placing.written(), out, builder)


def write_entries(
    entries: Iterable[Entry], out: Writable, builder: IndexBuilder, latest: int | None = None
) -> int:
    """No time in it is later than ``latest``, in nanoseconds. Gives the size of the tar."""
    from lamina.layer.tarstream import TarWriter

    writer = TarWriter(out, skeleton=builder.skeleton)
    for entry in entries:
        if latest is not None and entry.mtime > latest:
            entry = replace(entry, mtime=latest)  # noqa: PLW2901 - the same entry, as it is written
        begin = writer.position
        content = writer.write(entry)
        is_file = entry.kind is Kind.FILE
        builder.add(replace(entry, header_offset=begin, data_offset=content if is_file else -1, open=None))
    writer.finish()
    return writer.position


class _Below:
    """What was there before, as placing asks for it."""

    def __init__(self, layered: Layered | None) -> None:
        self._layered = layered
        self._nothing = Nothing()

    def look(self, path: str) -> Entry | None:
        return self._nothing.look(path) if self._layered is None else self._layered.entry(path)


def _source(files: Files, selected: Selected, number: int) -> Source:
    node = selected.node
    return Source(
        target=selected.target, node=node, xattrs=lambda: files.xattrs(node.path),
        open=(lambda: files.open_file(node)) if node.kind is Kind.FILE else None,
        group=(number, selected.group),
    )


def _inline(heredoc: Heredoc, number: int, now: int) -> Source:
    data = heredoc.content.encode("utf-8", "surrogateescape")
    node = Node(
        path=heredoc.name, kind=Kind.FILE, mode=_HEREDOC_MODE, uid=0, gid=0, size=len(data), mtime_ns=now,
        linkname="", rdev=0, device=0, inode=number + 1, ctime_ns=0, links=1,
    )
    return Source(target=heredoc.name, node=node, xattrs=dict, open=lambda: io.BytesIO(data))


def _owner(copy: Copy | Add, below: Layered | None) -> tuple[int, int] | None:
    """Names are looked up in what is there already. Without ``--chown``, files keep what the source says."""
    return owner_of(copy.chown, below) if copy.chown else None


def owner_of(text: str, below: Layered | None) -> tuple[int, int]:
    """Docker's rule: a number without a group is the group as well; a name has its own."""
    read = below.database if below is not None else (lambda _path: "")
    user, colon, _group = text.partition(":")
    found = find_user(text, read("etc/passwd"), read("etc/group"))
    gid = found.uid if user.isascii() and user.isdigit() and not colon else found.gid
    return found.uid, gid


# -- archives


def _spooled(part: Part, stack: ExitStack) -> BinaryIO:
    """The tar, inflated into a nameless file once, of which each member's content is a range."""
    import tempfile

    from lamina.runtime.incoming import plain

    (chosen,) = part.selection.entries
    spool: BinaryIO = stack.enter_context(tempfile.TemporaryFile(prefix="lamina-add-"))  # noqa: SIM115 - it is
    with part.files.open_file(chosen.node) as file:
        stream = plain(file)
        while chunk := stream.read(1 << 20):
            spool.write(chunk)
    spool.seek(0)
    return spool


def _unpacked(spool: BinaryIO, number: int) -> Iterator[Source]:
    """Among other sources, which may replace what it has, or be replaced.

    ``number`` tells its files from those of other archives, where several names are one file.
    """
    from lamina.layer.tarstream import TarReader

    members: dict[str, tuple[Entry, int]] = {}
    for position, entry in enumerate(TarReader(spool), 1):
        if not entry.path:
            continue
        found = entry, position
        if entry.kind is Kind.HARDLINK:
            if entry.linkname not in members:
                raise InvalidInput(
                    f"{printable(entry.path)}: links to {printable(entry.linkname)}, which the archive lacks"
                )
            original, inode = members[entry.linkname]
            found = replace(original, path=entry.path), inode
        members[entry.path] = found
        yield _member(spool, found[0], (-1 - number, found[1]))


def _member(spool: BinaryIO, entry: Entry, file: tuple[int, int]) -> Source:
    """It may have several names: that is known at the end of the archive."""
    device, inode = file
    is_device = entry.kind in (Kind.CHAR, Kind.BLOCK)
    node = Node(
        path=entry.path, kind=entry.kind, mode=entry.mode, uid=entry.uid, gid=entry.gid, size=entry.size,
        mtime_ns=entry.mtime, linkname=entry.linkname, device=device, inode=inode, ctime_ns=0, links=2,
        rdev=os.makedev(entry.major, entry.minor) if is_device else 0,
    )
    open_ = (lambda: _range(spool, entry)) if entry.kind is Kind.FILE else None
    return Source(target=entry.path, node=node, xattrs=lambda: dict(entry.xattrs), open=open_)


def _range(spool: BinaryIO, entry: Entry) -> BinaryIO:
    from lamina.layer.skeleton import Bounded

    spool.seek(entry.data_offset)
    return io.BufferedReader(Bounded(spool, entry.size), 1 << 18)

