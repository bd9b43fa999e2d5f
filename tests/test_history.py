"""Looking back: log, ls and cat, on a directory bucket and with the real command."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path as FsPath
from random import Random
from typing import Any

import pytest

from manifest_sync.cli.history_output import LogLines
from manifest_sync.errors import Contended, Damaged, ManifestSyncError, StoreUnavailable, UsageError
from manifest_sync.history import History, LogRecord, PagesSeen
from manifest_sync.index.index import Index
from manifest_sync.keys import pack_key
from manifest_sync.manifest import HISTORY_BLOCK
from manifest_sync.model import Path
from manifest_sync.pages import PageRef
from manifest_sync.repository import Repository
from manifest_sync.scope import Scope
from manifest_sync.stores.directory import DirectoryStore
from tests.chains import Chain, NoCache, entry
from tests.machines import Machine
from tests.servers import BUCKET, S3Server
from tests.test_cli_output import Terminal
from tests.test_snapshots import NOW


@pytest.fixture
def gpu(tmp_path: FsPath) -> Machine:
    return Machine(tmp_path / "gpu", str(tmp_path / "bucket"))


def look(chain: Chain, jobs: int = 4) -> History:
    return History(chain.repository, chain.head, jobs, NOW)


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def logged(machine: Machine, *words: str, code: int = 0) -> dict[str, Any]:
    done = machine.command("log", "--json", *words)
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


class TestLog:
    def test_newest_first_with_what_changed(self) -> None:
        chain = Chain()
        chain.publish("a", "b", "c", message="three", host="laptop")
        chain.publish(without=["a"])
        records = list(look(chain).log())
        assert [(r.sequence, r.files, r.files_change, r.has_older) for r in records] == [
            (2, 2, -1, True),
            (1, 3, 3, True),
            (0, 0, None, False),
        ]
        assert [(r.host, r.message) for r in records[:2]] == [("gpu", ""), ("laptop", "three")]
        assert records[1].id == chain.manifests[1].snapshot
        assert not any(r.is_collection or r.problem or r.pins for r in records)

    def test_the_count_is_kept_to_and_says_that_there_is_more(self) -> None:
        chain = Chain()
        chain.extend(5)
        records = list(look(chain).log(3))
        assert [r.sequence for r in records] == [5, 4, 3]
        assert [r.files_change for r in records] == [0, 0, 0]
        assert records[-1].has_older
        assert [r.sequence for r in look(chain).log(6)] == [5, 4, 3, 2, 1, 0]
        assert not list(look(chain).log(6))[-1].has_older

    @pytest.mark.parametrize("jobs", [1, 3, 64])
    def test_only_what_is_shown_and_one_more_is_read(self, jobs: int) -> None:
        chain = Chain()
        chain.extend(HISTORY_BLOCK + 30)
        before = chain.store.requests.copy()
        assert len(list(look(chain, jobs).log(5))) == 5
        assert chain.store.requests - before == {"LIST": 1, "GET": 5}

    def test_collections_and_pins_are_marked(self) -> None:
        chain = Chain()
        chain.extend(4)
        chain.pin(chain.manifests[1], "paper")
        chain.collect(oldest=3)
        chain.extend(1)
        records = list(look(chain).log())
        assert [(r.sequence, r.is_collection, r.pins) for r in records] == [
            (7, False, ()),
            (6, True, ()),
            (5, False, ()),
            (4, False, ()),
            (3, False, ()),
            (1, False, ("paper",)),
        ]
        # The pin's parent is gone, and 3's neighbour in the list is not its parent.
        assert [r.files_change for r in records[-2:]] == [None, None]

    def test_what_cannot_be_read_hides_nothing(self) -> None:
        chain = Chain()
        chain.extend(6)
        chain.lose(chain.manifests[2])
        chain.damage(chain.manifests[4])
        records = list(look(chain).log())
        assert [r.sequence for r in records] == [6, 5, 4, 3, 2, 1, 0]
        assert {r.sequence: r.problem.split()[0] for r in records if r.problem} == {4: "snapshots/0000000004-"
            + chain.manifests[4].snapshot + ".json.zst", 2: "snapshot"}  # fmt: skip
        assert all(r.hint or "damaged" in r.problem for r in records if r.problem)
        assert [r.id for r in records] == [m.snapshot for m in reversed(chain.manifests)]
        assert [r.files_change for r in records] == [0, None, None, None, None, 0, None]

    def test_a_lost_history_block_ends_it_with_the_reason(self) -> None:
        chain = Chain()
        chain.extend(HISTORY_BLOCK + 20)
        chain.store.delete(next(item.key for item in chain.store.list("history/")))
        assert len(list(look(chain).log())) == HISTORY_BLOCK + 21
        chain.lose(chain.manifests[HISTORY_BLOCK])
        records = list(look(chain).log())
        assert [r.sequence for r in records] == list(range(HISTORY_BLOCK + 20, HISTORY_BLOCK - 2, -1))
        assert "history/0-" in records[-1].problem

    def test_what_was_collected_meanwhile_is_no_damage(self) -> None:
        chain = Chain()
        chain.extend(6)
        history = look(chain)
        chain.collect(oldest=4)
        assert [(r.sequence, r.problem) for r in history.log()] == [(6, ""), (5, ""), (4, "")]

    def test_what_was_collected_meanwhile_does_not_hide_a_pin(self) -> None:
        chain = Chain()
        chain.extend(4)
        chain.pin(chain.manifests[1], "paper")
        history = look(chain)
        chain.collect(oldest=4)
        assert [(r.sequence, r.problem) for r in history.log()] == [(5, ""), (4, ""), (1, "")]

    def test_of_one_path_only_what_changed_it(self) -> None:
        chain = Chain()
        chain.publish("exp/a", "exp/b", "other/c")
        chain.publish(entries=[entry("exp/a", executable=True)])
        chain.publish("other/d")
        chain.publish(entries=[entry("exp/a", time=9, executable=True)])
        chain.publish(without=["exp/a"])

        def sequences(path: str, count: int | None = None) -> list[int]:
            scope = Scope((Path(path.encode()),))
            return [record.sequence for record in look(chain).log(count, scope)]

        assert sequences("exp/a") == [5, 2, 1]
        assert sequences("exp") == [5, 2, 1]
        assert sequences("exp/b") == [1]
        assert sequences("other") == [3, 1]
        assert sequences("exp/a", 2) == [5, 2]
        assert sequences("nothing") == []
        chain.collect(oldest=3)
        # Who brought exp/b is not kept any more; it is there since the oldest that is.
        assert sequences("exp/b") == [3]
        assert sequences("exp/a") == [5, 3]

    def test_of_one_path_only_its_pages_are_opened(self) -> None:
        chain = Chain()
        chain.publish(*(f"exp{number % 50:02}/set/{number:05}.json" for number in range(20_000)))
        for number in range(5):
            chain.publish(f"exp07/set/new{number}.json")
        chain.publish("exp44/set/new.json")
        assert len(chain.head.manifest.pages) > 6
        before = chain.store.requests.copy()
        scope = Scope((Path(b"exp44"),))
        assert [r.sequence for r in look(chain).log(1, scope)] == [7]
        # Two snapshots and what is read ahead of them, and the two versions of the pages where exp44 lies.
        assert (chain.store.requests - before)["GET"] <= 7 + 4

    def test_of_one_path_a_lost_page_is_named_and_hides_nothing(self) -> None:
        chain = Chain()
        chain.publish("exp/a")
        lost = chain.publish("exp/b")
        chain.publish("exp/c")
        chain.publish("exp/d")
        chain.lose(chain.manifests[1])
        # What came of `other` with sequence 2 cannot be told, so it is not left out.
        unknown = look(chain).log(scope=Scope((Path(b"other"),)))
        assert [r.sequence for r in unknown] == [2, 1]
        chain.adopt(chain.manifests[1])
        for page in lost.pages:
            chain.store.delete(f"pages/{page.session}/{page.id}.json.zst")
        records = list(look(chain).log(scope=Scope((Path(b"exp"),))))
        assert [(r.sequence, r.problem[:6]) for r in records] == [
            (4, ""),
            (3, "pages/"),
            (2, "pages/"),
            (1, ""),
        ]

    def test_the_first_snapshot_alone(self) -> None:
        assert [(r.sequence, r.has_older) for r in look(Chain()).log()] == [(0, False)]

    def test_the_command(self, gpu: Machine) -> None:
        gpu.write("exp/a.json", "a" * 2000)
        gpu.push(message="first\nsecond line")
        gpu.write("exp/b.json", "b" * 1000)
        gpu.push(message="red \x1b[31m ende")
        lines = said(gpu.command("log"))
        assert len(lines) == 3
        assert lines[0].startswith("2  ")
        assert "2 files +1      2.9 KiB" in lines[0]
        assert lines[0].endswith("red \\x1b[31m ende")
        assert lines[1].endswith("first")
        detailed = said(gpu.command("log", "-v", "-n", "2"))
        assert "second line" in detailed[3]
        only = gpu.command("log", "exp/a.json")
        assert [line[:1] for line in said(only)] == ["1"]
        assert only.stderr == ""
        assert "older" in gpu.command("log", "exp", "-n", "1").stderr
        assert "nothere" in gpu.command("log", "nothere").stderr
        found = logged(gpu)
        assert found["command"] == "log"
        assert found["damaged"] is False
        newest = found["snapshots"][0]
        assert newest["message"] == "red \x1b[31m ende"
        assert (newest["files_change"], newest["bytes_change"]) == (1, 1000)
        assert newest["time"].endswith("Z")
        assert [s["sequence"] for s in found["snapshots"]] == [2, 1, 0]

    def test_more_than_twenty_are_hinted_at(self, gpu: Machine) -> None:
        for number in range(21):
            gpu.write("exp/a.json", str(number))
            gpu.push("copy")
        done = gpu.command("log")
        assert len(said(done)) == 20
        assert "--all" in done.stderr
        assert len(said(gpu.command("log", "--all"))) == 22
        assert gpu.command("log", "-q").stderr == ""
        assert logged(gpu, "-n", "3")["has_older"] is True
        assert gpu.command("log", "-n", "3", "--all").returncode == 2
        assert gpu.command("log", "-n", "0").returncode == 2

    def test_damage_is_exit_code_7(self, gpu: Machine, tmp_path: FsPath) -> None:
        for number in range(4):
            gpu.write("exp/a.json", str(number))
            gpu.push("copy")
        next((tmp_path / "bucket/snapshots").glob("0000000002-*")).unlink()
        done = gpu.command("log")
        assert [line.split()[0] for line in said(done, 7)] == ["4", "3", "2", "1", "0"]
        assert "verify" in done.stderr
        found = logged(gpu, code=7)
        assert found["damaged"] is True
        assert "missing" in found["snapshots"][2]["problem"]

    @pytest.mark.parametrize("columns", [20, 60, 80, 200])
    def test_a_terminal_gets_lines_that_fit(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setenv("COLUMNS", str(columns))
        message = "a message that says why, at some length, and so does not fit everywhere; not even here"
        record = LogRecord(
            123,
            "ab" * 16,
            datetime(2026, 11, 20, tzinfo=UTC),
            "gpu",
            "m",
            message,
            1234567,
            5 << 30,
            files_change=7,
        )
        lines = list(LogLines(UTC, verbose=False).lines(record))
        assert all(len(line) <= columns for line in lines)
        assert len(lines) == (1 if columns >= 80 else 3)
        assert lines[0].startswith("123  abababababab"[: columns - 1])
        if columns == 200:
            assert lines[0].endswith(message)
        if columns == 60:
            assert [line.split()[0] for line in lines] == ["123", "1,234,567", "gpu"]
        if columns != 200:
            assert lines[-1].endswith("…")

    def test_a_reader_of_the_log_that_stops_early(self, gpu: Machine) -> None:
        gpu.push()
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m manifest_sync log -v | true"],
            cwd=gpu.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stderr == ""

    def test_local_time_for_people(self, gpu: Machine) -> None:
        gpu.env["TZ"] = "UTC"
        universal = said(gpu.command("log"))[0].split()[2:4]
        gpu.env["TZ"] = "XXX-3"
        local = said(gpu.command("log"))[0].split()[2:4]
        assert (int(local[1][:2]) - int(universal[1][:2])) % 24 == 3
        assert logged(gpu)["snapshots"][0]["time"].startswith("T".join(universal))


class TestLs:
    def test_now_and_then(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.write("exp/sub/b", "b")
        gpu.push()
        (gpu.root / "exp/a").unlink()
        gpu.write("exp2/c", "c")
        gpu.push("full", max_delete="9")
        assert said(gpu.command("ls")) == ["exp/sub/b", "exp2/c"]
        for at in ("1", "head~1", "0~0~0"[:3]):
            expected = [] if at == "0~0" else ["exp/a", "exp/sub/b"]
            assert said(gpu.command("ls", "--at", at)) == expected
        assert said(gpu.command("ls", "exp/sub", "--at", "1")) == ["exp/sub/b"]
        found = json.loads(gpu.command("ls", "--json", "--at", "1").stdout)
        assert (found["sequence"], [e["path"] for e in found["entries"]]) == (1, ["exp/a", "exp/sub/b"])
        assert json.loads(gpu.command("ls", "--json", "--at", "0").stdout)["entries"] == []

    def test_which_snapshot_was_meant_is_said_unless_it_was_numbered(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        assert gpu.command("ls", "--at", "1").stderr == ""
        assert gpu.command("ls").stderr == ""
        done = gpu.command("ls", "--at", "now")
        assert done.stderr.startswith("now: sequence 1 of 20")
        assert said(done) == ["exp/a"]
        assert gpu.command("ls", "-q", "--at", "now").stderr == ""

    def test_nothing_there(self, gpu: Machine) -> None:
        assert said(gpu.command("ls")) == []
        gpu.write("exp/a.json", "a")
        gpu.push()
        done = gpu.command("ls", "exp99")
        said(done, 2)
        assert gpu.command("cat", "exp99").returncode == gpu.command("restore", "exp99").returncode == 2
        assert "exp99 is not in sequence 1" in done.stderr
        assert "did you mean" in gpu.command("ls", "exp/a.jsn").stderr
        assert gpu.command("ls", "--at", "77").returncode == 2
        assert "77" in json.loads(gpu.command("ls", "--json", "--at", "77").stdout)["message"]

    def test_a_reader_that_stops_early(self, gpu: Machine) -> None:
        for number in range(3000):
            gpu.write(f"exp/{'long' * 20}{number:04}", b"")
        gpu.push()
        shell = f"{sys.executable} -m manifest_sync ls | head -n 2"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=gpu.folder, capture_output=True, text=True, check=False
        )
        assert len(done.stdout.splitlines()) == 2
        assert done.stderr == ""

    def test_a_pager_holds_no_lock(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        listing = gpu.project().ls()
        assert next(listing).path == b"exp/a"
        gpu.write("exp/b", "b")
        assert gpu.push().new == 1
        assert list(listing) == []

    def test_a_run_under_way_does_not_stop_it(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        with gpu.project().workspace(()):
            assert [e.path for e in gpu.project().ls()] == [b"exp/a"]
            assert [r.sequence for r in gpu.project().log()] == [1, 0]


class TestCat:
    def test_bytes_come_out_as_they_are(self, gpu: Machine) -> None:
        content = bytes(range(256)) * 17
        gpu.write("exp/a.bin", content)
        gpu.write("exp/empty", b"")
        gpu.push()
        assert b"".join(gpu.project().cat("exp/a.bin")) == content
        assert b"".join(gpu.project().cat("experiments/exp/a.bin")) == content
        assert list(gpu.project().cat("exp/empty")) == []
        gpu.write("exp/a.bin", b"new")
        gpu.push("copy")
        assert b"".join(gpu.project().cat("exp/a.bin")) == b"new"
        assert b"".join(gpu.project().cat("exp/a.bin", at="1")) == content

    def test_a_symlink_is_its_target(self, tmp_path: FsPath) -> None:
        gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
        gpu.write("exp/a", "a")
        (gpu.root / "exp/link").symlink_to("a")
        gpu.push()
        assert said(gpu.command("cat", "exp/link")) == ["a"]

    def test_what_is_no_file_names_what_is_nearest(self) -> None:
        chain = Chain()
        chain.publish("exp/set/1.json", "exp/set/2.json", "exp/readme", "exp-1/x")
        history = look(chain)

        def refused(path: str) -> tuple[str, str]:
            with pytest.raises(ManifestSyncError) as failed:
                list(history.read(chain.head.manifest, Path(path.encode())))
            return failed.value.message, failed.value.hint

        assert refused("exp/set") == (
            "exp/set is a folder in sequence 1, not a file",
            "`manifest-sync ls exp/set` lists what is in it",
        )
        assert refused("")[0] == "the root is a folder in sequence 1, not a file"
        assert refused("exp/set/1.jsn") == (
            "exp/set/1.jsn is not in sequence 1",
            "did you mean exp/set/1.json?",
        )
        assert refused("exp/sett/1.json")[1] == "did you mean exp/set?"
        assert refused("exp/other/deep/1.json")[1] == "the nearest folder there is exp"
        assert refused("exp/readme/x")[1] == "exp/readme is a file there"
        assert refused("zzz/1")[1] == "the nearest folder there is the root"
        assert refused("exp/")[0].startswith("exp/ is not")
        empty = History(chain.repository, chain.head, 1, NOW)
        with pytest.raises(ManifestSyncError) as failed:
            list(empty.read(chain.manifests[0], Path(b"a")))
        assert failed.value.hint == "that snapshot is empty"

    def test_nothing_that_does_not_verify_is_written(self, gpu: Machine, tmp_path: FsPath) -> None:
        content = os.urandom(9 << 20)
        gpu.write("exp/big", content)
        gpu.push()
        pack = max((tmp_path / "bucket/packs").rglob("*.pack"), key=lambda p: p.stat().st_size)
        body = bytearray(pack.read_bytes())
        body[-len(body) // 4] ^= 1
        pack.write_bytes(body)
        got = b""
        pieces = gpu.project().cat("exp/big")

        def read_all() -> None:
            nonlocal got
            for piece in pieces:
                got += piece

        with pytest.raises(Damaged, match="exp/big"):
            read_all()
        assert content.startswith(got)
        done = subprocess.run(
            [sys.executable, "-m", "manifest_sync", "cat", "exp/big"],
            cwd=gpu.folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 7
        assert content.startswith(done.stdout)
        assert b"exp/big" in done.stderr

    def test_a_file_whose_chunks_lie_in_many_packs_comes_in_order(self, gpu: Machine) -> None:
        """Dedup puts the middle of a file into an older pack; the order of packs is not the file's."""
        old = [Random(part).randbytes(9 << 20) for part in range(2)]
        for number, part in enumerate(old):
            gpu.write(f"exp/old{number}", part)
            gpu.push()
        mixed = old[1] + old[0] + old[1] + b"end"
        gpu.write("exp/mixed", mixed)
        gpu.push()
        entry = next(e for e in gpu.project().ls("exp/mixed"))
        runs = [pack for pack, _ in itertools.groupby(chunk.frame.pack for chunk in entry.chunks)]
        assert len(set(runs)) < len(runs), "the file comes back to a pack it had left"
        assert b"".join(gpu.project().cat("exp/mixed")) == mixed

    def test_memory_is_bounded(self, gpu: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("manifest_sync.fetch.IN_ORDER", 4 << 20)
        content = os.urandom(20 << 20)
        gpu.write("exp/big", content)
        gpu.push()
        project = gpu.project()
        before = project.store().requests["GET"]
        pieces = project.cat("exp/big")
        got = next(pieces)
        # The first bytes come before the rest was even asked for: head, then one window.
        assert project.store().requests["GET"] - before <= 4
        assert got + b"".join(pieces) == content
        assert project.store().requests["GET"] - before > 5

    def test_it_is_bytes_and_never_json(self, gpu: Machine) -> None:
        gpu.write("exp/a", "a")
        gpu.push()
        done = gpu.command("cat", "exp/a", "--json")
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"] == "usage_error"
        assert gpu.command("cat").returncode == 2

    def test_one_file_is_one_range(self, gpu: Machine) -> None:
        for number in range(50):
            gpu.write(f"exp/{number}", f"content {number}")
        gpu.push()
        project = gpu.project()
        assert list(project.cat("exp/7")) == [b"content 7"]
        assert project.store().requests == {"GET": 2}


def test_a_snapshot_that_is_collected_while_it_is_read_is_told_apart_from_damage() -> None:
    chain = Chain()
    chain.publish(*[f"exp/{number}" for number in range(10)])
    old = chain.manifests[1]
    chain.publish(without=["exp/1"])
    history = look(chain)
    page = old.pages[0]
    key = f"pages/{page.session}/{page.id}.json.zst"
    chain.store.delete(key)
    with pytest.raises(Damaged, match="missing"):
        list(history.ls(old, Scope.everything()))
    chain.collect(oldest=2)
    with pytest.raises(StoreUnavailable, match="sequence 1 was collected"):
        list(look(chain).ls(old, Scope.everything()))


def test_a_name_that_was_collected_meanwhile_is_told_so() -> None:
    chain = Chain()
    chain.extend(6)
    history = look(chain)
    chain.collect(oldest=4)
    with pytest.raises(UsageError, match="it was collected; the oldest is sequence 4"):
        history.at("2")
    assert history.at("5").sequence == 5


def test_a_lost_pack_hurts_only_its_files(gpu: Machine, tmp_path: FsPath) -> None:
    gpu.write("exp/a", "a")
    gpu.push()
    gpu.write("exp/b", "b")
    gpu.push()
    entry = next(gpu.project().ls("exp/a"))
    pack = entry.chunks[0].frame.pack
    (tmp_path / "bucket" / pack_key(pack.session, pack.id)).unlink()
    assert list(gpu.project().cat("exp/b")) == [b"b"]
    done = gpu.command("cat", "exp/a")
    said(done, 7)
    assert "exp/a" in done.stderr


def test_an_index_that_is_being_written_is_done_without() -> None:
    class Busy:
        asked = 0

        def load_page_body(self, page_id: str) -> bytes | None:
            self.asked += 1
            raise Contended("another process is writing the local index")

    busy = Busy()
    pages = PagesSeen(busy)  # type: ignore[arg-type]
    assert pages.load_page_body("a") is None
    assert pages.load_page_body("a") is None
    assert busy.asked == 1, "it waits ten seconds once, not for every page"


def test_only_the_last_pages_are_kept_in_memory() -> None:
    with Index.open("/nonexistent/index", read_only=True) as index:
        pages = PagesSeen(index)
        for number in range(100):
            ref = PageRef(f"{number}", "", Path(b"a"), Path(b"a"), 1, 0, 1, 1)
            pages.save_page_bodies([(ref, b"x")])
        assert pages.load_page_body("0") is None
        assert pages.load_page_body("99") == b"x"


def test_without_any_local_state_everything_is_read_from_the_bucket(gpu: Machine, tmp_path: FsPath) -> None:
    gpu.write("exp/a", "a")
    gpu.push()
    store = DirectoryStore(str(tmp_path / "bucket"))
    repository = Repository(store, NoCache())
    history = History(repository, repository.load_head(), 2, NOW)
    assert [e.path for e in history.ls(history.at(""), Scope.everything())] == [b"exp/a"]
    assert isinstance(next(history.log()), LogRecord)


def test_history_on_a_real_s3_server(
    tmp_path: FsPath, seaweed_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {**seaweed_http.environment(), "HOME": str(tmp_path)}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    gpu = Machine(tmp_path / "gpu", f"s3://{BUCKET}/history", endpoint_url=seaweed_http.endpoint_url, env=env)
    gpu.write("exp/a.json", "old")
    gpu.push(message="one")
    gpu.write("exp/a.json", "new")
    gpu.push("copy", message="two")
    assert [line.split()[-1] for line in said(gpu.command("log"))[:2]] == ["two", "one"]
    assert said(gpu.command("cat", "exp/a.json", "--at", "head~1")) == ["old"]
    assert said(gpu.command("ls", "--at", "1")) == ["exp/a.json"]
    project = gpu.project()
    assert len(list(project.log(1))) == 1
    assert project.store().requests == {"GET": 2, "LIST": 1}
