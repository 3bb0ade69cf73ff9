"""Mark, sweep and leases: nothing that is in use goes, everything else can."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.content.test_local import describe, put_image

from lamina.content.collect import check_blobs, check_images, image_roots, sweep, unreachable
from lamina.content.lease import Lease, live_content, process_start
from lamina.content.local import LocalStore
from lamina.oci.descriptor import Platform
from lamina.oci.digest import Digest

LATER = time.time() + 3600


@pytest.fixture
def store(tmp_path: Path):
    opened = LocalStore.create(tmp_path / "root", platform=Platform(os="linux", architecture="amd64"))
    yield opened
    opened.close()


def blobs(store: LocalStore) -> set[Digest]:
    return {digest for digest, _size in store.walk()}


def test_what_an_image_reaches_stays_and_the_rest_goes(store: LocalStore) -> None:
    manifest = put_image(store)
    store.record(manifest.descriptor, names=("docker.io/library/a:1",))
    kept = blobs(store)
    store.put(describe(b"stray"), io.BytesIO(b"stray"))
    promised = sum(size for _digest, size in unreachable(store, image_roots(store), LATER))
    swept = sweep(store, lambda: image_roots(store), LATER)
    assert swept.blobs == (Digest.of(b"stray"),)
    assert swept.freed == promised > 0
    assert blobs(store) == kept


def test_a_young_blob_gets_the_benefit_of_the_doubt(store: LocalStore) -> None:
    store.put(describe(b"stray"), io.BytesIO(b"stray"))
    assert sweep(store, list, time.time()).blobs == ()
    assert sweep(store, list, time.time(), grace=0.0).blobs == (Digest.of(b"stray"),)


def test_among_limits_what_goes(store: LocalStore) -> None:
    for data in (b"one", b"two"):
        store.put(describe(data), io.BytesIO(data))
    sweep(store, list, LATER, among={Digest.of(b"one")})
    assert blobs(store) == {Digest.of(b"two")}


def test_a_lease_of_this_process_protects_and_ends(store: LocalStore) -> None:
    store.put(describe(b"held"), io.BytesIO(b"held"))
    with Lease(store.state, "test") as lease:
        lease.hold([Digest.of(b"held")])
        assert sweep(store, list, LATER).blobs == ()
    assert sweep(store, list, LATER).blobs == (Digest.of(b"held"),)


def test_a_lease_of_a_dead_process_is_dropped(store: LocalStore) -> None:
    script = (
        "import sys, os; from pathlib import Path; from lamina.content.state import State;"
        "from lamina.content.lease import Lease; from lamina.oci.digest import Digest;"
        "lease = Lease(State(Path(sys.argv[1])), 'doomed'); lease.hold([Digest.of(b'x')]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(store.root / "state.sqlite")], check=True)
    assert store.state.rows("SELECT count(*) FROM leases") == [(1,)]
    assert live_content(store.state) == set()
    assert store.state.rows("SELECT count(*) FROM leases") == [(0,)]


def test_a_reused_pid_is_not_the_same_process(store: LocalStore) -> None:
    lease = Lease(store.state, "test")
    lease.hold([Digest.of(b"x")])
    with store.state.transaction() as connection:
        connection.execute("UPDATE leases SET started = started - 1")
    assert live_content(store.state) == set()


def test_process_start_knows_the_living_from_the_dead() -> None:
    assert process_start(os.getpid())
    assert process_start(2**22 + 1) is None


def test_check_finds_a_flipped_bit_and_repairs_by_removing_it(store: LocalStore) -> None:
    manifest = put_image(store)
    store.record(manifest.descriptor, names=("docker.io/library/a:1",))
    assert list(check_blobs(store, repair=False)) == []
    assert list(check_images(store)) == []
    layer = manifest.layers[0].digest
    path = store.blob_path(layer)
    path.chmod(0o644)
    path.write_bytes(b"lAyer")
    (finding,) = check_blobs(store, repair=True)
    assert finding.subject == layer
    assert finding.repaired
    (missing,) = check_images(store)
    assert missing.subject == "docker.io/library/a:1"
    assert layer in missing.problem
