"""ps, top, stats and port as docker prints them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.fakes import NOW, Command, value

from lamina.cli.ps import binary_size
from lamina.runtime.container import ContainerState, Status

ID = "c0ffee" + "0" * 58


def summary(**changes: Any) -> SimpleNamespace:
    return value(**{
        "id": ID, "name": "web", "image": "nginx:1", "command": "nginx -g daemon off;", "created": NOW - 7200,
        "status": Status.RUNNING, "started": NOW - 180, "finished": 0.0, "exit_code": 0, "health": "",
        "ports": ("0.0.0.0:8080->80/tcp", "443/tcp"), "labels": {"a": "1", "b": ""}, "mounts": ("data",),
        "networks": ("bridge",), "size": None, **changes,
    })


def test_table(command: Command) -> None:
    result = command("ps", containers=(summary(), summary(id="beef" * 16, name="job", command="true", ports=(), started=NOW)))
    assert result.out == """\
CONTAINER ID   IMAGE     COMMAND                  CREATED       STATUS                  PORTS                           NAMES
c0ffee000000   nginx:1   "nginx -g daemon off;"   2 hours ago   Up 3 minutes            0.0.0.0:8080->80/tcp, 443/tcp   web
beefbeefbeef   nginx:1   "true"                   2 hours ago   Up Less than a second                                   job
"""


def test_what_is_asked(command: Command) -> None:
    asked = [command("ps", *words, containers=()).asked[0][2] for words in (
        [], ["-a"], ["-l"], ["-n", "3"], ["-s"], ["--format", "{{.Size}}"], ["-f", "status=exited", "-f", "name=x", "-f", "name=y"],
    )]
    plain = {"shows_all": False, "filters": {}, "limit": 0, "has_sizes": False}
    assert asked == [
        plain, {**plain, "shows_all": True}, {**plain, "limit": 1}, {**plain, "limit": 3}, {**plain, "has_sizes": True},
        {**plain, "has_sizes": True}, {**plain, "filters": {"status": ["exited"], "name": ["x", "y"]}},
    ]


def test_quiet(command: Command) -> None:
    assert command("ps", "-q", containers=(summary(),)).lines == [ID[:12]]
    assert command("ps", "-q", "--no-trunc", containers=(summary(),)).lines == [ID]
    assert command("ps", "-q", containers=()).out == ""


def test_long_commands_are_cut_unless_asked_for(command: Command) -> None:
    long = summary(command="x" * 21)
    assert f'"{"x" * 19}…"' in command("ps", containers=(long,)).out
    assert f'"{"x" * 21}"' in command("ps", "--no-trunc", containers=(long,)).out


def test_templates_and_json(command: Command) -> None:
    result = command("ps", "--format", "{{.Names}}|{{.Ports}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}|{{.State}}|{{.Size}}",
                     containers=(summary(size=1200),))
    assert result.lines == ["web|0.0.0.0:8080->80/tcp, 443/tcp|a=1,b=|data|bridge|running|1.2kB"]
    document = json.loads(command("ps", "--format", "json", containers=(summary(),)).out)
    assert (document["ID"], document["Status"], document["CreatedAt"]) == (
        ID[:12], "Up 3 minutes", "2024-07-03 07:46:40 +0000 UTC")


def test_what_a_stranger_wrote_cannot_move_the_cursor(command: Command) -> None:
    out = command("ps", containers=(summary(command="\x1b[2Jx", image="a\nb", labels={"x": "\x1b]0;t\x07"}),)).out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("changes", "text"), [
    ({}, "Up 3 minutes"),
    ({"health": "starting"}, "Up 3 minutes (health: starting)"),
    ({"health": "unhealthy"}, "Up 3 minutes (unhealthy)"),
    ({"status": Status.PAUSED}, "Up 3 minutes (Paused)"),
    ({"status": Status.CREATED}, "Created"),
    ({"status": Status.EXITED, "exit_code": 137, "finished": NOW - 3600}, "Exited (137) About an hour ago"),
    ({"status": Status.RESTARTING, "exit_code": 1, "finished": NOW - 5}, "Restarting (1) 5 seconds ago"),
])
def test_status(command: Command, changes: dict[str, Any], text: str) -> None:
    assert command("ps", "-a", "--format", "{{.Status}}", containers=(summary(**changes),)).lines == [text]


# -- top, stats, port


def test_top(command: Command) -> None:
    process = value(user="root", pid=7, parent=1, started=NOW - 100, terminal="?", seconds=50.0, command="nginx\x1b")
    heading, line = command("top", "web", top=(process,)).lines
    assert heading.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    user, pid, parent, usage, _, terminal, seconds, *_ = line.split()
    assert (user, pid, parent, usage, terminal, seconds) == ("root", "7", "1", "50", "?", "00:00:50")
    assert "\x1b" not in line


class Meter:
    is_running = True

    def measure(self) -> SimpleNamespace:
        return value(id=ID, name="web", cpu=12.5, memory=64 << 20, memory_limit=1 << 30, network_received=1500,
                     network_sent=0, block_read=2_000_000, block_written=1, pids=3)


def test_stats(command: Command) -> None:
    heading, line = command("stats", "--no-stream", usage_meters=[Meter()]).lines
    assert heading.split("  ")[0] == "CONTAINER ID"
    assert line.split() == [
        ID[:12], "web", "12.50%", "64MiB", "/", "1GiB", "6.25%", "1.5kB", "/", "0B", "2MB", "/", "1B",
        "3",
    ]
    assert command("stats", "--no-stream", "--format", "{{.PIDs}}", usage_meters=[Meter()]).lines == ["3"]


@pytest.mark.parametrize(("size", "text"), [
    (0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1 << 20, "1MiB"), (2_088_763_392, "1.945GiB"), (1 << 41, "2048GiB"),
])
def test_memory_is_counted_in_1024s(size: int, text: str) -> None:
    assert binary_size(size) == text


def published(*ports: dict[str, Any]) -> SimpleNamespace:
    rest = {"protocol": "tcp", "host_last": 0, "host_ip": ""}
    return value(state=ContainerState(status=Status.RUNNING, network={"ports": [{**rest, **port} for port in ports]}))


WEB = published(
    {"container_port": 80, "host_port": 8080}, {"container_port": 80, "host_port": 8080, "host_ip": "::"},
    {"container_port": 53, "host_port": 5353, "protocol": "udp", "host_ip": "127.0.0.1"},
)


@pytest.mark.parametrize(("words", "lines"), [
    (["web"], ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "53/udp -> 127.0.0.1:5353"]),
    (["web", "80"], ["0.0.0.0:8080", "[::]:8080"]),
    (["web", "80/tcp"], ["0.0.0.0:8080", "[::]:8080"]),
    (["web", "53/udp"], ["127.0.0.1:5353"]),
])
def test_port(command: Command, words: list[str], lines: list[str]) -> None:
    result = command("port", *words, container=WEB)
    assert (result.code, result.lines) == (0, lines)


def test_a_port_that_is_not_published(command: Command) -> None:
    result = command("port", "web", "53", container=WEB)
    assert (result.code, result.out, result.err) == (1, "", "lamina: web: 53/tcp is not published\n")
    ended = value(state=ContainerState(status=Status.EXITED, network=WEB.state.network))
    assert command("port", "web", container=ended).out == ""
