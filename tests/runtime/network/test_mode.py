"""docker's ``--network`` texts and the options that go with them."""

from __future__ import annotations

import pytest

from lamina.runtime.network.mode import InvalidNetwork, Kind, NetworkMode, parse_network, with_options


@pytest.mark.parametrize(("text", "kind", "name"), [
    ("none", Kind.NONE, ""), ("host", Kind.HOST, ""), ("default", Kind.DEFAULT, ""),
    ("bridge", Kind.NAMED, "bridge"), ("my-net_1.x", Kind.NAMED, "my-net_1.x"),
    ("container:web", Kind.CONTAINER, "web"), ("pasta", Kind.USER, "pasta"),
])
def test_a_network_is_read(text: str, kind: Kind, name: str) -> None:
    assert parse_network(text) == NetworkMode(kind=kind, name=name)


def test_the_long_form_carries_options() -> None:
    assert parse_network("name=web,alias=a,alias=b,ip=10.0.0.5,mac-address=02-00-00-00-00-01") == NetworkMode(
        kind=Kind.NAMED, name="web", aliases=("a", "b"), ip="10.0.0.5", mac="02:00:00:00:00:01")


@pytest.mark.parametrize("text", ["", "-x", "a/b", "a b", "container:", "alias=x", "name=", "name=web,colour=red", "x" * 129])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InvalidNetwork):
        parse_network(text)


@pytest.mark.parametrize("options", [
    {"ip": "10.0.0"}, {"ip": "::1"}, {"ip6": "10.0.0.1"}, {"mac": "02:00"}, {"mac": "01:00:00:00:00:01"},
    {"aliases": ("a b",)},
])
def test_options_are_checked(options: dict[str, str]) -> None:
    with pytest.raises(InvalidNetwork):
        with_options(parse_network("web"), **options)  # type: ignore[arg-type]


def test_a_mode_is_spelled_as_docker_stores_it() -> None:
    assert [str(parse_network(text)) for text in ("host", "container:web", "bridge")] == ["host", "container:web", "bridge"]
