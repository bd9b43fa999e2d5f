"""Status: what differs between here and the bucket, without changing either."""

from __future__ import annotations

from manifest_sync import observe, statcache
from manifest_sync.diff import CONFLICTS, Case, clashes, classify
from manifest_sync.errors import NoRepository
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import settle
from manifest_sync.lostpages import LostPages
from manifest_sync.model import Path
from manifest_sync.owners import two_owners
from manifest_sync.races import load_reflected_head
from manifest_sync.report import Conflict, Side, StatusReport
from manifest_sync.repository import Head
from manifest_sync.scope import Scope
from manifest_sync.trash import summarize
from manifest_sync.workspace import Workspace


def status(ws: Workspace, scope: Scope, *, offline: bool) -> StatusReport:
    """The drift in ``scope``.

    Args:
        offline: compare with the bucket as it was last seen; no request is made.

    Raises:
        NoRepository: offline, and this machine has never seen the bucket.
    """
    observe.check_root(ws)
    settle(ws)
    lost = LostPages()
    if offline:
        head = observe.cached_head(ws)
        if head is None:
            raise NoRepository(
                "this machine has not seen the bucket yet, so there is nothing to compare with offline",
                "run `manifest-sync status` without --offline",
            )
    else:
        head, lost = load_reflected_head(ws, scope)
    observed = statcache.scan(ws, scope)
    observed.lost = lost
    statcache.hash_unread(ws, scope, observed)
    observe.agree(ws, scope, observed)
    report = StatusReport(
        damaged=lost.damages(observe.scope_regions(scope)),
        offline=offline,
        snapshot=head.manifest.snapshot,
        sequence=head.manifest.sequence,
        unchanged=ws.index.count_in_sync(scope.ranges()),
        dropped=list(ws.index.iter_dropped(scope.ranges())),
    )
    is_reflected = ws.index.reflected().issuperset(page.id for page in head.manifest.pages)
    report.two_owners = two_owners(ws, scope, head, complete=not lost and is_reflected)
    trash = summarize(ws)
    report.trash_files, report.trash_bytes, report.trash_sole = trash.files, trash.bytes, trash.sole
    rows: dict[Path, Row] = {}
    present: list[Path] = []
    for row in observe.iter_rows(ws, scope, observed):
        case = classify(row.local, row.base, row.remote)
        if case is not Case.IN_SYNC:
            report.cases.setdefault(case.value, []).append(row.path)
        if case in CONFLICTS:
            rows[row.path] = row
        if case not in (Case.DELETED_HERE, Case.DELETED_THERE):
            # What one side replaced (a file by a folder, say) is a change of that side, not a clash.
            present.append(row.path)
    blocked = clashes(present)
    if blocked:
        report.cases[Case.FILE_FOLDER.value] = sorted(blocked)
        rows |= {path: ws.index.row(path) or Row(path, *NOWHERE) for path in blocked}
    report.conflicts = _conflicts(ws, head, rows, blocked)
    report.skipped = sorted(observed.skipped.items())
    return report


def _conflicts(ws: Workspace, head: Head, rows: dict[Path, Row], blocked: frozenset[Path]) -> list[Conflict]:
    """Both sides of each conflict; the pages that hold them are mostly cached."""
    remote: dict[Path, Side] = {}
    for page in head.manifest.pages:
        if any(page.first <= path <= page.last for path in rows):
            for entry in ws.repository.load_page(page):
                if entry.path in rows:
                    writer = entry.writer
                    remote[entry.path] = Side(entry.size, entry.mtime_ns, writer.host, writer.time)
    found = []
    for path, row in sorted(rows.items()):
        case = Case.FILE_FOLDER if path in blocked else classify(row.local, row.base, row.remote)
        local = Side(row.stat.size, row.stat.mtime_ns) if row.stat is not None else None
        found.append(Conflict(path, case.value, local, remote.get(path)))
    return found
