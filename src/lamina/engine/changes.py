"""``import --change``: Dockerfile lines that edit a config and touch no file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.errors import InvalidInput

_PORT = re.compile(r"\d{1,5}(?:/(?:tcp|udp|sctp))?")


def apply_changes(execution: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The ``config`` object with the lines applied, in order. Raises :class:`InvalidInput` with the line."""
    config = dict(execution)
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        apply = _INSTRUCTIONS.get(word.upper())
        if apply is None:
            known = ", ".join(sorted(_INSTRUCTIONS))
            raise InvalidInput(f"{change!r}: {word or 'an empty line'} cannot be changed here (only {known})")
        if not rest.strip():
            raise InvalidInput(f"{change!r}: {word.upper()} needs a value")
        apply(config, rest.strip())
    return config


def _cmd(config: dict[str, Any], rest: str) -> None:
    config["Cmd"] = _command(rest)


def _entrypoint(config: dict[str, Any], rest: str) -> None:
    config["Entrypoint"] = _command(rest)


def _command(rest: str) -> list[str]:
    """The exec form if it is a JSON list of strings, else the shell form."""
    if rest.startswith("["):
        try:
            words = json.loads(rest)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", rest]


def _env(config: dict[str, Any], rest: str) -> None:
    variables = dict(line.partition("=")[::2] for line in config.get("Env") or [])
    variables.update(_pairs("ENV", rest))
    config["Env"] = [f"{name}={value}" for name, value in variables.items()]


def _label(config: dict[str, Any], rest: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **_pairs("LABEL", rest)}


def _pairs(word: str, rest: str) -> dict[str, str]:
    """``NAME=value …`` with quotes, or the old ``NAME the rest of the line``."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise InvalidInput(f"{word} {rest}: {error}") from None
    if "=" not in words[0]:
        name, _, value = rest.partition(" ")
        return {name: value.strip()}
    pairs = {}
    for pair in words:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InvalidInput(f"{word} {rest}: expected NAME=value, got {pair!r}")
        pairs[name] = value
    return pairs


def _expose(config: dict[str, Any], rest: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for port in rest.split():
        if _PORT.fullmatch(port) is None:
            raise InvalidInput(f"EXPOSE {rest}: {port!r} is not a port")
        ports[port if "/" in port else f"{port}/tcp"] = {}
    config["ExposedPorts"] = ports


def _volume(config: dict[str, Any], rest: str) -> None:
    paths = _command(rest) if rest.startswith("[") else rest.split()
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}


def _onbuild(config: dict[str, Any], rest: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or []), rest]


def _plain(name: str) -> Callable[[dict[str, Any], str], None]:
    def apply(config: dict[str, Any], rest: str) -> None:
        config[name] = rest

    return apply


_INSTRUCTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _plain("StopSignal"),
    "USER": _plain("User"),
    "VOLUME": _volume,
    "WORKDIR": _plain("WorkingDir"),
}
