from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from lamina.errors import Unavailable
from lamina.registry.credentials import (
    Credential,
    CredentialFile,
    CredentialFiles,
    CredentialHelper,
    CredentialHelperFailed,
    InvalidCredentials,
    credential_files,
)

ME = Credential(username="me", secret="hush: hush")


def auth(username: str, secret: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{secret}".encode()).decode()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def written(path: Path, **document: object) -> CredentialFile:
    path.write_text(json.dumps(document))
    return CredentialFile(path)


# --- Helper programs, as shell scripts ------------------------------------------------------------

HELPER = """#!/bin/sh
key=$(cat)
echo "$1 $key" >> "$0.log"
case "$1 $key" in
"get https://index.docker.io/v1/") echo '{"ServerURL":"x","Username":"hub","Secret":"hush"}' ;;
"get tokens.example") echo '{"ServerURL":"x","Username":"<token>","Secret":"identity"}' ;;
"get broken.example") echo 'the keychain is locked'; exit 1 ;;
"get garbage.example") echo '<html>hush</html>' ;;
"get wrong.example") echo '{"Username":5,"Secret":"hush"}'; exit 0 ;;
"get empty.example") echo '{"Username":"","Secret":""}' ;;
"erase broken.example") echo 'the keychain is locked'; exit 1 ;;
"erase absent.example") echo 'credentials not found in native keychain'; exit 1 ;;
get*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return program


def log(helper: Path) -> list[str]:
    path = helper.with_name(helper.name + ".log")
    return path.read_text().splitlines() if path.exists() else []


# --- Reading --------------------------------------------------------------------------------------


def test_no_file_is_no_credentials(path: Path) -> None:
    assert CredentialFile(path).find("registry.example") is None


@pytest.mark.parametrize("key", ["registry.example", "https://registry.example", "https://registry.example/v1/",
                                 "http://registry.example/v2/"])
def test_every_spelling_of_a_host(path: Path, key: str) -> None:
    assert written(path, auths={key: auth("me", "hush: hush")}).find("registry.example") == ME


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"])
def test_every_spelling_of_docker_hub(path: Path, key: str) -> None:
    assert written(path, auths={key: auth("me", "hush: hush")}).find("docker.io", "library/redis") == ME


def test_hosts_are_not_prefixes(path: Path) -> None:
    file = written(path, auths={"registry.example": auth("me", "x"), "registry.example:5000": auth("other", "y")})
    for host in ("registry.example.evil", "evil.registry.example", "registry.exampl", "registry.example:5001"):
        assert file.find(host) is None


def test_the_longest_repository_path_wins(path: Path) -> None:
    file = written(path, auths={
        "r.example": auth("all", "x"), "r.example/team": auth("team", "x"), "r.example/team/tool": auth("tool", "x"),
    })
    expected = {"other/x": "all", "team/x": "team", "team/tool": "tool", "teams/x": "all", "": "all"}
    for repository, username in expected.items():
        found = file.find("r.example", repository)
        assert found is not None
        assert found.username == username


@pytest.mark.parametrize(("entry", "expected"), [
    ({"username": "me", "password": "hush: hush"}, ME),
    ({"auth": "", "identitytoken": "id"}, Credential(username="<token>", secret="id")),
    ({"registrytoken": "bearer"}, Credential(username="", secret="", registry_token="bearer")),
    ({"auth": base64.b64encode(b"me:hush: hush\0\0").decode()}, ME),
    ({}, None), ({"auth": ""}, None), ({"auth": None, "email": "x"}, None),
])
def test_kinds_of_entries(path: Path, entry: dict[str, str], expected: Credential | None) -> None:
    assert written(path, auths={"registry.example": entry}).find("registry.example") == expected


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"auths": 5}', '{"auths": {"registry.example": 5}}', '{"auths": {"registry.example": {"auth": 5}}}',
    '{"auths": {"registry.example": {"auth": "hush!"}}}', '{"auths": {"registry.example": {"auth": "aHVzaA=="}}}',
    '{"credHelpers": []}x', '{"hush": ' + "[" * 100_000,
])
def test_files_that_cannot_be_read(path: Path, content: str) -> None:
    path.write_text(content)
    if not content:
        assert CredentialFile(path).find("registry.example") is None, "docker leaves empty files behind"
        return
    with pytest.raises(InvalidCredentials) as caught:
        CredentialFile(path).find("registry.example")
    assert str(path) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    credential = Credential(username="me", secret="hush", registry_token="hush")
    assert "hush" not in repr(credential) + str(credential)
    assert "bWU6" not in repr(credential)
    assert credential.basic == "Basic bWU6aHVzaA=="


# --- Helpers --------------------------------------------------------------------------------------


def test_a_helper_is_asked_under_the_key_it_knows(path: Path, helper: Path) -> None:
    found = written(path, credsStore="test").find("docker.io", "library/redis")
    assert found == Credential(username="hub", secret="hush")
    assert log(helper) == ["get https://index.docker.io/v1/"]


def test_an_identity_token(path: Path, helper: Path) -> None:
    found = written(path, credHelpers={"tokens.example": "test"}).find("tokens.example")
    assert found is not None
    assert found.is_identity_token
    assert found.secret == "identity"


def test_helpers_for_hosts_come_before_the_store_and_before_auths(path: Path, helper: Path) -> None:
    file = written(
        path, credHelpers={"docker.io": "test"}, credsStore="absent", auths={"docker.io": auth("file", "x")}
    )
    found = file.find("docker.io")
    assert found is not None
    assert found.username == "hub"


def test_credentials_not_found_is_an_answer(path: Path, helper: Path) -> None:
    file = written(path, credsStore="test", auths={"registry.example": {}, "other.example": auth("me", "x")})
    assert file.find("registry.example") is None
    found = file.find("other.example")
    assert found is not None, "what was stored before there was a helper still counts"
    assert file.find("empty.example") is None


@pytest.mark.parametrize(("registry", "message"), [
    ("broken.example", "docker-credential-test get: the keychain is locked"),
    ("garbage.example", "not a credential"),
    ("wrong.example", "not a credential"),
])
def test_a_helper_that_fails(path: Path, helper: Path, registry: str, message: str) -> None:
    file = written(path, credsStore="test")
    with pytest.raises(CredentialHelperFailed, match=message) as caught:
        file.find(registry)
    assert "hush" not in str(caught.value)


def test_a_helper_that_is_not_installed(path: Path) -> None:
    with pytest.raises(CredentialHelperFailed, match="docker-credential-absent: not found on the search path"):
        written(path, credsStore="absent").find("registry.example")


@pytest.mark.parametrize("name", [
    "../../bin/sh", "a/b", "", "-x", ".hidden", "a b", "a;b", "a\nb", "x" * 65, 5, None, ["a"],
])
def test_helper_names_are_names(name: object) -> None:
    with pytest.raises(InvalidCredentials, match="not the name of a credential helper"):
        CredentialHelper(name)


def test_a_strange_name_in_the_file_runs_nothing(path: Path, helper: Path) -> None:
    with pytest.raises(InvalidCredentials):
        written(path, credsStore="../bin/docker-credential-test").find("docker.io")
    assert log(helper) == []


# --- Writing --------------------------------------------------------------------------------------


def test_what_is_stored_is_found(path: Path) -> None:
    CredentialFile(path).store("registry.example", ME)
    assert CredentialFile(path).find("registry.example") == ME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["config.json"], "nothing is left beside it"


def test_identity_tokens_are_stored_as_such(path: Path) -> None:
    token = Credential(username="<token>", secret="id")
    CredentialFile(path).store("registry.example", token)
    assert CredentialFile(path).find("registry.example") == token
    assert json.loads(path.read_text())["auths"]["registry.example"]["identitytoken"] == "id"


def test_docker_hub_is_filed_where_docker_looks(path: Path) -> None:
    CredentialFile(path).store("docker.io", ME)
    assert list(json.loads(path.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert CredentialFile(path).find("docker.io") == ME


def test_the_rest_of_the_file_survives(path: Path) -> None:
    file = written(path, HttpHeaders={"X": "y"}, auths={"other.example": auth("a", "b")}, plugins=[1])
    path.chmod(0o644)
    file.store("registry.example", ME)
    document = json.loads(path.read_text())
    assert list(document) == ["HttpHeaders", "auths", "plugins"]
    assert list(document["auths"]) == ["other.example", "registry.example"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_symlink_stays_one(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "docker.json"
    real.parent.mkdir()
    path.symlink_to(real)
    CredentialFile(path).store("registry.example", ME)
    assert path.is_symlink()
    assert CredentialFile(real).find("registry.example") == ME


def test_missing_directories_are_made_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.json"
    CredentialFile(path).store("registry.example", ME)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_erasing(path: Path) -> None:
    file = written(path, auths={
        "registry.example": auth("a", "b"), "https://registry.example/v1/": auth("a", "b"), "other.example": {},
    })
    assert file.erase("registry.example")
    assert list(json.loads(path.read_text())["auths"]) == ["other.example"]
    assert not file.erase("registry.example")


def test_erasing_what_was_never_there_writes_nothing(path: Path) -> None:
    assert not CredentialFile(path).erase("registry.example")
    assert not path.exists()


def test_storing_through_a_helper_keeps_secrets_out_of_the_file(path: Path, helper: Path) -> None:
    written(path, credsStore="test").store("registry.example", ME)
    assert json.loads(path.read_text()) == {"credsStore": "test", "auths": {"registry.example": {}}}
    (line,) = log(helper)
    verb, _, given = line.partition(" ")
    assert verb == "store"
    assert json.loads(given) == {"ServerURL": "registry.example", "Username": "me", "Secret": "hush: hush"}


def test_erasing_through_a_helper(path: Path, helper: Path) -> None:
    file = written(path, credsStore="test", auths={"registry.example": {}})
    assert file.erase("registry.example")
    assert log(helper) == ["erase registry.example"]
    assert json.loads(path.read_text())["auths"] == {}
    assert not file.erase("absent.example")
    with pytest.raises(CredentialHelperFailed):
        file.erase("broken.example")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((Unavailable, InvalidCredentials), match="cannot be"):
        CredentialFile(tmp_path / "file" / "config.json").store("registry.example", ME)


# --- Several files --------------------------------------------------------------------------------


def test_files_are_asked_in_order_and_the_first_is_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    written(second, auths={"both.example": auth("second", "x"), "two.example": auth("second", "x")})
    files = CredentialFiles([first, second])
    assert files.store("both.example", ME) == first
    assert files.find("both.example") == ME
    found = files.find("two.example")
    assert found is not None
    assert found.username == "second"
    assert files.erase("both.example")
    assert files.find("both.example") is None, "logging out means out of all of them"


def test_where_people_keep_credentials() -> None:
    home = Path("/home/me")
    assert credential_files({}, home) == (home / ".docker/config.json", home / ".config/containers/auth.json")
    assert credential_files({"DOCKER_CONFIG": "/d", "XDG_RUNTIME_DIR": "/run/1", "XDG_CONFIG_HOME": "/c"}, home) == (
        Path("/d/config.json"), Path("/run/1/containers/auth.json"), Path("/c/containers/auth.json"),
    )
    assert credential_files({"REGISTRY_AUTH_FILE": "/a.json", "XDG_RUNTIME_DIR": "/run/1"}, home) == (
        Path("/a.json"), home / ".docker/config.json",
    )
