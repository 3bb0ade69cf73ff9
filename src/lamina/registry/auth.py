"""Answering challenges: basic credentials, and bearer tokens from a registry's token server.

Which answer is right is decided on values (:func:`parse_challenges`, :func:`merge_scopes`,
:func:`token_request`); :class:`Authorizer` carries the requests out and remembers tokens.

SECURITY: what we send depends on who asked. Only the origin that an endpoint names is ever answered;
a token server must speak TLS unless the user allowed plain HTTP for it; nothing is sent in the clear
to hosts that were not so allowed (CVE-2020-15157 and its relatives).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from lamina.errors import Denied, LaminaError
from lamina.http.message import InvalidUrl, Origin, Request, Transport, TransportFailure, split_url
from lamina.http.trust import Trust
from lamina.registry.credentials import Credential, CredentialSource
from lamina.registry.failures import advised, token_refused
from lamina.registry.hosts import Endpoint, RegistrySettings
from lamina.registry.protocol import ProtocolViolation
from lamina.values import dataclass, field

CLIENT_ID = "lamina"
_MAX_CHALLENGE = 16 << 10
_MAX_PARAMETERS = 64
_MAX_TOKEN_ANSWER = 256 << 10
# distribution's token spec: a token without expires_in is good for 60 seconds.
_DEFAULT_LIFETIME = 60.0
_LONGEST_LIFETIME = 86_400.0
_SENDABLE = re.compile(r"[!-~]{1,65536}")
_SCOPE = re.compile(r"[!-~ ]{1,2048}")


class RealmRefused(Denied):
    pass


# --- Values ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def without_scope(self) -> Challenge:
        """What holds for the whole registry, and not only for the request that was challenged."""
        kept = {name: value for name, value in self.parameters.items() if name in {"realm", "service"}}
        return Challenge(self.scheme, kept)


# RFC 9110 section 11.6.1. A scheme is a token followed by a space or the end; a parameter has "=".
_PIECE = re.compile(
    r"""[\s,]*(?:
        (?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s,"]+))
      | (?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=[\s,]|$)
    )""",
    re.VERBOSE,
)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge that can be read; what follows something unreadable is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        text, position = header[:_MAX_CHALLENGE], 0
        for _ in range(_MAX_PARAMETERS):
            match = _PIECE.match(text, position)
            if match is None:
                break
            position = match.end()
            if match["scheme"]:
                found.append((match["scheme"].lower(), {}))
            elif found:
                quoted = match["quoted"]
                value = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1].setdefault(match["name"].lower(), value)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def repository_scope(repository: str, *actions: str) -> str:
    return f"repository:{repository}:{','.join(actions)}"


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """One scope a resource, actions united, in an order that does not depend on how we got here."""
    resources: dict[str, set[str]] = {}
    for scope in scopes:
        if not scope or _SCOPE.fullmatch(scope) is None:
            continue
        resource, colon, actions = scope.rpartition(":")
        if colon:
            resources.setdefault(resource, set()).update(actions.split(","))
    return tuple(f"{resource}:{','.join(sorted(actions))}" for resource, actions in sorted(resources.items()))


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    lifetime: float
    refresh: str = field(default="", repr=False)


def parse_token(body: bytes) -> Token:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolViolation("the token server's answer is not JSON") from None
    if not isinstance(document, dict):
        raise ProtocolViolation("the token server's answer is not a JSON object")
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or _SENDABLE.fullmatch(value) is None:
        raise ProtocolViolation("the token server's answer holds no usable token")
    lifetime = document.get("expires_in")
    if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or lifetime <= 0:
        lifetime = _DEFAULT_LIFETIME
    refresh = document.get("refresh_token")
    return Token(value, float(min(lifetime, _LONGEST_LIFETIME)), refresh if isinstance(refresh, str) else "")


def token_request(
    challenge: Challenge,
    scopes: tuple[str, ...],
    credential: Credential | None,
    *,
    wants_identity: bool = False,
    trust: Trust,
) -> Request:
    """distribution's token authentication, and for identity tokens its OAuth 2.0 form."""
    realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
    if credential is not None and credential.is_identity_token:
        return _oauth_request(realm, service, scopes, trust, {
            "grant_type": "refresh_token", "refresh_token": credential.secret,
        })
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    headers = {}
    if credential is not None:
        query.append(("account", credential.username))
        headers["Authorization"] = credential.basic
        if wants_identity:
            query += [("client_id", CLIENT_ID), ("offline_token", "true")]
    separator = "&" if "?" in realm else "?"
    url = realm + (separator + urlencode(query) if query else "")
    return Request(method="GET", url=url, headers=headers, trust=trust)


def password_request(
    challenge: Challenge, scopes: tuple[str, ...], credential: Credential, *, trust: Trust
) -> Request:
    """The OAuth form for a password: for token servers that know no other."""
    realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
    return _oauth_request(realm, service, scopes, trust, {
        "grant_type": "password", "username": credential.username, "password": credential.secret,
        "access_type": "offline",
    })


def _oauth_request(
    realm: str, service: str, scopes: tuple[str, ...], trust: Trust, form: dict[str, str]
) -> Request:
    form = {**form, "service": service, "client_id": CLIENT_ID, "scope": " ".join(scopes)}
    return Request(
        method="POST", url=realm, trust=trust, body=urlencode(form).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


# --- Carrying it out ------------------------------------------------------------------------------


@dataclass(slots=True)
class _Kept:
    header: str = field(repr=False)
    until: float


class Authorizer:
    """Authorization headers for endpoints, fetched when challenged and kept while they are good.

    Safe for threads: of several that meet the same challenge, one fetches and the others wait.
    """

    def __init__(
        self,
        transport: Transport,
        settings: RegistrySettings,
        credentials: CredentialSource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._challenges: dict[str, Challenge] = {}
        self._kept: dict[tuple[str, str, tuple[str, ...]], _Kept] = {}
        self._found: dict[tuple[str, str], tuple[Credential | None, str]] = {}

    def header_for(self, endpoint: Endpoint, scopes: tuple[str, ...]) -> str | None:
        """What to send without being asked: a kept answer, or a fresh token where we know the server."""
        with self._lock:
            challenge = self._challenges.get(endpoint.host)
            kept = self._kept.get(self._key(endpoint, scopes))
        if kept is not None and self._clock() < kept.until:
            return kept.header
        return None if challenge is None else self._answered(endpoint, challenge, scopes, None)

    def answer(
        self,
        endpoint: Endpoint,
        origin: Origin,
        headers: Iterable[str],
        scopes: tuple[str, ...],
        refused: str | None,
    ) -> str | None:
        """The header for a request that met a 401; ``None`` if nothing new can be said.

        ``refused`` is the header that the request carried.
        """
        challenge = _preferred(parse_challenges(headers))
        if challenge is None:
            return None
        if challenge.scheme == "bearer":
            self._check_realm(endpoint, origin, challenge.parameters.get("realm", ""))
        elif origin.scheme == "http" and not endpoint.permits_plain:
            return None
        return self._answered(endpoint, challenge, scopes, refused)

    def trouble(self, endpoint: Endpoint) -> str:
        """Why credentials could not be had, for a message about their absence."""
        with self._lock:
            return self._found.get((endpoint.registry, endpoint.repository), (None, ""))[1]

    def has_credentials(self, endpoint: Endpoint) -> bool:
        return self._credential(endpoint) is not None

    def sign_in(
        self, endpoint: Endpoint, origin: Origin, headers: Iterable[str], given: Credential
    ) -> Credential:
        """Tries credentials on a registry's challenge; gives what should be stored.

        Some token servers hand out an identity token in return, which is then kept in place of the
        password. A basic challenge proves nothing here: the caller repeats its request with
        ``basic``.
        """
        challenge = _preferred(parse_challenges(headers))
        if challenge is None:
            raise ProtocolViolation(f"{endpoint.host}: asks for credentials in no way that is supported")
        if challenge.scheme != "bearer":
            return given
        self._check_realm(endpoint, origin, challenge.parameters.get("realm", ""))
        token = self._fetch(endpoint, challenge, (), given, wants_identity=True)
        if token.refresh and not given.is_identity_token:
            return Credential(username="<token>", secret=token.refresh)
        return given

    def _answered(
        self, endpoint: Endpoint, challenge: Challenge, scopes: tuple[str, ...], refused: str | None
    ) -> str | None:
        key = self._key(endpoint, scopes)
        with self._fetch_lock(endpoint.host):
            with self._lock:
                kept = self._kept.get(key)
            if kept is not None and self._clock() < kept.until and kept.header != refused:
                return kept.header  # another thread was here meanwhile
            fresh = self._fresh(endpoint, challenge, scopes)
            if fresh is None or fresh.header == refused:
                return None
            with self._lock:
                self._challenges[endpoint.host] = challenge.without_scope()
                self._kept[key] = fresh
            return fresh.header

    def _fresh(self, endpoint: Endpoint, challenge: Challenge, scopes: tuple[str, ...]) -> _Kept | None:
        credential = self._credential(endpoint)
        if credential is not None and credential.registry_token:
            return _Kept(f"Bearer {credential.registry_token}", float("inf"))
        if challenge.scheme == "basic":
            if credential is None or credential.is_identity_token:
                return None
            return _Kept(credential.basic, float("inf"))
        wanted = merge_scopes((*scopes, *challenge.parameters.get("scope", "").split(" ")))
        token = self._fetch(endpoint, challenge, wanted, credential)
        # A little early: the token also has to arrive.
        return _Kept(f"Bearer {token.value}", self._clock() + token.lifetime * 0.9)

    def _fetch(
        self,
        endpoint: Endpoint,
        challenge: Challenge,
        scopes: tuple[str, ...],
        credential: Credential | None,
        *,
        wants_identity: bool = False,
    ) -> Token:
        origin, _ = split_url(challenge.parameters["realm"])
        is_own_host = origin.authority == endpoint.host
        trust = endpoint.trust if is_own_host else self._settings.trust_for(origin)
        request = token_request(challenge, scopes, credential, wants_identity=wants_identity, trust=trust)
        try:
            response = self._transport.send(request)
            if response.status in {404, 405} and request.method == "GET" and credential is not None:
                response.close()
                response = self._transport.send(password_request(challenge, scopes, credential, trust=trust))
            with response:
                body = response.read_document(_MAX_TOKEN_ANSWER)
        except TransportFailure as error:
            raise advised(origin.authority, error) from None
        if response.status != 200:
            is_known = credential is not None
            raise token_refused(endpoint.registry, origin.host, response, body, is_known=is_known)
        return parse_token(body)

    def _check_realm(self, endpoint: Endpoint, origin: Origin, realm: str) -> None:
        try:
            server, _ = split_url(realm)
        except InvalidUrl as error:
            raise ProtocolViolation(f"{endpoint.host}: its token server is no URL: {error}") from None
        if server.scheme == "https":
            return
        is_allowed = server.authority == endpoint.host or self._settings.permits_plain(server.authority)
        if origin.scheme != "http" or not endpoint.permits_plain or not is_allowed:
            raise RealmRefused(
                f"{endpoint.host}: sends us to {server} for a token, which is not encrypted; "
                f"list {server.authority} in insecure-registries if that is meant"
            )

    def _credential(self, endpoint: Endpoint) -> Credential | None:
        """Looked up once for each repository. A helper that fails leaves us anonymous, with a reason.

        A mirror that was given as ``http://`` may be read in plain; that is no leave to sign in.
        """
        if endpoint.schemes == ("http",) and not self._settings.permits_plain(endpoint.host):
            return None
        key = (endpoint.registry, endpoint.repository)
        with self._lock:
            if key in self._found:
                return self._found[key][0]
        trouble = ""
        try:
            found = self._credentials.find(*key)
        except LaminaError as error:
            found, trouble = None, str(error)
        with self._lock:
            self._found[key] = (found, trouble)
        return found

    def _fetch_lock(self, host: str) -> threading.Lock:
        with self._lock:
            return self._fetching.setdefault(host, threading.Lock())

    @staticmethod
    def _key(endpoint: Endpoint, scopes: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
        return endpoint.host, endpoint.repository, scopes


def _preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """Bearer before basic: a token says less than a password."""
    known = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
    bearer = known.get("bearer")
    if bearer is not None and bearer.parameters.get("realm"):
        return bearer
    return known.get("basic")
