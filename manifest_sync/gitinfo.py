"""What git tracks and ignores: the only questions put to git."""

from __future__ import annotations

import os
import subprocess

# git has these set while it runs a hook, and they would name another repository than the root's.
_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


def tracked_files(root: str) -> tuple[frozenset[bytes], str]:
    """The paths below ``root`` (relative to it, raw bytes) that git tracks, and a warning or ''.

    A root that does not exist yet or lies in no repository tracks nothing. When git cannot be asked the
    warning says why: files that it tracks would then be taken for the bucket's.
    """
    if not os.path.isdir(root):
        return frozenset(), ""
    if not _is_in_repository(root):
        return frozenset(), ""
    try:
        answer = _git(root, "ls-files", "-z", "--cached")
    except OSError as error:
        reason = error.strerror or str(error)
        return frozenset(), f"git could not be run ({reason}): files that git tracks are not told apart"
    if answer.returncode:
        lines = answer.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[0] if lines else f"exit code {answer.returncode}"
        return frozenset(), f"git ls-files failed ({reason}): files that git tracks are not told apart"
    return frozenset(path for path in answer.stdout.split(b"\x00") if path), ""


def is_tracked(folder: str, name: str) -> bool:
    """Whether git tracks the file ``name`` in ``folder``; where git cannot be asked it is said not to."""
    try:
        return _is_in_repository(folder) and bool(_git(folder, "ls-files", "-z", "--", name).stdout)
    except OSError:
        return False


def is_ignored(folder: str, name: str) -> bool:
    """Whether git is told to ignore ``name`` in ``folder``; where git cannot be asked it is said not to."""
    try:
        return _is_in_repository(folder) and _git(folder, "check-ignore", "-q", "--", name).returncode == 0
    except OSError:
        return False


def _git(folder: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k not in _REPOSITORY_VARIABLES}
    environment["LC_ALL"] = "C"
    return subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, check=False)


def _is_in_repository(root: str) -> bool:
    """Whether a ``.git`` lies in ``root`` or above: git itself is not needed to see that."""
    folder = os.path.realpath(root)
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):
            return True
        parent = os.path.dirname(folder)
        if parent == folder:
            return False
        folder = parent
