"""The chart's schedule with KEDA's real operator: KEDA accepts the ScaledObject, and `comfyeks scale` works with it.

Without KEDA's metrics adapter pods scale only between none and one, and by `comfyeks scale`.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from comfyeks import scale
from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.crds import crd_folder
from comfyeks.kubernetes.api import is_true
from comfyeks_local.cluster import binaries, certificates
from comfyeks_local.processes import Process, free_ports
from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("cluster")]

RELEASE = "timed"
ALWAYS = {"start": "0 0 * * *", "end": "59 23 * * *"}


def half_a_year_away() -> dict[str, str]:
    month = (datetime.datetime.now(datetime.UTC).month + 5) % 12 + 1
    return {"start": f"0 0 1 {month} *", "end": f"1 0 1 {month} *"}


@pytest.fixture
def keda(cluster: Cluster, tmp_path: Path) -> Iterator[Process]:
    program = binaries.found().get("keda")
    if program is None:
        pytest.skip("KEDA is not built: `comfyeks local build --keda` builds it (8 minutes of CPU time)")
    for crd in crd_folder("github.com/kedacore/keda/v2").glob("*.yaml"):
        for item in yaml.safe_load_all(crd.read_text()):
            cluster.api.apply(item)
    ca = certificates.authority()
    pair = certificates.issue(ca, "keda-operator", hosts=["localhost"])
    for name, content in {"ca.crt": ca.certificate, "tls.crt": pair.certificate, "tls.key": pair.key}.items():
        (tmp_path / name).write_bytes(content)
    probe, metrics = free_ports(2)
    operator = Process(tmp_path, "keda")
    operator.start(
        [
            program, "--enable-prometheus-metrics=false", f"--health-probe-bind-address=127.0.0.1:{probe}",
            f"--metrics-service-bind-address=127.0.0.1:{metrics}", f"--cert-dir={tmp_path}",
            "--enable-webhook-patching=false", "--enable-apiservice-patching=false",
        ],
        {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(cluster.kubeconfig),
            "WATCH_NAMESPACE": "", "POD_NAMESPACE": "default", "KEDA_CLUSTER_OBJECT_NAMESPACE": "default",
        },
    )  # fmt: skip
    yield operator
    operator.kill()


def test_the_schedule_of_the_chart_and_comfyeks_scale_agree(
    cluster: Cluster, namespace: str, keda: Process, eventually: Callable[..., None]
) -> None:
    api = cluster.api

    def install(window: dict[str, str]) -> None:
        assignments = [f"schedule.windows[0].{key}={value}" for key, value in {**window, "replicas": "2"}.items()]
        sets = [argument for each in assignments for argument in ("--set", each)]
        values = ["--values", str(CHARTS_ROOT / "comfyui/ci/minimal-values.yaml")]
        cluster.helm("upgrade", "--install", RELEASE, CHARTS_ROOT / "comfyui", "--namespace", namespace, *values, *sets)

    def pods() -> int:
        return int((api.get("Deployment", namespace, RELEASE) or {})["spec"]["replicas"])

    def is_now(condition: str, wanted: bool = True) -> Callable[[], bool]:
        return lambda: is_true(api.get("ScaledObject", namespace, RELEASE) or {}, condition) is wanted

    def explain() -> object:
        return (api.get("ScaledObject", namespace, RELEASE) or {}).get("status"), keda.tail()

    install(ALWAYS)
    eventually("KEDA accepts it", is_now("Ready"), explain)
    eventually("the window is now", is_now("Active"), explain)
    [hpa] = api.cluster.list(f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers")
    assert hpa["spec"]["maxReplicas"] == 2

    scale.scale(api.cluster, namespace, RELEASE, 0)
    eventually("no pod, though the window is now", lambda: pods() == 0, explain)
    scale.scale(api.cluster, namespace, RELEASE, 2)
    eventually("two pods", lambda: pods() == 2, explain)
    scale.scale(api.cluster, namespace, RELEASE, 0)
    eventually("no pod again", lambda: pods() == 0, explain)
    scale.scale(api.cluster, namespace, RELEASE, None)
    eventually("the schedule brings one back", lambda: pods() == 1, explain)

    install(half_a_year_away())
    # Five minutes in the chart.
    api.patch("ScaledObject", namespace, RELEASE, {"spec": {"cooldownPeriod": 1}})
    eventually("the window is over", is_now("Active", wanted=False), explain)
    eventually("no pod outside of the windows", lambda: pods() == 0, explain)
    cluster.helm("uninstall", RELEASE, "--namespace", namespace)
    eventually("nothing remains", lambda: not cluster.of_release(RELEASE), lambda: cluster.of_release(RELEASE))
