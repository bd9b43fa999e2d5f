"""The index's errors in the user's words."""

from __future__ import annotations

import sqlite3

from manifest_sync.errors import Contended, IndexDamaged, ManifestSyncError

REBUILD = "run manifest-sync rebuild-index"
CHECK_DISK = "check free space and permissions of its folder, then run the same command again"


def cannot_use(path: str, error: OSError) -> ManifestSyncError:
    """The disk does not let the index be written."""
    return ManifestSyncError(f"cannot use the local index {path}: {error.strerror}", CHECK_DISK)


def translate(error: sqlite3.DatabaseError, path: str) -> ManifestSyncError | None:
    """The error a user understands; None for a mistake in this program, which must stay visible."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}:
        return IndexDamaged(f"the local index {path} is damaged: {error}", REBUILD)
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return Contended(
            f"another process is writing the local index {path}", "try again when it has finished"
        )
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
        return ManifestSyncError(f"cannot use the local index {path}: {error}", CHECK_DISK)
    return None
