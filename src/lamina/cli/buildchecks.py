"""The build checks as people read them, and as BuildKit's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.terminal import json_text, visible
from lamina.errors import LaminaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.build.checks import Base
    from lamina.build.context import Context
    from lamina.build.findings import Finding
    from lamina.build.syntax import Dockerfile
    from lamina.cli.session import Session
    from lamina.engine.building.options import BuildOptions
    from lamina.engine.engine import Engine


def find(
    engine: Engine, dockerfile: Dockerfile, context: Context, options: BuildOptions
) -> tuple[Finding, ...]:
    """Of base images only those are asked that are here: looking at a file downloads nothing."""
    from lamina.build.checks import check

    platform = options.platforms[0] if options.platforms else engine.platform
    return check(
        dockerfile, is_ignored=context.rules.excludes, target=options.target, arguments=options.arguments,
        base=_bases(engine), platform=str(platform),
    )


def _bases(engine: Engine) -> Callable[[str], Base | None]:
    from lamina.build.checks import Base

    def base(name: str) -> Base | None:
        try:
            config = engine.image(name).config
        except LaminaError:
            return None
        lines = config.execution.get("Env") or []
        return Base(
            environment=dict(line.partition("=")[::2] for line in lines), platform=str(config.platform)
        )

    return base


def show_findings(session: Session, dockerfile: Dockerfile, findings: Sequence[Finding], form: str) -> None:
    if form == "json":
        session.print(json_text(_document(dockerfile, findings), indent=2))
        return
    count = len(findings)
    found = f"{count} warning{'' if count == 1 else 's'}" if count else "no warnings"
    session.print(f"Check complete: {found} found.")
    for finding in findings:
        for line in described(dockerfile, finding):
            session.print(line)


def described(dockerfile: Dockerfile, finding: Finding) -> list[str]:
    """Its rule, what it means here, and the place."""
    from lamina.build.failure import excerpt

    page = f" - {finding.url}" if finding.url else ""
    return [
        "", f"WARNING: {finding.rule}{page}", visible(finding.description), visible(finding.message),
        *excerpt(dockerfile.text, finding.span, name=dockerfile.name).split("\n"),
    ]


def _document(dockerfile: Dockerfile, findings: Sequence[Finding]) -> dict[str, Any]:
    """BuildKit's (frontend/subrequests/lint), with the file's name beside its number."""
    return {"warnings": [_warning(dockerfile, finding) for finding in findings]}


def _warning(dockerfile: Dockerfile, finding: Finding) -> dict[str, Any]:
    span = finding.span
    return {
        "ruleName": finding.rule,
        "description": finding.description,
        "url": finding.url,
        "detail": finding.message,
        "location": {
            "file": dockerfile.name,
            "ranges": [{
                "start": {"line": span.first, "character": max(span.column - 1, 0)},
                "end": {"line": span.last, "character": 0},
            }],
        },
    }
