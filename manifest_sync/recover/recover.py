"""Writing a head anew from the snapshots, after `manifest.json` was lost or damaged.

is it really → who can have been the head → one, or ask → is all of it there → publish above all there is

The new head is a child of the snapshot that is restored. So machines which had seen that one go on without
noticing, and machines which had seen a later one are told (P18). Its fence has no collection list: pushes
that were under way take everything they sent for gone, and send it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from manifest_sync import manifest as fmt
from manifest_sync import observe
from manifest_sync.errors import (
    Contended,
    Damaged,
    FormatError,
    NoRepository,
    Refused,
    StoreUnavailable,
    UnknownFeature,
    UsageError,
    WrongRepository,
)
from manifest_sync.manifest import Manifest
from manifest_sync.recover.lineage import SEQUENCE_GAP, Lineage, load_lineage
from manifest_sync.recover.whole import Loss, Shelf
from manifest_sync.repository import Head, parse_head
from manifest_sync.snapshots import Snapshots
from manifest_sync.stores.base import NotFound, Object
from manifest_sync.workspace import Workspace

MOST_ALTERNATIVES = 3
_LOOKED_AT = 12


@dataclass(slots=True)
class HeadRestore:
    """What `restore_head` did, or what it needs to be told.

    Without ``head`` nothing was written: then ``candidates`` are the snapshots to choose from, or ``losses``
    say what of ``restored`` is gone, and ``alternatives`` are older snapshots that are whole.
    """

    state: str
    """What is wrong with the head: ``lost`` or ``damaged``."""
    restored: Manifest | None = None
    head: Manifest | None = None
    candidates: list[Manifest] = field(default_factory=list)
    doubtful: list[tuple[int, str]] = field(default_factory=list)
    """Sequence and id of unreadable snapshots that may have been the head."""
    losses: list[Loss] = field(default_factory=list)
    alternatives: list[Manifest] = field(default_factory=list)
    is_last: bool = False
    """Whether ``restored`` can have been the head last."""
    goes_back: bool = False
    """This machine had seen a later head than the one restored."""

    @property
    def exit_code(self) -> int:
        """As in docs/cli.md: 0 when the head was written."""
        if self.head is not None:
            return 0
        return Damaged.exit_code if self.losses else Refused.exit_code

    def to_json(self) -> dict[str, Any]:
        """The fields of ``doctor --restore-head --json``."""
        return {
            "command": "doctor",
            "state": self.state,
            "restored": _manifest_json(self.restored),
            "head": _manifest_json(self.head),
            "candidates": [_manifest_json(manifest) for manifest in self.candidates],
            "doubtful": [{"sequence": sequence, "snapshot": id_} for sequence, id_ in self.doubtful],
            "losses": [loss.to_json() for loss in self.losses],
            "alternatives": [_manifest_json(manifest) for manifest in self.alternatives],
            "is_last": self.is_last,
            "goes_back": self.goes_back,
        }


def _manifest_json(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    return {
        "sequence": manifest.sequence,
        "snapshot": manifest.snapshot,
        "time": manifest.time,
        "host": manifest.host,
        "message": manifest.message,
        "files": manifest.files,
        "bytes": manifest.bytes,
    }


def restore_head(ws: Workspace, choice: str = "", *, accept_missing: bool = False) -> HeadRestore:
    """Write a head anew, if it is lost or damaged.

    Args:
        choice: the snapshot to restore: a sequence number, a prefix of an id, or a time. Empty: the one that
            was the head last, if that is certain.
        accept_missing: restore it although objects of it are gone, or may be deleted at any moment.

    Raises:
        Refused: the head is fine.
        NoRepository: there is no snapshot either.
        UsageError: ``choice`` names no snapshot, or several.
        WrongRepository: what is there belongs to another repository than this folder.
        Contended: another machine wrote a head first.
    """
    damaged = _find_damage(ws)
    known = _known(ws)
    lineage = load_lineage(ws.repository, known)
    if not lineage.sequences:
        raise NoRepository(
            f"there is neither a head nor a snapshot at {ws.repository.store.location}",
            "check the bucket in manifest-sync.toml; `manifest-sync init` makes a repository",
        )
    _check_ours(ws, [leaf for leaf in lineage.leaves if leaf.parent])
    report = HeadRestore("lost" if damaged is None else "damaged", doubtful=lineage.doubtful())
    candidates = _candidates(lineage, known)
    chosen = _chosen(ws, lineage, candidates, choice) if choice else _certain(candidates, known, report)
    if chosen is None:
        report.candidates = candidates
        return report
    _check_ours(ws, [chosen])
    if not chosen.can_write:
        raise UnknownFeature(
            f"snapshot {chosen.snapshot[:12]} was written by a newer version ({chosen.writer}); restoring it "
            "from here would lose what that added",
            "upgrade manifest-sync",
        )
    report.restored, report.is_last = chosen, chosen in candidates
    shelf = Shelf(ws.repository, lineage, candidates)
    report.losses = shelf.losses(chosen)
    if report.losses and not accept_missing:
        report.alternatives = _alternatives(ws, lineage, shelf, chosen)
        return report
    report.head = _publish(ws, lineage, shelf, chosen, damaged).manifest
    report.goes_back = known is not None and not ws.repository.is_ancestor(
        known.snapshot, Head(report.head, "", b"")
    )
    return report


def _find_damage(ws: Workspace) -> Object | None:
    """The damaged head, or None when there is none. Read twice: a byte that flips on its way is no damage."""
    store = ws.repository.store

    def read() -> Object | None:
        try:
            return store.get(fmt.HEAD_KEY, max_bytes=fmt.MAX_HEAD)
        except NotFound:
            return None

    found = [read(), read()]
    for object_ in found:
        try:
            if object_ is None:
                continue
            parse_head(object_)
        except UnknownFeature:
            raise
        except FormatError:
            continue
        raise Refused(
            f"the head at {store.location} is fine; nothing was done",
            "`manifest-sync restore` and `pull --at` bring older content back; `log` lists the snapshots",
        )
    one, other = found
    if (one and (one.body, one.etag)) != (other and (other.body, other.etag)):
        raise StoreUnavailable(
            f"{store.location}: {fmt.HEAD_KEY} was not the same when it was read twice; nothing was done",
            "wait until nothing else writes there, and try again",
        )
    return other


def _known(ws: Workspace) -> Manifest | None:
    """The head that this machine saw last, from its index."""
    try:
        cached = observe.cached_head(ws)
    except Damaged:
        return None
    return None if cached is None else cached.manifest


def _candidates(lineage: Lineage, known: Manifest | None) -> list[Manifest]:
    found = lineage.candidates()
    if known is not None:
        found = [leaf for leaf in found if leaf.repository == known.repository]
        seen = [leaf for leaf in lineage.leaves if leaf.snapshot == known.snapshot and leaf not in found]
        # It was the head once, although others say it lost its race: someone has put an old head back by
        # hand. Then only a person knows.
        found += seen
    return found


def _certain(candidates: list[Manifest], known: Manifest | None, report: HeadRestore) -> Manifest | None:
    """The one that was the head last, if that is certain.

    Of several children of one parent one at most was ever the head: the swap names the parent. So if this
    machine has seen one of them, it was that one.
    """
    if report.doubtful:
        return None
    if len(candidates) == 1:
        return candidates[0]
    if known is None or len({leaf.parent for leaf in candidates}) != 1:
        return None
    return next((leaf for leaf in candidates if leaf.snapshot == known.snapshot), None)


def _chosen(ws: Workspace, lineage: Lineage, candidates: list[Manifest], choice: str) -> Manifest:
    text, choice = choice.strip(), choice.strip().lower()
    pairs = [(sequence, id_) for id_, sequence in lineage.sequences.items()]
    matching = [pair for pair in pairs if choice == str(pair[0])]
    if not matching and len(choice) >= 4:
        matching = [pair for pair in pairs if pair[1].startswith(choice)]
    if len(matching) > 1:
        shown = ", ".join(f"{id_[:12]} (sequence {sequence})" for sequence, id_ in sorted(matching)[:5])
        raise UsageError(f"{choice!r} may mean several snapshots: {shown}", "name it by its id")
    if matching:
        return _load(ws, lineage, *matching[0])
    if len(candidates) != 1:
        raise UsageError(
            f"{choice!r} names no snapshot that is kept", "name it by its sequence number or its id"
        )
    return Snapshots(ws.repository, Head(candidates[0], "", b"")).find(text, ws.now().astimezone())


def _load(ws: Workspace, lineage: Lineage, sequence: int, id_: str) -> Manifest:
    for leaf in lineage.leaves:
        if leaf.snapshot == id_:
            return leaf
    found = ws.repository.load_snapshot(sequence, id_)
    if found is None:
        raise Damaged(
            f"snapshot {id_[:12]} (sequence {sequence}) is missing from {ws.repository.store.location}",
            "choose another one",
        )
    return found


def _check_ours(ws: Workspace, found: list[Manifest]) -> None:
    """Two machines that ran `init` at once leave two first snapshots; all others are of one repository."""
    known = ws.index.get_meta("repository")
    for manifest in found:
        if known and manifest.repository != known:
            raise WrongRepository(
                f"snapshot {manifest.snapshot[:12]} at {ws.repository.store.location} belongs to repository "
                f"{manifest.repository}, but this folder worked with {known}; nothing was done",
                "check the bucket in manifest-sync.toml",
            )


def _alternatives(ws: Workspace, lineage: Lineage, shelf: Shelf, chosen: Manifest) -> list[Manifest]:
    """The newest snapshots before ``chosen`` of which everything is there."""
    found: list[Manifest] = []
    kept = (id_ for id_ in lineage.iter_ancestors(chosen.snapshot) if id_ in lineage.sequences)
    for _, id_ in zip(range(_LOOKED_AT), kept, strict=False):
        try:
            manifest = _load(ws, lineage, lineage.sequences[id_], id_)
        except Damaged:
            continue
        if not shelf.losses(manifest):
            found.append(manifest)
        if len(found) == MOST_ALTERNATIVES:
            break
    return found


def _publish(ws: Workspace, lineage: Lineage, shelf: Shelf, chosen: Manifest, damaged: Object | None) -> Head:
    repository = ws.repository
    fence = 1 + max(shelf.fence, chosen.fence, *(leaf.fence for leaf in lineage.leaves))
    if chosen.snapshot not in shelf.snapshots:
        # Only this machine had kept it; the new head's parent must be there.
        repository.put_snapshot(chosen, fmt.encode_manifest(chosen))
    collections = {number: key for number, key in shelf.lists.items() if number < fence}
    collections.update(dict(chosen.collections))

    def above(manifest: Manifest) -> Manifest:
        return replace(
            manifest,
            sequence=max(lineage.sequences.values()) + SEQUENCE_GAP,
            fence=fence,
            collections=tuple(sorted(collections.items()))[-fmt.MAX_COLLECTIONS :],
            oldest=max(manifest.oldest, _oldest(lineage, shelf, chosen)),
            pins=tuple(pin for pin in manifest.pins if pin.snapshot not in shelf.collected),
        )

    commit = ws.commit(
        ws.new_session(fence),
        f"head restored from snapshot {chosen.snapshot[:12]} (sequence {chosen.sequence})",
    )
    head = repository.restore(chosen, commit, above, damaged.etag if damaged else None)
    if head is None:
        raise Contended(
            f"another machine wrote a head at {repository.store.location} first",
            "look at it with `manifest-sync log`",
        )
    return head


def _oldest(lineage: Lineage, shelf: Shelf, chosen: Manifest) -> int:
    """The lowest sequence down to which the chain is kept: below it a collection has been at work."""
    lowest = chosen.sequence
    for id_ in lineage.iter_ancestors(chosen.snapshot):
        if id_ in shelf.collected:
            return lowest
        lowest = lineage.sequences.get(id_, lowest)
    return chosen.oldest
