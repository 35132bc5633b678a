"""The deployment's AWS side, up and down: state bucket, data root, platform root, generated files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import boto3
from botocore.exceptions import ClientError

from comfyeks import model_events
from comfyeks.aws_account import find_cluster
from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.platform import preflight, values_files
from comfyeks.terraform import delete_data, foreign_resources, node_files, protected_resources, state_bucket
from comfyeks.terraform.protected_resources import Plan
from comfyeks.terraform.runner import POLL_SECONDS, Progress, Root, Run, wait
from comfyeks.terraform.settings_store import SettingsStore
from comfyeks.terraform.variables import Settings, arguments, section, to_destroy


def apply(
    deployment: Deployment,
    given: Settings,
    *,
    overwrite_settings: bool = False,
    allow_replacement: bool = False,
    skip_checks: bool = False,
) -> dict[str, Any]:
    """Bring data root and platform up, or up to date, and write the generated files; the platform's outputs.

    Idempotent: a run that was stopped half-way is finished by the next. What is not `given` is as in the last apply,
    from whatever checkout. Raises UserError or OperationError.
    """
    remembered = SettingsStore(deployment)
    earlier = remembered.fetch(overwrite=overwrite_settings)
    settings = given.over(earlier)
    settings.check(deployment)
    for name in given.decided():
        if name in section(deployment, "platform"):
            note(f"{deployment.settings_file} sets {name} too: the flag holds for this apply alone")
    if not skip_checks and find_cluster(deployment) is None:
        preflight.require(deployment, deployment.settings())
    progress = Progress()
    data, platform = _prepare(deployment, progress)
    node_files.publish(deployment)

    def accept(root: Root, plan: Plan) -> None:
        if not allow_replacement:
            protected_resources.refuse(root.name, plan)
        if root is platform:
            remembered.store(settings)

    with ExitStack() as stack:
        data_arguments = arguments(deployment, "data", given)
        data_run = stack.enter_context(data.start("apply", data_arguments, progress, partial(accept, data)))
        # S3 takes a minute to confirm lifecycle rules, which the platform does not need: it starts as soon as what it
        # looks up is there.
        _wait_for_data(deployment, data_run)
        platform_arguments = arguments(deployment, "platform", given, earlier)
        platform_run = stack.enter_context(
            platform.start("apply", platform_arguments, progress, partial(accept, platform))
        )
        wait(data_run, platform_run)
    outputs = platform.outputs()
    progress.say("values", f"{write_generated(deployment, outputs)} values files written to {deployment.dir}")
    progress.say("done", f"{deployment.name} is up in account {deployment.account}, {deployment.region}")
    return outputs


def write_generated(deployment: Deployment, outputs: dict[str, Any]) -> int:
    """Write what other rooms read of the platform's outputs; how many values files."""
    files = values_files.write(deployment, outputs)
    model_events.configure(deployment, outputs["chalice"])
    return len(files)


def destroy(deployment: Deployment, *, with_data: bool = False) -> None:
    """Take the platform down, Lambda function first; `with_data` also the buckets, images and Terraform's state.

    Raises UserError while GPU nodes are running or somebody else uses the network, OperationError when AWS refuses.
    """
    progress = Progress()
    if not state_bucket.exists(deployment):
        note(f"{deployment.name} is not there in account {deployment.account}, {deployment.region}: nothing to destroy")
        return
    _refuse_running_nodes(deployment)
    earlier = SettingsStore(deployment).fetch(overwrite=True)
    data, platform = _prepare(deployment, progress)
    model_events.delete(deployment, forget=True)
    _destroy_platform(platform, arguments(deployment, "platform", to_destroy(deployment, earlier), earlier), progress)
    values_files.remove(deployment)
    if not with_data:
        progress.say("done", f"{deployment.name} is gone; its buckets and images stay")
        return
    for kind in delete_data.DATA_BUCKETS:
        progress.say(
            "data", f"deleted {delete_data.empty_bucket(deployment, kind)} objects from {deployment.bucket(kind)}"
        )
    progress.say("data", f"deleted {delete_data.empty_registry(deployment)} images")
    _destroy(data, arguments(deployment, "data", Settings()), progress)
    delete_data.delete_state_bucket(deployment)
    shutil.rmtree(deployment.dir / "terraform", ignore_errors=True)
    progress.say("done", f"{deployment.name} and its data are gone")


def exists(deployment: Deployment) -> bool:
    """Whether there is, or may be, anything of the platform. Raises OperationError."""
    platform = Root("platform", deployment)
    platform.init()
    return not platform.is_empty() or platform.was_killed()


def _prepare(deployment: Deployment, progress: Progress) -> tuple[Root, Root]:
    progress.say("start", f"{deployment.name} in account {deployment.account}, {deployment.region}")
    state_bucket.ensure(deployment)
    data, platform = Root("data", deployment), Root("platform", deployment)
    with ThreadPoolExecutor() as pool:
        list(pool.map(Root.init, (data, platform)))
    return data, platform


def _destroy_platform(root: Root, variables: list[str], progress: Progress) -> None:
    region = root.deployment.region
    plans: list[Plan] = []

    def accept(plan: Plan) -> None:
        foreign_resources.refuse(region, plan)
        plans.append(plan)

    try:
        _destroy(root, variables, progress, accept)
    except OperationError as failure:
        held = {
            vpc: foreign_resources.left(vpc, region, plan) for plan in plans for vpc in foreign_resources.networks(plan)
        }
        told = [f"still in the network {vpc}: {'; '.join(found)}" for vpc, found in held.items() if found]
        raise OperationError("\n".join([str(failure), *told])) from failure


def _destroy(
    root: Root, variables: list[str], progress: Progress, accept: Callable[[Plan], None] | None = None
) -> None:
    root.recover(variables, progress)  # what a killed apply left would stay
    if root.is_empty():
        progress.say(root.name, "nothing to destroy")
        return
    with root.start("destroy", variables, progress, accept) as run:
        wait(run)


def _wait_for_data(deployment: Deployment, run: Run) -> None:
    """Return once buckets and registry exist; raise what went wrong when the data root failed to make them."""
    while not _data_exists(deployment):
        if run.poll():
            run.check()
            if not _data_exists(deployment):
                raise OperationError(f"the data root is applied, but its buckets do not answer; full log: {run.log}")
            return
        time.sleep(POLL_SECONDS)


def _data_exists(deployment: Deployment) -> bool:
    s3 = boto3.client("s3", region_name=deployment.region)
    ecr = boto3.client("ecr", region_name=deployment.region)
    try:
        for kind in delete_data.DATA_BUCKETS:
            s3.head_bucket(Bucket=deployment.bucket(kind), ExpectedBucketOwner=deployment.account)
        ecr.describe_repositories(repositoryNames=[deployment.image_repository])
    except ecr.exceptions.RepositoryNotFoundException:
        return False
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise OperationError(f"AWS did not tell whether the data root's buckets exist: {error}") from error
    return True


def _refuse_running_nodes(deployment: Deployment) -> None:
    """Karpenter's nodes are not Terraform's: without their cluster nobody would ever end and stop paying for them."""
    ec2 = boto3.client("ec2", region_name=deployment.region)
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[
            {"Name": f"tag:kubernetes.io/cluster/{deployment.name}", "Values": ["owned"]},
            {"Name": "tag-key", "Values": ["karpenter.sh/nodepool"]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
        ]
    )
    nodes = [i["InstanceId"] for page in pages for group in page["Reservations"] for i in group["Instances"]]
    if nodes:
        raise UserError(
            f"{len(nodes)} GPU node(s) of {deployment.name} still run ({', '.join(nodes[:5])}): remove the charts "
            "first (helm uninstall comfyui, then karpenter-gpu) and wait until Karpenter has ended them"
        )
