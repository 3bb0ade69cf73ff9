"""Ordinary users: entering namespaces, unpacking from outside of them, and mounts that live inside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import OrdinaryUser

pytestmark = pytest.mark.privileged

# Layers with several owners, a whiteout, and a directory that the upper layer only implies.
STACK = textwrap.dedent("""
    from lamina.testing.images import directory, file, make_layer, whiteout
    LAYERS = [
        make_layer([directory("d", mode=0o710, uid=33, gid=34), file("d/x", b"1" * 2_000_000, uid=1000, gid=1001),
                    directory("closed", mode=0o700, uid=65534), file("closed/in", b"secret", uid=65534, mode=0o600),
                    file("gone", b"g")]),
        make_layer([file("d/new", b"2", uid=5), whiteout("gone"), file("big", b"3" * 2_000_000)]),
    ]
""")

# What an engine does: threads, an unpacker, and no namespace of its own.
UNPACK = STACK + textwrap.dedent("""
    import json, os, sys, threading
    from pathlib import Path
    from lamina.snapshot.unpack import Unpacker
    from lamina.testing.bench import Bench
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    bench = Bench(sys.argv[2], Path(sys.argv[1]))
    with Unpacker(bench.layers, bench.driver) as unpacker:
        for made in LAYERS:
            bench.store.put_bytes(made.descriptor.media_type, made.blob)
            unpacker.submit(made.descriptor, made.diff_id, bench.store.arrived(made.descriptor))
        unpacker.finish([made.diff_id for made in LAYERS])
    print(json.dumps({
        "ownership": bench.driver.identity.ownership, "entered": bench.driver.identity.is_entered,
        "findings": [finding.problem for finding in bench.layers.check()],
        "trees": sorted(path.name for path in Path(sys.argv[1]).glob("layers/*/*/trees/*")),
    }))
    bench.close()
""")

LOOK = STACK + textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from lamina.oci.config import chain_ids
    from lamina.snapshot.namespace import current_identity, enter_user_namespace
    from lamina.testing.bench import Bench
    from lamina.testing.model import read_tree
    enter_user_namespace(current_identity())
    bench = Bench(sys.argv[2], Path(sys.argv[1]))
    with bench.viewed(list(chain_ids([made.diff_id for made in LAYERS]))[-1]) as path:
        found = read_tree(path)
    print(json.dumps({name: [each.kind, oct(each.mode), each.uid, each.gid] for name, each in found.items() if name}))
    bench.close()
""")

REMOVE = STACK + textwrap.dedent("""
    import sys
    from pathlib import Path
    from lamina.snapshot.collect import drop_unused
    from lamina.testing.bench import Bench
    bench = Bench(sys.argv[2], Path(sys.argv[1]))
    drop_unused(bench.driver, ())
    freed = [bench.layers.remove(made.diff_id) for made in LAYERS]
    assert min(freed) > 0, freed
    assert list(bench.layers.leftovers()) == []
    bench.close()
""")


@pytest.fixture(params=["ordinary_user", "user_without_ranges"])
def user(request: pytest.FixtureRequest) -> OrdinaryUser:
    found: OrdinaryUser = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def home(user: OrdinaryUser) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lamina-userns-"))
    os.chown(directory, user.uid, user.gid)
    yield directory
    shutil.rmtree(directory)


def run(user: OrdinaryUser, code: str, *arguments: str | Path, **environment: str) -> str:
    done = subprocess.run(
        user.python("-c", code, *arguments, **environment), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unpacked_outside_and_mounted_inside(user: OrdinaryUser, home: Path) -> None:
    made = json.loads(run(user, UNPACK, home / "root", "overlay2"))
    is_mapped = user.name == "lamina-test"
    assert made["ownership"] == ("mapped" if is_mapped else "single")
    assert not made["entered"]
    assert made["findings"] == []
    assert {name.split("-")[0] for name in made["trees"]} == {made["ownership"]}
    found = json.loads(run(user, LOOK, home / "root", "overlay2"))
    assert found.keys() == {"d", "d/x", "d/new", "closed", "closed/in", "big"}
    assert found["d"][:2] == ["d", "0o710"]
    if is_mapped:
        assert found["d"][2:] == [33, 34]
        assert found["d/x"][2:] == [1000, 1001]
        assert found["closed/in"] == ["f", "0o600", 65534, 0]
        (tree,) = (home / "root" / "layers").glob("*/*/trees/*/closed")
        assert tree.stat().st_uid not in (0, user.uid, 65534), "the owner on disk is a subordinate id"
    else:
        assert {tuple(each[2:]) for each in found.values()} == {(0, 0)}
    run(user, REMOVE, home / "root", "overlay2")
    assert list((home / "root" / "layers" / "sha256").iterdir()) == []


def test_copies_keep_owners_too(ordinary_user: OrdinaryUser, user_directory: Path) -> None:
    run(ordinary_user, UNPACK, user_directory / "root", "vfs")
    found = json.loads(run(ordinary_user, LOOK, user_directory / "root", "vfs"))
    assert found["closed/in"] == ["f", "0o600", 65534, 0]
    run(ordinary_user, REMOVE, user_directory / "root", "vfs")


def test_ranges_that_do_not_work_are_done_without(ordinary_user: OrdinaryUser, user_directory: Path) -> None:
    """newuidmap is there and refuses, as in a sandbox without set-uid programs."""
    programs = user_directory / "bin"
    programs.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (programs / name).write_text("#!/bin/sh\necho 'newuidmap: not permitted' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    made = json.loads(run(ordinary_user, UNPACK, user_directory / "root", "overlay2", PATH=path))
    assert made["ownership"] == "single"
    code = "from lamina.snapshot.namespace import *; enter_user_namespace(current_identity())"
    done = subprocess.run(ordinary_user.python("-c", code, PATH=path), capture_output=True, text=True, check=False)
    assert "NamespaceDenied: newuidmap: newuidmap: not permitted" in done.stderr


def test_what_probing_says(user: OrdinaryUser, home: Path) -> None:
    code = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        from lamina.snapshot.probing import probe
        print(json.dumps([[found.name, found.is_usable, found.reason] for found in probe(Path(sys.argv[1]))]))
    """)
    found = {name: (is_usable, reason) for name, is_usable, reason in json.loads(run(user, code, home))}
    assert found["erofs"][0] is False
    assert "needs root" in found["erofs"][1]
    assert found["overlay2"][0] is True
    assert "user namespace" in found["overlay2"][1]
    assert found["vfs"][0] is True


def test_without_namespaces_files_are_copied(user: OrdinaryUser, home: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from lamina.snapshot.namespace import unprivileged_identity
        from lamina.snapshot.probing import choose, remember
        from lamina.content.state import State
        from lamina.snapshot.layers import LayerStore
        root = Path(sys.argv[1])
        remember(root, "vfs", unprivileged_identity())
        state = State(root / "state.sqlite")
        driver = choose(root, state, LayerStore(root))
        assert not driver.identity.may_mount
        assert driver.identity.is_entered
        print(driver.name)
    """)
    assert run(user, code, home) == "vfs\n"


def test_the_namespace_is_private(user: OrdinaryUser, home: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from lamina.snapshot import syscalls
        from lamina.snapshot.namespace import current_identity, enter_user_namespace
        enter_user_namespace(current_identity())
        assert os.getuid() == 0
        place = Path(sys.argv[1]) / "place"
        place.mkdir()
        syscalls.mount("tmpfs", str(place), "tmpfs", 0)
        (place / "secret").touch()
        again = current_identity()
        assert again.is_entered and again.may_mount and not again.is_initial
        print(again.key)
    """)
    inside = run(user, code, home).strip()
    assert list((home / "place").iterdir()) == []
    outside = run(user, "from lamina.snapshot.namespace import *; print(current_identity().key)").strip()
    assert inside == outside, "trees made outside are those that the inside looks for"


def test_root_gets_a_private_mount_namespace(tmp_path: Path) -> None:
    import sys

    code = textwrap.dedent("""
        import sys
        from lamina.snapshot import syscalls
        from lamina.snapshot.namespace import current_identity, enter_user_namespace
        identity = current_identity()
        assert identity.is_entered and identity.xattr_namespace == "trusted", identity
        enter_user_namespace(identity)
        syscalls.mount("tmpfs", sys.argv[1], "tmpfs", 0)
        open(sys.argv[1] + "/secret", "w").close()
    """)
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert list(tmp_path.iterdir()) == []


def test_threads_cannot_enter(user: OrdinaryUser) -> None:
    code = textwrap.dedent("""
        import threading
        from lamina.snapshot.namespace import NamespaceDenied, current_identity, enter_user_namespace
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        try:
            enter_user_namespace(current_identity())
        except NamespaceDenied as error:
            print(error)
    """)
    assert "user namespaces:" in run(user, code)
