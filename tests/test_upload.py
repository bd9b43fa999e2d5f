"""What a push notes of the files it sends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync import push
from manifest_sync.canonical import hash_bytes
from manifest_sync.index.index import Index, Row
from manifest_sync.model import Path, file_state
from manifest_sync.pack import CHUNK_SMALL
from manifest_sync.project import Project
from manifest_sync.report import Silent
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.upload import note_lost_packs, upload
from manifest_sync.worktree.read import to_stat
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine


def noted(machine: Machine, path: bytes) -> Row:
    with Index.open(str(machine.folder / ".manifest-sync" / "index.sqlite"), read_only=True) as index:
        row = index.row(Path(path))
    assert row is not None
    return row


def crash_before_the_swap(machine: Machine) -> None:
    """A push that sends everything and publishes nothing."""
    machine.store = FaultyStore(DirectoryStore(machine.bucket))
    machine.store.add_fault("put_if", kind="crash")
    with pytest.raises(Crash):
        machine.push("copy")
    machine.store = None


@pytest.mark.parametrize("content", [b"", b"new", b"a longer one"])
def test_a_file_that_changed_after_the_scan_is_noted_as_it_was_read(
    tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    target = gpu.write("a.json", "old", mtime_ns=10**18)
    gpu.write("b.json", "stays", mtime_ns=10**18)
    gpu.outwait()

    def late(*args: Any) -> Any:
        target.write_bytes(content)
        return upload(*args)

    monkeypatch.setattr(push, "upload", late)
    assert gpu.push().new == 2
    row = noted(gpu, b"a.json")
    stat = to_stat(os.stat(target))
    assert (row.stat, row.clean) == (stat, 0), "it changed after this run's clock: not to be trusted"
    assert row.local == row.base == row.remote == file_state(hash_bytes(content), stat)
    row = noted(gpu, b"b.json")
    assert (row.stat, row.clean) == (to_stat(os.stat(gpu.root / "b.json")), 1)
    assert row.local == row.base == row.remote


def test_a_resumed_push_sends_the_time_and_permissions_of_now(tmp_path: FsPath) -> None:
    bucket = str(tmp_path / "bucket")
    gpu = Machine(tmp_path / "gpu", bucket)
    target = gpu.write("a.json", "old")
    gpu.push()
    target.write_text("new")
    crash_before_the_swap(gpu)
    target.chmod(0o600)
    os.utime(target, ns=(10**18, 10**18))
    report = gpu.push("copy")
    assert (report.changed, report.stored_bytes) == (1, 0), "the content was sent by the run that failed"
    entry = next(gpu.project().ls())
    assert (entry.mode, entry.mtime_ns) == (0o600, 10**18)


@pytest.mark.parametrize("size", [1000, CHUNK_SMALL + 1], ids=["small", "big"])
def test_a_resumed_push_relies_on_no_pack_that_was_found_lost_since(tmp_path: FsPath, size: int) -> None:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    content = os.urandom(size)
    gpu.write("a.bin", content)
    gpu.push()
    gpu.write("b.bin", content)
    gpu.outwait()
    crash_before_the_swap(gpu)
    for pack in (tmp_path / "bucket/packs").rglob("*.pack"):
        pack.unlink()
    (gpu.root / "a.bin").unlink()
    assert [path for path, _ in gpu.pull(restore_deleted=True).damaged] == [b"a.bin"]
    report = gpu.push()
    assert (report.new, report.bytes) == (1, size)
    assert [path for path, _ in laptop.pull().damaged] == [b"a.bin"]
    assert (laptop.root / "b.bin").read_bytes() == content


def test_a_chunk_sent_by_a_push_that_failed_is_sent_again_if_its_pack_is_lost(tmp_path: FsPath) -> None:
    bucket = str(tmp_path / "bucket")
    gpu, laptop = Machine(tmp_path / "gpu", bucket), Machine(tmp_path / "laptop", bucket)
    content = os.urandom(CHUNK_SMALL + 1)
    gpu.write("a.bin", content)
    crash_before_the_swap(gpu)
    (pack,) = (tmp_path / "bucket/packs").rglob("*.pack")
    pack.unlink()
    with gpu.project().workspace(()) as ws:
        note_lost_packs(ws, [pack.relative_to(bucket).as_posix()])
    gpu.push()
    assert laptop.pull().damaged == []
    assert (laptop.root / "a.bin").read_bytes() == content


class Counted(Silent):
    """Files sent, as a bar would count them."""

    files = 0

    def advance(self, stage: str, files: int = 0, bytes_: int = 0) -> None:
        self.files += files if stage == "transfer" else 0


def test_symlinks_are_noted_together_and_counted(tmp_path: FsPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write on its own would wait for the disk."""
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
    gpu.write("a.json", "a")
    for number in range(30):
        (gpu.root / f"link{number}").symlink_to("a.json")
    written = []
    real = Index.put_pending

    def put_pending(index: Index, rows: Iterable[Any], **options: Any) -> None:
        rows = list(rows)
        written.append(len(rows))
        real(index, rows, **options)

    monkeypatch.setattr(Index, "put_pending", put_pending)
    progress = Counted()
    with Project.find(str(gpu.folder), env={}, progress=progress) as project:
        assert project.push().new == 31
    assert progress.files == 31
    assert sorted(filter(None, written)) == [1, 30]
    assert {entry.target for entry in gpu.project().ls()} == {b"", b"a.json"}
