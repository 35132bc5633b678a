"""The node program's S3 client: signatures as botocore makes them, keys of the instance's role, what is tried again."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.s3_stub import Fault, S3Stub
from tests.support.model_keys import MODEL_KEYS

NOW = 1_795_000_000.0
KEYS = [case.key for case in MODEL_KEYS if case.key]
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def bucket(sync: ModuleType, name: str = "models", region: str = "us-west-2") -> Any:
    return sync.Bucket(sync.Settings(name, region))


@pytest.fixture
def endpoint(s3: S3Stub, monkeypatch: pytest.MonkeyPatch) -> S3Stub:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


def authorization(url: str, headers: dict[str, str], token: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What botocore says for the same request at the same time."""
    import datetime as real

    class Frozen(real.datetime):
        @classmethod
        def utcnow(cls) -> Frozen:
            return cls.fromtimestamp(NOW, real.UTC).replace(tzinfo=None)

    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: Frozen.utcnow())
    request = AWSRequest("GET", url, headers=headers)
    request.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials("AKID", SECRET, token), "s3", "eu-central-1").add_auth(request)
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("token", [None, "session+token/=="])
@pytest.mark.parametrize("key", [*KEYS, "loras/a b+c&d=e?f#g%h.safetensors", "字/文.bin", "it's/~(ok)*!"])
def test_a_signature_is_the_one_that_botocore_makes(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch, key: str, token: str | None
) -> None:
    path = "/" + sync.urllib.parse.quote(key, safe="/-_.~")
    headers = {"host": "models.s3.eu-central-1.amazonaws.com", "if-match": '"e"', "range": "bytes=5-9"}
    credentials = sync.Credentials("AKID", SECRET, token or "", float("inf"))
    ours = sync.signed(path, "", headers, "eu-central-1", credentials, NOW)
    url = f"https://{headers.pop('host')}{path}"
    assert ours["authorization"] == authorization(url, headers, token, monkeypatch)
    assert ours.get("x-amz-security-token") == token


def test_a_query_is_signed_as_botocore_does(sync: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "continuation-token=1%2FQ%2B%3D%3D&encoding-type=url&list-type=2"
    credentials = sync.Credentials("AKID", SECRET, "", float("inf"))
    ours = sync.signed("/", query, {"host": "h"}, "eu-central-1", credentials, NOW)
    assert ours["authorization"] == authorization(f"https://h/?{query}", {}, None, monkeypatch)


@pytest.mark.parametrize("region", ["us-west-2", "eu-central-2", "cn-north-1", "us-gov-west-1"])
def test_hosts_are_those_of_the_sdk(sync: ModuleType, monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    known = urlsplit(boto3.client("s3", region_name=region).meta.endpoint_url).netloc
    assert sync.s3_host(region) == known
    assert bucket(sync, "comfyui-models", region)._host == f"comfyui-models.{known}"
    dotted = bucket(sync, "my.models", region)
    assert (dotted._host, dotted._prefix) == (known, "/my.models"), "no certificate covers another dot"


# --- keys of the instance's role


@contextmanager
def metadata_service(answers: Iterator[dict[str, str] | None]) -> Iterator[str]:
    """IMDSv2: nothing without a token; each reading of the role's keys takes the next of `answers`, None is a 500."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_PUT(self) -> None:
            asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200 if asked else 403, "the token")

        def do_GET(self) -> None:
            if self.headers["X-aws-ec2-metadata-token"] != "the token":
                return self.answer(401, "")
            if self.path == "/latest/meta-data/iam/security-credentials/":
                return self.answer(200, "node-role\n")
            found = next(answers) if self.path.endswith("/node-role") else None
            return self.answer(200 if found else 500, json.dumps(found))

        def answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def keys(name: str, lasting: float) -> dict[str, str]:
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + lasting))
    return {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": expires}


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_roles_keys_are_asked_for_once_and_renewed_before_they_expire(
    sync: ModuleType, no_keys: pytest.MonkeyPatch
) -> None:
    answers = iter([keys("first", 3_600), keys("second", 3_600)])
    with metadata_service(answers) as url:
        no_keys.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        source = sync.CredentialSource()
        assert [source.get().access_key for _ in range(3)] == ["first"] * 3
        begun = time.time()
        no_keys.setattr(sync.time, "time", lambda: begun + 3_600 - 599)
        assert [source.get().access_key for _ in range(3)] == ["second"] * 3


def test_keys_that_cannot_be_renewed_serve_until_they_expire(sync: ModuleType, no_keys: pytest.MonkeyPatch) -> None:
    with metadata_service(iter([keys("only", 300), None, None])) as url:
        no_keys.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        source = sync.CredentialSource()
        begun = time.time()
        assert source.get().access_key == "only"
        no_keys.setattr(sync.time, "time", lambda: begun + 100)
        assert [source.get().access_key for _ in range(3)] == ["only"] * 3, "asked again once, not for every request"
        no_keys.setattr(sync.time, "time", lambda: begun + 301)
        with pytest.raises(sync.S3Error, match="no credentials from the instance's metadata"):
            source.get()


# --- requests


def test_what_passes_is_tried_again_and_what_does_not_is_said(
    sync: ModuleType, endpoint: S3Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "REQUEST_RETRY_AFTER", (0.01, 0.01, 0.01))
    endpoint.put("loras/a", b"0123456789")
    faults = iter([Fault(status=503), Fault(truncate_to=4), Fault(status=500)])
    endpoint.fault = lambda verb, key: next(faults, None)
    got = bytearray(10)

    def write(data: memoryview, position: int) -> None:
        got[position : position + len(data)] = data

    etag = endpoint.objects["loras/a"].etag.strip('"')
    with closing(bucket(sync)) as client:
        client.read_part(sync.Part(0, "loras/a", etag, 10, 0, 10), write, memoryview(bytearray(3)))
        assert bytes(got) == b"0123456789"
        got[:] = bytes(10)
        client.read_part(sync.Part(0, "loras/a", etag, 10, 4, 3), write, memoryview(bytearray(64)))
        assert bytes(got) == bytes(4) + b"456" + bytes(3)
        endpoint.calls.clear()
        with pytest.raises(sync.S3Error, match="it was replaced in the meantime"):
            client.read_part(sync.Part(0, "loras/a", "other", 10, 0, 10), write, memoryview(bytearray(64)))
        with pytest.raises(sync.S3Error, match="NoSuchKey"):
            client.read_part(sync.Part(0, "loras/b", "other", 10, 0, 10), write, memoryview(bytearray(64)))
        assert endpoint.calls == {"get": 2}


def test_a_full_disk_is_not_tried_again(sync: ModuleType, endpoint: S3Stub) -> None:
    endpoint.put("loras/a", b"0123456789")

    def full(data: memoryview, position: int) -> None:
        raise OSError(sync.errno.ENOSPC, "No space left on device")

    part = sync.Part(0, "loras/a", "", 10, 0, 10)
    with closing(bucket(sync)) as client, pytest.raises(OSError, match="No space left"):
        client.read_part(part, full, memoryview(bytearray(64)))
    assert endpoint.calls == {"get": 1}


def test_a_listing_that_is_refused_is_an_error_of_one_line(sync: ModuleType, endpoint: S3Stub) -> None:
    endpoint.fault = lambda verb, key: Fault(status=403)
    with pytest.raises(sync.SyncError, match=r"^listing s3://models failed: AccessDenied: "):
        sync.list_bucket(sync.Settings("models", "us-west-2"))


def test_an_answer_that_is_no_listing_is_an_error_of_one_line(
    sync: ModuleType, endpoint: S3Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ("<html>proxy</body>", "<L><Contents><Key>a/b</Key></Contents></L>"):
        monkeypatch.setattr("tests.node.s3_stub._Handler._listing", lambda self, query, answer=answer: answer)
        with pytest.raises(sync.SyncError, match=r"^listing s3://models returned no list of objects: "):
            sync.list_bucket(sync.Settings("models", "us-west-2"))


@given(st.integers(0, 1 << 40), st.sampled_from([1 << 20, 32 << 20, 1 << 30]))
@settings(max_examples=100)
def test_parts_cover_an_object_once(sync: ModuleType, size: int, part: int) -> None:
    sync.PART, before = max(part, size // 50), sync.PART
    try:
        parts = list(sync.parts_of(7, sync.RemoteObject("l/a", "e", size, 0)))
    finally:
        sync.PART = before
    assert [p.offset for p in parts] == [sum(q.length for q in parts[:number]) for number in range(len(parts))]
    assert sum(p.length for p in parts) == size
    assert parts


def test_a_disk_that_takes_only_a_part_of_a_write_gets_the_rest(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = random.Random(3).randbytes(1_000)
    real = sync.os.pwrite
    monkeypatch.setattr(sync.os, "pwrite", lambda file, data, position: real(file, data[:7], position))
    with sync.opened(tmp_path / "0") as file:
        sync.write_all(file, memoryview(body[100:]), 100)
        sync.write_all(file, memoryview(body[:100]), 0)
    assert (tmp_path / "0").read_bytes() == body
