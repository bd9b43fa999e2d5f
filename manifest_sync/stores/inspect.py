"""What `doctor` asks of a place beside the contract of `Store`: who answers, who we are, what is checked."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from manifest_sync.config import Location
from manifest_sync.errors import NoRepository


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first answer of a store.

    ``date`` is the store's clock when it answered, in Unix seconds (None: it did not say), ``seconds`` how
    long the answer took.
    """

    place: str
    server: str
    seconds: float
    date: float | None = None


def greet(location: Location) -> Greeting:
    """Whether anything answers there; no credentials are used.

    Raises:
        StoreUnavailable: nothing answers, or nothing that can be trusted.
        NoRepository: it is a folder, and it is not there.
    """
    started = time.monotonic()
    if location.scheme == "s3":
        from manifest_sync.stores.s3_inspect import greet_endpoint  # noqa: PLC0415

        place, server, date = greet_endpoint(location)
        return Greeting(place, server, time.monotonic() - started, date)
    if location.scheme == "file" and not os.path.isdir(location.path):
        raise NoRepository(
            f"the folder {location.path} is not there",
            "mount the disk it lies on, correct the bucket in manifest-sync.toml, or make it with "
            "`manifest-sync init`",
        )
    return Greeting(str(location), "a folder", time.monotonic() - started)


def identify(location: Location) -> str:
    """As whom requests are made, for a person: the key's id in part, and where it was found.

    Raises:
        AccessDenied: there are no credentials, or not where they are said to be.
    """
    if location.scheme == "s3":
        from manifest_sync.stores.s3_inspect import identify_key  # noqa: PLC0415

        return identify_key(location)
    return "no credentials are needed"


def refuses_damage(location: Location, key: str) -> bool | None:
    """Whether an upload is refused when its body is not what its Content-MD5 says.

    None where nothing is sent that could be damaged on the way (a folder). The object ``key`` may be there
    afterwards.

    Raises:
        StoreUnavailable, AccessDenied: as for a request.
    """
    if location.scheme == "s3":
        from manifest_sync.stores.s3_inspect import refuses_wrong_md5  # noqa: PLC0415

        return refuses_wrong_md5(location, key)
    return None
