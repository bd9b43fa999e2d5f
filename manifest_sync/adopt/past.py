"""What earlier snapshots had of the objects that are offered: another machine may have adopted them, and what
pushes made of their files since is newer than the objects."""

from __future__ import annotations

from manifest_sync.adopt.judge import is_of
from manifest_sync.errors import Damaged
from manifest_sync.externals import packs_of
from manifest_sync.model import Path
from manifest_sync.repository import Head
from manifest_sync.snapshots import Snapshots
from manifest_sync.workspace import Workspace

MAX_LOOK_BACK = 100
"""Snapshots that are looked at, newest first."""


def learn_past(ws: Workspace, head: Head, listing: int) -> None:
    """Note which of the objects of a listing, as they are now, an ancestor of ``head`` has at their paths.

    Each page is read once. Where the past cannot be read, nothing is learnt from it: then such an object
    counts as new, or as a conflict.
    """
    seen = {page.id for page in head.manifest.pages}
    snapshots = Snapshots(ws.repository, head)
    manifest = head.manifest
    try:
        for _ in range(MAX_LOOK_BACK):
            parent = snapshots.parent(manifest)
            if parent is None:
                return
            fresh = [page for page in parent.pages if page.id not in seen]
            seen.update(page.id for page in fresh)
            found: list[Path] = []
            for _, entries in ws.repository.load_pages(fresh):
                for entry in entries:
                    packs = packs_of(entry)
                    listed = ws.index.listed_at(listing, entry.path) if packs else None
                    if listed is not None and any(is_of(listed, None, pack) for pack in packs):
                        found.append(entry.path)
            ws.index.note_past(found, parent.snapshot)
            manifest = parent
    except Damaged:
        return
