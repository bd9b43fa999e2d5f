"""Chunks into frames, frames into packs, packs into the bucket. Knows neither manifests nor SQL.

One thread calls the packer. Frames are compressed in worker threads (zstd releases the interpreter
lock), packs are put together, named and uploaded by others; both queues are bounded, so memory is too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from manifest_sync.model import ChunkRef, FrameRef, Hash, PackRef
from manifest_sync.pack import FRAME_TARGET, PACK_TARGET, PackBuilder, encode_frame

MAX_FRAMES_AHEAD = 64
MAX_KNOWN_CHUNKS = 1_000_000


class Slot:
    """The place of one chunk: ``ref`` is set once the pack that holds it is acknowledged by the store."""

    __slots__ = ("id", "length", "offset", "ref")

    def __init__(self, chunk_id: Hash, length: int, ref: ChunkRef | None = None) -> None:
        self.id = chunk_id
        self.length = length
        self.offset = 0
        self.ref = ref


class Packer:
    """Collects chunks and uploads them as packs of about 16 MiB.

    Args:
        upload: stores one pack under its id and returns when it is acknowledged; called from threads.
        session: the session that the packs belong to.
        jobs: how many packs may be on their way at once.
    """

    def __init__(self, upload: Callable[[str, bytes], None], session: str, *, jobs: int) -> None:
        self._upload = upload
        self._session = session
        self._jobs = jobs
        self._compressors = ThreadPoolExecutor(2, thread_name_prefix="compress")
        self._uploaders = ThreadPoolExecutor(jobs, thread_name_prefix="upload")
        self._frame: list[bytes] = []
        self._frame_slots: list[Slot] = []
        self._frame_size = 0
        self._frames: deque[tuple[Future[bytes], int, list[Slot]]] = deque()
        self._builder = PackBuilder()
        self._pack_slots: list[list[Slot]] = []
        self._pack_lengths: list[tuple[int, int, int]] = []
        self._in_flight: deque[tuple[Future[PackRef], list[tuple[int, int, int]], list[list[Slot]]]]
        self._in_flight = deque()
        self._known: dict[Hash, Slot] = {}
        self.stored_bytes = 0

    def add(self, chunk_id: Hash, data: bytes) -> Slot:
        """Take one chunk; the same chunk twice in a push is stored once."""
        known = self._known.get(chunk_id)
        if known is not None:
            return known
        slot = Slot(chunk_id, len(data))
        if len(self._known) < MAX_KNOWN_CHUNKS:
            self._known[chunk_id] = slot
        if self._frame_size and self._frame_size + len(data) > FRAME_TARGET:
            self._close_frame()
        slot.offset = self._frame_size
        self._frame.append(data)
        self._frame_slots.append(slot)
        self._frame_size += len(data)
        if self._frame_size >= FRAME_TARGET:
            self._close_frame()
        return slot

    def _close_frame(self) -> None:
        if not self._frame:
            return
        plain = self._frame[0] if len(self._frame) == 1 else b"".join(self._frame)
        future = self._compressors.submit(encode_frame, plain)
        self._frames.append((future, len(plain), self._frame_slots))
        self._frame, self._frame_slots, self._frame_size = [], [], 0
        while len(self._frames) > MAX_FRAMES_AHEAD or (self._frames and self._frames[0][0].done()):
            self._take_frame()

    def _take_frame(self) -> None:
        future, raw, slots = self._frames.popleft()
        stored = future.result()
        offset = self._builder.size
        self._builder.add_frame(stored, raw, [(slot.id, slot.offset, slot.length) for slot in slots])
        self._pack_lengths.append((offset, len(stored), raw))
        self._pack_slots.append(slots)
        if self._builder.size >= PACK_TARGET:
            self._close_pack()

    def _close_pack(self) -> None:
        if not self._pack_slots:
            return
        future = self._uploaders.submit(self._send, self._builder)
        self._in_flight.append((future, self._pack_lengths, self._pack_slots))
        self._builder, self._pack_slots, self._pack_lengths = PackBuilder(), [], []
        while len(self._in_flight) > self._jobs:
            self._settle_oldest()

    def _send(self, builder: PackBuilder) -> PackRef:
        """In a thread: putting together and hashing 16 MiB would hold up the one that reads."""
        pack_id, body = builder.finish()
        self._upload(pack_id, body)
        return PackRef(self._session, pack_id, len(body))

    def _settle_oldest(self) -> None:
        future, lengths, frames = self._in_flight.popleft()
        pack = future.result()
        self.stored_bytes += pack.size
        for (offset, stored, raw), slots in zip(lengths, frames, strict=True):
            frame = FrameRef(pack, offset, stored, raw)
            for slot in slots:
                slot.ref = ChunkRef(slot.id, frame, slot.offset, slot.length)

    def settle(self) -> None:
        """Take note of the uploads that are done, without waiting for others."""
        while self._in_flight and self._in_flight[0][0].done():
            self._settle_oldest()

    def finish(self) -> None:
        """Close and upload what is open, and wait until all of it is acknowledged."""
        self._close_frame()
        while self._frames:
            self._take_frame()
        self._close_pack()
        while self._in_flight:
            self._settle_oldest()

    def close(self) -> None:
        """Stop the threads; packs that are under way are waited for, what is open is dropped."""
        self._compressors.shutdown(wait=True, cancel_futures=True)
        self._uploaders.shutdown(wait=True, cancel_futures=True)
