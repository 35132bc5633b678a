"""The settings file of a deployment: what it accepts and what it rejects."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.settings import DeploymentSettings, dump, load

HERE = Deployment(project=None, region="us-west-2", account="111122223333")


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.yaml") == DeploymentSettings()


def test_settings_that_were_written_are_read_again(tmp_path: Path) -> None:
    settings = DeploymentSettings(
        account="111122223333", models=("sdxl",), platform={"vpc_cidr": "10.1.0.0/16"}, karpenter_gpu={"tags": {}}
    )
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(dump(settings)))
    assert load(file) == settings
    assert "karpenter-gpu" in file.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: '1'", "no setting 'acount'"),
        ("account: 111122223333", "12 digits in quotes"),
        ("keda: maybe", "keda must be true or false"),
        ("models: sdxl", "models must be a list"),
        ("platform: [a]", "platform must be NAME: VALUE"),
        ("image-tag: 20261121", "in quotes"),
        ("- a", "is not a mapping: expected settings such as `region: us-west-2`"),
        ("a: {", "is not YAML"),
    ],
)
def test_an_invalid_setting_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        load(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DeploymentSettings(account="444455556666"), "is for account 444455556666"),
        (DeploymentSettings(region="eu-central-1"), "is for region eu-central-1"),
    ],
)
def test_settings_of_another_account_or_region_are_rejected(settings: DeploymentSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings.check("comfyui", HERE.account, HERE.region, Path("settings.yaml"))


def test_settings_of_this_account_and_region_are_accepted() -> None:
    DeploymentSettings(account=HERE.account, region=HERE.region).check(
        "comfyui", HERE.account, HERE.region, Path("settings.yaml")
    )
