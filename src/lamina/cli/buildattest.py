"""``--sbom``, ``--provenance`` and ``--attest``: what a build says of its result, in docker's words."""

from __future__ import annotations

import csv

from lamina.cli.arguments import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments

_TRUE, _FALSE = ("true", "1", "t", ""), ("false", "0", "f")
_KINDS = ("sbom", "provenance")
# Of provenance in docker's words; what a mode would leave out is nothing that annotations hold.
_PROVENANCE = ("mode", "version", "builder-id", "reproducible", "inline-only", "disabled")


def read_attestations(arguments: Arguments) -> tuple[bool, str | None]:
    """Whether layers say what made them, and the scanner of the SBOM: empty for any, ``None`` for no SBOM."""
    asked = {
        "provenance": _fields(arguments.provenance, "--provenance"),
        "sbom": _fields(arguments.sbom, "--sbom"),
    }
    for text in arguments.attest:
        found = _fields(text, "--attest")
        kind = found.pop("type", "")
        if kind not in _KINDS:
            raise UsageError(f"--attest {text}: expected type=sbom or type=provenance")
        asked[kind] = {"disabled": "false", **found}
    return _has_provenance(asked["provenance"]), _generator(asked["sbom"])


def _fields(text: str, option: str) -> dict[str, str]:
    """``true``, ``false``, or ``KEY=VALUE,…``."""
    if text.lower() in _TRUE:
        return {"disabled": "false"}
    if text.lower() in _FALSE:
        return {"disabled": "true"}
    try:
        (words,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError(f"{option} {text}: its quotes do not match") from None
    if not all("=" in word for word in words):
        raise UsageError(f"{option}: expected true, false or KEY=VALUE,..., got {text!r}")
    return dict(word.partition("=")[::2] for word in words)


def _has_provenance(fields: dict[str, str]) -> bool:
    for key in fields:
        if key not in _PROVENANCE:
            raise UsageError(f"--provenance: no such key {key}")
    if fields.get("mode", "max") not in ("min", "max"):
        raise UsageError(f"--provenance: expected the mode min or max, got {fields['mode']!r}")
    return fields.get("disabled", "false").lower() not in ("true", "1")


def _generator(fields: dict[str, str]) -> str | None:
    for key in fields:
        if key not in ("generator", "disabled"):
            raise UsageError(f"--sbom: no such key {key}; expected generator=")
    if fields.get("disabled", "false").lower() in ("true", "1"):
        return None
    return fields.get("generator", "")
