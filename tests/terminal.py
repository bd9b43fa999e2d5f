"""A command on a terminal of its own, and someone who answers what it asks."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

SECONDS = 60


class Terminal:
    """Runs ``manifest-sync WORDS`` in ``folder``; ``shown`` is all that was on the screen."""

    def __init__(self, folder: Path, env: dict[str, str], *words: str) -> None:
        self.shown = ""
        self._seen = 0
        self._pid, self._screen = pty.fork()
        if not self._pid:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job of a shell ignores it
                os.chdir(folder)
                os.execve(sys.executable, [sys.executable, "-m", "manifest_sync", *words], env)
            finally:
                os._exit(127)

    def expect(self, text: str) -> None:
        """Wait until ``text`` appears behind what was expected before."""
        deadline = time.monotonic() + SECONDS
        while (found := self.shown.find(text, self._seen)) < 0:
            if not self._read(deadline) or time.monotonic() > deadline:
                raise AssertionError(f"{text!r} was not shown:\n{self.shown}")
        self._seen = found + len(text)

    def answer(self, text: str) -> None:
        """Type a line."""
        os.write(self._screen, text.encode() + b"\n")

    def interrupt(self) -> None:
        """Type Ctrl-C until it is noticed: at the wrong moment it is lost on the library that reads lines."""
        for _ in range(SECONDS // 2):
            os.write(self._screen, b"\x03")
            patience = time.monotonic() + 2
            while time.monotonic() < patience:
                if not self._read(patience) or "interrupted" in self.shown:
                    return

    def end(self) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline) and time.monotonic() < deadline:
            pass
        os.close(self._screen)
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, deadline: float) -> bool:
        """Read what comes; False at the end, True too when nothing came by the deadline."""
        ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return True
        try:
            data = os.read(self._screen, 1 << 16)
        except OSError:  # on Linux the end of the other side
            data = b""
        self.shown += data.decode("utf-8", "replace")
        return bool(data)
