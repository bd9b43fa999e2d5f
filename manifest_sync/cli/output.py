"""What a run came to: one JSON object, or sentences for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from manifest_sync.cli.options import Settings
from manifest_sync.cli.stdio import print_error, print_json, print_lines, write_stderr
from manifest_sync.cli.words import counted, human_size, number
from manifest_sync.model import Path, display
from manifest_sync.report import RunReport, SyncReport

MOST_PATHS = 20
_MOST_SELECTED = 5

CASES = {
    # case: (words in a closing summary, heading and next command in `status`)
    "new_here": ("new here", "new here", "`push` sends them"),
    "changed_here": ("changed here", "changed here", "`push --copy` sends them"),
    "deleted_here": (
        "deleted here",
        "deleted here",
        "`push --full` deletes them in the bucket, `pull --restore-deleted` brings them back",
    ),
    "new_there": ("new in the bucket", "new in the bucket", "`pull` brings them"),
    "changed_there": ("changed in the bucket", "changed in the bucket", "`pull --copy` brings them"),
    "deleted_there": (
        "deleted in the bucket",
        "deleted in the bucket",
        "`pull --full` moves them to the trash here",
    ),
    "same_change": ("the same on both sides", "the same change on both sides", "the next run records it"),
    "both_deleted": ("deleted on both sides", "deleted on both sides", "the next run records it"),
    "edit_edit": ("changed on both sides", "conflict: changed on both sides", ""),
    "deleted_here_changed_there": (
        "deleted here and changed in the bucket",
        "conflict: deleted here, changed in the bucket",
        "",
    ),
    "changed_here_deleted_there": (
        "changed here and deleted in the bucket",
        "conflict: changed here, deleted in the bucket",
        "",
    ),
    "file_folder": ("a file against a folder", "conflict: a file on one side, a folder on the other", ""),
}
RESOLVE = (
    "`push --resolve local PATH` keeps this side, `pull --resolve remote PATH` takes the bucket's, "
    "`--resolve both` keeps both"
)
_MEANWHILE = ("changed meanwhile and left as found", "run the same command again")
_IN_THE_WAY = {
    # command: (verdict, hint), where a conflict is none of two sides
    "restore --to": (
        "not written because another is there",
        "remove or rename what is there, or name another folder with --to",
    ),
    "restore": _MEANWHILE,
    "drop": _MEANWHILE,
    "undo": (
        "changed since that run and left as found",
        "`trash list` shows what the run replaced; `restore PATH --at SNAPSHOT` takes it from a snapshot",
    ),
}

# What a mode leaves undone: the cases, the verb, and which modes would do it, weakest first.
_LEFT: dict[str, tuple[tuple[tuple[str, ...], str, dict[str, str]], ...]] = {
    "push": (
        (
            ("new_here", "changed_here", "deleted_here"),
            "not pushed",
            {
                "new_here": "--new, --copy or --full",
                "changed_here": "--copy or --full",
                "deleted_here": "--full",
            },
        ),
        (
            ("new_there", "changed_there", "deleted_there"),
            "not pulled",
            {"new_there": "`pull`", "changed_there": "`pull --copy`", "deleted_there": "`pull --full`"},
        ),
    ),
    "pull": (
        (
            ("new_there", "changed_there", "deleted_there"),
            "not pulled",
            {
                "new_there": "--new, --copy or --full",
                "changed_there": "--copy or --full",
                "deleted_there": "--full",
            },
        ),
        (
            ("new_here", "changed_here", "deleted_here"),
            "not pushed",
            {
                "new_here": "`push`",
                "changed_here": "`push --copy`",
                "deleted_here": "`push --full` (or `pull --restore-deleted`)",
            },
        ),
    ),
}


def print_run(report: RunReport, settings: Settings) -> None:
    """The end of a push, pull or rebuild-index."""
    if settings.json:
        print_json(report.to_json())
        return
    problems = problem_lines(report, settings)
    if settings.quiet:
        if problems:
            write_stderr("\n".join(problems))
        return
    lines = _action_lines(report, settings)
    lines += _missed_lines(report, settings)
    print_lines(
        [*lines, _headline(report), *_left_lines(report), *_selected(report), *problems, *_undo_hint(report)]
    )


def print_sync(report: SyncReport, settings: Settings) -> None:
    """The end of a sync: both halves a line, and once what neither of them did."""
    if settings.json:
        print_json(report.to_json())
        return
    pull, push = report.pull, report.push
    problems = problem_lines(report, settings)
    if settings.quiet:
        if problems:
            write_stderr("\n".join(problems))
    else:
        lines = []
        for half in (pull,) if report.error else (pull, push):
            lines += _action_lines(half, settings) + _missed_lines(half, settings) + [_headline(half)]
        left = _left_lines(replace(pull if report.error else push, left=report.left))
        print_lines([*lines, *left, *_selected(pull), *problems, *_undo_hint(pull)])
    if report.error is not None:
        print_error(report.error)


def _selected(report: RunReport) -> list[str]:
    return selection_lines(report.selection) if report.command in _LEFT else []


def problem_lines(report: RunReport | SyncReport, settings: Settings) -> list[str]:
    """Damage, conflicts and what was skipped."""
    lines = damage_lines(report.damaged, settings) + _conflict_lines(report, settings)
    if isinstance(report, RunReport) and report.limit:
        lines.append(f"without -n it stops: {report.limit}")
    return lines + skipped_lines(report.skipped, settings)


def _undo_hint(report: RunReport) -> list[str]:
    """Said where content was replaced or deleted; a pull of new files alone needs no word."""
    if report.run and report.command in ("pull", "restore") and (report.changed or report.deleted):
        return ["what was replaced or deleted is in the trash; `manifest-sync undo` takes this run back"]
    return []


def _headline(report: RunReport) -> str:
    if report.command in _HEADLINES:
        return _HEADLINES[report.command](report)
    if report.dry_run:
        return f"dry run, {_name(report)}: would be {', '.join(_counts(report))}; nothing was done"
    moved = human_size(report.bytes)
    if report.stored_bytes:
        moved += f" ({human_size(report.stored_bytes)} stored)"
    parts = [*_counts(report), moved, _requests(report), f"{report.seconds:.1f} s"]
    whence = "from sequence" if report.command == "restore" else "sequence"
    return f"{_name(report)}: {', '.join(parts)}; {whence} {report.sequence}"


def _counts(report: RunReport) -> list[str]:
    return [
        f"{number(report.new)} new",
        f"{number(report.changed)} changed",
        f"{number(report.deleted)} deleted",
        f"{number(report.unchanged)} unchanged",
    ]


def _requests(report: RunReport) -> str:
    requests = sum(report.requests.values())
    return counted(requests, "request")


def _drop_line(report: RunReport) -> str:
    verb = "would be dropped" if report.dry_run else "dropped"
    freed = f"{counted(report.deleted, 'file')} {verb}, {human_size(report.bytes)}"
    return f"{freed}; `manifest-sync restore PATH` brings them back" if report.deleted else freed


def _undo_line(report: RunReport) -> str:
    back = f"{counted(report.new, 'file')} put back"
    return f"undone: {back}, {number(report.deleted)} taken away; the bucket is as it was"


def _export_line(report: RunReport) -> str:
    if report.dry_run:
        return f"dry run, export: would be {', '.join(_counts(report))}; nothing was done"
    parts = [*_counts(report), human_size(report.bytes), _requests(report)]
    return f"exported: {', '.join(parts)}; from sequence {report.sequence}"


_HEADLINES: dict[str, Callable[[RunReport], str]] = {
    "drop": _drop_line,
    "undo": _undo_line,
    "export": _export_line,
}


def _name(report: RunReport) -> str:
    if report.command in _LEFT and report.mode != "new":
        return f"{report.command} --{report.mode}"
    return report.command


def _left_lines(report: RunReport) -> list[str]:
    """``3 changed, 2 deleted here: not pushed; use --copy or --full``."""
    lines = []
    rest = dict(report.left)
    for cases, verdict, ways in _LEFT.get(report.command, ()):
        found = [case for case in cases if rest.get(case)]
        if not found:
            continue
        place = "here" if found[0].endswith("_here") else "in the bucket"
        counts = ", ".join(f"{number(rest.pop(case))} {case.split('_')[0]}" for case in found)
        asked = _unheeded(report, found)
        lines.append(f"{counts} {place}: {verdict}; {asked or 'use ' + _ways(found, ways)}")
    lines += [f"{number(count)} {_words(case)}: left as they are" for case, count in rest.items() if count]
    return lines


def _unheeded(report: RunReport, cases: Sequence[str]) -> str:
    """``--full`` leaves only what it has no evidence about: say which option takes that too."""
    kept = {"push": "new_there", "pull": "new_here"}[report.command]
    if report.mode == "full" and list(cases) == [kept]:
        how = "`pull` brings them" if report.command == "push" else "`push` sends them"
        return f"{how}, --delete-unknown deletes them"
    return ""


def _ways(cases: Sequence[str], ways: dict[str, str]) -> str:
    """One hint for all: the weakest mode that does part of it, and what does the rest."""
    unique = list(dict.fromkeys(ways[case] for case in cases))
    if len(unique) > 1 and all(way.startswith("--") for way in unique):
        # --copy does part and --full does all of it, which is what naming both says.
        return unique[0]
    return ", ".join(unique)


def selection_lines(selection: Sequence[Path]) -> list[str]:
    """That only a part was looked at, and which."""
    if not selection:
        return []
    shown = ", ".join(display(path) for path in selection[:_MOST_SELECTED])
    more = f" and {number(len(selection) - _MOST_SELECTED)} more" if len(selection) > _MOST_SELECTED else ""
    return [f"only what this machine tracks was looked at: {shown}{more}"]


def damage_lines(damaged: Sequence[tuple[Path, str]], settings: Settings) -> list[str]:
    """What the bucket does not hold although it should."""
    if not damaged:
        return []
    lines = [f"hurt in the bucket, {number(len(damaged))}:"]
    lines += path_lines(damaged, settings, lambda pair: f"{display(pair[0])}: {pair[1]}")
    return [*lines, "  `manifest-sync verify` names the damage and what repairs it"]


def action_lines(report: RunReport, settings: Settings) -> list[str]:
    """What was or would be done with each path; with ``-v`` also why."""
    if not settings.verbose or not report.why:
        return list(report.actions)
    return [f"{line}  ({_words(case)})" for line, case in zip(report.actions, report.why, strict=True)]


def _action_lines(report: RunReport, settings: Settings) -> list[str]:
    return action_lines(report, settings) if report.dry_run or settings.verbose else []


def _conflict_lines(report: RunReport | SyncReport, settings: Settings) -> list[str]:
    if not report.conflicts:
        return []
    unit, verdict, hint = "conflict", "left as on each side", RESOLVE
    if isinstance(report, RunReport) and report.command in _IN_THE_WAY:
        unit, (verdict, hint) = "file", _IN_THE_WAY["restore --to" if report.to else report.command]
    lines = [f"{counted(len(report.conflicts), unit)}, {verdict}:"]
    lines += path_lines(report.conflicts, settings, display)
    return [*lines, f"  {hint}"]


def skipped_lines(skipped: Sequence[tuple[Path, str]], settings: Settings) -> list[str]:
    """What was skipped and why."""
    if not skipped:
        return []
    lines = [f"{number(len(skipped))} skipped:"]
    # The root may be among them, whose path is empty.
    lines += path_lines(skipped, settings, lambda pair: f"{display(pair[0] or b'.')}: {pair[1]}")
    return [*lines, "  once the reason is gone, run the same command again"]


def _missed_lines(report: RunReport, settings: Settings) -> list[str]:
    if not report.missed:
        return []
    lines = [f"{number(len(report.missed))} changed without a sign in size or times; found by --checksum:"]
    return lines + path_lines(report.missed, settings, display)


def path_lines(items: Sequence[Any], settings: Settings, show: Callable[[Any], str]) -> list[str]:
    """Some of the items, a line each, and how many more there are; all of them with ``-v``."""
    shown = items if settings.verbose else items[:MOST_PATHS]
    lines = [f"  {show(item)}" for item in shown]
    if len(shown) < len(items):
        lines.append(f"  and {number(len(items) - len(shown))} more (-v lists all)")
    return lines


def _words(case: str) -> str:
    return CASES[case][0] if case in CASES else case.replace("_", " ")
