"""P11: the index is disposable. Whatever happened to it, a run ends with a clean error that names
`rebuild-index`, or with conflicts: nothing that this machine, the other one or the bucket held is deleted or
overwritten for it. And the index that is made anew is the one that is made where none was.

The oracle is a table of contents that this test keeps by itself. Stat caches trust neither inode nor ctime
here, so that a copied tree counts as unchanged and what a damaged row says is believed.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path as FsPath

import pytest
from blake3 import blake3

from manifest_sync.errors import Damaged, IndexDamaged, ManifestSyncError
from manifest_sync.index.index import Index
from manifest_sync.project import Project
from tests.closure import folder_fetch, read_bucket
from tests.conftest import Soak

CONFIG = """\
bucket = "../bucket"
root = "experiments"
[ownership]
git_tracked = false
[defaults]
trust_ctime = false
trust_inode = false
"""
LONG_AGO = 1_600_000_000 * 10**9
"""When the files were changed, in nanoseconds: long enough ago for the stat cache to trust what it knows."""

COMMANDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("status", {}),
    ("push", {"mode": "new"}),
    ("push", {"mode": "copy"}),
    ("push", {"mode": "full", "max_delete": "100%"}),
    ("pull", {"mode": "copy"}),
    ("pull", {"mode": "full", "max_delete": "100%"}),
    ("push", {"mode": "full", "max_delete": "100%"}),
)
SAME = {f"same/{n:03}": f"the same on both sides, {n}" for n in range(80)}
DROPPED = {f"dropped/{n}": f"given up here, {n}" for n in range(3)}
FILES = SAME | DROPPED | {
    "again": "first",
    "changed-there": "old",
    "deleted-there": "deleted by the other machine",
    "edited-here": "before the edit",
    "edited-on-both": "before both edits",
    "deleted-here": "deleted by this machine",
}  # fmt: skip
THEIRS = {"changed-there": "new, by the other machine", "edited-on-both": "their edit", "new-there": "theirs"}
OURS = {"edited-here": "our edit", "edited-on-both": "our other edit", "new-here": "ours"}


class Pair:
    """Two machines and their bucket in one folder; the first one's index is what gets damaged."""

    def __init__(self, folder: FsPath) -> None:
        self.folder = folder
        self.index = folder / "one/.manifest-sync/index.sqlite"
        self.stash = folder / "stash"

    def project(self, name: str = "one") -> Project:
        return Project.find(str(self.folder / name), env={})

    def write(self, name: str, files: dict[str, str]) -> None:
        for number, (path, content) in enumerate(files.items()):
            target = self.folder / name / "experiments" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
            times = LONG_AGO + number + sum(content.encode())
            os.utime(target, ns=(times, times))

    def keep(self, name: str, of: str = "one") -> None:
        """Keep a copy of a machine's index as it is now."""
        self.stash.mkdir(exist_ok=True)
        shutil.copy(self.folder / of / ".manifest-sync/index.sqlite", self.stash / name)

    @classmethod
    def make(cls, folder: FsPath) -> Pair:
        """Both have synced, and both have gone on since."""
        pair = cls(folder)
        for name in ("one", "two"):
            (folder / name).mkdir(parents=True)
            (folder / name / "manifest-sync.toml").write_text(CONFIG)
            Project.init(str(folder / name), "../bucket", env={})
        one, two = pair.project("one"), pair.project("two")
        one.status()
        pair.keep("before the first push")
        pair.write("one", {path: content for path, content in FILES.items() if path != "deleted-here"})
        one.push()
        pair.keep("before the pull")
        two.pull()
        pair.keep("of the other machine, early", of="two")
        # Once to and fro: to an index that does not know of it, the present content is an old edit.
        pair.write("two", {"deleted-here": FILES["deleted-here"], "again": "second"})
        two.push("copy")
        one.pull("copy")
        pair.keep("before the drop")
        one.drop(["dropped"])
        pair.write("two", THEIRS | {"again": "first"})
        (folder / "two/experiments/deleted-there").unlink()
        two.push("full")
        pair.keep("before our edits")
        pair.write("one", OURS)
        (folder / "one/experiments/deleted-here").unlink()
        one.status()
        pair.keep("of the other machine", of="two")
        return pair

    def copy(self, folder: FsPath) -> Pair:
        shutil.copytree(self.folder, folder)
        return Pair(folder)

    def tree(self, name: str = "one") -> dict[str, str]:
        root = self.folder / name / "experiments"
        return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}

    def trash(self) -> set[str]:
        places = (self.folder / "one/.manifest-sync/trash").rglob("*")
        return {p.read_text() for p in places if p.is_file() and p.name != "record"}

    def head(self) -> dict[str, str]:
        """Hashes of what the bucket holds, whole, read without the program."""
        entries = read_bucket(folder_fetch(self.folder / "bucket")).entries
        return {path.decode(): entry.hash for path, entry in entries.items()}

    def sql(self, *statements: str) -> None:
        connection = sqlite3.connect(self.index)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def rows(self) -> list[tuple[object, ...]]:
        columns = "path, local, base, remote, dropped, size, mtime_ns, mode"
        connection = sqlite3.connect(self.index)
        found = connection.execute(f"SELECT {columns} FROM paths ORDER BY path").fetchall()
        connection.close()
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair.make(tmp_path_factory.mktemp("index") / "pair")


@pytest.fixture(scope="module")
def rebuilt(template: Pair, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    """The rows of an index made where there was nothing at all."""
    pair = template.copy(tmp_path_factory.mktemp("index") / "fresh")
    for left in pair.index.parent.glob("index.*"):
        left.unlink()
    pair.project().rebuild_index()
    return pair.rows()


# --- damages

Damage = Callable[[Pair, random.Random], object]


def overwrite(pair: Pair, start: int, data: bytes) -> None:
    with open(pair.index, "r+b") as file:
        file.seek(start)
        file.write(data)


def flip(pair: Pair, dice: random.Random) -> None:
    size = pair.index.stat().st_size
    for _ in range(dice.choice((1, 1, 4, 30, 300))):
        overwrite(pair, dice.randrange(size), dice.randbytes(1))


def flip_in_one_page(pair: Pair, dice: random.Random) -> None:
    page = dice.randrange(pair.index.stat().st_size // 4096)
    for _ in range(dice.choice((1, 5, 40))):
        overwrite(pair, page * 4096 + dice.randrange(4096), dice.randbytes(1))


def flip_a_bit(pair: Pair, dice: random.Random) -> None:
    place = dice.randrange(pair.index.stat().st_size)
    overwrite(pair, place, bytes([pair.index.read_bytes()[place] ^ 1 << dice.randrange(8)]))


def truncate(pair: Pair, dice: random.Random) -> None:
    os.truncate(pair.index, dice.randrange(pair.index.stat().st_size))


def zero(pair: Pair, dice: random.Random) -> None:
    size = pair.index.stat().st_size
    start = dice.choice((0, dice.randrange(size)))
    overwrite(pair, start, bytes(dice.choice((512, 4096, size - start))))


def exchange_pages(pair: Pair, dice: random.Random) -> None:
    data = pair.index.read_bytes()
    one, other = (4096 * dice.randrange(1, len(data) // 4096) for _ in range(2))
    overwrite(pair, one, data[other : other + 4096])
    overwrite(pair, other, data[one : one + 4096])


def mix_with_an_older_one(pair: Pair, dice: random.Random) -> None:
    """Some pages of an older copy: what a journal that belongs to another moment leaves behind."""
    old = (pair.stash / dice.choice(("before the pull", "before the drop"))).read_bytes()
    for _ in range(dice.choice((1, 3))):
        place = 4096 * dice.randrange(len(old) // 4096)
        overwrite(pair, place, old[place : place + 4096])


def leave_a_hot_journal(pair: Pair, dice: random.Random) -> None:
    """The journal of a transaction that never ended, and behind it the file as the transaction left it."""
    connection = sqlite3.connect(pair.index, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("UPDATE paths SET base = NULL, local = randomblob(3000)")
    journal = FsPath(f"{pair.index}-journal")
    kept = pair.index.read_bytes(), journal.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    pair.index.write_bytes(kept[0])
    journal.write_bytes(kept[1][: dice.choice((len(kept[1]), dice.randrange(len(kept[1]))))])


def sql(*statements: str) -> Damage:
    return lambda pair, dice: pair.sql(*statements)


def put_back(name: str) -> Damage:
    return lambda pair, dice: shutil.copy(pair.stash / name, pair.index)


def of_another_repository(pair: Pair, dice: random.Random) -> None:
    other = pair.folder / "other"
    (other / "x/experiments/same").mkdir(parents=True)
    (other / "x/manifest-sync.toml").write_text(CONFIG)
    Project.init(str(other / "x"), "../bucket", env={})
    (other / "x/experiments/same/001").write_text("another repository's")
    pair.project("other/x").push()
    shutil.copy(other / "x/.manifest-sync/index.sqlite", pair.index)
    shutil.rmtree(other)


def a_folder(pair: Pair, dice: random.Random) -> None:
    pair.index.unlink()
    (pair.index / "with something").mkdir(parents=True)


RANDOM: list[Damage] = [
    flip, flip, flip_in_one_page, flip_in_one_page, flip_a_bit, truncate, zero, exchange_pages,
    mix_with_an_older_one, leave_a_hot_journal,
]  # fmt: skip
HARMLESS: dict[str, Damage] = {
    "missing": lambda pair, dice: pair.index.unlink(),
    "empty": lambda pair, dice: pair.index.write_bytes(b""),
    "without the head": sql("DELETE FROM meta WHERE key IN ('head', 'head_etag')"),
    "without snapshot and repository": sql("DELETE FROM meta WHERE key IN ('snapshot', 'repository')"),
    "an attempt that never was": sql("INSERT OR REPLACE INTO meta VALUES ('attempt', 'zzz')"),
    "without paths": sql("DELETE FROM paths"),
    "without some paths": sql("DELETE FROM paths WHERE substr(path, -1) IN (x'31', x'32')"),
    "without folders": sql("DELETE FROM folders"),
    "without pages": sql("DELETE FROM pages"),
    "page bodies lost": sql("UPDATE pages SET body = NULL"),
    "page bodies exchanged": sql("UPDATE pages SET body = (SELECT body FROM pages ORDER BY id LIMIT 1)"),
    "page bodies are text": sql("UPDATE pages SET body = 'text'"),
    "base forgotten": sql("UPDATE paths SET base = NULL"),
    "local forgotten": sql("UPDATE paths SET local = NULL, size = NULL, mtime_ns = NULL, ctime_ns = NULL,"
                           " inode = NULL, mode = NULL, clean = 0"),
    "remote forgotten": sql("UPDATE paths SET remote = NULL"),
    "base and remote forgotten": sql("UPDATE paths SET base = NULL, remote = NULL"),
    "pages not reflected": sql("UPDATE pages SET reflected = 0"),
    "states exchanged": sql("UPDATE paths SET local = base, base = local WHERE local IS NOT NULL"),
    "states of no kind": sql("UPDATE paths SET local = x'7a7a', base = x'7a7a' WHERE local IS NOT NULL"),
    "paths that are none": sql("INSERT INTO paths (path, local, base) VALUES (x'2e2e2f78', x'66', x'66')"),
    "paths are text": sql("INSERT INTO paths (path, base, remote) VALUES ('same/001', x'66', x'67')"),
    "pending rows that are none": sql("INSERT INTO pending (path, state, entry, fence, planned)"
                                      " SELECT path, local, x'00', 0, 1 FROM paths LIMIT 5"),
    "planned deletions that are none": sql("INSERT INTO pending (path, state, entry, fence, planned)"
                                           " SELECT path, NULL, NULL, 0, 1 FROM paths"),
    "sent chunks that are none": sql("INSERT INTO sent SELECT id, x'00', 0 FROM chunks"),
}  # fmt: skip
"""What may be gone on with: every command may run, and none may do harm."""
REFUSED: dict[str, Damage] = {
    "text": lambda pair, dice: pair.index.write_bytes(b"not a database at all\n" * 1000),
    "zeroed": lambda pair, dice: pair.index.write_bytes(bytes(pair.index.stat().st_size)),
    "a folder": a_folder,
    **{
        name: put_back(name)
        for name in (
            "before the first push", "before the pull", "before the drop", "before our edits",
            "of the other machine", "of the other machine, early",
        )
    },
    "of another repository": of_another_repository,
    "no mark": lambda pair, dice: pair.index.with_name("index.mark").unlink(),
    "a mark that is none": lambda pair, dice: pair.index.with_name("index.mark").write_bytes(b"\xff\x00"),
    "a newer version": sql("PRAGMA user_version = 99"),
    "version 0": sql("PRAGMA user_version = 0"),
    "another application's": sql("PRAGMA application_id = 1"),
    "without meta": sql("DELETE FROM meta"),
    "a head that is none": sql("UPDATE meta SET value = 'x' WHERE key = 'head'"),
    "a head of another type": sql("UPDATE meta SET value = x'ff00' WHERE key = 'head'"),
    "a head that is not UTF-8": sql("UPDATE meta SET value = CAST(x'ff00' AS TEXT) WHERE key = 'head'"),
    "a token of another type": sql("UPDATE meta SET value = x'ff00' WHERE key = 'token'"),
    "states are text": sql("UPDATE paths SET local = 'f', base = 'f', remote = 'g'"),
    "stats are text": sql("UPDATE paths SET size = 'many', mtime_ns = 'long ago', local = NULL"),
    "folders are text": sql("UPDATE folders SET digest = 'x', mounted = 'y'"),
    "ranges of pages are text": sql("UPDATE pages SET first = 'a'"),
    "meta is gone": sql("DROP TABLE meta"),
    "pending is gone": sql("DROP TABLE pending"),
    "an index is gone": sql("DROP INDEX drift"),
    "a column is gone": sql("DROP INDEX dropped", "DROP INDEX drift",
                            "ALTER TABLE paths DROP COLUMN dropped"),
}  # fmt: skip
"""What every push that may publish has to refuse."""


# --- the oracle


def hash_of(content: str) -> str:
    return blake3(content.encode()).hexdigest()


def run_all(pair: Pair) -> list[Damaged]:
    """Every command, one after the other; the errors that speak of damage."""
    errors: list[ManifestSyncError] = []
    for command, options in COMMANDS:
        try:
            getattr(pair.project(), command)(**options)
        except ManifestSyncError as error:
            errors.append(error)
    pair.project("two").pull("full", max_delete="100%")
    # It may be something else that is asked for, but it is said what.
    assert all(error.hint for error in errors), errors
    damages = [error for error in errors if isinstance(error, Damaged)]
    assert all("rebuild-index" in error.hint for error in damages), damages
    return damages


def check(pair: Pair, before: dict[str, str]) -> None:
    """What each side had is there, or in the trash, or (here) in the bucket as well."""
    head, one, two = pair.head(), pair.tree("one"), pair.tree("two")
    kept = {hash_of(content) for content in pair.trash()} | set(head.values())
    for path, content in before.items():
        assert one.get(path) == content or hash_of(content) in kept, f"{path} is lost here"
    for path, content in SAME.items():
        assert one.get(path) == content, f"{path} was deleted or overwritten here"
    for path, content in (SAME | DROPPED | THEIRS | {"again": "first"}).items():
        assert head.get(path) == hash_of(content), f"{path} was deleted or overwritten in the bucket"
        assert two.get(path) == content, f"{path} was deleted or overwritten on the other machine"
    # Our own change of what they left alone may have been sent.
    assert head.get("edited-here") in {hash_of(FILES["edited-here"]), hash_of(OURS["edited-here"])}


def check_rebuilt(pair: Pair, rebuilt: list[tuple[object, ...]]) -> None:
    """The index made anew is the one made where none was; and it does no harm either."""
    before = pair.tree()
    pair.project().rebuild_index()
    assert pair.rows() == rebuilt
    for command, options in COMMANDS:
        getattr(pair.project(), command)(**options)
    pair.project("two").pull("full", max_delete="100%")
    check(pair, before)


def go_through(
    pair: Pair, damage: Damage, dice: random.Random, rebuilt: list[tuple[object, ...]]
) -> list[Damaged]:
    before = pair.tree()
    damage(pair, dice)
    damaged = pair.copy(pair.folder.with_name("damaged"))
    errors = run_all(pair)
    check(pair, before)
    check_rebuilt(damaged, rebuilt)
    return errors


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_damage(
    name: str, template: Pair, rebuilt: list[tuple[object, ...]], fast_path: FsPath
) -> None:
    go_through(template.copy(fast_path / "pair"), HARMLESS[name], random.Random(name), rebuilt)


@pytest.mark.parametrize("name", REFUSED)
def test_a_damage_that_is_refused(
    name: str, template: Pair, rebuilt: list[tuple[object, ...]], fast_path: FsPath
) -> None:
    pair = template.copy(fast_path / "pair")
    head = pair.head()
    errors = go_through(pair, REFUSED[name], random.Random(name), rebuilt)
    pushes = [command for command, _ in COMMANDS].count("push")
    assert len(errors) >= pushes, errors
    assert pair.head() == head


def test_a_damage_met_in_a_kept_page_is_not_the_bucket_s(
    template: Pair, fast_path: FsPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that the index cannot give is not lost, and nobody has to look for it in the bucket."""
    pair = template.copy(fast_path / "pair")
    pair.write("one", {"another": "file"})

    def malformed(self: Index, page_id: str) -> bytes | None:
        raise self.damage("database disk image is malformed")

    monkeypatch.setattr(Index, "load_page_body", malformed)
    with pytest.raises(IndexDamaged, match=r"index\.sqlite is damaged"):
        pair.project().push("copy")


@pytest.mark.soak
def test_random_damages(
    template: Pair, rebuilt: list[tuple[object, ...]], fast_path: FsPath, soak: Soak
) -> None:
    noticed = 0
    for number in range(soak.count(50, 1000)):
        dice = soak.dice(f"index damage {number}")
        folder = fast_path / f"{number}"
        damage = RANDOM[number % len(RANDOM)]
        try:
            noticed += bool(go_through(template.copy(folder / "pair"), damage, dice, rebuilt))
        except BaseException as error:
            raise AssertionError(f"damage {number}: {damage.__name__}") from error
        shutil.rmtree(folder)
    # Most bytes of the file are content or free, and not every damage shows.
    assert noticed, "none of the damages was noticed"


def test_the_oracle_sees_a_loss(template: Pair, tmp_path: FsPath) -> None:
    pair = template.copy(tmp_path / "pair")
    before = pair.tree()
    check(pair, before)
    (pair.folder / "one/experiments/new-here").unlink()
    with pytest.raises(AssertionError, match="new-here"):
        check(pair, before)
