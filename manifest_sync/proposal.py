"""What rules select in a tree: shown before `init` writes them, and where they leave everything out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from manifest_sync.model import Path
from manifest_sync.ownership import RESERVED_RULE, Ownership, Verdict
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Worktree

_LAST = 1 << 30


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What one rule leaves out of the bucket.

    ``rule`` is the rule's text, ``tracked by git``, or ``group NAME`` for what goes only when asked for.
    ``folders`` are not looked into, so their files are not counted.
    """

    rule: str
    files: int
    folders: int

    def describe(self) -> str:
        """How much, in words."""
        counts = ((self.files, "file"), (self.folders, "folder"))
        return ", ".join(f"{count:,} {what}{'s' if count > 1 else ''}" for count, what in counts if count)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a tree would be divided into."""

    bucket_files: int
    left_out: tuple[LeftOut, ...]
    """What git tracks, the rules in their order, the groups; those that leave nothing out are not named."""

    def to_json(self) -> dict[str, Any]:
        """The field ``selected`` of ``init --json``."""
        return {
            "bucket_files": self.bucket_files,
            "left_out": [
                {"rule": one.rule, "files": one.files, "folders": one.folders} for one in self.left_out
            ],
        }


def note_all_left_out(ws: Workspace, scope: Scope) -> None:
    """Say so where there are files and not one of them is the bucket's: else a run that leaves everything to
    git would look like one in which all is in sync."""
    if not ws.worktree.exists() or ws.index.has_rows(scope.ranges()):
        return
    found = propose(ws.worktree, ws.ownership, scope)
    if found.left_out and not found.bucket_files:
        reasons = "; ".join(f"{one.rule}: {one.describe()}" for one in found.left_out)
        ws.progress.note(f"nothing here is the bucket's ({reasons}); `manifest-sync owners PATH` says why")


def propose(worktree: Worktree, ownership: Ownership, scope: Scope | None = None) -> Proposal:
    """Look at every name in the tree, or in the scope; nothing is read but names."""
    scope = scope or Scope.everything()
    files: Counter[tuple[int, str]] = Counter()
    folders: Counter[tuple[int, str]] = Counter()
    ours = 0

    def enters(folder: Path) -> bool:
        if not scope.enters(folder):
            return False
        verdict = ownership.folder_verdict(folder)
        if not verdict.is_ours and verdict.rule != RESERVED_RULE:
            folders[_reason(verdict)] += 1
        return verdict.is_ours

    for _, names, _, _ in worktree.iter_names(enters, {}):
        for path in filter(scope.contains, names):
            verdict = ownership.verdict(path)
            if verdict.is_ours:
                ours += 1
            elif verdict.rule != RESERVED_RULE:
                files[_reason(verdict)] += 1
    reasons = sorted(files.keys() | folders.keys())
    return Proposal(ours, tuple(LeftOut(text, files[n, text], folders[n, text]) for n, text in reasons))


def _reason(verdict: Verdict) -> tuple[int, str]:
    """Where it stands in the list, the groups last, and its text."""
    return (_LAST, f"group {verdict.group}") if verdict.group else (verdict.number, verdict.rule)
