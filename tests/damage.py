"""A bucket in a folder, what can go wrong with its objects, and whom that really hurts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as FsPath
from random import Random

from manifest_sync import manifest as fmt
from manifest_sync.canonical import decompress, hash_bytes
from manifest_sync.errors import FormatError, ManifestSyncError
from manifest_sync.fetch import MissingContent, fetch
from manifest_sync.initialize import NoCache
from manifest_sync.manifest import Manifest
from manifest_sync.model import Entry
from manifest_sync.pages import is_boundary, parse_page
from manifest_sync.repository import Commit, Head, Repository
from manifest_sync.stores.base import Store
from manifest_sync.stores.directory import DirectoryStore
from tests.machines import Machine, copy_machines

HARMS = ("missing", "truncated", "flipped", "other")
SHELVES = ("snapshots/", "pages/", "packs/", "history/", "gc/", "manifest.json")


def boundary_names(prefix: str) -> Iterator[str]:
    """Names after which a page ends, if it may be so short (see the fixture ``short_pages``)."""
    names = (f"{prefix}{number:05}.json" for number in range(100_000))
    return (name for name in names if is_boundary(name.encode(), 1))


def _flips(body: bytes, dice: Random) -> Iterator[bytes]:
    """The body with one bit flipped, again and again another one."""
    while True:
        position = dice.randrange(len(body))
        yield body[:position] + bytes([body[position] ^ 1 << dice.randrange(8)]) + body[position + 1 :]


def _says_the_same(key: str, harmed: bytes, body: bytes) -> bool:
    """Whether an object that is not called by the hash of its bytes lost nothing: some bits of a zstd frame
    can be flipped without a change of what it decodes to."""
    if not key.startswith(("snapshots/", "gc/")):
        return False
    try:
        return decompress(harmed, fmt.MAX_HEAD) == decompress(body, fmt.MAX_HEAD)
    except FormatError:
        return False


class Bucket:
    """The objects of a store, whichever, by key; what it does to them is seen by everyone."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def at(cls, folder: FsPath) -> Bucket:
        return cls(DirectoryStore(str(folder)))

    def keys(self, *prefixes: str) -> list[str]:
        return sorted(item.key for prefix in prefixes or SHELVES for item in self.store.list(prefix))

    def body(self, key: str) -> bytes:
        found = self.store.get(key, max_bytes=1 << 30)
        assert found is not None
        return found.body

    def listing(self) -> dict[str, str]:
        """Every key and the hash of its bytes."""
        return {key: hash_bytes(self.body(key)).hex() for key in self.keys()}

    def harm(self, key: str, how: str, dice: Random) -> None:
        """Make one object what it should not be."""
        body = self.body(key)
        if how == "missing":
            self.store.delete(key)
            return
        if how == "truncated":
            harmed = body[: dice.randrange(len(body))]
        elif how == "flipped":
            harmed = next(flipped for flipped in _flips(body, dice) if not _says_the_same(key, flipped, body))
        else:
            shelf = key.partition("/")[0]
            others = [other for other in self.keys() if self.body(other) != body]
            alike = [other for other in others if other.startswith(f"{shelf}/")]
            harmed = self.body(dice.choice(alike or others))
        self.store.put(key, harmed)

    def head(self) -> Head:
        return self.repository().load_head()

    def repository(self) -> Repository:
        return Repository(self.store, NoCache(), jobs=2)

    def publish(self, revise: Callable[[Manifest], Manifest] = lambda m: m, times: int = 1) -> None:
        """New heads with the same pages."""
        for _ in range(times):
            head = self.head()
            commit = Commit(
                snapshot=os.urandom(16).hex(),
                session=fmt.new_session(head.manifest.fence, os.urandom(16)),
                time="2026-11-20T12:00:00Z",
                machine="6f1b1c4e-5a0f-4a58-9d3e-3f7f3a2b1c00",
                host="elsewhere",
                message="",
                writer="0.1.0",
            )
            assert isinstance(self.repository().publish(head, [], commit, lambda _: None, revise), Head)

    def collect(self, *keys: str, oldest: int | None = None) -> None:
        """What a collection does: a list, a head with a higher fence, and the deletions."""
        fence = self.head().manifest.fence + 1
        key = fmt.gc_key(fence, os.urandom(16).hex())
        self.store.put(key, fmt.encode_gc_list(fence, keys))
        self.publish(
            lambda m: replace(
                m,
                fence=fence,
                collections=(*m.collections, (fence, key)),
                oldest=m.oldest if oldest is None else oldest,
            )
        )
        for gone in keys:
            self.store.delete(gone)

    def manifests(self) -> Iterator[Manifest]:
        """The head and what is kept, from the objects themselves."""
        manifest = self.head().manifest
        oldest = manifest.oldest
        yield manifest
        while manifest.parent and manifest.sequence > oldest:
            key = fmt.snapshot_key(manifest.sequence - 1, manifest.parent)
            manifest = fmt.parse_manifest(decompress(self.body(key), 1 << 30))
            yield manifest

    def content(self) -> dict[tuple[int, bytes], tuple[str, Entry]]:
        """Sequence and path of everything kept: the key of its page, and its entry."""
        found = {}
        for manifest in self.manifests():
            for ref in manifest.pages:
                key = fmt.page_key(ref.session, ref.id)
                for entry in parse_page(decompress(self.body(key), 1 << 30), ref.id):
                    found[manifest.sequence, bytes(entry.path)] = (key, entry)
        return found

    def entry(self, path: bytes) -> Entry:
        """What the head has at a path."""
        return self.content()[self.head().manifest.sequence, path][1]

    def pack_of(self, path: bytes) -> str:
        """The key of the pack that a file begins in."""
        pack = self.entry(path).chunks[0].frame.pack
        return fmt.pack_key(pack.session, pack.id)

    def hurt(self, content: dict[tuple[int, bytes], tuple[str, Entry]]) -> set[tuple[int, bytes]]:
        """Which of ``content`` cannot be fetched now: the truth that a report is compared with."""
        outcomes: dict[Entry, bool] = {}
        for _, entry in content.values():
            if entry not in outcomes:
                try:
                    for _ in fetch(self.store, [entry], jobs=1):
                        pass
                    outcomes[entry] = False
                except (MissingContent, ManifestSyncError):
                    outcomes[entry] = True
        return {place for place, (_, entry) in content.items() if outcomes[entry]}


def clone(machine: Machine, folder: FsPath, bucket: FsPath) -> Machine:
    """A copy of a machine, with its index, that works with the bucket at ``bucket``."""
    copy_machines(machine.folder, folder)
    copy = Machine.__new__(Machine)
    copy.__dict__.update(machine.__dict__)
    copy.folder, copy.bucket, copy.root = folder, str(bucket), folder / "experiments"
    config = folder / "manifest-sync.toml"
    config.write_text(config.read_text().replace(machine.bucket, str(bucket)))
    return copy
