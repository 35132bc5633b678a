"""The steps of `comfyeks up`. Each asks what exists, so that a second run finds nothing to do."""

from __future__ import annotations

import time

from comfyeks import model_events
from comfyeks.console import note, out
from comfyeks.doctor import machine
from comfyeks.doctor.pods import explained
from comfyeks.errors import OperationError, UserError
from comfyeks.image import build as image_build
from comfyeks.kubernetes import addons, kubeconfig
from comfyeks.models import catalogue, pull_command
from comfyeks.models.store import open_store
from comfyeks.platform import apply as platform_apply
from comfyeks.platform import preflight
from comfyeks.platform.plan import GENERATED, pending
from comfyeks.up.engine import Step
from comfyeks.up.work import Work

READY_SECONDS = 30 * 60  # a node, an image of several GB, models
POLL_SECONDS = 5.0
SAY_SECONDS = 30.0


def check_prerequisites(work: Work) -> None:
    preflight.require(work.deployment, work.settings, [("tools", machine.tools)])


def aws_left(work: Work) -> str | None:
    work.pending = pending(work.deployment, work.flags)
    return ", ".join(f"{root}: {what}" for root, what in work.pending.items()) or None


def aws(work: Work) -> None:
    if set(work.pending.values()) == {GENERATED}:
        platform_apply.write_generated(work.deployment, work.outputs)
    else:
        platform_apply.apply(work.deployment, work.flags, skip_checks=True)  # the first step has made them


def context_left(work: Work) -> str | None:
    return None if work.context is not None else f"aws eks update-kubeconfig --name {work.deployment.name}"


def context(work: Work) -> None:
    work.context = kubeconfig.add_context(work.deployment)


def addons_left(work: Work) -> str | None:
    found = {
        addon.release: left
        for addon in addons.chosen(work.settings.keda)
        if (left := work.helm.left(addons.release(addon, work.deployment))) is not None
    }
    return ", ".join(f"{left} {name}" for name, left in found.items()) or None


def install_addons(work: Work) -> None:
    for addon in addons.chosen(work.settings.keda):
        release = addons.release(addon, work.deployment)
        if work.helm.left(release) is not None:
            note(f"{release.name} {release.version}")
            work.helm.upgrade(release)


def image_left(work: Work) -> str | None:
    tag = work.image_tag()
    return None if image_build.exists(work.deployment, tag) else f"build {work.deployment.image_repository}:{tag}"


def build_image(work: Work) -> None:
    tag = work.image_tag()
    if work.settings.image_tag:
        raise UserError(
            f"the settings ask for image-tag {tag}, which is not in {work.deployment.image_repository}: push it, or "
            "remove image-tag, then the image that image/ describes is built"
        )
    image_build.build(work.deployment, tag)


def charts_left(work: Work) -> str | None:
    found = {release.name: work.helm.left(release) for release in (work.pools(), work.comfyui())}
    return ", ".join(f"{left} {name}" for name, left in found.items() if left is not None) or None


def charts(work: Work) -> None:
    for release in (work.pools(), work.comfyui()):
        if work.helm.left(release) is not None:
            work.helm.upgrade(release)


def events_left(work: Work) -> str | None:
    return model_events.left(work.deployment, work.outputs["chalice"])


def events(work: Work) -> None:
    model_events.deploy(work.deployment)


def models_left(work: Work) -> str | None:
    if not work.settings.models:
        return None
    store = open_store(None, work.deployment.project, work.deployment.region)
    missing = pull_command.missing(catalogue.load(), work.settings.models, store)
    return f"pull {', '.join(entry.id for entry in missing)}" if missing else None


def pull_models(work: Work) -> None:
    known, place = catalogue.load(), work.deployment
    store = open_store(None, place.project, place.region)
    wanted = [pull_command.from_entry(entry) for entry in pull_command.missing(known, work.settings.models, store)]
    # Of an empty catalogue: it would write hashes that it learns into a file that git tracks.
    learns = catalogue.Catalogue([], known.path)
    pull_command.run(learns, wanted, bucket=None, project=place.project, region=place.region)


def ready_left(work: Work) -> str | None:
    if not work.wait:
        return None
    wanted, ready = _replicas(work)
    return f"wait for the first of {wanted} pod(s)" if wanted and not ready else None


def wait_until_ready(work: Work) -> None:
    """Until a pod is ready; says why not while it waits. Raises OperationError after half an hour."""
    begun = spoke = time.monotonic()
    while True:
        if _replicas(work)[1]:
            return
        why = _why(work)
        if time.monotonic() - begun > READY_SECONDS:
            raise OperationError(
                f"no pod is ready after {READY_SECONDS // 60} minutes: {why}; comfyeks doctor says more"
            )
        if time.monotonic() - spoke >= SAY_SECONDS:
            note(f"waiting: {why}")
            spoke = time.monotonic()
        time.sleep(POLL_SECONDS)


def _replicas(work: Work) -> tuple[int, int]:
    """Pods that there should be, and pods that are ready."""
    found = work.cluster.get(f"/apis/apps/v1/namespaces/{work.namespace}/deployments/{work.release}")
    if found is None:
        raise OperationError(f"there is no Deployment {work.release} in namespace {work.namespace}")
    return int(found["spec"].get("replicas", 1)), int(found.get("status", {}).get("readyReplicas", 0))


def _why(work: Work) -> str:
    for pod, reason in explained(work.cluster, work.namespace, f"app.kubernetes.io/instance={work.release}"):
        if reason is not None:
            return f"{pod['metadata']['name']}: {reason.message}"
    return "there is no pod yet"


def address(work: Work) -> None:
    """Say where ComfyUI is."""
    url = work.outputs.get("url")
    if url:
        out.print(url, highlight=False)
        return
    note("no load balancer: from this machine, http://localhost:8848 after")
    out.print(f"kubectl --context {work.context} -n {work.namespace} port-forward service/{work.release} 8848",
              highlight=False, soft_wrap=True)  # fmt: skip


UP: tuple[Step[Work], ...] = (
    Step("preflight", "tools, quotas, zones, spot role", lambda work: "look", check_prerequisites),
    Step("aws", "data root, then platform: buckets, registry, network, cluster, queues, roles", aws_left, aws),
    Step("kubeconfig", "a kubectl context for the cluster", context_left, context, cluster=True),
    Step("add-ons", "Karpenter, load balancer controller, device plugin", addons_left, install_addons, cluster=True),
    Step("image", "ComfyUI and its custom nodes, in the registry", image_left, build_image),
    Step("charts", "GPU node pools and ComfyUI", charts_left, charts, cluster=True),
    Step("events", "the function that tells nodes of new models", events_left, events),
    Step("models", "those of the settings file, from the catalogue", models_left, pull_models),
    Step("ready", "the first pod takes work", ready_left, wait_until_ready, cluster=True),
    Step("address", "where it is", lambda work: "look", address),
)
