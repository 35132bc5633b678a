"""What no apply may delete or replace in passing: network, cluster, buckets, users. What is in them goes with them."""

from __future__ import annotations

from typing import Any

from comfyeks.errors import UserError

Plan = dict[str, Any]  # `terraform show -json` of a plan: developer.hashicorp.com/terraform/internals/json-format

PROTECTED = ("aws_cognito_user_pool", "aws_eks_cluster", "aws_s3_bucket", "aws_vpc")


def refuse(root: str, plan: Plan) -> None:
    """Raise UserError naming what the plan of a root would delete or replace, and which settings ask for it."""
    if lost := protected(plan):
        raise UserError(
            f"this would delete or replace {', '.join(lost)}, and all that is in it: nothing of the {root} root was "
            "changed. Bring the old settings back, or give --allow-replacement to do it all the same"
        )


def protected(plan: Plan) -> list[str]:
    """Addresses, with the reason, of what a plan would delete or replace and nobody can bring back."""
    return [
        f"{change['address']}{_reason(change['change'].get('replace_paths', []))}"
        for change in plan.get("resource_changes", [])
        if change["type"] in PROTECTED and "delete" in change["change"]["actions"]
    ]


def _reason(paths: list[list[str | int]]) -> str:
    names = sorted({str(path[0]) for path in paths if path})
    return f" (new {', '.join(names)})" if names else ""
