"""Who we are to a registry: credential files and helper programs, read and written.

Two formats, one reader: docker's ``config.json`` and containers-auth.json(5). In each file
``credHelpers`` come before ``credsStore``, and that before ``auths``; keys are hosts, and in the
second format also repository paths, the longest of which wins. Helper programs speak the
docker-credential-helpers protocol: JSON on standard streams.

SECURITY: secrets are in no ``repr`` and no message; files are written 0600 and replaced by rename;
a helper's name is checked before it becomes part of a program's name.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lamina.errors import InvalidInput, Unavailable
from lamina.oci.reference import DEFAULT_REGISTRY
from lamina.values import dataclass, field

# What docker files Docker Hub under, since before there were other registries.
DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io"})
TOKEN_USER = "<token>"  # noqa: S105 - the user name that marks a token
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_SECONDS = 60
_MAX_FILE = 4 << 20


class InvalidCredentials(InvalidInput):
    pass


class CredentialHelperFailed(Unavailable):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """``secret`` is a password, or an identity token when the user is ``<token>``."""

    username: str
    secret: str = field(repr=False)
    registry_token: str = field(default="", repr=False)  # a bearer token to be sent as it is

    @property
    def is_identity_token(self) -> bool:
        return self.username == TOKEN_USER

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


class CredentialSource(Protocol):
    def find(self, registry: str, repository: str = "") -> Credential | None: ...


class NoCredentials:
    def find(self, registry: str, repository: str = "") -> Credential | None:  # noqa: ARG002
        return None


class GivenCredentials:
    """Credentials from a program's own arguments, by registry."""

    def __init__(self, known: Mapping[str, Credential]) -> None:
        self._known = dict(known)

    def find(self, registry: str, repository: str = "") -> Credential | None:  # noqa: ARG002
        return self._known.get(registry)


def credential_files(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where people keep credentials, in the order in which they count; the first is written to.

    ``REGISTRY_AUTH_FILE``, when set, is the only containers file; docker's comes first otherwise.
    """
    docker = Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if environment.get("REGISTRY_AUTH_FILE"):
        return (Path(environment["REGISTRY_AUTH_FILE"]), docker)
    config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    runtime = environment.get("XDG_RUNTIME_DIR")
    files = [docker, *([Path(runtime) / "containers" / "auth.json"] if runtime else [])]
    return (*files, config / "containers" / "auth.json")


class CredentialFiles:
    """``files`` are asked in order; ``store`` and ``erase`` change the first, ``erase`` all of them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def find(self, registry: str, repository: str = "") -> Credential | None:
        for path in self._files:
            found = CredentialFile(path).find(registry, repository)
            if found is not None:
                return found
        return None

    def store(self, registry: str, credential: Credential) -> Path:
        """Returns the file that was written to, or that names the helper which was."""
        CredentialFile(self._files[0]).store(registry, credential)
        return self._files[0]

    def erase(self, registry: str) -> bool:
        """Whether anything was there to forget."""
        return any([CredentialFile(path).erase(registry) for path in self._files])  # noqa: C419 - all of them


class CredentialFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, registry: str, repository: str = "") -> Credential | None:
        document = self._read()
        helper = self._helper(document, registry)
        if helper is not None:
            found = helper.get(_helper_key(registry))
            if found is not None:
                return found
        auths = _object(document, "auths", self._path)
        for key in _keys(auths, registry, repository):
            found = _credential(auths[key], self._path, key)
            if found is not None:
                return found
        return None

    def store(self, registry: str, credential: Credential) -> None:
        document = self._read()
        auths = dict(_object(document, "auths", self._path))
        helper = self._helper(document, registry)
        key = _helper_key(registry)
        if helper is not None:
            helper.store(key, credential)
            auths[key] = {}  # docker's way of saying "ask the store"
        elif credential.is_identity_token:
            auths[key] = {"auth": "", "identitytoken": credential.secret}
        else:
            pair = f"{credential.username}:{credential.secret}".encode()
            auths[key] = {"auth": base64.b64encode(pair).decode()}
        self._write({**document, "auths": auths})

    def erase(self, registry: str) -> bool:
        document = self._read()
        helper = self._helper(document, registry)
        was_in_helper = helper is not None and helper.erase(_helper_key(registry))
        auths = dict(_object(document, "auths", self._path))
        gone = list(_keys(auths, registry, ""))
        for key in gone:
            del auths[key]
        if gone:
            self._write({**document, "auths": auths})
        return bool(gone) or was_in_helper

    def _helper(self, document: Mapping[str, Any], registry: str) -> CredentialHelper | None:
        helpers = _object(document, "credHelpers", self._path)
        names = [helpers[key] for key in _keys(helpers, registry, "")] or [document.get("credsStore")]
        return CredentialHelper(names[0]) if names[0] else None

    def _read(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MAX_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise InvalidCredentials(f"{self._path}: cannot be read ({error.strerror})") from None
        try:
            document = json.loads(raw or b"{}")
        except (ValueError, RecursionError):  # SECURITY: the parser's message would quote the file
            raise InvalidCredentials(f"{self._path}: not JSON") from None
        if not isinstance(document, dict):
            raise InvalidCredentials(f"{self._path}: expected a JSON object")
        return document

    def _write(self, document: Mapping[str, Any]) -> None:
        path = Path(os.path.realpath(self._path))  # a symlink into somebody's dotfiles stays one
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(json.dumps(document, indent="\t").encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise Unavailable(f"{self._path}: cannot be written ({error.strerror})") from None


class CredentialHelper:
    """``docker-credential-NAME``, found on the search path like any program."""

    def __init__(self, name: Any) -> None:
        if not isinstance(name, str) or _HELPER_NAME.fullmatch(name) is None:
            raise InvalidCredentials(f"{str(name)[:80]!r}: not the name of a credential helper")
        self._program = f"docker-credential-{name}"

    def get(self, key: str) -> Credential | None:
        """``None`` when the helper has none; that is an answer, not an error."""
        status, output = self._run("get", key.encode())
        if status:
            if b"credentials not found" in output.lower():
                return None
            raise self._failed("get", output)
        try:
            document = json.loads(output)
            username, secret = document["Username"], document["Secret"]
            has_texts = isinstance(username, str) and isinstance(secret, str)
        except (ValueError, TypeError, KeyError):
            has_texts = False
        if not has_texts:
            raise CredentialHelperFailed(f"{self._program}: its answer is not a credential")
        return Credential(username=username, secret=secret) if username or secret else None

    def store(self, key: str, credential: Credential) -> None:
        document = {"ServerURL": key, "Username": credential.username, "Secret": credential.secret}
        status, _ = self._run("store", json.dumps(document).encode())
        if status:
            raise self._failed("store", b"")

    def erase(self, key: str) -> bool:
        status, output = self._run("erase", key.encode())
        if status and b"credentials not found" not in output.lower():
            raise self._failed("erase", output)
        return not status

    def _run(self, verb: str, given: bytes) -> tuple[int, bytes]:
        import subprocess  # noqa: PLC0415 - most commands never ask a helper

        try:
            done = subprocess.run(
                [self._program, verb], input=given, capture_output=True, timeout=_HELPER_SECONDS, check=False
            )
        except FileNotFoundError:
            raise CredentialHelperFailed(f"{self._program}: not found on the search path") from None
        except OSError as error:
            raise CredentialHelperFailed(f"{self._program}: cannot be run ({error.strerror})") from None
        except subprocess.TimeoutExpired:
            late = f"{self._program} {verb}: no answer in {_HELPER_SECONDS} seconds"
            raise CredentialHelperFailed(late) from None
        return done.returncode, done.stdout

    def _failed(self, verb: str, output: bytes) -> CredentialHelperFailed:
        said = "".join(c if c.isprintable() else " " for c in output[:200].decode(errors="replace")).strip()
        return CredentialHelperFailed(f"{self._program} {verb}: {said or 'failed'}")


def _helper_key(registry: str) -> str:
    return DOCKER_HUB_KEY if registry in _HUB_NAMES else registry


def _keys(entries: Mapping[str, Any], registry: str, repository: str) -> Iterator[str]:
    """The keys that speak of a repository, most specific first, then old spellings of the host."""
    parts = [registry, *(repository.split("/") if repository else ())]
    for length in range(len(parts), 0, -1):
        key = "/".join(parts[:length])
        if key in entries:
            yield key
    for key in entries:
        if key != registry and _host_of(key) in (_HUB_NAMES if registry in _HUB_NAMES else {registry}):
            yield key


def _host_of(key: str) -> str:
    """``https://host/v1/`` and ``host`` are both how docker has spelled a host; a path is neither."""
    scheme, marker, rest = key.partition("://")
    if marker and scheme in {"http", "https"}:
        return rest.partition("/")[0]
    return key


def _object(document: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidCredentials(f"{path}: {name}: expected an object")
    return value


def _credential(entry: Any, path: Path, key: str) -> Credential | None:
    """One member of ``auths``; ``None`` for an empty one, which only says "ask the store"."""
    if not isinstance(entry, dict):
        raise InvalidCredentials(f"{path}: auths[{key!r}]: expected an object")
    texts = {name: entry.get(name) or "" for name in
             ("auth", "username", "password", "identitytoken", "registrytoken")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise InvalidCredentials(f"{path}: auths[{key!r}]: expected strings")
    if texts["identitytoken"]:
        return Credential(username=TOKEN_USER, secret=texts["identitytoken"])
    username, secret = texts["username"], texts["password"]
    if texts["auth"]:
        username, secret = _decode_auth(texts["auth"], path, key)
    if not (username or secret or texts["registrytoken"]):
        return None
    return Credential(username=username, secret=secret, registry_token=texts["registrytoken"])


def _decode_auth(text: str, path: Path, key: str) -> tuple[str, str]:
    try:
        username, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise InvalidCredentials(f"{path}: auths[{key!r}].auth: not base64 of user:password")
    return username, secret.strip("\0")
