"""Publishing what is planned: the next head, and the index brought up to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from manifest_sync import observe
from manifest_sync.index import records
from manifest_sync.manifest import Manifest
from manifest_sync.merge import Change
from manifest_sync.model import Entry, Hash, Path, display
from manifest_sync.pages import PageRef
from manifest_sync.repository import Commit, Head, Raced
from manifest_sync.scope import Scope
from manifest_sync.succession import Heir, heirs
from manifest_sync.workspace import Workspace

MOST_CHUNKS = 400_000
"""Chunks whose new places are held in memory, some 50 MB; if there are more, the new pages are read again."""


class Publishing:
    """One publish of what is planned in the index.

    Args:
        upon: the head to merge the plan into.
        scope: of the run: what the index must know of the new head.
    """

    def __init__(self, ws: Workspace, upon: Head, scope: Scope) -> None:
        self._ws = ws
        self._upon = upon
        self._scope = scope
        self._manifest: Manifest | None = None
        self._chunks: list[tuple[str, list[Hash]]] = []
        self._removed: list[tuple[Path, list[Hash]]] = []
        self._held = 0

    def publish(
        self,
        commit: Commit,
        before_swap: Callable[[Manifest], None] = lambda _: None,
        replaces: Callable[[Entry], None] = lambda _: None,
    ) -> Head | Raced:
        """Swap the head; if that succeeds, what was published is what both sides agree on.

        Args:
            before_swap: told of the new manifest when all it names is stored.
            replaces: told of each entry that a change replaces or deletes; may refuse by raising.

        Returns:
            The new head, or `Raced` when another publish came first. After a lost answer the head may be
            another machine's by now, which came upon ours.
        """

        def note(manifest: Manifest) -> None:
            self._manifest = manifest
            before_swap(manifest)
            # After a loss of power too it must be known what was about to be published, or what another
            # machine did to the same files since would look like a conflict.
            self._ws.index.set_meta("attempt", manifest.snapshot)
            self._ws.index.sync()

        def note_removed(entry: Entry) -> None:
            replaces(entry)
            if self._has_room(len(entry.chunks)):
                self._removed.append((entry.path, [chunk.id for chunk in entry.chunks]))

        def note_made(page: PageRef, entries: Sequence[Entry]) -> None:
            chunks = [chunk.id for entry in entries for chunk in entry.chunks]
            if self._has_room(len(chunks)):
                self._chunks.append((page.id, chunks))

        outcome = self._ws.repository.publish(
            self._upon, self._changes(), commit, note, replaces=note_removed, made=note_made
        )
        if isinstance(outcome, Head):
            self._record(outcome)
        return outcome

    def _has_room(self, chunks: int) -> bool:
        self._held += chunks
        return self._held <= MOST_CHUNKS

    def _changes(self) -> Iterator[Change]:
        """What is planned, in path order."""
        for path, state, data in self._ws.index.iter_planned():
            entry = None if data is None else records.parse_entry(path, data)
            if state != (None if entry is None else entry.state):
                # The state is what the index will say of the new head, the entry is what the head gets.
                raise self._ws.index.damage(f"what is planned for {display(path)} is not what is to be sent")
            yield path, entry

    def _record(self, head: Head) -> None:
        """One transaction: what was planned becomes base, and ``remote`` is what the new head says."""
        index = self._ws.index
        with index.transaction():
            found = self._heirs(head)
            index.publish_planned(is_reflected=found is not None)
            index.set_meta("attempt", None)
            index.clear_sent()
            observe.save_head(self._ws, head)
            if found is None:
                observe.reflect(self._ws, head, self._scope)
            else:
                self._inherit(found, head)

    def _heirs(self, head: Head) -> list[Heir] | None:
        """The new pages, if nothing but the plan lies between what the index knows and ``head``."""
        if head.manifest != self._manifest or self._held > MOST_CHUNKS:
            return None
        index, pages = self._ws.index, head.manifest.pages
        known = index.reflected()
        regions = observe.scope_regions(self._scope)
        found = heirs(self._upon.manifest.pages, pages, known, lambda page: observe.touches(page, regions))
        if found is None:
            return None
        known.update(heir.page.id for heir in found)
        if any(page.id not in known and index.has_planned_in(page.first, page.last) for page in pages):
            return None
        return found

    def _inherit(self, found: Sequence[Heir], head: Head) -> None:
        """Let the new pages take the place of the old ones in the index; their hints too (see `is_held`:
        where a hint leads must be true)."""
        index = self._ws.index
        index.replace_pages(
            [(heir.page, heir.of.id if heir.of else None) for heir in found],
            {page.id for page in head.manifest.pages},
        )
        followed = [(heir.of, heir.page.id) for heir in found if heir.of]
        gone: list[tuple[Hash, str]] = []
        for path, chunks in self._removed:
            number = bisect_right(followed, path, key=lambda pair: pair[0].first)
            if number and path <= followed[number - 1][0].last:
                gone += [(chunk, followed[number - 1][1]) for chunk in chunks]
        index.drop_chunk_hints(gone)
        index.add_chunk_hints(self._chunks)
