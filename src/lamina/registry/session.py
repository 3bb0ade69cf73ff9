"""Conversations with one endpoint: the right scheme, credentials, redirects, patience, and one error.

SECURITY: credentials go to the endpoint's own origin and nowhere else; redirects are followed by
hand, to http and https only, never from https to http, and to plain http only where the user allowed
it; challenges of other hosts are not answered.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import BinaryIO
from urllib.parse import urldefrag, urljoin

from lamina.errors import Denied, LaminaError, Unavailable
from lamina.http.message import (
    ConnectFailed,
    InvalidUrl,
    Origin,
    Request,
    Response,
    TimedOut,
    Transport,
    TransportFailure,
    UnknownHost,
    split_url,
)
from lamina.registry.auth import Authorizer
from lamina.registry.failures import (
    BUSY,
    About,
    RegistryUnavailable,
    advised,
    failure,
    read_error_body,
)
from lamina.registry.hosts import Endpoint, RegistrySettings
from lamina.registry.retry import Patience

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = frozenset({200})


class RedirectRefused(Denied):
    pass


class FreshTokenNeeded(Unavailable):
    """The registry wanted other credentials after a body was partly sent; begin again."""


class KnownHosts:
    """What was learned of hosts: how they speak, and that they are there. Shared by all sessions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._probing: dict[str, threading.Lock] = {}
        self._schemes: dict[str, str] = {}
        self._answered: set[str] = set()

    def scheme(self, host: str) -> str | None:
        with self._lock:
            return self._schemes.get(host)

    def learn_scheme(self, host: str, scheme: str) -> None:
        with self._lock:
            self._schemes[host] = scheme

    def probing(self, host: str) -> threading.Lock:
        with self._lock:
            return self._probing.setdefault(host, threading.Lock())

    def has_answered(self, host: str) -> bool:
        with self._lock:
            return host in self._answered

    def learn_answered(self, host: str) -> None:
        with self._lock:
            self._answered.add(host)


class Session:
    def __init__(
        self,
        endpoint: Endpoint,
        *,
        transport: Transport,
        authorizer: Authorizer,
        settings: RegistrySettings,
        patience: Patience,
        hosts: KnownHosts,
        user_agent: str,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._transport = transport
        self._authorizer = authorizer
        self._settings = settings
        self._hosts = hosts
        self._user_agent = user_agent

    def call(
        self,
        method: str,
        target: str,
        *,
        about: About,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
        expect: frozenset[int] = _OK,
        is_repeatable: bool = True,
    ) -> Response:
        """The response, if its status is expected; otherwise the error that it means.

        ``target`` is a path, or a URL that the registry gave. A streamed body is sent once; when
        that fails in a way that may pass, the caller begins again. The caller closes the response.
        """
        attempt = 0
        is_repeatable = is_repeatable and isinstance(body, bytes | None)
        while True:
            attempt += 1
            try:
                response = self._authorised(method, target, scopes, headers or {}, body)
                if response.status in expect:
                    return response
                raise self._failure(about, response)
            except TransportFailure as error:
                may_repeat = is_repeatable and self._may_pass(error)
                if not (may_repeat and self.patience.wait(attempt, about.subject, error)):
                    raise advised(self.endpoint.registry, error) from None
            except RegistryUnavailable as error:  # the registry's own, or its token server's
                may_repeat = is_repeatable and error.http_status in BUSY
                if not (may_repeat and self.patience.wait(attempt, about.subject, error, error.retry_after)):
                    raise

    def origin(self) -> Origin:
        """Where requests go. Which scheme, where two are allowed, is found out once for each host."""
        schemes, host = self.endpoint.schemes, self.endpoint.host
        if len(schemes) == 1:
            return split_url(f"{schemes[0]}://{host}")[0]
        with self._hosts.probing(host):
            scheme = self._hosts.scheme(host)
            if scheme is None:
                scheme = self._probe(schemes, host)
                self._hosts.learn_scheme(host, scheme)
        return split_url(f"{scheme}://{host}")[0]

    def resolve(self, location: str, base: str) -> str:
        """A Location that the registry gave for an upload or a page, checked like a redirect."""
        return self._checked(urljoin(base, location), base)

    def url(self, target: str) -> str:
        return target if "://" in target else f"{self.origin()}{target}"

    def ping(self) -> Response:
        """``GET /v2/`` without credentials, whatever its status. The caller closes it."""
        try:
            return self._plain_get(self.url("/v2/"))
        except TransportFailure as error:
            raise advised(self.endpoint.registry, error) from None

    def _authorised(
        self,
        method: str,
        target: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None,
    ) -> Response:
        url, home = self.url(target), self.origin()
        sent = self._authorizer.header_for(self.endpoint, scopes)
        response, origin = self._follow(method, url, headers, body, sent)
        # Twice: a kept token may have been stale, and its replacement may need more scope.
        for _ in range(2):
            if response.status != 401 or origin != home:
                break
            challenges = response.headers.get_all("WWW-Authenticate")
            answer = self._authorizer.answer(self.endpoint, home, challenges, scopes, sent)
            if answer is None:
                break
            read_error_body(response)
            if not isinstance(body, bytes | None):
                raise FreshTokenNeeded(f"{self.endpoint.registry}: wanted fresh credentials during an upload")
            sent = answer
            response, origin = self._follow(method, url, headers, body, sent)
        return response

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None,
        authorization: str | None,
    ) -> tuple[Response, Origin]:
        """The answer, and the origin it came from."""
        home = self.origin()
        for _ in range(MAX_REDIRECTS + 1):
            origin, _ = split_url(url)
            sent = {**self._common(), **headers}
            if authorization is not None and origin == home:
                sent["Authorization"] = authorization
            trust = self.endpoint.trust if origin == home else self._settings.trust_for(origin)
            response = self._transport.send(
                Request(
                    method=method, url=url, headers=sent, body=body, trust=trust,
                    silence=self.patience.silence,
                )
            )
            if origin == home:
                self._hosts.learn_answered(self.endpoint.host)
            if response.status not in _REDIRECTS:
                return response, origin
            read_error_body(response)
            if method not in {"GET", "HEAD"} and (
                response.status not in {307, 308} or not isinstance(body, bytes | None)
            ):
                raise RedirectRefused(f"{origin.authority}: redirects a {method} ({response.status})")
            url = self._checked(urljoin(url, response.headers.get("Location", "")), url)
        raise RedirectRefused(f"{self.endpoint.host}: more than {MAX_REDIRECTS} redirects in a row")

    def _checked(self, url: str, base: str) -> str:
        url = urldefrag(url).url
        try:
            origin, _ = split_url(url)
        except InvalidUrl as error:
            raise RedirectRefused(f"{self.endpoint.host}: sends us to {error}") from None
        before, _ = split_url(base)
        if origin == before or origin.scheme == "https":
            return url
        if before.scheme == "https":
            raise RedirectRefused(f"{before.authority}: sends us to {origin}, which is not encrypted")
        if not self._settings.permits_plain(origin.authority):
            raise RedirectRefused(
                f"{before.authority}: sends us to {origin}, which is neither encrypted nor "
                "listed in insecure-registries"
            )
        return url

    def _common(self) -> dict[str, str]:
        return {"User-Agent": self._user_agent}

    def _failure(self, about: About, response: Response) -> LaminaError:
        endpoint = self.endpoint
        return failure(
            about, response,
            is_known=response.status == 401 and self._authorizer.has_credentials(endpoint),
            trouble=self._authorizer.trouble(endpoint),
        )

    def _may_pass(self, error: TransportFailure) -> bool:
        """A host that never answered is not waited for; one that did may be restarting."""
        if isinstance(error, UnknownHost):
            return error.may_pass
        is_there = self._hosts.has_answered(self.endpoint.host)
        return is_there and (error.may_pass or isinstance(error, ConnectFailed))

    def _probe(self, schemes: tuple[str, ...], host: str) -> str:
        """The first scheme that the host answers in; the first failure if it answers in none."""
        failures: list[TransportFailure] = []
        for scheme in schemes:
            try:
                response = self._plain_get(f"{scheme}://{host}/v2/")
            except (UnknownHost, TimedOut):
                raise
            except TransportFailure as error:
                failures.append(error)
                continue
            body = read_error_body(response)
            # Go's servers answer plain HTTP on a TLS port with a 400 in words, nginx with one in HTML.
            if scheme == "https" or response.status != 400 or b"HTTPS" not in body:
                return scheme
        raise failures[0]

    def _plain_get(self, url: str) -> Response:
        return self._transport.send(
            Request(
                method="GET", url=url, headers=self._common(), trust=self.endpoint.trust,
                silence=self.patience.silence,
            )
        )
