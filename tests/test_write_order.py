"""What must be on the disk before the next step, so that a loss of power is no worse than a kill (P5).

Nobody can pull the plug here. Instead the calls of a whole run are replayed, with a note of what a disk may
still have only in its memory: nothing may be relied on that is not synced yet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash_hooks import Event
from tests.crash_operations import OPERATIONS
from tests.crash_points import Operation, Subject, scratch

_COMMITS = ("COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE")
_ORDER = ("gc", "packs", "pages", "history", "snapshots", "manifest.json")
"""Each may refer to those before it."""
_FREE = ("/lock", "/staging/clock")
"""Files that nothing relies on."""


@pytest.fixture(scope="module", params=OPERATIONS, ids=[operation.name for operation in OPERATIONS])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    operation: Operation = request.param
    with scratch() as folder:
        yield Subject(operation, folder)


class Disk:
    """Replays calls. ``data``: files with bytes that are not synced; ``names``: new names that are not."""

    def __init__(self) -> None:
        self.data: set[str] = set()
        self.names: set[str] = set()
        self.puts: list[str] = []
        """Keys of the store, in the order of the calls."""
        self._in_transaction = self._has_pending = False
        self._is_committed = False
        """Whether the last commit of the index is there to stay: its folder is synced since."""

    def replay(self, event: Event) -> None:
        if event.layer == "sql":
            self._sql(event)
        elif event.layer == "store":
            self._store(event)
        else:
            self._os(event)

    def _os(self, event: Event) -> None:
        name, (place, _, target) = event.name, event.detail.partition(" -> ")
        if name in ("write", "pwrite", "ftruncate") and not place.endswith(_FREE):
            self.data.add(place)
        elif name == "mkdir":
            self.names.add(place)
        elif name in ("rename", "replace", "renameat2", "link"):
            assert place not in self.data, f"{event}: its bytes may not be on the disk"
            self.names.discard(place)
            self.names.add(target)
        elif name in ("unlink", "remove", "rmdir"):
            self.data.discard(place)
            self.names.discard(place)
        elif name in ("syncfs", "sync"):
            self.data.clear()
            self.names.clear()
        elif name == "fsync":
            self.data.discard(place)
            self.names = {kept for kept in self.names if kept.rpartition("/")[0] != place}
            self._is_committed = self._is_committed or place.endswith("/.manifest-sync")

    def _sql(self, event: Event) -> None:
        """What the index says must be so on the disk already."""
        self._has_pending = self._has_pending or event.name.startswith("INSERT INTO pending")
        if event.name.startswith("BEGIN"):
            self._in_transaction = True
        elif event.name.startswith(_COMMITS) and (event.name == "COMMIT" or not self._in_transaction):
            self._in_transaction = self._is_committed = False
            for place in {*self._local(self.data), *self._local(self.names)}:
                raise AssertionError(f"{event}: {place} may not be on the disk")

    @staticmethod
    def _local(places: set[str]) -> Iterator[str]:
        for place in places:
            in_tree = "/experiments/" in place
            if in_tree or ("/.manifest-sync/trash/" in place and not place.endswith("/trash")):
                yield place

    def _store(self, event: Event) -> None:
        """An object may refer to all that were put before it, so those must be on the disk."""
        if event.name not in ("put", "put_if", "delete"):
            return
        for place in {*self.data, *self.names}:
            assert "/bucket/" not in place, f"{event}: {place} may not be on the disk"
        if event.name == "put_if" and self._has_pending:
            assert self._is_committed, f"{event}: what is about to become base is not on the disk"
        self.puts.append(f"{event.name} {event.detail}")


def test_nothing_is_relied_on_before_it_is_synced(subject: Subject) -> None:
    disk = Disk()
    for event in subject.events:
        disk.replay(event)
    assert not any("/bucket/" in place for place in {*disk.data, *disk.names})
    assert not list(disk._local(disk.names)), "the run ended with a change of the tree that is not synced"


def test_the_head_comes_last_and_deletions_after_it(subject: Subject) -> None:
    """All that a head refers to is put before it; what it lets go is deleted after it."""
    disk = Disk()
    for event in subject.events:
        disk.replay(event)
    calls = [call.split(" ") for call in disk.puts if "probe/" not in call]
    before: list[int] = []
    for number, (name, key) in enumerate(calls):
        if name == "delete":
            assert all(later == "delete" for later, _ in calls[number:])
            assert calls[number - 1][1] == "manifest.json" or calls[number - 1][0] == "delete"
            break
        before.append(_ORDER.index(key.split("/")[0]))
        assert before == sorted(before), calls
        if key == "manifest.json":
            before.clear()
    assert before == [], "something was put that no head refers to"
