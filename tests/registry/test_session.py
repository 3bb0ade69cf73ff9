"""One endpoint: schemes, redirects, patience, and what each refusal becomes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from tests.registry.net import Net, Script, Waits, answer, client, falling, refusal, sample

from lamina.content.store import BlobNotFound, NameNotFound
from lamina.errors import LaminaError, Unavailable
from lamina.events import Action
from lamina.http.message import (
    BrokenConnection,
    ConnectFailed,
    MalformedResponse,
    NotTls,
    Request,
    Response,
    TimedOut,
    TransportFailure,
    UnknownHost,
    UntrustedCertificate,
)
from lamina.http.trust import Trust
from lamina.oci.descriptor import OCI_MANIFEST
from lamina.oci.reference import Reference
from lamina.registry.credentials import Credential
from lamina.registry.failures import (
    AccessDenied,
    ManifestNotFound,
    RegistryRefused,
    RegistryUnavailable,
    RegistryUnsupported,
    RegistryUntrusted,
    RepositoryNotFound,
    TooManyRequests,
    UnexpectedAnswer,
)
from lamina.registry.hosts import RegistrySettings
from lamina.registry.remote import RemoteRepository
from lamina.registry.session import MAX_REDIRECTS, RedirectRefused

REGISTRY = "https://registry.example"
NAME = Reference.parse("registry.example/team/tool:1")
ME = Credential(username="me", secret="hush")
IMAGE = sample()


def document() -> Response:
    return answer(200, IMAGE.manifest.raw, Content_Type=OCI_MANIFEST)


def layer() -> Response:
    return answer(200, IMAGE.layer_bytes)


def redirect(location: str, status: int = 307) -> Response:
    return answer(status, b"elsewhere", Location=location)


def failing(*failures: TransportFailure, then: Callable[[Request], Response] | None = None) -> Script:
    def fail(failure: TransportFailure) -> Callable[[Request], Response]:
        def act(_request: Request) -> Response:
            raise failure

        return act

    return Script(*[fail(failure) for failure in failures], *([then] if then else []))


def repository(net: Net, name: Reference = NAME, waits: Waits | None = None, **options: object) -> RemoteRepository:
    return client(net, waits=waits, **options).repository(name)  # type: ignore[arg-type]


# --- Redirects (SECURITY 39, 40, 41) --------------------------------------------------------------


def test_a_blob_may_be_elsewhere() -> None:
    net = Net({REGISTRY: Script(redirect("https://cdn.example/blob?sig=x#part")), "https://cdn.example": Script(layer())})
    assert repository(net).open(IMAGE.layer).read() == IMAGE.layer_bytes
    assert net.lines()[1] == "GET https://cdn.example/blob?sig=x"


def test_credentials_do_not_follow_to_another_host() -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({REGISTRY: Script(challenge, redirect("https://cdn.example/blob")), "https://cdn.example": Script(layer())})
    repository(net, credentials={"registry.example": ME}).open(IMAGE.layer).close()
    assert net.authorizations() == [("registry.example", ME.basic)]


@pytest.mark.parametrize("target", ["https://registry.example:8443/blob", "https://registry.example./blob"])
def test_another_port_is_another_host(target: str) -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({REGISTRY: Script(challenge, redirect(target)), target.removesuffix("/blob"): Script(layer())})
    repository(net, credentials={"registry.example": ME}).open(IMAGE.layer).close()
    assert net.authorizations() == [("registry.example", ME.basic)]


def test_credentials_follow_to_the_same_host() -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({REGISTRY: Script(challenge, redirect("/elsewhere"), layer())})
    repository(net, credentials={"registry.example": ME}).open(IMAGE.layer).close()
    assert net.lines()[-1] == f"GET {REGISTRY}/elsewhere"
    assert len(net.authorizations()) == 2


def test_a_challenge_from_elsewhere_is_not_answered() -> None:
    """CVE-2020-15157: a blob's other home asks for credentials."""
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({
        REGISTRY: Script(redirect("https://evil.example/blob")), "https://evil.example": Script(challenge),
        "https://evil.example/token": Script(answer(200)),
    })
    with pytest.raises(LaminaError):
        repository(net, credentials={"registry.example": ME, "evil.example": ME}).open(IMAGE.layer)
    assert not net.authorizations()


@pytest.mark.parametrize("location", [
    "file:///etc/passwd", "ftp://cdn.example/", "gopher://cdn.example/", "http://cdn.example/blob",
    "http://169.254.169.254/latest/meta-data", "http://127.0.0.1/", "https://me:x@cdn.example/", "", "https://",
    "https://cdn.example/\r\nX: y", "https://cdn.example:99999/", "data:text/plain,x", "http://registry.example/blob",
])
def test_where_nobody_is_led(location: str) -> None:
    net = Net({REGISTRY: Script(answer(307, Location=location) if location else answer(307))})
    for host in ("http://cdn.example", "http://169.254.169.254", "http://127.0.0.1", "http://registry.example"):
        net.hosts[host] = Script(layer())
    with pytest.raises((RedirectRefused, RegistryUnavailable, LaminaError)):
        repository(net).open(IMAGE.layer)
    assert {line.split("/v2/")[0] for line in net.lines()} == {f"GET {REGISTRY}"}


def test_plain_http_leads_only_to_what_may_be_plain() -> None:
    local = Reference.parse("localhost:5000/a")
    for target, is_allowed in (("http://localhost:5001", True), ("http://169.254.169.254", False),
                               ("https://cdn.example", True), ("http://listed.example", True)):
        registry = Script(answer(200, b"{}"), redirect(f"{target}/blob"))
        net = Net({"http://localhost:5000": registry, target: Script(layer())})
        source = repository(net, local, settings=RegistrySettings(insecure=("listed.example",)))
        if is_allowed:
            assert source.open(IMAGE.layer).read() == IMAGE.layer_bytes
        else:
            with pytest.raises(RedirectRefused, match="insecure-registries"):
                source.open(IMAGE.layer)


def test_redirects_end() -> None:
    net = Net({REGISTRY: Script(redirect("/round"))})
    with pytest.raises(RedirectRefused, match=f"more than {MAX_REDIRECTS} redirects"):
        repository(net).open(IMAGE.layer)
    assert len(net.sent) == MAX_REDIRECTS + 1


def test_an_upload_is_not_redirected() -> None:
    net = Net({REGISTRY: Script(answer(404), redirect("https://evil.example/", 302)),
               "https://evil.example": Script(answer(202, Location="/x"))})
    with pytest.raises(RedirectRefused, match="redirects a POST"):
        repository(net).put(IMAGE.layer, io.BytesIO(IMAGE.layer_bytes))


@pytest.mark.parametrize("location", ["http://registry.example/upload", "file:///tmp/x", "http://evil.example/upload"])
def test_an_upload_does_not_go_on_in_plain(location: str) -> None:
    net = Net({REGISTRY: Script(answer(404), answer(202, Location=location)), "http://registry.example": Script(answer(201)),
               "http://evil.example": Script(answer(201))})
    with pytest.raises(RedirectRefused):
        repository(net).put(IMAGE.layer, io.BytesIO(IMAGE.layer_bytes))
    assert not any(request.method == "PUT" for request in net.sent)


def test_trust_is_that_of_the_host_it_goes_to() -> None:
    settings = RegistrySettings(insecure=("registry.example",))
    net = Net({REGISTRY: Script(answer(200, b"{}"), redirect("https://cdn.example/x")), "https://cdn.example": Script(layer())})
    repository(net, settings=settings).open(IMAGE.layer).close()
    assert [request.trust.verify for request in net.sent] == [False, False, True]
    assert net.sent[-1].trust == Trust()


# --- Patience -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status: int) -> None:
    waits = Waits()
    net = Net({REGISTRY: Script(answer(status), answer(status), document())})
    repository(net, waits=waits).resolve("1")
    assert waits.seconds == [0.5, 1.0]
    assert [event.action for event in waits.events] == [Action.RETRYING] * 2
    assert str(status) in waits.events[0].detail


def test_retry_after_is_honoured() -> None:
    waits = Waits()
    net = Net({REGISTRY: Script(
        answer(429, Retry_After="3"),
        answer(503, Retry_After="Mon, 23 Nov 2026 10:00:09 GMT", Date="Mon, 23 Nov 2026 10:00:00 GMT"),
        answer(503, Retry_After="whenever"), document(),
    )})
    repository(net, waits=waits).resolve("1")
    assert waits.seconds == [3.5, 9.5, 2.0]


def test_a_long_retry_after_is_reported_and_not_waited_for() -> None:
    waits = Waits()
    net = Net({REGISTRY: Script(refusal(429, "TOOMANYREQUESTS", "pull limit", Retry_After="3600"))})
    with pytest.raises(TooManyRequests, match=r"too many requests \(429\): TOOMANYREQUESTS: pull limit") as caught:
        repository(net, waits=waits).resolve("1")
    assert caught.value.retry_after == 3600
    assert caught.value.codes == ("TOOMANYREQUESTS",)
    assert not waits.seconds


def test_attempts_are_bounded_and_backoff_grows() -> None:
    waits = Waits()
    net = Net({REGISTRY: Script(answer(503))})
    with pytest.raises(RegistryUnavailable, match=r"registry\.example: unavailable \(503\)"):
        repository(net, waits=waits, attempts=8).resolve("1")
    assert waits.seconds == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0]
    assert len(net.sent) == 8


def test_a_host_that_answered_before_is_waited_for() -> None:
    waits = Waits()
    net = Net({REGISTRY: Script(document(), failing(ConnectFailed("refused")), failing(TimedOut("late")),
                                failing(BrokenConnection("broke")), document())})
    source = repository(net, waits=waits)
    source.resolve("1")
    source.resolve("2")
    assert len(waits.seconds) == 3


@pytest.mark.parametrize("failure", [ConnectFailed("refused"), TimedOut("late"), UnknownHost("who?"),
                                     BrokenConnection("broke"), MalformedResponse("what?")])
def test_a_host_that_never_answered_is_not(failure: TransportFailure) -> None:
    waits = Waits()
    net = Net({REGISTRY: failing(failure)})
    with pytest.raises(type(failure)):
        repository(net, waits=waits).resolve("1")
    assert not waits.seconds
    assert len(net.sent) == 1


def test_a_name_server_in_trouble_is_asked_again() -> None:
    failure = UnknownHost("registry.example: no such host (Temporary failure in name resolution)")
    failure.may_pass = True
    waits = Waits()
    net = Net({REGISTRY: failing(failure, then=lambda _: document())})
    repository(net, waits=waits).resolve("1")
    assert len(waits.seconds) == 1


# --- Schemes --------------------------------------------------------------------------------------

LOCAL = Reference.parse("localhost:5000/a:1")


def test_loopback_speaks_http_first() -> None:
    net = Net({"http://localhost:5000": Script(answer(200, b"{}"), document())})
    repository(net, LOCAL).resolve("1")
    assert [line.split("/v2/")[0] for line in net.lines()] == ["GET http://localhost:5000"] * 2


@pytest.mark.parametrize("reply", [
    Script(answer(400, b"Client sent an HTTP request to an HTTPS server.\n")),
    Script(answer(400, b"<html>The plain HTTP request was sent to HTTPS port</html>")),
    failing(MalformedResponse("not HTTP")), failing(BrokenConnection("closed")),
], ids=["go", "nginx", "alert", "hangup"])
def test_loopback_with_tls_is_found_out_once(reply: Script) -> None:
    net = Net({"http://localhost:5000": reply, "https://localhost:5000": Script(answer(200, b"{}"), document())})
    source = repository(net, LOCAL)
    source.resolve("1")
    source.resolve("2")
    assert [line.split("/v2/")[0] for line in net.lines()] == [
        "GET http://localhost:5000", *["GET https://localhost:5000"] * 3]
    assert net.sent[-1].trust.verify


def test_insecure_registries_are_asked_for_tls_first() -> None:
    settings = RegistrySettings(insecure=("registry.example",))
    for failure in (NotTls("plain"), ConnectFailed("refused"), BrokenConnection("closed")):
        net = Net({REGISTRY: failing(failure), "http://registry.example": Script(answer(401), document())})
        repository(net, settings=settings).resolve("1")
        assert net.lines()[0].startswith("GET https://")
        assert net.lines()[-1].startswith("GET http://")


def test_nobody_falls_back_to_plain_http_unasked() -> None:
    for failure in (NotTls("registry.example:443: does not speak TLS"), ConnectFailed("refused"),
                    UntrustedCertificate("registry.example:443: its certificate is not trusted (self-signed)")):
        net = Net({REGISTRY: failing(failure), "http://registry.example": Script(document())})
        with pytest.raises(Unavailable):
            repository(net).resolve("1")
        assert all(request.url.startswith("https://") for request in net.sent)


def test_when_no_scheme_works_the_first_failure_is_told() -> None:
    net = Net({"http://localhost:5000": failing(ConnectFailed("localhost:5000: cannot connect")),
               "https://localhost:5000": failing(ConnectFailed("second"))})
    with pytest.raises(ConnectFailed, match="localhost:5000: cannot connect"):
        repository(net, LOCAL).resolve("1")


@pytest.mark.parametrize("failure", [UnknownHost("who?"), TimedOut("late")])
def test_a_host_that_is_not_there_is_not_asked_in_another_scheme(failure: TransportFailure) -> None:
    net = Net({"http://localhost:5000": failing(failure), "https://localhost:5000": Script(answer(200, b"{}"))})
    with pytest.raises(type(failure)):
        repository(net, LOCAL).resolve("1")
    assert len(net.sent) == 1


def test_an_untrusted_certificate_comes_with_advice() -> None:
    net = Net({REGISTRY: failing(UntrustedCertificate("registry.example:443: its certificate is not trusted (self-signed)"))})
    with pytest.raises(RegistryUntrusted) as caught:
        repository(net).resolve("1")
    assert str(caught.value) == (
        "registry.example:443: its certificate is not trusted (self-signed); put its authority's certificate "
        "into certs.d/registry.example/ca.crt, or list registry.example in insecure-registries"
    )


def test_plain_http_comes_with_advice() -> None:
    net = Net({REGISTRY: failing(NotTls("registry.example:443: does not speak TLS (HTTPS) on this port"))})
    with pytest.raises(RegistryUntrusted, match=r"list registry.example in insecure-registries to allow plain HTTP"):
        repository(net).resolve("1")


# --- What refusals become -------------------------------------------------------------------------


@pytest.mark.parametrize(("response", "kind", "message"), [
    (refusal(404, "MANIFEST_UNKNOWN"), ManifestNotFound,
     "registry.example/team/tool:1: no such tag or manifest on registry.example"),
    (refusal(404, "NAME_UNKNOWN"), RepositoryNotFound, "no such repository on registry.example"),
    (answer(404), ManifestNotFound, "no such tag or manifest"),
    (refusal(403, "DENIED", "quota"), AccessDenied, "access denied: DENIED: quota"),
    (refusal(400, "MANIFEST_INVALID", "bad"), RegistryRefused, r"refused by registry.example \(400\): MANIFEST_INVALID: bad"),
    (refusal(405, "UNSUPPORTED"), RegistryUnsupported, "not supported by registry.example"),
    (answer(404, b"<html>", Content_Type="text/html; charset=utf-8"), UnexpectedAnswer, r"a web page \(404\).*is it one"),
    (answer(200, b"<!doctype html>", Content_Type="text/html"), UnexpectedAnswer, "a web page"),
    (answer(204), UnexpectedAnswer, "unexpected status 204"),
    (answer(206), UnexpectedAnswer, "unexpected status 206"),
    (answer(599), RegistryUnavailable, "unavailable"),
    (Response(404, {}, falling(b'{"errors"')), ManifestNotFound, "no such tag"),
    (Response(404, {}, b"x" * (1 << 20)), ManifestNotFound, "no such tag"),
])
def test_refusals(response: Response, kind: type[LaminaError], message: str) -> None:
    net = Net({REGISTRY: lambda _: response})
    with pytest.raises(kind, match=message) as caught:
        repository(net).resolve("1")
    assert str(caught.value).startswith("registry.example")


def test_not_found_is_told_apart() -> None:
    net = Net({REGISTRY: Script(refusal(404, "BLOB_UNKNOWN"))})
    with pytest.raises(BlobNotFound) as caught:
        repository(net).open(IMAGE.layer)
    assert getattr(caught.value, "codes", ()) == ("BLOB_UNKNOWN",)
    with pytest.raises(NameNotFound):
        repository(net).resolve("1")


def test_errors_are_printable() -> None:
    net = Net({REGISTRY: Script(refusal(403, "DENIED", "\x1b]0;owned\x07\r\nsecond line"))})
    with pytest.raises(AccessDenied) as caught:
        repository(net).resolve("1")
    assert str(caught.value).isprintable()
