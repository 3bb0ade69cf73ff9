"""Repositories that a dropped blob comes back from: asked in turn, until one gives the right bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, TypeVar, cast

from lamina.content.collect import Finding
from lamina.content.dropped import DroppedBlob
from lamina.content.store import CHUNK, BlobNotFound, VerifyingReader
from lamina.errors import Denied, IntegrityError, LaminaError, NotFound, Unavailable
from lamina.oci.digest import Digest
from lamina.oci.reference import Reference

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.registry.remote import RemoteRepository

_T = TypeVar("_T")
# Registries of our kind that one question for a blob may go through: they may stand in a circle.
MAX_HOPS = 3


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
        self._resumed: set[Digest] = set()

    def open(self, blob: DroppedBlob, offset: int = 0) -> BinaryIO:
        """Verified as it is read, if it is read from its beginning. Raises as :meth:`first` does."""
        name, stream = self.first(blob, lambda asked: (asked.name, asked.open_at(blob.descriptor, offset)))
        if offset:
            self._resumed.add(blob.digest)
            return stream
        return cast("BinaryIO", _Watched(blob, stream, name, self._failed))

    def open_whole(self, blob: DroppedBlob) -> BinaryIO:
        """For who cannot take back what was passed on: with others to ask, read to its end first."""
        if len(self._names(blob)) > 1:
            try:
                file = tempfile.TemporaryFile(prefix="blob-", dir=self._engine.store.scratch)  # noqa: SIM115
            except OSError:  # no place to write: as well as it goes, then
                return self.open(blob)
            try:
                self._fill(cast("BinaryIO", file), blob)
            except BaseException:
                file.close()
                raise
            return cast("BinaryIO", file)
        return self.open(blob)

    def doubts(self, blob: Digest) -> int:
        """Grows when what was given for a blob was wrong, or may have been; the next time it is another's."""
        return sum(digest == blob for digest, _name in self._failed) + (blob in self._resumed)

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
        """One answer, or none; and what those said, by name, who had none."""
        complaints: dict[str, LaminaError] = {}
        for name in self._names(blob):
            known = self._failed.get((blob.digest, name)) or self._silent.get(Reference.parse(name).registry)
            try:
                if known is None:
                    return [act(self._repository(name))], complaints
                complaints[name] = known
            except LaminaError as error:
                complaints[name] = error
                if isinstance(error, Unavailable) and not self._asks_silent:
                    self._silent[Reference.parse(name).registry] = error
        return [], complaints

    def _names(self, blob: DroppedBlob) -> list[str]:
        """The one that served it when it was dropped comes first."""
        known = self._engine.store.catalog.origins(blob.digest)
        return list(dict.fromkeys(filter(None, (blob.repository, *known))))

    def _repository(self, name: str) -> RemoteRepository:
        from lamina.registry.provider import via

        return self._engine.registries.repository(Reference.parse(name), headers=via(self._hops + 1))

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
        self, blob: DroppedBlob, source: BinaryIO, name: str, failed: dict[tuple[Digest, str], LaminaError]
    ) -> None:
        super().__init__(blob.descriptor, source)
        self._blob = blob
        self._name = name
        self._failed = failed

    def read(self, size: int = -1) -> bytes:
        try:
            return super().read(size)
        except (OriginLies, OriginUnreachable, OriginRefuses, NoLongerServed):  # reading all reads in pieces
            raise
        except LaminaError as error:
            self._failed[self._blob.digest, self._name] = error
            raise _gone(self._blob, {self._name: error}) from None


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
