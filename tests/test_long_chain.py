"""A chain longer than a history block: pushes go on, and old snapshots are still known as ancestors."""

from __future__ import annotations

from pathlib import Path

from manifest_sync.manifest import HISTORY_BLOCK
from tests.machines import Machine


def test_more_pushes_than_a_history_block_holds(tmp_path: Path) -> None:
    gpu = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    laptop = Machine(tmp_path / "laptop", str(tmp_path / "bucket"))
    gpu.write("exp/a", "0")
    gpu.push()
    laptop.pull()
    for number in range(HISTORY_BLOCK + 10):
        gpu.write("exp/a", str(number + 1))
        assert gpu.push("copy").changed == 1
    assert len(list((tmp_path / "bucket/history").iterdir())) == 1
    # The laptop saw sequence 1 last: only the history block still knows that snapshot.
    report = laptop.pull("copy")
    assert (report.changed, report.sequence) == (1, HISTORY_BLOCK + 11)
    assert laptop.read("exp/a") == str(HISTORY_BLOCK + 10)
