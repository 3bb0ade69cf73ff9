"""Whom a TLS connection believes, as a value, and the context made from it.

TLS 1.2 is the floor (RFC 8996 retired what came before).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.errors import InvalidInput
from lamina.values import dataclass

if TYPE_CHECKING:
    import ssl

# Where distributions keep their bundle, for interpreters whose OpenSSL was built to look elsewhere
# (Go's crypto/x509/root_linux.go keeps the same list).
_KNOWN_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class UnusableCertificate(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """``ca_files`` and ``ca_directories`` are believed beside the system's own authorities.

    ``client_certificates`` are pairs of certificate file and key file. With ``verify`` off the
    connection is encrypted to whoever answered, and no more can be said of it.
    """

    verify: bool = True
    ca_files: tuple[str, ...] = ()
    ca_directories: tuple[str, ...] = ()
    client_certificates: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemAuthorities:
    """What SSL_CERT_FILE and SSL_CERT_DIR say; where they say nothing, what the system ships."""

    ca_file: str = ""
    ca_directories: tuple[str, ...] = ()


def make_context(trust: Trust, system: SystemAuthorities) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - 12 ms that plain HTTP need not pay

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _load_system(context, system)
    for file in trust.ca_files:
        _load(context, file, "")
    for directory in trust.ca_directories:
        _load(context, "", directory)
    for certificate, key in trust.client_certificates:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:
            raise UnusableCertificate(f"{certificate}: not a usable client certificate ({error})") from None
    return context


def _load_system(context: ssl.SSLContext, system: SystemAuthorities) -> None:
    if system.ca_file or system.ca_directories:
        if system.ca_file:
            _load(context, system.ca_file, "")
        for directory in system.ca_directories:
            _load(context, "", directory)
        return
    context.load_default_certs()
    if not context.get_ca_certs():
        for bundle in _KNOWN_BUNDLES:
            if os.path.isfile(bundle):
                _load(context, bundle, "")
                return


def _load(context: ssl.SSLContext, file: str, directory: str) -> None:
    try:
        context.load_verify_locations(cafile=file or None, capath=directory or None)
    except (OSError, ValueError) as error:
        raise UnusableCertificate(f"{file or directory}: no usable CA certificates in it ({error})") from None
