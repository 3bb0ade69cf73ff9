"""An opened state directory, and what all verbs share.

Nothing is opened before it is needed: ``lamina images`` must not pay for TLS or for probing mounts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lamina.content.local import LocalStore
from lamina.engine.settings import Settings
from lamina.errors import Unsupported
from lamina.events import Report, silent
from lamina.oci.descriptor import Platform, normalise_architecture
from lamina.oci.digest import Digest

if TYPE_CHECKING:
    from lamina.http.transport import HttpTransport
    from lamina.registry.remote import RegistryClient
    from lamina.snapshot.layers import LayerStore
    from lamina.snapshot.snapshotter import Snapshotter
    from lamina.snapshot.unpack import Unpacker


def host_platform() -> Platform:
    architecture, variant = normalise_architecture(os.uname().machine)
    return Platform(os="linux", architecture=architecture, variant=variant)


class Core:
    """Use as a context manager, or close it. Safe for many threads; many engines may share a root."""

    def __init__(
        self,
        store: LocalStore,
        settings: Settings,
        *,
        report: Report = silent,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.settings = settings
        self.report = report
        self.clock = clock
        self._open = ExitStack()
        self._open.callback(store.close)

    @classmethod
    def open(
        cls, root: Path | str | None = None, *, settings: Settings | None = None, report: Report = silent
    ) -> Self:
        """Opens a state directory, making it first if need be.

        Without ``settings`` the usual files and variables are read, as the command does.
        """
        settings = settings or Settings.load(os.environ)
        chosen = Path(root).absolute() if root is not None else settings.root
        assert chosen is not None, "Settings.load always finds a root"
        platform = settings.platform or host_platform()
        return cls(LocalStore.create(chosen, platform=platform), settings, report=report)

    def close(self) -> None:
        """Idempotent. Closes connections and the state file; mounts stay."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def root(self) -> Path:
        return self.store.root

    @cached_property
    def platform(self) -> Platform:
        """Of this machine, or what the settings say instead."""
        return self.settings.platform or host_platform()

    # -- what the verbs share, opened when first asked for

    @cached_property
    def transport(self) -> HttpTransport:
        """For what is fetched from elsewhere than a registry."""
        from lamina.engine.connections import open_transport

        transport = open_transport(self.settings)
        self._open.callback(transport.close)
        return transport

    @cached_property
    def registries(self) -> RegistryClient:
        from lamina.engine.connections import open_registries

        client, close = open_registries(self.settings, self.report)
        self._open.callback(close)
        return client

    @cached_property
    def layers_store(self) -> LayerStore:
        from lamina.snapshot.layers import LayerStore

        return LayerStore(self.root, blob_of=self._blob_of, bring_back=self._bring_back)

    @cached_property
    def driver(self) -> Snapshotter:
        from lamina.engine.choosing import open_chosen

        driver = open_chosen(self.root, self.store.state, self.layers_store, self.settings, self.report)
        self._open.callback(driver.close)
        return driver

    @property
    def driver_name(self) -> str:
        """The chosen driver's, for who only tells it: where one was chosen before, none is opened."""
        from lamina.snapshot.choice import read_choice

        if "driver" not in self.__dict__ and not self.settings.storage_driver:
            choice = read_choice(self.root)
            if choice is not None:
                return str(choice["driver"])
        return self.driver.name

    def driver_named(self, name: str) -> Snapshotter:
        """The one that something here was made with, which need not be the chosen one."""
        from lamina.snapshot.drivers import read_options
        from lamina.snapshot.probing import reopen

        if "driver" in self.__dict__ and self.driver.name == name:
            return self.driver
        options = read_options(self.settings.storage_opts)
        driver = reopen(self.root, self.store.state, self.layers_store, name, options)
        self._open.callback(driver.close)
        return driver

    def drivers(self) -> list[Snapshotter]:
        """The chosen driver, and the others that have snapshots here and that this user can open."""
        found = [self.driver]
        for (name,) in self.store.state.rows("SELECT DISTINCT driver FROM snapshots ORDER BY 1"):
            if name != self.driver.name:
                with suppress(Unsupported):
                    found.append(self.driver_named(str(name)))
        return found

    def _blob_of(self, diff_id: Digest) -> Path | None:
        """A blob that inflates to a layer, for files that no unpacked form has."""
        rows = self.store.state.rows("SELECT blob FROM layers WHERE diff_id = ?", (diff_id,))
        paths = [self.store.blob_path(Digest(str(row[0]))) for row in rows]
        return next((path for path in paths if path.exists()), None)

    def _bring_back(self, diff_id: Digest) -> Path | None:
        from lamina.engine import refetching

        return refetching.bring_back(self, diff_id)

    def unpacker(self, report: Report | None = None, driver: Snapshotter | None = None) -> Unpacker:
        """The caller closes it. Without ``driver`` it unpacks for the chosen one."""
        from lamina.snapshot.unpack import Unpacker

        return Unpacker(self.layers_store, driver or self.driver, workers=os.cpu_count() or 2,
                        report=report or self.report)
