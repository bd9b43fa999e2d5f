"""Owners: who owns a path and why, and what both or neither own; with a real git repository."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path as FsPath

import pytest

from manifest_sync.config import parse_config
from manifest_sync.configlines import rule_lines
from manifest_sync.index.index import Index
from manifest_sync.model import Path
from tests.damage import boundary_names
from tests.machines import Machine

RULES = """\
rules = [
  "git *.py",       # "neither *.py" would be wrong
  'neither  **/activations/',
  "git docs/",
]"""


def git(machine: Machine, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments],
                   cwd=machine.folder, check=True, capture_output=True)  # fmt: skip


def configure(machine: Machine, old: str, new: str) -> None:
    path = machine.folder / "manifest-sync.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def machine(tmp_path: FsPath) -> Machine:
    """A project in a git repository, with four files pushed before any rule hid them."""
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    git(made, "init", "-q")
    configure(made, "git_tracked = false", "git_tracked = true")
    for name in ("exp/a.json", "exp/b.json", "docs/c.json", "exp/lora/d.json"):
        made.write(name, name)
    made.push(groups=["loras"])
    configure(made, 'rules = ["git *.py", "git *.md", "git config.json", "neither **/activations/"]', RULES)
    return made


def explained(machine: Machine, *paths: str) -> list[str]:
    found = machine.command("owners", *paths)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_rule_and_line_are_told(machine: Machine) -> None:
    machine.write("exp/x.py", "x")
    machine.write("exp/activations/x.pt", "x")
    git(machine, "add", "-f", "experiments/exp/b.json")
    assert explained(
        machine, "exp/a.json", "exp/x.py", "exp/activations/x.pt", "experiments/docs/c.json"
    ) == [
        "exp/a.json: the bucket's; no rule matches",
        'exp/x.py: git\'s, by "git *.py" (manifest-sync.toml, line 7); git does not track it',
        'exp/activations/x.pt: nobody\'s, by "neither **/activations/" (manifest-sync.toml, line 8) '
        "for exp/activations/",
        'docs/c.json: git\'s, by "git docs/" (manifest-sync.toml, line 9) for docs/; git does not track it; '
        "the bucket holds it too",
    ]
    assert explained(
        machine, "exp/b.json", "exp/lora/d.json", "exp", "exp/activations/", "exp/gone.json"
    ) == [
        "exp/b.json: git's; git tracks it; the bucket holds it too",
        "exp/lora/d.json: the bucket's; no rule matches; in the group loras for exp/lora/: left out "
        "unless --with loras",
        "exp/: the bucket's; no rule matches",
        'exp/activations/: nobody\'s, by "neither **/activations/" (manifest-sync.toml, line 8)',
        "exp/gone.json: the bucket's; no rule matches; nothing is there now",
    ]
    assert explained(machine, "--with", "loras", "exp/lora/d.json") == [
        "exp/lora/d.json: the bucket's; no rule matches"
    ]
    found = json.loads(machine.command("owners", "--json", "exp/x.py", ".git/config").stdout)["paths"]
    assert (found[0]["owner"], found[0]["rule"], found[0]["line"]) == ("git", "git *.py", 7)
    assert (found[1]["owner"], found[1]["rule"], found[1]["line"]) == ("neither", "reserved name", None)


def test_two_owners_are_listed_and_status_warns(machine: Machine) -> None:
    assert machine.status().two_owners == [b"docs/c.json"]
    git(machine, "add", "experiments/exp/b.json")
    for _ in range(2):
        status = machine.status()
        assert status.two_owners == [b"docs/c.json", b"exp/b.json"], "the kept answer is the same"
        assert not status.has_drift
    assert machine.status(only=["exp"]).two_owners == [b"exp/b.json"]
    assert machine.status(offline=True).two_owners == [b"docs/c.json", b"exp/b.json"]
    report = machine.project().owners()
    assert report.two_owners == [
        (b"docs/c.json", "the rules make it git's, and the bucket holds it"),
        (b"exp/b.json", "git tracks it, and the bucket holds it"),
    ]
    text = machine.command("status", "-q").stdout
    assert text.startswith("two owners, git and the bucket: 2; `owners` says why")
    assert machine.command("owners", "--exit-code").returncode == 1
    git(machine, "rm", "-q", "--cached", "experiments/exp/b.json")
    assert machine.status().two_owners == [b"docs/c.json"]
    configure(machine, '"git docs/"', '"bucket docs/"')
    assert machine.status().two_owners == []
    assert machine.command("owners", "--exit-code").returncode == 0


def test_the_kept_answer_is_as_good_offline(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept and used without asking the bucket as well, and for what it hangs on only."""
    asked: list[None] = []
    iter_remote = Index.iter_remote

    def counted(self: Index, ranges: Iterable[tuple[bytes, bytes]]) -> Iterator[Path]:
        asked.append(None)
        return iter_remote(self, ranges)

    monkeypatch.setattr(Index, "iter_remote", counted)
    for offline in (True, True, False, True):
        assert machine.status(offline=offline).two_owners == [b"docs/c.json"]
    assert len(asked) == 1
    git(machine, "add", "experiments/exp/b.json")
    assert machine.status(offline=True).two_owners == [b"docs/c.json", b"exp/b.json"]
    configure(machine, '"git docs/"', '"bucket docs/"')
    assert machine.status(offline=True).two_owners == [b"exp/b.json"]
    machine.write("exp/b.py", "x")
    machine.write("exp/e.json", "x")
    machine.push()
    assert machine.status(offline=True).two_owners == [b"exp/b.json"]
    assert len(asked) == 4, "another head"


@pytest.mark.usefixtures("short_pages")
def test_what_is_known_in_part_is_not_kept(machine: Machine, tmp_path: FsPath) -> None:
    machine.write(next(boundary_names("exp/z")), "x")  # a page ends here
    machine.write("z/z.json", "x")
    machine.push()
    other = Machine(tmp_path / "laptop", machine.bucket)
    configure(other, '"git *.py"', '"git *.json"')
    other.pull(only=["exp"])
    known = other.status(offline=True).two_owners
    assert b"exp/a.json" in known
    assert b"z/z.json" not in known
    assert other.status().two_owners == [*known, b"z/z.json"]
    assert other.status(offline=True).two_owners == [*known, b"z/z.json"]


def test_no_owner_is_listed(machine: Machine) -> None:
    machine.write("exp/kept.py", "x")
    machine.write("exp/forgotten.py", "x")
    machine.write("docs/new.json", "x")
    machine.write("exp/activations/x.pt", "x")
    git(machine, "add", "experiments/exp/kept.py")
    assert machine.project().owners().no_owner == [
        (b"docs/c.json", "the rules make it git's, and git does not track it"),
        (b"docs/new.json", "the rules make it git's, and git does not track it"),
        (b"exp/activations/", "the rules leave it out (neither **/activations/)"),
        (b"exp/forgotten.py", "the rules make it git's, and git does not track it"),
    ]
    assert [path for path, _ in machine.project().owners(only=["exp"]).no_owner] == [
        b"exp/activations/",
        b"exp/forgotten.py",
    ]
    report = json.loads(machine.command("owners", "--json", "--offline").stdout)
    assert (len(report["no_owner"]), report["requests"]) == (4, {})


def test_git_may_be_left_unheeded_and_is_asked_all_the_same(machine: Machine) -> None:
    configure(machine, "git_tracked = true", "git_tracked = false")
    machine.write("exp/new.json", "x")
    git(machine, "add", "experiments/exp")
    reason = "git tracks it, and it is the bucket's because git_tracked is false"
    found = machine.project().owners().two_owners
    assert [path for path, why in found if why == reason] == [
        b"exp/a.json", b"exp/b.json", b"exp/lora/d.json", b"exp/new.json"
    ]  # fmt: skip
    assert machine.command("owners", "exp/a.json").stdout.endswith("; git tracks it too\n")


def test_what_is_hidden_is_never_deleted_on_either_side(machine: Machine, tmp_path: FsPath) -> None:
    laptop = Machine(tmp_path / "laptop", machine.bucket)
    git(laptop, "init", "-q")
    configure(laptop, "git_tracked = false", "git_tracked = true")
    laptop.pull()
    everything = {entry.path for entry in machine.project().ls()}
    # Here git takes a file over and a rule a folder; there a rule hides one, and another is deleted.
    git(machine, "add", "experiments/exp/b.json")
    (machine.root / "exp/b.json").unlink()
    (machine.root / "docs/c.json").unlink()
    configure(laptop, '"git config.json"', '"neither a.json"')
    mirror = {"delete_unknown": True, "max_delete": "100%"}
    for _ in range(2):
        assert machine.push("full", **mirror).deleted == 0
        assert machine.pull("full", **mirror).deleted == 0
        assert laptop.pull("full", **mirror).deleted == 0
        assert laptop.push("full", **mirror).deleted == 0
        assert machine.project().sync().exit_code == 0
    assert {entry.path for entry in machine.project().ls()} == everything
    assert set(machine.tree()) == {"exp/a.json", "exp/lora/d.json"}
    assert set(laptop.tree()) == {"exp/a.json", "exp/b.json", "docs/c.json"}
    # Shown again, their absence is a deletion like any other: the file was on this machine.
    git(machine, "rm", "-q", "--cached", "experiments/exp/b.json")
    assert machine.status().cases == {"deleted_here": [b"exp/b.json"]}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[ownership]\nrules = ["git a", "git b"]', [2, 2]),
        ('region = "rules"\n[ownership]\nrules = [ # "git a"\n\n "git a",\n  \'git "b\',\n]', [5, 6]),
        ('[groups]\ng = ["git"]\n[ownership]\nrules = ["git \\u0061", """git\nb""", "git a#c"]', [4, 4, 5]),
        ("[ownership]\nrules = ['''\ngit a''']", [2]),
        ("[ownership]\nrules = []", []),
    ],
)  # fmt: skip
def test_the_lines_of_rules(text: str, lines: list[int]) -> None:
    rules = parse_config(f'bucket = "b"\n{text}', "manifest-sync.toml").rules
    assert rule_lines(text, rules) == lines


def test_a_tree_of_which_nothing_is_the_buckets_does_not_look_synced(tmp_path: FsPath) -> None:
    made = Machine(tmp_path / "gpu", str(tmp_path / "bucket"))
    git(made, "init", "-q")
    configure(made, "git_tracked = false", "git_tracked = true")
    for name in ("exp/a.json", "exp/b.json", "exp/x.py"):
        made.write(name, name)
    git(made, "add", "-f", "experiments")
    reasons = "(tracked by git: 3 files); `manifest-sync owners PATH` says why"
    for command in (("push",), ("status",), ("sync",)):
        told = made.command(*command)
        assert f"nothing here is the bucket's {reasons}" in told.stderr
    made.write("exp/new.json", "the bucket's")
    assert "nothing here" not in made.command("push").stderr
    assert "(tracked by git: 1 file)" in made.command("push", "--only", "exp/a.json").stderr
