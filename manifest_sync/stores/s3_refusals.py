"""What to tell whoever's key or permission an S3 store refused. Pure."""

from __future__ import annotations

from manifest_sync.errors import AccessDenied

CREDENTIALS_HINT = (
    "set R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY (environment or `.env`) or what the AWS chain reads "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, environment only), or name a remote of "
    "rclone.conf"
)
MISSING_HINT = (
    f"{CREDENTIALS_HINT}. If they are: R2_ keys are passed over while R2_ENDPOINT names another host than "
    "endpoint_url in manifest-sync.toml"
)
"""Where nothing was found; the commonest reason is not that nothing is set."""
CLOCK_HINT = "set this machine's clock"
READERS = "pull, status, ls, cat, log, diff, restore and verify"
WRITERS = "push, watch, adopt, pin, init, gc and export to a bucket"
LISTERS = "log, verify, gc, pin, drop, export to a bucket and --at with a number or a time"

_BAD_KEYS = {
    "InvalidAccessKeyId": "the store does not know this access key id",
    "InvalidArgument.AccessKey": "the store does not know this access key id",
    "SignatureDoesNotMatch": "the secret does not belong to this access key id",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "TokenRefreshRequired": "the session token has expired",
}


def refusal(
    kind: str, key: str, *, location: str, code: str, answer: str, has_read: bool = False
) -> AccessDenied:
    """The error for a request that was refused for want of a right, or because of the key itself.

    Args:
        kind: GET, HEAD, PUT, LIST or DELETE; '' when it is none of them.
        key: the object, or ``prefix/*`` for a listing.
        location: the place, as a URL without a ``/`` at the end.
        code: the store's error code.
        answer: status, code and message, as the store gave them.
        has_read: whether this key has read from the store before.
    """
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{location}: {answer}", CLOCK_HINT)
    if code in _BAD_KEYS:
        return AccessDenied(f"{location}: {_BAD_KEYS[code]} ({answer})", CREDENTIALS_HINT)
    below = f"on objects below {location}/"
    if kind == "PUT":
        may = f"this key may only read {location}" if has_read else f"this key may not write to {location}"
        return AccessDenied(
            f"{may}: writing {key} was refused ({answer})",
            f"{WRITERS} need write permission (s3:PutObject) {below}; {READERS} work with a key that only "
            "reads. Nothing was lost: run the same command again with another key",
        )
    if kind == "LIST":
        return AccessDenied(
            f"this key may not list {location}/{key}: {answer}",
            f"{LISTERS} need permission to list (s3:ListBucket) {below}; push, pull, sync, status, ls, cat, "
            "diff and restore work without it",
        )
    if kind == "DELETE":
        return AccessDenied(
            f"this key may not delete {location}/{key}: {answer}",
            f"gc and export --prune need permission to delete (s3:DeleteObject) {below}; push, pull and all "
            "that reads work without it",
        )
    if kind in ("GET", "HEAD"):
        return AccessDenied(
            f"this key may not read {location}/{key}: {answer}",
            f"every command needs read permission (s3:GetObject) {below}; is it the key of another bucket? "
            "AWS answers so for a missing object too, unless the key may list (s3:ListBucket)",
        )
    return AccessDenied(f"{location} refused the request for {key}: {answer}", CREDENTIALS_HINT)
