"""pull, push, login, logout, manifest inspect, tags: docker's lines, and who is told what."""

from __future__ import annotations

import errno
import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cli.fakes import Command, digest, value
from tests.cli.test_progress import IN_ORDER

from lamina.errors import Denied, NotFound
from lamina.events import Action, Event
from lamina.oci.descriptor import OCI_MANIFEST, Descriptor, Platform
from lamina.oci.digest import Digest


def pulled(**changes: Any) -> tuple[SimpleNamespace, ...]:
    return (value(**{
        "reference": "docker.io/library/redis:latest", "digest": digest("d"), "image_id": digest("e"), "is_new": True,
        **changes,
    }),)


def test_a_pull_looks_like_dockers(command: Command) -> None:
    command.events = IN_ORDER
    result = command("pull", "redis:latest", pull=pulled())
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        "latest: Pulling from library/redis",
        "bbbbbbbbbbbb: Already exists",
        "aaaaaaaaaaaa: Pulling fs layer",
        "aaaaaaaaaaaa: Waiting",
        "aaaaaaaaaaaa: Downloading",
        "aaaaaaaaaaaa: Verifying Checksum",
        "aaaaaaaaaaaa: Download complete",
        "aaaaaaaaaaaa: Extracting",
        "aaaaaaaaaaaa: Pull complete",
        f"Digest: {digest('d')}",
        "Status: Downloaded newer image for redis:latest",
        "docker.io/library/redis:latest",
    ]
    assert result.asked == [("pull", ("redis:latest",), {"platform": None, "all_tags": False})]


def test_a_pull_of_what_is_here(command: Command) -> None:
    lines = command("pull", "redis", pull=pulled(is_new=False)).lines
    assert lines[0] == "Using default tag: latest"
    assert lines[-2:] == ["Status: Image is up to date for redis:latest", "docker.io/library/redis:latest"]


def test_a_quiet_pull_prints_the_name_alone(command: Command) -> None:
    command.events = IN_ORDER
    for words in (("pull", "-q", "redis"), ("-q", "pull", "redis")):
        result = command(*words, pull=pulled())
        assert (result.out, result.err) == ("docker.io/library/redis:latest\n", "")


def test_a_pull_by_digest_and_of_all_tags_name_no_default(command: Command) -> None:
    by_digest = pulled(reference=f"docker.io/library/redis@{digest('d')}")
    assert command("pull", f"redis@{digest('d')}", pull=by_digest).lines[0] == f"Digest: {digest('d')}"
    result = command("pull", "-a", "redis", pull=pulled() + pulled(reference="docker.io/library/redis:7"))
    assert result.asked[0][2] == {"platform": None, "all_tags": True}
    assert result.lines[-1] == "docker.io/library/redis:7"


def test_a_platform_is_read_before_anything_is_opened(command: Command) -> None:
    result = command("pull", "--platform", "linux/aarch64", "redis:7", pull=pulled())
    assert result.asked[0][2]["platform"] == Platform(os="linux", architecture="arm64")
    result = command("pull", "--platform", "a/b/c/d", "redis:7", pull=pulled())
    assert (result.code, result.engines, result.out) == (1, [], "")
    assert result.err == "lamina: 'a/b/c/d': not a platform (expected os/architecture[/variant])\n"


def test_a_wrong_name_is_refused_before_anything_is_opened(command: Command) -> None:
    result = command("pull", "Redis:latest")
    assert (result.code, result.engines) == (1, [])
    assert result.err.startswith("lamina: 'Redis:latest': ")


def test_a_failed_pull_says_why_after_its_lines(command: Command) -> None:
    command.events = IN_ORDER[:2]
    error = NotFound("docker.io/library/nope:1: not in the registry")
    error.add_note("while pulling nope:1")
    result = command("pull", "nope:1", pull=error)
    assert result.code == 1
    assert result.lines == ["latest: Pulling from library/redis", "bbbbbbbbbbbb: Already exists"]
    assert result.err == (
        "lamina: docker.io/library/nope:1: not in the registry\n        while pulling nope:1\n"
    )


def test_an_interrupted_pull_says_that_it_can_go_on(command: Command) -> None:
    result = command("pull", "redis:7", pull=KeyboardInterrupt())
    assert result.code == 130
    assert result.err == (
        "\nlamina: interrupted; what has arrived is kept, and the next pull goes on from there\n"
    )


def test_notes_of_workers_go_to_standard_error(command: Command) -> None:
    command.events = [Event(action=Action.NOTE, subject="x", detail="a mirror did not answer\x1b")]
    result = command("pull", "redis:7", pull=pulled())
    assert result.err == "note: a mirror did not answer\\x1b\n"


def test_on_a_terminal_the_two_ids_are_explained(command: Command) -> None:
    command.is_terminal = True
    result = command("pull", "redis:7", pull=pulled())
    assert "`lamina layers redis:7`" in result.err
    assert command("pull", "redis:7", pull=pulled(is_new=False)).err == ""


# -- push


def test_push_progress_goes_to_standard_error(command: Command) -> None:
    command.events = [
        Event(action=Action.PUSHING_TO, subject="7", detail="registry.test/app"),
        Event(action=Action.PUSHED, subject=digest("a")),
    ]
    pushed = (value(reference="registry.test/app:7", tag="7", digest=digest("d"), size=1234),)
    result = command("push", "registry.test/app:7", push=pushed)
    assert result.out == f"7: digest: {digest('d')} size: 1234\n"
    assert result.err == "The push refers to repository [registry.test/app]\naaaaaaaaaaaa: Pushed\n"
    assert result.asked == [("push", ("registry.test/app:7",), {"all_tags": False, "compression": "gzip"})]
    quiet = command("push", "-q", "registry.test/app:7", push=pushed)
    assert (quiet.out, quiet.err) == (f"{digest('d')}\n", "")


# -- credentials


def test_login_with_a_token_from_standard_input(command: Command) -> None:
    command.input = b"s3cret\n"
    result = command("login", "-u", "me", "--password-stdin", "registry.test", login="/home/me/.docker/config.json")
    assert result.asked == [("login", ("registry.test", "me", "s3cret"), {})]
    assert result.out == "Login Succeeded\n"
    assert "/home/me/.docker/config.json" in result.err
    assert "s3cret" not in result.out + result.err


def test_login_asks_on_a_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda prompt: "s3cret" if prompt == "Password: " else "")
    command.input, command.is_keyboard = b"me\n", True
    result = command("login", login="")
    assert result.asked == [("login", ("docker.io", "me", "s3cret"), {})]
    assert result.err == "Username: "


def test_a_password_on_the_command_line_is_taken_with_a_warning(command: Command) -> None:
    result = command("login", "-u", "me", "-p", "s3cret", "registry.test", login="")
    assert result.asked == [("login", ("registry.test", "me", "s3cret"), {})]
    assert "warning: a password on the command line" in result.err
    assert "s3cret" not in result.err


@pytest.mark.parametrize(("words", "sentence"), [
    ((), "--username is needed when there is no terminal"),
    (("-u", "me"), "use --password-stdin"),
    (("--password-stdin",), "--username is needed"),
    (("-u", "me", "-p", "x", "--password-stdin"), "exclude each other"),
    (("-u", "me", "--password-stdin"), "the password is empty"),
])
def test_login_without_somebody_to_ask(command: Command, words: tuple[str, ...], sentence: str) -> None:
    result = command("login", *words, login="")
    assert (result.code, result.asked) == (125, [])
    assert sentence in result.err


def test_a_refused_login(command: Command) -> None:
    command.input = b"wrong"
    result = command("login", "-u", "me", "--password-stdin", login=Denied("docker.io: 401, unauthorized"))
    assert (result.code, result.out, result.err) == (1, "", "lamina: docker.io: 401, unauthorized\n")


def test_logout(command: Command) -> None:
    assert command("logout", "r.test", logout=True).out == "Removing login credentials for r.test\n"
    result = command("logout", logout=False)
    assert (result.code, result.out) == (0, "Not logged in to docker.io\n")


# -- looking without pulling

RAW = b'{"schemaVersion": 2,\n "annotations": {"x": "\\u001b"}}'


def manifest() -> tuple[Descriptor, bytes]:
    return Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(RAW), size=len(RAW)), RAW


def test_manifest_inspect(command: Command) -> None:
    result = command("manifest", "inspect", "redis", remote_manifest=manifest())
    assert json.loads(result.out) == json.loads(RAW)
    assert "\x1b" not in result.out
    assert command("manifest", "inspect", "--raw", "redis", remote_manifest=manifest()).raw == RAW
    verbose = json.loads(command("manifest", "inspect", "-v", "redis", remote_manifest=manifest()).out)
    assert verbose["Ref"] == "docker.io/library/redis:latest"
    assert verbose["Descriptor"]["digest"] == Digest.of(RAW)


def test_tags(command: Command) -> None:
    assert command("tags", "redis", remote_tags=iter(["7", "8\x1b"])).lines == ["7", "8\\x1b"]
    assert command("tags", "--limit", "1", "redis", remote_tags=iter(["7", "8"])).lines == ["7"]


# -- serve


def test_serve_prints_its_address_and_ends_well(command: Command) -> None:
    import os
    import signal
    import threading

    class Server:
        url = "http://127.0.0.1:12345"
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    server = Server()

    def serve(*_: object, **__: object) -> Server:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return server

    result = command("serve", "--port", "0", "--read-only", serve=serve)
    assert (result.code, result.out) == (0, "http://127.0.0.1:12345\n")
    assert "docker pull 127.0.0.1:12345/NAME" in result.err
    assert result.asked == [("serve", ("127.0.0.1", 0), {"read_only": True})]
    assert server.is_closed


@pytest.mark.parametrize(("error", "sentence"), [
    (OSError(errno.EADDRINUSE, "Address already in use (while attempting ...)"),
     "127.0.0.1:5000: another program listens there; --port chooses another, 0 picks a free one"),
    (OSError(errno.EADDRNOTAVAIL, "x"), "127.0.0.1:5000: cannot listen there (Cannot assign requested address)"),
    (socket.gaierror(-2, "Name or service not known"),
     "127.0.0.1:5000: cannot listen there (Name or service not known)"),
])
def test_serve_where_it_cannot(command: Command, error: OSError, sentence: str) -> None:
    result = command("serve", serve=error)
    assert (result.code, result.out, result.err) == (1, "", f"lamina: {sentence}\n")


def test_serve_refuses_a_port_that_is_none(command: Command) -> None:
    result = command("serve", "--port", "70000")
    assert (result.code, result.engines) == (125, [])
    assert "expected a number from 0 to 65535" in result.err
