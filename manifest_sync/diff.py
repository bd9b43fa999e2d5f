"""The three-way table: local, base and remote of one path make one numbered case. Pure.

======  =======  ==============================  ===================================================
number  L B R    case                            meaning
======  =======  ==============================  ===================================================
1       a a a    in_sync                         nothing to do
2       a - -    new_here                        new on this machine
3       b a a    changed_here                    changed on this machine
4       - a a    deleted_here                    deleted on this machine
5       - - a    new_there                       new in the bucket
6       a a b    changed_there                   changed in the bucket
7       a a -    deleted_there                   deleted in the bucket
8       a b a    same_change                     both made the same change (b may be absent)
9       b a c    edit_edit                       both changed it, differently (a may be absent)
10      - a b    deleted_here_changed_there      the edit survives
11      b a -    changed_here_deleted_there      the edit survives
12      - a -    both_deleted                    forget it
13               file_folder                     a file on one side is a folder on the other
======  =======  ==============================  ===================================================

Case 13 speaks of two paths at once: `clashes` finds it among what a plan would leave behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from manifest_sync.model import UNREAD, Path, State


class Case(StrEnum):
    """The cases of the table by name; `NUMBERS` has the number of each."""

    IN_SYNC = "in_sync"
    NEW_HERE = "new_here"
    CHANGED_HERE = "changed_here"
    DELETED_HERE = "deleted_here"
    NEW_THERE = "new_there"
    CHANGED_THERE = "changed_there"
    DELETED_THERE = "deleted_there"
    SAME_CHANGE = "same_change"
    EDIT_EDIT = "edit_edit"
    DELETED_HERE_CHANGED_THERE = "deleted_here_changed_there"
    CHANGED_HERE_DELETED_THERE = "changed_here_deleted_there"
    BOTH_DELETED = "both_deleted"
    FILE_FOLDER = "file_folder"


NUMBERS = {case: number for number, case in enumerate(Case, start=1)}
CONFLICTS = frozenset(
    {Case.EDIT_EDIT, Case.DELETED_HERE_CHANGED_THERE, Case.CHANGED_HERE_DELETED_THERE, Case.FILE_FOLDER}
)


def needs_hash(local: State | None, base: State | None, remote: State | None) -> bool:
    """Whether the case hangs on the content of a local file that has not been hashed yet.

    A file that neither the base nor the bucket knows is new whatever it holds.
    """
    return local == UNREAD and not (base is None and remote is None)


def classify(local: State | None, base: State | None, remote: State | None) -> Case:
    """The case of one path. ``None`` means absent.

    Raises:
        ValueError: the local file must be hashed first (see `needs_hash`).
    """
    if needs_hash(local, base, remote):
        raise ValueError("a changed file must be hashed before it can be compared")
    if local == remote:
        if local == base:
            return Case.IN_SYNC
        return Case.BOTH_DELETED if local is None else Case.SAME_CHANGE
    if local == base:
        if base is None:
            return Case.NEW_THERE
        return Case.DELETED_THERE if remote is None else Case.CHANGED_THERE
    if remote == base:
        if base is None:
            return Case.NEW_HERE
        return Case.DELETED_HERE if local is None else Case.CHANGED_HERE
    if local is None:
        return Case.DELETED_HERE_CHANGED_THERE
    if remote is None:
        return Case.CHANGED_HERE_DELETED_THERE
    return Case.EDIT_EDIT


def clashes(present: Iterable[Path]) -> frozenset[Path]:
    """Case 13: every path that is a folder of another one, and those others.

    Args:
        present: the paths that would exist afterwards, in the order of their bytes.
    """
    found: set[Path] = set()
    # Between "a" and "a/b" other names can sort ("a-b"), so all paths that could still turn out to be a
    # folder stay open until the order has passed the last name below them.
    open_files: list[Path] = []
    for path in present:
        open_files = [p for p in open_files if path < p + b"0"]
        for above in open_files:
            if path.startswith(above + b"/"):
                found.update((above, path))
        open_files.append(path)
    return frozenset(found)
