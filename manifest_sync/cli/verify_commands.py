"""``verify``: is everything there, and whole?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.options import Settings, common_options, open_project, option, settings_of
from manifest_sync.cli.stdio import print_json, print_lines
from manifest_sync.cli.words import counted, human_size
from manifest_sync.model import display
from manifest_sync.verify.damage import Damage, Kind, VerifyReport, show_ranges

if TYPE_CHECKING:
    from manifest_sync.repair.repair import RepairReport

MOST_FILES = 10


@click.command()
@option("--read-data", is_flag=True, help="Read and check every byte, not only names and sizes.")
@option("--local", is_flag=True, help="Read only the files here: is their content what was recorded?")
@common_options
@click.pass_context
def verify(ctx: click.Context, read_data: bool, local: bool) -> int:
    """Check that everything in the bucket is there, and whole.

    Looks at all that the current state, every kept snapshot and every pin need, and changes nothing. Says
    which files of which snapshots are hurt, and what repairs them. Exits with 7 when anything is damaged.
    """
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.verify(read_data=read_data, local=local)
    if settings.json:
        print_json(report.to_json())
    else:
        print_lines(local_lines(report, settings) if local else bucket_lines(report, settings))
    return report.exit_code


def run_repair(ctx: click.Context, *, read_data: bool, drop_lost: bool, dry_run: bool, message: str) -> int:
    """``push --repair``."""
    settings = settings_of(ctx)
    with open_project(settings) as project:
        report = project.repair(read_data, dry_run, message, drop_lost)
    if settings.json:
        print_json(report.to_json())
    else:
        print_lines(repair_lines(report, settings))
    return report.exit_code


def repair_lines(report: RepairReport, settings: Settings) -> list[str]:
    """The text of ``push --repair``."""
    would = "would be " if report.dry_run else ""
    lines: list[str] = []
    if report.repaired and not settings.quiet:
        lines.append(f"{len(report.repaired):,} {would}repaired:")
        lines += _first([f"  {key}: {how}" for key, how in report.repaired], settings)
    if report.moved and not settings.quiet:
        lines.append(f"{len(report.moved):,} files {would}uploaded anew:")
        lines += _first([f"  {display(path)}" for path in report.moved], settings)
    for dropped in report.dropped:
        page = dropped.page
        lines.append(
            f"let go of {page.files:,} files from {display(page.first)} to {display(page.last)}; "
            f"{dropped.added:,} of these are here and were sent again"
        )
    if report.skipped:
        lines.append(f"{len(report.skipped):,} not sent:")
        lines += _first([f"  {display(path)}: {reason}" for path, reason in report.skipped], settings)
    reasons = dict(report.tried)
    left, more = _most(report.left, settings)
    for damage in left:
        shown = object_lines(damage, settings)
        if damage.key in reasons:
            shown.insert(1, f"  not repaired from here: {reasons[damage.key]}")
        lines += shown
    lines += more
    if report.unchecked:
        lines.append(f"{len(report.unchecked):,} not looked at:")
        lines += _first([f"  {key}: {reason}" for key, reason in report.unchecked], settings)
    if settings.quiet:
        return lines
    verdict = _repair_verdict(report)
    sent = f"{human_size(report.bytes)} {would}stored"
    return [*lines, f"push --repair: {verdict}; {sent}, {report.seconds:.1f} s; sequence {report.sequence}"]


def _repair_verdict(report: RepairReport) -> str:
    if not report.found:
        more = "" if report.read_data else "; --read-data looks for damaged bytes too"
        return f"nothing is missing{more}"
    left = len(report.left)
    verdict = f"{report.found:,} damaged, {left:,} left"
    if any(damage.head for damage in report.left):
        return f"{verdict}; the current state is still hurt"
    return f"{verdict}; the current state is whole" if left else verdict


def local_lines(report: VerifyReport, settings: Settings) -> list[str]:
    """The text of ``verify --local``."""
    lines = []
    if report.missed:
        lines.append(f"{len(report.missed):,} whose content is not what was recorded, though their stat is:")
        lines += _first([f"  {display(path)}" for path in report.missed], settings)
        lines.append(
            "  if that was meant, `manifest-sync push --copy --checksum` sends them; "
            "if not, `manifest-sync restore PATH` brings the recorded content back"
        )
    if report.skipped:
        lines.append(f"{len(report.skipped):,} not read:")
        lines += _first([f"  {display(path)}: {reason}" for path, reason in report.skipped], settings)
    if not settings.quiet:
        verdict = "damaged" if report.missed else "clean"
        lines.append(f"verify --local: {verdict}; {report.files:,} files, {report.seconds:.1f} s")
    return lines


def bucket_lines(report: VerifyReport, settings: Settings) -> list[str]:
    """The text of ``verify`` of the bucket."""
    lines: list[str] = []
    damaged, more = _most(report.damaged, settings)
    for damage in damaged:
        lines += object_lines(damage, settings)
    lines += more
    if report.unchecked:
        lines.append(f"{len(report.unchecked):,} not looked at:")
        lines += _first([f"  {key}: {reason}" for key, reason in report.unchecked], settings)
    if settings.quiet:
        return lines
    counts = ", ".join(counted(n, kind) for kind, n in report.checked.items())
    seen = f"{counts}; {report.files:,} files in the current state"
    if report.read_data:
        seen += f"; {human_size(report.bytes)} of packs read"
    return [*lines, f"verify: {_verdict(report)}; looked at {seen}; {report.seconds:.1f} s"]


def _verdict(report: VerifyReport) -> str:
    if not report.damaged:
        return "clean" if not report.unchecked else "no damage found, but not everything could be looked at"
    state = "hurt" if report.head_hurt else "not hurt"
    return f"{len(report.damaged):,} damaged; the current state is {state}"


def _most(damaged: Sequence[Damage], settings: Settings) -> tuple[list[Damage], list[str]]:
    """What is shown, and a line for the rest: of adopted objects there may be as many as files."""
    outside = [damage for damage in damaged if damage.kind is Kind.EXTERNAL]
    if settings.verbose or len(outside) <= MOST_FILES:
        return list(damaged), []
    hidden = set(outside[MOST_FILES:])
    more = f"and {len(hidden):,} more adopted objects, changed or deleted by another tool (-v lists all)"
    return [damage for damage in damaged if damage not in hidden], [more]


def object_lines(damage: Damage, settings: Settings) -> list[str]:
    """One damaged object: what is wrong, whom it hurts, what repairs it."""
    lines = [f"{damage.key}: {damage.what}"]
    where = _where(damage)
    if damage.files:
        lines.append(f"  hurts {counted(len(damage.files), 'file')} of {where}:")
        lines += _first([f"    {display(file.path)}" for file in damage.files], settings)
    elif damage.between is not None:
        first, last = map(display, damage.between)
        lines.append(f"  hurts {damage.count:,} files of {where}, from {first} to {last}; not known which")
    elif where:
        lines.append(f"  hurts no file that is known; belongs to {where}")
    return [*lines, f"  repair: {damage.repair}"]


def _where(damage: Damage) -> str:
    named = f"snapshot {show_ranges(damage.snapshots)}" if damage.snapshots else ""
    if damage.head:
        return f"the current state ({named})" if named else "the current state"
    return named


def _first(lines: list[str], settings: Settings) -> list[str]:
    shown = lines if settings.verbose else lines[:MOST_FILES]
    if len(shown) < len(lines):
        indent = " " * (len(lines[0]) - len(lines[0].lstrip()))
        shown = [*shown, f"{indent}and {len(lines) - len(shown):,} more (-v lists all)"]
    return shown
