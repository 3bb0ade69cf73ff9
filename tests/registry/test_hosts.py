from __future__ import annotations

from pathlib import Path

import pytest

from lamina.errors import Unsupported
from lamina.http.message import Origin
from lamina.http.trust import Trust
from lamina.oci.reference import Reference
from lamina.registry.configuration import InvalidConfiguration, RegistriesConf
from lamina.registry.hosts import Endpoint, InvalidRegistry, RegistryBlocked, RegistrySettings, load_trust

PLAIN = RegistrySettings()


def only(settings: RegistrySettings, name: str) -> Endpoint:
    (endpoint,) = settings.endpoints(Reference.parse(name))
    return endpoint


def places(settings: RegistrySettings, name: str) -> list[str]:
    return [str(endpoint) for endpoint in settings.endpoints(Reference.parse(name))]


def conf(text: str) -> RegistrySettings:
    return RegistrySettings(conf=RegistriesConf.parse(text.encode()))


# --- Without settings -----------------------------------------------------------------------------


def test_docker_hub_answers_under_another_name() -> None:
    endpoint = only(PLAIN, "redis:7")
    assert str(endpoint) == "registry-1.docker.io/library/redis"
    assert endpoint.registry == "docker.io"
    assert endpoint.schemes == ("https",)
    assert not endpoint.permits_plain


@pytest.mark.parametrize(("name", "schemes"), [
    ("registry.example/a", ("https",)),
    ("localhost/a", ("http", "https")),
    ("localhost:5000/a", ("http", "https")),
    ("127.0.0.1:5000/a", ("http", "https")),
    ("127.8.8.8/a", ("http", "https")),
    ("[::1]:5000/a", ("http", "https")),
    ("10.0.0.1:5000/a", ("https",)),
    ("localhost.example.com/a", ("https",)),
    ("127.0.0.1.example.com/a", ("https",)),
])
def test_only_loopback_speaks_plain_http(name: str, schemes: tuple[str, ...]) -> None:
    endpoint = only(PLAIN, name)
    assert endpoint.schemes == schemes
    assert endpoint.trust == Trust(verify=True)


def test_listed_registries_may_be_insecure() -> None:
    settings = RegistrySettings(insecure=("registry.example:5000", "10.0.0.0/8", "http://old.example"))
    for name in ("registry.example:5000/a", "10.1.2.3:80/a", "old.example/a"):
        endpoint = only(settings, name)
        assert endpoint.schemes == ("https", "http")
        assert not endpoint.trust.verify
    for name in ("registry.example/a", "registry.example:5001/a", "11.1.2.3/a", "ten.example/a"):
        assert only(settings, name).schemes == ("https",)
        assert only(settings, name).trust.verify


def test_a_listed_loopback_is_not_verified() -> None:
    endpoint = only(RegistrySettings(insecure=("localhost:5000",)), "localhost:5000/a")
    assert endpoint.schemes == ("http", "https")
    assert not endpoint.trust.verify


# --- certs.d --------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    for name in ("registry.example:5000", "localhost:5000", "docker.io"):
        directory = tmp_path / name
        directory.mkdir()
        for file in ("ca.crt", "extra.crt", "mine.cert", "mine.key", "README"):
            (directory / file).touch()
    return tmp_path


def test_certificates_are_found_by_host(certificates: Path) -> None:
    settings = RegistrySettings(certificate_directories=(certificates / "absent", certificates))
    directory = certificates / "registry.example:5000"
    assert only(settings, "registry.example:5000/a").trust == Trust(
        ca_files=(str(directory / "ca.crt"), str(directory / "extra.crt")),
        client_certificates=((str(directory / "mine.cert"), str(directory / "mine.key")),),
    )
    assert only(settings, "registry.example/a").trust == Trust()
    assert only(settings, "redis").trust.ca_files
    assert settings.trust_for(Origin("https", "registry.example", 5000)).ca_files


def test_certificates_for_loopback_ask_for_tls(certificates: Path) -> None:
    settings = RegistrySettings(certificate_directories=(certificates,))
    assert only(settings, "localhost:5000/a").schemes == ("https",)
    assert only(settings, "localhost:5001/a").schemes == ("http", "https")


def test_a_port_that_goes_without_saying(tmp_path: Path) -> None:
    (tmp_path / "registry.example:443").mkdir()
    (tmp_path / "registry.example:443" / "ca.crt").touch()
    assert load_trust([tmp_path], "registry.example").ca_files
    assert load_trust([tmp_path], "registry.example:443").ca_files


# --- Mirrors --------------------------------------------------------------------------------------


def test_registry_mirrors_are_for_docker_hub() -> None:
    settings = RegistrySettings(mirrors=("https://mirror.example", "http://plain.example:5000/hub/", "bare.example"))
    assert places(settings, "redis") == [
        "mirror.example/library/redis", "plain.example:5000/hub/library/redis", "bare.example/library/redis",
        "registry-1.docker.io/library/redis",
    ]
    assert [endpoint.schemes for endpoint in settings.endpoints(Reference.parse("redis"))] == [
        ("https",), ("http",), ("https",), ("https",),
    ]
    assert [endpoint.registry for endpoint in settings.endpoints(Reference.parse("redis"))] == [
        "mirror.example", "plain.example:5000", "bare.example", "docker.io",
    ]
    assert places(settings, "quay.io/a/b") == ["quay.io/a/b"]
    assert str(settings.push_endpoint(Reference.parse("redis"))) == "registry-1.docker.io/library/redis"


@pytest.mark.parametrize("mirror", ["ftp://mirror.example", "https://", "https://me:hush@mirror.example", "https://m/A B"])
def test_mirrors_that_cannot_be(mirror: str) -> None:
    with pytest.raises(InvalidRegistry) as caught:
        RegistrySettings(mirrors=(mirror,)).endpoints(Reference.parse("redis"))
    assert "hush" not in str(caught.value)


EXAMPLE = """
unqualified-search-registries = ["example.com", "other.example"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal.example.net/bar"

[[registry.mirror]]
location = "mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"
[[registry.mirror]]
location = "mirror.registry.com"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "blocked.example"
blocked = true

[[registry]]
prefix = "*.wild.example"
insecure = true

[[registry]]
location = "127.0.0.1:5443"
insecure = false

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
"my/tool" = "quay.io/mine/tool"
"""


def test_the_manual_s_example() -> None:
    settings = conf(EXAMPLE)
    endpoints = settings.endpoints(Reference.parse("example.com/foo/image:latest"))
    assert [str(endpoint) for endpoint in endpoints] == [
        "mirror-0.local/mirror-for-foo/image", "mirror-1.local/mirrors/foo/image", "internal.example.net/bar/image",
    ]
    assert [endpoint.permits_plain for endpoint in endpoints] == [False, True, False]
    assert [endpoint.is_mirror for endpoint in endpoints] == [True, True, False]
    assert places(settings, "example.com/food/image") == ["example.com/food/image"]
    assert places(settings, "example.com/foo:latest") == [
        "mirror-0.local/mirror-for-foo", "mirror-1.local/mirrors/foo", "internal.example.net/bar",
    ]


def test_pushes_are_not_rewritten() -> None:
    assert str(conf(EXAMPLE).push_endpoint(Reference.parse("example.com/foo/image"))) == "example.com/foo/image"


def test_mirrors_may_be_for_digests_only() -> None:
    mirror, own = conf(EXAMPLE).endpoints(Reference.parse("registry.com/image"))
    assert (mirror.by_tag, mirror.by_digest) == (False, True)
    assert (own.by_tag, own.by_digest) == (True, True)


def test_blocked_registries() -> None:
    settings = conf(EXAMPLE)
    for act in (settings.endpoints, settings.push_endpoint):
        with pytest.raises(RegistryBlocked, match=r"blocked by registries.conf"):
            act(Reference.parse("blocked.example/a"))


def test_wildcards_cover_subdomains() -> None:
    settings = conf(EXAMPLE)
    assert only(settings, "a.b.wild.example/x").schemes == ("https", "http")
    assert only(settings, "wild.example/x").schemes == ("https",)
    assert only(settings, "a.notwild.example/x").schemes == ("https",)


def test_loopback_can_be_told_to_use_tls() -> None:
    assert only(conf(EXAMPLE), "127.0.0.1:5443/a").schemes == ("https",)


def test_the_longest_prefix_wins() -> None:
    settings = conf("""
        [[registry]]
        prefix = "docker.io"
        location = "short.example/all"
        [[registry]]
        prefix = "docker.io/library"
        location = "long.example/official"
    """)
    assert places(settings, "redis") == ["long.example/official/redis"]
    assert places(settings, "me/tool") == ["short.example/all/me/tool"]


def test_a_prefix_with_a_tag() -> None:
    settings = conf('[[registry]]\nprefix = "example.com/a:1"\nblocked = true')
    with pytest.raises(RegistryBlocked):
        settings.endpoints(Reference.parse("example.com/a:1"))
    assert places(settings, "example.com/a:2") == ["example.com/a"]
    assert places(settings, "example.com/a:12") == ["example.com/a"]
    rewritten = conf('[[registry]]\nprefix = "example.com/a:1"\nlocation = "example.com/b:2"')
    with pytest.raises(Unsupported):
        rewritten.endpoints(Reference.parse("example.com/a:1"))


def test_what_may_be_spoken_to_in_plain() -> None:
    settings = RegistrySettings(conf=conf(EXAMPLE).conf, insecure=("listed.example",))
    assert settings.permits_plain("listed.example")
    assert settings.permits_plain("127.0.0.1:999")
    assert settings.permits_plain("localhost")
    assert not settings.permits_plain("169.254.169.254")
    assert not settings.permits_plain("example.com")
    assert not settings.permits_plain("127.0.0.1.example.com")


def test_a_registry_as_a_whole() -> None:
    settings = RegistrySettings(insecure=("old.example",))
    assert settings.registry_endpoint("docker.io").host == "registry-1.docker.io"
    assert settings.registry_endpoint("old.example").permits_plain
    for text in ("https://x", "a b", "", "../x", "a/b"):
        with pytest.raises(InvalidRegistry):
            settings.registry_endpoint(text)


# --- Names as typed -------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "candidates"), [
    ("fedora", ["registry.fedoraproject.org/fedora"]),
    ("fedora:40", ["registry.fedoraproject.org/fedora:40"]),
    ("my/tool@sha256:" + "a" * 64, ["quay.io/mine/tool@sha256:" + "a" * 64]),
    ("redis:7", ["example.com/redis:7", "other.example/redis:7"]),
    ("docker.io/library/fedora", ["docker.io/library/fedora"]),
    ("docker.io/redis", ["docker.io/library/redis"]),
    ("localhost:5000/fedora", ["localhost:5000/fedora"]),
])
def test_what_a_name_may_mean(text: str, candidates: list[str]) -> None:
    assert [found.canonical for found in conf(EXAMPLE).conf.candidates(text)] == candidates


def test_without_a_configuration_names_mean_docker_hub() -> None:
    assert [found.canonical for found in RegistriesConf().candidates("redis")] == ["docker.io/library/redis"]


# --- Files ----------------------------------------------------------------------------------------


def test_later_files_replace_what_earlier_ones_said(tmp_path: Path) -> None:
    drop_ins = tmp_path / "registries.conf.d"
    drop_ins.mkdir()
    main = tmp_path / "registries.conf"
    main.write_text(EXAMPLE)
    (drop_ins / "20-b.conf").write_text('[aliases]\n"fedora" = ""\n"new" = "b.example/new"\n')
    (drop_ins / "10-a.conf").write_text(
        '[[registry]]\nlocation = "registry.com"\ninsecure = true\n[aliases]\n"new" = "a.example/new"\n'
    )
    (drop_ins / "ignored.txt").write_text("not TOML at all {")
    loaded = RegistriesConf.load([tmp_path / "absent", main, drop_ins])
    assert "fedora" not in loaded.aliases
    assert loaded.aliases["new"] == "b.example/new"
    assert loaded.search == ("example.com", "other.example")
    rule = loaded.rule_for(Reference.parse("registry.com/a"))
    assert rule is not None
    assert rule.insecure
    assert not rule.mirrors


@pytest.mark.parametrize(("text", "message"), [
    ("[registries.search]\nregistries = ['a']", "version 1"),
    ("registry = 5", "array of tables"),
    ("[[registry]]\n", "needs a prefix or a location"),
    ("[[registry]]\nprefix = 5", "must be a string"),
    ("[[registry]]\nprefix = 'a.b'\ninsecure = 'yes'", "must be true or false"),
    ("[[registry]]\nlocation = 'https://a.b/c'", "does not begin with a registry host"),
    ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\n", "needs a location"),
    ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'x'", "must be all"),
    ("unqualified-search-registries = 'a'", "must be a list"),
    ("unqualified-search-registries = ['a b']", "is not a registry"),
    ("[aliases]\na = 5", "must map names"),
    ("{", "not TOML"),
])
def test_configurations_that_are_not(text: str, message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message):
        RegistriesConf.parse(text.encode())
