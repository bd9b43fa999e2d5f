"""The commands of a project that look back; `manifest_sync.project` adds those that change something."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from manifest_sync import observe
from manifest_sync.compare import Comparison, between, with_tree
from manifest_sync.config import CONFIG_NAME
from manifest_sync.history import History, LogRecord, PagesSeen
from manifest_sync.index.index import Index
from manifest_sync.manifest import parse_manifest
from manifest_sync.model import STATE_FOLDER, Entry, Path
from manifest_sync.project_folder import INDEX_NAME, ProjectFolder
from manifest_sync.repository import Repository
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace

if TYPE_CHECKING:
    from manifest_sync.owners import Explained, OwnersReport

_NEWEST = 20
"""Sequence numbers that are offered."""


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

    def known_paths(self, prefix: str, most: int) -> Iterator[str]:
        """Paths below the root that begin with ``prefix``, one level deep; a folder ends in ``/``.

        At most so many. The index says so, as it was left; no request is made and nothing is looked at.
        """
        folder, _, name = os.fsencode(prefix).rpartition(b"/")
        with self._index_as_left() as index:
            for found, is_folder in islice(index.iter_names(Path(folder), name), most):
                path = folder + b"/" + found if folder else found
                yield os.fsdecode(path) + ("/" if is_folder else "")

    def known_snapshots(self) -> list[tuple[str, str]]:
        """What the snapshots of the head seen last can be called: pins by name, then the newest by number."""
        with self._index_as_left() as index:
            body = index.get_meta("head")
        if body is None:
            return []
        manifest = parse_manifest(body.encode())
        pins = [(pin.name, f"pin of {pin.sequence}") for pin in manifest.pins if pin.name]
        newest = range(manifest.sequence, max(manifest.oldest, manifest.sequence - _NEWEST) - 1, -1)
        return [*pins, *((str(sequence), "") for sequence in newest)]

    def _index_as_left(self) -> Index:
        return Index.open(os.path.join(self.config.project_dir, STATE_FOLDER, INDEX_NAME), read_only=True)

    def explain(self, paths: Sequence[str], groups: Sequence[str] = ()) -> list[Explained]:
        """Who owns each path and by which rule; a name with ``/`` at its end is a folder.

        Args:
            groups: groups that count as asked for.
        """
        from manifest_sync.configlines import rule_lines
        from manifest_sync.owners import explain

        with open(os.path.join(self.config.project_dir, CONFIG_NAME), encoding="utf-8-sig") as file:
            lines = rule_lines(file.read(), self.config.rules)
        with self.workspace(tuple(groups), must_lock=False, offline=True) as ws:
            tracked = self._tracked(ws)
            return [
                explain(ws, self.path(name), lines, tracked, as_folder=name.endswith("/")) for name in paths
            ]

    def owners(self, *, only: Sequence[str] = (), offline: bool = False) -> OwnersReport:
        """The files that both git and the bucket own, and those that neither does."""
        from manifest_sync.owners import survey

        scope = self.tracked_scope(self.scope(only))
        with self.workspace(tuple(self.config.groups), must_lock=False, offline=offline) as ws:
            return self._timed(ws, lambda: survey(ws, scope, self._tracked(ws), offline=offline))

    def _tracked(self, ws: Workspace) -> frozenset[bytes]:
        """What git tracks, also where the configuration does not ask."""
        if self.config.git_tracked:
            return ws.ownership.tracked
        from manifest_sync.gitinfo import tracked_files

        return tracked_files(self.root)[0]

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
            scope = self.tracked_scope(scope)
            with self.workspace(tuple(groups), must_lock=False) as ws:
                yield with_tree(ws, a, scope)
