"""verify-erased and secrets as commands: sentences, documents, exit codes, and nothing of the secret."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fakes import Command, digest

from lamina.engine.engine import Engine
from lamina.engine.settings import Settings
from lamina.errors import NotFound
from lamina.insight.certificate import Certificate, Elsewhere, ElsewhereKind, Sought
from lamina.insight.erasure import (
    ErasureFinding,
    Gap,
    HiddenBy,
    Searched,
    SearchedDocument,
    SearchedImage,
    SearchedLayer,
)
from lamina.insight.leaks import Leak
from lamina.insight.places import Place
from lamina.oci.digest import Digest
from lamina.testing.images import file, make_image, make_layer, whiteout

SECRET = "hunter2-Zk93kQpL0s8Wq"
A, B, C = (Digest(digest(letter)) for letter in "abc")


def finding(**changes: Any) -> ErasureFinding:
    return ErasureFinding(**{
        "kind": "secret-file", "label": "token.txt", "encoding": "raw", "place": Place.OBSCURED, "blob": A,
        "platform": "linux/amd64", "layer": 3, "diff_id": B, "instruction": "COPY . /", "path": "/root/token", "offset": 7,
        "hidden_by": HiddenBy(layer=5, instruction="RUN rm /root/token", path="/root/token", reason="deleted"), **changes,
    })


def certificate(*findings: ErasureFinding, **changes: Any) -> Certificate:
    searched = Searched(
        images=[SearchedImage(platform="linux/amd64", manifest=A, config=B, layers=(
            SearchedLayer(number=0, blob=A, diff_id=B, blob_bytes=1_000, tar_bytes=1_000_000),))],
        documents=[SearchedDocument(blob=C, media_type="application/json", size=500)], findings=list(findings),
        **{key: changes.pop(key) for key in ("undecided", "not_searched", "unreadable", "omitted") if key in changes},
    )
    return Certificate(**{
        "image": "app:1", "names": ("app:1",), "root": A, "time": "2024-07-03T09:46:40Z", "version": "0.1.0",
        "sought": (Sought(kind="secret-file", label="token.txt", size=21),), "searched": searched, "elsewhere": (), **changes,
    })


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token.txt"
    path.write_text(SECRET + "\n")
    return str(path)


def test_found(command: Command, token: str) -> None:
    result = command("verify-erased", "--secret-file", token, "app:1", verify_erased=certificate(finding()))
    assert result.code == 1
    assert result.lines[0] == (
        'found: secret-file "token.txt" (raw) in layer 3, /root/token, hidden by layer 5: RUN rm /root/token')
    assert result.lines[2] == "app:1 (aaaaaaaaaaaa): found in 1 place"
    assert result.lines[3:5] == [
        '  searched for secret-file "token.txt" (21 bytes); as raw, base64, URL, hex, UTF-16, JSON; in archives 3 deep',
        "  searched in  1 layer, 1 document, 1MB",
    ]
    assert "live on in registries" in result.lines[5]
    assert result.asked == [("verify_erased", ("app:1",), {
        "secrets": {"token.txt": SECRET.encode() + b"\n"}, "patterns": [], "paths": [], "platform": None,
        "everywhere": False, "image_only": False})]


@pytest.mark.parametrize(("changes", "text"), [
    ({"place": Place.LIVE, "hidden_by": None}, "layer 3, /root/token"),
    ({"place": Place.LIVE, "hidden_by": None, "inside": ("a.tgz", "x")}, "layer 3, /root/token!a.tgz!x"),
    ({"place": Place.HEADER, "hidden_by": None}, "layer 3, tar header of /root/token, byte 7"),
    ({"place": Place.TRAILER, "path": "", "hidden_by": None}, "layer 3, tar trailer, byte 7"),
    ({"place": Place.BLOB_HEADER, "path": "", "hidden_by": None}, "layer 3, gzip header, byte 7"),
    ({"place": Place.CONFIG, "layer": None, "path": "", "hidden_by": None, "field": "config.Env[2]"},
     "config of aaaaaaaaaaaa, config.Env[2]"),
    ({"place": Place.DOCUMENT, "layer": None, "path": "", "hidden_by": None}, "document, aaaaaaaaaaaa, byte 7"),
    ({"path": "/a\x1b[2J\u202e", "hidden_by": None}, "layer 3, /a\\x1b[2J\\u202e"),
    ({"hidden_by": HiddenBy(layer=5, instruction="RUN a \\\n  && b\x07", path="/", reason="deleted")},
     "layer 3, /root/token, hidden by layer 5: RUN a \\\\n && b\\x07"),
    ({"hidden_by": HiddenBy(layer=5, instruction="", path="/", reason="deleted")},
     "layer 3, /root/token, hidden by layer 5: (its history does not say)"),
])
def test_places_in_words(command: Command, changes: dict[str, Any], text: str) -> None:
    result = command("verify-erased", "--path", "/x", "app:1", verify_erased=certificate(finding(**changes)))
    assert result.lines[0].partition(" in ")[2] == text


def test_clean(command: Command) -> None:
    result = command("verify-erased", "--path", "/x", "app:1", verify_erased=certificate())
    assert (result.code, result.lines[0]) == (0, "app:1 (aaaaaaaaaaaa): clean")


OTHER = Elsewhere(kind=ElsewhereKind.CONTENT, subject=A, images=("app:0", "app:old"), sought="secret-file",
                  label="token.txt", encoding="raw", where="root/token", count=2)


def test_elsewhere(command: Command) -> None:
    orphan = replace(OTHER, kind=ElsewhereKind.UNFINISHED, subject="new-1", images=(), count=1, where="")
    result = command("verify-erased", "--path", "/x", "app:1", verify_erased=certificate(elsewhere=(OTHER, orphan)))
    assert result.code == 0
    assert result.lines == [
        'elsewhere: secret-file "token.txt" (raw) in content aaaaaaaaaaaa of app:0, app:old, at root/token, 2 times',
        'elsewhere: secret-file "token.txt" (raw) in unfinished download new-1, which no image has',
        "", "app:1 (aaaaaaaaaaaa): clean; the store still holds it elsewhere", *result.lines[4:],
    ]
    strict = certificate(elsewhere=(OTHER,), everywhere=True)
    result = command("verify-erased", "--everywhere", "--path", "/x", "app:1", verify_erased=strict)
    assert (result.code, result.lines[2]) == (1, "app:1 (aaaaaaaaaaaa): clean, but found elsewhere in the store")


def test_undecided(command: Command) -> None:
    gap = Gap(blob=A, reason="gzip: gives more than 9 bytes", path="/bomb.gz", layer=1)
    result = command("verify-erased", "--path", "/x", "app:1", verify_erased=certificate(undecided=[gap] * 21))
    assert result.code == 125
    assert result.lines[0] == "undecided: layer 1, /bomb.gz: gzip: gives more than 9 bytes"
    assert result.lines[20] == "undecided: 1 more, which --format json lists"
    assert "undecided: not everything could be searched" in result.lines[22]
    found = command("verify-erased", "--path", "/x", "app:1", verify_erased=certificate(finding(), undecided=[gap]))
    assert found.code == 1, "what was found is found"


def test_what_was_not_searched_decides_nothing(command: Command) -> None:
    gap = Gap(blob=A, reason="listed for linux/arm64, but not here")
    broken = Gap(blob=A, reason="zip: encrypted", path="/a.zip!b", layer=0)
    result = command("verify-erased", "--path", "/x", "app:1",
                     verify_erased=certificate(not_searched=[gap], unreadable=[broken]))
    assert result.code == 0
    assert result.lines[:2] == ["not searched: aaaaaaaaaaaa: listed for linux/arm64, but not here",
                                "unreadable: layer 0, /a.zip!b: zip: encrypted"]


def test_the_document(command: Command, tmp_path: Path) -> None:
    answer = certificate(finding(), elsewhere=(OTHER,))
    result = command("verify-erased", "--format", "json", "--path", "/x", "app:1", verify_erased=answer)
    assert result.code == 1
    document = json.loads(result.out)
    assert document["Findings"] == [{
        "What": "secret-file", "Label": "token.txt", "Encoding": "raw", "Place": "obscured file", "Digest": A,
        "Platform": "linux/amd64", "Layer": 3, "DiffID": B, "Instruction": "COPY . /", "Path": "/root/token", "Inside": [],
        "Field": "", "Offset": 7,
        "HiddenBy": {"Layer": 5, "Instruction": "RUN rm /root/token", "Path": "/root/token", "Reason": "deleted"},
    }]
    assert {key: document[key] for key in ("Verdict", "Image", "Time", "Lamina", "BuildCache", "ArchiveDepth")} == {
        "Verdict": "found", "Image": "app:1", "Time": "2024-07-03T09:46:40Z", "Lamina": "0.1.0", "BuildCache": [],
        "ArchiveDepth": 3}
    assert document["Images"][0]["Layers"] == [
        {"Layer": 0, "Digest": A, "DiffID": B, "BlobBytes": 1_000, "TarBytes": 1_000_000}]
    assert document["Elsewhere"][0]["Images"] == ["app:0", "app:old"]
    output = tmp_path / "certificate.json"
    result = command("verify-erased", "-o", str(output), "--path", "/x", "app:1", verify_erased=answer)
    assert json.loads(output.read_text()) == document
    assert result.lines[0].startswith("found: ")
    result = command("verify-erased", "-o", "-", "--path", "/x", "app:1", verify_erased=answer)
    assert json.loads(result.out) == document
    result = command("verify-erased", "--format", "{{.Verdict}}", "--path", "/x", "app:1", verify_erased=answer)
    assert result.lines == ["found"]


@pytest.mark.parametrize(("words", "complaint"), [
    (("app:1",), "verify-erased needs something to search for: --secret-file, --pattern or --path"),
    (("--path", "/x", "--everywhere", "--image-only", "app:1"), "verify-erased takes --everywhere or --image-only, not both"),
    (("--path", "/x"), "verify-erased needs IMAGE"),
    (("--secretfile", "x", "app:1"), "verify-erased: unknown option --secretfile; did you mean --secret-file?"),
])
def test_mistakes(command: Command, words: tuple[str, ...], complaint: str) -> None:
    result = command("verify-erased", *words)
    assert (result.code, result.err.splitlines()[0]) == (125, f"lamina: {complaint}")
    assert result.engines == []


def test_failures_are_not_findings(command: Command, tmp_path: Path) -> None:
    missing = command("verify-erased", "--path", "/x", "app:1", verify_erased=NotFound("app:1: no such image"))
    assert (missing.code, missing.err) == (125, "lamina: app:1: no such image\n")
    no_file = command("verify-erased", "--secret-file", str(tmp_path / "none"), "app:1")
    assert (no_file.code, no_file.err) == (125, f"lamina: {tmp_path / 'none'}: no such file or directory\n")


def test_secrets_from_standard_input_and_of_one_name(command: Command, tmp_path: Path, token: str) -> None:
    other = tmp_path / "b" / "token.txt"
    other.parent.mkdir()
    other.write_text("another-one")
    command.input = b"piped-in\n"
    result = command("verify-erased", "--secret-file", "-", "--secret-file", token, "--secret-file", str(other), "app:1",
                     verify_erased=certificate())
    assert result.asked[0][2]["secrets"] == {
        "standard input": b"piped-in\n", "token.txt": SECRET.encode() + b"\n", str(other): b"another-one"}


# -- secrets


def leak(**changes: Any) -> Leak:
    found = finding(kind="rule", label="github-token", **{key: changes.pop(key) for key in list(changes) if key != "line"})
    return Leak(rule="github-token", title="GitHub token", finding=found, preview="ghp_…", size=40, line=changes.get("line"))


def leaks(*found: Leak, undecided: tuple[Gap, ...] = ()) -> Any:
    from tests.cli.fakes import value

    image = value(config=value(platform="linux/amd64"), descriptor=value(digest=A))
    return value(leaks=found, undecided=undecided, image=image, bytes_searched=1_500_000)


def test_secrets(command: Command) -> None:
    setting = leak(place=Place.CONFIG, layer=None, path="", field="config.Env[0]", hidden_by=None)
    binary = leak(place=Place.LIVE, hidden_by=None, path="/bin/x")
    result = command("secrets", "app:1", secrets=leaks(leak(line=12), binary, setting))
    assert result.code == 1
    assert result.lines == [
        "GitHub token: ghp_… (40 characters) in layer 3, /root/token, line 12, hidden by layer 5: RUN rm /root/token  [github-token]",
        "GitHub token: ghp_… (40 characters) in layer 3, /bin/x, byte 7  [github-token]",
        "GitHub token: ghp_… (40 characters) in config of aaaaaaaaaaaa, config.Env[0]  [github-token]",
        "app:1: 3 likely secrets in 1.5MB, 1 of them hidden by upper layers, which erases nothing",
    ]


def test_no_secrets_and_undecided(command: Command) -> None:
    result = command("secrets", "app:1", secrets=leaks())
    assert (result.code, result.lines) == (0, ["app:1: no likely secrets in 1.5MB"])
    gap = Gap(blob=A, reason="damaged\x1b[m", layer=2)
    result = command("secrets", "app:1", secrets=leaks(undecided=(gap,)))
    assert (result.code, result.err) == (125, "note: layer 2 was not searched: damaged\\x1b[m\n")
    assert "not everything could be searched" in result.out


def test_secrets_as_documents(command: Command) -> None:
    result = command("secrets", "--format", "json", "app:1", secrets=leaks(leak(line=12)))
    document = json.loads(result.out)
    (secret,) = document["Secrets"]
    assert (secret["Rule"], secret["Preview"], secret["Length"], secret["Line"], secret["HiddenBy"]["Layer"]) == (
        "github-token", "ghp_…", 40, 12, 5)
    result = command("secrets", "--format", "{{.Rule}} {{.Path}}", "app:1", secrets=leaks(leak()))
    assert result.lines == ["github-token /root/token"]


# -- all the way


def test_on_a_real_engine(command: Command, token: str) -> None:
    command.is_real = True
    command.environ = {"LAMINA_STORAGE_DRIVER": "vfs"}
    made = make_image([make_layer([file("root/token", SECRET.encode())], created_by="COPY token /root/"),
                       make_layer([whiteout("root/token")], created_by="RUN rm /root/token")])
    settings = Settings.load({"HOME": str(command.home), "LAMINA_STORAGE_DRIVER": "vfs"}, system=command.home / "etc")
    with Engine.open(command.home / "root", settings=settings) as engine:
        engine.store.record(made.put(engine.store), names=("docker.io/library/app:1",))
    result = command("verify-erased", "--secret-file", token, "app:1")
    assert result.code == 1
    assert result.lines[0].endswith("in layer 0, /root/token, hidden by layer 1: RUN rm /root/token")
    assert SECRET not in result.out + result.err
    document = json.loads(command("verify-erased", "--secret-file", token, "--format", "json", "app:1").out)
    assert SECRET not in json.dumps(document)
    assert command("verify-erased", "--pattern", "hunter[0-9]-x", "app:1").code == 0
    assert command("verify-erased", "--pattern", "(", "app:1").err == (
        "lamina: '(': not a regular expression (missing ), unterminated subpattern at position 0)\n")
    assert command("verify-erased", "--path", "/root/token", "aap:1").code == 125
    assert command("secrets", "app:1").out.startswith("app:1: no likely secrets in ")
