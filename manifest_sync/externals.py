"""How a page names an object outside the repository: its URL, in one spelling. Pure.

A URL is a *place* (``s3://BUCKET``, or ``file://`` for the files of a machine), ``/``, and the key with
every byte of its UTF-8 but letters, digits and ``-._~/`` percent-encoded. It holds neither endpoint nor
credentials: those are the repository's own.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from manifest_sync.errors import FormatError
from manifest_sync.keys import HEAD_KEY
from manifest_sync.location import Location
from manifest_sync.model import Entry, PackRef

MAX_URL = 4096
_URL = re.compile(r"(s3://[A-Za-z0-9][A-Za-z0-9._-]{0,254}|file://|memory://[\w-]*)/(.+)\Z", re.DOTALL)
_ETAG = re.compile(r"[\x21-\x7e]{1,1024}\Z")
_OWN_FOLDERS = ("snapshots/", "history/", "pages/", "packs/", "gc/", "probe/", ".store/")


def place_of(location: Location) -> tuple[str, str]:
    """The place that a location lies in, and what the keys of the objects below it begin with."""
    if location.scheme == "s3":
        return f"s3://{location.bucket}", f"{location.prefix}/" if location.prefix else ""
    if location.scheme == "file":
        folder = location.path.strip("/")
        return "file://", f"{folder}/" if folder else ""
    return f"memory://{location.path}", ""


def object_url(place: str, key: str) -> str:
    """The URL of an object; a key's bytes that are no UTF-8 are those of ``os.fsdecode``."""
    return f"{place}/{quote(key.encode('utf-8', 'surrogateescape'), safe='/')}"


def split_url(url: str) -> tuple[str, str]:
    """Place and key of an object.

    Raises:
        FormatError: it is no URL of this kind, or not in the one spelling.
    """
    found = _URL.match(url)
    if found:
        place, key = found[1], unquote_to_bytes(found[2]).decode("utf-8", "surrogateescape")
        if object_url(place, key) == url and (place == "file://" or _is_text(key)):
            return place, key
    raise FormatError(f"{url[:200]!r} is no object that this version can read")


def _is_text(key: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in key)


def is_etag(text: str) -> bool:
    """Whether ``text`` can be sent as a condition."""
    return _ETAG.match(text) is not None


def same_etag(one: str, other: str) -> bool:
    """Whether two ETags are the same; some stores leave the quotes out of a listing."""
    return one.strip('"') == other.strip('"')


def is_own(name: str) -> bool:
    """Whether a key below the repository's prefix is one of those that the repository uses."""
    return name == HEAD_KEY or name.startswith(_OWN_FOLDERS)


def packs_of(entry: Entry) -> set[PackRef]:
    """The external packs that an entry needs."""
    return {chunk.frame.pack for chunk in entry.chunks if chunk.frame.pack.is_external}
