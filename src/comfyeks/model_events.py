"""Configures, deploys and deletes the Chalice app `comfyui-models`, the Lambda function for model events.

Chalice finds its event source mapping only through .chalice/deployed/<stage>.json. That file is not stored anywhere: it
is rebuilt from what exists in the account, so that every clone can update or delete what another one deployed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError
from botocore.model import StringShape
from chalice.utils import serialize_to_json

from comfyeks import deployment as deployments
from comfyeks.console import note, out
from comfyeks.deployment import CHALICE_APP, CHALICE_HANDLER, Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.files import write_atomically
from comfyeks.options import Project, Region
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform import outputs

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_lambda.type_defs import EventSourceMappingConfigurationTypeDef

PROJECT = REPO_ROOT / "lambda-chalice"
EVENT_SOURCE = f"{CHALICE_HANDLER}-sqs-event-source"  # Chalice's name of the handler's event source mapping
ENVIRONMENT = (
    "MODEL_EVENTS_QUEUE_ARN",
    "MODEL_EVENTS_DLQ_URL",
    "SYNC_DOCUMENT",
    "SYNC_TAG_KEY",
    "SYNC_TAG_VALUE",
)
SOURCE_TAG = "ComfyUISource"  # the function's tag with its `source_digest`
TIMEOUT_SECONDS = 60  # the queue's visibility timeout is at least six times this
MEMORY_MB = 256  # with 128 MB, the CPU share is so small that boto3 loads slowly
OLDEST_MINOR = 11  # this project needs Python 3.11; the SDK also lists older runtimes
CHALICE_SECONDS = 600
MAPPING_GONE_SECONDS = 180


def configure(deployment: Deployment, chalice_output: dict[str, Any], project: Path = PROJECT) -> None:
    """Write the configuration for `chalice deploy --stage <stage>` below `project`/.chalice; other stages are kept.

    `chalice_output` is Terraform's output `chalice`: stage, iam_role_arn, queue_arn, environment_variables, tags.
    Raises UserError when the output does not fit the deployment, OperationError when AWS fails.
    """
    stage = _stage_config(deployment, chalice_output, project)
    _merge_config(project, deployment.stage, stage)
    _write_deployed(deployment, chalice_output["queue_arn"], project)
    try:
        packaging_runtime(deployment.region)
    except UserError as error:  # only a deploy needs the runtime; `infra apply`, which ends here, has succeeded
        note(f"warning: {error}")


def deploy(deployment: Deployment, project: Path = PROJECT) -> None:
    """Create or update function and queue mapping. Raises UserError or OperationError."""
    packaging_runtime(deployment.region)
    chalice_output = outputs.platform(deployment)["chalice"]
    _wait_for_deleted_mapping(deployment, chalice_output["queue_arn"])
    configure(deployment, chalice_output, project)
    _chalice(deployment, "deploy", project)


def pending_change(deployment: Deployment, chalice_output: dict[str, Any], project: Path = PROJECT) -> str | None:
    """What a deploy would change, as a clause; None when function and mapping are those of this checkout.

    Raises UserError or OperationError.
    """
    kinds = {resource["resource_type"] for resource in _deployed_resources(deployment, chalice_output["queue_arn"])}
    if "lambda_function" not in kinds:
        return f"deploy {deployment.sync_function}"
    if "sqs_event" not in kinds:
        return f"connect {deployment.sync_function} to its queue"
    with _aws_errors(f"reading {deployment.sync_function}"):
        tags = _lambda_client(deployment).get_function(FunctionName=deployment.sync_function).get("Tags", {})
    wanted = _stage_config(deployment, chalice_output, project)["tags"][SOURCE_TAG]
    return None if tags.get(SOURCE_TAG) == wanted else f"update {deployment.sync_function}"


def source_digest(stage: dict[str, Any], project: Path = PROJECT) -> str:
    """A hash of what is deployed: the app's files and a stage's configuration."""
    digest = hashlib.sha256(json.dumps(stage, sort_keys=True).encode())
    for path in sorted([project / "app.py", project / "requirements.txt", *(project / "chalicelib").rglob("*.py")]):
        if path.exists():
            digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def delete(deployment: Deployment, project: Path = PROJECT, *, forget: bool = False) -> None:
    """Delete function and queue mapping, whichever clone deployed them, without Terraform. Raises OperationError.

    `forget` also removes the stage from .chalice/config.json, for when its role and queue will be deleted.
    """
    queue_arn = _queue_arn(deployment)
    if _write_deployed(deployment, queue_arn, project):
        _merge_config(project, deployment.stage, None)
        # Chalice imports the app, which needs this variable; a clone that was never configured does not have it.
        _chalice(deployment, "delete", project, MODEL_EVENTS_QUEUE_ARN=queue_arn)
        _deployed_file(project, deployment.stage).unlink(missing_ok=True)
    else:
        note(f"{deployment.sync_function} is not deployed: nothing to delete")
    if forget:
        _forget_config(project, deployment.stage)


def packaging_runtime(region: str) -> str:
    """The Lambda runtime that Chalice derives from this interpreter, for example `python3.12`.

    Raises UserError when Lambda has no such runtime, according to the installed SDK.
    """
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    model = boto3.client("lambda", region_name=region).meta.service_model
    names = cast(StringShape, model.shape_for("Runtime")).enum
    minors = sorted(int(name[8:]) for name in names if name.startswith("python3."))
    supported = [f"3.{minor}" for minor in minors if minor >= OLDEST_MINOR]
    if runtime.removeprefix("python") not in supported:
        raise UserError(
            f"Lambda has no runtime {runtime}, which Chalice derives from the Python that runs it ({sys.executable}): "
            f"remove .venv and run `make install PYTHON=<interpreter>` with one of {', '.join(supported)}"
        )
    return runtime


def _stage_config(deployment: Deployment, chalice_output: dict[str, Any], project: Path) -> dict[str, Any]:
    needed = {"stage", "iam_role_arn", "queue_arn", "environment_variables", "tags"}
    missing = sorted(needed - chalice_output.keys())
    missing += sorted(set(ENVIRONMENT) - chalice_output.get("environment_variables", {}).keys())
    if missing:
        raise UserError(
            f"Terraform's output `chalice` lacks {', '.join(missing)}: run `comfyeks infra apply` from this checkout"
        )
    if chalice_output["stage"] != deployment.stage:
        raise UserError(
            f"Terraform's output `chalice` is for stage {chalice_output['stage']!r}, this deployment is "
            f"{deployment.stage!r}: check --project and COMFYEKS_PROJECT"
        )
    # No log_retention_in_days: Terraform owns the log group.
    stage = {
        "manage_iam_role": False,
        "iam_role_arn": chalice_output["iam_role_arn"],
        "environment_variables": dict(chalice_output["environment_variables"]),
        "lambda_timeout": TIMEOUT_SECONDS,
        "lambda_memory_size": MEMORY_MB,
        "tags": dict(chalice_output["tags"]),
    }
    stage["tags"][SOURCE_TAG] = source_digest(stage, project)
    return stage


def _merge_config(project: Path, stage: str, settings: dict[str, Any] | None) -> None:
    """Set one stage of .chalice/config.json; with None, only create the file if it is missing."""
    config = _read_config(project)
    config |= {"version": "2.0", "app_name": CHALICE_APP}
    stages = config.setdefault("stages", {})
    if settings is not None:
        stages[stage] = settings
    write_atomically(_config_file(project), serialize_to_json(config))


def _forget_config(project: Path, stage: str) -> None:
    config = _read_config(project)
    if config.get("stages", {}).pop(stage, None) is not None:
        write_atomically(_config_file(project), serialize_to_json(config))


def _read_config(project: Path) -> dict[str, Any]:
    """The content of .chalice/config.json, empty when there is no file. Raises UserError when it is not JSON."""
    path = _config_file(project)
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); it is generated: remove it and try again") from error
    return config


def _write_deployed(deployment: Deployment, queue_arn: str, project: Path) -> bool:
    """Write Chalice's record of what is deployed; remove it and return False when nothing is."""
    path = _deployed_file(project, deployment.stage)
    resources = _deployed_resources(deployment, queue_arn)
    if not resources:
        path.unlink(missing_ok=True)
        return False
    write_atomically(path, serialize_to_json({"resources": resources, "schema_version": "2.0", "backend": "api"}))
    return True


def _deployed_resources(deployment: Deployment, queue_arn: str) -> list[dict[str, str]]:
    """What exists in the account, in the format and order of Chalice's record (schema 2.0)."""
    name = deployment.sync_function
    resources: list[dict[str, str]] = []
    with _aws_errors(f"looking for {name}"):
        client = _lambda_client(deployment)
        try:
            arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
            resources.append({"name": CHALICE_HANDLER, "resource_type": "lambda_function", "lambda_arn": arn})
        except client.exceptions.ResourceNotFoundException:
            pass
        # A mapping outlives its function, for example when the function was deleted by hand. Chalice must know it:
        # its next deploy would try to create a second one, which AWS rejects.
        for mapping in _mappings(client, deployment, queue_arn):
            if mapping["State"] != "Deleting":
                resources.append(
                    {
                        "name": EVENT_SOURCE,
                        "resource_type": "sqs_event",
                        "queue_arn": queue_arn,
                        "event_uuid": mapping["UUID"],
                        "queue": queue_arn.rpartition(":")[2],
                        "lambda_arn": mapping["FunctionArn"],
                    }
                )
    return resources


def _mappings(
    client: LambdaClient, deployment: Deployment, queue_arn: str
) -> Iterator[EventSourceMappingConfigurationTypeDef]:
    """The mappings from the queue to our function. Listed by queue, because the function may be deleted already."""
    for page in client.get_paginator("list_event_source_mappings").paginate(EventSourceArn=queue_arn):
        for mapping in page["EventSourceMappings"]:
            if mapping["FunctionArn"].endswith(f":function:{deployment.sync_function}"):
                yield mapping


def _wait_for_deleted_mapping(deployment: Deployment, queue_arn: str) -> None:
    """Wait until no mapping of the queue is `Deleting`: until then, AWS does not create the same one again."""
    deadline = time.monotonic() + MAPPING_GONE_SECONDS
    with _aws_errors("looking for the queue's mapping"):
        client = _lambda_client(deployment)
        while any(mapping["State"] == "Deleting" for mapping in _mappings(client, deployment, queue_arn)):
            if time.monotonic() > deadline:
                raise OperationError(
                    f"the old mapping of {queue_arn} still exists after {MAPPING_GONE_SECONDS} s: repeat the command"
                )
            note("waiting: the old queue mapping is still being deleted")
            time.sleep(5)


def _chalice(deployment: Deployment, verb: str, project: Path, **environment: str) -> None:
    """Run `chalice <verb> --stage <stage>` in `project`; its output goes to stderr.

    Raises OperationError with Chalice's message.
    """
    # Chalice packages everything below chalicelib, bytecode included.
    for cache in (project / "chalicelib").rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("chalice")), verb, "--stage", deployment.stage]
    region = {"AWS_REGION": deployment.region, "AWS_DEFAULT_REGION": deployment.region}
    try:
        result = subprocess.run(
            command,
            cwd=project,
            env={**os.environ, **region, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=CHALICE_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} does not exist: run `make install`") from error
    except subprocess.TimeoutExpired as error:
        raise OperationError(f"chalice {verb} has not ended after {CHALICE_SECONDS} s") from error
    for line in result.stdout.splitlines():
        note(line)
    if result.returncode != 0:
        raise OperationError(
            f"chalice {verb} --stage {deployment.stage}: {_last_message(result.stderr or result.stdout)}"
        )


def _last_message(text: str) -> str:
    """The exception's message at the end of a traceback, or a text without traceback, on one line."""
    _, traceback, tail = text.rpartition("Traceback (most recent call last):")
    lines = tail.splitlines()
    if traceback:
        first = next((number for number, line in enumerate(lines) if line and not line[0].isspace()), 0)
        lines = lines[first:]
    return " ".join(" ".join(lines).split()) or "no message"


def _config_file(project: Path) -> Path:
    return project / ".chalice" / "config.json"


def _deployed_file(project: Path, stage: str) -> Path:
    return project / ".chalice" / "deployed" / f"{stage}.json"


def _queue_arn(deployment: Deployment) -> str:
    partition = boto3.Session().get_partition_for_region(deployment.region)
    return f"arn:{partition}:sqs:{deployment.region}:{deployment.account}:{deployment.model_events_queue}"


def _lambda_client(deployment: Deployment) -> LambdaClient:
    return boto3.client("lambda", region_name=deployment.region)


@contextmanager
def _aws_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OperationError(f"{doing}: {error}") from error


app = typer.Typer(
    help="Deploy the Lambda function that notifies GPU nodes of new and deleted models (Chalice).", no_args_is_help=True
)


@app.command("configure")
def configure_command(project: Project = None, region: Region = None) -> None:
    """Write lambda-chalice/.chalice from Terraform's outputs, for use with `chalice deploy --stage`."""
    deployment = deployments.current(project, region)
    configure(deployment, outputs.platform(deployment)["chalice"])
    out.print(f"chalice deploy --stage {deployment.stage}", highlight=False)


@app.command("deploy")
def deploy_command(project: Project = None, region: Region = None) -> None:
    """Create or update the function and its queue mapping."""
    deployment = deployments.current(project, region)
    deploy(deployment)
    out.print(deployment.sync_function, highlight=False)


@app.command("delete")
def delete_command(project: Project = None, region: Region = None) -> None:
    """Delete the function and its queue mapping."""
    delete(deployments.current(project, region))
