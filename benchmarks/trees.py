"""The trees that are measured, and what is changed in them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases import Change, Shape
from examples.make_tree import make_tree

ROOT = "experiments"
PART = "exp03"
"""The one experiment of twelve."""
INSERTED = 1 << 20
_BLOCK = 8 << 20


class Tree:
    """A folder ``experiments`` and what it lies in, which is where a project's configuration goes."""

    def __init__(self, folder: Path, shape: Shape, name: str) -> None:
        self.folder = folder
        self.shape = shape
        self.name = name
        self.root = folder / ROOT
        self.version = 0
        """Goes up with each change."""
        self._rng = random.Random(f"changes of {name}")

    def sizes(self, root: Path | None = None, part: str = "") -> dict[str, int]:
        """Size of each file below the root (by default the tree's own), by path."""
        top = self.root if root is None else root
        return {os.path.relpath(path, top): os.stat(path).st_size for path in _walk(str(top / part))}

    def sample(self, part: str = "", count: int = 50) -> list[str]:
        """Some paths, for comparing contents."""
        names = sorted(self.sizes(part=part))
        return random.Random(len(names)).sample(names, min(count, len(names)))

    def change(self, change: Change) -> list[str]:
        """Change files as a program would, so that their times change too.

        Returns:
            The paths of those that were changed.
        """
        self.version += 1
        names = sorted(self.sizes())
        match change:
            case "overwrite":
                changed = [self._rng.choice([name for name in names if name.endswith(".json")])]
            case "one percent":
                changed = self._rng.sample(names, max(1, len(names) // 100))
            case _:
                changed = names
        for name in changed:
            path = self.root / name
            if change == "insert":
                _insert(path, self._rng.randbytes(INSERTED))
            elif change == "append":
                with path.open("ab") as file:
                    file.writelines(_log_lines(self._rng, INSERTED))
            else:
                # The digits of a JSON file rotate, so that it compresses as before.
                turned = bytes.maketrans(b"0123456789", b"1234567890")
                old = path.read_bytes()
                path.write_bytes(old.translate(turned) if name.endswith(".json") else old[::-1])
        return changed


def make(folder: Path, shape: Shape, files: int, size: int) -> Tree:
    """Make a tree; one of many files is kept from an earlier run, for making it takes long.

    Args:
        files: how many, where there are many.
        size: bytes of each file where there are few.
    """
    name = f"{shape}-{files}" if shape == "many" else f"{shape}-{size >> 20}"
    tree = Tree(folder / name, shape, name)
    complete = tree.folder / "complete"
    if complete.exists() and shape == "many":
        for path in _walk(str(tree.root)):
            with open(path, "rb") as file:
                file.read()  # as if it had just been written: no tool is the one that waits for the disk
        return tree
    shutil.rmtree(tree.folder, ignore_errors=True)
    tree.root.mkdir(parents=True)
    if shape == "many":
        make_tree(str(tree.root), files, 1)
        _drop_what_is_not_kept(tree.root)
    elif shape == "log":
        (tree.root / PART).mkdir()
        with (tree.root / PART / "steps.jsonl").open("wb") as file:
            file.writelines(_log_lines(random.Random(name), size))
    else:
        (tree.root / PART).mkdir()
        for number in range(2 if shape == "pair" else 1):
            rng = random.Random(f"{name} {number}")
            with (tree.root / PART / f"model-{number}.safetensors").open("wb") as file:
                for begin in range(0, size, _BLOCK):
                    file.write(rng.randbytes(min(_BLOCK, size - begin)))
    complete.touch()
    return tree


def _drop_what_is_not_kept(root: Path) -> None:
    """The rules give some files to git or to nobody. Without them every tool moves the same files, and
    manifest-sync still looks at its rules for each."""
    for folder in sorted(root.glob("*/extraction/*/activations")):
        shutil.rmtree(folder)
    for pattern in ("*/README.md", "*/config.json", "*/run.py"):
        for path in sorted(root.glob(pattern)):
            path.unlink()


def _walk(folder: str) -> Iterator[str]:
    for here, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(here, name)


def _insert(path: Path, data: bytes) -> None:
    middle = path.stat().st_size // 2
    part = path.with_suffix(".part")
    with path.open("rb") as old, part.open("wb") as new:
        left = middle
        while left:
            block = old.read(min(_BLOCK, left))
            new.write(block)
            left -= len(block)
        new.write(data)
        shutil.copyfileobj(old, new, _BLOCK)
    part.replace(path)


def _log_lines(rng: random.Random, size: int) -> Iterator[bytes]:
    written = 0
    while written < size:
        line = json.dumps(
            {"step": rng.getrandbits(24), "loss": rng.random(), "reward": rng.gauss(0, 1)}
        ).encode()
        yield line + b"\n"
        written += len(line) + 1
