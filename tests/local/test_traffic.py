"""Naming and counting AWS calls, and making them fail."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import boto3
import pytest
import requests
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ClientError

from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.emulators.ministack_server import Application
from comfyeks_local.emulators.traffic import Request, Traffic, call_of, from_web_page


class _SeenError(Exception):
    """Carries the request that would have been sent."""


def request_of(service: str, operation: str, **parameters: object) -> Request:
    """What a real SDK sends for an operation."""
    client = boto3.client(
        service,
        region_name="us-west-2",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    seen: list[AWSPreparedRequest] = []

    def intercept(request: AWSPreparedRequest, **_: object) -> None:
        seen.append(request)
        raise _SeenError

    client.meta.events.register("before-send", intercept)
    with pytest.raises(_SeenError):
        getattr(client, operation)(**parameters)
    [sent] = seen
    path, _, query = sent.url.removeprefix("http://127.0.0.1:1").partition("?")
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in sent.headers.items()
    }
    body = sent.body or b""
    form = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else b""
    request = Request(sent.method, path or "/", query, headers)
    return Request(sent.method, path or "/", query, headers, form) if request.is_form else request


NODEGROUP = {"clusterName": "c", "nodegroupName": "n", "subnets": ["s"], "nodeRole": "r"}
COPY = {"Bucket": "b", "Key": "k", "CopySource": "b/other"}
PART = {"Bucket": "b", "Key": "k", "PartNumber": 1, "UploadId": "u", "Body": b"x"}


@pytest.mark.parametrize(
    ("service", "operation", "parameters", "name"),
    [
        ("ssm", "send_command", {"DocumentName": "d"}, "ssm.SendCommand"),
        ("sqs", "receive_message", {"QueueUrl": "http://127.0.0.1:1/1/q"}, "sqs.ReceiveMessage"),
        ("ec2", "describe_vpcs", {}, "ec2.DescribeVpcs"),
        ("sts", "get_caller_identity", {}, "sts.GetCallerIdentity"),
        ("iam", "create_role", {"RoleName": "r", "AssumeRolePolicyDocument": "{}"}, "iam.CreateRole"),
        ("s3", "list_buckets", {}, "s3.ListBuckets"),
        ("s3", "list_objects_v2", {"Bucket": "b"}, "s3.ListObjectsV2"),
        ("s3", "get_object", {"Bucket": "b", "Key": "checkpoints/中 文+[1].safetensors"}, "s3.GetObject"),
        ("s3", "put_object", {"Bucket": "b", "Key": "folder/", "Body": b""}, "s3.PutObject"),
        ("s3", "copy_object", COPY, "s3.CopyObject"),
        ("s3", "upload_part", PART, "s3.UploadPart"),
        ("s3", "create_multipart_upload", {"Bucket": "b", "Key": "k"}, "s3.CreateMultipartUpload"),
        ("s3", "get_bucket_notification_configuration", {"Bucket": "b"}, "s3.GetBucketNotificationConfiguration"),
        ("s3", "delete_object", {"Bucket": "b", "Key": "k"}, "s3.DeleteObject"),
        ("eks", "describe_cluster", {"name": "c"}, "eks.DescribeCluster"),
        ("eks", "create_nodegroup", NODEGROUP, "eks.CreateNodegroup"),
        ("lambda", "invoke", {"FunctionName": "f"}, "lambda.Invoke"),
        ("lambda", "list_event_source_mappings", {}, "lambda.ListEventSourceMappings"),
    ],
)
def test_a_request_of_the_sdk_gets_its_name(
    service: str, operation: str, parameters: dict[str, object], name: str
) -> None:
    assert str(call_of(request_of(service, operation, **parameters))) == name


def test_a_presigned_request_gets_its_name() -> None:
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=test%2F20260101%2Fus-west-2%2Fs3%2Faws4_request"
    assert str(call_of(Request("GET", "/bucket/key", query, {}))) == "s3.GetObject"


def test_an_unsigned_request_is_not_an_aws_call() -> None:
    assert call_of(Request("GET", "/bucket/key", "", {})) is None


def test_calls_are_counted() -> None:
    traffic = Traffic()
    for _ in range(3):
        traffic.intercept(request_of("ssm", "send_command", DocumentName="d"))
    assert traffic.control("GET", "/_local/calls", b"") == (200, {"ssm.SendCommand": 3})


def again(request: Request, attempt: str = "attempt=2; max=3") -> Request:
    return replace(request, headers={**request.headers, "amz-sdk-request": attempt})


ANSWER = (200, {"content-type": "text/xml"}, b"<answer/>")


@pytest.mark.parametrize("attempt", ["attempt=2; max=3", "ttl=20261121T120000Z; attempt=12; max=25"])
def test_a_repeated_request_gets_the_first_answer(attempt: str, capsys: pytest.CaptureFixture[str]) -> None:
    traffic, request = Traffic(), request_of("ec2", "create_vpc")
    assert traffic.intercept(request) is None
    traffic.remember(request, ANSWER)
    assert traffic.intercept(again(request, attempt)) == ANSWER
    assert traffic.intercept(again(request_of("ec2", "create_vpc"), attempt)) is None
    lines = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    number = "12" if "12" in attempt else "2"
    assert lines == [f"attempt {number}, answered as before", f"attempt {number}"]
    assert traffic.control("GET", "/_local/calls", b"") == (200, {"ec2.CreateVpc": 2})


def test_the_first_request_of_a_call_is_always_executed() -> None:
    traffic, request = Traffic(), request_of("ec2", "create_vpc")
    traffic.remember(request, ANSWER)
    assert traffic.intercept(request) is None


@pytest.mark.parametrize("status", [400, 503])
def test_a_failed_call_is_executed_again(status: int) -> None:
    traffic, request = Traffic(), request_of("ec2", "create_vpc")
    traffic.remember(request, (status, {}, b"<error/>"))
    assert traffic.intercept(again(request)) is None


def test_only_the_last_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyeks_local.emulators.traffic._ANSWERS_KEPT", 2)
    traffic, calls = Traffic(), [request_of("ec2", "create_vpc") for _ in range(3)]
    for call in calls:
        traffic.remember(call, ANSWER)
    assert [traffic.intercept(again(call)) for call in calls] == [None, ANSWER, ANSWER]


@pytest.mark.local
@pytest.mark.parametrize(
    ("service", "create", "parameters", "list_all", "kind"),
    [
        ("ec2", "create_vpc", {"CidrBlock": "10.7.0.0/16"}, "describe_vpcs", "Vpcs"),
        ("kms", "create_key", {}, "list_keys", "Keys"),
    ],
    ids=["moto", "ministack"],
)
def test_a_call_that_is_sent_twice_is_executed_once(
    local_aws: LocalAws, service: str, create: str, parameters: dict[str, str], list_all: str, kind: str
) -> None:
    client, sent = local_aws.client(service), []
    client.meta.events.register("before-send", lambda request, **_: sent.append(request))
    getattr(client, create)(**parameters)
    there = getattr(client, list_all)()
    [request] = sent[:1]
    headers = {**request.headers, "amz-sdk-request": "attempt=2; max=3"}
    first, second = (requests.post(request.url, request.body, headers=headers, timeout=10) for _ in range(2))
    assert first.status_code == 200
    assert first.content == second.content
    assert getattr(client, list_all)()[kind] == there[kind]


def test_a_fault_happens_as_often_as_requested_and_only_to_its_operation() -> None:
    traffic = Traffic()
    fault = {"service": "ssm", "operation": "SendCommand", "error": "ThrottlingException", "times": 2}
    traffic.control("POST", "/_local/faults", json.dumps([fault]).encode())
    send = request_of("ssm", "send_command", DocumentName="d")
    assert traffic.intercept(request_of("ssm", "list_commands")) is None
    answers = [traffic.intercept(send) for _ in range(3)]
    assert [answer and answer[0] for answer in answers] == [400, 400, None]


def test_faults_can_be_removed() -> None:
    traffic = Traffic()
    fault = {"service": "s3", "operation": "*", "error": "SlowDown", "status": 503, "times": 9}
    traffic.control("POST", "/_local/faults", json.dumps([fault]).encode())
    assert traffic.intercept(request_of("s3", "list_buckets")) is not None
    traffic.control("DELETE", "/_local/faults", b"")
    assert traffic.intercept(request_of("s3", "list_buckets")) is None


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'[{"service": "ssm"}]', b"no json"])
def test_malformed_faults_are_refused(body: bytes) -> None:
    answer = Traffic().control("POST", "/_local/faults", body)
    assert answer is not None
    assert answer[0] == 400


@pytest.mark.local
@pytest.mark.parametrize(
    ("service", "operation", "parameters", "name"),
    [
        ("ssm", "send_command", {"DocumentName": "doc"}, "SendCommand"),
        ("ec2", "describe_vpcs", {}, "DescribeVpcs"),
        ("iam", "list_roles", {}, "ListRoles"),
        ("sts", "get_caller_identity", {}, "GetCallerIdentity"),
        ("s3", "list_objects_v2", {"Bucket": "b"}, "ListObjectsV2"),
        ("eks", "list_clusters", {}, "ListClusters"),
    ],
)
def test_the_sdk_sees_an_injected_fault_as_the_services_own_error(
    local_aws, service: str, operation: str, parameters: dict[str, str], name: str
) -> None:
    client = local_aws.client(service)
    signed_for = client.meta.service_model.signing_name
    local_aws.inject({"service": signed_for, "operation": name, "error": "Invented", "message": "on purpose"})
    before = local_aws.calls().get(f"{signed_for}.{name}", 0)
    try:
        with pytest.raises(ClientError) as error:
            getattr(client, operation)(**parameters)
    finally:
        local_aws.clear_faults()
    assert error.value.response["Error"]["Code"] == "Invented"
    assert error.value.response["Error"]["Message"] == "on purpose"
    assert local_aws.calls()[f"{signed_for}.{name}"] == before + 1


HERE = "127.0.0.1:4566"
OF_PAGES = [
    {"Origin": "https://page.example"},
    {"Origin": "null"},
    {"Origin": "http://{here}"},
    {"Host": "rebound.example:{port}"},
    {"Host": "localhost:{port}"},
    {"Host": "127.0.0.1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-origin"},
]


def filled_in(headers: dict[str, str], here: str) -> dict[str, str]:
    return {name: value.format(here=here, port=here.partition(":")[2]) for name, value in headers.items()}


@pytest.mark.parametrize("headers", OF_PAGES, ids=str)
def test_a_request_of_a_browser_for_a_page_is_recognised(headers: dict[str, str]) -> None:
    lower_case = {name.lower(): value for name, value in filled_in(headers, HERE).items()}
    assert from_web_page(HERE, {"host": HERE, **lower_case})


def test_requests_of_programs_and_typed_addresses_are_not_taken_for_those_of_a_page() -> None:
    assert not from_web_page(HERE, {"host": HERE, "user-agent": "Boto3"})
    assert not from_web_page(HERE, {"host": HERE, "sec-fetch-site": "none"})


def test_a_request_without_a_host_is_refused() -> None:
    assert from_web_page(HERE, {})


@pytest.mark.local
@pytest.mark.parametrize("headers", OF_PAGES, ids=str)
@pytest.mark.parametrize("service", ["s3", "ssm"], ids=["ministack", "moto"])
@pytest.mark.parametrize("path", ["/", "/_local/health", "/?Action=DescribeVpcs&Version=2016-11-15"])
def test_no_web_page_can_call_an_emulator(local_aws, service: str, path: str, headers: dict[str, str]) -> None:
    endpoint = local_aws.endpoint(service)
    sent = filled_in(headers, endpoint.removeprefix("http://"))
    for method in ("GET", "POST", "OPTIONS"):
        answer = requests.request(method, endpoint + path, headers=sent, timeout=10)
        assert (answer.status_code, answer.content) == (403, b"")
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_no_web_page_can_open_a_websocket_to_ministack() -> None:
    reached: list[str] = []
    sent: list[dict[str, object]] = []

    async def ministack(scope, receive, send) -> None:
        reached.append(scope["type"])

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    application = Application(ministack, HERE, [])
    host = (b"host", HERE.encode())
    scope = {"type": "websocket", "headers": [host, (b"origin", b"https://page.example")]}
    asyncio.run(application(scope, None, send))  # type: ignore[arg-type]
    assert (reached, sent) == ([], [{"type": "websocket.close"}])
    asyncio.run(application({"type": "websocket", "headers": [host]}, None, send))  # type: ignore[arg-type]
    assert reached == ["websocket"]
