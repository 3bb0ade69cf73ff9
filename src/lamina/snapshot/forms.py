"""Taking away the unpacked forms of a layer that no driver asks for any more.

A form goes only if its files can be had again: from the layer's blob, or from a form that stays. The index
stays in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from lamina.oci.digest import Digest
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.snapshotter import Form, Reception

_USAGE = ".usage"


def drop_forms(
    layers: LayerStore, diff_id: Digest, keep: Collection[Reception], *, has_blob: bool,
    empty: Callable[[Path], None],
) -> int:
    """Those of a layer that none of ``keep`` asks for; gives the bytes freed. ``empty`` removes a tree.

    Nothing of a layer that somebody is unpacking: nobody is waited for.
    """
    if not (has_blob or any(layers.has(diff_id, each.form, each.key) for each in keep)):
        return 0
    before = layers.size(diff_id)
    claimed = layers.claim(diff_id, wait=False)
    if claimed is None:
        return 0
    with claimed:
        if not any(each.form is Form.EROFS for each in keep):
            _remove_files(claimed.path / "erofs")
        if not any(each.form is not Form.TREE for each in keep) and _can_spare_tar(
            layers, diff_id, keep, has_blob=has_blob
        ):
            layers.tar(diff_id).unlink(missing_ok=True)
        _remove_trees(claimed.path / "trees", [each.key for each in keep if each.form is Form.TREE], empty)
    return max(0, before - layers.size(diff_id))


def _can_spare_tar(
    layers: LayerStore, diff_id: Digest, keep: Collection[Reception], *, has_blob: bool
) -> bool:
    """A second name of the blob costs nothing. Trees may hold all there is, if this process may read it."""
    try:
        if os.stat(layers.tar(diff_id)).st_nlink > 1:
            return False
    except FileNotFoundError:
        return False
    if has_blob:
        return True
    from lamina.snapshot.remaking import holds_all_data  # noqa: PLC0415 - where blobs were dropped

    has_tree = any(layers.tree(diff_id, each.key).is_dir() for each in keep)
    return has_tree and os.geteuid() == 0 and holds_all_data(layers.index(diff_id))


def _remove_trees(home: Path, keys: Collection[str], empty: Callable[[Path], None]) -> None:
    """Those made for one stack bear the key of the shared one, and more."""
    for path in _children(home):
        name = path.name.removesuffix(_USAGE)
        if any(name == key or name.startswith(f"{key}-") for key in keys):
            continue
        if path.suffix == _USAGE:
            path.unlink(missing_ok=True)
            continue
        doomed = home.parent / f".removing-{os.urandom(8).hex()}"
        os.rename(path, doomed)
        empty(doomed)
    _remove_if_empty(home)


def _remove_files(home: Path) -> None:
    for path in _children(home):
        path.unlink(missing_ok=True)
    _remove_if_empty(home)


def _remove_if_empty(home: Path) -> None:
    if home.is_dir() and not any(home.iterdir()):
        home.rmdir()


def _children(home: Path) -> list[Path]:
    return sorted(home.iterdir()) if home.is_dir() else []
