"""The driver that a migration leads to, and those that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from lamina.engine.drivers import snapshot_counts
from lamina.runtime.records import ContainerTable
from lamina.snapshot.choice import read_choice
from lamina.snapshot.drivers import find_driver, options_of, read_options, with_options
from lamina.snapshot.hands import Hands
from lamina.snapshot.probing import remember, reopen, settled_identity
from lamina.snapshot.snapshotter import DriverUnavailable, Snapshotter

if TYPE_CHECKING:
    from lamina.engine.core import Core


class Drivers:
    """The target and the others, each opened once. Which one is used changes with :meth:`settle`."""

    def __init__(self, engine: Core, name: str, stack: ExitStack) -> None:
        self.name = name
        self.root = engine.root
        self._engine = engine
        self._stack = stack
        self._open: dict[str, Snapshotter] = {}
        self._options = read_options(engine.settings.storage_opts)
        choice = read_choice(engine.root)
        self.written = str(choice["driver"]) if choice is not None else ""
        if self.written != name:
            self._insist_usable()

    def _insist_usable(self) -> None:
        """As the user whom the state directory was found to be used by."""
        driver, given = find_driver(self.name), with_options(self._remembered(), self._options)
        identity = self.get(self.written).identity if self.written else settled_identity()
        with closing(Hands(identity)) as hands:
            reason = driver.reason_against(self.root, hands, options_of(self.name, given))
        if reason:
            raise DriverUnavailable(f"storage driver {self.name}: {reason}")

    def _remembered(self) -> dict[str, str]:
        choice = read_choice(self.root)
        return dict(choice["options"]) if choice is not None else {}

    def get(self, name: str) -> Snapshotter:
        if name not in self._open:
            engine = self._engine
            driver = reopen(engine.root, engine.store.state, engine.layers_store, name, self._options)
            self._stack.callback(driver.close)
            self._open[name] = driver
        return self._open[name]

    @contextmanager
    def asked(self) -> Iterator[Snapshotter]:
        """The target for questions alone: its options are not written down."""
        given = with_options(self._remembered(), self._options)
        with closing(Hands(self.get(self.written or self.name).identity)) as hands:
            yield find_driver(self.name).open(
                self._engine.store.state, self._engine.layers_store, hands, options_of(self.name, given)
            )

    @property
    def target(self) -> Snapshotter:
        """Opened with its options, which are written down for monitors and for later commands."""
        return self.get(self.name)

    def settle(self) -> None:
        """From now on, the target is what the state directory uses."""
        identity = self.get(self.written or self.name).identity
        remember(self.root, self.name, identity, is_wanted=True)

    def chosen(self) -> str:
        """What is written down now."""
        choice = read_choice(self.root)
        return str(choice["driver"]) if choice is not None else self.name

    def others(self) -> list[str]:
        """Those that have snapshots or containers here."""
        table = ContainerTable(self._engine.store.state)
        names = {*snapshot_counts(self._engine), *(container.driver for container in table.walk())}
        return sorted(names - {self.name})
