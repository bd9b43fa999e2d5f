"""Two machines and one bucket, played in a temporary folder: run it to see that it works here.

    python examples/quickstart.py

Makes about 600 files of experiment data, pushes them, overwrites one with other content of the same size,
shows that the change is noticed, pushes it, pulls everything into a second folder, and compares the two
trees byte for byte and time for time. What the rules of the new manifest-sync.toml leave out (code and
notes, which are git's, and scratch folders) has to stay out. Exits with 1 when anything differs.
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
LEFT_OUT_NAMES = ("*.py", "*.md", "*.txt", "*.log", "config.json", "*_trajectories.pt")
LEFT_OUT_FOLDERS = {"activations", "raw", "finetune", "lora"}


def run(folder: Path, *words: str) -> None:
    """Run ``manifest-sync`` in ``folder`` as a person would; any failure ends the example."""
    print(f"\n{folder.name}$ {shlex.join(['manifest-sync', *words])}", flush=True)
    subprocess.run([str(COMMAND), *words], cwd=folder, check=True, env=environment())


def environment() -> dict[str, str]:
    """Our own environment without options meant for somebody's real project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MANIFEST_SYNC_")}


def kept_files(root: Path) -> set[Path]:
    """The files below ``root``, relative to it, that the first manifest-sync.toml gives to the bucket."""
    files = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    return {
        file
        for file in files
        if not any(file.match(name) for name in LEFT_OUT_NAMES)
        and LEFT_OUT_FOLDERS.isdisjoint(file.parent.parts)
    }


def overwrite(root: Path) -> Path:
    """Give the first JSON file other content of the same size."""
    name = min(file for file in kept_files(root) if file.suffix == ".json")
    content = (root / name).read_bytes()
    (root / name).write_bytes(content.translate(bytes.maketrans(b"0123456789", b"1234567890")))
    return name


def differences(one: Path, other: Path) -> list[str]:
    """What the tree ``other`` lacks, has too much, or has with other bytes or another time."""
    wanted = kept_files(one)
    found = {file.relative_to(other) for file in other.rglob("*") if file.is_file()}
    problems = [f"missing: {name}" for name in sorted(wanted - found)]
    problems += [f"should have stayed out: {name}" for name in sorted(found - wanted)]
    for name in sorted(wanted & found):
        if (one / name).read_bytes() != (other / name).read_bytes():
            problems.append(f"other content: {name}")
        elif (one / name).stat().st_mtime_ns != (other / name).stat().st_mtime_ns:
            problems.append(f"other time: {name}")
    return problems


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
        print(f"\n# {changed} now has other content of the same size")
        run(here, "status")
        run(here, "push", "--copy")
        run(there, "init", str(bucket))
        run(there, "pull")
        found = differences(tree, there / "experiments")
        count = len(kept_files(tree))
    if found:
        print(f"\n{len(found)} differences, the first of them:", *found[:20], sep="\n  ")
        return 1
    print(f"\nboth trees are equal: {count} files, byte for byte, modification times included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
