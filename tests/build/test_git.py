from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lamina.build.git import CommitMismatch, Git, RefNotFound, RepositoryUnavailable
from lamina.build.gitaddress import GitAddress, InvalidGitAddress, parse_git
from lamina.errors import Unsupported
from lamina.http.message import Request, Response
from lamina.http.server import serve

# -- addresses


@pytest.mark.parametrize(("text", "remote", "ref", "directory"), [
    ("https://host/user/x.git", "https://host/user/x.git", "", ""),
    ("https://host/user/x.git#main", "https://host/user/x.git", "main", ""),
    ("https://host/x.git#main:sub/dir", "https://host/x.git", "main", "sub/dir"),
    ("https://host/x.git#:sub", "https://host/x.git", "", "sub"),
    ("https://host/x.git#v1.0:/sub/", "https://host/x.git", "v1.0", "sub"),
    ("https://host/x.git#feature/a:a/../b", "https://host/x.git", "feature/a", "b"),
    ("https://host/x.git#refs/pull/7/head", "https://host/x.git", "refs/pull/7/head", ""),
    ("http://host:8080/x.git", "http://host:8080/x.git", "", ""),
    ("git://host/x", "git://host/x", "", ""),
    ("ssh://git@host:22/x#main", "ssh://git@host:22/x", "main", ""),
    ("git@github.com:user/x.git#main:dir", "git@github.com:user/x.git", "main", "dir"),
    ("other@host:x", "other@host:x", "", ""),
    ("github.com/user/x", "https://github.com/user/x", "", ""),
    ("github.com/user/x#v1:d", "https://github.com/user/x", "v1", "d"),
    ("https://host/x.git?branch=main&subdir=d", "https://host/x.git", "refs/heads/main", "d"),
    ("https://host/x.git?tag=v1", "https://host/x.git", "refs/tags/v1", ""),
    ("https://host/x.git?ref=pull/1/head", "https://host/x.git", "pull/1/head", ""),
])
def test_addresses(text: str, remote: str, ref: str, directory: str) -> None:
    address = parse_git(text)
    assert address is not None
    assert (address.remote, address.ref, address.directory) == (remote, ref, directory)


@pytest.mark.parametrize("text", [
    ".", "./x.git", "../x.git", "/x.git", "dir", "https://host/x.tar.gz", "https://host/x", "http://host/", "ftp://host/x.git",
    "file:///x.git", "ext::sh -c x", "gitlab.com/user/x", "-", "", "x:y", "C:\\x.git"])
def test_what_is_no_repository(text: str) -> None:
    assert parse_git(text) is None


@pytest.mark.parametrize("text", [
    "https://host/x.git#--upload-pack=sh", "https://host/x.git#-x:dir", "https://host/x.git#main:../..", "https://host/x.git#main:a/../../b",
    "https://host/x.git#main:-d", "https://host/x.git#%2d%2dupload-pack=x", "https://host/x.git#main:%2e%2e/x", "https://host/x.git#a..b",
    "https://host/x.git#+refs/heads/*", "https://host/x.git#a b", "https://host/x.git#a\nb", "https://host/x.git#a%00", "https://host/x.git#@{u}",
    "ssh://-oProxyCommand=x/y", "ssh://-oProxyCommand=x@host/y", "ssh:///x", "git://host", "https://host/x.git?brunch=x", "https://host/x.git?ref=a#b",
    "https://host/x.git?tag=a&branch=b", "https://host/x.git?checksum=xyz", "https://host/x.git?submodules=maybe", "git@host:a b\n",
    "https://host:99999/x.git"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(InvalidGitAddress):
        parse_git(text)


def test_an_option_is_never_taken_for_a_host() -> None:
    assert parse_git("-oProxyCommand=x@host:y") is None
    assert parse_git("git@host:-x") is None
    assert parse_git("git@-oProxyCommand=x:y") is None


def test_credentials_are_kept_out_of_sight() -> None:
    address = parse_git("https://user:secret@host/x.git#main")
    assert address is not None
    assert address.remote == "https://host/x.git"
    assert address.authorization == "Basic dXNlcjpzZWNyZXQ="
    assert "secret" not in f"{address} {address!r}"
    assert "dXNl" not in f"{address} {address!r}"
    with pytest.raises(InvalidGitAddress) as caught:
        parse_git("https://user:secret@host/x.git#--x")
    assert "secret" not in str(caught.value)


def test_what_an_address_says_beside() -> None:
    address = parse_git("https://host/x.git?keep-git-dir=1&submodules=false&checksum=0123456789")
    assert address is not None
    assert (address.keeps_git, address.has_submodules, address.commit, address.ref) == (True, False, "0123456789", "0123456789")
    plain = parse_git("https://host/x.git")
    assert plain is not None
    assert (plain.keeps_git, plain.has_submodules) == (None, True)


# -- fetching

_IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/dev/null", "PATH": os.environ["PATH"], "GIT_ALLOW_PROTOCOL": "file",
}
GIT = Git(os.environ)
WITH_FILES = Git(os.environ, allows_files=True)


def git(where: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", where, "-c", "init.defaultBranch=main", *words], env=_IDENTITY, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(where: Path, message: str, **files: str) -> str:
    for name, content in files.items():
        path = where / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", message)
    return git(where, "rev-parse", "HEAD")


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """``x``: two commits on main, a branch and tags. ``library`` is a submodule of ``whole``."""
    top = tmp_path / "repositories"
    for name in ("x", "library", "whole"):
        (top / name).mkdir(parents=True)
        git(top / name, "init", "-q")
    commit(top / "x", "one", file="one", sub__deep="1")
    git(top / "x", "tag", "v1")
    git(top / "x", "tag", "-a", "-m", "annotated", "v1a")
    (top / "x" / "inner").symlink_to("sub")
    (top / "x" / "out").symlink_to("../../..")
    (top / "x" / "abs").symlink_to("/etc")
    commit(top / "x", "two", file="two")
    git(top / "x", "branch", "other", "v1")
    commit(top / "library", "library", lib="lib")
    git(top / "whole", "-c", "protocol.file.allow=always", "submodule", "add", "-q", "../library", "parts/library")
    commit(top / "whole", "whole", file="whole")
    return top


@pytest.fixture
def daemon(repositories: Path) -> Iterator[str]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all", f"--base-path={repositories}", str(repositories)],
        env=_IDENTITY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    for _attempt in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    yield f"git://127.0.0.1:{port}"
    os.killpg(process.pid, 15)
    process.wait()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., dict[str, str]]:
    def act(text: str, program: Git = GIT, **options: bool) -> dict[str, str]:
        directory = tmp_path / f"checkout-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        address = parse_git(text, allows_files=True)
        assert address is not None
        done = program.fetch(address, directory, **options)
        files = {str(path.relative_to(done.path)): path.read_text() for path in sorted(done.path.rglob("*")) if path.is_file() and ".git/" not in str(path)}
        return {"commit": done.commit, **files}

    return act


Fetch = Callable[..., dict[str, str]]


def test_the_default_branch(daemon: str, repositories: Path, fetch: Fetch) -> None:
    found = fetch(f"{daemon}/x")
    assert found == {"commit": git(repositories / "x", "rev-parse", "HEAD"), "file": "two", "sub/deep": "1"}


@pytest.mark.parametrize("ref", ["v1", "v1a", "other", "refs/tags/v1", "refs/heads/other", "heads/other"])
def test_branches_and_tags(daemon: str, repositories: Path, fetch: Fetch, ref: str) -> None:
    commits = git(repositories / "x", "rev-parse", "v1")
    assert fetch(f"{daemon}/x#{ref}") == {"commit": commits, "file": "one", "sub/deep": "1"}
    address = parse_git(f"{daemon}/x#{ref}")
    assert address is not None
    assert GIT.resolve(address).commit == commits


def test_a_branch_comes_before_a_tag(daemon: str, repositories: Path, fetch: Fetch) -> None:
    git(repositories / "x", "tag", "both", "v1")
    git(repositories / "x", "branch", "both", "main")
    assert fetch(f"{daemon}/x#both")["file"] == "two"


def test_commits_long_and_short(daemon: str, repositories: Path, fetch: Fetch) -> None:
    old = git(repositories / "x", "rev-parse", "v1")
    assert fetch(f"{daemon}/x#{old}")["file"] == "one"
    assert fetch(f"{daemon}/x#{old[:8]}")["commit"] == old
    assert fetch(f"{daemon}/x?checksum={old[:10]}")["commit"] == old
    assert fetch(f"{daemon}/x?tag=v1&checksum={old}")["commit"] == old
    with pytest.raises(CommitMismatch, match=f"expected commit {old}, got"):
        fetch(f"{daemon}/x?branch=main&checksum={old}")


def test_what_is_not_there(daemon: str, fetch: Fetch) -> None:
    with pytest.raises(RefNotFound, match=r"#nothing: no branch, tag or commit"):
        fetch(f"{daemon}/x#nothing")
    with pytest.raises(RefNotFound):
        fetch(f"{daemon}/x#{'0' * 40}")
    with pytest.raises(RefNotFound):
        fetch(f"{daemon}/x#abcdef0")
    with pytest.raises(RepositoryUnavailable, match=r"/none: git ls-remote failed: "):
        fetch(f"{daemon}/none")
    with pytest.raises(RefNotFound, match="no directory none"):
        fetch(f"{daemon}/x#main:none")
    with pytest.raises(RefNotFound, match="no directory file"):
        fetch(f"{daemon}/x#main:file")


def test_a_directory_stays_inside(daemon: str, fetch: Fetch) -> None:
    assert fetch(f"{daemon}/x#main:sub") == {"commit": fetch(f"{daemon}/x")["commit"], "deep": "1"}
    assert fetch(f"{daemon}/x#main:inner")["deep"] == "1"
    assert fetch(f"{daemon}/x#main:out")["file"] == "two"  # as after a chroot: no higher than the top
    with pytest.raises(RefNotFound):
        fetch(f"{daemon}/x#main:abs")


def test_the_history_is_not_fetched_and_git_goes(daemon: str, tmp_path: Path) -> None:
    address = parse_git(f"{daemon}/x")
    assert address is not None
    for keeps in (True, False):
        directory = tmp_path / f"keeps-{keeps}"
        directory.mkdir()
        GIT.fetch(address, directory, keeps_git=keeps)
        assert (directory / ".git").exists() is keeps
    assert git(tmp_path / "keeps-True", "rev-list", "--count", "HEAD") == "1"


def test_submodules(repositories: Path, fetch: Fetch) -> None:
    found = fetch(f"file://{repositories}/whole", WITH_FILES)
    assert found["parts/library/lib"] == "lib"
    assert "parts/library/.git" not in found
    assert "parts/library/.git" in fetch(f"file://{repositories}/whole", WITH_FILES, keeps_git=True)
    assert "parts/library/lib" not in fetch(f"file://{repositories}/whole?submodules=0", WITH_FILES)


def test_relative_submodules_over_the_network(daemon: str, fetch: Fetch) -> None:
    assert fetch(f"{daemon}/whole")["parts/library/lib"] == "lib"


def test_a_submodule_does_not_read_local_files(daemon: str, repositories: Path, fetch: Fetch) -> None:
    git(repositories / "whole", "config", "-f", ".gitmodules", "submodule.parts/library.url", str(repositories / "library"))
    commit(repositories / "whole", "hostile")
    with pytest.raises(RepositoryUnavailable, match="git submodule failed"):
        fetch(f"{daemon}/whole")


def test_local_files_take_an_allowance(repositories: Path, fetch: Fetch) -> None:
    assert fetch(f"file://{repositories}/x", WITH_FILES)["file"] == "two"
    with pytest.raises(RepositoryUnavailable, match="not allowed"):
        fetch(f"file://{repositories}/x", GIT)


def test_nothing_of_anybodys_settings_runs(daemon: str, repositories: Path, tmp_path: Path, fetch: Fetch) -> None:
    home, mark = tmp_path / "home", tmp_path / "ran"
    (home / "hooks").mkdir(parents=True)
    hook = home / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    (home / ".gitconfig").write_text(
        f'[core]\n hooksPath = {home}/hooks\n[filter "x"]\n smudge = touch {mark}; cat\n[init]\n templateDir = {home}\n')
    commit(repositories / "x", "attributes", **{".gitattributes": "* filter=x\n"})
    environment = os.environ | {"HOME": str(home), "GIT_DIR": "/nonexistent", "GIT_TEMPLATE_DIR": str(home), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}
    assert fetch(f"{daemon}/x", Git(environment))["file"] == "two"
    assert not mark.exists()


def test_a_repository_cannot_bring_a_git_directory_of_its_own(daemon: str, repositories: Path, fetch: Fetch) -> None:
    """A hostile tree made by hand: .git/config in it would be settings of ours."""
    blob = subprocess.run(["git", "-C", repositories / "x", "hash-object", "-w", "--stdin"], input="[core]\n fsmonitor = false\n", env=_IDENTITY, capture_output=True, check=True, text=True).stdout.strip()
    inner = subprocess.run(["git", "-C", repositories / "x", "mktree"], input=f"100644 blob {blob}\tconfig\n", env=_IDENTITY, capture_output=True, check=True, text=True).stdout.strip()
    tree = subprocess.run(["git", "-C", repositories / "x", "mktree"], input=f"040000 tree {inner}\t.git\n", env=_IDENTITY, capture_output=True, check=True, text=True).stdout.strip()
    made = git(repositories / "x", "commit-tree", "-m", "hostile", tree)
    git(repositories / "x", "branch", "hostile", made)
    with pytest.raises(RepositoryUnavailable, match="git checkout failed"):
        fetch(f"{daemon}/x#hostile")


def test_without_the_program(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"takes the program no-such-git"):
        Git(os.environ, program="no-such-git").resolve(GitAddress(remote="https://host/x.git"))


def test_a_remote_that_is_an_option_runs_nothing(tmp_path: Path) -> None:
    """However it came to be: behind ``--`` nothing is an option."""
    mark = tmp_path / "ran"
    with pytest.raises(RepositoryUnavailable):
        GIT.resolve(GitAddress(remote=f"--upload-pack=touch {mark}"))
    with pytest.raises(RepositoryUnavailable):
        GIT.resolve(GitAddress(remote=f"ext::sh -c touch% {mark}"))
    assert not mark.exists()


def http_backend(top: Path, expected: str) -> Callable[[Request], Response]:
    """git-http-backend(1) as an application, which wants credentials."""

    def answer(request: Request) -> Response:
        if request.headers.get("Authorization", "") != expected:
            return Response(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
        parts = urlsplit(request.url)
        body = request.body.read() if request.body is not None and not isinstance(request.body, bytes) else b""
        environment = {
            **_IDENTITY, "GIT_PROJECT_ROOT": str(top), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": parts.path, "QUERY_STRING": parts.query,
            "REQUEST_METHOD": request.method, "CONTENT_TYPE": request.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""), "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        return Response(int(headers.pop("Status", "200").split()[0]), {**headers, "Content-Length": str(len(content))}, content)

    return answer


def test_credentials_go_to_their_host_and_into_no_message(repositories: Path, tmp_path: Path, fetch: Fetch) -> None:
    git(repositories, "clone", "-q", "--bare", "x", "x.git")
    with serve(http_backend(repositories, "Basic dXNlcjpzZWNyZXQ=")) as server:
        host = server.url.removeprefix("http://").rstrip("/")
        assert fetch(f"http://user:secret@{host}/x.git#v1")["file"] == "one"
        with pytest.raises(RepositoryUnavailable) as caught:
            fetch(f"http://user:guess@{host}/x.git")
        assert "guess" not in str(caught.value)
        assert "Z3Vlc3M" not in str(caught.value)
        address = parse_git(f"http://user:secret@{host}/x.git")
        assert address is not None
        (tmp_path / "kept").mkdir()
        GIT.fetch(address, tmp_path / "kept", keeps_git=True)
        written = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
        assert b"secret" not in written
        assert b"dXNlcjpzZWNyZXQ" not in written
