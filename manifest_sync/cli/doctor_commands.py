"""``doctor``: what is wrong, why, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import tzinfo
from typing import TYPE_CHECKING

import click

from manifest_sync.cli.local_time import show_recorded
from manifest_sync.cli.options import Settings, common_options, open_project, option, settings_of
from manifest_sync.cli.stdio import print_json, print_lines
from manifest_sync.cli.terminal import columns_of, display_text, fold
from manifest_sync.doctor.findings import Finding, Level
from manifest_sync.errors import UsageError
from manifest_sync.model import display

if TYPE_CHECKING:
    from manifest_sync.manifest import Manifest
    from manifest_sync.recover.recover import HeadRestore


@click.command()
@option(
    "--restore-head",
    metavar="[SNAPSHOT]",
    is_flag=False,
    flag_value="",
    envvar=[],
    help="Write a lost or damaged manifest.json anew from the snapshots.",
)
@option(
    "--accept-missing",
    is_flag=True,
    envvar=[],
    help="With --restore-head: also if objects are gone that the snapshot names.",
)
@common_options
@click.pass_context
def doctor(ctx: click.Context, restore_head: str | None, accept_missing: bool) -> int:
    """Check configuration, credentials, the store, the index and the disk, and say what cures what is wrong.

    Small objects and files are written to try the store and the disk out; they are removed again.

    --restore-head checks nothing of that: it makes sure that the bucket's head is lost or damaged, and writes
    a new one from the snapshot that was the head last. If that is not certain it lists those to choose from:
    sequence, id, time, host, files, message.
    """
    settings = settings_of(ctx)
    if restore_head is None:
        if accept_missing:
            raise UsageError("--accept-missing goes with --restore-head")
        from manifest_sync.project import Project  # noqa: PLC0415

        return print_findings(Project.doctor(env=os.environ), settings)
    with open_project(settings) as project:
        report = project.restore_head(restore_head, accept_missing=accept_missing)
    if settings.json:
        print_json(report.to_json())
    elif not (settings.quiet and report.head is not None):
        print_lines(_restore_lines(report, project.zone))
    return report.exit_code


def print_findings(findings: Iterable[Finding], settings: Settings) -> int:
    """Print each finding as it is made, or all in one JSON object; the exit code of the first failure."""
    kept = []
    for finding in findings:
        kept.append(finding)
        is_quiet = settings.quiet and finding.level in (Level.OK, Level.SKIPPED)
        if not settings.json and not is_quiet:
            print_lines(_lines(finding))
    exit_code = next((finding.exit_code for finding in kept if finding.level is Level.FAILURE), 0)
    if settings.json:
        shown = [finding.to_json() for finding in kept]
        print_json({"command": "doctor", "findings": shown, "exit_code": exit_code})
    elif not settings.quiet:
        print_lines([_verdict(kept)])
    return exit_code


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.level.value:<8} {finding.name}: {finding.cause}"]
    if finding.cure:
        lines.append(f"{'':<8} {finding.cure}")
    columns = columns_of(sys.stdout)
    return [piece for line in lines for piece in fold(line, columns, hang=9)]


def _verdict(findings: list[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    found = [
        f"{counts[level]} {level.value}{'s' if counts[level] > 1 else ''}"
        for level in (Level.FAILURE, Level.WARNING)
        if counts[level]
    ]
    return ", ".join(found) if found else "all is well"


def _restore_lines(report: HeadRestore, zone: tzinfo) -> Iterator[str]:
    state = {"lost": "missing"}.get(report.state, report.state)
    if report.head is not None:
        assert report.restored is not None
        yield f"manifest.json was {state}; it is restored from this snapshot:"
        yield _line(report.restored, zone)
        yield f"the new head is sequence {report.head.sequence}, snapshot {report.head.snapshot[:12]}"
        if report.losses:
            yield from _loss_lines(report)
            yield "next: `manifest-sync push --repair` on a machine that still has those files"
        if report.goes_back:
            yield "this machine had seen a later head: its next run here needs --accept-rollback"
        elif not report.is_last:
            yield "machines that had seen a later head say so, and need --accept-rollback once"
    elif report.losses:
        assert report.restored is not None
        yield "not restored: not everything is there that this snapshot names:"
        yield _line(report.restored, zone)
        yield from _loss_lines(report)
        if report.alternatives:
            yield "older snapshots that are whole (`manifest-sync doctor --restore-head SNAPSHOT`):"
            yield from (_line(manifest, zone) for manifest in report.alternatives)
        yield f"to restore it all the same: --restore-head {report.restored.snapshot[:12]} --accept-missing"
    else:
        yield f"manifest.json is {state}, and it is not certain which snapshot was the head last:"
        yield from (_line(manifest, zone) for manifest in report.candidates)
        for sequence, id_ in report.doubtful:
            yield f"  {sequence:>8}  {id_[:12]}  cannot be read, and may have been the last"
        yield "name the one to restore: `manifest-sync doctor --restore-head SNAPSHOT`"


def _line(manifest: Manifest, zone: tzinfo) -> str:
    when = show_recorded(manifest.time, zone)
    message = f"  {display_text(manifest.message)}" if manifest.message else ""
    return (
        f"  {manifest.sequence:>8}  {manifest.snapshot[:12]}  {when}  {display_text(manifest.host)}  "
        f"{manifest.files:,} files{message}"
    )


def _loss_lines(report: HeadRestore) -> Iterator[str]:
    for loss in report.losses:
        yield f"  {loss.key}: {loss.what}; files that need it: {loss.files:,}"
        for path in loss.paths:
            yield f"    {display(path)}"
        if loss.files > len(loss.paths):
            yield "    ..."
