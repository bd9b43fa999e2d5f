"""What each failure of an S3 request means: absent, refused, passing, or for a person to mend."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from manifest_sync.errors import AccessDenied, ManifestSyncError, NoRepository, StoreUnavailable, UsageError
from manifest_sync.stores.base import NotFound, PreconditionFailed
from manifest_sync.stores.retry import Transient, parse_retry_after
from manifest_sync.stores.s3_refusals import MISSING_HINT, refusal

REQUEST_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)
"""Everything that boto3 and the connection below it raise for a request."""

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    NoAuthTokenError,
    TokenRetrievalError,
    SSOError,
)
_DENIED_CODES = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidArgument.AccessKey",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "Unauthorized",
}
# How releases of OpenSSL call an answer that is no TLS at all.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_PASSING_CODES = {"RequestTimeout", "InternalError", "SlowDown", "ServiceUnavailable", "Throttling"}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
# A request that S3 itself turned away before it did anything. A 503 with any other body may come from a
# proxy in between, which cannot know what happened behind it.
_TURNED_AWAY_CODES = {
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "BadDigest",
}
_CONNECT_TRIES = 3
_ODD_TRIES = 3
_SILENT_TRIES = 3
"""A store that let a request wait for so many timeouts rarely comes back within minutes."""


class Unchanged(Exception):
    """304: the object still has the ETag that was named."""


@dataclass(frozen=True, slots=True)
class Failures:
    """Translates the failures of one bucket. ``location`` and ``endpoint`` are for the messages."""

    location: str
    bucket: str
    endpoint: str

    def translate(
        self,
        error: Exception,
        key: str,
        outcomes: tuple[type[Exception], ...] = (),
        *,
        kind: str = "",
        has_read: bool = False,
    ) -> Exception:
        """The exception to raise for ``error``: one of `Store`'s, `Transient`, or `Unchanged`.

        Args:
            error: what the request raised.
            key: the object that was asked for.
            outcomes: which of `NotFound`, `PreconditionFailed` and `Unchanged` the request can end with. Any
                other of them answers a question that was not asked: a cache gone wrong, or (409) a write of
                the same key that is still under way.
            kind, has_read: see `s3_refusals.refusal`.
        """
        if isinstance(error, ClientError):
            answered = self._answered(error, key, kind, has_read)
            if isinstance(answered, (NotFound, PreconditionFailed, Unchanged)) and not isinstance(
                answered, outcomes
            ):
                return Transient(self._kept_failing(key, _one_line(error)), max_tries=_ODD_TRIES)
            return answered
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(f"no usable credentials for {self.location}: {error}", MISSING_HINT)
        if holds_secret(error):
            return AccessDenied(
                f"the key or the session token for {self.location} has a line break or the like in it",
                "set it again, as one line of plain letters and digits",
            )
        if isinstance(error, ParamValidationError):
            return UsageError(f"{self.location}: {_one_line(error)}", "check bucket, prefix and endpoint")
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return StoreUnavailable(
                f"the certificate of {self.endpoint} cannot be verified: {_one_line(error)}",
                "for a private certificate authority set AWS_CA_BUNDLE to its PEM file",
            )
        if isinstance(error, SSLError) and any(sign in str(error) for sign in _NO_TLS):
            return StoreUnavailable(
                f"{self.endpoint} does not answer in TLS: {_one_line(error)}",
                "if the server speaks plain http, let endpoint_url begin with http://",
            )
        if isinstance(error, ResponseParserError):
            return StoreUnavailable(
                f"{self.endpoint} did not answer like an S3 service: {_one_line(error)}",
                "check endpoint_url: it must name the S3 endpoint, without the bucket",
            )
        if isinstance(error, (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)):
            unreachable = StoreUnavailable(
                f"{self.endpoint} cannot be reached: {_one_line(error)}",
                "check the network and endpoint_url; nothing was lost, run the same command again",
            )
            # No connection, so nothing was sent. Fewer tries: being offline rarely passes in seconds.
            return Transient(unreachable, rejected=True, max_tries=_CONNECT_TRIES)
        is_silent = isinstance(error, (ReadTimeoutError, TimeoutError))
        return Transient(
            self._kept_failing(key, _one_line(error)), max_tries=_SILENT_TRIES if is_silent else 0
        )

    def _answered(self, error: ClientError, key: str, kind: str, has_read: bool) -> Exception:
        meta = error.response.get("ResponseMetadata", {})
        status = int(meta.get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        answer = f"{status} {code}: {message}" if code != str(status) else f"{status} {message}"
        if status == 304:
            return Unchanged()
        if code == "NoSuchBucket":
            return NoRepository(
                f"the bucket {self.bucket!r} does not exist at {self.endpoint}",
                "create it, or correct its name: in manifest-sync.toml, or as it was typed",
            )
        if code in _DENIED_CODES or status in {401, 403}:
            return refusal(
                kind, key, location=self.location, code=code, answer=answer.rstrip(" .:"), has_read=has_read
            )
        if status == 404:
            return NotFound(key)
        if status in {409, 412}:
            return PreconditionFailed(key)
        if status in _PASSING_STATUS or code in _PASSING_CODES or code in _TURNED_AWAY_CODES:
            return Transient(
                self._kept_failing(key, answer),
                rejected=status == 429 or code in _TURNED_AWAY_CODES,
                retry_after=parse_retry_after(meta.get("HTTPHeaders", {}).get("retry-after")),
            )
        if status >= 500:
            return StoreUnavailable(f"{self.location}: {key}: {answer}", "try again")
        return ManifestSyncError(
            f"{self.location} refused {key}: {answer}", "check bucket, region and endpoint_url"
        )

    def _kept_failing(self, key: str, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.location}: {key}: {what}",
            "the store kept failing; nothing was lost, run the same command again",
        )


def holds_secret(error: Exception) -> bool:
    """Whether the text of ``error`` has the session token in it, or the key's id and a signature: it must not
    be printed, nor be the cause of what is."""
    return isinstance(error, HTTPClientError) and "Invalid header value" in str(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
