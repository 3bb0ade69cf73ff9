"""``RUN --mount=…``: what it may say, and what it means where it says nothing."""

from __future__ import annotations

from lamina.errors import InvalidInput, nearest
from lamina.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_SPELLINGS = {
    "src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite",
}
_KEYS = (
    "type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required", "mode", "uid",
    "gid", "size", "env",
)
_FLAGS = ("readonly", "readwrite", "required")  # may stand without a value
_OF_KIND = {
    "from": ("bind", "cache", "tmpfs", "ssh"), "required": ("secret", "ssh"), "size": ("tmpfs",),
    "env": ("secret",), "sharing": ("cache",), "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"), "gid": ("cache", "secret", "ssh"),
}
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MAX_ID = 2**32 - 2  # the last number means "no change" to chown(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """``raw`` is the text of the flag. Numbers are None, and ``size`` too, where nothing was said.

    While ``raw`` holds variables, what needs their values still has its default: ``expanded`` fills it in.
    """

    type: str = "bind"
    target: str = ""
    source: str = ""
    from_: str = ""
    id: str = ""
    sharing: str = ""
    is_read_only: bool = True
    is_required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    env: str = ""
    raw: str = ""


def parse_mount(text: str, expand: Callable[[str], str] | None = None) -> RunMount:
    """``expand`` is called for each value after the text fell apart: a value cannot add options of its own.

    Without it, values that hold variables are left for later. Raises ``InvalidInput``.
    """
    options: dict[str, str | None] = {}
    for field in _fields(text):
        key, value = _option(field)
        if value is not None and expand is not None:
            value = expand(value)
        elif value is not None and "$" in value:
            _check_variable(key)
            value = None if key not in ("source", "target", "id", "env") else value
            if value is None:
                continue
        if key in ("readonly", "readwrite"):
            options.pop("readonly", None)
            options.pop("readwrite", None)
        options[key] = value
    return _mount(text, options, is_final=expand is not None or "$" not in text)


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    import csv  # noqa: PLC0415 - quotes are rare here

    try:
        return next(iter(csv.reader([text], strict=True)))
    except (csv.Error, StopIteration):
        raise InvalidInput(f"{text}: a mount's quotes do not match") from None


def _option(field: str) -> tuple[str, str | None]:
    written, equals, value = field.partition("=")
    key = written.lower()
    key = _SPELLINGS.get(key, key)
    if key not in _KEYS:
        raise InvalidInput(f"{written}: a mount has no such option{nearest(key, (*_KEYS, *_SPELLINGS))}")
    if not equals and key not in _FLAGS:
        raise InvalidInput(f"{written}: this option of a mount needs a value, as in {written}=VALUE")
    return key, value if equals else None


def _check_variable(key: str) -> None:
    if key == "from":
        raise InvalidInput("from: takes no variables; a FROM with a name for a stage does")


def _mount(text: str, options: dict[str, str | None], *, is_final: bool) -> RunMount:
    kind = (options.get("type") or "bind").lower()
    if kind not in _KINDS:
        raise InvalidInput(f"{options['type']}: no such type of mount{nearest(kind, _KINDS)}")
    if is_final:
        _check_kind(kind, options)
    sharing = (options.get("sharing") or "").lower()
    if sharing and sharing not in _SHARING:
        raise InvalidInput(f"{sharing}: no such sharing of a cache{nearest(sharing, _SHARING)}")
    name, target = _name_and_target(kind, options) if is_final else (options.get("id"), options.get("target"))
    return RunMount(
        type=kind, target=target or "", source=options.get("source") or "", from_=options.get("from") or "",
        id=name or "", sharing=sharing or ("shared" if kind == "cache" else ""),
        is_read_only=_is_read_only(kind, options),
        is_required="required" in options and _is_true("required", options["required"]),
        mode=_number("mode", options, 8, 0o7777), uid=_number("uid", options, 10, _MAX_ID),
        gid=_number("gid", options, 10, _MAX_ID), size=_size(options), env=options.get("env") or "", raw=text,
    )


def _check_kind(kind: str, options: dict[str, str | None]) -> None:
    for key in options:
        if kind not in _OF_KIND.get(key, _KINDS):
            raise InvalidInput(f"{key}: not an option of mounts of type {kind}")
    if kind == "secret" and options.get("source") and options.get("id"):
        raise InvalidInput("id: a secret has either an id or a source, which mean the same")
    if kind == "secret" and not any(options.get(key) for key in ("id", "source", "target")):
        raise InvalidInput("secret: a mount of a secret needs an id or a target")


def _name_and_target(kind: str, options: dict[str, str | None]) -> tuple[str, str]:
    name, target = options.get("id") or "", options.get("target") or ""
    if kind == "secret":
        name = name or options.get("source") or target.rstrip("/").rpartition("/")[2]
        if not target and not options.get("env"):
            target = f"/run/secrets/{name.rstrip('/').rpartition('/')[2]}"
    elif kind == "ssh":
        name = name or "default"
    return name, target


def _is_read_only(kind: str, options: dict[str, str | None]) -> bool:
    if "readonly" in options:
        return _is_true("readonly", options["readonly"])
    if "readwrite" in options:
        return not _is_true("readwrite", options["readwrite"])
    return kind not in ("cache", "tmpfs")


def _is_true(key: str, value: str | None) -> bool:
    if value is None or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise InvalidInput(f"{key}: expected true or false, got {value!r}")


def _number(key: str, options: dict[str, str | None], base: int, highest: int) -> int | None:
    value = options.get(key)
    if value is None:
        return None
    digits = "01234567" if base == 8 else "0123456789"
    if not value or value.strip(digits) or len(value) > 12 or int(value, base) > highest:
        shown = f"{highest:o}, in octal" if base == 8 else str(highest)
        raise InvalidInput(f"{key}: expected a number up to {shown}, got {value!r}")
    return int(value, base)


def _size(options: dict[str, str | None]) -> int | None:
    """Units are binary and may be spelled ``k``, ``kb`` or ``kib``, as ``docker run --tmpfs`` has them."""
    value = options.get("size")
    if value is None:
        return None
    lower = value.lower().strip()
    number = lower.rstrip("bikmgtp ")
    unit = lower[len(number):].strip().removesuffix("b").removesuffix("i")
    whole, _, fraction = number.partition(".")
    is_number = number.isascii() and whole.isdigit() and (fraction.isdigit() or "." not in number)
    if unit not in _UNITS or not is_number or len(number) > 20:
        raise InvalidInput(f"size: expected a size such as 64m, got {value!r}")
    return int(float(number) * 1024 ** _UNITS[unit])
