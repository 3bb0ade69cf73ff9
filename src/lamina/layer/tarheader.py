"""The fields of a tar header and the records of a PAX header, as bytes and as values, both ways.

Sources: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar
Format"; and Go's archive/tar where they leave a choice, since nearly every layer was written or read by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import adler32

from lamina.layer.entry import (
    NO_XATTRS,
    OVERLAY_XATTRS,
    Entry,
    InvalidLayer,
    Kind,
    PathEscapes,
    normalise,
)

BLOCK = 512
ZEROS = bytes(BLOCK)
SECOND = 1_000_000_000
XATTR_RECORD = b"SCHILY.xattr."  # the only kind that layers know (image-spec layer.md); LIBARCHIVE's are not

# What Linux can hold: (uid_t)-1 means "leave it", a device number has 12 and 20 bits, PATH_MAX counts a NUL,
# XATTR_SIZE_MAX and XATTR_NAME_MAX are in include/uapi/linux/limits.h.
MAX_ID = (1 << 32) - 2
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
MAX_LINK = 4095
MAX_NAME = 255
MAX_XATTR = 1 << 16
MAX_XATTR_NAME = 255
_MAX_SIZE = (1 << 63) - 1
_MAX_TIME = (1 << 63) - 1
_ADLER = 65521


# -- reading


def number(field: bytes, what: str) -> int:
    """Octal digits, or base-256 as GNU tar writes what does not fit (top bit set, two's complement)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << 8 * len(field) - 1) - 1)
        return value - (1 << 8 * len(field) - 1) if field[0] & 0x40 else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():  # int() would take signs and underscores
        raise InvalidLayer(f"tar: {field!r} is no number, where a {what} should be")
    try:
        return int(digits, 8)
    except ValueError:
        raise InvalidLayer(f"tar: {field!r} is no octal number, where a {what} should be") from None


def whole(value: int, what: str, limit: int = _MAX_SIZE) -> int:
    if not 0 <= value <= limit:
        raise InvalidLayer(f"tar: a {what} of {value}; 0 to {limit} is possible")
    return value


def owner(field: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid, which lie side by side."""
    return (
        number(field[:8], "mode") & 0o7777,
        whole(number(field[8:16], "uid"), "uid", MAX_ID),
        whole(number(field[16:24], "gid"), "gid", MAX_ID),
    )


def size(field: bytes) -> int:
    return whole(number(field, "size"), "size")


def mtime(field: bytes) -> int:
    return bounded_time(number(field, "time") * SECOND)


def bounded_time(nanoseconds: int) -> int:
    """Times that no filesystem holds become the last one that 64 bits do: others clamp too."""
    return max(-_MAX_TIME - 1, min(nanoseconds, _MAX_TIME))


def expected_sum(field: bytes) -> int:
    """The low half of adler32 that a header with this checksum field must have.

    It is 1 plus the sum of all bytes modulo 65,521, so one call in C checks a header; in the header's own sum
    the field counts as eight spaces.
    """
    try:
        stated = number(field, "checksum")
    except InvalidLayer as error:
        raise InvalidLayer(f"{error}: damaged, or not a tar") from None
    return (1 + stated - 8 * 0x20 + sum(field)) % _ADLER


def has_signed_sum(block: bytes) -> bool:
    """Old tars summed signed characters; it differs only where there are bytes over 127."""
    total = sum(block) - 256 * sum(byte > 127 for byte in block)
    field = block[148:156]
    total -= sum(field) - 256 * sum(byte > 127 for byte in field)
    return total + 8 * 0x20 == number(field, "checksum")


def low_sum(block: bytes) -> int:
    return adler32(block) & 0xFFFF


def text(field: bytes) -> str:
    """Up to the first NUL."""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def checked_path(name: str, limit: int) -> str:
    """Raises for what no filesystem can hold, besides what ``normalise`` refuses."""
    path = normalise(name)
    if len(path) > MAX_NAME:
        encoded = encode(path)
        if len(encoded) > limit:
            raise InvalidLayer(f"{path[:80]!r}…: a path of {len(encoded)} bytes; {limit} is the limit")
        if max(map(len, encoded.split(b"/"))) > MAX_NAME:
            raise InvalidLayer(f"{path[:80]!r}…: a name of more than {MAX_NAME} bytes")
    elif not path.isascii() and max(map(len, encode(path).split(b"/"))) > MAX_NAME:
        raise InvalidLayer(f"{path[:80]!r}…: a name of more than {MAX_NAME} bytes")
    return path


def hard_link_target(name: str) -> str:
    """A path from the root; ``..`` of the root is the root, as in a chroot (LAYER-CASES 11)."""
    try:
        return normalise(name)
    except PathEscapes:
        parts: list[str] = []
        for part in name.split("/"):
            if part == "..":
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)


def symlink_text(path: str, target: str) -> str:
    if not target or "\0" in target or len(encode(target)) > MAX_LINK:
        raise InvalidLayer(f"{path!r}: a symlink to {target[:80]!r}, which cannot be made")
    return target


def device(path: str, kind: Kind, field: bytes) -> tuple[int, int]:
    """Major and minor number. ``field`` is both, side by side.

    A character device 0:0 is how overlayfs itself notes a whiteout. In a layer's tar nobody can say what it
    was meant to be, and left alone it would hide a lower file behind the back of the layer's index: refused.
    """
    major = whole(number(field[:8], "device number"), "device number", MAX_MAJOR)
    minor = whole(number(field[8:], "device number"), "device number", MAX_MINOR)
    if kind is Kind.CHAR and major == minor == 0:
        raise InvalidLayer(f"{path!r}: a character device 0:0, which overlayfs would take for a whiteout")
    return major, minor


class Extended:
    """What a PAX header says of the next entry, or of all following ones."""

    __slots__ = ("gid", "link", "mtime", "path", "size", "uid", "xattrs")

    def __init__(self) -> None:
        self.path: str | None = None
        self.link: str | None = None
        self.size: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.mtime: int | None = None
        self.xattrs: Mapping[str, bytes] = NO_XATTRS

    @classmethod
    def parse(cls, data: bytes) -> Extended:
        found = cls()
        xattrs: dict[str, bytes] = {}
        for key, value in _records(data):
            if key.startswith(XATTR_RECORD):
                name = _xattr_name(key, value)
                # Steering overlayfs is the driver's business, never a layer's (LAYER-CASES 91).
                if not name.startswith(OVERLAY_XATTRS):
                    xattrs[name] = value
            elif key.startswith(b"GNU.sparse."):
                raise InvalidLayer("tar: sparse members are not possible in layers (GNU.sparse)")
            elif key in _READERS:
                # An empty value takes back what was said before, so it falls back to the header's own field.
                attribute, read = _READERS[key]
                setattr(found, attribute, read(value) if value else None)
        if xattrs:
            found.xattrs = xattrs
        return found

    def add_global(self, more: Extended, limit: int) -> None:
        """Of a global header; one that gives all files one name or size is nonsense, and is refused."""
        if more.path is not None or more.link is not None or more.size is not None:
            raise InvalidLayer("tar: a global PAX header with a path or a size")
        for name in ("uid", "gid", "mtime"):
            value = getattr(more, name)
            if value is not None:
                setattr(self, name, value)
        if more.xattrs:
            self.xattrs = {**self.xattrs, **more.xattrs}
            if sum(len(name) + len(value) for name, value in self.xattrs.items()) > limit:
                raise InvalidLayer(f"tar: global PAX headers of more than {limit} bytes")


def _records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Each record is ``length key=value`` and a newline; the length counts itself."""
    records = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not data[at:space].isdigit():
            raise InvalidLayer("tar: a PAX header with a damaged record")
        end = at + int(data[at:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space or data[end - 1 : end] != b"\n" or not equals or not key:
            raise InvalidLayer("tar: a PAX header with a damaged record")
        records.append((key, value))
        at = end
    return records


def _xattr_name(key: bytes, value: bytes) -> str:
    name = key[len(XATTR_RECORD) :]
    if not name or b"\0" in name or len(name) > MAX_XATTR_NAME or len(value) > MAX_XATTR:
        raise InvalidLayer(f"tar: an xattr {name[:80]!r} of {len(value)} bytes, which Linux cannot hold")
    return name.decode("utf-8", "surrogateescape")


def _pax_name(value: bytes) -> str:
    if b"\0" in value:
        raise InvalidLayer(f"tar: {value[:80]!r}: a name cannot hold a NUL")
    return value.decode("utf-8", "surrogateescape")


def _pax_number(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise InvalidLayer(f"tar: {value[:40]!r} in a PAX header is no number that can be meant")
    return whole(int(value), "number in a PAX header")


def _pax_id(value: bytes) -> int:
    return whole(_pax_number(value), "uid or gid", MAX_ID)


def _pax_time(value: bytes) -> int:
    """Decimal seconds to nanoseconds; what is finer is cut off."""
    digits, _, fraction = value.removeprefix(b"-").partition(b".")
    if not (digits + fraction).isdigit() or len(value) > 100:
        raise InvalidLayer(f"tar: {value[:40]!r} in a PAX header is no time")
    nanoseconds = int(digits or b"0") * SECOND + int((fraction + b"000000000")[:9])
    return bounded_time(-nanoseconds if value[:1] == b"-" else nanoseconds)


_READERS = {
    b"path": ("path", _pax_name), b"linkpath": ("link", _pax_name), b"size": ("size", _pax_number),
    b"uid": ("uid", _pax_id), b"gid": ("gid", _pax_id), b"mtime": ("mtime", _pax_time),
}


# -- writing

_FLAGS = {
    Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.CHAR: b"3", Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5", Kind.FIFO: b"6",
}
_OCTAL_11 = (1 << 33) - 1
_OCTAL_7 = (1 << 21) - 1


def encode_header(entry: Entry) -> bytes:
    """The header block of an entry, after a PAX header if it needs one. Same entry, same bytes."""
    path = encode(entry.path)
    if entry.kind is Kind.DIRECTORY:
        path = path + b"/" if path else b"./"
    link = encode(entry.linkname) if entry.linkname else b""
    seconds, rest = divmod(entry.mtime, SECOND)
    name, prefix = (path, b"") if len(path) <= 100 else _split(path)
    is_plain = name and len(link) <= 100 and not rest and 0 <= seconds <= _OCTAL_11
    if is_plain and entry.size <= _OCTAL_11 and entry.uid <= _OCTAL_7 >= entry.gid and not entry.xattrs:
        return _block(
            name, entry.mode, entry.uid, entry.gid, entry.size, seconds, _FLAGS[entry.kind], link,
            entry.major, entry.minor, prefix,
        )
    records: dict[bytes, bytes] = {}
    if not name:
        records[b"path"], name = path, path[:100]
    if len(link) > 100:
        records[b"linkpath"] = link
    if rest or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _decimal(entry.mtime)
    numbers = {b"uid": (entry.uid, _OCTAL_7), b"gid": (entry.gid, _OCTAL_7), b"size": (entry.size, _OCTAL_11)}
    records.update((key, b"%d" % value) for key, (value, limit) in numbers.items() if value > limit)
    uid, gid, length = (value if value <= limit else 0 for value, limit in numbers.values())
    records.update(_xattr_records(entry))
    return _pax_header(records) + _block(
        name, entry.mode, uid, gid, length, min(max(seconds, 0), _OCTAL_11), _FLAGS[entry.kind], link[:100],
        entry.major, entry.minor, prefix,
    )


def _split(path: bytes) -> tuple[bytes, bytes]:
    """ustar's name and prefix; an empty name where they have no room for it."""
    slash = path.rfind(b"/", 0, min(156, len(path) - 1))
    if slash <= 0 or len(path) - slash - 1 > 100:
        return b"", b""
    return path[slash + 1 :], path[:slash]


def _block(
    name: bytes, mode: int, uid: int, gid: int, length: int, seconds: int, flag: bytes, link: bytes,
    major: int, minor: int, prefix: bytes,
) -> bytes:
    block = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\x0000%b%07o\0%07o\0%b" % (
        name.ljust(100, b"\0"), mode & 0o7777, uid, gid, length, seconds, flag, link.ljust(100, b"\0"),
        ZEROS[:64], major, minor, prefix.ljust(167, b"\0"),
    )
    # As in reading, one call in C; only bytes over 127 can lift the sum over the modulus.
    total = low_sum(block) - 1 if block.isascii() else sum(block)
    return b"%b%06o\0 %b" % (block[:148], total, block[156:])


def _xattr_records(entry: Entry) -> list[tuple[bytes, bytes]]:
    records = []
    for name in sorted(entry.xattrs):
        if "=" in name:
            raise InvalidLayer(f"{entry.path!r}: the name of an xattr in a tar cannot hold '=': {name!r}")
        records.append((XATTR_RECORD + encode(name), entry.xattrs[name]))
    return records


def _pax_header(records: Mapping[bytes, bytes]) -> bytes:
    if not all(map(_is_utf8, (records.get(b"path", b""), records.get(b"linkpath", b"")))):
        records = {b"hdrcharset": b"BINARY", **records}
    body = b"".join(_record(key, value) for key, value in records.items())
    block = _block(b"PaxHeaders/entry", 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0, b"")
    return block + body + ZEROS[: -len(body) % BLOCK]


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))  # the digits of the length may make it one digit longer
    return b"%d %b=%b\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), SECOND)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{seconds}.{rest:09d}".rstrip("0").rstrip(".").encode()


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidLayer(f"{name[:80]!r}: a name that is no sequence of bytes") from None
