"""Makes a golden repository: `python -m tests.golden.make tests/golden/format-1`. Run once a released format.

What it wrote is committed and never made again; `test_golden.py` reads it with the code of today.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from pathlib import Path

from manifest_sync.project import Project
from tests.machines import Machine

BIG = 3 << 20


def main(target: Path) -> None:
    """Write ``target/bucket`` and ``target/expected.json``."""
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder) / "m", str(target / "bucket"), defaults='symlinks = "keep"')
        dice = random.Random(1)
        for number in range(40):
            machine.write(
                f"exp{number % 3}/{number}.json", json.dumps({"n": number}), mtime_ns=10**18 + number
            )
        machine.write("exp0/empty", b"", mtime_ns=-1_000_000_007)
        machine.write("exp0/run.sh", "#!/bin/sh\n", mtime_ns=1).chmod(0o755)
        machine.write("exp1/big.bin", (dice.randbytes(1 << 16) * 48)[:BIG], mtime_ns=2)
        (machine.root / "exp1/link").symlink_to("big.bin")
        odd = os.fsencode(machine.root / "exp2") + b"/not-utf8-\xff\xfe"
        Path(os.fsdecode(odd)).write_bytes(b"odd")
        machine.write("exp2/\u00fcmlaut \u2603\n.json", "newline", mtime_ns=3)
        machine.push(message="first")
        machine.write("exp0/0.json", "changed", mtime_ns=4)
        (machine.root / "exp2/2.json").unlink()
        machine.push("full", message="second")
        entries = Project.find(str(machine.folder), env={}).ls()
        expected = {
            os.fsdecode(e.path): [
                e.type.value,
                e.size,
                e.mtime_ns,
                e.mode,
                e.hash.hex(),
                os.fsdecode(e.target),
            ]
            for e in entries
        }
    (target / "bucket/.lock").unlink(missing_ok=True)
    (target / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
