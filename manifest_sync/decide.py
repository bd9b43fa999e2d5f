"""From an index that knows both sides to a checked plan: shared by push and pull."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec import structs

from manifest_sync import observe, statcache
from manifest_sync.config import Config
from manifest_sync.diff import Case, classify
from manifest_sync.errors import Damaged
from manifest_sync.index.index import Row
from manifest_sync.model import Entry, Path, State, display
from manifest_sync.plan import (
    Action,
    Policy,
    Summary,
    Verb,
    check_limit,
    conflict_path,
    guard_deletions,
    iter_actions,
    judge,
    summarize,
)
from manifest_sync.report import RunReport
from manifest_sync.repository import Head
from manifest_sync.scope import Scope, parse_scope
from manifest_sync.settle import Settle
from manifest_sync.statcache import Observed
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Unreadable, is_folder

_NEW = frozenset({Case.NEW_HERE, Case.NEW_THERE, Case.DELETED_HERE})
"""Cases that a report counts as new when they are moved; all others are changed."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One push or pull, as asked for."""

    policy: Policy
    scope: Scope
    checksum: bool = False
    dry_run: bool = False
    list_actions: bool = False
    max_delete: str | None = None
    message: str = ""
    settle: Settle | None = None
    """Of a push: send only what holds still."""
    named: tuple[Path, ...] = ()
    """What was asked for by name: where nothing is at one of these, that one is skipped, and said so."""


@dataclass(slots=True)
class Decision:
    """A checked plan. Its actions are read from the index again when they are carried out, in path order,
    so that a plan of a million files is never held as a list."""

    ws: Workspace
    options: RunOptions
    observed: Observed
    summary: Summary

    def rows(self, *verbs: Verb) -> Iterator[Row]:
        """The rows whose action is one of ``verbs``."""
        if not any(self.summary.verbs.get(verb) for verb in verbs):
            return
        for row in observe.iter_rows(self.ws, self.options.scope, self.observed):
            if judge(row, self.options.policy, self.summary.clashing)[0] in verbs:
                yield row

    def entries(self, head: Head, *verbs: Verb) -> Iterator[tuple[Row, Entry]]:
        """The rows whose action is one of ``verbs``, with their entries in the head; only pages that hold one
        of them are opened.

        Raises:
            Damaged: the head does not hold one of them after all.
        """
        rows = self.rows(*verbs)
        row = next(rows, None)
        for page in head.manifest.pages:
            if row is None:
                return
            if row.path > page.last:
                continue
            for entry in self.ws.repository.load_page(page):
                if row is not None and entry.path == row.path:
                    yield row, entry
                    row = next(rows, None)
        if row is not None:
            raise Damaged(
                f"{display(row.path)} is in no page of the head", "run `manifest-sync rebuild-index`"
            )

    def gone_there(self, head: Head) -> list[Row]:
        """The rows to delete here, made sure of by the pages that would hold them: a damaged index must not
        pass for a deletion (P11).

        Raises:
            Damaged: the head holds one of them after all.
        """
        rows = list(self.rows(Verb.DELETE_LOCAL))
        pages = iter(head.manifest.pages)
        page, held = next(pages, None), frozenset[Path]()
        for row in rows:
            while page is not None and page.last < row.path:
                page, held = next(pages, None), frozenset()
            if page is None or row.path < page.first:
                continue
            held = held or frozenset(entry.path for entry in self.ws.repository.load_page(page))
            if row.path in held:
                raise self.ws.index.damage(f"it does not know that the head holds {display(row.path)}")
        return rows

    def gone_here(self) -> Iterator[Row]:
        """The rows to delete in the bucket, each looked for once more: what is here after all is skipped, and
        its folder compared file by file by the next run (P11, P12)."""
        for row in self.rows(Verb.DELETE_REMOTE):
            try:
                stat = self.ws.worktree.lstat(row.path)
            except Unreadable as error:
                self.observed.skipped[row.path] = error.reason
                continue
            if stat is None or is_folder(stat):
                yield row
                continue
            self.observed.skipped[row.path] = "it was taken for deleted, and is there"
            self.ws.index.distrust_folder(Path(row.path.rpartition(b"/")[0]))

    def copies(self, head: Head) -> Iterator[tuple[Row, Entry]]:
        """The bucket's version of each conflict that is settled by keeping both: the row, and the entry under
        its new path."""
        for row, entry in self.entries(head, Verb.KEEP_BOTH):
            writer = entry.writer
            taken = partial(self._is_taken, state=entry.state, head=head)
            path = conflict_path(row.path, writer.host, writer.time, taken)
            yield row, structs.replace(entry, path=path)

    def _is_taken(self, path: Path, state: State, head: Head) -> bool:
        """Whether something else is there, here or in the bucket; a killed run may have left this copy."""
        if self.options.scope.only:
            # A copy may lie beside what was asked for, where the bucket has not been looked at.
            observe.reflect(self.ws, head, Scope((path,)))
        row = self.ws.index.row(path)
        if self.ws.worktree.lstat(path) is None:
            return row is not None
        if row is not None and row.remote not in (None, state):
            return True
        return statcache.read_state(self.ws, path) != state

    def actions(self) -> list[Action]:
        """What is done with which path, and the case that it follows from."""
        rows = observe.iter_rows(self.ws, self.options.scope, self.observed)
        return [
            action
            for action in iter_actions(rows, self.options.policy, self.summary.clashing)
            if action.verb not in (Verb.LEAVE, Verb.RECORD)
        ]


def decide(ws: Workspace, head: Head, options: RunOptions, observed: Observed, report: RunReport) -> Decision:
    """Bring the index up to ``head``, plan, check the limits and fill in the report's counts.

    Raises:
        SafetyLimit: the plan deletes more than ``max_delete`` allows.
        Damaged: a page is lost, and meanwhile there is another head.
    """
    observed.lost = lost = observe.reflect(ws, head, options.scope)
    if lost and ws.repository.load_head(head).etag != head.etag:
        raise Damaged(next(iter(lost.reasons.values())), "run the same command again")
    report.damaged = lost.damages(observe.scope_regions(options.scope))
    # Asked now, while what this run deletes is known: afterwards there is nothing at it either.
    report.nowhere = [] if lost else [path for path in options.named if observe.is_nowhere(ws, path)]
    statcache.hash_unread(ws, options.scope, observed)
    ranges = options.scope.ranges()
    if not options.dry_run:
        observe.agree(ws, options.scope, observed)
    summary = summarize(
        lambda: observe.iter_rows(ws, options.scope, observed),
        options.policy,
        observe.iter_outside(ws, options.scope, observed, options.policy.command),
    )
    if summary.deletions:
        losing_side = ws.index.count_remote if options.policy.command == "push" else ws.index.count_local
        guard_deletions(report, summary.deletions, losing_side(ranges), options.max_delete)
    decision = Decision(ws, options, observed, summary)
    _fill(decision, report)
    return decision


def discount(report: RunReport, passed_over: Sequence[Row]) -> None:
    """Take out of the report's counts what was planned and could not be sent or brought."""
    new = sum(classify(row.local, row.base, row.remote) in _NEW for row in passed_over)
    report.new -= new
    report.changed -= len(passed_over) - new


def _fill(decision: Decision, report: RunReport) -> None:
    summary, options = decision.summary, decision.options
    moves = summary.moves
    report.new = sum(moves.get(case, 0) for case in _NEW)
    report.changed = sum(moves.values()) - report.new
    report.deleted = summary.deletions
    report.unchanged = decision.ws.index.count_in_sync(options.scope.ranges())
    report.left = summary.left
    report.conflicts = summary.conflicts
    if options.dry_run or options.list_actions:
        actions = decision.actions()
        report.actions = [str(action) for action in actions]
        report.why = [action.case.value for action in actions]


def run_options(
    command: str,
    mode: str,
    config: Config,
    *,
    checksum: bool = False,
    dry_run: bool = False,
    list_actions: bool = False,
    only: Sequence[str] = (),
    files_from: Sequence[str] = (),
    exclude: Sequence[str] = (),
    resolve: str | None = None,
    resolve_paths: Sequence[str] = (),
    delete_unknown: bool = False,
    restore_deleted: bool = False,
    max_delete: str | None = None,
    message: str = "",
) -> RunOptions:
    """The options of a push or pull in their checked form.

    Raises:
        UsageError: an option that cannot be understood, options that do not go together, or a path outside
            the root.
    """
    check_limit(max_delete)
    policy = Policy(
        command,
        mode,
        delete_unknown=delete_unknown,
        restore_deleted=restore_deleted,
        resolve=resolve or "",
        resolve_paths=tuple(parse_scope(resolve_paths, config.root)),
    )
    scope = Scope(tuple(parse_scope([*only, *files_from], config.root)), tuple(exclude))
    return RunOptions(
        policy,
        scope,
        checksum=checksum,
        dry_run=dry_run,
        list_actions=list_actions,
        max_delete=max_delete,
        message=message,
        named=scope.only,
    )
