"""Undo: take back what a pull, restore or drop did to the tree and to the base, from its record.

read the record → look at each path → put back, take away, or bring again → record base.

A path that is no longer as the run left it is left alone and reported. An undo is a run with a record of its
own, so it can be undone as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from manifest_sync import observe, statcache
from manifest_sync.fetch import damaged_files
from manifest_sync.index.index import Row
from manifest_sync.landing import Landing, Wanted, settle
from manifest_sync.model import UNREAD, Path, State
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.runrecord import RunHeader, Step
from manifest_sync.scope import Scope
from manifest_sync.trash import latest_run
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import is_folder

_UNDO = "undo"


class _Plan:
    """What undoing a run comes to."""

    def __init__(self) -> None:
        self.back: list[tuple[int, Row, Step]] = []
        self.away: list[tuple[Row, Step]] = []
        self.again: list[tuple[Row, Step]] = []
        self.base: list[tuple[Row, State | None]] = []
        self.dropped: list[Path] = []
        """Not here, and again not because it was deleted."""
        self.changed: list[Path] = []


def undo(ws: Workspace, run: str = "") -> RunReport:
    """Take back a run.

    Args:
        run: its name; '' for the newest that is neither undone nor an undoing itself.

    Raises:
        ManifestSyncError: there is no such run, or the disk failed; every path is whole.
        FormatError: its record is damaged.
    """
    observe.check_root(ws)
    settle(ws)
    trash = ws.worktree.trash()
    header = _header(ws, run) if run else latest_run(ws)
    ws.progress.note(f"taking back run {header.run}: {header.command}")
    report = RunReport(_UNDO, "")
    plan = _plan(ws, header)
    # Undoing an undo does it again, and that is a run like any other: the next undo takes it back.
    verb = "redo" if header.command.startswith(f"{_UNDO} ") else _UNDO
    landing = Landing(ws, f"{verb} {header.run}")
    head = observe.load_head(ws) if plan.again else None
    with landing:
        bases = {row.path: step.base for row, step in plan.away}
        for was_dropped in (False, True):
            rows = [row for row, step in plan.away if step.was_dropped is was_dropped]
            landing.remove(rows, lambda row: bases[row.path], is_drop=was_dropped)
        landing.put_back(header.run, plan.back)
        if head is not None:
            _bring_again(ws, head, landing, plan, report)
        landing.set_base(plan.base)
        ws.index.drop(plan.dropped)
        landing.finish(Scope.everything())
    report.new, report.deleted = landing.brought, landing.removed
    report.bytes, report.run = landing.bytes, landing.run
    report.conflicts = sorted({*plan.changed, *landing.changed})
    report.skipped = sorted({**dict(report.skipped), **landing.skipped}.items())
    if not report.conflicts and not report.skipped and not report.damaged:
        trash.mark_undone(header.run)
    return report


def _header(ws: Workspace, run: str) -> RunHeader:
    for header in ws.worktree.trash().runs():
        if header.run == run:
            return header
    # Says that there is none, in the same words everywhere.
    next(ws.worktree.trash().steps(run), None)
    return RunHeader(run, "", "")


def _plan(ws: Workspace, header: RunHeader) -> _Plan:
    """Look at each path that the run touched. The last step that touched it counts as how the run left it."""
    plan = _Plan()
    trash = ws.worktree.trash()
    stored = trash.stored(header.run)
    is_outdated = int(header.run) <= int(ws.index.get_meta(observe.OUTDATED_RUN) or 0)
    steps = _merged(list(trash.steps(header.run)))
    for number, recorded in steps:
        row, step = _look(ws, recorded.path), recorded
        if is_outdated and step.base != row.remote:
            # Agreed on with a head that was lost: it must not make what comes back look like the bucket's.
            step = structs.replace(step, base=None)
        if row.remote is None:
            # What the bucket has no more is not dropped, but gone on both sides.
            step = structs.replace(step, was_dropped=False)
        back = Step(step.path, row.local, row.base, step.before, step.base)
        if row.local == step.before:
            if row.base != step.base:
                plan.base.append((row, step.base))
            if step.was_dropped:
                plan.dropped.append(step.path)
        elif row.local != step.after:
            # Not as the run left it. A step that was never taken left nothing to take back.
            if step.after is not None or number in stored:
                plan.changed.append(step.path)
        elif step.before is None:
            plan.away.append((row, step))
        elif number in stored:
            plan.back.append((number, row, back))
        else:
            plan.again.append((row, back))
    return plan


def _merged(steps: list[tuple[int, Step]]) -> Iterator[tuple[int, Step]]:
    """One step a path: a run that planned again may have touched it twice."""
    first: dict[Path, tuple[int, Step]] = {}
    last: dict[Path, Step] = {}
    for number, step in steps:
        first.setdefault(step.path, (number, step))
        last[step.path] = step
    for path in sorted(first):
        number, begun = first[path]
        ended = last[path]
        yield number, structs.replace(begun, after=ended.after, base_after=ended.base_after)


def _look(ws: Workspace, path: Path) -> Row:
    """A path as it is now: from the disk, with the base that the index has."""
    known = ws.index.row(path)
    stat = ws.worktree.lstat(path)
    if stat is not None and is_folder(stat):
        stat = None  # what is in it has paths of its own
    if stat is None:
        local = None
    elif (
        known is not None
        and known.clean == 1
        and known.stat is not None
        and known.local != UNREAD
        and ws.worktree.same_stat(known.stat, stat)
    ):
        local = known.local
    else:
        local = statcache.read_state(ws, path)
    return Row(path, stat, 0, local, known.base if known else None, known.remote if known else None)


def _bring_again(ws: Workspace, head: Head, landing: Landing, plan: _Plan, report: RunReport) -> None:
    """What is in the trash no more, and was dropped or evicted because the head holds it."""
    wanted = {step.path: (row, step) for row, step in plan.again}

    def entries() -> Iterator[Wanted]:
        for page in head.manifest.pages:
            if not any(page.first <= path <= page.last for path in wanted):
                continue
            for entry in ws.repository.load_page(page):
                asked = wanted.get(entry.path)
                if asked is not None and asked[1].after == entry.state:
                    del wanted[entry.path]
                    yield asked[0], entry

    bases = {step.path: step.base_after for _, step in plan.again}
    landing.bring(entries())
    report.damaged = damaged_files(landing.hurt)
    report.skipped += [
        (path, "its content is neither in the trash nor in the bucket's current state; see `restore --at`")
        for path in sorted(wanted)
    ]
    left = {*wanted, *landing.hurt, *landing.changed, *landing.skipped}
    brought = [path for path in bases if path not in left]
    landing.set_base([(_look(ws, path), bases[path]) for path in brought])
