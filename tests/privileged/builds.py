"""Builds in processes of their own, as any user: a Dockerfile and files in, an image or one sentence out."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.privileged.hostile import Ground, Item

SECONDS = 120
_PROGRAM = """
import base64, json, sys
from lamina.cli.failures import explain
from lamina.engine.building.options import BuildOptions, parse_secret
from lamina.engine.building.build import build, open_context
from lamina.engine.engine import Engine
from lamina.oci.descriptor import Platform
from lamina.values import replace

asked = json.loads(sys.stdin.read())
events = []

def report(event):
    data = base64.b64encode(event.data).decode()
    words = {"stage": event.stage, "title": event.title, "text": event.text, "reason": event.reason, "data": data}
    events.append(words)
    print(json.dumps(words), flush=True)

options = BuildOptions(**{
    **{name: tuple(value) if isinstance(value, list) else value for name, value in asked["options"].items()},
    "secrets": {one.id: one for one in map(parse_secret, asked["secrets"])},
})
try:
    context, options = open_context(asked["context"], options)
    with context, Engine.open() as engine:
        image = build(engine, context, options, report)
except KeyboardInterrupt:
    sys.exit(130)
except Exception as error:
    sentence, code = explain(error)
    print("error: " + sentence, *getattr(error, "__notes__", ()), sep="\\n", file=sys.stderr)
    if code == 125:
        import traceback
        traceback.print_exception(error)
    sys.exit(code)
print(json.dumps({"id": image.id, "digest": image.digest, "steps": image.steps, "cached": image.cached,
                  "warnings": image.warnings}))
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """``image`` is empty where there is none."""

    code: int
    error: str
    events: list[dict[str, Any]]
    image: dict[str, Any]

    @property
    def output(self) -> str:
        parts = (base64.b64decode(event["data"]) for event in self.events if event["stage"] == "output")
        return b"".join(parts).decode("utf-8", "replace")

    @property
    def cached(self) -> list[str]:
        return [event["title"] for event in self.events if event["stage"] == "cached"]


@dataclasses.dataclass
class Yard:
    """Somebody who builds. ``environment`` chooses the driver; the first build of a state directory decides.

    ``before`` are the words of a command that runs the build.
    """

    ground: Ground
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    before: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return self.ground.root

    @property
    def has_single_id(self) -> bool:
        return self.ground.user is not None and self.ground.user.name == "lamina-nosub"

    def context(self, dockerfile: str | bytes, files: Mapping[str, Item | str | bytes]) -> Path:
        top = Path(tempfile.mkdtemp(prefix="context-", dir=self.ground.home))
        top.chmod(0o755)
        (top / "Dockerfile").write_bytes(dockerfile.encode() if isinstance(dockerfile, str) else dockerfile)
        for name, item in files.items():
            put(top / name, item if isinstance(item, Item) else Item(item, 0o644))
        return top

    def start(
        self, dockerfile: str | bytes, files: Mapping[str, Item | str | bytes] | None = None, *,
        secrets: Sequence[str] = (), context: Path | None = None, **options: Any,
    ) -> subprocess.Popen[str]:
        place = context or self.context(dockerfile, files or {})
        given = {"LAMINA_ROOT": str(self.root), **self.environment}
        user = self.ground.user
        words = user.python("-c", _PROGRAM, **given) if user is not None else \
            ["env", *(f"{name}={value}" for name, value in given.items()), sys.executable, "-c", _PROGRAM]
        asked = {"context": str(place), "secrets": secrets, "options": {"runtime": self.ground.runtime, **options}}
        process = subprocess.Popen(
            [*self.before, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        process.stdin = None
        return process

    def build(
        self, dockerfile: str | bytes, files: Mapping[str, Item | str | bytes] | None = None, *,
        code: int | None = 0, **given: Any,
    ) -> Outcome:
        """``code`` is what it must end with; ``None`` for anything but a fault of lamina's own."""
        return finish(self.start(dockerfile, files, **given), code)

    def run(self, image: str, *words: str) -> str:
        return self.ground.lamina(
            "run", "--rm", "--network", "none", "--runtime", self.ground.runtime, image, *words, **self.environment
        ).stdout

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.ground.lamina("inspect", "--format", "{{json .}}", image, **self.environment).stdout
        )
        return found


def finish(process: subprocess.Popen[str], code: int | None = 0) -> Outcome:
    said, error = process.communicate(timeout=SECONDS)
    lines = [json.loads(line) for line in said.splitlines()]
    image = lines.pop() if lines and "id" in lines[-1] else {}
    outcome = Outcome(process.returncode, error, lines, image)
    assert "Traceback" not in error, error
    assert "unexpected" not in error, error
    assert code is None or outcome.code == code, (outcome.code, error, outcome.output)
    return outcome


def put(path: Path, item: Item) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if item.is_link:
        path.symlink_to(str(item.text))
        return
    if item.text is None:
        path.mkdir(exist_ok=True)
    else:
        path.write_bytes(item.text.encode() if isinstance(item.text, str) else item.text)
    os.chmod(path, item.mode)
