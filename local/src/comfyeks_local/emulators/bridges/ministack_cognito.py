"""MiniStack's Cognito."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "cognito-mfa-off",
    "ministack",
    aws="MFA that is turned off has no second factor configured any more.",
    gap="Keeps what was configured before.",
    needed_by="Terraform (cognito_mfa turned off is a difference in every plan)",
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
