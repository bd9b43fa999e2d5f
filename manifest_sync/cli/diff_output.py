"""What ``diff`` prints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from manifest_sync.cli.history_output import describe
from manifest_sync.cli.local_time import show_time
from manifest_sync.cli.stream import shown_path
from manifest_sync.cli.words import human_size, number
from manifest_sync.compare import Comparison
from manifest_sync.difference import Difference, Kind, Version
from manifest_sync.manifest import Manifest
from manifest_sync.model import json_path
from manifest_sync.times import rfc3339_ns


@dataclass(slots=True)
class Tally:
    """What the differences add up to."""

    counts: Counter[Kind] = field(default_factory=Counter)
    bytes_change: int = 0

    def add(self, difference: Difference) -> None:
        """Count one."""
        self.counts[difference.kind] += 1
        for version, sign in ((difference.before, -1), (difference.after, 1)):
            self.bytes_change += sign * (version.size or 0 if version is not None else 0)

    def line(self, comparison: Comparison, zone: tzinfo) -> str:
        """What was compared and what came of it."""
        other = "the tree here" if comparison.after is None else describe(comparison.after, zone)
        sides = f"{describe(comparison.before, zone)} -> {other}"
        if not self.counts:
            return f"{sides}: no difference"
        counts = ", ".join(f"{number(self.counts[kind])} {kind}" for kind in Kind)
        sign = "-" if self.bytes_change < 0 else "+"
        return f"{sides}: {counts}; {sign}{human_size(abs(self.bytes_change))}"


def difference_line(difference: Difference, zone: tzinfo, *, verbose: bool) -> bytes:
    """``changed  exp/a.json``; ``verbose`` puts sizes, times and what else changed between."""
    before, after = difference.before, difference.after
    details = ""
    if verbose:
        sizes = f"{_size(before):>10} -> {_size(after):<10}"
        times = f"{_time(before, zone):>19} -> {_time(after, zone):<19}"
        details = f"{sizes}  {times}  {_other_changes(before, after)}"
    return f"{difference.kind.value:<8} {details}".encode() + shown_path(difference.path) + b"\n"


def _size(version: Version | None) -> str:
    return "-" if version is None or version.size is None else human_size(version.size)


def _time(version: Version | None, zone: tzinfo) -> str:
    if version is None or version.mtime_ns is None:
        return "-"
    return show_time(datetime.fromtimestamp(version.mtime_ns // 1_000_000_000, UTC), zone)


def _other_changes(before: Version | None, after: Version | None) -> str:
    """``symlink -> file`` or ``0644 -> 0755``, where that is part of what changed."""
    if before is None or after is None:
        return ""
    if before.type != after.type:
        return f"{before.type} -> {after.type}  "
    modes = before.mode or 0, after.mode or 0
    if (modes[0] ^ modes[1]) & 0o100:
        return f"{modes[0]:04o} -> {modes[1]:04o}  "
    return ""


def difference_json(difference: Difference) -> dict[str, Any]:
    """One item of ``added`` or ``deleted`` (what is or was there), or of ``changed`` (both)."""
    path = {"path": json_path(difference.path)}
    if difference.before is not None and difference.after is not None:
        return {**path, "before": _version_json(difference.before), "after": _version_json(difference.after)}
    version = difference.before or difference.after
    assert version is not None
    return {**path, **_version_json(version)}


def _version_json(version: Version) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": version.type,
        "size": version.size,
        "mtime": None if version.mtime_ns is None else rfc3339_ns(version.mtime_ns),
        "mtime_ns": version.mtime_ns,
        "mode": None if version.mode is None else f"{version.mode:04o}",
        "hash": None if version.hash is None else version.hash.hex(),
    }
    return {**found, "host": version.host} if version.host else found


def side_json(manifest: Manifest | None) -> dict[str, Any] | None:
    """A side that is a snapshot; None is the tree here."""
    return None if manifest is None else {"sequence": manifest.sequence, "snapshot": manifest.snapshot}
