"""Sending file contents: read, chunk, look whether the bucket has it, pack. Each file's entry is written
to the index (``pending``) once its packs are acknowledged, so that a killed push resumes there."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from manifest_sync import manifest as fmt
from manifest_sync.canonical import hash_bytes, new_hasher
from manifest_sync.chunker import DEFAULT, cut
from manifest_sync.externals import packs_of
from manifest_sync.index import records
from manifest_sync.index.index import Row
from manifest_sync.keys import pack_name
from manifest_sync.model import (
    SPECIAL,
    ChunkRef,
    Entry,
    EntryType,
    Hash,
    Path,
    Stat,
    State,
    file_state,
    make_state,
)
from manifest_sync.pack import CHUNK_SMALL
from manifest_sync.packer import Packer, Slot
from manifest_sync.pages import MAX_CHUNKS, TOO_LARGE, PageRef
from manifest_sync.repository import Head
from manifest_sync.settle import Settle, is_line_file
from manifest_sync.statcache import Observed, ends_with_a_line, trust
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Changing, Reader, Unreadable, Vanished, is_symlink

READ_TRIES = 3
_BATCH_FILES = 2000
_CACHED_PAGES = 8
_LOST_PACKS = "lost packs"
_MOST_LOST = 1000


@dataclass(slots=True)
class _Draft:
    """A file that was read and whose chunks are on their way."""

    path: Path
    stat: Stat
    state: State
    digest: Hash
    slots: list[Slot]
    is_seen: bool = False
    """Whether the stat is the one that the scan wrote to the index."""


@dataclass(slots=True)
class Sent:
    """What one `upload` did."""

    bytes: int = 0
    stored_bytes: int = 0
    passed_over: list[Row] = field(default_factory=list)
    """What could not be sent after all."""


class _Uploader:
    def __init__(
        self, ws: Workspace, head: Head, session: str, observed: Observed, settle: Settle | None
    ) -> None:
        self._ws = ws
        self._fence = head.manifest.fence
        self._observed = observed
        self._settle = settle
        self._writer = ws.writer()
        self._live = {page.id: page for page in head.manifest.pages}
        self._pages: OrderedDict[str, dict[Hash, ChunkRef]] = OrderedDict()
        store = ws.repository.store
        self._packer = Packer(
            lambda pack_id, body: store.put(fmt.pack_key(session, pack_id), body), session, jobs=ws.jobs
        )
        self._lost = lost_packs(ws)
        self._drafts: deque[_Draft] = deque()
        self._big_slots: deque[Slot] = deque()
        self._resumed: list[Path] = []
        self._packless: list[tuple[Path, State, bytes, int]] = []
        """Rows of ``pending`` that wait for no pack: symlinks, and what an unfinished push sent with another
        time or other permissions."""
        self._resumes = ws.index.has_pending()
        self.sent = Sent()

    def run(self, rows: Iterable[Row]) -> None:
        try:
            for row in rows:
                if row.local == SPECIAL:
                    self._observed.skipped[row.path] = "not a regular file"
                elif not self._resume(row):
                    self._send(row)
                if self._observed.is_hidden(row.path):
                    self.sent.passed_over.append(row)
                self._record(_BATCH_FILES)
            self._packer.finish()
            self._record(0)
        finally:
            self._packer.close()
            self.sent.stored_bytes = self._packer.stored_bytes

    def _resume(self, row: Row) -> bool:
        """An unfinished push of this machine sent exactly this content: only plan it again, with the time and
        the permissions that the file has by now."""
        if not self._resumes or not row.local:
            return False
        found = self._ws.index.pending_for(row.path)
        if found is None or found[0] != row.local or found[1] is None:
            return False
        entry = records.parse_entry(row.path, found[1])
        if packs_of(entry):
            # An unfinished adopt: whether the object is still the same is not known.
            return False
        if any(map(self._is_lost, entry.chunks)):
            return False
        now = _stamped(entry, row.stat) if row.stat is not None else entry
        if now == entry:
            self._resumed.append(row.path)
        else:
            self._packless.append((row.path, row.local, records.encode_entry(now), found[2]))
        self._ws.progress.advance("transfer", files=1, bytes_=row.stat.size if row.stat else 0)
        return True

    def _send(self, row: Row) -> None:
        try:
            if row.stat is not None and is_symlink(row.stat):
                self._send_symlink(row.path, row.stat)
                return
            draft = self._read_small(row)
            for _ in range(READ_TRIES):
                draft = draft or self._read(row)
                if draft is not None:
                    self._drafts.append(draft)
                    self.sent.bytes += draft.stat.size
                    return
            raise Changing(row.path, "it kept changing while it was read")
        except Changing as error:
            if self._settle is not None:
                self._observed.restless.add(row.path)
            else:
                self._observed.skipped[row.path] = error.reason
        except Vanished:
            if self._settle is not None:
                # It was there a moment ago and its writer took it away: nothing to tell of.
                self._observed.restless.add(row.path)
            else:
                self._observed.skipped[row.path] = "it vanished while it was read"
        except Unreadable as error:
            self._observed.skipped[row.path] = error.reason

    def _holds_still(self, row: Row, reader: Reader) -> bool:
        """Whether a file that was opened may be read now: it is the one that the scan found at rest, or it
        grows and ends with a whole line."""
        if self._settle is None:
            return True
        is_same = row.stat is not None and self._ws.worktree.same_stat(row.stat, reader.stat)
        if is_same and self._settle.is_at_rest(reader.stat, self._observed.clock):
            return True
        return is_line_file(row.path) and ends_with_a_line(reader)

    def _send_symlink(self, path: Path, stat: Stat) -> None:
        target = self._ws.worktree.read_link(path)
        digest = hash_bytes(target)
        state = make_state(EntryType.SYMLINK, digest, executable=False)
        entry = Entry(
            path, EntryType.SYMLINK, len(target), stat.mtime_ns, 0o777, digest, self._writer, target=target
        )
        self._packless.append((path, state, records.encode_entry(entry), self._fence))
        self._ws.progress.advance("transfer", files=1)

    def _read_small(self, row: Row) -> _Draft | None:
        """What most files are: small, and as the scan saw them a moment ago. None for any other."""
        stat = row.stat
        if stat is None or stat.size > CHUNK_SMALL or self._settle is not None:
            return None
        data = self._ws.worktree.read_unchanged(row.path, stat)
        return None if data is None else self._draft_small(row.path, stat, data, is_seen=True)

    def _draft_small(self, path: Path, stat: Stat, data: bytes, *, is_seen: bool = False) -> _Draft:
        digest = hash_bytes(data)
        slots = [self._place(digest, data)] if data else []
        self._ws.progress.advance("transfer", files=1, bytes_=len(data))
        return _Draft(path, stat, file_state(digest, stat), digest, slots, is_seen)

    def _read(self, row: Row) -> _Draft | None:
        """Read one file; None when it changed meanwhile (stat, read, stat on the same descriptor)."""
        path = row.path
        with self._ws.worktree.open_read(path) as reader:
            stat = reader.stat
            if not self._holds_still(row, reader):
                return None
            if stat.size <= CHUNK_SMALL:
                data = reader.read(stat.size + 1)
                if len(data) != stat.size or not reader.unchanged():
                    return None
                return self._draft_small(path, stat, data)
            if stat.size > MAX_CHUNKS * DEFAULT.max:
                raise Unreadable(path, TOO_LARGE)
            hasher, total = new_hasher(), 0
            slots: list[Slot] = []
            for chunk in cut(reader.read, stat.size):
                if len(slots) == MAX_CHUNKS:
                    raise Unreadable(path, TOO_LARGE)
                hasher.update(chunk)
                total += len(chunk)
                slots.append(self._place_big(chunk))
                self._record(_BATCH_FILES)
                self._ws.progress.advance("transfer", bytes_=len(chunk))
            if total != stat.size or not reader.unchanged():
                return None
        self._ws.progress.advance("transfer", files=1)
        digest = Hash(hasher.digest())
        return _Draft(path, stat, file_state(digest, stat), digest, slots)

    def _place(self, chunk_id: Hash, data: bytes) -> Slot:
        known = self._find(chunk_id)
        if known is not None:
            return Slot(chunk_id, len(data), known)
        return self._packer.add(chunk_id, data)

    def _place_big(self, chunk: bytes) -> Slot:
        chunk_id = hash_bytes(chunk)
        kept = self._ws.index.sent(chunk_id)
        if kept is not None:
            ref = records.parse_chunk(chunk_id, kept[0])
            if not self._is_lost(ref):
                return Slot(chunk_id, len(chunk), ref)
        slot = self._place(chunk_id, chunk)
        if slot.ref is None:
            self._big_slots.append(slot)
        return slot

    def _find(self, chunk_id: Hash) -> ChunkRef | None:
        """Where the head's pages cached here have this chunk; no page is fetched to find out."""
        if not self._live:
            return None
        page_id = self._ws.index.page_of_chunk(chunk_id)
        if page_id is None or page_id not in self._live:
            return None
        chunks = self._pages.get(page_id)
        if chunks is None:
            chunks = self._load_chunks(self._live[page_id])
            self._pages[page_id] = chunks
            if len(self._pages) > _CACHED_PAGES:
                self._pages.popitem(last=False)
        found = chunks.get(chunk_id)
        return None if found is None or self._is_lost(found) else found

    def _is_lost(self, chunk: ChunkRef) -> bool:
        return bool(self._lost) and pack_name(chunk.frame.pack) in self._lost

    def _load_chunks(self, page: PageRef) -> dict[Hash, ChunkRef]:
        if self._ws.index.load_page_body(page.id) is None:
            return {}
        entries = self._ws.repository.load_page(page)
        return {chunk.id: chunk for entry in entries for chunk in entry.chunks}

    def _record(self, threshold: int) -> None:
        """Write down the files whose packs have all arrived, ``threshold`` or more at a time."""
        self._packer.settle()
        index = self._ws.index
        if len(self._resumed) > threshold or not threshold:
            # By the thousand: each write on its own would wait for the disk.
            index.mark_planned(self._resumed)
            self._resumed.clear()
        if len(self._packless) > threshold or not threshold:
            index.put_pending(self._packless)
            self._packless.clear()
        if self._big_slots and self._big_slots[0].ref is not None:
            done = []
            while self._big_slots and (ref := self._big_slots[0].ref) is not None:
                done.append((self._big_slots.popleft().id, records.encode_chunk(ref), self._fence))
            index.put_sent(done)
        if len(self._drafts) <= threshold and threshold:
            return
        ready = list(self._take_ready())
        if not ready:
            return
        with index.transaction():
            index.put_pending(
                (d.path, d.state, records.encode_entry(self._entry(d)), self._fence) for d in ready
            )
            clock = self._observed.clock
            index.put_states((d.path, d.state, trust(self._ws, d.stat, clock)) for d in ready if d.is_seen)
            index.put_local(
                (d.path, d.stat, d.state, trust(self._ws, d.stat, clock)) for d in ready if not d.is_seen
            )

    def _take_ready(self) -> Iterator[_Draft]:
        while self._drafts and all(slot.ref is not None for slot in self._drafts[0].slots):
            yield self._drafts.popleft()

    def _entry(self, draft: _Draft) -> Entry:
        return Entry(
            path=draft.path,
            type=EntryType.FILE,
            size=draft.stat.size,
            mtime_ns=draft.stat.mtime_ns,
            mode=draft.stat.mode & 0o777,
            hash=draft.digest,
            writer=self._writer,
            chunks=tuple(slot.ref for slot in draft.slots if slot.ref is not None),
        )


def _stamped(entry: Entry, stat: Stat) -> Entry:
    """An entry with the time of a file, and its permissions if it is no symlink, which has none."""
    mode = stat.mode & 0o777 if entry.type is EntryType.FILE else entry.mode
    return structs.replace(entry, mtime_ns=stat.mtime_ns, mode=mode)


def upload(
    ws: Workspace,
    head: Head,
    session: str,
    rows: Iterable[Row],
    observed: Observed,
    settle: Settle | None = None,
) -> Sent:
    """Send the contents of ``rows`` and write their entries to ``pending``, planned.

    Args:
        head: what may be referred to; the same head that the swap will expect.
        session: where new packs go.
        observed: gets the files that could not be sent, with the reason, and those that do not hold still.
        settle: send only what holds still.
    """
    uploader = _Uploader(ws, head, session, observed, settle)
    uploader.run(rows)
    return uploader.sent


def lost_packs(ws: Workspace) -> frozenset[str]:
    """Packs, by key or URL, that this machine has found lost or damaged: nothing new refers to them."""
    return frozenset((ws.index.get_meta(_LOST_PACKS) or "").split())


def note_lost_packs(ws: Workspace, keys: Iterable[str]) -> None:
    """Remember which packs are lost or damaged, as far as is known now; `_MOST_LOST` at most."""
    noted = sorted(key for key in set(keys) if key.startswith("packs/") or "://" in key)[:_MOST_LOST]
    ws.index.set_meta(_LOST_PACKS, " ".join(noted) or None)


def drop_collected(ws: Workspace, head: Head) -> None:
    """Forget what an unfinished push sent and a collection has been allowed to delete since."""
    fence = ws.index.oldest_fence()
    if fence is None:
        return
    gone = ws.repository.collected(head, fence)
    if gone is None:
        ws.index.clear_pending()
        ws.index.clear_sent()
        return
    if not gone:
        return
    lost = [
        path
        for path, _, data, _ in ws.index.iter_pending()
        if data is not None
        and any(
            fmt.pack_key(chunk.frame.pack.session, chunk.frame.pack.id) in gone
            for chunk in records.parse_entry(path, data).chunks
        )
    ]
    ws.index.drop_pending(lost)
    ws.index.clear_sent()
