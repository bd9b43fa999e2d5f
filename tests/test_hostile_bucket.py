"""P15 to P18: whatever a bucket holds, nothing outside the root is touched, nothing is lost, memory and time
stay bounded, and what a user reads is a documented error.

Each case is an attack on one property of an otherwise right bucket (see `tests.forge`). The victim has files
in sync, an edit, files of its own, symlinks that lead outside, a repository of git around and in the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Any

import pytest

from tests.confined import Confined
from tests.conftest import Soak
from tests.forge import (
    SESSION,
    Forge,
    Record,
    bomb,
    canonical,
    compress,
    digest,
    file,
    link,
)
from tests.hostile import CHAINS, World, assail

EVIL = b"evil\n"
OTHER = "6f1b1c4e-5a0f-4a58-9d3e-3f7f3a2b1c99"


@dataclass(frozen=True)
class Attack:
    """One way to be hostile."""

    name: str
    craft: Callable[[Forge], object]
    codes: set[int] = field(default_factory=lambda: {7})
    """What a pull may exit with."""
    lands: dict[bytes, bytes] = field(default_factory=dict)
    symlinks: str = "skip"
    is_heavy: bool = False


def refused_path(name: str, path: bytes, **options: Any) -> Attack:
    """A page that names a path which may not be there."""
    return Attack(f"path-{name}", lambda forge: forge.add(file(path)), **options)


def legal_path(name: str, path: bytes, codes: set[int] | None = None) -> Attack:
    """A path that looks odd and is an ordinary name here: it lands, inside the root."""
    return Attack(f"path-{name}", lambda forge: forge.add(file(path)), codes or {0, 6}, {path: EVIL})


def blocked_path(name: str, path: bytes) -> Attack:
    """A path that is well-formed and that this tree has no place for."""
    return Attack(f"blocked-{name}", lambda forge: forge.add(file(path)), {3, 6})


def page(name: str, **options: Any) -> Attack:
    """A page with one file more, changed by ``options`` as `Forge.page` takes them."""
    return Attack(f"page-{name}", lambda forge: forge.add(file(b"exp/new"), **options))


def entry(name: str, codes: set[int] | None = None, **fields: Any) -> Attack:
    """A page with one entry whose fields are these."""
    return Attack(f"entry-{name}", lambda forge: forge.add(file(b"exp/new", **fields)), codes or {7})


def head(
    name: str, edit: Callable[[Record], object], codes: set[int] | None = None, *, lands: bool = False
) -> Attack:
    """A head with one more file, changed by ``edit``.

    ``lands``: the file may arrive although a pull is refused, once the index was made anew.
    """

    def craft(forge: Forge) -> None:
        forge.publish([forge.page(forge.with_honest([file(b"exp/new")]))], edit=edit)

    return Attack(f"head-{name}", craft, codes or {7}, {b"exp/new": EVIL} if codes or lands else {})


def raw_head(
    name: str, raw: Callable[[bytes], bytes], codes: set[int] | None = None, *, is_heavy: bool = False
) -> Attack:
    """A head without pages whose bytes are these."""
    return Attack(f"head-{name}", lambda f: f.publish([], raw=raw), codes or {7}, is_heavy=is_heavy)


def heavy(name: str, craft: Callable[[Forge], object], codes: set[int], **lands: bytes) -> Attack:
    """An attack that costs whoever tries it much time."""
    return Attack(name, craft, codes, {k.encode(): v for k, v in lands.items()}, is_heavy=True)


def put(place: str, key: str | int, value: Any) -> Callable[[Record], object]:
    """An edit of a page: sets one field of the first item of a table."""

    def edit(body: Record) -> None:
        body[place][0][key] = value

    return edit


def put_writer(host: str, time: str) -> Callable[[Record], object]:
    """An edit of a page: who wrote its entries, and when."""
    return lambda body: body["writers"][0].update(host=host, time=time)


def two_pages(name: str, first: list[bytes], second: list[bytes], codes: set[int], *lands: bytes) -> Attack:
    """Two pages with these paths, named in the head in this order."""

    def craft(forge: Forge) -> None:
        forge.publish([forge.page([file(p) for p in paths]) for paths in (first, second)])

    return Attack(f"pages-{name}", craft, codes, dict.fromkeys(lands, EVIL))


def big_claim(forge: Forge) -> None:
    """One file of some terabytes: every chunk of it is the same piece of one small frame."""
    plain = 16 << 20
    frame = bomb(plain, declared=plain, window_log=20)
    id_ = digest(bytes(plain))
    count = 200_000

    def edit(body: Record) -> None:
        body["frames"] = [[0, 0, len(frame), plain]]
        body["packs"] = [{"id": digest(frame), "session": SESSION, "size": len(frame) + 200}]
        body["entries"][0] |= {"chunks": [[0, 0, plain, id_]] * count, "size": plain * count}

    forge.put(f"packs/{SESSION}/{digest(frame)}.pack", frame + bytes(200))
    forge.publish([forge.page([file(b"exp/new")], edit=edit)])


def overlapping_chunks(forge: Forge) -> None:
    """A file of half a GB: chunks that share the bytes of one small frame, each beginning a little later."""
    plain = 16 << 20
    frame = bomb(plain, declared=plain, window_log=20)
    length = plain - 200
    id_ = digest(bytes(length))
    count = 32

    def edit(body: Record) -> None:
        body["frames"] = [[0, 0, len(frame), plain]]
        body["packs"] = [{"id": digest(frame), "session": SESSION, "size": len(frame) + 200}]
        body["entries"][0] |= {
            "chunks": [[0, n, length, id_] for n in range(count)],
            "size": length * count,
            "hash": digest(b"something else"),
        }

    forge.put(f"packs/{SESSION}/{digest(frame)}.pack", frame + bytes(200))
    forge.publish([forge.page([file(b"exp/new")], edit=edit)])


def many_frames(forge: Forge) -> None:
    """Twenty frames of 16 MiB that take some kilobytes each: what is decoded ahead must stay bounded."""
    plain = 16 << 20
    frames = [bomb(plain, declared=plain, window_log=20)] * 20
    body_bytes = b"".join(frames)
    size = len(body_bytes) + 200
    id_ = digest(bytes(plain))

    def edit(body: Record) -> None:
        step = len(frames[0])
        body["frames"] = [[0, n * step, step, plain] for n in range(len(frames))]
        body["packs"] = [{"id": digest(body_bytes), "session": SESSION, "size": size}]
        chunks = [[n, 0, plain, id_] for n in range(len(frames))]
        body["entries"][0] |= {"chunks": chunks, "size": plain * len(frames), "hash": digest(b"other")}

    forge.put(f"packs/{SESSION}/{digest(body_bytes)}.pack", body_bytes + bytes(200))
    forge.publish([forge.page([file(b"exp/new")], edit=edit)])


def most_chunks(forge: Forge) -> None:
    """As many chunks as a page can name, each of five bytes: what a reader holds for them is bounded."""
    count = 100_000
    plain = bytes(5 * count)

    def edit(body: Record) -> None:
        chunks = [[0, 5 * n, 5, digest(bytes(5))] for n in range(count)]
        body["entries"][0] |= {"chunks": chunks}

    forge.publish([forge.page([file(b"new", plain)], edit=edit)])


def many_fillers(forge: Forge) -> None:
    """Sixteen pages, each of which takes much more memory than bytes: they must not be in it all at once."""
    rows = [forge.page([file(b"f%02d" % n)], raw=filler(1 << 18, b'{"":0}')) for n in range(16)]
    forge.publish(rows)


def full_head(forge: Forge) -> None:
    """As many pages as a head has room for; none of them is there."""
    rows: list[list[Any]] = [
        [digest(b"%d" % n), 0, 2, 10, 99, 99, f"d/{n:06x}a", f"d/{n:06x}b"] for n in range(75_000)
    ]
    forge.publish(rows)


def frame_bomb(stored: bytes, raw: int) -> Callable[[Forge], object]:
    """A pack whose only frame is ``stored``, which the page says decodes to ``raw`` bytes."""

    def craft(forge: Forge) -> None:
        def edit(body: Record) -> None:
            body["frames"] = [[0, 0, len(stored), raw]]
            body["packs"] = [{"id": digest(stored), "session": SESSION, "size": len(stored) + 200}]
            body["entries"][0] |= {"chunks": [[0, 0, 5]]}

        forge.put(f"packs/{SESSION}/{digest(stored)}.pack", stored + bytes(200))
        forge.publish([forge.page([file(b"exp/new")], edit=edit)])

    return craft


def other_pack(forge: Forge) -> None:
    """The pack of another page under this pack's key: whole, right by itself, not what was named."""
    forge.add(file(b"exp/other", b"OTHER"))
    other = next((forge.bucket / "packs" / SESSION).iterdir()).read_bytes()
    forge.add(file(b"exp/new"), packed=lambda _: other)


def multi_chunk(forge: Forge) -> None:
    """Chunks that match their own hashes and do not make up the file's."""

    def edit(body: Record) -> None:
        chunks = [[0, 0, 2, digest(b"ev")], [0, 2, 3, digest(b"il\n")]]
        body["entries"][0] |= {"chunks": chunks, "hash": digest(b"evil?")}

    forge.publish([forge.page([file(b"exp/new")], edit=edit)])


def history_loop(forge: Forge) -> None:
    """Blocks that name one another, on the way to a snapshot that is in none of them."""
    ids = [f"{n:032x}" for n in range(256)]
    for number, previous in ((1, 2), (2, 1)):
        forge.put(
            f"history/{number}-{ids[-1]}.json",
            canonical({"ids": ids, "previous": f"history/{previous}-{ids[-1]}.json"}),
        )

    def edit(body: Record) -> None:
        body |= {"ancestors": [], "history": f"history/2-{ids[-1]}.json", "sequence": 600}
        body |= {"parent": ids[-1]}

    forge.publish([], edit=edit)


def foreign_gc_list(*keys: str) -> Callable[[Forge], object]:
    """A collection whose list names what no collection may delete."""

    def craft(forge: Forge) -> None:
        key = f"gc/1-{'c' * 32}.json.zst"
        forge.put(key, compress(canonical({"fence": 1, "keys": sorted(keys)})))
        forge.put("foreign/object", b"not ours")
        rows = [forge.page(forge.with_honest([]))]
        forge.publish(rows, edit=lambda body: body.update(fence=1, collections=[[1, key]]))

    return craft


def swapped_snapshot(forge: Forge) -> None:
    """The snapshot of the parent holds the head of another."""
    parent = forge.add(file(b"exp/old"))
    forge.add()
    key = f"snapshots/{parent['sequence']:010d}-{parent['snapshot']}.json.zst"
    forge.put(key, compress(canonical(forge.head())))


def sessions(count: int) -> Callable[[Record], object]:
    """An edit of a head: so many sessions."""

    def edit(body: Record) -> None:
        body["sessions"] = [f"0-{n:032x}" for n in range(count)]

    return edit


def pins(count: int) -> Callable[[Record], object]:
    """An edit of a head: so many pins."""
    return lambda body: body.update(pins=[[0, "a" * 32, "pin"]] * count)


def twice(text: bytes) -> Callable[[bytes], bytes]:
    """A change of JSON: a field that is there twice."""
    return lambda raw: raw.replace(b"{", b"{" + text + b",", 1)


def filler(size: int, item: bytes) -> Callable[[bytes], bytes]:
    """A change of JSON: an unknown field with so many bytes of the same item."""
    return lambda raw: raw[:-1] + b',"zzz":[' + b",".join([item] * (size // (len(item) + 1))) + b"]}"


DEEP = b"[" * 100_000 + b"]" * 100_000
RESERVED = {
    "git": b".git/hooks/x",
    "git-upper": b".GIT/config",
    "git-below": b"exp/.Git/hooks/post-merge",
    "git-file": b".git",
    "git-space": b".git /config",
    "git-dot": b".git./config",
    "git-ignorable": ".g\u200cit/config".encode(),
    "git-variation": ".gi\ufe0ft/config".encode(),
    "git-fullwidth": "\uff0egit/config".encode(),
    "state": b".manifest-sync/keep/canary",
    "state-upper": b".MANIFEST-SYNC/index.sqlite",
    "state-dots": b"exp/.manifest-sync.. /trash",
    "state-kelvin": ".manifest-\u017fync/x".encode(),
    "state-ligature": ".mani\ufb01est-sync/x".replace("\ufb01e", "\ufb01e").encode(),
    "state-ignorable": ".mani\u200dfest\u2060-sync/x".encode(),
}
ATTACKS = [
    refused_path("dot-dot", b"../outside/evil"),
    refused_path("dot-dot-deep", b"exp/../../../outside/secret"),
    refused_path("dot-dot-last", b"exp/.."),
    refused_path("dot", b"exp/./new"),
    refused_path("absolute", b"/tmp/evil"),
    refused_path("nul", b"exp/a\x00b"),
    refused_path("empty-component", b"exp//new"),
    refused_path("trailing-slash", b"exp/new/"),
    refused_path("4097-bytes", b"/".join([b"d" * 200] * 20) + b"/" + b"e" * 77),
    refused_path("256-byte-component", b"exp/" + b"n" * 256),
    *(refused_path(f"reserved-{name}", path) for name, path in RESERVED.items() if name != "state-ligature"),
    legal_path("backslash", b"exp\\..\\..\\evil"),
    legal_path("drive-letter", b"C:\\evil"),
    legal_path("stream", b"exp/new:stream"),
    legal_path("dash", b"-rf"),
    legal_path("newline", b"exp/a\n../b"),
    legal_path("not-utf8", b"exp/\xff\xfe"),
    legal_path("escape-sequence", b"exp/\x1b]0;evil\x07"),
    legal_path("case-twin", b"EXP/A.json"),
    legal_path("tilde", b"~/evil"),
    Attack(
        "path-nfc-and-nfd",
        lambda forge: forge.add(file("exp/\u00e9".encode()), file("exp/e\u0301".encode())),
        {0, 6},
        {"exp/\u00e9".encode(): EVIL, "exp/e\u0301".encode(): EVIL},
    ),
    blocked_path("below-a-symlink", b"link/evil"),
    Attack(
        "blocked-over-a-symlink",
        lambda forge: forge.add(file(b"linkfile")),
        {0, 6},  # --resolve both puts it beside the link
        {b"linkfile.conflict-evil-20260102T030405Z": EVIL},
    ),
    blocked_path("below-a-symlinked-file", b"linkfile/evil"),
    # With --delete-unknown what is in the way goes to the trash first, as it was asked for.
    legal_path("below-a-local-file", b"exp/local.json/evil", {0, 3, 6}),
    legal_path("over-a-local-folder", b"exp/deep", {0, 3, 6}),
    Attack("path-below-itself", lambda forge: forge.add(file(b"exp/new"), file(b"exp/new/below"))),
    Attack("path-below-a-synced-file", lambda forge: forge.add(file(b"plain/evil"))),
    Attack(
        "path-twice",
        lambda forge: forge.publish([forge.page([file(b"exp/new"), file(b"exp/new", b"other")])]),
    ),
    Attack("path-out-of-order", lambda forge: forge.publish([forge.page([file(b"b"), file(b"a")])])),
    Attack(
        "path-of-both-spellings",
        lambda forge: forge.add(file(b"exp/new", path_b64="/w==")),
    ),
    Attack(
        "path-as-needless-base64",
        lambda forge: forge.add(file(b"exp/new") | {"path": None, "path_b64": "ZXhwL25ldw=="}),
    ),
    two_pages("twice", [b"a", b"b"], [b"b", b"c"], {7}),
    two_pages("overlapping", [b"a", b"m"], [b"b", b"z"], {7}),
    two_pages("out-of-order", [b"m", b"n"], [b"a", b"b"], {7}),
    two_pages("one-below-the-other", [b"a", b"b"], [b"b/c", b"d"], {6}, b"a", b"d"),
    two_pages("one-below-another-far", [b"a", b"a-b"], [b"a/c", b"d"], {6}, b"a-b", b"d"),
    page("files-lie", row={2: 9}),
    page("bytes-lie", row={3: 9}),
    page("raw-length-lie", row={4: 9}),
    page("first-lies", row={6: "aaa"}),
    page("last-lies", row={7: "zzzz"}),
    page("session-out-of-range", row={1: 5}),
    page("id-of-another", row={0: "0" * 64}),
    page("id-as-path", row={0: "../../manifest.json"}),
    page("duplicate-key", raw=twice(b'"entries":[]')),
    page("white-space", raw=lambda raw: raw.replace(b",", b", ", 1)),
    page("bom", raw=lambda raw: b"\xef\xbb\xbf" + raw),
    page("not-utf8", raw=lambda raw: raw.replace(b"exp/new", b"exp/\xffew")),
    page("lone-surrogate", raw=lambda raw: raw.replace(b"exp/new", b"exp/\\ud800")),
    page("deep", raw=lambda raw: raw[:-1] + b',"zzz":' + DEEP + b"}"),
    page("floats", edit=put("frames", 1, 0.0)),
    page("negative-offset", edit=put("frames", 1, -1)),
    page("huge-integer", edit=put("frames", 1, 1 << 70)),
    page("offset-beyond-the-pack", edit=put("frames", 1, 1 << 40)),
    page("frame-raw-lie", edit=put("frames", 3, 16 << 20)),
    page("frame-too-large", edit=put("frames", 3, (16 << 20) + 1)),
    page("frame-stored-lie", edit=lambda body: body["frames"][0].__setitem__(2, 3)),
    page("pack-number-out-of-range", edit=put("frames", 0, 1)),
    page("pack-session-as-path", edit=put("packs", "session", "../../outside")),
    page("pack-id-as-path", edit=put("packs", "id", "../../../outside/secret")),
    page("pack-size-lie", edit=put("packs", "size", 10)),
    page(
        "external-pack",
        edit=lambda b: b["packs"].__setitem__(0, {"etag": "x", "size": 9999, "url": "file:///etc/passwd"}),
    ),
    *(
        page(
            f"external-{name}",
            edit=lambda b, url=url, etag=etag: b["packs"].__setitem__(
                0, {"etag": etag, "size": 9999, "url": url}
            ),
        )
        for name, url, etag in (
            ("device", "file:///dev/zero", '"x"'),
            ("climbing", "file:///../../etc/passwd", '"x"'),
            ("folder", "file:///etc", '"x"'),
            ("of-another-kind", "s3://bucket/key", '"x"'),
            ("on-another-host", "http://169.254.169.254/latest/meta-data", '"x"'),
            ("header", "file:///etc/passwd", "x\r\nX-Evil: 1"),
        )
    ),
    page("stored-truncated", stored=lambda raw: compress(raw)[:-3]),
    page("stored-trailing-bytes", stored=lambda raw: compress(raw) + b"x"),
    page("stored-two-frames", stored=lambda raw: compress(raw) + compress(b"")),
    page("stored-skippable-frame", stored=lambda raw: b"\x50\x2a\x4d\x18\x01\0\0\0x" + compress(raw)),
    page("stored-undeclared", stored=lambda _: bomb(1 << 20, declared=None)),
    page("bomb-undeclared", stored=lambda _: bomb(10 << 30, declared=None)),
    page("bomb-declared", stored=lambda _: bomb(10 << 30, declared=10 << 30)),
    page("bomb-declared-small", stored=lambda _: bomb(10 << 30, declared=4 << 20)),
    page("bomb-window", stored=lambda _: bomb(1 << 20, declared=1 << 20, window_log=31)),
    heavy("page-filler-objects", lambda f: f.add(file(b"new"), raw=filler(3 << 20, b'{"":0}')), {7}),
    heavy("page-filler", lambda f: f.add(file(b"new"), raw=filler(1 << 19, b"[]")), {0, 6}, new=EVIL),
    heavy(
        "page-filler-single-entry",
        lambda f: f.publish([f.page([file(b"new")], raw=filler(15 << 20, b"[]"))]),
        {7},
    ),
    Attack(
        "page-17-mib",
        lambda forge: forge.publish(
            [forge.page([file(b"exp/new")], raw=filler(17 << 20, b'"' + b"a" * 999 + b'"'))]
        ),
    ),
    heavy("pages-of-fillers", many_fillers, {0, 6}, **{f"f{n:02}": EVIL for n in range(16)}),
    entry("setuid", mode=0o4755),
    entry("sticky", mode=0o1777),
    entry("device-mode", mode=0o60644),
    entry("negative-mode", mode=-1),
    entry("type-unknown", type="device"),
    entry("size-lie", size=6),
    entry("size-negative", size=-5),
    entry("size-float", size=5.0),
    entry("chunk-length-lie", chunks=[[0, 0, 4]]),
    entry("chunk-beyond-the-frame", chunks=[[0, 1 << 20, 5]]),
    entry("chunk-empty", chunks=[[0, 0, 0]]),
    entry("chunk-negative", chunks=[[0, 5, -5]]),
    entry("chunk-frame-out-of-range", chunks=[[7, 0, 5]]),
    entry("chunk-text", chunks=[["0", 0, 5]]),
    entry("hash-not-hex", hash="z" * 64),
    entry("hash-of-another", hash=digest(b"another")),
    entry("target-of-a-file", target="/etc/passwd"),
    entry("writer-out-of-range", by=3),
    entry("mtime-year-1", mtime_ns=-62_135_596_800 * 10**9),
    *(
        Attack(
            f"entry-mtime-{name}",
            lambda forge, ns=ns: forge.add(file(b"exp/new", mtime_ns=ns)),  # type: ignore[misc]
            {0, 3, 6},
            {b"exp/new": EVIL},
        )
        for name, ns in (("latest", 2**63 - 1), ("earliest", -(2**63)), ("zero", 0), ("minus-one", -1))
    ),
    Attack("pack-flipped", lambda f: f.add(file(b"exp/new"), packed=lambda b: b.replace(b"evil", b"EVIL"))),
    Attack("pack-truncated", lambda f: f.add(file(b"exp/new"), packed=lambda b: b[:3])),
    Attack("pack-of-another", other_pack),
    Attack("pack-chunks-not-the-file", multi_chunk),
    Attack("frame-bomb-declared", frame_bomb(bomb(10 << 30, declared=10 << 30), 16 << 20)),
    Attack("frame-bomb-undeclared", frame_bomb(bomb(10 << 30, declared=None), 16 << 20)),
    Attack("frame-bomb-exact", frame_bomb(bomb(10 << 30, declared=16 << 20), 16 << 20)),
    Attack("frame-bomb-window", frame_bomb(bomb(1 << 20, declared=1 << 20, window_log=31), 1 << 20)),
    heavy("many-frames", many_frames, {7}),
    heavy("overlapping-chunks", overlapping_chunks, {7}),
    heavy("terabytes", big_claim, {8}),
    heavy("most-chunks", most_chunks, {0, 6}, new=bytes(5 * 100_000)),
    head("wrong-repository", lambda h: h.update(repository=OTHER), lands=True),
    head("rollback", lambda h: h.update(ancestors=["a" * 32], parent="a" * 32), lands=True),
    head("rollback-to-the-first", lambda h: h.update(ancestors=[], parent=None, sequence=0), lands=True),
    head("feature-read", lambda h: h.update(features_read=["time-travel"])),
    head("feature-write", lambda h: h.update(features_write=["time-travel"]), {0, 6}),
    head("format-2", lambda h: h.update(format=2)),
    head("format-0", lambda h: h.update(format=0)),
    head("hash-unknown", lambda h: h.update(hash="md5")),
    head("totals-lie", lambda h: h["totals"].update(bytes=1 << 50)),
    head("sequence-negative", lambda h: h.update(sequence=-1)),
    head("sequence-huge", lambda h: h.update(sequence=1 << 80)),
    raw_head("sequence-float", lambda raw: raw.replace(b'"sequence":2', b'"sequence":2.5')),
    head("sequence-too-large", lambda h: h.update(sequence=10**15 + 1)),
    head("fence-too-large", lambda h: h.update(fence=2**63 - 1)),
    head("sequence-last", lambda h: h.update(sequence=10**15), {0, 6}),
    head("fence-last", lambda h: h.update(fence=10**15), {0, 6}),
    head("stored-last", lambda h: h["totals"].update(stored=1 << 62), {0, 6}),
    head("stored-too-large", lambda h: h["totals"].update(stored=2**63 - 1)),
    head("snapshot-as-path", lambda h: h.update(snapshot="../../../outside/secret")),
    head("history-as-path", lambda h: h.update(history="../outside/secret")),
    head("collection-as-path", lambda h: h.update(fence=1, collections=[[1, "../outside/secret"]])),
    heavy(
        "head-100000-sessions",
        lambda f: f.publish([f.page(f.with_honest([]))], edit=sessions(100_000)),
        {7},
    ),
    heavy("head-100000-pins", lambda f: f.publish([], edit=pins(100_000)), {0, 6, 7}),
    head("terabytes", lambda h: (h["pages"][0].__setitem__(3, 1 << 60), h["totals"].update(bytes=1 << 60))),
    head("chunking-zero", lambda h: h.update(chunking=dict.fromkeys(h["chunking"], 0))),
    head("host-with-escapes", lambda h: h.update(host="\x1b[2J\x07" * 100, message="\x1b]0;x\x07"), {0, 6}),
    head("time-is-none", lambda h: h.update(time="\x00yesterday"), {0, 6}),
    raw_head("duplicate-key", twice(b'"format":1')),
    raw_head("bom", lambda raw: b"\xef\xbb\xbf" + raw),
    raw_head("not-utf8", lambda raw: raw.replace(b'"message":"', b'"message":"\xff')),
    raw_head("deep", lambda raw: raw[:-1] + b',"zzz":' + DEEP + b"}"),
    raw_head("65-mib", lambda raw: raw + b" " * (65 << 20), is_heavy=True),
    raw_head("9-mib", lambda raw: raw + b" " * (9 << 20), is_heavy=True),
    raw_head("spaces", lambda raw: raw + b" " * ((8 << 20) - len(raw)), {0, 6}, is_heavy=True),
    raw_head("filler", filler(7 << 20, b"[]"), is_heavy=True),
    raw_head("filler-that-passes", filler(1 << 20, b"[]"), {0, 6}, is_heavy=True),
    raw_head("filler-numbers", filler(7 << 20, b"7777"), {0, 6}, is_heavy=True),
    raw_head("filler-objects", filler(7 << 20, b'{"":0}'), is_heavy=True),
    raw_head("filler-objects-that-pass", filler(1 << 20, b'{"":0}'), {0, 6}, is_heavy=True),
    raw_head("filler-texts", filler(7 << 20, b'""'), is_heavy=True),
    raw_head(
        "filler-escapes",
        lambda raw: raw[:-1] + b',"zzz":"' + b'\\"' * (3 << 20) + b'"}',
        {0, 6},
        is_heavy=True,
    ),
    raw_head(
        "filler-in-a-text",
        lambda raw: raw[:-1] + b',"zzz":"' + b"{[,:" * (1 << 20) + b'"}',
        {0, 6},
        is_heavy=True,
    ),
    raw_head(
        "long-string",
        lambda raw: raw[:-1] + b',"zzz":"\\ud83d\\ude00' + b"a" * (7 << 20) + b'"}',
        {0, 6},
        is_heavy=True,
    ),
    heavy("head-full-of-pages", full_head, {7}),
    raw_head("null", lambda _: b"null"),
    raw_head("empty", lambda _: b""),
    raw_head("nan", lambda raw: raw.replace(b'"fence":0', b'"fence":NaN')),
    raw_head("exponent", lambda raw: raw.replace(b'"fence":0', b'"fence":0e9')),
    Attack("history-loop", history_loop),
    Attack(
        "history-missing",
        lambda f: f.publish(
            [], edit=lambda h: h.update(ancestors=[], parent="a" * 32, history=f"history/3-{'b' * 32}.json")
        ),
    ),
    Attack("snapshot-of-another", swapped_snapshot, {0, 6}),
    *(
        Attack(f"gc-list-{name}", foreign_gc_list(key), {0, 6})
        for name, key in (
            ("dot-dot", "../outside/secret"),
            ("head", "manifest.json"),
            ("foreign", "foreign/object"),
            ("history", f"history/0-{'a' * 32}.json"),
            ("pack-dot-dot", f"packs/{SESSION}/../../manifest.json"),
        )
    ),
    Attack(
        "symlink-outside",
        lambda forge: forge.add(link(b"exp/escape", b"../../../outside/folder")),
        {0, 6},
        {b"exp/escape": b"../../../outside/folder"},
        "keep",
    ),
    Attack(
        "symlink-not-kept",
        lambda f: f.add(link(b"exp/escape", b"../../../outside/folder")),
        {3, 6},
        {b"exp/escape": b"../../../outside/folder"},
    ),
    Attack(
        "host-as-path",
        lambda f: f.add(file(b"exp/local.json"), edit=put_writer("../../../../outside/evil", "../../T")),
        {0, 6},
        {b"exp/local.json": EVIL, b"exp/local.conflict--outside-evil-T.json": EVIL},
    ),
    Attack(
        "symlink-and-below", lambda f: f.add(link(b"e", b"../../outside"), file(b"e/evil")), symlinks="keep"
    ),
    Attack(
        "symlink-and-below-in-another-page",
        lambda f: f.publish([f.page([link(b"e", b"../../outside")]), f.page([file(b"e/evil")])]),
        {6},
        symlinks="keep",
    ),
    Attack(
        "symlink-over-a-file",
        lambda f: f.add(link(b"plain", b"../../outside/secret")),
        {0, 6},
        {b"plain": b"../../outside/secret"},
        "keep",
    ),
    Attack("symlink-hash-lie", lambda f: f.add(link(b"e", b"x", hash=digest(b"y"))), symlinks="keep"),
    Attack("symlink-nul", lambda f: f.add(link(b"e", b"a\0b")), symlinks="keep"),
    Attack("symlink-empty", lambda f: f.add(link(b"e", b"")), symlinks="keep"),
    Attack("symlink-too-long", lambda f: f.add(link(b"e", b"x" * 4097)), symlinks="keep"),
    Attack(
        "followed-link-replaced", lambda f: f.add(file(b"linkfile")), {0, 3, 6}, {b"linkfile": EVIL}, "follow"
    ),
    Attack("below-a-followed-link", lambda f: f.add(file(b"link/evil")), {3, 6}, {}, "follow"),
]


@pytest.fixture(scope="module")
def confined() -> Iterator[Confined]:
    made = Confined()
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("hostile") / "template")


@pytest.mark.soak
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_hostile_bucket(
    attack: Attack, template: World, confined: Confined, tmp_path: FsPath, soak: Soak
) -> None:
    world = template.copy(tmp_path / "world")
    world.configure(attack.symlinks)
    assail(
        world,
        confined,
        attack.craft,
        attack.codes,
        attack.lands,
        scratch=tmp_path,
        # One of them each in the quick half, all of them in the long one.
        chains=CHAINS if soak.factor else [CHAINS[ATTACKS.index(attack) % len(CHAINS)]],
        is_heavy=attack.is_heavy,
    )
