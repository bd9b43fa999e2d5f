"""The SQLite file under the index: opening, checking, transactions, and errors in the user's words.

Rollback journal, no WAL (it does not work on network filesystems), one writer under ``LocalLock``.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib import resources
from itertools import islice
from typing import Any, Self, TypeVar
from urllib.parse import quote

from manifest_sync.errors import Contended, IndexDamaged, ManifestSyncError
from manifest_sync.index.errors import CHECK_DISK, REBUILD, cannot_use, translate
from manifest_sync.index.mark import IndexMark
from manifest_sync.ownfiles import sync_folder

SCHEMA_VERSION = 3
APPLICATION_ID = int.from_bytes(b"msyn", "big")
BATCH = 5000

T = TypeVar("T")


def schema() -> str:
    """The table definitions: the copy in an installed package, or the source tree's own."""
    package = resources.files("manifest_sync")
    packaged = package / "schema.sql"
    if packaged.is_file():
        return packaged.read_text("utf-8")
    with open(os.path.join(os.path.dirname(str(package)), "schema.sql"), encoding="utf-8") as file:
        return file.read()


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of at most ``BATCH`` items, in order, so that no iterable is held as a whole."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


class _RollBack(Exception):
    """Ends a transaction without its writes."""


class IndexConnection:
    """One open index file. Every write is atomic by itself, or part of the ``transaction`` around it."""

    def __init__(self, connection: sqlite3.Connection, path: str, mark: IndexMark | None = None) -> None:
        self._connection = connection
        self._path = path
        self._depth = 0
        self._mark = mark
        self._is_successor = False

    @classmethod
    def open(
        cls,
        path: str,
        *,
        read_only: bool = False,
        mark: IndexMark | None = None,
        is_successor: bool = False,
    ) -> Self:
        """Open the index at ``path``, or create it.

        Args:
            read_only: nothing can be written, and a missing file reads as an empty index.
            mark: tells the index that was used here last from any other; None accepts any.
            is_successor: it takes its place when it is closed (see `successor`), so the mark is settled then.

        Raises:
            IndexDamaged: the file is corrupt, of another version, no index at all, or not the one used last.
        """
        if os.path.isdir(path):
            raise IndexDamaged(f"the local index {path} is a folder", REBUILD)
        missing = read_only and not os.path.exists(path)
        uri = ":memory:" if missing else f"file:{quote(os.path.abspath(path))}?mode=rwc"
        try:
            # Read-only too may have to roll back what a killed run left, so it opens for writing.
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, timeout=10, cached_statements=256
            )
        except sqlite3.Error as error:
            raise ManifestSyncError(f"cannot open the local index {path}: {error}", CHECK_DISK) from error
        index = cls(connection, path, mark)
        index._is_successor = is_successor
        try:
            with index._guard():
                index._prepare()
                index._check_mark(is_read_only=read_only)
                if read_only:
                    connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return index

    @classmethod
    @contextmanager
    def snapshot(cls, path: str) -> Iterator[str]:
        """The path of a throw-away copy of the index, for a look while another process writes to it."""
        with tempfile.TemporaryDirectory(prefix="manifest-sync-") as folder:
            copy = os.path.join(folder, "index.sqlite")
            try:
                with (
                    closing(
                        sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)
                    ) as source,
                    closing(sqlite3.connect(copy)) as target,
                ):
                    source.backup(target)
            except sqlite3.DatabaseError as error:
                raise translate(error, path) or Contended(
                    f"{path} is being written by another run: {error}", "try again in a moment"
                ) from error
            yield copy

    @classmethod
    @contextmanager
    def successor(cls, path: str, mark: IndexMark | None = None) -> Iterator[str]:
        """The path for a new index that takes the place of the one at ``path`` when the block has succeeded.

        Until then the old one is not touched; afterwards it is kept beside it as ``PATH.before-rebuild``.
        The caller holds the lock, and has closed the new one at the end of the block.
        """
        fresh, kept = f"{path}.new", f"{path}.before-rebuild"
        try:
            for left in (fresh, f"{fresh}-journal"):
                _unlink(left)
            yield fresh
            if os.path.exists(path):
                # What a killed run left in the journal belongs to the old file; played into the new one it
                # would destroy it. Opening settles it, unless the old file is beyond that.
                with suppress(IndexDamaged):
                    cls.open(path).close()  # by no mark: it may be refused, and is settled all the same
                for left in (kept, f"{kept}-journal"):
                    _unlink(left)
                if os.path.exists(f"{path}-journal"):
                    os.replace(f"{path}-journal", f"{kept}-journal")
                try:
                    os.link(path, kept)
                except OSError:  # a filesystem without hard links
                    os.replace(path, kept)
            os.replace(fresh, path)
        except BaseException:
            _unlink(fresh)
            raise
        if mark is not None:
            mark.settle()

    def _prepare(self) -> None:
        for pragma in ("cache_size = -32768", "synchronous = NORMAL", "temp_store = MEMORY"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = self._value("PRAGMA user_version")
        application = self._value("PRAGMA application_id")
        if version == 0 and application == 0 and not self._value("SELECT count(*) FROM sqlite_master"):
            self._create()
        elif application != APPLICATION_ID:
            raise IndexDamaged(f"{self._path} is not an index of manifest-sync", REBUILD)
        elif version != SCHEMA_VERSION:
            raise IndexDamaged(
                f"the local index {self._path} has version {version}; this program uses {SCHEMA_VERSION}",
                REBUILD,
            )

    def _check_mark(self, *, is_read_only: bool) -> None:
        if self._mark is None:
            return
        token = self._token()
        if token is None:
            # Every write comes with a token; without one there is nothing that could be remembered wrongly.
            if self._first("SELECT 1 FROM paths UNION ALL SELECT 1 FROM meta LIMIT 1") is not None:
                raise self.damage("it has lost its token")
            return
        tokens = self._mark.tokens()
        if token not in tokens:
            raise IndexDamaged(
                f"the local index {self._path} is not the one that was used here last: an older copy was put "
                "back, or another folder's was put in its place",
                f"{REBUILD}: it reads the tree again and transfers nothing",
            )
        if len(tokens) > 1 and not is_read_only:  # a killed run had not come to that
            self.sync()
            self._mark.settle(token)

    def _token(self) -> str | None:
        token = self._value("SELECT value FROM meta WHERE key = 'token'")
        if token is not None and not isinstance(token, str):
            raise self.damage("its token is no text")
        return token

    def _stamp(self) -> bool:
        """Give the index this run's token, in the transaction of the run's first write."""
        if self._mark is None:
            return False
        token = self._token()
        try:
            new = self._mark.announce(self._mark.tokens() if token is None else (token,))
        except OSError as error:
            raise cannot_use(self._path, error) from error
        self._write("INSERT OR REPLACE INTO meta VALUES ('token', ?)", (new,))
        return True

    def _settle_mark(self) -> None:
        # The mark must not outlast, in a loss of power, the commit that it speaks of.
        mark, self._mark = self._mark, None
        if mark is not None and not self._is_successor:
            self.sync()
            mark.settle()

    def _create(self) -> None:
        # Imported here because opening an existing index does not need it and the import takes 0.1 s.
        import sqlite_utils  # noqa: PLC0415

        # One transaction: a kill leaves an empty file, which the next run fills, never half a schema.
        sqlite_utils.Database(self._connection).conn.executescript(f"BEGIN IMMEDIATE;\n{schema()}\nCOMMIT;")

    def close(self) -> None:
        """Close the file; an open transaction is rolled back."""
        self._connection.close()

    def sync(self) -> None:
        """Make what was committed outlast a loss of power.

        A commit ends with the removal of SQLite's journal, and when that reaches the disk is left to the
        filesystem: without it the journal is there again, and undoes the commit.
        """
        try:
            folder = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                sync_folder(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise cannot_use(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def quick_check(self) -> None:
        """Read the whole file and check its structure. Raises ``IndexDamaged``."""
        result = self._rows("PRAGMA quick_check(1)")
        if result != [("ok",)]:
            raise IndexDamaged(f"the local index {self._path} is damaged: {result[0][0]}", REBUILD)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: an exception undoes every write inside. Nests."""
        nested = self._connection.in_transaction
        changes = self._connection.total_changes
        is_stamped = False
        self._depth += 1
        name = f"level_{self._depth}"
        try:
            self._write(f"SAVEPOINT {name}" if nested else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # After a full disk SQLite has rolled back by itself and there is nothing left to undo.
                if self._connection.in_transaction:
                    if nested:
                        self._write(f"ROLLBACK TO {name}")
                        self._write(f"RELEASE {name}")
                    else:
                        self._write("ROLLBACK")
                raise
            try:
                if not nested and self._connection.total_changes != changes:
                    is_stamped = self._stamp()
                self._write(f"RELEASE {name}" if nested else "COMMIT")
            except BaseException:
                if not nested and self._connection.in_transaction:
                    self._write("ROLLBACK")
                raise
        finally:
            self._depth -= 1
        if is_stamped:
            self._settle_mark()

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """A transaction that leaves nothing behind: what is written inside is undone at its end."""
        with suppress(_RollBack), self.transaction():
            yield
            raise _RollBack

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        # A savepoint for every call inside a transaction would copy pages for nothing.
        if self._connection.in_transaction:
            yield
        else:
            with self.transaction():
                yield

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            translated = translate(error, self._path)
            if translated is None and self._is_damage(error):
                translated = self.damage(str(error))
            if translated is None:
                raise
            raise translated from error
        except UnicodeDecodeError as error:  # the text of an error of SQLite's, with damaged bytes in it
            raise self.damage(str(error)) from error

    def damage(self, what: str) -> IndexDamaged:
        """The error for something in the file that this program did not write."""
        return IndexDamaged(f"the local index {self._path} is damaged: {what}", REBUILD)

    def _typed(self, row: Any, *kinds: type | tuple[type, ...]) -> Any:
        """A row that has the types it was written with: SQLite takes, and a damaged file has, any."""
        if not all(map(isinstance, row, kinds)):
            raise self.damage(f"a row of the wrong types: {row!r:.200}")
        return row

    def _is_damage(self, error: sqlite3.DatabaseError) -> bool:
        """Whether SQLite's general error comes from the file, and not from a mistake in this program."""
        if not hasattr(error, "sqlite_errorcode"):
            return isinstance(error, sqlite3.OperationalError)  # a text that is not UTF-8
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            return False
        listing = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name, type"
        with closing(sqlite3.connect(":memory:")) as fresh:
            fresh.executescript(schema())
            try:
                return self._connection.execute(listing).fetchall() != fresh.execute(listing).fetchall()
            except sqlite3.DatabaseError:
                return True

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._guard():
            return self._connection.execute(sql, parameters).fetchall()

    def _first(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        with self._guard():
            return self._connection.execute(sql, parameters).fetchone()

    def _value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        row = self._first(sql, parameters)
        return None if row is None else row[0]

    def _write(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        if not (self._connection.in_transaction or self._depth):
            with self.transaction():
                return self._write(sql, parameters)
        with self._guard():
            return self._connection.execute(sql, parameters).rowcount

    def _many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._guard():
            self._connection.executemany(sql, rows)

    def _paged(self, sql: str, *kinds: type | tuple[type, ...], size: int = 2000) -> Iterator[Any]:
        """Rows in path order, a batch at a time, so that the caller may change rows between batches.

        ``sql`` takes the lowest path and the size of the batch, and gives rows of ``kinds``, path first.
        """
        for rows in self._batches(sql, b"", size=size):
            for row in rows:
                yield self._typed(row, *kinds)

    def _batches(self, sql: str, low: bytes, *bounds: bytes | int, size: int) -> Iterator[list[Any]]:
        """Rows in path order by batches; ``sql`` takes the lowest path, the bounds, and a batch's size."""
        while rows := self._rows(sql, (low, *bounds, size)):
            yield rows
            low = self._beyond(rows[-1][0], low)

    def _beyond(self, last: bytes, low: bytes) -> bytes:
        """Where the batch after ``last`` begins; a damaged file may give rows below ``low`` for ever."""
        if not isinstance(last, bytes) or last < low:
            raise self.damage(f"its rows are out of order at {last!r:.200}")
        return last + b"\0"


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
