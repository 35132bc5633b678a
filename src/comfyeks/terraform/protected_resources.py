"""Resources that an apply may not delete or replace unless asked to: VPC, cluster, buckets, user pool.

Everything in them would be lost with them.
"""

from __future__ import annotations

from typing import Any

from comfyeks.errors import UserError

Plan = dict[str, Any]  # `terraform show -json` of a plan: developer.hashicorp.com/terraform/internals/json-format

PROTECTED = ("aws_cognito_user_pool", "aws_eks_cluster", "aws_s3_bucket", "aws_vpc")


def refuse(root: str, plan: Plan) -> None:
    """Raise UserError naming the protected resources that a root's plan would delete or replace, and what forces it."""
    if lost := protected(plan):
        raise UserError(
            f"this would delete or replace {', '.join(lost)}, and the data or resources in it; nothing in the {root} "
            "root was changed. Restore the old settings, or pass --allow-replacement to do it anyway"
        )


def protected(plan: Plan) -> list[str]:
    """Addresses of the protected resources that a plan would delete or replace, each with the reason."""
    return [
        f"{change['address']}{_reason(change['change'].get('replace_paths', []))}"
        for change in plan.get("resource_changes", [])
        if change["type"] in PROTECTED and "delete" in change["change"]["actions"]
    ]


def _reason(paths: list[list[str | int]]) -> str:
    names = sorted({str(path[0]) for path in paths if path})
    return f" (new {', '.join(names)})" if names else ""
