"""Layers by diff id: the index of each, and the unpacked forms that drivers asked for.

``layers/<algorithm>/<hex>/`` holds ``index``, ``facts.json``, and of the forms those that exist: ``tar``;
``erofs/<key>``, an image of metadata over that tar; ``trees/<key>``, a directory for overlayfs. A key
says what else the form depends on: the owners on disk, and the stack below where the layer is not
self-contained.

How that directory is written is told in ``layerdirectory``.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from lamina.content.durable import is_still_at, make_directory, sync_directory
from lamina.content.store import CHUNK
from lamina.errors import IntegrityError, LaminaError, NotFound
from lamina.layer.entry import Entry
from lamina.oci.digest import Digest
from lamina.snapshot import trees
from lamina.snapshot.hands import empty_anyhow
from lamina.snapshot.layerdirectory import REMOVING, USAGE, LayerDirectory, read_usage
from lamina.snapshot.layerfiles import FileRange, Writing, open_regular
from lamina.snapshot.snapshotter import Form, Reception
from lamina.values import asdict, dataclass

if TYPE_CHECKING:
    from lamina.content.collect import Finding
    from lamina.layer.index import LayerIndex

_HEX = r"[0-9a-f]{64,128}"


class LayerNotFound(NotFound):
    """Not unpacked here, or not in a form that has the data."""


class DiffIDMismatch(IntegrityError):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is asked of a layer so often that its index should not be opened for it.

    ``has_marks``: it holds whiteouts or opaque markers. ``has_deep_whiteouts``: some lie below the root
    directory. ``cuts_stack``: the root itself is opaque.
    ``is_self_contained``: its tree, or image, is the same whatever lies below. ``root``: what it says the
    root directory is like (see ``dress``), if it lists it. Sizes are bytes; ``content_size`` counts file
    data alone.
    """

    tar_size: int
    content_size: int
    entries: int
    has_marks: bool
    has_deep_whiteouts: bool
    cuts_stack: bool
    is_self_contained: bool
    has_duplicates: bool
    root: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One layer in the form that a driver asks for.

    ``blob`` is where its blob lies whole and verified, if it does already.
    """

    diff_id: Digest
    reception: Reception
    blob: str = ""

    @property
    def is_blob(self) -> bool:
        """Whether the blob is the very tar that the diff id names, by the same digest."""
        return self.blob.endswith(f"/{self.diff_id.algorithm}/{self.diff_id.encoded}")

    def to_json(self) -> dict[str, Any]:
        return {"diff_id": self.diff_id, "reception": asdict(self.reception), "blob": self.blob}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Wanted:
        reception = {**document["reception"], "form": Form(document["reception"]["form"])}
        return cls(
            diff_id=Digest.parse(document["diff_id"]), reception=Reception(**reception),
            blob=document["blob"],
        )


class LayerStore:
    """``blob_of`` finds the compressed blob of a layer, for data that no unpacked form has.

    ``bring_back`` fetches one that was dropped, when nothing here will do. ``empty`` removes a tree, whoever
    owns what is in it.
    """

    def __init__(
        self, root: Path, *, blob_of: Callable[[Digest], Path | None] | None = None,
        bring_back: Callable[[Digest], Path | None] | None = None,
        empty: Callable[[Path], None] = empty_anyhow,
    ) -> None:
        self.root = root
        self._layers = root / "layers"
        self._blob_of = blob_of or _nowhere
        self._bring_back = bring_back or _nowhere
        self._empty = empty
        # Who reads one file of a layer reads others: neither is ever another for the same diff id.
        self._facts: dict[Digest, Facts] = {}
        self._last_trees: dict[Digest, Path] = {}

    def directory(self, diff_id: Digest) -> Path:
        return self._layers / diff_id.algorithm / diff_id.encoded

    # -- what is there

    def has_index(self, diff_id: Digest) -> bool:
        return (self.directory(diff_id) / "index").is_file()

    def has(self, diff_id: Digest, form: Form, key: str = "") -> bool:
        """Whether the layer was received in a form. An EROFS image can be made of a tar at any time."""
        name = f"trees/{key}" if form is Form.TREE else "tar"
        return self.has_index(diff_id) and (self.directory(diff_id) / name).exists()

    def has_data(self, diff_id: Digest) -> bool:
        """Whether files are found without a blob: in a tar, or in trees where a path says which entry it is.

        A tree need not have all of them: see ``remaking``.
        """
        if self.tar(diff_id).exists():
            return True
        return (self.directory(diff_id) / "trees").is_dir() and self._is_plain(diff_id)

    def _is_plain(self, diff_id: Digest) -> bool:
        """A tree has the last entry of a path, and no file that went through another layer's symlink."""
        facts = self.facts(diff_id)
        return facts.is_self_contained and not facts.has_duplicates

    def insist(self, diff_ids: Iterable[Digest], reception: Reception) -> None:
        """Raises :class:`LayerNotFound` unless each layer was received as ``reception`` asks."""
        for diff_id in diff_ids:
            if not self.has(diff_id, reception.form, reception.key):
                raise LayerNotFound(f"{diff_id}: this layer was not unpacked here as {reception.form}")

    def index(self, diff_id: Digest) -> LayerIndex:
        from lamina.layer.index import LayerIndex  # noqa: PLC0415 - not for commands that only list

        try:
            return LayerIndex.load(self.directory(diff_id) / "index")
        except FileNotFoundError:
            raise LayerNotFound(f"{diff_id}: this layer was not unpacked here") from None

    def facts(self, diff_id: Digest) -> Facts:
        known = self._facts.get(diff_id)
        if known is None:
            try:
                text = (self.directory(diff_id) / "facts.json").read_text(encoding="ascii")
            except FileNotFoundError:
                raise LayerNotFound(f"{diff_id}: this layer was not unpacked here") from None
            known = self._facts[diff_id] = Facts(**json.loads(text))
        return known

    def tar(self, diff_id: Digest) -> Path:
        return self.directory(diff_id) / "tar"

    def image(self, diff_id: Digest, key: str) -> Path:
        """Where the EROFS image over the tar is, or would be."""
        return self.directory(diff_id) / "erofs" / key

    def tree(self, diff_id: Digest, key: str) -> Path:
        return self.directory(diff_id) / "trees" / key

    def walk(self) -> Iterator[Digest]:
        """Every layer whose index is here."""
        for _path, diff_id in self._directories():
            if diff_id is not None and self.has_index(diff_id):
                yield diff_id

    # -- reading

    def open_data(self, diff_id: Digest, entry: Entry) -> BinaryIO:
        """The content of a file of the layer. The caller closes it. Raises :class:`LayerNotFound`."""
        found = self._open_here(diff_id, entry)
        if found is None:
            found = self._open_in_blob(self._bring_back(diff_id), entry)
        if found is None:
            raise LayerNotFound(f"{diff_id}: no unpacked form here has the data of {entry.path!r}")
        return found

    def _open_here(self, diff_id: Digest, entry: Entry) -> BinaryIO | None:
        if entry.size == 0:
            return io.BytesIO()
        return (
            self._open_in_tar(diff_id, entry) or self._open_in_tree(diff_id, entry)
            or self._open_in_blob(self._blob_of(diff_id), entry)
        )

    def _open_in_tar(self, diff_id: Digest, entry: Entry) -> BinaryIO | None:
        try:
            return io.BufferedReader(FileRange(self.tar(diff_id), entry.data_offset, entry.size))
        except FileNotFoundError:
            return None

    def _open_in_tree(self, diff_id: Digest, entry: Entry) -> BinaryIO | None:
        if not self._is_plain(diff_id):
            return None
        found = open_regular(self._last_trees.get(diff_id), entry)
        if found is not None:
            return found
        for tree in _children(self.directory(diff_id) / "trees"):
            found = open_regular(tree, entry)
            if found is not None:
                self._last_trees[diff_id] = tree
                return found
        return None

    def _open_in_blob(self, blob: Path | None, entry: Entry) -> BinaryIO | None:
        """Inflates up to the file: slow, and always there as long as the blob is."""
        if blob is None:
            return None
        from lamina.snapshot.receive import open_in_blob  # noqa: PLC0415 - rare

        return open_in_blob(blob, entry.data_offset, entry.size)

    def open_tar(self, diff_id: Digest) -> BinaryIO:
        """The uncompressed tar, for who reads parts of it in ascending order; the caller closes it.

        Where no tar was kept, the layer's blob is inflated on the way, or the tar is made again where the
        blob was dropped: ``seek`` goes forward only.
        """
        with contextlib.suppress(FileNotFoundError):
            return open(self.tar(diff_id), "rb", buffering=0)
        blob = self._blob_of(diff_id)
        if blob is None and self.has_index(diff_id) and self.has_data(diff_id):
            return self.index(diff_id).open_tar(lambda entry: self.open_data(diff_id, entry))
        blob = blob or self._bring_back(diff_id)
        if blob is None:
            raise LayerNotFound(f"{diff_id}: neither its tar nor a blob of it is here")
        from lamina.snapshot.receive import InflatingTar  # noqa: PLC0415 - inflating costs 10 ms of imports

        return cast("BinaryIO", InflatingTar(blob))

    def rebuild(self, diff_id: Digest, write: Callable[[bytes], object]) -> None:
        """The exact tar again, piece by piece, out of whatever form is here; nothing is fetched for it."""
        try:
            tar = open(self.tar(diff_id), "rb", buffering=0)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            out: Any = Writing(write)
            self.index(diff_id).rebuild(lambda entry: self._opened_here(diff_id, entry), out)
            return
        with tar:
            while chunk := tar.read(CHUNK):
                write(chunk)

    def _opened_here(self, diff_id: Digest, entry: Entry) -> BinaryIO:
        found = self._open_here(diff_id, entry)
        if found is None:
            raise LayerNotFound(f"{diff_id}: no unpacked form here has the data of {entry.path!r}")
        return found

    # -- writing

    def claim(self, diff_id: Digest, *, wait: bool = True) -> LayerDirectory | None:
        """Locks the layer's directory, making it if need be; ``None`` if it is taken and nobody waits."""
        path = self.directory(diff_id)
        while True:
            make_directory(path)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if is_still_at(path, descriptor):
                    return LayerDirectory(path, descriptor, self._empty)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last owner removed it while we waited

    def is_busy(self, diff_id: Digest) -> bool:
        """Whether somebody is unpacking it right now."""
        if not self.directory(diff_id).is_dir():
            return False
        claimed = self.claim(diff_id, wait=False)
        if claimed is None:
            return True
        claimed.close()
        return False

    def remove(self, diff_id: Digest) -> int:
        """Everything of a layer; returns the bytes freed.

        The caller has removed the snapshots that are made of it.
        """
        claimed = self.claim(diff_id)
        assert claimed is not None
        with claimed:
            size = self.size(diff_id)
            doomed = claimed.path.with_name(f"{REMOVING}{os.urandom(8).hex()}")
            os.rename(claimed.path, doomed)
            sync_directory(doomed.parent)
        self._empty(doomed)
        return size

    def remove_tree(self, diff_id: Digest, key: str) -> None:
        """One tree of a layer, and the note of what it takes."""
        claimed = self.claim(diff_id)
        assert claimed is not None
        with claimed:
            tree = self.tree(diff_id, key)
            doomed = claimed.path / f"{REMOVING}{os.urandom(8).hex()}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(tree, doomed)
                tree.with_name(f"{tree.name}{USAGE}").unlink(missing_ok=True)
                self._empty(doomed)

    def leftovers(self) -> Iterator[tuple[Path, int]]:
        """What writers that died left behind, and the bytes on disk of each."""
        for path, diff_id in self._directories():
            if diff_id is None:
                yield path, trees.measure(path).size
                continue
            claimed = self.claim(diff_id, wait=False)
            if claimed is not None:
                with claimed:
                    yield from claimed.leftovers()

    def sweep(self) -> int:
        """Removes what :meth:`leftovers` finds; returns the bytes freed."""
        freed = 0
        for path, diff_id in self._directories():
            if diff_id is None:
                freed += trees.measure(path).size
                self._empty(path)
                continue
            claimed = self.claim(diff_id, wait=False)
            if claimed is not None:
                with claimed:
                    freed += claimed.clear()
        return freed

    def _directories(self) -> Iterator[tuple[Path, Digest | None]]:
        """Those of layers, and without a diff id those on their way out."""
        for algorithm in sorted(self._layers.iterdir()):
            for name in sorted(os.listdir(algorithm)):
                if name.startswith(REMOVING):
                    yield algorithm / name, None
                elif re.fullmatch(_HEX, name):
                    yield algorithm / name, Digest.parse(f"{algorithm.name}:{name}")

    # -- accounts

    def usage(self) -> Iterator[tuple[Digest, int]]:
        """Bytes on disk of each layer: its index and all of its forms."""
        for diff_id in self.walk():
            yield diff_id, self.size(diff_id)

    def size(self, diff_id: Digest) -> int:
        """Bytes on disk of a layer's index and all of its forms.

        Trees are not walked: what they take was written beside them when they were made.
        """
        directory = self.directory(diff_id)
        total = 0
        for path in (directory / "index", directory / "facts.json", directory / "tar"):
            total += _allocated(path)
        for path in _children(directory / "erofs"):
            total += _allocated(path)
        for path in _children(directory / "trees"):
            if path.suffix == USAGE:
                total += read_usage(path.with_suffix("")).size
        return total

    def check(self, *, repair: bool = False) -> Iterator[Finding]:
        """See :func:`lamina.snapshot.layercheck.check_layers`."""
        from lamina.snapshot.layercheck import check_layers  # noqa: PLC0415 - workers have no use for it

        return check_layers(self, repair=repair)

    def give_up(self, diff_id: Digest) -> str:
        """Removes a layer that is damaged.

        Why it was not, otherwise: where its blob was dropped, and cannot be had, what is left is all there
        is.
        """
        try:
            if self._blob_of(diff_id) is None:
                self._bring_back(diff_id)
        except (LaminaError, OSError) as error:
            return f"it stays, since {error}"
        self.remove(diff_id)
        return ""

    def is_left_alone(self, diff_id: Digest) -> bool:
        """Whether it is known that no blob of the layer is here."""
        return self._blob_of is not _nowhere and self._blob_of(diff_id) is None

    def plain_trees(self, diff_id: Digest) -> list[Path]:
        """Those that have each of the layer's files at its own path."""
        if not self._is_plain(diff_id):
            return []
        return [tree for tree in _children(self.directory(diff_id) / "trees") if tree.is_dir()]


def facts_document(facts: Facts) -> bytes:
    return json.dumps(asdict(facts), separators=(",", ":")).encode("ascii")


def _nowhere(_diff_id: Digest) -> Path | None:
    return None


def _allocated(path: Path) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _children(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except FileNotFoundError:
        return []
