"""docs/json.md as a schema: its tables are read, and JSON values are compared with them.

A row is ``| `NAME` | TYPE | MEANING |``; the types are explained at the top of the document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parent.parent / "docs" / "json.md"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+?) \|", re.MULTILINE)
_PATTERNS = {
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "id": re.compile(r"([0-9a-f]{32})?"),
    "hash": re.compile(r"[0-9a-f]{64}"),
    "text": re.compile(r".*", re.DOTALL),
    "path": re.compile(r".+", re.DOTALL),
}


@dataclass
class Schema:
    """The fields of every command, and which of them were met."""

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    met: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(cls) -> Schema:
        """Read the document."""
        schema = cls()
        for section in DOCUMENT.read_text("utf-8").split("\n## ")[1:]:
            heading, _, body = section.partition("\n")
            fields = dict(_ROW.findall(body))
            schema.sections.update(dict.fromkeys(heading.split(", "), fields))
        schema.sections["watch"] = {**schema.sections["push"], **schema.sections["watch"]}
        return schema

    def check(self, command: str, value: dict[str, Any]) -> None:
        """Raise AssertionError where ``value`` is not what the document says that ``command`` prints."""
        self._check_fields(command, "", value)

    def never_met(self, command: str) -> list[str]:
        """The documented fields that no value had; what is only sketched (``any``) does not count."""
        fields = self.sections[command]
        return [name for name, kind in fields.items() if kind != "any" and (command, name) not in self.met]

    def _check_fields(self, command: str, prefix: str, value: dict[str, Any]) -> None:
        assert isinstance(value, dict), f"{command}: {prefix} is no object"
        fields = self.sections[command]
        if f"{prefix}*" in fields:
            return
        for name, item in value.items():
            full = prefix + name
            assert full in fields, f"{command}: docs/json.md does not tell of the field {full}"
            self.met.add((command, full))
            self._check(command, full, fields[full].removesuffix("?"), item)
        for full, kind in fields.items():
            name = full.removeprefix(prefix)
            if full.startswith(prefix) and not set(name) & set(".[*") and not kind.endswith("?"):
                assert name in value, f"{command}: the field {full} is missing"

    def _check(self, command: str, name: str, kind: str, value: Any) -> None:
        if kind.endswith(" or null"):
            if value is None:
                return
            kind = kind.removesuffix(" or null")
        if kind == "any":
            return
        if kind.startswith("as "):
            self.check(kind.removeprefix("as "), value)
        elif kind.startswith("list of "):
            assert isinstance(value, list), f"{command}: {name} is no array"
            for item in value:
                self._check(command, f"{name}[]", kind.removeprefix("list of "), item)
        elif kind.startswith("map of "):
            assert isinstance(value, dict), f"{command}: {name} is no object"
            for item in value.values():
                self._check(command, f"{name}.*", kind.removeprefix("map of "), item)
        elif kind == "object":
            self._check_fields(command, f"{name}.", value)
        else:
            assert _fits(kind, value), f"{command}: {name} is {value!r}, which is no {kind}"


def _fits(kind: str, value: Any) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, str) and _PATTERNS[kind].fullmatch(value) is not None
