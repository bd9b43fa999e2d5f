"""Canonical JSON, BLAKE3 and bounded zstd: the three encodings that every stored object is made of.

Canonical JSON is what ``json.dumps(x, sort_keys=True, ensure_ascii=False, separators=(",", ":"))``
gives for objects, arrays, strings, booleans, null and 64-bit integers, in UTF-8. Equal content has
equal bytes, so the BLAKE3 of the bytes can be its name. See docs/format.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec
import zstandard
from blake3 import blake3

from manifest_sync.errors import FormatError
from manifest_sync.model import HASH_LENGTH, Hash

T = TypeVar("T")

ZSTD_LEVEL = 3
DOCUMENT_LEVEL = 1
"""Of pages and copies of the head: they are full of hex digits, in which looking for short repeats loses."""
MAX_WINDOW = 16 << 20
"""Largest zstd window that is accepted, bytes: what bounds the memory of a decoder."""
MIN_INT, MAX_INT = -(1 << 63), (1 << 63) - 1
MAX_WEIGHT = 64 << 20
"""Most memory that the values of one JSON document may take when it is decoded, bytes, by a guess."""

# What a value costs in memory, by the byte that announces it: a document of nothing but "[]," takes thirty
# times its length.
_WEIGHTS = ((b"{", 240), (b"[", 80), (b",", 40), (b":", 60), (b'"', 20))
_TEXT = re.compile(rb'"[^"]*"?')
_BLOCK = 1 << 20

_encoder = msgspec.json.Encoder(order="sorted")
_decode_errors = (msgspec.MsgspecError, RecursionError, UnicodeError)


class _Codecs(threading.local):
    """One compressor and one decompressor a thread: the library's objects are not thread-safe."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False)
        self.documents = zstandard.ZstdCompressor(level=DOCUMENT_LEVEL, write_checksum=False)
        self.summing = zstandard.ZstdCompressor(level=DOCUMENT_LEVEL, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


_codecs = _Codecs()


def encode(value: object) -> bytes:
    """The canonical JSON of plain values (or typed structs of such).

    Raises ``TypeError`` for a float or another type without a canonical form, ``ValueError`` for a
    number beyond 64 bits or text with a lone surrogate. Both mean a bug in the caller.
    """
    _refuse_uncanonical(value)
    return encode_trusted(value)


def encode_trusted(value: object) -> bytes:
    """`encode` for typed structs whose fields cannot hold anything but canonical values."""
    try:
        return _encoder.encode(value)
    except OverflowError as error:
        raise ValueError(str(error)) from error


def _refuse_uncanonical(value: object) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                raise TypeError("canonical JSON has text keys only")
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, int):
            if not MIN_INT <= item <= MAX_INT:
                raise ValueError(f"{item} does not fit in 64 bits")
        elif not isinstance(item, str | msgspec.Struct) and item is not None:
            raise TypeError(f"canonical JSON has no {type(item).__name__}")


def _weight(raw: bytes) -> int:
    return sum(raw.count(mark) * cost for mark, cost in _WEIGHTS)


def _iter_structure(raw: bytes) -> Iterator[bytes]:
    """A JSON document without its texts, piece by piece; each text leaves its quotes behind."""
    without_escapes = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    in_text = False
    for start in range(0, len(without_escapes), _BLOCK):
        block = without_escapes[start : start + _BLOCK]
        quotes = block.count(b'"')
        if in_text:
            block = block.partition(b'"')[2]
        yield _TEXT.sub(b"", block) + b'"' * quotes
        in_text ^= quotes % 2 == 1


def _refuse_heavy(raw: bytes, what: str) -> None:
    """A small document must not fill the memory with tiny values (P16)."""
    # The quick count takes the commas and brackets in texts for values; names may be full of them.
    if _weight(raw) > MAX_WEIGHT and sum(map(_weight, _iter_structure(raw))) > MAX_WEIGHT:
        raise FormatError(f"{what}: too many values for {len(raw)} bytes of JSON")


def decode(raw: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Typed decoding; whatever is wrong with the bytes becomes a `FormatError` that names ``what``."""
    _refuse_heavy(raw, what)
    try:
        return decoder.decode(raw)
    except _decode_errors as error:
        raise FormatError(f"{what}: {error}") from None


def decode_canonical(raw: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Typed decoding that also insists that ``raw`` is canonical, so has one meaning and one name.

    The cheap proof is that the decoded value encodes to the same bytes. It fails for objects with keys that
    are not known here; for those the bytes are decoded without types and compared again.
    """
    value = decode(raw, decoder, what)
    try:
        if encode_trusted(value) == raw:
            return value
        # Not both at a time: each may take as much memory as a document is allowed.
        del value
        if encode(msgspec.json.decode(raw)) == raw:
            return decode(raw, decoder, what)
    except (*_decode_errors, TypeError, ValueError) as error:
        raise FormatError(f"{what}: {error}") from None
    raise FormatError(f"{what}: not canonical JSON")


def decode_object(raw: bytes, what: str) -> dict[str, Any]:
    """Decode one JSON object that need not be canonical, but has no duplicate key and integers only.

    Raises `FormatError`.
    """
    _refuse_heavy(raw, what)
    try:
        # The typed library is strict about UTF-8, surrogates and depth; the other one sees duplicate keys.
        msgspec.json.decode(raw)
        value = json.loads(raw, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float)
        encode(value)
    except (*_decode_errors, TypeError, ValueError) as error:
        raise FormatError(f"{what}: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")


def hash_bytes(data: bytes | memoryview) -> Hash:
    """The BLAKE3 digest of ``data``, 32 bytes."""
    return Hash(blake3(data).digest())


def checksum(fields: Mapping[str, Any], own: str) -> str:
    """The digest of an object of JSON without its field ``own``, in hexadecimal."""
    others = {name: value for name, value in fields.items() if name != own}
    return hash_bytes(encode(others)).hex()


def new_hasher() -> blake3:
    """A BLAKE3 hasher for content that comes in pieces: ``update`` and ``digest``."""
    return blake3()


def parse_hash(text: str, what: str) -> Hash:
    """A digest from its 64 lower-case hex digits. Raises `FormatError`."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    # Comparing back refuses upper case and the spaces that fromhex skips.
    if len(digest) != HASH_LENGTH or digest.hex() != text:
        raise FormatError(f"{what}: not a hash: {text[:80]!r}")
    return Hash(digest)


def to_text(data: bytes) -> str | None:
    """``data`` as text, or None when it is not UTF-8 and has to be written as base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def to_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def parse_base64(text: str, what: str) -> bytes:
    """Bytes from base64 that were rightly written so: UTF-8 has one form only, plain text.

    Raises `FormatError`.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if to_text(data) is not None or to_base64(data) != text:
        raise FormatError(f"{what}: not base64 of bytes that are not UTF-8: {text[:80]!r}")
    return data


def compress(data: bytes) -> bytes:
    """One zstd frame that declares its content size, of the contents of files."""
    return _codecs.compressor.compress(data)


def compress_document(data: bytes, *, checksum: bool = False) -> bytes:
    """One zstd frame that declares its content size, of JSON.

    ``checksum``: it ends with a checksum of the content, which a decoder compares: for objects that are not
    named by a hash.
    """
    return (_codecs.summing if checksum else _codecs.documents).compress(data)


def has_checksum(data: bytes) -> bool:
    """Whether a zstd frame carries a checksum of its content, which `decompress` then has compared."""
    return zstandard.get_frame_parameters(data).has_checksum


def decompress(data: bytes | memoryview, max_raw: int) -> bytes:
    """Decode exactly one zstd frame to at most ``max_raw`` bytes.

    The declared size is checked before anything is allocated. Raises `FormatError` for garbage, a bomb,
    a truncated frame, an undeclared size, too large a window, or bytes after the frame.
    """
    try:
        declared = zstandard.frame_content_size(data)
        if declared < 0:
            raise FormatError("zstd frame does not declare its size")
        if declared > max_raw:
            raise FormatError(f"zstd frame declares {declared} bytes; at most {max_raw} are allowed")
        plain = _codecs.decompressor.decompress(
            data, max_output_size=max(declared, 1), allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"not a valid zstd frame: {error}") from None
    if len(plain) != declared:
        raise FormatError(f"zstd frame declares {declared} bytes and holds {len(plain)}")
    return plain
