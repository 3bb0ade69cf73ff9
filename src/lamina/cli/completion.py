"""Completion for shells: short scripts that ask ``lamina __complete`` what may come next.

The words come from the same tables and parsers that read the command line, so nothing can drift. The
names of images come from the state file, opened for reading alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence

from lamina.cli import quick, verbs
from lamina.cli.arguments import GlobalParser, VerbParser, split_globals
from lamina.cli.verbs import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.arguments import Arguments
    from lamina.cli.session import Session

# The last line of an answer; tells the script to complete file names too.
FILES = ":files"

_BASH = """\
# lamina completion for bash: put  source <(lamina completion bash)  into ~/.bashrc
_lamina() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" current cut=""
    local -a asked
    # Bash splits words at colons; names hold colons, so the line is split anew, at blanks.
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n : cur words cword
        asked=("${words[@]:1:cword}")
    else
        IFS=$' \\t' read -r -a asked <<<"$line"
        [[ "$line" == *[[:blank:]] ]] && asked+=("")
        asked=("${asked[@]:1}")
    fi
    current="${asked[${#asked[@]}-1]}"
    COMPREPLY=()
    while read -r line; do
        if [ "$line" = ":files" ]; then
            COMPREPLY+=($(compgen -f -- "$current"))
        else
            COMPREPLY+=("${line%%$'\\t'*}")
        fi
    done < <(lamina __complete "${asked[@]}" 2>/dev/null)
    # What stands before the last colon stays on the line, and must not come twice.
    if [[ "$COMP_WORDBREAKS" == *:* ]]; then
        cut="${current%"${current##*:}"}"
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    fi
}
complete -o nosort -F _lamina lamina
"""
_ZSH = """\
#compdef lamina
# lamina completion for zsh: put  source <(lamina completion zsh)  into ~/.zshrc
_lamina() {
    local line
    local -a found
    for line in "${(@f)$(lamina __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ "$line" == ":files" ]]; then
            _files
        elif [[ -n "$line" ]]; then
            # A colon divides word and meaning, so those in a word are escaped.
            found+=("${${line%%$'\\t'*}//:/\\\\:}${${(M)line%$'\\t'*}/$'\\t'/:}")
        fi
    done
    (( ${#found} )) && _describe lamina found
}
compdef _lamina lamina
"""
_FISH = """\
# lamina completion for fish: put  lamina completion fish | source  into ~/.config/fish/config.fish
function __lamina_complete
    set -l asked (commandline -opc) (commandline -ct)
    for line in (lamina __complete $asked[2..] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c lamina -f -a '(__lamina_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

# What the arguments of a verb are.
_ANYWHERE = frozenset({"squash", "waste", "diff", "du", "report", "verify-erased", "secrets"})
_IMAGES = _ANYWHERE | {
    "push", "save", "export", "images", "inspect", "history", "tag", "rmi", "layers", "ls", "cat", "blame",
    "obscured", "mount", "umount", "pull",
}
_FILES = frozenset({"load", "import"})
_FILE_OPTIONS = frozenset({"--output", "-o", "--input", "-i", "--root", "--config-file",
                           "--references", "--secret-file"})
_IMAGE_OPTIONS = frozenset({"--base", "--tag", "-t"})
_CHOICES = {
    "--storage-driver": ("overlay2", "erofs", "vfs"),
    "--platform": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le",
                   "linux/riscv64", "linux/s390x"),
    "--kind": ("metadata", "moved", "replaced", "deleted", "marker", "cache", "duplicate"),
}


def _arguments(parser: VerbParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=list(SCRIPTS), help="bash, zsh or fish")


def _print_script(arguments: Arguments, session: Session) -> None:
    session.print(SCRIPTS[arguments.shell].rstrip("\n"))


COMPLETION = Verb(
    _print_script,
    usage="bash|zsh|fish",
    about="Completes verbs, options, and the names of images that are here.",
    arguments=_arguments,
    examples=("source <(lamina completion bash)", "lamina completion fish | source"),
)


def _complete(arguments: Arguments, session: Session) -> None:
    for text in candidates(arguments.command, session):
        session.print(text)


COMPLETE = Verb(_complete, usage="WORDS", about="", examples=(), command="all")


def candidates(words: Sequence[str], session: Session) -> Iterator[str]:
    """What may stand for the last word, each with a description behind a tab where there is one."""
    *before, current = list(words) or [""]
    globals_before, rest = split_globals(before)
    _adopt_root(globals_before, session)
    if rest:
        yield from _within_verb(rest, current, session)
    elif _awaits_value(globals_before):
        yield from _values_of(globals_before[-1], current, session)
    elif current.startswith("-"):
        yield from _options(GlobalParser()._actions, current)  # noqa: SLF001
    else:
        firsts = {name.split(" ")[0]: verbs.entry(name)[2] for name in verbs.names()}
        yield from _matching({**firsts, **verbs.GROUPS}.items(), current)


def _adopt_root(words: Sequence[str], session: Session) -> None:
    """Images are those of the state directory that the line itself has chosen."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--root":
            session.flags["data-root"] = value if equals else "".join(words[number + 1 : number + 2])


def _within_verb(rest: Sequence[str], current: str, session: Session) -> Iterator[str]:
    name, count = verbs.find(rest)
    if not name:
        if len(rest) == 1 and rest[0] in verbs.GROUPS:
            members = verbs.members(rest[0]).items()
            yield from _matching(((word, verbs.entry(proper)[2]) for word, proper in members), current)
        return
    parser = VerbParser(name, verbs.load(name))
    previous = rest[-1] if len(rest) > count else ""
    action = parser._option_string_actions.get(previous)  # noqa: SLF001
    if action is not None and action.nargs != 0:
        choices = action.choices or ()
        yield from _matching(((str(choice), "") for choice in choices), current)
        yield from _values_of(previous, current, session)
    elif current.startswith("-"):
        yield from _options(parser._actions, current)  # noqa: SLF001
    elif name == "help":
        yield from _matching(((verb, verbs.entry(verb)[2]) for verb in verbs.names()), current)
    elif name == "completion":
        yield from _matching(((shell, "") for shell in SCRIPTS), current)
    elif name in _FILES or (name in _ANYWHERE and current.startswith((".", "/"))):
        yield FILES
    elif name in _IMAGES:
        yield from _matching(((image, "") for image in image_names(session)), current)


def _awaits_value(words: Sequence[str]) -> bool:
    from lamina.cli.arguments import GLOBAL_VALUES

    return bool(words) and words[-1] in GLOBAL_VALUES


def _values_of(option: str, current: str, session: Session) -> Iterator[str]:
    if option in _FILE_OPTIONS:
        yield FILES
    if option in _IMAGE_OPTIONS:
        yield from _matching(((image, "") for image in image_names(session)), current)
    yield from _matching(((value, "") for value in _CHOICES.get(option, ())), current)


def _options(actions: Iterable[argparse.Action], current: str) -> Iterator[str]:
    pairs = ((name, action.help or "") for action in actions for name in action.option_strings
             if name.startswith("--"))
    yield from _matching(pairs, current)


def _matching(pairs: Iterable[tuple[str, str]], current: str) -> Iterator[str]:
    for word, meaning in pairs:
        if word.startswith(current):
            yield f"{word}\t{meaning}" if meaning else word


def image_names(session: Session) -> list[str]:
    """Names as people type them; none at all rather than an error under somebody's cursor."""
    import sqlite3

    root = session.flags.get("data-root") or quick.state_directory(session.environ) or session.settings.root
    path = quick.quoted(os.path.join(str(root), "state.sqlite"))
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
        rows = connection.execute("SELECT name FROM names ORDER BY name LIMIT 5000").fetchall()
    except sqlite3.Error:
        return []
    finally:
        if connection is not None:
            connection.close()
    return [":".join(filter(None, quick.familiar(name))) for (name,) in rows if "@" not in name]
