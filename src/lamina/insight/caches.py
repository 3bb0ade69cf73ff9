"""Files that tools leave behind and that nobody needs at run time: where they lie, and how to be rid of them.

Only what is certain is here. What a program may read when it runs is not: compiled Python
(``__pycache__``), Yarn's ``.yarn/cache`` of a project, Go's and Maven's module stores, ``/var/cache`` at
large.
"""

from __future__ import annotations

import re

from lamina.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """``directories`` are regular expressions for directories that hold nothing else; ``files`` are paths."""

    name: str
    fix: str
    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def _mount(target: str) -> str:
    return f"RUN --mount=type=cache,target={target}"


_HOME = r"(?:root|home/[^/]+)/"

CACHES = (
    Cache(
        name="apt's package lists",
        directories=("var/lib/apt/lists",),
        fix=f"rm -rf /var/lib/apt/lists/* in the same RUN, or {_mount('/var/lib/apt/lists')}",
    ),
    Cache(
        name="apt's package cache",
        directories=("var/cache/apt/archives",),
        files=("var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin"),
        fix=f"apt-get clean in the same RUN, or {_mount('/var/cache/apt')}",
    ),
    Cache(
        name="dpkg's and debconf's backups",
        files=("var/lib/dpkg/status-old", "var/lib/dpkg/available-old", "var/lib/dpkg/diversions-old",
               "var/lib/dpkg/statoverride-old", "var/cache/debconf/config.dat-old",
               "var/cache/debconf/passwords.dat-old", "var/cache/debconf/templates.dat-old"),
        fix="rm -f /var/lib/dpkg/*-old /var/cache/debconf/*-old in the same RUN",
    ),
    Cache(
        name="logs of installing",
        directories=("var/log/apt",),
        files=("var/log/alternatives.log", "var/log/bootstrap.log", "var/log/dpkg.log", "var/log/dnf.log",
               "var/log/dnf.librepo.log", "var/log/dnf.rpm.log", "var/log/dnf5.log", "var/log/hawkey.log",
               "var/log/yum.log", "var/log/pacman.log"),
        fix="rm -rf /var/log/apt /var/log/*.log in the same RUN",
    ),
    Cache(
        name="dnf's and yum's cache",
        directories=("var/cache/dnf", "var/cache/yum", "var/cache/libdnf5"),
        fix=f"dnf clean all in the same RUN, or {_mount('/var/cache/dnf')}",
    ),
    Cache(
        name="zypper's cache",
        directories=("var/cache/zypp",),
        fix=f"zypper clean --all in the same RUN, or {_mount('/var/cache/zypp')}",
    ),
    Cache(
        name="pacman's package cache",
        directories=("var/cache/pacman/pkg",),
        fix=f"pacman -Scc in the same RUN, or {_mount('/var/cache/pacman/pkg')}",
    ),
    Cache(
        name="apk's cache",
        directories=("var/cache/apk",),
        fix=f"apk add --no-cache, or {_mount('/var/cache/apk')}",
    ),
    Cache(
        name="pip's cache",
        directories=(r"(?:.*/)?\.cache/pip",),
        fix=f"pip install --no-cache-dir, or {_mount('/root/.cache/pip')}",
    ),
    Cache(
        name="cache of a Python package tool",
        directories=(r"(?:.*/)?\.cache/(?:uv|pypoetry|pipenv|pdm)",),
        fix=f"rm -rf ~/.cache in the same RUN, or {_mount('/root/.cache')}",
    ),
    Cache(
        name="npm's cache",
        directories=(rf"{_HOME}\.npm/_(?:cacache|logs|prebuilds)",),
        fix=f"npm cache clean --force in the same RUN, or {_mount('/root/.npm')}",
    ),
    Cache(
        name="yarn's cache",
        directories=(r"(?:.*/)?\.cache/yarn",),
        fix=f"yarn cache clean in the same RUN, or {_mount('/usr/local/share/.cache/yarn')}",
    ),
    Cache(
        name="cache of a JavaScript build tool",
        directories=(r"(?:.*/)?\.cache/(?:node-gyp|pnpm)", rf"{_HOME}\.bun/install/cache"),
        fix=f"rm -rf ~/.cache ~/.bun/install/cache in the same RUN, or {_mount('/root/.cache')}",
    ),
    Cache(
        name="Go's build cache",
        directories=(r"(?:.*/)?\.cache/go-build",),
        fix=f"go clean -cache in the same RUN, or {_mount('/root/.cache/go-build')}",
    ),
    Cache(
        name="Cargo's registry",
        directories=(r"(?:.*/)?\.cargo/registry", "usr/local/cargo/registry"),
        fix='rm -rf "$CARGO_HOME/registry" in the same RUN, or '
            f"{_mount('/usr/local/cargo/registry')}",
    ),
    Cache(
        name="downloaded gems",
        directories=(r"usr/local/bundle/(?:ruby/[^/]+/)?cache", r"usr/(?:local/)?lib/ruby/gems/[^/]+/cache",
                     r"var/lib/gems/[^/]+/cache"),
        fix='rm -rf "$(gem env gemdir)/cache" in the same RUN',
    ),
    Cache(
        name="composer's cache",
        directories=(r"(?:.*/)?\.cache/composer", rf"{_HOME}\.composer/cache"),
        fix=f"composer clear-cache in the same RUN, or {_mount('/root/.cache/composer')}",
    ),
    Cache(
        name="conda's packages",
        directories=(r"(?:opt|root|home/[^/]+)/(?:conda|(?:mini|ana)conda3?|miniforge3?|mambaforge)/pkgs",),
        fix="conda clean --all --yes in the same RUN",
    ),
    Cache(
        name="temporary files",
        directories=("tmp", "var/tmp"),
        fix="rm -rf /tmp/* /var/tmp/* in the same RUN, or RUN --mount=type=tmpfs,target=/tmp",
    ),
)

_BY_FILE = {path: cache for cache in CACHES for path in cache.files}
_PATTERNS = tuple(
    (re.compile(rf"({pattern})(?:/|\Z)"), cache) for cache in CACHES for pattern in cache.directories
)


class CacheFinder:
    """Remembers its answers by directory: an image has far fewer of them than files."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Cache, str] | None] = {}

    def find(self, path: str) -> tuple[Cache, str] | None:
        """The cache that a file belongs to, and the cache's own directory or the file itself."""
        cache = _BY_FILE.get(path)
        if cache is not None:
            return cache, path
        directory = path.rpartition("/")[0]
        if directory not in self._known:
            self._known[directory] = _directory_cache(directory)
        return self._known[directory]


def _directory_cache(directory: str) -> tuple[Cache, str] | None:
    for pattern, cache in _PATTERNS:
        found = pattern.match(directory)
        if found is not None:
            return cache, found[1]
    return None
