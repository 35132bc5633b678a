"""Bridges for Cognito, which MiniStack serves."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "cognito-mfa-off",
    "ministack",
    aws="Turning MFA off removes the configured second factors.",
    gap="Keeps them.",
    needed_by="Terraform (after cognito_mfa is turned off, every plan shows a difference)",
)
def cognito_mfa_off() -> None:
    from ministack.services import cognito

    set_here = cognito._set_user_pool_mfa_config

    def set_user_pool_mfa_config(data: dict[str, Any]) -> Any:
        pool, _ = cognito._resolve_pool(data.get("UserPoolId"))
        if pool is not None and data.get("MfaConfiguration") == "OFF":
            for factor in ("SmsMfaConfiguration", "SoftwareTokenMfaConfiguration", "EmailMfaConfiguration"):
                pool.pop(factor, None)
        return set_here(data)

    cognito._set_user_pool_mfa_config = set_user_pool_mfa_config
