"""What an active snapshot changed: as docker's list of paths, and as the tar of a layer.

The driver says where both sides are (:class:`Difference`); how they are read is its identity's business: in
this process, or by a worker that stands in the user namespace and writes what it finds into a pipe. What lies
below an overlay is seen as the kernel shows it, through a mount that is attached nowhere. A driver whose
filesystem tells which paths were touched says so, and the two trees are compared there alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

from lamina.errors import LaminaError
from lamina.snapshot.reaching import reached
from lamina.snapshot.snapshotter import Mount, SnapshotNotFound, Snapshotter
from lamina.values import asdict, dataclass, replace

if TYPE_CHECKING:
    from lamina.layer.entry import Entry
    from lamina.layer.index import IndexBuilder
    from lamina.layer.root import Ownership
    from lamina.layer.tarstream import Readable, TarWriter, Writable
    from lamina.layer.upper import Changed, ContainerRoot
    from lamina.snapshot.hands import Hands
    from lamina.snapshot.touched import Touched

NOTHING: Mapping[str, str] = {}
_ZEROS = bytes(1 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``upper`` over ``lower``, each as instructions for mounting; no ``lower``: all is new.

    With a ``namespace``, that of overlayfs' xattrs, ``upper`` is an overlay's upper directory; else a whole
    tree. ``is_root_plain``: no layer says what the root is like. ``keeps_owners``: files have their owners on
    disk. ``touched``: two whole trees differ nowhere else. ``is_exact``: see ``ContainerRoot``.
    """

    upper: tuple[Mount, ...]
    lower: tuple[Mount, ...] = ()
    namespace: str = ""
    is_root_plain: bool = False
    keeps_owners: bool = True
    touched: Touched | None = None
    is_exact: bool = False

    def to_json(self) -> dict[str, Any]:
        """More touched paths than a message can hold are left out: then whole trees are compared."""
        fits = self.touched is None or self.touched.fits_message
        return asdict(self if fits else replace(self, touched=None))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Difference:
        sides = {name: tuple(map(Mount.from_json, document[name])) for name in ("upper", "lower")}
        return cls(**{**document, **sides, "touched": _touched_of(document["touched"])})


@runtime_checkable
class TellsDifference(Protocol):
    """A driver that knows where an active snapshot's changes lie."""

    @property
    def hands(self) -> Hands: ...

    def difference(self, key: str) -> Difference: ...


@runtime_checkable
class HoldsDifference(Protocol):
    """A driver that makes something for the time of a comparison, such as a snapshot that stands still."""

    @property
    def hands(self) -> Hands: ...

    def holding_difference(self, key: str) -> AbstractContextManager[Difference]:
        """What it says is true until the block ends."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line of ``diff``. ``kind`` is docker's letter: A, C or D; ``path`` begins with a slash."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWritten:
    """Without entries there is nothing that a layer would be for."""

    entries: int
    tar_size: int


def list_changes(driver: Snapshotter, key: str, without: Mapping[str, str] = NOTHING) -> list[Change]:
    """Directories above a change are changed too, as docker has it. In path order, a directory at a time.

    ``without`` are the places that were made so that something could be mounted there (``"file"`` or
    ``"directory"`` by path): those that are empty still are nobody's change.
    """
    with _known(driver, key) as (difference, hands):
        if hands.identity.is_entered:
            with _changes(difference, without) as changes:
                return [
                    Change(kind=found.kind.value, path=f"/{found.path}") for found in changes if found.path
                ]
        with hands.reading("list_changes", difference=difference.to_json(), without=dict(without)) as stream:
            data = stream.readall()  # type: ignore[attr-defined]  # a raw pipe
    words = data.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return [Change(kind=word[0], path=word[1:]) for word in words]


def write_layer(
    driver: Snapshotter, key: str, out: Writable, builder: IndexBuilder,
    without: Mapping[str, str] = NOTHING, *, latest: int | None = None, is_exact: bool = False,
) -> LayerWritten:
    """The changes as an uncompressed tar, which a layer's index is made of meanwhile. Each file is read once.

    The caller finishes the index: the layer's diff id is the digest of what was written to ``out``. No time
    in it is later than ``latest``, in nanoseconds since the epoch. Raises ``InvalidLayer`` for what no
    layer can say; with ``is_exact``, sockets and flags are said nevertheless (``lamina.layer.exactly``).
    """
    with _known(driver, key) as (found, hands):
        difference = replace(found, is_exact=is_exact)
        if hands.identity.is_entered:
            from lamina.layer.tarstream import TarWriter  # noqa: PLC0415 - not for `diff`

            writer = TarWriter(out, skeleton=builder.skeleton)
            with _changes(difference, without) as changes:
                _write(changes, writer, builder, latest, is_exact=is_exact)
            return LayerWritten(entries=len(builder), tar_size=writer.position)
        arguments = {"difference": difference.to_json(), "without": dict(without), "latest": latest}
        with hands.reading("write_layer", **arguments) as stream:
            return _pass_on(stream, out, builder)


def _pass_on(stream: BinaryIO, out: Writable, builder: IndexBuilder) -> LayerWritten:
    from lamina.layer.tarstream import TarReader  # noqa: PLC0415 - not for `diff`

    reader = TarReader(_Tee(stream, out), skeleton=builder.skeleton)
    for entry in reader:
        builder.add(entry)
    return LayerWritten(entries=len(builder), tar_size=reader.position)


class _Tee:
    """Reads a stream and hands on what passes."""

    def __init__(self, stream: BinaryIO, out: Writable) -> None:
        self._stream = stream
        self._out = out

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        if chunk:
            self._out.write(chunk)
        return chunk


@contextmanager
def _known(driver: Snapshotter, key: str) -> Iterator[tuple[Difference, Hands]]:
    """Raises ``SnapshotNotFound`` at the end too: what goes away meanwhile looks as if it were deleted.

    And instead of what was raised because it went away.
    """
    try:
        with _sides(driver, key) as found:
            yield found
    except SnapshotNotFound:
        raise
    except (LaminaError, OSError) as error:
        _insist_there(driver, key, error)
        raise
    _insist_there(driver, key)


def _insist_there(driver: Snapshotter, key: str, error: Exception | None = None) -> None:
    try:
        driver.stat(key)
    except SnapshotNotFound:
        raise SnapshotNotFound(
            f"{key}: removed, or moved to another driver, while its changes were read; try again"
        ) from error


@contextmanager
def _sides(driver: Snapshotter, key: str) -> Iterator[tuple[Difference, Hands]]:
    """A driver that only knows mounts gets its trees compared, through a view of the parent for the time."""
    if isinstance(driver, HoldsDifference):
        with driver.holding_difference(key) as difference:
            yield difference, driver.hands
        return
    if isinstance(driver, TellsDifference):
        yield driver.difference(key), driver.hands
        return
    from lamina.snapshot.hands import Hands  # noqa: PLC0415 - for strangers' drivers

    parent = driver.stat(key).parent
    view = f"difference-{os.urandom(8).hex()}"
    with ExitStack() as stack:
        hands = Hands(driver.identity)
        stack.callback(hands.close)
        lower: Sequence[Mount] = ()
        if parent:
            lower = driver.view(view, parent)
            stack.callback(driver.remove, view)
        yield Difference(
            upper=tuple(driver.mounts(key)), lower=tuple(lower), keeps_owners=driver.reception.keeps_owners
        ), hands


# -- jobs


def list_job(stream: BinaryIO, *, difference: dict[str, Any], without: dict[str, str]) -> None:
    """For a worker: each change's letter and path, and a NUL."""
    with _changes(Difference.from_json(difference), without) as changes:
        for found in changes:
            if found.path:
                stream.write(f"{found.kind}/{found.path}\0".encode("utf-8", "surrogateescape"))
    stream.flush()


def write_job(
    stream: BinaryIO, *, difference: dict[str, Any], without: dict[str, str], latest: int | None
) -> None:
    """For a worker: the tar."""
    from lamina.layer.tarstream import TarWriter  # noqa: PLC0415 - not for `diff`

    found = Difference.from_json(difference)
    with _changes(found, without) as changes:
        _write(changes, TarWriter(stream), None, latest, is_exact=found.is_exact)
    stream.flush()


def _write(
    changes: Iterator[Changed], writer: TarWriter, builder: IndexBuilder | None, latest: int | None = None,
    *, is_exact: bool = False,
) -> None:
    """``is_exact``: for who moves files elsewhere, and may move large holes."""
    from lamina.layer.upper import sayable  # noqa: PLC0415 - loaded already
    from lamina.snapshot.holes import PastHoles  # noqa: PLC0415 - not for `diff`

    lost: set[str] = set()
    for change in changes:
        entry = sayable(change)
        if entry.linkname in lost and entry.kind.name == "HARDLINK":
            continue
        if latest is not None and entry.mtime > latest:
            entry = replace(entry, mtime=latest)
        with ExitStack() as stack:
            data: Readable | None = None
            if entry.size and entry.open is not None:
                try:
                    file = stack.enter_context(entry.open())
                except FileNotFoundError:  # a container that runs on may remove it at any moment
                    lost.add(entry.path)
                    continue
                entry = replace(entry, size=os.fstat(file.fileno()).st_size)
                data = _Whole(PastHoles(file.fileno()) if is_exact else file)
            begin = writer.position
            content = writer.write(entry, data)
        if builder is not None:
            builder.add(_as_written(entry, begin, content))
    writer.finish()


def _as_written(entry: Entry, begin: int, content: int) -> Entry:
    is_file = entry.kind.name == "FILE"
    return replace(entry, header_offset=begin, data_offset=content if is_file else -1, open=None)


class _Whole:
    """A file that may shrink while it is read: what its header promised is filled up with zeros."""

    def __init__(self, file: Readable) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or _ZEROS[:size]


# -- both sides as directories


@contextmanager
def _changes(difference: Difference, without: Mapping[str, str]) -> Iterator[Iterator[Changed]]:
    from lamina.layer.upper import listed, tree_changes, upper_changes  # noqa: PLC0415 - who only mounts

    with ExitStack() as stack:
        if (narrowed := _narrowed(difference, stack)) is not None:
            yield listed(tree_changes(*narrowed), narrowed[0], without)
            return
        upper = _root(difference.upper, difference, stack)
        upper.is_exact = difference.is_exact
        lower = _root(difference.lower, difference, stack) if difference.lower else None
        if lower is not None and not difference.namespace:
            found = tree_changes(upper, lower)
        else:
            found = upper_changes(
                upper, lower, difference.namespace, is_root_plain=difference.is_root_plain
            )
        yield listed(found, upper, without)


def _narrowed(difference: Difference, stack: ExitStack) -> tuple[ContainerRoot, ContainerRoot] | None:
    """Both trees where they were touched, if that is known, and enough."""
    if difference.touched is None or not difference.lower or difference.namespace:
        return None
    from lamina.snapshot.touched import NarrowedRoot, is_closed  # noqa: PLC0415 - who only mounts

    def narrowed(side: Sequence[Mount], touched: Touched) -> NarrowedRoot:
        path = stack.enter_context(reached(side))
        return stack.enter_context(NarrowedRoot(path, owner=_owner(difference), touched=touched))

    upper = narrowed(difference.upper, difference.touched)
    lower = narrowed(difference.lower, difference.touched)
    upper.is_exact = difference.is_exact
    return (upper, lower) if is_closed(upper) and is_closed(lower) else None


def _root(mounts: Sequence[Mount], difference: Difference, stack: ExitStack) -> ContainerRoot:
    from lamina.layer.upper import ContainerRoot  # noqa: PLC0415 - who only mounts

    return stack.enter_context(ContainerRoot(stack.enter_context(reached(mounts)), owner=_owner(difference)))


def _owner(difference: Difference) -> Ownership:
    from lamina.layer.root import Ownership  # noqa: PLC0415 - who only mounts

    return Ownership.KEEP if difference.keeps_owners else Ownership.IGNORE


def _touched_of(document: Mapping[str, Any] | None) -> Touched | None:
    if document is None:
        return None
    from lamina.snapshot.touched import Touched  # noqa: PLC0415 - for drivers that know

    return Touched(paths=tuple(document["paths"]), trees=tuple(document["trees"]))
