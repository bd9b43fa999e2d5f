"""A project: a folder with ``manifest-sync.toml``, its local state, and the commands on it.

Operations are imported where they are called: a push with nothing to do must not pay for the others.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from manifest_sync.decide import RunOptions, run_options
from manifest_sync.errors import ManifestSyncError, UsageError
from manifest_sync.model import Path
from manifest_sync.observe import load_head, note_nowhere
from manifest_sync.project_start import ProjectStart
from manifest_sync.report import RunReport, StatusReport, SyncReport
from manifest_sync.scope import Scope, parse_scope
from manifest_sync.selection import Selection, write_selection
from manifest_sync.workspace import Workspace

if TYPE_CHECKING:
    from manifest_sync.adopt.report import AdoptReport
    from manifest_sync.manifest import Manifest
    from manifest_sync.tracking import TrackReport
    from manifest_sync.trash import EmptyReport, RunTrash
    from manifest_sync.watch import Teller, WatchOptions, WatchReport


class Project(ProjectStart):
    """One project and its commands.

    Made by `Project.find` or `Project.init`; every command opens and locks the local state for itself.
    """

    def push(self, mode: str | None = None, groups: Sequence[str] = (), **options: object) -> RunReport:
        """Send this side's changes; see `decide.run_options` for the other options.

        Args:
            mode: ``new``, ``copy`` or ``full``; default: what the configuration says.
            groups: names of groups that are else left out.
        """
        from manifest_sync.push import push

        return self._run("push", push, mode or self.config.push, groups, options)

    def pull(self, mode: str | None = None, groups: Sequence[str] = (), **options: object) -> RunReport:
        """Bring the bucket's changes here; see `push`."""
        from manifest_sync.pull import pull

        return self._run("pull", pull, mode or self.config.pull, groups, options)

    def sync(
        self, *, groups: Sequence[str] = (), checksum: bool = False, message: str = "", **options: Any
    ) -> SyncReport:
        """Bring what is new and changed in the bucket, then send what is new and changed here; nothing is
        deleted on either side. See `decide.run_options` for the options of scope, and ``dry_run``.

        Args:
            groups: names of groups that are else left out.
            checksum: read every local file again.
            message: recorded with the snapshot.
        """
        from manifest_sync.pull import pull
        from manifest_sync.push import push

        bring = self._options("pull", "copy", {**options, "checksum": checksum})
        send = self._options("push", "copy", {**options, "message": message})
        with self.workspace(tuple(groups)) as ws:
            pulled = self._timed(ws, lambda: pull(ws, bring))
            try:
                pushed = self._timed(ws, lambda: push(ws, send))
            except ManifestSyncError as error:
                # What the pull did is done, and must be told.
                return SyncReport(pulled, RunReport("push", "copy", send.dry_run), error)
            _point_out(ws, send)
        return SyncReport(pulled, pushed)

    def watch(
        self,
        options: WatchOptions,
        teller: Teller,
        stopping: Callable[[], bool],
        *,
        mode: str = "copy",
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        groups: Sequence[str] = (),
        message: str = "",
    ) -> WatchReport:
        """Push what is new and changed as it comes to rest, until ``stopping``; see `watch.Watch`.

        Between two pushes no lock is held, so that other commands can run.

        Args:
            mode: ``copy``, or ``new`` to leave changed files alone; nothing is ever deleted.

        Raises:
            UsageError: another mode.
        """
        from manifest_sync.push import push
        from manifest_sync.selection import common
        from manifest_sync.settle import Settle
        from manifest_sync.watch import Watch, hint_filter
        from manifest_sync.worktree.events import Events, no_events

        if mode not in ("new", "copy"):
            raise UsageError(f"watch does not delete, so there is no --{mode}", "use --new or --copy")
        given = {"only": only, "exclude": exclude, "message": message}
        whole = run_options("push", mode, self.config, **given)  # type: ignore[arg-type]
        settle = Settle(round(options.settle * 1e9), self.config.trust_ctime)

        def push_some(paths: tuple[Path, ...] | None) -> RunReport:
            # Asked each time, because `track` may have changed what this machine looks at.
            asked = self._options("push", mode, given)
            scope = asked.scope
            if paths is not None:
                scope = Scope(common(paths, scope.only), scope.exclude)
                if not scope.only:
                    return RunReport("push", mode)
            with self.workspace(tuple(groups)) as ws:
                return self._timed(ws, lambda: push(ws, replace(asked, scope=scope, settle=settle, named=())))

        ownership, warning = self._ownership(tuple(groups))
        if warning:
            teller.note(warning)
        with Events(
            self.root, hint_filter(whole.scope, ownership), no_events(self.root, self._env)
        ) as events:
            return Watch(
                options,
                push_some,
                events,
                teller,
                stopping=stopping,
                clock=time.monotonic,
                wait=time.sleep,
                jitter=lambda ceiling: ceiling * secrets.randbelow(1000) / 1000,
            ).run()

    def pull_at(
        self,
        at: str,
        mode: str | None = None,
        *,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        groups: Sequence[str] = (),
        **options: Any,
    ) -> RunReport:
        """Make the tree like a snapshot, as far as the mode goes; see `restore.pull_at`. The base stays."""
        from manifest_sync.restore import pull_at

        named = self.scope(only).only
        scope = self.tracked_scope(Scope(named, tuple(exclude)))
        mode = mode or self.config.pull
        with self.workspace(tuple(groups)) as ws:
            manifest = self._snapshot(ws, at)
            return self._timed(ws, lambda: pull_at(ws, manifest, scope, mode, named=named, **options))

    def restore(
        self, paths: Sequence[str], at: str = "", to: str = "", *, dry_run: bool = False
    ) -> RunReport:
        """Bring files of a snapshot (default: the head) back into the tree, or write them into the folder
        ``to``. What is replaced goes to the trash; the base stays.

        Raises:
            UsageError: ``to`` is in the local state or the bucket, or something else is wrong with a word.
        """
        from manifest_sync.extract import extract, refuse_ours
        from manifest_sync.restore import restore

        wanted = parse_scope(paths, self.config.root)
        with self.workspace(tuple(self.config.groups)) as ws:
            manifest = self._snapshot(ws, at)
            if not to:
                return self._timed(ws, lambda: restore(ws, manifest, wanted, dry_run=dry_run))
            ours = self._own_folders()
            refuse_ours(os.fsencode(os.path.realpath(to)), ours)
            with self.other_folder(to, dry_run=dry_run) as target:
                return self._timed(ws, lambda: extract(ws, manifest, wanted, target, ours, dry_run=dry_run))

    def _own_folders(self) -> dict[str, str]:
        """The folders whose content is ours alone, by what they are called."""
        bucket = self.location()
        folders = {"the local state": self.state_dir()}
        return {**folders, "the bucket": bucket.path} if bucket.scheme == "file" else folders

    def adopt(
        self,
        url: str,
        *,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        groups: Sequence[str] = (),
        dry_run: bool = False,
        message: str = "",
        base: str = "",
    ) -> AdoptReport:
        """Take over, where they lie, the objects that other tools have put below ``url``; see `adopt.adopt`.

        Args:
            url: what corresponds to the root: ``s3://bucket/prefix`` at the configured endpoint, a remote of
                rclone.conf at the same endpoint, or a folder if the bucket is a folder too.
            base: what a relative folder is relative to (default: the project's folder).

        Raises:
            UsageError: ``url`` cannot be read by everybody who reads the bucket, or overlaps with the tree.
        """
        from manifest_sync.adopt.adopt import AdoptOptions, adopt
        from manifest_sync.adopt.source import check_apart, find_source

        folder = base or self.config.project_dir
        source = find_source(url, self.location(), self.environment(), folder, self.config.region)
        check_apart(source, self.root, self.state_dir())
        scope = self.tracked_scope(Scope(self.scope(only).only, tuple(exclude)))
        options = AdoptOptions(scope, dry_run, message)
        with self.workspace(tuple(groups)) as ws:
            return self._timed(ws, lambda: adopt(ws, source, options))

    def drop(self, paths: Sequence[str], *, dry_run: bool = False) -> RunReport:
        """Remove local copies that the bucket holds, without that counting as a deletion."""
        from manifest_sync.drop import drop

        wanted = parse_scope(paths, self.config.root)
        with self.workspace(tuple(self.config.groups)) as ws, self._selection_kept(ws):
            return self._timed(ws, lambda: drop(ws, wanted, dry_run=dry_run))

    def track(self, paths: Sequence[str], *, everything: bool = False) -> TrackReport:
        """Add paths to what this machine looks at, and let the next pull bring back what was dropped of them.

        Args:
            everything: select all there is instead.
        """
        from manifest_sync.tracking import TrackReport, track

        if everything:
            if paths:
                raise UsageError("PATH and --all exclude each other", "use one of them")
            write_selection(self.state_dir(), ())
            return TrackReport("track", ())
        wanted = parse_scope(paths, self.config.root)
        return self._select(wanted, track) if wanted else TrackReport("track", self.selection())

    def untrack(self, paths: Sequence[str]) -> TrackReport:
        """Take paths out of what this machine looks at; the files stay, here and in the bucket."""
        from manifest_sync.tracking import untrack

        return self._select(parse_scope(paths, self.config.root), untrack)

    def _select(
        self,
        paths: Sequence[Path],
        change: Callable[[Workspace, Selection, Sequence[Path]], TrackReport],
    ) -> TrackReport:
        with self.workspace(tuple(self.config.groups)) as ws:
            report = change(ws, self.selection(), paths)
            write_selection(self.state_dir(), report.selection)
        return report

    @contextmanager
    def _selection_kept(self, ws: Workspace) -> Iterator[None]:
        """Around a command that is not bounded by the selection: outside of it there is no base afterwards
        either, or an absence there would count as a deletion once it is selected again (P12)."""
        selection = self.selection()
        try:
            yield
        finally:
            if selection:
                ws.index.forget_base_outside(Scope(selection).ranges())

    def undo(self, run: str = "") -> RunReport:
        """Take back what a pull, restore or drop did; default: the last one."""
        from manifest_sync.undo import undo

        with self.workspace(tuple(self.config.groups)) as ws, self._selection_kept(ws):
            return self._timed(ws, lambda: undo(ws, run))

    def trash(self) -> list[RunTrash]:
        """What each run left in the trash, newest first."""
        from manifest_sync.trash import iter_runs

        with self.workspace((), must_lock=False) as ws:
            return list(iter_runs(ws))

    def empty_trash(self, runs: Sequence[str] = (), *, sole: bool = False) -> EmptyReport:
        """Remove what is in the trash; with ``sole`` also what the bucket does not hold."""
        from manifest_sync.trash import empty

        with self.workspace(()) as ws:
            return empty(ws, runs, sole=sole)

    def _snapshot(self, ws: Workspace, at: str) -> Manifest:
        from manifest_sync.snapshots import Snapshots

        head = load_head(ws)
        return Snapshots(ws.repository, head).find(at or "head", ws.now())

    def _run(
        self,
        command: str,
        operation: Callable[[Workspace, RunOptions], RunReport],
        mode: str,
        groups: Sequence[str],
        asked: Mapping[str, object],
    ) -> RunReport:
        options = self._options(command, mode, asked)
        with self.workspace(tuple(groups)) as ws:
            report = self._timed(ws, lambda: operation(ws, options))
            _point_out(ws, options)
        return report

    def _options(self, command: str, mode: str, asked: Mapping[str, object]) -> RunOptions:
        options = run_options(command, mode, self.config, **asked)  # type: ignore[arg-type]
        return replace(options, scope=self.tracked_scope(options.scope))

    def status(
        self, offline: bool = False, only: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> StatusReport:
        """What differs between here and the bucket; nothing but the local cache is written."""
        from manifest_sync.proposal import note_all_left_out
        from manifest_sync.status import status

        scope = self.tracked_scope(self.scope(only))
        with self.workspace(tuple(groups), must_lock=False, offline=offline) as ws:
            report = self._timed(ws, lambda: status(ws, scope, offline=offline))
            note_nowhere(ws, scope)
            note_all_left_out(ws, scope)
        return report

    def rebuild_index(self) -> RunReport:
        """Make the index anew from the tree and the bucket; the old one is kept beside it."""
        from manifest_sync.rebuild import rebuild_index

        with self.workspace((), new_index=True) as ws:
            return self._timed(ws, lambda: rebuild_index(ws, self.tracked_scope(Scope.everything())))


def _point_out(ws: Workspace, options: RunOptions) -> None:
    """Say what would make a run that found nothing to do look like one in which all is in sync."""
    from manifest_sync.proposal import note_all_left_out

    if not options.named:
        # Nothing at what this machine tracks: it may come yet, so that it is worth a word and no more.
        note_nowhere(ws, options.scope)
    note_all_left_out(ws, options.scope)
