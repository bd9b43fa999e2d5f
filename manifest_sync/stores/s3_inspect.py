"""Questions to an S3 endpoint that only `doctor` asks."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from manifest_sync.config import Location
from manifest_sync.errors import AccessDenied, StoreUnavailable
from manifest_sync.stores.retry import Retry, Transient
from manifest_sync.stores.s3_bodies import md5_of
from manifest_sync.stores.s3_client import client_for, session_for
from manifest_sync.stores.s3_failures import REQUEST_ERRORS, Failures, holds_secret
from manifest_sync.stores.s3_refusals import MISSING_HINT

IMPATIENT_SECONDS = 10.0
"""Without a byte for so long a request counts as lost."""
IMPATIENT = Retry(tries=2, base=0.2, cap=1.0)


def greet_endpoint(location: Location) -> tuple[str, str, float | None]:
    """The endpoint's address, what it calls itself, and its clock in Unix seconds (None: unknown)."""
    client = client_for(location, None, IMPATIENT_SECONDS, Config(signature_version=UNSIGNED))
    endpoint = client.meta.endpoint_url
    try:
        answer = client.head_bucket(Bucket=location.bucket)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:
        # 403 and 404 are answers too: unsigned requests are hardly ever allowed anything.
        headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
    except REQUEST_ERRORS as error:
        raise _told(location, endpoint, error, "the bucket") from error
    finally:
        client.close()
    return endpoint, headers.get("server", "it does not say what it is"), _date(headers.get("date", ""))


def identify_key(location: Location) -> str:
    """The access key in part, and where it comes from."""
    try:
        found = session_for(location).get_credentials()
        key = None if found is None else found.get_frozen_credentials().access_key
    except REQUEST_ERRORS as error:
        raise _told(location, location.endpoint_url, error, "credentials") from error
    if found is None or key is None:
        raise AccessDenied(f"there are no credentials for s3://{location.bucket}", MISSING_HINT)
    source = "R2_ACCESS_KEY_ID or rclone.conf" if location.access_key else found.method
    return f"access key {_shortened(key)} from {source}"


def refuses_wrong_md5(location: Location, key: str) -> bool:
    """Whether an upload whose Content-MD5 is that of another body is refused."""
    client = client_for(location, None, IMPATIENT_SECONDS)
    name = f"{location.prefix}/{key}" if location.prefix else key
    try:
        client.put_object(Bucket=location.bucket, Key=name, Body=b"damaged", ContentMD5=md5_of(b"whole"))
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in {"BadDigest", "InvalidDigest"}:
            return True
        raise _told(location, client.meta.endpoint_url, error, key) from error
    except REQUEST_ERRORS as error:
        told = _told(location, client.meta.endpoint_url, error, key)
        raise told from (None if holds_secret(error) else error)
    finally:
        client.close()
    return False


def _told(location: Location, endpoint: str, error: Exception, key: str) -> Exception:
    told = Failures(str(location), location.bucket, endpoint).translate(error, key)
    if isinstance(told, Transient):
        return told.error
    return told if hasattr(told, "exit_code") else StoreUnavailable(f"{location}: {told}", "try again")


def _shortened(access_key: str) -> str:
    return access_key if len(access_key) <= 8 else f"{access_key[:4]}...{access_key[-4:]}"


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
