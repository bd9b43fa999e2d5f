"""A project: a folder with ``manifest-sync.toml``, its local state, and the commands on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from manifest_sync.config import CONFIG_NAME, load_config, render_config
from manifest_sync.damage import VerifyReport
from manifest_sync.decide import RunOptions, run_options
from manifest_sync.doctor import diagnose
from manifest_sync.drop import drop
from manifest_sync.errors import UsageError
from manifest_sync.extract import extract
from manifest_sync.findings import Finding
from manifest_sync.gc import DEFAULT_MIN_AGE, GcOptions, GcReport, gc
from manifest_sync.initialize import InitReport, create_or_join
from manifest_sync.manifest import Manifest
from manifest_sync.observe import load_head
from manifest_sync.ownfiles import write_whole
from manifest_sync.pins import PinReport, pin, unpin
from manifest_sync.project_history import ProjectHistory
from manifest_sync.pull import pull
from manifest_sync.push import push
from manifest_sync.rebuild import rebuild_index
from manifest_sync.recover import HeadRestore, restore_head
from manifest_sync.repair import RepairOptions, RepairReport, repair
from manifest_sync.report import Progress, RunReport, StatusReport
from manifest_sync.restore import pull_at, restore
from manifest_sync.retention import parse_retention
from manifest_sync.scope import Scope, parse_scope
from manifest_sync.snapshots import Snapshots
from manifest_sync.status import status
from manifest_sync.stores.base import Store
from manifest_sync.trash import EmptyReport, RunTrash, TrashLimits, empty, evict, iter_runs
from manifest_sync.undo import undo
from manifest_sync.verify import verify, verify_local
from manifest_sync.workspace import Workspace

DEFAULT_ROOT = "experiments"

_Report = TypeVar("_Report", RunReport, StatusReport, GcReport, PinReport, VerifyReport, RepairReport)


class Project(ProjectHistory):
    """One project and its commands.

    Made by `Project.find` or `Project.init`; every command opens and locks the local state for itself.
    """

    @classmethod
    def init(
        cls,
        directory: str,
        bucket: str,
        *,
        root: str | None = None,
        endpoint_url: str | None = None,
        single_writer: bool = False,
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> InitReport:
        """Make ``directory`` a project and its bucket a repository, or join the repository that is there.

        Raises:
            UsageError: the folder belongs to another bucket already.
            ManifestSyncError: the store ignores conditions and ``single_writer`` was not asked for.
        """
        directory = os.path.abspath(directory)
        path = os.path.join(directory, CONFIG_NAME)
        had_config = os.path.exists(path)
        if not had_config:
            text = render_config(bucket=bucket, root=root or DEFAULT_ROOT, endpoint_url=endpoint_url or "")
            os.makedirs(directory, exist_ok=True)
            write_whole(path, text)
        try:
            project = cls(load_config(directory), env=os.environ if env is None else env, progress=progress)
            if had_config and project.config.bucket != bucket:
                raise UsageError(
                    f"{path} already names the bucket {project.config.bucket}, not {bucket}",
                    "edit that file, or run init in another folder",
                )
            with project:
                return create_or_join(project, single_writer=single_writer)
        except BaseException:
            if not had_config:
                os.unlink(path)
            raise

    @classmethod
    def doctor(
        cls, start: str | None = None, *, env: Mapping[str, str] | None = None, store: Store | None = None
    ) -> Iterator[Finding]:
        """What is wrong with the project at ``start`` (default: the working folder), as it is found.

        Args:
            env: the environment to take credentials from (default: the process's).
            store: use this store instead of the configured bucket.
        """
        env = os.environ if env is None else env
        return diagnose(start or os.getcwd(), env=env, clock=time.time, store=store)

    def restore_head(self, snapshot: str = "", *, accept_missing: bool = False) -> HeadRestore:
        """Write a lost or damaged head anew from the snapshots; see `recover.restore_head`."""
        with self.workspace(()) as ws:
            return restore_head(ws, snapshot, accept_missing=accept_missing)

    def push(self, mode: str | None = None, **options: object) -> RunReport:
        """Send this side's changes; see `decide.run_options` for the options.

        Args:
            mode: ``new``, ``copy`` or ``full``; default: what the configuration says.
        """
        return self._run("push", push, mode or self.config.push, options)

    def pull(self, mode: str | None = None, **options: object) -> RunReport:
        """Bring the bucket's changes here; see `decide.run_options` for the options."""
        return self._run("pull", pull, mode or self.config.pull, options)

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
        scope = Scope(self.scope(only).only, tuple(exclude))
        with self.workspace(tuple(groups)) as ws:
            manifest = self._snapshot(ws, at)
            return self._timed(ws, lambda: pull_at(ws, manifest, scope, mode or self.config.pull, **options))

    def restore(
        self, paths: Sequence[str], at: str = "", to: str = "", *, dry_run: bool = False
    ) -> RunReport:
        """Bring files of a snapshot (default: the head) back into the tree, or write them into the folder
        ``to``. What is replaced goes to the trash; the base stays."""
        wanted = parse_scope(paths, self.config.root)
        with self.workspace(tuple(self.config.groups)) as ws:
            manifest = self._snapshot(ws, at)
            if not to:
                return self._timed(ws, lambda: restore(ws, manifest, wanted, dry_run=dry_run))
            with self.other_folder(to) as target:
                return self._timed(ws, lambda: extract(ws, manifest, wanted, target))

    def drop(self, paths: Sequence[str], *, dry_run: bool = False) -> RunReport:
        """Remove local copies that the bucket holds, without that counting as a deletion."""
        wanted = parse_scope(paths, self.config.root)
        with self.workspace(tuple(self.config.groups)) as ws:
            return self._timed(ws, lambda: drop(ws, wanted, dry_run=dry_run))

    def undo(self, run: str = "") -> RunReport:
        """Take back what a pull, restore or drop did; default: the last one."""
        with self.workspace(tuple(self.config.groups)) as ws:
            return self._timed(ws, lambda: undo(ws, run))

    def trash(self) -> list[RunTrash]:
        """What each run left in the trash, newest first."""
        with self.workspace((), must_lock=False) as ws:
            return list(iter_runs(ws))

    def empty_trash(self, runs: Sequence[str] = (), *, sole: bool = False) -> EmptyReport:
        """Remove what is in the trash; with ``sole`` also what the bucket does not hold."""
        with self.workspace(()) as ws:
            return empty(ws, runs, sole=sole)

    def _snapshot(self, ws: Workspace, at: str) -> Manifest:
        head = load_head(ws)
        return Snapshots(ws.repository, head).find(at or "head", ws.now())

    def _run(
        self,
        command: str,
        operation: Callable[[Workspace, RunOptions], RunReport],
        mode: str,
        asked: Mapping[str, object],
    ) -> RunReport:
        options, groups = run_options(command, mode, self.config, **asked)  # type: ignore[arg-type]
        with self.workspace(groups) as ws:
            return self._timed(ws, lambda: operation(ws, options))

    def status(
        self, offline: bool = False, only: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> StatusReport:
        """What differs between here and the bucket; nothing but the local cache is written."""
        scope = self.scope(only)
        with self.workspace(tuple(groups), must_lock=False) as ws:
            return self._timed(ws, lambda: status(ws, scope, offline=offline))

    def gc(
        self,
        *,
        keep_last: int | None = None,
        keep_within: timedelta | None = None,
        min_age: timedelta = DEFAULT_MIN_AGE,
        repack: bool = True,
        apply: bool = False,
    ) -> GcReport:
        """Free what no retained snapshot needs; without ``apply`` only say what would be freed.

        Args:
            keep_last: how many snapshots are kept; with neither this nor ``keep_within``: 10 and 30 days.
            keep_within: snapshots younger than this are kept.
            min_age: what was written less long ago stays.
            repack: write packs anew that are mostly dead.
        """
        options = GcOptions(parse_retention(keep_last, keep_within), min_age, apply, repack)
        with self.workspace((), must_lock=apply) as ws:
            return self._timed(ws, lambda: gc(ws, options))

    def pin(self, snapshot: str, name: str = "") -> PinReport:
        """Keep a snapshot until it is unpinned; see `Snapshots.find` for what it may be called."""
        with self.workspace(()) as ws:
            return self._timed(ws, lambda: pin(ws, snapshot, name))

    def unpin(self, snapshot: str) -> PinReport:
        """Let go of a pinned snapshot, by its name, sequence number or a prefix of its id."""
        with self.workspace(()) as ws:
            return self._timed(ws, lambda: unpin(ws, snapshot))

    def verify(self, read_data: bool = False, local: bool = False) -> VerifyReport:
        """Whether the bucket holds, whole, what its head reaches; nothing is written.

        Args:
            read_data: read every byte, instead of only looking whether objects are there with their size.
            local: look at nothing but the files here: whether their content is what the index recorded.

        Raises:
            UsageError: both.
        """
        if read_data and local:
            raise UsageError("--local looks at no bucket, so there is no data to read", "use one of them")
        with self.workspace((), must_lock=False) as ws:
            return self._timed(ws, lambda: verify_local(ws) if local else verify(ws, read_data=read_data))

    def repair(self, read_data: bool = False, dry_run: bool = False, message: str = "") -> RepairReport:
        """Write again, from what is here, what is missing or damaged in the bucket; sends nothing else.

        Args:
            read_data: look for damage by reading every byte.
            dry_run: only say what would be done.
            message: recorded with the snapshot, if one has to be published.
        """
        with self.workspace(()) as ws:
            return self._timed(ws, lambda: repair(ws, RepairOptions(read_data, dry_run, message)))

    def rebuild_index(self) -> RunReport:
        """Make the index anew from the tree and the bucket; the old one is kept beside it."""
        with self.workspace((), new_index=True) as ws:
            return self._timed(ws, lambda: rebuild_index(ws))

    def _timed(self, ws: Workspace, run: Callable[[], _Report]) -> _Report:
        started = time.monotonic()
        report = run()
        report.seconds = time.monotonic() - started
        report.requests = dict(ws.repository.store.requests)
        if isinstance(report, RunReport) and report.run:
            evict(ws, TrashLimits(self.config.trash_age, self.config.trash_bytes))
        return report
