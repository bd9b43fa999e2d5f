"""Sending chunks to new packs, for entries of the head that are to find them there.

The journal of uploaded chunks (``sent``) remembers what has arrived, so that a lost race or a kill does not
send it twice, and a collection in between is noticed as a push notices it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet

from manifest_sync import manifest as fmt
from manifest_sync.index import records
from manifest_sync.model import ChunkRef, Hash, PackRef
from manifest_sync.packer import Packer, Slot
from manifest_sync.repository import Head
from manifest_sync.upload import drop_collected
from manifest_sync.workspace import Workspace


class Mover:
    """One session's new packs; `close` it.

    Args:
        head: what the swap will expect.
        left: the packs that chunks are moved out of.
    """

    def __init__(self, ws: Workspace, head: Head, left: AbstractSet[PackRef]) -> None:
        self._index = ws.index
        self._fence = head.manifest.fence
        self._left = left
        self._slots: deque[Slot] = deque()
        self.session = ws.new_session(self._fence)
        store, session = ws.repository.store, self.session
        self._packer = Packer(
            lambda pack_id, body: store.put(fmt.pack_key(session, pack_id), body), session, jobs=ws.jobs
        )
        drop_collected(ws, head)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packs that were sent."""
        return self._packer.stored_bytes

    def add(self, chunk_id: Hash, data: bytes) -> None:
        """Send a chunk; `place` has it once its pack has arrived."""
        self._slots.append(self._packer.add(chunk_id, data))
        self._record()

    def place(self, chunk_id: Hash) -> ChunkRef | None:
        """Where a chunk has been sent to; a place in a pack that is left is none."""
        sent = self._index.sent(chunk_id)
        place = None if sent is None else records.parse_chunk(chunk_id, sent[0])
        return None if place is None or place.frame.pack in self._left else place

    def finish(self) -> None:
        """Send the last pack and wait for all of them."""
        self._packer.finish()
        self._record()

    def close(self) -> None:
        """Stop; what has not arrived is sent by the next run."""
        self._packer.close()

    def _record(self) -> None:
        self._packer.settle()
        done = []
        while self._slots and (ref := self._slots[0].ref) is not None:
            done.append((self._slots.popleft().id, records.encode_chunk(ref), self._fence))
        if done:
            self._index.put_sent(done)
