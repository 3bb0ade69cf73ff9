from __future__ import annotations

import io
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.registry.net import Net, Script, Waits, answer, client, refusal, sample

from lamina.errors import LaminaError
from lamina.http.message import Origin, Request, Response
from lamina.oci.reference import Reference
from lamina.registry.auth import (
    Authorizer,
    Challenge,
    merge_scopes,
    parse_challenges,
    parse_token,
    repository_scope,
)
from lamina.registry.credentials import Credential, CredentialHelperFailed, GivenCredentials
from lamina.registry.failures import AccessDenied, RegistryUnavailable, Unauthorized
from lamina.registry.hosts import RegistrySettings
from lamina.registry.protocol import ProtocolViolation
from lamina.registry.remote import RegistryClient
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider

ME = Credential(username="me", secret="hush")
REGISTRY, AUTH = "https://registry.example", "https://auth.example"
NAME = Reference.parse("registry.example/team/tool:1")


# --- Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("headers", "expected"), [
    (['Bearer realm="https://auth.example/token",service="registry",scope="repository:a:pull,push"'],
     [("bearer", {"realm": "https://auth.example/token", "service": "registry", "scope": "repository:a:pull,push"})]),
    (["Basic realm=simple"], [("basic", {"realm": "simple"})]),
    (["Basic"], [("basic", {})]),
    (['Basic realm="a", Bearer realm="b", service=c'], [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c"})]),
    (["Negotiate", 'Bearer realm="b"'], [("negotiate", {}), ("bearer", {"realm": "b"})]),
    (['BEARER Realm = "b" , Service = "c"'], [("bearer", {"realm": "b", "service": "c"})]),
    ([r'Bearer realm="a\"b\\c"'], [("bearer", {"realm": 'a"b\\c'})]),
    (['Bearer realm="first",realm="second"'], [("bearer", {"realm": "first"})]),
    (['Bearer realm="a,b",error="insufficient_scope"'], [("bearer", {"realm": "a,b", "error": "insufficient_scope"})]),
    (['realm="nobody"'], []), ([""], []), (['"'], []), ([], []),
    (['Bearer realm="unclosed'], [("bearer", {})]),
])
def test_challenges(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(found.scheme, found.parameters) for found in parse_challenges(headers)] == expected


def test_challenges_are_bounded() -> None:
    (found,) = parse_challenges(["Bearer " + ",".join(f'a{n}="{n}"' for n in range(10_000))])
    assert len(found.parameters) < 100
    assert Challenge("bearer", {"realm": "a", "scope": "b"}).without_scope() == Challenge("bearer", {"realm": "a"})


def test_scopes_are_merged() -> None:
    assert merge_scopes(["repository:a:push", "repository:b:pull", "", "repository:a:pull", "nonsense"]) == (
        "repository:a:pull,push", "repository:b:pull",
    )
    assert merge_scopes(["registry:catalog:*"]) == ("registry:catalog:*",)
    assert merge_scopes([repository_scope("localhost:5000/a", "pull")]) == ("repository:localhost:5000/a:pull",)


def test_tokens() -> None:
    assert parse_token(b'{"token":"abc","expires_in":300}').lifetime == 300
    assert parse_token(b'{"access_token":"abc"}').value == "abc"
    assert parse_token(b'{"token":"abc","expires_in":-5}').lifetime == 60
    assert parse_token(b'{"token":"abc","expires_in":1%s}' % (b"0" * 400)).lifetime == 86_400
    assert parse_token(b'{"token":"abc","refresh_token":"r"}').refresh == "r"
    assert "abc" not in repr(parse_token(b'{"token":"abc","refresh_token":"abc"}'))


@pytest.mark.parametrize("body", [
    b"", b"<html>", b"[]", b"{}", b'{"token":""}', b'{"token":5}', b'{"token":"a b"}', b'{"token":"a\\r\\nX: y"}',
    b"[" * 100_000,
])
def test_answers_without_a_token(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse_token(body)


# --- A registry with a token server ---------------------------------------------------------------


class TokenServer:
    """Gives tokens that say what they are for; knows one user and one identity token."""

    def __init__(self, lifetime: int = 300, *, anonymous: bool = True, oauth_only: bool = False) -> None:
        self.lifetime = lifetime
        self.anonymous = anonymous
        self.oauth_only = oauth_only
        self.given: list[dict[str, object]] = []

    def __call__(self, request: Request) -> Response:
        if request.method == "POST":
            assert isinstance(request.body, bytes)
            form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
            is_known = form.get("refresh_token") == "identity" or (form.get("username"), form.get("password")) == (
                "me", "hush")
            return self._give(form.get("scope", "").split(), is_known, form) if is_known else refusal(401, "UNAUTHORIZED")
        if self.oauth_only:
            return answer(405)
        query = parse_qs(urlsplit(request.url).query)
        basic = request.headers.get("Authorization")
        if basic is None and not self.anonymous:
            return refusal(401, "UNAUTHORIZED", "who are you?")
        if basic not in {None, ME.basic}:
            return refusal(401, "UNAUTHORIZED", "wrong password")
        extra = {"refresh_token": "identity"} if "offline_token" in query else {}
        return self._give(query.get("scope", []), basic is not None, {k: v[0] for k, v in query.items()}, extra)

    def _give(self, scopes: list[str], is_known: bool, asked: dict[str, str], extra: dict[str, str] | None = None) -> Response:
        self.given.append(asked)
        value = f"{'me' if is_known else 'anyone'}|{len(self.given)}|{'|'.join(scopes)}"
        document = {"token": value.replace(" ", ""), "expires_in": self.lifetime, **(extra or {})}
        return answer(200, json.dumps(document).encode())


class Guarded:
    """A registry behind bearer tokens: pulling needs any token for it, pushing one of a known user."""

    def __init__(self, realm: str = f"{AUTH}/token", provider: MemoryProvider | None = None) -> None:
        self.provider = provider or MemoryProvider()
        self.app = RegistryApp(self.provider, allowed_hosts=["registry.example"])
        self.realm = realm
        self.revoked: set[str] = set()

    def __call__(self, request: Request) -> Response:
        header = request.headers.get("Authorization", "")
        path = urlsplit(request.url).path
        repository = path.removeprefix("/v2/").partition("/manifests")[0].partition("/blobs")[0].partition("/tags")[0]
        verb = "pull" if request.method in {"GET", "HEAD"} else "push"
        scope = f"repository:{repository}:{verb}" if repository else ""
        if not self._allows(header.removeprefix("Bearer "), repository, verb):
            challenge = f'Bearer realm="{self.realm}",service="registry.example",scope="{scope}"'
            return refusal(401, "UNAUTHORIZED", WWW_Authenticate=challenge)
        return self.app(request)

    def _allows(self, token: str, repository: str, verb: str) -> bool:
        if not token or token in self.revoked:
            return False
        user, _, *scopes = token.split("|")
        if not repository:
            return True
        granted = {scope.rpartition(":")[0]: scope.rpartition(":")[2].split(",") for scope in scopes}
        return verb in granted.get(f"repository:{repository}", []) and (verb == "pull" or user == "me")


@pytest.fixture
def net() -> Net:
    guarded = Guarded()
    image = sample()
    repository = guarded.provider.repository("team/tool")
    for descriptor, data in [*image.blobs(), (image.manifest.descriptor, image.manifest.raw)]:
        with repository.ingest() as ingest:
            ingest.write(data)
            ingest.commit(descriptor.media_type)
    repository.tag("1", image.manifest.descriptor)
    return Net({REGISTRY: guarded, AUTH: TokenServer()})


def token_requests(net: Net) -> list[str]:
    return [line for line in net.lines() if AUTH in line]


def test_an_anonymous_pull_fetches_one_token(net: Net) -> None:
    repository = client(net).repository(NAME)
    repository.resolve("1")
    repository.open(sample().layer).close()
    repository.open(sample().config).close()
    assert token_requests(net) == [
        f"GET {AUTH}/token?service=registry.example&scope=repository%3Ateam%2Ftool%3Apull"
    ]
    assert all(host == "registry.example" for host, _ in net.authorizations())


def test_credentials_go_to_the_token_server_only(net: Net) -> None:
    client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    basics = [(host, value) for host, value in net.authorizations() if value.startswith("Basic")]
    assert basics == [("auth.example", ME.basic)]
    assert [value[:10] for host, value in net.authorizations() if host == "registry.example"] == ["Bearer me|"]


def test_pushing_asks_for_more(net: Net) -> None:
    repository = client(net, credentials={"registry.example": ME}).repository(NAME)
    image = sample(b"other")
    repository.put(image.layer, io.BytesIO(image.layer_bytes))
    assert any("pull%2Cpush" in line for line in token_requests(net))


def test_an_identity_token_is_exchanged(net: Net) -> None:
    token = Credential(username="<token>", secret="identity")
    client(net, credentials={"registry.example": token}).repository(NAME).resolve("1")
    server = net.hosts[AUTH]
    assert isinstance(server, TokenServer)
    assert server.given[0]["grant_type"] == "refresh_token"
    assert not any(value.startswith("Basic") for _, value in net.authorizations())
    assert not any("identity" in line for line in net.lines()), "secrets do not belong into URLs"


def test_a_token_server_that_knows_only_oauth(net: Net) -> None:
    net.hosts[AUTH] = TokenServer(oauth_only=True)
    client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    server = net.hosts[AUTH]
    assert isinstance(server, TokenServer)
    assert server.given[0]["grant_type"] == "password"


def test_a_registry_token_is_sent_as_it_is(net: Net) -> None:
    ready = Credential(username="", secret="", registry_token="me|0|repository:team/tool:pull")
    client(net, credentials={"registry.example": ready}).repository(NAME).resolve("1")
    assert token_requests(net) == []


def test_tokens_are_kept_until_shortly_before_they_expire(net: Net) -> None:
    now = [0.0]
    repository = client(net, clock=lambda: now[0]).repository(NAME)
    for now[0] in (0.0, 100.0, 269.0):
        repository.open(sample().layer).close()
    assert len(token_requests(net)) == 1
    now[0] = 271.0
    repository.open(sample().layer).close()
    assert len(token_requests(net)) == 2


def test_a_token_that_is_refused_is_replaced_once(net: Net) -> None:
    repository = client(net).repository(NAME)
    repository.open(sample().layer).close()
    guarded = net.hosts[REGISTRY]
    assert isinstance(guarded, Guarded)
    guarded.revoked.add("anyone|1|repository:team/tool:pull")
    repository.open(sample().layer).close()
    assert len(token_requests(net)) == 2


def test_threads_that_meet_the_same_challenge_fetch_one_token(net: Net) -> None:
    """The first token is given only when every thread has been challenged."""
    guarded, tokens = net.hosts[REGISTRY], net.hosts[AUTH]
    challenged = threading.Semaphore(0)

    def counting(request: Request) -> Response:
        response = guarded(request)
        if response.status == 401:
            challenged.release()
        return response

    def waiting(request: Request) -> Response:
        for _ in range(8):
            assert challenged.acquire(timeout=10)
        return tokens(request)

    net.hosts = {REGISTRY: counting, AUTH: waiting}
    repository = client(net).repository(NAME)
    threads = [threading.Thread(target=lambda: repository.open(sample().layer).close()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(token_requests(net)) == 1


# --- Refusals -------------------------------------------------------------------------------------


def test_a_wrong_password(net: Net) -> None:
    wrong = Credential(username="me", secret="wrong-hush")
    with pytest.raises(Unauthorized, match=r"credentials were refused.*lamina login registry\.example") as caught:
        client(net, credentials={"registry.example": wrong}).repository(NAME).resolve("1")
    assert caught.value.codes == ("UNAUTHORIZED",)
    assert "hush" not in str(caught.value)


def test_a_token_server_that_wants_to_know_us(net: Net) -> None:
    net.hosts[AUTH] = TokenServer(anonymous=False)
    with pytest.raises(Unauthorized, match="no token without credentials"):
        client(net).repository(NAME).resolve("1")


def test_a_repository_that_the_token_does_not_cover(net: Net) -> None:
    image = sample(b"other")
    with pytest.raises(Unauthorized, match=r"no such repository, or `lamina login registry.example` is needed"):
        client(net).repository(NAME).put(image.layer, io.BytesIO(image.layer_bytes))


def test_a_token_server_in_trouble_is_asked_again(net: Net) -> None:
    net.hosts[AUTH] = Script(answer(503), refusal(429, "TOOMANYREQUESTS", Retry_After="7"), TokenServer())
    waits = Waits()
    client(net, waits=waits).repository(NAME).resolve("1")
    assert waits.seconds == [0.5, 7.5]
    net.hosts[AUTH] = Script(answer(503))
    with pytest.raises(RegistryUnavailable, match=r"token server of registry.example"):
        client(net, attempts=2).repository(NAME).resolve("1")


def test_a_helper_that_fails_leaves_us_anonymous_with_a_reason(net: Net) -> None:
    class Broken:
        def find(self, registry: str, repository: str = "") -> Credential | None:
            raise CredentialHelperFailed("docker-credential-x: not found on the search path")

    RegistryClient(net, RegistrySettings(), Broken(), patience=Waits().patience()).repository(NAME).resolve("1")
    image = sample(b"other")
    with pytest.raises(Unauthorized) as caught:
        RegistryClient(net, RegistrySettings(), Broken(), patience=Waits().patience()).repository(NAME).put(
            image.layer, io.BytesIO(image.layer_bytes)
        )
    assert caught.value.__notes__ == ["credentials could not be read: docker-credential-x: not found on the search path"]


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, AccessDenied)])
def test_a_refusal_without_a_challenge(status: int, kind: type[LaminaError]) -> None:
    net = Net({REGISTRY: Script(refusal(status, "DENIED", "go away"))})
    with pytest.raises(kind):
        client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    assert len(net.sent) == 1
    assert not net.authorizations()


def test_a_registry_that_is_never_satisfied_is_not_asked_for_ever() -> None:
    net = Net({REGISTRY: Script(refusal(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{AUTH}/token"')),
               AUTH: TokenServer()})
    with pytest.raises(Unauthorized, match="not enough for this"):
        client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    assert len(net.sent) < 10


# --- Whom we tell what (SECURITY 38, 39) ----------------------------------------------------------


@pytest.mark.parametrize("realm", [
    "http://auth.example/token", "http://registry.example/token", "http://169.254.169.254/latest", "http://127.0.0.1:1/",
    "file:///etc/passwd", "ftp://auth.example/", "/token", "https://me:x@auth.example/", "https://a b/",
])
def test_a_token_server_without_tls_gets_nothing(realm: str) -> None:
    net = Net({REGISTRY: Guarded(realm), "http://auth.example": TokenServer(), "http://registry.example": TokenServer()})
    with pytest.raises(LaminaError, match="token"):
        client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    assert [line.split("/v2/")[0] for line in net.lines()] == [f"GET {REGISTRY}"]
    assert not net.authorizations()


def test_a_plain_token_server_is_fine_where_the_user_said_so() -> None:
    net = Net({"http://localhost:5000": Guarded("http://localhost:5001/token"), "http://localhost:5001": TokenServer()})
    guarded = net.hosts["http://localhost:5000"]
    assert isinstance(guarded, Guarded)
    with pytest.raises(LookupError):
        client(net, credentials={"localhost:5000": ME}).repository(Reference.parse("localhost:5000/a")).resolve("1")
    assert ("localhost:5001", ME.basic) in net.authorizations()


def test_basic_credentials_are_for_the_registry_that_asked() -> None:
    registry = Script(
        refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"'), answer(200, b"{}"), answer(200, b"{}"))
    net = Net({REGISTRY: registry})
    with pytest.raises(LaminaError):
        client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    assert net.authorizations() == [("registry.example", ME.basic)]


def test_basic_credentials_do_not_go_out_in_plain() -> None:
    """Whoever calls: the session never does, since it speaks only the endpoint's schemes."""
    net, challenge = Net(), ['Basic realm="x"']
    settings = RegistrySettings(insecure=("old.example",))
    known = GivenCredentials({"registry.example": ME, "old.example": ME})
    authorizer = Authorizer(net, settings, known)
    for host, is_sent in (("registry.example", False), ("old.example", True)):
        endpoint = settings.registry_endpoint(host)
        answered = authorizer.answer(endpoint, Origin("http", host, 80), challenge, (), None)
        assert answered == (ME.basic if is_sent else None)


def test_credentials_of_one_registry_are_not_sent_to_another() -> None:
    challenge = refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')
    net = Net({"https://evil.example": Script(challenge)})
    with pytest.raises(Unauthorized):
        client(net, credentials={"registry.example": ME}).repository(Reference.parse("evil.example/a")).resolve("1")
    assert not net.authorizations()


@pytest.mark.parametrize("challenge", ['Basic realm="x"', f'Bearer realm="{AUTH}/token"'])
def test_a_mirror_in_plain_http_may_be_read_but_not_signed_in_to(challenge: str) -> None:
    plain = Script(refusal(401, "UNAUTHORIZED", WWW_Authenticate=challenge))
    net = Net({"http://mirror.example": plain, "https://registry-1.docker.io": Script(answer(404)), AUTH: TokenServer()})
    known = {"mirror.example": ME}
    for insecure in ((), ("mirror.example",)):
        settings = RegistrySettings(mirrors=("http://mirror.example",), insecure=insecure)
        with pytest.raises(LookupError):
            client(net, settings, credentials=known).repository(Reference.parse("redis")).resolve("1")
        assert any(value == ME.basic for _, value in net.authorizations()) == bool(insecure)


def test_bearer_is_preferred_to_basic() -> None:
    challenge = f'Basic realm="x", Bearer realm="{AUTH}/token",service="s"'
    net = Net({REGISTRY: Script(refusal(401, "UNAUTHORIZED", WWW_Authenticate=challenge), answer(404)), AUTH: TokenServer()})
    with pytest.raises(LookupError):
        client(net, credentials={"registry.example": ME}).repository(NAME).resolve("1")
    assert [host for host, value in net.authorizations() if value.startswith("Basic")] == ["auth.example"]


# --- Signing in -----------------------------------------------------------------------------------


def test_signing_in_gives_an_identity_token_where_there_is_one(net: Net) -> None:
    kept = client(net).sign_in("registry.example", ME)
    assert kept == Credential(username="<token>", secret="identity")


def test_signing_in_with_basic_credentials() -> None:
    def check(request: Request) -> Response:
        if request.headers.get("Authorization") == ME.basic:
            return answer(200, b"{}")
        return refusal(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="x"')

    net = Net({REGISTRY: check})
    assert client(net).sign_in("registry.example", ME) == ME
    with pytest.raises(Unauthorized, match=r"registry.example: the user name or password was refused"):
        client(net).sign_in("registry.example", Credential(username="me", secret="wrong"))


def test_signing_in_with_a_wrong_password(net: Net) -> None:
    with pytest.raises(Unauthorized, match="the user name or password was refused") as caught:
        client(net).sign_in("registry.example", Credential(username="me", secret="wrong-hush"))
    assert "hush" not in str(caught.value)


def test_signing_in_where_nobody_asks() -> None:
    net = Net({REGISTRY: Script(answer(200, b"{}"))})
    assert client(net).sign_in("registry.example", ME) == ME
    assert not net.authorizations()


@pytest.mark.parametrize("status", [200, 404])
def test_signing_in_to_what_is_no_registry(status: int) -> None:
    net = Net({REGISTRY: Script(answer(status, b"<html>", Content_Type="text/html"))})
    with pytest.raises(LaminaError, match="is it one"):
        client(net).sign_in("registry.example", ME)
    with pytest.raises(LaminaError, match="no such host"):
        client(net).sign_in("elsewhere.example", ME)
