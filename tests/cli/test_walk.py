"""Walks through the whole house: the command on the real engine, against a real registry on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.fakes import Command

from lamina.cli.samples import IMAGES, publish, tar_of
from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.oci.digest import Digest


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a registry that serves the two sample images and takes pushes."""
    root = tmp_path_factory.mktemp("registry")
    settings = Settings.load({"HOME": str(root)}, flags={"data-root": str(root / "store")})
    with Engine.open(settings=settings) as engine:
        publish(engine.store, "demo", engine.platform)
        with engine.serve("127.0.0.1", 0) as server:
            yield server.url.partition("://")[2]


@pytest.fixture
def lamina(tmp_path: Path) -> Command:
    """Its storage driver copies files, which works for everybody."""
    return Command(tmp_path, is_real=True, environ={"LAMINA_STORAGE_DRIVER": "vfs"})


@pytest.fixture
def app(lamina: Command, registry: str) -> str:
    name = f"{registry}/demo/app:1"
    assert lamina("pull", "-q", name).out == f"{name}\n"
    return name


def ok(lamina: Command, *words: str) -> str:
    result = lamina(*words)
    assert (result.code, result.err) == (0, ""), words
    return result.out


def test_pull_inspect_layers(lamina: Command, registry: str) -> None:
    name = f"{registry}/demo/app:1"
    first = lamina("pull", name)
    assert (first.code, first.err) == (0, "")
    assert first.lines[0] == f"1: Pulling from {registry}/demo/app"
    pulled = [line.partition(":")[0] for line in first.lines if line.endswith(": Pull complete")]
    assert first.lines[-2:] == [f"Status: Downloaded newer image for {name}", name]
    layers = json.loads(ok(lamina, "inspect", "-f", "{{json .RootFS.Layers}}", name))
    assert layers == [Digest.of(tar_of(layer)) for layer in IMAGES["app"]]
    rows = [json.loads(line) for line in ok(lamina, "layers", "--format", "json", name).splitlines()]
    assert [row["DiffID"] for row in rows] == layers
    assert [row["Digest"][7:19] for row in rows] == pulled
    assert [row["Instruction"] for row in rows] == [layer.instruction for layer in IMAGES["app"]]
    again = lamina("pull", name)
    assert [line.partition(": ")[2] for line in again.lines[1:4]] == ["Already exists"] * 3
    assert again.lines[-2] == f"Status: Image is up to date for {name}"
    other = lamina("pull", f"{registry}/demo/worker:1")
    assert sum(line.endswith(": Already exists") for line in other.lines) == 2
    shared = [json.loads(line)["SharedWith"] for line in ok(lamina, "layers", "--format", "json", name).splitlines()]
    assert shared == [[f"{registry}/demo/worker:1"], [f"{registry}/demo/worker:1"], []]


def test_look_at_files(lamina: Command, app: str) -> None:
    assert ok(lamina, "cat", app, "/files/file-6") == "File 7: the updated version of File 6\n"
    assert ok(lamina, "cat", "--layer", "1", f"{app}:/files/file-6").startswith("File 6: what the Java layer")
    assert ok(lamina, "ls", f"{app}:/files").split() == [f"file-{number}" for number in range(1, 7)]
    assert "/app/app.jar\n" in ok(lamina, "ls", "-R", app)
    assert "layer 1's file, 50kB" in ok(lamina, "blame", app, "/files/file-6")
    hidden = json.loads(ok(lamina, "obscured", "--format", "json", app))
    assert (hidden["Path"], hidden["Layer"], hidden["HiddenBy"]) == ("/files/file-6", 1, 2)
    missing = lamina("cat", app, "/nothing")
    assert (missing.code, missing.out) == (1, "")
    assert lamina("ls", "--layer", "9", app).code == 1


def test_names(lamina: Command, app: str) -> None:
    image_id = ok(lamina, "images", "-q").strip()
    assert ok(lamina, "tag", image_id, "mine") == ""
    assert ok(lamina, "images", "--format", "{{.Repository}}:{{.Tag}}", "mine") == "mine:latest\n"
    assert lamina("rmi", image_id).code == 1
    assert ok(lamina, "rmi", "mine") == "Untagged: mine:latest\n"
    assert ok(lamina, "rmi", app).splitlines()[0] == f"Untagged: {app}"
    assert ok(lamina, "images", "-q") == ""
    gone = lamina("inspect", app)
    assert (gone.code, gone.out) == (1, "[]\n")
    assert f"{app}: no such image" in gone.err


def test_save_and_load(lamina: Command, app: str, tmp_path: Path) -> None:
    archives = {form: tmp_path / form for form in ("docker-archive", "oci-archive")}
    for form, path in archives.items():
        assert ok(lamina, "save", "--format", form, "-o", str(path), app) == ""
    assert lamina("save", app).raw == archives["docker-archive"].read_bytes()
    before = ok(lamina, "inspect", "-f", "{{.Id}} {{.Descriptor.digest}}", app)
    for number, path in enumerate(archives.values()):
        other = Command(tmp_path / str(number), is_real=True, environ=lamina.environ, input=path.read_bytes())
        other.home.mkdir()
        assert other("load", "-q").out == f"Loaded image: {app}\n"
        assert ok(other, "inspect", "-f", "{{.Id}} {{.Descriptor.digest}}", app) == before


def test_export_and_import(lamina: Command, app: str, tmp_path: Path) -> None:
    raw = lamina("export", app).raw
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
        assert "files/file-6" in names
        content = tar.extractfile("files/file-6")
        assert content is not None
        assert content.read() == b"File 7: the updated version of File 6\n"
    lamina.input = raw
    image_id = ok(lamina, "import", "-c", 'CMD ["sh"]', "-m", "made by hand", "-", "flat").strip()
    document = json.loads(ok(lamina, "inspect", "flat"))[0]
    assert document["Id"] == image_id
    assert document["Config"]["Cmd"] == ["sh"]
    assert document["RootFS"]["Layers"] == ["sha256:" + hashlib.sha256(raw).hexdigest()]
    assert "made by hand" in ok(lamina, "history", "flat")
    assert ok(lamina, "obscured", "flat").startswith("Nothing is obscured")


def test_push_and_look_without_pulling(lamina: Command, app: str, registry: str) -> None:
    target = f"{registry}/team/copy"
    ok(lamina, "tag", app, f"{target}:2")
    pushed = lamina("push", f"{target}:2")
    assert pushed.code == 0
    assert pushed.err.startswith(f"The push refers to repository [{target}]\n")
    digest = pushed.out.split()[2]
    assert pushed.out == f"2: digest: {digest} size: {pushed.out.split()[-1]}\n"
    assert ok(lamina, "tags", target) == "2\n"
    raw = lamina("manifest", "inspect", "--raw", f"{target}:2").raw
    assert "sha256:" + hashlib.sha256(raw).hexdigest() == digest
    assert len(json.loads(ok(lamina, "manifest", "inspect", f"{target}@{digest}"))["layers"]) == 3
    assert "Already exists" in lamina("pull", f"{target}:2").out


def test_housekeeping(lamina: Command, app: str) -> None:
    rows = {row["Type"]: row for row in map(json.loads, ok(lamina, "system", "df", "--format", "json").splitlines())}
    assert rows["Images"]["TotalCount"] == "1"
    assert app.partition(":1")[0] in ok(lamina, "system", "df", "-v")
    assert lamina("check").code == 0
    assert ok(lamina, "prune", "-f").endswith("Total reclaimed space: 0B\n")
    ok(lamina, "rmi", "--no-prune", app)
    assert "Total reclaimed space: 0B" not in ok(lamina, "prune", "-af")
    assert ok(lamina, "images", "-q") == ""


def test_a_damaged_blob_is_found_and_mended(lamina: Command, app: str) -> None:
    blob = json.loads(ok(lamina, "layers", "--format", "json", app).splitlines()[0])["Digest"]
    path = lamina.home / "root" / "blobs" / "sha256" / blob[7:]
    path.chmod(0o644)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    damaged = lamina("check")
    assert damaged.code == 1
    assert blob in damaged.out
    assert lamina("check", "--repair").code in (0, 1)
    assert lamina("pull", "-q", app).code == 0
    assert lamina("check").code == 0


@pytest.mark.parametrize(("name", "message"), [
    ("{registry}/demo/app:nope", "nope"), ("{registry}/nothing/here:1", "nothing/here"),
    ("127.0.0.1:1/demo/app:1", "127.0.0.1:1"), ("no-such-host.invalid/app:1", "no-such-host.invalid"),
])
def test_what_cannot_be_pulled(lamina: Command, registry: str, name: str, message: str) -> None:
    lamina.environ["LAMINA_MAX_DOWNLOAD_ATTEMPTS"] = "1"
    result = lamina("pull", name.format(registry=registry))
    assert result.code == 1
    assert result.err.startswith("lamina: ")
    assert message in result.err.splitlines()[0]
    assert "fault in lamina" not in result.err
    assert ok(lamina, "images", "-q") == ""


def test_info_says_where_each_setting_comes_from(lamina: Command) -> None:
    out = ok(lamina, "info")
    assert "Driver: vfs\n" in out
    assert " storage-driver: vfs  (LAMINA_STORAGE_DRIVER)\n" in out
    assert f" data-root: {lamina.home / 'root'}  (LAMINA_ROOT)\n" in out
    flagged = lamina("info", "--root", str(lamina.home / "other"), "-f",
                     '{{range .Settings}}{{if eq .Key "data-root"}}{{.Origin}}{{end}}{{end}}')
    assert flagged.out == "flag --root\n"
