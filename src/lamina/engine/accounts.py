"""Registries as the settings describe them: connections, trust, credentials; login and logout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.engine.settings import Settings
from lamina.errors import InvalidInput
from lamina.events import Report
from lamina.http.proxy import ProxyRules
from lamina.http.transport import HttpTransport
from lamina.http.trust import SystemAuthorities
from lamina.oci.reference import DEFAULT_REGISTRY
from lamina.registry.configuration import RegistriesConf
from lamina.registry.credentials import Credential, CredentialFiles
from lamina.registry.hosts import RegistrySettings
from lamina.registry.remote import RegistryClient
from lamina.registry.retry import Patience

if TYPE_CHECKING:
    from lamina.engine.engine import Engine


def open_transport(settings: Settings) -> HttpTransport:
    """The caller closes it."""
    return HttpTransport(
        authorities=SystemAuthorities(
            ca_file=str(settings.ca_file or ""),
            ca_directories=(str(settings.ca_directory),) if settings.ca_directory else (),
        ),
        proxies=ProxyRules.parse(
            http=settings.proxies.http, https=settings.proxies.https, no_proxy=settings.proxies.no_proxy
        ),
    )


def open_registries(settings: Settings, report: Report) -> tuple[RegistryClient, Callable[[], None]]:
    """The client, and what closes its connections."""
    transport = open_transport(settings)
    registries = RegistrySettings(
        conf=RegistriesConf.load(settings.registries_conf),
        mirrors=settings.registry_mirrors,
        insecure=settings.insecure_registries,
        certificate_directories=settings.certs_directories,
        max_attempts=settings.max_download_attempts,
    )
    client = RegistryClient(
        transport, registries, credential_files(settings),
        patience=Patience(attempts=settings.max_download_attempts, report=report),
    )
    return client, transport.close


def credential_files(settings: Settings) -> CredentialFiles:
    docker = [settings.docker_config / "config.json"] if settings.docker_config else []
    return CredentialFiles([*docker, *settings.auth_files])


def login(engine: Engine, registry: str, username: str, secret: str) -> str:
    """Nothing is stored that the registry did not accept."""
    host = registry_host(registry)
    if not username or not secret:
        raise InvalidInput(f"{host}: a login needs a user name and a password")
    accepted = engine.registries.sign_in(host, Credential(username=username, secret=secret))
    return str(credential_files(engine.settings).store(host, accepted))


def logout(engine: Engine, registry: str) -> bool:
    return credential_files(engine.settings).erase(registry_host(registry))


def registry_host(text: str) -> str:
    """People give URLs here, as docker's documentation long did."""
    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in ("", "index.docker.io", "registry-1.docker.io") else host
