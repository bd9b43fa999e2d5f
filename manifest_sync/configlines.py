"""In which lines of ``manifest-sync.toml`` its rules stand: what a TOML parser does not tell. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'|#[^\n]*",
    re.DOTALL,
)


def rule_lines(text: str, rules: Sequence[str]) -> list[int]:
    """The line, counted from 1, of each of ``rules`` in the text of the file that they were read from.

    The rules are the first strings of the file that follow one another as the rules do: nothing else in it
    has the form of a rule.

    Returns:
        Empty when they are not found so.
    """
    found: list[tuple[str, int]] = []
    for token in _TOKEN.finditer(text):
        if token[0].startswith("#"):
            continue
        try:
            value = tomllib.loads("x = " + token[0])["x"]
        except ValueError:
            return []
        found.append((value, text.count("\n", 0, token.start()) + 1))
    wanted = list(rules)
    for start in range(len(found) - len(wanted) + 1):
        run = found[start : start + len(wanted)]
        if [value for value, _ in run] == wanted:
            return [line for _, line in run]
    return []
