"""Two machines and one bucket, played in a temporary folder: run it to see that it works here.

    python examples/quickstart.py

Makes about 600 files of experiment data, pushes them, overwrites one with other content of the same size,
shows that the change is noticed, pushes it, pulls everything into a second folder, and compares the two
trees byte for byte and time for time. Exits with 1 when anything differs.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = Path(sys.executable).with_name("manifest-sync")
MAKE_TREE = Path(__file__).with_name("make_tree.py")
FILES = 600


def run(folder: Path, *words: str) -> None:
    """Run ``manifest-sync`` in ``folder`` as a person would; any failure ends the example."""
    print(f"\n{folder.name}$ {shlex.join(['manifest-sync', *words])}", flush=True)
    subprocess.run([str(COMMAND), *words], cwd=folder, check=True, env=environment())


def environment() -> dict[str, str]:
    """Our own environment without options meant for somebody's real project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MANIFEST_SYNC_")}


def overwrite(root: Path) -> Path:
    """Change one byte of one file, so that size alone does not tell."""
    file = max((f for f in root.rglob("*.json") if f.stat().st_size > 2), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two trees: paths, bytes, modification times."""
    names = [{str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()} for root in (one, other)]
    found = [f"only on one side: {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(f"other content: {name}")
        elif (one / name).stat().st_mtime_ns != (other / name).stat().st_mtime_ns:
            found.append(f"other time: {name}")
    return found


def main() -> int:
    """Play the example; returns the exit code."""
    if not COMMAND.exists():
        print(f"{COMMAND} is missing: install the project into this environment first", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="manifest-sync-") as name:
        here, there, bucket = (Path(name) / part for part in ("laptop", "gpu-box", "bucket"))
        here.mkdir()
        there.mkdir()
        tree = here / "experiments"
        print(f"making {FILES} files of experiment data in {tree}", flush=True)
        subprocess.run(
            [sys.executable, str(MAKE_TREE), str(tree), "--files", str(FILES), "--seed", "1"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        run(here, "init", str(bucket))
        run(here, "push")
        changed = overwrite(tree)
        print(f"\n# {changed.relative_to(tree)} now has other content of the same size")
        run(here, "status")
        run(here, "push", "--copy")
        run(there, "init", str(bucket))
        run(there, "pull")
        found = differences(tree, there / "experiments")
        count = sum(1 for file in tree.rglob("*") if file.is_file())
    if found:
        print(f"\n{len(found)} differences:", *found[:20], sep="\n  ")
        return 1
    print(f"\nboth trees are equal: {count} files, byte for byte, modification times included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
