"""Flags and settings, and how they reach Terraform."""

from __future__ import annotations

import json

import pytest

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.terraform import node_files
from comfyeks.terraform.variables import AccessFlags, arguments, listed, to_destroy


def own(deployment: Deployment, text: str) -> None:
    """Write the operator's settings file."""
    path = deployment.settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_allowed_range_is_refused_with_both_remedies(deployment: Deployment) -> None:
    with pytest.raises(UserError, match=r"--api-allowed-cidrs.*--private-api"):
        AccessFlags().check(deployment)


def test_private_api_needs_no_ranges(deployment: Deployment) -> None:
    AccessFlags(api_public_access=False).check(deployment)


def test_ranges_may_be_in_the_settings_file(deployment: Deployment) -> None:
    own(deployment, "platform: {api_allowed_cidrs: [198.51.100.7/32]}")
    AccessFlags().check(deployment)


@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/7", "198.51.100.7", "198.51.100.7/24", "::/0", "me"]
)
def test_range_that_is_invalid_or_too_wide_is_refused_by_name(deployment: Deployment, cidr: str) -> None:
    with pytest.raises(UserError, match=f"'{cidr}'"):
        AccessFlags(api_allowed_cidrs=("198.51.100.7/32", cidr)).check(deployment)


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "198.51.100.0/24", "198.51.100.7/32"])
def test_range_of_an_allowed_size_is_accepted(deployment: Deployment, cidr: str) -> None:
    AccessFlags(api_allowed_cidrs=(cidr,)).check(deployment)


def test_admin_that_is_a_session_is_refused(deployment: Deployment) -> None:
    flags = AccessFlags(api_public_access=False, cluster_admin_arns=("arn:aws:sts::111122223333:assumed-role/a/b",))
    with pytest.raises(UserError, match="assumed-role/a/b"):
        flags.check(deployment)


def test_destroying_needs_no_ranges(deployment: Deployment) -> None:
    flags = to_destroy(deployment, AccessFlags())
    flags.check(deployment)
    assert flags.api_public_access is False


def test_destroying_keeps_the_ranges_of_an_earlier_apply(deployment: Deployment) -> None:
    """Changing access to the API takes minutes."""
    assert to_destroy(deployment, AccessFlags(api_allowed_cidrs=("198.51.100.7/32",))) == AccessFlags()


@pytest.mark.parametrize(
    ("text", "values"),
    [(None, None), ("", None), (" , ", None), ("a", ("a",)), ("a,b", ("a", "b")), ("a, b  c", ("a", "b", "c"))],
)
def test_lists_are_separated_by_commas_or_spaces(text: str | None, values: tuple[str, ...] | None) -> None:
    assert listed(text) == values


def generated(deployment: Deployment, root: str) -> dict[str, object]:
    values: dict[str, object] = json.loads((deployment.dir / "terraform" / f"{root}.tfvars.json").read_text())
    return values


def test_unset_flags_are_left_to_terraforms_defaults(deployment: Deployment) -> None:
    arguments(deployment, "platform", AccessFlags())
    values = {"project": None, "region": "us-west-2", "node_files": node_files.describe()}
    assert generated(deployment, "platform") == values


def test_data_root_gets_only_the_variables_it_knows(deployment: Deployment) -> None:
    arguments(deployment, "data", AccessFlags(api_allowed_cidrs=("198.51.100.7/32",)))
    assert generated(deployment, "data") == {"project": None, "region": "us-west-2"}


def test_flags_win_over_the_settings_file(deployment: Deployment) -> None:
    own(deployment, "platform: {api_public_access: true, system_node_count: 3}")
    arguments(deployment, "platform", AccessFlags(api_public_access=False))
    assert generated(deployment, "platform")["api_public_access"] is False
    assert generated(deployment, "platform")["system_node_count"] == 3


def test_settings_file_wins_over_flags_of_an_earlier_apply(deployment: Deployment) -> None:
    own(deployment, "platform: {api_allowed_cidrs: [198.51.100.7/32]}")
    earlier = AccessFlags(api_allowed_cidrs=("203.0.113.0/24",), api_public_access=True)
    arguments(deployment, "platform", AccessFlags(), earlier)
    assert generated(deployment, "platform")["api_allowed_cidrs"] == ["198.51.100.7/32"]
    assert generated(deployment, "platform")["api_public_access"] is True


def test_settings_file_cannot_rename_the_deployment(deployment: Deployment) -> None:
    own(deployment, "platform: {project: other, region: eu-central-1}")
    arguments(deployment, "platform", AccessFlags())
    assert generated(deployment, "platform")["project"] is None
    assert generated(deployment, "platform")["region"] == "us-west-2"


def test_each_root_gets_its_own_section(deployment: Deployment) -> None:
    own(deployment, "platform: {system_node_count: 3}\ndata: {images_kept: 5}")
    arguments(deployment, "data", AccessFlags())
    assert generated(deployment, "data") == {"project": None, "region": "us-west-2", "images_kept": 5}
