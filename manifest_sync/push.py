"""Push: this side's changes become the next head.

load head → scan → diff → plan (a dry run stops here) → upload → publish → record base.
"""

from __future__ import annotations

from manifest_sync import observe, statcache
from manifest_sync.decide import Decision, RunOptions, decide, discount
from manifest_sync.index import records
from manifest_sync.landing import settle
from manifest_sync.model import Entry, display
from manifest_sync.plan import Verb
from manifest_sync.publishing import Publishing
from manifest_sync.races import until_published
from manifest_sync.report import RunReport
from manifest_sync.repository import Head, Raced
from manifest_sync.upload import drop_collected, upload
from manifest_sync.workspace import Workspace


def push(ws: Workspace, options: RunOptions) -> RunReport:
    """Send this side's changes to the bucket.

    Raises:
        SafetyLimit: it would delete more than ``max_delete`` allows.
        Contended: other machines published first, too often.
        ManifestSyncError: anything else that stopped the run; nothing was published.
    """
    report = RunReport("push", options.policy.mode, options.dry_run)
    observe.check_root(ws)
    settle(ws)
    head = observe.load_head(ws)
    observed = statcache.scan(ws, options.scope, checksum=options.checksum)
    if options.settle is not None:
        statcache.note_restless(ws, options.scope, options.settle, observed)

    def attempt(current: Head) -> Head | Raced:
        decision = decide(ws, current, options, observed, report)
        if options.dry_run or not decision.summary.acts:
            return current
        return _send_and_publish(decision, current, report)

    head = until_published(ws, head, attempt, "run it again: what was uploaded is kept and is not sent twice")
    if not report.snapshot:
        report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    report.note_skipped(observed.skipped)
    report.waiting = sorted(observed.restless)
    report.missed = observed.missed
    return report


def _send_and_publish(decision: Decision, head: Head, report: RunReport) -> Head | Raced:
    ws, observed = decision.ws, decision.observed
    session = ws.new_session(head.manifest.fence)
    ws.index.plan_reset()
    drop_collected(ws, head)
    ws.progress.begin("transfer", files=decision.summary.verbs.get(Verb.UPLOAD, 0))
    uploads = decision.rows(Verb.UPLOAD, Verb.KEEP_BOTH)
    sent = upload(ws, head, session, uploads, observed, decision.options.settle)
    ws.progress.end("transfer")
    discount(report, sent.passed_over)
    report.bytes += sent.bytes
    report.stored_bytes += sent.stored_bytes
    # --resolve remote: the local version counts as agreed, so that the next pull replaces it. Recorded last,
    # because the plan is read from the index.
    yielded = [(row.path, row.local) for row in decision.rows(Verb.TAKE_LOCAL_BASE)]
    fence = head.manifest.fence
    deletions = [row.path for row in decision.gone_here()]
    report.deleted = len(deletions)
    ws.index.put_pending([(path, None, None, fence) for path in deletions])
    kept = [
        (entry.path, entry.state, records.encode_entry(entry), fence)
        for row, entry in decision.copies(head)
        if not observed.is_hidden(row.path)
    ]
    ws.index.put_pending(kept, becomes_base=False)
    if not ws.index.has_planned():
        ws.index.set_base(yielded)
        return head
    commit = ws.commit(session, decision.options.message, sent.stored_bytes)
    publishing = Publishing(ws, head, decision.options.scope)
    outcome = publishing.publish(commit, replaces=lambda entry: _check_replaced(ws, entry))
    if isinstance(outcome, Head):
        report.snapshot, report.sequence = commit.snapshot, head.manifest.sequence + 1
        report.published = True
        ws.index.set_base(yielded)
    return outcome


def _check_replaced(ws: Workspace, entry: Entry) -> None:
    """Only what the plan knew of is replaced or deleted: a damaged index must not pass for a plan (P11)."""
    row = ws.index.row(entry.path)
    if row is None or row.remote != entry.state:
        raise ws.index.damage(f"it does not know what the head holds at {display(entry.path)}")
