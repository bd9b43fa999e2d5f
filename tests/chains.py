"""Chains of snapshots, made without files: what the tests of history look back on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from manifest_sync.canonical import compress, hash_bytes
from manifest_sync.manifest import Manifest, Pin, encode_manifest, first_manifest, gc_key, snapshot_key
from manifest_sync.model import Entry, EntryType, Path, Writer
from manifest_sync.repository import Commit, Head, Repository
from manifest_sync.snapshots import Snapshots
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.times import rfc3339

START = datetime(2026, 11, 1, tzinfo=UTC)


class NoCache:
    """A page cache that holds nothing: every page opened is a request."""

    def load_page_body(self, page_id: str) -> bytes | None:
        return None

    def save_page_bodies(self, pages: object) -> None:
        pass


def entry(path: str, time: int = 0, *, executable: bool = False) -> Entry:
    """An empty file; another ``time`` is no other content, another ``executable`` is a change."""
    writer = Writer("m", "gpu", rfc3339(START))
    mode = 0o755 if executable else 0o644
    return Entry(Path(path.encode()), EntryType.FILE, 0, time, mode, hash_bytes(b""), writer, ())


class Chain:
    """A repository in memory; each `publish` is an hour after the one before unless told otherwise."""

    def __init__(self, start: datetime = START) -> None:
        self.store = MemoryStore("chain")
        self.repository = Repository(self.store, NoCache(), jobs=4)
        self._ids = (f"{hash_bytes(b'id %d' % number).hex()[:32]}" for number in itertools.count())
        self.manifests: list[Manifest] = []
        first = first_manifest(
            repository="r", snapshot=next(self._ids), time=rfc3339(start), machine="m", host="gpu", writer="0"
        )
        head = self.repository.create(first)
        assert head is not None
        self.head: Head = head
        self.manifests.append(first)
        self._clock = start

    def publish(
        self,
        *paths: str,
        entries: Iterable[Entry] = (),
        without: Iterable[str] = (),
        time: datetime | None = None,
        id_: str = "",
        message: str = "",
        host: str = "gpu",
        revise: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    ) -> Manifest:
        """Publish new files at ``paths``, the ``entries``, and the deletion of ``without``."""
        self._clock = time or self._clock + timedelta(hours=1)
        changes: dict[bytes, Entry | None] = {e.path: e for e in (*map(entry, paths), *entries)}
        changes.update({path.encode(): None for path in without})
        commit = Commit(
            id_ or next(self._ids), f"0-{'0' * 32}", rfc3339(self._clock), "m", host, message, "0"
        )
        ordered = [(Path(path), changes[path]) for path in sorted(changes)]
        outcome = self.repository.publish(self.head, ordered, commit, revise=revise)
        assert isinstance(outcome, Head)
        self.head = outcome
        self.manifests.append(outcome.manifest)
        return outcome.manifest

    def extend(self, count: int) -> None:
        """So many snapshots more."""
        for _ in range(count):
            self.publish()

    def collect(self, oldest: int) -> Manifest:
        """What ``gc`` does to the chain: the fence and ``oldest`` are raised, and snapshots below go."""

        def revise(manifest: Manifest) -> Manifest:
            fence = manifest.fence + 1
            return replace(
                manifest, fence=fence, oldest=oldest, collections=((fence, gc_key(fence, "0" * 32)),)
            )

        made = self.publish(revise=revise)
        pinned = {pin.snapshot for pin in made.pins}
        for manifest in self.manifests:
            if manifest.sequence < oldest and manifest.snapshot not in pinned:
                self.lose(manifest)
        return made

    def pin(self, manifest: Manifest, name: str) -> None:
        """Pin a snapshot, which is a publish too."""
        pin = Pin(manifest.sequence, manifest.snapshot, name)
        self.publish(revise=lambda made: replace(made, pins=(*made.pins, pin)))

    def recover(self, gap: int, time: datetime | None = None) -> Manifest:
        """A head restored from the snapshots: its sequence is far above its parent's."""
        return self.publish(time=time, revise=lambda made: replace(made, sequence=made.sequence + gap))

    def adopt(self, manifest: Manifest) -> None:
        """A snapshot of some other chain lies here too."""
        key = snapshot_key(manifest.sequence, manifest.snapshot)
        self.store.put(key, compress(encode_manifest(manifest)))

    def lose(self, manifest: Manifest) -> None:
        """The object of a snapshot is not there any more."""
        self.store.delete(snapshot_key(manifest.sequence, manifest.snapshot))

    def damage(self, manifest: Manifest) -> None:
        """The object of a snapshot is something else."""
        self.store.put(snapshot_key(manifest.sequence, manifest.snapshot), b"not a snapshot")

    def snapshots(self) -> Snapshots:
        return Snapshots(self.repository, self.head)
