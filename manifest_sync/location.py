"""Where the bucket is and with what credentials: s3:// URLs, folders, rclone remotes, `.env` files.

Only `load_environment` reads files; the rest takes texts and mappings, so that every form can be tested
without touching the machine it runs on.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote, urlsplit

from manifest_sync.errors import UsageError

Scheme = Literal["s3", "file", "memory"]

_FORMS = "use s3://bucket/prefix, file:///folder, a plain folder, or REMOTE:bucket/prefix of your rclone.conf"
_KINDS = {
    "alias": "write what it stands for: the s3 remote that its `remote` names, with bucket and prefix",
    "crypt": "what rclone encrypts cannot be read here: name an s3 remote and a prefix that is not encrypted",
    "combine": "name the s3 remote itself",
    "union": "name the s3 remote itself",
    "chunker": "name an s3 remote and a prefix that rclone does not cut into chunks",
    "compress": "name an s3 remote and a prefix that rclone does not compress",
}
_MAKE_READABLE = "make it readable, or move it"
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_REMOTE = re.compile(r"([\w.+@-][\w.+@ -]*):(?!//)(.*)", re.DOTALL)
_CONNECTION = re.compile(r":\w|[\w.+@-][\w.+@ -]*,[^/]*[:=]")
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_R2_HOST = ".r2.cloudflarestorage.com"


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


@dataclass(frozen=True, slots=True)
class Environment:
    """What a location takes from its surroundings; never printed, because it holds secrets."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Environment variables, and below them the assignments of the project's ``.env``."""
    rclone_conf: str | None = field(default=None, repr=False)
    """The text of the user's ``rclone.conf``, or None when there is none."""
    rclone_path: str = ""
    """Where that file is or was looked for; for messages."""
    rclone_failure: str = ""
    """Why that file cannot be read, which matters only to who names one of its remotes."""


def load_environment(project_dir: str, env: Mapping[str, str]) -> Environment:
    """Read the project's ``.env`` and the user's ``rclone.conf``; either may be absent.

    Args:
        project_dir: the folder that holds ``manifest-sync.toml``.
        env: the environment; what it names wins over ``.env``.

    Raises:
        UsageError: the ``.env`` is there and cannot be read.
    """
    dotenv = _read_text(os.path.join(project_dir, ".env"))
    path = env.get("RCLONE_CONFIG") or os.path.join(
        env.get("XDG_CONFIG_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config"),
        "rclone",
        "rclone.conf",
    )
    rclone_conf, failure = None, ""
    try:
        rclone_conf = _read_text(path)
    except UsageError as error:
        failure = error.message
    return Environment({**parse_dotenv(dotenv or ""), **env}, rclone_conf, path, failure)


def parse_dotenv(text: str) -> dict[str, str]:
    """The assignments of a ``.env`` file: ``KEY=VALUE``, quotes, ``export`` and ``#`` comments.

    Variables inside values are not expanded. Lines of any other form are passed over: the file belongs to
    other tools too.
    """
    values = {}
    for line in text.splitlines():
        found = _ASSIGNMENT.fullmatch(line.strip())
        if found:
            values[found[1]] = _dotenv_value(found[2])
    return values


def _dotenv_value(text: str) -> str:
    if text.startswith("'") and "'" in text[1:]:
        return text[1 : text.index("'", 1)]
    quoted = _DOUBLE_QUOTED.match(text)
    if quoted:
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted[1])
    return re.split(r"(?:^|\s)#", text, maxsplit=1)[0].rstrip()


def parse_location(
    text: str,
    *,
    base: str,
    environment: Environment | None = None,
    endpoint_url: str = "",
    region: str = "",
) -> Location:
    """Understand what names a bucket and find its credentials.

    Credentials of an ``s3://`` location: ``R2_ACCESS_KEY_ID`` and ``R2_SECRET_ACCESS_KEY`` (with
    ``R2_ENDPOINT`` and, for a temporary key, ``R2_SESSION_TOKEN``), else empty, which leaves them to the AWS
    chain. A configured endpoint wins over
    ``R2_ENDPOINT``; when the two name different hosts the R2 keys belong to another store and are not used.

    Args:
        text: ``s3://bucket/prefix``, ``file:///folder``, ``memory://name``,
            ``remote:bucket/prefix`` or a folder.
        base: the folder that a relative folder is relative to.
        environment: variables and rclone.conf; None for none.
        endpoint_url: the configured endpoint, or ''.
        region: the configured region, or ''.

    Raises:
        UsageError: it is none of these forms, or the rclone remote is missing or of no use here.
    """
    environment = environment or Environment()
    if endpoint_url:
        endpoint_url = check_endpoint(endpoint_url)
    if text.startswith("s3://"):
        bucket, prefix = _split_bucket(text, text.removeprefix("s3://"))
        return _s3_location(bucket, prefix, environment.variables, endpoint_url, region)
    if text.startswith("file://"):
        return Location("file", path=_file_url(text))
    if text.startswith("memory://"):
        return Location("memory", path=text.removeprefix("memory://"))
    if "://" in text:
        shown = re.sub("//[^/]*@", "//***@", text)
        raise UsageError(f"{shown!r} is not a place this program knows", _FORMS)
    if _CONNECTION.match(text):
        # With its keys in it, so it is not shown.
        raise UsageError(
            "an rclone remote with its settings in the name (:s3,... or remote,key=value:) is not supported",
            "keep the remote in rclone.conf (`rclone config`), and write its name: remote:bucket/prefix",
        )
    remote = _REMOTE.fullmatch(text)
    if remote:
        return _rclone_location(text, remote[1], remote[2], environment, endpoint_url, region)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} names no bucket", _FORMS)
    return Location("file", path=os.path.normpath(os.path.join(base, os.path.expanduser(text))))


def check_endpoint(url: str) -> str:
    """Return ``url`` without a trailing ``/``.

    Raises:
        UsageError: it is no http or https URL, or has a user name or password in it.
    """
    if "@" in url:
        # Not shown: a password may stand before the sign.
        raise UsageError(
            f"the endpoint at {url.rpartition('@')[2].partition('/')[0]} has a user name or password in it",
            "put credentials into the environment, `.env` or rclone.conf",
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"the endpoint {url!r} is not an http or https URL",
            "for example https://ACCOUNT.r2.cloudflarestorage.com",
        )
    return url.rstrip("/")


def _s3_location(
    bucket: str, prefix: str, variables: Mapping[str, str], endpoint_url: str, region: str
) -> Location:
    access_key = variables.get("R2_ACCESS_KEY_ID", "").strip()
    secret_key = variables.get("R2_SECRET_ACCESS_KEY", "").strip()
    session_token = variables.get("R2_SESSION_TOKEN", "").strip()
    r2_endpoint = variables.get("R2_ENDPOINT", "").strip().rstrip("/")
    if bool(access_key) != bool(secret_key):
        missing = "R2_SECRET_ACCESS_KEY" if access_key else "R2_ACCESS_KEY_ID"
        raise UsageError(f"{missing} is not set but its counterpart is", "set both, or neither")
    if r2_endpoint:
        # Cloudflare's pages show the endpoint with the bucket's name behind it.
        r2_endpoint = _with_scheme(r2_endpoint).removesuffix(f"/{bucket}")
    if not access_key or (r2_endpoint and endpoint_url and not _same_host(r2_endpoint, endpoint_url)):
        access_key = secret_key = session_token = r2_endpoint = ""
    endpoint = (endpoint_url or r2_endpoint).removesuffix(f"/{bucket}")
    return Location(
        "s3",
        bucket,
        prefix,
        endpoint_url=endpoint,
        region=region or _default_region(endpoint),
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        path_style=bool(endpoint),
    )


def _rclone_location(
    text: str, name: str, rest: str, environment: Environment, endpoint_url: str, region: str
) -> Location:
    if environment.rclone_failure:
        raise UsageError(environment.rclone_failure, _MAKE_READABLE)
    path = environment.rclone_path or "rclone.conf"
    remotes = _parse_rclone(environment.rclone_conf or "", path)
    if not remotes.has_section(name):
        known = ", ".join(sorted(remotes.sections())) or "none"
        raise UsageError(f"{text!r}: there is no remote {name!r} in {path} (remotes there: {known})", _FORMS)
    remote = remotes[name]
    kind = remote.get("type", "")
    if kind != "s3":
        raise UsageError(
            f"{text!r}: the remote {name!r} in {path} has the type {kind!r}; only 's3' can be used here",
            _KINDS.get(kind, _FORMS),
        )
    bucket, prefix = _split_bucket(text, rest.lstrip("/"))
    access_key, secret_key = remote.get("access_key_id", ""), remote.get("secret_access_key", "")
    # As in rclone: env_auth counts only where the keys are left out.
    env_auth = remote.get("env_auth", "false").lower() in ("true", "1", "yes")
    from_chain = env_auth and not (access_key or secret_key)
    if not from_chain and not (access_key and secret_key):
        raise UsageError(
            f"{text!r}: the remote {name!r} in {path} has no access_key_id and secret_access_key",
            "add them with `rclone config`, or set env_auth = true",
        )
    if from_chain and "shared_credentials_file" in remote:
        raise UsageError(
            f"{text!r}: the remote {name!r} in {path} sets shared_credentials_file, which is not used here",
            "take it out of there, and set AWS_SHARED_CREDENTIALS_FILE to that file",
        )
    endpoint = endpoint_url or _with_scheme(remote.get("endpoint", ""))
    return Location(
        "s3",
        bucket,
        prefix,
        endpoint_url=endpoint,
        region=region or remote.get("region", "") or _default_region(endpoint),
        access_key=access_key,
        secret_key=secret_key,
        session_token="" if from_chain else remote.get("session_token", ""),
        profile=remote.get("profile", "") if from_chain else "",
        path_style=bool(endpoint) and remote.get("force_path_style", "true").lower() != "false",
    )


def _parse_rclone(text: str, path: str) -> configparser.RawConfigParser:
    lines = (line.strip() for line in text.splitlines())
    if next((line for line in lines if line and line[0] not in "#;"), "").startswith("RCLONE_ENCRYPT_"):
        raise UsageError(
            f"{path} is encrypted, and its password is not asked for here",
            "`rclone config encryption remove` takes the encryption off; or set R2_ACCESS_KEY_ID and "
            "R2_SECRET_ACCESS_KEY, and write the bucket as s3://bucket/prefix",
        )
    config = configparser.RawConfigParser(strict=False, default_section="\0")
    try:
        config.read_string(text)
    except configparser.Error as error:
        # Only its first line: the others quote the file.
        raise UsageError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            "`rclone config` shows what it makes of it",
        ) from None
    return config


def _split_bucket(text: str, rest: str) -> tuple[str, str]:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        # Not shown: a key may stand before the sign.
        raise UsageError(
            "a bucket is named without a key or password before it",
            "put credentials into the environment, `.env` or rclone.conf; " + _FORMS,
        )
    if not _BUCKET_NAME.fullmatch(bucket):
        raise UsageError(f"{text!r} has no usable bucket name: {bucket!r}", _FORMS)
    parts = prefix.strip("/").split("/")
    if prefix.strip("/") and any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"{text!r}: the prefix has an empty, '.' or '..' component", _FORMS)
    return bucket, "/".join(parts)


def _file_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UsageError(
            f"{text!r} is not a folder of this machine", "write file:///folder, with three slashes"
        )
    return os.path.normpath(unquote(text.removeprefix("file://").removeprefix("localhost")))


def _with_scheme(endpoint: str) -> str:
    if not endpoint:
        return ""
    return check_endpoint(endpoint if "://" in endpoint else f"https://{endpoint}")


def _same_host(one: str, other: str) -> bool:
    return urlsplit(one).netloc.lower() == urlsplit(other).netloc.lower()


def _default_region(endpoint: str) -> str:
    return "auto" if (urlsplit(endpoint).hostname or "").endswith(_R2_HOST) else ""


def _read_text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", _MAKE_READABLE) from None
