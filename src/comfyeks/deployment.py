"""One deployment: its names in AWS and its files here. No other module builds a name (tests/repo/test_names.py)."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks import settings
from comfyeks.console import note
from comfyeks.errors import OperationError, UserError
from comfyeks.paths import STATE
from comfyeks.settings import DeploymentSettings

CHALICE_APP, CHALICE_HANDLER = "comfyui-models", "sync"
ADDON_VALUES = "addons"  # folder
BUCKET_KINDS = ("models", "inputs", "outputs", "artifacts")
PROJECT_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?")


@dataclass(frozen=True)
class Deployment:
    """One ComfyUI platform in one account and region.

    `project` is None for the only (or first) deployment of an account and region; otherwise at most 16 characters,
    which keeps the longest derived name (an S3 bucket's 63 characters) legal in every region.
    """

    project: str | None
    region: str
    account: str

    @property
    def name(self) -> str:
        """Cluster name and prefix of every other name."""
        return f"comfyui-{self.project}" if self.project else "comfyui"

    @property
    def stage(self) -> str:
        """Chalice stage."""
        return self.project or "default"

    @property
    def dir(self) -> Path:
        """Generated files of this deployment in this checkout."""
        return STATE / self.name

    @property
    def settings_file(self) -> Path:
        """What the operator decided (comfyeks.settings)."""
        return self.dir / settings.FILE

    def settings(self) -> DeploymentSettings:
        """The settings in the settings file, or the defaults. Raises UserError naming an invalid setting."""
        return settings.load(self.settings_file)

    def chart_values(self, chart: str) -> Path:
        """Values of one of our charts, generated from Terraform's outputs."""
        return self.dir / f"{chart}.values.yaml"

    @property
    def addon_values_folder(self) -> Path:
        return self.dir / ADDON_VALUES

    def addon_values(self, release: str) -> Path:
        """Values of an add-on's Helm release, generated from Terraform's outputs."""
        return self.addon_values_folder / f"{release}.values.yaml"

    def bucket(self, kind: str) -> str:
        if kind not in BUCKET_KINDS:
            raise ValueError(f"no bucket kind {kind!r}; there are {', '.join(BUCKET_KINDS)}")
        return f"{self.name}-{kind}-{self.account}-{self.region}"

    @property
    def image_repository(self) -> str:
        """ECR repository of the ComfyUI image."""
        return f"{self.name}-images"

    @property
    def model_events_queue(self) -> str:
        """SQS queue of the models bucket's notifications."""
        return f"{self.name}-model-events"

    @property
    def dead_letter_queue(self) -> str:
        """SQS queue of model events that could not be handled."""
        return f"{self.model_events_queue}-dlq"

    @property
    def interruption_queue(self) -> str:
        """SQS queue on which Karpenter receives spot notices and health events."""
        return f"{self.name}-interruption"

    @property
    def model_tokens_secret(self) -> str:
        """Secrets Manager secret with the tokens of model publishers."""
        return f"{self.name}-model-tokens"

    @property
    def models_file_system(self) -> str:
        """Creation token of the EFS file system for models."""
        return f"{self.name}-models"

    @property
    def key_aliases(self) -> frozenset[str]:
        """Aliases of the KMS keys, without those of the data root."""
        return frozenset({f"alias/{self.name}-secrets", f"alias/{self.name}-messages"})

    @property
    def sync_function(self) -> str:
        """Lambda function that makes nodes sync when a model event arrives; Chalice's <app>-<stage>-<handler>."""
        return f"{CHALICE_APP}-{self.stage}-{CHALICE_HANDLER}"

    @property
    def log_group_prefixes(self) -> tuple[str, str]:
        """Beginnings of the names of all CloudWatch log groups."""
        return f"/aws/eks/{self.name}/", f"/aws/lambda/{CHALICE_APP}-{self.stage}-"

    @property
    def sync_document(self) -> str:
        """SSM document that makes nodes sync their models."""
        return f"{self.name}-sync-models"

    @property
    def sync_tag(self) -> tuple[str, str]:
        """EC2 tag (key, value) of the nodes that take part in model sync."""
        return "ComfyUIModelSync", self.name


def project_name(text: str | None) -> str | None:
    """The project name from user input: lower-cased with a notice, None for an empty one.

    Raises UserError for a name that cannot be part of every AWS name built from it.
    """
    if not text:
        return None
    name = text.lower()
    if name != text:
        note(f"project {text!r} is used as {name!r}: AWS names must be lower case")
    if name == "default" or not PROJECT_PATTERN.fullmatch(name):
        raise UserError(
            f"project {text!r} cannot be used: 1 to 16 of a-z, 0-9 and '-', no '-' at either end, not 'default'. "
            "Set another one with --project or COMFYEKS_PROJECT, or leave it out."
        )
    return name


def current(project: str | None = None, region: str | None = None) -> Deployment:
    """The deployment that flags, environment (COMFYEKS_PROJECT, AWS_REGION, credentials) and settings file select.

    Raises UserError when the region is unknown, or the settings file is for another account or region; OperationError
    when AWS does not report the account.
    """
    name = project_name(project if project is not None else os.environ.get("COMFYEKS_PROJECT"))
    file = Deployment(name, "", "").settings_file
    decided = settings.load(file)
    session = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or decided.region)
    if not session.region_name:
        raise UserError("no AWS region: set AWS_REGION, or pass --region (for example us-west-2)")
    _check_region(session)
    try:
        account = session.client("sts").get_caller_identity()["Account"]
    except (BotoCoreError, ClientError) as error:
        raise OperationError(
            f"cannot read the AWS account: {error}. Check the credentials with `aws sts get-caller-identity`."
        ) from error
    deployment = Deployment(project=name, region=session.region_name, account=account)
    decided.check(deployment.name, deployment.account, deployment.region, file)
    return deployment


def _check_region(session: boto3.Session) -> None:
    """Raise UserError for an unknown region, which would otherwise only fail as an unknown host, minutes later."""
    known = {name for partition in session.get_available_partitions()
             for name in session.get_available_regions("eks", partition_name=partition)}  # fmt: skip
    if session.region_name not in known:
        near = difflib.get_close_matches(session.region_name, sorted(known), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as us-west-2"
        raise UserError(f"there is no region {session.region_name!r} with EKS: {hint} (--region, AWS_REGION)")
