"""What the commands print: summaries for people, JSON, listings, and progress."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path as FilePath

import pytest
from click.testing import CliRunner, Result

from manifest_sync.cli import output, stdio
from manifest_sync.cli.main import main
from manifest_sync.cli.options import Settings
from manifest_sync.cli.output import print_run
from manifest_sync.cli.progress import Bars, Notes, Stage, make_progress
from manifest_sync.cli.status_output import print_status
from manifest_sync.cli.words import human_size
from manifest_sync.model import Path
from manifest_sync.report import RunReport, StatusReport
from manifest_sync.times import rfc3339_ns
from tests.machines import Machine

Run = Callable[..., Result]
Capture = pytest.CaptureFixture[str]


def paths(count: int) -> list[Path]:
    return [Path(b"exp/%03d" % number) for number in range(count)]


def test_the_summary_counts_and_names_what_was_left_undone(capsys: Capture) -> None:
    report = RunReport("push", "new", new=1200, unchanged=5, bytes=3 * 1024**2, stored_bytes=1024**2)
    report.left = {"changed_here": 3, "deleted_here": 2, "changed_there": 1}
    report.requests, report.sequence, report.seconds = {"GET": 1, "PUT": 4}, 7, 1.25
    print_run(report, Settings())
    assert capsys.readouterr().out.splitlines() == [
        "push: 1,200 new, 0 changed, 0 deleted, 5 unchanged, 3.0 MiB (1.0 MiB stored), 5 requests, 1.2 s; "
        "sequence 7",
        "3 changed, 2 deleted here: not pushed; use --copy or --full",
        "1 changed in the bucket: not pulled; use `pull --copy`",
    ]


@pytest.mark.parametrize(
    ("command", "mode", "left", "line"),
    [
        ("push", "copy", {"deleted_here": 2}, "2 deleted here: not pushed; use --full"),
        ("push", "full", {"new_there": 1}, "1 new in the bucket: not pulled; `pull` brings them, "
         "--delete-unknown deletes them"),
        ("pull", "new", {"changed_there": 1}, "1 changed in the bucket: not pulled; use --copy or --full"),
        ("pull", "full", {"new_here": 4}, "4 new here: not pushed; `push` sends them, --delete-unknown "
         "deletes them"),
        ("pull", "new", {"new_here": 1, "changed_here": 1}, "1 new, 1 changed here: not pushed; use `push`, "
         "`push --copy`"),
        ("pull", "new", {"dropped": 3}, "3 dropped: left as they are"),
    ],
)  # fmt: skip
def test_each_case_left_undone_has_its_way_on(
    capsys: Capture, command: str, mode: str, left: dict[str, int], line: str
) -> None:
    print_run(RunReport(command, mode, left=left), Settings())
    assert capsys.readouterr().out.splitlines()[1:] == [line]


def test_conflicts_and_skipped_files_are_listed(capsys: Capture) -> None:
    report = RunReport("pull", "copy", conflicts=paths(25), skipped=[(Path(b"exp/\xff"), "cannot be read")])
    print_run(report, Settings())
    text = capsys.readouterr().out
    assert text.startswith("pull --copy: ")
    assert "25 conflicts, left as on each side:" in text
    assert "exp/019" in text
    assert "exp/020" not in text
    assert "and 5 more (-v lists all)" in text
    assert "--resolve local" in text
    assert "exp/\\xff: cannot be read" in text
    print_run(report, Settings(verbose=True))
    assert "exp/024" in capsys.readouterr().out


def test_quiet_says_only_what_went_wrong(capsys: Capture) -> None:
    print_run(RunReport("push", "new", new=3), Settings(quiet=True))
    assert capsys.readouterr() == ("", "")
    print_run(RunReport("push", "new", conflicts=paths(1)), Settings(quiet=True))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1 conflict, left" in captured.err


def test_a_dry_run_lists_the_plan(capsys: Capture) -> None:
    report = RunReport("push", "copy", dry_run=True, new=1, actions=["upload    exp/a"])
    print_run(report, Settings())
    assert capsys.readouterr().out.splitlines() == [
        "upload    exp/a",
        "dry run, push --copy: would be 1 new, 0 changed, 0 deleted, 0 unchanged; nothing was done",
    ]


def test_verbose_says_why_each_file_travels(capsys: Capture) -> None:
    report = RunReport("pull", "full", actions=["download  a", "download  b", "trash     c"])
    report.why = ["new_there", "changed_here", "deleted_there"]
    print_run(report, Settings())
    assert "download" not in capsys.readouterr().out
    print_run(report, Settings(verbose=True))
    assert capsys.readouterr().out.splitlines()[:3] == [
        "download  a  (new in the bucket)",
        "download  b  (changed here)",
        "trash     c  (deleted in the bucket)",
    ]
    report.dry_run = True
    print_run(report, Settings())
    assert capsys.readouterr().out.splitlines()[:3] == report.actions


def test_checksum_says_what_the_stat_cache_had_missed(capsys: Capture) -> None:
    print_run(RunReport("push", "full", missed=paths(1)), Settings())
    assert "1 changed without a sign in size or times; found by --checksum:\n  exp/000\n" in (
        capsys.readouterr().out
    )


def test_a_root_that_is_skipped_has_a_name(capsys: Capture) -> None:
    print_run(RunReport("push", "new", skipped=[(Path(b""), "it is on another device")]), Settings())
    assert "1 skipped:\n  .: it is on another device\n" in capsys.readouterr().out


def test_status_groups_by_case_and_names_the_next_command(capsys: Capture) -> None:
    report = StatusReport({"changed_here": paths(21), "edit_edit": [Path(b"x")], "new_there": []})
    report.unchanged, report.sequence, report.trash_files, report.trash_bytes = 9, 4, 2, 2048
    print_status(report, Settings())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "changed here: 21; `push --copy` sends them"
    assert lines[21:24] == ["  and 1 more (-v lists all)", "conflict: changed on both sides: 1", "  x"]
    assert lines[24].startswith("`push --resolve local PATH` keeps this side")
    assert lines[25:] == ["9 unchanged; sequence 4", "2 in the trash, 2.0 KiB"]
    print_status(StatusReport(unchanged=9, sequence=4, offline=True), Settings())
    assert capsys.readouterr().out == ("no drift: 9 unchanged; the bucket as it was last seen, sequence 4\n")


def test_every_case_of_the_table_has_words() -> None:
    from manifest_sync.diff import Case  # noqa: PLC0415

    assert set(output.CASES) == {case.value for case in Case} - {"in_sync"}


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    stdio.write_line("é")
    assert ascii_only.buffer.getvalue() == b"\\xe9\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1024**2 - 1, "1.0 MiB"), (20 * 1024**3, "20 GiB"),
     (5 * 1024**5, "5.0 PiB")],
)  # fmt: skip
def test_sizes_for_people(count: int, text: str) -> None:
    assert human_size(count) == text


def test_times_are_rfc_3339_and_may_lie_before_1970() -> None:
    assert rfc3339_ns(1_700_000_000_999_999_999) == "2023-11-14T22:13:20Z"
    assert rfc3339_ns(-1) == "1969-12-31T23:59:59Z"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_shows_files_bytes_rate_and_time_left() -> None:
    stage = Stage("transfer", 600, 8 * 1024**2, started=0.0)
    stage.sample(0.0)
    stage.files, stage.bytes = 120, 2 * 1024**2
    stage.sample(2.0)
    assert stage.describe() == "120/600 files  2.0 MiB/8.0 MiB  1.0 MiB/s  0:06 left"
    assert stage.fraction() == (2 * 1024**2, 8 * 1024**2)
    scan = Stage("scan", None, None, started=0.0)
    scan.files = 7
    assert scan.describe() == "7 files"
    assert scan.fraction() == (7, None)


def test_bars_go_to_the_terminal_on_stderr_and_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    with Bars(clock) as bars:
        bars.begin("hash", files=10)
        clock.now += 1
        bars.advance("hash", files=4, bytes_=2048)
        bars.note("a retry [1/3]")
        bars.end("hash")
        drawn = terminal.getvalue()
    assert "4/10 files" in drawn
    assert "a retry [1/3]" in drawn
    assert "\x1b[3" not in drawn


def test_without_a_terminal_only_notes_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    with make_progress(quiet=False) as progress:
        assert isinstance(progress, Notes)
        progress.begin("scan")
        progress.advance("scan", files=1)
        progress.note("a retry")
    assert capsys.readouterr() == ("", "a retry\n")
    with make_progress(quiet=True) as progress:
        progress.note("a retry")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(quiet=False), Bars)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(quiet=False), Notes)


@pytest.fixture
def here(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> FilePath:
    """A project folder with three files, not pushed yet; the bucket is the folder beside it."""
    for name in [name for name in os.environ if name.startswith("MANIFEST_SYNC_")]:
        monkeypatch.delenv(name)
    project = tmp_path / "here"
    project.mkdir()
    monkeypatch.chdir(project)
    run("init", str(tmp_path / "bucket"))
    for name, text in [("exp01/a.json", "{}"), ("exp01/b.json", "[]"), ("exp02/c.json", "0")]:
        file = project / "experiments" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return project


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result


def test_init_says_what_comes_next_and_a_second_folder_joins(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, created in [("one", True), ("two", False)]:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        said = json.loads(run("init", str(tmp_path / "bucket"), "--json").stdout)
        assert (said["command"], said["created"]) == ("init", created)
        assert said["project"] == str(tmp_path / name)


def test_push_then_status_then_ls(here: FilePath) -> None:
    assert "new here: 3" in run("status", "--exit-code", code=1).stdout
    pushed = json.loads(run("push", "--json").stdout)
    assert (pushed["command"], pushed["mode"], pushed["new"], pushed["bytes"]) == ("push", "new", 3, 5)
    assert pushed["requests"]["PUT"] >= 3
    assert "no drift: 3 unchanged" in run("status", "--exit-code").stdout
    assert run("ls").stdout == "exp01/a.json\nexp01/b.json\nexp02/c.json\n"
    assert run("ls", "exp02").stdout == "exp02/c.json\n"
    assert run("ls", "-l", "exp02").stdout.split()[0] == "1"
    listed = json.loads(run("ls", "--json").stdout)
    assert listed["command"] == "ls"
    assert [entry["path"] for entry in listed["entries"]] == ["exp01/a.json", "exp01/b.json", "exp02/c.json"]
    assert set(listed["entries"][0]) == {
        "path", "type", "size", "mtime", "mtime_ns", "mode", "hash", "host",
    }  # fmt: skip


def test_a_changed_file_is_named_and_a_dry_run_sends_nothing(here: FilePath) -> None:
    run("push")
    (here / "experiments/exp01/a.json").write_text("[1]")
    assert "1 changed here: not pushed; use --copy or --full" in run("push").stdout
    assert run("push", "--copy", "-n").stdout.splitlines()[0] == "upload    exp01/a.json"
    assert "changed here: 1" in run("status").stdout
    assert run("push", "--copy").stdout.startswith("push --copy: 0 new, 1 changed, 0 deleted, 2 unchanged")


def test_commands_work_from_a_folder_inside(here: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "experiments" / "exp01")
    assert json.loads(run("push", "--json", "--only", "exp01").stdout)["new"] == 2


def test_rebuild_index_forgets_nothing(here: FilePath) -> None:
    run("push")
    assert json.loads(run("rebuild-index", "--json").stdout)["command"] == "rebuild-index"
    assert "no drift: 3 unchanged" in run("status", "--exit-code").stdout


def test_outside_a_project_the_message_says_what_to_do(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code in (2, 10)
    assert "init" in result.stderr


def test_help_begins_with_the_daily_use() -> None:
    """What repairs a bucket comes after the options."""
    shown = CliRunner().invoke(main, ["push", "--help"]).output
    assert (
        0 < shown.index("conflict") < shown.index("Options:") < shown.index("With --repair no change is sent")
    )
    assert "\n  A lost page" in shown


def test_a_dry_run_lists_what_a_limit_would_stop(tmp_path: FilePath) -> None:
    machine = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    for number in range(11):
        machine.write(f"{number}", "x")
    machine.push()
    for number in range(11):
        (machine.root / f"{number}").unlink()
    found = machine.command("push", "--full", "-n")
    lines = found.stdout.splitlines()
    assert found.returncode == machine.command("push", "--full").returncode == 8
    assert [line[:6] for line in lines[:11]] == ["delete"] * 11
    assert lines[-1] == (
        "without -n it stops: this would delete 11 of 11 files in scope; the limit is 10; "
        "if it is meant, add --max-delete 11"
    )
    assert machine.command("push", "--full", "-n", "--max-delete", "11").returncode == 0
