"""The half of `doctor` that looks at this machine: the lock, the index, the tree and its filesystem."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from manifest_sync.doctor.findings import Finding, failure, from_error, ok, warning
from manifest_sync.errors import Contended, IndexDamaged, ManifestSyncError
from manifest_sync.gitinfo import tracked_files
from manifest_sync.index.index import Index
from manifest_sync.locking import LocalLock
from manifest_sync.project_folder import ProjectFolder
from manifest_sync.rootcheck import find_stranger
from manifest_sync.worktree import Traits, Worktree, probe_filesystem

MIN_FREE_BYTES = 1 << 30
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What the index knows of the bucket; empty texts where it knows nothing."""

    repository: str = ""
    snapshot: str = ""
    has_base: bool = False
    stranger: IndexDamaged | None = None
    """Why the root cannot be the folder that the index is of."""


def check_lock(folder: ProjectFolder) -> list[Finding]:
    """Whether a run could begin now."""
    try:
        with LocalLock(os.path.join(folder.state_dir(), "lock")):
            return [ok("lock", "no other run is under way here")]
    except Contended as error:
        return [
            warning("lock", error.message, "push and pull wait for nothing: start them when it has ended")
        ]


def check_index(folder: ProjectFolder) -> tuple[list[Finding], Seen]:
    """Reads the whole index; while another run holds the lock, a copy of it."""
    path = folder.index_path()
    if not os.path.exists(path):
        return [ok("index", "there is none yet; the first run makes it")], Seen()
    with ExitStack() as stack:
        what, mark = path, None
        try:
            try:
                stack.enter_context(LocalLock(os.path.join(folder.state_dir(), "lock")))
                mark = folder.index_mark()
            except Contended:
                path = stack.enter_context(Index.snapshot(path))
                what += " (a copy, because another run is writing to it)"
            index = stack.enter_context(Index.open(path, read_only=True, mark=mark))
            index.quick_check()
        except ManifestSyncError as error:
            return [from_error("index", error)], Seen()
        config = folder.config
        worktree = Worktree(
            folder.root, folder.state_dir(), symlinks=config.symlinks, trust_inode=config.trust_inode
        )
        stack.callback(worktree.close)
        seen = Seen(
            index.get_meta("repository") or "",
            index.get_meta("snapshot") or "",
            has_base=index.has_base(),
            stranger=find_stranger(worktree, index),
        )
    return [ok("index", f"{what} is whole")], seen


def check_root(folder: ProjectFolder, seen: Seen) -> list[Finding]:
    """Whether the tree is there, and whether git can be asked what it owns of it."""
    findings = []
    if seen.stranger is not None:
        findings.append(from_error("root", seen.stranger))
    elif os.path.isdir(folder.root):
        findings.append(ok("root", f"{folder.root} is there"))
    elif seen.has_base:
        findings.append(
            failure(
                "root",
                f"{folder.root} is missing, but this machine synced files in it",
                "mount or restore it; if it is gone for good, run `manifest-sync rebuild-index` and pull",
                1,
            )
        )
    else:
        findings.append(ok("root", f"{folder.root} is not there yet; the first pull makes it"))
    if folder.config.git_tracked:
        _, problem = tracked_files(folder.root)
        if problem:
            findings.append(
                warning("git", problem, "make `git ls-files` work there, or set git_tracked = false")
            )
        else:
            findings.append(ok("git", "git can be asked which files it tracks"))
    return findings


def check_filesystems(folder: ProjectFolder) -> list[Finding]:
    """The filesystem of the tree, and that of the local state where it is another one."""
    state = folder.state_dir()
    config = folder.config
    findings: list[Finding] = []
    if os.path.isdir(folder.root):
        worktree = Worktree(folder.root, state)
        try:
            tree = worktree.traits()
        finally:
            worktree.close()
        findings += tree_findings(
            tree,
            keeps_symlinks=config.symlinks == "keep",
            trusts_stat=config.trust_ctime or config.trust_inode,
        )
        if os.stat(state).st_dev == os.stat(folder.root).st_dev:
            return [*findings, state_finding(tree), space_finding(tree, "tree")]
        findings.append(space_finding(tree, "tree"))
    here = probe_filesystem(state)
    return [*findings, state_finding(here), space_finding(here, "local state")]


def tree_findings(found: Traits, *, keeps_symlinks: bool, trusts_stat: bool) -> list[Finding]:
    """What the filesystem of the tree means for the files in it.

    Args:
        keeps_symlinks: the configuration keeps symlinks.
        trusts_stat: the configuration takes a changed ctime or inode for a changed file.
    """
    findings = [_names(found), _times(found), _moves(found, keeps_symlinks=keeps_symlinks)]
    mount = found.mount
    if mount is None:
        return findings
    if not (mount.is_network or mount.is_fuse) or not trusts_stat:
        return [*findings, ok("mount", f"the tree lies on {mount.kind}")]
    return [
        *findings,
        warning(
            "mount",
            f"the tree lies on {mount.kind} ({mount.source} at {mount.where})",
            "if every run reads all files again, set trust_ctime = false and trust_inode = false in "
            "manifest-sync.toml: such filesystems may shuffle both",
        ),
    ]


def _names(found: Traits) -> Finding:
    folds = [
        what
        for what, does in (("upper and lower case", found.folds_case), ("NFC and NFD", found.folds_unicode))
        if does
    ]
    if folds:
        return warning(
            "names",
            f"{found.folder} takes {' and '.join(folds)} of a name for the same file",
            "paths of other machines that differ in nothing else land in one file here: rename one of them",
        )
    if found.refused_names:
        return warning(
            "names",
            f"{found.folder} does not keep {', '.join(found.refused_names)}",
            "pull skips such files here and names them; a Linux or macOS filesystem keeps them",
        )
    return ok("names", "every name can be kept, and no two names are taken for one")


def _times(found: Traits) -> Finding:
    if not found.ctime_moves:
        return warning(
            "times",
            f"{found.folder} does not move a file's ctime when its content changes",
            "a change of the same size whose mtime is put back goes unnoticed: use --checksum now and then",
        )
    if not found.mtime_step_ns or found.mtime_step_ns >= _SECOND or not found.tick_ns:
        step = f"in steps of {found.mtime_step_ns / _SECOND:g} s" if found.mtime_step_ns else "changed"
        return warning(
            "times",
            f"{found.folder} keeps times {step}, and its clock moves every {_duration(found.tick_ns)}",
            "nothing is missed, but files changed within one step are read again by the next run",
        )
    return ok(
        "times",
        f"kept to {_duration(found.mtime_step_ns)}; the clock moves every {_duration(found.tick_ns)}",
    )


def _moves(found: Traits, *, keeps_symlinks: bool) -> Finding:
    if not found.replaces:
        return failure(
            "replacing",
            f"{found.folder} cannot rename a file over another one",
            "pull cannot work there: put the tree on another filesystem",
            1,
        )
    if not found.executable_bit:
        return warning(
            "replacing",
            f"{found.folder} does not keep the executable bit",
            "files that have it elsewhere look changed here: do not push with --copy or --full from here",
        )
    if keeps_symlinks and not found.symlinks:
        return warning(
            "replacing",
            f"{found.folder} cannot hold symlinks, but the configuration keeps them",
            'pull skips them; set symlinks = "skip", or use another filesystem',
        )
    if not found.hard_links:
        return warning(
            "replacing",
            f"{found.folder} knows no hard links",
            "what pull replaces is copied to the trash instead: that is slower, and what a program writes "
            "into a file in the very moment it is replaced is lost",
        )
    return ok("replacing", "files are replaced by one rename, and the old content is kept by a hard link")


def state_finding(found: Traits) -> Finding:
    """What the filesystem of ``.manifest-sync`` means for the lock and the index."""
    if not found.locks:
        return failure(
            "local state",
            f"{found.folder}: flock does not keep two processes apart there",
            "two runs at once could spoil the index: keep the project on a local disk",
            1,
        )
    mount = found.mount
    if mount is not None and (mount.is_network or mount.is_fuse):
        return warning(
            "local state",
            f"the index lies on {mount.kind} ({mount.source} at {mount.where})",
            "SQLite is slow there, and safe only as far as that server keeps locks and syncs: "
            "keep the project on a local disk, or never run from two machines in it",
        )
    return ok("local state", "locks keep two runs apart")


def space_finding(found: Traits, what: str) -> Finding:
    """Whether there is room to work."""
    free = f"{found.free_bytes / (1 << 30):.1f} GiB"
    if found.free_bytes < MIN_FREE_BYTES:
        return warning(
            "free space",
            f"only {free} are free for the {what}",
            "free some: a pull that does not fit stops, with every file whole",
        )
    return ok("free space", f"{free} are free for the {what}")


def _duration(nanoseconds: int) -> str:
    if not nanoseconds:
        return "some seconds"
    for unit, size in (("s", _SECOND), ("ms", 1_000_000), ("us", 1_000)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds} ns"
