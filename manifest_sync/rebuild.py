"""Rebuild: a new index from the tree and the bucket, when the old one is lost, corrupt or another tree's.

Every path whose local state equals the remote one becomes base. Nothing else is assumed, so what
differs shows up as new on one side or as a conflict, never as a deletion (P11).
"""

from __future__ import annotations

from manifest_sync import observe, statcache
from manifest_sync.races import load_reflected_head
from manifest_sync.report import RunReport
from manifest_sync.rootcheck import note_root
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace


def rebuild_index(ws: Workspace, scope: Scope) -> RunReport:
    """Fill an empty index: read the head's pages, scan, hash what the bucket also has, and compare.

    Args:
        scope: what this machine tracks.
    """
    report = RunReport("rebuild-index", "full")
    note_root(ws)
    head, lost = load_reflected_head(ws, scope)
    ws.progress.begin("hash")
    observed = statcache.scan(ws, scope, reflected_but=lost)
    statcache.hash_unread(ws, scope, observed)
    observe.agree(ws, scope, observed)
    report.damaged = lost.damages(scope.ranges())
    report.unchanged = ws.index.count_in_sync(scope.ranges())
    report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    report.skipped = sorted(observed.skipped.items())
    return report
