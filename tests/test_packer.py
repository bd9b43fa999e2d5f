"""The packer: what a pack holds once it is acknowledged, and what its caller's thread is spared."""

from __future__ import annotations

import random
import threading

import pytest

from manifest_sync.canonical import hash_bytes
from manifest_sync.pack import PackBuilder, decode_frame, parse_trailer
from manifest_sync.packer import Packer

SESSION = f"0-{'0' * 32}"


def test_a_pack_is_made_beside_the_thread_that_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: set[int] = set()
    finish = PackBuilder.finish

    def note(self: PackBuilder) -> tuple[str, bytes]:
        threads.add(threading.get_ident())
        return finish(self)

    monkeypatch.setattr(PackBuilder, "finish", note)
    stored: dict[str, bytes] = {}
    packer = Packer(stored.__setitem__, SESSION, jobs=2)
    noise = random.Random(1)
    contents = [noise.randbytes(700_000) for _ in range(60)]
    slots = [packer.add(hash_bytes(data), data) for data in contents]
    packer.finish()
    packer.close()
    assert len(stored) > 2
    assert threads
    assert threading.get_ident() not in threads
    assert packer.stored_bytes == sum(map(len, stored.values()))
    for data, slot in zip(contents, slots, strict=True):
        assert slot.ref is not None
        frame, body = slot.ref.frame, stored[slot.ref.frame.pack.id]
        assert (frame.pack.session, frame.pack.size) == (SESSION, len(body))
        parse_trailer(body)
        plain = decode_frame(body[frame.offset : frame.offset + frame.stored], frame.raw)
        assert plain[slot.ref.offset : slot.ref.offset + slot.ref.length] == data


def test_a_store_that_fails_is_told_of_and_no_slot_is_filled() -> None:
    def refuse(pack_id: str, body: bytes) -> None:
        raise OSError(f"{pack_id}: no")

    packer = Packer(refuse, SESSION, jobs=2)
    slot = packer.add(hash_bytes(b"a"), b"a")
    with pytest.raises(OSError, match="no"):
        packer.finish()
    packer.close()
    assert slot.ref is None
    assert packer.stored_bytes == 0
