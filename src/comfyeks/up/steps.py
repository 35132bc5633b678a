"""The steps of `comfyeks up`. Each looks at what exists, so that a second run finds nothing to do."""

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
from comfyeks.up.engine import CHECK, Step
from comfyeks.up.run_context import RunContext

READY_SECONDS = 30 * 60  # a node, an image of several GB, models
POLL_SECONDS = 5.0
REPORT_SECONDS = 30.0


def check_prerequisites(run: RunContext) -> None:
    preflight.require(run.deployment, run.settings, [("tools", machine.tools)])


def pending_aws(run: RunContext) -> str | None:
    run.root_changes = pending(run.deployment, run.flags)
    return ", ".join(f"{root}: {what}" for root, what in run.root_changes.items()) or None


def aws(run: RunContext) -> None:
    if set(run.root_changes.values()) == {GENERATED}:
        platform_apply.write_generated(run.deployment, run.outputs)
    else:
        platform_apply.apply(run.deployment, run.flags, skip_checks=True)  # the preflight step has done them


def pending_context(run: RunContext) -> str | None:
    return None if run.kube_context is not None else f"aws eks update-kubeconfig --name {run.deployment.name}"


def context(run: RunContext) -> None:
    run.kube_context = kubeconfig.add_context(run.deployment)


def pending_addons(run: RunContext) -> str | None:
    found = {
        addon.release: change
        for addon in addons.chosen(run.settings.keda)
        if (change := run.helm.pending_change(addons.release(addon, run.deployment))) is not None
    }
    return ", ".join(f"{change} {name}" for name, change in found.items()) or None


def install_addons(run: RunContext) -> None:
    for addon in addons.chosen(run.settings.keda):
        release = addons.release(addon, run.deployment)
        if run.helm.pending_change(release) is not None:
            note(f"{release.name} {release.version}")
            run.helm.upgrade(release)


def pending_image(run: RunContext) -> str | None:
    tag = run.image_tag()
    return None if image_build.exists(run.deployment, tag) else f"build {run.deployment.image_repository}:{tag}"


def build_image(run: RunContext) -> None:
    tag = run.image_tag()
    if run.settings.image_tag:
        raise UserError(
            f"image-tag in {run.deployment.settings_file}: no image {tag} in {run.deployment.image_repository}; push "
            "it, or remove image-tag, so that the image of this checkout's image/ is built"
        )
    image_build.build(run.deployment, tag)


def pending_charts(run: RunContext) -> str | None:
    found = {release.name: run.helm.pending_change(release) for release in (run.pools(), run.comfyui())}
    return ", ".join(f"{change} {name}" for name, change in found.items() if change is not None) or None


def charts(run: RunContext) -> None:
    for release in (run.pools(), run.comfyui()):
        if run.helm.pending_change(release) is not None:
            run.helm.upgrade(release)


def pending_events(run: RunContext) -> str | None:
    return model_events.pending_change(run.deployment, run.outputs["chalice"])


def events(run: RunContext) -> None:
    model_events.deploy(run.deployment)


def pending_models(run: RunContext) -> str | None:
    if not run.settings.models:
        return None
    store = open_store(None, run.deployment.project, run.deployment.region)
    missing = pull_command.missing(catalogue.load(), run.settings.models, store)
    return f"pull {', '.join(entry.id for entry in missing)}" if missing else None


def pull_models(run: RunContext) -> None:
    known, deployment = catalogue.load(), run.deployment
    store = open_store(None, deployment.project, deployment.region)
    wanted = [pull_command.from_entry(entry) for entry in pull_command.missing(known, run.settings.models, store)]
    # With an empty catalogue, because the command adds missing hashes to its entries, in a file that git tracks.
    empty = catalogue.Catalogue([], known.path)
    pull_command.run(empty, wanted, bucket=None, project=deployment.project, region=deployment.region)


def pending_readiness(run: RunContext) -> str | None:
    if not run.wait:
        return None
    wanted, ready = _replicas(run)
    return f"wait for the first of {wanted} pod(s)" if wanted and not ready else None


def wait_until_ready(run: RunContext) -> None:
    """Wait until a pod is ready, and print meanwhile why none is. Raises OperationError after READY_SECONDS."""
    begun = reported = time.monotonic()
    while True:
        if _replicas(run)[1]:
            return
        why = _why(run)
        if time.monotonic() - begun > READY_SECONDS:
            raise OperationError(
                f"no pod is ready after {READY_SECONDS // 60} minutes: {why}; `comfyeks doctor` shows more"
            )
        if time.monotonic() - reported >= REPORT_SECONDS:
            note(f"waiting: {why}")
            reported = time.monotonic()
        time.sleep(POLL_SECONDS)


def _replicas(run: RunContext) -> tuple[int, int]:
    """Return how many pods there should be, and how many are ready."""
    found = run.cluster.get(f"/apis/apps/v1/namespaces/{run.namespace}/deployments/{run.release}")
    if found is None:
        raise OperationError(
            f"there is no Deployment {run.release} in namespace {run.namespace}: `comfyeks up` installs it"
        )
    return int(found["spec"].get("replicas", 1)), int(found.get("status", {}).get("readyReplicas", 0))


def _why(run: RunContext) -> str:
    for pod, reason in explained(run.cluster, run.namespace, f"app.kubernetes.io/instance={run.release}"):
        if reason is not None:
            return f"{pod['metadata']['name']}: {reason.message}"
    return "there is no pod yet"


def address(run: RunContext) -> None:
    """Print the address of ComfyUI."""
    url = run.outputs.get("url")
    if url:
        out.print(url, highlight=False)
        return
    note("no load balancer: run this command, then open http://localhost:8848 on this machine")
    out.print(f"kubectl --context {run.kube_context} -n {run.namespace} port-forward service/{run.release} 8848",
              highlight=False, soft_wrap=True)  # fmt: skip


UP: tuple[Step[RunContext], ...] = (
    Step("preflight", "tools, quotas, zones, spot role", lambda run: CHECK, check_prerequisites),
    Step("aws", "data root, then platform: buckets, registry, network, cluster, queues, roles", pending_aws, aws),
    Step("kubeconfig", "a kubectl context for the cluster", pending_context, context, cluster=True),
    Step("add-ons", "Karpenter, load balancer controller, device plugin", pending_addons, install_addons, cluster=True),
    Step("image", "ComfyUI and its custom nodes, in the registry", pending_image, build_image),
    Step("charts", "GPU node pools and ComfyUI", pending_charts, charts, cluster=True),
    Step("events", "the function that notifies nodes of new models", pending_events, events),
    Step("models", "models of the settings file, from the catalogue", pending_models, pull_models),
    Step("ready", "the first pod accepts jobs", pending_readiness, wait_until_ready, cluster=True),
    Step("address", "where to open ComfyUI", lambda run: CHECK, address),
)
