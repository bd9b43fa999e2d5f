"""Bodies of S3 requests and answers, in pieces; and what every answer of an S3 service has."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manifest_sync.stores.base import too_short
from manifest_sync.stores.patience import PIECE, Beat

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_MAX_PIECE = 1 << 20
_AT_ONCE = 0.1
"""Seconds."""
_MTIME = re.compile(r"(\d{1,10})(?:\.(\d{1,9})\d*)?")


class Upload(io.BytesIO):
    """A body that tells when a part of it is taken to be sent.

    Over plain http it is read once more before, to be signed; `begin` says that this is over.
    """

    def __init__(self, body: bytes, beat: Beat) -> None:
        super().__init__(body)
        self._beat = beat
        self._is_sent = False

    def begin(self) -> None:
        """From here on what is read is sent."""
        self._is_sent = True

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`."""
        data = super().read(size)
        self._beat(len(data) if self._is_sent else 0)
        return data


def md5_of(body: bytes) -> str:
    """The value of a ``Content-MD5`` header."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def etag_of(answer: Mapping[str, Any]) -> str:
    """The ETag, which every S3 service sends with an object and after a write.

    Raises:
        ConnectionError: there is none: something else answered, the sign-in page of a network for one.
    """
    etag: str = answer.get("ETag", "")
    if not etag:
        raise ConnectionError("the answer has no ETag, so it does not come from an S3 service")
    return etag


def noted_mtime(answer: Mapping[str, Any]) -> int | None:
    """The time of the file that an object was made from, in nanoseconds, as rclone and s3fs note it."""
    found = _MTIME.fullmatch(answer.get("Metadata", {}).get("mtime", ""))
    if found is None:
        return None
    return int(found[1]) * 10**9 + int((found[2] or "").ljust(9, "0"))


def check_framed(answer: Mapping[str, Any]) -> None:
    """Refuse a body that only the end of the connection ends: nobody could see that it was cut short.

    Raises:
        ConnectionError: the answer has neither a length nor chunks.
    """
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if "content-length" not in headers and "transfer-encoding" not in headers:
        raise ConnectionError("the answer does not say how long it is")


def check_bodiless(answer: Mapping[str, Any]) -> None:
    """Refuse an answer to a deletion that brings something along, as a sign-in page does.

    Raises:
        ConnectionError: it does.
    """
    meta = answer["ResponseMetadata"]
    if meta["HTTPStatusCode"] != 204 and meta["HTTPHeaders"].get("content-length", "0") != "0":
        raise ConnectionError("the answer has a body, so it does not come from an S3 service")


def read_body(body: StreamingBody, limit: int, beat: Beat) -> bytes:
    """The body up to ``limit`` bytes. Reading on to its end is what makes botocore check its length."""
    # Joined as they come: a list of parts would need the memory twice in the end.
    joined = io.BytesIO()
    size = PIECE
    while limit > 0:
        began = time.monotonic()
        part = body.read(min(limit, size))
        if not part:
            break
        beat(len(part))
        joined.write(part)
        limit -= len(part)
        # Each read costs some calls in Python. A connection that fills a piece at once fills a larger one
        # in time as well; one that falters is asked for the least again.
        size = min(2 * size, _MAX_PIECE) if time.monotonic() - began < _AT_ONCE else PIECE
    return joined.getvalue()


def cut_range(key: str, body: StreamingBody, size: int | None, offset: int, length: int, beat: Beat) -> bytes:
    """The wanted range out of a whole object, from a server that knows no ranges; never holds the rest.

    Raises:
        FormatError: the object of ``size`` bytes ends before the range does.
        ConnectionError: the answer did.
    """
    if size is not None and size < offset + length:
        raise too_short(key, offset + length, size)
    while offset > 0:
        skipped = body.read(min(offset, PIECE))
        if not skipped:
            raise ConnectionError("the answer ended early")
        beat(len(skipped))
        offset -= len(skipped)
    data = read_body(body, length, beat)
    if len(data) != length:
        raise ConnectionError("the answer ended early")
    return data
