"""What a conformance case works with: one driver on one fresh state directory."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lamina.content.arrival import Arrival
from lamina.content.local import LocalStore
from lamina.layer.entry import Entry
from lamina.oci.descriptor import OCI_LAYER, Descriptor
from lamina.oci.digest import Digest
from lamina.snapshot.drivers import read_options
from lamina.snapshot.layers import LayerStore, Wanted
from lamina.snapshot.mounting import mounted
from lamina.snapshot.namespace import Ownership, unprivileged_identity
from lamina.snapshot.probing import choose, remember
from lamina.snapshot.receive import receive_layer
from lamina.snapshot.snapshotter import Mount, Snapshotter
from lamina.testing.images import LINUX_AMD64, tar_of
from lamina.testing.model import ModelFile, differences, read_tree, union_of

Layer = Sequence[Entry]


class Bench:
    """One driver on one fresh state directory, and the few things that cases do with it.

    ``height`` is how many layers the tallest stack has. A driver that has no limit, and takes a tenth of a
    second for each, may be tried with fewer.
    """

    height = 500

    def __init__(
        self, driver: str, root: Path, *, may_mount: bool = True, options: Sequence[str] = ()
    ) -> None:
        """Without ``may_mount``, as if this system let ordinary users have no namespaces."""
        self.root = root
        self.store = LocalStore.create(root, platform=LINUX_AMD64)
        self.layers = LayerStore(root)
        self.name = driver
        if not may_mount:
            remember(root, driver, unprivileged_identity())
        wanted = driver if may_mount else None
        self.driver: Snapshotter = choose(
            root, self.store.state, self.layers, wanted=wanted, options=read_options(options)
        )
        self._places = root.parent / f"{root.name}-places"

    def close(self) -> None:
        self.driver.close()
        self.store.close()
        shutil.rmtree(self._places, ignore_errors=True)

    @property
    def has_owners(self) -> bool:
        return self.driver.identity.ownership is not Ownership.SINGLE

    @property
    def has_devices(self) -> bool:
        return self.driver.identity.ownership is Ownership.KEPT

    @property
    def has_limit(self) -> bool:
        """Whether the driver stacks with overlayfs, which takes 500 layers."""
        return self.name in ("overlay2", "erofs")

    @contextlib.contextmanager
    def mounted(self, mounts: Sequence[Mount]) -> Iterator[Path]:
        """Where this process may not mount, a bind mount's source stands for itself."""
        if not self.driver.identity.may_mount:
            yield Path(mounts[0].source)
            return
        place = self._places / secrets.token_hex(4)
        place.mkdir(parents=True)
        with mounted(mounts, place) as path:
            yield path

    @contextlib.contextmanager
    def viewed(self, parent: str) -> Iterator[Path]:
        key = f"view-{secrets.token_hex(4)}"
        with self.mounted(self.driver.view(key, parent)) as path:
            yield path
        self.driver.remove(key)

    def read(self, parent: str) -> dict[str, ModelFile]:
        with self.viewed(parent) as path:
            return read_tree(path)

    def receive(self, *stack: Layer) -> list[Digest]:
        """Each layer into the store, in the form that the driver asks for."""
        diff_ids = []
        for layer in stack:
            tar = tar_of(layer)
            diff_ids.append(Digest.of(tar))
            self.receive_tar(tar, diff_ids[-1])
        return diff_ids

    def receive_tar(self, tar: bytes, diff_id: Digest) -> None:
        wanted = Wanted(diff_id=diff_id, reception=self.driver.reception)
        receive_layer(self.layers, io.BytesIO(tar), wanted)

    def stack(self, *stack: Layer) -> str:
        """A committed snapshot of layers."""
        return self.driver.commit_layers(self.receive(*stack))

    def check(self, *stack: Layer, has_links: bool = True) -> str:
        """The stack must look as the model says. Answers with its chain id."""
        name = self.stack(*stack)
        expected = union_of(stack)
        found = self.read(name)
        lines = differences(expected, found, has_owners=self.has_owners, has_links=has_links)
        assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:20])
        return name

    def write_snapshot(self, name: str, parent: str, write: Callable[[Path], object]) -> None:
        """prepare, write, commit."""
        key = f"key-{secrets.token_hex(4)}"
        with self.mounted(self.driver.prepare(key, parent)) as path:
            write(path)
        self.driver.commit(name, key)


Case = Callable[[Bench], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def insist_raises(kind: type[Exception], act: Callable[[], object]) -> Exception:
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind}, and nothing was raised")


class Growing:
    """A blob that arrives when the case says so."""

    def __init__(self, bench: Bench, tar: bytes) -> None:
        self._data = tar
        self.diff_id = Digest.of(tar)
        self.blob = Descriptor(media_type=OCI_LAYER, digest=self.diff_id, size=len(tar))
        self._path = bench.root / "ingest" / secrets.token_hex(8)
        with open(self._path, "wb") as file:
            self.arrival = Arrival(self.blob, file.fileno())

    def grow(self, size: int) -> None:
        with open(self._path, "r+b") as file:
            file.write(self._data[:size])
        self.arrival.advance(size)

    def grow_to_the_end(self) -> None:
        if not self.arrival.is_complete:
            self.grow(len(self._data))
            self.arrival.finish()


def leftovers(bench: Bench) -> list[str]:
    return [str(path) for path in (bench.root / "layers").rglob(".*")]
