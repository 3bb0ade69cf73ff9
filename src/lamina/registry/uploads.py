"""Uploads that a served registry has open: each holds an ingest until it is finished, or forgotten.

An ingest cannot be resumed by name, so it stays open here between requests; a session that nobody
touches for a while is discarded, and there are never more than a fixed number of them.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lamina.content.store import Ingest
from lamina.registry.protocol import ApiError, UploadState
from lamina.values import dataclass, field

LIFETIME = 3600.0
MAX_OPEN = 256


@dataclass(slots=True)
class OpenUpload:
    repository: str
    ingest: Ingest
    touched: float
    state: UploadState = field(default_factory=UploadState)
    is_busy: bool = False


class Uploads:
    """Safe for threads. Identifiers are looked up here and never become part of a path."""

    def __init__(self, clock: Callable[[], float], lifetime: float = LIFETIME, limit: int = MAX_OPEN) -> None:
        self._clock = clock
        self._lifetime = lifetime
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[str, OpenUpload] = {}

    def open(self, repository: str, ingest: Callable[[], Ingest]) -> str:
        self._forget_stale()
        with self._lock:
            if len(self._open) >= self._limit:
                raise ApiError("TOOMANYREQUESTS", "too many uploads are open", headers={"Retry-After": "30"})
        upload = OpenUpload(repository, ingest().__enter__(), self._clock())
        identifier = secrets.token_hex(16)
        with self._lock:
            self._open[identifier] = upload
        return identifier

    @contextmanager
    def claim(self, repository: str, identifier: str) -> Iterator[OpenUpload]:
        """The session for one request; another one meanwhile is asked to come back.

        That other one may be a client that asks how far it got before we noticed that it was cut off.
        """
        with self._lock:
            upload = self._open.get(identifier)
            if upload is None or upload.repository != repository:
                raise ApiError("BLOB_UPLOAD_UNKNOWN", "no such upload")
            if upload.is_busy:
                again = {"Retry-After": "1"}
                raise ApiError("TOOMANYREQUESTS", "another request is writing to this upload", headers=again)
            upload.is_busy = True
        try:
            yield upload
        finally:
            with self._lock:
                upload.is_busy = False
                upload.touched = self._clock()

    def discard(self, identifier: str) -> None:
        """What was not committed is gone."""
        with self._lock:
            upload = self._open.pop(identifier, None)
        if upload is not None:
            upload.ingest.__exit__(None, None, None)

    def close(self) -> None:
        with self._lock:
            identifiers = list(self._open)
        for identifier in identifiers:
            self.discard(identifier)

    def _forget_stale(self) -> None:
        before = self._clock() - self._lifetime
        with self._lock:
            stale = [key for key, item in self._open.items() if item.touched < before and not item.is_busy]
            uploads = [self._open.pop(key) for key in stale]  # under the lock: nobody can claim them now
        for upload in uploads:
            upload.ingest.__exit__(None, None, None)
