"""Rules and gitignore patterns, many at once: one regular-expression match tells the last that matches. Pure.

pathspec translates each pattern; here its expressions are cut down to one level (a folder's own name, not
what lies below it) and joined into one alternation, last pattern first, because asking thirteen patterns
one after the other costs more than scanning the tree. Paths stay bytes: ``?`` and ``[...]`` match one
byte, as in git.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pathspec.patterns.gitignore import GitIgnorePatternError
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from manifest_sync.errors import UsageError

Owner = Literal["git", "bucket", "neither"]
OWNERS: tuple[Owner, ...] = ("git", "bucket", "neither")

NO_MATCH = -1

_BELOW_OR_END = rb"(?:(?P<ps_d>/)|$)"
_BELOW = rb"(?P<ps_d>/)"
_ANY_FOLDER = rb"^(?:.+/)?"


class _Level(NamedTuple):
    """One pattern as an expression for one level: a folder's path is matched with ``/`` appended."""

    expression: bytes
    folders_only: bool
    names_only: bool
    """It looks at the last component alone, so the folders above need not be matched."""


class PatternList:
    """An ordered list of gitignore patterns, of which the last that matches counts.

    It answers for one level at a time; whoever asks decides a path's folders first, from the top.
    """

    __slots__ = ("_file_name", "_file_path", "_folder_name", "_folder_path")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile ``patterns``.

        Raises:
            ValueError: one of them is not allowed; the message says why.
        """
        levels = [_translate(pattern) for pattern in patterns]
        self._file_name = _Alternation(levels, names=True, folders=False)
        self._file_path = _Alternation(levels, names=False, folders=False)
        self._folder_name = _Alternation(levels, names=True, folders=True)
        self._folder_path = _Alternation(levels, names=False, folders=True)

    def match_file(self, path: bytes) -> int:
        """The number of the last pattern that matches a file itself, or `NO_MATCH`."""
        return self.match_file_name(path, path[path.rfind(b"/") + 1 :])

    def match_file_name(self, path: bytes, name: bytes) -> int:
        """As `match_file`, for who has the last component at hand."""
        by_name = self._file_name.winner(name)
        if self._file_path.match is None:
            return by_name
        return max(by_name, self._file_path.winner(path))

    def match_folder(self, path: bytes) -> int:
        """The number of the last pattern that matches a folder itself, or `NO_MATCH`."""
        name = path[path.rfind(b"/") + 1 :]
        return max(self._folder_name.winner(name + b"/"), self._folder_path.winner(path + b"/"))


class _Alternation:
    """Some of a list's patterns in one expression, the last of them first."""

    __slots__ = ("match", "numbers")

    def __init__(self, levels: Sequence[_Level], *, names: bool, folders: bool) -> None:
        chosen = [
            (number, level.expression)
            for number, level in enumerate(levels)
            if level.names_only == names and (folders or not level.folders_only)
        ][::-1]
        self.numbers = (NO_MATCH, *(number for number, _ in chosen))
        joined = b"|".join(b"(" + expression + b")" for _, expression in chosen)
        self.match = re.compile(joined, re.DOTALL).match if chosen else None

    def winner(self, text: bytes) -> int:
        if self.match is None:
            return NO_MATCH
        found = self.match(text)
        # Only the outer brackets are capturing, so the number of the group is that of the alternative.
        return NO_MATCH if found is None else self.numbers[found.lastindex or 0]


def folder_ends(path: bytes) -> list[int]:
    """Where in ``path`` the folders above it end, from the top: ``path[:end]`` is each of them."""
    ends = []
    end = path.find(b"/")
    while end >= 0:
        ends.append(end)
        end = path.find(b"/", end + 1)
    return ends


def split_rule(rule: str) -> tuple[Owner, str]:
    """Split a line of ``OWNER PATTERN``.

    Raises:
        UsageError: it has no pattern, or the owner is none of `OWNERS`.
    """
    parts = rule.split(None, 1)
    if len(parts) != 2 or parts[0] not in OWNERS:
        raise UsageError(
            f"the rule {rule!r} is not OWNER PATTERN",
            f"OWNER is one of {', '.join(OWNERS)}; for example: git *.py",
        )
    return parts[0], parts[1]


def check_pattern(pattern: str) -> str:
    """The reason why ``pattern`` is not allowed, or ''."""
    try:
        _translate(pattern)
    except ValueError as error:
        return str(error)
    return ""


def _translate(pattern: str) -> _Level:
    if pattern.startswith("!"):
        raise ValueError("a leading ! is not used here: write a later rule that takes the path back")
    if "[[" in pattern or "[:" in pattern:
        raise ValueError("character classes such as [[:alpha:]] are not supported")
    if "\0" in pattern or "\n" in pattern:
        raise ValueError("NUL and line breaks are not allowed")
    if pattern.endswith("/**/"):
        # pathspec reads this as the folder itself, git as the folders below it.
        pattern += "*/"
    try:
        translated = GitIgnoreSpecPattern(pattern.encode("utf-8", "surrogateescape"))
    except (GitIgnorePatternError, re.error) as error:
        raise ValueError(f"it is not a gitignore pattern ({error})") from None
    if translated.regex is None:
        raise ValueError("it matches nothing (empty, a comment, or an unfinished [...])")
    return _one_level(translated.regex.pattern)


def _one_level(below: bytes) -> _Level:
    """Turn an expression that also matches all that lies below a folder into one for a single level."""
    below = re.sub(rb"\\.|\[\^(?!/\])", _keep_out_slash, below, flags=re.DOTALL)
    folders_only = False
    if below.endswith(_BELOW_OR_END):
        expression = below.removesuffix(_BELOW_OR_END) + rb"/?\Z"
    elif below.endswith(_BELOW):
        folders_only = True
        expression = (below.removesuffix(_BELOW) or b".+") + rb"/\Z"
    elif below.endswith(b"/"):
        expression = below + b"."
    else:
        expression = below
    rest = expression.removeprefix(_ANY_FOLDER) if expression.startswith(_ANY_FOLDER) else None
    if rest is not None and b"/" not in re.sub(rb"\[\^/[^]]*\]|/\??\\Z$", b"", rest):
        return _Level(rest, folders_only, names_only=True)
    return _Level(expression, folders_only, names_only=expression == b".")


def _keep_out_slash(token: re.Match[bytes]) -> bytes:
    """A negated class does not match ``/`` in git."""
    return token[0] if token[0].startswith(b"\\") else b"[^/"
