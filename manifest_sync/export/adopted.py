"""What an export must leave alone: adopted objects at its destination that a kept snapshot still needs.

The bucket has their content nowhere else, be it the head or the oldest snapshot that names them. Which those
are is noted for each prefix of a store, so that the next export reads only what was published since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from manifest_sync.errors import Damaged
from manifest_sync.export.destination import may_hold, path_at
from manifest_sync.export.state import Needed, read_needed, write_needed
from manifest_sync.externals import packs_of
from manifest_sync.location import Location
from manifest_sync.model import Path
from manifest_sync.pages import PageRef
from manifest_sync.repository import Head
from manifest_sync.snapshots import Snapshots
from manifest_sync.verify.damage import Kind
from manifest_sync.verify.survey import Survey, survey
from manifest_sync.workspace import Workspace

_MAX_STEPS = 100
"""Snapshots since a note that are followed one by one; behind more, all are read anew, side by side."""


class AdoptedObjects:
    """The adopted objects at one destination.

    Args:
        destination: where the export goes.
        bucket: where the repository is.
        state: where the state of this destination is kept.
    """

    def __init__(
        self, ws: Workspace, head: Head, destination: Location, bucket: Location, state: str
    ) -> None:
        self._ws = ws
        self._head = head
        self._destination = destination
        self._bucket = bucket
        # A link on the way to a folder may lead elsewhere by now: only keys of a store are noted.
        self._note = f"{state}.adopted" if destination.scheme == "s3" else ""

    def needed(self, touched: Sequence[Path]) -> frozenset[Path]:
        """Those of the paths at which something lies that a kept snapshot or a pin needs there.

        Raises:
            Damaged: what lies there was adopted, and which of it is needed cannot be told.
        """
        if not touched or not may_hold(self._destination, self._bucket):
            return frozenset()
        known = self._carry_on()
        # A note may name what was collected since: it can only spare the reading, never refuse.
        if known is None or not known.isdisjoint(touched):
            known = self._read_all()
        return known.intersection(touched)

    def _carry_on(self) -> frozenset[Path] | None:
        """What was noted, with what the snapshots since then need; None where that cannot be told."""
        noted = read_needed(self._note) if self._note else None
        if noted is None or not 0 <= self._head.manifest.sequence - noted.sequence <= _MAX_STEPS:
            return None
        pages: dict[PageRef, None] = {}
        try:
            for manifest in Snapshots(self._ws.repository, self._head).walk():
                if manifest.snapshot == noted.snapshot:
                    known = set(manifest.pages)
                    lost: dict[PageRef, str] = {}
                    found = self._paths([page for page in pages if page not in known], lost)
                    return None if lost else self._noted(noted.paths | found)
                pages.update(dict.fromkeys(manifest.pages))
        except Damaged:
            return None
        return None

    def _read_all(self) -> frozenset[Path]:
        """What any kept snapshot needs; each page is read once."""
        found = survey(self._ws.repository, self._head, jobs=self._ws.jobs)
        lost: dict[PageRef, str] = {}
        paths = self._paths(found.pages, lost)
        unread = [*lost.values(), *(f"{key}: {what}" for key, what in _unread_snapshots(found))]
        if not unread:
            return self._noted(paths)
        if paths:
            raise Damaged(
                f"{self._destination} holds adopted objects, and which of them old snapshots need cannot be "
                f"told: {unread[0]}; nothing was done",
                "export to a folder or a prefix of its own; `manifest-sync verify` names what is damaged",
            )
        return paths

    def _paths(self, pages: Iterable[PageRef], lost: dict[PageRef, str]) -> frozenset[Path]:
        urls = {
            pack.url
            for _, entries in self._ws.repository.load_pages(list(pages), lost)
            for entry in entries
            for pack in packs_of(entry)
        }
        found = (path_at(url, self._destination) for url in urls)
        return frozenset(path for path in found if path is not None)

    def _noted(self, paths: frozenset[Path]) -> frozenset[Path]:
        manifest = self._head.manifest
        if self._note:
            write_needed(self._note, Needed(manifest.snapshot, manifest.sequence, paths))
        return paths


def _unread_snapshots(found: Survey) -> list[tuple[str, str]]:
    """Key of each snapshot whose pages are not known, and why: not the head's copy, which has the head's."""
    hurt = [(one.key, one.what) for one in found.damaged if one.kind is Kind.SNAPSHOT and not one.cached]
    return hurt + [(key, what) for key, what in found.unchecked if key.startswith("snapshots/")]
