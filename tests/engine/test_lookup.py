"""What people type, and the image that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.content.test_local import put_image

from lamina.content.local import LocalStore
from lamina.engine.lookup import AmbiguousID, ImageNotFound, find_image
from lamina.oci.descriptor import Platform
from lamina.oci.reference import InvalidReference


@pytest.fixture
def store(tmp_path: Path):
    opened = LocalStore.create(tmp_path / "root", platform=Platform(os="linux", architecture="amd64"))
    yield opened
    opened.close()


def test_names_ids_and_prefixes(store: LocalStore) -> None:
    manifest = put_image(store)
    record = store.record(manifest.descriptor, names=("docker.io/library/redis:latest",))
    root = manifest.descriptor.digest
    for text in ("redis", "redis:latest", "docker.io/redis", f"redis@{root}", f"redis:any@{root}",
                 record.config, record.config.encoded, record.config.short, record.config.encoded[:3],
                 root, root.short):
        assert find_image(store.catalog, text).descriptor.digest == root, text


def test_a_name_wins_over_an_id_that_is_spelled_the_same(store: LocalStore) -> None:
    first = store.record(put_image(store).descriptor)
    prefix = first.config.encoded[:6]
    second = store.record(put_image(store, text=b"x").descriptor, names=(f"docker.io/library/{prefix}:latest",))
    assert find_image(store.catalog, prefix).config == second.config
    assert find_image(store.catalog, f"sha256:{prefix}").config == first.config


def test_an_ambiguous_prefix_asks_for_more(store: LocalStore) -> None:
    seen: dict[str, int] = {}
    for number in range(40):
        record = store.record(put_image(store, text=bytes([number])).descriptor)
        seen[record.config.encoded[0]] = seen.get(record.config.encoded[0], 0) + 1
    digit = next(digit for digit, count in seen.items() if count > 1)
    with pytest.raises(AmbiguousID, match="give more digits"):
        find_image(store.catalog, digit)


def test_a_typo_gets_a_suggestion(store: LocalStore) -> None:
    store.record(put_image(store).descriptor, names=("docker.io/library/redis:7",))
    with pytest.raises(ImageNotFound, match=r"did you mean redis:7\?"):
        find_image(store.catalog, "rediss:7")
    with pytest.raises(ImageNotFound, match="redis: no such image; there is redis:7"):
        find_image(store.catalog, "redis")
    with pytest.raises(ImageNotFound, match="`lamina pull nginx`"):
        find_image(store.catalog, "nginx")
    with pytest.raises(ImageNotFound, match=r"no such image$"):
        find_image(store.catalog, "0123abc")
    with pytest.raises(InvalidReference, match="lower case"):
        find_image(store.catalog, "Redis")


def test_a_digest_of_another_repository_is_not_it(store: LocalStore) -> None:
    manifest = put_image(store)
    store.record(manifest.descriptor, names=("docker.io/library/redis:7",))
    with pytest.raises(ImageNotFound):
        find_image(store.catalog, f"nginx@{manifest.descriptor.digest}")
