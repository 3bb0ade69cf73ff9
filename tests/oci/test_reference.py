"""References: the distribution grammar, familiar and canonical spelling, and what is refused and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.oci.digest import Digest
from lamina.oci.reference import InvalidReference, Reference

SHA = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("redis", "docker.io/library/redis", "redis"),
        ("redis:7.2", "docker.io/library/redis:7.2", "redis:7.2"),
        ("me/app", "docker.io/me/app", "me/app"),
        ("docker.io/redis", "docker.io/library/redis", "redis"),
        ("index.docker.io/library/redis:7", "docker.io/library/redis:7", "redis:7"),
        ("library/redis", "docker.io/library/redis", "redis"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a", "127.0.0.1:5000/a"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("ghcr.io/o/r@" + SHA, "ghcr.io/o/r@" + SHA, "ghcr.io/o/r@" + SHA),
        ("redis:7@" + SHA, "docker.io/library/redis:7@" + SHA, "redis:7@" + SHA),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("a/b/c/d", "docker.io/a/b/c/d", "a/b/c/d"),
        ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f", "a__b/c-d--e.f"),
    ],
)
def test_spellings(text: str, canonical: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert Reference.parse(canonical) == reference
    assert Reference.parse(familiar) == reference


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must not be empty"),
        ("a" * 64, "image ID"),
        ("redis:", "not a tag"),
        ("redis:a b", "not a tag"),
        ("redis:" + "x" * 129, "not a tag"),
        ("Redis", "lower case: 'library/redis'"),
        ("docker.io/Foo", "lower case"),
        ("-redis", "not a repository name"),
        ("a//b", "not a repository name"),
        ("../a", "not a repository name|not a registry"),
        ("redis@sha256:xyz", "not a digest"),
        ("redis@sha256:../../etc/passwd", "not a digest"),
        ("host:port/x", "not a registry"),
        ("ho_st.com/x", "not a registry"),
        ("a.b/" + "x" * 256, "at most 255"),
        ("redis\n", "not a repository name"),
        ("redis:7\n", "not a tag"),
        ("https://docker.io/redis", "not a registry"),
    ],
)
def test_refusals_say_why(text: str, why: str) -> None:
    with pytest.raises(InvalidReference, match=why):
        Reference.parse(text)


def test_the_default_tag_is_only_given_when_asked() -> None:
    assert Reference.parse("redis").tag == ""
    assert Reference.parse("redis").with_default_tag().tag == "latest"
    assert Reference.parse("redis@" + SHA).with_default_tag().tag == ""
    assert Reference.parse("redis:1").with_digest(Digest.parse(SHA)).with_tag("2").familiar == "redis:2"


component = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*", fullmatch=True).filter(lambda s: len(s) < 30)


@given(
    registry=st.sampled_from(["docker.io", "localhost", "localhost:5000", "a.b", "A", "[::1]:1"]),
    parts=st.lists(component, min_size=2, max_size=4),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True) | st.just(""),
)
def test_format_then_parse_is_identity(registry: str, parts: list[str], tag: str) -> None:
    reference = Reference(registry=registry, repository="/".join(parts), tag=tag)
    assert Reference.parse(reference.canonical) == reference


@given(st.text(max_size=80))
def test_parse_never_raises_anything_else(text: str) -> None:
    try:
        parsed = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(parsed.canonical) == parsed
