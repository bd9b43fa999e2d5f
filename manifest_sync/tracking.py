"""Track and untrack: change which part of the tree this machine looks at, so that nothing can be lost by it.

What lies outside a selection gets no base: whether the selection is changed, lost or read from an old backup,
an absence there is never taken for a deletion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from manifest_sync import observe, statcache
from manifest_sync.errors import UsageError
from manifest_sync.landing import settle
from manifest_sync.model import SPECIAL, Path, display, is_below, json_path
from manifest_sync.rootcheck import check_same_root
from manifest_sync.scope import Scope
from manifest_sync.selection import Selection, outermost
from manifest_sync.workspace import Workspace


@dataclass(frozen=True, slots=True)
class TrackReport:
    """The selection as it is now, and what the change came to."""

    command: str
    selection: Selection
    lifted: int = 0
    """Files that had been dropped and that the next pull brings back."""
    unsent: int = 0
    """Files here that left the selection and differ from the bucket as it was last seen."""

    def to_json(self) -> dict[str, Any]:
        """The fields of ``--json``."""
        return {
            "command": self.command,
            "everything": not self.selection,
            "selection": [json_path(path) for path in self.selection],
            "lifted": self.lifted,
            "unsent": self.unsent,
        }


def track(ws: Workspace, selection: Selection, paths: Sequence[Path]) -> TrackReport:
    """Add paths to the selection, and take the marks of `drop` off them.

    Where nothing is selected yet they become the selection; but if some of them were dropped, those are
    meant, and everything stays selected.
    """
    check_same_root(ws)
    settle(ws)
    for path in paths:
        if _is_nowhere(ws, path):
            ws.progress.note(
                f"{display(path)}: nothing is there, neither here nor in the bucket as it was last seen; "
                f"it is tracked all the same, and `untrack {display(path)}` takes it out"
            )
    dropped = list(ws.index.iter_dropped(Scope(tuple(paths)).ranges()))
    with ws.index.transaction():
        # Without a base: they would look deleted here.
        ws.index.set_base((path, None) for path in dropped)
        ws.index.undrop(dropped)
    after = selection if dropped and not selection else outermost([*selection, *paths])
    return _changed(ws, "track", selection, after, len(dropped))


def _is_nowhere(ws: Workspace, path: Path) -> bool:
    """Whether it is known that nothing is at a path; no request is made for it."""
    head = observe.cached_head(ws)
    if head is None or not observe.is_nowhere(ws, path):
        return False
    # What lay outside the selection so far is in no row of the index, but perhaps in a page.
    ranges = Scope((path,)).ranges()
    for page in head.manifest.pages:
        if observe.touches(page, ranges):
            if ws.index.load_page_body(page.id) is None:
                return False
            if any(is_below(entry.path, path) for entry in ws.repository.load_page(page)):
                return False
    return True


def untrack(ws: Workspace, selection: Selection, paths: Sequence[Path]) -> TrackReport:
    """Take paths out of the selection; the files stay.

    Raises:
        UsageError: a path is not selected by itself or with what is below it, or nothing would be left.
    """
    check_same_root(ws)
    settle(ws)
    for path in paths:
        if any(is_below(one, path) for one in selection):
            continue
        above = [one for one in selection if is_below(path, one)]
        if above or not selection:
            whole = display(above[0]) if above else "everything"
            raise UsageError(
                f"{display(path)} cannot be left out of {whole}, which is tracked as a whole",
                "name what to keep instead: `manifest-sync track PATH...`",
            )
        raise UsageError(
            f"{display(path)} is not tracked", "`manifest-sync track` lists what this machine tracks"
        )
    after = tuple(one for one in selection if not any(is_below(one, path) for path in paths))
    if not after:
        raise UsageError(
            "that would leave nothing tracked on this machine",
            "`manifest-sync track --all` selects everything, `manifest-sync drop PATH` frees the disk",
        )
    # What no run has looked at yet counts too: nothing will look at it from now on.
    leaving = Scope(tuple(paths))
    statcache.hash_unread(ws, leaving, statcache.scan(ws, leaving))
    return _changed(ws, "untrack", selection, after, 0)


def _changed(ws: Workspace, command: str, before: Selection, after: Selection, lifted: int) -> TrackReport:
    unsent = 0
    if after and after != before:
        old, new = Scope(before), Scope(after)
        unsent = sum(
            row.local not in (None, SPECIAL)
            and row.local != row.remote
            and old.contains(row.path)
            and not new.contains(row.path)
            and ws.ownership.file_is_ours(row.path)
            for row in ws.index.iter_drift(Scope.everything().ranges())
        )
        ws.index.forget_base_outside(new.ranges())
    return TrackReport(command, after, lifted, unsent)
