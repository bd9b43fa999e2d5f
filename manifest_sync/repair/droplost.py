"""Letting go of pages of the head that no one can bring back, and adding again what is here of their files.

Only on demand: what else such a page listed is then in the head no more, though its packs are still there and
a machine that keeps the page could have brought it back. To the machines that have those files it looks as if
they had been deleted; so what this machine knew to be in the bucket, and has, is sent in the same publish. It
is sent as it is here: where another machine had pushed a newer version, that is the one to run this on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from manifest_sync import manifest as fmt
from manifest_sync import observe, statcache
from manifest_sync.diff import clashes
from manifest_sync.errors import Damaged
from manifest_sync.index.index import Row
from manifest_sync.model import json_path
from manifest_sync.pages import PageRef
from manifest_sync.publishing import Publishing
from manifest_sync.repository import Head, Raced
from manifest_sync.scope import Scope
from manifest_sync.statcache import Observed
from manifest_sync.upload import drop_collected, upload
from manifest_sync.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Dropped:
    """One page that the head was made to let go of, and how many files of its range were added again."""

    page: PageRef
    added: int

    def to_json(self) -> dict[str, Any]:
        """One item of ``dropped`` of ``push --repair --json``."""
        page = self.page
        return {
            "key": fmt.page_key(page.session, page.id),
            "first": json_path(page.first),
            "last": json_path(page.last),
            "files": page.files,
            "added": self.added,
        }


class LostDropper:
    """Lets go of lost pages; made for one run.

    Args:
        keys: of the pages that were found lost. Only what still is, is let go of.
    """

    def __init__(self, ws: Workspace, keys: Collection[str], message: str) -> None:
        self._ws = ws
        self._keys = keys
        self._message = message or "push --repair --drop-lost"
        self._scope = Scope.everything()
        observe.check_root(ws)
        self._observed = statcache.scan(ws, self._scope)
        self.dropped: list[Dropped] = []
        self.stored_bytes = 0

    @property
    def observed(self) -> Observed:
        """What the look at the tree found; ``skipped`` has the files that could not be sent."""
        return self._observed

    def attempt(self, head: Head) -> Head | Raced:
        """Publish ``head`` without the pages; the head itself when none of them is lost in it any more."""
        ws = self._ws
        lost = [page for page in head.manifest.pages if self._is_lost(page)]
        if not lost:
            return head
        kept = tuple(page for page in head.manifest.pages if page not in lost)
        files, size = sum(page.files for page in kept), sum(page.bytes for page in kept)
        rest = Head(replace(head.manifest, pages=kept, files=files, bytes=size), head.etag, head.body)
        observe.reflect(ws, rest, self._scope)
        session = ws.new_session(head.manifest.fence)
        ws.index.plan_reset()
        drop_collected(ws, head)
        sent = upload(ws, rest, session, self._rows(lost), self._observed)
        self.stored_bytes += sent.stored_bytes
        commit = ws.commit(session, self._message, sent.stored_bytes)
        added = [path for path, _, _ in ws.index.iter_planned()]
        outcome = Publishing(ws, rest, self._scope).publish(commit)
        if isinstance(outcome, Head):
            self.dropped = [
                Dropped(page, sum(page.first <= path <= page.last for path in added)) for page in lost
            ]
        return outcome

    def _is_lost(self, page: PageRef) -> bool:
        if fmt.page_key(page.session, page.id) not in self._keys:
            return False
        try:
            self._ws.repository.load_page(page)
        except Damaged:
            return True
        return False

    def _rows(self, lost: list[PageRef]) -> Iterator[Row]:
        """What is here of the files in the pages' ranges and was known to be in the bucket."""
        ws = self._ws

        def is_wanted(row: Row) -> bool:
            in_range = any(page.first <= row.path <= page.last for page in lost)
            return in_range and row.base is not None and row.local is not None

        everything = ws.index.iter_rows(self._scope.ranges())
        clashing = clashes(row.path for row in everything if row.remote is not None or is_wanted(row))
        for row in observe.iter_rows(ws, self._scope, self._observed):
            if is_wanted(row):
                if row.path in clashing:
                    self._observed.skipped[row.path] = (
                        "the bucket has a folder in its place, or a file above it"
                    )
                else:
                    yield row
