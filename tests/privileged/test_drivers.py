"""Every driver against every case, as root, as a user with subordinate ids, as one without, and without mounts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser

from lamina.testing.conformance import CASES

pytestmark = pytest.mark.privileged


@dataclass(frozen=True)
class Who:
    """``user`` names a fixture; the empty text is root."""

    driver: str
    user: str = ""
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join((self.driver, self.user.replace("_", " ") or "root", *self.more))


EVERYONE = (
    Who("overlay2"), Who("erofs"), Who("vfs"),
    Who("overlay2", "ordinary_user"), Who("vfs", "ordinary_user"), Who("overlay2", "user_without_ranges"),
    Who("vfs", "user_without_ranges", ("--no-mounts",)),
)


def command_of(who: Who, directory: Path, user: OrdinaryUser | None) -> list[str]:
    arguments = ("-m", "lamina.testing.conformance", who.driver, "--root", str(directory), "--json", *who.more)
    if user is None:
        return [sys.executable, *arguments]
    directory.chmod(0o755)
    shutil.chown(directory, user.uid, user.gid)
    return user.python(*arguments)


@pytest.fixture(scope="module", params=[
    pytest.param(who, id=str(who), marks=pytest.mark.xdist_group(f"conformance {who}")) for who in EVERYONE
])
def problems(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """All cases in one process, in a mount namespace of its own; each test then looks at its own case."""
    who: Who = request.param
    user = request.getfixturevalue(who.user) if who.user else None
    directory = Path(tempfile.mkdtemp(prefix="lamina-conformance-"))
    done = subprocess.run(command_of(who, directory, user), capture_output=True, text=True, check=False)
    found = {line["case"]: line["problem"] for line in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == CASES.keys(), done.stderr
    yield found
    assert list(directory.iterdir()) == []
    directory.rmdir()


@pytest.mark.parametrize("name", CASES)
def test_case(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""
