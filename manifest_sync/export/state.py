"""What this machine exported to a destination: a cache, so that an export need not read what it wrote.

One line a path: its identity, and a token of what then stood at the destination (an ETag, or the stat of a
file). A path whose token still is the same there still holds what was written. Losing this costs reading,
nothing else; so whatever does not look right in it counts as absent.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TextIO

import zstandard
from blake3 import blake3

from manifest_sync.model import Path, json_path

_FOLDER = "exports"


class Needed(NamedTuple):
    """What is needed at a destination where it lies, as far as the snapshots up to one named it."""

    snapshot: str
    sequence: int
    paths: frozenset[Path]


class Exported(NamedTuple):
    """One path as it was exported: ``identity`` tells contents apart, ``token`` what is there."""

    path: Path
    identity: str
    token: str


def state_path(state_dir: str, destination: str) -> str:
    """Where the state of one destination is kept."""
    return os.path.join(
        state_dir, _FOLDER, blake3(destination.encode("utf-8", "surrogateescape")).hexdigest(16)
    )


def iter_exported(path: str, destination: str) -> Iterator[Exported]:
    """What was exported to a destination, in path order; it ends where the file is not what was written."""
    last = b""
    try:
        with zstandard.open(path, "rt", encoding="ascii") as file:
            if json.loads(next(iter(file)))["destination"] != destination:
                return
            for line in file:
                name, identity, token = json.loads(line)
                found = Exported(Path(os.fsencode(name)), str(identity), str(token))
                if found.path <= last:
                    return
                last = found.path
                yield found
    except (OSError, ValueError, TypeError, KeyError, StopIteration, zstandard.ZstdError):
        return


def write_exported(
    path: str, destination: str, changes: Mapping[Path, tuple[str, str]], gone: Iterable[Path]
) -> None:
    """Bring the state up to date: ``changes`` are identity and token by path, ``gone`` is forgotten.

    Raises:
        OSError: the disk failed; the state is as it was.
    """
    forgotten = {*changes, *gone}
    new = (Exported(name, *changes[name]) for name in sorted(changes))
    old = (one for one in iter_exported(path, destination) if one.path not in forgotten)
    with _replacing(path) as file:
        file.write(json.dumps({"destination": destination}) + "\n")
        for one in heapq.merge(old, new):
            file.write(json.dumps([json_path(one.path), one.identity, one.token]) + "\n")


def read_needed(path: str) -> Needed | None:
    """What was noted last; None where there is no note, or it is not as it was written."""
    try:
        with zstandard.open(path, "rt", encoding="ascii") as file:
            snapshot, sequence, names = json.load(file)
            found = frozenset(Path(os.fsencode(name)) for name in names)
    except (OSError, ValueError, TypeError, zstandard.ZstdError):
        return None
    return Needed(snapshot, sequence, found) if type(sequence) is int else None


def write_needed(path: str, needed: Needed) -> None:
    """Note it.

    Raises:
        OSError: the disk failed; the note is as it was.
    """
    names = [json_path(name) for name in sorted(needed.paths)]
    with _replacing(path) as file:
        json.dump([needed.snapshot, needed.sequence, names], file)


@contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """A file to write, compressed, that takes its place when all is written, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    with zstandard.open(temporary, "wt", encoding="ascii") as file:
        yield file
    os.replace(temporary, path)
