"""Reading from registries: documents, mirrors, lists."""

from __future__ import annotations

import io
import json

import pytest
from tests.registry.net import Net, Script, answer, blob, client, falling, refusal, sample

from lamina.content.copy import copy_graph
from lamina.content.memory import MemoryStore
from lamina.content.store import DigestMismatch, NameNotFound, SizeMismatch
from lamina.errors import InvalidInput, LaminaError
from lamina.http.message import ConnectFailed, Request, Response
from lamina.oci.descriptor import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from lamina.oci.digest import Digest
from lamina.oci.manifest import MAX_DOCUMENT, Index, InvalidManifest, Manifest, UnsupportedManifest
from lamina.oci.reference import Reference
from lamina.registry.configuration import RegistriesConf
from lamina.registry.credentials import Credential
from lamina.registry.failures import ManifestNotFound, RegistryUnavailable, UnexpectedAnswer
from lamina.registry.hosts import RegistrySettings
from lamina.registry.protocol import MAX_PAGES, ProtocolViolation
from lamina.registry.remote import RemoteRepository
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider

REGISTRY = "https://registry.example"
NAME = Reference.parse("registry.example/team/tool:1")
IMAGE = sample()
RAW = IMAGE.manifest.raw
DIGEST = IMAGE.manifest.descriptor.digest


def repository(net: Net, name: Reference = NAME, settings: RegistrySettings | None = None) -> RemoteRepository:
    return client(net, settings).repository(name)


def one(response: Response) -> RemoteRepository:
    return repository(Net({REGISTRY: Script(response)}))


def filled(provider: MemoryProvider, name: str = "team/tool", tag: str = "1") -> RegistryApp:
    target = provider.repository(name)
    for descriptor, data in IMAGE.blobs():
        target.put(descriptor, io.BytesIO(data))
    target.put(IMAGE.manifest.descriptor, io.BytesIO(RAW))
    target.tag(tag, IMAGE.manifest.descriptor)
    return RegistryApp(provider, allowed_hosts=["registry.example", "mirror.example", "registry-1.docker.io"])


# --- Documents ------------------------------------------------------------------------------------


def test_every_kind_of_document_is_asked_for() -> None:
    net = Net({REGISTRY: Script(answer(200, RAW, Content_Type=OCI_MANIFEST))})
    repository(net).resolve("1")
    accepted = net.sent[0].headers["Accept"]
    assert {part.strip() for part in accepted.split(",")} == MANIFESTS | INDEXES


def test_what_was_resolved_is_not_fetched_again() -> None:
    net = Net({REGISTRY: filled(MemoryProvider())})
    source = repository(net)
    found = source.resolve("1")
    assert found == IMAGE.manifest.descriptor
    assert source.open(found).read() == RAW
    assert source.resolve(DIGEST) == found
    assert len(net.sent) == 1


def test_tags_are_asked_for_every_time() -> None:
    net = Net({REGISTRY: filled(MemoryProvider())})
    source = repository(net)
    source.resolve("1")
    source.resolve("1")
    assert len(net.sent) == 2


def test_a_probe_moves_no_document() -> None:
    net = Net({REGISTRY: filled(MemoryProvider())})
    assert repository(net).probe("1") == IMAGE.manifest.descriptor
    assert [request.method for request in net.sent] == ["HEAD"]


def test_a_probe_that_says_too_little() -> None:
    assert one(answer(200, Content_Type=OCI_MANIFEST)).probe("1") is None
    assert one(answer(200, Content_Type="text/plain", Docker_Content_Digest=DIGEST)).probe("1") is None
    with pytest.raises(NameNotFound):
        one(answer(404)).probe("1")
    with pytest.raises(LaminaError):
        one(Response(200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": "sha256:../x", "Content-Length": "5"})).probe("1")


def test_a_digest_in_another_algorithm() -> None:
    digest = Digest.of(RAW, "sha512")
    found, raw = one(answer(200, RAW, Content_Type=OCI_MANIFEST)).fetch_manifest(digest)
    assert (found.digest, raw) == (digest, RAW)


@pytest.mark.parametrize("content_type", [
    OCI_MANIFEST, OCI_MANIFEST + "; charset=utf-8", OCI_MANIFEST.upper(), "application/json", "text/plain", "",
    "application/octet-stream",
])
def test_a_content_type_that_does_not_disagree(content_type: str) -> None:
    assert one(answer(200, RAW, Content_Type=content_type)).resolve("1").media_type == OCI_MANIFEST


# --- Hostile documents (SECURITY 36, 37, 46) ------------------------------------------------------


def test_a_digest_that_does_not_fit() -> None:
    source = one(answer(200, RAW + b" ", Content_Type=OCI_MANIFEST))
    with pytest.raises(DigestMismatch, match=f"{DIGEST}: the bytes received have the digest"):
        source.resolve(DIGEST)
    with pytest.raises(DigestMismatch):
        source.open(IMAGE.manifest.descriptor)


@pytest.mark.parametrize("said", [str(blob(b"other").digest), str(Digest.of(b"other", "sha512"))])
def test_a_header_that_names_other_bytes(said: str) -> None:
    with pytest.raises(DigestMismatch, match="announced by the registry"):
        one(answer(200, RAW, Content_Type=OCI_MANIFEST, Docker_Content_Digest=said)).resolve("1")


@pytest.mark.parametrize("said", ["sha256:../../etc/passwd", "sha256:abc", "md5:" + "a" * 32, "sha256:" + "A" * 64, "x"])
def test_a_header_that_is_no_digest(said: str) -> None:
    with pytest.raises(UnexpectedAnswer, match="is no digest"):
        one(answer(200, RAW, Content_Type=OCI_MANIFEST, Docker_Content_Digest=said)).resolve("1")


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "a" * 63, "SHA256:" + "a" * 64, "x" * 64, 5, None])
def test_a_manifest_that_points_at_no_digest(digest: object) -> None:
    document = json.loads(RAW)
    document["layers"][0]["digest"] = digest
    with pytest.raises(InvalidInput, match="digest"):
        one(answer(200, json.dumps(document).encode(), Content_Type=OCI_MANIFEST)).resolve("1")


def test_a_document_that_is_two_things() -> None:
    document = {**json.loads(RAW), "manifests": []}
    with pytest.raises(InvalidManifest, match="both a manifest and an index"):
        one(answer(200, json.dumps(document).encode(), Content_Type=OCI_MANIFEST)).resolve("1")


@pytest.mark.parametrize("content_type", [OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX])
def test_a_content_type_that_disagrees(content_type: str) -> None:
    with pytest.raises(LaminaError):
        one(answer(200, RAW, Content_Type=content_type)).resolve("1")


@pytest.mark.parametrize("content_type", [
    "application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/json", OCI_MANIFEST,
])
def test_schema_1(content_type: str) -> None:
    body = b'{"schemaVersion":1,"name":"a","tag":"b","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}'
    with pytest.raises(UnsupportedManifest, match="schema 1"):
        one(answer(200, body, Content_Type=content_type)).resolve("1")


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"[]", b"<html>", b"{" * 100_000, b"\xff", RAW[:-1]])
def test_documents_that_are_none(body: bytes) -> None:
    with pytest.raises(LaminaError):
        one(answer(200, body, Content_Type=OCI_MANIFEST)).resolve("1")


def test_a_document_that_is_too_long() -> None:
    with pytest.raises(InvalidManifest, match=f"announces {MAX_DOCUMENT + 1} bytes"):
        one(answer(200, b" " * (MAX_DOCUMENT + 1), Content_Type=OCI_MANIFEST)).resolve("1")
    with pytest.raises(InvalidManifest, match="longer than the limit"):
        one(Response(200, {"Content-Type": OCI_MANIFEST}, b" " * (MAX_DOCUMENT + 1))).resolve("1")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "-x", "x" * 129, "sha256:abc", "a b", "a\r\nb"])
def test_names_that_are_not_asked_for(name: str) -> None:
    net = Net()
    with pytest.raises(InvalidInput):
        repository(net).resolve(name)
    assert not net.sent


def test_indexes_without_end() -> None:
    """SECURITY 49: an index of an index of an index ...; depth ends it."""
    documents = [b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode()]
    for _ in range(60):
        inner = Descriptor(media_type=OCI_INDEX, digest=Digest.of(documents[0]), size=len(documents[0]))
        documents.insert(0, Index.build([inner]).raw)
    net = Net({REGISTRY: Script(*(answer(200, raw, Content_Type=OCI_INDEX) for raw in documents))})
    source = repository(net)
    with pytest.raises(InvalidInput):
        copy_graph(source, MemoryStore(), source.resolve("1"))
    assert len(net.sent) < 20


# --- A whole image --------------------------------------------------------------------------------


def test_a_graph_is_copied_both_ways() -> None:
    provider = MemoryProvider()
    net = Net({REGISTRY: filled(provider)})
    source = repository(net)
    local = MemoryStore()
    root = source.resolve("1")
    copy_graph(source, local, root)
    target = repository(net, Reference.parse("registry.example/copy"))
    copy_graph(local, target, root)
    target.tag("same", root)
    assert provider.repository("copy").resolve("same").digest == DIGEST


def test_a_layer_of_other_bytes_reaches_no_store() -> None:
    provider = MemoryProvider()
    app = filled(provider)
    provider.repository("team/tool")._blobs[IMAGE.layer.digest] = IMAGE.layer_bytes[::-1]
    source = repository(Net({REGISTRY: app}))
    local = MemoryStore()
    with pytest.raises(DigestMismatch):
        copy_graph(source, local, source.resolve("1"))
    assert not local.has(IMAGE.layer)


def test_a_layer_of_another_size_reaches_no_store() -> None:
    lying = Manifest.build(IMAGE.config, [Descriptor(
        media_type=IMAGE.layer.media_type, digest=IMAGE.layer.digest, size=IMAGE.layer.size + 1)])
    provider = MemoryProvider()
    app = filled(provider)
    provider.repository("team/tool").put(lying.descriptor, io.BytesIO(lying.raw))
    source = repository(Net({REGISTRY: app}))
    local = MemoryStore()
    with pytest.raises(SizeMismatch):
        copy_graph(source, local, source.resolve(lying.descriptor.digest))
    assert not local.has(lying.descriptor)


# --- Mirrors --------------------------------------------------------------------------------------

HUB = "https://registry-1.docker.io"
MIRROR = "https://mirror.example"
REDIS = Reference.parse("redis:1")
MIRRORED = RegistrySettings(mirrors=(MIRROR,))


def refuse(_request: Request) -> Response:
    raise ConnectFailed("mirror.example:443: cannot connect")


def test_a_mirror_comes_first() -> None:
    net = Net({MIRROR: filled(MemoryProvider(), "library/redis")})
    source = repository(net, REDIS, MIRRORED)
    copy_graph(source, MemoryStore(), source.resolve("1"))
    assert not any(HUB in line for line in net.lines())


@pytest.mark.parametrize("mirror", [
    refuse, lambda _: answer(404), lambda _: answer(401), lambda _: answer(403), lambda _: answer(400),
    lambda _: answer(502), lambda _: answer(200, b"<html>", Content_Type="text/html"),
    lambda _: answer(200, RAW + b" ", Content_Type=OCI_MANIFEST, Docker_Content_Digest=DIGEST),
], ids=["refused", "404", "401", "403", "400", "502", "html", "other bytes"])
def test_a_mirror_that_fails_is_passed_over(mirror: object) -> None:
    net = Net({MIRROR: mirror, HUB: filled(MemoryProvider(), "library/redis")})  # type: ignore[dict-item]
    source = repository(net, REDIS, MIRRORED)
    assert source.resolve("1").digest == DIGEST
    assert HUB in net.lines()[-1]


def test_an_image_arrives_past_a_mirror_that_is_down() -> None:
    net = Net({MIRROR: refuse, HUB: filled(MemoryProvider(), "library/redis")})
    source = repository(net, REDIS, MIRRORED)
    local = MemoryStore()
    copy_graph(source, local, source.resolve("1"))
    assert local.has(IMAGE.layer)


def test_when_all_fail_the_registry_s_own_error_is_told_with_the_rest() -> None:
    net = Net({MIRROR: refuse, HUB: Script(refusal(404, "MANIFEST_UNKNOWN"))})
    with pytest.raises(ManifestNotFound, match=r"redis:1: no such tag or manifest on docker\.io") as caught:
        repository(net, REDIS, MIRRORED).resolve("1")
    assert caught.value.__notes__ == ["mirror mirror.example/library/redis: mirror.example:443: cannot connect"]


def test_a_mirror_does_not_get_the_registry_s_credentials() -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    hub = filled(MemoryProvider(), "library/redis")
    net = Net({MIRROR: Script(challenge), HUB: hub})
    me = Credential(username="me", secret="hush")
    client(net, MIRRORED, credentials={"docker.io": me}).repository(REDIS).resolve("1")
    assert not net.authorizations()
    net = Net({MIRROR: Script(refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')), HUB: hub})
    client(net, MIRRORED, credentials={"mirror.example": me}).repository(REDIS).resolve("1")
    assert net.authorizations() == [("mirror.example", me.basic)]


def test_a_blob_that_breaks_off_at_a_mirror_goes_on_at_the_registry() -> None:
    def mirror(request: Request) -> Response:
        if "/blobs/" in request.url and "Range" not in request.headers:
            return Response(200, {"Content-Length": "1000"}, falling(IMAGE.layer_bytes[:300]))
        return refuse(request)

    net = Net({MIRROR: mirror, HUB: filled(MemoryProvider(), "library/redis")})
    assert repository(net, REDIS, MIRRORED).open(IMAGE.layer).read() == IMAGE.layer_bytes
    assert net.sent[-1].headers["Range"] == "bytes=300-"
    assert HUB in net.lines()[-1]


def test_mirrors_for_digests_are_not_asked_for_tags() -> None:
    conf = RegistriesConf.parse(b"""
        [[registry]]
        location = "registry.example"
        [[registry.mirror]]
        location = "mirror.example"
        pull-from-mirror = "digest-only"
    """)
    net = Net({MIRROR: filled(MemoryProvider()), REGISTRY: filled(MemoryProvider())})
    source = repository(net, settings=RegistrySettings(conf=conf))
    source.resolve("1")
    source.open(IMAGE.layer).close()
    repository(net, settings=RegistrySettings(conf=conf)).resolve(DIGEST)
    assert [line.split("/v2/")[0] for line in net.lines()] == [f"GET {REGISTRY}", f"GET {MIRROR}", f"GET {MIRROR}"]


def test_pushes_go_past_mirrors() -> None:
    hub = filled(MemoryProvider(), "library/redis")
    net = Net({MIRROR: refuse, HUB: hub})
    other = sample(b"other")
    repository(net, REDIS, MIRRORED).put(other.layer, io.BytesIO(other.layer_bytes))
    assert not any(MIRROR in line for line in net.lines())


# --- Lists ----------------------------------------------------------------------------------------


def test_tags_come_page_by_page() -> None:
    provider = MemoryProvider()
    app = filled(provider)
    for number in range(2500):
        provider.repository("team/tool").tag(f"v{number:04}", IMAGE.manifest.descriptor)
    net = Net({REGISTRY: app})
    assert list(repository(net).tags()) == ["1", *(f"v{number:04}" for number in range(2500))]
    assert len(net.sent) == 3


def test_tags_that_are_none_are_left_out() -> None:
    body = json.dumps({"tags": ["ok", "../x", "", "a b", "x" * 200, "\x1b[31m"]}).encode()
    assert list(one(answer(200, body)).tags()) == ["ok"]
    assert list(one(answer(200, b'{"name":"a","tags":null}')).tags()) == []


def test_pages_in_a_circle() -> None:
    page = Script(
        answer(200, b'{"tags":["a"]}', Link='</v2/team/tool/tags/list?last=a>; rel="next"'),
        answer(200, b'{"tags":["b"]}', Link='</v2/team/tool/tags/list?last=b>; rel="next"'),
        answer(200, b'{"tags":["c"]}', Link='</v2/team/tool/tags/list?last=a>; rel="next"'),
    )
    with pytest.raises(UnexpectedAnswer, match="lead in a circle"):
        list(repository(Net({REGISTRY: page})).tags())


def test_pages_without_end() -> None:
    numbers = iter(range(10**9))

    def lead_on(_request: Request) -> Response:
        return answer(200, b'{"tags":["a"]}', Link=f'<?last={next(numbers)}>; rel="next"')

    net = Net({REGISTRY: lead_on})
    with pytest.raises(UnexpectedAnswer, match="more than"):
        for _ in repository(net).tags():
            pass
    assert len(net.sent) == MAX_PAGES


@pytest.mark.parametrize("link", ["http://registry.example/v2/x", "file:///etc/passwd", "http://169.254.169.254/"])
def test_pages_do_not_lead_astray(link: str) -> None:
    net = Net({REGISTRY: Script(answer(200, b'{"tags":["a"]}', Link=f'<{link}>; rel="next"'))})
    with pytest.raises(LaminaError):
        list(repository(net).tags())
    assert len(net.sent) == 1


def test_pages_on_another_host_get_no_credentials() -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({REGISTRY: Script(challenge, answer(200, b'{"tags":["a"]}', Link='<https://evil.example/>; rel="next"')),
               "https://evil.example": Script(answer(200, b'{"tags":["b"]}'))})
    me = Credential(username="me", secret="hush")
    assert list(client(net, credentials={"registry.example": me}).repository(NAME).tags()) == ["a", "b"]
    assert [host for host, _ in net.authorizations()] == ["registry.example"]


@pytest.mark.parametrize("body", [b"", b"[]x", b'{"tags":{}}', b'{"tags":[1]}'])
def test_lists_that_are_none(body: bytes) -> None:
    with pytest.raises((ProtocolViolation, UnexpectedAnswer)):
        list(one(answer(200, body)).tags())


def test_a_web_page_instead_of_tags() -> None:
    with pytest.raises(UnexpectedAnswer, match="web page"):
        list(one(answer(200, b"<html>", Content_Type="text/html")).tags())


def test_the_catalog() -> None:
    provider = MemoryProvider()
    app = filled(provider)
    filled(provider, "other")
    assert list(client(Net({REGISTRY: app})).catalog("registry.example")) == ["other", "team/tool"]


# --- Referrers and deletion -----------------------------------------------------------------------


def signature(subject: Descriptor, kind: str) -> Manifest:
    document = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": IMAGE.config.to_json(),
        "layers": [], "subject": subject.to_json(), "annotations": {"who": "me"},
    }
    return Manifest.parse(json.dumps(document).encode())


def test_referrers() -> None:
    net = Net({REGISTRY: filled(MemoryProvider())})
    target = repository(net)
    assert target.referrers(DIGEST) == ()
    for kind in ("application/sig", "application/sbom"):
        made = signature(IMAGE.manifest.descriptor, kind)
        target.put_manifest(made.raw, made.media_type)
    found = target.referrers(DIGEST)
    assert sorted(item.artifact_type for item in found) == ["application/sbom", "application/sig"]
    assert found[0].annotations == {"who": "me"}
    (only,) = target.referrers(DIGEST, "application/sig")
    assert target.open(only).read() == signature(IMAGE.manifest.descriptor, "application/sig").raw


def test_referrers_by_tag_where_there_is_no_api() -> None:
    made = signature(IMAGE.manifest.descriptor, "application/sig")
    listed = Descriptor(media_type=OCI_MANIFEST, digest=made.descriptor.digest, size=len(made.raw), artifact_type="application/sig")

    def serve(request: Request) -> Response:
        if request.url.endswith(f"/manifests/sha256-{DIGEST.encoded}"):
            return answer(200, Index.build([listed]).raw, Content_Type=OCI_INDEX)
        return answer(404)

    assert repository(Net({REGISTRY: serve})).referrers(DIGEST, "application/sig") == (listed,)
    assert repository(Net({REGISTRY: serve})).referrers(DIGEST, "application/sbom") == ()
    assert repository(Net({REGISTRY: Script(answer(404))})).referrers(DIGEST) == ()


def test_deleting() -> None:
    net = Net({REGISTRY: filled(MemoryProvider())})
    target = repository(net)
    assert target.has(IMAGE.layer)
    target.delete(IMAGE.layer.digest)
    assert not target.has(IMAGE.layer)
    target.delete_tag("1")
    with pytest.raises(NameNotFound):
        target.resolve("1")
    target.delete(DIGEST)
    with pytest.raises(NameNotFound):
        target.resolve(DIGEST)
    with pytest.raises(LookupError):
        target.delete(DIGEST)
    with pytest.raises(InvalidInput):
        target.delete_tag("../x")


def test_what_has_fails_with() -> None:
    with pytest.raises(RegistryUnavailable):
        one(answer(500)).has(IMAGE.layer)
