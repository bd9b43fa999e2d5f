"""Completion: the scripts, and what they are answered from the index alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path as FsPath

import pytest

from tests.machines import Machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One whose bucket is gone by the time it is asked: completion must not need it."""
    folder = tmp_path_factory.mktemp("completion")
    made = Machine(folder / "gpu", str(folder / "bucket"))
    for name in ("exp1/a.json", "exp1/sub/b.json", "exp2/c.json", "exp-x/d", "with space/e"):
        made.write(name, name)
    made.write(os.fsdecode(b"exp1/\xff"), "")
    made.push()
    made.project().pin("1", "paper")
    shutil.rmtree(made.root / "exp2")
    made.status()
    shutil.rmtree(folder / "bucket")
    return made


def answered(machine: Machine, *words: str, shell: str = "bash") -> list[str]:
    """What the program answers the script of a shell, for the last of the words."""
    line = ["manifest-sync", *words]
    env = {
        **os.environ,
        "_MANIFEST_SYNC_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "\n".join(line) if shell == "bash" else " ".join(line),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    found = subprocess.run(
        [sys.executable, "-m", "manifest_sync"],
        cwd=machine.folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stderr, found.returncode) == ("", 0)
    return [line for line in found.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (("pus",), ["push"]),
        (("drop", "e"), ["exp-x/", "exp1/", "exp2/"]),
        (("drop", "exp1/"), ["exp1/a.json", "exp1/sub/"]),
        (("restore", "exp2/"), ["exp2/c.json"]),
        (("ls", "experiments/exp1/s"), ["experiments/exp1/sub/"]),
        (("push", "--only", "exp1,exp2"), ["exp1,exp2/"]),
        (("pull", "--with", ""), ["loras"]),
        (("cat", "exp1/a.json", "--at", "p"), ["paper"]),
        (("pin", ""), ["paper", "2", "1", "0"]),
        (("push", "--cop"), ["--copy"]),
        (("drop", "nothing"), []),
    ],
    ids=" ".join,
)
def test_bash_is_answered(machine: Machine, words: tuple[str, ...], items: list[str]) -> None:
    assert answered(machine, *words) == [f"plain,{item}" for item in items]


def test_folders_are_left_to_the_shell(machine: Machine) -> None:
    for command in ("export", "init", "adopt"):
        assert answered(machine, command, "../s") == ["dir,../s"]


def test_zsh_and_fish_are_answered(machine: Machine) -> None:
    assert answered(machine, "track", "exp1/", shell="zsh") == [
        "plain", "exp1/a.json", "_", "plain", "exp1/sub/", "_"
    ]  # fmt: skip
    assert answered(machine, "unpin", "p", shell="fish")[0].startswith("plain,paper")


def test_outside_a_project_nothing_is_said(tmp_path: FsPath, machine: Machine) -> None:
    outside = Machine.__new__(Machine)
    outside.folder = tmp_path
    assert answered(outside, "drop", "e") == []
    (tmp_path / "manifest-sync.toml").write_text('bucket = "b"\n')
    assert answered(outside, "drop", "e") == []
    assert answered(outside, "pin", "") == []
    assert [path.name for path in tmp_path.iterdir()] == ["manifest-sync.toml"], "nothing is made for it"


def test_the_script_works_in_bash(machine: Machine, tmp_path: FsPath) -> None:
    program = tmp_path / "manifest-sync"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m manifest_sync "$@"\n')
    program.chmod(0o755)
    asked = """
        eval "$(manifest-sync completion bash)"
        complete -p manifest-sync
        compopt() { printf 'compopt %s %s\\n' "$@"; }
        ask() { COMP_WORDS=(manifest-sync "$@"); COMP_CWORD=$#; COMPREPLY=()
                _manifest_sync_completion manifest-sync; printf '<%s>' "${COMPREPLY[@]}"; echo; }
        ask drop exp1/s
        ask drop wi
        ask push --cop
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-c", asked]
    found = subprocess.run(command, cwd=machine.folder, env=env, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == [
        "complete -o nosort -F _manifest_sync_completion manifest-sync",
        "compopt -o filenames", "compopt -o nospace", "<exp1/sub/>",
        "compopt -o filenames", "compopt -o nospace", "<with space/>",
        "<--copy>",
    ], found.stderr  # fmt: skip


def test_a_comma_does_not_end_an_item_in_fish(machine: Machine, tmp_path: FsPath) -> None:
    text = machine.command("completion", "fish", check=True).stdout
    assert 'string split "," $completion' not in text
    if not shutil.which("fish"):
        pytest.skip("there is no fish here")
    program = tmp_path / "manifest-sync"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m manifest_sync "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script.fish").write_text(text)
    asked = f"source {tmp_path}/script.fish; complete -C 'manifest-sync push --only exp1/a.json,exp1/s'"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    command = ["fish", "--no-config", "-c", asked]
    found = subprocess.run(command, cwd=machine.folder, env=env, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["exp1/a.json,exp1/sub/"], found.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_script(machine: Machine, shell: str) -> None:
    text = machine.command("completion", shell, check=True).stdout
    assert f"_MANIFEST_SYNC_COMPLETE={shell}_complete" in text
    if shell == "zsh":
        assert text.startswith("#compdef manifest-sync")
        assert "-S '' -- ${(M)completions:#*/}" in text
        if shutil.which("zsh"):
            subprocess.run(["zsh", "-n"], input=text, text=True, check=True)
    assert machine.command("completion", "tcsh").returncode == 2
