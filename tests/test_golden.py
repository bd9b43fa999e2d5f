"""The frozen past: a repository written by each released format still reads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from blake3 import blake3

from tests.machines import Machine

GOLDEN = sorted((Path(__file__).parent / "golden").glob("format-*"))


def test_there_is_one() -> None:
    assert GOLDEN


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda p: p.name)
def test_it_reads_and_pulls(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "bucket", tmp_path / "bucket")
    machine = Machine(tmp_path / "m", str(tmp_path / "bucket"), defaults='symlinks = "keep"')
    expected = json.loads((golden / "expected.json").read_text())
    found = {
        os.fsdecode(e.path): [e.type.value, e.size, e.mtime_ns, e.mode, e.hash.hex(), os.fsdecode(e.target)]
        for e in machine.project().ls()
    }
    assert found == expected
    report = machine.pull()
    assert (report.new, report.skipped, report.conflicts) == (len(expected), [], [])
    for path, (kind, size, mtime_ns, mode, digest, target) in expected.items():
        here = os.path.join(machine.root, path)
        if kind == "symlink":
            assert os.readlink(here) == target
            continue
        with open(here, "rb") as file:
            content = file.read()
        stat = os.stat(here)
        assert (len(content), stat.st_mtime_ns, stat.st_mode & 0o777) == (size, mtime_ns, mode)
        assert blake3(content).hexdigest() == digest
    assert not machine.status().has_drift
    machine.write("exp9/new", "still writable")
    assert machine.push().new == 1
