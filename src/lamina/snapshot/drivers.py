"""Which storage drivers there are: ours, one module each, and those that others install.

A module of ours has ``open_driver(state, layers, hands, options)`` and ``try_driver(root, hands, options)``,
which is the empty text where the driver works, or says why not; ``promise(hands)`` is what it does where it
works, and ``OPTIONS`` are the keys that it reads. Modules are loaded when somebody asks for the driver.

Third parties add theirs as entry points of the group ``lamina.storage_drivers``: a callable like
``open_driver``, with attributes ``try_driver``, ``promise`` and ``OPTIONS`` if it has something to say there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.errors import InvalidInput, nearest
from lamina.snapshot.snapshotter import DriverUnavailable, Snapshotter

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from lamina.content.state import State
    from lamina.snapshot.hands import Hands
    from lamina.snapshot.layers import LayerStore

Options = Mapping[str, str]
Opener = Callable[["State", "LayerStore", "Hands", Options], Snapshotter]
Trial = Callable[[Path, "Hands", Options], str]

ENTRY_POINTS = "lamina.storage_drivers"
# Best first: where nobody asks for one, the first that works is taken.
_MODULES = {
    "erofs": "lamina.snapshot.erofs",
    "overlay2": "lamina.snapshot.overlay",
    "btrfs": "lamina.snapshot.btrfs.driver",
    "zfs": "lamina.snapshot.zfs.driver",
    "devicemapper": "lamina.snapshot.devicemapper.driver",
    "fuse-overlayfs": "lamina.snapshot.fuse",
    "vfs": "lamina.snapshot.copying",
}
ORDER = tuple(_MODULES)
ALIASES = {"overlay": "overlay2", "copy": "vfs"}
# docker's names of options begin with a word that is not always the driver's name.
_PREFIXES = {"dm": "devicemapper", "overlay": "overlay2", "fuse_overlayfs": "fuse-overlayfs"}
_TYPED = {"devicemapper": "dm"}


class Driver:
    """One that can be opened, and nothing of it loaded yet."""

    def __init__(self, name: str, load: Callable[[], Any], *, is_ours: bool) -> None:
        self.name = name
        self._load = load
        self._is_ours = is_ours

    def open(self, state: State, layers: LayerStore, hands: Hands, options: Options) -> Snapshotter:
        loaded = self._load()
        opener: Opener = loaded.open_driver if self._is_ours else loaded
        return opener(state, layers, hands, options)

    def reason_against(self, root: Path, hands: Hands, options: Options) -> str:
        """Why it cannot be used, or nothing. Other people's code may raise whatever it likes."""
        trial: Trial | None = getattr(self._load(), "try_driver", None)
        return "" if trial is None else trial(root, hands, options)

    def promise(self, hands: Hands) -> str:
        """What it does, where it works."""
        found: Callable[[Hands], str] | None = getattr(self._load(), "promise", None)
        return "installed" if found is None else found(hands)

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(getattr(self._load(), "OPTIONS", ()))


def find_driver(name: str) -> Driver:
    """Raises :class:`DriverUnavailable` for a name that nobody has."""
    module = _MODULES.get(name)
    if module is not None:
        return Driver(name, lambda: importlib.import_module(module), is_ours=True)
    for point in entry_points():
        if point.name == name:
            return Driver(name, point.load, is_ours=False)
    raise DriverUnavailable(
        f"storage driver {name}: no such driver (one of {', '.join(ORDER)}, or an installed one)"
        f"{nearest(name.lower(), driver_names())}"
    )


def driver_names() -> list[str]:
    """Ours, best first, and then those that others installed."""
    return [*ORDER, *(point.name for point in entry_points())]


def option_names() -> list[str]:
    """``dm.basesize`` and its like, of all drivers; other people's code may raise whatever it likes."""
    found: list[str] = []
    for name in driver_names():
        with suppress(Exception):
            options = find_driver(name).options
            found += [f"{_TYPED.get(name, name)}.{option}" for option in options]
    return found


def entry_points() -> Iterable[EntryPoint]:
    import importlib.metadata  # noqa: PLC0415 - 15 ms, for names that are not ours

    return importlib.metadata.entry_points(group=ENTRY_POINTS)


# -- options


def read_options(texts: Iterable[str]) -> dict[str, str]:
    """``dm.basesize=20G`` and its like; the driver's name is the part before the dot.

    Raises ``InvalidInput``, also for a driver of ours that has no such option, and for one that nobody has if
    its name is nearly another's: it could only be misspelled. Others may come to be installed.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        prefix, dot, name = key.strip().partition(".")
        if not equals or not dot or not name:
            raise InvalidInput(
                f"storage option {text!r}: expected DRIVER.NAME=VALUE, as in zfs.fsname=tank/lamina"
            )
        driver = canonical(prefix)
        if driver in _MODULES:
            _insist_known(driver, name)
        else:
            _insist_not_misspelled(text, prefix)
        found[f"{driver}.{name}"] = value.strip()
    return found


def canonical(name: str) -> str:
    return ALIASES.get(name) or _PREFIXES.get(name, name)


def _insist_known(driver: str, name: str) -> None:
    known = find_driver(driver).options
    if name not in known:
        has = f"has {', '.join(known)}" if known else "has none"
        near = nearest(name, known)
        raise InvalidInput(f"storage option {name!r}: the driver {driver} {has}{near}")


def _insist_not_misspelled(text: str, prefix: str) -> None:
    names = driver_names()
    near = "" if prefix in names else nearest(prefix.lower(), [*names, *_PREFIXES])
    if near:
        raise InvalidInput(f"storage option {text!r}: no storage driver is called {prefix!r}{near}")


def with_options(known: Options, given: Options) -> dict[str, str]:
    """``known``, and over them what is ``given``; an empty value takes one away."""
    return {key: value for key, value in {**known, **given}.items() if value}


def to_remember(driver: str, known: Options, given: Options) -> dict[str, str]:
    """``known``, and what is ``given`` of a driver: nobody has looked at what others are given."""
    prefix = f"{driver}."
    return with_options(known, {key: value for key, value in given.items() if key.startswith(prefix)})


def options_of(driver: str, options: Options) -> dict[str, str]:
    """Those of one driver, without its name."""
    prefix = f"{driver}."
    return {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
