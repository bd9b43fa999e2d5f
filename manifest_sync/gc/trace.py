"""Tracing: everything that the retained snapshots of a head reach, and how much of each pack they use.

Live data is never derived from a listing: the trace follows parents, pages and chunks. Whatever on the way
cannot be read stops it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from manifest_sync import manifest as fmt
from manifest_sync.canonical import decompress
from manifest_sync.errors import Damaged, FormatError
from manifest_sync.gc.retention import REPACK_MESSAGE, Member, Retention
from manifest_sync.manifest import Manifest
from manifest_sync.model import FrameRef, PackRef
from manifest_sync.pack import FOOTER_LENGTH, trailer_span
from manifest_sync.pages import MAX_PAGE_RAW, PageRef
from manifest_sync.pageuse import live_bytes, parse_uses
from manifest_sync.repository import Head, Repository
from manifest_sync.snapshots import Snapshots
from manifest_sync.stores.base import NotFound
from manifest_sync.times import parse_rfc3339


@dataclass(frozen=True, slots=True)
class Reachable:
    """What one head and its retained snapshots reach."""

    kept: tuple[Member, ...]
    """The newest part of the chain, newest first."""
    dropped: tuple[Member, ...]
    """The rest of the chain, pins left out, newest first."""
    keys: dict[str, int | None]
    """Key of every object, with its size where that is fixed."""
    stored_bytes: int
    """Bytes of the packs that the head's own pages name."""


@dataclass(frozen=True, slots=True)
class Wasteful:
    """A pack of the head of which no retained snapshot uses as much as half."""

    pack: PackRef
    live: int
    """Stored bytes of its frames that are in use, about."""
    dead: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What is kept in memory of a snapshot; equal pages of several snapshots are one object."""

    member: Member
    parent: str
    pages: tuple[PageRef, ...]


class Tracer:
    """Remembers what it has read, so that tracing a newer head costs only what is new in it.

    Args:
        jobs: how many requests may be under way at once.
    """

    def __init__(self, repository: Repository, *, jobs: int) -> None:
        self._repository = repository
        self._jobs = jobs
        self._snapshots: dict[str, _Snapshot] = {}
        self._pages: dict[tuple[str, str], PageRef] = {}
        self._packs_of: dict[str, tuple[PackRef, ...]] = {}
        self._packs: dict[PackRef, PackRef] = {}
        self._cells: dict[FrameRef, int] = {}
        self._frame_bytes: dict[PackRef, int] = {}

    def trace(self, head: Head, retention: Retention, now: datetime) -> Reachable:
        """Everything reachable from the snapshots that are retained, and from the pins.

        Raises:
            Damaged: a snapshot or a page is missing or unreadable.
        """
        snapshots = Snapshots(self._repository, head)
        chain = self._read_chain(head.manifest, snapshots, retention)
        kept = retention.count([item.member for item in chain], now)
        retained = {item.member.snapshot: item for item in chain[:kept]}
        for pin in head.manifest.pins:
            if pin.snapshot not in retained:
                retained[pin.snapshot] = self._find(pin.sequence, pin.snapshot, snapshots)
        pages = {page: None for item in retained.values() for page in item.pages}
        self._read(list(pages))
        keys: dict[str, int | None] = {
            fmt.snapshot_key(item.member.sequence, item.member.snapshot): None for item in retained.values()
        }
        keys |= {fmt.page_key(page.session, page.id): None for page in pages}
        packs = {pack for page in pages for pack in self._packs_of[page.id] if not pack.is_external}
        keys |= {fmt.pack_key(pack.session, pack.id): pack.size for pack in packs}
        return Reachable(
            kept=tuple(item.member for item in chain[:kept]),
            dropped=tuple(item.member for item in chain[kept:] if item.member.snapshot not in retained),
            keys=keys,
            stored_bytes=sum(
                pack.size for pack in self.packs_of(head.manifest.pages) if not pack.is_external
            ),
        )

    def packs_of(self, pages: Sequence[PageRef]) -> set[PackRef]:
        """The packs that traced pages name."""
        return {pack for page in pages for pack in self._packs_of[page.id]}

    def wasteful(self, head: Head) -> list[Wasteful]:
        """The packs of a traced head worth writing anew: more than half of their stored content is used
        by no page that was traced.

        Raises:
            Damaged: a pack is missing or is none.
        """
        live: Counter[PackRef] = Counter()
        for frame, cells in self._cells.items():
            live[frame.pack] += live_bytes(frame, cells)
        # The size of a pack includes its tables, so that only a look at the pack tells in the end.
        suspects = [
            pack
            for pack in self.packs_of(head.manifest.pages)
            if not pack.is_external and 2 * live[pack] < pack.size
        ]
        suspects.sort(key=lambda pack: (pack.session, pack.id))
        unknown = [pack for pack in suspects if pack not in self._frame_bytes]
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="footer") as pool:
            self._frame_bytes.update(zip(unknown, pool.map(self._read_footer, unknown), strict=True))
        return [
            Wasteful(pack, live[pack], self._frame_bytes[pack] - live[pack])
            for pack in suspects
            if 2 * live[pack] < self._frame_bytes[pack]
        ]

    def _read_chain(self, head: Manifest, snapshots: Snapshots, retention: Retention) -> list[_Snapshot]:
        """The head and its kept ancestors, newest first.

        Damage further back than anything can be retained does no harm: the rest goes anyway.
        """
        chain: list[_Snapshot] = []
        try:
            for item in self._walk(head, snapshots):
                chain.append(item)
        except Damaged:
            if not retention.is_settled([item.member for item in chain]):
                raise
        return chain

    def _walk(self, head: Manifest, snapshots: Snapshots) -> Iterator[_Snapshot]:
        """The head and its kept ancestors, newest first.

        The ids of the ancestors are known from the head, so that several are read ahead side by side; what
        is an ancestor is still told by each snapshot's own parent.
        """
        ids = self._repository.iter_ancestors(head)
        ahead: deque[tuple[str, Future[Manifest]]] = deque()
        expected = head.sequence
        current = self._note(head)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="snapshot") as pool:
            yield current
            while snapshots.has_parent(current.member.sequence, current.parent):
                while len(ahead) < 2 * self._jobs and snapshots.has_parent(expected, current.parent):
                    upcoming = next(ids, None)
                    if upcoming is None:
                        break
                    expected -= 1
                    if upcoming not in self._snapshots:
                        ahead.append((upcoming, pool.submit(snapshots.read, expected, upcoming)))
                while ahead and ahead[0][0] in self._snapshots:
                    ahead.popleft()
                child = current
                if ahead and ahead[0][0] == child.parent:
                    current = self._note(ahead.popleft()[1].result())
                else:
                    current = self._find(child.member.sequence - 1, child.parent, snapshots)
                if current.member.sequence >= child.member.sequence:
                    raise Damaged(f"snapshot {current.member.snapshot[:12]} is not older than its child")
                yield current

    def _find(self, sequence: int, id_: str, snapshots: Snapshots) -> _Snapshot:
        known = self._snapshots.get(id_)
        return known if known is not None else self._note(snapshots.read(sequence, id_))

    def _note(self, manifest: Manifest) -> _Snapshot:
        pages = tuple(self._pages.setdefault((page.session, page.id), page) for page in manifest.pages)
        member = Member(
            manifest.sequence,
            manifest.snapshot,
            parse_rfc3339(manifest.time),
            manifest.fence,
            is_repack=manifest.message == REPACK_MESSAGE,
        )
        noted = self._snapshots[manifest.snapshot] = _Snapshot(member, manifest.parent, pages)
        return noted

    def _read(self, pages: Sequence[PageRef]) -> None:
        """Read the pages that were not read yet."""
        unread = {page.id: page for page in pages if page.id not in self._packs_of}
        for page, body in self._repository.iter_page_bodies(list(unread.values())):
            try:
                uses = parse_uses(decompress(body, MAX_PAGE_RAW), page.id)
            except FormatError:
                # It may be damaged where it is cached.
                uses = parse_uses(decompress(self._repository.fetch_anew(page), MAX_PAGE_RAW), page.id)
            packs: dict[PackRef, None] = {}
            for frame, cells in uses.items():
                packs.setdefault(self._packs.setdefault(frame.pack, frame.pack))
                self._cells[frame] = self._cells.get(frame, 0) | cells
            self._packs_of[page.id] = tuple(packs)

    def _read_footer(self, pack: PackRef) -> int:
        """Stored bytes of all frames of a pack."""
        key = fmt.pack_key(pack.session, pack.id)
        try:
            footer = self._repository.store.get_range(key, pack.size - FOOTER_LENGTH, FOOTER_LENGTH)
            return trailer_span(footer, pack.size)[0]
        except NotFound:
            reason = "it is missing"
        except FormatError as error:
            reason = error.message
        raise Damaged(
            f"{key} at {self._repository.store.location} is damaged: {reason}",
            "`manifest-sync verify` names the files that are affected",
        )
