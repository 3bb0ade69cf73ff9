"""Client and server with real sockets between, whole and cut."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from tests.registry.net import Waits, blob, sample

from lamina.content.copy import copy_graph
from lamina.content.memory import MemoryStore
from lamina.content.store import verified
from lamina.errors import Unsupported
from lamina.http.server import RunningServer, serve
from lamina.http.transport import HttpTransport
from lamina.oci.descriptor import OCI_CONFIG, Descriptor
from lamina.oci.manifest import Manifest
from lamina.oci.reference import Reference
from lamina.registry.failures import ManifestNotFound
from lamina.registry.remote import RegistryClient, RemoteRepository
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider

BIG = random.Random(7).randbytes(3 << 20)
WANTED = blob(BIG)


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()


@pytest.fixture
def server(provider: MemoryProvider) -> Iterator[RunningServer]:
    app = RegistryApp(provider)
    with serve(app) as running:
        yield running
    app.close()


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with HttpTransport(read_timeout=20) as made:
        yield made


def repository(transport: HttpTransport, port: int, name: str = "team/tool", attempts: int = 20) -> RemoteRepository:
    client = RegistryClient(transport, patience=Waits().patience(attempts))
    return client.repository(Reference.parse(f"127.0.0.1:{port}/{name}"))


class Cutter:
    """A relay that cuts its first connections after so many bytes of answers, or of requests."""

    def __init__(self, port: int, answers: list[int] | None = None, requests: list[int] | None = None) -> None:
        self._port = port
        self._answers = answers or []
        self._requests = requests or []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._channels: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for channel in self._channels:
            cut(channel)
            channel.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self._port))
            self._channels += [here, there]
            self.connections += 1
            answers = self._answers.pop(0) if self._answers else None
            requests = self._requests.pop(0) if self._requests else None
            for pair, limit in (((here, there), requests), ((there, here), answers)):
                threading.Thread(target=self._pump, args=(*pair, limit), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        left = limit
        with contextlib.suppress(OSError):
            while data := source.recv(65536 if left is None else min(65536, max(left, 1))):
                target.sendall(data if left is None else data[:left])
                left = None if left is None else left - len(data)
                if left is not None and left <= 0:
                    break
        cut(source)
        cut(target)


def cut(channel: socket.socket) -> None:
    with contextlib.suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


def test_an_image_there_and_back(transport: HttpTransport, server: RunningServer) -> None:
    image = sample(size=2_000_000)
    local, copy = MemoryStore(), MemoryStore()
    for descriptor, data in [*image.blobs(), (image.manifest.descriptor, image.manifest.raw)]:
        local.put(descriptor, io.BytesIO(data))
    target = repository(transport, server.port)
    copy_graph(local, target, image.manifest.descriptor)
    target.tag("v1", image.manifest.descriptor)
    source = repository(transport, server.port)
    root = source.resolve("v1")
    copy_graph(source, copy, root)
    assert dict(copy.walk()) == dict(local.walk())
    assert list(source.tags()) == ["v1"]
    with pytest.raises(ManifestNotFound):
        source.resolve("v2")


def test_many_blobs_at_once(transport: HttpTransport, server: RunningServer) -> None:
    layers = [(blob(data), data) for data in (bytes([number]) * 300_000 for number in range(12))]
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    local, copy = MemoryStore(), MemoryStore()
    for descriptor, data in [*layers, (blob(config, OCI_CONFIG), config)]:
        local.put(descriptor, io.BytesIO(data))
    manifest = Manifest.build(blob(config, OCI_CONFIG), [descriptor for descriptor, _ in layers])
    local.put(manifest.descriptor, io.BytesIO(manifest.raw))
    target = repository(transport, server.port)
    copy_graph(local, target, manifest.descriptor, workers=5)
    copy_graph(target, copy, manifest.descriptor, workers=5)
    assert dict(copy.walk()) == dict(local.walk())


def test_a_download_that_is_cut_goes_on(transport: HttpTransport, server: RunningServer, provider: MemoryProvider) -> None:
    provider.repository("team/tool").put(WANTED, io.BytesIO(BIG))
    # The first connection answers the probe for the scheme, then begins the blob.
    with Cutter(server.port, answers=[1_000_000, 500_000, 700, 1_400_000]) as relay:
        with repository(transport, relay.port).open(WANTED) as stream:
            assert verified(WANTED, stream).read() == BIG
        assert relay.connections == 5


def test_an_upload_that_is_cut_begins_again(transport: HttpTransport, server: RunningServer, provider: MemoryProvider) -> None:
    with Cutter(server.port, requests=[1_000_000, 2_500_000]) as relay:
        repository(transport, relay.port).put(WANTED, io.BytesIO(BIG))
    assert provider.repository("team/tool").open(WANTED).read() == BIG


def test_a_chunked_upload_that_is_cut_goes_on(transport: HttpTransport, server: RunningServer, provider: MemoryProvider) -> None:
    with Cutter(server.port, requests=[1_000_000, 1_000_000, 500_000]) as relay:
        with repository(transport, relay.port).ingest() as ingest:
            for start in range(0, len(BIG), 400_000):
                ingest.write(BIG[start : start + 400_000])
            assert ingest.commit(WANTED.media_type) == WANTED
        assert relay.connections == 4
    assert provider.repository("team/tool").open(WANTED).read() == BIG


def test_a_mount_over_the_wire(transport: HttpTransport, server: RunningServer, provider: MemoryProvider) -> None:
    provider.repository("other").put(WANTED, io.BytesIO(BIG))
    assert repository(transport, server.port).mount(WANTED, "other")
    assert provider.repository("team/tool").has(WANTED)


def test_refusals_arrive_before_a_big_body_is_sent(transport: HttpTransport) -> None:
    with serve(RegistryApp(MemoryProvider(may_write=False))) as server:
        huge = Descriptor(media_type=WANTED.media_type, digest=WANTED.digest, size=1 << 40)

        class Endless(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                return b"x" * size

        with pytest.raises(Unsupported, match="read-only"):
            repository(transport, server.port).put(huge, Endless())  # type: ignore[arg-type]


def test_a_server_that_restarts_is_found_again(transport: HttpTransport, provider: MemoryProvider) -> None:
    image = sample()
    for descriptor, data in [*image.blobs(), (image.manifest.descriptor, image.manifest.raw)]:
        provider.repository("team/tool").put(descriptor, io.BytesIO(data))
    provider.repository("team/tool").tag("1", image.manifest.descriptor)
    app = RegistryApp(provider)
    first = serve(app)
    source = repository(transport, first.port)
    source.resolve("1")
    first.close()
    with serve(app, port=first.port):
        assert source.resolve("1") == image.manifest.descriptor
