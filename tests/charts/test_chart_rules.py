"""Rules for every object and container in every scenario of every chart."""

from __future__ import annotations

import base64
import re
import shutil
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts import render as rendering
from comfyeks.charts.crds import karpenter_crds
from comfyeks.charts.render import render
from comfyeks.dev.chart_validation import KUBERNETES_VERSIONS, problems
from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS
from tests.charts.harness import (
    INSTANCE_TYPES,
    SCENARIOS,
    Pod,
    comfyui,
    each_scenario,
    each_workload,
    helm,
    need_tool,
    node_pools,
    scenario_of,
)
from tests.charts.pod_security import violations


def test_every_chart_has_scenarios_and_the_minimal_one_is_among_them() -> None:
    assert {chart for chart, _ in SCENARIOS} == set(CHARTS)
    assert {(chart, name) for chart in CHARTS for name in ("minimal", "everything")} <= set(SCENARIOS)


@pytest.mark.parametrize("chart", CHARTS)
def test_no_file_in_ci_is_skipped_by_its_name(chart: str) -> None:
    assert set((CHARTS_ROOT / chart / "ci").iterdir()) == {f for (c, _), f in SCENARIOS.items() if c == chart}


# The oldest and the newest for each scenario, those between for the one that has everything on.
VALIDATED = [
    (chart, scenario, kubernetes)
    for chart, scenario in SCENARIOS
    for kubernetes in KUBERNETES_VERSIONS
    if scenario == "everything" or kubernetes in (KUBERNETES_VERSIONS[0], KUBERNETES_VERSIONS[-1])
]


@pytest.mark.parametrize(("chart", "scenario", "kubernetes"), VALIDATED, ids=["-".join(case) for case in VALIDATED])
def test_every_object_is_valid_for_the_api_server(chart: str, scenario: str, kubernetes: str) -> None:
    need_tool("go")
    rendered = scenario_of(chart, scenario, kube_version=kubernetes)
    assert len(rendered) > 0
    assert problems(rendered, kubernetes) == []


def test_the_platforms_kubernetes_is_one_that_is_validated() -> None:
    assert VERSIONS["kubernetes"] in KUBERNETES_VERSIONS


def test_an_unknown_field_of_kubernetes_is_found() -> None:
    rendered = comfyui()
    rendered.get("Deployment", "comfyui")["spec"]["template"]["spec"]["nodeSelektor"] = {}
    [problem] = problems(rendered, "1.36")
    assert "nodeSelektor" in problem


def test_an_unknown_field_and_a_wrong_value_of_karpenter_are_found() -> None:
    need_tool("go")
    rendered = node_pools()
    [node_class], [pool] = rendered.of_kind("EC2NodeClass"), rendered.of_kind("NodePool")
    node_class["spec"]["rolle"] = "x"
    pool["spec"]["disruption"]["consolidationPolicy"] = "Sometimes"
    assert ["rolle" in line or "Sometimes" in line for line in problems(rendered, "1.36")] == [True, True]


def test_the_crds_are_those_of_the_karpenter_that_is_installed() -> None:
    need_tool("go")
    assert f"@v{VERSIONS['helm_charts']['karpenter']}/" in f"{karpenter_crds()}/"


@each_scenario
def test_two_renders_of_one_release_are_equal(chart: str, scenario: str) -> None:
    once, again = (helm("template", "a", CHARTS_ROOT / chart, "-f", SCENARIOS[chart, scenario]) for _ in range(2))
    assert once == again != ""


@each_scenario
def test_two_releases_have_no_name_in_common(chart: str, scenario: str) -> None:
    first = scenario_of(chart, scenario, release="one")
    second = scenario_of(chart, scenario, release="two")
    # `make infra` names the service account of the minimal scenario, for its one release.
    shared = {("ServiceAccount", "comfyui")}
    assert set(first.inventory) & set(second.inventory) <= shared


def test_the_volumes_of_equal_releases_in_two_namespaces_differ() -> None:
    volumes = [
        volume["metadata"]["name"]
        # Joined with a dash, the two would be one name.
        for release, namespace in (("c", "a-b"), ("b-c", "a"))
        for volume in comfyui(release=release, namespace=namespace).of_kind("PersistentVolume")
    ]
    assert len(volumes) == len(set(volumes)) == 4


@each_scenario
def test_every_object_has_the_labels_of_its_release(chart: str, scenario: str) -> None:
    for item in scenario_of(chart, scenario, release="mine"):
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == chart
        assert labels["app.kubernetes.io/instance"] == "mine"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


@each_workload
def test_every_namespaced_object_is_in_the_releases_namespace(scenario: str) -> None:
    cluster_wide = {"PersistentVolume"}
    for item in scenario_of("comfyui", scenario, namespace="artists"):
        assert item["metadata"].get("namespace") == (None if item["kind"] in cluster_wide else "artists")


# Scenario → containers in their order.
CONTAINERS = {
    "cognito": ["wait-for-models", "uploader", "comfyui"],
    "cpu": ["uploader", "comfyui"],
    "minimal": ["wait-for-models", "uploader", "comfyui"],
    "efs": ["wait-for-models", "uploader", "comfyui"],
    "everything": ["exporter", "wait-for-models", "uploader", "check-license", "comfyui", "thumbnails"],
    "ingress": ["wait-for-models", "uploader", "comfyui"],
    "mount": ["wait-for-models", "comfyui"],
    "mountpoint": ["uploader", "comfyui"],
    "schedule": ["wait-for-models", "uploader", "comfyui"],
}
_EACH = [(scenario, name) for scenario, names in CONTAINERS.items() for name in names]
each_container = pytest.mark.parametrize(("scenario", "name"), _EACH, ids=["-".join(key) for key in _EACH])


@each_workload
def test_the_containers_are_exactly_these(scenario: str) -> None:
    assert Pod(scenario_of("comfyui", scenario)).names == CONTAINERS[scenario]


@pytest.fixture
def container(scenario: str, name: str) -> dict[str, Any]:
    return Pod(scenario_of("comfyui", scenario)).container(name)


@each_container
def test_a_container_requests_cpu_and_memory_and_limits_memory(container: dict[str, Any]) -> None:
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


@each_container
def test_a_container_cannot_gain_rights_or_write_to_its_image(container: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_container
def test_a_container_has_an_exact_image(container: dict[str, Any]) -> None:
    assert re.fullmatch(r".+(@sha256:[0-9a-f]{64}|:\d[\w.-]*)", container["image"])


@each_container
def test_a_container_starts_with_an_init_that_passes_signals_on(container: dict[str, Any]) -> None:
    assert container["command"][:2] == ["tini", "--"]


@each_container
def test_a_container_that_listens_has_its_probes(name: str, container: dict[str, Any]) -> None:
    probes = {"startupProbe", "readinessProbe", "livenessProbe"} & set(container)
    # An exporter that is not ready must not take the server out of service.
    expected = {"livenessProbe"} if name == "exporter" else {"startupProbe", "readinessProbe", "livenessProbe"}
    assert probes == (expected if container.get("ports") else set())


@each_workload
def test_every_pod_passes_the_restricted_level(scenario: str) -> None:
    assert violations(Pod(scenario_of("comfyui", scenario)).spec) == []


def test_the_check_of_the_restricted_level_finds_violations() -> None:
    spec = Pod(comfyui()).spec
    spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    spec["securityContext"].pop("runAsNonRoot")
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert len(violations(spec)) == 1 + 3 + 1


@each_workload
def test_no_token_for_kubernetes_reaches_a_pod(scenario: str) -> None:
    rendered = scenario_of("comfyui", scenario)
    assert Pod(rendered).spec["automountServiceAccountToken"] is False
    assert all(account["automountServiceAccountToken"] is False for account in rendered.of_kind("ServiceAccount"))


@each_workload
def test_every_mount_has_its_volume_and_every_volume_a_mount(scenario: str) -> None:
    pod = Pod(scenario_of("comfyui", scenario))
    mounted = {mount["name"] for container in pod.containers for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod.spec["volumes"]}


@each_workload
def test_every_claim_of_a_pod_is_bound_to_a_volume_of_the_same_release(scenario: str) -> None:
    rendered = scenario_of("comfyui", scenario)
    claims = {
        item["metadata"]["name"]: item["spec"]["volumeName"] for item in rendered.of_kind("PersistentVolumeClaim")
    }
    volumes = {item["metadata"]["name"]: item["spec"] for item in rendered.of_kind("PersistentVolume")}
    assert sorted(claims.values()) == sorted(volumes)
    for claim, volume in claims.items():
        assert volumes[volume]["claimRef"]["name"] == claim
        assert volumes[volume]["claimRef"]["namespace"] == "comfyui"
    used = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in Pod(rendered).spec["volumes"]
        # The user brings the claim of the user folder.
        if "persistentVolumeClaim" in volume and volume["name"] != "user"
    ]
    assert sorted(used) == sorted(claims)


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_lint_passes_with_every_values_file(chart: str) -> None:
    base = SCENARIOS[chart, "minimal"]
    files = [file for (c, _), file in (SCENARIOS | INSTANCE_TYPES).items() if c == chart]
    assert len(files) > 20
    for file in files:
        # With what `make infra` writes, as each of them is used.
        helm("lint", "--strict", CHARTS_ROOT / chart, "-f", base, "-f", file)


def test_the_charts_agree_on_taint_and_label() -> None:
    """Pods of one chart must tolerate and find nodes of the other; each chart has these names in its own values."""
    spec = Pod(comfyui()).spec
    [pool] = node_pools().of_kind("NodePool")
    template = pool["spec"]["template"]
    [taint] = template["spec"]["taints"]
    assert {"operator": "Equal", **taint} in spec["tolerations"]
    assert spec["nodeSelector"].items() <= template["metadata"]["labels"].items()


def test_the_pods_grace_fits_into_the_nodes() -> None:
    [pool] = node_pools().of_kind("NodePool")
    hours = int(pool["spec"]["template"]["spec"]["terminationGracePeriod"].removesuffix("h"))
    assert Pod(comfyui()).spec["terminationGracePeriodSeconds"] < hours * 3600


def test_the_charts_name_the_versions_of_the_project() -> None:
    assert metadata("comfyui")["appVersion"] == VERSIONS["image"]["comfyui"]
    assert metadata("karpenter-gpu")["appVersion"] == VERSIONS["helm_charts"]["karpenter"]
    [node_class] = node_pools().of_kind("EC2NodeClass")
    assert node_class["spec"]["amiSelectorTerms"] == [{"alias": VERSIONS["ami_alias"]}]


def metadata(chart: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CHARTS_ROOT / chart / "Chart.yaml").read_text()))


@pytest.mark.parametrize("chart", CHARTS)
def test_a_package_renders_what_the_folder_renders_and_holds_no_scenario(chart: str, tmp_path: Path) -> None:
    helm("package", CHARTS_ROOT / chart, "--destination", tmp_path)
    [package] = tmp_path.iterdir()
    assert package.name == f"{chart}-{metadata(chart)['version']}.tgz"
    with tarfile.open(package) as archive:
        names = archive.getnames()
    assert not [name for name in names if "/ci/" in name]
    assert {f"{chart}/README.md", f"{chart}/values.schema.json", f"{chart}/LICENSE"} <= set(names)
    text = helm("template", chart, package, "-n", "comfyui", "-f", SCENARIOS[chart, "everything"])
    assert list(yaml.safe_load_all(text)) == list(scenario_of(chart, "everything"))


@pytest.mark.parametrize("chart", CHARTS)
def test_the_readme_lists_what_the_version_changes(chart: str) -> None:
    assert f"| {metadata(chart)['version']} |" in (CHARTS_ROOT / chart / "README.md").read_text()


@pytest.mark.parametrize("chart", CHARTS)
def test_a_chart_names_its_license_its_icon_and_what_this_version_changes(chart: str) -> None:
    about = metadata(chart)
    assert (CHARTS_ROOT / chart / "LICENSE").read_bytes() == (REPO_ROOT / "LICENSE").read_bytes()
    icon = (REPO_ROOT / "docs" / "pictures" / "icon.svg").read_bytes()
    assert about["icon"] == "data:image/svg+xml;base64," + base64.b64encode(icon).decode()
    assert about["sources"]
    assert about["maintainers"]
    annotations = about["annotations"]
    project = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
    assert annotations["artifacthub.io/license"] == project["license"]
    changes = yaml.safe_load(annotations["artifacthub.io/changes"])
    assert changes
    assert {change["kind"] for change in changes} <= {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert all(change["description"] for change in changes)


# Scenario → texts in its notes.
NOTES = {
    ("comfyui", "cognito"): ["open https://<address>", "get ingress comfyui"],
    ("comfyui", "cpu"): ["1 pod(s).\n", "port-forward svc/comfyui 8848"],
    ("comfyui", "minimal"): [
        "1 pod(s) with 1 GPU(s) each",
        "-c wait-for-models -f",
        "No load balancer is configured",
        "port-forward svc/comfyui 8848",
        "<pod>-<start>/",
    ],
    ("comfyui", "efs"): ["2 pod(s)", "-c wait-for-models -f"],
    ("comfyui", "everything"): ["describe targetgroupbinding comfyui", "localhost:80 "],
    ("comfyui", "ingress"): ["open https://comfyui.example.com", "get ingress comfyui", "must resolve to it"],
    ("comfyui", "mount"): ["/renders/<pod>/", "mount_outputs = true"],
    ("comfyui", "mountpoint"): ["rollout restart deploy/comfyui"],
    ("comfyui", "schedule"): ["1 to 4 pods by schedule (Europe/Berlin)"],
    ("karpenter-gpu", "changed-defaults"): ["NodePool karpenter-gpu-default", "tolerate example.com/gpu"],
    ("karpenter-gpu", "minimal"): ["comfyui-on-eks/pool=default", "Next: install the comfyui chart"],
    ("karpenter-gpu", "everything"): ["NodePool karpenter-gpu-video", "example.com/pool=video"],
}


def notes(chart: str, scenario: str, *flags: str) -> str:
    """The notes, as an object's text in a copy of the chart.

    `helm template` leaves them out, and Helm 3 shows them only where it finds a cluster.
    """
    with tempfile.TemporaryDirectory() as folder:
        templates = shutil.copytree(CHARTS_ROOT / chart, Path(folder) / chart) / "templates"
        text = (templates / "NOTES.txt").read_text()
        (templates / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{text}{{{{ end }}}}')
        (templates / "notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | toJson }}\n')
        argv = ["template", chart, templates.parent, "-f", SCENARIOS[chart, scenario], "--kube-version", "1.36"]
        made = yaml.safe_load_all(helm(*argv, *flags))
    [found] = [item["text"] for item in made if item["kind"] == "Notes"]
    return str(found)


@each_scenario
def test_the_notes_name_the_next_step(chart: str, scenario: str) -> None:
    text = notes(chart, scenario)
    for expected in NOTES[chart, scenario]:
        assert expected in text
    assert "\n\n\n" not in text
    assert "<no value>" not in text


def test_the_notes_say_that_no_monitor_could_be_created() -> None:
    assert "No PodMonitor was created" in notes("comfyui", "minimal", "--set", "monitoring.enabled=true")
    assert "No PodMonitor was created" not in notes("comfyui", "minimal")


def test_the_same_inputs_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"podLabels": {"example.com/unique-to": "this-test"}}
    comfyui(values)
    monkeypatch.setattr(rendering, "helm", lambda *_, **__: pytest.fail("rendered twice"))
    comfyui(values)


def test_changing_a_rendered_object_does_not_change_the_next_render() -> None:
    comfyui().get("Service", "comfyui")["spec"].clear()
    assert comfyui().get("Service", "comfyui")["spec"]


def test_a_render_error_has_helms_message_and_the_values() -> None:
    with pytest.raises(Exception, match=r"(?s)not set: aws.region.*replicas: 2"):
        render("comfyui", {"replicas": 2})


def test_a_missing_object_is_named_with_those_that_exist() -> None:
    with pytest.raises(LookupError, match=r"0 objects Ingress/comfyui.*Deployment"):
        comfyui().get("Ingress", "comfyui")
