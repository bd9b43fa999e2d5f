"""Owners: who owns a path and why, and which files have two owners or none. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from manifest_sync import observe
from manifest_sync.errors import NoRepository
from manifest_sync.landing import settle
from manifest_sync.model import Path, Stat, json_path
from manifest_sync.ownership import RESERVED_RULE, TRACKED_RULE, Verdict
from manifest_sync.patterns import folder_ends
from manifest_sync.races import load_reflected_head
from manifest_sync.repository import Head
from manifest_sync.rootcheck import check_same_root
from manifest_sync.scope import Scope
from manifest_sync.workspace import Workspace
from manifest_sync.worktree import Unreadable, is_folder

BOTH_TRACKED = "git tracks it, and the bucket holds it"
BOTH_BY_RULE = "the rules make it git's, and the bucket holds it"
BOTH_SENT = "git tracks it, and it is the bucket's because git_tracked is false"
NOT_TRACKED = "the rules make it git's, and git does not track it"
LEFT_OUT = "the rules leave it out"

_CACHE = "two_owners"
_MOST_CACHED = 10_000


@dataclass(frozen=True, slots=True)
class Explained:
    """One path, who owns it, and why. What is in a group counts as the bucket's."""

    path: Path
    folder: bool
    verdict: Verdict
    line: int
    """Where the rule stands in ``manifest-sync.toml``, 0 where none decided."""
    decided_at: Path
    """The path that decided: this one or a folder above it."""
    tracked: bool
    here: bool
    in_bucket: bool
    """As the bucket was last seen."""

    def to_json(self) -> dict[str, Any]:
        """The fields of ``owners PATH --json``."""
        return {
            "path": json_path(self.path),
            "folder": self.folder,
            "owner": self.verdict.owner,
            "rule": self.verdict.rule,
            "line": self.line or None,
            "group": self.verdict.group or None,
            "decided_at": json_path(self.decided_at),
            "tracked": self.tracked,
            "here": self.here,
            "in_bucket": self.in_bucket,
        }


@dataclass(slots=True)
class OwnersReport:
    """What `survey` found, each list in path order."""

    two_owners: list[tuple[Path, str]] = field(default_factory=list)
    no_owner: list[tuple[Path, str]] = field(default_factory=list)
    """Files, and with a ``/`` at the end folders that are not entered."""
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """7 where the bucket's list of files is lost, 3 where folders could not be looked into, else 0."""
        return 7 if self.damaged else 3 if self.skipped else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``owners --json``."""
        lists = ("two_owners", "no_owner", "skipped", "damaged")
        found = {
            name: [{"path": json_path(path), "reason": reason} for path, reason in getattr(self, name)]
            for name in lists
        }
        return {
            "command": "owners",
            **found,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


def explain(
    ws: Workspace, path: Path, lines: Sequence[int], tracked: frozenset[bytes], *, as_folder: bool = False
) -> Explained:
    """Who owns ``path`` and by which rule; no request is made and nothing is read but its stat.

    Args:
        lines: where each rule stands in the configuration.
        tracked: what git tracks.
        as_folder: it was written with a ``/`` at the end; else it is a folder if there is one.
    """
    ownership = ws.ownership
    found = _stat(ws, path)
    row = ws.index.row(path)
    if found is None and row is None:
        as_folder = as_folder or any(ws.index.iter_remote([(path + b"/", path + b"0")]))
    folder = as_folder or not path or (found is not None and is_folder(found))
    verdict = ownership.folder_verdict(path) if folder else ownership.verdict(path)
    decided_at = path
    if path not in ownership.tracked:
        above = (Path(path[:end]) for end in folder_ends(path))
        decided_at = next((here for here in above if not ownership.folder_verdict(here).is_ours), path)
    return Explained(
        path,
        folder,
        verdict,
        lines[verdict.number] if 0 <= verdict.number < len(lines) else 0,
        decided_at,
        path in tracked,
        found is not None,
        row is not None and row.remote is not None,
    )


def _stat(ws: Workspace, path: Path) -> Stat | None:
    try:
        return ws.worktree.lstat(path)
    except Unreadable:
        # A name that is never touched.
        return None


def survey(ws: Workspace, scope: Scope, tracked: frozenset[bytes], *, offline: bool) -> OwnersReport:
    """The files with two owners and those with none.

    Args:
        tracked: what git tracks, whether the configuration heeds it or not.
        offline: what the bucket held when it was last seen; no request is made.

    Raises:
        NoRepository: offline, and this machine has never seen the bucket.
    """
    report = OwnersReport()
    check_same_root(ws)
    settle(ws)
    if not offline:
        _, lost = load_reflected_head(ws, scope)
        report.damaged = lost.damages(observe.scope_regions(scope))
    elif observe.cached_head(ws) is None:
        raise NoRepository(
            "this machine has not seen the bucket yet", "run `manifest-sync owners` without --offline"
        )
    report.two_owners = sorted(_iter_two_owners(ws, scope, tracked))
    skipped: dict[Path, str] = {}
    if ws.worktree.exists():
        report.no_owner = sorted(_iter_no_owner(ws, scope, tracked, skipped))
    report.skipped = sorted(skipped.items())
    return report


def two_owners(ws: Workspace, scope: Scope, head: Head, *, complete: bool) -> list[Path]:
    """The paths that the bucket holds and that are git's, for `status`.

    For the whole tree the answer is kept, because it hangs only on the head, the rules and what git tracks;
    whether the head was asked for just now makes no difference to it.

    Args:
        head: the one that the index reflects.
        complete: whether the index reflects all of it.
    """
    tracked = ws.ownership.tracked
    digest = blake3(ws.ownership.digest + head.etag.encode() + b"\0".join(sorted(tracked))).hexdigest()
    kept = ws.index.get_meta(_CACHE) if scope.is_everything else None
    if kept is not None and kept.startswith(digest):
        return [Path(bytes.fromhex(path)) for path in json.loads(kept[len(digest) :])]
    found = [path for path, _ in _iter_two_owners(ws, scope, tracked)]
    if scope.is_everything and complete and len(found) <= _MOST_CACHED:
        ws.index.set_meta(_CACHE, digest + json.dumps([path.hex() for path in found]))
    return found


def _iter_two_owners(ws: Workspace, scope: Scope, tracked: frozenset[bytes]) -> Iterator[tuple[Path, str]]:
    ownership = ws.ownership
    for path in ws.index.iter_remote(scope.ranges()):
        if scope.contains(path) and not ownership.file_is_ours(path):
            verdict = ownership.verdict(path)
            if verdict.owner == "git":
                yield path, BOTH_TRACKED if verdict.rule == TRACKED_RULE else BOTH_BY_RULE
    for name in sorted(tracked - ownership.tracked):
        path = Path(name)
        if scope.contains(path) and ownership.file_is_ours(path):
            row = ws.index.row(path)
            if (row is not None and row.remote is not None) or _stat(ws, path) is not None:
                yield path, BOTH_SENT


def _iter_no_owner(
    ws: Workspace, scope: Scope, tracked: frozenset[bytes], skipped: dict[Path, str]
) -> Iterator[tuple[Path, str]]:
    ownership = ws.ownership

    def enters(folder: Path) -> bool:
        verdict = ownership.folder_verdict(folder)
        # What a submodule holds is its own business, and what a group holds is the bucket's.
        by_rule = verdict.owner == "git" and verdict.rule != TRACKED_RULE
        return (verdict.is_ours or by_rule) and scope.enters(folder)

    for _, files, folders, _ in ws.worktree.iter_names(enters, skipped):
        for path in files:
            if not scope.contains(path) or path in tracked:
                continue
            verdict = ownership.verdict(path)
            if verdict.owner == "git":
                yield path, NOT_TRACKED
            elif verdict.owner == "neither":
                yield path, _why(verdict)
        for folder in folders:
            verdict = ownership.folder_verdict(folder)
            if verdict.owner == "neither" and verdict.rule != RESERVED_RULE and scope.enters(folder):
                yield Path(folder + b"/"), _why(verdict)


def _why(verdict: Verdict) -> str:
    return f"{LEFT_OUT} ({verdict.rule})"
