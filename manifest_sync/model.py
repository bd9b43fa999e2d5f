"""The words of the project: immutable values that every other module speaks in.

Paths are raw bytes relative to the root, ``/`` between components, because a file name is bytes and
because the order of a page is the order of bytes. ``display`` turns one into text for people.

What a run makes millions of is a `msgspec.Struct`: made ten times as fast as a frozen dataclass, and of no
interest to the collector of cycles, since it holds none.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import NewType

import msgspec

Path = NewType("Path", bytes)
"""A path below the root: raw bytes, components joined by ``/``, no leading or trailing ``/``."""

Hash = NewType("Hash", bytes)
"""A BLAKE3 digest, 32 bytes."""

State = NewType("State", bytes)
"""What is compared between machines: one kind byte, then the 32-byte hash.

``f`` file, ``x`` executable file, ``l`` symlink (hash of its target). Two special values stand alone:
``UNREAD`` (a local file that must be hashed before its state is known) and ``SPECIAL`` (a fifo, a
device, a skipped symlink: something is there and it is never sent and never replaced).
"""

UNREAD = State(b"")
SPECIAL = State(b"o")

HASH_LENGTH = 32
MAX_PATH = 4096
MAX_COMPONENT = 255
MAX_MESSAGE = 1 << 16
"""Characters of a snapshot's message."""
STATE_FOLDER = ".manifest-sync"
DEFAULT_JOBS = 8
"""Requests under way at once, unless ``-j`` says otherwise."""


class EntryType(StrEnum):
    """What a path is; folders are not recorded."""

    FILE = "file"
    SYMLINK = "symlink"


class Stat(msgspec.Struct, frozen=True, gc=False):
    """The part of ``lstat`` that tells whether a file may have changed. Times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    mode: int
    """``st_mode``, file type bits included."""


class PackRef(msgspec.Struct, frozen=True, gc=False):
    """One pack, as a page names it: an immutable object of this repository.

    ``session`` and ``id`` give the key ``packs/<session>/<id>.pack``. An external pack (an object
    outside the prefix, adopted in place) has ``url`` and ``etag`` instead, and an empty session.
    """

    session: str
    id: str
    size: int
    url: str = ""
    etag: str = ""

    @property
    def is_external(self) -> bool:
        """Whether the bytes lie outside this repository's prefix."""
        return bool(self.url)


class FrameRef(msgspec.Struct, frozen=True, gc=False):
    """One frame: ``stored`` bytes at ``offset`` of ``pack`` that decode to ``raw`` bytes.

    A frame is stored raw when ``stored == raw``, else it is one zstd frame.
    """

    pack: PackRef
    offset: int
    stored: int
    raw: int


class ChunkRef(msgspec.Struct, frozen=True, gc=False):
    """One chunk: ``length`` plain bytes at ``offset`` of the decoded ``frame``; ``id`` is their BLAKE3."""

    id: Hash
    frame: FrameRef
    offset: int
    length: int


class Writer(msgspec.Struct, frozen=True, gc=False):
    """Who wrote an entry: machine (UUID), host name, and time (RFC 3339, UTC)."""

    machine: str
    host: str
    time: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One path's record in the bucket.

    ``mode`` holds permission bits only. ``target`` is set for a symlink, which has no chunks and
    whose hash is the BLAKE3 of the target.
    """

    path: Path
    type: EntryType
    size: int
    mtime_ns: int
    mode: int
    hash: Hash
    writer: Writer
    chunks: tuple[ChunkRef, ...] = ()
    target: bytes = b""

    @property
    def state(self) -> State:
        """The triple (type, hash, executable bit) in its compared form."""
        return make_state(self.type, self.hash, executable=bool(self.mode & 0o100))


def make_state(kind: EntryType, digest: Hash, *, executable: bool) -> State:
    """Join what is compared into one value: type, hash, and the owner's executable bit of a file."""
    if kind is EntryType.SYMLINK:
        return State(b"l" + digest)
    return State((b"x" if executable else b"f") + digest)


def file_state(digest: Hash, stat: Stat) -> State:
    """The state of a regular file, from its hash and its stat."""
    return make_state(EntryType.FILE, digest, executable=bool(stat.mode & 0o100))


def is_below(path: bytes, top: bytes) -> bool:
    """Whether ``path`` is ``top`` or lies below it; everything lies below the empty path."""
    return not top or path == top or path.startswith(top + b"/")


def display(path: bytes) -> str:
    """Text for people: UTF-8 where it is, otherwise each odd byte and control character escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def json_path(path: bytes) -> str:
    """A path for ``--json``: ``os.fsencode`` gives the bytes back."""
    return os.fsdecode(path)
