"""Containers on networks: a sleeping process in a network namespace stands for each container."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli.fakes import Terminal
from tests.conftest import OrdinaryUser

from lamina.cli import networks as cli
from lamina.cli.arguments import Arguments, UsageError, VerbParser
from lamina.cli.session import Session
from lamina.cli.verbs import Verb
from lamina.engine import networks
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.errors import InvalidInput
from lamina.runtime.network import ahead, connecting, neighbours
from lamina.runtime.network.claims import PortInUse
from lamina.runtime.network.connecting import connect, disconnect, read_connected
from lamina.runtime.network.hostfiles import DnsOptions
from lamina.runtime.network.mode import Kind, NetworkMode, parse_network, with_options
from lamina.runtime.network.planning import EngineMissing, plan_network
from lamina.runtime.network.ports import parse_publish
from lamina.runtime.network.programs import NetworkFailed, Programs, find_programs
from lamina.runtime.network.records import NetworkInUse, NetworkRecords, NetworkRequest
from lamina.runtime.network.values import Connected, NetworkPlan

pytestmark = [pytest.mark.privileged, pytest.mark.xdist_group("network")]

ALL = find_programs()
ENGINES = {
    "netavark": replace(ALL, cni=""),
    "cni": replace(ALL, netavark="", aardvark=""),
}
LEASES = Path("/run/lamina/network/leases")
SERVER = """
import socket, sys, threading
def tcp():
    server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        peer, address = server.accept()
        peer.recv(1)
        peer.sendall(f"tcp {sys.argv[2]}".encode()); peer.close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("0.0.0.0", int(sys.argv[1])))
threading.Thread(target=tcp, daemon=True).start()
while True:
    data, address = udp.recvfrom(100)
    udp.sendto(f"udp {sys.argv[2]}".encode(), address)
"""


class Container:
    """A namespace with a process in it, its directory, and what it is connected to."""

    def __init__(self, root: Path, name: str, number: int) -> None:
        self.name = name
        self.id = f"{os.getpid():08x}{number:04x}".ljust(64, "e")
        self.directory = root / "containers" / self.id
        self.directory.mkdir(parents=True)
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.others: list[subprocess.Popen[str]] = []
        self.plan = NetworkPlan(kind=Kind.NONE)
        self.connected = Connected()
        wait_for(lambda: namespace_of(self.process.pid) != namespace_of(os.getpid()))

    @property
    def ip(self) -> str:
        return self.connected.endpoints[0].ip

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "-t", str(self.process.pid), "-n", *command], capture_output=True, text=True, timeout=20, check=False
        )

    def serve(self, port: int) -> None:
        server = subprocess.Popen(
            ["nsenter", "-t", str(self.process.pid), "-n", sys.executable, "-I", "-S", "-c", SERVER, str(port), self.name],
            stdout=subprocess.PIPE, text=True,
        )
        self.others.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def kill(self) -> None:
        for process in (*self.others, self.process):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


class World:
    """One state directory and its containers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.containers: list[Container] = []

    def plan(
        self, container: Container, *networks: NetworkMode, programs: Programs = ALL, publish: tuple[str, ...] = (),
        dns: tuple[str, ...] = (),
    ) -> NetworkPlan:
        return plan_network(
            networks, root=self.root, container=container.id, name=container.name, programs=programs,
            is_privileged=True, now=time.time(), ports=[port for text in publish for port in parse_publish(text)], dns=DnsOptions(servers=dns),
        )

    def container(self, name: str) -> Container:
        made = Container(self.root, name, len(self.containers))
        self.containers.append(made)
        return made

    def run(
        self, name: str, *networks: NetworkMode, programs: Programs = ALL, publish: tuple[str, ...] = (),
        dns: tuple[str, ...] = (),
    ) -> Container:
        made = self.container(name)
        made.plan = self.plan(made, *networks, programs=programs, publish=publish, dns=dns)
        made.connected = connect(made.plan, made.process.pid, made.directory)
        return made

    def network(self, name: str, **more: object) -> NetworkMode:
        request = NetworkRequest(name=name, labels={}, options={}, **more)  # type: ignore[arg-type]
        NetworkRecords(self.root / "networks").create(request, time.time())
        return parse_network(name)

    def close(self) -> None:
        for container in self.containers:
            disconnect(container.directory, container.connected.held)
            container.kill()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    before = links()
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()
    wait_for(lambda: links() <= before)
    assert traces_of(made) == []


def namespace_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def links() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith("lamina")}


def rules() -> str:
    commands = (["iptables-save"], ["nft", "list", "ruleset"])
    return "\n".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands)


def traces_of(world: World) -> list[str]:
    """Whatever in the kernel's tables, among leases and processes still speaks of these containers or networks."""
    words = [container.id for container in world.containers]
    words += [address for container in world.containers for address in container.connected.addresses]
    words += [each.id[:8] for each in NetworkRecords(world.root / "networks").walk() if not each.is_default]
    # Somebody else's containers may be on the default network; then its own rules are theirs.
    words += [subnet.subnet for each in NetworkRecords(world.root / "networks").walk() if each.interface not in links()
              for subnet in each.subnets]
    found = [word for word in words if word in rules()]
    with suppress(FileNotFoundError):
        found += [path.name for path in LEASES.iterdir() if str(world.root) in path.read_text()]
    return found + [line for line in processes() if str(world.root) in line]


def processes() -> list[str]:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def ask_tcp(host: str, port: int) -> str:
    with socket.create_connection((host, port), 5) as client:
        client.sendall(b"?")
        return client.recv(100).decode()


def ask_udp(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"?", (host, port))
        return client.recv(100).decode()


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.254", 9))
        return str(probe.getsockname()[0])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def query(server: str, name: str) -> str:
    """One A record, asked by hand: no resolver needs to be installed."""
    return (
        "import socket\n"
        f"q = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0' + b''.join(bytes([len(p)]) + p for p in {name.encode()!r}.split(b'.')) + b'\\0\\0\\1\\0\\1'\n"
        f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.sendto(q, ({server!r}, 53))\n"
        "a = s.recv(512)\n"
        "print('.'.join(map(str, a[-4:])) if a[7] else 'rcode', a[3] & 15)\n"
    )


# -- bridges


@pytest.mark.parametrize("engine", ENGINES)
def test_two_on_the_default_network_reach_each_other(world: World, engine: str) -> None:
    one, two = (world.run(name, programs=ENGINES[engine]) for name in ("one", "two"))
    assert one.ip != two.ip
    assert one.inside("busybox", "ping", "-c1", "-W3", two.ip).returncode == 0
    assert one.inside("busybox", "ping", "-c1", "-W3", "127.0.0.1").returncode == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_said_of_an_endpoint_is_so(world: World, engine: str) -> None:
    one = world.run("one", programs=ENGINES[engine])
    point = one.connected.endpoints[0]
    shown = json.loads(one.inside("ip", "-json", "address", "show", "dev", point.interface).stdout)[0]
    assert shown["address"] == point.mac
    assert [(each["local"], each["prefixlen"]) for each in shown["addr_info"] if each["family"] == "inet"] == [
        (point.ip, point.prefix)]
    assert f"default via {point.gateway}" in one.inside("ip", "route").stdout
    assert read_connected(one.directory) == replace(one.connected, held=connecting.Held())


def test_names_are_answered_on_a_network_that_somebody_made(world: World) -> None:
    network = world.network("mine")
    one = world.run("one", network, programs=ENGINES["netavark"])
    two = world.run("two", with_options(network, aliases=("zwei",)), programs=ENGINES["netavark"])
    (server,) = one.connected.resolvers
    for name in ("two", "zwei", two.id[:12]):
        assert one.inside(sys.executable, "-c", query(server, name)).stdout == f"{two.ip} 0\n", name
    assert two.inside(sys.executable, "-c", query(server, "one")).stdout == f"{one.ip} 0\n"
    assert "aardvark-dns" in " ".join(processes())


def test_what_the_name_server_does_not_know_goes_to_the_servers_that_were_given(world: World) -> None:
    """They are the container's own: another one on the same network has others."""
    network = world.network("mine")
    one = world.run("one", network, programs=ENGINES["netavark"], dns=(own_address(),))
    asked = []

    def answer() -> None:
        data, address = outside.recvfrom(512)
        asked.append(data)
        outside.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:data.index(b"\0", 12) + 5]
                       + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\1\2\3", address)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.bind((own_address(), 53))
        outside.settimeout(5)
        thread = threading.Thread(target=answer)
        thread.start()
        found = one.inside(sys.executable, "-c", query(one.connected.resolvers[0], "far.example"))
        thread.join()
    assert found.stdout == "10.1.2.3 0\n"
    assert asked


def test_state_directories_share_the_default_network_and_no_address(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = World(tmp_path_factory.mktemp("other"))
    try:
        one, two = world.run("one"), other.run("one")
        assert one.connected.endpoints[0].gateway == two.connected.endpoints[0].gateway
        assert one.ip != two.ip
        assert one.inside("busybox", "ping", "-c1", "-W3", two.ip).returncode == 0
    finally:
        other.close()
    assert traces_of(other) == []


def test_the_default_network_answers_no_names(world: World) -> None:
    assert world.run("one", programs=ENGINES["netavark"]).connected.resolvers == ()


def test_without_a_name_server_hosts_files_know_the_others(world: World) -> None:
    network = world.network("mine")
    one = world.run("one", network, programs=ENGINES["cni"])
    (one.directory / "hosts").write_text("127.0.0.1\tlocalhost\n")
    two = world.run("two", network, programs=ENGINES["cni"])
    assert f"{two.ip}\ttwo {two.id[:12]}\n" in (one.directory / "hosts").read_text()
    assert neighbours.neighbours(two.plan, two.connected.endpoints) == ((one.ip, ("one", one.id[:12])),)
    disconnect(two.directory, two.connected.held)
    two.connected = replace(two.connected, held=connecting.Held())
    assert (one.directory / "hosts").read_text() == "127.0.0.1\tlocalhost\n"


@pytest.mark.parametrize("engine", ENGINES)
def test_published_ports_are_reached_from_the_host(world: World, engine: str) -> None:
    port = free_port()
    one = world.run("one", programs=ENGINES[engine], publish=(f"{port}:80", f"{port}:80/udp", "81"))
    one.serve(80)
    for host in ("127.0.0.1", own_address()):
        assert ask_tcp(host, port) == "tcp one"
        assert ask_udp(host, port) == "udp one"
    anywhere = one.connected.ports[2]
    assert anywhere.host_port > 1023
    one.serve(81)
    assert ask_tcp("127.0.0.1", anywhere.host_port) == "tcp one"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_range_of_ports_is_published_port_by_port(world: World, engine: str) -> None:
    port = free_port() & ~7
    one = world.run("one", programs=ENGINES[engine], publish=(f"127.0.0.1:{port}-{port + 3}:9000-9003",))
    one.serve(9002)
    assert ask_tcp("127.0.0.1", port + 2) == "tcp one"
    with pytest.raises(OSError):
        ask_tcp(own_address(), port + 2)


def test_a_port_that_another_program_has_is_refused_in_one_sentence(world: World) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port}/tcp: in use on this host already; publish 80/tcp under another"):
            world.run("one", publish=(f"{port}:80",))


def test_a_port_that_another_container_has_is_refused(world: World) -> None:
    port = free_port()
    world.run("one", publish=(f"{port}:80",))
    with pytest.raises(PortInUse, match="in use"):
        world.run("two", publish=(f"{port}:80",))


def test_no_other_program_can_have_a_published_port(world: World) -> None:
    port = free_port()
    world.run("one", publish=(f"{port}:80", f"{port}:80/udp"))
    with pytest.raises(OSError):
        socket.create_server(("0.0.0.0", port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, pytest.raises(OSError):
        client.bind(("0.0.0.0", port))


def test_a_choice_of_host_ports_takes_the_first_free_one(world: World) -> None:
    port = free_port() & ~7
    one, two = (world.run(name, publish=(f"{port}-{port + 1}:80",)) for name in ("one", "two"))
    assert [each.connected.ports[0].host_port for each in (one, two)] == [port, port + 1]


def test_addresses_can_be_chosen_and_are_given_once(world: World) -> None:
    network = world.network("mine", subnets=("10.201.7.0/24",), ip_ranges=("10.201.7.128/25",))
    chosen = with_options(network, ip="10.201.7.9", mac="02:00:00:00:00:09")
    one = world.run("one", chosen)
    assert (one.ip, one.connected.endpoints[0].mac) == ("10.201.7.9", "02:00:00:00:00:09")
    with pytest.raises(connecting.addresses.AddressInUse, match="container one's address already"):
        world.run("two", chosen)
    assert world.run("three", network).ip == "10.201.7.128"


def test_an_internal_network_leads_nowhere_else(world: World) -> None:
    one = world.run("one", world.network("mine", is_internal=True))
    assert "default" not in one.inside("ip", "route").stdout


def test_several_networks_at_once(world: World) -> None:
    first, second = world.network("first"), world.network("second")
    one = world.run("one", first, second, programs=ENGINES["netavark"])
    two = world.run("two", second, programs=ENGINES["netavark"])
    assert [point.interface for point in one.connected.endpoints] == ["eth0", "eth1"]
    assert one.inside("busybox", "ping", "-c1", "-W3", two.ip).returncode == 0


def test_ipv6_beside_ipv4(world: World) -> None:
    one = world.run("one", network := world.network("mine", subnets=("fd00:6c61:6d69::/64",)))
    two = world.run("two", network)
    address = two.connected.endpoints[0].ip6
    wait_for(lambda: one.inside("busybox", "ping", "-6", "-c1", "-W1", address).returncode == 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_at_once_have_twenty_addresses(world: World, engine: str) -> None:
    script = (
        "import json, sys, time; from pathlib import Path\n"
        "from lamina.runtime.network.connecting import connect\n"
        "from lamina.runtime.network.values import NetworkPlan\n"
        "plan = NetworkPlan.from_json(json.load(sys.stdin))\n"
        "print(connect(plan, int(sys.argv[1]), Path(sys.argv[2])).endpoints[0].ip)\n"
    )
    containers = [world.container(f"c{number}") for number in range(20)]
    started = []
    for container in containers:
        plan = world.plan(container, programs=ENGINES[engine])
        process = subprocess.Popen([sys.executable, "-c", script, str(container.process.pid), str(container.directory)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan.to_json()))
        process.stdin.close()
        started.append(process)
    addresses = []
    for process in started:
        assert process.stdout is not None
        addresses.append(process.stdout.read().strip())
        process.stdout.close()
        assert process.wait() == 0
    assert len(set(addresses)) == 20
    assert containers[0].inside("busybox", "ping", "-c1", "-W3", addresses[19]).returncode == 0


# -- ahead of the runtime


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_is_connected_while_the_container_is_not_there_yet(world: World, engine: str) -> None:
    port = free_port()
    one = world.container("one")
    one.plan = world.plan(one, programs=ENGINES[engine], publish=(f"{port}:80",))
    begun = ahead.begin(one.plan, one.directory)
    one.process.kill()
    one.process.wait()
    one.process = subprocess.Popen(["nsenter", f"--net={begun.namespace}", "sleep", "600"])
    one.connected = begun.finish(one.process.pid)
    wait_for(lambda: namespace_of(one.process.pid) != namespace_of(os.getpid()))
    one.serve(80)
    assert ask_tcp("127.0.0.1", port) == "tcp one"
    assert one.inside("busybox", "ping", "-c1", "-W3", one.connected.endpoints[0].gateway).returncode == 0


def test_what_was_begun_can_be_abandoned(world: World) -> None:
    one = world.container("one")
    one.plan = world.plan(one, publish=("80",))
    ahead.begin(one.plan, one.directory).abandon()
    assert traces_of(world) == []
    assert not (one.directory / connecting.RECORD).exists()


def test_what_fails_ahead_is_told_at_the_end(world: World) -> None:
    one = world.container("one")
    plan = world.plan(one)
    one.plan = replace(plan, program="/nowhere/netavark")
    begun = ahead.begin(one.plan, one.directory)
    with pytest.raises(NetworkFailed, match="/nowhere/netavark"):
        begun.finish(one.process.pid)
    one.plan = plan
    with suppress(FileNotFoundError):  # nothing could be undone with a program that is not there
        document = json.loads((one.directory / connecting.RECORD).read_bytes())
        connecting._write(one.directory, {**document, "plan": plan.to_json()})
    disconnect(one.directory)


def test_a_monitor_that_held_the_namespace_is_not_taken_for_the_container(world: World) -> None:
    """Its own network namespace is the host's: nothing may be taken down there."""
    one = world.container("one")
    one.plan = world.plan(one)
    held = ahead.begin(one.plan, one.directory).finish(one.process.pid).held
    disconnect(one.directory)
    assert traces_of(world) == []
    held.close()
    world.run("two")  # a bridge that could not go with the first goes with this one


# -- the facade's verbs


def test_networks_are_made_listed_described_and_removed(world: World) -> None:
    with Engine.open(world.root, settings=Settings.load({"LAMINA_ROOT": str(world.root)})) as engine:
        made = engine.create_network("mine", labels={"a": "b"})
        one = world.run("one", parse_network("mine"))
        assert [each.name for each in networks.listing(engine)] == ["bridge", "host", "mine", "none"]
        assert [each.name for each in networks.listing(engine, {"label": ["a=b"]})] == ["mine"]
        assert [each.name for each in networks.listing(engine, {"type": ["builtin"], "name": ["o"]})] == ["host", "none"]
        with pytest.raises(InvalidInput, match="colour: not a filter of network ls"):
            networks.listing(engine, {"colour": ["red"]})
        document = networks.inspect(engine, made.id[:12])
        assert document["Containers"] == {one.id: {
            "Name": "one", "IPv4Address": f"{one.ip}/{one.connected.endpoints[0].prefix}", "IPv6Address": ""}}
        assert document["IPAM"]["Config"] == [{"Subnet": made.subnets[0].subnet, "Gateway": made.subnets[0].gateway}]
        with pytest.raises(NetworkInUse, match="used by one"):
            networks.remove(engine, "mine")
        assert networks.prune(engine) == ()
        disconnect(one.directory, one.connected.held)
        one.connected = replace(one.connected, held=connecting.Held())
        with pytest.raises(NetworkInUse, match="used by later"):
            networks.remove(engine, "mine", in_use={"mine": ["later"]})
        assert networks.prune(engine, filters={"until": ["1h"]}) == ()
        assert networks.prune(engine, filters={"label": ["a=c"]}) == ()
        assert networks.prune(engine) == ("mine",)
        for name in ("bridge", "host", "none"):
            assert networks.inspect(engine, name)["Name"] == name
            with pytest.raises(InvalidInput, match="always there"):
                networks.remove(engine, name)


def verb(world: World, verb: Verb, *words: str, said: str = "") -> tuple[int, list[str], str]:
    out, err = Terminal(), Terminal()
    session = Session(stdin=Terminal(said.encode()), stdout=out, stderr=err, clock=time.time,
                      environ={"HOME": str(world.root), "LAMINA_ROOT": str(world.root)})
    code = verb.run(VerbParser("network", verb).read(words, Arguments()), session)
    return code or 0, out.bytes.decode().splitlines(), err.bytes.decode()


def test_the_commands_verbs(world: World) -> None:
    code, (made,), _ = verb(world, cli.NETWORK_CREATE, "--subnet", "10.201.10.0/24", "--label", "a=b", "mine")
    assert (code, len(made)) == (0, 64)
    listed = verb(world, cli.NETWORK_LS)[1]
    assert listed[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert f"{made[:12]}   mine      bridge    local" in listed
    assert verb(world, cli.NETWORK_LS, "-q", "--no-trunc", "--filter", "name=mine")[1] == [made]
    assert verb(world, cli.NETWORK_LS, "--format", "{{.Name}} {{.Labels}}", "--filter", "type=custom")[1] == ["mine a=b"]
    form = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    assert verb(world, cli.NETWORK_INSPECT, "-f", form, "mine")[1] == ["10.201.10.1"]
    code, out, err = verb(world, cli.NETWORK_INSPECT, "mine", "nowhere")
    assert (code, json.loads("".join(out))[0]["Id"]) == (1, made)
    assert "network nowhere: not found" in err
    verb(world, cli.NETWORK_CREATE, "second")
    assert verb(world, cli.NETWORK_RM, "mine", "nowhere")[:2] == (1, ["mine"])
    assert verb(world, cli.NETWORK_RM, "--force", "nowhere")[:2] == (0, [])
    assert verb(world, cli.NETWORK_PRUNE, said="n\n")[1] == []
    assert verb(world, cli.NETWORK_PRUNE, said="y\n")[1] == ["Deleted Networks:", "second"]
    with pytest.raises(UsageError, match="IPv6 --subnet"):
        verb(world, cli.NETWORK_CREATE, "--ipv6", "six")


def test_an_ordinary_user_is_told_that_shared_networks_need_root(ordinary_user: OrdinaryUser, user_directory: Path) -> None:
    script = (
        "import sys; from lamina.engine.engine import Engine\n"
        "Engine.open(sys.argv[1]).create_network('mine')\n"
    )
    done = subprocess.run(ordinary_user.python("-c", script, user_directory), capture_output=True, text=True, check=False)
    assert "network mine: networks that several containers share need root" in done.stderr


def test_no_network_is_made_that_no_container_could_be_on(world: World) -> None:
    with Engine.open(world.root, settings=Settings.load({"LAMINA_ROOT": str(world.root)})) as engine:
        with pytest.raises(EngineMissing, match=r"^network mine: bridge networking needs netavark or the CNI plugins"):
            networks.create(engine, NetworkRequest(name="mine"), Programs(slirp4netns="/usr/bin/slirp4netns"))
        assert [each.name for each in networks.listing(engine, {"type": ["custom"]})] == []


# -- cleaning up


@pytest.mark.parametrize("engine", ENGINES)
def test_cleaning_up_after_everything_was_killed(world: World, engine: str) -> None:
    """Nobody holds the namespace any more: what is on disk is enough."""
    port = free_port()
    network = world.network("mine")
    one = world.run("one", network, programs=ENGINES[engine], publish=(f"{port}:80",))
    one.connected.held.close()
    one.kill()
    assert one.id in rules() or one.ip in rules()
    one.connected = replace(one.connected, held=connecting.Held())
    disconnect(one.directory)
    assert traces_of(world) == []
    assert not (one.directory / connecting.RECORD).exists()
    disconnect(one.directory)


def test_a_plan_that_was_only_written_down_is_forgotten(world: World) -> None:
    one = world.run("one", programs=ENGINES["netavark"])
    disconnect(one.directory, one.connected.held)
    document = connecting._record(one.plan, one.process.pid, endpoints=one.connected.endpoints)
    connecting._write(one.directory, document)
    one.connected = replace(one.connected, held=connecting.Held())
    disconnect(one.directory)
    assert not (one.directory / connecting.RECORD).exists()


def test_a_killed_connect_is_undone_from_the_record(world: World) -> None:
    """Killed in the middle of netavark: the moment is left to chance, several times."""
    script = (
        "import json, sys; from pathlib import Path\n"
        "from lamina.runtime.network.connecting import connect\n"
        "from lamina.runtime.network.values import NetworkPlan\n"
        "connect(NetworkPlan.from_json(json.load(sys.stdin)), int(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    for step in range(6):
        one = world.container(f"c{step}")
        plan = world.plan(one, programs=ENGINES["netavark"], publish=("80",))
        process = subprocess.Popen([sys.executable, "-c", script, str(one.process.pid), str(one.directory)],
                                   stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan.to_json()))
        process.stdin.close()
        wait_for(lambda one=one: (one.directory / connecting.RECORD).exists())  # type: ignore[misc]
        time.sleep(0.015 * step)
        process.send_signal(signal.SIGKILL)
        process.wait()
        one.kill()
        disconnect(one.directory)
        assert traces_of(world) == []


def test_the_ports_of_one_that_has_ended_are_taken_over(world: World) -> None:
    port = free_port()
    one = world.run("one", publish=(f"{port}:80",))
    held = one.connected.held
    one.kill()
    threading.Timer(0.3, lambda: disconnect(one.directory, held)).start()
    one.connected = replace(one.connected, held=connecting.Held())
    two = world.run("two", publish=(f"{port}:80",))
    two.serve(80)
    assert ask_tcp("127.0.0.1", port) == "tcp two"


def test_one_that_lets_go_between_two_looks_is_no_hindrance(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port was taken when we asked, and it is nobody's when we look whose."""
    port = free_port()
    one = world.run("one", publish=(f"{port}:80",))
    held = one.connected.held
    one.connected = replace(one.connected, held=connecting.Held())
    one.kill()
    whole = connecting._ended_holder

    def late(*arguments: object) -> Path | None:
        disconnect(one.directory, held)
        return whole(*arguments)

    monkeypatch.setattr(connecting, "_ended_holder", late)
    two = world.run("two", publish=(f"{port}:80",))
    two.serve(80)
    assert ask_tcp("127.0.0.1", port) == "tcp two"


def test_records_of_an_earlier_run_of_the_machine_mean_nothing(world: World) -> None:
    one = world.container("one")
    plan = world.plan(one)
    document = {**connecting._record(plan, one.process.pid), "boot": "another"}
    connecting._write(one.directory, document)
    disconnect(one.directory)
    assert not (one.directory / connecting.RECORD).exists()


def test_the_name_server_keeps_no_mount_of_the_monitor(world: World, tmp_path: Path) -> None:
    """It outlives the monitor, and with it would live the mount of the container's root filesystem."""
    network = world.network("mine")
    one = world.container("one")
    place = one.directory / "rootfs"
    place.mkdir()
    one.plan = world.plan(one, network, programs=ENGINES["netavark"])
    script = (
        "import json, sys; from pathlib import Path\n"
        "from lamina.runtime.network.connecting import connect\n"
        "from lamina.runtime.network.values import NetworkPlan\n"
        "connect(NetworkPlan.from_json(json.load(sys.stdin)), int(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    inner = f"mount -t tmpfs lamina-seen {place}; exec {sys.executable} -c '{script}' {one.process.pid} {one.directory}"
    subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", inner],
                   input=json.dumps(one.plan.to_json()), text=True, check=True)
    pids = subprocess.run(["pgrep", "aardvark-dns"], capture_output=True, text=True, check=True).stdout.split()
    assert pids
    for pid in pids:
        with suppress(OSError):
            assert str(place) not in Path(f"/proc/{pid}/mountinfo").read_text()


# -- none, and root without a bridge


def test_none_has_a_loopback_that_is_up(world: World) -> None:
    one = world.run("one", parse_network("none"))
    assert one.inside("busybox", "ping", "-c1", "-W3", "127.0.0.1").returncode == 0
    assert one.connected.endpoints == ()


def test_root_without_a_bridge_engine_has_slirp4netns(world: World) -> None:
    port = free_port()
    one = world.run("one", programs=replace(ALL, netavark="", cni=""), publish=(f"{port}:80",))
    assert one.plan.engine == "slirp4netns"
    one.serve(80)
    assert ask_tcp("127.0.0.1", port) == "tcp one"


# -- ordinary users

ROOTLESS = """
import json, os, socket, subprocess, sys, time
from pathlib import Path
from lamina.runtime.network.connecting import connect, disconnect
from lamina.runtime.network.mode import parse_network
from lamina.runtime.network.namespaces import join_user_namespace
from lamina.runtime.network.planning import EngineMissing, plan_network
from lamina.runtime.network.ports import parse_publish
from lamina.runtime.network.programs import find_programs
from lamina.snapshot.namespace import current_identity, enter_user_namespace

engine, port, root, server, end = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5]
plan = plan_network([parse_network(engine)] if engine != "default" else [], root=root, container="c" * 64, name="one",
                    programs=find_programs(), is_privileged=False, now=time.time(),
                    ports=[*parse_publish(f"{port}:80"), *parse_publish(f"{port}:80/udp")])
enter_user_namespace(current_identity())
directory = root / "containers" / plan.container
directory.mkdir(parents=True)
inner = subprocess.Popen(["unshare", "--net", sys.executable, "-I", "-S", "-c", server, "80", "one"], stdout=subprocess.PIPE, text=True)
assert inner.stdout.readline() == "ready\\n"
connected = connect(plan, inner.pid, directory)
print(json.dumps({"monitor": os.getpid(), "inner": inner.pid, **connected.to_json()}), flush=True)
sys.stdin.readline()
if end == "tidy":
    disconnect(directory, connected.held)
    disconnect(directory)
inner.kill()
inner.wait()
"""


class Rootless:
    def __init__(self, user: OrdinaryUser, engine: str, root: Path, end: str = "tidy") -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            user.python("-c", ROOTLESS, engine, str(self.port), root, SERVER, end),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the stand-in for a monitor failed"
        self.said = json.loads(line)

    def close(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


@pytest.mark.parametrize("engine", ["pasta", "slirp4netns", "default"])
def test_an_ordinary_user_publishes_ports(ordinary_user: OrdinaryUser, user_directory: Path, engine: str) -> None:
    one = Rootless(ordinary_user, engine, user_directory)
    try:
        for host in ("127.0.0.1", own_address()):
            assert ask_tcp(host, one.port) == "tcp one"
        assert ask_udp(own_address(), one.port) == "udp one"
        assert one.said["endpoints"][0]["ip"] == "10.0.2.100"
        assert engine in ("default", one.said["endpoints"][0]["network"])
        with socket.create_server((own_address(), 0)) as server:
            reach = f"import socket; socket.create_connection({server.getsockname()!r}, 5)"
            inside = ["nsenter", "-t", str(one.said["inner"]), "-n", sys.executable, "-c", reach]
            assert subprocess.run(inside, timeout=20, check=False).returncode == 0
    finally:
        assert one.close() == 0
    assert left_by(ordinary_user, user_directory) == []


def test_a_user_without_ranges_has_a_network_too(user_without_ranges: OrdinaryUser, tmp_path: Path) -> None:
    root = Path(f"/tmp/lamina-network-{os.getpid()}")
    root.mkdir()
    os.chown(root, user_without_ranges.uid, user_without_ranges.gid)
    try:
        one = Rootless(user_without_ranges, "pasta", root)
        assert ask_tcp("127.0.0.1", one.port) == "tcp one"
        assert one.close() == 0
        assert left_by(user_without_ranges, root) == []
    finally:
        subprocess.run(["rm", "-rf", root], check=True)


@pytest.mark.parametrize("engine", ["pasta", "slirp4netns"])
def test_cleaning_up_after_an_ordinary_users_monitor_was_killed(
    ordinary_user: OrdinaryUser, user_directory: Path, engine: str
) -> None:
    one = Rootless(ordinary_user, engine, user_directory)
    os.kill(one.said["monitor"], signal.SIGKILL)
    os.kill(one.said["inner"], signal.SIGKILL)
    one.close()
    directory = user_directory / "containers" / ("c" * 64)
    again = f"from pathlib import Path; from lamina.runtime.network.connecting import disconnect; disconnect(Path({str(directory)!r}))"
    subprocess.run(ordinary_user.python("-c", again), check=True)
    wait_for(lambda: left_by(ordinary_user, user_directory) == [])


def left_by(user: OrdinaryUser, root: Path) -> list[str]:
    found = [line for line in processes() if str(root) in line and ("pasta" in line or "slirp" in line)]
    return found + [str(path) for path in root.rglob(connecting.RECORD)] + [str(path) for path in root.rglob("*.pid")]


def test_another_container_of_an_ordinary_user_can_share_the_network(ordinary_user: OrdinaryUser, user_directory: Path) -> None:
    one = Rootless(ordinary_user, "pasta", user_directory)
    join = (
        "import os, sys; from lamina.runtime.network.namespaces import join_user_namespace\n"
        "from lamina.snapshot.syscalls import setns\n"
        "pid = int(sys.argv[1]); join_user_namespace(pid)\n"
        "setns(os.open(f'/proc/{pid}/ns/net', os.O_RDONLY), 0); os.execvp('ip', ['ip', '-4', '-o', 'address'])\n"
    )
    try:
        found = subprocess.run(ordinary_user.python("-c", join, str(one.said["inner"])), capture_output=True, text=True, check=False)
        assert "10.0.2.100/24" in found.stdout, found.stderr
    finally:
        assert one.close() == 0
