"""Restore: bring files of a snapshot back, into the tree or into another folder. The base is not touched.

find the snapshot → its entries at the paths → compare with what is here → fetch, verify, replace.

What a restore brings back counts as a local edit, which a push sends like any other; what it replaces goes to
the trash. ``pull --at`` is the same for a scope and with a mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manifest_sync import observe, statcache
from manifest_sync.errors import UsageError
from manifest_sync.fetch import damaged_files
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import Landing, Wanted, settle
from manifest_sync.manifest import Manifest
from manifest_sync.model import UNREAD, Entry, Path, display, file_state
from manifest_sync.plan import check_limit, guard_deletions
from manifest_sync.report import RunReport, describe
from manifest_sync.scope import Scope
from manifest_sync.statcache import Observed, folders_above
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Changing, Unreadable, Vanished


def restore(ws: Workspace, manifest: Manifest, paths: Sequence[Path], *, dry_run: bool = False) -> RunReport:
    """Bring the files at or below ``paths`` back as they were in a snapshot; nothing is deleted.

    Raises:
        UsageError: no path, or the snapshot has nothing at one of them.
        ManifestSyncError: anything else that stopped the run; every path is whole.
    """
    if not paths:
        raise UsageError("restore needs a path", "to bring everything back use `pull --at SNAPSHOT --copy`")
    report = RunReport("restore", "", dry_run)
    _Rewind(ws, manifest, Scope(tuple(paths)), report, f"restore --at {manifest.sequence}").run(
        "copy", must_have=paths
    )
    return report


def pull_at(
    ws: Workspace,
    manifest: Manifest,
    scope: Scope,
    mode: str,
    *,
    named: Sequence[Path] = (),
    delete_unknown: bool = False,
    dry_run: bool = False,
    max_delete: str | None = None,
) -> RunReport:
    """Make the tree like a snapshot, as far as the mode goes; what is ``named`` and nowhere is skipped.

    ``new`` brings what is not here, ``copy`` also what differs, ``full`` moves to the trash what the snapshot
    does not have and the bucket knows; with ``delete_unknown`` also what it does not.

    Raises:
        UsageError: ``max_delete`` is neither a number nor a percentage.
        SafetyLimit: it would delete more than ``max_delete`` allows.
        ManifestSyncError: anything else that stopped the run; every path is whole.
    """
    check_limit(max_delete)
    report = RunReport("pull", mode, dry_run)
    rewind = _Rewind(ws, manifest, scope, report, f"pull --{mode} --at {manifest.sequence}")
    rewind.run(mode, named=named, delete_unknown=delete_unknown, max_delete=max_delete)
    if not dry_run and (report.changed or report.deleted):
        ws.progress.note(
            "what differs from the current state counts as changed here now: `push --copy` or `sync` would "
            f"send these files of sequence {manifest.sequence}; `undo` takes this pull back"
        )
    return report


class _Rewind:
    """One look at a snapshot and the tree, and what is done about it."""

    def __init__(
        self, ws: Workspace, manifest: Manifest, scope: Scope, report: RunReport, command: str
    ) -> None:
        self._ws = ws
        self._manifest = manifest
        self._scope = scope
        self._report = report
        self._landing = Landing(ws, command)
        self._observed: Observed
        self._dropped: frozenset[Path] = frozenset()
        self._missing: set[Path] = set()
        """Paths asked for at which the snapshot has shown nothing yet."""

    def run(
        self,
        mode: str,
        *,
        must_have: Sequence[Path] = (),
        named: Sequence[Path] = (),
        delete_unknown: bool = False,
        max_delete: str | None = None,
    ) -> None:
        """Compare, then bring and take away."""
        ws, report = self._ws, self._report
        observe.check_root(ws)
        settle(ws)
        self._observed = statcache.scan(ws, self._scope)
        if not must_have:
            # Only naming them brings them back.
            self._dropped = frozenset(ws.index.iter_dropped(self._scope.ranges()))
        self._missing = {*must_have, *named}
        bring: set[Path] = set()
        away: list[Row] = []
        here = 0
        for row, entry in self._pairs():
            here += row.local is not None
            self._decide(row, entry, mode, bring, away, delete_unknown=delete_unknown)
        if must_have and self._missing:
            raise not_in_snapshot(min(self._missing), self._manifest)
        report.nowhere = [path for path in self._missing if observe.is_nowhere(ws, path)]
        if away:
            guard_deletions(report, len(away), here, max_delete)
        report.deleted = len(away)
        report.snapshot, report.sequence = self._manifest.snapshot, self._manifest.sequence
        if report.dry_run:
            verbs: dict[Path, str] = {row.path: "trash" for row in away}
            verbs.update(dict.fromkeys(bring, "download"))
            report.actions = [describe(path, verbs[path]) for path in sorted(verbs)]
        elif bring or away:
            self._act(bring, away)
        report.note_skipped({**self._observed.skipped, **self._landing.skipped})
        report.conflicts = sorted(self._landing.changed)
        report.damaged = damaged_files(self._landing.hurt)
        new = sum(row.local is None for row in self._landing.left)
        report.new -= new
        report.changed -= len(self._landing.left) - new
        report.deleted -= self._landing.kept
        report.bytes, report.run = self._landing.bytes, self._landing.run

    def _decide(
        self,
        row: Row,
        entry: Entry | None,
        mode: str,
        bring: set[Path],
        away: list[Row],
        *,
        delete_unknown: bool,
    ) -> None:
        report = self._report
        if entry is None:
            if row.local is None:
                return
            is_known = row.base is not None or row.remote is not None
            if mode == "full" and (is_known or delete_unknown):
                away.append(row)
            else:
                report.left["new_here"] = report.left.get("new_here", 0) + 1
        elif row.local == entry.state:
            report.unchanged += 1
        elif row.path in self._dropped:
            report.left["dropped"] = report.left.get("dropped", 0) + 1
        elif row.local is None:
            report.new += 1
            bring.add(row.path)
        elif mode == "new":
            report.left["changed_here"] = report.left.get("changed_here", 0) + 1
        else:
            report.changed += 1
            bring.add(row.path)

    def _pairs(self) -> Iterator[tuple[Row, Entry | None]]:
        """Every path of the scope that is here or in the snapshot, in path order, with its content known."""
        rows = (row for row in self._ws.index.iter_rows(self._scope.ranges()) if row.local is not None)
        row = next(rows, None)
        for entry in self._entries():
            while row is not None and row.path < entry.path:
                yield from self._seen(row, None)
                row = next(rows, None)
            if row is not None and row.path == entry.path:
                yield from self._seen(row, entry)
                row = next(rows, None)
            else:
                yield from self._seen(self._ws.index.row(entry.path) or Row(entry.path, *NOWHERE), entry)
        while row is not None:
            yield from self._seen(row, None)
            row = next(rows, None)

    def _seen(self, row: Row, entry: Entry | None) -> Iterator[tuple[Row, Entry | None]]:
        if entry is not None and self._missing:
            self._missing.difference_update((entry.path, *folders_above(entry.path), Path(b"")))
        if not self._scope.contains(row.path) or self._observed.is_hidden(row.path):
            return
        verdict = self._ws.ownership.verdict(row.path)
        if not verdict.is_ours:
            if entry is not None:
                self._observed.skipped[row.path] = (
                    f"it is left out here ({verdict.rule}); `restore --to DIR` writes it elsewhere"
                )
            return
        if row.local == UNREAD and entry is not None:
            try:
                row = row._replace(local=file_state(*self._ws.worktree.hash_file(row.path)))
            except Vanished:
                row = row._replace(stat=None, local=None)
            except (Changing, Unreadable) as error:
                self._observed.skipped[row.path] = error.reason
                return
        yield row, entry

    def _entries(self) -> Iterator[Entry]:
        regions = self._scope.ranges()
        pages = [page for page in self._manifest.pages if observe.touches(page, regions)]
        for _, entries in self._ws.repository.load_pages(pages):
            for entry in entries:
                if any(low <= entry.path < high for low, high in regions):
                    yield entry

    def _act(self, bring: set[Path], away: list[Row]) -> None:
        ws = self._ws

        def wanted() -> Iterator[Wanted]:
            for entry in self._entries():
                if entry.path in bring:
                    row = ws.index.row(entry.path) or Row(entry.path, *NOWHERE)
                    yield row, entry

        ws.progress.begin("transfer", files=len(bring))
        with self._landing as landing:
            landing.remove(away, lambda row: row.base)
            landing.bring(wanted(), becomes_base=False)
            landing.finish(self._scope)
        ws.progress.end("transfer")


def not_in_snapshot(path: Path, manifest: Manifest) -> UsageError:
    """The error for a path that a snapshot does not have."""
    return UsageError(
        f"{display(path)} is not in snapshot {manifest.sequence}",
        "`manifest-sync ls --at SNAPSHOT` lists what is; `manifest-sync log` lists the snapshots",
    )
