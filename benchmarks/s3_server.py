"""versitygw, a fast S3 server in Go, on loopback: built on demand from tools/s3server."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3

from comfyeks.paths import REPO_ROOT, TOOLS

REGION = "us-west-2"


def versitygw() -> Path:
    """The server's binary, of the version that tools/s3server pins."""
    module = REPO_ROOT / "tools/s3server"
    binary = TOOLS / "bin/versitygw"
    if not binary.exists() or binary.stat().st_mtime < (module / "go.mod").stat().st_mtime:
        print("building versitygw (once, about a minute) ...", file=sys.stderr)
        argv = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(binary)]
        package = "github.com/versity/versitygw/cmd/versitygw"
        subprocess.run([*argv, package], cwd=module, check=True, env={**os.environ, "CGO_ENABLED": "0"})
    return binary


@contextmanager
def serving(
    home: Path, buckets: Path, *flags: str, posix: tuple[str, ...] = (), port: int | None = None
) -> Iterator[dict[str, str]]:
    """A server whose buckets are the folders of `buckets`; yields the environment for its clients.

    `flags` go to versitygw itself, `posix` to its back end; `home` takes its accounts and its log. It listens on
    `port`, or on a free one.
    """
    (home / "accounts").mkdir(parents=True)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port or 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    keys = ["--access", "benchmark", "--secret", "benchmark-secret", "--region", REGION]
    argv = [str(versitygw()), *keys, "--port", address, *flags, "--quiet", "--iam-dir", str(home / "accounts")]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen([*argv, "posix", *posix, str(buckets)], stdout=log, stderr=log)
    try:
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None:
                raise SystemExit(f"versitygw ended: {(home / 'server.log').read_text()}")
            time.sleep(0.05)
        yield {
            "AWS_ENDPOINT_URL_S3": f"http://{address}",
            "S3_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark-secret",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        process.terminate()
        process.wait()


def client(environment: dict[str, str]) -> Any:
    """A client of the server with this environment, which `serving` yielded."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


def hashes(s3: Any, bucket: str, prefix: str = "") -> dict[str, str]:
    """SHA-256 of every object, by key."""
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            digest = hashlib.sha256()
            for chunk in s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].iter_chunks(2**20):
                digest.update(chunk)
            found[item["Key"]] = digest.hexdigest()
    return found
