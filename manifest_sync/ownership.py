"""Who owns a path: git, the bucket, or neither; and which groups are left out. Pure.

A path is looked at level by level from the top, as git does: a folder that is not the bucket's is not
entered, so no later rule can take back what lies below it. Files that git tracks are git's whatever
their name. What no rule matches is the bucket's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from manifest_sync.errors import UsageError
from manifest_sync.model import Path
from manifest_sync.pathrules import check_path, is_plain_name
from manifest_sync.patterns import NO_MATCH, Owner, PatternList, folder_ends, split_rule

TRACKED_RULE = "tracked by git"
RESERVED_RULE = "reserved name"
DEFAULT_RULE = "no rule matches"

_MEMO_FOLDERS = 200_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who owns a path and why.

    ``rule`` is the text of the rule that decided, or one of `TRACKED_RULE`, `RESERVED_RULE`,
    `DEFAULT_RULE`. ``group`` names the group that leaves a path of the bucket's out of this run, or ''.
    """

    owner: Owner
    rule: str
    group: str = ""
    number: int = NO_MATCH
    """Which of the rules decided, counted from 0, or `NO_MATCH`."""

    @property
    def is_ours(self) -> bool:
        """Whether this run sends and fetches the path."""
        return self.owner == "bucket" and not self.group


@dataclass(frozen=True, slots=True)
class _Folder:
    """What is remembered of a folder; ``verdict`` is None when the folder is entered."""

    verdict: Verdict | None
    tracked: frozenset[bytes]


class Ownership:
    """The rules, groups and tracked files of one run, with verdicts remembered by folder."""

    def __init__(
        self,
        rules: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        with_groups: Iterable[str] = (),
        git_tracked: frozenset[bytes] = frozenset(),
    ) -> None:
        """Compile the rules.

        Args:
            rules: lines of ``OWNER PATTERN``, checked (see `split_rule`).
            groups: patterns by the name of the group.
            with_groups: the groups that are not left out of this run.
            git_tracked: paths below the root that git tracks.

        Raises:
            UsageError: a rule is wrong, or a group asked for does not exist.
        """
        asked = set(with_groups)
        unknown = sorted(asked - groups.keys())
        if unknown:
            known = ", ".join(sorted(groups)) or "none"
            raise UsageError(
                f"there is no group named {unknown[0]!r}",
                f"the groups of manifest-sync.toml are: {known}",
            )
        split = [split_rule(rule) for rule in rules]
        self._rules = tuple(" ".join(rule.split()) for rule in rules)
        self._owners: tuple[Owner, ...] = tuple(owner for owner, _ in split)
        self._groups: tuple[str, ...] = tuple(
            name for name in sorted(groups) if name not in asked for _ in groups[name]
        )
        left_out = [pattern for name in sorted(groups) if name not in asked for pattern in groups[name]]
        try:
            self._rule_patterns = PatternList(pattern for _, pattern in split)
            self._group_patterns = PatternList(left_out)
            # One list for the quick answer: a group that is left out wins over every rule.
            self._all_patterns = PatternList([*(pattern for _, pattern in split), *left_out])
        except ValueError as error:
            raise UsageError(f"a pattern is wrong: {error}") from None
        self._ours = frozenset([NO_MATCH, *(n for n, owner in enumerate(self._owners) if owner == "bucket")])
        self._all_tracked = git_tracked
        self._tracked = _by_folder(git_tracked)
        self._folders: dict[bytes, _Folder] = {}
        self.digest: bytes = _digest(split, groups, asked)
        """BLAKE3 of rules, groups and the groups asked for: equal digests give equal verdicts, but for
        what git tracks."""

    def file_is_ours(self, path: Path) -> bool:
        """Whether this run sends and fetches the file ``path``; its folders are looked at too."""
        cut = path.rfind(b"/")
        parent = path[:cut] if cut > 0 else b""
        name = path[cut + 1 :]
        folder = self._folders.get(parent) or self._remember(parent)
        if folder.verdict is not None or name in folder.tracked:
            return False
        if self._all_patterns.match_file_name(path, name) not in self._ours:
            return False
        return is_plain_name(name) is not None or not _is_reserved(name)

    def folder_excluded(self, path: Path) -> bool:
        """Whether the folder ``path`` is not entered; the folders above it are known to be entered."""
        return self._folder_verdict(path) is not None

    def verdict(self, path: Path) -> Verdict:
        """Who owns the file ``path``, by which rule, and which group leaves it out; folders included."""
        cut = path.rfind(b"/")
        parent = path[:cut] if cut > 0 else b""
        name = path[cut + 1 :]
        if _is_reserved(name):
            return Verdict("neither", RESERVED_RULE)
        if path in self._all_tracked:
            return Verdict("git", TRACKED_RULE)
        above = (self._folders.get(parent) or self._remember(parent)).verdict
        if above is not None:
            return above
        return self._judge(self._rule_patterns.match_file(path), self._group_patterns.match_file(path))

    def folder_verdict(self, path: Path) -> Verdict:
        """Who owns the folder ``path``, the folders above it included: what a file in it starts from."""
        above = (self._folders.get(path) or self._remember(path)).verdict
        return above or Verdict("bucket", DEFAULT_RULE)

    @property
    def tracked(self) -> frozenset[bytes]:
        """All that git tracks below the root."""
        return self._all_tracked

    def tracked_in(self, folder: Path) -> frozenset[bytes]:
        """The names of the files directly in ``folder`` that git tracks."""
        return self._tracked.get(folder, frozenset())

    def _folder_verdict(self, path: bytes) -> Verdict | None:
        """What keeps the folder itself from being entered, or None."""
        if not path:
            return None
        if _is_reserved(path[path.rfind(b"/") + 1 :]):
            return Verdict("neither", RESERVED_RULE)
        if path in self._all_tracked:
            # A submodule: git lists it as one path.
            return Verdict("git", TRACKED_RULE)
        judged = self._judge(self._rule_patterns.match_folder(path), self._group_patterns.match_folder(path))
        return None if judged.is_ours else judged

    def _judge(self, rule: int, group: int) -> Verdict:
        owner = "bucket" if rule == NO_MATCH else self._owners[rule]
        text = DEFAULT_RULE if rule == NO_MATCH else self._rules[rule]
        left_out = self._groups[group] if group != NO_MATCH and owner == "bucket" else ""
        return Verdict(owner, text, left_out, rule)

    def _remember(self, path: bytes) -> _Folder:
        """Judge a folder from the nearest remembered one above it."""
        if len(self._folders) > _MEMO_FOLDERS:
            self._folders.clear()
        # Not recursive: a path may be two thousand folders deep.
        folder = self._folders.setdefault(b"", _Folder(None, self.tracked_in(Path(b""))))
        for end in (*folder_ends(path), len(path)) if path else ():
            here = path[:end]
            known = self._folders.get(here)
            if known is None:
                verdict = folder.verdict or self._folder_verdict(here)
                known = self._folders[here] = _Folder(verdict, self.tracked_in(Path(here)))
            folder = known
        return folder


def _is_reserved(name: bytes) -> bool:
    return is_plain_name(name) is None and check_path(name) is not None


def _by_folder(paths: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
    names: dict[bytes, set[bytes]] = {}
    for path in paths:
        folder, _, name = path.rpartition(b"/")
        names.setdefault(folder, set()).add(name)
    return {folder: frozenset(found) for folder, found in names.items()}


def _digest(
    rules: Sequence[tuple[str, str]], groups: Mapping[str, Sequence[str]], asked: Iterable[str]
) -> bytes:
    """A hash of what the verdicts follow from; NUL and newline cannot stand in a pattern."""
    lines = [f"rule\0{owner}\0{pattern}" for owner, pattern in rules]
    lines += [f"group\0{name}\0{pattern}" for name in sorted(groups) for pattern in groups[name]]
    lines += [f"with\0{name}" for name in sorted(asked)]
    return blake3("\n".join(lines).encode("utf-8", "surrogateescape")).digest()
