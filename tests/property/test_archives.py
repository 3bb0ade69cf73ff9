"""Laws of archives: what is written is read back, and damage never shows as anything but a clear error."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.archive.source import ArchiveSource
from lamina.archive.writer import ArchiveWriter
from lamina.content.copy import copy_graph
from lamina.content.memory import MemoryStore
from lamina.errors import LaminaError
from lamina.testing.images import MadeImage, random_image

NAMES_OF_FORMS = ["docker-archive", "oci-archive"]
FORMS = st.sampled_from(NAMES_OF_FORMS)
SCRATCH = Path(tempfile.gettempdir())


def saved(form: str, *images: tuple[MadeImage, list[str]]) -> bytes:
    out, store = io.BytesIO(), MemoryStore()
    writer = ArchiveWriter(out, form)
    for image, names in images:
        writer.add(store, image.put(store), names)
    writer.finish()
    return out.getvalue()


def read_everything(data: bytes) -> dict[bytes, tuple[str, ...]]:
    """Configs and the names of their images, everything verified."""
    found = {}
    with ArchiveSource(io.BytesIO(data), scratch=SCRATCH) as source:
        for names, root in source.images():
            store = MemoryStore()
            plan = copy_graph(source, store, root, workers=1)
            config = next(leaf for leaf in plan.leaves if "config" in leaf.media_type)
            found[store.open(config).read()] = names
    return found


@given(form=FORMS, seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=3, unique=True))
@settings(max_examples=40)
def test_every_image_comes_back_under_its_name(form: str, seeds: list[int]) -> None:
    made = [(random_image(Random(seed)), [f"docker.io/made/i{seed}:1"]) for seed in seeds]
    expected = {image.config.raw: tuple(names) for image, names in made}
    assert read_everything(saved(form, *made)) == expected


WHOLE = {form: saved(form, (random_image(Random(1)), ["docker.io/made/one:1"])) for form in NAMES_OF_FORMS}
EXPECTED = {form: read_everything(data) for form, data in WHOLE.items()}


@given(form=FORMS, data=st.data())
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_harmless(form: str, data: st.DataObject) -> None:
    damaged = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_everything(bytes(damaged))
    except LaminaError:
        return
    # Names, dates, modes of members and padding may change and mean nothing. Configs cannot.
    assert set(found) <= set(EXPECTED[form])


@given(form=FORMS, data=st.data())
@settings(max_examples=100)
def test_a_cut_archive_is_refused_or_whole(form: str, data: st.DataObject) -> None:
    whole = WHOLE[form]
    try:
        found = read_everything(whole[: data.draw(st.integers(0, len(whole)))])
    except LaminaError:
        return
    assert found == EXPECTED[form]


@given(noise=st.binary(max_size=3000))
def test_noise_is_no_archive(noise: bytes) -> None:
    try:
        found = read_everything(noise)
    except LaminaError:
        return
    raise AssertionError(f"noise was read as {found}")
