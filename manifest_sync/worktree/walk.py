"""Every name in the tree, whoever owns it; nothing is read but names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from manifest_sync.model import Path
from manifest_sync.worktree.folders import Folders
from manifest_sync.worktree.outcomes import TargetBlocked, reason_of

Names = tuple[Path, list[Path], list[Path], list[Path]]
"""A folder; its regular files, its folders, and all else (symlinks, sockets, devices)."""


def iter_names(folders: Folders, enters: Callable[[Path], bool], skipped: dict[Path, str]) -> Iterator[Names]:
    """Each folder with the names directly in it, each kind in the order of its bytes.

    Args:
        enters: asked for every folder below the root. Symlinks are not followed.
        skipped: gets what could not be looked into, with the reason.
    """
    pending = [Path(b"")]
    while pending:
        folder = pending.pop()
        files: list[Path] = []
        below: list[Path] = []
        special: list[Path] = []
        prefix = folder + b"/" if folder else b""
        try:
            with os.scandir(folders.open(folder, check=False)) as entries:
                for entry in entries:
                    path = Path(prefix + os.fsencode(entry.name))
                    if entry.is_dir(follow_symlinks=False):
                        below.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        files.append(path)
                    else:
                        special.append(path)
        except TargetBlocked as error:
            skipped[folder] = error.reason
            continue
        except FileNotFoundError:
            continue
        except OSError as error:
            skipped[folder] = reason_of(error)
            continue
        files.sort()
        below.sort()
        yield folder, files, below, sorted(special)
        pending += [path for path in reversed(below) if enters(path)]
