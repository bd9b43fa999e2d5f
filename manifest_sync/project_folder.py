"""A project's folder, opened: its configuration, its store, and its local state under the lock."""

from __future__ import annotations

import os
import platform
import secrets
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Protocol, Self, TypeVar

from manifest_sync import __version__
from manifest_sync.config import (
    Config,
    Environment,
    Location,
    find_project,
    load_config,
    load_environment,
    parse_location,
)
from manifest_sync.errors import Contended
from manifest_sync.gitinfo import tracked_files
from manifest_sync.index.index import Index
from manifest_sync.index.mark import IndexMark
from manifest_sync.locking import LocalLock
from manifest_sync.model import DEFAULT_JOBS, STATE_FOLDER, Path
from manifest_sync.ownership import Ownership
from manifest_sync.ownfiles import write_whole
from manifest_sync.report import Progress, RunReport, Silent, StatusReport
from manifest_sync.repository import Repository
from manifest_sync.scope import Scope, parse_path, parse_scope
from manifest_sync.selection import Selection, narrow, read_selection
from manifest_sync.stores import open_store
from manifest_sync.stores.base import Store
from manifest_sync.stores.offline import OfflineStore
from manifest_sync.stores.pace import Pace
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Worktree

INDEX_NAME = "index.sqlite"
_TRACKED = ("push", "pull", "rebuild-index")
"""Commands that look at what this machine tracks, and not at what they are told."""


class Timed(Protocol):
    """A report that says what its run took."""

    seconds: float
    requests: dict[str, int]


Report = TypeVar("Report", bound=Timed)


class ProjectFolder:
    """What every command of a project needs; `manifest_sync.project.Project` adds the commands.

    Usable as a context manager. Each command opens and locks the local state for itself.
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
        zone: tzinfo = UTC,
        bwlimit: int = 0,
    ) -> None:
        self.config = config
        self._env = env
        self._progress = progress or Silent()
        self._jobs = jobs or DEFAULT_JOBS
        self._accept_rollback = accept_rollback
        self._opened_store = store
        self.zone = zone
        self._pace = Pace(bwlimit)
        self._told: Counter[str] = Counter()
        """Requests that are in the report of an earlier command, or of another part of this one."""

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
        zone: tzinfo = UTC,
        bwlimit: int = 0,
    ) -> Self:
        """The project that ``start`` (default: the working folder) lies in.

        Args:
            env: the environment to take credentials from (default: the process's).
            jobs: requests under way at once; 0 for the default.
            store: use this store instead of the configured bucket.
            zone: the zone in which a time without one is meant ("2026-11-20").
            bwlimit: bytes a second that all transfers together keep to; 0 for no limit.

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
            zone=zone,
            bwlimit=bwlimit,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._opened_store is not None:
            self._opened_store.close()
            self._opened_store = None

    @contextmanager
    def workspace(
        self,
        groups: tuple[str, ...],
        *,
        must_lock: bool = True,
        new_index: bool = False,
        offline: bool = False,
    ) -> Iterator[Workspace]:
        """Lock and open the local state; without ``must_lock`` a held lock means a throw-away copy.

        With ``new_index`` the index is empty, and replaces the one that is there if all goes well. With
        ``offline`` nothing can be asked of the bucket, and nothing is loaded for it.
        """
        state = self.state_dir()
        with ExitStack() as stack:
            index_path = self.index_path()
            mark: IndexMark | None = self.index_mark()
            lock = LocalLock(os.path.join(state, "lock"))
            try:
                stack.enter_context(lock)
            except Contended:
                if must_lock:
                    raise
                index_path, mark = stack.enter_context(Index.snapshot(index_path)), None
            if new_index:
                index_path = stack.enter_context(Index.successor(index_path, mark))
            index = Index.open(index_path, mark=mark, is_successor=new_index)
            stack.callback(index.close)
            selection = self.selection()
            if selection:
                # Whoever set a base there: see `selection`.
                index.forget_base_outside(Scope(selection).ranges())
            ownership, warning = self._ownership(groups)
            if warning:
                self._progress.note(warning)
            worktree = self._worktree()
            stack.callback(worktree.close)
            store: Store = OfflineStore(self.config.bucket) if offline else self.store()
            self._told = Counter(store.requests)
            yield Workspace(
                worktree=worktree,
                index=index,
                repository=Repository(store, index, jobs=self._jobs),
                ownership=ownership,
                progress=self._progress,
                machine=self.machine_id(),
                host=platform.node(),
                version=__version__,
                jobs=self._jobs,
                accept_rollback=self._accept_rollback,
                holds_lock=lock.held,
                now=self.now,
                random_bytes=secrets.token_bytes,
                sleep=time.sleep,
            )

    def _ownership(self, groups: tuple[str, ...] = ()) -> tuple[Ownership, str]:
        """Who owns what, with these groups; and a warning where git could not be asked."""
        config = self.config
        tracked, warning = tracked_files(self.root) if config.git_tracked else (frozenset[bytes](), "")
        return Ownership(config.all_rules, config.groups, groups, tracked), warning

    def _worktree(self) -> Worktree:
        """The tree, for whoever closes it."""
        config = self.config
        return Worktree(
            self.root,
            self.state_dir(),
            symlinks=config.symlinks,
            trust_ctime=config.trust_ctime,
            trust_inode=config.trust_inode,
        )

    @contextmanager
    def other_folder(self, path: str, *, dry_run: bool = False) -> Iterator[Worktree]:
        """A folder, made if need be, to write files into; nothing of ours is left in it.

        With ``dry_run`` it is not made, and is only looked at.
        """
        folder = os.path.abspath(path)
        with ExitStack() as stack:
            state = self.state_dir()
            if not dry_run:
                os.makedirs(folder, exist_ok=True)
                own = tempfile.TemporaryDirectory(prefix=f"{STATE_FOLDER}-", dir=folder)
                state = stack.enter_context(own)
            worktree = Worktree(folder, state, symlinks="keep")
            try:
                yield worktree
            finally:
                worktree.close()

    def _timed(self, ws: Workspace, run: Callable[[], Report]) -> Report:
        """Run an operation, and fill in what it took."""
        started = time.monotonic()
        report = run()
        report.seconds = time.monotonic() - started
        requests = Counter(ws.repository.store.requests)
        report.requests = dict(requests - self._told)
        self._told = requests
        if isinstance(report, StatusReport) or (isinstance(report, RunReport) and report.command in _TRACKED):
            report.selection = list(self.selection())
        if isinstance(report, RunReport) and report.run:
            from manifest_sync.trash import TrashLimits, evict

            evict(ws, TrashLimits(self.config.trash_age, self.config.trash_bytes))
        return report

    def scope(self, only: Sequence[str]) -> Scope:
        """The scope that names on the command line mean; none of them: everything."""
        return Scope(tuple(parse_scope(only, self.config.root)))

    def selection(self) -> Selection:
        """What this machine tracks; nothing at all means everything."""
        return read_selection(self.state_dir())

    def tracked_scope(self, scope: Scope) -> Scope:
        """The part of a scope that this machine tracks."""
        return narrow(scope, self.selection())

    def path(self, name: str) -> Path:
        """The one path that a name on the command line means."""
        return parse_path(name, self.config.root)

    def location(self) -> Location:
        """Where the configured bucket is, with credentials."""
        config = self.config
        return parse_location(
            config.bucket,
            base=config.project_dir,
            environment=self.environment(),
            endpoint_url=config.endpoint_url,
            region=config.region,
        )

    def environment(self) -> Environment:
        """What locations take from the surroundings of this project."""
        return load_environment(self.config.project_dir, self._env)

    def store(self) -> Store:
        """The configured bucket, opened once."""
        if self._opened_store is None:
            self._opened_store = open_store(self.location(), note=self._progress.note, pace=self._pace)
        return self._opened_store

    @property
    def root(self) -> str:
        """The folder that is kept the same, absolute."""
        return os.path.normpath(os.path.join(self.config.project_dir, self.config.root))

    def now(self) -> datetime:
        """The present, in the zone in which times are meant."""
        return datetime.now(self.zone)

    def index_path(self) -> str:
        """Where the index lies."""
        return os.path.join(self.state_dir(), INDEX_NAME)

    def index_mark(self) -> IndexMark:
        """What tells the index used here last from any other; for whoever holds the lock."""
        return IndexMark(os.path.join(self.state_dir(), "index.mark"), secrets.token_bytes)

    def state_dir(self) -> str:
        """The folder of the local state, made if need be."""
        state = os.path.join(self.config.project_dir, STATE_FOLDER)
        ignore = os.path.join(state, ".gitignore")
        if not os.path.exists(ignore):
            os.makedirs(state, exist_ok=True)
            write_whole(ignore, "*\n")
        return state

    def machine_id(self) -> str:
        """This machine's id for this project: a UUID, made once."""
        path = os.path.join(self.state_dir(), "machine")
        try:
            with open(path, encoding="ascii") as file:
                return str(uuid.UUID(file.read().strip()))
        except (OSError, ValueError):
            machine = str(uuid.uuid4())
            write_whole(path, machine + "\n")
            return machine
