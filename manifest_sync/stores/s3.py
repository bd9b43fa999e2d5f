"""A store in a bucket of an S3-compatible service: Cloudflare R2, AWS, Ceph, SeaweedFS and others.

boto3's own retries are switched off: they would repeat a conditional write whose first answer was lost,
and then report one's own write as someone else's.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

from manifest_sync.config import Location
from manifest_sync.errors import StoreUnavailable, UsageError
from manifest_sync.stores.base import (
    Listed,
    NotFound,
    Object,
    Part,
    PreconditionFailed,
    RequestCounter,
    Unknown,
    check_size,
    not_beside,
    too_short,
)
from manifest_sync.stores.notes import Notes
from manifest_sync.stores.pace import Pace
from manifest_sync.stores.patience import Beat, Patience
from manifest_sync.stores.retry import Retry, Transient
from manifest_sync.stores.s3_bodies import (
    Upload,
    check_bodiless,
    check_framed,
    cut_range,
    etag_of,
    md5_of,
    noted_mtime,
    read_body,
)
from manifest_sync.stores.s3_client import CONNECT_TIMEOUT, client_for
from manifest_sync.stores.s3_etags import EtagForm
from manifest_sync.stores.s3_failures import REQUEST_ERRORS, Failures, Unchanged, holds_secret

T = TypeVar("T")

READ_TIMEOUT = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class S3Store:
    """Keeps the contract of `Store` in the part of a bucket below ``location.prefix``.

    Args:
        location: bucket, endpoint and credentials; empty credentials mean the AWS chain.
        retry: how often and how long to try again.
        verify: path of a PEM file to trust instead of the system's; None: ``AWS_CA_BUNDLE`` or the system's.
        read_timeout: seconds without a byte after which a request counts as lost.
        patience: when a request counts as lost although a byte comes now and then.
        pace: the rate that this store keeps to, with whoever else has it.
        note: told in a line what a person waits for.

    Raises:
        UsageError: no bucket, or an endpoint that is no URL.
        AccessDenied: the profile named does not exist.
    """

    def __init__(
        self,
        location: Location,
        *,
        retry: Retry | None = None,
        verify: str | None = None,
        read_timeout: float = READ_TIMEOUT,
        patience: Patience | None = None,
        pace: Pace | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        if not location.bucket:
            raise UsageError("the location names no bucket", "write it as s3://BUCKET/PREFIX")
        self._retry = retry or Retry()
        self._count = RequestCounter()
        waits = patience or Patience(CONNECT_TIMEOUT + read_timeout)
        self._patience = waits if pace is None else replace(waits, pace=pace)
        self._notes = Notes(note)
        self._etags = EtagForm(self._swap, self._current_etag, self.delete)
        self._client = client_for(location, verify, read_timeout)
        self._settle(location.bucket, location.prefix.strip("/"))

    def _settle(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._location = f"s3://{bucket}/{prefix}".rstrip("/")
        self._failures = Failures(self._location, bucket, self._client.meta.endpoint_url)

    @property
    def location(self) -> str:
        """See `Store`."""
        return self._location

    @property
    def requests(self) -> Counter[str]:
        """See `Store`."""
        return self._count.counts

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        """See `Store`."""
        options: dict[str, Any] = {} if unless_etag is None else {"IfNoneMatch": unless_etag}

        def request(beat: Beat) -> Object:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **options)
            with closing(answer["Body"]) as body:
                etag = etag_of(answer)
                check_framed(answer)
                check_size(key, answer.get("ContentLength", 0), max_bytes)
                data = read_body(body, max_bytes + 1, beat)
            check_size(key, len(data), max_bytes)
            return Object(data, etag)

        try:
            outcomes = (NotFound, Unchanged) if unless_etag else (NotFound,)
            return self._call("GET", key, request, outcomes)
        except Unchanged:
            return None

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        """See `Store`."""
        return self.get_part(key, offset, length, etag=etag).data

    def get_part(self, key: str, offset: int, length: int, *, etag: str | None) -> Part:
        """See `Readable`."""
        if length == 0:
            return Part(b"")
        options: dict[str, Any] = {} if etag is None else {"IfMatch": etag}

        def request(beat: Beat) -> Part:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Range=f"bytes={offset}-{offset + length - 1}",
                **options,
            )
            with closing(answer["Body"]) as body:
                etag_of(answer)
                mtime_ns = noted_mtime(answer)
                if answer["ResponseMetadata"]["HTTPStatusCode"] == 200:
                    check_framed(answer)
                    whole = answer.get("ContentLength")
                    return Part(cut_range(key, body, whole, offset, length, beat), mtime_ns)
                self._check_range(key, answer.get("ContentRange", ""), offset, length)
                data = read_body(body, length + 1, beat)
            if len(data) != length:
                raise ConnectionError(f"{len(data)} bytes came instead of {length}")
            return Part(data, mtime_ns)

        outcomes = (NotFound,) if etag is None else (NotFound, PreconditionFailed)
        return self._call("GET", key, request, outcomes, range_end=offset + length)

    def _check_range(self, key: str, answered: str, offset: int, length: int) -> None:
        found = _CONTENT_RANGE.fullmatch(answered)
        if found is not None:
            if found[3] != "*" and int(found[3]) < offset + length:
                raise too_short(key, offset + length, int(found[3]))
            if int(found[1]) == offset and int(found[2]) == offset + length - 1:
                return
        raise StoreUnavailable(
            f"{self._location}: {key}: bytes {offset}-{offset + length - 1} were asked for and "
            f"{answered or 'no range'} was answered",
            "a proxy or the store mishandles ranged reads",
        )

    def put(self, key: str, body: bytes) -> None:
        """See `Store`."""
        self._call("PUT", key, self._upload(key, body, {}), ())

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        """See `Store`."""
        if etag is None:
            return self._swap(key, body, {"IfNoneMatch": "*"})
        return self._etags.replace(key, body, etag)

    def _swap(self, key: str, body: bytes, condition: Mapping[str, str]) -> str:
        request = self._upload(key, body, condition)

        # A request that never arrived or that the store turned away (429; 503 SlowDown: R2 does so above
        # one write a second on a key) had no effect and is sent again. After a timeout, a reset or a 500
        # it may have had: repeating it could answer 412 for one's own write, so the caller must look.
        try:
            return self._retry.run(
                lambda: self._once("PUT", key, request, (NotFound, PreconditionFailed)),
                only_rejected=True,
                on_wait=self._notes.on_wait,
            )
        except Transient as failure:
            if failure.rejected:
                raise failure.error from failure.__cause__
            raise Unknown(key, failure.error) from failure.__cause__
        except NotFound:
            # If-Match on a missing key: AWS says 404 where R2 says 412.
            raise PreconditionFailed(key) from None

    def _current_etag(self, key: str) -> str:
        def request(_: Beat) -> str:
            return etag_of(self._client.head_object(Bucket=self._bucket, Key=self._prefix + key))

        return self._call("HEAD", key, request, (NotFound,))

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Store`."""
        token = ""
        while True:
            options: dict[str, Any] = {"ContinuationToken": token} if token else {}

            def request(_: Beat, options: dict[str, Any] = options) -> Any:
                return self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=self._prefix + prefix, **options
                )

            try:
                page = self._call("LIST", f"{prefix}*", request, (NotFound,))
            except NotFound as error:
                raise StoreUnavailable(
                    f"{self._location} cannot be listed: {error.__cause__}", "check endpoint_url"
                ) from error
            if "IsTruncated" not in page:
                # A web page that happens to parse would otherwise pass for an empty bucket.
                raise StoreUnavailable(
                    f"{self._location}: the listing of {prefix!r} was not answered like an S3 service does",
                    "check endpoint_url: it must name the S3 endpoint, without the bucket",
                )
            for item in page.get("Contents", ()):
                yield Listed(
                    item["Key"].removeprefix(self._prefix),
                    item["Size"],
                    item.get("ETag", ""),
                    item["LastModified"].timestamp(),
                )
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken", "")
            if not following or following == token:
                raise StoreUnavailable(
                    f"{self._location}: the listing of {prefix!r} does not end", "the store is at fault"
                )
            token = following

    def delete(self, key: str) -> None:
        """See `Store`."""

        def request(_: Beat) -> None:
            check_bodiless(self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key))

        try:
            self._call("DELETE", key, request, (NotFound,))
        except NotFound:
            return

    def beside(self, place: str) -> S3Store:
        """See `Store`."""
        if not place.startswith("s3://"):
            raise not_beside(self._location, place)
        other = copy.copy(self)
        other._settle(place.removeprefix("s3://"), "")
        return other

    def close(self) -> None:
        """See `Store`."""
        self._client.close()

    def _upload(self, key: str, body: bytes, condition: Mapping[str, str]) -> Callable[[Beat], str]:
        """The request that writes ``body``; it gives the new ETag."""
        options: dict[str, Any] = {"ContentMD5": md5_of(body), **condition}

        def request(beat: Beat) -> str:
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=Upload(body, beat), **options
            )
            return etag_of(answer)

        return request

    def _call(
        self,
        kind: str,
        key: str,
        request: Callable[[Beat], T],
        outcomes: tuple[type[Exception], ...],
        *,
        range_end: int = 0,
    ) -> T:
        """Make a request that may be repeated without harm."""
        try:
            return self._retry.run(
                lambda: self._once(kind, key, request, outcomes, range_end),
                on_wait=self._notes.on_wait,
            )
        except Transient as failure:
            raise failure.error from failure.__cause__

    def _once(
        self,
        kind: str,
        key: str,
        request: Callable[[Beat], T],
        outcomes: tuple[type[Exception], ...],
        range_end: int = 0,
    ) -> T:
        self._count.add(kind)
        try:
            return self._patience.run(request, lambda idle: self._notes.on_silence(f"{kind} {key}", idle))
        except REQUEST_ERRORS as error:
            if range_end and _status(error) == 416:
                raise too_short(key, range_end) from error
            has_read = bool(self._count.counts["GET"])
            told = self._failures.translate(error, key, outcomes, kind=kind, has_read=has_read)
            raise told from (None if holds_secret(error) else error)


def _status(error: Exception) -> int:
    response: dict[str, Any] = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
