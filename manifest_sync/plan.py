"""From cases and a mode to actions. Pure: what a run will do is decided here and carried out elsewhere."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from manifest_sync.diff import CONFLICTS, Case, clashes, classify
from manifest_sync.errors import SafetyLimit, UsageError
from manifest_sync.model import MAX_COMPONENT, Path, State
from manifest_sync.report import RunReport, describe


class Triple(Protocol):
    """One path with its local, base and remote state."""

    @property
    def path(self) -> Path: ...
    @property
    def local(self) -> State | None: ...
    @property
    def base(self) -> State | None: ...
    @property
    def remote(self) -> State | None: ...


class Verb(StrEnum):
    """What is done with a path."""

    UPLOAD = "upload"
    DELETE_REMOTE = "delete"
    DOWNLOAD = "download"
    DELETE_LOCAL = "trash"
    RECORD = "record"
    """Both sides agree: only the base is brought up to date."""
    TAKE_REMOTE_BASE = "settle"
    """A conflict settled for the local side without sending it: it becomes an ordinary local change."""
    TAKE_LOCAL_BASE = "yield"
    """A conflict settled for the remote side without fetching it: the next pull brings it."""
    KEEP_BOTH = "both"
    """A conflict settled for this side, with the bucket's version kept beside it under a name of its own."""
    CONFLICT = "conflict"
    LEAVE = "leave"
    NOTHING = "nothing"


_PUSH: dict[str, dict[Case, Verb]] = {
    "new": {Case.NEW_HERE: Verb.UPLOAD},
    "copy": {Case.NEW_HERE: Verb.UPLOAD, Case.CHANGED_HERE: Verb.UPLOAD},
    "full": {
        Case.NEW_HERE: Verb.UPLOAD,
        Case.CHANGED_HERE: Verb.UPLOAD,
        Case.DELETED_HERE: Verb.DELETE_REMOTE,
    },
}
_PULL: dict[str, dict[Case, Verb]] = {
    "new": {Case.NEW_THERE: Verb.DOWNLOAD},
    "copy": {Case.NEW_THERE: Verb.DOWNLOAD, Case.CHANGED_THERE: Verb.DOWNLOAD},
    "full": {
        Case.NEW_THERE: Verb.DOWNLOAD,
        Case.CHANGED_THERE: Verb.DOWNLOAD,
        Case.CHANGED_HERE: Verb.DOWNLOAD,
        Case.DELETED_HERE: Verb.DOWNLOAD,
        Case.DELETED_THERE: Verb.DELETE_LOCAL,
    },
}
_TABLES = {"push": _PUSH, "pull": _PULL}
MODES = ("new", "copy", "full")
RESOLUTIONS = ("local", "remote", "both")
_DELETIONS = (Verb.DELETE_REMOTE, Verb.DELETE_LOCAL)
_MOVES = (Verb.UPLOAD, Verb.DOWNLOAD, Verb.KEEP_BOTH)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for: the command, its mode and the options that change a verdict."""

    command: str
    mode: str
    delete_unknown: bool = False
    restore_deleted: bool = False
    resolve: str = ""
    """``local``, ``remote`` or ``both``, or empty."""
    resolve_paths: tuple[Path, ...] = ()
    """Where ``resolve`` holds; empty: every conflict."""
    renewed: frozenset[Path] = frozenset()
    """What this very pull brought as new before it had to plan again on a newer head, which it follows."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"unknown mode {self.mode!r}", f"use one of {', '.join(MODES)}")
        if self.resolve not in ("", *RESOLUTIONS):
            raise UsageError(f"--resolve takes {', '.join(RESOLUTIONS)}, not {self.resolve!r}")
        if self.delete_unknown and self.mode != "full":
            raise UsageError("--delete-unknown goes with --full", "add --full, or leave it out")

    def decide(self, case: Case, row: Triple) -> Verb:
        """The verb for one path that is in ``case``."""
        if case is Case.IN_SYNC:
            return Verb.NOTHING
        if case in (Case.SAME_CHANGE, Case.BOTH_DELETED):
            return Verb.RECORD
        if self._is_resolved(case, row.path):
            return self._resolution(case, row)
        if case in CONFLICTS:
            return Verb.CONFLICT
        if self.command == "push" and case is Case.NEW_THERE and self.delete_unknown:
            return Verb.DELETE_REMOTE
        if self.command == "pull":
            if case is Case.NEW_HERE and self.delete_unknown:
                return Verb.DELETE_LOCAL
            if case is Case.DELETED_HERE and self.restore_deleted:
                return Verb.DOWNLOAD
            if row.path in self.renewed and case in (Case.CHANGED_THERE, Case.DELETED_THERE):
                return _PULL["full"][case]
        return _TABLES[self.command][self.mode].get(case, Verb.LEAVE)

    def _is_resolved(self, case: Case, path: Path) -> bool:
        if not self.resolve:
            return False
        if not self.resolve_paths:
            return case in CONFLICTS
        named = any(path == p or path.startswith(p + b"/") for p in self.resolve_paths)
        # Two versions to keep are there only in a conflict.
        sides = () if self.resolve == "both" else (Case.CHANGED_THERE, Case.DELETED_THERE)
        return named and (case in CONFLICTS or case in sides)

    def _resolution(self, case: Case, row: Triple) -> Verb:
        resolve = self.resolve
        if resolve == "both":
            if case is Case.EDIT_EDIT:
                return Verb.KEEP_BOTH
            # One side has nothing to keep: the edit is both versions.
            resolve = "remote" if row.local is None else "local"
        if self.command == "push":
            if resolve == "remote":
                return Verb.TAKE_LOCAL_BASE
            return Verb.DELETE_REMOTE if row.local is None else Verb.UPLOAD
        if resolve == "local":
            return Verb.TAKE_REMOTE_BASE
        return Verb.DELETE_LOCAL if row.remote is None else Verb.DOWNLOAD


@dataclass(frozen=True, slots=True)
class Action:
    """One path and what is done with it; prints as one stable line."""

    verb: Verb
    case: Case
    path: Path

    def __str__(self) -> str:
        return describe(self.path, self.verb.value)


@dataclass(slots=True)
class Summary:
    """The first pass over a plan: what it comes to, before anything is done."""

    verbs: dict[Verb, int] = field(default_factory=dict)
    cases: dict[Case, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    moves: dict[Case, int] = field(default_factory=dict)
    """Uploads or downloads by case."""
    conflicts: list[Path] = field(default_factory=list)
    clashing: frozenset[Path] = frozenset()

    def count(self, verb: Verb, case: Case, path: Path) -> None:
        """Add one path and what is done with it."""
        self.verbs[verb] = self.verbs.get(verb, 0) + 1
        self.cases[case] = self.cases.get(case, 0) + 1
        if verb in _MOVES:
            self.moves[case] = self.moves.get(case, 0) + 1
        elif verb is Verb.CONFLICT:
            self.conflicts.append(path)
        elif verb is Verb.LEAVE:
            self.left[case.value] = self.left.get(case.value, 0) + 1

    @property
    def deletions(self) -> int:
        """How many paths the plan deletes, on whichever side."""
        return sum(self.verbs.get(verb, 0) for verb in _DELETIONS)

    @property
    def acts(self) -> bool:
        """Whether the plan does anything besides reporting."""
        return any(self.verbs.get(v, 0) for v in Verb if v not in (Verb.LEAVE, Verb.NOTHING, Verb.CONFLICT))


def judge(row: Triple, policy: Policy, clashing: frozenset[Path] = frozenset()) -> tuple[Verb, Case]:
    """What is done with a path, and the case that it follows from; a clash (case 13) is a conflict."""
    if row.path in clashing:
        return Verb.CONFLICT, Case.FILE_FOLDER
    case = classify(row.local, row.base, row.remote)
    return policy.decide(case, row), case


def iter_actions(
    rows: Iterable[Triple], policy: Policy, clashing: frozenset[Path] = frozenset()
) -> Iterator[Action]:
    """The actions for ``rows``, in their order; see `judge`."""
    for row in rows:
        verb, case = judge(row, policy, clashing)
        if verb is not Verb.NOTHING:
            yield Action(verb, case, row.path)


def present_after(row: Triple, verb: Verb, command: str) -> bool:
    """Whether the path exists on the side that ``command`` writes, once ``verb`` was carried out."""
    if verb in _DELETIONS:
        return False
    if verb in (Verb.UPLOAD, Verb.DOWNLOAD):
        return True
    return (row.remote if command == "push" else row.local) is not None


def summarize(rows: Callable[[], Iterable[Triple]], policy: Policy, outside: Iterable[Path] = ()) -> Summary:
    """First pass: count the plan and find the paths that would clash.

    Args:
        rows: the rows in path order; called once more when paths clash.
        outside: in path order, paths that the plan does not touch but that exist on the side it writes.
    """

    summary = Summary()

    def present() -> Iterator[Path]:
        for row in rows():
            verb, case = judge(row, policy)
            if verb is not Verb.NOTHING:
                summary.count(verb, case, row.path)
            if present_after(row, verb, policy.command):
                yield row.path

    clashing = clashes(heapq.merge(present(), outside))
    if not clashing:
        return summary
    summary = Summary(clashing=clashing)
    for action in iter_actions(rows(), policy, clashing):
        summary.count(action.verb, action.case, action.path)
    return summary


def conflict_path(path: Path, host: str, time: str, taken: Callable[[Path], bool]) -> Path:
    """Where the bucket's version of a path is kept beside this side's: ``name.conflict-<host>-<time>.ext``.

    Args:
        host, time: who wrote that version and when (RFC 3339).
        taken: whether a path exists already; then a number is added.
    """
    folder, slash, name = path.rpartition(b"/")
    stem, dot, extension = name.rpartition(b".")
    if not stem:
        stem, dot, extension = name, b"", b""
    who = re.sub(rb"[^A-Za-z0-9_-]+", b"-", host.encode())[:64] or b"unknown"
    when = re.sub(rb"[^0-9TZ]+", b"", time.encode())[:20]
    for number in itertools.count():
        mark = b".conflict-" + who + b"-" + when + (b"-%d" % number if number else b"")
        end = mark + dot + extension[: MAX_COMPONENT // 2]
        candidate = Path(folder + slash + stem[: MAX_COMPONENT - len(end)] + end)
        if not taken(candidate):
            return candidate
    raise AssertionError("unreachable")


def check_limit(limit: str | None) -> None:
    """Raises `UsageError` unless a run can go by this ``--max-delete``; see `check_deletions`.

    For the beginning of a run: whether it has anything to delete must not decide about a mistyped option.
    """
    if limit is not None and not limit.removesuffix("%").isdecimal():
        raise UsageError(
            f"--max-delete takes a number or a percentage, not {limit!r}",
            "give how many deletions are meant, such as 20 or 80%",
        )


def _over_limit(deletions: int, in_scope: int, limit: str | None) -> str:
    """What is wrong with so many deletions; '' where they are within the limit. See `check_deletions`."""
    check_limit(limit)
    if limit is None:
        allowed = max(10, in_scope // 2)
    else:
        number = int(limit.removesuffix("%"))
        allowed = in_scope * number // 100 if limit.endswith("%") else number
    if deletions <= allowed:
        return ""
    return f"this would delete {deletions} of {in_scope} files in scope; the limit is {allowed}"


def check_deletions(deletions: int, in_scope: int, limit: str | None) -> None:
    """The deletion guard.

    Args:
        deletions: how many paths the plan deletes.
        in_scope: how many paths the side that loses them has in scope.
        limit: ``--max-delete``: a number, a percentage such as ``80%``, or None for the default (more
            than half of what is in scope, when that is more than 10 files).

    Raises:
        SafetyLimit: the plan deletes more.
        UsageError: the limit is neither a number nor a percentage.
    """
    if over := _over_limit(deletions, in_scope, limit):
        raise SafetyLimit(
            f"{over}; nothing was done",
            f"look at --dry-run first; if it is meant, add --max-delete {deletions}",
        )


def guard_deletions(report: RunReport, deletions: int, in_scope: int, limit: str | None) -> None:
    """The deletion guard of a run; see `check_deletions`. A dry run goes on to list what would be deleted,
    and its report says what would stop it.

    Raises:
        SafetyLimit: it is no dry run, and the plan deletes more than the limit.
        UsageError: the limit is neither a number nor a percentage.
    """
    if not report.dry_run:
        check_deletions(deletions, in_scope, limit)
    elif over := _over_limit(deletions, in_scope, limit):
        report.limit = f"{over}; if it is meant, add --max-delete {deletions}"
