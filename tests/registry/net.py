"""A network made small: hosts in a dictionary, each an application, and a record of what was sent."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from lamina.events import Event
from lamina.http.message import BrokenConnection, Request, Response, UnknownHost, split_url
from lamina.oci.descriptor import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor
from lamina.oci.digest import Digest
from lamina.oci.manifest import Manifest
from lamina.registry.credentials import GivenCredentials
from lamina.registry.hosts import RegistrySettings
from lamina.registry.remote import RegistryClient
from lamina.registry.retry import Patience

App = Callable[[Request], Response]


@dataclass
class Net:
    """Keys are origins (``https://registry.example``). Whoever is not here is an unknown host."""

    hosts: dict[str, App] = field(default_factory=dict)
    sent: list[Request] = field(default_factory=list)

    def send(self, request: Request) -> Response:
        origin, _ = split_url(request.url)
        self.sent.append(request)
        if str(origin) not in self.hosts:
            raise UnknownHost(f"{origin.host}: no such host")
        response = self.hosts[str(origin)](request)
        if request.method == "HEAD":
            return Response(response.status, response.headers)
        return response

    def close(self) -> None:
        pass

    def lines(self) -> list[str]:
        return [f"{request.method} {request.url}" for request in self.sent]

    def authorizations(self) -> list[tuple[str, str]]:
        """Which host was sent which Authorization header."""
        return [
            (split_url(request.url)[0].authority, request.headers["Authorization"])
            for request in self.sent if "Authorization" in request.headers
        ]


class Script:
    """An application that gives its answers in turn, and the last of them for ever."""

    def __init__(self, *answers: Response | App) -> None:
        self._answers = list(answers)
        self.seen: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.seen.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Response):
            # The last one is given again: with a body of its own each time.
            if not isinstance(answer.stream, io.BytesIO):
                return answer
            data = answer.stream.getvalue()
            return Response(answer.status, answer.headers, data)
        return answer(request)


@dataclass
class Waits:
    """A patience that does not wait, and remembers how long it would have."""

    seconds: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def patience(self, attempts: int = 5) -> Patience:
        return Patience(attempts=attempts, report=self.events.append, pause=self.seconds.append, chance=lambda: 0.5)


class Falling:
    """A body that breaks off after some bytes, as a connection does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        if chunk := self._data.read(size):
            return chunk
        raise BrokenConnection("the connection broke off")

    def close(self) -> None:
        pass


def falling(data: bytes) -> BinaryIO:
    return cast("BinaryIO", Falling(data))


def answer(status: int, body: bytes = b"", **headers: str) -> Response:
    about = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Response(status, about, body)


def refusal(status: int, code: str, message: str = "", **headers: str) -> Response:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return answer(status, body, Content_Type="application/json", **headers)


def client(
    net: Net,
    settings: RegistrySettings | None = None,
    credentials: Mapping[str, object] | None = None,
    waits: Waits | None = None,
    attempts: int = 5,
    clock: Callable[[], float] | None = None,
) -> RegistryClient:
    options = {"clock": clock} if clock else {}
    return RegistryClient(
        net, settings, GivenCredentials(credentials or {}),  # type: ignore[arg-type]
        patience=(waits or Waits()).patience(attempts), **options,  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Sample:
    """An image of one layer, and its parts."""

    layer: Descriptor
    layer_bytes: bytes
    config: Descriptor
    config_bytes: bytes
    manifest: Manifest

    def blobs(self) -> Iterator[tuple[Descriptor, bytes]]:
        yield self.layer, self.layer_bytes
        yield self.config, self.config_bytes


def blob(data: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))


def sample(seed: bytes = b"layer", size: int = 1000) -> Sample:
    layer_bytes = (seed * (size // len(seed) + 1))[:size]
    config_bytes = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["%s"]}}' % (
        Digest.of(layer_bytes).encode()
    )
    layer, config = blob(layer_bytes), blob(config_bytes, OCI_CONFIG)
    return Sample(layer, layer_bytes, config, config_bytes, Manifest.build(config, [layer]))
