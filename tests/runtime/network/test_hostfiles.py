"""/etc/hosts and /etc/resolv.conf by docker's rules."""

from __future__ import annotations

import pytest

from lamina.runtime.network.hostfiles import (
    DnsOptions,
    InvalidDns,
    hosts_text,
    own_names,
    parse_add_host,
    parse_dns,
    resolv_text,
)

HOST = "# a comment\nnameserver 127.0.0.1\nnameserver 10.1.1.1\nnameserver fe80::1%eth0\nsearch a.example b.example\noptions ndots:3 edns0\n"


def test_loopback_servers_are_dropped_where_the_loopback_is_another() -> None:
    assert resolv_text(HOST) == "nameserver 10.1.1.1\nsearch a.example b.example\noptions ndots:3 edns0\n"
    assert resolv_text(HOST, has_ipv6=True).startswith("nameserver 10.1.1.1\nnameserver fe80::1%eth0\n")
    assert resolv_text(HOST, sees_loopback=True).startswith("nameserver 127.0.0.1\nnameserver 10.1.1.1\n")


def test_with_nothing_left_there_is_a_fallback() -> None:
    assert resolv_text("nameserver ::1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_options_replace_what_the_host_has() -> None:
    dns = parse_dns(["1.1.1.1"], ["."], ["timeout:1"])
    assert resolv_text(HOST, dns) == "nameserver 1.1.1.1\noptions timeout:1\n"
    assert resolv_text(HOST, DnsOptions(searches=("c.example",))).splitlines()[1] == "search c.example"


def test_the_networks_own_resolver_comes_first() -> None:
    text = resolv_text(HOST, parse_dns(["1.1.1.1"], [], []), resolvers=("10.144.0.1",))
    assert text == "nameserver 10.144.0.1\nsearch a.example b.example\noptions edns0 ndots:0\n"


@pytest.mark.parametrize(("servers", "searches", "options"), [
    (["example.org"], [], []), ([], ["a b"], []), ([], [], ["two words"]), ([], [], [""]),
    (["1.1.1.1\nnameserver 6.6.6.6"], [], []), ([], ["a\nnameserver 6.6.6.6"], []),
])
def test_a_text_that_would_be_another_line_is_refused(servers: list[str], searches: list[str], options: list[str]) -> None:
    with pytest.raises(InvalidDns):
        parse_dns(servers, searches, options)


@pytest.mark.parametrize(("text", "expected"), [
    ("db:10.0.0.1", ("db", "10.0.0.1")), ("db=10.0.0.1", ("db", "10.0.0.1")), ("db:::1", ("db", "::1")),
    ("db=[::1]", ("db", "::1")), ("h:host-gateway", ("h", "host-gateway")),
])
def test_an_added_host_is_read(text: str, expected: tuple[str, str]) -> None:
    assert parse_add_host(text) == expected


@pytest.mark.parametrize("text", ["db", "db:", ":10.0.0.1", "db:here", "d b:10.0.0.1", "db\n:10.0.0.1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidDns):
        parse_add_host(text)


def test_hosts_has_the_standard_names_then_the_added_then_its_own() -> None:
    text = hosts_text(own=[("10.0.0.2", own_names("web", "example.org"))], extra=[("db", "10.0.0.1"), ("h", "host-gateway")],
                      host_gateway="10.0.0.254")
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    assert text.endswith("10.0.0.1\tdb\n10.0.0.254\th\n10.0.0.2\tweb.example.org web\n")


def test_the_hosts_own_file_stays_in_host_mode() -> None:
    assert hosts_text(base="127.0.0.1 here\n", extra=[("db", "10.0.0.1")]) == "127.0.0.1 here\n10.0.0.1\tdb\n"


def test_a_gateway_to_the_host_is_refused_where_there_is_none() -> None:
    with pytest.raises(InvalidDns, match="no way to the host"):
        hosts_text(extra=[("h", "host-gateway")])
