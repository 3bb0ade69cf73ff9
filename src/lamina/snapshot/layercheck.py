"""Whether layers are what their diff ids say, in every form that is here of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lamina.content.collect import Finding
from lamina.errors import LaminaError
from lamina.oci.digest import Digest, Digester
from lamina.snapshot.erofs import damaged_images, remove_image
from lamina.snapshot.layerfiles import Writing, open_regular
from lamina.snapshot.layers import LayerNotFound, LayerStore

if TYPE_CHECKING:
    from lamina.layer.entry import Entry


class _Unreadable(Exception):
    """A user without rights over a tree cannot say whether it is whole."""


def check_layers(layers: LayerStore, *, repair: bool) -> Iterator[Finding]:
    """Reads every layer back, in each of its forms, and compares it with its diff id.

    ``repair`` removes the ones that lie: they are unpacked again from their blobs when needed.
    """
    for diff_id in layers.walk():
        problem = _problem(layers, diff_id)
        if problem:
            trouble = layers.give_up(diff_id) if repair else ""
            yield Finding(
                subject=diff_id, problem="; ".join(filter(None, (problem, trouble))),
                repaired=repair and not trouble,
            )
            continue
        for image in damaged_images(layers.directory(diff_id)):
            if repair:
                remove_image(image)
            yield Finding(
                subject=diff_id, problem=f"its EROFS image {image.name} is damaged", repaired=repair
            )


def _problem(layers: LayerStore, diff_id: Digest) -> str:
    digester = Digester(diff_id.algorithm)
    try:
        layers.rebuild(diff_id, digester.update)
    except LayerNotFound as error:
        # An index alone is complete as long as the data is in a blob; who knows no blobs cannot say.
        return f"unpacked layer is not whole: {error}" if layers.is_left_alone(diff_id) else ""
    except (LaminaError, OSError) as error:
        return f"unpacked layer is damaged: {error}"
    if digester.digest() != diff_id:
        return f"unpacked layer is damaged: its tar would have the digest {digester.digest()}"
    for tree in layers.plain_trees(diff_id):
        if not _is_whole(layers, diff_id, tree):
            return f"unpacked layer is damaged: its tree {tree.name} is not what the layer says"
    return ""


def _is_whole(layers: LayerStore, diff_id: Digest, tree: Path) -> bool:
    """Of content alone: owners, modes and times are not read back."""
    out: Any = Writing(lambda _chunk: None)
    try:
        layers.index(diff_id).rebuild(lambda entry: _opened(tree, entry), out)  # which knows the digest
    except _Unreadable:
        return True
    except (LaminaError, OSError):
        return False
    return True


def _opened(tree: Path, entry: Entry) -> BinaryIO:
    found = open_regular(tree, entry)
    if found is not None:
        return found
    try:
        os.close(os.open(tree / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise _Unreadable from None
    raise LayerNotFound(f"{entry.path!r}: not in the tree {tree.name}, or not of the layer's size")
