"""The add-ons at pinned versions, and the check that they go to the right cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from comfyeks import tools
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.kubernetes import addons
from comfyeks.kubernetes.kubeconfig import leads_to, read
from comfyeks.versions import VERSIONS
from tests.support.deployment import ACCOUNT, REGION

ARN = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/comfyui"


@pytest.fixture
def ready(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Return a deployment with its values files, a kubeconfig that leads to it, and a helm that records its calls."""
    for addon in addons.ADDONS:
        if addon.has_values:
            deployment.addon_values(addon.release).parent.mkdir(parents=True, exist_ok=True)
            deployment.addon_values(addon.release).touch()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", {"prod": ARN, "other": f"{ARN}-film"})))
    monkeypatch.setattr(addons, "current", lambda *_: deployment)
    helm = tmp_path / "helm"
    helm.write_text(
        f'#!/bin/bash\n[ "$1" = list ] && echo "[]" && exit\necho "$*" >> {tmp_path}/calls\n'
        f'! grep -q "^$3$" {tmp_path}/failing 2>/dev/null\n'
    )
    helm.chmod(0o755)
    monkeypatch.setattr(tools, "helm", lambda: helm)
    return deployment


def kubeconfig(path: Path, contexts: dict[str, str], current: str | None = None) -> Path:
    entries = [{"name": name, "context": {"cluster": cluster, "user": "me"}} for name, cluster in contexts.items()]
    current = current or next(iter(contexts), None)
    path.write_text(yaml.safe_dump({"kind": "Config", "current-context": current, "contexts": entries}))
    return path


def install(*arguments: str) -> Any:
    return CliRunner().invoke(addons.app, ["install", *arguments])


def test_plan_prints_the_literal_commands_in_order(ready: Deployment) -> None:
    values = ready.dir / "addons"
    assert install("--plan").stdout.splitlines() == [
        "helm upgrade --install karpenter-crd oci://public.ecr.aws/karpenter/karpenter-crd --version 1.14.1 "
        "--namespace kube-system --wait --timeout 10m",
        "helm upgrade --install karpenter oci://public.ecr.aws/karpenter/karpenter --version 1.14.1 "
        f"--namespace kube-system --skip-crds --values {values}/karpenter.values.yaml --wait --timeout 10m",
        "helm upgrade --install aws-load-balancer-controller aws-load-balancer-controller "
        "--repo https://aws.github.io/eks-charts --version 3.5.0 --namespace kube-system "
        f"--values {values}/aws-load-balancer-controller.values.yaml --wait --timeout 10m",
        "helm upgrade --install nvidia-device-plugin nvidia-device-plugin "
        "--repo https://nvidia.github.io/k8s-device-plugin --version 0.20.0 --namespace kube-system "
        f"--values {values}/nvidia-device-plugin.values.yaml --wait --timeout 10m",
    ]


def test_plan_changes_nothing(ready: Deployment, tmp_path: Path) -> None:
    install("--plan")
    assert not (tmp_path / "calls").exists()


def test_a_mirror_replaces_the_repositories(ready: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(addons.MIRROR_VARIABLE, str(ready.dir))
    assert "has no karpenter-crd-1.14.1.tgz" in str(install("--plan").exception)
    for addon in addons.ADDONS:
        (ready.dir / f"{addon.release}-{VERSIONS['helm_charts'][addon.release]}.tgz").touch()
    printed = install("--plan").stdout
    assert f"--install karpenter {ready.dir}/karpenter-1.14.1.tgz " in printed
    assert "https://" not in printed


def test_every_add_on_has_its_pin_in_versions_yaml() -> None:
    assert {addon.release for addon in addons.ADDONS} == set(VERSIONS["helm_charts"])


def test_keda_is_installed_only_on_request(ready: Deployment) -> None:
    assert "install keda" not in install("--plan").stdout
    assert install("--plan", "--keda").stdout.splitlines()[-1].startswith("helm upgrade --install keda keda ")


def test_install_runs_helm_against_the_checked_context(ready: Deployment, tmp_path: Path) -> None:
    answer = install()
    assert answer.exit_code == 0, answer.output
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 4
    assert all(call.endswith("--kube-context prod") for call in calls)


def test_the_first_failing_add_on_ends_the_command(ready: Deployment, tmp_path: Path) -> None:
    (tmp_path / "failing").write_text("karpenter\n")
    answer = install()
    assert isinstance(answer.exception, OperationError)
    assert "`helm upgrade --install karpenter` failed" in str(answer.exception)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_context_of_another_cluster_is_refused_before_anything_runs(ready: Deployment, tmp_path: Path) -> None:
    answer = install("--context", "other")
    assert isinstance(answer.exception, UserError)
    assert "points to cluster" in str(answer.exception)
    assert "aws eks update-kubeconfig --region us-west-2 --name comfyui" in str(answer.exception)
    assert not (tmp_path / "calls").exists()


def test_unknown_context_is_refused_with_the_known_ones(ready: Deployment) -> None:
    answer = install("--context", "nope")
    assert isinstance(answer.exception, UserError)
    assert "no kubectl context 'nope' (there are: other, prod)" in str(answer.exception)


def test_missing_kubeconfig_is_refused_with_the_command_that_creates_one(
    ready: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(ready.dir / "missing"))
    answer = install()
    assert isinstance(answer.exception, UserError)
    assert "aws eks update-kubeconfig" in str(answer.exception)


def test_missing_values_file_is_refused_with_the_command_that_writes_it(ready: Deployment, tmp_path: Path) -> None:
    ready.addon_values("karpenter").unlink()
    answer = install()
    assert isinstance(answer.exception, UserError)
    assert "comfyeks infra apply" in str(answer.exception)
    assert not (tmp_path / "calls").exists()  # not even the first, which needs no values


@pytest.mark.parametrize(
    ("cluster", "leads"),
    [
        (ARN, True),
        ("comfyui", True),
        (f"comfyui.{REGION}.eksctl.io", True),
        (f"{ARN}-film", False),
        (f"arn:aws:eks:eu-west-1:{ACCOUNT}:cluster/comfyui", False),
        (f"arn:aws:eks:{REGION}:999988887777:cluster/comfyui", False),
        (f"arn:aws-cn:eks:{REGION}:{ACCOUNT}:cluster/comfyui", True),
        ("arn:aws:eks", False),
        ("comfyui-film", False),
        ("comfyui.eu-west-1.eksctl.io", False),
    ],
)
def test_a_cluster_is_recognized_by_region_account_and_name(deployment: Deployment, cluster: str, leads: bool) -> None:
    assert leads_to(cluster, deployment) is leads


def test_first_kubeconfig_wins(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "1", {"a": "one"})
    second = kubeconfig(tmp_path / "2", {"a": "two", "b": "three"}, current="b")
    merged = read({"KUBECONFIG": os.pathsep.join([str(first), str(tmp_path / "no"), str(second)])})
    assert merged == {"current-context": "a", "contexts": {"a": "one", "b": "three"}}


def test_a_file_that_is_not_a_kubeconfig_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text("contexts: [{name: a}]\n")
    with pytest.raises(UserError, match=f"{path} is not a kubeconfig"):
        read({"KUBECONFIG": str(path)})
