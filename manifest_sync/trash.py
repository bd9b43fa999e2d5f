"""The trash as a whole: what is in it, what may go from it by itself, and emptying it.

What a run took away is evicted by age or size only while the head still holds the content; sole copies stay
until someone empties the trash, and `status` names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from manifest_sync import observe
from manifest_sync.errors import FormatError, ManifestSyncError, UsageError
from manifest_sync.landing import settle
from manifest_sync.model import UNREAD, Path, State
from manifest_sync.pack import CHUNK_SMALL
from manifest_sync.rootcheck import check_same_root
from manifest_sync.runrecord import RunHeader
from manifest_sync.times import parse_rfc3339
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Trash

KEPT_RUNS = 50
"""Records without content that are kept, so that `undo` knows what the latest runs brought."""


@dataclass(frozen=True, slots=True)
class TrashLimits:
    """How long and how much the trash keeps of what the head still holds."""

    age: timedelta
    bytes: int


@dataclass(frozen=True, slots=True)
class Kept:
    """One file in the trash: the number of its step, its path, size in bytes, and its state there."""

    number: int
    path: Path
    size: int
    state: State | None
    is_sole: bool
    """Whether no other copy is known: the head does not hold this content."""


@dataclass(slots=True)
class RunTrash:
    """What one run left in the trash."""

    header: RunHeader
    undone: bool
    files: list[Kept] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Sum of the sizes."""
        return sum(kept.size for kept in self.files)


@dataclass(slots=True)
class TrashSummary:
    """The trash in numbers, with the paths that are kept nowhere else."""

    files: int = 0
    bytes: int = 0
    sole: list[Path] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    """Folders in the trash without a readable record."""


def iter_runs(ws: Workspace) -> Iterator[RunTrash]:
    """What each run left, newest first; nothing where the root is not there yet."""
    if not ws.worktree.exists():
        return
    trash = ws.worktree.trash()
    head = observe.cached_head(ws)
    live = frozenset(page.id for page in head.manifest.pages) if head else frozenset()
    for header in trash.runs():
        found = RunTrash(header, trash.is_undone(header.run))
        stored = trash.stored(header.run)
        if stored:
            for number, path, state in _read_before(trash, header.run, stored):
                size = stored[number]
                is_held = bool(state) and ws.index.is_held(
                    path, state or UNREAD, live, in_one_chunk=size <= CHUNK_SMALL
                )
                found.files.append(Kept(number, path, size, state, not is_held))
        yield found


def _read_before(trash: Trash, run: str, stored: dict[int, int]) -> Iterator[tuple[int, Path, State | None]]:
    left = dict(stored)
    try:
        for number, step in trash.steps(run):
            if left.pop(number, None) is not None:
                yield number, step.path, step.before
    except FormatError:
        # A damaged line: what follows is there without a name, and is never evicted.
        pass
    for number in left:
        yield number, Path(f"(unknown, {run}/{number})".encode()), None


def summarize(ws: Workspace) -> TrashSummary:
    """The trash in numbers."""
    strays = ws.worktree.trash().strays() if ws.worktree.exists() else []
    summary = TrashSummary(strays=strays)
    for run in iter_runs(ws):
        summary.files += len(run.files)
        summary.bytes += run.bytes
        summary.sole += [kept.path for kept in run.files if kept.is_sole]
    summary.sole = sorted(set(summary.sole))
    return summary


def evict(ws: Workspace, limits: TrashLimits) -> int:
    """Remove what the head still holds and is older than the limits allow, or too much; the files removed.

    Oldest first. Called at the end of a run that put something into the trash.
    """
    trash = ws.worktree.trash()
    oldest_kept = ws.now() - limits.age
    total = removed = 0
    for position, run in enumerate(iter_runs(ws)):
        moment = parse_rfc3339(run.header.time)
        expired = moment is not None and moment < oldest_kept
        left = 0
        for kept in run.files:
            total += kept.size
            if kept.is_sole or not (expired or total > limits.bytes):
                left += 1
                continue
            trash.discard(run.header.run, kept.number)
            total -= kept.size
            removed += 1
        if not left and (expired or position >= KEPT_RUNS):
            trash.discard_run(run.header.run)
    return removed


@dataclass(frozen=True, slots=True)
class EmptyReport:
    """What `empty` removed, and which sole copies it left."""

    files: int
    bytes: int
    kept_sole: tuple[Path, ...]


def empty(ws: Workspace, runs: Sequence[str], *, sole: bool) -> EmptyReport:
    """Remove what runs left in the trash for good.

    Args:
        runs: their names; none: every run.
        sole: remove content that the head does not hold, too.

    Raises:
        UsageError: there is no such run.
    """
    check_same_root(ws)
    settle(ws)
    trash = ws.worktree.trash()
    found = list(iter_runs(ws))
    unknown = set(runs) - {run.header.run for run in found}
    if unknown:
        raise UsageError(
            f"there is no run {min(unknown)!r} in the trash",
            "`manifest-sync trash list` names those there are",
        )
    files = size = 0
    kept_sole: list[Path] = []
    for run in found:
        if runs and run.header.run not in runs:
            continue
        for kept in run.files:
            if kept.is_sole and not sole:
                kept_sole.append(kept.path)
                continue
            trash.discard(run.header.run, kept.number)
            files, size = files + 1, size + kept.size
        trash.discard_run(run.header.run)
    return EmptyReport(files, size, tuple(kept_sole))


def latest_run(ws: Workspace) -> RunHeader:
    """The newest run that is neither undone nor an undoing itself.

    Raises:
        ManifestSyncError: there is none.
    """
    trash = ws.worktree.trash()
    for header in trash.runs():
        if not header.command.startswith("undo") and not trash.is_undone(header.run):
            return header
    raise ManifestSyncError(
        "there is no run to undo: no pull, restore or drop has changed anything here",
        "`manifest-sync trash list` shows what is kept",
    )
