"""Where objects are kept: an S3 bucket, a folder, or memory. `open_store` picks by the location's scheme."""

from __future__ import annotations

from collections.abc import Callable

from manifest_sync.config import Location
from manifest_sync.errors import UsageError
from manifest_sync.stores.base import Store
from manifest_sync.stores.pace import Pace

__all__ = ["open_store"]


def open_store(
    location: Location,
    *,
    patient: bool = True,
    note: Callable[[str], None] = lambda _: None,
    pace: Pace | None = None,
) -> Store:
    """Open the store at ``location``. No request is made before the first call of a method.

    Args:
        location: where it is.
        patient: without it a request that fails is repeated once and soon, not for minutes.
        note: told in a line what a person waits for, when the store does not answer.
        pace: the rate that the store keeps to.

    Raises:
        UsageError: the location cannot be one (no bucket, a relative folder, a bad endpoint).
        AccessDenied: a credentials profile is named that does not exist.
    """
    # Each is imported only where it is used: boto3 alone costs half a second.
    if location.scheme == "s3":
        from manifest_sync.stores.s3 import S3Store  # noqa: PLC0415

        if patient:
            return S3Store(location, note=note, pace=pace)
        from manifest_sync.stores.s3_inspect import IMPATIENT, IMPATIENT_SECONDS  # noqa: PLC0415

        return S3Store(location, retry=IMPATIENT, read_timeout=IMPATIENT_SECONDS)
    if location.scheme == "file":
        from manifest_sync.stores.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(location.path, pace)
    if location.scheme == "memory":
        from manifest_sync.stores.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore.shared(location.path)
    raise UsageError(f"no store is known for {location.scheme!r}", "use s3://BUCKET/PREFIX or a folder")
