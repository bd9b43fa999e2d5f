"""A SeaweedFS server on loopback, with buckets, and counts of what came and went."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3.session
from botocore.config import Config

ACCESS_KEY = "BENCHMARKACCESSKEY12"
SECRET_KEY = "benchmarksecretkey1234567890abcdefghijk"
REGION = "us-east-1"
START_SECONDS = 60
_LINE = re.compile(r'SeaweedFS_s3_(\w+)\{bucket="([^"]*)"(?:,code="(\d+)",type="(\w+)")?\} (\S+)')


@dataclass(frozen=True)
class Traffic:
    """What a server has seen of one bucket: requests by kind, bodies in bytes."""

    requests: dict[str, int] = field(default_factory=dict)
    uploaded: int = 0
    downloaded: int = 0

    def since(self, before: Traffic) -> Traffic:
        """What came after ``before``."""
        return Traffic(
            dict(Counter(self.requests) - Counter(before.requests)),
            self.uploaded - before.uploaded,
            self.downloaded - before.downloaded,
        )


class Server:
    """A running server. Its counts are its own, not what any client says of itself."""

    def __init__(self, port: int, metrics_port: int) -> None:
        self.port = port
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)
        self.client: Any = session.client(
            "s3", endpoint_url=self.endpoint(port), config=Config(s3={"addressing_style": "path"})
        )

    @staticmethod
    def endpoint(port: int) -> str:
        """The URL of the server, or of a proxy before it."""
        return f"http://127.0.0.1:{port}"

    def new_bucket(self, name: str) -> None:
        """An empty bucket, whatever was there."""
        self.drop(name)
        self.client.create_bucket(Bucket=name)

    def drop(self, name: str) -> None:
        """Take a bucket away with all in it; that there is none is fine."""
        if name in [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]:
            self.client.delete_bucket(Bucket=name)

    def sizes(self, bucket: str, prefix: str) -> dict[str, int]:
        """Size of each object below the prefix, by the rest of its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {
            item["Key"].removeprefix(prefix): item["Size"]
            for page in pages
            for item in page.get("Contents", ())
        }

    def fetch(self, bucket: str, key: str, path: Path) -> None:
        """The whole object, into a file."""
        body = self.client.get_object(Bucket=bucket, Key=key)["Body"]
        with path.open("wb") as file:
            shutil.copyfileobj(body, file, 1 << 20)

    def traffic(self, bucket: str) -> Traffic:
        """All that the server has seen of the bucket since it was started."""
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        moved: Counter[str] = Counter()
        for name, of, _, kind, value in _LINE.findall(text):
            if of != bucket:
                continue
            if name == "request_total":
                found[kind] += int(float(value))
            else:
                moved[name] += int(float(value))
        return Traffic(
            dict(found),
            moved["bucket_traffic_received_bytes_total"],
            moved["bucket_traffic_sent_bytes_total"],
        )


@contextmanager
def running(weed: Path, folder: Path) -> Iterator[Server]:
    """Start SeaweedFS with its data below the folder; it is gone afterwards."""
    (folder / "data").mkdir(parents=True)
    config = folder / "s3.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"name": "benchmark", "credentials": credentials, "actions": actions}
    config.write_text(json.dumps({"identities": [identity]}), "utf-8")
    port = free_ports(6)
    names = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port", "metricsPort")
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        "s3.autoCreateBucket": "false",
        "s3.config": config,
        **{name: port + number for number, name in enumerate(names)},
    }
    command = [str(weed), "mini", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/healthz", folder / "log")
        yield Server(port, port + names.index("metricsPort"))
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"SeaweedFS did not start:\n{log.read_text(errors='replace')[-3000:]}")


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row whose partners 10,000 above (gRPC) are free as well."""
    while True:
        base = random.randrange(12_000, 22_000)
        with ExitStack() as stack:
            try:
                for port in (p + up for p in range(base, base + count) for up in (0, 10_000)):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
