"""Git repositories as files: fetched by the ``git`` program, which trusts nothing that it finds in them.

No hook, filter, template or setting of anybody runs: not the system's, not the user's, not the repository's.
Only http, https, git and ssh are spoken, by submodules too (CVE-2022-39253 read local files through one).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lamina.build.context import Context
from lamina.build.failure import printable
from lamina.build.gitaddress import GitAddress
from lamina.errors import IntegrityError, NotFound, Unavailable, Unsupported
from lamina.layer.entry import Kind
from lamina.snapshot.trees import empty_and_remove
from lamina.values import dataclass

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256_LENGTH = 64
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SETTINGS = (
    "core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null", "core.askPass=",
    "credential.helper=", "init.defaultBranch=main", "advice.detachedHead=false",
    "fetch.recurseSubmodules=false", "submodule.recurse=false", "transfer.bundleURI=false",
    "gc.auto=0", "maintenance.auto=false",
    "protocol.allow=never", "protocol.http.allow=always", "protocol.https.allow=always",
    "protocol.git.allow=always", "protocol.ssh.allow=always", "protocol.ext.allow=never",
)
# What of the caller's environment a fetch needs: where programs, proxies, authorities and the SSH agent are.
_PASSED = frozenset({
    "PATH", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy",
})


class RepositoryUnavailable(Unavailable):
    pass


class RefNotFound(NotFound):
    pass


class CommitMismatch(IntegrityError):
    pass


@dataclass(frozen=True, slots=True)
class Resolved:
    """``ref`` is the full name, or ``""`` where ``commit`` was given or cannot be looked up from afar."""

    ref: str
    commit: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """``path`` is the directory that was asked for, free of symlinks; it lies in the one that was given."""

    path: Path
    commit: str


class Git:
    """``environment`` is the caller's; little of it is passed on. ``timeout`` is in seconds, for each call.

    ``allows_files`` lets repositories and submodules be local directories.
    """

    def __init__(
        self, environment: Mapping[str, str], *, program: str = "git", allows_files: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._program = program
        self._timeout = timeout
        settings = (*_SETTINGS, f"protocol.file.allow={'always' if allows_files else 'never'}")
        self._options = [word for setting in settings for word in ("-c", setting)]
        self._environment = {name: value for name, value in environment.items() if name in _PASSED} | {
            "LC_ALL": "C.UTF-8", "HOME": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_VARIANT": "ssh", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": self._protocols(allows_files),
        }

    def resolve(self, address: GitAddress) -> Resolved:
        """Which commit is meant, without fetching it. A branch comes before a tag of the same name.

        Raises :class:`RefNotFound`, :class:`CommitMismatch`, :class:`RepositoryUnavailable`.
        """
        if _FULL_COMMIT.fullmatch(address.ref):
            return self._expected(address, Resolved("", address.ref))
        names = _candidates(address.ref)
        peeled = [f"{name}^{{}}" for name in names]  # the commit that an annotated tag is of
        listed = self._run(address, None, "ls-remote", "--", address.remote, *names, *peeled)
        commits = dict(line.split("\t", 1)[::-1] for line in listed.splitlines() if "\t" in line)
        for name in names:
            if name in commits:
                return self._expected(address, Resolved(name, commits.get(f"{name}^{{}}", commits[name])))
        if _SHORT_COMMIT.fullmatch(address.ref):
            return Resolved("", "")
        raise RefNotFound(f"{address}: no branch, tag or commit of that name there")

    def fetch(self, address: GitAddress, directory: Path, *, keeps_git: bool = False) -> Checkout:
        """Into an existing, empty directory. Not undone when it fails: the caller throws the directory away.

        Raises what :meth:`resolve` does.
        """
        resolved = self.resolve(address)
        kind = "sha256" if len(resolved.commit) == _SHA256_LENGTH else "sha1"
        self._run(address, directory, "init", "--quiet", "--template=", f"--object-format={kind}")
        self._run(address, directory, "config", "remote.origin.url", address.remote)
        commit = self._fetch_commit(address, resolved, directory)
        self._expected(address, Resolved("", commit))
        self._run(address, directory, "checkout", "--quiet", "--force", "--detach", commit, "--")
        if address.has_submodules and (directory / ".gitmodules").is_file():
            update = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
            self._run(address, directory, *update)
        if not (keeps_git if address.keeps_git is None else address.keeps_git):
            _remove_git(directory)
        return Checkout(_inside(address, directory), commit)

    def _fetch_commit(self, address: GitAddress, resolved: Resolved, directory: Path) -> str:
        wanted = resolved.ref or resolved.commit
        fetch = ("fetch", "--quiet", "--force", "--no-tags")
        try:
            if wanted:
                self._run(address, directory, *fetch, "--depth=1", "--", address.remote, wanted)
                return self._commit_of(address, directory, "FETCH_HEAD")
        except RepositoryUnavailable:  # not every server gives commits by name, or a part of the history
            pass
        everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        self._run(address, directory, *fetch, "--", address.remote, *everything)
        return self._commit_of(address, directory, resolved.commit or address.ref)

    def _commit_of(self, address: GitAddress, directory: Path, name: str) -> str:
        verify = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        try:
            return self._run(address, directory, *verify).strip()
        except RepositoryUnavailable:
            raise RefNotFound(f"{address}: no branch, tag or commit of that name there") from None

    def _expected(self, address: GitAddress, resolved: Resolved) -> Resolved:
        if resolved.commit and not resolved.commit.startswith(address.commit):
            raise CommitMismatch(f"{address}: expected commit {address.commit}, got {resolved.commit}")
        return resolved

    def _run(self, address: GitAddress, directory: Path | None, *words: str) -> str:
        where = [] if directory is None else ["-C", os.fspath(directory)]
        command = [self._program, *self._options, *where, *words]
        try:
            done = subprocess.run(
                command, env=self._environment | _authorizing(address), stdin=subprocess.DEVNULL,
                capture_output=True, check=False, timeout=self._timeout,
                encoding="utf-8", errors="surrogateescape",
            )
        except FileNotFoundError:
            raise Unsupported(f"{address}: takes the program {self._program}, which is not here") from None
        except subprocess.TimeoutExpired:
            raise RepositoryUnavailable(
                f"{address}: git {words[0]} took longer than {self._timeout} seconds"
            ) from None
        if done.returncode:
            raise RepositoryUnavailable(f"{address}: git {words[0]} failed: {_reason(done.stderr)}")
        return done.stdout

    @staticmethod
    def _protocols(allows_files: bool) -> str:
        return "http:https:git:ssh" + (":file" if allows_files else "")


def _candidates(ref: str) -> Sequence[str]:
    if not ref:
        return ("HEAD",)
    if ref.startswith("refs/"):
        return (ref,)
    return (f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/{ref}", *(("HEAD",) if ref == "HEAD" else ()))


def _authorizing(address: GitAddress) -> dict[str, str]:
    """SECURITY: in the environment, since everybody may read command lines; for this host and no other."""
    if not address.authorization:
        return {}
    origin = "/".join(address.remote.split("/", 3)[:3])
    return {
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{origin}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: {address.authorization}",
    }


def _reason(errors: str) -> str:
    """The line that says why. SECURITY: without what may be a password."""
    lines = [line.strip() for line in re.sub(r"//[^/\s@]*@", "//", errors).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal: ", "error: "))] or lines
    telling.append("it did not say why")
    return printable(telling[0].removeprefix("fatal: ").removeprefix("error: ")[:300])


def _remove_git(directory: Path) -> None:
    """Of submodules too. Git itself checks out nothing by that name, so all of them are its own."""
    with Context.from_directory(directory) as context:
        waiting = [""]
        while waiting:
            for node in context.children(waiting.pop()):
                if node.name == ".git":
                    empty_and_remove(directory / node.path)
                elif node.kind is Kind.DIRECTORY:
                    waiting.append(node.path)


def _inside(address: GitAddress, directory: Path) -> Path:
    with Context.from_directory(directory) as context:
        found = context.resolve(address.directory)
        node = None if found is None else context.look(found)
        if node is None or node.kind is not Kind.DIRECTORY:
            raise RefNotFound(f"{address}: the repository has no directory {printable(address.directory)}")
        return directory / node.path
