"""What is decided, and refused, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.errors import LaminaError, Unsupported
from lamina.runtime.network.hostfiles import DnsOptions
from lamina.runtime.network.mode import InvalidNetwork, Kind, parse_network, with_options
from lamina.runtime.network.planning import EngineMissing, NetworkConflict, plan_network
from lamina.runtime.network.ports import parse_publish
from lamina.runtime.network.programs import Programs
from lamina.runtime.network.records import NetworkNotFound, NetworkRecords, NetworkRequest
from lamina.runtime.network.values import NetworkPlan

FULL = Programs(netavark="/n", aardvark="/a", cni="/c", slirp4netns="/s")


def plan(root: Path, *texts: str, programs: Programs = FULL, is_privileged: bool = True, **more: object) -> NetworkPlan:
    return plan_network(
        [parse_network(text) for text in texts], root=root, container="c" * 64, name="web", programs=programs,
        is_privileged=is_privileged, now=1.0, **more,  # type: ignore[arg-type]
    )


def test_root_has_the_default_bridge(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert (made.kind, made.engine, made.attachments[0].network.name) == (Kind.NAMED, "netavark", "bridge")
    assert plan(tmp_path, programs=Programs(cni="/c")).engine == "cni"


def test_an_ordinary_user_has_a_process_between(tmp_path: Path) -> None:
    for texts in ((), ("bridge",), ("default",)):
        made = plan(tmp_path, *texts, is_privileged=False)
        assert (made.kind, made.engine) == (Kind.USER, "slirp4netns")


@pytest.mark.parametrize(("help_text", "engine"), [("--map-host-loopback ADDR", "pasta"), ("--no-map-gw", "slirp4netns")])
def test_a_pasta_that_loses_bytes_comes_second(tmp_path: Path, help_text: str, engine: str) -> None:
    pasta = tmp_path / "pasta"
    pasta.write_text(f"#!/bin/sh\necho '{help_text}' >&2\nexit 1\n")
    pasta.chmod(0o755)
    programs = Programs(pasta=str(pasta), slirp4netns="/s")
    assert plan(tmp_path, programs=programs, is_privileged=False).engine == engine
    assert plan(tmp_path, programs=Programs(pasta=str(pasta)), is_privileged=False).engine == "pasta"
    assert plan(tmp_path, "pasta", programs=programs, is_privileged=False).engine == "pasta"


@pytest.mark.parametrize("is_privileged", [True, False])
def test_without_an_engine_the_default_is_none_and_it_is_said(tmp_path: Path, is_privileged: bool) -> None:
    made = plan(tmp_path, programs=Programs(), is_privileged=is_privileged)
    assert made.kind is Kind.NONE
    assert "Debian: " in made.notes[0]


@pytest.mark.parametrize("is_privileged", [True, False])
def test_who_asks_for_ports_or_a_bridge_is_refused_without_an_engine(tmp_path: Path, is_privileged: bool) -> None:
    with pytest.raises(EngineMissing, match="--network host and --network none work without"):
        plan(tmp_path, programs=Programs(), is_privileged=is_privileged, ports=parse_publish("80"))
    with pytest.raises(EngineMissing):
        plan(tmp_path, "bridge", programs=Programs(), is_privileged=is_privileged)


def test_ports_mean_nothing_on_the_hosts_network(tmp_path: Path) -> None:
    made = plan(tmp_path, "host", ports=parse_publish("80"))
    assert (made.ports, made.needs_namespace) == ((), False)
    assert "published ports mean nothing" in made.notes[0]


def test_a_containers_network_is_entered_by_its_pid(tmp_path: Path) -> None:
    made = plan(tmp_path, "container:db", is_privileged=False, pid_of={"db": 42}.__getitem__)
    assert (made.join, made.joins_user, made.needs_namespace) == (42, True, False)
    for more in ({"ports": parse_publish("80")}, {"dns": DnsOptions(servers=("1.1.1.1",))}):
        with pytest.raises(NetworkConflict, match="belong to the container"):
            plan(tmp_path, "container:db", pid_of=lambda _: 42, **more)


def test_an_ordinary_users_containers_share_no_bridge(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="need root"):
        plan(tmp_path, "mine", is_privileged=False)


def test_what_excludes_each_other_is_refused(tmp_path: Path) -> None:
    records = NetworkRecords(tmp_path / "networks")
    records.create(NetworkRequest(name="mine", subnets=("10.201.8.0/24",), labels={}, options={}), 1.0)
    records.create(NetworkRequest(name="shut", subnets=("10.201.9.0/24",), is_internal=True, labels={}, options={}), 1.0)

    def refused(*texts: str, **more: object) -> LaminaError:
        with pytest.raises((NetworkConflict, InvalidNetwork, NetworkNotFound)) as raised:
            plan(tmp_path, *texts, **more)
        return raised.value

    assert "stand alone" in str(refused("host", "mine"))
    assert "given twice" in str(refused("mine", "mine"))
    assert "not in bridge" in str(refused("name=bridge,ip=10.144.0.9"))
    assert "not inside 10.201.8.0/24" in str(refused("name=mine,ip=10.9.9.9"))
    assert "has no IPv6" in str(refused("name=mine,ip6=fd00::9"))
    assert "gateway" in str(refused("name=mine,ip=10.201.8.1"))
    assert "internal" in str(refused("shut", ports=parse_publish("80")))
    assert "not found" in str(refused("nowhere"))
    assert "no meaning" in str(refused("name=none,mac-address=02:00:00:00:00:01"))


def test_a_plan_survives_json(tmp_path: Path) -> None:
    records = NetworkRecords(tmp_path / "networks")
    records.create(NetworkRequest(name="mine", labels={"a": "b"}, options={}), 1.0)
    mode = with_options(parse_network("mine"), aliases=("x",))
    made = plan_network([mode], root=tmp_path, container="c", name="web", programs=FULL, is_privileged=True, now=1.0,
                        ports=parse_publish("8080:80"), dns=DnsOptions(servers=("1.1.1.1",)))
    assert NetworkPlan.from_json(json.loads(json.dumps(made.to_json()))) == made
