"""What creating a container costs on disk: one commit, which is one wait for the disk."""

from __future__ import annotations

import io
import tarfile

import pytest

from lamina.engine.engine import Engine
from lamina.engine.lookup import ImageNotFound, find_image
from lamina.runtime.options import ContainerOptions

OPTIONS = ContainerOptions(command=("true",))


@pytest.fixture
def filled(engine: Engine) -> Engine:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        file = tarfile.TarInfo("file")
        file.size = 3
        tar.addfile(file, io.BytesIO(b"abc"))
    engine.import_image(io.BytesIO(out.getvalue()), "app:1")
    return engine


def test_one_commit_a_container(filled: Engine) -> None:
    filled.create("app:1", options=OPTIONS)
    said: list[str] = []
    filled.store.state.connection.set_trace_callback(said.append)
    filled.create("app:1", options=OPTIONS)
    assert [text for text in said if text.startswith(("BEGIN", "COMMIT"))] == ["BEGIN IMMEDIATE", "COMMIT"]


def test_an_image_that_goes_meanwhile_is_missed(filled: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.engine import images

    load = images.load_record

    def remove_first(*arguments: object) -> object:
        monkeypatch.undo()
        filled.remove("app:1")
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "load_record", remove_first)
    with pytest.raises(ImageNotFound, match="removed meanwhile"):
        filled.create("app:1", options=OPTIONS)
    assert filled.containers(shows_all=True) == ()
    assert not list((filled.root / "containers").glob("*"))


def test_an_image_that_was_never_unpacked_is_unpacked_under_a_lease(
    filled: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.content.lease import live_content
    from lamina.engine import landing

    record = find_image(filled.store.catalog, "app:1")
    parent = next(info.key for info in filled.driver.walk())
    filled.driver.remove(parent)
    held: list[bool] = []
    unpack = landing.unpack_present

    def watch(*arguments: object) -> None:
        held.append(record.descriptor.digest in live_content(filled.store.state))
        unpack(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(landing, "unpack_present", watch)
    assert filled.create("app:1", options=OPTIONS).parent == parent
    assert held == [True]
    assert live_content(filled.store.state) == set()
