"""Pull: the other side's changes come to this tree.

load head → scan → diff → plan (a dry run stops here) → trash → fetch and verify → replace → record base.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from manifest_sync import observe, statcache
from manifest_sync.decide import Decision, RunOptions, decide, discount
from manifest_sync.errors import Damaged
from manifest_sync.fetch import Hurt, damaged_files
from manifest_sync.index.index import NOWHERE, Row
from manifest_sync.landing import Landing, Wanted, settle
from manifest_sync.model import Path, State
from manifest_sync.plan import Verb
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.upload import lost_packs, note_lost_packs
from manifest_sync.workspace import Workspace

MAX_PLANS = 3


def pull(ws: Workspace, options: RunOptions) -> RunReport:
    """Bring the bucket's changes into the tree; what they replace goes to the trash.

    What the bucket does not hold although its head names it is reported; the rest arrives.

    Raises:
        SafetyLimit: it would delete more than ``max_delete`` allows, or the disk is too small.
        ManifestSyncError: anything else that stopped the run; every path is whole, old or new.
    """
    report = RunReport("pull", options.policy.mode, options.dry_run)
    observe.check_root(ws)
    settle(ws)
    head = observe.load_head(ws)
    observed = statcache.scan(ws, options.scope, checksum=options.checksum)
    hurt: Hurt = {}
    new = changed = deleted = 0
    # One for all plans: what a pull does is one run, and undone as one.
    landing = Landing(ws, f"pull --{report.mode}")
    with ExitStack() as opened:
        for plans in range(1, MAX_PLANS + 1):
            if plans > 1:
                options = _renewing(ws, options, landing.run)
            hurt = {}
            try:
                decision = decide(ws, head, options, observed, report)
                if not options.dry_run and decision.summary.acts:
                    if not landing.is_open:
                        opened.enter_context(landing)
                    hurt = _carry_out(decision, head, report, landing)
                    report.damaged += damaged_files(hurt)
            except Damaged:
                latest = observe.load_head(ws)
                if latest.etag == head.etag or plans == MAX_PLANS:
                    raise
                head = latest
                continue
            new, changed, deleted = new + report.new, changed + report.changed, deleted + report.deleted
            # A collection may have moved what this plan wanted; then there is another head by now.
            if not hurt or plans == MAX_PLANS or (latest := observe.load_head(ws)).etag == head.etag:
                break
            head = latest
    report.new, report.changed, report.deleted = new, changed, deleted
    if hurt:
        note_lost_packs(ws, [*lost_packs(ws), *(missing.key for missing in hurt.values())])
    dropped = ws.index.count_dropped(options.scope.ranges())
    if dropped:
        report.left["dropped"] = dropped
    report.snapshot, report.sequence = head.manifest.snapshot, head.manifest.sequence
    report.note_skipped(observed.skipped)
    report.missed = observed.missed
    return report


def _renewing(ws: Workspace, options: RunOptions, run: str) -> RunOptions:
    """Plan again so that what this run has brought as new becomes that of the newer head, in every mode:
    what a pull brings is one snapshot and no mixture of two (P2)."""
    if not run:
        return options
    brought = (step.path for _, step in ws.worktree.trash().steps(run) if step.before is None)
    policy = replace(options.policy, renewed=options.policy.renewed.union(brought))
    return replace(options, policy=policy)


def _carry_out(decision: Decision, head: Head, report: RunReport, landing: Landing) -> Hurt:
    ws = decision.ws
    landing.begin_plan()
    try:
        settled = [(row, row.remote) for row in decision.rows(Verb.TAKE_REMOTE_BASE)]
        landing.remove(decision.gone_there(head))
        ws.progress.begin("transfer", files=decision.summary.verbs.get(Verb.DOWNLOAD, 0))
        landing.bring(decision.entries(head, Verb.DOWNLOAD))
        settled += _keep_both(decision, head, landing)
        ws.progress.end("transfer")
        # Last, because the plan is read from the index: settled any sooner, a conflict would look like
        # an ordinary change to the steps above.
        landing.set_base(settled)
        landing.finish(decision.options.scope)
    finally:
        report.run, report.bytes = landing.run, landing.bytes
        report.conflicts = sorted({*report.conflicts, *landing.changed})
        decision.observed.skipped.update(landing.skipped)
    discount(report, landing.left)
    report.deleted -= landing.kept
    return landing.hurt


def _keep_both(decision: Decision, head: Head, landing: Landing) -> list[tuple[Row, State | None]]:
    """Bring the bucket's version of a conflict under a name of its own; what is settled by that."""
    kept: list[tuple[Row, Path]] = []

    def copies() -> Iterator[Wanted]:
        for row, entry in decision.copies(head):
            kept.append((row, entry.path))
            if statcache.read_state(decision.ws, entry.path) == entry.state:
                continue  # a run that was killed had brought it
            yield Row(entry.path, *NOWHERE), entry

    landing.bring(copies(), becomes_base=False)
    failed = {*landing.changed, *landing.skipped, *landing.hurt}
    return [(row, row.remote) for row, path in kept if path not in failed]
