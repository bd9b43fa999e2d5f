"""Repair: write again, from this machine's content and caches, what is missing or damaged in the bucket.

examine → the objects, each under its own key → what else the head needs, in new packs → examine again.

Writing a key again is an exception to the rule that every key is written once. It is safe for what the head
reaches through its retained snapshots and pins: a collection deletes only what they do not reach, and no push
refers to what a gc list names. Should a collection let go of the object at this very moment, the object comes
to lie there unreachable, and the next collection takes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from manifest_sync import manifest as fmt
from manifest_sync import observe
from manifest_sync.errors import Damaged, FormatError, RolledBack
from manifest_sync.manifest import Manifest
from manifest_sync.model import Path, json_path
from manifest_sync.races import until_published
from manifest_sync.repair.droplost import Dropped, LostDropper
from manifest_sync.repair.relocate import HurtChunks, Relocated, movable, relocate
from manifest_sync.repair.remake import ObjectMaker
from manifest_sync.repository import Head
from manifest_sync.stores.base import NotFound
from manifest_sync.upload import note_lost_packs
from manifest_sync.verify.damage import Damage, Kind
from manifest_sync.verify.verify import Examined, examine
from manifest_sync.workspace import Workspace

_AGAIN = "run it again: what was written is kept"


@dataclass(frozen=True, slots=True)
class RepairOptions:
    """One repair, as asked for.

    Args:
        read_data: look for damage by reading every byte.
        dry_run: only say what would be done.
        message: recorded with the snapshot, if one is published.
        drop_lost: let go of pages of the head that cannot be had from here either; see `droplost`.
    """

    read_data: bool = False
    dry_run: bool = False
    message: str = ""
    drop_lost: bool = False


@dataclass(slots=True)
class RepairReport:
    """The outcome of a ``push --repair``; ``to_json`` gives the object that ``--json`` prints."""

    dry_run: bool = False
    read_data: bool = False
    found: int = 0
    """Damaged objects before the repair."""
    repaired: list[tuple[str, str]] = field(default_factory=list)
    """Key of each object that was put right, and how."""
    tried: list[tuple[str, str]] = field(default_factory=list)
    """Key of each object that could not be made here as it was, and why."""
    moved: list[Path] = field(default_factory=list)
    """Files of the head whose content was sent anew."""
    left: list[Damage] = field(default_factory=list)
    """What is still damaged."""
    unchecked: list[tuple[str, str]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    """Pages that the head was made to let go of."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    """With ``drop_lost``: files that could not be sent."""
    bytes: int = 0
    """Stored bytes written."""
    requests: dict[str, int] = field(default_factory=dict)
    snapshot: str = ""
    sequence: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """7 when the current state is still hurt, 3 when something else is, else 0."""
        if any(damage.head for damage in self.left):
            return 7
        return 3 if self.left or self.unchecked or self.skipped else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``push --repair --json``."""
        return {
            "command": "push",
            "mode": "repair",
            "dry_run": self.dry_run,
            "read_data": self.read_data,
            "found": self.found,
            "repaired": [{"key": key, "how": how} for key, how in self.repaired],
            "tried": [{"key": key, "reason": reason} for key, reason in self.tried],
            "moved": [json_path(path) for path in self.moved],
            "left": [damage.to_json() for damage in self.left],
            "unchecked": [{"key": key, "reason": reason} for key, reason in self.unchecked],
            "dropped": [dropped.to_json() for dropped in self.dropped],
            "skipped": [{"path": json_path(path), "reason": reason} for path, reason in self.skipped],
            "head_hurt": any(damage.head for damage in self.left),
            "stored_bytes": self.bytes,
            "requests": self.requests,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
        }


def repair(ws: Workspace, options: RepairOptions) -> RepairReport:
    """Put right what can be put right from here.

    Raises:
        Damaged: the head itself is lost, or may not be followed by this machine.
        Contended: other machines published first, too often.
        StoreUnavailable, AccessDenied: the store failed; what was written until then is whole.
    """
    return _Repair(ws, options).run()


class _Repair:
    def __init__(self, ws: Workspace, options: RepairOptions) -> None:
        self._ws = ws
        self._options = options
        self._report = RepairReport(options.dry_run, options.read_data)
        # Before a newer head takes its place: it may be the one copy of a snapshot that is lost.
        self._seen = observe.cached_head(ws)

    def run(self) -> RepairReport:
        """Find, repair, and look again: behind what was lost more may be found."""
        options, report = self._options, self._report
        found = examine(self._ws, read_data=options.read_data)
        if found.stands_in:
            raise Damaged(
                f"{fmt.HEAD_KEY} at {self._ws.repository.store.location} is lost or damaged",
                found.report.damaged[0].repair,
            )
        seen: set[str] = set()
        while fresh := [damage for damage in found.report.damaged if damage.key not in seen]:
            seen.update(damage.key for damage in fresh)
            hurt = self._write_objects(found, fresh)
            if options.dry_run:
                report.moved = movable(self._ws, found.head, hurt)
                break
            self._publish(found, hurt)
            led_on = any(damage.kind in (Kind.SNAPSHOT, Kind.HISTORY) for damage in fresh)
            found = examine(self._ws, read_data=options.read_data and led_on, suspects=frozenset(seen))
        lost = [d.key for d in found.report.damaged if d.kind is Kind.PAGE and d.head and d.between]
        if options.drop_lost and lost and not options.dry_run and self._drop(lost):
            found = examine(self._ws, read_data=False, suspects=frozenset(seen))
        report.found = len(seen)
        self._conclude(found)
        return report

    def _drop(self, keys: Collection[str]) -> bool:
        """Let go of lost pages of the head; whether there were any still."""
        ws, report = self._ws, self._report
        dropper = LostDropper(ws, keys, self._options.message)
        until_published(ws, observe.load_head(ws), dropper.attempt, _AGAIN)
        report.dropped, report.skipped = dropper.dropped, sorted(dropper.observed.skipped.items())
        report.bytes += dropper.stored_bytes
        return bool(dropper.dropped)

    def _conclude(self, found: Examined) -> None:
        report = self._report
        done = {key for key, _ in report.repaired} if report.dry_run else set()
        report.left = [damage for damage in found.report.damaged if damage.key not in done]
        left = {damage.key for damage in report.left}
        report.repaired = [pair for pair in report.repaired if pair[0] not in left]
        report.unchecked = found.report.unchecked
        if not report.dry_run:
            note_lost_packs(self._ws, left)
        report.snapshot, report.sequence = found.report.snapshot, found.report.sequence

    def _write_objects(self, found: Examined, damaged: Sequence[Damage]) -> HurtChunks:
        """Each damaged object under its own key, as far as it can be made here just as it was.

        Returns:
            What the head needs of those that cannot.
        """
        # By now a collection may have let go of some of it.
        named = self._load_collected(self._ws.repository.load_head(found.head))
        maker = ObjectMaker(self._ws, found, self._seen, named)
        for kind in (Kind.SNAPSHOT, Kind.HISTORY, Kind.PAGE, Kind.PACK, Kind.EXTERNAL):
            for damage in damaged:
                if damage.kind is kind:
                    self._write(damage, maker)
        return maker.hurt

    def _write(self, damage: Damage, maker: ObjectMaker) -> None:
        made = maker.make(damage)
        if isinstance(made, str):
            self._report.tried.append((damage.key, made))
            return
        if not self._options.dry_run:
            self._ws.repository.store.put(damage.key, made)
        self._report.bytes += len(made)
        self._report.repaired.append((damage.key, "written again as it was"))

    def _load_collected(self, head: Head) -> frozenset[str]:
        """Keys that a collection may delete at any moment.

        A list that cannot be read is passed over: no list names what the head reaches, unless a head was
        restored to before a collection, and then the worst is that the object is deleted once more.
        """
        lists = (self._load_list(key, fence) for fence, key in head.manifest.collections)
        return frozenset(key for keys in lists for key in keys)

    def _load_list(self, key: str, fence: int) -> tuple[str, ...]:
        try:
            found = self._ws.repository.store.get(key, max_bytes=fmt.MAX_GC_LIST)
            assert found is not None
            return fmt.parse_gc_list(found.body, fence)
        except (NotFound, FormatError):
            return ()

    def _publish(self, found: Examined, hurt: HurtChunks) -> None:
        """What else the head needs, in new places; and gc lists that cannot be read are let go of."""
        ws, report = self._ws, self._report
        unread = {damage.key for damage in found.report.damaged if damage.kind is Kind.COLLECTION}
        if not hurt and not unread:
            return
        if any(damage.kind is Kind.HEAD for damage in found.report.damaged):
            report.tried.append((fmt.HEAD_KEY, "nothing is published upon a head that is damaged itself"))
            return

        def revise(manifest: Manifest) -> Manifest:
            # Whoever misses a list takes all that it may have named as gone: that is as without reading it.
            kept = tuple(pair for pair in manifest.collections if pair[1] not in unread)
            return replace(manifest, collections=kept)

        done = Relocated()
        try:
            head = until_published(
                ws,
                observe.load_head(ws),
                lambda head: relocate(ws, head, hurt, self._options.message, revise, done),
                _AGAIN,
            )
        except RolledBack:
            raise
        except Damaged as error:
            report.tried.append((fmt.HEAD_KEY, error.message))
            return
        report.moved += done.paths
        report.bytes += done.stored_bytes
        named = {key for _, key in head.manifest.collections}
        report.repaired += [(key, "taken out of the head") for key in sorted(unread - named)]
