"""`comfyeks image`: the tag follows from the inputs, nothing is built twice, CodeBuild and Docker get their part."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.awsrequest import AWSResponse
from botocore.validate import ParamValidator
from typer.testing import CliRunner, Result

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.image import build as image_build
from comfyeks.image.cli import app
from comfyeks.platform import values_files
from comfyeks.terraform import outputs
from tests.support.mocked_aws import mocked_aws

DEPLOYMENT = Deployment(project=None, region="us-west-2", account="123456789012")
REPOSITORY = "comfyui-images"
TARGET = {
    "project": "comfyui-image",
    "source_bucket": DEPLOYMENT.bucket("artifacts"),
    "source_key": "image/source.zip",
    "repository_url": f"123456789012.dkr.ecr.us-west-2.amazonaws.com/{REPOSITORY}",
}


def copy_of_image(tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_build.FOLDER, tmp_path / "image"))


def test_a_build_sees_what_the_dockerfile_copies_and_nothing_else() -> None:
    text = (image_build.FOLDER / "Dockerfile").read_text()
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE):
        for word in [word for word in line.split() if not word.startswith("--")][:-1]:
            copied |= {str(path.relative_to(image_build.FOLDER)) for path in image_build.FOLDER.glob(word)}
    copied |= set(re.findall(r"type=bind,source=([^,\s]+)", text))
    assert set(image_build.context()) == {*copied, "Dockerfile", ".dockerignore"}


def test_the_tag_changes_with_every_input_and_with_nothing_else(tmp_path: Path) -> None:
    folder = copy_of_image(tmp_path)
    first = image_build.tag(folder=folder)
    assert first == image_build.tag()
    assert re.fullmatch(r"0\.38\.1-cu130-[0-9a-f]{12}", first)
    seen = {first, image_build.tag(image_build.CPU, folder)}
    (folder / "notes.txt").write_text("no input")
    (folder / "__pycache__").mkdir()
    assert image_build.tag(folder=folder) == first
    for path in image_build.context(folder).values():
        before = path.read_bytes()
        path.write_bytes(before + b"\n# changed\n")
        seen.add(image_build.tag(folder=folder))
        path.write_bytes(before)
    assert len(seen) == 2 + len(image_build.context(folder))
    assert image_build.tag(folder=folder) == first


def test_the_generated_values_of_the_chart_name_the_tag_or_the_one_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path)
    values = {"helm_values": {"comfyui": {"image": {"repository": "r"}}, "karpenter_gpu": {}, "addons": {}}}
    path = DEPLOYMENT.dir / "comfyui.values.yaml"
    assert values_files.values_files(DEPLOYMENT, values)[path]["image"] == {"repository": "r", "tag": image_build.tag()}
    DEPLOYMENT.dir.mkdir()
    (DEPLOYMENT.dir / "settings.yaml").write_text("image-tag: mine-1\n")
    assert values_files.values_files(DEPLOYMENT, values)[path]["image"] == {"repository": "r", "tag": "mine-1"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[boto3.Session]:
    """AWS in this process with what the infrastructure makes for builds."""
    monkeypatch.setattr(image_build, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(outputs, "platform", lambda deployment: {"image_build": TARGET})
    with mocked_aws(DEPLOYMENT.account, DEPLOYMENT.region):
        session = boto3.Session(region_name=DEPLOYMENT.region)
        s3 = session.client("s3")
        s3.create_bucket(Bucket=TARGET["source_bucket"], CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        s3.put_bucket_versioning(Bucket=TARGET["source_bucket"], VersioningConfiguration={"Status": "Enabled"})
        session.client("ecr").create_repository(repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
        yield session


class CodeBuild:
    """Plays the service behind botocore's own client, which checks each request; what it answers is checked as well.

    A build takes three looks, writes a log, and pushes when it succeeds.
    """

    GROUP = "/aws/codebuild/comfyui-image"

    def __init__(self, session: boto3.Session, status: str = "SUCCEEDED", push: bool = True) -> None:
        self.session, self.status, self.push = session, status, push
        self.started: list[dict[str, Any]] = []
        self.looks = 0
        self.logs = session.client("logs")
        self.logs.create_log_group(logGroupName=self.GROUP)

    def client(self, **options: Any) -> Any:
        client = self.session.client("codebuild", **options)
        client.meta.events.register("before-call.codebuild", self._answer)
        return client

    def _answer(self, model: Any, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        answer: dict[str, Any] = getattr(self, xform_name(model.name))(**json.loads(params["body"]))
        problems = ParamValidator().validate(answer, model.output_shape).generate_report().splitlines()
        # The service sends empty lists where its model says that there are none.
        assert [line for line in problems if not line.startswith("Invalid length")] == []
        return AWSResponse("https://codebuild.us-west-2.amazonaws.com", 200, {}, None), answer

    def list_builds_for_project(self, **_: Any) -> dict[str, Any]:
        return {"ids": ["comfyui-image:1"] if self.started else []}

    def start_build(self, **request: Any) -> dict[str, Any]:
        self.started.append(request)
        return {"build": {"id": "comfyui-image:1", "buildStatus": "IN_PROGRESS"}}

    def batch_get_builds(self, ids: list[str]) -> dict[str, Any]:
        variables = self.started[-1]["environmentVariablesOverride"]
        self.looks += 1
        found: dict[str, Any] = {
            "id": ids[0], "buildStatus": "IN_PROGRESS",
            "environment": {
                "type": "LINUX_CONTAINER", "image": "x", "computeType": "BUILD_GENERAL1_LARGE",
                "environmentVariables": [{**one, "type": "PLAINTEXT"} for one in variables],
            },
            "logs": {"groupName": self.GROUP},
            "phases": [{"phaseType": "SUBMITTED", "phaseStatus": "SUCCEEDED"}, {"phaseType": "QUEUED"}],
        }  # fmt: skip
        if self.looks == 1:
            return {"builds": [found], "buildsNotFound": []}  # queued: it has no stream yet
        found["logs"]["streamName"] = "one"
        if self.looks == 2:
            self.logs.create_log_stream(logGroupName=self.GROUP, logStreamName="one")
        self.logs.put_log_events(
            logGroupName=self.GROUP, logStreamName="one",
            logEvents=[{"timestamp": int(time.time() * 1000), "message": f"line {self.looks} [red]\n"}],
        )  # fmt: skip
        if self.looks >= 4:
            found["buildStatus"] = self.status
            failed = {"phaseType": "BUILD", "phaseStatus": "FAILED", "contexts": [{"message": "exit status 1"}]}
            found["phases"] = [*found["phases"], failed] if self.status == "FAILED" else found["phases"]
            if self.status == "SUCCEEDED" and self.push:
                names = {one["name"]: one["value"] for one in variables}
                push_image(self.session, names["IMAGE_TAG"])
        return {"builds": [found], "buildsNotFound": []}


def push_image(session: boto3.Session, tag: str) -> None:
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"digest": f"sha256:{tag.encode().hex()}"},
        "layers": [],
    }
    session.client("ecr").put_image(
        repositoryName=REPOSITORY, imageManifest=json.dumps(manifest), imageManifestMediaType=kind, imageTag=tag
    )


@pytest.fixture
def codebuild(aws: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> CodeBuild:
    service = CodeBuild(aws)
    real = boto3.client
    monkeypatch.setattr(
        boto3,
        "client",
        lambda name, **options: service.client(**options) if name == "codebuild" else real(name, **options),
    )
    return service


def run(*arguments: str, command: str = "build") -> Result:
    return CliRunner().invoke(app, [command, *arguments])


def test_codebuild_gets_the_context_and_the_tag_and_its_log_is_followed(
    aws: boto3.Session, codebuild: CodeBuild
) -> None:
    result = run()
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{image_build.tag()}\n"
    [request] = codebuild.started
    variables = {one["name"]: one["value"] for one in request["environmentVariablesOverride"]}
    assert variables["IMAGE_TAG"] == image_build.tag()
    assert variables["TORCH_BACKEND"] == "cu130"
    assert re.match(r"[0-9a-f]{40}|unknown", variables["REVISION"])
    stored = aws.client("s3").get_object(
        Bucket=TARGET["source_bucket"], Key=TARGET["source_key"], VersionId=request["sourceVersion"]
    )
    with zipfile.ZipFile(io.BytesIO(stored["Body"].read())) as archive:
        assert set(archive.namelist()) == set(image_build.context())
        assert archive.read("Dockerfile") == (image_build.FOLDER / "Dockerfile").read_bytes()
    assert [line for line in result.stderr.splitlines() if line.startswith("line ")] == [
        f"line {number} [red]" for number in (2, 3, 4)
    ]


def test_an_image_in_the_registry_is_not_built_again(aws: boto3.Session, codebuild: CodeBuild) -> None:
    push_image(aws, image_build.tag())
    assert run().stdout == f"{image_build.tag()}\n"
    assert codebuild.started == []
    run("--cpu")
    assert len(codebuild.started) == 1


def test_a_build_of_this_tag_that_runs_already_is_followed(aws: boto3.Session, codebuild: CodeBuild) -> None:
    codebuild.start_build(environmentVariablesOverride=[{"name": "IMAGE_TAG", "value": image_build.tag()}])
    assert run().exit_code == 0
    assert len(codebuild.started) == 1


def test_ctrl_c_leaves_the_build_running_and_the_same_command_follows_it(
    codebuild: CodeBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(image_build.time, "sleep", interrupted)
        first = run()
    assert first.exit_code == 130
    assert "interrupted; the build continues in CodeBuild" in first.stderr
    assert "Run the same command again to follow it" in first.stderr
    assert run().exit_code == 0
    assert len(codebuild.started) == 1


@pytest.mark.parametrize(
    ("status", "push", "message"),
    [
        ("FAILED", True, "the build ended as FAILED in BUILD: exit status 1"),
        ("STOPPED", True, "the build ended as STOPPED"),
        ("SUCCEEDED", False, "the build succeeded, but comfyui-images does not have the tag 0.38.1"),
    ],
)
def test_a_build_that_fails_or_pushes_nothing_is_a_failure(
    codebuild: CodeBuild, status: str, push: bool, message: str
) -> None:
    codebuild.status, codebuild.push = status, push
    error = run().exception
    assert isinstance(error, OperationError)
    assert str(error).startswith(message)


def test_without_a_repository_the_infrastructure_is_named(aws: boto3.Session) -> None:
    aws.client("ecr").delete_repository(repositoryName=REPOSITORY, force=True)
    error = run().exception
    assert isinstance(error, UserError)
    assert "run `comfyeks infra apply` first" in str(error)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its log: a line per call. Not a Docker: it says what it was asked, and fails where `fail` says."""
    log = tmp_path / "docker.log"
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\n[ "$1" != login ] || cat > {log}.password\n'
        f'case "$*" in "buildx inspect"*) exit 1 ;; *"$(cat {log}.fail 2>/dev/null || echo nothing)"*) exit 3 ;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return log


def test_docker_here_logs_in_builds_for_amd64_with_bill_of_materials_and_pushes(
    aws: boto3.Session, docker: Path
) -> None:
    result = run("--local", "--cpu")
    assert result.exit_code == 0, result.exception
    login, _, create, build = docker.read_text().splitlines()
    assert login.startswith("login --username AWS --password-stdin 123456789012.dkr.ecr.us-west-2.amazonaws.com")
    assert docker.with_suffix(".log.password").read_text() not in ("", login)
    assert "--driver docker-container" in create
    tag = image_build.tag(image_build.CPU)
    assert f"--push --tag {TARGET['repository_url']}:{tag} --sbom=true --provenance=mode=max" in build
    for arguments in ("--platform linux/amd64", "--build-arg TORCH_BACKEND=cpu", str(image_build.FOLDER)):
        assert arguments in build


def test_a_docker_that_fails_or_is_missing_is_reported(
    aws: boto3.Session, docker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.with_suffix(".log.fail").write_text("--push")
    assert str(run("--local").exception) == "docker buildx ended with exit code 3"
    monkeypatch.setenv("PATH", "/usr/bin/nothing")
    error = run("--local").exception
    assert isinstance(error, UserError)
    assert "docker is not on PATH" in str(error)


def test_the_tag_alone_needs_no_aws() -> None:
    assert run(command="tag").stdout == f"{image_build.tag()}\n"
