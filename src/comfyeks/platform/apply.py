"""Apply and destroy a deployment's AWS resources: state bucket, data root, platform root, generated files."""

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
from comfyeks.aws_account import find_cluster, gpu_instances
from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.platform import preflight, values_files
from comfyeks.terraform import delete_data, foreign_resources, node_files, protected_resources, state_bucket
from comfyeks.terraform.protected_resources import Plan
from comfyeks.terraform.runner import POLL_SECONDS, Progress, Root, Run, wait
from comfyeks.terraform.settings_store import SettingsStore
from comfyeks.terraform.variables import AccessFlags, arguments, section, to_destroy


def apply(
    deployment: Deployment,
    given: AccessFlags,
    *,
    overwrite_settings: bool = False,
    allow_replacement: bool = False,
    skip_checks: bool = False,
) -> dict[str, Any]:
    """Create or update data root and platform, write the generated files, and return the platform's outputs.

    Idempotent: the next run finishes one that was interrupted. Settings that are not in `given` are those of the last
    apply, from whatever checkout. Raises UserError or OperationError.
    """
    settings_store = SettingsStore(deployment)
    earlier = settings_store.fetch(overwrite=overwrite_settings)
    settings = given.over(earlier)
    settings.check(deployment)
    for name in given.decided():
        if name in section(deployment, "platform"):
            note(f"{deployment.settings_file} also sets {name}: the flag applies to this run only")
    if not skip_checks and find_cluster(deployment) is None:
        preflight.require(deployment, deployment.settings())
    progress = Progress()
    data, platform = _prepare(deployment, progress)
    node_files.publish(deployment)

    def accept(root: Root, plan: Plan) -> None:
        if not allow_replacement:
            protected_resources.refuse(root.name, plan)
        if root is platform:
            settings_store.store(settings)

    with ExitStack() as stack:
        data_arguments = arguments(deployment, "data", given)
        data_run = stack.enter_context(data.start("apply", data_arguments, progress, partial(accept, data)))
        # S3 takes a minute to confirm lifecycle rules, which the platform does not need: it starts as soon as the
        # buckets and the registry that it looks up exist.
        _wait_for_data(deployment, data_run)
        platform_arguments = arguments(deployment, "platform", given, earlier)
        platform_run = stack.enter_context(
            platform.start("apply", platform_arguments, progress, partial(accept, platform))
        )
        wait(data_run, platform_run)
    outputs = platform.outputs()
    progress.say("values", f"{write_generated(deployment, outputs)} values files written to {deployment.dir}")
    progress.say("done", f"{deployment.name} is up to date in account {deployment.account}, {deployment.region}")
    return outputs


def write_generated(deployment: Deployment, outputs: dict[str, Any]) -> int:
    """Write the files that other components read of the platform's outputs; return the number of values files."""
    files = values_files.write(deployment, outputs)
    model_events.configure(deployment, outputs["chalice"])
    return len(files)


def destroy(deployment: Deployment, *, with_data: bool = False) -> None:
    """Destroy the platform, Lambda function first; `with_data` also the buckets, images and Terraform's state.

    Raises UserError while GPU nodes run or foreign resources use the network, OperationError when AWS refuses.
    """
    progress = Progress()
    if not state_bucket.exists(deployment):
        note(
            f"{deployment.name} does not exist in account {deployment.account}, {deployment.region}: nothing to destroy"
        )
        return
    _refuse_running_nodes(deployment)
    earlier = SettingsStore(deployment).fetch(overwrite=True)
    data, platform = _prepare(deployment, progress)
    model_events.delete(deployment, forget=True)
    _destroy_platform(platform, arguments(deployment, "platform", to_destroy(deployment, earlier), earlier), progress)
    values_files.remove(deployment)
    if not with_data:
        progress.say("done", f"{deployment.name} is destroyed; its buckets and images are kept")
        return
    for kind in delete_data.DATA_BUCKETS:
        progress.say(
            "data", f"deleted {delete_data.empty_bucket(deployment, kind)} objects from {deployment.bucket(kind)}"
        )
    progress.say("data", f"deleted {delete_data.empty_registry(deployment)} images")
    _destroy(data, arguments(deployment, "data", AccessFlags()), progress)
    delete_data.delete_state_bucket(deployment)
    shutil.rmtree(deployment.dir / "terraform", ignore_errors=True)
    progress.say("done", f"{deployment.name} and its data are deleted")


def exists(deployment: Deployment) -> bool:
    """Return whether any resource of the platform exists, or may exist. Raises OperationError."""
    platform = Root("platform", deployment)
    platform.init()
    return not platform.is_empty() or platform.has_unfinished_run()


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
            vpc: foreign_resources.dependents(vpc, region, plan)
            for plan in plans
            for vpc in foreign_resources.networks(plan)
        }
        reasons = [f"still in the network {vpc}: {'; '.join(found)}" for vpc, found in held.items() if found]
        raise OperationError("\n".join([str(failure), *reasons])) from failure


def _destroy(
    root: Root, variables: list[str], progress: Progress, accept: Callable[[Plan], None] | None = None
) -> None:
    root.recover(variables, progress)  # otherwise the resources of an interrupted apply stay
    if root.is_empty():
        progress.say(root.name, "nothing to destroy")
        return
    with root.start("destroy", variables, progress, accept) as run:
        wait(run)


def _wait_for_data(deployment: Deployment, run: Run) -> None:
    """Return once buckets and registry exist; raise the error of the data root if it failed to create them."""
    while not _data_exists(deployment):
        if run.poll():
            run.check()
            if not _data_exists(deployment):
                raise OperationError(
                    f"the data root is applied, but its buckets or registry are not found; full log: {run.log}"
                )
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
        raise OperationError(
            f"AWS did not answer whether the data root's buckets and registry exist: {error}"
        ) from error
    return True


def _refuse_running_nodes(deployment: Deployment) -> None:
    """Raise UserError while Karpenter's nodes run: they are not Terraform's, and only the cluster ends them."""
    nodes = gpu_instances(deployment)
    if nodes:
        raise UserError(
            f"{len(nodes)} GPU node(s) of {deployment.name} still run ({', '.join(nodes[:5])}): remove the charts "
            "first (helm uninstall comfyui, then karpenter-gpu) and wait until Karpenter has ended them"
        )
