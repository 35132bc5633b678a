"""What the comfyui chart renders from its values."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from comfyeks.charts import CHARTS_ROOT
from tests.charts.harness import Pod, comfyui, pod_script, scenario_of

ALWAYS = [
    ("ConfigMap", "comfyui-scripts"),
    ("Deployment", "comfyui"),
    ("PersistentVolume", "comfyui.comfyui-inputs"),
    ("PersistentVolume", "comfyui.comfyui-models"),
    ("PersistentVolumeClaim", "comfyui-inputs"),
    ("PersistentVolumeClaim", "comfyui-models"),
    ("Service", "comfyui"),
]
ACCOUNT = [("ServiceAccount", "comfyui")]
OUTPUTS = [("PersistentVolume", "comfyui.comfyui-outputs"), ("PersistentVolumeClaim", "comfyui-outputs")]


def with_models(volume: str) -> list[tuple[str, str]]:
    return [(kind, name.replace("comfyui-models", f"comfyui-{volume}")) for kind, name in ALWAYS]


@pytest.mark.parametrize(
    ("scenario", "objects"),
    [
        ("minimal", ALWAYS + ACCOUNT),
        ("cpu", ALWAYS + ACCOUNT),
        ("mount", ALWAYS + ACCOUNT + OUTPUTS),
        ("ingress", [*ALWAYS, *ACCOUNT, ("Ingress", "comfyui")]),
        ("cognito", [*ALWAYS, *ACCOUNT, ("Ingress", "comfyui")]),
        ("efs", [*with_models("models-efs"), *ACCOUNT, ("PodDisruptionBudget", "comfyui")]),
        ("schedule", [*ALWAYS, *ACCOUNT, ("PodDisruptionBudget", "comfyui"), ("ScaledObject", "comfyui")]),
        ("mountpoint", [*with_models("models-mountpoint"), *ACCOUNT]),
        (
            "everything",
            [
                *ALWAYS,
                ("NetworkPolicy", "comfyui"),
                ("PodDisruptionBudget", "comfyui"),
                ("PodMonitor", "comfyui"),
                ("PrometheusRule", "comfyui"),
                ("TargetGroupBinding", "comfyui"),
            ],
        ),
    ],
)
def test_the_objects_are_exactly_these(scenario: str, objects: list[tuple[str, str]]) -> None:
    assert scenario_of("comfyui", scenario).inventory == sorted(objects)


# -- GPU and placement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_a_pod_gets_its_gpus_and_may_run_where_they_are(count: int) -> None:
    pod = Pod(comfyui({"gpu": {"count": count}}))
    assert pod.comfyui["resources"]["limits"]["nvidia.com/gpu"] == count
    assert pod.tolerates("nvidia.com/gpu")
    assert pod.spec["nodeSelector"] == {"comfyui-on-eks/pool": "default"}
    assert "--cpu" not in pod.comfyui["args"]


def test_zero_gpus_leave_no_trace_of_the_accelerator() -> None:
    pod = Pod(comfyui({"gpu": {"count": 0}}))
    assert "nvidia.com/gpu" not in str(pod.deployment)
    assert "nodeSelector" not in pod.spec
    assert "tolerations" not in pod.spec
    assert "--cpu" in pod.comfyui["args"]


def test_only_the_server_has_a_gpu() -> None:
    pod = Pod(comfyui())
    assert [c["name"] for c in pod.containers if "nvidia.com/gpu" in str(c["resources"])] == ["comfyui"]


def test_no_pool_name_means_any_gpu_node() -> None:
    pod = Pod(comfyui({"pool": {"name": ""}}))
    assert "nodeSelector" not in pod.spec
    assert pod.tolerates("nvidia.com/gpu")


def test_the_users_selectors_and_tolerations_are_added_to_the_charts() -> None:
    pod = Pod(comfyui({"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "team", "operator": "Exists"}]}))
    assert pod.spec["nodeSelector"] == {"comfyui-on-eks/pool": "default", "zone": "a"}
    assert pod.tolerates("nvidia.com/gpu")
    assert pod.tolerates("team")


def test_resources_without_limits_still_get_the_gpu() -> None:
    pod = Pod(comfyui({"resources": {"limits": None}}))
    assert pod.comfyui["resources"]["limits"] == {"nvidia.com/gpu": 1}


# -- Image -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "repo:0.38.1"),
        ({"tag": "0.38.1-4"}, "repo:0.38.1-4"),
        ({"tag": "0.38.1-4", "digest": "sha256:" + "a" * 64}, "repo@sha256:" + "a" * 64),
    ],
    ids=["neither", "tag", "digest"],
)
def test_the_image_is_named_by_digest_else_tag_else_the_charts_version(image: dict[str, str], expected: str) -> None:
    pod = Pod(comfyui({"image": {"repository": "repo", **image}}))
    assert {container["image"] for container in pod.containers} == {expected}


def test_pull_secrets_appear_only_when_named() -> None:
    assert "imagePullSecrets" not in Pod(comfyui()).spec
    pod = Pod(comfyui({"image": {"pullSecrets": ["a", "b"]}}))
    assert pod.spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


# -- Rollout and end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spare", "rolling"), [(False, {"maxSurge": 0, "maxUnavailable": 1}), (True, {"maxSurge": 1, "maxUnavailable": 0})]
)
def test_a_rollout_needs_a_spare_gpu_only_when_asked_for(spare: bool, rolling: dict[str, int]) -> None:
    pod = Pod(comfyui({"rollout": {"spareGpu": spare}}))
    assert pod.deployment["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}


def test_zero_replicas_are_zero() -> None:
    assert Pod(comfyui({"replicas": 0})).deployment["spec"]["replicas"] == 0


def test_karpenter_may_evict_the_pod_when_its_node_is_about_to_go() -> None:
    # With do-not-disrupt it would not evict it on a spot notice either, and its jobs would be lost without a drain.
    assert "karpenter.sh/do-not-disrupt" not in Pod(comfyui()).template["metadata"]["annotations"]


def test_the_grace_period_holds_the_jobs_and_then_the_uploads() -> None:
    pod = Pod(comfyui({"drain": {"jobSeconds": 60, "uploadSeconds": 30}}))
    assert pod.spec["terminationGracePeriodSeconds"] == 90
    assert pod.env("comfyui")["DRAIN_SECONDS"] == "60"
    assert pod.comfyui["lifecycle"]["preStop"]["exec"]["command"] == ["python", "/opt/comfyui-on-eks/drain.py"]


def test_a_change_of_a_script_starts_new_pods_and_a_new_chart_version_alone_does_not() -> None:
    template = Pod(comfyui()).template
    assert template["metadata"]["annotations"]["checksum/scripts"]
    assert set(template["metadata"]["labels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}


# -- Probes ----------------------------------------------------------------------------------------------------------


def test_probes_use_what_shows_started_ready_and_alive() -> None:
    server = Pod(comfyui()).comfyui
    assert server["startupProbe"]["httpGet"] == {"path": "/system_stats", "port": "http"}
    assert server["readinessProbe"]["httpGet"] == {"path": "/system_stats", "port": "http"}
    assert server["livenessProbe"]["httpGet"] == {"path": "/prompt", "port": "http"}


@pytest.mark.parametrize("seconds", [10, 600, 601, 1800])
def test_the_start_has_at_least_its_seconds(seconds: int) -> None:
    probe = Pod(comfyui({"server": {"startSeconds": seconds}})).comfyui["startupProbe"]
    assert 0 <= probe["periodSeconds"] * probe["failureThreshold"] - seconds < probe["periodSeconds"]


def test_a_busy_server_is_left_alive_for_minutes() -> None:
    probe = Pod(comfyui()).comfyui["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 180
    assert probe["timeoutSeconds"] >= 30


# -- Volumes ---------------------------------------------------------------------------------------------------------


def test_models_are_the_nodes_folder_which_must_exist_and_is_read_only() -> None:
    rendered = comfyui()
    volume = rendered.get("PersistentVolume", "comfyui.comfyui-models")
    assert volume["spec"]["hostPath"] == {"path": "/comfyui-models", "type": "Directory"}
    assert volume["spec"]["accessModes"] == ["ReadOnlyMany"]
    pod = Pod(rendered)
    for name in ("comfyui", "wait-for-models"):
        [mount] = [m for m in pod.container(name)["volumeMounts"] if m["name"] == "models"]
        assert mount == {"name": "models", "mountPath": "/app/ComfyUI/models", "readOnly": True}


def test_static_volumes_have_no_storage_class_and_keep_their_data() -> None:
    rendered = scenario_of("comfyui", "mount")
    assert len(rendered.of_kind("PersistentVolume")) == 3
    for item in (*rendered.of_kind("PersistentVolume"), *rendered.of_kind("PersistentVolumeClaim")):
        assert item["spec"]["storageClassName"] == ""
    for volume in rendered.of_kind("PersistentVolume"):
        assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


def mountpoint(values: dict[str, Any], name: str) -> dict[str, Any]:
    spec = comfyui(values).get("PersistentVolume", f"comfyui.comfyui-{name}")["spec"]
    return {**spec["csi"], "options": spec["mountOptions"]}


def test_inputs_can_be_overwritten_and_deleted_by_the_pods_user() -> None:
    volume = mountpoint({"inputs": {"bucket": "uploads"}}, "inputs")
    assert volume["driver"] == "s3.csi.aws.com"
    assert volume["volumeAttributes"] == {"bucketName": "uploads"}
    expected = {"region us-west-2", "allow-other", "uid=10001", "gid=10001", "allow-delete", "allow-overwrite"}
    assert set(volume["options"]) == expected


def test_mounted_outputs_can_be_neither_overwritten_nor_deleted() -> None:
    volume = mountpoint({"outputs": {"mode": "mount", "bucket": "out"}}, "outputs")
    assert volume["volumeAttributes"] == {"bucketName": "out"}
    assert not {"allow-delete", "allow-overwrite"} & set(volume["options"])


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_a_prefix_is_mounted_only_when_given(what: str) -> None:
    mode = {"mode": "mount"} if what == "outputs" else {}
    assert not [o for o in mountpoint({what: mode}, what)["options"] if "prefix" in o]
    assert "prefix team/a/" in mountpoint({what: {**mode, "prefix": "team/a/"}}, what)["options"]


def test_every_mountpoint_volume_has_a_handle_of_its_own() -> None:
    handles = [
        volume["spec"]["csi"]["volumeHandle"]
        for release in ("one", "two")
        for volume in scenario_of("comfyui", "mount", release=release).of_kind("PersistentVolume")
        if "csi" in volume["spec"]
    ]
    assert len(handles) == len(set(handles)) == 4


def test_other_files_than_results_are_private_to_the_pod() -> None:
    pod = Pod(comfyui())
    for name in ("user", "scratch", "output", "uploader"):
        assert pod.volume(name) == {"name": name, "emptyDir": {}}
    assert "--temp-directory=/tmp" in pod.comfyui["args"]
    assert "--database-url=sqlite:////app/ComfyUI/user/comfyui.db" in pod.comfyui["args"]


@pytest.mark.parametrize(("point", "handle"), [("", "fs-01"), ("fsap-02", "fs-01::fsap-02")])
def test_models_on_efs_are_read_encrypted_and_read_only(point: str, handle: str) -> None:
    efs = {"fileSystemId": "fs-01", "accessPointId": point}
    rendered = comfyui({"models": {"source": "efs", "efs": efs, "gate": "none"}})
    spec = rendered.get("PersistentVolume", "comfyui.comfyui-models-efs")["spec"]
    assert spec["csi"] == {"driver": "efs.csi.aws.com", "volumeHandle": handle}
    assert spec["mountOptions"] == ["tls", "ro"]
    assert Pod(rendered).volume("models")["persistentVolumeClaim"] == {
        "claimName": "comfyui-models-efs",
        "readOnly": True,
    }


def test_models_of_a_bucket_are_read_only_and_cached_within_a_limit() -> None:
    models = {"source": "mountpoint", "mountpoint": {"bucket": "big", "cacheGiB": 7}, "gate": "none"}
    spec = comfyui({"models": models}).get("PersistentVolume", "comfyui.comfyui-models-mountpoint")["spec"]
    assert spec["csi"]["volumeAttributes"] == {
        "bucketName": "big",
        "cache": "emptyDir",
        "cacheEmptyDirSizeLimit": "7Gi",
    }
    assert set(spec["mountOptions"]) == {"region us-west-2", "allow-other", "uid=10001", "gid=10001", "read-only"}
    assert spec["accessModes"] == ["ReadOnlyMany"]


def test_another_source_of_models_is_another_volume_because_one_cannot_change() -> None:
    names = {
        kind: {
            name
            for scenario in ("minimal", "efs", "mountpoint")
            for k, name in scenario_of("comfyui", scenario).inventory
            if k == kind and "models" in name
        }
        for kind in ("PersistentVolume", "PersistentVolumeClaim")
    }
    assert [len(found) for found in names.values()] == [3, 3]


def test_a_user_folder_that_stays_holds_no_database() -> None:
    pod = Pod(comfyui({"userFolder": {"existingClaim": "people"}}))
    assert pod.volume("user")["persistentVolumeClaim"] == {"claimName": "people"}
    assert "--user-directory=/app/ComfyUI/user" in pod.comfyui["args"]
    assert "--database-url=sqlite:////tmp/comfyui.db" in pod.comfyui["args"]


# -- Several pods ----------------------------------------------------------------------------------------------------


def test_one_pod_has_neither_a_budget_nor_a_spread() -> None:
    for replicas in (0, 1):
        rendered = comfyui({"replicas": replicas})
        assert rendered.of_kind("PodDisruptionBudget") == []
        assert "topologySpreadConstraints" not in Pod(rendered).spec


def test_of_several_pods_one_may_be_away() -> None:
    rendered = comfyui({"replicas": 2})
    [budget] = rendered.of_kind("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["spec"]["selector"] == Pod(rendered).deployment["spec"]["selector"]


@pytest.mark.parametrize(("spread", "policy"), [("prefer", "ScheduleAnyway"), ("require", "DoNotSchedule")])
def test_several_pods_are_spread_over_zones(spread: str, policy: str) -> None:
    pod = Pod(comfyui({"replicas": 2, "zoneSpread": spread}))
    [constraint] = pod.spec["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["whenUnsatisfiable"]) == ("topology.kubernetes.io/zone", policy)
    assert constraint["labelSelector"] == pod.deployment["spec"]["selector"]


def test_no_spread_unless_requested() -> None:
    assert "topologySpreadConstraints" not in Pod(comfyui({"replicas": 2, "zoneSpread": "none"})).spec


# -- Schedule --------------------------------------------------------------------------------------------------------

DAY = {"start": "0 8 * * 1-5", "end": "0 20 * * 1-5", "replicas": 2}


def schedule(*windows: dict[str, Any], **values: Any) -> dict[str, Any]:
    [scaled] = comfyui({"schedule": {"windows": list(windows), **values}}).of_kind("ScaledObject")
    return dict(scaled["spec"])


def test_the_schedule_uses_its_time_zone() -> None:
    spec = schedule(DAY, timezone="Europe/Berlin")
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "comfyui"}
    [trigger] = spec["triggers"]
    assert trigger == {
        "type": "cron",
        "metadata": {
            "timezone": "Europe/Berlin",
            "start": "0 8 * * 1-5",
            "end": "0 20 * * 1-5",
            "desiredReplicas": "2",
        },
    }


def test_outside_the_windows_there_is_no_pod_and_so_no_gpu_node() -> None:
    assert schedule(DAY)["minReplicaCount"] == 0
    assert schedule(DAY, outside=1)["minReplicaCount"] == 1


def test_overlapping_windows_allow_the_largest_number_of_pods() -> None:
    assert schedule(DAY, {**DAY, "replicas": 4}, {**DAY, "replicas": 3})["maxReplicaCount"] == 4
    assert schedule(DAY, outside=5)["maxReplicaCount"] == 5


def test_an_upgrade_keeps_the_number_of_pods_of_the_schedule() -> None:
    assert "replicas" not in Pod(comfyui({"schedule": {"windows": [DAY]}})).deployment["spec"]
    assert Pod(comfyui({"replicas": 2})).deployment["spec"]["replicas"] == 2


# -- Monitoring ------------------------------------------------------------------------------------------------------

MONITORING_KINDS = ("PodMonitor", "PrometheusRule")


@pytest.mark.parametrize(
    ("enabled", "objects", "known", "made"),
    [
        (True, "auto", True, True),
        (True, "auto", False, False),
        (True, "always", False, True),
        (True, "never", True, False),
        (False, "always", True, False),
    ],
)
def test_monitoring_objects_are_created_where_their_crds_are_or_when_requested(
    enabled: bool, objects: str, known: bool, made: bool
) -> None:
    apis = [f"monitoring.coreos.com/v1/{kind}" for kind in MONITORING_KINDS] if known else []
    rendered = comfyui({"monitoring": {"enabled": enabled, "objects": objects}}, api_versions=apis)
    assert [bool(rendered.of_kind(kind)) for kind in MONITORING_KINDS] == [made, made]
    assert ("exporter" in Pod(rendered).names) is enabled


def test_the_exporter_reports_models_before_the_readiness_gate_and_uploads_until_the_end() -> None:
    pod = Pod(comfyui({"monitoring": {"enabled": True}}))
    assert pod.names == ["exporter", "wait-for-models", "uploader", "comfyui"]
    assert pod.container("exporter")["restartPolicy"] == "Always"
    env = pod.env("exporter")
    assert pod.mounts("exporter")[env["MODELS_DIR"]] == "models"
    assert pod.mounts("exporter")[env["UPLOADER_STATE"]] == pod.mounts("uploader")[pod.env("uploader")["STATE_DIR"]]
    assert all(mount["readOnly"] for mount in pod.container("exporter")["volumeMounts"])
    assert pod.container("exporter")["ports"] == [
        {"name": "metrics", "containerPort": int(env["METRICS_PORT"]), "protocol": "TCP"}
    ]


def test_the_exporter_reads_no_uploader_that_does_not_exist() -> None:
    pod = Pod(comfyui({"monitoring": {"enabled": True}, "outputs": {"mode": "mount"}}))
    assert "UPLOADER_STATE" not in pod.env("exporter")
    assert "uploader" not in pod.mounts("exporter").values()


def test_alerts_are_about_this_releases_pods_and_existing_metrics() -> None:
    exporter = pod_script("exporter")
    rendered = comfyui({"monitoring": {"enabled": True, "objects": "always"}}, release="studio", namespace="film")
    [group] = rendered.get("PrometheusRule", "studio")["spec"]["groups"]
    assert len(group["rules"]) == 8
    for rule in group["rules"]:
        assert 'namespace="film",pod=~"studio-[a-z0-9]+-[a-z0-9]+"' in rule["expr"]
        for metric in re.findall(r"comfyui_\w+", rule["expr"]):
            assert metric.removesuffix("_bucket") in exporter.HELP
        assert rule["annotations"]["summary"].startswith("{{ $labels.namespace }}/{{ $labels.pod }}: ")


@pytest.mark.parametrize(("gate", "metric"), [("all", "comfyui_models_ready"), ("first", "comfyui_models_first_ready")])
def test_a_server_that_waits_for_its_models_is_not_down(gate: str, metric: str) -> None:
    rendered = comfyui({"monitoring": {"enabled": True, "objects": "always"}, "models": {"gate": gate}})
    [group] = rendered.get("PrometheusRule", "comfyui")["spec"]["groups"]
    [down] = [rule for rule in group["rules"] if rule["alert"] == "ComfyUIDown"]
    assert down["expr"].endswith(f"unless on (namespace, pod) {metric} == 0")


def test_the_monitor_finds_the_pods_and_the_named_port() -> None:
    rendered = scenario_of("comfyui", "everything")
    monitor = rendered.get("PodMonitor", "comfyui")
    assert monitor["spec"]["selector"] == Pod(rendered).deployment["spec"]["selector"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"]) == ("metrics", "60s")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_a_policy_allows_prometheus_only_the_metrics() -> None:
    rendered = scenario_of("comfyui", "everything")
    server, metrics = rendered.get("NetworkPolicy", "comfyui")["spec"]["ingress"]
    assert server["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert metrics["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


# -- The user's own parts ----------------------------------------------------------------------------------------------


def test_the_users_volumes_mounts_variables_and_containers_come_after_the_charts() -> None:
    pod = Pod(scenario_of("comfyui", "everything"))
    assert pod.spec["volumes"][-1] == {"name": "fonts", "configMap": {"name": "fonts"}}
    assert pod.comfyui["volumeMounts"][-1]["mountPath"] == "/usr/share/fonts/team"
    assert pod.comfyui["env"][-1] == {"name": "HF_HUB_OFFLINE", "value": "1"}
    assert pod.spec["containers"][-1]["name"] == "thumbnails"
    assert pod.spec["initContainers"][-1]["name"] == "check-license"


def test_every_name_that_the_chart_uses_is_refused() -> None:
    text = (CHARTS_ROOT / "comfyui" / "templates" / "_pod.tpl").read_text()
    pods = [Pod(scenario_of("comfyui", scenario)) for scenario in ("minimal", "mount", "efs", "mountpoint")]
    pods.append(Pod(comfyui({"monitoring": {"enabled": True}})))
    for pod in pods:
        own = {*pod.names, *(volume["name"] for volume in pod.spec["volumes"]), *pod.env("comfyui")}
        assert {name for name in own if f'"{name}"' not in text} == set()


# -- Outputs ---------------------------------------------------------------------------------------------------------


def test_upload_mode_watches_the_folder_that_the_server_writes_to() -> None:
    pod = Pod(comfyui({"outputs": {"bucket": "out", "prefix": "renders/", "keepLocalGiB": 7}}))
    assert pod.mounts("uploader")["/app/ComfyUI/output"] == pod.mounts("comfyui")["/app/ComfyUI/output"] == "output"
    env = pod.env("uploader")
    assert env["OUTPUT_DIR"] == "/app/ComfyUI/output"
    assert (env["OUTPUTS_BUCKET"], env["OUTPUTS_PREFIX"], env["AWS_REGION"]) == ("out", "renders/", "us-west-2")
    assert env["KEEP_LOCAL_GIB"] == "7"
    assert env["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert pod.mounts("uploader")[env["STATE_DIR"]] == "uploader"


def test_the_uploader_lives_as_long_as_the_server_and_longer() -> None:
    assert Pod(comfyui()).container("uploader")["restartPolicy"] == "Always"


def test_mount_mode_has_no_uploader_and_a_folder_per_pod() -> None:
    pod = Pod(comfyui({"outputs": {"mode": "mount"}}))
    assert "uploader" not in pod.names
    assert "--output-directory=/app/ComfyUI/output/$(POD_NAME)" in pod.comfyui["args"]
    assert pod.volume("output")["persistentVolumeClaim"] == {"claimName": "comfyui-outputs"}


# -- Readiness gate --------------------------------------------------------------------------------------------------


def test_the_readiness_gate_is_the_first_container() -> None:
    pod = Pod(comfyui())
    assert pod.names[0] == "wait-for-models"
    assert "restartPolicy" not in pod.container("wait-for-models")
    assert pod.env("wait-for-models")["MODELS_DIR"] == "/app/ComfyUI/models"


@pytest.mark.parametrize("gate", ["all", "first"])
def test_the_readiness_gate_waits_for_what_the_values_say(gate: str) -> None:
    env = Pod(comfyui({"models": {"gate": gate}})).env("wait-for-models")
    assert env["MODELS_GATE"] == gate
    assert "MODEL_KEYS" not in env


def test_the_readiness_gate_of_keys_gets_them() -> None:
    env = Pod(scenario_of("comfyui", "efs")).env("wait-for-models")
    assert env["MODELS_GATE"] == "keys"
    assert json.loads(env["MODEL_KEYS"]) == ["checkpoints/base.safetensors", "loras/team/look.safetensors"]


def test_no_readiness_gate_when_it_is_off() -> None:
    assert "wait-for-models" not in Pod(comfyui({"models": {"gate": "none"}})).names


# -- Server ----------------------------------------------------------------------------------------------------------


def test_the_users_arguments_come_last() -> None:
    pod = Pod(comfyui({"server": {"extraArgs": ["--preview-method=auto", "--fast"]}}))
    assert pod.comfyui["args"][-2:] == ["--preview-method=auto", "--fast"]


def test_the_server_listens_on_the_port_of_the_service_and_the_probes() -> None:
    rendered = comfyui()
    [port] = rendered.get("Service", "comfyui")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8848, "http")
    assert Pod(rendered).comfyui["ports"] == [{"name": "http", "containerPort": 8848, "protocol": "TCP"}]
    assert {"--listen=0.0.0.0", "--port=8848"} <= set(Pod(rendered).comfyui["args"])


def test_the_service_selects_the_pods_and_keeps_a_client_on_one() -> None:
    rendered = comfyui()
    spec = rendered.get("Service", "comfyui")["spec"]
    pod = Pod(rendered)
    assert spec["selector"].items() <= pod.template["metadata"]["labels"].items()
    assert pod.deployment["spec"]["selector"]["matchLabels"].items() <= pod.template["metadata"]["labels"].items()
    assert spec["sessionAffinity"] == "ClientIP"


def test_service_annotations_and_pod_metadata_are_added_to_the_charts() -> None:
    rendered = comfyui({"service": {"annotations": {"a": "b"}}, "podLabels": {"c": "d"}, "podAnnotations": {"e": "f"}})
    assert rendered.get("Service", "comfyui")["metadata"]["annotations"] == {"a": "b"}
    metadata = Pod(rendered).template["metadata"]
    assert metadata["labels"]["c"] == "d"
    assert metadata["annotations"]["e"] == "f"
    assert "annotations" not in comfyui().get("Service", "comfyui")["metadata"]


# -- Exposure ---------------------------------------------------------------------------------------------------------

TARGET_GROUP = "arn:aws:elasticloadbalancing:us-west-2:123456789012:targetgroup/comfyui/0123456789abcdef"
CERTIFICATE = "arn:aws:acm:us-west-2:123456789012:certificate/0"
ALB = "alb.ingress.kubernetes.io"


def alb(**values: Any) -> dict[str, str]:
    """The annotations of the Ingress, without their prefix."""
    found = comfyui({"ingress": {"enabled": True, **values}}).get("Ingress", "comfyui")["metadata"]["annotations"]
    return {key.removeprefix(f"{ALB}/"): value for key, value in found.items()}


def test_pods_register_with_a_target_group_that_exists() -> None:
    rendered = comfyui({"loadBalancer": {"targetGroupArn": TARGET_GROUP}, "service": {"port": 80}})
    assert rendered.get("TargetGroupBinding", "comfyui")["spec"] == {
        "targetGroupARN": TARGET_GROUP,
        "targetType": "ip",
        "serviceRef": {"name": "comfyui", "port": 80},
    }


def test_an_ingress_is_inside_the_vpc_and_suits_long_websockets_to_one_pod() -> None:
    rendered = comfyui({"ingress": {"enabled": True}})
    spec = rendered.get("Ingress", "comfyui")["spec"]
    assert spec["ingressClassName"] == "alb"
    [rule] = spec["rules"]
    assert "host" not in rule
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "comfyui", "port": {"name": "http"}}
    made = alb()
    assert made["scheme"] == "internal"
    assert made["target-type"] == "ip"
    assert "idle_timeout.timeout_seconds=3900" in made["load-balancer-attributes"]
    assert made["healthcheck-path"] == "/system_stats"
    assert made["listen-ports"] == '[{"HTTP": 80}]'
    assert not {"certificate-arn", "ssl-redirect", "auth-type", "inbound-cidrs"} & set(made)


def test_the_load_balancer_keeps_a_pod_until_it_ends() -> None:
    rendered = comfyui({"ingress": {"enabled": True, "stickySeconds": 60}, "drain": {"jobSeconds": 70}})
    annotations = rendered.get("Ingress", "comfyui")["metadata"]["annotations"]
    attributes = dict(item.split("=") for item in annotations[f"{ALB}/target-group-attributes"].split(","))
    assert int(attributes["deregistration_delay.timeout_seconds"]) == 190
    assert Pod(rendered).spec["terminationGracePeriodSeconds"] == 190
    assert attributes["stickiness.lb_cookie.duration_seconds"] == "60"
    assert (attributes["stickiness.enabled"], attributes["stickiness.type"]) == ("true", "lb_cookie")


def test_a_certificate_means_https_only() -> None:
    made = alb(certificateArn=CERTIFICATE)
    assert made["certificate-arn"] == CERTIFICATE
    assert (made["ssl-redirect"], made["listen-ports"]) == ("443", '[{"HTTP": 80}, {"HTTPS": 443}]')


def test_people_sign_in_with_cognito() -> None:
    pool = {"userPoolArn": "arn:aws:cognito-idp:us-west-2:1:userpool/x", "clientId": "c", "domain": "d"}
    made = alb(certificateArn=CERTIFICATE, signIn={"type": "cognito", "cognito": pool})
    assert (made["auth-type"], made["auth-on-unauthenticated-request"]) == ("cognito", "authenticate")
    expected = {"userPoolARN": pool["userPoolArn"], "userPoolClientID": "c", "userPoolDomain": "d"}
    assert json.loads(made["auth-idp-cognito"]) == expected
    assert "auth-idp-oidc" not in made


def test_people_sign_in_with_oidc_whose_secret_is_not_in_the_release() -> None:
    rendered = scenario_of("comfyui", "ingress")
    ingress = rendered.get("Ingress", "comfyui")
    made = ingress["metadata"]["annotations"]
    assert json.loads(made[f"{ALB}/auth-idp-oidc"])["secretName"] == "comfyui-oidc"
    assert set(json.loads(made[f"{ALB}/auth-idp-oidc"])) == {
        "issuer", "authorizationEndpoint", "tokenEndpoint", "userInfoEndpoint", "secretName",
    }  # fmt: skip
    assert made[f"{ALB}/inbound-cidrs"] == "198.51.100.0/24,203.0.113.7/32"
    assert made[f"{ALB}/tags"] == "team=film"
    assert ingress["spec"]["rules"][0]["host"] == "comfyui.example.com"


# -- Network policy ----------------------------------------------------------------------------------------------------


def policy(**values: Any) -> dict[str, Any]:
    rendered = comfyui({"networkPolicy": {"enabled": True, "vpcCidrs": ["10.0.0.0/16"], **values}})
    return dict(rendered.get("NetworkPolicy", "comfyui")["spec"])


def test_a_policy_without_allowed_sources_lets_nothing_in() -> None:
    spec = policy()
    assert spec["ingress"] == []
    assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_a_policy_covers_the_pods_and_no_others() -> None:
    rendered = scenario_of("comfyui", "everything")
    selected = rendered.get("NetworkPolicy", "comfyui")["spec"]["podSelector"]["matchLabels"]
    assert selected == Pod(rendered).deployment["spec"]["selector"]["matchLabels"]


def test_the_load_balancer_and_allowed_sources_reach_only_the_server() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "pipeline"}}}
    [rule] = policy(loadBalancerCidrs=["10.0.1.0/24"], allowFrom=[peer])["ingress"]
    assert rule["from"] == [{"ipBlock": {"cidr": "10.0.1.0/24"}}, peer]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]


def test_pods_can_reach_dns_https_outside_and_pod_identity() -> None:
    own = {"to": [{"ipBlock": {"cidr": "10.0.9.0/28"}}]}
    dns, https, identity, last = policy(egress=[own])["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    [outside] = https["to"]
    assert outside["ipBlock"] == {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/16", "169.254.0.0/16"]}
    assert https["ports"] == [{"protocol": "TCP", "port": 443}]
    assert identity["to"] == [{"ipBlock": {"cidr": "169.254.170.23/32"}}]
    assert identity["ports"] == [{"protocol": "TCP", "port": 80}]
    assert last == own


# -- Service account -------------------------------------------------------------------------------------------------


def test_the_service_account_has_the_name_of_the_release_by_default() -> None:
    rendered = comfyui({"serviceAccount": {"name": ""}}, release="studio")
    assert Pod(rendered).spec["serviceAccountName"] == "studio"
    assert rendered.get("ServiceAccount", "studio")
    named = comfyui({"serviceAccount": {"name": "artists"}}, release="studio")
    assert Pod(named).spec["serviceAccountName"] == "artists"


def test_an_existing_service_account_is_used_and_not_created() -> None:
    rendered = comfyui({"serviceAccount": {"create": False, "name": "artists"}})
    assert rendered.of_kind("ServiceAccount") == []
    assert Pod(rendered).spec["serviceAccountName"] == "artists"


# -- Upgrade ---------------------------------------------------------------------------------------------------------


def test_an_upgrade_from_least_to_most_keeps_what_kubernetes_cannot_change() -> None:
    """Selectors of a Deployment, and names of claims and volumes."""

    def immutable(scenario: str) -> Any:
        rendered = scenario_of("comfyui", scenario)
        claims = {name for kind, name in rendered.inventory if kind == "PersistentVolumeClaim"}
        return Pod(rendered).deployment["spec"]["selector"], claims - {"comfyui-outputs"}

    assert immutable("minimal") == immutable("everything") == immutable("mount") == immutable("cpu")
