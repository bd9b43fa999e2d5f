"""``doctor``: what is wrong, why, and what to do about it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import click

from manifest_sync.cli.options import Settings, common_options, settings_of
from manifest_sync.cli.output import print_json, print_lines
from manifest_sync.findings import Finding, Level


@click.command()
@common_options
@click.pass_context
def doctor(ctx: click.Context) -> int:
    """Check configuration, credentials, the store, the index and the disk, and say what cures what is wrong.

    Small objects and files are written to try the store and the disk out; they are removed again.
    """
    from manifest_sync.project import Project  # noqa: PLC0415

    return print_findings(Project.doctor(env=os.environ), settings_of(ctx))


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
    return [*lines, f"{'':<8} {finding.cure}"] if finding.cure else lines


def _verdict(findings: list[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    found = [
        f"{counts[level]} {level.value}{'s' if counts[level] > 1 else ''}"
        for level in (Level.FAILURE, Level.WARNING)
        if counts[level]
    ]
    return ", ".join(found) if found else "all is well"
