"""The part of the index that remembers what `adopt` has seen outside the repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from manifest_sync.index.connection import IndexConnection, batches, schema
from manifest_sync.model import Path

_TABLE = re.compile(r"CREATE TABLE (adopted .*?;)", re.DOTALL)
_SAME = (
    "url = excluded.url AND etag = excluded.etag AND size = excluded.size"
    " AND (etag <> '' OR modified = excluded.modified)"
)
_NOTE = (
    "INSERT INTO adopted (path, url, etag, size, modified, listing) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
    " ON CONFLICT (path) DO UPDATE SET listing = excluded.listing,"
    f" entry = CASE WHEN {_SAME} THEN entry END, snapshot = CASE WHEN {_SAME} THEN snapshot END,"
    " url = excluded.url, etag = excluded.etag, size = excluded.size, modified = excluded.modified"
)
_COLUMNS = "path, url, etag, size, modified, entry, coalesce(snapshot, '')"
_LISTED = "FROM adopted WHERE path >= ? AND listing = ?"


class Outsider(NamedTuple):
    """One object that was listed for adoption, under the path it is to have.

    ``modified`` in nanoseconds. ``entry`` is kept once the object was read; ``snapshot`` is the one that
    it was to be published with, and '' before.
    """

    path: Path
    url: str
    etag: str
    size: int
    modified: int
    entry: bytes | None = None
    snapshot: str = ""


class AdoptedTable(IndexConnection):
    """What was listed outside, and what came of it."""

    def begin_listing(self) -> int:
        """The number of a new listing."""
        found = _TABLE.search(schema())
        assert found is not None
        self._write(f"CREATE TABLE IF NOT EXISTS {found[1]}")
        return int(self._value("SELECT coalesce(max(listing), 0) + 1 FROM adopted"))

    def note_listed(self, listing: int, found: Iterable[Outsider]) -> None:
        """Note what a listing shows; of an object that has changed, what is known is forgotten."""
        with self._atomic():
            for batch in batches(found):
                self._many(_NOTE, [(*item[:5], listing) for item in batch])

    def iter_listed(self, listing: int) -> Iterator[Outsider]:
        """What a listing showed, in path order, in batches: rows already seen may be changed."""
        sql = f"SELECT {_COLUMNS} {_LISTED} ORDER BY path LIMIT ?"
        for rows in self._batches(sql, b"", listing, size=1000):
            yield from (Outsider(*row) for row in rows)

    def listed_at(self, listing: int, path: Path) -> Outsider | None:
        """What a listing showed for a path."""
        row = self._first(f"SELECT {_COLUMNS} {_LISTED} AND path = ?", (path, listing, path))
        return None if row is None else Outsider(*row)

    def note_past(self, paths: Iterable[Path], snapshot: str) -> None:
        """Note that a snapshot has these objects at their paths, where nothing is known yet."""
        sql = "UPDATE adopted SET snapshot = ? WHERE path = ? AND snapshot IS NULL"
        with self._atomic():
            self._many(sql, ((snapshot, path) for path in paths))

    def count_unread(self, listing: int) -> tuple[int, int]:
        """Number and bytes of the objects of a listing that were not read yet."""
        found: tuple[int, int] = self._first(
            f"SELECT count(*), coalesce(sum(size), 0) {_LISTED} AND entry IS NULL",
            (b"", listing),
        )
        return found

    def put_read(self, rows: Iterable[tuple[Path, bytes]]) -> None:
        """Note the entries made of objects."""
        with self._atomic():
            self._many("UPDATE adopted SET entry = ? WHERE path = ?", ((data, path) for path, data in rows))

    def note_adopting(self, listing: int, snapshot: str) -> None:
        """Note the snapshot that what is planned is about to be published with."""
        self._write(
            "UPDATE adopted SET snapshot = ? WHERE listing = ? AND entry IS NOT NULL"
            " AND path IN (SELECT path FROM pending WHERE planned <> 0)",
            (snapshot, listing),
        )
