"""Watch: push what is new and changed as it comes to rest, until someone stops it.

note what happens → take what has come up → push it, under the lock → wait. Nothing here knows how a push is
made or what time it is: both come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from manifest_sync.backlog import Backlog, Batch, PushTimes
from manifest_sync.errors import AccessDenied, Contended, Damaged, ManifestSyncError, NoRepository, UsageError
from manifest_sync.model import Path
from manifest_sync.ownership import Ownership
from manifest_sync.report import RunReport
from manifest_sync.scope import Scope

TICK = 0.5
"""Seconds between two looks at what has happened: how soon a wish to stop is noticed, too."""
RESCAN_SECONDS = 600.0
"""Everything is looked at this often although events come, for some get lost."""
_QUIET_FAILURES = 3
"""So often in a row another run may hold the lock before that is worth a word."""
_MOST_TOLD = 10_000
_LAST_TRIES = 20
"""Ticks that the last push waits for another run to let go of the lock."""


class Source(Protocol):
    """Where hints come from; see `worktree.events.Events`."""

    why_none: str

    def take(self) -> tuple[set[Path], bool]:
        """What was noted since the last call, and whether anything else may have changed too."""

    def exists(self, path: Path) -> bool:
        """Whether anything is at ``path`` now."""


class Teller(Protocol):
    """Told of what a person or a program may want to know of it."""

    def published(self, report: RunReport) -> None:
        """A push made a new head."""

    def problems(self, report: RunReport) -> None:
        """Conflicts, skipped files and damage in ``report`` that were not told of before."""

    def note(self, text: str) -> None:
        """One line about what goes on."""


def hint_filter(scope: Scope, ownership: Ownership) -> Callable[[Path], Path | None]:
    """What an event at a path makes worth looking at: the path, b"" for everything, None for nothing."""

    def wanted(path: Path) -> Path | None:
        if scope.contains(path):
            return path if ownership.file_is_ours(path) else None
        # A folder on the way to the scope: what is in scope may have come with it.
        return Path(b"") if scope.enters(path) and not scope.covers(path) else None

    return wanted


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch; all in seconds.

    Args:
        interval: at least so long between two pushes.
        settle: how long nothing may touch a file before it is sent.
    """

    interval: float = 60.0
    settle: float = 5.0

    def __post_init__(self) -> None:
        """Refuse less than a second to settle (UsageError)."""
        if self.settle < 1:
            raise UsageError(
                "--settle must be at least a second", "some filesystems do not know the time better than that"
            )


@dataclass(slots=True)
class WatchReport:
    """The end of a watch: what the last push, which looked at everything, left."""

    last: RunReport = field(default_factory=lambda: RunReport("push", "copy"))

    @property
    def exit_code(self) -> int:
        """As of a push; files that did not hold still to the end count as skipped."""
        return self.last.exit_code or (3 if self.last.waiting else 0)


class Watch:
    """One watch.

    Args:
        push: pushes what is at rest among some paths, or everything for None, and takes the lock only for
            that.
        stopping: whether someone has asked it to stop.
        clock: seconds that only go forward.
        wait: returns after so many seconds, or earlier.
        jitter: a random number of seconds below the given one.
    """

    def __init__(
        self,
        options: WatchOptions,
        push: Callable[[tuple[Path, ...] | None], RunReport],
        source: Source,
        teller: Teller,
        *,
        stopping: Callable[[], bool],
        clock: Callable[[], float],
        wait: Callable[[float], None],
        jitter: Callable[[float], float],
    ) -> None:
        self._options = options
        self._push = push
        self._source = source
        self._teller = teller
        self._stopping = stopping
        self._clock = clock
        self._wait = wait
        self._backlog = Backlog(options.settle)
        self._times = PushTimes(jitter)
        self._report = WatchReport()
        self._is_scanning = False
        self._rescan_at = clock() + RESCAN_SECONDS
        self._trouble = ""
        self._has_worked = False
        self._told: set[tuple[Path, str]] = set()

    def run(self) -> WatchReport:
        """Push until asked to stop, then what is at rest by then.

        Raises:
            UsageError, Damaged, NoRepository: what nobody's patience would mend.
            AccessDenied: by the very first push; later on, new credentials may come.
            ManifestSyncError: the last push failed.
        """
        self._backlog.note_everything(self._clock() - self._options.settle)
        while not self._stopping():
            self._listen()
            if self._times.may_push(self._clock()):
                self._turn()
            self._wait(TICK)
        return self._finish()

    def _listen(self) -> None:
        """Note what has happened, and that nobody may tell of it."""
        now = self._clock()
        paths, everything = self._source.take()
        if everything:
            self._backlog.note_everything(now)
        self._backlog.note(paths, now)
        if self._source.why_none and not self._is_scanning:
            self._is_scanning = True
            self._rescan_at = now
            seconds = f"{self._options.interval:g} seconds"
            self._teller.note(f"{self._source.why_none}: looking at everything every {seconds} instead")
        if now >= self._rescan_at:
            self._backlog.note_everything(now - self._options.settle)
            self._rescan_at = now + (self._options.interval if self._is_scanning else RESCAN_SECONDS)

    def _turn(self) -> None:
        """Push what has come up, if anything has."""
        batch = self._backlog.take(self._clock())
        if batch is not None and batch.paths is not None:
            # What was taken away meanwhile is no reason to ask the bucket: deletions are left to others.
            batch = Batch(tuple(path for path in batch.paths if self._source.exists(path)))
        if batch is None or batch.paths == ():
            return
        try:
            report = self._push(batch.paths)
        except (UsageError, Damaged, NoRepository):
            raise
        except (ManifestSyncError, OSError) as error:
            if isinstance(error, AccessDenied) and not self._has_worked:
                raise
            self._backlog.put_back(batch, self._clock())
            self._times.failed(self._clock())
            self._tell_trouble(error)
            return
        now = self._clock()
        # Where all that was found was still being written, the next snapshot need not wait for its turn.
        came_too_early = report.waiting and not report.published
        self._times.succeeded(now, self._options.settle if came_too_early else self._options.interval)
        self._backlog.note(report.waiting, now)
        self._tell(report, has_seen_all=batch.paths is None)

    def _finish(self) -> WatchReport:
        """The last push: everything, and once more what was written shortly before the end."""
        report = self._push_last(None)
        self._tell(report, has_seen_all=True)
        self._report.last = report
        if report.waiting:
            until = self._clock() + self._options.settle
            while (left := until - self._clock()) > 0:
                self._wait(min(TICK, left))
            again = self._push_last(tuple(report.waiting))
            self._tell(again, has_seen_all=False)
            report.waiting = again.waiting
            report.skipped = sorted({**dict(report.skipped), **dict(again.skipped)}.items())
            report.conflicts = sorted({*report.conflicts, *again.conflicts})
        return self._report

    def _push_last(self, paths: tuple[Path, ...] | None) -> RunReport:
        for _ in range(_LAST_TRIES):
            try:
                return self._push(paths)
            except Contended:
                self._wait(TICK)
        return self._push(paths)

    def _tell_trouble(self, error: ManifestSyncError | OSError) -> None:
        if self._trouble or (isinstance(error, Contended) and self._times.failures <= _QUIET_FAILURES):
            return
        self._trouble = error.message if isinstance(error, ManifestSyncError) else str(error)
        self._teller.note(f"{self._trouble}; watching goes on, and it is tried again until it works")

    def _tell(self, report: RunReport, *, has_seen_all: bool) -> None:
        """Of a push that went well: what is new about it."""
        self._has_worked = True
        if self._trouble:
            self._teller.note("it works again")
            self._trouble = ""
        if report.published:
            self._teller.published(report)
        found = {
            *((path, "conflict") for path in report.conflicts),
            *report.skipped,
            *((path, reason) for path, reason in report.damaged),
        }
        fresh = found - self._told
        if fresh:
            news = RunReport(report.command, report.mode, sequence=report.sequence)
            news.conflicts = [path for path in report.conflicts if (path, "conflict") in fresh]
            news.skipped = _among(report.skipped, fresh)
            news.damaged = _among(report.damaged, fresh)
            self._teller.problems(news)
        # What is over may come again, and is told of again then; only a look at everything shows that it is.
        self._told = found if has_seen_all or len(self._told) > _MOST_TOLD else self._told | found


def _among(pairs: Iterable[tuple[Path, str]], fresh: set[tuple[Path, str]]) -> list[tuple[Path, str]]:
    return [pair for pair in pairs if pair in fresh]
