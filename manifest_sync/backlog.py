"""What `watch` still has to look at, and when it may: bounded, and without a clock of its own. Pure.

All times are seconds on whatever clock the caller reads; only differences count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from manifest_sync.model import Path
from manifest_sync.settle import is_line_file

MOST_PATHS = 500
"""With more paths than this everything is looked at: the memory stays bounded, and while one path is looked
up by its name (0.9 ms) a scan passes by more than a hundred."""
FIRST_WAIT = 5.0
LONGEST_WAIT = 300.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What the next push looks at: some paths, files or folders, or None for everything."""

    paths: tuple[Path, ...] | None


@dataclass(slots=True)
class Backlog:
    """Paths that something has happened to, each with the time of the last event.

    A path comes up once nothing has happened to it for ``settle`` seconds; a file that grows by lines does at
    once. What comes up is only looked at: whether it is sent, its own stat decides (see `Settle`).
    """

    settle: float
    _touched: dict[Path, float] = field(default_factory=dict)
    _everything: float | None = None
    """Since when all has to be looked at; the paths are forgotten then."""

    def __len__(self) -> int:
        return len(self._touched)

    @property
    def is_everything(self) -> bool:
        """Whether all has to be looked at."""
        return self._everything is not None

    def note(self, paths: Iterable[Path], now: float) -> None:
        """Something happened to these paths."""
        if self._everything is not None:
            return
        for path in paths:
            self._touched[path] = now
        if len(self._touched) > MOST_PATHS:
            self.note_everything(now)

    def note_everything(self, now: float) -> None:
        """Anything may have happened; what was noted before waits no longer for that."""
        self._touched.clear()
        if self._everything is None:
            self._everything = now

    def take(self, now: float) -> Batch | None:
        """What has come up, and is no longer in the backlog then; None when nothing has."""
        if self._everything is not None:
            if now - self._everything < self.settle:
                return None
            self._everything = None
            return Batch(None)
        ready = [
            path for path, when in self._touched.items() if now - when >= self.settle or is_line_file(path)
        ]
        for path in ready:
            del self._touched[path]
        return Batch(tuple(sorted(ready))) if ready else None

    def put_back(self, batch: Batch, now: float) -> None:
        """It could not be looked at after all; it comes up again at once, unless more happens to it."""
        before = now - self.settle
        if batch.paths is None:
            self._everything = None
            self.note_everything(before)
        else:
            self.note([path for path in batch.paths if path not in self._touched], before)


@dataclass(slots=True)
class PushTimes:
    """When the next push may begin: some time after the last, and ever later while they fail.

    Args:
        jitter: a random number of seconds below the given one, so that machines do not come back together.
    """

    jitter: Callable[[float], float]
    failures: int = 0
    """How many pushes in a row have failed."""
    _not_before: float | None = None

    def may_push(self, now: float) -> bool:
        """Whether it is time."""
        return self._not_before is None or now >= self._not_before

    def succeeded(self, now: float, wait: float) -> None:
        """A push ended well; the next one is not before ``wait`` seconds from now."""
        self.failures = 0
        self._not_before = now + wait

    def failed(self, now: float) -> None:
        """A push failed: from five seconds the wait doubles up to five minutes, half of it by chance."""
        half = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self.failures, 30)) / 2
        self.failures += 1
        self._not_before = now + half + self.jitter(half)
