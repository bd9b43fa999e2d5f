"""Stores: where a repository's objects lie."""

from __future__ import annotations

from manifest_sync.config import Location
from manifest_sync.stores.base import Store


def open_store(location: Location) -> Store:
    """The store at a location; the S3 library is imported only for S3."""
    if location.scheme == "s3":
        from manifest_sync.stores.s3 import S3Store  # noqa: PLC0415

        return S3Store(location)
    from manifest_sync.stores.directory import DirectoryStore  # noqa: PLC0415

    return DirectoryStore(location.path)
