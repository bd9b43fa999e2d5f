"""The record of one run: what it does to the tree and to the base, path by path, so that `undo` can take it
back. Pure; never leaves this machine.

The record is written down and synced before the steps it names are taken, beside the content that they
replace, so that it survives a kill at any moment and the loss of the index. It is one JSON line for the run
and one for each step::

    {"command":"pull --copy","format":1,"run":"12","time":"2026-11-20T10:15:00Z"}
    ["exp/a.json",BEFORE,BASE,AFTER,BASE_AFTER]

States are hexadecimal (see `manifest_sync.model.State`) or null for absent; BEFORE is ``false`` for a path
that was absent because it had been dropped. A base that equals the state before it is ``true``, which it
mostly is; a path that is not UTF-8 is ``{"b64": …}``. Whatever the step numbered n took away lies beside the
record under the name n.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from manifest_sync import canonical
from manifest_sync.errors import FormatError
from manifest_sync.model import HASH_LENGTH, Path, State
from manifest_sync.pathrules import check_path

FORMAT = 1
MAX_LINE = 32 << 10
"""Most bytes of a line: the longest path in base64 and four states fit many times."""

_KINDS = (b"f", b"x", b"l")
_SPECIAL_STATES = (b"", b"o")


@dataclass(frozen=True, slots=True)
class RunHeader:
    """Which run it was: its number, the command as a person would type it, and when (RFC 3339)."""

    run: str
    command: str
    time: str


class Step(msgspec.Struct, frozen=True, gc=False):
    """What a run does with one path: local state and base, before and after. None is absent."""

    path: Path
    before: State | None
    base: State | None
    after: State | None
    base_after: State | None
    was_dropped: bool = False
    """Whether the path was absent because a `drop` had taken it away, which is no deletion."""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    format: int
    run: str
    time: str


_PathText = str | dict[str, str]
_StateText = str | None
_BaseText = str | bool | None
_Line = tuple[_PathText, _BaseText, _BaseText, _StateText, _BaseText]
_header_decoder = msgspec.json.Decoder(_Header)
_step_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


def encode_header(header: RunHeader) -> bytes:
    """The first line of a record, with its newline."""
    return canonical.encode_trusted(_Header(header.command, FORMAT, header.run, header.time)) + b"\n"


def parse_header(line: bytes) -> RunHeader:
    """The run that a first line names. Raises `FormatError`."""
    try:
        found = _header_decoder.decode(line[:MAX_LINE])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise FormatError(f"the record of a run is damaged: {error}") from None
    if found.format != FORMAT:
        raise FormatError(f"the record of run {found.run[:60]!r} has format {found.format}, not {FORMAT}")
    return RunHeader(found.run, found.command, found.time)


def encode_step(step: Step) -> bytes:
    """A line of a record, with its newline."""
    text = canonical.to_text(step.path)
    path = {"b64": canonical.to_base64(step.path)} if text is None else text
    before: str | bool | None = False if step.was_dropped else _text(step.before)
    after = _text(step.after)
    base = True if step.base == step.before else _text(step.base)
    base_after = True if step.base_after == step.after else _text(step.base_after)
    return canonical.encode_trusted([path, before, base, after, base_after]) + b"\n"


def _text(state: State | None) -> str | None:
    return None if state is None else state.hex()


def parse_step(line: bytes) -> Step:
    """The step that a line names. Raises `FormatError`."""
    if len(line) > MAX_LINE:
        raise FormatError("the record of a run is damaged: a line is too long")
    try:
        path_text, *texts = _step_decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise FormatError(f"the record of a run is damaged: {error}") from None
    if isinstance(path_text, str):
        path = path_text.encode()
    elif set(path_text) == {"b64"}:
        path = canonical.parse_base64(path_text["b64"], "the record of a run")
    else:
        raise FormatError("the record of a run is damaged: a path is neither text nor base64")
    reason = check_path(path)
    if reason:
        raise FormatError(f"the record of a run is damaged: a path is not allowed: {reason}")
    was_dropped = texts[0] is False
    before, after = None if was_dropped else _parse_state(texts[0]), _parse_state(texts[2])
    base = before if texts[1] is True else _parse_state(texts[1])
    base_after = after if texts[3] is True else _parse_state(texts[3])
    return Step(Path(path), before, base, after, base_after, was_dropped)


def _parse_state(text: str | bool | None) -> State | None:
    if text is None:
        return None
    if isinstance(text, bool):
        raise FormatError("the record of a run is damaged: a state is not text")
    try:
        state = bytes.fromhex(text)
    except ValueError:
        raise FormatError("the record of a run is damaged: a state is not hexadecimal") from None
    if state not in _SPECIAL_STATES and (len(state) != HASH_LENGTH + 1 or state[:1] not in _KINDS):
        raise FormatError("the record of a run is damaged: a state is out of range")
    return State(state)
