"""From a registry's answer to the error that says what to do about it.

The tree, below the kinds of :mod:`lamina.errors`::

    Denied        Unauthorized, AccessDenied, RegistryRefused
    NotFound      RepositoryNotFound, ManifestNotFound (both NameNotFound), RemoteBlobNotFound
    Unavailable   RegistryUnavailable (TooManyRequests), UnexpectedAnswer, RegistryUntrusted

Those that are about an answer carry the registry's own error ``codes``.
"""

from __future__ import annotations

from enum import Enum, auto

from lamina.content.store import BlobNotFound, NameNotFound
from lamina.errors import Denied, LaminaError, Unavailable, Unsupported
from lamina.http.message import NotTls, Response, TransportFailure, UntrustedCertificate
from lamina.registry.protocol import (
    MAX_ERROR_BODY,
    ErrorDetail,
    media_type_of,
    parse_errors,
    parse_retry_after,
)
from lamina.values import dataclass

BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Unauthorized(Denied):
    codes: tuple[str, ...] = ()


class AccessDenied(Denied):
    codes: tuple[str, ...] = ()


class RegistryRefused(Denied):
    """The registry understood, and will not: a manifest it calls invalid, a quota, a policy."""

    codes: tuple[str, ...] = ()


class RegistryUnsupported(Unsupported):
    """The registry does not offer this: deletion, for instance, or a page that is not there."""

    codes: tuple[str, ...] = ()


class RepositoryNotFound(NameNotFound):
    codes: tuple[str, ...] = ()


class ManifestNotFound(NameNotFound):
    codes: tuple[str, ...] = ()


class RemoteBlobNotFound(BlobNotFound):
    codes: tuple[str, ...] = ()


class RegistryUnavailable(Unavailable):
    codes: tuple[str, ...] = ()
    http_status = 0


class TooManyRequests(RegistryUnavailable):
    pass


class UnexpectedAnswer(Unavailable):
    """The other side answers, but not as a registry does."""


class RegistryUntrusted(Unavailable):
    pass


class Kind(Enum):
    MANIFEST = auto()
    BLOB = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class About:
    """What a request is about, for the error that it may become."""

    registry: str
    subject: str
    kind: Kind = Kind.OTHER


def read_error_body(response: Response) -> bytes:
    """At most what an error needs; a body that fails to arrive is no body."""
    try:
        with response:
            return response.read(MAX_ERROR_BODY)
    except TransportFailure:
        return b""


def failure(about: About, response: Response, *, is_known: bool, trouble: str = "") -> LaminaError:
    """``is_known`` says that credentials were sent; ``trouble`` why there were none. Closes the response."""
    body = read_error_body(response)
    details = parse_errors(body)
    status = response.status
    error: LaminaError
    if status in BUSY or status >= 500:
        return unavailable(about.registry, response, body)
    if status == 401:
        error = _unauthorized(about, is_known)
    elif status == 403:
        error = AccessDenied(f"{about.subject}: access denied{_said(details)}")
    elif media_type_of(response.headers) == "text/html":
        return web_page(about.registry, status)
    elif status == 404:
        error = _not_found(about, details)
    elif status == 405 or "UNSUPPORTED" in {detail.code for detail in details}:
        error = RegistryUnsupported(f"{about.subject}: not supported by {about.registry}{_said(details)}")
    elif 400 <= status < 500:
        error = RegistryRefused(f"{about.subject}: refused by {about.registry} ({status}){_said(details)}")
    else:
        return UnexpectedAnswer(f"{about.registry}: unexpected status {status} for {about.subject}")
    error.codes = tuple(detail.code for detail in details)  # type: ignore[attr-defined]  # all of them have it
    if trouble:
        error.add_note(f"credentials could not be read: {trouble}")
    return error


def unavailable(registry: str, response: Response, body: bytes) -> RegistryUnavailable:
    details = parse_errors(body)
    if response.status == 429:
        error: RegistryUnavailable = TooManyRequests(f"{registry}: too many requests (429){_said(details)}")
    else:
        error = RegistryUnavailable(f"{registry}: unavailable ({response.status}){_said(details)}")
    error.codes = tuple(detail.code for detail in details)
    error.http_status = response.status
    error.retry_after = parse_retry_after(
        response.headers.get("Retry-After", ""), response.headers.get("Date", "")
    )
    return error


def token_refused(
    registry: str, server: str, response: Response, body: bytes, *, is_known: bool
) -> LaminaError:
    """A token server's answer that is not a token."""
    if response.status in BUSY or response.status >= 500:
        return unavailable(f"{server} (token server of {registry})", response, body)
    said = "the credentials were refused" if is_known else "no token without credentials"
    error = Unauthorized(
        f"{registry}: {said} ({response.status} from {server}); try `lamina login {registry}`"
    )
    error.codes = tuple(detail.code for detail in parse_errors(body))
    return error


def web_page(registry: str, status: int) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"{registry}: answered with a web page ({status}), not as a registry; is it one?")


def advised(registry: str, error: TransportFailure) -> LaminaError:
    """A failed connection, with what the user can do about it where there is something."""
    listing = f"list {registry} in insecure-registries"
    if isinstance(error, UntrustedCertificate):
        return RegistryUntrusted(
            f"{error}; put its authority's certificate into certs.d/{registry}/ca.crt, or {listing}"
        )
    if isinstance(error, NotTls):
        return RegistryUntrusted(f"{error}; {listing} to allow plain HTTP")
    return error


def _unauthorized(about: About, is_known: bool) -> Unauthorized:
    login = f"`lamina login {about.registry}`"
    if is_known:
        return Unauthorized(
            f"{about.subject}: the credentials for {about.registry} are not enough for this; try {login}"
        )
    return Unauthorized(f"{about.subject}: no such repository, or {login} is needed first")


def _not_found(about: About, details: tuple[ErrorDetail, ...]) -> LaminaError:
    codes = {detail.code for detail in details}
    if "NAME_UNKNOWN" in codes:
        return RepositoryNotFound(f"{about.subject}: no such repository on {about.registry}")
    if about.kind is Kind.BLOB:
        return RemoteBlobNotFound(f"{about.subject}: not on {about.registry}")
    if about.kind is Kind.MANIFEST:
        return ManifestNotFound(f"{about.subject}: no such tag or manifest on {about.registry}")
    return RepositoryNotFound(f"{about.subject}: not found on {about.registry}{_said(details)}")


def _said(details: tuple[ErrorDetail, ...]) -> str:
    return f": {'; '.join(str(detail) for detail in details)}" if details else ""
