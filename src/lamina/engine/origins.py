"""Repositories that a dropped blob comes back from: asked in turn, until one gives the right bytes."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from lamina.content.collect import Finding
from lamina.content.dropped import DroppedBlob
from lamina.content.store import CHUNK, BlobNotFound, VerifyingReader
from lamina.errors import Denied, IntegrityError, LaminaError, NotFound, Unavailable
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference
from lamina.registry.retry import Patience

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.registry.remote import RemoteRepository

_T = TypeVar("_T")
# Registries of our kind that one question for a blob may go through: they may stand in a circle.
MAX_HOPS = 3
# What each is given while others are left to ask. Who answers at all does so in less.
HASTE = Patience(attempts=1, silence=10.0)


class NoLongerServed(NotFound):
    """Every repository that was known to have it says that it has not."""


class OriginUnreachable(Unavailable):
    pass


class OriginRefuses(Denied):
    pass


class OriginLies(IntegrityError):
    pass


class Origins:
    """Who is asked while one thing is done: whoever failed to give a blob, not again. Safe for threads."""

    def __init__(self, engine: Core, *, hops: int = 0, asks_silent: bool = True) -> None:
        """``hops``: how many of our kind have passed on already what this is asked for.

        Without ``asks_silent`` a registry that did not answer once is not asked for other blobs either.
        """
        self._engine = engine
        self._hops = hops
        self._asks_silent = asks_silent
        self._silent: dict[str, LaminaError] = {}
        self._failed: dict[tuple[Digest, str], LaminaError] = {}
        self._hasty: dict[tuple[Digest, str], LaminaError] = {}
        self._resumed: set[Digest] = set()

    def open(self, blob: DroppedBlob, offset: int = 0) -> BinaryIO:
        """Verified as it is read, if it is read from its beginning. Raises as :meth:`first` does."""
        asked, stream = self.first(blob, lambda asked: (asked, asked.open_at(blob.descriptor, offset)))
        is_hurried = asked.patience is HASTE

        def note(error: LaminaError) -> LaminaError:
            self._note(blob, asked.name, error, is_hurried=is_hurried)
            return _gone(blob, {asked.name: error})

        if offset:
            self._resumed.add(blob.digest)
            return cast("BinaryIO", _Noting(stream, note))
        return cast("BinaryIO", _Watched(blob, stream, note))

    def open_whole(self, blob: DroppedBlob) -> BinaryIO:
        """For who cannot take back what was passed on: with others to ask, read to its end first."""
        if len(self._names(blob)) > 1:
            with contextlib.suppress(OSError):  # no place to write, or a full disk: as well as it goes, then
                return self._read_whole(blob)
        return self.open(blob)

    def _read_whole(self, blob: DroppedBlob) -> BinaryIO:
        file = tempfile.TemporaryFile(prefix="blob-", dir=self._engine.store.scratch)  # noqa: SIM115
        try:
            self._fill(cast("BinaryIO", file), blob)
        except BaseException:
            with contextlib.suppress(OSError):  # what a full disk refused is tried once more
                file.close()
            raise
        return cast("BinaryIO", file)

    def doubts(self, blob: Digest) -> int:
        """Grows when what was given for a blob was wrong, or may have been; the next time it is another's."""
        failures = [*self._failed, *self._hasty]
        return sum(digest == blob for digest, _name in failures) + (blob in self._resumed)

    def first(self, blob: DroppedBlob, act: Callable[[RemoteRepository], _T]) -> _T:
        """What the first repository answers that can. The error that is raised says what the others did.

        Raises :class:`NoLongerServed`, :class:`OriginUnreachable`, :class:`OriginRefuses` or
        :class:`OriginLies`.
        """
        answers, complaints = self.ask(blob, act)
        for answer in answers:
            return answer
        raise _gone(blob, complaints)

    def ask(
        self, blob: DroppedBlob, act: Callable[[RemoteRepository], _T]
    ) -> tuple[list[_T], dict[str, LaminaError]]:
        """One answer, or none; and what those said, by name, who had none.

        Of several each is asked in haste first, and those that did not answer then once more.
        """
        names = self._names(blob)
        complaints = {name: error for name in names if (error := self._known(blob, name)) is not None}
        left = [name for name in names if name not in complaints]
        for name in self._fresh(blob, left) if len(left) > 1 else ():
            if answers := self._asked(name, act, complaints, HASTE):
                return answers, complaints
        for name in sorted(left, key=self._rank):
            if isinstance(complaints.get(name), Unavailable | None) and (
                answers := self._asked(name, act, complaints, None)
            ):
                return answers, complaints
        return [], complaints

    def _asked(
        self, name: str, act: Callable[[RemoteRepository], _T], complaints: dict[str, LaminaError],
        patience: Patience | None,
    ) -> list[_T]:
        from lamina.registry.provider import via

        try:
            return [act(self._engine.registries.repository(
                Reference.parse(name), headers=via(self._hops + 1), patience=patience
            ))]
        except LaminaError as error:
            complaints[name] = error
            if isinstance(error, Unavailable):
                self._silent[Reference.parse(name).registry] = error
            return []

    def _note(self, blob: DroppedBlob, name: str, error: LaminaError, *, is_hurried: bool) -> None:
        """Of one that answered, and then failed."""
        failures = self._hasty if is_hurried and isinstance(error, Unavailable) else self._failed
        failures[blob.digest, name] = error
        if isinstance(error, Unavailable):
            self._silent[Reference.parse(name).registry] = error

    def _known(self, blob: DroppedBlob, name: str) -> LaminaError | None:
        known = self._failed.get((blob.digest, name))
        if known is None and not self._asks_silent:
            known = self._silent.get(Reference.parse(name).registry)
        return known

    def _fresh(self, blob: DroppedBlob, names: list[str]) -> Iterator[str]:
        """Those that may answer at once, as far as is known when their turn comes."""
        for name in names:
            if not self._rank(name) and (blob.digest, name) not in self._hasty:
                yield name

    def _names(self, blob: DroppedBlob) -> list[str]:
        """The one that served it when it was dropped comes first; who kept us waiting already, last."""
        known = self._engine.store.catalog.origins(blob.digest)
        return sorted(dict.fromkeys(filter(None, (blob.repository, *known))), key=self._rank)

    def _rank(self, name: str) -> int:
        """0: not known to be silent; 1: failed at once; 2: only after a while."""
        from lamina.http.message import TimedOut

        error = self._silent.get(Reference.parse(name).registry)
        return 0 if error is None else 1 + isinstance(error, TimedOut)

    def _fill(self, file: BinaryIO, blob: DroppedBlob) -> None:
        """From the first that gives all of it. When all have failed, none is opened any more."""
        while True:
            known = self.doubts(blob.digest)
            file.seek(0)
            file.truncate()
            try:
                with self.open(blob) as stream:
                    while chunk := stream.read(CHUNK):
                        file.write(chunk)
            except LaminaError:
                if self.doubts(blob.digest) == known:
                    raise
            else:
                file.seek(0)
                return


class _Watched(VerifyingReader):
    """What goes wrong in here is written down against the repository."""

    def __init__(
        self, blob: DroppedBlob, source: BinaryIO, note: Callable[[LaminaError], LaminaError]
    ) -> None:
        super().__init__(blob.descriptor, source)
        self._note = note

    def read(self, size: int = -1) -> bytes:
        try:
            chunk = super().read(size)
            if self._digester.size == self._expected.size:  # who knows the size may read no further
                self._check()
        except (OriginLies, OriginUnreachable, OriginRefuses, NoLongerServed):  # reading all reads in pieces
            raise
        except LaminaError as error:
            raise self._note(error) from None
        else:
            return chunk


class _Noting(io.RawIOBase):
    """The same for the end of a blob, which nobody can verify."""

    def __init__(self, source: BinaryIO, note: Callable[[LaminaError], LaminaError]) -> None:
        super().__init__()
        self._source = source
        self._note = note

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except LaminaError as error:
            raise self._note(error) from None

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def has(blob: DroppedBlob) -> Callable[[RemoteRepository], str]:
    """Asks a repository for a blob; its name is the answer."""

    def ask(repository: RemoteRepository) -> str:
        if not repository.has(blob.descriptor):
            raise BlobNotFound(f"{blob.digest}: not in {repository.name}")
        return repository.name

    return ask


def check_served(engine: Core) -> Iterator[Finding]:
    """Asks for each dropped blob whether it could be fetched now; who did not answer comes last."""
    origins = Origins(engine, asks_silent=False)
    unanswered: dict[str, list[LaminaError]] = {}
    for blob in engine.store.dropped_blobs():
        answers, complaints = origins.ask(blob, has(blob))
        silent = {name: error for name, error in complaints.items() if not isinstance(error, NotFound)}
        if not answers and not silent:
            problem = str(_gone(blob, complaints)).removeprefix(f"{blob.digest}: ")
            yield Finding(subject=blob.digest, problem=problem)
        for name, error in ({} if answers else silent).items():
            unanswered.setdefault(name, []).append(error)
    for name, errors in unanswered.items():
        blobs = "a blob that was" if len(errors) == 1 else f"{len(errors)} blobs that were"
        yield Finding(
            subject=name, problem=f"cannot be asked for {blobs} dropped here: {errors[0]}", is_decided=False
        )


def _gone(blob: DroppedBlob, complaints: Mapping[str, LaminaError]) -> LaminaError:
    """Told by the one that leaves most hope; what the others did is a note."""
    error, told = _sentence(blob, complaints)
    for name, complaint in complaints.items():
        if name not in told:
            error.add_note(f"{name}: {complaint}")
    return error


def _sentence(blob: DroppedBlob, complaints: Mapping[str, LaminaError]) -> tuple[LaminaError, list[str]]:
    refusing = [name for name, error in complaints.items() if isinstance(error, Denied)]
    lying = [name for name, error in complaints.items() if isinstance(error, IntegrityError)]
    gone = [name for name, error in complaints.items() if isinstance(error, NotFound)]
    silent = [name for name in complaints if name not in {*refusing, *lying, *gone}]
    begin = f"{blob.digest}: was dropped here, and"
    if refusing:
        registry = Reference.parse(refusing[0]).registry
        return OriginRefuses(
            f"{begin} {' and '.join(refusing)} {_verb('refuse', refusing)} it ({complaints[refusing[0]]}); "
            f"`lamina login {registry}` may help"
        ), refusing
    if silent:
        return OriginUnreachable(
            f"{begin} {' and '.join(silent)} cannot be asked for it ({complaints[silent[0]]}); "
            "try again when it can be reached"
        ), silent
    if lying:
        what = str(complaints[lying[0]]).removeprefix(f"{blob.digest}: ")
        return OriginLies(
            f"{begin} {' and '.join(lying)} {_verb('serve', lying)} other bytes in its place ({what}); "
            "`lamina pull` the image from elsewhere, or squash it, which makes layers of its own"
        ), lying
    return NoLongerServed(
        f"{begin} {' and '.join(gone)} no longer {_verb('serve', gone)} it; "
        "`lamina pull` the image from where it is now, or squash it, which makes layers of its own"
    ), gone


def _verb(word: str, names: list[str]) -> str:
    return f"{word}s" if len(names) == 1 else word
