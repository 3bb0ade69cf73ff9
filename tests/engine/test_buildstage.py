"""What a stage takes over from the one that it begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamina.engine import images
from lamina.engine.building.build import build
from lamina.engine.building.contexts import open_context
from lamina.engine.building.options import BuildOptions
from lamina.engine.engine import Engine


def config_of(engine: Engine, top: Path, text: str, **arguments: str) -> dict[str, Any]:
    (top / "Dockerfile").write_text(text)
    context, options = open_context(str(top), BuildOptions(arguments=arguments, tags=("made",)))
    with context:
        build(engine, context, options)
    found = engine.store.catalog.named("docker.io/library/made:latest")
    assert found is not None
    return dict(images.load_record(engine, found).config.execution)


def test_arguments_are_known_to_the_stages_that_begin_with_this_one(engine: Engine, tmp_path: Path) -> None:
    top = tmp_path / "c"
    top.mkdir()
    found = config_of(
        engine, top, "FROM scratch AS a\nARG A=1 B\nFROM a AS b\nARG C=3\nFROM b\nENV X=$A$B$C\n", B="2",
    )
    assert found["Env"][1:] == ["X=123"]


def test_arguments_of_other_stages_are_not(engine: Engine, tmp_path: Path) -> None:
    top = tmp_path / "c"
    top.mkdir()
    found = config_of(engine, top, "FROM scratch AS a\nARG A=1\nFROM scratch\nCOPY --from=a / /\nENV X=[$A]\n")
    assert found["Env"][1:] == ["X=[]"]
