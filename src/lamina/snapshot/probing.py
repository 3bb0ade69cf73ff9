"""Which storage drivers work here, found out by trying, and which one a state directory uses.

What a state directory was unpacked with stays its driver, until somebody says otherwise: the choice is
written down. Probing mounts nothing anywhere: a detached mount proves the same.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.content.durable import make_directory, write_file
from lamina.content.state import State
from lamina.errors import LaminaError
from lamina.snapshot.choice import choice_file, read_choice
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import (
    Identity,
    Ownership,
    current_identity,
    single_identity,
    unprivileged_identity,
)
from lamina.snapshot.snapshotter import DriverUnavailable, Mount, Snapshotter
from lamina.values import dataclass

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# Best first. Third parties add theirs as entry points of this group: a callable like those in _OPENERS,
# with an attribute ``probe(root, hands)`` if it can say why it does not work.
ORDER = ("erofs", "overlay2", "vfs")
ENTRY_POINTS = "lamina.storage_drivers"
_UNKNOWN = f"no such driver (one of {', '.join(ORDER)}, or an installed one)"
ALIASES = {"overlay": "overlay2", "copy": "vfs"}

Opener = Callable[[State, LayerStore, Hands], Snapshotter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """``reason`` says why a driver cannot be used, or what it would do."""

    name: str
    is_usable: bool
    reason: str


def choose(root: Path, state: State, layers: LayerStore, *, wanted: str | None = None) -> Snapshotter:
    """The driver that was asked for, else the one used so far, else the best that works here.

    Raises :class:`DriverUnavailable`, with the reason.
    """
    remembered = read_choice(root)
    if remembered is not None and wanted in (None, remembered["driver"]):
        return reopen(root, state, layers, str(remembered["driver"]))
    identity = settled_identity()
    hands = Hands(identity)
    try:
        chosen = _wanted(wanted, root, hands) if wanted else _best(root, hands)
        if remembered is None:
            remember(root, chosen, identity)
        return _open(chosen, state, layers, hands)
    except BaseException:
        hands.close()
        raise


def reopen(root: Path, state: State, layers: LayerStore, name: str) -> Snapshotter:
    """The driver that something here was made with: that it works needs no other proof. Nothing is tried."""
    remembered = read_choice(root)
    if remembered is None:
        return choose(root, state, layers, wanted=name)
    hands = Hands(_as_remembered(remembered))
    try:
        return _open(name, state, layers, hands)
    except BaseException:
        hands.close()
        raise


def probe(root: Path) -> list[Candidate]:
    """Every driver that is installed, best first, and whether it works on this directory for this user."""
    hands = Hands(settled_identity())
    try:
        found = [_candidate(name, root, hands) for name in ORDER]
        found += [_candidate(point.name, root, hands) for point in _entry_points()]
        return found
    finally:
        hands.close()


def settled_identity() -> Identity:
    """What this process is, or can really become: ranges of ids are tried, then one id, then none."""
    identity = current_identity()
    if identity.is_entered:
        return identity
    attempts = [identity]
    if identity.ownership is Ownership.MAPPED:
        attempts.append(single_identity())
    for attempt in attempts:
        hands = Hands(attempt)
        try:
            hands.run("nothing")
        except LaminaError:
            continue
        finally:
            hands.close()
        return attempt
    return unprivileged_identity()


def _open(name: str, state: State, layers: LayerStore, hands: Hands) -> Snapshotter:
    opener = _OPENERS.get(name)
    if opener is not None:
        return opener(state, layers, hands)
    for point in _entry_points():
        if point.name == name:
            made: Snapshotter = point.load()(state, layers, hands)
            return made
    raise DriverUnavailable(f"storage driver {name}: {_UNKNOWN}")


def _overlay(state: State, layers: LayerStore, hands: Hands) -> Snapshotter:
    from lamina.snapshot.overlay import open_overlay  # noqa: PLC0415 - one driver a command

    return open_overlay(state, layers, hands)


def _erofs(state: State, layers: LayerStore, hands: Hands) -> Snapshotter:
    from lamina.snapshot.erofs import open_erofs  # noqa: PLC0415 - one driver a command

    return open_erofs(state, layers, hands)


def _vfs(state: State, layers: LayerStore, hands: Hands) -> Snapshotter:
    from lamina.snapshot.copying import CopyingSnapshotter  # noqa: PLC0415 - one driver a command

    return CopyingSnapshotter(state, layers, hands)


_OPENERS: dict[str, Opener] = {"overlay2": _overlay, "erofs": _erofs, "vfs": _vfs}


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 15 ms, for names that are not ours

    return entry_points(group=ENTRY_POINTS)


# -- choosing


def _wanted(name: str, root: Path, hands: Hands) -> str:
    name = ALIASES.get(name, name)
    candidate = _candidate(name, root, hands)
    if not candidate.is_usable:
        raise DriverUnavailable(f"storage driver {name}: {candidate.reason}")
    return name


def _best(root: Path, hands: Hands) -> str:
    reasons = []
    for name in ORDER:
        candidate = _candidate(name, root, hands)
        if candidate.is_usable:
            return name
        reasons.append(f"{name}: {candidate.reason}")
    raise DriverUnavailable(f"no storage driver works here ({'; '.join(reasons)})")


def remember(root: Path, driver: str, identity: Identity) -> None:
    """Makes a driver, and what this user was found to be able to do, the choice of a state directory."""
    make_directory(root / "snapshots")
    choice = {"driver": driver, "ownership": identity.ownership, "mounts": identity.may_mount}
    write_file(choice_file(root), json.dumps(choice).encode())


def _as_remembered(choice: dict[str, Any]) -> Identity:
    """This process' identity, reduced to what proved to work when the directory was first used."""
    identity = current_identity()
    if identity.is_entered:
        return identity
    if not choice["mounts"]:
        return unprivileged_identity()
    if choice["ownership"] == Ownership.SINGLE:
        return single_identity()
    return identity


# -- trying


def _candidate(name: str, root: Path, hands: Hands) -> Candidate:
    trial = _TRIALS.get(name)
    if trial is not None:
        return trial(root, hands)
    for point in _entry_points():
        if point.name == name:
            try:
                reason = getattr(point.load(), "probe", lambda _root, _hands: "")(root, hands)
            except Exception as error:  # a stranger's code: whatever it raises is its reason
                reason = f"{type(error).__name__}: {error}"
            return Candidate(name=name, is_usable=not reason, reason=reason or "installed")
    return Candidate(name=name, is_usable=False, reason=_UNKNOWN)


def _try_vfs(_root: Path, hands: Hands) -> Candidate:
    owners = "" if hands.identity.ownership is not Ownership.SINGLE else "; files get one owner"
    return Candidate(name="vfs", is_usable=True, reason=f"copies files, needs nothing{owners}")


def _try_overlay(root: Path, hands: Hands) -> Candidate:
    reason = _overlay_reason(root, hands)
    kind = "kernel overlayfs" if hands.identity.is_initial else "kernel overlayfs in a user namespace"
    owners = "; files get one owner" if hands.identity.ownership is Ownership.SINGLE else ""
    return Candidate(name="overlay2", is_usable=not reason, reason=reason or f"{kind}{owners}")


def _try_erofs(root: Path, hands: Hands) -> Candidate:
    reason = _erofs_reason(root, hands) or _overlay_reason(root, hands)
    shown = reason or "mounts an index over each layer's tar, unpacks nothing"
    return Candidate(name="erofs", is_usable=not reason, reason=shown)


_LACKING = "needs CAP_SYS_ADMIN, which root lacks here, as in a container"
_TRIALS = {"vfs": _try_vfs, "overlay2": _try_overlay, "erofs": _try_erofs}


def _overlay_reason(root: Path, hands: Hands) -> str:
    if not hands.identity.may_mount:
        if hands.identity.is_initial:
            return _LACKING
        return "needs root, or user namespaces for ordinary users, which this system does not allow"
    with _scratch(root, hands) as scratch:
        found: str = hands.run("try_overlay", path=str(scratch), xattrs=hands.identity.xattr_namespace)
        return found


def _erofs_reason(root: Path, hands: Hands) -> str:
    if hands.identity.is_initial and not hands.identity.may_mount:
        return _LACKING
    if not hands.identity.is_initial:
        return "needs root: EROFS cannot be mounted in a user namespace"
    from lamina.snapshot.erofs import try_erofs  # noqa: PLC0415 - one driver a command

    with _scratch(root, hands) as scratch:
        return try_erofs(scratch)


def try_overlay(path: Path, xattrs: str) -> str:
    """Two lower directories and an upper one, in which a lower file is then removed and replaced."""
    for name in ("low", "lower", "upper", "work"):
        (path / name).mkdir()
    mount = Mount(
        type="overlay", source="overlay",
        options=(f"upperdir={path / 'upper'}", f"workdir={path / 'work'}",
                 *(("userxattr",) if xattrs == "user" else ())),
        layers=tuple(Mount(type="bind", source=str(path / name)) for name in ("lower", "low")),
    )
    from lamina.snapshot.mounting import can_mount  # noqa: PLC0415 - ctypes, for those who mount

    return can_mount(mount)


@contextlib.contextmanager
def _scratch(root: Path, hands: Hands) -> Iterator[Path]:
    """Where the driver's files would be: what works on another filesystem proves nothing."""
    home = root / "snapshots"
    make_directory(home)
    path = home / f".trying-{os.urandom(8).hex()}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        hands.empty(path)
