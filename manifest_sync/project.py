"""A project: a folder with ``manifest-sync.toml``, its local state, and the commands on it."""

from __future__ import annotations

import os
import platform
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from manifest_sync import __version__
from manifest_sync import manifest as fmt
from manifest_sync.config import (
    CONFIG_NAME,
    Config,
    Location,
    find_project,
    load_config,
    load_environment,
    parse_location,
    render_config,
)
from manifest_sync.decide import RunOptions, run_options
from manifest_sync.errors import Contended, ManifestSyncError, NoRepository, UsageError
from manifest_sync.gitinfo import tracked_files
from manifest_sync.index import Index
from manifest_sync.locking import LocalLock
from manifest_sync.model import STATE_FOLDER, Entry
from manifest_sync.ownership import Ownership
from manifest_sync.probe import keeps_conditions
from manifest_sync.pull import pull
from manifest_sync.push import push
from manifest_sync.rebuild import rebuild_index
from manifest_sync.report import Progress, RunReport, Silent, StatusReport
from manifest_sync.repository import Repository
from manifest_sync.scope import Scope, parse_scope
from manifest_sync.status import ls, status
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Store
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Worktree

DEFAULT_JOBS = 8
DEFAULT_ROOT = "experiments"

_Report = TypeVar("_Report", RunReport, StatusReport)


@dataclass(frozen=True, slots=True)
class InitReport:
    """What `Project.init` did."""

    project_dir: str
    location: str
    created: bool
    """False when there was a repository already and this folder joined it."""
    sequence: int
    rules: tuple[str, ...]


class Project:
    """One project, opened; usable as a context manager.

    Made by `Project.find` or `Project.init`; every command opens and locks the local state for itself.
    """

    def __init__(
        self,
        config: Config,
        *,
        env: Mapping[str, str],
        progress: Progress | None = None,
        jobs: int = 0,
        accept_rollback: bool = False,
        store: Store | None = None,
    ) -> None:
        self.config = config
        self._env = env
        self._progress = progress or Silent()
        self._jobs = jobs or DEFAULT_JOBS
        self._accept_rollback = accept_rollback
        self._opened_store = store

    @classmethod
    def find(
        cls,
        start: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        jobs: int = 0,
        accept_rollback: bool = False,
        store: Store | None = None,
    ) -> Project:
        """The project that ``start`` (default: the working folder) lies in.

        Args:
            env: the environment to take credentials from (default: the process's).
            jobs: requests under way at once; 0 for the default.
            store: use this store instead of the configured bucket.

        Raises:
            UsageError: no ``manifest-sync.toml`` here or above, or it is wrong.
        """
        folder = find_project(start or os.getcwd())
        return cls(
            load_config(folder),
            env=os.environ if env is None else env,
            progress=progress,
            jobs=jobs,
            accept_rollback=accept_rollback,
            store=store,
        )

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
                return project._create(single_writer=single_writer)
        except BaseException:
            if not had_config:
                os.unlink(path)
            raise

    def _create(self, *, single_writer: bool) -> InitReport:
        location = self._location()
        if location.scheme == "file":
            os.makedirs(location.path, exist_ok=True)
        store = self._store()
        repository = Repository(store, _NoCache())
        created = False
        try:
            head = repository.load_head()
        except NoRepository:
            if not single_writer and not keeps_conditions(store, secrets.token_hex(8)):
                raise ManifestSyncError(
                    f"{store.location} ignores conditional writes: "
                    "two machines pushing at once would lose files",
                    "use another store, or --single-writer if only one machine will ever push",
                ) from None
            first = fmt.first_manifest(
                repository=str(uuid.uuid4()),
                snapshot=secrets.token_hex(16),
                machine=self._machine(),
                host=platform.node(),
                time=_timestamp(),
                writer=__version__,
                single_writer=single_writer,
            )
            made = repository.create(first)
            created = made is not None
            head = made or repository.load_head()
        os.makedirs(self._root(), exist_ok=True)
        self._state_dir()
        return InitReport(
            self.config.project_dir, store.location, created, head.manifest.sequence, self.config.rules
        )

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._opened_store is not None:
            self._opened_store.close()
            self._opened_store = None

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
        with self._workspace(groups) as ws:
            return self._timed(ws, lambda: operation(ws, options))

    def status(
        self, offline: bool = False, only: Sequence[str] = (), groups: Sequence[str] = ()
    ) -> StatusReport:
        """What differs between here and the bucket; nothing but the local cache is written."""
        scope = self._scope(only)
        with self._workspace(tuple(groups), must_lock=False) as ws:
            return self._timed(ws, lambda: status(ws, scope, offline=offline))

    def ls(self, path: str = "") -> Iterator[Entry]:
        """The entries of the bucket's head at or below ``path``, in path order."""
        scope = self._scope([path] if path else [])
        with self._workspace((), must_lock=False) as ws:
            yield from ls(ws, scope)

    def rebuild_index(self) -> RunReport:
        """Make the index anew from the tree and the bucket; the old one is kept beside it."""
        path = self._index_path()
        with LocalLock(os.path.join(self._state_dir(), "lock")):
            if os.path.exists(path):
                os.replace(path, path + ".before-rebuild")
        with self._workspace(()) as ws:
            return self._timed(ws, lambda: rebuild_index(ws))

    def _timed(self, ws: Workspace, run: Callable[[], _Report]) -> _Report:
        started = time.monotonic()
        report = run()
        report.seconds = time.monotonic() - started
        report.requests = dict(ws.repository.store.requests)
        return report

    @contextmanager
    def _workspace(self, groups: tuple[str, ...], *, must_lock: bool = True) -> Iterator[Workspace]:
        """Lock and open the local state; without ``must_lock`` a held lock means a throw-away copy."""
        state = self._state_dir()
        with ExitStack() as stack:
            index_path = self._index_path()
            try:
                stack.enter_context(LocalLock(os.path.join(state, "lock")))
            except Contended:
                if must_lock:
                    raise
                index_path = stack.enter_context(Index.snapshot(index_path))
            index = Index.open(index_path)
            stack.callback(index.close)
            config = self.config
            tracked, warning = tracked_files(self._root()) if config.git_tracked else (frozenset(), "")
            if warning:
                self._progress.note(warning)
            worktree = Worktree(
                self._root(),
                state,
                symlinks=config.symlinks,
                trust_ctime=config.trust_ctime,
                trust_inode=config.trust_inode,
            )
            stack.callback(worktree.close)
            yield Workspace(
                worktree=worktree,
                index=index,
                repository=Repository(self._store(), index, jobs=self._jobs),
                ownership=Ownership(config.rules, config.groups, groups, tracked),
                progress=self._progress,
                machine=self._machine(),
                host=platform.node(),
                version=__version__,
                jobs=self._jobs,
                accept_rollback=self._accept_rollback,
                now=_now,
                random_bytes=secrets.token_bytes,
                sleep=time.sleep,
            )

    def _scope(self, only: Sequence[str]) -> Scope:
        return Scope(tuple(parse_scope(only, self.config.root)))

    def _location(self) -> Location:
        config = self.config
        return parse_location(
            config.bucket,
            base=config.project_dir,
            environment=load_environment(config.project_dir, self._env),
            endpoint_url=config.endpoint_url,
            region=config.region,
        )

    def _store(self) -> Store:
        if self._opened_store is None:
            self._opened_store = open_store(self._location())
        return self._opened_store

    def _root(self) -> str:
        return os.path.normpath(os.path.join(self.config.project_dir, self.config.root))

    def _index_path(self) -> str:
        return os.path.join(self._state_dir(), "index.sqlite")

    def _state_dir(self) -> str:
        state = os.path.join(self.config.project_dir, STATE_FOLDER)
        if not os.path.isdir(state):
            os.makedirs(state, exist_ok=True)
            with open(os.path.join(state, ".gitignore"), "w", encoding="ascii") as ignore:
                ignore.write("*\n")
        return state

    def _machine(self) -> str:
        """This machine's id for this project: a UUID, made once."""
        path = os.path.join(self._state_dir(), "machine")
        try:
            with open(path, encoding="ascii") as file:
                return str(uuid.UUID(file.read().strip()))
        except (OSError, ValueError):
            machine = str(uuid.uuid4())
            with open(path, "w", encoding="ascii") as file:
                file.write(machine + "\n")
            return machine


class _NoCache:
    """Pages are not kept while a repository is only being made or joined."""

    def load_page_body(self, page_id: str) -> bytes | None:
        """See `repository.PageCache`."""

    def save_page_body(self, ref: object, body: bytes) -> None:
        """See `repository.PageCache`."""


def _write_new(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def _now() -> datetime:
    return datetime.now(UTC)


def _timestamp() -> str:
    return _now().strftime("%Y-%m-%dT%H:%M:%SZ")
