"""What is a cache, and what only looks like one."""

from __future__ import annotations

import pytest

from lamina.insight.caches import CACHES, CacheFinder


@pytest.mark.parametrize(("path", "directory"), [
    ("var/lib/apt/lists/deb.debian.org_dists_Packages.lz4", "var/lib/apt/lists"),
    ("var/lib/apt/lists/partial/x", "var/lib/apt/lists"),
    ("var/cache/apt/archives/curl_8.deb", "var/cache/apt/archives"),
    ("var/cache/apt/pkgcache.bin", "var/cache/apt/pkgcache.bin"),
    ("var/cache/dnf/x/y.rpm", "var/cache/dnf"),
    ("var/cache/yum/x", "var/cache/yum"),
    ("var/cache/zypp/packages/a.rpm", "var/cache/zypp"),
    ("var/cache/apk/APKINDEX.1.tar.gz", "var/cache/apk"),
    ("var/log/apt/history.log", "var/log/apt"),
    ("var/log/dpkg.log", "var/log/dpkg.log"),
    ("root/.cache/pip/http/a", "root/.cache/pip"),
    ("home/me/.cache/pip/x", "home/me/.cache/pip"),
    (".cache/pip/x", ".cache/pip"),
    ("srv/app/.cache/go-build/00/x", "srv/app/.cache/go-build"),
    ("root/.npm/_cacache/content-v2/a", "root/.npm/_cacache"),
    ("usr/local/share/.cache/yarn/v6/x", "usr/local/share/.cache/yarn"),
    ("root/.cargo/registry/src/a.rs", "root/.cargo/registry"),
    ("usr/local/cargo/registry/cache/a.crate", "usr/local/cargo/registry"),
    ("opt/conda/pkgs/python.conda", "opt/conda/pkgs"),
    ("home/me/miniconda3/pkgs/x", "home/me/miniconda3/pkgs"),
    ("usr/local/lib/ruby/gems/3.3.0/cache/rake.gem", "usr/local/lib/ruby/gems/3.3.0/cache"),
    ("tmp/x", "tmp"),
    ("var/tmp/deep/er/x", "var/tmp"),
])
def test_caches(path: str, directory: str) -> None:
    found = CacheFinder().find(path)
    assert found is not None
    assert found[1] == directory


@pytest.mark.parametrize("path", [
    "tmp", "tmpx/a", "srv/tmp/a", "var/lib/apt/lists", "var/lib/apt/listsx/a", "var/lib/dpkg/status",
    "var/cache/ldconfig/aux-cache", "var/log/app.log", "app/.yarn/cache/left-pad.zip", "usr/lib/python3/__pycache__/a.pyc",
    "app/.npm/_cacache/x", "root/.npm/readme", "usr/share/doc/pip/.cache/pipx/a", "home/miniconda3/pkgs/x", "root/.m2/repository/a.jar",
    "go/pkg/mod/cache/download/a", "conda/pkgs/x",
])
def test_no_caches(path: str) -> None:
    assert CacheFinder().find(path) is None


def test_every_cache_says_what_to_do_on_one_line() -> None:
    for cache in CACHES:
        assert cache.directories or cache.files
        assert cache.fix
        assert cache.fix.isprintable()
    assert len({cache.name for cache in CACHES}) == len(CACHES)


def test_answers_do_not_depend_on_what_was_asked_before() -> None:
    finder = CacheFinder()
    assert finder.find("var/log/x.log") is None
    assert finder.find("var/log/dpkg.log") is not None
    assert finder.find("var/log/x.log") is None
