"""What disk, processor and network allow: the least that a job could take, by the plainest means.

``python -m benchmarks.floors up|down ENDPOINT BUCKET FILE…`` moves files with boto3 alone, and
``… hash FOLDER`` prints BLAKE3 hashes where there is no ``b3sum``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Command
from benchmarks.programs import Programs
from benchmarks.tools import SECRETS, Place
from benchmarks.trees import ROOT, Tree

REQUESTS_AT_ONCE = 8
"""As many as manifest-sync has by default."""
PART = 16 << 20
_IN_PYTHON = ["python", "-m", "benchmarks.floors"]

Build = Callable[[Programs, Tree, Place, Path], list[str]]
"""Words of a command line, from the programs, the tree, its bucket, and an empty folder to fill."""


def _find(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return ["sh", "-c", f"find {ROOT} -type f -printf '%s %T@ %p\\n' > /dev/null"]


def _pack(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return ["sh", "-c", f'tar cf - {ROOT} | zstd -q -3 -T2 -f -o "$0"', str(tree.folder / "tree.tar.zst")]


def _unpack(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return ["sh", "-c", 'zstd -q -dc tree.tar.zst | tar xf - -C "$0"', str(target)]


def _copy(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return ["cp", "-a", "--reflink=never", ROOT, str(target)]


def _hash(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    if "b3sum" not in programs.paths:
        return [str(programs.paths["python"]), *_IN_PYTHON[1:], "hash", ROOT]
    return [
        "sh",
        "-c",
        f'find {ROOT} -type f -print0 | xargs -0 "$0" > /dev/null',
        str(programs.paths["b3sum"]),
    ]


def _up(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return _transfer("up", programs, tree, place)


def _down(programs: Programs, tree: Tree, place: Place, target: Path) -> list[str]:
    return [*_transfer("down", programs, tree, place), str(target)]


def _transfer(way: str, programs: Programs, tree: Tree, place: Place) -> list[str]:
    files = [str(path) for path in sorted(tree.root.rglob("*")) if path.is_file()]
    return [str(programs.paths["python"]), *_IN_PYTHON[1:], way, place.endpoint, place.bucket, *files]


FLOORS: dict[str, Build] = {
    "find": _find,
    "tar | zstd": _pack,
    "zstd | tar x": _unpack,
    "cp": _copy,
    "b3sum": _hash,
    "boto3 up": _up,
    "boto3 down": _down,
}


def floor(name: str, programs: Programs, tree: Tree, place: Place, target: Path) -> Command:
    """The command line of a floor."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**SECRETS, "PYTHONPATH": root}
    return Command(FLOORS[name](programs, tree, place, target), tree.folder, environment)


def _move(way: str, endpoint: str, bucket: str, files: list[str]) -> None:
    import boto3  # noqa: PLC0415  the other floors need none of it
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(s3={"addressing_style": "path"}, max_pool_connections=REQUESTS_AT_ONCE)
    client = boto3.client("s3", endpoint_url=endpoint, config=config)
    how = TransferConfig(max_concurrency=REQUESTS_AT_ONCE, multipart_chunksize=PART, multipart_threshold=PART)
    target = files.pop() if way == "down" else ""
    for file in files:
        name = Path(file).name
        if way == "up":
            client.upload_file(file, bucket, f"raw/{name}", Config=how)
        else:
            client.download_file(bucket, f"raw/{name}", str(Path(target) / name), Config=how)


def _print_hashes(folder: str) -> None:
    from blake3 import blake3  # noqa: PLC0415

    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            hasher = blake3(max_threads=blake3.AUTO)
            hasher.update_mmap(path)
            sys.stdout.write(f"{hasher.hexdigest()}  {path}\n")


if __name__ == "__main__":
    if sys.argv[1] == "hash":
        _print_hashes(sys.argv[2])
    else:
        _move(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
