"""Pins: snapshots that are kept whatever their age, until they are unpinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from manifest_sync import observe
from manifest_sync.errors import UsageError
from manifest_sync.manifest import Manifest, Pin
from manifest_sync.races import until_published
from manifest_sync.repository import Head, Raced
from manifest_sync.snapshots import Snapshots
from manifest_sync.workspace import Workspace

MAX_NAME = 200
_AGAIN = "run it again: the pins are as they were"


@dataclass(slots=True)
class PinReport:
    """The pins after ``pin`` or ``unpin``; ``to_json`` gives the object that ``--json`` prints."""

    command: str
    pin: Pin
    pins: tuple[Pin, ...] = ()
    changed: bool = False
    requests: dict[str, int] = field(default_factory=dict)
    snapshot: str = ""
    sequence: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields of ``pin --json`` and ``unpin --json``."""
        return {
            "command": self.command,
            "changed": self.changed,
            "pin": _pin_json(self.pin),
            "pins": [_pin_json(pin) for pin in self.pins],
            "requests": self.requests,
            "snapshot": self.snapshot,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
        }


def _pin_json(pin: Pin) -> dict[str, Any]:
    return {"sequence": pin.sequence, "snapshot": pin.snapshot, "name": pin.name}


def pin(ws: Workspace, text: str, name: str) -> PinReport:
    """Keep a snapshot until it is unpinned.

    Args:
        text: what the snapshot is called, see `Snapshots.find`.
        name: what to call the pin; may be empty.

    Raises:
        UsageError: no snapshot that is kept is meant, or the name is taken or means something else.
    """
    head = observe.load_head(ws)
    snapshots = Snapshots(ws.repository, head)
    _check_name(name, snapshots, ws.now())
    # Found once: a time or a number must not come to mean another snapshot after a lost race.
    wanted = snapshots.find(text, ws.now())
    made = Pin(wanted.sequence, wanted.snapshot, name)

    def revise(current: Head) -> tuple[Pin, ...]:
        # Whether it is kept is what the head says, not whether the object is still there.
        Snapshots(ws.repository, current).find(made.snapshot, ws.now())
        others = [pin for pin in current.manifest.pins if pin.snapshot != made.snapshot]
        if name and any(pin.name == name for pin in others):
            raise UsageError(
                f"another snapshot is pinned as {name!r}", "choose another name, or unpin that one"
            )
        return tuple(sorted([*others, made], key=lambda pin: (pin.sequence, pin.snapshot)))

    return _publish(ws, head, PinReport("pin", made), revise, f"pin: sequence {made.sequence}")


def unpin(ws: Workspace, text: str) -> PinReport:
    """Let go of a pinned snapshot: it is kept only as long as others are.

    Args:
        text: the pin's name, the snapshot's sequence number, or a prefix of its id.

    Raises:
        UsageError: no pin or several are meant.
    """
    head = observe.load_head(ws)
    gone = _find(head, text)

    def revise(current: Head) -> tuple[Pin, ...]:
        return tuple(pin for pin in current.manifest.pins if pin.snapshot != gone.snapshot)

    return _publish(ws, head, PinReport("unpin", gone), revise, f"unpin: sequence {gone.sequence}")


def _find(head: Head, text: str) -> Pin:
    """The pin that is meant; its snapshot need not be readable any more."""
    text = text.strip()
    pins = head.manifest.pins
    found = [pin for pin in pins if pin.name == text and text] or [
        pin
        for pin in pins
        if str(pin.sequence) == text or (len(text) >= 4 and pin.snapshot.startswith(text.lower()))
    ]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{pin.sequence} {pin.name}".strip() for pin in pins) or "none"
    problem = "names several pins" if found else "names no pin"
    raise UsageError(f"{text!r} {problem}", f"pinned are: {names}")


def _check_name(name: str, snapshots: Snapshots, now: datetime) -> None:
    if len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"{name!r} cannot be the name of a pin", f"use up to {MAX_NAME} printable characters"
        )
    meaning = snapshots.meaning(name, now)
    if meaning:
        raise UsageError(f"{name!r} cannot be the name of a pin", f"it would be taken for {meaning}")


def _publish(
    ws: Workspace,
    head: Head,
    report: PinReport,
    revise: Callable[[Head], tuple[Pin, ...]],
    message: str,
) -> PinReport:
    def attempt(current: Head) -> Head | Raced:
        pins = revise(current)
        report.changed = pins != current.manifest.pins
        if not report.changed:
            return current
        commit = ws.commit(ws.new_session(current.manifest.fence), message)

        def set_pins(manifest: Manifest) -> Manifest:
            return replace(manifest, pins=pins)

        outcome = ws.repository.publish(current, (), commit, revise=set_pins)
        if isinstance(outcome, Head):
            # After a lost answer the head may be another machine's by now, which came upon ours.
            report.snapshot, report.sequence = commit.snapshot, current.manifest.sequence + 1
        return outcome

    published = until_published(ws, head, attempt, _AGAIN)
    observe.save_head(ws, published)
    report.pins = published.manifest.pins
    if not report.snapshot:
        report.snapshot, report.sequence = published.manifest.snapshot, published.manifest.sequence
    return report
