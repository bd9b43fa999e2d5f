"""Damages valid samples: bytes without knowing what they are, and JSON as the tree that it is."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

NUMBERS = (
    0, 1, -1, 2, 7, 255, 256, 511, 512, 4095, 4096, 65535, 1 << 20, (16 << 20) - 1, 16 << 20, (16 << 20) + 1,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**15, 10**15 + 1, 10**18, 2**53 + 1, 2**63 - 1, 2**63, -(2**63),
    -(2**63) - 1, 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
TEXTS = (
    "", " ", ".", "..", "/", "//", "a/../b", "\0", "\n", "\u202e", "\ufeff", "e\u0301", "\u00e9",
    "a" * 255, "a" * 256, "a/" * 2048, "0" * 32, "f" * 32, "0" * 64, "F" * 64, "g" * 64, ".git", ".GIT",
    ".manifest-sync", "0-" + "0" * 32, "00-" + "0" * 32, "-1-" + "0" * 32, "file", "symlink", "blake3",
    "\U0001f600", "9" * 5000, "\\", "\"", "b64", "/w==", "%2e%2e", "2026-01-02T03:04:05Z",
    "history/0-" + "0" * 32 + ".json",
    "packs/0-" + "0" * 32 + "/" + "0" * 64 + ".pack", "../manifest.json", "manifest.json",
)  # fmt: skip
TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\0", b"\n", b"\xff", b"\xef\xbb\xbf", b"null", b"true",
    b"0.0", b"1e9", b"-0", b"NaN", b"00", b"[" * 2000, b"{\"a\":" * 500, b'"\\ud800"', b"\xed\xa0\x80", b"=",
    b"[[", b"]]", b"'''", b'"""', b"#", b"9" * 5000, b"2026-13-45", b"-", b"\xc1", b"\xd9", b"\xdf", b"\xcf",
)  # fmt: skip


class Mangler:
    """Makes one damaged sample after the other, all determined by ``dice``."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def raw(self, samples: Sequence[bytes]) -> bytes:
        """One of ``samples``, damaged in one to four ways; now and then random bytes instead."""
        dice = self._dice
        if dice.random() < 0.05:
            return dice.randbytes(dice.choice((0, 1, 2, 8, 60, 300, 4000)))
        data = bytearray(dice.choice(samples))
        for _ in range(dice.choice((1, 1, 1, 2, 4))):
            self._damage(data, samples)
        return bytes(data)

    def _damage(self, data: bytearray, samples: Sequence[bytes]) -> None:
        dice = self._dice
        start = dice.randrange(len(data) + 1)
        end = min(len(data), start + dice.choice((1, 1, 2, 4, 8, 32, 200)))
        match dice.randrange(8):
            case 0 if data:
                data[start % len(data)] ^= 1 << dice.randrange(8)
            case 1:
                del data[start:]
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end] * dice.choice((1, 2, 50))
            case 4:
                other = dice.choice(samples)
                data[start:] = other[dice.randrange(len(other) + 1) :]
            case 5:
                data[start:end] = dice.choice(TOKENS)
            case 6:
                data[start:end] = str(dice.choice(NUMBERS)).encode()
            case _:
                data[start:end] = dice.randbytes(end - start)

    def json(self, samples: Sequence[Any]) -> Any:
        """One of ``samples``, decoded JSON, with one to three nodes damaged."""
        dice = self._dice
        value = json.loads(json.dumps(dice.choice(samples)))
        for _ in range(dice.choice((1, 1, 2, 3))):
            value = self._damage_tree(value)
        return value

    def _damage_tree(self, value: Any) -> Any:
        """Walk down to a random node and change it; most damage is done near the leaves."""
        dice = self._dice
        if isinstance(value, dict) and value and dice.random() < 0.85:
            key = dice.choice(list(value))
            value[key] = self._damage_tree(value[key])
            return value
        if isinstance(value, list) and value and dice.random() < 0.85:
            place = dice.randrange(len(value))
            value[place] = self._damage_tree(value[place])
            return value
        return self._change(value)

    def _change(self, value: Any) -> Any:
        dice = self._dice
        if isinstance(value, list) and dice.random() < 0.8:
            return self._change_list(value)
        if isinstance(value, dict) and dice.random() < 0.8:
            return self._change_dict(value)
        if type(value) is int and dice.random() < 0.7:
            return value + dice.choice((-1, 1, 2**32)) if dice.random() < 0.5 else dice.choice(NUMBERS)
        if isinstance(value, str) and value and dice.random() < 0.7:
            place = dice.randrange(len(value))
            return value[:place] + dice.choice((*TEXTS, value)) + value[place + dice.randrange(3) :]
        return dice.choice(
            (
                None,
                True,
                False,
                0.0,
                1.5,
                [],
                {},
                [[]],
                {"": 0},
                *NUMBERS[:4],
                dice.choice(TEXTS),
                self._deep(),
            )
        )

    def _deep(self) -> Any:
        value: Any = []
        for _ in range(self._dice.choice((3, 300))):
            value = [value]
        return value

    def _change_list(self, value: list[Any]) -> Any:
        dice = self._dice
        place = dice.randrange(len(value) + 1)
        match dice.randrange(5):
            case 0:
                return value[:place]
            case 1:
                return value[:place] + value[place + 1 :]
            case 2:
                return value[:place] + value[max(0, place - 1) :]
            case 3:
                return value[::-1]
            case _:
                return [*value[:place], dice.choice((None, 0, "", [], {})), *value[place:]]

    def _change_dict(self, value: dict[str, Any]) -> Any:
        dice = self._dice
        changed = dict(value)
        keys = list(changed)
        match dice.randrange(4):
            case 0 if keys:
                del changed[dice.choice(keys)]
            case 1 if keys:
                key = dice.choice(keys)
                changed[dice.choice((key.upper(), key + "_b64", "", "zzz"))] = changed.pop(key)
            case 2 if len(keys) > 1:
                one, other = dice.sample(keys, 2)
                changed[one], changed[other] = changed[other], changed[one]
            case _:
                changed[dice.choice(TEXTS)] = dice.choice((None, 0, "", [], {}))
        return changed
