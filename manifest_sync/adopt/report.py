"""What one adoption did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from manifest_sync.model import Path, json_path


@dataclass(slots=True)
class AdoptReport:
    """The outcome of one ``adopt``; ``to_json`` gives the object that ``--json`` prints."""

    url: str
    dry_run: bool = False
    listed: int = 0
    """Objects there, without the repository's own and the markers of folders."""
    new: int = 0
    changed: int = 0
    """Objects that were adopted before and are others now."""
    unchanged: int = 0
    """Objects whose content the head has at their paths already."""
    superseded: int = 0
    """Objects that were adopted, and whose files were changed or deleted by pushes since."""
    excluded: int = 0
    """Objects that the rules, groups left out or the scope exclude."""
    matched: int = 0
    """Of the new and changed: those whose file is here with the same content."""
    differing: int = 0
    """Of the new and changed: those whose file is here with another content."""
    to_read: int = 0
    """In a dry run: objects that have to be read over the network, and their bytes."""
    to_read_bytes: int = 0
    read: int = 0
    """Objects that were read over the network, and their bytes."""
    bytes: int = 0
    adopted_bytes: int = 0
    """Bytes of the new and changed."""
    paths: list[Path] = field(default_factory=list)
    """In a dry run: the new and changed, in path order."""
    conflicts: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    snapshot: str = ""
    sequence: int = 0
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """6 with conflicts, 3 when objects were skipped, else 0."""
        if self.conflicts:
            return 6
        return 3 if self.skipped else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``adopt --json``."""
        return {
            "command": "adopt",
            "url": self.url,
            "dry_run": self.dry_run,
            "listed": self.listed,
            "new": self.new,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "superseded": self.superseded,
            "excluded": self.excluded,
            "matched": self.matched,
            "differing": self.differing,
            "to_read": self.to_read,
            "to_read_bytes": self.to_read_bytes,
            "read": self.read,
            "bytes": self.bytes,
            "adopted_bytes": self.adopted_bytes,
            "paths": [json_path(path) for path in self.paths],
            "conflicts": [json_path(path) for path in self.conflicts],
            "skipped": [{"path": json_path(path), "reason": reason} for path, reason in self.skipped],
            "requests": self.requests,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
        }
