"""Extract: write files of a snapshot into another folder, at their own paths. The tree stays as it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from manifest_sync.errors import UsageError
from manifest_sync.fetch import Hurt, damaged_files
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import Wanted, check_space, iter_windows, stage_entries
from manifest_sync.manifest import Manifest
from manifest_sync.model import Entry, EntryType, Path, State, display, file_state, is_below
from manifest_sync.observe import iter_entries
from manifest_sync.report import RunReport, describe
from manifest_sync.restore import not_in_snapshot
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import (
    Changing,
    Staged,
    TargetBlocked,
    TargetChanged,
    Unreadable,
    Vanished,
    Worktree,
)


def extract(
    ws: Workspace,
    manifest: Manifest,
    paths: Sequence[Path],
    target: Worktree,
    ours: Mapping[str, str],
    *,
    dry_run: bool = False,
) -> RunReport:
    """Write the files at or below ``paths`` of a snapshot into the folder of ``target``.

    What is there already is left as it is, and is a conflict unless it is the same.

    Args:
        ours: folders to which nothing is written, see `refuse_ours`.
        dry_run: only say what would be written.

    Raises:
        UsageError: the snapshot has nothing at one of the paths, or a file would lie in one of ``ours``.
        ManifestSyncError: anything else that stopped the run; every file is whole.
    """
    report = RunReport("restore", "", dry_run, to=target.root)
    report.snapshot, report.sequence = manifest.snapshot, manifest.sequence
    wanted = _wanted(ws, manifest, paths, target, report)
    place = os.path.join(os.fsencode(os.path.realpath(target.root)), b"")
    for _, entry in wanted:
        refuse_ours(place + entry.path, ours)
    if dry_run:
        report.new = len(wanted)
        report.actions = [describe(entry.path, "download") for _, entry in wanted]
        return report
    target.make_root()
    hurt: Hurt = {}
    ws.progress.begin("transfer", files=len(wanted))
    for window in iter_windows(wanted):
        check_space(target, window)
        with target.stage() as staging:
            entries = [entry for _, entry in window]
            staged = stage_entries(ws, ws.repository.store, staging, entries, hurt)
            staging.sync()
            for entry in entries:
                if entry.path not in hurt:
                    _write(target, entry, staged, report)
                ws.progress.advance("transfer", files=1)
            target.sync()
    ws.progress.end("transfer")
    report.damaged = damaged_files(hurt)
    return report


def refuse_ours(place: bytes, ours: Mapping[str, str]) -> None:
    """Refuse a place in one of the folders that only we write to.

    Args:
        place: absolute, with no symlink on the way.
        ours: what each of the folders is called, and its path.

    Raises:
        UsageError: it lies in one of them.
    """
    for what, folder in ours.items():
        if is_below(place, os.fsencode(os.path.realpath(folder))):
            raise UsageError(f"{display(place)} lies in {what} ({folder})", "name another folder with --to")


def _wanted(
    ws: Workspace, manifest: Manifest, paths: Sequence[Path], target: Worktree, report: RunReport
) -> list[Wanted]:
    wanted: list[Wanted] = []
    missing = dict.fromkeys(paths)
    for entry in iter_entries(ws.repository, manifest.pages, Scope(tuple(paths))):
        for path in [path for path in missing if is_below(entry.path, path)]:
            del missing[path]
        if target.lstat(entry.path) is None:
            wanted.append((Row(entry.path, *NOWHERE), entry))
        elif _state_at(target, entry) == entry.state:
            report.unchanged += 1
        else:
            report.conflicts.append(entry.path)
    for path in missing:
        raise not_in_snapshot(path, manifest)
    return wanted


def _write(target: Worktree, entry: Entry, staged: dict[Path, Staged], report: RunReport) -> None:
    try:
        if entry.type is EntryType.SYMLINK:
            target.replace_symlink(entry.target, entry.path, expected=None, keep_as="")
        else:
            file = staged[entry.path]
            mtime_ns, mode = entry.mtime_ns, entry.mode
            target.replace(file, entry.path, mtime_ns=mtime_ns, mode=mode, expected=None, keep_as="")
    except TargetChanged:
        report.conflicts.append(entry.path)
    except TargetBlocked as error:
        report.skipped.append((entry.path, error.reason))
    else:
        report.new += 1
        report.bytes += entry.size


def _state_at(target: Worktree, entry: Entry) -> State | None:
    try:
        if entry.type is EntryType.SYMLINK:
            return entry.state if target.read_link(entry.path) == entry.target else None
        return file_state(*target.hash_file(entry.path))
    except (Changing, Unreadable, Vanished):
        return None
