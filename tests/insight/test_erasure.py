"""A secret in every kind of place where an image holds bytes: found there, named rightly, and gone without it."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from tests.insight.planted import NEEDLE, SECRET, Planted, RawLayer, layer_of, offsets, search_layers, told

from lamina.insight.erasure import MAX_FINDINGS, Wanted
from lamina.insight.needles import pattern_needle
from lamina.insight.places import Place
from lamina.layer.compress import Compression
from lamina.oci.config import ImageConfig
from lamina.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform
from lamina.oci.digest import Digest
from lamina.oci.manifest import dump_document
from lamina.testing.images import (
    MadeImage,
    MadeLayer,
    directory,
    file,
    hardlink,
    make_image,
    make_layer,
    opaque,
    symlink,
    tar_of,
    whiteout,
)

ARM = Platform(os="linux", architecture="arm64", variant="v8")


def a_tar(**files: bytes) -> bytes:
    return tar_of(files)


def a_zip(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def edited(tar: bytes, *changes: tuple[int, bytes]) -> bytes:
    """A tar with other bytes at some offsets."""
    data = bytearray(tar)
    for offset, text in changes:
        data[offset : offset + len(text)] = text
    return bytes(data)


# -- in layers


def in_padding(text: bytes) -> MadeLayer:
    tar = a_tar(**{"etc/motd": b"x" * 100, "z": b"last"})
    return MadeLayer(tar=edited(tar, (512 + 100 + 7, text)))


def in_pax_comment(text: bytes) -> MadeLayer:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("first", "etc/motd"):
            info = tarfile.TarInfo(name)
            info.size = 5
            info.pax_headers = {"comment": text.decode()} if name == "etc/motd" and text else {}
            archive.addfile(info, io.BytesIO(b"hello"))
    return MadeLayer(tar=out.getvalue())


def in_trailer(text: bytes) -> MadeLayer:
    return MadeLayer(tar=a_tar(a=b"1") + bytes(512) + text.ljust(512, b"\0"))


def in_trailer_after_a_link(text: bytes) -> MadeLayer:
    return MadeLayer(tar=tar_of([symlink("l", "t" * 120)]) + text.ljust(512, b"\0"))


def in_xattr(text: bytes) -> MadeLayer:
    return make_layer([file("a"), file("etc/motd", b"x", xattrs={"user.note": text or b"-"})])


def gzip_member(content: bytes, *, extra: bytes = b"", name: bytes = b"", comment: bytes = b"") -> bytes:
    flags = (4 if extra else 0) | (8 if name else 0) | (16 if comment else 0)
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff"
    if extra:
        head += len(extra).to_bytes(2, "little") + extra
    for text in (name, comment):
        head += text + b"\0" if text else b""
    return head + gzip.compress(content, mtime=0)[10:]


def in_gzip_header(field: str) -> Callable[[bytes], MadeLayer]:
    def plant(text: bytes) -> MadeLayer:
        tar = a_tar(a=b"1")
        return RawLayer(tar=tar, stored=gzip_member(tar, **{field: text}))

    return plant


def in_second_member(text: bytes) -> MadeLayer:
    """The tar in the first; the second is empty, with a comment, and zeros follow."""
    tar = a_tar(a=b"1")
    return RawLayer(tar=tar, stored=gzip_member(tar) + gzip_member(b"", comment=text) + bytes(700))


def in_skippable_frame(text: bytes) -> MadeLayer:
    tar = a_tar(a=b"1")
    frame = b"\x50\x2a\x4d\x18" + len(text).to_bytes(4, "little") + text
    return RawLayer(tar=tar, compression=Compression.ZSTD, stored=frame + zstandard.ZstdCompressor().compress(tar))


def in_file(wrap: Callable[[bytes], bytes] = bytes, name: str = "root/token") -> Callable[[bytes], MadeLayer]:
    return lambda text: layer_of([directory("root"), file(name, wrap(b"begin " + text + b" end"))])


def across_a_border(text: bytes) -> MadeLayer:
    """Files are read in pieces of 1 MiB, and blocks have that size: the secret lies over the first border."""
    return layer_of({"a": bytes((1 << 20) - 512 - 10) + text + bytes(100)})


LIVE, BLOB = ("live file", 0, "/root/token"), "compressed bytes"
PLANTED = {
    "live file": (in_file(), (*LIVE, (), "", "raw")),
    "file, uncompressed layer": (
        lambda text: layer_of({"f": text}, compression=Compression.NONE), ("live file", 0, "/f", (), "", "raw")),
    "file, zstd layer": (
        lambda text: layer_of({"f": text}, compression=Compression.ZSTD), ("live file", 0, "/f", (), "", "raw")),
    "across a border": (across_a_border, ("live file", 0, "/a", (), "", "raw")),
    "padding": (in_padding, ("tar padding", 0, "/etc/motd", (), "", "raw")),
    "PAX comment": (in_pax_comment, ("tar header", 0, "/etc/motd", (), "", "raw")),
    "xattr": (in_xattr, ("tar header", 0, "/etc/motd", (), "", "raw")),
    "trailer": (in_trailer, ("tar trailer", 0, "", (), "", "raw")),
    "trailer after a link": (in_trailer_after_a_link, ("tar trailer", 0, "", (), "", "raw")),
    "gzip extra field": (in_gzip_header("extra"), ("gzip header", 0, "", (), "", "raw")),
    "gzip name": (in_gzip_header("name"), ("gzip header", 0, "", (), "", "raw")),
    "gzip comment": (in_gzip_header("comment"), ("gzip header", 0, "", (), "", "raw")),
    "second gzip member": (in_second_member, (BLOB, 0, "", (), "", "raw")),
    "skippable zstd frame": (in_skippable_frame, (BLOB, 0, "", (), "", "raw")),
    "base64": (in_file(base64.b64encode), (*LIVE, (), "", "base64")),
    "hex": (in_file(lambda data: data.hex().encode()), (*LIVE, (), "", "hex")),
    "UTF-16": (in_file(lambda data: data.decode().encode("utf-16-le")), (*LIVE, (), "", "UTF-16")),
    "gzip": (in_file(gzip.compress), (*LIVE, ("(inflated)",), "", "raw")),
    "bzip2": (in_file(bz2.compress), (*LIVE, ("(inflated)",), "", "raw")),
    "xz": (in_file(lzma.compress), (*LIVE, ("(inflated)",), "", "raw")),
    "zstd": (in_file(lambda data: zstandard.ZstdCompressor().compress(b"x" * 5000 + data)),
             (*LIVE, ("(inflated)",), "", "raw")),
    "zip": (in_file(lambda data: a_zip(inner=b"x" * 900 + data)), (*LIVE, ("inner",), "", "raw")),
    "tar.gz in a zip": (
        in_file(lambda data: a_zip(**{"b.tar.gz": gzip.compress(a_tar(**{"x/deep": data}))})),
        (*LIVE, ("b.tar.gz", "x/deep"), "", "raw")),
    "zip in a tar": (
        in_file(lambda data: a_tar(**{"i.zip": a_zip(deep=b"y" * 900 + data)})), (*LIVE, ("i.zip", "deep"), "", "raw")),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("keeps_tars", [True, False])
def test_planted_in_a_layer(kind: str, keeps_tars: bool) -> None:
    plant, expected = PLANTED[kind]
    assert expected in told(search_layers(plant(SECRET), keeps_tars=keeps_tars))
    clean = search_layers(plant(b"f" * len(SECRET)), keeps_tars=keeps_tars)
    assert (clean.findings, clean.undecided, clean.unreadable) == ([], [], [])


@pytest.mark.parametrize("kind", [
    kind for kind in PLANTED if not any(word in kind for word in ("zstd", "gzip", "xz"))  # xz stores small content
])
def test_one_place_is_one_finding(kind: str) -> None:
    plant, expected = PLANTED[kind]
    assert told(search_layers(plant(SECRET), keeps_tars=True)) == [expected]


def test_offsets_are_those_of_the_file() -> None:
    assert offsets(search_layers(in_file()(SECRET))) == [6]
    assert offsets(search_layers(across_a_border(SECRET))) == [(1 << 20) - 512 - 10]
    assert offsets(search_layers(in_file(lambda data: a_zip(inner=b"x" * 900 + data))(SECRET))) == [906]
    assert offsets(search_layers(in_padding(SECRET))) == [512 + 100 + 7]


def test_what_a_compressor_stored_as_it_was_is_told_once() -> None:
    tar = a_tar(a=SECRET)
    stored = RawLayer(tar=tar, stored=gzip.compress(tar, compresslevel=0))
    assert SECRET in stored.blob
    assert told(search_layers(stored)) == [("live file", 0, "/a", (), "", "raw")]


# -- what became of the file


STORY = (
    layer_of([directory("root"), file("root/token", SECRET), file("root/kept", SECRET), directory("var"),
              file("var/log", SECRET)], by="COPY . /"),
    layer_of([file("root/token", SECRET + b"2")], by="RUN renew"),
    layer_of([whiteout("root/token"), opaque("var")], by="RUN rm /root/token"),
)


def test_hidden_files_name_who_hides_them() -> None:
    found = search_layers(*STORY).findings
    assert [(each.path, str(each.place), each.layer, each.instruction) for each in found] == [
        ("/root/token", "obscured file", 0, "COPY . /"),
        ("/root/kept", "live file", 0, "COPY . /"),
        ("/var/log", "obscured file", 0, "COPY . /"),
        ("/root/token", "obscured file", 1, "RUN renew"),
    ]
    hiders = [each.hidden_by for each in found]
    assert [hider and (hider.layer, hider.instruction, hider.path, hider.reason) for hider in hiders] == [
        (1, "RUN renew", "/root/token", "replaced"), None, (2, "RUN rm /root/token", "/var", "opaque"),
        (2, "RUN rm /root/token", "/root/token", "deleted"),
    ]
    assert {each.diff_id for each in found} == {STORY[0].diff_id, STORY[1].diff_id}


def test_a_file_that_a_hard_link_shows_is_live() -> None:
    found = search_layers(layer_of([file("a", SECRET), hardlink("b", "a")]), layer_of([whiteout("a")]))
    assert told(found) == [("live file", 0, "/a", (), "", "raw")]
    gone = search_layers(layer_of([file("a", SECRET), hardlink("b", "a")]), layer_of([whiteout("a"), whiteout("b")]))
    assert told(gone) == [("obscured file", 0, "/a", (), "", "raw")]


def test_a_file_replaced_within_its_layer() -> None:
    (finding,) = search_layers(layer_of([file("a", SECRET), file("a", b"new")])).findings
    assert finding.place is Place.OBSCURED
    assert finding.hidden_by is not None
    assert finding.hidden_by.layer == 0


def test_a_file_below_a_symlink_is_live() -> None:
    found = search_layers(layer_of([directory("real"), symlink("link", "real")]), layer_of({"link/f": SECRET}))
    assert told(found) == [("live file", 1, "/link/f", (), "", "raw")]


def test_a_layer_twice_in_a_stack_is_told_twice_and_counted_once() -> None:
    layer = layer_of({"a": SECRET})
    found = search_layers(layer, layer)
    assert [(each.layer, str(each.place)) for each in found.findings] == [(0, "obscured file"), (1, "live file")]
    once = search_layers(layer)
    assert found.bytes_searched - sum(each.size for each in found.documents) == (
        once.bytes_searched - sum(each.size for each in once.documents))


# -- in documents


def test_configuration_history_labels_annotations() -> None:
    text = SECRET.decode()
    layer = layer_of({"a": b"1"}, by=f"RUN curl -H 'auth: {text}' x")
    found = search_layers(layer, execution={"Env": ["A=1", f"TOKEN={text}"], "Labels": {"note": text}},
                          annotations={"org.note": f"<{text}>"})
    places = {(str(each.place), each.field) for each in found.findings}
    assert places == {
        ("config", "config.Env[1]"), ("label", "config.Labels.note"), ("history", "history[0].created_by"),
        ("annotation", "annotations.org.note"),
    }
    assert search_layers(layer_of({"a": b"1"}), execution={"Env": ["A=1"]}, annotations={"o": "x"}).findings == []


def test_json_escapes_hide_nothing() -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": []}, "os": "linux", "architecture": "amd64"}
    raw = json.dumps({**config, "author": "@@"}).replace("@@", "".join(f"\\u{byte:04x}" for byte in SECRET)).encode()
    made = make_image([])
    described = Descriptor(media_type=OCI_CONFIG, digest=Digest.of(raw), size=len(raw))
    manifest = replace_config(made, described)
    planted = Planted()
    planted.store.put(described, io.BytesIO(raw))
    root = planted.put_bytes(OCI_MANIFEST, manifest)
    assert told(planted.search(root)) == [("config", None, "", (), "author", "raw")]


def replace_config(made: MadeImage, config: Descriptor, **more: Any) -> bytes:
    return dump_document({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [], **more})


def test_what_is_in_no_string_is_found_in_the_bytes() -> None:
    needle = pattern_needle("13371337")
    raw = ImageConfig.build({"rootfs": {"type": "layers", "diff_ids": []}, "number": 13371337}).raw
    planted = Planted()
    config = planted.put_bytes(OCI_CONFIG, raw)
    root = planted.put_bytes(OCI_MANIFEST, replace_config(make_image([]), config))
    (finding,) = planted.search(root, Wanted(needles=(needle,))).findings
    assert (str(finding.place), finding.field, finding.offset) == ("config", "", raw.index(b"13371337"))


def test_keys_and_repeated_keys() -> None:
    text = SECRET.decode()
    raw = b'{"rootfs":{"type":"layers","diff_ids":[]},"a":"%s","a":"x","%s":1}' % (SECRET, SECRET)
    planted = Planted()
    root = planted.put_bytes(OCI_MANIFEST, replace_config(make_image([]), planted.put_bytes(OCI_CONFIG, raw)))
    found = planted.search(root)
    assert sorted(each.field for each in found.findings) == ["***", "a"]
    assert text not in repr(found)


# -- indexes and attestations


def an_index(planted: Planted, *entries: Descriptor, **more: Any) -> Descriptor:
    return planted.put_bytes(OCI_INDEX, dump_document({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in entries], **more,
    }))


def an_attestation(planted: Planted, statement: bytes) -> Descriptor:
    """As BuildKit writes one."""
    blob = planted.put_bytes("application/vnd.in-toto+json", statement)
    config = planted.put_bytes(OCI_CONFIG, ImageConfig.build({
        "architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": [blob.digest]},
    }).raw)
    manifest = dump_document({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(),
                              "layers": [blob.to_json()]})
    return planted.put_bytes(
        OCI_MANIFEST, manifest, platform=Platform(os="unknown", architecture="unknown"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )


def test_attestations() -> None:
    planted = Planted()
    image = planted.put(make_image([layer_of({"a": b"1"})]))
    statement = json.dumps({"predicate": {"args": ["--token", SECRET.decode()]}}).encode()
    root = an_index(planted, image, an_attestation(planted, statement))
    assert told(planted.search(root)) == [("attestation", None, "", (), "predicate.args[1]", "raw")]
    clean = planted.search(an_index(planted, image, an_attestation(planted, b'{"predicate":1}')))
    assert (clean.findings, clean.undecided) == ([], [])
    assert len(clean.documents) == 6, "index, manifest, config; attestation's manifest, config and statement"


def test_an_attestation_in_an_envelope_is_base64() -> None:
    planted = Planted()
    payload = base64.b64encode(b'{"x":"' + SECRET + b'"}').decode()
    attestation = an_attestation(planted, json.dumps({"payload": payload}).encode())
    root = an_index(planted, planted.put(make_image([layer_of({"a": b"1"})])), attestation)
    assert told(planted.search(root)) == [("attestation", None, "", (), "payload", "base64")]


def test_content_that_is_no_document() -> None:
    planted = Planted()
    attestation = an_attestation(planted, gzip.compress(b"spdx " + SECRET))
    root = an_index(planted, planted.put(make_image([layer_of({"a": b"1"})])), attestation)
    assert told(planted.search(root)) == [("attestation", None, "", ("(inflated)",), "", "raw")]


def test_every_platform_that_is_here_is_searched() -> None:
    planted = Planted()
    amd = planted.put(make_image([layer_of({"a": b"1"})]))
    arm = planted.put(make_image([layer_of({"b": SECRET})], platform=ARM))
    root = an_index(planted, amd, replace(arm, platform=ARM))
    found = planted.search(root)
    assert [(each.platform, each.path) for each in found.findings] == [("linux/arm64", "/b")]
    assert [image.platform for image in found.images] == ["linux/amd64", "linux/arm64"]


def test_what_is_listed_but_absent_is_told() -> None:
    planted = Planted()
    amd = planted.put(make_image([layer_of({"a": b"1"})]))
    absent = make_image([layer_of({"b": b"2"})], platform=ARM).descriptor
    found = planted.search(an_index(planted, amd, absent))
    assert [(gap.blob, gap.reason) for gap in found.not_searched] == [
        (absent.digest, "listed for linux/arm64, but not here")]
    assert found.undecided == []


def test_index_annotations() -> None:
    planted = Planted()
    amd = planted.put(make_image([layer_of({"a": b"1"})]))
    marked = replace(amd, annotations={"note": SECRET.decode()})
    found = planted.search(an_index(planted, marked, annotations={"top": SECRET.decode()}))
    assert sorted((str(each.place), each.field) for each in found.findings) == [
        ("annotation", "annotations.top"), ("annotation", "manifests[0].annotations.note")]
    assert {each.blob for each in found.findings} == {found.documents[0].blob}


def test_other_bytes_of_an_index_are_a_document() -> None:
    planted = Planted()
    root = an_index(planted, planted.put(make_image([layer_of({"a": b"1"})])), extra=[SECRET.decode()])
    assert told(planted.search(root)) == [("document", None, "", (), "extra[0]", "raw")]


# -- what cannot be decided


def test_a_layer_that_cannot_be_inflated_is_undecided() -> None:
    tar = a_tar(a=b"x" * 5000)
    broken = RawLayer(tar=tar, stored=gzip.compress(tar)[:-9])
    found = search_layers(broken)
    assert found.findings == []
    (gap,) = found.undecided
    assert (gap.layer, gap.blob) == (0, broken.descriptor.digest)
    assert "cut off" in gap.reason


def test_what_is_found_before_the_damage_is_found() -> None:
    tar = a_tar(a=SECRET, b=bytes(range(256)) * 4000)
    blob = gzip.compress(tar, mtime=0)
    found = search_layers(RawLayer(tar=tar, stored=blob[: len(blob) // 2]))
    assert [each.path for each in found.findings] == ["/a"]
    assert found.undecided


def test_a_missing_layer_is_undecided() -> None:
    planted = Planted()
    made = make_image([layer_of({"a": b"1"}), layer_of({"b": b"2"})])
    root = planted.put(made)
    planted.store.delete(made.layers[1].descriptor.digest)
    found = planted.search(root)
    assert [gap.reason for gap in found.undecided] == [f"{made.layers[1].descriptor.digest}: missing"]
    assert [layer.number for layer in found.images[0].layers] == [0]


@pytest.mark.parametrize("keeps_tars", [True, False])
def test_wrong_bytes_are_undecided(keeps_tars: bool) -> None:
    planted = Planted(keeps_tars=keeps_tars)
    made = make_image([layer_of({"a": b"1"})])
    root = planted.put(made)
    digest = made.layers[0].descriptor.digest
    other = layer_of({"a": b"2"}).blob
    planted.store._blobs[digest] = other
    planted.tars[made.layers[0].diff_id] = layer_of({"a": b"2"}).tar
    found = planted.search(root)
    assert any(f"damaged: its bytes have the digest {Digest.of(other)}" in gap.reason for gap in found.undecided)
    assert any("damaged: its tar has the digest" in gap.reason for gap in found.undecided)


def test_a_layer_that_cannot_be_unpacked_is_searched_all_the_same() -> None:
    planted = Planted()
    layer = layer_of({"f": SECRET, "g.gz": gzip.compress(b"x" + SECRET)})
    root = planted.put(make_image([layer]))
    planted.tars.clear()
    found = planted.search(root)
    assert [gap.reason for gap in found.undecided] == [f"{layer.diff_id}: cannot be unpacked"]
    assert {(str(each.place), each.inside) for each in found.findings} == {
        ("other content", ()), ("live file", ("g.gz",))}


def test_a_bomb_is_undecided() -> None:
    bomb = gzip.compress(bytes(300 << 20), compresslevel=9)
    found = search_layers(layer_of({"bomb.gz": bomb}))
    assert [(gap.path, gap.layer) for gap in found.undecided] == [("/bomb.gz", 0)]
    assert "gives more than" in found.undecided[0].reason


def test_too_deep_is_undecided() -> None:
    deep = SECRET
    for _ in range(4):
        deep = gzip.compress(deep * 3)
    found = search_layers(layer_of({"deep.gz": deep}))
    assert found.findings == []
    assert [gap.reason for gap in found.undecided] == ["gzip: more than 3 archives deep"]


def test_damaged_containers_are_noted_and_decide_nothing() -> None:
    cut = gzip.compress(b"x" * 4000 + SECRET)[:-4]
    found = search_layers(layer_of({"cut.gz": cut, "no.zip": b"PK\x03\x04" + b"x" * 90}))
    assert [(str(each.place), each.path) for each in found.findings] == [("live file", "/cut.gz")]
    assert found.undecided == []
    assert [(gap.path, gap.reason) for gap in found.unreadable] == [
        ("/cut.gz", "gzip: the gzip stream is cut off: its end is missing"),
        ("/no.zip", "zip: damaged (its directory is missing)"),
    ]


# -- paths


def paths(*layers: MadeLayer, path: str) -> list[tuple[int | None, str, str]]:
    found = search_layers(*layers, wanted=Wanted(paths=(path,)))
    return [(each.layer, each.path, "hidden" if each.hidden_by else "seen") for each in found.findings]


def test_paths_count_hidden_or_not_but_whiteouts_do_not() -> None:
    assert paths(*STORY, path="root/token") == [(0, "/root/token", "hidden"), (1, "/root/token", "hidden")]
    assert paths(*STORY[2:], path="root/token") == []
    assert paths(*STORY, path="var") == [(0, "/var", "seen"), (0, "/var/log", "hidden")]
    assert paths(*STORY, path="va") == []


def test_paths_through_symlinks_either_way() -> None:
    lower = layer_of([directory("etc"), symlink("conf", "etc"), file("etc/key", b"1")])
    assert paths(lower, path="conf/key") == [(0, "/etc/key", "seen")]
    upper = layer_of({"conf/new": b"2"})
    assert paths(lower, upper, path="etc/new") == [(1, "/conf/new", "seen")]
    assert paths(lower, upper, path="conf/new") == [(1, "/conf/new", "seen")]
    turned = layer_of([whiteout("conf"), symlink("conf", "var")])
    assert paths(lower, turned, path="conf/key") == [(0, "/etc/key", "seen")]


# -- nothing is told


def test_the_secret_is_in_no_answer() -> None:
    text = SECRET.decode()
    layers = (
        layer_of([directory(text), file(f"{text}/f", SECRET), file("a.zip", a_zip(**{f"in-{text}": SECRET}))],
                 by=f"RUN echo {text}"),
        layer_of([whiteout(f"{text}/f")], by=f"RUN rm {base64.b64encode(SECRET).decode()}"),
    )
    found = search_layers(*layers, execution={"Labels": {f"x-{text}-y": text}},
                          wanted=Wanted(needles=(NEEDLE,), paths=("a.zip",)))
    shown = repr(found.findings)
    assert text not in shown
    assert base64.b64encode(SECRET).decode() not in shown
    assert "/***/f" in shown
    assert "RUN rm ***" in shown
    assert "config.Labels.x-***-y" in shown
    pattern = search_layers(*layers, wanted=Wanted(needles=(pattern_needle(r"hunter2-\w+"),)))
    assert text not in repr(pattern.findings)


def test_findings_are_counted_beyond_those_that_are_listed() -> None:
    layers = [layer_of({f"f{number}": SECRET for number in range(100)}, by=str(layer)) for layer in range(11)]
    found = search_layers(*(replace(layer, tar=layer.tar + bytes(512 * number)) for number, layer in enumerate(layers)))
    assert len(found.findings) == MAX_FINDINGS
    assert found.omitted == 100
