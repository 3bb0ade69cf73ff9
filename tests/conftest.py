"""What every test may ask for, and what none of them inherits from the developer's shell."""

from __future__ import annotations

import functools
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).parent.parent

# The machines that run this are shared and slow at times: a deadline would fail for reasons that are not
# the code's. Where CI is set, the same examples every time: a found failure is found again.
hypothesis.settings.register_profile("lamina", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("lamina")

# Settings of the person running the tests must not steer them.
_OURS_TO_KEEP = ("LAMINA_SHARED_IMAGES", "LAMINA_TEST_")
_FOREIGN = ("LAMINA_", "DOCKER_", "CONTAINERS_", "REGISTRY_", "BUILDAH_", "STORAGE_", "XDG_")
_FOREIGN_NAMES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "source_date_epoch", "no_color",
                  "force_color", "columns", "lines"}
for _name in list(os.environ):
    if _name.startswith(_OURS_TO_KEEP):
        continue
    if _name.startswith(_FOREIGN) or _name.lower() in _FOREIGN_NAMES:
        del os.environ[_name]


# Longer values have names of their own: as they are, some are 60 MB, and every process keeps all names.
_LONGEST_NAME = 60


def pytest_make_parametrize_id(val: object) -> str | None:
    """A short name for a long value: how it begins, its length, and a digest that keeps others apart from it."""
    if not isinstance(val, str | bytes) or len(val) <= _LONGEST_NAME:
        return None
    data = val if isinstance(val, bytes) else val.encode("utf-8", "surrogatepass")
    begin = ascii(val[:20])[1:-1] if isinstance(val, str) else repr(val[:20])[2:-1]
    return f"{begin}… ({len(val)}, {hashlib.sha256(data).hexdigest()[:8]})"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Never a silent skip: who asks for these tests without root is told what to do."""
    if os.geteuid() != 0 and any(item.get_closest_marker(name) for name in ("privileged", "compat")):
        pytest.fail('needs root: run as root, or leave it out with -m "not privileged and not compat"', pytrace=False)


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """Real images made by other tools. The one thing tests may skip for: it is not part of the repository."""
    path = Path(os.environ.get("LAMINA_SHARED_IMAGES") or REPOSITORY.parent / "shared" / "images")
    if not (path / "README.md").is_file():
        pytest.skip(f"{path}: no collection of real images here (set LAMINA_SHARED_IMAGES to one)")
    return path


@dataclass(frozen=True)
class OrdinaryUser:
    """A user without privilege, for tests that run as root: commands run with that user's rights."""

    name: str
    uid: int
    gid: int
    home: Path

    def command(self, *arguments: str | Path, **environment: str) -> list[str]:
        """To be given to ``subprocess``; starts in a clean environment with HOME and PATH."""
        given = {"HOME": str(self.home), "USER": self.name, "PATH": os.environ["PATH"], **environment}
        return [
            "setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--inh-caps=-all",
            "env", "-i", "-C", str(self.home), *(f"{name}={value}" for name, value in given.items()),
            *map(str, arguments),
        ]

    def python(self, *arguments: str | Path, **environment: str) -> list[str]:
        """The interpreter with the product importable, also where the tests' own is out of this user's reach."""
        return self.command(_interpreter(self), *arguments, **{"PYTHONPATH": _import_path(self), **environment})

    def can(self, *arguments: str | Path) -> bool:
        return subprocess.run(self.command(*arguments), capture_output=True, check=False).returncode == 0


@functools.cache
def _interpreter(user: OrdinaryUser) -> str:
    for candidate in (sys.executable, "/usr/bin/python3"):
        if user.can(candidate, "-c", f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}"):
            return candidate
    raise AssertionError(f"no Python {sys.version_info[:2]} that {user.name} may run")


@functools.cache
def _import_path(user: OrdinaryUser) -> str:
    paths = [REPOSITORY / "src", *(Path(path) for path in sys.path if path.endswith("site-packages"))]
    return os.pathsep.join(str(_reachable(user, path)) for path in paths)


def _reachable(user: OrdinaryUser, path: Path) -> Path:
    """The path itself, or a copy of it where a directory above is closed to this user, as /root is."""
    if user.can("ls", path):
        return path
    opened = _opened()
    copy = opened / path.relative_to("/")
    if not copy.exists():
        shutil.copytree(path, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@functools.cache
def _opened() -> Path:
    import atexit

    directory = Path(tempfile.mkdtemp(prefix="lamina-opened-"))
    directory.chmod(0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _user(name: str) -> OrdinaryUser:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise AssertionError(f"user {name} is missing: tests/run makes it") from None
    return OrdinaryUser(found.pw_name, found.pw_uid, found.pw_gid, Path(found.pw_dir))


def remove_when_idle(directory: Path) -> None:
    """``run --rm`` tells the end before its monitor has undone the last of it: that may still come and go."""
    deadline = time.monotonic() + 20
    while directory.exists():
        try:
            shutil.rmtree(directory)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def ordinary_user() -> OrdinaryUser:
    """Has a range of subordinate ids, as most people's accounts do."""
    return _user("lamina-test")


@pytest.fixture(scope="session")
def user_without_ranges() -> OrdinaryUser:
    """Has no subordinate ids: only its own uid exists in a user namespace that it makes."""
    return _user("lamina-nosub")


@pytest.fixture
def user_directory(ordinary_user: OrdinaryUser) -> Iterator[Path]:
    """A directory that belongs to ``ordinary_user``: pytest's own ``tmp_path`` is closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="lamina-user-"))
    os.chown(directory, ordinary_user.uid, ordinary_user.gid)
    yield directory
    shutil.rmtree(directory)
