"""Build arguments: which names have a value, where it comes from, and which of them a cache key must not see.

The reference is docker's ("ARG", "Predefined ARGs", "Automatic platform ARGs in the global scope").
"""

from __future__ import annotations

from collections.abc import Mapping

from lamina.oci.descriptor import Platform
from lamina.values import dataclass, field, replace

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
# Given to every command without being declared, and kept out of keys and history.
PREDEFINED = frozenset((*_PROXIES, *map(str.lower, _PROXIES)))
EPOCH = "SOURCE_DATE_EPOCH"


def platform_arguments(build: Platform, target: Platform) -> dict[str, str]:
    """What every FROM may use, and a stage that declares it."""
    found: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        found[f"{prefix}PLATFORM"] = str(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = platform.variant
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a name means at one place of a Dockerfile.

    ``given`` are the command line's, ``outer`` what is known without declaring a default: the arguments
    before the first FROM and the platform's. ``arguments`` are declared here; ``environment`` beats them.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    declared: tuple[str, ...] = ()

    def lookup(self, name: str) -> str | None:
        found = self.environment.get(name)
        return self.arguments.get(name) if found is None else found

    def declare(self, name: str, default: str | None) -> Scope:
        """``ARG name`` or ``ARG name=default``: without any value the name stays unset."""
        if name in self.given:
            value: str | None = self.given[name]
        elif default is not None:
            value = default
        else:
            value = self.outer.get(name)
        changed = {key: text for key, text in self.arguments.items() if key != name}
        if value is not None:
            changed[name] = value
        return replace(self, arguments=changed, declared=tuple(dict.fromkeys((*self.declared, name))))

    def set(self, pairs: Mapping[str, str]) -> Scope:
        """``ENV``."""
        return replace(self, environment={**self.environment, **pairs})

    def for_commands(self) -> dict[str, str]:
        """Declared arguments that a command sees as variables; the environment comes over them."""
        return {name: value for name, value in self.arguments.items() if name not in PREDEFINED}

    def proxies(self) -> dict[str, str]:
        return {name: value for name, value in self.given.items() if name in PREDEFINED}


def unused(given: Mapping[str, str], declared: frozenset[str]) -> list[str]:
    """Arguments of the command line that no ARG of the Dockerfile takes: worth a warning."""
    known = declared | PREDEFINED | {EPOCH}
    return sorted(name for name in given if name not in known and not name.startswith("BUILDKIT_"))
