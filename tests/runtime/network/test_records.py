"""Networks as files, and the addresses that are chosen for them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.runtime.network.mode import InvalidNetwork
from lamina.runtime.network.records import (
    NetworkExists,
    NetworkNotFound,
    NetworkRecords,
    NetworkRequest,
)
from lamina.runtime.network.subnets import NoSubnetLeft, choose, first_free, host_networks, pooled

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0102A8C0	0003	0	0	0	00000000	0	0	0
eth0	0002A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000900A	00000000	0001	0	0	0	0000FFFF	0	0	0
"""


def request(name: str, **more: object) -> NetworkRequest:
    return NetworkRequest(name=name, **{"labels": {}, "options": {}, **more})  # type: ignore[arg-type]


def records(place: Path, *taken: tuple[str, str]) -> NetworkRecords:
    def host() -> Iterator[tuple[str, ipaddress.IPv4Network]]:
        return ((name, ipaddress.IPv4Network(text)) for name, text in taken)

    return NetworkRecords(place, host)  # type: ignore[arg-type]


def test_the_hosts_networks_are_read_from_its_routes(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    assert list(host_networks(str(tmp_path / "route"))) == [
        ("eth0", ipaddress.IPv4Network("192.168.2.0/24")), ("tun0", ipaddress.IPv4Network("10.144.0.0/16"))]


def test_the_default_network_stays_what_it_was(tmp_path: Path) -> None:
    made = records(tmp_path).default(5.0)
    assert (made.name, made.interface, made.subnets[0].subnet, made.subnets[0].gateway) == (
        "bridge", "lamina0", "10.144.0.0/20", "10.144.0.1")
    assert records(tmp_path).default(9.0) == made
    assert records(tmp_path, ("lamina0", "10.144.0.0/20")).default(9.0) == made


def test_to_look_at_the_default_network_makes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "networks"
    seen = records(place).foreseen()
    assert not place.exists()
    made = records(place).default(5.0)
    assert (seen.id, seen.subnets, seen.interface, seen.created) == (made.id, made.subnets, made.interface, 0.0)
    assert records(place).foreseen() == made
    moved = records(place, ("tun0", "10.144.0.0/16")).foreseen()
    assert moved.subnets[0].subnet == "10.145.0.0/20"
    assert records(place).foreseen() == made


def test_the_default_network_moves_where_the_host_took_its_place(tmp_path: Path) -> None:
    records(tmp_path).default(5.0)
    moved = records(tmp_path, ("tun0", "10.144.0.0/16")).default(6.0)
    assert (moved.interface, moved.subnets[0].subnet) == ("lamina16", "10.145.0.0/20")


def test_subnets_are_chosen_beside_what_is_there(tmp_path: Path) -> None:
    known = records(tmp_path)
    first, second, default = known.create(request("a"), 1.0), known.create(request("b"), 1.0), known.default(1.0)
    networks = [each.subnets[0].network for each in (first, second, default)]
    assert not any(one.overlaps(other) for one in networks for other in networks if one is not other)  # type: ignore[arg-type]
    assert len({first.interface, second.interface, default.interface}) == 3
    assert [each.name for each in known.walk()] == ["a", "b", "bridge"]


def test_what_was_made_is_read_again(tmp_path: Path) -> None:
    made = records(tmp_path).create(
        request("a", subnets=("10.7.0.0/24", "fd00:7::/64"), gateways=("10.7.0.9",), ip_ranges=("10.7.0.128/25",),
                is_internal=True, labels={"k": "v"}, options={"com.docker.network.driver.mtu": "1400"}), 1.0)
    assert records(tmp_path).get("a") == made
    assert records(tmp_path).get(made.id[:8]) == made
    assert [(each.gateway, each.ip_range) for each in made.subnets] == [("10.7.0.9", "10.7.0.128/25"), ("fd00:7::1", "")]
    assert (made.mtu, made.has_ipv6) == (1400, True)


@pytest.mark.parametrize("more", [
    {"name": "host"}, {"name": "bridge"}, {"name": "a/b"}, {"subnets": ("10.7.0.1/24",)}, {"subnets": ("10.7.0.0/31",)},
    {"subnets": ("10.7.0.0/24",), "gateways": ("10.8.0.1",)}, {"subnets": ("10.7.0.0/24",), "gateways": ("10.7.0.0",)},
    {"subnets": ("10.7.0.0/24",), "ip_ranges": ("10.7.1.0/25",)}, {"gateways": ("10.7.0.1",)},
    {"options": {"com.docker.network.bridge.name": "much-too-long-a-name"}}, {"options": {"mtu": "7"}},
])
def test_what_cannot_be_is_refused_and_nothing_is_made(tmp_path: Path, more: dict[str, object]) -> None:
    with pytest.raises(InvalidNetwork):
        records(tmp_path).create(request(**{"name": "a", **more}), 1.0)  # type: ignore[arg-type]
    assert records(tmp_path).walk() == []


def test_an_address_for_a_subnet_is_answered_with_the_subnet(tmp_path: Path) -> None:
    with pytest.raises(InvalidNetwork, match=r"--subnet 10\.7\.0\.5/24: .*; did you mean 10\.7\.0\.0/24\?"):
        records(tmp_path).create(request("a", subnets=("10.7.0.5/24",)), 1.0)
    with pytest.raises(InvalidNetwork, match=r"--subnet 10\.0\.0\.0/33: expected ADDRESS/BITS"):
        records(tmp_path).create(request("a", subnets=("10.0.0.0/33",)), 1.0)


def test_other_drivers_and_options_are_not_pretended(tmp_path: Path) -> None:
    for more in ({"driver": "macvlan"}, {"options": {"com.docker.network.bridge.enable_icc": "false"}}):
        with pytest.raises(Unsupported):
            records(tmp_path).create(request("a", **more), 1.0)


def test_a_name_a_subnet_and_an_interface_belong_to_one_network(tmp_path: Path) -> None:
    known = records(tmp_path, ("eth0", "10.9.0.0/16"))
    known.create(request("a", subnets=("10.7.0.0/24",), options={"com.docker.network.bridge.name": "br0"}), 1.0)
    with pytest.raises(NetworkExists, match="a: exists already"):
        known.create(request("a"), 1.0)
    with pytest.raises(NetworkExists, match="network a's"):
        known.create(request("b", subnets=("10.7.0.0/16",)), 1.0)
    with pytest.raises(NetworkExists, match="the host's eth0's"):
        known.create(request("b", subnets=("10.9.5.0/24",)), 1.0)
    with pytest.raises(NetworkExists, match="interface br0"):
        known.create(request("b", options={"com.docker.network.bridge.name": "br0"}), 1.0)


def test_a_missing_network_is_told(tmp_path: Path) -> None:
    for name in ("a", "../a", "a" * 64):
        with pytest.raises(NetworkNotFound):
            records(tmp_path).get(name)


def test_a_full_pool_is_told() -> None:
    with pytest.raises(NoSubnetLeft, match="--subnet"):
        choose([ipaddress.IPv4Network("10.0.0.0/8")], 0)


def test_the_lowest_free_address_is_next() -> None:
    subnet = ipaddress.ip_network("10.7.0.0/30")
    assert first_free(subnet, "10.7.0.1", "", {"10.7.0.9"}) == "10.7.0.2"
    with pytest.raises(NoSubnetLeft):
        first_free(subnet, "10.7.0.1", "", {"10.7.0.2"})
    assert first_free(pooled(0), "10.144.0.1", "10.144.1.0/24", set()) == "10.144.1.0"
