"""The local index: the stat cache, the base, and what the head says, in one SQLite file.

The only part of the program that speaks SQL. Every path is one row with three states (here, base,
bucket), and a partial index keeps the rows whose states differ, so that a run over a big tree touches
only those.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from manifest_sync.index.adopted import AdoptedTable
from manifest_sync.index.connection import batches
from manifest_sync.index.pages import DELETE_EMPTY, PageTables
from manifest_sync.model import MAX_COMPONENT, MAX_PATH, Hash, Path, Stat, State

Ranges = Iterable[tuple[bytes, bytes]]
"""Half-open ranges of path bytes, ``low <= path < high``, sorted and disjoint."""

Among = Literal["all", "here", "there", "unread"]
"""Which of the rows that differ: those that are here, those that the bucket has, or those whose content must
be read because the base or the bucket has something at the path."""

_COLUMNS = "path, size, mtime_ns, ctime_ns, inode, mode, clean, local, base, remote"
_WITHIN = "path >= ? AND path < ?"
_DIFFERS = f"(local IS NOT base OR base IS NOT remote) AND dropped = 0 AND {_WITHIN}"
_DRIFT = f"paths INDEXED BY drift WHERE {_DIFFERS}"
_AMONG: dict[Among, str] = {
    "all": "",
    "here": " AND local IS NOT NULL",
    "there": " AND remote IS NOT NULL",
    "unread": " AND local = x'' AND (base IS NOT NULL OR remote IS NOT NULL)",
}
_COUNTS = "(local IS NOT x'6f' OR base IS NOT NULL OR remote IS NOT NULL)"
# What is dropped is so until a file is there again: a fifo, or a symlink to a copy elsewhere, is none.
_NOT_HERE = "(local IS NULL OR local = x'6f')"
_DROPPED = f"paths INDEXED BY dropped WHERE dropped = 1 AND {_WITHIN} AND {_NOT_HERE}"
_PUT_LOCAL = (
    "INSERT INTO paths (path, size, mtime_ns, ctime_ns, inode, mode, clean, local)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET size = excluded.size,"
    " mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, inode = excluded.inode,"
    " mode = excluded.mode, clean = excluded.clean, local = excluded.local,"
    " dropped = CASE WHEN excluded.local IS NULL OR excluded.local = x'6f' THEN dropped ELSE 0 END"
)
_PUT_LANDED = _PUT_LOCAL.replace("local)", "local, base)").replace("?)", "?, ?)") + ", base = excluded.base"
_NO_LOCAL = (
    "SET local = NULL, size = NULL, mtime_ns = NULL, ctime_ns = NULL, inode = NULL, mode = NULL, clean = 0"
)
_PUT_BASE = (
    "INSERT INTO paths (path, base) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET base = excluded.base"
)
_BATCH = 2000
_SHAPES = frozenset(
    # SQLite takes any value in any column, and a wrong bit in the file makes a text of a number.
    (bytes, *stat, int, *states)
    for stat in ((int,) * 5, (type(None),) * 5)
    for states in itertools.product((bytes, type(None)), repeat=3)
)
_MAX = 2**63 - 1
_MASK = 2**64 - 1


class Row(NamedTuple):
    """One path of the index. ``stat`` is None when nothing is known to be here."""

    path: Path
    stat: Stat | None
    clean: int
    local: State | None
    base: State | None
    remote: State | None


NOWHERE = (None, 0, None, None, None)
"""The columns of a path that no side knows, after the path itself."""


class Index(PageTables, AdoptedTable):
    """The index of one project; ``Index.open`` makes one. One process writes, under ``LocalLock``."""

    def get_meta(self, key: str) -> str | None:
        """A noted fact, None when it was never noted."""
        value = self._value("SELECT value FROM meta WHERE key = ?", (key,))
        if value is not None and not isinstance(value, str):
            raise self.damage(f"what is noted under {key!r} is no text")
        return value

    def set_meta(self, key: str, value: str | None) -> None:
        """Note a fact; None forgets it. Writes nothing when it is noted already."""
        if value == self.get_meta(key):
            return
        if value is None:
            self._write("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def folder(self, path: Path) -> tuple[bytes, bool] | None:
        """Digest of a folder's last listing and whether it was on another device than its root."""
        row = self._first("SELECT digest, mounted FROM folders WHERE path = ?", (path,))
        if row is None:
            return None
        digest, mounted = self._typed(row, bytes, int)
        return digest, bool(mounted)

    def set_folder(self, path: Path, digest: bytes, mounted: bool, files: int, size: int) -> None:
        """Note a folder's listing: digest, device, and number and bytes of the files directly in it."""
        self._write(
            "INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?, ?)", (path, digest, mounted, files, size)
        )

    def distrust_folder(self, path: Path) -> None:
        """The rows of a folder are not what is in it: the next scan compares them file by file."""
        self._write("UPDATE folders SET digest = x'' WHERE path = ?", (path,))

    def child_folders(self, path: Path) -> set[bytes]:
        """Names of the known folders directly in ``path``, also those known only by what is below."""
        return {name for name, _ in self._children("SELECT path FROM folders", path, below=True)}

    def drop_folders_below(self, path: Path) -> None:
        """Forget the listings of a folder and of everything below it."""
        with self._atomic():
            self._write("DELETE FROM folders WHERE path = ?", (path,))
            where, bounds = _below(path)
            self._write(f"DELETE FROM folders WHERE {where}", bounds)  # noqa: S608

    def totals(self) -> tuple[int, int]:
        """Number and bytes of the files in all known folders."""
        row = self._first("SELECT coalesce(sum(files), 0), coalesce(sum(bytes), 0) FROM folders")
        files, size = self._typed(row, int, int)
        return files, size

    def unclean_folders(self) -> set[Path]:
        """Folders that directly hold a file whose stat is not to be trusted."""
        rows = self._rows("SELECT path FROM paths INDEXED BY unclean WHERE clean <> 1 AND local IS NOT NULL")
        return {Path(self._typed(row, bytes)[0].rpartition(b"/")[0]) for row in rows}

    def rows_in(self, folder: Path) -> dict[bytes, Row]:
        """The rows directly in a folder, by name."""
        # As a list first: a row that is none must not leave a query open, which would keep the file locked.
        children = list(self._children(f"SELECT {_COLUMNS} FROM paths", folder, below=False))  # noqa: S608
        return {name: self._row(columns) for name, columns in children}

    def _children(self, select: str, folder: bytes, *, below: bool) -> Iterator[tuple[bytes, Any]]:
        """Name and columns of the direct children; with ``below`` also of folders with no row themselves.

        Jumps over each subfolder with one seek, so that the cost does not grow with what is below.
        """
        where, bounds = _below(folder)
        sql = f"{select} WHERE {where} ORDER BY path"
        length = len(folder) + 1 if folder else 0
        low, *high = bounds
        with self._guard():
            jumped = True
            while jumped:
                jumped = False
                for columns in self._connection.execute(sql, (low, *high)):
                    if not isinstance(columns[0], bytes):
                        raise self.damage("a path is none")
                    name = columns[0][length:]
                    slash = name.find(b"/")
                    if slash < 0:
                        if name:
                            yield name, columns
                        continue
                    if below:
                        yield name[:slash], columns
                    low = columns[0][: length + slash] + b"0"
                    jumped = True
                    break

    def iter_names(self, folder: Path, prefix: bytes) -> Iterator[tuple[bytes, bool]]:
        """The names directly in a folder that begin with ``prefix``, here or in the bucket, and whether
        each is a folder."""
        base = folder + b"/" if folder else b""
        low, high = base + prefix, base + prefix + b"\xff" * (MAX_COMPONENT + 1)
        sql = f"SELECT path FROM paths WHERE {_WITHIN} ORDER BY path LIMIT 1"  # noqa: S608
        while (path := self._value(sql, (low, high))) is not None:
            name, slash, _ = path[len(base) :].partition(b"/")
            yield name, bool(slash)
            low = base + name + (b"0" if slash else b"\0")

    def row(self, path: Path) -> Row | None:
        """The row of a path."""
        columns = self._first(f"SELECT {_COLUMNS} FROM paths WHERE path = ?", (path,))  # noqa: S608
        return None if columns is None else self._row(columns)

    def put_local(self, rows: Iterable[tuple[Path, Stat | None, State | None, int]]) -> None:
        """Set stat, local state and trust of paths, keeping base and remote: fastest in path order."""
        with self._atomic():
            for batch in batches(rows):
                self._many(_PUT_LOCAL, [_local_columns(*row) for row in batch])
                self._many(DELETE_EMPTY, [(row[0],) for row in batch if row[2] is None])

    def put_landed(self, rows: Iterable[tuple[Path, Stat, State | None, int, State | None]]) -> None:
        """`put_local` and `set_base`, whose state comes last, in one pass, for files that are here."""
        with self._atomic():
            for batch in batches(rows):
                self._many(_PUT_LANDED, [(*_local_columns(*row[:4]), row[4]) for row in batch])

    def forget_local(self, paths: Iterable[Path]) -> None:
        """These paths are no longer here."""
        with self._atomic():
            for batch in batches(paths):
                keys = [(path,) for path in batch]
                self._many(f"UPDATE paths {_NO_LOCAL} WHERE path = ?", keys)
                self._many(DELETE_EMPTY, keys)

    def forget_local_below(self, folder: Path) -> None:
        """Nothing below the folder is here any more."""
        where, bounds = _below(folder)
        with self._atomic():
            self._write(f"DELETE FROM paths WHERE {where} AND base IS NULL AND remote IS NULL", bounds)  # noqa: S608
            self._write(f"UPDATE paths {_NO_LOCAL} WHERE {where} AND local IS NOT NULL", bounds)

    def set_base(self, rows: Iterable[tuple[Path, State | None]]) -> None:
        """Set what this machine and the bucket agreed on; None forgets it."""
        with self._atomic():
            for batch in batches(rows):
                self._many(_PUT_BASE, batch)
                self._many(DELETE_EMPTY, [(path,) for path, state in batch if state is None])

    def forget_base(self, *, where_remote_differs: bool) -> None:
        """Forget what was agreed on; with ``where_remote_differs`` only where the bucket says otherwise."""
        condition = "base IS NOT NULL AND base IS NOT remote" if where_remote_differs else "base IS NOT NULL"
        self._forget_base_where(condition)

    def forget_base_outside(self, ranges: Ranges) -> None:
        """Forget what was agreed on outside ``ranges``."""
        low = b""
        with self._atomic():
            for high, following in [*ranges, (b"\xff" * (MAX_PATH + 1), b"")]:
                self._forget_base_where(f"base IS NOT NULL AND {_WITHIN}", (low, high))
                low = following

    def _forget_base_where(self, condition: str, values: tuple[bytes, ...] = ()) -> None:
        with self._atomic():
            self._write(f"DELETE FROM paths WHERE {condition} AND local IS NULL AND remote IS NULL", values)  # noqa: S608
            self._write(f"UPDATE paths SET base = NULL WHERE {condition}", values)  # noqa: S608

    def agree(self, ranges: Ranges) -> int:
        """Take as base what is the same here and in the bucket; forget a base that both have deleted.

        These are cases 8 and 12. Returns the number of paths settled. A local file whose state is not
        known agrees with nothing.
        """
        settled = 0
        with self._atomic():
            for bounds in ranges:
                settled += self._write(
                    f"DELETE FROM {_DRIFT} AND local IS NULL AND remote IS NULL",  # noqa: S608
                    bounds,
                )
                settled += self._write(
                    f"UPDATE paths INDEXED BY drift SET base = remote WHERE {_DIFFERS}"  # noqa: S608
                    " AND local IS remote AND base IS NOT remote AND local NOT IN (x'', x'6f')",
                    bounds,
                )
        return settled

    def drift(self, ranges: Ranges, start: bytes = b"", limit: int = 2000, among: Among = "all") -> list[Row]:
        """Rows that are not in sync, in path order: at most ``limit`` of those from ``start`` on.

        Something special (a fifo, a skipped symlink) counts only where a file was or is expected.
        """
        found: list[Row] = []
        sql = f"SELECT {_COLUMNS} FROM {_DRIFT} AND {_COUNTS}{_AMONG[among]} ORDER BY path LIMIT ?"  # noqa: S608
        for low, high in ranges:
            bounds = max(low, start), high
            if bounds[0] < high and len(found) < limit:
                found += map(self._row, self._rows(sql, (*bounds, limit - len(found))))
        return found

    def iter_drift(self, ranges: Ranges, among: Among = "all") -> Iterator[Row]:
        """All rows that are not in sync, in path order, in batches: rows already seen may be changed."""
        wanted = list(ranges)
        start = b""
        while rows := self.drift(wanted, start, among=among):
            yield from rows
            start = self._beyond(rows[-1].path, start)

    def count_in_sync(self, ranges: Ranges) -> int:
        """Number of paths in sync: all less the few that are not, as looking into each row takes longer."""
        sql = f"SELECT (SELECT count(*) FROM paths WHERE {_WITHIN}) - (SELECT count(*) FROM {_DRIFT})"  # noqa: S608
        return sum(self._value(sql, 2 * bounds) - self.count_dropped([bounds]) for bounds in ranges)

    def count_local(self, ranges: Ranges) -> int:
        """Number of files here."""
        sql = f"SELECT count(*) FROM paths WHERE {_WITHIN} AND local IS NOT NULL AND {_COUNTS}"  # noqa: S608
        return sum(self._value(sql, bounds) for bounds in ranges)

    def count_remote(self, ranges: Ranges) -> int:
        """Number of paths in the bucket, as far as its pages are reflected."""
        sql = f"SELECT count(*) FROM paths WHERE {_WITHIN} AND remote IS NOT NULL"  # noqa: S608
        return sum(self._value(sql, bounds) for bounds in ranges)

    def iter_rows(self, ranges: Ranges) -> Iterator[Row]:
        """All rows, in path order, in batches: rows already seen may be changed."""
        sql = f"SELECT {_COLUMNS} FROM paths WHERE {_WITHIN} AND {_COUNTS} ORDER BY path LIMIT ?"  # noqa: S608
        for low, high in ranges:
            for rows in self._batches(sql, low, high, size=_BATCH):
                yield from map(self._row, rows)

    def iter_remote(self, ranges: Ranges) -> Iterator[Path]:
        """The paths that the bucket holds, in path order."""
        sql = f"SELECT path FROM paths WHERE {_WITHIN} AND remote IS NOT NULL ORDER BY path LIMIT ?"  # noqa: S608
        for low, high in ranges:
            for rows in self._batches(sql, low, high, size=_BATCH):
                yield from (path for (path,) in rows)

    def drop(self, paths: Iterable[Path]) -> None:
        """Mark paths: that they are not here any more is meant, and no deletion."""
        with self._atomic():
            for batch in batches(paths):
                self._many("UPDATE paths SET dropped = 1 WHERE path = ?", [(path,) for path in batch])

    def undrop(self, paths: Iterable[Path]) -> None:
        """Take that mark back."""
        with self._atomic():
            for batch in batches(paths):
                self._many("UPDATE paths SET dropped = 0 WHERE path = ?", [(path,) for path in batch])

    def iter_dropped(self, ranges: Ranges) -> Iterator[Path]:
        """What is dropped and not here, in path order."""
        for bounds in ranges:
            for row in self._rows(
                f"SELECT path FROM {_DROPPED} ORDER BY path",  # noqa: S608
                bounds,
            ):
                yield self._typed(row, bytes)[0]

    def count_dropped(self, ranges: Ranges) -> int:
        """Number of paths that are dropped and not here."""
        sql = f"SELECT count(*) FROM {_DROPPED}"  # noqa: S608
        return sum(self._value(sql, bounds) for bounds in ranges)

    def forget_gone_drops(self) -> None:
        """What was dropped here and then deleted in the bucket is gone on both sides."""
        gone = "dropped = 1 AND remote IS NULL"
        with self._atomic():
            self._write(f"DELETE FROM paths INDEXED BY dropped WHERE {gone} AND local IS NULL")  # noqa: S608
            self._write(
                f"UPDATE paths INDEXED BY dropped SET dropped = 0, base = NULL WHERE {gone} AND local = x'6f'"  # noqa: S608
            )

    def is_held(self, path: Path, state: State, live: Collection[str], *, in_one_chunk: bool) -> bool:
        """Whether the head holds the content of a file's state, at this path or another.

        Args:
            live: ids of the head's pages. Only what is reflected here counts: no means "not known".
            in_one_chunk: whether a file of that size is one chunk, so that its hash is the chunk's id.
        """
        remote = self._value("SELECT remote FROM paths WHERE path = ?", (path,))
        content = state[1:]
        if remote is not None and remote[1:] == content:
            return True
        if in_one_chunk:
            return self.page_of_chunk(Hash(content)) in live
        kinds = (b"f" + content, b"x" + content)
        return self._first("SELECT 1 FROM paths WHERE remote IN (?, ?) LIMIT 1", kinds) is not None

    def _row(self, columns: Sequence[Any]) -> Row:
        if tuple(map(type, columns)) not in _SHAPES:
            raise self.damage(f"the row of {columns[0]!r:.200} is none")
        path, size, mtime_ns, ctime_ns, inode, mode, clean, local, base, remote = columns
        stat = None if size is None else Stat(size, mtime_ns, ctime_ns, inode & _MASK, mode)
        return Row(path, stat, clean, local, base, remote)

    def has_rows(self, ranges: Ranges) -> bool:
        """Whether any path is known there, on whichever side."""
        sql = f"SELECT 1 FROM paths WHERE {_WITHIN} AND {_COUNTS} LIMIT 1"  # noqa: S608
        return any(self._first(sql, bounds) is not None for bounds in ranges)

    def has_base(self) -> bool:
        """Whether this machine and the bucket ever agreed on anything."""
        return self._first("SELECT 1 FROM paths WHERE base IS NOT NULL LIMIT 1") is not None


def _below(folder: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Condition and parameters for every path below a folder; ``0`` is the byte after ``/``."""
    if folder:
        return _WITHIN, (folder + b"/", folder + b"0")
    return "path >= ?", (b"",)


def _local_columns(path: Path, stat: Stat | None, local: State | None, clean: int) -> tuple[Any, ...]:
    if stat is None:
        return path, None, None, None, None, None, clean, local
    mtime_ns, ctime_ns, inode = stat.mtime_ns, stat.ctime_ns, stat.inode
    if max(mtime_ns, ctime_ns, inode) > _MAX:
        # SQLite's integers are signed. An inode comes back whole; a time after the year 2262 comes
        # back different, so that the file is hashed again instead of stopping the run.
        mtime_ns, ctime_ns, inode = (n - 2**64 if n > _MAX else n for n in (mtime_ns, ctime_ns, inode))
    return path, stat.size, mtime_ns, ctime_ns, inode, stat.mode, clean, local
