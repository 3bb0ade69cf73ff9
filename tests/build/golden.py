"""The golden corpus: what each Dockerfile of it means, or what is said of it, as kept beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lamina.build.failure import DockerfileError, excerpt
from lamina.build.syntax import Dockerfile, parse
from lamina.values import asdict

CORPUS = Path(__file__).parent.parent / "data" / "dockerfiles"


def files(kind: str) -> list[Path]:
    return sorted((CORPUS / kind).glob("*.dockerfile"))


def described(dockerfile: Dockerfile) -> dict[str, Any]:
    return {
        "escape": dockerfile.escape, "syntax": dockerfile.syntax, "check": full(asdict(dockerfile.check)),
        "instructions": [as_document(one) for one in dockerfile.instructions],
    }


def as_document(instruction: Any) -> dict[str, Any]:
    document = full(asdict(instruction))
    if "parsed" in document:
        document["parsed"] = as_document(instruction.parsed)
    span = instruction.span
    return {"is": type(instruction).__name__, **document, "span": [span.first, span.last, span.column]}


def full(document: Any) -> Any:
    """Without what was not said, so that a reader sees what was."""
    if isinstance(document, dict):
        return {key: full(value) for key, value in document.items() if key == "unpacks" or value}
    if isinstance(document, list | tuple):
        return [full(one) for one in document]
    return document


def complaint(path: Path) -> str:
    data = path.read_bytes()
    try:
        parse(data)
    except DockerfileError as error:
        shown = excerpt(data.decode("utf-8", "surrogateescape"), error.span, name=error.name)
        return f"{error}\n\n{shown}\n"
    return "nothing is wrong with it\n"


def as_text(document: Any) -> str:
    return json.dumps(document, indent=1) + "\n"


def rewrite() -> None:
    """After a change that is meant: run it, and read what ``git diff`` shows."""
    for path in files("good"):
        path.with_suffix(".json").write_text(as_text(described(parse(path.read_bytes()))))
    for path in files("bad"):
        path.with_suffix(".error").write_text(complaint(path))
