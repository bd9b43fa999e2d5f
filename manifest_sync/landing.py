"""Changing the tree: files are brought and taken away, each step recorded before it is taken.

The order is what makes it safe (P5, P7, P8). For some thousand paths at a time: fetch and verify into
temporary files, sync them once, write the steps into the run's record and sync it, note in the index where
the record goes on (the journal), look again at each target, move the old content to the trash and the new one
into place, sync, and record stat cache and base in one transaction. A kill anywhere leaves each path whole,
and `settle` finds out what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from msgspec.structs import replace

from manifest_sync import statcache
from manifest_sync.errors import ManifestSyncError, SafetyLimit
from manifest_sync.fetch import Hurt, MissingContent, fetch
from manifest_sync.index.index import Row
from manifest_sync.model import UNREAD, Entry, EntryType, Path, Stat, State
from manifest_sync.observe import JOURNAL
from manifest_sync.rootcheck import note_root
from manifest_sync.runrecord import Step
from manifest_sync.scope import Scope
from manifest_sync.stores.base import Store
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import (
    RunWriter,
    Staged,
    Staging,
    TargetBlocked,
    TargetChanged,
    Unreadable,
    Worktree,
)

WINDOW_FILES = 4096
WINDOW_BYTES = 256 * 1024 * 1024

Wanted = tuple[Row, Entry]
"""What is at a path now, and the entry that is to be there. The row's path is the one that is written."""

T = TypeVar("T")


@dataclass(slots=True)
class Landing:
    """One run's changes to the tree and to the base; a context manager that closes its record.

    ``command`` is what a person would type, for the record.
    """

    ws: Workspace
    command: str
    run: str = ""
    """Name of the run's folder in the trash; '' when nothing was done."""
    brought: int = 0
    removed: int = 0
    bytes: int = 0
    changed: list[Path] = field(default_factory=list)
    """Targets that were no longer what the plan saw: left as they are."""
    skipped: dict[Path, str] = field(default_factory=dict)
    hurt: Hurt = field(default_factory=dict)
    """What the bucket does not hold although the entries say so: not brought."""
    left: list[Row] = field(default_factory=list)
    """What was to be brought by this plan and was not, for any of these reasons."""
    kept: int = 0
    """How many files were to be taken away by this plan and were not."""
    is_open: bool = False
    _writer: RunWriter | None = None
    _wrote: bool = False

    @property
    def steps(self) -> int:
        """How many steps the run's record holds so far."""
        return self._writer.steps if self._writer is not None else 0

    def __enter__(self) -> Self:
        # With a base it was there when the run began: what vanished may come back, this is not it.
        if self.ws.worktree.make_root() and not self.ws.index.has_base():
            note_root(self.ws)
        self.ws.worktree.clean_staging()
        self.is_open = True
        return self

    def begin_plan(self) -> None:
        """What could not be done belongs to a plan, of which a run may carry out more than one."""
        self.hurt, self.left, self.kept = {}, [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def bring(self, wanted: Iterable[Wanted], *, becomes_base: bool = True) -> None:
        """Put entries in place, in the order given; what the bucket does not hold is noted in ``hurt``.

        Args:
            becomes_base: False: the base stays, so that what is brought counts as a local edit.

        Raises:
            SafetyLimit: the disk is too small for the next files.
            ManifestSyncError: the disk failed; every path is whole, old or new.
        """
        for window in iter_windows(wanted):
            known_changed = len(self.changed)
            check_space(self.ws.worktree, window)
            with self.ws.worktree.stage() as staging:
                staged = stage_entries(
                    self.ws, self.ws.repository.store, staging, [e for _, e in window], self.hurt
                )
                staging.sync()
                whole = [pair for pair in window if pair[1].path not in self.hurt]
                if whole:
                    self._place(whole, staged, becomes_base=becomes_base)
                changed = set(self.changed[known_changed:])
                left = (changed, self.skipped, self.hurt)
                self.left += [row for row, entry in window if any(entry.path in paths for paths in left)]

    def _place(self, window: Sequence[Wanted], staged: dict[Path, Staged], *, becomes_base: bool) -> None:
        steps = [
            Step(row.path, row.local, row.base, entry.state, entry.state if becomes_base else row.base)
            for row, entry in window
        ]

        def place(number: int, slot: str) -> Stat:
            row, entry = window[number]
            worktree = self.ws.worktree
            if entry.type is EntryType.SYMLINK:
                return worktree.replace_symlink(entry.target, row.path, expected=row.stat, keep_as=slot)[0]
            stat, _ = worktree.replace(
                staged[row.path],
                row.path,
                mtime_ns=entry.mtime_ns,
                mode=entry.mode,
                expected=row.stat,
                keep_as=slot,
            )
            self.bytes += entry.size
            return stat

        self.brought += self._take(steps, place, partial(self._record_landed, steps), "transfer")
        self._wrote = True

    def remove(
        self,
        rows: Sequence[Row],
        base_after: Callable[[Row], State | None] = lambda _: None,
        *,
        is_drop: bool = False,
    ) -> None:
        """Move files to the trash.

        Args:
            base_after: what becomes base of each; by default it is forgotten.
            is_drop: mark them beforehand, so that their absence is no deletion.
        """
        for start in range(0, len(rows), WINDOW_FILES):
            batch = rows[start : start + WINDOW_FILES]
            steps = [Step(row.path, row.local, row.base, None, base_after(row)) for row in batch]

            def take(number: int, slot: str, batch: Sequence[Row] = batch) -> None:
                row = batch[number]
                self.ws.worktree.remove(row.path, expected=row.stat, keep_as=slot)

            def record(done: list[tuple[int, None]], steps: Sequence[Step] = steps) -> None:
                self.ws.index.forget_local([steps[n].path for n, _ in done])
                self.ws.index.set_base((steps[n].path, steps[n].base_after) for n, _ in done)

            taken = self._take(steps, take, record, is_drop=is_drop)
            self.removed += taken
            self.kept += len(batch) - taken

    def put_back(self, source: str, back: Sequence[tuple[int, Row, Step]]) -> None:
        """Put back what an earlier run took away.

        Args:
            source: that run.
            back: the number of the step there, what is at the path now, and the step that undoes it.
        """
        for start in range(0, len(back), WINDOW_FILES):
            batch = back[start : start + WINDOW_FILES]
            steps = [step for _, _, step in batch]

            def place(number: int, slot: str, batch: Sequence[tuple[int, Row, Step]] = batch) -> Stat:
                kept, row, step = batch[number]
                worktree = self.ws.worktree
                return worktree.put_back(source, kept, step.path, expected=row.stat, keep_as=slot)[0]

            self.brought += self._take(steps, place, partial(self._record_landed, steps))
        self._wrote = self._wrote or bool(back)

    def _record_landed(self, steps: Sequence[Step], done: list[tuple[int, Stat]]) -> None:
        """What was put in place, by the number of its step; `finish` confirms what is not to be read."""
        taken = ((steps[number], stat) for number, stat in done)
        self.ws.index.put_landed(
            (step.path, stat, step.after, 0 if step.after == UNREAD else 2, step.base_after)
            for step, stat in taken
        )
        statcache.distrust_above(self.ws, (steps[number].path for number, _ in done))

    def set_base(self, changes: Sequence[tuple[Row, State | None]]) -> None:
        """Change the base alone; the files stay as they are."""
        if changes:
            self._note([Step(row.path, row.local, row.base, row.local, base) for row, base in changes])
            self.ws.index.set_base((row.path, base) for row, base in changes)

    def finish(self, scope: Scope) -> None:
        """Trust what was written: once the filesystem's clock has moved on, an unmoved stat proves that it is
        what is there, so that a pull is not followed by reading everything."""
        if self._wrote:
            self.ws.worktree.tick()
            statcache.scan(self.ws, scope, confirm=True)

    def _note(self, steps: Sequence[Step]) -> tuple[RunWriter, int]:
        if self._writer is None:
            self._writer = self.ws.worktree.begin_run(self.command, self.ws.timestamp())
            self.run = self._writer.run
        return self._writer, self._writer.note(steps)

    def _marked(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The steps with what is known of drops: `undo` must not make a deletion of one."""
        absent = [step.path for step in steps if step.before is None]
        if not absent:
            return steps
        dropped = set(self.ws.index.iter_dropped([(min(absent), max(absent) + b"\0")]))
        return [replace(step, was_dropped=True) if step.path in dropped else step for step in steps]

    def _take(
        self,
        steps: Sequence[Step],
        take: Callable[[int, str], T],
        record: Callable[[list[tuple[int, T]]], None],
        stage: str = "",
        *,
        is_drop: bool = False,
    ) -> int:
        """Record the steps, take each, and record what came of it; how many were taken."""
        index = self.ws.index
        writer, first = self._note(self._marked(steps))
        with index.transaction():
            index.set_meta(JOURNAL, f"{self.run} {first}")
            if is_drop:
                index.drop(step.path for step in steps)
        done: list[tuple[int, T]] = []
        is_over = False
        try:
            for number, step in enumerate(steps):
                try:
                    result = take(number, writer.slot(first + number))
                except TargetChanged:
                    self.changed.append(step.path)
                except TargetBlocked as error:
                    self.skipped[step.path] = error.reason
                else:
                    done.append((number, result))
                    if stage:
                        self.ws.progress.advance(stage, files=1)
            is_over = True
        finally:
            # Also when the disk fills up half-way: what was done is recorded, its old content too.
            self.ws.worktree.sync()
            with index.transaction():
                record(done)
                # Interrupted, a step may have been taken that is not among those: `settle` finds out.
                if is_over:
                    index.set_meta(JOURNAL, None)
        return len(done)


def settle(ws: Workspace) -> None:
    """A run that was killed between its steps and their record: what is on disk as meant gets its base.

    Beside a run that holds the lock, and may be in the midst of its steps, only the base in the copy of the
    index is brought up to date: what that run has moved to the trash is its own.

    Raises:
        ManifestSyncError: the disk refused to let go of what the run had begun.
    """
    noted = ws.index.get_meta(JOURNAL)
    if noted is None:
        return
    run, _, first = noted.partition(" ")
    trash = ws.worktree.trash()
    try:
        steps = list(trash.steps(run, int(first)))
    except (ManifestSyncError, OSError):
        # The record went with the trash: then nothing is known, and nothing is assumed.
        steps = []
    done: list[tuple[Path, State | None]] = []
    kept: list[Path] = []
    begun: list[int] = []
    is_clear = True
    for number, step in steps:
        try:
            found = statcache.read_state(ws, step.path)
        except (ManifestSyncError, Unreadable):
            # Nothing is known of this one; the next command looks again.
            is_clear = False
            continue
        if found == step.after:
            done.append((step.path, step.base_after))
        elif found is not None:
            kept.append(step.path)
            if found == step.before != UNREAD or trash.shares(run, number, step.path):
                begun.append(number)
    if ws.holds_lock:
        for number in begun:
            # A second name of what still is at the path: the kill came before the new content did.
            trash.discard(run, number)
        for path, _ in done:
            if ws.worktree.lstat(path) is None:
                ws.worktree.prune(path)
    with ws.index.transaction():
        ws.index.set_base(done)
        # A drop that did not come to this file: it was never out of the way.
        ws.index.undrop(kept)
        if is_clear:
            ws.index.set_meta(JOURNAL, None)


def iter_windows(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Some thousand files, or some hundred megabytes, at a time."""
    window: list[Wanted] = []
    size = 0
    for pair in wanted:
        window.append(pair)
        size += pair[1].size
        if len(window) >= WINDOW_FILES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def check_space(worktree: Worktree, window: Sequence[Wanted]) -> None:
    """Raises `SafetyLimit` unless the disk holds the next files beside those they replace."""
    needed = sum(entry.size for _, entry in window)
    free = worktree.free_bytes()
    if needed > free:
        raise SafetyLimit(
            f"{worktree.root}: not enough space: {needed} bytes are needed next, {free} are free",
            "free some space and run the same command again; it carries on where it stopped",
        )


def stage_entries(
    ws: Workspace, store: Store, staging: Staging, entries: Sequence[Entry], hurt: Hurt
) -> dict[Path, Staged]:
    """The contents of ``entries`` as temporary files, each chunk and each whole file verified (P17).

    Args:
        hurt: gets what the bucket does not hold; those have no file.

    Raises:
        ManifestSyncError: the disk is full or failed.
    """
    staged: dict[Path, Staged] = {}
    left: dict[Path, int] = {}
    for entry in entries:
        left[entry.path] = len(entry.chunks)
        if entry.type is EntryType.FILE and not entry.chunks:
            staged[entry.path] = staging.create()
            staged[entry.path].close()
    for piece in fetch(store, entries, jobs=ws.jobs, hurt=hurt):
        path = piece.entry.path
        if path in hurt:
            continue
        file = staged.get(path)
        if file is None:
            file = staged[path] = staging.create()
        if len(piece.entry.chunks) > 1:
            file.write_piece(piece.offset, piece.data)
        else:
            file.write_at(piece.offset, piece.data)
        ws.progress.advance("transfer", bytes_=len(piece.data))
        left[path] -= 1
        if not left[path]:
            if len(piece.entry.chunks) > 1 and file.hash() != piece.entry.hash:
                hurt[path] = MissingContent(path, "its page", "the chunks do not make up the file's hash")
            file.close()
    for path in hurt:
        if path in staged:
            staged.pop(path).close()
    return staged
