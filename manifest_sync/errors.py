"""Every error a user can meet, grouped by what whoever catches it would do.

::

    ManifestSyncError                exit 1   anything else
    ├── UsageError                        2   fix the command line or the configuration
    ├── StoreUnavailable                  5   the store failed for now: try again
    ├── Refused                           6   an overwrite was refused; resolve the conflict
    ├── Damaged                           7   damaged, unknown or rolled-back state or format
    │   ├── IndexDamaged                      the local index cannot be used; the bucket may be whole
    │   ├── FormatError                       an object does not follow docs/format.md
    │   ├── UnknownFeature                    written by a newer version
    │   ├── WrongRepository                   another repository than the one known here
    │   └── RolledBack                        the head is not a descendant of the one last seen
    ├── SafetyLimit                       8   a limit stopped the run; raise it if it is meant
    ├── NoRepository                     10   no repository there: `init` first
    ├── Contended                        11   lost the race too often, or another process holds the lock
    ├── AccessDenied                     12   credentials or permissions refused
    └── Interrupted                     130   Ctrl-C

A conflict is not an exception: it is data in the report, and the exit code of the run is 6.
"""

from __future__ import annotations

from typing import ClassVar


class ManifestSyncError(Exception):
    """Base of all errors that are meant for a user.

    ``message`` says what happened and to which path or object; ``hint`` says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """Stable name of the error for ``--json``: the class name in snake case."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


class UsageError(ManifestSyncError):
    """The command line, the environment or the configuration file is wrong."""

    exit_code = 2


class StoreUnavailable(ManifestSyncError):
    """The store could not be reached or kept failing; the same command may succeed later."""

    exit_code = 5


class Refused(ManifestSyncError):
    """An overwrite was refused because it would have destroyed content held nowhere else."""

    exit_code = 6


class Damaged(ManifestSyncError):
    """Stored state cannot be used as it is: missing, corrupt, unknown or rolled back."""

    exit_code = 7


class IndexDamaged(Damaged):
    """The local index cannot be used; nothing is said of the bucket."""


class FormatError(Damaged):
    """Bytes that do not follow the format document."""


class UnknownFeature(Damaged):
    """The repository uses a feature this version does not know."""


class WrongRepository(Damaged):
    """The bucket holds another repository than the one this machine worked with."""


class RolledBack(Damaged):
    """The head does not descend from the snapshot this machine saw last."""


class SafetyLimit(ManifestSyncError):
    """A limit stopped the run: more deletions than are meant, before anything was done; or too little space
    for what comes next, and what had come by then stays."""

    exit_code = 8


class NoRepository(ManifestSyncError):
    """There is no repository at the place named."""

    exit_code = 10


class Contended(ManifestSyncError):
    """Another process or machine was faster too often, or holds the lock."""

    exit_code = 11


class AccessDenied(ManifestSyncError):
    """The store or the filesystem refused the credentials or the permission."""

    exit_code = 12


class Interrupted(ManifestSyncError):
    """The user stopped the run."""

    exit_code = 130
