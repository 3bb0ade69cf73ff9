"""Where a value comes from, which one wins, and what a wrong one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina.engine.places import default_root
from lamina.engine.settings import KEYS, InvalidSetting, Proxies, Settings
from lamina.oci.descriptor import Platform


class Places:
    """A home and a system directory of our own, so that the machine's files do not matter."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.system = base / "etc"
        for directory in (self.home / ".config" / "lamina", self.system):
            directory.mkdir(parents=True)

    def user(self, name: str, text: str) -> Path:
        path = self.home / ".config" / "lamina" / name
        path.write_text(text)
        return path

    def everybody(self, name: str, text: str) -> Path:
        path = self.system / name
        path.write_text(text)
        return path

    def load(self, environ: dict[str, str] | None = None, **options: object) -> Settings:
        return Settings.load(
            {"HOME": str(self.home), **(environ or {})}, system=self.system, is_root=False, **options  # type: ignore[arg-type]
        )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_defaults(places: Places) -> None:
    settings = places.load()
    assert settings.root == places.home / ".local" / "share" / "lamina"
    assert settings.storage_driver == ""
    assert settings.experimental is True
    assert (settings.max_concurrent_downloads, settings.max_concurrent_uploads) == (3, 5)
    assert settings.max_download_attempts == 5
    assert settings.platform is None
    assert set(settings.origins.values()) == {"default"}


def test_root_and_others_have_their_own_places() -> None:
    assert default_root({}, is_root=True) == "/var/lib/lamina"
    assert default_root({"XDG_DATA_HOME": "/data"}, is_root=False) == "/data/lamina"
    assert default_root({"XDG_DATA_HOME": "data", "HOME": "/h"}, is_root=False) == "/h/.local/share/lamina"


def test_flags_over_variables_over_user_over_system(places: Places) -> None:
    system = places.everybody("lamina.json", json.dumps({
        "storage-driver": "vfs", "max-concurrent-downloads": 1, "max-concurrent-uploads": 1,
        "data-root": "/from/system",
    }))
    user = places.user("lamina.toml", 'storage-driver = "erofs"\nmax-concurrent-downloads = 2\n'
                                      'max-concurrent-uploads = 2\n')
    settings = places.load(
        {"LAMINA_MAX_CONCURRENT_UPLOADS": "7", "LAMINA_STORAGE_DRIVER": "btrfs"},
        flags={"storage-driver": "overlay2"},
    )
    assert settings.storage_driver == "overlay2"
    assert settings.max_concurrent_uploads == 7
    assert settings.max_concurrent_downloads == 2
    assert settings.root == Path("/from/system")
    assert settings.origins["storage-driver"] == "flag --storage-driver"
    assert settings.origins["max-concurrent-uploads"] == "LAMINA_MAX_CONCURRENT_UPLOADS"
    assert settings.origins["max-concurrent-downloads"] == str(user)
    assert settings.origins["data-root"] == str(system)
    assert settings.origins["registry-mirrors"] == "default"


def test_root_by_variable_and_by_flag(places: Places) -> None:
    assert places.load({"LAMINA_ROOT": "/a"}).root == Path("/a")
    settings = places.load({"LAMINA_ROOT": "/a"}, flags={"data-root": "/b"})
    assert settings.root == Path("/b")
    assert settings.origins["data-root"] == "flag --root"


def test_a_relative_root_becomes_absolute(places: Places) -> None:
    assert places.load({"LAMINA_ROOT": "here"}).root == Path.cwd() / "here"


def test_xdg_config_home_moves_the_users_file(places: Places, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "lamina"
    other.mkdir(parents=True)
    (other / "lamina.json").write_text('{"storage-driver": "vfs"}')
    assert places.load({"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}).storage_driver == "vfs"


def test_a_chosen_file_replaces_the_usual_ones(places: Places, tmp_path: Path) -> None:
    places.user("lamina.json", '{"storage-driver": "vfs", "max-concurrent-uploads": 9}')
    chosen = tmp_path / "mine.toml"
    chosen.write_text('storage-driver = "erofs"')
    for settings in (places.load(file=chosen), places.load({"LAMINA_CONFIG_FILE": str(chosen)})):
        assert settings.storage_driver == "erofs"
        assert settings.max_concurrent_uploads == 5


def test_a_chosen_file_must_exist(places: Places, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no such settings file"):
        places.load(file=tmp_path / "absent.json")


def test_unknown_key_is_named_with_the_nearest(places: Places) -> None:
    path = places.user("lamina.json", '{"storage_driver": "vfs"}')
    with pytest.raises(InvalidSetting) as caught:
        places.load()
    assert str(caught.value) == f"{path}: unknown key 'storage_driver'; did you mean storage-driver?"


def test_unknown_key_like_nothing_lists_what_is_known(places: Places) -> None:
    places.user("lamina.json", '{"zzzz": 1}')
    with pytest.raises(InvalidSetting, match="known are data-root, storage-driver"):
        places.load()


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("storage-driver", 3, "a string"),
    ("storage-opts", "a=b", "a list of strings"),
    ("registry-mirrors", [1], "a list of strings"),
    ("experimental", "maybe", "true or false"),
    ("blobs", "drop", "keep or drop-refetchable"),
    ("max-concurrent-downloads", 0, "a whole number from 1 to 1024"),
    ("max-concurrent-downloads", True, "a whole number from 1 to 1024"),
    ("max-download-attempts", "5", "a whole number from 1 to 1024"),
    ("proxies", {"http": "x"}, "an object with strings for http-proxy, https-proxy, no-proxy"),
    ("proxies", [], "an object with strings"),
])
def test_wrong_kind_names_file_key_and_value(
    places: Places, key: str, value: object, expected: str
) -> None:
    path = places.user("lamina.json", json.dumps({key: value}))
    with pytest.raises(InvalidSetting) as caught:
        places.load()
    assert str(caught.value).startswith(f"{path}: {key}: expected {expected}")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("value", "expected"), [
    (True, True), (False, False), ("enabled", True), ("disabled", False), ("true", True), ("False", False),
])
def test_experimental_in_every_spelling(places: Places, value: object, expected: bool) -> None:
    places.user("lamina.json", json.dumps({"experimental": value}))
    assert places.load().experimental is expected


def test_a_wrong_variable_is_named(places: Places) -> None:
    with pytest.raises(InvalidSetting, match=r"^LAMINA_MAX_CONCURRENT_DOWNLOADS: expected a whole number"):
        places.load({"LAMINA_MAX_CONCURRENT_DOWNLOADS": "many"})


def test_lists_in_variables_are_comma_separated(places: Places) -> None:
    settings = places.load({"LAMINA_INSECURE_REGISTRIES": "10.0.0.1:5000, registry.test ,"})
    assert settings.insecure_registries == ("10.0.0.1:5000", "registry.test")


@pytest.mark.parametrize(("name", "text"), [
    ("lamina.json", "{"), ("lamina.json", "[]"), ("lamina.toml", "a ="), ("lamina.json", "\udcff"),
])
def test_a_broken_file_is_one_sentence_that_names_it(places: Places, name: str, text: str) -> None:
    path = places.user(name, "")
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidSetting) as caught:
        places.load()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_an_empty_file_sets_nothing(places: Places) -> None:
    places.user("lamina.json", "")
    assert places.load().storage_driver == ""


def test_two_files_in_one_place_are_refused(places: Places) -> None:
    places.user("lamina.json", "{}")
    places.user("lamina.toml", "")
    with pytest.raises(InvalidSetting, match="keep one, so"):
        places.load()


def test_a_giant_file_is_refused(places: Places) -> None:
    places.user("lamina.json", " " * (1 << 20) + "{}")
    with pytest.raises(InvalidSetting, match="over the limit"):
        places.load()


def test_proxies_from_the_file_beat_ambient_ones(places: Places) -> None:
    ambient = {"HTTPS_PROXY": "http://ambient:1", "https_proxy": "http://lower:1", "no_proxy": "a,b"}
    settings = places.load(ambient)
    assert settings.proxies == Proxies(https="http://ambient:1", no_proxy="a,b")
    assert settings.origins["proxies"] == "HTTPS_PROXY, no_proxy"
    path = places.user("lamina.json", '{"proxies": {"https-proxy": "http://file:1"}}')
    settings = places.load(ambient)
    assert settings.proxies == Proxies(https="http://file:1")
    assert settings.origins["proxies"] == str(path)


def test_platform_by_dockers_variable(places: Places) -> None:
    settings = places.load({"DOCKER_DEFAULT_PLATFORM": "linux/aarch64"})
    assert settings.platform == Platform(os="linux", architecture="arm64")
    assert settings.origins["platform"] == "DOCKER_DEFAULT_PLATFORM"
    with pytest.raises(InvalidSetting, match=r"^DOCKER_DEFAULT_PLATFORM: "):
        places.load({"DOCKER_DEFAULT_PLATFORM": "a/b/c/d"})


def test_where_credentials_are_looked_for(places: Places) -> None:
    settings = places.load({"XDG_RUNTIME_DIR": "/run/user/1"})
    assert settings.docker_config == places.home / ".docker"
    assert settings.auth_files == (
        Path("/run/user/1/containers/auth.json"), places.home / ".config/containers/auth.json",
    )
    settings = places.load({"DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/a.json"})
    assert settings.docker_config == Path("/d")
    assert settings.auth_files == (Path("/a.json"),)


def test_source_date_epoch(places: Places) -> None:
    assert places.load({"SOURCE_DATE_EPOCH": "1700000000"}).source_date_epoch == 1700000000
    with pytest.raises(InvalidSetting, match="SOURCE_DATE_EPOCH"):
        places.load({"SOURCE_DATE_EPOCH": "yesterday"})


def test_what_is_in_force_hides_passwords(places: Places) -> None:
    places.user("lamina.json", json.dumps({
        "proxies": {"http-proxy": "http://me:hunter2@proxy:3128"},
        "registry-mirrors": ["https://me:hunter2@mirror.test/x"], "insecure-registries": ["a:5000"],
    }))
    rows = {row.key: row for row in places.load().in_force()}
    assert list(rows) == [*KEYS, "platform"]
    assert rows["proxies"].value == "http=http://me:***@proxy:3128"
    assert rows["registry-mirrors"].value == "https://me:***@mirror.test/x"
    assert rows["insecure-registries"].value == "a:5000"
    assert rows["storage-opts"].value == "(none)"
    assert rows["storage-driver"].value == "(automatic)"
    assert "hunter2" not in repr(rows)


def test_every_key_can_be_set_by_variable(places: Places) -> None:
    texts = {"blobs": "drop-refetchable", "experimental": "false", "max-concurrent-downloads": "9", "max-concurrent-uploads": "9",
             "max-download-attempts": "9", "proxies": '{"no-proxy": "x"}'}
    for key, spec in KEYS.items():
        settings = places.load({spec.variable: texts.get(key, "/value")})
        assert settings.origins[key] == spec.variable, key
        assert getattr(settings, spec.attribute) != getattr(places.load(), spec.attribute), key
