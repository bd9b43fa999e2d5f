"""Export: files of a snapshot as plain files somewhere else. The tree and the repository stay as they are.

the snapshot's entries at the paths → compare with the destination → fetch and verify → put in place → prune.

What is there already as it should be is not written again. That is known from the state of earlier exports
(see `export.state`), else by reading it; never from a size or a time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from manifest_sync import observe
from manifest_sync.errors import UsageError
from manifest_sync.export.destination import Destination, There, check_no_repository
from manifest_sync.export.state import Exported, iter_exported, write_exported
from manifest_sync.fetch import Hurt, damaged_files
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import Wanted, check_space, iter_windows, stage_entries
from manifest_sync.manifest import Manifest
from manifest_sync.model import Entry, Path, display, is_below
from manifest_sync.plan import check_limit, guard_deletions
from manifest_sync.report import RunReport, describe
from manifest_sync.restore import not_in_snapshot
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace

_OLD = "not pruned"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """One export, as asked for.

    Raises:
        UsageError: ``max_delete`` is neither a number nor a percentage.
    """

    scope: Scope
    prune: bool = False
    max_delete: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_limit(self.max_delete)


def export(
    ws: Workspace,
    manifest: Manifest,
    options: ExportOptions,
    destination: Destination,
    state: str,
    needed: Callable[[Sequence[Path]], frozenset[Path]],
) -> RunReport:
    """Make the destination hold the selected files of a snapshot.

    Args:
        state: where the state of this destination is kept.
        needed: which of some paths at the destination hold objects that the repository needs where they lie.

    Raises:
        UsageError: the snapshot has nothing at one of the paths, or it would destroy an adopted object.
        SafetyLimit: it would delete more than ``max_delete`` allows, or the disk is too small.
        ManifestSyncError: anything else that stopped the run; every file is whole, old or new.
    """
    report = RunReport("export", "", options.dry_run)
    report.snapshot, report.sequence = manifest.snapshot, manifest.sequence
    _Export(ws, manifest, options, destination, state, report, needed).run()
    report.skipped.sort()
    return report


class _Export:
    """One look at a snapshot and a destination, and what is done about it."""

    def __init__(
        self,
        ws: Workspace,
        manifest: Manifest,
        options: ExportOptions,
        destination: Destination,
        state: str,
        report: RunReport,
        needed: Callable[[Sequence[Path]], frozenset[Path]],
    ) -> None:
        self._ws = ws
        self._needed = needed
        self._manifest = manifest
        self._options = options
        self._to = destination
        self._state = state
        self._report = report
        self._write: dict[Path, There | None] = {}
        self._actions: dict[Path, str] = {}
        self._learned: dict[Path, tuple[str, str]] = {}
        """Identity and token of what is there as it should be and was not known to be."""
        self._sent: dict[Path, tuple[str, str]] = {}
        self._hurt: Hurt = {}

    def run(self) -> None:
        """Compare, then write and delete."""
        report, options = self._report, self._options
        selected = self._compare()
        away: list[Path] = []
        if options.prune:
            if not selected:
                raise UsageError(
                    f"nothing is selected, so --prune would delete everything at {self._to.name}",
                    "`manifest-sync ls` shows what there is to export",
                )
            present = list(self._to.others())
            away = sorted(path for path in present if path not in selected)
            check_no_repository(self._to.name, away)
            guard_deletions(report, len(away), len(present), options.max_delete)
        self._check_adopted([*(path for path, there in self._write.items() if there is not None), *away])
        report.deleted = len(away)
        if options.dry_run:
            actions = self._actions | dict.fromkeys(away, "delete")
            report.actions = [describe(path, actions[path]) for path in sorted(actions)]
            return
        gone: list[Path] = []
        try:
            failed = self._bring(self._write)
            if away and not self._hurt:
                kept = self._to.remove(away)
                report.skipped += kept.items()
                report.deleted -= len(kept)
                gone = [path for path in away if path not in kept]
                # A file where a folder has to be, or the other way round, was in the way.
                failed = self._bring({path: self._to.find(path) for path in failed})
            elif away:
                report.left[_OLD], report.deleted = len(away), 0
            self._give_up(failed)
        finally:
            tokens = self._to.finish({path: token for path, (_, token) in self._sent.items()})
            kept_tokens = {path: (self._sent[path][0], token) for path, token in tokens.items()}
            if self._learned or kept_tokens or gone:
                write_exported(self._state, self._to.name, self._learned | kept_tokens, gone)
        report.damaged = damaged_files(self._hurt)
        for path in self._hurt:
            self._uncount(path)

    def _compare(self) -> set[Path]:
        """Fill in what is to be written; all selected paths."""
        report = self._report
        selected: set[Path] = set()
        missing = set(self._options.scope.only)
        known = iter_exported(self._state, self._to.name)
        last: Exported | None = next(known, None)
        self._ws.progress.begin("scan")
        for entry in self._entries():
            path = entry.path
            missing = {one for one in missing if not is_below(path, one)}
            selected.add(path)
            self._ws.progress.advance("scan", files=1)
            reason = self._to.refuses(entry)
            if reason:
                report.skipped.append((path, reason))
                continue
            while last is not None and last.path < path:
                last = next(known, None)
            record = last if last is not None and last.path == path else None
            self._judge(entry, self._to.find(path), record)
        self._ws.progress.end("scan")
        if missing:
            raise not_in_snapshot(min(missing), self._manifest)
        return selected

    def _check_adopted(self, touched: Sequence[Path]) -> None:
        """An adopted object is the only copy that the repository has: it is neither replaced nor deleted."""
        needed = self._needed(touched)
        if needed:
            raise UsageError(
                f"{self._to.name} holds {len(needed)} adopted objects that this would replace or delete, "
                f"among them {display(min(needed))}; the bucket has their content nowhere else, and needs it "
                "for the snapshots that are kept",
                "export to a folder or a prefix of its own",
            )

    def _judge(self, entry: Entry, there: There | None, record: Exported | None) -> None:
        report, path, identity = self._report, entry.path, self._to.identity(entry)
        if there is None:
            report.new += 1
            self._actions[path] = "write"
        else:
            if record is not None and (record.identity, record.token) == (identity, there.token):
                report.unchanged += 1
                return
            is_held, token = self._to.holds(entry, there)
            if is_held:
                report.unchanged += 1
                self._learned[path] = identity, token
                return
            report.changed += 1
            self._actions[path] = "compare" if is_held is None else "replace"
        self._write[path] = there

    def _entries(self) -> Iterator[Entry]:
        return observe.iter_entries(self._ws.repository, self._manifest.pages, self._options.scope)

    def _bring(self, wanted: dict[Path, There | None]) -> dict[Path, str]:
        """Write files; what could not be written, with the reason."""
        failed: dict[Path, str] = {}
        if not wanted:
            return failed
        ws, report = self._ws, self._report
        self._to.worktree.make_root()
        ws.progress.begin("transfer", files=len(wanted))
        rows: Iterator[Wanted] = (
            (Row(entry.path, *NOWHERE), entry) for entry in self._entries() if entry.path in wanted
        )
        for window in iter_windows(rows):
            entries = [entry for _, entry in window]
            check_space(self._to.worktree, window)
            with self._to.worktree.stage() as staging:
                staged = stage_entries(ws, ws.repository.store, staging, entries, self._hurt)
                staging.sync()
                items = [(entry, wanted[entry.path]) for entry in entries if entry.path not in self._hurt]
                written = self._to.write(items, staged, lambda: ws.progress.advance("transfer", files=1))
            failed |= written.failed
            report.changed -= len(written.equal)
            report.unchanged += len(written.equal)
            self._note(entries, written.tokens, written.equal)
        ws.progress.end("transfer")
        return failed

    def _note(self, entries: Sequence[Entry], tokens: dict[Path, str], equal: set[Path]) -> None:
        for entry in entries:
            if entry.path in tokens:
                self._sent[entry.path] = self._to.identity(entry), tokens[entry.path]
                self._report.bytes += 0 if entry.path in equal else entry.size

    def _give_up(self, failed: dict[Path, str]) -> None:
        for path, reason in failed.items():
            self._report.skipped.append((path, reason))
            self._uncount(path)

    def _uncount(self, path: Path) -> None:
        if self._write[path] is None:
            self._report.new -= 1
        else:
            self._report.changed -= 1
