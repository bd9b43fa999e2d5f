"""What S3Store makes of failures: what is tried again, what is never repeated, what a user is told."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from manifest_sync.config import Location
from manifest_sync.errors import (
    AccessDenied,
    FormatError,
    ManifestSyncError,
    NoRepository,
    StoreUnavailable,
    UsageError,
)
from manifest_sync.stores import open_store
from manifest_sync.stores.base import NotFound, PreconditionFailed, Unknown
from manifest_sync.stores.notes import Notes
from manifest_sync.stores.patience import Patience
from manifest_sync.stores.retry import MAX_RETRY_AFTER, Retry, Transient, parse_retry_after
from manifest_sync.stores.s3 import S3Store
from tests.scripted_server import Answer, Script, error, scripted_server
from tests.servers import S3Server

LOCATION = Location("s3", bucket="b", prefix="p", region="auto", access_key="AK", secret_key="SK")


@dataclass
class Scripted:
    script: Script
    store: S3Store
    slept: list[float] = field(default_factory=list)

    def answers(self, *answers: Answer) -> None:
        self.script.answers.extend(answers)


@pytest.fixture
def s3() -> Iterator[Scripted]:
    with scripted_server() as script:
        slept: list[float] = []
        retry = Retry(sleep=slept.append, random=lambda: 0.5)
        store = S3Store(replace(LOCATION, endpoint_url=script.url), retry=retry, read_timeout=0.5)
        yield Scripted(script, store, slept)
        store.close()


PASSING = [
    error(500, "InternalError"),
    error(503, "SlowDown"),
    error(429, "TooManyRequests"),
    Answer(502, b"<html>bad gateway</html>"),
    Answer(504),
    error(400, "RequestTimeout"),
    Answer(reset=True),
    Answer(stall=2.0),
    Answer(body=b"0123456789", cut=4),
]
NAMES = ["500", "503", "429", "502-html", "504", "request-timeout", "reset", "stall", "cut"]


@pytest.mark.parametrize("failure", PASSING, ids=NAMES)
def test_reads_are_tried_again(s3: Scripted, failure: Answer) -> None:
    s3.answers(failure, failure, Answer(body=b"fine"))
    found = s3.store.get("k", max_bytes=100)
    assert found is not None
    assert found.body == b"fine"
    assert s3.store.requests["GET"] == 3
    assert s3.slept == [0.25, 0.5]


@pytest.mark.parametrize("failure", PASSING[:7], ids=NAMES[:7])
def test_plain_writes_are_tried_again(s3: Scripted, failure: Answer) -> None:
    s3.answers(failure, Answer())
    s3.store.put("k", b"body")
    assert [(method, path, body) for method, path, _, body in s3.script.seen] == [
        ("PUT", "/b/p/k", b"body")
    ] * 2


def test_an_answer_without_an_etag_is_no_answer(s3: Scripted) -> None:
    """A network's sign-in page says 200 to everything: nothing was stored, and this is no object."""
    page = Answer(200, b"<html>sign in</html>", {"ETag": ""})
    s3.answers(page, Answer())
    s3.store.put("k", b"body")
    s3.answers(page, Answer(body=b"fine"))
    assert s3.store.get("k", max_bytes=100) is not None
    s3.answers(page, Answer(206, b"234", {"Content-Range": "bytes 2-4/10"}))
    assert s3.store.get_range("k", 2, 3) == b"234"
    assert len(s3.script.seen) == 6
    s3.answers(page)
    with pytest.raises(Unknown):
        s3.store.put_if("k", b"body", etag=None)
    s3.answers(*[page] * 6)
    with pytest.raises(StoreUnavailable, match="not come from an S3 service"):
        s3.store.put("k", b"body")


@pytest.mark.parametrize("status", [304, 409, 412])
def test_an_answer_to_a_condition_that_was_not_named(s3: Scripted, status: int) -> None:
    odd = error(status, "Odd")
    s3.answers(odd, Answer(body=b"fine"))
    assert s3.store.get("k", max_bytes=100) is not None
    s3.answers(odd, Answer(206, b"234", {"Content-Range": "bytes 2-4/10"}))
    assert s3.store.get_range("k", 2, 3) == b"234"
    s3.answers(odd, Answer())
    s3.store.put("k", b"body")
    s3.answers(*[odd] * 3)
    with pytest.raises(StoreUnavailable):
        s3.store.put("k", b"body")
    assert len(s3.script.seen) == 9


def test_a_condition_that_was_named_and_another_answer(s3: Scripted) -> None:
    s3.answers(error(412, "PreconditionFailed"), Answer(body=b"fine"))
    assert s3.store.get("k", unless_etag='"e"', max_bytes=100) is not None
    s3.answers(error(304, ""))
    with pytest.raises(Unknown):
        s3.store.put_if("k", b"body", etag='"e"')


def test_a_body_that_only_the_end_of_the_connection_ends(s3: Scripted) -> None:
    s3.answers(Answer(body=b"cut off wh", endless=True), Answer(body=b"cut off where?"))
    found = s3.store.get("k", max_bytes=100)
    assert found is not None
    assert found.body == b"cut off where?"


def test_a_byte_now_and_then_is_no_progress() -> None:
    """Neither timeouts of the connection nor its end come to help: the headers, the body, an error's body."""
    slow = Answer(body=b"x" * 10_000, drip=0.02)
    with scripted_server() as script:
        store = S3Store(
            replace(LOCATION, endpoint_url=script.url),
            retry=Retry(sleep=lambda _: None),
            read_timeout=5,
            patience=Patience(0.4),
        )
        for call in (
            lambda: store.get("k", max_bytes=10_000),
            lambda: store.get_range("k", 0, 10_000),
            lambda: store.put("k", b"body"),
            lambda: list(store.list("")),
            lambda: store.delete("k"),
        ):
            script.answers.extend([slow] * 3)
            with pytest.raises(StoreUnavailable, match="nothing moved"):
                call()
            assert script.answers == []
        script.answers.append(slow)
        with pytest.raises(Unknown):
            store.put_if("k", b"body", etag=None)
        store.close()


def test_whoever_waits_is_told_why() -> None:
    told: list[str] = []
    with scripted_server() as script:
        store = S3Store(
            replace(LOCATION, endpoint_url=script.url),
            retry=Retry(sleep=lambda _: None),
            read_timeout=5,
            patience=Patience(5, worried=0.2),
            note=told.append,
        )
        script.answers.extend([error(503, "SlowDown"), Answer()])
        store.put("k", b"body")
        assert told == [], "what passes at once is no news"
        script.answers.extend([Answer(stall=0.6, body=b"late")])
        assert store.get("k", max_bytes=10) is not None
        assert len(told) == 1
        assert "GET k" in told[0]
        store.close()


def test_a_note_every_ten_seconds_at_most() -> None:
    told: list[str] = []
    now = [100.0]
    notes = Notes(told.append, clock=lambda: now[0])
    failure = Transient(StoreUnavailable("s3://b: k: 503 SlowDown"))
    notes.on_wait(failure, 1, 0.5)
    assert told == []
    notes.on_wait(failure, 2, 0.5)
    notes.on_wait(failure, 3, 2.2)
    assert told == ["s3://b: k: 503 SlowDown; trying again in 1 s"]
    now[0] += 10
    notes.on_wait(failure, 1, 30.0)
    assert told[1:] == ["s3://b: k: 503 SlowDown; trying again in 30 s"]


def test_tries_end(s3: Scripted) -> None:
    s3.answers(*[error(503, "SlowDown")] * 6)
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        s3.store.put("k", b"body")
    assert s3.store.requests["PUT"] == 6
    assert s3.slept == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_retry_after_is_honoured(s3: Scripted) -> None:
    s3.answers(error(429, "TooManyRequests", Retry_After="7"), Answer())
    s3.store.put("k", b"body")
    assert s3.slept == [7.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
        ("3", 3),
        ("99999", MAX_RETRY_AFTER),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0),
    ],
)
def test_parse_retry_after(text: str | None, seconds: float) -> None:
    assert parse_retry_after(text, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    "failure",
    [
        error(500, "InternalError"),
        Answer(502),
        Answer(503, b"<html>proxy</html>"),
        Answer(504),
        Answer(reset=True),
        Answer(stall=2.0),
    ],
    ids=["500", "502", "503-proxy", "504", "reset", "stall"],
)
def test_a_swap_whose_answer_is_lost_is_never_repeated(s3: Scripted, failure: Answer) -> None:
    s3.answers(failure, Answer())
    with pytest.raises(Unknown) as caught:
        s3.store.put_if("head", b"x", etag='"old"')
    assert caught.value.key == "head"
    assert len(s3.script.seen) == 1


@pytest.mark.parametrize("failure", [error(503, "SlowDown"), error(429, "TooManyRequests")])
def test_a_swap_that_was_turned_away_is_sent_again(s3: Scripted, failure: Answer) -> None:
    s3.answers(failure, Answer(headers={"ETag": '"new"'}))
    assert s3.store.put_if("head", b"x", etag='"old"') == '"new"'
    assert [headers["if-match"] for _, _, headers, _ in s3.script.seen] == ['"old"'] * 2
    s3.answers(*[failure] * 6)
    with pytest.raises(StoreUnavailable):
        s3.store.put_if("head", b"x", etag='"old"')


REFUSED = error(412, "PreconditionFailed")
OTHER = Answer(headers={"ETag": '"other"'})


@pytest.mark.parametrize(
    "answer", [REFUSED, error(409, "ConditionalRequestConflict"), error(404, "NoSuchKey")]
)
def test_a_lost_race(s3: Scripted, answer: Answer) -> None:
    s3.answers(answer, OTHER)
    with pytest.raises(PreconditionFailed):
        s3.store.put_if("head", b"x", etag='"old"')
    assert [method for method, *_ in s3.script.seen] == ["PUT", "HEAD"]


def test_a_race_lost_after_a_swap_was_won_needs_no_second_look(s3: Scripted) -> None:
    s3.answers(Answer(headers={"ETag": '"new"'}), REFUSED)
    s3.store.put_if("head", b"x", etag='"old"')
    with pytest.raises(PreconditionFailed):
        s3.store.put_if("head", b"y", etag='"old"')
    assert len(s3.script.seen) == 2


def conditions(s3: Scripted) -> list[tuple[str, str]]:
    """Of each write: the key's folder, and what If-Match said."""
    return [
        (path.split("/")[3], headers.get("if-match", ""))
        for method, path, headers, _ in s3.script.seen
        if method == "PUT"
    ]


def test_etags_without_quotes_where_they_are_shown_to_work(s3: Scripted) -> None:
    """Ceph refuses the right ETag in quotes. The next swap knows."""
    same = Answer(headers={"ETag": '"e"'})
    s3.answers(REFUSED, same, Answer(headers={"ETag": '"p"'}), REFUSED, same, Answer(204), Answer(), Answer())
    s3.store.put_if("head", b"x", etag='"e"')
    s3.store.put_if("head", b"y", etag='"f"')
    probe, head = "probe", "head"
    assert conditions(s3) == [
        (head, '"e"'),
        (probe, ""),
        (probe, "0"),
        (probe, "p"),
        (head, "e"),
        (head, "f"),
    ]


@pytest.mark.parametrize(
    "trial",
    [
        [Answer(), Answer()],  # a wrong ETag overwrites: what has no quotes is ignored
        [Answer(), REFUSED, REFUSED],  # the right one is refused
        [Answer(), REFUSED, Answer(500)],
        [Answer(500)],
        [REFUSED],
    ],
    ids=["ignored", "refused", "unknown", "broken", "odd"],
)
def test_etags_keep_their_quotes_where_others_are_not_shown_to_work(
    s3: Scripted, trial: list[Answer]
) -> None:
    """Without this the head would be overwritten, whoever had written it in the meantime."""
    s3.answers(REFUSED, Answer(), *trial, Answer(204))
    with pytest.raises(PreconditionFailed):
        s3.store.put_if("head", b"x", etag='"e"')
    assert [named for folder, named in conditions(s3) if folder == "head"] == ['"e"']


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (error(404, "NoSuchBucket"), NoRepository),
        (error(403, "AccessDenied"), AccessDenied),
        (error(403, "InvalidAccessKeyId"), AccessDenied),
        (error(403, "SignatureDoesNotMatch"), AccessDenied),
        (error(403, "RequestTimeTooSkewed"), AccessDenied),
        (error(401, "Unauthorized"), AccessDenied),
        (error(400, "ExpiredToken"), AccessDenied),
        (Answer(403, b"<html>no</html>"), AccessDenied),
        (error(400, "InvalidRequest"), ManifestSyncError),
        (error(501, "NotImplemented"), StoreUnavailable),
    ],
    ids=str,
)
def test_errors_for_a_person(s3: Scripted, answer: Answer, expected: type[ManifestSyncError]) -> None:
    calls: list[Any] = [
        lambda: s3.store.get("k", max_bytes=10),
        lambda: s3.store.get_range("k", 0, 5),
        lambda: s3.store.put("k", b"x"),
        lambda: s3.store.put_if("k", b"x", etag=None),
        lambda: list(s3.store.list("")),
        lambda: s3.store.delete("k"),
    ]
    for call in calls:
        s3.answers(answer)
        with pytest.raises(ManifestSyncError) as caught:
            call()
        assert type(caught.value) is expected
        assert caught.value.hint
        assert "SK" not in caught.value.message
    assert len(s3.script.seen) == len(calls)


def test_every_write_carries_content_md5_and_a_length(s3: Scripted) -> None:
    s3.answers(Answer(), Answer())
    s3.store.put("k", b"body")
    s3.store.put_if("k", b"body", etag=None)
    assert len(s3.script.seen) == 2
    for _, _, headers, _ in s3.script.seen:
        assert headers["content-md5"] == "hBotaJrYa9FhFEdFPCLG/A=="
        assert headers["content-length"] == "4"
        assert "aws-chunked" not in headers.get("content-encoding", "")
        assert "expect" not in headers
        assert not [name for name in headers if name.startswith("x-amz-checksum")]


def test_a_server_without_ranges(s3: Scripted) -> None:
    s3.answers(Answer(200, b"0123456789"))
    assert s3.store.get_range("k", 2, 3) == b"234"
    s3.answers(Answer(200, b"0123"))
    with pytest.raises(FormatError):
        s3.store.get_range("k", 2, 3)


@pytest.mark.parametrize("answered", ["bytes 0-2/10", "bytes 2-3/10", "nonsense", ""])
def test_another_range_than_asked_for(s3: Scripted, answered: str) -> None:
    s3.answers(Answer(206, b"012", {"Content-Range": answered}))
    with pytest.raises(StoreUnavailable):
        s3.store.get_range("k", 2, 3)


def test_a_range_cut_short_is_read_again(s3: Scripted) -> None:
    whole = Answer(206, b"234", {"Content-Range": "bytes 2-4/10"})
    s3.answers(replace(whole, cut=1), replace(whole, body=b"2"), whole)
    assert s3.store.get_range("k", 2, 3) == b"234"


def test_a_listing_that_never_ends(s3: Scripted) -> None:
    page = (
        b"<?xml version='1.0'?><ListBucketResult><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    s3.answers(Answer(body=page), Answer(body=page))
    with pytest.raises(StoreUnavailable, match="does not end"):
        list(s3.store.list(""))


def test_not_an_s3_service(s3: Scripted) -> None:
    s3.answers(Answer(body=b"<html><p>welcome</p></html>"))
    with pytest.raises(StoreUnavailable, match="not answered like an S3 service"):
        list(s3.store.list(""))


def test_nothing_listens_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        slept: list[float] = []
        store = S3Store(replace(LOCATION, endpoint_url=url), retry=Retry(sleep=slept.append))
        for call in (
            lambda: store.get("k", max_bytes=10),
            lambda: store.put_if("k", b"x", etag=None),
        ):
            with pytest.raises(StoreUnavailable, match=url) as caught:
                call()
            assert "endpoint_url" in caught.value.hint
        assert len(slept) == 4
        store.close()


def test_an_unknown_host() -> None:
    location = replace(LOCATION, endpoint_url="http://no-such-host.invalid")
    store = S3Store(location, retry=Retry(sleep=lambda _: None))
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid"):
        store.get("k", max_bytes=10)
    store.close()


def test_locations_that_cannot_work() -> None:
    for bad in (
        replace(LOCATION, bucket=""),
        replace(LOCATION, endpoint_url="ftp://host"),
        replace(LOCATION, endpoint_url="http://"),
    ):
        with pytest.raises(UsageError):
            open_store(bad)
    with pytest.raises(AccessDenied, match="no-such-profile"):
        open_store(replace(LOCATION, profile="no-such-profile", access_key="", secret_key=""))


def test_no_credentials_anywhere(
    s3: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("home")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(empty / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(empty / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    location = replace(LOCATION, endpoint_url=s3.script.url, access_key="", secret_key="")
    store = S3Store(location)
    with pytest.raises(AccessDenied, match="no usable credentials") as failed:
        store.get("k", max_bytes=10)
    assert "passed over while R2_ENDPOINT names another host" in failed.value.hint
    assert s3.script.seen == []
    store.close()


@pytest.mark.parametrize("field", ["access_key", "session_token"])
def test_a_key_that_cannot_be_sent_is_not_shown(s3: Scripted, field: str) -> None:
    """The library's own error quotes the header that it could not send: the token, or a signature."""
    location = replace(LOCATION, endpoint_url=s3.script.url, session_token="t")
    store = S3Store(replace(location, **{field: "hidden\nhalf"}))  # type: ignore[arg-type]
    calls: list[Any] = [lambda: store.get("k", max_bytes=10), lambda: store.put("k", b"x")]
    for call in calls:
        with pytest.raises(AccessDenied, match="line break") as caught:
            call()
        assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert s3.script.seen == []
    store.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("InvalidAccessKeyId", "does not know this access key id"),
        ("SignatureDoesNotMatch", "secret does not belong to this access key id"),
        ("ExpiredToken", "session token has expired"),
    ],
)
def test_a_wrong_key_is_told_from_one_that_may_too_little(s3: Scripted, code: str, said: str) -> None:
    s3.answers(error(403, code))
    with pytest.raises(AccessDenied, match=said) as caught:
        s3.store.put("k", b"x")
    assert "R2_ACCESS_KEY_ID" in caught.value.hint


def test_real_server_refuses_a_wrong_secret(seaweed_http: S3Server) -> None:
    store = S3Store(seaweed_http.location("x", secret_key="wrong"))
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        store.get("k", max_bytes=10)
    store.close()


def test_real_server_has_no_such_bucket(seaweed_http: S3Server, moto_server: S3Server) -> None:
    for server in (seaweed_http, moto_server):
        store = S3Store(server.location("x", bucket="no-such-bucket"))
        for call in (
            lambda store=store: store.get("k", max_bytes=10),
            lambda store=store: store.put("k", b"x"),
            lambda store=store: list(store.list("")),
        ):
            with pytest.raises(NoRepository, match="no-such-bucket"):
                call()
        store.close()


def test_tls_is_verified(seaweed_tls: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(seaweed_tls.location("x"))
    with pytest.raises(StoreUnavailable, match="cannot be verified") as caught:
        store.get("k", max_bytes=10)
    assert "AWS_CA_BUNDLE" in caught.value.hint
    store.close()
    assert seaweed_tls.ca_bundle is not None
    monkeypatch.setenv("AWS_CA_BUNDLE", seaweed_tls.ca_bundle)
    trusting = S3Store(seaweed_tls.location("x"))
    with pytest.raises(NotFound):
        trusting.get("k", max_bytes=10)
    trusting.close()


def test_a_server_without_tls_is_told_from_one_that_fails(seaweed_http: S3Server) -> None:
    server = replace(seaweed_http, endpoint_url=seaweed_http.endpoint_url.replace("http:", "https:"))
    store = S3Store(server.location("x"))
    with pytest.raises(StoreUnavailable, match="does not answer in TLS") as caught:
        store.get("k", max_bytes=10)
    assert "http://" in caught.value.hint
    store.close()
