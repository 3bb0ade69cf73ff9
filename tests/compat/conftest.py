"""Other people's tools as fixtures: real processes on free loopback ports, in directories of their own.

Each daemon is started once a session and stopped at its end. What they need but the machine lacks is a
failure that names the program; ``tests/run`` installs all of them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.compat.peers import Docker, Lamina, Podman, Skopeo, Umoci, daemon, program, unmount_below, wait_for
from tests.conftest import remove_when_idle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` everything that needs dockerd runs on one worker, so that one is started."""
    for item in items:
        if "dockerd" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("dockerd"))


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A directory with a short name: unix sockets take 107 characters, pytest's own directories most of them."""
    directory = Path(tempfile.mkdtemp(prefix="lamina-", dir="/tmp"))
    yield directory
    unmount_below(directory)
    remove_when_idle(directory)


@pytest.fixture(scope="session")
def docker_registry(workshop: Path) -> Iterator[str]:
    """``127.0.0.1:port`` of an empty distribution registry that takes pushes and deletes, without TLS."""
    home = workshop / "registry"
    home.mkdir()
    config, log = home / "config.yml", home / "log"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, formatter: json}\n"
        f"storage: {{filesystem: {{rootdirectory: {home / 'data'}}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:0'}\n"  # the port is the kernel's choice; the log tells it
    )
    with daemon([program("docker-registry"), "serve", config], log) as process:
        def address() -> str:
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
            return found.group(1) if found else ""

        yield wait_for("docker-registry", log, process, address)


@pytest.fixture(scope="session")
def dockerd(workshop: Path) -> Iterator[Docker]:
    home = workshop / "d"
    home.mkdir()
    docker, log = Docker(home / "s"), home / "log"
    arguments = [
        program("dockerd"), "--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "pid",
        "-H", f"unix://{docker.socket}", "--iptables=false", "--bridge=none", "--experimental",
    ]
    with daemon(arguments, log) as process:
        wait_for("dockerd", log, process, lambda: "API listen on" in log.read_text(errors="replace"))
        yield docker


@pytest.fixture(scope="session")
def podman(workshop: Path) -> Podman:
    home = workshop / "p"
    (home / "tmp").mkdir(parents=True)
    return Podman(home)


@pytest.fixture(scope="session")
def skopeo(workshop: Path) -> Skopeo:
    tmp = workshop / "skopeo"
    tmp.mkdir()
    return Skopeo(tmp)


@pytest.fixture(scope="session")
def umoci(workshop: Path) -> Umoci:
    home = workshop / "umoci"
    home.mkdir()
    return Umoci(home)


@pytest.fixture
def lamina(workshop: Path) -> Iterator[Lamina]:
    """A fresh state directory for each test."""
    home = Path(tempfile.mkdtemp(prefix="l-", dir=workshop))
    yield Lamina(home / "root")
    unmount_below(home)
    remove_when_idle(home)
