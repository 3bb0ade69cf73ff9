"""Reports about images wherever they are: the same facts, and nothing stays of what was only looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine.conftest import Registry

from lamina.engine.engine import Engine
from lamina.engine.lookup import ImageNotFound
from lamina.insight.waste import WasteKind
from lamina.oci.descriptor import Platform
from lamina.testing.images import file, make_image, make_index, make_layer, whiteout

BASE = make_layer([file("etc/os-release", b"x" * 4000), file("tool", b"t" * 900, mode=0o644)], created_by="ADD base /")
TOP = make_layer([whiteout("etc/os-release"), file("tool", b"t" * 900, mode=0o755)], created_by="RUN chmod 755 /tool")
APP = make_image([BASE, TOP], execution={"Env": ["A=1"]})
OTHER = make_image([BASE])


@pytest.fixture
def app(engine: Engine) -> str:
    APP.put(engine.store, "docker.io/library/app:1")
    OTHER.put(engine.store, "docker.io/library/other:1")
    return "app:1"


def test_facts_of_an_image_here(engine: Engine, app: str) -> None:
    report = engine.report_data(app)
    assert (report.image.name, report.image.id, report.image.size) == (app, APP.config.digest, 5800)
    assert (report.image.files, report.image.obscured_bytes, report.image.wasted_bytes) == (1, 4900, 4900)
    assert [layer.summary.shared_with for layer in report.layers] == [("other:1",), ()]
    assert [(remedy.kind, remedy.files.total_bytes) for remedy in report.waste.rows] == [
        (WasteKind.DELETED, 4000), (WasteKind.METADATA, 900)]


def test_the_page_shows_them(engine: Engine, app: str) -> None:
    page = engine.report_page(app)
    for text in ("<h1>app:1</h1>", "RUN chmod 755 /tool", "/etc/os-release", "other:1", "A=1"):
        assert text in page
    assert page == engine.report_page(app), "the same image gives the same page"


def test_of_an_archive(engine: Engine, app: str, tmp_path: Path) -> None:
    with (tmp_path / "app.tar").open("wb") as out:
        engine.save([app], out)
    expected = engine.report_data(app)
    engine.remove("app:1")
    engine.remove("other:1")
    name = f"docker-archive:{tmp_path}/app.tar"
    found = engine.report_data(name)
    assert found.image == replace(expected.image, name=name)
    assert (found.files, found.obscured, found.waste) == (expected.files, expected.obscured, expected.waste)
    assert engine.images() == ()


def test_of_one_platform(engine: Engine, registry: Registry) -> None:
    arm = Platform(os="linux", architecture="arm64")
    make_index([APP, make_image([BASE], platform=arm)]).put(registry.repository("both"), "1")
    report = engine.report_data(f"docker://{registry.host}/both:1", platform=arm)
    assert (report.image.platform, len(report.layers)) == ("linux/arm64", 1)


def test_of_nothing(engine: Engine) -> None:
    with pytest.raises(ImageNotFound):
        engine.report_page("nowhere:1")


def test_of_names_that_are_not_utf8(engine: Engine) -> None:
    made = make_image([[file("caf\udce9/\x1b[31m", b"x")]])
    made.put(engine.store, "docker.io/library/odd:1")
    assert "caf\\xe9" in engine.report_page("odd:1").encode("utf-8").decode()
    assert engine.report_data("odd:1").to_json()["Files"][1]["Name"] == "caf\udce9"
