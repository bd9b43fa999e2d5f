"""Which paths may stand in a page. Pure.

A path is bytes, as on Linux: a backslash, a colon, a newline or a drive letter are ordinary bytes. What
is refused would leave the root, name the same file twice, or reach the tool's or git's own folder.
"""

from __future__ import annotations

import re
import unicodedata

from manifest_sync.model import MAX_COMPONENT, MAX_PATH, STATE_FOLDER

_RESERVED = frozenset({STATE_FOLDER, ".git"})

# Plain ASCII that does not begin with a dot is nearly every name there is, and never reserved.
is_plain_name = re.compile(rb"[^/.\x00\x80-\xff][^/\x00\x80-\xff]{0,254}\Z").match


def check_path(path: bytes) -> str | None:
    """The reason why ``path`` is not allowed, or None.

    Refused are: the empty path, more than `MAX_PATH` bytes, NUL, a leading or trailing ``/``, and any
    component that is empty, ``.``, ``..``, longer than `MAX_COMPONENT` bytes, or reserved: one that some
    filesystem takes for ``.manifest-sync`` or ``.git`` (case, composition, ignorable code points).
    """
    if not path:
        return "it is empty"
    if len(path) > MAX_PATH:
        return f"it has more than {MAX_PATH} bytes"
    if path.startswith(b"/"):
        return "it is absolute"
    for component in path.split(b"/"):
        if is_plain_name(component):
            continue
        reason = _check_component(component)
        if reason:
            return reason
    return None


def _check_component(component: bytes) -> str | None:
    if not component:
        return "a component is empty"
    if component in (b".", b".."):
        return "a component is '.' or '..'"
    if b"\x00" in component:
        return "it contains NUL"
    if len(component) > MAX_COMPONENT:
        return f"a component has more than {MAX_COMPONENT} bytes"
    if _folded(component) in _RESERVED:
        return f"a component stands for {STATE_FOLDER} or .git"
    return None


def _folded(component: bytes) -> str:
    """What a component is to the most forgiving filesystem: no case, composition or invisible characters."""
    text = component.decode("utf-8", "surrogateescape")
    if not text.isascii():
        visible = "".join(c for c in unicodedata.normalize("NFKD", text) if not _is_ignorable(c))
        text = unicodedata.normalize("NFKD", visible)
    # Some filesystems drop dots and spaces at the end of a name.
    return unicodedata.normalize("NFKD", text.casefold()).rstrip(". ")


def _is_ignorable(character: str) -> bool:
    point = ord(character)
    return (
        unicodedata.category(character) == "Cf"
        or point in (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)
        or 0x180B <= point <= 0x180F
        or 0xFE00 <= point <= 0xFE0F
        or 0xE0000 <= point <= 0xE0FFF
    )
