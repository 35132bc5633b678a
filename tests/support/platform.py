"""The Terraform roots of a deployment on a local AWS: run like an operator runs them, and counted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from comfyeks.deployment import Deployment
from comfyeks.paths import STATE
from comfyeks_local.emulators.local_aws import ACCOUNT, REGION, LocalAws
from tests.support import exposure
from tests.support.clones import make_clone

NOT_OURS = 1  # the default VPC of the account


def everything(aws: LocalAws) -> dict[str, Any]:
    """Settings with every option of both roots changed; creates the certificates that they name."""
    return {
        "platform": {
            "cluster_admin_arns": [f"arn:aws:iam::{ACCOUNT}:role/admin"],
            "nat": "per_az",
            "interface_endpoints": True,
            "image_mirror": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mirror",
            "mount_outputs": True,
            "efs": True,
            "queue_kms_key": True,
            "alarm_email": "ops@example.com",
            "monthly_budget_usd": 500,
            **exposure.everything(aws),
        },
        "data": {"inputs_expiry_days": 30, "outputs_expiry_days": 90, "access_logs": True},
    }


class Platform:
    """`comfyeks infra` of a clone, on a local AWS of its own."""

    def __init__(self, aws: LocalAws, clone: Path, project: str) -> None:
        self.aws = aws
        self.names = Deployment(project=project, region=REGION, account=ACCOUNT)
        self.clone = make_clone(clone, {**aws.environment(), "COMFYEKS_PROJECT": project})
        self.dir = self.clone.root / STATE.name / self.names.name

    @property
    def settings(self) -> Path:
        return self.dir / "settings.yaml"

    def decide(self, settings: dict[str, Any]) -> None:
        """Write the operator's settings file."""
        self.dir.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(yaml.safe_dump(settings))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.clone.comfyeks("infra", *arguments, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        argv = self.clone.argv("infra", *arguments)
        return subprocess.Popen(argv, cwd=self.clone.root, env=self.clone.env, start_new_session=True, **quiet)

    def inventory(self) -> dict[str, int]:
        """Number of resources that the platform root creates, by kind."""
        ec2, sqs, eks = (self.aws.client(service) for service in ("ec2", "sqs", "eks"))
        iam, ssm, logs = (self.aws.client(service) for service in ("iam", "ssm", "logs"))
        own_documents = [{"Key": "Owner", "Values": ["Self"]}]
        return {
            "clusters": len(eks.list_clusters()["clusters"]),
            "vpcs": len(ec2.describe_vpcs()["Vpcs"]) - NOT_OURS,
            "addresses": len(ec2.describe_addresses()["Addresses"]),
            "gateways": len([g for g in ec2.describe_nat_gateways()["NatGateways"] if g["State"] != "deleted"]),
            "queues": len(sqs.list_queues().get("QueueUrls", [])),
            "roles": len([r for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("comfyui")]),
            "documents": len(ssm.list_documents(Filters=own_documents)["DocumentIdentifiers"]),
            "logs": len(logs.describe_log_groups()["logGroups"]),
            "endpoints": len([e for e in ec2.describe_vpc_endpoints()["VpcEndpoints"] if e["State"] != "deleted"]),
            "file systems": len(self.aws.client("efs").describe_file_systems()["FileSystems"]),
            "projects": len(self.aws.client("codebuild").list_projects()["projects"]),
            "topics": len(self.aws.client("sns").list_topics()["Topics"]),
            "alarms": len(self.aws.client("cloudwatch").describe_alarms()["MetricAlarms"]),
            "rules": len(self.aws.client("events").list_rules()["Rules"]),
            "templates": len(ec2.describe_launch_templates()["LaunchTemplates"]),
        } | exposure.inventory(self.aws)

    def left(self) -> dict[str, int]:
        """The remaining resources, by kind; empty if everything was deleted."""
        return {name: count for name, count in self.inventory().items() if count}

    def buckets(self) -> set[str]:
        return {bucket["Name"] for bucket in self.aws.client("s3").list_buckets()["Buckets"]}
