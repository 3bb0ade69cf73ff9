"""docker's ``-p`` texts."""

from __future__ import annotations

import re

import pytest

from lamina.runtime.network.ports import (
    InvalidPort,
    PortMapping,
    coalesced,
    parse_exposed,
    parse_publish,
    publish_all,
)


def spelled(text: str) -> list[tuple[str, int, int, int, str]]:
    return [(each.host_ip, each.host_port, each.host_last, each.container_port, each.protocol)
            for each in parse_publish(text)]


@pytest.mark.parametrize(("text", "expected"), [
    ("80", [("", 0, 0, 80, "tcp")]),
    ("8080:80", [("", 8080, 0, 80, "tcp")]),
    ("8080:80/UDP", [("", 8080, 0, 80, "udp")]),
    ("0:80", [("", 0, 0, 80, "tcp")]),
    ("0.0.0.0:8080:80", [("", 8080, 0, 80, "tcp")]),
    ("127.0.0.1:8080:80", [("127.0.0.1", 8080, 0, 80, "tcp")]),
    ("127.0.0.1::80/sctp", [("127.0.0.1", 0, 0, 80, "sctp")]),
    ("[::1]:8080:80", [("::1", 8080, 0, 80, "tcp")]),
    ("[::]::80", [("::", 0, 0, 80, "tcp")]),
    ("7000-7001:80-81", [("", 7000, 0, 80, "tcp"), ("", 7001, 0, 81, "tcp")]),
    ("80-81/udp", [("", 0, 0, 80, "udp"), ("", 0, 0, 81, "udp")]),
    ("7000-7010:80", [("", 7000, 7010, 80, "tcp")]),
])
def test_every_form_is_read(text: str, expected: list[tuple[str, int, int, int, str]]) -> None:
    assert spelled(text) == expected


@pytest.mark.parametrize(("text", "complaint"), [
    ("", "expected [[IP:][HOST-PORT]:]PORT"),
    ("http", "expected [[IP:][HOST-PORT]:]PORT"),
    ("80:", "expected [[IP:][HOST-PORT]:]PORT"),
    ("0", "a port is a number from 1 to 65535, not 0"),
    ("65536:80", "a port is a number from 1 to 65535, not 65536"),
    ("-1:80", "expected [[IP:][HOST-PORT]:]PORT"),
    ("80/icmp", "protocol 'icmp' is none of tcp, udp, sctp"),
    ("1-2:1-3", "2 host ports for 3 container ports"),
    ("9-8", "the range 9-8 ends before it begins"),
    ("localhost:80:80", "localhost is not an IP address"),
    ("::1:80:80", "an IPv6 address stands in brackets"),
    ("[::1]80", "expected [[IP:][HOST-PORT]:]PORT"),
    ("²:80", "expected [[IP:][HOST-PORT]:]PORT"),
])
def test_what_cannot_be_read_is_told_in_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(InvalidPort, match=re.escape(complaint)) as raised:
        parse_publish(text)
    assert str(raised.value).startswith(f"-p {text}")
    assert "\n" not in str(raised.value)


def test_publishing_all_adds_what_is_exposed_and_not_published() -> None:
    found = publish_all(["443/tcp", "53/udp", "80", "7000-7001"], parse_publish("8080:80"))
    assert [each.key for each in found] == ["53/udp", "443/tcp", "7000/tcp", "7001/tcp"]
    assert {each.host_port for each in found} == {0}
    assert parse_exposed("53/UDP") == ("53/udp",)


def test_neighbours_are_joined_for_the_engine() -> None:
    ports = [*parse_publish("7000-7002:80-82"), *parse_publish("7003:90"), *parse_publish("7000:80/udp")]
    assert [(first.key, first.host_port, length) for first, length in coalesced(ports)] == [
        ("80/tcp", 7000, 3), ("90/tcp", 7003, 1), ("80/udp", 7000, 1),
    ]


def test_a_mapping_is_shown_as_docker_shows_it() -> None:
    assert str(PortMapping(container_port=80, host_port=8080)) == "0.0.0.0:8080->80/tcp"
    assert str(PortMapping(container_port=80, host_port=8080, host_ip="::1")) == "[::1]:8080->80/tcp"
