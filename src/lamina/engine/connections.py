"""Connections as the settings want them: to registries, and to whatever else something is fetched from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamina.engine.settings import Settings
from lamina.events import Report
from lamina.http.proxy import ProxyRules
from lamina.http.transport import HttpTransport
from lamina.http.trust import SystemAuthorities
from lamina.registry.configuration import RegistriesConf
from lamina.registry.credentials import CredentialFiles
from lamina.registry.hosts import RegistrySettings
from lamina.registry.remote import RegistryClient
from lamina.registry.retry import Patience

if TYPE_CHECKING:
    pass


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
