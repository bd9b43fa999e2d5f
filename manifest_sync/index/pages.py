"""The part of the index that caches the bucket and keeps the journal of unfinished runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from manifest_sync.index.connection import IndexConnection
from manifest_sync.model import Hash, Path, State
from manifest_sync.pages import PageRef

DELETE_EMPTY = "DELETE FROM paths WHERE path = ? AND local IS NULL AND base IS NULL AND remote IS NULL"
_BLOB = (bytes, type(None))
_PUT_REMOTE = (
    "INSERT INTO paths (path, remote) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET remote = excluded.remote"
)


class PageTables(IndexConnection):
    """Pages, chunk hints, and what is uploaded and unpublished."""

    def save_page_bodies(self, pages: Iterable[tuple[PageRef, bytes]]) -> None:
        """Keep the stored bodies of pages, as the repository hands them over; one transaction."""
        with self._atomic():
            for ref, body in pages:
                self.save_page(ref.id, ref.session, body, ref.first, ref.last)

    def save_page(self, page_id: str, session: str, body: bytes, first: bytes, last: bytes) -> None:
        """Keep a page's stored body; ``first`` and ``last`` are its lowest and highest path."""
        self._write(
            "INSERT INTO pages (id, session, first, last, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id)"
            " DO UPDATE SET session = excluded.session, first = excluded.first, last = excluded.last,"
            " body = excluded.body",
            (page_id, session, first, last, body),
        )

    def load_page_body(self, page_id: str) -> bytes | None:
        """The stored body of a page, None when it is not kept here."""
        body = self._value("SELECT body FROM pages WHERE id = ?", (page_id,))
        return body if isinstance(body, bytes) else None

    def reflected(self) -> set[str]:
        """Ids of the pages whose entries the ``remote`` column holds."""
        return {row[0] for row in self._rows("SELECT id FROM pages WHERE reflected = 1")}

    def reflected_ranges(self) -> list[tuple[str, bytes, bytes]]:
        """Id, first and last path of each reflected page, in path order."""
        rows = self._rows("SELECT id, first, last FROM pages WHERE reflected = 1 ORDER BY first")
        return [self._typed(row, str, bytes, bytes) for row in rows]

    def reflect_page(self, page_id: str, states: Iterable[tuple[Path, State]]) -> None:
        """Set ``remote`` of a page's paths and mark the page reflected."""
        rows = list(states)
        first, last = (min(rows)[0], max(rows)[0]) if rows else (b"", b"")
        with self._atomic():
            self._many(_PUT_REMOTE, rows)
            self._write(
                "INSERT INTO pages (id, reflected, first, last) VALUES (?, 1, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET reflected = 1,"
                " first = coalesce(first, excluded.first), last = coalesce(last, excluded.last)",
                (page_id, first, last),
            )

    def unreflect_page(self, page_id: str, first: bytes, last: bytes) -> None:
        """Take a page's range, both ends included, out of ``remote``; unreflect before reflecting others."""
        with self._atomic():
            bounds = (first, last)
            self._write(
                "DELETE FROM paths WHERE path BETWEEN ? AND ? AND local IS NULL AND base IS NULL", bounds
            )
            self._write(
                "UPDATE paths SET remote = NULL WHERE path BETWEEN ? AND ? AND remote IS NOT NULL", bounds
            )
            self._write("UPDATE pages SET reflected = 0 WHERE id = ?", (page_id,))

    def drop_pages(self, keep: Collection[str]) -> None:
        """Forget pages that are neither in ``keep`` nor reflected, and the hints into them."""
        gone = [i for (i,) in self._rows("SELECT id FROM pages WHERE reflected = 0") if i not in keep]
        if gone:
            self._drop_pages(gone)

    def _drop_pages(self, gone: Iterable[str]) -> None:
        with self._atomic():
            self._many("DELETE FROM pages WHERE id = ?", ((page_id,) for page_id in gone))
            self._write("DELETE FROM chunks WHERE page NOT IN (SELECT number FROM pages)")

    def replace_pages(self, pages: Iterable[tuple[PageRef, str | None]], live: Collection[str]) -> None:
        """Mark new pages reflected, whose ``remote`` is right already, and forget all that are not ``live``.

        Args:
            pages: each with the id of the page whose hints lead to it from now on, if there is one.
        """
        with self._atomic():
            for page, replaced in pages:
                self._write(
                    "INSERT INTO pages (id, session, reflected, first, last) VALUES (?, ?, 1, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET reflected = 1, first = excluded.first,"
                    " last = excluded.last",
                    (page.id, page.session, page.first, page.last),
                )
                number = self._value("SELECT number FROM pages WHERE id = ?", (replaced,))
                if number is not None:
                    # Hints name a page by its number: so one row is written and not one for each chunk.
                    self._write("DELETE FROM pages WHERE number = ?", (number,))
                    self._write("UPDATE pages SET number = ? WHERE id = ?", (number, page.id))
            self._drop_pages([i for (i,) in self._rows("SELECT id FROM pages") if i not in live])

    def save_chunk_hints(self, page_id: str, chunk_ids: Iterable[Hash]) -> None:
        """Note that these chunks are located by this page; the page noted last wins."""
        with self._atomic():
            self._write("INSERT OR IGNORE INTO pages (id) VALUES (?)", (page_id,))
            number = self._value("SELECT number FROM pages WHERE id = ?", (page_id,))
            self._many(
                "INSERT OR REPLACE INTO chunks (id, page) VALUES (?, ?)", ((c, number) for c in chunk_ids)
            )

    def add_chunk_hints(self, pages: Iterable[tuple[str, Iterable[Hash]]]) -> None:
        """Note where chunks are located that no page is noted for: page ids, each with its chunks."""
        hints: list[tuple[Hash, int]] = []
        for page_id, chunk_ids in pages:
            number = self._value("SELECT number FROM pages WHERE id = ?", (page_id,))
            hints += [(chunk_id, number) for chunk_id in chunk_ids]
        # Neighbours in the table one after the other: several times as fast as in the order of paths.
        hints.sort()
        with self._atomic():
            self._many("INSERT OR IGNORE INTO chunks (id, page) VALUES (?, ?)", hints)

    def drop_chunk_hints(self, chunks: Iterable[tuple[Hash, str]]) -> None:
        """Forget that chunks are located by a page, given by its id; another page that is noted stays."""
        with self._atomic():
            self._many(
                "DELETE FROM chunks WHERE id = ? AND page = (SELECT number FROM pages WHERE id = ?)", chunks
            )

    def page_of_chunk(self, chunk_id: Hash) -> str | None:
        """Id of a page that may locate the chunk: a hint, to be checked against the page."""
        page: str | None = self._value(
            "SELECT pages.id FROM chunks JOIN pages ON number = page WHERE chunks.id = ?", (chunk_id,)
        )
        return page

    def plan_reset(self) -> None:
        """Take every pending row out of the plan, keeping what was uploaded for a later plan."""
        self._write("UPDATE pending SET planned = 0 WHERE planned <> 0")

    def put_pending(
        self, rows: Iterable[tuple[Path, State | None, bytes | None, int]], *, becomes_base: bool = True
    ) -> None:
        """Note planned changes: path, state (None deletes), encoded entry, lowest fence it relies on.

        With ``becomes_base`` False the path is published and its base stays: it is not meant to be here.
        """
        planned = 1 if becomes_base else 2
        with self._atomic():
            self._many(
                "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?)", ((*row, planned) for row in rows)
            )

    def put_states(self, rows: Iterable[tuple[Path, State, int]]) -> None:
        """Set local state and trust of files that are here with the very stat that is noted already: less to
        write than by ``put_local``. What is noted as not here stays so."""
        with self._atomic():
            self._many(
                "UPDATE paths SET local = ?, clean = ? WHERE path = ? AND local IS NOT NULL",
                ((state, clean, path) for path, state, clean in rows),
            )

    def pending_for(self, path: Path) -> tuple[State | None, bytes | None, int] | None:
        """What an unfinished push holds for a path: state, entry, fence."""
        row = self._first("SELECT state, entry, fence FROM pending WHERE path = ?", (path,))
        return None if row is None else self._typed(row, _BLOB, _BLOB, int)

    def mark_planned(self, paths: Iterable[Path]) -> None:
        """Put pending rows into the plan as they are."""
        with self._atomic():
            self._many("UPDATE pending SET planned = 1 WHERE path = ?", ((p,) for p in paths))

    def iter_planned(self) -> Iterator[tuple[Path, State | None, bytes | None]]:
        """Planned changes in path order: path, state, entry."""
        sql = "SELECT path, state, entry FROM pending WHERE path >= ? AND planned <> 0 ORDER BY path LIMIT ?"
        return self._paged(sql, bytes, _BLOB, _BLOB)

    def iter_pending(self) -> Iterator[tuple[Path, State | None, bytes | None, int]]:
        """Everything uploaded and unpublished, in path order: path, state, entry, fence."""
        sql = "SELECT path, state, entry, fence FROM pending WHERE path >= ? ORDER BY path LIMIT ?"
        return self._paged(sql, bytes, _BLOB, _BLOB, int)

    def has_pending(self) -> bool:
        """Whether anything is uploaded and not yet published."""
        return self._first("SELECT 1 FROM pending LIMIT 1") is not None

    def has_planned(self) -> bool:
        """Whether this run has anything to publish."""
        return self._first("SELECT 1 FROM pending WHERE planned <> 0 LIMIT 1") is not None

    def has_planned_in(self, first: Path, last: Path) -> bool:
        """Whether a change from ``first`` to ``last``, both included, is planned."""
        sql = "SELECT 1 FROM pending WHERE path BETWEEN ? AND ? AND planned <> 0 LIMIT 1"
        return self._first(sql, (first, last)) is not None

    def oldest_fence(self) -> int | None:
        """The lowest fence that an uploaded object relies on; deletions rely on none."""
        fence = self._value(
            "SELECT min(fence) FROM (SELECT fence FROM pending WHERE entry IS NOT NULL"
            " UNION ALL SELECT fence FROM sent)"
        )
        return None if fence is None else self._typed((fence,), int)[0]

    def drop_pending(self, paths: Iterable[Path]) -> None:
        """Forget pending rows."""
        with self._atomic():
            self._many("DELETE FROM pending WHERE path = ?", ((p,) for p in paths))

    def publish_planned(self, *, is_reflected: bool = False) -> None:
        """The planned changes are in the head: they become base and leave the journal.

        With ``is_reflected`` they become ``remote`` too, in the same pass: the pages they fall in count as
        reflected from now on.
        """
        with self._atomic():
            if is_reflected:
                self._write(
                    "INSERT INTO paths (path, base, remote) SELECT path, state, state FROM pending"
                    " WHERE planned = 1"
                    " ON CONFLICT (path) DO UPDATE SET base = excluded.base, remote = excluded.remote"
                )
                self._write(
                    "INSERT INTO paths (path, remote) SELECT path, state FROM pending WHERE planned = 2"
                    " ON CONFLICT (path) DO UPDATE SET remote = excluded.remote"
                )
            else:
                self._write(
                    "INSERT INTO paths (path, base) SELECT path, state FROM pending WHERE planned = 1"
                    " ON CONFLICT (path) DO UPDATE SET base = excluded.base"
                )
            self._write(
                "DELETE FROM paths WHERE path IN (SELECT path FROM pending"
                " WHERE planned <> 0 AND state IS NULL) AND local IS NULL AND base IS NULL AND remote IS NULL"
            )
            self._write("DELETE FROM pending WHERE planned <> 0")

    def clear_pending(self) -> None:
        """Forget everything uploaded and unpublished."""
        self._write("DELETE FROM pending")

    def put_sent(self, rows: Iterable[tuple[Hash, bytes, int]]) -> None:
        """Note chunks already uploaded: id, encoded location, fence of the session."""
        with self._atomic():
            self._many("INSERT OR REPLACE INTO sent VALUES (?, ?, ?)", rows)

    def sent(self, chunk_id: Hash) -> tuple[bytes, int] | None:
        """Location and fence of a chunk that an unfinished push uploaded."""
        row = self._first("SELECT location, fence FROM sent WHERE id = ?", (chunk_id,))
        return None if row is None else self._typed(row, bytes, int)

    def clear_sent(self) -> None:
        """Forget the chunks already uploaded."""
        self._write("DELETE FROM sent")
