"""The driver overlay2: each layer a directory, stacked by overlayfs, as root or in a user namespace.

The directory of a self-contained layer is the same whatever lies below, and is shared by every stack that
has the layer. Any other layer is unpacked alone as well; from that, a directory for one stack is made at
commit, with the attributes of the lower directories that the layer only implies, and with the files of
lower layers that it links to. Both share their files' data: only directories are new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lamina.content.state import State
from lamina.oci.digest import Digest
from lamina.snapshot.hands import Hands
from lamina.snapshot.layerdirectory import read_usage
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import Identity, Ownership
from lamina.snapshot.size import default_size
from lamina.snapshot.snapshotter import Form, Mount, Reception, Usage
from lamina.snapshot.stacked import StackedSnapshotter, keys_of
from lamina.snapshot.trying import overlay_reason, owners, quota_reason
from lamina.values import asdict

NAME = "overlay2"
# `size` bounds every container that does not say otherwise.
OPTIONS = ("size",)


def open_driver(
    state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
) -> StackedSnapshotter:
    size = default_size(NAME, options)
    return StackedSnapshotter(NAME, state, layers, TreeLowers(layers, hands), hands, size=size)


def try_driver(root: Path, hands: Hands, options: Mapping[str, str]) -> str:
    return overlay_reason(root, hands) or (quota_reason(root, hands) if default_size(NAME, options) else "")


def promise(hands: Hands) -> str:
    kind = "kernel overlayfs" if hands.identity.is_initial else "kernel overlayfs in a user namespace"
    return f"{kind}{owners(hands)}"


def reception_for(identity: Identity) -> Reception:
    return Reception(
        form=Form.TREE,
        key=f"{identity.key}-{identity.xattr_namespace}",
        xattrs=identity.xattr_namespace,
        keeps_owners=identity.ownership is not Ownership.SINGLE,
    )


class TreeLowers:
    def __init__(self, layers: LayerStore, hands: Hands) -> None:
        self._layers = layers
        self._hands = hands
        self.reception = reception_for(hands.identity)

    def settle(self, diff_ids: Sequence[Digest], known: Sequence[str | None]) -> list[str]:
        keys = keys_of(self._layers, diff_ids, known, self.reception.key, self._is_here)
        missing = {
            str(number): key for number, (diff_id, key) in enumerate(zip(diff_ids, keys, strict=True))
            if not self._is_here(diff_id, key)
        }
        if missing:
            self._hands.run(
                "settle", root=str(self._layers.root), diff_ids=list(diff_ids), keys=missing,
                alone=asdict(self.reception),
            )
        return keys

    def _is_here(self, diff_id: Digest, key: str) -> bool:
        return self._layers.tree(diff_id, key).is_dir()

    def mount(self, diff_id: Digest, key: str) -> Mount:
        return Mount(type="bind", source=str(self._layers.tree(diff_id, key)))

    def usage(self, diff_id: Digest, key: str) -> Usage:
        usage = read_usage(self._layers.tree(diff_id, key))
        return Usage(usage.size, usage.inodes, is_shared=True)

    def release(self, diff_id: Digest, key: str) -> None:
        if key != self.reception.key:
            self._layers.remove_tree(diff_id, key)
