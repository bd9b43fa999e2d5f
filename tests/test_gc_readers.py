"""Reading while a collection takes away what was about to be read: they see the newer head (P2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifest_sync.errors import Damaged
from manifest_sync.stores import open_store
from tests.bucket_check import folder, head_files, keys
from tests.machines import Machine
from tests.paused_store import PausedStore
from tests.test_gc import collect, contents

pytestmark = pytest.mark.usefixtures("hurried")


def diff(machine: Machine) -> None:
    with machine.project().diff() as found:
        list(found.differences)


READERS: dict[str, Callable[[Machine], object]] = {
    "pull": lambda machine: machine.pull("full"),
    "status": lambda machine: machine.status(),
    "rebuild-index": lambda machine: machine.project().rebuild_index(),
    "drop": lambda machine: machine.project().drop(["exp/1.bin"]),
    "diff": diff,
    "push": lambda machine: machine.push("full"),
}


class Place:
    """The laptop last saw what the GPU machine has changed since."""

    def __init__(self, folder: Path) -> None:
        self.bucket = folder / "bucket"
        self.gpu = Machine(folder / "gpu", str(self.bucket))
        self.laptop = Machine(folder / "laptop", str(self.bucket))
        for number in range(3):
            self.gpu.write(f"exp/{number}.bin", os.urandom(1000))
        self.gpu.push()
        self.laptop.pull()
        self.change()

    def change(self) -> None:
        """Each file anew, and nothing of before is kept in the bucket."""
        for number in range(3):
            self.gpu.write(f"exp/{number}.bin", os.urandom(1000))
        self.gpu.push("copy")
        collect(self.gpu)


@pytest.mark.parametrize("name", READERS)
def test_what_is_collected_while_it_is_read_is_no_damage(fast_path: Path, name: str) -> None:
    """At each of its requests all that the head of a moment ago named goes away."""
    place = Place(fast_path / "count")
    counted = place.laptop.store = PausedStore(open_store(place.laptop.project().location()))
    READERS[name](place.laptop)
    assert len(counted.calls) >= 2
    for number in range(len(counted.calls)):
        place = Place(fast_path / f"at{number}")
        with PausedStore(open_store(place.laptop.project().location())) as store:
            store.pause_at(number, place.change)
            place.laptop.store = store
            READERS[name](place.laptop)
        place.laptop.store = None
        place.laptop.pull("full")
        assert head_files(folder(place.bucket)) == contents(place.gpu)
        if name != "rebuild-index":  # which leaves conflicts, since nothing is known to have been agreed on
            assert contents(place.laptop) == contents(place.gpu)


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_while_the_head_stays_is_damage(fast_path: Path, name: str) -> None:
    place = Place(fast_path)
    for key in keys(place.bucket):
        if key.startswith("pages/"):
            (place.bucket / key).unlink()
    try:
        report: Any = READERS[name](place.laptop)
    except Damaged:
        return
    assert report.damaged
