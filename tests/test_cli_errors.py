"""Every error becomes a message, a hint and an exit code; no traceback without ``--debug``."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manifest_sync import errors
from manifest_sync.cli.main import main
from manifest_sync.model import MAX_MESSAGE
from manifest_sync.report import RunReport

Run = Callable[..., Result]

EXIT_CODES = [
    (errors.ManifestSyncError, 1),
    (errors.UsageError, 2),
    (errors.StoreUnavailable, 5),
    (errors.Refused, 6),
    (errors.FormatError, 7),
    (errors.UnknownFeature, 7),
    (errors.WrongRepository, 7),
    (errors.RolledBack, 7),
    (errors.SafetyLimit, 8),
    (errors.NoRepository, 10),
    (errors.Contended, 11),
    (errors.AccessDenied, 12),
    (errors.Interrupted, 130),
]


class Recorder:
    """Stands in for a project: records the options of a call, and returns or raises what it is told."""

    def __init__(self) -> None:
        self.outcome: RunReport | BaseException = RunReport("push", "new")
        self.options: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def find(self, **found: Any) -> Recorder:
        self.found = found
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def push(self, **options: Any) -> RunReport:
        self.options = options
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    pull = push

    def history(self) -> Any:
        assert isinstance(self.outcome, BaseException)
        raise self.outcome


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    module = ModuleType("manifest_sync.project")
    module.Project = recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "manifest_sync.project", module)
    return recorder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("MANIFEST_SYNC_")]:
        monkeypatch.delenv(name)

    def invoke(*words: str, **options: Any) -> Result:
        return CliRunner().invoke(main, words, prog_name="manifest-sync", **options)

    return invoke


@pytest.mark.parametrize(("kind", "code"), EXIT_CODES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_an_error_has_a_message_a_hint_and_its_exit_code(
    project: Recorder, run: Run, kind: type[errors.ManifestSyncError], code: int
) -> None:
    project.outcome = kind("exp01/a.pt is odd", "look at it")
    result = run("push")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == "manifest-sync: exp01/a.pt is odd\n  look at it\n"


def test_the_tree_of_errors_names_each_below_what_it_is_a_kind_of() -> None:
    assert errors.__doc__
    above = {0: "ManifestSyncError"}
    found = {}
    for front, name in re.findall(r"^    ((?:│   )*[├└]── )(\w+)  ", errors.__doc__, re.MULTILINE):
        above[len(front)] = name
        found[name] = above[len(front) - 4]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if errors.ManifestSyncError in kind.__mro__[1:]]
    assert found == {kind.__name__: kind.__mro__[1].__name__ for kind in kinds}


@pytest.mark.parametrize("words", [("--json", "push"), ("push", "--json")], ids=["before", "behind"])
def test_with_json_the_error_is_one_object_on_stdout(
    project: Recorder, run: Run, words: tuple[str, ...]
) -> None:
    project.outcome = errors.NoRepository("nothing at s3://b/p", "run `manifest-sync init`")
    result = run(*words)
    assert result.exit_code == 10
    assert json.loads(result.stdout) == {
        "error": "no_repository",
        "message": "nothing at s3://b/p",
        "hint": "run `manifest-sync init`",
    }
    assert result.stderr == ""


def test_an_unexpected_exception_is_one_line_without_a_traceback(project: Recorder, run: Run) -> None:
    project.outcome = RuntimeError("two\nlines")
    result = run("push")
    assert result.exit_code == 1
    assert result.stderr.startswith("manifest-sync: internal error: RuntimeError: two lines\n")
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(project: Recorder, run: Run) -> None:
    project.outcome = RuntimeError("odd")
    result = run("push", "--debug")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


def test_an_error_of_the_system_names_the_file(project: Recorder, run: Run) -> None:
    project.outcome = OSError(28, "No space left on device", "/data/x")
    result = run("pull")
    assert result.exit_code == 1
    assert "/data/x: No space left on device" in result.stderr
    assert "internal error" not in result.stderr
    project.outcome = PermissionError(13, "Permission denied", b"/data/\xff")
    assert run("pull").exit_code == 12


@pytest.mark.parametrize(
    ("command", "safe"), [("push", "what was uploaded is kept"), ("pull", "every file is whole")]
)
def test_ctrl_c_says_what_is_safe(project: Recorder, run: Run, command: str, safe: str) -> None:
    project.outcome = KeyboardInterrupt()
    result = run(command)
    assert result.exit_code == 130
    assert safe in result.stderr
    assert "run the same command again" in result.stderr


def test_ctrl_c_while_the_command_line_is_imported() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'manifest_sync.cli.main':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from importlib.metadata import EntryPoint\n"
        "EntryPoint('', sys.argv[1], '').load()()\n"
    )
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    entry = pyproject["project"]["scripts"]["manifest-sync"]
    result = subprocess.run([sys.executable, "-c", code, entry], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.startswith("manifest-sync: interrupted: nothing was changed\n")
    assert "Traceback" not in result.stderr


def test_wrong_usage_is_2_and_names_the_help(run: Run) -> None:
    result = run("push", "--bogus")
    assert result.exit_code == 2
    assert "--bogus" in result.stderr
    assert "manifest-sync push --help" in result.stderr
    assert json.loads(run("push", "--json", "--bogus").stdout)["error"] == "usage_error"
    assert run("no-such-command").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("push", "--new", "--copy"),
        ("pull", "--copy", "--full"),
        ("push", "exp01"),
        ("push", "--only", ""),
        ("push", "--only", " , "),
        ("push", "--resolve", "mine"),
        ("push", "--files-from", "/no/such/file"),
        ("push", "-j", "0"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused(project: Recorder, run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert project.options == {}


@pytest.mark.parametrize("command", ["push", "sync", "watch", "adopt"])
@pytest.mark.parametrize("text", [os.fsdecode(b"caf\xe9"), "x" * (MAX_MESSAGE + 1)], ids=["latin-1", "long"])
def test_a_message_that_no_snapshot_can_hold_is_refused(
    project: Recorder, run: Run, command: str, text: str
) -> None:
    result = run(command, *(["../there"] if command == "adopt" else []), "--message", text)
    assert result.exit_code == 2
    assert "'--message'" in result.stderr
    assert project.options == {}
    assert run("push", "--message", "x" * MAX_MESSAGE).exit_code == 0


def test_an_empty_list_of_paths_never_means_everything(project: Recorder, run: Run) -> None:
    result = run("push", "--files-from", "-", input="\n\n")
    assert result.exit_code == 2
    assert project.options == {}


@pytest.mark.parametrize(
    ("given", "paths"),
    [(b"a\nb c\r\n\n#d\n", ["a", "b c", "#d"]), (b"a\nb\0c\0", ["a\nb", "c"]), (b"\xff\n", ["\udcff"])],
    ids=["lines", "nul", "odd-byte"],
)
def test_files_from_reads_lines_or_nuls(project: Recorder, run: Run, given: bytes, paths: list[str]) -> None:
    assert run("push", "--files-from", "-", input=given).exit_code == 0
    assert project.options["files_from"] == paths


def test_the_options_reach_the_project(project: Recorder, run: Run) -> None:
    words = "push --full -n --only a,b --only c --with loras --exclude *.tmp --max-delete 80% --message hi"
    assert run(*words.split(), "--delete-unknown", "--resolve", "local", "x", "-v", "-j", "3").exit_code == 0
    assert project.options == {
        "mode": "full",
        "checksum": False,
        "dry_run": True,
        "only": ["a", "b", "c"],
        "files_from": [],
        "groups": ["loras"],
        "exclude": ["*.tmp"],
        "resolve": "local",
        "resolve_paths": ["x"],
        "delete_unknown": True,
        "max_delete": "80%",
        "list_actions": True,
        "message": "hi",
    }
    assert project.found["jobs"] == 3
    assert project.found["accept_rollback"] is False


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ((), None),
        (("--checksum",), "full"),
        (("--checksum", "--copy"), "copy"),
        (("--checksum", "--new"), "new"),
    ],
    ids=["none", "checksum", "checksum-copy", "checksum-new"],
)
def test_checksum_alone_means_full(
    project: Recorder, run: Run, words: tuple[str, ...], mode: str | None
) -> None:
    assert run("push", *words).exit_code == 0
    assert project.options["mode"] == mode


def test_the_environment_sets_options_and_a_flag_outdoes_it(project: Recorder, run: Run) -> None:
    env = {
        "MANIFEST_SYNC_COPY": "1",
        "MANIFEST_SYNC_ONLY": "a b,c",
        "MANIFEST_SYNC_EXCLUDE": "*.a\nx y",
        "MANIFEST_SYNC_JOBS": "5",
        "MANIFEST_SYNC_JSON": "1",
    }
    result = run("push", env=env)
    assert json.loads(result.stdout)["command"] == "push"
    assert project.options["mode"] == "copy"
    assert project.options["only"] == ["a b", "c"]
    assert project.options["exclude"] == ["*.a", "x y"]
    assert project.found["jobs"] == 5
    assert run("push", "--full", "-j", "2", env=env).exit_code == 0
    assert project.options["mode"] == "full"
    assert project.found["jobs"] == 2
    assert run("-j", "4", "push", env=env).exit_code == 0
    assert project.found["jobs"] == 4


def test_a_listing_that_cannot_begin_is_one_error_object(project: Recorder, run: Run) -> None:
    project.outcome = errors.StoreUnavailable("no answer")
    assert json.loads(run("ls", "--json").stdout)["error"] == "store_unavailable"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from manifest_sync.cli.main import main\n"
        "main(['push', '--help'], standalone_mode=False)\n"
        "print([m for m in ('boto3', 'rich', 'sqlite3', 'manifest_sync.project') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_in_the_middle_is_noticed(unbuffered: str) -> None:
    code = (
        "from manifest_sync.cli import main, stdio\n"
        "main.ls.callback = lambda **_: stdio.write_bytes(b'x' * 1_000_000)\nmain.main(['ls'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1000)) == 1000
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device here")
def test_a_disk_that_is_full_under_stdout_is_an_error() -> None:
    code = (
        "from manifest_sync.cli import main, stdio\n"
        "main.ls.callback = lambda **_: stdio.write_bytes(b'x')\nmain.main(['ls'])\n"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "from manifest_sync.cli.stdio import print_lines\nfrom manifest_sync.cli import main\n" + (
        "main.ls.callback = lambda **_: print_lines(['x' * 1_000_000])\nmain.main(['ls'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 1


def test_settings_of_one_run_do_not_leak_into_the_next(project: Recorder, run: Run) -> None:
    project.outcome = errors.NoRepository("none")
    assert json.loads(run("push", "--json").stdout)["error"] == "no_repository"
    assert run("push").stdout == ""


@pytest.mark.parametrize("words", [(), ("trash",)])
def test_without_a_command_help_is_shown_as_it_is(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert "manifest-sync: Usage" not in result.stderr
    assert "see `" not in result.stderr


@pytest.mark.parametrize("words", [("--json",), ("--json", "trash")], ids=" ".join)
def test_without_a_command_json_is_an_error(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stderr) == (2, "")
    found = json.loads(result.stdout)
    assert found["error"] == "usage_error"
    assert found["hint"] == f"see `{' '.join(('manifest-sync', *words[1:]))} --help`"


def test_a_command_called_from_a_program_leaves_its_collector_alone() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.set_threshold(777)
    try:
        assert main(["--version"], standalone_mode=False) == 0
        assert gc.get_threshold()[0] == 777
        assert gc.get_freeze_count() == frozen
    finally:
        gc.set_threshold(*before)
