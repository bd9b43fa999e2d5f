"""The commands of a project that look back; `manifest_sync.project` adds those that change something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from manifest_sync import observe
from manifest_sync.compare import Comparison, between, with_tree
from manifest_sync.history import History, LogRecord, PagesSeen
from manifest_sync.index import Index
from manifest_sync.model import Entry
from manifest_sync.project_folder import ProjectFolder
from manifest_sync.repository import Repository
from manifest_sync.scope import Scope


class ProjectHistory(ProjectFolder):
    """A project's folder with the commands that read the bucket's past."""

    @contextmanager
    def history(self) -> Iterator[History]:
        """The bucket's past as its head tells it now.

        The lock is held only while the head is read: what is printed may stand in a pager for hours.
        """
        with self.workspace((), must_lock=False) as ws:
            head = observe.load_head(ws)
        with Index.open(self.index_path(), read_only=True) as index:
            repository = Repository(self.store(), PagesSeen(index), jobs=self._jobs)
            yield History(repository, head, self._jobs, self.now())

    def log(self, count: int | None = None, path: str = "") -> Iterator[LogRecord]:
        """The newest ``count`` snapshots (None: all), newest first; with ``path`` those that changed it."""
        scope = self.scope([path] if path else [])
        with self.history() as history:
            yield from history.log(count, scope)

    def ls(self, path: str = "", at: str = "") -> Iterator[Entry]:
        """The entries of a snapshot (default: the head) at or below ``path``, in path order.

        Args:
            at: sequence number, prefix of an id, name of a pin, or time.
        """
        scope = self.scope([path] if path else [])
        with self.history() as history:
            yield from history.ls(history.at(at), scope)

    def cat(self, path: str, at: str = "") -> Iterator[bytes]:
        """The content of one file of a snapshot (default: the head), verified, piece by piece."""
        with self.history() as history:
            yield from history.read(history.at(at), self.path(path))

    @contextmanager
    def diff(
        self,
        a: str = "",
        b: str = "",
        *,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Iterator[Comparison]:
        """What snapshot ``b`` has otherwise than ``a``; without ``b``, what the tree here has.

        Args:
            a: what the snapshot is called (see `Snapshots.find`); empty for the head.
            only: files or folders to look at; none for everything.
            exclude: gitignore patterns of what not to look at.
            groups: groups to include that are left out else; of two snapshots everything is compared.
        """
        scope = Scope(self.scope(only).only, tuple(exclude))
        if b:
            with self.history() as history:
                yield between(history, history.at(a), history.at(b), scope)
        else:
            with self.workspace(tuple(groups), must_lock=False) as ws:
                yield with_tree(ws, a, scope)
