"""What the ETag of an S3 object says of its content. Pure.

An object that was uploaded at once has the MD5 of its bytes; one that was uploaded in parts has the MD5 of
the parts' MD5s, ``-`` and their number, and nothing says how large the parts were. An ETag may also be none
of these (encrypted with a key of the store's): then it matches nothing.
"""

from __future__ import annotations

import hashlib
import re

MIB = 1 << 20
USUAL_PARTS = tuple(count * MIB for count in (8, 5, 15, 16, 25, 32, 50, 64, 100))
"""Part sizes of the AWS CLI and boto3 (8 MiB), rclone (5), s5cmd (50) and others."""
MOST_TRIED = 24
"""Other part sizes that are tried; there are more only for objects of a few huge parts."""

_MD5 = re.compile(r'"?([0-9a-f]{32})(?:-([1-9][0-9]{0,4}))?"?\Z')


def part_sizes(etag: str, size: int) -> list[list[int]]:
    """How large the parts of an object of ``size`` bytes with this ETag may have been, likely ones first.

    Each list is worth a reading of its own. An upload that was not in parts counts as ``[0]``.
    """
    found = _MD5.match(etag)
    if found is None or size == 0:
        return []
    if found[2] is None:
        return [[0]]
    count = int(found[2])
    if count == 1:
        return [[size]]
    low, high = -(-size // count), (size - 1) // (count - 1)
    usual = [part for part in USUAL_PARTS if low <= part <= high]
    first = -(-low // MIB) * MIB
    others = [part for part in range(first, high + 1, MIB) if part not in USUAL_PARTS]
    return [parts for parts in (usual, others[:MOST_TRIED]) if parts]


class PartsMd5:
    """The ETag that content would have, were it uploaded in parts of ``part`` bytes; 0: at once."""

    def __init__(self, part: int) -> None:
        self._part = part
        self._left = part
        self._current = hashlib.md5(usedforsecurity=False)
        self._digests: list[bytes] = []

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self._part:
            self._current.update(data)
            return
        view = memoryview(data)
        while view:
            taken = view[: self._left]
            self._current.update(taken)
            self._left -= len(taken)
            view = view[len(taken) :]
            if not self._left:
                self._close_part()

    def _close_part(self) -> None:
        self._digests.append(self._current.digest())
        self._current, self._left = hashlib.md5(usedforsecurity=False), self._part

    def matches(self, etag: str) -> bool:
        """Whether that is the ETag; nothing can be added afterwards."""
        if self._part and self._left < self._part:
            self._close_part()
        if self._part:
            whole = hashlib.md5(b"".join(self._digests), usedforsecurity=False).hexdigest()
            return etag.strip('"') == f"{whole}-{len(self._digests)}"
        return etag.strip('"') == self._current.hexdigest()
