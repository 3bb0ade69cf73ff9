"""How a git repository is named as a context or a source: ``https://host/x.git#ref:directory`` and its kin.

docker's rules ("Build context", "Git repositories"): http and https URLs are repositories only if their path
ends in ``.git``; ``git://``, ``ssh://``, ``user@host:path`` and ``github.com/…`` always are. SECURITY: a ref
or directory that could be taken for an option, and a directory that leads out, are refused
(CVE-2019-13139, and CVE-2026-33748 of BuildKit).
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from lamina.build.failure import printable
from lamina.errors import InvalidInput, nearest
from lamina.values import dataclass, field

_SCHEMES = frozenset({"http", "https", "git", "ssh"})
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP = re.compile(
    r"([A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9_\[][A-Za-z0-9_.:\]-]*?):([^-/:#][^#]*|/[^#]*)(?:#(.*))?",
    re.DOTALL,
)
# git-check-ref-format(1), and a refspec's own colon and plus.
_REF = re.compile(r"(?![-+/])(?!.*(?:\.\.|@\{|//))[^\x00-\x20\x7f~^:?*\[\\]+(?<![./])")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_QUERY = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")


class InvalidGitAddress(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAddress:
    """``remote`` is what git is given, and has no credentials: ``authorization`` is the HTTP header's value.

    ``ref`` and ``directory`` may be empty: the default branch, and all of it. ``commit`` is the beginning of
    the commit that it must be. ``keeps_git`` is ``None`` where the address does not say.
    """

    remote: str
    ref: str = ""
    directory: str = ""
    commit: str = ""
    keeps_git: bool | None = None
    has_submodules: bool = True
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        wanted = f"#{self.ref}:{self.directory}".rstrip(":").removesuffix("#")
        return printable(self.remote + wanted)


def parse_git(text: str, *, allows_files: bool = False) -> GitAddress | None:
    """``None`` for what names no repository. Raises :class:`InvalidGitAddress`.

    ``allows_files`` admits ``file://`` URLs: whoever says one must be the one whose files they are.
    """
    if text.startswith("github.com/"):
        text = f"https://{text}"
        return _from_url(text, urlsplit(text))
    scheme = _URL.match(text)
    if scheme is None:
        return _from_scp(text)
    name = scheme[1].lower()
    if name not in _SCHEMES and not (allows_files and name == "file"):
        return None
    if any(character < " " for character in text):
        raise InvalidGitAddress(f"{_shown(text)}: not a URL")  # urlsplit would take them out, and go on
    try:
        parts = urlsplit(text)
        _port = parts.port
    except ValueError:
        raise InvalidGitAddress(f"{_shown(text)}: not a URL") from None
    if name in ("http", "https") and not parts.path.endswith(".git"):
        return None
    return _from_url(text, parts)


def _from_url(text: str, parts: SplitResult) -> GitAddress:
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme != "file" and (not parts.hostname or host.startswith("-")):
        raise InvalidGitAddress(f"{_shown(text)}: names no host")
    if not parts.path.strip("/") or any(character < "!" for character in parts.netloc + parts.path):
        raise InvalidGitAddress(f"{_shown(text)}: names no repository")
    is_web = parts.scheme in ("http", "https")
    who = parts.netloc.rpartition("@")[0]
    if not is_web:
        who = who.partition(":")[0]  # ssh takes no password from a URL
        if who.startswith("-"):
            raise InvalidGitAddress(f"{_shown(text)}: a user name cannot begin with '-'")
    netloc = host if is_web or not who else f"{who}@{host}"
    return _made(
        text, f"{parts.scheme}://{netloc}{parts.path}", parts.fragment, _read_query(text, parts.query),
        _basic(parts) if is_web else "",
    )


def _from_scp(text: str) -> GitAddress | None:
    found = _SCP.fullmatch(text)
    if found is None:
        return None
    if any(character < "!" for character in found[2]):
        raise InvalidGitAddress(f"{_shown(text)}: names no repository")
    return _made(text, f"{found[1]}:{found[2]}", found[3] or "", {}, "")


def _made(
    text: str, remote: str, fragment: str, query: Mapping[str, str], authorization: str
) -> GitAddress:
    ref, _, directory = unquote(fragment).partition(":")
    if query and fragment:
        raise InvalidGitAddress(f"{_shown(text)}: say it behind '?' or behind '#', not both")
    if query:
        ref, directory = _ref_of(text, query), query.get("subdir", "")
    commit = query.get("checksum") or query.get("commit") or ""
    if commit and _COMMIT.fullmatch(commit) is None:
        raise InvalidGitAddress(f"{_shown(text)}: {commit!r} is not a commit (7 to 64 hex digits)")
    return GitAddress(
        remote=remote, ref=checked_ref(text, ref or commit), directory=_checked_directory(text, directory),
        commit=commit, authorization=authorization,
        keeps_git=_flag(text, query["keep-git-dir"]) if "keep-git-dir" in query else None,
        has_submodules=_flag(text, query.get("submodules", "true")),
    )


def _read_query(text: str, query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    for name in found:
        if name not in _QUERY:
            raise InvalidGitAddress(f"{_shown(text)}: unknown parameter {name!r}{nearest(name, _QUERY)}")
    return found


def _ref_of(text: str, query: Mapping[str, str]) -> str:
    given = [name for name in ("ref", "tag", "branch") if query.get(name)]
    if len(given) > 1:
        raise InvalidGitAddress(f"{_shown(text)}: {given[0]!r} and {given[1]!r} say the same thing twice")
    if not given:
        return ""
    prefix = {"tag": "refs/tags/", "branch": "refs/heads/", "ref": ""}[given[0]]
    return prefix + query[given[0]]


def _flag(text: str, value: str) -> bool:
    if value.lower() in ("", "1", "true"):
        return True
    if value.lower() in ("0", "false"):
        return False
    raise InvalidGitAddress(f"{_shown(text)}: {value!r} is neither true nor false")


def checked_ref(text: str, ref: str) -> str:
    if ref and _REF.fullmatch(ref) is None:
        raise InvalidGitAddress(f"{_shown(text)}: {ref!r} is not the name of a branch, tag or commit")
    return ref


def _checked_directory(text: str, directory: str) -> str:
    cleaned = posixpath.normpath(directory.lstrip("/")) if directory.strip("/") else "."
    if cleaned == ".." or cleaned.startswith(("../", "-")) or "\0" in cleaned:
        raise InvalidGitAddress(f"{_shown(text)}: {directory!r} is not a directory of the repository")
    return "" if cleaned == "." else cleaned


def _basic(parts: SplitResult) -> str:
    if not parts.username and not parts.password:
        return ""
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _shown(text: str) -> str:
    """SECURITY: what stands before the host may be a password."""
    return printable(re.sub(r"//[^/#?]*@", "//", text)[:200])
