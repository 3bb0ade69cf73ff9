"""Our client against Debian's docker-registry, and everybody's clients against our registry."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.compat.peers import SYSTEM_PATH, Docker, Podman, Skopeo, daemon, program, run, wait_for
from tests.registry.net import Sample, Waits, blob, sample

from lamina.content.copy import copy_graph
from lamina.content.memory import MemoryStore
from lamina.content.store import BlobNotFound, NameNotFound, verified
from lamina.errors import Denied, LaminaError
from lamina.http.message import Request, Response
from lamina.http.server import RunningServer, serve
from lamina.http.transport import HttpTransport
from lamina.oci.descriptor import OCI_CONFIG, OCI_LAYER, Descriptor, Platform
from lamina.oci.manifest import Index, Manifest
from lamina.oci.reference import Reference
from lamina.registry.credentials import Credential, CredentialFiles, GivenCredentials
from lamina.registry.failures import RegistryUntrusted, Unauthorized
from lamina.registry.hosts import RegistrySettings
from lamina.registry.remote import RegistryClient, RemoteRepository
from lamina.registry.server import RegistryApp
from lamina.testing.images import random_image
from lamina.testing.registry import MemoryProvider

pytestmark = pytest.mark.compat

TLS = Path(__file__).parent.parent / "data" / "tls"
ME = Credential(username="me", secret="correct horse: battery")


@pytest.fixture
def transport() -> Iterator[HttpTransport]:
    with HttpTransport() as made:
        yield made


def client(transport: HttpTransport, host: str, credential: Credential | None = None, **options: Any) -> RegistryClient:
    known = GivenCredentials({host: credential} if credential else {})
    return RegistryClient(transport, RegistrySettings(**options), known, patience=Waits().patience())


def repository(transport: HttpTransport, host: str, name: str = "team/tool", **options: Any) -> RemoteRepository:
    return client(transport, host, **options).repository(Reference.parse(f"{host}/{name}"))


def push(target: RemoteRepository, image: Sample, tag: str = "1") -> Descriptor:
    for descriptor, data in image.blobs():
        target.put(descriptor, io.BytesIO(data))
    target.put(image.manifest.descriptor, io.BytesIO(image.manifest.raw))
    target.tag(tag, image.manifest.descriptor)
    return image.manifest.descriptor


# --- docker-registry in several guises ------------------------------------------------------------


@contextlib.contextmanager
def registry(home: Path, *, http: str = "", auth: str = "") -> Iterator[str]:
    """``127.0.0.1:port`` of a docker-registry; ``http`` and ``auth`` are pieces of its YAML."""
    home.mkdir()
    config, log = home / "config.yml", home / "log"
    config.write_text(
        "version: 0.1\n"
        "log: {level: info, formatter: json}\n"
        f"storage: {{filesystem: {{rootdirectory: {home / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:0'{http}}}\n{auth}\n"
    )
    with daemon([program("docker-registry"), "serve", config], log) as process:
        def address() -> str:
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text(errors="replace"))
            return found.group(1) if found else ""

        yield wait_for("docker-registry", log, process, address)


@pytest.fixture(scope="module")
def basic_registry(workshop: Path) -> Iterator[str]:
    """One that asks for a password."""
    file = workshop / "htpasswd"
    run(program("htpasswd"), "-cbB", file, ME.username, ME.secret)
    with registry(workshop / "basic", auth=f"auth: {{htpasswd: {{realm: here, path: {file}}}}}") as address:
        yield address


@pytest.fixture(scope="module")
def tls_registry(workshop: Path) -> Iterator[str]:
    """One whose certificate an authority signed that nobody knows, except by asking."""
    tls = f", tls: {{certificate: {TLS / 'server.crt'}, key: {TLS / 'server.key'}}}"
    with registry(workshop / "tls", http=tls) as address:
        yield address


@dataclass
class TokenServer:
    """Signs what distribution's token specification asks for; knows one user."""

    key: Path
    certificate: Path
    asked: list[dict[str, list[str]]]

    def __call__(self, request: Request) -> Response:
        query = parse_qs(urlsplit(request.url).query)
        self.asked.append(query)
        header = request.headers.get("Authorization")
        if header not in {None, ME.basic}:
            return Response(401, {"Content-Length": "0"})
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            granted = [action for action in actions.split(",") if header is not None or action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        token = self._signed({
            "iss": "test issuer", "sub": "me" if header else "", "aud": "test service", "access": access,
            "nbf": now - 10, "iat": now, "exp": now + 300, "jti": secrets.token_hex(8),
        })
        body = json.dumps({"token": token, "expires_in": 300}).encode()
        return Response(200, {"Content-Length": str(len(body))}, body)

    def _signed(self, claims: dict[str, Any]) -> str:
        der = base64.b64encode(run_bytes("openssl", "x509", "-in", self.certificate, "-outform", "DER")).decode()
        parts = [{"typ": "JWT", "alg": "RS256", "x5c": [der]}, claims]
        text = ".".join(plain(json.dumps(part).encode()) for part in parts)
        signature = run_bytes("openssl", "dgst", "-sha256", "-sign", self.key, given=text.encode())
        return f"{text}.{plain(signature)}"


def plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def run_bytes(name: str, *arguments: str | Path, given: bytes = b"") -> bytes:
    return subprocess.run([program(name), *map(str, arguments)], input=given, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def token_server(workshop: Path) -> Iterator[tuple[TokenServer, RunningServer]]:
    key, certificate = workshop / "token.key", workshop / "token.crt"
    run(program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens",
        "-keyout", key, "-out", certificate)
    signer = TokenServer(key, certificate, [])
    with serve(signer) as running:
        yield signer, running


@pytest.fixture(scope="module")
def token_registry(workshop: Path, token_server: tuple[TokenServer, RunningServer]) -> Iterator[str]:
    signer, running = token_server
    auth = (
        f"auth: {{token: {{realm: '{running.url}/token', service: test service, issuer: test issuer, "
        f"rootcertbundle: {signer.certificate}}}}}"
    )
    with registry(workshop / "tokens", auth=auth) as address:
        yield address


# --- Our client, docker-registry ------------------------------------------------------------------


def test_an_image_there_and_back(transport: HttpTransport, docker_registry: str, skopeo: Skopeo) -> None:
    image = sample(b"there and back", 3_000_000)
    target = repository(transport, docker_registry, "there/back")
    push(target, image)
    assert skopeo.manifest(f"docker://{docker_registry}/there/back:1") == image.manifest.raw
    source = repository(transport, docker_registry, "there/back")
    assert source.probe("1") == image.manifest.descriptor
    copy = MemoryStore()
    copy_graph(source, copy, source.resolve("1"))
    assert copy.open(image.layer).read() == image.layer_bytes
    assert list(source.tags()) == ["1"]
    assert "there/back" in list(client(transport, docker_registry).catalog(docker_registry))


def test_what_skopeo_pushed_is_pulled(
    transport: HttpTransport, docker_registry: str, skopeo: Skopeo, shared_images: Path
) -> None:
    skopeo.copy(f"docker-archive:{shared_images / 'fourteen-layers.docker.tar'}", f"docker://{docker_registry}/fourteen:1")
    source = repository(transport, docker_registry, "fourteen")
    root, raw = source.fetch_manifest("1")
    assert raw == skopeo.manifest(f"docker://{docker_registry}/fourteen:1")
    copy = MemoryStore()
    copy_graph(source, copy, root)
    assert len(Manifest.parse(raw).layers) == 14


def test_a_blob_from_the_middle(transport: HttpTransport, docker_registry: str) -> None:
    image = sample(b"middle", 2_000_000)
    target = repository(transport, docker_registry, "middle")
    push(target, image)
    for offset in (0, 1, 1_999_999):
        with target.open_at(image.layer, offset) as stream:
            assert stream.read() == image.layer_bytes[offset:]


def test_content_of_unknown_digest(transport: HttpTransport, docker_registry: str) -> None:
    data = b"unknown" * 3_000_000  # more than one chunk
    target = repository(transport, docker_registry, "chunks")
    with target.ingest() as ingest:
        ingest.write(data)
        descriptor = ingest.commit(OCI_LAYER)
    assert descriptor == blob(data, OCI_LAYER)
    with target.open(descriptor) as stream:
        assert verified(descriptor, stream).read() == data
    with target.ingest() as ingest:
        ingest.write(b"abandoned")
    assert not target.has(blob(b"abandoned"))


def test_a_blob_from_a_sibling(transport: HttpTransport, docker_registry: str) -> None:
    image = sample(b"sibling")
    push(repository(transport, docker_registry, "sibling/one"), image)
    target = repository(transport, docker_registry, "sibling/two")
    assert not target.has(image.layer)
    assert target.mount(image.layer, "sibling/one")
    assert target.has(image.layer)
    absent = blob(b"in neither", OCI_LAYER)
    assert not target.mount(absent, "sibling/one")
    target.put(absent, io.BytesIO(b"in neither"))
    assert target.has(absent)


def test_an_index_of_platforms(transport: HttpTransport, docker_registry: str, skopeo: Skopeo) -> None:
    target = repository(transport, docker_registry, "index")
    listed = []
    for architecture in ("amd64", "arm64"):
        image = sample(architecture.encode())
        push(target, image, architecture)
        listed.append(Descriptor(
            media_type=image.manifest.media_type, digest=image.manifest.descriptor.digest,
            size=len(image.manifest.raw), platform=Platform(os="linux", architecture=architecture),
        ))
    index = Index.build(listed)
    target.put(index.descriptor, io.BytesIO(index.raw))
    target.tag("all", index.descriptor)
    assert skopeo.manifest(f"docker://{docker_registry}/index:all") == index.raw
    copy = MemoryStore()
    source = repository(transport, docker_registry, "index")
    copy_graph(source, copy, source.resolve("all"))
    assert len(list(copy.walk())) == 7


def test_deleting(transport: HttpTransport, docker_registry: str) -> None:
    image = sample(b"deleted")
    target = repository(transport, docker_registry, "deleted")
    push(target, image)
    target.delete(image.manifest.descriptor.digest)
    with pytest.raises(NameNotFound):
        repository(transport, docker_registry, "deleted").resolve("1")


def test_what_is_not_there(transport: HttpTransport, docker_registry: str) -> None:
    push(repository(transport, docker_registry, "partly"), sample(b"partly"))
    source = repository(transport, docker_registry, "partly")
    with pytest.raises(NameNotFound, match=rf"^{docker_registry}/partly:2: no such tag"):
        source.resolve("2")
    with pytest.raises(BlobNotFound):
        source.open(blob(b"absent"))
    with pytest.raises(NameNotFound):
        repository(transport, docker_registry, "never/seen").resolve("1")
    with pytest.raises(NameNotFound, match="no such repository"):
        list(repository(transport, docker_registry, "never/seen").tags())
    assert source.referrers(sample(b"partly").manifest.descriptor.digest) == ()


def test_a_random_image_survives(transport: HttpTransport, docker_registry: str) -> None:
    local, copy = MemoryStore(), MemoryStore()
    root = random_image(Random(11)).put(local)
    target = repository(transport, docker_registry, "random")
    copy_graph(local, target, root)
    copy_graph(repository(transport, docker_registry, "random"), copy, root)
    assert dict(copy.walk()) == dict(local.walk())


# --- Passwords and tokens -------------------------------------------------------------------------


def test_a_registry_with_a_password(transport: HttpTransport, basic_registry: str) -> None:
    image = sample(b"basic")
    push(repository(transport, basic_registry, credential=ME), image)
    assert repository(transport, basic_registry, credential=ME).resolve("1") == image.manifest.descriptor
    for credential in (None, Credential(username="me", secret="wrong hush")):
        with pytest.raises(Unauthorized, match=rf"lamina login {basic_registry}") as caught:
            repository(transport, basic_registry, credential=credential).resolve("1")
        assert "hush" not in str(caught.value)


def test_signing_in(transport: HttpTransport, basic_registry: str, token_registry: str) -> None:
    for host in (basic_registry, token_registry):
        assert client(transport, host).sign_in(host, ME) == ME
        with pytest.raises(Unauthorized, match="user name or password"):
            client(transport, host).sign_in(host, Credential(username="me", secret="wrong"))


def test_what_skopeo_stored_is_used(transport: HttpTransport, basic_registry: str, skopeo: Skopeo, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    skopeo("login", "--authfile", file, "--tls-verify=false", "--username", ME.username, "--password", ME.secret, basic_registry)
    assert CredentialFiles([file]).find(basic_registry, "team/tool") == ME


def test_what_we_stored_is_used_by_skopeo(transport: HttpTransport, basic_registry: str, skopeo: Skopeo, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    CredentialFiles([file]).store(basic_registry, ME)
    image = sample(b"stored")
    push(repository(transport, basic_registry, "stored", credential=ME), image)
    found = skopeo("inspect", "--authfile", file, "--tls-verify=false", "--raw", f"docker://{basic_registry}/stored:1")
    assert found.encode() == image.manifest.raw


def test_a_registry_with_tokens(
    transport: HttpTransport, token_registry: str, token_server: tuple[TokenServer, RunningServer]
) -> None:
    image = sample(b"tokens")
    push(repository(transport, token_registry, credential=ME), image)
    signer, _ = token_server
    signer.asked.clear()
    source = repository(transport, token_registry)
    copy = MemoryStore()
    copy_graph(source, copy, source.resolve("1"))
    assert [asked["scope"] for asked in signer.asked] == [["repository:team/tool:pull"]], "one token for all of it"
    other = sample(b"others")
    with pytest.raises(Denied):
        push(repository(transport, token_registry), other)
    with pytest.raises(Unauthorized, match="credentials were refused"):
        repository(transport, token_registry, credential=Credential(username="me", secret="wrong")).resolve("1")


def test_a_mount_needs_a_token_for_both(transport: HttpTransport, token_registry: str) -> None:
    image = sample(b"both")
    push(repository(transport, token_registry, "both/one", credential=ME), image)
    assert repository(transport, token_registry, "both/two", credential=ME).mount(image.layer, "both/one")


# --- TLS ------------------------------------------------------------------------------------------


def test_a_certificate_is_trusted_when_certs_d_says_so(transport: HttpTransport, tls_registry: str, tmp_path: Path) -> None:
    (tmp_path / tls_registry).mkdir()
    (tmp_path / tls_registry / "ca.crt").write_bytes((TLS / "ca.crt").read_bytes())
    image = sample(b"tls")
    target = repository(transport, tls_registry, certificate_directories=(tmp_path,))
    push(target, image)
    assert target.open(image.layer).read() == image.layer_bytes


def test_a_certificate_is_not_trusted_otherwise(transport: HttpTransport, tls_registry: str) -> None:
    """Loopback is asked in plain HTTP first, finds TLS, and then means it."""
    with pytest.raises(RegistryUntrusted, match=rf"put its authority's certificate into certs\.d/{tls_registry}/ca\.crt"):
        repository(transport, tls_registry).resolve("1")


def test_an_insecure_registry_is_not_verified(transport: HttpTransport, tls_registry: str) -> None:
    image = sample(b"insecure")
    push(repository(transport, tls_registry, "insecure", insecure=(tls_registry,)), image)


def test_plain_http_is_not_for_registries_that_should_use_tls(transport: HttpTransport, docker_registry: str, tmp_path: Path) -> None:
    (tmp_path / docker_registry).mkdir()
    (tmp_path / docker_registry / "ca.crt").write_bytes((TLS / "ca.crt").read_bytes())
    with pytest.raises(RegistryUntrusted, match="does not speak TLS"):
        repository(transport, docker_registry, certificate_directories=(tmp_path,)).resolve("1")


# --- A mirror -------------------------------------------------------------------------------------


def test_a_mirror_of_docker_hub(transport: HttpTransport, docker_registry: str) -> None:
    image = sample(b"mirrored")
    push(repository(transport, docker_registry, "library/mirrored"), image)
    settings = RegistrySettings(mirrors=("http://127.0.0.1:1", f"http://{docker_registry}"))
    source = RegistryClient(transport, settings, patience=Waits().patience()).repository(Reference.parse("mirrored"))
    assert source.resolve("1") == image.manifest.descriptor
    assert source.open(image.layer).read() == image.layer_bytes


# --- Our registry, everybody's clients ------------------------------------------------------------


@dataclass
class Served:
    address: str
    provider: MemoryProvider

    def digest(self, name: str, tag: str) -> str:
        return str(self.provider.repository(name).resolve(tag).digest)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    provider = MemoryProvider()
    app = RegistryApp(provider)
    with serve(app) as running:
        yield Served(f"127.0.0.1:{running.port}", provider)
    app.close()


@pytest.fixture(scope="module")
def archive(shared_images: Path) -> Path:
    return shared_images / "fourteen-layers.docker.tar"


@pytest.fixture(scope="module")
def expected(served: Served, skopeo: Skopeo, archive: Path) -> str:
    """The digest of an image that skopeo pushed as ``fourteen:1``."""
    skopeo.copy(f"docker-archive:{archive}", f"docker://{served.address}/fourteen:1")
    return served.digest("fourteen", "1")


def test_skopeo(served: Served, skopeo: Skopeo, expected: str, tmp_path: Path) -> None:
    source = f"docker://{served.address}/fourteen:1"
    skopeo.copy(source, f"oci:{tmp_path / 'layout'}:1")
    (listed,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert listed["mediaType"].startswith("application/vnd.oci.")
    skopeo.copy(source, f"docker://{served.address}/copies/of/fourteen:2")
    assert served.digest("copies/of/fourteen", "2") == expected
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{served.address}/fourteen"))["Tags"] == ["1"]
    skopeo("delete", "--tls-verify=false", f"docker://{served.address}/copies/of/fourteen:2")
    assert list(served.provider.repository("copies/of/fourteen").names()) == []


def test_skopeo_with_an_index(served: Served, skopeo: Skopeo, transport: HttpTransport) -> None:
    target = repository(transport, served.address, "multi")
    listed = []
    for architecture in ("amd64", "s390x"):
        image = sample(architecture.encode())
        push(target, image, architecture)
        listed.append(Descriptor(
            media_type=image.manifest.media_type, digest=image.manifest.descriptor.digest,
            size=len(image.manifest.raw), platform=Platform(os="linux", architecture=architecture),
        ))
    index = Index.build(listed)
    target.put_manifest(index.raw, index.media_type, "all")
    skopeo.copy(f"docker://{served.address}/multi:all", f"docker://{served.address}/multi/copy:all", "--all", "--preserve-digests")
    assert served.digest("multi/copy", "all") == index.descriptor.digest


def config_of(served: Served, name: str) -> str:
    """What identifies an image however a client wrote its manifest."""
    target = served.provider.repository(name)
    return str(Manifest.parse(target.open(target.resolve("1")).read()).config.digest)


def test_podman(served: Served, podman: Podman, expected: str) -> None:
    name, copy = f"{served.address}/fourteen:1", f"{served.address}/podman/fourteen:1"
    podman("pull", "--quiet", "--tls-verify=false", name)
    podman("tag", name, copy)
    podman("push", "--quiet", "--tls-verify=false", copy)
    podman("rmi", name, copy)
    podman("pull", "--quiet", "--tls-verify=false", copy)
    podman("rmi", copy)
    assert config_of(served, "podman/fourteen") == config_of(served, "fourteen")


def test_docker(served: Served, dockerd: Docker, expected: str) -> None:
    name, copy = f"{served.address}/fourteen:1", f"{served.address}/docker/fourteen:1"
    assert expected in dockerd("pull", name)
    dockerd("tag", name, copy)
    dockerd("push", copy)
    pushed = served.digest("docker/fourteen", "1")
    dockerd.forget(name, copy)
    assert pushed in dockerd("pull", f"{served.address}/docker/fourteen@{pushed}")
    dockerd.forget(f"{served.address}/docker/fourteen@{pushed}")
    assert config_of(served, "docker/fourteen") == config_of(served, "fourteen")


@pytest.fixture(scope="module")
def ctr(workshop: Path) -> Iterator[Callable[..., str]]:
    """containerd's own client, with a daemon of its own."""
    home = workshop / "c"
    home.mkdir()
    log = home / "log"
    config = home / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    arguments = [program("containerd"), "--config", config, "--root", home / "root", "--state", home / "state",
                 "--address", home / "s"]
    with daemon(arguments, log) as process:
        wait_for("containerd", log, process, lambda: "successfully booted" in log.read_text(errors="replace"))

        def command(*arguments: str) -> str:
            return run(program("ctr"), "--address", home / "s", *arguments, env={"PATH": SYSTEM_PATH, "HOME": str(home)})

        yield command


def test_containerd(served: Served, ctr: Callable[..., str], expected: str) -> None:
    name = f"{served.address}/fourteen:1"
    copy = f"{served.address}/containerd/fourteen:1"
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", name)
    ctr("images", "tag", name, copy)
    ctr("images", "push", "--plain-http", copy)
    assert served.digest("containerd/fourteen", "1") == expected
    ctr("images", "rm", "--sync", name, copy)


def test_docker_registry_as_a_mirror_of_ours(
    served: Served, workshop: Path, transport: HttpTransport, expected: str
) -> None:
    """docker-registry's own client: it pulls through from us when it is asked."""
    home = workshop / "through"
    home.mkdir()
    config, log = home / "config.yml", home / "log"
    config.write_text(
        "version: 0.1\nlog: {level: info, formatter: json}\n"
        f"storage: {{filesystem: {{rootdirectory: {home / 'data'}}}}}\n"
        f"proxy: {{remoteurl: 'http://{served.address}'}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    with daemon([program("docker-registry"), "serve", config], log) as process:
        address = wait_for("docker-registry", log, process, lambda: "".join(
            re.findall(r"listening on (127\.0\.0\.1:\d+)", log.read_text(errors="replace"))))
        source = repository(transport, address, "fourteen")
        copy = MemoryStore()
        root = source.resolve("1")
        copy_graph(source, copy, root)
    assert root.digest == expected


def test_a_stranger_is_told_in_its_own_terms(served: Served, skopeo: Skopeo) -> None:
    with pytest.raises(AssertionError, match=r"manifest unknown|MANIFEST_UNKNOWN|NAME_UNKNOWN|name unknown|no such"):
        skopeo("inspect", "--tls-verify=false", f"docker://{served.address}/nothing/here:1")


def test_configs_and_errors_look_the_same_from_outside(served: Served, transport: HttpTransport, docker_registry: str) -> None:
    """The same questions to both registries, and the same errors from our own client."""
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    seen = []
    for host in (served.address, docker_registry):
        target = repository(transport, host, "alike")
        target.put(blob(config, OCI_CONFIG), io.BytesIO(config))
        parts_missing = sample(b"parts missing").manifest
        answers: list[str] = []
        for act, *given in (
            (target.resolve, "absent"), (target.open, blob(b"absent")), (target.delete_tag, "absent"),
            (target.put_manifest, parts_missing.raw, parts_missing.media_type),
        ):
            with pytest.raises(LaminaError) as caught:
                act(*given)
            answers.append(type(caught.value).__name__)
        seen.append(answers)
    assert seen[0][:2] == seen[1][:2] == ["ManifestNotFound", "RemoteBlobNotFound"]
