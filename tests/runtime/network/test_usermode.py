"""The parts of pasta and slirp4netns that need neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.content.lease import process_start
from lamina.runtime.network import usermode
from lamina.runtime.network.mode import Kind
from lamina.runtime.network.ports import parse_publish
from lamina.runtime.network.values import NetworkPlan


def test_forwards_are_spelled_for_pasta() -> None:
    ports = [*parse_publish("8080:80"), *parse_publish("127.0.0.1:81:81"), *parse_publish("53:53/udp")]
    assert usermode._forwards(ports, "tcp") == "8080:80,127.0.0.1/81:81"
    assert usermode._forwards(ports, "udp") == "53:53"
    assert usermode._forwards([], "tcp") == "none"


@pytest.mark.parametrize(("host", "dns", "expected"), [
    ("nameserver 127.0.0.53\n", (), ("10.0.2.3",)), ("nameserver 10.1.1.1\n", (), ()),
    ("nameserver 127.0.0.53\n", ("1.1.1.1",), ()),
])
def test_the_programs_resolver_is_for_hosts_whose_own_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, host: str, dns: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(usermode, "host_resolv", lambda: host)
    assert usermode._resolvers(NetworkPlan(kind=Kind.USER, dns=dns), "10.0.2.3") == expected


def test_a_process_that_only_has_the_pid_is_left_alone(tmp_path: Path) -> None:
    import os

    usermode.stop(tmp_path, os.getpid(), (process_start(os.getpid()) or 0) + 1)
    (tmp_path / "pasta.pid").write_text(str(os.getpid()))
    usermode.stop(tmp_path, 0, 0)
    assert not (tmp_path / "pasta.pid").exists()
