"""The load balancer and the chart's pods fit together, and so do CloudFront and sign-in before them."""

from __future__ import annotations

import pytest

from comfyeks.charts.render import RenderError, render
from comfyeks.paths import REPO_ROOT

from .conftest import Plan

GROUP = "aws_lb_target_group.pods[0]"
CHART = {
    "aws": {"region": "us-west-2"},
    "image": {"repository": "registry.example/comfyui"},
    "inputs": {"bucket": "inputs"},
    "outputs": {"bucket": "outputs"},
}


def chart(**values: object) -> object:
    return render("comfyui", values={**CHART, **values})


def pod() -> dict[str, object]:
    [deployment] = render("comfyui", values=CHART).of_kind("Deployment")
    spec: dict[str, object] = deployment["spec"]["template"]["spec"]
    return spec


def comfyui() -> dict[str, object]:
    [container] = [c for c in pod()["containers"] if c["name"] == "comfyui"]  # type: ignore[attr-defined]
    return container  # type: ignore[no-any-return]


def ingress_annotations() -> dict[str, str]:
    [ingress] = render("comfyui", values={**CHART, "ingress": {"enabled": True}}).of_kind("Ingress")
    prefix = "alb.ingress.kubernetes.io/"
    return {name.removeprefix(prefix): value for name, value in ingress["metadata"]["annotations"].items()}


def test_pod_keeps_its_connections_for_the_longest_grace_period_that_the_chart_takes(platform_plan: Plan) -> None:
    """A longer delay has no cost: a target without connections is deregistered at once."""
    delay = int(platform_plan.resources[GROUP]["deregistration_delay"])
    assert delay >= int(str(pod()["terminationGracePeriodSeconds"]))
    chart(drain={"jobSeconds": delay - 10, "uploadSeconds": 10})
    with pytest.raises(RenderError, match=f"{delay} are allowed"):
        chart(drain={"jobSeconds": delay - 9, "uploadSeconds": 10})


def test_load_balancers_health_check_is_the_pods_readiness_probe(platform_plan: Plan) -> None:
    [check] = platform_plan.resources[GROUP]["health_check"]
    probe = comfyui()["readinessProbe"]
    assert check["path"] == probe["httpGet"]["path"]  # type: ignore[index]
    assert check["timeout"] >= probe["timeoutSeconds"]  # type: ignore[index]
    assert check["matcher"] == "200"
    assert check["port"] in (None, "traffic-port")  # the pods themselves, past any sign-in


def test_load_balancer_may_reach_the_port_of_the_pods(platform_plan: Plan) -> None:
    [port] = [p["containerPort"] for p in comfyui()["ports"] if p["name"] == "http"]  # type: ignore[attr-defined]
    rules = (
        "aws_vpc_security_group_egress_rule.pods[0]",
        "aws_vpc_security_group_ingress_rule.pods_from_load_balancer[0]",
    )
    for rule in rules:
        assert (platform_plan.resources[rule]["from_port"], platform_plan.resources[rule]["to_port"]) == (port, port)
    assert platform_plan.resources[GROUP]["port"] == port


def test_both_ways_to_create_a_load_balancer_give_the_same_behaviour(
    platform_plan: Plan, everything_plan: Plan
) -> None:
    """Terraform's and the one that the chart's Ingress asks the controller for."""
    annotations = ingress_annotations()
    balancer = platform_plan.resources["aws_lb.this[0]"]
    [stickiness] = platform_plan.resources[GROUP]["stickiness"]
    [check] = platform_plan.resources[GROUP]["health_check"]
    attributes = annotations["load-balancer-attributes"] + "," + annotations["target-group-attributes"]
    assert f"idle_timeout.timeout_seconds={balancer['idle_timeout']}," in attributes
    assert "drop_invalid_header_fields.enabled=true" in attributes
    assert balancer["drop_invalid_header_fields"]
    assert f"stickiness.type={stickiness['type']}" in attributes
    assert f"duration_seconds={stickiness['cookie_duration']}," in attributes
    assert annotations["healthcheck-path"] == check["path"]
    assert annotations["healthcheck-interval-seconds"] == str(check["interval"])
    assert annotations["healthcheck-timeout-seconds"] == str(check["timeout"])
    policy = everything_plan.resources["aws_lb_listener.https[0]"]["ssl_policy"]
    assert f"ssl-policy: {policy}" in (REPO_ROOT / "charts/comfyui/templates/_alb.tpl").read_text()


def test_a_silent_job_keeps_its_connection_for_over_an_hour(platform_plan: Plan, everything_plan: Plan) -> None:
    idle = platform_plan.resources["aws_lb.this[0]"]["idle_timeout"]
    assert idle > 3600
    assert everything_plan.resources["aws_lb_listener.privatelink[0]"]["tcp_idle_timeout_seconds"] >= idle


@pytest.mark.parametrize("plan", ["platform_plan", "everything_plan"])
def test_chart_registers_the_pods_and_lets_only_the_load_balancer_in(plan: str, request: pytest.FixtureRequest) -> None:
    values = request.getfixturevalue(plan).outputs["helm_values"]["comfyui"]
    objects = render("comfyui", values=values)
    [binding] = objects.of_kind("TargetGroupBinding")
    assert binding["spec"]["targetGroupARN"] == values["loadBalancer"]["targetGroupArn"]
    [policy] = objects.of_kind("NetworkPolicy")
    [rule] = policy["spec"]["ingress"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["from"]] == values["networkPolicy"]["loadBalancerCidrs"]


def test_everything_in_front_of_cloudfront_is_in_its_region(everything_plan: Plan) -> None:
    [log_group] = everything_plan.of_type("aws_cloudwatch_log_group").keys() & {"aws_cloudwatch_log_group.waf[0]"}
    assert everything_plan.resources[log_group]["name"].startswith("aws-waf-logs-")
    names = {s["name"] for s in everything_plan.of_type("aws_wafv2_ip_set").values()}
    [acl] = everything_plan.of_type("aws_wafv2_web_acl").values()
    assert all("ap-southeast-1" in name for name in (*names, acl["name"]))
    assert acl["scope"] == "CLOUDFRONT"


def test_no_secret_is_a_variable_or_an_output() -> None:
    for name in ("variables.tf", "outputs.tf"):
        text = (REPO_ROOT / "infra" / "terraform" / "platform" / name).read_text()
        assert "client_secret " not in text
        assert "secret_string" not in text
