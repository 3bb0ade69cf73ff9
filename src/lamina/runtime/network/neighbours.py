"""Names between containers where nothing answers them: the lines of each other's /etc/hosts.

For networks that were made by somebody, as in docker; containers on the default one do not know each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lamina.runtime.network.addresses import Leases
from lamina.runtime.network.values import Endpoint, NetworkPlan

HOSTS = "hosts"  # below the container's directory; bound over /etc/hosts, so it is changed in place


def neighbours(plan: NetworkPlan, endpoints: Sequence[Endpoint]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(address, names) of who is on the same networks right now, for a hosts file that is being written."""
    leases = Leases(Path(plan.shared))
    own = {address for point in endpoints for address in (point.ip, point.ip6)}
    return tuple(
        (address, names) for address, names, _ in _others(leases, plan) if address not in own
    )


def announce(leases: Leases, plan: NetworkPlan, endpoints: Sequence[Endpoint]) -> None:
    """Adds this container's lines to the files of those that run already."""
    lines = _lines(leases, endpoints)
    for directory in _directories(leases, plan, endpoints):
        with contextlib.suppress(OSError), open(directory / HOSTS, "r+", encoding="utf-8") as file:
            file.seek(0, 2)
            file.write(lines)


def withdraw(leases: Leases, plan: NetworkPlan, endpoints: Sequence[Endpoint]) -> None:
    gone = tuple(f"{address}\t" for point in endpoints for address in (point.ip, point.ip6) if address)
    for directory in _directories(leases, plan, endpoints):
        with contextlib.suppress(OSError), open(directory / HOSTS, "r+", encoding="utf-8") as file:
            before = file.readlines()
            after = [line for line in before if not line.startswith(gone)]
            if after != before:
                file.seek(0)
                file.write("".join(after))
                file.truncate()


def _lines(leases: Leases, endpoints: Sequence[Endpoint]) -> str:
    return "".join(
        f"{address}\t{' '.join(leases.holder(address).get('names', ()))}\n"
        for point in endpoints for address in (point.ip, point.ip6) if address
    )


def _directories(leases: Leases, plan: NetworkPlan, endpoints: Sequence[Endpoint]) -> set[Path]:
    own = {address for point in endpoints for address in (point.ip, point.ip6)}
    return {directory for address, _, directory in _others(leases, plan) if address not in own}


def _others(leases: Leases, plan: NetworkPlan) -> Iterator[tuple[str, tuple[str, ...], Path]]:
    networks = {each.network.id for each in plan.attachments if not each.network.is_default}
    if networks:
        for address, holder in leases.walk():
            if holder.get("network") in networks:
                yield address, tuple(holder["names"]), Path(holder["directory"])
