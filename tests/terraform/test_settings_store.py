"""Settings are stored with the deployment: two checkouts, one bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.terraform.settings_store import SettingsStore
from comfyeks.terraform.variables import AccessFlags

OURS, THEIRS = "platform: {vpc_cidr: 10.1.0.0/16}\n", "platform: {vpc_cidr: 10.2.0.0/16}\n"
RANGES = AccessFlags(api_allowed_cidrs=("198.51.100.7/32",), cluster_admin_arns=("arn:aws:iam::111122223333:role/a",))

Checkout = Callable[[str], Deployment]


@pytest.fixture
def checkout(
    state_bucket_there: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Deployment]:
    """Switch to a checkout: from now on generated files and settings are below its folder."""

    def go(name: str) -> Deployment:
        monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path / name)
        return state_bucket_there

    return go


def edit(deployment: Deployment, text: str) -> Path:
    path = deployment.settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def apply(deployment: Deployment, given: AccessFlags | None = None, *, overwrite: bool = False) -> AccessFlags:
    """What an apply does with settings; the flags in force."""
    store = SettingsStore(deployment)
    in_force = (given or AccessFlags()).over(store.fetch(overwrite=overwrite))
    store.store(in_force)
    return in_force


def test_clone_without_a_file_gets_the_stored_one(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    apply(checkout("bob"))
    assert checkout("bob").settings_file.read_text() == OURS


def test_clone_with_another_file_is_rejected_with_both_remedies_and_changes_nothing(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    path = edit(checkout("bob"), THEIRS)
    with pytest.raises(UserError, match=r"^\S+ differs .*remove yours .*--overwrite-settings") as refused:
        apply(checkout("bob"))
    assert "\n" not in str(refused.value)
    assert "settings/settings.yaml" in str(refused.value)
    assert path.read_text() == THEIRS


def test_removing_the_file_takes_the_stored_one(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    path = edit(checkout("bob"), THEIRS)
    path.unlink()
    apply(checkout("bob"))
    assert path.read_text() == OURS


def test_overwriting_keeps_mine_and_the_other_clone_gets_an_error(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    edit(checkout("bob"), THEIRS)
    apply(checkout("bob"), overwrite=True)
    with pytest.raises(UserError, match="differs"):
        apply(checkout("alice"))


def test_edit_on_top_of_what_this_clone_has_seen_is_taken(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    apply(checkout("bob"))
    edit(checkout("bob"), THEIRS)
    apply(checkout("bob"))
    apply(checkout("carol"))
    assert checkout("carol").settings_file.read_text() == THEIRS


def test_file_of_another_account_does_not_count_as_seen(checkout: Checkout) -> None:
    edit(checkout("alice"), OURS)
    apply(checkout("alice"))
    here = checkout("alice")
    elsewhere = Deployment(project=None, region=here.region, account="444455556666")
    s3 = boto3.client("s3", region_name=here.region)
    s3.create_bucket(
        Bucket=elsewhere.bucket("artifacts"), CreateBucketConfiguration={"LocationConstraint": here.region}
    )
    s3.put_object(Bucket=elsewhere.bucket("artifacts"), Key="settings/settings.yaml", Body=OURS.encode())
    edit(elsewhere, THEIRS)
    with pytest.raises(UserError, match="differs"):
        SettingsStore(elsewhere).fetch(overwrite=False)


def test_flags_are_stored_for_every_clone_until_given_again(checkout: Checkout) -> None:
    apply(checkout("alice"), RANGES)
    assert apply(checkout("bob")) == RANGES
    new = AccessFlags(api_allowed_cidrs=("203.0.113.0/24",))
    apply(checkout("bob"), new)
    assert apply(checkout("alice")) == new.over(RANGES)


def test_flag_of_a_newer_version_is_ignored(checkout: Checkout) -> None:
    assert AccessFlags.from_json({"api_public_access": False, "unheard_of": 1}) == AccessFlags(api_public_access=False)


def test_same_settings_create_no_new_object_version(checkout: Checkout) -> None:
    here = checkout("alice")
    s3 = boto3.client("s3", region_name=here.region)
    s3.put_bucket_versioning(Bucket=here.bucket("artifacts"), VersioningConfiguration={"Status": "Enabled"})
    edit(here, OURS)
    apply(here, RANGES)
    apply(here)
    assert len(s3.list_object_versions(Bucket=here.bucket("artifacts"))["Versions"]) == 2


@pytest.mark.usefixtures("aws")
def test_deployment_that_does_not_exist_has_no_stored_settings_and_gets_no_folder(deployment: Deployment) -> None:
    assert SettingsStore(deployment).fetch(overwrite=False) == AccessFlags()
    assert not deployment.dir.exists()
