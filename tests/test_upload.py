"""What a push notes of the files it sends."""

from __future__ import annotations

import os
from pathlib import Path as FsPath
from typing import Any

import pytest

from manifest_sync import push
from manifest_sync.canonical import hash_bytes
from manifest_sync.index.index import Index, Row
from manifest_sync.model import Path, file_state
from manifest_sync.stores.directory import DirectoryStore
from manifest_sync.upload import upload
from manifest_sync.worktree.read import to_stat
from tests.faulty_store import Crash, FaultyStore
from tests.machines import Machine


def noted(machine: Machine, path: bytes) -> Row:
    with Index.open(str(machine.folder / ".manifest-sync" / "index.sqlite"), read_only=True) as index:
        row = index.row(Path(path))
    assert row is not None
    return row


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
    store = FaultyStore(DirectoryStore(bucket))
    store.add_fault("put_if", kind="crash")
    gpu.store = store
    with pytest.raises(Crash):
        gpu.push("copy")
    gpu.store = None
    target.chmod(0o600)
    os.utime(target, ns=(10**18, 10**18))
    report = gpu.push("copy")
    assert (report.changed, report.stored_bytes) == (1, 0), "the content was sent by the run that failed"
    entry = next(gpu.project().ls())
    assert (entry.mode, entry.mtime_ns) == (0o600, 10**18)
