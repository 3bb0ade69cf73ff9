"""The life of a container, which every driver, every kind of user and every runtime must tell the same.

A script changes files in all the ways there are; what it prints, what its layer holds, what the image made of it,
the squashed one and the built one show are compared with what is written here, so with each other as well.
"""

from __future__ import annotations

from pathlib import Path

from tests.privileged.places import Place, busybox_layer, make_layout, wait_for

from lamina.layer.entry import Entry, Kind
from lamina.layer.tarstream import read_entries
from lamina.testing.images import directory, file, symlink

BASE: list[Entry] = [
    directory("data"), file("data/kept", b"kept\n"), file("data/over", b"as it was\n", mode=0o640),
    file("data/gone", b"gone\n"), file("data/mode", b"m"), file("data/owned", b"o", uid=3, gid=4),
    file("data/marked", b"x"), symlink("data/link", "kept"),
    directory("data/dir", mode=0o750, uid=7), file("data/dir/a", b"a\n"), directory("data/dir/sub"),
    file("data/dir/sub/c", b"c\n", uid=8, gid=9),
    directory("data/away"), file("data/away/old", b"old"),
]
# A look from inside: kind, mode, owner, links (a directory's are counted in ways of their own), and content.
LOOK = """
cd /data
find . | sort | while read -r path; do
  test -d "$path" -a ! -L "$path" && links=- || links=$(stat -c %h "$path")
  stat -c "%n %A %u:%g $links" "$path"
done
cat over new linked moved/a moved/sub/c again away/back fresh/x link
getfattr --only-values -n user.note marked
"""
SCRIPT = """
set -e
cd /data
echo created >new
echo overwritten >over
rm gone
mv dir moved
ln new linked
ln kept again
chmod 4751 mode
chown 1000:1001 owned
chown -h 5:6 link
setfattr -n user.note -v here marked
mkfifo -m 640 pipe
mkdir -m 1777 fresh
echo fresh >fresh/x
chown -R app:1001 fresh
rm -r away
mkdir away
echo back >away/back
sleep 0 &
wait
""" + LOOK
SEEN = """\
. drwxr-xr-x 0:0 -
./again -rw-r--r-- 0:0 2
./away drwxr-xr-x 0:0 -
./away/back -rw-r--r-- 0:0 1
./fresh drwxrwxrwt 1000:1001 -
./fresh/x -rw-r--r-- 1000:1001 1
./kept -rw-r--r-- 0:0 2
./link lrwxrwxrwx 5:6 1
./linked -rw-r--r-- 0:0 2
./marked -rw-r--r-- 0:0 1
./mode -rwsr-x--x 0:0 1
./moved drwxr-x--- 7:0 -
./moved/a -rw-r--r-- 0:0 1
./moved/sub drwxr-xr-x 0:0 -
./moved/sub/c -rw-r--r-- 8:9 1
./new -rw-r--r-- 0:0 2
./over -rw-r----- 0:0 1
./owned -rw-r--r-- 1000:1001 1
./pipe prw-r----- 0:0 1
overwritten
created
created
a
c
kept
back
fresh
kept
here"""

CHANGES = """\
C /data
A /data/again
C /data/away
A /data/away/back
D /data/away/old
D /data/dir
A /data/fresh
A /data/fresh/x
D /data/gone
C /data/kept
C /data/link
A /data/linked
C /data/marked
C /data/mode
A /data/moved
A /data/moved/a
A /data/moved/sub
A /data/moved/sub/c
A /data/new
C /data/over
C /data/owned
A /data/pipe
"""
NOTHING: tuple[str, dict[str, bytes], bytes] = ("", {}, b"")
REMOVED = ("FILE", "0o600", 0, 0, *NOTHING)
# What stays when the base's layer is merged too, and what only removes.
LAYER = {
    "data": ("DIRECTORY", "0o755", 0, 0, *NOTHING),
    "data/again": ("FILE", "0o644", 0, 0, "", {}, b"kept\n"),
    "data/away": ("DIRECTORY", "0o755", 0, 0, *NOTHING),
    "data/away/back": ("FILE", "0o644", 0, 0, "", {}, b"back\n"),
    "data/fresh": ("DIRECTORY", "0o1777", 1000, 1001, *NOTHING),
    "data/fresh/x": ("FILE", "0o644", 1000, 1001, "", {}, b"fresh\n"),
    "data/kept": ("HARDLINK", "0o644", 0, 0, "data/again", {}, b""),
    "data/link": ("SYMLINK", "0o777", 5, 6, "kept", {}, b""),
    "data/linked": ("FILE", "0o644", 0, 0, "", {}, b"created\n"),
    "data/marked": ("FILE", "0o644", 0, 0, "", {"user.note": b"here"}, b"x"),
    "data/mode": ("FILE", "0o4751", 0, 0, "", {}, b"m"),
    "data/moved": ("DIRECTORY", "0o750", 7, 0, *NOTHING),
    "data/moved/a": ("FILE", "0o644", 0, 0, "", {}, b"a\n"),
    "data/moved/sub": ("DIRECTORY", "0o755", 0, 0, *NOTHING),
    "data/moved/sub/c": ("FILE", "0o644", 8, 9, "", {}, b"c\n"),
    "data/new": ("HARDLINK", "0o644", 0, 0, "data/linked", {}, b""),
    "data/over": ("FILE", "0o640", 0, 0, "", {}, b"overwritten\n"),
    "data/owned": ("FILE", "0o644", 1000, 1001, "", {}, b"o"),
    "data/pipe": ("FIFO", "0o640", 0, 0, *NOTHING),
}
REMOVALS = {"data/.wh.dir": REMOVED, "data/.wh.gone": REMOVED, "data/away/.wh.old": REMOVED}
DOCKERFILE = f"FROM base:1\nRUN --network=none <<EOF\n{SCRIPT.strip()}\nEOF\n"


def make_base(path: Path) -> Path:
    """The image ``base:1`` as a layout that every user may load."""
    return make_layout(path, [busybox_layer(), BASE])


def entries(place: Place, image: str) -> dict[str, tuple[object, ...]]:
    """What an image's topmost layer holds, but for times."""
    digest = place.say("inspect", "--format", "{{range .RootFS.Layers}}{{println .}}{{end}}", image).split()[-1]
    blob = place.root / "blobs" / "sha256" / digest.partition(":")[2]
    found: dict[str, tuple[object, ...]] = {}
    with blob.open("rb") as stream:
        for each in read_entries(stream):
            data = each.open().read() if each.open is not None and each.kind is Kind.FILE else b""
            found[each.path] = (
                each.kind.name, oct(each.mode), each.uid, each.gid, each.linkname, dict(each.xattrs), data
            )
    return found


def look(place: Place, image: str) -> str:
    return place.say("run", "--rm", "--network", "none", image, "sh", "-c", LOOK)


def live(place: Place, layout: Path, context: Path) -> None:
    """``context`` is an empty directory that the place's user may read."""
    place.say("load", "-q", "-i", layout)
    place.say("create", "--name", "one", "--network", "none", "base:1", "sh", "-c", SCRIPT)
    assert place.say("start", "-a", "one") == SEEN
    assert place.say("diff", "one") == CHANGES
    place.say("commit", "one", "result:1")
    assert entries(place, "result:1") == LAYER | REMOVALS
    assert look(place, "result:1") == SEEN
    place.say("squash", "-q", "--from", "1", "result:1", "-t", "flat:1")
    assert entries(place, "flat:1") == LAYER
    assert look(place, "flat:1") == SEEN
    (context / "Dockerfile").write_text(DOCKERFILE)
    place.say("build", "-q", "-t", "built:1", context)
    assert entries(place, "built:1") == LAYER | REMOVALS
    assert look(place, "built:1") == SEEN
    assert place.say("run", "--rm", "--network", "none", "base:1", "cat", "/data/over", "/data/gone") == "as it was\ngone\n"
    place.say("rm", "one")
    assert place.ids() == []
    wait_for(lambda: not list((place.root / "containers").iterdir()))
