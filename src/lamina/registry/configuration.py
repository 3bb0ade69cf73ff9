"""registries.conf, version 2: which names go to which registries, through which mirrors.

The format is containers-registries.conf(5). Files are read in the order given; what a later one says
of the same prefix or alias replaces what an earlier one said, as drop-in files are meant to.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.errors import InvalidInput, Unsupported
from lamina.oci.reference import REGISTRY, Reference
from lamina.values import dataclass, field

_MAX_FILE = 4 << 20


class InvalidConfiguration(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRule:
    location: str
    insecure: bool = False
    by_tag: bool = True
    by_digest: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRule:
    """One ``[[registry]]``. ``insecure`` is ``None`` where the file does not say."""

    prefix: str
    location: str
    insecure: bool | None = None
    blocked: bool = False
    mirrors: tuple[MirrorRule, ...] = ()

    def match(self, reference: Reference) -> int:
        """How many characters of the name the prefix covers; 0 when it does not."""
        if self.prefix.startswith("*."):
            host = reference.registry.partition(":")[0]
            return len(self.prefix) - 1 if host.endswith(self.prefix[1:]) else 0
        for spelling in _spellings(reference):
            rest = spelling.removeprefix(self.prefix)
            if len(rest) < len(spelling) and (not rest or rest[0] in "/:@"):
                return len(self.prefix)
        return 0

    def rewrite(self, reference: Reference, location: str) -> str:
        """Where ``location`` keeps what the reference names: registry and repository."""
        if self.prefix.startswith("*."):
            # A wildcard says nothing of what follows, so a location can only replace the whole host.
            return f"{location}/{reference.repository}" if location else reference.name
        if not reference.name.startswith(self.prefix):
            raise Unsupported(f"registries.conf: the prefix {self.prefix!r} names a tag or digest")
        return (location or self.prefix) + reference.name[len(self.prefix) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistriesConf:
    rules: tuple[RegistryRule, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    search: tuple[str, ...] = ()

    @classmethod
    def load(cls, files: Iterable[Path]) -> RegistriesConf:
        """Files that do not exist are passed over; a directory stands for its ``*.conf``, in order."""
        loaded = cls()
        for path in files:
            members = sorted(path.glob("*.conf")) if path.is_dir() else [path]
            for member in members:
                try:
                    with member.open("rb") as file:
                        raw = file.read(_MAX_FILE)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise InvalidConfiguration(f"{member}: cannot be read ({error.strerror})") from None
                loaded = loaded.merged(cls.parse(raw, str(member)))
        return loaded

    @classmethod
    def parse(cls, raw: bytes, where: str = "registries.conf") -> RegistriesConf:
        try:
            document = tomllib.loads(raw.decode())
        except ValueError as error:
            raise InvalidConfiguration(f"{where}: not TOML ({error})") from None
        if isinstance(document.get("registries"), dict):
            raise InvalidConfiguration(
                f"{where}: this is version 1 of the format; write [[registry]] tables and "
                "unqualified-search-registries (containers-registries.conf(5))"
            )
        aliases = document.get("aliases", {})
        if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
            raise InvalidConfiguration(f"{where}: [aliases] must map names to names")
        return cls(
            rules=tuple(_rule(item, where) for item in _tables(document.get("registry", []), where)),
            aliases=aliases,
            search=_search(document.get("unqualified-search-registries", []), where),
        )

    def merged(self, later: RegistriesConf) -> RegistriesConf:
        replaced = {rule.prefix for rule in later.rules}
        kept = tuple(rule for rule in self.rules if rule.prefix not in replaced)
        aliases = {**self.aliases, **later.aliases}
        return RegistriesConf(
            rules=kept + later.rules,
            aliases={name: value for name, value in aliases.items() if value},  # "" erases an alias
            search=later.search or self.search,
        )

    def rule_for(self, reference: Reference) -> RegistryRule | None:
        """The longest match."""
        scored = [(rule.match(reference), rule) for rule in self.rules]
        best = max(scored, key=lambda pair: pair[0], default=(0, None))
        return best[1] if best[0] else None

    def candidates(self, text: str) -> tuple[Reference, ...]:
        """What a name as typed may mean, in the order to try: an alias, the search list, or itself.

        A name that says its registry means only itself.
        """
        plain = Reference.parse(text)
        name, suffix = _split_suffix(text)
        if plain.name == name or plain.familiar_name != name:
            return (plain,)
        if name in self.aliases:
            return (Reference.parse(self.aliases[name] + suffix),)
        if self.search:
            return tuple(Reference.parse(f"{registry}/{text}") for registry in self.search)
        return (plain,)


def _split_suffix(text: str) -> tuple[str, str]:
    """The name as typed, and its tag and digest with their marks."""
    name = text.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        name = head
    return name, text[len(name) :]


def _spellings(reference: Reference) -> Sequence[str]:
    tagged = f"{reference.name}:{reference.tag}" if reference.tag else reference.name
    return (tagged, f"{reference.name}@{reference.digest}") if reference.digest else (tagged,)


def _search(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InvalidConfiguration(f"{where}: unqualified-search-registries must be a list of registries")
    for name in value:
        if REGISTRY.fullmatch(name.partition("/")[0]) is None:
            raise InvalidConfiguration(f"{where}: {name!r} is not a registry")
    return tuple(value)


def _tables(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidConfiguration(f"{where}: registry must be an array of tables, [[registry]]")
    return value


def _rule(table: dict[str, Any], where: str) -> RegistryRule:
    location, prefix = _location(table, where), _text(table, "prefix", where).rstrip("/")
    if not prefix and not location:
        raise InvalidConfiguration(f"{where}: a [[registry]] needs a prefix or a location")
    if not location and not prefix.startswith("*."):
        location = prefix
    digests_only = bool(_flag(table, "mirror-by-digest-only", where))
    mirrors = tuple(_mirror(item, where, digests_only) for item in _tables(table.get("mirror", []), where))
    return RegistryRule(
        prefix=prefix or location,
        location=location,
        insecure=_flag(table, "insecure", where),
        blocked=bool(_flag(table, "blocked", where)),
        mirrors=mirrors,
    )


def _mirror(table: dict[str, Any], where: str, digests_only: bool) -> MirrorRule:
    location = _location(table, where)
    if not location:
        raise InvalidConfiguration(f"{where}: a [[registry.mirror]] needs a location")
    pulls = _text(table, "pull-from-mirror", where) or "all"
    if pulls not in {"all", "digest-only", "tag-only"}:
        raise InvalidConfiguration(
            f"{where}: pull-from-mirror must be all, digest-only or tag-only, not {pulls!r}"
        )
    return MirrorRule(
        location=location,
        insecure=bool(_flag(table, "insecure", where)),
        by_tag=pulls != "digest-only" and not digests_only,
        by_digest=pulls != "tag-only",
    )


def _location(table: dict[str, Any], where: str) -> str:
    location = _text(table, "location", where).rstrip("/")
    if location and REGISTRY.fullmatch(location.partition("/")[0]) is None:
        raise InvalidConfiguration(f"{where}: {location!r} does not begin with a registry host")
    return location


def _text(table: dict[str, Any], name: str, where: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise InvalidConfiguration(f"{where}: {name} must be a string, not {value!r}")
    return value


def _flag(table: dict[str, Any], name: str, where: str) -> bool | None:
    value = table.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidConfiguration(f"{where}: {name} must be true or false, not {value!r}")
    return value
