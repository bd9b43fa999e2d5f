"""After a publish the index is brought to the new head by what was planned alone: it must say what it would
say if every new page had been read again."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path as FsPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifest_sync import observe
from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import Damaged
from manifest_sync.index import records
from manifest_sync.index.index import Index
from manifest_sync.manifest import HEAD_KEY, Manifest, first_manifest, page_key
from manifest_sync.model import ChunkRef, Entry, EntryType, FrameRef, Hash, PackRef, Path, Stat, State, Writer
from manifest_sync.publishing import Publishing
from manifest_sync.repository import Commit, Head, Raced, Repository
from manifest_sync.scope import Scope
from manifest_sync.stores.base import Unknown
from manifest_sync.stores.memory import MemoryStore
from manifest_sync.succession import Heir
from manifest_sync.workspace import Workspace
from tests.chains import NoCache

SESSION = f"0-{'0' * 32}"
PATHS = [Path(f"{folder}/{name}".encode()) for folder in ("a", "b", "b-", "c") for name in range(6)]
CONTENTS = ("", "p", "q", "r", "pq", "qrs", "t")
"""Contents by their chunks: few, so that files here and there are the same and share chunks."""
WRITER = Writer("m", "gpu", "2026-11-01T00:00:00Z")
EVERYTHING = Scope.everything()

some_paths = st.sampled_from(PATHS)
contents = st.tuples(st.sampled_from(CONTENTS), st.booleans())
scopes = st.one_of(
    st.just(EVERYTHING),
    st.builds(Scope, st.lists(st.sampled_from([b"a", b"b", b"b-/3", b"c/0"]), min_size=1).map(tuple)),
)


def entry(path: Path, content: str, executable: bool) -> Entry:
    frame = FrameRef(PackRef(SESSION, "ab" * 32, 5000), 0, 100, 200)
    chunks = tuple(ChunkRef(hash_bytes(letter.encode()), frame, 0, 1) for letter in content)
    mode = 0o755 if executable else 0o644
    digest = chunks[0].id if len(chunks) == 1 else hash_bytes(content.encode())
    return Entry(path, EntryType.FILE, len(content), 0, mode, digest, WRITER, chunks)


class Store(MemoryStore):
    """Loses the answer to the next swap, if asked to, after something else has happened."""

    def __init__(self) -> None:
        super().__init__("publishing")
        self.before_loss: list[Callable[[], None]] = []

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        done = super().put_if(key, body, etag=etag)
        if key == HEAD_KEY and self.before_loss:
            self.before_loss.pop()()
            raise Unknown(HEAD_KEY, OSError("the answer was lost"))
        return done


@dataclass
class Round:
    """What one publish is about."""

    scope: Scope
    planned: dict[Path, tuple[tuple[str, bool] | None, int]]
    only_in_scope: bool
    known_first: bool
    lost_answer: bool
    others: dict[Path, tuple[str, bool] | None] | None


rounds = st.builds(
    Round,
    scopes,
    st.dictionaries(
        some_paths,
        st.one_of(st.tuples(contents, st.sampled_from([1, 1, 2])), st.tuples(st.none(), st.just(1))),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([False, False, False, True]),
    st.one_of(st.none(), st.none(), st.dictionaries(some_paths, st.one_of(contents, st.none()), max_size=3)),
)


@dataclass
class World:
    """A bucket, this machine's index, and how often the delta was enough."""

    folder: FsPath
    store: Store = field(default_factory=Store)
    ids: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        first = first_manifest(
            repository="r", snapshot=self.id(), time="t", machine="m", host="gpu", writer="0"
        )
        head = self.other.create(first)
        assert head is not None
        self.head: Head = head

    @property
    def other(self) -> Repository:
        """Another machine's view."""
        return Repository(self.store, NoCache(), jobs=1)

    def id(self) -> str:
        return hash_bytes(b"%d" % next(self.ids)).hex()[:32]

    def commit(self) -> Commit:
        return Commit(self.id(), SESSION, "t", "m", "gpu", "", "0")

    def publish_elsewhere(self, changes: Mapping[Path, tuple[str, bool] | None], upon: Head) -> Head:
        found = [
            (path, None if made is None else entry(path, *made)) for path, made in sorted(changes.items())
        ]
        outcome = self.other.publish(upon, found, self.commit())
        assert isinstance(outcome, Head)
        return outcome

    def open(self, name: str) -> tuple[Index, Workspace]:
        index = Index.open(str(self.folder / name))
        nothing: Any = None
        parts: list[Any] = [nothing, index, Repository(self.store, index, jobs=1), *[nothing] * 11]
        return index, Workspace(*parts)


class Watched(Publishing):
    """Tells whether the delta was enough."""

    used = False

    def _inherit(self, found: Sequence[Heir], head: Head) -> None:
        self.used = True
        super()._inherit(found, head)


def plan(index: Index, planned: dict[Path, tuple[tuple[str, bool] | None, int]]) -> None:
    for path, (made, kind) in planned.items():
        what = None if made is None else entry(path, *made)
        state, data = (None, None) if what is None else (what.state, records.encode_entry(what))
        index.put_pending([(path, state, data, 0)], becomes_base=kind == 1)


def contents_of(file: FsPath) -> dict[str, list[Any]]:
    """All that an index says, but for the numbers of its pages and the hints."""
    with closing(sqlite3.connect(file)) as database:
        return {
            "paths": database.execute("SELECT * FROM paths ORDER BY path").fetchall(),
            "pages": database.execute(
                "SELECT id, session, reflected, first, last, body FROM pages ORDER BY id"
            ).fetchall(),
            "pending": database.execute("SELECT * FROM pending ORDER BY path").fetchall(),
            "meta": database.execute("SELECT * FROM meta ORDER BY key").fetchall(),
        }


def hints_of(file: FsPath) -> dict[bytes, str | None]:
    with closing(sqlite3.connect(file)) as database:
        return dict(
            database.execute("SELECT chunks.id, pages.id FROM chunks LEFT JOIN pages ON number = page")
        )


def read_anew(world: World, ws: Workspace, head: Head, scope: Scope) -> None:
    """What the delta must come to, in the words of before: base, then every new page."""
    with ws.index.transaction():
        ws.index.publish_planned()
        ws.index.set_meta("attempt", None)
        observe.save_head(ws, head)
        observe.reflect(ws, head, scope)


def run(world: World, asked: Round, seen: Counter[str]) -> None:
    index, ws = world.open("index")
    with closing(index):
        if asked.known_first:
            observe.reflect(ws, world.head, asked.scope)
        else:
            # What the index says is of a head before this one.
            with suppress(Damaged):
                world.head = world.publish_elsewhere(asked.others or {}, world.head)
        in_scope = {p: what for p, what in asked.planned.items() if asked.scope.contains(p)}
        plan(index, (asked.only_in_scope and in_scope) or asked.planned)

        def copy(_: Manifest) -> None:
            index.set_meta("attempt", "whatever is to be forgotten")
            shutil.copy(world.folder / "index", world.folder / "copy")

        if asked.lost_answer:

            def happen() -> None:
                with suppress(Damaged):  # it falls into the page that is lost
                    world.publish_elsewhere(asked.others or {}, world.other.load_head())

            world.store.before_loss.append(happen)
        publishing = Watched(ws, world.head, asked.scope)
        try:
            outcome: Head | Raced = publishing.publish(world.commit(), copy)
        except Damaged:
            seen["lost"] += 1
            world.store.before_loss.clear()
            index.clear_pending()
            return
        assert isinstance(outcome, Head)
        world.head = outcome
    seen["delta" if publishing.used else "read again"] += 1
    fresh, ws = world.open("copy")
    with closing(fresh):
        read_anew(world, ws, outcome, asked.scope)
    assert contents_of(world.folder / "index") == contents_of(world.folder / "copy")
    check_hints(world, {page.id: page for page in outcome.manifest.pages})
    reflected = sum(row[2] for row in contents_of(world.folder / "index")["pages"])
    seen["delta of a part"] += publishing.used and 0 < reflected < len(outcome.manifest.pages)


def check_hints(world: World, live: dict[str, Any]) -> None:
    """Where a hint leads is true (`Index.is_held` relies on it), and none is missing that was there."""
    index, ws = world.open("index")
    with closing(index):
        hints = hints_of(world.folder / "index")
        for chunk_id, page_id in hints.items():
            assert page_id in live
            held = ws.repository.load_page(live[page_id])
            assert any(chunk.id == chunk_id for e in held for chunk in e.chunks), "a hint leads nowhere"
        assert set(hints_of(world.folder / "copy")) <= set(hints), "a chunk would be sent again"


@pytest.fixture
def _tiny_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"MIN_LENGTH": 1, "TARGET_LENGTH": 3, "MAX_LENGTH": 6, "BOUNDARY_MODULUS": 8, "EAGERNESS": 4}
    for name, value in small.items():
        monkeypatch.setattr(f"manifest_sync.pagecut.{name}", value)
    monkeypatch.setattr("manifest_sync.repository.time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("_tiny_pages")
def test_the_delta_says_what_the_pages_say(fast_path: FsPath) -> None:
    """Any head, any part of it known, any plan, with or without a lost answer and another machine's push."""
    seen: Counter[str] = Counter()
    numbers = itertools.count()

    @settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        start=st.dictionaries(some_paths, contents, max_size=20),
        first=scopes,
        here=st.dictionaries(some_paths, st.tuples(contents, contents, st.booleans()), max_size=6),
        lose=st.sampled_from([False, False, False, True]),
        asked=st.lists(rounds, min_size=1, max_size=3),
    )
    def check(
        start: dict[Path, tuple[str, bool]],
        first: Scope,
        here: dict[Path, tuple[tuple[str, bool], tuple[str, bool], bool]],
        lose: bool,
        asked: list[Round],
    ) -> None:
        folder = fast_path / str(next(numbers))
        folder.mkdir()
        world = World(folder)
        if start:
            world.head = world.publish_elsewhere(start, world.head)
            if lose:
                page = world.head.manifest.pages[0]
                world.store.delete(page_key(page.session, page.id))
        index, ws = world.open("index")
        with closing(index):
            observe.save_head(ws, world.head)
            observe.reflect(ws, world.head, first)
            for path, (local, base, dropped) in here.items():
                row = index.row(path)
                if dropped and row is not None and row.remote is not None:
                    # What is dropped was agreed on, and is nothing that anyone plans.
                    index.set_base([(path, row.remote)])
                    index.drop([path])
                    for each in asked:
                        each.planned.pop(path, None)
                else:
                    index.put_local([(path, Stat(1, 1, 1, 1, 0o100644), entry(path, *local).state, 1)])
                    index.set_base([(path, entry(path, *base).state)])
        for each in asked:
            if each.planned:
                run(world, each, seen)
        shutil.rmtree(folder)

    check()
    assert min(seen["delta"], seen["read again"]) > 80, seen
    assert min(seen["delta of a part"], seen["lost"]) > 5, seen


@pytest.mark.usefixtures("_tiny_pages")
def test_a_page_that_is_not_known_stays_so(fast_path: FsPath) -> None:
    """What the head holds already may be planned again, outside of what this machine knows of it: the page is
    kept, and no row may say what it holds while it counts as unknown."""
    world = World(fast_path)
    world.head = world.publish_elsewhere(dict.fromkeys(PATHS, ("p", False)), world.head)
    index, ws = world.open("index")
    with closing(index):
        scope = Scope((Path(b"a"),))
        observe.reflect(ws, world.head, scope)
        known, unknown = PATHS[0], PATHS[-1]
        assert index.row(unknown) is None
        plan(index, {known: (("q", False), 1), unknown: (("p", False), 1)})
        assert isinstance(Publishing(ws, world.head, scope).publish(world.commit()), Head)
        rows = index.row(known), index.row(unknown)
        assert [row and row.remote for row in rows] == [entry(known, "q", executable=False).state, None]


@pytest.mark.usefixtures("_tiny_pages")
def test_one_file_costs_few_writes(fast_path: FsPath) -> None:
    """The hints of a page lead to the one that replaces it without being written anew, each."""
    world = World(fast_path)
    index, ws = world.open("index")
    with closing(index):
        plan(index, {path: ((f"{number:c}", False), 1) for number, path in enumerate(PATHS, ord("0"))})
        outcome = Publishing(ws, world.head, EVERYTHING).publish(world.commit())
        assert isinstance(outcome, Head)
        plan(index, {PATHS[7]: (("q", False), 1)})
        before = dict(index._connection.execute("SELECT id, page FROM chunks"))
        assert isinstance(Publishing(ws, outcome, EVERYTHING).publish(world.commit()), Head)
        after = dict(index._connection.execute("SELECT id, page FROM chunks"))
    assert len(before.items() & after.items()) == len(PATHS) - 1
    assert len(after) == len(PATHS)


@pytest.mark.usefixtures("_tiny_pages")
def test_what_is_planned_must_be_what_is_sent(fast_path: FsPath) -> None:
    """The index is told the state of the plan and the bucket gets the entry: a damaged index may differ."""
    world = World(fast_path)
    index, ws = world.open("index")
    with closing(index):
        made = entry(PATHS[0], "p", executable=False)
        wrong = State(b"f" + bytes(32))
        for state, data in [(wrong, records.encode_entry(made)), (None, records.encode_entry(made))]:
            index.put_pending([(made.path, state, data, 0)])
            with pytest.raises(Damaged, match="not what is to be sent"):
                Publishing(ws, world.head, EVERYTHING).publish(world.commit())
    assert world.other.load_head().manifest == world.head.manifest


@pytest.mark.usefixtures("_tiny_pages")
def test_nothing_is_read_again_and_a_big_plan_is_not_held(
    fast_path: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page is opened after the swap, unless more chunks went than are held in memory."""
    world = World(fast_path)
    index, ws = world.open("index")
    opened: list[str] = []
    load = Repository.load_pages

    def load_pages(self: Repository, refs: Any, lost: Any = None) -> Any:
        opened.extend(ref.id for ref in refs)
        return load(self, refs, lost)

    monkeypatch.setattr(Repository, "load_pages", load_pages)
    with closing(index):
        for content, most, is_read in [("p", 24, False), ("q", 47, True), ("r", 48, False)]:
            monkeypatch.setattr("manifest_sync.publishing.MOST_CHUNKS", most)
            plan(index, dict.fromkeys(PATHS, ((content, False), 1)))
            outcome = Publishing(ws, world.head, EVERYTHING).publish(world.commit())
            assert isinstance(outcome, Head)
            world.head = outcome
            assert bool(opened) is is_read
            opened.clear()
            assert index.page_of_chunk(hash_bytes(content.encode())) in {p.id for p in outcome.manifest.pages}
            assert {index.row(path).remote for path in PATHS} == {  # type: ignore[union-attr]
                entry(PATHS[0], content, executable=False).state
            }
        assert index.page_of_chunk(Hash(hash_bytes(b"p"))) is None
