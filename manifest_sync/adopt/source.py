"""What an adoption may take: only what everybody who reads the repository can read as well."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from manifest_sync.errors import UsageError
from manifest_sync.externals import place_of
from manifest_sync.location import Environment, Location, parse_location
from manifest_sync.model import is_below


@dataclass(frozen=True, slots=True)
class Source:
    """What is adopted: the objects of ``place`` whose keys begin with ``prefix``.

    ``url`` is what the user calls it. ``own`` is what the keys of the repository's own objects begin with;
    None when they are in another place.
    """

    url: str
    place: str
    prefix: str
    own: str | None = None


def find_source(url: str, repository: Location, environment: Environment, base: str, region: str) -> Source:
    """Where the objects at ``url`` are.

    Args:
        repository: where the repository is.
        environment: variables and rclone.conf.
        base: what a relative folder is relative to.
        region: the configured region, or ''.

    Raises:
        UsageError: it is no such place, or one of another kind or at another endpoint than the repository.
    """
    # A remote of rclone.conf has an endpoint of its own, and only that tells whether it is the same store.
    is_remote = "://" not in url
    location = parse_location(
        url,
        base=base,
        environment=environment,
        endpoint_url="" if is_remote else repository.endpoint_url,
        region=region,
    )
    if location.scheme != repository.scheme or _host(location) != _host(repository):
        raise UsageError(
            f"{url} is not in the store that holds {repository}"
            + (f" ({repository.endpoint_url})" if repository.endpoint_url else ""),
            "objects are adopted where they lie, and every machine reads them with the bucket's own endpoint "
            "and credentials; copy them first, or name what is in the same store",
        )
    place, prefix = place_of(location)
    own_place, own_prefix = place_of(repository)
    return Source(url, place, prefix, own_prefix if own_place == place else None)


def check_apart(source: Source, *ours: str) -> None:
    """Refuse a folder that overlaps with one of this machine's own: what is adopted has to stay as it is, and
    there edits and every pull change it.

    Raises:
        UsageError: it does.
    """
    if source.place != "file://":
        return
    place = os.fsencode(os.path.realpath(f"/{source.prefix}")).rstrip(b"/")
    for folder in map(os.path.realpath, ours):
        own = os.fsencode(folder)
        if is_below(place, own) or is_below(own, place):
            raise UsageError(
                f"{source.url} overlaps with {folder}, which this machine works in",
                "`manifest-sync push` sends what is in the tree; adopt what lies outside of it",
            )


def _host(location: Location) -> str:
    return urlsplit(location.endpoint_url).netloc.lower()
