"""Files and contexts from the web: ``ADD https://…`` and ``build https://…``.

SECURITY: http and https only, after every redirect too (``file:`` and its kin would read what is here),
never from https to http, nor to a cloud's metadata service (link-local addresses); no more bytes than
allowed, and nothing is used before its checksum was compared.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from typing import BinaryIO
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from lamina.build.failure import printable
from lamina.errors import Denied, IntegrityError, InvalidInput, NotFound, Unavailable
from lamina.http.message import InvalidUrl, Request, Response, Transport, split_url
from lamina.http.proxy import as_address
from lamina.oci.digest import Digest, Digester
from lamina.values import dataclass, field

MAX_REDIRECTS = 10
DEFAULT_LIMIT = 16 << 30
_CHUNK = 1 << 20
_OURS = "sha256"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f/]")
_MAX_NAME = 255  # NAME_MAX
_MAX_VALIDATOR = 1024


class RemoteUnavailable(Unavailable):
    pass


class RemoteNotFound(NotFound):
    pass


class RedirectRefused(Denied):
    pass


class ChecksumMismatch(IntegrityError):
    pass


class TooLong(InvalidInput):
    pass


@dataclass(frozen=True, slots=True)
class Seen:
    """What was learned of a URL: its content's digest, and what tells whether that is still so."""

    digest: Digest
    etag: str = ""
    last_modified: str = ""
    name: str = ""

    @property
    def mtime(self) -> int | None:
        """Seconds since the epoch, where the server said so."""
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 - of little use to a build without URLs

        try:
            return int(parsedate_to_datetime(self.last_modified).timestamp())
        except (ValueError, TypeError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class Fetched:
    """``is_unchanged``: nothing was written, what was seen before is still right."""

    seen: Seen
    size: int
    is_unchanged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A web address that is asked for. ``headers`` go to its own origin and no other."""

    transport: Transport
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    limit: int = DEFAULT_LIMIT
    user_agent: str = "lamina"

    def fetch(
        self, url: str, out: BinaryIO, *, checksum: Digest | None = None, seen: Seen | None = None
    ) -> Fetched:
        """Writes the content to ``out``, which is the caller's to throw away when this fails.

        With ``seen`` the server is asked whether that still holds. Raises :class:`ChecksumMismatch`,
        :class:`TooLong`, :class:`RemoteNotFound`, :class:`RemoteUnavailable`, :class:`RedirectRefused`,
        ``InvalidUrl``, and what the transport does.
        """
        url = urldefrag(url).url
        if seen is not None and checksum is not None and checksum != seen.digest:
            seen = None
        with self._follow(url, seen) as response:
            if response.status == 304 and seen is not None:
                return Fetched(seen, 0, is_unchanged=True)
            if response.status != 200:
                raise _refusal(url, response.status)
            digest, size = self._copy(url, response, out, checksum)
            headers = response.headers
        etag, modified = (headers.get(name, "")[:_MAX_VALIDATOR] for name in ("ETag", "Last-Modified"))
        found = Seen(digest, etag, modified, file_name(url, headers))
        return Fetched(found, size, is_unchanged=seen is not None and seen.digest == digest)

    def _follow(self, url: str, seen: Seen | None) -> Response:
        origin, _target = split_url(url)
        where = url
        for _hop in range(MAX_REDIRECTS + 1):
            own = self.headers if split_url(where)[0] == origin else {}
            asked = {"User-Agent": self.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
            response = self.transport.send(
                Request(method="GET", url=where, headers=asked | dict(own) | _conditions(seen))
            )
            if response.status not in _REDIRECTS:
                return response
            response.close()
            where = _redirected(where, response.headers.get("Location", ""))
        raise RedirectRefused(f"{_shown(url)}: more than {MAX_REDIRECTS} redirects")

    def _copy(
        self, url: str, response: Response, out: BinaryIO, checksum: Digest | None
    ) -> tuple[Digest, int]:
        announced = response.content_length
        if announced is not None and announced > self.limit:
            raise TooLong(f"{_shown(url)}: announces {announced} bytes, and {self.limit} are allowed")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RemoteUnavailable(f"{_shown(url)}: sent compressed, although it was asked not to")
        theirs = _OURS if checksum is None else checksum.algorithm
        digesters = [Digester(name) for name in dict.fromkeys((_OURS, theirs))]
        size = 0
        while chunk := response.read(_CHUNK):
            size += len(chunk)
            if size > self.limit:
                raise TooLong(f"{_shown(url)}: longer than the {self.limit} bytes that are allowed")
            for digester in digesters:
                digester.update(chunk)
            out.write(chunk)
        if checksum is not None and digesters[-1].digest() != checksum:
            raise ChecksumMismatch(f"{_shown(url)}: expected {checksum}, got {digesters[-1].digest()}")
        return digesters[0].digest(), size


def file_name(url: str, headers: Mapping[str, str]) -> str:
    """What a file is called where the destination does not say: by the server, or by the URL; or ``""``."""
    from email.message import Message  # noqa: PLC0415 - of little use to a build without URLs

    described = Message()
    if "Content-Disposition" in headers:
        described["Content-Disposition"] = headers["Content-Disposition"]
    last = unquote(posixpath.basename(urlsplit(url).path), errors="surrogateescape")
    for name in (described.get_filename() or "", last):
        usable = posixpath.basename(name.replace("\\", "/"))
        if usable in ("", ".", "..") or _UNUSABLE.search(usable) or len(os.fsencode(usable)) > _MAX_NAME:
            continue
        return usable
    return ""


def _conditions(seen: Seen | None) -> dict[str, str]:
    """RFC 9110, 13.1: a server that knows entity tags goes by them."""
    if seen is None:
        return {}
    if seen.etag:
        return {"If-None-Match": seen.etag}
    return {"If-Modified-Since": seen.last_modified} if seen.last_modified else {}


def _redirected(where: str, location: str) -> str:
    target = urldefrag(urljoin(where, location)).url
    try:
        origin, _target = split_url(target)
    except InvalidUrl as error:
        raise RedirectRefused(f"{_shown(where)}: redirects to what is not followed: {error}") from None
    before = split_url(where)[0]
    if not location:
        raise RedirectRefused(f"{_shown(where)}: redirects, and does not say where to")
    if before.scheme == "https" and origin.scheme != "https":
        raise RedirectRefused(f"{_shown(where)}: redirects to {_shown(target)}, which is not encrypted")
    address = as_address(origin.host)
    if address is not None and address.is_link_local and origin.host != before.host:
        raise RedirectRefused(f"{_shown(where)}: redirects to {_shown(target)}, a link-local address")
    return target


def _refusal(url: str, status: int) -> RemoteNotFound | RemoteUnavailable:
    kind = RemoteNotFound if status in (404, 410) else RemoteUnavailable
    return kind(f"{_shown(url)}: answered with status {status}")


def _shown(url: str) -> str:
    """SECURITY: a query may be a signature, which is a credential."""
    return printable(url.partition("?")[0][:200])
