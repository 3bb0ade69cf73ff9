"""What a build takes over from a base's config: a stranger's JSON, looked at before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.build.failure import printable
from lamina.errors import InvalidInput

_LISTS = ("Env", "Shell", "OnBuild")
_COMMANDS = ("Cmd", "Entrypoint")  # docker takes a single text for a list of one here
_TEXTS = ("User", "WorkingDir", "StopSignal")
_OBJECTS = ("ExposedPorts", "Volumes", "Healthcheck")


def insist_shapes(config: Mapping[str, Any], image: str) -> None:
    """``null`` is as good as nothing. Raises ``InvalidInput``, which names the field."""
    for name, value in config.items():
        wanted = _wanted(name, value)
        if value is not None and wanted:
            raise InvalidInput(f"{printable(image)}: its {name} is not {wanted}")


def _wanted(name: str, value: Any) -> str:
    """What it should have been, where it is something else."""
    if name in _LISTS or (name in _COMMANDS and not isinstance(value, str)):
        return "" if isinstance(value, list) and _are_texts(value) else "a list of texts"
    if name in _TEXTS:
        return "" if _are_texts([value]) else "a text"
    if name == "Labels":
        return "" if isinstance(value, dict) and _are_texts(value.values()) else "an object of texts"
    if name in _OBJECTS:
        return "" if isinstance(value, dict) else "an object"
    return ""


def _are_texts(values: Any) -> bool:
    """NUL ends a text for the kernel, wherever it stands."""
    return all(isinstance(value, str) and "\0" not in value for value in values)
