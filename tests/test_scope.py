"""What a run looks at."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_sync.errors import UsageError
from manifest_sync.model import Path
from manifest_sync.scope import Scope, parse_scope

component = st.sampled_from([b"a", b"b", b"a-", b"a0", b"\xff", b"a b"])
paths = st.lists(component, min_size=1, max_size=4).map(lambda parts: Path(b"/".join(parts)))


def test_everything() -> None:
    scope = Scope.everything()
    assert scope.is_everything
    assert scope.contains(Path(b"a/b"))
    assert scope.enters(Path(b""))
    assert scope.covers(Path(b""))
    ((low, high),) = scope.ranges()
    assert low == b""
    assert high > b"\xff" * 4096
    assert Scope((Path(b"a"), Path(b""))).is_everything


def test_only_takes_a_file_or_a_folder_and_the_way_to_it() -> None:
    scope = Scope((Path(b"a/b"),))
    assert scope.contains(Path(b"a/b"))
    assert scope.contains(Path(b"a/b/c/d"))
    assert not scope.contains(Path(b"a/bc"))
    assert not scope.contains(Path(b"a"))
    assert scope.enters(Path(b""))
    assert scope.enters(Path(b"a"))
    assert scope.enters(Path(b"a/b/c"))
    assert not scope.enters(Path(b"a/c"))
    assert not scope.enters(Path(b"b"))
    assert not scope.covers(Path(b"a"))
    assert scope.covers(Path(b"a/b"))


def test_exclude_is_a_gitignore_pattern() -> None:
    scope = Scope((Path(b"a"),), ("*.tmp", "skip/", "/a/b"))
    assert scope.contains(Path(b"a/x"))
    assert not scope.contains(Path(b"a/x.tmp"))
    assert not scope.contains(Path(b"a/skip/x"))
    assert not scope.contains(Path(b"a/c/skip/d/x"))
    assert not scope.contains(Path(b"a/b/c"))
    assert scope.contains(Path(b"a/c/skip"))
    assert not scope.enters(Path(b"a/skip"))
    assert not scope.enters(Path(b"a/skip/x"))
    assert scope.enters(Path(b"a/c"))
    with pytest.raises(UsageError, match="exclude"):
        Scope((), ("!x",))


def test_ranges_are_merged() -> None:
    scope = Scope((Path(b"b"), Path(b"a"), Path(b"a/x")))
    assert scope.ranges() == [(b"a", b"a\x00"), (b"a/", b"a0"), (b"b", b"b\x00"), (b"b/", b"b0")]


@given(st.lists(paths, min_size=1, max_size=5), st.lists(paths, max_size=30))
def test_ranges_hold_what_is_contained(only: list[Path], tried: list[Path]) -> None:
    scope = Scope(tuple(only))
    ranges = scope.ranges()
    assert all(low < high for low, high in ranges)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
    for path in [*tried, *only]:
        inside = any(low <= path < high for low, high in ranges)
        assert inside == scope.contains(path)
        assert inside == any(path == chosen or path.startswith(chosen + b"/") for chosen in only)
        parts = path.split(b"/")
        for end in range(len(parts)):
            assert not inside or scope.enters(Path(b"/".join(parts[:end])))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("aria_rl", b"aria_rl"),
        ("aria_rl/", b"aria_rl"),
        ("./aria_rl//x", b"aria_rl/x"),
        ("experiments/aria_rl", b"aria_rl"),
        ("./experiments/aria_rl/", b"aria_rl"),
        ("experiments", b""),
        (".", b""),
        ("experiments2/x", b"experiments2/x"),
        ("a\udcff", b"a\xff"),
    ],
)
def test_parse_scope(name: str, path: bytes) -> None:
    assert parse_scope([name], "experiments") == [path]


def test_parse_scope_with_other_roots() -> None:
    assert parse_scope(["data/exp/a", "data/a"], "data/exp") == [b"a", b"data/a"]
    assert parse_scope(["experiments/a"], ".") == [b"experiments/a"]


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/../b", "a\0b", "x/.GIT", "y" * 256])
def test_parse_scope_refuses(name: str) -> None:
    with pytest.raises(UsageError):
        parse_scope([name], "experiments")
