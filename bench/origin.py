"""The registry that every engine pulls from: Debian's docker-registry on loopback, filled by skopeo."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fixtures import Fixture, ImageFacts

_CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: "{storage}", maxthreads: 100}}
  cache: {{blobdescriptor: inmemory}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: "{address}"}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A running registry that holds the fixture's two images in one repository."""

    address: str
    storage: Path
    fixture: Fixture

    def reference(self, image: ImageFacts) -> str:
        return f"{self.address}/bench/{self.fixture.image.name}:{image.name}"

    def blob_files(self, image: ImageFacts) -> list[Path]:
        top = self.storage / "docker/registry/v2/blobs/sha256"
        digests = [digest.partition(":")[2] for digest in (image.manifest, *image.blobs)]
        return [top / encoded[:2] / encoded / "data" for encoded in digests]

    def _lacks(self, image: ImageFacts) -> bool:
        return not all(path.exists() for path in self.blob_files(image))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def serving(fixture: Fixture, run: Path) -> Iterator[Origin]:
    """Serves the fixture until the block ends; what was pushed once stays beside the fixture."""
    address = f"127.0.0.1:{free_port()}"
    origin = Origin(address=address, storage=fixture.directory / "registry", fixture=fixture)
    settings = run / "registry.yml"
    settings.write_text(_CONFIGURATION.format(storage=origin.storage, address=address))
    with (run / "registry.log").open("ab") as log:
        registry = subprocess.Popen(["docker-registry", "serve", settings], stdout=log, stderr=log)
    try:
        _wait(address, registry)
        for image in (fixture.image, fixture.sibling):
            if origin._lacks(image):  # noqa: SLF001 - same module
                _push(origin, image)
        yield origin
    finally:
        registry.terminate()
        registry.wait()


def _wait(address: str, registry: subprocess.Popen[bytes]) -> None:
    host, port = address.split(":")
    for _ in range(200):
        if registry.poll() is not None:
            raise SystemExit(f"docker-registry: exit status {registry.returncode}")
        try:
            connection = http.client.HTTPConnection(host, int(port), timeout=5)
            connection.request("GET", "/v2/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("docker-registry: no answer within 10 s")


def _push(origin: Origin, image: ImageFacts) -> None:
    source = f"oci:{origin.fixture.layout}:{image.name}"
    target = f"docker://{origin.reference(image)}"
    flags = ["--insecure-policy", "--dest-tls-verify=false", "--preserve-digests"]
    subprocess.run(["skopeo", *flags[:1], "copy", "-q", *flags[1:], source, target], check=True)
