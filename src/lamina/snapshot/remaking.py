"""Whether what is unpacked of a layer gives its exact tar again, so that no blob of it is needed here."""

from __future__ import annotations

import os

from lamina.errors import LaminaError
from lamina.layer.entry import Kind
from lamina.layer.index import LayerIndex
from lamina.oci.digest import Digest, Digester
from lamina.snapshot.layers import LayerNotFound, LayerStore


def remakes(layers: LayerStore, diff_id: Digest, *, is_read: bool) -> bool:
    """``is_read``: all of it is read, and compared with the diff id.

    Else it is one that was verified as it was unpacked, a moment ago: then only what a tree cannot hold, and
    what this user may not read, is in the way, and the index tells. ``layers`` must not know of blobs.
    """
    try:
        return _is_proved(layers, diff_id) if is_read else _is_plausible(layers, diff_id)
    except (LaminaError, OSError):
        return False


def _is_proved(layers: LayerStore, diff_id: Digest) -> bool:
    digester = Digester(diff_id.algorithm)
    layers.rebuild(diff_id, digester.update)
    return digester.digest() == diff_id


def _is_plausible(layers: LayerStore, diff_id: Digest) -> bool:
    try:
        return os.stat(layers.tar(diff_id)).st_size == layers.facts(diff_id).tar_size
    except FileNotFoundError:
        if not layers.has_data(diff_id):
            return False
    index = layers.index(diff_id)
    return holds_all_data(index) and (os.geteuid() == 0 or _may_read(layers, index))


def holds_all_data(index: LayerIndex) -> bool:
    """Whether a tree has every byte of a layer's files at the path that its entry says.

    Not what is in whiteouts, or goes with a hard link, nor what lies behind something that is no directory.
    """
    pairs = zip(index.paths, index.kinds, strict=True)
    directories = {"", *(path for path, kind in pairs if kind == Kind.DIRECTORY)}
    parents = {path.rpartition("/")[0] for path in index.paths}
    return not index.has_duplicates and parents <= directories and all(
        index.kinds[number] == Kind.FILE and not index.is_metadata(number)
        for number, size in enumerate(index.sizes) if size
    )


def _may_read(layers: LayerStore, index: LayerIndex) -> bool:
    """An ordinary user's trees hold files of others, which only their owner may read."""
    try:
        for number, size in enumerate(index.sizes):
            if size:
                layers.open_data(index.diff_id, index.entry(number)).close()
    except LayerNotFound:
        return False
    return True
