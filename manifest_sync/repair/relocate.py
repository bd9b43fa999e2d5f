"""Publishing what is here in new packs: for files of the head whose packs are lost and cannot be made anew.

The entries stay as they are but for the places of the hurt chunks; see `mover`, which repacking uses too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from manifest_sync import observe
from manifest_sync.errors import Damaged
from manifest_sync.manifest import Manifest
from manifest_sync.merge import Change
from manifest_sync.model import ChunkRef, Entry, Hash, Path
from manifest_sync.mover import Mover
from manifest_sync.repair.localchunks import LocalChunks, Place
from manifest_sync.repository import Head, Raced
from manifest_sync.workspace import Workspace

HurtChunks = dict[ChunkRef, list[Place]]
"""Chunks that the bucket does not hold where pages say, and where they may be here."""


@dataclass(slots=True)
class Relocated:
    """What a publish did: paths whose content was sent anew, and what was stored for it."""

    paths: list[Path] = field(default_factory=list)
    stored_bytes: int = 0


def relocate(
    ws: Workspace,
    head: Head,
    hurt: HurtChunks,
    message: str,
    revise: Callable[[Manifest], Manifest],
    done: Relocated,
) -> Head | Raced:
    """Publish the entries of ``head`` with hurt chunks whose content is here; the head if there is nothing.

    Args:
        revise: what else changes in the manifest; see `Repository.publish`.
        done: filled in.

    Raises:
        Damaged: a page that the change falls in cannot be read.
    """
    relocator = _Relocator(ws, head, hurt)
    mover = relocator.mover
    try:
        relocator.send()
    finally:
        mover.close()
    changes = list(relocator.iter_changes())
    if not changes and revise(head.manifest) == head.manifest:
        return head
    commit = ws.commit(mover.session, message or "push --repair", mover.stored_bytes)
    outcome = ws.repository.publish(head, changes, commit, revise=revise)
    if isinstance(outcome, Head):
        done.paths = [path for path, _ in changes]
        done.stored_bytes += mover.stored_bytes
        observe.save_head(ws, outcome)
    return outcome


def movable(ws: Workspace, head: Head, hurt: HurtChunks) -> list[Path]:
    """Paths of the entries that `relocate` would publish: all that is hurt of them is here."""
    found = []
    with LocalChunks(ws.worktree) as local:
        for entry in _hurt_entries(ws, head, hurt):
            lost = [chunk for chunk in entry.chunks if chunk in hurt]
            if all(local.read(chunk.id, chunk.length, hurt[chunk]) is not None for chunk in lost):
                found.append(entry.path)
    return found


def _hurt_entries(ws: Workspace, head: Head, hurt: HurtChunks) -> Iterator[Entry]:
    """The entries of the head that need one of these chunks; a lost page hides its own, not the rest."""
    for page in head.manifest.pages if hurt else ():
        try:
            entries = ws.repository.load_page(page)
        except Damaged:
            continue
        for entry in entries:
            if any(chunk in hurt for chunk in entry.chunks):
                yield entry


class _Relocator:
    def __init__(self, ws: Workspace, head: Head, hurt: HurtChunks) -> None:
        self._ws = ws
        self._head = head
        self._hurt = hurt
        self.mover = Mover(ws, head, {chunk.frame.pack for chunk in hurt})

    def send(self) -> None:
        """Upload the hurt chunks that entries of the head need, as far as they are here."""
        tried: set[Hash] = set()
        with LocalChunks(self._ws.worktree) as local:
            for entry in _hurt_entries(self._ws, self._head, self._hurt):
                for chunk in entry.chunks:
                    places = self._hurt.get(chunk)
                    if places is None or chunk.id in tried or self.mover.place(chunk.id) is not None:
                        continue
                    tried.add(chunk.id)
                    data = local.read(chunk.id, chunk.length, places)
                    if data is not None:
                        self.mover.add(chunk.id, data)
        self.mover.finish()

    def iter_changes(self) -> Iterator[Change]:
        """The entries that are whole again, in path order."""
        for entry in _hurt_entries(self._ws, self._head, self._hurt):
            chunks = tuple(map(self._moved, entry.chunks))
            whole = tuple(chunk for chunk in chunks if chunk is not None)
            if len(whole) == len(chunks) and whole != entry.chunks:
                yield entry.path, structs.replace(entry, chunks=whole)

    def _moved(self, chunk: ChunkRef) -> ChunkRef | None:
        return self.mover.place(chunk.id) if chunk in self._hurt else chunk
