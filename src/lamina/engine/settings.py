"""Settings: what is in force, and where each value came from.

A value is looked for, strongest first, in flags, in ``LAMINA_*`` variables, in the user's file, in the
system's file; then the default holds. The keys are those of docker's ``daemon.json`` that make sense
here, with the same names and meaning, but docker's own file is never read: another program's
configuration is not ours to obey. The usual variables of the ecosystem (proxies, certificates,
credential files, ``DOCKER_DEFAULT_PLATFORM``) are read here too, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.engine.places import SYSTEM_DIRECTORY, configuration_home, default_root, home
from lamina.errors import InvalidInput
from lamina.oci.descriptor import Platform
from lamina.values import dataclass, field, fields

DEFAULT = "default"
MAX_FILE = 1 << 20  # a settings file is written by hand
# What becomes of a layer's blob once it is unpacked (docs/blobs.md).
KEEP, DROP = "keep", "drop-refetchable"


class InvalidSetting(InvalidInput):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """URLs, empty where there is none; ``no_proxy`` is the usual comma-separated list."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One line of ``lamina info``: passwords are blotted out of ``value``."""

    key: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``origins`` says, per key of :data:`KEYS`, where its value came from. The rest is surroundings."""

    root: Path | None = None
    storage_driver: str = ""
    storage_opts: tuple[str, ...] = ()
    blobs: str = KEEP
    default_runtime: str = ""
    experimental: bool = True
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    proxies: Proxies = Proxies()
    platform: Platform | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    docker_config: Path | None = None
    auth_files: tuple[Path, ...] = ()
    registries_conf: tuple[Path, ...] = ()
    certs_directories: tuple[Path, ...] = ()
    ca_file: Path | None = None
    ca_directory: Path | None = None
    source_date_epoch: int | None = None

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        *,
        flags: Mapping[str, Any] | None = None,
        file: Path | None = None,
        system: Path = Path(SYSTEM_DIRECTORY),
        is_root: bool | None = None,
    ) -> Settings:
        """``flags`` are named by key (``storage-driver``); ``file`` replaces the usual files.

        Raises :class:`InvalidSetting` for a key that is unknown or a value that is not of its kind.
        """
        values, origins = _read_layers(environ, flags or {}, file, system)
        if "data-root" not in values:
            values["data-root"] = default_root(environ, is_root=is_root)
        if "proxies" not in values:
            values["proxies"], origins["proxies"] = _ambient_proxies(environ)
        platform = _default_platform(environ)
        if platform is not None:
            origins["platform"] = "DOCKER_DEFAULT_PLATFORM"
        converted = {KEYS[key].attribute: value for key, value in values.items()}
        converted["root"] = Path(converted["root"]).absolute()
        return cls(
            **converted,
            platform=platform,
            origins={key: origins.get(key, DEFAULT) for key in (*KEYS, "platform")},
            **_surroundings(environ),
        )

    def in_force(self) -> tuple[SettingRow, ...]:
        """Every key with its value as text and its origin."""
        return tuple(
            SettingRow(key=key, value=_shown(getattr(self, attribute)), origin=self.origins.get(key, DEFAULT))
            for key, attribute in (
                *((key, spec.attribute) for key, spec in KEYS.items()), ("platform", "platform")
            )
        )


# -- the keys and what each may hold


@dataclass(frozen=True, slots=True)
class Key:
    """``read`` turns what a file holds into the value; ``read_text`` what a variable or flag holds."""

    attribute: str
    variable: str
    read: Callable[[Any], Any]
    read_text: Callable[[str], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError("a list of strings")
    return tuple(value)


def _blobs(value: Any) -> str:
    if value not in (KEEP, DROP):
        raise TypeError(f"{KEEP} or {DROP}")
    return str(value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1024:
        raise TypeError("a whole number from 1 to 1024")
    return value


_SWITCHES = {"true": True, "enabled": True, "1": True, "false": False, "disabled": False, "0": False}


def _switch(value: Any) -> bool:
    """Docker's key is a boolean, but tutorials show ``"enabled"`` too: both are understood."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    raise TypeError('true or false ("enabled" and "disabled" will do)')


def _proxies(value: Any) -> Proxies:
    names = {"http-proxy": "http", "https-proxy": "https", "no-proxy": "no_proxy"}
    if not isinstance(value, dict) or any(
        key not in names or not isinstance(text, str) for key, text in value.items()
    ):
        raise TypeError(f"an object with strings for {', '.join(names)}")
    return Proxies(**{names[key]: text for key, text in value.items()})


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _whole(text: str) -> int:
    return _count(int(text) if text.isdecimal() else text)


def _json_proxies(text: str) -> Proxies:
    import json

    try:
        return _proxies(json.loads(text))
    except ValueError:
        raise TypeError("a JSON object of proxies") from None


def _key(
    attribute: str, read: Callable[[Any], Any], read_text: Callable[[str], Any], variable: str = ""
) -> Key:
    return Key(attribute=attribute, variable=variable or f"LAMINA_{attribute.upper()}", read=read,
               read_text=read_text)


KEYS: Mapping[str, Key] = {
    "data-root": _key("root", _text, _text, "LAMINA_ROOT"),
    "storage-driver": _key("storage_driver", _text, _text),
    "storage-opts": _key("storage_opts", _texts, _split),
    "blobs": _key("blobs", _blobs, _blobs),
    "default-runtime": _key("default_runtime", _text, _text),
    "experimental": _key("experimental", _switch, _switch),
    "registry-mirrors": _key("registry_mirrors", _texts, _split),
    "insecure-registries": _key("insecure_registries", _texts, _split),
    "max-concurrent-downloads": _key("max_concurrent_downloads", _count, _whole),
    "max-concurrent-uploads": _key("max_concurrent_uploads", _count, _whole),
    "max-download-attempts": _key("max_download_attempts", _count, _whole),
    "proxies": _key("proxies", _proxies, _json_proxies),
}


# Options that are not called as their key is.
_FLAGS = {"data-root": "--root", "storage-opts": "--storage-opt"}


# -- the places


def _read_layers(
    environ: Mapping[str, str], flags: Mapping[str, Any], file: Path | None, system: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """The strongest value of each key that anybody set, and who did."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(key: str, value: Any, origin: str) -> None:
        values[key], origins[key] = value, origin

    for path in _files(environ, file, system):
        for key, value in _read_file(path).items():
            take(key, _convert(KEYS[_known(key, path)].read, value, f"{path}: {key}"), str(path))
    for key, spec in KEYS.items():
        text = environ.get(spec.variable, "")
        if text:
            take(key, _convert(spec.read_text, text, spec.variable), spec.variable)
    for key, value in flags.items():
        flag = _FLAGS.get(key, f"--{key}")
        take(key, _convert(KEYS[key].read, value, flag), f"flag {flag}")
    return values, origins


def _convert(read: Callable[[Any], Any], value: Any, where: str) -> Any:
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise InvalidSetting(f"{where}: expected {error}, got {value!r}") from None


def _files(environ: Mapping[str, str], file: Path | None, system: Path) -> Sequence[Path]:
    """Weakest first. A chosen file must exist; the usual ones need not."""
    chosen = file or (Path(environ["LAMINA_CONFIG_FILE"]) if environ.get("LAMINA_CONFIG_FILE") else None)
    if chosen is not None:
        if not chosen.is_file():
            raise InvalidSetting(f"{chosen}: no such settings file")
        return (chosen,)
    found: list[Path] = []
    for directory in (system, Path(configuration_home(environ), "lamina")):
        here = [path for suffix in ("json", "toml") if (path := directory / f"lamina.{suffix}").is_file()]
        if len(here) > 1:
            raise InvalidSetting(f"{here[0]} and {here[1]}: keep one, so that it is clear which holds")
        found += here
    return found


def _read_file(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as stream:
        raw = stream.read(MAX_FILE + 1)
    if len(raw) > MAX_FILE:
        raise InvalidSetting(f"{path}: over the limit of {MAX_FILE} bytes for a settings file")
    try:
        document = _parse(raw, path)
    except ValueError as error:
        raise InvalidSetting(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSetting(f"{path}: expected an object of settings, got {type(document).__name__}")
    return document


def _parse(raw: bytes, path: Path) -> Any:
    if not raw.strip():
        return {}
    text = raw.decode("utf-8-sig")
    if path.suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    import json

    return json.loads(text)


def _known(key: str, path: Path) -> str:
    if key in KEYS:
        return key
    import difflib

    near = difflib.get_close_matches(key.lower().replace("_", "-"), KEYS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
    raise InvalidSetting(f"{path}: unknown key {key!r}; {hint}")


# -- what other tools' variables and files say


def _ambient_proxies(environ: Mapping[str, str]) -> tuple[Proxies, str]:
    """Upper case first, as Go does; a settings file is stronger than these, as in docker."""
    found: dict[str, str] = {}
    seen: list[str] = []
    for attribute, name in (("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY"), ("no_proxy", "NO_PROXY")):
        for spelling in (name, name.lower()):
            if environ.get(spelling):
                found[attribute] = environ[spelling]
                seen.append(spelling)
                break
    return Proxies(**found), ", ".join(seen) or DEFAULT


def _default_platform(environ: Mapping[str, str]) -> Platform | None:
    text = environ.get("DOCKER_DEFAULT_PLATFORM", "")
    try:
        return Platform.parse(text) if text else None
    except InvalidInput as error:
        raise InvalidSetting(f"DOCKER_DEFAULT_PLATFORM: {error}") from None


def _surroundings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Where credentials, registry configuration and certificates are looked for, in order."""
    configuration = Path(configuration_home(environ))
    dot_docker = Path(home(environ), ".docker")
    return {
        "docker_config": Path(environ.get("DOCKER_CONFIG") or dot_docker),
        "auth_files": _auth_files(environ, configuration),
        "registries_conf": _registries_conf(environ, configuration),
        "certs_directories": (
            configuration / "containers" / "certs.d", dot_docker / "certs.d",
            Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"),
        ),
        "ca_file": _path(environ, "SSL_CERT_FILE"),
        "ca_directory": _path(environ, "SSL_CERT_DIR"),
        "source_date_epoch": _epoch(environ),
    }


def _auth_files(environ: Mapping[str, str], configuration: Path) -> tuple[Path, ...]:
    """containers-auth.json(5): a chosen file stands alone."""
    chosen = _path(environ, "REGISTRY_AUTH_FILE")
    if chosen is not None:
        return (chosen,)
    runtime = _path(environ, "XDG_RUNTIME_DIR")
    places = ([runtime] if runtime is not None else []) + [configuration]
    return tuple(place / "containers" / "auth.json" for place in places)


def _registries_conf(environ: Mapping[str, str], configuration: Path) -> tuple[Path, ...]:
    """containers-registries.conf(5): the first that exists is read, with the directory ``.d`` beside it."""
    chosen = _path(environ, "CONTAINERS_REGISTRIES_CONF")
    if chosen is not None:
        return (chosen,)
    return (configuration / "containers" / "registries.conf", Path("/etc/containers/registries.conf"))


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _epoch(environ: Mapping[str, str]) -> int | None:
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdecimal():
        raise InvalidSetting(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {text!r}")
    return int(text) if text else None


# -- for people


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "(automatic)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(_without_password, value)) or "(none)"
    if isinstance(value, Proxies):
        set_ones = [f"{item.name}={_without_password(text)}" for item in fields(value)
                    if (text := getattr(value, item.name))]
        return " ".join(set_ones) or "(none)"
    return str(value)


def _without_password(text: str) -> str:
    """``http://user:secret@host`` without what must not be shown."""
    scheme, mark, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not mark or not at:
        return text
    return f"{scheme}://{user.partition(':')[0]}:***@{host}{slash}{path}"
