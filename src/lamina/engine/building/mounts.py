"""``RUN --mount``: what a command sees besides its filesystem, and which of it belongs into the key.

What a bind mount shows is a layer of its own, made of exactly the files that were named, or the layers of
another stage; so nothing that happens to the context meanwhile can lead out of it (CVE-2024-23651), owners
are right for every user, and what a command writes there is gone afterwards.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.build.checksum import digest_selection
from lamina.build.configuration import directory
from lamina.build.instruction import RunMount
from lamina.build.selection import whole_tree
from lamina.engine.building.claims import claim, is_empty
from lamina.engine.building.copying import Gathered, Part, write_copy
from lamina.engine.building.snapshots import snapshot
from lamina.errors import InvalidInput, NotFound
from lamina.runtime.plan import mount_documents
from lamina.runtime.volume import ContainerMount, MountKind
from lamina.values import dataclass, field

if TYPE_CHECKING:
    from lamina.build.context import Files
    from lamina.engine.building.build import Build
    from lamina.engine.building.state import BuiltLayer
    from lamina.engine.layering import Fill

CACHES = "buildcaches"
_SECRET_MODE = 0o400
_CACHE_MODE = 0o755


class SecretMissing(NotFound):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSource:
    """What ``from=`` leads to: files to look at, and the layers that hold them if they are a stage's."""

    files: Files
    layers: tuple[BuiltLayer, ...] | None = None
    chain: str = ""


@dataclass(slots=True, kw_only=True)
class Prepared:
    """``documents`` are a plan's volumes; ``secrets`` variables that neither key nor history hold."""

    documents: list[Mapping[str, Any]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)


class Mounts:
    """One RUN's. ``fixed`` first, for the key; ``prepared`` only if there is something to run."""

    def __init__(
        self, build: Build, mounts: tuple[RunMount, ...], config: Mapping[str, Any],
        sources: Mapping[int, MountSource],
    ) -> None:
        self._build = build
        self._mounts = mounts
        self._config = config
        self._sources = sources
        self._parts: dict[int, Part] = {}

    @property
    def fixed(self) -> list[tuple[str, str]]:
        """Content of bind mounts is in the key; caches, secrets and agents are not (CONVENTIONS)."""
        found = []
        for number, mount in enumerate(self._mounts):
            if mount.type in ("secret", "ssh"):
                found.append((f"the {mount.type} {mount.id}", json.dumps([mount.target, mount.env])))
                continue
            where = f"the mount on {self._target(mount)}"
            if mount.type == "bind":
                found.append((where, f"{self._content(number, mount)} {mount.is_read_only}"))
            elif mount.type == "tmpfs":
                found.append((where, f"tmpfs {mount.size}"))
            else:
                found.append((where, mount.type))
        return found

    def _content(self, number: int, mount: RunMount) -> str:
        source = self._sources[number]
        path = mount.source.strip("/")
        if source.layers is not None and not path:
            return source.chain
        selection = whole_tree(source.files, path)
        part = Part(
            selection=selection, files=source.files,
            digested=digest_selection(source.files, selection, self._build.digests),
        )
        self._parts[number] = part
        return str(part.digested.digest)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Prepared]:
        found = Prepared()
        with ExitStack() as stack:
            claimed = self._claim_caches(stack)
            for number, mount in enumerate(self._mounts):
                match mount.type:
                    case "bind":
                        found.documents.append(self._bind(number, mount, stack))
                    case "cache":
                        found.documents.append(self._cache(number, mount, claimed[number]))
                    case "tmpfs":
                        found.documents.append(self._tmpfs(mount))
                    case "secret":
                        self._secret(mount, found)
                    case "ssh":
                        self._ssh(mount, found, stack)
            yield found

    def _target(self, mount: RunMount) -> str:
        if not mount.target:
            raise InvalidInput(f"--mount={mount.raw}: expected target=PATH")
        return directory(self._config, mount.target)

    # -- bind

    def _bind(self, number: int, mount: RunMount, stack: ExitStack) -> dict[str, Any]:
        source = self._sources[number]
        # Through the symlinks that are there, as after a chroot into it (CVE-2024-1753).
        subpath = source.files.resolve(mount.source.strip("/")) or ""
        layers = source.layers
        if layers is None:
            part = self._parts[number]
            layers = self._made(part)
            # The layer begins where the source was: a directory's contents, or one file under its name.
            subpath = part.selection.entries[0].target if part.selection.is_single else ""
        return self._image(mount, layers, subpath, stack)

    def _image(
        self, mount: RunMount, layers: tuple[BuiltLayer, ...], subpath: str, stack: ExitStack
    ) -> dict[str, Any]:
        _key, mounts = stack.enter_context(snapshot(self._build, layers, is_view=mount.is_read_only))
        asked = ContainerMount(
            kind=MountKind.IMAGE, target=self._target(mount), is_read_only=mount.is_read_only, subpath=subpath
        )
        return {"mount": asked.to_json(), "layers": mount_documents(mounts)}

    def _made(self, part: Part) -> tuple[BuiltLayer, ...]:
        return self._build.memory.layer_apart(part.digested.digest, self._whole(part))

    @staticmethod
    def _whole(part: Part) -> Fill:
        """All of it, at the root of a layer."""
        from lamina.build.failure import Span
        from lamina.build.instruction import Copy

        copy = Copy(sources=(".",), destination="/", span=Span(0, 0), original="", keyword="COPY")
        return write_copy(copy, Gathered(parts=(part,), heredocs=()), None, "/", 0)

    # -- caches

    def _claim_caches(self, stack: ExitStack) -> dict[int, Path]:
        """Always in the order of their names: no two commands wait for each other. Private ones never wait.

        A cache that is mounted twice is claimed once, by the stricter word.
        """
        asked: dict[tuple[str, str, int], list[int]] = {}
        for number, mount in enumerate(self._mounts):
            if mount.type == "cache":
                is_private = mount.sharing == "private"
                key = (self._name(mount), "private" if is_private else "", number if is_private else -1)
                asked.setdefault(key, []).append(number)
        claimed: dict[int, Path] = {}
        for name, sharing, _ in sorted(asked):
            numbers = asked[name, sharing, _]
            is_locked = any(self._mounts[number].sharing == "locked" for number in numbers)
            home = self._build.engine.root / CACHES / name
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            how = sharing or ("locked" if is_locked else "shared")
            claimed |= dict.fromkeys(numbers, claim(home, how, stack, self._build.course.insist_going))
            os.utime(home)
        return claimed

    def _name(self, mount: RunMount) -> str:
        """An id may be anything: only its hash becomes a name on the disk (CVE-2024-9675)."""
        name = mount.id or self._target(mount)
        return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()

    def _cache(self, number: int, mount: RunMount, place: Path) -> dict[str, Any]:
        asked = ContainerMount(
            kind=MountKind.BIND, target=self._target(mount), source=str(place),
            is_read_only=mount.is_read_only,
        )
        document: dict[str, Any] = {"mount": asked.to_json()}
        if is_empty(place):
            if number in self._sources:
                self._begin_with(self._sources[number], mount, place)
            document["owner"] = (mount.uid or 0, mount.gid or 0)
            document["mode"] = _CACHE_MODE if mount.mode is None else mount.mode
        return document

    def _begin_with(self, source: MountSource, mount: RunMount, place: Path) -> None:
        """``from=``: what a new cache holds at first. Only root can give files to others here."""
        import tempfile

        from lamina.build.streamed import extract_into
        from lamina.layer.index import IndexBuilder

        selection = whole_tree(source.files, mount.source.strip("/"))
        part = Part(
            selection=selection, files=source.files,
            digested=digest_selection(source.files, selection, self._build.digests),
        )
        with tempfile.TemporaryFile() as spool:
            self._whole(part)(spool, IndexBuilder(io.BytesIO()))
            spool.seek(0)
            extract_into(spool, place, ids=None if os.geteuid() == 0 else (os.geteuid(), os.getegid()))

    # -- the others

    def _tmpfs(self, mount: RunMount) -> dict[str, Any]:
        options = ("exec", "dev", "suid", *((f"size={mount.size}",) if mount.size else ()))
        asked = ContainerMount(kind=MountKind.TMPFS, target=self._target(mount), options=options)
        return {"mount": asked.to_json()}

    def _secret(self, mount: RunMount, found: Prepared) -> None:
        secret = self._build.options.secrets.get(mount.id)
        if secret is None:
            if mount.is_required:
                raise SecretMissing(f"secret {mount.id}: required here; give --secret id={mount.id},src=FILE")
            return
        data = secret.read()
        if mount.env:
            if b"\0" in data:
                raise InvalidInput(f"secret {mount.id}: a variable cannot hold NUL; mount it as a file")
            found.secrets[mount.env] = data.decode("utf-8", "surrogateescape")
            if not mount.target:
                return
        found.documents.append(file_document(
            self._target(mount), data, mode=_SECRET_MODE if mount.mode is None else mount.mode,
            owner=(mount.uid or 0, mount.gid or 0),
        ))

    def _ssh(self, mount: RunMount, found: Prepared, stack: ExitStack) -> None:
        agent = self._build.options.agents.get(mount.id)
        if agent is None:
            if mount.is_required:
                raise SecretMissing(f"ssh {mount.id}: required here; give --ssh {mount.id}")
            return
        from lamina.engine.building.agent import forwarded

        number = len(found.documents)
        target = directory(self._config, mount.target or f"/run/buildkit/ssh_agent.{number}")
        place = stack.enter_context(forwarded(self._build.engine.root, agent))
        asked = ContainerMount(kind=MountKind.BIND, target=target, source=str(place))
        found.documents.append({
            "mount": asked.to_json(), "owner": (mount.uid or 0, mount.gid or 0),
            "mode": 0o600 if mount.mode is None else mount.mode,
        })
        found.secrets.setdefault("SSH_AUTH_SOCK", target)


def file_document(target: str, data: bytes, *, mode: int, owner: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """A file that lies in memory, for a plan."""
    asked = ContainerMount(kind=MountKind.FILE, target=target, is_read_only=True)
    content = base64.b64encode(data).decode()
    return {"mount": asked.to_json(), "content": content, "owner": owner, "mode": mode}
