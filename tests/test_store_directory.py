"""What only the store in a folder has: confinement, whole files, its own folder, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manifest_sync.errors import AccessDenied, FormatError, ManifestSyncError, UsageError
from manifest_sync.stores.base import NotFound
from manifest_sync.stores.directory import OWN_FOLDER, DirectoryStore

RACER = """
import sys
from manifest_sync.stores.base import PreconditionFailed
from manifest_sync.stores.directory import DirectoryStore
store = DirectoryStore(sys.argv[1])
added = 0
while added < 25:
    found = store.get("counter", max_bytes=100)
    try:
        store.put_if("counter", b"%d" % (int(found.body) + 1), etag=found.etag)
        added += 1
    except PreconditionFailed:
        pass
"""


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b", f"{OWN_FOLDER}/lock"]
)
def test_keys_stay_below_the_folder(tmp_path: Path, key: str) -> None:
    store = DirectoryStore(str(tmp_path / "store"))
    for call in (
        lambda: store.put(key, b"x"),
        lambda: store.put_if(key, b"x", etag=None),
        lambda: store.get(key, max_bytes=10),
        lambda: store.get_range(key, 0, 1),
        lambda: store.delete(key),
    ):
        with pytest.raises(FormatError):
            call()
    assert not (tmp_path / "x").exists()


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "store"))
    with pytest.raises(NotFound):
        store.get("manifest.json", max_bytes=10)
    store.delete("k")
    assert list(store.list("")) == []
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_file_is_left_or_listed(tmp_path: Path) -> None:
    own = tmp_path / OWN_FOLDER
    own.mkdir()
    for name, age in (("tmp-old", 2 * 86400), ("tmp-new", 60)):
        (own / name).write_bytes(b"half")
        os.utime(own / name, (time.time() - age,) * 2)
    store = DirectoryStore(str(tmp_path))
    store.put("a/b", b"x")
    assert [item.key for item in store.list("")] == ["a/b"]
    assert sorted(os.listdir(own)) == ["lock", "tmp-new"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    store.put("a", b"x")
    with pytest.raises(ManifestSyncError):
        store.put("a/b", b"y")
    with pytest.raises(ManifestSyncError):
        store.put("n" * 300, b"y")
    with pytest.raises(NotFound):
        store.get("a/b", max_bytes=10)
    store.delete("a/b")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert os.listdir(tmp_path / OWN_FOLDER) == ["lock"]


def test_an_unreadable_object(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        # Root may read everything; a folder in the place of the file is no object for root either.
        (tmp_path / "k").mkdir()
        expected: type[Exception] = NotFound
    else:
        (tmp_path / "k").touch(mode=0)
        expected = AccessDenied
    with pytest.raises(expected):
        DirectoryStore(str(tmp_path)).get("k", max_bytes=10)


READER = """
import sys
from manifest_sync.stores.base import NotFound
from manifest_sync.stores.directory import DirectoryStore
store = DirectoryStore(sys.argv[1])
for read in (
    lambda: store.get("k", max_bytes=10),
    lambda: store.get_range("k", 0, 1),
):
    try:
        print(read())
    except NotFound:
        pass
store.put_if("k", b"x", etag=None)
"""


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_make_fifo, _link_device, Path.mkdir])
def test_what_is_no_file_is_no_object_and_is_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Nobody writes into the fifo, and the device has no end."""
    make(tmp_path / "k")
    run = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], capture_output=True, timeout=20, check=False, text=True
    )
    assert run.stdout == ""
    if make is Path.mkdir:
        assert "ManifestSyncError" in run.stderr
    else:
        assert run.stderr == ""
        assert (tmp_path / "k").read_bytes() == b"x"


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(UsageError):
        DirectoryStore("store")


def test_a_delete_waits_for_a_swap_that_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was deleted between the comparison and the rename would come back."""
    store = DirectoryStore(str(tmp_path / "store"))
    etag = store.put_if("head", b"old", etag=None)
    deleting = threading.Thread(target=store.delete, args=("head",))
    publish = DirectoryStore._publish

    def slowly(self: DirectoryStore, temporary: str, path: str) -> None:
        deleting.start()
        deleting.join(0.2)
        publish(self, temporary, path)

    monkeypatch.setattr(DirectoryStore, "_publish", slowly)
    store.put_if("head", b"new", etag=etag)
    deleting.join()
    assert list(store.list("")) == []


def test_no_swap_of_four_processes_is_lost(tmp_path: Path) -> None:
    DirectoryStore(str(tmp_path)).put("counter", b"0")
    racers = [subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)]) for _ in range(4)]
    assert [racer.wait(100) for racer in racers] == [0] * 4
    assert (tmp_path / "counter").read_bytes() == b"100"
