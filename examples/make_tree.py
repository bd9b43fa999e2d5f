"""Make an experiment tree to try manifest-sync on: many small JSON files beside some tensors.

    python examples/make_tree.py DIR --files 210000 --seed 1

The same arguments give the same names, bytes and times on every machine. 210,000 files are about 1.1 GB.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

EXPERIMENTS = 12
TENSOR_SHARE = 0.024
FIRST_TIME = 1_760_000_000  # seconds; the times of the files lie in the 30 days after it
SPREAD = 30 * 86_400
POOL = 400_000  # numbers: so many that a row seldom comes twice within what is compressed together
FOLDERS = (130, 200)  # JSON files in one folder: at least, at most


@dataclass(frozen=True)
class Counts:
    """What was written."""

    files: int
    bytes: int


class Numbers:
    """Text of floats, as projections hold them, cut from one long list made once: fast and still uneven."""

    def __init__(self, rng: random.Random) -> None:
        self._texts = [f"{rng.gauss(0, 2.5):.{6 if n % 3 else 16}f}" for n in range(POOL)]

    def row(self, rng: random.Random, count: int) -> str:
        """``count`` numbers, separated by commas."""
        start = int(rng.random() * (POOL - count))
        return ", ".join(self._texts[start : start + count])


def projection(rng: random.Random, numbers: Numbers, trait: str, number: int) -> bytes:
    """One JSON file of 1 to 10 KB: a header and the projections of some layers."""
    target = int(1_000 + 7_600 * rng.betavariate(1.4, 1.9))
    rows = []
    size = 300
    layer = 0
    while size < target:
        row = f'{{"layer": {layer}, "prompt": [{numbers.row(rng, 9)}], "response": [{numbers.row(rng, 24)}]}}'
        rows.append(row)
        size += len(row) + 6
        layer += 1
    mean, norm = rng.gauss(0, 1), abs(rng.gauss(20, 4))
    text = (
        f'{{\n  "metadata": {{"prompt_id": {number}, "trait": "{trait}", "method": "probe",'
        f' "position": "response[:5]", "seed": {rng.getrandbits(40)}}},\n'
        f'  "statistics": {{"mean": {mean!r}, "norm": {norm!r}}},\n'
        f'  "projections": [\n    ' + ",\n    ".join(rows) + "\n  ]\n}\n"
    )
    return text.encode("ascii")


class Tree:
    """Writes files into one folder after another and counts them."""

    def __init__(self, root: str, seed: int) -> None:
        self._root = root
        self._rng = random.Random(f"{seed} times")
        self.files = 0
        self.bytes = 0

    def write_folder(self, folder: str, files: Iterator[tuple[str, bytes]]) -> None:
        """Write all ``files`` (name, content) of one folder, by an open descriptor: short look-ups."""
        path = os.path.join(self._root, folder)
        os.makedirs(path, exist_ok=True)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name, content in files:
                self._write(directory, name, content)
        finally:
            os.close(directory)

    def _write(self, directory: int, name: str, content: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            moment = FIRST_TIME * 10**9 + int(self._rng.random() * SPREAD * 10**9)
            os.utime(descriptor, ns=(moment, moment))
        finally:
            os.close(descriptor)
        self.files += 1
        self.bytes += len(content)


def make_tree(root: str, files: int, seed: int, big: int = 0, big_megabytes: int = 64) -> Counts:
    """Write a tree of ``files`` JSON and tensor files below ``root``, and some files beside them.

    Args:
        root: a folder; made if it is not there.
        files: JSON and ``.pt`` files together.
        seed: chooses all names, bytes and times.
        big: number of ``.safetensors`` files of ``big_megabytes`` MB (10**6 bytes) each.

    Returns:
        The number of files and bytes written, the ones beside included.
    """
    tree = Tree(root, seed)
    tensors = round(files * TENSOR_SHARE)
    numbers = Numbers(random.Random(f"{seed} numbers"))
    for experiment in range(EXPERIMENTS):
        rng = random.Random(f"{seed} {experiment}")
        name = f"exp{experiment:02d}"
        write_projections(tree, rng, numbers, name, share(files - tensors, experiment))
        write_vectors(tree, rng, name, share(tensors, experiment))
        write_others(tree, rng, name)
    for number in range(big):
        rng = random.Random(f"{seed} big {number}")
        content = b"".join(rng.randbytes(10**6) for _ in range(big_megabytes))
        tree.write_folder(
            f"exp{number % EXPERIMENTS:02d}/checkpoints", iter([(f"model-{number:05d}.safetensors", content)])
        )
    return Counts(tree.files, tree.bytes)


def share(total: int, experiment: int) -> int:
    """How many of ``total`` files go to one experiment."""
    return total * (experiment + 1) // EXPERIMENTS - total * experiment // EXPERIMENTS


def write_projections(tree: Tree, rng: random.Random, numbers: Numbers, experiment: str, count: int) -> None:
    """``count`` JSON files in folders of about 130 to 200."""
    trait = 0
    while count:
        here = rng.randint(*FOLDERS)
        if count < here + FOLDERS[0]:
            here = count if count <= FOLDERS[1] else count // 2
        name = f"trait{trait:02d}"
        folder = f"{experiment}/inference/instruct/projections/{name}/set"
        tree.write_folder(
            folder, ((f"{k}.json", projection(rng, numbers, name, k)) for k in range(1, here + 1))
        )
        count -= here
        trait += 1


def write_vectors(tree: Tree, rng: random.Random, experiment: str, count: int) -> None:
    """``count`` files of random bytes, 8 to 200 KB, twenty in a folder, most of them small."""
    trait = 0
    while count:
        here = min(count, 20)
        tree.write_folder(
            f"{experiment}/extraction/trait{trait:02d}/vectors",
            ((f"{k}.pt", rng.randbytes(int(8_000 + 192_000 * rng.random() ** 4))) for k in range(here)),
        )
        count -= here
        trait += 1


def write_others(tree: Tree, rng: random.Random, experiment: str) -> None:
    """What the rules leave to git, and a folder that nobody keeps."""
    tree.write_folder(
        experiment,
        iter(
            [
                ("README.md", f"# {experiment}\n\nProjections of every trait.\n".encode()),
                ("config.json", f'{{"model": "instruct", "seed": {rng.getrandbits(16)}}}\n'.encode()),
                ("run.py", b'"""Run the experiment."""\n\nprint("run")\n'),
            ]
        ),
    )
    tree.write_folder(
        f"{experiment}/extraction/trait00/activations",
        ((f"layer{layer:02d}.pt", rng.randbytes(20_000)) for layer in range(4)),
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR", help="the folder to fill, such as experiments")
    parser.add_argument("--files", type=int, default=210_000, help="JSON and .pt files (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--big", type=int, default=0, metavar="N", help="also N .safetensors files")
    parser.add_argument(
        "--big-mb", type=int, default=64, metavar="MB", help="size of each (default %(default)s)"
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    counts = make_tree(arguments.directory, arguments.files, arguments.seed, arguments.big, arguments.big_mb)
    seconds = time.monotonic() - started
    print(f"{counts.files} files, {counts.bytes / 1e6:.1f} MB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
