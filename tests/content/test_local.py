"""The local store: bytes land whole or not at all, names point at what is there, other tools can read it."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lamina.content import durable
from lamina.content.arrival import ArrivalFailed
from lamina.content.local import LocalStore, NotALayout
from lamina.content.state import State
from lamina.content.store import BlobNotFound, DigestMismatch, NameNotFound, SizeMismatch
from lamina.errors import Unsupported
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import Index, Manifest

AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")


def describe(data: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))


@pytest.fixture
def store(tmp_path: Path):
    opened = LocalStore.create(tmp_path / "root", platform=AMD64)
    yield opened
    opened.close()


def tree(root: Path) -> list[str]:
    """Everything below a directory but SQLite's own files."""
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if not path.name.startswith("state.sqlite")
    )


def put_image(store: LocalStore, *, architecture: str = "amd64", text: bytes = b"layer") -> Manifest:
    layer = describe(text)
    store.put(layer, io.BytesIO(text))
    config = ImageConfig.build({
        "created": "2026-01-02T03:04:05Z", "architecture": architecture, "os": "linux",
        "config": {"Labels": {"who": "me"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest.of(b"diff of " + text)]},
        "history": [{"created_by": "COPY"}],
    })
    manifest = Manifest.build(store.put_bytes(OCI_CONFIG, config.raw), [layer])
    store.put_bytes(manifest.media_type, manifest.raw)
    return manifest


def test_a_new_root_is_a_valid_private_layout(tmp_path: Path) -> None:
    LocalStore.create(tmp_path / "a" / "root", platform=AMD64).close()
    root = tmp_path / "a" / "root"
    assert json.loads((root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((root / "index.json").read_text())["manifests"] == []
    # CVE-2021-41091: setuid files of unpacked layers must be out of other users' reach.
    assert root.stat().st_mode & 0o077 == 0


def test_a_layout_of_another_tool_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(NotALayout, match="another tool"):
        LocalStore.create(tmp_path, platform=AMD64)
    assert tree(tmp_path) == ["index.json", "oci-layout"]


def test_put_makes_bytes_readable_and_is_idempotent(store: LocalStore) -> None:
    wanted = describe(b"hello")
    assert not store.has(wanted)
    store.put(wanted, io.BytesIO(b"hello"))
    store.put(wanted, io.BytesIO(b"never read"))
    with store.open(wanted) as file:
        assert file.read() == b"hello"
    with store.open_at(wanted, 3) as file:
        assert file.read() == b"lo"
    assert list(store.walk()) == [(wanted.digest, 5)]


@pytest.mark.parametrize(
    ("sent", "error"), [(b"hellp", DigestMismatch), (b"hell", SizeMismatch), (b"hello!", SizeMismatch)]
)
def test_wrong_bytes_leave_nothing_behind(store: LocalStore, sent: bytes, error: type[Exception]) -> None:
    before = tree(store.root)
    with pytest.raises(error):
        store.put(describe(b"hello"), io.BytesIO(sent))
    assert tree(store.root) == before


def test_reading_what_is_not_there_says_so(store: LocalStore) -> None:
    with pytest.raises(BlobNotFound, match="not in the store"):
        store.open(describe(b"hello"))
    with pytest.raises(NameNotFound):
        store.resolve("docker.io/library/redis:latest")


def test_an_interrupted_blob_goes_on_where_it_stopped(store: LocalStore) -> None:
    data = os.urandom(100_000)
    wanted = describe(data)
    with pytest.raises(ConnectionError), store.begin(wanted) as ingest:
        ingest.write(data[:60_000])
        raise ConnectionError
    with store.begin(wanted) as ingest:
        assert ingest.offset == 60_000
        ingest.write(data[60_000:])
        ingest.commit(wanted.media_type)
    assert store.has(wanted)
    assert os.listdir(store.root / "ingest") == []


def test_a_resumed_blob_whose_beginning_is_wrong_is_refused_and_starts_afresh(store: LocalStore) -> None:
    wanted = describe(b"hello")
    with pytest.raises(ConnectionError), store.begin(wanted) as ingest:
        ingest.write(b"HE")
        raise ConnectionError
    with pytest.raises(DigestMismatch), store.begin(wanted) as ingest:
        ingest.write(b"llo")
        ingest.commit(wanted.media_type)
    with store.begin(wanted) as ingest:
        assert ingest.offset == 0


def test_two_threads_that_want_the_same_blob_share_the_work(store: LocalStore) -> None:
    wanted = describe(b"hello")
    ingest = store.begin(wanted)
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(store.begin(wanted)))
    waiter.start()
    ingest.write(b"hello")
    assert answers == []  # still waiting for the lock
    ingest.commit(wanted.media_type)
    ingest.__exit__(None, None, None)
    waiter.join(10)
    assert answers == [None]


def test_an_arrival_is_readable_while_it_grows(store: LocalStore) -> None:
    data = b"abcdef"
    seen = []
    with store.begin(describe(data)) as ingest:
        arrival = ingest.arrival
        file = open(arrival.path, "rb")

        def follow() -> None:
            position = 0
            while (available := arrival.wait(position)) > position:
                seen.append(file.read(available - position))
                position = available

        follower = threading.Thread(target=follow)
        follower.start()
        for start in (0, 2, 4):
            ingest.write(data[start:start + 2])
        ingest.commit(OCI_LAYER_GZIP)
    follower.join(10)
    file.close()
    assert b"".join(seen) == data


def test_an_arrival_that_fails_tells_its_followers(store: LocalStore) -> None:
    with pytest.raises(ConnectionError), store.begin(describe(b"abc")) as ingest:
        arrival = ingest.arrival
        raise ConnectionError
    with pytest.raises(ArrivalFailed):
        arrival.wait(0)


def test_records_names_and_index_json_agree(store: LocalStore) -> None:
    manifest = put_image(store)
    store.record(manifest.descriptor, names=("docker.io/library/a:1", "docker.io/library/a:2"))
    assert store.resolve("docker.io/library/a:1").digest == manifest.descriptor.digest
    (record,) = store.catalog.records()
    assert record.names == ("docker.io/library/a:1", "docker.io/library/a:2")
    assert record.platform == "linux/amd64"
    assert json.loads(record.labels) == {"who": "me"}
    entries = json.loads((store.root / "index.json").read_text())["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == list(record.names)


def test_an_image_that_lost_its_name_stays_listed(store: LocalStore) -> None:
    first, second = put_image(store), put_image(store, text=b"other")
    store.record(first.descriptor, names=("docker.io/library/a:1",))
    store.record(second.descriptor, names=("docker.io/library/a:1",))
    assert {record.descriptor.digest: record.names for record in store.catalog.records()} == {
        first.descriptor.digest: (), second.descriptor.digest: ("docker.io/library/a:1",),
    }
    assert len(json.loads((store.root / "index.json").read_text())["manifests"]) == 2


def test_of_an_index_the_host_platform_stands_for_the_image(store: LocalStore) -> None:
    arm, amd = put_image(store, architecture="arm64", text=b"arm"), put_image(store)
    entries = [
        Descriptor(media_type=m.media_type, digest=m.descriptor.digest, size=m.descriptor.size, platform=p)
        for m, p in ((arm, ARM64), (amd, AMD64))
    ]
    index = Index.build(entries)
    store.put_bytes(index.media_type, index.raw)
    store.tag("docker.io/library/both:latest", index.descriptor)
    (record,) = store.catalog.records()
    assert record.manifest == amd.descriptor.digest
    assert record.descriptor.digest == index.descriptor.digest


def test_bytes_of_a_received_document_are_kept_as_they_came(store: LocalStore) -> None:
    manifest = put_image(store)
    odd = b" " + manifest.raw + b"\n"
    wanted = describe(odd, manifest.media_type)
    store.put(wanted, io.BytesIO(odd))
    assert store.read_document(wanted) == odd


def test_a_state_file_of_a_newer_lamina_is_refused(tmp_path: Path) -> None:
    state = State(tmp_path / "state.sqlite")
    state.connection.execute("PRAGMA user_version=99")
    state.close()
    with pytest.raises(Unsupported, match="newer lamina"):
        State(tmp_path / "state.sqlite")


def test_nested_transactions_are_one(store: LocalStore) -> None:
    manifest = put_image(store)
    record = store.record(manifest.descriptor)
    with pytest.raises(RuntimeError), store.state.transaction():
        store.catalog.assign("docker.io/library/x:1", record.descriptor.digest)
        raise RuntimeError
    assert store.catalog.named("docker.io/library/x:1") is None


def test_write_file_replaces_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    durable.write_file(tmp_path / "f", b"one")
    durable.write_file(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    # RLIMIT_FSIZE stands in for ENOSPC: the kernel refuses the write in the same place (EFBIG).
    script = textwrap.dedent("""
        import io, resource, signal, sys
        from pathlib import Path
        from lamina.content.local import LocalStore
        from lamina.oci.descriptor import Descriptor, Platform
        from lamina.oci.digest import Digest
        store = LocalStore.create(Path(sys.argv[1]), platform=Platform(os="linux", architecture="amd64"))
        data = bytes(4 << 20)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        wanted = Descriptor(media_type="a/b", digest=Digest.of(data), size=len(data))
        try:
            store.put(wanted, io.BytesIO(data))
        except OSError as error:
            print(error.errno)
        print(list(store.walk()))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "root")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["27", "[]"]


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.02, 0.06])
def test_kill_at_any_moment_leaves_a_store_that_opens_and_resumes(tmp_path: Path, delay: float) -> None:
    script = textwrap.dedent("""
        import io, sys
        from pathlib import Path
        from lamina.content.local import LocalStore
        from lamina.oci.descriptor import Descriptor, Platform
        from lamina.oci.digest import Digest
        store = LocalStore.create(Path(sys.argv[1]), platform=Platform(os="linux", architecture="amd64"))
        print("open", flush=True)
        for number in range(100000):
            data = number.to_bytes(4, "big") * 50000
            store.put(Descriptor(media_type="a/b", digest=Digest.of(data), size=len(data)), io.BytesIO(data))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "root")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = LocalStore.create(tmp_path / "root", platform=AMD64)
    for digest, _size in store.walk():
        assert Digest.of(store.blob_path(digest).read_bytes()) == digest
    data = b"\0\0\0\0" * 50000
    store.put(describe(data), io.BytesIO(data))
    assert store.has(describe(data))
    store.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    state = State(tmp_path / "state.sqlite")
    state.connection.execute("CREATE TABLE child (of TEXT REFERENCES images DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), state.transaction() as connection:
        connection.execute("INSERT INTO child VALUES ('nobody')")
    with state.transaction() as connection:
        assert connection.execute("SELECT count(*) FROM child").fetchone() == (0,)
    state.close()


def test_what_is_no_blob_is_passed_over(tmp_path: Path) -> None:
    store = LocalStore.create(tmp_path / "root", platform=AMD64)
    store.put_bytes("any", b"kept")
    (store.root / "blobs" / "stray").write_bytes(b"")
    (store.root / "blobs" / "sha256" / ("a" * 65)).write_bytes(b"")
    (store.root / "blobs" / "md5").mkdir()
    (store.root / "blobs" / "md5" / ("a" * 64)).write_bytes(b"")
    assert list(store.walk()) == [(Digest.of(b"kept"), 4)]
    store.close()


def test_what_is_durable_is_said_for_each_transaction(store: LocalStore) -> None:
    def level() -> int:
        return int(store.state.connection.execute("PRAGMA synchronous").fetchone()[0])

    with store.state.transaction(is_durable=False):
        assert level() == 1
        with store.state.transaction():
            assert level() == 1  # the outermost one commits
    with store.state.transaction():
        assert level() == 2
    store.state.release()
    with store.state.transaction():
        assert level() == 2
