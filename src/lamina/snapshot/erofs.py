"""The driver erofs: nothing is unpacked. A layer's tar is kept, and an image of metadata over it mounted.

Needs root (EROFS cannot be mounted in a user namespace) and Linux 6.12, which mounts images from files.
Layers stack with overlayfs, and what is written goes to a directory, as with overlay2. A layer that is
not self-contained gets one image for each stack: images are small, and their data lies in the tars.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.content.state import State
from lamina.layer.entry import Entry
from lamina.oci.digest import Digest, Digester
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.size import default_size
from lamina.snapshot.snapshotter import Form, Mount, Reception, Usage
from lamina.snapshot.stacked import StackedSnapshotter, keys_of
from lamina.snapshot.trying import LACKING, overlay_reason, quota_reason, scratch

if TYPE_CHECKING:
    from lamina.layer.index import LayerIndex
    from lamina.layer.tree import Tree

NAME = "erofs"
# As of overlay2.
OPTIONS = ("size",)
# The image of a layer that is self-contained, and so serves every stack.
ALONE = "alone"


def open_driver(
    state: State, layers: LayerStore, hands: Hands, options: Mapping[str, str]
) -> StackedSnapshotter:
    size = default_size(NAME, options)
    return StackedSnapshotter(NAME, state, layers, ImageLowers(layers), hands, size=size)


class ImageLowers:
    def __init__(self, layers: LayerStore) -> None:
        self._layers = layers
        self.reception = Reception(form=Form.EROFS)

    def settle(self, diff_ids: Sequence[Digest], known: Sequence[str | None]) -> list[str]:
        keys = keys_of(self._layers, diff_ids, known, ALONE, self._is_here)
        missing = [
            number for number, (diff_id, key) in enumerate(zip(diff_ids, keys, strict=True))
            if not self._is_here(diff_id, key)
        ]
        if missing:
            self._build(diff_ids, keys, missing)
        return keys

    def _is_here(self, diff_id: Digest, key: str) -> bool:
        return self._layers.image(diff_id, key).is_file()

    def mount(self, diff_id: Digest, key: str) -> Mount:
        image = self._layers.image(diff_id, key)
        devices = [f"device={self._layers.tar(Digest(device))}" for device in _devices(image, diff_id)]
        return Mount(type="erofs", source=str(image), options=("ro", *devices))

    def usage(self, diff_id: Digest, key: str) -> Usage:
        """Of what is there: `check --repair` may have taken a damaged one away."""
        paths = (self._layers.tar(diff_id), self._layers.image(diff_id, key))
        sizes = [path.stat().st_blocks * 512 for path in paths if path.exists()]
        return Usage(sum(sizes), len(sizes), is_shared=True)

    def release(self, diff_id: Digest, key: str) -> None:
        if key != ALONE:
            remove_image(self._layers.image(diff_id, key))

    def _build(self, diff_ids: Sequence[Digest], keys: Sequence[str], missing: Sequence[int]) -> None:
        """One union for the whole stack, built up as far as somebody needs it."""
        from lamina.layer.tree import Tree  # noqa: PLC0415 - rare: most layers are self-contained

        below = Tree()
        is_union_needed = any(keys[number] != ALONE for number in missing)
        for number in range(max(missing) + 1):
            diff_id = diff_ids[number]
            if not is_union_needed and number not in missing:
                continue
            index = self._layers.index(diff_id)
            if number in missing:
                claimed = self._layers.claim(diff_id)
                assert claimed is not None
                with claimed, claimed.staging() as staging:
                    stage_image(staging, keys[number], index, None if keys[number] == ALONE else below)
                    claimed.publish(staging)
            if is_union_needed:
                below.add(index)


def stage_image(staging: Path, key: str, index: LayerIndex, below: Tree | None) -> None:
    """Builds an image, and the list of the tars that it needs if its layer's own is not all.

    Without what lies below, it is the one that every stack can use.
    """
    from lamina.layer import erofs  # noqa: PLC0415 - one driver only
    from lamina.layer.placement import place  # noqa: PLC0415 - as above
    from lamina.snapshot.settle import ghosts  # noqa: PLC0415 - as above

    without = set() if below is None else ghosts(place(index, below), below)
    path = staging / "erofs" / key
    path.parent.mkdir(mode=0o700)
    image = erofs.build(index, path, tree_below=below, without=without)
    _sum_file(path).write_text(_digest_of(path), encoding="ascii")
    if image.devices[1:]:
        _devices_file(path).write_text(json.dumps(image.devices), encoding="ascii")


def damaged_images(directory: Path) -> Iterator[Path]:
    """Images below a layer's directory that are not what was written. The kernel looks at superblocks alone.

    Those of versions that noted no digest beside an image are believed.
    """
    for image in sorted((directory / "erofs").glob("*")):
        note = _sum_file(image)
        if "." not in image.name and note.exists() and note.read_text(encoding="ascii") != _digest_of(image):
            yield image


def remove_image(image: Path) -> None:
    """It is made again when a stack needs it. What is mounted stays as it is until it is unmounted."""
    for path in (image, _devices_file(image), _sum_file(image)):
        path.unlink(missing_ok=True)


def _digest_of(image: Path) -> Digest:
    with open(image, "rb", buffering=0) as stream:
        digester = Digester()
        while chunk := stream.read(1 << 20):
            digester.update(chunk)
    return digester.digest()


def _sum_file(image: Path) -> Path:
    return image.with_name(f"{image.name}.sum")


def _devices_file(image: Path) -> Path:
    return image.with_name(f"{image.name}.devices")


def _devices(image: Path, diff_id: Digest) -> list[str]:
    try:
        found: list[str] = json.loads(_devices_file(image).read_bytes())
    except FileNotFoundError:
        return [diff_id]
    return found


def promise(_hands: Hands) -> str:
    return "mounts an index over each layer's tar, unpacks nothing"


def try_driver(root: Path, hands: Hands, options: Mapping[str, str]) -> str:
    if hands.identity.is_initial and not hands.identity.may_mount:
        return LACKING
    if not hands.identity.is_initial:
        return "needs root: EROFS cannot be mounted in a user namespace"
    with scratch(root, hands) as path:
        reason = try_erofs(path) or overlay_reason(root, hands)
    return reason or (quota_reason(root, hands) if default_size(NAME, options) else "")


def try_erofs(scratch: Path) -> str:
    """A real layer of one file, mounted nowhere; the empty text means that it works here."""
    from lamina.layer import erofs  # noqa: PLC0415 - one driver only
    from lamina.layer.index import IndexBuilder, LayerIndex  # noqa: PLC0415 - as above
    from lamina.layer.tarstream import TarReader, write_entries  # noqa: PLC0415 - as above
    from lamina.snapshot.mounting import can_mount  # noqa: PLC0415 - as above

    tar = io.BytesIO()
    write_entries([Entry("file", size=3, open=lambda: io.BytesIO(b"try"))], tar)
    (scratch / "tar").write_bytes(tar.getvalue())
    with open(scratch / "index", "wb") as out:
        builder = IndexBuilder(out)
        for entry in TarReader(io.BytesIO(tar.getvalue()), skeleton=builder.skeleton):
            builder.add(entry)
        builder.finish(Digest.of(tar.getvalue()), len(tar.getvalue()))
    erofs.build(LayerIndex.load(scratch / "index"), scratch / "image")
    options = ("ro", f"device={scratch / 'tar'}")
    return can_mount(Mount(type="erofs", source=str(scratch / "image"), options=options))
