"""What a filesystem does and does not do, found out by trying it on files of our own."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from manifest_sync.worktree.mounts import Mount, mount_of

_TICK_SECONDS = 3.0
_STEPS_NS = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
_TIME_NS = 1_700_000_001_123_456_789  # an odd second, so that FAT's two seconds show
_NAMES = {
    "a name with a colon": b"a:b",
    "a name with a backslash": b"a\\b",
    "a name that ends in a dot": b"ab.",
    "a name that is not UTF-8": b"a\xff",
    "a name of 255 bytes": b"n" * 255,
}


@dataclass(frozen=True, slots=True)
class Traits:
    """One filesystem as `probe_filesystem` found it.

    ``mtime_step_ns`` is the unit in which it keeps times (0: it keeps another time altogether), ``tick_ns``
    how long its clock stood still between two changes (0: longer than three seconds).
    """

    folder: str
    mount: Mount | None
    folds_case: bool
    folds_unicode: bool
    refused_names: tuple[str, ...]
    mtime_step_ns: int
    tick_ns: int
    ctime_moves: bool
    replaces: bool
    hard_links: bool
    symlinks: bool
    executable_bit: bool
    locks: bool
    free_bytes: int


def probe_filesystem(folder: str) -> Traits:
    """Try out the filesystem that ``folder`` lies on, in a new folder there, which is removed again.

    Raises:
        OSError: nothing can be written there.
    """
    place = os.path.join(os.fsencode(folder), b"probe-" + secrets.token_hex(6).encode())
    space = os.statvfs(folder)
    os.mkdir(place, 0o700)
    try:
        tick_ns, ctime_moves = _clock(place)
        return Traits(
            folder=folder,
            mount=mount_of(folder),
            folds_case=_finds(place, b"Case-Probe", b"cASE-pROBE"),
            folds_unicode=_finds(place, "\u00e9-probe".encode(), "e\u0301-probe".encode()),
            refused_names=tuple(what for what, name in _NAMES.items() if not _keeps_name(place, name)),
            mtime_step_ns=_mtime_step(place),
            tick_ns=tick_ns,
            ctime_moves=ctime_moves,
            replaces=_works(partial(_replaces, place)),
            hard_links=_works(partial(_links, place)),
            symlinks=_works(partial(_symlinks, place)),
            executable_bit=_keeps_executable_bit(place),
            locks=_works(partial(_locks, place)),
            free_bytes=space.f_bavail * space.f_frsize,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make(place: bytes, name: bytes, content: bytes = b"") -> bytes:
    path = os.path.join(place, name)
    with open(path, "wb") as file:
        file.write(content)
    return path


def _works(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except OSError:
        return False


def _finds(place: bytes, made: bytes, asked: bytes) -> bool:
    """Whether a file made under one name is found under another."""
    path = _make(place, made)
    found = os.path.lexists(os.path.join(place, asked))
    os.unlink(path)
    return found


def _keeps_name(place: bytes, name: bytes) -> bool:
    """Whether a file can have this name, and a listing gives it back byte by byte."""
    try:
        path = _make(place, name)
        kept = name in os.listdir(place)
        os.unlink(path)
    except OSError:
        return False
    return kept


def _mtime_step(place: bytes) -> int:
    path = _make(place, b"mtime")
    os.utime(path, ns=(_TIME_NS, _TIME_NS))
    kept = os.stat(path).st_mtime_ns
    return next((step for step in _STEPS_NS if _TIME_NS - _TIME_NS % step == kept), 0)


def _clock(place: bytes) -> tuple[int, bool]:
    """How far the clock moves at a time, and whether a change shows in ctime when mtime is put back."""
    path = _make(place, b"clock")
    os.utime(path, ns=(_TIME_NS, _TIME_NS))
    before = os.stat(path).st_ctime_ns
    tick_ns, last = 0, _now(place)
    give_up = time.monotonic() + _TICK_SECONDS
    while time.monotonic() < give_up:
        now = _now(place)
        if now > last:
            # The first step may have begun long ago: the second one is whole.
            if tick_ns:
                tick_ns = now - last
                break
            tick_ns = now - last
            last = now
    with open(path, "ab") as file:
        file.write(b"changed")
    os.utime(path, ns=(_TIME_NS, _TIME_NS))
    return tick_ns, os.stat(path).st_ctime_ns > before


def _now(place: bytes) -> int:
    descriptor = os.open(os.path.join(place, b"now"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _replaces(place: bytes) -> bool:
    old, new = _make(place, b"old", b"old"), _make(place, b"new", b"new")
    os.rename(new, old)
    with open(old, "rb") as file:
        return file.read() == b"new" and not os.path.lexists(new)


def _links(place: bytes) -> bool:
    path = _make(place, b"link-source")
    os.link(path, path + b"-2")
    return os.path.samefile(path, path + b"-2")


def _symlinks(place: bytes) -> bool:
    path = os.path.join(place, b"symlink")
    os.symlink(b"nowhere", path)
    return os.readlink(path) == b"nowhere"


def _keeps_executable_bit(place: bytes) -> bool:
    path = _make(place, b"mode")
    kept = []
    for mode in (0o600, 0o700):
        try:
            os.chmod(path, mode)
        except OSError:
            return False
        kept.append(os.stat(path).st_mode & 0o100)
    return kept == [0, 0o100]


def _locks(place: bytes) -> bool:
    """Whether ``flock`` keeps two openings of a file apart."""
    path = _make(place, b"lock")
    with open(path, "r+b") as one, open(path, "r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
