"""Completion for shells: short scripts that ask ``lamina __complete`` what may come next.

The words come from the same tables and parsers that read the command line, so nothing can drift. Names
of what is here come from ``localnames``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence

from lamina.cli import verbs
from lamina.cli.arguments import GlobalParser, VerbParser, split_globals
from lamina.cli.localnames import container_names, image_names, network_names, volume_names
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
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" current option="" breaks="" cut=""
    local -a asked
    # Bash splits words at colons and equals signs; names hold them, so the line is split anew, at blanks.
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n := cur words cword
        asked=("${words[@]:1:cword}")
    else
        IFS=$' \\t' read -r -a asked <<<"$line"
        [[ "$line" == *[[:blank:]] ]] && asked+=("")
        asked=("${asked[@]:1}")
    fi
    current="${asked[${#asked[@]}-1]}"
    [[ "$current" == --*=* ]] && option="${current%%=*}="
    COMPREPLY=()
    while read -r line; do
        if [ "$line" = ":files" ]; then
            COMPREPLY+=($(compgen -P "$option" -f -- "${current#"$option"}"))
        else
            COMPREPLY+=("${line%%$'\\t'*}")
        fi
    done < <(lamina __complete "${asked[@]}" 2>/dev/null)
    # What stands before the last of these stays on the line, and must not come twice.
    [[ "$COMP_WORDBREAKS" == *:* ]] && breaks+=":"
    [[ "$COMP_WORDBREAKS" == *=* ]] && breaks+="="
    if [ -n "$breaks" ]; then
        cut="${current%"${current##*[$breaks]}"}"
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    fi
    # A value is still to come.
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F _lamina lamina
"""
_ZSH = """\
#compdef lamina
# lamina completion for zsh: put  source <(lamina completion zsh)  into ~/.zshrc
_lamina() {
    local line takes_files=""
    local -a found begun
    for line in "${(@f)$(lamina __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ "$line" == ":files" ]]; then
            takes_files=yes
        elif [[ "${line%%$'\\t'*}" == *= ]]; then
            begun+=("${line//:/\\\\:}")
        elif [[ -n "$line" ]]; then
            # A colon divides word and meaning, so those in a word are escaped.
            found+=("${${line%%$'\\t'*}//:/\\\\:}${${(M)line%$'\\t'*}/$'\\t'/:}")
        fi
    done
    (( ${#found} )) && _describe lamina found
    # A value is still to come: no blank.
    (( ${#begun} )) && _describe lamina begun -S ''
    if [[ -n "$takes_files" ]]; then
        compset -P 1 '--*='
        _files
    fi
}
compdef _lamina lamina
"""
_FISH = """\
# lamina completion for fish: put  lamina completion fish | source  into ~/.config/fish/config.fish
function __lamina_complete
    set -l asked (commandline -opc) (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' $asked[-1])
    for line in (lamina __complete $asked[2..] 2>/dev/null)
        if test "$line" = ":files"
            for path in (__fish_complete_path (string replace -r -- '^--[^=]*=' '' $asked[-1]))
                echo "$option$path"
            end
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
    "obscured", "mount", "umount", "pull", "run", "create", "blobs drop", "blobs fetch",
}
_CONTAINERS = frozenset({
    "start", "stop", "restart", "kill", "wait", "logs", "exec", "attach", "top", "stats", "port", "commit",
    "rename", "update", "pause", "unpause", "rm", "cp", "diff", "export", "inspect",
})
_VOLUMES = frozenset({"volume inspect", "volume rm"})
_NETWORKS = frozenset({"network inspect", "network rm"})
# What follows their first word is a command of the container's, or a name that is still free.
_ONE_NAME = frozenset({"run", "create", "exec", "top", "commit", "rename", "logs", "attach", "port"})
_FILES = frozenset({"load", "import", "build", "context ls"})
_FILE_OPTIONS = frozenset({"--output", "-o", "--input", "-i", "--root", "--config-file", "--references",
                           "--secret-file", "--env-file", "--label-file", "--cidfile", "--device",
                           "--file", "--iidfile", "--metadata-file"})
_IMAGE_OPTIONS = frozenset({"--base", "--tag", "-t"})
_NAMES_OF_OPTIONS: dict[str, Callable[[Session], list[str]]] = {
    "--network": network_names, "--net": network_names, "--volumes-from": container_names,
    **dict.fromkeys(_IMAGE_OPTIONS, image_names),
}
_VOLUME_OPTIONS = frozenset({"--volume", "-v"})
_CHOICES = {
    "--platform": ("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/ppc64le",
                   "linux/riscv64", "linux/s390x"),
    "--kind": ("metadata", "moved", "replaced", "deleted", "marker", "cache", "duplicate"),
    "--runtime": ("crun", "runc", "embedded"),
    "--restart": ("no", "always", "on-failure", "unless-stopped"),
    "--log-driver": ("json-file", "none"),
    "--allow": ("network.host", "security.insecure"),
}

# Of options that mean another thing before the verb, by what they are for.
_OWN_CHOICES = {"storage": ("size=",)}
_DRIVERS_OF = frozenset({"to", "drivers"})


def _arguments(parser: VerbParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=list(SCRIPTS), help="bash, zsh or fish")


def _print_script(arguments: Arguments, session: Session) -> None:
    session.print(SCRIPTS[arguments.shell].rstrip("\n"))


COMPLETION = Verb(
    _print_script,
    usage="bash|zsh|fish",
    about="Completes verbs, options, and the names of what is here: images, containers, volumes, networks.",
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
    option, equals, value = current.partition("=")
    if equals and option.startswith("--"):
        for word in _values_after(before, option, value, session):
            yield word if word == FILES else f"{option}={word}"
        return
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


def _values_after(
    before: Sequence[str], option: str, value: str, session: Session
) -> Iterator[str]:
    """For ``--option=`` what would come in a word of its own, if the option takes a value."""
    globals_before, rest = split_globals([*before, option])
    name, count = verbs.find(rest)
    if rest and (not name or _valued(VerbParser(name, verbs.load(name)), rest[count:]) is None):
        return
    if rest or _awaits_value(globals_before):
        yield from candidates([*before, option, value], session)


def _valued(parser: VerbParser, words: Sequence[str]) -> argparse.Action | None:
    """The option that the last word is, if it takes a value."""
    action = parser._option_string_actions.get(words[-1]) if words else None  # noqa: SLF001
    return action if action is not None and action.nargs != 0 else None


def _adopt_root(words: Sequence[str], session: Session) -> None:
    """Images are those of the state directory that the line itself has chosen."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--root":
            session.flags["data-root"] = value if equals else "".join(words[number + 1 : number + 2])


def _within_verb(rest: Sequence[str], current: str, session: Session) -> Iterator[str]:
    name, count = verbs.find(rest)
    if not name:
        if len(rest) == 1:
            yield from _members(rest[0], current)
        return
    parser = VerbParser(name, verbs.load(name))
    previous = rest[-1] if len(rest) > count else ""
    action = _valued(parser, rest[count:])
    if action is not None:
        own = _OWN_CHOICES.get(action.dest, ())
        yield from _matching(((str(choice), "") for choice in action.choices or own), current)
        if action.dest in _DRIVERS_OF:
            yield from _drivers(current)
        names = action.option_strings
        if not own:
            yield from _values_of(names[-1] if names[-1] == "--file" else previous, current, session)
    elif current.startswith("-"):
        yield from _options(parser._actions, current)  # noqa: SLF001
    elif name == "help" and previous:
        yield from _members(previous, current)
    elif name == "help":
        yield from _matching(((verb, verbs.entry(verb)[2]) for verb in verbs.names()), current)
    elif name == "completion":
        yield from _matching(((shell, "") for shell in SCRIPTS), current)
    elif name in _FILES or (name in _ANYWHERE and current.startswith((".", "/"))):
        yield FILES
    elif name not in _ONE_NAME or not _positionals(parser, rest[count:]):
        yield from _matching(((word, "") for word in _names(name, session)), current)
        if name == "cp":
            yield FILES


def _members(group: str, current: str) -> Iterator[str]:
    if group in verbs.GROUPS:
        members = verbs.members(group).items()
        yield from _matching(((word, verbs.entry(proper)[2]) for word, proper in members), current)


def _names(verb: str, session: Session) -> Iterator[str]:
    """Of what the verb is about. A path in a container begins with its name and a colon."""
    for verbs_of, names in (
        (_CONTAINERS, container_names), (_IMAGES, image_names), (_VOLUMES, volume_names),
        (_NETWORKS, network_names),
    ):
        if verb in verbs_of:
            yield from (f"{name}:" if verb == "cp" else name for name in names(session))


def _positionals(parser: VerbParser, words: Sequence[str]) -> list[str]:
    """The words that are neither options nor their values."""
    found, is_value = [], False
    for word in words:
        if is_value:
            is_value = False
        elif word.startswith("-"):
            action = parser._option_string_actions.get(word)  # noqa: SLF001
            is_value = action is not None and action.nargs != 0
        else:
            found.append(word)
    return found


def _awaits_value(words: Sequence[str]) -> bool:
    from lamina.cli.arguments import GLOBAL_VALUES

    return bool(words) and words[-1] in GLOBAL_VALUES


def _values_of(option: str, current: str, session: Session) -> Iterator[str]:
    if option in _FILE_OPTIONS:
        yield FILES
    if option in _VOLUME_OPTIONS:
        yield from _matching(((f"{name}:", "") for name in volume_names(session)), current)
        yield FILES
    if option == "--storage-driver":
        yield from _drivers(current)
    if option == "--storage-opt":
        from lamina.snapshot.drivers import option_names

        yield from _matching(((f"{name}=", "") for name in option_names()), current)
    if option in _NAMES_OF_OPTIONS:
        yield from _matching(((name, "") for name in _NAMES_OF_OPTIONS[option](session)), current)
    yield from _matching(((value, "") for value in _CHOICES.get(option, ())), current)


def _drivers(current: str) -> Iterator[str]:
    """Those that others installed too; where several may stand, a comma divides them."""
    from lamina.snapshot.drivers import driver_names

    before = current[: current.rfind(",") + 1]
    given = before.split(",")
    yield from _matching(((before + name, "") for name in driver_names() if name not in given), current)


def _options(actions: Iterable[argparse.Action], current: str) -> Iterator[str]:
    pairs = ((name, action.help or "") for action in actions for name in action.option_strings
             if name.startswith("--"))
    yield from _matching(pairs, current)


def _matching(pairs: Iterable[tuple[str, str]], current: str) -> Iterator[str]:
    for word, meaning in pairs:
        if word.startswith(current):
            yield f"{word}\t{meaning}" if meaning else word
