"""Every command prints with ``--json`` what docs/json.md says, no more and no less."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path as FsPath
from typing import Any

import click
import pytest
from click.testing import CliRunner

from manifest_sync.cli.main import main
from manifest_sync.verify.damage import Kind
from tests.json_doc import DOCUMENT, Schema

WITHOUT_JSON = {"cat"}
SELDOM_MET = {
    # Where these are not met, it is only seen that nothing else is in them; other tests make them happen.
    ("*", "skipped[]"),
    ("*", "damaged[]"),
    ("*", "unchecked[]"),
    ("unpin", "pins[]"),
    ("push --repair", "tried[]"),
    ("push --repair", "dropped[]"),
    ("doctor --restore-head", "doubtful[]"),
    ("doctor --restore-head", "losses[]"),
    ("init", "rights"),
    ("sync", "error"),
    ("sync", "message"),
    ("sync", "hint"),
    ("log", "snapshots[].problem"),
    ("log", "snapshots[].hint"),
}
MUST_BE_MET = {("push", "skipped[].path"), ("pull", "damaged[].path"), ("verify", "damaged[].files[].path")}


class Commands:
    """Runs commands in the folders of some machines, and compares what they print with the document."""

    def __init__(self, folder: FsPath, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.schema = Schema.read()
        self._chdir = monkeypatch.chdir
        self.bucket = folder / "bucket"

    def run(self, machine: str, section: str, *words: str) -> dict[str, Any]:
        folder = self.folder / machine
        folder.mkdir(exist_ok=True)
        self._chdir(folder)
        result = CliRunner().invoke(main, [*words, "--json"])
        assert result.exit_code in (0, 3, 6, 7) or section == "error", (words, result.output)
        found: dict[str, Any] = json.loads(result.stdout)
        self.schema.check(section, found)
        return found

    def write(self, machine: str, path: str, text: str) -> FsPath:
        target = self.folder / machine / "experiments" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Schema:
    """The document, compared with one run of every command at least."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MANIFEST_SYNC_")]:
            patch.delenv(name)
        commands = Commands(tmp_path_factory.mktemp("json"), patch)
        daily_life(commands)
        looking_back(commands)
        things_break(commands)
        watching(commands)
        return commands.schema


def daily_life(commands: Commands) -> None:
    run, write = commands.run, commands.write
    write("gpu", "exp1/plot.py", "print()")  # one of the rules that init proposes leaves it out
    for machine in ("gpu", "laptop"):
        run(machine, "init", "init", str(commands.bucket))
    for path in ("exp1/a.json", "exp1/b.json", "exp2/c.json", "exp2/gone.json", "exp3/\udcff.json"):
        write("gpu", path, path.encode("utf-8", "replace").decode())
    assert run("gpu", "push", "push", "--message", "first")["new"] == 5
    run("laptop", "pull", "pull")
    write("laptop", "exp1/a.json", "mine")
    for path in ("exp1/a.json", "exp1/b.json"):
        write("gpu", path, "theirs, and longer")
    (commands.folder / "gpu/experiments/exp2/gone.json").unlink()
    gone = commands.folder / "gpu/experiments/exp2/c.json"
    gone.unlink()
    os.mkfifo(gone)
    pushed = run("gpu", "push", "push", "--full", "-v")
    assert pushed["skipped"]
    gone.unlink()
    write("gpu", "exp2/c.json", "a file again")
    assert run("laptop", "sync", "sync", "-n")["conflicts"]
    fifo = commands.folder / "laptop/experiments/exp2/c.json"
    fifo.unlink()
    os.mkfifo(fifo)
    assert run("laptop", "sync", "sync")["skipped"]
    run("gpu", "push", "push", "--copy")
    status = run("laptop", "status", "status")
    assert status["conflicts"]
    assert status["skipped"] or status["cases"]
    fifo.unlink()
    run("laptop", "trash list", "trash", "list")
    run("laptop", "undo", "undo")
    run("laptop", "drop", "drop", "exp3")
    run("laptop", "restore", "restore", "exp3")
    run("laptop", "trash empty", "trash", "empty")
    run("laptop", "rebuild-index", "rebuild-index")
    run("laptop", "export", "export", "../site")
    run("laptop", "completion", "completion", "zsh")
    run("laptop", "track", "track", "exp1", "exp3")
    run("laptop", "untrack", "untrack", "exp3")
    run("laptop", "track", "track", "--all")
    run("laptop", "owners PATH", "owners", "exp1/a.json", "exp1/x.py")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "-f", "experiments/exp1"], check=True)
    write("laptop", "exp1/nobodys.py", "print()")
    owners = run("laptop", "owners", "owners")
    assert owners["two_owners"]
    assert owners["no_owner"]
    run("laptop", "error", "push", "--new", "--full")


def looking_back(commands: Commands) -> None:
    run = commands.run
    run("gpu", "pin", "pin", "1", "--name", "first")
    assert run("gpu", "log", "log")["snapshots"][0]["pins"] == []
    assert run("gpu", "diff", "diff", "0", "1")["added"]
    assert run("gpu", "diff", "diff", "1", "2")["deleted"]
    assert run("gpu", "diff", "diff", "1")["b"] is None
    assert run("gpu", "ls", "ls")["entries"]
    run("gpu", "unpin", "unpin", "first")
    run("gpu", "gc", "gc")
    assert run("gpu", "gc", "gc", "--apply", "--keep-last", "1", "--min-age", "0s")["dropped_snapshots"]
    assert run("gpu", "log", "log")["snapshots"]
    run("gpu", "doctor", "doctor")
    plain = commands.folder / "plain"
    plain.mkdir()
    (plain / "theirs.json").write_text("{}")
    assert run("gpu", "adopt", "adopt", str(plain))["new"] == 1


def things_break(commands: Commands) -> None:
    run, bucket = commands.run, commands.bucket
    pack = next((bucket / "packs").rglob("*.pack"))
    pack.unlink()
    assert run("gpu", "verify", "verify")["damaged"]
    run("gpu", "verify", "verify", "--local")
    run("stranger", "init", "init", str(bucket))
    assert run("stranger", "push --repair", "push", "--repair")["left"]
    assert run("gpu", "push --repair", "push", "--repair")["repaired"]
    # One that keeps no page of its own.
    run("newcomer", "init", "init", str(bucket))
    pages = {page: page.read_bytes() for page in (bucket / "pages").rglob("*.zst")}
    for page in pages:
        page.unlink()
    assert run("newcomer", "status", "status")["damaged"]
    assert run("newcomer", "pull", "pull")["damaged"]
    for page, whole in pages.items():
        page.write_bytes(whole)
    (bucket / "manifest.json").unlink()
    run("gpu", "doctor --restore-head", "doctor", "--restore-head")
    run("gpu", "error", "cat", "exp1/a.json")


def watching(commands: Commands) -> None:
    commands.write("gpu", "exp9/new.json", "new")
    process = subprocess.Popen(
        [sys.executable, "-m", "manifest_sync", "watch", "--json", "--settle", "1s", "--only", "exp9"],
        cwd=commands.folder / "gpu",
        stdout=subprocess.PIPE,
        text=True,
    )
    process.send_signal(0)
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    commands.schema.check("watch", json.loads(line))


def leaves(command: click.Command, prefix: str = "") -> list[str]:
    children = getattr(command, "commands", None)
    if children is None:
        return [prefix.strip()]
    return [leaf for name, child in children.items() for leaf in leaves(child, f"{prefix} {name}")]


def test_every_command_has_a_section() -> None:
    missing = set(leaves(main)) - set(Schema.read().sections) - WITHOUT_JSON
    assert not missing, f"tell in docs/json.md, and run in {__name__}: {', '.join(sorted(missing))}"


def test_every_field_that_is_documented_is_printed(schema: Schema) -> None:
    for section in schema.sections:
        seldom = tuple(name for command, name in SELDOM_MET if command in ("*", section))
        missing = [name for name in schema.never_met(section) if not name.startswith(seldom)]
        assert not missing, f"{section}: nothing printed {missing}"
    assert schema.met >= MUST_BE_MET


def test_every_kind_of_damage_is_documented() -> None:
    row = next(
        line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `damaged[].kind`")
    )
    assert set(re.findall("`([^`]+)`", row)) == {"damaged[].kind", *(kind.value for kind in Kind)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("new"),
        lambda found: found.update(extra=1),
        lambda found: found.update(new="1"),
        lambda found: found.update(new=True),
        lambda found: found["conflicts"].append(None),
        lambda found: found["skipped"].append({"path": "x"}),
        lambda found: found.update(time="2026-11-20 12:00:00"),
        lambda found: found["requests"].update(GET="1"),
    ],
)
def test_what_differs_from_the_document_is_noticed(spoil: Callable[[dict[str, Any]], object]) -> None:
    schema = Schema.read()
    good: dict[str, Any] = {
        "command": "watch", "time": "2026-11-20T12:00:00Z", "waiting": [], "mode": "copy", "dry_run": False,
        "new": 1, "changed": 0, "deleted": 0, "unchanged": 0, "left": {}, "conflicts": ["a"], "actions": [],
        "why": [],
        "skipped": [{"path": "x", "reason": "y"}], "missed": [], "damaged": [], "selection": [], "limit": "",
        "run": "",
        "bytes": 1, "stored_bytes": 2, "requests": {"GET": 1}, "snapshot": "0" * 32, "sequence": 1,
        "seconds": 0.5,
    }  # fmt: skip
    schema.check("watch", good)
    spoil(good)
    with pytest.raises(AssertionError):
        schema.check("watch", good)
