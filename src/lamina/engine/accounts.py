"""Registries as the settings describe them: connections, trust, credentials; login and logout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.connections import credential_files
from lamina.errors import InvalidInput
from lamina.oci.reference import DEFAULT_REGISTRY
from lamina.registry.credentials import Credential

if TYPE_CHECKING:
    from lamina.engine.core import Core


def login(engine: Core, registry: str, username: str, secret: str) -> str:
    """Nothing is stored that the registry did not accept."""
    host = registry_host(registry)
    if not username or not secret:
        raise InvalidInput(f"{host}: a login needs a user name and a password")
    accepted = engine.registries.sign_in(host, Credential(username=username, secret=secret))
    return str(credential_files(engine.settings).store(host, accepted))


def logout(engine: Core, registry: str) -> bool:
    return credential_files(engine.settings).erase(registry_host(registry))


def registry_host(text: str) -> str:
    """People give URLs here, as docker's documentation long did."""
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in ("", "index.docker.io", "registry-1.docker.io") else host
