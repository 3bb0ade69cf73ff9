"""``--format``: the part of Go's template language that people use with docker.

Text with actions in ``{{ }}``: ``.Field`` and ``.A.B``, ``$`` and variables, pipelines, parentheses,
constants, comments, ``{{-`` and ``-}}``, ``if``/``else if``/``else``, ``range``/``else``, ``with``/``else``,
``break``, ``continue``, ``end``, and the functions of :mod:`lamina.cli.functions`. A template is parsed
once into small closures and then run on one value after another.

An object whose keys all begin with a capital is read as Go reads a struct: asking for a field that it
lacks is an error that names the nearest. In any other object (labels, annotations) it is ``<no value>``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lamina.cli.functions import FUNCTIONS, NO_VALUE, TemplateError, go_text, is_true
from lamina.cli.terminal import visible_lines

Write = Callable[[str], None]
Evaluate = Callable[["Scope"], Any]
Run = Callable[["Scope", Write], None]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    | (?P<character>'(?:[^'\\\n]|\\.)')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+\.\d+|\d+))
    | (?P<assign>:=|=)
    | (?P<mark>[|(),])
    | (?P<variable>\$\w*)
    | (?P<field>\.\w+)
    | (?P<dot>\.)
    | (?P<word>[A-Za-z_]\w*)
    )""",
    re.VERBOSE,
)
# Strings and comments may hold }}. The group is atomic, so that a missing }} is found in one pass.
_ACTION = re.compile(
    r"""\{\{(?P<left>-(?=\s))?(?P<body>(?>"(?:[^"\\]|\\.)*"|`[^`]*`|/\*.*?\*/|(?!\}\}).)*?)(?P<right>\s-)?\}\}""",
    re.DOTALL,
)
_WORD = re.compile(r"\w*")
_CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "nil": None}
_BLOCKS = ("if", "range", "with")
_REFUSED = ("block", "define", "template")
# A template is typed by a person; nesting deeper than this is somebody trying to exhaust the stack.
_MAX_DEPTH = 100


class _Break(Exception):
    """A jump, not an error."""


class _Continue(Exception):
    """A jump, not an error."""


class Scope:
    """What ``.`` and each variable stand for while a template runs."""

    __slots__ = ("dot", "variables")

    def __init__(self, dot: Any, variables: dict[str, Any]) -> None:
        self.dot = dot
        self.variables = variables

    def inner(self, dot: Any) -> Scope:
        """A block sees the variables around it; those it declares end with it."""
        return Scope(dot, _Chain(self.variables))


class _Chain(dict[str, Any]):
    """Variables of a block over those around it; assigning with ``=`` reaches the one that declared."""

    def __init__(self, outer: dict[str, Any]) -> None:
        super().__init__()
        self.outer = outer

    def __missing__(self, name: str) -> Any:
        return self.outer[name]

    def assign(self, name: str, value: Any) -> None:
        if name in self:
            self[name] = value
        elif isinstance(self.outer, _Chain):
            self.outer.assign(name, value)
        else:
            self.outer[name] = value


class Template:
    def __init__(self, source: str) -> None:
        # docker's --format turns these two escapes into what they stand for, outside of actions too.
        text = source.replace("\\t", "\t").replace("\\n", "\n")
        self._run = _Parser(list(_pieces(text))).whole()

    def render(self, value: Any) -> str:
        """What is put out is made harmless for a terminal; ``json`` gives exact values."""
        out: list[str] = []
        try:
            self._run(Scope(value, {"$": value}), out.append)
        except RecursionError:
            raise TemplateError("template: nested too deeply") from None
        return "".join(out)


# -- text and actions


def _pieces(source: str) -> Iterator[tuple[str, str]]:
    """``("text", ...)`` and ``("action", ...)``, trimmed where ``{{-`` and ``-}}`` say so."""
    position, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[position : match.start()]
        text = text.lstrip() if trim else text
        yield "text", text.rstrip() if match["left"] else text
        body = match["body"].strip()
        if not (body.startswith("/*") and body.endswith("*/")):
            yield "action", body
        trim, position = match["right"] is not None, match.end()
    rest = source[position:]
    if "{{" in rest:
        raise TemplateError(f"template: {{{{ without }}}}: {rest[rest.index('{{'):][:40]!r}")
    yield "text", rest.lstrip() if trim else rest


def _tokens(body: str) -> list[tuple[str, str, bool]]:
    """Kind, text, and whether a space stands before it (``.A.B`` is one thing, ``.A .B`` are two)."""
    tokens = []
    position = 0
    while body[position:].strip():
        match = _TOKEN.match(body, position)
        if match is None:
            raise TemplateError(f"template: cannot read {body[position:].strip()[:40]!r} in {{{{{body}}}}}")
        kind = str(match.lastgroup)
        tokens.append((kind, match[kind], match.start(kind) > position or position == 0))
        position = match.end()
    return tokens


# -- parsing into closures


class _Parser:
    def __init__(self, pieces: Sequence[tuple[str, str]]) -> None:
        self._pieces = pieces
        self._next = 0
        self._depth = 0
        self._loops = 0

    def whole(self) -> Run:
        run, ending = self._sequence()
        if ending:
            raise TemplateError(f"template: {{{{{ending}}}}} without a block that it belongs to")
        return run

    def _sequence(self) -> tuple[Run, str]:
        """Runs up to the ``else`` or ``end`` that closes it, which is given back."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise TemplateError(f"template: more than {_MAX_DEPTH} blocks inside each other")
        steps: list[Run] = []
        ending = ""
        while self._next < len(self._pieces):
            kind, body = self._pieces[self._next]
            self._next += 1
            word = _first_word(body) if kind == "action" else ""
            if word in ("else", "end"):
                ending = body
                break
            steps.append(_constant_text(body) if kind == "text" else self._action(word, body))
        self._depth -= 1
        return _in_turn(steps), ending

    def _action(self, word: str, body: str) -> Run:
        if word in _BLOCKS:
            return self._block(word, body[len(word) :])
        if word in ("break", "continue") and body == word:
            if not self._loops:
                raise TemplateError(f"template: {{{{{word}}}}} outside of a range")
            return _jump(_Break if word == "break" else _Continue)
        if word in _REFUSED:
            raise TemplateError(f"template: {word!r} is not supported in --format")
        names, is_new, evaluate = _Expression(body).pipeline()
        if names:
            return _assigning(names, is_new, evaluate)
        return _putting(evaluate)

    def _block(self, word: str, head: str) -> Run:
        names, _, evaluate = _Expression(head).pipeline(may_declare_two=word == "range")
        self._loops += word == "range"
        body, ending = self._sequence()
        self._loops -= word == "range"
        otherwise: Run = _in_turn([])
        if ending.startswith("else"):
            otherwise, ending = self._otherwise(ending[len("else") :].strip())
        if ending != "end":
            raise TemplateError(f"template: {{{{{word}}}}} without {{{{end}}}}")
        if word == "if":
            return _choosing(names, evaluate, body, otherwise, keeps_dot=True)
        if word == "with":
            return _choosing(names, evaluate, body, otherwise, keeps_dot=False)
        return _repeating(names, evaluate, body, otherwise)

    def _otherwise(self, rest: str) -> tuple[Run, str]:
        """``{{else if X}}`` is ``{{else}}{{if X}}`` with one ``{{end}}`` for both."""
        word = _first_word(rest)
        if not rest:
            return self._sequence()
        if word not in ("if", "with"):
            raise TemplateError(f"template: cannot read {{{{else {rest}}}}}")
        return self._block(word, rest[len(word) :]), "end"


def _first_word(body: str) -> str:
    match = _WORD.match(body)
    return match[0] if match else ""


class _Expression:
    """One pipeline: ``command | command | ...``, perhaps behind ``$name :=``."""

    def __init__(self, body: str) -> None:
        self._body = body.strip()
        self._tokens = _tokens(body)
        self._next = 0

    def pipeline(self, *, may_declare_two: bool = False) -> tuple[list[str], bool, Evaluate]:
        names, is_new = self._declaration(may_declare_two)
        evaluate = self._piped()
        if self._next < len(self._tokens):
            rest = self._tokens[self._next][1]
            raise TemplateError(f"template: did not expect {rest!r} in {{{{{self._body}}}}}")
        return names, is_new, evaluate

    def _declaration(self, may_declare_two: bool) -> tuple[list[str], bool]:
        kinds = [token[0] for token in self._tokens[:4]]
        texts = [token[1] for token in self._tokens[:4]]
        if kinds[:2] == ["variable", "assign"]:
            self._next = 2
            return [texts[0]], texts[1] == ":="
        is_two = kinds[:1] + kinds[2:] == ["variable", "variable", "assign"] and texts[1] == ","
        if may_declare_two and is_two:
            self._next = 4
            return [texts[0], texts[2]], True
        return [], False

    def _piped(self) -> Evaluate:
        evaluate = self._command(None)
        while self._peek() == "|":
            self._next += 1
            evaluate = self._command(evaluate)
        return evaluate

    def _command(self, piped: Evaluate | None) -> Evaluate:
        kind, text, _ = self._take("an expression")
        if kind == "word" and text not in _CONSTANTS:
            operands = list(self._operands())
            return _calling(text, operands if piped is None else [*operands, piped])
        self._next -= 1
        operand = self._operand()
        if piped is not None or self._starts_operand():
            raise TemplateError(f"template: {text!r} is not a function, in {{{{{self._body}}}}}")
        return operand

    def _operands(self) -> Iterator[Evaluate]:
        while self._starts_operand():
            yield self._operand()

    def _starts_operand(self) -> bool:
        return self._next < len(self._tokens) and self._peek() not in ("|", ")", ",")

    def _operand(self) -> Evaluate:
        kind, text, _ = self._take("an operand")
        base: Evaluate
        if kind == "dot":
            base = _dot
        elif kind == "field":
            base = _field(_dot, text[1:])
        elif kind == "variable":
            base = _variable(text)
        elif text == "(":
            base = self._piped()
            if self._take("a closing parenthesis")[1] != ")":
                raise TemplateError(f"template: ( without ) in {{{{{self._body}}}}}")
        elif kind == "word" and text not in _CONSTANTS:
            base = _calling(text, [])
        else:
            base = _constant(_literal(kind, text, self._body))
        while self._follows_field():
            base = _field(base, self._take("a field")[1][1:])
        return base

    def _follows_field(self) -> bool:
        if self._next >= len(self._tokens):
            return False
        kind, _, is_spaced = self._tokens[self._next]
        return kind == "field" and not is_spaced

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _take(self, what: str) -> tuple[str, str, bool]:
        if self._next >= len(self._tokens):
            raise TemplateError(f"template: expected {what} in {{{{{self._body}}}}}")
        self._next += 1
        return self._tokens[self._next - 1]


def _literal(kind: str, text: str, body: str) -> Any:
    if kind == "string":
        return text[1:-1] if text[0] == "`" else _unquote(text)
    if kind == "character":
        return ord(_unquote(f'"{text[1:-1]}"'))
    if kind == "number":
        return float(text) if "." in text and "x" not in text else int(text, 0)
    if kind == "word":
        return _CONSTANTS[text]
    raise TemplateError(f"template: did not expect {text!r} in {{{{{body}}}}}")


def _unquote(text: str) -> str:
    import ast

    try:
        return str(ast.literal_eval(text))  # Go's escapes are a subset of Python's
    except (SyntaxError, ValueError):
        raise TemplateError(f"template: {text}: not a string") from None


# -- closures


def _dot(scope: Scope) -> Any:
    return scope.dot


def _constant(value: Any) -> Evaluate:
    return lambda _scope: value


def _variable(name: str) -> Evaluate:
    def evaluate(scope: Scope) -> Any:
        try:
            return scope.variables[name]
        except KeyError:
            raise TemplateError(f"template: undefined variable {name}") from None

    return evaluate


def _field(base: Evaluate, name: str) -> Evaluate:
    return lambda scope: member(base(scope), name)


def _calling(name: str, operands: Sequence[Evaluate]) -> Evaluate:
    if name in ("and", "or"):
        return _short_circuit(name, operands)
    function = FUNCTIONS.get(name)
    if function is None:
        raise TemplateError(f"template: unknown function {name!r}{_nearest(name, [*FUNCTIONS, 'and', 'or'])}")

    def evaluate(scope: Scope) -> Any:
        values = [operand(scope) for operand in operands]
        try:
            return function(*values)
        except TypeError as error:
            raise TemplateError(f"template: {name}: {_plain(error)}") from None

    return evaluate


def _short_circuit(name: str, operands: Sequence[Evaluate]) -> Evaluate:
    if not operands:
        raise TemplateError(f"template: {name} needs an operand")
    stops = name == "or"

    def evaluate(scope: Scope) -> Any:
        value = None
        for operand in operands:
            value = operand(scope)
            if is_true(value) is stops:
                break
        return value

    return evaluate


def _plain(error: TypeError) -> str:
    """Python's words for a wrong count of arguments, without the function's inner name."""
    return re.sub(r"^[\w.<>]+\(\) ", "", str(error))


def _constant_text(text: str) -> Run:
    return lambda _scope, write: write(text)


def _putting(evaluate: Evaluate) -> Run:
    return lambda scope, write: write(visible_lines(go_text(evaluate(scope))))


def _assigning(names: Sequence[str], is_new: bool, evaluate: Evaluate) -> Run:
    def run(scope: Scope, _write: Write) -> None:
        value = evaluate(scope)
        if is_new or not isinstance(scope.variables, _Chain):
            scope.variables[names[0]] = value
        else:
            scope.variables.assign(names[0], value)

    return run


def _in_turn(steps: Sequence[Run]) -> Run:
    def run(scope: Scope, write: Write) -> None:
        for step in steps:
            step(scope, write)

    return run


def _jump(kind: type[Exception]) -> Run:
    def run(_scope: Scope, _write: Write) -> None:
        raise kind

    return run


def _choosing(
    names: Sequence[str], evaluate: Evaluate, body: Run, otherwise: Run, *, keeps_dot: bool
) -> Run:
    def run(scope: Scope, write: Write) -> None:
        value = evaluate(scope)
        chosen = is_true(value)
        inner = scope.inner(scope.dot if keeps_dot or not chosen else value)
        for name in names:
            inner.variables[name] = value
        (body if chosen else otherwise)(inner, write)

    return run


def _repeating(names: Sequence[str], evaluate: Evaluate, body: Run, otherwise: Run) -> Run:
    def run(scope: Scope, write: Write) -> None:
        pairs = _pairs(evaluate(scope))
        if not pairs:
            otherwise(scope.inner(scope.dot), write)
        for key, value in pairs:
            inner = scope.inner(value)
            for name, bound in zip(names, (key, value) if len(names) == 2 else (value,), strict=False):
                inner.variables[name] = bound
            try:
                body(inner, write)
            except _Continue:
                continue
            except _Break:
                break

    return run


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if value is None or value is NO_VALUE:
        return []
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise TemplateError(f"template: range cannot walk {go_text(value)!r}")


def member(value: Any, name: str) -> Any:
    """``value.name`` as Go's templates read it; see the module's rule for what is missing."""
    if value is None or value is NO_VALUE:
        return NO_VALUE
    if not isinstance(value, Mapping):
        raise TemplateError(f"template: .{name}: {go_text(value)[:60]!r} has no fields")
    if name in value:
        return value[name]
    if not value or not all(str(key)[:1].isupper() for key in value):
        return NO_VALUE
    raise TemplateError(f"template: no field .{name}{_nearest(name, [str(key) for key in value], '.')}")


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    import difflib

    folded = {item.lower(): item for item in known}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {prefix}{folded[near[0]]}?"
    return f"; there are {', '.join(prefix + item for item in sorted(known))}"
