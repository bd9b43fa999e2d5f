"""Where the bucket is and with what credentials: s3:// URLs, folders, rclone remotes, `.env` files.

Nothing here reads a file or the environment: texts and mappings are passed in, so that every form can
be tested without touching the machine it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


Scheme = Literal["s3", "file", "memory"]


@dataclass(frozen=True, slots=True)
class Location:
    """One place that can hold a repository. Secrets never appear in its ``repr`` or ``str``.

    ``scheme`` ``s3`` uses ``bucket``, ``prefix`` (no leading or trailing ``/``) and what follows
    ``path``; ``file`` uses ``path`` (an absolute folder); ``memory`` uses ``path`` as a name, for tests.
    Empty credentials mean: leave it to the AWS chain (environment, ``~/.aws``, instance role).
    """

    scheme: Scheme
    bucket: str = ""
    prefix: str = ""
    path: str = ""
    endpoint_url: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    profile: str = ""
    path_style: bool = True

    def __str__(self) -> str:
        if self.scheme == "s3":
            return f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return f"{self.scheme}://{self.path}"
