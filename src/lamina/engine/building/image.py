"""The end of a build: config and manifest of the target's last state, in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina.engine.building.exchange import INLINE, inline_document
from lamina.engine.building.groups import ranges
from lamina.engine.building.state import BuiltLayer, StageState
from lamina.engine.families import layer_type, media_types
from lamina.engine.layering import learn
from lamina.insight.instruction import ARGUMENTS, BASE, DOCKERFILE, INSTRUCTION, LINES
from lamina.layer.compress import Compression, deflate, layer_media_type
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import (
    DOCKER_INDEX,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest, dump_document
from lamina.values import replace

if TYPE_CHECKING:
    from lamina.engine.building.build import Build
    from lamina.engine.building.options import BuildOptions

_BASE_DIGEST, _BASE_NAME = "org.opencontainers.image.base.digest", "org.opencontainers.image.base.name"
_NOT_OF_THE_NEW = (
    "author", "config", "container", "container_config", "created", "history", "id", "parent", "rootfs",
)
# Of the old config: triggers, which are done, and what speaks of a container behind it.
_NOT_INHERITED = ("Domainname", "Hostname", "Image")


def write_documents(build: Build, state: StageState) -> Manifest:
    """The image of one platform in the store, leased and without a name; squashed if that was asked for.

    Documents land after all that they point at.
    """
    found = ranges(state, build.options, build.dockerfile, build.stages)
    state = _compressed(build, state, found)
    config = _config(build, state)
    media_type, config_type = media_types(build.options.form)
    described = Descriptor(media_type=config_type, digest=config.digest, size=len(config.raw))
    manifest = _manifest(build, state, described, media_type)
    for kind, raw in ((config_type, config.raw), (media_type, manifest.raw)):
        build.lease.hold([Digest.of(raw)])
        build.engine.store.put_bytes(kind, raw)
    return _merged(build, state, manifest, found) if found else manifest


def _merged(
    build: Build, state: StageState, manifest: Manifest, found: Sequence[tuple[int, int]]
) -> Manifest:
    from lamina.engine.merging import Make, Merging, SquashOptions
    from lamina.image import Image

    compression = _compression(build.options)

    def recall(parts: Sequence[Digest], make: Make) -> tuple[Descriptor, Digest]:
        fixed = [("the layers", " ".join(parts)), ("the compression", f"{compression} {build.options.level}")]
        made = build.memory.derived("squash", fixed, make)
        return made.descriptor, made.diff_id

    build.merged += sum(last - first for first, last in found)
    options = SquashOptions(
        ranges=found, created=build.time_of(state), compression=compression, level=build.options.level,
    )
    image = Image.load(build.engine.store, manifest.descriptor, None)
    merging = Merging(build.engine, options, (), image, [], build.lease, recall)
    merging.run()
    return merging.made


def _compression(options: BuildOptions) -> str:
    """A push would compress plain layers, and what was said of the image would be of another."""
    return "gzip" if options.sbom is not None and options.compression == "none" else options.compression


def _compressed(build: Build, state: StageState, merged: Sequence[tuple[int, int]]) -> StageState:
    """New layers are plain in the store, which costs no time; whoever asks gets them compressed."""
    options, compression = build.options, _compression(build.options)
    if compression == "none":
        return state
    passing = {number for first, last in merged for number in range(first, last + 1)}
    return replace(state, layers=tuple(
        layer if number in passing or (layer.origin is None and not _is_pushed_otherwise(build, layer))
        else compressed_layer(build, layer, compression, options.level)
        for number, layer in enumerate(state.layers)
    ))


def _is_pushed_otherwise(build: Build, layer: BuiltLayer) -> bool:
    """Layers of a base stay as they are, unless something is said of an image that has them plain."""
    return build.options.sbom is not None and layer.descriptor.digest == layer.diff_id


def compressed_layer(build: Build, layer: BuiltLayer, compression: str, level: int | None) -> BuiltLayer:
    fixed = [("the layer", str(layer.diff_id)), ("the compression", f"{compression} {level}")]
    made = build.memory.derived(
        "compress", fixed, lambda: (_deflated(build, layer, Compression(compression), level), layer.diff_id)
    )
    return replace(layer, descriptor=made.descriptor)


def _deflated(build: Build, layer: BuiltLayer, compression: Compression, level: int | None) -> Descriptor:
    store = build.engine.store
    with store.ingest() as ingest, build.engine.layers_store.open_tar(layer.diff_id) as tar:
        out = deflate(ingest, compression, level)
        while chunk := tar.read(1 << 20):
            out.write(chunk)
        out.finish()
        build.lease.hold([ingest.digest])
        made = ingest.commit(layer_media_type(compression, False))
    learn(build.engine, made.digest, layer.diff_id)
    return made


def _config(build: Build, state: StageState) -> ImageConfig:
    document: dict[str, Any] = {
        name: value for name, value in state.base.document.items() if name not in _NOT_OF_THE_NEW
    }
    platform = state.platform
    document = {"created": build.time_of(state), **document}
    document.setdefault("architecture", platform.architecture)
    document.setdefault("os", platform.os)
    if platform.variant:
        document.setdefault("variant", platform.variant)
    if state.author:
        document["author"] = state.author
    config = {name: value for name, value in state.config.items() if name not in _NOT_INHERITED}
    if build.options.labels:
        config["Labels"] = {**(config.get("Labels") or {}), **build.options.labels}
    document["config"] = config
    document["rootfs"] = {"type": "layers", "diff_ids": list(state.diff_ids)}
    document["history"] = [dict(line) for line in state.history]
    if any(spot.kind == "inline" for spot in build.options.cache_to):
        document[INLINE] = inline_document(build, state.diff_ids)
    return ImageConfig.build(document)


def _manifest(build: Build, state: StageState, config: Descriptor, media_type: str) -> Manifest:
    layers = []
    for layer in state.layers:
        kind = layer_type(layer.descriptor.media_type, build.options.form)
        document: dict[str, Any] = {
            "mediaType": kind, "digest": layer.descriptor.digest, "size": layer.descriptor.size,
        }
        notes = _annotations(build, state, layer)
        layers.append({**document, "annotations": notes} if notes else document)
    whole: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": media_type,
        "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.size},
        "layers": layers,
    }
    notes = {**_base(build, state), **build.options.annotations}
    if notes and media_type == OCI_MANIFEST:
        whole["annotations"] = dict(sorted(notes.items()))
    return Manifest.parse(dump_document(whole), media_type)


def _annotations(build: Build, state: StageState, layer: BuiltLayer) -> Mapping[str, str]:
    """Docker's format has no room for any."""
    origin = layer.origin
    if origin is None or not build.options.has_provenance or build.options.form == "docker":
        return {}
    span = origin.span
    lines = str(span.first) if span.first == span.last else f"{span.first}-{span.last}"
    found = {DOCKERFILE: origin.dockerfile, LINES: lines, INSTRUCTION: origin.text}
    if state.base.digest:
        found[BASE] = state.base.digest
    if origin.arguments:
        found[ARGUMENTS] = ",".join(origin.arguments)
    return dict(sorted(found.items()))


def _base(build: Build, state: StageState) -> dict[str, str]:
    if not state.base.digest or not build.options.has_provenance:
        return {}
    return {_BASE_DIGEST: state.base.digest, _BASE_NAME: state.base.name}


def named(
    builds: Sequence[tuple[Build, Manifest]], options: BuildOptions, beside: Sequence[Mapping[str, Any]] = ()
) -> tuple[Descriptor, Manifest]:
    """What names point at: the manifest, or an index of several, and which of those stands for it.

    ``beside`` are lines of attestations, for which one image has an index too.
    """
    first, manifest = builds[0]
    if len(builds) == 1 and not beside:
        return manifest.descriptor, manifest
    media_type = DOCKER_INDEX if options.form == "docker" else OCI_INDEX
    entries = [
        {**each.descriptor.to_json(), "platform": build.platform.to_json()} for build, each in builds
    ]
    document: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": media_type, "manifests": [*entries, *beside],
    }
    if options.annotations and media_type == OCI_INDEX:
        document["annotations"] = dict(sorted(options.annotations.items()))
    raw = dump_document(document)
    first.lease.hold([Digest.of(raw)])
    root = first.engine.store.put_bytes(media_type, raw)
    own = [each for build, each in builds if build.platform == first.engine.platform]
    return root, own[0] if own else manifest
