"""Repacking: the live content of packs that are mostly dead is written anew, as an ordinary publish.

Only the head's entries can be given new places; the old packs go once no retained snapshot names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs

from manifest_sync import observe
from manifest_sync.fetch import MissingContent, fetch
from manifest_sync.gc.retention import REPACK_MESSAGE
from manifest_sync.gc.trace import Tracer, Wasteful
from manifest_sync.merge import Change
from manifest_sync.model import ChunkRef, Entry, Hash, PackRef
from manifest_sync.mover import Mover
from manifest_sync.repository import Head, Raced
from manifest_sync.workspace import Workspace

BATCH_CHUNKS = 20_000
BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Repacked:
    """What was written anew."""

    outcome: Head | Raced
    stored_bytes: int


def repack(ws: Workspace, head: Head, tracer: Tracer, victims: Sequence[Wasteful]) -> Repacked:
    """Publish the head's entries with what they have in ``victims`` moved to new packs.

    Args:
        tracer: has traced ``head``.

    Raises:
        Damaged: a pack does not hold what the head says.
    """
    repacker = _Repacker(ws, head, tracer, frozenset(victim.pack for victim in victims))
    mover = repacker.mover
    try:
        repacker.move()
    except MissingContent as missing:
        raise missing.as_damage(ws.repository.store.location) from None
    finally:
        mover.close()
    commit = ws.commit(mover.session, REPACK_MESSAGE, mover.stored_bytes)
    outcome = ws.repository.publish(head, repacker.iter_changes(), commit)
    if isinstance(outcome, Head):
        # The index needs no more: no entry's state has changed, and whoever plans next reads the pages.
        observe.save_head(ws, outcome)
    return Repacked(outcome, mover.stored_bytes)


class _Repacker:
    def __init__(self, ws: Workspace, head: Head, tracer: Tracer, victims: frozenset[PackRef]) -> None:
        self._ws = ws
        self._victims = victims
        self._pages = [
            page for page in head.manifest.pages if not victims.isdisjoint(tracer.packs_of([page]))
        ]
        self.mover = Mover(ws, head, victims)

    def move(self) -> None:
        """Upload what the head uses of the victims, as far as it was not uploaded before."""
        wanted: dict[Hash, tuple[Entry, ChunkRef]] = {}
        size = 0
        for _, entries in self._ws.repository.load_pages(self._pages):
            for entry in entries:
                for chunk in self._misplaced(entry):
                    if chunk.id not in wanted and self.mover.place(chunk.id) is None:
                        wanted[chunk.id] = (entry, chunk)
                        size += chunk.length
            if len(wanted) >= BATCH_CHUNKS or size >= BATCH_BYTES:
                self._copy(wanted)
                wanted, size = {}, 0
        self._copy(wanted)
        self.mover.finish()

    def iter_changes(self) -> Iterator[Change]:
        """The entries that have moved, in path order."""
        for _, entries in self._ws.repository.load_pages(self._pages):
            for entry in entries:
                if any(True for _ in self._misplaced(entry)):
                    yield entry.path, structs.replace(entry, chunks=tuple(map(self._moved, entry.chunks)))

    def _misplaced(self, entry: Entry) -> Iterator[ChunkRef]:
        return (chunk for chunk in entry.chunks if chunk.frame.pack in self._victims)

    def _moved(self, chunk: ChunkRef) -> ChunkRef:
        if chunk.frame.pack not in self._victims:
            return chunk
        place = self.mover.place(chunk.id)
        assert place is not None
        return place

    def _copy(self, wanted: dict[Hash, tuple[Entry, ChunkRef]]) -> None:
        # One entry a chunk: of a big file only what lies in the victims is fetched.
        alone = [structs.replace(entry, chunks=(chunk,)) for entry, chunk in wanted.values()]
        for piece in fetch(self._ws.repository.store, alone, jobs=self._ws.jobs):
            self.mover.add(piece.entry.chunks[0].id, bytes(piece.data))
