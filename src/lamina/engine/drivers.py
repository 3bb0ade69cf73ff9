"""The storage drivers of a state directory: which work here, which one is in use and why, what each holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lamina.content.unwritable import hindrance
from lamina.snapshot.choice import choice_file, read_choice
from lamina.snapshot.drivers import ORDER, canonical, driver_names, read_options
from lamina.snapshot.probing import Candidate, probe
from lamina.snapshot.snapshotter import TellsProblems
from lamina.values import dataclass

if TYPE_CHECKING:
    from lamina.engine.core import Core
    from lamina.snapshot.snapshotter import Snapshotter


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverRow:
    """``reason`` is what it would do, or why it cannot.

    ``size`` is bytes on disk of its snapshots, and of the forms of layers that they are made of; ``None``
    where it cannot be opened to be asked.
    """

    name: str
    is_usable: bool
    is_in_use: bool
    snapshots: int
    containers: int
    size: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """``reason`` completes "in use because"; ``notes`` are sentences about what does not fit together."""

    name: str
    reason: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def chosen(engine: Core) -> Chosen:
    """Which driver new images and containers get. Where nothing was chosen before, this chooses."""
    before = read_choice(engine.root)
    asked = engine.settings.storage_driver
    candidates = _candidates(engine)
    name = engine.driver.name
    written = str(before["driver"]) if before is not None else ""
    if asked:
        reason = f"asked for by {origin(engine)}"
    elif written:
        reason = f"written down in {choice_file(engine.root)}"
    else:
        reason = "the best that works here"
    notes = [*_disagreement(engine, written, name), *_others(engine, name)]
    if isinstance(engine.driver, TellsProblems) and engine.driver.caution:
        notes.append(engine.driver.caution)
    better = _best(candidates)
    is_wanted = before is not None and before["wanted"]
    if not asked and not is_wanted and better not in ("", name):
        notes.append(
            f"{better} would be chosen if nothing were here; `lamina storage migrate --to {better}` moves all"
        )
    return Chosen(name=name, reason=reason, candidates=candidates, notes=tuple(notes))


def listing(engine: Core) -> tuple[DriverRow, ...]:
    """Every driver that is installed, best first, and those that have something here without being so."""
    found = chosen(engine)
    counts, containers = snapshot_counts(engine), container_counts(engine)
    known = {candidate.name: candidate for candidate in found.candidates}
    rows = []
    for name in dict.fromkeys([*known, *counts, *containers]):
        candidate = known.get(name) or Candidate(name=name, is_usable=False, reason="not installed")
        rows.append(DriverRow(
            name=name, is_usable=candidate.is_usable, is_in_use=name == found.name,
            snapshots=counts.get(name, 0), containers=containers.get(name, 0),
            size=_size(engine, name) if name in counts else 0, reason=candidate.reason,
        ))
    return tuple(rows)


def _candidates(engine: Core) -> tuple[Candidate, ...]:
    """Trying writes. Where that cannot be, the one in use has proved itself, and nobody knows of others."""
    snapshots = engine.root / "snapshots"
    place = snapshots if snapshots.exists() else engine.root
    if os.access(place, os.W_OK):
        return tuple(probe(engine.root, read_options(engine.settings.storage_opts)))
    reason = f"cannot be tried: {hindrance(place)}"
    return tuple(
        Candidate(name=name, is_usable=name == engine.driver.name, reason=reason) for name in driver_names()
    )


def snapshot_counts(engine: Core) -> dict[str, int]:
    rows = engine.store.state.rows("SELECT driver, COUNT(*) FROM snapshots GROUP BY driver ORDER BY driver")
    return {str(driver): int(str(count)) for driver, count in rows}


def container_counts(engine: Core) -> dict[str, int]:
    from lamina.runtime.records import ContainerTable

    counts: dict[str, int] = {}
    for container in ContainerTable(engine.store.state).walk():
        counts[container.driver] = counts.get(container.driver, 0) + 1
    return counts


def disk_use(driver: Snapshotter) -> int:
    """Bytes of a driver's snapshots; a form that several share counts once."""
    total = 0
    shared: dict[str, int] = {}
    for info in driver.walk():
        usage = driver.usage(info.key)
        if usage.is_shared:
            shared[str(info.diff_id)] = max(usage.size, shared.get(str(info.diff_id), 0))
        else:
            total += usage.size
    return total + sum(shared.values())


def _size(engine: Core, name: str) -> int | None:
    from lamina.errors import LaminaError

    try:
        return disk_use(engine.driver_named(name))
    except (LaminaError, OSError):
        return None


# -- why, and what does not fit


def origin(engine: Core) -> str:
    """Who asked for a driver, as people write it: the option, the variable, or the file."""
    return engine.settings.origins.get("storage-driver", "the settings").removeprefix("flag ")


def _best(candidates: Sequence[Candidate]) -> str:
    return next((each.name for each in candidates if each.is_usable and each.name in ORDER), "")


def _disagreement(engine: Core, written: str, name: str) -> list[str]:
    if not written or written == name:
        return []
    return [(
        f"{choice_file(engine.root)} says {written}, and {origin(engine)} asks for {name}: what is new is "
        f"made with {name}, and what {written} has goes on working; "
        f"`lamina storage migrate --to {name}` moves it"
    )]


def _others(engine: Core, name: str) -> list[str]:
    snapshots, containers = snapshot_counts(engine), container_counts(engine)
    others = sorted({*snapshots, *containers} - {name})
    if not others:
        return []
    held = " and ".join(
        f"{other} has {_counted(snapshots.get(other, 0), 'snapshot')} and "
        f"{_counted(containers.get(other, 0), 'container')}" for other in others
    )
    return [
        f"besides {name}, {held} here, which go on working; `lamina storage migrate --to {name}` moves them"
    ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def is_asked_for(engine: Core, name: str) -> bool:
    """Whether the settings let ``name`` be what new things are made with."""
    asked = engine.settings.storage_driver
    return not asked or canonical(asked) == name
