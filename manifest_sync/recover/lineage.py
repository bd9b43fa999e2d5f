"""Who descends from whom, found out from the snapshots alone: for when there is no head to start from.

Here a listing is all there is to go by. What makes it safe: a push reads the head, writes its snapshot copy
with that head as parent, and then swaps. So a snapshot that has a child was once the head, and the heads form
one chain; the lost head is the end of that chain or a child of it that has no child itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from manifest_sync.errors import Damaged, FormatError, UnknownFeature
from manifest_sync.manifest import Manifest
from manifest_sync.repository import Repository
from manifest_sync.snapshots import list_snapshots

SEQUENCE_GAP = 2
"""How far above every snapshot a restored head is numbered. A push that was under way may still write its
copy, numbered one above; so the gap tells a restored head, and that it was made after all below it."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The snapshots there are.

    ``sequences`` has every one of them by id, ``parents`` what is known of who descends from whom, also of
    snapshots that are kept no more. ``leaves`` have no child; ``unreadable`` are listed and damaged.
    """

    sequences: Mapping[str, int]
    parents: Mapping[str, str]
    leaves: tuple[Manifest, ...]
    unreadable: tuple[tuple[int, str], ...]

    def former_heads(self) -> set[str]:
        """Ids of the snapshots that have a child."""
        return set(self.parents.values())

    def iter_ancestors(self, snapshot: str) -> Iterator[str]:
        """Ids from the parent of ``snapshot`` down, as far as they are known."""
        parent = self.parents.get(snapshot)
        while parent:
            yield parent
            parent = self.parents.get(parent)

    def candidates(self) -> list[Manifest]:
        """The leaves that can have been the head last, highest sequence first.

        A leaf whose parent has another child that has children itself has lost its race: that other child
        was the head after the parent. A restored head was made in the knowledge of all below its sequence,
        so that only itself and what descends from it can have come after.
        """
        former = self.former_heads()
        ends = former - {self.parents[id_] for id_ in former if id_ in self.parents}
        found = [
            leaf
            for leaf in self.leaves
            if leaf.parent in ends or (not leaf.parent and not former) or self._is_restored(leaf.snapshot)
        ]
        restored = [id_ for id_ in self.sequences if self._is_restored(id_)]
        if restored:
            # Of two that were restored at the same time, the one that has a child is the one that was head.
            latest = max((self.sequences[id_], id_ in former) for id_ in restored)
            roots = {id_ for id_ in restored if (self.sequences[id_], id_ in former) == latest}
            found = [
                leaf
                for leaf in found
                if roots.intersection((leaf.snapshot, *self.iter_ancestors(leaf.snapshot)))
            ]
        return sorted(found, key=lambda leaf: (-leaf.sequence, leaf.snapshot))

    def lost_races(self) -> list[Manifest]:
        """The leaves that were certainly never the head: their parent had another child that was."""
        former = self.former_heads()
        passed = {self.parents[id_] for id_ in former if id_ in self.parents}
        return [
            leaf for leaf in self.leaves if leaf.parent in passed and not self._is_restored(leaf.snapshot)
        ]

    def doubtful(self) -> list[tuple[int, str]]:
        """Unreadable snapshots that may have been the head last, or a child of it."""
        newest = max((self.sequences.get(id_, 0) for id_ in self.former_heads()), default=-1)
        return [(sequence, id_) for sequence, id_ in self.unreadable if sequence > newest]

    def _is_restored(self, snapshot: str) -> bool:
        above = self.sequences.get(snapshot)
        below = self.sequences.get(self.parents.get(snapshot, ""))
        return above is not None and below is not None and above >= below + SEQUENCE_GAP


def load_lineage(repository: Repository, known: Manifest | None = None) -> Lineage:
    """Read the snapshots that are needed to know: those without a child, which name all others.

    Args:
        known: a snapshot that this machine has kept: the bucket may have lost its copy.

    Raises:
        UnknownFeature: a snapshot was written by a newer version.
    """
    listed = list_snapshots(repository)
    sequences = {id_: sequence for sequence, id_ in listed}
    parents: dict[str, str] = {}
    former: set[str] = set()
    leaves: list[Manifest] = []
    unreadable: list[tuple[int, str]] = []
    if known is not None:
        sequences.setdefault(known.snapshot, known.sequence)
    for id_ in sorted(sequences, key=lambda id_: -sequences[id_]):
        if id_ in former:
            continue
        manifest = known if known is not None and known.snapshot == id_ else None
        if manifest is None:
            try:
                manifest = repository.load_snapshot(sequences[id_], id_)
            except UnknownFeature:
                raise
            except Damaged:
                manifest = None
        if manifest is None:
            unreadable.append((sequences[id_], id_))
            continue
        leaves.append(manifest)
        child = id_
        for parent in _ancestors(repository, manifest):
            parents[child] = parent
            if parent in former:
                break
            former.add(parent)
            child = parent
    # One that was read before its child was known is no leaf.
    return Lineage(
        sequences,
        parents,
        tuple(leaf for leaf in leaves if leaf.snapshot not in former),
        tuple(pair for pair in unreadable if pair[1] not in former),
    )


def _ancestors(repository: Repository, manifest: Manifest) -> Iterator[str]:
    """As far as the history can be read."""
    try:
        yield from repository.iter_ancestors(manifest)
    except (Damaged, FormatError):
        return
