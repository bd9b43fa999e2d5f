"""Which files of a folder are opened, as the kernel tells it: whoever opens them, and in whatever way."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

_OPEN, _OVERFLOW, _FOLDER = 0x20, 0x4000, 0x4000_0000
_CLOSED_UNWRITTEN = (
    0x10  # between two openings of one file: equal events that follow one another are told once
)
_HEADER = struct.Struct("iIII")


class OpenedFiles:
    """A context manager; `names` is valid after it. Linux only."""

    def __init__(self, root: Path) -> None:
        self.names: list[str] = []
        """The files that were opened, each as often as it was, relative to the root."""
        self._root = root

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._descriptor >= 0, os.strerror(ctypes.get_errno())
        self._folders = {}
        for folder, _, _ in os.walk(self._root):
            watch = libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _OPEN | _CLOSED_UNWRITTEN)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._folders[watch] = Path(folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while True:
                try:
                    self._take(os.read(self._descriptor, 1 << 20))
                except BlockingIOError:
                    return
        finally:
            os.close(self._descriptor)

    def _take(self, events: bytes) -> None:
        offset = 0
        while offset < len(events):
            watch, mask, _, length = _HEADER.unpack_from(events, offset)
            offset += _HEADER.size + length
            assert not mask & _OVERFLOW, "too many files were opened to count them"
            if mask & _OPEN and not mask & _FOLDER:
                name = events[offset - length : offset].rstrip(b"\0")
                self.names.append(str((self._folders[watch] / os.fsdecode(name)).relative_to(self._root)))
