"""The boto3 client of one place: whose credentials, which endpoint, and none of boto3's own repeating."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from manifest_sync.config import Location
from manifest_sync.errors import AccessDenied, UsageError
from manifest_sync.stores.s3_bodies import Upload

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSRequest
    from mypy_boto3_s3.client import S3Client

MAX_CONNECTIONS = 64
CONNECT_TIMEOUT = 10.0


def session_for(location: Location) -> boto3.session.Session:
    """A session with the location's credentials; empty ones leave it to the AWS chain.

    Raises:
        AccessDenied: the profile named does not exist.
    """
    try:
        return boto3.session.Session(
            aws_access_key_id=location.access_key or None,
            aws_secret_access_key=location.secret_key or None,
            aws_session_token=location.session_token or None,
            profile_name=location.profile or None,
        )
    except ProfileNotFound as error:
        raise AccessDenied(str(error), "check AWS_PROFILE and ~/.aws/config") from error


def client_for(
    location: Location, verify: str | None, read_timeout: float, extra: Config | None = None
) -> S3Client:
    """A client for the location's bucket; it never repeats a request by itself.

    Raises:
        UsageError, AccessDenied: as `S3Store`.
    """
    endpoint = location.endpoint_url
    if endpoint and urlsplit(endpoint).scheme not in {"http", "https"}:
        raise UsageError(f"the endpoint {endpoint!r} is no http or https URL", "write https://HOST")
    style: Any = "auto"
    if endpoint:
        style = "path" if location.path_style else "virtual"
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": style},
        max_pool_connections=MAX_CONNECTIONS,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Over TLS boto3 would send its default checksum as a trailer of a chunked body, which R2, Ceph
        # and others refuse; every write carries Content-MD5 instead.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session = session_for(location)
    try:
        client = session.client(
            "s3",
            region_name=location.region or _default_region(endpoint, session.region_name),
            endpoint_url=endpoint or None,
            verify=verify,
            config=config.merge(extra) if extra is not None else config,
        )
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-sign.s3.{operation}", _without_expect)
            client.meta.events.register(f"before-send.s3.{operation}", _begin)
        return client
    except ProfileNotFound as error:
        raise AccessDenied(str(error), "check AWS_PROFILE and ~/.aws/config") from error
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"s3://{location.bucket}: {error}", "check endpoint_url, region and keys") from error


def _without_expect(request: AWSRequest, **_: object) -> None:
    """Take out ``Expect: 100-continue``: R2 does not answer it, and botocore waits a second each time."""
    del request.headers["Expect"]


def _begin(request: AWSPreparedRequest, **_: object) -> None:
    """Tell a body that it is read to be sent from now on."""
    if isinstance(request.body, Upload):
        request.body.begin()


def _default_region(endpoint: str, configured: str | None) -> str:
    if (urlsplit(endpoint).hostname or "").endswith(".r2.cloudflarestorage.com"):
        return "auto"
    return configured or "us-east-1"
