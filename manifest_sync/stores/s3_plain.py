"""Plain objects in an S3 bucket, as other tools expect them: any size, with a type and a time."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifest_sync.errors import StoreUnavailable
from manifest_sync.etags import PartsMd5, part_sizes
from manifest_sync.stores.base import NotFound
from manifest_sync.stores.patience import Beat
from manifest_sync.stores.s3 import S3Store
from manifest_sync.stores.s3_bodies import Upload, etag_of, md5_of

PART = 16 << 20
"""Bytes of one request. A larger file goes in parts."""
MAX_PARTS = 10_000
_BLOCK = 1 << 20
_TYPES = mimetypes.MimeTypes()
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file on the disk on its way to a key."""

    path: str
    size: int
    mtime_ns: int

    @property
    def part_size(self) -> int:
        """Bytes of each of its parts but the last; `PART` unless that would be too many parts."""
        least = -(-self.size // MAX_PARTS)
        return max(PART, -(-least // _BLOCK) * _BLOCK)

    def has_etag(self, etag: str) -> bool:
        """Whether an object with this ETag holds the same bytes, whatever tool wrote it in whatever parts."""
        if etag == self.etag():
            return True
        for sizes in part_sizes(etag, self.size):
            sums = [PartsMd5(part) for part in sizes]
            for offset in range(0, self.size, PART):
                data = _read(self.path, offset, PART)
                for one in sums:
                    one.update(data)
            if any(one.matches(etag) for one in sums):
                return True
        return False

    def etag(self) -> str:
        """The ETag that an upload of it gets: its MD5, or that of the MD5s of its parts and their number."""
        if self.size <= PART:
            return _md5(self.path, 0, self.size).hex()
        size = self.part_size
        sums = [_md5(self.path, offset, size) for offset in range(0, self.size, size)]
        return f"{_hash(b''.join(sums)).hexdigest()}-{len(sums)}"


class PlainS3(S3Store):
    """An `S3Store` that takes files. Not part of `Store`: a repository consists of small objects."""

    def put_file(self, key: str, file: PlainFile) -> str:
        """Write or replace an object; its new ETag, without quotes.

        It gets the type that its name says, and its time as rclone keeps it; in parts also its MD5.
        """
        given: dict[str, Any] = {
            "ContentType": content_type(key),
            "Metadata": {"mtime": f"{file.mtime_ns // 10**9}.{file.mtime_ns % 10**9:09d}"},
        }
        if file.size > PART:
            return self._put_parts(key, file, given)
        body = _read(file.path, 0, file.size)

        def request(beat: Beat) -> str:
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Body=Upload(body, beat),
                ContentMD5=md5_of(body),
                **given,
            )
            return etag_of(answer)

        return self._call("PUT", key, request, ()).strip('"')

    def _put_parts(self, key: str, file: PlainFile, given: dict[str, Any]) -> str:
        whole = _md5(file.path, 0, file.size)
        given["Metadata"]["md5chksum"] = base64.b64encode(whole).decode()
        names: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + key}

        def begin(_: Beat) -> str:
            return self._client.create_multipart_upload(**names, **given)["UploadId"]

        upload = self._call("PUT", key, begin, ())
        try:
            parts = []
            for number, offset in enumerate(range(0, file.size, file.part_size), start=1):
                body = _read(file.path, offset, file.part_size)
                etag = self._call("PUT", key, self._part(names, upload, number, body), ())
                parts.append({"PartNumber": number, "ETag": etag})
            return self._complete(key, names, upload, parts, file.etag())
        except BaseException:
            self._abort(names, upload)
            raise

    def _part(self, names: dict[str, Any], upload: str, number: int, body: bytes) -> Callable[[Beat], str]:
        def request(beat: Beat) -> str:
            answer = self._client.upload_part(
                **names,
                UploadId=upload,
                PartNumber=number,
                Body=Upload(body, beat),
                ContentMD5=md5_of(body),
            )
            return etag_of(answer)

        return request

    def _complete(
        self, key: str, names: dict[str, Any], upload: str, parts: list[dict[str, Any]], etag: str
    ) -> str:
        def request(_: Beat) -> str:
            answer = self._client.complete_multipart_upload(
                **names,
                UploadId=upload,
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
            )
            return etag_of(answer)

        try:
            return self._call("PUT", key, request, (NotFound,)).strip('"')
        except NotFound as error:
            # The upload is unknown: an answer may have been lost, and this was the second try.
            try:
                found = self._current_etag(key).strip('"')
            except NotFound:
                found = ""
            if found == etag:
                return found
            raise StoreUnavailable(
                f"{self._location}: {key}: the store lost its parts before they were put together",
                "run the same command again",
            ) from error

    def _abort(self, names: dict[str, Any], upload: str) -> None:
        """Parts that never become an object are paid for all the same. That this fails changes nothing."""
        try:
            self._client.abort_multipart_upload(**names, UploadId=upload)
        except Exception:  # noqa: BLE001  the error under way is the one to tell of
            return


def content_type(key: str) -> str:
    """What the name says about the content, the same on every machine."""
    kind, packed = _TYPES.guess_type(f"x/{key}", strict=True)
    if packed:
        return _PACKED.get(packed, "application/octet-stream")
    return kind or "application/octet-stream"


def _read(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        parts = []
        while length and (data := file.read(length)):
            parts.append(data)
            length -= len(data)
    return b"".join(parts)


def _md5(path: str, offset: int, length: int) -> bytes:
    digest = _hash()
    with open(path, "rb") as file:
        file.seek(offset)
        while length and (data := file.read(min(length, _BLOCK))):
            digest.update(data)
            length -= len(data)
    return bytes(digest.digest())


def _hash(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)
