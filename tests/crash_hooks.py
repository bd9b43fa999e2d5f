"""Counts everything that a run does to the disk and to the store, and strikes at one of those events.

`install` patches the process it is called in for good: it belongs into a forked child that ends with its
run (see `crash_points`). Three layers are counted:

- ``os``: every call that can change a file, a folder or its metadata, the writing half of ``open`` and
  ``os.fdopen``, and the two system calls that worktree/syscalls.py makes through ctypes;
- ``sql``: every statement that can write, BEGIN and COMMIT included. SQLite's cache is made so small that
  it writes changed pages before the commit: what a kill leaves then is a hot journal beside a torn file;
- ``store``: every call of the store, reads as well, around the ``os`` events it is made of.

Threads are run one after the other and short sleeps made long enough for the filesystem's clock to move,
so that the events of a run have the same numbers every time.
"""

from __future__ import annotations

import builtins
import concurrent.futures
import ctypes
import errno
import io
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from manifest_sync import bounded, stores
from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.base import Listed, Object, Store, Unknown
from manifest_sync.worktree import syscalls

Strike = Literal["kill", "torn", "after", "lost", "error"]
"""What happens at an event: killed before it; killed when half of a write has reached the file; killed when
it has taken effect; its reply lost though it took effect (``store`` only); it fails with an ``OSError``."""

NO_CHANGE = frozenset(
    {"fsync", "fdatasync", "syncfs", "sync", "get", "get_range", "list", "BEGIN IMMEDIATE", "SAVEPOINT"}
)
"""Events after which nothing on the disk is different: to die before the next one is to die before them."""

_GROWING = (errno.ENOSPC, errno.EDQUOT)
NEEDS_NO_SPACE = frozenset(
    ["unlink", "remove", "rmdir", "rename", "replace", "renameat2", "ftruncate", "chmod", "fchmod", "utime"]
)
"""What works on a full disk too."""


@dataclass(frozen=True)
class Event:
    """One thing a run did: its number from 1, layer, name of the call, and to what."""

    number: int
    layer: str
    name: str
    detail: str
    size: int = 0
    """Bytes of a write."""

    def __str__(self) -> str:
        return f"{self.number} {self.layer} {self.name} {self.detail}"


@dataclass(frozen=True)
class Plan:
    """Strike at the event number ``at``; 0 never.

    Args:
        error: the number of the ``OSError`` of the strike ``error``.
        lasting: every later event that needs space fails as well: a disk that is full stays full.
        layers: the layers whose events are counted.
    """

    at: int = 0
    strike: Strike = "kill"
    error: int = 0
    lasting: bool = False
    layers: tuple[str, ...] = ("os", "sql", "store")


def install(plan: Plan, log: int) -> None:
    """Patch this process. ``log`` is a descriptor that gets one JSON line an event, past the hooks."""
    recorder = _Recorder(plan, log)
    _patch_os(recorder)
    _patch_open(recorder)
    _patch_syscalls(recorder)
    _patch_sqlite(recorder)
    _patch_store(recorder)
    _make_repeatable()


class _Recorder:
    def __init__(self, plan: Plan, log: int) -> None:
        self.plan = plan
        self._log = log
        self._write = os.write
        self._kill = os.kill
        self._count = 0

    def run(
        self,
        layer: str,
        name: str,
        detail: str,
        call: Callable[[], Any],
        *,
        half: Callable[[], Any] | None = None,
        size: int = 0,
        given: Any = None,
    ) -> Any:
        """Note an event, and do it unless the plan says otherwise. An ``OSError`` has the name ``given``."""
        if layer not in self.plan.layers:
            return call()
        self._count += 1
        event = Event(self._count, layer, name, detail, size)
        self._write(self._log, json.dumps([event.number, layer, name, detail, size]).encode() + b"\n")
        if self._count < self.plan.at or not self.plan.at:
            return call()
        if self.plan.strike == "error":
            return self._fail(event, call, given)
        if self._count > self.plan.at:
            return call()
        if self.plan.strike == "torn" and half is not None:
            half()
        elif self.plan.strike in ("after", "lost"):
            with suppress(Exception):
                call()
        if self.plan.strike == "lost":
            lost = StoreUnavailable(f"the reply was lost: {name} {detail}", "try again")
            raise Unknown(detail, lost) if name == "put_if" else lost
        self._kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed and still here")

    def _fail(self, event: Event, call: Callable[[], Any], given: Any) -> Any:
        is_full = self.plan.error in _GROWING
        if event.layer == "store" or (self._count > self.plan.at and not self.plan.lasting):
            return call()
        if is_full and event.name in NEEDS_NO_SPACE:
            return call()
        if event.layer == "sql":
            if event.name.startswith(("ROLLBACK", "BEGIN", "RELEASE")):
                return call()
            _fail_like_sqlite(is_full)
        names = () if given is None or isinstance(given, int) else (given,)
        raise OSError(self.plan.error, os.strerror(self.plan.error), *names)


def _fail_like_sqlite(is_full: bool) -> NoReturn:
    text = "database or disk is full" if is_full else "disk I/O error"
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_FULL if is_full else sqlite3.SQLITE_IOERR_WRITE
    raise error


def place(path: Any, dir_fd: int | None = None) -> str:
    """Where a call points to: the full path of a name, a descriptor, or a name in an open folder."""
    if isinstance(path, int):
        try:
            return os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return f"descriptor {path}"
    text = os.fsdecode(path)
    if dir_fd is not None and not os.path.isabs(text):
        return os.path.join(place(dir_fd), text)
    return os.path.abspath(text)


# --- os

_ONE = {  # calls that change what their first argument names
    "mkdir": "dir_fd", "rmdir": "dir_fd", "unlink": "dir_fd", "remove": "dir_fd", "mknod": "dir_fd",
    "mkfifo": "dir_fd", "utime": "dir_fd", "chmod": "dir_fd", "chown": "dir_fd", "lchown": "", "fchmod": "",
    "fchown": "", "fsync": "", "fdatasync": "", "ftruncate": "", "truncate": "", "posix_fallocate": "",
    "setxattr": "", "removexattr": "", "lchmod": "",
}  # fmt: skip
_TWO = {  # calls that name two places
    "rename": ("src_dir_fd", "dst_dir_fd"), "replace": ("src_dir_fd", "dst_dir_fd"),
    "link": ("src_dir_fd", "dst_dir_fd"), "symlink": ("", "dir_fd"),
}  # fmt: skip
_WRITES = ("write", "pwrite")
_NEVER = ("writev", "pwritev", "copy_file_range", "sendfile", "splice")
"""Ways to write that nothing uses; whoever begins to has to hook them first."""


def _patch_os(recorder: _Recorder) -> None:
    for name, folder in _ONE.items():
        if hasattr(os, name):
            setattr(os, name, _hook_one(recorder, name, folder, getattr(os, name)))
    for name, folders in _TWO.items():
        setattr(os, name, _hook_two(recorder, name, folders, getattr(os, name)))
    for name in _WRITES:
        setattr(os, name, _hook_write(recorder, name, getattr(os, name)))
    for name in _NEVER:
        if hasattr(os, name):
            setattr(os, name, _forbidden(name))
    real_open, real_sync = os.open, os.sync

    def hooked_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def call() -> int:
            return real_open(path, flags, mode, dir_fd=dir_fd)

        if not flags & (os.O_CREAT | os.O_TRUNC):
            return call()
        found: int = recorder.run("os", "open", place(path, dir_fd), call, given=path)
        return found

    os.open = hooked_open
    os.sync = lambda: recorder.run("os", "sync", "/", real_sync)


def _hook_one(recorder: _Recorder, name: str, folder: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def hooked(path: Any, *args: Any, **kwargs: Any) -> Any:
        where = place(path, kwargs.get(folder))
        return recorder.run("os", name, where, lambda: real(path, *args, **kwargs), given=path)

    return hooked


def _hook_two(
    recorder: _Recorder, name: str, folders: tuple[str, str], real: Callable[..., Any]
) -> Callable[..., Any]:
    def hooked(source: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        one = place(source, kwargs.get(folders[0])) if folders[0] else repr(source)
        other = place(target, kwargs.get(folders[1]))
        return recorder.run(
            "os", name, f"{one} -> {other}", lambda: real(source, target, *args, **kwargs), given=source
        )

    return hooked


def _hook_write(recorder: _Recorder, name: str, real: Callable[..., int]) -> Callable[..., int]:
    def hooked(descriptor: int, data: Any, *args: Any) -> int:
        if not _is_file(descriptor):
            return real(descriptor, data, *args)
        view = memoryview(data).cast("B")
        written: int = recorder.run(
            "os",
            name,
            place(descriptor),
            lambda: real(descriptor, data, *args),
            half=lambda: real(descriptor, view[: len(view) // 2], *args),
            size=len(view),
        )
        return written

    return hooked


def _is_file(descriptor: int) -> bool:
    """Not a pipe, a terminal or the memory in which the test keeps stdout."""
    return place(descriptor).startswith("/") and not place(descriptor).startswith(("/dev/pts", "/memfd:"))


def _forbidden(name: str) -> Callable[..., NoReturn]:
    def hooked(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError(f"os.{name} is not counted: add it to tests/crash_hooks.py")

    return hooked


class _Raw(io.FileIO):
    """The bottom of a Python file that is open for writing: its writes go through ``os.write``."""

    def write(self, data: Any, /) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None, /) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size


def _patch_open(recorder: _Recorder) -> None:
    real_open, real_fdopen = builtins.open, os.fdopen

    def opened(descriptor: int, mode: str, buffering: int, text: dict[str, Any]) -> Any:
        raw = _Raw(descriptor, mode.replace("t", "").replace("b", ""))
        if buffering == 0:
            return raw
        file = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return file if "b" in mode else io.TextIOWrapper(file, **text)

    def hooked_open(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+") or isinstance(file, int) or opener is not None:
            return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        flags = os.O_CLOEXEC | (os.O_RDWR if "+" in mode else os.O_WRONLY)
        flags |= {
            "w": os.O_CREAT | os.O_TRUNC,
            "x": os.O_CREAT | os.O_EXCL,
            "a": os.O_CREAT | os.O_APPEND,
        }.get(mode.strip("bt+"), 0)
        text = {"encoding": encoding, "errors": errors, "newline": newline}
        return opened(os.open(file, flags, 0o666), mode, buffering, text)

    def hooked_fdopen(descriptor: int, mode: str = "r", buffering: int = -1, **text: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_fdopen(descriptor, mode, buffering, **text)
        return opened(descriptor, mode, buffering, text)

    builtins.open = io.open = hooked_open
    os.fdopen = hooked_fdopen  # type: ignore[assignment]


def _patch_syscalls(recorder: _Recorder) -> None:
    renameat2, syncfs = syscalls._renameat2, syscalls._syncfs

    def refuse(error: OSError) -> int:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1

    def hooked_renameat2(source_dir: int, source: bytes, target_dir: int, target: bytes, flags: int) -> Any:
        detail = f"{place(source, source_dir)} -> {place(target, target_dir)}"
        try:
            return recorder.run(
                "os", "renameat2", detail, lambda: renameat2(source_dir, source, target_dir, target, flags)
            )
        except OSError as error:
            return refuse(error)

    def hooked_syncfs(descriptor: int) -> Any:
        try:
            return recorder.run("os", "syncfs", place(descriptor), lambda: syncfs(descriptor))
        except OSError as error:
            return refuse(error)

    syscalls._renameat2 = hooked_renameat2
    syscalls._syncfs = hooked_syncfs


# --- SQLite

_READING = ("SELECT", "PRAGMA", "EXPLAIN")


def _patch_sqlite(recorder: _Recorder) -> None:
    real_connect = sqlite3.connect

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA cache_size"):
                sql = "PRAGMA cache_size = 1"
            return self._run(sql, lambda: super(Counted, self).execute(sql, parameters))

        def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
            kept = list(rows)
            if not kept:
                return super().executemany(sql, kept)
            return self._run(sql, lambda: super(Counted, self).executemany(sql, kept))

        def executescript(self, sql: str, /) -> sqlite3.Cursor:
            return self._run(sql, lambda: super(Counted, self).executescript(sql))

        def _run(self, sql: str, call: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            if sql.lstrip().upper().startswith(_READING):
                return call()
            done: sqlite3.Cursor = recorder.run("sql", statement(sql), "", call)
            return done

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        def call() -> sqlite3.Connection:
            return real_connect(*args, **{"factory": Counted, **kwargs})  # type: ignore[no-any-return]

        if ":memory:" in str(args[0]):
            return call()
        connection: sqlite3.Connection = recorder.run("sql", "connect", str(args[0]), call)
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]


def statement(sql: str) -> str:
    """A statement's first words: verb and table."""
    return " ".join(sql.replace("OR REPLACE ", "").replace("OR IGNORE ", "").split()[:3])


# --- the store


class CountedStore:
    """A store whose every call is an event."""

    def __init__(self, inner: Store, recorder: _Recorder) -> None:
        self._inner = inner
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _run(self, name: str, key: str, call: Callable[[], Any]) -> Any:
        return self._recorder.run("store", name, key, call)

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        found: Object | None = self._run(
            "get", key, lambda: self._inner.get(key, unless_etag=unless_etag, max_bytes=max_bytes)
        )
        return found

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        found: bytes = self._run(
            "get_range", key, lambda: self._inner.get_range(key, offset, length, etag=etag)
        )
        return found

    def put(self, key: str, body: bytes) -> None:
        self._run("put", key, lambda: self._inner.put(key, body))

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        new: str = self._run("put_if", key, lambda: self._inner.put_if(key, body, etag=etag))
        return new

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from self._run("list", prefix, lambda: [*self._inner.list(prefix)])

    def delete(self, key: str) -> None:
        self._run("delete", key, lambda: self._inner.delete(key))


def _patch_store(recorder: _Recorder) -> None:
    real = stores.open_store

    def open_store(*args: Any, **kwargs: Any) -> Any:
        return CountedStore(real(*args, **kwargs), recorder)

    for module in list(sys.modules.values()):
        if getattr(module, "open_store", None) is real:
            module.open_store = open_store  # type: ignore[attr-defined]


# --- the same events every time


def _make_repeatable() -> None:
    def submit(
        self: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  what a thread raises is raised where it is waited for
            future.set_exception(error)
        return future

    concurrent.futures.ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
    bounded._Call.start = bounded._Call.run  # type: ignore[method-assign, assignment]
    bounded._Call.join = lambda self, timeout=None: None  # type: ignore[method-assign]
    real_sleep = time.sleep
    # Waiting for the filesystem's clock to tick polls it; one longer sleep makes one poll of it. Nobody else
    # is there to be waited for.
    time.sleep = lambda seconds, /: real_sleep(min(max(float(seconds), 0.012), 0.05))
