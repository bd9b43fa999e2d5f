"""Collection: free what no retained snapshot reaches.

trace → list → candidates (a dry run stops here) → write the gc list → swap the head → delete what it names.

Safe beside pushes of any speed, whatever the clocks say: a push that uses anything uploaded before the swap
reads the list before it publishes, and the swap fails if anything was published since the trace began. See
docs/gc.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from typing import Any

from manifest_sync import manifest as fmt
from manifest_sync import observe
from manifest_sync.errors import Damaged, StoreUnavailable
from manifest_sync.gc.repack import repack
from manifest_sync.gc.retention import Member, Retention
from manifest_sync.gc.trace import Reachable, Tracer
from manifest_sync.manifest import Manifest
from manifest_sync.races import until_published
from manifest_sync.repository import Head, Raced
from manifest_sync.stores.base import Listed
from manifest_sync.times import rfc3339
from manifest_sync.workspace import Workspace

DEFAULT_MIN_AGE = timedelta(hours=24)
KINDS = ("snapshots", "pages", "packs")
"""What is collected, in the order in which it is deleted."""
_DELETE_BATCH = 1000
_AGAIN = "run it again: nothing was deleted, and what it uploaded is kept"


@dataclass(frozen=True, slots=True)
class GcOptions:
    """One collection, as asked for.

    Args:
        min_age: what was written less long ago stays: it spares running pushes from sending it again.
        apply: do it; else only say what would be done.
        repack: write packs anew that are mostly dead.
        max_list: most bytes of the list's JSON.
    """

    retention: Retention = field(default_factory=Retention)
    min_age: timedelta = DEFAULT_MIN_AGE
    apply: bool = False
    repack: bool = True
    max_list: int = fmt.MAX_GC_LIST


@dataclass(slots=True)
class GcReport:
    """What a collection freed, or would free; ``to_json`` gives the object that ``--json`` prints."""

    dry_run: bool
    kept: tuple[Member, ...] = ()
    dropped: tuple[Member, ...] = ()
    pins: int = 0
    freed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Objects and bytes by kind."""
    young: int = 0
    """Unreachable objects that are younger than the minimum age."""
    repacked: int = 0
    """Packs written anew, or to be."""
    repacked_dead: int = 0
    """Bytes in them that nothing uses; freed once no retained snapshot names the packs."""
    repacked_live: int = 0
    """Bytes that had to be written again."""
    more: bool = False
    """Not all fitted into one list: another run is needed."""
    requests: dict[str, int] = field(default_factory=dict)
    snapshot: str = ""
    sequence: int = 0
    seconds: float = 0.0

    @property
    def objects(self) -> int:
        """Objects freed, of all kinds."""
        return sum(count for count, _ in self.freed.values())

    @property
    def bytes(self) -> int:
        """Bytes freed, of all kinds."""
        return sum(size for _, size in self.freed.values())

    def to_json(self) -> dict[str, Any]:
        """The fields of ``gc --json``."""
        return {
            "command": "gc",
            "dry_run": self.dry_run,
            "kept_snapshots": len(self.kept),
            "pins": self.pins,
            "oldest_kept": self.kept[-1].sequence if self.kept else None,
            "dropped_snapshots": [_member_json(member) for member in self.dropped],
            "objects": self.objects,
            "bytes": self.bytes,
            "freed": {kind: {"objects": n, "bytes": size} for kind, (n, size) in self.freed.items()},
            "young": self.young,
            "repack": {"packs": self.repacked, "dead": self.repacked_dead, "live": self.repacked_live},
            "more": self.more,
            "requests": self.requests,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
        }


def _member_json(member: Member) -> dict[str, Any]:
    time = None if member.time is None else rfc3339(member.time)
    return {"sequence": member.sequence, "snapshot": member.snapshot, "time": time}


def gc(ws: Workspace, options: GcOptions) -> GcReport:
    """Free what no retained snapshot reaches.

    Raises:
        Damaged: something that must be kept is missing or unreadable; nothing was deleted.
        Contended: other machines published first, too often.
    """
    report = GcReport(dry_run=not options.apply)
    collection = _Collection(ws, options, report)
    head = observe.load_head(ws)
    if options.repack:
        head = until_published(ws, head, collection.repack, _AGAIN)
    head = until_published(ws, head, collection.collect, _AGAIN)
    report.pins = len(head.manifest.pins)
    if not report.snapshot:
        report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    return report


class _Collection:
    def __init__(self, ws: Workspace, options: GcOptions, report: GcReport) -> None:
        self._ws = ws
        self._options = options
        self._report = report
        self._tracer = Tracer(ws.repository, jobs=ws.jobs)

    def repack(self, head: Head) -> Head | Raced:
        """Write packs of ``head`` anew that are mostly dead."""
        self._trace(head)
        victims = self._tracer.wasteful(head)
        report = self._report
        report.repacked, report.repacked_dead = len(victims), sum(victim.dead for victim in victims)
        report.repacked_live = sum(victim.live for victim in victims)
        if not victims or not self._options.apply:
            return head
        done = repack(self._ws, head, self._tracer, victims)
        report.repacked_live = done.stored_bytes
        return done.outcome

    def collect(self, head: Head) -> Head | Raced:
        """Delete what is not reachable from ``head``; the head that says so."""
        reachable = self._trace(head)
        doomed = self._candidates(reachable)
        self._describe(reachable, doomed)
        if not doomed or not self._options.apply:
            return head
        outcome = self._publish(head, reachable, [item.key for item in doomed])
        if isinstance(outcome, Head):
            self._delete(doomed)
        return outcome

    def _trace(self, head: Head) -> Reachable:
        return self._tracer.trace(head, self._options.retention, self._ws.now())

    def _candidates(self, reachable: Reachable) -> list[Listed]:
        """What may be deleted, in the order of `KINDS`, as far as it fits into one list."""
        self._report.young = 0
        doomed = []
        missing = dict(reachable.keys)
        for kind in KINDS:
            for item in self._ws.repository.store.list(f"{kind}/"):
                if item.key in reachable.keys:
                    self._check_size(item, missing.pop(item.key, None))
                elif fmt.is_collectable(item.key):
                    if self._is_old(item):
                        doomed.append(item)
                    else:
                        self._report.young += 1
        if missing:
            raise Damaged(
                f"{len(missing)} objects that must be kept are missing from "
                f"{self._ws.repository.store.location}, {min(missing)} for one; nothing was deleted",
                "`manifest-sync verify` names the files that are affected and what repairs them",
            )
        return list(self._fitting(doomed))

    def _check_size(self, item: Listed, size: int | None) -> None:
        if size is not None and item.size != size:
            raise Damaged(
                f"{item.key} at {self._ws.repository.store.location} has {item.size} bytes instead of "
                f"{size}; nothing was deleted",
                "`manifest-sync verify` names the files that are affected and what repairs them",
            )

    def _is_old(self, item: Listed) -> bool:
        age = self._options.min_age
        # With no minimum the clocks do not matter: the store's may be ahead of ours.
        return not age or item.modified <= (self._ws.now() - age).timestamp()

    def _fitting(self, doomed: list[Listed]) -> Iterator[Listed]:
        left = self._options.max_list - 64
        self._report.more = False
        for item in doomed:
            left -= len(item.key) + 3
            if left < 0:
                self._report.more = True
                return
            yield item

    def _describe(self, reachable: Reachable, doomed: list[Listed]) -> None:
        report = self._report
        report.kept = reachable.kept
        # Without anything to delete nothing is published, and the chain stays as it is.
        report.dropped = reachable.dropped if doomed else ()
        report.freed = {}
        for kind in KINDS:
            sizes = [item.size for item in doomed if item.key.startswith(f"{kind}/")]
            report.freed[kind] = len(sizes), sum(sizes)

    def _publish(self, head: Head, reachable: Reachable, keys: list[str]) -> Head | Raced:
        """Write the list, and swap the head for one that names it: from then on no push uses the objects."""
        ws = self._ws
        fence = head.manifest.fence + 1
        list_key = fmt.gc_key(fence, ws.new_id())
        ws.repository.store.put(list_key, fmt.encode_gc_list(fence, keys))

        def revise(manifest: Manifest) -> Manifest:
            return replace(
                manifest,
                fence=fence,
                collections=(*manifest.collections, (fence, list_key))[-fmt.MAX_COLLECTIONS :],
                oldest=max(manifest.oldest, reachable.kept[-1].sequence),
                stored_bytes=reachable.stored_bytes,
            )

        commit = ws.commit(ws.new_session(fence), f"gc: {len(keys)} objects")
        outcome = ws.repository.publish(head, (), commit, revise=revise)
        if isinstance(outcome, Raced):
            # No head names this list, and none will: it must not be taken for that of a collection.
            with contextlib.suppress(StoreUnavailable):
                ws.repository.store.delete(list_key)
        else:
            observe.save_head(ws, outcome)
            # After a lost answer the head may be another machine's by now, which came upon ours.
            self._report.snapshot, self._report.sequence = commit.snapshot, head.manifest.sequence + 1
        return outcome

    def _delete(self, doomed: list[Listed]) -> None:
        """Snapshots first, then what only they led to."""
        store = self._ws.repository.store
        with ThreadPoolExecutor(self._ws.jobs, thread_name_prefix="delete") as pool:
            for kind in KINDS:
                keys = (item.key for item in doomed if item.key.startswith(f"{kind}/"))
                while batch := list(islice(keys, _DELETE_BATCH)):
                    for _ in pool.map(store.delete, batch):
                        pass
