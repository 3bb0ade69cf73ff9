"""Which storage drivers work here, found out by trying, and which one a state directory uses.

What a state directory was unpacked with stays its driver, until somebody says otherwise: the choice is
written down. Probing mounts nothing anywhere: a detached mount proves the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamina.content.state import State
from lamina.errors import LaminaError
from lamina.snapshot.choice import changing_choice, read_choice, write_choice
from lamina.snapshot.drivers import (
    ORDER,
    Options,
    canonical,
    driver_names,
    find_driver,
    options_of,
    to_remember,
    with_options,
)
from lamina.snapshot.hands import Hands
from lamina.snapshot.layers import LayerStore
from lamina.snapshot.namespace import (
    Identity,
    Ownership,
    current_identity,
    single_identity,
    unprivileged_identity,
)
from lamina.snapshot.snapshotter import DriverUnavailable, Snapshotter
from lamina.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """``reason`` says why a driver cannot be used, or what it would do."""

    name: str
    is_usable: bool
    reason: str


def choose(
    root: Path, state: State, layers: LayerStore, *, wanted: str | None = None, options: Options | None = None
) -> Snapshotter:
    """The driver that was asked for, else the one used so far, else the best that works here.

    ``options`` are of all drivers (``zfs.fsname``); what a driver was opened with is remembered. Raises
    :class:`DriverUnavailable`, with the reason.
    """
    remembered = read_choice(root)
    wanted = canonical(wanted) if wanted else None
    if remembered is not None and wanted in (None, remembered["driver"]):
        return reopen(root, state, layers, str(remembered["driver"]), options)
    given = with_options(remembered["options"] if remembered is not None else {}, options or {})
    identity = settled_identity()
    hands = Hands(identity)
    try:
        chosen = _insist_usable(wanted, root, hands, given) if wanted else _best(root, hands, given)
        if remembered is None and not _is_first(root, chosen, identity, given, is_wanted=wanted is not None):
            hands.close()
            return choose(root, state, layers, wanted=wanted, options=options)
        driver = _open(chosen, state, layers, hands, given)
        _remember_options(root, chosen, options or {})
    except BaseException:
        hands.close()
        raise
    return driver


def reopen(
    root: Path, state: State, layers: LayerStore, name: str, options: Options | None = None
) -> Snapshotter:
    """The driver that something here was made with: that it works needs no other proof.

    Nothing is tried, but for options that it was not opened with before.
    """
    remembered = read_choice(root)
    if remembered is None:
        return choose(root, state, layers, wanted=name, options=options)
    hands = Hands(_as_remembered(remembered))
    try:
        given = with_options(remembered["options"], options or {})
        driver = _open(name, state, layers, hands, given)
        if options_of(name, given) != options_of(name, remembered["options"]):
            _insist_usable(name, root, hands, given)
        _remember_options(root, name, options or {})
    except BaseException:
        hands.close()
        raise
    return driver


def probe(root: Path, options: Options | None = None) -> list[Candidate]:
    """Every driver that is installed, best first, and whether it works on this directory for this user."""
    remembered = read_choice(root) or {"options": {}}
    given = with_options(remembered["options"], options or {})
    hands = Hands(settled_identity())
    try:
        return [_candidate(name, root, hands, given) for name in driver_names()]
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


def _open(name: str, state: State, layers: LayerStore, hands: Hands, options: Options) -> Snapshotter:
    return find_driver(name).open(state, layers, hands, options_of(name, options))


# -- choosing


def _insist_usable(name: str, root: Path, hands: Hands, options: Options) -> str:
    candidate = _candidate(name, root, hands, options)
    if not candidate.is_usable:
        raise DriverUnavailable(f"storage driver {name}: {candidate.reason}")
    return name


def _best(root: Path, hands: Hands, options: Options) -> str:
    reasons = []
    for name in ORDER:
        candidate = _candidate(name, root, hands, options)
        if candidate.is_usable:
            return name
        reasons.append(f"{name}: {candidate.reason}")
    raise DriverUnavailable(f"no storage driver works here ({'; '.join(reasons)})")


def remember(root: Path, driver: str, identity: Identity, *, is_wanted: bool = False) -> None:
    """Makes a driver, and what this user was found to be able to do, the choice of a state directory.

    ``is_wanted``: somebody has named it. Options that are remembered stay.
    """
    with changing_choice(root) as known:
        options = known["options"] if known is not None else {}
        write_choice(root, _choice_of(driver, identity, options, is_wanted=is_wanted))


def _is_first(root: Path, driver: str, identity: Identity, given: Options, *, is_wanted: bool) -> bool:
    """Whether nobody has chosen while this process was trying drivers; then this is the choice."""
    with changing_choice(root) as known:
        if known is not None:
            return False
        write_choice(root, _choice_of(driver, identity, to_remember(driver, {}, given), is_wanted=is_wanted))
        return True


def _choice_of(driver: str, identity: Identity, options: Options, *, is_wanted: bool) -> dict[str, Any]:
    return {
        "driver": driver, "ownership": identity.ownership, "mounts": identity.may_mount,
        "options": dict(options), "wanted": is_wanted,
    }


def _remember_options(root: Path, driver: str, given: Options) -> None:
    """A monitor opens the driver without our settings: what they say must be there for it.

    Not before the driver took them: what it refuses would be in the way of every command that comes.
    """
    if not _with_given(read_choice(root), driver, given):  # most commands; some may not write here
        return
    with changing_choice(root) as known:
        choice = _with_given(known, driver, given)
        if choice:
            write_choice(root, choice)


def _with_given(known: dict[str, Any] | None, driver: str, given: Options) -> dict[str, Any]:
    """Empty if nothing is to be written down."""
    if known is None:
        return {}
    options = to_remember(driver, known["options"], given)
    return {**known, "options": options} if options != known["options"] else {}


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


def _candidate(name: str, root: Path, hands: Hands, options: Options) -> Candidate:
    try:
        driver = find_driver(name)
        reason = driver.reason_against(root, hands, options_of(name, options))
        return Candidate(name=name, is_usable=not reason, reason=reason or driver.promise(hands))
    except DriverUnavailable as error:
        reason = str(error).removeprefix(f"storage driver {name}: ")
        return Candidate(name=name, is_usable=False, reason=reason)
    except LaminaError as error:
        return Candidate(name=name, is_usable=False, reason=str(error))
    except Exception as error:  # a stranger's code: whatever it raises is its reason
        return Candidate(name=name, is_usable=False, reason=f"{type(error).__name__}: {error}")
