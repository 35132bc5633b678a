"""What `comfyeks up` refuses before it changes anything, each in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from comfyeks.cli import app
from comfyeks.errors import ComfyeksError
from comfyeks.up import cli, engine
from tests.support.mocked_aws import mocked_aws

ACCOUNT, REGION = "111122223333", "us-west-2"
CIDR = "198.51.100.7/32"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state folder of a checkout, credentials of ACCOUNT, no kubeconfig; a step that runs fails the test."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path)
    monkeypatch.setattr(engine, "STATE", tmp_path)
    monkeypatch.setattr(engine, "run", lambda *_: pytest.fail("a step ran"))
    with mocked_aws(ACCOUNT, REGION):
        yield tmp_path


def refused(*arguments: str) -> str:
    """Return the one line that `comfyeks up` ends with."""
    answer = CliRunner().invoke(app, ["up", "--api-allowed-cidrs", CIDR, *arguments])
    assert isinstance(answer.exception, ComfyeksError), answer.output
    assert "\n" not in str(answer.exception)
    return str(answer.exception)


def settings(checkout: Path, name: str = "comfyui", **content: object) -> None:
    (checkout / name).mkdir(exist_ok=True)
    (checkout / name / "settings.yaml").write_text(yaml.safe_dump(content))


def context(checkout: Path, cluster: str) -> None:
    entry = {"name": "now", "context": {"cluster": cluster, "user": "me"}}
    (checkout / "kubeconfig").write_text(yaml.safe_dump({"current-context": "now", "contexts": [entry]}))


def test_credentials_of_another_account(checkout: Path) -> None:
    settings(checkout, account="444455556666")
    assert "is for account 444455556666" in refused()


def test_another_region_than_the_deployments(checkout: Path) -> None:
    settings(checkout, account=ACCOUNT, region=REGION)
    assert "is for region us-west-2" in refused("--region", "eu-central-1")


def test_the_region_of_the_settings_file_is_enough(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    settings(checkout, account="444455556666", region=REGION)
    assert "is for account" in refused()  # and not: no region


def test_expired_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    class Expired:
        def get_caller_identity(self) -> None:
            raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "is expired"}}, "GetCallerIdentity")

    real = boto3.Session.client
    monkeypatch.setattr(boto3.Session, "client", lambda self, name, **rest: Expired() if name == "sts"
                        else real(self, name, **rest))  # fmt: skip
    assert "Check the credentials" in refused()


def test_a_region_that_does_not_exist() -> None:
    assert "there is no region 'us-west-9' with EKS: did you mean us-west" in refused("--region", "us-west-9")


def test_a_name_that_is_too_long() -> None:
    assert "1 to 16 of a-z" in refused("--project", "a-name-that-is-too-long")


def test_a_context_that_leads_to_another_cluster(checkout: Path) -> None:
    context(checkout, "payroll")
    eks = boto3.client("eks", region_name=REGION)
    eks.create_cluster(name="comfyui", roleArn=f"arn:aws:iam::{ACCOUNT}:role/x", resourcesVpcConfig={})
    assert "kubectl context 'now' points to cluster 'payroll', not to comfyui" in refused()


def test_a_chosen_context_that_leads_to_another_cluster_even_before_ours_exists(checkout: Path) -> None:
    context(checkout, "payroll")
    assert "points to cluster 'payroll'" in refused("--context", "now")


def test_a_current_context_elsewhere_is_allowed_before_there_is_a_cluster(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(checkout, "payroll")
    monkeypatch.setattr(cli.engine, "run", lambda *_: [])
    answer = CliRunner().invoke(app, ["up", "--api-allowed-cidrs", CIDR])
    assert answer.exit_code == 0, answer.output


def test_no_range_that_may_reach_the_cluster() -> None:
    answer = CliRunner().invoke(app, ["up"])
    assert "no access to the Kubernetes API is configured" in str(answer.exception)


def test_two_projects_and_none_named(checkout: Path) -> None:
    settings(checkout, "comfyui-film", account=ACCOUNT)
    assert "settings of comfyui-film, none of comfyui: give --project film" in refused()


def test_two_projects_at_once_in_one_checkout(checkout: Path) -> None:
    with engine.alone("comfyeks up --project film"):
        assert "`comfyeks up --project film` is running in this checkout" in refused("--project", "ads")


def test_down_asks_for_the_name(checkout: Path) -> None:
    answer = CliRunner().invoke(app, ["down", "--confirm", "comfy"])
    assert "the name given is 'comfy', not 'comfyui': nothing was deleted" in str(answer.exception)


def test_down_with_data_asks_for_the_bucket(checkout: Path) -> None:
    answer = CliRunner().invoke(app, ["down", "--delete-data", "--confirm", "comfyui"])
    assert f"not 'comfyui-models-{ACCOUNT}-{REGION}': nothing was deleted" in str(answer.exception)


def test_plan_changes_nothing_and_names_steps_resources_and_cost(checkout: Path) -> None:
    answer = CliRunner().invoke(app, ["up", "--api-allowed-cidrs", CIDR, "--plan"])
    assert answer.exit_code == 0, answer.output
    printed = " ".join(answer.output.split())
    for word in ("preflight", "add-ons", "blocks", "USD a month", "1.212 USD for each hour"):
        assert word in printed
    assert boto3.client("s3").list_buckets()["Buckets"] == []
