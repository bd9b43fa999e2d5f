"""Writes buckets by hand: every object is made here from JSON and bytes, not by the code under test.

What is not attacked stays right (ids are the hashes of what they name, totals are sums, the head descends
from the one before), so that a reader that stops has noticed the attack and nothing else.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FsPath
from typing import Any

import zstandard
from blake3 import blake3

Record = dict[str, Any]
Row = list[Any]
Bytes = Callable[[bytes], bytes]

SESSION = "0-" + "e" * 32
WRITER = {"host": "evil", "machine": "6f1b1c4e-5a0f-4a58-9d3e-3f7f3a2b1c00", "time": "2026-01-02T03:04:05Z"}
MAX_BLOCK = 128 << 10


def digest(data: bytes) -> str:
    """BLAKE3 in hexadecimal."""
    return blake3(data).hexdigest()


def canonical(value: object) -> bytes:
    """What docs/format.md calls canonical JSON; also of values that are not allowed in it."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def compress(data: bytes) -> bytes:
    """One zstd frame that declares its size."""
    return zstandard.ZstdCompressor(level=3).compress(data)


def bomb(size: int, *, declared: int | None, window_log: int = 17) -> bytes:
    """A zstd frame of ``size`` zero bytes in four bytes for each 128 KiB, whatever it declares."""
    descriptor = 0xC0 if declared is not None else 0x00
    head = struct.pack("<IBB", 0xFD2FB528, descriptor, (window_log - 10) << 3)
    head += b"" if declared is None else struct.pack("<Q", declared)
    full, rest = divmod(size, MAX_BLOCK)
    sizes = [MAX_BLOCK] * full + ([rest] if rest else [])
    run_length = 1
    blocks = [struct.pack("<I", length << 3 | run_length << 1)[:3] + b"\x00" for length in sizes[:-1]]
    return head + b"".join(blocks) + struct.pack("<I", sizes[-1] << 3 | run_length << 1 | 1)[:3] + b"\x00"


def path_fields(path: bytes) -> Record:
    """``path``, or ``path_b64`` where it is not UTF-8."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path_b64": base64.b64encode(path).decode()}


def file(path: bytes, content: bytes = b"evil\n", **fields: Any) -> Record:
    """The record of a file; `Forge.page` places ``content``. A field of None is left out."""
    record = {"by": 0, "hash": digest(content), "mode": 0o644, "mtime_ns": 1_700_000_000_000_000_000}
    return record | path_fields(path) | {"size": len(content), "_content": content, "_path": path} | fields


def link(path: bytes, target: bytes, **fields: Any) -> Record:
    """The record of a symlink."""
    record = file(path, b"") | {"type": "symlink", "size": len(target), "hash": digest(target)}
    return record | {"target": target.decode()} | fields


def pack(frames: Sequence[bytes], chunks: Sequence[tuple[bytes, int, int, int]] = ()) -> bytes:
    """A pack of raw frames; ``chunks`` (id, frame, offset, length) default to one a frame."""
    listed = chunks or [(blake3(f).digest(), number, 0, len(f)) for number, f in enumerate(frames)]
    body, table = b"", b""
    for frame in frames:
        table += struct.pack(">QII", len(body), len(frame), len(frame))
        body += frame
    table += b"".join(struct.pack(">32sIII", *chunk) for chunk in listed)
    footer = struct.pack(">IIQ", len(frames), len(listed), len(body)) + blake3(table).digest()
    return body + table + footer + struct.pack(">H6s", 1, b"MSPACK")


class Forge:
    """One bucket, a folder, whose head descends from the honest one that was there.

    Args:
        bucket: the folder.
        honest: the files that the honest head holds; `publish` keeps them.
    """

    def __init__(self, bucket: FsPath, honest: dict[bytes, bytes]) -> None:
        self.bucket = bucket
        self.honest = honest
        self.count = 0

    def put(self, key: str, body: bytes) -> None:
        """Write one object."""
        target = self.bucket / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)

    def head(self) -> Record:
        """The head that is there, to be changed and published as its own successor."""
        found: Record = json.loads((self.bucket / "manifest.json").read_bytes())
        return found

    def with_honest(self, records: Iterable[Record]) -> list[Record]:
        """``records`` and those of the honest files that they do not replace, in path order."""
        mine = list(records)
        taken = {record["_path"] for record in mine}
        others = [file(path, content) for path, content in self.honest.items() if path not in taken]
        return sorted([*mine, *others], key=lambda record: record["_path"])

    def page(
        self,
        records: Sequence[Record],
        *,
        edit: Callable[[Record], object] | None = None,
        raw: Bytes | None = None,
        stored: Bytes | None = None,
        packed: Bytes | None = None,
        row: dict[int, Any] | None = None,
    ) -> Row:
        """Write a page and its pack; the head's row for it.

        Args:
            edit: changes the page before it gets its id.
            raw: changes its JSON before it gets its id.
            stored: makes the stored bytes of the JSON (default: zstd).
            packed: changes the pack's bytes after it got its id.
            row: fields of the row, by number, to be replaced.
        """
        content = b"".join(record["_content"] for record in records)
        body: Record = {"entries": [], "frames": [], "packs": [], "writers": [dict(WRITER)]}
        if content:
            bytes_ = pack([content], [])
            id_ = digest(bytes_)
            self.put(f"packs/{SESSION}/{id_}.pack", packed(bytes_) if packed else bytes_)
            body["packs"].append({"id": id_, "session": SESSION, "size": len(bytes_)})
            body["frames"].append([0, 0, len(content), len(content)])
        offset = 0
        for record in records:
            length = len(record["_content"])
            entry = {} if not length else {"chunks": [[0, offset, length]]}
            entry |= {k: v for k, v in record.items() if not k.startswith("_")}
            body["entries"].append({k: v for k, v in entry.items() if v is not None})
            offset += length
        if edit:
            edit(body)
        plain = canonical(body)
        plain = raw(plain) if raw else plain
        id_ = digest(plain)
        kept = stored(plain) if stored else compress(plain)
        self.put(f"pages/{SESSION}/{id_}.json.zst", kept)
        size = sum(e["size"] for e in body["entries"] if type(e.get("size")) is int and e["size"] > 0)
        ends = [self._row_path(records[n]["_path"]) for n in (0, -1)]
        made: Row = [id_, 0, len(body["entries"]), size, len(plain), len(kept), *ends]
        for number, value in (row or {}).items():
            made[number] = value
        return made

    @staticmethod
    def _row_path(path: bytes) -> str | dict[str, str]:
        fields = path_fields(path)
        return fields["path"] if "path" in fields else {"b64": fields["path_b64"]}

    def publish(
        self,
        rows: Sequence[Row],
        *,
        edit: Callable[[Record], object] | None = None,
        raw: Bytes | None = None,
    ) -> Record:
        """Write the head with these pages as the successor of the one that is there, and its snapshot."""
        self.count += 1
        before = self.head()
        head = before | {
            "ancestors": [*before["ancestors"], before["snapshot"]],
            "pages": list(rows),
            "parent": before["snapshot"],
            "sequence": before["sequence"] + 1,
            "sessions": [SESSION] if rows else [],
            "snapshot": f"{self.count:x}".rjust(32, "e"),
            "totals": {"bytes": sum(r[3] for r in rows), "files": sum(r[2] for r in rows), "stored": 0},
        }
        if edit:
            edit(head)
        # Anybody can work out a checksum, or leave it out: an attack must not be stopped by that alone.
        if head.pop("checksum", None) and not raw:
            head["checksum"] = digest(canonical(head))
        body = canonical(head)
        body = raw(body) if raw else body
        self.put("manifest.json", body)
        self.put(f"snapshots/{head['sequence']:010d}-{head['snapshot']}.json.zst", compress(body))
        return head

    def add(self, *records: Record, **options: Any) -> Record:
        """Publish the honest files and ``records`` in one page; ``options`` as for `page`."""
        return self.publish([self.page(self.with_honest(records), **options)])
