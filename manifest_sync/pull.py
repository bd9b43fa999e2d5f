"""Pull: the other side's changes come to this tree.

load head → scan → diff → plan (a dry run stops here) → trash → fetch and verify → replace → record base.
"""

from __future__ import annotations

from collections.abc import Iterator

from manifest_sync import observe
from manifest_sync.decide import Decision, RunOptions, decide
from manifest_sync.errors import Damaged, SafetyLimit
from manifest_sync.fetch import MissingContent, fetch
from manifest_sync.index import Row
from manifest_sync.model import Entry, EntryType, Path, Stat, display
from manifest_sync.plan import Verb
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Staged, Staging, TargetBlocked, TargetChanged

MAX_PLANS = 3
WINDOW_FILES = 4096
WINDOW_BYTES = 256 * 1024 * 1024

Wanted = tuple[Row, Entry]


def pull(ws: Workspace, options: RunOptions) -> RunReport:
    """Bring the bucket's changes into the tree; what they replace goes to the trash.

    Raises:
        SafetyLimit: it would delete more than ``max_delete`` allows, or the disk is too small.
        Damaged: the bucket does not hold what its head names.
        ManifestSyncError: anything else that stopped the run; every path is whole, old or new.
    """
    report = RunReport("pull", options.policy.mode, options.dry_run)
    observe.check_root(ws)
    observe.settle_intents(ws)
    head = observe.load_head(ws)
    observed = observe.scan(ws, options.scope, checksum=options.checksum)
    changed_meanwhile: list[Path] = []
    for plans in range(1, MAX_PLANS + 1):
        decision = decide(ws, head, options, observed, report)
        if options.dry_run or not decision.summary.acts:
            break
        try:
            _Puller(decision, head, report, changed_meanwhile).run()
            break
        except MissingContent as missing:
            # A collection may have moved what this plan wanted; then there is another head by now.
            latest = observe.load_head(ws)
            if latest.etag == head.etag or plans == MAX_PLANS:
                raise missing.as_damage(ws.repository.store.location) from None
            head = latest
    report.conflicts = sorted({*report.conflicts, *changed_meanwhile})
    report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    report.skipped = sorted(observed.skipped.items())
    report.missed = observed.missed
    return report


class _Puller:
    """Carries out one plan."""

    def __init__(self, decision: Decision, head: Head, report: RunReport, changed: list[Path]) -> None:
        self._decision = decision
        self._ws = decision.ws
        self._head = head
        self._report = report
        self._changed = changed
        self._run = f"{self._ws.now():%Y%m%dT%H%M%SZ}-{self._ws.random_bytes(3).hex()}"
        self._written = False

    def run(self) -> None:
        ws = self._ws
        ws.worktree.make_root()
        ws.worktree.clean_staging()
        settled = [(row.path, row.remote) for row in self._decision.rows(Verb.TAKE_REMOTE_BASE)]
        self._delete()
        ws.progress.begin("transfer", files=self._decision.summary.verbs.get(Verb.DOWNLOAD, 0))
        for window in self._windows():
            self._land(window)
        ws.progress.end("transfer")
        # Last, because the plan is read from the index: settled any sooner, a conflict would look like an
        # ordinary change to the steps above.
        ws.index.set_base(settled)
        if self._written:
            # Once the filesystem's clock has moved on, an unmoved stat proves that what was written is
            # what is there: a pull is not followed by reading everything.
            ws.worktree.tick()
            observe.scan(ws, self._decision.options.scope, confirm=True)

    def _delete(self) -> None:
        rows = list(self._decision.rows(Verb.DELETE_LOCAL))
        if not rows:
            return
        index = self._ws.index
        index.put_intents([(row.path, None) for row in rows])
        trashed: list[tuple[Row, str]] = []
        try:
            for row in rows:
                try:
                    stored = self._ws.worktree.remove(row.path, expected=row.stat, run=self._run)
                except TargetChanged:
                    self._changed.append(row.path)
                except TargetBlocked as error:
                    self._decision.observed.skipped[row.path] = error.reason
                else:
                    trashed.append((row, stored))
        finally:
            self._ws.worktree.sync()
            with index.transaction():
                index.add_trash((self._run, row.path, stored, row.local, row.base) for row, stored in trashed)
                index.set_base((row.path, None) for row, _ in trashed)
                index.forget_local([row.path for row, _ in trashed])
                index.clear_intents()

    def _windows(self) -> Iterator[list[Wanted]]:
        """What is downloaded, in path order, some thousand files at a time."""
        window: list[Wanted] = []
        size = 0
        for wanted in self._wanted():
            window.append(wanted)
            size += wanted[1].size
            if len(window) >= WINDOW_FILES or size >= WINDOW_BYTES:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _wanted(self) -> Iterator[Wanted]:
        """The rows to download with their entries; only pages that hold one of them are opened."""
        rows = self._decision.rows(Verb.DOWNLOAD)
        row = next(rows, None)
        for page in self._head.manifest.pages:
            if row is None:
                return
            if row.path > page.last:
                continue
            for entry in self._ws.repository.load_page(page):
                if row is not None and entry.path == row.path:
                    yield row, entry
                    row = next(rows, None)
        if row is not None:
            raise Damaged(
                f"{display(row.path)} is in no page of the head", "run `manifest-sync rebuild-index`"
            )

    def _land(self, window: list[Wanted]) -> None:
        """Fetch a window into temporary files, sync them once, and rename them into place."""
        ws = self._ws
        needed = sum(entry.size for _, entry in window)
        if needed > ws.worktree.free_bytes():
            raise SafetyLimit(
                f"{ws.worktree.root}: not enough space: {needed} bytes are needed next, "
                f"{ws.worktree.free_bytes()} are free",
                "free some space and run the same command again; it carries on where it stopped",
            )
        with ws.worktree.stage() as staging:
            staged = self._fill(staging, window)
            staging.sync()
            self._place(window, staged)

    def _fill(self, staging: Staging, window: list[Wanted]) -> dict[Path, Staged]:
        ws = self._ws
        staged: dict[Path, Staged] = {}
        left: dict[Path, int] = {}
        for _, entry in window:
            left[entry.path] = len(entry.chunks)
            if entry.type is EntryType.FILE and not entry.chunks:
                staged[entry.path] = staging.create()
                staged[entry.path].close()
        for piece in fetch(ws.repository.store, [entry for _, entry in window], jobs=ws.jobs):
            path = piece.entry.path
            file = staged.get(path)
            if file is None:
                file = staged[path] = staging.create()
            file.write_at(piece.offset, piece.data)
            ws.progress.advance("transfer", bytes_=len(piece.data))
            left[path] -= 1
            if not left[path]:
                if len(piece.entry.chunks) > 1 and file.hash() != piece.entry.hash:
                    raise MissingContent(path, "its page", "the chunks do not make up the file's hash")
                file.close()
        return staged

    def _place(self, window: list[Wanted], staged: dict[Path, Staged]) -> None:
        ws, index = self._ws, self._ws.index
        index.put_intents([(entry.path, entry.state) for _, entry in window])
        placed: list[tuple[Row, Entry, Stat, str | None]] = []
        try:
            for row, entry in window:
                try:
                    stat, stored = self._replace(row, entry, staged)
                except TargetChanged:
                    self._changed.append(entry.path)
                except TargetBlocked as error:
                    self._decision.observed.skipped[entry.path] = error.reason
                else:
                    placed.append((row, entry, stat, stored))
                    self._report.bytes += entry.size
                    ws.progress.advance("transfer", files=1)
        finally:
            # Also when the disk fills up half-way: what was replaced is recorded, its old content too.
            ws.worktree.sync()
            with index.transaction():
                index.put_local((entry.path, stat, entry.state, 2) for _, entry, stat, _ in placed)
                index.set_base((entry.path, entry.state) for _, entry, _, _ in placed)
                index.add_trash(
                    (self._run, row.path, stored, row.local, row.base)
                    for row, _, _, stored in placed
                    if stored is not None
                )
                index.clear_intents()
        self._written = self._written or bool(placed)

    def _replace(self, row: Row, entry: Entry, staged: dict[Path, Staged]) -> tuple[Stat, str | None]:
        worktree = self._ws.worktree
        if entry.type is EntryType.SYMLINK:
            return worktree.replace_symlink(entry.target, entry.path, expected=row.stat, run=self._run)
        return worktree.replace(
            staged[entry.path],
            entry.path,
            mtime_ns=entry.mtime_ns,
            mode=entry.mode,
            expected=row.stat,
            run=self._run,
        )
