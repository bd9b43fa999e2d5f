"""The index against a plain dictionary, its use of the partial indexes, damage, and the lock."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from manifest_sync.errors import Contended, Damaged, IndexDamaged, ManifestSyncError
from manifest_sync.index import connection as index_connection
from manifest_sync.index.index import Index, Row
from manifest_sync.locking import LocalLock
from manifest_sync.model import SPECIAL, UNREAD, Hash, Path, Stat, State

ALL = [(b"", b"\xff" * 5)]
A, B = State(b"f" + b"a" * 32), State(b"x" + b"b" * 32)
STAT = Stat(3, 10, 11, 12, 0o100644)


@pytest.fixture
def index(tmp_path: FilePath) -> Iterator[Index]:
    with Index.open(str(tmp_path / "index.sqlite")) as opened:
        yield opened


def ids(rows: list[Row]) -> list[bytes]:
    return [row.path for row in rows]


# --- every operation on rows, compared with a dictionary

# Neighbours of "/" in byte order (0x2e, 0x30) and odd bytes are where range scans go wrong.
NAMES = st.sampled_from([b"a", b"b", b"a.", b"a0", b"a-", b"\xff", b"\xff\xff", b"'", b"%"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: Path(b"/".join(parts)))
FOLDERS = st.one_of(st.just(Path(b"")), PATHS)
SHARED = st.sampled_from([A, B])
LOCALS = st.sampled_from([A, B, UNREAD, SPECIAL])
RANGES = st.one_of(st.just(ALL), PATHS.map(lambda p: [(bytes(p), p + b"\x00"), (p + b"/", p + b"0")]))


def within(path: bytes, ranges: list[tuple[bytes, bytes]]) -> bool:
    return any(low <= path < high for low, high in ranges)


class IndexMachine(RuleBasedStateMachine):
    """Rows as (stat, clean, local, base, remote) in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.index = Index.open(os.path.join(self.folder.name, "index"))
        self.rows: dict[Path, Row] = {}
        self.pending: dict[Path, tuple[State | None, bool]] = {}

    def teardown(self) -> None:
        self.index.quick_check()
        self.index.close()
        self.folder.cleanup()

    def change(self, path: Path, **values: Any) -> None:
        row = self.rows.get(path, Row(path, None, 0, None, None, None))._replace(**values)
        self.rows[path] = row
        if row.local is None and row.base is None and row.remote is None:
            del self.rows[path]

    def gone(self, path: Path) -> None:
        if path in self.rows and self.rows[path].local is not None:
            self.change(path, stat=None, clean=0, local=None)

    @rule(paths=st.lists(st.tuples(PATHS, LOCALS, st.sampled_from([0, 1, 2]))))
    def put_local(self, paths: list[tuple[Path, State, int]]) -> None:
        self.index.put_local((path, STAT, state, clean) for path, state, clean in paths)
        for path, state, clean in paths:
            self.change(path, stat=STAT, local=state, clean=clean)

    @rule(paths=st.lists(st.tuples(PATHS, SHARED, st.sampled_from([0, 1]))))
    def put_states(self, paths: list[tuple[Path, State, int]]) -> None:
        self.index.put_states(paths)
        for path, state, clean in paths:
            if path in self.rows and self.rows[path].local is not None:
                self.change(path, local=state, clean=clean)

    @rule(path=PATHS)
    def put_nothing(self, path: Path) -> None:
        self.index.put_local([(path, None, None, 0)])
        self.change(path, stat=None, local=None, clean=0)

    @rule(paths=st.lists(PATHS))
    def forget_local(self, paths: list[Path]) -> None:
        self.index.forget_local(paths)
        for path in paths:
            self.gone(path)

    @rule(folder=FOLDERS)
    def forget_local_below(self, folder: Path) -> None:
        self.index.forget_local_below(folder)
        for path in [p for p in self.rows if not folder or p.startswith(folder + b"/")]:
            self.gone(path)

    @rule(rows=st.lists(st.tuples(PATHS, st.one_of(st.none(), SHARED))))
    def set_base(self, rows: list[tuple[Path, State | None]]) -> None:
        self.index.set_base(rows)
        for path, state in rows:
            self.change(path, base=state)

    @rule(states=st.dictionaries(PATHS, SHARED))
    def reflect(self, states: dict[Path, State]) -> None:
        self.index.reflect_page("page", states.items())
        for path, state in states.items():
            self.change(path, remote=state)

    @rule(ends=st.tuples(PATHS, PATHS).map(sorted))
    def unreflect(self, ends: list[Path]) -> None:
        self.index.unreflect_page("page", ends[0], ends[1])
        for path in [p for p in self.rows if ends[0] <= p <= ends[1]]:
            self.change(path, remote=None)

    @rule(ranges=RANGES)
    def agree(self, ranges: list[tuple[bytes, bytes]]) -> None:
        settled = 0
        for path, row in list(self.rows.items()):
            same = row.local == row.remote != row.base and row.local not in {UNREAD, SPECIAL}
            if within(path, ranges) and same:
                self.change(path, base=row.remote)
                settled += 1
        assert self.index.agree(ranges) == settled

    @rule(rows=st.dictionaries(PATHS, st.one_of(st.none(), SHARED)))
    def put_pending(self, rows: dict[Path, State | None]) -> None:
        self.index.put_pending((p, s, None if s is None else b"entry", 4) for p, s in rows.items())
        self.pending.update((path, (state, True)) for path, state in rows.items())

    @rule(again=st.lists(PATHS))
    def plan_again(self, again: list[Path]) -> None:
        self.index.plan_reset()
        self.index.mark_planned(again)
        self.pending = {path: (state, path in again) for path, (state, _) in self.pending.items()}

    @rule()
    def publish(self) -> None:
        self.index.publish_planned()
        for path, (state, planned) in list(self.pending.items()):
            if planned:
                self.change(path, base=state)
                del self.pending[path]

    @rule(path=PATHS)
    def abandon(self, path: Path) -> None:
        with suppress(KeyError), self.index.transaction():
            self.index.put_local([(path, STAT, A, 1)])
            self.index.clear_pending()
            raise KeyError

    @rule(folder=FOLDERS)
    def look_into(self, folder: Path) -> None:
        prefix = folder + b"/" if folder else b""
        direct = {p: r for p, r in self.rows.items() if p.startswith(prefix) and b"/" not in p[len(prefix) :]}
        assert self.index.rows_in(folder) == {p[len(prefix) :]: r for p, r in direct.items()}

    @rule(ranges=RANGES, limit=st.integers(1, 4))
    def look_at_drift(self, ranges: list[tuple[bytes, bytes]], limit: int) -> None:
        inside = [self.rows[p] for p in sorted(self.rows) if within(p, ranges)]
        # Something special counts only where a file was or is expected.
        inside = [r for r in inside if (r.local, r.base, r.remote) != (SPECIAL, None, None)]
        drifting = [r for r in inside if not r.local == r.base == r.remote]
        assert self.index.drift(ranges, b"", limit) == drifting[:limit]
        assert list(self.index.iter_drift(ranges)) == drifting
        if drifting:
            assert self.index.drift(ranges, drifting[0].path + b"\0") == drifting[1:]
        assert self.index.count_in_sync(ranges) == len(inside) - len(drifting)

    @invariant()
    def same(self) -> None:
        assert {p: self.index.row(p) for p in self.rows} == self.rows
        assert self.index._value("SELECT count(*) FROM paths") == len(self.rows)
        unclean = {
            Path(p.rpartition(b"/")[0]) for p, r in self.rows.items() if r.local is not None and r.clean != 1
        }
        assert self.index.unclean_folders() == unclean
        planned = [(p, self.pending[p][0]) for p in sorted(self.pending) if self.pending[p][1]]
        assert [(p, s) for p, s, _ in self.index.iter_planned()] == planned
        assert [p for p, *_ in self.index.iter_pending()] == sorted(self.pending)


IndexMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_rows_behave_like_a_dictionary = IndexMachine.TestCase


# --- the partial indexes


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("drift", lambda index: index.drift(ALL)),
        ("drift", lambda index: index.agree(ALL)),
        ("unclean", lambda index: index.unclean_folders()),
    ],
)
def test_few_differences_are_found_without_reading_all_rows(
    index: Index, name: str, call: Callable[[Index], object]
) -> None:
    seen: list[str] = []
    index._connection.set_trace_callback(seen.append)
    call(index)
    index._connection.set_trace_callback(None)
    statements = [sql for sql in seen if " paths " in sql]
    assert statements
    for sql in statements:
        plan = " ".join(str(row[3]) for row in index._rows(f"EXPLAIN QUERY PLAN {sql}"))
        assert f"INDEX {name}" in plan
        assert "TEMP B-TREE" not in plan


def test_drift_can_be_settled_while_it_is_read(index: Index) -> None:
    paths = [Path(b"%06d" % n) for n in range(4500)]
    index.put_local((path, STAT, A, 1) for path in paths)
    seen = []
    for row in index.iter_drift(ALL):
        seen.append(row.path)
        index.set_base([(row.path, A)])
        index.reflect_page("page", [(row.path, A)])
    assert seen == paths
    assert index.drift(ALL) == []


@pytest.mark.parametrize("there", [None, SPECIAL])
def test_what_was_dropped_is_not_counted_as_in_sync(index: Index, there: State | None) -> None:
    paths = [Path(b"%d" % n) for n in range(5)]
    index.put_local((path, STAT, A, 1) for path in paths)
    index.set_base((path, A) for path in paths)
    index.reflect_page("page", [(path, A) for path in paths])
    index.drop(paths[:1])
    assert index.count_in_sync(ALL) == 5, "it is still here"
    index.undrop(paths[:1])
    index.put_local([(path, STAT if there else None, there, 1) for path in paths[1:3]])
    assert index.count_in_sync(ALL) == 3
    index.drop(paths[1:3])
    assert index.count_in_sync(ALL) == 3
    assert index.count_in_sync([(b"1", b"2"), (b"3", b"4")]) == 1


# --- folders, meta, stat


def test_meta_is_kept_and_forgotten(index: Index) -> None:
    assert index.get_meta("head") is None
    index.set_meta("head", "one")
    index.set_meta("head", "two")
    assert index.get_meta("head") == "two"
    index.set_meta("head", None)
    assert index.get_meta("head") is None


def test_folders_and_their_children(index: Index) -> None:
    for path in (b"", b"a", b"a/b", b"a/b/c", b"a.x", b"a0", b"only/below"):
        index.set_folder(Path(path), b"digest" + path, path == b"a", 2, 10)
    assert index.folder(Path(b"a")) == (b"digesta", True)
    assert index.folder(Path(b"nowhere")) is None
    assert index.totals() == (14, 70)
    assert index.child_folders(Path(b"")) == {b"a", b"a.x", b"a0", b"only"}
    assert index.child_folders(Path(b"a")) == {b"b"}
    index.drop_folders_below(Path(b"a"))
    assert index.child_folders(Path(b"")) == {b"a.x", b"a0", b"only"}
    index.drop_folders_below(Path(b""))
    assert index.totals() == (0, 0)


def test_numbers_beyond_63_bits_do_not_stop_a_run(index: Index) -> None:
    stat = Stat(1, 2, 3, 2**64 - 5, 0o100600)
    far = Stat(1, 2**63 + 7, 3, 4, 0o100600)
    index.put_local([(Path(b"inode"), stat, A, 1), (Path(b"time"), far, A, 1)])
    rows = index.rows_in(Path(b""))
    assert rows[b"inode"].stat == stat
    assert rows[b"time"].stat != far


# --- pages, hints, journal


def test_page_cache(index: Index) -> None:
    index.save_page("one", "s", b"body", b"a", b"c")
    index.save_page("two", "s", b"other", b"d", b"f")
    index.reflect_page("one", [(Path(b"a"), A), (Path(b"c"), A)])
    assert (index.load_page_body("one"), index.load_page_body("none")) == (b"body", None)
    assert index.reflected() == {"one"}
    chunk = Hash(b"c" * 32)
    index.save_chunk_hints("two", [chunk])
    assert index.page_of_chunk(chunk) == "two"
    index.drop_pages(set())
    assert index.page_of_chunk(chunk) is None
    assert (index.load_page_body("one"), index.load_page_body("two")) == (b"body", None)
    index.unreflect_page("one", b"a", b"c")
    assert (index.reflected(), index.row(Path(b"a"))) == (set(), None)
    index.drop_pages({"one"})
    assert index.load_page_body("one") == b"body"


def test_a_page_reflected_without_a_body_knows_its_range(index: Index) -> None:
    index.save_chunk_hints("page", [Hash(b"c" * 32)])
    index.reflect_page("page", [(Path(b"b"), A), (Path(b"d"), B)])
    assert index.reflected_ranges() == [("page", b"b", b"d")]
    index.unreflect_page("page", b"b", b"d")
    assert index.drift(ALL) == []


def test_journal(index: Index) -> None:
    assert index.oldest_fence() is None
    index.put_pending([(Path(b"b"), A, b"entry", 7), (Path(b"a"), None, None, 3), (Path(b"c"), B, b"e", 9)])
    assert index.pending_for(Path(b"b")) == (A, b"entry", 7)
    assert index.pending_for(Path(b"z")) is None
    assert index.oldest_fence() == 7
    index.drop_pending([Path(b"b")])
    assert [p for p, *_ in index.iter_pending()] == [b"a", b"c"]
    index.clear_pending()
    assert list(index.iter_pending()) == []
    chunk = Hash(b"c" * 32)
    index.put_sent([(chunk, b"here", 4)])
    assert index.sent(chunk) == (b"here", 4)
    index.clear_sent()
    assert index.sent(chunk) is None


# --- transactions and files


def test_transactions_nest(index: Index) -> None:
    with index.transaction():
        index.set_meta("outer", "1")
        with suppress(KeyError), index.transaction():
            index.set_meta("inner", "1")
            raise KeyError
        with index.transaction():
            index.set_meta("second", "1")
    assert [index.get_meta(key) for key in ("outer", "inner", "second")] == ["1", None, "1"]


def test_a_failing_iterable_changes_nothing(index: Index) -> None:
    def rows() -> Iterator[tuple[Path, Stat, State, int]]:
        yield Path(b"a"), STAT, A, 1
        raise KeyError

    with pytest.raises(KeyError):
        index.put_local(rows())
    with pytest.raises(KeyError):
        index.put_pending((path, state, None, 1) for path, _, state, _ in rows())
    assert (index.row(Path(b"a")), list(index.iter_pending())) == (None, [])


def test_an_index_is_found_again(tmp_path: FilePath) -> None:
    path = str(tmp_path / "odd ?#% name.sqlite")
    with Index.open(path) as index:
        index.set_meta("key", "value")
    assert os.listdir(tmp_path) == ["odd ?#% name.sqlite"]
    with Index.open(path, read_only=True) as index:
        assert index.get_meta("key") == "value"
        with pytest.raises(ManifestSyncError):
            index.set_meta("key", "other")


def test_a_missing_index_reads_as_empty(tmp_path: FilePath) -> None:
    with Index.open(str(tmp_path / "none"), read_only=True) as index:
        assert index.drift(ALL) == []
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_explained(tmp_path: FilePath) -> None:
    with pytest.raises(ManifestSyncError, match="cannot open the local index"):
        Index.open(str(tmp_path / "none" / "index"))


def _garbage(path: str) -> None:
    FilePath(path).write_bytes(b"no database " * 1000)


def _foreign(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()


def _other_version(path: str) -> None:
    Index.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("spoil", [_garbage, _foreign, _other_version])
def test_a_file_that_is_no_index_of_this_version(tmp_path: FilePath, spoil: Callable[[str], None]) -> None:
    path = str(tmp_path / "index.sqlite")
    spoil(path)
    with pytest.raises(Damaged) as caught:
        Index.open(path)
    assert caught.value.hint == "run manifest-sync rebuild-index"


def test_damage_met_while_reading(tmp_path: FilePath) -> None:
    path = str(tmp_path / "index.sqlite")
    with Index.open(path) as index:
        index.put_local((Path(b"%06d" % n), STAT, A, 1) for n in range(2000))
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(4096) * (size // 4096 - 1))
    with Index.open(path) as index:
        with pytest.raises(Damaged):
            index.quick_check()
        with pytest.raises(Damaged, match="damaged"):
            list(index.iter_drift(ALL))


def test_a_second_writer_is_told(tmp_path: FilePath) -> None:
    path = str(tmp_path / "index.sqlite")
    with Index.open(path) as first, Index.open(path) as second:
        second._connection.execute("PRAGMA busy_timeout = 1")
        with first.transaction(), pytest.raises(Contended):
            second.set_meta("a", "b")


def test_the_schema_states_the_version_of_the_program(index: Index) -> None:
    assert index._value("PRAGMA user_version") == index_connection.SCHEMA_VERSION
    assert index._value("PRAGMA application_id") == index_connection.APPLICATION_ID
    assert index._value("PRAGMA journal_mode") == "delete"


def test_opening_an_existing_index_does_not_import_sqlite_utils(tmp_path: FilePath) -> None:
    path = str(tmp_path / "index.sqlite")
    Index.open(path).close()
    code = "import sys; from manifest_sync.index.index import Index; Index.open(sys.argv[1]).close()"
    code += "; sys.exit('sqlite_utils' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, path], check=False, cwd=os.getcwd()).returncode == 0


@pytest.mark.parametrize("look", [Index.iter_drift, Index.iter_rows, Index.iter_remote])
def test_rows_out_of_order_end_a_look(
    tmp_path: FilePath, look: Callable[[Index, Any], Iterator[Any]]
) -> None:
    """A damaged B-tree gives a path where it does not belong: the next batch must not begin before the last
    one for ever."""
    path = tmp_path / "index.sqlite"
    with Index.open(str(path)) as index:
        index.reflect_page("page", ((Path(b"exp/%06d" % n), A) for n in range(12_000)))
    body = path.read_bytes()
    refused = 0
    for name in (b"exp/004999", b"exp/001999", b"exp/009999"):
        place = body.find(name)
        while place >= 0:
            path.write_bytes(body[:place] + b"a" + body[place + 1 :])
            with Index.open(str(path)) as index:
                try:
                    assert len(list(islice(look(index, ALL), 50_000))) < 50_000
                except IndexDamaged as error:
                    refused += "out of order" in error.message
            place = body.find(name, place + 1)
    assert refused or look is Index.iter_drift


def test_a_killed_run_leaves_the_last_commit(tmp_path: FilePath) -> None:
    path = str(tmp_path / "index.sqlite")
    code = """if True:
        import os, sys
        from manifest_sync.index.index import Index
        index = Index.open(sys.argv[1])
        index.set_meta("key", "old")
        with index.transaction():
            index._write("PRAGMA cache_size = 2")
            index.set_base((b"%06d" % n, b"f" * 33) for n in range(20000))
            index.set_meta("key", "new")
            os._exit(0)
        """
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=os.getcwd())
    assert os.path.exists(path + "-journal")
    with Index.open(path, read_only=True) as index:
        assert index.get_meta("key") == "old"
        assert index.drift(ALL) == []
        index.quick_check()


# --- the lock


def test_the_lock_names_its_holder(tmp_path: FilePath) -> None:
    path = str(tmp_path / "lock")
    with LocalLock(path) as held:
        held.acquire()
        with pytest.raises(Contended, match=f"pid {os.getpid()} on "):
            LocalLock(path).acquire()
        assert held.held
    assert not held.held
    with LocalLock(path):
        pass


def test_the_lock_ends_with_its_process(tmp_path: FilePath) -> None:
    path = str(tmp_path / "lock")
    code = "import os, sys; from manifest_sync.locking import LocalLock; LocalLock(sys.argv[1]).acquire(); "
    code += "print('held', flush=True); sys.stdin.read(); os._exit(1)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(Contended, match=f"pid {child.pid} on "):
            LocalLock(path).acquire()
        child.kill()
    with LocalLock(path) as lock:
        assert lock.held


def test_a_lock_that_cannot_be_opened(tmp_path: FilePath) -> None:
    with pytest.raises(ManifestSyncError, match="cannot open the lock"):
        LocalLock(str(tmp_path / "none" / "lock")).acquire()
