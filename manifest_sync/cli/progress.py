"""Progress on stderr: bars on a terminal, elsewhere only the notes. `rich` is imported with the first bar."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from manifest_sync.cli.stdio import write_stderr
from manifest_sync.cli.words import human_size
from manifest_sync.report import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

_REDRAW_SECONDS = 0.1
_WINDOW_SECONDS = 10.0
_ROOM_FOR_BARS = 80


class ProgressContext(Progress, AbstractContextManager["ProgressContext", None], Protocol):
    """Progress that is put away when the run is over."""


def make_progress(*, quiet: bool, hushed: bool = False) -> ProgressContext:
    """Bars when a person watches, notes alone when not, nothing when ``quiet``; no notes when ``hushed``."""
    if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return Bars(notes=not hushed)
    return Notes(write=(lambda _: None) if quiet or hushed else write_stderr)


class Notes(Silent):
    """Only the lines a person has to see."""

    def __init__(self, write: Callable[[str], None] = write_stderr) -> None:
        self._write = write

    def note(self, text: str) -> None:
        """See `report.Progress`."""
        self._write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


@dataclass(slots=True)
class Stage:
    """How far one stage has come."""

    name: str
    total_files: int | None
    total_bytes: int | None
    started: float
    files: int = 0
    bytes: int = 0
    drawn: float = 0.0
    task: TaskID | None = None
    samples: deque[tuple[float, int, int]] = field(default_factory=deque)
    """Time, files and bytes of the last seconds, for a rate that follows the present."""

    def sample(self, now: float) -> None:
        """Remember this moment and forget those before the window."""
        self.samples.append((now, self.files, self.bytes))
        while len(self.samples) > 2 and now - self.samples[0][0] > _WINDOW_SECONDS:
            self.samples.popleft()

    def fraction(self) -> tuple[float, float | None]:
        """Done and total for the bar: bytes where their total is known, else files."""
        if self.total_bytes:
            return self.bytes, self.total_bytes
        return self.files, self.total_files

    def describe(self) -> str:
        """``120/600 files  1.2 MiB/8.0 MiB  3.4 MiB/s  0:02 left``."""
        parts = [f"{_of(str(self.files), self.total_files, str)} files"]
        if self.bytes or self.total_bytes:
            parts.append(_of(human_size(self.bytes), self.total_bytes, human_size))
        seconds, files, count = self._recent()
        if seconds > 0:
            parts.append(f"{human_size(round(count / seconds))}/s" if count else f"{files / seconds:.0f}/s")
            left = self._seconds_left(files / seconds, count / seconds)
            if left is not None:
                parts.append(f"{_clock(left)} left")
        return "  ".join(parts)

    def _recent(self) -> tuple[float, int, int]:
        if not self.samples:
            return 0.0, 0, 0
        first, last = self.samples[0], self.samples[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]

    def _seconds_left(self, files_rate: float, bytes_rate: float) -> float | None:
        if self.total_bytes and bytes_rate > 0:
            return max(self.total_bytes - self.bytes, 0) / bytes_rate
        if self.total_files and not self.total_bytes and files_rate > 0:
            return max(self.total_files - self.files, 0) / files_rate
        return None


class Bars:
    """One bar a stage; may be told from several threads.

    The counting is done here and drawn ten times a second, so that a million small files do not wait for
    the terminal.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, notes: bool = True) -> None:
        self._clock = clock
        self._notes = notes
        self._lock = threading.Lock()
        self._stages: dict[str, Stage] = {}
        self._bars: RichBars | None = None

    def begin(self, stage: str, files: int | None = None, bytes_: int | None = None) -> None:
        """See `report.Progress`."""
        with self._lock:
            self._finish(stage)
            begun = Stage(stage, files, bytes_, self._clock())
            begun.sample(begun.started)
            self._stages[stage] = begun

    def advance(self, stage: str, files: int = 0, bytes_: int = 0) -> None:
        """See `report.Progress`."""
        with self._lock:
            current = self._stages.get(stage)
            if current is None:
                return
            current.files += files
            current.bytes += bytes_
            now = self._clock()
            if now - max(current.drawn, current.started) >= _REDRAW_SECONDS:
                current.drawn = now
                current.sample(now)
                self._draw(current)

    def end(self, stage: str) -> None:
        """See `report.Progress`."""
        with self._lock:
            self._finish(stage)

    def note(self, text: str) -> None:
        """See `report.Progress`."""
        if not self._notes:
            return
        with self._lock:
            if self._bars is None:
                write_stderr(text)
            else:
                self._bars.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stages.clear()
            self._stop()

    def _finish(self, stage: str) -> None:
        """Take the bar of ``stage`` away; with the last one the terminal is given back."""
        done = self._stages.pop(stage, None)
        if done is not None and done.task is not None and self._bars is not None:
            self._bars.remove_task(done.task)
        if not self._stages:
            self._stop()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _draw(self, stage: Stage) -> None:
        # A stage that is over within a tenth of a second never comes here, and never imports rich.
        bars = self._bars or self._start()
        done, total = stage.fraction()
        update: dict[str, Any] = {"completed": done, "total": total, "detail": stage.describe()}
        if stage.task is None:
            stage.task = bars.add_task(stage.name, **update)
        else:
            bars.update(stage.task, **update)

    def _start(self) -> RichBars:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as RichProgress  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        console = Console(stderr=True)
        self._bars = RichProgress(
            TextColumn("{task.description:>8}", table_column=Column(no_wrap=True, min_width=8)),
            # Where there is no room for both, the numbers say more.
            *([BarColumn(bar_width=24)] if console.width >= _ROOM_FOR_BARS else []),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=8,
        )
        self._bars.start()
        return self._bars


def _of(done: str, total: int | None, show: Callable[[int], str]) -> str:
    return done if total is None else f"{done}/{show(total)}"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
