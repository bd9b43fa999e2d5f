"""The command of a project that writes plain files elsewhere; `manifest_sync.project` adds the rest."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from manifest_sync import observe
from manifest_sync.config import Location, load_environment, parse_location
from manifest_sync.project_care import ProjectCare
from manifest_sync.scope import Scope

if TYPE_CHECKING:
    from manifest_sync.export.destination import Destination
    from manifest_sync.report import RunReport


class ProjectExport(ProjectCare):
    """A project's folder with `export`."""

    def export(
        self,
        destination: str,
        *,
        only: Sequence[str] = (),
        files_from: Sequence[str] = (),
        exclude: Sequence[str] = (),
        at: str = "",
        prune: bool = False,
        max_delete: str | None = None,
        dry_run: bool = False,
        endpoint_url: str = "",
    ) -> RunReport:
        """Make a folder or a prefix hold files of a snapshot (default: the head) under their own paths.

        Args:
            destination: a folder, relative to the working one; ``s3://bucket/prefix``; or an rclone remote.
            only, files_from: files or folders to export; none for everything.
            exclude: gitignore patterns of what not to export.
            at: what the snapshot is called (see `Snapshots.find`).
            prune: delete at the destination what is not among them.
            max_delete: how many deletions are meant (default: half of what is there).
            dry_run: only say what would be done.
            endpoint_url: of the destination; default: the project's, or what the rclone remote says.

        Raises:
            UsageError: the destination overlaps with the tree, the local state, the bucket or a repository.
        """
        from manifest_sync.export.adopted import AdoptedObjects
        from manifest_sync.export.export import ExportOptions, export
        from manifest_sync.export.state import state_path
        from manifest_sync.snapshots import Snapshots

        scope = Scope(self.scope([*only, *files_from]).only, tuple(exclude))
        options = ExportOptions(scope, prune, max_delete, dry_run)
        location = self._export_location(destination, endpoint_url)
        with self.workspace(()) as ws:
            head = observe.load_head(ws)
            manifest = Snapshots(ws.repository, head).find(at or "head", ws.now())
            with self._destination(location, dry_run=dry_run) as (target, requests):
                state = state_path(self.state_dir(), target.name)
                adopted = AdoptedObjects(ws, head, location, self.location(), state)
                report = self._timed(ws, lambda: export(ws, manifest, options, target, state, adopted.needed))
                report.requests = dict(Counter(report.requests) + requests)
        return report

    def _export_location(self, destination: str, endpoint_url: str) -> Location:
        from manifest_sync.export.destination import check_apart

        config = self.config
        is_s3 = destination.startswith("s3://")
        location = parse_location(
            destination,
            base=os.getcwd(),
            environment=load_environment(config.project_dir, self._env),
            endpoint_url=endpoint_url or (config.endpoint_url if is_s3 else ""),
            region=config.region if is_s3 and not endpoint_url else "",
        )
        check_apart(location, root=self.root, state=self.state_dir(), bucket=self.location())
        return location

    @contextmanager
    def _destination(
        self, location: Location, *, dry_run: bool
    ) -> Iterator[tuple[Destination, Counter[str]]]:
        """The destination, opened, and its count of requests."""
        from manifest_sync.export.destination import OWN_FOLDER
        from manifest_sync.export.folder import FolderDestination
        from manifest_sync.export.store import StoreDestination
        from manifest_sync.locking import LocalLock
        from manifest_sync.worktree import Worktree

        if location.scheme == "s3":
            from manifest_sync.stores.s3_plain import PlainS3

            store = PlainS3(location, note=self._progress.note, pace=self._pace)
            staging = os.path.join(self.state_dir(), "exports")
            os.makedirs(staging, exist_ok=True)
            worktree = Worktree(staging, staging)
            try:
                worktree.clean_staging()
                yield StoreDestination(store, worktree, self._jobs, location.prefix), store.requests
            finally:
                worktree.close()
                store.close()
            return
        folder = location.path
        if dry_run:
            worktree = Worktree(folder, self.state_dir(), symlinks="keep")
            try:
                yield FolderDestination(worktree), Counter()
            finally:
                worktree.close()
            return
        own = os.path.join(folder, OWN_FOLDER)
        os.makedirs(own, exist_ok=True)
        with LocalLock(os.path.join(own, "lock")):
            worktree = Worktree(folder, own, symlinks="keep")
            try:
                worktree.clean_staging()
                yield FolderDestination(worktree), Counter()
            finally:
                worktree.close()
                shutil.rmtree(own, ignore_errors=True)
