"""What `doctor` finds: one finding a check, with the cause and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from manifest_sync.errors import ManifestSyncError


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    """It works, within the limits that the cause names."""
    FAILURE = "failure"
    SKIPPED = "skipped"
    """Not checked, because something it needs has failed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. ``exit_code`` is that of the failure's kind, 0 for other levels."""

    name: str
    level: Level
    cause: str
    cure: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints in its list."""
        return {
            "name": self.name,
            "level": self.level.value,
            "cause": self.cause,
            "cure": self.cure,
            "exit_code": self.exit_code,
        }


def ok(name: str, cause: str) -> Finding:
    """Nothing to do."""
    return Finding(name, Level.OK, cause)


def warning(name: str, cause: str, cure: str) -> Finding:
    """Something works less well than it could."""
    return Finding(name, Level.WARNING, cause, cure)


def failure(name: str, cause: str, cure: str, exit_code: int) -> Finding:
    """Something does not work; ``exit_code`` says of what kind it is (see `manifest_sync.errors`)."""
    return Finding(name, Level.FAILURE, cause, cure, exit_code)


def skipped(name: str, cause: str) -> Finding:
    """A check that could not be made."""
    return Finding(name, Level.SKIPPED, cause)


def from_error(name: str, error: ManifestSyncError) -> Finding:
    """An error as a failure."""
    return failure(name, error.message, error.hint, error.exit_code)
