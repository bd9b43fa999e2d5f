"""A bucket looked at from outside: JSON, zstd and BLAKE3, and nothing of the code under test.

`examine` follows everything that the head reaches and says what is missing or wrong (P1), what the files
hold, and which objects no snapshot needs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3

Get = Callable[[str], bytes | None]


@dataclass
class Found:
    """What `examine` found."""

    reachable: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    files: dict[bytes, bytes] = field(default_factory=dict)
    """Contents of the head's files, as far as they can be read; symlink targets too."""
    chain: list[str] = field(default_factory=list)
    """Ids of the head and all its ancestors, newest first, also of those whose snapshots were collected."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """The manifests of the chain that are still there, newest first."""


def folder(path: Path) -> Get:
    """Reads objects of a directory bucket."""

    def get(key: str) -> bytes | None:
        file = path / key
        return file.read_bytes() if file.is_file() else None

    return get


def keys(path: Path) -> set[str]:
    """Every key of a directory bucket."""
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() and ".store" not in p.parts}


def garbage(path: Path) -> set[str]:
    """The snapshots, pages and packs of a directory bucket that nothing reaches."""
    listed = {key for key in keys(path) if key.startswith(("snapshots/", "pages/", "packs/"))}
    return listed - examine(folder(path)).reachable


def examine(get: Get, *, contents: bool = True) -> Found:
    """Follow everything from the head.

    Args:
        get: the bytes under a key, or None.
        contents: read the files of the head too.
    """
    found = Found()
    body = get("manifest.json")
    if body is None:
        found.problems.append("there is no manifest.json")
        return found
    head = parse_json(body)
    manifests = [head]
    copy = _need(get, snapshot_key(head["sequence"], head["snapshot"]), found)
    if copy is not None and unzip(copy) != body:
        found.problems.append("the snapshot of the head is not a copy of it")
    current = head
    while current["parent"] is not None and current["sequence"] > head["oldest"]:
        older = _snapshot(get, current["sequence"] - 1, current["parent"], found)
        if older is None:
            break
        manifests.append(older)
        current = older
    found.kept = list(manifests)
    for sequence, snapshot, _ in head["pins"]:
        pinned = _snapshot(get, sequence, snapshot, found)
        if pinned is not None:
            manifests.append(pinned)
    found.chain = [head["snapshot"], *_ancestors(get, head, found)]
    for manifest in manifests:
        for id_, session, files, *_ in manifest["pages"]:
            key = f"pages/{manifest['sessions'][session]}/{id_}.json.zst"
            if key in found.reachable and manifest is not head:
                continue
            page = _page(get, key, id_, found)
            if page is None:
                continue
            if len(page["entries"]) != files:
                found.problems.append(f"{key} has another number of files than the head says")
            bodies = [_pack(get, pack, found) for pack in page["packs"]]
            if manifest is head and contents:
                _read_files(page, bodies, found)
    return found


def head_files(get: Get) -> dict[bytes, bytes]:
    """The contents of the head's files; fails when anything reachable is missing or wrong."""
    found = examine(get)
    assert found.problems == []
    return found.files


def _need(get: Get, key: str, found: Found) -> bytes | None:
    found.reachable.add(key)
    body = get(key)
    if body is None:
        found.problems.append(f"{key} is missing")
    return body


def _snapshot(get: Get, sequence: int, id_: str, found: Found) -> dict[str, Any] | None:
    body = _need(get, snapshot_key(sequence, id_), found)
    if body is None:
        return None
    manifest = parse_json(unzip(body))
    if (manifest["sequence"], manifest["snapshot"]) != (sequence, id_):
        found.problems.append(f"snapshot {sequence} is another one")
    return manifest


def _ancestors(get: Get, head: dict[str, Any], found: Found) -> Iterable[str]:
    yield from reversed(head["ancestors"])
    key = head["history"]
    while key:
        body = get(key)
        if body is None:
            found.problems.append(f"{key} is missing")
            return
        block = parse_json(body)
        yield from reversed(block["ids"])
        key = block["previous"]


def _page(get: Get, key: str, id_: str, found: Found) -> dict[str, Any] | None:
    body = _need(get, key, found)
    if body is None:
        return None
    raw = unzip(body)
    if digest(raw) != id_:
        found.problems.append(f"{key} has another hash")
        return None
    return parse_json(raw)


def _pack(get: Get, pack: dict[str, Any], found: Found) -> bytes | None:
    key = f"packs/{pack['session']}/{pack['id']}.pack"
    if key in found.reachable:
        return get(key)
    body = _need(get, key, found)
    if body is not None and (len(body) != pack["size"] or digest(body) != pack["id"]):
        found.problems.append(f"{key} has another size or hash")
        return None
    return body


def _read_files(page: dict[str, Any], packs: list[bytes | None], found: Found) -> None:
    for entry in page["entries"]:
        path = entry["path"].encode() if "path" in entry else base64.b64decode(entry["path_b64"])
        if entry.get("type") == "symlink":
            found.files[path] = entry["target"].encode()
            continue
        content = b""
        for number, offset, length, *_ in entry.get("chunks", ()):
            pack, start, stored, plain = page["frames"][number]
            body = packs[pack]
            if body is not None:
                content += _frame(body[start : start + stored], plain)[offset : offset + length]
        if digest(content) != entry["hash"]:
            found.problems.append(f"{path!r} does not have its hash")
        found.files[path] = content


def snapshot_key(sequence: int, id_: str) -> str:
    return f"snapshots/{sequence:010d}-{id_}.json.zst"


@lru_cache(4096)
def parse_json(raw: bytes) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(raw)
    return parsed


@lru_cache(4096)
def unzip(body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(body)


@lru_cache(4096)
def digest(raw: bytes) -> str:
    return blake3(raw).hexdigest()


@lru_cache(256)
def _frame(stored: bytes, plain: int) -> bytes:
    return stored if len(stored) == plain else zstandard.ZstdDecompressor().decompress(stored)
