"""Bridges for Systems Manager, which moto serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyeks_local.emulators.bridges import bridge
from comfyeks_local.emulators.run_command import RefusedError, RunCommand

if TYPE_CHECKING:
    from moto.ssm.responses import SimpleSystemManagerResponse

# The commands of this process; the channel of `comfyeks_local.emulators.moto_server` hands them to the nodes' agents.
run_command = RunCommand()


@bridge(
    "ssm-run-command",
    "moto",
    aws="SendCommand checks document, parameters and instances, an agent runs it, and three operations report on it.",
    gap="SendCommand checks nothing, every invocation succeeds at once with no output, stopped instances are targets, "
    "and ListCommandInvocations is answered with HTTP 500.",
    needed_by="model sync (Lambda sends, local nodes run, `models status` reads)",
)
def patch_run_command() -> None:
    from moto.core.responses import ActionResult
    from moto.ssm.exceptions import SSMException
    from moto.ssm.responses import SimpleSystemManagerResponse

    def rejecting(operation: Any) -> Any:
        def call(self: SimpleSystemManagerResponse) -> ActionResult:
            try:
                return ActionResult(operation(self))
            except RefusedError as refused:
                raise SSMException(refused.code, refused.message) from refused

        return call

    for name in ("send_command", "list_commands", "get_command_invocation", "list_command_invocations"):
        setattr(SimpleSystemManagerResponse, name, rejecting(globals()[f"_{name}"]))


def _scope(response: SimpleSystemManagerResponse) -> tuple[str, str]:
    return response.current_account, response.region


def _send_command(response: SimpleSystemManagerResponse) -> dict[str, Any]:
    name = response._get_param("DocumentName").rpartition("document/")[2]
    version = response._get_param("DocumentVersion", "$DEFAULT")
    documents = response.ssm_backend._get_documents(name)  # raises InvalidDocument
    document = {
        "$DEFAULT": documents.get_default_version,
        "$LATEST": documents.get_latest_version,
    }.get(version, lambda: documents.find_by_version(version))()
    if document is None:
        raise RefusedError("InvalidDocumentVersion", f"The document {name} has no version {version}.")
    instance_ids = response._get_param("InstanceIds", [])
    targets = response._get_param("Targets", [])
    if bool(instance_ids) == bool(targets):
        raise RefusedError("ValidationException", "Specify either InstanceIds or Targets.")
    unknown = set(instance_ids) - set(_running(response, {"instance-id": instance_ids})) if instance_ids else set()
    if unknown:
        raise RefusedError(
            "InvalidInstanceId", f"Instances [{', '.join(sorted(unknown))}] not in a valid state for this account."
        )
    filters = {_filter_name(target["Key"]): target["Values"] for target in targets}
    command = run_command.send(
        _scope(response),
        name,
        document.content_json,
        document_version=version,
        given_parameters=response._get_param("Parameters", {}),
        instance_ids=instance_ids,
        targets=targets,
        targeted=_running(response, filters) if targets else [],
        comment=response._get_param("Comment", ""),
        timeout=response._get_int_param("TimeoutSeconds"),
        max_concurrency=response._get_param("MaxConcurrency", "50"),
        max_errors=response._get_param("MaxErrors", "0"),
    )
    return {"Command": command.describe()}


def _filter_name(target_key: str) -> str:
    """The filter of DescribeInstances for a target's key."""
    if target_key.startswith("tag:") or target_key == "tag-key":
        return target_key
    if target_key == "InstanceIds":
        return "instance-id"
    raise RefusedError("InvalidTarget", f"Target key {target_key!r} is not tag:<name>, tag-key or InstanceIds.")


def _running(response: SimpleSystemManagerResponse, filters: dict[str, list[str]]) -> list[str]:
    """Ids of the running instances that match DescribeInstances filters, as AWS counts managed nodes."""
    from moto.ec2.models import ec2_backends

    account, region = _scope(response)
    reservations = ec2_backends[account][region].all_reservations({**filters, "instance-state-name": ["running"]})
    return [instance.id for reservation in reservations for instance in reservation.instances]


def _list_commands(response: SimpleSystemManagerResponse) -> dict[str, Any]:
    commands = run_command.commands(
        _scope(response), response._get_param("CommandId"), response._get_param("InstanceId")
    )
    page, token = _page(response, commands)
    return {"Commands": [command.describe() for command in page], "NextToken": token}


def _get_command_invocation(response: SimpleSystemManagerResponse) -> dict[str, Any]:
    return run_command.invocation(_scope(response), response._get_param("CommandId"), response._get_param("InstanceId"))


def _list_command_invocations(response: SimpleSystemManagerResponse) -> dict[str, Any]:
    invocations = run_command.invocations(
        _scope(response),
        response._get_param("CommandId"),
        response._get_param("InstanceId"),
        bool(response._get_param("Details", False)),
    )
    page, token = _page(response, invocations)
    return {"CommandInvocations": page, "NextToken": token}


def _page(response: SimpleSystemManagerResponse, items: list[Any]) -> tuple[list[Any], str | None]:
    """(items of this page, token of the next one); the token is the number of items before it."""
    start = int(response._get_param("NextToken") or 0)
    size = response._get_int_param("MaxResults") or 50
    return items[start : start + size], str(start + size) if len(items) > start + size else None
