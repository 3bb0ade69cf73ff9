"""File to layer to instruction: who put a file there, what it hides, and what nobody sees any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamina.image import Image
from lamina.insight.instruction import instruction_of, place_of
from lamina.layer.entry import Kind
from lamina.layer.tree import Hider, Reason, Trace, Tree
from lamina.oci.digest import Digest
from lamina.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """``compressed`` is the blob's size, ``size`` the tar's. Files are everything but directories.

    ``files_hidden`` and ``bytes_hidden`` are those of lower layers that this one replaces or removes;
    ``shared_with`` names other images that have the layer.
    """

    number: int
    diff_id: Digest
    digest: Digest
    instruction: str
    compressed: int
    size: int
    files_added: int
    files_changed: int
    files_hidden: int
    bytes_hidden: int
    shared_with: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A path as a layer has it, below one that hides it. ``hidden_by`` is the first layer that does.

    ``reason`` is ``None`` for a directory that a higher layer only gives new attributes.
    """

    layer: int
    diff_id: Digest
    instruction: str
    kind: Kind
    size: int
    hidden_by: int
    reason: Reason | None
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """``path`` is what the layer removed or took the place of: the path itself or a directory above it."""

    layer: int
    diff_id: Digest
    instruction: str
    path: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """The highest layer that has a path. ``deleted_by`` is set if the union does not show it any more.

    ``place`` is where in which Dockerfile that is, ``Dockerfile:3-5``, if the build wrote it down.
    ``hides`` are the lower versions, the highest first. A hard link has the kind and size of its file.
    """

    path: str
    layer: int
    diff_id: Digest
    instruction: str
    kind: Kind
    size: int
    hides: tuple[Version, ...]
    deleted_by: Deletion | None
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obscured:
    """A file of a lower layer that no container sees. ``size`` is 0 if another name shows its bytes."""

    path: str
    kind: Kind
    size: int
    layer: int
    instruction: str
    hidden_by: int
    hidden_by_instruction: str
    reason: Reason


def summarise(
    image: Image, tree: Tree, *, shared_with: Mapping[Digest, Sequence[str]] | None = None
) -> tuple[LayerSummary, ...]:
    """One row a layer, base first. ``shared_with`` gives other images' names by diff id."""
    sharing = shared_with or {}
    rows = zip(image.layers, tree.indexes, tree.counts(), strict=True)
    return tuple(
        LayerSummary(
            number=layer.number,
            diff_id=layer.diff_id,
            digest=layer.descriptor.digest,
            instruction=instruction_of(layer.history),
            compressed=layer.descriptor.size,
            size=index.tar_size,
            files_added=counts.files_added,
            files_changed=counts.files_changed,
            files_hidden=counts.files_hidden,
            bytes_hidden=counts.bytes_hidden,
            shared_with=tuple(sharing.get(layer.diff_id, ())),
        )
        for layer, index, counts in rows
    )


def blame(image: Image, tree: Tree, path: str) -> Blame | None:
    """``None`` if no layer has it. Symlinks above the last part of ``path`` lead where the union has them."""
    place = _place(tree, path)
    traces = tree.history_of(place)
    if not traces:
        return None
    top, lower = traces[-1], traces[:-1]
    versions = [_version(image, trace, above) for trace, above in zip(lower, traces[1:], strict=True)]
    return Blame(
        path=place,
        layer=top.layer,
        diff_id=image.layers[top.layer].diff_id,
        instruction=_instruction(image, top.layer),
        kind=top.entry.kind,
        size=top.entry.size,
        hides=tuple(reversed(versions)),
        deleted_by=None if top.hidden_by is None else _deletion(image, top.hidden_by),
        place=place_of(image.layers[top.layer].descriptor),
    )


def obscured(image: Image, tree: Tree) -> tuple[Obscured, ...]:
    """In the order of paths."""
    return tuple(
        Obscured(
            path=hidden.entry.path,
            kind=hidden.entry.kind,
            size=hidden.size,
            layer=hidden.layer,
            instruction=_instruction(image, hidden.layer),
            hidden_by=hidden.hidden_by.layer,
            hidden_by_instruction=_instruction(image, hidden.hidden_by.layer),
            reason=hidden.hidden_by.reason,
        )
        for hidden in tree.obscured()
    )


def _place(tree: Tree, path: str) -> str:
    """Without symlinks, as far as the union still has the directory."""
    parent, slash, name = path.rpartition("/")
    found = tree.resolve(parent, follow=True) if slash else ""
    if found is None:
        return path
    return f"{found}/{name}" if found else name


def _instruction(image: Image, layer: int) -> str:
    return instruction_of(image.layers[layer].history)


def _version(image: Image, trace: Trace, above: Trace) -> Version:
    hider = trace.hidden_by
    return Version(
        layer=trace.layer,
        diff_id=image.layers[trace.layer].diff_id,
        instruction=_instruction(image, trace.layer),
        kind=trace.entry.kind,
        size=trace.entry.size,
        hidden_by=above.layer if hider is None else hider.layer,
        reason=None if hider is None else hider.reason,
        place=place_of(image.layers[trace.layer].descriptor),
    )


def _deletion(image: Image, hider: Hider) -> Deletion:
    return Deletion(
        layer=hider.layer,
        diff_id=image.layers[hider.layer].diff_id,
        instruction=_instruction(image, hider.layer),
        path=hider.path,
        reason=hider.reason,
    )
