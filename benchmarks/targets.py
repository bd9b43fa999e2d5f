"""The targets of manifest-sync's speed, as data, and how a benchmark meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.cases import Size
from benchmarks.options import OURS
from benchmarks.results import Results, Summary

Kind = Literal["faster", "within", "requests", "puts", "uploaded", "peak", "share", "growth"]
PEERS = ("rclone", "rclone-128", "s5cmd", "aws", "restic")


@dataclass(frozen=True)
class Target:
    """A limit for one case.

    ``faster``: every tool of ``others`` takes at least ``limit`` times as long. ``within``: at most ``limit``
    times as long as each floor of ``others``. ``requests``, ``puts``, ``uploaded``, ``peak``: at most so many
    requests, PUT requests, bytes sent, bytes of memory. ``share``: at most ``limit`` of the time and of the
    bytes of the case ``others[0]``. ``growth``: at most ``limit`` times the time for each file of that case.
    """

    case: str
    kind: Kind
    limit: float
    others: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        names = " and ".join(self.others)
        return {
            "faster": f"≥ {self.limit:g} × faster than {names}",
            "within": f"≤ {self.limit:g} × {names}",
            "requests": f"≤ {self.limit:g} request",
            "puts": f"≤ {self.limit:g} PUT",
            "uploaded": f"≤ {self.limit / 1e6:.2f} MB sent",
            "peak": f"≤ {self.limit / 1e6:.0f} MB of memory",
            "share": f"≤ {self.limit:g} of the time and bytes of {names}",
            "growth": f"≤ {self.limit:g} × the time for each file of {names}",
        }[self.kind]


@dataclass(frozen=True)
class Verdict:
    """How a target was met; ``is_met`` is None where it could not be told, and ``found`` says why."""

    target: Target
    is_met: bool | None
    found: str


TARGETS = (
    Target("noop-push / loopback / files", "faster", 5, ("rclone",)),
    Target("noop-push / loopback / files", "within", 3, ("find",)),
    Target("noop-push / 40ms / files", "faster", 10, ("rclone",)),
    Target("noop-push / 40ms / files", "requests", 1),
    Target("overwrite / loopback / files", "faster", 8, ("rclone",)),
    Target("overwrite / loopback / files", "puts", 4),
    Target("first-push / loopback / files", "faster", 15, ("rclone",)),
    Target("first-push / loopback / files", "within", 1.5, ("tar | zstd",)),
    Target("first-push / 40ms / network", "faster", 15, ("rclone", "rclone-128", "s5cmd")),
    Target("fresh-pull / loopback / files", "faster", 8, ("rclone",)),
    Target("fresh-pull / loopback / files", "within", 1.5, ("zstd | tar x",)),
    Target("one-experiment / loopback / files", "share", 1 / 8, ("fresh-pull / loopback / files",)),
    Target("big-up / loopback / fixed", "faster", 1, PEERS),
    Target("big-up / loopback / fixed", "within", 1.25, ("boto3 up",)),
    Target("big-down / loopback / fixed", "faster", 1, PEERS),
    Target("big-down / loopback / fixed", "within", 1.25, ("boto3 down",)),
    Target("big-insert / loopback / fixed", "uploaded", 16 << 20),
    Target("rebuild-index / loopback / files", "within", 1.5, ("b3sum",)),
    Target("status / loopback / files", "within", 2.5, ("find",)),
    Target("noop-push / loopback / metadata", "peak", 250e6),
    *(
        Target(f"{job} / loopback / {size}", "peak", 500e6)
        for job, size in (
            ("first-push", "files"),
            ("fresh-pull", "files"),
            ("big-up", "fixed"),
            ("big-down", "fixed"),
        )
    ),
    Target("noop-push / loopback / metadata", "growth", 1.3, ("noop-push / loopback / tenth",)),
    Target("overwrite / loopback / tenth", "uploaded", 150e3),
    Target("overwrite / loopback / metadata", "uploaded", 700e3),
)


def judge(results: Results, sizes: Mapping[Size, int]) -> list[Verdict]:
    """Every target against what was measured.

    Args:
        sizes: files of each kind of tree, for ``growth``.
    """
    return [_verdict(target, results, sizes) for target in TARGETS]


def _verdict(target: Target, results: Results, sizes: Mapping[Size, int]) -> Verdict:
    ours = results.summary(target.case, OURS)
    if ours.failure:
        return Verdict(target, None, f"{OURS}: {ours.failure}")
    amount = {
        "requests": sum(ours.requests.values()),
        "puts": ours.requests.get("PUT", 0),
        "uploaded": ours.uploaded,
        "peak": ours.peak,
    }.get(target.kind)
    if amount is not None:
        unit = 1e6 if target.kind in ("uploaded", "peak") else 1
        return Verdict(target, amount <= target.limit, f"{amount / unit:.4g}{' MB' if unit > 1 else ''}")
    if target.kind in ("share", "growth"):
        return _beside(target, ours, results.summary(target.others[0], OURS), sizes)
    told = []
    is_met = True
    for name in target.others:
        other = results.summary(target.case, name)
        if other.failure or not other.ratio:
            told.append(f"{name}: {'failed' if other.failure != 'not run' else 'not run'}")
            continue
        ratio = other.ratio if target.kind == "faster" else 1 / other.ratio
        is_met = is_met and (ratio >= target.limit if target.kind == "faster" else ratio <= target.limit)
        told.append(f"{name}: {ratio:.2f} ×")
    known = any("×" in text for text in told)
    return Verdict(target, is_met if known else None, ", ".join(told))


def _beside(target: Target, ours: Summary, other: Summary, sizes: Mapping[Size, int]) -> Verdict:
    if other.failure:
        return Verdict(target, None, f"{other.case}: {other.failure}")
    time = ours.seconds / other.seconds
    if target.kind == "share":
        moved = ours.downloaded / max(other.downloaded, 1)
        met = max(time, moved) <= target.limit
        return Verdict(target, met, f"{time:.3f} of the time, {moved:.3f} of the bytes")
    each = time * _files(other.case, sizes) / max(_files(ours.case, sizes), 1)
    return Verdict(target, each <= target.limit, f"{each:.2f} ×")


def _files(case: str, sizes: Mapping[Size, int]) -> int:
    return next(count for size, count in sizes.items() if case.endswith(f"/ {size}"))
