"""Which address is whose: one small file for each, shared by every state directory of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lamina.errors import Conflict
from lamina.runtime.network.records import Subnet
from lamina.runtime.network.subnets import NoSubnetLeft, first_free
from lamina.runtime.network.values import Attachment, Endpoint

__all__ = ["AddressInUse", "Leases", "NoSubnetLeft", "hardware_address", "locked"]


class AddressInUse(Conflict):
    """The address that was asked for is another container's."""


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """One at a time: netavark and the CNI plugins change tables of rules that they do not lock."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Leases:
    """``place`` is in memory (/run): leases do not outlive the machine's run. Call under :func:`locked`."""

    def __init__(self, place: Path) -> None:
        self._place = place / "leases"

    def choose(self, attachment: Attachment) -> Endpoint:
        """Addresses for one container in one network; not yet taken. Raises :class:`AddressInUse`."""
        network = attachment.network
        found: dict[int, tuple[str, Subnet]] = {}
        for subnet in network.subnets:
            version = subnet.network.version
            wanted = attachment.ip if version == 4 else attachment.ip6
            found.setdefault(version, (self._address(subnet, wanted), subnet))
        ip, four = found.get(4, ("", None))
        ip6, six = found.get(6, ("", None))
        return Endpoint(
            network=network.name, network_id=network.id, interface=attachment.interface,
            ip=ip, prefix=four.prefix if four else 0, gateway=four.gateway if four else "",
            ip6=ip6, prefix6=six.prefix if six else 0, gateway6=six.gateway if six else "",
            mac=attachment.mac or hardware_address(ip or ip6), aliases=attachment.aliases,
        )

    def take(self, endpoint: Endpoint, holder: Mapping[str, Any]) -> None:
        self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for address in filter(None, (endpoint.ip, endpoint.ip6)):
            temporary = self._place / f".{address}"
            temporary.write_text(json.dumps({**holder, "network": endpoint.network_id}), encoding="utf-8")
            temporary.rename(self._place / address)

    def release(self, endpoint: Endpoint, directory: str) -> None:
        """Only what is still this container's."""
        for address in filter(None, (endpoint.ip, endpoint.ip6)):
            if self.holder(address).get("directory") == directory:
                (self._place / address).unlink(missing_ok=True)

    def drop(self, address: str) -> None:
        (self._place / address).unlink(missing_ok=True)

    def holder(self, address: str) -> dict[str, Any]:
        try:
            document = json.loads((self._place / address).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def walk(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for address in self._taken():
            yield address, self.holder(address)

    def _taken(self) -> set[str]:
        try:
            return {name for name in os.listdir(self._place) if name[0] != "."}
        except FileNotFoundError:
            return set()

    def _address(self, subnet: Subnet, wanted: str) -> str:
        if not wanted:
            return first_free(subnet.network, subnet.gateway, subnet.ip_range, self._taken())
        if wanted in self._taken():
            owner = self.holder(wanted).get("name", "")
            taken = f"container {owner}'s address already" if owner else "in use"
            raise AddressInUse(f"{wanted}: {taken}")
        return wanted


def hardware_address(ip: str) -> str:
    """The same for the same IPv4 address, as docker has it: ARP tables stay right when that is reused."""
    packed = ipaddress.ip_address(ip).packed
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + packed[-4:])
