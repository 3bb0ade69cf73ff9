"""The benchmarks run and add up, on an image of a few kilobytes; nothing here looks at a clock."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench import build, containers, fixtures, growth, recipes, squash, startup, table
from bench.count import count

TOP = Path(__file__).parents[1]


@pytest.fixture
def tiny(tmp_path: Path) -> fixtures.Fixture:
    return fixtures.fixture(tmp_path / "cache", "tiny", say=lambda _: None)


def manifest(found: fixtures.Fixture, facts: fixtures.ImageFacts) -> dict:
    raw = (found.layout / "blobs/sha256" / facts.manifest.removeprefix("sha256:")).read_bytes()
    return json.loads(raw)


def test_every_blob_is_called_by_its_digest(tiny):
    blobs = list((tiny.layout / "blobs/sha256").iterdir())
    assert len(blobs) == 2 + 2 + 4  # manifests, configs, layers
    assert [hashlib.sha256(blob.read_bytes()).hexdigest() for blob in blobs] == [blob.name for blob in blobs]


def test_config_names_the_tars_of_the_layers(tiny):
    import gzip

    document = manifest(tiny, tiny.image)
    blobs = tiny.layout / "blobs/sha256"
    config = json.loads((blobs / document["config"]["digest"].removeprefix("sha256:")).read_bytes())
    tars = [
        gzip.decompress((blobs / layer["digest"].removeprefix("sha256:")).read_bytes())
        for layer in document["layers"]
    ]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    assert tiny.image.uncompressed == sum(map(len, tars))


def test_same_recipe_gives_same_bytes(tiny, tmp_path):
    again = fixtures.fixture(tmp_path / "other", "tiny", say=lambda _: None)
    assert (again.image, again.sibling) == (tiny.image, tiny.sibling)


def test_cache_is_used_until_the_recipe_changes(tiny, tmp_path, monkeypatch):
    said = []
    fixtures.fixture(tmp_path / "cache", "tiny", say=said.append)
    assert said == []
    monkeypatch.setitem(recipes.PAIRS, "tiny", (recipes.TINY_SIBLING, recipes.TINY))
    assert fixtures.fixture(tmp_path / "cache", "tiny", say=said.append).image == tiny.sibling
    assert len(said) == 1


def test_contents_are_what_the_layers_leave(tiny, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for layer in manifest(tiny, tiny.image)["layers"]:
        blob = tiny.layout / "blobs/sha256" / layer["digest"].removeprefix("sha256:")
        subprocess.run(["tar", "-xf", blob, "-C", root], check=True)
    for marker in root.rglob(".wh.*"):
        marker.with_name(marker.name.removeprefix(".wh.")).unlink()
        marker.unlink()
    assert fixtures.Contents(**count(str(root))) == tiny.image.contents


def test_count_tells_kinds_apart(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/file").write_bytes(b"12345")
    os.link(tmp_path / "directory/file", tmp_path / "link")
    (tmp_path / "symlink").symlink_to("nowhere")
    assert count(str(tmp_path)) == {"directories": 1, "files": 2, "symlinks": 1, "bytes": 10}


@pytest.mark.parametrize("name", recipes.PAIRS)
def test_siblings_share_all_layers_but_the_last(name):
    image, sibling = recipes.PAIRS[name]
    assert image.layers[:-1] == sibling.layers[:-1]
    assert image.layers[-1] != sibling.layers[-1]
    assert len({layer.name for layer in (*image.layers, *sibling.layers)}) == len(image.layers) + 1


def sample(wall: float, memory: int = 1_000_000) -> dict:
    return {"wall": wall, "cpu": wall / 2, "peak_resident": 2 * memory, "peak_private": memory}


def trial(wall: float, memory: int = 1_000_000) -> dict:
    short = sample(wall / 10)
    return {
        "cold": sample(wall, memory), "settle": 1.0, "disk": 5_000_000, "again": [short] * 3, "sibling": short
    }


def results(**engines: dict) -> dict:
    facts = {"layers": 2, "compressed": 10**6, "uncompressed": 10**9, "entries": 12_345}
    return {
        "machine": {"cores": 2, "memory_gib": 8, "kernel": "6.18", "python": "3.11.2", "below": "xfs"},
        "rounds": 3,
        "engines": {"podman": "podman version 4"},
        "images": {"big": {"image": facts, "engines": {name.replace("_", " "): rows
                                                       for name, rows in engines.items()}}},
    }


def test_table_divides_medians_by_the_best_peer():
    shown = table.markdown(results(
        lamina_erofs={"trials": [trial(3), trial(4), trial(90)]},
        podman={"trials": [trial(8), trial(8), trial(1)]},
        docker={"trials": [trial(16)] * 3},
    ))
    assert "| lamina erofs | 0.50 (4.00 s) | 0.56 (5.00 s) |" in shown
    assert "| docker | 2.00 (16.0 s) |" in shown
    assert "| lamina erofs, cold pull / the best peer (podman) | 0.50 | 0.50, met |" in shown
    assert "2 layers, 1 MB compressed, 1.00 GB as tars, 12,345 entries" in shown


def test_table_says_what_was_missed_and_what_failed():
    shown = table.markdown(results(
        lamina_erofs={"trials": [trial(6, 200_000_000)]},
        podman={"trials": [trial(8)]},
        docker={"trials": [], "error": "docker pull x: exit status 1\n\nno such thing\n    a trace\n"},
    ))
    assert "0.75, missed" in shown
    assert "| lamina erofs, peak memory | 150 MB | 200 MB, missed |" in shown
    assert "docker failed: no such thing" in shown
    assert "| docker |" not in shown


def test_results_go_between_the_comments_and_nowhere_else():
    text = "before\n<!-- begin pull -->\nold\n<!-- end pull -->\nafter\n"
    once = table.put_between(text, "pull", "new\n")
    assert once == "before\n<!-- begin pull -->\n\nnew\n\n<!-- end pull -->\nafter\n"
    assert table.put_between(once, "pull", "new\n") == once
    with pytest.raises(SystemExit, match="begin startup"):
        table.put_between(text, "startup", "new")


def test_page_has_a_place_for_the_results():
    page = (TOP / "docs/performance.md").read_text()
    for name in ("pull", "startup", "squash", "growth", "containers", "build"):
        assert "| made |" in table.put_between(page, name, "| made |")


def test_startup_asks_an_engine_that_has_the_tags(tiny, tmp_path):
    commands = startup.lamina_commands(sys.executable, tmp_path / "root", tiny, tags=3)
    walls = startup.measure(commands, rounds=1)
    assert list(walls) == [
        "python -c pass", "lamina version", "lamina images", "lamina inspect", "lamina history"
    ]
    images = next(command for command in commands if command.name == "lamina images")
    shown = subprocess.run(images.words, env=dict(images.env), capture_output=True, text=True, check=True)
    assert sum(line.startswith("bench ") for line in shown.stdout.splitlines()) == 3
    assert "| lamina version |" in startup.markdown(walls)


def test_growth_measures_what_it_says():
    entries, seconds = growth.measure(600, rounds=1)
    # 400 files in 4 directories; 200 of them again, 40 whiteouts, and the directories once more.
    assert entries == 404 + 244
    assert seconds > 0
    assert "| 648 | " in growth.markdown([(entries, seconds)])


def test_squash_table_divides_by_the_best_peer():
    def row(*walls):
        return {"version": "1", "trials": [{"sample": sample(wall), "settle": 0.5} for wall in walls]}

    shown = squash.markdown({
        "rounds": 3, "image": {"layers": 8, "name": "big", "uncompressed": 10**9, "entries": 1000},
        "squashers": {"lamina erofs": row(2, 3, 90), "podman": row(20, 20, 1), "docker-squash": row(40, 40, 40),
                      "buildah": {"left out": "not here", "trials": []}},
    })
    assert "| lamina erofs | 0.15 (3.0 s) | 3.5 s |" in shown
    assert "| lamina erofs / podman | 0.25 | 0.150, met |" in shown
    assert "| lamina erofs / docker-squash | 0.05 | 0.075, missed |" in shown
    assert "buildah" not in shown


def test_containers_table_divides_by_its_peers():
    def taken(*walls):
        return [{"wall": wall, "cpu": wall / 2} for wall in walls]

    shown = containers.markdown({
        "machine": {"cores": 2, "kernel": "6.18", "python": "3.11.2"}, "api": 0.5,
        "plan": {"rounds": 3, "creates": 100, "files": 10_000, "touched": 1_000, "sleepers": 5},
        "versions": {"lamina runc": "1", "podman": "4", "docker": "20"},
        "costs": {"lamina runc": {"memory": 12_000_000, "disk": 20_480}},
        "figures": {**{act: {} for act in containers.ACTS},
                    "run, no network": {"lamina runc": taken(0.1, 0.1, 9), "podman": taken(0.2)},
                    "create": {"lamina runc": taken(6), "docker": taken(5)}},
    })
    assert "| lamina runc |  | 100 ms (50 ms) |  | 6.0 s (3.0 s) |  |  | 12.0 MB | 20 kB |" in shown
    assert "| lamina runc, run, no network / podman | 0.60 | 0.50, met |" in shown
    assert "| lamina runc, create / docker | 1.00 | 1.20, missed |" in shown
    assert "| lamina API, create / docker | 0.10 | 0.10, met |" in shown


def test_build_table_divides_by_the_fastest():
    def taken(*walls):
        return [sample(wall) for wall in walls]

    shown = build.markdown({
        "machine": {"cores": 2, "kernel": "6.18", "python": "3.11.2"},
        "plan": {"rounds": 3, "files": 5_000, "seconds": 1.0},
        "versions": {"lamina runc": "1", "BuildKit": "20", "buildah": "1"},
        "figures": {build.COLD: {"lamina runc": taken(1, 1, 9), "BuildKit": taken(2), "buildah": taken(3)},
                    build.CACHED: {"lamina runc": taken(0.4), "BuildKit": taken(0.5), "buildah": taken(0.2)},
                    build.CHANGED: {"lamina runc": [sample(1, 200_000_000)]}, build.TOGETHER: {},
                    build.WITH_NETWORK: {"lamina runc": taken(1.5)}},
    })
    assert "| lamina runc | 1.00 s (500 ms) | 400 ms (200 ms) | 1.00 s (500 ms) |  | 200 MB |" in shown
    assert "| lamina runc, cold / the fastest (BuildKit) | 1.00 | 0.50, met |" in shown
    assert "| lamina runc, cached / the fastest (buildah) | 1.00 | 2.00, missed |" in shown
    assert "one file changed /" not in shown
    assert "| lamina runc, peak memory | 150 MB | 200 MB, missed |" in shown
    assert "lamina runc, cold, default network: 1.50 s (750 ms)." in shown


def test_no_edition_of_what_is_built_has_a_file_of_another(tmp_path):
    contexts = build.Contexts(place=tmp_path, plan=build.Plan(files=150))
    found = []
    for edition in (0, 1):
        contexts.write(edition)
        found.append({path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()})
    assert found[0].keys() == found[1].keys()
    assert [path for path in found[0] if found[0][path] == found[1][path]] == []
    assert len(list((contexts.application / "src").rglob("*/*"))) == 150
    contexts.change(1)
    after = {path: (tmp_path / path).read_bytes() for path in found[1]}
    assert len([path for path in after if after[path] != found[1][path]]) == 1


@pytest.mark.privileged
@pytest.mark.compat
def test_build_measures_every_builder(tmp_path):
    output = tmp_path / "build.json"
    few = ["--rounds", "1", "--files", "120", "--seconds", "0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.build", "--cache", str(tmp_path), *few, "--output", str(output)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text())
    everybody = {"lamina runc", "lamina embedded", "BuildKit", "docker legacy", "buildah", "podman"}
    assert document["versions"].keys() == everybody
    assert {act: set(figures) for act, figures in document["figures"].items()} == {
        **dict.fromkeys(build.ACTS, everybody), build.WITH_NETWORK: {"lamina runc"},
    }
    for figures in document["figures"].values():
        for name, taken in figures.items():
            assert [one["cpu"] > 0 and one["peak_private"] > 0 for one in taken] == [True], name
    assert not list((tmp_path / "scratch-build").iterdir())


@pytest.mark.privileged
@pytest.mark.compat
def test_containers_measures_every_engine(tmp_path):
    output = tmp_path / "containers.json"
    few = ["--rounds", "1", "--creates", "2", "--files", "120", "--touched", "5", "--sleepers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.containers", "--cache", str(tmp_path), *few, "--output", str(output)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(output.read_text())
    engines = {act: set(figures) for act, figures in document["figures"].items()}
    everybody = set(containers.ENGINES)
    assert engines == {
        "run": everybody - {"docker", "runc"}, "run, no network": everybody, "exec": everybody,
        "create": everybody - {"runc"}, "diff": everybody - {"runc"}, "commit": everybody - {"runc"},
    }
    assert document["api"] > 0
    assert all(document["costs"][name]["memory"] > 0 for name in everybody - {"runc"})
    assert not list((tmp_path / "scratch-containers").iterdir())


@pytest.mark.privileged
@pytest.mark.compat
def test_squash_measures_every_squasher_and_finds_the_whole_image(tmp_path):
    names = ["lamina overlay2", "lamina erofs", "podman", "buildah", "GNU tar"]
    output = tmp_path / "squash.json"
    arguments = ["--cache", str(tmp_path), "--image", "tiny", "--squashers", ",".join(names), "--rounds", "1",
                 "--disk-size", "1", "--output", str(output)]
    done = subprocess.run([sys.executable, "-m", "bench.squash", *arguments], cwd=TOP, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["squashers"]
    assert {name: row.get("left out") for name, row in rows.items()} == dict.fromkeys(names)
    assert all(len(row["trials"]) == 1 for row in rows.values())


@pytest.mark.privileged
@pytest.mark.compat
def test_pull_measures_every_engine_and_finds_the_whole_image(tmp_path):
    names = ["lamina overlay2", "lamina vfs", "skopeo+umoci", "podman"]
    arguments = ["--cache", str(tmp_path), "--images", "tiny", "--engines", ",".join(names)]
    output = tmp_path / "pull.json"
    few = ["--rounds", "2", "--disk-size", "1", "--keep-caches", "--output", str(output)]
    run = subprocess.run(
        [sys.executable, "-m", "bench.pull", *arguments, *few],
        cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert run.returncode == 0, run.stderr
    engines = json.loads(output.read_text())["images"]["tiny"]["engines"]
    assert {name: rows.get("error") for name, rows in engines.items()} == dict.fromkeys(names)
    for name, rows in engines.items():
        assert len(rows["trials"]) == 2
        for one in rows["trials"]:
            assert one["cold"]["cpu"] > 0, name
            assert one["disk"] > 16_000, name
    assert not list((tmp_path / "scratch").iterdir())
