"""Which host answers for a reference, how it is spoken to, and whom it must prove itself to be.

Rules (docs/decisions/032): TLS, verified, for everybody; plain HTTP first for loopback,
where nobody listens in and test registries live; for what the user listed as insecure, TLS without
verification and then plain HTTP. Nothing falls from one to the other by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from lamina.errors import Denied, InvalidInput
from lamina.http.message import InvalidUrl, Origin, split_url
from lamina.http.proxy import as_address, is_loopback
from lamina.http.trust import Trust
from lamina.oci.reference import DEFAULT_REGISTRY, REGISTRY, REPOSITORY, Reference
from lamina.registry.configuration import RegistriesConf, RegistryRule
from lamina.values import dataclass, field

_DEFAULT_WIRE_HOST = "registry-1.docker.io"
DEFAULT_ATTEMPTS = 5


class RegistryBlocked(Denied):
    pass


class InvalidRegistry(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A repository on a host. ``registry`` is what credentials are filed under.

    ``schemes`` are the ways to speak to it, best first; more than one only where plain HTTP is allowed.
    """

    registry: str
    host: str
    repository: str
    schemes: tuple[str, ...]
    trust: Trust = field(default_factory=Trust)
    is_mirror: bool = False
    by_tag: bool = True
    by_digest: bool = True

    @property
    def permits_plain(self) -> bool:
        return "http" in self.schemes

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" if self.repository else self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """``mirrors`` and ``insecure`` are daemon.json's ``registry-mirrors`` and ``insecure-registries``.

    ``certificate_directories`` are roots of the ``certs.d`` form (containers-certs.d(5)): below them
    ``<host[:port]>/`` holds ``*.crt`` (authorities) and pairs of ``*.cert`` and ``*.key`` (ours).
    """

    conf: RegistriesConf = field(default_factory=RegistriesConf)
    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    certificate_directories: tuple[Path, ...] = ()
    max_attempts: int = DEFAULT_ATTEMPTS
    _trusts: dict[str, Trust] = field(default_factory=dict, init=False, repr=False, compare=False)

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to pull from, in order: mirrors, then the registry itself, which is always last."""
        rule = self.conf.rule_for(reference)
        if rule is not None and rule.blocked:
            raise RegistryBlocked(f"{reference.familiar_name}: blocked by registries.conf ({rule.prefix})")
        return (*self._mirrors(reference, rule), self._primary(reference, rule))

    def push_endpoint(self, reference: Reference) -> Endpoint:
        """Where to push to: never a mirror, never a rewritten location (containers-registries.conf(5))."""
        rule = self.conf.rule_for(reference)
        if rule is not None and rule.blocked:
            raise RegistryBlocked(f"{reference.familiar_name}: blocked by registries.conf ({rule.prefix})")
        return self._endpoint(reference.registry, reference.repository, rule.insecure if rule else None)

    def registry_endpoint(self, registry: str) -> Endpoint:
        """A registry as a whole: for ``login``, ``logout`` and the catalog."""
        if REGISTRY.fullmatch(registry) is None:
            raise InvalidRegistry(f"{registry[:100]!r}: not a registry host")
        rules = [rule.insecure for rule in self.conf.rules if registry in {rule.prefix, rule.location}]
        return self._endpoint(registry, "", rules[0] if rules else None)

    def permits_plain(self, host: str) -> bool:
        """Whether this ``host[:port]`` may be spoken to without TLS, when something refers us to it."""
        return _is_loopback(host) or self._is_listed(host) or any(
            host in {rule.prefix.partition("/")[0], rule.location.partition("/")[0]} and rule.insecure
            for rule in self.conf.rules
        )

    def trust_for(self, origin: Origin) -> Trust:
        """For hosts that we are referred to: what certs.d says of them."""
        return self._trust(origin.authority, verify=True)

    def _mirrors(self, reference: Reference, rule: RegistryRule | None) -> Iterable[Endpoint]:
        if rule is not None:
            for mirror in rule.mirrors:
                host, _, repository = rule.rewrite(reference, mirror.location).partition("/")
                yield self._endpoint(host, repository, mirror.insecure or None, is_mirror=True,
                                     by_tag=mirror.by_tag, by_digest=mirror.by_digest)
        if reference.registry == DEFAULT_REGISTRY:
            for url in self.mirrors:
                yield self._mirror_by_url(url, reference.repository)

    def _mirror_by_url(self, url: str, repository: str) -> Endpoint:
        """``https://host[:port][/prefix]``, or a bare host. Writing ``http://`` is asking for it."""
        try:
            origin, path = split_url(url if "://" in url else f"https://{url}")
        except InvalidUrl as error:
            raise InvalidRegistry(f"registry-mirrors: {error}") from None
        name = f"{path.strip('/')}/{repository}".strip("/")
        if REPOSITORY.fullmatch(name) is None:
            raise InvalidRegistry(f"registry-mirrors: {url[:200]!r} does not name a place for repositories")
        insecure = self._is_listed(origin.authority)
        return Endpoint(
            registry=origin.authority, host=origin.authority, repository=name, is_mirror=True,
            schemes=("https", "http") if insecure and origin.scheme == "https" else (origin.scheme,),
            trust=self._trust(origin.authority, verify=not insecure),
        )

    def _primary(self, reference: Reference, rule: RegistryRule | None) -> Endpoint:
        name = rule.rewrite(reference, rule.location) if rule is not None else reference.name
        host, _, repository = name.partition("/")
        if REPOSITORY.fullmatch(repository) is None:
            raise InvalidRegistry(f"registries.conf: {name!r} is not a repository")
        return self._endpoint(host, repository, rule.insecure if rule is not None else None)

    def _endpoint(
        self,
        registry: str,
        repository: str,
        insecure: bool | None,
        *,
        is_mirror: bool = False,
        by_tag: bool = True,
        by_digest: bool = True,
    ) -> Endpoint:
        """``insecure`` is what a rule says of this name; ``None`` leaves it to lists and loopback."""
        host = _DEFAULT_WIRE_HOST if registry == DEFAULT_REGISTRY else registry
        if insecure is None:
            insecure = self._is_listed(registry) or None
        schemes: tuple[str, ...]
        if insecure:
            schemes = ("http", "https") if _is_loopback(host) else ("https", "http")
        elif insecure is None and _is_loopback(host) and not self._has_certificates(host):
            schemes = ("http", "https")
        else:
            schemes = ("https",)
        return Endpoint(
            registry=registry, host=host, repository=repository, schemes=schemes,
            trust=self._trust(host, verify=not insecure),
            is_mirror=is_mirror, by_tag=by_tag, by_digest=by_digest,
        )

    def _is_listed(self, host: str) -> bool:
        return any(_covers(entry, host) for entry in self.insecure)

    def _has_certificates(self, host: str) -> bool:
        trust = self._trust(host, verify=True)
        return bool(trust.ca_files or trust.client_certificates)

    def _trust(self, host: str, *, verify: bool) -> Trust:
        key = f"{host} {verify}"
        if key not in self._trusts:
            self._trusts[key] = load_trust(self.certificate_directories, host, verify=verify)
        return self._trusts[key]


def load_trust(roots: Iterable[Path], host: str, *, verify: bool = True) -> Trust:
    """What the ``certs.d`` directories hold for a host."""
    names = {host, host.removesuffix(":443"), f"{host}:443" if ":" not in host else host}
    if host == _DEFAULT_WIRE_HOST:
        names.add(DEFAULT_REGISTRY)
    files = [file for root in roots for name in sorted(names) for file in _listed(root / name)]
    return Trust(
        verify=verify,
        ca_files=tuple(str(file) for file in files if file.suffix == ".crt"),
        client_certificates=tuple(
            (str(file), str(file.with_suffix(".key"))) for file in files if file.suffix == ".cert"
        ),
    )


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:  # not there, or (as /etc/docker/certs.d may be) not for us
        return []


def _covers(entry: str, host: str) -> bool:
    """An entry of insecure-registries: ``host[:port]`` exactly, or a CIDR block for address hosts."""
    entry = entry.strip().lower().removeprefix("http://").removeprefix("https://").rstrip("/")
    if entry == host.lower():
        return True
    address = as_address(_without_port(host))
    if address is None or "/" not in entry:
        return False
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return is_loopback(_without_port(host))


def _without_port(host: str) -> str:
    head, colon, tail = host.rpartition(":")
    name = head if colon and tail.isdigit() and (not head.count(":") or head.endswith("]")) else host
    return name.removeprefix("[").removesuffix("]")
