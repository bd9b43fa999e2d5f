"""Who owns a path, compared with git itself on a real repository."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path as FilePath

import pytest

from manifest_sync.errors import UsageError
from manifest_sync.model import Path
from manifest_sync.ownership import RESERVED_RULE, TRACKED_RULE, Ownership
from manifest_sync.patterns import NO_MATCH, PatternList, check_pattern, folder_ends

RULES = (
    "git      *.py",
    "git      *.md",
    "git      config.json",
    "neither  **/activations/",
    "neither  **/inference/raw/",
)
GROUPS = {"loras": ("**/finetune/", "**/lora/"), "trajectories": ("*_trajectories.pt",)}


def ours(ownership: Ownership, path: str) -> bool:
    quick = ownership.file_is_ours(Path(os.fsencode(path)))
    assert quick == ownership.verdict(Path(os.fsencode(path))).is_ours
    return quick


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("a/1.json", "bucket"),
        ("run.py", "git"),
        ("a/b/run.py", "git"),
        ("a/config.json", "git"),
        ("a/config.json/x", "git"),
        ("a/my-config.json", "bucket"),
        ("activations", "bucket"),
        ("activations/x.pt", "neither"),
        ("a/activations/b/x.pt", "neither"),
        ("inference/raw/x", "neither"),
        ("a/inference/raw/b/x", "neither"),
        ("a/inference/raw", "bucket"),
        ("a/inference/rawer/x", "bucket"),
        (".git/config", "neither"),
        ("a/.git/config", "neither"),
        (".manifest-sync/index.sqlite", "neither"),
        ("a/.Git/x", "neither"),
        (".gitignore", "bucket"),
    ],
)
def test_rules_of_the_proposal(path: str, owner: str) -> None:
    ownership = Ownership(RULES, {}, ())
    assert ownership.verdict(Path(path.encode())).owner == owner
    assert ours(ownership, path) == (owner == "bucket")


def test_last_rule_wins_and_excluded_folder_is_not_taken_back() -> None:
    ownership = Ownership(("neither *.tmp", "bucket keep.tmp", "git docs/", "bucket docs/x"), {}, ())
    assert not ours(ownership, "a.tmp")
    assert ours(ownership, "keep.tmp")
    assert not ours(ownership, "docs/x")
    assert ownership.verdict(Path(b"docs/x")).rule == "git docs/"
    assert Ownership(("git docs/", "bucket docs/"), {}, ()).file_is_ours(Path(b"docs/x"))


def test_tracked_files_are_gits_whatever_their_name() -> None:
    tracked = frozenset([b"a/1.json", b"activations/kept.pt", b"module"])
    ownership = Ownership(RULES, {}, (), tracked)
    assert ownership.verdict(Path(b"a/1.json")).rule == TRACKED_RULE
    assert not ours(ownership, "a/1.json")
    assert ours(ownership, "a/2.json")
    assert ownership.verdict(Path(b"activations/kept.pt")).owner == "git"
    assert ownership.tracked_in(Path(b"a")) == {b"1.json"}
    assert ownership.tracked_in(Path(b"")) == {b"module"}
    assert ownership.tracked_in(Path(b"b")) == frozenset()
    # A submodule is one tracked path and a folder on disk.
    assert ownership.folder_excluded(Path(b"module"))
    assert not ours(ownership, "module/x")


def test_groups_are_left_out_unless_asked_for() -> None:
    without = Ownership(RULES, GROUPS, ())
    assert without.verdict(Path(b"a/lora/w.pt")).group == "loras"
    assert without.folder_excluded(Path(b"a/lora"))
    assert not ours(without, "a/lora/w.pt")
    assert not ours(without, "x_trajectories.pt")
    both = Ownership(RULES, GROUPS, ("loras",))
    assert ours(both, "a/lora/w.pt")
    assert not ours(both, "a/lora/x_trajectories.pt")
    assert ours(Ownership(RULES, GROUPS, ("loras", "trajectories")), "a/lora/x_trajectories.pt")
    assert both.verdict(Path(b"a/lora/run.py")).owner == "git"


def test_unknown_group_lists_the_groups() -> None:
    with pytest.raises(UsageError, match="'lora'") as caught:
        Ownership(RULES, GROUPS, ("lora",))
    assert "loras, trajectories" in caught.value.hint


@pytest.mark.parametrize("rule", ["*.py", "mine *.py", "git", "", "git [a", "git !x", "git #x", "git [z-a]"])
def test_wrong_rules(rule: str) -> None:
    with pytest.raises(UsageError):
        Ownership((rule,), {}, ())


def test_digest_follows_everything_the_verdicts_follow_from() -> None:
    made = [
        Ownership(RULES, GROUPS, ()),
        Ownership(RULES[:-1], GROUPS, ()),
        Ownership(RULES[::-1], GROUPS, ()),
        Ownership(RULES, {}, ()),
        Ownership(RULES, GROUPS, ("loras",)),
    ]
    assert len({ownership.digest for ownership in made}) == len(made)
    assert made[0].digest == Ownership(("git *.py", *RULES[1:]), GROUPS, ()).digest


def test_reserved_names_cannot_be_claimed() -> None:
    ownership = Ownership(("bucket .git", "bucket .git/"), {}, (), frozenset([b"a/.git"]))
    assert ownership.verdict(Path(b".git")).rule == RESERVED_RULE
    assert ownership.folder_excluded(Path(b"a/.git"))
    assert not ours(ownership, "a/.git")


def test_paths_are_bytes() -> None:
    ownership = Ownership(("git *.é", "git a\udcff*"), {}, ())
    assert not ownership.file_is_ours(Path("x.é".encode()))
    assert not ownership.file_is_ours(Path(b"a\xff1"))
    assert ownership.file_is_ours(Path(b"\xff\n.py"))
    assert not Ownership(("git *.py",), {}, ()).file_is_ours(Path(b"line\nbreak.py"))


def test_two_thousand_folders_deep() -> None:
    assert Ownership(RULES, {}, ()).file_is_ours(Path(b"a/" * 2000 + b"x.json"))
    assert not Ownership(RULES, {}, ()).file_is_ours(Path(b"activations/" + b"a/" * 2000 + b"x.json"))


PATTERNS = """
*.py;config.json;**/activations/;/a/b;a/b/;**/inference/raw/;a/**;a/**/b;*_t.pt;**/foo/**;a/**/;**/;*;*/;**/*;/*;/**;
a/*;a/*/b;?;?.py;[a-c];[!a]b;[^a]/b;a[!x]b;/a[!x]b;x/a[!b]c;foo;foo/;/foo;/foo/;a**;**b;a**b;a/b**;**/b;**/a/b;a/**/**/b;
*.p[yt];\\!x;\\#x;b\\*;fo?;raw/;inference/;inference/raw;*/raw;*/*/raw;**/raw/*;[]a];[a-];*a*b*;/**/b;b/**/c/**;.*;*.
""".replace("\n", "").split(";")

COMPONENTS = [
    "a",
    "b",
    "foo",
    "raw",
    "inference",
    "x.py",
    "!x",
    "activations",
    "a/b",
    "axb",
    "]",
    "-",
    ".h",
    "b*",
]


def tree_of_names() -> list[str]:
    names = {"/".join(parts) for n in (1, 2, 3) for parts in itertools.product(COMPONENTS[:9], repeat=n)}
    names |= (
        set(COMPONENTS)
        | {f"x/{name}" for name in COMPONENTS}
        | {"x/a/c", "x/ac", "é", "config.json", "a_t.pt"}
    )
    return sorted(names)


def git_ignored(repository: FilePath, pattern_lines: list[str], names: list[str]) -> set[str]:
    """What git says of files that do not exist, so that every name is taken for a file."""
    (repository / ".git" / "info" / "exclude").write_text("\n".join(pattern_lines) + "\n")
    answer = subprocess.run(
        ["git", "-c", "core.quotePath=false", "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=repository,
        input="\0".join(names).encode() + b"\0",
        capture_output=True,
        check=False,
    )
    assert answer.returncode in (0, 1), answer.stderr
    return {name.decode() for name in answer.stdout.split(b"\0") if name}


@pytest.fixture(name="repository")
def make_repository(tmp_path: FilePath) -> FilePath:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".git" / "info").mkdir(exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_as_git(repository: FilePath, pattern: str) -> None:
    names = tree_of_names()
    ownership = Ownership((f"neither {pattern}",), {}, ())
    assert {name for name in names if not ours(ownership, name)} == git_ignored(repository, [pattern], names)


def test_lists_with_takebacks_as_git(repository: FilePath) -> None:
    names = tree_of_names()
    # git strips the literal beginning of a/b** and then takes the ** for a whole component; its manual says
    # that such asterisks are ordinary ones, and so they are here.
    usual = [pattern for pattern in PATTERNS if pattern != "a/b**"]
    for first, second, third in zip(usual, usual[7:], usual[13:], strict=False):
        rules = (f"neither {first}", f"bucket {second}", f"git {third}")
        ignored = git_ignored(repository, [first, "!" + second, third], names)
        ownership = Ownership(rules, {}, ())
        assert {name for name in names if not ours(ownership, name)} == ignored, rules


def test_pattern_list_gives_the_number_of_the_last() -> None:
    patterns = PatternList(["*", "/a/*", "*.py", "b/"])
    assert patterns.match_file(b"x") == 0
    assert patterns.match_file(b"a/x") == 1
    assert patterns.match_file(b"a/x.py") == 2
    assert patterns.match_folder(b"a/b") == 3
    assert patterns.match_file(b"a/b") == 1
    assert PatternList([]).match_file(b"a") == NO_MATCH
    assert PatternList([]).match_folder(b"a") == NO_MATCH


def test_small_words() -> None:
    assert check_pattern("*.py") == ""
    assert "later rule" in check_pattern("!x")
    assert "not supported" in check_pattern("[[:alpha:]]")
    assert folder_ends(b"a/bc/d") == [1, 4]
    assert folder_ends(b"a") == []
