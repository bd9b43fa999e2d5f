"""A project: a folder with ``manifest-sync.toml``, its local state, and the commands on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from manifest_sync.config import CONFIG_NAME, load_config, render_config
from manifest_sync.decide import RunOptions, run_options
from manifest_sync.doctor import diagnose
from manifest_sync.errors import UsageError
from manifest_sync.findings import Finding
from manifest_sync.initialize import InitReport, create_or_join
from manifest_sync.locking import LocalLock
from manifest_sync.model import Entry
from manifest_sync.project_folder import ProjectFolder
from manifest_sync.pull import pull
from manifest_sync.push import push
from manifest_sync.rebuild import rebuild_index
from manifest_sync.report import Progress, RunReport, StatusReport
from manifest_sync.status import ls, status
from manifest_sync.stores.base import Store
from manifest_sync.workspace import Workspace

DEFAULT_ROOT = "experiments"

_Report = TypeVar("_Report", RunReport, StatusReport)


class Project(ProjectFolder):
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
            _write_new(path, text)
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

    def push(self, mode: str | None = None, **options: object) -> RunReport:
        """Send this side's changes; see `decide.run_options` for the options.

        Args:
            mode: ``new``, ``copy`` or ``full``; default: what the configuration says.
        """
        return self._run("push", push, mode or self.config.push, options)

    def pull(self, mode: str | None = None, **options: object) -> RunReport:
        """Bring the bucket's changes here; see `decide.run_options` for the options."""
        return self._run("pull", pull, mode or self.config.pull, options)

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

    def ls(self, path: str = "") -> Iterator[Entry]:
        """The entries of the bucket's head at or below ``path``, in path order."""
        scope = self.scope([path] if path else [])
        with self.workspace((), must_lock=False) as ws:
            yield from ls(ws, scope)

    def rebuild_index(self) -> RunReport:
        """Make the index anew from the tree and the bucket; the old one is kept beside it."""
        path = self.index_path()
        with LocalLock(os.path.join(self.state_dir(), "lock")):
            if os.path.exists(path):
                os.replace(path, path + ".before-rebuild")
        with self.workspace(()) as ws:
            return self._timed(ws, lambda: rebuild_index(ws))

    def _timed(self, ws: Workspace, run: Callable[[], _Report]) -> _Report:
        started = time.monotonic()
        report = run()
        report.seconds = time.monotonic() - started
        report.requests = dict(ws.repository.store.requests)
        return report


def _write_new(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
