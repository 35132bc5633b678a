"""Bridges for CloudFront, which MiniStack serves; load balancers are served by moto."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "vpc-origin-load-balancer",
    "ministack",
    aws="A VPC origin names a load balancer that exists.",
    gap="Looks for it in MiniStack, which has none: moto serves Elastic Load Balancing.",
    needed_by="Terraform (CloudFront in front of the internal load balancer)",
)
def vpc_origin_load_balancer() -> None:
    import boto3
    from ministack.services import cloudfront

    missing_here = cloudfront._vpc_origin_endpoint_missing

    def missing(spec: Any, arn: str) -> Any:
        answer = missing_here(spec, arn)
        if answer is None or spec.service != "elasticloadbalancing":
            return answer
        elb = boto3.client("elbv2", region_name=spec.region)  # the endpoint comes from this process's environment
        try:
            elb.describe_load_balancers(LoadBalancerArns=[arn])
        except elb.exceptions.LoadBalancerNotFoundException:
            return answer
        return None

    cloudfront._vpc_origin_endpoint_missing = missing
