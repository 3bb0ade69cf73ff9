"""Containers become images, and tars: what one changed, as one more layer on its image."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.content.lease import Lease
from lamina.engine.changes import apply_changes
from lamina.engine.containers import with_layer
from lamina.engine.families import layer_type, media_types
from lamina.engine.images import load_record
from lamina.engine.removed import discard
from lamina.errors import InvalidInput, NotFound, Unsupported
from lamina.image import Image
from lamina.layer.compress import Compression, layer_media_type
from lamina.layer.index import IndexBuilder, LayerIndex
from lamina.layer.skeleton import Bounded
from lamina.oci.config import History, ImageConfig
from lamina.oci.descriptor import (
    DOCKER_MANIFEST,
    Descriptor,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference
from lamina.values import dataclass, field

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.layer.entry import Entry
    from lamina.layer.tarstream import Writable
    from lamina.runtime.container import Container, ContainerDirectory
    from lamina.snapshot.changes import Change
    from lamina.snapshot.snapshotter import Snapshotter

_BUFFER = 1 << 18
# A container has these settings of its own: also where they are empty, those of the image are gone.
_SETTINGS = (
    "Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "StopSignal", "User", "Volumes",
    "WorkingDir",
)
# Of the old config: triggers, which were for builds on it, and what speaks of the container behind it.
_NOT_INHERITED = ("OnBuild", "Hostname", "Domainname", "Image")
_NOT_OF_THE_NEW = ("author", "container", "container_config", "id", "parent")


class BaseNotFound(NotFound):
    """The image that a container was made of is no longer here."""


def changes(engine: Core, container: Container, directory: ContainerDirectory) -> list[Change]:
    """What ``diff`` shows: docker's letters and order. The container may be running."""
    from lamina.snapshot.changes import list_changes

    without = stubs(directory)
    return with_layer(engine, container, lambda driver: list_changes(driver, container.snapshot, without))


def stubs(directory: ContainerDirectory) -> Mapping[str, str]:
    """What was made in a container's root only so that something could be mounted there: path to kind."""
    try:
        found: dict[str, str] = json.loads((directory.path / "stubs.json").read_bytes())
    except FileNotFoundError:
        return {}
    return {path.strip("/"): kind for path, kind in found.items()}


# -- commit


def commit(
    engine: Core,
    container: Container,
    directory: ContainerDirectory,
    name: str | None,
    *,
    message: str = "",
    author: str = "",
    changes: Sequence[str] = (),
    created: str = "",
    form: str = "",
) -> Digest:
    """The container as it stands, as an image; gives its ID. Whoever wants it to stand still pauses it.

    ``changes`` are Dockerfile lines for the config. ``created`` is RFC 3339, now by default; ``form`` is one
    of :data:`FORMS`, by default the base's. Where no file changed there is no new layer, only a line of
    history. Nothing has a name before all of it is there; what was made is taken back after a failure.
    """
    reference = Reference.parse(name).with_default_tag() if name else None
    if reference is not None and reference.digest is not None:
        raise InvalidInput(f"{name}: a name to give cannot hold a digest")
    execution = apply_changes(_settings(container, base_of(engine, container)), changes)
    now = datetime.fromtimestamp(engine.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    with Lease(engine.store.state, f"commit {container.name}") as lease:
        base = base_of(engine, container)
        lease.hold([
            base.descriptor.digest, base.id, *base.config.diff_ids,
            *(layer.descriptor.digest for layer in base.layers),
        ])
        work = _Commit(engine, base, lease)
        try:
            work.write_layer(container, stubs(directory))
            line = History(
                created=created or now, created_by=" ".join(container.execution.get("Cmd") or ()),
                author=author, comment=message, empty_layer=work.layer is None,
            )
            manifest = work.document(execution, line, form)
            names = (reference.canonical,) if reference is not None else ()
            return engine.store.record(manifest.descriptor, names=names, manifest=manifest).config
        except BaseException:
            lease.close()
            discard(engine, work.noted, work.layers)
            raise


def base_of(engine: Core, container: Container) -> Image:
    """The image that a container was made of. Raises :class:`BaseNotFound`."""
    catalog = engine.store.catalog
    known = catalog.with_digest(container.image)
    for record in [*([known] if known else []), *catalog.with_id_prefix(container.config.encoded)]:
        image = load_record(engine, record)
        if image.id == container.config:
            return image
    raise BaseNotFound(
        f"{container.name}: its image {container.image_name} ({container.config.short}) is no longer here; "
        f"`lamina pull {container.image_name}` may fetch it"
    )


def _settings(container: Container, base: Image) -> dict[str, Any]:
    """The image's ``config`` object with the container's own settings."""
    inherited = {
        name: value for name, value in base.config.execution.items()
        if name not in _SETTINGS and name not in _NOT_INHERITED
    }
    return inherited | {
        name: container.execution[name] for name in _SETTINGS if container.execution.get(name)
    }


@dataclass(slots=True)
class _Commit:
    """``layer`` is ``None`` while nothing changed; all that was put into the store is noted and leased."""

    engine: Core
    base: Image
    lease: Lease
    layer: Descriptor | None = None
    noted: list[Digest] = field(default_factory=list)
    layers: list[Digest] = field(default_factory=list)

    def write_layer(self, container: Container, without: Mapping[str, str]) -> None:
        from lamina.engine.layering import store_layer
        from lamina.snapshot.changes import write_layer

        def note(diff_id: Digest) -> None:
            self._note(diff_id)
            self.layers.append(diff_id)

        is_docker = self.base.manifest.media_type == DOCKER_MANIFEST
        media_type = layer_media_type(Compression.NONE, is_docker)

        def store(driver: Snapshotter) -> Descriptor | None:
            def fill(out: Writable, builder: IndexBuilder) -> int:
                return write_layer(driver, container.snapshot, out, builder, without).tar_size

            return store_layer(self.engine, fill, note, media_type=media_type)

        self.layer = with_layer(self.engine, container, store)

    def document(self, execution: Mapping[str, Any], line: History, form: str) -> Manifest:
        config = _config(self.base, execution, line, None if self.layer is None else self.layer.digest)
        layers = [layer.descriptor for layer in self.base.layers]
        if self.layer is not None:
            layers.append(self.layer)
        is_docker = self.base.manifest.media_type == DOCKER_MANIFEST and all(map(_is_dockers, layers))
        family = form or ("docker" if is_docker else "oci")
        media_type, config_type = media_types(family)
        described = Descriptor(media_type=config_type, digest=config.digest, size=len(config.raw))
        manifest = Manifest.build(described, _in_family(layers, family), media_type=media_type)
        self._put(config_type, config.raw)
        self._put(media_type, manifest.raw)
        return manifest

    def _put(self, media_type: str, raw: bytes) -> None:
        self._note(Digest.of(raw))
        self.engine.store.put_bytes(media_type, raw)

    def _note(self, digest: Digest) -> None:
        """Before it is there: whoever makes the same and takes it back must see that we want it."""
        self.noted.append(digest)
        self.lease.hold([digest])


def _config(base: Image, execution: Mapping[str, Any], line: History, diff_id: Digest | None) -> ImageConfig:
    document = {name: value for name, value in base.config.document.items() if name not in _NOT_OF_THE_NEW}
    lines: list[Any] = list(document.get("history") or [])
    # Layers below about which history is silent get a line, or the new one would be taken for theirs.
    told = sum(not item.get("empty_layer") for item in lines)
    lines += [{"comment": "a layer without history"}] * (len(base.layers) - told if diff_id else 0)
    document["created"] = line.created
    if line.author:
        document["author"] = line.author
    document["config"] = dict(execution)
    document["rootfs"] = {
        **document["rootfs"], "diff_ids": [*base.config.diff_ids, *([diff_id] if diff_id else [])],
    }
    document["history"] = [*lines, line.to_json()]
    return ImageConfig.build(document)


def _in_family(layers: Sequence[Descriptor], form: str) -> list[Descriptor]:
    """The same blobs by the words of one family. The old descriptors' annotations spoke of the old image."""
    found = [
        Descriptor(
            media_type=layer_type(layer.media_type, form), digest=layer.digest, size=layer.size
        )
        for layer in layers
    ]
    if form == "docker":
        for layer in found:
            if not _is_dockers(layer):
                raise Unsupported(
                    f"{layer.digest}: docker's format has no word for {layer.media_type}; use --format oci"
                )
    return found


def _is_dockers(layer: Descriptor) -> bool:
    return layer.media_type.startswith("application/vnd.docker.")


# -- export


def export(engine: Core, container: Container, out: BinaryIO) -> None:
    """All that the container sees but for what is mounted in it, as one tar. It may be running.

    What it did not touch comes from the image's layers with the owners that they have for it, so that the
    tar is right for a user with a single id too; its changes are written down first, in a nameless file.
    """
    from lamina.engine.archives import write_union
    from lamina.engine.contents import Contents
    from lamina.engine.explain import open_tree

    base = base_of(engine, container)
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(engine.store.state, f"export {container.name}"))
        lease.hold([*base.config.diff_ids, *(layer.descriptor.digest for layer in base.layers)])
        scratch = stack.enter_context(tempfile.TemporaryFile(dir=engine.store.scratch))
        top = with_layer(engine, container, lambda driver: _write_changes(driver, container, scratch))
        tree = open_tree(engine, base)
        tree.add(top)
        contents = stack.enter_context(Contents(engine, base))

        def open_data(layer: int, entry: Entry) -> BinaryIO:
            if layer < len(base.layers):
                return contents.open(layer, entry)
            scratch.seek(entry.data_offset)
            return io.BufferedReader(Bounded(scratch, entry.size), _BUFFER)

        write_union(tree, open_data, out)


def _write_changes(driver: Snapshotter, container: Container, scratch: BinaryIO) -> LayerIndex:
    """The stubs too: docker exports the empty files and directories that something was mounted on.

    Into a file that may hold what was begun with another driver.
    """
    from lamina.snapshot.changes import write_layer

    index = io.BytesIO()
    builder = IndexBuilder(index)
    scratch.seek(0)
    scratch.truncate()
    written = write_layer(driver, container.snapshot, scratch, builder)
    # Nobody asks this index which layer it is of: hashing a layer that is never kept would be for nothing.
    builder.finish(Digest.of(b""), written.tar_size)
    return LayerIndex.from_bytes(index.getvalue())
