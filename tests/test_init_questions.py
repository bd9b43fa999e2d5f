"""`init` on a terminal: what it asks, what it makes of wrong answers, and what it leaves behind."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from manifest_sync.config import parse_dotenv
from manifest_sync.envfile import hindrance, save_variables, set_variables
from manifest_sync.errors import UsageError
from manifest_sync.project import Project
from manifest_sync.repository import Repository
from tests.servers import ACCESS_KEY, BUCKET, READ_ONLY_ACCESS_KEY, READ_ONLY_SECRET_KEY, SECRET_KEY, S3Server
from tests.terminal import Terminal


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment without any key."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home), "TERM": "xterm", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    subprocess.run(["git", "init", "-q", str(made)], check=True)
    return made


def run(folder: Path, env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manifest_sync", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def written(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != ".git")


def test_all_is_asked_for_and_wrong_answers_are_asked_again(
    folder: Path, env: dict[str, str], seaweed_http: S3Server
) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "a.json").write_text("a")
    (folder / ".gitignore").write_text("*.pyc")
    screen = Terminal(folder, env, "init")
    screen.expect("Bucket: ")
    screen.answer(BUCKET)
    screen.expect(f"for a bucket: s3://{BUCKET}/PREFIX")
    screen.expect("Bucket: ")
    screen.answer("gs://elsewhere")
    screen.expect("is not a place this program knows")
    screen.expect("Bucket: ")
    url = f"s3://{BUCKET}/asked-{os.getpid()}"
    screen.answer(url)
    screen.expect("(Enter: AWS)")
    screen.answer(seaweed_http.endpoint_url)
    screen.expect(f"No key was found for {url}")
    screen.expect("Access key id: ")
    screen.answer(ACCESS_KEY)
    screen.expect("Secret access key")
    screen.answer("a wrong secret")
    screen.expect("ignored by git?")
    screen.answer("")
    screen.expect("[runs]")
    screen.answer("")
    screen.expect("the secret does not belong to this access key id")
    assert written(folder) == [".gitignore", "runs"], "nothing is written before it was tried"
    screen.expect(f"Bucket [{url}]: ")
    screen.answer("")
    screen.expect(f"[{seaweed_http.endpoint_url}]: ")
    screen.answer("")
    screen.expect(f"Access key id [{ACCESS_KEY}]: ")
    screen.answer("")
    screen.expect("Secret access key")
    screen.answer(SECRET_KEY)
    screen.expect("[runs]")
    screen.answer("")
    screen.expect(f"made a repository in {url}")
    assert screen.end() == 0
    assert "it may read, list, write and delete" in screen.shown
    for secret in (SECRET_KEY, "a wrong secret"):
        assert secret not in screen.shown
    assert written(folder) == [".env", ".gitignore", ".manifest-sync", "manifest-sync.toml", "runs"]
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert (folder / ".gitignore").read_text() == "*.pyc\n/.env\n"
    assert (
        subprocess.run(["git", "-C", str(folder), "check-ignore", "-q", ".env"], check=False).returncode == 0
    )
    assert SECRET_KEY not in (folder / "manifest-sync.toml").read_text()
    pushed = run(folder, env, "push")
    assert (pushed.returncode, "1 new" in pushed.stdout) == (0, True), pushed.stderr
    for path in (path for path in (folder / ".manifest-sync").rglob("*") if path.is_file()):
        assert SECRET_KEY.encode() not in path.read_bytes(), path


def test_a_clone_asks_for_the_key_alone_and_says_what_it_may(
    folder: Path, env: dict[str, str], seaweed_http: S3Server
) -> None:
    endpoint = seaweed_http.endpoint_url
    url = f"s3://{BUCKET}/cloned-{os.getpid()}"
    owner = {**env, **seaweed_http.r2_environment()}
    assert run(folder, owner, "init", url, "--endpoint-url", endpoint).returncode == 0
    subprocess.run(["rm", "-r", ".manifest-sync", "experiments"], cwd=folder, check=True)
    screen = Terminal(folder, env, "init")
    screen.expect("Access key id: ")
    screen.answer(READ_ONLY_ACCESS_KEY)
    screen.expect("Secret access key")
    screen.answer(READ_ONLY_SECRET_KEY)
    screen.expect("ignored by git?")
    screen.answer("n")
    assert screen.end() == 0
    assert "it may read and list; it may not write or delete: pull works and push does not" in screen.shown
    assert "the key is kept nowhere" in screen.shown
    assert written(folder) == [".manifest-sync", "experiments", "manifest-sync.toml"]


@pytest.mark.parametrize("at", ["Bucket: ", "Secret access key", "[runs]"])
def test_ctrl_c_leaves_nothing_behind(folder: Path, env: dict[str, str], at: str) -> None:
    (folder / "runs").mkdir()
    screen = Terminal(folder, env, "init")
    answers = {"Bucket: ": "s3://b/p", "(Enter: AWS)": "", "Access key id: ": "AK", "Secret access key": "SK"}
    answers |= {"ignored by git?": "", "[runs]": ""}
    for question, answer in answers.items():
        screen.expect(question)
        if question == at:
            break
        screen.answer(answer)
    screen.interrupt()
    assert screen.end() == 130
    assert "nothing was changed" in screen.shown
    assert written(folder) == ["runs"]


def test_an_init_that_is_interrupted_at_work_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"

    def interrupted(*_: object) -> None:
        assert written(folder) == [".manifest-sync"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Repository, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Project.init(str(folder), "../bucket", env={})
    assert written(folder) == []


def test_nothing_is_asked_in_a_pipe_nor_of_a_program(folder: Path, env: dict[str, str]) -> None:
    told = run(folder, env, "init")
    assert (told.returncode, "no bucket was named" in told.stderr) == (2, True)
    screen = Terminal(folder, env, "init", "--json")
    assert screen.end() == 2
    assert "no bucket was named" in screen.shown
    assert written(folder) == []


# ---- the file that keeps a key


def test_a_key_goes_beside_what_the_file_says_already(folder: Path) -> None:
    (folder / ".env").write_bytes(b"# mine\nOTHER=1\nexport R2_ACCESS_KEY_ID=old\nODD=\xff")
    (folder / ".env").chmod(0o644)
    values = {"R2_ACCESS_KEY_ID": "new", "R2_SECRET_ACCESS_KEY": 'a\'b "c" $d\\e#f'}
    assert save_variables(str(folder), values) == [".gitignore", ".env"]
    data = (folder / ".env").read_bytes()
    assert data.startswith(b"# mine\nOTHER=1\nODD=\xff\nR2_ACCESS_KEY_ID=new\n")
    assert parse_dotenv(data.decode("utf-8", "surrogateescape")).items() >= values.items()
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert save_variables(str(folder), values) == [".env"], "git ignores it already"
    assert (folder / ".env").read_bytes() == data


@pytest.mark.parametrize("value", ["plain/+=", "with space", "it's", '"', "$x", "\\", "#", "", "it's \"$\\`"])
def test_every_value_is_read_as_it_was_written(value: str) -> None:
    assert parse_dotenv(set_variables("A=1", {"K": value})) == {"A": "1", "K": value}


def test_no_key_goes_where_git_would_publish_it(folder: Path) -> None:
    (folder / ".env").write_text("A=1\n")
    subprocess.run(["git", "-C", str(folder), "add", ".env"], check=True)
    assert "git tracks" in hindrance(str(folder))
    with pytest.raises(UsageError, match="git tracks"):
        save_variables(str(folder), {"K": "secret"})
    assert (folder / ".env").read_text() == "A=1\n"


def test_no_key_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("elsewhere")
    assert "ordinary" in hindrance(str(tmp_path))


def test_the_rules_proposed_are_shown_with_what_they_leave_out(folder: Path, env: dict[str, str]) -> None:
    """Nothing is written before the answer; without the rules, all but what git tracks is the bucket's."""
    for name in (
        "a.json",
        "plot.py",
        "notes.md",
        "activations/1.pt",
        "activations/2.pt",
        "lora/w.pt",
        "own.pt",
    ):
        (folder / "experiments" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "experiments" / name).write_text(name)
    subprocess.run(["git", "-C", str(folder), "add", "experiments/own.pt"], check=True)
    screen = Terminal(folder, env, "init", "../bucket")
    screen.expect("tracked by git               1 file")
    screen.expect("git *.py                     1 file")
    screen.expect("neither **/activations/      1 folder")
    screen.expect("group loras                  1 folder")
    screen.expect("1 file is the bucket's")
    screen.expect("Write these rules")
    assert written(folder) == [".manifest-sync", "experiments"]
    screen.answer("n")
    screen.expect("made a repository")
    assert screen.end() == 0
    project = Project.find(str(folder), env=env)
    assert project.config.rules == ()
    assert project.push().new == 5, "all but what git tracks and what a group holds"
    told = run(folder, env, "init")
    assert "plot.py" not in told.stdout
    (folder / "manifest-sync.toml").unlink()
    told = run(folder, env, "init", "../bucket", "--json")
    assert json.loads(told.stdout)["selected"]["bucket_files"] == 1
    (folder / "manifest-sync.toml").unlink()
    told = run(folder, env, "init", "../bucket")
    assert "  git      *.md                1 file\n" in told.stdout
