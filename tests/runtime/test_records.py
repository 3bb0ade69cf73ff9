"""The table of containers: names are unique, and the beginning of an ID is enough where it is one's alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runtime.made import container

from lamina.content.state import State
from lamina.errors import InvalidInput
from lamina.oci.digest import Digest
from lamina.runtime.container import Container, ContainerNotFound, NameInUse
from lamina.runtime.options import ContainerOptions
from lamina.runtime.records import ContainerTable


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ContainerTable]:
    state = State(tmp_path / "state.db")
    yield ContainerTable(state)
    state.close()


def one(name: str, beginning: str, created: float = 1.0) -> Container:
    return container(id=beginning + "0" * (64 - len(beginning)), name=name, created=created)


def test_a_container_is_found_by_name_id_and_beginning(table: ContainerTable) -> None:
    web, cache = one("web", "abc1"), one("cache", "abc2")
    table.add(web)
    table.add(cache)
    for text in ("web", "/web", web.id, "abc1", "abc10"):
        assert table.find(text) == web
    with pytest.raises(InvalidInput, match="abc: the beginning of 2 containers' IDs"):
        table.find("abc")


@pytest.mark.parametrize("text", ["", "we", "abd", "%", "_", "abc1'", "web; DROP TABLE containers"])
def test_what_nobody_is_called_is_not_found(table: ContainerTable, text: str) -> None:
    table.add(one("web", "abc1"))
    with pytest.raises(ContainerNotFound, match="no such container"):
        table.find(text)


def test_a_name_goes_before_the_beginning_of_an_id(table: ContainerTable) -> None:
    named, other = one("abc", "ff"), one("web", "abc1")
    table.add(named)
    table.add(other)
    assert table.find("abc") == named


def test_a_name_is_ones_alone(table: ContainerTable) -> None:
    table.add(one("web", "aa"))
    with pytest.raises(NameInUse, match="web: the container aa0000000000 has that name"):
        table.add(one("web", "bb"))
    assert [each.name for each in table.walk()] == ["web"]


def test_the_newest_comes_first(table: ContainerTable) -> None:
    for name, created in (("a", 2.0), ("b", 3.0), ("c", 1.0)):
        table.add(one(name, {"a": "1", "b": "2", "c": "3"}[name], created))
    assert [each.name for each in table.walk()] == ["b", "a", "c"]
    assert table.names() == {"a", "b", "c"}


def test_a_container_can_be_renamed_to_a_free_name(table: ContainerTable) -> None:
    web, cache = one("web", "aa"), one("cache", "bb")
    table.add(web)
    table.add(cache)
    table.replace(replace(web, name="front"))
    assert table.find("front").id == web.id
    with pytest.raises(NameInUse):
        table.replace(replace(web, name="cache"))
    assert table.find("front").id == web.id


def test_other_limits_are_kept(table: ContainerTable) -> None:
    web = one("web", "aa")
    table.add(web)
    table.replace(replace(web, options=ContainerOptions(memory=64 << 20)))
    assert table.find("web").options.memory == 64 << 20


def test_one_that_is_gone_is_not_changed(table: ContainerTable) -> None:
    web = one("web", "aa")
    table.add(web)
    table.remove(web.id)
    table.remove(web.id)
    assert table.get(web.id) is None
    with pytest.raises(ContainerNotFound, match="removed meanwhile"):
        table.replace(web)


def test_images_of_containers_are_known(table: ContainerTable) -> None:
    table.add(one("web", "aa"))
    table.add(replace(one("other", "bb"), image=Digest.of(b"other")))
    assert table.images() == {Digest.of(b"index"), Digest.of(b"other")}
