"""Builds the image of image/ with CodeBuild or the local Docker, and computes its tag.

The tag is a hash of everything that goes into the image: the same files have the same tag in every checkout, a tag
never names two images, and nothing is built twice. The chart's generated values use it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.console import err, note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform import outputs

FOLDER = REPO_ROOT / "image"
CUDA, CPU = "cu130", "cpu"  # values of the Dockerfile's TORCH_BACKEND
_DIGITS = 12
_BUILDER = "comfyeks"  # Docker's default builder does not write an SBOM
_POLL_SECONDS = 5.0


def context(folder: Path = FOLDER) -> dict[str, Path]:
    """The files of the build context, by their path in it: the Dockerfile, and what .dockerignore includes."""
    lines = (folder / ".dockerignore").read_text().splitlines()
    patterns = [line[1:] for line in lines if line.startswith("!")]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    files = [folder / "Dockerfile", folder / ".dockerignore", *found]
    return {str(path.relative_to(folder)): path for path in sorted(files)}


def tag(backend: str = CUDA, folder: Path = FOLDER) -> str:
    """`<ComfyUI's release>-<backend>-<hash of everything that goes in>`."""
    digest = hashlib.sha256(backend.encode())
    for name, path in context(folder).items():
        content = path.read_bytes()
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    release = re.search(r"^ARG COMFYUI_VERSION=(\S+)$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    assert release is not None
    return f"{release[1]}-{backend}-{digest.hexdigest()[:_DIGITS]}"


def exists(deployment: Deployment, image_tag: str) -> bool:
    """Whether the deployment's image repository has the tag.

    Raises UserError when there is no repository, OperationError when ECR fails.
    """
    repository = deployment.image_repository
    ecr = boto3.client("ecr", region_name=deployment.region)
    try:
        found = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": image_tag}])
    except ecr.exceptions.ImageNotFoundException:
        return False
    except ecr.exceptions.RepositoryNotFoundException:
        raise UserError(f"there is no image repository {repository}: run `comfyeks infra apply` first") from None
    except (ClientError, BotoCoreError) as error:
        raise OperationError(f"cannot check whether ECR has {repository}:{image_tag}: {error}") from error
    return bool(found["imageDetails"])


def build(deployment: Deployment, image_tag: str, backend: str = CUDA) -> None:
    """Build and push the image with CodeBuild and print its log; a running build of this tag is joined."""
    target = outputs.platform(deployment)["image_build"]
    project = target["project"]
    codebuild = boto3.client("codebuild", region_name=deployment.region)
    try:
        build_id = _running(codebuild, project, image_tag)
        if build_id is None:
            s3 = boto3.client("s3", region_name=deployment.region)
            stored = s3.put_object(Bucket=target["source_bucket"], Key=target["source_key"], Body=source_zip())
            variables = {"IMAGE_TAG": image_tag, "TORCH_BACKEND": backend, **_provenance()}
            started = codebuild.start_build(
                projectName=project,
                sourceVersion=stored["VersionId"],
                environmentVariablesOverride=[{"name": name, "value": value} for name, value in variables.items()],
            )
            build_id = started["build"]["id"]
        note(f"CodeBuild {build_id}")
        _follow(deployment, codebuild, build_id)
    except KeyboardInterrupt:
        note(f"interrupted; the build continues in CodeBuild ({project}). Run the same command again to follow it")
        raise
    except (ClientError, BotoCoreError) as error:
        raise OperationError(f"cannot build with CodeBuild: {error}") from error
    if not exists(deployment, image_tag):
        raise OperationError(
            f"the build succeeded, but {deployment.image_repository} does not have the tag {image_tag}"
        )


def build_here(deployment: Deployment, image_tag: str, backend: str = CUDA) -> None:
    """Build and push the image with this machine's Docker."""
    docker = shutil.which("docker")
    if docker is None:
        raise UserError("docker is not on PATH: `comfyeks image build` without --local builds with CodeBuild")
    ecr = boto3.client("ecr", region_name=deployment.region)
    try:
        [found] = ecr.describe_repositories(repositoryNames=[deployment.image_repository])["repositories"]
        [login] = ecr.get_authorization_token()["authorizationData"]
    except (ClientError, BotoCoreError) as error:
        raise OperationError(f"cannot log in to the image repository {deployment.image_repository}: {error}") from error
    repository = found["repositoryUri"]
    user, _, password = base64.b64decode(login["authorizationToken"]).decode().partition(":")
    registry = repository.partition("/")[0]
    _docker([docker, "login", "--username", user, "--password-stdin", registry], password)
    builder = subprocess.run([docker, "buildx", "inspect", _BUILDER], capture_output=True, check=False)
    if builder.returncode:
        _docker([docker, "buildx", "create", "--name", _BUILDER, "--driver", "docker-container"])
    arguments = {"TORCH_BACKEND": backend, **_provenance()}
    _docker([
        docker, "buildx", "build", "--builder", _BUILDER, "--platform", "linux/amd64", "--push",
        "--tag", f"{repository}:{image_tag}", "--sbom=true", "--provenance=mode=max",
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")), str(FOLDER),
    ])  # fmt: skip


def source_zip(folder: Path = FOLDER) -> bytes:
    """The build context as a zip archive, with the Dockerfile in its root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in context(folder).items():
            archive.write(path, name)
    return buffer.getvalue()


def _provenance() -> dict[str, str]:
    """Build arguments for the image's labels: the commit and the time."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=REPO_ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "image")
    revision = (commit or "unknown") + ("-changed" if changed else "")
    return {"REVISION": revision, "CREATED": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}


def _running(codebuild: Any, project: str, image_tag: str) -> str | None:
    """The id of a build of this tag that is in progress, or None."""
    recent = codebuild.list_builds_for_project(projectName=project, sortOrder="DESCENDING")["ids"][:20]
    builds = codebuild.batch_get_builds(ids=recent)["builds"] if recent else []
    for found in builds:
        variables = {one["name"]: one["value"] for one in found.get("environment", {}).get("environmentVariables", [])}
        if found["buildStatus"] == "IN_PROGRESS" and variables.get("IMAGE_TAG") == image_tag:
            return str(found["id"])
    return None


def _follow(deployment: Deployment, codebuild: Any, build_id: str) -> None:
    """Print the log until the build ends. Raises OperationError with the phase that failed."""
    logs = boto3.client("logs", region_name=deployment.region)
    position: dict[str, str] = {}
    while True:
        [found] = codebuild.batch_get_builds(ids=[build_id])["builds"]
        where = found.get("logs", {})
        if where.get("groupName") and where.get("streamName"):
            _print_log(logs, where["groupName"], where["streamName"], position)
        if found["buildStatus"] != "IN_PROGRESS":
            break
        time.sleep(_POLL_SECONDS)
    if found["buildStatus"] != "SUCCEEDED":
        raise OperationError(f"the build ended as {found['buildStatus']}{_what_failed(found)}")


def _print_log(logs: Any, group: str, stream: str, position: dict[str, str]) -> None:
    while True:
        try:
            page = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **position)
        except logs.exceptions.ResourceNotFoundException:
            return  # the first line is not written yet
        for event in page["events"]:
            err.print(event["message"].rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
        if position.get("nextToken") == page["nextForwardToken"]:
            return
        position["nextToken"] = page["nextForwardToken"]


def _what_failed(found: dict[str, Any]) -> str:
    for phase in found.get("phases", []):
        if phase.get("phaseStatus") not in (None, "SUCCEEDED"):
            messages = "; ".join(context.get("message", "") for context in phase.get("contexts", []))
            return f" in {phase.get('phaseType')}: {messages}".rstrip(": ")
    return ""


def _docker(command: list[str], standard_input: str | None = None) -> None:
    done = subprocess.run(command, input=standard_input, text=True, check=False)
    if done.returncode:
        raise OperationError(f"docker {command[1]} ended with exit code {done.returncode}")
