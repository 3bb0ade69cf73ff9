"""An engine on a fresh state directory with the driver that works everywhere, and a registry on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.events import Event
from lamina.http.message import Request, Response
from lamina.http.server import serve
from lamina.registry.server import RegistryApp
from lamina.testing.registry import MemoryProvider, MemoryRepository


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def open_engine(tmp_path: Path, events: list[Event]) -> Iterator[Callable[..., Engine]]:
    """``open_engine(name)``: engines on state directories of their own, closed afterwards."""
    opened = []

    def make(name: str = "root") -> Engine:
        settings = Settings.load(
            {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "LAMINA_STORAGE_DRIVER": "vfs"},
            system=tmp_path / "etc",
        )
        engine = Engine.open(tmp_path / name, settings=settings, report=events.append)
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


@pytest.fixture
def engine(open_engine: Callable[..., Engine]) -> Engine:
    return open_engine()


class Registry:
    """A registry in memory behind a real socket. ``twist`` may change what it answers."""

    def __init__(self) -> None:
        self.provider = MemoryProvider()
        self.twist: Callable[[Request, Response], Response] | None = None
        self.requests: list[tuple[str, str]] = []
        self._app = RegistryApp(self.provider)
        self._server = serve(self._answer)
        self.host = self._server.url.removeprefix("http://")

    def repository(self, name: str) -> MemoryRepository:
        return self.provider.repository(name)

    def close(self) -> None:
        self._server.close(patience=0.2)

    def _answer(self, request: Request) -> Response:
        self.requests.append((request.method, request.url))
        response = self._app(request)
        return self.twist(request, response) if self.twist else response


@pytest.fixture
def registry() -> Iterator[Registry]:
    running = Registry()
    yield running
    running.close()
